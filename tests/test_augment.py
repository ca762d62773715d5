"""Whole images by their short side, and crops that no class may fill; crops, rotation, blur and jitter are in test_dataset.py."""

import math
from fractions import Fraction

import cv2
import numpy as np
import pytest
from helpers import blocks, colour_of, make_camvid, put

import settings
from dataset import Dataset
from datasets import transforms
from datasets.transforms import Augment
from utils import config, older
from utils.config import UsageError, override


def sample(image, label, position=0, **values):
    put(**dict(FLIP=0.0) | values)
    return Augment()(image, label, np.random.default_rng((0, position, 1)))


def plain(h, w):
    return np.zeros((h, w, 3), np.uint8), np.zeros((h, w), np.uint8)


class Counted:
    """A generator that counts the numbers drawn."""

    def __init__(self, seed=0):
        self.rng, self.drawn = np.random.default_rng(seed), []

    def random(self, n=None):
        self.drawn.append(n or 1)
        return self.rng.random(n)


# ---------------------------------------------------------------------------------------------------------- whole images


@pytest.mark.parametrize(
    'size, side, limit, wanted',
    [
        ((60, 80), 30, 0, (30, 40)),
        ((80, 60), 30, 0, (40, 30)),
        ((60, 80), 90, 0, (90, 120)),
        ((60, 60), 33, 0, (33, 33)),
        ((61, 83), 47, 0, (47, 63)),
        ((60, 80), 90, 100, (75, 100)),
        ((80, 60), 90, 100, (100, 75)),
        ((60, 80), 90, 120, (90, 120)),
        ((60, 80), 90, 119, (89, 119)),
        ((60, 80), 60, 80, (60, 80)),
        ((20, 100), 40, 64, (12, 64)),
    ],
)
def test_sizes_of_whole_images(size, side, limit, wanted):
    image, label = sample(
        *plain(*size),
        SHORT_SIDE=((side,), limit) if limit else (side,),
        CROP_SIZE=16,
        SCALES=(2.0,),
    )
    assert image.shape == (*wanted, 3) and label.shape == wanted and (label == 0).all()


@pytest.mark.parametrize(
    'sides, wanted',
    [
        ((20,), {20}),
        ((20, 26, 23), {20, 23, 26}),
        ((20, 26), set(range(20, 27))),
        ((26, 20), set(range(20, 27))),
    ],
)
def test_short_sides_that_occur(sides, wanted):
    found = [
        sample(*plain(30, 40), position, SHORT_SIDE=sides)[1].shape[0] for position in range(400)
    ]
    assert set(found) == wanted
    assert max(map(found.count, wanted)) < 2.5 * 400 / len(wanted)


@pytest.mark.parametrize(
    'size, side', [((61, 83), 40), ((61, 83), 61), ((61, 83), 97), ((83, 61), 150), ((64, 96), 32)]
)
def test_map_of_whole_images(size, side):
    """Output pixel i lies at source (i + 0.5) / scale - 0.5, for image and label."""
    ids = np.random.RandomState(1).randint(0, 250, size).astype(np.uint8)
    image = np.dstack(
        [
            np.arange(size[0])[:, None] + np.zeros(size),
            2 * np.arange(size[1]) + np.zeros(size),
            np.zeros(size),
        ]
    ).astype(np.uint8)
    found, label = sample(image, ids, SHORT_SIDE=(side,))
    scale = Fraction(side, min(size))
    rows, columns = (
        [math.floor((i + Fraction(1, 2)) / scale) for i in range(n)] for n in label.shape
    )
    assert (label == ids[rows][:, columns]).all()
    at = [
        np.clip((np.arange(n) + 0.5) / float(scale) - 0.5, 0, m - 1)
        for n, m in zip(label.shape, size)
    ]
    assert (
        np.abs(found[..., 0] - at[0][:, None]).max() <= 1
        and np.abs(found[..., 1] - 2 * at[1]).max() <= 1
    )
    assert np.abs((found[..., 1] - 2 * at[1]).mean()) < 0.2


