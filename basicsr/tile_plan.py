"""Where the tiles of an image lie and how they are blended, one axis at a time; whole numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in pixels of the image.

    Attributes:
        start: First pixel that the network sees.
        stop: One past the last pixel that it sees; beyond the image's end it sees padding.
        left: First pixel that is kept.
        right: One past the last pixel that is kept; never beyond the image.
        rising: Pixels at the left end of what is kept that are blended with the tile before.
        falling: Pixels at the right end that are blended with the tile after.
    """

    start: int
    stop: int
    left: int
    right: int
    rising: int
    falling: int

    def weights(self) -> list[float]:
        """The share of this tile in each kept pixel: strictly positive, and with the neighbour's share exactly one.

        The ramps are linear, for of all ramps of a length these have the smallest largest step: between two
        neighbouring pixels the share changes by ``1 / (length + 1)`` at most.
        """
        flat = self.right - self.left - self.rising - self.falling
        up = [(n + 1) / (self.rising + 1) for n in range(self.rising)]
        down = [1 - (n + 1) / (self.falling + 1) for n in range(self.falling)]
        return up + [1.0] * flat + down


def round_up(value: int, multiple: int) -> int:
    """The next multiple."""
    return -(-value // multiple) * multiple


def plan_axis(length: int, size: int, overlap: int, context: int, multiple: int = 1, min_size: int = 1) -> list[Span]:
    """Covers an axis with as few tiles as can be, all of one size and evenly spread.

    Neighbours share ``overlap`` pixels or a few more. ``context`` pixels at each inner end of a tile are thrown away,
    for there the network has seen its padding instead of the image; the rest of the overlap is blended. When more
    than half of a tile overlaps, what the ramps cannot use is context too, so that a pixel belongs to two tiles at
    most. Tiles are made smaller than ``size`` as far as their number allows: nothing is computed twice in vain.

    Args:
        length: Pixels of the image.
        size: Largest tile, a multiple of ``multiple``, at least twice that and at least ``min_size``.
        overlap: Pixels shared by neighbours, less than ``size``; rounded up to ``multiple``.
        context: Pixels thrown away at each inner end, at most half of ``overlap``.
        multiple: Tiles begin and end at multiples of this, so that a network with strides sees its grid where it is
            in the whole image.
        min_size: Smallest tile.
    """
    padded = round_up(max(length, min_size), multiple)
    if padded <= size:
        return [Span(0, padded, 0, length, 0, 0)]
    overlap = min(round_up(overlap, multiple), size - multiple)
    count = -(-(padded - overlap) // (size - overlap))
    even = round_up(-(-(padded + (count - 1) * overlap) // count), multiple)
    size = min(size, max(even, round_up(max(min_size, 2 * overlap), multiple)))
    steps = (padded - size) // multiple
    starts = [n * steps // (count - 1) * multiple for n in range(count)]
    return _blended(starts, size, length, context)


def _blended(starts: list[int], size: int, length: int, context: int) -> list[Span]:
    closest = min(b - a for a, b in pairwise(starts))
    seams = []  # where the ramp between two neighbours begins, and its length
    for start, following in pairwise(starts):
        shared = start + size - following
        ramp = max(min(shared - 2 * context, closest - 1), 0)  # ramps do not touch, lest their steps add up
        seams.append((following + (shared - ramp) // 2, ramp))
    before, after = [(0, 0), *seams], [*seams, (length, 0)]
    return [
        Span(start, start + size, left, right + falling, rising, falling)
        for start, (left, rising), (right, falling) in zip(starts, before, after)
    ]
