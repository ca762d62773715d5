"""Every data set as its makers write it: a tiny tree with known labels, read back; label values, encodings and files that will not do."""

import json
import os
import pickle
import shutil

import cv2
import numpy as np
import pytest
import torch
from helpers import blocks, colour_of, put, write
from PIL import Image
from standins import SIZE, ids_of, mat, palette, stand_in, text

import dataset
import settings
from dataset import Dataset
from datasets import cache, layouts, lists, table
from datasets.files import UNKNOWN, LabelMap, UnknownValues, read_image
from preparation import check
from utils.config import UserError

ALL = sorted(table.DATASETS)
TEST_IS_VAL = [('coco_stuff_10k', 'val'), ('sunrgbd', 'val')]


def read(split='val'):
    """The labels of a split, in its order."""
    data = Dataset(split, train=False)
    return [data.read(i)[1] for i in range(len(data))]


@pytest.mark.parametrize('name', ALL)
def test_labels_come_back(name, tmp_path):
    known = stand_in(name, tmp_path)
    for split, wanted in known.items():
        data = Dataset(split, train=False)
        wanted = known['test'] if (name, split) in TEST_IS_VAL else wanted
        assert len(data) == len(wanted)
        for i, ids in enumerate(wanted):
            image, label = data.read(i)
            assert image.shape == (*ids.shape, 3)
            if label is None:
                assert split == 'test' and not data.labelled
                continue
            if name in ('folder', 'aeroscapes'):  # without void
                ids = np.where(ids == 255, 0, ids)
            assert (label == ids).all()
            near = colour_of(ids)[8, 8, ::-1].astype(int)  # image and label belong together
            assert np.abs(image[8, 8] - near).max() < 30
        assert data.expected == (table.DATASETS[name].splits or {}).get(split)
        pickle.loads(pickle.dumps(data))  # workers that are started afresh


@pytest.mark.parametrize('name', ['camvid', 'cityscapes', 'nyuv2', 'mapillary'])
def test_trainval_is_both(name, tmp_path):
    known = stand_in(name, tmp_path)
    assert all(
        (a == b).all() for a, b in zip(read('trainval'), known['train'] + known['val'], strict=True)
    )


@pytest.mark.parametrize(
    'name, n',
    [
        ('voc', 21),
        ('cityscapes', 19),
        ('coco_stuff', 171),
        ('coco_stuff_10k', 171),
        ('coco_panoptic', 54),
        ('coco_voc', 21),
        ('ade20k', 150),
        ('pascal_context', 59),
        ('nyuv2', 40),
        ('camvid', 11),
        ('shapes', 10),
        ('bdd100k', 19),
        ('mapillary', 65),
        ('sunrgbd', 37),
        ('aeroscapes', 12),
    ],
)
def test_class_tables(name, n):
    put(DATASET=name)
    found = dataset.classes()
    assert (
        len(found.names)
        == len(set(found.names))
        == len(set(found.raw))
        == len(found.colours)
        == n
        == dataset.n_classes()
    )


def test_coco_voc_is_in_the_order_of_voc():
    put(DATASET='voc')
    names = dataset.classes().names
    put(DATASET='coco_voc')
    assert dataset.classes().names == names
    coco = dict(
        person=0, bicycle=1, car=2, boat=8, bird=15, tvmonitor=71, diningtable=66
    )  # value in COCO-Stuff's PNG: id - 1
    assert {
        n: dataset.classes().raw[names.index(n)] for n in coco
    } == coco and dataset.classes().raw[0] is None


# ------------------------------------------------------------------------------------------------- other encodings


def test_trainaug_from_sbd_as_it_comes(tmp_path):
    known = stand_in('voc', tmp_path)
    data = Dataset('trainaug', train=False)
    found = {
        os.path.basename(image)[:-4]: data.read(i)[1] for i, (image, _) in enumerate(data.pairs)
    }
    wanted = {f'2008_{i:06d}': ids for i, ids in zip(range(10), known['train'])} | {
        f'2008_{i:06d}': ids_of('voc', i, 21) for i in (90, 91)
    }
    assert found.keys() == wanted.keys()  # VOC's val, which SBD's train has, is not among them
    assert all((found[n] == wanted[n]).all() for n in wanted)


def test_trainaug_as_png(tmp_path):
    stand_in('voc', tmp_path)
    root = f'{tmp_path}/VOCdevkit/VOC2012'
    text(
        f'{root}/ImageSets/Segmentation/trainaug.txt',
        ['/JPEGImages/2008_000090.jpg /SegmentationClassAug/2008_000090.png'],
    )
    palette(f'{root}/SegmentationClassAug/2008_000090.png', np.full(SIZE, 3))
    assert [np.unique(label).tolist() for label in read('trainaug')] == [[3]]


def test_cityscapes_train_ids(tmp_path):
    known = stand_in('cityscapes', tmp_path)['val']
    for folder, _, files in os.walk(f'{tmp_path}/cityscapes/gtFine/val'):
        for f in files:
            if f.endswith('_labelIds.png'):
                os.unlink(f'{folder}/{f}')
                write(
                    f'{folder}/{f.replace("labelIds", "labelTrainIds")}',
                    ids_of('cityscapes', int(f.split('_')[1]), 19),
                )
    assert all((a == b).all() for a, b in zip(read(), known, strict=True))


def test_all_ids_of_cityscapes():
    put(DATASET='cityscapes')
    table = LabelMap(dataset.classes(), dataset.entry().void, 255).tables['raw']
    named = {
        7: 0,
        8: 1,
        11: 2,
        12: 3,
        13: 4,
        17: 5,
        19: 6,
        20: 7,
        21: 8,
        22: 9,
        23: 10,
        24: 11,
        25: 12,
        26: 13,
        27: 14,
        28: 15,
        31: 16,
        32: 17,
        33: 18,
    }
    assert table[:34].tolist() == [named.get(i, 255) for i in range(34)] and set(table[34:]) == {
        UNKNOWN
    }


