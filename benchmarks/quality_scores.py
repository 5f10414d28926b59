"""The scorers of the study, CNNIQA among them, and the few statistics by which they are judged."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from basicsr.errors import DataError, MissingWeightsError
from basicsr.iqa import Calibration, Scorer, build_scorer
from basicsr.registry import SCORER_REGISTRY
from benchmarks.peers.networks import PEERS, load

TYPES = ('NIQE', 'BRISQUE', 'PIQE', 'FADE', 'Entropy', 'UCIQE', 'UIQM', 'Colourfulness', 'QualityNet')
LABELS = {  # in the order of tables
    'niqe': 'NIQE',
    'brisque': 'BRISQUE',
    'piqe': 'PIQE',
    'cnniqa': 'CNNIQA',
    'qualitynet': 'QualityNet',
    'fade': 'FADE',
    'entropy': 'entropy',
    'colourfulness': 'colourfulness',
    'uciqe': 'UCIQE',
    'uiqm': 'UIQM',
}


class CNNIQAScorer(Scorer):
    """CNNIQA with its authors' weights, trained on the human scores of LIVE; lower raw is better.

    Args:
        weights: The folder of weights.

    Raises:
        MissingWeightsError: The weights are not there.
    """

    differentiable = True
    min_size = 33

    def __init__(self, weights: Path) -> None:
        digest = hashlib.sha256((weights / PEERS['cnniqa'].file).read_bytes()).hexdigest()[:8]
        super().__init__('cnniqa', Calibration(80, 20, 'DMOS of LIVE: about 20 to 80'), digest)
        self.network = load('cnniqa', weights)

    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """Predicted DMOS, image by image."""
        return self.network(images)


def scorers(blocks: Sequence[dict[str, Any]], weights: Path | None) -> tuple[list[Scorer], list[str]]:
    """The scorers that can be had here, and why the others cannot.

    Args:
        blocks: A block for each scorer.
        weights: Folder of published weights, for CNNIQA; None leaves it out.
    """
    found: list[Scorer] = []
    reasons: list[str] = []
    for block in blocks:
        if block['type'] not in SCORER_REGISTRY:
            reasons.append(f'{block["type"]}: there is no such scorer.')
            continue
        try:
            found.append(build_scorer(block))
        except (DataError, MissingWeightsError) as error:
            reasons.append(f'{block["type"]}: {error}')
    if weights is None:
        reasons.append('CNNIQA: --weights was not given.')
    else:
        found.append(CNNIQAScorer(weights))
    return found, reasons


def label(name: str) -> str:
    """What tables call a scorer."""
    return LABELS.get(name, name)


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    order = np.asarray(values, np.float64)
    below = (order[None] < order[:, None]).sum(axis=1)
    return below + ((order[None] == order[:, None]).sum(axis=1) - 1) / 2


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation; 0 where one of the two is constant."""
    a, b = (r - r.mean() for r in (ranks(first), ranks(second)))
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size else 0.0


def right_pairs(goodness: Sequence[float]) -> float:
    """Share of pairs in which the earlier of two, which is the better one, is scored higher; a tie counts half."""
    values = np.asarray(goodness, np.float64)
    earlier, later = np.triu_indices(len(values), 1)
    difference = values[earlier] - values[later]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
