"""Checkpoints of mmsegmentation: names of tensors and their layout."""

import re

import torch

from conversion.rules import stem_rules, trunk_rules
from utils.config import UserError
from utils.printable import shown_name

COMMON = [
    *stem_rules(r'backbone\.'),
    *trunk_rules(r'backbone\.'),
    (r'auxiliary_head\.convs\.0\.', 'aux.0.'),
    (r'auxiliary_head\.conv_seg\.', 'aux.2.'),
]
FCN_HEAD = [('bottleneck', 'head.out.0'), ('conv_seg', 'head.out.2')]
JOINED = [
    (r'convs\.0', 'head.reduce'),
    (r'convs\.1', 'head.joined.conv'),
    ('conv_cat', 'head.joined.fuse'),
    ('conv_seg', 'head.out.1'),
]
ASPP = [
    (r'image_pool\.1', 'head.aspp.branches.4'),
    (r'aspp_modules\.(\d)\.depthwise_conv', r'head.aspp.branches.\1.0'),
    (r'aspp_modules\.(\d)\.pointwise_conv', r'head.aspp.branches.\1.1'),
    (r'aspp_modules\.(\d)', r'head.aspp.branches.\1'),
    ('bottleneck', 'head.aspp.project'),
    ('conv_seg', 'head.out.1'),
]
# (a name in decode_head that only this head has, [(name there, name here), ...])
NAMES_OF_HEADS = [
    (
        'ema_module',
        [
            ('ema_in_conv', 'fc0'),
            (r'ema_mid_conv\.conv', 'emau.conv1'),
            (r'ema_out_conv\.conv', 'emau.conv2.0'),
            (r'ema_out_conv\.bn', 'emau.conv2.1'),
            ('bottleneck', 'fc1.conv'),
            ('conv_cat', 'fc1.fuse'),
            ('conv_seg', 'fc2'),
        ],
    ),
    ('psp_modules', [(r'psp_modules\.(\d)\.1', r'head.ppm.branches.\1.1'), *FCN_HEAD]),
    (
        'reduce',
        [
            ('reduce_p', 'head.directions.1.reduce'),
            ('reduce', 'head.directions.0.reduce'),
            ('attention_p', 'head.directions.1.attention'),
            ('attention', 'head.directions.0.attention'),
            ('proj', 'head.proj'),
            *FCN_HEAD,
        ],
    ),
    (
        'pam',
        [
            ('pam_in_conv', 'head.position.0'),
            (r'pam\.(query|key|value)_project', r'head.position.1.\1'),
            ('pam_out_conv', 'head.position.2'),
            ('cam_in_conv', 'head.channel.0'),
            ('cam_out_conv', 'head.channel.2'),
            ('pam_conv_seg', 'head.aux.0.1'),
            ('cam_conv_seg', 'head.aux.1.1'),
            ('conv_seg', 'head.out.1'),
        ],
    ),
    (
        'c1_bottleneck',
        [
            ('c1_bottleneck', 'head.low'),
            (r'sep_bottleneck\.(\d)\.depthwise_conv', r'head.fuse.\1.0'),
            (r'sep_bottleneck\.(\d)\.pointwise_conv', r'head.fuse.\1.1'),
            *ASPP,
        ],
    ),
    ('aspp_modules', ASPP),
    (
        'nl_block',
        [
            (r'nl_block\.theta\.conv', 'head.block.query'),
            (r'nl_block\.phi\.conv', 'head.block.key'),
            (r'nl_block\.g\.conv', 'head.block.value'),
            (r'nl_block\.conv_out\.conv', 'head.block.restore.0'),
            (r'nl_block\.conv_out\.bn', 'head.block.restore.1'),
            *JOINED,
        ],
    ),
    (
        'scale_heads',
        [
            (r'scale_heads\.(\d)\.0', r'head.branches.\1.0'),
            (r'scale_heads\.(\d)\.2', r'head.branches.\1.1'),
            (r'scale_heads\.(\d)\.4', r'head.branches.\1.2'),
            ('conv_seg', 'head.out.1'),
        ],
    ),
    ('conv_cat', JOINED),
    ('convs', [(r'convs\.0', 'head.out.0'), ('conv_seg', 'head.out.2')]),
]
AUX = 'auxiliary_head.'
WHOLE = [  # names to the end
    (r'decode_head\.ema_module\.bases$', 'emau.mu'),
    (r'decode_head\.pam\.gamma\.scale$', 'head.position.1.gamma'),
    (r'decode_head\.cam\.gamma\.scale$', 'head.channel.1.gamma'),
    (r'neck\.lateral_convs\.(\d)\.conv\.', r'head.bare.side.\1.'),
    (r'neck\.fpn_convs\.(\d)\.conv\.', r'head.bare.smooth.\1.'),
]


def rules(names):
    """Return the rules for the tensors of a network that have these names."""
    listed = [*COMMON, *WHOLE]
    for sign, parts in NAMES_OF_HEADS:
        if any(name.startswith(f'decode_head.{sign}') for name in names):
            listed += [(rf'decode_head\.{there}\.', here + '.') for there, here in parts]
            break
    return listed


def fit(name, tensor):
    """Return a tensor in the layout that it has here, under its name here.

    The pyramid's branches begin with the global average there, and scales have no dimension.
    """
    if name.endswith('.gamma') and tensor.ndim == 0:
        return tensor.reshape(1)
    if name == 'head.aspp.project.conv.weight' and tensor.ndim == 4:
        return torch.roll(tensor, -(tensor.shape[1] // 5), 1)
    return tensor


def without_other_aux(state):
    """Return a state dict without auxiliary heads that are not built here, and their names.

    A head on layer3 with one 3x3, as wide as AUX_WEIGHT's, is; it has no part in evaluation.
    """
    names = [name for name in state if name.startswith(AUX)]
    parts = {name.removeprefix(AUX).rpartition('.')[0] for name in names}
    conv, after = (
        state.get(AUX + 'convs.0.conv.weight'),
        state.get('backbone.layer4.0.conv1.weight'),
    )
    if conv is not None and after is not None and after.ndim == 4:
        c = after.shape[1]  # channels of layer3
        expected = min(c, 256), c, 3, 3
        if parts == {'convs.0.conv', 'convs.0.bn', 'conv_seg'} and conv.shape == expected:
            return state, []
    return {name: value for name, value in state.items() if name not in names}, names


def check(file):
    """Raise UserError for a File whose network has parts of mmsegmentation that are not here."""
    state = file.state
    others = [name for name in state if name.startswith(('decode_head.', 'backbone.', 'neck.'))]
    if 'extractor.4.0.downsample.2.weight' in state:
        reason = 'its trunk is a ResNetV1d'
    elif not others:
        return
    elif any(re.match(r'decode_head\.\d+\.', name) for name in others):
        reason = 'it is a cascade of heads'
    elif 'extractor.4.0.conv1.weight' not in state:
        reason = 'its trunk is no ResNet'
    elif 'decode_head.fpn_bottleneck.conv.weight' in state:
        reason = 'it is a UPerNet'
    else:
        reason = f'its {shown_name(others[0])} has no place in a network here'
    raise UserError(
        f'{file.path}: this network of mmsegmentation cannot be loaded, {reason}; '
        'docs/checkpoints.md lists those that can'
    )
