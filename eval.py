"""Score a network on a split, or write its predictions.

    python eval.py recipes/camvid.py                  the run's best checkpoint on VAL_SPLIT
    python eval.py CHECKPOINT=net.pth SAVE_DIR=out    and pictures: predictions, best, worst, charts
    python eval.py TEST_SCALES=0.75,1,1.25 TEST_FLIP=True    and scale 1 alone; TEST_CROP=: windows
    python eval.py VAL_SPLIT=test SAVE_DIR=out        no labels: the files that a server expects
    torchrun --nproc_per_node=4 eval.py recipes/camvid.py    the same score, sooner
    python eval.py DATASET=voc --rescore DIR          score index pictures that any program saved
Those hold train ids, or with --raw the values of label files.
"""

import itertools
import math
import os
import signal
import time
from typing import NamedTuple

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a word

import torch
import torch.nn.functional as F

import checkpoint
import dataset
import metric
import network
import settings
from datasets.predictions import Predictions, writer
from heads.blocks import SettingsError
from utils import config, distributed, run_folder, script
from utils.background import Background
from utils.config import UsageError, UserError
from utils.files import check_writable
from utils.pace import Pace
from utils.sizes import fitting

STEP = 2 / 3  # from window to window, as a share of the window: semseg's


class Protocol(NamedTuple):
    """How images are tested: the TEST_* settings in one value."""

    scales: tuple = (1.0,)
    flip: bool = False  # mirror images, too
    crop: tuple = None  # (height, width) of the windows; None = whole images
    base: int = None  # long side of an image at scale 1; None = as it is
    short: int = None  # short side of an image at scale 1; None = as it is
    long: int = None  # with `short`, the long side is at most this times the scale
    budget: int = 2**20  # pixels per forward pass, unless a single view has more
    stride: int = 8  # whole images are padded to fit it: utils.sizes.fitting()
    form: str = 'corners'  # in which the network enlarges logits: UPSAMPLE

    def single(self):
        """Return the same protocol at scale 1, without mirror images."""
        return self._replace(scales=(1.0,), flip=False)

    @property
    def several_views(self):
        return self.flip or self.crop is not None or len(self.scales) > 1

    def __str__(self):
        scales = ', '.join(f'{scale:g}' for scale in self.scales)
        size = f'scale {scales}' if len(self.scales) == 1 else f'scales {scales}'
        if self.base:
            size += f' of {self.base} pixels'
        if self.short:
            size += f' of {self.short} pixels on the short side'
        if self.long:
            size += f', at most {self.long} on the long one'
        parts = [size]
        if self.flip:
            parts.append('mirror images')
        if self.crop:
            h, w = self.crop
            parts.append(f'windows of {w}x{h} every {math.ceil(w * STEP)}x{math.ceil(h * STEP)}')
        else:
            parts.append('whole images')
        if self.several_views:
            parts.append('mean of probabilities')
        return 'views: ' + '; '.join(parts)


def protocol():
    """Return the Protocol that settings describe."""
    crop = config.sides(settings.TEST_CROP) if settings.TEST_CROP else None
    training_crop = config.sides(settings.CROP_SIZE)
    short, long = config.pair(settings.TEST_SHORT_SIDE, None)
    compact = settings.HEAD == 'psa' and settings.HEAD_ARGS.get('compact')
    if compact and crop != training_crop:
        raise UsageError(
            "HEAD_ARGS={'compact': True} attends between the positions of a training crop alone; "
            f'test in windows of that size: TEST_CROP={settings.CROP_SIZE}'
        )
    return Protocol(
        scales=settings.TEST_SCALES,
        flip=settings.TEST_FLIP,
        crop=crop,
        base=settings.TEST_BASE_SIZE,
        short=short,
        long=long,
        budget=settings.TEST_BATCH * math.prod(training_crop),
        stride=settings.STRIDE,
        form=settings.UPSAMPLE,
    )


# ------------------------------------------------------------------------------------ geometry


