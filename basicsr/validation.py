"""Validation: every image of a set through the network, scored, shared out over the ranks and put back in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from basicsr.errors import DataError
from basicsr.image_io import to_uint8, write_image
from basicsr.loader import batches, eval_loader
from basicsr.registry import METRIC_REGISTRY
from basicsr.sections import DatasetOptions

REPORT_IMAGES = 60  # a set up to this size has all its images saved for the report; of a larger one, the first


@dataclass(frozen=True)
class ImageResult:
    """Scores of one image.

    Attributes:
        key: Name of the image.
        task: Its degradation, or an empty text.
        metrics: Scores of the output.
        input_metrics: Scores of the degraded input; empty when it differs in size from the clean image.
    """

    key: str
    task: str
    metrics: dict[str, float]
    input_metrics: dict[str, float]


@dataclass(frozen=True)
class ValResult:
    """Scores of a whole set.

    Attributes:
        dataset: Name of the set.
        iteration: When it was validated.
        seconds: How long that took.
        images: The images, in the order of the set.
        protocol: How the scores were computed, in words.
        higher_better: Which way each metric points.
    """

    dataset: str
    iteration: int
    seconds: float
    images: list[ImageResult]
    protocol: str
    higher_better: dict[str, bool]

    @property
    def metrics(self) -> dict[str, float]:
        """Mean scores of the outputs."""
        return mean_scores([i.metrics for i in self.images])

    def record(self) -> dict[str, Any]:
        """The set as a line of the run's history."""
        tasks = {t: [i for i in self.images if i.task == t] for t in sorted({i.task for i in self.images})}
        return {
            'kind': 'val', 'iter': self.iteration, 'dataset': self.dataset, 'seconds': round(self.seconds, 3),
            **_summary(self.images),
            'per_task': {t: {'n': len(images), **_summary(images)} for t, images in tasks.items() if t},
            'images': [asdict(i) for i in self.images],
            'protocol': self.protocol,
            'higher_better': self.higher_better,
        }  # fmt: skip

    def line(self) -> str:
        """The set as a line of the log."""
        before = mean_scores([i.input_metrics for i in self.images])
        scores = [f'{k} {f"{before[k]:.4f} -> " if k in before else ""}{v:.4f}' for k, v in self.metrics.items()]
        return f'Validation {self.dataset}, {len(self.images)} images, {self.seconds:.1f} s: {", ".join(scores)}'


def _summary(images: list[ImageResult]) -> dict[str, dict[str, float]]:
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
        options: Its checked block.
        metrics: Blocks of ``val.metrics``.
        folder: Where images go.
        device: Where the network is.
        rank: This process; it takes every ``world_size``-th image.
        world_size: Number of processes.
        gather: Collects a list from all ranks.
    """

    def __init__(
        self, dataset: Dataset, options: DatasetOptions, metrics: dict[str, dict[str, Any]], folder: Path,
        device: torch.device, rank: int = 0, world_size: int = 1, gather: Callable[[list], list] = list,
    ) -> None:  # fmt: skip
        self.options, self.folder, self.device = options, folder / options.name, device
        self.metrics = {label: (METRIC_REGISTRY.get(block['type']), block) for label, block in metrics.items()}
        self.loader = eval_loader(dataset, options, rank, world_size, options.loader.num_worker_per_gpu)
        self.rank, self.world_size, self.gather = rank, world_size, gather
        self._input_scores: dict[str, dict[str, float]] = {}  # they never change, so they are computed once

    @torch.inference_mode()
    def run(
        self, net: nn.Module, iteration: int, save_img: bool = False, examples: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> ValResult:  # fmt: skip
        """Validates a network.

        Args:
            net: Maps (N,3,H,W) in [0,1] to the restored image; is put into evaluation mode and back.
            iteration: For file names and the record.
            save_img: Whether to save every restored image.
            examples: Whether to save images with input and clean image for the report.
            progress: Is told after each image how many are done, and of how many, by this process.

        Raises:
            DataError: An image cannot be read, or a metric needs a clean image that the set does not have.
        """
        was_training, start = net.training, time.perf_counter()
        net.eval()
        try:
            results = []
            for image in self._images(net, iteration, save_img, examples):
                results.append(image)
                if progress is not None:
                    progress(len(results), len(self.loader))
        finally:
            net.train(was_training)
        ordered = _interleave(self.gather([results]))
        higher = {label: bool(f.higher_better) for label, (f, _) in self.metrics.items()}
        seconds = time.perf_counter() - start
        return ValResult(self.options.name, iteration, seconds, ordered, self.protocol(), higher)

    def protocol(self) -> str:
        """How the scores are computed, in words."""
        parts = []
        for label, (_, block) in self.metrics.items():
            colour = 'Y channel' if block.get('test_y_channel') else 'RGB'
            crop = f'{block["crop_border"]} px cropped' if block.get('crop_border') else 'no crop'
            parts.append(f'{label}: {block["type"]}, {colour}, {crop}')
        return '; '.join([*parts, '8-bit rounding, whole images'])

    def _images(self, net: nn.Module, iteration: int, save_img: bool, examples: bool) -> Iterator[ImageResult]:
        for number, batch in enumerate(batches(self.loader)):
            key, task = batch['key'][0], batch.get('task', [''])[0]
            lq = batch['lq'].to(self.device, non_blocking=True)
            gt = batch['gt'].to(self.device, non_blocking=True) if 'gt' in batch else None
            output = net(lq).float()
            example = examples and number * self.world_size < REPORT_IMAGES
            if save_img or example:
                write_image(self.folder / f'{key}_{iteration}.png', to_uint8(output[0]))
            if example:
                write_image(self.folder / f'{key}_lq.png', to_uint8(lq[0]))
                if gt is not None:
                    write_image(self.folder / f'{key}_gt.png', to_uint8(gt[0]))
            yield ImageResult(key, task, self._scores(output, gt, key), self._scores_of_input(lq, gt, key))

    def _scores_of_input(self, lq: torch.Tensor, gt: torch.Tensor | None, key: str) -> dict[str, float]:
        if gt is None or lq.shape != gt.shape:
            return {}
        if key not in self._input_scores:
            self._input_scores[key] = self._scores(lq, gt, key)
        return self._input_scores[key]

    def _scores(self, image: torch.Tensor, gt: torch.Tensor | None, key: str) -> dict[str, float]:
        if self.metrics and gt is None:
            raise DataError(
                f"Data set '{self.options.name}': '{key}' has no clean image to compute {', '.join(self.metrics)} with."
            )
        scores = {}
        for label, (metric, block) in self.metrics.items():
            arguments = {k: v for k, v in block.items() if k != 'type'}
            scores[label] = float(metric(image, gt, **arguments))
        return scores


def _interleave(shards: list[list[ImageResult]]) -> list[ImageResult]:
    """Puts the ranks' images back in the order of the set."""
    longest = max(map(len, shards), default=0)
    return [shard[i] for i in range(longest) for shard in shards if i < len(shard)]