@pytest.mark.parametrize('ending, value', [('labelIds', 255), ('labelTrainIds', 26)])
def test_wrong_cityscapes_ids(ending, value, tmp_path):
    stand_in('cityscapes', tmp_path, 1)
    folder = f'{tmp_path}/cityscapes/gtFine/val/ulm0'
    for f in os.listdir(folder):
        os.unlink(f'{folder}/{f}')
    write(f'{folder}/ulm0_000010_000019_gtFine_{ending}.png', np.full(SIZE, value, np.uint8))
    with pytest.raises(
        UserError,
        match=rf'ulm0_000010_000019_gtFine_{ending}.png: label value {value} is not in classes/cityscapes.txt',
    ):
        read()


def test_converted_panoptic_and_context(tmp_path):
    known = stand_in('coco_panoptic', tmp_path / 'a')['val']
    shutil.rmtree(tmp_path / 'a/coco/annotations')
    for i, ids in enumerate(known, 10):
        write(f'{tmp_path}/a/coco/panoptic_stuff_val2017/{i:012d}.png', ids)
    assert all((a == b).all() for a, b in zip(read(), known, strict=True))
    known = stand_in('pascal_context', tmp_path / 'b')['val']
    for i, ids in enumerate(known, 10):
        write(
            f'{tmp_path}/b/VOCdevkit/VOC2010/SegmentationClassContext/2008_{i:06d}.png',
            (ids + 1).astype(np.uint8),
        )
    assert all((a == b).all() for a, b in zip(read(), known, strict=True))


def test_coco_voc_takes_the_images_that_are_named(tmp_path):
    known = stand_in('coco_voc', tmp_path)['train']
    assert len(read('train')) == 4
    text(f'{tmp_path}/coco/coco_voc_train2017.txt', [f'{2:012d}'])
    (label,) = read('train')
    assert (label == known[2]).all() and len(read('val')) == 4


def test_bdd100k_as_of_2021(tmp_path):
    known = stand_in('bdd100k', tmp_path)['val']
    root = f'{tmp_path}/bdd100k/seg'
    for i, ids in enumerate(known, 10):
        write(f'{root}/labels/sem_seg/masks/val/{i:08x}-{i:08x}.png', ids)
    shutil.rmtree(f'{root}/labels/val')
    os.makedirs(f'{root}/images/10k')
    os.rename(f'{root}/images/val', f'{root}/images/10k/val')
    assert all((a == b).all() for a, b in zip(read(), known, strict=True))


def test_mapillary_with_labels_of_two_versions(tmp_path):
    known = stand_in('mapillary', tmp_path)['val']
    folder = f'{tmp_path}/mapillary/validation'
    os.makedirs(f'{folder}/v1.2')
    os.rename(f'{folder}/labels', f'{folder}/v1.2/labels')
    assert all((a == b).all() for a, b in zip(read(), known, strict=True))
    write(f'{folder}/v1.2/labels/Ab-0010.png', np.full(SIZE, 66, np.uint8))
    with pytest.raises(UnknownValues, match='label value 66 is not in classes/mapillary.txt'):
        read()


@pytest.mark.parametrize(
    'name, void, unknown',
    [
        ('bdd100k', [255], [19, 254]),
        ('mapillary', [65], [66, 255]),
        ('sunrgbd', [0], [38, 255]),
        ('aeroscapes', [], [12, 255]),
    ],
)
def test_void_of_the_other_data_sets(name, void, unknown):
    put(DATASET=name)
    raw = LabelMap(dataset.classes(), dataset.entry().void, 255).tables['raw'][:256]
    assert np.flatnonzero(raw == 255).tolist() == void
    assert set(unknown) <= set(np.flatnonzero(raw == UNKNOWN))
    assert (raw < UNKNOWN).sum() == dataset.n_classes()


def test_sunrgbd_with_other_names_and_paths(tmp_path):
    """The list pairs them, from the data set's folder on; what is missing is named as the list does."""
    known = stand_in('sunrgbd', tmp_path)['train']
    root, lines = f'{tmp_path}/sunrgbd', []
    for i in range(4):
        os.makedirs(f'{root}/kv1/{i}/image', exist_ok=True)
        os.rename(f'{root}/images/img-{i:06d}.jpg', f'{root}/kv1/{i}/image/a.jpg')
        os.rename(f'{root}/labels/img-{i:06d}.png', f'{root}/labels/{i + 1}.png')
        lines.append(f'kv1/{i}/image/a.jpg labels/{i + 1}.png')
    text(f'{root}/train.txt', lines)
    assert all((a == b).all() for a, b in zip(read('train'), known, strict=True))
    os.unlink(f'{root}/labels/3.png')
    with pytest.raises(UserError, match=f'{root}/labels/3: this label is missing, 1 of 4 are'):
        read('train')
    assert table.missing(dataset.listings('train')) == [f'{root}/labels/3']


@pytest.mark.parametrize('line', ['img-000001.jpg', 'img-000001.jpg img-000001.png x', 'img'])
def test_a_list_of_sunrgbd_that_is_torn(line, tmp_path):
    stand_in('sunrgbd', tmp_path, splits=['train'])
    with open(f'{tmp_path}/sunrgbd/train.txt', 'a') as f:
        f.write(line)
    with pytest.raises(
        UserError,
        match=f"train.txt: '{line}' is not the path of an image and that of its label; is",
    ):
        read('train')


def test_a_list_of_aeroscapes_that_is_torn(tmp_path):
    stand_in('aeroscapes', tmp_path, splits=['train'])
    with open(f'{tmp_path}/aeroscapes/ImageSets/trn.txt', 'a') as f:
        f.write('00000')
    with pytest.raises(UserError, match='JPEGImages/00000: this image is missing, 1 of 5 are'):
        read('train')


# tables of data sets that DATASET=folder reads: classes, and a label as their makers or users have it
FOR_FOLDER = {
    'siftflow': 33,
    'gatech': 8,
    'stanford_background': 8,
    'weizmann_horses': 2,
    'mhp_v2': 59,
}


