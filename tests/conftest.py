import os
import signal
import sys

import pytest
import torch

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tests')]
torch.set_num_threads(1)

import helpers  # noqa: E402

from datasets import shapes  # noqa: E402
from utils import distributed  # noqa: E402


@pytest.fixture(autouse=True)
def settings_restored():
    with helpers.settings_kept():
        yield


@pytest.fixture(autouse=True)
def memory_given_back(monkeypatch):
    """train.main() in the test process would keep all the memory that one test ever used."""
    monkeypatch.setattr(distributed, 'keep_heap', lambda: None)


@pytest.fixture
def signals_restored():
    """train.main() in the test process takes the signals over."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def sample_data():
    """The folder with samples of the real data sets: camvid/, voc_sample/VOC2012/."""
    if not os.environ.get('SAMPLE_DATA'):
        pytest.skip(
            'needs real pictures: SAMPLE_DATA=FOLDER that holds camvid/ and voc_sample/VOC2012/'
        )
    return os.environ['SAMPLE_DATA']


@pytest.fixture(scope='session')
def drawn_shapes(tmp_path_factory):
    """DATA_ROOT that holds `shapes`, drawn once a session."""
    root = tmp_path_factory.mktemp('drawn')
    shapes.draw(str(root / 'shapes'))
    return root
