"""Layouts: where the images and labels of each data set lie, as its makers' archives unpack.

A layout is a function of (root, split) that returns a list of Listings: most splits have one, those
that join train and val have two. Nothing is paired here: table.pair does that.
"""

import os
from typing import NamedTuple

import numpy as np

import settings
from datasets.lists import Missing, read_columns, read_list, slashes
from datasets.panoptic import read_panoptic
from utils.config import UserError

# endings of files: of all images, and of the labels of all data sets, which change no value
IMAGES = (
    '.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.gif', '.jp2',
    '.avif', '.heic',
)  # fmt: skip
ARRAYS = ('.npy',)  # of images, too, where they have other than three channels
LABELS = ('.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.mat')


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
    # {name: that of its image, or label, from the folder on}, where it is another
    image_names: dict = {}
    label_names: dict = {}


def all_names(images, labels):
    """Return the sorted names of all images and labels."""
    return sorted({*images, *(labels or ())})


# ------------------------------------------------------------------------ folders and list files


def image_endings():
    """Return the endings of images with as many channels as MEAN and STD have."""
    return IMAGES if len(settings.MEAN) == 3 else IMAGES + ARRAYS


def find_files(folder, endings=None, deep=False):
    """Return {name without ending: path} of the files in a folder, with `deep` also in its folders.

    An ending may be more than the type: '_labelIds.png'. A folder that does not exist is empty.
    UserError if two files have one name, whatever their endings; None = those of images.
    """
    endings, paths = endings or image_endings(), {}
    if not os.path.isdir(folder):
        return paths
    for item in walk(folder, deep):
        name = name_of(item.name, endings)
        if name is None or item.name.startswith('.'):
            continue
        if name in paths:
            both = ' and '.join(sorted([paths[name], item.path]))
            raise UserError(f'{both}: two files of one name; remove or rename one of them')
        paths[name] = item.path
    return paths


def walk(folder, deep):
    """Yield what is in a folder as os.DirEntry, with `deep` also what is in its folders."""
    for item in os.scandir(folder):
        if deep and item.is_dir():
            yield from os.scandir(item.path)
        yield item


def name_of(file, endings):
    """Return the name of a file without its ending, in any capitals; None for another ending."""
    for ending in endings:
        if file.lower().endswith(ending.lower()):
            return file[: -len(ending)]
    return None


def first(root, *choices):
    """Return the first of these folders or files that exists, else the first of all."""
    paths = [os.path.normpath(os.path.join(root, choice)) for choice in choices]
    for path in paths:
        if os.path.exists(path):
            return path
    return paths[0]


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
    name, ending = os.path.splitext(slashes(path).rpartition('/')[2])
    return name if ending.lower() in image_endings() else name + ending


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
    """List SPLIT/ with images and SPLITannot/ with labels: those in SPLIT.txt, or all files.

    Split `test` needs no testannot/.
    """
    listings = []
    for part in parts(split):
        image_dir, label_dir = os.path.join(root, part), os.path.join(root, part + 'annot')
        images, labels = find_files(image_dir), None
        if part != 'test' or os.path.isdir(label_dir):
            labels = find_files(label_dir, LABELS)
        names = names_in(os.path.join(root, part + '.txt'), images, labels)
        listings.append(Listing(names, images, labels, image_dir, label_dir))
    return listings


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
        labels = find_files(label_dir, LABELS)
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
    voc_labels = find_files(os.path.join(root, 'SegmentationClass'), LABELS)
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
        images = find_files(image_dir, with_endings('_leftImg8bit', IMAGES), deep=True)
        labels = None
        if part != 'test':
            endings = with_endings(f'_{kind}_labelTrainIds', LABELS)
            labels = find_files(label_dir, endings, deep=True)
            endings = with_endings(f'_{kind}_labelIds', LABELS)
            labels.update(find_files(label_dir, endings, deep=True))
        names = all_names(images, labels)
        endings = longer(names, '_leftImg8bit'), longer(names, f'_{kind}_labelIds')
        listings.append(Listing(names, images, labels, image_dir, label_dir, *endings))
    return listings


def with_endings(text, endings):
    return tuple(text + ending for ending in endings)


def longer(names, ending):
    return {name: name + ending for name in names}


def coco_images(root, split):
    """Return the folder of COCO's images of a split, and {name: path}.

    PNG files there are labels, if any.
    """
    image_dir = first(root, split + '2017', f'images/{split}2017')
    return image_dir, find_files(image_dir, [ending for ending in IMAGES if ending != '.png'])


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
    images, labels = find_files(image_dir), find_files(label_dir, LABELS)
    names = read_names(os.path.join(root, 'imageLists', part + '.txt'), images)
    return [Listing(names, images, labels, image_dir, label_dir)]


