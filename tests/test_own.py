"""prepare.py folder --from SOURCE: small data sets as each annotation tool publishes its format, converted, checked, trained on."""

import base64
import collections
import io
import json
import os
import pickle
import shutil

import cv2
import numpy as np
import pytest
import scripts
from helpers import put, write
from PIL import Image
from scripts import snapshot
from standins import text

import dataset
import prepare
import train
from datasets import lists, recognise
from datasets.files import read_classes
from preparation import archives, check, coco, labelme, labelstudio, lookup, marks, propose, tools
from utils import config
from utils.config import UsageError, UserError

H, W = 40, 48
NAMES = [f'p{i}' for i in range(5)]


@pytest.fixture(autouse=True)
def in_this_process(tmp_path):
    put(DATASET='folder', DATA_ROOT=str(tmp_path), NUM_WORKERS=0)


def picture(i, h=H, w=W):
    """A picture that differs from all others."""
    return (
        np.random.RandomState(i)
        .randint(0, 255, (h // 4, w // 4, 3), np.uint8)
        .repeat(4, 0)
        .repeat(4, 1)
    )


def boxes(i):
    """[(class, x0, y0, x1, y1)]: a large one of class 1 and a smaller one of class 2 on it."""
    return [(1, 4 + i, 5, 30 + i, 33), (2, 10 + i, 8, 20 + i, 18)]


def outline(box):
    _, x0, y0, x1, y1 = box
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def label_of(i, size=(H, W)):
    label = np.zeros(size, np.uint8)
    for value, x0, y0, x1, y1 in boxes(i):
        label[y0:y1, x0:x1] = value
    return label


def mask_of(i, value):
    """Where box `value` of picture i lies, whatever lies on it."""
    mask = np.zeros((H, W), bool)
    _, x0, y0, x1, y1 = boxes(i)[value - 1]
    mask[y0:y1, x0:x1] = True
    return mask


def pictures(root, folder, ending='.png'):
    for i, name in enumerate(NAMES):
        write(f'{root}/{folder}/{name}{ending}', picture(i))


def save(path, array, **options):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.fromarray(array).save(path, **options)


def dump(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as f:
        json.dump(content, f)


def png_bytes(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, 'PNG')
    return stream.getvalue()


# --------------------------------------------------------------------------------------------- what the tools write


def counts_of(mask):
    """COCO's uncompressed run lengths: down the columns, zeros first."""
    flat = mask.T.ravel().astype(int)
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, mask.size]).tolist()
    return [0, *counts] if mask.T.ravel()[0] else counts


def compressed(counts):
    """COCO's text of run lengths, by its published rule."""
    out = ''
    for i, value in enumerate(counts):
        value -= counts[i - 2] if i > 2 else 0
        more = True
        while more:
            code = value & 31
            value >>= 5
            more = value != -1 if code & 16 else value != 0
            out += chr((code | 32 if more else code) + 48)
    return out


def make_coco(root, **image):
    """Roboflow's habit of a category above the others, ids with gaps, folders in names; one object as run lengths, one as text."""
    pictures(root, 'images/cam')
    objects, of_files = [], []
    for i, name in enumerate(NAMES):
        of_files.append(
            {'id': 10 * i + 3, 'file_name': f'cam/{name}.png', 'height': H, 'width': W} | image
        )
        large, small = boxes(i)
        shape = {'size': [H, W], 'counts': counts_of(mask_of(i, 1))}
        if i == 1:
            shape['counts'] = compressed(shape['counts'])
        if i > 1:
            shape = [np.array(outline(large), float).ravel().tolist()]
        small = [np.array(outline(small), float).ravel().tolist()]
        common = {'image_id': 10 * i + 3, 'iscrowd': 0, 'area': 1, 'bbox': [0, 0, 1, 1]}
        objects += [  # the small one first: areas decide
            common | {'id': 2 * i, 'category_id': 7, 'segmentation': small},
            common | {'id': 2 * i + 1, 'category_id': 4, 'segmentation': shape},
        ]
    kinds = [(0, 'things', 'none'), (4, 'hut', 'things'), (7, 'tree', 'things')]
    kinds = [{'id': i, 'name': name, 'supercategory': above} for i, name, above in kinds]
    content = {'info': {}, 'images': of_files, 'annotations': objects, 'categories': kinds}
    dump(f'{root}/annotations.json', content)
    return content


def make_labelme(root):
    for i, name in enumerate(NAMES):
        shapes = []
        for kind, box in zip(('hut', 'tree'), boxes(i), strict=True):
            shape = {'label': kind, 'points': outline(box), 'group_id': None, 'flags': {}}
            shapes.append(shape | {'shape_type': 'polygon', 'description': ''})
        if i == 1:
            shapes[0] |= {'shape_type': 'rectangle', 'points': [[31, 33], [5, 5]]}
        if i == 2:
            _, x0, y0, x1, y1 = boxes(i)[0]
            mask = base64.b64encode(png_bytes(np.full((y1 - y0, x1 - x0), 255, np.uint8)))
            points = [[x0, y0], [x1 - 1, y1 - 1]]
            shapes[0] |= {'shape_type': 'mask', 'points': points, 'mask': mask.decode()}
        shapes.append(
            {'label': 'wire', 'points': [[0, 0], [9, 9]], 'shape_type': 'linestrip', 'flags': {}}
        )
        content = {'version': '5.5.0', 'flags': {}, 'shapes': shapes, 'imagePath': f'{name}.png'}
        content |= {'imageData': None, 'imageHeight': H, 'imageWidth': W}
        if i == 3:  # the picture is in the file alone
            content['imageData'] = base64.b64encode(png_bytes(picture(i)[..., ::-1])).decode()
        else:
            write(f'{root}/photos/{name}.png', picture(i))
        dump(f'{root}/photos/{name}.json', content)


COLOURS = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)], np.uint8)


def make_cvat(root):
    pictures(root, 'JPEGImages')
    lines = [
        '# label:color_rgb:parts:actions',
        'background:0,0,0::',
        'hut:250,50,83::',
        'tree:51,221,255::',
    ]
    text(f'{root}/labelmap.txt', lines)
    os.makedirs(f'{root}/ImageSets/Segmentation')
    text(f'{root}/ImageSets/Segmentation/default.txt', NAMES)
    for i, name in enumerate(NAMES):
        save(f'{root}/SegmentationClass/{name}.png', COLOURS[label_of(i)])
        save(f'{root}/SegmentationObject/{name}.png', COLOURS[label_of(i)])


def make_voc(root):
    """labelme2voc.py: palette PNG, class_names.txt."""
    pictures(root, 'JPEGImages', '.jpg')
    text(f'{root}/class_names.txt', ['__ignore__', '_background_', 'hut', 'tree'])
    os.makedirs(f'{root}/ImageSets/Segmentation')
    text(f'{root}/ImageSets/Segmentation/train.txt', NAMES[:3])
    text(f'{root}/ImageSets/Segmentation/val.txt', NAMES[3:])
    for i, name in enumerate(NAMES):
        mask = Image.fromarray(label_of(i))
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        os.makedirs(f'{root}/SegmentationClassPNG', exist_ok=True)
        mask.save(f'{root}/SegmentationClassPNG/{name}.png')


