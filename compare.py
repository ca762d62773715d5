"""Show experiments side by side: what differs between them, and what came of it.

    python compare.py                             a row per run of this folder
    python compare.py ../EMANet*                  copies of this folder, log folders, or single runs
    python compare.py ../EMANet* --classes        and the IoU of each class, at best and last step
    python compare.py ../EMANet* --em             and how the EM unit clustered at the end
    python compare.py ../EMANet* --markdown       tables for a document
    python compare.py ../EMANet* --plot FILE.png  and the curves of loss and mIoU

Logs and settings are read, never run. The best run comes first. Settings that all runs share are
left out; where many differ they are listed below the rows, from the second row on only if they
differ from the first. `code` names the files that differ from those of the `reference`: + is an
additional file, - a missing one, ? no source kept. Scores are in percent: best (@ step) and last of
training, and `eval` of eval.py.
"""

import argparse
import os
import re
import shutil
import textwrap
from statistics import median

from utils import script
from utils.config import UsageError, UserError
from utils.printable import printable
from utils.runs import number, read_runs
from utils.table import LONGEST, table

HERE = os.path.dirname(os.path.abspath(__file__))
PLACES = (  # where a run is, not what it is
    'NAME', 'LOG_DIR', 'MODEL_DIR', 'DATA_ROOT', 'SAVE_DIR', 'CHECKPOINT', 'NUM_WORKERS', 'DEVICES',
    'MAX_PIXELS',
)  # fmt: skip
EM = ('em/entropy', 'em/bases_in_use', 'em/cosine')  # see network.EMAU.curves
# in `views` of scores.json: TEST_BASE_SIZE or TEST_SHORT_SIDE
SIZE = r'of (\d+ pixels(?: on the short side(?:, at most \d+ on the long one)?)?)'
RIGHT = ('steps', 'last mIoU', 'images/s', *EM)  # columns of plain figures

# -------------------------------------------------------------------------------------------- cells


def percent(value):
    """Return a score as text, '-' if it is none."""
    if number(value) is None:
        return '-'
    return f'{100 * value:5.2f}'


def results(run):
    """Return {column: text} of what came of a run."""
    best = percent(run.best.get('val/mIoU'))
    if run.best:
        best += f' @ {run.best["step"]}'
    return {
        'steps': f'{run.steps} / {run.settings.get("ITER_MAX", "-")}',
        'best mIoU': best,
        'last mIoU': percent(run.last.get('val/mIoU')),
        'eval': eval_cell(run.scores, run.settings),
        'images/s': speed_cell(run.train),
        'hardware': hardware_cell(run.machine),
    }


def eval_cell(scores, settings):
    """Return the score of eval.py, and what differs from the best checkpoint on VAL_SPLIT."""
    notes = []
    for key, name in (('dataset', 'DATASET'), ('split', 'VAL_SPLIT')):
        if scores.get(key) not in (None, settings.get(name)):
            notes.append(str(scores[key]))
    file = os.path.basename(str(scores.get('checkpoint', 'best.pth')))
    if file != 'best.pth':
        notes.append(file)
    if 'single' in scores:
        notes.append('several views')
    views = str(scores.get('views', ''))
    if 'windows' in views:
        notes.append('windows')
    notes += re.findall(SIZE, views)
    text = percent(scores.get('mIoU'))
    if notes:
        text += f' ({", ".join(notes)})'
    return text


def speed_cell(train):
    """Return the median speed of the entries of training."""
    speeds = []
    for entry in train:
        if number(entry.get('images_per_s')) is not None:
            speeds.append(entry['images_per_s'])
    return f'{median(speeds):.1f}' if speeds else '-'


def hardware_cell(machine):
    """Return number and name of the devices, and the precision, as far as they are known."""
    devices = ' x '.join(str(machine[key]) for key in ('devices', 'device') if key in machine)
    facts = [devices, machine.get('precision')]
    return ', '.join(str(fact) for fact in facts if fact) or '-'


def em_cells(train):
    """Return a column per curve of the EM unit at the end of training; - for other heads."""
    last = next((entry for entry in reversed(train) if EM[0] in entry), {})
    cells = {}
    for key in EM:
        cells[key] = '-' if number(last.get(key)) is None else f'{last[key]:.2f}'
    return cells


def setting(run, name):
    """Return a setting as it is written on the command line; - if the run does not have it."""
    value = run.settings.get(name, '-')
    if isinstance(value, str) and value and value.isprintable():
        return printable(value, most=LONGEST)
    return printable(repr(value), most=LONGEST)


def code(run, first):
    """Return how the code of a run differs from that of the run `first`."""
    if not run.code:
        return '?'
    if run is first:
        return 'reference'
    names = []
    for file in sorted({*run.code, *first.code}):
        if file not in first.code:
            names.append('+' + file)
        elif file not in run.code:
            names.append('-' + file)
        elif run.code[file] != first.code[file]:
            names.append(file)
    return printable(', '.join(names)) or 'same'


