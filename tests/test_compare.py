"""compare.py on run folders made up here: what it shows of them, and what it says to mistakes."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from statistics import stdev

import pytest

import compare
import utils
from utils import config, older
from utils.config import UsageError, UserError
from utils.runs import by_seed, singles
from utils.table import latex, table

ROOT = os.path.dirname(os.path.abspath(compare.__file__))
MACHINE = dict(device='NVIDIA H200', devices=2, processes=2, torch='2.15.0', precision='bfloat16')
SOURCE = {'network.py': 'a = 1\n', 'heads/psp.py': 'b = 2\n', 'sync_bn/__init__.py': ''}


def val(step, miou, **classes):
    return {'step': step, 'val/mIoU': miou, 'val/pAcc': 0.9} | {
        f'val/IoU/{name}': v for name, v in classes.items()
    }


def train(step, loss=1.0, speed=50.0):
    return dict(step=step, loss=loss, lr=0.1, images_per_s=speed)


def make_run(
    folder, log=(train(20), val(20, 0.5)), source=SOURCE, machine=None, scores=None, **values
):
    """A run's folder as train.py leaves it; `values` are settings that are not the defaults."""
    os.makedirs(folder)
    with open(folder / 'log.jsonl', 'w') as f:
        f.writelines(json.dumps(entry) + '\n' for entry in log)
    (folder / 'settings.py').write_text(config.as_text(config.current() | values))
    if source is not None:
        with zipfile.ZipFile(folder / 'source.zip', 'w') as z:
            for name, text in source.items():
                z.writestr(name, text)
    for name, facts in (('machine', machine), ('scores', scores)):
        if facts is not None:
            (folder / f'{name}.json').write_text(json.dumps(facts))
    return folder


def make_project(folder, text="import os\nLOG_DIR = './logdir'  # of runs\nFREE = dict(a=1)\n"):
    os.makedirs(folder)
    (folder / 'settings.py').write_text(text)
    return folder


def read(*folders):
    """Runs of folders that are sound."""
    told = []
    runs = compare.read_runs(list(map(str, folders)), told.append)
    assert not told
    return runs


def flags(*words):
    return compare.parser().read(list(words))


def overview(runs, width, *words):
    """The table of runs, a row for each."""
    return compare.overview(singles(runs), width, flags(*words))


def cells(runs):
    """{run's own name: {column: cell}} of the plain table."""
    head, *lines = overview(runs, 1000)
    split = lambda line: re.split(r' {2,}', line)
    return {
        re.split('[:/]', line.split()[0])[-1]: dict(zip(split(head), split(line), strict=True))
        for line in lines
    }


def rows(*folders):
    """The same, of folders that are sound."""
    return cells(read(*folders))


def run(*args, **more):
    """compare.py as a user runs it."""
    words = [sys.executable, os.path.join(ROOT, 'compare.py'), *map(str, args)]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {'COLUMNS': '200', 'OMP_NUM_THREADS': '1'} | more,
    )


def call(*args):
    """Status of main() with these arguments."""
    return compare.main(compare.parser().read([str(arg) for arg in args]))


# ------------------------------------------------------------------------------------------------------- what is shown


def test_table_as_a_user_sees_it(tmp_path):
    make_run(
        tmp_path / 'slow',
        [train(20, speed=1), train(40, speed=80), train(60, speed=90), val(60, 0.61234)],
        ITER_MAX=500,
        LR=0.01,
    )
    make_run(
        tmp_path / 'fast',
        [train(20), val(20, 0.7), train(40), val(40, 0.7), val(60, 0.65)],
        ITER_MAX=500,
        LR=0.1,
        machine=MACHINE,
        source=SOURCE | {'network.py': 'a = 2\n'},
        scores=dict(mIoU=0.7215, split='val'),
    )
    found = run(tmp_path / 'slow', tmp_path / 'fast')
    assert (found.returncode, found.stderr) == (0, '')
    assert found.stdout.splitlines() == [
        line.replace('TMP', str(tmp_path)).replace('run ', 'run '.ljust(4 + len(str(tmp_path)) - 3))
        for line in (
            'run       LR    code           steps  best mIoU   last mIoU  eval   images/s  hardware',
            'TMP/fast  0.1   reference   60 / 500  70.00 @ 20      65.00  72.15      50.0  2 x NVIDIA H200, bfloat16',
            'TMP/slow  0.01  network.py  60 / 500  61.23 @ 60      61.23  -          80.0  -',
        )
    ]


def test_em_columns(tmp_path):
    """The last curves of the unit, where --em asks for them."""
    curves = [
        {'em/entropy': 0.9, 'em/bases_in_use': 12.0, 'em/cosine': 0.8},
        {'em/entropy': 0.512, 'em/bases_in_use': 31.87, 'em/cosine': float('nan')},
    ]
    make_run(tmp_path / 'ema', [train(20) | curves[0], train(40) | curves[1], val(40, 0.6)])
    make_run(tmp_path / 'fcn', [train(40), val(40, 0.7)], HEAD='fcn')
    plain, shown = (run(tmp_path / 'ema', tmp_path / 'fcn', *words) for words in ([], ['--em']))
    assert 'em/' not in plain.stdout and shown.returncode == 0
    head, *lines = shown.stdout.splitlines()
    assert head.split()[-3:] == ['em/entropy', 'em/bases_in_use', 'em/cosine']
    assert [line.split()[-3:] for line in lines] == [['-', '-', '-'], ['0.51', '31.87', '-']]


