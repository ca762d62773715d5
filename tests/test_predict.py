"""predict.py end to end: pictures of all kinds, folders, patterns, videos, and what is wrong with some of them."""

import os
import re
import shutil
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers import blocks, build, colour_of, small_net
from PIL import Image

import eval as evaluation
import network
import predict
from datasets.files import read_classes, read_image
from utils import config, distributed, memory, visualize
from utils.config import UserError

pytest.register_assert_rewrite('scripts', 'answers')
from answers import alike, answers, assert_told, inside, loaded, random_net  # noqa: E402, F401
from scripts import ROOT, Room, snapshot  # noqa: E402

pytest_plugins = 'scripts'
COLOURS = read_classes(os.path.join(ROOT, 'datasets', 'classes', 'camvid.txt')).colours


def read(path):
    with Image.open(path) as picture:
        return np.array(picture)


def scene(seed, h=60, w=80):
    """A picture (h, w, 3) RGB, of few colours."""
    return np.ascontiguousarray(colour_of(blocks(h, w, seed=seed, classes=8))[..., ::-1])


def put_picture(path, pixels, palette=False, **how):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if palette:
        colours, pixels = (
            a.astype(np.uint8)
            for a in np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
        )
        pixels = pixels.reshape(60, 80)
    picture = Image.fromarray(pixels)
    if palette:
        picture.putpalette(colours.tobytes())
    picture.save(path, **how)
    return path


def ids_of(path):
    """An index picture, whose palette must be that of CamVid's table."""
    with Image.open(path) as picture:
        assert picture.mode == 'P'
        ids, shown = np.array(picture), np.array(picture.convert('RGB'))
    assert ids.max() < 11 and (shown == COLOURS[ids]).all()
    return ids


@pytest.fixture(scope='module')
def kept(data, tmp_path_factory):
    """A room with two networks, of the runs `tiny` and `other`."""
    room = Room(tmp_path_factory.mktemp('kept'), data)
    random_net(room)
    random_net(room, run='other', seed=1)
    yield room
    shutil.rmtree(room.models)


@pytest.fixture
def again(kept, tmp_path):
    """A room with the same networks and logs of its own; `out` is where pictures are due."""
    room = Room(tmp_path, kept.data)
    room.models, room.out, room.pics = kept.models, tmp_path / 'out', tmp_path / 'pics'
    yield room
    assert not [p for p in tmp_path.rglob('*.part*')]


def predicted(room, *args, before=None):
    """What predict.py prints that must succeed; pictures are in room.out."""
    return room.ok('predict.py', f'SAVE_DIR={room.out}', *args, before=before)


# ---------------------------------------------------------------------------------------------------- kinds of pictures


