import csv
import json
import os

import numpy as np
import pytest
import torch

import metric


@pytest.mark.parametrize('n', [2, 21, 150, 171, 179, 180, 254])
def test_confusion_against_numpy(n):
    rng = np.random.RandomState(n)
    label, pred = (rng.randint(0, n, (2, 61, 83)).astype(np.uint8) for _ in range(2))
    label[rng.rand(*label.shape) < 0.2] = 255
    label[0, 0, 0], pred[0, 0, 0] = n - 1, n - 1
    wanted = np.zeros((n, n), np.int64)
    valid = label != 255
    np.add.at(wanted, (label[valid], pred[valid]), 1)
    found = metric.confusion(torch.from_numpy(pred), torch.from_numpy(label), n)
    assert found.dtype == torch.int64 and (found.numpy() == wanted).all()


@pytest.mark.parametrize('kind', [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_confusion_leaves_its_arguments_alone(kind):
    label, pred = torch.tensor([0, 1, 2, 100]).to(kind), torch.tensor([0, 2, 2, 1]).to(kind)
    assert metric.confusion(pred, label, 3).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert label.tolist() == [0, 1, 2, 100] and pred.tolist() == [0, 2, 2, 1]


def test_labels_outside_the_classes_do_not_count():
    label, pred = (
        torch.tensor([0, 3, 23, 254, 255], dtype=torch.uint8),
        torch.zeros(5, dtype=torch.uint8),
    )
    assert metric.confusion(pred, label, 3).sum() == 1


def test_confusion_of_nothing():
    empty = torch.zeros(0, dtype=torch.uint8)
    assert metric.confusion(empty, empty, 3).tolist() == [[0] * 3] * 3


@pytest.mark.parametrize('n', [0, 1, 5000])
def test_counts_on_a_gpu_are_those_of_a_cpu(n):
    values = torch.randint(0, 30, (n,), dtype=torch.int16)
    found = metric.scattered(values, 40)
    assert found.dtype == torch.int64 and (found == metric.tally(values, 40)).all()


def test_scores_by_hand():
    found = metric.scores(torch.tensor([[6, 2, 0], [1, 3, 0], [0, 4, 4]]))
    iou, acc = [6 / 9, 3 / 10, 4 / 8], [6 / 8, 3 / 4, 4 / 8]
    assert found['class_iou'] == pytest.approx(iou) and found['class_acc'] == pytest.approx(acc)
    assert found['pAcc'] == pytest.approx(13 / 20)
    assert found['mIoU'] == pytest.approx(sum(iou) / 3) and found['mAcc'] == pytest.approx(
        sum(acc) / 3
    )
    assert found['fIoU'] == pytest.approx(0.4 * iou[0] + 0.2 * iou[1] + 0.4 * iou[2])
    f1 = [12 / 15, 6 / 13, 8 / 12]
    assert found['class_f1'] == pytest.approx(f1) and found['mF1'] == pytest.approx(sum(f1) / 3)
    assert found['absent'] == 0


def test_absent_classes_are_left_out():
    """Class 1 is in neither map; class 2 is predicted only, so it counts in mIoU and not in mAcc."""
    found = metric.scores(torch.tensor([[3, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 4]]))
    assert found['class_iou'] == [pytest.approx(3 / 4), None, 0, 1] and found['class_acc'] == [
        pytest.approx(3 / 4),
        None,
        None,
        1,
    ]
    assert found['mIoU'] == pytest.approx((3 / 4 + 0 + 1) / 3) and found['mAcc'] == pytest.approx(
        (3 / 4 + 1) / 2
    )
    assert found['fIoU'] == pytest.approx(0.5 * 3 / 4 + 0.5) and found['absent'] == 1


def test_nothing_to_score():
    with pytest.raises(ValueError, match='no pixel carries a label'):
        metric.scores(torch.zeros(3, 3, dtype=torch.int64))


def test_scores_of_large_counts_are_exact():
    """More pixels than float32 can count."""
    assert metric.scores(torch.tensor([[2**40, 1], [0, 1]]))['pAcc'] == (2**40 + 1) / (2**40 + 2)


def test_table_has_a_line_per_class():
    found = metric.scores(torch.tensor([[3, 0, 1], [0, 0, 0], [0, 0, 4]]))
    lines = metric.table(found, ['road', 'sky', 'a tree']).splitlines()
    assert lines[1].split() == ['road', '75.00', '85.71', '75.00']
    assert lines[2].split() == ['sky', '-', '-', '-']
    assert lines[4].startswith('mIoU 77.50') and lines[5].startswith('1 of 3 classes')
    with pytest.raises(ValueError):
        metric.table(found, ['road', 'sky'])


def test_f1_is_dice_and_2_iou_over_1_plus_iou():
    rng = np.random.default_rng(0)
    result = metric.scores(torch.from_numpy(rng.integers(1, 99, (5, 5))))
    wanted = [2 * iou / (1 + iou) for iou in result['class_iou']]
    assert result['class_f1'] == pytest.approx(wanted)


@pytest.mark.parametrize('kind', [torch.uint8, torch.int64])
def test_labels_inside_against_loops(kind):
    """A pixel stays if all labels at most 3 pixels away, in a square and in the picture, are its own."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, (2, 3, 4)).repeat(9, 1).repeat(8, 2)
    label[1, :12, :12] = 255
    wanted = np.full_like(label, 255)
    for i, y, x in np.argwhere(label != 255):
        around = label[i, max(0, y - 3) : y + 4, max(0, x - 3) : x + 4]
        if (around == label[i, y, x]).all():
            wanted[i, y, x] = label[i, y, x]
    result = metric.inside(torch.from_numpy(label).to(kind))
    assert result.dtype == kind and (result.numpy() == wanted).all()
    assert 0 < (wanted != 255).mean() < 0.7


def test_files_of_scores(tmp_path):
    """JSON and CSV; names with commas and line ends stay cells."""
    matrix = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    result = metric.scores(matrix) | {'confusion': matrix, 'inside': matrix // 2}
    path = tmp_path / 'new' / 'scores.json'
    metric.write(str(path), result, ['road, wet', 'a\nb', 'sky'], {'split': 'val'})
    files = ['scores.json', 'scores_classes.csv', 'scores_confusion.csv', 'scores_inside.csv']
    assert sorted(os.listdir(path.parent)) == files
    values = json.loads(path.read_text())
    assert values['split'] == 'val' and values['mF1'] == pytest.approx(result['mF1'])
    assert not {'confusion', 'inside'} & set(values)
    tables = {}
    for kind in ('classes', 'confusion', 'inside'):
        with open(path.with_name(f'scores_{kind}.csv'), newline='') as f:
            tables[kind] = list(csv.reader(f))
    assert tables['classes'][1] == ['road, wet', '66.67', '80.00', '75.00', '8', '7']
    assert tables['classes'][3] == ['sky', '', '', '', '0', '0']
    assert tables['confusion'][0] == ['label \\ prediction', 'road, wet', r'a\nb', 'sky']
    for kind, counts in (('confusion', matrix), ('inside', matrix // 2)):
        assert [list(map(int, row[1:])) for row in tables[kind][1:]] == counts.tolist()
