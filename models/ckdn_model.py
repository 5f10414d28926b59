"""CKDN's training: a judge of restored images learns to do with the degraded image what it does with the clean one."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from basicsr.errors import DataError
from basicsr.registry import MODEL_REGISTRY
from basicsr.schema import Range

from .base_model import BaseModel, Batch

IMAGES = ('restored', 'lq', 'restored2', 'gt')
LABELS = ('score', 'score2')
ELO = 400.0  # points by which a player leads who wins ten times as often as he loses

Weight = Annotated[float, Range(0)]


@MODEL_REGISTRY.register()
class CKDNModel(BaseModel):
    """Conditional knowledge distillation (Zheng et al., ICCV 2021, arXiv:2108.07948; released train.py).

    A batch holds, (N,3,H,W) in [0,1] each, ``restored``, the images that are judged; ``lq``, the degraded ones that
    they were made from; ``restored2``, other restorations of the same scenes; ``gt``, the scenes as they were; and the
    labels (N,) of the two restorations, ``score`` and ``score2``, higher is better. PIPALDataset gives it.

    With the scores dr, fr and nr of the network and the distance delta of the two references' features:

    - the first ``rank_iters`` iterations rank pairs, ``rank_weight * (nr - t)^2``, where t is the probability by which
      the second restoration beats the first, ``1 / (1 + 10^((score - score2) * elo_scale / 400))``;
    - the others regress, ``(dr - score)^2 + (fr - score)^2``, and distil, ``distill_weight * delta^2``.

    The network computes all outputs in both phases, so that all statistics follow, as released; with several processes
    it takes ``dist_params: {find_unused_parameters: true}``.

    Args:
        networks: ``{'g': net}``, CKDN or a network that is called like it.
        rank_iters: Iterations of the first phase; a third of all in the release.
        rank_weight: Weight of the ranking.
        distill_weight: Weight of the distillation; 0 for none.
        distill: What is distilled: the ``squared`` mean squared difference of each image, as released, whose gradient
            vanishes as the features approach each other, or ``plain`` without the second square.
        stop_grad: Whether the features of the clean reference are a fixed target; as released they move as well.
        elo_scale: Elo points that a difference of 1 in ``score`` stands for.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        rank_iters: Annotated[int, Range(0)] = 0,
        rank_weight: Weight = 0.5,
        distill_weight: Weight = 30.0,
        distill: Literal['squared', 'plain'] = 'squared',
        stop_grad: bool = False,
        elo_scale: Weight = 1000.0,
    ) -> None:
        super().__init__(networks)
        self.rank_iters, self.rank_weight = rank_iters, rank_weight
        self.distill_weight, self.distill, self.stop_grad = distill_weight, distill, stop_grad
        self.elo_scale = elo_scale

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        missing = [key for key in (*IMAGES, *LABELS) if key not in batch]
        if missing:
            raise DataError(f"CKDNModel: the data set gives no '{missing[0]}'; train with PIPALDataset or one like it.")
        out = self.net_g(*(batch[key] for key in IMAGES), stop_grad=self.stop_grad)
        first, second = (batch[key].to(out.dr) for key in LABELS)
        signals = {'delta': out.delta.mean(), 'ranked': _ranked(out.dr, first)}
        if self.iteration <= self.rank_iters:
            expected = elo_expectation(first, second, self.elo_scale)
            return {'l_rank': self.rank_weight * (out.nr - expected).square().mean(), **signals}
        return {
            'l_dr': (out.dr - first).square().mean(),
            'l_fr': (out.fr - first).square().mean(),
            **self._distillation(out.delta),
            **signals,
        }

    def _distillation(self, delta: Tensor) -> dict[str, Tensor]:
        if not self.distill_weight:
            return {}
        return {'l_distill': self.distill_weight * (delta.square() if self.distill == 'squared' else delta).mean()}


def elo_expectation(first: Tensor, second: Tensor, elo_scale: float = 1000.0) -> Tensor:
    """Probability that the second is judged better than the first, of two scores ``elo_scale`` Elo points a unit."""
    return 1 / (1 + torch.pow(10.0, (first - second) * elo_scale / ELO))


def _ranked(scores: Tensor, labels: Tensor) -> Tensor:
    """Share of the pairs of a batch, of unlike labels, that are in the right order; NaN where there are none."""
    lead, better = scores.unsqueeze(1) > scores.unsqueeze(0), labels.unsqueeze(1) > labels.unsqueeze(0)
    return (lead & better).sum() / better.sum()
