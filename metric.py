"""Confusion matrix on the device, the scores that follow from it, and the files that hold them."""

import csv
import io
import json
import os

import torch
import torch.nn.functional as F

from utils.files import atomic_write
from utils.printable import printable

COLUMNS = '     IoU      F1     acc'  # of a row per class
LANES = 64  # of counters on CUDA
BORDER = 3  # pixels on either side of a boundary between labels


def confusion(pred, label, n_classes):
    """Count pixels (n, n) int64, row = label, column = prediction, in train ids of any one shape.

    Labels outside 0..n-1 (void) are not counted; predictions must lie inside.
    """
    kind = torch.int16 if n_classes < 180 else torch.int32  # (n + 1) * n must fit
    row = label.clamp(max=n_classes).to(kind)  # void goes to an extra row
    cell = row.mul_(n_classes).add_(pred).flatten()
    counts = tally(cell, (n_classes + 1) * n_classes)
    return counts[: n_classes * n_classes].view(n_classes, n_classes)


def tally(values, size):
    """Count how often each of 0..size - 1 is in values (n,); int64 (size,)."""
    if values.is_cuda:
        return scattered(values, size)  # bincount would wait for the largest value
    return torch.bincount(values, minlength=size)


def scattered(values, size):
    """Do as tally() does, without a value that the host has to know.

    Neighbours, which are often alike, go to counters of their own, so that they need not queue.
    """
    lane = torch.arange(len(values), device=values.device) % LANES
    counts = torch.zeros(LANES * size, dtype=torch.int64, device=values.device)
    one = torch.ones((), dtype=torch.int64, device=values.device)
    counts.scatter_add_(0, lane * size + values, one.expand(len(values)))
    return counts.view(LANES, size).sum(0)


def inside(label):
    """Return labels (b, h, w) uint8 without the pixels near a boundary, which become void (255).

    These have another label, or void, at most BORDER pixels away, in a square around them.
    """
    size = 2 * BORDER + 1
    values = label[:, None].float()
    extremes = []
    for x in (values, -values):
        rows = F.max_pool2d(x, (1, size), 1, (0, BORDER))
        extremes.append(F.max_pool2d(rows, (size, 1), 1, (BORDER, 0)))
    high, low = extremes[0], -extremes[1]
    return label.masked_fill((high != low)[:, 0], 255)


class Counts:
    """Confusion matrices of n classes on a device, filled image by image.

    They are `confusion`, of all labelled pixels; `single`, that of second predictions; `inside`,
    without pixels near a boundary: the last two where they are asked for.
    """

    def __init__(self, n, device, single=False, boundaries=False):
        self.n = n
        self.matrices = {'confusion': torch.zeros(n, n, dtype=torch.int64, device=device)}
        for name, wanted in (('single', single), ('inside', boundaries)):
            if wanted:
                self.matrices[name] = torch.zeros_like(self.matrices['confusion'])

    def add(self, label, pred, single=None):
        """Count labels and predictions (b, h, w), uint8."""
        self.matrices['confusion'] += confusion(pred, label, self.n)
        if 'single' in self.matrices:
            self.matrices['single'] += confusion(single, label, self.n)
        if 'inside' in self.matrices:
            self.matrices['inside'] += confusion(pred, inside(label), self.n)

    def to(self, device):
        """Move the matrices to a device, and return self."""
        self.matrices = {name: matrix.to(device) for name, matrix in self.matrices.items()}
        return self

    def scores(self, world):
        """Return scores() of `confusion` over all processes, with the matrices, on the CPU.

        Instead of the matrix `single` there are its scores.
        """
        summed = world.all_reduce(torch.stack([*self.matrices.values()])).cpu()
        matrices = dict(zip(self.matrices, summed, strict=True))
        result = scores(matrices['confusion']) | matrices
        if 'single' in matrices:
            result['single'] = scores(matrices['single'])
        return result


def image_iou(pred, label, n):
    """Return the mIoU of one image."""
    return scores(confusion(pred, label, n))['mIoU']


def without_nan(values):
    """Return a tensor as a list of floats, with None for nan, for JSON."""
    return [None if value != value else value for value in values.tolist()]


