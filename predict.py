"""Predicts pictures and videos of your own.

    python predict.py photo.jpg recipes/voc_ema101.py CHECKPOINT=net.pth    an overlay with legend, and class indices as palette PNG
    python predict.py folder '*.jpg' street.mp4 SAVE_DIR=out                folders with what is in them, patterns, videos
    python predict.py photo.jpg --bases              the maps of the EM unit's bases over the picture, most used first
    python predict.py photo.jpg --compare A.pth B.pth    two checkpoints of the network that settings describe, side by side
    python predict.py photo.jpg --probabilities      and float16 arrays (classes, h, w) as .npy
What is written lies in SAVE_DIR, or LOG_DIR/NAME/predictions, under the names and folders of the input. TEST_SCALES and the like count, as in eval.py.
"""

import glob
import os
import sys

import cv2
import numpy as np
import torch

import dataset
import inference
import launch
import network
import pictures
import reading
import settings
from checkpoint import to_evaluate
from eval import load
from settings import UsageError, UserError

IMAGES = (
    '.jpg',
    '.jpeg',
    '.png',
    '.bmp',
    '.tif',
    '.tiff',
    '.webp',
    '.ppm',
    '.pgm',
    '.gif',
    '.jp2',
    '.avif',
    '.heic',
)
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')


def inputs(words, folder=''):
    """[(path, name of its output without ending)] of files, folders and patterns; UserError for a word that finds nothing. What is hidden, or lies in the
    folder of the output, does not count."""
    found = []
    for word in words:
        if os.path.isdir(word):
            files = []
            for d, below, some in os.walk(word):
                below[:] = [
                    f
                    for f in below
                    if f[0] != '.' and os.path.abspath(os.path.join(d, f)) != folder
                ]
                files += [
                    os.path.join(d, f)
                    for f in some
                    if f[0] != '.' and f.lower().endswith(IMAGES + VIDEOS)
                ]
            here = [(path, os.path.relpath(path, word)) for path in sorted(files)]
        else:
            files = (
                [word]
                if os.path.isfile(word)
                else sorted(p for p in glob.glob(word, recursive=True) if os.path.isfile(p))
            )
            here = [(path, os.path.basename(path)) for path in files]
        if not here:
            raise UserError(
                f'{word}: there is '
                + (
                    'no picture in this folder'
                    if os.path.isdir(word)
                    else 'no such file, and nothing that fits this as a pattern'
                )
            )
        found += here
    found = list(
        {os.path.abspath(path): (path, name) for path, name in found}.values()
    )  # a file named twice counts once
    bare = [os.path.splitext(name)[0] for _, name in found]
    if len({*bare}) < len(bare):
        bare = [name for _, name in found]
    if len({*bare}) < len(bare):
        bare = pictures.stems([path for path, _ in found])
    return [(path, name) for (path, _), name in zip(found, bare)]


class Reader:
    """task(index) -> image (h, w, 3) uint8 RGB, upright, or the sentence that says why there is none."""

    def __init__(self, files):
        self.files = files

    def __call__(self, index):
        try:
            return reading.read_image(self.files[index][0], upright=True)
        except (UserError, OSError) as e:
            return launch.sentence(e)


