"""Ladders of quality: the same view of a photograph, clean and degraded more and more, to learn a ranking from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import cv2
import numpy as np
import torch

from basicsr.errors import OptionError
from basicsr.image_io import to_tensor, to_uint8
from basicsr.image_source import Cache, IoBackend, open_source, parts_of
from basicsr.registry import DATASET_REGISTRY, DEGRADATION_REGISTRY, build, nearest
from basicsr.schema import Block, Range

from ._fields import as_float, check_chance
from ._lists import listed_stems
from .base_dataset import BaseDataset, Phase, unique_keys

Degradation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@DATASET_REGISTRY.register()
class LadderDataset(BaseDataset):
    """Photographs, each clean and under one degradation at several strengths, everything else drawn alike.

    A sample holds ``lq`` (rungs,3,h,w) float32 RGB in [0,1], the clean view first and the worst last; ``level``
    (rungs), 0 for clean to 1 for the strongest; ``task``, the degradation; ``perfect``, whether the first view is the
    photo itself; ``key``. Training draws the strengths from ``steps`` equal steps; validation and test take strengths
    halfway between these, which training never shows.

    Real photographs have faults of their own, which haze or darkness may even hide; so training can give the photo one
    first (``prior``), before all the views are made from it.

    RankIQA (X. Liu et al., ICCV 2017) learns quality from such rankings.

    Args:
        dataroot_gt: Where the clean photographs are: a folder (sub-folders are searched too), an LMDB, a folder of
            LMDBs or of WebDataset tar files, or a list of such.
        ladders: For each degradation a list of its blocks from the weakest strength to the strongest, two or more:
            ``[{type: Noise, sigma: [4, 4]}, {type: Noise, sigma: [55, 55]}]``. Numbers that differ are joined by
            straight lines; everything else must be alike.
        prior: Blocks of degradations that are faults of the photo itself; one is drawn.
        prior_p: Probability that a training photo is given a fault first.
        prior_tasks: Degradations whose ladders may begin with a fault, by their ``task``; null means all.
        rungs: Views in a sample, the clean one among them.
        steps: Strengths that training draws from.
        meta_info_file: Text file of the photographs to use, one ``name.png (h,w,c)`` a line; null uses all.
        phase: ``train`` crops, augments and draws a degradation; ``val`` and ``test`` show every photo under each.
        gt_size: Crop size in pixels; null takes the whole photo.
        use_hflip: Whether training samples are mirrored at random.
        use_rot: Whether training samples are turned at random by multiples of 90 degrees.
        val_size: Longest side of a photo in val and test; larger ones are reduced to it; null leaves them as they are.
        zoom: Range of the factor by which a training photo is reduced before it is cropped; 1 leaves it.
        cache: Decoded images kept in memory (ram) or in a file that later runs find again (memmap), or not.
        cache_dir: Folder for the memmap cache; null takes ~/.cache/qualir.
        io_backend: As in BasicSR; it may be left out, the kind of each root is recognised.

    Raises:
        DataError: A root is missing or holds no image.
        OptionError: No ladder is given, one cannot be built, or the faults do not fit.
    """

    def __init__(
        self,
        dataroot_gt: str | list[str],
        ladders: list[Annotated[list[dict], Block('degradation')]],
        prior: Annotated[list[dict], Block('degradation')] | None = None,
        prior_p: float = 0.0,
        prior_tasks: list[str] | None = None,
        rungs: Annotated[int, Range(2)] = 4,
        steps: Annotated[int, Range(2)] = 12,
        meta_info_file: str | None = None,
        phase: Phase = 'train',
        gt_size: Annotated[int, Range(1)] | None = None,
        use_hflip: bool = True,
        use_rot: bool = False,
        val_size: Annotated[int, Range(16)] | None = None,
        zoom: tuple[float, float] = (1.0, 1.0),
        cache: Cache = 'none',
        cache_dir: str | None = None,
        io_backend: IoBackend | None = None,
    ) -> None:
        super().__init__(phase, gt_size, use_hflip, use_rot)
        if not ladders or rungs > steps + 1:
            raise OptionError(
                f'LadderDataset: {len(ladders)} ladders, {rungs} rungs of {steps} steps; it needs one ladder or more '
                'and at most steps + 1 rungs.'
            )
        if not 0.05 <= zoom[0] <= zoom[1] <= 1:
            raise OptionError(f'LadderDataset: zoom is {list(zoom)}; it must be [smallest, largest] within 0.05 to 1.')
        self.rungs, self.val_size, self.zoom = rungs, val_size, zoom
        self.levels = (np.arange(steps) + (1.0 if phase == 'train' else 0.5)) / steps
        self.ladders = [_rungs(knots, self.levels) for knots in ladders]
        self.tasks = [ladder[0].task for ladder in self.ladders]
        self.prior = [build(DEGRADATION_REGISTRY, block) for block in prior or []]
        self.chances = self._chances(check_chance(self, 'prior_p', prior_p), prior_tasks)
        self.gt = open_source(dataroot_gt, 'gt', cache=cache, cache_dir=cache_dir, io_backend=io_backend)
        self.stems = self.gt.stems if meta_info_file is None else listed_stems(meta_info_file, self.gt)
        self.parts = parts_of(self.gt, self.stems)
        self.keys = self.stems if phase == 'train' else unique_keys(f'{t}_{s}' for s in self.stems for t in self.tasks)

    def _chances(self, chance: float, tasks: list[str] | None) -> list[float]:
        """How likely each ladder begins with a fault."""
        unknown = [t for t in tasks or [] if t not in self.tasks]
        if unknown:
            near = nearest(unknown[0], self.tasks)
            hint = f' Did you mean {near[0]}?' if near else f' It has {", ".join(self.tasks)}.'
            raise OptionError(f"LadderDataset: prior_tasks names '{unknown[0]}', of which it has no ladder.{hint}")
        if chance > 0 and not self.prior:
            raise OptionError(f'LadderDataset: prior_p is {chance}, but the list prior names no fault.')
        return [chance if tasks is None or t in tasks else 0.0 for t in self.tasks]

    def __len__(self) -> int:
        return len(self.stems) * (1 if self.phase == 'train' else len(self.ladders))

    def sample(self, index: int, rng: np.random.Generator, gt_size: int | None = None) -> dict[str, Any]:
        """One ladder; see :meth:`BaseDataset.sample`.

        Raises:
            DataError: The photograph cannot be read or does not fill the crop.
        """
        if self.phase == 'train':
            number, kind = index, int(rng.integers(len(self.ladders)))
            chosen = np.sort(rng.choice(len(self.levels), self.rungs - 1, replace=False))
            photo = as_float(self._window(number, rng, gt_size))
            perfect = rng.random() >= self.chances[kind]
            photo = photo if perfect else self.prior[int(rng.integers(len(self.prior)))](photo, rng)
        else:
            (number, kind), rng = divmod(index, len(self.ladders)), np.random.default_rng((0, index))
            chosen = np.linspace(0, len(self.levels) - 1, self.rungs - 1).round().astype(int)
            photo, perfect = as_float(self._reduce(self.gt.pixels(self.stems[number]))), True
        seed = int(rng.integers(2**63))
        ladder = [self.ladders[kind][step] for step in chosen]
        views = [photo, *(d(photo.copy(), np.random.default_rng(seed)) for d in ladder)]
        return {
            'lq': torch.stack([to_tensor(to_uint8(v)) for v in views]),
            'level': torch.tensor([0.0, *self.levels[chosen]], dtype=torch.float32),
            'perfect': bool(perfect), 'task': self.tasks[kind], 'key': self.keys[index],
            'lq_path': self.gt.path(self.stems[number]),
        }  # fmt: skip

    def _window(self, number: int, rng: np.random.Generator, gt_size: int | None) -> np.ndarray:
        """A crop of a photo that may have been reduced, turned before it is degraded."""
        photo, size = self.gt.pixels(self.stems[number]), gt_size or self.gt_size
        factor = float(rng.uniform(*self.zoom))
        if size is not None:
            factor = min(1.0, max(factor, size / min(photo.shape[:2])))  # the crop must still fit
        photo = _resized(photo, factor)
        photo, _ = self.crop(photo, photo, rng, gt_size, self.gt.path(self.stems[number]))
        return self.augment([photo], rng)[0]

    def _reduce(self, photo: np.ndarray) -> np.ndarray:
        longest = max(photo.shape[:2])
        return photo if self.val_size is None else _resized(photo, min(1.0, self.val_size / longest))


def _rungs(knots: list[dict[str, Any]], levels: np.ndarray) -> list[Degradation]:
    """The degradations of a ladder at some levels in [0,1].

    Raises:
        OptionError: The knots differ in more than numbers, or one cannot be built.
    """
    if len(knots) < 2:
        raise OptionError('LadderDataset: a ladder needs two blocks or more, the weakest strength first.')
    kind, first = knots[0].get('type'), knots[0]
    for knot in knots[1:]:
        odd = [k for k in {**first, **knot} if not _joinable(first.get(k), knot.get(k))]
        if odd:
            raise OptionError(
                f"LadderDataset: the blocks of the ladder of {kind} differ in '{odd[0]}', which has no values between: "
                f'{first.get(odd[0])} and {knot.get(odd[0])}.'
            )
    places = np.linspace(0, 1, len(knots))
    at = [{k: _between([knot[k] for knot in knots], places, level) for k in first} for level in levels]
    return [build(DEGRADATION_REGISTRY, block) for block in at]


def _joinable(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_joinable(x, y) for x, y in zip(a, b))
    return a == b or all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))


def _between(values: list[Any], places: np.ndarray, level: float) -> Any:
    """The value at a level; it stays as it is where all knots agree."""
    if all(v == values[0] for v in values):
        return values[0]
    if isinstance(values[0], list | tuple):
        return [_between(list(v), places, level) for v in zip(*values)]
    return float(np.interp(level, places, values))


def _resized(photo: np.ndarray, factor: float) -> np.ndarray:
    if factor >= 1:
        return photo
    height, width = (max(1, round(n * factor)) for n in photo.shape[:2])
    return cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
