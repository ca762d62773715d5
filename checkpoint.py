"""Checkpoints: saved whole or not at all, resumed from, and loaded whoever made them.

save, read      files of plain tensors and values
resume          a run's own latest checkpoint, for training to go on
load_network    the network of a file, built as the file says: for evaluation
load_weights    a file into a network that settings describe: INIT, PRETRAINED
"""

import os
import urllib.error
from types import SimpleNamespace

import torch
import torchvision

import dataset
import network
import settings
from conversion import mmseg, origin
from conversion.describe import (
    NETWORK,
    TRUNK,
    describe,
    implied,
    misfit,
    open_file,
    possible_strides,
    published,
    to_use,
    trunk_settings,
)
from conversion.sentences import as_arguments, contradicted, contradiction, join, same, source
from datasets.table import DATASETS
from heads import HEADS
from heads.blocks import Head, SettingsError
from utils import config
from utils.config import UsageError, UserError
from utils.kept import shown, sift
from utils.older import OLDER, deep_with_strides_in_1x1
from utils.optim import take_formats
from utils.printable import printable, shell_word, shown_name
from utils.weights import (
    LARGEST,
    Report,
    check_kinds,
    check_optimizer,
    check_weights,
    read,
    save,  # noqa: F401 (checkpoint.save)
    spread_channels,
    wrong_entry,
)

# Settings that a run may change when it resumes.
FREE = (
    'NAME', 'ITER_MAX', 'ITER_LOG', 'ITER_VAL', 'ITER_SAVE', 'NUM_WORKERS', 'DEVICES', 'DATA_ROOT',
    'LOG_DIR', 'MODEL_DIR', 'CHECKPOINT', 'TEST_SCALES', 'TEST_FLIP', 'TEST_CROP', 'TEST_BASE_SIZE',
    'TEST_SHORT_SIDE', 'TEST_BATCH', 'SAVE_DIR', 'COMPILE', 'PRETRAINED', 'INIT',
    'MAX_PIXELS',
)  # fmt: skip


# ------------------------------------------------------------------------------------- a run's own


def folder():
    """Return the folder of the run's checkpoints."""
    return os.path.join(settings.MODEL_DIR, settings.NAME)


def to_evaluate():
    """Return CHECKPOINT, or the run's best, final or latest checkpoint."""
    if settings.CHECKPOINT:
        return settings.CHECKPOINT
    paths = [os.path.join(folder(), name + '.pth') for name in ('best', 'final', 'latest')]
    for path in paths:
        if os.path.isfile(path):
            return path
    raise UserError(
        f'there is no checkpoint to evaluate: none of {", ".join(paths)} exists; train first, '
        'or name one by CHECKPOINT=FILE'
    )


def differences(kept, names):
    """Return which of the settings `names` differ from kept ones: ['LR was 0.01, is 0.1', ...]."""
    if not kept:
        return []
    valid, invalid = sift(kept)
    old, now = OLDER | valid, sift(config.current())[0]
    differ = removed(kept, old, now, names)
    for name in names:
        if name in invalid:
            differ.append(f'{name} was {invalid[name]}, which this version does not know')
    apart = {'BN_MOM'}
    if 'BN_MOM' in names and 'BN_MOM' in old:
        was, momentum = config.bn_momentum(old), config.bn_momentum(now)
        if was != momentum and now['BN_MOM'] is None:
            differ.append(
                f'BN_MOM was {was!r}, is {momentum!r}, as follows from PRETRAINED and INIT'
            )
        elif was != momentum:
            differ.append(f'BN_MOM was {was!r}, is {momentum!r}')
    for name in names:
        if name not in apart and name in old and name in now and old[name] != now[name]:
            differ.append(f'{name} was {shown(old[name])}, is {shown(now[name])}')
    return differ


