"""Draws `shapes`, the data set that needs no download: 1,000 training and 200 validation scenes of 112x112 pixels, eight classes.

A scene has a meadow or water, divided by a wandering shore, with textured things on it that occlude one another and cast shadows.
Two pairs of classes look alike to the pixel and are told apart by the rest of the scene:
    hut / boat     the same drawing, named after the ground around it
    ripe / unripe  the same fruit; it is ripe if there is a sun anywhere in the scene
Only integers and exactly rounded float64 operations are used, so that every machine draws the same pixels.
"""

import os
import shutil
import tempfile

import cv2
import numpy as np

SIZE = 112
COUNTS = dict(train=1000, val=200)
MEADOW, WATER, TREE, HUT, BOAT, RIPE, UNRIPE, SUN = range(8)


def noise(rng, cell, low, high):
    """(SIZE, SIZE) float64: random values on a grid of `cell` pixels, linear in between."""
    n = SIZE // cell + 2
    grid = rng.randint(low, high + 1, (n, n)).astype(np.float64)
    at = np.arange(SIZE) / cell
    i, f = at.astype(int), at - at.astype(int)
    grid = grid[i] * (1 - f)[:, None] + grid[i + 1] * f[:, None]
    return grid[:, i] * (1 - f) + grid[:, i + 1] * f


def stripes(rng, period, strength):
    """(SIZE, SIZE) float64: slanting triangle waves of a random direction."""
    a, b = rng.randint(-4, 5), rng.randint(-4, 5)
    y, x = np.mgrid[:SIZE, :SIZE]
    return (
        np.abs((a * x + (b or 1) * y) % (4 * period) / (4 * period) - 0.5) * 4 * strength - strength
    )


def ellipse(rng, y, x, ry, rx):
    """Mask of an ellipse that is turned by a random rational rotation."""
    t = rng.randint(-8, 9) / 8
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    v, u = np.mgrid[:SIZE, :SIZE]
    v, u = v - y, u - x
    return ((cos * u + sin * v) / rx) ** 2 + ((cos * v - sin * u) / ry) ** 2 < 1


def scene(rng):
    """One picture (SIZE, SIZE, 3) uint8 BGR and its train ids (SIZE, SIZE) uint8."""
    paint = lambda colour, texture: np.array(colour, np.float64) + texture[..., None]
    shore = (
        noise(rng, 28, -40, 40)
        + (np.mgrid[:SIZE, :SIZE][rng.randint(2)] - SIZE / 2) * rng.choice((-1, 1))
        + rng.randint(-45, 46)
    )
    label = np.where(shore > 0, MEADOW, WATER).astype(np.uint8)
    meadow = paint((60, 120, 90), noise(rng, 4, -35, 35))
    water = paint((140, 110, 60), noise(rng, 14, -20, 20) + stripes(rng, 3, 14))
    image = np.where((shore > 0)[..., None], meadow, water)
    ground = label.copy()

    def put(mask, kind, colours):
        """Draws a thing with its shadow."""
        shift = np.roll(mask, (4, 3), (0, 1))
        shift[:4], shift[:, :3] = False, False
        image[shift & ~mask] *= 0.6
        image[mask] = colours[mask]
        label[mask] = kind

    def fruit(kind):
        r = rng.randint(9, 15)
        put(
            ellipse(
                rng, rng.randint(8, SIZE - 8), rng.randint(8, SIZE - 8), r, r + rng.randint(0, 5)
            ),
            kind,
            paint((70, 90, 190), noise(rng, 3, -30, 30)),
        )

    sunny = rng.randint(2) == 1
    things = (
        [TREE] * rng.randint(0, 3)
        + [HUT] * rng.randint(1, 4)
        + [RIPE if sunny else UNRIPE] * rng.randint(1, 4)
    )
    for kind in rng.permutation(things):
        y, x = rng.randint(10, SIZE - 10, 2)
        if kind == TREE:
            put(
                ellipse(rng, y, x, rng.randint(10, 18), rng.randint(10, 18)),
                TREE,
                paint((40, 70, 45), noise(rng, 3, -40, 40)),
            )
        elif kind == HUT:
            v, u = np.mgrid[:SIZE, :SIZE]
            h, w = rng.randint(9, 15), rng.randint(11, 19)
            around = ground[max(0, y - h) : y + h, max(0, x - w) : x + w]
            wall = paint((110, 130, 150), stripes(rng, 2, 30) + noise(rng, 7, -12, 12))
            put(
                (np.abs(v - y) < h) & (np.abs(u - x) < w - np.maximum(0, y - v) / 2),
                BOAT if (around == WATER).mean() > 0.5 else HUT,
                wall,
            )
        else:
            fruit(kind)
    if sunny:
        r = rng.randint(9, 13)
        put(
            ellipse(rng, rng.randint(12, SIZE - 12), rng.randint(12, SIZE - 12), r, r),
            SUN,
            paint((90, 220, 240), noise(rng, 5, -12, 12)),
        )
    image = image * (0.7 + 0.6 * rng.rand()) + rng.randint(-14, 15, image.shape)
    return np.clip(np.floor(image), 0, 255).astype(np.uint8), label


def draw(root):
    """Writes train/ trainannot/ val/ valannot/ as PNG files to the folder `root`: all of them, or none."""
    os.makedirs(os.path.dirname(os.path.abspath(root)), exist_ok=True)
    work = tempfile.mkdtemp(prefix='.shapes-', dir=os.path.dirname(os.path.abspath(root)))
    try:
        for seed, (split, count) in enumerate(COUNTS.items()):
            os.makedirs(os.path.join(work, split))
            os.makedirs(os.path.join(work, split + 'annot'))
            for i in range(count):
                image, label = scene(np.random.RandomState([seed, i]))
                for folder, pixels in ((split, image), (split + 'annot', label)):
                    path = os.path.join(work, folder, f'{i:04d}.png')
                    if not cv2.imwrite(path, pixels):
                        raise OSError(28, 'could not write the picture', path)
        os.chmod(work, 0o755)
        try:
            os.rename(work, root)
        except OSError:
            if not os.path.isdir(
                os.path.join(root, 'val')
            ):  # else another process has just drawn it
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
