"""Pairs made on the fly: clean photographs and degradations that are drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import cv2
import numpy as np

from basicsr.errors import DataError, OptionError
from basicsr.image_io import to_tensor, to_uint8
from basicsr.image_source import Cache, IoBackend, open_source, parts_of
from basicsr.registry import DATASET_REGISTRY, DEGRADATION_REGISTRY, build
from basicsr.schema import Block, Range

from ._fields import as_float
from ._lists import listed_stems
from .base_dataset import BaseDataset, Phase, first_few, unique_keys


@DATASET_REGISTRY.register()
class OnlineDegradationDataset(BaseDataset):
    """Clean photographs, degraded on the fly and rounded to 8 bits, as a file would hold them.

    Training draws a degradation for each sample; validation and test show every photo under each one.

    Args:
        dataroot_gt: Where the clean photographs are: a folder (sub-folders are searched too), an LMDB, a folder of
            LMDBs or of WebDataset tar files, or a list of such.
        degradations: Blocks of degradations, such as ``{type: Haze, beta: [0.5, 2.0]}``; all are equally likely.
        dataroot_depth: Where the depth maps are, grey images named and sized like the photographs, white is farthest;
            null lets each degradation draw its own.
        dataroot_source: Where the photographs are that inputs are made from, named and sized like those of
            ``dataroot_gt``, where these are versions of them of unlike quality: the input then does not tell how good
            the clean image is. null makes them from the clean images. Not with dataroot_depth.
        inverse_depth: Whether white is nearest in the depth maps, as monocular depth networks give them.
        meta_info_file: Text file of the photographs to use, one ``name.png (h,w,c)`` a line; null uses all.
        phase: ``train`` crops and augments; ``val`` and ``test`` give whole photos, degraded alike at every call.
        gt_size: Crop size in pixels; null takes the whole photo.
        use_hflip: Whether training samples are mirrored at random.
        use_rot: Whether training samples are turned at random by multiples of 90 degrees.
        val_size: Longest side of a photo in val and test; larger ones are reduced to it; null leaves them as they are.
        cache: Decoded images kept in memory (ram) or in a file that later runs find again (memmap), or not.
        cache_dir: Folder for the memmap cache; null takes ~/.cache/qualir.
        io_backend: As in BasicSR; it may be left out, the kind of each root is recognised.

    Raises:
        DataError: A root is missing or holds no image, or a photograph has no depth map or source.
        OptionError: No degradation is given, or one of them cannot be built, or there are depth maps and sources.
    """

    def __init__(
        self,
        dataroot_gt: str | list[str],
        degradations: Annotated[list[dict], Block('degradation')],
        dataroot_depth: str | list[str] | None = None,
        dataroot_source: str | list[str] | None = None,
        inverse_depth: bool = False,
        meta_info_file: str | None = None,
        phase: Phase = 'train',
        gt_size: Annotated[int, Range(1)] | None = None,
        use_hflip: bool = True,
        use_rot: bool = True,
        val_size: Annotated[int, Range(16)] | None = None,
        cache: Cache = 'none',
        cache_dir: str | None = None,
        io_backend: IoBackend | None = None,
    ) -> None:
        super().__init__(phase, gt_size, use_hflip, use_rot)
        if not degradations:
            raise OptionError(
                'OnlineDegradationDataset: degradations is empty; it must list at least one block with a type.'
            )
        self.degradations = [build(DEGRADATION_REGISTRY, block) for block in degradations]
        if dataroot_depth and dataroot_source:
            raise OptionError('OnlineDegradationDataset: dataroot_depth and dataroot_source do not go together.')
        self.val_size, self.inverse_depth = val_size, inverse_depth
        opened = {'cache': cache, 'cache_dir': cache_dir, 'io_backend': io_backend}
        self.gt = open_source(dataroot_gt, 'gt', **opened)
        self.depth = open_source(dataroot_depth, 'depth', 'grey', **opened) if dataroot_depth else None
        self.source = open_source(dataroot_source, 'source', **opened) if dataroot_source else None
        self.stems = self.gt.stems if meta_info_file is None else listed_stems(meta_info_file, self.gt)
        self._check_partners()
        self.parts = parts_of(self.gt, self.stems)
        self.keys = self.stems if phase == 'train' else self._file_names()

    def _file_names(self) -> list[str]:
        return unique_keys(f'{d.task}_{s}' for s in self.stems for d in self.degradations)

    def _check_partners(self) -> None:
        for source, what in ((self.depth, 'depth map'), (self.source, 'source')):
            lost = [] if source is None else [s for s in self.stems if s not in source]
            if lost:
                raise DataError(f"'{source.root}' holds no {what} of {first_few(lost)}.")

    def __len__(self) -> int:
        return len(self.stems) * (1 if self.phase == 'train' else len(self.degradations))

    def sample(self, index: int, rng: np.random.Generator, gt_size: int | None = None) -> dict[str, Any]:
        """One pair; in val and test ``rng`` is not used, since the index alone fixes the sample.

        Raises:
            DataError: The photo cannot be read, or is smaller than the crop.
        """
        if self.phase == 'train':
            number, degradation = index, self.degradations[int(rng.integers(len(self.degradations)))]
            photo, other = self._window(number, rng, gt_size)
            key = f'{degradation.task}_{self.keys[number]}'
        else:
            number, kind = divmod(index, len(self.degradations))
            degradation, rng = self.degradations[kind], np.random.default_rng((0, index))
            photo, other = (self._reduce(i) for i in self._photo(number))
            key = self.keys[index]
        clean = as_float(photo)
        if self.source is None:
            degraded = self._degrade(degradation, clean, rng, other)
        else:
            degraded = degradation(as_float(other), rng)
        path = self.gt.path(self.stems[number])
        return {
            'lq': to_tensor(to_uint8(degraded)), 'gt': to_tensor(clean), 'lq_path': path, 'gt_path': path,
            'key': key, 'task': degradation.task,
        }  # fmt: skip

    def _degrade(
        self, degradation: Callable[..., np.ndarray], clean: np.ndarray, rng: np.random.Generator,
        depth: np.ndarray | None,
    ) -> np.ndarray:  # fmt: skip
        if depth is None or not getattr(degradation, 'uses_depth', False):
            return degradation(clean, rng)
        far = as_float(depth)
        return degradation(clean, rng, 1 - far if self.inverse_depth else far)

    def _window(self, number: int, rng: np.random.Generator, gt_size: int | None) -> list[np.ndarray | None]:
        """A crop, turned before it is degraded: rain falls downwards whichever way the photo is held."""
        photo, partner = self._photo(number)
        other = photo if partner is None else partner
        photo, other = self.crop(photo, other, rng, gt_size, self.gt.path(self.stems[number]))
        if partner is None:
            return [*self.augment([photo], rng), None]
        return list(self.augment([photo, other], rng))

    def _photo(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """A photo, (H,W,3), and its depth map, (H,W), or its source, (H,W,3), in the depths of their files."""
        stem = self.stems[number]
        photo, partners = self.gt.pixels(stem), self.source if self.depth is None else self.depth
        other = None if partners is None else partners.pixels(stem)
        if other is not None and other.shape[:2] != photo.shape[:2]:
            raise DataError(
                f"{'Depth map' if self.source is None else 'Source'} '{partners.path(stem)}' is "
                f'{other.shape[1]}x{other.shape[0]}; the photograph is {photo.shape[1]}x{photo.shape[0]}.'
            )
        return photo, other

    def _reduce(self, image: np.ndarray | None) -> np.ndarray | None:
        if image is None or self.val_size is None or max(image.shape[:2]) <= self.val_size:
            return image
        height, width = image.shape[:2]
        factor = self.val_size / max(height, width)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
