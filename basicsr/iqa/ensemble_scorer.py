"""Several scorers as one: a weighted mean of their scores, each brought to [0,1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from basicsr.errors import OptionError
from basicsr.iqa.scorer import Calibration, Scorer, build_scorer
from basicsr.iqa.scores import PERCENTILES, Stats, read_stats
from basicsr.registry import SCORER_REGISTRY

Normalization = Literal['fixed', 'minmax', 'percentile']
EPS = 1e-6  # of IQPIR's min-max
OWN_KEYS = ('weight', 'grad')


@dataclass(frozen=True)
class Member:
    """What an ensemble says of one of its scorers.

    Attributes:
        weight: Share in the mean, before the weights are divided by their sum.
        grad: Whether gradients of the ensemble go through it.
    """

    weight: float
    grad: bool


@SCORER_REGISTRY.register()
class Ensemble(Scorer):
    """A weighted mean of scorers.

    ``fixed`` is QualiTeacher's 0.4 MUSIQ/100 + 0.2 CLIP + 0.4 (100 - BRISQUE)/100 with the ranges in the members;
    ``minmax`` is IQPIR's mean of scores normalised over a data set, (s - min) / (max - min + 1e-6), where a lower raw
    score that is better is turned round; ``percentile`` is the same between two percentiles, which single outliers do
    not move. A member's score is clamped to [0,1].

    Args:
        members: Blocks of scorers, each with ``weight``, above 0 (1), and ``grad``: whether gradients pass (true).
        normalize: ``fixed`` (each member's own calibration), ``minmax`` or ``percentile`` (over a data set).
        stats: Statistics of that data set, a file of tools/score_dataset.py; needed unless ``fixed``.
        clip: The two percentiles of ``percentile``.
        name: Column of a table.
    """

    def __init__(
        self,
        members: list[dict],
        normalize: Normalization = 'fixed',
        stats: str | None = None,
        clip: tuple[float, float] = (0.1, 99.9),
        name: str = 'score',
    ) -> None:
        built = [_build_member(index, block) for index, block in enumerate(members)]
        _check_names(name, [scorer.name for scorer, _ in built])
        version = ', '.join(f'{scorer.name} {scorer.version}' for scorer, _ in built)
        super().__init__(name, Calibration(0.0, 1.0, 'weighted mean of the members'), version)
        self.scorers = nn.ModuleDict(
            {f'{i} {scorer.name}'.replace('.', '_'): scorer for i, (scorer, _) in enumerate(built)}
        )
        self.options = {scorer.name: member for scorer, member in built}
        self.differentiable = any(scorer.differentiable and member.grad for scorer, member in built)
        self.needs_degraded = any(scorer.needs_degraded for scorer, _ in built)
        self.min_size = max(scorer.min_size for scorer, _ in built)
        self.limits: dict[str, tuple[float, float, float]] = {}
        self.eval()
        if normalize == 'fixed' and stats is not None:
            raise OptionError(f"{name}: stats belong to normalize minmax or percentile; 'fixed' does not read them.")
        if normalize != 'fixed':
            self.normalize_over(_read_stats(name, normalize, stats), normalize, clip, str(stats))

    def normalize_over(
        self, stats: Stats, normalize: Normalization, clip: tuple[float, float] = (0.1, 99.9), source: str = 'stats'
    ) -> None:
        """Brings the members to [0,1] by the statistics of a data set from now on.

        Args:
            stats: As :func:`~basicsr.iqa.scores.read_stats` gives them.
            normalize: ``minmax`` or ``percentile``.
            clip: The two percentiles of ``percentile``.
            source: Where the statistics are from, for messages.

        Raises:
            OptionError: A member is not in the statistics, or the percentiles are not.
        """
        for name, member in self.members().items():
            if name not in stats:
                raise OptionError(
                    f"{self.name}: '{source}' has no member '{name}', only: {', '.join(stats) or 'none'}."
                )
            worst, best = _ends(stats[name], normalize, clip, f"{self.name}: '{source}', member '{name}'")
            if member.calibration.high < member.calibration.low:
                worst, best = best, worst
            eps = EPS if best >= worst else -EPS
            self.limits[name] = (worst, best, best - worst + eps)

    def members(self) -> dict[str, Scorer]:
        """The scorers, by name, in the order of the options."""
        return {scorer.name: scorer for scorer in self.scorers.values()}

    def raw_scores(self, images: Tensor, degraded: Tensor | None = None) -> dict[str, Tensor]:
        """Raw scores (N,) of each member, by name; with gradient where the member and its ``grad`` allow it."""
        found = {}
        for name, scorer in self.members().items():
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.options[name].grad):
                seen = images if self.options[name].grad else images.detach()
                found[name] = scorer.checked_raw(seen, degraded)
        return found

    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """The weighted mean, in [0,1]."""
        return self.combine(self.raw_scores(images, degraded)).to(images.dtype)

    def combine(self, raw: dict[str, Tensor]) -> Tensor:
        """The weighted mean from raw scores of the members, of any shape."""
        total = sum(member.weight for member in self.options.values())
        parts = [self.options[name].weight * score for name, score in self.in_unit(raw).items()]
        return sum(parts[1:], parts[0]) / total

    def in_unit(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each member's own score in [0,1], higher better, from its raw scores."""
        return {name: self._to_unit(name, raw[name]) for name in self.options}

    def _to_unit(self, name: str, raw: Tensor) -> Tensor:
        if not self.limits:
            return self.members()[name].combine({name: raw})
        worst, _, span = self.limits[name]
        return ((raw - worst) / span).clamp(0, 1)


def raw_scores(scorer: Scorer, images: Tensor, degraded: Tensor | None = None) -> dict[str, Tensor]:
    """Raw scores (N,) of all members of any scorer, by name.

    Raises:
        DataError: Images of a shape that cannot be scored.
    """
    if isinstance(scorer, Ensemble):
        return scorer.raw_scores(images, degraded)
    return {name: member.checked_raw(images, degraded) for name, member in scorer.members().items()}


def _build_member(index: int, block: Any) -> tuple[Scorer, Member]:
    if not isinstance(block, dict):
        raise OptionError(f'Ensemble, members[{index}]: a block with the key type is needed, not {block!r}.')
    where = f'Ensemble, members[{index}] ({block.get("type")})'
    weight, grad = block.get('weight', 1.0), block.get('grad', True)
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not 0 < weight < float('inf'):
        raise OptionError(f'{where}: weight is {weight!r}; it must be a number above 0.')
    if not isinstance(grad, bool):
        raise OptionError(f'{where}: grad is {grad!r}; it must be true or false.')
    if block.get('type') == 'Ensemble':
        raise OptionError(f'{where}: an ensemble cannot be a member of another; list its members.')
    try:
        scorer = build_scorer({key: value for key, value in block.items() if key not in OWN_KEYS})
    except OptionError as error:
        raise OptionError(f'{where}: {error}') from error
    return scorer, Member(float(weight), grad)


def _check_names(ensemble: str, names: list[str]) -> None:
    if not names:
        raise OptionError(f'Ensemble {ensemble}: the list of members is empty; it must name at least one scorer.')
    taken = {'imagename', 'score', ensemble}
    for name in names:
        if name in taken:
            raise OptionError(f"Ensemble {ensemble}: the name '{name}' is taken; give this member another: name: ...")
        taken.add(name)


def _read_stats(ensemble: str, normalize: str, stats: str | None) -> Stats:
    from basicsr.options import find_file

    if stats is None:
        raise OptionError(
            f'Ensemble {ensemble}: normalize {normalize} needs stats, the JSON file that tools/score_dataset.py writes '
            'with the scores of a data set.'
        )
    return read_stats(find_file(stats))


def _ends(member: dict[str, Any], normalize: str, clip: tuple[float, float], where: str) -> tuple[float, float]:
    """The smallest and the largest raw score that are told apart."""
    if normalize == 'minmax':
        low, high = member['min'], member['max']
    else:
        keys = [f'{percent:g}' for percent in clip]
        missing = [key for key in keys if key not in member['percentiles']]
        if missing or clip[0] >= clip[1]:
            known = ', '.join(f'{percent:g}' for percent in PERCENTILES)
            raise OptionError(f'{where}: clip is {list(clip)}; allowed are two of {known}, the smaller first.')
        low, high = (member['percentiles'][key] for key in keys)
    if low == high:
        raise OptionError(f'{where}: all raw scores are {low}; they cannot be normalised.')
    return low, high
