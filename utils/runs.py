"""Run folders as compare.py reads them: logs and settings, damaged or old ones too.

Nothing in them is run, and what they lack is left out. Settings have today's names.
"""

import ast
import contextlib
import glob
import io
import json
import os
import statistics
import zipfile
from collections import Counter
from typing import NamedTuple

from utils import config, older

PLACES = (  # settings that say where a run is, not what it is
    'NAME', 'LOG_DIR', 'MODEL_DIR', 'DATA_ROOT', 'SAVE_DIR', 'CHECKPOINT', 'NUM_WORKERS', 'DEVICES',
    'MAX_PIXELS',
)  # fmt: skip
LARGEST = 1_000_000  # bytes of a file that is no log, or of a log's line
DAMAGE = OSError, ValueError, SyntaxError, TypeError, MemoryError, RuntimeError, zipfile.BadZipFile


class Run(NamedTuple):
    """What a run folder holds; {} where a file is missing."""

    name: str
    settings: dict
    code: dict  # {file: checksum and size} of the source that the run kept, without settings.py
    scores: dict  # of eval.py
    machine: dict
    steps: int
    train: list  # entries of log.jsonl that have a loss
    val: list  # entries that have a score
    best: dict  # entry of val, the first of equals
    last: dict  # entry of val


class Group(NamedTuple):
    """A row of compare.py: a run, or runs that differ in SEED alone."""

    name: str
    runs: list

    @property
    def first(self):
        return self.runs[0]


def number(value):
    """Return the value if it is a finite number, else None."""
    if type(value) in (int, float) and abs(value) < 1e300:
        return value
    return None


def whole(file, most=LARGEST):
    """Return the bytes of a file; ValueError if they are more than a run writes."""
    content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f'more than {most:,} bytes')
    return content


def json_object(file):
    """Return the object that a JSON file holds, as a dict; TypeError if it holds something else."""
    return {**json.loads(whole(file))}


def log_entries(file):
    """Return the entries of a log.jsonl, without damaged lines: a killed run leaves half a line."""
    entries = []
    while line := file.readline(LARGEST):
        with contextlib.suppress(*DAMAGE):
            entry = {**json.loads(line)}
            if number(entry.get('step')) is not None:
                entries.append(entry)
    return entries


def literals(file):
    """Return {name: value} of the lines KEY = literal of a settings.py, which is not run."""
    values = {}
    for line in ast.parse(whole(file)).body:
        with contextlib.suppress(*DAMAGE):
            name, value = config.assignment(line)
            if name.isupper():
                values[name] = value
    return values


def run_settings(file):
    """Return the settings of a run's settings.py, those of older versions under today's names."""
    return older.translated(literals(file))


def checksums(file):
    """Return {file: checksum and size} of the Python files in a zip, from its table of contents.

    Without settings.py: its values are kept apart.
    """
    files = {}
    for info in zipfile.ZipFile(io.BytesIO(whole(file, 100 * LARGEST))).infolist():
        if info.filename.endswith('.py') and info.filename != 'settings.py':
            files[info.filename] = info.CRC, info.file_size
    return files


def read(path, parse, report):
    """Return parse(open file); {} if there is no file or, reported, a damaged one."""
    if not os.path.exists(path):
        return {}
    try:
        if not os.path.isfile(path):  # opening a pipe would wait for ever
            raise ValueError('no ordinary file')
        with open(path, 'rb') as f:
            return parse(f)
    except DAMAGE as e:
        reason = getattr(e, 'strerror', None) or str(e).replace('<unknown>, ', '')
        report(
            f'{path} cannot be read ({reason or "nested too deep"}) and is left out; '
            'repair it, or move it away'
        )
        return {}


def read_run(name, folder, report):
    """Return the Run of a folder that holds a log.jsonl."""
    log = read(os.path.join(folder, 'log.jsonl'), log_entries, report)
    settings = read(os.path.join(folder, 'settings.py'), run_settings, report)
    if settings:
        settings = older.OLDER | settings
    train = [entry | {'loss': number(entry['loss'])} for entry in log if 'loss' in entry]
    val = [entry for entry in log if number(entry.get('val/mIoU')) is not None]
    return Run(
        name=name,
        settings=settings,
        code=read(os.path.join(folder, 'source.zip'), checksums, report),
        scores=read(os.path.join(folder, 'scores.json'), json_object, report),
        machine=read(os.path.join(folder, 'machine.json'), json_object, report),
        steps=max((entry['step'] for entry in log), default=0),
        train=train,
        val=val,
        best=max(val, key=lambda entry: entry['val/mIoU'], default={}),
        last=val[-1] if val else {},
    )


