"""Every mistake gets one sentence that names the culprit and a way out, a status (2: usage, 1: the rest), and costs nothing that was there."""

import functools
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import signal

import helpers
import numpy as np
import pytest
import torch
from helpers import build
from PIL import Image

import dataset

pytest.register_assert_rewrite('answers', 'scripts')
from answers import assert_told  # noqa: E402
from scripts import Room, finish, snapshot, start, torchrun  # noqa: E402

pytest_plugins = 'scripts'


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """A run `tiny` of two steps, scored."""
    room = Room(tmp_path_factory.mktemp('trained'), data)
    room.ok('train.py', 'ITER_VAL=2')
    yield room
    shutil.rmtree(room.models)


@pytest.fixture
def kept(trained, room):
    """A room with the latest and best checkpoint of `tiny`, which must still be there, whole, when the test is over, and nothing half written."""
    shutil.copytree(trained.models, room.models)
    before = snapshot(room.models)
    yield room
    assert snapshot(room.models) == before  # no file *.part either


# -------------------------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    'args, words',
    [
        ('BATCHSIZE=4', ['BATCHSIZE=4', 'no setting BATCHSIZE', 'did you mean BATCH_SIZE?']),
        ('XYZZY=1', ['no setting XYZZY', 'settings.py lists them']),
        ('recipes/camvit.py', ['recipes/camvit.py', 'did you mean recipes/camvid.py?']),
        ('nowhere/my.py', ['nowhere/my.py: there is no such recipe', 'recipes/']),
        ('README.md', ['README.md', 'recipe']),
        ('net.pth', ['net.pth: a checkpoint is named by a setting: CHECKPOINT=net.pth']),
        ('65', ['65: expected recipe.py or KEY=value, such as CROP_SIZE=65']),
        ('BATCH_SIZE=many', ["BATCH_SIZE = 'many'", 'int']),
        ('BATCH_SIZE=4.5', ['BATCH_SIZE = 4.5', 'int']),
        ('EM_GRAD=1', ['EM_GRAD = 1', 'bool']),
        ('LR=nan', ['LR', 'nan']),
        ('LR', ['LR']),
        ('STRIDE=7', ['STRIDE = 7', '8, 16, 32']),
        ('N_LAYERS=20', ['N_LAYERS = 20', '10, 18, 34, 50, 101, 152']),
        ('CROP_SIZE=9', ['CROP_SIZE = 9', 'STRIDE = 16', 'raise it']),
        ('CROP_SIZE=(9,65)', ['CROP_SIZE = (9, 65)', 'STRIDE = 16']),
        ('CROP_SIZE=(65,65,3)', ['CROP_SIZE = (65, 65, 3)', 'int, int']),
        ('CROP_SIZE=(65.5,65)', ['CROP_SIZE = (65.5, 65)']),
        ('MULTI_GRID=(1,2.5,4)', ['MULTI_GRID = (1, 2.5, 4)']),
        ('EM_BASES=0', ['EM_BASES = 0', 'at least 1']),
        ('HEAD=emma', ["HEAD = 'emma'", 'did you mean ema?']),
        ('DATASET=camvit', ["DATASET = 'camvit'", 'did you mean camvid?']),
        ('TRAIN_SPLIT=trainaug', ["'trainaug'", 'train, val, trainval, test']),
        ('VAL_SPLIT=minival ITER_VAL=1', ["'minival'", 'train, val, trainval, test']),
        ('N_CLASSES=3', ['N_CLASSES = 3', '11 classes']),
        ('IGNORE_LABEL=3', ['IGNORE_LABEL = 3', '255']),
        ('BATCH_SIZE=16', ['12 images', 'BATCH_SIZE = 16', 'lower it']),
        ('BATCH_SIZE=5 ACCUMULATE=2', ['BATCH_SIZE = 5', 'ACCUMULATE = 2', 'multiple']),
        ('DEVICES=(0,)', ['DEVICES = (0,)', '0 GPUs']),
        ('AMP=fp16', ['AMP=fp16', 'AMP=bf16']),
        ('PRETRAINED=torchvision STEM=deep', ['torchvision', 'STEM=plain']),
    ],
)
def test_usage(kept, args, words):
    assert_told(kept.run('train.py', 'NAME=new', *args.split()), 2, *words)
    assert not kept.logs.exists()


