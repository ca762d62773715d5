"""Draw `shapes`, the data set that needs no download: scenes of 88x88 pixels, ten classes.

There are 1,000 scenes to train on and 200 to validate. A scene has a meadow or water, divided by a
wandering shore, with textured things on it that occlude one another and cast shadows. Three pairs
of classes look alike to the pixel, or nearly, and are told apart by the rest of the scene:
    hut / boat     around     the same drawing, named after the ground around it
    ripe / unripe  elsewhere  the same fruit; it is ripe if there is a sun anywhere in the scene
    flint / chert  pooled     stones of a scene are all of one kind; flint is bluer, by less than
                              stones of a kind differ, so that only their mean tells: 77 of 100
                              are named by their own tint, 97 of 100 by the mean tint of six
The others, meadow, water, tree and sun, are told where they are.

Only integers and exactly rounded float64 operations are used, so that every machine draws the same
pixels; they follow from the order in which random numbers are drawn, which must not change.
"""

import os
import shutil
import tempfile

import cv2
import numpy as np

SIZE = 88
COUNTS = {'train': 1000, 'val': 200}
MEADOW, WATER, TREE, HUT, BOAT, RIPE, UNRIPE, SUN, FLINT, CHERT = range(10)
PAIRS = {'around': (HUT, BOAT), 'elsewhere': (RIPE, UNRIPE), 'pooled': (FLINT, CHERT)}


def noise(rng, cell, low, high):
    """Return (SIZE, SIZE) float64: random values on a grid of `cell` pixels, linear in between."""
    n = SIZE // cell + 2
    grid = rng.randint(low, high + 1, (n, n)).astype(np.float64)
    at = np.arange(SIZE) / cell
    i = at.astype(int)
    f = at - i
    above, below = grid[i], grid[i + 1]
    rows = above * (1 - f)[:, None] + below * f[:, None]
    left, right = rows[:, i], rows[:, i + 1]
    return left * (1 - f) + right * f


def stripes(rng, period, strength):
    """Return (SIZE, SIZE) float64: slanting triangle waves of a random direction."""
    a = rng.randint(-4, 5)
    b = rng.randint(-4, 5) or 1
    length = 4 * period
    y, x = np.mgrid[:SIZE, :SIZE]
    phase = (a * x + b * y) % length / length
    return np.abs(phase - 0.5) * 4 * strength - strength


def ellipse(rng, y, x, ry, rx):
    """Return the mask of an ellipse that is turned by a random rational rotation."""
    t = rng.randint(-8, 9) / 8
    cos = (1 - t * t) / (1 + t * t)
    sin = 2 * t / (1 + t * t)
    v, u = np.mgrid[:SIZE, :SIZE]
    v, u = v - y, u - x
    across = (cos * u + sin * v) / rx
    along = (cos * v - sin * u) / ry
    return across**2 + along**2 < 1


def paint(colour, texture):
    """Return (SIZE, SIZE, 3) float64: a BGR colour, lighter and darker as the texture says."""
    return np.array(colour, np.float64) + texture[..., None]


