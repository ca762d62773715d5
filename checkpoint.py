"""Checkpoints: saving without ever leaving half a file, loading anybody's weights and saying what matched."""

import contextlib
import math
import os
import urllib.error
from typing import NamedTuple

import torch
import torchvision

import dataset
import network
import settings
from baselines.psa import mask_side
from families import FAMILIES, OWN, rename
from settings import UserError
from trunk import RESNETS

# Settings that decide what a network computes, beside those of the heads: those kept in a checkpoint are held against those in force.
NETWORK = (
    'HEAD',
    'N_LAYERS',
    'STEM',
    'STRIDE',
    'MULTI_GRID',
    'FIRST_BLOCK',
    'STRIDE_IN_1X1',
    'UPSAMPLE',
    'HEAD_CHANNELS',
    'EM_CHANNELS',
    'EM_BASES',
    'STAGE_NUM',
    'EM_NORM',
    'SECOND_CONV',
    'DATASET',
    'MEAN',
    'STD',
    'CHANNELS',
)


# What settings that older files lack stood for when those were written.
OLDER = dict(ROTATE_PROB=1.0, LR_MIN=0.0, DEEPLABV3PLUS_RATES=(12, 24, 36))


def network_settings(head):
    """NETWORK and the settings that are named after a head."""
    return [
        *NETWORK,
        *(
            name
            for name in settings.in_force()
            if name.startswith(head.upper() + '_') and name not in NETWORK
        ),
    ]


def folder():
    """The checkpoints of the run."""
    return os.path.join(settings.MODEL_DIR, settings.NAME)


