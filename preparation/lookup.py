"""Find the pictures that annotation files name, which may have been moved since."""

import collections
import filecmp
import json
import os
import re
import unicodedata

import cv2
import numpy as np

from datasets import files, pictures, recognise
from datasets.layouts import IMAGES, bare_name
from datasets.lists import slashes
from utils.config import UserError, nearest

NOT_PICTURES = ('pixels', 'upright', *recognise.LABEL_FOLDERS)  # folders
FILES = ('.json', '.csv', '.png')  # of sources
MANY = 10_000  # files whose names are compared with one that is not there
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


def fold(name):
    """Return what names share that differ in capitals or in how Unicode writes an accent."""
    return unicodedata.normalize('NFC', name).casefold()


class Gone(UserError):
    """The picture .name, which a file names, is not there."""

    def __init__(self, message, name=''):
        super().__init__(message)
        self.name = name


class Pictures:
    """The picture files below a folder, to be found by the names that annotations have for them.

    fold  (name) -> what it shares with names that may stand for it
    """

    def __init__(self, root, fold=fold):
        self.root, self.fold = root, fold
        self.by_stem, self.by_fold = collections.defaultdict(list), collections.defaultdict(list)
        self.owners = {}  # {path: what it was asked for as}
        self.gone = []  # Gone, of each that is not there
        self.otherwise = []  # (name, path) where the name of the file is another
        for path in walk(root, IMAGES, self.may_hold):
            stem = bare_name(os.path.basename(path))
            self.by_stem[stem].append(path)
            self.by_fold[fold(stem)].append(path)

    @staticmethod
    def may_hold(folder):
        is_ours = folder.startswith(('SegmentationClass', 'SegmentationObject'))
        return not is_ours and folder.lower() not in NOT_PICTURES

    def get(self, name, where, near='', split=''):
        """Return what find does; None, and keep it in mind, if the picture is not there."""
        try:
            return self.find(name, where, near, split)
        except Gone as e:
            self.gone.append(e)
            return None

    def find(self, name, where, near='', split='', stored=b''):
        """Return the path of the picture that the file `where` names; Gone if there is none.

        It never lies outside the folder. Of several of that name the one counts whose folders agree
        with the name; name may lack its ending, or have another if one picture fits. `near` is the
        folder where names start, if any, and `split` that of the file: a picture in the folder of
        another one counts only if named there.
        If the file has the picture itself, `stored`, one in another place must show the same.
        """
        path = self.search(str(name), where, near, split)
        if stored and path != self.near_path(str(name), near) and not shows(path, stored):
            raise gone(name, where, self.root, False)
        owner = self.owners.setdefault(path, (name, where))
        if owner != (name, where):
            raise UserError(
                f'{where}: {path} is {name!r} here, and {owner[0]!r} in {owner[1]}; '
                'each picture may be labelled once'
            )
        file = os.path.basename(path)
        if split_path(str(name))[0][-1:] not in ([file], [bare_name(file)]):
            self.otherwise.append((name, os.path.relpath(path, self.root)))
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
            raise gone(name, where, self.root, leads_out)
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

    def lines(self):
        """Return lines about pictures that are not there, named otherwise, or not asked for.

        UserError unless most are there.
        """
        lines = []
        if self.gone:
            total = len(self.gone) + len(self.owners)
            names = ', '.join(repr(one.name) for one in self.gone[:3])
            part = f'{len(self.gone):,} of {total:,} pictures that are named are not there'
            if 2 * len(self.gone) >= total:
                raise UserError(f'{self.gone[0]} ({part}: {names}{self.near_name()})')
            lines.append(f'warning: {part}, and left out: {names}')
        if self.otherwise:
            name, path = self.otherwise[0]
            count = len(self.otherwise)
            lines.append(f'pictures whose files are named otherwise: {count:,}; {name!r} is {path}')
        return lines + self.unused()

    def near_name(self):
        """Return '; did you mean ...?' about the first picture that is not there, or ''."""
        files = [os.path.basename(paths[0]) for paths in self.by_stem.values()]
        return nearest(os.path.basename(self.gone[0].name), files[:MANY])

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
        """Return the paths whose last parts agree best with those of a name, images/ last.

        Without a file of the very name, those count that share what `fold` gives.
        """
        stem, is_whole = bare_name(parts[-1]), parts[-1].lower().endswith(IMAGES)
        paths = self.by_stem.get(stem, [])
        if is_whole:
            paths = [path for path in paths if os.path.basename(path) == parts[-1]]
        if not paths:
            near = self.by_fold.get(self.fold(stem), [])
            place = os.path.join(self.root, 'images', *parts[:-1])
            near = [path for path in near if os.path.dirname(path) == place] or near
            ending = os.path.splitext(parts[-1])[1].lower()
            paths = [path for path in near if path.lower().endswith(ending)] or near
        scores = {}
        for path in paths:
            folders = os.path.relpath(path, self.root).split(os.sep)
            same = 0
            for a, b in zip(reversed(folders[:-1]), reversed(parts[:-1]), strict=False):
                if fold(a) != fold(b):
                    break
                same += 1
            scores[path] = same
        best = max(scores.values(), default=0)
        images = os.path.join(self.root, 'images') + os.sep
        paths = [path for path, score in scores.items() if score == best]
        return sorted(paths, key=lambda path: (path.startswith(images), path))


def pairs(images, masks, image_dir, mask_dir):
    """Return the names that {name: path} of images and masks share, and lines about the others.

    UserError unless most are shared.
    """
    lines, both = [], sorted(set(images) & set(masks))
    for what, other, these, those, folder in (
        ('images', 'mask', images, masks, mask_dir),
        ('masks', 'image', masks, images, image_dir),
    ):
        lone = sorted(set(these) - set(those))
        if not lone:
            continue
        part = f'{len(lone):,} of {len(these):,} {what} in {os.path.dirname(these[lone[0]])}'
        if len(lone) >= len(both):
            raise UserError(
                f'{os.path.join(folder, lone[0])}: this {other} is missing; {part} have none; an '
                'image and its mask have one name, or the mask has _mask after it'
            )
        lines.append(f'warning: {part} have no {other}, and are left out: {", ".join(lone[:3])}')
    return both, lines


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


def gone(name, where, root, leads_out):
    """Return the Gone about a picture."""
    reason = f'is not in {root}'
    if leads_out:
        reason = f'leads out of {root}, and no picture there has that name'
    return Gone(
        f'{where}: it names the picture {name!r}, which {reason}; put it there, in images/, or '
        'remove it from that file',
        str(name),
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
        raise UserError(
            f'{root}: no file here {recognise.WHAT[source]}; {other_source(root, source)}'
        )
    return paths


def other_source(root, *tried):
    """Return what the files of a folder are instead, and the command that reads them."""
    return recognise.hint(root, tried) or 'is it the folder that was exported?'


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
    words = re.split('[^a-z ]+', os.path.relpath(path, root).lower())
    for split, names in recognise.SPLIT_NAMES.items():
        if set(names) & set(words):
            return split
    return ''
