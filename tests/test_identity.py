"""Whose data and whose weights: digests, checksums, kept settings, archives, labels that fit their table."""

import copy
import io
import json
import os
import re
import shlex
import subprocess
import tarfile
import types
import zipfile

import numpy as np
import pytest
import torch
from helpers import blocks, build, make_camvid, put, small_net, write
from PIL import Image

import checkpoint
import dataset
import network
import prepare
import settings
from conversion import describe, sentences
from datasets import balance
from datasets.files import read_classes
from preparation import archives, check, convert, download
from utils import config, kept, script
from utils.config import UsageError, UserError
from utils.optim import param_groups

SHIPPED = config.current()
TWO = '0 0 0 0 back\n1 255 0 0 front\n'


def sentence_of(error):
    """The sentence of an exception, which must be one for the user."""
    text = script.sentence(error)
    assert text and '\n' not in text and '\x1b' not in text and len(text) < 1500
    return text


# ------------------------------------------------------------------------------------------- the run and its data


def a_run(tmp_path, **values):
    """(network, optimizer, scaler, data, state) of a run of two steps, whose latest.pth is saved."""
    make_camvid(tmp_path / 'data', NAME='mine', MODEL_DIR=str(tmp_path / 'models'))
    small_net(DATASET='camvid', **values)
    net = build()
    optimizer = torch.optim.SGD(param_groups(net), lr=0.1, momentum=settings.LR_MOM)
    for p in net.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    scaler = torch.amp.GradScaler('cpu', enabled=False)
    data = dataset.Dataset('train', train=True)
    state = {
        'net': net.state_dict(),
        'opt': optimizer.state_dict(),
        'scaler': scaler.state_dict(),
        'step': 2,
        'best': {'mIoU': 0.5, 'step': 1},
        'rng': [{'cpu': torch.get_rng_state(), 'cuda': []}],
        'settings': config.current(),
        'n_classes': 11,
        'images': len(data),
        'data': data.digest(),
    }
    checkpoint.save(latest(), state)
    return net, optimizer, scaler, data, state


def latest():
    return os.path.join(checkpoint.folder(), 'latest.pth')


def resumed(net, optimizer, scaler, data, state):
    """Save a state as latest.pth, and resume from it."""
    checkpoint.save(latest(), state)
    return checkpoint.resume(net, optimizer, scaler, data)


def test_a_run_resumes(tmp_path):
    *run, data, state = a_run(tmp_path)
    assert checkpoint.resume(*run, data)['step'] == 2
    older = {key: value for key, value in state.items() if key not in ('data', 'images')}
    assert resumed(*run, data, older)['step'] == 2


def test_digest(tmp_path):
    """It follows from the names, their order and the class table, not from where they lie."""
    digests = {}
    for where in ('here', 'there/deep'):
        make_camvid(tmp_path / where)
        digests[where] = dataset.Dataset('train', train=True).digest()
    assert digests['here'] == digests['there/deep']
    put(DATA_ROOT=os.path.relpath(tmp_path / 'here'))
    assert dataset.Dataset('train', train=False).digest() == digests['here']
    put(DATA_ROOT=str(tmp_path / 'here' / 'camvid'))
    data = dataset.Dataset('train', train=True)
    assert data.digest() == digests['here'] and len(data.digest()) < 40
    others = {digests['here']}
    for pairs in (
        data.pairs[::-1],
        data.pairs[:-1],
        [(image.replace('0001', '0009'), label) for image, label in data.pairs],
        [(image, label.replace('0001', '0009')) for image, label in data.pairs],
        [(image, None) for image, _ in data.pairs],
    ):
        others.add(dataset.Dataset('train', train=False, pairs=pairs).digest())
    assert len(others) == 6


def own_set(folder, table=TWO, labels=None, **values):
    """DATASET=folder of pictures with these labels (arrays), and this class table."""
    labels = [blocks(16, 24, i, classes=2, side=4) for i in range(4)] if labels is None else labels
    for i, label in enumerate(labels):
        shape = label.shape[:2]
        write(str(folder / 'images' / 'train' / f'{i}.png'), np.full((*shape, 3), 9 * i, np.uint8))
        path = folder / 'labels' / 'train' / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(path)
    (folder / 'classes.txt').write_text(table)
    put(**dict(DATASET='folder', DATA_ROOT=str(folder), NUM_WORKERS=0) | values)
    read_classes.cache_clear()


@pytest.mark.parametrize(
    'table',
    [
        '1 255 0 0 front\n0 0 0 0 back\n',
        '0 0 0 0 back\n1 255 0 0 top\n',
        '0 0 0 0 back\n1 255 9 0 front\n',
        '0 0 0 0 back\n1 255 0 0 front\n2 9 9 9 void\n',
        '0 0 0 0 back\n* 255 0 0 front\n',
    ],
)
def test_digest_of_a_table(table, tmp_path):
    own_set(tmp_path)
    before = dataset.Dataset('train', train=True).digest()
    own_set(tmp_path, table)
    after = dataset.Dataset('train', train=True).digest()
    assert before.split('-')[0] == after.split('-')[0] and before != after


