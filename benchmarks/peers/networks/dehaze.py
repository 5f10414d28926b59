"""AOD-Net (Li et al., ICCV 2017) and Light-DehazeNet (Ullah et al., IEEE TIP 2021).

Both find one map K per image and channel that joins transmission and airlight, and give ``relu(K * x - K + 1)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


class AODNet(nn.Module):
    """Five convolutions of three channels; 1,761 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.e_conv1, self.e_conv2 = _conv(3, 3, 1), _conv(3, 3, 3)
        self.e_conv3, self.e_conv4, self.e_conv5 = _conv(6, 3, 5), _conv(6, 3, 7), _conv(12, 3, 3)

    def forward(self, image: Tensor) -> Tensor:
        """Restores (N,3,H,W) in [0,1]."""
        one = self.e_conv1(image).relu()
        two = self.e_conv2(one).relu()
        three = self.e_conv3(torch.cat((one, two), 1)).relu()
        four = self.e_conv4(torch.cat((two, three), 1)).relu()
        k = self.e_conv5(torch.cat((one, two, three, four), 1)).relu()
        return (k * image - k + 1).relu()


class LightDehazeNet(nn.Module):
    """Eight convolutions of 8 to 32 channels; 30,187 parameters."""

    def __init__(self) -> None:
        super().__init__()
        shapes = ((3, 8, 1), (8, 8, 3), (8, 8, 5), (16, 16, 7), (16, 16, 3), (16, 16, 3), (32, 32, 3), (56, 3, 3))
        for number, shape in enumerate(shapes, 1):
            self.add_module(f'e_conv_layer{number}', _conv(*shape))

    def forward(self, image: Tensor) -> Tensor:
        """Restores (N,3,H,W) in [0,1]."""
        one = self._layer(1, image)
        two = self._layer(2, one)
        four = self._layer(4, one, self._layer(3, two))
        five = self._layer(5, four)
        seven = self._layer(7, four, self._layer(6, five))
        k = self._layer(8, two, five, seven)
        return (k * image - k + 1).relu()

    def _layer(self, number: int, *inputs: Tensor) -> Tensor:
        return self.get_submodule(f'e_conv_layer{number}')(torch.cat(inputs, 1)).relu()