def pack(values):
    """Label Studio's run lengths, by the published format."""
    bits = f'{len(values):032b}{7:05b}' + ''.join(f'{size - 1:04b}' for size in (3, 4, 8, 16))
    ends = [*(np.flatnonzero(np.diff(values.astype(int))) + 1), len(values)]
    start = 0
    for end in ends:
        while start < end:
            count = min(end - start, 2**16)
            bits += (
                f'111{count - 1:016b}{values[start]:08b}'
                if count > 1
                else f'000000{values[start]:08b}'
            )
            start += count
    bits += '0' * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def make_labelstudio(root):
    tasks = []
    for i, name in enumerate(NAMES):
        write(f'{root}/photos/{name}.png', picture(i))
        common = {
            'original_width': W,
            'original_height': H,
            'image_rotation': 0,
            'from_name': 'tag',
        }
        rgba = np.repeat(np.where(mask_of(i, 1), 255, 0).astype(np.uint8).ravel(), 4)
        brush = {'format': 'rle', 'rle': pack(rgba), 'brushlabels': ['hut']}
        points = (np.array(outline(boxes(i)[1])) * (100 / W, 100 / H)).tolist()
        polygon = {'points': points, 'polygonlabels': ['tree'], 'closed': True}
        results = [common | {'type': 'brushlabels', 'value': brush}]
        results.append(common | {'type': 'polygonlabels', 'value': polygon})
        old = {
            'id': 10 + i,
            'was_cancelled': False,
            'result': [],
            'updated_at': '2024-01-01T00:00:00Z',
        }
        new = {
            'id': 20 + i,
            'was_cancelled': False,
            'result': results,
            'updated_at': '2024-01-02T00:00:00Z',
        }
        data = {'image': f'/data/upload/1/0a1b2c3d-{name}.png'}
        tasks.append({'id': i + 1, 'annotations': [new, old], 'data': data})
    tasks.append(
        {'id': 99, 'annotations': [], 'data': {'image': '/data/upload/1/0a1b2c3d-none.png'}}
    )
    dump(f'{root}/project-1-at-2024.json', tasks)


def make_studio_png(root):
    """Brush labels to PNG, with JSON-MIN that says which picture a task is of."""
    tasks = []
    for i, name in enumerate(NAMES):
        write(f'{root}/photos/{name}.png', picture(i))
        for value, kind in ((1, 'hut'), (2, 'tall-tree')):
            mask = np.where(mask_of(i, value), 255, 0).astype(np.uint8)
            save(f'{root}/masks/task-{i + 1}-annotation-{i + 4}-by-me@x.org-tag-{kind}-0.png', mask)
        tasks.append(
            {'id': i + 1, 'image': f'/data/local-files/?d=photos/{name}.png', 'file_upload': ''}
        )
    dump(f'{root}/min.json', tasks)


def make_yolo(root):
    text_lines = [
        'path: /data/mine  # elsewhere',
        'train: images/train',
        'val: images/val',
        'nc: 2',
    ]
    os.makedirs(root, exist_ok=True)
    text(f'{root}/data.yaml', [*text_lines, 'names:', '  0: hut', "  1: 'tree'"])
    for i, name in enumerate(NAMES):
        split = 'val' if i > 2 else 'train'
        write(f'{root}/images/{split}/{name}.png', picture(i))
        lines = []
        for box in reversed(boxes(i)):
            numbers = (np.array(outline(box)) / (W, H)).ravel()
            lines.append(' '.join([str(box[0] - 1), *(f'{number:.6f}' for number in numbers)]))
        os.makedirs(f'{root}/labels/{split}', exist_ok=True)
        text(f'{root}/labels/{split}/{name}.txt', lines)


def make_roboflow(root):
    for i, name in enumerate(NAMES):
        folder = f'{root}/{"valid" if i > 2 else "train"}'
        write(f'{folder}/{name}_jpg.rf.{i}a.jpg', picture(i))
        save(f'{folder}/{name}_jpg.rf.{i}a_mask.png', label_of(i))
        text(f'{folder}/_classes.csv', ['Pixel Value, Class', '0, background', '1, hut', '2, tree'])


def make_rle(root):
    pictures(root, 'train_images', '.jpg')
    rows = ['ImageId,ClassId,EncodedPixels']
    for i, name in enumerate(NAMES):
        for value in (1, 2):
            counts = counts_of(mask_of(i, value))
            starts, runs = np.cumsum(counts)[:-1:2] + 1, counts[1::2]
            numbers = [f'{start} {run}' for start, run in zip(starts, runs, strict=False)]
            rows.append(f'{name}.jpg,{value},{" ".join(numbers)}')
        rows.append(f'{name}.jpg,3,')
    text(f'{root}/train.csv', rows)


def make_binary(root):
    """Each mask in another form."""
    for i, name in enumerate(NAMES):
        write(f'{root}/images/{name}.jpg', picture(i))
        mask = label_of(i) > 0
        white = np.where(mask, 255, 0).astype(np.uint8)
        if i == 0:
            save(f'{root}/masks/{name}.png', mask.astype(np.uint8))
        elif i == 1:
            save(f'{root}/masks/{name}.gif', white)
        elif i == 2:
            save(f'{root}/masks/{name}.png', np.stack([white, white * 0, white * 0, white], 2))
        elif i == 3:
            os.makedirs(f'{root}/masks', exist_ok=True)
            Image.fromarray(white).convert('1').save(f'{root}/masks/{name}.bmp')
        else:
            save(f'{root}/masks/{name}.jpg', white, quality=95)


MAKERS = {
    'coco': make_coco,
    'labelme': make_labelme,
    'cvat': make_cvat,
    'labelstudio': make_labelstudio,
    'yolo': make_yolo,
    'voc': make_voc,
    'roboflow': make_roboflow,
    'rle': make_rle,
    'binary': make_binary,
}


def test_every_source_is_here():
    assert list(MAKERS) == list(tools.SOURCES)


def labels_by_name():
    """{number of the picture: (image, label)} of train and val, read as training does."""
    samples = {}
    for split in ('train', 'val'):
        data = dataset.Dataset(split, train=False)
        for i in range(len(data)):
            name = os.path.basename(data.pairs[i][0])
            assert name not in samples
            samples[int(name[1])] = data.read(i)
    return samples


def assert_right(root, source, size=(H, W), wanted=label_of):
    samples = labels_by_name()
    assert sorted(samples) == list(range(len(NAMES)))
    for i, (image, label) in samples.items():
        expected = np.minimum(wanted(i), 1) if source == 'binary' else wanted(i)
        assert label.shape == size and (label == expected).all()
        near = np.abs(image.astype(int) - picture(i)[..., ::-1]).mean()
        assert near < 30  # JPEG; another picture is off by 85


@pytest.mark.parametrize('source', MAKERS)
def test_converted_and_checked(source, tmp_path, capsys):
    MAKERS[source](str(tmp_path))
    before = snapshot(tmp_path)
    assert source in dict(recognise.recognise(str(tmp_path))) or source == 'binary'
    tools.convert(str(tmp_path), source)
    out = capsys.readouterr().out
    assert '5 images with labels' in out and 'background' in out
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if '.prepare-' in name]
    assert {'images', 'labels', 'classes.txt'} <= set(os.listdir(tmp_path))
    assert_right(tmp_path, source)
    check.check([])
    out = capsys.readouterr().out
    assert 'folder: what is there is in order' in out and 'warning' not in out
    tools.convert(str(tmp_path), source)  # once more: all is the same
    assert snapshot(tmp_path) == after
    label = next(name for name in after if name.startswith('labels') and name.endswith('.png'))
    save(str(tmp_path / label), np.zeros((3, 3), np.uint8))
    with pytest.raises(UserError, match=f'{label}: this file is there, and another one would'):
        tools.convert(str(tmp_path), source)
    assert cv2.imread(str(tmp_path / label)).shape[:2] == (3, 3)


