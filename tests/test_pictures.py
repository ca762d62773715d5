"""Pictures of train ids: files, names, colours, legends, contact sheets, charts. Nothing here warns."""

import itertools
import os

import numpy as np
import pytest
from PIL import Image

from utils import fonts, visualize

pytestmark = pytest.mark.filterwarnings('error')
COLOURS = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 200], [255, 255, 0]], np.uint8)
NAMES = ['ground', 'hut', 'Bäume über Öl', '道']


def noise(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def read(path):
    with Image.open(path) as picture:
        return np.array(picture)


# ------------------------------------------------------------------------------------------------------- files and names


def test_a_palette_png_holds_indices_and_colours(tmp_path):
    ids = np.random.default_rng(0).integers(0, 4, (13, 7), np.uint8)
    ids[0, 0] = 255  # void is black
    path = tmp_path / 'a' / 'ü b' / 'index.png'
    visualize.save(str(path), ids, COLOURS)
    with Image.open(path) as picture:
        assert picture.mode == 'P' and (np.array(picture) == ids).all()
        shown = np.array(picture.convert('RGB'))
    assert (shown == visualize.colour(ids, COLOURS)).all() and (
        shown[ids < 4] == COLOURS[ids[ids < 4]]
    ).all()
    assert shown[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    'pixels',
    [
        noise(5, 9),
        noise(1, 1),
        noise(6, 6)[:, ::-1],
        np.arange(35).reshape(5, 7).astype(np.uint16) * 1000,
    ],
)
def test_pixels_come_back(tmp_path, pixels):
    visualize.save(str(tmp_path / 'p.png'), pixels)
    assert (read(tmp_path / 'p.png') == pixels).all() and os.listdir(tmp_path) == ['p.png']


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, before = tmp_path / 'p.png', noise(4, 4)
    visualize.save(str(path), before)

    def full(self, f, *args, **kwargs):
        f.write(b'\x89PNG half of it')
        f.flush()
        assert (read(path) == before).all()  # while it is being written, too
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Image.Image, 'save', full)
    for place in (path, tmp_path / 'new' / 'q.png'):
        with pytest.raises(OSError, match='No space left'):
            visualize.save(str(place), noise(4, 4, 1))
    assert (read(path) == before).all()
    assert os.listdir(tmp_path / 'new') == [] and sorted(os.listdir(tmp_path)) == ['new', 'p.png']


@pytest.mark.parametrize(
    'paths, wanted',
    [
        (['/d/a.png', '/e/b.jpg'], ['a', 'b']),
        (['/d/a.b.png', '/d/a.png'], ['a.b', 'a']),
        (['/d/x/a.png', '/d/y/a.png', '/d/b.png'], ['x/a', 'y/a', 'b']),
        (['/d/a.png', '/d/a.jpg', '/d/b.png'], ['a.png', 'a.jpg', 'b.png']),
        (['/d/x/a.png', '/d/x/a.jpg', '/d/y/a.png'], ['x/a.png', 'x/a.jpg', 'y/a.png']),
        (['x/a.png', './y/a.png'], ['x/a', 'y/a']),
        (['/d/ü.png'], ['ü']),
    ],
)
def test_output_names_tell_all_apart(paths, wanted):
    assert visualize.output_names(paths) == wanted


# ---------------------------------------------------------------------------------------------------- colours and errors


def test_errors_are_right_wrong_or_void():
    label, pred = (
        np.array([[0, 0, 1], [1, 255, 11]], np.uint8),
        np.array([[0, 1, 1], [0, 255, 0]], np.uint8),
    )
    found = visualize.errors(label, pred, 11)
    wanted = [
        [visualize.RIGHT, visualize.WRONG, visualize.RIGHT],
        [visualize.WRONG, visualize.VOID, visualize.VOID],
    ]
    assert found.dtype == np.uint8 and found.tolist() == np.array(wanted).tolist()


def test_an_overlay_is_half_and_half():
    image, coloured = noise(20, 30), noise(20, 30, 1)
    image[0], coloured[0] = 255, 255
    coloured[5:7] = 0  # a black class, or void, leaves the image as it is
    coloured[5, 0] = 0, 0, 2
    found = visualize.overlay(image, coloured)
    assert found.dtype == np.uint8
    wanted = (image.astype(float) + coloured) / 2
    wanted[5, 1:], wanted[6] = image[5, 1:], image[6]
    assert np.abs(found - wanted).max() <= 1


