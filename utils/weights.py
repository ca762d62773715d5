"""Checkpoint files: plain tensors and values, saved whole or not at all, and checked on reading.

save, read      files
check_weights   whether tensors can be weights at all
wrong_entry     whether a training state holds what training saved
Report          what of a file went into a network
"""

import math
import os
import warnings
import zipfile
from typing import NamedTuple

import torch

from utils import mxnet, safetensors
from utils.config import UserError
from utils.files import atomic_write
from utils.printable import shown_name

FLOATS = torch.float32, torch.float64, torch.float16, torch.bfloat16
INTEGERS = torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8
LARGEST = 2**30  # values of a network; the largest that settings describe have a tenth of it
UNPACKED = 20  # an archive holds at most this many times its size
STEPS = 10**12  # no run is longer


def save(path, state):
    """Write plain tensors and values to `path`: the whole file, or none if that fails."""
    try:
        with atomic_write(path) as f:
            torch.save(state, f)
    except RuntimeError as e:  # torch's error for a full disk
        reason = str(e).splitlines()[0]
        raise UserError(
            f'{path}: could not be written ({reason}); is the disk full? '
            'The checkpoints before it are whole'
        ) from None
    except OSError as e:
        raise UserError(
            f'{path}: could not be written ({e.strerror}); the checkpoints before it are whole'
        ) from None


def read(path):
    """Return the plain tensors and values of a checkpoint file; code inside is never run.

    The first bytes tell the container, whatever the file's ending: torch's own, MXNet's .params or
    .npz, safetensors. UserError if a checksum in it does not fit: torch itself would load flipped
    bits as weights.
    """
    if not os.path.isfile(path):
        raise UserError(f'{path}: there is no such checkpoint')
    try:
        return reader(path)(path)
    except UserError:
        raise
    except Exception as e:  # torch and zipfile raise many kinds
        if 'unsupported global' in str(e).lower():
            raise UserError(
                f'{path}: this file holds more than tensors and plain values, and loading it could '
                'run code; save its state dict alone: torch.save(net.state_dict(), FILE)'
            ) from None
        raise UserError(
            f'{path}: this is no checkpoint, or only part of one ({type(e).__name__}); '
            'fetch or save it again'
        ) from None


def reader(path):
    """Return the function that reads a checkpoint file."""
    with open(path, 'rb') as f:
        start = f.read(16)
    if start.startswith(mxnet.FIRST_BYTES):
        return mxnet.read_params
    if safetensors.is_header(start):
        return safetensors.read
    if zipfile.is_zipfile(path):  # files of torch before 1.6 are none, and have no checksums
        check_archive(path)
        if mxnet.is_npz(path):
            return mxnet.read_npz
    return read_torch


