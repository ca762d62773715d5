"""override(): recipes and KEY=value, and what it says to mistakes."""

import os
from typing import get_type_hints

import pytest
from helpers import settings_kept

import settings
from utils import config, script
from utils.config import UsageError, override


def recipe(tmp_path, text, name='trial.py'):
    path = tmp_path / name
    path.write_text(text, encoding='utf-8')
    return str(path)


@pytest.mark.parametrize(
    'arg, wanted',
    [
        ('LR=5e-3', 5e-3),
        ('LR=1', 1.0),
        ('BATCH_SIZE=8', 8),
        ('EM_GRAD=True', True),
        ('CROP_SIZE=400', 400),
        ('CROP_SIZE=(360, 480)', (360, 480)),
        ('CROP_SIZE=[360,480]', (360, 480)),
        ('N_CLASSES=None', None),
        ('N_CLASSES=30', 30),
        ('DEVICES=cpu', 'cpu'),
        ('DEVICES="cpu"', 'cpu'),
        ('DEVICES=(0,1)', (0, 1)),
        ('DATA_ROOT=/some where/ü', '/some where/ü'),
        ('DATA_ROOT=123', '123'),
        ('PRETRAINED=', ''),
        ('NAME=a=b', 'a=b'),
        ('DEVICES=1', (1,)),
        ('TEST_SCALES=1.5', (1.5,)),
        ('SAVE_DIR=out.py', 'out.py'),
        ('SCALES=(1,)', (1,)),
        ('EM_NORM=layer', 'layer'),
        ('TEST_SHORT_SIDE=5', 5),
        ('SCALES=(0.5, 2)', (0.5, 2)),
    ],
)
def test_values(arg, wanted):
    override([arg])
    found = getattr(settings, arg.partition('=')[0])
    assert found == wanted and type(found) is type(wanted)


def test_nothing_leaves_the_defaults():
    before = config.current()
    override([])
    assert config.current() == before | dict(NAME='default')


def test_defaults_pass_their_own_checks():
    for name, value in config.current().items():
        assert config.convert(name, value, 'here') == value


def test_every_table_names_settings():
    names = set(config.current())
    import checkpoint

    for table in (config.AT_LEAST_ONE, config.AT_MOST_ONE, config.ABOVE_ZERO, checkpoint.FREE):
        assert set(table) <= names


def test_the_last_word_wins(tmp_path):
    one, two = (
        recipe(tmp_path, 'LR = 0.1\nSEED = 1\n', 'one.py'),
        recipe(tmp_path, 'LR = 0.2\n', 'two.py'),
    )
    override(['LR=0.3', one, two])
    assert (settings.LR, settings.SEED, settings.NAME) == (0.2, 1, 'two')
    override([two, one, 'LR=0.3', 'LR=0.4'])
    assert (settings.LR, settings.NAME) == (0.4, 'one')


def test_recipe_takes_comments_docstrings_and_blank_lines(tmp_path):
    override(
        [
            recipe(
                tmp_path,
                '"""What it is."""\n# a comment\n\nLR = 0.1  # another\nDATA_ROOT = "straße"\nBN_MOM = 1e-1\nSCALES = (\n    0.5,\n    1)\n',
            )
        ]
    )
    assert (settings.LR, settings.DATA_ROOT, settings.BN_MOM, settings.SCALES) == (
        0.1,
        'straße',
        0.1,
        (0.5, 1),
    )


def test_recipe_as_windows_editors_save_it(tmp_path):
    override([recipe(tmp_path, '\ufeffLR = 0.1\r\nSEED = 4\r\n')])
    assert (settings.LR, settings.SEED) == (0.1, 4)


@pytest.mark.parametrize(
    'args, wanted',
    [
        (['trial.py'], 'trial'),
        (['NAME=mine', 'trial.py'], 'mine'),
        (['trial.py', 'NAME=mine'], 'mine'),
        (['LR=1'], 'default'),
    ],
)
def test_name_of_the_run(args, wanted, tmp_path):
    path = recipe(tmp_path, 'LR = 0.1\n')
    override([path if a == 'trial.py' else a for a in args])
    assert wanted == settings.NAME


def test_recipe_may_name_the_run(tmp_path):
    override([recipe(tmp_path, "NAME = 'other'\n")])
    assert settings.NAME == 'other'


