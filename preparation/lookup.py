"""Find the pictures that annotation files name, which may have been moved since."""

import collections
import filecmp
import json
import os
import re

import cv2
import numpy as np

from datasets import files, pictures, recognise
from datasets.layouts import IMAGES, bare_name
from datasets.lists import slashes
from utils.config import UserError

NOT_PICTURES = ('pixels', 'upright', *recognise.LABEL_FOLDERS)  # folders
FILES = ('.json', '.csv', '.png')  # of sources
DEPTH = 12  # of folders in folders: links may lead in circles
THUMBNAIL, SAME = (16, 16), 3  # by which pictures are compared, and how much they may differ
BROKEN = ValueError, LookupError, TypeError, AttributeError, ArithmeticError  # of other files


def walk(root, endings, may_hold=bool):
    """Return the sorted paths of the files below a folder that have one of the endings.

    Hidden files and folders do not count, nor folders for whose name may_hold is false.
    """
    paths = []
    for folder, folders, names in os.walk(root, followlinks=True):
        depth = os.path.relpath(folder, root).count(os.sep)
        folders[:] = [one for one in folders if one[0] != '.' and may_hold(one) and depth < DEPTH]
        for name in names:
            if name.lower().endswith(endings) and not name.startswith('.'):
                paths.append(os.path.join(folder, name))
    return sorted(paths)


class Pictures:
    """The picture files below a folder, to be found by the names that annotations have for them."""

    def __init__(self, root):
        self.root = root
        self.by_stem = collections.defaultdict(list)
        self.owners = {}  # {path: what it was asked for as}
        for path in walk(root, IMAGES, self.may_hold):
            self.by_stem[bare_name(os.path.basename(path))].append(path)

    @staticmethod
    def may_hold(folder):
        is_ours = folder.startswith(('SegmentationClass', 'SegmentationObject'))
        return not is_ours and folder not in NOT_PICTURES

    def find(self, name, where, near='', split='', stored=b''):
        """Return the path of the picture that the file `where` names; UserError if there is none.

        It never lies outside the folder. Of several of that name the one counts whose folders agree
        with the name; name may lack its ending. `near` is the folder where names start, if any, and
        `split` that of the file: a picture in the folder of another one counts only if named there.
        If the file has the picture itself, `stored`, one in another place must show the same.
        """
        path = self.search(str(name), where, near, split)
        if stored and path != self.near_path(str(name), near) and not shows(path, stored):
            raise missing(name, where, self.root, False)
        owner = self.owners.setdefault(path, (name, where))
        if owner != (name, where):
            raise UserError(
                f'{where}: {path} is {name!r} here, and {owner[0]!r} in {owner[1]}; '
                'each picture may be labelled once'
            )
        return path

    def search(self, name, where, near, split):
        parts, leads_out = split_path(name)
        if not parts:
            raise UserError(f'{where}: the name {name!r} of a picture is no name; mend it')
        path = self.near_path(name, near)
        if path:
            return path
        if not leads_out:
            for folder in (self.root, os.path.join(self.root, 'images')):
                path = os.path.join(folder, *parts)
                if os.path.isfile(path):
                    return path
        paths = self.candidates(parts)
        if not paths:
            raise missing(name, where, self.root, leads_out)
        fitting = self.of_split(paths, split)
        if not fitting:
            raise UserError(
                f'{where}: it names the picture {name!r}, and there is only {paths[0]}, of another '
                'split; give the names in the file their folders'
            )
        others = [path for path in fitting[1:] if not filecmp.cmp(fitting[0], path, False)]
        if others:
            raise UserError(
                f'{where}: the picture {name!r} may be {fitting[0]} or {others[0]}; '
                'give the names in the file their folders'
            )
        return fitting[0]

    def near_path(self, name, near):
        """Return the path of the picture of a name that starts at the folder `near`, or ''."""
        path = os.path.normpath(os.path.join(near, slashes(name)))
        is_there = near and path.startswith(self.root + os.sep) and os.path.isfile(path)
        return path if is_there else ''

    def of_split(self, paths, split):
        """Return those of some paths that lie in folders of a split, or else of none at all."""
        if not split:
            return paths
        splits = {path: split_of(os.path.dirname(path), self.root) for path in paths}
        same = [path for path in paths if splits[path] == split]
        return same or [path for path in paths if not splits[path]]

    def unused(self):
        """Return a line about pictures that nothing has asked for, if there are any."""
        rest = []
        for paths in self.by_stem.values():
            used = [path for path in paths if path in self.owners]
            for path in paths:
                if path not in used and not any(filecmp.cmp(path, one, False) for one in used):
                    rest.append(path)
        if not rest:
            return []
        first = os.path.relpath(min(rest), self.root)
        return [f'pictures without a label, left out: {len(rest):,}, such as {first}']

    def candidates(self, parts):
        """Return the paths whose last parts agree best with those of a name, images/ last."""
        stem, is_whole = bare_name(parts[-1]), parts[-1].lower().endswith(IMAGES)
        scores = {}
        for path in self.by_stem.get(stem, []):
            folders = os.path.relpath(path, self.root).split(os.sep)
            if is_whole and folders[-1] != parts[-1]:
                continue
            same = 0
            for a, b in zip(reversed(folders[:-1]), reversed(parts[:-1]), strict=False):
                if a != b:
                    break
                same += 1
            scores[path] = same
        best = max(scores.values(), default=0)
        images = os.path.join(self.root, 'images') + os.sep
        paths = [path for path, score in scores.items() if score == best]
        return sorted(paths, key=lambda path: (path.startswith(images), path))


