"""Windows, scales, mirror images: the references of semseg and PyTorch-Encoding, and that nothing depends on how views are batched."""

import math
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import recipe
from helpers import assert_close, build, gold, make_camvid, put, small_net
from PIL import Image

import dataset
import eval as evaluation
import metric
import network
from eval import Protocol
from heads import frame
from utils import config, distributed
from utils.config import UserError

ALL = Protocol(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)


class Tiny(torch.nn.Module):
    """The references' network, with what inference asks of one."""

    def __init__(self, args):
        super().__init__()
        self.net = recipe.TinyNet(args['classes'], args['stride'])
        self.mean, self.std = (
            torch.tensor(args.get(k, d)).view(3, 1, 1)
            for k, d in (('mean', [0.0] * 3), ('std', [1.0] * 3))
        )

    def normalise(self, image):
        return (image.float() - self.mean) / self.std

    def forward(self, image):
        return self.net(image)


@pytest.mark.parametrize('budget', [1, 30000, 10**7])
@pytest.mark.parametrize('name, step', [('ms_test_150x211', 1), ('ms_test_single_scale_90x131', 2)])
@torch.no_grad()
def test_semseg(name, step, budget):
    meta, want = gold(name)
    a = meta['args']
    image = torch.from_numpy(
        np.array(recipe.image_u8(a['image']['h'], a['image']['w'], a['image']['seed']))
    ).permute(2, 0, 1)[None]
    p = Protocol(
        tuple(a['scales']),
        a['flip'],
        (a['crop_h'], a['crop_w']),
        a['base_size'],
        stride=a['stride'],
        budget=budget,
    )
    found = evaluation.scores(Tiny(a), image, p)[0].softmax(0).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(
        found[::step, ::step],
        want['prob'].astype(np.float32),
        rtol=0,
        atol=meta['tolerance']['abs'],
    )
    assert (found.argmax(2) == want['argmax']).mean() >= meta['tolerance']['argmax_agreement']
    sizes = [
        list(evaluation.scaled_size(*image.shape[2:], scale, a['base_size']))
        for scale in a['scales']
    ]
    assert sizes == a['scaled_sizes_hw']


@torch.no_grad()
def test_semseg_single_window():
    meta, want = gold('ms_test_150x211')
    image = torch.from_numpy(np.array(recipe.image_u8(150, 211, 800))).permute(2, 0, 1)[None]
    net = Tiny(meta['args'])
    found = evaluation.sliding(
        net, net.normalise(image[:, :, :97, :97]), Protocol(crop=(97, 97)), [False, True], 4
    )
    np.testing.assert_allclose(
        found[0, :, ::4, ::4].permute(1, 2, 0), want['one_crop'], rtol=0, atol=1e-5
    )


@torch.no_grad()
def test_encoding():
    """PyTorch-Encoding sums exponentials of two mirrored logits, window by window, and over scales: made of the same pieces."""
    meta, want = gold('ms_encoding_90x131')
    a = meta['args']
    net, image = Tiny(a), recipe.image(a['image']['h'], a['image']['w'], a['image']['seed'])
    h, w = image.shape[2:]
    crop, step, total = a['crop_size'], int(a['crop_size'] * 2 / 3), 0
    black = -torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    padded = lambda x, height, width: (
        F.pad(x - black, (0, max(width - x.shape[3], 0), 0, max(height - x.shape[2], 0))) + black
    )
    whole = slice(None), slice(None)
    twice = lambda x: (
        sum(logits for _, logits in evaluation.forward(net, x, [whole], [False, True], 2))
    ).exp()
    for scale in a['scales']:
        long = math.ceil(a['base_size'] * scale)
        size = (long, int(w * long / h + 0.5)) if h > w else (int(h * long / w + 0.5), long)
        view = F.interpolate(image, size, mode='bilinear', align_corners=True)
        if min(size) < crop:
            view = padded(view, crop, crop)
        found, seen = torch.zeros(1, a['classes'], *view.shape[2:]), torch.zeros(view.shape[2:])
        for y in range(0, math.ceil((view.shape[2] - crop) / step) * step + 1, step):
            for x in range(0, math.ceil((view.shape[3] - crop) / step) * step + 1, step):
                part = view[:, :, y : y + crop, x : x + crop]
                here = slice(y, y + part.shape[2]), slice(x, x + part.shape[3])
                found[(..., *here)] += twice(padded(part, crop, crop))[
                    :, :, : part.shape[2], : part.shape[3]
                ]
                seen[here] += 1
        found = (found / seen)[:, :, : size[0], : size[1]]
        total = total + F.interpolate(found, (h, w), mode='bilinear', align_corners=True)
    np.testing.assert_allclose(
        total[:, :, ::3, ::3], want['scores'], rtol=meta['tolerance']['rel_each']
    )
    assert (total.argmax(1).numpy() == want['argmax']).mean() >= meta['tolerance'][
        'argmax_agreement'
    ]