def test_studio_masks(tmp_path, capsys):
    make_studio_png(str(tmp_path))
    tools.convert(str(tmp_path), 'labelstudio')
    assert 'background, hut, tall-tree' in capsys.readouterr().out
    assert_right(tmp_path, 'labelstudio')
    os.unlink(tmp_path / 'min.json')
    with pytest.raises(UserError, match='say the task, not the picture; export JSON'):
        tools.convert(str(tmp_path), 'labelstudio')


TINY = (
    'CROP_SIZE=33',
    'N_LAYERS=18',
    'STEM=plain',
    'PRETRAINED=',
    'STRIDE=16',
    'EM_CHANNELS=16',
    'EM_BASES=4',
    'HEAD_CHANNELS=16',
    'BATCH_SIZE=2',
    'ITER_MAX=3',
    'ITER_VAL=3',
    'ITER_LOG=1',
    'AMP=off',
    'WARMUP=0',
    'NUM_WORKERS=0',
    'DEVICES=cpu',
)


@pytest.mark.parametrize('source', MAKERS)
def test_trained_and_scored(source, tmp_path, signals_restored):
    """Three steps with the recipe, and validation."""
    MAKERS[source](str(tmp_path / 'mine'))
    tools.convert(str(tmp_path / 'mine'), source)
    folders = (
        f'DATA_ROOT={tmp_path}/mine',
        f'MODEL_DIR={tmp_path}/models',
        f'LOG_DIR={tmp_path}/logs',
    )
    config.override([os.path.join(scripts.ROOT, 'recipes', 'own.py'), *folders, *TINY])
    assert train.main() is None
    with open(tmp_path / 'logs' / 'own' / 'log.jsonl') as f:
        lines = [json.loads(line) for line in f]
    assert lines[-1]['step'] == 3 and 0 <= lines[-1]['val/mIoU'] <= 1
    shutil.rmtree(tmp_path / 'models')


def test_by_the_commands(tmp_path):
    make_yolo(str(tmp_path))
    args = 'prepare.py', 'folder', '--root', tmp_path, 'NUM_WORKERS=2'
    made = scripts.run(*args, '--from', 'yolo', scratch=tmp_path)
    assert made.status == 0 and 'python train.py recipes/own.py' in made.out, made.err
    assert_right(tmp_path, 'yolo')
    text(f'{tmp_path}/labels/train/p0.txt', ['0 1'])
    broken = scripts.run(*args, '--from=yolo', scratch=tmp_path)
    assert broken.status == 1 and 'Traceback' not in broken.err
    assert 'labels/train/p0.txt, line 1: 1 numbers are no outline' in broken.err


@pytest.mark.parametrize(
    'words', [['voc', '--from', 'coco'], ['folder', '--from', 'coco', '--check']]
)
def test_from_goes_with_folder_alone(words):
    with pytest.raises(UsageError, match='--from goes with folder'):
        prepare.main(prepare.parser().read(words))


# ---------------------------------------------------------------------------------------------------- right pixels


def test_polygons_are_pixels_whose_centres_they_hold():
    """By the even-odd rule at each centre."""
    corners = np.array([(3.2, 1.7), (20.1, 6.4), (11.9, 25.3), (8.5, 9.9), (1.1, 22.8)])
    label, notes = marks.draw((30, 24), [marks.Mark(3, 'polygons', [corners])])
    y, x = np.mgrid[:30, :24] + 0.5
    inside = np.zeros((30, 24), bool)
    for (a, b), (c, d) in zip(corners, np.roll(corners, -1, 0), strict=True):
        inside ^= ((b > y) != (d > y)) & (x < (c - a) * (y - b) / (d - b) + a)
    assert (label == 3 * inside).all() and not notes
    beyond, _ = marks.draw((12, 9), [marks.Mark(3, 'polygons', [corners])])
    assert (beyond == label[:12, :9]).all()
    for shift in ((100, 0), (0, -100)):
        _, notes = marks.draw((12, 9), [marks.Mark(3, 'polygons', [corners + shift])])
        assert notes == [marks.OUTSIDE]


def test_discs_and_turned_boxes():
    label, _ = marks.draw((20, 30), [marks.Mark(1, 'disc', (10, 8, 5))])
    y, x = np.mgrid[:20, :30] + 0.5
    assert (label == ((x - 10) ** 2 + (y - 8) ** 2 <= 25)).all()
    value = {'x': 50, 'y': 20, 'width': 20, 'height': 30, 'rotation': 90}
    mark = labelstudio.as_mark({'original_width': 30, 'original_height': 20, 'value': value}, 1)
    label, _ = marks.draw(
        (20, 30), [mark]
    )  # 6 wide, 6 high, turned around (15, 4): 9 to 15, 4 to 10
    wanted = np.zeros((20, 30))
    wanted[4:10, 9:15] = 1
    assert (label == wanted).all()


def test_crowds_and_holes(tmp_path):
    content = make_coco(str(tmp_path))
    everything = {'size': [H, W], 'counts': [0, H * W]}
    crowd = {'id': 99, 'image_id': 3, 'category_id': 4, 'iscrowd': 1, 'segmentation': everything}
    content['annotations'].append(crowd)
    dump(f'{tmp_path}/annotations.json', content)
    tools.convert(str(tmp_path), 'coco')
    wanted = label_of(0)
    wanted[wanted == 0] = 255
    assert (labels_by_name()[0][1] == wanted).all()


def test_pycocotools_where_it_is(tmp_path):
    mask = pytest.importorskip('pycocotools.mask')
    corners = [3.2, 1.7, 20.1, 6.4, 11.9, 25.3]
    drawn, _ = coco.draw_marks(
        (30, 24), [marks.Mark(3, 'polygons', [np.array(corners).reshape(-1, 2)])]
    )
    wanted = mask.decode(mask.merge(mask.frPyObjects([corners], 30, 24)))
    assert (drawn == 3 * wanted).all()


@pytest.mark.parametrize('orientation', [3, 6, 8])
def test_pictures_that_exif_turns(orientation, tmp_path, capsys):
    """Tools show them upright: labels are of the upright picture, which is written."""
    make_labelme(str(tmp_path))
    upright = Image.fromarray(picture(0)[..., ::-1])
    turn = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[274] = orientation
    upright.transpose(turn[orientation]).save(tmp_path / 'photos' / 'p0.png', exif=exif)
    tools.convert(str(tmp_path), 'labelme')
    assert (
        'pictures written upright, as EXIF says, to fit their labels: 1' in capsys.readouterr().out
    )
    assert (tmp_path / 'upright' / 'p0.png').exists() and not (
        tmp_path / 'images' / 'p0.png'
    ).exists()
    assert_right(tmp_path, 'labelme')


@pytest.mark.parametrize('orientation, size', [(6, (H, W)), (3, (H, W)), (6, (W, H))])
def test_masks_of_pictures_that_exif_turns(orientation, size, tmp_path):
    """Their size decides; where it cannot, nothing is guessed."""
    make_binary(str(tmp_path))
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(picture(0)).save(tmp_path / 'images' / 'p0.jpg', exif=exif)
    save(f'{tmp_path}/masks/p0.png', np.eye(*size, dtype=np.uint8))
    if orientation == 3:
        with pytest.raises(
            UserError, match='images/p0.jpg: EXIF turns this picture, and .*p0.png does not say'
        ):
            tools.convert(str(tmp_path), 'binary')
        return
    tools.convert(str(tmp_path), 'binary')
    assert labels_by_name()[0][1].shape == size
    assert (tmp_path / 'upright' / 'p0.png').exists() == (size == (W, H))


