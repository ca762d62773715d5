"""Get a data set or trunk weights ready: fetch what may be fetched, unpack, convert, check.

    python prepare.py                              # lists what there is, and how large it is
    python prepare.py voc --root /data             # into DATA_ROOT=/data
    python prepare.py voc --check --split train    # files, sizes, values, pixels of each class
    python prepare.py folder --root mine --from coco  # your own data, as a tool exports it
    python prepare.py cityscapes --cache           # stores decoded pixels, which training reads
    python prepare.py weights resnet101            # the trunk with the deep stem
    python prepare.py weights torchvision-resnet50 # the plain one

The same command goes on where it broke off, and uses archives that you put into DATA_ROOT. --check
and --cache fetch nothing; the folder of the cache can be deleted at any time.
"""

import os
import re
import signal

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a word

import dataset
import settings
from conversion.sentences import as_argument
from datasets import table
from preparation import check, convert, download, tools
from preparation.archives import contains
from preparation.sources import (
    CONVERT,
    DEEP_STEM,
    PLAIN_STEM,
    ROOTS,
    SOURCES,
    WEIGHTS,
    as_size,
    deep_stem_url,
    plain_stem_url,
)
from utils import config, quiet, script
from utils.config import UsageError, UserError
from utils.table import table as text_table


def overview():
    """Return what there is to prepare, as lines of text."""
    rows = []
    for name in table.DATASETS:
        archives = []
        for archive in SOURCES.get(name, ()):
            if archive.gb and not (archive.optional and archive.by_hand):
                archives.append(archive)
        text = ', '.join(archive.file for archive in archives)
        if any(archive.by_hand for archive in archives):
            text = f'by hand, with an account: {text}'
        size = ''
        if archives:
            size = as_size(sum(archive.gb for archive in archives))
        elif name == 'shapes':
            text = 'nothing; it is drawn'
        elif name == 'folder':
            text = 'nothing; it is your own'
        else:
            text = f'nothing; `python prepare.py {name}` says how to get it'
        rows.append({'NAME': name, 'SIZE': size, 'WHAT IS FETCHED': text})
    rows.append({'NAME': 'weights', 'SIZE': '', 'WHAT IS FETCHED': ', '.join(WEIGHTS)})
    return text_table(rows)


# ----------------------------------------------------------------------------------- data sets


def root_folder(name):
    """Return the folder of the data set: where it lies, or where its archives will be unpacked."""
    entry = dataset.entry()
    try:
        return dataset.locate(entry)
    except UserError:
        folders = [ROOTS[name]] if name in ROOTS else entry.folders
        if name not in SOURCES:
            raise UserError(
                f'{name} is not in DATA_ROOT = {settings.DATA_ROOT!r}, and has no address to fetch '
                f'it from: {entry.get}'
            ) from None
        return os.path.join(settings.DATA_ROOT, folders[0])


def prepare(name):
    """Fetch, unpack and convert a data set, and print what to do next."""
    root = root_folder(name)
    if name == 'nyuv2' and not contains(root, ('images', 'labels40')):
        convert.import_h5py()  # before gigabytes are fetched
    download.provide(name, SOURCES.get(name, ()), root)
    if name in CONVERT:
        CONVERT[name](root)
    incomplete = check.incomplete_splits(name)
    if incomplete:
        print(f'{root} holds only a part ({incomplete}); keep the archives.')
    else:
        print(f'{root} is ready; its archives can be deleted.')
    where = ''
    if settings.DATA_ROOT != './data':
        where = ' ' + as_argument('DATA_ROOT', settings.DATA_ROOT)
    split = next(iter(dataset.entry().splits))
    print(f'Next: python prepare.py {name} --check{where}')
    print(f'then: python train.py DATASET={name}{where} TRAIN_SPLIT={split}, or a recipe')


def cache(splits):
    """Fill the cache of decoded pixels."""
    for data, _, fault in check.splits_there(splits):
        if fault:
            raise UserError(fault)
        for image, _ in data.pairs:
            if os.path.abspath(image).startswith(os.path.abspath(data.cache_dir) + os.sep):
                raise UsageError(
                    f'{image}: your images lie in {data.cache_dir}, where the cache would be; '
                    'rename that folder'
                )
        dataset.cache(data)
        print(
            f'{data.split}: the pixels of {len(data):,} pairs are stored in {data.cache_dir}; '
            'it can be deleted at any time',
            flush=True,
        )


