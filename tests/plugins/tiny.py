"""A data set and a network for tests of the engine: small, random where a run may be, imported by ``imports:``."""

import time

import numpy as np
import torch
from torch import nn

from basicsr.errors import DataError
from basicsr.registry import ARCH_REGISTRY, DATASET_REGISTRY


@DATASET_REGISTRY.register()
class TinyDataset(torch.utils.data.Dataset):
    """Fixed clean images under random noise.

    Args:
        length: Number of images.
        size: Side of the images.
        broken: Indices that cannot be read.
        explode_from: Index from which the clean image is infinite.
        seconds: Time that loading one sample takes.
        phase: Given by the engine.
    """

    def __init__(
        self,
        length: int = 10,
        size: int = 16,
        broken: list[int] | None = None,
        explode_from: int | None = None,
        seconds: float = 0.0,
        phase: str = 'train',
    ):
        self.length, self.size, self.phase = length, size, phase
        self.broken, self.explode_from, self.seconds = broken or [], explode_from, seconds

    def __len__(self):
        return self.length

    def sample(self, index, rng, gt_size=None):
        time.sleep(self.seconds)
        if index in self.broken:
            raise DataError(f'tiny_{index}.png is empty.')
        side = gt_size or self.size
        gt = np.random.default_rng(index).random((3, side, side), dtype=np.float32)
        lq = 0.5 * gt + 0.2 * rng.random((3, side, side), dtype=np.float32)
        if self.explode_from is not None and index >= self.explode_from:
            gt = gt * np.inf
        return {
            'lq': torch.from_numpy(lq),
            'gt': torch.from_numpy(gt.astype(np.float32)),
            'key': f'tiny_{index}',
            'task': 'even' if index % 2 == 0 else 'odd',
        }


@ARCH_REGISTRY.register()
class TinyNet(nn.Module):
    """Uses everything that an exact resume must bring back: buffers (BatchNorm) and random numbers (dropout).

    Args:
        width: Channels.
        dropout: Share of activations that are dropped in training.
    """

    def __init__(self, width: int = 8, dropout: float = 0.1):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.GELU(), nn.Dropout(dropout),
            nn.Conv2d(width, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, x):
        return x + self.body(x)
