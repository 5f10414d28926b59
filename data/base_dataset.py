"""What all data sets share: samples drawn from a given generator, crops, flips, and file-safe names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from basicsr.errors import DataError, OptionError

Phase = Literal['train', 'val', 'test']


class BaseDataset(Dataset, ABC):
    """A set of samples, each a function of its index and of a random generator.

    A sample holds ``lq`` (3,h,w) and ``gt`` (3,h*scale,w*scale), float32 RGB in [0,1]; ``lq_path`` and ``gt_path``;
    ``key``, a name that is unique in the set and, outside training, can be a file name; and, where it is known,
    ``task``, by which validation groups its figures.

    ``parts`` says how many consecutive samples lie in each file that can be read on its own (an LMDB, a tar file), for
    ``shuffle_shards``; None where that is not known.

    Args:
        phase: ``train`` crops and augments; ``val`` and ``test`` give whole images.
        gt_size: Crop size of the clean image in pixels; null takes the whole image.
        use_hflip: Whether training samples are mirrored at random.
        use_rot: Whether training samples are turned at random by multiples of 90 degrees.
        scale: Size of the clean image divided by that of the degraded one.

    Raises:
        OptionError: ``gt_size`` or ``scale`` makes no crop.
    """

    parts: list[int] | None = None

    def __init__(
        self,
        phase: Phase = 'train',
        gt_size: int | None = None,
        use_hflip: bool = True,
        use_rot: bool = True,
        scale: int = 1,
    ) -> None:
        if scale < 1 or (gt_size is not None and (gt_size < 1 or gt_size % scale)):
            raise OptionError(
                f'{type(self).__name__}: gt_size is {gt_size}; it must be a positive multiple of scale ({scale}).'
            )
        self.phase, self.gt_size, self.scale = phase, gt_size, scale
        self.use_hflip, self.use_rot = use_hflip, use_rot

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples in an epoch."""

    @abstractmethod
    def sample(self, index: int, rng: np.random.Generator, gt_size: int | None = None) -> dict[str, Any]:
        """One sample.

        Args:
            index: Which one.
            rng: Where all random numbers come from.
            gt_size: Crop size instead of the set's own, in training only.

        Raises:
            DataError: A file cannot be used; the text names it.
        """

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample at ``index``, the same at every call."""
        if not 0 <= index < len(self):
            raise IndexError(f'index {index} of a set of {len(self)}')
        return self.sample(index, np.random.default_rng((0, index)))

    def crop(
        self, gt: np.ndarray, lq: np.ndarray, rng: np.random.Generator, gt_size: int | None, name: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cuts the same random window out of a pair, (H,W,3) arrays.

        Args:
            gt: Clean image.
            lq: Degraded image, ``scale`` times smaller.
            rng: Places the window.
            gt_size: Size that overrides the set's own.
            name: The clean file, for messages.

        Raises:
            DataError: The image is smaller than the window.
        """
        size = gt_size or self.gt_size
        if size is None:
            return gt, lq
        small = size // self.scale
        room = lq.shape[0] - small, lq.shape[1] - small
        if min(room) < 0 or size % self.scale:
            limit = f'gt_size {size}' + (
                f', which must be a multiple of scale {self.scale}' if size % self.scale else ''
            )
            raise DataError(f"'{name}' is {gt.shape[1]}x{gt.shape[0]} pixels and does not fill a crop of {limit}.")
        top, left = (int(rng.integers(r + 1)) for r in room)
        window = gt[top * self.scale : top * self.scale + size, left * self.scale : left * self.scale + size]
        return window, lq[top : top + small, left : left + small]

    def augment(self, images: Iterable[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Mirrors and turns (H,W,3) arrays, all in the same way."""
        mirror, turns = rng.random() < 0.5, int(rng.integers(4))
        mirror, turns = mirror and self.use_hflip, turns if self.use_rot else 0
        return [np.ascontiguousarray(np.rot90(i[:, ::-1] if mirror else i, turns)) for i in images]


def unique_keys(stems: Iterable[str]) -> list[str]:
    """Names for files in one folder, from stems; what would coincide, also where case is ignored, gets a number."""
    keys: list[str] = []
    taken: set[str] = set()
    for stem in stems:
        key = base = stem.replace('/', '_')
        number = 2
        while key.lower() in taken:
            key, number = f'{base}-{number}', number + 1
        taken.add(key.lower())
        keys.append(key)
    return keys


def first_few(names: Iterable[str], count: int = 3) -> str:
    """The first names of a list, quoted, and how many more there are."""
    names = list(names)
    more = f' and {len(names) - count} more' if len(names) > count else ''
    return ', '.join(f"'{n}'" for n in names[:count]) + more
