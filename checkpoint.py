"""Checkpoints: saving without ever leaving half a file, loading anybody's weights and saying what matched."""
import math
import os
import urllib.error
from typing import NamedTuple

import torch
import torchvision

import network
import settings
from families import FAMILIES, OWN, rename
from settings import UserError

# Settings that decide what a network computes: those kept in a checkpoint are held against those in force.
NETWORK = ('HEAD', 'N_LAYERS', 'STEM', 'STRIDE', 'MULTI_GRID', 'FIRST_BLOCK', 'STRIDE_IN_1X1', 'UPSAMPLE', 'HEAD_CHANNELS', 'EM_CHANNELS', 'EM_BASES',
           'STAGE_NUM', 'EM_NORM', 'SECOND_CONV', 'PSP_BINS', 'PSA_TYPE', 'PSA_COMPACT', 'PSA_SHRINK', 'PSA_MASK', 'PSA_SOFTMAX', 'DANET_D2',
           'DEEPLABV3_PAPER', 'DEEPLABV3_RATES', 'DATASET', 'MEAN', 'STD', 'CHANNELS')


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
        raise UserError(f'{path}: could not be written ({str(e).splitlines()[0]}); is the disk full? The checkpoints before it are whole') from None
    except OSError as e:
        raise UserError(f'{path}: could not be written ({e.strerror}); the checkpoints before it are whole') from None
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
            raise UserError(f'{path}: this file holds more than tensors and plain values, and loading it could run code; '
                            'save its state dict alone: torch.save(net.state_dict(), FILE)') from None
        raise UserError(f'{path}: this is no checkpoint, or only part of one ({type(e).__name__}); fetch or save it again') from None


class Report(NamedTuple):
    """What load_weights found: names of the tensors of the network that matched, are missing in the file, have another shape there,
    and of those the network has no place for; step and settings that the file tells, or None and {}; settings by which those who made it
    compute and which are not in force."""
    path: str
    format: str
    matched: list
    missing: list
    wrong: list
    unexpected: list
    step: int = None
    settings: dict = {}
    contrary: dict = {}

    def __str__(self):
        total = len(self.matched) + len(self.missing) + len(self.wrong)
        text = f'{self.path} ({self.format}): {len(self.matched)} of {total} tensors matched'
        for what, names in (('missing', self.missing), ('of another shape', self.wrong), ('not used', self.unexpected)):
            if names:
                text += f', {len(names)} {what} ({", ".join(names[:8])}{", ..." if len(names) > 8 else ""})'
        return text + (f'; its makers have {as_arguments(self.contrary)}' if self.contrary else '')


def state_dict(file, path):
    """The state dict in a checkpoint file: its own, or under one of the usual keys, without DataParallel's prefix."""
    for key in ('net', 'state_dict', 'model'):
        if isinstance(file, dict) and isinstance(file.get(key), dict):
            file = file[key]
            break
    if not isinstance(file, dict) or not any(torch.is_tensor(v) for v in file.values()):
        raise UserError(f'{path}: this file holds no state dict')
    return {k.removeprefix('module.'): v for k, v in file.items() if isinstance(k, str) and torch.is_tensor(v)}


def same(a, b):
    """Whether two values of a setting mean the same."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-3)


def as_arguments(values):
    """Settings as one types them on the command line."""
    return ' '.join(f"'{k}={v}'" if isinstance(v, tuple) else f'{k}={v}' for k, v in values.items())


def contradicted(name, file):
    """Of the family's conventions those that are not in force, {setting: value} of the nearest choice; {} where the file tells its own settings."""
    own = 'settings' in file or name == OWN and 'step' not in file  # the official file has a step and no settings
    choices = () if own else FAMILIES[name].conventions
    return min(({k: v for k, v in choice.items() if not same(v, getattr(settings, k))} for choice in choices), key=len, default={})


def load_weights(net, path, part=None):
    """Copies the tensors of checkpoint `path` into `net` and returns a Report.

    part  None: everything must match, and settings must be what the file's family does, else UserError says what does not and with which settings
          it would, and nothing is copied; 'trunk': all of the trunk must match, the rest is left; 'any': whatever matches is copied
    num_batches_tracked does not count: older files lack it.
    """
    file = read(path)
    family, state = rename(state_dict(file, path), path)
    own = {k: v for k, v in net.state_dict().items() if part != 'trunk' or k.startswith('extractor.')}
    counts = [k for k in own if not k.endswith('num_batches_tracked')]
    matched = [k for k in counts if k in state and state[k].shape == own[k].shape]
    foreign = [k for k in state if k not in own and (part != 'trunk' or k.startswith('extractor.')) and not k.endswith('num_batches_tracked')]
    step, kept = file.get('step'), file.get('settings')
    kept = kept if isinstance(kept, dict) else {}
    kind = ('EMANet' if 'emau.mu' in state else 'network') if family == OWN else family
    if family == 'ResNet trunk':
        kind = ('deep-stem ' if 'extractor.0.0.weight' in state else 'plain-stem ') + family
    report = Report(path, kind, matched, [k for k in counts if k not in state], [k for k in counts if k in state and k not in matched], foreign,
                    step if type(step) is int else None, kept, contradicted(family, file) if part else {})
    wrong = report.missing or report.wrong or report.unexpected
    differ = contradicted(family, file) if part is None else {}
    if part != 'any' and wrong or not matched:
        there, here = implied(state), settings.in_force() | implied(net.state_dict())
        differ = {k: v for k, v in there.items() if v != here.get(k) and (part != 'trunk' or k in ('N_LAYERS', 'STEM'))} | differ
        raise UserError(f'{report}; it does not fit the network that settings describe' + (f'; to use it: {as_arguments(differ)}' if differ else ''))
    if differ:
        raise UserError(f'{path} ({kind}): all tensors match, but the code it comes from computes otherwise than settings say; '
                        f'to use it: {as_arguments(differ)}')
    if not all(state[k].isfinite().all() for k in matched if state[k].is_floating_point()):
        raise UserError(f'{path}: these weights are not finite; the run that saved them had gone wrong, take an earlier checkpoint')
    with torch.no_grad():
        for k in matched + [k for k in own if k.endswith('num_batches_tracked') and k in state]:
            own[k].copy_(state[k])
    return report