def read_torch(path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of kinds of tensors that are refused here
        return torch.load(path, map_location='cpu', weights_only=True)


def check_archive(path):
    """Raise UserError if a zip archive is damaged, or would unpack to much more than it is."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        total, size = sum(entry.file_size for entry in entries), os.path.getsize(path)
        if total > UNPACKED * size:
            raise UserError(
                f'{path}: this file of {size:,} bytes would unpack to {total:,}; '
                'fetch or save it again'
            )
        if not any(entry.CRC for entry in entries):
            return  # torch.serialization.set_crc32_options(False) leaves them out
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(
            f'{path}: this file is damaged, the checksum of {shown_name(damaged)} in it does not '
            'fit; fetch or save it again'
        )


# ---------------------------------------------------------------------------------- what is in them


def check_kinds(path, tensors):
    """Raise UserError if one of the tensors {name: tensor} of a file cannot be weights.

    They are dense and of a floating-point type; the counters of batch norms may be integers.
    """
    for name, tensor in tensors.items():
        kind = unfit(name, tensor)
        if kind:
            raise UserError(
                f'{path}: the tensor {shown_name(name)} is {kind}, but weights are plain '
                'floating-point numbers; save the state dict of the network as it was trained'
            )


def check_weights(path, tensors):
    """Raise UserError if tensors {name: tensor} of a file cannot be weights, or are not finite."""
    check_kinds(path, tensors)
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise UserError(
            f'{path}: these weights are not finite; the run that saved them had gone wrong, '
            'use an earlier checkpoint'
        )


def spread_channels(net, state, n):
    """Make weights on images of 3 channels, in a file's state dict, ones on n for a network.

    Each channel gets the mean of the three, times 3 / n, so that activations keep their
    scale. Return a sentence about it for the Report, or ''.
    """
    note = ''
    if n == 3:
        return note
    for key, ours in net.state_dict().items():
        theirs = state.get(key)
        if theirs is None or unfit(key, theirs) or ours.ndim != 4 or theirs.ndim != 4:
            continue
        wanted, shape = list(ours.shape), list(theirs.shape)
        if (wanted.pop(1), shape.pop(1)) == (n, 3) and wanted == shape:
            state[key] = theirs.float().mean(1, keepdim=True).mul(3 / n).expand(ours.shape)
            channels = '1 channel' if n == 1 else f'{n} channels'
            note += f'; {key} is of 3 channels: each of {channels} gets their mean, times 3/{n}'
    return note


def unfit(name, tensor):
    """Return in a few words why a tensor cannot be weights, or None."""
    if not torch.is_tensor(tensor):
        return f'no tensor but {type(tensor).__name__}'
    if tensor.is_nested:
        return 'nested'
    if tensor.is_quantized:
        return f'quantised ({tensor.dtype})'
    if tensor.layout != torch.strided:
        return f'sparse ({tensor.layout})'
    if tensor.is_meta:
        return 'without values (meta)'
    is_counter = name.endswith('num_batches_tracked') and tensor.dtype in INTEGERS
    if tensor.dtype not in FLOATS and not is_counter:
        return f'of type {tensor.dtype}'
    return None


def wrong_entry(state):
    """Return the name of an entry of a training state that training cannot have saved, or None."""
    fits = {
        'net': is_dict(state['net'], str) and all(map(torch.is_tensor, state['net'].values())),
        'opt': is_dict(state['opt'], str) and {'state', 'param_groups'} <= set(state['opt']),
        'scaler': is_dict(state['scaler'], str) and all(map(is_number, state['scaler'].values())),
        'step': is_count(state['step']),
        'best': is_best(state['best']),
        'rng': is_rng(state['rng']),
        'settings': is_dict(state.get('settings', {}), str),
        'images': is_count(state.get('images', 0)),
        'data': isinstance(state.get('data', ''), str),
        'to_score': state.get('to_score') is None or is_to_score(state['to_score']),
    }
    return next((name for name, fit in fits.items() if not fit), None)


def is_dict(value, kind):
    return isinstance(value, dict) and all(isinstance(key, kind) for key in value)


def is_number(value):
    return type(value) is int or (type(value) is float and math.isfinite(value))


def is_count(value):
    """Tell whether a value is a number of steps or images."""
    return type(value) is int and 0 <= value <= STEPS


def is_best(value):
    """Tell whether a value is the best score of a run: {'mIoU': -1 to 1, 'step': count}."""
    if not is_dict(value, str) or not {'mIoU', 'step'} <= set(value):
        return False
    return is_number(value['mIoU']) and abs(value['mIoU']) <= 1 and is_count(value['step'])


def is_to_score(value):
    """Tell whether a value is what training keeps of weights not scored yet: {'loss', 'curves'}."""
    if not is_dict(value, str) or not {'loss', 'curves'} <= set(value):
        return False
    return is_number(value['loss']) and isinstance(value['curves'], dict)


def is_rng(value):
    """Tell whether a value is utils.distributed.World.rng_state() of some number of processes."""
    if not isinstance(value, list) or not value:
        return False
    for state in value:
        if not is_dict(state, str) or not {'cpu', 'cuda'} <= set(state):
            return False
        if not isinstance(state['cuda'], list):
            return False
        for one in (state['cpu'], *state['cuda']):
            if not torch.is_tensor(one) or one.dtype != torch.uint8 or one.ndim != 1:
                return False
        if state['cpu'].shape != torch.get_rng_state().shape:
            return False
    return True


def check_optimizer(optimizer, before):
    """Raise ValueError if the state that an optimizer loaded does not suit its parameters.

    before  its param_groups as they were, copied
    """
    for old, group in zip(before, optimizer.param_groups, strict=True):
        for key in ('momentum', 'betas', 'weight_decay', 'lr_mult'):
            if key in old and not same_numbers(group.get(key), old[key]):
                raise ValueError(f'its optimizer has another {key}')
        for parameter in group['params']:
            check_moments(optimizer.state.get(parameter, {}), parameter, 'betas' in old)


def same_numbers(value, expected):
    """Tell whether a value is the number, or tuple of numbers, that is expected, and no tensor."""
    numbers = value if isinstance(value, tuple) else (value,)
    return all(type(number) in (int, float) for number in numbers) and value == expected


def check_moments(state, parameter, is_adam):
    """Raise ValueError if what an optimizer keeps of a parameter is of another kind."""
    names = ['momentum_buffer']
    if is_adam and state:
        names = ['exp_avg', 'exp_avg_sq']
        step = state.get('step')
        if unfit('step', step) or step.shape != ():
            raise ValueError('its optimizer has steps of another kind')
    for name in names:
        buffer = state.get(name)
        if buffer is None and not (is_adam and state):  # nothing yet, or a frozen parameter
            continue
        if unfit(name, buffer) or buffer.shape != parameter.shape:
            raise ValueError('its optimizer has momentum of another kind')


# -------------------------------------------------------------------------------- what came of them


class Report(NamedTuple):
    """What loading did.

    matched, missing, wrong  names of the network's tensors: the file has them, lacks them, or has
                             them in another shape
    unexpected               names in the file that the network has no place for
    step, settings           what the file says of them; None, {}
    left_out                 names in the file that are no part of a network
    note                     more to say
    classes                  the class table of the user's own data, if the file keeps it; None
    """

    path: str
    format: str
    matched: list
    missing: list
    wrong: list
    unexpected: list
    step: int = None
    settings: dict = {}
    note: str = ''
    left_out: list = []
    classes: tuple = None

    def __str__(self):
        total = len(self.matched) + len(self.missing) + len(self.wrong)
        text = f'{self.path} ({self.format}): {len(self.matched)} of {total} tensors matched'
        for what, names in (
            ('missing', self.missing),
            ('of another shape', self.wrong),
            ('not used', self.unexpected),
            ('left out', self.left_out),
        ):
            if names:
                some = ', '.join(map(shown_name, names[:4])) + (', ...' if len(names) > 4 else '')
                text += f', {len(names)} {what} ({some})'
        return text + self.note
