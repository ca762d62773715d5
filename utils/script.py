"""The command line of a script, and how it ends.

    script.run(main, parser)    every script's last line: put the command line in force, run main
A mistake of the user's is one sentence on stderr and status 1, wrong usage status 2.
"""

import argparse
import contextlib
import os
import signal
import sys

import settings
from utils import quiet
from utils.config import UsageError, UserError, is_argument, nearest, override
from utils.printable import printable

MEMORY = {  # what a script can do where memory runs out
    'train.py': 'lower BATCH_SIZE (or raise ACCUMULATE, which keeps the batch), CROP_SIZE or '
    'TEST_BATCH, test in windows (TEST_CROP), or use AMP=bf16. '
    'Checkpoints written so far are whole',
    'eval.py': 'lower TEST_BATCH, test in windows (TEST_CROP), or use AMP=bf16',
    'predict.py': 'lower TEST_BATCH, predict in windows (TEST_CROP), or make the pictures smaller',
    'prepare.py': 'lower NUM_WORKERS',
    'compare.py': 'name fewer runs',
}
FILES = 'too many open files; raise the limit (ulimit -n 4096), or lower NUM_WORKERS'
SHARED = (
    'loader processes have no room for their pictures in shared memory; lower NUM_WORKERS '
    '(0 needs none), or give /dev/shm more room (docker: --shm-size=8g)'
)
REASONS = {  # words in an error's text, and what it means
    'Too many open files': FILES,
    'received 0 items of ancdata': FILES,
    'shared memory(shm)': SHARED,
    'shared memory object': SHARED,
    'out of shared memory': SHARED,
    'write to file </torch_': SHARED,
}
PEER = 'Connection closed by peer', 'Connection reset by peer', 'remote process'


class Parser(argparse.ArgumentParser):
    """The parser of a script; words that are no flags are settings, or its `inputs`.

    inputs          what these are, for the help; None: it has none
    reads_settings  False: all of the words are inputs
    is_report       what it prints is its product: the script has failed if that is lost
    """

    def __init__(self, description, inputs=None, reads_settings=True, is_report=False):
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.inputs = inputs
        self.reads_settings = reads_settings
        self.is_report = is_report
        kinds = [inputs] if inputs else []
        if reads_settings:
            self.epilog = 'Settings are recipe files and KEY=value; settings.py lists them.'
            kinds += ['recipe.py', 'KEY=value']
        self.add_argument('words', nargs='*', metavar=' | '.join(kinds))

    def read(self, words):
        """Return the flags of a command line; .settings and .inputs hold its other words."""
        flags = self.parse_intermixed_args(words)
        flags.settings, flags.inputs = [], []
        for word in flags.words:
            self.check(word)
            if self.is_setting(word):
                flags.settings.append(word)
            else:
                flags.inputs.append(os.path.expanduser(word))
        return flags

    def check(self, word):
        """Raise UsageError for a checkpoint or a number where a setting is meant."""
        if not self.reads_settings or is_argument(word):
            return
        if word.endswith('.pth'):
            raise UsageError(f'{word}: a checkpoint is named by a setting: CHECKPOINT={word}')
        if word.isdecimal() and not self.inputs:
            raise UsageError(
                f'{word}: expected recipe.py or KEY=value, such as CROP_SIZE={word}; '
                'settings.py lists the settings'
            )

    def is_setting(self, word):
        """Tell whether a word is a recipe or KEY=value, not an input."""
        if not self.inputs or not self.reads_settings:
            return self.reads_settings
        name, equals, _ = word.partition('=')
        return word.endswith('.py') or (equals and name.isupper() and name.isidentifier())

    def error(self, message):
        unknown = message.partition('unrecognized arguments: ')[2]
        if unknown:
            word = unknown.split()[0]
            flags = [flag for flag in self._option_string_actions if flag.startswith('--')]
            hint = nearest(word.partition('=')[0], flags) or f'; there are {", ".join(flags)}'
            message = f'{word}: there is no such flag{hint}'
        raise UsageError(message)