def test_a_single_value_per_channel(kept):
    assert_told(
        kept.run('train.py', 'NAME=new', 'BATCH_SIZE=1', 'CROP_SIZE=16'),
        1,
        'batch norm',
        'BATCH_SIZE',
        'CROP_SIZE',
    )


@pytest.mark.parametrize(
    'text, words',
    [
        ('LR = 0.1\nLRATE = 0.2\n', ['line 2', 'no setting LRATE']),
        ('LR = fast\n', ['not a recipe']),
        ('LR = 0.1 +\n', ['not a recipe']),
        ('import os\n', ['not a recipe', 'only KEY = value']),
        ("LR = '0.1'\n", ['line 1', "LR = '0.1'", 'float']),
        (b'\xff\xfe\x00', ['not a recipe']),
    ],
)
def test_recipe_files(room, text, words):
    room.recipe.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_told(room.run('train.py'), 2, room.recipe, *words)


def test_processes_that_the_batch_cannot_be_dealt_to(room):
    found = torchrun(2, 'train.py', *room.args('BATCH_SIZE=5'))  # torchrun adds a report of its own
    assert found.status == 1
    assert (
        'train.py: BATCH_SIZE = 5 cannot be dealt out to 2 processes' in found.err
        and 'multiple of 2' in found.err
    )


@pytest.mark.parametrize('scale', [0.01, 0.03, 0.1])
def test_tiny_scales(room, scale):
    """They train, or are refused with a sentence."""
    found = room.run('train.py', f'SCALES=({scale},)', 'ITER_MAX=1')
    if found.status:
        assert_told(found, 2, 'SCALES')
        assert scale < 0.1


# --------------------------------------------------------------------------------------------------------------- data


def test_no_data(kept):
    assert_told(
        kept.run('train.py', f'DATA_ROOT={kept.folder}/none'),
        1,
        'camvid',
        'DATA_ROOT',
        f'{kept.folder}/none',
        'trainannot',
        'unpack',
    )
    assert_told(
        kept.run('train.py', f'DATA_ROOT={kept.recipe}'),
        1,
        'camvid',
        'DATA_ROOT',
        kept.recipe,
        'unpack',
    )


