"""Restormer, and the U that PromptIR and AdaIR share with it.

Paper: Zamir, Arora, Khan, Hayat, Khan and Yang, "Restormer: Efficient Transformer for High-Resolution Image
Restoration", CVPR 2022, arXiv:2111.09881. Published code: github.com/swz30/Restormer (df766d5; licence for academic
use). Keys and numbers are as published; the code is written afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from basicsr.errors import OptionError
from basicsr.network import RestorationNetwork, Site, Visit, keep
from basicsr.registry import ARCH_REGISTRY

from .restormer_blocks import HeadedAttention, NormType, OverlapPatchEmbed, Resample, TransformerBlock


@dataclass(frozen=True)
class Plan:
    """The constructor arguments that the networks of this family share; see :class:`Restormer`.

    Raises:
        OptionError: Not four levels, or an odd ``dim``.
    """

    inp_channels: int
    out_channels: int
    dim: int
    num_blocks: list[int]
    num_refinement_blocks: int
    heads: list[int]
    ffn_expansion_factor: float
    bias: bool
    LayerNorm_type: NormType

    def __post_init__(self) -> None:
        for name in ('num_blocks', 'heads'):
            if len(getattr(self, name)) != 4:
                raise OptionError(f'{name} is {getattr(self, name)}; it must have 4 entries, one for each level.')
        if self.dim < 2 or self.dim % 2:
            raise OptionError(f'dim is {self.dim}; it must be even, since the first level down halves it.')

    def require_equal_channels(self, network: str) -> None:
        """Refuses inputs that could not be added to the output.

        Raises:
            OptionError: Unlike numbers of channels.
        """
        if self.inp_channels != self.out_channels:
            raise OptionError(
                f'{network}: inp_channels is {self.inp_channels} and out_channels {self.out_channels}; they must be '
                'equal, since the input is added to the output.'
            )

    def block(self, channels: int, level: int) -> TransformerBlock:
        """A new block with the heads of a level, from 0."""
        return TransformerBlock(channels, self.heads[level], self.ffn_expansion_factor, self.bias, self.LayerNorm_type)

    def blocks(self, channels: int, level: int, num: int | None = None) -> nn.Sequential:
        """As many blocks as the level has, or ``num``."""
        return nn.Sequential(
            *[self.block(channels, level) for _ in range(self.num_blocks[level] if num is None else num)]
        )

    def pointwise(self, channels: int, out_channels: int) -> nn.Conv2d:
        """A new 1 x 1 convolution."""
        return nn.Conv2d(channels, out_channels, 1, bias=self.bias)


Extra = Callable[[str, Plan], dict[str, nn.Module]]


def nothing(after: str, plan: Plan) -> dict[str, nn.Module]:
    """No modules beside those of the U."""
    return {}


class RestormerUNet(RestorationNetwork):
    """The U of four levels that Restormer, PromptIR and AdaIR have in common.

    Attributes:
        extra_strides: How many image pixels a pixel spans in the modules that a descendant adds.

    Args:
        plan: Widths and depths.
        latent_channels: Channels that go up from the lowest level; those of the level if None.
        extra: What a descendant adds after a part of the U, by name. Modules are made and registered in the published
            order, so that keys come in it and a seed gives the published initial weights.
    """

    multiple_of = 8
    pad_mode = 'reflect'
    extra_strides: dict[str, int] = {}  # noqa: RUF012  (replaced, never changed)

    def __init__(self, plan: Plan, latent_channels: int | None = None, extra: Extra = nothing) -> None:
        super().__init__()
        self.dim = plan.dim
        for name, module in _parts(plan, latent_channels or 8 * plan.dim):
            self.add_module(name, module)
            for added, more in extra(name, plan).items():
                self.add_module(added, more)

    @property
    def sites(self) -> dict[str, Site]:
        """Outputs of the levels, as they come out of their blocks, and of the refinement."""
        dim = self.dim
        return {
            'encoder_level1': Site(dim, 1, tap=True),
            'encoder_level2': Site(2 * dim, 2, tap=True),
            'encoder_level3': Site(4 * dim, 4, tap=True),
            'latent': Site(8 * dim, 8, tap=True, feature=-1),
            'decoder_level3': Site(4 * dim, 4),
            'decoder_level2': Site(2 * dim, 2),
            'decoder_level1': Site(2 * dim, 1),
            'refinement': Site(2 * dim, 1),
        }

    def encode(self, x: Tensor, visit: Visit = keep) -> list[Tensor]:
        """Outputs of the encoder levels, then of the latent blocks."""
        level1 = visit('encoder_level1', self.encoder_level1(self.patch_embed(x)))
        level2 = visit('encoder_level2', self.encoder_level2(self.down1_2(level1)))
        level3 = visit('encoder_level3', self.encoder_level3(self.down2_3(level2)))
        return [level1, level2, level3, visit('latent', self.latent(self.down3_4(level3)))]

    def decode(self, x: Tensor, features: list[Tensor], visit: Visit = keep) -> Tensor:
        """Goes up again; the skips are concatenated."""
        level1, level2, level3, latent = features
        y = self.reduce_chan_level3(torch.cat([self.up4_3(self.adapt('latent', latent, x)), level3], 1))
        y = visit('decoder_level3', self.decoder_level3(y))
        y = self.reduce_chan_level2(torch.cat([self.up3_2(self.adapt('decoder_level3', y, x)), level2], 1))
        y = visit('decoder_level2', self.decoder_level2(y))
        y = torch.cat([self.up2_1(self.adapt('decoder_level2', y, x)), level1], 1)
        y = visit('decoder_level1', self.decoder_level1(y))
        return self.finish(visit('refinement', self.refinement(y)), x)

    def adapt(self, site: str, y: Tensor, x: Tensor) -> Tensor:
        """What a descendant does to the features of a site before they go up: nothing here.

        Args:
            site: ``latent``, ``decoder_level3`` or ``decoder_level2``.
            y: Features of the site.
            x: The padded image.
        """
        return y

    def finish(self, y: Tensor, x: Tensor) -> Tensor:
        """The restored image from the refined features and the padded image."""
        return self.output(y) + x

    def localize(self, window: int | None) -> None:
        """Attends within windows (TLC); see the base class. The window shrinks with each level down.

        Raises:
            OptionError: A window too small for the lowest level.
        """
        if window is not None and window < self.multiple_of:
            raise OptionError(f'{type(self).__name__}: the tlc window is {window} px; at least {self.multiple_of}.')
        strides = {name: site.stride for name, site in self.sites.items()} | self.extra_strides
        for name, stride in strides.items():
            for module in getattr(self, name).modules():
                if isinstance(module, HeadedAttention):
                    module.window = None if window is None else window // stride


def _parts(plan: Plan, latent_channels: int) -> Iterator[tuple[str, nn.Module]]:
    """The modules of the U, each made when it is asked for."""
    dim = plan.dim
    yield 'patch_embed', OverlapPatchEmbed(plan.inp_channels, dim)
    yield 'encoder_level1', plan.blocks(dim, 0)
    yield 'down1_2', Resample(dim, nn.PixelUnshuffle(2))
    yield 'encoder_level2', plan.blocks(2 * dim, 1)
    yield 'down2_3', Resample(2 * dim, nn.PixelUnshuffle(2))
    yield 'encoder_level3', plan.blocks(4 * dim, 2)
    yield 'down3_4', Resample(4 * dim, nn.PixelUnshuffle(2))
    yield 'latent', plan.blocks(8 * dim, 3)
    yield 'up4_3', Resample(latent_channels, nn.PixelShuffle(2))
    yield 'reduce_chan_level3', plan.pointwise(latent_channels // 2 + 4 * dim, 4 * dim)
    yield 'decoder_level3', plan.blocks(4 * dim, 2)
    yield 'up3_2', Resample(4 * dim, nn.PixelShuffle(2))
    yield 'reduce_chan_level2', plan.pointwise(4 * dim, 2 * dim)
    yield 'decoder_level2', plan.blocks(2 * dim, 1)
    yield 'up2_1', Resample(2 * dim, nn.PixelShuffle(2))
    yield 'decoder_level1', plan.blocks(2 * dim, 0)
    yield 'refinement', plan.blocks(2 * dim, 0, plan.num_refinement_blocks)
    yield 'output', nn.Conv2d(2 * dim, plan.out_channels, 3, padding=1, bias=plan.bias)


@ARCH_REGISTRY.register()
class Restormer(RestormerUNet):
    """Restormer, a U-shaped transformer whose attention is among channels, so that cost is linear in the pixels.

    The defaults are the published network of 26,126,644 parameters. The published denoisers have ``LayerNorm_type:
    BiasFree``; gray ones also ``inp_channels: 1`` and ``out_channels: 1``; dual-pixel deblurring ``inp_channels: 6``
    and ``dual_pixel_task: true``. Official weight files hold an entry ``params``.

    Args:
        inp_channels: Channels of the input.
        out_channels: Channels of the output.
        dim: Channels at full resolution; each level down doubles them.
        num_blocks: Blocks of each level, from full resolution down; the decoder has as many.
        num_refinement_blocks: Blocks after the decoder, at full resolution.
        heads: Attention heads of each level.
        ffn_expansion_factor: Factor on the channels inside the feed-forward networks.
        bias: Whether convolutions have biases.
        LayerNorm_type: Kind of layer normalisation; BiasFree does not subtract the mean.
        dual_pixel_task: Whether the input is a pair of dual-pixel views: the embedded input, not the image, is added.

    Raises:
        OptionError: The arguments do not fit together.
    """

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
        dual_pixel_task: bool = False,
    ) -> None:
        sizes = (inp_channels, out_channels, dim, num_blocks, num_refinement_blocks, heads)
        plan = Plan(*sizes, ffn_expansion_factor, bias, LayerNorm_type)
        if not dual_pixel_task:
            plan.require_equal_channels('Restormer')
        super().__init__(plan, extra=_skip_conv if dual_pixel_task else nothing)
        self.dual_pixel_task = dual_pixel_task

    def finish(self, y: Tensor, x: Tensor) -> Tensor:
        """The restored image from the refined features and the padded image."""
        return self.output(y + self.skip_conv(self.patch_embed(x))) if self.dual_pixel_task else super().finish(y, x)


def _skip_conv(after: str, plan: Plan) -> dict[str, nn.Module]:
    return {'skip_conv': plan.pointwise(plan.dim, 2 * plan.dim)} if after == 'refinement' else {}