def test_pictures_of_all_kinds_in_folders(again):
    """Names and folders stay; what is predicted are the upright RGB pixels; notes and hidden files are left alone."""
    exif = Image.Exif()
    exif[0x112] = 6  # lies on its side
    grey = scene(2)[..., 1]
    clear = np.dstack([scene(4), blocks(60, 80, seed=5) * 23])
    wanted = {
        'rgb': scene(1),
        'a/grey': grey[..., None].repeat(3, 2),
        'a/b c/16 bit': grey[..., None].repeat(3, 2),
        'a/b c/clear': scene(4),
        'Öl': scene(6),
        'turned': np.rot90(scene(7), -1),
        'moving': scene(8),
        'x.y': scene(9),
        'odd': scene(11, 37, 53),
        'web': scene(12),
        'wide': scene(13, 17, 200),
    }
    folder = str(again.pics)
    put_picture(f'{folder}/rgb.png', scene(1))
    put_picture(f'{folder}/a/grey.png', grey)
    put_picture(f'{folder}/a/b c/16 bit.png', grey.astype(np.uint16) * 257)
    put_picture(f'{folder}/a/b c/clear.png', clear)
    put_picture(f'{folder}/Öl.PNG', scene(6), palette=True)
    put_picture(f'{folder}/turned.png', scene(7), exif=exif)
    put_picture(
        f'{folder}/moving.gif',
        scene(8),
        palette=True,
        save_all=True,
        append_images=[Image.fromarray(scene(99))],
    )
    put_picture(f'{folder}/x.y.bmp', scene(9))
    put_picture(f'{folder}/odd.tif', scene(11, 37, 53))
    put_picture(f'{folder}/web.webp', scene(12), lossless=True)
    put_picture(f'{folder}/wide.ppm', scene(13, 17, 200))
    put_picture(f'{folder}/a/turned too.jpg', scene(14), exif=exif)
    put_picture(f'{folder}/.hidden.png', scene(15))
    (again.pics / 'notes.txt').write_text('not a picture')
    out = predicted(again, folder, '--probabilities', '--bases')
    assert f'12 of 12 written to {again.out}: overlay index probabilities bases' in out
    net = loaded(again)
    wanted['a/turned too'] = read_image(f'{folder}/a/turned too.jpg', upright=True)
    assert wanted['a/turned too'].shape == (80, 60, 3)
    files = snapshot(again.out)
    kinds = {'index': 'png', 'overlay': 'png', 'probabilities': 'npy', 'bases': 'png'}
    assert set(files) == {f'{kind}/{name}.{end}' for kind, end in kinds.items() for name in wanted}
    for (name, image), ids in zip(wanted.items(), answers(net, wanted.values())):
        found = ids_of(again.out / 'index' / f'{name}.png')
        assert alike(found, ids), name
        h, w = ids.shape
        over = read(again.out / 'overlay' / f'{name}.png')
        assert (
            (over[:h, :w] == visualize.overlay(image, COLOURS[found])).all()
            and over.shape[0] > h
            and over.shape[1] == max(w, 320)
        ), name
        share = np.load(again.out / 'probabilities' / f'{name}.npy')
        assert share.dtype == np.float16 and share.shape == (11, h, w)
        assert np.abs(share.astype(float).sum(0) - 1).max() < 5e-3
        assert (
            np.take_along_axis(share, found[None].astype(int), 0) == share.max(0)
        ).all()  # halves may tie
        tile = read(again.out / 'bases' / f'{name}.png')[: round(240 * h / w), :240]
        assert (tile == visualize.fit(image, 240, round(240 * h / w))).all() and read(
            again.out / 'bases' / f'{name}.png'
        ).shape[1] == (2 + 4) * 244


@torch.no_grad()
def test_bases_share_the_pixels(again):
    """... of the picture as the network sees it: the maps of the EM unit in the network's own pass."""
    net, seen = loaded(again), []
    image = torch.from_numpy(scene(1, 65, 97)).permute(2, 0, 1)[None]
    handle = net.emau.register_forward_pre_hook(lambda unit, args: seen.append(args[0].clone()))
    evaluation.scores(net, image, evaluation.protocol())
    handle.remove()
    z = net.attention(image)
    assert (
        z.shape[1] == 4 and torch.allclose(z.sum(1), torch.ones(()), atol=1e-5) and z.std() > 1e-3
    )
    assert torch.allclose(z, net.emau(seen[0], maps=True)[2], atol=1e-4)


def test_the_smallest_picture(again):
    """One pixel, enlarged for the network."""
    predicted(
        again, put_picture(f'{again.pics}/dot.png', scene(1, 1, 1)), 'TEST_BASE_SIZE=65', '--bases'
    )
    assert (
        ids_of(again.out / 'index' / 'dot.png').shape == (1, 1)
        and (again.out / 'bases' / 'dot.png').exists()
    )


def test_the_settings_of_evaluation_count(again):
    path = put_picture(f'{again.pics}/a.png', scene(1))
    args = 'TEST_SCALES=0.75,1.5', 'TEST_FLIP=True', 'TEST_CROP=49'
    assert 'views: scales 0.75, 1.5; mirror images; windows of 49x49' in predicted(
        again, path, *args
    )
    found, plain = ids_of(again.out / 'index' / 'a.png'), answers(loaded(again), [scene(1)])[0]
    assert (
        alike(found, answers(loaded(again, *args), [scene(1)])[0])
        and (found != plain).mean() > 1e-3
    )