@pytest.mark.parametrize('name', FOR_FOLDER)
def test_class_tables_for_own_folders(name, tmp_path):
    """As docs/data.md says: the table becomes classes.txt."""
    source = os.path.join(os.path.dirname(layouts.__file__), 'classes', f'{name}.txt')
    own(tmp_path)
    shutil.copy(source, tmp_path / 'classes.txt')
    n = FOR_FOLDER[name]
    classes = dataset.classes()
    assert len(set(classes.names)) == len(set(map(tuple, classes.colours.tolist()))) == n
    raw = np.array([classes.raw], np.uint8).repeat(8, 0)
    write(f'{tmp_path}/images/train/a.png', np.zeros((*raw.shape, 3), np.uint8))
    write(f'{tmp_path}/labels/train/a.png', raw)
    assert (read('train')[0] == np.arange(n)).all()
    raw[:, 0] = 0 if name == 'gatech' else 255
    write(f'{tmp_path}/labels/train/a.png', raw)
    assert (read('train')[0][:, 0] == 255).all()


def test_labels_of_siftflow_as_they_come(tmp_path):
    """MATLAB files with 1..33, 0 is unlabelled."""
    own(tmp_path)
    shutil.copy(
        os.path.join(os.path.dirname(layouts.__file__), 'classes', 'siftflow.txt'),
        tmp_path / 'classes.txt',
    )
    write(f'{tmp_path}/images/train/a.jpg', np.zeros((4, 34, 3), np.uint8))
    values = np.arange(34).repeat(4).reshape(34, 4).T.astype(float)
    mat(f'{tmp_path}/labels/train/a.mat', S=values, names=np.array(['sky', 'sea'], object))
    assert (read('train')[0] == [255, *range(33)]).all()


def test_every_class_table_is_read_somewhere():
    folder = os.path.join(os.path.dirname(layouts.__file__), 'classes')
    used = {entry.classes or name for name, entry in table.DATASETS.items()} - {'folder'}
    assert sorted(f'{name}.txt' for name in used | set(FOR_FOLDER)) == sorted(os.listdir(folder))


def test_stuff_labels_beside_the_images(tmp_path):
    known = stand_in('coco_stuff', tmp_path)['val']
    for split in ('train', 'val'):
        shutil.copytree(
            f'{tmp_path}/coco/stuffthingmaps_trainval2017/{split}2017',
            f'{tmp_path}/coco/{split}2017',
            dirs_exist_ok=True,
        )
    shutil.rmtree(f'{tmp_path}/coco/stuffthingmaps_trainval2017')
    assert all((a == b).all() for a, b in zip(read(), known, strict=True))


@pytest.mark.parametrize('name', sorted(set(ALL) - {'folder'}))
def test_a_half_unpacked_archive(name, tmp_path):
    """A label and an image less: both are named."""
    stand_in(name, tmp_path, splits=['train'])
    data = Dataset('train', train=False)
    image, label = data.pairs[1]
    label = getattr(label, 'path', label)
    for path, what in ((label, 'label'), (image, 'image')):
        os.rename(path, path + '.away')
        with pytest.raises(
            UserError, match=f'{os.path.basename(path)[:4]}.*this {what} is missing, 1 of 4 are'
        ):
            Dataset('train', train=False)
        os.rename(path + '.away', path)


def test_json_that_does_not_fit(tmp_path):
    stand_in('coco_panoptic', tmp_path, splits=['val'])
    path = f'{tmp_path}/coco/annotations/panoptic_val2017.json'
    with open(path) as f:
        found = json.load(f)
    whole = json.dumps(found)
    found['annotations'][0]['segments_info'].pop()
    with open(path, 'w') as f:
        json.dump(found, f)
    with pytest.raises(UserError, match=r'000000000000.png: the JSON has no segment \d+'):
        Dataset('val', train=False).check()
    del found['annotations'][0]
    with open(path, 'w') as f:
        json.dump(found, f)
    no_entry = '000000000000.jpg: .*panoptic_val2017.json has no entry for this image'
    with pytest.raises(UserError, match=no_entry + '; are both'):
        Dataset('val', train=False)
    del found['annotations'][0]
    with open(path, 'w') as f:
        json.dump(found, f)
    with pytest.raises(UserError, match=no_entry + ' and 1 more; are both'):
        Dataset('val', train=False)
    for broken in (whole[:-9], '[]', '{"annotations": []}'):
        with open(path, 'w') as f:
            f.write(broken)
        with pytest.raises(
            UserError,
            match='panoptic_val2017.json: this is no panoptic JSON of COCO, or only part of one',
        ):
            Dataset('val', train=False)


def test_mat_files_that_will_not_do(tmp_path):
    stand_in('coco_stuff_10k', tmp_path, 1)
    path = f'{tmp_path}/cocostuff-10k-v1.1/annotations/COCO_train2014_000000000000.mat'
    for make in (
        lambda: mat(path, other=np.zeros((2, 2))),
        lambda: mat(path, S=np.full(SIZE, 0.5)),
        lambda: mat(path, S=np.full(SIZE, -1)),
        lambda: mat(path, S=np.zeros((2, 2, 2), np.uint8)),
        lambda: mat(path, S=np.full(SIZE, 70000)),
        lambda: open(path, 'wb').write(b'MATLAB 5.0'),
        lambda: open(path, 'wb').close(),
    ):
        make()
        with pytest.raises(
            UserError, match='000000000000.mat: this MATLAB file cannot be read as a label'
        ):
            Dataset('train', train=False).check()


# --------------------------------------------------------------------------------------------- pairs that are there


def files_of(pairs):
    return [(image, getattr(label, 'path', label)) for image, label in pairs]


@pytest.mark.parametrize('name', sorted(set(ALL) - {'folder'}))
def test_pairs_that_are_there(name, tmp_path):
    """The label of one sample and the image of another go: two pairs are left, two files are named."""
    stand_in(name, tmp_path, splits=['train'])
    whole, listings = files_of(Dataset('train', train=False).pairs), dataset.listings('train')
    assert files_of(table.pair_present(listings)) == whole and table.missing(listings) == []
    gone = whole[1][1], whole[2][0]
    for path in gone:
        os.unlink(path)
    listings = dataset.listings('train')
    pairs, missing = table.pair_present(listings), table.missing(listings)
    assert files_of(pairs) == [whole[0], whole[3]] and len(missing) == 2
    for path, name_of in zip(gone, missing[::-1], strict=True):
        assert os.path.basename(path).startswith(os.path.basename(name_of))
        assert path.startswith(os.path.dirname(name_of))
    data = Dataset('train', train=True, pairs=pairs)
    assert len(data) == 2 and data.expected == table.DATASETS[name].splits['train']
    data.check()


