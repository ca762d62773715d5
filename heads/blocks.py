"""What all heads share: the base class Head, the convolution block, the error for bad settings."""

import contextlib
import copy
import difflib
import inspect
import math
from types import UnionType
from typing import Literal, Union, get_args, get_origin

import torch
from torch import nn

PORTION = 512  # channels that WideConv2d takes at once
LARGEST = 100_000  # number in HEAD_ARGS: a larger one is a slip of the keyboard


class SettingsError(ValueError):
    """Settings that do not go together, or do not suit an image: one sentence for the user."""


class WideConv2d(nn.Conv2d):
    """A convolution that in bf16 on a CPU takes its input channels in portions.

    At once, 2048 channels under a 3x3 kernel cost 1.2 times as much, and with a dilation 2 to 16
    times (PyTorch 2.14 on a CPU with AMX; without AMX portions cost 1.04 times as much). The
    result of a portion is rounded to bf16, their sum is in float32.
    """

    def forward(self, x):
        is_wide = self.in_channels > PORTION and self.kernel_size != (1, 1) and self.groups == 1
        if not is_wide or x.device.type != 'cpu' or x.dtype != torch.bfloat16:
            return super().forward(x)
        pairs = zip(x.split(PORTION, 1), self.weight.split(PORTION, 1), strict=True)
        portions = (self._conv_forward(part, weight, None).float() for part, weight in pairs)
        out = next(portions)
        for portion in portions:
            out += portion
        if self.bias is not None:
            out += self.bias[:, None, None]
        return out.to(x.dtype)


class ConvBNReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU: (b, c_in, h, w) -> (b, c_out, h', w').

    At stride 1 the size stays the same. `norm` makes a batch norm from a number of channels.
    """

    def __init__(self, c_in, c_out, kernel, norm, stride=1, dilation=1, groups=1):
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = WideConv2d(c_in, c_out, kernel, stride, padding, dilation, groups, bias=False)
        self.bn = norm(c_out)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)))


def full_precision(x):
    """Return a context without autocast. (A file of torch.export cannot hold one needlessly.)"""
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()


def group_norm(c):
    """Return a group norm of c channels in 32 groups, or fewer, as divide c.

    Below 64 channels a group has at least 4 of them: maps pooled to 1x1 would be nothing but signs.
    """
    most = 32 if c >= 64 else max(c // 4, 1)
    groups = next(n for n in range(most, 0, -1) if c % n == 0)
    return nn.GroupNorm(groups, c)


def take_channels(module, n):
    """Give the first convolution on images of 3 channels n of them; return the module.

    Its weights are drawn anew, so large that its outputs are as large as before.
    """
    if n == 3:
        return module
    for parent in module.modules():
        for name, old in parent.named_children():
            if isinstance(old, nn.Conv2d) and old.in_channels == 3:
                new = copy.deepcopy(old)
                new.in_channels = n
                shape = len(old.weight), n, *old.kernel_size
                scale = old.weight.detach().std() * math.sqrt(3 / n)
                new.weight = nn.Parameter(scale * torch.randn(shape))
                setattr(parent, name, new)
                return module
    return module


class Head(nn.Module):
    """What turns the trunk's maps into logits; base class.

    A head is made as Head(widths, n_classes, *, channels, dropout, norm, ...):
        widths    channels of the trunk's maps c1..c4
        channels  HEAD_CHANNELS
        dropout   DROPOUT, the probability of dropping a channel before the classifier
        norm      number of channels -> batch norm
    Arguments after these are its own. HEAD_ARGS gives them and is checked against their
    annotations: int, float, bool, str, tuple[int, ...], Literal and unions of these.

    forward(c1, c2, c3, c4) returns {'out': logits (b, n, h', w')}, and in training also 'aux', a
    list of further logits that are supervised. Subclasses override the attributes below.
    """

    aux_weights = ()  # weights of the losses of its 'aux' outputs, in order
    main_weight = 1.0  # weight of the loss of 'out'
    strides = (8, 16, 32)  # of the trunk that it works with
    layers = (10, 18, 34, 50, 101, 152)  # of the ResNet that it works with
    reads_c1 = False  # as a map of stride 4, which not every trunk has
    # forward also gets image=(b, 3, h, w), normalised, and trunk: image -> [c1, c2, c3, c4]
    sees_image = False
    image_path = ''  # the module, if any, whose first convolution reads the image itself
    # beginning of the name, after 'head.', of a tensor that files of this head have, and none of a
    # later one in heads.HEADS; so files without settings are known
    mark = ''
    # {beginning of a tensor's name in MXNetSeg's files: its beginning here}; the longest counts.
    # The leaves gamma, beta and alpha, and the trunk, are translated in conversion/gluon.py
    mxnet = {}
    mxnet_settings = {}  # settings that those files need, HEAD_ARGS among them, and no tensor tells
    signs = {}  # {name of a tensor, after 'head.': the arguments of files that have it}

    @classmethod
    def told(cls, shapes):
        """Return those of its own arguments that the tensors {name: shape} of a file tell."""
        told = {}
        for name, arguments in cls.signs.items():
            if 'head.' + name in shapes:
                told |= arguments
        has_aux = any(name.startswith('head.aux.') for name in shapes)
        if 'aux' in cls.arguments() and not has_aux:
            told['aux'] = False
        return told

    @classmethod
    def arguments(cls):
        """Return {name: annotation} of its own arguments, which HEAD_ARGS may give."""
        common = ('self', 'widths', 'n_classes', 'channels', 'dropout', 'norm')
        parameters = inspect.signature(cls.__init__).parameters
        return {name: p.annotation for name, p in parameters.items() if name not in common}

    @classmethod
    def differing(cls, values, others):
        """Return those of its arguments `values` that `others`, or by default it, has otherwise."""
        parameters = inspect.signature(cls.__init__).parameters
        return {k: v for k, v in values.items() if others.get(k, parameters[k].default) != v}

    @classmethod
    def defaults(cls, settings):
        """Return those of its own arguments that follow from other settings, {name: value}."""
        return {}


def accepts(kind, value):
    """Tell whether `value` is of an annotated kind; without annotation any is."""
    origin, members = get_origin(kind), get_args(kind)
    if kind is inspect.Parameter.empty:
        return True
    if origin in (Union, UnionType):
        return any(accepts(member, value) for member in members)
    if origin is Literal:
        return value in members
    if origin is tuple:
        if not isinstance(value, (tuple, list)) or not value:
            return False
        any_length = members[-1] is Ellipsis
        if not any_length and len(value) != len(members):
            return False
        return all(accepts(members[0], entry) for entry in value)
    if kind is int:
        return type(value) is int and 1 <= value <= LARGEST
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def check_arguments(head, values, arguments):
    """Raise SettingsError unless HEAD_ARGS = values suit the `arguments` of HEAD=head."""
    for name, value in values.items():
        if name not in arguments:
            listed = ', '.join(arguments) or 'none'
            raise SettingsError(f'HEAD_ARGS: HEAD={head} has no argument {name!r}; it has {listed}')
        if not accepts(arguments[name], value):
            kind = inspect.formatannotation(arguments[name]).replace('typing.', '')
            if 'int' in kind:
                kind += f', with numbers of 1 to {LARGEST}'
            raise SettingsError(
                f'HEAD_ARGS={ {name: value} } is not valid; HEAD={head} expects {name} to be {kind}'
            )


def nearest(word, words):
    """Return '; did you mean ...?' for error messages, or ''."""
    near = difflib.get_close_matches(str(word), words, 1, 0.5)
    if near:
        return f'; did you mean {near[0]}?'
    return ''