def test_semseg_scores():
    """Its areas follow from the matrix; its means count absent classes as 0, which no full data set has."""
    meta, want = gold('metric_semseg')
    n, tolerance = meta['args']['classes'], meta['tolerance']['abs']
    total = torch.zeros(n, n, dtype=torch.int64)
    for pred, label, areas in zip(want['pred'], want['label'], want['areas']):
        label = np.where(
            label == n, n - 1, label
        )  # np.histogram's last bin is closed on the right, so that it counts there
        pred = np.where(label == meta['args']['ignore'], meta['args']['ignore'], pred)
        known = label < n
        matrix = metric.confusion(
            torch.from_numpy(pred[known].astype(np.uint8)),
            torch.from_numpy(label[known].astype(np.uint8)),
            n,
        )
        right, true, found = matrix.diag(), matrix.sum(1), matrix.sum(0)
        assert [right.tolist(), (true + found - right).tolist(), true.tolist()] == areas.tolist()
        total += matrix
    right, true, found = (v.double() for v in (total.diag(), total.sum(1), total.sum(0)))
    iou, acc = right / (true + found - right + 1e-10), right / (true + 1e-10)
    np.testing.assert_allclose(iou, want['class_iou'], rtol=0, atol=tolerance)
    np.testing.assert_allclose(acc, want['class_acc'], rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        [iou.mean(), acc.mean(), right.sum() / (true.sum() + 1e-10)],
        want['summary'],
        rtol=0,
        atol=tolerance,
    )


# ------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    'n, crop', [(97, 97), (98, 97), (300, 97), (1024, 713), (400, 97), (350, 96)]
)
def test_windows_cover(n, crop):
    starts = evaluation.window_starts(n, crop)
    assert starts[0] == 0 and starts[-1] == n - crop and starts == sorted({*starts})
    assert all(b - a <= math.ceil(crop * 2 / 3) for a, b in zip(starts, starts[1:]))