def test_other_data_do_not_resume(tmp_path):
    *run, data, state = a_run(tmp_path)
    root = tmp_path / 'data' / 'camvid'
    for folder in ('train', 'trainannot'):
        os.rename(root / folder / '0003.png', root / folder / 'x.png')
    before = open(latest(), 'rb').read()
    with pytest.raises(UserError, match='files of other names than those of train now.*put the f'):
        checkpoint.resume(*run, dataset.Dataset('train', train=True))
    for folder in ('train', 'trainannot'):
        os.remove(root / folder / 'x.png')
    with pytest.raises(UserError, match='of a run on 4 images, train has 3 now.*another NAME'):
        checkpoint.resume(*run, dataset.Dataset('train', train=True))
    names, table = state['data'].split('-')
    with pytest.raises(UserError, match='with another class table than .*camvid.txt is now'):
        resumed(*run, data, state | {'data': f'{names}-{"0" * 16}'})
    checkpoint.save(latest(), state)
    assert open(latest(), 'rb').read() == before


DAMAGED = {
    'step': [-1, 10**30, 1.5, True, '3', None, torch.ones(1)],
    'best': [None, 0.5, {}, {'mIoU': 'x', 'step': 1}, {'mIoU': 0.5, 'step': -1},
             {'mIoU': float('nan'), 'step': 1}, {'mIoU': 5.0, 'step': 1}, {'mIoU': 0.1}],
    'rng': [None, [], {}, [1], [{'cpu': torch.ones(3), 'cuda': []}], [{'cpu': 'x', 'cuda': []}],
            [{'cpu': torch.zeros(3, dtype=torch.uint8), 'cuda': []}], [{'cuda': []}]],
    'opt': [None, [], {}, {'state': {}}, {1: 2}],
    'scaler': [None, 5, {'scale': 'x'}, {'scale': float('inf')}],
    'net': [None, {}, {'a': 1}, {'a': torch.ones(2)}, {1: torch.ones(2)}],
    'settings': [5, [1], 'x', {1: 2}],
    'images': ['x', -1, None],
    'data': [5, None, b'x'],
    'to_score': [5, {}, {'loss': 'x', 'curves': {}}, {'loss': 1.0, 'curves': 3}],
}  # fmt: skip


@pytest.mark.parametrize('name', DAMAGED)
def test_entries_that_training_does_not_save(name, tmp_path):
    *run, data, state = a_run(tmp_path)
    for value in DAMAGED[name]:
        if (name, value) == ('data', None):
            continue
        with pytest.raises(UserError) as e:
            resumed(*run, data, state | {name: value})
        text = sentence_of(e.value)
        assert 'latest.pth' in text and 'sh clean.sh mine' in text and 'move it away' not in text


def test_optimizer_states_of_another_kind(tmp_path):
    *run, data, state = a_run(tmp_path)

    def momentum(opt, make):
        for one in opt['state'].values():
            one['momentum_buffer'] = make(one['momentum_buffer'])

    for spoil in (
        lambda opt: opt['param_groups'].pop(),
        lambda opt: opt['param_groups'][0].update(lr_mult='x'),
        lambda opt: opt['param_groups'][0].update(momentum=0.1),
        lambda opt: opt['param_groups'][0].update(weight_decay=torch.ones(2)),
        lambda opt: opt['param_groups'][0].pop('lr_mult'),
        lambda opt: opt['param_groups'][0].update(params=5),
        lambda opt: opt.update(param_groups=5),
        lambda opt: opt.update(state=[1]),
        lambda opt: momentum(opt, lambda b: torch.ones(3)),
        lambda opt: momentum(opt, lambda b: 'x'),
        lambda opt: momentum(opt, lambda b: b.to_sparse()),
    ):
        sick = copy.deepcopy(state)
        spoil(sick['opt'])
        with pytest.raises(UserError, match='does not hold this network') as e:
            resumed(*run, data, sick)
        sentence_of(e.value)


def test_a_damaged_latest_names_the_ways_out(tmp_path):
    *run, data, state = a_run(tmp_path, NAME="o'brien & co")
    for content in (b'', b'garbage', open(latest(), 'rb').read()[:-500]):
        with open(latest(), 'wb') as f:
            f.write(content)
        with pytest.raises(UserError) as e:
            checkpoint.resume(*run, data)
        text = sentence_of(e.value)
        assert 'move it away' not in text
        assert shlex.split(text.partition('sh clean.sh ')[2])[0] == "o'brien & co"
    with pytest.raises(UserError, match='no training state .weights alone'):
        resumed(*run, data, state['net'])


def test_settings_of_another_version_do_not_resume(tmp_path):
    *run, data, state = a_run(tmp_path)
    for name, value, words in (
        ('UPSAMPLE', 'cubic', "UPSAMPLE was 'cubic', which this version does not know"),
        ('LR', float('nan'), 'LR was nan, which this version does not know'),
        ('LR', 10**500, 'LR was a int that is no setting'),
        ('MEAN', torch.ones(3), 'MEAN was a Tensor that is no setting'),
        ('HEAD_ARGS', 5, 'HEAD_ARGS was 5, which'),
        ('DATASET', 'x' * 10_000, r'DATASET was .x+\.\.\., is .camvid'),
    ):
        with pytest.raises(UserError, match=words) as e:
            resumed(*run, data, state | {'settings': state['settings'] | {name: value}})
        sentence_of(e.value)
    put(MAX_PIXELS=10**6)  # says what is read, not what is computed
    assert resumed(*run, data, state)


# ----------------------------------------------------------------------------------------------- files of weights


