"""Experiments side by side: what differs between them, and what came of it. Their logs and settings are read; nothing of theirs is imported.

    python compare.py                             a row per run of this folder
    python compare.py ../EMANet*                  of copies of this folder, of log folders, or of single runs (logdir/shapes)
    python compare.py ../EMANet* --classes        and a table with the IoU of each class, at the best and at the last step
    python compare.py ../EMANet* --em             and how the EM unit clustered at the end of training
    python compare.py ../EMANet* --markdown       tables for a document
    python compare.py ../EMANet* --plot FILE.png  and the curves of loss and mIoU

The best run comes first. Settings that are the same everywhere are left out; where many differ they stand below the rows, from the second row on only
those that are not as in the first. `code` names the files that are not as in the `reference`: + is a file more, - one less, ? no source kept.
Scores are in percent: best (@ step) and last of training, and `eval` of eval.py.
"""

import ast
import contextlib
import glob
import io
import json
import os
import re
import shutil
import signal
import sys
import textwrap
import zipfile
from statistics import median
from typing import NamedTuple

from settings import UsageError, UserError, take_flags

HERE = os.path.dirname(os.path.abspath(__file__))
FLAGS = {'--classes': '', '--em': '', '--markdown': '', '--plot': 'FILE.png'}
PLACES = (
    'NAME',
    'LOG_DIR',
    'MODEL_DIR',
    'DATA_ROOT',
    'SAVE_DIR',
    'CHECKPOINT',
    'NUM_WORKERS',
    'DEVICES',
)  # where a run is, not what it is
DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    zipfile.BadZipFile,
)  # parsers raise these
EM = 'em/entropy', 'em/bases_in_use', 'em/cosine'  # see network.EMAU.curves
RIGHT = 'steps', 'last mIoU', 'images/s', *EM  # columns of plain figures


class Run(NamedTuple):
    name: str
    settings: dict
    code: dict  # {file: checksum and size}; {}: not kept
    train: list  # lines of log.jsonl that have a loss
    val: list  # those that have a score
    best: dict  # of them, the first of equals
    last: dict
    results: dict  # {column: cell}


def number(value):
    """The value if it is a finite number, else None."""
    return value if type(value) in (int, float) and abs(value) < 1e300 else None


def percent(value):
    return '-' if number(value) is None else f'{100 * value:5.2f}'


