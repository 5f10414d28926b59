"""How a network is run to be scored or used, and in which words that is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from basicsr.errors import OptionError
from basicsr.sections import ValOptions
from basicsr.tiling import Restorer, Tiling

ROUNDING = '8-bit rounding'
_TOLD = ('type', 'crop_border', 'test_y_channel', 'input_order')  # keys of a metric that its words already cover


@contextmanager
def open_restorer(net: nn.Module, device: torch.device | str, options: ValOptions) -> Iterator[Restorer]:
    """What runs a network as section ``val`` says; the network itself is afterwards as it was.

    Args:
        net: The network, in evaluation mode.
        device: Where it is.
        options: Tiles, self-ensemble, TLC window and number format.

    Raises:
        OptionError: The network does not allow one of them.
    """
    tiling = Tiling(options.tile, options.tile_overlap, options.tile_batch)
    with localized(net, options.tlc):
        yield Restorer(net, torch.device(device), tiling, options.self_ensemble, options.precision)


@contextmanager
def localized(net: nn.Module, window: int | None) -> Iterator[None]:
    """Lets a network take its statistics over a window (TLC) for as long as the context lasts.

    Args:
        net: The network.
        window: Side of the window in pixels; None leaves the network alone.

    Raises:
        OptionError: The network has no such statistics.
    """
    localize = getattr(net, 'localize', None)
    if window is not None and localize is None:
        raise OptionError(f'tlc: {window} cannot be used with {type(net).__name__}, which has no localize().')
    if window is None or localize is None:
        yield
        return
    localize(window)
    try:
        yield
    finally:
        localize(None)


@dataclass(frozen=True)
class Protocol:
    """Everything, beside network and data, that changes a score. Scores of unlike protocols are not comparable.

    Attributes:
        metrics: Blocks of ``val.metrics`` by label.
        images: How the images went through the network, in words.
        self_ensemble: As in section ``val``.
        tlc: As in section ``val``.
        precision: As in section ``val``.
    """

    metrics: dict[str, dict[str, Any]]
    images: str
    self_ensemble: bool = False
    tlc: int | None = None
    precision: str = 'fp32'

    def parts(self) -> dict[str, Any]:
        """The protocol by named parts, in plain containers."""
        return {
            'metrics': {label: _metric_parts(block) for label, block in self.metrics.items()},
            'rounding': ROUNDING,
            'images': self.images,
            'self_ensemble': self.self_ensemble,
            'tlc': self.tlc,
            'precision': self.precision,
        }

    def __str__(self) -> str:
        metrics = [f'{label}: {_metric_words(block)}' for label, block in self.metrics.items()]
        window = '' if self.tlc is None else f', TLC window {self.tlc} px'
        return '; '.join([*metrics, f'{ROUNDING}, {self.images}{window}'])


def _metric_parts(block: dict[str, Any]) -> dict[str, Any]:
    other = {k: v for k, v in block.items() if k not in _TOLD}
    colour, border = _colour(block), block.get('crop_border') or 0
    return {'type': block['type'], 'colour': colour, 'crop_border': border, **other}


def _metric_words(block: dict[str, Any]) -> str:
    crop = f'{block["crop_border"]} px cropped' if block.get('crop_border') else 'no crop'
    other = [f'{k} {v}' for k, v in block.items() if k not in _TOLD]
    return ', '.join([block['type'], _colour(block), crop, *other])


def _colour(block: dict[str, Any]) -> str:
    return 'Y channel' if block.get('test_y_channel') else 'RGB'
