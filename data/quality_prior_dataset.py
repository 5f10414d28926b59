"""A data set with the image quality prior of IQPIR: how good each clean image is, and, if wanted, its codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from basicsr.code_file import CodeFile
from basicsr.errors import DataError, OptionError
from basicsr.iqa.scores import SCORE_COLUMN, quantile, read_scores
from basicsr.logger import get_root_logger
from basicsr.options import find_file
from basicsr.registry import DATASET_REGISTRY
from basicsr.schema import Block, Range

from ._members import build_member, draw_sample, fork
from .base_dataset import BaseDataset, Phase, first_few

BEST = (30, 15, 5)  # per cent of the images, whose threshold the log tells


@DATASET_REGISTRY.register()
class QualityPriorDataset(BaseDataset):
    """Another data set, whose samples are told how good their clean image is.

    Every sample of ``dataset`` is given ``score``, float32 in [0,1], (), or (M,) where M ``columns`` are named; with
    ``tau_quantile`` also ``hq_mask``, float32 (), 1 where the score lies above that quantile, else 0; and with
    ``codes`` also ``codes``, int64 (K,h,w). Where several scores are one, that is their mean. Where the inner data set
    has no clean images (SingleImageDataset, for autoencoders), its images are the clean ones: ``gt`` is ``lq``. The log
    says above which score the best images lie, for the ``tau`` of a training method.

    A score is found by the name of the clean image, its path below the root without ending, or else by the last part
    of that path. In a MixtureDataset this data set is a member, not the other way round.

    Codes belong to a whole image that is mirrored or not. So with ``codes`` the inner data set may not crop, mirror or
    turn (``use_hflip: false``, ``use_rot: false``); ``use_hflip`` here mirrors, after the degradation, and takes the
    mirror image's codes.

    IQPIR, arXiv:2603.29773 (github.com/fengyang1399-pixel/IQPIR, a4408c7).

    Args:
        dataset: Block of a data set of clean images, such as PairedImageDataset or OnlineDegradationDataset.
        scores: Table of tools/score_dataset.py, or a list of tables, joined one below the other.
        columns: Columns to take as scores; null takes ``score``. Those of an ensemble's members hold raw scores.
        normalize: Whether each column is brought to [0,1] by its smallest and largest value in the tables.
        lower_better: Columns in which a smaller number is better; they are turned round, with ``normalize``.
        min_score: Images with a lower score are left out; null keeps all.
        tau_quantile: Part of the tables, 0 to 1, that lies below the threshold of ``hq_mask``; null gives no mask.
        codes: File of tools/export_latents.py whose codes samples are given; null gives none.
        use_hflip: Whether training samples are mirrored here at random; the inner data set then may not.
        gt_size: Crop size of the clean image in pixels; null leaves it to the inner data set.
        phase: Passed on to the inner data set.
        scale: Size of the clean image divided by that of the degraded one.

    Raises:
        DataError: A table or file cannot be read, an image has no score or no codes, a score is not within [0,1], or
            no image is good enough.
        OptionError: The inner data set does not tell the names of its images, or mirrors where it must not.
    """

    def __init__(
        self,
        dataset: Annotated[dict, Block('dataset')],
        scores: str | list[str],
        columns: list[str] | None = None,
        normalize: bool = False,
        lower_better: list[str] = [],  # noqa: B006  (only read)
        min_score: Annotated[float, Range(0, 1)] | None = None,
        tau_quantile: Annotated[float, Range(0, 1)] | None = None,
        codes: str | None = None,
        use_hflip: bool = False,
        gt_size: Annotated[int, Range(1)] | None = None,
        phase: Phase = 'train',
        scale: Annotated[int, Range(1)] = 1,
    ) -> None:
        super().__init__(phase, gt_size, use_hflip, use_rot=False, scale=scale)
        self.inner = build_member('dataset', dataset, phase, scale)
        self.stems = _stems_of(self.inner)
        tables = [scores] if isinstance(scores, str) else scores
        found = [_read_column(tables, c, normalize, c in lower_better) for c in columns or [SCORE_COLUMN]]
        _check_turned(lower_better, columns or [SCORE_COLUMN], normalize)
        names = _names_in(found[0], self.stems, f'no score in {first_few(tables)}')
        self.scores = np.array([[column[name] for column in found] for name in names], np.float32)
        self.means = self.scores.mean(1)
        self.single = columns is None
        of_all = np.mean([list(map(column.get, found[0])) for column in found], 0)
        self.tau = None if tau_quantile is None else np.float32(quantile(of_all, tau_quantile))
        self.kept = self._good_enough(min_score)
        self.parts = _parts(self.inner, self.kept)
        self.codes = CodeFile(find_file(codes)) if codes else None
        if self.codes is not None:
            wanted = [self.stems[k] for k in np.unique(self.kept // self._per_stem)]
            found_names = _names_in(self.codes, wanted, f"no codes in '{self.codes.path}'")
            self.coded = dict(zip(wanted, found_names))
        self._check_inner()

    def __len__(self) -> int:
        return len(self.kept)

    def sample(self, index: int, rng: np.random.Generator, gt_size: int | None = None) -> dict[str, Any]:
        """A sample of the inner data set with its score.

        Raises:
            DataError: A file cannot be used, or the codes are not those of the whole image.
        """
        of_inner, own = fork(rng, 2)
        number = int(self.kept[index])
        sample = draw_sample('dataset', self.inner, number, of_inner, gt_size or self.gt_size)
        sample = _with_clean_image(sample)
        image = number // self._per_stem
        row = self.scores[image]
        sample['score'] = torch.tensor(float(row[0])) if self.single else torch.from_numpy(row.copy())
        if self.tau is not None:
            sample['hq_mask'] = torch.tensor(float(self.means[image] > self.tau))
        return self._mirrored(sample, self.stems[image], own)

    @property
    def _per_stem(self) -> int:
        """Samples of each clean image: data sets may show a photo under each of several degradations."""
        return len(self.inner) // len(self.stems)  # type: ignore[arg-type]

    def _good_enough(self, min_score: float | None) -> np.ndarray:
        """Numbers of the inner samples that are kept."""
        first = np.repeat(self.means, self._per_stem)
        kept = np.arange(len(first)) if min_score is None else np.flatnonzero(first >= np.float32(min_score))
        if not len(kept):
            raise DataError(
                f'QualityPriorDataset: min_score is {min_score:g}, and the best image of the set has {first.max():g}.'
            )
        best = first[kept].tolist()
        taus = ', '.join(f'{quantile(best, 1 - percent / 100):.4g} ({percent} %)' for percent in BEST)
        get_root_logger().info(
            f'QualityPriorDataset: {len(kept)} of {len(first)} samples, scores {min(best):.4g} to {max(best):.4g}; the '
            f'best lie above {taus}{f"; tau is {self.tau:.4g}" if self.tau is not None else ""}.'
        )
        return kept

    def _check_inner(self) -> None:
        """Refuses an inner data set that moves pixels unknown to this one.

        Raises:
            OptionError: It mirrors or turns in training.
        """
        if self.phase != 'train' or not (self.codes or self.use_hflip):
            return
        moved = [key for key in ('use_hflip', 'use_rot') if getattr(self.inner, key, False)]
        if moved:
            why = 'codes' if self.codes else 'use_hflip'
            raise OptionError(
                f'QualityPriorDataset: with {why}, write {moved[0]}: false in the inner data set; mirroring is done '
                'here (use_hflip).'
            )

    def _mirrored(self, sample: dict[str, Any], stem: str, rng: np.random.Generator) -> dict[str, Any]:
        """The sample, mirrored by chance where that is done here, and with its codes."""
        if not (self.codes or self.use_hflip):
            return sample
        mirror = self.phase == 'train' and self.use_hflip and bool(rng.random() < 0.5)
        sample.pop('box', None)  # it would no longer be true
        if self.codes is not None:
            sample['codes'] = self._codes_of(stem, sample['gt'], mirror)
        if not mirror:
            return sample
        images = {k: v.flip(-1) for k, v in sample.items() if k in ('lq', 'gt')}
        return {**sample, **images}

    def _codes_of(self, stem: str, gt: torch.Tensor, mirror: bool) -> torch.Tensor:
        assert self.codes is not None
        size = self.codes.info['image_size']
        if tuple(gt.shape[-2:]) != size:
            raise DataError(
                f"'{stem}': the clean image is {gt.shape[-1]}x{gt.shape[-2]}, and the codes in '{self.codes.path}' are "
                f'of whole images of {size[1]}x{size[0]} pixels: codes do not go with crops.'
            )
        return self.codes.get(self.coded[stem], mirror)


def _stems_of(inner: Dataset) -> Sequence[str]:
    """The names of the clean images, in the order of the samples.

    Raises:
        OptionError: The data set does not tell them.
    """
    stems = getattr(inner, 'stems', None)
    if not stems or len(inner) % len(stems):  # type: ignore[arg-type]
        raise OptionError(
            f'QualityPriorDataset: {type(inner).__name__} does not tell the names of its clean images (attribute '
            'stems); take PairedImageDataset, OnlineDegradationDataset or SingleImageDataset, or in a MixtureDataset '
            'wrap each member.'
        )
    return stems


def _read_column(tables: Sequence[str], column: str, normalize: bool, turned: bool) -> dict[str, float]:
    """Scores in [0,1] by name.

    Raises:
        DataError: A table cannot be read, an image is in two of them, or a score is out of range.
    """
    scores: dict[str, float] = {}
    for table in tables:
        more = read_scores(find_file(table), column)
        if twice := scores.keys() & more.keys():
            raise DataError(f"'{table}': {first_few(sorted(twice))} has a score in another table too.")
        scores |= more
    if not scores:
        raise OptionError('QualityPriorDataset: scores is an empty list; it must name at least one table.')
    low, high = min(scores.values()), max(scores.values())
    if normalize:
        if low == high:
            raise DataError(f"{first_few(tables)}: all values of '{column}' are {low:g} and cannot be normalised.")
        scores = {name: (value - low) / (high - low) for name, value in scores.items()}
        return {name: 1 - value for name, value in scores.items()} if turned else scores
    if low < 0 or high > 1:
        raise DataError(
            f"{first_few(tables)}: the values of '{column}' run from {low:g} to {high:g}, and a score lies within 0 "
            'and 1: write normalize: true.'
        )
    return scores


def _check_turned(turned: Sequence[str], columns: Sequence[str], normalize: bool) -> None:
    lost = [name for name in turned if name not in columns]
    if lost or (turned and not normalize):
        why = f"names '{lost[0]}', which is not in columns" if lost else 'needs normalize: true'
        raise OptionError(f'QualityPriorDataset: lower_better {why}.')


def _names_in(known: Any, stems: Sequence[str], lack: str) -> list[str]:
    """Under which name each image is known: its whole stem, or the last part of it.

    Raises:
        DataError: It is known by neither, or two images would share an entry.
    """
    names = [stem if stem in known else stem.rpartition('/')[2] for stem in stems]
    if lost := [stem for stem, name in zip(stems, names) if name not in known]:
        raise DataError(f'QualityPriorDataset: {first_few(lost)}: {lack}.')
    owner: dict[str, str] = {}
    for stem, name in zip(stems, names):
        if owner.setdefault(name, stem) != stem:
            raise DataError(f"QualityPriorDataset: '{owner[name]}' and '{stem}' would both be '{name}' of the table.")
    return names


def _parts(inner: Dataset, kept: np.ndarray) -> list[int] | None:
    """How many kept samples lie in each part of the inner data set."""
    parts = getattr(inner, 'parts', None)
    if parts is None or sum(parts) != len(inner):  # type: ignore[arg-type]
        return None
    ends = np.searchsorted(kept, np.cumsum(parts))
    return np.diff(ends, prepend=0).tolist()


def _with_clean_image(sample: dict[str, Any]) -> dict[str, Any]:
    """The sample with ``gt``.

    Raises:
        DataError: It has neither a clean image nor one that could be.
    """
    if 'gt' in sample:
        return dict(sample)
    if getattr(sample.get('lq'), 'ndim', 0) != 3:
        raise DataError('dataset: the data set gives no gt in its samples.')
    return {**sample, 'gt': sample['lq']}
