"""prepare.py folder --from SOURCE, and DATASET=folder: names, folders and files as people leave them."""

import json
import multiprocessing
import os
import shutil
import signal
import unicodedata

import numpy as np
import pytest
from helpers import write
from PIL import Image
from scripts import snapshot
from standins import text
from test_own import (
    MAKERS,
    NAMES,
    H,
    W,
    assert_right,
    dump,
    in_order,
    in_this_process,  # noqa: F401, a fixture that is used by itself
    label_of,
    labels_by_name,
    make_coco,
    make_cvat,
    make_labelme,
    make_labelstudio,
    make_rle,
    make_roboflow,
    make_voc,
    make_yolo,
    picture,
    save,
)

import dataset
import prepare
import settings
from datasets.files import read_classes
from preparation import archives, assemble, check, labelstudio, lookup, marks, tools, yolo_yaml
from utils.config import UserError


def change(path, function):
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


# ------------------------------------------------------------------------------------------- a stop


def slow(folder, index):
    with open(os.path.join(folder, str(index)), 'w'):
        pass
    return index


def test_a_stop_ends_the_loader_processes_before_their_folder_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, 'NUM_WORKERS', 1)
    kept = None
    with pytest.raises(KeyboardInterrupt), archives.staging(str(tmp_path / 'x')) as work:
        try:
            results = dataset.parallel_map(lambda i: slow(work, i), range(10_000), 'slow')
            assert next(results) == 0
            results.throw(KeyboardInterrupt)
        except KeyboardInterrupt as e:
            kept = e  # its traceback holds the loader
            assert not multiprocessing.active_children()
            raise
    assert kept and not os.path.exists(tmp_path / 'x')


def test_a_second_stop_disturbs_nothing(signals_restored, capfd):
    signal.signal(signal.SIGINT, prepare.stop)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err == 'stopping, cleaning up\n'


# ------------------------------------------------------------------------------------------- no val


@pytest.mark.parametrize('kind', ['folders', 'one picture'])
def test_a_set_without_val_says_so(kind, tmp_path, capsys):
    for i, name in enumerate(NAMES if kind == 'folders' else NAMES[:1]):
        write(f'{tmp_path}/images/train/{name}.png', picture(i))
        save(f'{tmp_path}/masks/train/{name}.png', np.minimum(label_of(i), 1))
    if kind == 'one picture':
        tools.convert(str(tmp_path), 'binary')
        out = capsys.readouterr().out
        assert '1 picture: there is none to validate on' in out and 'ITER_VAL=0' in out
    else:
        text(f'{tmp_path}/classes.txt', ['0 0 0 0 a', '1 9 9 9 b'])
    check.check([])
    out = capsys.readouterr().out
    assert 'is in order, but there is no split val, which training asks for' in out
    assert 'ITER_VAL=0' in out.split('settings that fit: ')[1].splitlines()[0]
    check.check(['train'])  # asked for train alone
    assert 'no split val' not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- COCO


def test_other_files_of_coco_are_left_out(tmp_path, capsys):
    content = make_coco(str(tmp_path))
    os.rename(tmp_path / 'annotations.json', tmp_path / 'instances_train2017.json')
    people = [one | {'keypoints': ['nose']} for one in content['categories']]
    dump(f'{tmp_path}/a_person_keypoints_train2017.json', content | {'categories': people})
    captions = [{'id': 1, 'image_id': 3, 'caption': 'a hut'}]
    dump(
        f'{tmp_path}/captions_train2017.json',
        {'images': content['images'], 'annotations': captions},
    )
    segments = content | {'annotations': [{'image_id': 3, 'segments_info': []}]}
    dump(f'{tmp_path}/panoptic_train2017.json', segments)
    tested = {key: content[key] for key in ('images', 'categories')}
    dump(f'{tmp_path}/image_info_test2017.json', tested)
    out = in_order(tmp_path, 'coco', capsys)
    for reason in (
        'a_person_keypoints_train2017.json: it has keypoints beside',
        'captions_train2017.json: it has no categories',
        'panoptic_train2017.json: it has panoptic segments',
        'image_info_test2017.json: it has no annotations',
    ):
        assert f'{reason}' in out
    assert_right(tmp_path, 'coco')
    os.unlink(tmp_path / 'instances_train2017.json')
    for name in ('labels', 'classes.txt', 'train.txt', 'val.txt'):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    for path in tmp_path.glob('*.txt'):
        path.unlink()
    in_order(tmp_path, 'coco', capsys)  # keypoints alone: their outlines
    assert_right(tmp_path, 'coco')
    os.unlink(tmp_path / 'a_person_keypoints_train2017.json')
    with pytest.raises(UserError, match='captions_train2017.json: it has no categories .*export'):
        tools.convert(str(tmp_path), 'coco')


