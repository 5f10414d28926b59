"""NAFNet: a U-shaped restorer without activation functions.

Paper: Chen, Chu, Zhang and Sun, "Simple Baselines for Image Restoration", ECCV 2022, arXiv:2204.04676.
Published code: github.com/megvii-research/NAFNet (MIT). Keys and numbers are as published; the code is written afresh.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from basicsr.errors import OptionError
from basicsr.network import RestorationNetwork, Site, Visit, keep
from basicsr.registry import ARCH_REGISTRY

from .arch_util import LayerNorm2d
from .fused_ops import add_scaled, channel_mean, gated_attention, simple_gate


class ChannelMean(nn.Module):
    """Means of the channels: over the whole image, or over a window around each pixel.

    Attributes:
        window: Height and width of the window in pixels of the feature map; None for the whole.
    """

    window: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N,C,H,W) to means (N,C,1,1), or (N,C,H,W) where a window is smaller than the features."""
        return channel_mean(x, self.window)


class NAFBlock(nn.Module):
    """One block (figure 3c of the paper): a gated depthwise part with channel attention, then a gated pointwise part.

    ``beta`` and ``gamma`` scale the two residuals and start at zero, so a fresh block is exactly the identity.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.conv1 = nn.Conv2d(channels, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.sca = nn.Sequential(ChannelMean(), nn.Conv2d(channels, channels, 1))
        self.conv4 = nn.Conv2d(channels, wide, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.norm1 = LayerNorm2d(channels)
        self.norm2 = LayerNorm2d(channels)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        y = gated_attention(self.conv2(self.conv1(self.norm1(x))), self.sca[1], self.sca[0].window)
        x = add_scaled(x, y, self.conv3, self.beta)
        y = simple_gate(self.conv4(self.norm2(x)))
        return add_scaled(x, y, self.conv5, self.gamma)


@ARCH_REGISTRY.register()
class NAFNet(RestorationNetwork):
    """NAFNet, a U-shaped image restorer without activation functions.

    A fresh network is an affine map of the image, for all its blocks are the identity; training switches them on.

    The published layouts, each with width 32 or 64, are GoPro: ``enc_blk_nums: [1, 1, 1, 28]``, ``middle_blk_num: 1``,
    ``dec_blk_nums: [1, 1, 1, 1]``; and SIDD: ``[2, 2, 4, 8]``, 12, ``[2, 2, 2, 2]``.

    Args:
        img_channel: Channels of the image.
        width: Channels at full resolution; each level down doubles them.
        middle_blk_num: Blocks at the lowest resolution.
        enc_blk_nums: Blocks of each encoder level, from full resolution down.
        dec_blk_nums: Blocks of each decoder level, from the lowest resolution up; as many levels as the encoder.

    Raises:
        OptionError: Encoder and decoder have unlike numbers of levels.
    """

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 16,
        middle_blk_num: int = 1,
        enc_blk_nums: list[int] = [],  # noqa: B006  (the published default, only read)
        dec_blk_nums: list[int] = [],  # noqa: B006
    ) -> None:
        super().__init__()
        if len(enc_blk_nums) != len(dec_blk_nums):
            raise OptionError(
                f'NAFNet: enc_blk_nums has {len(enc_blk_nums)} levels and dec_blk_nums {len(dec_blk_nums)}; '
                'they must have equally many.'
            )
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)
        self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()
        self.middle_blks = nn.Sequential()  # filled below; named here for the published order of the keys
        self.ups, self.downs = nn.ModuleList(), nn.ModuleList()

        # Modules are made in the published order, so that a seed gives the published initial weights.
        channels = width
        for num in enc_blk_nums:
            self.encoders.append(_blocks(channels, num))
            self.downs.append(nn.Conv2d(channels, 2 * channels, 2, stride=2))
            channels *= 2
        self.middle_blks = _blocks(channels, middle_blk_num)
        for num in dec_blk_nums:
            self.ups.append(nn.Sequential(nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.PixelShuffle(2)))
            channels //= 2
            self.decoders.append(_blocks(channels, num))

        self.multiple_of = 2 ** len(self.encoders)

    @property
    def sites(self) -> dict[str, Site]:
        """Outputs of the encoder levels (``encoders.0`` ...), of the middle and of the decoder levels."""
        width, depth = self.intro.out_channels, len(self.encoders)
        levels = {f'encoders.{n}': Site(width << n, 1 << n, tap=True) for n in range(depth)}
        levels['middle_blks'] = Site(width << depth, 1 << depth, tap=True, feature=-1)
        return levels | {f'decoders.{n}': Site(width << k, 1 << k) for n, k in enumerate(reversed(range(depth)))}

    def encode(self, x: Tensor, visit: Visit = keep) -> list[Tensor]:
        """Outputs of the encoder levels, then that of the middle blocks."""
        x, features = self.intro(x), []
        for n, (encoder, down) in enumerate(zip(self.encoders, self.downs)):
            features.append(visit(f'encoders.{n}', encoder(x)))
            x = down(features[-1])
        return [*features, visit('middle_blks', self.middle_blks(x))]

    def decode(self, x: Tensor, features: list[Tensor], visit: Visit = keep) -> Tensor:
        """Goes up again; the skips are added, and the image is added to the last convolution's output."""
        *skips, y = features
        for n, (up, decoder) in enumerate(zip(self.ups, self.decoders)):
            y = visit(f'decoders.{n}', decoder(up(y) + skips[-1 - n]))
        return self.ending(y) + x

    def localize(self, window: int | None) -> None:
        """Means of the channel attention over ``window`` x ``window`` image pixels (TLC), or of the whole."""
        self._set_windows(None if window is None else (window, window))

    def _set_windows(self, window: tuple[int, int] | None) -> None:
        """Gives every block its window, which shrinks with the level."""
        levels = [*zip(self.encoders, range(len(self.encoders))), (self.middle_blks, len(self.encoders))]
        levels += zip(self.decoders, reversed(range(len(self.decoders))))
        for blocks, level in levels:
            for block in blocks:
                block.sca[0].window = window and tuple(max(1, side >> level) for side in window)


@ARCH_REGISTRY.register()
class NAFNetLocal(NAFNet):
    """NAFNet whose channel attention looks at windows of 1.5 times the training crop (TLC), the published test variant.

    The same weights and keys as NAFNet. The authors report its figures for GoPro (docs of the published code).
    Chu et al., ECCV 2022, arXiv:2112.04491; github.com/megvii-research/TLC (MIT).

    Args:
        img_channel: Channels of the image.
        width: Channels at full resolution; each level down doubles them.
        middle_blk_num: Blocks at the lowest resolution.
        enc_blk_nums: Blocks of each encoder level, from full resolution down.
        dec_blk_nums: Blocks of each decoder level, from the lowest resolution up.
        train_size: Shape (N, C, H, W) of the training crops.
    """

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 16,
        middle_blk_num: int = 1,
        enc_blk_nums: list[int] = [],  # noqa: B006  (the published default, only read)
        dec_blk_nums: list[int] = [],  # noqa: B006
        train_size: tuple[int, int, int, int] = (1, 3, 256, 256),
    ) -> None:
        super().__init__(img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums)
        self._set_windows((train_size[2] * 3 // 2, train_size[3] * 3 // 2))


def _blocks(channels: int, num: int) -> nn.Sequential:
    return nn.Sequential(*[NAFBlock(channels) for _ in range(num)])
