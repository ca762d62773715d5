"""The data set of a checkpoint file, which comes along as its network does."""

import contextlib
import os

import cv2
import numpy as np

import dataset
import settings
from conversion.sentences import as_arguments
from datasets.files import Classes, parse_classes
from datasets.identity import table_digest
from datasets.table import DATASETS, locate
from utils import config
from utils.config import UserError
from utils.printable import printable
from utils.visualize import numbered

SHOWN = 5  # classes in a sentence
NAMES = 'DATASET', 'DATA_ROOT', 'TRAIN_SPLIT', 'VAL_SPLIT'


def adopt(file, explicit):
    """Put the data set that a File keeps in force; return these settings, {name: value}.

    All stay as they are if `explicit` names another data set, or the same one is where the settings
    in force say; else names in `explicit` do. DATA_ROOT of data of one's own is part of what they
    are; for other data sets it counts if they are there.
    """
    trained_on = file.settings.get('DATASET')
    is_same = trained_on == settings.DATASET
    stands = is_there(trained_on) if is_same else 'DATASET' in explicit
    if trained_on not in DATASETS or stands:
        return {}
    names = [name for name in NAMES if name in file.settings and name not in explicit]
    values = {name: file.settings[name] for name in names}
    before = settings.DATA_ROOT
    config.put(values)
    if trained_on != 'folder' and values.get('DATA_ROOT') and not is_there(trained_on):
        del values['DATA_ROOT']
        config.put({'DATA_ROOT': before})
    return values


def is_there(name):
    """Tell whether a data set lies in DATA_ROOT; none is drawn for this."""
    try:
        root = locate(DATASETS[name]._replace(make=None))
    except UserError:
        return False
    return name != 'folder' or os.path.isfile(os.path.join(root, 'classes.txt'))


def table(file, n):
    """Return the Classes of a network of n classes that a File of one's own data keeps.

    Where it keeps none they are those of the data set in force, None, or numbers if that is gone.
    """
    if file.settings.get('DATASET') != 'folder' or settings.DATASET != 'folder':
        return None
    kept = None
    if file.classes:
        kept = parse_classes(file.classes, f'{file.path}, class table')
        if len(kept.names) > n:
            raise UserError(
                f'{file.path}: its class table has {len(kept.names)} classes, its network {n}'
            )
    elif os.path.isdir(settings.DATA_ROOT):
        return None
    hsv = np.full((1, n, 3), 220, np.uint8)
    hsv[0, :, 0] = np.arange(n) * 67 % 180  # hues; neighbours are far apart
    colours = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0]
    names = numbered(range(n))
    if kept:
        names[: len(kept.names)] = kept.names
        colours[: len(kept.names)] = kept.colours
    return Classes(list(range(n)), colours, names, [], [], file.path)


def note(file, adopted, explicit):
    """Return what to say about the data of a File, after what is said about its network."""
    words = ''
    named = {name: adopted[name] for name in NAMES[:2] if name in adopted}
    if named:
        words = f'; its data: {as_arguments(named)}'
        if settings.DATASET == 'folder' and not os.path.isdir(settings.DATA_ROOT):
            words += ', a folder that is not here'
    of_table = file.data.partition('-')[2]
    is_own = settings.DATASET == file.settings.get('DATASET') == 'folder'
    if of_table and is_own:
        with contextlib.suppress(UserError):  # the data may be elsewhere
            classes = dataset.classes()
            if of_table != table_digest(classes, own=True):
                words += (
                    f'\nwarning: {file.path} was trained with another class table than '
                    f'{classes.path}'
                )
    kept = file.settings.get('DATA_ROOT')
    is_named = 'DATA_ROOT' in explicit or 'DATA_ROOT' in adopted
    is_known = is_own and not is_named and os.path.isabs(kept or '')
    if is_known and os.path.realpath(kept) != os.path.realpath(settings.DATA_ROOT):
        words += f'\nwarning: {file.path} was trained on DATA_ROOT={kept}, not on this data'
    return words


def other_classes(file):
    """Return a sentence part if a File of one's own data has other classes than those in force."""
    if not file.classes:
        return ''
    names = parse_classes(file.classes, f'{file.path}, class table').names
    if names == dataset.class_names()[: len(names)]:
        return ''
    more = ', ...' if len(names) > SHOWN else ''
    return f'; its classes were others: {", ".join(map(printable, names[:SHOWN]))}{more}'
