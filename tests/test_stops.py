"""Stops, and what a run may write: signals, scores that are due, full disks, folders, half an environment."""

import contextlib
import errno
import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from helpers import put

import dataset
import settings
import train
from benchmarks.kills import same
from utils import distributed, logger, quiet, run_folder
from utils.config import UsageError, UserError

pytest.register_assert_rewrite('scripts')
from scripts import ENV, ROOT, finish, start, wait_for  # noqa: E402

pytest_plugins = 'scripts'
CPU = distributed.World([torch.device('cpu')])
PART = 'DROPOUT=0.1', 'ITER_MAX=4', 'ITER_SAVE=2', 'ITER_VAL=2'


# ------------------------------------------------------------------------------- scores that are due


def kill_in_validation(step):
    """In the new process: dies when a step is to be scored, as a kill at that moment does."""
    import eval

    evaluate, steps = eval.evaluate, iter(range(2, 100, 2))

    def dying(*args, **options):
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluate(*args, **options)

    eval.evaluate = dying


def contents(room, name, file):
    content = room.checkpoint(file, name)
    content['settings'].pop('NAME')
    return content


def logged(room, name):
    return [{k: v for k, v in line.items() if k != 'images_per_s'} for line in room.log(name)]


@pytest.mark.parametrize('step', [2, 4])
def test_a_run_killed_while_it_is_scored_is_scored_when_it_resumes(step, room):
    """At the last step, too; files and log are those of a run that nobody disturbed."""
    room.ok('train.py', *PART, 'NAME=straight')
    killed = room.run('train.py', *PART, before=functools.partial(kill_in_validation, step))
    assert killed.status == -signal.SIGKILL
    state = room.checkpoint('latest')
    assert state['step'] == step and set(state['to_score']) == {'loss', 'curves'}
    out = room.ok('train.py', *PART)
    assert f'resuming tiny at step {step}' in out and f'\nstep {step}: loss' in out
    for file in ('best', 'latest', 'final'):
        assert same(contents(room, 'straight', file), contents(room, 'tiny', file)), file
    assert room.checkpoint('latest')['to_score'] is None
    assert logged(room, 'straight') == logged(room, 'tiny')
    assert 'is finished' in room.ok('train.py', *PART)


def stop_at(step):
    """In the new process: SIGTERM arrives with the batch of a step."""
    import dataset

    start_loader = dataset.start_loader

    def stopping(loader):
        for number, batch in enumerate(start_loader(loader), 1):
            if number == step and loader.batch_sampler is not None:  # of training
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    dataset.start_loader = stopping


@pytest.mark.parametrize('step', [2, 4])
def test_a_stop_at_a_step_that_is_scored(step, room):
    """The stop does not wait for the validation, and resuming makes it."""
    room.ok('train.py', *PART, 'NAME=straight')
    stopped = room.run('train.py', *PART, before=functools.partial(stop_at, step))
    assert stopped.status == 143 and f'\nstep {step}: loss' not in stopped.out
    out = room.ok('train.py', *PART)
    assert f'\nstep {step}: loss' in out
    for file in ('best', 'latest', 'final'):
        assert same(contents(room, 'straight', file), contents(room, 'tiny', file)), file
    assert logged(room, 'straight') == logged(room, 'tiny')


def stop_in_validation(number):
    """In the new process: SIGTERM arrives while validation `number` reads its first picture."""
    import dataset

    batches, count = dataset.eval_batches, iter(range(1, 100))

    def stopping(*args):
        stops = next(count) == number
        for i, batch in enumerate(batches(*args)):
            assert not (stops and i), 'the validation went on'
            if stops:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    dataset.eval_batches = stopping


def test_a_stop_breaks_a_validation_off(room):
    """In the run, and again where it makes up for it; then all is as without."""
    room.ok('train.py', *PART, 'NAME=straight')
    for _ in range(2):
        before = functools.partial(stop_in_validation, 1)
        stopped = room.run('train.py', *PART, before=before)
        assert stopped.status == 143 and '\nstopped at step 2, saved' in stopped.out
        assert '\nstep 2: loss' not in stopped.out, stopped.err
    assert '\nstep 2: loss' in room.ok('train.py', *PART)
    for file in ('best', 'latest', 'final'):
        assert same(contents(room, 'straight', file), contents(room, 'tiny', file)), file
    assert logged(room, 'straight') == logged(room, 'tiny')


