"""GCANet: smoothed dilated convolutions whose levels are fused by learned gates (Chen et al., WACV 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 64
CENTRE = 128.0  # subtracted from the levels 0 to 255, and from the edge map
DILATIONS = (2, 2, 2, 4, 4, 4, 1)


class _SharedFilter(nn.Module):
    """One filter that smooths every channel alike, so that the dilated convolution after it leaves no grid."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, size, size))

    def forward(self, x: Tensor) -> Tensor:
        filters = self.weight.expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, filters, padding=self.weight.shape[-1] // 2, groups=x.shape[1])


def _conv(inputs: int, dilation: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, WIDTH, 3, stride, padding=dilation, dilation=dilation, bias=False)


def _norm() -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(WIDTH, affine=True)


class _Block(nn.Module):
    """Two dilated convolutions around a short cut; smoothed where the dilation is more than 1."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        for number in (1, 2):
            if dilation > 1:
                self.add_module(f'pre_conv{number}', _SharedFilter(2 * dilation - 1))
            self.add_module(f'conv{number}', _conv(WIDTH, dilation))
            self.add_module(f'norm{number}', _norm())
        self.smoothed = dilation > 1

    def forward(self, x: Tensor) -> Tensor:
        return (x + self._half(self._half(x, 1).relu(), 2)).relu()

    def _half(self, x: Tensor, number: int) -> Tensor:
        x = self.get_submodule(f'pre_conv{number}')(x) if self.smoothed else x
        return self.get_submodule(f'norm{number}')(self.get_submodule(f'conv{number}')(x))


def edges(levels: Tensor) -> Tensor:
    """Mean absolute difference of each pixel to its four neighbours, over the channels: (N,3,H,W) to (N,1,H,W)."""
    across = (levels[..., :, 1:] - levels[..., :, :-1]).abs()
    down = (levels[..., 1:, :] - levels[..., :-1, :]).abs()
    total = F.pad(across, (1, 0)) + F.pad(across, (0, 1)) + F.pad(down, (0, 0, 1, 0)) + F.pad(down, (0, 0, 0, 1))
    return total.mean(dim=1, keepdim=True) / 4


class _GCANet(nn.Module):
    """The network of both tasks. It sees levels and edges, and gives levels."""

    adds_to_image: bool

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(4), _norm()
        self.conv2, self.norm2 = _conv(WIDTH), _norm()
        self.conv3, self.norm3 = _conv(WIDTH, stride=2), _norm()
        for number, dilation in enumerate(DILATIONS, 1):
            self.add_module(f'res{number}', _Block(dilation))
        self.gate = nn.Conv2d(3 * WIDTH, 3, 3, padding=1)
        self.deconv3, self.norm4 = nn.ConvTranspose2d(WIDTH, WIDTH, 4, 2, 1), _norm()
        self.deconv2, self.norm5 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), _norm()
        self.deconv1 = nn.Conv2d(WIDTH, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Restores (N,3,H,W) in [0,1]; odd sides are filled up by their last row or column."""
        height, width = image.shape[-2:]
        levels = 255 * F.pad(image, (0, width % 2, 0, height % 2), mode='replicate')
        x = torch.cat((levels, edges(levels)), 1) - CENTRE
        found = self._decode(self._context(self._encode(x)))
        found = found + levels if self.adds_to_image else found.relu()
        return found[..., :height, :width] / 255

    def _encode(self, x: Tensor) -> Tensor:
        for number in (1, 2, 3):
            x = self.get_submodule(f'norm{number}')(self.get_submodule(f'conv{number}')(x)).relu()
        return x

    def _context(self, shallow: Tensor) -> Tensor:
        """The encoder's features, those after the first dilation of 4 and the last ones, weighed by their gates."""
        taken, x = [shallow], shallow
        for number in range(1, len(DILATIONS) + 1):
            x = self.get_submodule(f'res{number}')(x)
            taken += [x] if number in (4, len(DILATIONS)) else []
        gates = self.gate(torch.cat(taken, 1)).split(1, dim=1)
        return sum(gate * level for gate, level in zip(gates, taken))

    def _decode(self, x: Tensor) -> Tensor:
        x = self.norm4(self.deconv3(x)).relu()
        return self.deconv1(self.norm5(self.deconv2(x)).relu())


class GCANetDehaze(_GCANet):
    """Finds what to add to a hazy image."""

    adds_to_image = True


class GCANetDerain(_GCANet):
    """Finds the image without rain itself."""

    adds_to_image = False
