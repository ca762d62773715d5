"""Rules that turn names of tensors into this project's: (pattern, replacement) each.

The first rule whose pattern begins a name counts. A replacement is text, or a function of the
match.
"""

import re

PLAIN = {
    'STRIDE': 8,
    'MULTI_GRID': (1, 1, 1),
    'FIRST_BLOCK': 'half',
    'UPSAMPLE': 'corners',
    'CHANNELS': 'rgb',
    'MEAN': (0.485, 0.456, 0.406),
    'STD': (0.229, 0.224, 0.225),
}


def new_name(key, rules):
    """Return the name that rules make of the name of a tensor."""
    for pattern, new in rules:
        match = re.match(pattern, key)
        if match:
            new = new(match) if callable(new) else match.expand(new)
            return new + key[match.end() :]
    return key


def trunk_rules(prefix):
    """Return rules for a trunk with torchvision's names, under a prefix."""
    rules = [(prefix + r'conv1\.', 'extractor.0.'), (prefix + r'bn1\.', 'extractor.1.')]
    for i in (1, 2, 3, 4):
        rules.append((prefix + rf'layer{i}\.', f'extractor.{i + 3}.'))
    return rules


def stem_rules(prefix):
    """Return rules for the stem of mmsegmentation's ResNetV1c, under a prefix."""
    return [(prefix + r'stem\.7\.', 'extractor.1.'), (prefix + r'stem\.', 'extractor.0.')]


def detectron2_trunk_rules():
    """Return rules for a trunk with detectron2's own names."""
    rules = [
        (r'backbone\.stem\.conv1\.norm\.', 'extractor.1.'),
        (r'backbone\.stem\.conv1\.', 'extractor.0.'),
    ]
    parts = [
        (r'conv(\d)\.norm', r'bn\2'),
        (r'conv(\d)', r'conv\2'),
        (r'shortcut\.norm', 'downsample.1'),
        ('shortcut', 'downsample.0'),
    ]
    for i in (2, 3, 4, 5):
        for there, here in parts:
            rules.append((rf'backbone\.res{i}\.(\d+)\.{there}\.', rf'extractor.{i + 2}.\1.{here}.'))
    return rules


def pair(there, here):
    """Return rules for a convolution and its batch norm, at 0 and 1 of a Sequential."""
    return [(there + r'\.0\.', here + '.conv.'), (there + r'\.1\.', here + '.bn.')]


def fcn_rules(there, here):
    """Return rules for a 3x3 with batch norm, dropout and classifier in one Sequential."""
    return [*pair(there, here + '.0'), (there + r'\.4\.', here + '.2.')]