@pytest.mark.parametrize(
    'arg, said',
    [
        ('BATCHSIZE=8', 'there is no setting BATCHSIZE; did you mean BATCH_SIZE'),
        ('lr=1', 'no setting lr; did you mean LR'),
        ('QQQQQQQ=1', 'no setting QQQQQQQ; settings.py lists them'),
        ('FREE=()', 'no setting FREE'),
        ('LR=fast', "LR = 'fast' is not valid; expected float"),
        ('BATCH_SIZE=8.5', 'BATCH_SIZE = 8.5 is not valid; expected int'),
        ('BATCH_SIZE=True', 'expected int'),
        ('EM_GRAD=1', 'expected bool'),
        ('EM_GRAD=true', 'expected bool'),
        ('STRIDE=4', 'STRIDE = 4 is not valid; expected 8, 16, 32'),
        ('STRIDE=8.0', 'expected 8, 16, 32'),
        ('DEVICES=all', "expected 'auto', 'cpu' or a tuple of int"),
        ('N_CLASSES=many', 'expected int or None'),
        ('CROP_SIZE=wide', 'expected int or a tuple of int, int'),
        ('LR_POLICY=linear', "expected 'poly', 'cosine' or a tuple of int, ..."),
        ('BATCH_SIZE=0', 'out of range: expected at least 1'),
        ('LR=-1', 'out of range'),
        ('LR=1e999', 'out of range'),
        ('DROPOUT=1', 'out of range: expected at most 0.99'),
        ('SCALES=(0, 1)', 'out of range'),
        ('STD=(1, 1, 0)', 'out of range'),
        ('N_CLASSES=255', 'out of range: expected at most 25'),
        ('IGNORE_LABEL=256', 'out of range: expected at most 25'),
        ('MEAN=(0.5, 0.5)', 'MEAN and STD have 2 and 3 numbers'),
        ('CROP_SIZE=(1, 2, 3)', 'a tuple of int, int'),
        ('SCALES=()', 'expected a tuple of float'),
        ('SCALES=("a", "b")', 'is not valid'),
        ('CROP_SIZE=(None, 9)', 'is not valid'),
        ('SCALES=((1,), 2)', 'is not valid'),
        ('SCALES=x', 'expected a tuple of float'),
        ('CROP_SIZE=7', 'smaller than STRIDE = 8'),
        ('CROP_SIZE=(513, 7)', 'smaller than STRIDE'),
        ('ACCUMULATE=3', 'cannot be cut into ACCUMULATE = 3'),
        ('BATCH_SIZE', 'BATCH_SIZE'),
    ],
)
def test_mistakes_on_the_command_line(arg, said):
    with pytest.raises(UsageError) as e:
        override([arg])
    assert said in str(e.value) and '\n' not in str(e.value) and e.value.code == 2


@pytest.mark.parametrize(
    'text, said',
    [
        ('import os\n', 'is not a recipe: line 1: only KEY = value'),
        ('"""Mine."""\nA, B = 1, 2\n', 'is not a recipe: line 2: only KEY = value'),
        ('open("x")\n', 'is not a recipe: line 1: only KEY = value'),
        ('LR = 0.1\nLR = 1 +\n', 'is not a recipe: line 2: invalid syntax'),
        ('LR: float\n', 'is not a recipe: line 1: only KEY = value'),
        ('LR = float("1")\n', 'is not a recipe'),
        ('LR += 1\n', 'is not a recipe'),
        ('a, b = 1, 2\n', 'is not a recipe'),
        ('LR = \n', 'is not a recipe'),
        ('for x in y: pass\n', 'is not a recipe'),
        ('open("MARK", "w")\n', 'is not a recipe'),
        (
            'LR = 0.1\nBATCHSIZE = 8\n',
            'line 2: there is no setting BATCHSIZE; did you mean BATCH_SIZE',
        ),
        ('\nLR = "fast"\n', "line 2: LR = 'fast' is not valid"),
        ('LR = -1\n', 'line 1: LR = -1.0 is out of range'),
    ],
)
def test_mistakes_in_a_recipe(text, said, tmp_path):
    path = recipe(tmp_path, text.replace('MARK', str(tmp_path / 'mark')))
    before = config.current()
    with pytest.raises(UsageError) as e:
        override([path])
    assert path in str(e.value) and said in str(e.value)
    assert config.current() == before and not (tmp_path / 'mark').exists()


def test_recipe_may_be_lines_of_settings(tmp_path):
    override([recipe(tmp_path, 'LR: float = 0.25\nSTRIDE: Literal[8, 16] = 16\n')])
    assert settings.LR == 0.25 and settings.STRIDE == 16


@pytest.mark.parametrize(
    'name, value, said',
    [
        ('SECOND_CONV', 'False', "settings.py: SECOND_CONV = 'False' is not valid; expected bool"),
        ('EM_MOM', 9, 'settings.py: EM_MOM = 9.0 is out of range: expected 0 to 1'),
        ('LR', '9e-3', "settings.py: LR = '9e-3' is not valid; expected float"),
        ('STRIDE', 12, 'settings.py: STRIDE = 12 is not valid'),
        ('PRETRAINED', None, 'settings.py: PRETRAINED = None is not valid; expected str'),
        ('PSP_BINS', (1, 2), r'settings.py: the setting PSP_BINS was removed; use HEAD_ARGS'),
        ('SCALE_MODE', 'range', 'settings.py: the setting SCALE_MODE was removed; two values'),
    ],
)
def test_mistakes_in_settings(name, value, said, monkeypatch):
    """Edited by hand, settings.py is checked like a recipe."""
    monkeypatch.setitem(vars(settings), name, value)
    with pytest.raises(UsageError) as e:
        override([])
    assert said in str(e.value)