def spoil(path, how):
    """Makes a bad file of a good one."""
    data = path.read_bytes()
    if how == 'missing':
        path.unlink()
    elif how == 'empty':
        path.write_bytes(b'')
    elif how == 'truncated':
        path.write_bytes(data[: len(data) // 2])
    elif how == 'text':
        path.write_text('This is no picture.\n')
    elif how == 'folder':
        path.unlink()
        path.mkdir()
    elif how == 'jpeg':
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(
            path, 'JPEG'
        )
        path.write_bytes(path.read_bytes()[:1000])
    elif how == 'size':
        Image.fromarray(np.zeros((11, 13), np.uint8)).save(path)
    elif how == 'colour':
        Image.open(path).convert('RGB').save(path)
    elif how == '16 bit':
        Image.fromarray(np.array(Image.open(path)).astype(np.uint16) + 3000).save(path)
    elif how == 'value':
        pixels = np.array(Image.open(path))
        pixels[3, 3] = 77
        Image.fromarray(pixels).save(path)


BAD_FILES = [
    ('train/05.png', 'empty', ['cannot be read', 'again']),
    ('train/05.png', 'truncated', ['cannot be read', 'again']),
    ('train/05.png', 'text', ['cannot be read']),
    ('train/05.png', 'jpeg', ['cannot be read', 'again']),
    ('train/05.png', 'folder', []),
    ('trainannot/05.png', 'missing', ['label is missing', 'unpack']),
    ('trainannot/05.png', 'empty', ['cannot be read', 'again']),
    ('trainannot/05.png', 'truncated', ['cannot be read', 'again']),
    ('trainannot/05.png', 'size', ['13x11', 'train/05.png']),
    ('trainannot/05.png', 'colour', ['class indices', 'colours', 'convert']),
    ('trainannot/05.png', '16 bit', ['label value 300', 'classes/camvid.txt']),
    ('trainannot/05.png', 'value', ['label value 77', 'classes/camvid.txt', 'DATASET']),
]


@pytest.mark.parametrize('name, how, words', BAD_FILES)
def test_bad_files(kept, own_data, name, how, words):
    path = own_data / 'camvid' / name
    spoil(path, how)
    assert_told(
        kept.run('train.py', f'DATA_ROOT={own_data}', 'ITER_MAX=4'),
        1,
        path.with_suffix('') if how == 'missing' else path,
        *words,
    )


def test_half_a_data_set(kept, own_data):
    names = own_data / 'camvid' / 'train.txt'
    names.write_text('\n'.join(f'{i:02d}' for i in range(12)))
    (own_data / 'camvid' / 'train' / '07.png').unlink()
    assert_told(
        kept.run('train.py', f'DATA_ROOT={own_data}'),
        1,
        'train/07',
        'image is missing',
        'of 12',
        'unpack',
    )
    names.write_text('\n \n')
    assert_told(
        kept.run('train.py', f'DATA_ROOT={own_data}'), 1, own_data / 'camvid', 'train', 'no images'
    )
    names.write_bytes(b'\xff\xfe\xfd')
    assert_told(kept.run('train.py', f'DATA_ROOT={own_data}'), 1, names, 'list')
    names.unlink()
    shutil.rmtree(own_data / 'camvid' / 'train')
    assert_told(
        kept.run('train.py', f'DATA_ROOT={own_data}'),
        1,
        own_data / 'camvid',
        'train',
        'this image is missing',
        'unpack',
    )


@pytest.mark.parametrize('workers', [0, 4])
@pytest.mark.parametrize(
    'name, how, words',
    [
        ('train/12.png', 'truncated', ['cannot be read']),
        ('trainannot/12.png', 'value', ['label value 77', 'classes/camvid.txt']),
    ],
)
def test_bad_files_met_in_the_middle(kept, own_data, workers, name, how, words):
    """Among 36 pictures, one that the check before the start (16 of them) leaves out; with workers another process reads it."""
    for folder in ('train', 'trainannot'):
        for i in range(12, 36):
            shutil.copy(
                own_data / 'camvid' / folder / f'{i % 12:02d}.png',
                own_data / 'camvid' / folder / f'{i:02d}.png',
            )
    path = own_data / 'camvid' / name
    spoil(path, how)
    found = kept.run(
        'train.py',
        f'DATA_ROOT={own_data}',
        'ITER_MAX=12',
        'CROP_SIZE=33',
        f'NUM_WORKERS={workers}',
        'NAME=middle',
        'BATCH_SIZE=12',
    )
    sentence = assert_told(found, 1, path, *words)
    assert sentence.startswith(f'train.py: {path}') and 'resuming' not in found.out
    assert '36 images in train' in found.out  # the loop had begun


@pytest.mark.parametrize('workers', [0, 4])
def test_bad_files_in_evaluation(kept, own_data, workers):
    path = own_data / 'camvid' / 'valannot' / '03.png'
    spoil(path, 'value')
    assert_told(
        kept.run('eval.py', f'DATA_ROOT={own_data}', f'NUM_WORKERS={workers}'),
        1,
        path,
        'label value 77',
    )
    assert not (kept.logs / 'tiny' / 'scores.json').exists()


def test_images_that_went_away_since(kept, own_data):
    for folder in ('train', 'trainannot'):
        (own_data / 'camvid' / folder / '05.png').unlink()
    assert_told(
        kept.run('train.py', 'ITER_MAX=4', f'DATA_ROOT={own_data}'),
        1,
        'latest.pth',
        'images',
        'another NAME',
    )


def test_nothing_to_score(kept, own_data):
    for path in (own_data / 'camvid' / 'valannot').iterdir():
        Image.fromarray(np.full_like(np.array(Image.open(path)), 11)).save(path)
    assert_told(kept.run('eval.py', f'DATA_ROOT={own_data}'), 1, 'val', 'label')


def deny():
    """In the new process, after the check of the first files: a folder that may not be read (root may read them all)."""
    multiprocessing.set_start_method('fork', force=True)
    import dataset
    from datasets.files import read_image

    def read_image(path, channels=3):
        raise PermissionError(13, 'Permission denied', path)

    dataset.read_image = read_image
    dataset.Dataset.check = lambda self, count=16: None


@pytest.mark.parametrize('workers', [0, 4])
def test_unreadable_files(room, workers):
    assert_told(
        room.run('train.py', f'NUM_WORKERS={workers}', before=deny),
        1,
        'camvid/train/',
        'Permission denied',
    )


def die_in_workers():
    multiprocessing.set_start_method('fork', force=True)
    import dataset

    read, here = dataset.read_image, os.getpid()

    def read_image(path, channels=3):
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, channels=channels)

    dataset.read_image = read_image


def test_killed_loader_process(room):
    assert_told(
        room.run('train.py', 'NUM_WORKERS=1', before=die_in_workers),
        1,
        'loader process',
        'NUM_WORKERS',
    )


# -------------------------------------------------------------------------------------------------------- checkpoints


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def make_checkpoint(path, how, good):
    """A checkpoint file that will not do."""
    net = good['net']
    if how == 'text':
        path.write_text('not a checkpoint\n')
    elif how == 'empty':
        path.write_bytes(b'')
    elif how == 'truncated':
        torch.save({'net': net}, path)
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == 'code':
        torch.save({'net': net, 'step': Evil(path.with_suffix('.ran'))}, path)
    elif how == 'pickle':
        path.write_bytes(pickle.dumps({'net': Evil(path.with_suffix('.ran'))}))
    elif how == 'list':
        torch.save([1, 2, 3], path)
    elif how == 'nothing':
        torch.save({'net': {}}, path)
    elif how == 'strange':
        torch.save({'net': {'a.weight': torch.zeros(3)}}, path)
    elif how == 'numbers':
        torch.save({1: torch.zeros(3)}, path)
    elif how == 'partial':
        torch.save({'net': {k: v for k, v in net.items() if not k.startswith('fc2')}}, path)
    elif how == 'headless':
        torch.save({'net': {k: v for k, v in net.items() if k.startswith('extractor')}}, path)


BAD_CHECKPOINTS = [
    ('missing', ['no such checkpoint']),
    ('text', ['no checkpoint', 'again']),
    ('empty', ['no checkpoint', 'again']),
    ('truncated', ['no checkpoint', 'only part', 'again']),
    ('code', ['code', 'state dict']),
    ('pickle', ['no checkpoint']),
    ('list', ['no state dict']),
    ('nothing', ['no state dict']),
    ('strange', ['a.weight', 'EMANet']),
    ('numbers', []),
    ('partial', ['fc2.weight', 'does not fit']),
    ('headless', ['100 of 120', 'missing', 'a trunk without a head', 'PRETRAINED=FILE']),
]


@pytest.mark.parametrize('setting', ['CHECKPOINT', 'INIT'])
@pytest.mark.parametrize('how, words', BAD_CHECKPOINTS)
def test_bad_checkpoints(trained, kept, setting, how, words):
    path = kept.folder / 'other.pth'
    make_checkpoint(path, how, trained.checkpoint('best'))
    if setting == 'INIT' and how in ('partial', 'headless'):  # what fits is loaded
        words = ['INIT', 'missing']
        out = Room(kept.folder, kept.data).ok(
            'train.py',
            f'INIT={path}',
            'NAME=start',
            'ITER_MAX=1',
            f'MODEL_DIR={kept.folder}/others',
        )
        assert 'INIT' in out and 'missing' in out
        return
    script = 'eval.py' if setting == 'CHECKPOINT' else 'train.py'
    assert_told(kept.run(script, f'{setting}={path}', 'NAME=start'), 1, path, *words)
    assert not path.with_suffix('.ran').exists()


@pytest.mark.parametrize(
    'args, words',
    [
        ('N_CLASSES=13', ['N_CLASSES=11']),
        ('HEAD=fcn', ['HEAD=ema']),
        ('HEAD=fcn EM_BASES=8', ['HEAD=ema', 'EM_BASES=4']),
        ('N_LAYERS=34', ['N_LAYERS=18']),
        ('N_LAYERS=50', ['N_LAYERS=18']),
        ('STEM=deep', ['STEM=plain']),
        ('EM_BASES=8', ['EM_BASES=4']),
        ('EM_CHANNELS=32 HEAD_CHANNELS=8', ['EM_CHANNELS=16', 'HEAD_CHANNELS=16']),
        ('SECOND_CONV=False', ['SECOND_CONV=True']),
        ('AUX_WEIGHT=0.4', ['AUX_WEIGHT=0']),
    ],
)
def test_checkpoints_of_other_networks(kept, args, words):
    """The file wins over recipes; the command line contradicts it, which is one sentence."""
    best = kept.models / 'tiny' / 'best.pth'
    assert_told(kept.run('eval.py', *args.split()), 1, best, 'contradict', 'leave', *words)


def test_other_settings_that_shapes_do_not_tell(kept):
    """STRIDE and MULTI_GRID fit any checkpoint: a note."""
    assert 'kept from the command line: STRIDE=8' in kept.ok('eval.py', 'STRIDE=8')


def test_nothing_to_evaluate(room):
    assert_told(
        room.run('eval.py'),
        1,
        'no checkpoint',
        room.models / 'tiny' / 'best.pth',
        'train',
        'CHECKPOINT=',
    )
    assert not room.logs.exists()


@pytest.mark.parametrize(
    'how, words', [(how, []) for how in ('text', 'truncated', 'code', 'list')] + [('weights', [])]
)
def test_bad_latest(trained, room, how, words):
    """Resuming: the file stays as it is, and no step is made."""
    latest = room.models / 'tiny' / 'latest.pth'
    latest.parent.mkdir(parents=True)
    if how == 'weights':  # somebody put best.pth in its place
        shutil.copy(trained.models / 'tiny' / 'best.pth', latest)
    else:
        make_checkpoint(latest, how, trained.checkpoint('latest'))
    before = snapshot(room.models)
    assert_told(room.run('train.py', 'ITER_MAX=4'), 1, latest, *words)
    assert snapshot(room.models) == before and not (room.logs / 'tiny' / 'log.jsonl').exists()


def test_other_settings(kept):
    assert_told(
        kept.run('train.py', 'ITER_MAX=4', 'LR=0.5'),
        1,
        'latest.pth',
        'LR was 0.02, is 0.5',
        'NAME',
        'clean.sh',
    )


def test_trunk_weights(room):
    assert_told(
        room.run('train.py', f'PRETRAINED={room.folder}/none.pth'),
        1,
        f'{room.folder}/none.pth',
        'docs/checkpoints.md',
        'PRETRAINED=torchvision STEM=plain',
    )
    helpers.small_net(N_LAYERS=34)
    torch.save({'net': build().state_dict()}, room.folder / 'r34.pth')
    assert_told(
        room.run('train.py', f'PRETRAINED={room.folder}/r34.pth'),
        1,
        f'{room.folder}/r34.pth',
        'to use it: N_LAYERS=34',
    )
    (room.folder / 'bad.pth').write_bytes(b'PK')
    assert_told(
        room.run('train.py', f'PRETRAINED={room.folder}/bad.pth'),
        1,
        f'{room.folder}/bad.pth',
        'no checkpoint',
    )
    assert not snapshot(room.models)


def no_network():
    import urllib.error

    def download(*args, **kwargs):
        raise urllib.error.URLError('unreachable')

    torch.hub.download_url_to_file = download


def test_trunk_weights_that_cannot_be_fetched(room):
    assert_told(
        room.run('train.py', 'PRETRAINED=torchvision', before=no_network),
        1,
        'https://',
        'unreachable',
        f'put it at {room.models}/pretrained/resnet18',
    )


# ------------------------------------------------------------------------------------------------- while it is training


def test_loss_not_finite(room):
    """Found in the interval after the first save: the steps and their files are named, the save is kept."""
    found = room.run(
        'train.py', 'LR=1e20', 'ITER_MAX=9', 'ITER_LOG=3', 'ITER_SAVE=1000', 'NUM_WORKERS=1'
    )
    sentence = assert_told(found, 1, 'not finite from step 2 on', 'up to 3', 'lower LR')
    names = re.findall(r'camvid/train/\d\d\.png', sentence)
    assert len(names) == 4
    batches = dataset.Batches(12, 0, 4)
    assert names == [f'camvid/train/{batches.index(p):02d}.png' for p in range(4, 8)]
    assert not snapshot(room.models)


def test_nothing_is_saved_once_the_loss_is_not_finite(trained, kept):
    state = trained.checkpoint('best')
    state['net']['fc2.weight'][0, 0] = float('nan')
    torch.save(state, kept.folder / 'nan.pth')
    assert_told(
        kept.run('train.py', f'INIT={kept.folder}/nan.pth', 'NAME=nan'),
        1,
        'nan.pth',
        'these weights are not finite',
    )
    latest = trained.checkpoint('latest')  # the same in the run's own file
    latest['net']['fc2.weight'][0, 0] = float('nan')
    room = Room(kept.folder, kept.data)
    room.models = kept.folder / 'sick'
    (room.models / 'tiny').mkdir(parents=True)
    torch.save(latest, room.models / 'tiny' / 'latest.pth')
    before = snapshot(room.models)
    assert_told(room.run('train.py', 'ITER_MAX=4', 'ITER_SAVE=1'), 1, 'not finite from step 3 on')
    assert snapshot(room.models) == before


def out_of_gpu_memory():
    from heads.frame import SegNet

    forward, calls = SegNet.forward, []

    def full(self, *args, **more):
        calls.append(1)
        if len(calls) > 1:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')
        return forward(self, *args, **more)

    SegNet.forward = full


def little_memory():
    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31,) * 2)