def scores(matrix):
    """Return the scores of a confusion matrix (n, n), as floats in 0..1.

    pAcc is the share of correct pixels, mAcc the mean over classes of TP / (TP + FN), mIoU that of
    TP / (TP + FP + FN), fIoU the same weighted by the classes' share of the labels, mF1 the mean of
    2 TP / (2 TP + FP + FN), which is Dice. Classes in neither labels nor predictions (mAcc: not in
    the labels) are left out of the means; `absent` counts them, class_iou, class_f1 and class_acc
    hold None.
    """
    m = matrix.double().cpu()
    correct, labelled, predicted = m.diag(), m.sum(1), m.sum(0)
    total = labelled.sum()
    if not total:
        raise ValueError('no pixel carries a label, so there is nothing to score')
    acc = correct / labelled  # nan where absent
    iou = correct / (labelled + predicted - correct)
    f1 = 2 * correct / (labelled + predicted)
    seen = labelled > 0
    return {
        'pAcc': (correct.sum() / total).item(),
        'mAcc': acc.nanmean().item(),
        'mIoU': iou.nanmean().item(),
        'fIoU': (labelled[seen] / total * iou[seen]).sum().item(),
        'mF1': f1.nanmean().item(),
        'absent': int(iou.isnan().sum()),
        'class_iou': without_nan(iou),
        'class_f1': without_nan(f1),
        'class_acc': without_nan(acc),
    }


def percent(value):
    """Return a score of 0..1 in percent, six characters wide."""
    return '     -' if value is None else f'{100 * value:6.2f}'


def class_columns(result):
    """Return IoU, F1 and accuracy of the classes."""
    return [result['class_iou'], result['class_f1'], result['class_acc']]


def table(result, names):
    """Return scores as text: a row per class in percent, then the means.

    The scores at scale 1 alone, result['single'], get columns of their own where they are there.
    """
    names = [printable(name) for name in names]
    width = max(len(name) for name in names)
    lines = [f'{"class":{width}}' + COLUMNS]
    columns = class_columns(result)
    means = {'': result}
    if 'single' in result:
        single = result['single']
        spread = f'{"all views":^{len(COLUMNS)}}{"scale 1 alone":^{len(COLUMNS)}}'
        lines = [' ' * width + spread.rstrip(), lines[0] + COLUMNS]
        columns += class_columns(single)
        means = {'all views:     ': result, 'scale 1 alone: ': single}
    for name, *row in zip(names, *columns, strict=True):
        lines.append('  '.join([f'{name:{width}}', *(percent(value) for value in row)]))
    for title, one in means.items():
        keys = 'mIoU', 'fIoU', 'mF1', 'pAcc', 'mAcc'
        lines.append(title + '  '.join(f'{key} {100 * one[key]:.2f}' for key in keys))
    if result['absent']:
        count = f'{result["absent"]} of {len(names)} classes'
        lines.append(f'{count} are in neither labels nor predictions and left out of the means')
    return '\n'.join(lines)


# ---------------------------------------------------------------------------------------- files


def write(path, result, names, facts):
    """Write scores to a JSON file, and next to it NAME_classes.csv, _confusion.csv, _inside.csv.

    The CSV are a row per class in percent, empty where it is absent, the matrix of pixels, rows
    being labels, and the same without pixels near a boundary: `confusion` and `inside` of the
    result.
    """
    names = [printable(name) for name in names]
    stem = os.path.splitext(path)[0]
    matrix = result['confusion'].tolist()
    rows = [['class', 'IoU', 'F1', 'acc', 'labelled pixels', 'predicted pixels']]
    for i, (name, *values) in enumerate(zip(names, *class_columns(result), strict=True)):
        cells = ['' if value is None else f'{100 * value:.2f}' for value in values]
        rows.append([name, *cells, sum(matrix[i]), sum(row[i] for row in matrix)])
    write_csv(f'{stem}_classes.csv', rows)
    for kind in ('confusion', 'inside'):
        rows = [['label \\ prediction', *names]]
        for name, counts in zip(names, result[kind].tolist(), strict=True):
            rows.append([name, *counts])
        write_csv(f'{stem}_{kind}.csv', rows)
    values = {key: value for key, value in result.items() if key not in ('confusion', 'inside')}
    with atomic_write(path) as f:
        f.write(json.dumps(values | facts, indent=1).encode())


def write_csv(path, rows):
    """Write rows of cells to a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    with atomic_write(path) as f:
        f.write(text.getvalue().encode())
