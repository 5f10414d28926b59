"""Several data sets as one, in fixed shares or at random: the training sets of all-in-one restoration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np

from basicsr.errors import DataError, OptionError
from basicsr.registry import DATASET_REGISTRY, nearest
from basicsr.schema import Block, Range

from ._members import build_member, draw_sample
from .base_dataset import BaseDataset, Phase

PROBES = 10  # samples of a member that may be unreadable before it is given up


@DATASET_REGISTRY.register()
class MixtureDataset(BaseDataset):
    """Several data sets as one.

    Training takes either ``repeats``, where an epoch holds every sample of a member that many times, or ``weights``
    with ``length``, where every sample draws its member and then the member's sample. Validation and test show every
    sample of every member once and take neither.

    A sample holds the keys that the samples of all members have; what only some of them give is left out. ``task`` is
    the member's own, or else its name in ``datasets``; ``key`` is the member's own after its name and a hyphen.
    Repeated samples have random numbers of their own. The samples do not come in shards, so ``shuffle_shards`` cannot
    be used.

    Args:
        datasets: Blocks of data sets by name, letters, digits and underscores: ``{rain: {type: ...}, haze: {...}}``.
        repeats: How often an epoch goes through each member, by name; a member that is not named counts once.
        weights: How likely each member is, by name; they need not add up to 1.
        length: Samples an epoch, with ``weights``.
        gt_size: Crop size of all members in pixels; null leaves it to their own blocks.
        phase: Passed on to the members.
        scale: Size of the clean image divided by that of the degraded one.

    Raises:
        DataError: A member cannot be used, or the members' samples have no image in common.
        OptionError: A member's block or name is wrong, or not exactly one of ``repeats`` and ``weights`` is given.
    """

    def __init__(
        self,
        datasets: Annotated[dict[str, dict], Block('dataset')],
        repeats: dict[str, Annotated[int, Range(1)]] | None = None,
        weights: dict[str, Annotated[float, Range(0)]] | None = None,
        length: Annotated[int, Range(1)] | None = None,
        gt_size: Annotated[int, Range(1)] | None = None,
        phase: Phase = 'train',
        scale: Annotated[int, Range(1)] = 1,
    ) -> None:
        super().__init__(phase, gt_size, scale=scale)
        check_names(datasets)
        check_shares(phase, list(datasets), repeats, weights, length)
        self.names = [str(name) for name in datasets]
        self.members = [build_member(_place(n), block, phase, scale) for n, block in datasets.items()]
        counts = [len(m) * (repeats or {}).get(n, 1) for n, m in zip(datasets, self.members)]  # type: ignore[arg-type]
        self.ends = np.cumsum(counts)
        self.chances: np.ndarray | None = None
        if weights is not None:
            self.chances = np.array([weights[n] for n in datasets]) / sum(weights.values())
        self.length = int(self.ends[-1]) if length is None else length
        self.common = self._common_keys()

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int, rng: np.random.Generator, gt_size: int | None = None) -> dict[str, Any]:
        """A sample of one member; with ``weights`` the generator alone decides which.

        Raises:
            DataError: A file cannot be used; the text names the member and the file.
        """
        number, inner = self._locate(index) if self.chances is None else self._draw(rng)
        name = self.names[number]
        sample = draw_sample(_place(name), self.members[number], inner, rng, gt_size or self.gt_size)
        kept = {k: v for k, v in sample.items() if k in self.common}
        own = sample.get('key', str(inner))
        return {**kept, 'key': f'{name}-{own}', 'task': sample.get('task', name)}

    def _locate(self, index: int) -> tuple[int, int]:
        """Member and index within it of a sample, the members standing one after another, each ``repeats`` times."""
        number = int(np.searchsorted(self.ends, index, side='right'))
        first = int(self.ends[number - 1]) if number else 0
        return number, (index - first) % len(self.members[number])  # type: ignore[arg-type]

    def _draw(self, rng: np.random.Generator) -> tuple[int, int]:
        number = int(rng.choice(len(self.members), p=self.chances))
        return number, int(rng.integers(len(self.members[number])))  # type: ignore[arg-type]

    def _common_keys(self) -> set[str]:
        """Keys that one sample of each member shows all of them to have: a batch needs the same of every sample."""
        keys = [set(self._probe(number)) for number in range(len(self.members))]
        common = set.intersection(*keys)
        if 'lq' not in common:
            lost = [name for name, given in zip(self.names, keys) if 'lq' not in given]
            raise DataError(f'{_place(lost[0])}: the data set gives no lq in its samples.')
        return common - {'key', 'task'}

    def _probe(self, number: int) -> dict[str, Any]:
        """The first readable sample of a member; what is unreadable is dealt with when its turn comes."""
        place, member = _place(self.names[number]), self.members[number]
        first_error: DataError | None = None
        for index in range(min(PROBES, len(member))):  # type: ignore[arg-type]
            try:
                return draw_sample(place, member, index, np.random.default_rng(index), self.gt_size)
            except DataError as error:
                first_error = first_error or error
        assert first_error is not None, 'a member is never empty'
        raise first_error


def check_names(datasets: dict[str, Any]) -> None:
    """Refuses member names that cannot stand in the name of a file, or that differ in case only.

    Raises:
        OptionError: There is such a name, or no member at all.
    """
    if not datasets:
        raise OptionError('MixtureDataset: datasets is empty; it must hold at least one block with a type.')
    for name in datasets:
        if not re.fullmatch(r'\w+', str(name), re.ASCII):
            raise OptionError(
                f"MixtureDataset: datasets holds '{name}'; a name is made of letters, digits and underscores."
            )
    if len({str(name).lower() for name in datasets}) < len(datasets):
        raise OptionError(
            'MixtureDataset: two names in datasets differ in case only; results would overwrite each other.'
        )


def check_shares(
    phase: str, names: list[str], repeats: dict[str, int] | None, weights: dict[str, float] | None, length: int | None
) -> None:
    """Refuses shares that do not say how often each member comes.

    Raises:
        OptionError: In training, not exactly one of ``repeats`` and ``weights`` is given, ``length`` goes with the
            wrong one, a name is not that of a member, or the weights leave out a member or are all 0; elsewhere, one
            is given.
    """
    given = [k for k, v in (('repeats', repeats), ('weights', weights), ('length', length)) if v is not None]
    if phase != 'train':
        if given:
            raise OptionError(
                f'MixtureDataset: {given[0]} is for training; {phase} shows every sample once: remove it.'
            )
        return
    if given not in (['repeats'], ['weights', 'length']):
        raise OptionError(
            f'MixtureDataset: give either repeats, or weights and length; given: {", ".join(given) or "none of them"}.'
        )
    key, shares = ('repeats', repeats) if weights is None else ('weights', weights)
    _check_keys(key, shares or {}, names)
    if weights is not None and (set(weights) != set(names) or not sum(weights.values())):
        raise OptionError(
            f'MixtureDataset: weights must name every member ({", ".join(map(str, names))}), and not all may be 0.'
        )


def _check_keys(key: str, shares: Iterable[str], names: list[str]) -> None:
    for name in shares:
        if name not in names:
            near = nearest(name, map(str, names))
            hint = f' Did you mean {near[0]}?' if near else ''
            raise OptionError(
                f"MixtureDataset: {key} names '{name}', which is not in datasets.{hint} "
                f'Its members: {", ".join(map(str, names))}.'
            )


def _place(name: Any) -> str:
    return f'datasets.{name}'
