"""Parts of the fully convolutional network of codes: encoder, generator and their reach.

Nothing in here looks at the whole image: the only normalisation is over the channels of one pixel. So every part has
a reach, the number of pixels that an output sees beyond its own, and tiles equal the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.network import Visit, keep

from .arch_util import LayerNorm2d


class ResidualBlock(nn.Module):
    """``x + conv(silu(conv(norm(x))))``; the second convolution begins small, so that depth does not slow the start.

    Args:
        channels: Channels in and out.
    """

    reach = 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2.weight.data.mul_(0.1)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        return x + self.conv2(F.silu(self.conv1(self.norm(x))))


class Upward(nn.Module):
    """Twice the size: a 1 x 1 convolution at the small size, nearest neighbours, a 3 x 3 convolution at the large one.

    Args:
        channels: Channels in.
        out: Channels out.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, out, 1)
        self.smooth = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to (N, out, 2H, 2W)."""
        return self.smooth(F.interpolate(self.narrow(x), scale_factor=2.0, mode='nearest'))


class WindowBlock(nn.Module):
    """Attention within windows, then two linear layers, as in Swin (Liu et al., ICCV 2021, arXiv:2103.14030).

    Windows that are shifted leave a border; there, as where the features are no multiple of the window, tokens of zeros
    stand in, as zeros do around a convolution. So no mask is needed, and a token sees only what its windows hold.

    Args:
        channels: Channels in and out.
        heads: Heads of the attention.
        window: Side of a window in tokens.
        shifted: Whether windows begin half a window earlier.
    """

    def __init__(self, channels: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, window // 2 if shifted else 0
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.fc1, self.fc2 = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))  # by the offset of two tokens
        place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing='ij'), -1).view(-1, 2)
        offset = place[:, None] - place + window - 1
        self.register_buffer('offset', offset[..., 0] * (2 * window - 1) + offset[..., 1], persistent=False)

    def forward(self, x: Tensor, change: Tensor | None = None) -> Tensor:
        """Maps tokens (N,h,w,channels) to the same shape.

        Args:
            x: The tokens.
            change: (N,6,1,channels), shift, scale and gate of the attention, then of the linear layers, where scale and
                gate come on top of 1; None changes nothing.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = (None,) * 6 if change is None else change.unbind(1)
        x = x + _times(self._attention(_moved(self.norm1(x), shift1, scale1)), gate1)
        return x + _times(self.fc2(F.gelu(self.fc1(_moved(self.norm2(x), shift2, scale2)))), gate2)

    def _attention(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        side, first = self.window, self.shift
        y = F.pad(self.qkv(x), (0, 0, first, -(width + first) % side, first, -(height + first) % side))
        down, along = y.shape[1] // side, y.shape[2] // side
        y = y.view(n, down, side, along, side, 3, self.heads, channels // self.heads)
        q, k, v = y.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, self.heads, side * side, y.shape[-1])
        bias = self.bias[self.offset].permute(2, 0, 1)[None].to(q.dtype)
        y = F.scaled_dot_product_attention(q, k, v, bias).view(n, down, along, self.heads, side, side, -1)
        y = y.permute(0, 1, 4, 2, 5, 3, 6).reshape(n, down * side, along * side, channels)
        return self.proj(y[:, first : first + height, first : first + width])


class Body(nn.Module):
    """Residual blocks between encoder and head: windows of attention and a convolution, or convolutions only.

    Args:
        kind: ``swin`` or ``conv``.
        channels: Channels in and out.
        depth: Blocks; every second one is shifted.
        heads: Heads of the attention.
        window: Side of a window.
    """

    def __init__(self, kind: str, channels: int, depth: int, heads: int, window: int) -> None:
        super().__init__()
        self.swin, self.window = kind == 'swin', window
        if self.swin:
            self.blocks = nn.ModuleList(WindowBlock(channels, heads, window, n % 2 == 1) for n in range(depth))
        else:
            self.blocks = chain(channels, depth)
        self.merge = nn.Conv2d(channels, channels, 3, padding=1)

    @property
    def reach(self) -> int:
        """Features that an output sees to each side at most: a window, and half a window more with every next block."""
        count = len(self.blocks)
        if not self.swin:
            return 1 + ResidualBlock.reach * count
        return 1 + (self.window - 1 + (count - 1) * (self.window // 2) if count else 0)

    def forward(self, x: Tensor, changes: Sequence[Tensor] | None = None) -> Tensor:
        """Maps (N,channels,h,w) to the same shape; ``changes`` as in :class:`WindowBlock`, one a block."""
        if not self.swin:
            return x + self.merge(self.blocks(x))
        y = x.permute(0, 2, 3, 1)
        for n, block in enumerate(self.blocks):
            y = block(y, None if changes is None else changes[n])
        return x + self.merge(y.permute(0, 3, 1, 2))


class Encoder(nn.Module):
    """An image to features of every stride, by strided convolutions and residual blocks.

    Args:
        widths: Channels by level, from full resolution down.
        blocks: Residual blocks by level.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(chain(width, count) for width, count in zip(widths, blocks))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))

    def forward(self, x: Tensor, visit: Visit = keep) -> list[Tensor]:
        """An image (N,3,H,W) in [-1,1] to one feature map a level, from (N,C0,H,W) down, each named ``encoder.<n>``."""
        features: list[Tensor] = []
        for n, level in enumerate(self.levels):
            y = self.downs[n - 1](features[-1]) if n else self.stem(x)
            features.append(visit(f'encoder.{n}', level(y)))
        return features


class Generator(nn.Module):
    """Features of codes to an image.

    Args:
        dim: Channels of the codes.
        widths: Channels by level, from full resolution down, as those of the encoder.
        blocks: Residual blocks by level, from full resolution down.
    """

    def __init__(self, dim: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.after_quant = nn.Conv2d(dim, widths[-1], 3, padding=1)
        self.levels = nn.ModuleList(chain(width, count) for width, count in zip(widths[::-1], blocks[::-1]))
        self.ups = nn.ModuleList(Upward(a, b) for a, b in pairwise(widths[::-1]))
        self.norm = LayerNorm2d(widths[0])
        self.last = nn.Conv2d(widths[0], 3, 3, padding=1)

    def features(self, z: Tensor, visit: Visit = keep) -> list[Tensor]:
        """Features of codes (N,dim,h,w) to one map a level, from the lowest resolution, each ``generator.<n>``."""
        features: list[Tensor] = []
        for n, level in enumerate(self.levels):
            y = self.ups[n - 1](features[-1]) if n else self.after_quant(z)
            features.append(visit(f'generator.{n}', level(y)))
        return features

    def image(self, feature: Tensor) -> Tensor:
        """The last feature map (N,C0,H,W) to the image (N,3,H,W) in [-1,1], not clipped."""
        return self.last(F.silu(self.norm(feature)))

    def forward(self, z: Tensor, visit: Visit = keep) -> Tensor:
        """Codes' features (N,dim,h,w) to an image (N,3,H,W) in [-1,1], not clipped."""
        return self.image(self.features(z, visit)[-1])


class FidelityDecoder(nn.Module):
    """What the degraded image adds to the generator's picture: a second decoder that begins at exactly nothing.

    As in RIDCP (Wu et al., CVPR 2023, arXiv:2304.03994) it takes the frozen generator's features and, at the same
    stride, those of the encoder; there are no deformable convolutions here.

    Args:
        widths: Channels by level, from full resolution down.
        blocks: Residual blocks by level, from full resolution down.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.joins = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for width in widths[::-1])
        self.levels = nn.ModuleList(chain(width, count) for width, count in zip(widths[::-1], blocks[::-1]))
        self.ups = nn.ModuleList(Upward(a, b) for a, b in pairwise(widths[::-1]))
        self.norm = LayerNorm2d(widths[0])
        self.last = nn.Conv2d(widths[0], 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, drawn: Sequence[Tensor], skips: Sequence[Tensor]) -> Tensor:
        """Two sequences of feature maps, lowest resolution first, to a picture (N,3,H,W) to be added."""
        y = None
        for n, (join, level) in enumerate(zip(self.joins, self.levels)):
            joined = join(torch.cat((drawn[n], skips[n]), 1))
            y = level(joined if y is None else joined + self.ups[n - 1](y))
        return self.last(F.silu(self.norm(y)))


def chain(channels: int, count: int) -> nn.Sequential:
    """So many residual blocks."""
    return nn.Sequential(*[ResidualBlock(channels) for _ in range(count)])


def adain(z: Tensor, like: Tensor) -> Tensor:
    """Gives features (N,C,h,w) the means and deviations, over the whole image, of others of their shape.

    Huang and Belongie, ICCV 2017, arXiv:1703.06868; between codes and encoder as in CodeFormer.
    """
    (std, mean), (wanted_std, wanted_mean) = (torch.std_mean(x, (2, 3), keepdim=True, correction=0) for x in (z, like))
    return (z - mean) / (std + 1e-5) * wanted_std + wanted_mean


def nearness(features: Tensor, entries: Tensor) -> Tensor:
    """Squared distances, negative, of features (N,C,h,w) to entries (n,C): (N,n,h,w), in float32 under autocast too."""
    with torch.autocast(features.device.type, enabled=False):
        kind = torch.promote_types(features.dtype, torch.float32)
        x, entries = features.to(kind), entries.to(kind)
        product = torch.einsum('nchw,kc->nkhw', x, entries)
        return 2 * product - entries.square().sum(1)[:, None, None] - x.square().sum(1, keepdim=True)


def reach_of_encoder(blocks: Sequence[int]) -> int:
    """Pixels that a feature of the lowest level sees beyond the image pixels it stands for."""
    convolutions = 1 + sum((ResidualBlock.reach * count) << level for level, count in enumerate(blocks))
    return convolutions + sum(1 << level for level in range(len(blocks) - 1))  # 4 x 4 at stride 2: one at each side


def reach_of_generator(blocks: Sequence[int], second: Sequence[int] | None = None) -> int:
    """Pixels that an image pixel sees beyond the codes it lies in; with blocks of a second decoder, through both."""
    first = [(1 + ResidualBlock.reach * count) << level for level, count in enumerate(blocks)]
    if second is None:
        return sum(first) + 1
    lowest = len(blocks) - 1
    later = [((level < lowest) + ResidualBlock.reach * count) << level for level, count in enumerate(second)]
    return max(sum(first[n:]) + sum(later[: n + 1]) for n in range(len(blocks))) + 1


def _moved(x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    """Tokens (N,h,w,C) scaled and shifted by (N,1,C), or unchanged."""
    return x if shift is None else x * (1 + scale[:, None]) + shift[:, None]


def _times(x: Tensor, gate: Tensor | None) -> Tensor:
    return x if gate is None else x * (1 + gate[:, None])
