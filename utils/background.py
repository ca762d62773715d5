"""Calls that run in threads, behind the loop that asks for them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

THREADS = 4
ROOM = 16  # calls that wait or run


class Background:
    """Calls a function in threads, which pays where that lets other threads run, as encoding does.

        with Background(write) as call:
            call(1, tensor)  # write(1, tensor on the CPU) runs while the loop goes on

    Tensors come from their device in the thread, so that the loop need not wait for it. When `room`
    calls wait or run the next one waits, so that memory stays bounded. The first error of a call is
    raised by a later one, or by leaving the block, which waits for all of them. Where the block is
    left by an exception, calls that did not begin are dropped. `slow` tells whether the calls take
    longer than their tensors are waited for.
    """

    def __init__(self, function, threads=THREADS, room=ROOM):
        self.function = function
        self.pool = ThreadPoolExecutor(threads)
        self.slots = threading.Semaphore(room)
        self.error = None
        self.waited = self.worked = 0.0  # seconds, about: threads may count at once

    def __enter__(self):
        return self

    def __call__(self, *args):
        self.slots.acquire()
        if self.error:
            self.slots.release()
            raise self.error
        self.pool.submit(self.run, args)

    def run(self, args):
        try:
            if not self.error:
                began = time.perf_counter()
                args = [arg.cpu() if hasattr(arg, 'cpu') else arg for arg in args]
                arrived = time.perf_counter()
                self.function(*args)
                self.waited += arrived - began
                self.worked += time.perf_counter() - arrived
        except Exception as e:
            self.error = self.error or e
        finally:
            self.slots.release()

    @property
    def slow(self):
        return self.worked >= self.waited

    def __exit__(self, kind, error, trace):
        self.pool.shutdown(cancel_futures=kind is not None)
        if self.error and kind is None:
            raise self.error
