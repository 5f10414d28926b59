"""An underwater network after the image formation model, of 2,027 parameters (Xuelei Chen et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _layers(*shapes: tuple[int, int, int, int]) -> list[nn.Module]:
    """Convolutions (inputs, outputs, size, dilation), each with a PReLU."""
    made: list[nn.Module] = []
    for inputs, outputs, size, dilation in shapes:
        made += [nn.Conv2d(inputs, outputs, size, padding=dilation * (size // 2), dilation=dilation), nn.PReLU()]
    return made


class _Stack(nn.Module):
    """Layers under the name that the weight file gives them."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class WaterNet(nn.Module):
    """Finds the ambient light A of an image and, for each pixel, the gain t: the result is ``(x - A) t + A``."""

    def __init__(self) -> None:
        super().__init__()
        shape = (3, 3, 3, 1)
        light = [*_layers(shape, shape), nn.AdaptiveAvgPool2d(1), *_layers((3, 3, 1, 1), (3, 3, 1, 1))]
        self.ANet = _Stack(light)
        self.tNet = _Stack(_layers((6, 8, 3, 1), (8, 8, 3, 2), (8, 8, 3, 5), (8, 3, 3, 1)))

    def forward(self, image: Tensor) -> Tensor:
        """Restores (N,3,H,W) in [0,1]."""
        light = self.ANet(image)
        gain = self.tNet(torch.cat((light.expand_as(image), image), 1))
        return ((image - light) * gain + light).clamp(0, 1)
