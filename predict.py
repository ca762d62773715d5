"""Predict pictures and videos of your own.

    python predict.py photo.jpg CHECKPOINT=net.pth             an overlay with legend, class indices
    python predict.py folder '*.jpg' street.mp4 SAVE_DIR=out   folders, patterns, videos
    python predict.py photo.jpg --bases                        where the EM unit's bases look
    python predict.py photo.jpg --probabilities                float16 (classes, h, w) as .npy
    python predict.py photo.jpg --compare A.pth B.pth          two checkpoints next to each other

All of it is written to SAVE_DIR, or LOG_DIR/NAME/predictions, under the names and folders of the
inputs. TEST_SCALES and the other settings of evaluation count; pictures too large for the memory
that is free are predicted in windows of the training crop.
"""

import itertools
import os
import signal

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a word

import cv2
import numpy as np
import torch

import checkpoint
import dataset
import network
import settings
from datasets import pictures
from datasets.channels import is_array
from datasets.files import read_image
from datasets.inputs import VIDEOS, list_inputs
from datasets.predictions import data_files
from eval import load, protocol, scores
from utils import config, distributed, memory, quiet, script, visualize
from utils.config import UsageError, UserError
from utils.files import atomic_path, atomic_write, check_writable, protect
from utils.printable import printable
from utils.video import open_video, read_frames

MAX_RATE = 1000  # frames per second that are believed of a video
BASES_WIDTH = 240  # pixels of a tile of --bases


# -------------------------------------------------------------------------------------- inputs


class Reader:
    """task(index) -> image (h, w, n) uint8, upright, and how many pictures its file holds.

    The image is a sentence if it cannot be read, which says why.
    """

    def __init__(self, files):
        self.files = files
        self.channels = len(settings.MEAN)

    def __call__(self, index):
        path, _ = self.files[index]
        try:
            image = read_image(path, upright=True, channels=self.channels)
            is_plain = self.channels == 3 and not is_array(path)
            return image, pictures.count(path) if is_plain else 1
        except (UserError, OSError) as e:
            return script.sentence(e), 0


# ------------------------------------------------------------------------------------- outputs


