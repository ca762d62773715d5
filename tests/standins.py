"""Tiny trees in the layout and encoding of the data sets' makers, with known labels."""

import json
import os

import numpy as np
import scipy.io
from helpers import blocks, colour_of, put, write
from PIL import Image

import dataset
from datasets import table

SIZE = 40, 56


def ids_of(name, i, n, size=SIZE):
    """Train ids (h, w) of picture i: blocks of all kinds of classes, with a strip of void below."""
    ids = (blocks(*size, seed=i, classes=n).astype(int) + 7 * i) % n
    ids[-4:] = 255
    return ids.astype(np.uint8)


def raw_of(ids, void):
    """Train ids -> values of the class table, those of void `void`."""
    table = np.zeros(256, np.int64)
    raw = [
        99 if v is None else v for v in dataset.classes().raw
    ]  # an unnamed value, where the class stands for those
    table[: len(raw)], table[255] = raw, void
    return table[ids]


def palette(path, values, colours=None):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    picture = Image.fromarray(values.astype(np.uint8))
    picture.putpalette([*range(256)] * 3 if colours is None else colours)
    picture.save(path)


def mat(path, **arrays):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    scipy.io.savemat(path, arrays)


def text(path, lines):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as f:
        f.write('\r\n'.join(lines) + '\r\n')


def stand_in(name, folder, count=4, size=SIZE, splits=None):
    """Writes `count` pictures for each split of data set `name` under `folder` and puts DATASET, DATA_ROOT in force. Returns
    {split: [train ids of each picture, in the order of their names]}."""
    folder = str(folder)
    put(DATASET=name, DATA_ROOT=folder, NUM_WORKERS=0)
    if name == 'folder':
        text(
            os.path.join(folder, 'classes.txt'),
            ['0 10 20 30 ground', '1 200 0 0 hut', '7 0 0 200 tree'],
        )
    entry, n = table.DATASETS[name], len(dataset.classes().names)
    found, lists = {}, {}
    for number, split in enumerate(
        splits or [s for s in entry.splits or ('train', 'val') if s not in ('trainval', 'trainaug')]
    ):
        found[split] = {}
        for i in range(count):
            ids = ids_of(name, 10 * number + i, n, size)
            stem = WRITE[name](folder, split, 10 * number + i, ids)
            lists.setdefault(split, []).append(stem)
            found[split][stem] = ids
    LISTS.get(name, lambda *_: None)(folder, lists)
    return {split: [ids[stem] for stem in sorted(ids)] for split, ids in found.items()}


# each: (folder, split, number, train ids) writes image and label, returns the name for the lists


def camvid(folder, split, i, ids, root='camvid'):
    write(f'{folder}/{root}/{split}/{i:04d}.png', colour_of(ids))
    write(
        f'{folder}/{root}/{split}annot/{i:04d}.png',
        raw_of(ids, 255 if root == 'shapes' else 11).astype(np.uint8),
    )
    return f'{i:04d}'


def voc(folder, split, i, ids):
    root, stem = f'{folder}/VOCdevkit/VOC2012', f'2008_{i:06d}'
    write(f'{root}/JPEGImages/{stem}.jpg', colour_of(ids))
    if split != 'test':
        palette(f'{root}/SegmentationClass/{stem}.png', ids)
    return stem


def voc_lists(folder, lists):
    """With SBD: its train is VOC's val[0] and two pictures that VOC has not labelled."""
    root, sbd = f'{folder}/VOCdevkit/VOC2012', f'{folder}/benchmark_RELEASE/dataset'
    for split, names in lists.items():
        text(f'{root}/ImageSets/Segmentation/{split}.txt', names)
    text(
        f'{root}/ImageSets/Segmentation/trainval.txt', lists.get('train', []) + lists.get('val', [])
    )
    more = []
    for i in (90, 91):
        ids = ids_of('voc', i, 21)
        write(f'{root}/JPEGImages/2008_{i:06d}.jpg', colour_of(ids))
        more.append(f'2008_{i:06d}')
    for i, stem in enumerate(more + lists.get('val', [])[:1] + lists.get('train', [])[:1]):
        segmentation = np.empty((1, 1), [('Segmentation', object), ('CategoriesPresent', object)])
        segmentation[0, 0] = ids_of('voc', 90 + i, 21), np.arange(3)
        mat(f'{sbd}/cls/{stem}.mat', GTcls=segmentation)
    text(f'{sbd}/train.txt', more[:1] + lists.get('val', [])[:1])
    text(f'{sbd}/val.txt', more[1:] + lists.get('train', [])[:1])