def test_starts_without_the_heavy_modules():
    script = 'import sys, compare; print(sorted({"torch", "numpy", "matplotlib", "cv2", "utils.distributed", "utils.curves", "dataset", "network", "train"} & set(sys.modules)))'
    assert subprocess.check_output([sys.executable, '-c', script], cwd=ROOT, text=True) == '[]\n'


def test_folders_of_every_kind_and_their_names(tmp_path):
    one = make_project(tmp_path / 'EMANet_one')
    make_run(one / 'logdir' / 'only')
    two = make_project(tmp_path / 'EMANet_two', "LOG_DIR = '../elsewhere/logs'\n")
    for name in 'ab':
        make_run(tmp_path / 'elsewhere' / 'logs' / name)
    single = make_run(tmp_path / 'single')
    make_run(tmp_path / 'x[1]' / 'a')
    (tmp_path / 'elsewhere' / 'logs' / 'pictures').mkdir()
    names = lambda *folders: [r.name for r in read(*folders)]
    assert names(f'{one}/') == [str(one)]
    assert names(two) == [f'{two}:a', f'{two}:b']
    assert names(single) == [str(single)]
    assert names(tmp_path / 'x[1]') == [f'{tmp_path}/x[1]']
    logs = tmp_path / 'elsewhere' / 'logs'
    assert names(logs, one) == [f'{logs}:a', f'{logs}:b', str(one)]


def test_no_argument_is_the_folder_of_the_script(tmp_path, monkeypatch, capsys):
    make_run(make_project(tmp_path / 'here') / 'logdir' / 'mine')
    monkeypatch.setattr(compare, 'HERE', str(tmp_path / 'here'))
    assert call() == 0
    assert capsys.readouterr().out.splitlines()[1].startswith('mine ')


def test_settings_are_read_not_run(tmp_path):
    folder = make_run(tmp_path / 'a')
    (folder / 'settings.py').write_text(
        f'import os\nLR = 1\nos.mkdir({str(tmp_path / "made")!r})\n'
        'SEED = os.getpid()\nfor HEAD in "ab":\n    EM_MOM = 2\nx.Y = a, B = 3, 4\nSTEM: str\n'
    )
    (found,) = read(folder)
    assert not (tmp_path / 'made').exists() and found.settings == older.OLDER | {'LR': 1}


def test_only_settings_that_differ_have_a_column(tmp_path):
    places = dict.fromkeys(('LOG_DIR', 'MODEL_DIR', 'DATA_ROOT', 'SAVE_DIR', 'CHECKPOINT'), 'p')
    make_run(tmp_path / 'x' / 'a', LR=0.1, NAME='a', NUM_WORKERS=1, DEVICES='cpu', **places)
    make_run(tmp_path / 'x' / 'b', LR=0.1, SCALES=(1.0,), PRETRAINED='', EM_GRAD=True)
    assert list(rows(tmp_path / 'x')['a'])[:5] == ['run', 'SCALES', 'PRETRAINED', 'EM_GRAD', 'code']
    assert [rows(tmp_path / 'x')['b'][k] for k in ('SCALES', 'PRETRAINED', 'EM_GRAD')] == [
        '(1.0,)',
        "''",
        'True',
    ]


def test_a_setting_that_one_run_lacks_is_a_dash(tmp_path):
    old = make_run(tmp_path / 'x' / 'old')
    (old / 'settings.py').write_text('LR = 0.1\n')
    (make_run(tmp_path / 'x' / 'new') / 'settings.py').write_text('LR = 1e-1\nLOSS = "ohem"\n')
    assert {name: r['LOSS'] for name, r in rows(tmp_path / 'x').items()} == {
        'old': '-',
        'new': 'ohem',
    }
    (old / 'settings.py').unlink()
    assert 'LOSS' not in rows(tmp_path / 'x')['new']  # nothing is known of the other run


OLD = dict(
    SCALE_MODE='choice', PSP_BINS=(1, 2, 3, 6), OHEM_KEEP=10, TEST_GRID=1, STRIDE_IN_1X1=False
)


