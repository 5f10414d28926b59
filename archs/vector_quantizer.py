"""Books of codes: nearest-entry quantisation, and one or two books fused into what a generator sees.

Sources: van den Oord, Vinyals and Kavukcuoglu, "Neural Discrete Representation Learning", NeurIPS 2017,
arXiv:1711.00937; Esser, Rombach and Ommer, VQGAN, CVPR 2021, arXiv:2012.09841; IQPIR, CVPR 2026, arXiv:2603.29773,
github.com/fengyang1399-pixel/IQPIR (a4408c7), whose keys are kept; all code here is written afresh.

:class:`CodeBooks` is a :class:`~basicsr.network.RestorationNetwork` with books: a network of codes inherits from it
alone, calls ``super().__init__(entries, dim, ...)`` first, and adds its encoder and generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.codebooks import Quantized
from basicsr.errors import DataError, OptionError
from basicsr.network import RestorationNetwork

HqInput = Literal['shared', 'residual']
Fusion = Literal['add', 'attention', 'weightmap']
HEADS = 8  # of the published fusion by attention
STRIP = 1 << 16  # places whose distances to all entries exist at once: large photographs would need gigabytes


class VectorQuantizer(nn.Module):
    """A book of vectors; a feature is replaced by the entry next to it.

    Args:
        entries: Vectors in the book.
        dim: Channels of the features.
        beta: Weight of the second term of the loss.
        legacy_beta: The order of the released code of VQGAN, CodeFormer and IQPIR, in which ``beta`` slows the book,
            ``|sg(q) - h|^2 + beta |q - sg(h)|^2``; otherwise as published, ``|q - sg(h)|^2 + beta |sg(q) - h|^2``.

    Raises:
        OptionError: A number is out of its range.
    """

    def __init__(self, entries: int, dim: int, beta: float = 0.25, legacy_beta: bool = True) -> None:
        super().__init__()
        if min(entries, dim) < 1 or beta < 0:
            raise OptionError(
                f'A book needs at least 1 entry of at least 1 channel and a beta of at least 0, not {entries}, {dim} '
                f'and {beta}.'
            )
        self.embedding = nn.Embedding(entries, dim)
        nn.init.uniform_(self.embedding.weight, -1 / entries, 1 / entries)
        self.beta, self.legacy_beta = beta, legacy_beta

    @property
    def entries(self) -> int:
        """Vectors in the book."""
        return self.embedding.num_embeddings

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Looks up the entry nearest to the feature at every place.

        Args:
            h: (N,C,h,w).

        Returns:
            The entries (N,C,h,w), through which gradients reach the book but not ``h``; their numbers (N,h,w) int64;
            and the loss of each image (N,), a mean over channels and places.
        """
        codes = self.nearest(h)
        found = self.lookup(codes)
        return found, codes, self._loss(h, found)

    @torch.no_grad()
    def nearest(self, h: Tensor) -> Tensor:
        """Numbers (N,h,w) int64 of the entries nearest to features (N,C,h,w), in float32 under autocast too."""
        with torch.autocast(h.device.type, enabled=False):
            book = self.embedding.weight.to(torch.promote_types(h.dtype, torch.float32))
            flat = h.to(book.dtype).permute(0, 2, 3, 1).reshape(-1, h.shape[1])
            size = book.square().sum(1)
            # |h|^2 is the same for all entries and is left out
            codes = [torch.addmm(size, rows, book.t(), alpha=-2).argmin(1) for rows in flat.split(STRIP)]
        return torch.cat(codes).view(h.shape[0], *h.shape[2:])

    def lookup(self, codes: Tensor) -> Tensor:
        """Numbers of entries (N,h,w) to the entries (N,C,h,w)."""
        return self.embedding(codes).permute(0, 3, 1, 2).contiguous()

    def mix(self, weights: Tensor) -> Tensor:
        """Sums of entries (N,C,h,w), weighted by (N,entries,h,w); in float32 under autocast too."""
        with torch.autocast(weights.device.type, enabled=False):
            book = self.embedding.weight
            return torch.einsum('nkhw,kc->nchw', weights.to(book.dtype), book)

    def _loss(self, h: Tensor, found: Tensor) -> Tensor:
        commitment = (found.detach() - h).float().square().mean((1, 2, 3))
        book = (found - h.detach()).float().square().mean((1, 2, 3))
        return commitment + self.beta * book if self.legacy_beta else book + self.beta * commitment


