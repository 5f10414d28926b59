"""Data sets inside a data set: built from their blocks, sampled alike, and named in every error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from basicsr.errors import DataError, OptionError
from basicsr.rng import seeded


def build_member(place: str, block: dict[str, Any], phase: str, scale: int) -> Dataset:
    """Builds the data set of a block within another block.

    Args:
        place: Where the block stands, ``datasets.rain``.
        block: The block, without loader options.
        phase: Phase of the outer data set.
        scale: Scale of the outer data set.

    Raises:
        DataError: Its files cannot be used, or it is empty; the text begins with ``place``.
        OptionError: A key is wrong; the text begins with ``place``.
    """
    from . import build_block  # the package is complete by the time that a data set is built

    with named(place):
        member = build_block(block, phase, scale)
        if not len(member):  # type: ignore[arg-type]
            raise DataError('the data set is empty.')
    return member


def draw_sample(
    place: str, member: Dataset, index: int, rng: np.random.Generator, gt_size: int | None
) -> dict[str, Any]:
    """A sample of a member; one without a ``sample`` method draws from the global streams, seeded for the call.

    Raises:
        DataError: A file cannot be used; the text begins with ``place``.
    """
    with named(place):
        if hasattr(member, 'sample'):
            return member.sample(index, rng, gt_size)
        with seeded((int(rng.integers(2**63)),)):
            return member[index]


def fork(rng: np.random.Generator, count: int) -> list[np.random.Generator]:
    """Generators of their own for the parts of a sample: what one part draws does not move the others."""
    return [np.random.default_rng(int(seed)) for seed in rng.integers(2**63, size=count)]


@contextmanager
def named(place: str) -> Iterator[None]:
    """Puts the place of a member before what goes wrong in it: ``datasets.rain: ...``, ``real.datasets.web: ...``."""
    try:
        yield
    except (DataError, OptionError) as error:
        inner = getattr(error, 'place', '')
        text = str(error).removeprefix(f'{inner}: ') if inner else str(error)
        full = f'{place}.{inner}' if inner else place
        renamed = type(error)(f'{full}: {text}')
        renamed.place = full  # type: ignore[union-attr]
        raise renamed from error