def test_a_large_picture_is_announced(again):
    """Nothing else moves while one is predicted: TEST_BATCH crops of 65x65 are small."""
    for i, (h, w) in enumerate([(60, 80), (140, 150), (140, 150), (150, 160)]):
        put_picture(f'{again.pics}/{i}.png', scene(i, h, w))
    out = predicted(again, str(again.pics))
    lines = [line for line in out.splitlines() if 'predicting' in line and 'pixels' in line]
    assert lines == [
        f'{i}: predicting {size} pixels' for i, size in ((1, '150x140'), (3, '160x150'))
    ]


# -------------------------------------------------------------------------------------------------------- names of files


def test_two_files_of_one_stem_do_not_overwrite_each_other(again):
    """Nor is SAVE_DIR needed."""
    put_picture(f'{again.pics}/one.png', scene(1))
    put_picture(f'{again.pics}/one.bmp', scene(2, 66, 72))
    put_picture(f'{again.pics}/two.png', scene(3))
    folder = again.logs / 'tiny' / 'predictions'
    assert f'2 of 2 written to {folder}: overlay index' in again.ok(
        'predict.py', f'{again.pics}/on*'
    )
    assert sorted(snapshot(folder)) == [
        f'{kind}/one.{end}.png' for kind in ('index', 'overlay') for end in ('bmp', 'png')
    ]
    for end, ids in zip(('png', 'bmp'), answers(loaded(again), [scene(1), scene(2, 66, 72)])):
        assert alike(ids_of(folder / 'index' / f'one.{end}.png'), ids)