def test_greys_of_masks(tmp_path, capsys):
    make_binary(str(tmp_path))
    soft = np.where(label_of(0) > 0, 255, 0).astype(np.uint8)
    soft[5, 4:9] = 100
    soft[33, 4:9] = 200
    save(f'{tmp_path}/masks/p0.png', soft)
    os.unlink(tmp_path / 'masks' / 'p2.png')
    transparent = np.zeros((H, W, 4), np.uint8)
    transparent[..., 3] = 255 * (label_of(2) > 0)
    save(f'{tmp_path}/masks/p2.png', transparent)
    tools.convert(str(tmp_path), 'binary')
    out = capsys.readouterr().out
    assert (
        'masks with soft edges, of which 128 and above is foreground: 1' in out
        and 'JPEG, of which 128 and above is foreground: 1, the first in' in out
    )
    samples = labels_by_name()
    assert (samples[0][1] == (soft >= 128)).all() and (samples[2][1] == (label_of(2) > 0)).all()


@pytest.mark.parametrize(
    'text_of', ['[hut, "tall, tree"]', '{0: hut, 1: "tall, tree"}', "['hut',\n  'tall, tree']"]
)
def test_names_in_yaml(text_of, tmp_path, capsys):
    make_yolo(str(tmp_path))
    (tmp_path / 'data.yaml').write_text(f'nc: 2\nnames: {text_of}  # two\ntrain: images/train\n')
    tools.convert(str(tmp_path), 'yolo')
    assert 'classes: background, hut, tall, tree' in capsys.readouterr().out


def test_the_share_follows_from_the_names():
    names = [f'{i:03d}' for i in range(100)]
    parts = lists.share(names[::-1])
    assert len(parts['val']) == 20 and sorted(parts['train'] + parts['val']) == names
    assert lists.share(names) == parts and parts['val'] != names[:20]
    assert (
        lists.share(['a']) == {'train': ['a'], 'val': []}
        and len(lists.share(['a', 'b'])['val']) == 1
    )


# ------------------------------------------------------------------------------------------------- what will not do


def spoil(root, source, change):
    """The first JSON of a source, changed."""
    MAKERS[source](str(root))
    path = next(path for path in sorted(root.rglob('*.json')))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rename(name):
    return lambda content: content['images'][0].update(file_name=name)


def move(folder):
    """A change of a COCO file: all of its pictures, which are nowhere, are in this folder."""

    def change(content):
        for i, image in enumerate(content['images']):
            image['file_name'] = f'{folder}x{i}.png'

    return change


def of_first(**values):
    return lambda content: content['annotations'][0].update(values)


HOSTILE = {
    'a category that is unknown': ('coco', of_first(category_id=5), 'category 5, which is not named'),
    'an image that is unknown': ('coco', of_first(image_id=5), 'objects of the image 5'),
    'names that lead out': ('coco', move('../../'), 'which leads out of .*5 of 5 pictures'),
    'absolute names': ('coco', move('/etc/'), 'which leads out of'),
    'names of a drive': ('coco', move('C:\\'), 'which leads out of'),
    'one picture twice': ('coco', rename('cam/p1.png'), 'cam/p1.png'),
    'another size': ('coco', lambda c: c['images'][0].update(width=9), r'is 9x40, the picture\s+48x40'),
    'too long': ('coco', of_first(segmentation={'size': [H, W], 'counts': [1, H * W]}), 'cannot be drawn .*run lengths'),
    'a corner that is none': ('coco', of_first(segmentation=[[1, 2, 3, 4, float('nan'), 6]]), 'two numbers'),
    'half a corner': ('coco', of_first(segmentation=[[1, 2, 3]]), 'the outline of the object 0 of the image 3 is none'),
    'no list': ('coco', lambda c: c.update(images=3), 'no COCO file of instances'),
    'a shape that is unknown': ('labelme', lambda c: c['shapes'][0].update(shape_type='cloud'), "kind 'cloud'"),
    'points that are none': ('labelme', lambda c: c['shapes'][0].update(points=[['a']]), 'no file of labelme'),
    'a label that is none': ('labelme', lambda c: c['shapes'][0].update(label=None), 'whose label is None'),
    'no shapes': ('labelme', lambda c: c.update(shapes=None), 'not of labelme'),
    'another size in labelme': ('labelme', lambda c: c.update(imageHeight=7), r'is 48x7, the picture'),
    'a brush cut off': (
        'labelstudio',
        lambda c: c[0]['annotations'][0]['result'][0]['value'].update(rle=[0, 0, 30, 0, 57, 7, 7, 15]),
        'run lengths of a brush',
    ),
    'no result': ('labelstudio', lambda c: c[0]['annotations'][0].pop('result'), 'no export of Label Studio'),
}  # fmt: skip


@pytest.mark.parametrize('case', HOSTILE)
def test_hostile_json(case, tmp_path):
    source, change, said = HOSTILE[case]
    spoil(tmp_path, source, change)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=said):
        tools.convert(str(tmp_path), source)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize('source', ['coco', 'labelme', 'labelstudio'])
def test_json_that_is_cut_off(source, tmp_path):
    MAKERS[source](str(tmp_path))
    path = next(path for path in sorted(tmp_path.rglob('*.json')))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match=f'{path.name}: this is no JSON file, or only part of one'):
        tools.convert(str(tmp_path), source)


def lines_of(path, *lines):
    """A change of a folder: this file has these lines."""
    return lambda root: text(f'{root}/{path}', lines)


def mask_of_values(path, *values):
    pixels = np.resize(np.array(values, np.uint8), (H, W))
    return lambda root: save(f'{root}/{path}', pixels)


DARK_LIGHT = np.array([(0, 0, 0), (90, 0, 0), (0, 255, 0)], np.uint8)
RED_GREEN = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)


def save_palette(path, label):
    mask = Image.fromarray(label)
    mask.putpalette(RED_GREEN.ravel().tolist())
    mask.save(path)


def object_in_void():
    """1 is a small object, 255 its border, as of VOC."""
    mask = np.zeros((H, W), np.uint8)
    mask[10:16, 10:16] = 255
    mask[12:14, 12:14] = 1
    return mask


def small_class():
    mask = np.where(label_of(0) > 0, 255, 0).astype(np.uint8)
    mask[36:39, 40:44] = 100
    return mask