@pytest.mark.parametrize(
    'name, file',
    [
        ('voc', 'VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt'),
        ('coco_panoptic', 'coco/annotations/panoptic_val2017.json'),
        ('nyuv2', 'nyuv2/val.txt'),
        ('aeroscapes', 'aeroscapes/ImageSets/val.txt'),
        ('sunrgbd', 'sunrgbd/test.txt'),
    ],
)
def test_a_list_that_is_not_there(name, file, tmp_path):
    """The exception has the path; the sentence says how to get the data."""
    stand_in(name, tmp_path, 1, splits=['val'])
    os.unlink(tmp_path / file)
    with pytest.raises(layouts.Missing) as e:
        dataset.listings('val')
    assert os.path.basename(e.value.path).startswith(os.path.basename(file)[:3])
    assert not os.path.exists(e.value.path)
    assert 'is missing; ' in str(e.value) and str(e.value).endswith(table.DATASETS[name].get)


@pytest.mark.parametrize('form', ['annot', 'masks', 'lists', 'undivided'])
def test_trainval_of_ones_own(form, tmp_path):
    """It is train and val together, however they are divided; a list of its own goes first."""
    ids = [ids_of('folder', i, 2) for i in range(5)]
    for i, label in enumerate(ids):
        split = 'train' if i < 3 else 'val'
        places = {
            'annot': (split, f'{split}annot'),
            'masks': (f'{split}/images', f'{split}/masks'),
            'lists': ('photos', 'masks'),
            'undivided': ('images', 'labels'),
        }
        image_dir, label_dir = places[form]
        write(f'{tmp_path}/{image_dir}/{i}.jpg', colour_of(label))
        write(f'{tmp_path}/{label_dir}/{i}.png', label.astype(np.uint8))
    if form == 'lists':
        for split, numbers in (('train', '012'), ('val', '34')):
            lines = [f'photos/{i}.jpg masks/{i}.png' for i in numbers]
            text(f'{tmp_path}/{split}.txt', lines)
    own(tmp_path, '0 0 0 0 a', '1 9 9 9 b')
    both = [path for split in ('train', 'val') for path, _ in Dataset(split, train=False).pairs]
    data = Dataset('trainval', train=False)
    assert [path for path, _ in data.pairs] == both and len(both) == 5
    if form == 'lists':
        text(f'{tmp_path}/trainval.txt', ['photos/4.jpg masks/4.png'])
        assert len(Dataset('trainval', train=False)) == 1


def test_trainval_has_two_listings(tmp_path):
    """Files of one name in both halves are two samples."""
    stand_in('camvid', tmp_path, 2)
    for kind in ('', 'annot'):
        shutil.copytree(
            f'{tmp_path}/camvid/train{kind}', f'{tmp_path}/camvid/val{kind}', dirs_exist_ok=True
        )
    assert [len(listing.names) for listing in dataset.listings('trainval')] == [2, 4]
    assert len(Dataset('trainval', train=False)) == 6


# -------------------------------------------------------------------------------------------------- unknown values


def unknown_values(split='train', index=0):
    with pytest.raises(UnknownValues) as e:
        Dataset(split, train=False).read(index)
    return e.value


def test_exceptions_carry_unknown_values(tmp_path):
    stand_in('camvid', tmp_path / 'a', 1)
    path = f'{tmp_path}/a/camvid/trainannot/0000.png'
    write(path, np.arange(SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint8))
    error = unknown_values()
    assert (error.path, error.values) == (path, [12, 13, 14, 15, 16])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path, again.values) == (str(error), error.path, error.values)
    assert str(UnknownValues(str(error))) == str(error)  # as a DataLoader makes it
    stand_in('cityscapes', tmp_path / 'b', 1, splits=['val'])
    folder = f'{tmp_path}/b/cityscapes/gtFine/val/ulm0'
    for f in os.listdir(folder):
        os.unlink(f'{folder}/{f}')
    write(f'{folder}/ulm0_000000_000019_gtFine_labelTrainIds.png', np.full(SIZE, 26, np.uint8))
    error = unknown_values('val')
    assert error.values == [26] and 'is not in classes/cityscapes.txt as a train id; ' in str(error)


def test_exceptions_carry_unknown_colours(tmp_path):
    own(tmp_path)
    write(f'{tmp_path}/images/train/a.png', np.zeros((4, 4, 3), np.uint8))
    os.makedirs(tmp_path / 'labels/train')
    picture = np.full((4, 4, 3), (10, 20, 30), np.uint8)
    picture[2, 1] = 1, 2, 3
    Image.fromarray(picture).save(tmp_path / 'labels/train/a.png')
    error = unknown_values()
    assert (error.path, error.values) == (f'{tmp_path}/labels/train/a.png', [(1, 2, 3)])


# ------------------------------------------------------------------------------------------------------ own data


CLASSES = ['0 10 20 30 ground', '1 200 0 0 hut', '7 0 0 200 tree', '9 255 255 255 void']


def own(folder, *lines):
    put(DATASET='folder', DATA_ROOT=str(folder), TRAIN_SPLIT='train', NUM_WORKERS=0)
    text(f'{folder}/classes.txt', lines or CLASSES)


def test_colour_labels(tmp_path):
    own(tmp_path)
    ids = np.array([[0, 1, 2, 255]] * 3, np.uint8)
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 200], [255, 255, 255]], np.uint8)[
        np.where(ids == 255, 3, ids)
    ]
    for i, mode in enumerate(('RGB', 'RGBA')):
        write(f'{tmp_path}/images/train/{i}.png', colours)
        os.makedirs(tmp_path / 'labels/train', exist_ok=True)
        Image.fromarray(colours).convert(mode).save(tmp_path / f'labels/train/{i}.png')
    assert all((label == ids).all() for label in read('train'))
    colours[1, 1] = 1, 2, 3
    Image.fromarray(colours).save(tmp_path / 'labels/train/0.png')
    with pytest.raises(
        UserError, match=r'0.png: the colour \(1, 2, 3\) is not in .*classes.txt; add its line'
    ):
        read('train')