@pytest.mark.parametrize(
    'before, args',
    [
        (out_of_gpu_memory, 'ITER_MAX=4'),
        (little_memory, 'ITER_MAX=4 BATCH_SIZE=12 CROP_SIZE=3001 NAME=new'),  # the network's maps
        (
            little_memory,
            'ITER_MAX=4 BATCH_SIZE=12 CROP_SIZE=40001 NAME=new',
        ),  # the picture, in OpenCV
        (little_memory, 'ITER_MAX=4 BATCH_SIZE=12 CROP_SIZE=40001 NAME=new NUM_WORKERS=1'),
        (little_memory, 'ITER_MAX=4 BATCH_SIZE=12 CROP_SIZE=14001 NAME=new'),  # the batch
    ],
)
def test_out_of_memory(kept, before, args):
    assert_told(
        kept.run('train.py', *args.split(), before=before), 1, 'memory', 'BATCH_SIZE', 'CROP_SIZE'
    )


def test_out_of_memory_in_evaluation(kept):
    assert_told(kept.run('eval.py', before=out_of_gpu_memory), 1, 'memory', 'TEST_BATCH')


def full_disk():
    """In the new process: no file grows beyond 20 MB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000,) * 2)


@pytest.mark.parametrize('args', ['ITER_MAX=4', 'ITER_MAX=4 ITER_VAL=3', 'ITER_MAX=4 NAME=new'])
def test_full_disk(kept, args):
    name = 'new' if 'new' in args else 'tiny'
    assert_told(
        kept.run('train.py', *args.split(), before=full_disk),
        1,
        f'models/{name}/',
        '.pth',
        'could not be written',
        'disk',
    )
    if name == 'new':
        (kept.models / 'new').rmdir()  # empty


def small_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000,) * 2)


def test_full_disk_while_drawing(room):
    assert_told(
        room.run(
            'train.py', 'DATASET=shapes', f'DATA_ROOT={room.folder}/drawn', before=small_files
        ),
        1,
        f'{room.folder}/drawn',
        'write',
    )
    assert not os.listdir(room.folder / 'drawn')


@pytest.mark.parametrize(
    'script, name',
    [
        ('train.py', 'log.jsonl'),
        ('train.py', 'settings.py'),
        ('train.py', 'source.zip'),
    ],
)
def test_full_disk_of_logs(kept, script, name):
    file = kept.logs / 'tiny' / name
    file.parent.mkdir(parents=True)
    file.symlink_to('/dev/full')
    sentence = assert_told(
        kept.run(script, 'ITER_MAX=4', f'SAVE_DIR={kept.logs}/tiny'), 1, 'No space left'
    )
    assert file.name in sentence or 'LOG_DIR' in sentence, sentence


def die_at_save(last):
    """In the new process: killed when this many checkpoints are written, the last of them not yet in its world."""
    fsync, calls = os.fsync, []

    def killed(number):
        calls.append(number)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(number)

    os.fsync = killed


@pytest.mark.parametrize('last', [2, 3, 4])
def test_killed_while_saving(room, last):
    """The same command goes on; in the end every checkpoint is there, and nothing half written."""
    args = 'ITER_MAX=2', 'ITER_SAVE=1'
    assert (
        room.run('train.py', *args, before=functools.partial(die_at_save, last)).status
        == -signal.SIGKILL
    )
    room.ok('train.py', *args)
    assert set(os.listdir(room.models / 'tiny')) == {'latest.pth', 'step_1.pth', 'final.pth'}
    assert room.checkpoint('latest')['step'] == room.checkpoint('final')['step'] == 2


@pytest.mark.parametrize(
    'script, setting',
    [
        ('train.py', 'LOG_DIR'),
        ('train.py', 'MODEL_DIR'),
        ('eval.py', 'LOG_DIR'),
        ('eval.py', 'SAVE_DIR'),
    ],
)
@pytest.mark.parametrize('inside', ['', '/tiny'])
def test_a_file_where_a_folder_is_due(kept, script, setting, inside):
    file = kept.folder / 'folder'
    if inside:
        file.mkdir()
        file = file / 'tiny' if setting != 'SAVE_DIR' else file / 'index'
    file.write_text('precious')
    found = kept.run(
        script,
        'ITER_MAX=4',
        f'{setting}={kept.folder}/folder',
        f'CHECKPOINT={kept.models}/tiny/best.pth',
    )
    assert_told(found, 1, file, 'this is a file, not a folder')
    assert file.read_text() == 'precious'


def test_a_file_where_checkpoints_go_is_found_before_the_first_step(room):
    room.models.write_text('precious')
    assert_told(room.run('train.py', 'ITER_MAX=4'), 1, room.models)
    room.models.unlink()
    assert not (room.logs / 'tiny' / 'log.jsonl').exists() or not room.log()


def test_interrupted_start(room):
    """Ctrl-C before the loop: no traceback."""
    reset = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with start('train.py', *room.args(), preexec_fn=reset) as process:  # ignored under nohup
        while not (open(f'/proc/{process.pid}/maps').read().count('libtorch_cpu')):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        found = finish(process)
    assert found.status in (130, -signal.SIGINT)