SPOILT = {
    'runs too long': ('rle', lines_of('train.csv', 'ImageId,EncodedPixels', f'p0.jpg,1 {H * W + 1}'), 'up to pixel 1,921'),
    'half a run': ('rle', lines_of('train.csv', 'ImageId,EncodedPixels', 'p0.jpg,1 2 3 4', 'p0.jpg,1 2 3'), 'a start without a length'),
    'no number': ('rle', lines_of('train.csv', 'ImageId,EncodedPixels', 'p0.jpg,1 2', 'p0.jpg,a b'), 'cannot be drawn'),
    'a row too short': ('rle', lines_of('train.csv', 'ImageId,EncodedPixels', 'p1.jpg,1 2', 'p0.jpg'), 'row 3: 1 fields, not 2'),
    'no such picture': ('rle', lines_of('train.csv', 'ImageId,EncodedPixels', '../p9,1 2'), "'../p9', which leads out of"),
    'a class beyond': ('yolo', lines_of('labels/train/p0.txt', '2 0 0 1 0 1 1'), 'line 1: the class 2, but there are 0 to 1'),
    'pixels': ('yolo', lines_of('labels/train/p0.txt', '0 5 5 40 5 40 30'), 'not in shares'),
    'words': ('yolo', lines_of('labels/train/p0.txt', 'hut 0 0 1 0 1 1'), 'is not a class and numbers'),
    'no names': ('yolo', lambda root: os.unlink(f'{root}/data.yaml'), 'there is no data.yaml'),
    'a colour beyond': ('cvat', lines_of('labelmap.txt', 'background:0,0,0::', 'hut:250,50,83::'), 'colour .51, 221, 255.'),
    'no colour': ('cvat', lines_of('labelmap.txt', 'background:0,0::'), 'line 1'),
    'one colour twice': ('cvat', lines_of('labelmap.txt', 'background:0,0,0::', 'hut:0,0,0::'), 'two labels have the colour'),
    'a value beyond': ('roboflow', mask_of_values('train/p0_jpg.rf.0a_mask.png', 0, 9), 'value 9, which _classes.csv'),
    'masks without pictures': ('roboflow', lambda root: [os.unlink(path) for path in root.rglob('*.jpg')], 'this image is missing; 3 of 3 masks in'),
    'a mask of another size': ('binary', lambda root: save(f'{root}/masks/p0.png', np.eye(9, dtype=np.uint8)), 'is 9x9, the picture'),
    'classes': ('binary', mask_of_values('masks/p0.png', 0, 1, 2), 'these are classes'),
    'two colours': ('binary', lambda root: save(f'{root}/masks/p0.png', COLOURS[label_of(0)]), 'colours .51, 221, 255. and .250, 50, 83.: these are classes'),
    'a dark and a light colour': ('binary', lambda root: save(f'{root}/masks/p0.png', DARK_LIGHT[label_of(0)]), 'these are classes'),
    'two colours of a palette': ('binary', lambda root: save_palette(f'{root}/masks/p0.png', label_of(0)), 'these are classes'),
    'two colours in JPEG': ('binary', lambda root: save(f'{root}/masks/p4.jpg', RED_GREEN[label_of(0)], quality=95), 'a JPEG of several colours'),
    'levels in JPEG': ('binary', lambda root: save(f'{root}/masks/p4.jpg', (145 * (label_of(0) > 0) + 110 * (label_of(0) > 1)).astype(np.uint8)), 'a JPEG of several colours or levels'),
    'greys in JPEG': ('binary', lambda root: save(f'{root}/masks/p4.jpg', 100 * label_of(0)), 'a JPEG with areas of grey'),
    'an object and void': ('binary', lambda root: save(f'{root}/masks/p0.png', object_in_void()), 'is 255 void'),
    'a small class': ('binary', lambda root: save(f'{root}/masks/p0.png', small_class()), 'levels 100, 255 besides 0, not only at edges'),
    'floats': ('binary', lambda root: save(f'{root}/masks/p0.png', label_of(0).astype(np.float32), format='TIFF'), 'numbers of 32 bits, or floats'),
    'dark greys of 16 bits': ('binary', lambda root: save(f'{root}/masks/p0.png', label_of(0).astype(np.uint16)), 'nearly black'),
    'a second of a split': ('yolo', lambda root: text(f'{root}/data.yaml', ['names: [a, b]', 'train: train.txt', 'val: images/val']) or text(f'{root}/train.txt', ['images/train/p0.png']), 'train.txt: the new list goes there; rename it'),
    'levels of two masks': ('binary', mask_of_values('masks/p0.png', 0, 2), 'have the levels 1, 2, 255'),
    'a mask that is none': ('binary', lines_of('masks/p0.png', 'no picture'), 'this picture cannot be read'),
    'a picture that is none': ('coco', lines_of('images/cam/p0.png', 'no picture'), 'this picture cannot be read'),
    'nothing there': ('coco', lambda root: os.unlink(f'{root}/annotations.json'), 'no file here is a COCO file'),
}  # fmt: skip


@pytest.mark.parametrize('case', SPOILT)
def test_spoilt_files(case, tmp_path):
    source, change, said = SPOILT[case]
    MAKERS[source](str(tmp_path))
    change(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=said):
        tools.convert(str(tmp_path), source)
    assert snapshot(tmp_path) == before


def test_sixteen_bits(tmp_path, capsys):
    """One level is foreground, wherever it is; soft edges are cut at the same share of white."""
    make_binary(str(tmp_path))
    soft = np.where(label_of(1) > 0, 65535, 0).astype(np.uint16)
    soft[5, 5:31] = 20_000
    soft[32, 5:31] = 40_000
    os.unlink(tmp_path / 'masks' / 'p1.gif')
    save(f'{tmp_path}/masks/p0.png', np.full((H, W), 65535, np.uint16))
    save(f'{tmp_path}/masks/p1.png', soft)
    tools.convert(str(tmp_path), 'binary')
    assert 'masks whose foreground is 255: 2' in capsys.readouterr().out
    samples = labels_by_name()
    assert (samples[0][1] == 1).all() and (samples[1][1] == (soft > 32768)).all()


def test_wide_soft_edges(tmp_path, capsys):
    make_binary(str(tmp_path))
    mask = np.where(label_of(0) > 0, 255, 0).astype(np.uint8)
    for i in range(3):
        mask[2 + i, 4:30] = 60 * (i + 1)
    save(f'{tmp_path}/masks/p0.png', mask)
    tools.convert(str(tmp_path), 'binary')
    assert 'masks with soft edges' in capsys.readouterr().out
    assert (labels_by_name()[0][1] == (mask >= 128)).all()


@pytest.mark.parametrize('colour', [(255, 130, 0), (0, 0, 160), (200, 120, 140)])
@pytest.mark.parametrize('ending', ['.png', '.jpg'])
def test_masks_of_one_colour(colour, ending, tmp_path):
    make_binary(str(tmp_path))
    shutil.rmtree(tmp_path / 'masks')
    for i, name in enumerate(NAMES):
        mask = np.array([(0, 0, 0), colour, colour], np.uint8)[label_of(i)]
        save(f'{tmp_path}/masks/{name}{ending}', mask)
    tools.convert(str(tmp_path), 'binary')
    for i, (_, label) in labels_by_name().items():
        wrong = ((label == 1) != (label_of(i) > 0)).mean()
        assert wrong < 0.1 if ending == '.jpg' else wrong == 0  # JPEG: along the edges


def test_a_flat_folder_with_masks_next_to_the_pictures(tmp_path):
    for i, name in enumerate(NAMES):
        write(f'{tmp_path}/{name}.jpg', picture(i))
        white = np.where(label_of(i) > 0, 255, 0).astype(np.uint8)
        save(f'{tmp_path}/{name}_mask.jpg', white, quality=95)
    with pytest.raises(UserError, match='p0_mask.jpg is a mask, .*--from binary'):
        dataset.classes()
    tools.convert(str(tmp_path), 'binary')
    assert_right(tmp_path, 'binary')


def test_objects_outside_are_told(tmp_path, capsys):
    far = [[100, 100, 120, 100, 120, 120]]
    spoil(
        tmp_path,
        'coco',
        lambda content: content['annotations'].append(
            content['annotations'][0] | {'id': 99, 'segmentation': far}
        ),
    )
    tools.convert(str(tmp_path), 'coco')
    assert 'objects outside their picture, not drawn: 1' in capsys.readouterr().out
    assert_right(tmp_path, 'coco')


def test_sources_that_are_not_known(tmp_path, capsys):
    for name, said in (('', 'name a source'), ('coco.json', 'did you mean coco')):
        with pytest.raises(UsageError, match=said):
            tools.convert(str(tmp_path), name)
        out = capsys.readouterr().out
        assert all(source in out for source in MAKERS)


def test_a_break_leaves_nothing(tmp_path, monkeypatch):
    make_coco(str(tmp_path))
    before = snapshot(tmp_path)

    def broken(*args):
        raise KeyboardInterrupt

    monkeypatch.setitem(marks.PAINT, 'runs', broken)
    with pytest.raises(KeyboardInterrupt):
        tools.convert(str(tmp_path), 'coco')
    assert snapshot(tmp_path) == before


