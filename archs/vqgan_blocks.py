"""Encoder and generator of VQGAN as CodeFormer laid them out.

Sources: Esser, Rombach and Ommer, CVPR 2021, arXiv:2012.09841; Zhou, Chan, Li and Loy, "Towards Robust Blind Face
Restoration with Codebook Lookup Transformer", NeurIPS 2022, arXiv:2206.11253. Keys are those of the latter's
checkpoints, which IQPIR (arXiv:2603.29773) keeps; the code is written afresh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .vector_quantizer import group_norm


class ResBlock(nn.Module):
    """Two normalised convolutions, added to the input.

    Args:
        channels: Channels in.
        out: Channels out; where they differ, the input goes through a 1 x 1 convolution.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(channels), nn.Conv2d(channels, out, 3, padding=1)
        self.norm2, self.conv2 = group_norm(out), nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.conv_out = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N,channels,H,W) to (N,out,H,W)."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.conv_out(x) if hasattr(self, 'conv_out') else x)


class AttnBlock(nn.Module):
    """Attention of every place to every other, with one head, added to the input.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N,channels,H,W) to the same shape."""
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        found = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj_out(found.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halves height and width by a convolution; zeros are added below and to the right only.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N,channels,H,W) to (N,channels,H/2,W/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width by repetition, then a convolution.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N,channels,H,W) to (N,channels,2H,2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode='nearest'))


class _Chain(nn.Module):
    """Blocks one after the other, of which some stand at the end of a resolution.

    Attributes:
        taps: By stride, the block after which features of that resolution are read, or changed.
        widths: By stride, channels of these features.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        self.taps: dict[int, int] = {}
        self.widths: dict[int, int] = {}

    def _tap(self, stride: int, channels: int) -> None:
        self.taps[stride], self.widths[stride] = len(self.blocks) - 1, channels

    def _level(self, channels: int, out: int, res_blocks: int, attend: bool) -> None:
        for n in range(res_blocks):
            self.blocks.append(ResBlock(out if n else channels, out))
            if attend:
                self.blocks.append(AttnBlock(out))

    def _middle(self, channels: int) -> None:
        self.blocks.extend((ResBlock(channels, channels), AttnBlock(channels), ResBlock(channels, channels)))


class Encoder(_Chain):
    """Image to features at the lowest resolution.

    Args:
        nf: Channels at full resolution.
        emb_dim: Channels of the features.
        ch_mult: Multiple of ``nf`` at each resolution; each is half of the one before.
        res_blocks: Residual blocks a resolution.
        img_size: Height and width of the images.
        attn_resolutions: Heights at which residual blocks are followed by attention.
    """

    def __init__(
        self, nf: int, emb_dim: int, ch_mult: Sequence[int], res_blocks: int, img_size: int,
        attn_resolutions: Sequence[int],
    ) -> None:  # fmt: skip
        super().__init__()
        self.blocks.append(nn.Conv2d(3, nf, 3, padding=1))
        channels = nf
        for level, multiple in enumerate(ch_mult):
            attend = img_size >> level in attn_resolutions
            self._level(channels, nf * multiple, res_blocks, attend)
            channels = nf * multiple
            self._tap(1 << level, channels)
            self.taps[1 << level] -= attend  # features are read before the attention that follows a block
            if level < len(ch_mult) - 1:
                self.blocks.append(Downsample(channels))
        self._middle(channels)
        self.blocks.extend((group_norm(channels), nn.Conv2d(channels, emb_dim, 3, padding=1)))

    def forward(self, x: Tensor, strides: Sequence[int] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """Encodes images.

        Args:
            x: (N,3,H,W) in [-1,1].
            strides: At which to read features on the way.

        Returns:
            The features (N,emb_dim,h,w), and those read on the way, by stride.
        """
        wanted, found = {self.taps[stride]: stride for stride in strides}, {}
        for n, block in enumerate(self.blocks):
            x = block(x)
            if n in wanted:
                found[wanted[n]] = x
        return x, found


class Generator(_Chain):
    """Features at the lowest resolution to an image.

    Args:
        nf: As in :class:`Encoder`.
        emb_dim: As in :class:`Encoder`.
        ch_mult: As in :class:`Encoder`.
        res_blocks: As in :class:`Encoder`.
        img_size: As in :class:`Encoder`.
        attn_resolutions: As in :class:`Encoder`.
    """

    def __init__(
        self, nf: int, emb_dim: int, ch_mult: Sequence[int], res_blocks: int, img_size: int,
        attn_resolutions: Sequence[int],
    ) -> None:  # fmt: skip
        super().__init__()
        channels = nf * ch_mult[-1]
        self.blocks.append(nn.Conv2d(emb_dim, channels, 3, padding=1))
        self._middle(channels)
        for level in reversed(range(len(ch_mult))):
            attend = img_size >> level in attn_resolutions
            first = len(self.blocks)
            self._level(channels, nf * ch_mult[level], res_blocks, attend)
            channels = nf * ch_mult[level]
            self._tap(1 << level, channels)
            # published: after the first residual block, at the lowest resolution after the last
            self.taps[1 << level] = self.taps[1 << level] - attend if level == len(ch_mult) - 1 else first
            if level:
                self.blocks.append(Upsample(channels))
        self.blocks.extend((group_norm(channels), nn.Conv2d(channels, 3, 3, padding=1)))

    def forward(self, x: Tensor, fuse: Mapping[int, nn.Module] | None = None, skips: Mapping[int, Tensor] | None = None,
                w: float = 1.0) -> Tensor:  # fmt: skip
        """Generates images.

        Args:
            x: (N,emb_dim,h,w).
            fuse: By stride, a module that joins features of the encoder to those here.
            skips: By stride, features of the encoder, :meth:`Encoder.forward`.
            w: How much of them.

        Returns:
            (N,3,H,W) in [-1,1], not clipped.
        """
        places = {self.taps[stride]: stride for stride in fuse or ()}
        for n, block in enumerate(self.blocks):
            x = block(x)
            if n in places:
                x = fuse[places[n]](skips[places[n]], x, w)
        return x


class FuseSft(nn.Module):
    """Controllable feature transform of CodeFormer: features of the encoder scale and shift those of the generator.

    Args:
        channels: Channels of both.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode_enc = ResBlock(2 * channels, channels)
        self.scale, self.shift = _two_convolutions(channels), _two_convolutions(channels)

    def forward(self, enc: Tensor, dec: Tensor, w: float = 1.0) -> Tensor:
        """The generator's features (N,C,H,W), changed by ``w`` times what the encoder's say of them."""
        both = torch.cat((enc, dec), 1)
        # in channels-last layout torch 2.13's GroupNorm crashes on a CPU where its input, unlike it, needs no gradient
        seen = self.encode_enc(both if both.requires_grad else both.contiguous())
        return dec + w * (dec * self.scale(seen) + self.shift(seen))


def _two_convolutions(channels: int) -> nn.Sequential:
    first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
    return nn.Sequential(first, nn.LeakyReLU(0.2), second)


def adain(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    """Features (N,C,h,w) with mean and deviation of each channel taken from others: Huang and Belongie, ICCV 2017."""
    (mean, deviation), (wanted_mean, wanted) = _moments(content, eps), _moments(style, eps)
    return (content - mean) / deviation * wanted + wanted_mean


def _moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.float(), (2, 3), correction=1, keepdim=True)
    return mean.to(x.dtype), (variance + eps).sqrt().to(x.dtype)