def test_numbers_of_coco_that_others_write(tmp_path):
    """A size of floats, one outline that is no list of them, an object without an id."""
    content = make_coco(str(tmp_path), height=float(H), width=float(W))
    flat = content['annotations'][-1]
    flat['segmentation'] = flat['segmentation'][0]
    del flat['id']
    dump(f'{tmp_path}/annotations.json', content)
    tools.convert(str(tmp_path), 'coco')
    assert_right(tmp_path, 'coco')


COCO = {
    'one name twice': (lambda c: c['images'][1].update(file_name='cam/p0.png'), "images 3 and 13 have one file_name, 'cam/p0.png'"),
    'a size that is no number of pixels': (lambda c: c['images'][0].update(width=47.5), 'cam/p0.png: no size'),
    'an outline without an id': (lambda c: c['annotations'][0].update(segmentation=['a'], id=None), 'outline of the object None of the image 3'),
}  # fmt: skip


@pytest.mark.parametrize('case', COCO)
def test_what_is_wrong_with_a_coco_file(case, tmp_path):
    make_coco(str(tmp_path))
    function, said = COCO[case]
    change(tmp_path / 'annotations.json', function)
    with pytest.raises(UserError, match=said):
        tools.convert(str(tmp_path), 'coco')


# ------------------------------------------------------------------------------------------- names of pictures

OTHERWISE = {
    'capitals': ('coco', 'images/cam/p1.png', 'images/cam/P1.PNG'),
    'another ending': ('labelme', 'photos/p1.png', 'photos/p1.jpg'),
    'an ending in capitals': ('rle', 'train_images/p1.jpg', 'train_images/p1.JPG'),
}


@pytest.mark.parametrize('case', OTHERWISE)
def test_pictures_that_are_named_otherwise(case, tmp_path, capsys):
    source, old, new = OTHERWISE[case]
    MAKERS[source](str(tmp_path))
    write(f'{tmp_path}/{new}.x.png', picture(1))
    os.unlink(tmp_path / old)
    os.rename(f'{tmp_path}/{new}.x.png', tmp_path / new)
    out = in_order(tmp_path, source, capsys)
    assert 'pictures whose files are named otherwise: 1; ' in out and f'is {new}\n' in out
    tools.convert(str(tmp_path), source)
    samples = (
        dataset.Dataset('train', train=False).pairs + dataset.Dataset('val', train=False).pairs
    )
    assert len(samples) == len(NAMES)


@pytest.mark.parametrize('forms', [('NFC', 'NFD'), ('NFD', 'NFC')])
def test_accents_in_two_forms(forms, tmp_path, capsys):
    content = make_coco(str(tmp_path))
    written, stored = (unicodedata.normalize(form, 'müde1.png') for form in forms)
    os.rename(tmp_path / 'images' / 'cam' / 'p1.png', tmp_path / 'images' / 'cam' / stored)
    content['images'][1]['file_name'] = f'cam/{written}'
    dump(f'{tmp_path}/annotations.json', content)
    assert 'named otherwise: 1' in in_order(tmp_path, 'coco', capsys)


def test_two_pictures_that_a_name_may_stand_for(tmp_path):
    content = make_coco(str(tmp_path))
    for name in ('Q.png', 'q.PNG'):
        write(f'{tmp_path}/images/cam/x.png', picture(len(name) + ord(name[0])))
        os.rename(tmp_path / 'images' / 'cam' / 'x.png', tmp_path / 'images' / 'cam' / name)
    content['images'][0]['file_name'] = 'cam/q.png'
    dump(f'{tmp_path}/annotations.json', content)
    with pytest.raises(UserError, match="the picture 'cam/q.png' may be .*Q.png or .*q.PNG"):
        tools.convert(str(tmp_path), 'coco')