def removed(kept, old, now, names):
    """Return what kept settings have that this version cannot compute: ['... was ...', ...].

    kept      as an older version wrote them
    old, now  the same under today's names, and the settings in force
    names     settings that matter
    """
    differ = []
    if 'LOSS' in names and 'LR_MIN' not in kept and old.get('LOSS') == now['LOSS'] == 'ohem':
        differ.append(
            'OHEM_KEEP was pixels per device, is pixels per image, '
            'and LOSS_AVG=all divided by the hard pixels'
        )
    weights = kept.get('EXTRA_WEIGHTS')
    if 'HEAD' in names and isinstance(weights, tuple):
        head = HEADS.get(old.get('HEAD'), Head)
        if weights != head.aux_weights:
            differ.append(f'EXTRA_WEIGHTS was {weights!r}, and can no longer be set')
    if 'STEM' in names and deep_with_strides_in_1x1(kept):
        differ.append("STRIDE_IN_1X1 was True, and can no longer be set with STEM='deep'")
    stages = kept.get('TEST_STAGE_NUM')
    has_em_unit = 'STAGE_NUM' in names and old.get('HEAD') == 'ema' and type(stages) is int
    if has_em_unit and stages != old.get('STAGE_NUM'):
        differ.append(
            f'TEST_STAGE_NUM was {stages}, and evaluation can no longer have another number '
            'of EM iterations than STAGE_NUM'
        )
    return differ


def resume(net, optimizer, scaler, data):
    """Restore the run from its latest checkpoint and return its state, or None if there is none.

    UserError if it was made with other settings, or on other data than the Dataset `data`.
    """
    path = os.path.join(folder(), 'latest.pth')
    if not os.path.isfile(path):
        return None
    over = f'choose another NAME, or remove the run: sh clean.sh {shell_word(settings.NAME)}'
    try:
        state = read(path)
    except UserError as e:
        raise UserError(f'{e}; or {over}') from None
    needed = {'net', 'opt', 'scaler', 'step', 'best', 'rng'}
    if not isinstance(state, dict) or not needed <= set(state):
        raise UserError(
            f'{path} is no training state (weights alone?); {over}. INIT=FILE starts from weights'
        )
    wrong = wrong_entry(state)
    if wrong:
        raise UserError(f'{path}: the entry {wrong!r} is not what training saves; {over}')
    fixed = [name for name in config.current() if name not in FREE]
    differ = differences(state.get('settings', {}), fixed)
    if differ:
        raise UserError(
            f'{path} is of a run with other settings ({"; ".join(differ)}); '
            'choose another NAME, run clean.sh, or go on with the settings, and the version, '
            'that it began with'
        )
    check_data(path, state, data)
    before = [dict(group) for group in optimizer.param_groups]
    check_kinds(path, state['net'])
    try:
        net.load_state_dict(state['net'])
        optimizer.load_state_dict(state['opt'])
        scaler.load_state_dict(state['scaler'])
        check_optimizer(optimizer, before)
        take_formats(optimizer)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        reason = shown_name(str(e).splitlines()[0] if str(e) else type(e).__name__)
        raise UserError(f'{path} does not hold this network ({reason}); {over}') from None
    return state


def check_data(path, state, data):
    """Raise UserError if a training state was saved on other data than the Dataset `data`.

    Older ones hold the number of images alone, or nothing.
    """
    before, split = state.get('images', len(data)), settings.TRAIN_SPLIT
    if before != len(data):
        raise UserError(
            f'{path} is of a run on {before} images, {split} has {len(data)} now, so '
            'it would not be the same run; put the images back, or choose another NAME'
        )
    was, now = state.get('data'), data.digest()
    if was in (None, now):
        return
    if was.partition('-')[0] == now.partition('-')[0]:
        raise UserError(
            f'{path} is of a run with another class table than {data.classes.path} is now, so '
            'it would not be the same run; put the table back, or choose another NAME'
        )
    raise UserError(
        f'{path} is of a run on files of other names than those of {split} now, or in another '
        'order, so it would not be the same run; put the files back, or choose another NAME'
    )


# -------------------------------------------------------------------------------------- loading


def counts(key, part):
    """Tell whether a tensor is compared; num_batches_tracked is not, older files lack it."""
    return in_part(key, part) and not key.endswith('num_batches_tracked')


def in_part(key, part):
    return part != 'trunk' or key.startswith('extractor.')