def log_lines(text):
    """The lines of a log.jsonl; damaged ones are left out, such as half a last line, which a killed run leaves."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(*DAMAGE):
            entry = {**json.loads(line)}
            found += [entry] if number(entry.get('step')) is not None else []
    return found


def literals(text):
    """{name: value} of the lines KEY = value of a settings.py, which is not run; what is no literal is left out."""
    found = {}
    for line in ast.parse(text).body:
        if (
            isinstance(line, ast.Assign)
            and isinstance(line.targets[0], ast.Name)
            and line.targets[0].id.isupper()
        ):
            with contextlib.suppress(*DAMAGE):
                found[line.targets[0].id] = ast.literal_eval(line.value)
    return found


def checksums(archive):
    """{file: checksum and size} of the Python files in a zip, from its table of contents."""
    return {
        f.filename: (f.CRC, f.file_size)
        for f in zipfile.ZipFile(io.BytesIO(archive)).infolist()
        if f.filename.endswith('.py')
    }


def parsed(path, parse, tell):
    """parse(bytes of the file); {} where there is none, or, after telling, where it is damaged."""
    try:
        with open(path, 'rb') as f:
            return parse(f.read())
    except FileNotFoundError:
        return {}
    except DAMAGE as e:
        reason = (
            getattr(e, 'strerror', None) or str(e).replace('<unknown>, ', '') or 'nested too deep'
        )
        tell(f'{path} cannot be read ({reason}) and is left out; mend it, or move it away')
        return {}


def read_run(name, folder, tell):
    """The Run of a folder that holds a log.jsonl."""
    read = lambda file, parse: parsed(os.path.join(folder, file), parse, tell)
    log, own, code = (
        read('log.jsonl', log_lines),
        read('settings.py', literals),
        read('source.zip', checksums),
    )
    scores, machine = (
        read(file, lambda text: {**json.loads(text)}) for file in ('scores.json', 'machine.json')
    )
    train, val = (
        [e for e in log if 'loss' in e],
        [e for e in log if number(e.get('val/mIoU')) is not None],
    )
    best, last = max(val, key=lambda e: e['val/mIoU'], default={}), val[-1] if val else {}
    speeds = [e['images_per_s'] for e in train if number(e.get('images_per_s')) is not None]
    notes = [
        str(scores[key])
        for key, usual in (('dataset', own.get('DATASET')), ('split', own.get('VAL_SPLIT')))
        if scores.get(key) not in (None, usual)
    ]
    views, file = (
        str(scores.get('views', '')),
        os.path.basename(str(scores.get('checkpoint', 'best.pth'))),
    )
    notes += (
        [file] * (file != 'best.pth')
        + ['several views'] * ('single' in scores)
        + ['windows'] * ('windows' in views)
    )
    notes += re.findall(
        r'of (\d+ pixels(?: on the short side(?:, at most \d+ on the long one)?)?)', views
    )  # TEST_BASE_SIZE, TEST_SHORT_SIDE
    hardware = (
        ' x '.join(str(machine[k]) for k in ('devices', 'device') if k in machine),
        machine.get('precision'),
    )
    return Run(
        name,
        own,
        code,
        train,
        val,
        best,
        last,
        {
            'steps': f'{max((e["step"] for e in log), default=0)} / {own.get("ITER_MAX", "-")}',
            'best mIoU': percent(best.get('val/mIoU')) + (f' @ {best["step"]}' if best else ''),
            'last mIoU': percent(last.get('val/mIoU')),
            'eval': percent(scores.get('mIoU')) + (f' ({", ".join(notes)})' if notes else ''),
            'images/s': f'{median(speeds):.1f}' if speeds else '-',
            'hardware': ', '.join(str(x) for x in hardware if x) or '-',
        },
    )


def with_em(run):
    """Return the Run with a column for each curve of its EM unit at the end; - for other heads and older logs."""
    last = next((e for e in reversed(run.train) if EM[0] in e), {})
    shown = {}
    for key in EM:
        shown[key] = '-' if number(last.get(key)) is None else f'{last[key]:.2f}'
    return run._replace(results=run.results | shown)


def run_folders(folder, tell):
    """The run folders of an experiment: itself, or those in its LOG_DIR, or in itself; none, after telling, if it is no experiment."""
    if os.path.isfile(os.path.join(folder, 'log.jsonl')):
        return [folder]
    own = (
        parsed(os.path.join(folder, 'settings.py'), literals, tell) if os.path.isdir(folder) else {}
    )
    logs = os.path.normpath(os.path.join(folder, str(own.get('LOG_DIR', 'logdir'))))
    for place in logs, folder:
        found = sorted(glob.glob(os.path.join(glob.escape(place), '*', 'log.jsonl')))
        if found:
            return list(map(os.path.dirname, found))
    lack = (
        f'has no run yet: there is no log.jsonl in the folders in {logs}'
        if own
        else 'is no experiment: no log.jsonl in it or in its folders'
        if os.path.isdir(folder)
        else 'is no folder'
    )
    tell(f'{folder} {lack}; name copies of the project, log folders, or the folders of single runs')
    return []


def read_runs(folders, tell):
    """The Runs of some experiments, best first, named after the folder as it was given, and the run where there are several."""
    runs = []
    for folder in folders or [HERE]:
        paths = run_folders(folder, tell)
        for path in paths:
            run = os.path.basename(path)
            name = folder.rstrip('/') + f':{run}' * (len(paths) > 1) if folders else run
            runs.append(read_run(name, path, tell))
    return sorted(runs, key=lambda run: -run.best.get('val/mIoU', -1e300))


def setting(run, name):
    """A setting as the command line takes it; - if the run has none such."""
    value = run.settings.get(name, '-')
    return value if isinstance(value, str) and value and value.isprintable() else repr(value)


def code(run, first):
    """What tells the code of a run from that of the run `first`."""
    files = [f for f in sorted({*run.code, *first.code}) if run.code.get(f) != first.code.get(f)]
    listed = ', '.join('+' * (f not in first.code) + '-' * (f not in run.code) + f for f in files)
    return '?' if not run.code else 'reference' if run is first else listed or 'same'


def table(rows, markdown=False):
    """Lines of text, from dicts of cells that have the same keys."""
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    if markdown:  # where | would end the cell and __init__ be bold
        head, *rest = [
            [re.sub(r'[\\|*`<]|_(?=_)|(?<=_)_', r'\\\g<0>', c.strip()) for c in line]
            for line in cells
        ]
        return [f'| {" | ".join(line)} |' for line in (head, ['---'] * len(head), *rest)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return [
        '  '.join(
            c.rjust(w) if k in RIGHT else c.ljust(w) for k, c, w in zip(rows[0], line, widths)
        ).rstrip()
        for line in cells
    ]


def overview(runs, width, markdown=False):
    """Lines with a row per run; settings and code go below the rows where more than 6 settings differ or the terminal is too narrow."""
    first, known = (
        next((run for run in runs if run.code), runs[0]),
        [run for run in runs if run.settings],
    )
    names = dict.fromkeys(name for run in known for name in run.settings if name not in PLACES)
    names = [name for name in names if len({setting(run, name) for run in known}) > 1]
    differ = [{name: setting(run, name) for name in names} for run in runs]
    lines = table(
        [
            {'run': run.name} | d | {'code': code(run, first)} | run.results
            for run, d in zip(runs, differ)
        ],
        markdown,
    )
    if markdown or len(names) <= 6 and max(map(len, lines)) <= width:
        return lines
    head, *lines = table([{'run': run.name} | run.results for run in runs])
    found = [head]
    for i, (run, line, d) in enumerate(zip(runs, lines, differ)):
        words = [f'{k}={v}' for k, v in d.items() if v != (differ[0][k] if i else '-')]
        below = '  '.join([*words, f'code: {code(run, first)}'])
        found += [
            line,
            *textwrap.wrap(
                below,
                max(40, width),
                initial_indent='    ',
                subsequent_indent='    ',
                break_on_hyphens=False,
            ),
        ]
    return found


def class_table(runs, width, markdown=False):
    """Lines with a row per class and a column per run, as many beside each other as the terminal has room for."""
    keys = dict.fromkeys(k for run in runs for e in run.val for k in e if k.startswith('val/IoU/'))
    if not keys:
        return [
            '',
            'These logs have no scores per class: the runs are older than such entries. eval.py prints the scores of a checkpoint.',
        ]
    many = (
        len(runs)
        if markdown
        else max(
            1,
            (width - max(11, *(len(k) - 8 for k in keys)))
            // (2 + max(13, *(len(run.name) for run in runs))),
        )
    )
    lines = []
    for some in [runs[i : i + many] for i in range(0, len(runs), many)]:
        cells = [
            {
                run.name: f'{percent(run.best.get(key))} / {percent(run.last.get(key))}'
                for run in some
            }
            for key in keys
        ]
        lines += [
            '',
            *table([{'best / last': key[8:]} | c for key, c in zip(keys, cells)], markdown),
        ]
    return lines


def plot(runs, path):
    """Draws loss and mIoU over the steps, a line per run, into a PNG file: the whole file, or none."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator
    except ImportError:
        raise UserError('--plot needs matplotlib: pip install matplotlib') from None
    names = [
        ' ' + run.name.encode(errors='replace').decode().replace('$', r'\$') for run in runs
    ]  # no formulas; older matplotlib hides _x
    across = max(1, 150 // (8 + max(map(len, names))))
    figure = Figure((12, 4.5 + 0.22 * -(-len(runs) // across)), 120, layout='constrained')
    left, right = figure.subplots(1, 2, sharex=True)
    for i, run in enumerate(runs):
        look = dict(
            color=f'C{i % 10}', linestyle=('-', '--', ':', '-.')[i // 10 % 4], linewidth=1.2
        )
        left.plot([e['step'] for e in run.train], [number(e['loss']) for e in run.train], **look)
        right.plot(
            [e['step'] for e in run.val],
            [100 * e['val/mIoU'] for e in run.val],
            marker='o',
            markersize=3,
            **look,
        )
    left.set(xlabel='step', ylabel='training loss', yscale='log')
    right.set(xlabel='step', ylabel='validation mIoU in %')
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter('{x:g}')  # 0.2, not a power of ten
    left.yaxis.set_minor_formatter('')
    for axes in left, right:
        axes.grid(alpha=0.3)
    figure.legend(left.lines, names, loc='outside lower center', ncols=across, frameon=False)
    work = path + '.part'
    try:
        with open(work, 'wb') as f:
            FigureCanvasAgg(figure).print_png(f)
        os.replace(work, path)
    except OSError as e:
        raise UserError(
            f'{path} cannot be written: {e.strerror}; name a file in a folder where you may write'
        ) from None
    finally:
        if os.path.isfile(work):
            os.unlink(work)


def main():
    if {'-h', '--help'} & set(sys.argv):
        return print(__doc__)
    (flags, folders), told = take_flags(sys.argv[1:], FLAGS), []
    if not flags.get('--plot', '.png').endswith('.png'):
        raise UsageError('--plot takes the name of a picture: --plot FILE.png')

    def tell(problem):
        told.append(problem)
        print(f'compare.py: {problem}', file=sys.stderr)

    runs, width = read_runs(folders, tell), shutil.get_terminal_size((150, 24)).columns
    if '--em' in flags:
        runs = [with_em(run) for run in runs]
    if runs:
        print(*overview(runs, width, '--markdown' in flags), sep='\n')
        if '--classes' in flags:
            print(*class_table(runs, width, '--markdown' in flags), sep='\n')
        if '--plot' in flags:
            plot(runs, flags['--plot'])
            print(f'\ncurves in {flags["--plot"]}')
    return 1 if told else 0


if __name__ == '__main__':
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of `| head`, which has enough
    sys.stdout.reconfigure(errors='backslashreplace')  # names of folders may be any bytes
    try:
        status = main()
    except UserError as e:
        print(f'compare.py: {e}', file=sys.stderr)
        status = e.code
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        status = 128 + signal.SIGINT
    sys.exit(status)