def test_list_of_two_paths(tmp_path):
    own(tmp_path)
    ids = blocks(*SIZE, seed=3, classes=3)
    raw = np.array([0, 1, 7], np.uint8)[ids]
    for folder, name in (('bild er', 'ä 1'), ('b', '2')):
        write(f'{tmp_path}/{folder}/{name}.jpg', colour_of(ids))
        write(f'{tmp_path}/{folder}/{name} label.png', raw)
    text(
        f'{tmp_path}/train.txt',
        ['bild er/ä 1.jpg bild er/ä 1 label.png', '', f'{tmp_path}/b/2.jpg\tb/2 label.png'],
    )
    assert all((label == ids).all() for label in read('train')) and len(read('train')) == 2
    text(f'{tmp_path}/train.txt', ['b/2.jpg b/3.png'])
    with pytest.raises(UserError, match=r'b/3.png: this file is missing; .*train.txt names it'):
        read('train')


def test_list_lines_without_a_label(tmp_path):
    own(tmp_path)
    write(f'{tmp_path}/a.png', np.zeros((4, 4, 3), np.uint8))
    write(f'{tmp_path}/b.png', np.zeros((4, 4), np.uint8))
    text(f'{tmp_path}/train.txt', ['a.png b.png', 'a.png'])
    with pytest.raises(
        UserError, match="train.txt: 'a.png' names one file, other lines an image and its label"
    ):
        read('train')


def on_the_way():
    """(data set, folder of its files in the tree, DATA_ROOT): every folder from above to that one."""
    for name, source in sorted(table.DATASETS.items()):
        for folder in source.folders:
            steps = folder.split('/')
            for i in range(len(steps) + 1):
                yield name, folder, '/'.join(steps[:i])


@pytest.mark.parametrize('name, folder, root', list(on_the_way()))
def test_data_root_is_any_folder_on_the_way(name, folder, root, tmp_path):
    """An entry's first marker tells its folder."""
    source = table.DATASETS[name]
    os.makedirs(tmp_path / folder / source.markers[0])
    put(DATASET=name, DATA_ROOT=str(tmp_path / root))
    assert os.path.samefile(table.locate(source), tmp_path / folder)


def test_bdd100k_in_its_own_folder(tmp_path):
    known = stand_in('bdd100k', tmp_path)['val']
    put(DATA_ROOT=f'{tmp_path}/bdd100k')
    assert all((a == b).all() for a, b in zip(read(), known, strict=True))


@pytest.mark.parametrize(
    'name, folder, ending, kind',
    [
        ('bdd100k', 'bdd100k/seg/labels/val', '_train_id', 'label'),
        ('cityscapes', 'cityscapes/gtFine/val', '_gtFine_labelIds', 'label'),
        ('cityscapes', 'cityscapes/leftImg8bit/val', '_leftImg8bit', 'image'),
    ],
)
def test_files_without_the_ending_of_their_data_set(name, folder, ending, kind, tmp_path):
    """They are named, and what is expected; a missing one is named in full, with its counterpart."""
    stand_in(name, tmp_path, 2, splits=['val'])
    paths = sorted(str(path) for path in (tmp_path / folder).rglob(f'*{ending}.*'))
    for path in paths:
        os.rename(path, path.replace(ending, ''))
    short, file = paths[0].replace(ending, ''), os.path.basename(paths[0])
    with pytest.raises(
        UserError,
        match=f'{short}: this {kind} is there, but {name} expects the name {file}; rename',
    ):
        read()
    with pytest.raises(UserError, match='is there, but'):
        check.open_split('val')
    os.unlink(short)
    os.rename(paths[1].replace(ending, ''), paths[1])
    with pytest.raises(UserError) as e:
        read()
    stem = os.path.splitext(file)[0]
    assert f'/{stem}: this {kind} is missing, 1 of 2 are; unpack the whole archive (' in str(
        e.value
    )
    assert 'one name' not in str(e.value) and stem in str(e.value).partition('(the label of ')[2]


def test_vistas_of_version_2(tmp_path):
    """Its labels have other classes; their folder tells it, or else their values."""
    stand_in('mapillary', tmp_path, 1)
    folder = f'{tmp_path}/mapillary/validation'
    os.makedirs(f'{folder}/v2.0')
    os.rename(f'{folder}/labels', f'{folder}/v2.0/labels')
    for split in ('val', 'trainval'):
        with pytest.raises(
            UserError, match=f'{folder}/v2.0/labels: .* version 2.0, .* version 1.2 are read'
        ):
            read(split)
    assert len(read('train')) == 1
    shutil.copytree(f'{folder}/v2.0/labels', f'{folder}/labels')
    assert len(read()) == 1  # which version is unpacked, too, does not matter
    write(f'{folder}/labels/Ab-0010.png', np.full(SIZE, 123, np.uint8))
    error = unknown_values('val')
    assert 'label value 123 is not in' in str(error) and 'version 2.0 has other' in str(error)


def test_a_list_of_sunrgbd_with_all_kinds_of_paths(tmp_path):
    """Each line by itself: absolute, from the folder on, from images/ and labels/ on, of Windows."""
    known = stand_in('sunrgbd', tmp_path)['train']
    root = f'{tmp_path}/sunrgbd'
    os.makedirs(f'{root}/labels/deep/er')
    os.rename(f'{root}/labels/img-000003.png', f'{root}/labels/deep/er/3.png')
    lines = [
        f'{root}/images/img-000000.jpg {root}/labels/img-000000.png',
        'img-000001.jpg img-000001.png',
        r'images\img-000002.jpg labels\img-000002.png',
        r'img-000003.jpg deep\er\3.png',
    ]
    text(f'{root}/train.txt', lines)
    assert all((a == b).all() for a, b in zip(read('train'), known, strict=True))
    os.unlink(f'{root}/labels/img-000001.png')
    with pytest.raises(UserError) as e:
        read('train')
    assert f'{root}/labels/img-000001: this label is missing, 1 of 4 are' in str(e.value)
    assert 'a line names an image and its label' in str(e.value) and 'one name' not in str(e.value)


