"""The losses against formulas written out in float64, a pixel at a time; how settings choose one; class weights."""

import functools
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, blocks, build, make_camvid, put, small_net
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import loss
import metric
import train
from heads.frame import upsample
from utils.config import UsageError

WEIGHT = [0.5, 2.0, 0.0, 1.25, 0.375]
LOSSES = {
    'ce all': functools.partial(loss.cross_entropy, ignore=255, average='all'),
    'ce valid': functools.partial(loss.cross_entropy, ignore=255, average='valid', smoothing=0.2),
    'ohem valid': functools.partial(loss.ohem, ignore=255, average='valid', threshold=0.3, keep=3),
    'ohem all': functools.partial(
        loss.ohem, ignore=255, average='all', threshold=0.1, keep=10, smoothing=0.2
    ),
    'focal all': functools.partial(loss.focal, ignore=255, average='all', gamma=2.0),
    'focal valid': functools.partial(loss.focal, ignore=255, average='valid', gamma=0.5),
    'dice': functools.partial(loss.dice, ignore=255),
    'ce+dice all': functools.partial(loss.ce_dice, ignore=255, average='all'),
    'ce+dice valid': functools.partial(loss.ce_dice, ignore=255, average='valid', smoothing=0.2),
    'lovasz': functools.partial(loss.lovasz, ignore=255),
}
every_loss = pytest.mark.parametrize('form', LOSSES.values(), ids=list(LOSSES))
with_weight = pytest.mark.parametrize('weight', [None, WEIGHT], ids=['', 'weights'])
either_average = pytest.mark.parametrize('average', ['all', 'valid'])


def tensor(weight):
    return None if weight is None else torch.tensor(weight, dtype=torch.float64)


