"""Curves of several runs in one picture; the only file that needs matplotlib."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import LogLocator

from utils import fonts
from utils.files import atomic_write


def plot(runs, path):
    """Draw loss and mIoU over the steps, a line per run, into a PNG file.

    runs  objects with .name, and .train and .val: entries of log.jsonl with a loss, with a score
    """
    font, names = fonts.fit(run.name for run in runs)
    names = [legend_name(name) for name in names]
    columns = max(1, 150 // (8 + max(map(len, names))))
    lines = -(-len(runs) // columns)  # of the legend
    figure = Figure((12, 4.5 + 0.22 * lines), 120, layout='constrained')
    left, right = figure.subplots(1, 2, sharex=True)
    for i, run in enumerate(runs):
        draw(left, right, run, i)
    left.set(xlabel='step', ylabel='training loss', yscale='log')
    right.set(xlabel='step', ylabel='validation mIoU in %')
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter('{x:g}')  # 0.2, not a power of ten
    left.yaxis.set_minor_formatter('')
    left.grid(alpha=0.3)
    right.grid(alpha=0.3)
    figure.legend(
        left.lines,
        names,
        loc='outside lower center',
        ncols=columns,
        frameon=False,
        prop=FontProperties(fname=font, size=10),
    )
    with atomic_write(path) as f:
        FigureCanvasAgg(figure).print_png(f)


def legend_name(name):
    """Return a name that matplotlib neither reads as a formula nor hides, as older ones do _x."""
    return ' ' + name.replace('$', r'\$')


def draw(left, right, run, i):
    """Draw the loss of the i-th run into the axes `left`, its mIoU into `right`."""
    look = {
        'color': f'C{i % 10}',
        'linestyle': ('-', '--', ':', '-.')[i // 10 % 4],
        'linewidth': 1.2,
    }
    steps = [entry['step'] for entry in run.train]
    left.plot(steps, [entry['loss'] for entry in run.train], **look)
    steps = [entry['step'] for entry in run.val]
    scores = [100 * entry['val/mIoU'] for entry in run.val]
    right.plot(steps, scores, marker='o', markersize=3, **look)
