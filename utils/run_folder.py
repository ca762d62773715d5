"""The folders of a run, LOG_DIR/NAME and MODEL_DIR/NAME: what belongs in them.

clean.sh removes what FILES names, and only that.
"""

import fnmatch
import os

import settings
from utils.config import UsageError

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MARKS = (  # a folder that holds one of these is a run's
    'log.jsonl', 'scores.json', 'rescore.json', 'latest.pth', 'best.pth', 'final.pth', 'step_*.pth',
)  # fmt: skip
WRITTEN_TO = ('log.jsonl', 'settings.py', 'machine.json', 'source.zip')  # others are replaced
TABLES = (  # next to scores.json and rescore.json
    'scores_classes.csv', 'scores_confusion.csv', 'scores_inside.csv',
    'rescore_classes.csv', 'rescore_confusion.csv', 'rescore_inside.csv',
)  # fmt: skip
FILES = (
    *MARKS, *TABLES, 'settings.py', 'machine.json', 'source.zip', 'events.out.tfevents.*',
)  # fmt: skip
# of eval.py and predict.py, where SAVE_DIR is the run's own folder
FOLDERS = ('predictions', 'index', 'colour', 'overlay', 'probabilities', 'bases', 'compare')
CHARTS = ('best.png', 'worst.png', 'confusion.png', 'classes.png')
OUTPUTS = ('*.log', '*.out', '*.err')  # where people redirect what a run prints
HARMLESS = (*FOLDERS, *CHARTS, *OUTPUTS, 'events.out.tfevents.*', '*.pth.*.part')


def is_one_of(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def names_in(folder):
    """Return what a folder holds, sorted, without hidden files."""
    if not os.path.isdir(folder):
        return []
    return sorted(name for name in os.listdir(folder) if not name.startswith('.'))


def check(folder, data_root=None):
    """Raise UsageError if a run may not write into `folder`.

    It may not be the project's or the data set's folder, hold either, or be a folder with files
    that no run wrote.
    """
    real = os.path.realpath(folder)
    if data_root and settings.DATASET == 'folder':
        for name in ('images', 'labels'):
            if inside(real, os.path.realpath(os.path.join(data_root, name))):
                raise UsageError(
                    f'{folder} lies among the {name} of {data_root}, which a run would mix with '
                    'its files; choose another NAME, LOG_DIR or MODEL_DIR'
                )
    for what, other in (('this project', PROJECT), ('the data set', data_root)):
        if other and inside(os.path.realpath(other), real):
            raise UsageError(
                f'{folder} is the folder of {what}, or holds it, and a run would write its files '
                'there; choose another NAME, LOG_DIR or MODEL_DIR'
            )
    names = names_in(folder)
    for name in names:
        path = os.path.join(folder, name)
        if name in WRITTEN_TO and os.path.islink(path) and os.path.isfile(path):
            raise UsageError(
                f'{path} is a link to another file, which a run would overwrite; remove the link'
            )
    if any(is_one_of(name, MARKS) for name in names):
        return
    strange = []
    for name in names:
        path = os.path.join(folder, name)
        is_data = os.path.isfile(path) or os.path.isdir(path)  # not a device
        if is_data and not is_one_of(name, HARMLESS):
            strange.append(name)
    if strange:
        raise UsageError(
            f'{os.path.join(folder, strange[0])} was not written by a run, and {folder} holds '
            'none; choose another NAME, LOG_DIR or MODEL_DIR, or move it away'
        )


def inside(path, folder):
    """Tell whether a real path is a folder, or lies in it."""
    return os.path.commonpath([path, folder]) == folder


def check_all(data_root=None):
    """Raise UsageError if the run that settings name may not write into one of its folders."""
    for parent in (settings.LOG_DIR, settings.MODEL_DIR):
        check(os.path.join(parent, settings.NAME), data_root)


def remove_leftovers(folder):
    """Remove the half-written files of a process that was killed."""
    for name in names_in(folder):
        if is_one_of(name, [f'{pattern}.*.part' for pattern in FILES]):
            os.unlink(os.path.join(folder, name))


def check_new(folder):
    """Raise UsageError if a new run would mix its checkpoints with those of another."""
    old = [name for name in names_in(folder) if name.endswith('.pth')]
    if old:
        raise UsageError(
            f'{os.path.join(folder, old[0])} is of an earlier run, and there is no latest.pth to '
            f'resume it from; choose another NAME, or move {folder} away'
        )
