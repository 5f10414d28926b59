"""PromptIR: Restormer whose decoder is given prompts, blends of learned patterns chosen by the features.

Paper: Potlapalli, Zamir, Khan and Khan, "PromptIR: Prompting for All-in-One Blind Image Restoration", NeurIPS 2023,
arXiv:2306.13090. Published code: github.com/va1shn9v/PromptIR (106159a; licence for academic use). Keys and numbers
are as published; the code is written afresh.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.errors import OptionError
from basicsr.registry import ARCH_REGISTRY

from .restormer_arch import Plan, RestormerUNet
from .restormer_blocks import NormType

UNUSED = (
    'chnl_reduce1', 'chnl_reduce2', 'chnl_reduce3', 'reduce_noise_channel_1', 'reduce_noise_channel_2',
    'reduce_noise_channel_3',
)  # fmt: skip


class PromptGenBlock(nn.Module):
    """Makes a prompt for a feature map (PGM, section 3.1.1 of the paper).

    Args:
        prompt_dim: Channels of the prompt.
        prompt_len: Number of learned patterns.
        prompt_size: Height and width of the patterns.
        lin_dim: Channels of the feature map.
    """

    def __init__(self, prompt_dim: int, prompt_len: int, prompt_size: int, lin_dim: int) -> None:
        super().__init__()
        self.prompt_param = nn.Parameter(torch.rand(1, prompt_len, prompt_dim, prompt_size, prompt_size))
        self.linear_layer = nn.Linear(lin_dim, prompt_len)
        self.conv3x3 = nn.Conv2d(prompt_dim, prompt_dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The prompt (N, prompt_dim, H, W) for features (N, lin_dim, H, W): the patterns, weighted, then resized."""
        weights = self.linear_layer(x.mean(dim=(-2, -1))).softmax(dim=1)
        patterns = self.prompt_param[0]
        prompt = (weights.to(patterns.dtype) @ patterns.flatten(1)).unflatten(1, patterns.shape[1:])
        return self.conv3x3(F.interpolate(prompt, x.shape[-2:], mode='bilinear'))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PromptGenBlock:
        """Lets ``net.to(memory_format=torch.channels_last)`` pass, which fails on tensors of five dimensions."""
        return super()._apply(lambda x: fn(x[0])[None] if x.dim() == 5 else fn(x), recurse)


@ARCH_REGISTRY.register()
class PromptIR(RestormerUNet):
    """PromptIR, one Restormer for several degradations, with learned prompts in the decoder.

    The defaults are the published network of 35,592,263 parameters. Six convolutions are there only because the
    published weights have them (``chnl_reduce1`` to ``3``, ``reduce_noise_channel_1`` to ``3``): they are never used
    and get no gradient. The published class works with ``dim: 48`` alone; here the prompts keep their widths for any.
    Official weight files hold an entry ``state_dict`` with the prefix ``net.``.

    Args:
        inp_channels: Channels of the input.
        out_channels: Channels of the output, equal to those of the input.
        dim: Channels at full resolution; each level down doubles them.
        num_blocks: Blocks of each level, from full resolution down; the decoder has as many.
        num_refinement_blocks: Blocks after the decoder, at full resolution.
        heads: Attention heads of each level; those of the prompts' blocks are the third.
        ffn_expansion_factor: Factor on the channels inside the feed-forward networks.
        bias: Whether convolutions have biases.
        LayerNorm_type: Kind of layer normalisation; BiasFree does not subtract the mean.
        decoder: Whether the decoder has prompts. The published default, false, cannot run; its training sets true.
        unused: Whether the six unused convolutions are there; without them published weights load all the same.

    Raises:
        OptionError: The arguments do not fit together.
    """

    extra_strides = {'noise_level3': 8, 'noise_level2': 4, 'noise_level1': 2}  # noqa: RUF012

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
        unused: bool = True,
    ) -> None:
        if not decoder:
            raise OptionError(
                'PromptIR: with decoder: false the published network cannot run, for its widths do not meet; '
                'leave it out, or take Restormer for a network without prompts.'
            )
        sizes = (inp_channels, out_channels, dim, num_blocks, num_refinement_blocks, heads)
        plan = Plan(*sizes, ffn_expansion_factor, bias, LayerNorm_type)
        plan.require_equal_channels('PromptIR')
        super().__init__(plan, latent_channels=4 * dim, extra=_prompt_modules if unused else _used_modules)

    def convert_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published weights without what this network leaves out."""
        left_out = [name for name in UNUSED if not hasattr(self, name)]
        return {key: value for key, value in weights.items() if key.split('.')[0] not in left_out}

    def adapt(self, site: str, y: Tensor, x: Tensor) -> Tensor:
        """Joins a prompt to the features of a site and mixes them in a block."""
        n = {'latent': 3, 'decoder_level3': 2, 'decoder_level2': 1}[site]
        y = torch.cat([y, getattr(self, f'prompt{n}')(y)], 1)
        return getattr(self, f'reduce_noise_level{n}')(getattr(self, f'noise_level{n}')(y))


def _prompt_modules(after: str, plan: Plan) -> dict[str, nn.Module]:
    """What PromptIR has beside the U, after which part: prompts, their blocks, and six convolutions that go unused."""
    dim, pointwise = plan.dim, plan.pointwise
    if after == 'patch_embed':
        return {
            'prompt1': PromptGenBlock(prompt_dim=64, prompt_len=5, prompt_size=64, lin_dim=2 * dim),
            'prompt2': PromptGenBlock(prompt_dim=128, prompt_len=5, prompt_size=32, lin_dim=4 * dim),
            'prompt3': PromptGenBlock(prompt_dim=320, prompt_len=5, prompt_size=16, lin_dim=8 * dim),
            'chnl_reduce1': pointwise(64, 64),
            'chnl_reduce2': pointwise(128, 128),
            'chnl_reduce3': pointwise(320, 256),
            'reduce_noise_channel_1': pointwise(dim + 64, dim),
        }
    if after == 'down1_2':
        return {'reduce_noise_channel_2': pointwise(2 * dim + 128, 2 * dim)}
    if after == 'down2_3':
        return {'reduce_noise_channel_3': pointwise(4 * dim + 256, 4 * dim)}
    # level, channels of the features with their prompt, and of what goes up
    mixers = {
        'reduce_chan_level3': (3, 8 * dim + 320, 4 * dim),
        'reduce_chan_level2': (2, 4 * dim + 128, 4 * dim),
        'up2_1': (1, 2 * dim + 64, 2 * dim),
    }
    if after not in mixers:
        return {}
    level, channels, out_channels = mixers[after]
    block = plan.block(channels, level=2)
    return {f'noise_level{level}': block, f'reduce_noise_level{level}': pointwise(channels, out_channels)}


def _used_modules(after: str, plan: Plan) -> dict[str, nn.Module]:
    """The same without the convolutions that go unused."""
    return {name: module for name, module in _prompt_modules(after, plan).items() if name not in UNUSED}