def compare(net, file, part=None):
    """Return a Report of the tensors of a network, or of its trunk, against those of a File."""
    ours = {key: value.shape for key, value in net.state_dict().items() if counts(key, part)}
    matched, missing, wrong = [], [], []
    for key, shape in ours.items():
        if key not in file.state:
            missing.append(key)
        elif file.state[key].shape == shape:
            matched.append(key)
        else:
            wrong.append(key)
    unexpected = [key for key in file.state if counts(key, part) and key not in ours]
    return Report(
        file.path, file.format, matched, missing, wrong, unexpected, file.step, file.settings,
        left_out=file.left_out,
    )  # fmt: skip


def copy(net, file, matched, part=None):
    """Copy the tensors that matched, and the counters of batch norms, into a network."""
    counters = {key for key in file.state if key.endswith('num_batches_tracked')}
    names = {*matched, *(key for key in counters if in_part(key, part))}
    ours = {key: value for key, value in net.state_dict().items() if key in names}
    check_weights(file.path, {key: file.state[key] for key in ours})
    with torch.no_grad():
        for key, value in ours.items():
            value.copy_(file.state[key])


def outline(n_classes, values, path):
    """Return the network that a file's settings describe, without numbers and so without memory."""
    values = SimpleNamespace(**(config.current() | values))
    try:
        try:
            with torch.device('meta'):  # shapes alone: a damaged file cannot ask for much memory
                net = network.build(n_classes, values)
        except NotImplementedError:  # a head of one's own that computes with numbers
            net = network.build(n_classes, values)
    except SettingsError as e:
        raise UsageError(f'{path}: {printable(e, most=400)}') from None
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as e:
        raise UserError(f'{path}: {printable(str(e).splitlines()[0], most=400)}') from None
    if sum(tensor.numel() for tensor in net.state_dict().values()) > LARGEST:
        raise UserError(
            f'{path}: the network that this file describes has more than {LARGEST:,} weights; '
            'it is damaged, fetch or save it again'
        )
    return net


def load_network(path, explicit=()):
    """Return the network of a checkpoint file, whoever made it, and a Report.

    Settings of the network are put in force as the file tells them, or as its makers released it.
    So is its data set. `explicit` are names that the command line gave: their values in force take
    precedence, and UserError says where tensors contradict them.
    """
    file = open_file(read(path), path)
    mmseg.check(file)
    adopted = origin.adopt(file, explicit)
    given = {}
    for name in (*NETWORK, 'N_CLASSES', 'CROP_SIZE', 'TEST_CROP'):
        if name in explicit and getattr(settings, name) is not None:
            given[name] = getattr(settings, name)
    try:
        told, released = describe(file, given)
    except (TypeError, ArithmeticError) as e:  # HEAD_ARGS are checked by the head, later
        raise UsageError(f'{path}: its settings or HEAD_ARGS are not valid ({e})') from None
    strides = possible_strides(told)
    stride_unknown = not file.settings and not released
    if stride_unknown and strides and settings.STRIDE not in strides:
        told['STRIDE'] = strides[0]
    described = join(released, told)
    differ = contradicted(given, described)
    if 'HEAD' in differ:  # it may not even be possible to build it
        raise contradiction(file, differ, described)

    values = join(described, given)
    config.check_channels(config.current() | values)
    n_classes = values.pop('N_CLASSES', None) or dataset.n_classes()
    report = compare(outline(n_classes, values, path), file)
    if report.missing or report.wrong or report.unexpected:
        if differ:
            raise contradiction(file, differ, described)
        raise UserError(f'{report}; {misfit(file)}')

    config.put(values | {'N_CLASSES': n_classes})
    net = network.build(n_classes, settings)
    copy(net, file, report.matched)
    said = source(file, told, released, given, DATASETS) + origin.note(file, adopted, explicit)
    return net, report._replace(note=said, classes=origin.table(file, n_classes))


