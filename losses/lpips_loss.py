"""LPIPS as a loss: the learned perceptual distance that autoencoders of codes are trained with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from basicsr.metrics.lpips import load_lpips
from basicsr.registry import LOSS_REGISTRY

from .loss_util import check_same_shape


@LOSS_REGISTRY.register()
class LPIPSLoss(nn.Module):
    """Learned perceptual distance (LPIPS v0.1; Zhang et al., CVPR 2018), the mean over the images.

    The weights do not come with this project: those of the trunk are torchvision's, those of the heads are the package
    lpips'. They are frozen, are no part of a checkpoint, and are looked for in the folder that QUALIR_WEIGHTS names, in
    ~/.cache/qualir/weights and where torchvision and pyiqa download to. VQGAN, CodeFormer and IQPIR take VGG16;
    CodeFormer and IQPIR normalise images by the mean and deviation of ImageNet before LPIPS does so itself, which is
    not repeated here.

    Args:
        loss_weight: Factor on the loss.
        net: Trunk: vgg, alex or squeeze.
        trunk: Weight file of the trunk, or of trunk and heads together; null searches for it.
        heads: Weight file of the linear heads; null searches for it.

    Raises:
        MissingWeightsError: A weight file is not on this machine.
        CheckpointError: A weight file does not fit.
    """

    def __init__(
        self, loss_weight: float = 1.0, net: Literal['vgg', 'alex', 'squeeze'] = 'vgg', trunk: str | None = None,
        heads: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.loss_weight, self.source = loss_weight, (net, trunk, heads)
        load_lpips(*self.source)  # before any work: the files must be there

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Compares two batches (N,3,H,W) in [0,1]; returns a scalar. In float32, also in a mixed-precision region.

        Raises:
            DataError: Shapes that differ.
        """
        check_same_shape('LPIPSLoss', pred, target)
        distance = load_lpips(*self.source, str(pred.device))  # one for each device, kept there
        with torch.autocast(pred.device.type, enabled=False):
            return self.loss_weight * distance(pred.float(), target.float()).mean()