@pytest.mark.parametrize('source, folder', [
    ('coco', 'images/cam'), ('labelme', 'photos'), ('labelstudio', 'photos'), ('rle', 'train_images'),
    ('cvat', 'JPEGImages'),
])  # fmt: skip
def test_pictures_that_are_not_there(source, folder, tmp_path, capsys):
    """Those that are there are used, and it says so, if they are most."""
    MAKERS[source](str(tmp_path))
    ending = os.path.splitext(os.listdir(tmp_path / folder)[0])[1]
    files = sorted((tmp_path / folder).glob(f'p*{"" if ending == ".json" else ending}'))
    files = [path for path in files if path.suffix != '.json']
    files[1].unlink()
    out = in_order(tmp_path, source, capsys)
    assert 'warning: 1 of 5 pictures that are named are not there, and left out: ' in out
    assert '4 images with labels' in out and sorted(labels_by_name()) == [0, 2, 3, 4]
    shutil.rmtree(tmp_path / 'labels')
    shutil.rmtree(tmp_path / 'images', ignore_errors=source != 'coco')
    for path in [*tmp_path.glob('train.txt'), *tmp_path.glob('val.txt'), tmp_path / 'classes.txt']:
        path.unlink()
    for path in (files[0], *files[2:]):
        path.unlink(missing_ok=True)
    with pytest.raises(
        UserError, match='which is not in .*pictures that are named are not there: '
    ):
        tools.convert(str(tmp_path), source)


@pytest.mark.parametrize('source', ['binary', 'roboflow'])
def test_pictures_without_masks(source, tmp_path, capsys):
    MAKERS[source](str(tmp_path))
    (tmp_path / ('masks/p1.gif' if source == 'binary' else 'train/p1_jpg.rf.1a_mask.png')).unlink()
    out = in_order(tmp_path, source, capsys)
    assert 'images in' in out and 'have no mask, and are left out: p1' in out
    assert sorted(labels_by_name()) == [0, 2, 3, 4]


def test_names_of_uploads_to_label_studio(tmp_path, capsys):
    """It writes _ for a blank and drops what is no letter; local files have %20."""
    make_labelstudio(str(tmp_path))
    for old, new in (('p1', 'p1 my photo (1)'), ('p2', 'p2 x'), ('p3', 'p3%20y')):
        os.rename(tmp_path / 'photos' / f'{old}.png', tmp_path / 'photos' / f'{new}.png')
    urls = {
        1: '/data/upload/1/0a1b2c3d-p1_my_photo_1.png',
        2: '/data/local-files/?d=photos/p2%20x.png',
        3: '/data/upload/1/0a1b2c3d-p3%20y.png',
    }

    def rename(content):
        for i, url in urls.items():
            content[i]['data']['image'] = url

    change(tmp_path / 'project-1-at-2024.json', rename)
    in_order(tmp_path, 'labelstudio', capsys)
    assert_right(tmp_path, 'labelstudio')


# ------------------------------------------------------------------------------------------- run lengths


@pytest.mark.parametrize('head, between', [
    ('id,encoding,class', ','), ('img,pixels,label', ';'), ('Image_Id;EncodedPixels;Class', ';'),
    ('image\trle\tclass', '\t'),
])  # fmt: skip
def test_columns_of_run_lengths(head, between, tmp_path, capsys):
    make_rle(str(tmp_path))
    rows = [row.split(',') for row in (tmp_path / 'train.csv').read_text().splitlines()[1:]]
    lines = [between.join((name, runs, kind)) for name, kind, runs in rows]
    text(f'{tmp_path}/train.csv', [head.replace(',', between), *lines])
    text(
        f'{tmp_path}/sample_submission.csv',
        [head.replace(',', between), between.join(('t.jpg', '1 1', '1'))],
    )
    out = in_order(tmp_path, 'rle', capsys)
    assert 'sample_submission.csv: a submission, not the labels, and left out' in out
    assert_right(tmp_path, 'rle')


