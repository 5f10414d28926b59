"""Pairs of degraded and clean images from two folders, as BasicSR's data set of this name reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from basicsr.errors import DataError, OptionError
from basicsr.image_io import list_images, read_image, to_tensor
from basicsr.registry import DATASET_REGISTRY
from basicsr.schema import Range

from .base_dataset import BaseDataset, Phase, first_few, stem_of, unique_keys


class Pair(NamedTuple):
    """Two files that show the same scene.

    Attributes:
        gt: Clean image.
        lq: Degraded image.
        stem: Path of the clean one below its folder, without ending.
    """

    gt: Path
    lq: Path
    stem: str


@DATASET_REGISTRY.register()
class PairedImageDataset(BaseDataset):
    """Degraded and clean images from two folders, paired by their path without ending.

    Args:
        dataroot_gt: Folder of the clean images; sub-folders are searched too.
        dataroot_lq: Folder of the degraded images, laid out in the same way.
        phase: ``train`` crops and augments; ``val`` and ``test`` give whole images.
        gt_size: Crop size of the clean image in pixels; null takes the whole image.
        use_hflip: Whether training samples are mirrored at random.
        use_rot: Whether training samples are turned at random by multiples of 90 degrees.
        filename_tmpl: Name of a degraded file from its clean one's; ``'{}x4'`` pairs ``a.png`` with ``ax4.png``.
        meta_info_file: Text file of the clean images to use, one ``name.png (h,w,c)`` a line; null uses all.
        scale: Size of the clean image divided by that of the degraded one.
        task: Degradation that the set shows, by which validation groups its figures; null leaves it out.

    Raises:
        DataError: A folder or list is missing or empty, or a file has no partner.
        OptionError: ``filename_tmpl`` has no ``{}``, or ``gt_size`` is not a multiple of ``scale``.
    """

    def __init__(
        self,
        dataroot_gt: str,
        dataroot_lq: str,
        phase: Phase = 'train',
        gt_size: Annotated[int, Range(1)] | None = None,
        use_hflip: bool = True,
        use_rot: bool = True,
        filename_tmpl: str = '{}',
        meta_info_file: str | None = None,
        scale: Annotated[int, Range(1)] = 1,
        task: str | None = None,
    ) -> None:
        super().__init__(phase, gt_size, use_hflip, use_rot, scale)
        if filename_tmpl.count('{}') != 1:
            raise OptionError(
                f"PairedImageDataset: filename_tmpl is '{filename_tmpl}'; it must hold one {{}} for the name."
            )
        self.task = task
        self.pairs = find_pairs(Path(dataroot_gt), Path(dataroot_lq), filename_tmpl, meta_info_file, phase)
        self.keys = unique_keys(p.stem for p in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, rng: np.random.Generator, gt_size: int | None = None) -> dict[str, Any]:
        """One pair; see :meth:`BaseDataset.sample`.

        Raises:
            DataError: A file cannot be read, the sizes of the two do not agree, or they are smaller than the crop.
        """
        pair = self.pairs[index]
        gt, lq = read_image(pair.gt), read_image(pair.lq)
        self._check_sizes(pair, gt, lq)
        if self.phase == 'train':
            gt, lq = self.augment(self.crop(gt, lq, rng, gt_size, str(pair.gt)), rng)
        sample = {
            'lq': to_tensor(lq),
            'gt': to_tensor(gt),
            'lq_path': str(pair.lq),
            'gt_path': str(pair.gt),
            'key': self.keys[index],
        }
        return sample if self.task is None else {**sample, 'task': self.task}

    def _check_sizes(self, pair: Pair, gt: np.ndarray, lq: np.ndarray) -> None:
        (gt_h, gt_w), (lq_h, lq_w) = gt.shape[:2], lq.shape[:2]
        if (gt_h, gt_w) != (lq_h * self.scale, lq_w * self.scale):
            relation = 'as large as' if self.scale == 1 else f'{self.scale} times as large as'
            raise DataError(f"'{pair.gt}' ({gt_w}x{gt_h}) must be {relation} '{pair.lq}' ({lq_w}x{lq_h}).")


def find_pairs(gt_root: Path, lq_root: Path, filename_tmpl: str, meta_info_file: str | None, phase: str) -> list[Pair]:
    """Pairs the images of two folders by their stems.

    Args:
        gt_root: Folder of the clean images.
        lq_root: Folder of the degraded images.
        filename_tmpl: Name of a degraded file from that of its clean one.
        meta_info_file: List of the clean images to use, or None for all; then every file must have a partner.
        phase: Which set this is, for messages.

    Raises:
        DataError: A folder or list is missing or empty, or a file has no partner; the text names set, counts and files.
    """
    gt_files, lq_files = _by_stem(gt_root), _by_stem(lq_root)
    wanted = list(gt_files) if meta_info_file is None else _listed(Path(meta_info_file))
    partner = {stem: _partner(stem, filename_tmpl) for stem in wanted}
    lost_gt = [s for s in wanted if s not in gt_files or partner[s] not in lq_files]
    used = set(partner.values())
    lost_lq = [s for s in lq_files if s not in used] if meta_info_file is None else []
    if lost_gt or lost_lq:
        sides = [f'gt {first_few(lost_gt)}'] * bool(lost_gt) + [f'lq {first_few(lost_lq)}'] * bool(lost_lq)
        raise DataError(
            f'The {phase} set does not pair up: {len(wanted)} clean images {_source(gt_root, meta_info_file)}, '
            f"{len(lq_files)} degraded ones in '{lq_root}' (filename_tmpl '{filename_tmpl}'); "
            f'without a partner: {"; ".join(sides)}.'
        )
    return [Pair(gt_files[s], lq_files[partner[s]], s) for s in wanted]


def _source(gt_root: Path, meta_info_file: str | None) -> str:
    return f"in '{gt_root}'" if meta_info_file is None else f"listed in '{meta_info_file}' for '{gt_root}'"


def _partner(stem: str, filename_tmpl: str) -> str:
    folder, slash, name = stem.rpartition('/')
    return folder + slash + filename_tmpl.replace('{}', name)


def _by_stem(root: Path) -> dict[str, Path]:
    """The images of a folder by stem, in their natural order."""
    found: dict[str, Path] = {}
    for file in list_images(root):
        other = found.setdefault(stem_of(file, root), file)
        if other is not file:
            raise DataError(f"'{other}' and '{file}' differ only in their ending; one of them must go.")
    return found


def _listed(file: Path) -> list[str]:
    """Stems named by a meta info file; the size in brackets is not needed, images are measured when read."""
    try:
        lines = file.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"meta_info_file '{file}' cannot be read: {error}.") from error
    names = [re.sub(r'\s+\([\d,\s]*\)$', '', line.strip()) for line in lines]
    stems = [Path(n).with_suffix('').as_posix() for n in names if n]
    if not stems:
        raise DataError(f"meta_info_file '{file}' names no image.")
    return stems
