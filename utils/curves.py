"""Curves of several runs in one picture; the only file that needs matplotlib."""

import math

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import LogLocator

from utils import fonts
from utils.files import atomic_write
from utils.runs import number

EM = {  # see network.EMAU.curves
    'em/entropy': 'entropy of the E step',
    'em/bases_in_use': 'bases in use',
    'em/cosine': 'cosine between bases',
}


def plot(groups, path):
    """Draw loss and mIoU over the steps, and the curves of EM units, into a PNG file.

    groups  objects with .name and .runs; these have .train and .val: entries of log.jsonl with a
            loss, with a score. Several runs are their mean, in a band of the standard deviation
    """
    font, names = fonts.fit(map(title, groups))
    names = [legend_name(name) for name in names]
    columns = max(1, 150 // (8 + max(map(len, names))))
    lines = -(-len(groups) // columns)  # of the legend
    has_unit = any(not EM.keys().isdisjoint(entry) for entry in all_entries(groups))
    height = 8 if has_unit else 4.5
    figure = Figure((12, height + 0.22 * lines), 120, layout='constrained')
    rows = figure.subfigures(2 if has_unit else 1, 1, squeeze=False)
    left, right = rows[0, 0].subplots(1, 2, sharex=True)
    left.set(xlabel='step', ylabel='training loss', yscale='log')
    right.set(xlabel='step', ylabel='validation mIoU in %')
    panels = [(left, 'train', 'loss', 1), (right, 'val', 'val/mIoU', 100)]
    if has_unit:
        for axes, (key, label) in zip(rows[1, 0].subplots(1, 3), EM.items(), strict=True):
            axes.set(xlabel='step', ylabel=label)
            panels.append((axes, 'train', key, 1))
    for panel in panels:
        draw(groups, *panel)
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter('{x:g}')  # 0.2, not a power of ten
    left.yaxis.set_minor_formatter('')
    handles = {line.get_label(): line for line in reversed(left.lines)}
    figure.legend(
        [handles[str(i)] for i in range(len(groups))],
        names,
        loc='outside lower center',
        ncols=columns,
        frameon=False,
        prop=FontProperties(fname=font, size=10),
    )
    with atomic_write(path) as f:
        FigureCanvasAgg(figure).print_png(f)


def title(group):
    """Return what the legend says of a group."""
    n = len(group.runs)
    return group.name if n == 1 else f'{group.name} (mean ± standard deviation of {n})'


def all_entries(groups):
    """Yield the entries of training of all runs."""
    for group in groups:
        for run in group.runs:
            yield from run.train


def legend_name(name):
    """Return a name that matplotlib neither reads as a formula nor hides, as older ones do _x."""
    return ' ' + name.replace('$', r'\$')


def draw(groups, axes, kind, key, scale):
    """Draw a value of entries over the steps, `scale` times, a line per group.

    kind  'train' or 'val', the entries of a run
    """
    for i, group in enumerate(groups):
        look = {
            'color': f'C{i % 10}',
            'linestyle': ('-', '--', ':', '-.')[i // 10 % 4],
            'linewidth': 1.2,
            'label': str(i),
        }
        if kind == 'val':
            look |= {'marker': 'o', 'markersize': 3}
        curves = [curve(getattr(run, kind), key, scale) for run in group.runs]
        steps, means, deviations = average([values for values in curves if values])
        axes.plot(steps, means, **look)
        if deviations is not None:
            band = means - deviations, means + deviations
            axes.fill_between(steps, *band, color=look['color'], alpha=0.2, linewidth=0)
    axes.grid(alpha=0.3)


def curve(entries, key, scale):
    """Return {step: value, `scale` times} of the entries that have one; NaN if it is no number."""
    values = {}
    for entry in entries:
        if key in entry:
            value = number(entry[key])
            values[entry['step']] = math.nan if value is None else scale * value
    return values


def average(curves):
    """Return steps, means and deviations (n - 1) of curves {step: value}, at steps that all have.

    The deviation of a single curve is None.
    """
    steps = []
    if curves:
        steps = [step for step in curves[0] if all(step in values for values in curves)]
    points = np.array([[values[step] for values in curves] for step in steps])  # step run
    if len(curves) < 2 or not steps:
        return steps, points.ravel(), None
    return steps, points.mean(1), points.std(1, ddof=1)
