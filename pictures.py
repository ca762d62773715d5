"""Pictures of train ids: colours, overlays, errors, legends, contact sheets and charts; all are (h, w, 3) uint8 RGB arrays."""

import contextlib
import os

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

RIGHT, WRONG, VOID = (215, 215, 215), (214, 39, 40), (0, 0, 0)


@contextlib.contextmanager
def whole(path):
    """A file to write bytes to, in folders that are made: if all goes well it becomes `path`, else it goes away."""
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    work = path + '.part'
    try:
        with open(work, 'wb') as f:
            yield f
        os.replace(work, path)
    finally:
        if os.path.lexists(work):
            os.unlink(work)


def save(path, pixels, colours=None):
    """Writes a picture: the whole file, or none. (h, w) indices are a palette PNG with `colours` (n, 3)."""
    picture = Image.fromarray(np.asarray(pixels))
    if colours is not None:
        picture.putpalette(palette(colours).tobytes())
    with whole(path) as f:
        picture.save(f, 'PNG', compress_level=1)


def stems(paths):
    """A name for every file: its own without folder and ending; with them, from the folder they share on, where that would not tell all apart."""
    short = [os.path.splitext(os.path.basename(p))[0] for p in paths]
    if len({*short}) == len(short):
        return short
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in paths])
    long = [os.path.relpath(os.path.abspath(p), shared) for p in paths]
    bare = [os.path.splitext(p)[0] for p in long]
    return bare if len({*bare}) == len(bare) else long


def palette(colours):
    """(n, 3) colours -> (256, 3); what the table lacks is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    return table


def colour(ids, colours):
    """(h, w) train ids in their colours (n, 3)."""
    return palette(colours)[np.asarray(ids)]


def overlay(image, coloured):
    """An image under a coloured map, half and half."""
    return image // 2 + coloured // 2


def errors(label, pred, n_classes):
    """Where a prediction (h, w) is right, wrong, or not judged because the label is void."""
    found = np.where((label == pred)[..., None], np.uint8(RIGHT), np.uint8(WRONG))
    found[label >= n_classes] = VOID
    return found


def text(words, width, size=14):
    """Words in black on a white strip."""
    font = ImageFont.load_default(size)
    strip = Image.new('RGB', (width, round(1.5 * size)), 'white')
    ImageDraw.Draw(strip).text((4, size // 5), words, 'black', font)
    return np.asarray(strip)


def stack(rows):
    """Pictures below each other, all as wide as the widest, on white."""
    width = max(r.shape[1] for r in rows)
    return np.concatenate(
        [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows]
    )


def box(picture, width):
    """(width, height) of the box for a picture: of its shape, but no higher than twice its width."""
    return width, max(1, min(2 * width, round(width * picture.shape[0] / picture.shape[1])))


def resize(picture, width, height):
    """A picture made smaller or larger, to fit into a box."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return cv2.resize(
        picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    )


def fit(picture, width, height):
    """The same, on white."""
    found = resize(picture, width, height)
    return np.pad(
        found,
        ((0, height - found.shape[0]), (0, width - found.shape[1]), (0, 0)),
        constant_values=255,
    )


def sheet(tiles, columns, width=300, gap=4):
    """A contact sheet of [(caption, picture)], row by row; all boxes are that of the first picture."""
    width, height = box(tiles[0][1], width)
    boxes = [
        np.pad(
            stack([fit(p, width, height), text(caption, width, max(10, width // 22))]),
            ((0, gap), (0, gap), (0, 0)),
            constant_values=255,
        )
        for caption, p in tiles
    ]
    return stack([np.concatenate(boxes[i : i + columns], 1) for i in range(0, len(boxes), columns)])


def legend(ids, names, colours, width):
    """The classes that occur in ids (h, w), most frequent first, with colour and share of the pixels."""
    counts = np.bincount(np.asarray(ids).ravel(), minlength=256)[: len(names)]
    order = [i for i in np.argsort(-counts, kind='stable') if counts[i]]
    size = max(11, width // 45)
    font, line = ImageFont.load_default(size), round(1.5 * size)
    words = [f'{names[i]} {100 * counts[i] / counts.sum():.1f} %' for i in order]
    step = max([round(font.getlength(w)) for w in words], default=0) + 2 * line
    columns = max(1, width // step)
    strip = Image.new('RGB', (width, -(-len(order) // columns) * line + 4), 'white')
    draw = ImageDraw.Draw(strip)
    for at, (i, w) in enumerate(zip(order, words)):
        x, y = at % columns * step + 4, at // columns * line + 4
        draw.rectangle((x, y, x + size, y + size), tuple(map(int, colours[i])), 'black')
        draw.text((x + line, y - size // 6), w, 'black', font)
    return np.asarray(strip)


def heat(image, maps, width=300):
    """[(caption, picture)] of maps (k, h', w'), such as the responsibilities of bases, over an image: most used first, each as bright as its largest
    value allows; fit for boxes of a width."""
    image = resize(image, *box(image, width))
    share = maps.sum((1, 2)) / maps.sum()
    dim = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] * 0.4
    tiles = []
    for i in np.argsort(-share, kind='stable'):
        m = cv2.resize(maps[i] / max(maps[i].max(), 1e-12), image.shape[1::-1])[..., None]
        glow = cv2.applyColorMap((255 * m).clip(0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[
            ..., ::-1
        ]
        tiles.append(
            (
                f'{i}: {100 * share[i]:.1f} %, up to {maps[i].max():.2f}',
                (dim * (1 - m) + glow * m).astype(np.uint8),
            )
        )
    return tiles


# -------------------------------------------------------------------------------------------------------------- charts


def drawn(figure):
    """The pixels of a matplotlib figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@matplotlib.rc_context({'text.parse_math': False})
def confusion(matrix, names):
    """Chart of a confusion matrix (n, n) of pixels, row = label, in percent of the row."""
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    n = len(names)
    side = min(4 + 0.33 * n, 30)
    figure = Figure((side + 1, side), 100, layout='constrained')
    axes = figure.subplots()
    found = axes.imshow(share, cmap='Blues', vmin=0, vmax=100)
    size = min(9, 500 / n)
    axes.set_xticks(range(n), names, rotation=90, fontsize=size)
    axes.set_yticks(range(n), names, fontsize=size)
    axes.set(xlabel='prediction', ylabel='label', title="% of the label's pixels")
    for y, x in zip(*np.nonzero(share >= 0.5)) if n <= 40 else ():
        axes.text(
            x,
            y,
            f'{share[y, x]:.0f}',
            ha='center',
            va='center',
            fontsize=size * 0.8,
            color='white' if share[y, x] > 50 else 'black',
        )
    figure.colorbar(found, shrink=0.7)
    return drawn(figure)


@matplotlib.rc_context({'text.parse_math': False})
def bars(values, names, title):
    """Chart of the classes' IoU (0..1, or None), best first."""
    some = sorted([(100 * v, name) for v, name in zip(values, names) if v is not None])
    figure = Figure((7, min(1.2 + 0.24 * len(some), 40)), 100, layout='constrained')
    axes = figure.subplots()
    found = axes.barh(range(len(some)), [v for v, _ in some], color='tab:blue')
    axes.set_yticks(range(len(some)), [name for _, name in some], fontsize=8)
    axes.bar_label(found, fmt='%.1f', padding=2, fontsize=8)
    axes.set(xlim=(0, 108), xlabel='IoU in %', title=title)
    axes.margins(y=0.01)
    return drawn(figure)
