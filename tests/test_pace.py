"""utils/pace.py, and what a run says of it: which of reading, network and writing is the limit."""

import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import put

from utils import logger
from utils.distributed import World
from utils.pace import Pace


def test_waits_are_added_up_and_the_largest_share_is_the_limit():
    pace = Pace()
    assert list(pace.reading(slow(3, 0.02))) == [0, 1, 2]
    assert 0.06 <= pace.waited['reading'] <= pace.seconds
    assert pace.limit('network') == 'reading'
    with pace.waiting('writing'):
        time.sleep(0.2)
    assert pace.limit('network') == 'writing'
    pace.restart()
    time.sleep(0.02)
    assert pace.limit('network') == 'network'


def slow(count, seconds):
    for i in range(count):
        time.sleep(seconds)
        yield i


def test_an_error_while_waiting_counts_too():
    pace = Pace()
    with pytest.raises(KeyError), pace.waiting('reading'):
        time.sleep(0.01)
        raise KeyError
    assert pace.waited['reading'] >= 0.01


@pytest.mark.parametrize(
    'reading, device, cached, wanted',
    [
        (0.5, 0.0, False, '50 % .* raise NUM_WORKERS, or .* about 39.0 GB: python prepare.py voc'),
        (0.5, 0.0, True, '50 % of the time: raise NUM_WORKERS$'),
        (0.5, 0.2, False, None),  # the device has work left: it is the limit
        (0.1, 0.0, False, None),
    ],
)
def test_what_training_says_of_reading(reading, device, cached, wanted, capsys):
    put(DATASET='voc', DATA_ROOT='./data')
    pace = SimpleNamespace(seconds=1.0, waited={'reading': reading, 'device': device})
    picture = np.zeros((100, 100, 3), np.uint8)
    data = Pictures(cached, picture)
    logger.warn_of_reading(World([]), data, pace, 10)
    text = capsys.readouterr().out.strip()
    if wanted is None:
        assert not text
    else:
        assert re.search(wanted, text), text


class Pictures:
    def __init__(self, cached, picture):
        self.cached, self.picture = cached, picture

    def decode(self, index):
        return self.picture, None

    def __len__(self):
        return 975_000