def own_file(path, **values):
    """The content of a checkpoint of this project's network, saved at `path`."""
    small_net(**values)
    content = {'net': build().state_dict(), 'step': 2, 'settings': config.current()}
    torch.save(content, path)
    config.put(SHIPPED)
    put(DATASET='shapes')
    return content


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_flipped_bits(tmp_path):
    """A file with a flipped bit is refused, or its weights are what they were."""
    path = tmp_path / 'net.pth'
    whole = own_file(path)['net']
    content, refused = path.read_bytes(), 0
    rng = np.random.default_rng(0)
    size = len(content)
    places = [*rng.integers(0, size, 40), *range(0, 60, 7), *range(size - 400, size, 29)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            state = checkpoint.read(str(path))['net']
        except UserError as e:
            sentence_of(e)
            refused += 1
        else:
            assert same(state, whole), place
    assert refused >= 40
    path.write_bytes(content)
    assert same(checkpoint.read(str(path))['net'], whole)


def test_a_flipped_bit_is_said(tmp_path):
    path = tmp_path / 'net.pth'
    own_file(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)
    for load in (checkpoint.load_network, lambda path: checkpoint.load_weights(build(), path)):
        with pytest.raises(UserError, match='is damaged, the checksum of .*data/.* does not fit'):
            load(str(path))


def test_files_without_checksums(tmp_path):
    """Those of old torch, and those whose checksums were left out."""
    path = tmp_path / 'net.pth'
    content = own_file(path)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert same(checkpoint.read(str(path))['net'], content['net'])
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(checkpoint.read(str(path))['net'], content['net'])


def test_archives_that_unpack_to_more_than_they_are(tmp_path):
    path = tmp_path / 'net.pth'
    torch.save({'net': {'a': torch.zeros(2**22)}}, tmp_path / 'large.pth')
    with (
        zipfile.ZipFile(tmp_path / 'large.pth') as large,
        zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as small,
    ):
        for name in large.namelist():
            small.writestr(name, large.read(name))
    with pytest.raises(UserError, match='bytes would unpack to 16,7.* fetch or save it again'):
        checkpoint.read(str(path))


KINDS = {
    'int64': lambda t: (1000 * t).long(),
    'int8': lambda t: t.to(torch.int8),
    'bool': lambda t: t > 0,
    'complex64': lambda t: t.to(torch.complex64),
    'sparse': lambda t: t.to_sparse(),
    'quantised': lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    'meta': lambda t: t.to('meta'),
    'float8_e4m3fn': lambda t: t.to(torch.float8_e4m3fn),
}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', KINDS)
def test_tensors_that_are_no_weights(kind, tmp_path):
    path = tmp_path / 'net.pth'
    content = own_file(path)
    sick = content | {
        'net': content['net'] | {'fc2.weight': KINDS[kind](content['net']['fc2.weight'])}
    }
    torch.save(sick, path)
    small_net()
    net = build()
    config.put(SHIPPED)
    put(DATASET='shapes')
    for load in (
        checkpoint.load_network,
        lambda path: checkpoint.load_weights(net, path),
    ):
        with pytest.raises(UserError, match=rf'the tensor fc2.weight is .*{kind}') as e:
            load(str(path))
        sentence_of(e.value)
    small_net()
    for part in ('any', 'trunk'):
        words = r'the tensor fc2.weight' if part == 'any' else None
        if words:
            with pytest.raises(UserError, match=words):
                checkpoint.load_weights(net, str(path), part)
        else:  # where it is not used it does not matter
            checkpoint.load_weights(net, str(path), part)


def test_resuming_from_tensors_that_are_no_weights(tmp_path):
    *run, data, state = a_run(tmp_path)
    for make in (KINDS['int64'], KINDS['complex64'], KINDS['bool']):
        sick = state['net'] | {'fc2.weight': make(state['net']['fc2.weight'])}
        with pytest.raises(UserError, match=r'the tensor fc2\.weight is'):
            resumed(*run, data, state | {'net': sick})


@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_other_sizes_are_converted(kind, tmp_path):
    path = tmp_path / 'net.pth'
    content = own_file(path)
    state = {}
    for name, tensor in content['net'].items():
        state[name] = tensor.to(kind) if tensor.is_floating_point() else tensor
    torch.save(content | {'net': state}, path)
    net, _ = checkpoint.load_network(str(path))
    assert net.fc2.weight.dtype == torch.float32
    assert torch.equal(net.fc2.weight, state['fc2.weight'].float())


@pytest.mark.parametrize('name', ['fc2.weight\x1b[31m', 'a\nb', 'x' * 10**6, '\u202eevil', ''])
def test_names_of_tensors_are_printable(name, tmp_path):
    path = str(tmp_path / 'net.pth')
    content = own_file(path)
    for state in (content['net'] | {name: torch.ones(2)}, {name: torch.ones(2)}):
        torch.save(content | {'net': state}, path)
        with pytest.raises(UserError) as e:
            checkpoint.load_network(path)
        assert sentence_of(e.value).isprintable()


# -------------------------------------------------------------------------------------------- the settings they keep


def nested(depth):
    value = ()
    for _ in range(depth):
        value = (value,)
    return value


def endless():
    value = []
    value.append(value)
    return value


def multiplied():
    value = ['x'] * 10
    for _ in range(12):
        value = [value] * 10
    return value


ABSURD = [2**40, 10**30, 10**5000, (10**9,) * 3, nested(500), endless(), multiplied(), float('nan'),
          -1, None, '$(touch pwned)', torch.ones(3), {}]  # fmt: skip
ARGUMENTS = [{'bins': nested(300)}, {'bins': (10**9,)}, {'bins': (1,) * 10**5}, {5: 6}, {'a\x1b': 1},
             {'mask': [[1], [1]]}, 'a\nb', True, []]  # fmt: skip


@pytest.mark.parametrize('name', [*describe.NETWORK, 'CROP_SIZE', 'N_CLASSES', 'DATASET'])
def test_kept_settings_of_any_kind(name, tmp_path):
    """A sentence, or a network that works; never a traceback, much memory or a long wait."""
    path = str(tmp_path / 'net.pth')
    content = own_file(path)
    for value in ABSURD + ARGUMENTS if name == 'HEAD_ARGS' else ABSURD:
        torch.save(content | {'settings': content['settings'] | {name: value}}, path)
        config.put(SHIPPED)
        put(DATASET='shapes')
        try:
            net, report = checkpoint.load_network(path)
        except (UserError, ValueError) as e:
            assert 'net.pth' in sentence_of(e)
            continue
        assert str(report).replace('\n', '').isprintable()
        assert sum(p.numel() for p in net.parameters()) < 2e7
        largest = [settings.STAGE_NUM, *settings.MULTI_GRID, settings.EM_BASES, settings.STRIDE]
        assert max(largest) <= 1000


def test_sizes_that_no_network_has(tmp_path):
    path = str(tmp_path / 'net.pth')
    content = own_file(path)
    for name, value in (
        ('EM_BASES', 10**9),
        ('HEAD_CHANNELS', 2**40),
        ('STAGE_NUM', 10**9),
        ('MULTI_GRID', (1, 10**6, 4)),
        ('HEAD_ARGS', {'bins': (10**9,)}),
        ('MEAN', (1e30, 0.0, 0.0)),
    ):
        torch.save(content | {'settings': content['settings'] | {name: value}}, path)
        with pytest.raises(UserError, match=f'the file keeps {name} = .*, which no network has'):
            checkpoint.load_network(path)


def test_sizes_that_tensors_only_claim(tmp_path):
    """A tensor of one number can say that it has millions; so much memory is not asked for."""
    path = str(tmp_path / 'net.pth')
    content = own_file(path)
    kept = content['settings'] | {'HEAD_CHANNELS': 2**16, 'EM_CHANNELS': 2**16}
    with torch.device('meta'):
        shapes = network.build(8, types.SimpleNamespace(**kept)).state_dict()
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in shapes.items()}
    torch.save({'net': state, 'step': 1, 'settings': kept}, path)
    with pytest.raises(UserError, match='has more than 1,073,741,824 weights'):
        checkpoint.load_network(path)


