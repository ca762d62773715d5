"""Images of other than three channels: files, augmentation, networks, weights, and the scripts."""

import io
import json
import os
import shutil
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import scripts
import torch
from helpers import blocks, put, small_net, write
from PIL import Image

import checkpoint
import dataset
import network
import settings
from datasets import cache, layouts, pictures
from datasets.files import read_image
from datasets.transforms import Augment
from heads import HEADS
from heads.blocks import take_channels
from preparation.check import moments
from trunks import TRUNKS
from utils import config, visualize
from utils.config import UsageError, UserError

MEANS = (0.1, 0.9, 0.3, 0.7, 0.5, 0.2, 0.8)


def channels(n):
    """Settings for images of n channels."""
    put(MEAN=MEANS[:n], STD=(0.25,) * n, CHANNELS='rgb')


def noise(*shape, kind=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max + 1, shape, kind)


# ------------------------------------------------------------------------------------- files


def tiff(
    pixels, planar=False, packed=False, predictor=False, order='<', rows=7, photometric=1, extra=()
):
    """The bytes of a TIFF of pixels (h, w, n) in strips."""
    h, w, n = pixels.shape
    planes = [pixels[..., i : i + 1] for i in range(n)] if planar else [pixels]
    strips = []
    for plane in planes:
        if predictor:
            plane = np.diff(plane, axis=1, prepend=plane[:, :1] * 0)
        for start in range(0, h, rows):
            data = plane[start : start + rows].astype(plane.dtype.newbyteorder(order)).tobytes()
            strips.append(zlib.compress(data) if packed else data)
    out = io.BytesIO(struct.pack(order + '2sHI', b'II' if order == '<' else b'MM', 42, 0))
    out.seek(8)
    places = []
    for strip in strips:
        places.append(out.tell())
        out.write(strip)
    tags = {
        256: [w], 257: [h], 258: [8 * pixels.itemsize] * n, 259: [8 if packed else 1],
        262: [photometric], 273: places, 277: [n], 278: [rows], 279: list(map(len, strips)),
        284: [2 if planar else 1], 317: [2 if predictor else 1],
    }  # fmt: skip
    if extra:
        tags[338] = list(extra)
    further = {}
    for tag, numbers in tags.items():
        if len(numbers) > 1:
            further[tag] = out.tell()
            out.write(struct.pack(f'{order}{len(numbers)}I', *numbers))
    start = out.tell()
    out.write(struct.pack(order + 'H', len(tags)))
    for tag, numbers in sorted(tags.items()):
        value = further.get(tag, numbers[0])
        out.write(struct.pack(order + 'HHII', tag, 4, len(numbers), value))
    out.write(bytes(4))
    out.seek(4)
    out.write(struct.pack(order + 'I', start))
    return out.getvalue()


@pytest.mark.parametrize('n', [1, 2, 4, 5, 7])
@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
def test_tiff(n, kind, tmp_path):
    pixels, path = noise(19, 23, n, kind=kind), tmp_path / 'a.tif'
    wanted = pixels if kind == np.uint8 else (pixels >> 8).astype(np.uint8)
    for order in '<>':
        for planar in (False, True):
            for packing in ({}, {'packed': True}, {'packed': True, 'predictor': True}):
                path.write_bytes(tiff(pixels, planar, order=order, **packing))
                image = read_image(str(path), channels=n)
                assert image.dtype == np.uint8 and np.array_equal(image, wanted)


@pytest.mark.parametrize(
    'n, photometric, extra',
    [(4, 2, [0]), (5, 2, [0, 0]), (5, 2, [2, 0]), (2, 1, [0]), (4, 1, [0, 0, 0]), (4, 1, [])],
)
def test_a_channel_beyond_colours_is_not_lost(n, photometric, extra, tmp_path):
    """Where MEAN has three numbers; infrared, for one."""
    path = tmp_path / 'a.tif'
    pixels = noise(19, 23, n)
    path.write_bytes(tiff(pixels, photometric=photometric, extra=extra, rows=19))
    words = f'a.tif: this image has {n} channels, but MEAN and STD are of 3; give each of them {n} '
    with pytest.raises(UserError, match=words):
        read_image(str(path))
    assert np.array_equal(read_image(str(path), channels=n), pixels)


