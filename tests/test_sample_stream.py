"""Which sample comes when: as it always was without shards, and what holds with them."""

import hashlib
import itertools
import json
import os
import socket

import cv2
import numpy as np
import pytest
import torch

from basicsr.data import build_dataset
from basicsr.errors import DataError, OptionError
from basicsr.loader import batches, check_size, train_loader
from basicsr.options import dataset_options
from basicsr.sample_stream import SampleStream, ShardOrder
from basicsr.sections import DatasetOptions, LoaderOptions
from basicsr.shard_writer import create
from basicsr.shards import ShardReader
from benchmarks.scaling_tables import BEGIN, END, write_tables

from .runs import ROOT, spawn, state, write_options

# First 300 batches of the stream as it was before there were shards: SHA-256 of sizes, indices, keys and crop sizes.
RECORDED = {
    'plain': ({'length': 37, 'seed': 0}, {'batch_size_per_gpu': 4}, '1cc6b2ed1bee28fa'),
    'enlarged': (
        {'length': 5, 'seed': 1, 'start': 3}, {'batch_size_per_gpu': 3, 'dataset_enlarge_ratio': 7}, '4d6ac0ac17f35794',
    ),
    'in order': ({'length': 11, 'seed': 2}, {'batch_size_per_gpu': 2, 'use_shuffle': False}, 'c8c8e44366b3adc6'),
    'stages': (
        {'length': 100, 'seed': 3, 'accum_iter': 2},
        {'gt_sizes': [8, 16, 32], 'mini_batch_sizes': [8, 4, 2], 'iters': [5, 6, 7]}, 'ffe1625d1623f577',
    ),
    'resumed in a stage, one of three': (
        {'length': 100, 'seed': 3, 'start': 19, 'accum_iter': 2, 'rank': 1, 'world_size': 3},
        {'gt_sizes': [8, 16, 32], 'mini_batch_sizes': [8, 4, 2], 'iters': [5, 6, 7]}, 'b0f8ff219821d7dc',
    ),
    'one of four': (
        {'length': 1009, 'seed': 123, 'start': 11, 'rank': 2, 'world_size': 4}, {'batch_size_per_gpu': 16},
        'b26179e589d403e6',
    ),
}  # fmt: skip
PARTS = [5, 9, 0, 7, 8, 3, 11, 6, 10, 4]  # 63 samples in 9 shards, and an empty one


def take(count, length, loader=None, **stream):
    """The first batches of a stream."""
    return list(itertools.islice(SampleStream(length, loader or LoaderOptions(), **{'seed': 0, **stream}), count))


def shards(window=2, **loader):
    return LoaderOptions(shuffle_shards=window, **{'batch_size_per_gpu': 3, **loader})


def epochs(count, rank, world_size, loader=None, parts=PARTS, seed=0):
    """The requests of one process, epoch by epoch."""
    loader = loader or shards(batch_size_per_gpu=1)
    share = sum(parts) * loader.dataset_enlarge_ratio // world_size
    found = take(count * share, sum(parts), loader, rank=rank, world_size=world_size, parts=parts, seed=seed)
    return [[b[0] for b in found[e * share : (e + 1) * share]] for e in range(count)]


def shard_of(index, parts=PARTS):
    return int(np.searchsorted(np.cumsum(parts), index, side='right'))


# ---- without shards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', RECORDED)
def test_without_shards_the_order_is_bit_for_bit_what_it_always_was(name):
    stream, loader, wanted = RECORDED[name]
    found = list(itertools.islice(SampleStream(loader=LoaderOptions(**loader), **stream), 300))
    flat = [(r.index, tuple(map(int, r.key)), r.gt_size) for b in found for r in b]
    text = repr([len(b) for b in found]).encode() + repr(flat).encode()
    assert hashlib.sha256(text).hexdigest()[:16] == wanted


def test_parts_alone_change_nothing():
    assert take(50, 63, parts=PARTS) == take(50, 63)


def test_no_two_samples_share_their_random_numbers():
    for loader in (LoaderOptions(dataset_enlarge_ratio=3), shards(4, dataset_enlarge_ratio=3, batch_size_per_gpu=1)):
        keys = [r.key for rank in (0, 1) for b in take(6 * 63, 63, loader, parts=PARTS, rank=rank, world_size=2)
                for r in b]  # fmt: skip
        assert len(set(keys)) == len(keys) == 12 * 63  # four epochs of both processes