def save(path, state):
    """Writes plain tensors and values to `path`: the whole file, or, if that fails, none; what was there before is kept until then."""
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    work = path + '.part'
    try:
        with open(work, 'wb') as f:
            torch.save(state, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(work, path)
    except RuntimeError as e:  # what torch makes of a full disk
        raise UserError(
            f'{path}: could not be written ({str(e).splitlines()[0]}); is the disk full? The checkpoints before it are whole'
        ) from None
    except OSError as e:
        raise UserError(
            f'{path}: could not be written ({e.strerror}); the checkpoints before it are whole'
        ) from None
    finally:
        if os.path.exists(work):
            os.unlink(work)


def read(path):
    """A checkpoint file as plain tensors and values; code inside is never run."""
    if not os.path.isfile(path):
        raise UserError(f'{path}: there is no such checkpoint')
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as e:  # torch raises many kinds
        if 'unsupported global' in str(e).lower():
            raise UserError(
                f'{path}: this file holds more than tensors and plain values, and loading it could run code; '
                'save its state dict alone: torch.save(net.state_dict(), FILE)'
            ) from None
        raise UserError(
            f'{path}: this is no checkpoint, or only part of one ({type(e).__name__}); fetch or save it again'
        ) from None


class Report(NamedTuple):
    """What load_weights found: names of the tensors of the network that matched, are missing in the file, have another shape there,
    and of those the network has no place for; step and settings that the file tells, or None and {}; a note on what its tensors do not tell."""

    path: str
    format: str
    matched: list
    missing: list
    wrong: list
    unexpected: list
    step: int = None
    settings: dict = {}
    note: str = ''

    def __str__(self):
        total = len(self.matched) + len(self.missing) + len(self.wrong)
        text = f'{self.path} ({self.format}): {len(self.matched)} of {total} tensors matched'
        for what, names in (
            ('missing', self.missing),
            ('of another shape', self.wrong),
            ('not used', self.unexpected),
        ):
            if names:
                text += f', {len(names)} {what} ({", ".join(names[:4])}{", ..." if len(names) > 4 else ""})'
        return text + self.note


def state_dict(file, path):
    """The state dict in a checkpoint file: its own, or under one of the usual keys, without DataParallel's prefix."""
    for key in ('net', 'model', 'state_dict') * 2:
        if isinstance(file, dict) and isinstance(file.get(key), dict):
            file = file[key]
    if not isinstance(file, dict) or not any(torch.is_tensor(v) for v in file.values()):
        raise UserError(f'{path}: this file holds no state dict')
    found = {}
    for k, v in file.items():
        if isinstance(k, str) and torch.is_tensor(v):
            name = k.removeprefix('module.').removeprefix('_orig_mod.')
            if name in found:
                raise UserError(
                    f'{path}: this file has {name} twice, with and without a prefix; it is not one network'
                )
            found[name] = v
    return found


def same(a, b):
    """Whether two values of a setting mean the same."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return (
        a == b or isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-3)
    )


def as_arguments(values):
    """Settings as one types them on the command line."""
    return ' '.join(f"'{k}={v}'" if isinstance(v, tuple) else f'{k}={v}' for k, v in values.items())


def contradicted(family, own):
    """Of the family's conventions those that are not in force, {setting: value} of the nearest choice; {} for a file of one's `own`."""
    choices = () if own else FAMILIES[family].conventions
    return min(
        (
            {k: v for k, v in choice.items() if not same(v, getattr(settings, k))}
            for choice in choices
        ),
        key=len,
        default={},
    )


def compare(net, state, part):
    """Names of the tensors of `net` (of its trunk, if `part` says so) that match the state dict, are missing there, have another shape; names there of
    which the net has no place for. num_batches_tracked does not count: older files lack it."""
    here = lambda k: (
        (part != 'trunk' or k.startswith('extractor.')) and not k.endswith('num_batches_tracked')
    )
    own, there = (
        {k: v for k, v in net.state_dict().items() if here(k)},
        [k for k in state if here(k)],
    )
    matched = [k for k in own if k in state and state[k].shape == own[k].shape]
    return (
        matched,
        [k for k in own if k not in state],
        [k for k in own if k in state and k not in matched],
        [k for k in there if k not in own],
    )


def load_weights(net, path, part=None):
    """Copies the tensors of checkpoint `path` into `net` and returns a Report.

    part  None: everything must match, and settings must be what the file's family does, else UserError says what does not and with which settings
          it would, and nothing is copied; 'trunk': all of the trunk must match, the rest is left; 'any': whatever matches is copied
    """
    file = read(path)
    family, state = rename(state_dict(file, path), path)
    step, kept = file.get('step'), file.get('settings')
    kept = kept if isinstance(kept, dict) else {}
    kind = ('EMANet' if 'emau.mu' in state else 'network') if family == OWN else family
    if family.endswith('ResNet trunk'):
        kind = ('deep-stem ' if 'extractor.0.0.weight' in state else 'plain-stem ') + family
    own = (
        bool(kept) or family == OWN and 'step' not in file
    )  # the official file has a step and no settings
    other = contradicted(family, own)
    report = Report(
        path, kind, *compare(net, state, part), step if type(step) is int else None, kept
    )
    wrong = report.missing or report.wrong or report.unexpected
    trunk = implied_trunk(state)
    if part == 'any' and trunk not in ({}, {k: getattr(settings, k) for k in trunk}):
        raise UserError(
            f'{path} ({kind}) has another trunk than settings describe; to start from it: {as_arguments(trunk)}'
        )
    if part != 'any' and wrong or not report.matched:
        raise UserError(f'{report}; ' + way_out(state, kept, family, own, part))
    if other and part is None:
        raise UserError(
            f'{path} ({kind}): all tensors match, but the code it comes from computes otherwise than settings say; '
            f'to use it: {as_arguments(other)}'
        )
    if not all(state[k].isfinite().all() for k in report.matched if state[k].is_floating_point()):
        raise UserError(
            f'{path}: these weights are not finite; the run that saved them had gone wrong, take an earlier checkpoint'
        )
    with torch.no_grad():
        for k, v in net.state_dict().items():
            if (
                k in report.matched
                or k.endswith('num_batches_tracked')
                and k in state
                and (part != 'trunk' or k.startswith('extractor.'))
            ):
                v.copy_(state[k])
    note = f'; its makers have {as_arguments(other)}' if other and part else ''
    if 'head.directions.0.attention.1.weight' in state and not own and part is None:
        doubt = [f'PSA_TYPE={settings.PSA_TYPE}'] * (settings.PSA_TYPE != 'both') + [
            f'PSA_COMPACT={settings.PSA_COMPACT}',
            f'PSA_SHRINK={settings.PSA_SHRINK}',
        ]
        note += f'; no tensor tells whether {", ".join(doubt)} and PSA_SOFTMAX={settings.PSA_SOFTMAX} are what it was trained with'
    if part == 'any':
        note += ''.join(
            f'; {d} when it was trained' for d in differences(kept, network_settings(settings.HEAD))
        )
    return report._replace(note=note)


def way_out(state, kept, family, own, part):
    """What to do with a state dict that does not fit: settings with which it does (tried out), else what it seems to be."""
    if part == 'trunk':
        differ = {k: v for k, v in implied_trunk(state).items() if v != getattr(settings, k)}
        return 'its trunk does not fit' + (f'; to use it: {as_arguments(differ)}' if differ else '')
    now, names = (
        settings.in_force(),
        {k.removeprefix('head.') for k in state if k.startswith('head.')},
    )
    for values in candidates(state, kept, family, own):
        differ = {k: v for k, v in values.items() if not same(v, now[k])}
        try:
            vars(settings).update(differ)
            with torch.device('meta'):  # the head is soon built, the trunk is not
                alike = settings.HEAD == 'ema' or names <= set(
                    network.make_head(settings.HEAD, (256, 512, 1024, 2048), 2).state_dict()
                )
                fits = differ and alike and not any(compare(network.build(), state, None)[1:])
        except UserError:
            fits = False
        finally:
            vars(settings).update(now)
        if fits:
            return 'it does not fit the network that settings describe; to use it: ' + as_arguments(
                differ
            )
    if (
        family.endswith('ResNet trunk')
        or implied_trunk(state)
        and all(k.startswith('extractor.') for k in state)
    ):
        return 'this is a trunk without a head; training starts from it with PRETRAINED=FILE, and evaluation needs a whole network'
    return 'it does not fit, and no settings were found that would: part of a file, two networks in one, or a network that is not here; INIT=FILE takes what fits'


def implied_trunk(state):
    """N_LAYERS and STEM that the names of a state dict imply, or {}."""
    blocks = [
        len({k.split('.')[2] for k in state if k.startswith(f'extractor.{i}.')})
        for i in (4, 5, 6, 7)
    ]
    bottleneck = 'extractor.4.0.conv3.weight' in state
    stem = 'deep' if 'extractor.0.0.weight' in state else 'plain'
    return next(
        (
            {'N_LAYERS': n, 'STEM': stem}
            for n, (block, counts) in RESNETS.items()
            if list(counts) == blocks and (block.expansion == 4) == bottleneck
        ),
        {},
    )


def candidates(state, kept, family, own):
    """Yields settings that a network with this state dict may have: those that the file keeps, else what names, shapes and the family tell."""
    now = settings.in_force()
    trunk = implied_trunk(state) | {
        'AUX_WEIGHT': (now['AUX_WEIGHT'] or 0.4)
        if any(k.startswith('aux.') for k in state)
        else 0.0
    }
    shape = lambda key, rank: (
        tuple(state[key].shape) if key in state and state[key].ndim == rank else None
    )
    if shape('emau.mu', 3):
        trunk |= {
            'EM_CHANNELS': shape('emau.mu', 3)[1],
            'EM_BASES': shape('emau.mu', 3)[2],
            'SECOND_CONV': 'fc1.0.conv.weight' in state,
        }
    last = [
        s
        for key in ('fc2', 'head.out.2', 'head.out.1', 'head.score.2')
        if (s := shape(key + '.weight', 4))
    ]
    if last and last[0][0] != dataset.n_classes():
        trunk['N_CLASSES'] = last[0][0]
    if kept:
        known = [*network_settings(str(kept.get('HEAD'))), 'N_CLASSES', 'AUX_WEIGHT'] + [
            'CROP_SIZE'
        ] * (kept.get('HEAD') == 'psa')  # its mask follows
        own_classes = (
            {'N_CLASSES': last[0][0]}
            if last and kept.get('N_CLASSES') is None and now['N_CLASSES']
            else {}
        )
        with contextlib.suppress(UserError):  # of another version, that has other values
            yield {
                k: settings.convert(k, kept[k], 'kept') for k in known if k in kept
            } | own_classes
    widths = (
        [{'HEAD_CHANNELS': w} for w in (last[0][1], 2 * last[0][1])]
        if last and trunk.get('SECOND_CONV', True)
        else []
    )
    keys = {k for k in state if k.startswith('head.')}
    for head, form in forms(state, shape):
        stride = network.trait(network.HEADS[head], 'strides')
        more = {} if now['STRIDE'] in stride else {'STRIDE': stride[0]}
        for width in widths + [{}]:
            if bool(keys) == (head != 'ema'):
                yield trunk | {'HEAD': head} | more | width | form | contradicted(family, own)


def forms(state, shape):
    """Yields heads, and settings of theirs that change their tensors: those in force, then others."""
    for head in sorted(network.HEADS, key=lambda h: h != settings.HEAD):
        if head == 'psa':
            yield from (('psa', form) for form in psa_forms(state, shape))
        else:
            yield head, {}
            yield from (
                (head, {name: not getattr(settings, name)})
                for name in ('DANET_D2', 'DEEPLABV3_PAPER')
                if name.startswith(head.upper() + '_')
            )


def psa_forms(state, shape):
    """Yields PSA_TYPE, PSA_MASK and PSA_COMPACT that fit the number of cells that a state dict predicts; a mask of offsets has odd sides."""
    cells = (shape('head.directions.0.attention.1.weight', 4) or (0,))[0]
    one = (
        'distribute' if settings.PSA_TYPE == 'distribute' else 'collect'
    )  # their tensors have the same names
    kind, side = (
        'both' if 'head.directions.1.reduce.conv.weight' in state else one,
        math.isqrt(cells),
    )
    for compact in (settings.PSA_COMPACT, not settings.PSA_COMPACT):
        follows = mask_side(settings.CROP_SIZE, settings.STRIDE, settings.PSA_SHRINK, compact)
        if math.prod(follows) == cells:
            yield {'PSA_TYPE': kind, 'PSA_MASK': None, 'PSA_COMPACT': compact}
    if cells and side**2 == cells:
        for compact in (False, True):
            yield {'PSA_TYPE': kind, 'PSA_MASK': side, 'PSA_COMPACT': compact}


def load_trunk(net):
    """Loads PRETRAINED into the trunk; returns the Report, or None where PRETRAINED is ''."""
    path = settings.PRETRAINED
    if path == 'torchvision':
        if settings.STEM != 'plain':
            raise settings.UsageError(
                "PRETRAINED='torchvision' has the plain stem; use STEM=plain with it"
            )
        weights = torchvision.models.get_model_weights(f'resnet{settings.N_LAYERS}')[
            'IMAGENET1K_V1'
        ]
        path = os.path.join(settings.MODEL_DIR, 'pretrained', os.path.basename(weights.url))
        try:
            weights.get_state_dict(model_dir=os.path.dirname(path), check_hash=True)
        except (urllib.error.URLError, OSError, RuntimeError) as e:
            raise UserError(
                f'{weights.url} could not be fetched ({e}); fetch it elsewhere and put it at {path}'
            ) from None
    if not path:
        return None
    if not os.path.isfile(path):
        raise UserError(
            f'{path}: these trunk weights (PRETRAINED) are missing; README, Trunk weights, says where to get them. '
            'Others: PRETRAINED=torchvision STEM=plain, or PRETRAINED= for training from scratch'
        )
    return load_weights(net, path, 'trunk')


def to_evaluate():
    """CHECKPOINT, or the run's best, final or latest checkpoint."""
    if settings.CHECKPOINT:
        return settings.CHECKPOINT
    paths = [os.path.join(folder(), name + '.pth') for name in ('best', 'final', 'latest')]
    for path in paths:
        if os.path.isfile(path):
            return path
    raise UserError(
        f'there is no checkpoint to evaluate: none of {", ".join(paths)} exists; train first, or name one by CHECKPOINT=FILE'
    )


def differences(kept, names):
    """The settings among `names` that a checkpoint's kept ones contradict, as text: ['LR was 0.01, is 0.1', ...]."""
    now, differ = settings.in_force(), []
    if kept:
        if 'LR_MIN' not in kept and kept.get('LOSS') == now['LOSS'] == 'ohem' and 'LOSS' in names:
            differ.append(
                'OHEM_KEEP was pixels per device, is pixels per image, and LOSS_AVG=all divided by the hard pixels'
            )
        kept = OLDER | kept
        if not kept.get('ROTATE') and not now['ROTATE']:
            names = [n for n in names if n != 'ROTATE_PROB']  # which nothing reads then
    if 'BN_MOM' in names and 'BN_MOM' in kept:
        was, momentum = settings.bn_momentum(kept), settings.bn_momentum(now)
        if was != momentum:
            why = ', as follows from PRETRAINED and INIT' if now['BN_MOM'] is None else ''
            differ.append(f'BN_MOM was {was!r}, is {momentum!r}{why}')
        names = [n for n in names if n != 'BN_MOM']
    return differ + [
        f'{n} was {kept[n]!r}, is {now[n]!r}'
        for n in names
        if n in kept and n in now and kept[n] != now[n]
    ]
