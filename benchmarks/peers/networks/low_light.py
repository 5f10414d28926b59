"""Zero-DCE (Guo et al., CVPR 2020) and the enhancing part of SCI (Ma et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CURVES = 8
DARKEST = 1e-4  # least illumination that SCI divides by


class ZeroDCE(nn.Module):
    """Finds eight curves for each pixel and channel, and lights the image with one after the other."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 32, 32, 64, 64, 64)
        for number, inputs in enumerate(widths, 1):
            outputs = 3 * CURVES if number == len(widths) else 32
            self.add_module(f'e_conv{number}', nn.Conv2d(inputs, outputs, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """Restores (N,3,H,W) in [0,1]."""
        one = self.e_conv1(image).relu()
        two = self.e_conv2(one).relu()
        three = self.e_conv3(two).relu()
        four = self.e_conv4(three).relu()
        five = self.e_conv5(torch.cat((three, four), 1)).relu()
        six = self.e_conv6(torch.cat((two, five), 1)).relu()
        for curve in self.e_conv7(torch.cat((one, six), 1)).tanh().split(3, dim=1):
            image = image + curve * (image.square() - image)
        return image


class _Illumination(nn.Module):
    """SCI's network of three channels: the image plus what it finds is the illumination."""

    def __init__(self) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
        self.conv = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
        self.blocks = nn.ModuleList([self.conv])  # the file names this one layer twice
        self.out_conv = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Sigmoid())

    def forward(self, image: Tensor) -> Tensor:
        features = self.in_conv(image)
        for block in self.blocks:
            features = features + block(features)
        return (image + self.out_conv(features)).clamp(DARKEST, 1)


class SCI(nn.Module):
    """Divides an image by its illumination."""

    def __init__(self) -> None:
        super().__init__()
        self.enhance = _Illumination()

    def forward(self, image: Tensor) -> Tensor:
        """Restores (N,3,H,W) in [0,1]."""
        return (image / self.enhance(image)).clamp(0, 1)
