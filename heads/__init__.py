"""The networks that EMANet is compared with: one head, one file, one paper. HEAD=psp is psp.py."""

from heads.a2net import A2Net
from heads.acfnet import ACFNet
from heads.alignseg import AlignSeg
from heads.att2scale import AttentionToScale
from heads.attanet import AttaNet
from heads.bisenet import BiSeNet
from heads.blocks import SettingsError, check_arguments, nearest
from heads.canet1 import CANet1
from heads.canet2 import CANet2
from heads.danet import DANet
from heads.deeplabv3 import DeepLabV3
from heads.deeplabv3plus import DeepLabV3Plus
from heads.denseaspp import DenseASPP
from heads.eprnet import EPRNet
from heads.fapn import FaPN
from heads.fcn import FCN
from heads.gffnet import GFFNet
from heads.ladderdensenet import LadderDenseNet
from heads.non_local import NonLocal
from heads.psa import PSA
from heads.psp import PSP
from heads.seenet import SeENet
from heads.semanticfpn import SemanticFPN
from heads.setr import SETR
from heads.swiftnet import SwiftNet
from heads.swiftnetpr import SwiftNetPR

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
    'seenet': SeENet,
    'swiftnet': SwiftNet,
    'swiftnetpr': SwiftNetPR,
    'ladderdensenet': LadderDenseNet,
    'canet1': CANet1,
    'canet2': CANet2,
    'attanet': AttaNet,
    'eprnet': EPRNet,
    'gffnet': GFFNet,
    'alignseg': AlignSeg,
    'fapn': FaPN,
    'setr': SETR,
}


def check_pair(name, head, trunk, allowed, finest):
    """Return the values of STRIDE with which HEAD=name works on a trunk; SettingsError if none.

    allowed  values that the trunk works with
    finest   stride of its first map
    """
    needs = None
    possible = [stride for stride in head.strides if stride in allowed]
    if not possible:
        strided = ' or '.join(f'STRIDE={stride}' for stride in head.strides)
        needs = f'a trunk with {strided}, such as TRUNK=resnet'
    elif head.reads_c1 and finest != 4:
        needs = f'a trunk whose first map has stride 4: TRUNK=resnet STRIDE={head.strides[0]}'
    if needs:
        raise SettingsError(f'HEAD={name} does not work with TRUNK={trunk}; use {needs}')
    return possible


def check_trunk(name, head, settings, strides, allowed):
    """Raise SettingsError where a trunk with maps of these strides does not suit HEAD=name."""
    possible = check_pair(name, head, settings.TRUNK, allowed, strides[0])
    choices = [('STRIDE', possible)]
    if settings.TRUNK == 'resnet':
        choices.append(('N_LAYERS', head.layers))
    for key, values in choices:
        value = getattr(settings, key)
        if value not in values:
            listed = ' or '.join(f'{key}={choice}' for choice in values)
            raise SettingsError(f'HEAD={name} does not work with {key} = {value}; use {listed}')


def make_head(settings, widths, n_classes, norm, strides=(4, 8, 16, 32), allowed=(8, 16, 32)):
    """Return the head that settings describe, for a trunk with maps of these widths and strides.

    allowed  values of STRIDE that the trunk works with
    Settings that do not go together raise SettingsError.
    """
    name = settings.HEAD
    if name not in HEADS:
        hint = nearest(name, ('ema', *HEADS)) or f'; use one of ema, {", ".join(HEADS)}'
        raise SettingsError(f'HEAD = {name!r}: there is no such head{hint}')
    head = HEADS[name]
    check_trunk(name, head, settings, strides, allowed)
    check_arguments(name, settings.HEAD_ARGS, head.arguments())
    return head(
        widths,
        n_classes,
        channels=settings.HEAD_CHANNELS,
        dropout=settings.DROPOUT,
        norm=norm,
        **(head.defaults(settings) | settings.HEAD_ARGS),
    )