# ------------------------------------------------------------------------------- trunk weights


def weights(name):
    """Put trunk weights into MODEL_DIR/pretrained."""
    if name not in WEIGHTS:
        raise UsageError(
            f'weights {name}: there are {", ".join(WEIGHTS)}{config.nearest(name, WEIGHTS)}'
        )
    folder = os.path.join(settings.MODEL_DIR, 'pretrained')
    if name in PLAIN_STEM:
        url = plain_stem_url(name)
        path = os.path.join(folder, os.path.basename(url))
        words = 'PRETRAINED=torchvision STEM=plain'
    else:
        url = deep_stem_url(name)
        path = os.path.join(folder, DEEP_STEM[name] + '.pth')
        words = as_argument('PRETRAINED', path) + ' STEM=deep'
    digest = path[-12:-4]
    if not os.path.isfile(path):
        if name in PLAIN_STEM:
            download.fetch(url, path, digest)
        else:
            download.fetch_packed(url, path, digest)
    elif not download.digest_fits(path, digest):
        raise UserError(
            f'{path}: its checksum does not begin with {digest}: it is incomplete, or another '
            'file; delete it and try again'
        )
    layers = re.search(r'\d+', name)[0]
    print(f'{path} is there: {words} N_LAYERS={layers}')


# ---------------------------------------------------------------------------------- the script


def main(flags):
    if not flags.inputs:
        print(__doc__)
        print('\n'.join(overview()))
        raise UsageError('name a data set, or weights')
    name, *more = flags.inputs
    check_words(name, more, flags)
    if name == 'weights':
        return weights(more[0])
    root = os.path.expanduser(flags.root or settings.DATA_ROOT)
    config.put({'DATASET': name, 'DATA_ROOT': root})
    if flags.source is not None:
        return tools.convert(root, flags.source)
    splits = [split for split in flags.split.split(',') if split]
    if flags.check:
        check.check(splits)
    if flags.cache:
        cache(splits)
    if not (flags.check or flags.cache):
        prepare(name)


def check_words(name, more, flags):
    """Raise UsageError if the words of the command line do not go together."""
    walks = flags.check or flags.cache
    if flags.source is not None and (name != 'folder' or walks):
        raise UsageError('--from goes with folder, your own data, and without --check and --cache')
    if name not in table.DATASETS and name != 'weights':
        known = [*table.DATASETS, 'weights']
        hint = config.nearest(name, known) or f'; there are {", ".join(known)}'
        raise UsageError(f'{name}: there is no such data set{hint}')
    if name == 'weights' and len(more) != 1:
        raise UsageError(f'name one file after weights: {", ".join(WEIGHTS)}')
    if name != 'weights' and more:
        raise UsageError(f'{more[0]}: one data set at a time')
    if name == 'weights' and (walks or flags.split):
        raise UsageError(
            '--check, --cache and --split go with a data set; prepare.py weights NAME checks the '
            'file where it is there already'
        )
    if flags.split and not walks:
        raise UsageError('--split goes with --check or --cache')
    if name == 'folder' and not walks and flags.source is None:
        raise UsageError(
            'folder is your own data: there is nothing to fetch; --check looks at it, --from '
            'SOURCE converts what an annotation tool wrote'
        )


def parser():
    """Return the parser of the command line."""
    words = script.Parser(__doc__, inputs='NAME', is_report=True)
    words.add_argument('--root', metavar='DIR', help='DATA_ROOT')
    words.add_argument(
        '--split', metavar='NAME', default='', help='of --check and --cache; a,b: two'
    )
    words.add_argument('--check', action='store_true', help='walk what is there and report on it')
    words.add_argument(
        '--from',
        dest='source',
        metavar='SOURCE',
        nargs='?',
        const='',
        help='with folder: the annotation tool; without a name, lists them',
    )
    words.add_argument('--cache', action='store_true', help='store decoded pixels')
    return words


def stop(number, frame):
    """Raise KeyboardInterrupt once: half-written folders are then removed, undisturbed."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    quiet.tell('stopping, cleaning up')
    raise KeyboardInterrupt


if __name__ == '__main__':
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup, or a shell's &, has it
            signal.signal(number, stop)
    script.run(main, parser())