def batch(ignore=255, seed=0):
    """Logits (3, 5, 4, 6) in float64 and train ids: half of the first image is void, all of the last; class 4 is in the second alone."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, 5, 4, 6, generator=generator).double()
    label = torch.randint(0, 5, (3, 4, 6), generator=generator).byte()
    label[0] %= 4
    label[0, :2], label[2] = ignore, ignore
    return logits, label


def valid_pixels(logits, label, ignore=255):
    """(image, train id, probabilities (n,)) of each valid pixel."""
    logits, label = logits.detach().numpy().astype(np.float64), label.numpy()
    for i, y, x in np.argwhere(label != ignore):
        e = np.exp(logits[i, :, y, x] - logits[i, :, y, x].max())
        yield i, label[i, y, x], e / e.sum()


def smoothed(truth, p, weight=None, smoothing=0.0):
    w = np.ones(len(p)) if weight is None else np.array(weight)
    return (
        -(1 - smoothing) * w[truth] * np.log(p[truth]) - smoothing / len(p) * (w * np.log(p)).sum()
    )


def add_up(values, images=3):
    """Sums per image of (image, value)."""
    sums = [0.0] * images
    for i, value in values:
        sums[i] += value
    return sums


def divisors(logits, label, average, weight=None, ignore=255):
    w = np.ones(5) if weight is None else weight
    return (
        [label[0].numel()] * len(label)
        if average == 'all'
        else add_up((i, w[truth]) for i, truth, _ in valid_pixels(logits, label, ignore))
    )


def assert_same(found, sums, counts):
    assert found[0].tolist() == pytest.approx(sums, rel=1e-12, abs=1e-12) and found[
        1
    ].tolist() == pytest.approx(counts, rel=1e-12)
    assert found[0].dtype == found[1].dtype == torch.float64


# ---------------------------------------------------------------------------------------------------------- the formulas


@either_average
@with_weight
@pytest.mark.parametrize('smoothing', [0.0, 0.2])
@pytest.mark.parametrize('ignore', [255, 200])
def test_cross_entropy(average, weight, smoothing, ignore):
    logits, label = batch(ignore)
    sums = add_up(
        (i, smoothed(truth, p, weight, smoothing))
        for i, truth, p in valid_pixels(logits, label, ignore)
    )
    found = loss.cross_entropy(logits, label, ignore, average, tensor(weight), smoothing=smoothing)
    assert_same(found, sums, divisors(logits, label, average, weight, ignore))
    mean = F.cross_entropy(
        logits, label.long(), tensor(weight), ignore_index=ignore, label_smoothing=smoothing
    )
    if average == 'valid':
        assert (found[0].sum() / found[1].sum()).item() == pytest.approx(mean.item(), rel=1e-12)


def hard_by_hand(logits, label, threshold, keep):
    """Which of the valid pixels are hard: their numbers among them."""
    p = [p[truth] for _, truth, p in valid_pixels(logits, label)]
    return {n for n in np.argsort(p)[:keep]} | {
        n for n, value in enumerate(p) if value <= threshold
    }


@either_average
@pytest.mark.parametrize(
    'threshold, keep, hard',
    [
        (0.3, 1, None),
        (0.3, 2, None),
        (0.1, 7, 21),
        (0.0, 2, 6),
        (0.0, 12, 36),
        (0.0, 13, 36),
        (0.0, 24, 36),
        (0.0, 10**6, 36),
        (1.0, 1, 36),
    ],
)
@pytest.mark.parametrize('smoothing', [0.0, 0.2])
@with_weight
def test_ohem(average, threshold, keep, hard, smoothing, weight):
    """36 of 72 pixels are valid. The hard ones of all three images are ranked together, `keep` times three at least."""
    logits, label = batch()
    chosen = hard_by_hand(logits, label, threshold, 3 * keep)
    assert len(chosen) == hard if hard else 5 < len(chosen) < 36
    pixels = [pixel for n, pixel in enumerate(valid_pixels(logits, label)) if n in chosen]
    sums = add_up((i, smoothed(truth, p, weight, smoothing)) for i, truth, p in pixels)
    counts = add_up((i, 1) for i, *_ in pixels) if average == 'valid' else [24] * 3
    assert_same(
        loss.ohem(
            logits,
            label,
            255,
            average,
            tensor(weight),
            threshold=threshold,
            keep=keep,
            smoothing=smoothing,
        ),
        sums,
        counts,
    )


def test_ohem_is_mmsegmentations_over_all_pixels():
    """Its sampler written out: of the valid pixels those below the larger of threshold and the probability at place keep * images; mean over all."""
    logits, label = batch()
    flat = [(p[truth], -np.log(p[truth])) for _, truth, p in valid_pixels(logits, label)]
    for threshold, keep in ((0.7, 2), (0.05, 4), (0.0, 1), (0.3, 100)):
        limit = max(threshold, sorted(p for p, _ in flat)[min(3 * keep, len(flat) - 1)])
        wanted = sum(value for p, value in flat if p < limit) / label.numel()
        total, count = loss.ohem(logits, label, 255, 'all', threshold=threshold, keep=keep)
        slack = (
            max(value for p, value in flat if p == max(q for q, _ in flat)) / label.numel()
        )  # where all are kept, it leaves out the easiest
        assert (
            wanted - 1e-12
            <= (total.sum() / count.sum()).item()
            <= wanted + (slack if keep == 100 else 0) + 1e-12
        )


def test_ohem_at_the_threshold_and_at_equals():
    """Probability 0.5 is at most 0.5; of equals all are kept."""
    logits, label = torch.zeros(1, 2, 1, 6).double(), torch.zeros(1, 1, 6, dtype=torch.uint8)
    logits[0, 0, 0, 4:] = 1
    found = [
        loss.ohem(logits, label, 255, 'valid', threshold=threshold, keep=keep)[1].item()
        for threshold, keep in ((0.5, 1), (0.49, 2), (0.49, 5), (0.8, 1))
    ]
    assert found == [4, 4, 6, 6]


def test_ohem_ranks_over_the_whole_batch():
    logits, label = batch()
    label[2] = 1
    logits[1] = 0
    logits[1, 0], label[1] = 9, 0  # easy
    assert loss.ohem(logits, label, 255, 'valid', threshold=0.0, keep=12)[1].tolist() == [12, 0, 24]


def test_ohem_does_not_hide_what_is_not_finite():
    logits, label = batch()
    logits[1, 2, 0, 0] = float('nan')
    assert not loss.ohem(logits, label, 255, 'valid', threshold=0.0, keep=1)[0].isfinite().all()


@either_average
@with_weight
@pytest.mark.parametrize('gamma', [0.0, 0.5, 1.0, 2.0])
def test_focal(average, weight, gamma):
    logits, label = batch()
    sums = add_up(
        (i, -(weight or [1] * 5)[truth] * (1 - p[truth]) ** gamma * np.log(p[truth]))
        for i, truth, p in valid_pixels(logits, label)
    )
    found = loss.focal(logits, label, 255, average, tensor(weight), gamma=gamma)
    assert_same(found, sums, divisors(logits, label, average, weight))
    if gamma == 0:
        assert_same(
            loss.cross_entropy(logits, label, 255, average, tensor(weight)),
            found[0].tolist(),
            found[1].tolist(),
        )


@pytest.mark.parametrize('gamma', [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize('kind', [torch.float32, torch.float64])
def test_focal_of_sure_pixels(gamma, kind):
    """p of 0 and of 1, and what float can tell from 1: no NaN, no infinity."""
    logits, label = torch.zeros(1, 2, 1, 6, dtype=kind), torch.zeros(1, 1, 6, dtype=torch.uint8)
    logits[0, 0, 0] = torch.tensor([600, -600, 40, 16.5, 15, -30])
    logits.requires_grad_()
    total, _ = loss.focal(logits, label, 255, 'all', gamma=gamma)
    total.sum().backward()
    assert total.isfinite().all() and logits.grad.isfinite().all()
    assert logits.grad[0, 0, 0, [1, 5]].tolist() == pytest.approx([-1, -1])
    if kind == torch.float64:
        d = [
            -600,
            600,
            -40,
            -16.5,
            -15,
            30,
        ]  # log odds against the truth: 1 - p = 1 / (1 + e^-d), -log p = log(1 + e^d)
        assert total.item() == pytest.approx(
            sum((1 / (1 + np.exp(-x))) ** gamma * np.logaddexp(0, x) for x in d), rel=1e-12
        )
        for x in d[2:5]:
            one = loss.focal(
                torch.tensor([-x, 0]).double().view(1, 2, 1, 1),
                label[..., :1],
                255,
                'all',
                gamma=gamma,
            )[0].item()
            assert one == pytest.approx(
                (1 / (1 + np.exp(-x))) ** gamma * np.logaddexp(0, x), rel=2e-1 if x == -40 else 1e-8
            )


def dice_by_hand(logits, label, weight, eps):
    found = []
    for i in range(3):
        pixels = [(truth, p) for image, truth, p in valid_pixels(logits, label) if image == i]
        there = {truth: (weight or [1] * 5)[truth] for truth, _ in pixels}
        parts = [
            w
            * (
                1
                - (2 * sum(p[c] for truth, p in pixels if truth == c) + eps)
                / (sum(p[c] + (truth == c) for truth, p in pixels) + eps)
            )
            for c, w in there.items()
        ]
        found.append((sum(parts) / sum(there.values()), 1) if sum(there.values()) else (0, 0))
    return zip(*found)


@with_weight
@pytest.mark.parametrize('eps', [1.0, 1e-3])
def test_dice(weight, eps):
    logits, label = batch()
    assert_same(
        loss.dice(logits, label, 255, weight=tensor(weight), eps=eps),
        *map(list, dice_by_hand(logits, label, weight, eps)),
    )
    assert_same(
        loss.dice(logits, label, 255, weight=tensor(weight)),
        *map(list, dice_by_hand(logits, label, weight, 1)),
    )


def test_dice_at_its_ends():
    """All right: 0; all wrong: nearly 1. Classes that are not in the image have no say."""
    label = torch.zeros(1, 40, 50, dtype=torch.uint8)
    label[0, 20:] = 1
    logits = 50 * F.one_hot(label.long(), 4).permute(0, 3, 1, 2).double()
    assert loss.dice(logits, label, 255)[0].item() == pytest.approx(0, abs=1e-9)
    assert loss.dice(logits.roll(1, 1), label, 255)[0].item() == pytest.approx(1, abs=2e-3)
    label[0] = 2
    assert loss.dice(logits, label, 255, weight=torch.tensor([1.0, 1, 0, 1]))[1].item() == 0


@either_average
@with_weight
def test_ce_and_dice(average, weight):
    """Per image: the mean of the one and the value of the other."""
    logits, label = batch()
    sums = add_up((i, smoothed(t, p, weight, 0.2)) for i, t, p in valid_pixels(logits, label))
    counts = divisors(logits, label, average, weight)
    other, there = map(list, dice_by_hand(logits, label, weight, 0.5))
    wanted = [s / max(n, 1e-9) + d for s, n, d in zip(sums, counts, other)]
    found = loss.ce_dice(logits, label, 255, average, tensor(weight), smoothing=0.2, eps=0.5)
    assert_same(found, wanted, there)


def jaccard_loss(wrong, truth):
    """Of a class, 1 - IoU where the pixels in the set `wrong` are wrong, those of `truth` its own."""
    return len(wrong) / len(truth | wrong)


def lovasz_extension(errors, truth):
    """By its definition for a submodular loss: the largest of all orders of the pixels."""
    values = []
    for order in itertools.permutations(range(len(errors))):
        sets = [set(order[:i]) for i in range(len(order) + 1)]
        steps = [jaccard_loss(b, truth) - jaccard_loss(a, truth) for a, b in zip(sets, sets[1:])]
        values.append(sum(errors[n] * step for n, step in zip(order, steps)))
    return max(values)


@pytest.mark.parametrize('weight', [None, [0.5, 2.0, 0.0, 1.25]], ids=['', 'weights'])
def test_lovasz_against_all_orders_of_the_pixels(weight):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 4, 2, 3, generator=generator).double()
    label = torch.tensor([[[0, 1, 1], [2, 255, 1]], [[2, 2, 255], [255, 0, 0]]]).byte()
    wanted, parts = [0.0] * 2, [0.0] * 2
    for i in range(2):
        pixels = [(t, p) for image, t, p in valid_pixels(logits, label) if image == i]
        for c in {t for t, _ in pixels}:
            errors = [1 - p[c] if t == c else p[c] for t, p in pixels]
            w = 1.0 if weight is None else weight[c]
            value = lovasz_extension(errors, {n for n, (t, _) in enumerate(pixels) if t == c})
            wanted[i] += w * value
            parts[i] += w
    wanted = [value / part for value, part in zip(wanted, parts)]
    assert_same(loss.lovasz(logits, label, 255, weight=tensor(weight)), wanted, [1, 1])


def test_lovasz_of_sure_predictions_is_one_minus_the_mean_iou():
    generator = torch.Generator().manual_seed(1)
    label, pred = (torch.randint(0, 4, (1, 30, 40), generator=generator) for _ in range(2))
    label[0, :5] = 255
    logits = 500 * F.one_hot(pred, 5).permute(0, 3, 1, 2).float()
    ious = metric.scores(metric.confusion(pred, label, 4))['class_iou']
    total, count = loss.lovasz(logits, label, 255)
    assert total.item() == pytest.approx(1 - sum(ious) / 4, rel=1e-5) and count.item() == 1


def test_lovasz_in_float32_is_that_in_float64():
    """Over as many pixels as a training crop has."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 3, 400, 400, generator=generator)
    label = torch.randint(0, 3, (1, 400, 400), generator=generator)
    found, wanted = [], []
    for values, x in ((found, logits), (wanted, logits.double())):
        x.requires_grad_()
        total, _ = loss.lovasz(x, label, 255)
        values += [total.detach(), torch.autograd.grad(total.sum(), x)[0]]
    assert_close(found[0], wanted[0], 1e-5)
    assert_close(found[1], wanted[1], 1e-3)  # near ties the order differs