# ------------------------------------------------------------------------------------------------ legends and sheets


def many(n):
    return np.random.default_rng(1).integers(30, 220, (n, 3), np.uint8), [
        f'class number {i}' for i in range(n)
    ]


def test_a_legend_shows_what_occurs_most_frequent_first():
    ids = np.zeros((10, 10), np.uint8)
    ids[:7], ids[7:9] = 3, 1
    ids[9] = 255
    found = visualize.legend(ids, NAMES, COLOURS, 400)
    assert found.dtype == np.uint8 and found.shape[1:] == (400, 3)
    places = {i: np.argwhere((found == COLOURS[i]).all(2)) for i in range(4)}
    assert len(places[3]) > 50 and len(places[1]) > 50 and not len(places[0]) and not len(places[2])
    assert tuple(places[3][0]) < tuple(places[1][0])  # rows first
    assert places[3][0].tolist() == [5, 5]


@pytest.mark.parametrize(
    'ids',
    [np.full((4, 4), 255), np.zeros((1, 1)), np.arange(4)[None], np.arange(4).reshape(2, 2, 1)],
    ids=['no class', '1x1', '4x1', 'two'],
)
@pytest.mark.parametrize('width', [1, 56, 3000])
def test_legends_of_odd_inputs(ids, width):
    found = visualize.legend(ids.astype(np.uint8), NAMES, COLOURS, width)
    assert found.dtype == np.uint8 and found.shape[1:] == (width, 3) and found.shape[0] >= 4
    if width > 1:
        assert (found.min() == 255) == (
            ids.min() == 255
        )  # there is something on it, if there is a class


def test_a_legend_of_171_classes():
    colours, names = many(171)
    ids = np.arange(171, dtype=np.uint8)[None].repeat(3, 0)
    found = visualize.legend(ids, names, colours, 500)
    assert {*map(tuple, colours.tolist())} <= {
        *map(tuple, np.unique(found.reshape(-1, 3), axis=0).tolist())
    }