def sentence(error):
    """Return what to tell the user about an exception, or None if it is not the user's mistake.

    Errors of modules that are not imported here are known by the names of their types.
    """
    text, kind = str(error), type(error).__name__
    if isinstance(error, UserError) or kind == 'SettingsError':
        return text.rsplit(f'{kind}: ', 1)[-1].strip()  # loader processes wrap it in a traceback
    if isinstance(error, AttributeError) and error.obj is settings:
        return f'settings.py has no line {error.name} = ...; take it from the original settings.py'
    if is_out_of_memory(error):
        return f'out of memory; {MEMORY.get(name(), "lower BATCH_SIZE, CROP_SIZE or TEST_BATCH")}'
    for words, reason in REASONS.items():
        if words in text:
            return reason
    if isinstance(error, OSError):
        return system_sentence(error)
    if kind == 'BrokenBarrierError':
        return (
            'a replica of nn.DataParallel failed while the others waited for it, most likely out '
            'of memory; lower BATCH_SIZE, or start with torchrun'
        )
    if 'Expected more than 1 value per channel' in text and settings.NORM == 'group':
        return (
            f'group norm has a single value per group: a map of 1x1, as HEAD={settings.HEAD} may '
            'pool, of very few channels; use NORM=batch, or a wider head'
        )
    if 'Expected more than 1 value per channel' in text:
        return (
            'batch norm has a single value per channel to train on: a map of 1x1, as '
            f'HEAD={settings.HEAD} may pool, of one image per device; '
            'raise BATCH_SIZE or CROP_SIZE, or lower ACCUMULATE'
        )
    if any(words in text for words in PEER):
        return 'another process failed; its own message says why'
    if 'DataLoader worker' in text and ('killed' in text or 'exited unexpectedly' in text):
        reason = text.splitlines()[0]
        return f'a loader process died ({reason}); lower NUM_WORKERS, or give /dev/shm more room'
    return None


def system_sentence(error):
    """Return what to tell the user about an OSError."""
    if error.filename is not None:
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            return (
                f'{error.filename}: this is a file, not a folder; move it, or choose another folder'
            )
        return f'{error.filename}: {error.strerror}'
    # one of a loader process is wrapped in a traceback
    last_line = (error.strerror or str(error)).strip().splitlines() or [type(error).__name__]
    return last_line[-1].removeprefix(f'{type(error).__name__}: ')


def exit_status(error):
    """Return the exit status of a script that ends by this exception."""
    if type(error).__name__ == 'SettingsError':
        return UsageError.code
    if isinstance(error, UserError):
        return error.code
    return 1


def is_out_of_memory(error):
    """Tell whether an exception of torch, OpenCV, numpy or a loader means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError':
        return True
    signs = (
        "can't allocate memory",
        'Cannot allocate memory',
        'Insufficient memory',
        'Unable to allocate',
        'MemoryError',
    )
    return any(words in str(error) for words in signs)


def name():
    """Return the name of the script that runs."""
    return os.path.basename(sys.argv[0])


def complain(words, named=True):
    """Print a sentence on stderr on a line of its own, by default named after the script."""
    text = printable(words)
    if named:
        text = f'{name()}: {text}'
    if getattr(sys.stderr, 'last', '\n') != '\n' and not sys.stderr.isatty():
        text = '\n' + text  # a bar's line cannot be cleared in a file
    for bar in open_bars():
        bar.clear()
    print(text, file=sys.stderr, flush=True)


def open_bars():
    """Return the progress bars that are open."""
    tqdm = sys.modules.get('tqdm')
    return list(tqdm.tqdm._instances) if tqdm else []


def close_bars():
    """Close progress bars, each of which ends its line."""
    for bar in open_bars():
        bar.leave = True
        bar.close()


def run(main, parser):
    """Put the command line in force, call main(flags) and end the process.

    The status is what main returns, or 0; a mistake of the user's prints one sentence and gives 1,
    or 2 for wrong usage. flags.explicit holds the names that config.override() returned.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # while the script was imported
        signal.signal(signal.SIGINT, signal.default_int_handler)
    out, err = quiet.Output(sys.stdout, plain=True), quiet.Output(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        quiet.ignore_libraries()
        status = attempt(main, parser)
        out.flush()
        if out.lost:
            complain(f'stdout: {out.error.strerror}; what is printed is lost, files are whole')
            status = status or int(parser.is_report)
        err.flush()
    distributed = sys.modules.get('torch.distributed')
    if status == 0 and distributed and distributed.is_initialized():
        distributed.destroy_process_group()
    sys.exit(status)


def attempt(main, parser):
    """Return the exit status of main(flags); a mistake of the user's prints one sentence."""
    try:
        flags = parser.read(sys.argv[1:])
        flags.explicit = override(flags.settings)
        return main(flags) or 0
    except KeyboardInterrupt:
        close_bars()
        complain('stopped', named=False)
        return 128 + signal.SIGINT
    except Exception as error:
        words = sentence(error)
        close_bars()
        if words is None:
            raise
        complain(words)
        return exit_status(error)
