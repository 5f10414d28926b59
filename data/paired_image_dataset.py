"""Pairs of degraded and clean images, from folders, LMDBs or shards, as BasicSR's data set of this name reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np

from basicsr.errors import DataError, OptionError
from basicsr.image_io import to_tensor
from basicsr.image_lists import read_list
from basicsr.image_source import Cache, ImageSource, IoBackend, open_source, parts_of
from basicsr.registry import DATASET_REGISTRY
from basicsr.schema import Range

from ._lists import stem_of_name
from .base_dataset import BaseDataset, Phase, first_few, unique_keys


class Pair(NamedTuple):
    """Two images of the same scene, by their stems.

    Attributes:
        gt: Clean image.
        lq: Degraded image.
    """

    gt: str
    lq: str


class SameNames(Sequence[Pair]):
    """Pairs of images that have one name on both sides, made when asked for: shards may hold millions.

    Args:
        stems: The names.
    """

    def __init__(self, stems: Sequence[str]) -> None:
        self.stems = stems

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> Pair:  # type: ignore[override]
        return Pair(self.stems[index], self.stems[index])


@DATASET_REGISTRY.register()
class PairedImageDataset(BaseDataset):
    """Degraded and clean images, paired by their path without ending or by a list.

    Each root is a folder (sub-folders are searched too), an LMDB, a folder of LMDBs or of WebDataset tar files, or a
    list of such.

    Args:
        dataroot_gt: Where the clean images are.
        dataroot_lq: Where the degraded images are, named in the same way.
        phase: ``train`` crops and augments; ``val`` and ``test`` give whole images.
        gt_size: Crop size of the clean image in pixels; null takes the whole image.
        use_hflip: Whether training samples are mirrored at random.
        use_rot: Whether training samples are turned at random by multiples of 90 degrees.
        filename_tmpl: Name of a degraded file from its clean one's; ``'{}x4'`` pairs ``a.png`` with ``ax4.png``.
        meta_info_file: Text file of the pairs to use, a line each: ``name.png (h,w,c)``, or both names with a tab
            between, the clean one first; null uses all.
        scale: Size of the clean image divided by that of the degraded one.
        task: Degradation that the set shows, by which validation groups its figures; null leaves it out.
        cache: Decoded images kept in memory (ram) or in a file that later runs find again (memmap), or not.
        cache_dir: Folder for the memmap cache; null takes ~/.cache/qualir.
        io_backend: As in BasicSR; it may be left out, the kind of each root is recognised.

    Raises:
        DataError: A root or list is missing or empty, or an image has no partner.
        OptionError: ``filename_tmpl`` has no ``{}``, or ``gt_size`` is not a multiple of ``scale``.
    """

    def __init__(
        self,
        dataroot_gt: str | list[str],
        dataroot_lq: str | list[str],
        phase: Phase = 'train',
        gt_size: Annotated[int, Range(1)] | None = None,
        use_hflip: bool = True,
        use_rot: bool = True,
        filename_tmpl: str = '{}',
        meta_info_file: str | None = None,
        scale: Annotated[int, Range(1)] = 1,
        task: str | None = None,
        cache: Cache = 'none',
        cache_dir: str | None = None,
        io_backend: IoBackend | None = None,
    ) -> None:
        super().__init__(phase, gt_size, use_hflip, use_rot, scale)
        if filename_tmpl.count('{}') != 1:
            raise OptionError(
                f"PairedImageDataset: filename_tmpl is '{filename_tmpl}'; it must hold one {{}} for the name."
            )
        self.task = task
        self.gt = open_source(dataroot_gt, 'gt', cache=cache, cache_dir=cache_dir, io_backend=io_backend)
        self.lq = open_source(dataroot_lq, 'lq', cache=cache, cache_dir=cache_dir, io_backend=io_backend)
        self.pairs = find_pairs(self.gt, self.lq, filename_tmpl, meta_info_file, phase)
        clean = self.pairs.stems if isinstance(self.pairs, SameNames) else [pair.gt for pair in self.pairs]
        self.stems = clean
        self.keys = clean if phase == 'train' else self._file_names(clean)
        self.parts = parts_of(self.gt, clean)

    def _file_names(self, clean: Sequence[str]) -> list[str]:
        """Names for results: those of the clean images, unless several pairs share one."""
        return unique_keys(clean if len(set(clean)) == len(clean) else (pair.lq for pair in self.pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, rng: np.random.Generator, gt_size: int | None = None) -> dict[str, Any]:
        """One pair; see :meth:`BaseDataset.sample`.

        Raises:
            DataError: A file cannot be read, the sizes of the two do not agree, or they are smaller than the crop.
        """
        pair = self.pairs[index]
        gt_path, lq_path = self.gt.path(pair.gt), self.lq.path(pair.lq)
        gt, lq = self.gt.pixels(pair.gt), self.lq.pixels(pair.lq)
        self._check_sizes(gt, lq, gt_path, lq_path)
        if self.phase == 'train':
            gt, lq = self.augment(self.crop(gt, lq, rng, gt_size, gt_path), rng)
        sample = {
            'lq': to_tensor(lq),
            'gt': to_tensor(gt),
            'lq_path': lq_path,
            'gt_path': gt_path,
            'key': self.keys[index],
        }
        return sample if self.task is None else {**sample, 'task': self.task}

    def _check_sizes(self, gt: np.ndarray, lq: np.ndarray, gt_path: str, lq_path: str) -> None:
        (gt_h, gt_w), (lq_h, lq_w) = gt.shape[:2], lq.shape[:2]
        if (gt_h, gt_w) != (lq_h * self.scale, lq_w * self.scale):
            relation = 'as large as' if self.scale == 1 else f'{self.scale} times as large as'
            raise DataError(f"'{gt_path}' ({gt_w}x{gt_h}) must be {relation} '{lq_path}' ({lq_w}x{lq_h}).")


def find_pairs(
    gt: ImageSource, lq: ImageSource, filename_tmpl: str, meta_info_file: str | None, phase: str
) -> Sequence[Pair]:
    """Pairs the images of two sources.

    Args:
        gt: The clean images.
        lq: The degraded images.
        filename_tmpl: Name of a degraded file from that of its clean one, where no list names both.
        meta_info_file: List of the pairs to use, or None for all; then every image must have a partner.
        phase: Which set this is, for messages.

    Raises:
        DataError: The list is missing or empty, or an image has no partner; the text names set, counts and images.
    """
    if meta_info_file is None and filename_tmpl == '{}' and gt.stems == lq.stems:
        return SameNames(gt.stems)
    if meta_info_file is None:
        pairs = [Pair(stem, _partner(stem, filename_tmpl)) for stem in gt.stems]
    else:
        listed = ([stem_of_name(name) for name in names] for names in read_list(meta_info_file, most=2))
        pairs = [Pair(stems[0], stems[1] if len(stems) == 2 else _partner(stems[0], filename_tmpl)) for stems in listed]
    lost_gt = [p.gt for p in pairs if p.gt not in gt or p.lq not in lq]
    used = {p.lq for p in pairs}
    lost_lq = [s for s in lq.stems if s not in used] if meta_info_file is None else []
    if lost_gt or lost_lq:
        sides = [f'gt {first_few(lost_gt)}'] * bool(lost_gt) + [f'lq {first_few(lost_lq)}'] * bool(lost_lq)
        raise DataError(
            f'The {phase} set does not pair up: {len(pairs)} clean images {_place(gt, meta_info_file)}, '
            f"{len(lq)} degraded ones in '{lq.root}' (filename_tmpl '{filename_tmpl}'); "
            f'without a partner: {"; ".join(sides)}.'
        )
    return pairs


def _place(gt: ImageSource, meta_info_file: str | None) -> str:
    return f"in '{gt.root}'" if meta_info_file is None else f"listed in '{meta_info_file}' for '{gt.root}'"


def _partner(stem: str, filename_tmpl: str) -> str:
    folder, slash, name = stem.rpartition('/')
    return folder + slash + filename_tmpl.replace('{}', name)
