"""Pictures of train ids: colours, overlays, errors, legends, contact sheets and charts.

All pictures are (h, w, 3) uint8 RGB arrays.
"""

import math
import os

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from utils import fonts
from utils.files import atomic_write

RIGHT = (215, 215, 215)
WRONG = (214, 39, 40)
VOID = (0, 0, 0)


def save(path, pixels, colours=None):
    """Write a PNG; (h, w) indices with `colours` (n, 3) become a palette PNG."""
    picture = Image.fromarray(np.asarray(pixels))
    if colours is not None:
        picture.putpalette(palette(colours).tobytes())
    with atomic_write(path, sync=False) as f:
        picture.save(f, 'PNG', compress_level=1)


def output_names(paths):
    """Return a name for what is made of each file: its own, without folder and ending.

    Where two would be alike, all names begin at the folder that the files share; where these are
    still alike, they keep the ending.
    """
    paths = [os.path.abspath(path) for path in paths]
    names = without_endings([os.path.basename(path) for path in paths])
    if len(set(names)) == len(names):
        return names
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    long = [os.path.relpath(path, shared) for path in paths]
    names = without_endings(long)
    if len(set(names)) == len(names):
        return names
    return long


def without_endings(paths):
    return [os.path.splitext(path)[0] for path in paths]


def visible(image):
    """Return an image (h, w, n) as colours (h, w, 3): channels 1 to 3, or the first one as grey.

    RGB stays as it is. Other images that use the lower half of 0..255 alone, as those of 12 bits
    do, are stretched.
    """
    n = image.shape[2]
    if n == 3:
        return image
    picture = image[..., :3] if n > 3 else np.repeat(image[..., :1], 3, 2)
    largest = np.percentile(picture, 99.5)
    if 0 < largest < 128:
        picture = (picture * (255 / largest)).clip(0, 255)
    return np.ascontiguousarray(picture, np.uint8)


# --------------------------------------------------------------------------- colours and errors


def palette(colours):
    """Return (n, 3) colours as (256, 3); what is beyond them is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    return table


def colour(ids, colours):
    """Return (h, w) train ids in their colours (n, 3)."""
    return palette(colours)[np.asarray(ids)]


def overlay(image, coloured):
    """Return an image under a coloured map, half and half; where that is black, the image."""
    picture = image // 2 + coloured // 2
    black = ~coloured.any(2)
    picture[black] = image[black]
    return picture


def errors(label, pred, n_classes):
    """Return where a prediction (h, w) is right, wrong, or not judged because the label is void."""
    picture = np.empty((*label.shape, 3), np.uint8)
    picture[:] = WRONG
    picture[label == pred] = RIGHT
    picture[label >= n_classes] = VOID
    return picture


# --------------------------------------------------------------------------- legends and sheets


def text(words, width, size=14):
    """Return words in black on a white strip."""
    path, (words,) = fonts.fit([words])
    height = round(1.5 * size)
    strip = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(strip)
    draw.text((4, size // 5), words, 'black', fonts.load(path, size))
    return np.asarray(strip)


def stack(rows):
    """Return pictures below each other, all made as wide as the widest, on white."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate([on_white(row, width, row.shape[0]) for row in rows])


def on_white(picture, width, height):
    """Return a picture with white on the right and below, up to a width and height."""
    h, w = picture.shape[:2]
    around = (0, height - h), (0, width - w), (0, 0)
    return np.pad(picture, around, constant_values=255)


def box(picture, width):
    """Return (width, height) of a box of a picture's shape, at most twice as high as wide."""
    h, w = picture.shape[:2]
    height = round(width * h / w)
    height = min(height, 2 * width)
    return width, max(1, height)


