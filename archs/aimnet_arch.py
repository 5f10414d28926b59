"""AIM-Net: the underwater restorer of Semi-UIR, three scales of attention and a branch that restores gradients.

Paper: Huang, Wang, Liu, Chen and Li, "Contrastive Semi-supervised Learning for Underwater Image Restoration via
Reliable Bank", CVPR 2023, arXiv:2303.09101. Published code: github.com/Huang-ShiRui/Semi-UIR (no licence stated).
Keys and numbers are as published; the code is written afresh.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.errors import DataError, OptionError
from basicsr.network import RestorationNetwork, Site, Visit, keep
from basicsr.registry import ARCH_REGISTRY

from .aimnet_util import CHUNK, GuidedDeformConv, NonLocalSparseAttention, illumination_map
from .precision import full_precision


def _act() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.1, inplace=True)


def _pair(channels: int, inner: int, out: int, bias: bool) -> list[nn.Module]:
    return [nn.Conv2d(channels, inner, 1, bias=bias), _act(), nn.Conv2d(inner, out, 1, bias=bias)]


class ContextBlock(nn.Module):
    """Adds to every position a vector made of the softmax-weighted mean over all positions (global context).

    Args:
        channels: Channels in and out.
        bias: Whether the convolutions have a bias.
    """

    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__()
        self.conv_mask = nn.Conv2d(channels, 1, 1, bias=bias)
        self.channel_add_conv = nn.Sequential(*_pair(channels, channels, channels, bias))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        share = self.conv_mask(x).flatten(2).softmax(2)
        context = x.flatten(2) @ share.mT
        return x + self.channel_add_conv(context[..., None])


class RCB(nn.Module):
    """Residual context block: two convolutions, then global context.

    Args:
        channels: Channels in and out.
        bias: Whether the convolutions have a bias.
    """

    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__()
        conv = [nn.Conv2d(channels, channels, 3, padding=1, bias=bias) for _ in range(2)]
        self.body = nn.Sequential(conv[0], _act(), conv[1])
        self.gcnet = ContextBlock(channels, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        return x + F.leaky_relu(self.gcnet(self.body(x)), 0.1, inplace=True)


class AFF(nn.Module):
    """Attentional feature fusion: a mix of two feature maps, weighed for each channel and position, times two.

    Dai et al., "Attentional Feature Fusion", WACV 2021, without its normalisation.

    Args:
        channels: Channels of both inputs and of the result.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.local_att = nn.Sequential(*_pair(channels, inner, channels, True))
        self.global_att = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_pair(channels, inner, channels, True))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Mixes two tensors (N, channels, H, W)."""
        both = x + other
        share = (self.local_att(both) + self.global_att(both)).sigmoid()
        return 2 * (other + share * (x - other))


class AtrousBlock(nn.Module):
    """Four convolutions of dilation 1 to 4 beside each other, fused with their input.

    Args:
        channels: Channels in and out, an even number.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.atrous_layers = nn.Sequential(
            *[nn.Conv2d(channels, channels // 2, 3, padding=n, dilation=n) for n in (1, 2, 3, 4)]
        )
        self.conv = nn.Conv2d(2 * channels, channels, 1)
        self.att = AFF(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        views = F.leaky_relu(torch.cat([conv(x) for conv in self.atrous_layers], dim=1), 0.1, inplace=True)
        return self.att(x, F.leaky_relu(self.conv(views), 0.1, inplace=True))


class SFTLayer(nn.Module):
    """Scales and shifts features at every position by what it reads from a guide.

    Args:
        channels: Channels of the features and of the guide.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_gamma = nn.Sequential(*_pair(channels, channels, channels, False))
        self.conv_beta = nn.Sequential(*_pair(channels, channels, channels, False))

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Maps two tensors (N, channels, H, W) to one."""
        return x * self.conv_gamma(guide) + self.conv_beta(guide)


class IGM(nn.Module):
    """Illumination-guided module: deformable convolution and feature transform, both guided, added to the input.

    Args:
        channels: Channels of the features and of the guide.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dcn = GuidedDeformConv(channels)
        self.sft = SFTLayer(channels)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Maps two tensors (N, channels, H, W) to one."""
        return x + self.dcn(x, guide) + self.sft(x, guide)


class GradientMap(nn.Module):
    """Length of the gradient, by central differences, of each channel; fixed weights that stand in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        across = torch.zeros(1, 1, 3, 3)
        across[0, 0, 1, 0], across[0, 0, 1, 2] = -1, 1
        self.register_buffer('weight_h', across)
        self.register_buffer('weight_v', across.mT.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape; runs in float32 under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            planes = full_precision(x).flatten(0, 1)[:, None]
            steps = F.conv2d(planes, torch.cat((self.weight_h, self.weight_v)), padding=1)
            return (steps.square().sum(1) + 1e-6).sqrt().view(x.shape)


class Halve(nn.Module):
    """Averages 2x2 positions and changes the number of channels by a 1x1 convolution without bias."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_Named(nn.AvgPool2d(2), nn.Conv2d(channels, out, 1, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to (N, out, H/2, W/2)."""
        return self.body(x)


class Double(nn.Module):
    """Changes the number of channels by a 1x1 convolution without bias and doubles the size bilinearly."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        larger = nn.Upsample(scale_factor=2, mode='bilinear', align_corners=False)
        self.body = nn.Sequential(_Named(nn.Conv2d(channels, out, 1, bias=False), larger))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to (N, out, 2H, 2W)."""
        return self.body(x)


class _Named(nn.Module):
    """Layers in a row under the name ``bot`` that the published keys have."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.bot = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.bot(x)


@ARCH_REGISTRY.register()
class AIMnet(RestorationNetwork):
    """AIM-Net, an underwater image restorer guided by an illumination map.

    The image goes through three scales twice; the second time the two smaller ones have non-local attention. Beside
    them a branch restores the gradients of the image and is fused with the result. The illumination map is computed
    from the whole image where it is not given (:func:`~basicsr.archs.aimnet_util.illumination_map`). For tiles,
    :meth:`prepare` makes one tensor of the whole image and its map, which is then cut.

    The attention sorts positions by random rotations. In evaluation mode these are always the same ones; in training
    mode they are drawn from the global generator, as published, so two passes differ. ``nl_top`` and ``b_fea_conv``
    are parts of the published checkpoints that the published network never runs: they get no gradient.

    bf16 is declared as measured after a short training: 0.4 of 255 levels off in the mean. fp16 is not declared, for
    its range was never tried with trained weights.

    Args:
        n_feat: Channels at full resolution.
        height: Without effect; kept for option files of the published code.
        width: Without effect; kept for option files of the published code.
        n_RCB: Residual context blocks at each scale.
        chan_factor: Factor on the channels from each scale to the next smaller one.
        bias: Whether most convolutions have a bias.
        attend: Channels that the non-local attention sorts: ``first`` as Semi-UIR, ``all`` as QualiTeacher's release.

    Raises:
        OptionError: ``n_feat`` is too small.
    """

    multiple_of = 4
    min_size = 48
    pad_mode: ClassVar[Literal['constant', 'reflect']] = 'reflect'
    half_precision = ('bf16',)

    def __init__(
        self,
        n_feat: int = 32,
        height: int = 256,
        width: int = 256,
        n_RCB: int = 2,
        chan_factor: float = 2,
        bias: bool = True,
        attend: Literal['first', 'all'] = 'first',
    ) -> None:
        super().__init__()
        top, mid, bot = self.channels = tuple(int(n_feat * chan_factor**scale) for scale in range(3))
        if min(self.channels) < 4:
            raise OptionError(f'AIMnet: n_feat {n_feat} gives {self.channels} channels; each scale needs at least 4.')
        # Modules are made in the published order, so that a seed gives the published initial weights.
        self.dau_top, self.dau_mid, self.dau_bot = (
            nn.Sequential(*[RCB(c, bias) for _ in range(n_RCB)]) for c in self.channels
        )
        self.atb_top, self.atb_mid, self.atb_bot = (AtrousBlock(c) for c in self.channels)
        self.nl_top, self.nl_mid, self.nl_bot = (NonLocalSparseAttention(c, attend) for c in self.channels)
        self.down2 = Halve(top, mid)
        self.down4 = nn.Sequential(Halve(top, mid), Halve(mid, bot))
        self.up21_1, self.up21_2 = (Double(mid, top) for _ in range(2))
        self.up32_1, self.up32_2 = (Double(bot, mid) for _ in range(2))
        self.conv_in = nn.Conv2d(3, top, 3, padding=1, bias=bias)
        self.conv_mid = nn.Conv2d(top, top, 3, padding=1, bias=bias)
        self.conv_out = nn.Conv2d(top, 3, 3, padding=1, bias=bias)
        self.grad_out = nn.Conv2d(top, 3, 1, bias=bias)
        self.aff_top, self.aff_mid, self.aff_final = AFF(top), AFF(mid), AFF(top)
        self.igb_layer = IGM(top)
        self.get_gradient = GradientMap()
        self.b_concat_1 = nn.Conv2d(2 * top, top, 3, padding=1, bias=bias)
        self.b_block_1 = RCB(2 * top, bias)
        self.b_concat_2 = nn.Conv2d(2 * top, top, 3, padding=1, bias=bias)
        self.b_block_2 = RCB(2 * top, bias)
        self.b_fea_conv = nn.Conv2d(top, top, 3, padding=1, bias=bias)

    @property
    def sites(self) -> dict[str, Site]:
        """The three scales after the first round (taps of the encoder), then after the second.

        QualiTeacher adds its embedding at ``bottleneck.1`` and ``bottleneck.2``.
        """
        names = ('top', 'middle', 'bottleneck')
        scales = list(zip(names, self.channels, (1, 2, 4)))
        first = {f'{name}.1': Site(c, stride, tap=True, feature=3 + n) for n, (name, c, stride) in enumerate(scales)}
        return first | {f'{name}.2': Site(channels, stride) for name, channels, stride in reversed(scales)}

    @property
    def injection_sites(self) -> tuple[str, ...]:
        """The smallest scale after either round, as in QualiTeacher's release."""
        return 'bottleneck.1', 'bottleneck.2'

    @property
    def published_conditions(self) -> dict[str, str]:
        """QualiTeacher's release has one table for both."""
        return dict.fromkeys(self.injection_sites, 'score_embedding')

    def prepare(self, image: Tensor) -> Tensor:
        """Appends the illumination map to whole images (N,3,H,W): an input (N,6,H,W) that may be cut into tiles."""
        return torch.cat((image, illumination_map(image)), dim=1)

    def pad(self, x: Tensor) -> Tensor:
        """Extends images (N,3,H,W), or (N,6,H,W) with their maps, by reflection; the result has the maps.

        Raises:
            DataError: There are other channels, or the image is too small for the attention.
        """
        if x.shape[1] not in (3, 6):
            raise DataError(
                f'AIMnet: an image of {x.shape[1]} channels; allowed are 3, or 6 with the illumination map.'
            )
        padded = super().pad(x if x.shape[1] == 6 else self.prepare(x))
        if padded.shape[-2] * padded.shape[-1] < 16 * CHUNK:
            raise DataError(
                f'AIMnet: an image of {x.shape[-1]}x{x.shape[-2]} pixels is too small for the non-local attention, '
                f'which needs {CHUNK} blocks of 4x4 pixels; {self.min_size}x{self.min_size} is enough.'
            )
        return padded

    def forward(self, inp: Tensor, visit: Visit = keep, la: Tensor | None = None) -> Tensor:
        """Restores images.

        Args:
            inp: (N,3,H,W) in [0,1], or (N,6,H,W) from :meth:`prepare`.
            visit: Reads or changes features at the :attr:`sites`.
            la: Illumination maps (N,3,H,W); None computes them where ``inp`` does not hold them.

        Returns:
            (N,3,H,W).

        Raises:
            DataError: The image is too small, or has other channels.
        """
        return self.restore_with_gradient(inp, la, visit)[0]

    def restore_with_gradient(
        self, inp: Tensor, la: Tensor | None = None, visit: Visit = keep
    ) -> tuple[Tensor, Tensor]:
        """The restored images and the map of their gradients, each (N,3,H,W), for training; see :meth:`forward`."""
        height, width = inp.shape[-2:]
        x = self.pad(inp if la is None else torch.cat((inp, la), dim=1))
        image, gradient = self._second_round(self.encode(x, visit), visit)
        return image[..., :height, :width], gradient[..., :height, :width]

    def encode(self, x: Tensor, visit: Visit = keep) -> list[Tensor]:
        """Shallow features of image, map and gradient, and those of three scales, of padded images (N,6,H,W)."""
        image, la = x.split(3, dim=1)
        shallow, guide, edges = self.conv_in(torch.cat((image, la, self.get_gradient(image)))).chunk(3)
        top = self.dau_top(self.igb_layer(self.atb_top(shallow), guide))
        middle = self.dau_mid(self.atb_mid(self.down2(shallow)))
        bottom = self.dau_bot(self.atb_bot(self.down4(shallow)))
        scales = [visit('top.1', top), visit('middle.1', middle), visit('bottleneck.1', bottom)]
        return [shallow, guide, edges, *scales]

    def decode(self, x: Tensor, features: list[Tensor], visit: Visit = keep) -> Tensor:
        """The restored padded image; all of ``x`` that it needs is in the features."""
        return self._second_round(features, visit)[0]

    def _second_round(self, features: list[Tensor], visit: Visit) -> tuple[Tensor, Tensor]:
        shallow, guide, edges, top1, middle1, bottom1 = features
        middle1 = self.aff_mid(middle1, self.up32_1(bottom1))
        top1 = self.aff_top(top1, self.up21_1(middle1))
        middle2 = self.dau_mid(self.nl_mid(middle1))
        bottom2 = visit('bottleneck.2', self.dau_bot(self.nl_bot(bottom1)))
        middle2 = visit('middle.2', self.aff_mid(middle2, self.up32_2(bottom2)))
        top2 = self.dau_top(self.igb_layer(self.atb_top(top1), guide))
        top2 = visit('top.2', self.aff_top(top2, self.up21_2(middle2)))
        lines = self.b_concat_1(self.b_block_1(torch.cat((edges, top1), dim=1)))
        lines = self.b_concat_2(self.b_block_2(torch.cat((lines, top2), dim=1))) + edges
        image = self.conv_out(self.aff_final(self.conv_mid(top2) + shallow, lines))
        return image, self.grad_out(lines)
