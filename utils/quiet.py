"""Streams that never end a script by breaking, and libraries that do not mutter on them.

Output(stream)      stdout or stderr that may break
Lines(stream)       what a progress bar writes, as lines for a file
tell(words)         a line on stderr at once, from a signal handler, too
decoding()          around a call that decodes a picture or video
ignore_libraries()  Python warnings of other people's modules
"""

import contextlib
import os
import sys
import warnings

from utils.printable import printable

STDERR = [2]  # the last one is the descriptor of stderr
LIBRARIES = 'PIL|cv2|matplotlib|numpy|scipy|tensorboardX|torch|torchvision|tqdm'


class Output:
    """A stream that goes on where it cannot be written: a closed pipe, a full disk, no stream.

    What is printed is lost from then on. Characters that its encoding lacks become escapes.
    plain  True: so do control characters but the end of a line, whoever prints them
    error  why it could not be written, or None
    lost   True if someone would still have read it: `| head` has enough
    """

    def __init__(self, stream, plain=False):
        if stream is None:  # closed before Python started
            stream = open(os.devnull, 'w')  # noqa: SIM115, stays open as long as the script
        with contextlib.suppress(OSError, AttributeError):  # broken already, or no file
            stream.reconfigure(errors='backslashreplace')
        self.stream = stream
        self.plain = plain
        self.error = None
        self.last = '\n'  # character that was written

    @property
    def lost(self):
        return self.error is not None and not isinstance(self.error, BrokenPipeError)

    def write(self, text):
        if self.plain:
            text = printable(text, keep='\n\t')
        self.attempt(self.stream.write, text)
        self.last = text[-1:] or self.last
        return len(text)

    def flush(self):
        self.attempt(self.stream.flush)

    def attempt(self, task, *args):
        try:
            task(*args)
        except OSError as e:
            self.error = self.error or e
            with contextlib.suppress(OSError):  # so that Python can flush what is left in the end
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name):
        return getattr(self.stream, name)


class Lines:
    """A stream for progress bars that is no terminal: a line for each state, no control codes."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        for code in ('\r', '\x1b[A', '\n'):  # to the start, up, down
            text = text.replace(code, '')
        if text.strip():
            self.stream.write(text.rstrip() + '\n')

    def flush(self):
        self.stream.flush()


def tell(words):
    """Print a line on stderr without Python's buffers, which a signal may have interrupted."""
    if sys.__stderr__ is None:  # its descriptor may be another file by now
        return
    if getattr(sys.stderr, 'last', '\n') != '\n':
        words = '\n' + words
    with contextlib.suppress(OSError):
        os.write(STDERR[-1], f'{words}\n'.encode())


@contextlib.contextmanager
def decoding():
    """Keep what decoders write to stderr from the terminal: libpng, libjpeg, libtiff, FFmpeg.

    Their errors are raised or returned all the same.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if sys.__stderr__ is None:  # descriptor 2 may be another file by now
            yield
            return
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        STDERR.append(kept)
        try:
            yield
        finally:
            STDERR.pop()
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def ignore_libraries():
    """Ignore Python warnings of libraries and about parsed recipes, unless python -W asks."""
    if not sys.warnoptions:
        warnings.filterwarnings('ignore', category=SyntaxWarning)
        warnings.filterwarnings('ignore', module=rf'({LIBRARIES})(\.|$)')
