"""What a run writes to LOG_DIR/NAME, besides its checkpoints in MODEL_DIR/NAME.

log.jsonl, tensorboard events and pictures, the settings (themselves a recipe), source and machine.
"""

import contextlib
import fcntl
import io
import json
import os
import shlex
import time
import zipfile

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

import settings
from utils import config, runs, visualize
from utils.pace import Pace
from utils.run_folder import PROJECT, remove_leftovers

SOURCE = ('', 'datasets', 'heads', 'sync_bn', 'utils')  # folders whose Python files are kept
SCORES = ('mIoU', 'fIoU', 'pAcc', 'mAcc')


class Events:
    """Writes tensorboard events in the thread that logs them.

    tensorboardX's own SummaryWriter has a thread for this, whose death on a full disk nobody sees.
    purge_step  tensorboard forgets earlier events from this step on
    """

    def __init__(self, folder, purge_step=None):
        self.file = EventsWriter(os.path.join(folder, 'events'))
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self.write(purge_step, file_version='brain.Event:2')
            self.write(purge_step, session_log=start)

    def write(self, step, **what):
        self.file.write_event(event_pb2.Event(wall_time=time.time(), step=step, **what))

    def scalar(self, name, value, step):
        self.write(step, summary=summary.scalar(name, value))

    def image(self, name, pixels, step):
        """Write a picture (h, w, 3) uint8."""
        self.write(step, summary=summary.image(name, pixels, dataformats='HWC'))

    def text(self, name, words, step):
        self.write(step, summary=summary.text(name, words))

    def flush(self):
        self.file.flush()


class Log:
    """tensorboard events and log.jsonl of the run; does nothing in processes but the first.

    step    done before: what was logged after it is dropped
    scored  False: the scores of that step, too
    A file that cannot be written ends the run with a UserError that names the folder.
    """

    def __init__(self, world, step, scored=True):
        self.events = None
        self.world = world
        if world.rank > 0:
            return
        self.folder = os.path.join(settings.LOG_DIR, settings.NAME)
        os.makedirs(self.folder, exist_ok=True)
        self.file = open_log(self.folder, step, scored)
        for folder in (self.folder, os.path.join(settings.MODEL_DIR, settings.NAME)):
            remove_leftovers(folder)
        text = config.as_text(config.current())
        self.keep('settings.py', text.encode())
        self.keep('machine.json', json.dumps(world.facts()).encode())
        self.keep('source.zip', zipped_source())
        with self.writing('the events'):
            self.events = Events(self.folder, purge_step=step + 1 if step else None)
            self.events.text('settings', f'```\n{text}```\n{world.facts()}', step)
            self.events.flush()
        world.print(changed_settings(self.folder))

    @contextlib.contextmanager
    def writing(self, name):
        """Say so where something that is written to the folder fails."""
        try:
            yield
        except OSError as e:
            raise config.UserError(
                f'{self.folder}: {name} of the run could not be written ({e.strerror}); '
                'make room, and the same command goes on from latest.pth'
            ) from None

    def keep(self, name, content):
        with self.writing(name), open(os.path.join(self.folder, name), 'wb') as f:
            f.write(content)

    def scalars(self, step, values):
        """Log numbers {name: value}."""
        if not self.events:
            return
        with self.writing('the events'):
            for name, value in values.items():
                self.events.scalar(name, value, step)
            self.events.flush()
        with self.writing('log.jsonl'):
            self.file.write(json.dumps({'step': step, **values}).encode() + b'\n')
            self.file.flush()

    def image(self, name, pixels, step):
        """Log a picture (h, w, 3) uint8."""
        if self.events:
            with self.writing('the events'):
                self.events.image(name, pixels, step)

    def predictions(self, step, data):
        """Return an on_image for evaluate() that logs image, truth, prediction and errors."""
        colours = data.classes.colours

        def on_image(index, image, label, pred):
            if not self.events:
                return
            label, pred = label.numpy(), pred.numpy()
            row = [
                visualize.visible(image.permute(1, 2, 0).numpy()),
                visualize.colour(label, colours),
                visualize.colour(pred, colours),
                visualize.errors(label, pred, len(data.names)),
            ]
            name = f'val/{index}_input_truth_prediction_errors'
            self.image(name, np.concatenate(row, 1), step)

        return on_image

    def validation(self, step, scores, names):
        """Log scores, also of every class, and the confusion matrix."""
        if not self.events:
            return
        try:
            chart = visualize.confusion(scores['confusion'].numpy(), names)
        except Exception as e:  # matplotlib raises many kinds; training goes on
            self.world.print(f'warning: the confusion matrix could not be drawn ({e})')
        else:
            self.image('val/confusion', chart, step)
        values = {f'val/{key}': scores[key] for key in SCORES}
        for name, iou in zip(names, scores['class_iou'], strict=True):
            if iou is not None:
                values[f'val/IoU/{name}'] = iou
        self.scalars(step, values)

    def attention(self, step, image, maps):
        """Log where each basis looks: maps (k, h', w') over an image (h, w, n)."""
        tiles = visualize.heatmaps(visualize.visible(image), maps, 160)
        self.image('val/0_attention', visualize.sheet(tiles, 8, 160), step)


