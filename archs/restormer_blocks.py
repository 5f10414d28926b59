"""The blocks of Restormer: normalisation, attention among channels, the gated feed-forward network, resampling.

Paper and published code: see ``restormer_arch.py``. PromptIR, AdaIR and others are made of the same blocks.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.errors import OptionError

from .arch_util import LayerNorm2d
from .fused_attention import EPS_LENGTH, can_fuse_attention, fused_channel_attention, projected
from .fused_ops import aligned_feed_forward
from .precision import full_precision

NormType = Literal['WithBias', 'BiasFree']
EPS_VARIANCE = 1e-5


class BiasFreeNorm2d(nn.Module):
    """Divides every pixel by the standard deviation of its channels; the mean is not subtracted.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Returns a tensor of the shape, memory format and dtype of ``x``, (N, channels, H, W)."""
        exact = full_precision(x)
        variance = exact.permute(0, 2, 3, 1).var(-1, unbiased=False).unsqueeze(1)
        return (exact * (variance + EPS_VARIANCE).rsqrt() * self.weight.view(-1, 1, 1)).to(x.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the channels of every pixel, under the published key ``body``.

    Args:
        channels: Number of channels.
        kind: ``WithBias``, or ``BiasFree`` as in the published denoisers.
    """

    def __init__(self, channels: int, kind: NormType) -> None:
        super().__init__()
        self.body = BiasFreeNorm2d(channels) if kind == 'BiasFree' else LayerNorm2d(channels, EPS_VARIANCE)

    def forward(self, x: Tensor) -> Tensor:
        """Returns a tensor of the shape and memory format of ``x``, (N, channels, H, W)."""
        return self.body(x)


class FeedForward(nn.Module):
    """Gated depthwise feed-forward network (GDFN, equation 3 of the paper).

    Args:
        channels: Channels in and out.
        expansion: The hidden channels are this times ``channels``, rounded down.
        bias: Whether the convolutions have biases.
    """

    def __init__(self, channels: int, expansion: float, bias: bool) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        return aligned_feed_forward(x, self.project_in, self.dwconv, self.project_out)


def depthwise_after_pointwise(channels: int, out_channels: int, bias: bool) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The two convolutions that make queries, keys or values: 1 x 1, then 3 x 3 of each channel."""
    depthwise = {'padding': 1, 'groups': out_channels, 'bias': bias}
    return nn.Conv2d(channels, out_channels, 1, bias=bias), nn.Conv2d(out_channels, out_channels, 3, **depthwise)


class HeadedAttention(nn.Module):
    """What attention over channels needs beside its queries, keys and values.

    Attributes:
        window: Side, in pixels of the feature map, of the windows within which attention is computed; None for whole
            maps. Set by :meth:`RestormerUNet.localize`.

    Args:
        channels: Channels in and out.
        num_heads: Groups of channels that attend among themselves.

    Raises:
        OptionError: The channels cannot be split so.
    """

    window: int | None = None
    project_out: nn.Conv2d

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise OptionError(f'Attention: {channels} channels cannot be split into {num_heads} equal heads.')
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Mixes the channels of ``v`` and applies ``project_out``.

        With windows (TLC), each window attends by itself and overlapping results are averaged, as in
        github.com/megvii-research/TLC.

        Args:
            q: Queries (N, channels, H, W); what is compared are channels, as vectors over the pixels.
            k: Keys of the same shape.
            v: Values of the same shape.
        """
        height, width = q.shape[-2:]
        if self.window is None or self.window >= max(height, width):
            return self._attend(q, k, v)
        total, count = torch.zeros_like(v), v.new_zeros(1, 1, height, width)
        for top in window_starts(height, self.window):
            for left in window_starts(width, self.window):
                at = (..., slice(top, top + self.window), slice(left, left + self.window))
                total[at] += self._attend(q[at], k[at], v[at])
                count[at] += 1
        return total / count

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention and ``project_out`` in one product: both are matrices that act on the channels of ``v``."""
        weights = channel_affinity(q.flatten(2), k.flatten(2), self.temperature).softmax(dim=-1)
        mixing = projected(weights, self.project_out.weight.flatten(1))
        values = v.flatten(2)
        if values.stride(1) == 1:  # channels last stays channels last
            out = (values.transpose(1, 2) @ mixing.transpose(1, 2)).transpose(1, 2)
        else:
            out = mixing @ values
        out = out.unflatten(2, v.shape[-2:])
        return out if self.project_out.bias is None else out + self.project_out.bias.to(out.dtype).view(-1, 1, 1)


def channel_affinity(q: Tensor, k: Tensor, temperature: Tensor) -> Tensor:
    """Cosines between the channels of ``q`` and ``k``, times the temperature.

    The lengths divide the small matrix of products, not the large ``q`` and ``k``: the same numbers by fewer passes.

    Args:
        q: (N, C, P), P pixels.
        k: (N, C, P).
        temperature: (heads, 1, 1).

    Returns:
        (N, heads, C/heads, C/heads).
    """
    heads = temperature.shape[0]
    if q.dtype == torch.float16:  # sums over an image overflow it; unit vectors do not
        q, k = (F.normalize(x.float(), dim=2).half() for x in (q, k))
        return _products(q, k, heads) * temperature
    lengths_q, lengths_k = (_lengths(x).unflatten(1, (heads, -1)) for x in (q, k))
    return _products(q, k, heads) * (temperature / (lengths_q.unsqueeze(-1) * lengths_k.unsqueeze(-2)))


def _products(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Inner products within each head; head by head, since a joint view of batch and heads would be copied."""
    pairs = zip(q.chunk(heads, dim=1), k.chunk(heads, dim=1))
    return torch.stack([a @ b.transpose(1, 2) for a, b in pairs], dim=1)