def coco_panoptic(root, split):
    """List COCO panoptic: its PNG and JSON, or panoptic_stuff_SPLIT2017/ made from them."""
    image_dir, images = coco_images(root, split)
    made = first(root, f'panoptic_stuff_{split}2017', f'annotations/panoptic_stuff_{split}2017')
    if os.path.isdir(made):
        labels = find_files(made, LABELS)
        return [Listing(all_names(images, labels), images, labels, image_dir, made)]
    path = first(root, f'annotations/panoptic_{split}2017.json', f'panoptic_{split}2017.json')
    label_dir = first(root, f'annotations/panoptic_{split}2017', f'panoptic_{split}2017')
    try:
        segments = read_panoptic(path)
    except FileNotFoundError:
        raise Missing(f'{path}: this JSON is missing', path) from None
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
            labels[name] = Segments(file, *segments[name])
    return [Listing(sorted(segments), images, labels, image_dir, label_dir)]


def coco_voc(root, split):
    """List COCO with VOC's classes: labels of COCO-Stuff, or coco_voc_SPLIT2017/ (train ids).

    Where coco_voc_train2017.txt has been made, training uses the images it names: those with 1,000
    labelled pixels.
    """
    made = os.path.join(root, f'coco_voc_{split}2017')
    if os.path.isdir(made):
        image_dir, images = coco_images(root, split)
        labels = find_files(made, LABELS)
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
        labels = find_files(label_dir, LABELS)
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
    images, labels = find_files(image_dir), find_files(label_dir, LABELS)
    listings = []
    for part in parts(split):
        path = first(root, 'train.txt') if part == 'train' else first(root, 'val.txt', 'test.txt')
        names = read_names(path, images)
        listings.append(Listing(names, images, labels, image_dir, label_dir))
    return listings


def bdd100k(root, split):
    """List images/SPLIT/ and labels/SPLIT/ with NAME_train_id.png, or sem_seg/masks/ of 2021."""
    image_dir = first(root, 'images/' + split, 'images/10k/' + split)
    label_dir = first(root, 'labels/' + split, 'labels/sem_seg/masks/' + split)
    ending = '' if os.path.join('sem_seg', 'masks') in label_dir else '_train_id'
    images, labels = find_files(image_dir), None
    if split != 'test':
        labels = find_files(label_dir, with_endings(ending, LABELS))
    names = all_names(images, labels)
    return [Listing(names, images, labels, image_dir, label_dir, {}, longer(names, ending))]


def mapillary(root, split):
    """List Vistas 1.x: training/ validation/ testing/ with images/ and labels/, or v1.2/labels/."""
    listings = []
    for part in parts(split):
        folder = {'train': 'training', 'val': 'validation', 'test': 'testing'}[part]
        image_dir = os.path.join(root, folder, 'images')
        label_dir = first(root, folder + '/labels', folder + '/v1.2/labels')
        images, labels = find_files(image_dir), None
        if part != 'test':
            newer = os.path.join(root, folder, 'v2.0/labels')
            if os.path.isdir(newer) and not os.path.isdir(label_dir):
                raise UserError(
                    f'{newer}: these labels are of version 2.0, which has other classes; those of '
                    f'version 1.2 are read: unpack them, too, into {folder}/v1.2/labels'
                )
            labels = find_files(label_dir, LABELS)
        listings.append(Listing(all_names(images, labels), images, labels, image_dir, label_dir))
    return listings


def aeroscapes(root, split):
    """List JPEGImages/ and SegmentationClass/ by ImageSets/trn.txt and val.txt."""
    image_dir, label_dir = os.path.join(root, 'JPEGImages'), os.path.join(root, 'SegmentationClass')
    images, labels = find_files(image_dir), find_files(label_dir, LABELS)
    path = os.path.join(root, 'ImageSets', {'train': 'trn', 'val': 'val'}[split] + '.txt')
    return [Listing(read_names(path, images), images, labels, image_dir, label_dir)]


def sunrgbd(root, split):
    """List train.txt or test.txt (val is its test, too), with an image and its label on each line.

    Their paths start at the data set's folder, or at images/ and labels/ in it.
    """
    path = os.path.join(root, ('train' if split == 'train' else 'test') + '.txt')
    pairs = read_columns(root, path, ('images', 'labels'))
    images, labels, image_names, label_names = {}, {}, {}, {}
    for image, label in pairs.items():
        for paths, names, file in ((images, image_names, image), (labels, label_names, label)):
            names[image] = os.path.splitext(file)[0]
            if os.path.isfile(os.path.join(root, file)):
                paths[image] = os.path.join(root, file)
    return [Listing(list(pairs), images, labels, root, root, image_names, label_names)]
