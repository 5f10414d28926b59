"""The image quality prior in a batch: scores of clean images, and which of them a network is not told."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from basicsr.errors import DataError

from .base_model import Batch
from .draws import draws


def scores_of(batch: Batch, method: str, otherwise: str) -> Tensor:
    """Scores (N,) or (N,M) of the ground truth.

    Args:
        batch: The batch.
        method: Name of the training method, for the message.
        otherwise: What else may be done, for the message.

    Raises:
        DataError: The batch has none.
    """
    if 'score' not in batch:
        raise DataError(f'{method}: the batch has no score; train with QualityPriorDataset, or {otherwise}.')
    return batch['score'].float()


def withheld(scores: Tensor, keys: Sequence[str], iteration: int, share: float) -> Tensor:
    """Scores (N,) or (N,M) with those of some images replaced by NaN, which stands for no score.

    Dropping a condition at random while training is what allows guidance afterwards (Ho and Salimans,
    arXiv:2207.12598).

    Args:
        scores: The scores.
        keys: Names of the N images.
        iteration: The iteration.
        share: Part of the images, 0 to 1, whose scores are withheld.
    """
    if not share:
        return scores
    dropped = torch.tensor([draws(f'{key} score', iteration).random() < share for key in keys])
    return scores.masked_fill(dropped.to(scores.device).view(-1, *[1] * (scores.dim() - 1)), math.nan)
