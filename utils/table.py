"""Tables as lines of text, for the terminal, a markdown document or LaTeX."""

import re
import unicodedata

from utils.printable import printable

LONGEST = 1000  # characters of a cell
SPECIAL = re.compile(r'[\\|*`<]|_(?=_)|(?<=_)_')  # | would end a cell, __init__ would be bold
LATEX = {  # what LaTeX acts on, and what its old font encoding has another character for
    '\\': r'\textbackslash{}', '{': r'\{', '}': r'\}', '$': r'\$', '&': r'\&', '#': r'\#',
    '%': r'\%', '_': r'\_', '^': r'\^{}', '~': r'\~{}', '<': r'\textless{}', '>': r'\textgreater{}',
    '|': r'\textbar{}', '"': "''", '`': '{`}', '±': r'$\pm$',
}  # fmt: skip
ACCENTS = '\u0300\u0301\u0302\u0303\u0308\u030a\u0327'  # which that encoding has


def table(rows, markdown=False, right=(), latex=False):
    """Return the lines of a table: the column names, then a line per row.

    rows   dicts {column name: text} with the same keys, at least one; control characters and what
           is beyond LONGEST characters are not shown
    right  names of the columns that are aligned on the right, such as numbers; not in markdown
    latex  a tabular, which needs no package
    """
    names = list(rows[0])
    cells = [[printable(name, most=LONGEST) for name in names]]
    cells += [[printable(row[name], most=LONGEST) for name in names] for row in rows]
    if markdown:
        return markdown_lines(cells)
    if latex:
        return latex_lines(cells, ''.join('r' if name in right else 'l' for name in names))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        padded = []
        for name, text, width in zip(names, line, widths, strict=True):
            padded.append(text.rjust(width) if name in right else text.ljust(width))
        lines.append('  '.join(padded).rstrip())
    return lines


def markdown_lines(cells):
    """Return the lines of a markdown table; cells are lists of text, first the column names."""
    lines = []
    for line in cells:
        escaped = [SPECIAL.sub(r'\\\g<0>', text.strip()) for text in line]
        lines.append(f'| {" | ".join(escaped)} |')
    lines.insert(1, f'| {" | ".join(["---"] * len(cells[0]))} |')
    return lines


def latex_lines(cells, columns):
    """Return the lines of a LaTeX tabular; cells as above, columns such as 'lrr'."""
    lines = [rf'\begin{{tabular}}{{{columns}}}', r'\hline']
    for line in cells:
        lines.append(' & '.join(map(latex, line)) + r' \\')
    lines.insert(3, r'\hline')
    return [*lines, r'\hline', r'\end{tabular}']


def latex(text):
    """Return text for LaTeX; characters that its default fonts lack become \\u escapes."""
    parts = []
    for c in text.strip():
        letter, *accents = unicodedata.normalize('NFD', c)
        known = c < '\u0100' and letter.isascii() and all(a in ACCENTS for a in accents)
        if not known and c not in '±ßøØæÆ':
            c = c.encode('unicode_escape').decode().replace('\\', LATEX['\\'])
        parts.append(LATEX.get(c, c))
    words = re.sub(r"([-'])(?=\1)", r'\1{}', ''.join(parts))  # else a dash, a quotation mark
    if words.startswith(('[', '*')):  # after a line's \\ an option of it
        words = '{}' + words
    return words