def scaled_size(h, w, scale, base=None, short=None, long=None):
    """Return (height, width) of an image whose long side becomes scale * base pixels (semseg).

    With `short`, its short side becomes scale * short, or less where the long side would exceed
    scale * long (detectron2).
    """
    if short:
        factor = short / min(h, w)
        if long:
            factor = min(factor, long / max(h, w))
        return max(1, int(scale * factor * h + 0.5)), max(1, int(scale * factor * w + 0.5))
    side = round(scale * (base or max(h, w)))
    if h > w:
        return side, max(1, round(side / h * w))
    return max(1, round(side / w * h)), side


def window_starts(length, crop):
    """Return where windows begin along an axis: every ceil(2/3 crop), the last one moved inside."""
    step = math.ceil(crop * STEP)
    count = math.ceil((length - crop) / step) + 1
    return [min(i * step, length - crop) for i in range(count)]


def resize(x, size, antialias=False):
    """Resize maps (b, c, h, w) to (b, c, *size), bilinear with half-pixel centres.

    antialias  smooth where the result is smaller, as Pillow does
    """
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size, mode='bilinear', align_corners=False, antialias=antialias)


# ----------------------------------------------------------------------------------- inference


def forward(net, image, windows, mirrors, room):
    """Yield (window, logits (b, n, h, w)) for every window and mirror of images (b, 3, H, W).

    windows  pairs of slices, rows and columns
    mirrors  False: as it is; True: mirrored, with the logits turned back
    room     images that go through the network at once
    """
    views = list(itertools.product(windows, mirrors))
    batch = max(1, room // len(image))
    for start in range(0, len(views), batch):
        chunk = views[start : start + batch]
        parts = []
        for (rows, cols), mirror in chunk:
            part = image[:, :, rows, cols]
            parts.append(part.flip(3) if mirror else part)
        outputs = net(torch.cat(parts)).split(len(image))
        for (window, mirror), logits in zip(chunk, outputs, strict=True):
            yield window, logits.flip(3) if mirror else logits


def activate(logits, p):
    """Return the logits of a single view, or the probabilities, which are averaged over several."""
    return logits.softmax(1) if p.several_views else logits


def whole(net, image, p, mirrors, room):
    """Return the mean (b, n, h, w) over `mirrors` of normalised images (b, 3, h, w) seen whole."""
    h, w = image.shape[2:]
    height, width = fitting((h, w), p.form, p.stride)
    image = F.pad(image, (0, width - w, 0, height - h))  # 0 = the mean colour
    everything = slice(None), slice(None)
    views = []
    for _, logits in forward(net, image, [everything], mirrors, room):
        views.append(activate(logits[:, :, :h, :w], p))
    if len(views) == 1:
        return views[0]
    return views[0].add_(views[1]).div_(2)


def sliding(net, image, p, mirrors, room):
    """Return the mean (b, n, h, w) over overlapping windows, each seen as `mirrors` say."""
    h, w = image.shape[2:]
    crop_h, crop_w = p.crop
    pad_h, pad_w = max(crop_h - h, 0), max(crop_w - w, 0)
    top, left = pad_h // 2, pad_w // 2
    image = F.pad(image, (left, pad_w - left, top, pad_h - top))  # 0 = the mean colour
    rows = [slice(y, y + crop_h) for y in window_starts(h + pad_h, crop_h)]
    cols = [slice(x, x + crop_w) for x in window_starts(w + pad_w, crop_w)]
    windows = list(itertools.product(rows, cols))

    total, count = None, image.new_zeros(h, w)
    for window, logits in forward(net, image, windows, mirrors, room):
        view = activate(logits[:, :, top : top + h, left : left + w], p)
        if len(windows) == len(mirrors) == 1:
            return view
        if total is None:
            total = view.new_zeros(*view.shape[:2], h, w)
        total[..., window[0], window[1]] += view
        count[window] += 1
    return total.div_(count)


def mean_scores(net, image, p, mirrors):
    """Return the mean (b, n, h, w) of all views of normalised images at one scale."""
    view, size = sliding, p.crop
    if not p.crop:
        view, size = whole, fitting(image.shape[2:], p.form, p.stride)
    room = max(1, p.budget // math.prod(size))
    if len(image) <= room:
        return view(net, image, p, mirrors, room)
    return torch.cat([view(net, part, p, mirrors, room) for part in image.split(room)])


def at_scale(net, image, scale, p, single):
    """Return the mean of all views at one scale, at the size of the normalised images."""
    h, w = size = tuple(image.shape[2:])
    scaled = scaled_size(h, w, scale, p.base, p.short, p.long)
    if scale < 1 and min(scaled) < p.stride:
        raise UserError(
            f'scale {scale:g} of TEST_SCALES makes {scaled[1]}x{scaled[0]} pixels of an image of '
            f'{w}x{h}, less than STRIDE = {p.stride}; leave it out, or raise TEST_BASE_SIZE or '
            'TEST_SHORT_SIDE'
        )
    # resized logits have other probabilities than those that are resized here
    known = single is not None and scale == 1 and (p.crop or scaled == size)
    if known and not p.flip:
        return activate(single, p)
    view = resize(image, scaled, antialias=bool(p.short))  # detectron2 resizes by Pillow
    if known:
        mirrored = resize(mean_scores(net, view, p, [True]), size)
        return (activate(single, p) + mirrored) / 2
    mirrors = [False, True] if p.flip else [False]
    return resize(mean_scores(net, view, p, mirrors), size)


def scores(net, image, p, single=None):
    """Return scores (b, n, h, w), whose softmax are probabilities, of images (b, 3, h, w) uint8.

    They are the logits of a single view, or the logarithm of the mean probabilities of all views of
    the Protocol `p`.
    single  what this function returned for p.single(): that view is not computed again
    """
    image = net.normalise(image)
    total = None
    for scale in p.scales:
        view = at_scale(net, image, scale, p, single)
        total = view if total is None else total + view
    if len(p.scales) > 1:
        total = total / len(p.scales)
    if p.several_views:
        total = total.clamp(min=1e-30).log()
    return total


def predict(net, image, p, beside_single=False):
    """Return [train ids (b, h, w) uint8] of images (b, 3, h, w) uint8 on the network's device.

    beside_single  also those by p.single()
    """
    single = scores(net, image, p.single()) if beside_single else None
    results = [scores(net, image, p, single)]
    if beside_single:
        results.append(single)
    return [x.max(1)[1].to(torch.uint8) for x in results]  # argmax is slower on a CPU


@torch.no_grad()
def evaluate(net, data, world, p=None, on_image=None, only=None, boundaries=False, stops=None):
    """Evaluate `net` on `data` and return a dict of scores (None without labels, or if stopped).

    It holds metric.scores and the matrix `confusion`; with `boundaries` also `inside`, the matrix
    without them; if the Protocol `p` (None: that of settings) is more than scale 1, also `single`,
    the scores of that alone. Images are dealt out to the processes, none twice. A copy of the
    network is used, with batch norms folded.
    on_image(index, image (3, h, w), label (h, w) or None, pred (h, w)), uint8 on the CPU, is called
    in threads for the images of this process, or those of them that are among the indices `only`.
    A single process gives up where StopSignals `stops` have been asked to stop.
    """
    p = p or protocol()
    net = distributed.place(network.fold(net), world)
    beside_single = data.labelled and p != p.single()
    counts = metric.Counts(len(data.names), world.device, beside_single, boundaries)
    mine = world.share(len(data))
    bar = world.bar(total=len(mine), desc='evaluating', unit='image', leave=False)
    pace = Pace()
    batches = pace.reading(dataset.eval_batches(data, mine, p.budget, world.cuda))
    search = distributed.searching(p.crop is not None)  # windows have one size, images many
    with search, world.autocast(), bar, Background(on_image) as show:
        for image, label, indices in batches:
            try:
                on_device = image.to(world.device, non_blocking=True)
                preds = predict(net, on_device, p, beside_single)
            except (UserError, SettingsError) as e:
                error = UsageError if isinstance(e, SettingsError) else type(e)
                raise error(f'{data.pairs[indices[0]][0]}: {e}') from None
            if label is not None:
                true = label.to(world.device, non_blocking=True)
                counts.add(true, *preds)
            for i, index in enumerate(indices):
                if on_image and (only is None or index in only):
                    with pace.waiting('writing' if show.slow else 'network'):
                        show(index, image[i], None if label is None else label[i], preds[0][i])
            bar.set_postfix(limit=pace.limit('network'), refresh=False)
            bar.update(len(indices))
            if stops and stops.seen(world, 0):
                return None
    if not data.labelled:
        return None
    return all_scores(counts, data, world)


def all_scores(counts, data, world):
    """Return scores of metric.Counts, summed over the processes; UserError if there are none."""
    try:
        return counts.scores(world)
    except ValueError as e:
        raise UserError(f'{data.root}, split {data.split}: {e}') from None


# ----------------------------------------------------------------------------- what is written


def report(world, result, name, data, **facts):
    """Write scores to LOG_DIR/NAME/`name` and CSV files next to it, and print them."""
    path = os.path.join(settings.LOG_DIR, settings.NAME, name)
    more = {'dataset': settings.DATASET, 'root': os.path.abspath(data.root)}
    more |= {'split': data.split, 'images': len(data)}
    try:
        metric.write(path, result, data.names, more | {'classes': data.names} | facts)
    finally:
        world.print(metric.table(result, data.names))
    stem = os.path.splitext(path)[0]
    world.print(f'scores in {path}, {stem}_classes.csv, {stem}_confusion.csv, {stem}_inside.csv')


# ---------------------------------------------------------------------------------- the script


def load(world, path, explicit=()):
    """Return the network of a checkpoint, on the device, and the report of it, which is printed.

    explicit  settings that go before those the file brings
    """
    net, loaded = checkpoint.load_network(path, explicit)
    world.print(loaded)
    return distributed.place(net, world), loaded


def rescore(world, folder, raw):
    """Score the predictions in a folder."""
    data = dataset.Dataset(settings.VAL_SPLIT, train=False)
    run_folder.check(os.path.join(settings.LOG_DIR, settings.NAME), data.root)
    predictions = Predictions(folder, data, raw)
    counts = metric.Counts(len(data.names), torch.device('cpu'), boundaries=True)
    mine = world.share(len(data))
    for pred, label in dataset.parallel_map(predictions.read, mine, 'scoring', world):
        counts.add(label[None], pred[None])
    result = all_scores(counts.to(world.device), data, world)
    if world.rank == 0:
        report(world, result, 'rescore.json', data, predictions=folder)


def main(flags):
    if flags.raw and flags.rescore is None:
        raise UsageError('--raw needs --rescore DIR')
    world = distributed.start()
    if flags.rescore is not None:
        return rescore(world, os.path.expanduser(flags.rescore), flags.raw)

    path = checkpoint.to_evaluate()
    net, loaded = load(world, path, flags.explicit)
    data = dataset.Dataset(settings.VAL_SPLIT, train=False)
    if data.labelled:  # a folder that is no place for scores shows now, not after hours
        folder = os.path.join(settings.LOG_DIR, settings.NAME)
        run_folder.check(folder, data.root)
        check_writable(folder)
    p, on_image = protocol(), writer(data, metric.image_iou, path)
    precision = world.half_type() or 'float32'
    world.print(
        f'{settings.DATASET} {data.split}: {len(data)} images in {data.root}; '
        f'{world.size} x {world.device}, {precision}\n{p}'
    )
    began = time.time()
    result = evaluate(net, data, world, p, on_image, boundaries=True)
    speed = len(data) / (time.time() - began)
    image_scores = on_image.gather(world) if result and on_image else []
    if world.rank > 0:
        return
    if result:
        report(world, result, 'scores.json', data, checkpoint=path, step=loaded.step, views=str(p))
    if result and on_image:
        on_image.charts(result, image_scores)
    world.print(f'{speed:.1f} images/s')
    if on_image:
        world.print(on_image)


if __name__ == '__main__':
    parser = script.Parser(__doc__)
    parser.add_argument('--rescore', metavar='DIR', help='score the index pictures in DIR')
    parser.add_argument('--raw', action='store_true', help='they hold values of label files')
    script.run(main, parser)
