"""Tables as lines of text, for the terminal or for a markdown document."""

import re

from utils.printable import printable

LONGEST = 1000  # characters of a cell
SPECIAL = re.compile(r'[\\|*`<]|_(?=_)|(?<=_)_')  # | would end a cell, __init__ would be bold


def table(rows, markdown=False, right=()):
    """Return the lines of a table: the column names, then a line per row.

    rows   dicts {column name: text} with the same keys, at least one; control characters and what
           is beyond LONGEST characters are not shown
    right  names of the columns that are aligned on the right, such as numbers; not in markdown
    """
    names = list(rows[0])
    cells = [[printable(name, most=LONGEST) for name in names]]
    cells += [[printable(row[name], most=LONGEST) for name in names] for row in rows]
    if markdown:
        return markdown_lines(cells)
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
