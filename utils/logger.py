"""What a run writes to LOG_DIR/NAME, besides its checkpoints in MODEL_DIR/NAME.

log.jsonl, tensorboard events and pictures, the settings (themselves a recipe), source and machine.
"""

import fcntl
import json
import os
import time
import zipfile

import numpy as np
import tensorboardX

import settings
from utils import config, visualize

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCE = ('', 'datasets', 'heads', 'sync_bn', 'utils')  # folders whose Python files are kept
SCORES = ('mIoU', 'fIoU', 'pAcc', 'mAcc')


class Log:
    """tensorboard events and log.jsonl of the run; does nothing in processes but the first."""

    def __init__(self, world, step):
        self.writer = None
        if world.rank > 0:
            return
        folder = os.path.join(settings.LOG_DIR, settings.NAME)
        os.makedirs(folder, exist_ok=True)
        self.file = open_log(folder, step)
        text = config.as_text(config.current())
        print(text)
        with open(os.path.join(folder, 'settings.py'), 'w', encoding='utf-8') as f:
            f.write(text)
        with open(os.path.join(folder, 'machine.json'), 'w') as f:
            json.dump(world.facts(), f)
        keep_source(os.path.join(folder, 'source.zip'))
        purge_step = (
            step + 1 if step else None
        )  # drops what a killed run logged beyond its checkpoint
        self.writer = tensorboardX.SummaryWriter(folder, purge_step=purge_step)
        self.writer.add_text('settings', f'```\n{text}```\n{world.facts()}', step)

    def scalars(self, step, values):
        """Log numbers {name: value}."""
        if not self.writer:
            return
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.file.write(json.dumps({'step': step, **values}) + '\n')
        self.file.flush()

    def image(self, name, pixels, step):
        """Log a picture (h, w, 3) uint8."""
        if self.writer:
            self.writer.add_image(name, pixels, step, dataformats='HWC')

    def predictions(self, step, data):
        """Return an on_image for evaluate() that logs image, truth, prediction and errors."""
        colours = data.classes.colours

        def on_image(index, image, label, pred):
            if not self.writer:
                return
            label, pred = label.numpy(), pred.numpy()
            row = [
                image.permute(1, 2, 0).numpy(),
                visualize.colour(label, colours),
                visualize.colour(pred, colours),
                visualize.errors(label, pred, len(data.names)),
            ]
            name = f'val/{index}_input_truth_prediction_errors'
            self.image(name, np.concatenate(row, 1), step)

        return on_image

    def validation(self, step, scores, names):
        """Log scores, also of every class, and the confusion matrix."""
        values = {f'val/{key}': scores[key] for key in SCORES}
        for name, iou in zip(names, scores['class_iou'], strict=True):
            if iou is not None:
                values[f'val/IoU/{name}'] = iou
        self.scalars(step, values)
        if self.writer:
            chart = visualize.confusion(scores['confusion'].numpy(), names)
            self.image('val/confusion', chart, step)

    def attention(self, step, image, maps):
        """Log where each basis looks: maps (k, h', w') over an image (h, w, 3)."""
        tiles = visualize.heatmaps(image, maps, 160)
        self.image('val/0_attention', visualize.sheet(tiles, 8, 160), step)


def open_log(folder, step):
    """Return log.jsonl of the folder, open and locked, without its lines beyond `step`."""
    path = os.path.join(folder, 'log.jsonl')
    lines = []
    if os.path.isfile(path):
        with open(path) as f:
            for line in f:  # the last one may be half written
                if line.endswith('}\n') and json.loads(line)['step'] <= step:
                    lines.append(line)
    file = open(path, 'a')  # noqa: SIM115, stays open as long as the run
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise config.UserError(
            f'{folder}: another process trains this run; stop it, or choose another NAME'
        ) from None
    if os.path.getsize(path):
        file.truncate(0)
    file.writelines(lines)
    return file


