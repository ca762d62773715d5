"""Layouts: where the images and labels of each data set lie, as its makers' archives unpack.

A layout is a function of (root, split) that returns a list of Listings: most splits have one, those
that join train and val have two. Nothing is paired here: table.pair does that.
"""

import json
import os
from typing import NamedTuple

import numpy as np

from utils.config import UserError

IMAGES = ('.jpg', '.jpeg', '.png')


class Missing(UserError):
    """A list or JSON file, at .path, is not there; most likely its archive is not."""

    def __init__(self, message, path=''):
        super().__init__(message)
        self.path = path


class Segments(NamedTuple):
    """A panoptic label: a PNG file of segment ids, R + 256 G + 65536 B."""

    path: str
    ids: np.ndarray  # sorted
    raw: np.ndarray  # the label value of each of the ids


class Listing(NamedTuple):
    """The files of a split, or of a part of it."""

    names: list  # of the samples, in their order
    images: dict  # {name: path}
    labels: dict | None  # {name: path or Segments}; None = there are no labels
    image_dir: str
    label_dir: str


def all_names(images, labels):
    """Return the sorted names of all images and labels."""
    return sorted({*images, *(labels or ())})


# ------------------------------------------------------------------------ folders and list files


def find_files(folder, endings=IMAGES, deep=False):
    """Return {name without ending: path} of the files in a folder, with `deep` also in its folders.

    An ending may be more than the type: '_labelIds.png'. A folder that does not exist is empty.
    """
    paths = {}
    if not os.path.isdir(folder):
        return paths
    for item in os.scandir(folder):
        if deep and item.is_dir():
            paths.update(find_files(item.path, endings))
        if item.name.startswith('.'):
            continue
        for ending in endings:
            if item.name.lower().endswith(ending.lower()):
                paths[item.name[: -len(ending)]] = item.path
    return paths


def first(root, *choices):
    """Return the first of these folders or files that exists, else the first of all."""
    paths = [os.path.normpath(os.path.join(root, choice)) for choice in choices]
    for path in paths:
        if os.path.exists(path):
            return path
    return paths[0]


def read_list(path):
    """Return the lines of a list file that are not blank, whatever ends them."""
    try:
        with open(path, encoding='utf-8-sig') as f:
            return [line.strip() for line in f if line.strip()]
    except FileNotFoundError:
        raise Missing(f'{path}: this list of pictures is missing', path) from None
    except (OSError, UnicodeDecodeError) as e:
        reason = getattr(e, 'strerror', None) or e
        raise UserError(f'{path}: this list of pictures cannot be read ({reason})') from None


def read_names(path, known=()):
    """Return the names in a list file of names or paths, one a line, without folder and ending.

    What follows the first word counts only if the whole line is one of the `known` names.
    """
    names = []
    for line in read_list(path):
        name = bare_name(line)
        if name not in known:
            name = bare_name(line.split()[0])
        names.append(name)
    return names


def bare_name(path):
    """Return the name of an image path without folders and ending; other dots are part of it."""
    name, ending = os.path.splitext(path.replace('\\', '/').rpartition('/')[2])
    return name if ending.lower() in IMAGES else name + ending


def names_in(path, images, labels):
    """Return the names that a list file gives, or where it does not exist those of all files."""
    if os.path.exists(path):
        return read_names(path, images)
    return all_names(images, labels)


def parts(split):
    """Return the splits that a split joins: 'trainval' is train and val."""
    return ('train', 'val') if split == 'trainval' else (split,)


# --------------------------------------------------------------------------------------- layouts


def camvid(root, split):
    """List SPLIT/ with images and SPLITannot/ with labels: those in SPLIT.txt, or all files."""
    listings = []
    for part in parts(split):
        image_dir, label_dir = os.path.join(root, part), os.path.join(root, part + 'annot')
        images, labels = find_files(image_dir), find_files(label_dir, ('.png',))
        names = names_in(os.path.join(root, part + '.txt'), images, labels)
        listings.append(Listing(names, images, labels, image_dir, label_dir))
    return listings


