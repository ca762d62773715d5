"""Show experiments side by side: what differs between them, and what came of it.

    python compare.py                             a row per run of this folder
    python compare.py ../EMANet*                  copies of this folder, log folders, or single runs
    python compare.py ../EMANet* --classes        and the IoU of each class, at best and last step
    python compare.py ../EMANet* --em             and how the EM unit clustered at the end
    python compare.py ../EMANet* --seeds          runs that differ in SEED alone as one row
    python compare.py ../EMANet* --markdown       tables for a document; --latex: for a paper
    python compare.py ../EMANet* --plot FILE.png  and the curves of loss, mIoU and the EM unit

Logs and settings are read, never run. The best run comes first. Settings that all runs share are
left out; where many differ they are listed below the rows, from the second row on only if they
differ from the first. `code` names the files that differ from those of the `reference`: + is an
additional file, - a missing one, ? no source kept. Scores are in percent: best (@ step) and last of
training, and `eval` of eval.py. Of several seeds they are mean ± standard deviation (n - 1).
"""

import argparse
import itertools
import os
import re
import shutil
import textwrap
from statistics import fmean, median, stdev

from utils import script
from utils.config import UsageError, UserError
from utils.printable import printable
from utils.runs import by_seed, is_place, number, read_runs, singles
from utils.table import LONGEST, table

HERE = os.path.dirname(os.path.abspath(__file__))
EM = ('em/entropy', 'em/bases_in_use', 'em/cosine')  # see network.EMAU.curves
# in `views` of scores.json: TEST_BASE_SIZE or TEST_SHORT_SIDE
SIZE = r'of (\d+ pixels(?: on the short side(?:, at most \d+ on the long one)?)?)'
RIGHT = ('n', 'steps', 'last mIoU', 'images/s', *EM)  # columns of plain figures

# -------------------------------------------------------------------------------------------- cells


def spread(values, scale=100):
    """Return the mean ± standard deviation (n - 1) of some numbers, `scale` times, as text.

    Values that are no numbers are left out, which '(k of n)' then says; '-' if there is no other.
    """
    known = [scale * value for value in values if number(value) is not None]
    if not known:
        return '-'
    text = f'{fmean(known):5.2f}'
    if len(known) > 1:
        text += f' ± {stdev(known):.2f}'
    if len(known) < len(values):
        text += f' ({len(known)} of {len(values)})'
    return text


def results(runs):
    """Return {column: text} of what came of the runs of a row."""
    best = spread([run.best.get('val/mIoU') for run in runs])
    if len(runs) == 1 and runs[0].best:
        best += f' @ {runs[0].best["step"]}'
    steps, most = min(run.steps for run in runs), max(run.steps for run in runs)
    if steps < most:
        steps = f'{steps} to {most}'
    train = list(itertools.chain.from_iterable(run.train for run in runs))
    return {
        'steps': f'{steps} / {runs[0].settings.get("ITER_MAX", "-")}',
        'best mIoU': best,
        'last mIoU': spread([run.last.get('val/mIoU') for run in runs]),
        'eval': eval_cell(runs),
        'images/s': speed_cell(train),
        'hardware': '; '.join(dict.fromkeys(hardware_cell(run.machine) for run in runs)),
    }


def eval_cell(runs):
    """Return the scores of eval.py, and how they differ from the best checkpoint on VAL_SPLIT."""
    values = {}  # of each way to evaluate
    for run in runs:
        if 'mIoU' in run.scores:
            notes = eval_notes(run.scores, run.settings, run.best)
            values.setdefault(notes, []).append(run.scores['mIoU'])
    cells = []
    for notes, scores in values.items():
        missing = [None] * (len(runs) - len(scores))
        cells.append(spread(scores + missing) + notes)
    return '; '.join(cells) or '-'


def eval_notes(scores, settings, best):
    """Return what differs from the best checkpoint on VAL_SPLIT, in brackets, or ''.

    best  entry of the best validation of the run
    """
    notes = []
    for key, name in (('dataset', 'DATASET'), ('split', 'VAL_SPLIT')):
        if scores.get(key) not in (None, settings.get(name)):
            notes.append(str(scores[key]))
    trained_in, root = str(settings.get('DATA_ROOT')), scores.get('root')
    is_known = settings.get('DATASET') == 'folder' and os.path.isabs(trained_in) and root
    if is_known and root != os.path.normpath(trained_in):
        notes.append(root)
    file = os.path.basename(str(scores.get('checkpoint', 'best.pth')))
    if file != 'best.pth':
        notes.append(file)
    elif best and scores.get('step') not in (None, best['step']):
        notes.append(f'step {scores["step"]}, no longer the best')
    if 'single' in scores:
        notes.append('several views')
    views = str(scores.get('views', ''))
    if 'windows' in views:
        notes.append('windows')
    notes += re.findall(SIZE, views)
    return f' ({", ".join(notes)})' if notes else ''


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