# ------------------------------------------------------------------------------------------------ what they have in common


@every_loss
@with_weight
def test_gradient_is_that_of_the_loss(form, weight):
    logits, label = batch()
    assert torch.autograd.gradcheck(
        lambda x: form(x, label, weight=tensor(weight))[0], logits.requires_grad_()
    )


@every_loss
@with_weight
def test_void_has_no_loss_and_no_gradient(form, weight):
    logits, label = batch()
    total, count = form(logits.requires_grad_(), label, weight=tensor(weight))
    total.sum().backward()
    assert logits.grad.isfinite().all()
    void = (label == 255)[:, None].expand_as(logits)
    assert (logits.grad[void] == 0).all() and (logits.grad[~void] != 0).any()
    assert total[2] == 0 and count[2] in (0, 24)
    again = logits.detach().masked_fill(void, 7)
    assert_close(form(again, label, weight=tensor(weight))[0], total, 1e-12)


@every_loss
@pytest.mark.parametrize('kind', [torch.float64, torch.float32, torch.bfloat16])
def test_nothing_but_void(form, kind):
    logits = torch.randn(2, 5, 4, 6, dtype=kind, requires_grad=True)
    total, count = form(logits, torch.full((2, 4, 6), 255))
    total.sum().backward()
    assert (
        total.tolist() == [0, 0]
        and count.tolist() in ([0, 0], [24, 24])
        and (logits.grad == 0).all()
    )