# ---- with shards --------------------------------------------------------------------------------------------------


def test_a_process_reads_its_own_shards_alone_in_an_epoch():
    found = [epochs(5, rank, 3) for rank in range(3)]
    for epoch in range(5):
        read = [{shard_of(r.index) for r in found[rank][epoch]} for rank in range(3)]
        assert sum(map(len, read)) == len(set.union(*read))  # no shard in two processes
        for rank in range(3):
            own = ShardOrder(PARTS, 21, 2, 0, rank, 3).own_shards(epoch)
            assert read[rank] <= set(own.tolist())
            assert len(own) == 3
    assert len({tuple(ShardOrder(PARTS, 21, 2, 0, 0, 3).own_shards(e)) for e in range(5)}) > 1  # dealt anew


def test_one_process_sees_every_sample_once_an_epoch():
    for epoch in epochs(3, 0, 1):
        assert sorted(r.index for r in epoch) == list(range(63))


def test_no_more_than_the_window_is_mixed_at_a_time():
    """The shards in use at a time are those of one window, and a window's samples are not in their order."""
    order = [r.index for r in epochs(1, 0, 1, shards(3, batch_size_per_gpu=1))[0]]
    runs = [shard_of(i) for i in order]
    own = ShardOrder(PARTS, 63, 3, 0, 0, 1).own_shards(0).tolist()
    start = 0
    for first in range(0, 9, 3):
        window = set(own[first : first + 3])
        size = sum(PARTS[s] for s in window)
        assert set(runs[start : start + size]) == window
        assert order[start : start + size] != sorted(order[start : start + size])
        assert runs[start : start + size] != sorted(runs[start : start + size], key=own.index)
        start += size
    assert start == 63


@pytest.mark.parametrize('world_size', [1, 2, 4, 9])
def test_every_process_has_as_many_samples_and_none_is_left_out_for_good(world_size):
    seen = set()
    for rank in range(world_size):
        share = 63 // world_size
        order = ShardOrder(PARTS, share, 2, 0, rank, world_size)
        for number, epoch in enumerate(epochs(25, rank, world_size)):
            own = {r.index for r in epoch}
            assert len(epoch) == share
            assert len(own) == min(
                share, sum(PARTS[s] for s in order.own_shards(number))
            )  # repeated when all were seen
            seen |= own
    assert seen == set(range(63))


def test_repeated_samples_get_other_random_numbers():
    repeated = 0
    for rank in range(4):
        for epoch in epochs(6, rank, 4):
            repeated += len(epoch) - len({r.index for r in epoch})
            assert len({r.key for r in epoch}) == len(epoch)
    assert repeated > 0


def test_an_enlarged_epoch_stays_with_its_shards():
    for epoch in epochs(2, 1, 3, shards(2, dataset_enlarge_ratio=3, batch_size_per_gpu=1)):
        assert len(epoch) == 63
        assert len({shard_of(r.index) for r in epoch}) <= 3
        assert {r.index for r in epoch} == {r.index for r in epoch[: len({r.index for r in epoch})]}


STAGES = {'gt_sizes': [8, 16, 32], 'mini_batch_sizes': [6, 4, 1], 'iters': [3, 5, 1]}


@pytest.mark.parametrize('loader', [shards(), shards(4, dataset_enlarge_ratio=2), shards(**STAGES)])
def test_resume_is_exact_at_any_batch(loader):
    stream = {'parts': PARTS, 'rank': 1, 'world_size': 3, 'accum_iter': 2}
    whole = take(60, 63, loader, **stream)
    for start in range(60):
        assert (
            take(2, 63, loader, start=start, **stream)
            == (whole + take(1, 63, loader, start=60, **stream))[start : start + 2]
        )


def test_epochs_are_counted_right_through_stages():
    stream = SampleStream(63, shards(**STAGES), 0, accum_iter=2, rank=1, world_size=3, parts=PARTS)
    assert stream.epoch_length == 63
    found = take(80, 63, shards(**STAGES), accum_iter=2, rank=1, world_size=3, parts=PARTS)
    assert [len(b) for b in found] == [6] * 6 + [4] * 10 + [1] * 64
    assert [b[0].gt_size for b in found] == [8] * 6 + [16] * 10 + [32] * 64
    done = 0
    for number, batch in enumerate(found):
        assert stream.samples_before(number) == 3 * done
        assert stream.epoch_of(number) == batch[0].key[1]
        done += len(batch)
    assert found[-1][-1].key[1] >= 5