def test_settings_of_another_version(tmp_path):
    """What no tensor tells is not guessed; the command line may say it."""
    path = str(tmp_path / 'net.pth')
    content = own_file(path)
    for name, value in (('UPSAMPLE', 'cubic'), ('CHANNELS', 'hsv'), ('STRIDE', 12), ('EM_NORM', 3)):
        torch.save(content | {'settings': content['settings'] | {name: value}}, path)
        words = f'keeps {name} = {value!r}, which this version does not know.*{name}=VALUE'
        with pytest.raises(UserError, match=words):
            checkpoint.load_network(path)
        net, _ = checkpoint.load_network(path, explicit={name})
        assert net
    for none in (5, [1, 2], 'x'):
        torch.save(content | {'settings': none}, path)
        with pytest.raises(UserError, match='the settings in this file are no dict but'):
            checkpoint.load_network(path)
    for step in (-1, 10**30, True, 'x'):
        torch.save(content | {'step': step}, path)
        assert checkpoint.load_network(path)[1].step is None


@pytest.mark.parametrize(
    'value',
    [
        '$(touch pwned)',
        '`touch pwned`',
        'a; touch pwned',
        'a b',
        '"',
        "'",
        'a\nb',
        '!!',
        '\\',
        '~',
        '*',
    ],
)
def test_arguments_are_quoted_for_the_shell(value, tmp_path):
    text = sentences.as_arguments({'HEAD': value, 'HEAD_ARGS': {'type': value}, 'STRIDE': 8})
    command = f"printf '%s\\n' {text}"
    result = subprocess.run(['sh', '-c', command], cwd=tmp_path, capture_output=True, text=True)
    assert os.listdir(tmp_path) == [] and result.stderr == ''
    assert shlex.split(text) == result.stdout.splitlines() and len(shlex.split(text)) == 3
    if value.isprintable():
        assert shlex.split(text)[0] == f'HEAD={value}'


def test_arguments_as_one_types_them():
    values = {'MULTI_GRID': (1, 2, 4), 'HEAD': 'psp', 'HEAD_ARGS': {'type': 'both'}}
    wanted = '"MULTI_GRID=(1, 2, 4)" HEAD=psp "HEAD_ARGS={\'type\': \'both\'}"'
    assert sentences.as_arguments(values) == wanted


def test_only_data_sets_that_exist_are_named(tmp_path):
    path = str(tmp_path / 'net.pth')
    content = own_file(path)
    for name, words in (
        ('camvid', 'its data: DATASET=camvid'),
        ('$(touch pwned)', "it was trained on '$(touch pwned)', a data set that is not here"),
        ('a\x1b[31m', r"it was trained on 'a\x1b[31m', a data set"),
    ):
        kept = content['settings'] | {'DATASET': name, 'N_CLASSES': 8}
        torch.save(content | {'settings': kept}, path)
        _, report = checkpoint.load_network(path)
        assert words in str(report)


