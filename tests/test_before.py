"""Checkpoints and run folders made before the redesign (commit 1e39d14) load, score and resume as then.

golden/before keeps them, with the logits, scores and losses that the code of that commit computed.
"""

import json
import shutil

import pytest
import torch
from golden import recipe
from golden.before import rebuild
from helpers import assert_close, put

import checkpoint
import settings
from utils import config

pytest.register_assert_rewrite('scripts')
from scripts import run as run_script  # noqa: E402

pytest_plugins = 'scripts'

RUNS = rebuild.names()
LOSSES = 'loss', 'lr', 'em/entropy', 'em/bases_in_use', 'em/cosine'


def expected(run):
    return json.loads(rebuild.read(run, 'expected.json'))


@pytest.fixture
def before(room):
    """A function: puts the files of a run back, and returns what the old code made of them."""

    def put_back(run):
        shutil.rmtree(room.logs, ignore_errors=True)
        shutil.rmtree(room.models, ignore_errors=True)
        rebuild.put_back(run, room.logs, room.models)
        room.recipe.write_text(rebuild.TINY)
        return expected(run)

    return put_back


def test_all_old_names_are_there():
    assert len(RUNS) == 7
    for run in RUNS:
        names = set(rebuild.settings_of(rebuild.read(run, 'settings.txt')))
        assert {'TEST_STAGE_NUM', 'PSA_MASK', 'OHEM_KEEP', 'SCALE_MODE', 'STRIDE_IN_1X1'} <= names


@pytest.mark.parametrize('run', RUNS)
@torch.no_grad()
def test_logits(run, before, room):
    """From settings that describe quite another network."""
    wanted = before(run)
    put(DATASET='camvid')
    net, report = checkpoint.load_network(str(room.models / 'tiny' / 'best.pth'))
    assert report.step == 2 and 'missing' not in str(report)
    logits = net.eval()(recipe.image(65, 65, 7))[0, ::2, ::16, ::16]
    assert_close(logits.flatten(), wanted['logits'], 1e-4, run)
    if run == 'ema':
        assert settings.STAGE_NUM == 5 and settings.SECOND_CONV is False


@pytest.mark.parametrize('run', RUNS)
def test_scores(run, before, room):
    """eval.py with the recipe alone, whose network is another one."""
    wanted = before(run)
    out = room.ok('eval.py')
    assert '\nfrom the file: N_LAYERS=' in out
    scores = room.scores()
    for key, value in wanted['scores'].items():
        assert scores[key] == pytest.approx(value, abs=1e-3), key


def refused_for_its_evaluation(wanted, room):
    """Five EM iterations in evaluation are no setting today; then forget that there were five."""
    result = room.run('train.py', *wanted['today'], 'ITER_MAX=4')
    assert result.status == 1 and 'with other settings (TEST_STAGE_NUM was 5, and ' in result.err
    state = room.checkpoint('latest')
    state['settings']['TEST_STAGE_NUM'] = None
    torch.save(state, room.models / 'tiny' / 'latest.pth')


@pytest.mark.parametrize('run', RUNS)
def test_resuming(run, before, room):
    """The same run goes on, under today's names: losses, scores and what the folder keeps."""
    wanted = before(run)
    first = room.log()
    if run == 'ema':
        refused_for_its_evaluation(wanted, room)
    out = room.ok('train.py', *wanted['today'], 'ITER_MAX=4', 'ITER_VAL=4')
    assert 'resuming tiny at step 2' in out
    log = room.log()
    assert log[: len(first)] == first
    for line, old in zip(log[len(first) :], wanted['log'], strict=True):
        assert line['step'] == old['step']
        for key in [k for k in old if k in LOSSES]:
            assert line[key] == pytest.approx(old[key], rel=1e-3), key
        if run == 'ema':  # its validation had five EM iterations, and now has three
            continue
        assert set(line) == set(old)
        for key in [k for k in old if k.startswith('val/')]:
            assert line[key] == pytest.approx(old[key], abs=2e-3), key
    state = room.checkpoint('latest')
    assert state['step'] == 4 and set(state['settings']) == set(config.current())
    assert 'finished' in room.ok('train.py', *wanted['today'], 'ITER_MAX=4')


