"""How pseudo-labels are judged: scores of whole images and of the cells of a grid, and which to refuse."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from basicsr.errors import OptionError
from basicsr.iqa.ensemble_scorer import raw_scores
from basicsr.iqa.loading import load_scorer
from basicsr.iqa.scorer import Scorer, cells
from basicsr.schema import Block

from .label_bank import Labels

ScorerSpec = str | Annotated[dict, Block('scorer')]  # a file, the type of a scorer, or a block
Mask = Literal['addition', 'multiplication', 'none']
Gate = Literal['absolute', 'percentile']
KEPT = 512  # deviations that the percentile is taken of
FIRST = 64  # deviations before which nothing is refused by percentile


@dataclass(frozen=True)
class Judge:
    """Scores images without a gradient, in float32.

    Attributes:
        scorer: The scorer or ensemble.
        tiles: Cells of the grid to a side; 1 gives no mask.
        mask: How a cell's weight is made of its members' scores: their weighted mean, their product, or 1.
        inverted: Members that count as 1 minus their score in the mask.
        smooth: Standard deviation, in pixels, of the Gaussian that gradients of :meth:`reward` pass; 0 for none.
    """

    scorer: Scorer
    tiles: int = 2
    mask: Mask = 'addition'
    inverted: tuple[str, ...] = ()
    smooth: float = 0.0

    def __post_init__(self) -> None:
        if unknown := [name for name in self.inverted if name not in self.scorer.members()]:
            raise OptionError(
                f"inverted_members: the scorer has no member '{unknown[0]}'; it has {', '.join(self.scorer.members())}."
            )

    @torch.no_grad()
    def labels(self, images: Tensor, degraded: Tensor | None = None) -> Labels:
        """Judges pseudo-labels; all are valid.

        Args:
            images: (B,V,3,H,W) in [0,1].
            degraded: What all labels of an image were made from, (B,3,H,W), for scorers that compare with it.

        Raises:
            DataError: A cell of the grid is smaller than a scorer can judge.
        """
        count, each = images.shape[:2]
        flat = images.flatten(0, 1)
        inputs = self._compared(None if degraded is None else degraded.repeat_interleave(each, dim=0))
        raw = self._raw(flat, inputs)
        members = torch.stack([m.float() for m in self.scorer.in_unit(raw).values()], dim=1)
        return Labels(
            images, self.scorer.combine(raw).float().view(count, each), members.view(count, each, -1),
            self._grid(flat, inputs).unflatten(0, (count, each)),
            torch.ones(count, each, dtype=torch.bool, device=flat.device),
        )  # fmt: skip

    def reward(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """Scores (N,) with gradient where the scorer has one; the images are clipped to [0,1] first.

        A scorer is most easily gamed by fine patterns that no eye takes for quality. With ``smooth`` the score is the
        same, but its gradient has no fine pattern. ``degraded`` is what each image was made from, for scorers that
        compare with it.
        """
        with torch.autocast(images.device.type, enabled=False):
            images = images.float().clamp(0, 1)
            if self.smooth and images.requires_grad:
                coarse = blurred(images, self.smooth)
                images = coarse + (images - coarse).detach()
            return self.scorer(images, self._compared(degraded))

    def _compared(self, degraded: Tensor | None) -> Tensor | None:
        """Degraded images as the scorer takes them; None where it does not look at them."""
        return None if degraded is None or not self.scorer.needs_degraded else degraded.detach().float().clamp(0, 1)

    def _raw(self, images: Tensor, degraded: Tensor | None) -> dict[str, Tensor]:
        with torch.autocast(images.device.type, enabled=False):
            return raw_scores(self.scorer, images, degraded)

    def _grid(self, images: Tensor, degraded: Tensor | None) -> Tensor:
        """Weights (N,t,t) of the cells."""
        if self.mask == 'none' or self.tiles == 1:
            return images.new_ones(len(images), 1, 1)
        parts = cells(images, self.tiles)
        inputs = [None] * len(parts) if degraded is None else cells(degraded, self.tiles)
        if len({p.shape for p in parts}) == 1:  # one pass for all cells
            raw = self._raw(torch.cat(parts), None if degraded is None else torch.cat(inputs))
        else:
            each = [self._raw(*part) for part in zip(parts, inputs)]
            raw = {name: torch.cat([r[name] for r in each]) for name in each[0]}
        return self._weights(raw).float().view(len(parts), -1).T.reshape(-1, self.tiles, self.tiles)

    def _weights(self, raw: dict[str, Tensor]) -> Tensor:
        if self.mask == 'addition' and not self.inverted:
            return self.scorer.combine(raw)
        units = {n: 1 - u if n in self.inverted else u for n, u in self.scorer.in_unit(raw).items()}
        if self.mask == 'multiplication':
            return torch.stack(list(units.values())).prod(0)
        options = getattr(self.scorer, 'options', {})
        weights = {n: options[n].weight if n in options else 1.0 for n in units}
        return sum(weights[n] * u for n, u in units.items()) / sum(weights.values())


class DualGate:
    """Refuses images whose pseudo-labels the scorers, or the views, disagree about (QualiTeacher's release).

    Across scorers: for every view, the standard deviation of the members' scores is at most ``scorers``. Across views:
    the standard deviation of the views' scores is at most ``views``. With scores in [0,1] the largest possible values
    are 0.71 of two members and 0.58 of three views, so that the released thresholds of 1.0 refuse nothing.

    Args:
        scorers: Threshold across scorers, or with ``percentile`` the percentile of what was seen lately; null: none.
        views: The same across views.
        kind: ``absolute`` or ``percentile``.
        members: Members that are compared; the first of them is compared across views. None compares all members, and
            the ensemble's score across views.
        names: All members of the scorer.

    Raises:
        OptionError: A member is not known, or a threshold is out of range.
    """

    def __init__(
        self, scorers: float | None, views: float | None, kind: Gate, members: list[str] | None, names: list[str]
    ) -> None:
        if unknown := [m for m in members or [] if m not in names]:
            raise OptionError(f"gate_members: the scorer has no member '{unknown[0]}'; it has {', '.join(names)}.")
        for key, value in (('gate_scorers', scorers), ('gate_views', views)):
            if kind == 'percentile' and value is not None and not 0 < value <= 100:
                raise OptionError(f'{key}: {value}; a percentile lies above 0, and is 100 at most.')
        self.thresholds, self.kind = (scorers, views), kind
        self.columns = None if members is None else [names.index(m) for m in members]
        self.seen = torch.full((2, KEPT), -1.0)  # below 0: nothing yet

    def __call__(self, labels: Labels) -> tuple[Labels, Tensor]:
        """The labels without those of refused images, and which images were refused, (B,) bool."""
        deviations = torch.stack(self._deviations(labels))
        passed = torch.ones_like(deviations[0], dtype=torch.bool)
        limits = self._limits(deviations)
        for deviation, limit in zip(deviations, limits):
            if limit is not None:
                passed &= deviation <= limit
        return replace(labels, valid=labels.valid & passed.unsqueeze(1)), ~passed

    def _deviations(self, labels: Labels) -> tuple[Tensor, Tensor]:
        """Across scorers (the worst view) and across views, (B,) each."""
        compared = labels.members if self.columns is None else labels.members[..., self.columns]
        across = labels.scores if self.columns is None else labels.members[..., self.columns[0]]
        return _deviation(compared).amax(1), _deviation(across)

    def _limits(self, deviations: Tensor) -> list[float | Tensor | None]:
        if self.kind == 'absolute':
            return list(self.thresholds)
        new = _gathered(deviations)
        self.seen = torch.cat((self.seen.to(new.device), new), dim=1)[:, -KEPT:]
        known = torch.where(self.seen >= 0, self.seen, math.nan)
        early = (self.seen >= 0).sum(1) < FIRST
        found: list[float | Tensor | None] = []
        for row, few, percentile in zip(known, early, self.thresholds):
            limit = None if percentile is None else torch.nanquantile(row, percentile / 100)
            found.append(limit if limit is None else torch.where(few, math.inf, limit))
        return found

    def state_dict(self) -> dict[str, Any]:
        """The deviations seen lately."""
        return {'seen': self.seen.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.seen = state['seen'].clone()


def judge_of(
    spec: str | dict[str, Any], tiles: int, mask: Mask, inverted: list[str] | None, smooth: float = 0.0
) -> Judge:
    """Builds a judge from an option: a file, the type of a scorer, or a block."""
    return Judge(load_scorer(spec), tiles, mask, tuple(inverted or ()), smooth)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images (N,C,H,W) under a Gaussian of this standard deviation in pixels, the edges repeated."""
    reach = math.ceil(3 * sigma)
    places = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = (-0.5 * (places / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (reach, reach, reach, reach), mode='replicate')
    across = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.conv2d(across, kernel.transpose(2, 3), groups=images.shape[1])


def _deviation(values: Tensor) -> Tensor:
    """Unbiased standard deviation over the last dimension; 0 of a single value."""
    return values.std(-1) if values.shape[-1] > 1 else torch.zeros_like(values[..., 0])


def _gathered(values: Tensor) -> Tensor:
    """Values (2,B) of all processes, in the order of their ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    parts = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts, dim=1)