@pytest.mark.parametrize('n, photometric, alpha', [(4, 2, 1), (4, 2, 2), (2, 1, 2)])
def test_alpha_of_a_tiff_is_left_out(n, photometric, alpha, tmp_path):
    path = tmp_path / 'a.tif'
    pixels = noise(19, 23, n)
    path.write_bytes(tiff(pixels, photometric=photometric, extra=[alpha], rows=19))
    image, colours = read_image(str(path)), pixels[..., : n - 1]
    assert image.shape == (19, 23, 3)
    assert alpha == 1 or np.array_equal(image, np.broadcast_to(colours, image.shape))


def test_tiff_by_its_own_package(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    path = str(tmp_path / 'a.tif')
    for n in (2, 5):
        pixels = noise(45, 37, n, kind=np.uint16)
        for planar in ('contig', 'separate'):
            for options in ({'tile': (16, 32)}, {'rowsperstrip': 11}, {'bigtiff': True}):
                data = pixels if planar == 'contig' else pixels.transpose(2, 0, 1)
                form = {'photometric': 'minisblack', 'planarconfig': planar} | options
                tifffile.imwrite(path, data, compression='zlib', predictor=True, **form)
                assert np.array_equal(read_image(path, channels=n), pixels >> 8)


def test_other_writers(tmp_path):
    deep = noise(20, 30, 4, kind=np.uint16)
    flat = (deep >> 8).astype(np.uint8)
    for ending in ('png', 'tif'):
        path = str(tmp_path / f'cv.{ending}')
        cv2.imwrite(path, deep[..., [2, 1, 0, 3]])
        assert np.array_equal(read_image(path, channels=4), flat)
        cv2.imwrite(path, deep[..., 0])
        assert np.array_equal(read_image(path, channels=1), flat[..., :1])
        path = str(tmp_path / f'pil.{ending}')
        for n in (1, 2, 4):
            Image.fromarray(flat[..., :n].squeeze()).save(path)
            assert np.array_equal(read_image(path, channels=n), flat[..., :n])
    Image.fromarray(flat[..., 0]).save(tmp_path / 'lzw.tif', compression='tiff_lzw')
    assert np.array_equal(read_image(str(tmp_path / 'lzw.tif'), channels=1), flat[..., :1])
    pages = [Image.fromarray(flat[..., i % 4]) for i in range(5)]
    pages[0].save(tmp_path / 'pages.tif', save_all=True, append_images=pages[1:])
    five = flat[..., [0, 1, 2, 3, 0]]
    assert np.array_equal(read_image(str(tmp_path / 'pages.tif'), channels=5), five)
    (tmp_path / 'white.tif').write_bytes(tiff(flat[..., :1], photometric=0))
    assert np.array_equal(read_image(str(tmp_path / 'white.tif'), channels=1), 255 - flat[..., :1])


def test_grey_and_alpha_of_16_bits(tmp_path):
    pixels, path = noise(9, 11, 2, kind=np.uint16), tmp_path / 'a.png'
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
    content = b'\x89PNG\r\n\x1a\n'
    for name, data in (
        (b'IHDR', struct.pack('>IIBBBBB', 11, 9, 16, 4, 0, 0, 0)),
        (b'IDAT', zlib.compress(rows)),
        (b'IEND', b''),
    ):
        content += struct.pack('>I', len(data)) + name + data
        content += struct.pack('>I', zlib.crc32(name + data))
    path.write_bytes(content)
    assert np.array_equal(read_image(str(path), channels=2), pixels >> 8)


@pytest.mark.parametrize('n', [1, 3, 6])
def test_arrays(n, tmp_path):
    pixels, path = noise(9, 11, n, kind=np.uint16), str(tmp_path / 'a.npy')
    forms = [pixels, pixels.astype('>u2'), np.asfortranarray(pixels)]
    if n == 1:
        forms.append(pixels[..., 0])
    for array in forms:
        np.save(path, array)
        image = read_image(path, channels=n)
        assert image.flags.c_contiguous and np.array_equal(image, pixels >> 8)
    np.save(path, pixels.astype(np.uint8))
    assert np.array_equal(read_image(path, channels=n), pixels.astype(np.uint8))


def test_turned_as_exif_says(tmp_path):
    pixels = noise(9, 11, 4)
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[pictures.ORIENTATION] = 6
    for ending in ('png', 'tif'):
        path = str(tmp_path / f'a.{ending}')
        picture.save(path, exif=exif)
        assert np.array_equal(read_image(path, channels=4), pixels)
        wanted = np.rot90(pixels, -1)
        assert np.array_equal(read_image(path, upright=True, channels=4), wanted)


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


FIVE = noise(6, 8, 5)
TIFF = tiff(FIVE)
ARRAY = saved(FIVE)
FAULTS = {
    'a.tif': (TIFF, 4, 'this image has 5 channels, but MEAN and STD are of 4; give each of them 5'),
    'rgb.tif': (TIFF, 3, '5 channels, but MEAN and STD are of 3'),
    'b.npy': (ARRAY, 1, 'this image has 5 channels, but MEAN and STD are of 1'),
    'turned.npy': (
        saved(FIVE.transpose(2, 0, 1)),
        5,
        r'\(5, 6, 8\); expected \(height, width, 5\)',
    ),
    'float.npy': (saved(FIVE / 2), 5, 'float64 values, not 8 or 16 bits.* scale them to 0..255'),
    'signed.npy': (saved(FIVE.astype(np.int16)), 5, 'int16 values'),
    'object.npy': (saved(np.array([None, {}])), 5, 'cannot be read'),
    'pickle.npy': (b'\x80\x04N.', 5, 'it is no .npy file'),
    'empty.npy': (b'', 5, 'it is no .npy file'),
    'cut.npy': (ARRAY[:-1], 5, 'cannot be read'),
    'lies.npy': (ARRAY.replace(b'(6, 8, 5)', b'(6, 8888, 5)'), 5, 'cannot be read'),
    'none.npy': (saved(FIVE[:0]), 5, 'no pixels'),
    'dark.npy': (saved(FIVE.astype(np.uint16)), 5, 'nearly black'),
    'cut.tif': (tiff(FIVE, packed=True).replace(b'x\x9c', b'\0\0'), 5, 'cannot be read'),
    'header.tif': (TIFF[:20], 5, 'its header is damaged'),
    'start.tif': (b'II*\0', 5, 'its header is damaged'),
    'nothing.tif': (b'II*\0\0\0\0\0', 5, 'no picture in it'),
    'long.tif': (tiff(FIVE.astype(np.uint32)), 5, 'whole numbers of 32 bits'),
    'palette.tif': (tiff(FIVE, photometric=3), 5, 'colours of kind 3'),
}


@pytest.mark.parametrize('name', FAULTS)
def test_faults_are_sentences(name, tmp_path):
    content, n, words = FAULTS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f'{name}: .*{words}'):
        read_image(str(tmp_path / name), channels=n)