def run_folders(folder, report):
    """Return the run folders of an experiment: itself, or those in its LOG_DIR, or in itself."""
    if os.path.isfile(os.path.join(folder, 'log.jsonl')):
        return [folder]
    values = {}
    if os.path.isdir(folder):
        values = read(os.path.join(folder, 'settings.py'), literals, report)
    log_dir = os.path.normpath(os.path.join(folder, str(values.get('LOG_DIR', 'logdir'))))
    for parent in (log_dir, folder):
        logs = sorted(glob.glob(os.path.join(glob.escape(parent), '*', 'log.jsonl')))
        if logs:
            return [os.path.dirname(path) for path in logs]
    if values:
        problem = f'has no run yet: there is no log.jsonl in the folders in {log_dir}'
    elif os.path.isdir(folder):
        problem = 'is no experiment: no log.jsonl in it or in its folders'
    else:
        problem = 'is no folder'
    report(f'{folder} {problem}; name copies of the project, log folders, or single runs')
    return []


def read_runs(folders, report, home=None):
    """Return the Runs of some experiments, best first; without any, those of the folder `home`.

    They are named after the folder as it was given, and after the run where that has several; those
    of `home` after the run alone. report(sentence) is called for what cannot be read.
    """
    runs = []
    for folder in folders or [home]:
        paths = run_folders(folder, report)
        for path in paths:
            run = os.path.basename(path)
            name = folder.rstrip('/')
            if not folders:
                name = run
            elif len(paths) > 1:
                name += f':{run}'
            runs.append(read_run(name, path, report))
    return sorted(runs, key=lambda run: run.best.get('val/mIoU', -1e300), reverse=True)


def singles(runs):
    """Return a Group for each of some Runs."""
    return [Group(run.name, [run]) for run in runs]


def is_place(name, settings):
    """Tell whether a setting says where a run is; of one's own data DATA_ROOT says what it is."""
    return name in PLACES and (name, settings.get('DATASET')) != ('DATA_ROOT', 'folder')


def by_seed(runs):
    """Return Groups of the Runs that differ in SEED alone, the best mean first.

    Places and names may differ. No group has a SEED twice, see without_repeats(), or runs that have
    ended beside others; a run whose settings are not known is a group of its own.
    """
    alike = {}
    for run in sorted(runs, key=lambda run: run.name):
        values = {k: value for k, value in run.settings.items() if not is_place(k, run.settings)}
        values.pop('SEED', None)
        key = run.name
        if values:
            has_ended = run.steps >= (number(values.get('ITER_MAX')) or 0)
            key = repr([sorted(map(repr, values.items())), sorted(run.code.items()), has_ended])
        alike.setdefault(key, []).append(run)
    members = []
    for part in alike.values():
        members += without_repeats(part)
    names = [pattern([run.name for run in part]) for part in members]
    groups = []
    for name, part in zip(names, members, strict=True):
        if names.count(name) > 1:
            name = ', '.join(run.name for run in part)
        groups.append(Group(name, part))
    return sorted(groups, key=mean_best, reverse=True)


def without_repeats(runs):
    """Return lists of runs without a SEED twice, those of a folder together, in their order."""
    seeds = [repr(run.settings.get('SEED')) for run in runs]
    if len(set(seeds)) == len(seeds):
        return [runs]
    lists, counts = {}, Counter()
    for run, seed in zip(runs, seeds, strict=True):
        folder = run.name.rpartition(':')[0]
        counts[folder, seed] += 1
        lists.setdefault((folder, counts[folder, seed]), []).append(run)
    return list(lists.values())


def mean_best(group):
    """Return the mean of the best scores of a Group's runs; very low where there are none."""
    scores = [run.best['val/mIoU'] for run in group.runs if run.best]
    return statistics.fmean(scores) if scores else -1e300


def pattern(names):
    """Return a name, or what several begin and end with: run_0, run_1 -> run_*."""
    if len(names) == 1:
        return names[0]
    start = os.path.commonprefix(names)
    rest = [name[len(start) :][::-1] for name in names]
    return f'{start}*{os.path.commonprefix(rest)[::-1]}'