@pytest.mark.parametrize('start', ['', 'images/', '.\\', './images/', '{root}/images/'], ids=repr)
def test_two_labels_of_one_image(start, tmp_path):
    stand_in('sunrgbd', tmp_path, splits=['train'])
    path = f'{tmp_path}/sunrgbd/train.txt'
    with open(path, 'a') as f:
        f.write(start.format(root=f'{tmp_path}/sunrgbd') + 'img-000001.jpg img-000002.png')
    with pytest.raises(UserError) as e:
        read('train')
    assert str(e.value) == (
        f'{path}: the image images/img-000001.jpg has two labels, labels/img-000001.png and '
        'labels/img-000002.png; remove one of the lines'
    )


def test_own_lists_written_on_windows(tmp_path):
    own(tmp_path)
    for name in ('a', 'b b'):
        write(f'{tmp_path}/x/{name}.png', np.zeros((4, 4, 3), np.uint8))
        write(f'{tmp_path}/y y/{name}.png', np.full((4, 4), 7, np.uint8))
    text(f'{tmp_path}/train.txt', [r'x\a.png y y\a.png', 'x\\b b.png\ty y\\b b.png'])
    assert [np.unique(label).tolist() for label in read('train')] == [[2], [2]]
    text(f'{tmp_path}/test.txt', [r'x\a.png', r'x\b b.png'])
    assert len(Dataset('test', train=False)) == 2


def test_own_labels_that_are_not_there(tmp_path):
    own(tmp_path)
    write(f'{tmp_path}/images/train/a.jpg', np.zeros((4, 4, 3), np.uint8))
    write(f'{tmp_path}/gt/train/a.png', np.zeros((4, 4), np.uint8))
    with pytest.raises(
        UserError, match=f'{tmp_path}/labels/train/a: this label is missing, 1 of 1 are'
    ):
        read('train')
    os.rename(tmp_path / 'images/train', tmp_path / 'images/test')
    assert not Dataset('test', train=False).labelled


def test_labels_of_doubles(tmp_path):
    """MATLAB's usual type."""
    stand_in('pascal_context', tmp_path, 1)
    path = f'{tmp_path}/VOCdevkit/VOC2010/trainval/2008_000000.mat'
    mat(path, LabelMap=np.full(SIZE, 2.0))
    assert (read('train')[0] == 0).all()


def test_other_layouts_of_own_data(tmp_path):
    own(tmp_path)
    for image, label in (
        ('train/a.jpg', 'trainannot/a.png'),
        ('train/b.jpg', 'trainannot/b.png'),
        ('train/c.jpg', 'trainannot/c.png'),
    ):
        write(f'{tmp_path}/{image}', colour_of(np.zeros((6, 6))))
        write(f'{tmp_path}/{label}', np.full((6, 6), 7, np.uint8))
    assert len(read('train')) == 3
    text(f'{tmp_path}/train.txt', ['a', 'c.jpg'])
    assert [np.unique(label).tolist() for label in read('train')] == [[2], [2]]


@pytest.mark.parametrize(
    'lines, said',
    [
        (['0 1 2 ground'], "line 1: '0 1 2 ground' is not"),
        (['x 1 2 3 a'], 'line 1'),
        (['0 1 2 300 a'], 'line 1'),
        (['0 1 2 3 a', '', '0 4 5 6 b'], 'line 3: the value 0 is named twice'),
        (['70000 1 2 3 a'], 'line 1'),
        (['0 0 0 0 void'], '0 classes; there must be 1 to 253'),
    ],
)
def test_class_tables_that_will_not_do(lines, said, tmp_path):
    own(tmp_path, *lines)
    with pytest.raises(UserError, match=r'classes.txt.*' + said.replace('(', r'\(')):
        dataset.classes()


def test_missing_class_table(tmp_path):
    put(DATASET='folder', DATA_ROOT=str(tmp_path))
    with pytest.raises(UserError, match='classes.txt: this class table cannot be read'):
        Dataset('train', train=False)


def test_all_other_values(tmp_path):
    own(tmp_path, '* 0 0 0 rest', '3 1 1 1 thing', '9 0 0 0 void')
    write(f'{tmp_path}/images/train/a.png', np.zeros((2, 3, 3), np.uint8))
    write(f'{tmp_path}/labels/train/a.png', np.array([[0, 3, 9], [77, 255, 3]], np.uint8))
    assert read('train')[0].tolist() == [[0, 1, 255], [0, 255, 1]]


# ------------------------------------------------------------------------------------------------- kinds of pictures


def test_labels_of_16_bits(tmp_path):
    own(tmp_path, '0 0 0 0 a', '1000 1 1 1 b')
    write(f'{tmp_path}/images/train/a.png', np.zeros((2, 2, 3), np.uint8))
    write(f'{tmp_path}/labels/train/a.png', np.array([[0, 1000], [1000, 0]], np.uint16))
    assert read('train')[0].tolist() == [[0, 1], [1, 0]]
    write(f'{tmp_path}/labels/train/a.png', np.array([[0, 1001], [60000, 0]], np.uint16))
    with pytest.raises(UserError, match='a.png: label value 1001, 60000 is not in'):
        read('train')


@pytest.mark.parametrize(
    'mode, ending',
    [
        ('L', 'png'),
        ('P', 'png'),
        ('RGBA', 'png'),
        ('I;16', 'png'),
        ('CMYK', 'jpg'),
        ('L', 'jpg'),
        ('1', 'png'),
    ],
)
def test_images_of_other_kinds(mode, ending, tmp_path):
    """Within what JPEG loses, as Pillow reads them."""
    y, x = np.mgrid[:48, :64]
    colours = np.stack([4 * x, 5 * y, 128 + 0 * x], 2).astype(np.uint8)
    path = tmp_path / f'picture.{ending}'
    if mode == 'I;16':
        write(str(path), (4 * x * 256).astype(np.uint16))
        wanted = np.repeat((4 * x)[..., None], 3, 2)
    else:
        picture = Image.fromarray(colours).convert(mode)
        picture.save(path, quality=95) if ending == 'jpg' else picture.save(path)
        wanted = np.array(Image.open(path).convert('RGB'))
    found = read_image(str(path))
    assert found.shape == (48, 64, 3) and np.abs(found.astype(int) - wanted).max() <= 3