@pytest.mark.parametrize('shape', [(1, 1), (40, 60), (90, 3), (700, 2000)])
def test_sheets_of_odd_pictures(shape):
    tiles = [
        ('first', noise(*shape)),
        ('', noise(1, 1)),
        ('Bäume über Öl, 道 ' * 9, noise(90, 1)),
        ('wide', noise(2, 90)),
        ('as first', noise(*shape)),
    ]
    for columns, width in itertools.product((1, 4, 8), (20, 300)):
        found = visualize.sheet(tiles, columns, width)
        height, caption = (
            min(2 * width, round(width * shape[0] / shape[1])),
            round(1.5 * max(10, width // 22)),
        )
        assert found.dtype == np.uint8
        assert found.shape == (
            -(-5 // columns) * (height + caption + 4),
            min(5, columns) * (width + 4),
            3,
        )


def test_a_sheet_of_a_very_wide_picture():
    found = visualize.sheet([('strip', noise(1, 1000)), ('strip', noise(1, 1000))], 2)
    assert found.shape[1:] == (2 * 304, 3)


def test_a_sheet_shows_the_pictures_row_by_row():
    tiles = [(f'{i}', noise(30, 40, i)) for i in range(3)]
    found = visualize.sheet(tiles, 2, width=40)
    below = 30 + 15 + 4
    assert (
        (found[:30, :40] == tiles[0][1]).all()
        and (found[:30, 44:84] == tiles[1][1]).all()
        and (found[below : below + 30, :40] == tiles[2][1]).all()
    )
    assert found[30:45, :40].min() < 128  # a caption
    assert (found[below:, 44:] == 255).all()


def test_heatmaps_is_ordered_by_use():
    maps = np.zeros((4, 5, 6), np.float32)
    maps[2], maps[0, :3], maps[3, 0, 0] = 0.5, 0.5, 1
    image = noise(50, 60)
    found = visualize.heatmaps(image, maps, 60)
    assert [caption for caption, _ in found] == [
        '2: 60.0 %, up to 0.50',
        '0: 36.0 %, up to 0.50',
        '3: 4.0 %, up to 1.00',
        '1: 0.0 %, up to 0.00',
    ]
    assert all(p.shape == image.shape and p.dtype == np.uint8 for _, p in found)
    assert (
        found[1][1][:20].mean() > 1.5 * found[1][1][40:].mean()
    )  # bright above, where it is in use
    assert np.ptp(found[3][1], 2).max() == 0  # the grey picture


def test_heatmaps_of_one_pixel():
    assert visualize.heatmaps(noise(1, 1), np.ones((2, 1, 1), np.float32), 7)[1][1].shape == (
        7,
        7,
        3,
    )


def test_heatmaps_of_large_pictures_is_small():
    """Many maps of a street scene, or of a strip, are never held at its size."""
    for size, wanted in (((400, 800), (80, 160)), ((4000, 8), (320, 1))):
        assert all(
            p.shape == (*wanted, 3)
            for _, p in visualize.heatmaps(noise(*size), np.ones((3, 4, 4), np.float32), 160)
        )


# -------------------------------------------------------------------------------------------------------------- charts


@pytest.mark.parametrize('n', [1, 2, 12, 171])
def test_charts(n):
    names = [f'Fläche {i}' for i in range(n)]
    matrix = np.random.default_rng(0).integers(0, 10**9, (n, n))
    matrix[n // 2 :] = 0  # not in the labels
    iou = [i / n if i % 3 else None for i in range(n)]
    for found in (visualize.confusion(matrix, names), visualize.bars(iou, names, 'Title: 3 %')):
        assert (
            found.dtype == np.uint8
            and found.ndim == 3
            and found.shape[2] == 3
            and min(found.shape[:2]) > 50
        )
        assert np.ptp(found) > 100


def test_classes_in_a_script_that_no_font_has_are_numbers(monkeypatch):
    """In legends and charts; names that can be drawn stay."""
    monkeypatch.setattr(fonts.font_manager.fontManager, 'ttflist', [])
    fonts.best.cache_clear()
    names, alike = ['ground', '道', 'sky'], ['ground', 'class 1', 'sky']
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 200]], np.uint8)
    pictures = []
    for words in (names, alike, ['ground', 'class 2', 'sky']):
        legend = visualize.legend(np.arange(3, dtype=np.uint8)[None], words, colours, 400)
        matrix = visualize.confusion(np.eye(3), words)
        pictures.append([legend, matrix, visualize.bars([0.5, 0.7, 0.2], words, 'title')])
    fonts.best.cache_clear()
    for shown, wanted, other in zip(*pictures, strict=True):
        assert np.array_equal(shown, wanted) and not np.array_equal(shown, other)


def test_the_font_whose_glyphs_are_boxes_is_not_used(monkeypatch):
    """Newer matplotlib brings one, and it has every character."""

    class LastResort:
        fname = '/fonts/LastResortHE-Regular.ttf'

    characters = fonts.characters
    everything = lambda path: frozenset(range(70000)) if 'Last' in path else characters(path)
    monkeypatch.setattr(fonts.font_manager.fontManager, 'ttflist', [LastResort])
    monkeypatch.setattr(fonts, 'characters', everything)
    fonts.best.cache_clear()
    path, names = fonts.fit(['道', 'road'], ['class 0', 'class 1'])
    fonts.best.cache_clear()
    assert (str(path), names) == (fonts.DEFAULT, ['class 0', 'road'])


def test_bars_of_nothing():
    assert visualize.bars([None, None], ['a', 'b'], 'nothing').shape[2] == 3


def blue(picture):
    """Where a chart is blue."""
    return picture[..., 2].astype(int) - picture[..., 0] > 80


def test_charts_show_their_numbers():
    """Rows of a confusion matrix are shares of their own sum; bars of present classes alone, longer ones above."""
    right, wrong = (
        blue(visualize.confusion(np.array(m), ['a', 'b'])[:, :-150])
        for m in ([[9, 0], [0, 10**6]], [[0, 9], [10**6, 0]])
    )
    assert 0.9 < right.sum() / wrong.sum() < 1.1 and (right & wrong).sum() < 0.2 * right.sum()
    found = blue(visualize.bars([0.25, None, 1.0], ['a', 'b', 'c'], 'some')).sum(1)
    lengths = [n for n, _ in itertools.groupby(found[found > 30])]
    assert len(lengths) == 2 and 3.8 < lengths[0] / lengths[1] < 4.2


def test_charts_take_names_as_they_are():
    """... and do not set them as formulas."""
    names = ['$x^$', '5 $', '_', '{']
    assert (
        visualize.confusion(np.eye(4), names).shape[2]
        == visualize.bars([1.0] * 4, names, '$\\no{formula$').shape[2]
        == 3
    )