def test_a_class_list_with_blanks(tmp_path, capsys):
    make_roboflow(str(tmp_path))
    for path in tmp_path.rglob('_classes.csv'):
        text(path, ['Pixel Value, Class', '0, background', '1, "hut, of wood"', ' 2, tree'])
    assert 'classes: background, hut, of wood, tree\n' in in_order(tmp_path, 'roboflow', capsys)
    assert_right(tmp_path, 'roboflow')


# ------------------------------------------------------------------------------------------- folders


FOLDERS = {
    'capitals': ('Images/Train', 'Masks/Train'),
    'singular': ('image', 'mask'),
    'singular of a split': ('train/image', 'train/mask'),
    'both': ('Train/Image', 'Train/Label'),
    'suffixes': ('TRAIN_images', 'train_Masks'),
}


@pytest.mark.parametrize('case', FOLDERS)
def test_names_of_folders(case, tmp_path):
    image_dir, label_dir = FOLDERS[case]
    for i, name in enumerate(NAMES):
        write(f'{tmp_path}/{image_dir}/{name}.png', picture(i))
        save(f'{tmp_path}/{label_dir}/{name}.png', label_of(i))
    text(f'{tmp_path}/classes.txt', ['0 0 0 0 a', '1 9 9 9 b', '2 9 0 9 c'])
    data = dataset.Dataset('train', train=False)
    assert len(data) == 4 + ('train' in image_dir.lower())
    for i, (image, _) in enumerate(data.pairs):
        assert (data.read(i)[1] == label_of(int(os.path.basename(image)[1]))).all()


def test_endings_in_capitals(tmp_path):
    for i, name in enumerate(NAMES):
        save(f'{tmp_path}/train/{name}.png', picture(i))
        save(f'{tmp_path}/train/{name}_MASK.PNG', label_of(i))
    text(f'{tmp_path}/classes.txt', ['0 0 0 0 a', '1 9 9 9 b', '2 9 0 9 c'])
    data = dataset.Dataset('train', train=False)
    assert [os.path.basename(image) for image, _ in data.pairs] == [f'{name}.png' for name in NAMES]


@pytest.mark.parametrize('way', ['images/{}', '{}/images', 'IMAGES/{}'])
def test_folders_of_cases(way, tmp_path, capsys):
    """The same names in each; masks of two levels are read, labels asked for a list."""
    for i, name in enumerate(NAMES):
        folder = way.format(f'case{i}')
        write(f'{tmp_path}/{folder}/{name}.png', picture(i))
        masks = folder.replace('images', 'masks').replace('IMAGES', 'Masks')
        save(f'{tmp_path}/{masks}/{name}.png', np.where(label_of(i) > 0, 255, 0).astype(np.uint8))
    text(f'{tmp_path}/classes.txt', ['0 0 0 0 a', '255 9 9 9 b'])
    with pytest.raises(UserError, match='here are .*case0.*lines of an image and its label'):
        dataset.Dataset('train', train=False)
    with pytest.raises(UserError, match='here are .*case0'):
        check.check([])
    os.unlink(tmp_path / 'classes.txt')
    read_classes.cache_clear()
    in_order(tmp_path, 'binary', capsys)
    assert_right(tmp_path, 'binary')


def test_folders_that_nothing_reads(tmp_path):
    write(f'{tmp_path}/foto/a.png', picture(0))
    with pytest.raises(UserError, match='no images with masks: .*; here are foto/'):
        tools.convert(str(tmp_path), 'binary')


def test_a_word_with_a_blank_is_no_split(tmp_path):
    root = str(tmp_path)
    assert lookup.split_of(f'{root}/test run', root) == ''
    assert lookup.split_of(f'{root}/my_test/a', root) == 'test'


def test_masks_of_voc_below(tmp_path, capsys):
    make_cvat(str(tmp_path / 'VOCdevkit' / 'mine'))
    in_order(tmp_path, 'cvat', capsys)
    assert_right(tmp_path, 'cvat')
    make_cvat(str(tmp_path / 'VOCdevkit' / 'other'))
    with pytest.raises(UserError, match='mine and .*other; give one of them as --root'):
        tools.convert(str(tmp_path), 'cvat')