def differing_settings(runs):
    """Return {name: text} for each run: the settings that differ between those that kept them."""
    known = [run for run in runs if run.settings]
    names = {}  # in order
    for run in known:
        names |= dict.fromkeys(run.settings)
    names = [name for name in names if name not in PLACES]
    names = [name for name in names if len({setting(run, name) for run in known}) > 1]
    return [{name: setting(run, name) for name in names} for run in runs]


def overview(runs, width, markdown=False, em=False):
    """Return lines with a row per run; with `em` also the curves of its EM unit.

    Where more than 6 settings differ or the terminal is too narrow, settings and code go below.
    """
    first = next((run for run in runs if run.code), runs[0])
    differ = differing_settings(runs)
    rows, short_rows = [], []
    for run, values in zip(runs, differ, strict=True):
        cells = results(run)
        if em:
            cells |= em_cells(run.train)
        rows.append({'run': run.name} | values | {'code': code(run, first)} | cells)
        short_rows.append({'run': run.name} | cells)
    lines = table(rows, markdown, RIGHT)
    if markdown or (len(differ[0]) <= 6 and max(map(len, lines)) <= width):
        return lines
    head, *short_lines = table(short_rows, right=RIGHT)
    lines = [head]
    for i, (run, line) in enumerate(zip(runs, short_lines, strict=True)):
        lines += [line, *below(differ, i, code(run, first), width)]
    return lines


def below(differ, i, code_text, width):
    """Return indented lines: the settings of run i that differ from the first, and its code."""
    words = []
    for name, text in differ[i].items():
        first = differ[0][name] if i else '-'
        if text != first:
            words.append(f'{name}={text}')
    words.append(f'code: {code_text}')
    wrapped = textwrap.wrap('  '.join(words), max(40, width) - 4, break_on_hyphens=False)
    return ['    ' + line for line in wrapped]


# ------------------------------------------------------------------------------------------ classes


def class_table(runs, width, markdown=False):
    """Return lines with a row per class and a column per run, as many as the terminal can hold."""
    keys = {}  # in order
    for run in runs:
        for entry in run.val:
            keys |= dict.fromkeys(key for key in entry if key.startswith('val/IoU/'))
    if not keys:
        return [
            '',
            'These logs have no scores per class: the runs are older than such entries. '
            'eval.py prints the scores of a checkpoint.',
        ]
    count = len(runs)
    if not markdown:
        names = max(11, *(len(key) - 8 for key in keys))
        column = 2 + max(13, *(len(run.name) for run in runs))
        count = max(1, (width - names) // column)
    lines = []
    for start in range(0, len(runs), count):
        rows = []
        for key in keys:
            row = {'best / last': key.removeprefix('val/IoU/')}
            for run in runs[start : start + count]:
                row[run.name] = f'{percent(run.best.get(key))} / {percent(run.last.get(key))}'
            rows.append(row)
        lines += ['', *table(rows, markdown)]
    return lines


# ------------------------------------------------------------------------------------------- script


def parser():
    parser = script.Parser(__doc__, inputs='FOLDER', reads_settings=False, is_report=True)
    parser.add_argument('--classes', action='store_true', help='a table of the IoU of each class')
    parser.add_argument('--em', action='store_true', help='columns of how the EM unit clustered')
    parser.add_argument('--markdown', action='store_true', help='tables for a document')
    parser.add_argument('--plot', metavar='FILE.png', type=png_file, help='draw the curves')
    return parser


def png_file(text):
    if not text.endswith('.png'):
        raise argparse.ArgumentTypeError('expected the name of a picture: --plot FILE.png')
    return os.path.expanduser(text)


def check_plot(path):
    """Raise UsageError if a file is there that is no chart, so that none of the user's is lost."""
    if not os.path.isfile(path):
        return
    with open(path, 'rb') as f:
        head = f.read(1000)
    if head and b'Matplotlib' not in head:  # it signs its files
        raise UsageError(
            f'--plot {path}: this file is there already, and it is no chart of compare.py; '
            'move it, or name another one'
        )


def save_curves(runs, path):
    """Draw the curves of runs into a PNG file; UserError if that is not possible."""
    try:
        from utils import curves
    except ImportError:
        raise UserError('--plot needs matplotlib: pip install matplotlib') from None
    folder = os.path.dirname(path) or '.'
    reason = f'there is no folder {folder}'
    if os.path.isdir(folder):
        try:
            return curves.plot(runs, path)
        except OSError as e:
            reason = e.strerror
    raise UserError(
        f'{path} cannot be written: {reason}; name a file in a folder where you may write'
    )


def main(flags):
    problems = []

    def report(problem):
        problems.append(problem)
        script.complain(problem)

    if flags.plot:
        check_plot(flags.plot)
    runs = read_runs(flags.inputs, report, HERE)
    width = shutil.get_terminal_size((150, 24)).columns
    if runs:
        print(*overview(runs, width, flags.markdown, flags.em), sep='\n')
        if flags.classes:
            print(*class_table(runs, width, flags.markdown), sep='\n')
        if flags.plot:
            save_curves(runs, flags.plot)
            print(f'\ncurves in {printable(flags.plot)}')
    return 1 if problems else 0


if __name__ == '__main__':
    script.run(main, parser())