def test_a_network_of_another_table(tmp_path):
    """Loading says that the classes are not those it was trained with."""
    path = str(tmp_path / 'net.pth')
    own_set(tmp_path / 'set')
    digest = dataset.Dataset('train', train=True).digest()
    small_net(DATASET='folder')
    content = {'net': build().state_dict(), 'step': 2, 'settings': config.current()}
    for data, table, warned in (
        (digest, TWO, False),
        (digest, '1 255 0 0 front\n0 0 0 0 back\n', True),
        (None, TWO, False),
        (5, TWO, False),
    ):
        own_set(tmp_path / 'set', table)
        torch.save(content | {'data': data}, path)
        _, report = checkpoint.load_network(path)
        assert ('trained with another class table than' in str(report)) == warned


def test_plain_values():
    assert kept.plain_values({'a': (1, [2.5, None])}) is not None
    assert kept.is_plain(()) and kept.is_plain({}) and kept.is_plain(True)
    for value in (endless(), multiplied(), nested(5000), 10**30, torch.ones(1), b'x', {1, 2}):
        assert not kept.is_plain(value)


# ------------------------------------------------------------------------------------------------------ archives


def tar_gz(path, *entries):
    """A tar.gz of (TarInfo, content)."""
    with tarfile.open(path, 'w:gz') as f:
        for info, content in entries:
            info.size = len(content)
            f.addfile(info, io.BytesIO(content))


def unpack(path, tmp_path):
    archives.unpack(str(path), str(tmp_path / 'to'), ('good',))


def no_trace(tmp_path):
    assert sorted(p.name for p in tmp_path.iterdir()) == ['x']


def test_a_zip_that_unpacks_to_much_more(tmp_path):
    with zipfile.ZipFile(tmp_path / 'x', 'w', zipfile.ZIP_DEFLATED) as f:
        for i in range(40):
            f.writestr(f'good/{i}', bytes(2**20))
    with pytest.raises(UserError, match='bytes unpacks to .* or more, which no data set does'):
        unpack(tmp_path / 'x', tmp_path)
    no_trace(tmp_path)


def test_a_tar_that_unpacks_to_much_more(tmp_path):
    tar_gz(tmp_path / 'x', *((tarfile.TarInfo(f'good/{i}'), bytes(2**20)) for i in range(40)))
    with pytest.raises(UserError, match='which no data set does; nothing is unpacked'):
        unpack(tmp_path / 'x', tmp_path)
    no_trace(tmp_path)


def test_links_that_multiply_a_file(tmp_path):
    with tarfile.open(tmp_path / 'x', 'w:gz') as f:
        info = tarfile.TarInfo('good/0')
        info.size = 2**20
        f.addfile(info, io.BytesIO(bytes(2**20)))
        for i in range(1, 40):
            info = tarfile.TarInfo(f'good/{i}')
            info.type, info.linkname = tarfile.LNKTYPE, 'good/0'
            f.addfile(info)
    with pytest.raises(UserError, match='which no data set does'):
        unpack(tmp_path / 'x', tmp_path)
    no_trace(tmp_path)


def test_a_sparse_file_of_a_terabyte(tmp_path):
    """1.5 KB of an archive that GNU tar makes of a file with holes."""
    header = bytearray(tarfile.TarInfo('good/0').tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b'S'
    header[386:398] = b'%011o\0' % 0  # one hole from 0 on
    header[398:410] = b'%011o\0' % 0
    header[483:495] = b'\x80' + (2**40).to_bytes(11, 'big')  # real size
    header[148:156] = b' ' * 8
    header[148:156] = b'%06o\0 ' % sum(header)
    (tmp_path / 'x').write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(UserError, match='unpacks to 1099.5 GB or more|which no data set does'):
        unpack(tmp_path / 'x', tmp_path)
    no_trace(tmp_path)


def test_more_than_the_disk_has_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.shutil, 'disk_usage', lambda _: types.SimpleNamespace(free=5000))
    tar_gz(tmp_path / 'x', (tarfile.TarInfo('good/1'), bytes(6000)))
    with pytest.raises(UserError, match='GB are free; make room'):
        unpack(tmp_path / 'x', tmp_path)
    no_trace(tmp_path)


@pytest.mark.parametrize('kind', ['zip', 'tar'])
def test_entries_that_are_there_twice(kind, tmp_path):
    if kind == 'tar':
        tar_gz(tmp_path / 'x', *((tarfile.TarInfo('good/1'), b'%d' % i) for i in range(2)))
    else:
        with zipfile.ZipFile(tmp_path / 'x', 'w') as f, pytest.warns(UserWarning):
            f.writestr('good/1', b'0')
            f.writestr('good/1', b'1')
    with pytest.raises(UserError, match="the entry 'good/1' is there twice"):
        unpack(tmp_path / 'x', tmp_path)
    no_trace(tmp_path)


def test_more_entries_than_any_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, 'ENTRIES', 50)
    tar_gz(tmp_path / 'x', *((tarfile.TarInfo(f'good/{i}'), b'') for i in range(60)))
    with pytest.raises(UserError, match='has more than 50 entries'):
        unpack(tmp_path / 'x', tmp_path)
    no_trace(tmp_path)


