"""Fonts that have the characters of names: pictures and charts show no empty boxes."""

import functools
import os
from pathlib import Path

import matplotlib
from matplotlib import font_manager, ft2font
from PIL import ImageFont

from utils.printable import printable

DEFAULT = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')

LAST_RESORT = 'LastResort'  # its glyphs are boxes, for all characters


def fit(texts, instead=None):
    """Return the path of the font that has most of the characters of `texts`, and the texts.

    Characters that it lacks are escapes in them, such as \\u4e2d, as are control characters.
    instead  a text for each that stands for all of it where the font lacks some; None: for none
    """
    texts = [printable(text) for text in texts]
    wanted = frozenset(map(ord, ''.join(texts)))
    path = best(wanted)
    shown = characters(path)
    drawable = []
    for i, text in enumerate(texts):
        lacks = [c for c in text if ord(c) not in shown and not c.isascii()]
        if lacks and instead and instead[i]:
            text = instead[i]
        drawable.append(''.join(escape(c) if c in lacks else c for c in text))
    return Path(path), drawable


def escape(character):
    return character.encode('unicode_escape').decode()


@functools.lru_cache
def best(wanted):
    """Return the path of the font with most of these code points: DejaVu Sans, or the system's."""
    path, missing = DEFAULT, wanted - characters(DEFAULT)
    others = font_manager.fontManager.ttflist if missing else []
    for font in others:
        if os.path.basename(font.fname).startswith(LAST_RESORT):
            continue
        lacks = wanted - characters(font.fname)
        if len(lacks) < len(missing):
            path, missing = font.fname, lacks
    return path


@functools.cache
def characters(path):
    """Return the code points that a font file has glyphs for; none if it cannot be read."""
    try:
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@functools.lru_cache
def load(path, size):
    """Return a font file at a size in pixels, for Pillow; its own one if that cannot be read."""
    try:
        return ImageFont.truetype(str(path), size)
    except OSError:
        return ImageFont.load_default(size)