@pytest.mark.parametrize(
    'values', [dict(), dict(ROTATE=30.0), dict(SHORT_SIDE=((60, 150), 180))], ids=str
)
@pytest.mark.parametrize('flip', [0.0, 1.0])
def test_whole_images_stay_aligned(values, flip):
    raw, seen = blocks(120, 160, seed=3), 0
    for position in range(6):
        image, label = sample(
            colour_of(raw)[..., ::-1].copy(),
            raw,
            position,
            **dict(SHORT_SIDE=(60, 100, 150), FLIP=flip) | values,
        )
        assert label.shape == image.shape[:2] and min(label.shape) in range(60, 151)
        kernel = np.ones((7, 7))
        inside = (cv2.dilate(label, kernel) == cv2.erode(label, kernel)) & (label != 255)
        inside[:3] = inside[-3:] = inside[:, :3] = inside[:, -3:] = False
        assert np.abs(image.astype(int) - colour_of(label)[..., ::-1])[inside].max() <= 1
        assert (label == 255).any() == ('ROTATE' in values)
        seen += inside.mean() / 6
    assert seen > 0.1


def test_flip_mirrors_whole_images():
    raw = blocks(60, 80, seed=1)
    (a, b), (c, d) = (
        sample(colour_of(raw), raw, SHORT_SIDE=(45,), FLIP=flip) for flip in (0.0, 1.0)
    )
    assert (a[:, ::-1] == c).all() and (b[:, ::-1] == d).all() and not (b == d).all()


def test_rotation_of_whole_images_by_nothing():
    raw = np.add.outer(np.arange(72), np.arange(100)).astype(np.uint8)
    (a, b), (c, d) = (
        sample(np.dstack([raw] * 3), raw, SHORT_SIDE=(90,), ROTATE=angle) for angle in (0.0, 1e-7)
    )
    assert (
        a.shape == c.shape
        and np.abs(a.astype(int) - c)[2:-2, 2:-2].max() <= 1
        and (b == d)[2:-2, 2:-2].mean() > 0.99
    )


def test_whole_images_of_the_data_set(tmp_path):
    """One window there is: no class share makes it another one; blur and jitter come as ever."""
    make_camvid(tmp_path, SHORT_SIDE=(30, 50, 50), CAT_MAX_RATIO=0.01, BLUR=1.0, JITTER=0.3)
    data, rng = Dataset('train', train=True), Counted()
    assert {data[p, 0][1].shape for p in range(20)} == {(30, 42), (50, 70)}
    assert (data[3, 0][0] == data[3, 0][0]).all() and data[3, 0][0].shape == (
        3,
        *data[3, 0][1].shape,
    )
    data.augment(*data.read(0), rng)
    assert rng.drawn == [8, 1]


# -------------------------------------------------------------------------------------------------------------- scales


@pytest.mark.parametrize(
    'scales, low, high, kinds',
    [((0.5, 2.0), 0.5, 2.0, 50), ((2.0, 0.5), 0.5, 2.0, 50), ((0.5, 1.0, 2.0), 0.5, 2.0, 3)],
)
def test_two_scales_are_a_range_and_more_a_choice(scales, low, high, kinds):
    put(SCALES=scales)
    augment = Augment()
    drawn = [augment.scale((100, 100), d) for d in np.linspace(0, 1, 400, endpoint=False)]
    assert low <= min(drawn) < low + 0.1 and high - 0.1 < max(drawn) <= high
    assert len(set(drawn)) == kinds if kinds == 3 else len(set(drawn)) > kinds
    assert all(scale.denominator <= 32 for scale in drawn)


@pytest.mark.parametrize('size', [(375, 500), (500, 333), (1024, 2048), (513, 513), (1, 7)])
def test_a_base_size_is_the_long_side_at_scale_1(size):
    """Of any image, to the pixel; scales multiply it, and two of them are a range, evenly drawn."""
    put(BASE_SIZE=520, SCALES=(1.0,))
    assert int(max(size) * Augment().scale(size, 0.3)) == 520
    put(SCALES=(0.5, 2.0))
    augment = Augment()
    scales = [augment.scale(size, d) for d in np.linspace(0, 1, 781)[:-1]]
    assert [int(max(size) * scale) for scale in scales] == pytest.approx(range(260, 1040), abs=1)
    # few, so that not the whole axis is read for a crop
    assert np.median([scale.denominator for scale in scales]) < 64


def test_crops_of_an_image_of_base_size():
    """They are those of the image enlarged as a whole, padded where it ends."""
    raw = blocks(45, 60, seed=4)
    whole, ids = sample(colour_of(raw), raw, BASE_SIZE=100, SCALES=(1.0,), CROP_SIZE=(80, 104))
    assert (ids[:75, :100] < 255).all() and (ids[75:] == 255).all() and (ids[:, 100:] == 255).all()
    seen = set()
    for position in range(8):
        image, label = sample(colour_of(raw), raw, position, CROP_SIZE=40)
        rows, columns = np.mgrid[:36, :61]
        fits = [
            (y, x)
            for y, x in zip(rows.ravel(), columns.ravel())
            if (ids[y : y + 40, x : x + 40] == label).all()
        ]
        assert any(np.abs(image - 1.0 * whole[y : y + 40, x : x + 40]).max() <= 1 for y, x in fits)
        seen.add(fits[0])
    assert len(seen) > 4


