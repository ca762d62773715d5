"""Time an evaluation of drawn pictures with and without SAVE_DIR, from the files to the scores.

    python -m benchmarks.evaluation                          500x375 JPEGs
    python -m benchmarks.evaluation --synthetic 2048x1024.png TEST_SCALES=0.75,1,1.25 TEST_FLIP=True
    ... --passes 5                                           of all pictures (40, or fewer large
                                                             ones) in one evaluation

The network is that of settings, with random weights. Saving writes the pictures of eval.py, three
for each image; its charts are left out.
"""

import os
import tempfile

import dataset
import eval as evaluation
import metric
import settings
from benchmarks import measure, reference, steps
from benchmarks.loader import picture_size
from datasets.predictions import Saver
from utils import config, distributed, script


def parser():
    parser = measure.parser(__doc__)
    parser.add_argument('--synthetic', type=picture_size, default=(500, 375, 'jpg'))
    parser.add_argument('--passes', type=measure.at_least_one, default=5, metavar='N')
    return parser


def main(flags):
    world = measure.start()
    with tempfile.TemporaryDirectory() as folder:
        reference.draw(folder, *flags.synthetic)
        config.override(['DATASET=camvid', f'DATA_ROOT={folder}', 'N_CLASSES=None'])
        pairs = dataset.Dataset('train', train=False).pairs
        data = dataset.Dataset('train', train=False, pairs=pairs * flags.passes)
        net = distributed.place(steps.build(), world)
        width, height, ending = flags.synthetic
        print(
            f'{settings.HEAD} on {config.trunk_name()}, {flags.passes} x {len(pairs)} pictures of '
            f'{width}x{height} ({ending}), {settings.NUM_WORKERS} loader processes; '
            f'{evaluation.protocol()}'
        )

        def evaluate(saving):
            saver = None
            if saving:
                saver = Saver(os.path.join(folder, 'out'), data, metric.image_iou)
            evaluation.evaluate(net, data, world, on_image=saver, boundaries=True)
            return len(data)

        forms = {'scores': lambda: evaluate(False), 'saving': lambda: evaluate(True)}
        measure.compare_forms(world, 'evaluation', forms, flags.rounds, 1)


if __name__ == '__main__':
    script.run(main, parser())