@pytest.mark.parametrize(
    'old, new, columns',
    [
        ({}, {}, {}),
        (dict(PSP_BINS=(1, 2)), dict(HEAD_ARGS={'bins': (1, 2)}), {}),
        (dict(PSP_BINS=(1, 2)), {}, dict(HEAD_ARGS=["{'bins': (1, 2)}", '{}'])),
        (dict(SCALE_MODE='range', SCALES=(0.5, 1.0, 2.0)), dict(SCALES=(0.5, 2.0)), {}),
        (
            dict(SCALE_MODE='choice', SCALES=(0.5, 2.0)),
            dict(SCALES=(0.5, 2.0)),
            dict(SCALES=['(0.5, 0.5, 2.0, 2.0)', '(0.5, 2.0)']),
        ),
        (dict(STEM='plain', STRIDE_IN_1X1=True), dict(STEM='caffe'), {}),
        (dict(STRIDE_IN_1X1=True), {}, dict(STRIDE_IN_1X1=['True', '-'])),
        (dict(TEST_GRID=4), {}, dict(TEST_GRID=['4', '-'])),
        (dict(TEST_STAGE_NUM=3), {}, {}),
        (dict(TEST_STAGE_NUM=5), {}, dict(TEST_STAGE_NUM=['5', '-'])),
        (
            dict(HEAD='psa', PSA_MASK=9, PSA_TYPE='collect'),
            dict(HEAD='psa', HEAD_ARGS={'type': 'collect', 'mask': 9}),
            {},
        ),
        (
            dict(LOSS='ohem', LABEL_SMOOTHING=0.1),
            dict(LOSS='ohem', LOSS_ARGS={'smoothing': 0.1, 'keep': 10}),
            {},
        ),
    ],
)
def test_runs_of_older_versions_have_todays_names(old, new, columns, tmp_path):
    """A setting that has no name today is shown under its own, unless it had its default."""
    first = make_run(tmp_path / 'old', [val(1, 0.9)])
    kept = {k: v for k, v in config.current().items() if not k.endswith('_ARGS')} | dict(HEAD='psp')
    (first / 'settings.py').write_text(config.as_text(kept | OLD | old))
    make_run(tmp_path / 'new', [val(1, 0.8)], **dict(HEAD='psp') | new)
    out = run(first, tmp_path / 'new')
    assert (out.returncode, out.stderr) == (0, '')
    head, *lines = [re.split(' {2,}', line) for line in out.stdout.splitlines()]
    assert head[: len(columns) + 2] == ['run', *columns, 'code']
    shown = [list(cells) for cells in zip(*lines)][1 : len(columns) + 1]
    assert shown == list(columns.values())


def test_folders_that_look_like_settings_are_folders(tmp_path, monkeypatch):
    make_run(tmp_path / 'LR=0.1')
    make_run(tmp_path / 'run.py')
    monkeypatch.chdir(tmp_path)
    read = compare.parser().read(['LR=0.1', '--classes', 'run.py'])
    assert (read.inputs, read.settings) == (['LR=0.1', 'run.py'], [])
    found = run('LR=0.1', 'run.py')
    assert (found.returncode, found.stderr) == (0, '') and 'LR=0.1' in found.stdout


def test_best_run_comes_first_and_those_without_score_last(tmp_path):
    for name, log in dict(
        a=[train(5)],
        b=[val(1, 0.3)],
        c=[],
        d=[val(1, 0.9), val(2, 0.2)],
        e=[val(1, float('nan'))],
        f=[val(1, 0.0)],
    ).items():
        make_run(tmp_path / 'x' / name, log)
    found = rows(tmp_path / 'x')
    assert list(found) == ['d', 'b', 'f', 'a', 'c', 'e']
    assert [found['d'][k] for k in ('best mIoU', 'last mIoU', 'images/s')] == [
        '90.00 @ 1',
        '20.00',
        '-',
    ]
    assert [found['a'][k] for k in ('steps', 'best mIoU', 'last mIoU', 'images/s')] == [
        '5 / 30000',
        '-',
        '-',
        '50.0',
    ]
    assert found['c']['steps'] == '0 / 30000'


def test_code_is_compared_with_the_first_run_that_kept_its_own(tmp_path):
    make_run(tmp_path / 'x' / 'none', [val(1, 0.9)], source=None)
    make_run(tmp_path / 'x' / 'first', [val(1, 0.8)])
    make_run(tmp_path / 'x' / 'same', [val(1, 0.7)], source=SOURCE | {'notes.txt': 'no code'})
    make_run(
        tmp_path / 'x' / 'other',
        [val(1, 0.6)],
        source={'network.py': 'a = 3\n', 'heads/psp.py': 'b = 2\n', 'mine.py': ''},
    )
    assert {name: r['code'] for name, r in rows(tmp_path / 'x').items()} == {
        'none': '?',
        'first': 'reference',
        'same': 'same',
        'other': '+mine.py, network.py, -sync_bn/__init__.py',
    }


@pytest.mark.parametrize(
    'scores, wanted',
    [
        (dict(mIoU=0.5, split='val'), '50.00'),
        (dict(mIoU=0.5), '50.00'),
        (dict(mIoU=0.5, split='test'), '50.00 (test)'),
        (
            dict(
                mIoU=0.5,
                split='val',
                views='views: scales 1, 2 of 512 pixels; windows of 9x9 every 6x6',
                single={},
                checkpoint='m/step_2.pth',
            ),
            '50.00 (step_2.pth, several views, windows, 512 pixels)',
        ),
        (
            dict(mIoU=0.5, views='views: scale 1 of 800 pixels on the short side; whole images'),
            '50.00 (800 pixels on the short side)',
        ),
        (
            dict(
                mIoU=0.5,
                views='views: scale 1 of 800 pixels on the short side, at most 1333 on the long one; '
                'whole images',
            ),
            '50.00 (800 pixels on the short side, at most 1333 on the long one)',
        ),
        (dict(mIoU='x'), '-'),
        (None, '-'),
    ],
)
def test_eval(scores, wanted, tmp_path):
    make_run(tmp_path / 'a', scores=scores)
    assert rows(tmp_path / 'a')['a']['eval'] == wanted


@pytest.mark.parametrize(
    'machine, wanted',
    [
        (MACHINE, '2 x NVIDIA H200, bfloat16'),
        (dict(device='AMD EPYC'), 'AMD EPYC'),
        (dict(precision='float32'), 'float32'),
        ({}, '-'),
        (None, '-'),
    ],
)
def test_hardware(machine, wanted, tmp_path):
    make_run(tmp_path / 'a', machine=machine)
    assert rows(tmp_path / 'a')['a']['hardware'] == wanted