def test_rotated_by_exif_alone(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / 'a.jpg', exif=exif)
    assert read_image(str(tmp_path / 'a.jpg')).shape == (20, 30, 3)


def test_200_megapixels(tmp_path):
    own(tmp_path)
    for folder in ('images', 'labels'):
        os.makedirs(tmp_path / folder / 'train')
        Image.new('L', (20000, 10000), 7).save(tmp_path / folder / 'train/a.png', compress_level=1)
    image, label = Dataset('train', train=False).read(0)
    assert image.shape == (10000, 20000, 3) and (label[::999, ::999] == 2).all()


def test_symlinked_root(tmp_path):
    known = stand_in('cityscapes', tmp_path / 'däta räum', splits=['val'])['val']
    os.symlink(tmp_path / 'däta räum', tmp_path / 'link')
    put(DATA_ROOT=str(tmp_path / 'link'))
    assert len(read()) == len(known)
    os.symlink(tmp_path / 'link/cityscapes', tmp_path / 'direct')
    put(DATA_ROOT=str(tmp_path / 'direct'))
    assert len(read()) == len(known)


# -------------------------------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize('name', ['camvid', 'coco_panoptic', 'voc'])
def test_cache_gives_the_same(name, tmp_path):
    stand_in(name, tmp_path)
    plain = Dataset('train', train=False)
    dataset.cache(plain)
    assert not plain.cached
    assert all(os.path.isfile(plain.cache_path(index)) for index in range(4))
    data = Dataset('train', train=False)
    assert data.cached
    for index in range(4):
        for a, b in zip(plain[index][:2], data[index][:2]):
            assert a.equal(b) and a.stride() == b.stride()
    put(CROP_SIZE=33, SCALES=(1.0, 1.5))
    samples = [Dataset('train', train=True)[7, 2] for _ in range(2)]
    shutil.rmtree(data.cache_dir)
    assert all(a.equal(b) for a, b in zip(samples[0], Dataset('train', train=True)[7, 2]))