@every_loss
def test_half_precision_is_computed_in_float32(form):
    logits, label = batch()
    for half in (torch.bfloat16, torch.float16):
        total, count = form(logits.to(half), label)
        wanted = form(logits.to(half).float(), label)
        assert (
            total.dtype == count.dtype == torch.float32
            and total.equal(wanted[0])
            and count.equal(wanted[1])
        )


@pytest.mark.parametrize('name', [name for name in LOSSES if 'ohem' not in name])
@with_weight
def test_images_add_up_to_the_batch(name, weight):
    logits, label = batch()
    whole = LOSSES[name](logits, label, weight=tensor(weight))
    parts = [
        LOSSES[name](x, y, weight=tensor(weight)) for x, y in zip(logits.split(1), label.split(1))
    ]
    assert_same(whole, *(torch.cat(p).tolist() for p in zip(*parts)))


@every_loss
def test_void_may_have_the_number_of_a_class(form):
    logits, label = batch()
    other = label.masked_fill(label == 1, 2)
    assert_same(
        form(logits, other.masked_fill(label == 255, 1), ignore=1),
        *(t.tolist() for t in form(logits, other)),
    )


@every_loss
@with_weight
def test_the_device_is_not_waited_for(form, weight):
    """Where tensors have no numbers, whatever reads one of them fails: .item(), if, a mask as an index."""
    with FakeTensorMode():
        logits, label = (
            torch.empty(2, 5, 4, 6, requires_grad=True),
            torch.empty(2, 4, 6, dtype=torch.uint8),
        )
        total, count = form(logits, label, weight=weight and torch.tensor(weight))
        total.sum().backward()
        with pytest.raises(DataDependentOutputException):
            count.sum().item()


