"""Which sample comes when, and with which random numbers.

Sample number ``k`` of a run is fixed by the seed: its index by the epoch's order, its random numbers by (seed, epoch,
position). Neither the number of loader processes nor a stop and resume changes it. By default the number of training
processes does not either. With ``shuffle_shards`` each of them walks its own shards, so that in an epoch a shard is
read by one process and in one go; then their number is part of the order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from basicsr.errors import DataError
from basicsr.sections import LoaderOptions


class Request(NamedTuple):
    """What a loader process is asked for.

    Attributes:
        index: Index into the data set.
        key: What the sample's random numbers are seeded with: (seed, epoch, position in the enlarged set).
        gt_size: Crop size that overrides the data set's own, or None.
    """

    index: int
    key: tuple[int, int, int]
    gt_size: int | None = None


class SampleStream(Sampler[list[Request]]):
    """Endless batches of requests for one process, starting after any number of iterations.

    Args:
        length: Number of samples in the data set.
        loader: Batch size, enlargement, shuffling and stages.
        seed: The run's seed.
        start: Batches already consumed (iterations times accumulated batches).
        accum_iter: Batches per iteration; stages count iterations.
        rank: This process.
        world_size: Number of processes; together they load one global batch.
        parts: Samples in each shard, in the order of their indices; needed by ``shuffle_shards`` alone.

    Raises:
        DataError: The shards do not go round; see :func:`check_parts`.
    """

    def __init__(
        self, length: int, loader: LoaderOptions, seed: int, start: int = 0, accum_iter: int = 1,
        rank: int = 0, world_size: int = 1, parts: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.length, self.loader, self.seed = length, loader, seed
        self.start, self.accum_iter = start, accum_iter
        self.rank, self.world_size = rank, world_size
        self._order: WholeOrder | ShardOrder
        if loader.shuffle_shards is None:
            self._order = WholeOrder(length * loader.dataset_enlarge_ratio, seed, loader.use_shuffle)
            self._share = self._order.epoch_length
        else:
            shards = check_parts(parts, length, loader, world_size)
            self._share = length * loader.dataset_enlarge_ratio // world_size
            self._order = ShardOrder(shards, self._share, loader.shuffle_shards, seed, rank, world_size)

    @property
    def epoch_length(self) -> int:
        """Samples an epoch, over all processes."""
        return self._share if self.loader.shuffle_shards is None else self._share * self.world_size

    def samples_before(self, batch: int) -> int:
        """Samples that all processes have consumed before batch number ``batch``."""
        total, done = 0, 0
        for count, size in self._stage_lengths():
            step = min(count, batch - done) if count is not None else batch - done
            total, done = total + step * size * self.world_size, done + step
        return total

    def epoch_of(self, batch: int) -> int:
        """Epoch that batch number ``batch`` begins in, counted from 0."""
        return self.samples_before(batch) // self.epoch_length

    def __iter__(self) -> Iterator[list[Request]]:
        batch, position = self.start, self.samples_before(self.start)
        while True:
            size, gt_size = self._stage(batch)
            yield [self._request(k, gt_size) for k in self._numbers(position, size)]
            batch, position = batch + 1, position + size * self.world_size

    def _numbers(self, position: int, size: int) -> range:
        """This process's samples of a batch: numbers among all processes' samples, or with shards among its own."""
        if self.loader.shuffle_shards is None:
            first = position + self.rank * size
        else:
            first = position // self.world_size
        return range(first, first + size)

    def _request(self, number: int, gt_size: int | None) -> Request:
        epoch, position = divmod(number, self._share)
        enlarged = self._order.sample(epoch, position)
        return Request(enlarged % self.length, (self.seed, epoch, enlarged), gt_size)

    def _stage_lengths(self) -> list[tuple[int | None, int]]:
        """(batches, batch size) of each stage; the last one never ends."""
        sizes, iters = self.loader.mini_batch_sizes, self.loader.iters
        if not sizes or not iters:
            return [(None, self.loader.batch_size_per_gpu)]
        counts: list[int | None] = [n * self.accum_iter for n in iters]
        return list(zip([*counts[:-1], None], sizes))

    def _stage(self, batch: int) -> tuple[int, int | None]:
        crops = self.loader.gt_sizes or [None] * len(self._stage_lengths())
        for (count, size), crop in zip(self._stage_lengths(), crops):
            if count is None or batch < count:
                return size, crop
            batch -= count
        raise AssertionError('the last stage has no end')


class WholeOrder:
    """One permutation of the whole enlarged set an epoch, which all processes share.

    Args:
        epoch_length: Samples an epoch.
        seed: The run's seed.
        shuffle: Whether to permute at all.
    """

    def __init__(self, epoch_length: int, seed: int, shuffle: bool) -> None:
        self.epoch_length, self.seed, self.shuffle = epoch_length, seed, shuffle
        self._permutation: tuple[int, np.ndarray] | None = None

    def sample(self, epoch: int, position: int) -> int:
        """The sample at a position of an epoch, as a position in the enlarged set."""
        if not self.shuffle:
            return position
        if self._permutation is None or self._permutation[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.epoch_length)
            self._permutation = (epoch, order)
        return int(self._permutation[1][position])


class ShardOrder:
    """The samples of one process when every process walks its own shards.

    Every epoch permutes the shards anew and deals them out: process ``rank`` gets every ``world_size``-th. It goes
    through them in rounds; in a round it takes ``window`` shards at a time and shuffles their samples together.

    An epoch has ``share`` samples in every process, or some would wait for others. Shards differ in size: a process
    whose shards hold more leaves the rest out of this epoch, one whose shards hold fewer begins another round, with
    other random numbers. The deal changes with the epoch, so nothing is left out for good.

    Memory and time are those of the list of shards and of one window, never of the whole set.

    Args:
        parts: Samples in each shard.
        share: Samples of one process an epoch.
        window: Shards that are mixed at a time.
        seed: The run's seed.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, parts: Sequence[int], share: int, window: int, seed: int, rank: int, world_size: int) -> None:
        self.sizes = np.asarray(parts, np.int64)
        self.length = int(self.sizes.sum())
        self.first = np.cumsum(self.sizes) - self.sizes
        self.filled = np.flatnonzero(self.sizes)
        self.share, self.window, self.seed, self.rank, self.world_size = share, window, seed, rank, world_size
        self._deal: tuple[int, np.ndarray, np.ndarray] | None = None
        self._mixed: tuple[tuple[int, int, int], np.ndarray] | None = None

    def own_shards(self, epoch: int) -> np.ndarray:
        """Numbers of this process's shards in an epoch, in the order in which it comes to them."""
        return self._dealt(epoch)[0]

    def sample(self, epoch: int, position: int) -> int:
        """The sample at a position of this process's epoch: its index, plus the set's length for every full round."""
        ends = self._dealt(epoch)[1]
        around, position = divmod(position, int(ends[-1]))
        number = int(np.searchsorted(ends, position, side='right'))
        start = int(ends[number - 1]) if number else 0
        return int(self._window(epoch, around, number)[position - start]) + around * self.length

    def _dealt(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Own shards, and how many samples there are up to the end of each window."""
        if self._deal is None or self._deal[0] != epoch:
            shards = np.random.default_rng([self.seed, epoch]).permutation(self.filled)[self.rank :: self.world_size]
            ends = np.cumsum(np.add.reduceat(self.sizes[shards], np.arange(0, len(shards), self.window)))
            self._deal = (epoch, shards, ends)
        return self._deal[1:]

    def _window(self, epoch: int, around: int, number: int) -> np.ndarray:
        """Indices of one window's samples, shuffled."""
        if self._mixed is None or self._mixed[0] != (epoch, around, number):
            shards = self.own_shards(epoch)[number * self.window : (number + 1) * self.window]
            indices = np.concatenate([np.arange(self.first[s], self.first[s] + self.sizes[s]) for s in shards])
            np.random.default_rng([self.seed, epoch, self.rank, around, number]).shuffle(indices)
            self._mixed = ((epoch, around, number), indices)
        return self._mixed[1]


def check_parts(parts: Sequence[int] | None, length: int, loader: LoaderOptions, world_size: int) -> Sequence[int]:
    """Refuses ``shuffle_shards`` where it cannot work; returns the shards' sizes.

    Args:
        parts: Samples in each shard; None where the data set does not tell.
        length: Samples in the data set.
        loader: The set's loader options, with ``shuffle_shards``.
        world_size: Number of processes.

    Raises:
        DataError: Shuffling is off, the data set does not come in shards or tells their sizes wrong, or there are
            fewer shards than processes.
    """
    given = f'shuffle_shards is {loader.shuffle_shards}'
    if not loader.use_shuffle:
        raise DataError(f'{given}, but use_shuffle is false: leave one of the two out.')
    if parts is None:
        raise DataError(
            f'{given}, but this data set does not lie in shards: it needs several tar files or LMDBs, read in order.'
        )
    if sum(parts) != length:
        raise DataError(f'{given}, but the shards of this data set hold {sum(parts)} samples, and the set {length}.')
    filled = sum(1 for part in parts if part)
    if filled < world_size:
        raise DataError(
            f'{given}, but {filled} shard(s) cannot be dealt to {world_size} processes: every process needs one of its '
            'own. Write smaller shards, or leave shuffle_shards out.'
        )
    return parts
