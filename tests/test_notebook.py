"""From Python: network.load, net.predict, network.export, and the code in README."""

import copy
import os
import pickle
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import checkpoint
import dataset
import eval
import network
import settings
from utils import config
from utils.config import UserError
from utils.distributed import World

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SIZES = (65, 97), (71, 54)


def small(**values):
    """Put a small network in force."""
    base = {'N_LAYERS': 18, 'STEM': 'plain', 'STRIDE': 8, 'EM_CHANNELS': 32, 'EM_BASES': 8}
    config.put(base | {'HEAD_CHANNELS': 16, 'CROP_SIZE': 65, 'DATASET': 'shapes'} | values)


def trained(path, **values):
    """Save a checkpoint of a small network as train.py does, and return the network."""
    small(**values)
    torch.manual_seed(0)
    net = network.build(dataset.n_classes(), settings)
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            if name.endswith('running_var'):
                buffer.uniform_(0.5, 2)
    content = {'net': net.state_dict(), 'settings': config.current(), 'n_classes': 10, 'step': 3}
    checkpoint.save(path, content)
    return net.eval()


def blob(height, width):
    """A picture (h, w, 3) uint8 with large and small things in it."""
    rng = np.random.default_rng(height)
    coarse = rng.integers(0, 200, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    fine = rng.integers(0, 55, (height, width, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height)) + fine


def batch(height, width):
    return torch.from_numpy(blob(height, width)).permute(2, 0, 1)[None].contiguous()


@pytest.fixture
def picture():
    return blob(61, 81)  # 81: 1 mod 8, so that it is padded alike when mirrored


# ------------------------------------------------------------------------------ load and predict


def test_load_brings_the_settings_and_leaves_those_in_force(tmp_path):
    path = tmp_path / 'net.pth'
    trained(str(path), STRIDE=16, CHANNELS='bgr')
    small(HEAD='fcn', STRIDE=32)
    before = config.current()
    net = network.load(path)
    assert config.current() == before
    assert net.extractor.stride == 16 and net.channels == 'bgr' and not net.training
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    assert not any(p.requires_grad for p in net.parameters())


def test_predict_is_what_eval_predicts(tmp_path, picture):
    path = str(tmp_path / 'net.pth')
    trained(path)
    net = network.load(path, 'cpu')
    labels, scores = net.predict(picture)
    full, _ = checkpoint.load_network(path)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None]
    with torch.no_grad(), World([torch.device('cpu')]).autocast():
        [wanted] = eval.predict(network.fold(full), image, eval.protocol())
    assert labels.dtype == np.uint8 and (labels == wanted[0].numpy()).mean() > 0.999
    assert scores.dtype == np.float32 and scores.shape == (10, 61, 81)
    assert abs(scores.sum(0) - 1).max() < 1e-5 and (scores.argmax(0) == labels).all()


def test_settings_of_evaluation_count(tmp_path, picture):
    path = str(tmp_path / 'net.pth')
    trained(path)
    settings.TEST_FLIP = True
    _, flipped = network.load(path).predict(picture)
    _, mirrored = network.load(path).predict(picture[:, ::-1].copy())
    assert abs(flipped - mirrored[..., ::-1]).max() < 1e-5


def test_a_compact_psa_is_seen_in_windows(tmp_path, picture):
    path = str(tmp_path / 'net.pth')
    trained(path, HEAD='psa', HEAD_ARGS={'compact': True})
    small()
    labels, _ = network.load(path).predict(picture)
    assert labels.shape == (61, 81)


def test_pictures_of_every_kind_are_the_same(tmp_path, picture):
    path = str(tmp_path / 'net.pth')
    trained(path)
    net = network.load(path)
    _, wanted = net.predict(picture)
    Image.fromarray(picture).save(tmp_path / 'a.png')
    frozen = picture.copy()
    frozen.flags.writeable = False
    rgba = Image.fromarray(picture).convert('RGBA')
    transposed = np.ascontiguousarray(picture.transpose(1, 0, 2)).transpose(1, 0, 2)
    kinds = [tmp_path / 'a.png', str(tmp_path / 'a.png'), Image.open(tmp_path / 'a.png'), rgba]
    for image in [*kinds, frozen, transposed, torch.from_numpy(picture)]:
        assert abs(net.predict(image)[1] - wanted).max() < 1e-5


