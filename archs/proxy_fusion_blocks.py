"""The blocks of Proxy Fusion: attention over places between a dictionary and a feature map, and the dictionary itself.

Paper and published code: see ``proxy_fusion_arch.py``. The block is that of PIP (Z. Li et al., "Prompt-In-Prompt
Learning for Universal Image Restoration", arXiv:2312.05038), as SIPL's release has it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.errors import OptionError

from .precision import full_precision
from .restormer_blocks import FeedForward, LayerNorm, NormType, depthwise_after_pointwise

DictInit = Literal['normal', 'zeros']
STD = 0.02  # of a dictionary that begins at random
EPS_PUBLISHED, EPS = 1e-12, 1e-6  # least length by which queries and keys are divided
EPS_VARIANCE = 1e-5  # of the layer norm in front of them


class SpatialCrossAttention(nn.Module):
    """Attention of every place of one map to all places of another, by cosines.

    Args:
        channels: Channels of both maps and of the result.
        num_heads: Groups of channels that attend by themselves.
        bias: Whether the convolutions have biases.
        eps: Least length by which queries and keys are divided.

    Raises:
        OptionError: The channels cannot be split so.
    """

    def __init__(self, channels: int, num_heads: int, bias: bool, eps: float) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise OptionError(f'Attention: {channels} channels cannot be split into {num_heads} equal heads.')
        self.eps = eps
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.kv, self.kv_dwconv = depthwise_after_pointwise(channels, 2 * channels, bias)
        self.q, self.q_dwconv = depthwise_after_pointwise(channels, channels, bias)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Queries of ``x`` (N,C,H,W) against keys and values of ``y`` (M,C,h,w); one of N and M may be 1.

        Returns:
            (max(N,M),C,H,W).
        """
        q = self._tokens(self.q_dwconv(self.q(x)))
        k, v = (self._tokens(part) for part in self.kv_dwconv(self.kv(y)).chunk(2, dim=1))
        q, k = (F.normalize(full_precision(t), dim=-1, eps=self.eps).to(v.dtype) for t in (q, k))
        count = max(len(q), len(k))
        q, k, v = (t.expand(count, -1, -1, -1) for t in (q * self.temperature.to(q.dtype), k, v))
        out = F.scaled_dot_product_attention(q, k, v, scale=1.0)  # never holds all pairs of places
        return self.project_out(out.transpose(2, 3).reshape(count, -1, *x.shape[-2:]))

    def _tokens(self, x: Tensor) -> Tensor:
        """(N,C,H,W) to (N,heads,HW,C/heads)."""
        return x.flatten(2).unflatten(1, (len(self.temperature), -1)).transpose(2, 3).contiguous()


class DualGatedFeedForward(FeedForward):
    """Feed-forward network of two halves, each gated by the other (LLFormer, AAAI 2023, arXiv:2212.11548)."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to the same shape."""
        a, b = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(b) * a + F.gelu(a) * b)


class CrossBlock(nn.Module):
    """A feature map takes from another what it attends to, then a feed-forward network.

    As published, the normalised map goes on, not the map: the block is far from the identity, and a pretrained network
    forgets all when it is put in. With ``graft`` the map itself goes on, and what is added to it begins at zero.

    Where the maps have unlike channels, attention has those of the second: the first of a wider map attend and the
    others pass; a narrower one is filled with zeros, and what comes out is reduced.

    Args:
        channels: Channels of the map that goes on.
        other: Channels of the map that is attended to.
        num_heads: Heads of the attention.
        expansion: Factor on the channels inside the feed-forward network.
        bias: Whether convolutions have biases.
        norm: Kind of layer normalisation.
        graft: Whether the block begins as the identity, exactly.
        eps: Least length by which queries and keys are divided.

    Raises:
        OptionError: The channels cannot be split into the heads.
    """

    def __init__(
        self, channels: int, other: int, num_heads: int, expansion: float = 2.0, bias: bool = False,
        norm: NormType = 'WithBias', graft: bool = False, eps: float = EPS,
    ) -> None:  # fmt: skip
        super().__init__()
        self.graft, self.missing = graft, other - channels
        self.norm11, self.norm12 = LayerNorm(channels, norm), LayerNorm(other, norm)
        self.attn = SpatialCrossAttention(other, num_heads, bias, eps)
        if self.missing > 0:
            self.reduce_channel = nn.Conv2d(other, channels, 1, bias=False)
        self.norm2 = LayerNorm(channels, norm)
        self.ffn = DualGatedFeedForward(channels, expansion, bias)
        if graft:
            for last in (self.attn.project_out, self.ffn.project_out):
                nn.init.zeros_(last.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Maps ``x`` (N,channels,H,W) and ``y`` (M,other,h,w), one of N and M perhaps 1, to (max(N,M),channels,H,W)."""
        asking, asked = self.norm11(x), self.norm12(y)
        z = x + self._attended(asking, asked) if self.graft else self._published(asking, asked)
        return z + self.ffn(self.norm2(z))

    def _attended(self, x: Tensor, y: Tensor) -> Tensor:
        """What attention adds to ``x``, in its channels."""
        found = self.attn(self._fitted(x), y)
        if self.missing > 0:
            return self.reduce_channel(found)
        return F.pad(found, (0, 0, 0, 0, 0, -self.missing))

    def _published(self, x: Tensor, y: Tensor) -> Tensor:
        """``x`` with what attention adds; a narrower one is added to while it is filled up, and then reduced."""
        if self.missing <= 0:
            return x + self._attended(x, y)
        filled = self._fitted(x)
        return self.reduce_channel(filled + self.attn(filled, y))

    def _fitted(self, x: Tensor) -> Tensor:
        """``x`` with as many channels as the map that is attended to: cut, or filled with zeros."""
        return F.pad(x, (0, 0, 0, 0, 0, self.missing))


def new_dictionary(shape: tuple[int, int, int], init: DictInit) -> nn.Parameter:
    """A dictionary (1,C,h,w): a token of C channels at each of its places."""
    start = torch.randn(1, *shape) * STD if init == 'normal' else torch.zeros(1, *shape)
    return nn.Parameter(start)


def guarded(dictionary: Tensor) -> Tensor:
    """The dictionary, whose gradient no longer depends on how large its tokens are.

    Only the direction of a token counts, for it is normalised twice (layer norm, then length). So the slope goes like
    one over its size, and at zero, where the release begins, it is limited by the ``eps`` of the lengths alone: first
    gradients are a billion times later ones, and the moments of Adam remember them for tens of thousands of iterations,
    in which the dictionary stands still. Here each token's gradient is multiplied by its size, in units of
    :data:`STD`: a dictionary that begins at zero then learns like one that begins at random.
    """
    return _Guarded.apply(dictionary)


class _Guarded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dictionary: Tensor) -> Tensor:
        ctx.save_for_backward(dictionary)
        return dictionary.view_as(dictionary)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (dictionary,) = ctx.saved_tensors
        size = dictionary.square().mean(1, keepdim=True).sqrt()
        least = EPS * EPS_VARIANCE**0.5  # what two normalisations of slopes 1/sqrt(EPS_VARIANCE) and 1/EPS come to
        return gradient * ((size + least) / STD)
