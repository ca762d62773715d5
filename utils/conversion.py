"""Checkpoints of other code bases: how to read them as this project's.

FAMILIES    how each code base is recognised, and how its networks compute
state_dict  what a file holds -> its state dict
rename      names of tensors of any code base -> this project's
"""

import re
from typing import NamedTuple

import torch

from utils.config import UserError
from utils.printable import printable


class Family(NamedTuple):
    """Checkpoints of one code base.

    mark        pattern with which some of their tensors' names begin, and no other family's
    rules       (pattern, replacement): the first whose pattern begins a name turns it into ours
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


# ----------------------------------------------------------------------------- names of tensors


def trunk_rules(prefix):
    """Return rules for a trunk with torchvision's names, under a prefix."""
    rules = [(prefix + r'conv1\.', 'extractor.0.'), (prefix + r'bn1\.', 'extractor.1.')]
    for i in (1, 2, 3, 4):
        rules.append((prefix + rf'layer{i}\.', f'extractor.{i + 3}.'))
    return rules


def detectron2_trunk_rules():
    """Return rules for a trunk with detectron2's own names."""
    rules = [
        (r'backbone\.stem\.conv1\.norm\.', 'extractor.1.'),
        (r'backbone\.stem\.conv1\.', 'extractor.0.'),
    ]
    parts = [
        (r'conv(\d)\.norm', r'bn\2'),
        (r'conv(\d)', r'conv\2'),
        (r'shortcut\.norm', 'downsample.1'),
        ('shortcut', 'downsample.0'),
    ]
    for i in (2, 3, 4, 5):
        for there, here in parts:
            rules.append((rf'backbone\.res{i}\.(\d+)\.{there}\.', rf'extractor.{i + 2}.\1.{here}.'))
    return rules


def pair(there, here):
    """Return rules for a convolution and its batch norm, at 0 and 1 of a Sequential."""
    return [(there + r'\.0\.', here + '.conv.'), (there + r'\.1\.', here + '.bn.')]


def fcn_rules(there, here):
    """Return rules for a 3x3 with batch norm, dropout and classifier in one Sequential."""
    return [*pair(there, here + '.0'), (there + r'\.4\.', here + '.2.')]


OWN = 'EMANet or this project'
PLAIN = {
    'STRIDE': 8,
    'MULTI_GRID': (1, 1, 1),
    'FIRST_BLOCK': 'half',
    'UPSAMPLE': 'corners',
    'CHANNELS': 'rgb',
    'MEAN': (0.485, 0.456, 0.406),
    'STD': (0.229, 0.224, 0.225),
}
OFFICIAL = PLAIN | {
    'MULTI_GRID': (1, 2, 4),
    'STAGE_NUM': 3,
    'EM_NORM': 'l2',
    'EM_GRAD': False,
}
SEMSEG_PSA = {'type': 'both', 'compact': False, 'shrink': 2, 'softmax': True}
FAMILIES = {
    OWN: Family(r'extractor\.', [], OFFICIAL),
    'ResNet trunk': Family(r'(conv1|bn1)\.', trunk_rules(''), unless=r'conv3\.'),
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
        r'backbone\.(stem|res\d)\.|sem_seg_head\.res5_',
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
    ),
}


def state_dict(file, path):
    """Return the state dict in a checkpoint file, without prefixes of DataParallel and compile."""
    for key in ('net', 'model', 'state_dict') * 2:
        if isinstance(file, dict) and isinstance(file.get(key), dict):
            file = file[key]
    if not isinstance(file, dict) or not any(torch.is_tensor(v) for v in file.values()):
        raise UserError(f'{path}: this file holds no state dict')
    state = {}
    for key, value in file.items():
        if isinstance(key, str) and torch.is_tensor(value):
            name = key.removeprefix('module.').removeprefix('_orig_mod.')
            if name in state:
                raise UserError(
                    f'{path}: this file has {shown_name(name)} twice, with and without a prefix; '
                    'it is not one network'
                )
            state[name] = value
    return state


def shown_name(name):
    """Return the name of a tensor, which may be anything, for a sentence."""
    return printable(name, most=100)


def family_of(state, path):
    """Return the family whose names a state dict has."""
    marks = {}
    for name, family in FAMILIES.items():
        marked = [key for key in state if re.match(family.mark, key)]
        ruled_out = family.unless and any(re.match(family.unless, key) for key in state)
        if marked and not ruled_out:
            marks[name] = marked[0]
    if not marks:
        some = ', '.join(map(shown_name, list(state)[:3]))
        raise UserError(
            f'{path}: the names of its tensors ({some}, ...) belong to no family known here: '
            f'{", ".join(FAMILIES)}'
        )
    if len(marks) > 1:
        mixed = ' and '.join(f'{name} ({shown_name(key)})' for name, key in marks.items())
        raise UserError(f'{path}: this file mixes families, {mixed}; it is not one network')
    return next(iter(marks))


def rename(state, path):
    """Return the family of a state dict, and the state dict with this project's names."""
    family = family_of(state, path)
    renamed = {}
    for key, value in state.items():
        new = new_name(key, FAMILIES[family].rules)
        if new in renamed:
            raise UserError(
                f'{path}: this file has the tensor {shown_name(new)} of {family} under two names, '
                f'one of them {shown_name(key)}; it is not one network'
            )
        if key not in ('pixel_mean', 'pixel_std'):
            renamed[new] = value
    return family, renamed


def new_name(key, rules):
    for pattern, new in rules:
        match = re.match(pattern, key)
        if match:
            return match.expand(new) + key[match.end() :]
    return key