def test_masks_in_no_list_do_not_become_training_data(tmp_path, capsys):
    """Where the lists divide the pictures: those kept apart to test on."""
    make_voc(str(tmp_path))
    text(f'{tmp_path}/ImageSets/Segmentation/train.txt', NAMES[:2])
    text(f'{tmp_path}/ImageSets/Segmentation/val.txt', NAMES[2:3])
    out = in_order(tmp_path, 'voc', capsys)
    assert '2 masks are in no list of ImageSets/, and left out' in out
    assert sorted(labels_by_name()) == [0, 1, 2]


@pytest.mark.parametrize('form', ['{}.jpg', '{}.JPG'])
def test_lists_that_name_masks_otherwise(form, tmp_path, capsys):
    """With endings, or in capitals."""
    make_voc(str(tmp_path))
    names = [form.format(name).upper() if 'JPG' in form else form.format(name) for name in NAMES]
    text(f'{tmp_path}/ImageSets/Segmentation/train.txt', names[:3])
    text(f'{tmp_path}/ImageSets/Segmentation/val.txt', names[3:])
    assert 'in no list' not in in_order(tmp_path, 'voc', capsys)
    assert [len(dataset.Dataset(split, train=False)) for split in ('train', 'val')] == [3, 2]


def test_lists_that_name_no_mask(tmp_path):
    make_voc(str(tmp_path))
    text(f'{tmp_path}/ImageSets/Segmentation/train.txt', ['a'])
    text(f'{tmp_path}/ImageSets/Segmentation/val.txt', ['b'])
    with pytest.raises(UserError, match='name none of the 5 masks in SegmentationClassPNG/, such'):
        tools.convert(str(tmp_path), 'voc')


def test_a_table_of_void_alone(tmp_path):
    make_cvat(str(tmp_path))
    text(f'{tmp_path}/labelmap.txt', ['# label:color_rgb:parts:actions', 'ignore:0,0,0::'])
    with pytest.raises(UserError, match='no class is named; all labels are void'):
        tools.convert(str(tmp_path), 'cvat')


@pytest.mark.parametrize('source', ['voc', 'cvat', 'yolo', 'roboflow', 'labelme', 'rle'])
def test_another_source_is_named(source, tmp_path):
    make_coco(str(tmp_path))
    with pytest.raises(UserError, match='annotations.json is a COCO file: .*--from coco'):
        tools.convert(str(tmp_path), source)


def test_sources_in_capitals(tmp_path):
    make_coco(str(tmp_path))
    tools.convert(str(tmp_path), 'COCO')
    assert_right(tmp_path, 'coco')


# ------------------------------------------------------------------------------------------- YOLO


def test_confidences_and_boxes(tmp_path, capsys):
    make_yolo(str(tmp_path))
    path = tmp_path / 'labels' / 'train' / 'p0.txt'
    path.write_text(''.join(f'{line} 0.91\n' for line in path.read_text().splitlines()))
    with open(tmp_path / 'labels' / 'train' / 'p1.txt', 'a') as f:
        f.write('0 0.5 0.5 0.2 0.2\n')
    text(f'{tmp_path}/labels/val/P3.txt', ['0 0 0 1 0 1 1'])
    out = in_order(tmp_path, 'yolo', capsys)
    assert '1 text files end each line with a confidence, which is not read\n' in out
    assert '1 objects have a box and no outline, and are not drawn\n' in out
    assert_right(tmp_path, 'yolo')


def test_boxes_alone(tmp_path):
    make_yolo(str(tmp_path))
    for path in tmp_path.rglob('labels/*/*.txt'):
        text(path, ['0 0.5 0.5 0.2 0.2'])
    with pytest.raises(UserError, match='all 5 objects are boxes, not outlines'):
        tools.convert(str(tmp_path), 'yolo')