def test_an_opened_photograph_is_turned_as_its_file_is(tmp_path, picture):
    path = str(tmp_path / 'net.pth')
    trained(path)
    net, photo = network.load(path), tmp_path / 'a.png'
    image = Image.fromarray(picture)
    exif = image.getexif()
    exif[274] = 6
    image.save(photo, exif=exif)
    by_path, opened = net.predict(photo)[0], net.predict(Image.open(photo))[0]
    assert by_path.shape == opened.shape == (81, 61) and (by_path == opened).all()


@pytest.mark.parametrize(
    'image, words',
    [
        (np.zeros((3, 5, 5), np.uint8), r'uint8 of shape \(3, 5, 5\); expected a path'),
        (np.zeros((5, 5, 3), np.float32), r'float32 of shape \(5, 5, 3\); expected a path'),
        (np.zeros((5, 5), np.uint8), r'shape \(5, 5\); expected a path'),
        (np.zeros((0, 5, 3), np.uint8), r'shape \(0, 5, 3\); expected a path'),
        (Image.new('I;16', (5, 5)), 'I;16 values, not 8 bits'),
        ('missing.png', 'missing.png: this image is missing'),
    ],
    ids=str,
)
def test_no_picture(tmp_path, image, words):
    path = str(tmp_path / 'net.pth')
    trained(path)
    with pytest.raises(UserError, match=words):
        network.load(path).predict(image)


def test_arrays_of_16_bits_and_of_one_channel(tmp_path, picture):
    """As files of them are read."""
    path = str(tmp_path / 'net.pth')
    trained(path)
    deep = picture.astype(np.uint16) * 256 + 7
    net = network.load(path)
    assert (net.predict(deep)[0] == net.predict(picture)[0]).all()
    with pytest.raises(UserError, match='this array: the values of this 16-bit picture end at'):
        net.predict(picture.astype(np.uint16))
    trained(path, MEAN=(0.5,), STD=(0.2,))
    net, grey = network.load(path), picture[..., 0]
    _, wanted = net.predict(grey[..., None])
    assert len(np.unique(wanted)) > 100
    swapped = Image.frombytes('I;16B', grey.shape[::-1], deep[..., 0].astype('>u2').tobytes())
    for image in (
        grey,
        deep[..., 0],
        Image.fromarray(grey),
        Image.fromarray(deep[..., 0]),
        swapped,
    ):
        assert abs(net.predict(image)[1] - wanted).max() < 1e-5


@pytest.mark.parametrize('device', ['cuda:99', 'gpu', 5.5])
def test_a_device_that_is_not_there(device, tmp_path):
    with pytest.raises(UserError, match='^device=.* cannot be used .*; leave it out'):
        network.load(tmp_path / 'net.pth', device)


def test_no_network(tmp_path):
    before = config.current()
    with pytest.raises(UserError, match=r'net\.pth'):
        network.load(tmp_path / 'net.pth')
    (tmp_path / 'net.pth').write_bytes(b'nothing of the kind')
    with pytest.raises(UserError, match=r'net\.pth'):
        network.load(tmp_path / 'net.pth')
    assert config.current() == before


def test_a_network_in_training_mode_is_refused(picture):
    small()
    net = network.build(10, settings)
    with pytest.raises(UserError, match=r'call net\.eval\(\) before net\.predict'):
        net.predict(picture)
    with pytest.raises(UserError, match=r'call net\.eval\(\) before it is exported'):
        network.export(net, 'net.pt2')
    labels, _ = net.eval().predict(picture)
    assert labels.shape == (61, 81)


