"""What an annotation tool left in a folder, by the names and first bytes of its files.

recognise(root)    [(source, file)]: what prepare.py folder --from SOURCE reads, and what shows it
hint(root)         the same as a sentence, or ''
"""

import os
import re
import shlex

from datasets.layouts import IMAGES, find_files, with_endings

IMAGE_FOLDERS = ('images', 'image')  # names that people give them, in any capitals
LABEL_FOLDERS = ('labels', 'masks', 'annotations', 'label', 'mask', 'annotation')
SPLIT_NAMES = {  # other names of the folders of a split
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation'),
    'test': ('test', 'testing'),
}
START = 2**16  # bytes of a JSON that are looked at, and as many at its end
MANY = 200  # files of a folder, and folders in it, that are looked at for a hint
MASKS = ('.jpg', '.jpeg', '.gif')  # endings of masks that are no labels
WHAT = {  # what a file is, in words
    'coco': 'is a COCO file',
    'labelme': 'is a file of labelme',
    'labelstudio': 'is an export of Label Studio',
    'cvat': "is the labelmap of CVAT's segmentation masks",
    'voc': 'holds the masks of PASCAL VOC',
    'yolo': 'describes a data set of YOLO',
    'roboflow': "is the class list of Roboflow's masks",
    'rle': 'holds run lengths, as on Kaggle',
    'binary': 'is a mask, in a format that is no label',
}
RUNS = (  # columns
    'encodedpixels', 'rle', 'rlemask', 'runlengths', 'encoding', 'segmentation', 'annotation',
    'pixels', 'mask',
)  # fmt: skip


def recognise(root):
    """Return [(source, path)] of the tools whose files lie in a folder, at most two levels down."""
    sources = {}
    for path in near_files(root):
        source = source_of(path)
        if source:
            sources.setdefault(source, path)
    if 'cvat' in sources:
        sources.pop('voc', None)
    if not sources:
        places = [(folder, MASKS) for folder in mask_folders(root)]
        beside = with_endings('_mask', MASKS)
        for folder, endings in [*places, (root, beside), (os.path.join(root, 'images'), beside)]:
            masks = find_files(folder, endings)
            if masks:
                sources['binary'] = masks[min(masks)]
    return sorted(sources.items())


def mask_folders(root):
    """Return the folders at `root` that would hold masks, by their names."""
    name = re.compile('masks?(/[^/]+)?|[^/]+/masks?|[^/]+_masks?')
    return sorted(path for key, path in folders_below(root).items() if name.fullmatch(key))


def folders_below(root):
    """Return {name in small letters: path} of the folders in a folder, and of those in them."""
    folders = {}
    for folder in [root, *folders_in(root)]:
        for path in folders_in(folder):
            key = os.path.relpath(path, root).replace(os.sep, '/').lower()
            folders.setdefault(key, path)
    return folders


def folders_in(folder):
    """Return the sorted paths of the folders in a folder; [] if it cannot be read."""
    try:
        with os.scandir(folder) as items:
            return sorted(one.path for one in items if one.is_dir() and one.name[0] != '.')
    except OSError:
        return []


def near_files(root):
    """Return the paths of some files of a folder and of the folders in it, two levels down."""
    paths, folders = [], [(root, 0)]
    while folders:
        folder, depth = folders.pop(0)
        try:
            items = sorted(os.scandir(folder), key=lambda item: item.name)
        except OSError:
            continue
        items = [item for item in items if not item.name.startswith('.')]
        if depth < 2:
            folders += [(item.path, depth + 1) for item in items if item.is_dir()][:MANY]
        others = [item for item in items if not item.name.lower().endswith(IMAGES)]
        paths += [item.path for item in others[:MANY] if item.is_file()]
        paths += [item.path for item in items if item.name.startswith('task-')][:1]
        if os.path.basename(folder).startswith('SegmentationClass'):
            paths.append(folder)
    return paths


def source_of(path):
    """Return the source that a file or folder is of, or None."""
    name = os.path.basename(path)
    if name == 'labelmap.txt':
        return 'cvat'
    if name == '_classes.csv':
        return 'roboflow'
    if name == 'obj.names':
        return 'yolo'
    if name.startswith('SegmentationClass'):
        return 'voc'
    if name.startswith('task-') and '-annotation-' in name:
        return 'labelstudio'
    ending = os.path.splitext(name)[1].lower()
    if ending not in ('.json', '.yaml', '.yml', '.csv'):
        return None
    text = first_text(path)
    if ending == '.json':
        return source_of_json(text + last_text(path))
    if ending == '.csv':
        head = text.split('\n', 1)[0]
        columns = [plain(word) for word in head.split(delimiter(head))]
        has_runs = re.search(r'(^|[,;\t])"?\d+ \d+( \d+ \d+)*"?\s*([,;\t]|$)', text, re.MULTILINE)
        return 'rle' if has_runs and set(columns) & set(RUNS) else None
    is_yolo = any(line.startswith('names:') for line in text.splitlines())
    return 'yolo' if is_yolo else None


def source_of_json(text):
    """Return the source of a JSON file by the first and last of its text, or None."""
    if text.startswith('['):
        is_studio = '"result"' in text or '"brushlabels"' in text or '"file_upload"' in text
        return 'labelstudio' if is_studio else None
    if '"shapes"' in text and ('"flags"' in text or '"imagePath"' in text):
        return 'labelme'
    keys = [key for key in ('"images"', '"annotations"', '"categories"', '"info"') if key in text]
    is_coco = len(keys) > 1 or ('"file_name"' in text and '"image_id"' in text)
    return 'coco' if is_coco else None


def first_text(path):
    try:
        with open(path, 'rb') as f:
            return f.read(START).decode('utf-8-sig', errors='replace').lstrip()
    except OSError:
        return ''


def last_text(path):
    """Return the last START bytes of a file as text, without those that first_text has."""
    try:
        with open(path, 'rb') as f:
            f.seek(max(START, os.path.getsize(path) - START))
            return f.read(START).decode(errors='replace')
    except OSError:
        return ''


def delimiter(head):
    """Return what separates the columns of a CSV file, by its first line."""
    return max(',;\t', key=head.count)


def plain(word):
    """Return the name of a column in small letters, without blanks, quotes and _."""
    return word.strip().strip('"\'').lower().replace('_', '').replace(' ', '')


def hint(root, tried=()):
    """Return what the files of a folder are, and the command that reads them, or ''.

    tried  sources that are not worth a second try
    """
    command = f'python prepare.py folder --root {shlex.quote(root)} --from'
    sentences = []
    for source, path in recognise(root):
        if source in tried:
            continue
        name = os.path.relpath(path, root)
        sentences.append(f'{name} {WHAT[source]}: {command} {source}')
    return '; '.join(sentences)
