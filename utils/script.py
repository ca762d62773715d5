"""The command line of a script, and how it ends.

    script.run(main, parser)    every script's last line: put the command line in force, run main
A mistake of the user's is one sentence on stderr and status 1, wrong usage status 2.
"""

import argparse
import os
import signal
import sys

import settings
from utils.config import UsageError, UserError, nearest, override


class Parser(argparse.ArgumentParser):
    """The parser of a script; words that are no flags are settings, or its `inputs`.

    inputs          what these are, for the help; None: it has none
    reads_settings  False: all of the words are inputs
    """

    def __init__(self, description, inputs=None, reads_settings=True):
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.inputs = inputs
        self.reads_settings = reads_settings
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
            if self.is_setting(word):
                flags.settings.append(word)
            else:
                flags.inputs.append(word)
        return flags

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
        return (
            'out of memory; lower BATCH_SIZE (or raise ACCUMULATE, which keeps the batch), '
            'CROP_SIZE or TEST_BATCH, test in windows (TEST_CROP), or use AMP=bf16. '
            'Checkpoints written so far are whole'
        )
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return f'{error.filename}: this is a file, not a folder; move it, or choose another folder'
    if isinstance(error, OSError):
        default = f'a file in LOG_DIR = {settings.LOG_DIR!r} or SAVE_DIR = {settings.SAVE_DIR!r}'
        reason = error.strerror or text.strip().splitlines()[-1]
        return f'{error.filename or default}: {reason}'
    if kind == 'BrokenBarrierError':
        return (
            'a replica of nn.DataParallel failed while the others waited for it, most likely out '
            'of memory; lower BATCH_SIZE, or start with torchrun'
        )
    if 'Expected more than 1 value per channel' in text:
        return (
            'batch norm has a single value per channel to train on: a map of 1x1, as '
            f'HEAD={settings.HEAD} may pool, of one image per device; '
            'raise BATCH_SIZE or CROP_SIZE, or lower ACCUMULATE'
        )
    closed = 'Connection closed by peer', 'Connection reset by peer', 'remote process'
    if any(words in text for words in closed):
        return 'another process failed; its own message says why'
    if 'DataLoader worker' in text and ('killed' in text or 'exited unexpectedly' in text):
        reason = text.splitlines()[0]
        return f'a loader process died ({reason}); lower NUM_WORKERS, or give /dev/shm more room'
    return None


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
        'Insufficient memory',
        'Unable to allocate',
        'MemoryError',
    )
    return any(words in str(error) for words in signs)


def run(main, parser):
    """Put the command line in force, call main(flags) and end the process.

    The status is what main returns, or 0; a mistake of the user's prints one sentence and gives 1,
    or 2 for wrong usage. flags.explicit holds the names that were given as KEY=value.
    """
    script = os.path.basename(sys.argv[0])
    try:
        flags = parser.read(sys.argv[1:])
        flags.explicit = override(flags.settings)
        status = main(flags) or 0
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        status = 128 + signal.SIGINT
    except Exception as error:
        words = sentence(error)
        if words is None:
            raise
        print(f'{script}: {words}', file=sys.stderr)
        status = exit_status(error)
    distributed = sys.modules.get('torch.distributed')
    if status == 0 and distributed and distributed.is_initialized():
        distributed.destroy_process_group()
    sys.exit(status)