def test_a_base_size_of_whole_images_contradicts_itself():
    with pytest.raises(UsageError, match=r'SHORT_SIDE = \(64,\) and BASE_SIZE = 99 both give the'):
        override(['SHORT_SIDE=64', 'BASE_SIZE=99'])


@pytest.mark.parametrize(
    'words, said',
    [
        (['BASE_SIZE=1', 'SCALES=(0.5,2)'], 'BASE_SIZE = 1 times 2, .* is a long side of 2 pixels'),
        (
            ['BASE_SIZE=200', 'SCALES=1', 'CROP_SIZE=(64,401)'],
            r'not half of the crop .*\(64, 401\)',
        ),
        (['BASE_SIZE=100000', 'SCALES=(0.5,2)'], 'enlarged beyond MAX_PIXELS = 500,000,000'),
        (['BASE_SIZE=11181', 'SCALES=(0.5,2)'], 'is a long side of 22362 pixels: a square image'),
        (['BASE_SIZE=520', 'MAX_PIXELS=270000', 'SCALES=1.0'], 'beyond MAX_PIXELS = 270,000'),
    ],
)
def test_a_base_size_that_makes_no_sense(words, said):
    with pytest.raises(UsageError, match=said):
        override(words)


@pytest.mark.parametrize(
    'words',
    [
        ['BASE_SIZE=11180', 'SCALES=(0.5,2)'],
        ['BASE_SIZE=201', 'SCALES=1', 'CROP_SIZE=(64,401)'],
        ['BASE_SIZE=520', 'MAX_PIXELS=270400', 'SCALES=1.0'],
    ],
)
def test_a_base_size_at_its_limits(words):
    override(words)
    assert f'BASE_SIZE={settings.BASE_SIZE}' == words[0]


@pytest.mark.parametrize(
    'word, wanted',
    [
        ('SHORT_SIDE=800', (800,)),
        ('SHORT_SIDE=(640, 672)', (640, 672)),
        ('SHORT_SIDE=(640,672),1333', ((640, 672), 1333)),
        ('SHORT_SIDE=[[640],1333]', ((640,), 1333)),
        ('SHORT_SIDE=(640,0),1333', 'SHORT_SIDE = 0 is out of range'),
        ('SHORT_SIDE=(640,672),0', 'SHORT_SIDE = 0 is out of range'),
        ('SHORT_SIDE=(640,672),(1333,)', 'is not valid; expected a tuple of int, ... or a tuple'),
        ('SHORT_SIDE=(),1333', 'is not valid; expected'),
        (
            'LONG_SIDE=1333',
            r'LONG_SIDE was removed; SHORT_SIDE=\(\(640, 672\), 1333\) is the sides',
        ),
        ('BASE_SIZE=0', 'BASE_SIZE = 0 is out of range'),
        ('BASE_SIZE=1000000', 'BASE_SIZE = 1000000 is out of range: expected at most 100000'),
    ],
)
def test_words_for_sides(word, wanted):
    if isinstance(wanted, str):
        with pytest.raises(UsageError, match=wanted):
            override([word])
    else:
        override([word])
        assert wanted == settings.SHORT_SIDE


@pytest.mark.parametrize(
    'kept, today',
    [
        (dict(SHORT_SIDE=(600, 700), LONG_SIDE=900), ((600, 700), 900)),
        (dict(SHORT_SIDE=(600, 700), LONG_SIDE=0), (600, 700)),
        (dict(SHORT_SIDE=None, LONG_SIDE=900), None),
        (dict(SHORT_SIDE=(6, 8, 7), LONG_SIDE=9, SCALE_MODE='range'), ((6, 8), 9)),
        (dict(SHORT_SIDE=(6, 8), LONG_SIDE=9, SCALE_MODE='choice'), ((6, 6, 8, 8), 9)),
        (dict(SHORT_SIDE='x', LONG_SIDE=9), 'x'),
    ],
)
def test_long_sides_of_older_versions(kept, today):
    assert older.translated(kept) == {'SHORT_SIDE': today}