@pytest.mark.parametrize('length', [300, 100_000])
def test_names_that_are_too_long(length, tmp_path):
    tar_gz(tmp_path / 'x', (tarfile.TarInfo('good/' + 'n' * length), b'1'))
    with pytest.raises(UserError) as e:
        unpack(tmp_path / 'x', tmp_path)
    assert str(tmp_path) in str(e.value) and '\n' not in str(e.value)
    no_trace(tmp_path)


@pytest.mark.parametrize('headers', [{'mtime': '1e30'}, {'path': 'good/a\0b'}])
def test_dates_and_names_that_no_system_has(headers, tmp_path):
    info = tarfile.TarInfo('good/1')
    info.pax_headers = headers
    tar_gz(tmp_path / 'x', (info, b'1'))
    with pytest.raises(UserError) as e:
        unpack(tmp_path / 'x', tmp_path)
    sentence_of(e.value)
    no_trace(tmp_path)


def test_a_part_that_is_a_link_or_anothers(tmp_path):
    victim = tmp_path / 'victim'
    victim.write_bytes(b'mine')
    (tmp_path / 'a.zip.part').symlink_to(victim)
    with pytest.raises(UserError, match=r'a\.zip\.part: this is a link'):
        download.open_part(str(tmp_path / 'a.zip.part'))
    assert victim.read_bytes() == b'mine'
    words = 'another process is fetching this file'
    with download.open_part(str(tmp_path / 'b.part')), pytest.raises(UserError, match=words):
        download.open_part(str(tmp_path / 'b.part'))
    download.open_part(str(tmp_path / 'b.part')).close()


def test_what_is_converted_replaces_nothing(tmp_path):
    """Of the user's own files; what an earlier conversion left is no obstacle."""
    for name, content in (('new/images/1.png', b'1'), ('new/images/2.png', b'2'), ('new/a', b'a')):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / 'to' / 'images').mkdir(parents=True)
    (tmp_path / 'to' / 'images' / '1.png').write_bytes(b'1')
    (tmp_path / 'to' / 'images' / '2.png').write_bytes(b'mine')
    with pytest.raises(UserError, match='to/images/2.png: this file is there.*move it away'):
        archives.add(str(tmp_path / 'new'), str(tmp_path / 'to'))
    assert (tmp_path / 'to' / 'images' / '2.png').read_bytes() == b'mine'
    assert not (tmp_path / 'to' / 'a').exists()
    os.remove(tmp_path / 'to' / 'images' / '2.png')
    archives.add(str(tmp_path / 'new'), str(tmp_path / 'to'))
    assert (tmp_path / 'to' / 'images' / '2.png').read_bytes() == b'2'


# ------------------------------------------------------------------------------------------------- conversions


def instances(path, images=None, annotations=()):
    images = images or [{'id': 1, 'file_name': 'a.jpg', 'height': 4, 'width': 6}]
    path.write_text(json.dumps({'images': images, 'annotations': list(annotations)}))


def annotation(**values):
    shape = [[0, 0, 3, 0, 3, 3]]
    one = {'image_id': 1, 'category_id': 1, 'iscrowd': 0, 'area': 1, 'segmentation': shape}
    return one | values


@pytest.mark.parametrize(
    'images',
    [
        [{'id': 1, 'file_name': 'a.jpg', 'height': 10**9, 'width': 10**9}],
        [{'id': 1, 'file_name': 'a.jpg', 'height': 0, 'width': 5}],
        [{'id': 1, 'file_name': 'a.jpg', 'height': 2.5, 'width': 5}],
        [{'id': 1, 'file_name': '..', 'height': 4, 'width': 5}],
        [{'id': 1, 'file_name': 5, 'height': 4, 'width': 5}],
        [{'id': [1], 'file_name': 'a.jpg', 'height': 4, 'width': 5}],
        [{'id': i, 'file_name': f'{i}/a.jpg', 'height': 4, 'width': 5} for i in range(2)],
    ],
)
def test_instances_with_images_that_are_none(images, tmp_path):
    put(DATASET='coco_voc', NUM_WORKERS=0)
    instances(tmp_path / 'i.json', images)
    with pytest.raises(UserError, match='no instances JSON of COCO') as e:
        convert.draw_instances(str(tmp_path / 'i.json'), str(tmp_path / 'to'))
    sentence_of(e.value)
    assert os.listdir(tmp_path) == ['i.json']


@pytest.mark.parametrize(
    'values',
    [
        {'segmentation': [[0, 0, 1e400, 0, 3, 3]]},
        {'segmentation': [[0, 0, 'x', 0, 3, 3]]},
        {'segmentation': {'size': [4, 6], 'counts': [10**12]}},
        {'segmentation': {'size': [10**6, 10**6], 'counts': [10**12]}},
        {'segmentation': {'size': [4, 6], 'counts': [-24, 48]}},
        {'segmentation': {'size': [4, 6], 'counts': 'o' * 10**5}},
        {'segmentation': {'size': 5, 'counts': []}},
        {'segmentation': 7},
        {'iscrowd': 'x'},
    ],
)
def test_instances_that_cannot_be_drawn(values, tmp_path):
    put(DATASET='coco_voc', NUM_WORKERS=0)
    instances(tmp_path / 'i.json', annotations=[annotation(**values)])
    with pytest.raises(UserError, match='cannot be drawn') as e:
        convert.draw_instances(str(tmp_path / 'i.json'), str(tmp_path / 'to'))
    sentence_of(e.value)
    assert os.listdir(tmp_path) == ['i.json']


