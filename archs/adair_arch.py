"""AdaIR: Restormer whose decoder is adapted by low and high frequencies of the degraded image.

Paper: Cui, Zamir, Khan, Knoll, Shah and Khan, "AdaIR: Adaptive All-in-One Image Restoration via Frequency Mining and
Modulation", ICLR 2025, arXiv:2403.14614. Published code: github.com/c-yn/AdaIR (ccb8b98, MIT). Keys and numbers are as
published; the code is written afresh.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.errors import OptionError
from basicsr.network import Half
from basicsr.registry import ARCH_REGISTRY

from .precision import full_precision
from .restormer_arch import Plan, RestormerUNet, nothing
from .restormer_blocks import HeadedAttention, NormType, depthwise_after_pointwise

MASK_UNIT = 128  # pixels of a feature map for each pixel by which the box of low frequencies may reach out


class ChannelCrossAttention(HeadedAttention):
    """Attention among channels with queries from one feature map, keys and values from another.

    Args:
        channels: Channels of both maps and of the result.
        num_heads: Groups of channels that attend among themselves.
        bias: Whether the convolutions have biases.
    """

    def __init__(self, channels: int, num_heads: int, bias: bool) -> None:
        super().__init__(channels, num_heads)
        self.q, self.q_dwconv = depthwise_after_pointwise(channels, channels, bias)
        self.kv, self.kv_dwconv = depthwise_after_pointwise(channels, 2 * channels, bias)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Queries of ``x`` against keys and values of ``y``, both (N, channels, H, W)."""
        return self.attend(self.q_dwconv(self.q(x)), *self.kv_dwconv(self.kv(y)).chunk(2, dim=1))


class SpatialGate(nn.Module):
    """A weight in (0, 1) for every pixel (H-L unit)."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, 1, H, W)."""
        return self.spatial(torch.cat([x.max(1, keepdim=True)[0], x.mean(1, keepdim=True)], 1)).sigmoid()


class ChannelGate(nn.Module):
    """A weight in (0, 1) for every channel (L-H unit).

    Args:
        channels: Number of channels, at least 16.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 16
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.ReLU(), nn.Conv2d(inner, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to (N, channels, 1, 1)."""
        return (self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))).sigmoid()


class FreRefine(nn.Module):
    """Frequency modulation (FMoM): low and high frequencies gate each other, then are added.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.SpatialGate = SpatialGate()
        self.ChannelGate = ChannelGate(channels)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Maps two tensors (N, channels, H, W) to one."""
        return self.proj(low * self.SpatialGate(high) + high * self.ChannelGate(low))