def make_seeds(folder):
    """Three seeds of a network, two of another, one of a third that kept no other settings."""
    for seed, (best, last, loss) in enumerate([(0.6, 0.6, 1), (0.7, 0.65, 2), (0.74, 0.74, 3)]):
        log = [train(20, loss, speed=10 * loss), val(20, best, road=best), val(40, last, road=0.5)]
        scores = dict(mIoU=best + 0.01, split='val')
        make_run(folder / f'ema_{seed}_x', log, SEED=seed, NAME=f'ema_{seed}', scores=scores)
    for seed in (0, 1):
        log = [train(20) | {'em/entropy': 0.2 + seed / 10}, val(20, 0.5)][: 2 - seed]
        make_run(folder / f'wide{seed}', log, SEED=seed, EM_BASES=128)
    make_run(folder / 'other_code', [val(20, 0.8)], source=SOURCE | {'network.py': 'a = 2\n'})


def test_seeds_that_come_again_stay_with_their_folder(tmp_path):
    """Whatever they scored: means of the best and of the worst would tell nothing."""
    for folder, bests in (('a', (0.9, 0.5, 0.9)), ('b', (0.5, 0.9, 0.5))):
        for seed, best in enumerate(bests):
            make_run(tmp_path / folder / f's{seed}', [val(20, best)], SEED=seed)
    told = run(tmp_path / 'a', tmp_path / 'b', '--seeds', COLUMNS='400')
    assert re.search(r'/a:s\* .* 76\.67 ± 23\.09', told.stdout)
    assert re.search(r'/b:s\* .* 63\.33 ± 23\.09', told.stdout)


def test_a_run_of_an_ablation_that_is_one_of_the_seeds(tmp_path):
    for name, seed in (('k32', 0), ('s10', 10), ('s2', 2), ('s0', 0)):
        make_run(tmp_path / 'x' / name, [val(20, 0.5)], SEED=seed)
    told = run(tmp_path / 'x', '--seeds', COLUMNS='400')
    assert len(told.stdout.splitlines()) == 3 and '0, 2, 10' in told.stdout


def test_own_data_of_two_folders_are_no_seeds(tmp_path):
    for seed, root in enumerate(('/cats', '/dogs')):
        make_run(tmp_path / f'r{seed}', [val(20, 0.5)], SEED=seed, DATASET='folder', DATA_ROOT=root)
    told = run(tmp_path / 'r0', tmp_path / 'r1', '--seeds', COLUMNS='400')
    assert len(told.stdout.splitlines()) == 3 and '/cats' in told.stdout


def test_runs_that_differ_in_their_seed_are_one_row(tmp_path):
    """Against a calculation by hand: 60, 70, 74: mean 68, deviations -8, 2, 6, so sqrt(104 / 2)."""
    make_seeds(tmp_path / 'x')
    make_run(tmp_path / 'again', [val(20, 0.1)], SEED=2, EM_BASES=64)  # a seed that is there
    told = run(tmp_path / 'x', tmp_path / 'again', '--seeds', '--em', COLUMNS='400')
    assert (told.returncode, told.stderr) == (0, '')
    head, *lines = [re.split(r' {2,}', line.strip()) for line in told.stdout.splitlines()]
    shown = [dict(zip(head, line, strict=True)) for line in lines]
    names = [f'{tmp_path}/x:{name}' for name in ('other_code', 'ema_*_x', 'wide*')]
    assert [row['run'] for row in shown] == [*names, f'{tmp_path}/again']
    ema, wide = shown[1:3]
    assert [row['n'] for row in shown] == ['1', '3', '2', '1'] and ema['SEED'] == '0, 1, 2'
    assert ema['best mIoU'] == '68.00 ± 7.21' and ema['eval'] == '69.00 ± 7.21'
    assert ema['last mIoU'] == '66.33 ± 7.09'  # 60, 65, 74
    assert ema['steps'] == '40 / 30000' and ema['images/s'] == '20.0'
    assert ema['code'] == 'network.py' and ema['EM_BASES'] == '64' and wide['EM_BASES'] == '128'
    assert wide['best mIoU'] == '50.00 (1 of 2)' and wide['eval'] == '-'
    assert wide['em/entropy'] == '0.25 ± 0.07' and ema['em/entropy'] == '-'
    assert shown[0]['best mIoU'] == '80.00 @ 20'


def test_classes_over_seeds(tmp_path):
    make_seeds(tmp_path / 'x')
    groups = by_seed(read(tmp_path / 'x'))
    lines = compare.class_table(groups, 1000, flags('--seeds'))
    cells = re.split(r' {2,}', lines[-1])
    assert cells == ['road', '- / -', '68.00 ± 7.21 / 50.00 ± 0.00', '- / -']


def test_scores_of_eval_that_are_not_alike_are_not_averaged(tmp_path):
    for seed, views in enumerate(['whole images', 'windows of 9x9 every 6x6', 'whole images']):
        scores = dict(mIoU=0.5 + 0.1 * seed, views=f'views: {views}')
        make_run(tmp_path / f'a{seed}', SEED=seed, scores=scores)
    (group,) = by_seed(read(*(tmp_path / f'a{seed}' for seed in range(3))))
    cell = compare.results(group.runs)['eval']
    assert cell == '60.00 ± 14.14 (2 of 3); 60.00 (1 of 3) (windows)'


