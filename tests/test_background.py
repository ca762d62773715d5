"""utils/background.py: calls in threads are all made, bounded, and their errors arrive."""

import threading
import time

import pytest

from utils.background import Background


def test_all_calls_are_made_before_the_block_ends():
    done = []

    def slow(i, j):
        time.sleep(0.001 * (i % 3))
        done.append((i, j))

    with Background(slow) as call:
        for i in range(50):
            call(i, -i)
    assert sorted(done) == [(i, -i) for i in range(50)]


def test_no_more_calls_wait_than_there_is_room_for():
    asked, started, gate = [], [], threading.Event()

    def held(i):
        started.append(i)
        gate.wait(10)

    def ask():
        with Background(held, threads=2, room=3) as call:
            for i in range(6):
                call(i)
                asked.append(i)

    loop = threading.Thread(target=ask)
    loop.start()
    deadline = time.time() + 10
    while (len(asked) < 3 or len(started) < 2) and time.time() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # a fourth would have come by now
    assert asked == [0, 1, 2] and sorted(started) == [0, 1]
    gate.set()
    loop.join(10)
    assert asked == sorted(started) == [0, 1, 2, 3, 4, 5]


def test_the_first_error_is_raised_and_nothing_is_begun_after_it():
    done, broken = [], threading.Event()

    def write(i):
        done.append(i)
        if i == 1:
            broken.set()
            raise OSError(28, 'no room')

    with pytest.raises(OSError, match='no room'), Background(write, threads=1) as call:
        call(0)
        call(1)
        broken.wait(10)
        call(2)
        call(3)
    assert done == [0, 1]


def test_an_error_of_the_last_call_is_raised_at_the_end():
    with pytest.raises(OSError, match='no room'), Background(fail) as call:
        call()


def fail():
    raise OSError(28, 'no room')


def test_an_exception_in_the_block_drops_what_waits():
    gate, done = threading.Event(), []

    def held(i):
        gate.wait(10)
        done.append(i)

    with pytest.raises(KeyError), Background(held, threads=1) as call:
        for i in range(5):
            call(i)
        threading.Timer(0.2, gate.set).start()
        raise KeyError
    assert done == [0]


class Late:
    """A tensor that takes long to come from its device."""

    def cpu(self):
        time.sleep(0.05)
        return self


@pytest.mark.parametrize('arg, seconds, slow', [(Late(), 0.0, False), (1, 0.05, True)])
def test_it_tells_calls_that_are_slow_from_a_device_that_is(arg, seconds, slow):
    with Background(lambda _: time.sleep(seconds)) as call:
        call(arg)
    assert call.slow == slow
