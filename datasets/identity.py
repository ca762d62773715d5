"""Short numbers that stand for the files of a split and for a class table.

A checkpoint keeps them, so that a run cannot go on with other data unnoticed.
"""

import hashlib
import os

from datasets.layouts import Segments


def names_digest(pairs, root):
    """Return a hex number that follows from the names of pairs (image, label), and their order.

    Names of images start at the folder `root`, which may be moved; those of labels are without
    folder and ending, as labels may be converted.
    """
    digest = hashlib.sha256()
    folders = {}  # {folder: the same, from root}
    for image, label in pairs:
        if isinstance(label, Segments):
            label = label.path
        folder, name = os.path.split(image)
        if folder not in folders:
            path = os.path.relpath(folder or '.', root)
            folders[folder] = os.path.abspath(folder) if path.startswith('..') else path
        label_name, _ = os.path.splitext(os.path.basename(label or ''))
        digest.update(os.fsencode(f'{folders[folder]}/{name}\0{label_name}\0'))
    return digest.hexdigest()[:16]


def table_digest(classes, own):
    """Return a hex number that follows from the Classes of a table.

    own  whether it is one's own: then its colours decode labels; those of others are for display
    """
    text = repr((classes.raw, classes.names, classes.void))
    if own:
        text += repr((classes.colours.tolist(), classes.void_colours))
    return hashlib.sha256(text.encode(errors='backslashreplace')).hexdigest()[:16]
