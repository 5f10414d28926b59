"""Weighting and reduction that losses share; the names that files written for BasicSR import from ``loss_util``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from basicsr.errors import DataError, OptionError

REDUCTIONS = ('none', 'mean', 'sum')


def check_reduction(owner: str, reduction: str) -> str:
    """Returns ``reduction`` if it is none, mean or sum, else raises OptionError naming ``owner``."""
    if reduction not in REDUCTIONS:
        raise OptionError(f"{owner}: reduction '{reduction}' is not known; allowed are {', '.join(REDUCTIONS)}.")
    return reduction


def check_same_shape(owner: str, pred: Tensor, target: Tensor) -> None:
    """Raises DataError naming both shapes if they differ: broadcasting here is always a mistake."""
    if pred.shape != target.shape:
        raise DataError(
            f'{owner}: pred is {tuple(pred.shape)} but target is {tuple(target.shape)}; they must be equal.'
        )


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32: its 8 or 11 bits are too few for a difference of nearly equal images."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def reduce_loss(loss: Tensor, reduction: str) -> Tensor:
    """Returns ``loss`` itself (``none``), its ``mean`` or its ``sum``."""
    check_reduction('reduce_loss', reduction)
    return loss if reduction == 'none' else getattr(loss, reduction)()


def weight_reduce_loss(loss: Tensor, weight: Tensor | None = None, reduction: str = 'mean') -> Tensor:
    """Multiplies an element-wise loss by weights and reduces it.

    With weights, ``mean`` is the weighted mean, sum(w * l) / sum(w): a mask selects where the loss is measured. If all
    weights are zero it is 0. For weights of full height and width this is BasicSR's rule; smaller ones, such as one
    weight an image in shape (N, 1, 1, 1), are counted once for every element that they multiply.

    Args:
        loss: Element-wise loss (N, C, H, W).
        weight: Weights that can be spread to the shape of ``loss``, or None.
        reduction: ``none``, ``mean`` or ``sum``.

    Raises:
        DataError: ``weight`` does not fit ``loss``.
    """
    if weight is None:
        return reduce_loss(loss, reduction)
    if reduction == 'mean':
        return weighted_mean(loss, weight)
    return reduce_loss(loss * _spread(weight, loss), reduction)


def weighted_mean(loss: Tensor, weight: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """Returns sum(w * l) / sum(w) over the dimensions ``dim`` (None: all), and 0 where all weights are zero.

    Raises:
        DataError: ``weight`` does not fit ``loss``.
    """
    weight = _spread(weight, loss)
    return (loss * weight).sum(dim) / weight.sum(dim).clamp_min(torch.finfo(loss.dtype).tiny)


def weighted_loss(loss_func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Gives an element-wise ``loss_func(pred, target, ...)`` the arguments ``weight=None`` and ``reduction='mean'``."""

    @functools.wraps(loss_func)
    def wrapper(
        pred: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = 'mean', **kwargs: Any
    ) -> Tensor:
        return weight_reduce_loss(loss_func(pred, target, **kwargs), weight, reduction)

    return wrapper


def _spread(weight: Tensor, loss: Tensor) -> Tensor:
    fits = weight.dim() == loss.dim() and all(w in (1, n) for w, n in zip(weight.shape, loss.shape))
    if not fits:
        raise DataError(f'A weight of shape {tuple(weight.shape)} does not fit a loss of shape {tuple(loss.shape)}.')
    return weight.to(loss.dtype).expand_as(loss)
