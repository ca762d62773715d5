"""Time the confusion matrix of a 513x513 map against the common way: int64, void masked out.

python -m benchmarks.metric [--rounds N]
"""

import torch

import metric
from benchmarks import measure, reference
from utils import script


def main(flags):
    world = measure.start()
    pred = torch.randint(21, (513, 513), device=world.device).byte()
    label = torch.randint(21, (513, 513), device=world.device).byte()
    label[:50] = 255
    wide_pred, wide_label = pred.long(), label.long()
    forms = {
        'tuned': lambda: metric.confusion(pred, label, 21),
        'masked': lambda: reference.confusion(wide_pred, wide_label, 21),
    }
    assert forms['tuned']().equal(forms['masked']()), 'the counts differ'
    measure.compare_forms(world, 'confusion', forms, flags.rounds, 20)


if __name__ == '__main__':
    script.run(main, measure.parser(__doc__))
