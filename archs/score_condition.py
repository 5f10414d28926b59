"""How the image quality prior, a score in [0,1] of how good an image shall look, enters a network of codes."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.conditioning import QualityCondition
from basicsr.errors import DataError, OptionError
from basicsr.logger import get_root_logger
from basicsr.network import Site

ScoreMode = Literal['none', 'spatial_add', 'vector_add', 'fourier_film', 'adaln_zero', 'token']
ScoreInit = Literal['normal', 'zero']
NullScore = Literal['zero', 'learned']
Knob = Tensor | float | Literal['knob'] | None  # one an image, one for all, that of the knob, or none
PARTS = 6  # shift, scale and gate of the attention, then of the layers behind it


class ScoreCondition(nn.Module):
    """Brings one or more scores of each image into features, or into the layers of a transformer.

    IQPIR (CVPR 2026, arXiv:2603.29773; github.com/fengyang1399-pixel/IQPIR, a4408c7) adds a learned feature map for
    each tenth of the score: ``spatial_add``, for features of one size only. The others are for comparison, or for
    features of any size: ``vector_add`` adds a vector at every place and ``fourier_film`` scales and shifts by waves of
    the score (both are :class:`~basicsr.conditioning.QualityCondition`), ``adaln_zero`` moves shift, scale and gate of
    every transformer layer (Peebles and Xie, DiT, ICCV 2023, arXiv:2212.09748; gates are 1 plus what is learned, so
    that a pretrained transformer is preserved), and ``token`` gives the transformer one more token to look at.

    A module named ``score_embed`` has the released keys in mode ``spatial_add``: ``score_embed.weight``, or
    ``score_embed.{i}.weight`` with several scores, whose effects are added. NaN stands for no score, image by image and
    score by score; no score at all changes nothing, to the bit, but for what ``null: learned`` adds.

    Args:
        channels: Channels of the features, or width of the transformer (``adaln_zero``, ``token``).
        mode: How scores enter.
        bins: Rows of a table; scores are sorted into them.
        edges: Scores, increasing, at which the next bin begins, one less than bins, as for bins of equal population;
            None for bins of equal width.
        scores: Scores of each image.
        size: Height and width of the features (``spatial_add``).
        layers: Layers of the transformer (``adaln_zero``).
        init: Whether the effect begins at random or at zero; None takes what is usual: ``normal``, as released, for
            ``spatial_add`` and ``token``, and ``zero`` for the others.
        null: What an image without a score gets: nothing, or a vector that is learned and begins at zero.
        frequencies: Sines, and cosines, of the score, each of twice the last one's frequency (``fourier_film``). A few
            leave the effect smooth in the score; many let it turn back and forth where training has seen little.

    Raises:
        OptionError: Numbers out of range, a mode without what it needs, or edges that do not fit.
    """

    edges: Tensor | None

    def __init__(
        self, channels: int, mode: ScoreMode = 'spatial_add', bins: int = 10, edges: list[float] | None = None,
        scores: int = 1, size: tuple[int, int] | None = None, layers: int = 0, init: ScoreInit | None = None,
        null: NullScore = 'zero', frequencies: int = 8,
    ) -> None:  # fmt: skip
        super().__init__()
        _check(mode, bins, edges, scores, size)
        self.mode, self.bins, self.scores, self.channels = mode, bins, scores, channels
        self.size = None if size is None else tuple(size)
        self.register_buffer('edges', None if edges is None else torch.tensor(edges), persistent=False)
        self._warned = False
        zero = (init or ('normal' if mode in ('spatial_add', 'token') else 'zero')) == 'zero'
        if mode in ('vector_add', 'fourier_film'):
            self._add_quality_conditions(zero, null, frequencies)
        elif mode != 'none':
            self._add_tables(zero, null)
        if mode == 'adaln_zero':
            self.layers = nn.ModuleList(_modulator(channels, zero) for _ in range(layers))

    def _add_quality_conditions(self, zero: bool, null: NullScore, frequencies: int) -> None:
        site, kind = {'h': Site(self.channels, 1)}, 'embedding' if self.mode == 'vector_add' else 'film'
        for i in range(self.scores):
            condition = QualityCondition(
                site, kind, self.bins, 1 / self.bins, 1.0, frequencies, null=null, zero_init=zero
            )
            self.add_module(str(i), condition)

    def _add_tables(self, zero: bool, null: NullScore) -> None:
        """Tables of a row for each bin; their names are the released ones."""
        width = self.channels * (math.prod(self.size) if self.size and self.mode == 'spatial_add' else 1)
        for i in range(self.scores):
            table = nn.Embedding(self.bins, width)
            if zero and self.mode != 'adaln_zero':  # there the layer behind the table is zero
                nn.init.zeros_(table.weight)
            if self.scores == 1:
                self.weight = table.weight
            else:
                self.add_module(str(i), table)
        self.null = nn.Parameter(torch.zeros(self.scores, width)) if null == 'learned' else None

    # ---- scores ----------------------------------------------------------------------------------------------------

    def scores_of(self, score: Tensor | float | None, count: int, device: torch.device) -> Tensor | None:
        """Scores in one form.

        Args:
            score: (N,) or (N,M), or one number for all; None for none.
            count: N.
            device: Where they are wanted.

        Returns:
            (N,M) float32 within 0 and 1, NaN for none; None for none at all, or where scores are not used.

        Raises:
            DataError: There are not M scores an image.
        """
        if score is None or self.mode == 'none':
            return None
        if not isinstance(score, Tensor):
            score = torch.full((count, self.scores), float(score))
        given = score[:, None] if score.dim() == 1 else score
        if given.shape != (count, self.scores):
            raise DataError(
                f'{count} images need {self.scores} scores each, ({count}, {self.scores}), not a tensor of shape '
                f'{tuple(score.shape)}.'
            )
        self._warn_if_outside(given)
        return given.to(device, torch.float32, non_blocking=True).clamp(0, 1)  # NaN stays NaN

    def bins_of(self, score: Tensor) -> Tensor:
        """The bin of each score, int64 in the shape of ``score``; NaN goes to the first, but is never looked up."""
        score = score.nan_to_num().float()
        if self.edges is None:
            return (score * self.bins).floor().long().clamp(0, self.bins - 1)
        return torch.bucketize(score, self.edges, right=True)

    def _warn_if_outside(self, score: Tensor) -> None:
        """Once; scores on a GPU are looked at in evaluation only, for in training that would wait for the GPU."""
        hidden = self.training and score.device.type != 'cpu'
        if self._warned or hidden or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        if bool(((score < 0) | (score > 1)).any()):
            self._warned = True
            get_root_logger().warning('A score lies outside [0,1] and is taken as the nearest of 0 and 1.')

    # ---- effects ---------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, score: Tensor | None) -> Tensor:
        """Features (N,C,h,w) with the scores (N,M) of :meth:`scores_of` in them; unchanged in the transformer's modes.

        Raises:
            DataError: The features are not of the size that ``spatial_add`` was made for.
        """
        if self.mode == 'spatial_add':
            if x.shape[-2:] != self.size:
                raise DataError(
                    f'Features of {tuple(x.shape[-2:])} cannot take a score map of {self.size}: with score mode '
                    'spatial_add images have one size.'
                )
            added = self._rows(score, x.shape[0])
            return x if added is None else x + added.view(x.shape).to(x.dtype)
        if self.mode in ('vector_add', 'fourier_film'):
            for i in range(self.scores):
                x = self.get_submodule(str(i)).visitor(self._level(score, i))('h', x)
        return x

    def token(self, score: Tensor | None, count: int) -> tuple[Tensor, Tensor] | None:
        """The token of the scores (N,M), and for which images it is there.

        Returns:
            (N,1,width) and (N,) bool; None where no image has one, or in another mode.
        """
        rows = self._rows(score, count) if self.mode == 'token' else None
        if rows is None:
            return None
        there = rows.new_ones(count, dtype=torch.bool)
        if self.null is None and score is not None:
            there = ~score.isnan().all(1)
        return rows[:, None], there

    def modulation(self, score: Tensor | None, count: int) -> list[Tensor] | None:
        """What the scores (N,M) change in each layer of a transformer, zeros for an image without a score.

        Returns:
            For each layer (N,6,1,width): shift, scale and gate of the attention, then of the layers behind it, where
            scale and gate come on top of 1; None where nothing changes, or in another mode.
        """
        rows = self._rows(score, count) if self.mode == 'adaln_zero' else None
        if rows is None:
            return None
        changes = [layer(rows).view(count, PARTS, 1, self.channels) for layer in self.layers]
        if self.null is not None or score is None:
            return changes
        there = ~score.isnan().all(1).view(-1, 1, 1, 1)
        return [torch.where(there, change, change.new_zeros(())) for change in changes]

    def neutral_state(self, prefix: str) -> dict[str, Tensor]:
        """The present weights, keys behind a prefix, with what the effect is proportional to set to zero."""
        last = {'adaln_zero': ('layers.', 'null'), 'fourier_film': ('.2.', 'nulls.')}.get(self.mode, ('',))
        state = self.state_dict()
        return {prefix + k: v.new_zeros(v.shape) if any(n in k for n in last) else v for k, v in state.items()}

    def _level(self, score: Tensor | None, i: int) -> Tensor | None:
        """A score (N,) for :class:`QualityCondition`; the middle of its bin where there are bins."""
        if score is None:
            return None
        one = score[:, i]
        if self.mode == 'fourier_film':
            return one
        return torch.where(one.isnan(), one, (self.bins_of(one) + 0.5) / self.bins)

    def _rows(self, score: Tensor | None, count: int) -> Tensor | None:
        """Rows of the tables, summed over the scores, (N,width); None where there are none."""
        if score is None:
            return None if self.null is None else self.null.sum(0).expand(count, -1)
        bins, missing, total = self.bins_of(score), score.isnan(), None
        for i in range(self.scores):
            table = self.weight if self.scores == 1 else self.get_submodule(str(i)).weight
            null = table.new_zeros(()) if self.null is None else self.null[i]
            row = torch.where(missing[:, i, None], null, F.embedding(bins[:, i], table))
            total = row if total is None else total + row
        return total


def guided(found: tuple[Tensor, ...], without: tuple[Tensor, ...], guidance: float) -> tuple[Tensor, ...]:
    """Logits (N,n,h,w) of each book moved on from those without a score, ``l + g (l_score - l)``.

    Classifier-free guidance: Ho and Salimans, arXiv:2207.12598.
    """
    return tuple(b + guidance * (a - b) for a, b in zip(found, without))


def _modulator(width: int, zero: bool) -> nn.Sequential:
    last = nn.Linear(width, PARTS * width)
    if zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.SiLU(), last)


def _check(
    mode: str, bins: int, edges: list[float] | None, scores: int, size: tuple[int, int] | None,
) -> None:  # fmt: skip
    if min(bins, scores) < 1:
        raise OptionError(f'A score condition needs at least 1 bin and 1 score, not {bins} and {scores}.')
    if mode == 'spatial_add' and size is None:
        raise OptionError('Score mode spatial_add needs a network of one image size; take vector_add for any size.')
    if edges is None:
        return
    if mode == 'fourier_film':
        raise OptionError('Score mode fourier_film takes scores as they are; it has no bins that edges could bound.')
    if len(edges) != bins - 1 or any(a >= b for a, b in pairwise((0.0, *edges, 1.0))):
        raise OptionError(f'{bins} bins need {bins - 1} increasing edges between 0 and 1, not {edges}.')