def test_headers_are_asked_first(tmp_path):
    """A file of nothing but a header, by which it would be larger than MAX_PIXELS allows."""
    put(MAX_PIXELS=10_000)
    lies = tiff(FIVE).replace(
        struct.pack('<HHII', 256, 4, 1, 8), struct.pack('<HHII', 256, 4, 1, 8**9)
    )
    assert lies != TIFF
    with open(tmp_path / 'a.npy', 'wb') as f:
        header = {'descr': '|u1', 'fortran_order': False, 'shape': (40_000, 40_000, 5)}
        np.lib.format.write_array_header_1_0(f, header)
        f.truncate(f.tell() + 5 * 40_000**2)
    (tmp_path / 'a.tif').write_bytes(lies)
    for name in ('a.npy', 'a.tif'):
        with pytest.raises(UserError, match=f'{name}: by its header .* MAX_PIXELS'):
            read_image(str(tmp_path / name), channels=5)
    os.unlink(tmp_path / 'a.npy')


def test_tags_that_are_longer_than_the_file(tmp_path):
    """Thousands of directories whose tags are all the same bytes would take gigabytes."""
    count = 200_000
    blank, entries = (
        bytes(count),
        b''.join(struct.pack('<HHII', tag, 1, count, 8) for tag in (254, 256, 257, 258, 259, 262)),
    )
    content, start = b'II*\0' + struct.pack('<I', 8 + count) + blank, 8 + count
    for i in range(20):
        after = start + 6 + len(entries)
        content += struct.pack('<H', 6) + entries + struct.pack('<I', after if i < 19 else 0)
        start = after
    path = tmp_path / 'a.tif'
    path.write_bytes(content)
    tracemalloc.start()
    for n in (3, 5):
        with pytest.raises(UserError, match='a.tif: '):
            read_image(str(path), channels=n)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(content)


