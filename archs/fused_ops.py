"""Operations of restoration networks whose backward pass is written by hand, for memory traffic decides their speed.

They give the numbers of the plain expressions that their docstrings name (tests compare values and gradients), in fewer
passes over the feature maps, and keep fewer of them for the backward pass. None has a second derivative. Where no
gradient is asked for, and under ``torch.compile``, which fuses by itself, the plain expression runs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

ALIGNMENT = 16  # channels: a vector of float32 on a processor with AVX-512


def simple_gate(x: Tensor) -> Tensor:
    """Multiplies the first half of the channels of (N,2C,H,W) by the second (NAFNet, section 3.2)."""
    return _SimpleGate.apply(x) if _fuse() else _product(x)


def gated_attention(x: Tensor, conv: nn.Conv2d, window: tuple[int, int] | None = None) -> Tensor:
    """``y * conv(channel_mean(y, window))`` with ``y = simple_gate(x)`` (NAFNet, section 3.3).

    Args:
        x: Features (N,2C,H,W).
        conv: 1 x 1 convolution with bias, C to C channels, from the means of the channels to their weights.
        window: Of :func:`channel_mean`.
    """
    if _fuse() and window is None:
        return _GatedAttention.apply(x, conv.weight.flatten(1), conv.bias)
    y = _product(x)
    return y * conv(channel_mean(y, window))


def channel_mean(x: Tensor, window: tuple[int, int] | None = None) -> Tensor:
    """Means of the channels of (N,C,H,W), over the whole image or over a window around each pixel.

    A window is cut at no edge: near one, pixels share the outermost whole window (TLC, section 3.3, "replicate").

    Args:
        x: Features.
        window: Height and width of the window; None, or one that covers the features, for the whole image.

    Returns:
        (N,C,1,1) for the whole image, else the shape of ``x``.
    """
    if window is None or (window[0] >= x.shape[2] and window[1] >= x.shape[3]):
        return x.mean((2, 3), keepdim=True)
    for dim, side in ((2, window[0]), (3, window[1])):
        x = _running_mean(x, dim, min(side, x.shape[dim]))
    return x


def _running_mean(x: Tensor, dim: int, side: int) -> Tensor:
    """Means over ``side`` places along one dimension, the first and last repeated to the length of ``x``."""
    size = x.shape[dim]
    sums = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32).cumsum(dim)
    whole = sums.narrow(dim, side - 1, size - side + 1).clone()
    whole.narrow(dim, 1, size - side).sub_(sums.narrow(dim, 0, size - side))
    before, after = (side - 1) // 2, side // 2
    first, last = whole.narrow(dim, 0, 1), whole.narrow(dim, size - side, 1)
    shape = [-1] * x.dim()
    parts = [
        first.expand(*shape[:dim], before, *shape[dim + 1 :]),
        whole,
        last.expand(*shape[:dim], after, *shape[dim + 1 :]),
    ]
    return (torch.cat(parts, dim) / side).to(x.dtype)


def gelu_gate(x: Tensor) -> Tensor:
    """``gelu(a) * b`` with ``a`` and ``b`` the halves of the channels of (N,2C,H,W) (GDFN of Restormer, equation 3)."""
    if _fuse():
        return _GeluGate.apply(x)
    gate, value = x.chunk(2, dim=1)
    return F.gelu(gate) * value


def add_scaled(residual: Tensor, x: Tensor, conv: nn.Conv2d, scale: Tensor) -> Tensor:
    """``residual + conv(x) * scale`` of a 1 x 1 convolution with bias; the scale (1,C,1,1) moves into the weights."""
    y = F.conv2d(x, conv.weight * scale.view(-1, 1, 1, 1), conv.bias * scale.flatten())
    return y.add_(residual) if y.dtype == residual.dtype else y + residual


def aligned_feed_forward(x: Tensor, conv_in: nn.Conv2d, depthwise: nn.Conv2d, conv_out: nn.Conv2d) -> Tensor:
    """``conv_out(gelu_gate(depthwise(conv_in(x))))`` with the hidden channels filled up by zeros to a multiple of 16.

    Restormer's expansion of 2.66 gives 127, 255, 510 or 1021 channels, for which vector kernels are up to three times
    slower than for one more. Channels of zeros change no sum; only the small weights are copied.

    Args:
        x: Features (N,C,H,W).
        conv_in: 1 x 1 convolution, C to 2K channels.
        depthwise: Convolution of each of the 2K channels.
        conv_out: 1 x 1 convolution, K to C channels.
    """
    hidden = conv_out.in_channels
    extra = -hidden % ALIGNMENT
    weights = [_fill_up(w, hidden, extra) for w in (conv_in.weight, conv_in.bias, depthwise.weight, depthwise.bias)]
    y = F.conv2d(x, weights[0], weights[1])
    y = F.conv2d(y, weights[2], weights[3], padding=depthwise.padding, groups=2 * (hidden + extra))
    return F.conv2d(gelu_gate(y), F.pad(conv_out.weight, (0, 0, 0, 0, 0, extra)), conv_out.bias)


def repeated(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]`` along the batch; on a CPU its gradient keeps the memory format and is summed image by image.

    The plain gradient is contiguous whatever ``x`` is, so that all layers before it add up tensors of unlike formats.

    Args:
        x: Features (N,C,H,W).
        index: Which image, (M,) int64.
    """
    return _Repeated.apply(x, index) if _fuse() and x.device.type == 'cpu' else x[index]