def folder(root, split):
    """List data of one's own, in one of three layouts.

    SPLIT.txt with lines of two paths, image and label; or images/SPLIT/ with labels/SPLIT/; or
    SPLIT/ with SPLITannot/. In the last two, files of one name belong together, and SPLIT.txt may
    name some of them. Split `test` needs no labels/test/.
    """
    path = os.path.join(root, split + '.txt')
    pairs = read_pairs(root, path) if os.path.exists(path) else []
    if pairs:
        images = dict(enumerate(image for image, _ in pairs))
        labels = dict(enumerate(label for _, label in pairs))
        return [Listing(list(images), images, labels, root, root)]
    if not os.path.isdir(os.path.join(root, 'images')):
        return camvid(root, split)
    image_dir, label_dir = os.path.join(root, 'images', split), os.path.join(root, 'labels', split)
    images, labels = find_files(image_dir), None
    if split != 'test' or os.path.isdir(label_dir):
        labels = find_files(label_dir, ('.png',))
    return [Listing(names_in(path, images, labels), images, labels, image_dir, label_dir)]


def read_pairs(root, path):
    """Return [(image, label)] of a list with two paths a line; [] if each line names one file.

    Paths start at `root`, or are absolute. A tab or a blank lies between the two; they may hold
    blanks themselves.
    """
    pairs, single = [], []
    for line in read_list(path):
        pair = split_line(root, path, line)
        if pair:
            pairs.append(pair)
        else:
            single.append(line)
    if pairs and single:
        raise UserError(
            f'{path}: {single[0]!r} names one file, other lines an image and its label; '
            'give every line both'
        )
    return pairs