def test_settings_of_ones_own(monkeypatch):
    """A name that a user adds is a setting without a range."""
    monkeypatch.setitem(vars(settings), 'OFFSET', -3)
    override([])
    override(['OFFSET=-4'])
    assert settings.OFFSET == -4
    with pytest.raises(UsageError, match="OFFSET = 'far' is not valid; expected int"):
        override(['OFFSET=far'])


def test_every_setting_says_its_type():
    assert set(get_type_hints(settings)) == set(config.current())


def test_a_line_that_is_missing(monkeypatch):
    monkeypatch.delitem(vars(settings), 'ITER_LOG')
    with pytest.raises(AttributeError) as e:
        print(settings.ITER_LOG)
    assert script.sentence(e.value).startswith('settings.py has no line ITER_LOG = ...')


@pytest.mark.parametrize(
    'word, is_setting',
    [
        ('LR=1', True),
        ('mine.py', True),
        ('./AB=c.png', False),
        ('a=b.png', False),
        ('photo.png', False),
    ],
)
def test_words_of_a_script_with_inputs(word, is_setting):
    flags = script.Parser('', inputs='picture').read([word])
    assert (flags.settings, flags.inputs) == (([word], []) if is_setting else ([], [word]))


def test_words_of_a_script_without_settings():
    flags = script.Parser('', inputs='folder', reads_settings=False).read(['LR=1', 'mine.py'])
    assert (flags.settings, flags.inputs) == ([], ['LR=1', 'mine.py'])


def test_recipe_is_read_not_run(tmp_path):
    path = recipe(tmp_path, f'__import__("os").mkdir({str(tmp_path / "made")!r})\nLR = 0.1\n')
    with pytest.raises(UsageError, match='is not a recipe'):
        override([path])
    assert not (tmp_path / 'made').exists()


def test_missing_recipe_names_the_nearest(tmp_path):
    recipe(tmp_path, 'LR = 0.1\n', 'camvid.py')
    with pytest.raises(UsageError, match='there is no such recipe file; did you mean .*camvid.py'):
        override([str(tmp_path / 'canvid.py')])
    with pytest.raises(UsageError, match='no such recipe file; recipes/ holds'):
        override(['nowhere/at_all.py'])


def test_binary_file_is_no_recipe(tmp_path):
    (tmp_path / 'x.py').write_bytes(b'\xff\xfe\x00\x01')
    with pytest.raises(UsageError, match='is not a recipe'):
        override([str(tmp_path / 'x.py')])


def test_settings_round_trip_through_a_file(tmp_path):
    override(
        [
            'NAME=trip',
            'LR=0.123',
            'DATA_ROOT=/straße "x"\\y',
            'CROP_SIZE=(65, 97)',
            'N_CLASSES=30',
            'DEVICES=(0, 1)',
            'EM_GRAD=True',
            'BN_MOM=0.1',
        ]
    )
    before = config.current()
    path = recipe(tmp_path, config.as_text(before))
    override(
        [
            'LR=1',
            'SEED=5',
            'NAME=x',
            'CROP_SIZE=33',
            'N_CLASSES=None',
            'DEVICES=cpu',
            'EM_GRAD=False',
            'DATA_ROOT=.',
        ]
    )
    override([path])
    assert config.current() == before


def test_recipes_that_come_along_are_sound():
    folder = os.path.join(os.path.dirname(os.path.abspath(settings.__file__)), 'recipes')
    for name in sorted(os.listdir(folder)):
        if name.endswith('.py'):
            with settings_kept():
                override([os.path.join(folder, name)])
                assert name[:-3] == settings.NAME


@pytest.mark.parametrize(
    'args, words',
    [
        (
            ['TEST_SHORT_SIDE=800', 'TEST_BASE_SIZE=512'],
            'TEST_SHORT_SIDE = 800 and TEST_BASE_SIZE = 512 both',
        ),
        (['TEST_LONG_SIDE=1333'], r'TEST_LONG_SIDE was removed; TEST_SHORT_SIDE=\(800, 1333\) is'),
        (['LR=1e-5', 'LR_MIN=1e-4'], 'LR_MIN = 0.0001 is larger than LR'),
        (['ROTATE=(10,1.5)'], r'ROTATE = \(10.0, 1.5\) is out of range: expected degrees'),
        (['ROTATE_PROB=0.5'], r'ROTATE_PROB was removed; ROTATE=\(10, 0.5\) is'),
        (['POLY_POWER=2'], 'POLY_POWER was removed; LR_POLICY=0.9 is poly with this power'),
    ],
)
def test_settings_that_contradict_each_other(args, words):
    with pytest.raises(UsageError, match=words):
        override(args)


@pytest.mark.parametrize('sign', ['-', '(', '[', '~'])
def test_a_recipe_of_a_hundred_thousand_signs(sign, tmp_path):
    path = recipe(tmp_path, f'LR = {sign * 100_000}1\n')
    with pytest.raises(UsageError, match=r'trial\.py is not a recipe: \S') as e:
        override([path])
    assert len(str(e.value)) < 500
