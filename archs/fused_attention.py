"""Attention among channels (MDTA of Restormer) with a backward pass written by hand, see ``fused_ops.py``.

With x = [Q K V] as a matrix of P pixels by 3C channels, attention and projection are ``V M^T``, where the matrix M
follows from the products ``Q^T K`` and the lengths of the columns of Q and K. M is left to autograd. Around it the
gradients are products of x with small matrices, each written to its place in one tensor of the layout of x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

EPS_LENGTH = 1e-12  # that of torch.nn.functional.normalize


def can_fuse_attention(qkv: Tensor) -> bool:
    """Whether :func:`fused_channel_attention` is faster: in training, with channels last, not in float16.

    In float16 sums over an image overflow; ``torch.compile`` fuses by itself.
    """
    training = torch.is_grad_enabled() and qkv.requires_grad and not torch.compiler.is_compiling()
    return training and qkv.stride(1) == 1 and qkv.dtype != torch.float16


def fused_channel_attention(qkv: Tensor, temperature: Tensor, project_out: nn.Conv2d) -> Tensor:
    """Attention among the channels of each head, then the projection.

    Args:
        qkv: Queries, keys and values (N,3C,H,W), channels last.
        temperature: (heads,1,1).
        project_out: 1 x 1 convolution, C to C channels.

    Returns:
        (N,C,H,W), channels last.
    """
    out = _ChannelAttention.apply(qkv, temperature, project_out.weight.flatten(1))
    return out if project_out.bias is None else out + project_out.bias.view(-1, 1, 1)


def mixing_matrix(products: Tensor, lengths: Tensor, temperature: Tensor, projection: Tensor) -> Tensor:
    """The matrix that acts on the values (equation 1 of Restormer, with ``project_out`` multiplied in).

    Args:
        products: ``Q^T K`` of each head (N,heads,c,c).
        lengths: Of the columns of Q and K (N,2C).
        temperature: (heads,1,1).
        projection: (C,C).

    Returns:
        (N,C,C).
    """
    heads = temperature.shape[0]
    of_q, of_k = lengths.clamp_min(EPS_LENGTH).unflatten(1, (2, heads, -1)).unbind(1)
    weights = (products * (temperature / (of_q.unsqueeze(-1) * of_k.unsqueeze(-2)))).softmax(dim=-1)
    return projected(weights, projection)


def projected(weights: Tensor, projection: Tensor) -> Tensor:
    """Attention weights (N,heads,c,c), then the projection (C,C), as one matrix (N,C,C)."""
    by_head = projection.unflatten(1, (weights.shape[1], -1)).transpose(0, 1)
    return (by_head @ weights.to(projection.dtype)).transpose(1, 2).flatten(2)


class _ChannelAttention(Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, temperature: Tensor, projection: Tensor) -> Tensor:
        x = _pixels(qkv)
        channels, exact = x.shape[2] // 3, torch.promote_types(x.dtype, torch.float32)
        products = torch.stack([q.mT @ k for q, k in _heads(x, temperature.shape[0])], 1).to(exact)
        lengths = torch.linalg.vector_norm(x[..., : 2 * channels], dim=1, dtype=exact)
        small = [t.detach().to(exact).requires_grad_() for t in (products, lengths, temperature, projection)]
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            matrix = mixing_matrix(*small)
        ctx.save_for_backward(qkv)
        ctx.small, ctx.matrix = small, matrix
        out = x[..., 2 * channels :] @ matrix.detach().to(x.dtype).mT
        return _image(out, qkv)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (qkv,) = ctx.saved_tensors
        x, grad = _pixels(qkv), _pixels(grad)
        values = x[..., 2 * (x.shape[2] // 3) :]
        of_matrix = (grad.mT @ values).to(ctx.matrix.dtype)
        of_products, of_lengths, *others = torch.autograd.grad(ctx.matrix, ctx.small, of_matrix)
        slopes = (of_lengths / ctx.small[1].clamp_min(EPS_LENGTH)).to(x.dtype)
        result = torch.empty_like(x)
        _write_gradient(result, x, grad @ ctx.matrix.detach().to(x.dtype), of_products.to(x.dtype), slopes)
        return _image(result, qkv), *others


def _write_gradient(result: Tensor, x: Tensor, of_values: Tensor, of_products: Tensor, slopes: Tensor) -> None:
    """Fills ``result`` (N,P,3C) with the gradients of queries, keys and values."""
    channels = x.shape[2] // 3
    torch.mul(x[..., : 2 * channels], slopes.unsqueeze(1), out=result[..., : 2 * channels])
    result[..., 2 * channels :] = of_values
    heads = of_products.shape[1]
    pairs = zip(_heads(x, heads), _heads(result, heads), of_products.unbind(1))
    for (q, k), (of_q, of_k), products in pairs:
        of_q.add_(k @ products.mT)
        of_k.add_(q @ products)


def _heads(x: Tensor, heads: int) -> list[tuple[Tensor, Tensor]]:
    """Queries and keys (N,P,c) of each head, as views."""
    q, k, _ = x.chunk(3, dim=2)
    return list(zip(q.chunk(heads, dim=2), k.chunk(heads, dim=2)))


def _pixels(x: Tensor) -> Tensor:
    """(N,C,H,W) as (N,P,C); a view for channels last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _image(x: Tensor, like: Tensor) -> Tensor:
    """The reverse of :func:`_pixels`."""
    return x.unflatten(1, like.shape[-2:]).permute(0, 3, 1, 2)