def resize(picture, width, height):
    """Return a picture made smaller or larger, to fit into a box."""
    h, w = picture.shape[:2]
    scale = min(width / w, height / h)
    new_w = max(1, round(w * scale))
    new_h = max(1, round(h * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return cv2.resize(picture, (new_w, new_h), interpolation=method)


def fit(picture, width, height):
    """Return a picture made to fit into a box, with white around it."""
    return on_white(resize(picture, width, height), width, height)


def sheet(tiles, columns, width=300, gap=4):
    """Return a contact sheet of [(caption, picture)], row by row.

    All boxes have the shape of the first picture.
    """
    width, height = box(tiles[0][1], width)
    size = max(10, width // 22)
    boxes = []
    for caption, picture in tiles:
        below = text(caption, width, size)
        tile = stack([fit(picture, width, height), below])
        boxes.append(on_white(tile, width + gap, len(tile) + gap))
    rows = []
    for start in range(0, len(boxes), columns):
        row = boxes[start : start + columns]
        rows.append(np.concatenate(row, 1))
    return stack(rows)


def numbered(names):
    """Return what stands for the names of classes in a script that no font here has."""
    return [f'class {i}' for i in range(len(names))]


def legend(ids, names, colours, width):
    """Return the classes in ids (h, w), most frequent first, with colour and share of pixels."""
    counts = np.bincount(np.ravel(ids), minlength=256)
    counts = counts[: len(names)]
    order = np.argsort(-counts, kind='stable')
    order = [i for i in order if counts[i]]
    shares = [100 * counts[i] / counts.sum() for i in order]
    path, names = fonts.fit(names, numbered(names))
    entries = [f'{names[i]} {share:.1f} %' for i, share in zip(order, shares, strict=True)]

    size = max(11, width // 45)
    line = round(1.5 * size)
    font = fonts.load(path, size)
    longest = max([font.getlength(words) for words in entries], default=0)
    step = round(longest) + 2 * line
    columns = max(1, width // step)
    n_lines = math.ceil(len(entries) / columns)
    strip = Image.new('RGB', (width, n_lines * line + 4), 'white')
    draw = ImageDraw.Draw(strip)
    for at, (i, words) in enumerate(zip(order, entries, strict=True)):
        row, column = divmod(at, columns)
        x = column * step + 4
        y = row * line + 4
        square = (x, y, x + size, y + size)
        fill = tuple(colours[i].tolist())
        draw.rectangle(square, fill, 'black')
        draw.text((x + line, y - size // 6), words, 'black', font)
    return np.asarray(strip)


def heatmaps(image, maps, width=300):
    """Return [(caption, picture)] of maps (k, h', w') over an image, the most used one first.

    maps   such as the responsibilities of bases; each is as bright as its largest value allows
    width  of the boxes of a sheet that the pictures fit
    """
    width, height = box(image, width)
    image = resize(image, width, height)
    size = image.shape[1::-1]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    dim = 0.4 * grey[..., None]
    share = maps.sum((1, 2)) / maps.sum()
    tiles = []
    for i in np.argsort(-share, kind='stable'):
        most = maps[i].max()
        alpha = cv2.resize(maps[i] / max(most, 1e-12), size)
        levels = (255 * alpha).clip(0, 255)
        glow = cv2.applyColorMap(levels.astype(np.uint8), cv2.COLORMAP_INFERNO)
        glow = cv2.cvtColor(glow, cv2.COLOR_BGR2RGB)
        alpha = alpha[..., None]
        picture = dim * (1 - alpha) + glow * alpha
        caption = f'{i}: {100 * share[i]:.1f} %, up to {most:.2f}'
        tiles.append((caption, picture.astype(np.uint8)))
    return tiles


# --------------------------------------------------------------------------------------- charts


def drawn(figure):
    """Return the pixels of a matplotlib figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    return pixels[..., :3].copy()


@matplotlib.rc_context({'text.parse_math': False})
def confusion(matrix, names):
    """Return a chart of a confusion matrix (n, n) of pixels, row = label, in percent of the row."""
    labelled = matrix.sum(1, keepdims=True)
    share = 100 * matrix / np.maximum(labelled, 1)
    n = len(names)
    font, names = fonts.fit(names, numbered(names))
    side = min(4 + 0.33 * n, 30)
    size = min(9, 500 / n)
    figure = Figure((side + 1, side), 100, layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(share, cmap='Blues', vmin=0, vmax=100)
    axes.set_xticks(range(n), names, rotation=90, font=font, fontsize=size)
    axes.set_yticks(range(n), names, font=font, fontsize=size)
    axes.set(xlabel='prediction', ylabel='label', title="% of the label's pixels")
    if n <= 40:
        for y, x in np.argwhere(share >= 0.5):
            axes.text(
                x,
                y,
                f'{share[y, x]:.0f}',
                ha='center',
                va='center',
                fontsize=size * 0.8,
                color='white' if share[y, x] > 50 else 'black',
            )
    figure.colorbar(image, shrink=0.7)
    return drawn(figure)


@matplotlib.rc_context({'text.parse_math': False})
def bars(values, names, title):
    """Return a chart of the classes' IoU (0..1, or None), best first."""
    font, (title, *names) = fonts.fit([title, *names], [None, *numbered(names)])
    present = []
    for value, name in zip(values, names, strict=True):
        if value is not None:
            present.append((100 * value, name))
    present.sort()
    lengths = [value for value, _ in present]
    labels = [name for _, name in present]
    places = range(len(present))
    height = min(1.2 + 0.24 * len(present), 40)
    figure = Figure((7, height), 100, layout='constrained')
    axes = figure.subplots()
    container = axes.barh(places, lengths, color='tab:blue')
    axes.set_yticks(places, labels, font=font, fontsize=8)
    axes.bar_label(container, fmt='%.1f', padding=2, fontsize=8)
    axes.set(xlim=(0, 108), xlabel='IoU in %')
    axes.set_title(title, font=font, fontsize=12)
    axes.margins(y=0.01)
    return drawn(figure)