def test_the_limit_of_pixels_is_ours_alone(tmp_path, monkeypatch):
    """Pillow's own, which knows no MAX_PIXELS, does not count, whichever way leads to it."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 5)
    path = tmp_path / 'a.tif'
    path.write_bytes(TIFF)
    assert np.array_equal(read_image(str(path), channels=5), FIVE)


def test_damaged_headers_end_in_a_sentence(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / 'a.tif'
    put(MAX_PIXELS=10_000)
    faults = 0
    for _ in range(200):
        content = bytearray(tiff(FIVE, packed=True))
        for _ in range(3):
            content[-rng.integers(1, 170)] = rng.integers(256)
        path.write_bytes(content)
        try:
            assert read_image(str(path), channels=5).shape[2] == 5
        except UserError:
            faults += 1
    assert faults > 20


@pytest.mark.parametrize('mode', ['P', 'CMYK', 'RGB'])
def test_colours_that_are_no_channels(mode, tmp_path):
    path = str(tmp_path / ('a.png' if mode == 'P' else 'a.jpg'))
    Image.new(mode, (8, 6)).save(path)
    words = {'RGB': 'has 3 channels'}.get(mode, f'{mode} pixels, which are no channels')
    with pytest.raises(UserError, match=words):
        read_image(path, channels=4)


# ------------------------------------------------------------------------------ augmentation


@pytest.mark.parametrize('n', [1, 4, 7])
@pytest.mark.parametrize('shape', ['crop', 'short', 'turned'])
def test_every_channel_becomes_what_it_does_in_rgb(n, shape):
    """Next to whichever other channels it stands there."""
    put(SCALES=(0.5, 2.0), CROP_SIZE=(50, 60), BLUR=0.5, FLIP=0.5, JITTER=0.0, CAT_MAX_RATIO=0.9)
    if shape == 'short':
        put(SHORT_SIDE=((20, 60), 70))
    if shape == 'turned':
        put(ROTATE=30)
    image, label = noise(45, 38, n), blocks(45, 38, seed=1)
    for seed in range(6):
        channels(n)
        out, ids = Augment()(image, label, np.random.default_rng(seed))
        assert out.shape == (*ids.shape, n) and out.dtype == np.uint8
        for i in range(n):
            three = [i, (i + 1) % n, (i + 2) % n]
            put(MEAN=tuple(MEANS[j] for j in three), STD=(1.0,) * 3)
            rgb, same = Augment()(image[..., three], label, np.random.default_rng(seed))
            assert np.array_equal(out[..., i], rgb[..., 0]) and np.array_equal(ids, same)


def test_jitter_of_each_channel_alone():
    put(JITTER=0.5, BLUR=0.0, FLIP=0.0, SCALES=(1.0,), CROP_SIZE=40)
    image, draws = noise(40, 40, 5), np.array([0.9, 0.2, 0.6])
    channels(5)
    out = Augment().change_colours(image, draws)
    for i in range(5):
        grey = image[..., [i]]
        alone = Augment().change_colours(grey, draws)
        assert np.array_equal(out[..., [i]], alone) and not np.array_equal(alone, grey)
        rgb = Augment().change_colours(grey.repeat(3, 2), draws)  # its weights sum up to 0.9999
        assert abs(rgb.astype(int) - alone).max() <= 1


def make_folder(root, n=5, kind=np.uint16, count=4):
    """A data set of one's own, arrays and TIFF by turns."""
    for split in ('train', 'val'):
        os.makedirs(root / 'images' / split)
        for i in range(count):
            label = blocks(60, 72, seed=i, classes=3)
            level = 20_000 * label.astype(int)[..., None] + noise(60, 72, n, seed=i) * 60
            pixels = (level >> (0 if kind == np.uint16 else 8)).astype(kind)
            path = root / 'images' / split / str(i)
            if i % 2:
                np.save(path, pixels)
            else:
                path.with_suffix('.tif').write_bytes(tiff(pixels, packed=True))
            write(str(root / 'labels' / split / f'{i}.png'), label)
    (root / 'classes.txt').write_text('0 0 0 0 ground\n1 255 0 0 a\n2 0 0 255 b\n')
    put(DATASET='folder', DATA_ROOT=str(root), TRAIN_SPLIT='train', VAL_SPLIT='val', NUM_WORKERS=0)
    put(N_CLASSES=None, CROP_SIZE=33)