def em_cells(runs):
    """Return a column per curve of the EM unit at the end of training; - for other heads."""
    last = []
    for run in runs:
        last.append(next((entry for entry in reversed(run.train) if EM[0] in entry), {}))
    return {key: spread([entry.get(key) for entry in last], 1) for key in EM}


def seed_cells(runs):
    """Return the columns that tell the runs of a row apart."""
    seeds = sorted((setting(run, 'SEED') for run in runs), key=lambda text: (len(text), text))
    return {'n': str(len(runs)), 'SEED': ', '.join(seeds)}


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


def differing_settings(runs, but=()):
    """Return {name: text} for each run: the settings that differ between those that kept them.

    but  names that are left out
    """
    known = [run for run in runs if run.settings]
    names = {}  # in order
    for run in known:
        names |= dict.fromkeys(run.settings)
    differing = []
    for name in names:
        is_told = any(not is_place(name, run.settings) for run in known) and name not in but
        if is_told and len({setting(run, name) for run in known}) > 1:
            differing.append(name)
    return [{name: setting(run, name) for name in differing} for run in runs]


def overview(groups, width, flags):
    """Return lines with a row per Group; with flags.em also the curves of the EM unit.

    Where more than 6 settings differ or the terminal is too narrow, settings and code go below;
    not in a document (flags.markdown, flags.latex).
    """
    runs = [group.first for group in groups]
    first = next((run for run in runs if run.code), runs[0])
    differ = differing_settings(runs, ['SEED'] if flags.seeds else [])
    rows, short_rows = [], []
    for group, values in zip(groups, differ, strict=True):
        names = {'run': group.name}
        if flags.seeds:
            names |= seed_cells(group.runs)
        cells = results(group.runs)
        if flags.em:
            cells |= em_cells(group.runs)
        rows.append(names | values | {'code': code(group.first, first)} | cells)
        short_rows.append(names | cells)
    lines = table(rows, flags.markdown, RIGHT, flags.latex)
    fits = len(differ[0]) <= 6 and max(map(len, lines)) <= width
    if flags.markdown or flags.latex or fits:
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


def class_table(groups, width, flags):
    """Return lines with a row per class and a column per Group, as many as the terminal holds."""
    keys = {}  # in order
    for group in groups:
        for run in group.runs:
            for entry in run.val:
                keys |= dict.fromkeys(key for key in entry if key.startswith('val/IoU/'))
    if not keys:
        return [
            '',
            'These logs have no scores per class: the runs are older than such entries. '
            'eval.py prints the scores of a checkpoint.',
        ]
    columns = [class_cells(group, keys) for group in groups]
    count = len(columns)
    if not (flags.markdown or flags.latex):
        names = max(11, *(len(key) - 8 for key in keys))
        column = 2 + max(13, *(len(group.name) for group in groups))
        for cells in columns:
            column = max(column, *(2 + len(text) for text in cells.values()))
        count = max(1, (width - names) // column)
    lines = []
    for start in range(0, len(groups), count):
        rows = []
        for key in keys:
            row = {'best / last': key.removeprefix('val/IoU/')}
            for group, cells in list(zip(groups, columns, strict=True))[start : start + count]:
                row[group.name] = cells[key]
            rows.append(row)
        lines += ['', *table(rows, flags.markdown, latex=flags.latex)]
    return lines


def class_cells(group, keys):
    """Return {key: text} of the IoU of the classes of a Group, at the best and the last step."""
    cells = {}
    for key in keys:
        best = spread([run.best.get(key) for run in group.runs])
        last = spread([run.last.get(key) for run in group.runs])
        cells[key] = f'{best} / {last}'
    return cells


# ------------------------------------------------------------------------------------------- script


def parser():
    parser = script.Parser(__doc__, inputs='FOLDER', reads_settings=False, is_report=True)
    parser.add_argument('--classes', action='store_true', help='a table of the IoU of each class')
    parser.add_argument('--em', action='store_true', help='columns of how the EM unit clustered')
    parser.add_argument(
        '--seeds', action='store_true', help='runs that differ in SEED alone as one row'
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument('--markdown', action='store_true', help='tables for a document')
    form.add_argument('--latex', action='store_true', help='tables for a paper, without packages')
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


def save_curves(groups, path):
    """Draw the curves of Groups into a PNG file; UserError if that is not possible."""
    try:
        from utils import curves
    except ImportError:
        raise UserError('--plot needs matplotlib: pip install matplotlib') from None
    folder = os.path.dirname(path) or '.'
    reason = f'there is no folder {folder}'
    if os.path.isdir(folder):
        try:
            return curves.plot(groups, path)
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
        groups = by_seed(runs) if flags.seeds else singles(runs)
        print(*overview(groups, width, flags), sep='\n')
        if flags.classes:
            print(*class_table(groups, width, flags), sep='\n')
        if flags.plot:
            save_curves(groups, flags.plot)
            print(f'\ncurves in {printable(flags.plot)}')
    return 1 if problems else 0


if __name__ == '__main__':
    script.run(main, parser())