def test_a_break_before_the_table(tmp_path, monkeypatch):
    """Nothing trains on what is half-made, and the same command goes on."""
    make_coco(str(tmp_path))
    merge = archives.merge

    def broken(source, target):
        if os.path.basename(source) == 'table':
            raise KeyboardInterrupt
        merge(source, target)

    monkeypatch.setattr(archives, 'merge', broken)
    with pytest.raises(KeyboardInterrupt):
        tools.convert(str(tmp_path), 'coco')
    with pytest.raises(UserError, match='classes.txt: this class table cannot be read'):
        dataset.Dataset('train', train=True)
    monkeypatch.undo()
    put(DATASET='folder', DATA_ROOT=str(tmp_path), NUM_WORKERS=0)
    tools.convert(str(tmp_path), 'coco')
    assert_right(tmp_path, 'coco')


# --------------------------------------------------------------------------------------------- named, and proposed


@pytest.mark.parametrize('source', [name for name in MAKERS if name not in ('roboflow', 'binary')])
def test_recognised_where_labels_are_missing(source, tmp_path):
    MAKERS[source](str(tmp_path))
    command = f'python prepare.py folder --root {tmp_path} --from {source}'
    with pytest.raises(UserError, match=command):
        dataset.classes()
    with pytest.raises(UserError, match=command):
        check.check([])
    text(f'{tmp_path}/classes.txt', ['0 0 0 0 a', '1 9 9 9 b'])
    if os.path.isdir(tmp_path / 'images'):
        with pytest.raises(UserError, match=command):
            dataset.Dataset('train', train=True)


def test_a_table_to_begin_with(tmp_path, capsys):
    make_roboflow(str(tmp_path))
    for path in tmp_path.rglob('_classes.csv'):
        path.unlink()
    with pytest.raises(
        UserError, match='classes.txt: this class table is missing; put the lines above'
    ):
        check.check([])
    lines = capsys.readouterr().out.strip().splitlines()[-3:]
    assert lines == ['0 0 0 0 background', '1 128 0 0 class 1', '2 0 128 0 class 2']
    text(f'{tmp_path}/classes.txt', lines)
    assert_right(tmp_path, 'roboflow')
    text(f'{tmp_path}/classes.txt', lines[:2])
    read_classes.cache_clear()
    with pytest.raises(UserError, match='value 2 is not in'):
        check.check(['train'])
    assert '2 0 128 0 class 2\n' in capsys.readouterr().out


def test_a_table_of_colours(tmp_path, capsys):
    for i, name in enumerate(NAMES):
        write(f'{tmp_path}/train_images/{name}.png', picture(i))
        save(f'{tmp_path}/train_masks/{name}.png', COLOURS[label_of(i)])
    with pytest.raises(UserError, match='this class table is missing'):
        check.check([])
    lines = capsys.readouterr().out.strip().splitlines()[-3:]
    assert lines == ['0 0 0 0 background', '1 51 221 255 class 1', '2 250 50 83 class 2']
    text(f'{tmp_path}/classes.txt', lines)
    data = dataset.Dataset('train', train=False)
    assert (data.read(0)[1] == np.array([0, 2, 1])[label_of(0)]).all()


def test_brushes_of_the_converter():
    """Label Studio's own package, where it is installed."""
    package = pytest.importorskip('label_studio_converter.brush')
    mask = np.where(label_of(0) > 0, 255, 0).astype(np.uint8)
    values = marks.decode_brush(package.mask2rle(mask), H * W * 4)
    assert (values.reshape(H, W, 4)[..., 3] == mask).all()
    packed = pack(np.repeat(mask.ravel(), 4))
    assert (package.decode_rle(packed) == np.repeat(mask.ravel(), 4)).all()


def test_masks_in_formats_of_pictures(tmp_path):
    make_binary(str(tmp_path))
    for name in ('p0.png', 'p2.png', 'p3.bmp'):
        os.unlink(tmp_path / 'masks' / name)
    with pytest.raises(
        UserError, match='masks/p1.gif is a mask, in a format that is no label: .*--from binary'
    ):
        dataset.classes()
    os.rename(tmp_path / 'masks', tmp_path / 'labels')
    with pytest.raises(UserError, match='labels: the new labels go there; rename it to masks'):
        tools.convert(str(tmp_path), 'binary')


def test_a_list_of_names_in_the_place_of_the_table(tmp_path):
    """As Label Studio exports YOLO."""
    make_yolo(str(tmp_path))
    os.unlink(tmp_path / 'data.yaml')
    text(f'{tmp_path}/classes.txt', ['hut', 'tree'])
    with pytest.raises(
        UserError, match='classes.txt: this is a list of names, .*rename it to names.txt'
    ):
        tools.convert(str(tmp_path), 'yolo')
    os.rename(tmp_path / 'classes.txt', tmp_path / 'names.txt')
    tools.convert(str(tmp_path), 'yolo')
    assert_right(tmp_path, 'yolo')


def test_split_of_folders_and_of_names(tmp_path):
    """A single file named after a split divides nothing; two of them do."""
    content = make_coco(str(tmp_path))
    os.rename(tmp_path / 'annotations.json', tmp_path / 'my_test.json')
    tools.convert(str(tmp_path), 'coco')
    assert (
        len(dataset.Dataset('train', train=False)) == 4
        and len(dataset.Dataset('val', train=False)) == 1
    )
    for name in ('train.txt', 'val.txt', 'my_test.json'):
        os.unlink(tmp_path / name)
    for split, part in (('train', content['images'][:2]), ('valid', content['images'][2:])):
        ids = [image['id'] for image in part]
        objects = [one for one in content['annotations'] if one['image_id'] in ids]
        dump(
            f'{tmp_path}/{split}/_annotations.coco.json',
            content | {'images': part, 'annotations': objects},
        )
    tools.convert(str(tmp_path), 'coco')
    assert (
        len(dataset.Dataset('train', train=False)) == 2
        and len(dataset.Dataset('val', train=False)) == 3
    )
    assert_right(tmp_path, 'coco')


# --------------------------------------------------------------------------------------- as tools leave it in earnest


def labels_of_split(split):
    """{picture's last folder and name: (image, label)} as training reads them."""
    data = dataset.Dataset(split, train=False)
    samples = {}
    for i, (image, _) in enumerate(data.pairs):
        samples['/'.join(image.split('/')[-2:])] = data.read(i)
    return samples


def assert_pairs(split, wanted):
    """The pictures of a split, {name: number of the picture whose label it has}."""
    samples = labels_of_split(split)
    assert sorted(samples) == sorted(wanted)
    for name, i in wanted.items():
        image, label = samples[name]
        assert (label == label_of(i)).all(), name
        assert np.abs(image.astype(int) - picture(i)[..., ::-1]).mean() < 30, name


def in_order(root, source, capsys):
    tools.convert(str(root), source)
    out = capsys.readouterr().out
    check.check([])
    assert 'folder: what is there is in order' in capsys.readouterr().out
    after = snapshot(root)
    tools.convert(str(root), source)  # what it made itself is not taken for another picture
    assert snapshot(root) == after
    capsys.readouterr()
    return out


def coco_part(numbers, names):
    """A COCO file of some pictures; "images" comes first, the classes last, the background none of them."""
    images, objects = [], []
    for i, name in zip(numbers, names, strict=True):
        images.append({'file_name': name, 'id': i, 'height': H, 'width': W})
        for value, box in enumerate(boxes(i)):
            shape = [np.array(outline(box), float).ravel().tolist()]
            objects.append(
                {'image_id': i, 'category_id': value, 'iscrowd': 0, 'segmentation': shape}
            )
    kinds = [{'id': 0, 'name': 'hut'}, {'id': 1, 'name': 'tree'}]
    return {'images': images, 'annotations': objects, 'categories': kinds}