class Predictor:
    """Networks, as a Protocol tests them, and the folder for what comes of it."""

    def __init__(self, place, nets, folder, flags):
        self.place, self.nets, self.folder, self.flags = place, nets, folder, flags
        self.how, self.classes = inference.protocol(), dataset.classes()

    @torch.no_grad()
    def scores(self, net, images):
        """Scores (b, n, h, w) of images (b, h, w, 3) uint8."""
        images = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.place.device)
        with self.place.autocast():
            return inference.scores(net, images, self.how)

    def path(self, kind, name, ending='.png'):
        return os.path.join(self.folder, kind, name + ending)

    def picture(self, image, name):
        """Writes all that is asked for of an image (h, w, 3); UserError if it is the sentence of a Reader."""
        if isinstance(image, str):
            raise UserError(image)
        colours, names = self.classes.colours, self.classes.names
        found = [self.scores(net, image[None])[0] for net in self.nets]
        ids = [f.max(0)[1].byte().cpu().numpy() for f in found]
        shown = [pictures.overlay(image, pictures.colour(i, colours)) for i in ids]
        if len(ids) == 2:
            differ = np.where((ids[0] != ids[1])[..., None], shown[1], image // 4 + 160)
            share = 100 * (ids[0] != ids[1]).mean()
            tiles = [
                ('image', image),
                (self.flags['--compare'][0], shown[0]),
                (self.flags['--compare'][1], shown[1]),
                (f'differ: {share:.1f} %', differ),
            ]
            width = min(max(image.shape[1], 320), 1000)
            pictures.save(
                self.path('compare', name),
                pictures.stack(
                    [
                        pictures.sheet(tiles, 2, width),
                        pictures.legend(np.stack(ids), names, colours, 2 * width),
                    ]
                ),
            )
            return
        pictures.save(self.path('index', name), ids[0], colours)
        pictures.save(
            self.path('overlay', name),
            pictures.stack(
                [shown[0], pictures.legend(ids[0], names, colours, max(image.shape[1], 320))]
            ),
        )
        if '--probabilities' in self.flags:
            path = self.path('probabilities', name, '.npy')
            with pictures.whole(path) as f:
                np.save(f, found[0].softmax(0).half().cpu().numpy())
        if '--bases' in self.flags:
            with torch.no_grad(), self.place.autocast():
                z = self.nets[0].attention(
                    torch.from_numpy(image).permute(2, 0, 1)[None].to(self.place.device)
                )[0]
            width = 240
            tiles = [
                ('image', image),
                ('prediction', shown[0]),
                *pictures.heat(image, z.float().cpu().numpy(), width),
            ]
            pictures.save(self.path('bases', name), pictures.sheet(tiles, 8, width))

    def video(self, path, name):
        """Writes OUT/overlay/NAME.mp4, a frame for each of the video's."""
        source = cv2.VideoCapture(path)
        rate, size = (
            source.get(cv2.CAP_PROP_FPS),
            tuple(
                int(source.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
            ),
        )
        ok, frame = source.read()
        if not ok:
            raise UserError(
                f'{path}: this video cannot be decoded; pictures of its frames can be predicted: ffmpeg -i VIDEO frames/%06d.png'
            )
        out = self.path('overlay', name, '.mp4')
        os.makedirs(os.path.dirname(out), exist_ok=True)
        work = out[:-4] + '.part.mp4'
        sink = cv2.VideoWriter(work, cv2.VideoWriter_fourcc(*'mp4v'), rate or 25, size)
        if not sink.isOpened():
            raise UserError(
                f'{out}: this OpenCV cannot write MP4 video, or not there; predict pictures of the frames instead'
            )
        batch, done, due = (
            max(1, self.how.budget // (size[0] * size[1])),
            0,
            max(0, int(source.get(cv2.CAP_PROP_FRAME_COUNT))),
        )
        try:
            with self.place.bar(total=due or None, desc=name, unit='frame') as bar:
                while ok:
                    frames = []
                    while ok and len(frames) < batch:
                        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
                        ok, frame = source.read()
                    ids = self.scores(self.nets[0], np.stack(frames)).max(1)[1].byte().cpu().numpy()
                    for image, one in zip(frames, ids):
                        sink.write(
                            np.ascontiguousarray(
                                pictures.overlay(image, pictures.colour(one, self.classes.colours))[
                                    ..., ::-1
                                ]
                            )
                        )
                    done += len(frames)
                    bar.update(len(frames))
            sink.release()
            os.replace(work, out)
            if done < due - 2:
                raise UserError(f'{path}: {done} of {due} frames could be decoded; {out} has those')
        finally:
            sink.release()
            if os.path.exists(work):
                os.unlink(work)


def main(words, flags):
    if not words:
        raise UsageError(
            "name pictures, videos, folders or patterns: python predict.py photo.jpg 'more/*.png'"
        )
    if '--compare' in flags and len(flags) > 1:
        raise UsageError(
            '--compare goes alone: it shows two checkpoints side by side, and nothing else'
        )
    if '--bases' in flags and settings.HEAD != 'ema':
        raise UsageError(
            f'--bases shows the bases of the EM unit, which HEAD={settings.HEAD} has not; HEAD=ema has'
        )
    folder = settings.SAVE_DIR or os.path.join(settings.LOG_DIR, settings.NAME, 'predictions')
    files, place = inputs(words, os.path.abspath(folder)), launch.start()
    films = [f for f in files if f[0].lower().endswith(VIDEOS)]
    stills = [f for f in files if f not in films]
    if films and flags:
        raise UsageError(
            f'{films[0][0]}: of videos there are overlays alone; {", ".join(flags)} goes with pictures'
        )
    nets = [
        network.fold(load(place, path)[0]) for path in flags.get('--compare') or [to_evaluate()]
    ]
    work, failed = Predictor(place, nets, folder, flags), 0
    place.say(
        f'{len(stills)} pictures, {len(films)} videos; {place.world} x {place.device}, {place.amp() or "float32"}; {work.how}'
    )

    def attempt(task, path, *args):
        """1 if the file cannot be used, which is told; the others go on."""
        try:
            task(*args)
            return 0
        except Exception as e:
            words = launch.sentence(e)
            if words is None or isinstance(e, OSError):  # the folder's fault
                raise
            print(
                f'predict.py: {words}'
                if words.startswith(path)
                else f'predict.py: {path}: {words}',
                file=sys.stderr,
                flush=True,
            )
            return 1

    mine = range(place.rank, len(stills), place.world)
    for image, index in zip(dataset.spread(Reader(stills), mine, 'predicting', place), mine):
        failed += attempt(work.picture, stills[index][0], image, stills[index][1])
    for path, name in films[place.rank :: place.world]:
        failed += attempt(work.video, path, path, name)
    failed = sum(place.gather(failed))
    kinds = (
        'compare'
        if '--compare' in flags
        else ' '.join(['overlay', *['index'] * bool(stills), *(f[2:] for f in flags)])
    )
    place.say(f'{len(files) - failed} of {len(files)} written to {folder}: {kinds}')
    return 1 if failed else 0


if __name__ == '__main__':
    launch.run(main, {'--bases': '', '--probabilities': '', '--compare': 'A.pth B.pth'}, words=True)