# ---------------------------------------------------------------------------------------------------------- class weights


def test_median_frequency():
    """Three images of 100 valid pixels: class 0 in all of them, 1 in two, 2 and 3 in one, 4 in none."""
    of_class, of_images = (
        [150, 100, 40, 10, 0],
        [300, 200, 100, 100, 0],
    )  # frequencies 0.5 0.5 0.4 0.1, median 0.45
    wanted = [0.9, 0.9, 1.125, 4.5, 0]
    for form in (list, np.array, torch.tensor):
        found = loss.median_frequency(form(of_class), form(of_images))
        assert found == pytest.approx(wanted, rel=1e-12) and all(type(w) is float for w in found)
    assert loss.median_frequency([1, 6, 3], [10, 10, 10]) == pytest.approx([3, 0.5, 1])
    assert loss.median_frequency([0, 0], [0, 0]) == [0, 0]


def frequent():
    """Median frequency weights of the labels that make_camvid writes."""
    counts = np.array(
        [np.bincount(blocks(40, 56, seed=i).ravel(), minlength=11) for i in range(4)]
    )  # image, class
    freq = counts.sum(0) / [40 * 56 * (counts[:, c] > 0).sum() for c in range(11)]
    return [np.median(freq) / f for f in freq]


@pytest.mark.parametrize(
    'values, wanted',
    [
        (dict(), None),
        (dict(CLASS_WEIGHTS=(1.0,) * 10 + (3.0,)), [1.0] * 10 + [3.0]),
        (dict(CLASS_WEIGHTS='median_freq'), frequent()),
    ],
    ids=['', 'given', 'counted'],
)
def test_training_weighs_the_classes(values, wanted, tmp_path, monkeypatch):
    """What the training gives the loss that it chooses."""
    make_camvid(
        tmp_path,
        BATCH_SIZE=2,
        ITER_VAL=0,
        DEVICES='cpu',
        MODEL_DIR=str(tmp_path),
        NAME='x',
        **values,
    )
    got = []

    def criterion(n_classes, class_weights=None):
        got.append(class_weights)
        raise KeyboardInterrupt

    monkeypatch.setattr(loss, 'criterion', criterion)
    with pytest.raises(KeyboardInterrupt):
        train.main()
    assert got == [wanted and pytest.approx(wanted, rel=1e-12)]