def split_line(root, path, line):
    """Return the two files that a line of the list `path` names; None if it is a single word."""
    blank = '\t' if '\t' in line else ' '
    words = line.split(blank)
    cuts = []
    for i in range(1, len(words)):
        image, label = ' '.join(words[:i]).strip(), ' '.join(words[i:]).strip()
        cuts.append((os.path.join(root, image), os.path.join(root, label)))
    for image, label in cuts:
        if os.path.isfile(image) and os.path.isfile(label):
            return image, label
    if not cuts:
        return None
    image, label = cuts[len(cuts) // 2]
    lost = label if os.path.isfile(image) else image
    raise UserError(f'{lost}: this file is missing; {path} names it: {line!r}')


def voc(root, split):
    """List VOC 2012; trainaug is SegmentationClassAug/ with trainaug.txt, or comes from SBD."""
    lists = os.path.join(root, 'ImageSets', 'Segmentation')
    image_dir, label_dir = os.path.join(root, 'JPEGImages'), os.path.join(root, 'SegmentationClass')
    if split == 'trainaug':
        sbd = first(
            root,
            '../../benchmark_RELEASE/dataset',
            '../benchmark_RELEASE/dataset',
            '../../sbd',
            'benchmark_RELEASE/dataset',
        )
        label_dir = os.path.join(root, 'SegmentationClassAug')
        if os.path.isdir(sbd) and not os.path.isdir(label_dir):
            return [voc_with_sbd(root, sbd)]
    images, labels = find_files(image_dir), None
    if split != 'test':
        labels = find_files(label_dir, ('.png',))
    names = read_names(os.path.join(lists, split + '.txt'), images)
    return [Listing(names, images, labels, image_dir, label_dir)]


def voc_with_sbd(root, sbd):
    """List VOC's trainaug from the labels of VOC and SBD (`.mat`).

    They are VOC's train and SBD's train and val, without VOC's val.
    """
    lists = os.path.join(root, 'ImageSets', 'Segmentation')
    image_dir, label_dir = os.path.join(root, 'JPEGImages'), os.path.join(sbd, 'cls')
    images, labels = find_files(image_dir), find_files(label_dir, ('.mat',))
    train = read_names(os.path.join(lists, 'train.txt'), images)
    val = read_names(os.path.join(lists, 'val.txt'), images)
    more = read_names(os.path.join(sbd, 'train.txt'), images)
    more += read_names(os.path.join(sbd, 'val.txt'), images)
    voc_labels = find_files(os.path.join(root, 'SegmentationClass'), ('.png',))
    labels.update({name: voc_labels[name] for name in train if name in voc_labels})
    names = sorted({*train, *more} - {*val})
    return Listing(names, images, labels, image_dir, label_dir)


def cityscapes(root, split):
    """List leftImg8bit/SPLIT/CITY/ with the labelIds or labelTrainIds of gtFine/ or gtCoarse/."""
    listings = []
    for part in parts(split):
        kind = 'gtCoarse' if part == 'train_extra' else 'gtFine'
        image_dir, label_dir = (
            os.path.join(root, 'leftImg8bit', part),
            os.path.join(root, kind, part),
        )
        images = find_files(image_dir, ('_leftImg8bit.png', '_leftImg8bit.jpg'), deep=True)
        labels = None
        if part != 'test':
            labels = find_files(label_dir, (f'_{kind}_labelTrainIds.png',), deep=True)
            labels.update(find_files(label_dir, (f'_{kind}_labelIds.png',), deep=True))
        names = all_names(images, labels)
        listings.append(Listing(names, images, labels, image_dir, label_dir))
    return listings


def coco_images(root, split):
    """Return the folder of COCO's images of a split, and {name: path}."""
    image_dir = first(root, split + '2017', f'images/{split}2017')
    return image_dir, find_files(image_dir, ('.jpg',))


def coco_stuff(root, split):
    """List COCO-Stuff 164k; the PNG labels lie in a folder of their own or with the images."""
    year = split + '2017'
    image_dir, images = coco_images(root, split)
    label_dir = first(
        root,
        f'stuffthingmaps_trainval2017/{year}',
        f'stuffthingmaps/{year}',
        f'annotations/{year}',
        year,
    )
    labels = find_files(label_dir, ('.png',))
    return [Listing(all_names(images, labels), images, labels, image_dir, label_dir)]


def coco_stuff_10k(root, split):
    """List COCO-Stuff 10k v1.1: imageLists/ images/ annotations/ (`.mat`); val is its test, too."""
    part = 'train' if split == 'train' else 'test'
    image_dir, label_dir = os.path.join(root, 'images'), os.path.join(root, 'annotations')
    images, labels = find_files(image_dir), find_files(label_dir, ('.mat', '.png'))
    names = read_names(os.path.join(root, 'imageLists', part + '.txt'), images)
    return [Listing(names, images, labels, image_dir, label_dir)]


def coco_panoptic(root, split):
    """List COCO panoptic: its PNG and JSON, or panoptic_stuff_SPLIT2017/ made from them."""
    image_dir, images = coco_images(root, split)
    made = first(root, f'panoptic_stuff_{split}2017', f'annotations/panoptic_stuff_{split}2017')
    if os.path.isdir(made):
        labels = find_files(made, ('.png',))
        return [Listing(all_names(images, labels), images, labels, image_dir, made)]
    path = first(root, f'annotations/panoptic_{split}2017.json', f'panoptic_{split}2017.json')
    label_dir = first(root, f'annotations/panoptic_{split}2017', f'panoptic_{split}2017')
    segments = read_panoptic(path)
    unknown = sorted(set(images) - set(segments))
    if len(unknown) == 1:
        raise UserError(
            f'{images[unknown[0]]}: {path} has no entry for this image; '
            'are both from one archive, and complete?'
        )
    if unknown:
        raise UserError(
            f'{images[unknown[0]]}: {path} has no entry for this image and {len(unknown) - 1} '
            'more; are both from one archive, and complete?'
        )
    labels = {}
    for name, file in find_files(label_dir, ('.png',)).items():
        if name in segments:
            labels[name] = segments[name]._replace(path=file)
    return [Listing(sorted(segments), images, labels, image_dir, label_dir)]


def read_panoptic(path):
    """Return {image name: Segments} of a COCO panoptic JSON.

    A segment's raw value is its category's id, or 0 for things; 255 is what belongs to no segment.
    """
    try:
        with open(path, encoding='utf-8') as f:
            content = json.load(f)
        is_thing = {category['id']: category['isthing'] for category in content['categories']}
        segments = {}
        for annotation in content['annotations']:
            ids, raw = [0], [255]
            for segment in annotation['segments_info']:
                category = segment['category_id']
                ids.append(segment['id'])
                raw.append(0 if is_thing[category] else category)
            ids, raw = np.array(ids, np.uint32), np.array(raw, np.uint8)
            order = ids.argsort()
            file = annotation['file_name']
            segments[os.path.splitext(file)[0]] = Segments(file, ids[order], raw[order])
        return segments
    except FileNotFoundError:
        raise Missing(f'{path}: this JSON is missing', path) from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(
            f'{path}: this is no panoptic JSON of COCO, or only part of one '
            f'({type(e).__name__}: {e}); unpack it again'
        ) from None


def coco_voc(root, split):
    """List COCO with VOC's classes: labels of COCO-Stuff, or coco_voc_SPLIT2017/ (train ids).

    Where coco_voc_train2017.txt has been made, training uses the images it names: those with 1,000
    labelled pixels.
    """
    made = os.path.join(root, f'coco_voc_{split}2017')
    if os.path.isdir(made):
        image_dir, images = coco_images(root, split)
        labels = find_files(made, ('.png',))
        listing = Listing(all_names(images, labels), images, labels, image_dir, made)
    else:
        (listing,) = coco_stuff(root, split)
    path = made + '.txt'
    if split == 'train' and os.path.exists(path):
        chosen = set(read_names(path))
        listing = listing._replace(names=[name for name in listing.names if name in chosen])
    return [listing]


def ade20k(root, split):
    """List ADEChallengeData2016: images/ annotations/ with training/ validation/; test is apart."""
    part = {'train': 'training', 'val': 'validation', 'test': 'testing'}[split]
    image_dir = first(root, 'images/' + part, '../release_test/testing', 'release_test/testing')
    label_dir = os.path.join(root, 'annotations', part)
    images, labels = find_files(image_dir), None
    if split != 'test':
        labels = find_files(label_dir, ('.png',))
    return [Listing(all_names(images, labels), images, labels, image_dir, label_dir)]


def pascal_context(root, split):
    """List VOC 2010 with `.mat` labels, or SegmentationClassContext/ made from them."""
    image_dir = os.path.join(root, 'JPEGImages')
    path = first(root, f'ImageSets/SegmentationContext/{split}.txt', f'ImageSets/Main/{split}.txt')
    choices = 'SegmentationClassContext', 'trainval', '../trainval', '../../trainval'
    label_dir = first(root, *choices, '../../pascal_context/trainval')
    if not os.path.isdir(label_dir):
        label_dir = os.path.join(root, 'trainval')
    images, labels = find_files(image_dir), find_files(label_dir, ('.png', '.mat'))
    return [Listing(read_names(path, images), images, labels, image_dir, label_dir)]


def nyuv2(root, split):
    """List images/ and labels40/ (1..40, 0 = void) with train.txt and val.txt (or test.txt)."""
    image_dir, label_dir = os.path.join(root, 'images'), os.path.join(root, 'labels40')
    images, labels = find_files(image_dir), find_files(label_dir, ('.png',))
    listings = []
    for part in parts(split):
        path = first(root, 'train.txt') if part == 'train' else first(root, 'val.txt', 'test.txt')
        names = read_names(path, images)
        listings.append(Listing(names, images, labels, image_dir, label_dir))
    return listings