def test_a_run_folder_of_the_version_before(tmp_path):
    """Its settings.py holds all, LONG_SIDE too, and is a recipe; a recipe of a few lines is not."""
    kept = config.current() | dict(SHORT_SIDE=(600, 700), LONG_SIDE=900)
    (tmp_path / 'settings.py').write_text(config.as_text(kept))
    assert config.read_recipe(str(tmp_path / 'settings.py'))['SHORT_SIDE'] == ((600, 700), 900)
    (tmp_path / 'mine.py').write_text('SHORT_SIDE = (600, 700)\nLONG_SIDE = 900\n')
    with pytest.raises(UsageError, match='mine.py, line 2: the setting LONG_SIDE was removed; '):
        config.read_recipe(str(tmp_path / 'mine.py'))


@pytest.mark.parametrize(
    'values',
    [
        dict(SCALES=(0.01,)),
        dict(BASE_SIZE=3, SCALES=(0.5, 2.0)),
        dict(SCALES=(1e-9, 0.02, 1e-3)),
        dict(SCALES=(0.0001, 0.05)),
        dict(SCALES=(0.01,), ROTATE=20.0),
        dict(SHORT_SIDE=(1,)),
        dict(SHORT_SIDE=((40,), 5)),
    ],
    ids=str,
)
@pytest.mark.parametrize('size', [(7, 300), (300, 7), (20, 30), (1, 1), (100, 130)])
def test_scales_that_leave_next_to_nothing(values, size):
    """One pixel is left at least, and that of image and label is the same."""
    label = np.full(size, 3, np.uint8)
    for position in range(8):
        image, cut = sample(np.dstack([label] * 3), label, position, CROP_SIZE=16, **values)
        assert image.shape == (*cut.shape, 3) and min(cut.shape) >= 1
        if 'ROTATE' not in values:
            assert (image[cut == 3] == 3).all() and (cut == 3).any()


# ------------------------------------------------------------------------------------------------------- shares of a class


def island(n=64, side=20):
    """A label of class 0 with a square of class 1 in one corner."""
    label = np.zeros((n, n), np.uint8)
    label[:side, :side] = 1
    return label


def shares(label, crop):
    """Whether each window holds class 1 by a fifth at least."""
    return np.mean(
        [
            (label[y : y + crop, x : x + crop] == 1).mean() >= 0.2
            for y in range(len(label) - crop + 1)
            for x in range(len(label) - crop + 1)
        ]
    )


@pytest.mark.parametrize('ratio, tries', [(1.0, 1), (0.8, 11)])
def test_windows_are_drawn_until_one_will_do(ratio, tries):
    label = island(side=14)
    once, n = shares(label, 16), 600
    found = [
        (
            sample(plain(64, 64)[0], label, p, SCALES=(1.0,), CROP_SIZE=16, CAT_MAX_RATIO=ratio)[1]
            == 1
        ).mean()
        >= 0.2
        for p in range(n)
    ]
    wanted = 1 - (1 - once) ** tries
    assert 0.03 < once < 0.2 and np.mean(found) == pytest.approx(
        wanted, abs=4 * math.sqrt(wanted * (1 - wanted) / n)
    )


