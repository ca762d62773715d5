"""The networks that EMANet is compared with: one head, one file, one paper. HEAD=psp is psp.py."""

from heads.a2net import A2Net
from heads.acfnet import ACFNet
from heads.att2scale import AttentionToScale
from heads.bisenet import BiSeNet
from heads.blocks import SettingsError, check_arguments, nearest
from heads.danet import DANet
from heads.deeplabv3 import DeepLabV3
from heads.deeplabv3plus import DeepLabV3Plus
from heads.denseaspp import DenseASPP
from heads.fcn import FCN
from heads.non_local import NonLocal
from heads.psa import PSA
from heads.psp import PSP
from heads.semanticfpn import SemanticFPN

HEADS = {
    'fcn': FCN,
    'psp': PSP,
    'psa': PSA,
    'danet': DANet,
    'deeplabv3': DeepLabV3,
    'deeplabv3plus': DeepLabV3Plus,
    'denseaspp': DenseASPP,
    'acfnet': ACFNet,
    'nonlocal': NonLocal,
    'a2net': A2Net,
    'semanticfpn': SemanticFPN,
    'att2scale': AttentionToScale,
    'bisenet': BiSeNet,
}


def make_head(settings, widths, n_classes, norm):
    """Return the head that settings describe, for a trunk with maps of these widths.

    Settings that do not go together raise SettingsError.
    """
    name = settings.HEAD
    if name not in HEADS:
        hint = nearest(name, ('ema', *HEADS)) or f'; use one of ema, {", ".join(HEADS)}'
        raise SettingsError(f'HEAD = {name!r}: there is no such head{hint}')
    head = HEADS[name]
    for key, allowed in (('STRIDE', head.strides), ('N_LAYERS', head.layers)):
        value = getattr(settings, key)
        if value not in allowed:
            choices = ' or '.join(f'{key}={choice}' for choice in allowed)
            raise SettingsError(f'HEAD={name} does not work with {key} = {value}; use {choices}')
    check_arguments(name, settings.HEAD_ARGS, head.arguments())
    return head(
        widths,
        n_classes,
        channels=settings.HEAD_CHANNELS,
        dropout=settings.DROPOUT,
        norm=norm,
        **(head.defaults(settings) | settings.HEAD_ARGS),
    )
