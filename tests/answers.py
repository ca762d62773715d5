"""What the tests of eval.py and predict.py share: a network that has an answer, what it answers, what a script says."""

import os
import re
import runpy
import sys

import helpers
import pytest
import torch
from scripts import ROOT, Result

import eval as evaluation
import network
import settings
from utils import config, distributed

CPU = distributed.World([torch.device('cpu')])


def random_net(room, *args, run='tiny', seed=0):
    """Puts into the room, as best.pth of `run`, a random network that predicts many classes: over some pictures each of its logits has mean 0 and
    variance 1. Returns the path."""
    path = room.models / run / 'best.pth'
    with helpers.settings_kept():
        config.override(room.args(*args, 'BN_MOM=1'))
        torch.manual_seed(seed)
        kept = config.current()
        net = helpers.build().requires_grad_(False)
        pictures = torch.stack(
            [
                torch.from_numpy(helpers.colour_of(helpers.blocks(97, 97, seed=i, classes=12)))
                for i in range(4)
            ]
        ).permute(0, 3, 1, 2)
        with torch.no_grad():
            net.decode(net.train().maps(pictures))  # running statistics
            logits = net.decode(net.eval().maps(pictures))['out']
            std, mean = torch.std_mean(logits, (0, 2, 3))
            last = net.fc2 if settings.HEAD == 'ema' else net.head.out[2]
            last.weight /= std[:, None, None, None]
            last.bias.sub_(mean).div_(std)
    path.parent.mkdir(parents=True)
    torch.save({'net': net.state_dict(), 'settings': kept}, path)
    return path


def loaded(room, *args, path=None):
    """The network as scripts evaluate it, on the CPU; puts the settings in force."""
    config.override(room.args(*args))
    return network.fold(evaluation.load(CPU, str(path or room.models / 'tiny' / 'best.pth'))[0])


@torch.no_grad()
def answers(net, images):
    """[train ids (h, w)] that the network predicts for pictures (h, w, 3), one by one."""
    return [
        evaluation.predict(
            net, torch.from_numpy(image.copy()).permute(2, 0, 1)[None], evaluation.protocol()
        )[0][0].numpy()
        for image in images
    ]


def alike(found, wanted):
    """Whether train ids are the same, but for pixels at which two classes tie; there must be more than one class."""
    return (
        found.shape == wanted.shape
        and len({*wanted.ravel()}) > 1
        and (found != wanted).mean() < 1e-3
    )


@pytest.fixture
def inside(monkeypatch, capsys):
    """inside(script, *args) runs a script in this process, which is sooner: for mistakes that end it before there is a network."""

    def run(script, *args):
        monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
        monkeypatch.setattr(distributed, 'keep_heap', lambda: None)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(os.path.join(ROOT, script), run_name='__main__')
        return Result(end.value.code, *capsys.readouterr())

    return run


def assert_told(found, status, *words):
    """The one sentence of a failed script; it must hold these words."""
    assert found.status == status, found
    assert 'Traceback' not in found.err, found.err
    sentence = found.err.rstrip('\n').split('\n')[-1]
    assert re.match(r'(train|eval|predict)\.py: \S', sentence), found.err
    missing = [w for w in words if str(w) not in sentence]
    assert not missing, f'{missing} not in: {sentence}'
    return sentence
