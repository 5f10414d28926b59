"""A run that was stopped and resumed equals one that was not, in every bit."""

import os
import random
import shutil
import signal
import time

import pytest
import torch

from basicsr import checkpoint
from basicsr.loader import SampleStream
from basicsr.sections import LoaderOptions

from .runs import differences, run, spawn, state, write_options


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_resume_is_bit_exact_from_the_middle_of_an_epoch(tmp_path, workers, precision):
    changes = {
        'datasets.train.num_worker_per_gpu': workers,
        'datasets.train.length': 10,  # 2.5 batches an epoch: iteration 6 ends in the middle of the third
        'train.mixed_precision': precision,
        'train.accum_iter': 2,
        'logger.keep_last': 0,
    }
    assert run(tmp_path, changes) == 0
    straight = {i: state(tmp_path, i) for i in (6, 12)}
    experiments = tmp_path / 'experiments/tiny'
    for file in [*experiments.glob('training_states/12.state'), *experiments.glob('models/net_g_12.pth')]:
        file.unlink()  # as if the run had been killed after iteration 6
    assert run(tmp_path, changes, '--auto_resume') == 0
    assert differences(straight[12], state(tmp_path, 12)) == []
    assert differences(straight[6], straight[12]) != []  # the comparison can fail


def test_resume_brings_back_random_streams_and_average(tmp_path):
    """The same with only a part restored must differ: dropout, BatchNorm buffers and the average all matter."""
    assert run(tmp_path, {'logger.keep_last': 0}) == 0
    end = state(tmp_path, 12)
    path = tmp_path / 'experiments/tiny/training_states/6.state'
    (path.parent / '12.state').unlink()
    broken = state(tmp_path, 6)
    broken['rng'][0]['torch'] = torch.get_rng_state()
    checkpoint.save(broken, path)
    assert run(tmp_path, {'logger.keep_last': 0}, '--auto_resume') == 0
    assert differences(end['model'], state(tmp_path, 12)['model']) != []


def test_sigterm_saves_and_the_resumed_run_is_exact(tmp_path):
    changes = {'train.total_iter': 60, 'train.scheduler.T_max': 60, 'datasets.train.num_worker_per_gpu': 1}
    file = write_options(tmp_path, changes)
    straight = spawn(file)
    assert straight.wait(timeout=120) == 0, straight.stderr.read()
    end = state(tmp_path, 60)
    shutil.rmtree(tmp_path / 'experiments')
    stopped = spawn(file, '--force_yml', 'datasets:train:seconds=0.02')
    while 'iter:     3' not in stopped.stderr.readline():
        assert stopped.poll() is None
    stopped.send_signal(signal.SIGTERM)
    _, log = stopped.communicate(timeout=60)
    assert stopped.returncode == 128 + signal.SIGTERM
    assert 'the state is saved' in log
    reached = int(checkpoint.states(tmp_path / 'experiments/tiny/training_states')[0].stem)
    assert 3 <= reached < 60
    resumed = spawn(file, '--auto_resume')
    assert resumed.wait(timeout=120) == 0
    assert differences(end, state(tmp_path, 60)) == []


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_saves(tmp_path, number):
    """As a terminal sends Ctrl-C and a job scheduler SIGTERM: the loader processes get it too."""
    changes = {'train.total_iter': 5000, 'train.scheduler.T_max': 5000, 'datasets.train.num_worker_per_gpu': 1}
    process = spawn(write_options(tmp_path, changes), start_new_session=True)
    while 'iter:     3' not in process.stderr.readline():
        assert process.poll() is None
    os.killpg(process.pid, number)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 128 + number, log
    assert checkpoint.states(tmp_path / 'experiments/tiny/training_states')


@pytest.mark.slow
def test_kill_9_at_random_moments_never_leaves_an_unusable_checkpoint(tmp_path):
    """30 runs killed while they save at every iteration; each goes on from the last, the end equals a straight run."""
    changes = {
        'train.total_iter': 100000, 'train.scheduler.T_max': 100000, 'logger.save_checkpoint_freq': 1,
        'val.val_freq': None, 'network_g.width': 256, 'logger.print_freq': 100, 'datasets.val.length': 1,
    }  # fmt: skip
    file = write_options(tmp_path, changes)
    states = tmp_path / 'experiments/tiny/training_states'
    moment = random.Random(0)
    reached = []
    for _ in range(30):
        process = spawn(file, '--auto_resume')
        before = {p.name for p in states.glob('*.state')}
        while {p.name for p in states.glob('*.state')} == before:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        time.sleep(moment.uniform(0, 0.5))
        process.kill()
        process.communicate()
        newest = checkpoint.states(states)[0]
        assert checkpoint.read(newest)['iter'] == int(newest.stem)
        reached.append(int(newest.stem))
    assert reached == sorted(reached)
    end = reached[-1] + 2
    finish = {'train.total_iter': end, 'logger.save_checkpoint_freq': 100000}
    file = write_options(tmp_path, {**changes, **finish})
    assert spawn(file, '--auto_resume').wait(timeout=120) == 0
    resumed = state(tmp_path, end)
    shutil.rmtree(tmp_path / 'experiments')
    assert spawn(file).wait(timeout=120) == 0
    assert differences(state(tmp_path, end), resumed) == []


def test_the_stream_goes_on_where_it_stopped():
    loader = LoaderOptions(batch_size_per_gpu=3, dataset_enlarge_ratio=2)
    whole = iter(SampleStream(5, loader, seed=1))
    batches = [next(whole) for _ in range(20)]
    for start in (1, 3, 4, 11):
        assert next(iter(SampleStream(5, loader, seed=1, start=start))) == batches[start]


def test_every_epoch_sees_every_sample_once_in_an_order_of_its_own():
    loader = LoaderOptions(batch_size_per_gpu=4)
    stream = iter(SampleStream(10, loader, seed=3))
    requests = [r for _ in range(5) for r in next(stream)]
    first, second = requests[:10], requests[10:]
    assert sorted(r.index for r in first) == sorted(r.index for r in second) == list(range(10))
    assert [r.index for r in first] != [r.index for r in second]
    assert not {r.key for r in first} & {r.key for r in second}  # no augmentation is repeated


def test_the_order_depends_on_the_seed():
    loader = LoaderOptions(batch_size_per_gpu=10)
    orders = [[r.index for r in next(iter(SampleStream(10, loader, seed=s)))] for s in (0, 1)]
    assert orders[0] != orders[1]


def test_processes_share_out_the_batch_of_one():
    together = iter(SampleStream(12, LoaderOptions(batch_size_per_gpu=4), seed=0))
    ranks = [iter(SampleStream(12, LoaderOptions(batch_size_per_gpu=2), 0, rank=r, world_size=2)) for r in (0, 1)]
    for _ in range(5):
        assert next(together) == [*next(ranks[0]), *next(ranks[1])]


def test_progressive_stages():
    stages = LoaderOptions(gt_sizes=[8, 16, 32], mini_batch_sizes=[4, 2, 1], iters=[2, 3, 1])
    stream = SampleStream(10, stages, seed=0)
    feed = iter(stream)
    batches = [next(feed) for _ in range(8)]
    assert [len(b) for b in batches] == [4, 4, 2, 2, 2, 1, 1, 1]
    assert [b[0].gt_size for b in batches] == [8, 8, 16, 16, 16, 32, 32, 32]
    for start in range(8):
        assert next(iter(SampleStream(10, stages, seed=0, start=start))) == batches[start]