def test_samples_and_cache(tmp_path):
    make_folder(tmp_path)
    channels(5)
    data, training = dataset.Dataset('val', False), dataset.Dataset('train', True)
    image, label, _ = data[0]
    assert image.shape == (5, 60, 72) and label.shape == (60, 72)
    sample = training[3, 1]
    assert sample[0].shape == (5, 33, 33)
    for index in range(4):
        data.save(index)
    kept = dataset.Dataset('val', False)
    assert kept.read_cache(0)[0].shape == (60, 72, 5)
    assert all(np.array_equal(a, b) for a, b in zip(kept.read(1), data.decode(1), strict=True))
    path = data.pairs[0][0], data.pairs[0][1], data.label_map
    names = {cache.cache_path(data.cache_dir, *path, n) for n in (1, 3, 4, 5)}
    assert len(names) == 4

    put(SHORT_SIDE=(20,))
    training = dataset.Dataset('train', True)
    wide = torch.zeros(5, 8, 9, dtype=torch.uint8), torch.zeros(8, 9, dtype=torch.uint8)
    small = torch.zeros(5, 4, 9, dtype=torch.uint8), torch.zeros(4, 9, dtype=torch.uint8)
    images, _ = training.collate([wide, small])
    assert images.shape == (2, 5, 8, 9)
    fill = torch.tensor([round(255 * mean) for mean in MEANS[:5]])
    assert (images[1, :, 5:] == fill[:, None, None]).all() and (images[0] == 0).all()


def test_arrays_count_where_images_have_other_channels(tmp_path):
    make_folder(tmp_path)
    channels(5)
    assert len(dataset.Dataset('train', True)) == 4
    channels(3)
    with pytest.raises(UserError, match='1.npy: arrays are images of other than 3 channels'):
        dataset.Dataset('train', True)
    assert layouts.image_endings() == layouts.IMAGES


def test_moments():
    image = noise(30, 20, 5)
    mean, std = moments(image)
    assert np.allclose(mean, image.mean((0, 1)) / 255) and np.allclose(std, image.std((0, 1)) / 255)
    grey = moments(image[..., :1])
    assert grey[0].shape == (1,) and grey[1] == std[0]


# ---------------------------------------------------------------------------------- networks


@pytest.mark.parametrize('trunk', ['resnet', *TRUNKS])
def test_every_trunk_takes_them(trunk):
    """Its first convolution alone is another one."""
    stride = 16 if trunk == 'resnet' else TRUNKS[trunk].allowed[0]
    small_net(TRUNK=trunk, STRIDE=stride, HEAD='fcn')
    with torch.device('meta'):
        channels(3)
        before = network.build(3, settings).state_dict()
        channels(4)
        net = network.build(3, settings)
        assert net(torch.zeros(1, 4, 64, 64, dtype=torch.uint8)).shape == (1, 3, 64, 64)
    shapes = {k: v.shape for k, v in net.state_dict().items() if v.shape != before[k].shape}
    (shape,) = shapes.values()
    assert shape[1] == 4


@pytest.mark.parametrize('head', [name for name, head in HEADS.items() if head.sees_image])
def test_heads_that_see_the_image(head):
    small_net(HEAD=head, STRIDE=HEADS[head].strides[-1])
    channels(2)
    net = network.build(3, settings)
    assert net(torch.zeros(2, 2, 65, 65, dtype=torch.uint8)).shape == (2, 3, 65, 65)


def test_new_weights_are_as_large_in_their_sum():
    torch.manual_seed(0)
    old = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 7))
    scale = old[0].weight.std()
    new = take_channels(old, 12)
    assert new[0].weight.shape == (64, 12, 7, 7)
    assert abs(new[0].weight.std() / scale - 0.5) < 0.02


