"""Supervised restoration: a network, a clean image to compare its output with."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from basicsr.registry import LOSS_REGISTRY, MODEL_REGISTRY, build
from basicsr.schema import Block

from .base_model import BaseModel, Batch


@MODEL_REGISTRY.register()
class RestorationModel(BaseModel):
    """Trains a network on pairs of a degraded and a clean image.

    Args:
        networks: ``{'g': net}``, mapping (N,3,H,W) to (N,3,H,W).
        pixel_opt: Loss between output and ground truth, pixel by pixel.
        fft_opt: Loss between their spectra, added to it.
        perceptual_opt: Loss between their features, such as FeatureLoss, added to it.
        gradient_opt: Loss between their edges, such as GradientLoss, added to it.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        pixel_opt: Annotated[dict, Block('loss')],
        fft_opt: Annotated[dict, Block('loss')] | None = None,
        perceptual_opt: Annotated[dict, Block('loss')] | None = None,
        gradient_opt: Annotated[dict, Block('loss')] | None = None,
    ) -> None:
        super().__init__(networks)
        self.cri_pix = build(LOSS_REGISTRY, pixel_opt)
        self.cri_fft = build(LOSS_REGISTRY, fft_opt) if fft_opt else None
        self.cri_perceptual = build(LOSS_REGISTRY, perceptual_opt) if perceptual_opt else None
        self.cri_gradient = build(LOSS_REGISTRY, gradient_opt) if gradient_opt else None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return self.supervised_losses(self.net_g(batch['lq']), batch['gt'])

    def supervised_losses(self, output: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Losses between restored and clean images, (N,3,H,W) each."""
        terms = {
            'l_pix': self.cri_pix, 'l_fft': self.cri_fft,
            'l_percep': self.cri_perceptual, 'l_gradient': self.cri_gradient,
        }  # fmt: skip
        return {name: loss(output, gt) for name, loss in terms.items() if loss is not None}