class CrossAttention(nn.Module):
    """Attention of the common features to the high-quality ones, added to the latter.

    The block of RestoreFormer (Wang et al., CVPR 2022, arXiv:2201.06374) and DAEFR (Tsai et al., ICLR 2024,
    arXiv:2308.07314), with their keys.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(HEADS, channels)
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, common: Tensor, hq: Tensor) -> Tensor:
        """Maps two feature maps (N,C,h,w), those that ask and those that answer, to one of the same shape."""
        source = self.norm1(hq)
        q, k, v = (self._split(x) for x in (self.q(self.norm2(common)), self.k(source), self.v(source)))
        found = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(hq.shape)
        return hq + self.proj_out(found)

    def _split(self, x: Tensor) -> Tensor:
        """(N,C,h,w) to (N,heads,h*w,C/heads)."""
        return x.reshape(x.shape[0], self.heads, -1, x.shape[2] * x.shape[3]).transpose(2, 3)


class CodeBooks(RestorationNetwork):
    """A restoration network with no, one or two books of codes; the base of all networks of codes.

    The features ``h`` become ``z = z_c + lambda m f(z_c, z_h)``, where ``z_c`` and ``z_h`` are the nearest entries of
    the common and of the high-quality book, each with a straight-through gradient, ``m`` is the mask and ``f`` the
    fusion: ``add`` is ``z_h`` (published), ``attention`` is :class:`CrossAttention`, and ``weightmap`` is ``z_h`` times
    a map from 0 to 2, read off both by one 1 x 1 convolution, that begins at 1: learned weights in space as in AdaCode
    (Liu et al., ICCV 2023, arXiv:2306.10286), but known from the codes alone, so that codes say all.

    Attributes:
        book_sizes: Entries of the books, the common one first.
        hq_weight: ``lambda``. A plain number that may be set at any time; not saved.

    Args:
        entries: Entries of the common book, ``quantize``; 0 for no book at all: features pass unchanged.
        dim: Channels of the features.
        entries_hq: Entries of the high-quality book, ``quantize_aesthetic``; None for one book only.
        hq_weight: ``lambda``.
        hq_input: What the second book quantises: the features, as published, or what the first left over.
        fusion: How the two are joined.
        beta: As in :class:`VectorQuantizer`.
        legacy_beta: As in :class:`VectorQuantizer`.

    Raises:
        OptionError: A fusion without a second book, or a second book without a first.
    """

    def __init__(
        self, entries: int, dim: int, entries_hq: int | None = None, hq_weight: float = 0.8,
        hq_input: HqInput = 'shared', fusion: Fusion = 'add', beta: float = 0.25, legacy_beta: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if (entries_hq and not entries) or (fusion != 'add' and not entries_hq):
            raise OptionError(
                f'{type(self).__name__}: a second book needs a first, and fusion {fusion} needs two; there are '
                f'{entries} entries in the first and {entries_hq or 0} in the second.'
            )
        self.hq_weight, self.hq_input, self.fusion = hq_weight, hq_input, fusion
        self.book_sizes: tuple[int, ...] = tuple(n for n in (entries, entries_hq) if n)
        if entries:
            self.quantize = VectorQuantizer(entries, dim, beta, legacy_beta)
        if entries_hq:
            self.quantize_aesthetic = VectorQuantizer(entries_hq, dim, beta, legacy_beta)
        if fusion == 'attention':
            self.attention = CrossAttention(dim)
        elif fusion == 'weightmap':
            self.weightmap = nn.Conv2d(2 * dim, 1, 1)
            nn.init.zeros_(self.weightmap.weight)
            nn.init.zeros_(self.weightmap.bias)

    @property
    def books(self) -> tuple[VectorQuantizer, ...]:
        """The books, the common one first."""
        return tuple(getattr(self, name) for name in ('quantize', 'quantize_aesthetic')[: len(self.book_sizes)])

    def coded(self, latent: Tensor, hq_mask: Tensor | None = None) -> Quantized:
        """Puts features through the books.

        Args:
            latent: (N,C,h,w).
            hq_mask: (N,), 1 where the second book takes part, 0 where it does not; None: everywhere.

        Returns:
            The fused features, the codes (N,K,h,w) and the losses (N,K). The codes and losses of the second book are
            there for every image; who trains applies the mask to the losses.
        """
        if not self.book_sizes:
            n, _, height, width = latent.shape
            return Quantized(latent, latent.new_empty((n, 0, height, width), dtype=torch.int64), latent.new_zeros(n, 0))
        entries, codes, losses, rest = [], [], [], latent
        for book in self.books:
            found, code, loss = book(rest)
            entries.append(straight_through(rest, found))
            codes.append(code)
            losses.append(loss)
            if self.hq_input == 'residual':
                rest = rest - found.detach()
        return Quantized(self._fused(entries, hq_mask), torch.stack(codes, 1), torch.stack(losses, 1))

    def embed(self, codes: Tensor, hq_mask: Tensor | None = None) -> Tensor:
        """Codes (N,K,h,w) to the fused features (N,C,h,w), the same as :meth:`coded` gives for them.

        Raises:
            DataError: There is not one map of codes for each book.
        """
        self._check(codes.shape[1])
        return self._fused([book.lookup(code) for book, code in zip(self.books, codes.unbind(1))], hq_mask)

    def embed_weights(self, weights: Sequence[Tensor], hq_mask: Tensor | None = None) -> Tensor:
        """Weights (N,n,h,w) over the entries of each book to the fused features (N,C,h,w).

        Raises:
            DataError: There is not one map of weights for each book.
        """
        self._check(len(weights))
        return self._fused([book.mix(weight) for book, weight in zip(self.books, weights)], hq_mask)

    def _check(self, maps: int) -> None:
        if not self.book_sizes or maps != len(self.book_sizes):
            raise DataError(
                f'{type(self).__name__} has {len(self.book_sizes)} books and cannot look up {maps} maps of codes.'
            )

    def _fused(self, entries: list[Tensor], hq_mask: Tensor | None) -> Tensor:
        """Joins the features of the books."""
        if len(entries) == 1:
            return entries[0]
        common, hq = entries
        if self.fusion == 'attention':
            hq = self.attention(common, hq)
        elif self.fusion == 'weightmap':
            hq = hq * (2 * torch.sigmoid(self.weightmap(torch.cat((common, hq), 1))))
        if hq_mask is None:
            return common + self.hq_weight * hq
        return common + self.hq_weight * hq_mask.to(hq.dtype).view(-1, 1, 1, 1) * hq


def group_norm(channels: int) -> nn.GroupNorm:
    """The normalisation of VQGAN: 32 groups, or as many as a smaller width can be divided into."""
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


def straight_through(h: Tensor, found: Tensor) -> Tensor:
    """``found`` in value, to the bit, with the gradient of ``h``."""
    return found.detach() + (h - h.detach())
