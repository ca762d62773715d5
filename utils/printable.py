"""Text from outside, made fit to be printed: names of files and classes, checkpoints, logs."""

import shlex


def printable(text, keep='', most=None):
    r"""Return text whose control characters are written as Python does: \n, \x1b, \u202e.

    They are all that a terminal acts on or does not show: escape codes, line ends, marks that turn
    the direction of writing, bytes of a file name that are no UTF-8.
    keep  characters that stay: '\n' for text of several lines
    most  characters; longer text is cut off
    """
    text = str(text)
    if most and len(text) > most:
        text = text[:most] + '...'
    if text.isprintable():
        return text
    return ''.join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def shell_word(text):
    """Return text as one word of a command line that can be pasted into a shell."""
    return shlex.quote(printable(text))


def shown_name(name):
    """Return the name of a tensor, which may be anything, for a sentence."""
    return printable(name, most=100)