# ---------------------------------------------------------------------------------------------- how settings choose

CHOICES = [
    (
        dict(LOSS='ce', LOSS_AVG='valid', LOSS_ARGS={'smoothing': 0.1}),
        functools.partial(loss.cross_entropy, average='valid', smoothing=0.1),
    ),
    (dict(LOSS='ce', LOSS_AVG='all'), functools.partial(loss.cross_entropy, average='all')),
    (
        dict(
            LOSS='ohem',
            LOSS_ARGS={'threshold': 0.1, 'keep': 100, 'smoothing': 0.1},
            LOSS_AVG='valid',
        ),
        functools.partial(loss.ohem, average='valid', threshold=0.1, keep=100, smoothing=0.1),
    ),
    (
        dict(LOSS='ohem', LOSS_ARGS={'threshold': 0.1, 'keep': 100}),
        functools.partial(loss.ohem, average='all', threshold=0.1, keep=100),
    ),
    (
        dict(LOSS='focal', LOSS_ARGS={'gamma': 1.5}, LOSS_AVG='valid'),
        functools.partial(loss.focal, gamma=1.5, average='valid'),
    ),
    (dict(LOSS='dice'), loss.dice),
    (
        dict(LOSS='ce+dice', LOSS_ARGS={'eps': 0.5}, LOSS_AVG='valid'),
        functools.partial(loss.ce_dice, average='valid', eps=0.5),
    ),
    (dict(LOSS='lovasz'), loss.lovasz),
]
NAMES = 'ce valid', 'ce all', 'ohem valid', 'ohem all', 'focal', 'dice', 'ce+dice', 'lovasz'
choices = pytest.mark.parametrize('values, form', CHOICES, ids=NAMES)


def images():
    generator = torch.Generator().manual_seed(0)
    image, label = (
        torch.randn(3, 3, 33, 41, generator=generator),
        torch.randint(0, 8, (3, 33, 41), generator=generator),
    )
    label[0, :9], label[2, 5:] = 200, 200
    return image, label


@choices
@pytest.mark.parametrize(
    'weight', [None, [0.5, 2.0, 0.0, 1.25, 0.375, 1.0, 1.0, 3.0, 1.0, 2.0]], ids=['', 'weights']
)
@pytest.mark.parametrize('aux', [0.0, 0.4])
def test_loss_of_the_network(values, form, weight, aux):
    """That of the logits at full size; the auxiliary head's counts by its own mean."""
    small_net(DROPOUT=0.0, IGNORE_LABEL=200, AUX_WEIGHT=aux, **values)
    net = build(class_weights=weight).double().eval()
    image, label = images()
    found = net(image.double(), label)
    main = form(net(image.double()), label, ignore=200, weight=tensor(weight))
    mean = main[0].sum() / main[1].sum()
    if aux:
        other = form(
            upsample(net.aux(net.maps(image.double())[2]), (33, 41)),
            label,
            ignore=200,
            weight=tensor(weight),
        )
        mean = mean + aux * other[0].sum() / other[1].sum()
    else:
        assert_close(found[0], main[0], 1e-12)
    assert_close(found[1], main[1], 1e-12)
    assert_close(found[0].sum() / found[1].sum(), mean, 1e-12)
    mine = torch.autograd.grad(found[0].sum() / found[1].sum(), net.fc2.weight)[0]
    assert_close(mine, torch.autograd.grad(mean, net.fc2.weight)[0], 1e-10)


@choices
def test_a_step_lowers_the_loss(values, form):
    small_net(IGNORE_LABEL=200, DROPOUT=0.0, **values)
    torch.manual_seed(0)
    net, found = build(class_weights=[1.0] * 9 + [2.0]), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    image, label = images()
    for _ in range(6):
        total, count, _ = net(image, label)
        found.append((total.sum() / count.sum()).item())
        optimizer.zero_grad()
        (total.sum() / count.sum()).backward()
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
        optimizer.step()
    assert found[-1] < found[0] - 1e-3