def keep_source(path):
    """Write the project's Python files to a zip archive."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for folder in SOURCE:
            for name in sorted(os.listdir(os.path.join(PROJECT, folder))):
                if name.endswith('.py'):
                    file = os.path.join(folder, name)
                    archive.write(os.path.join(PROJECT, file), file)


# ------------------------------------------------------------------------- what a run prints


def print_facts(world, data, val, net, per_device):
    """Print the facts that people get wrong, before the first step."""
    note = ''
    for part in (data, val):
        if part and part.expected not in (None, len(part)):
            note += f'; its makers have {part.expected} in {part.split}'
    values = config.current()
    origin = 'from scratch' if config.from_scratch(values) else 'from trained weights'
    parameters = sum(p.numel() for p in net.parameters()) / 1e6
    devices = world.size * len(world.devices)
    epochs = settings.ITER_MAX * settings.BATCH_SIZE / len(data)
    world.print(
        f'{settings.DATASET}: {len(data)} images in {settings.TRAIN_SPLIT}, '
        f'{len(val) if val else 0} in {settings.VAL_SPLIT}, {len(data.names)} classes, '
        f'in {data.root}{note}\n'
        f'{settings.HEAD} on ResNet-{settings.N_LAYERS} at stride {settings.STRIDE}: '
        f'{parameters:.2f} M parameters; '
        f'BN_MOM {config.bn_momentum(values):g}, {origin}\n'
        f'batch {settings.BATCH_SIZE} = {per_device} per device x {devices} devices '
        f'({world.device.type}, {world.engine}) x {settings.ACCUMULATE} accumulated; '
        f'{world.facts()["precision"]}; {epochs:.1f} epochs'
    )


def warn_of_statistics(world):
    """Print one line if BN_MOM is too small for fresh running statistics to arrive by ITER_MAX.

    From scratch these are all, with PRETRAINED those of the head, with INIT none.
    """
    values = config.current()
    momentum = config.bn_momentum(values)
    if values['INIT'] or momentum >= 0.1:
        return
    left = (1 - momentum) ** values['ITER_MAX']
    if left > 0.05:
        whose = 'of the head' if values['PRETRAINED'] else 'of all layers'
        world.print(
            f'warning: BN_MOM {momentum:g} is too small for a run this short: after ITER_MAX = '
            f'{values["ITER_MAX"]} steps the running statistics {whose} still hold '
            f'{100 * left:.0f} % of their initial values, so evaluation will be far worse than '
            'training; use BN_MOM=0.1'
        )


def warn_of_collapse(world, curves):
    """Print one line, and return True, if curves of an EM unit say that it does not cluster."""
    entropy, cosine = curves.get('em/entropy', 0), curves.get('em/cosine', 0)
    collapsed = entropy > 0.98 or cosine > 0.95
    if collapsed:
        world.print(
            f'warning: the EM unit does not cluster (em/entropy {entropy:.3f}, em/cosine '
            f'{cosine:.3f}): its bases are alike, and every pixel gets the mean of the picture. '
            'Usual causes: emau.conv1 at another scale than std sqrt(2 / EM_CHANNELS), from INIT '
            'or an edited start; features that are alike, as the run has diverged or hardly begun '
            '(LR, WARMUP)'
        )
    return collapsed


class Speedometer:
    """Images per second since the last reading, and once the time that is left."""

    def __init__(self, world):
        self.world = world
        self.readings = 0
        self.restart()

    def restart(self):
        self.began = time.time()

    def read(self, steps, step):
        """Return images per second of the last `steps` steps."""
        speed = steps * settings.BATCH_SIZE / (time.time() - self.began)
        self.readings += 1
        if self.readings == 2:  # the first interval has the start-up in it
            minutes = (settings.ITER_MAX - step) * settings.BATCH_SIZE / speed / 60
            self.world.print(f'{speed:.1f} images/s: about {minutes:.0f} minutes to go')
        return speed
