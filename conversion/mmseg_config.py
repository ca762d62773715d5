"""What the configuration in a file of mmsegmentation tells of its network, in settings.

The file keeps it as text, as Python. It is read, not run. Variants of one network have the same
tensors: what the configuration says and no network here computes is an error, not a guess.
"""

import ast

from conversion.rules import PLAIN
from utils.config import UserError
from utils.kept import shown

LONGEST = 2**20  # characters of a configuration
PLANS = (  # strides and dilations of the four layers, STRIDE
    ((1, 2, 1, 1), (1, 1, 2, 4), 8),
    ((1, 2, 2, 1), (1, 1, 1, 2), 16),
    ((1, 2, 2, 2), (1, 1, 1, 1), 32),
)
EXPECTED = {  # arguments of heads that no tensor tells: the only value that is here
    'dilation': 1,
    'mode': 'embedded_gaussian',
    'use_scale': True,
}
PSA = {  # arguments of its head: those of PSA here
    'compact': 'compact',
    'shrink_factor': 'shrink',
    'normalization_factor': 'factor',
    'psa_softmax': 'softmax',
}


def conventions(meta, path):
    """Return settings that the notes `meta` in a file tell; UserError if they are not here.

    Its HEAD_ARGS may hold `corners`, which not all heads have.
    """
    text = None
    if isinstance(meta, dict):
        text = meta.get('config') or meta.get('cfg')
    if not isinstance(text, str) or len(text) > LONGEST:
        return {}
    values = parsed(text)
    model = values.get('model')
    model = model if isinstance(model, dict) else values
    notes = {'HEAD_ARGS': {}}
    for part, read in (('backbone', trunk), ('decode_head', head)):
        if isinstance(model.get(part), dict):
            notes |= read(model[part], path)
    for there in (values.get('img_norm_cfg'), model.get('data_preprocessor')):
        if isinstance(there, dict):
            notes |= images(there)
    return notes


def parsed(text):
    """Return the values {name: value} of a configuration; {} if it cannot be read."""
    values = {}
    try:
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                values[statement.targets[0].id] = value_of(statement.value)
            elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Dict):
                values |= value_of(statement.value)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return values


def value_of(node):
    """Return the value of an expression of dicts, dict(...), sequences, numbers and texts."""
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict':
        return {keyword.arg: value_of(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        keys = [getattr(key, 'value', None) for key in node.keys]
        return dict(zip(keys, map(value_of, node.values), strict=True))
    if isinstance(node, (ast.List, ast.Tuple)):
        return tuple(map(value_of, node.elts))
    try:
        return ast.literal_eval(node)
    except ValueError:  # a name, a call
        return None


def refused(path, name, value):
    """Return the UserError about a value of a configuration that no network here has."""
    return UserError(
        f'{path}: its configuration has {name}={shown(value)}, which no network here has; '
        'use mmsegmentation for it'
    )


def trunk(values, path):
    """Return STRIDE, MULTI_GRID, FIRST_BLOCK and STEM of a trunk, as far as they are told."""
    strides = values.get('strides', (1, 2, 2, 2))
    dilations = values.get('dilations', (1, 1, 1, 1))
    stride = None
    for expected_strides, expected_dilations, number in PLANS:
        if (strides, dilations) == (expected_strides, expected_dilations):
            stride = number
    if stride is None:
        raise refused(path, 'strides', (strides, dilations))
    notes = {'STRIDE': stride}
    if values.get('style') == 'caffe':
        notes['STEM'] = 'caffe'
    contracted = values.get('contract_dilation') is True
    if stride < 32 and not contracted:
        if values.get('depth') in (18, 34):
            raise refused(path, 'contract_dilation', False)
        notes['FIRST_BLOCK'] = 'all'
    grid = values.get('multi_grid')
    if grid:
        if (stride == 8 and not contracted) or values.get('depth') in (18, 34):
            raise refused(path, 'multi_grid', grid)
        notes |= {'MULTI_GRID': factors(grid, dilations[3], path), 'FIRST_BLOCK': 'half'}
    return notes


def factors(grid, dilation, path):
    """Return MULTI_GRID for `grid`, which there are the dilations of layer4's blocks themselves.

    dilation  of the layer, of which the first block has half
    """
    whole = isinstance(grid, tuple) and len(grid) == 3 and all(type(n) is int for n in grid)
    if not whole or 2 * grid[0] != dilation or any(n < 1 or n % dilation for n in grid[1:]):
        raise refused(path, 'multi_grid', grid)
    return 1, grid[1] // dilation, grid[2] // dilation


def head(values, path):
    """Return settings and HEAD_ARGS of a head, as far as they are told."""
    for name, expected in EXPECTED.items():
        if values.get(name, expected) != expected:
            raise refused(path, name, values[name])
    args, notes = {}, {}
    if values.get('align_corners') is True:
        args['corners'], notes['UPSAMPLE'] = True, 'corners'
    rates = values.get('dilations')
    if rates is not None:
        if not isinstance(rates, tuple) or len(rates) != 4 or rates[0] != 1:
            raise refused(path, 'dilations', rates)
        args['rates'] = rates[1:]
    if values.get('type') == 'PSPHead' and isinstance(values.get('pool_scales'), tuple):
        args['bins'] = values['pool_scales']
    if values.get('type') == 'PSAHead':
        args |= {PSA[name]: values[name] for name in PSA if name in values}
    if values.get('type') == 'EMAHead' and type(values.get('num_stages')) is int:
        notes['STAGE_NUM'] = values['num_stages']
    return notes | {'HEAD_ARGS': args}


def images(values):
    """Return MEAN, STD and CHANNELS where images are normalised in another way than usual."""
    notes = {}
    rgb = values.get('to_rgb', values.get('bgr_to_rgb', True)) is not False
    for there, here in (('mean', 'MEAN'), ('std', 'STD')):
        numbers = values.get(there)
        if not isinstance(numbers, tuple) or len(numbers) != 3:
            continue
        if not all(isinstance(n, (int, float)) for n in numbers):
            continue
        numbers = tuple(n / 255 for n in (numbers if rgb else numbers[::-1]))
        if any(abs(n - usual) > 1e-4 for n, usual in zip(numbers, PLAIN[here], strict=True)):
            notes[here] = numbers
    if not rgb:
        notes['CHANNELS'] = 'bgr'
    return notes