def open_log(folder, step, scored):
    """Return log.jsonl of the folder, open for bytes and locked, without the lines after `step`.

    It is cut in place: lines that stay are never at risk.
    """
    path = os.path.join(folder, 'log.jsonl')
    file = open(path, 'a+b')  # noqa: SIM115, stays open as long as the run
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise config.UserError(
            f'{folder}: another process trains this run; stop it, or choose another NAME'
        ) from None
    except OSError:
        pass  # a file system without locks
    if not os.path.isfile(path):  # a device
        return file
    file.seek(0)
    end = position = 0
    first_save = min(settings.ITER_SAVE, settings.ITER_VAL or settings.ITER_SAVE)
    for line in file:
        position += len(line)
        if stays(line, step, scored):
            end = position
        elif step == 0 and step_of(line) > first_save:
            raise config.UserError(
                f'{path} is of an earlier run, whose latest.pth is not in MODEL_DIR; '
                f'choose another NAME, or move {folder} away'
            )
    file.truncate(end)
    return file


def step_of(line):
    """Return the step of a line of log.jsonl, or -1 if it is damaged or half written."""
    try:
        step = json.loads(line)['step']
    except (ValueError, TypeError, KeyError, RecursionError):
        return -1
    return step if type(step) is int and line.endswith(b'\n') else -1


def stays(line, step, scored):
    """Tell whether a line of log.jsonl belongs to the steps up to `step`.

    A damaged one does not, and stays in the file if a line that belongs to them follows.
    """
    at = step_of(line)
    if at != step:
        return 0 <= at < step
    return scored or not any(key.startswith('val/') for key in json.loads(line))


def zipped_source():
    """Return the project's Python files as the bytes of a zip archive."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, 'w', zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for folder in SOURCE:
            for name in sorted(os.listdir(os.path.join(PROJECT, folder))):
                if name.endswith('.py'):
                    file = os.path.join(folder, name)
                    archive.write(os.path.join(PROJECT, file), file)
    return memory.getvalue()


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
        f'{settings.HEAD} on {config.trunk_name()} at stride {settings.STRIDE}: '
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


def changed_settings(folder):
    """Return the settings that are not as in settings.py as lines, and where the others are."""
    with open(settings.__file__, 'rb') as f:
        written = runs.literals(f)
    changed = {}
    for name, value in config.current().items():
        if name not in written or written[name] != value:
            changed[name] = value
    return (
        config.as_text(changed) + f'all else as in settings.py; all of it in {folder}/settings.py'
    )


def duration(seconds):
    """Return about how long something takes, in words."""
    for unit, length in (('day', 86400), ('hour', 3600), ('minute', 60)):
        if seconds >= 1.5 * length:
            return f'about {round(seconds / length)} {unit}s'
    if seconds >= 55:
        return 'about 1 minute'
    if seconds < 10:
        return 'a few seconds'
    return f'about {10 * round(seconds / 10)} seconds'


class Speedometer:
    """Images per second since the last reading, and once the time that is left."""

    def __init__(self, world, data):
        self.world = world
        self.data = data
        self.readings = 0
        self.pace = Pace()

    def read(self, steps, step):
        """Return images per second of the last `steps` steps."""
        speed = steps * settings.BATCH_SIZE / self.pace.seconds
        self.readings += 1
        if self.readings == 2:  # the first interval has the start-up in it
            left = (settings.ITER_MAX - step) * settings.BATCH_SIZE / speed
            self.world.print(f'{speed:.1f} images/s: {duration(left)} to go')
            warn_of_reading(self.world, self.data, self.pace, steps)
        return speed


def warn_of_reading(world, data, pace, steps):
    """Print one line if the last `steps` steps waited for images, and not for the device.

    waited['device'] is the time in which the device did what it still had to do of these steps.
    """
    share = pace.waited['reading'] / pace.seconds
    device_is_late = pace.waited['device'] > pace.seconds / steps
    if share < 0.25 or device_is_late:
        return
    words = f'training waits for images {100 * share:.0f} % of the time: raise NUM_WORKERS'
    if not data.cached:
        image, _ = data.decode(0)
        size = len(data) * (image.size + image.shape[0] * image.shape[1]) / 1e9
        words += (
            f', or store decoded pixels, about {max(size, 0.1):.1f} GB: '
            f'python prepare.py {settings.DATASET} --cache'
        )
        if settings.DATA_ROOT != './data':
            words += ' --root ' + shlex.quote(settings.DATA_ROOT)
    world.print(words)
