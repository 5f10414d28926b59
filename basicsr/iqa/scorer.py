"""What every quality scorer is: images in [0,1] go in, one score in [0,1] comes out, higher is better."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.errors import DataError, OptionError
from basicsr.registry import SCORER_REGISTRY, build


@dataclass(frozen=True)
class Calibration:
    """Which raw scores count as 0 and as 1.

    Attributes:
        low: Raw score of the worst quality that is told apart, in the scorer's own units.
        high: Raw score of the best; smaller than ``low`` where a lower raw score is better.
        source: Where the two numbers come from: a published range, or percentiles of named data.
    """

    low: float
    high: float
    source: str

    def __post_init__(self) -> None:
        if self.low == self.high:
            raise OptionError(f'Calibration: low and high are both {self.low}; they must differ.')

    def apply(self, raw: Tensor) -> Tensor:
        """Raw scores, of any shape, to [0,1], higher better; beyond the two ends there is no gradient."""
        return ((raw - self.low) / (self.high - self.low)).clamp(0, 1)


class Scorer(nn.Module, ABC):
    """A judge of quality. A subclass writes :meth:`raw` and says what it is.

    A scorer exists only with its weights: a constructor that does not find them raises
    :class:`~basicsr.errors.MissingWeightsError`. It is in evaluation mode from the start and has no parameter that
    requires a gradient. What it gives for an image does not depend on the other images of the batch.

    Attributes:
        name: Column of a table; unique among the members of an ensemble.
        differentiable: Whether gradients reach the pixels.
        needs_degraded: Whether the degraded input is compared with too (degraded-reference assessment).
        min_size: Least height and width in pixels.
        calibration: Raw scores that count as 0 and as 1.
        version: What computes the score, for reports: package and version, or the digest of the weights.

    Args:
        name: As above.
        calibration: As above.
        version: As above.
    """

    differentiable: bool = False
    needs_degraded: bool = False
    min_size: int = 1

    def __init__(self, name: str, calibration: Calibration, version: str) -> None:
        super().__init__()
        self.name, self.calibration, self.version = name, calibration, version

    @abstractmethod
    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """Scores as published.

        Args:
            images: (N,3,H,W) RGB in [0,1].
            degraded: The inputs that these were restored from, of the same shape, for scorers that need them.

        Returns:
            (N,), in the scorer's own units and direction.
        """

    def forward(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """Scores in [0,1], higher better.

        Args:
            images: (N,3,H,W) RGB in [0,1]. A gradient is kept only where ``differentiable`` says so.
            degraded: As for :meth:`raw`.

        Returns:
            (N,).

        Raises:
            DataError: Images of a shape that cannot be scored, or no degraded images where they are needed.
        """
        return self.calibration.apply(self.checked_raw(images, degraded))

    def members(self) -> dict[str, Scorer]:
        """The scorers whose raw scores this one rests on, by name; a single scorer rests on itself."""
        return {self.name: self}

    def combine(self, raw: dict[str, Tensor]) -> Tensor:
        """The score in [0,1] from the raw scores of :meth:`members`, of any shape."""
        return self.calibration.apply(raw[self.name])

    def in_unit(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each member's own score in [0,1], higher better, from its raw scores."""
        return {self.name: self.calibration.apply(raw[self.name])}

    def tiles(self, images: Tensor, tiles: int = 2, degraded: Tensor | None = None) -> Tensor:
        """Scores of the cells of a grid.

        Args:
            images: (N,3,H,W) RGB in [0,1]; rows and columns that do not divide evenly go to the last cells.
            tiles: Cells to a side.
            degraded: As for :meth:`raw`.

        Returns:
            (N, tiles, tiles).

        Raises:
            DataError: A cell would be smaller than ``min_size``.
        """
        parts = cells(images, tiles)
        inputs = cells(degraded, tiles) if degraded is not None else [None] * len(parts)
        if len({p.shape for p in parts}) == 1:  # one pass for all cells
            together = None if degraded is None else torch.cat(inputs)
            scores = self(torch.cat(parts), together).view(len(parts), -1)
        else:
            scores = torch.stack([self(*part) for part in zip(parts, inputs)])
        return scores.T.reshape(-1, tiles, tiles)

    def train(self, mode: bool = True) -> Scorer:
        """Stays in evaluation mode, whatever it is part of: a judge does not learn from what it judges."""
        return super().train(False)

    def extra_repr(self) -> str:
        return f'{self.name}, differentiable={self.differentiable}'

    def checked_raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """As :meth:`raw`, after the images were checked; without a gradient where there is none to have.

        Raises:
            DataError: Images of a shape that cannot be scored, or no degraded images where they are needed.
        """
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            kind = f'{images.dtype} {tuple(images.shape)}'
            raise DataError(f'{self.name}: images must be floating-point (N,3,H,W), not {kind}.')
        if min(images.shape[-2:]) < self.min_size:
            size = f'{images.shape[-2]} x {images.shape[-1]}'
            raise DataError(f'{self.name}: needs at least {self.min_size} x {self.min_size} pixels, got {size}.')
        if self.needs_degraded and (degraded is None or degraded.shape != images.shape):
            raise DataError(f'{self.name}: compares with the degraded images; give them, of the same shape.')
        if not self.differentiable:
            images = images.detach()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.differentiable):
            return self.raw(images, degraded if self.needs_degraded else None)


def cells(images: Tensor, tiles: int) -> list[Tensor]:
    """The cells of a grid, row by row.

    Args:
        images: (N,C,H,W); rows and columns that do not divide evenly go to the last cells.
        tiles: Cells to a side.
    """
    height, width = (n // tiles for n in images.shape[-2:])
    rows = [(i * height, None if i == tiles - 1 else (i + 1) * height) for i in range(tiles)]
    columns = [(i * width, None if i == tiles - 1 else (i + 1) * width) for i in range(tiles)]
    return [images[..., slice(*row), slice(*column)] for row in rows for column in columns]


def build_scorer(block: dict[str, Any]) -> Scorer:
    """Builds the scorer that a block of options describes, ``{type: NIQE}`` or an ensemble.

    Raises:
        OptionError: The type or a key is not known, or a value is of the wrong type.
        MissingWeightsError: Its weights are not on this machine; the text says which file goes where.
    """
    return build(SCORER_REGISTRY, block)