class Predictor:
    """One network, or two to compare, and the folder for what they predict.

    nets     [(network, Protocol, (height, width) of the windows of large pictures)]
    flags    .compare, .probabilities and .bases
    classes  Classes of what they predict; None = those of the data set in force
    """

    def __init__(self, world, nets, folder, flags, classes=None):
        self.world = world
        self.nets = nets
        self.folder = folder
        self.flags = flags
        self.classes = classes or dataset.classes()
        self.largest = nets[0][1].budget if nets else 0  # pixels of a picture so far
        self.fits = {}  # (number of the network, shape of images): whether they fit in memory
        self.kinds = ['compare']  # of pictures that are written, and the names of their folders
        if not flags.compare:
            self.kinds = ['overlay', 'index']
            self.kinds += [kind for kind in ('probabilities', 'bases') if getattr(flags, kind)]

    def path(self, kind, name, ending='.png'):
        return os.path.join(self.folder, kind, name + ending)

    def prepare(self, stills, videos):
        """Make the folder; UsageError if what is to be written would replace the user's own files.

        stills, videos  [(path, name of its output)]
        """
        targets = [self.path('overlay', name, '.mp4') for _, name in videos]
        for kind in self.kinds:
            ending = '.npy' if kind == 'probabilities' else '.png'
            targets += [self.path(kind, name, ending) for _, name in stills]
        inputs, folders = data_files()
        inputs += [path for path, _ in stills + videos]
        inputs += self.flags.compare or [checkpoint.to_evaluate()]
        protect(targets, inputs, folders)
        check_writable(self.folder)

    @torch.no_grad()
    def scores(self, images, number=0):
        """Return scores (b, n, h, w) of images (b, h, w, c) uint8 by one of the networks."""
        net, p, windows = self.nets[number]
        if not self.fit(number, images.shape[:3]):
            p = p._replace(crop=windows)
        images = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.world.device)
        return scores(net, images, p)

    def fit(self, number, shape):
        """Tell whether images (b, h, w) fit in memory as a whole; the first time say if not.

        Those that TEST_BATCH allows are taken to fit, as are windows that settings ask for.
        UserError if not even windows fit.
        """
        _, p, windows = self.nets[number]
        b, h, w = shape
        if p.crop or b * h * w <= p.budget:
            return True
        key = number, shape
        if key not in self.fits:
            free = memory.free(self.world.device)
            needed = self.needed(number, shape, p)
            self.fits[key] = free is None or needed <= free
            if not self.fits[key]:
                words = f'{w}x{h} pixels need about {needed / 1e9:.1f} GB of memory, and '
                words += f'{free / 1e9:.1f} GB are free'
                needed = self.needed(number, shape, p._replace(crop=windows))
                if needed > free:
                    raise UserError(
                        f'{words}; windows would need {needed / 1e9:.1f} GB; cut the picture up, '
                        'or make it smaller'
                    )
                size = f'{windows[1]}x{windows[0]}'
                self.world.print(f'{words}: predicted in windows of the training crop, {size}')
        return self.fits[key]

    def needed(self, number, shape, p):
        """Return about how many bytes scores() of images (b, h, w) takes with a Protocol `p`."""
        net, (b, h, w) = self.nets[number][0], shape
        return memory.needed(
            lambda x: scores(net, x, p), (b, len(net.mean), h, w), self.world.device
        )

    def overlay(self, image, ids):
        return visualize.overlay(image, visualize.colour(ids, self.classes.colours))

    def legend(self, ids, width):
        return visualize.legend(ids, self.classes.names, self.classes.colours, width)

    def picture(self, image, name):
        """Write what is asked for of an image (h, w, n); UserError if it is a Reader's sentence."""
        if isinstance(image, str):
            raise UserError(image)
        h, w = image.shape[:2]
        if h * w > self.largest and not self.world.cuda:  # a sign of life
            self.largest = h * w
            self.world.print(f'{printable(name)}: predicting {w}x{h} pixels')
        if self.flags.compare:
            return self.compare(image, name)
        result = self.scores(image[None])[0]
        ids = labels(result[None])[0]
        overlay = self.overlay(visualize.visible(image), ids)
        with_legend = visualize.stack([overlay, self.legend(ids, max(image.shape[1], 320))])
        visualize.save(self.path('index', name), ids, self.classes.colours)
        visualize.save(self.path('overlay', name), with_legend)
        if self.flags.probabilities:
            with atomic_write(self.path('probabilities', name, '.npy')) as f:
                np.save(f, result.softmax(0).half().cpu().numpy())
        if self.flags.bases:
            self.bases(image, overlay, name)

    @torch.no_grad()
    def bases(self, image, overlay, name):
        """Write a sheet with the map of every basis, most used first."""
        net = self.nets[0][0]
        if not self.fit(0, (1, *image.shape[:2])):
            raise UserError(
                '--bases needs the whole picture at once, and memory is too small for that; '
                'make it smaller'
            )
        on_device = torch.from_numpy(image).permute(2, 0, 1)[None].to(self.world.device)
        z = net.attention(on_device)[0].float().cpu().numpy()
        image = visualize.visible(image)
        tiles = [('image', image), ('prediction', overlay)]
        tiles += visualize.heatmaps(image, z, BASES_WIDTH)
        visualize.save(self.path('bases', name), visualize.sheet(tiles, 8, BASES_WIDTH))

    def compare(self, image, name):
        """Write an image, both predictions, and the second one where they differ."""
        first, second = (labels(self.scores(image[None], i))[0] for i in (0, 1))
        differ, image = first != second, visualize.visible(image)
        overlays = self.overlay(image, first), self.overlay(image, second)
        tiles = [
            ('image', image),
            (self.flags.compare[0], overlays[0]),
            (self.flags.compare[1], overlays[1]),
            (
                f'differ: {100 * differ.mean():.1f} %',
                np.where(differ[..., None], overlays[1], image // 4 + 160),
            ),
        ]
        width = min(max(image.shape[1], 320), 1000)
        legend = self.legend(np.stack([first, second]), 2 * width)
        sheet = visualize.sheet(tiles, 2, width)
        visualize.save(self.path('compare', name), visualize.stack([sheet, legend]))

    def video(self, path, name):
        """Write OUT/overlay/NAME.mp4, one frame for each of the video's."""
        with quiet.decoding():
            video = cv2.VideoCapture(path)
        try:
            self.film(path, video, name)
        finally:
            video.release()

    def film(self, path, video, name):
        """Write OUT/overlay/NAME.mp4 of an open video."""
        size = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
        pixels = size[0] * size[1]
        if pixels > settings.MAX_PIXELS:
            raise UserError(
                f'{path}: frames of {size[0]}x{size[1]} are more than MAX_PIXELS = '
                f'{settings.MAX_PIXELS} pixels; raise it, or make the video smaller'
            )
        expected = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
        batch = self.nets[0][1].budget // max(1, pixels)
        batches = read_frames(video, max(1, batch))
        first = next(batches, None)
        if first is None:
            raise UserError(
                f'{path}: this video cannot be decoded; predict pictures of its frames: '
                'ffmpeg -i VIDEO frames/%06d.png'
            )
        rate = video.get(cv2.CAP_PROP_FPS)
        out, done = self.path('overlay', name, '.mp4'), 0
        with (
            atomic_path(out, '.part.mp4') as part,
            open_video(part, rate if 0 < rate <= MAX_RATE else 25, size) as sink,
            self.world.bar(total=expected or None, desc=printable(name), unit='frame') as bar,
        ):
            for frames in itertools.chain([first], batches):
                ids = labels(self.scores(np.stack(frames)))
                for image, one in zip(frames, ids, strict=True):
                    overlay = self.overlay(image, one)
                    sink.write(cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))
                done += len(frames)
                bar.update(len(frames))
        if done < expected - 2:
            raise UserError(
                f'{path}: {done} of {expected} frames could be decoded, which {out} holds; '
                'convert the video for the rest'
            )


