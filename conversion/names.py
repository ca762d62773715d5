"""Checkpoints of other code bases: how to read them as this project's.

state_dict  what a file holds -> its state dict
network_of  a state dict -> that of the network in it, without what lies around it
rename      names of tensors of any code base -> this project's
"""

import re

import torch

from conversion import gluon, mmseg
from conversion.families import FAMILIES, MMSEG, MXNET, TORCHVISION
from conversion.rules import new_name
from trunks import torchvision_state
from utils.config import UserError
from utils.printable import shown_name

PARTS = {'features.', 'head.'}  # of networks of Gluon, that may be all of a file


def state_dict(file, path):
    """Return the state dict in a checkpoint file, without the prefixes of wrappers."""
    for key in ('net', 'model', 'state_dict') * 2:
        if isinstance(file, dict) and isinstance(file.get(key), dict):
            file = file[key]
    if not isinstance(file, dict) or not any(torch.is_tensor(v) for v in file.values()):
        raise UserError(f'{path}: this file holds no state dict')
    state = {}
    for key, value in file.items():
        if isinstance(key, str) and torch.is_tensor(value):
            name = key.removeprefix('module.').removeprefix('_orig_mod.')
            if name in state:
                raise UserError(
                    f'{path}: this file has {shown_name(name)} twice, with and without a prefix; '
                    'it is not one network'
                )
            state[name] = value
    return unwrapped(state)


def unwrapped(state):
    """Return a state dict without prefixes that all names share, if a family is known then."""
    stripped = state
    while True:
        known = list(marks(stripped))
        prefixes = {key.partition('.')[0] + '.' for key in stripped}
        wrapped = len(prefixes) == 1 and all('.' in key for key in stripped)
        if known == [MXNET]:  # the end of a name marks it, whatever is before it
            wrapped = wrapped and prefixes.isdisjoint(PARTS)
        if not wrapped or (known and known != [MXNET]):
            return stripped if known else state
        n = len(prefixes.pop())
        stripped = {key[n:]: value for key, value in stripped.items()}


def network_of(state, path):
    """Return the state dict of the one network in `state`, and the names that were left out.

    Lightning saves a network under a prefix, next to tensors of its loss and its metrics.
    UserError if there are several networks.
    """
    if marks(state):
        return state, []
    networks = networks_in(state)
    if len(networks) > 1:
        listed = ' and '.join(shown_name(prefix) for prefix in networks)
        raise UserError(
            f'{path}: this file holds {len(networks)} networks, {listed}; save the state dict of '
            'one of them alone'
        )
    for prefix, network in networks.items():
        return network, [key for key in state if not key.startswith(prefix)]
    return state, []


def networks_in(state, prefix='', depth=4):
    """Return {prefix: state dict without it} of the networks of known families in a state dict."""
    known = [name for name in marks(state) if not name.endswith('trunk')]
    if known or not depth:
        return {prefix: state} if known else {}
    parts = {}
    for key, value in state.items():
        first, dot, rest = key.partition('.')
        if rest:
            parts.setdefault(first + dot, {})[rest] = value
    networks = {}
    for first, part in parts.items():
        networks |= networks_in(part, prefix + first, depth - 1)
    return networks


def marks(state):
    """Return {family: the first name that marks it} of the families whose names are in a file."""
    listed = {}
    for name, family in FAMILIES.items():
        marked = [key for key in state if re.match(family.mark, key)]
        ruled_out = family.unless and any(re.match(family.unless, key) for key in state)
        if marked and not ruled_out:
            listed[name] = marked[0]
    return listed


def some_of(state):
    """Return some names of a state dict, for a sentence."""
    return ', '.join(map(shown_name, list(state)[:3])) + ', ...'


def family_of(state, path):
    """Return the family whose names a state dict has."""
    known = marks(state)
    if not known and not any('.' in key for key in state):
        raise UserError(
            f'{path}: the names of its tensors ({some_of(state)}) are flat, or numbers, as MXNet '
            'exports them; they do not tell the network: save it by net.save_parameters(FILE)'
        )
    if not known:
        raise UserError(
            f'{path}: the names of its tensors ({some_of(state)}) belong to no family known here: '
            f'{", ".join(FAMILIES)}'
        )
    if len(known) > 1:
        mixed = ' and '.join(f'{name} ({shown_name(key)})' for name, key in known.items())
        raise UserError(f'{path}: this file mixes families, {mixed}; it is not one network')
    return next(iter(known))


def rename(state, path):
    """Return the family of a state dict, and the state dict with this project's names."""
    family = family_of(state, path)
    if family == TORCHVISION:
        return family, torchvision_state(state)
    if family == MXNET:
        new_names = gluon.new_names(state)
    else:
        rules = mmseg.rules(state) if family == MMSEG else FAMILIES[family].rules
        new_names = {key: new_name(key, rules) for key in state}
    renamed = {}
    for key, value in state.items():
        new = new_names[key]
        if new in renamed:
            raise UserError(
                f'{path}: this file has the tensor {shown_name(new)} of {family} under two names, '
                f'one of them {shown_name(key)}; it is not one network'
            )
        if key not in ('pixel_mean', 'pixel_std'):
            renamed[new] = mmseg.fit(new, value) if family == MMSEG else value
    return family, renamed
