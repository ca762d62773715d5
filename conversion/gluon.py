"""Names of tensors in files of MXNetSeg and GluonCV, which are Gluon's.

new_names  of the tensors of one file
released   settings that its network needs and no tensor tells
The trunks have GluonCV's names, those of its ImageNet files too; the heads list theirs as `mxnet`,
see heads/blocks.py.
"""

import re

from conversion.rules import PLAIN, new_name, trunk_rules
from heads import HEADS

LEAVES = {'gamma': 'weight', 'beta': 'bias', 'alpha': 'weight'}
AUX = {'aux_head.conv1.': 'aux.0.', 'aux_head.conv2.': 'aux.2.'}  # on the trunk's third map
DENSE = {'0': 'norm1', '2': 'conv1', '3': 'norm2', '5': 'conv2'}  # in a layer of DenseNet
TRANSITION = {'0': 'norm', '2': 'conv'}
LINEAR = {  # in a block of MobileNetV2
    '0': '0.0', '1': '0.1', '3': '1.0', '4': '1.1', '6': '2', '7': '3',
}  # fmt: skip
FIRST_LINEAR = LINEAR | {'3': '1', '4': '2'}  # in the first one, which does not expand
BEFORE = {'1': -2, '2': 4, '3': 7, '4': 14}  # blocks of MobileNetV2 before these layers
SEPARABLE = {'conv1': 'depthwise', 'bn': 'depthwise_bn', 'pointwise': 'pointwise'}


# ---------------------------------------------------------------------------------------- trunks


def dense_layer(match):
    block, layer, part = match.groups()
    if match[0].startswith('features'):
        block = int(block) // 2 - 1
    return f'extractor.features.denseblock{block}.denselayer{int(layer) + 1}.{DENSE[part]}.'


def transition(match):
    block, part = match.groups()
    number = int(block) - 1
    if match[0].startswith('features'):
        number = int(block) // 2 - 1
    return f'extractor.features.transition{number}.{TRANSITION[part]}.'


def linear(match):
    *layer, block, part = match.groups()
    number = int(block) - 2
    if layer:
        number = int(block) + BEFORE[layer[0]]
    parts = FIRST_LINEAR if number == 1 else LINEAR
    return f'extractor.features.{number}.conv.{parts[part]}.'


def separable(match):
    block, index, part = match.groups()
    return f'extractor.{block}.units.{int(index) // 3}.{SEPARABLE.get(part, "pointwise_bn")}.'


def middle(match):
    return separable(match).replace('midflow', 'middle')


def exit_flow(match):
    number, part = match.groups()
    return f'extractor.exit.{int(number) - 2}.{SEPARABLE.get(part, "pointwise_bn")}.'