def test_a_due_score_without_a_validation(room):
    """ITER_VAL=0 on resuming: the user wants none."""
    stopped = room.run('train.py', *PART, before=functools.partial(stop_at, 4))
    assert stopped.status == 143
    assert 'is finished' in room.ok('train.py', *PART, 'ITER_VAL=0')


# ------------------------------------------------------------------------------------------ signals


def children(pid):
    found = subprocess.run(['pgrep', '-P', str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as f:
            return f.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def wait_until_gone(pids, seconds=20):
    until = time.time() + seconds
    while any(map(alive, pids)) and time.time() < until:
        time.sleep(0.1)
    assert not any(map(alive, pids))


def wait_for_steps(room, process):
    log = room.logs / 'tiny' / 'log.jsonl'
    wait_for(log, process)
    while not log.read_text():
        assert process.poll() is None


def test_a_lost_terminal_saves_the_run(room):
    args = room.args('ITER_MAX=1000', 'ITER_SAVE=1000', 'NUM_WORKERS=1')
    heed = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    with start('train.py', *args, start_new_session=True, preexec_fn=heed) as process:
        wait_for_steps(room, process)
        os.killpg(process.pid, signal.SIGHUP)
        result = finish(process)
    assert result.status == 129 and 'stopped at step' in result.out, result.err
    assert room.checkpoint('latest')['step'] >= 1


def test_nohup_is_heeded():
    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stops = distributed.StopSignals(CPU)
        os.kill(os.getpid(), signal.SIGHUP)
        assert stops.number is None
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    'workers, processes, times', [(1, 1, 1), (4, 1, 2), (1, 2, 1)], ids=['1', '4', 'torchrun']
)
def test_sigterm_to_the_group(workers, processes, times, room):
    """As schedulers send it, perhaps twice: the loader processes go on until the run is saved."""
    args = room.args('ITER_MAX=1000', 'ITER_SAVE=1000', f'NUM_WORKERS={workers}')
    launcher = []
    if processes > 1:
        launcher = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    with start(*launcher, 'train.py', *args, start_new_session=True) as process:
        wait_for_steps(room, process)
        below = children(process.pid)
        for child in list(below):
            below += children(child)
        assert len(below) >= workers
        groups = {os.getpgid(pid) for pid in (process.pid, *below)}  # torchrun gives each its own
        for _ in range(times):
            for group in groups:
                os.killpg(group, signal.SIGTERM)
            time.sleep(0.05)
        result = finish(process)
    assert 'stopped at step' in result.out, result.err
    if processes == 1:
        assert result.status == 143 and 'Traceback' not in result.err, result.err
    step = room.checkpoint('latest')['step']
    assert 1 <= step < 1000
    wait_until_gone(below)


def test_loader_processes_leave_with_their_parent(room):
    with start('train.py', *room.args('ITER_MAX=1000', 'NUM_WORKERS=2')) as process:
        wait_for_steps(room, process)
        workers = children(process.pid)
        process.kill()
        finish(process)
    assert len(workers) >= 2
    wait_until_gone(workers)


def test_sigterm_may_come_again_and_a_second_ctrl_c_stops():
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        stops = distributed.StopSignals(CPU)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stops.status() == 143
        os.kill(os.getpid(), signal.SIGINT)
        assert stops.status() == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    'number, size, words',
    [
        (
            signal.SIGINT,
            1,
            'stopping after this step, without its validation, saving; once more: stop now\n',
        ),
        (signal.SIGTERM, 1, 'stopping after this step, without its validation, saving\n'),
        (
            signal.SIGINT,
            2,
            'stopping within 20 steps, or after a validation under way, saving; once more: stop now\n',
        ),
    ],
)
@pytest.mark.parametrize('decodes', [False, True])
def test_a_signal_is_answered_at_once(number, size, words, decodes, capfd):
    """... by the first process, on stderr, even while that is kept from libraries."""
    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    put(ITER_LOG=20)
    try:
        for rank in range(size):
            distributed.StopSignals(distributed.World([torch.device('cpu')], rank, size))
            with quiet.decoding() if decodes else contextlib.nullcontext():
                os.kill(os.getpid(), number)
            assert capfd.readouterr().err == ('' if rank else words)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def test_a_bar_in_a_file_is_lines(monkeypatch, capsys):
    """No control codes; what is printed meanwhile neither clears the bar nor draws it again."""
    monkeypatch.setattr(sys, 'stderr', quiet.Output(sys.stderr))
    with CPU.bar(total=3, desc='outer') as bar:
        bar.mininterval = 0
        for i in range(3):
            with CPU.bar(total=1, desc='inner', leave=False) as inner:
                inner.update()
            CPU.print(f'step {i}')
            bar.update()
    out, err = capsys.readouterr()
    assert out == 'step 0\nstep 1\nstep 2\n'
    lines = err.splitlines()
    assert err.replace('\n', '').isprintable() and err.endswith('\n') and all(lines)
    assert [line[:5] for line in lines].count('inner') == 3
    outer = [line for line in lines if line.startswith('outer')]
    assert [f'{i}/3' in line for i, line in enumerate(outer[:4])] == [True] * 4 and len(outer) <= 5


