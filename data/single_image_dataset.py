"""Images without a clean partner: real photographs to train on or to restore."""

from __future__ import annotations

import math
import zlib
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch

from basicsr.errors import DataError
from basicsr.image_io import to_tensor
from basicsr.image_source import Cache, IoBackend, open_source, parts_of
from basicsr.registry import DATASET_REGISTRY
from basicsr.schema import Range

from ._lists import listed_stems
from .base_dataset import BaseDataset, Phase, unique_keys

RealMode = Literal['crop', 'fixed_crop', 'resize']


@DATASET_REGISTRY.register()
class SingleImageDataset(BaseDataset):
    """Images without a clean partner, as BasicSR's data set of this name.

    A sample holds ``lq`` (3,h,w) float32 in [0,1], ``lq_path`` and ``key``, but no ``gt``. In training it also holds
    ``box``, six whole numbers (int64): top, left, height and width of the window in the image, whether it was mirrored,
    and by how many quarter turns it was then turned, counter-clockwise. Two samples of the same key and box show the
    same pixels in the same places. With ``upscale_small`` the box is that in the enlarged image.

    Args:
        dataroot_lq: Where the images are: a folder (sub-folders are searched too), an LMDB, a folder of LMDBs or of
            WebDataset tar files, or a list of such.
        phase: ``train`` crops or resizes and augments; ``val`` and ``test`` give whole images.
        gt_size: Side of a training sample in pixels, times ``scale``; null takes the whole image.
        real_mode: A random window (crop), a window that is the same in every epoch (fixed_crop), or the whole image
            made square (resize).
        interpolation: How resize does it: cubic as published, or area, which averages when it makes an image smaller.
        upscale_small: Whether an image smaller than the crop is enlarged to it; otherwise it is an error.
        use_hflip: Whether training samples are mirrored at random.
        use_rot: Whether training samples are turned at random by multiples of 90 degrees.
        meta_info_file: Text file of the images to use, one ``name.png (h,w,c)`` a line; null uses all.
        scale: Size of the restored image divided by that of the input.
        task: Degradation that the images show, by which validation groups its figures; null leaves it out.
        cache: Decoded images kept in memory (ram) or in a file that later runs find again (memmap), or not.
        cache_dir: Folder for the memmap cache; null takes ~/.cache/qualir.
        io_backend: As in BasicSR; it may be left out, the kind of each root is recognised.

    Raises:
        DataError: The root or list is missing or empty, or the list names an image that is not there.
        OptionError: ``gt_size`` is not a multiple of ``scale``.
    """

    def __init__(
        self,
        dataroot_lq: str | list[str],
        phase: Phase = 'train',
        gt_size: Annotated[int, Range(1)] | None = None,
        real_mode: RealMode = 'crop',
        interpolation: Literal['cubic', 'area'] = 'cubic',
        upscale_small: bool = False,
        use_hflip: bool = True,
        use_rot: bool = True,
        meta_info_file: str | None = None,
        scale: Annotated[int, Range(1)] = 1,
        task: str | None = None,
        cache: Cache = 'none',
        cache_dir: str | None = None,
        io_backend: IoBackend | None = None,
    ) -> None:
        super().__init__(phase, gt_size, use_hflip, use_rot, scale)
        self.real_mode, self.upscale_small, self.task = real_mode, upscale_small, task
        self.interpolation = {'cubic': cv2.INTER_CUBIC, 'area': cv2.INTER_AREA}[interpolation]
        self.lq = open_source(dataroot_lq, 'lq', cache=cache, cache_dir=cache_dir, io_backend=io_backend)
        self.stems = self.lq.stems if meta_info_file is None else listed_stems(meta_info_file, self.lq)
        self.keys = unique_keys(self.stems)
        self.parts = parts_of(self.lq, self.stems)

    def __len__(self) -> int:
        return len(self.stems)

    def sample(self, index: int, rng: np.random.Generator, gt_size: int | None = None) -> dict[str, Any]:
        """One image; see :meth:`BaseDataset.sample`.

        Raises:
            DataError: The file cannot be read, or is smaller than the crop.
        """
        stem = self.stems[index]
        image, view = self.lq.pixels(stem), {}
        if self.phase == 'train':
            image, box = self._view(image, rng, gt_size, stem)
            view = {'box': torch.tensor(box, dtype=torch.int64)}
        task = {} if self.task is None else {'task': self.task}
        return {'lq': to_tensor(image), 'lq_path': self.lq.path(stem), 'key': self.keys[index], **view, **task}

    def _view(
        self, image: np.ndarray, rng: np.random.Generator, gt_size: int | None, stem: str
    ) -> tuple[np.ndarray, tuple[int, ...]]:
        """What training sees of an image, (h,w,3), and its box."""
        size = gt_size or self.gt_size
        height, width = image.shape[:2]
        if size is not None and size % self.scale:
            raise DataError(f"'{self.lq.path(stem)}': gt_size {size} must be a multiple of scale {self.scale}.")
        side = size // self.scale if size is not None else None
        mirror, turns = self.use_hflip and bool(rng.random() < 0.5), int(rng.integers(4)) if self.use_rot else 0
        box = (0, 0, height, width)
        if side is not None and self.real_mode == 'resize':
            image = resized(image, side, side, self.interpolation)
        elif side is not None:
            image = self._enlarged(image, side, stem)
            box = self._window(image.shape, side, rng, stem)
            top, left = box[:2]
            image = image[top : top + side, left : left + side]
        turned = np.rot90(image[:, ::-1] if mirror else image, turns)
        return np.ascontiguousarray(turned), (*box, int(mirror), turns)

    def _enlarged(self, image: np.ndarray, side: int, stem: str) -> np.ndarray:
        """The image, made large enough for the crop where that is allowed."""
        height, width = image.shape[:2]
        if min(height, width) >= side:
            return image
        if not self.upscale_small:
            raise DataError(
                f"'{self.lq.path(stem)}' is {width}x{height} pixels and does not fill a crop of {side} "
                '(gt_size / scale): lower gt_size, or write upscale_small: true or real_mode: resize.'
            )
        factor = side / min(height, width)
        return resized(image, max(side, math.ceil(height * factor)), max(side, math.ceil(width * factor)))

    def _window(self, shape: tuple[int, ...], side: int, rng: np.random.Generator, stem: str) -> tuple[int, ...]:
        if self.real_mode == 'fixed_crop':
            rng = np.random.default_rng([zlib.crc32(stem.encode()), side])
        return int(rng.integers(shape[0] - side + 1)), int(rng.integers(shape[1] - side + 1)), side, side


def resized(image: np.ndarray, height: int, width: int, interpolation: int = cv2.INTER_CUBIC) -> np.ndarray:
    """An image in another size, in its own depth; overshoot of the cubic filter is clipped, not wrapped around."""
    return cv2.resize(image, (width, height), interpolation=interpolation)