def test_settings_edited_by_hand_show_as_settings(tmp_path):
    """... and not as code again: a copy of the folder whose settings.py was edited."""
    for name, text, rate in (('a', 'LR = 0.1\n', 0.1), ('b', 'LR = 0.2  # mine\n', 0.2)):
        make_run(tmp_path / 'x' / name, source=SOURCE | {'settings.py': text}, LR=rate)
    shown = rows(tmp_path / 'x')
    assert {name: (row['LR'], row['code']) for name, row in shown.items()} == {
        'a': ('0.1', 'reference'),
        'b': ('0.2', 'same'),
    }


# --------------------------------------------------------------------------------------- LaTeX

TEXTS = (
    r'a_b & 50 % of $x^2$ {#1} ~/p\q',
    '<|> "it\'s" --- `x` ``',
    '[1] Bäume, Çà',
    '* 道 ± ß',
    '',
    '-',
)


def unlatex(text):
    """What LaTeX prints of a cell, read by rules of our own; AssertionError at what it acts on."""
    shown = ''
    words = {
        'textbackslash': '\\', 'textless': '<', 'textgreater': '>', 'textbar': '|', '^': '^', '~': '~'
    }  # fmt: skip
    while text:
        command = re.match(r'\\([a-z]+|[\^~]){}', text)
        escaped = re.match(r'\\([{}$&#%_])', text)
        group = re.match(r'{([`]?)}', text)
        if text.startswith(r'$\pm$'):
            shown, text = shown + '±', text[5:]
        elif command:
            shown, text = shown + words[command[1]], text[command.end() :]
        elif escaped or group:
            match = escaped or group
            shown, text = shown + match[1], text[match.end() :]
        else:
            assert text[0] not in '\\{}$&#%_^~<>|"`' and text[:2] != '--', text
            shown, text = shown + text[0], text[1:]
    return shown


@pytest.mark.parametrize('text', TEXTS)
def test_latex_prints_what_the_cell_says(text):
    wanted = text.replace('道', r'\u9053').replace('ð', r'\xf0').replace('"', "''")
    assert unlatex(latex(text)) == wanted


def test_a_latex_table(tmp_path):
    make_seeds(tmp_path / 'x_y')
    told = run(tmp_path / 'x_y', '--seeds', '--latex', '--classes', COLUMNS='40')
    assert (told.returncode, told.stderr) == (0, '')
    overview, classes = told.stdout.split('\n\n')
    for part in (overview, classes):
        begin, top, head, line, *body, bottom, end = part.strip().splitlines()
        columns = re.fullmatch(r'\\begin{tabular}{([lr]+)}', begin)[1]
        assert top == line == bottom == r'\hline' and end == r'\end{tabular}'
        for row in (head, *body):
            cells = re.split(r'(?<!\\) & ', row.removesuffix(r' \\'))
            assert row.endswith(r' \\') and len(cells) == len(columns)
            assert [unlatex(cell) for cell in cells]
    assert r'x\_y:ema\_*\_x & 3 & 0, 1, 2 &' in overview and r'68.00 $\pm$ 7.21' in overview


def test_latex_compiles(tmp_path):
    """Without a package, where there is a LaTeX."""
    program = shutil.which('pdflatex')
    if not program:
        pytest.skip('there is no pdflatex here')
    rows = [dict(first=text, second=text, third='x') for text in TEXTS]
    lines = [r'\documentclass{article}', r'\begin{document}']
    lines += [*table(rows, right=['third'], latex=True), r'\end{document}']
    (tmp_path / 'table.tex').write_text('\n'.join(lines))
    words = [program, '-interaction=nonstopmode', '-halt-on-error', 'table.tex']
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=100)
    assert result.returncode == 0, result.stdout


def test_forms_of_a_document_exclude_each_other():
    with pytest.raises(UsageError, match='not allowed with'):
        flags('--latex', '--markdown')


def test_many_settings_go_below_the_rows(tmp_path):
    wide = dict(LR=0.5, SEED=1, HEAD='fcn', STRIDE=16, N_LAYERS=50, EM_BASES=8)
    make_run(tmp_path / 'a', [val(1, 0.9)])
    make_run(tmp_path / 'b', [val(1, 0.8)], **wide)
    make_run(tmp_path / 'c', [val(1, 0.7)], SEED=1, source=SOURCE | {'loss.py': ''})
    both = read(tmp_path / 'a', tmp_path / 'b')
    lines = overview(both, 1000)
    wide = max(map(len, lines))
    assert len(lines) == 3 and overview(both, wide) == lines and len(overview(both, wide - 1)) == 5
    narrow = overview(both, 100)  # the table is wider
    assert (
        narrow[2].strip()
        == 'SEED=0  HEAD=ema  N_LAYERS=101  STRIDE=8  EM_BASES=64  LR=0.009  code: reference'
    )
    assert (
        narrow[4].strip()
        == 'SEED=1  HEAD=fcn  N_LAYERS=50  STRIDE=16  EM_BASES=8  LR=0.5  code: same'
    )
    assert max(map(len, overview(read(tmp_path / 'a', tmp_path / 'b'), 50)[2::3])) <= 50
    make_run(tmp_path / 'd', [val(1, 0.6)], EM_MOM=0.5)
    found = overview(read(*(tmp_path / name for name in 'abcd')), 1000)  # seven settings
    assert [line.strip() for line in found[6::2]] == [
        'SEED=1  code: +loss.py',
        'EM_MOM=0.5  code: same',
    ]
    assert all(line.startswith('    ') for line in found[2::2]) and 'EM_MOM=0.9' in found[2]