@pytest.mark.parametrize(
    'count, size, wanted',
    [(101, 1, {0, 33, 66, 100}), (101, 2, {0, 32, 66, 100}), (3, 1, {0, 1, 2}), (1, 2, {0})],
)
def test_pictures_of_the_validation_are_spread_over_the_split(count, size, wanted):
    """Those of the first process, which logs them."""
    run = SimpleNamespace(world=CPU._replace(size=size), val=range(count))
    assert train.shown_images(run) == wanted


@pytest.mark.parametrize(
    'seconds, words',
    [
        (0, 'a few seconds'),
        (9, 'a few seconds'),
        (12, 'about 10 seconds'),
        (44, 'about 40 seconds'),
        (56, 'about 1 minute'),
        (89, 'about 1 minute'),
        (91, 'about 2 minutes'),
        (185, 'about 3 minutes'),
        (3300, 'about 55 minutes'),
        (2.4 * 3600, 'about 2 hours'),
        (23 * 3600, 'about 23 hours'),
        (5 * 86400, 'about 5 days'),
    ],
)
def test_times_in_words(seconds, words):
    assert logger.duration(seconds) == words


@pytest.mark.parametrize(
    'script, ignored',
    [
        ('train.py', False),
        ('train.py', True),
        ('eval.py', False),
        ('predict.py', False),
        ('bench.py', False),
        ('prepare.py', False),
    ],
)
def test_ctrl_c_while_a_script_is_imported(script, ignored, tmp_path):
    """No traceback; status 130 in a shell. It does not reach what a shell put into the background."""
    (tmp_path / 'torch.py').write_text(
        'import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(7)\n'
    )
    heed = functools.partial(
        signal.signal, signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL
    )
    found = subprocess.run(
        [sys.executable, os.path.join(ROOT, script)],
        env=os.environ | {'PYTHONPATH': str(tmp_path)},
        preexec_fn=heed,
        capture_output=True,
        timeout=60,
    )
    assert (found.returncode, found.stderr) == (7 if ignored else -signal.SIGINT, b'')


# ------------------------------------------------------------------------------- full disks, limits


def limit_file_size():
    """In the new process: no file may grow beyond some kilobytes, as on a full disk."""
    import resource

    from utils import logger

    logger.zipped_source = bytes
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def test_a_full_log_folder_ends_training(room):
    """Events are written in the training process, where their failure is seen."""
    result = room.run('train.py', 'ITER_MAX=1000', 'ITER_SAVE=1000', before=limit_file_size)
    assert result.status == 1 and 'Traceback' not in result.err
    sentence = result.err.splitlines()[-1]
    assert str(room.logs / 'tiny') in sentence and 'of the run could not be written' in sentence