@pytest.mark.parametrize('trunk', ['plain', 'deep', 'mobilenet_v2'])
@pytest.mark.parametrize('n', [1, 5])
def test_pretrained(trunk, n, tmp_path):
    """A grey picture in all channels gives the same maps through weights of 3 and of n channels."""
    small_net(STRIDE=32, HEAD='fcn', STEM='plain')
    put(**({'TRUNK': trunk} if trunk in TRUNKS else {'STEM': trunk}))
    path = str(tmp_path / 'trunk.pth')
    channels(3)
    old = network.build(3, settings).eval()
    state = {k: v for k, v in old.state_dict().items() if k.startswith('extractor.')}
    torch.save(state, path)
    put(PRETRAINED=path)
    channels(n)
    net = network.build(3, settings).eval()
    report = checkpoint.load_trunk(net)
    (key,) = [k for k, v in net.extractor.state_dict().items() if v.ndim == 4 and v.shape[1] == n][
        :1
    ]
    ours, theirs = net.extractor.state_dict()[key], old.extractor.state_dict()[key]
    assert torch.allclose(ours, theirs.mean(1, keepdim=True).expand_as(ours) * 3 / n)
    assert f'extractor.{key} is of 3 channels' in str(report) and f'times 3/{n}' in str(report)
    assert 'MEAN' not in str(report)
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        maps = net.maps(grey.expand(1, n, -1, -1))
        wanted = old.maps(grey.expand(1, 3, -1, -1))
    for a, b in zip(maps, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * b.abs().max())


def test_weights_of_other_channels_do_not_fit(tmp_path):
    small_net(STRIDE=32, HEAD='fcn', INIT=str(tmp_path / 'net.pth'))
    channels(4)
    net = network.build(3, settings)
    torch.save({'net': net.state_dict(), 'settings': config.current()}, settings.INIT)
    for n in (3, 5):
        channels(n)
        report = checkpoint.load_weights(network.build(3, settings), settings.INIT, 'any')
        assert report.wrong == ['extractor.0.weight']
        with pytest.raises(UserError, match='1 of another shape'):
            checkpoint.load_weights(network.build(3, settings), settings.INIT, 'trunk')


def test_checkpoint_tells_the_channels(tmp_path):
    small_net(STRIDE=16, DATASET='shapes', CROP_SIZE=65)
    channels(5)
    torch.manual_seed(0)
    before = network.build(8, settings).eval()
    path, given = str(tmp_path / 'net.pth'), config.current()
    checkpoint.save(
        path, {'net': before.state_dict(), 'settings': given, 'n_classes': 8, 'step': 1}
    )
    channels(3)
    net = network.load(path, 'cpu')
    assert len(settings.MEAN) == 3 and net.mean.flatten().tolist() == pytest.approx(MEANS[:5])
    image = noise(40, 50, 5)
    np.save(tmp_path / 'a.npy', image)
    labels, scores = net.predict(image)
    assert labels.shape == (40, 50) and scores.shape == (8, 40, 50)
    assert np.array_equal(net.predict(tmp_path / 'a.npy')[1], scores)
    for wrong in (image[..., :3], Image.new('RGB', (50, 40)), Image.new('P', (50, 40))):
        with pytest.raises(UserError, match='5'):
            net.predict(wrong)
    assert network.export(net, tmp_path / 'net.pt2', (64, 96)) < 1e-4

    with pytest.raises(UserError, match='MEAN'):  # a network of 3 channels is asked for
        checkpoint.load_network(path, {'MEAN', 'STD'})
    channels(3)
    with pytest.raises(UsageError, match='MEAN and STD have 5 and 3 numbers'):
        checkpoint.load_network(path, {'STD'})


def test_a_pillow_picture_of_as_many_channels():
    small_net(STRIDE=16, CROP_SIZE=65)
    for mode, n in (('L', 1), ('LA', 2), ('RGBA', 4)):
        channels(n)
        net = network.build(3, settings).eval()
        pixels = noise(33, 40, n)
        labels, scores = net.predict(Image.fromarray(pixels.squeeze(), mode))
        assert np.array_equal(net.predict(pixels)[1], scores) and labels.shape == (33, 40)


@pytest.mark.parametrize(
    ('words', 'error'),
    [
        (['MEAN=0.5'], 'MEAN and STD have 1 and 3 numbers'),
        (['MEAN=0.5,0.5', 'STD=1,1,1,1'], 'MEAN and STD have 2 and 4 numbers.* give 4'),
        (['MEAN=0.5,0.5', 'STD=1,1', 'CHANNELS=bgr'], 'MEAN and STD are of 2'),
        (['MEAN=0.5,0.5', 'STD=1,0'], 'STD = 0.* above 0'),
        (['MEAN=()', 'STD=()'], 'is not valid'),
    ],
)
def test_settings_that_disagree(words, error):
    with pytest.raises(UsageError, match=error):
        config.override(words)


def test_one_channel_needs_no_comma():
    config.override(['MEAN=0.5', 'STD=0.25'])
    assert (settings.MEAN, settings.STD) == ((0.5,), (0.25,))


