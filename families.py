"""Checkpoints of other code bases: how to know them, what their tensors are called here, and how they compute."""

import re
from typing import NamedTuple

from settings import UserError


class Family(NamedTuple):
    """Checkpoints of one code base.

    mark         pattern that some of their tensors' names begin with, and no other family's
    unless       a name that matches this pattern rules the family out; None = nothing does
    rules        (pattern, replacement): the first whose pattern begins a name turns it into this project's
    conventions  what that code does and no shape tells: choices of {setting: value}, of which one must be in force
    """

    mark: str
    rules: list = []
    conventions: tuple = ()
    unless: str = None


def trunk_rules(prefix):
    """Of a trunk with torchvision's names, under a prefix."""
    layers = [(prefix + rf'layer{i}\.', f'extractor.{i + 3}.') for i in (1, 2, 3, 4)]
    return [(prefix + r'conv1\.', 'extractor.0.'), (prefix + r'bn1\.', 'extractor.1.'), *layers]


def pair(there, here):
    """Of a convolution and its batch norm, at 0 and 1 of a Sequential."""
    return [(there + r'\.0\.', here + '.conv.'), (there + r'\.1\.', here + '.bn.')]


def fcn_rules(there, here):
    """Of a 3x3 with batch norm, dropout and classifier in one Sequential."""
    return [*pair(there, here + '.0'), (there + r'\.4\.', here + '.2.')]


OWN = 'EMANet or this project'
OFFICIAL = dict(
    FIRST_BLOCK='half',
    MULTI_GRID=(1, 2, 4),
    STRIDE_IN_1X1=False,
    UPSAMPLE='corners',
    CHANNELS='rgb',
    MEAN=(0.485, 0.456, 0.406),
    STD=(0.229, 0.224, 0.225),
)
PLAIN = OFFICIAL | dict(MULTI_GRID=(1, 1, 1))
FAMILIES = {
    OWN: Family(r'extractor\.', [], (OFFICIAL,)),
    'ResNet trunk': Family(r'(conv1|bn1)\.', trunk_rules(''), unless=r'conv3\.'),
    'semseg ResNet trunk': Family(
        r'conv3\.',
        [  # resnet50_v2.pth and its like: the deep stem under plain names
            (r'conv1\.', 'extractor.0.0.'),
            (r'bn1\.', 'extractor.0.1.'),
            (r'conv2\.', 'extractor.0.3.'),
            (r'bn2\.', 'extractor.0.4.'),
            (r'conv3\.', 'extractor.0.6.'),
            (r'bn3\.', 'extractor.1.'),
            *trunk_rules(''),
        ],
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
        (OFFICIAL | dict(FIRST_BLOCK='layer4', CHANNELS='bgr', EM_GRAD=True),),
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
        (PLAIN | dict(FIRST_BLOCK='all'),),
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
        (OFFICIAL | dict(FIRST_BLOCK='layer4', DANET_D2=False), PLAIN | dict(DANET_D2=False)),
    ),  # as released; without multi-grid
    'detectron2 DANet': Family(
        r'backbone\.(stem|res\d)\.|sem_seg_head\.res5_',
        [
            (r'backbone\.stem\.conv1\.norm\.', 'extractor.1.'),
            (r'backbone\.stem\.conv1\.', 'extractor.0.'),
            *(
                (rf'backbone\.res{i}\.(\d+)\.{a}\.', rf'extractor.{i + 2}.\1.{b}.')
                for i in (2, 3, 4, 5)
                for a, b in (
                    (r'conv(\d)\.norm', r'bn\2'),
                    (r'conv(\d)', r'conv\2'),
                    (r'shortcut\.norm', 'downsample.1'),
                    ('shortcut', 'downsample.0'),
                )
            ),
            (r'sem_seg_head\.res5_pam\.0\.norm\.', 'head.position.0.bn.'),
            (r'sem_seg_head\.res5_pam\.0\.', 'head.position.0.conv.'),
            (r'sem_seg_head\.res5_cam\.0\.norm\.', 'head.channel.0.bn.'),
            (r'sem_seg_head\.res5_cam\.0\.', 'head.channel.0.conv.'),
            (r'sem_seg_head\.predictor\.', 'head.out.1.'),
        ],
        (
            PLAIN
            | dict(
                FIRST_BLOCK='all',
                STRIDE_IN_1X1=True,
                UPSAMPLE='crop',
                CHANNELS='bgr',
                STD=(1 / 255,) * 3,
                DANET_D2=True,
            ),
        ),
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
        (PLAIN | dict(UPSAMPLE='centres', DEEPLABV3_PAPER=False, DEEPLABV3_RATES=(12, 24, 36)),),
    ),
    'torchvision FCN': Family(
        r'classifier\.0\.weight',
        [
            *trunk_rules(r'backbone\.'),
            *fcn_rules('classifier', 'head.out'),
            *fcn_rules('aux_classifier', 'aux'),
        ],
        (PLAIN | dict(UPSAMPLE='centres'),),
    ),
}


def rename(state, path):
    """(family, state dict with this project's names), recognised by the names alone."""
    found = {}
    for name, family in FAMILIES.items():
        marks = [k for k in state if re.match(family.mark, k)]
        ruled_out = family.unless and any(re.match(family.unless, k) for k in state)
        if marks and not ruled_out:
            found[name] = marks[0]
    if not found:
        raise UserError(
            f'{path}: the names of its tensors ({", ".join(list(state)[:3])}, ...) belong to no family known here: {", ".join(FAMILIES)}'
        )
    if len(found) > 1:
        raise UserError(
            f'{path}: this file mixes families, {" and ".join(f"{name} ({key})" for name, key in found.items())}; it is not one network'
        )
    name = next(iter(found))
    renamed = {}
    for key, value in state.items():
        new = new_name(key, FAMILIES[name].rules)
        if new in renamed:
            raise UserError(
                f'{path}: this file has the tensor {new} of {name} under two names, one of them {key}; it is not one network'
            )
        if key not in ('pixel_mean', 'pixel_std'):
            renamed[new] = value
    return name, renamed


def new_name(key, rules):
    for pattern, new in rules:
        match = re.match(pattern, key)
        if match:
            return match.expand(new) + key[match.end() :]
    return key
