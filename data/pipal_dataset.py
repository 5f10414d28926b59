"""PIPAL as CKDN learns from it: restored images with opinions of people, their degraded and their pristine references.

J. Gu et al., "PIPAL: a large-scale image quality assessment dataset for perceptual image restoration", ECCV 2020. Split
and degraded references: H. Zheng et al., ICCV 2021, github.com/researchmm/CKDN (MIT), whose lists of images are lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from basicsr.errors import DataError, OptionError
from basicsr.image_io import natural_key, to_tensor
from basicsr.image_source import Cache, ImageSource, open_source
from basicsr.registry import DATASET_REGISTRY
from basicsr.schema import Range

from ._lists import stem_of_name
from .base_dataset import BaseDataset, Phase, first_few, unique_keys


def _types(**groups: Sequence[int]) -> frozenset[str]:
    """Names of distortions, ``00_08``, from their groups and numbers."""
    return frozenset(f'{group[1:]}_{number:02d}' for group, numbers in groups.items() for number in numbers)


# The released split, by distortion: no kind that is validated was trained on. Group 06 is left out, and group 02 is
# trained on only.
TRAIN_TYPES = _types(
    g00=(0, 1, *range(8, 12)), g01=range(9), g02=range(10), g03=(*range(5), *range(11, 17)), g04=range(8, 13),
    g05=(*range(4), *range(8, 13)),
)  # fmt: skip
VAL_TYPES = _types(
    g00=range(2, 8), g01=range(9, 16), g03=(*range(5, 11), *range(17, 24)), g04=range(8), g05=(*range(4, 8), 13)
)
NAME = re.compile(r'(?P<source>.+)_(?P<type>\d\d_\d\d)')
VIEWS = ('restored', 'lq', 'restored2', 'gt')


@dataclass(frozen=True)
class Rated:
    """A restored image of the list: its name, scene and distortion, and how people rated it (Elo points)."""

    name: str
    source: str
    kind: str
    mos: float


@DATASET_REGISTRY.register()
class PIPALDataset(BaseDataset):
    """Restored images with opinions, each beside its references and another restoration of its scene.

    A sample holds, (3,h,w) float32 RGB in [0,1] each, ``restored``; ``lq``, its matched degraded image; ``restored2``,
    a restoration of the same scene, drawn at random, possibly the same; and ``gt``, the pristine scene; the labels
    ``score`` and ``score2`` of the two restorations, ``(MOS - mos_zero) / mos_unit``, float32 (); and ``source`` and
    ``distortion``, the names of scene and distortion. CKDNModel trains on it.

    Files are called as in PIPAL and in the download of CKDN, wherever below ``dataroot_lq`` they lie:
    ``A0001_00_03.bmp``, ``ref_A0001_00_03.bmp`` for its degraded reference, ``A0001.bmp`` for the scene.

    Args:
        dataroot_lq: Where the images are: a folder (sub-folders are searched too), an LMDB, or a list of such.
        meta_info_file: Text file with a line ``A0001_00_03.bmp,1476.3`` for each restored image; a folder of such
            files, as PIPAL has one a scene; or a list of either.
        types: The distortions: ``published``, 50 in training and 39 others in validation and test, or ``all``.
        val_sources: How many scenes, the last by name, are kept for validation and test and are not trained on; 0 where
            training and validation have lists of their own, as released (175 scenes and 25).
        mos_zero: Opinion that becomes the label 0.
        mos_unit: Difference of opinions that becomes a difference of 1.
        phase: ``train`` takes the distortions and scenes of training; ``val`` and ``test`` take those of validation.
        gt_size: Crop size in training; null takes whole images, as released.
        use_hflip: Whether training samples are mirrored at random; not so in the release.
        use_rot: Whether training samples are turned at random by multiples of 90 degrees.
        cache: Decoded images kept in memory (ram) or in a file that later runs find again (memmap), or not.
        cache_dir: Folder for the memmap cache; null takes ~/.cache/qualir.

    Raises:
        DataError: A root or list is missing, a line is no name and opinion, an image is not there, or none is left.
        OptionError: ``mos_unit`` is 0.
    """

    def __init__(
        self,
        dataroot_lq: str | list[str],
        meta_info_file: str | list[str],
        types: Literal['published', 'all'] = 'published',
        val_sources: Annotated[int, Range(0)] = 0,
        mos_zero: float = 900.0,
        mos_unit: Annotated[float, Range(0)] = 1000.0,
        phase: Phase = 'train',
        gt_size: Annotated[int, Range(1)] | None = None,
        use_hflip: bool = False,
        use_rot: bool = False,
        cache: Cache = 'none',
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(phase, gt_size, use_hflip, use_rot)
        if mos_unit == 0:
            raise OptionError('PIPALDataset: mos_unit is 0; opinions are divided by it.')
        self.mos_zero, self.mos_unit = mos_zero, mos_unit
        lists = [meta_info_file] if isinstance(meta_info_file, str) else meta_info_file
        self.rated = _of_phase(_read_lists(lists), phase, types, val_sources)
        if not self.rated:
            raise DataError(f'PIPALDataset: {first_few(lists)} names no image of phase {phase}, types {types}.')
        self.images = open_source(dataroot_lq, cache=cache, cache_dir=cache_dir)
        self.stems = _stems_by_name(self.images, self.rated)
        self.scenes: dict[str, list[Rated]] = {}
        for rated in self.rated:
            self.scenes.setdefault(rated.source, []).append(rated)
        self.keys = unique_keys(rated.name for rated in self.rated)

    def __len__(self) -> int:
        return len(self.rated)

    def sample(self, index: int, rng: np.random.Generator, gt_size: int | None = None) -> dict[str, Any]:
        """One restored image with all it is compared with; see :meth:`BaseDataset.sample`.

        Raises:
            DataError: A file cannot be read, is of another size than the others, or does not fill the crop.
        """
        first = self.rated[index]
        scene = self.scenes[first.source]
        second = scene[int(rng.integers(len(scene)))]
        stems = [self.stems[name] for name in (first.name, f'ref_{first.name}', second.name, first.source)]
        views = dict(zip(VIEWS, self._views(stems, rng, gt_size)))
        return {
            **{name: to_tensor(np.ascontiguousarray(view)) for name, view in views.items()},
            'score': self._label(first), 'score2': self._label(second),
            'source': first.source, 'distortion': first.kind, 'key': self.keys[index],
            'lq_path': self.images.path(stems[1]), 'gt_path': self.images.path(stems[3]),
        }  # fmt: skip

    def _views(self, stems: list[str], rng: np.random.Generator, gt_size: int | None) -> list[np.ndarray]:
        """The images, (h,w,3), cut and turned alike in training."""
        views = [self.images.pixels(stem) for stem in stems]
        for stem, view in zip(stems, views):
            if view.shape != views[0].shape:
                sizes = ' and '.join(f'{v.shape[1]}x{v.shape[0]}' for v in (view, views[0]))
                paths = f"'{self.images.path(stem)}' and '{self.images.path(stems[0])}'"
                raise DataError(f'{paths} differ in size: {sizes}.')
        if self.phase != 'train':
            return views
        stack = np.concatenate(views, axis=2)
        stack, _ = self.crop(stack, stack, rng, gt_size, self.images.path(stems[0]))
        return np.split(self.augment([stack], rng)[0], len(views), axis=2)

    def _label(self, rated: Rated) -> torch.Tensor:
        return torch.tensor((rated.mos - self.mos_zero) / self.mos_unit, dtype=torch.float32)


def _read_lists(lists: Sequence[str]) -> list[Rated]:
    """The images of all lists.

    Raises:
        DataError: One cannot be read, a line is wrong, or an image is named twice.
    """
    files = [file for path in lists for file in _files_of(Path(path))]
    found: dict[str, Rated] = {}
    for file in files:
        for number, line in enumerate(_lines(file), start=1):
            if not line.strip() or line.startswith('#'):
                continue
            rated = _rated(line, f'{file}:{number}')
            if rated.name in found:
                raise DataError(f"{file}:{number}: '{rated.name}' was rated before; a name may be there once.")
            found[rated.name] = rated
    return list(found.values())


def _files_of(path: Path) -> list[Path]:
    return sorted(path.glob('*.txt'), key=lambda file: natural_key(file.name)) if path.is_dir() else [path]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list '{file}' cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _rated(line: str, where: str) -> Rated:
    name, _, opinion = line.strip().rpartition(',')
    stem = stem_of_name(name.strip())
    parts = NAME.fullmatch(stem)
    try:
        mos = float(opinion)
    except ValueError:
        mos = float('nan')
    if parts is None or not np.isfinite(mos):
        raise DataError(f"{where}: '{line.strip()}' is no line such as A0001_00_03.bmp,1476.3 (name and opinion).")
    return Rated(stem, parts['source'], parts['type'], mos)


def _of_phase(rated: list[Rated], phase: str, types: str, val_sources: int) -> list[Rated]:
    """The images of the list that belong to a phase, by distortion and by scene."""
    training = phase == 'train'
    if val_sources:
        sources = sorted({r.source for r in rated}, key=natural_key)  # of the whole list: the same in each phase
        held_out = set(sources[-val_sources:])
        rated = [r for r in rated if (r.source in held_out) != training]
    if types == 'published':
        allowed = TRAIN_TYPES if training else VAL_TYPES
        rated = [r for r in rated if r.kind in allowed]
    return rated


def _stems_by_name(images: ImageSource, rated: Sequence[Rated]) -> dict[str, str]:
    """The stem of every image that is needed, by its name without folders.

    Raises:
        DataError: One is not there, or in two folders.
    """
    needed = {name for r in rated for name in (r.name, f'ref_{r.name}', r.source)}
    found: dict[str, str] = {}
    for stem in images.stems:
        name = stem.rpartition('/')[2]
        if name in needed and name in found:
            raise DataError(f"'{images.path(found[name])}' and '{images.path(stem)}' are called alike.")
        found[name] = stem
    for what, names in (
        ('restored images', [r.name for r in rated]),
        ('degraded references (the download of CKDN)', [f'ref_{r.name}' for r in rated]),
        ('pristine scenes', [r.source for r in rated]),
    ):
        lost = list(dict.fromkeys(name for name in names if name not in found))
        if lost:
            raise DataError(f'PIPALDataset: {images.root} lacks {what}: {first_few(lost)}.')
    return {name: found[name] for name in needed}
