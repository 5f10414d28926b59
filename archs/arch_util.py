"""Building blocks that architecture files share; the names that files written for BasicSR import from ``arch_util``.

Names, signatures, state-dict keys and numbers are those of BasicSR 1.4.2 (github.com/XPixelGroup/BasicSR, Apache-2.0)
and, for ``LayerNorm2d``, of NAFNet (github.com/megvii-research/NAFNet, MIT). The code is written afresh.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from basicsr.errors import DataError, OptionError


@torch.no_grad()
def default_init_weights(
    module_list: nn.Module | list[nn.Module], scale: float = 1, bias_fill: float = 0, **kwargs: Any
) -> None:
    """Sets Kaiming-normal weights, scaled, in all convolutions and linear layers; batch norms start as the identity.

    Args:
        module_list: One module or several; their sub-modules are included.
        scale: Factor on the weights, such as 0.1 in residual blocks.
        bias_fill: Value of every bias.
        kwargs: Passed to ``torch.nn.init.kaiming_normal_``.
    """
    modules = module_list if isinstance(module_list, list) else [module_list]
    for layer in (m for module in modules for m in module.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, **kwargs).mul_(scale)
        elif isinstance(layer, _BatchNorm) and layer.affine:
            nn.init.ones_(layer.weight)
        else:
            continue
        if layer.bias is not None:
            nn.init.constant_(layer.bias, bias_fill)


@torch.no_grad()
def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Fills ``tensor`` in place from a normal distribution cut off at ``a`` and ``b``; returns it.

    Inverts the distribution function, as in BasicSR; newer versions of PyTorch's own draw other numbers from a seed.
    """
    low, high = (math.erf((edge - mean) / (std * math.sqrt(2))) for edge in (a, b))
    return tensor.uniform_(low, high).erfinv_().mul_(std * math.sqrt(2)).add_(mean).clamp_(a, b)


def make_layer(basic_block: Callable[..., nn.Module], num_basic_block: int, **kwarg: Any) -> nn.Sequential:
    """Chains ``num_basic_block`` new blocks, each ``basic_block(**kwarg)``."""
    return nn.Sequential(*[basic_block(**kwarg) for _ in range(num_basic_block)])


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of every pixel, for (N, C, H, W) tensors in either memory format.

    The fused kernel reads channels last. A channels-last input costs no copy (about 5 times faster on a CPU than
    normalising with reductions over dimension 1); a contiguous one is copied there and back, so that the caller's
    format is kept.

    Args:
        channels: Number of channels C.
        eps: Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Returns a tensor of the shape and memory format of ``x``."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
        return y if x.stride(1) == 1 else y.contiguous()