def cityscapes(folder, split, i, ids):
    city, root = f'ulm{i % 2}', f'{folder}/cityscapes'
    stem, kind = f'{city}_{i:06d}_000019', 'gtCoarse' if split == 'train_extra' else 'gtFine'
    write(f'{root}/leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png', colour_of(ids))
    write(
        f'{root}/{kind}/{split}/{city}/{stem}_{kind}_labelIds.png', raw_of(ids, 3).astype(np.uint8)
    )
    write(
        f'{root}/{kind}/{split}/{city}/{stem}_{kind}_instanceIds.png',
        raw_of(ids, 3).astype(np.uint16) * 1000,
    )
    return stem


def coco(folder, split, i, ids):
    write(f'{folder}/coco/{split}2017/{i:012d}.jpg', colour_of(ids))
    return f'{i:012d}'


def coco_stuff(folder, split, i, ids):
    write(
        f'{folder}/coco/stuffthingmaps_trainval2017/{split}2017/{i:012d}.png',
        raw_of(ids, 255).astype(np.uint8),
    )
    return coco(folder, split, i, ids)


def coco_stuff_10k(folder, split, i, ids):
    root, stem = f'{folder}/cocostuff-10k-v1.1', f'COCO_train2014_{i:012d}'
    write(f'{root}/images/{stem}.jpg', colour_of(ids))
    mat(f'{root}/annotations/{stem}.mat', S=((raw_of(ids, 255) + 1) % 256).astype(np.uint8))
    return stem


def coco_panoptic(folder, split, i, ids):
    """Every class is a segment; `things` are several, of two categories."""
    code = np.zeros((*ids.shape, 3), np.int64)
    raw, segments = raw_of(ids, 255), []
    half = np.arange(ids.shape[1]) < ids.shape[1] // 2
    for value in np.unique(raw[raw != 255]):
        for number, where in enumerate(
            [raw == value] if value else [(raw == 0) & half, (raw == 0) & ~half]
        ):
            segment = 1 + 70000 * int(value) + 300 * number
            code[where] = [segment & 255, segment >> 8 & 255, segment >> 16]
            segments.append(
                {
                    'id': segment,
                    'category_id': int(value) or 1 + number,
                    'area': int(where.sum()),
                    'iscrowd': 0,
                }
            )
    os.makedirs(f'{folder}/coco/annotations/panoptic_{split}2017', exist_ok=True)
    Image.fromarray(code.astype(np.uint8)).save(
        f'{folder}/coco/annotations/panoptic_{split}2017/{i:012d}.png'
    )
    path = f'{folder}/coco/annotations/panoptic_{split}2017.json'
    found = {
        'annotations': [],
        'images': [],
        'categories': [
            {'id': 1, 'isthing': 1, 'name': 'person'},
            {'id': 2, 'isthing': 1, 'name': 'bicycle'},
        ]
        + [
            {'id': v, 'isthing': 0, 'name': n}
            for v, n in list(zip(dataset.classes().raw, dataset.classes().names))[1:]
        ],
    }
    if os.path.exists(path):
        with open(path) as f:
            found = json.load(f)
    found['annotations'].append(
        {'image_id': i, 'file_name': f'{i:012d}.png', 'segments_info': segments}
    )
    found['images'].append(
        {'id': i, 'file_name': f'{i:012d}.jpg', 'height': ids.shape[0], 'width': ids.shape[1]}
    )
    with open(path, 'w') as f:
        json.dump(found, f)
    return coco(folder, split, i, ids)


def ade20k(folder, split, i, ids):
    root, part = (
        f'{folder}/ADEChallengeData2016',
        {'train': 'training', 'val': 'validation', 'test': 'testing'}[split],
    )
    if split == 'test':
        write(f'{folder}/release_test/testing/ADE_test_{i:08d}.jpg', colour_of(ids))
    else:
        write(f'{root}/images/{part}/ADE_{split}_{i:08d}.jpg', colour_of(ids))
        write(f'{root}/annotations/{part}/ADE_{split}_{i:08d}.png', raw_of(ids, 0).astype(np.uint8))
    return f'{i:08d}'