def test_the_seed_alone_changes_the_order():
    assert epochs(1, 0, 2, seed=1) == epochs(1, 0, 2, seed=1) != epochs(1, 0, 2, seed=2)


def test_a_share_that_does_not_go_up_is_the_same_for_all():
    streams = [SampleStream(63, shards(), 0, rank=r, world_size=2, parts=PARTS) for r in (0, 1)]
    assert [s.epoch_length for s in streams] == [62, 62]


@pytest.mark.parametrize(
    ('loader', 'parts', 'world_size', 'words'),
    [
        (shards(), PARTS, 10, r'9 shard\(s\) cannot be dealt to 10 processes'),
        (shards(), None, 1, 'does not lie in shards'),
        (shards(), [60, 4], 1, 'hold 64 samples, and the set 63'),
        (shards(use_shuffle=False), PARTS, 1, 'use_shuffle is false'),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(loader, parts, world_size, words):
    with pytest.raises(DataError, match=words):
        SampleStream(63, loader, 0, world_size=world_size, parts=parts)
    dataset = type('Set', (), {'__len__': lambda self: 63, 'parts': parts})()
    with pytest.raises(DataError, match=f"'train': .*{words}"):
        check_size(dataset, DatasetOptions('train', 'train', {}, loader), world_size)


def test_an_option_file_may_not_write_a_window_of_none():
    block = {'type': 'OnlineDegradationDataset', 'dataroot_gt': 'x', 'degradations': {}}
    with pytest.raises(OptionError, match='shuffle_shards'):
        dataset_options({**block, 'shuffle_shards': 0}, 'train')
    with pytest.raises(OptionError, match='start_method'):
        dataset_options({**block, 'start_method': 'thread'}, 'train')


def test_ten_million_samples_cost_a_process_its_own_shards_only():
    """A process of 64 with 10,000 shards of 1,000: no array of the whole set's length may come about."""
    order = ShardOrder([1000] * 10_000, 10_000_000 // 64, 8, 0, 5, 64)
    first = [order.sample(0, p) for p in range(0, 10_000_000 // 64, 1000)]
    arrays = [a for a in vars(order).values() if isinstance(a, np.ndarray)]
    arrays += [a for cached in (order._deal, order._mixed) for a in cached if isinstance(a, np.ndarray)]
    assert max(a.size for a in arrays) <= 10_000
    assert len({i // 1000 for i in first}) > 100


# ---- with loader processes ----------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Twenty pairs in seven shards; the clean image's first two channels tell the place of every pixel."""
    root = tmp_path_factory.mktemp('photos')
    y, x = np.mgrid[:48, :48].astype(np.uint8) * 5
    for side in ('gt', 'lq'):
        (root / side).mkdir()
        for i in range(20):
            image = np.stack([np.full_like(x, i * 12 if side == 'gt' else 255 - i * 12), y, x], axis=2)
            cv2.imwrite(str(root / side / f'{i}.png'), image)
    create({'gt': [root / 'gt'], 'lq': [root / 'lq']}, root / 'shards', max_count=3)
    return root


def training(photos, workers=0, method=None, **loader):
    """A training loader over the shards, and its data set."""
    root = str(photos / 'shards')
    block = {'type': 'PairedImageDataset', 'dataroot_gt': root, 'dataroot_lq': root, 'gt_size': 16,
             'batch_size_per_gpu': 4, 'num_worker_per_gpu': workers, 'start_method': method, **loader}  # fmt: skip
    options = dataset_options(block, 'train')
    dataset = build_dataset(options)
    stream = SampleStream(len(dataset), options.loader, 7, parts=dataset.parts)
    return train_loader(dataset, options, stream, pin_memory=False), dataset


def digest(loader, samples):
    """A hash of keys and tensors."""
    found, count = hashlib.sha256(), 0
    for batch in batches(loader):
        for name in sorted(batch):
            value = batch[name]
            found.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
        count += len(batch['key'])
        if count >= samples:
            return found.hexdigest()
    raise AssertionError('a training loader has no end')


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
@pytest.mark.parametrize('window', [None, 2])
def test_the_first_thousand_samples_do_not_depend_on_the_loader_processes(photos, window):
    alone = digest(training(photos, shuffle_shards=window)[0], 1000)
    ways = [(1, 'fork'), (4, 'fork'), (1, 'spawn'), (4, 'spawn'), (2, 'forkserver')]
    for workers, method in ways if window is None else [(4, 'fork'), (1, 'forkserver')]:
        assert digest(training(photos, workers, method, shuffle_shards=window)[0], 1000) == alone, (workers, method)
    assert digest(training(photos, shuffle_shards=3)[0], 1000) != alone  # the comparison can fail


def test_two_epochs_draw_other_crops_of_the_same_images(photos):
    loader, _ = training(photos, batch_size_per_gpu=1)
    seen = {}
    for batch in itertools.islice(batches(loader), 40):
        seen.setdefault(batch['key'][0], []).append(batch['gt'])
    assert {len(crops) for crops in seen.values()} == {2}
    same = [key for key, (first, second) in seen.items() if torch.equal(first, second)]
    assert len(same) <= 1  # 33 x 33 places and 8 ways to turn: a chance of 20 in 8712 that there is one at all


class Facts(torch.utils.data.Dataset):
    """Tells about the process that loads it."""

    def __len__(self):
        return 8

    def sample(self, index, rng, gt_size):
        return {'key': str(index), 'pid': os.getpid(), 'threads': max(torch.get_num_threads(), cv2.getNumThreads())}


def test_loader_processes_stay_through_the_epochs_and_compute_on_one_thread():
    loader = LoaderOptions(batch_size_per_gpu=4, num_worker_per_gpu=2, start_method='fork')
    options = DatasetOptions('train', 'train', {}, loader)
    feed = batches(train_loader(Facts(), options, SampleStream(8, loader, 0), pin_memory=False))
    found = list(itertools.islice(feed, 20))  # ten epochs
    pids = {int(pid) for batch in found for pid in batch['pid']}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert max(int(b['threads'].max()) for b in found) <= 1


# ---- the page -----------------------------------------------------------------------------------------------------


def test_the_tables_of_the_page_are_those_of_the_figures(tmp_path):
    text, figures = (ROOT / 'docs/scaling.md').read_text(), ROOT / 'docs/results/scaling.json'
    page = tmp_path / 'page.md'
    page.write_text(text)
    if figures.exists():
        write_tables(json.loads(figures.read_text()), page)
        assert page.read_text() == text
    else:
        assert f'{BEGIN}\n{END}' in text
    page.write_text('a page without marks')
    with pytest.raises(SystemExit, match='has no lines'):
        write_tables({}, page)


# ---- several machines ---------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as found:
        found.bind(('localhost', 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_two_torchrun_agents_train_on_shards_and_each_reads_its_own(photos, tmp_path):
    """As on two machines: an agent each, one option file, a meeting point."""
    root, log = str(photos / 'shards'), tmp_path / 'reads'
    changes = {
        'imports': [str(ROOT / 'tests/plugins/tiny.py'), str(ROOT / 'tests/plugins/shard_log.py')],
        'datasets.train': {'type': 'ShardLogDataset', 'root': root, 'log': str(log), 'shuffle_shards': 2,
                           'batch_size_per_gpu': 2, 'num_worker_per_gpu': 1},
    }  # fmt: skip
    file = write_options(tmp_path, changes)
    launcher = ['-m', 'torch.distributed.run', '--nnodes', '2', '--nproc_per_node', '1', '--rdzv_backend', 'c10d',
                '--rdzv_endpoint', f'localhost:{free_port()}', '--rdzv_id', 'test']  # fmt: skip
    agents = [spawn(file, '--launcher', 'pytorch', launcher=launcher) for _ in range(2)]
    logs = [agent.communicate(timeout=240)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], logs
    assert state(tmp_path, 12)['iter'] == 12
    parts, share = ShardReader(root, 'gt').parts, 10
    for epoch in range(2):  # 12 iterations of 2 samples: two epochs of 10, and what is read ahead
        read = []
        for rank in range(2):
            lines = (tmp_path / f'reads.{rank}').read_text().split()[epoch * share : (epoch + 1) * share]
            own = ShardOrder(parts, share, 2, 0, rank, 2).own_shards(epoch)
            read.append(set(lines))
            assert read[rank] <= {f'shard-{s:06d}.tar' for s in own}
        assert not read[0] & read[1]
