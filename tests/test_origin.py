"""The data set of a checkpoint: found by eval.py and predict.py, said in a line, and never another one unnoticed."""

import json
import os
import shutil

import numpy as np
import pytest
import scripts
import torch
from helpers import blocks, build, colour_of, put, small_net, write
from PIL import Image
from scripts import RECIPE

import checkpoint
import settings
from datasets.files import as_text, parse_classes, read_classes
from utils import config
from utils.config import UserError

COLOURS = ((200, 10, 10), (10, 200, 10), (10, 10, 200), (200, 200, 10))
NAMES = ('red roof', 'grass', 'water', 'Straße')


def make_own(folder, names=NAMES, splits=('train', 'valid')):
    """A small data set of one's own."""
    for split, count in zip(splits, (4, 2)):
        for i in range(count):
            label = blocks(40, 56, seed=10 * count + i, classes=len(names))
            write(str(folder / 'images' / split / f'{i}.png'), colour_of(label))
            write(str(folder / 'labels' / split / f'{i}.png'), label)
    lines = [f'{i} {" ".join(map(str, COLOURS[i]))} {name}\n' for i, name in enumerate(names)]
    (folder / 'classes.txt').write_text(''.join(lines))
    return folder


def run(folder, script, *words):
    common = [f'{name}={folder}/{name}' for name in ('MODEL_DIR', 'LOG_DIR')]
    return scripts.run(script, *words, *common, 'DEVICES=cpu', 'AMP=off', scratch=folder)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with a run `own` on data of one's own in mine/, as train.py leaves it."""
    folder = tmp_path_factory.mktemp('trained')
    make_own(folder / 'mine')
    (folder / 'own.py').write_text(RECIPE.replace("DATASET = 'camvid'", "DATASET = 'folder'"))
    told = run(folder, 'train.py', folder / 'own.py', f'DATA_ROOT={folder}/mine', 'VAL_SPLIT=valid')
    assert told.status == 0, told.err
    yield folder
    shutil.rmtree(folder / 'MODEL_DIR')


@pytest.fixture
def moved(trained):
    """The same, whose data are no longer where they were."""
    os.rename(trained / 'mine', trained / 'elsewhere')
    yield trained
    os.rename(trained / 'elsewhere', trained / 'mine')


def net_of(folder):
    return f'CHECKPOINT={folder}/MODEL_DIR/own/final.pth'


def test_eval_finds_the_data_of_a_checkpoint(trained, tmp_path):
    """Split included; by the recipe alone, too, which names the data set and not its root."""
    for words in ([net_of(trained), 'NAME=a'], [trained / 'own.py', 'NAME=own']):
        told = run(trained, 'eval.py', *words, 'NUM_WORKERS=0')
        assert told.status == 0, told.err
        assert f'its data: DATASET=folder DATA_ROOT={trained}/mine\n' in told.out or (
            f'its data: DATA_ROOT={trained}/mine\n' in told.out
        )
        assert f'folder valid: 2 images in {trained}/mine' in told.out
    with open(trained / 'LOG_DIR' / 'a' / 'scores.json') as f:
        scores = json.load(f)
    assert scores['classes'] == list(NAMES) and scores['split'] == 'valid'


def predict(folder, *words):
    """The sentence and the index picture of a prediction, and the overlay."""
    out = folder / 'out'
    told = run(
        folder, 'predict.py', next((folder).glob('*/images/valid/0.png')), *words, f'SAVE_DIR={out}'
    )
    assert told.status == 0, told.err
    with Image.open(out / 'index' / '0.png') as picture:
        colours = np.array(picture.getpalette()).reshape(-1, 3)[:4]
    shutil.rmtree(out)
    return told.out, colours


def test_predict_has_the_classes_of_a_checkpoint(trained):
    out, colours = predict(trained, net_of(trained))
    assert f'its data: DATASET=folder DATA_ROOT={trained}/mine' in out
    assert (colours == COLOURS).all()


def test_predict_where_the_data_are_gone(moved):
    out, colours = predict(moved, net_of(moved))
    assert f'DATA_ROOT={moved}/mine, a folder that is not here' in out
    assert (colours == COLOURS).all()


def test_an_older_file_where_the_data_are_gone(moved, tmp_path):
    """It keeps no table: numbers, in colours that differ."""
    content = torch.load(moved / 'MODEL_DIR' / 'own' / 'final.pth', weights_only=True)
    assert parse_classes(content.pop('classes'), 'x').names == list(NAMES)
    torch.save(content, tmp_path / 'old.pth')
    _, colours = predict(moved, f'CHECKPOINT={tmp_path}/old.pth')
    assert len({*map(tuple, colours.tolist())}) == 4 and not (colours == COLOURS).all()
    _, report = checkpoint.load_network(str(tmp_path / 'old.pth'))
    assert report.classes.names == [f'class {i}' for i in range(4)]


def test_eval_says_that_the_data_are_gone(moved):
    told = run(moved, 'eval.py', net_of(moved))
    assert told.status == 1 and 'Traceback' not in told.err
    sentence = f"eval.py: there is no folder DATA_ROOT = '{moved}/mine'; name that of your data: "
    assert told.err.splitlines()[-1].startswith(sentence)
    told = run(moved, 'eval.py', net_of(moved), f'DATA_ROOT={moved}/elsewhere', 'NUM_WORKERS=0')
    assert told.status == 0 and f'2 images in {moved}/elsewhere' in told.out, told.err