@pytest.mark.parametrize(
    'run, drop, words',
    [
        ('ema', 'LOSS_ARGS', "LOSS_ARGS was {'smoothing': 0.1}, is {}"),
        ('ema', 'SECOND_CONV', 'SECOND_CONV was False, is True'),
        (
            'psa_mask',
            'HEAD_ARGS',
            "HEAD_ARGS was {'mask': (3, 5), 'softmax': False, 'type': 'distribute'}",
        ),
        ('psa_compact', 'SCALES', 'SCALES was (0.75, 0.75, 1.25, 1.25), is (0.5, 0.75'),
        ('danet_d2', 'STEM', 'STEM was caffe, is plain'),
        ('deeplabv3plus', 'SHORT_SIDE', 'SHORT_SIDE was (48, 64), is None'),
    ],
)
def test_another_run_is_refused(run, drop, words, before, room):
    today = [word for word in before(run)['today'] if not word.startswith(drop)]
    result = room.run('train.py', *today, 'ITER_MAX=4')
    assert result.status == 1 and words in result.err.replace(
        "'caffe', is 'plain'", 'caffe, is plain'
    )


def compared(room):
    """Head and lines of the table that compare.py prints of the runs `old` and `new`, as lists of cells."""
    folders = [room.logs / name for name in ('old', 'new')]
    result = run_script('compare.py', '--markdown', *folders, scratch=room.folder)
    assert (result.status, result.err) == (0, ''), result.err
    rows = [line.strip('| ').split(' | ') for line in result.out.splitlines()]
    head, _, *lines = rows
    assert [line[0] for line in lines] == [str(folder) for folder in folders]
    return head, *lines


def test_comparing(before, room):
    """An old run, and one that was trained today with the same settings."""
    wanted = before('psp')
    shutil.copytree(room.logs / 'tiny', room.logs / 'old')
    room.ok('train.py', *wanted['today'], 'NAME=new')
    head, *lines = compared(room)
    assert head[:4] == ['run', 'code', 'steps', 'best mIoU']
    assert [line[1:3] for line in lines] == [['?', '2 / 2'], ['reference', '2 / 2']]


@pytest.mark.parametrize('run', RUNS)
def test_no_setting_differs(run, before, room):
    """Of a run under old names and one under today's, unless a setting has no like."""
    wanted = before(run)
    shutil.copytree(room.logs / 'tiny', room.logs / 'old')
    shutil.copytree(room.logs / 'tiny', room.logs / 'new')
    config.override(room.args(*wanted['today']))
    (room.logs / 'new' / 'settings.py').write_text(config.as_text(config.current()))
    head, old, new = compared(room)
    if run == 'ema':
        assert head[1:4] == ['TEST_STAGE_NUM', 'code', 'steps']
        assert (old[1], new[1]) == ('5', '-')
    else:
        assert head[1:3] == ['code', 'steps'] and old[1:] == new[1:]
    config.override(room.args(*wanted['today'], 'SCALES=(0.5,1.0,2.0)'))
    (room.logs / 'new' / 'settings.py').write_text(config.as_text(config.current()))
    head, old, new = compared(room)
    assert new[head.index('SCALES')] == '(0.5, 1.0, 2.0)' != old[head.index('SCALES')]


@pytest.mark.parametrize('run', RUNS)
def test_settings_of_an_old_run_as_a_recipe(run, before, room):
    """settings.py of its run folder means today what it meant then; what has no counterpart is named."""
    before(run)
    path = str(room.logs / 'tiny' / 'settings.py')
    if run == 'ema':  # TEST_STAGE_NUM=5
        with pytest.raises(config.UsageError, match='the setting TEST_STAGE_NUM was removed'):
            config.read_recipe(path)
        return
    values = config.read_recipe(path)
    assert 'SCALE_MODE' not in values and set(values) <= set(config.current())
    assert values['HEAD'] == run.split('_')[0]