def head_of(state):
    """The head whose tensors' names are those of the state dict, or most like them; None if it has none."""
    keys = {k.removeprefix('head.') for k in state if k.startswith('head.')}
    if 'emau.mu' in state or not keys:
        return 'ema' if 'emau.mu' in state else None
    with torch.device('meta'):
        names = {head: set(network.make_head(head, (256, 512, 1024, 2048), 2).state_dict()) for head in network.HEADS if head != 'ema'}
    share = {head: len(keys & own) / len(keys | own) for head, own in names.items()}
    return max(share, key=share.get) if any(share.values()) else None


def implied(state):
    """The settings that the names and shapes of a state dict imply: {name: value}."""
    blocks = [len({k.split('.')[2] for k in state if k.startswith(f'extractor.{i}.')}) for i in (4, 5, 6, 7)]
    bottleneck = 'extractor.4.0.conv3.weight' in state
    found = {'N_LAYERS': n for n, (block, counts) in network.RESNETS.items() if list(counts) == blocks and (block.expansion == 4) == bottleneck}
    found['STEM'] = 'deep' if 'extractor.0.0.weight' in state else 'plain'
    found['AUX_WEIGHT'] = 0.4 if 'aux.2.weight' in state else 0.0
    head = head_of(state)
    if head:
        found['HEAD'] = head
    if head == 'ema':
        found |= {'EM_CHANNELS': state['emau.mu'].shape[1], 'EM_BASES': state['emau.mu'].shape[2], 'SECOND_CONV': 'fc1.0.conv.weight' in state}
    if head == 'psa':
        both = 'head.directions.1.reduce.conv.weight' in state
        found['PSA_TYPE'] = 'both' if both else 'distribute' if settings.PSA_TYPE == 'distribute' else 'collect'  # their tensors have the same names
        cells = len(state.get('head.directions.0.attention.1.weight', ()))
        side = math.isqrt(cells)
        if cells and side ** 2 == cells:
            found['PSA_MASK'] = side
            if side % 2 == 0:
                found['PSA_COMPACT'] = True  # masks of offsets have a middle
    if head == 'danet':
        found['DANET_D2'] = 'head.aux.0.1.weight' not in state
    for classifier in ('fc2.weight', 'head.out.2.weight', 'head.out.1.weight', 'head.score.2.weight'):
        if classifier in state:
            found['N_CLASSES'], width = state[classifier].shape[:2]
            if found.get('SECOND_CONV', True):
                found['HEAD_CHANNELS'] = width
    return found


def load_trunk(net):
    """Loads PRETRAINED into the trunk; returns the Report, or None where PRETRAINED is ''."""
    path = settings.PRETRAINED
    if path == 'torchvision':
        if settings.STEM != 'plain':
            raise settings.UsageError("PRETRAINED='torchvision' has the plain stem; use STEM=plain with it")
        weights = torchvision.models.get_model_weights(f'resnet{settings.N_LAYERS}')['IMAGENET1K_V1']
        path = os.path.join(settings.MODEL_DIR, 'pretrained', os.path.basename(weights.url))
        try:
            weights.get_state_dict(model_dir=os.path.dirname(path), check_hash=True)
        except (urllib.error.URLError, OSError, RuntimeError) as e:
            raise UserError(f'{weights.url} could not be fetched ({e}); fetch it elsewhere and put it at {path}') from None
    if not path:
        return None
    if not os.path.isfile(path):
        raise UserError(f"{path}: these trunk weights (PRETRAINED) are missing; README, Trunk weights, says where to get them. "
                        "Others: PRETRAINED=torchvision STEM=plain, or PRETRAINED= for training from scratch")
    return load_weights(net, path, 'trunk')


def to_evaluate():
    """CHECKPOINT, or the run's best, final or latest checkpoint."""
    if settings.CHECKPOINT:
        return settings.CHECKPOINT
    paths = [os.path.join(folder(), name + '.pth') for name in ('best', 'final', 'latest')]
    for path in paths:
        if os.path.isfile(path):
            return path
    raise UserError(f'there is no checkpoint to evaluate: none of {", ".join(paths)} exists; train first, or name one by CHECKPOINT=FILE')


def differences(kept, names):
    """The settings among `names` that a checkpoint's kept ones contradict, as text: ['LR was 0.01, is 0.1', ...]."""
    now = settings.in_force()
    return [f'{n} was {kept[n]!r}, is {now[n]!r}' for n in names if n in kept and n in now and kept[n] != now[n]]