def test_what_the_command_line_names_counts(trained, tmp_path):
    path = net_of(trained).partition('=')[2]
    other = make_own(tmp_path / 'other', NAMES[:3] + ('sand',))
    put(DATASET='folder', DATA_ROOT=str(other), VAL_SPLIT='val')
    _, report = checkpoint.load_network(path, {'DATASET', 'DATA_ROOT', 'VAL_SPLIT'})
    root, split = settings.DATA_ROOT, settings.VAL_SPLIT
    assert (root, split) == (str(other), 'val')
    assert report.classes.names == list(NAMES) and 'its data' not in str(report)
    assert 'trained with another class table' in str(report)
    put(DATASET='camvid', DATA_ROOT='x')
    _, report = checkpoint.load_network(path, {'DATASET'})
    assert (settings.DATASET, settings.DATA_ROOT) == ('camvid', 'x') and report.classes is None
    assert f'it was trained on DATASET=folder DATA_ROOT={trained}/mine' in str(report)


def test_settings_stand_where_they_name_the_same_data_set(trained, tmp_path):
    """As edited in settings.py, splits included; a root without classes.txt is no data of one's own."""
    path = net_of(trained).partition('=')[2]
    other = make_own(tmp_path / 'other', NAMES[:3] + ('sand',))
    put(DATASET='folder', DATA_ROOT=str(other), VAL_SPLIT='test')
    checkpoint.load_network(path)
    assert (str(other), 'test') == (settings.DATA_ROOT, settings.VAL_SPLIT)
    put(DATASET='folder', DATA_ROOT=str(tmp_path), VAL_SPLIT='test')
    checkpoint.load_network(path)
    assert (f'{trained}/mine', 'valid') == (settings.DATA_ROOT, settings.VAL_SPLIT)


def test_the_root_of_a_known_data_set_is_a_place(tmp_path):
    """It counts where the data are; else that of settings does, and no data set is drawn for this."""
    small_net(DATASET='shapes', DATA_ROOT=str(tmp_path / 'theirs'))
    path = str(tmp_path / 'net.pth')
    torch.save({'net': build().state_dict(), 'step': 2, 'settings': config.current()}, path)
    for name, wanted in (('none', 'here'), ('shapes/trainannot', 'theirs')):
        (tmp_path / 'theirs' / name).mkdir(parents=True)
        put(DATASET='voc', DATA_ROOT=str(tmp_path / 'here'))
        checkpoint.load_network(path)
        name, root = settings.DATASET, settings.DATA_ROOT
        assert (name, root) == ('shapes', str(tmp_path / wanted))
    assert not (tmp_path / 'here').exists()


def test_recipes_name_their_data(tmp_path):
    (tmp_path / 'a.py').write_text("DATASET = 'camvid'\nLR = 1.0\n")
    assert config.override([str(tmp_path / 'a.py'), 'SEED=1']) == {'DATASET', 'SEED'}


def test_predictions_have_the_names_of_the_network(trained, tmp_path):
    """Whatever data of one's own settings.py names; and evaluation says that these are others."""
    path = net_of(trained).partition('=')[2]
    other = make_own(tmp_path / 'other', ('cat', 'dog', 'bird', 'cow'))
    put(DATASET='folder', DATA_ROOT=str(other))
    net, report = checkpoint.load_network(path)
    assert report.classes.names == list(NAMES)
    warnings = [line for line in str(report).splitlines() if line.startswith('warning: ')]
    assert len(warnings) == 2
    assert 'another class table' in warnings[0] and f'DATA_ROOT={trained}/mine' in warnings[1]
    assert 'its classes were others: red roof, grass' in str(
        checkpoint.load_weights(net, path, 'any')
    )
    put(DATA_ROOT=str(tmp_path / 'gone'))
    _, report = checkpoint.load_network(path, {'DATA_ROOT'})
    assert report.classes.names == list(NAMES)


def test_a_class_table_as_text(tmp_path):
    path = tmp_path / 'classes.txt'
    path.write_text('* 10 20 30 the ground\n255 0 0 0 void\n7 200 0 0 Öl\n')
    classes = read_classes(str(path))
    kept = parse_classes(as_text(classes), 'net.pth')
    assert kept.names == classes.names and (kept.colours == classes.colours).all()
    with pytest.raises(UserError, match='^net.pth, class table, line 1: '):
        parse_classes('nothing', 'net.pth, class table')


def test_a_table_that_does_not_fit_the_network(trained, tmp_path):
    """Numbers stand for classes that the table lacks, as in training; more than the network has are none."""
    path = str(tmp_path / 'net.pth')
    content = torch.load(net_of(trained).partition('=')[2], weights_only=True)
    content['settings']['DATA_ROOT'] = str(tmp_path / 'gone')
    rows = content['classes'].splitlines()
    torch.save(content | {'classes': '\n'.join(rows[:3])}, path)
    _, report = checkpoint.load_network(path)
    assert report.classes.names == [*NAMES[:3], 'class 3'] and len(report.classes.colours) == 4
    torch.save(content | {'classes': '\n'.join([*rows, '4 1 2 3 sand'])}, path)
    put(DATASET='voc', DATA_ROOT='x')
    with pytest.raises(UserError, match='net.pth: its class table has 5 classes, its network 4'):
        checkpoint.load_network(path)