CLASSIFIER = [(r'output\.', 'fc.')]  # of GluonCV's ImageNet files
TRUNKS = [  # (a name that matches this is in files of a trunk, rules); else it is a ResNet
    (
        r'(stem|features\.4\.0\.1)\.0\.',
        [
            (r'(stem|features)\.0\.', 'extractor.features.conv0.'),
            (r'(stem|features)\.1\.', 'extractor.features.norm0.'),
            (r'(?:layer|features\.)(\d+)\.(?:[01]\.)?(\d+)\.1\.([0235])\.', dense_layer),
            (r'(layer4\.2|features\.11)\.', 'extractor.features.norm5.'),
            (r'(?:layer|features\.)(\d+)\.(?:0\.)?([02])\.', transition),
            *CLASSIFIER,
        ],
    ),
    (
        r'(layer1|features)\.3\.out\.',
        [
            (r'(layer1|features)\.([01])\.', r'extractor.features.0.\2.'),
            (r'features\.2([01])\.', r'fc.\1.'),
            (r'layer(\d)\.(\d+)\.out\.(\d)\.', linear),
            (r'features\.(\d+)\.out\.(\d)\.', linear),
            *CLASSIFIER,
        ],
    ),
    (
        r'layer1\.0\.residual\.',
        [
            (r'conv\.', 'extractor.stem.'),
            (r'layer(\d)\.(\d+)\.down\.', r'extractor.layer\1.\2.shortcut.'),
            (r'layer(\d)\.(\d+)\.residual\.', r'extractor.layer\1.\2.units.'),
        ],
    ),
    (
        r'block20\.',
        [
            (r'conv([12])\.', r'extractor.conv\1.conv.'),
            (r'bn([12])\.', r'extractor.conv\1.bn.'),
            (r'(block\d+)\.skip\.', r'extractor.\1.shortcut.conv.'),
            (r'(block\d+)\.skipbn\.', r'extractor.\1.shortcut.bn.'),
            (r'(block\d+)\.rep\.(\d)\.(conv1|bn|pointwise)?\.?', separable),
            (r'(midflow\.\d+)\.rep\.(\d)\.(conv1|bn|pointwise)?\.?', middle),
            (r'conv([345])\.(conv1|bn|pointwise)\.', exit_flow),
            (r'bn([345])()\.', exit_flow),
            *CLASSIFIER,
        ],
    ),
    (
        r'layer1\.0\.pyramid\.',
        [
            (r'(conv|bn)\.', r'extractor.stem.\1.'),
            (r'act\.act\.', 'extractor.stem.relu.'),
            (
                r'(layer\d\.\d)\.pyramid\.concurrent\.(\d)\.act\.act\.',
                r'extractor.\1.branches.\2.relu.',
            ),
            (r'(layer\d\.\d)\.pyramid\.concurrent\.(\d)\.', r'extractor.\1.branches.\2.'),
            (r'(layer\d\.\d)\.pyramid\.conv1x1\.act\.act\.', r'extractor.\1.squeeze.relu.'),
            (r'(layer\d\.\d)\.pyramid\.conv1x1\.', r'extractor.\1.squeeze.'),
            (r'(layer\d\.\d)\.skip\.', r'extractor.\1.shortcut.conv.'),
            (r'(layer\d\.\d)\.skip_bn\.', r'extractor.\1.shortcut.bn.'),
            (r'(layer\d\.\d)\.act\.act\.', r'extractor.\1.act.'),
            (r'(layer\d\.\d)\.', r'extractor.\1.'),
        ],
    ),
]


def trunk(names):
    """Return the rules for the trunk whose tensors have these names."""
    for sign, rules in TRUNKS:
        if any(re.match(sign, name) for name in names):
            return rules
    return trunk_rules('')


# ----------------------------------------------------------------------------------------- heads


def entry(name, table):
    """Return the longest beginning of a name in a table, or ''."""
    return max((there for there in table if name.startswith(there)), key=len, default='')


def misfit(names, table):
    """Return how many names a table lacks, how many entries have none, and how vague they are."""
    used = [entry(name, table) for name in names]
    return used.count(''), len(set(table) - set(used)), -sum(map(len, used))


def table_of(names):
    """Return the table of the head whose tensors have these names: the one that fits best."""
    names = [name for name in names if name.startswith(('head.', 'aux_head.'))]
    tables = [AUX | head.mxnet for head in HEADS.values() if head.mxnet]
    misfits = [misfit(names, table) for table in tables]
    return tables[misfits.index(min(misfits))]


def new_names(names):
    """Return {name in a file: name here}."""
    rules, table = trunk(names), table_of(names)
    renamed = {}
    for name in names:
        there = entry(name, table)
        new = new_name(name, rules)
        if there:
            new = table[there] + name.removeprefix(there)
        stem, dot, leaf = new.rpartition('.')
        if name != there:  # a whole name stays as the table has it: gamma of DANet
            new = stem + dot + LEAVES.get(leaf, leaf)
        renamed[name] = new
    return renamed


def released(head, n_layers):
    """Return the settings that networks of MXNetSeg with this head need and no tensor tells."""
    values = dict(PLAIN)
    if n_layers in (18, 34):
        values['FIRST_BLOCK'] = 'split'
    if head in HEADS:
        values |= HEADS[head].mxnet_settings
    return values
