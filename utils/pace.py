"""What a loop waits for: reading, writing, or, in all other time, its own work."""

import collections
import contextlib
import time


class Pace:
    """Adds up the seconds that a loop waits, by what it waits for."""

    def __init__(self):
        self.restart()

    def restart(self):
        self.began = time.perf_counter()
        self.waited = collections.Counter()

    @property
    def seconds(self):
        """The seconds since the start."""
        return time.perf_counter() - self.began

    @contextlib.contextmanager
    def waiting(self, what):
        """Count the time inside as waiting."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.waited[what] += time.perf_counter() - began

    def reading(self, batches):
        """Yield the batches of a loader; the time until each arrives is that of 'reading'."""
        batches = iter(batches)
        while True:
            with self.waiting('reading'):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def limit(self, work):
        """Return what took most of the time: the name of a wait, or `work`, which is the rest."""
        shares = collections.Counter(self.waited)
        shares[work] += self.seconds - self.waited.total()
        return shares.most_common(1)[0][0]
