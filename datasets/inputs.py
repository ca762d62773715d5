"""What predict.py is to predict: pictures and videos by their names, folders and patterns."""

import glob
import os

from datasets.layouts import ARRAYS, IMAGES
from utils import visualize
from utils.config import UserError
from utils.files import identity

VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')
KINDS = ('index', 'overlay', 'probabilities', 'bases', 'compare')  # folders of outputs


def list_inputs(words, output='', arrays=False):
    """Return [(path, name of its output, without ending)] of files, folders and patterns.

    A file named twice counts once; hidden files, and those in the folder `output`, do not count.
    arrays  .npy files in a folder count, too
    """
    files, endings = {}, IMAGES + VIDEOS
    if arrays:
        endings += ARRAYS
    for word in words:
        for path, name in matches(word, output, endings):
            files[os.path.abspath(path)] = path, name
    paths = [path for path, _ in files.values()]
    full_names = [name for _, name in files.values()]
    names = [os.path.splitext(name)[0] for name in full_names]
    if len(set(names)) < len(names):
        names = full_names
    if len(set(names)) < len(names):
        names = visualize.output_names(paths)
    return list(zip(paths, names, strict=True))


def matches(word, output, endings):
    """Return [(path, path from the folder that the word names)] of a file, folder or pattern."""
    if os.path.isdir(word):
        paths = walk(word, output, endings)
        if not paths:
            raise UserError(
                f'{word}: there is no picture or video in this folder; name another one'
            )
        return [(path, os.path.relpath(path, word)) for path in paths]
    paths = [word]
    if not os.path.isfile(word):
        paths = sorted(path for path in glob.glob(word, recursive=True) if os.path.isfile(path))
    if not paths:
        raise UserError(
            f'{word}: there is no such file, and none that this matches as a pattern; '
            'name pictures, videos or folders'
        )
    return [(path, os.path.basename(path)) for path in paths]


def walk(folder, output, endings):
    """Return the paths of the files with these endings below a folder, sorted."""
    paths = []
    for parent, folders, files in os.walk(folder):
        for name in list(folders):
            is_output = identity(os.path.join(parent, name)) == identity(output)
            is_earlier = name in KINDS and identity(parent) == identity(output)
            if name.startswith('.') or is_output or is_earlier:
                folders.remove(name)
        for name in files:
            if not name.startswith('.') and name.lower().endswith(endings):
                paths.append(os.path.join(parent, name))
    return sorted(paths)
