"""Confusion matrix on the device, and the scores that follow from it."""

import torch

from utils.printable import printable


def confusion(pred, label, n_classes):
    """Count pixels (n, n) int64, row = label, column = prediction, in train ids of any one shape.

    Labels outside 0..n-1 (void) are not counted; predictions must lie inside.
    """
    kind = torch.int16 if n_classes < 180 else torch.int32  # (n + 1) * n must fit
    row = label.clamp(max=n_classes).to(kind)  # void goes to an extra row
    cell = row.mul_(n_classes).add_(pred).flatten()
    counts = torch.bincount(cell, minlength=(n_classes + 1) * n_classes)
    return counts[: n_classes * n_classes].view(n_classes, n_classes)


def without_nan(values):
    """Return a tensor as a list of floats, with None for nan, for JSON."""
    return [None if value != value else value for value in values.tolist()]


def scores(matrix):
    """Return the scores of a confusion matrix (n, n), as floats in 0..1.

    pAcc is the share of correct pixels, mAcc the mean over classes of TP / (TP + FN), mIoU that of
    TP / (TP + FP + FN), fIoU the same weighted by the classes' share of the labels. Classes in
    neither labels nor predictions (mAcc: not in the labels) are left out of the means; `absent`
    counts them, class_iou and class_acc hold None.
    """
    m = matrix.double().cpu()
    correct, labelled, predicted = m.diag(), m.sum(1), m.sum(0)
    total = labelled.sum()
    if not total:
        raise ValueError('no pixel carries a label, so there is nothing to score')
    acc = correct / labelled  # nan where absent
    iou = correct / (labelled + predicted - correct)
    seen = labelled > 0
    return {
        'pAcc': (correct.sum() / total).item(),
        'mAcc': acc.nanmean().item(),
        'mIoU': iou.nanmean().item(),
        'fIoU': (labelled[seen] / total * iou[seen]).sum().item(),
        'absent': int(iou.isnan().sum()),
        'class_iou': without_nan(iou),
        'class_acc': without_nan(acc),
    }


def percent(value):
    """Return a score of 0..1 in percent, six characters wide."""
    return '     -' if value is None else f'{100 * value:6.2f}'


def table(result, names):
    """Return scores as text: a row per class in percent, then the means.

    The scores at scale 1 alone, result['single'], get columns of their own where they are there.
    """
    names = [printable(name) for name in names]
    width = max(len(name) for name in names)
    lines = [f'{"class":{width}}     IoU     acc']
    columns = [result['class_iou'], result['class_acc']]
    means = {'': result}
    if 'single' in result:
        single = result['single']
        lines = [f'{"":{width}}       all views    scale 1 alone', lines[0] + '     IoU     acc']
        columns += [single['class_iou'], single['class_acc']]
        means = {'all views:     ': result, 'scale 1 alone: ': single}
    for name, *row in zip(names, *columns, strict=True):
        lines.append('  '.join([f'{name:{width}}', *(percent(value) for value in row)]))
    for title, one in means.items():
        keys = 'mIoU', 'fIoU', 'pAcc', 'mAcc'
        lines.append(title + '  '.join(f'{key} {100 * one[key]:.2f}' for key in keys))
    if result['absent']:
        count = f'{result["absent"]} of {len(names)} classes'
        lines.append(f'{count} are in neither labels nor predictions and left out of the means')
    return '\n'.join(lines)