@pytest.mark.parametrize('name', list(loss.LOSSES))
def test_full_size_logits_of_one_image(name):
    """Forward and again in backward; of all only where the loss ranks them together."""
    small_net(LOSS=name, IGNORE_LABEL=200)
    net, seen = build(), []
    net.criterion.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    net(*images())[0].sum().backward()
    assert seen == ([3, 3] if name == 'ohem' else [1] * 6)


def test_class_weights_move_and_are_not_kept():
    small_net()
    net = build(class_weights=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert (
        net.criterion.class_weights.dtype == torch.float32
        and net.double().criterion.class_weights.dtype == torch.float64
    )
    assert not [k for k in net.state_dict() if 'class_weights' in k] and set(
        net.state_dict()
    ) == set(build().state_dict())
    assert build().criterion.class_weights is None
    with torch.device('meta'):
        assert (
            'criterion.class_weights' in dict(net.to('meta').named_buffers())
            and net.criterion.class_weights.device.type == 'meta'
        )


@pytest.mark.parametrize('weights', [[1.0] * 9, (1.0,) * 11, [0.0] * 10])
def test_class_weights_that_will_not_do(weights):
    small_net()
    with pytest.raises(
        UsageError, match='CLASS_WEIGHTS = .* is not valid; shapes needs 10 numbers'
    ):
        build(class_weights=weights)


@pytest.mark.parametrize(
    'name, args, words',
    [
        ('focal', {'smoothing': 0.1}, "LOSS=focal has no 'smoothing'; it has gamma"),
        ('dice', {'smoothing': 0.1}, "LOSS=dice has no 'smoothing'; it has eps"),
        ('ce', {'gamma': 2.0}, "LOSS=ce has no 'gamma'; it has smoothing"),
        ('ohem', {'kep': 3}, "LOSS=ohem has no 'kep'; it has threshold, keep, smoothing"),
        ('ohem', {'weight': None}, "LOSS=ohem has no 'weight'"),
        ('ohem', {1: 2}, 'LOSS=ohem has no 1'),
        ('ohem', {'keep': 0}, 'keep = 0 is not valid; expected int, 1 to'),
        ('ohem', {'keep': 1.5}, 'keep = 1.5 is not valid; expected int, 1 to'),
        ('ohem', {'threshold': 1.1}, 'threshold = 1.1 is not valid; expected float, 0 to 1'),
        ('ohem', {'threshold': True}, 'threshold = True is not valid; expected float, 0 to 1'),
        ('ce', {'smoothing': 1.0}, 'smoothing = 1.0 is not valid; expected float, 0 to 0.99'),
        ('ce', {'smoothing': float('nan')}, 'smoothing = nan is not valid'),
        ('focal', {'gamma': -1}, 'gamma = -1 is not valid; expected float, 0 to 100'),
        ('focal', {'gamma': '2'}, "gamma = '2' is not valid; expected float, 0 to 100"),
        ('lovasz', {'eps': 1.0}, "LOSS=lovasz has no 'eps'; it has none"),
        ('ce+dice', {'gamma': 1.0}, "LOSS=ce.dice has no 'gamma'; it has smoothing, eps"),
        ('dice', {'eps': (1,)}, 'eps = .1,. is not valid; expected float, 0 to 100'),
    ],
)
def test_arguments_of_losses_that_are_not_valid(name, args, words):
    small_net(LOSS=name, LOSS_ARGS=args)
    with pytest.raises(UsageError, match='LOSS_ARGS: .*' + words):
        build()
    put(LOSS_ARGS={})
    build()


def test_arguments_of_losses_by_default():
    """Those of the settings that they replace."""
    form, common = loss.criterion, (*batch(), 255, 'valid')
    for name, function, usual in (
        ('ohem', loss.ohem, dict(threshold=0.7, keep=100_000, smoothing=0)),
        ('focal', loss.focal, dict(gamma=2)),
        ('ce', loss.cross_entropy, dict(smoothing=0)),
    ):
        put(LOSS=name, LOSS_AVG='valid')
        sums, counts = function(*common, **usual)
        assert_same(form(5)(*common[:2]), sums.tolist(), counts.tolist())
        put(LOSS_ARGS={k: v for k, v in usual.items() if k != 'smoothing'})
        assert_same(form(5)(*common[:2]), sums.tolist(), counts.tolist())
        put(LOSS_ARGS={})