def labels(scores):
    """Return train ids (b, h, w) uint8, on the CPU, of scores (b, n, h, w)."""
    return scores.max(1)[1].byte().cpu().numpy()


# ---------------------------------------------------------------------------------- the script


def load_networks(world, flags):
    """Return nets and classes of Predictor: of CHECKPOINT, or both of --compare, as files say."""
    given = config.current()
    nets, tables, names, channels = [], [], [], set()
    for path in flags.compare or [checkpoint.to_evaluate()]:
        config.put(given)
        net, loaded = load(world, path, flags.explicit)
        nets.append((network.fold(net), protocol(), config.sides(settings.CROP_SIZE)))
        tables.append(loaded.classes)
        names.append(tables[-1].names if tables[-1] else dataset.class_names())
        channels.add(len(settings.MEAN))
    if len(channels) > 1:
        raise UsageError(
            f'{" and ".join(flags.compare)} read images with different numbers of channels; '
            'compare checkpoints of one data set'
        )
    if names[0] != names[-1]:
        first, second = names
        pairs = list(itertools.zip_longest(first, second, fillvalue='missing'))
        index = next(i for i, (one, other) in enumerate(pairs) if one != other)
        one, other = map(printable, pairs[index])
        raise UsageError(
            f'{flags.compare[0]} predicts {len(first)} classes, {flags.compare[1]} {len(second)} '
            f'(class {index}: {one}, {other}); '
            'compare checkpoints of one data set'
        )
    return nets, tables[0]


