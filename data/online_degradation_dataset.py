"""Pairs made on the fly: clean photographs and degradations that are drawn from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np

from basicsr.errors import OptionError
from basicsr.image_io import list_images, read_image, to_tensor, to_uint8
from basicsr.registry import DATASET_REGISTRY, DEGRADATION_REGISTRY, build
from basicsr.schema import Block, Range

from .base_dataset import BaseDataset, Phase, stem_of, unique_keys


@DATASET_REGISTRY.register()
class OnlineDegradationDataset(BaseDataset):
    """Clean photographs, degraded on the fly and rounded to 8 bits, as a file would hold them.

    Training draws a degradation for each sample; validation and test show every photo under each one.

    Args:
        dataroot_gt: Folder of the clean photographs; sub-folders are searched too.
        degradations: Blocks of degradations, such as ``{type: Haze, beta: [0.5, 2.0]}``; all are equally likely.
        phase: ``train`` crops and augments; ``val`` and ``test`` give whole photos, degraded alike at every call.
        gt_size: Crop size in pixels; null takes the whole photo.
        use_hflip: Whether training samples are mirrored at random.
        use_rot: Whether training samples are turned at random by multiples of 90 degrees.
        val_size: Longest side of a photo in val and test; larger ones are reduced to it; null leaves them as they are.
        cache_mb: Megabytes of decoded photos that each loader process keeps; what does not fit is decoded each time.

    Raises:
        DataError: The folder is missing or holds no image.
        OptionError: No degradation is given, or one of them cannot be built.
    """

    def __init__(
        self,
        dataroot_gt: str,
        degradations: Annotated[list[dict], Block('degradation')],
        phase: Phase = 'train',
        gt_size: Annotated[int, Range(1)] | None = None,
        use_hflip: bool = True,
        use_rot: bool = True,
        val_size: Annotated[int, Range(16)] | None = None,
        cache_mb: Annotated[int, Range(0)] = 512,
    ) -> None:
        super().__init__(phase, gt_size, use_hflip, use_rot)
        if not degradations:
            raise OptionError(
                'OnlineDegradationDataset: degradations is empty; it must list at least one block with a type.'
            )
        self.degradations = [build(DEGRADATION_REGISTRY, block) for block in degradations]
        self.files = list_images(dataroot_gt)
        self.val_size = val_size
        self._cache: dict[int, np.ndarray] = {}
        self._cache_left = cache_mb * 1_000_000
        stems = [stem_of(f, Path(dataroot_gt)) for f in self.files]
        self.keys = unique_keys(
            stems if phase == 'train' else [f'{d.task}_{s}' for s in stems for d in self.degradations]
        )

    def __len__(self) -> int:
        return len(self.files) * (1 if self.phase == 'train' else len(self.degradations))

    def sample(self, index: int, rng: np.random.Generator, gt_size: int | None = None) -> dict[str, Any]:
        """One pair; in val and test ``rng`` is not used, since the index alone fixes the sample.

        Raises:
            DataError: The photo cannot be read, or is smaller than the crop.
        """
        if self.phase == 'train':
            number, degradation = index, self.degradations[int(rng.integers(len(self.degradations)))]
            photo = self._window(number, rng, gt_size)
            key = f'{degradation.task}_{self.keys[number]}'
        else:
            number, kind = divmod(index, len(self.degradations))
            degradation, rng = self.degradations[kind], np.random.default_rng((0, index))
            photo, key = self._photo(number), self.keys[index]
        clean, path = photo.astype(np.float32) / np.float32(255), str(self.files[number])
        lq, gt = to_tensor(to_uint8(degradation(clean, rng))), to_tensor(clean)
        return {'lq': lq, 'gt': gt, 'lq_path': path, 'gt_path': path, 'key': key, 'task': degradation.task}

    def _window(self, number: int, rng: np.random.Generator, gt_size: int | None) -> np.ndarray:
        """A crop, turned before it is degraded: rain falls downwards whichever way the photo is held."""
        photo = self._photo(number)
        photo, _ = self.crop(photo, photo, rng, gt_size, str(self.files[number]))
        return self.augment([photo], rng)[0]

    def _photo(self, number: int) -> np.ndarray:
        """A photo, (H,W,3) uint8, from memory if it is there."""
        if number in self._cache:
            return self._cache[number]
        photo = to_uint8(self._reduce(read_image(self.files[number])))
        if photo.nbytes <= self._cache_left:
            self._cache[number] = photo
            self._cache_left -= photo.nbytes
        return photo

    def _reduce(self, photo: np.ndarray) -> np.ndarray:
        height, width = photo.shape[:2]
        if self.phase == 'train' or self.val_size is None or max(height, width) <= self.val_size:
            return photo
        factor = self.val_size / max(height, width)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes start with an empty cache, rather than with a pickled copy of it."""
        freed = sum(p.nbytes for p in self._cache.values())
        return {**self.__dict__, '_cache': {}, '_cache_left': self._cache_left + freed}