def test_a_json_that_is_nested_without_end(tmp_path):
    put(DATASET='coco_voc')
    (tmp_path / 'i.json').write_text('{"images": ' + '[' * 100_000 + ']' * 100_000 + '}')
    with pytest.raises(UserError, match='no instances JSON of COCO'):
        convert.draw_instances(str(tmp_path / 'i.json'), str(tmp_path / 'to'))


# -------------------------------------------------------------------------------------------- labels and their table


MASKS = [np.where(blocks(16, 24, i, classes=2, side=4), 255, 0).astype(np.uint8) for i in range(4)]
INDICES = [blocks(16, 24, i, classes=2, side=4) for i in range(4)]
COLOURS = [np.stack([255 * one, 0 * one, 0 * one], 2) for one in INDICES]
VOID = [np.full((16, 24), 255, np.uint8)] * 4
ZEROS = [np.zeros((16, 24), np.uint8)] * 4
FAULTY = {
    'masks of 0 and 255': (TWO, MASKS, 'does not name the value 255, .*`255 255 0 0 front`, not `1 '),
    'three classes, one as 255': (
        TWO + '2 0 0 255 top\n',
        [np.where(one == 1, 255, blocks(16, 24, i + 9, classes=2, side=8)) for i, one in enumerate(INDICES)],
        'no pixel is top; if 255 stands for top',
    ),
    'thin masks': (
        TWO,
        [np.where(np.arange(24) == 3, 255, 0).astype(np.uint8)[None].repeat(16, 0)] * 4,
        'while no pixel is front',
    ),
    'void in the colour of a class': (TWO + '2 255 0 0 void\n', COLOURS, r'colour \(255, 0, 0\) means front and void'),
    'void in the colour of a class, indices': (TWO + '2 0 0 0 void\n', INDICES, 'means back and void'),
    'two classes of one colour': (TWO + '2 255 0 0 top\n', COLOURS, 'means front and top'),
    'void everywhere': (TWO, VOID, 'all pixels of the labels are void'),
    'void everywhere, by the table': (TWO + '7 9 9 9 void\n', [one + 7 for one in ZEROS], 'all pixels of the labels are void'),
    'one class in the table': ('* 0 0 0 all\n', INDICES, 'a single class, all: there is nothing to tell it from'),
    'one class in the table, and void': ('1 255 0 0 front\n0 0 0 0 void\n', INDICES, 'a single class, front'),
    'one class in the labels': (TWO, ZEROS, 'are back, and no other class of .*classes.txt occurs'),
    'one class beside void': (TWO + '2 9 9 9 void\n', [2 * one for one in INDICES], 'are back, and no other'),
}  # fmt: skip


@pytest.mark.parametrize('name', FAULTY)
def test_labels_that_do_not_go_with_their_table(name, tmp_path, capsys):
    table, labels, words = FAULTY[name]
    own_set(tmp_path, table, [label.astype(np.uint8) for label in labels])
    with pytest.raises(
        UserError, match='and its class table do not go together: train: .*' + words
    ):
        check.check([])
    assert 'in order' not in capsys.readouterr().out
    if 'indices' in name:  # their colours are for display
        dataset.Dataset('train', train=True).check()
    else:
        with pytest.raises(UserError, match=words):
            dataset.Dataset('train', train=True).check()


@pytest.mark.parametrize(
    'table, labels, warned',
    [
        (TWO, INDICES, None),
        (TWO, COLOURS, None),
        (TWO + '255 9 9 9 void\n', [np.where(one[:, ::-1] > 0, 255, one) for one in INDICES], None),
        ('0 0 0 0 back\n255 255 0 0 front\n', MASKS, None),
        (
            TWO,
            [np.where(np.arange(24) < 2, 255, one) for one in INDICES],
            '255 is void .8.3% of the',
        ),
        (
            TWO + '2 0 0 255 top\n255 9 9 9 void\n',
            [np.where(np.arange(24) < 8, 255, one) for one in INDICES],
            'are void, and none is top',
        ),
        (TWO + '2 255 0 0 top\n', [blocks(16, 24, 1, classes=3, side=4)], 'means front and top'),
        (
            TWO + '2 1 2 3 Void\n',
            [blocks(16, 24, 1, classes=3, side=4)],
            'Void is a class like all',
        ),
        (
            TWO + '2 1 2 3 front\n',
            [blocks(16, 24, 1, classes=3, side=4)],
            'two classes have the name',
        ),
    ],
)
def test_labels_that_go_with_their_table(table, labels, warned, tmp_path, capsys):
    own_set(tmp_path, table, [label.astype(np.uint8) for label in labels])
    check.check([])
    out = capsys.readouterr().out
    assert 'what is there is in order' in out
    lines = dataset.Dataset('train', train=True).check()
    if warned is None:
        assert 'warning' not in out and lines == []
    else:
        assert [line for line in out.splitlines() if line.startswith('warning: ')]
        assert len(lines) == 1
        assert re.search(warned, lines[0]), lines[0]