def attempt(task, path, *args):
    """Return 0 if task(*args) succeeds, else print why this file cannot be used and return 1."""
    try:
        task(*args)
        return 0
    except Exception as e:
        words = script.sentence(e)
        if words is None or isinstance(e, OSError):  # no fault of the file
            raise
        if not words.startswith(path):
            words = f'{path}: {words}'
        script.complain(words)
        return 1


def tell_of_others(path, count):
    """Say that of `count` pictures in a file one is predicted."""
    if count > 1:
        script.complain(
            f'{path}: the first of its {count} pictures is predicted; save the others as files of '
            'their own, or all as a video'
        )


def inputs_for(n, flags, folder, files, videos):
    """Return the inputs of a network for images of n channels: without the arrays of folders for 3.

    UsageError for videos if n is another number.
    """
    if n == 3:
        return list_inputs(flags.inputs, folder)
    if videos:
        raise UsageError(
            f'{videos[0][0]}: frames of videos have 3 channels, the network reads {n}; '
            'name pictures or arrays'
        )
    return files


def check_bases(net, world):
    """Raise UsageError if a network has no bases to show."""
    blank = torch.zeros(1, len(net.mean), 64, 64, dtype=torch.uint8, device=world.device)
    with torch.no_grad():
        z = net.attention(blank)
    if z is None:
        raise UsageError(
            f'--bases shows the bases of an EM unit, and HEAD={settings.HEAD} has none; '
            'use it with HEAD=ema'
        )


def main(flags):
    asked = [name for name in ('probabilities', 'bases', 'compare') if getattr(flags, name)]
    if not flags.inputs:
        raise UsageError(
            "name pictures, videos, folders or patterns: python predict.py photo.jpg 'more/*.png'"
        )
    if flags.compare and len(asked) > 1:
        raise UsageError(
            '--compare goes alone: it shows two checkpoints next to each other and nothing else'
        )
    folder = settings.SAVE_DIR or os.path.join(settings.LOG_DIR, settings.NAME, 'predictions')
    files = list_inputs(flags.inputs, folder, arrays=True)
    videos = [file for file in files if file[0].lower().endswith(VIDEOS)]
    if videos and asked:
        raise UsageError(
            f'{videos[0][0]}: of videos there are overlays alone; --{asked[0]} goes with pictures'
        )

    world = distributed.start()
    nets, classes = load_networks(world, flags)
    files = inputs_for(len(settings.MEAN), flags, folder, files, videos)
    stills = [file for file in files if file not in videos]
    if flags.bases:
        check_bases(nets[0][0], world)
    predictor = Predictor(world, nets, folder, flags, classes)
    predictor.prepare(stills, videos)
    precision = world.half_type() or 'float32'
    world.print(
        f'{len(stills)} pictures, {len(videos)} videos; '
        f'{world.size} x {world.device}, {precision}; {nets[0][1]}'
    )
    failed = 0
    mine = world.share(len(stills))
    task = Reader(stills)
    with world.autocast():  # around all of them: each would convert the weights anew
        for (image, count), index in zip(
            dataset.parallel_map(task, mine, 'predicting', world), mine, strict=True
        ):
            path, name = stills[index]
            tell_of_others(path, count)
            failed += attempt(predictor.picture, path, image, name)
        for index in world.share(len(videos)):
            path, name = videos[index]
            failed += attempt(predictor.video, path, path, name)

    failed = sum(world.gather(failed))
    kinds = predictor.kinds if stills else ['overlay']
    world.print(f'{len(files) - failed} of {len(files)} written to {folder}: {" ".join(kinds)}')
    return 1 if failed else 0


if __name__ == '__main__':
    parser = script.Parser(__doc__, inputs='picture | video | folder | pattern')
    parser.add_argument('--bases', action='store_true', help='maps of the bases, most used first')
    parser.add_argument('--probabilities', action='store_true', help='float16 arrays, as .npy')
    parser.add_argument(
        '--compare',
        nargs=2,
        metavar=('A.pth', 'B.pth'),
        type=os.path.expanduser,
        help='two checkpoints side by side',
    )
    script.run(main, parser)