def _lengths(x: Tensor) -> Tensor:
    """Lengths (N, C) of the channels of (N, C, P); bounded before the root, whose slope at 0 is infinite."""
    squares = x.square().sum(2, dtype=torch.promote_types(x.dtype, torch.float32))
    return squares.clamp_min(EPS_LENGTH**2).sqrt()


def window_starts(size: int, window: int) -> list[int]:
    """First pixels of the fewest equal windows that cover ``size`` pixels, spread as evenly as whole pixels allow."""
    if window >= size:
        return [0]
    steps = -(-size // window) - 1
    step = -(-(size - window) // steps)
    return sorted({min(n * step, size - window) for n in range(steps + 1)})


class ChannelAttention(HeadedAttention):
    """Multi-depthwise-convolution head transposed attention (MDTA, equation 1 of the paper).

    Args:
        channels: Channels in and out.
        num_heads: Groups of channels that attend among themselves.
        bias: Whether the convolutions have biases.
    """

    def __init__(self, channels: int, num_heads: int, bias: bool) -> None:
        super().__init__(channels, num_heads)
        self.qkv, self.qkv_dwconv = depthwise_after_pointwise(channels, 3 * channels, bias)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        qkv = self.qkv_dwconv(self.qkv(x))
        if self.window is None and can_fuse_attention(qkv):
            return fused_channel_attention(qkv, self.temperature, self.project_out)
        return self.attend(*qkv.chunk(3, dim=1))


class TransformerBlock(nn.Module):
    """Attention over channels, then the feed-forward network, each normalised before and added to its input.

    Args:
        channels: Channels in and out.
        num_heads: Heads of the attention.
        expansion: Factor on the channels inside the feed-forward network.
        bias: Whether the convolutions have biases.
        norm: Kind of layer normalisation.
    """

    def __init__(self, channels: int, num_heads: int, expansion: float, bias: bool, norm: NormType) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels, norm)
        self.attn = ChannelAttention(channels, num_heads, bias)
        self.norm2 = LayerNorm(channels, norm)
        self.ffn = FeedForward(channels, expansion, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class OverlapPatchEmbed(nn.Module):
    """The first convolution, under the published key ``proj``.

    Args:
        inp_channels: Channels of the image.
        dim: Channels out.
    """

    def __init__(self, inp_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inp_channels, dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, inp_channels, H, W) to (N, dim, H, W)."""
        return self.proj(x)


class Resample(nn.Module):
    """Halves or doubles height and width by a convolution and a shuffle of pixels, under the published key ``body``.

    Args:
        channels: Channels in.
        shuffle: ``nn.PixelUnshuffle(2)``, which gives twice the channels, or ``nn.PixelShuffle(2)``, which gives half.
    """

    def __init__(self, channels: int, shuffle: nn.PixelUnshuffle | nn.PixelShuffle) -> None:
        super().__init__()
        between = channels // 2 if isinstance(shuffle, nn.PixelUnshuffle) else channels * 2
        self.body = nn.Sequential(nn.Conv2d(channels, between, 3, padding=1, bias=False), shuffle)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, 2C, H/2, W/2) or (N, C/2, 2H, 2W)."""
        return self.body(x)
