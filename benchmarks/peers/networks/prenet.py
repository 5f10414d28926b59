"""PReNet: six passes of one small recurrent residual network (Ren et al., CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STAGES, WIDTH, BLOCKS = 6, 32, 5


def _conv(inputs: int, outputs: int, activation: nn.Module | None) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1)]
    return layers if activation is None else [*layers, activation]


class PReNet(nn.Module):
    """Takes the rain out of an image, each stage improving the last one's result; a LSTM links the stages."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(*_conv(6, WIDTH, nn.ReLU()))
        for number in range(1, BLOCKS + 1):
            pair = [*_conv(WIDTH, WIDTH, nn.ReLU()), *_conv(WIDTH, WIDTH, nn.ReLU())]
            self.add_module(f'res_conv{number}', nn.Sequential(*pair))
        for gate, activation in (('i', nn.Sigmoid()), ('f', nn.Sigmoid()), ('g', nn.Tanh()), ('o', nn.Sigmoid())):
            self.add_module(f'conv_{gate}', nn.Sequential(*_conv(2 * WIDTH, WIDTH, activation)))
        self.conv = nn.Sequential(*_conv(WIDTH, 3, None))

    def forward(self, image: Tensor) -> Tensor:
        """Restores (N,3,H,W) in [0,1]."""
        hidden = image.new_zeros((len(image), WIDTH, *image.shape[-2:]))
        cell, result = hidden, image
        for _ in range(STAGES):
            hidden, cell = self._remember(self.conv0(torch.cat((image, result), 1)), hidden, cell)
            result = image + self.conv(self._refine(hidden))
        return result

    def _remember(self, features: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the LSTM: new hidden state and cell."""
        joined = torch.cat((features, hidden), 1)
        cell = self.conv_f(joined) * cell + self.conv_i(joined) * self.conv_g(joined)
        return self.conv_o(joined) * cell.tanh(), cell

    def _refine(self, features: Tensor) -> Tensor:
        for number in range(1, BLOCKS + 1):
            features = (self.get_submodule(f'res_conv{number}')(features) + features).relu()
        return features