def test_markdown(tmp_path):
    make_run(tmp_path / 'a|b', [val(1, 0.9)], PRETRAINED='x|y')
    more = dict.fromkeys(
        ('HEAD', 'STEM', 'LOSS', 'AMP', 'EM_NORM', 'DECAY'), 'z'
    )  # wide, and yet a table
    make_run(
        tmp_path / 'c', [val(1, 0.08)], source={**SOURCE, 'sync_bn/__init__.py': 'changed'}, **more
    )
    found = run(tmp_path / 'a|b', tmp_path / 'c', '--markdown', COLUMNS='40')
    lines = found.stdout.splitlines()
    assert (
        found.returncode == 0
        and len(lines) == 4
        and len({len(re.findall(r'(?<!\\)\|', line)) for line in lines}) == 1
    )
    assert set(lines[1]) == set('| -') and r'a\|b |' in lines[2] and r'| x\|y |' in lines[2]
    assert r'| sync_bn/\_\_init\_\_.py |' in lines[3] and '| 8.00 @ 1 | 8.00 |' in lines[3]


def test_classes(tmp_path):
    make_run(tmp_path / 'a', [val(1, 0.9, road=0.99, sky=0.5), val(2, 0.8, road=0.5, sky=None)])
    make_run(tmp_path / 'b', [val(1, 0.3, road=0.25, tree=0.125)])
    make_run(tmp_path / 'older')
    found = run(tmp_path / 'a', tmp_path / 'b', tmp_path / 'older', '--classes', '--markdown')
    a, b, older = (tmp_path / name for name in ('a', 'b', 'older'))
    assert (found.returncode, found.stdout.split('\n\n')[1].splitlines()) == (
        0,
        [
            f'| best / last | {a} | {older} | {b} |',
            '| --- | --- | --- | --- |',
            '| road | 99.00 / 50.00 | - / - | 25.00 / 25.00 |',
            '| sky | 50.00 / - | - / - | - / - |',
            '| tree | - / - | - / - | 12.50 / 12.50 |',
        ],
    )


def test_class_table_keeps_to_the_terminal(tmp_path):
    for i in range(5):
        make_run(tmp_path / 'x' / f'run{i}', [val(1, 0.9 - i / 10, road=0.5, sky=0.5)])
    runs = read(tmp_path / 'x')
    width = 16 + 2 * (len(runs[0].name) + 2)
    lines = compare.class_table(singles(runs), width, flags())
    assert max(map(len, lines)) <= width and sum(line.startswith('road') for line in lines) == 3
    assert re.findall(r'run\d', ' '.join(lines)) == [f'run{i}' for i in range(5)]


def test_logs_without_classes_say_so(tmp_path):
    found = run(make_run(tmp_path / 'a'), '--classes')
    assert found.returncode == 0 and 'These logs have no scores per class' in found.stdout


def test_plot(tmp_path):
    names = [
        make_run(tmp_path / name, log)
        for name, log in {
            'a$b^$_{': [train(20), train(40, loss=float('nan')), val(40, 0.5)],
            '_hidden': [train(20), val(20, 0.5), val(40, 0.6)],
            'none': [],
            os.fsdecode(b'\xff'): [],
            **{f'r{i}': [train(20), val(20, 0.1)] for i in range(10)},
        }.items()
    ]
    found = run(*names, '--plot', tmp_path / 'curves.png')
    assert (found.returncode, found.stderr) == (0, '') and found.stdout.endswith(
        f'curves in {tmp_path}/curves.png\n'
    )
    data = (tmp_path / 'curves.png').read_bytes()
    assert (
        data[:8] == b'\x89PNG\r\n\x1a\n'
        and struct.unpack('>I', data[16:20]) == (1440,)
        and b'IEND' in data[-12:]
    )
    assert not (tmp_path / 'curves.png.part').exists()


def test_a_seed_that_has_not_ended_is_a_row_of_its_own(tmp_path):
    """Else its lower score would count as that of a finished run, and the band would jump."""
    for seed, steps in enumerate((60, 60, 40)):
        make_run(tmp_path / f'x_{seed}', (val(steps, 0.5),), SEED=seed, ITER_MAX=60)
    assert [len(group.runs) for group in by_seed(read(tmp_path))] == [2, 1]