def test_events_that_cannot_be_written(tmp_path, monkeypatch):
    put(LOG_DIR=str(tmp_path), MODEL_DIR=str(tmp_path / 'm'), NAME='x')
    log = logger.Log(distributed.World([torch.device('cpu')]), 0)

    def full(event):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(log.events.file, 'write_event', full)
    with pytest.raises(UserError, match='x: the events of the run could not be written .No space'):
        log.scalars(1, {'loss': 1.0})


def test_no_room_in_shared_memory(monkeypatch):
    """It is said in the loader process's own thread, where a DataLoader sees it."""
    calls = []
    monkeypatch.setattr(dataset, 'get_worker_info', lambda: 'a worker')
    monkeypatch.setattr(torch.Tensor, 'share_memory_', lambda self: calls.append(self.shape))
    dataset.to_shared_memory(torch.zeros(2, 3), torch.zeros(4))
    assert calls == [(2, 3), (4,)]
    monkeypatch.undo()
    assert not torch.zeros(2).is_shared()
    tensor = torch.zeros(2)
    dataset.to_shared_memory(tensor)  # the training process itself
    assert not tensor.is_shared()


def small_shared_memory(size, script, args):
    """The script in a mount namespace of its own whose /dev/shm has `size` bytes."""
    command = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    return subprocess.run(
        ['unshare', '--mount', 'sh', '-c', command, 'sh', sys.executable, script, *args],
        cwd=ROOT,
        env=os.environ | ENV,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_small_shared_memory_ends_training(room):
    probe = small_shared_memory('1m', '-c', ['pass'])
    if probe.returncode:
        pytest.skip('needs a mount namespace: ' + probe.stderr.strip())
    args = room.args('ITER_MAX=1000', 'NUM_WORKERS=2', 'CROP_SIZE=257', 'ITER_LOG=100')
    result = small_shared_memory('1m', 'train.py', args)
    assert result.returncode == 1 and 'Traceback' not in result.stderr, result.stderr
    assert '/dev/shm' in result.stderr.splitlines()[-1]


def test_many_small_images_in_a_batch():
    """Each of them is an open file while it is on its way."""
    samples = [(torch.zeros(3, 2, 2, dtype=torch.uint8), None, i) for i in range(100)]
    put(NUM_WORKERS=0)
    sizes = [
        len(indices) for _, _, indices in dataset.eval_batches(samples, range(100), 10**9, False)
    ]
    assert sum(sizes) == 100 and max(sizes) == dataset.LARGEST_BATCH


# ---------------------------------------------------------------------------------------- the log


def line(step, **values):
    return json.dumps({'step': step, **values}) + '\n'


@pytest.mark.parametrize(
    'lines, step, scored, stay',
    [
        ([line(1, loss=1), line(2, loss=1)], 2, True, 2),
        ([line(1, loss=1), line(2, loss=1)], 1, True, 1),
        ([line(1, loss=1), line(2, loss=1)], 0, True, 0),
        ([line(2, loss=1), line(2, **{'val/mIoU': 0.5}), line(3, loss=1)], 2, True, 2),
        ([line(2, loss=1), line(2, **{'val/mIoU': 0.5}), line(3, loss=1)], 2, False, 1),
        ([line(1, loss=1), line(2, loss=1)[:-4]], 2, True, 1),
        ([line(1, loss=1), '{"st\0p\n', line(2, loss=1)], 2, True, 3),
        ([line(1, loss=1), '[' * 10**5 + '\n', line(2, loss=1)], 2, True, 3),
        ([line(1, loss=1), '7\n', '{"step": "2"}\n'], 2, True, 1),
        ([], 5, True, 0),
    ],
)
def test_lines_of_the_log_that_stay(lines, step, scored, stay, tmp_path):
    """They are never taken out of the file: a kill at any moment leaves them."""
    path = tmp_path / 'log.jsonl'
    path.write_text(''.join(lines))
    inode = path.stat().st_ino
    with logger.open_log(str(tmp_path), step, scored) as file:
        assert path.read_text() == ''.join(lines[:stay]) and path.stat().st_ino == inode
        file.write(b'more\n')
    assert path.read_text() == ''.join(lines[:stay]) + 'more\n'


def train_beside(folder):
    with logger.open_log(folder, 0, True):
        time.sleep(60)


def test_a_run_has_one_process(tmp_path):
    context = multiprocessing.get_context('spawn')
    other = context.Process(target=train_beside, args=(str(tmp_path),))
    other.start()
    try:
        while not (tmp_path / 'log.jsonl').exists():
            time.sleep(0.05)
        time.sleep(0.2)
        with pytest.raises(UserError, match='another process trains this run'):
            logger.open_log(str(tmp_path), 0, True)
    finally:
        other.kill()
        other.join()


def test_source_files_of_1970(tmp_path, monkeypatch):
    (tmp_path / 'old.py').write_text('1\n')
    os.utime(tmp_path / 'old.py', (0, 0))
    monkeypatch.setattr(logger, 'PROJECT', str(tmp_path))
    monkeypatch.setattr(logger, 'SOURCE', ('',))
    assert b'old.py' in logger.zipped_source()


# --------------------------------------------------------------------------------- folders of a run


@pytest.mark.parametrize(
    'files, words',
    [
        ([], ''),
        (['log.jsonl', 'notes.txt'], ''),  # a user's notes on a run
        (['predictions/overlay/a.png'], ''),
        (['best.png', 'overlay/a.png', 'train.log'], ''),  # of eval.py, and what a shell redirects
        (['log.jsonl', 'settings.py', 'machine.json'], ''),  # killed right after its start
        (['settings.py'], 'settings.py was not written by a run'),
        (['film.mp4.part'], 'film.mp4.part was not written by a run'),
        (['.DS_Store'], ''),
        (['latest.pth.0123abcd.part'], ''),
        (['train/a.png'], 'train was not written by a run'),
        (['settings.py', 'train.py'], 'settings.py was not written by a run'),
        (['weights.pth'], 'weights.pth was not written by a run'),
    ],
)
def test_folders_that_a_run_may_write_to(files, words, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    if not words:
        return run_folder.check(str(tmp_path))
    with pytest.raises(UsageError, match=words):
        run_folder.check(str(tmp_path))


@pytest.mark.parametrize('name', ['log.jsonl', 'settings.py', 'machine.json', 'source.zip'])
def test_links_in_the_folder_of_a_run(name, tmp_path):
    mine, folder = tmp_path / 'mine.txt', tmp_path / 'run'
    mine.write_text('precious')
    folder.mkdir()
    (folder / 'log.jsonl').touch()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(mine)
    with pytest.raises(UsageError, match=f'{name} is a link to another file'):
        run_folder.check(str(folder))


def test_folders_among_ones_own_data(tmp_path):
    put(DATASET='folder')
    for name in ('labels/test', 'images/x/y'):
        with pytest.raises(UsageError, match='lies among the (labels|images) of'):
            run_folder.check(str(tmp_path / name), str(tmp_path))
    run_folder.check(str(tmp_path / 'logs' / 'x'), str(tmp_path))


def test_folders_of_other_things(tmp_path):
    (tmp_path / 'mine' / 'runs').mkdir(parents=True)
    (tmp_path / 'link').symlink_to(tmp_path / 'mine')
    for folder in (tmp_path, tmp_path / 'mine', tmp_path / 'link', ROOT, os.path.dirname(ROOT)):
        with pytest.raises(UsageError, match='is the folder of|holds it'):
            run_folder.check(str(folder), str(tmp_path / 'mine'))
    run_folder.check(str(tmp_path / 'mine' / 'runs'), str(tmp_path / 'mine'))  # in it, and empty
    for name in ('heads', 'recipes', 'tests'):
        with pytest.raises(UsageError, match='was not written by a run'):
            run_folder.check(os.path.join(ROOT, name))


@pytest.mark.parametrize('kind', ['LOG_DIR', 'MODEL_DIR'])
def test_training_does_not_write_into_the_data(kind, room, data):
    before = sorted(data.rglob('*'))
    result = room.run('train.py', f'{kind}={data}', 'NAME=camvid')
    assert result.status == 2 and 'camvid is the folder of the data set' in result.err
    assert sorted(data.rglob('*')) == before


def test_a_new_run_among_files_of_another(room):
    room.ok('train.py', 'ITER_SAVE=2')
    (room.models / 'tiny' / 'latest.pth').rename(room.folder / 'away.pth')
    before = sorted(room.models.rglob('*'))
    result = room.run('train.py')
    assert result.status == 2 and 'final.pth is of an earlier run' in result.err
    assert 'choose another NAME' in result.err and sorted(room.models.rglob('*')) == before


def test_a_log_of_another_run(room):
    """Its checkpoints are elsewhere, or gone: the history is not thrown away."""
    room.ok('train.py', 'ITER_MAX=4', 'ITER_SAVE=1')
    before = room.log()
    result = room.run('train.py', 'ITER_SAVE=1', f'MODEL_DIR={room.folder}/elsewhere')
    assert result.status == 1 and 'log.jsonl is of an earlier run' in result.err
    assert room.log() == before


def test_other_validation_data_start_the_best_score_anew(room, own_data):
    room.data = own_data
    room.ok('train.py', 'ITER_VAL=1', 'ITER_SAVE=1')
    for kind in ('val', 'valannot'):
        (own_data / 'camvid' / kind / '00.png').unlink()
    out = room.ok('train.py', 'ITER_VAL=1', 'ITER_SAVE=1', 'ITER_MAX=3')
    assert 'the validation data have changed' in out
    assert room.checkpoint('latest')['best']['step'] == 3


def test_leftovers_of_a_kill_go(room):
    room.ok('train.py')
    folder = room.models / 'tiny'
    (folder / 'latest.pth.0123abcd.part').touch()
    (folder / 'mine.part').touch()
    room.ok('train.py', 'ITER_MAX=3')
    assert [path.name for path in folder.glob('*.part')] == ['mine.part']


# ------------------------------------------------------------------------------- half an environment


@pytest.mark.parametrize(
    'given, words',
    [
        ({'RANK': '1'}, 'RANK=1: RANK and LOCAL_RANK must be less than WORLD_SIZE'),
        ({'LOCAL_RANK': '2'}, 'must be less than WORLD_SIZE'),
        ({'RANK': '2', 'WORLD_SIZE': '2'}, 'must be less than WORLD_SIZE'),
        ({'WORLD_SIZE': '2'}, 'WORLD_SIZE=2: RANK.* MASTER_ADDR, MASTER_PORT not set'),
        ({'RANK': 'x'}, 'RANK is not a number'),
        ({'RANK': '-1', 'WORLD_SIZE': '1'}, 'RANK is not a number'),
        ({'WORLD_SIZE': '0'}, 'must be less than WORLD_SIZE'),
        (
            {'RANK': '0', 'WORLD_SIZE': '2', 'LOCAL_RANK': '0', 'MASTER_ADDR': 'localhost'},
            'MASTER_PORT not set',
        ),
        ({'RANK': '0', 'WORLD_SIZE': '1'}, ''),  # as some clusters set it for one process
        ({}, ''),
    ],
)
def test_variables_of_torchrun(given, words, monkeypatch):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if not words:
        assert distributed.rank_and_size() == (0, 1, 0)
        return
    with pytest.raises(UsageError, match=words):
        distributed.rank_and_size()


def one_variable():
    """In the new process."""
    os.environ['RANK'] = '1'


def test_a_rank_alone(room):
    result = room.run('eval.py', before=one_variable)
    assert result.status == 2 and 'RANK=1' in result.err


def test_home_in_settings(monkeypatch):
    from utils import config

    monkeypatch.setenv('HOME', '/home/me')
    config.override(['DATA_ROOT=~/data', 'CHECKPOINT=~/net.pth', 'SAVE_DIR=out~'])
    assert settings.DATA_ROOT == '/home/me/data' and settings.CHECKPOINT == '/home/me/net.pth'
    assert settings.SAVE_DIR == 'out~'
    for name in config.PATHS:
        assert config.convert(name, '~/x', 'here') == '/home/me/x'