def shows(path, stored):
    """Tell whether a picture file shows what the bytes of another one do, but for their packing."""
    data = np.frombuffer(stored, np.uint8)
    pictures.check_size(path, pictures.plain_size(data) or (0, 0))
    thumbnails, sizes = [], set()
    for pixels in (files.read_image(path, upright=True), pictures.decode_plain(data, True)):
        if pixels is None:
            return False
        sizes.add(pixels.shape)
        pixels = pictures.with_8_bits(path, pixels)
        thumbnails.append(cv2.resize(pixels, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(int))
    return len(sizes) == 1 and np.abs(thumbnails[0] - thumbnails[1]).mean() < SAME


def missing(name, where, root, leads_out):
    """Return the UserError about a picture that is not there."""
    if leads_out:
        return UserError(
            f'{where}: it names the picture {name!r}, which leads out of {root}, and no picture '
            'there has that name; put it there, in images/'
        )
    return UserError(
        f'{where}: it names the picture {name!r}, which is not in {root}; put it there, in images/'
    )


def split_path(name):
    """Return the folders and the file of a path of any system, and whether it leads out."""
    name = slashes(name)
    parts = [part for part in name.split('/') if part not in ('', '.')]
    leads_out = '..' in parts or name.startswith('/') or bool(re.match('[A-Za-z]+:', name))
    if '..' in parts:
        parts = parts[len(parts) - parts[::-1].index('..') :]
    return parts, leads_out or '\0' in name


def files_of(root, source):
    """Return the sorted paths of the files of a source in a folder; UserError if there are none."""
    paths = [path for path in walk(root, FILES) if recognise.source_of(path) == source]
    if not paths:
        others = recognise.hint(root) or 'is it the folder that was exported?'
        raise UserError(f'{root}: no file here {recognise.WHAT[source]}; {others}')
    return paths


def read_json(path):
    """Return the content of a JSON file; UserError if it is none, or only part of one."""
    try:
        with open(path, encoding='utf-8-sig') as f:
            return json.load(f)
    except OSError as e:
        raise UserError(f'{path}: this file cannot be read ({e.strerror})') from None
    except (ValueError, RecursionError) as e:
        raise UserError(
            f'{path}: this is no JSON file, or only part of one ({e}); export it again'
        ) from None


def split_of(path, root):
    """Return the split that a word in the names of a folder and of those above says, or ''."""
    words = re.split('[^a-z]+', os.path.relpath(path, root).lower())
    for split, names in recognise.SPLIT_NAMES.items():
        if set(names) & set(words):
            return split
    return ''