def test_a_loaded_network_can_be_copied_and_pickled(tmp_path, picture):
    path = str(tmp_path / 'net.pth')
    trained(path)
    net = network.load(path)
    labels, _ = net.predict(picture)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert (other.predict(picture)[0] == labels).all()


# --------------------------------------------------------------------------------------- export


@pytest.mark.parametrize('head', ['ema', 'psp', 'psa', 'danet'])
def test_onnx(tmp_path, head):
    """The exported network in onnxruntime at two sizes, neither of them that of the export."""
    runtime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    small(HEAD=head)
    net = network.fold(network.build(5, settings))
    path = str(tmp_path / 'net.onnx')
    assert 0 <= network.export(net, path) < 1e-4
    assert os.listdir(tmp_path) == ['net.onnx']
    session = runtime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for height, width in SIZES:
        image = batch(height, width)
        [logits] = session.run(['logits'], {'image': image.numpy()})
        with torch.no_grad():
            assert abs(net(image).numpy() - logits).max() < 1e-4
        assert logits.shape == (1, 5, height, width)


def test_onnx_of_four_channels(tmp_path):
    """The pixels go in as they are."""
    runtime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    path = str(tmp_path / 'net.onnx')
    small(MEAN=(0.1, 0.9, 0.3, 0.7), STD=(0.2, 0.3, 0.4, 0.5))
    net = network.fold(network.build(5, settings))
    assert 0 <= network.export(net, path) < 1e-4
    session = runtime.InferenceSession(path, providers=['CPUExecutionProvider'])
    [image] = session.get_inputs()
    assert image.type == 'tensor(uint8)' and image.shape[:2] == [1, 4]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 150, 170), np.uint8)
    [logits] = session.run(['logits'], {'image': pixels})
    with torch.no_grad():
        assert abs(net(torch.from_numpy(pixels)).numpy() - logits).max() < 1e-4


def test_pt2_and_one_size(tmp_path):
    small()
    net = network.fold(network.build(5, settings))
    path = str(tmp_path / 'net.pt2')
    assert network.export(net, path) < 1e-5
    image = batch(71, 54)
    with torch.no_grad():
        assert (torch.export.load(path).module()(image) - net(image)).abs().max() < 1e-5
    small(HEAD='psa', HEAD_ARGS={'compact': True})
    net = network.fold(network.build(5, settings))
    with pytest.raises(UserError, match=r'cannot be exported .*size=\(h, w\)'):
        network.export(net, str(tmp_path / 'other.pt2'))
    assert os.listdir(tmp_path) == ['net.pt2']
    assert network.export(net, str(tmp_path / 'other.pt2'), size=(65, 65)) < 1e-5


def test_export_leaves_nothing_behind_where_it_fails(tmp_path):
    small()
    net = network.fold(network.build(5, settings))
    with pytest.raises(UserError, match=r'net\.pth: expected a path that ends in \.onnx or \.pt2'):
        network.export(net, tmp_path / 'net.pth')
    assert not os.listdir(tmp_path)


# --------------------------------------------------------------------------------------- README


def blocks_of_readme():
    with open(os.path.join(ROOT, 'README.md')) as f:
        return re.findall(r'```python\n(.*?)```', f.read(), re.DOTALL)


def test_the_code_in_readme(tmp_path, monkeypatch, picture):
    """Lift the unit out, and From Python, as they stand there."""
    unit, notebook = blocks_of_readme()
    x = torch.randn(2, 512, 9, 7)
    names = {'EMAU': network.EMAU, 'x': x}
    exec(unit, names)
    assert names['y'].shape == x.shape and names['mu'].shape == (2, 512, 64)

    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    monkeypatch.chdir(tmp_path)
    trained('net.pth')
    Image.fromarray(picture).save('photo.jpg')
    exec(notebook, names := {})
    assert names['labels'].shape == (61, 81) and names['scores'].shape == (10, 61, 81)
    assert names['difference'] < 1e-3 and os.path.exists('net.onnx')