def test_a_class_that_is_rare_is_no_fault(tmp_path):
    """Sixteen labels without it are not enough to say that it never occurs."""
    label = np.where(np.arange(24) < 6, 255, 0).astype(np.uint8)[None].repeat(16, 0)
    labels = [label.copy() for _ in range(20)]
    labels[7][:, 20:] = 1
    own_set(tmp_path, TWO, labels)
    (line,) = dataset.Dataset('train', train=True).check()
    assert '255 is void (25.0% of the pixels)' in line


def test_check_ends_with_status_1(tmp_path, monkeypatch, capsys):
    """As a user gives it, with ~ for the home folder."""
    own_set(tmp_path / 'mine', TWO, MASKS)
    monkeypatch.setenv('HOME', str(tmp_path))
    flags = prepare.parser().read(['folder', '--check', '--root=~/mine'])
    with pytest.raises(UserError, match='if 255 stands for front') as e:
        prepare.main(flags)
    assert script.exit_status(e.value) == 1
    assert str(tmp_path / 'mine') in capsys.readouterr().out
    sentence_of(e.value)


def as_jpeg(folder):
    label = folder / 'labels' / 'train' / '1.png'
    Image.open(label).convert('L').save(folder / 'labels' / 'train' / '1.jpg')
    lines = [
        f'images/train/{i}.png labels/train/{i}.{"jpg" if i == 1 else "png"}' for i in range(4)
    ]
    (folder / 'train.txt').write_text('\n'.join(lines))
    return '1.jpg: '


def with_other_indices(folder):
    for i in range(4):
        path = folder / 'labels' / 'train' / f'{i}.png'
        values = 1 - np.asarray(Image.open(path))
        picture = Image.fromarray(values)
        picture.putpalette([255, 0, 0, 0, 0, 0])
        picture.save(path)
    return '0.png: its palette'


def of_one_stem(folder):
    path = folder / 'images' / 'train' / '1.png'
    Image.open(path).save(path.with_suffix('.jpg'))
    return '1.jpg|1.png'


def cut_off(folder):
    path = folder / 'labels' / 'train' / '1.png'
    path.write_bytes(path.read_bytes()[:-30])
    return '1.png'


@pytest.mark.parametrize('spoil', [as_jpeg, with_other_indices, of_one_stem, cut_off])
def test_check_of_files_that_have_no_one_reading(spoil, tmp_path, capsys):
    own_set(tmp_path)
    words = spoil(tmp_path)
    with pytest.raises(UserError, match='of the files of folder cannot be used') as e:
        check.check(['train'])
    assert re.search(words, str(e.value)) and script.exit_status(e.value) == 1
    assert 'in order' not in capsys.readouterr().out
    sentence_of(e.value)


def test_check_changes_nothing(tmp_path):
    own_set(tmp_path)
    before = {
        p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in tmp_path.rglob('*')
    }
    check.check([])
    after = {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in tmp_path.rglob('*')}
    assert before == after


def test_counts_of_a_data_set_of_others(tmp_path):
    """A stand-in in which classes are missing is no fault; one class alone is."""
    make_camvid(tmp_path)
    assert dataset.Dataset('train', train=True).check() == []
    for i in range(4):
        write(
            str(tmp_path / 'camvid' / 'trainannot' / f'{i:04d}.png'), np.full((40, 56), 3, np.uint8)
        )
    with pytest.raises(UserError, match='are Road, and no other class'):
        dataset.Dataset('train', train=True).check()


def test_judge_by_hand():
    class Table:
        names, raw, void, path = ['a', 'b', 'c'], [0, 1, 2], [], '/x/mine/classes.txt'
        colours = np.array([[0, 0, 0], [1, 2, 3], [4, 5, 6]])

    def judged(pixels, void=0, own=True):
        return balance.judge(np.array(pixels), void, Table, own)

    assert judged([5, 5, 5]) == ([], [])
    assert judged([5, 5, 0]) == ([], [])
    (warning,) = judged([50, 50, 50], 1).warnings
    assert warning == (
        '255 is void (0.7% of the pixels), though mine/classes.txt does not name it; '
        'the line `255 0 0 0 void` says so'
    )
    assert judged([50, 50, 50], 1, own=False) == ([], [])
    assert 'is c, its' not in judged([50, 50, 0], 100).faults[0]
    assert '`255 4 5 6 c`, not `2 4 5 6 c`' in judged([50, 50, 0], 100).faults[0]
    assert judged([50, 50, 0], 100, own=False).faults == []
    assert 'none is c' in judged([50, 50, 0], 100, own=False).warnings[0]
    assert judged([0, 0, 0], 100, own=False).faults and judged([0, 9, 0]).faults


def test_the_cache_does_not_go_among_images(tmp_path):
    put(DATASET='folder', DATA_ROOT=str(tmp_path), NUM_WORKERS=0)
    (tmp_path / 'classes.txt').write_text('0 0 0 0 a\n1 9 9 9 b\n')
    (tmp_path / 'pixels').mkdir()
    label = np.array([[0, 1], [1, 1]], np.uint8)
    for name, pixels in (('pixels/x.png', np.zeros((2, 2, 3), np.uint8)), ('y.png', label)):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / 'train.txt').write_text('pixels/x.png y.png\n')
    with pytest.raises(UsageError, match='your images lie in .*pixels, where the cache would be'):
        prepare.cache(['train'])
    assert sorted(os.listdir(tmp_path / 'pixels')) == ['x.png']
