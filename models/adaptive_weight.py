"""How heavy an adversarial loss may be beside the losses of reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-4  # added to the norm that divides, as released


def adaptive_weight(rec_loss: Tensor, gan_loss: Tensor, last_layer: Tensor, limit: float = 1.0) -> Tensor:
    """The weight at which an adversarial loss pulls as hard on the last layer as the reconstruction does.

    ``clip(|d rec / d last| / (|d gan / d last| + 1e-4), 0, limit)``, a number without gradient: VQGAN (Esser, Rombach
    and Ommer, CVPR 2021, arXiv:2012.09841, eq. 7), whose code clips at 1e4; CodeFormer and IQPIR clip at 1.

    Args:
        rec_loss: Loss of reconstruction, a scalar; its graph is kept.
        gan_loss: Adversarial loss, a scalar; its graph is kept.
        last_layer: Weight of the generator's last convolution, or another tensor that both losses were computed from.
        limit: Largest weight.
    """
    norms = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float().norm() for loss in (rec_loss, gan_loss)
    ]
    return (norms[0] / (norms[1] + FLOOR)).clamp(0, limit).detach()
