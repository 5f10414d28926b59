"""Feeds training: the processes that load what a :class:`SampleStream` asks for.

Sample number ``k`` of a run is fixed by the seed, see :mod:`basicsr.sample_stream`. A resumed run therefore only has to
know how many iterations are done.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from basicsr import rng as rng_streams
from basicsr.errors import DataError
from basicsr.sample_stream import Request, SampleStream, check_parts
from basicsr.sections import DatasetOptions, LoaderOptions

SKIP_LIMIT = 100  # unreadable samples in a row after which something else must be wrong


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
    """Refuses a training set that cannot fill one batch, or whose shards do not go round.

    Raises:
        DataError: It is empty, smaller than a batch of all processes, or ``shuffle_shards`` cannot work with it.
    """
    loader = options.loader
    length = len(dataset) * loader.dataset_enlarge_ratio  # type: ignore[arg-type]
    largest = max(loader.mini_batch_sizes or [loader.batch_size_per_gpu]) * world_size
    if length < largest:
        raise DataError(
            f"Data set '{options.name}' gives {length} samples an epoch, fewer than one batch of {largest}: "
            'lower batch_size_per_gpu, or raise dataset_enlarge_ratio.'
        )
    if loader.shuffle_shards is not None:
        try:
            check_parts(getattr(dataset, 'parts', None), len(dataset), loader, world_size)  # type: ignore[arg-type]
        except DataError as error:
            raise DataError(f"Data set '{options.name}': {error}") from None


def train_loader(dataset: Dataset, options: DatasetOptions, stream: SampleStream, pin_memory: bool) -> DataLoader:
    """The endless loader of a training set."""
    fetcher = Fetcher(dataset, options.name, options.loader.on_error)
    return _loader(fetcher, options.loader, pin_memory, batch_sampler=stream)


def eval_loader(dataset: Dataset, options: DatasetOptions, rank: int, world_size: int, workers: int) -> DataLoader:
    """A validation set, one image a batch; each rank gets every ``world_size``-th image."""
    requests = [[Request(i, (0, 0, i))] for i in range(rank, len(dataset), world_size)]  # type: ignore[arg-type]
    fetcher = Fetcher(dataset, options.name, options.loader.on_error)
    method = options.loader.start_method
    loader = LoaderOptions(num_worker_per_gpu=workers, prefetch_factor=2, start_method=method)
    return _loader(fetcher, loader, False, batch_sampler=requests, persistent_workers=workers > 0)


def _loader(fetcher: Fetcher, loader: LoaderOptions, pin_memory: bool, **settings: Any) -> DataLoader:
    workers = loader.num_worker_per_gpu
    if workers:
        settings.update(
            prefetch_factor=loader.prefetch_factor,
            worker_init_fn=quiet_worker,
            multiprocessing_context=loader.start_method,
        )
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
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