class Scene:
    """A picture being drawn: .image (SIZE, SIZE, 3) float64 BGR, .label (SIZE, SIZE) train ids."""

    def __init__(self, rng):
        self.rng = rng
        self.randint = rng.randint
        shore = noise(rng, 28, -40, 40)
        axis, side = rng.randint(2), rng.choice((-1, 1))
        shore = shore + (np.mgrid[:SIZE, :SIZE][axis] - SIZE / 2) * side
        shore = shore + rng.randint(-45, 46)
        meadow = paint((60, 120, 90), noise(rng, 4, -35, 35))
        waves = noise(rng, 14, -20, 20) + stripes(rng, 3, 14)
        water = paint((140, 110, 60), waves)
        land = shore > 0
        self.image = np.where(land[..., None], meadow, water)
        self.label = np.where(land, MEADOW, WATER).astype(np.uint8)
        self.ground = self.label.copy()

    def put(self, mask, kind, colours):
        """Draw a thing with its shadow over what is there."""
        shadow = np.roll(mask, (4, 3), (0, 1))
        shadow[:4] = False
        shadow[:, :3] = False
        self.image[shadow & ~mask] *= 0.6
        self.image[mask] = colours[mask]
        self.label[mask] = kind

    def tree(self):
        y, x = self.randint(10, SIZE - 10, 2)
        ry = self.randint(10, 18)
        rx = self.randint(10, 18)
        mask = ellipse(self.rng, y, x, ry, rx)
        leaves = noise(self.rng, 3, -40, 40)
        self.put(mask, TREE, paint((40, 70, 45), leaves))

    def hut(self):
        """Draw a hut on the meadow, or a boat, which looks the same, on water: not at the shore."""
        h = self.randint(9, 15)
        w = self.randint(11, 19)
        for _ in range(20):
            y, x = self.randint(10, SIZE - 10, 2)
            top, left = max(0, y - h - 4), max(0, x - w - 4)
            around = self.ground[top : y + h + 4, left : x + w + 4]
            wet = (around == WATER).mean()
            if not 0.15 < wet < 0.85:
                break
        else:
            return  # the shore is everywhere
        v, u = np.mgrid[:SIZE, :SIZE]
        half_width = w - np.maximum(0, y - v) / 2
        mask = (np.abs(v - y) < h) & (np.abs(u - x) < half_width)
        wall = stripes(self.rng, 2, 30) + noise(self.rng, 7, -12, 12)
        self.put(mask, BOAT if wet > 0.5 else HUT, paint((110, 130, 150), wall))

    def disc(self, low, high, margin, wider):
        """Return a mask: radius low to high - 1, along the other axis up to wider - 1 more."""
        r = self.randint(low, high)
        y = self.randint(margin, SIZE - margin)
        x = self.randint(margin, SIZE - margin)
        return ellipse(self.rng, y, x, r, r + self.randint(0, wider))

    def fruit(self, kind):
        mask = self.disc(9, 15, 8, 5)
        peel = noise(self.rng, 3, -30, 30)
        self.put(mask, kind, paint((70, 90, 190), peel))

    def stone(self, kind):
        """Draw a stone; what it is bluer or redder by is its kind's 16 and more of its own."""
        mask = self.disc(7, 11, 6, 4)
        blue = self.randint(-24, 25) + self.randint(-24, 25)  # standard deviation 20
        blue += 16 if kind == FLINT else -16
        grains = noise(self.rng, 2, -25, 25)
        self.put(mask, kind, paint((125 + blue, 125, 125 - blue), grains))

    def sun(self):
        r = self.randint(11, 15)
        y = self.randint(12, SIZE - 12)
        x = self.randint(12, SIZE - 12)
        mask = ellipse(self.rng, y, x, r, r)
        glow = noise(self.rng, 5, -12, 12)
        self.put(mask, SUN, paint((90, 220, 240), glow))


def scene(rng):
    """Return a picture (SIZE, SIZE, 3) uint8 BGR and its train ids (SIZE, SIZE) uint8."""
    canvas = Scene(rng)
    sunny = rng.randint(2) == 1
    things = [TREE] * rng.randint(0, 2)
    things += [HUT] * rng.randint(1, 3)
    things += [RIPE if sunny else UNRIPE] * rng.randint(1, 3)
    things += [FLINT if rng.randint(2) else CHERT] * rng.randint(5, 8)
    for kind in rng.permutation(things):
        if kind == TREE:
            canvas.tree()
        elif kind == HUT:
            canvas.hut()
        elif kind in (FLINT, CHERT):
            canvas.stone(kind)
        else:
            canvas.fruit(kind)
    if sunny:
        canvas.sun()
    light = 0.7 + 0.6 * rng.rand()
    grain = rng.randint(-14, 15, canvas.image.shape)
    image = np.floor(canvas.image * light + grain)
    return np.clip(image, 0, 255).astype(np.uint8), canvas.label


def draw(root):
    """Write train/ trainannot/ val/ valannot/ as PNG files to the folder `root`: all, or none."""
    parent = os.path.dirname(os.path.abspath(root))
    os.makedirs(parent, exist_ok=True)
    work = tempfile.mkdtemp(prefix='.shapes-', dir=parent)
    try:
        for seed, (split, count) in enumerate(COUNTS.items()):
            draw_split(work, split, count, seed)
        os.chmod(work, 0o755)
        try:
            os.rename(work, root)
        except OSError:
            if not os.path.isdir(os.path.join(root, 'val')):
                raise
            # else another process has just drawn it
    finally:
        shutil.rmtree(work, ignore_errors=True)


def draw_split(root, split, count, seed):
    """Write `count` scenes of a split to root/SPLIT and their train ids to root/SPLITannot."""
    image_dir, label_dir = os.path.join(root, split), os.path.join(root, split + 'annot')
    os.makedirs(image_dir)
    os.makedirs(label_dir)
    for i in range(count):
        image, label = scene(np.random.RandomState([seed, i]))
        for folder, pixels in ((image_dir, image), (label_dir, label)):
            path = os.path.join(folder, f'{i:04d}.png')
            if not cv2.imwrite(path, pixels):
                raise OSError(28, 'could not write the picture', path)
