"""Validation: every image of a set through the network, scored, shared out over the ranks and put back in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from basicsr.errors import DataError, OptionError
from basicsr.evaluation import Evaluation, Measurement, knobs_of, open_restorer
from basicsr.image_io import to_uint8, write_image
from basicsr.loader import Fetcher, batches, eval_loader
from basicsr.protocols import Protocol, protocol_of
from basicsr.sample_stream import Request
from basicsr.sections import DatasetOptions, ValOptions
from basicsr.tiling import Restorer

REPORT_IMAGES = 60  # a set up to this size has all its images saved for the report; of a larger one, the first


@dataclass(frozen=True)
class ImageResult:
    """Scores of one image.

    Attributes:
        key: Name of the image.
        task: Its degradation, or an empty text.
        metrics: Scores of the output.
        input_metrics: Scores of the degraded input, of those metrics that can be computed of it.
        height: Of the output, in pixels.
        width: Of the output, in pixels.
        seconds: How long the network took; None where there was none.
    """

    key: str
    task: str
    metrics: dict[str, float]
    input_metrics: dict[str, float]
    height: int
    width: int
    seconds: float | None

    def record(self) -> dict[str, Any]:
        """The image as a part of the run's history."""
        return {'key': self.key, 'task': self.task, 'metrics': self.metrics, 'input_metrics': self.input_metrics}


@dataclass(frozen=True)
class ValResult:
    """Scores of a whole set.

    Attributes:
        dataset: Name of the set.
        iteration: When it was validated.
        seconds: How long that took.
        images: The images, in the order of the set.
        evaluation: How the scores were made.
        higher_better: Which way each metric points.
    """

    dataset: str
    iteration: int
    seconds: float
    images: list[ImageResult]
    evaluation: Evaluation
    higher_better: dict[str, bool]

    @property
    def metrics(self) -> dict[str, float]:
        """Mean scores of the outputs."""
        return mean_scores([i.metrics for i in self.images])

    def summary(self) -> dict[str, Any]:
        """Mean scores of the whole set and of each task."""
        tasks = {t: [i for i in self.images if i.task == t] for t in sorted({i.task for i in self.images})}
        per_task = {t: {'n': len(images), **_means(images)} for t, images in tasks.items() if t}
        return {**_means(self.images), 'per_task': per_task}

    def record(self) -> dict[str, Any]:
        """The set as a line of the run's history."""
        return {
            'kind': 'val', 'iter': self.iteration, 'dataset': self.dataset, 'seconds': round(self.seconds, 3),
            **self.summary(),
            'images': [i.record() for i in self.images],
            'protocol': str(self.evaluation), 'protocol_digest': self.evaluation.protocol.digest,
            'higher_better': self.higher_better,
        }  # fmt: skip

    def line(self, title: str = 'Validation') -> str:
        """The set as a line of the log."""
        before = mean_scores([i.input_metrics for i in self.images])
        scores = [f'{k} {f"{before[k]:.4f} -> " if k in before else ""}{v:.4f}' for k, v in self.metrics.items()]
        count = f'{len(self.images)} images, {self.seconds:.1f} s'
        return f'{title} {self.dataset}, {count}: {", ".join(scores)} ({self.evaluation.protocol.label})'


def _means(images: list[ImageResult]) -> dict[str, dict[str, float]]:
    return {
        'metrics': mean_scores([i.metrics for i in images]),
        'input_metrics': mean_scores([i.input_metrics for i in images]),
    }