def test_plot_of_seeds_and_em_units(tmp_path, monkeypatch):
    """Runs of a row are their mean, in a band; curves of the units have axes of their own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kept = []
    monkeypatch.setattr(FigureCanvasAgg, 'print_png', lambda self, f: kept.append(self.figure))
    make_seeds(tmp_path / 'x')
    groups = by_seed(read(tmp_path / 'x'))
    compare.save_curves(groups, str(tmp_path / 'x.png'))
    figure = kept[0]
    loss, miou, entropy, bases, cosine = figure.axes
    other, ema, wide = groups
    assert [line.get_xydata().tolist() for line in loss.lines] == [[], [[20, 2]], [[20, 1]]]
    assert [line.get_xydata().tolist() for line in miou.lines] == [
        [[20, 80]],
        [[20, pytest.approx(68)], [40, pytest.approx(199 / 3)]],
        [[20, 50]],  # the other run has no score yet
    ]
    bands = [band.get_paths()[0].vertices[:, 1] for band in miou.collections]
    deviations = stdev([60, 70, 74]), stdev([60, 65, 74])
    edges = [68 - deviations[0], 68 + deviations[0]]
    edges += [199 / 3 - deviations[1], 199 / 3 + deviations[1]]
    assert len(bands) == 1
    assert sorted({round(y, 6) for y in bands[0]}) == sorted(round(y, 6) for y in edges)
    drawn = [line.get_ydata().tolist() for line in entropy.lines if len(line.get_ydata())]
    assert drawn == [[pytest.approx(0.25)]] and not any(len(x.get_ydata()) for x in bases.lines)
    (legend,) = figure.legends
    assert [x.get_color() for x in legend.legend_handles] == ['C0', 'C1', 'C2']
    assert [text.get_text().strip() for text in legend.get_texts()] == [
        other.name,
        f'{ema.name} (mean ± standard deviation of 3)',
        f'{wide.name} (mean ± standard deviation of 2)',
    ]


def test_plot_has_a_line_and_a_name_per_run(tmp_path, monkeypatch):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kept = []
    monkeypatch.setattr(FigureCanvasAgg, 'print_png', lambda self, f: kept.append(self.figure))
    make_run(
        tmp_path / '_a',
        [train(20, 2.0), train(40, 1.0), val(40, 0.25), train(60, 0.5), val(60, 0.75)],
    )
    make_run(tmp_path / 'b', [train(20, 3.0)])
    monkeypatch.chdir(tmp_path)
    compare.save_curves(singles(read('_a', 'b')), 'x.png')
    loss, miou = kept[0].axes
    assert [list(zip(*line.get_data())) for line in loss.lines] == [
        [(20, 2), (40, 1), (60, 0.5)],
        [(20, 3)],
    ]
    assert [list(zip(*line.get_data())) for line in miou.lines] == [[(40, 25), (60, 75)], []]
    assert [t.get_text().strip() for t in kept[0].legends[0].get_texts()] == ['_a', 'b']


# -------------------------------------------------------------------------------------------------------------- mistakes


def test_folders_that_are_no_experiments(tmp_path):
    make_run(tmp_path / 'good')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').write_text('')
    make_project(tmp_path / 'untrained')
    bad = {
        'empty': 'is no experiment',
        'file': 'is no folder',
        'gone': 'is no folder',
        'untrained': 'has no run yet',
    }
    found = run(tmp_path / 'empty', tmp_path / 'good', *(tmp_path / name for name in list(bad)[1:]))
    assert (
        found.returncode == 1
        and len(found.stdout.splitlines()) == 2
        and f'{tmp_path}/good' in found.stdout
    )
    told = found.stderr.splitlines()
    assert len(told) == 4
    for line, (name, words) in zip(told, bad.items()):
        assert (
            line.startswith(f'compare.py: {tmp_path}/{name} {words}')
            and 'name copies of the project' in line
        )


def test_nothing_to_show(tmp_path):
    found = run(tmp_path, '--classes', '--plot', tmp_path / 'x.png')
    assert (
        (found.returncode, found.stdout) == (1, '')
        and 'is no experiment' in found.stderr
        and not (tmp_path / 'x.png').exists()
    )


@pytest.mark.parametrize(
    'end', ['{"step": 40, "lo', '{"step"', '{', '{"step": 40, "loss": 0.5}'[:-1], '\0\0\0', 'é']
)
def test_half_a_last_line_is_no_line(end, tmp_path):
    folder = make_run(tmp_path / 'a')
    with open(folder / 'log.jsonl', 'a') as f:
        f.write(end)
    (found,) = read(folder)
    assert [e['step'] for e in found.train + found.val] == [20, 20]


def test_damaged_lines_are_left_out(tmp_path):
    folder = make_run(tmp_path / 'a', [])
    (folder / 'log.jsonl').write_bytes(
        b'\n'.join(
            [
                b'\xff\xfe',
                b'',
                b'[1]',
                b'7',
                b'{"loss": 1}',
                b'{"step": "x", "loss": 1}',
                b'{"step": true}',
                b'{"step": 1' + b'0' * 400 + b'}',
                b'[' * 10**5,
                b'{"step": 10, "loss": "x", "images_per_s": null}',
                b'{"step": 20, "loss": 1, "images_per_s": 5}',
                b'{"step": 30, "val/mIoU": null}',
                b'{"step": 25, "val/mIoU": 0.5}',
            ]
        )
    )
    row = rows(folder)['a']
    assert [row[k] for k in ('steps', 'best mIoU', 'images/s')] == [
        '30 / 30000',
        '50.00 @ 25',
        '5.0',
    ]
    compare.save_curves(singles(read(folder)), str(tmp_path / 'x.png'))


@pytest.mark.parametrize(
    'file, content',
    [
        ('settings.py', b'LR = \n'),
        ('settings.py', b'\xff\x00'),
        ('settings.py', b'LR = ' + b'(' * 10**4),
        ('settings.py', b'LR = ' + b'-' * 10**5 + b'1'),
        ('source.zip', b'PK no zip'),
        ('source.zip', b''),
        ('machine.json', b'{"device": '),
        ('machine.json', b'null'),
        ('scores.json', b'[]'),
        ('scores.json', b'\xff'),
        ('scores.json', b'[' * 10**5),
    ],
)
def test_damaged_files_are_named_and_the_run_shown(file, content, tmp_path):
    folder = make_run(tmp_path / 'a', machine=MACHINE, scores=dict(mIoU=0.5))
    (folder / file).write_bytes(content)
    make_run(tmp_path / 'b', LR=0.5)
    told = []
    found = cells(compare.read_runs([str(folder), str(tmp_path / 'b')], told.append))
    assert len(told) == 1 and re.fullmatch(
        rf'{re.escape(str(folder / file))} cannot be read \([^()].+\) and is left out; .*', told[0]
    )
    wanted = {
        'steps': '20 / 30000',
        'LR': '0.009',
        'code': 'reference',
        'hardware': '2 x NVIDIA H200, bfloat16',
        'eval': '50.00',
    }
    wanted |= {
        'settings.py': {'steps': '20 / -', 'LR': None},
        'source.zip': {'code': '?'},
        'machine.json': {'hardware': '-'},
        'scores.json': {'eval': '-'},
    }[file]
    assert {k: found['a'].get(k) for k in wanted} == wanted and found['b']['steps'] == '20 / 30000'


def test_a_project_whose_settings_are_damaged(tmp_path, capsys):
    make_run(make_project(tmp_path / 'p', 'LOG_DIR = \n') / 'logdir' / 'a')
    assert call(tmp_path / 'p') == 1
    found = capsys.readouterr()
    assert (
        'settings.py cannot be read (invalid syntax (line 1))' in found.err
        and len(found.out.splitlines()) == 2
    )  # the usual log folder is taken


@pytest.mark.parametrize(
    'file, reason',
    [
        ('no/such/x.png', 'there is no folder {}/no/such'),
        ('folder.png', 'Is a directory'),
        ('file/x.png', 'there is no folder {}/file'),
    ],
)
def test_plot_that_cannot_be_written(file, reason, tmp_path, capsys):
    make_run(tmp_path / 'a')
    (tmp_path / 'folder.png').mkdir()
    (tmp_path / 'file').write_text('')
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError) as e:
        call(tmp_path / 'a', '--plot', tmp_path / file)
    assert (
        str(e.value).startswith(
            f'{tmp_path}/{file} cannot be written: {reason.format(tmp_path)}; name a file'
        )
        and e.value.code == 1
    )
    assert len(capsys.readouterr().out.splitlines()) == 2 and sorted(os.listdir(tmp_path)) == before


def test_a_plot_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    def fail(self, f):
        f.write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(FigureCanvasAgg, 'print_png', fail)
    (tmp_path / 'x.png').write_text('old')
    with pytest.raises(UserError, match='No space left'):
        compare.save_curves(singles(read(make_run(tmp_path / 'a'))), str(tmp_path / 'x.png'))
    assert (tmp_path / 'x.png').read_text() == 'old' and not (tmp_path / 'x.png.part').exists()


def test_plot_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    monkeypatch.delitem(sys.modules, 'utils.curves', raising=False)
    monkeypatch.delattr(utils, 'curves', raising=False)
    with pytest.raises(UserError, match='pip install matplotlib'):
        compare.save_curves(singles(read(make_run(tmp_path / 'a'))), str(tmp_path / 'x.png'))


@pytest.mark.parametrize(
    'args, said',
    [
        (['--clases'], '--clases: there is no such flag; did you mean --classes?'),
        (['--markdwn=1'], 'did you mean --markdown?'),
        (['--zzzzz'], '--zzzzz: there is no such flag; there are --help, --classes, --em'),
        (['--plot'], '--plot: expected one argument'),
        (['--plot', '--markdown'], '--plot: expected one argument'),
        (['--plot='], '--plot FILE.png'),
        (['--plot', 'x.pdf'], '--plot FILE.png'),
        (['--classes=3'], '--classes: ignored explicit argument'),
    ],
)
def test_wrong_usage(args, said):
    with pytest.raises(UsageError) as e:
        call(*args)
    assert said in str(e.value)


def test_wrong_usage_ends_with_status_2_and_help_with_0(tmp_path):
    found = run(make_run(tmp_path / 'a'), '--marcdown')
    assert (found.returncode, found.stdout, found.stderr) == (
        2,
        '',
        'compare.py: --marcdown: there is no such flag; did you mean --markdown?\n',
    )
    for flag in '-h', '--help':
        found = run('--markdown', flag)
        assert (found.returncode, found.stderr) == (0, '') and all(
            word in found.stdout for word in ('--classes', '--markdown', '--plot FILE.png')
        )


def test_a_reader_that_leaves_is_no_mistake(tmp_path):
    make_run(tmp_path / 'x' / 'a', source={f'{i:05d}.py': '' for i in range(5000)})
    make_run(tmp_path / 'x' / 'b')
    command = f'"{sys.executable}" "{ROOT}/compare.py" "{tmp_path}/x" | true'
    found = subprocess.run(['bash', '-c', command], capture_output=True, text=True, timeout=60)
    assert found.stderr == ''