class FreModule(nn.Module):
    """Adaptive frequency learning block (AFLB).

    What is published, and kept: the box of low frequencies reaches ``int(size // 128 * rate)`` pixels from the
    centre, with ``rate`` in (0, 1). So it is empty for feature maps below 256 pixels in height or width, which are all
    that training on crops sees; and ``rate_conv`` gets no gradient, for whole numbers have none. ``conv`` and
    ``score_gen`` are never used.

    Args:
        channels: Channels of the feature map.
        num_heads: Heads of the attention.
        bias: Whether the convolutions of the attention have biases.
        inp_channels: Channels of the image.
    """

    def __init__(self, channels: int, num_heads: int, bias: bool, inp_channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inp_channels, channels, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(inp_channels, channels, 3, padding=1, bias=False)
        self.score_gen = nn.Conv2d(2, 2, 7, padding=3)
        self.para1 = nn.Parameter(torch.zeros(channels, 1, 1))
        self.para2 = nn.Parameter(torch.ones(channels, 1, 1))
        self.channel_cross_l = ChannelCrossAttention(channels, num_heads, bias)
        self.channel_cross_h = ChannelCrossAttention(channels, num_heads, bias)
        self.channel_cross_agg = ChannelCrossAttention(channels, num_heads, bias)
        self.frequency_refine = FreRefine(channels)
        self.rate_conv = nn.Sequential(
            nn.Conv2d(channels, channels // 8, 1, bias=False), nn.GELU(), nn.Conv2d(channels // 8, 2, 1, bias=False)
        )

    def forward(self, image: Tensor, y: Tensor) -> Tensor:
        """Adapts features ``y`` (N, channels, H, W) by the frequencies of the image, of any size."""
        low, high = self.split(self.conv1(F.interpolate(image, y.shape[-2:], mode='bilinear')))
        high = self.channel_cross_l(high, y)  # l and h are the other way round in the published names
        low = self.channel_cross_h(low, y)
        mixed = self.channel_cross_agg(y, self.frequency_refine(low, high))
        return mixed * self.para1 + y * self.para2

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Magnitudes of the low and of the high frequencies of ``x`` (N, channels, H, W), in image space."""
        if min(x.shape[-2:]) < MASK_UNIT:  # no low frequencies: transforming there and back would change nothing
            return torch.zeros_like(x), x.abs()
        inside = self.low_frequencies(x)
        with torch.autocast(x.device.type, enabled=False):  # there is no transform of half numbers
            exact = full_precision(x)
            low = torch.fft.ifft2(torch.fft.fft2(exact) * inside)
            return low.abs().to(x.dtype), (exact - low).abs().to(x.dtype)

    @torch.no_grad()
    def low_frequencies(self, x: Tensor) -> Tensor:
        """Which coefficients of the transform of ``x`` count as low: booleans (N, 1, H, W), the constant first."""
        rate = self.rate_conv(F.adaptive_avg_pool2d(x, 1)).sigmoid()
        rows, columns = (
            _near_zero(size, (size // MASK_UNIT * rate[:, [n]]).int()) for n, size in enumerate(x.shape[-2:])
        )
        return rows.transpose(2, 3) & columns


def _near_zero(size: int, reach: Tensor) -> Tensor:
    """Frequencies from -reach to reach - 1 of ``size``, in the order of the transform; (N,1,1,1) to (N,1,1,size)."""
    index = torch.arange(size, device=reach.device)
    return (index < reach) | (index >= size - reach)


@ARCH_REGISTRY.register()
class AdaIR(RestormerUNet):
    """AdaIR, one Restormer for several degradations, adapted by frequencies of the image in the decoder.

    The defaults are the published network of 28,784,824 parameters, of which those of ``conv``, ``score_gen`` and
    ``rate_conv`` in each of the three frequency modules get no gradient. Official weight files hold an entry
    ``state_dict`` with the prefix ``net.``.

    Args:
        inp_channels: Channels of the input.
        out_channels: Channels of the output, equal to those of the input.
        dim: Channels at full resolution, at least 8; each level down doubles them.
        num_blocks: Blocks of each level, from full resolution down; the decoder has as many.
        num_refinement_blocks: Blocks after the decoder, at full resolution.
        heads: Attention heads of each level; those of the frequency modules are the third.
        ffn_expansion_factor: Factor on the channels inside the feed-forward networks.
        bias: Whether convolutions have biases.
        LayerNorm_type: Kind of layer normalisation; BiasFree does not subtract the mean.
        decoder: Whether the decoder has frequency modules; without them the network is Restormer.

    Raises:
        OptionError: The arguments do not fit together.
    """

    half_precision: ClassVar[tuple[Half, ...]] = ('bf16',)  # the slope of attention to empty frequencies is 1e12

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: list[int] = [4, 6, 6, 8],  # noqa: B006  (the published default, only read)
        num_refinement_blocks: int = 4,
        heads: list[int] = [1, 2, 4, 8],  # noqa: B006
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: NormType = 'WithBias',
        decoder: bool = True,
    ) -> None:
        if decoder and dim < 8:
            raise OptionError(f'AdaIR: dim is {dim}; the frequency modules need at least 8.')
        sizes = (inp_channels, out_channels, dim, num_blocks, num_refinement_blocks, heads)
        plan = Plan(*sizes, ffn_expansion_factor, bias, LayerNorm_type)
        plan.require_equal_channels('AdaIR')
        super().__init__(plan, extra=_frequency_modules if decoder else nothing)
        self.decoder = decoder
        self.extra_strides = {'fre1': 8, 'fre2': 4, 'fre3': 2} if decoder else {}

    def adapt(self, site: str, y: Tensor, x: Tensor) -> Tensor:
        """Adapts the features of a site by the frequencies of the image."""
        if not self.decoder:
            return y
        modules = {'latent': self.fre1, 'decoder_level3': self.fre2, 'decoder_level2': self.fre3}
        return modules[site](x, y)


def _frequency_modules(after: str, plan: Plan) -> dict[str, nn.Module]:
    """The three modules, which the published network registers right after its first convolution."""
    if after != 'patch_embed':
        return {}
    widths = {'fre1': 8 * plan.dim, 'fre2': 4 * plan.dim, 'fre3': 2 * plan.dim}
    return {name: FreModule(n, plan.heads[2], plan.bias, plan.inp_channels) for name, n in widths.items()}