def mean_scores(scores: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the images that have it."""
    names = list(dict.fromkeys(k for s in scores for k in s))
    values = {k: [s[k] for s in scores if k in s] for k in names}
    return {k: sum(v) / len(v) for k, v in values.items()}


class Validator:
    """Validates one data set whenever it is asked to.

    Args:
        dataset: The data set.
        options: Its checked block, which may choose some of the metrics.
        val: Section ``val``: protocol and metrics, and how images go through the network.
        folder: Where images go.
        device: Where the network is.
        rank: This process; it takes every ``world_size``-th image.
        world_size: Number of processes.
        gather: Collects a list from all ranks.

    Raises:
        OptionError: Protocol, metrics or the scorer of ``refine_by`` cannot be used.
        MissingWeightsError: Weights of that scorer are not on this machine.
    """

    def __init__(
        self, dataset: Dataset, options: DatasetOptions, val: ValOptions, folder: Path,
        device: torch.device, rank: int = 0, world_size: int = 1, gather: Callable[[list], list] = list,
    ) -> None:  # fmt: skip
        self.options, self.val, self.folder, self.device = options, val, folder / options.name, device
        self.measurement, self.asked = Measurement(_protocol(options, val)), knobs_of(val)
        self.dataset = dataset
        self.loader = eval_loader(dataset, options, rank, world_size, options.loader.num_worker_per_gpu)
        self.rank, self.world_size, self.gather = rank, world_size, gather
        self._input_scores: dict[str, dict[str, float]] = {}  # they never change, so they are computed once

    def check(self, net: nn.Module) -> None:
        """Makes sure, before any work, that a network can be run as section ``val`` says and its images be scored.

        Raises:
            DataError: The set lacks what a metric needs, or its first image cannot be read.
            OptionError: The network cannot be run so.
        """
        with open_restorer(net, self.device, self.val, self.asked):
            pass
        if len(self.dataset):  # type: ignore[arg-type]
            sample = Fetcher(self.dataset, self.options.name, self.options.loader.on_error)[Request(0, (0, 0, 0))]
            if 'error' in sample:
                raise DataError(sample['error'])
            given = {'img2' if k == 'gt' else k for k in sample}
            self.measurement.check(given, f"Data set '{self.options.name}'")

    def run(
        self, net: nn.Module, iteration: int, save_img: bool = False, examples: bool = False,
        progress: Callable[[int, int], None] | None = None, suffix: str | None = None,
    ) -> ValResult:  # fmt: skip
        """Validates a network.

        Args:
            net: Maps (N,3,H,W) in [0,1] to the restored image; is put into evaluation mode and back.
            iteration: For the record.
            save_img: Whether to save every restored image.
            examples: Whether to save images with input and clean image for the report.
            progress: Is told after each image how many are done, and of how many, by this process.
            suffix: What follows the image's name in the name of its file; None takes the iteration.

        Raises:
            DataError: An image cannot be read, or a metric needs a clean image that the set does not have.
            OptionError: The network cannot be run as section ``val`` says.
        """
        was_training, start = net.training, time.perf_counter()
        ending = f'_{iteration}' if suffix is None else f'_{suffix}' if suffix else ''
        net.eval()
        try:
            with open_restorer(net, self.device, self.val, self.asked) as restorer, torch.inference_mode():
                results = []
                for image in self._images(restorer, ending, save_img, examples):
                    results.append(image)
                    if progress is not None:
                        progress(len(results), len(self.loader))
        finally:
            net.train(was_training)
        shards = self.gather([(results, restorer.describe())])
        ways = ' / '.join(dict.fromkeys(way for _, way in shards))  # ranks with unlike memory may differ
        images, seconds = _interleave([shard for shard, _ in shards]), time.perf_counter() - start
        higher = self.measurement.higher_better
        return ValResult(self.options.name, iteration, seconds, images, self.evaluation(ways), higher)

    def evaluation(self, images: str) -> Evaluation:
        """How the scores are made.

        Args:
            images: How the images went through the network, in words.
        """
        val = self.val
        return Evaluation(self.measurement.protocol, images, val.self_ensemble, val.tlc, val.precision, self.asked)

    def _images(self, restorer: Restorer, ending: str, save_img: bool, examples: bool) -> Iterator[ImageResult]:
        for number, batch in enumerate(batches(self.loader)):
            key, task = batch['key'][0], batch.get('task', [''])[0]
            with self._named(key):
                lq, gt = self._prepared(batch['lq']), self._prepared(batch.get('gt'))
                output, seconds = self._restored(restorer, lq)
                scores, before = self.measurement.scores(output, gt, lq), self._scores_of_input(lq, gt, key)
            example = examples and number * self.world_size < REPORT_IMAGES
            if save_img or example:
                write_image(self.folder / f'{key}{ending}.png', to_uint8(output[0]))
            if example:
                write_image(self.folder / f'{key}_lq.png', to_uint8(lq[0]))
                if gt is not None:
                    write_image(self.folder / f'{key}_gt.png', to_uint8(gt[0]))
            yield ImageResult(key, task, scores, before, *output.shape[-2:], seconds)

    @contextmanager
    def _named(self, key: str) -> Iterator[None]:
        """Lets a complaint about an image say which one it is."""
        try:
            yield
        except DataError as error:
            raise DataError(f"Data set '{self.options.name}', '{key}': {error}") from error

    def _prepared(self, image: torch.Tensor | None) -> torch.Tensor | None:
        return None if image is None else self.measurement.prepared(image.to(self.device, non_blocking=True))

    def _restored(self, restorer: Restorer, lq: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The restored image, and the seconds it took."""
        start = time.perf_counter()
        output = restorer(lq).to(self.device)
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return output, time.perf_counter() - start

    def _scores_of_input(self, lq: torch.Tensor, gt: torch.Tensor | None, key: str) -> dict[str, float]:
        if key not in self._input_scores:
            self._input_scores[key] = self.measurement.scores_of_input(lq, gt)
        return self._input_scores[key]


def _protocol(options: DatasetOptions, val: ValOptions) -> Protocol:
    """The protocol with the metrics that are measured on a set."""
    try:
        return protocol_of(val.protocol, val.metrics).only(options.loader.metrics)
    except OptionError as error:
        raise OptionError(f"Data set '{options.name}': {error}") from error


def _interleave(shards: list[list[ImageResult]]) -> list[ImageResult]:
    """Puts the ranks' images back in the order of the set."""
    longest = max(map(len, shards), default=0)
    return [shard[i] for i in range(longest) for shard in shards if i < len(shard)]
