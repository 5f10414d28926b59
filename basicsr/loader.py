"""Feeds training: which sample comes when, with which random numbers, and the processes that load it.

Sample number ``k`` of a run is fixed by the seed alone: its index by the epoch's permutation, its random numbers by
(seed, epoch, index). Neither the number of loader processes, nor a stop and resume, nor the number of training
processes changes it. A resumed run therefore only has to know how many iterations are done.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from basicsr import rng as rng_streams
from basicsr.errors import DataError
from basicsr.sections import DatasetOptions, LoaderOptions

SKIP_LIMIT = 100  # unreadable samples in a row after which something else must be wrong


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
    """

    def __init__(
        self, length: int, loader: LoaderOptions, seed: int, start: int = 0, accum_iter: int = 1,
        rank: int = 0, world_size: int = 1,
    ) -> None:  # fmt: skip
        self.length, self.loader, self.seed = length, loader, seed
        self.start, self.accum_iter = start, accum_iter
        self.rank, self.world_size = rank, world_size
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def epoch_length(self) -> int:
        """Samples an epoch, over all processes."""
        return self.length * self.loader.dataset_enlarge_ratio

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
            first = position + self.rank * size
            yield [self._request(k, gt_size) for k in range(first, first + size)]
            batch, position = batch + 1, position + size * self.world_size

    def _request(self, number: int, gt_size: int | None) -> Request:
        epoch, position = divmod(number, self.epoch_length)
        enlarged = int(self._permutation(epoch)[position])
        return Request(enlarged % self.length, (self.seed, epoch, enlarged), gt_size)

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            order = np.arange(self.epoch_length)
            if self.loader.use_shuffle:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.epoch_length)
            self._order = (epoch, order)
        return self._order[1]

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


class Fetcher(Dataset):
    """Answers requests from a data set, in a loader process.

    A data set with a ``sample`` method gets its own generator. Any other draws from the global streams, which are
    seeded for the one call. With ``on_error: skip`` an unreadable image is replaced by the next one, and named in the
    sample. An error travels back as a value, since an exception from a loader process would arrive wrapped in a
    traceback.

    Args:
        dataset: The data set.
        name: Its name, for messages.
        on_error: ``raise`` or ``skip``.
    """

    def __init__(self, dataset: Dataset, name: str, on_error: str = 'raise') -> None:
        self.dataset, self.name, self.on_error = dataset, name, on_error

    def __getitem__(self, request: Request) -> dict[str, Any]:
        skipped: list[str] = []
        for attempt in range(SKIP_LIMIT):
            index = (request.index + attempt) % len(self.dataset)  # type: ignore[arg-type]
            try:
                return {**self._sample(request._replace(index=index)), 'skipped': '\n'.join(skipped)}
            except DataError as error:
                if self.on_error == 'raise':
                    return {'error': f"Data set '{self.name}': {error}"}
                skipped.append(str(error))
        return {'error': f"Data set '{self.name}': {SKIP_LIMIT} unreadable images in a row; the first: {skipped[0]}"}

    def _sample(self, request: Request) -> dict[str, Any]:
        if hasattr(self.dataset, 'sample'):
            return self.dataset.sample(request.index, np.random.default_rng(list(request.key)), request.gt_size)
        with rng_streams.seeded(request.key):
            return self.dataset[request.index]


def check_size(dataset: Dataset, options: DatasetOptions, world_size: int) -> None:
    """Refuses a training set that cannot fill one batch.

    Raises:
        DataError: It is empty or smaller than a batch of all processes.
    """
    loader = options.loader
    length = len(dataset) * loader.dataset_enlarge_ratio  # type: ignore[arg-type]
    largest = max(loader.mini_batch_sizes or [loader.batch_size_per_gpu]) * world_size
    if length < largest:
        raise DataError(
            f"Data set '{options.name}' gives {length} samples an epoch, fewer than one batch of {largest}: "
            'lower batch_size_per_gpu, or raise dataset_enlarge_ratio.'
        )


def train_loader(dataset: Dataset, options: DatasetOptions, stream: SampleStream, pin_memory: bool) -> DataLoader:
    """The endless loader of a training set."""
    fetcher = Fetcher(dataset, options.name, options.loader.on_error)
    return _loader(fetcher, options.loader, pin_memory, batch_sampler=stream)


def eval_loader(dataset: Dataset, options: DatasetOptions, rank: int, world_size: int, workers: int) -> DataLoader:
    """A validation set, one image a batch; each rank gets every ``world_size``-th image."""
    requests = [[Request(i, (0, 0, i))] for i in range(rank, len(dataset), world_size)]  # type: ignore[arg-type]
    fetcher = Fetcher(dataset, options.name, options.loader.on_error)
    loader = LoaderOptions(num_worker_per_gpu=workers, prefetch_factor=2)
    return _loader(fetcher, loader, False, batch_sampler=requests, persistent_workers=workers > 0)


def _loader(fetcher: Fetcher, loader: LoaderOptions, pin_memory: bool, **settings: Any) -> DataLoader:
    workers = loader.num_worker_per_gpu
    if workers:
        settings.update(prefetch_factor=loader.prefetch_factor, worker_init_fn=quiet_worker)
    # A generator of its own: the loader's base seed must not be drawn from the training stream.
    return DataLoader(
        fetcher, num_workers=workers, collate_fn=collate, pin_memory=pin_memory, generator=torch.Generator(), **settings
    )


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacks tensors and keeps strings as lists; one failed sample makes a failed batch."""
    failed = [s['error'] for s in samples if 'error' in s]
    if failed:
        return {'error': failed[0]}
    return {
        k: [s[k] for s in samples] if isinstance(samples[0][k], str) else default_collate([s[k] for s in samples])
        for k in samples[0]
    }


def batches(loader: DataLoader) -> Iterator[dict[str, Any]]:
    """The batches of a loader.

    Raises:
        DataError: A sample could not be read.
    """
    for batch in loader:
        if 'error' in batch:
            raise DataError(batch['error'])
        yield batch


def quiet_worker(worker: int) -> None:
    """Starts a loader process: one thread each; signals to the whole group are the trainer's business."""
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
