"""Sheets of the study of SIPL: restored sample photographs, which may be shown, and what the dictionary learnt."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.errors import OptionError
from benchmarks.iqpir_pictures import sample
from benchmarks.iqpir_scores import SYNTHETIC
from benchmarks.qualiteacher_pictures import EDGE, PHOTOS, TILE, captioned, write_sheet
from benchmarks.qualiteacher_scores import Network
from benchmarks.sipl_runs import Run, new_model, way_of

SHOWN = 'nafnet_sipl'
COMPONENTS = 3  # of the tokens, as red, green and blue
SPREAD = 2.5  # standard deviations that fill the range of a colour


def draw(folder: Path, run: Run) -> None:
    """Draws ``sipl_restoration.jpg`` and ``sipl_dictionary.jpg``.

    Raises:
        CheckpointError: The run, or that of the backbone alone, is not there.
        OptionError: The run has no dictionary.
    """
    alone = Run(f'{way_of(run.variant)[0]}_alone', run.seed, run.work)
    _dictionary(folder / 'sipl_dictionary.jpg', run)
    _restoration(folder / 'sipl_restoration.jpg', Network(alone.weights), Network(run.weights))


def _restoration(file: Path, alone: Network, fused: Network) -> None:
    tiles = []
    for number, kind in enumerate(SYNTHETIC):
        degraded, clean = sample(number % len(PHOTOS), kind)
        tiles += [captioned(degraded, kind), captioned(alone.restore([degraded])[0], 'alone')]
        for iterations, title in ((0, 'SIPL, plain'), (1, 'SIPL, refined')):
            fused.net.refine = iterations
            tiles.append(captioned(fused.restore([degraded])[0], title))
        tiles.append(captioned(clean, 'clean'))
    write_sheet(file, tiles, 5)


def _dictionary(file: Path, run: Run) -> None:
    """A row for each level: tokens before training, after it, and what changed."""
    before, after = new_model(run.variant, run.seed).net_g, Network(run.weights).net
    if not hasattr(after, 'dictionaries'):
        raise OptionError(f'{run.variant} has no dictionary.')
    tiles = []
    for level, (old, new) in enumerate(zip(before.dictionaries, after.dictionaries, strict=True), start=1):
        shown = {'before': old, 'after': new, 'change': new - old}
        tiles += [_tokens(tokens.detach()[0], f'level {level}, {title}') for title, tokens in shown.items()]
    write_sheet(file, tiles, 3)


def _tokens(tokens: Tensor, title: str) -> np.ndarray:
    """A tile of a map of tokens (C,h,w) in the colours of :func:`components`, with their share in the caption."""
    colours, share = components(tokens)
    pixels = (colours.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    tile = cv2.resize(pixels, (TILE, TILE), interpolation=cv2.INTER_NEAREST)
    strip = np.full((EDGE, TILE, 3), 255, np.uint8)
    place, grey = (4, EDGE - 6), (40, 40, 40)
    cv2.putText(strip, f'{title}: {share:.0%}', place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, grey, 1, cv2.LINE_AA)
    return np.concatenate((tile, strip))


def components(tokens: Tensor) -> tuple[Tensor, float]:
    """The first principal components of tokens (C,h,w) as colours (3,h,w) in [0,1], and their share of the variance.

    Grey is the mean token; each colour spans :data:`SPREAD` standard deviations to either side.
    """
    flat = tokens.double().flatten(1).T
    flat = flat - flat.mean(0)
    u, s, _ = torch.linalg.svd(flat, full_matrices=False)
    total = float(s.square().sum())
    if total == 0:
        return torch.full((COMPONENTS, *tokens.shape[1:]), 0.5), 0.0
    scores = u[:, :COMPONENTS] * len(flat) ** 0.5  # of unit variance
    colours = (0.5 + scores / (2 * SPREAD)).clamp(0, 1)
    return colours.T.unflatten(1, tokens.shape[1:]).float(), float(s[:COMPONENTS].square().sum()) / total
