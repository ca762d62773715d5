"""Code bases whose checkpoints load: how they are recognised, and how their networks compute."""

from typing import NamedTuple

from conversion.rules import PLAIN, detectron2_trunk_rules, fcn_rules, pair, stem_rules, trunk_rules


class Family(NamedTuple):
    """Checkpoints of one code base.

    mark        pattern with which some of their tensors' names begin, and no other family's
    rules       (pattern, replacement): the first whose pattern begins a name turns it into ours; a
                replacement is text, or a function of the match
    released    {setting: value} that no tensor tells, as the makers released their networks
    head_args   {head: HEAD_ARGS} in the same sense
    by_classes  {number of classes: settings in which that release differs}
    unless      a name that matches this pattern rules the family out; None = nothing does
    """

    mark: str
    rules: list = []
    released: dict = {}
    head_args: dict = {}
    by_classes: dict = {}
    unless: str = None


OWN = 'EMANet or this project'
MXNET = 'MXNetSeg'
MMSEG = 'mmsegmentation'
TORCHVISION = 'torchvision trunk'
GLUON = r'.*\.beta$'  # a name of batch norms that no file of torch has
OFFICIAL = PLAIN | {
    'MULTI_GRID': (1, 2, 4),
    'STAGE_NUM': 3,
    'EM_NORM': 'l2',
    'EM_GRAD': False,
}
SEMSEG_PSA = {'type': 'both', 'compact': False, 'shrink': 2, 'softmax': True}
FAMILIES = {
    OWN: Family(r'extractor\.', [], OFFICIAL),
    'ResNet trunk': Family(r'(conv1|bn1)\.', trunk_rules(''), unless=rf'conv3\.|{GLUON}'),
    TORCHVISION: Family(r'features\.|encoder\.layers\.', unless=GLUON),  # see trunks/torchvision.py
    MXNET: Family(GLUON, released=PLAIN),  # names: conversion/gluon.py
    MMSEG: Family(  # names of heads: conversion/mmseg.py
        r'decode_head\.',
        released=PLAIN | {'UPSAMPLE': 'centres', 'STAGE_NUM': 3, 'EM_NORM': 'l2', 'EM_GRAD': False},
        head_args={
            'psp': {'corners': False},
            'psa': SEMSEG_PSA | {'corners': False},
            'deeplabv3plus': {'corners': False},
            'semanticfpn': {'corners': False},
        },
    ),
    'mmsegmentation ResNet trunk': Family(
        r'stem\.\d\.', [*stem_rules(''), *trunk_rules('')], unless=GLUON
    ),
    'semseg ResNet trunk': Family(
        r'conv3\.',
        [  # resnet50_v2.pth: the deep stem under plain names
            (r'conv1\.', 'extractor.0.0.'),
            (r'bn1\.', 'extractor.0.1.'),
            (r'conv2\.', 'extractor.0.3.'),
            (r'bn2\.', 'extractor.0.4.'),
            (r'conv3\.', 'extractor.0.6.'),
            (r'bn3\.', 'extractor.1.'),
            *trunk_rules(''),
        ],
        unless=GLUON,
    ),
    'detectron2 EMANet': Family(
        r'sem_seg_head\.(reduced_conv|emau|predictor\.\d)|emau\.conv2\.norm',
        [
            *trunk_rules(r'backbone\.'),
            (r'sem_seg_head\.reduced_conv\.norm\.', 'fc0.bn.'),
            (r'sem_seg_head\.reduced_conv\.', 'fc0.conv.'),
            (r'(sem_seg_head\.)?emau\.conv2\.norm\.', 'emau.conv2.1.'),
            (r'(sem_seg_head\.)?emau\.conv2\.', 'emau.conv2.0.'),
            (r'(sem_seg_head\.)?emau\.', 'emau.'),
            (r'sem_seg_head\.predictor\.0\.norm\.', 'fc1.0.bn.'),
            (r'sem_seg_head\.predictor\.0\.', 'fc1.0.conv.'),
            (r'sem_seg_head\.predictor\.2\.', 'fc2.'),
        ],
        OFFICIAL | {'FIRST_BLOCK': 'layer4', 'CHANNELS': 'bgr', 'EM_GRAD': True},
        by_classes={19: {'STRIDE': 16}},  # Cityscapes
    ),
    'semseg': Family(
        r'layer0\.|(ppm|psa|cls)\.',
        [
            (r'layer0\.7\.', 'extractor.1.'),
            (r'layer0\.', 'extractor.0.'),
            *trunk_rules(''),
            (r'ppm\.features\.(\d+)\.1\.', r'head.ppm.branches.\1.1.conv.'),
            (r'ppm\.features\.(\d+)\.2\.', r'head.ppm.branches.\1.1.bn.'),
            *pair(r'psa\.reduce', 'head.directions.0.reduce'),
            *pair(r'psa\.reduce_p', 'head.directions.1.reduce'),
            *pair(r'psa\.attention', 'head.directions.0.attention.0'),
            *pair(r'psa\.attention_p', 'head.directions.1.attention.0'),
            (r'psa\.attention\.3\.', 'head.directions.0.attention.1.'),
            (r'psa\.attention_p\.3\.', 'head.directions.1.attention.1.'),
            *pair(r'psa\.proj', 'head.proj'),
            *fcn_rules('cls', 'head.out'),
            *fcn_rules('aux', 'aux'),
        ],
        PLAIN | {'FIRST_BLOCK': 'all'},
        {'psa': SEMSEG_PSA},
    ),
    'DANet': Family(
        r'head\.(sa|sc|conv5[ac])\.',
        [
            *trunk_rules(r'pretrained\.'),
            *pair(r'head\.conv5a', 'head.position.0'),
            *pair(r'head\.conv5c', 'head.channel.0'),
            *pair(r'head\.conv51', 'head.position.2'),
            *pair(r'head\.conv52', 'head.channel.2'),
            (r'head\.sa\.(query|key|value)_conv\.', r'head.position.1.\1.'),
            (r'head\.sa\.', 'head.position.1.'),
            (r'head\.sc\.', 'head.channel.1.'),
            (r'head\.conv6\.1\.', 'head.aux.0.1.'),
            (r'head\.conv7\.1\.', 'head.aux.1.1.'),
            (r'head\.conv8\.1\.', 'head.out.1.'),
        ],
        PLAIN | {'FIRST_BLOCK': 'layer4', 'MULTI_GRID': (1, 2, 4)},
    ),
    'detectron2 DANet': Family(
        r'backbone\.(stem\.conv1|res\d)\.|sem_seg_head\.res5_',
        [
            *detectron2_trunk_rules(),
            (r'sem_seg_head\.res5_pam\.0\.norm\.', 'head.position.0.bn.'),
            (r'sem_seg_head\.res5_pam\.0\.', 'head.position.0.conv.'),
            (r'sem_seg_head\.res5_cam\.0\.norm\.', 'head.channel.0.bn.'),
            (r'sem_seg_head\.res5_cam\.0\.', 'head.channel.0.conv.'),
            (r'sem_seg_head\.predictor\.', 'head.out.1.'),
        ],
        PLAIN
        | {
            'STEM': 'caffe',
            'FIRST_BLOCK': 'all',
            'UPSAMPLE': 'crop',
            'CHANNELS': 'bgr',
            'STD': (1 / 255, 1 / 255, 1 / 255),
        },
    ),
    'torchvision DeepLabv3': Family(
        r'classifier\.0\.(convs|project)\.',
        [
            *trunk_rules(r'backbone\.'),
            (r'classifier\.0\.convs\.4\.1\.', 'head.aspp.branches.4.conv.'),
            (r'classifier\.0\.convs\.4\.2\.', 'head.aspp.branches.4.bn.'),
            *pair(r'classifier\.0\.convs\.(\d)', r'head.aspp.branches.\1'),
            *pair(r'classifier\.0\.project', 'head.aspp.project'),
            (r'classifier\.1\.', 'head.out.0.conv.'),
            (r'classifier\.2\.', 'head.out.0.bn.'),
            (r'classifier\.4\.', 'head.out.2.'),
            *fcn_rules('aux_classifier', 'aux'),
        ],
        PLAIN | {'UPSAMPLE': 'centres'},
        {'deeplabv3': {'rates': (12, 24, 36)}},
    ),
    'torchvision FCN': Family(
        r'classifier\.0\.weight',
        [
            *trunk_rules(r'backbone\.'),
            *fcn_rules('classifier', 'head.out'),
            *fcn_rules('aux_classifier', 'aux'),
        ],
        PLAIN | {'UPSAMPLE': 'centres'},
        unless=r'features\.',  # a classifier of ImageNet begins like that, too
    ),
}