@pytest.mark.parametrize('folder, file', [
    ('{split}', '{split}/_annotations.coco.json'),
    ('images/{split}', 'annotations/instances_{split}.json'),
])  # fmt: skip
def test_coco_with_the_same_names_in_two_splits(folder, file, tmp_path, capsys):
    for split, numbers in (('train', [0, 1, 2]), ('val', [3, 4])):
        for place, i in enumerate(numbers):
            write(f'{tmp_path}/{folder}/{place}.png'.format(split=split), picture(i))
        content = coco_part(numbers, [f'{place}.png' for place in range(len(numbers))])
        dump(f'{tmp_path}/{file}'.format(split=split), content)
    write(f'{tmp_path}/{folder}/7.png'.format(split='train'), picture(7))
    out = in_order(tmp_path, 'coco', capsys)
    assert 'pictures without a label, left out: 1, such as' in out and '7.png' in out
    assert_pairs('train', {'train/0.png': 0, 'train/1.png': 1, 'train/2.png': 2})
    assert_pairs('val', {'val/0.png': 3, 'val/1.png': 4})


def test_a_picture_of_another_split_is_not_taken(tmp_path):
    for split, numbers in (('train', [0, 1]), ('valid', [3])):
        write(f'{tmp_path}/{split}/{numbers[0]}.png', picture(numbers[0]))
        dump(f'{tmp_path}/{split}/x.json', coco_part(numbers, [f'{i}.png' for i in numbers]))
    write(f'{tmp_path}/valid/1.png', picture(1))
    with pytest.raises(
        UserError, match='valid/1.png, of another split; give the names in the file'
    ):
        tools.convert(str(tmp_path), 'coco')


def test_coco_that_begins_with_many_images(tmp_path, monkeypatch):
    write(f'{tmp_path}/0.png', picture(0))
    content = coco_part([0], ['0.png'])
    content['images'] = [content['images'][0] | {'license': 'x' * 400}]
    monkeypatch.setattr(recognise, 'START', 200)
    for order in (('images', 'annotations', 'categories'), ('annotations', 'images', 'categories')):
        dump(f'{tmp_path}/a.json', {key: content[key] for key in order})
        assert recognise.source_of(f'{tmp_path}/a.json') == 'coco'


def labelme_file(i, name, stored=None):
    shapes = []
    for kind, box in zip(('tree', 'hut'), boxes(i), strict=True):
        shapes.append({'label': kind, 'points': outline(box), 'shape_type': 'polygon', 'flags': {}})
    content = {'version': '5.5.0', 'flags': {}, 'shapes': shapes, 'imagePath': name}
    data = None if stored is None else base64.b64encode(png_bytes(stored[..., ::-1])).decode()
    return content | {'imageData': data, 'imageHeight': H, 'imageWidth': W}


def test_labelme_with_the_same_names_in_folders(tmp_path, capsys):
    """Deep ones, too; one with its picture inside, and one without a label."""
    text(f'{tmp_path}/labels.txt', ['tree', 'hut'])
    for i, folder in enumerate(['g', 'g/sub', 'g/a/b/c/d']):
        write(f'{tmp_path}/{folder}/x.png', picture(i))
        if i:
            dump(f'{tmp_path}/{folder}/x.json', labelme_file(i, 'x.png'))
    os.makedirs(tmp_path / 'g' / 'z')
    dump(f'{tmp_path}/g/z/x.json', labelme_file(3, 'x.png', picture(3)))
    out = in_order(tmp_path, 'labelme', capsys)
    assert 'left out: 1, such as g/x.png' in out and '3 images with labels' in out
    samples = labels_of_split('train') | labels_of_split('val')
    assert sorted(samples) == ['d/x.png', 'sub/x.png', 'z/x.png']
    for name, i in {'d/x.png': 2, 'sub/x.png': 1, 'z/x.png': 3}.items():
        assert (samples[name][1] == label_of(i)).all()
        assert (samples[name][0] == picture(i)[..., ::-1]).all()


def test_labelme_files_in_a_folder_of_their_own(tmp_path, capsys):
    """Each holds its picture, packed once more, but that which was moved is the same, and is used."""
    for i, name in enumerate(NAMES):
        content = labelme_file(i, f'{name}.jpg')
        stream = io.BytesIO()
        write(f'{tmp_path}/images/{name}.jpg', picture(i))
        Image.open(f'{tmp_path}/images/{name}.jpg').save(stream, 'JPEG', quality=90, subsampling=0)
        content['imageData'] = base64.b64encode(stream.getvalue()).decode()
        dump(f'{tmp_path}/ann/{name}.json', content)
    text(f'{tmp_path}/labels.txt', ['tree', 'hut'])
    assert 'left out' not in in_order(tmp_path, 'labelme', capsys)
    assert sorted(os.listdir(tmp_path / 'images')) == [f'{name}.jpg' for name in NAMES]
    assert_right(tmp_path, 'labelme')


def test_pictures_in_labelme_files_do_not_stay_in_memory(tmp_path):
    for i in range(3):
        noise = np.random.RandomState(i).randint(0, 255, (H, W, 3), np.uint8)
        dump(f'{tmp_path}/{i}.json', labelme_file(i, f'{i}.png', noise))
    source = labelme.read(str(tmp_path))
    assert len(source.samples) == 3 and len(pickle.dumps(source)) < H * W * 3


def test_hints_look_into_folders_behind_many_files(tmp_path, monkeypatch):
    make_labelme(str(tmp_path))
    for i in range(4):
        text(f'{tmp_path}/{i}.txt', ['x'])
    monkeypatch.setattr(recognise, 'MANY', 2)
    assert dict(recognise.recognise(str(tmp_path)))['labelme'].endswith('p0.json')


@pytest.mark.parametrize('kind', ['folders', 'lists', 'both the same', 'elsewhere'])
def test_the_split_of_yolo(kind, tmp_path, capsys):
    names = {'a': [0, 1, 2], 'b': [3, 4]}
    for folder, numbers in names.items():
        os.makedirs(tmp_path / 'labels' / folder)
        for i in numbers:
            write(f'{tmp_path}/images/{folder}/{i}.png', picture(i))
            lines = []
            for box in boxes(i):
                numbers_of = (np.array(outline(box)) / (W, H)).ravel()
                lines.append(' '.join(map(str, [box[0] - 1, *numbers_of])))
            text(f'{tmp_path}/labels/{folder}/{i}.txt', lines)
    write(f'{tmp_path}/images/c/9.png', picture(9))
    places = {
        'folders': ['train: ../images/a  # as Roboflow', 'val:', '  - images/b', 'test:'],
        'lists': ['train: lists/train.txt', 'val: ["lists/val.txt"]', 'test: images/none'],
        'both the same': ['train: images/a', 'val: images/a'],
        'elsewhere': ['path: /data/x', 'train: photos/a', 'val: photos/b'],
    }
    text(f'{tmp_path}/data.yaml', ['nc: 2', *places[kind], 'names: [hut, tree]'])
    os.makedirs(tmp_path / 'lists')
    text(f'{tmp_path}/lists/train.txt', ['../images/a/0.png', './images/a/1.png', 'images/a/2.png'])
    text(f'{tmp_path}/lists/val.txt', ['images/b/3.png', f'{tmp_path}/images/b/4.png'])
    out = in_order(tmp_path, 'yolo', capsys)
    if kind in ('folders', 'lists'):
        assert_pairs('train', {'a/0.png': 0, 'a/1.png': 1, 'a/2.png': 2})
        assert_pairs('val', {'b/3.png': 3, 'b/4.png': 4})
        assert '1 pictures are in no split of' in out
    elif kind == 'both the same':
        assert '3 pictures are in two splits of' in out and '(train 2, val 1)' in out
    else:
        assert 'its train: photos/a is not here; the names of folders divide' in out
        assert '(train 5, val 1)' in out