def load_weights(net, path, part=None):
    """Copy the tensors of a checkpoint file into `net` and return a Report.

    part  None: everything must match, else UserError, and nothing is copied
          'trunk': all of the trunk must match, the rest is left as it is
          'any': whatever matches is copied
    """
    file = open_file(read(path), path)
    spread = spread_channels(net, file.state, len(settings.MEAN))
    report = compare(net, file, part)
    trunk = trunk_settings(file.shapes)
    if settings.STEM == 'caffe' and trunk.get('STEM') == 'plain':
        trunk['STEM'] = 'caffe'  # the same tensors
    other = to_use(trunk)
    if part == 'any' and other:
        raise UserError(
            f'{path} ({file.format}) has another trunk than settings describe; to start from it: '
            f'{as_arguments(trunk | other)}'
        )
    mismatch = report.missing or report.wrong or report.unexpected
    if not report.matched or (mismatch and part != 'any'):
        if part != 'trunk':
            mmseg.check(file)
            raise UserError(f'{report}; {misfit(file)}')
        if other:
            raise UserError(f'{report}; its trunk does not fit; to use it: {as_arguments(other)}')
        raise UserError(f'{report}; its trunk does not fit; name another by PRETRAINED=FILE')
    copy(net, file, report.matched, part)
    return report._replace(note=spread + note(file, part, spread))


def note(file, part, spread=''):
    """Return how settings differ from what a file was trained with, for its Report."""
    text = ''
    names = TRUNK if part == 'trunk' else NETWORK
    if spread:  # to other channels
        names = [name for name in names if name not in ('MEAN', 'STD', 'CHANNELS')]
    if file.foreign:
        told = implied(file.shapes)
        released = published(file, told)
        other = {name: released[name] for name in names if name in released}
        other = {k: v for k, v in other.items() if not same(v, getattr(settings, k))}
        args = other.pop('HEAD_ARGS', {})
        if args and told['HEAD'] == settings.HEAD:
            args = HEADS[settings.HEAD].differing(args, settings.HEAD_ARGS)
            other |= {'HEAD_ARGS': args} if args else {}
        if other:
            text += f'; its makers have {as_arguments(other)}'
    differ = differences(file.kept, names) if part == 'any' else []
    if differ:
        text += f'; trained with other settings: {"; ".join(differ)}'
    return text + (origin.other_classes(file) if part == 'any' else '')


def load_trunk(net):
    """Load PRETRAINED into the trunk and return the Report, or None where PRETRAINED is ''."""
    path = settings.PRETRAINED
    if path == 'torchvision':
        path = fetch_torchvision()
    if not path:
        return None
    if not os.path.isfile(path):
        others = {'resnet': 'PRETRAINED=torchvision STEM=plain, or '}
        if settings.TRUNK in torchvision.models.list_models():
            others[settings.TRUNK] = 'PRETRAINED=torchvision, or '
        raise UserError(
            f'{path}: these trunk weights (PRETRAINED) are missing; docs/checkpoints.md, '
            f'Trunk weights, says where to get some. Others: {others.get(settings.TRUNK, "")}'
            'PRETRAINED= for training from scratch'
        )
    return load_weights(net, path, 'trunk')


def fetch_torchvision():
    """Return the file with torchvision's weights for the trunk, fetched if it is not there."""
    name = settings.TRUNK
    if name == 'resnet':
        if settings.STEM not in ('plain', 'caffe'):
            raise UsageError("PRETRAINED='torchvision' has the plain stem; use STEM=plain with it")
        name = f'resnet{settings.N_LAYERS}'
    try:
        weights = torchvision.models.get_model_weights(name)['IMAGENET1K_V1']
    except ValueError:
        raise UsageError(
            f'PRETRAINED=torchvision: torchvision has no TRUNK={name}; name a file, or train from '
            'scratch with PRETRAINED='
        ) from None
    path = os.path.join(settings.MODEL_DIR, 'pretrained', os.path.basename(weights.url))
    try:
        weights.get_state_dict(model_dir=os.path.dirname(path), check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as e:
        raise UserError(
            f'{weights.url} could not be fetched ({e}); fetch it elsewhere and put it at {path}, '
            'or train from scratch, which takes longer: PRETRAINED='
        ) from None
    return path