def _fill_up(weight: Tensor | None, hidden: int, extra: int) -> Tensor | None:
    """Adds ``extra`` zeros behind each half of the first dimension."""
    if weight is None or not extra:
        return weight
    halves = weight.unflatten(0, (2, hidden))
    return F.pad(halves, (0, 0) * (weight.dim() - 1) + (0, extra)).flatten(0, 1)


def _fuse() -> bool:
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _product(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    return first * second


class _SimpleGate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _product(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _gradient_of_halves(ctx.saved_tensors[0], grad)


class _GeluGate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gate, value = x.chunk(2, dim=1)
        return F.gelu(gate).mul_(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate, value = x.chunk(2, dim=1)
        result = torch.empty_like(x)
        of_gate, of_value = result.chunk(2, dim=1)
        torch.mul(F.gelu(gate), grad, out=of_value)
        torch.ops.aten.gelu_backward.grad_input(grad * value, gate, grad_input=of_gate)
        return result


class _GatedAttention(Function):
    """Keeps its input alone: neither the gated features nor the output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = _product(x)
        mean = y.mean((2, 3))
        scale = F.linear(mean, weight, bias)
        ctx.save_for_backward(x, weight, mean, scale)
        return y.mul_(scale[..., None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, mean, scale = ctx.saved_tensors
        of_scale = _product(x).mul_(grad).sum((2, 3), dtype=weight.dtype)
        of_mean = of_scale @ weight / grad[0, 0].numel()
        of_y = torch.addcmul(of_mean.to(grad.dtype)[..., None, None], grad, scale[..., None, None])
        return _gradient_of_halves(x, of_y), of_scale.T @ mean.to(weight.dtype), of_scale.sum(0)


class _Repeated(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.images, ctx.form = len(x), torch.channels_last if x.stride(1) == 1 else torch.contiguous_format
        return x[index]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        result = torch.empty(ctx.images, *grad.shape[1:], dtype=grad.dtype, memory_format=ctx.form).zero_()
        for part, image in zip(grad, ctx.saved_tensors[0].tolist()):
            result[image].add_(part)
        return result, None


def _gradient_of_halves(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the product of the halves of ``x``; both halves are written in place, without a concatenation."""
    result, channels = torch.empty_like(x), grad.shape[1]
    torch.mul(grad, x[:, channels:], out=result[:, :channels])
    torch.mul(grad, x[:, :channels], out=result[:, channels:])
    return result