@pytest.mark.parametrize('source', ['cvat', 'voc', 'roboflow'])
def test_the_background_is_not_first(source, tmp_path, capsys):
    """It is 0 all the same, and a picture without an object is said to be."""
    MAKERS[source](str(tmp_path))
    if source == 'cvat':
        lines = ['hut:250,50,83::', 'tree:51,221,255::', 'background:0,0,0::']
        text(f'{tmp_path}/labelmap.txt', lines)
        save(f'{tmp_path}/SegmentationClass/p0.png', np.zeros((H, W, 3), np.uint8))
    elif source == 'voc':
        text(f'{tmp_path}/class_names.txt', ['__ignore__', 'hut', '_background_', 'tree'])
        shifted = np.array([1, 0, 2], np.uint8)
        for i, name in enumerate(NAMES):
            save(
                f'{tmp_path}/SegmentationClassPNG/{name}.png',
                shifted[label_of(i) if i else label_of(0) * 0],
            )
    else:
        for split in ('train', 'valid'):
            rows = ['Pixel Value, Class', '1, hut', '2, tree', '0, background']
            text(f'{tmp_path}/{split}/_classes.csv', rows)
        save(f'{tmp_path}/train/p0_jpg.rf.0a_mask.png', label_of(0) * 0)
    out = in_order(tmp_path, source, capsys)
    assert 'classes: background, hut, tree' in out
    assert 'pictures without an object, all background: 1' in out
    assert_right(tmp_path, source, wanted=lambda i: label_of(i) if i else label_of(i) * 0)


def test_without_a_background_nothing_is_said_to_be_it(tmp_path, capsys):
    make_cvat(str(tmp_path))
    lines = ['ground:0,0,0::', 'hut:250,50,83::', 'tree:51,221,255::']
    text(f'{tmp_path}/labelmap.txt', lines)
    save(f'{tmp_path}/SegmentationClass/p0.png', np.zeros((H, W, 3), np.uint8))
    assert 'without an object' not in in_order(tmp_path, 'cvat', capsys)


def test_studio_regions_without_a_label_are_told(tmp_path, capsys):
    make_labelstudio(str(tmp_path))
    path = next(tmp_path.glob('*.json'))
    content = json.loads(path.read_text())
    result = content[1]['annotations'][0]['result']
    value = {'x': 1, 'y': 1, 'width': 9, 'height': 9}
    result += [
        {'id': 'a', 'type': 'rectangle', 'value': value},
        {'id': 'b', 'type': 'keypointlabels', 'value': {'x': 1, 'y': 2, 'keypointlabels': ['k']}},
        {'id': 'c', 'type': 'choices', 'value': {'choices': ['good']}},
    ]
    path.write_text(json.dumps(content))
    out = in_order(tmp_path, 'labelstudio', capsys)
    assert '1 regions are a rectangle without a label of an area: not drawn' in out
    assert '1 regions are a keypointlabels' in out and 'choices' not in out
    assert_right(tmp_path, 'labelstudio')
    result[0]['image_rotation'] = 90
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match='turned while it was labelled; turn it back in the tool'):
        tools.convert(str(tmp_path), 'labelstudio')


def test_what_covers_no_pixel():
    """Next to a centre, but on none; it is not outside."""
    thin = np.array([(3.6, 3.6), (3.9, 3.6), (3.9, 3.9)])
    cases = {
        ('polygons', marks.EMPTY): [thin],
        ('polygons', marks.OUTSIDE): [thin + 50],
        ('disc', marks.EMPTY): (4.0, 4.0, 0.3),
        ('disc', marks.OUTSIDE): (40.0, 4.0, 0.3),
        ('png', marks.EMPTY): (2, 2, png_bytes(np.zeros((3, 3), np.uint8))),
        ('png', marks.OUTSIDE): (20, 2, png_bytes(np.ones((3, 3), np.uint8))),
    }
    for (kind, note), data in cases.items():
        label, notes = marks.draw((10, 12), [marks.Mark(3, kind, data)])
        assert notes == [note] and not label.any()


def test_masks_in_labelme_files_are_asked_for_their_size(monkeypatch):
    large = png_bytes(np.zeros((50, 60), np.uint8))
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: pytest.fail('decoded'))
    for content, said in ((large, 'a mask of 60x50, larger'), (b'no picture', 'no PNG file')):
        with pytest.raises(ValueError, match=said):
            marks.draw((10, 12), [marks.Mark(3, 'png', (0, 0, content))])


def test_a_label_that_is_a_number_is_a_name():
    assert labelme.label_of({'label': 1}) == '1' and labelme.label_of({'label': 'cat'}) == 'cat'


def test_the_command_is_whole(tmp_path, capsys):
    """After the conversion and after --check it is the same, and has DATA_ROOT."""
    make_yolo(str(tmp_path))
    tools.convert(str(tmp_path), 'yolo')
    made = capsys.readouterr().out
    check.check([])
    command = next(line for line in made.splitlines() if line.startswith('then: '))[6:]
    assert f'settings that fit: {command}\n' in capsys.readouterr().out
    assert f'DATA_ROOT={tmp_path} ' in command


def test_the_command_fits_a_set_of_few_pictures():
    sizes = collections.Counter({(60, 80): 5})
    assert propose.command('mine', sizes).endswith(
        ' CROP_SIZE=57 ITER_MAX=1000 ITER_VAL=100 BATCH_SIZE=5'
    )
    assert 'BATCH_SIZE' not in propose.command('mine', collections.Counter({(60, 80): 8}))


def test_links_in_circles(tmp_path):
    make_labelme(str(tmp_path))
    os.symlink('..', tmp_path / 'photos' / 'up')
    assert f'{tmp_path}/photos/p0.json' in lookup.walk(str(tmp_path), ('.json',))


def test_studio_with_the_same_names_in_folders(tmp_path, capsys):
    tasks = []
    for i, folder in enumerate(['train', 'val']):
        write(f'{tmp_path}/photos/{folder}/0.png', picture(i))
        results = []
        for kind, box in zip(('tree', 'hut'), boxes(i), strict=True):
            points = (np.array(outline(box)) * (100 / W, 100 / H)).tolist()
            value = {'points': points, 'polygonlabels': [kind]}
            results.append({'original_width': W, 'original_height': H, 'value': value})
        image = f'/data/local-files/?d=home/photos/{folder}/0.png'
        task = {'id': i, 'data': {'image': image}, 'annotations': [{'id': i, 'result': results}]}
        tasks.append(task)
    write(f'{tmp_path}/photos/val/1.png', picture(2))
    dump(f'{tmp_path}/export.json', tasks)
    out = in_order(tmp_path, 'labelstudio', capsys)
    assert 'classes: background, tree, hut' in out and 'such as photos/val/1.png' in out
    assert_pairs('train', {'train/0.png': 0})
    assert_pairs('val', {'val/0.png': 1})


def test_rle_of_pictures_with_the_same_names_in_two_folders(tmp_path, capsys):
    """The file is that of one of them; a picture that it does not name is left out."""
    make_rle(str(tmp_path))
    write(f'{tmp_path}/test_images/p0.jpg', picture(7))
    write(f'{tmp_path}/train_images/q.jpg', picture(8))
    out = in_order(tmp_path, 'rle', capsys)
    assert 'left out: 2, such as test_images/p0.jpg' in out
    assert_right(tmp_path, 'rle')