def test_cache_reads_no_picture_and_notices_changes(tmp_path, monkeypatch):
    stand_in('camvid', tmp_path)
    dataset.cache(Dataset('train', train=False))
    data = Dataset('train', train=False)
    with monkeypatch.context() as m:
        m.setattr(dataset, 'read_image', lambda *_, **__: 1 / 0)
        data.read(0)
    label = data.pairs[0][1]
    facts, size = os.stat(label), os.path.getsize(label)
    write(label, np.full(SIZE, 5, np.uint8))  # another size
    os.utime(label, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert os.path.getsize(label) != size and (data.read(0)[1] == 5).all()
    dataset.cache(data)
    os.utime(label, (1, 1))  # another time
    with monkeypatch.context() as m:
        m.setattr(dataset, 'read_image', lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            data.read(0)
    put(IGNORE_LABEL=99)
    assert Dataset('train', train=False).read(1)[1].max() == 99  # another table, other pixels


def test_cache_is_asked_once_per_sample(tmp_path, monkeypatch):
    stand_in('camvid', tmp_path, 2)
    dataset.cache(Dataset('train', train=False))
    asked = []
    for name in ('cache_path', 'load'):

        def counted(*args, name=name, original=getattr(cache, name)):
            asked.append(name)
            return original(*args)

        monkeypatch.setattr(cache, name, counted)
    data, training = Dataset('train', train=False), Dataset('train', train=True)
    os.unlink(data.cache_path(1))
    for ask in (
        lambda: data[0],
        lambda: data[1],
        lambda: training[3, 0],
        lambda: training[3, 1],
        lambda: training.count(0),
        lambda: training.count(1),
        lambda: data.save(0),
        lambda: data.save(1),
    ):
        asked.clear()
        ask()
        assert asked == ['cache_path', 'load']


def test_cache_without_labels_and_on_a_full_disk(tmp_path, monkeypatch):
    stand_in('voc', tmp_path)
    dataset.cache(Dataset('test', train=False))
    assert Dataset('test', train=False).read(0)[1] is None
    shutil.rmtree(Dataset('test', train=False).cache_dir)

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(UserError, match='could not be written .*No space left'):
        dataset.cache(Dataset('test', train=False))
    assert not any(files for _, _, files in os.walk(Dataset('test', train=False).cache_dir))


# ------------------------------------------------------------------------------------------------------- batches, weights


def test_batches_of_whole_images_are_padded(tmp_path):
    stand_in('camvid', tmp_path)
    data = Dataset('train', train=True)
    a, b = (
        (torch.zeros(3, 5, 9, dtype=torch.uint8), torch.zeros(5, 9, dtype=torch.uint8)),
        (torch.ones(3, 7, 4, dtype=torch.uint8), torch.ones(7, 4, dtype=torch.uint8)),
    )
    images, labels = data.collate([a, b])
    assert (
        images.shape == (2, 3, 7, 9)
        and labels.shape == (2, 7, 9)
        and images.is_contiguous(memory_format=torch.channels_last)
    )
    assert (
        (images[0, :, :5] == 0).all()
        and (images[1, :, :, :4] == 1).all()
        and (labels[1, :, 4:] == 255).all()
        and (labels[0, 5:] == 255).all()
    )
    assert images[1, :, 0, 8].tolist() == [round(255 * v) for v in settings.MEAN]


def test_class_weights(tmp_path):
    from utils import distributed

    stand_in('camvid', tmp_path, 2)
    root = f'{tmp_path}/camvid/trainannot'
    first, second = np.full(SIZE, 11, np.uint8), np.zeros(SIZE, np.uint8)
    first[:10], first[10:40] = 0, 1
    second[:20, :28] = 2
    write(f'{root}/0000.png', first)
    write(f'{root}/0001.png', second)
    world, data = distributed.World([torch.device('cpu')]), Dataset('train', train=True)
    put(CLASS_WEIGHTS='median_freq')
    n = SIZE[0] * SIZE[1]
    zeros = 10 * 56 + n - 20 * 28
    freq = np.array([zeros / (2 * n), 30 * 56 / n, 20 * 28 / n])
    assert np.allclose(dataset.class_weights(data, world), [*np.median(freq) / freq, *[0] * 8])
    put(CLASS_WEIGHTS='')
    assert dataset.class_weights(data, world) is None
    put(CLASS_WEIGHTS=(1.0,) * 11)
    assert dataset.class_weights(data, world) == [1.0] * 11


# ---------------------------------------------------------------------------------------------------- real pictures


def sample(folder, name):
    if not os.path.isdir(os.path.join(folder, name)):
        pytest.skip(f'{folder} has no {name}')
    return os.path.join(folder, name)


def test_real_cityscapes(sample_data, tmp_path):
    """labelIds through the table are the labelTrainIds that Cityscapes' own script wrote."""
    put(DATASET='cityscapes', DATA_ROOT=sample(sample_data, 'cityscapes_sample'))
    data = Dataset('val', train=False)
    path, label = data.pairs[0][1], data.read(0)[1]
    assert path.endswith('_labelIds.png')
    theirs = cv2.imread(path.replace('labelIds', 'labelTrainIds'), cv2.IMREAD_UNCHANGED)
    assert (
        label != theirs
    ).mean() < 0.005  # pixels on edges: the sample's two files were made smaller one by one
    for c in np.unique(theirs):
        assert np.bincount(label[theirs == c]).argmax() == c


def test_real_panoptic(sample_data):
    """The pixels of each class are the areas that the JSON tells."""
    put(DATASET='coco_panoptic', DATA_ROOT=sample(sample_data, 'coco_panoptic_sample'))
    data = Dataset('val', train=False)
    with open(f'{sample_data}/coco_panoptic_sample/annotations/panoptic_val2017.json') as f:
        found = json.load(f)
    thing, raw = {c['id']: c['isthing'] for c in found['categories']}, data.classes.raw
    assert len(data) == 2
    for i, (image, segments) in enumerate(data.pairs):
        areas = np.zeros(256, int)
        (one,) = [
            a for a in found['annotations'] if a['file_name'] == os.path.basename(segments.path)
        ]
        for s in one['segments_info']:
            areas[0 if thing[s['category_id']] else raw.index(s['category_id'])] += s['area']
        label = data.read(i)[1]
        areas[255] = label.size - areas.sum()
        assert (np.bincount(label.ravel(), minlength=256) == areas).all()


def test_real_voc(sample_data):
    put(DATASET='voc', DATA_ROOT=sample(sample_data, 'voc_sample'))
    data = Dataset('val', train=False)
    data.check()
    for i in range(len(data)):
        picture = Image.open(data.pairs[i][1])
        colours = np.array(picture.convert('RGB'))
        label = data.read(i)[1]
        seen = label != 255
        assert (data.classes.colours[label[seen]] == colours[seen]).all() and (
            colours[~seen] == [224, 224, 192]
        ).all()


# ------------------------------------------------------------------------------------------- folders of one's own

WAYS = {  # where a picture and its label lie, in the ways in which people keep them
    'masks': ('images/{split}/{name}.tif', 'masks/{split}/{name}.png'),
    'annotations': ('images/{split}/{name}.bmp', 'annotations/{split}/{name}.tif'),
    'a folder a split': ('{split}/images/{name}.webp', '{split}/labels/{name}.png'),
    'masks in it': ('{split}/images/{name}.gif', '{split}/masks/{name}.tiff'),
    'names that are joined': ('{split}_images/{name}.jpg', '{split}_masks/{name}_mask.png'),
    'joined labels': ('{split}_images/{name}.png', '{split}_labels/{name}.bmp'),
    'masks next to a split': ('{split}/{name}.jpg', '{split}_masks/{name}_mask.png'),
    'in one folder': ('{split}/{name}.jpg', '{split}/{name}_mask.png'),
}


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('val', ['val', 'valid'])
def test_ways_of_own_data(way, val, tmp_path):
    own(tmp_path)
    for number, split in enumerate(('train', val)):
        for i in range(2):
            names = [path.format(split=split, name=f'p{number}{i}') for path in WAYS[way]]
            label = np.full((6, 8), 7, np.uint8)
            label[:, : 2 * number + i + 1] = 1
            for name, pixels in zip(names, (colour_of(label), label), strict=True):
                os.makedirs(os.path.dirname(f'{tmp_path}/{name}'), exist_ok=True)
                Image.fromarray(pixels).save(f'{tmp_path}/{name}')
    for number, split in enumerate(('train', 'val')):
        data = Dataset(split, train=False)
        assert len(data) == 2
        for i in range(2):
            image, label = data.read(i)
            assert image.shape == (6, 8, 3)
            assert (label == 1).sum() == 6 * (2 * number + i + 1) and (label == 2).any()
    with pytest.raises(UserError):
        Dataset('test', train=False)


@pytest.mark.parametrize(
    'image, label',
    [
        ('images/{}.jpg', 'masks/{}.png'),
        ('{}.jpg', '{}_mask.png'),
        ('images/{}.png', 'images/{}_mask.png'),
    ],
)
def test_own_data_that_nothing_divides(image, label, tmp_path):
    """A fifth is to validate on, always the same; a list for one split ends that."""
    own(tmp_path)
    for i in range(10):
        write(f'{tmp_path}/{image.format(i)}', np.zeros((4, 4, 3), np.uint8))
        write(f'{tmp_path}/{label.format(i)}', np.zeros((4, 4), np.uint8))
    names = {}
    for split in ('train', 'val'):
        names[split] = [os.path.basename(path)[0] for path, _ in Dataset(split, train=False).pairs]
    assert names == lists.share(map(str, range(10)))
    assert len(names['val']) == 2 and len(set(names['train'] + names['val'])) == 10
    text(f'{tmp_path}/train.txt', names['train'][:4])
    assert len(Dataset('train', train=False)) == 4
    with pytest.raises(layouts.Missing, match='val.txt: this list of pictures is missing'):
        Dataset('val', train=False)


def test_own_labels_that_are_missing_in_masks(tmp_path):
    own(tmp_path)
    for name in ('a', 'b'):
        write(f'{tmp_path}/images/train/{name}.jpg', np.zeros((4, 4, 3), np.uint8))
    write(f'{tmp_path}/masks/train/a.png', np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match=f'{tmp_path}/masks/train/b: this label is missing, 1 of 2'):
        Dataset('train', train=True)