@pytest.mark.parametrize(
    'form, width',
    [('corners', 121), ('corners', 128), ('centres', 128), ('centres', 121), ('crop', 128)],
)
@torch.no_grad()
def test_whole_images_lie_as_training_crops_do(form, width):
    """A network whose logits are the position of what they look at: padding must not shift them, up to the right edge."""

    class Ramp(torch.nn.Module):
        def normalise(self, image):
            return image.float()

        def forward(self, image):
            h, w = image.shape[2:]
            at = (
                torch.arange(-(-w // 8)) * 8.0
            )  # pixel under the middle of each logit: 8 i with aligned corners
            at = at if form == 'corners' else at + 3.5
            return frame.upsample(at.expand(1, 1, -(-h // 8), len(at)), (h, w), form, 8)

    found = evaluation.scores(
        Ramp(), torch.zeros(1, 3, 64, width, dtype=torch.uint8), Protocol(form=form, stride=8)
    )
    inside = slice(4, 8 * (width // 8) - 4)  # beyond the first and last logit they are constant
    assert_close(found[0, 0, 0, inside], torch.arange(width)[inside], 1e-5, 'positions')


@pytest.mark.parametrize(
    'size, short, long, scale, wanted',
    [
        ((480, 640), 800, 1333, 1, (800, 1067)),
        ((640, 480), 800, 1333, 1, (1067, 800)),
        ((375, 1242), 800, 1333, 1, (402, 1333)),
        ((1024, 2048), 800, 960, 1, (480, 960)),
        ((1024, 2048), 1024, 2048, 1, (1024, 2048)),
        ((1024, 2048), 1024, 2048, 0.5, (512, 1024)),
        ((427, 640), 800, None, 1, (800, 1199)),
        ((1, 3000), 800, 1333, 1, (1, 1333)),
    ],
)
def test_sizes_by_the_short_side(size, short, long, scale, wanted):
    """As detectron2's ResizeShortestEdge has them."""
    assert evaluation.scaled_size(*size, scale, None, short, long) == wanted


@pytest.mark.parametrize('short', [24, 60])
@torch.no_grad()
def test_the_short_side_resizes_as_pillow_does(short):
    """The image as Pillow makes it smaller or larger; logits of the network, back to the image with half-pixel centres."""
    small_net()
    net = build().eval()
    image = torch.from_numpy(np.array(recipe.image_u8(48, 72, 5))).permute(2, 0, 1)[None]
    p = Protocol(short=short, long=200)
    h, w = evaluation.scaled_size(48, 72, 1, None, short, 200)
    resized = Image.fromarray(image[0].permute(1, 2, 0).numpy()).resize(
        (w, h), Image.Resampling.BILINEAR
    )
    view = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]
    padded = F.pad(net.normalise(view), (0, (1 - w) % 8, 0, (1 - h) % 8))
    wanted = F.interpolate(net(padded)[..., :h, :w], (48, 72), mode='bilinear', align_corners=False)
    found = evaluation.scores(net, image, p)
    assert_close(found, wanted, 0.03, 'logits')  # Pillow rounds to whole values
    aliased = F.interpolate(image.float(), (h, w), mode='bilinear', align_corners=False)
    smooth = evaluation.resize(image.float(), (h, w), antialias=True)
    assert (smooth - view).abs().max() < 1.01 and ((aliased - view).abs().max() > 5) == (short < 48)


@pytest.mark.parametrize('crop', [None, (33, 49)])
@torch.no_grad()
def test_mirror_images_mirror(crop):
    """With mirror images, a mirrored picture gives mirrored scores."""
    small_net(FLIP=0)
    net, image = (
        build().eval(),
        torch.randint(256, (1, 3, 65, 82 if crop else 97)).byte(),
    )  # windows at 0 and 33 lie evenly
    p = evaluation.protocol()._replace(flip=True, crop=crop)
    assert_close(
        evaluation.scores(net, image.flip(3), p).flip(3),
        evaluation.scores(net, image, p),
        1e-5,
        'scores',
    )


# ------------------------------------------------------------------------------------- what scores do not depend on


@pytest.fixture
def many(tmp_path):
    """A network and a data set of pictures of several sizes."""
    make_camvid(tmp_path, sizes=[(40, 56)] * 2 + [(57, 41)], VAL_SPLIT='train')
    small_net(DATASET='camvid', AMP='off', CROP_SIZE=41)
    torch.manual_seed(1)
    return build(), dataset.Dataset('train', train=False)


PROTOCOLS = {
    'whole': Protocol(),
    'windows': Protocol(crop=(33, 41)),
    'scales': ALL._replace(scales=(0.75, 1.0, 1.5)),
    'scales without 1': ALL._replace(scales=(0.5, 1.25)),
    'all': ALL._replace(crop=(33, 33), base=64),
    'base': ALL._replace(scales=(1.0, 1.5), base=64),
    'short': ALL._replace(scales=(1.0, 1.5), short=48, long=64),
    'scales in windows': ALL._replace(scales=(0.5, 1.0), crop=(33, 33)),
}


@pytest.mark.parametrize('p', PROTOCOLS.values(), ids=PROTOCOLS)
def test_scores_do_not_depend_on_what_is_in_flight(many, p):
    net, data = many
    found = [
        evaluation.evaluate(
            net, data, distributed.World([torch.device('cpu')]), p._replace(budget=b)
        )
        for b in (1, 10**7)
    ]
    assert found[1]['mIoU'] == pytest.approx(found[0]['mIoU'], abs=1e-6)
    assert (
        found[1]['confusion'] - found[0]['confusion']
    ).abs().sum() <= 2  # a pixel at which two classes tie


@pytest.mark.parametrize('p', PROTOCOLS.values(), ids=PROTOCOLS)
def test_scale_1_beside_others_is_scale_1(many, p):
    net, data = many
    world = distributed.World([torch.device('cpu')])
    beside, alone = (
        evaluation.evaluate(net, data, world, p),
        evaluation.evaluate(net, data, world, p.single()),
    )
    assert 'single' not in alone
    if p != p.single():
        assert beside['single'] == {k: v for k, v in alone.items() if k != 'confusion'}
        image = data[0][0][None]
        with torch.no_grad():
            net = network.fold(net)
            single = evaluation.scores(net, image, p.single())
            again, reused = (evaluation.scores(net, image, p, known) for known in (None, single))
            assert_close(
                reused.softmax(1),
                again.softmax(1),
                1e-5,
                'probabilities with the view that is not computed again',
            )


def test_every_image_is_in_the_sum_once(many):
    net, data = many
    put(TEST_SCALES=(0.5, 1.0), TEST_FLIP=True)
    found = evaluation.evaluate(
        net, data, distributed.World([torch.device('cpu')])
    )  # as settings say
    assert 'single' in found
    assert found['confusion'].sum() == sum((data[i][1] < 11).sum() for i in range(len(data)))


def test_pictures_that_take_their_time(many):
    """Threads get each image once, with its own prediction, whatever ends first; an error arrives."""
    net, data = many
    world, pictures = distributed.World([torch.device('cpu')]), {}

    def slow(index, image, label, pred):
        time.sleep(0.02 * (index % 3 == 0))
        pictures.setdefault(index, []).append((image, label, pred))

    found = evaluation.evaluate(net, data, world, Protocol(), slow)
    total = 0
    for index in range(len(data)):
        ((image, label, pred),) = pictures[index]
        assert (image == data[index][0]).all() and (label == data[index][1]).all()
        total = total + metric.confusion(pred, label, len(data.names))
    assert (total == found['confusion']).all()

    def broken(*args):
        raise UserError('no room')

    with pytest.raises(UserError, match='no room'):
        evaluation.evaluate(net, data, world, Protocol(), broken)


@torch.no_grad()
def test_half_precision(many):
    """bfloat16 moves the score by less than 0.1 points, in all views."""
    net, data = many
    for p in (Protocol(), ALL._replace(scales=(0.75, 1.0))):
        found = []
        for put_amp in ('off', 'bf16'):
            put(AMP=put_amp)
            found.append(
                evaluation.evaluate(net, data, distributed.World([torch.device('cpu')]), p)['mIoU']
            )
        assert abs(found[0] - found[1]) < 1e-3


@torch.no_grad()
def test_a_scale_that_leaves_nothing():
    small_net()
    with pytest.raises(
        UserError,
        match=r'scale 0.1 of TEST_SCALES makes 6x4 pixels of an image of 64x40, less than STRIDE = 8.*TEST_BASE_SIZE',
    ):
        evaluation.scores(
            build().eval(),
            torch.zeros(1, 3, 40, 64, dtype=torch.uint8),
            Protocol(scales=(0.1, 1.0)),
        )


@torch.no_grad()
def test_windows_larger_than_the_image():
    """Such a window holds the image in its middle, the mean colour around it."""
    small_net()
    net, image = build().eval(), torch.randint(256, (1, 3, 40, 50)).byte()
    found = evaluation.scores(net, image, Protocol(crop=(81, 97))).softmax(1)
    around = F.pad(net.normalise(image), (23, 24, 20, 21))
    assert_close(found, net(around)[:, :, 20:60, 23:73].softmax(1), 1e-5, 'scores')


def test_the_protocol_is_what_settings_say():
    put(
        TEST_SCALES=(0.5, 1.0),
        TEST_FLIP=True,
        TEST_CROP=97,
        TEST_BASE_SIZE=512,
        TEST_BATCH=2,
        CROP_SIZE=(100, 50),
    )
    p = evaluation.protocol()
    assert p == Protocol((0.5, 1.0), True, (97, 97), 512, None, None, 10000, 8, 'corners')
    assert str(p) == (
        'views: scales 0.5, 1 of 512 pixels; mirror images; windows of 97x97 every 65x65; mean of probabilities'
    )
    assert str(p.single()._replace(crop=None, base=None)) == 'views: scale 1; whole images'
    put(
        TEST_SCALES=(1.0,),
        TEST_FLIP=False,
        TEST_CROP=None,
        TEST_BASE_SIZE=None,
        TEST_SHORT_SIDE=800,
    )
    assert (
        str(evaluation.protocol()) == 'views: scale 1 of 800 pixels on the short side; whole images'
    )
    put(TEST_SHORT_SIDE=(800, 1333))
    assert (
        str(evaluation.protocol())
        == 'views: scale 1 of 800 pixels on the short side, at most 1333 on the long one; whole images'
    )
    put(HEAD='psa', HEAD_ARGS={'compact': True})
    with pytest.raises(config.UsageError, match=r'TEST_CROP=\(100, 50\)'):
        evaluation.protocol()