def pascal_context(folder, split, i, ids):
    root, stem = f'{folder}/VOCdevkit/VOC2010', f'2008_{i:06d}'
    write(f'{root}/JPEGImages/{stem}.jpg', colour_of(ids))
    mat(f'{root}/trainval/{stem}.mat', LabelMap=raw_of(ids, 459).astype(np.uint16))
    return stem


def nyuv2(folder, split, i, ids):
    write(f'{folder}/nyuv2/images/{i:04d}.png', colour_of(ids))
    write(f'{folder}/nyuv2/labels40/{i:04d}.png', raw_of(ids, 0).astype(np.uint8))
    return f'{i:04d}'


def bdd100k(folder, split, i, ids):
    root, stem = f'{folder}/bdd100k/seg', f'{i:08x}-{i:08x}'
    write(f'{root}/images/{split}/{stem}.jpg', colour_of(ids))
    if split != 'test':
        write(f'{root}/labels/{split}/{stem}_train_id.png', raw_of(ids, 255).astype(np.uint8))
    return stem


def mapillary(folder, split, i, ids):
    """Palette PNG, with the colours of the makers."""
    part = {'train': 'training', 'val': 'validation', 'test': 'testing'}[split]
    write(f'{folder}/mapillary/{part}/images/Ab-{i:04d}.jpg', colour_of(ids))
    if split != 'test':
        colours = [*dataset.classes().colours.ravel().tolist(), 0, 0, 0]
        palette(f'{folder}/mapillary/{part}/labels/Ab-{i:04d}.png', raw_of(ids, 65), colours)
    return f'Ab-{i:04d}'


def sunrgbd(folder, split, i, ids):
    write(f'{folder}/sunrgbd/images/img-{i:06d}.jpg', colour_of(ids))
    write(f'{folder}/sunrgbd/labels/img-{i:06d}.png', raw_of(ids, 0).astype(np.uint8))
    return f'img-{i:06d}'


def sunrgbd_lists(folder, lists):
    for split, names in lists.items():
        lines = [f'{name}.jpg {name}.png' for name in names]
        text(f'{folder}/sunrgbd/{"train" if split == "train" else "test"}.txt', lines)


def aeroscapes(folder, split, i, ids):
    root, stem = f'{folder}/aeroscapes', f'{i:06d}_{i:03d}'
    ids = np.where(ids == 255, 0, ids)
    write(f'{root}/JPEGImages/{stem}.jpg', colour_of(ids))
    write(f'{root}/SegmentationClass/{stem}.png', ids.astype(np.uint8))
    return stem


def aeroscapes_lists(folder, lists):
    for split, names in lists.items():
        text(f'{folder}/aeroscapes/ImageSets/{"trn" if split == "train" else split}.txt', names)


def own(folder, split, i, ids):
    ids = np.where(ids == 255, 0, ids)
    write(f'{folder}/images/{split}/p {i}ü.jpg', colour_of(ids))
    palette(f'{folder}/labels/{split}/p {i}ü.png', raw_of(ids, 0))
    return f'p {i}ü'


def lists_in(form):
    """Writes a list file a split: `form` with {split}."""

    def all_lists(folder, lists):
        for split, names in lists.items():
            text(os.path.join(folder, form.format(split=split)), names)

    return all_lists


WRITE = dict(
    camvid=camvid,
    shapes=lambda *a: camvid(*a, root='shapes'),
    voc=voc,
    cityscapes=cityscapes,
    coco_stuff=coco_stuff,
    coco_voc=coco_stuff,
    coco_stuff_10k=coco_stuff_10k,
    coco_panoptic=coco_panoptic,
    ade20k=ade20k,
    pascal_context=pascal_context,
    nyuv2=nyuv2,
    bdd100k=bdd100k,
    mapillary=mapillary,
    sunrgbd=sunrgbd,
    aeroscapes=aeroscapes,
    folder=own,
)
LISTS = dict(
    voc=voc_lists,
    sunrgbd=sunrgbd_lists,
    aeroscapes=aeroscapes_lists,
    coco_stuff_10k=lists_in('cocostuff-10k-v1.1/imageLists/{split}.txt'),
    nyuv2=lists_in('nyuv2/{split}.txt'),
    pascal_context=lists_in('VOCdevkit/VOC2010/ImageSets/Main/{split}.txt'),
)