def test_darknet(tmp_path):
    """Pictures and boxes side by side."""
    for i, name in enumerate(NAMES):
        write(f'{tmp_path}/obj_train_data/{name}.png', picture(i))
        text(f'{tmp_path}/obj_train_data/{name}.txt', ['0 0.5 0.5 0.2 0.2'])
    text(f'{tmp_path}/obj.names', ['hut'])
    with pytest.raises(UserError, match='obj.names describes a data set of YOLO'):
        dataset.classes()
    with pytest.raises(UserError, match='all 5 objects are boxes, not outlines'):
        tools.convert(str(tmp_path), 'yolo')


def test_text_files_without_a_picture(tmp_path, capsys):
    make_yolo(str(tmp_path))
    text(f'{tmp_path}/data.yaml', ['names: [hut, tree]'])
    text(f'{tmp_path}/labels/val/q.txt', ['0 0 0 1 0 1 1'])
    out = in_order(tmp_path, 'yolo', capsys)
    assert 'warning: 1 text files belong to no picture, such as' in out


@pytest.mark.parametrize('lines, names', [
    (["names: ['a', 'it''s', \"b \\\"x\\\"\", plain's]"], ['a', "it's", 'b "x"', "plain's"]),
    (['names:', "  0: 'no #1'  # first", '  1: rock \'n\' roll'], ['no #1', "rock 'n' roll"]),
    (['names: {0: "a, b", 1: c}'], ['a, b', 'c']),
])  # fmt: skip
def test_quotes_in_yaml(lines, names, tmp_path):
    text(f'{tmp_path}/data.yaml', lines)
    assert yolo_yaml.names(f'{tmp_path}/data.yaml') == names


@pytest.mark.parametrize('place, said', [
    ('images/none', 'its val: images/none is not here'),
    ('labels', 'its val: labels holds no pictures in a folder named images'),
    ('lists/v.txt', 'its val: lists/v.txt lists no pictures, or some that are not here'),
])  # fmt: skip
def test_why_a_split_of_yolo_does_not_divide(place, said, tmp_path, capsys):
    make_yolo(str(tmp_path))
    os.makedirs(tmp_path / 'lists')
    text(f'{tmp_path}/lists/v.txt', ['images/val/none.png'])
    text(f'{tmp_path}/data.yaml', ['names: [hut, tree]', 'train: images/train', f'val: {place}'])
    assert said in in_order(tmp_path, 'yolo', capsys)


def test_a_folder_with_a_blank_in_yaml(tmp_path, capsys):
    make_yolo(str(tmp_path))
    for kind in ('images', 'labels'):
        os.rename(tmp_path / kind / 'val', tmp_path / kind / 'test run')
    text(
        f'{tmp_path}/data.yaml',
        ['names: [hut, tree]', 'train: images/train', 'val: "images/test run"'],
    )
    assert '(train 3, val 2)' in in_order(tmp_path, 'yolo', capsys)
    assert_right(tmp_path, 'yolo')


# ------------------------------------------------------------------------------------------- shapes


def test_shapes_without_a_size(tmp_path, capsys):
    make_labelme(str(tmp_path))

    def add(content):
        for points in ([[9, 9], [9, 9]], [[3, 3], [3, 3]]):
            content['shapes'].append({'label': 'hut', 'points': points, 'shape_type': 'circle'})

    change(tmp_path / 'photos' / 'p0.json', add)
    assert f'{marks.EMPTY}: 2' in in_order(tmp_path, 'labelme', capsys)
    assert_right(tmp_path, 'labelme')
    label, notes = marks.draw((H, W), [marks.Mark(1, 'ellipse', (9, 9, 0, 3, 0))])
    assert not label.any() and notes == [marks.EMPTY]


@pytest.mark.parametrize('place', ['value', 'result'])
def test_turned_ellipses(place):
    """Clockwise around the centre, which x and y are: 45 degrees lead right and down."""
    value = {'x': 50, 'y': 50, 'radiusX': 30, 'radiusY': 10, 'ellipselabels': ['hut']}
    result = {'original_width': 40, 'original_height': 40, 'value': value}
    (value if place == 'value' else result)['rotation'] = 45
    label, notes = marks.draw((40, 40), [labelstudio.as_mark(result, 1)])
    assert label[27, 27] and label[12, 12] and not label[27, 12] and not notes
    y, x = np.nonzero(label)
    assert abs(x.mean() - 19.5) < 0.1 and abs(y.mean() - 19.5) < 0.1


