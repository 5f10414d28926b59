"""Training of a judge of quality from rankings."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.errors import OptionError
from basicsr.registry import LOSS_REGISTRY, MODEL_REGISTRY, build
from basicsr.schema import Block, Range

from .base_model import BaseModel, Batch


@MODEL_REGISTRY.register()
class QualityModel(BaseModel):
    """Trains a network of two outputs, quality and degradation type, on ladders (LadderDataset, RankedFolderDataset).

    Args:
        networks: ``{'g': net}``; the net maps (N,3,H,W) to quality (N,) and type logits (N,types), and names its
            ``types``, the first of which is clean.
        rank_opt: Loss of the ranking.
        type_weight: Weight of the cross-entropy of the type. Ladders of other tasks than ``types`` do not count in it.
        label_smoothing: Part of the type's label that is spread over all types.
        weak_level: Level up to which a degradation is hardly seen.
        weak_weight: Weight of the type's loss up to that level.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        rank_opt: Annotated[dict, Block('loss')],
        type_weight: Annotated[float, Range(0)] = 1.0,
        label_smoothing: Annotated[float, Range(0, 1)] = 0.05,
        weak_level: Annotated[float, Range(0, 1)] = 0.2,
        weak_weight: Annotated[float, Range(0)] = 0.3,
    ) -> None:
        super().__init__(networks)
        if not hasattr(self.net_g, 'types'):
            raise OptionError(f'QualityModel: {type(self.net_g).__name__} is no judge of quality: it names no types.')
        self.cri_rank = build(LOSS_REGISTRY, rank_opt)
        self.type_weight, self.label_smoothing = type_weight, label_smoothing
        self.weak_level, self.weak_weight = weak_level, weak_weight

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        levels = batch['level']
        score, logits = self.net_g(batch['lq'].flatten(0, 1))
        scores, logits = score.view_as(levels), logits.view(*levels.shape, -1)
        losses = {'l_rank': self.cri_rank(scores, levels, batch['perfect']), 'rank_accuracy': _ranked(scores, levels)}
        return {**losses, **self._type_losses(logits, batch)}

    def _type_losses(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        levels, types = batch['level'], self.net_g.types
        known = [types.index(t) if t in types else -1 for t in batch['task']]
        kind = torch.tensor(known, device=levels.device).unsqueeze(1).expand(levels.shape)
        labels = torch.where(levels > 0, kind, torch.where(batch['perfect'], 0, -1).unsqueeze(1)).flatten()
        weight = torch.where((levels > 0) & (levels <= self.weak_level), self.weak_weight, 1.0).flatten()
        flat = logits.flatten(0, 1).float()
        each = F.cross_entropy(flat, labels, ignore_index=-1, reduction='none', label_smoothing=self.label_smoothing)
        counted = weight * (labels >= 0)
        right = ((flat.argmax(1) == labels) * counted).sum() / counted.sum().clamp_min(1e-6)
        return {
            'l_type': self.type_weight * (each * counted).sum() / counted.sum().clamp_min(1e-6),
            'type_accuracy': right,
        }


def _ranked(scores: Tensor, levels: Tensor) -> Tensor:
    """Share of the pairs within a ladder that are in the right order."""
    better = levels.unsqueeze(1) > levels.unsqueeze(2)
    lead = scores.unsqueeze(2) > scores.unsqueeze(1)
    return (lead & better).sum() / better.sum().clamp_min(1)
