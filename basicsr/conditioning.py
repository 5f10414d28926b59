"""How a number that says how good an image should look enters a network, at sites that the network names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.errors import DataError, OptionError
from basicsr.network import Site, Visit, keep

Mode = Literal['embedding', 'fourier', 'film']
Effects = dict[str, tuple[Tensor, ...]]


class DiracConv(nn.Conv2d):
    """A 3 x 3 convolution that begins as the identity, exactly: computed as the input and what the weights add to it.

    Args:
        channels: Channels in and out.
    """

    identity: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)
        nn.init.dirac_(self.weight)
        nn.init.zeros_(self.bias)
        self.register_buffer('identity', self.weight.detach().clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        return x + F.conv2d(x, self.weight - self.identity, self.bias, padding=1)

    def drift(self) -> Tensor:
        """Sum of squares of what the weights have moved by, a scalar."""
        return (self.weight - self.identity).square().sum()


class QualityCondition(nn.Module):
    """Changes a network's features by a score in [0,1] that the restored image should reach.

    QualiTeacher, arXiv:2603.08030: a vector made of the score is added to the features at every position.
    ``embedding`` is the released code (github.com/fengyang1399-pixel/QualiTeacher, 0e9a161): a table with one row for
    each tenth of the score, all from 0.7 on sharing the last. ``fourier`` makes the vector of sines and cosines of the
    score by two linear layers, as the paper is said to. ``film`` makes a scale too: ``F * (1 + g) + h`` (Perez et al.,
    AAAI 2018).

    All begins at zero, so that a network is at first what it was. A score of NaN, or none, stands for no wish: with
    ``null='zero'`` its features stay as they are, to the bit. Convolutions of ``refine`` work on every image, with or
    without a score, as in the release.

    Args:
        sites: Where the score enters.
        mode: How: a vector from a table, a vector made of waves, or scale and shift made of waves.
        bins: Rows of the table.
        bin_width: Scores that a row spans.
        saturate: Score from which on all are alike.
        frequencies: Sines, and cosines, that describe a score.
        hidden: Width between the two linear layers.
        share: Whether sites of equal width in the same part of the network share their weights.
        null: What an image without a score gets: nothing, or a vector that is learned.
        refine: Sites at which a 3 x 3 convolution is put that begins as the identity.
        zero_init: Whether the effect of every score begins at zero; the release's CORUN begins at random.

    Raises:
        OptionError: No site, or a number out of its range.
    """

    def __init__(
        self, sites: Mapping[str, Site], mode: Mode = 'embedding', bins: int = 8, bin_width: float = 0.1,
        saturate: float = 0.7, frequencies: int = 8, hidden: int = 128, share: bool = True,
        null: Literal['zero', 'learned'] = 'zero', refine: Mapping[str, Site] | None = None, zero_init: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if not sites:
            raise OptionError('A quality condition needs at least one site at which it enters.')
        if min(bins, frequencies, hidden) < 1 or bin_width <= 0 or not 0 < saturate <= 1:
            raise OptionError(
                'A quality condition needs bins, frequencies and hidden of at least 1, a bin_width above 0 and '
                f'saturate above 0 and up to 1, not {bins}, {frequencies}, {hidden}, {bin_width} and {saturate}.'
            )
        self.mode, self.bins, self.bin_width, self.saturate = mode, bins, bin_width, saturate
        self.frequencies, self.hidden, self.zero_init = frequencies, hidden, zero_init
        self.groups = _grouped(sites, share)
        self.refined = tuple(refine or ())
        self.encoders, self.nulls = nn.ModuleDict(), nn.ParameterDict()
        for name, group in self.groups.items():
            if group not in self.encoders:
                width = sites[name].channels * (2 if mode == 'film' else 1)
                self.encoders[group] = self._encoder(width)
                if null == 'learned':
                    self.nulls[group] = nn.Parameter(torch.zeros(width))
        self.refiners = nn.ModuleDict({_key(name): DiracConv(site.channels) for name, site in (refine or {}).items()})

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites at which features may change."""
        return tuple(dict.fromkeys((*self.groups, *self.refined)))

    def module_at(self, site: str) -> str:
        """Name, within this module, of the convolution or the encoder of a site."""
        return f'refiners.{_key(site)}' if site in self.refined else f'encoders.{self.groups[site]}'

    def levels(self, score: Tensor) -> Tensor:
        """What of a score (N,) makes a difference; equal levels have equal effects, and NaN stays NaN.

        Returns:
            (N,) float32: the row of the table, or the score divided by ``saturate`` and clipped to [0,1].
        """
        score = score.float()
        if self.mode != 'embedding':
            return score.clamp(0, self.saturate) / self.saturate
        level = torch.floor(score * (1 / self.bin_width)).clamp(0, self.bins - 1)
        return torch.where(score >= self.saturate, float(self.bins - 1), level)

    def visitor(self, score: Tensor | None, then: Visit = keep) -> Visit:
        """A visitor that brings the score in.

        Args:
            score: A score for each image, (N,), NaN for none; None for none at all.
            then: The visitor that sees the features afterwards.

        Raises:
            DataError: The scores are not one number an image.
        """
        effects = self._effects(score)
        if not effects and not self.refined:
            return then

        def visit(name: str, feature: Tensor) -> Tensor:
            if name in self.refined:
                feature = self.refiners[_key(name)](feature)
            if effects and name in self.groups:
                feature = _changed(feature, *effects[self.groups[name]])
            return then(name, feature)

        return visit

    def drift(self) -> Tensor:
        """How far the convolutions of ``refine`` have moved from the identity: sum of squares, a scalar; else 0."""
        zero = next(self.encoders.parameters()).new_zeros(())
        return sum((conv.drift() for conv in self.refiners.values()), zero)

    def _encoder(self, width: int) -> nn.Module:
        if self.mode == 'embedding':
            table = nn.Embedding(self.bins, width)
            if self.zero_init:
                nn.init.zeros_(table.weight)
            return table
        last = nn.Linear(self.hidden, width)
        if self.zero_init:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(2 * self.frequencies, self.hidden), nn.SiLU(), last)

    def _effects(self, score: Tensor | None) -> Effects:
        """By group, the vector that is added, or scale and shift, each (N,C,1,1) or (1,C,1,1); empty for none."""
        if score is None:
            return {group: self._parts(vector[None]) for group, vector in self.nulls.items()}
        if score.dim() != 1:
            raise DataError(f'Scores must be one number an image, (N,), not a tensor of shape {tuple(score.shape)}.')
        with torch.autocast(score.device.type, enabled=False):
            missing = score.isnan()[:, None]
            code = self._code(self.levels(score.nan_to_num()))  # a NaN would spoil the weights' gradients
            effects = {}
            for group, encoder in self.encoders.items():
                vector = encoder(code)
                null = self.nulls[group] if group in self.nulls else vector.new_zeros(())
                effects[group] = self._parts(torch.where(missing, null, vector))
        return effects

    def _code(self, level: Tensor) -> Tensor:
        """What the encoders take: rows of the table, or waves of the level (N, 2 * frequencies)."""
        if self.mode == 'embedding':
            return level.long()
        octaves = torch.arange(self.frequencies, device=level.device)
        angle = level[:, None] * (math.pi * 2.0**octaves)
        return torch.cat((angle.sin(), angle.cos()), dim=1).to(next(self.encoders.parameters()).dtype)

    def _parts(self, vector: Tensor) -> tuple[Tensor, ...]:
        return vector[..., None, None].chunk(2 if self.mode == 'film' else 1, dim=1)


def _grouped(sites: Mapping[str, Site], share: bool) -> dict[str, str]:
    """By site, the key of the weights it uses: those of the first site of its width and part where they are shared."""
    first: dict[tuple[str, int], str] = {}
    found = {}
    for name, site in sites.items():
        found[name] = first.setdefault((site.part, site.channels), _key(name)) if share else _key(name)
    return found


def _key(name: str) -> str:
    return name.replace('.', '_')  # names of modules hold no dots


def _changed(feature: Tensor, *parts: Tensor) -> Tensor:
    """The feature map in its own number format, shifted, or scaled and shifted; zeros change no bit of it."""
    *scale, shift = (part.to(feature.dtype) for part in parts)
    return torch.addcmul(shift, feature, 1 + scale[0]) if scale else feature + shift
