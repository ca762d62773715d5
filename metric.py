"""Confusion matrix on the device, and the scores that follow from it."""

import torch


def confusion(pred, label, n_classes):
    """Counts (n, n) int64 of pixels, row = label, column = prediction, from train ids of any one shape.

    Labels outside 0..n-1 (void) are not counted; predictions must lie inside.
    """
    kind = torch.int16 if n_classes < 180 else torch.int32  # (n + 1) * n must fit
    cell = (
        label.clamp(max=n_classes).to(kind).mul_(n_classes).add_(pred)
    )  # void goes to an extra row
    return torch.bincount(cell.flatten(), minlength=(n_classes + 1) * n_classes)[
        : n_classes * n_classes
    ].view(n_classes, n_classes)


def scores(matrix):
    """The scores of a confusion matrix (n, n), as floats in 0..1 that JSON takes.

    pAcc: share of right pixels; mAcc: mean over classes of TP / (TP + FN); mIoU: mean over classes of TP / (TP + FP + FN);
    fIoU: the same weighed by the classes' share of the labels. Classes that are neither in the labels nor in the
    predictions (for mAcc: not in the labels) are left out of the means; `absent` counts them, class_iou and class_acc hold None.
    """
    m = matrix.double().cpu()
    right, true, found = m.diag(), m.sum(1), m.sum(0)
    acc, iou = right / true, right / (true + found - right)  # nan where absent
    plain = lambda v: [None if x != x else x for x in v.tolist()]
    mean = lambda v: v.nanmean().item() if len(v) else float('nan')
    total = true.sum()
    if not total:
        raise ValueError('no pixel carries a label, so there is nothing to score')
    seen = true > 0
    return dict(
        pAcc=(right.sum() / total).item(),
        mAcc=mean(acc),
        mIoU=mean(iou),
        fIoU=(true[seen] / total * iou[seen]).sum().item(),
        absent=int(iou.isnan().sum()),
        class_iou=plain(iou),
        class_acc=plain(acc),
    )


def table(found, names):
    """The scores as lines of text: a row per class, in percent, then the means; beside them those of `single`, if they are there."""
    percent = lambda v: '     -' if v is None else f'{100 * v:6.2f}'
    width, sides = max(map(len, names)), [found, found['single']] if 'single' in found else [found]
    rows = [f'{"":{width}}       all views    scale 1 alone'] * (len(sides) > 1)
    rows += [f'{"class":{width}}' + '     IoU     acc' * len(sides)]
    for name, *cells in zip(
        names, *(zip(s['class_iou'], s['class_acc']) for s in sides), strict=True
    ):
        rows += [
            f'{name:{width}}  ' + '  '.join(f'{percent(iou)}  {percent(acc)}' for iou, acc in cells)
        ]
    means = lambda s: '  '.join(
        f'{key} {100 * s[key]:.2f}' for key in ('mIoU', 'fIoU', 'pAcc', 'mAcc')
    )
    rows += (
        [means(found)]
        if len(sides) == 1
        else [f'all views:     {means(found)}', f'scale 1 alone: {means(found["single"])}']
    )
    if found['absent']:
        rows += [
            f'{found["absent"]} of {len(names)} classes occur neither in the labels nor in the predictions and are left out of the means'
        ]
    return '\n'.join(rows)