def test_visible():
    rgb = noise(5, 6, 3)
    assert visualize.visible(rgb) is rgb
    six = noise(5, 6, 6)
    assert np.array_equal(visualize.visible(six), six[..., :3])
    for n in (1, 2):
        grey = visualize.visible(six[..., :n])
        assert np.array_equal(grey, six[..., [0, 0, 0]])
    dark = visualize.visible(six // 4)
    assert dark.max() == 255 and dark.dtype == np.uint8
    assert visualize.visible(six * 0).max() == 0


# ------------------------------------------------------------------------------- the scripts

TINY = (
    'N_LAYERS=18', 'STEM=plain', 'STRIDE=16', 'PRETRAINED=', 'CROP_SIZE=49', 'EM_CHANNELS=16',
    'EM_BASES=4', 'HEAD_CHANNELS=16', 'BATCH_SIZE=2', 'ITER_MAX=3', 'ITER_VAL=3', 'ITER_LOG=1',
    'AMP=off', 'BLUR=0.5', 'JITTER=0.2', 'ROTATE=10', 'NAME=five',
)  # fmt: skip
FIVE_CHANNELS = 'MEAN=0.4,0.4,0.4,0.4,0.4', 'STD=0.3,0.3,0.3,0.3,0.3'


def test_the_scripts(tmp_path):
    make_folder(tmp_path / 'mine')
    common = [f'{name}={tmp_path}/{name}' for name in ('MODEL_DIR', 'LOG_DIR')]
    common += [f'DATA_ROOT={tmp_path}/mine', 'DATASET=folder', 'DEVICES=cpu', 'NUM_WORKERS=0']
    common += ['TRAIN_SPLIT=train']

    def run(script, *words):
        result = scripts.run(script, *words, *common, scratch=tmp_path)
        assert 'Traceback' not in result.err, result.err
        return result

    told = run('train.py', *TINY)
    assert told.status == 1 and 'MEAN and STD are of 3' in told.err
    checked = scripts.run(
        'prepare.py', 'folder', '--root', tmp_path / 'mine', '--check', *FIVE_CHANNELS,
        scratch=tmp_path,
    )  # fmt: skip
    assert checked.status == 0, checked.err
    mean = [line for line in checked.out.splitlines() if line.startswith('MEAN = ')][0]
    assert len(mean.split(',')) == 5
    fitting = checked.out.partition('settings that fit: ')[2].splitlines()[0]
    assert fitting.count(',') == 8 and ' MEAN=0.' in fitting and ' STD=0.' in fitting
    trained = run('train.py', *TINY, *FIVE_CHANNELS)
    assert trained.status == 0, trained.err
    with open(tmp_path / 'LOG_DIR' / 'five' / 'log.jsonl') as f:
        assert 'val/mIoU' in json.loads(f.readlines()[-1])

    net, out = f'CHECKPOINT={tmp_path}/MODEL_DIR/five/final.pth', f'SAVE_DIR={tmp_path}/out'
    scored = run('eval.py', net, out)
    assert scored.status == 0 and 'mIoU' in scored.out, scored.err
    assert Image.open(tmp_path / 'out' / 'overlay' / '0.png').mode == 'RGB'
    assert {'worst.png', 'best.png'} <= set(os.listdir(tmp_path / 'out'))

    (tmp_path / 'new').mkdir()
    shutil.copy(tmp_path / 'mine' / 'images' / 'val' / '1.npy', tmp_path / 'new' / 'a.npy')
    write(str(tmp_path / 'new' / 'rgb.png'), noise(40, 50, 3))
    predicted = run('predict.py', tmp_path / 'new', net, f'SAVE_DIR={tmp_path}/pred', '--bases')
    assert predicted.status == 1 and 'rgb.png: this image has 3 channels' in predicted.err
    assert '1 of 2 written' in predicted.out
    assert Image.open(tmp_path / 'pred' / 'index' / 'a.png').size == (72, 60)
    (tmp_path / 'new' / 'film.mp4').write_bytes(b'any')
    film = run('predict.py', tmp_path / 'new', net, f'SAVE_DIR={tmp_path}/pred')
    assert film.status == 2 and 'film.mp4: frames of videos have 3 channels' in film.err
    shutil.rmtree(tmp_path / 'MODEL_DIR')
