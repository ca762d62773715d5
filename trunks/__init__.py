"""Trunks other than network.ResNet, by the name that TRUNK gives them.

A trunk is a Module with
    maps(x)       normalised images (b, 3, h, w) -> [c1, c2, c3, c4], from fine to coarse; images of
                  n channels: its first convolution on 3 channels is replaced (heads/blocks.py)
    widths        channels of the four maps
    strides       input pixels per pixel of each of them; `stride` is the last one
    padded(size)  the size (h, w) to which maps() pads images, on the right and at the bottom
Its state dict has torchvision's names, where it is torchvision's.
"""

from heads import HEADS, check_pair
from heads.blocks import Head, SettingsError, nearest
from trunks.eprnet import EPRNet
from trunks.torchvision import ConvNeXt, DenseNet, MobileNetV2, ViT, torchvision_state
from trunks.xception import Xception39, Xception65

TRUNKS = {
    'densenet121': DenseNet,
    'densenet161': DenseNet,
    'densenet169': DenseNet,
    'densenet201': DenseNet,
    'mobilenet_v2': MobileNetV2,
    'convnext_tiny': ConvNeXt,
    'convnext_small': ConvNeXt,
    'convnext_base': ConvNeXt,
    'vit_b_16': ViT,
    'vit_l_16': ViT,
    'xception39': Xception39,
    'xception65': Xception65,
    'eprnet': EPRNet,
    'eprnet_light': EPRNet,
}
SIGNS = {  # the name of a tensor in a trunk: {the first of its sizes: the trunk}
    'features.denseblock3.denselayer48.conv2.weight': {32: 'densenet201'},
    'features.denseblock3.denselayer36.conv2.weight': {48: 'densenet161'},
    'features.denseblock3.denselayer32.conv2.weight': {32: 'densenet169'},
    'features.denseblock3.denselayer24.conv2.weight': {32: 'densenet121'},
    'features.17.conv.3.weight': {320: 'mobilenet_v2'},
    'features.5.26.layer_scale': {384: 'convnext_small', 512: 'convnext_base'},
    'features.5.8.layer_scale': {384: 'convnext_tiny'},
    'encoder.layers.encoder_layer_23.ln_1.weight': {1024: 'vit_l_16'},
    'encoder.layers.encoder_layer_11.ln_1.weight': {768: 'vit_b_16'},
    'layer1.0.units.0.depthwise.weight': {8: 'xception39'},
    'block20.units.0.depthwise.weight': {728: 'xception65'},
    'layer1.0.squeeze.conv.weight': {32: 'eprnet'},
    'layer1.0.branches.0.conv.weight': {32: 'eprnet_light'},
}


def make_trunk(settings, norm):
    """Return the trunk that settings describe, with random weights.

    norm  number of channels -> batch norm
    A TRUNK that is not here, or a STRIDE that it has not, raises SettingsError.
    """
    name = settings.TRUNK
    if name not in TRUNKS:
        hint = nearest(name, ('resnet', *TRUNKS)) or f'; use one of resnet, {", ".join(TRUNKS)}'
        raise SettingsError(f'TRUNK = {name!r}: there is no such trunk{hint}')
    kind = TRUNKS[name]
    head = HEADS.get(settings.HEAD, Head)
    strides = check_pair(settings.HEAD, head, name, kind.allowed, kind.finest)
    if settings.STRIDE not in kind.allowed:
        choices = ' or '.join(f'STRIDE={stride}' for stride in strides)
        raise SettingsError(
            f'TRUNK={name} does not work with STRIDE = {settings.STRIDE}; use {choices}'
        )
    trunk = kind(name, settings.STRIDE, norm)
    if settings.HEAD == 'setr' and kind is ViT:
        trunk.tap(mla=settings.HEAD_ARGS.get('decoder') == 'mla')
    return trunk


def trunk_of(names):
    """Return the TRUNK whose tensors a state dict has, {name: shape}, or '' for any other."""
    patch = names.get('extractor.conv_proj.weight', (0, 3, 16, 16))
    if tuple(patch)[2:] != (16, 16):  # a ViT of other patches
        return ''
    for sign, by_size in SIGNS.items():
        shape = names.get('extractor.' + sign)
        if shape:
            return by_size.get(shape[0], '')
    return ''


__all__ = ['TRUNKS', 'make_trunk', 'torchvision_state', 'trunk_of']
