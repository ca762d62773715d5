"""The annotation tools whose files prepare.py folder --from SOURCE reads."""

from preparation import assemble, coco, labelme, labelstudio, levels, masks, text
from utils.config import UsageError, nearest

SOURCES = {  # name: (root) -> assemble.Source, and what it is
    'coco': (coco.read, 'JSON of instances: polygons, run lengths, crowds'),
    'labelme': (labelme.read, 'a JSON file a picture'),
    'cvat': (masks.voc, 'Segmentation mask 1.1: SegmentationClass/ labelmap.txt'),
    'labelstudio': (labelstudio.read, 'JSON, and Brush labels to PNG'),
    'yolo': (text.yolo, 'outlines in labels/*.txt, data.yaml'),
    'voc': (masks.voc, 'colour or palette masks: SegmentationClass/ (labelme2voc.py, too)'),
    'roboflow': (masks.roboflow, 'Semantic Segmentation Masks: _classes.csv'),
    'rle': (text.rle, 'a CSV of run lengths, as on Kaggle'),
    'binary': (levels.binary, 'masks of two levels in any format'),
}


def convert(root, name):
    """Make images/ labels/ classes.txt in a folder from the files of a tool."""
    name = name.lower()
    if name not in SOURCES:
        for source, (_, text_of_source) in SOURCES.items():
            print(f'{source:12} {text_of_source}')
        reason = f'{name!r} is no such source{nearest(name, SOURCES)}' if name else 'name a source'
        raise UsageError(f'--from: {reason}; there are {", ".join(SOURCES)}')
    assemble.convert(root, SOURCES[name][0])