def test_a_rectangle_of_four_corners(tmp_path, capsys):
    make_labelme(str(tmp_path))
    change(tmp_path / 'photos' / 'p0.json', lambda c: c['shapes'][0].update(shape_type='rectangle'))
    in_order(tmp_path, 'labelme', capsys)
    assert_right(tmp_path, 'labelme')


# ------------------------------------------------------------------------------------------- what is there already


@pytest.mark.parametrize('kind', ['classes', 'lists', 'labels'])
def test_all_that_is_in_the_way_is_named_before_a_label_is_drawn(kind, tmp_path, monkeypatch):
    content = make_coco(str(tmp_path))
    tools.convert(str(tmp_path), 'coco')
    before = snapshot(tmp_path)
    if kind == 'classes':
        content['categories'][1]['name'] = 'house'
    elif kind == 'lists':
        content['images'] = content['images'][:4]
        content['annotations'] = content['annotations'][:8]
    else:
        content['annotations'] = content['annotations'][1:]
    dump(f'{tmp_path}/annotations.json', content)
    monkeypatch.setattr(assemble, 'write_samples', lambda *_: pytest.fail('drawn'))
    with pytest.raises(UserError, match='another one would be written in its place') as e:
        tools.convert(str(tmp_path), 'coco')
    for name in ('classes.txt', 'train.txt', 'val.txt', 'labels/ ('):
        assert name in str(e.value)
    del before['annotations.json']
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before


def test_an_image_of_several_pages(tmp_path):
    make_coco(str(tmp_path))
    pages = [Image.fromarray(picture(i)) for i in range(5)]
    path = tmp_path / 'images' / 'cam' / 'p0.png'
    pages[0].save(path, format='TIFF', save_all=True, append_images=pages[1:])
    with pytest.raises(
        UserError, match='p0.png: this image file holds 5 pictures; save the one to'
    ):
        tools.convert(str(tmp_path), 'coco')


def test_a_list_of_names_where_the_table_goes(tmp_path, capsys):
    for i, name in enumerate(NAMES):
        write(f'{tmp_path}/images/{name}.png', picture(i))
        save(f'{tmp_path}/labels/{name}.png', label_of(i))
    text(f'{tmp_path}/classes.txt', ['ground', 'hut', 'tall tree'])
    with pytest.raises(UserError, match='classes.txt: this is a list of names; a class table has'):
        dataset.classes()
    with pytest.raises(UserError, match='this is a list of names; put the lines above into it'):
        check.check([])
    lines = capsys.readouterr().out.strip().splitlines()[-3:]
    assert lines == ['0 0 0 0 ground', '1 128 0 0 hut', '2 0 128 0 tall tree']
    text(f'{tmp_path}/classes.txt', lines)
    assert_right(tmp_path, 'coco')


def test_a_list_of_names_beside_labelme(tmp_path, capsys):
    make_labelme(str(tmp_path))
    text(f'{tmp_path}/classes.txt', ['hut', 'tree'])
    with pytest.raises(UserError, match='list of names, where the class table goes; rename it'):
        tools.convert(str(tmp_path), 'labelme')
    os.rename(tmp_path / 'classes.txt', tmp_path / 'labels.txt')
    in_order(tmp_path, 'labelme', capsys)
    assert_right(tmp_path, 'labelme')


@pytest.mark.parametrize(
    'folders', [('train/images', 'train/masks'), ('train_images', 'train_labels')]
)
def test_binary_masks_of_a_split_twice(folders, tmp_path, capsys):
    """What the first command made, images/train and labels/train, is not taken for the source."""
    for i, name in enumerate(NAMES):
        for folder, pixels in zip(folders, (picture(i), np.minimum(label_of(i), 1)), strict=True):
            folder = folder if i < 3 else folder.replace('train', 'val')
            save(f'{tmp_path}/{folder}/{name}.png', pixels)
    assert '(train 3, val 2)' in in_order(tmp_path, 'binary', capsys)