@pytest.mark.parametrize(
    'words, wanted',
    [
        (['p'], {'p/a.png': 'a', 'p/x/b.jpg': 'x/b', 'p/x/y/c.mp4': 'x/y/c'}),
        (['p/'], {'p/a.png': 'a', 'p/x/b.jpg': 'x/b', 'p/x/y/c.mp4': 'x/y/c'}),
        (['p/x/b.jpg', 'p/a.png'], {'p/x/b.jpg': 'b', 'p/a.png': 'a'}),
        (['p/*.png'], {'p/a.png': 'a'}),
        (['p/**/*.*'], {'p/a.png': 'a', 'p/x/b.jpg': 'b', 'p/x/y/c.mp4': 'c'}),
        (['p/a.png', 'p/*.png', 'p/a.png'], {'p/a.png': 'a'}),
        (['q/a.png', 'p/a.png'], {'q/a.png': 'q/a', 'p/a.png': 'p/a'}),
        (
            ['p', 'q'],
            {
                'p/a.png': 'p/a',
                'p/x/b.jpg': 'p/x/b',
                'p/x/y/c.mp4': 'p/x/y/c',
                'q/a.png': 'q/a',
                'q/[1].png': 'q/[1]',
            },
        ),
        (['q/[1].png'], {'q/[1].png': '[1]'}),
        (['r'], {'r/x/a.png': 'x/a.png', 'r/x/a.jpg': 'x/a.jpg'}),
        (['p/a.png', './p/a.png', 'q/../p/a.png'], {'p/a.png': 'a'}),
    ],
)
def test_names_of_inputs(tmp_path, monkeypatch, words, wanted):
    for name in (
        'p/a.png',
        'p/x/b.jpg',
        'p/x/y/c.mp4',
        'q/a.png',
        'q/[1].png',
        'r/x/a.png',
        'r/x/a.jpg',
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    found = predict.list_inputs(words)
    assert {os.path.normpath(path): name for path, name in found} == wanted and len(found) == len(
        wanted
    )


# ------------------------------------------------------------------------------------------------ comparing, and videos


def test_comparing_two_checkpoints(kept, again):
    """Image, both predictions, and the second one where they differ."""
    image, paths = scene(1, 66, 400), [kept.models / run / 'best.pth' for run in ('tiny', 'other')]
    predicted(again, '--compare', *paths, put_picture(f'{again.pics}/a.png', image))
    assert list(snapshot(again.out)) == ['compare/a.png']
    found, below = read(again.out / 'compare' / 'a.png'), 66 + round(1.5 * (400 // 22)) + 4
    a, b = (answers(loaded(again, path=path), [image])[0] for path in paths)
    shown = [visualize.overlay(image, COLOURS[ids]) for ids in (a, b)]
    wanted = [image, *shown, np.where((a != b)[..., None], shown[1], image // 4 + 160)]
    assert 0.02 < (a != b).mean() < 0.98
    for tile, (y, x) in zip(wanted, [(0, 0), (0, 404), (below, 0), (below, 404)]):
        assert (found[y : y + 66, x : x + 400] != tile).any(2).mean() < 1e-3


def test_each_of_two_checkpoints_brings_its_settings(kept, again):
    """Another head, another stride, padded by that; the recipe says stride 16."""
    image, first = scene(1, 66, 83), kept.models / 'tiny' / 'best.pth'
    args = 'HEAD=fcn', 'STRIDE=8', 'UPSAMPLE=centres'
    again.models = again.folder / 'models'
    second = random_net(again, *args, run='fcn')
    wanted = [
        answers(loaded(again, path=first), [image])[0],
        answers(loaded(again, *args, path=second), [image])[0],
    ]
    picture = put_picture(f'{again.pics}/a.png', image)
    for order in ((0, 1), (1, 0)):
        paths = [(first, second)[i] for i in order]
        predicted(again, '--compare', *paths, picture, 'TEST_SCALES=1')
        tiles = read(again.out / 'compare' / 'a.png')
        width = 320  # of a tile: a picture this small is enlarged
        for i, x in zip(order, (width + 4, 0)):
            shown = visualize.overlay(image, COLOURS[wanted[i]])
            shown = visualize.fit(shown, width, round(width * 66 / 83))
            y = 0 if i == order[0] else round(width * 66 / 83) + round(1.5 * (width // 22)) + 4
            tile = tiles[y : y + shown.shape[0], x : x + width]
            assert (tile != shown).any(2).mean() < 2e-3


def test_two_checkpoints_of_different_classes(kept, again):
    again.models = again.folder / 'models'
    other = random_net(again, 'N_CLASSES=14', run='more')
    paths = kept.models / 'tiny' / 'best.pth', other
    found = again.run(
        'predict.py', '--compare', *paths, put_picture(f'{again.pics}/a.png', scene(1))
    )
    assert_told(
        found,
        2,
        f'{paths[0]} predicts 11 classes, {other} 14 (class 11: missing, class 11)',
        'one data set',
    )


def make_video(path, count, w=64, h=48, code='mp4v'):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    sink = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10, (w, h))
    if not sink.isOpened():
        pytest.skip(f'this OpenCV cannot write {path}')
    for i in range(count):
        sink.write(np.ascontiguousarray(scene(i, h, w)[..., ::-1]))
    sink.release()
    return path


def frames(path):
    source, found = cv2.VideoCapture(str(path)), []
    while (got := source.read())[0]:
        found.append(got[1][..., ::-1])
    return found, source.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize('name, args', [('a.mp4', []), ('b.avi', ['TEST_BATCH=1'])])
def test_a_video_gives_as_many_frames(again, name, args):
    """... in their order, whole batches or not, at the same rate; pictures beside it are predicted, too."""
    path = make_video(f'{again.pics}/{name}', 7)
    put_picture(f'{again.pics}/still.png', scene(1))
    assert f'2 of 2 written to {again.out}: overlay index' in predicted(again, again.pics, *args)
    assert sorted(snapshot(again.out)) == [
        'index/still.png',
        f'overlay/{name[0]}.mp4',
        'overlay/still.png',
    ]
    (source, rate), (found, rate_found) = (
        frames(path),
        frames(again.out / 'overlay' / f'{name[0]}.mp4'),
    )
    assert len(source) == len(found) == 7 and rate == rate_found == 10
    wanted = [
        visualize.overlay(i, COLOURS[ids]) for i, ids in zip(source, answers(loaded(again), source))
    ]
    far = np.array([[np.abs(f.astype(int) - w).mean() for w in wanted] for f in found])
    assert (far.argmin(1) == range(7)).all() and far.diagonal().max() < 15, far.round(1)


def little_memory():
    """In the new process: 10 MB are free; pictures need more as a whole, and less in windows."""
    import itertools

    from utils import memory

    amounts = itertools.cycle([20_000_000, 5_000_000])
    memory.free = lambda device: 10_000_000
    memory.needed = lambda *args: next(amounts)


def test_large_pictures_go_in_windows_where_memory_would_not_do(again):
    """Those alone, with a line that says so; as TEST_CROP does it, of the training crop's size."""
    for name, pixels in (('a', scene(1, 300, 260)), ('b', scene(2, 310, 260)), ('c', scene(3))):
        put_picture(f'{again.pics}/{name}.png', pixels)
    out = predicted(again, again.pics, before=little_memory)
    (line, *others) = [line for line in out.splitlines() if 'predicted in windows' in line]
    assert len(others) == 1 and re.match(r'260x3[01]0 pixels need about 0\.\d GB of memory', line)
    assert 'and 0.0 GB are free: predicted in windows of the training crop, 65x65' in line
    ids = {name: ids_of(again.out / 'index' / f'{name}.png') for name in 'abc'}
    net = loaded(again)
    (small,) = answers(net, [scene(3)])
    whole = answers(net, [scene(1, 300, 260), scene(2, 310, 260)])
    config.put({'TEST_CROP': 65})
    windows = answers(net, [scene(1, 300, 260), scene(2, 310, 260)])
    assert alike(ids['a'], windows[0]) and alike(ids['b'], windows[1]) and alike(ids['c'], small)
    assert not alike(ids['a'], whole[0])
    bases = again.run(
        'predict.py', again.pics, '--bases', f'SAVE_DIR={again.out}', before=little_memory
    )
    assert bases.status == 1 and bases.err.count('--bases needs the whole picture at once') == 2


@pytest.mark.parametrize('head', ['ema', 'danet'])
def test_memory_that_is_needed(head):
    """Of a network and its scores: at least the largest tensors, at most a few of them."""
    small_net(HEAD=head, STRIDE=8)
    net, p = network.fold(build(8)), evaluation.protocol()

    def needed(side):
        task = lambda x: evaluation.scores(net, x, p)
        with torch.no_grad():
            return memory.needed(task, (1, 3, side, side), torch.device('cpu'))

    logits = 4 * 8 * 497**2
    positions = (496 / 8 + 1) ** 2
    attention = 4 * positions**2 if head == 'danet' else 0
    assert logits + attention < needed(497) < 12 * logits + 3 * attention
    assert (needed(993) > 8 * needed(497)) == (head == 'danet')  # with the square of the pixels


def test_an_estimate_of_memory_leaves_nothing_behind():
    """Autocast keeps weights in the half type: those of the estimate, which have no numbers, not."""
    small_net(HEAD='fcn', STRIDE=8)
    net = network.fold(build(8))
    image = torch.randint(256, (1, 3, 65, 65), dtype=torch.uint8)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        wanted = net(image)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert memory.needed(net, image.shape, image.device) > 0
        assert torch.equal(net(image), wanted)


def test_memory_that_is_free(tmp_path, monkeypatch):
    """A container's limit goes before what the machine has; a machine that does not tell is None."""
    cpu = torch.device('cpu')
    monkeypatch.setattr(memory, 'CGROUPS', [])
    assert memory.free(cpu) is None or memory.free(cpu) > 2**20
    for name, text in (('limit', '5000'), ('used', '2000'), ('none', 'max')):
        (tmp_path / name).write_text(text + '\n')
    names = [('none', 'used'), ('missing', 'used'), ('limit', 'used')]
    groups = [
        (tmp_path / limit, tmp_path / used, tmp_path / 'stat', 'cached') for limit, used in names
    ]
    monkeypatch.setattr(memory, 'CGROUPS', groups)
    assert memory.free(cpu) == 3000
    (tmp_path / 'stat').write_text('anon 7\ncached 1500\n')  # files, which make room
    assert memory.free(cpu) == 4500


def test_a_picture_that_is_too_large_for_windows(monkeypatch, capsys):
    """Windows are measured as whole pictures are: with many classes their scores are most of it."""
    small_net(HEAD='danet', STRIDE=8, CROP_SIZE=257, TEST_BATCH=1)
    world = distributed.World([torch.device('cpu')])
    p = evaluation.protocol()
    net = network.fold(build(9))
    predictor = predict.Predictor(
        world,
        [(net, p, (257, 257))],
        'out',
        SimpleNamespace(compare=None, bases=False, probabilities=False),
    )
    shape = 1, 993, 801
    windows = predictor.needed(0, shape, p._replace(crop=(257, 257)))
    whole = predictor.needed(0, shape, p)
    assert 2 * 4 * 9 * 993 * 801 < windows < whole
    monkeypatch.setattr(memory, 'free', lambda device: windows - 1)
    with pytest.raises(UserError, match='801x993 pixels need about .*; windows would need'):
        predictor.fit(0, shape)
    predictor.fits.clear()
    monkeypatch.setattr(memory, 'free', lambda device: windows + 1)
    assert not predictor.fit(0, shape)
    assert 'predicted in windows of the training crop, 257x257' in capsys.readouterr().out


def test_of_several_pictures_in_a_file_one_is_taken_and_said(again):
    pages = [Image.fromarray(scene(seed)) for seed in (1, 2, 3)]
    for name in ('film.gif', 'pages.tif'):
        put_picture(f'{again.pics}/{name}', scene(1))
        pages[0].save(again.pics / name, save_all=True, append_images=pages[1:])
    put_picture(f'{again.pics}/one.gif', scene(1))
    result = again.run('predict.py', again.pics, f'SAVE_DIR={again.out}')
    assert result.status == 0 and '3 of 3 written' in result.out
    lines = [line for line in result.err.splitlines() if 'pictures is predicted' in line]
    assert len(lines) == 2
    for name in ('film.gif', 'pages.tif'):
        assert any(f'{again.pics / name}: the first of its 3 pictures' in line for line in lines)


HEIC = b'\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf'


def test_heic_names_the_package_that_reads_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    (tmp_path / 'a.HEIC').write_bytes(HEIC + bytes(99))
    with pytest.raises(UserError, match='a.HEIC: HEIC pictures need .*: pip install pillow-heif'):
        read_image(str(tmp_path / 'a.HEIC'), upright=True)


def test_heic_is_read_by_that_package(tmp_path):
    heif = pytest.importorskip('pillow_heif')
    heif.register_heif_opener()
    Image.fromarray(np.full((40, 60, 3), (250, 0, 0), np.uint8)).save(tmp_path / 'a.heic')
    pixels = read_image(str(tmp_path / 'a.heic'), upright=True)
    assert pixels.shape == (40, 60, 3) and np.abs(pixels - np.array([250, 0, 0.0])).max() < 8


# ---------------------------------------------------------------------------------------------------------- mistakes


BAD = {
    'cut.png': lambda data: data[: len(data) // 2],
    'empty.jpg': lambda data: b'',
    'film.mp4': lambda data: b'no film\n',
    'text.webp': lambda data: b'no picture\n',
}


@pytest.mark.parametrize('workers', [0, 1])
def test_bad_files_among_good_ones(again, workers):
    """Each is named, the others are written."""
    put_picture(f'{again.pics}/a.png', scene(1))
    for name, spoil in BAD.items():
        (again.pics / name).write_bytes(spoil((again.pics / 'a.png').read_bytes()))
    (again.pics / 'lost.png').symlink_to('nowhere')
    put_picture(f'{again.pics}/z.png', scene(2))
    found = again.run('predict.py', again.pics, f'SAVE_DIR={again.out}', f'NUM_WORKERS={workers}')
    assert found.status == 1 and 'Traceback' not in found.err, found
    assert f'2 of 7 written to {again.out}' in found.out
    lines = [line for line in found.err.split('\n') if 'predict.py: ' in line]
    assert len(lines) == 5 and all(
        any(f'predict.py: {again.pics / name}: ' in line for line in lines)
        for name in [*BAD, 'lost.png']
    ), found.err
    assert sorted(snapshot(again.out)) == [
        f'{kind}/{name}.png' for kind in ('index', 'overlay') for name in 'az'
    ]


def test_a_picture_smaller_than_the_stride_among_others(again):
    """It is predicted, or it is named and the others are predicted."""
    for name, image in (
        ('a', scene(1)),
        ('dot', scene(1, 1, 1)),
        ('strip', scene(2, 3, 90)),
        ('z', scene(3)),
    ):
        put_picture(f'{again.pics}/{name}.png', image)
    found = again.run('predict.py', again.pics, f'SAVE_DIR={again.out}')
    assert 'Traceback' not in found.err and (again.out / 'index' / 'a.png').exists()
    for name in ('dot', 'strip'):
        assert (
            (again.out / 'index' / f'{name}.png').exists()
            or found.status == 1
            and f'{name}.png' in found.err
        ), found.err
    assert (again.out / 'index' / 'z.png').exists()


def test_a_film_smaller_than_the_stride_among_others(again):
    put_picture(f'{again.pics}/a.png', scene(1))
    make_video(f'{again.pics}/a.mp4', 2, 8, 8)
    make_video(f'{again.pics}/odd.mp4', 3, 97, 65)
    found = again.run('predict.py', again.pics, f'SAVE_DIR={again.out}')
    assert (
        'Traceback' not in found.err
        and (again.out / 'index' / 'a.png.png').exists()
        and not list(again.out.rglob('*.part*'))
    )
    (source, _), (shown, _) = (
        frames(f'{again.pics}/odd.mp4'),
        frames(again.out / 'overlay' / 'odd.mp4.mp4'),
    )
    assert len(shown) == len(source) == 3 and shown[0].shape == source[0].shape
    assert (
        (again.out / 'overlay' / 'a.mp4.mp4').exists()
        or found.status == 1
        and f'{again.pics}/a.mp4' in found.err
    )


@pytest.mark.parametrize(
    'args, status, words',
    [
        ('', 2, ['name pictures', 'python predict.py photo.jpg']),
        ('{0}/*.tif', 1, ['{0}/*.tif: there is no such file', 'pattern']),
        ('{0}/none.jpg', 1, ['{0}/none.jpg: there is no such file']),
        ('{0}/pics/a.png {0}/none.jpg', 1, ['{0}/none.jpg: there is no such file']),
        ('{0}/empty', 1, ['{0}/empty: there is no picture or video in this folder']),
        ('{0}/pics/a.png --base', 2, ['--base: there is no such flag', 'did you mean --bases?']),
        (
            '{0}/pics/a.png --probs',
            2,
            ['--probs: there is no such flag', 'did you mean --probabilities?'],
        ),
        ('{0}/pics/a.png --xyz', 2, ['--xyz: there is no such flag', '--compare']),
        ('{0}/pics/a.png --bases=3', 2, ['--bases', "'3'"]),
        ('{0}/pics/a.png --compare A.pth', 2, ['--compare', 'expected 2 arguments']),
        ('{0}/pics/a.png --compare A.pth --bases', 2, ['--compare', 'expected 2 arguments']),
        ('{0}/pics/a.png --compare A.pth B.pth --bases', 2, ['--compare goes alone']),
        ('{0}/pics/a.png --probabilities --compare A.pth B.pth', 2, ['--compare goes alone']),
        ('{0}/pics/a.png --compare A.pth B.pth', 1, ['A.pth: there is no such checkpoint']),
        (
            '{0}/pics --bases',
            2,
            ['{0}/pics/film.mp4: of videos there are overlays alone', '--bases'],
        ),
        ('{0}/pics --probabilities', 2, ['{0}/pics/film.mp4: of videos', '--probabilities']),
        (
            '{0}/pics/a.png CHECKPOINT={0}/none.pth',
            1,
            ['{0}/none.pth: there is no such checkpoint'],
        ),
        (
            '{0}/pics/a.png NAME=new',
            1,
            ['no checkpoint to evaluate', 'new/best.pth', 'CHECKPOINT=FILE'],
        ),
        ('{0}/pics/a.png TEST_SCALE=1', 2, ['no setting TEST_SCALE', 'did you mean TEST_SCALES?']),
        ('{0}/pics/a.png mine.py', 2, ['mine.py: there is no such recipe']),
    ],
)
def test_mistakes(again, inside, args, status, words):
    put_picture(f'{again.pics}/a.png', scene(1))
    (again.pics / 'film.mp4').write_bytes(b'')
    (again.folder / 'empty').mkdir()
    (again.folder / 'empty' / 'notes.txt').touch()
    args = args.format(again.folder).split()
    assert_told(
        inside('predict.py', *again.args(f'SAVE_DIR={again.out}', *args)),
        status,
        *(w.format(again.folder) for w in words),
    )
    assert not again.out.exists() and not again.logs.exists()


@pytest.mark.parametrize(
    'where, words',
    [
        ('file', ['{0}/file', 'this is a file, not a folder']),
        ('file/below', ['{0}/file/below', 'this is a file']),
        ('folder', ['{0}/folder/index', 'this is a file']),
        ('/proc/nowhere', ['/proc/nowhere']),
    ],
)
def test_folders_that_cannot_be_written(again, where, words):
    put_picture(f'{again.pics}/a.png', scene(1))
    (again.folder / 'file').write_text('precious')
    (again.folder / 'folder').mkdir()
    (again.folder / 'folder' / 'index').write_text('precious')
    assert_told(
        again.run('predict.py', again.pics, f'SAVE_DIR={again.folder / where}'),
        1,
        *(w.format(again.folder) for w in words),
    )
    assert (
        (again.folder / 'file').read_text()
        == (again.folder / 'folder' / 'index').read_text()
        == 'precious'
    )


def test_a_film_that_cannot_be_written(again):
    (again.folder / 'file').write_text('precious')
    assert_told(
        again.run(
            'predict.py', make_video(f'{again.pics}/a.mp4', 2), f'SAVE_DIR={again.folder}/file'
        ),
        1,
        f'{again.folder}/file',
        'this is a file',
    )


def test_heads_without_bases(again):
    args = 'HEAD=fcn', f'CHECKPOINT={random_net(again, "HEAD=fcn", run="fcn")}'
    predicted(again, put_picture(f'{again.pics}/a.png', scene(1)), *args)
    assert sorted(snapshot(again.out)) == ['index/a.png', 'overlay/a.png']
    assert alike(
        ids_of(again.out / 'index' / 'a.png'),
        answers(loaded(again, *args, path=again.models / 'fcn' / 'best.pth'), [scene(1)])[0],
    )


def test_bases_of_a_network_that_has_none(again):
    again.models = again.folder / 'models'
    path = random_net(again, 'HEAD=fcn', run='fcn')
    picture = put_picture(f'{again.pics}/a.png', scene(1))
    found = again.run('predict.py', picture, '--bases', f'CHECKPOINT={path}')
    assert_told(found, 2, '--bases shows the bases of an EM unit', 'HEAD=fcn', 'HEAD=ema')


def test_its_own_output_is_no_input(again):
    put_picture(f'{again.pics}/a.png', scene(1))
    put_picture(f'{again.pics}/.hidden/b.png', scene(2))
    again.out = again.pics / 'out'
    for _ in range(2):
        assert '1 of 1 written' in predicted(again, again.pics)


def test_a_film_that_breaks_off(again):
    """What can be decoded is kept; the file is told of, and the status is 1."""
    film = str(again.folder / 'film.avi')
    sink = cv2.VideoWriter(film, cv2.VideoWriter_fourcc(*'MJPG'), 5, (80, 60))
    if not sink.isOpened():
        pytest.skip('this OpenCV cannot write MJPG')
    for i in range(40):
        sink.write(np.ascontiguousarray(scene(i)[..., ::-1]))
    sink.release()
    with open(film, 'rb') as f:
        half = f.read()
    with open(film, 'wb') as f:
        f.write(half[: len(half) // 2])
    found = again.run('predict.py', film, f'SAVE_DIR={again.out}')
    assert found.status == 1 and 'Traceback' not in found.err and 'film.avi' in found.err
    if 'frames could be decoded' in found.err:
        assert (again.out / 'overlay' / 'film.mp4').exists()