@pytest.mark.parametrize(
    'stripe, ratio, draws',
    [
        ([0], 0.99, 10),
        ([0], 1.0, 0),
        ([255], 0.99, 10),
        ([255], 1.0, 0),
        ([0, 1], 0.5, 0),
        ([0, 1], 0.49, 10),
        ([0, 1, 255, 255], 0.5, 0),
        ([0, 0, 255, 1, 0, 255, 255, 255], 0.74, 10),
        ([0, 0, 255, 1, 0, 255, 255, 255], 0.75, 0),
    ],
)
@pytest.mark.parametrize(
    'values', [dict(), dict(CROP_SIZE=(32, 48), BLUR=0.5, JITTER=0.2)], ids=str
)
def test_numbers_drawn(stripe, ratio, draws, values):
    """Void pixels are no share; a share that is just allowed is; windows without a valid pixel will not do; at most ten more are drawn."""
    put(**dict(SCALES=(1.0,), CROP_SIZE=16, CAT_MAX_RATIO=ratio) | values)
    rng, label = Counted(), np.tile(np.array([stripe], np.uint8), (64, 64 // len(stripe)))
    Augment()(plain(64, 64)[0], label, rng)
    assert rng.drawn == [8] + [2] * draws + [1]


@pytest.mark.parametrize('values', [dict(), dict(IGNORE_LABEL=200, ROTATE=20.0)], ids=str)
def test_padding_is_no_share(values):
    """An image that fills an eighth of the crop, half by half."""
    label, rng = np.zeros((16, 32), np.uint8), Counted()
    label[:, 16:] = 1
    put(**dict(SCALES=(1.0,), CROP_SIZE=64, CAT_MAX_RATIO=0.6) | values)
    found = Augment()(plain(16, 32)[0], label, rng)[1]
    assert rng.drawn == [8, 1] and (found == values.get('IGNORE_LABEL', 255)).mean() > 0.8


def test_the_image_is_resized_once(monkeypatch):
    calls = {'resize_crop': 0, 'nearest_crop': 0}
    for name in calls:

        def counted(*args, name=name, kept=getattr(transforms, name), **more):
            calls[name] += 1
            return kept(*args, **more)

        monkeypatch.setattr(transforms, name, counted)
    sample(*plain(64, 64), SCALES=(1.5,), CROP_SIZE=16, CAT_MAX_RATIO=0.5)
    assert calls == {'resize_crop': 1, 'nearest_crop': 11}


@pytest.mark.parametrize('rotate', [0.0, 30.0])
def test_image_and_label_of_the_window_that_was_taken(rotate):
    raw, moved = blocks(120, 160, seed=3, classes=3, side=40), 0
    for position in range(10):
        values = dict(SCALES=(1.0, 1.5, 1.5), CROP_SIZE=48, ROTATE=rotate)
        image, label = sample(colour_of(raw), raw, position, CAT_MAX_RATIO=0.6, **values)
        kernel = np.ones((7, 7))
        inside = (cv2.dilate(label, kernel) == cv2.erode(label, kernel)) & (label != 255)
        inside[:3] = inside[-3:] = inside[:, :3] = inside[:, -3:] = False
        assert np.abs(image.astype(int) - colour_of(label))[inside].max() <= 1
        moved += not (
            label == sample(colour_of(raw), raw, position, CAT_MAX_RATIO=1.0, **values)[1]
        ).all()
    assert 2 < moved < 10


@pytest.mark.parametrize(
    'values',
    [
        dict(CAT_MAX_RATIO=0.6, CROP_SIZE=24),
        dict(SHORT_SIDE=(30, 70), ROTATE=10.0),
    ],
    ids=str,
)
def test_sample_follows_from_the_generator(values):
    raw = blocks(60, 80, seed=2, classes=3, side=20)
    first, again, other = (
        sample(colour_of(raw), raw, p, JITTER=0.3, FLIP=0.5, **values) for p in (5, 5, 6)
    )
    assert all((a == b).all() for a, b in zip(first, again)) and not (
        first[1].shape == other[1].shape and (first[1] == other[1]).all()
    )
    put(CAT_MAX_RATIO=1.0, SHORT_SIDE=None)
    assert Augment().cat_max_ratio == 1 and Augment().short_side is None


# ------------------------------------------------------------------------------------------------------------- rotation


def angles(positions=400, **values):
    put(**dict(ROTATE=10.0) | values)
    augmentation = Augment()
    return [
        augmentation.degrees(np.random.default_rng((0, p, 1)).random(8)[3])
        for p in range(positions)
    ]


def test_rotation_happens_with_its_probability():
    """semseg rotates every other picture, by up to ten degrees either way."""
    found = angles(ROTATE=(10.0, 0.5))
    turned = [a for a in found if a is not None]
    assert (
        160 < len(turned) < 240
        and min(turned) < -9
        and max(turned) > 9
        and max(map(abs, turned)) <= 10
        and abs(np.mean(turned)) < 1
    )
    always = angles(ROTATE=(10.0, 1.0))
    assert None not in always and min(always) < -9 and max(always) > 9
    assert angles(10, ROTATE=0.0) == [None] * 10


def test_a_picture_that_is_not_turned_is_the_one_without_rotation():
    image, label = colour_of(blocks(90, 120, seed=3)), blocks(90, 120, seed=3)
    same = 0
    for position in range(20):
        plain_one, other = (
            sample(image, label, position, CROP_SIZE=64, **values)
            for values in (dict(ROTATE=0.0), dict(ROTATE=(10.0, 0.5)))
        )
        same += (plain_one[0] == other[0]).all() and (plain_one[1] == other[1]).all()
    assert 3 < same < 17


def test_whole_images_are_made_smaller_smoothly():
    """Stripes of one pixel become grey, not stripes of another width."""
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:, ::2] = 254
    found, _ = sample(stripes, np.zeros((64, 96), np.uint8), SHORT_SIDE=(24,))
    assert found.shape == (24, 36, 3) and np.abs(found.astype(int) - 127).max() < 64
    crop, _ = sample(
        stripes, np.zeros((64, 96), np.uint8), SHORT_SIDE=None, CROP_SIZE=(24, 36), SCALES=(0.375,)
    )
    assert np.abs(crop.astype(int) - 127).max() > 80
