"""CNNIQA: quality of grey patches by one convolution, trained on human scores (Kang et al., CVPR 2014)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH, KERNELS, SIZE, HIDDEN = 32, 50, 7, 800
WINDOW, STABLE = 3, 1.0  # local normalisation of each patch: side of its window, added to the standard deviation
GREY = (19595, 38470, 7471)  # of Pillow's mode L, in 1 / 65536


class CNNIQA(nn.Module):
    """Predicts the DMOS of LIVE, 0 to 100 and beyond; higher is worse. Differentiable but for the rounding of grey."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, KERNELS, SIZE)
        self.fc1, self.fc2 = nn.Linear(2 * KERNELS, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.fc3 = nn.Linear(HIDDEN, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N,3,H,W) RGB in [0,1], at least 33 x 33: the mean over its patches, (N,)."""
        patches = normalised(grey_patches(images))
        count, number = patches.shape[:2]
        found = self.conv1(patches.flatten(0, 1).unsqueeze(1)).flatten(2)
        pooled = torch.cat((found.amax(-1), found.amin(-1)), 1)
        hidden = self.fc2(self.fc1(pooled).relu()).relu()
        return self.fc3(hidden).view(count, number).mean(dim=1)


def grey_patches(images: Tensor) -> Tensor:
    """Grey patches (N,P,32,32) that do not overlap; as published, none ends at the last row or column.

    Grey is rounded as 8-bit grey is, without stopping the gradient.
    """
    weights = images.new_tensor(GREY).view(1, 3, 1, 1) / 65536
    grey = (images * weights).sum(dim=1)
    grey = grey + ((grey.detach() * 255).round() / 255 - grey.detach())
    height, width = (PATCH * ((n - 1) // PATCH) for n in grey.shape[-2:])
    cells = grey[:, :height, :width].unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)
    return cells.flatten(1, 2)


def normalised(patches: Tensor) -> Tensor:
    """Subtracts from each pixel the mean of its 3 x 3 window and divides by the deviation there plus one.

    The window is mirrored at the edge of the patch, the edge pixel itself included: for a side of 3 that is the same as
    repeating it.
    """
    count = patches.shape[:2]
    x = patches.flatten(0, 1).unsqueeze(1)
    padded = F.pad(x, (1, 1, 1, 1), mode='replicate')
    mean = F.avg_pool2d(padded, WINDOW, 1)
    variance = (F.avg_pool2d(padded.square(), WINDOW, 1) - mean.square()).clamp(min=0)
    deviation = torch.where(variance > 0, variance, 1).sqrt() * (variance > 0)
    return ((x - mean) / (deviation + STABLE)).squeeze(1).unflatten(0, count)