class ResidualBlockNoBN(nn.Module):
    """Residual block without normalisation: ``x + res_scale * conv(relu(conv(x)))``.

    Args:
        num_feat: Channels in and out.
        res_scale: Factor on the residual.
        pytorch_init: Keep PyTorch's initial weights instead of Kaiming-normal ones times 0.1.
    """

    def __init__(self, num_feat: int = 64, res_scale: float = 1, pytorch_init: bool = False) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        if not pytorch_init:
            default_init_weights([self.conv1, self.conv2], 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, num_feat, H, W) to the same shape."""
        return x + self.conv2(self.relu(self.conv1(x))) * self.res_scale


class Upsample(nn.Sequential):
    """Enlarges feature maps by convolution and pixel shuffle.

    Args:
        scale: A power of two, in steps of 2, or 3.
        num_feat: Channels in and out.

    Raises:
        OptionError: Another scale.
    """

    def __init__(self, scale: int, num_feat: int) -> None:
        if scale == 3:
            factors = [3]
        elif scale >= 1 and scale & (scale - 1) == 0:
            factors = [2] * (scale.bit_length() - 1)
        else:
            raise OptionError(f'Upsample: scale {scale} is not supported; allowed are 3 and the powers of two.')
        steps = [(nn.Conv2d(num_feat, f * f * num_feat, 3, padding=1), nn.PixelShuffle(f)) for f in factors]
        super().__init__(*[layer for step in steps for layer in step])


def flow_warp(
    x: Tensor,
    flow: Tensor,
    interp_mode: str = 'bilinear',
    padding_mode: str = 'zeros',
    align_corners: bool = True,
) -> Tensor:
    """Samples ``x`` at every pixel's own position plus its flow.

    Args:
        x: Image or feature map (N, C, H, W).
        flow: (N, H, W, 2), in pixels: to the right, then down.
        interp_mode: ``nearest`` or ``bilinear``.
        padding_mode: ``zeros``, ``border`` or ``reflection``: what lies outside ``x``.
        align_corners: As in ``torch.nn.functional.grid_sample``; positions are computed for True, BasicSR's default.

    Raises:
        DataError: ``x`` and ``flow`` differ in height or width.
    """
    h, w = x.shape[-2:]
    if flow.shape[1:3] != x.shape[-2:]:
        raise DataError(
            f'flow_warp: x is {tuple(x.shape)} but flow is {tuple(flow.shape)}; their H and W must be equal.'
        )
    rows, columns = (torch.arange(n, dtype=torch.float32, device=x.device) for n in (h, w))
    position_x = columns + flow[..., 0]
    position_y = rows[:, None] + flow[..., 1]
    grid = torch.stack((2.0 * position_x / max(w - 1, 1) - 1.0, 2.0 * position_y / max(h - 1, 1) - 1.0), dim=3)
    return F.grid_sample(x, grid.to(x.dtype), mode=interp_mode, padding_mode=padding_mode, align_corners=align_corners)


def resize_flow(
    flow: Tensor,
    size_type: str,
    sizes: list[int] | list[float],
    interp_mode: str = 'bilinear',
    align_corners: bool = False,
) -> Tensor:
    """Resizes a flow field and scales its vectors to the new size.

    Args:
        flow: (N, 2, H, W), in pixels: to the right, then down.
        size_type: ``ratio`` or ``shape``: how ``sizes`` is meant.
        sizes: The ratios of height and width, or the new height and width in pixels.
        interp_mode: As in ``torch.nn.functional.interpolate``.
        align_corners: As in ``torch.nn.functional.interpolate``.

    Raises:
        OptionError: Another ``size_type``.
    """
    h, w = flow.shape[-2:]
    if size_type not in ('ratio', 'shape'):
        raise OptionError(f"resize_flow: size_type '{size_type}' is not known; allowed are ratio and shape.")
    new_h, new_w = (int(h * sizes[0]), int(w * sizes[1])) if size_type == 'ratio' else (int(sizes[0]), int(sizes[1]))
    scaled = flow * flow.new_tensor([new_w / w, new_h / h]).view(1, 2, 1, 1)
    return F.interpolate(scaled, size=(new_h, new_w), mode=interp_mode, align_corners=align_corners)


def pixel_unshuffle(x: Tensor, scale: int) -> Tensor:
    """Moves each ``scale`` x ``scale`` patch into channels: (N, C, H, W) to (N, C*scale^2, H/scale, W/scale)."""
    return F.pixel_unshuffle(x, scale)


class DCNv2Pack(nn.Module):
    """Modulated deformable convolution whose offsets and masks come from another feature map (EDVR, BasicVSR++).

    Needs torchvision with its compiled operators, imported when the first such layer is made.

    Args:
        in_channels: Channels of ``x`` and ``feat``.
        out_channels: Channels of the result.
        kernel_size: Side, or height and width, of the kernel.
        stride: As in ``torch.nn.Conv2d``.
        padding: As in ``torch.nn.Conv2d``.
        dilation: As in ``torch.nn.Conv2d``.
        groups: As in ``torch.nn.Conv2d``.
        deformable_groups: Groups of channels with offsets of their own.
        bias: Whether to add a bias.

    Raises:
        OptionError: torchvision or its operators are missing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        _torchvision_ops()
        kernel = to_2tuple(kernel_size)
        self.stride, self.padding, self.dilation = to_2tuple(stride), to_2tuple(padding), to_2tuple(dilation)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        bound = (in_channels * kernel[0] * kernel[1]) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        out_offset = deformable_groups * 3 * kernel[0] * kernel[1]
        self.conv_offset = nn.Conv2d(in_channels, out_offset, kernel, self.stride, self.padding, self.dilation)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor, feat: Tensor) -> Tensor:
        """Convolves ``x`` (N, in_channels, H, W) at places that ``feat``, of the same shape, chooses."""
        first, second, mask = self.conv_offset(feat).chunk(3, dim=1)
        offset = torch.cat((first, second), dim=1)
        return _torchvision_ops().deform_conv2d(
            x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask.sigmoid()
        )


def _torchvision_ops() -> ModuleType:
    try:
        import torchvision.ops

        _ = torch.ops.torchvision.deform_conv2d
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise OptionError(
            f'DCNv2Pack needs torchvision with its compiled operators, built for torch {torch.__version__}: {error}'
        ) from error
    return torchvision.ops


def to_ntuple(n: int) -> Callable[[Any], Any]:
    """Returns a function that repeats a single value ``n`` times and leaves an iterable as it is."""

    def parse(x: Any) -> Any:
        return x if isinstance(x, Iterable) else (x,) * n

    return parse


to_1tuple = to_ntuple(1)
to_2tuple = to_ntuple(2)
to_3tuple = to_ntuple(3)
to_4tuple = to_ntuple(4)
