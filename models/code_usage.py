"""How often the entries of books of codes are used, and new life for those that never are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

JITTER = 0.01  # of the features' deviation, for features that must serve several entries


class CodeUsage:
    """Counts, for each book, how often each of its entries was chosen; on the device, without waiting for it.

    Every process counts its own images. The counts are no buffers: those would be overwritten by the first process's.

    Args:
        sizes: Entries of the books.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.counts = [torch.zeros(size, dtype=torch.int64) for size in sizes]

    @torch.no_grad()
    def add(self, codes: Tensor, hq_mask: Tensor | None = None) -> None:
        """Counts codes (N,K,h,w); of the second book only those of images whose ``hq_mask`` (N,) is not 0."""
        for n, code in enumerate(codes.unbind(1)):
            ones = torch.ones_like(code)
            if n and hq_mask is not None:
                ones = ones * (hq_mask > 0).view(-1, 1, 1)
            self.counts[n] = self.counts[n].to(code.device).index_add_(0, code.flatten(), ones.flatten())

    def clear(self, book: int | None = None) -> None:
        """Begins anew, for one book or for all."""
        for n, counts in enumerate(self.counts):
            if book in (None, n):
                counts.zero_()

    def total(self, book: int) -> Tensor:
        """Counts (entries,) int64 of a book over all processes, which must all call this."""
        return summed(self.counts[book].clone())

    def state(self) -> list[Tensor]:
        """The counts over all processes, for the checkpoint; all processes must call this."""
        return [self.total(n).cpu() for n in range(len(self.counts))]

    def load(self, state: Sequence[Tensor], device: torch.device) -> None:
        """Takes the counts back; the first process keeps them, so that they are counted once.

        Raises:
            ValueError: The books had other sizes.
        """
        sizes, given = [len(c) for c in self.counts], [len(c) for c in state]
        if sizes != given:
            raise ValueError(f'codes were counted for books of {given} entries, but the books have {sizes}')
        self.counts = [c.to(device) * int(rank() == 0) for c in state]


def used_share(counts: Tensor) -> Tensor:
    """Share of the entries that were chosen at least once, a scalar; NaN where nothing was counted."""
    return torch.where(counts.sum() > 0, (counts > 0).float().mean(), torch.nan)


def perplexity(counts: Tensor) -> Tensor:
    """``exp`` of the entropy of how often entries were chosen, a scalar: as many equally frequent ones would have it.

    1 for a single entry up to the number of entries; NaN where nothing was counted.
    """
    share = counts.double() / counts.sum()
    return torch.exp(torch.special.entr(share).sum()).float()


@torch.no_grad()
def book_inputs(net: nn.Module, latent: Tensor) -> Iterator[Tensor]:
    """What each book of a network quantises, (N,C,h,w): the features, or what the books before it left over.

    Each is computed when it is asked for, with the books as they are then.
    """
    rest = latent.detach()
    for book in net.books:
        yield rest
        if net.hq_input == 'residual':
            rest = rest - book.lookup(book.nearest(rest))


@torch.no_grad()
def reseed(books: Sequence[Tensor], replaced: Tensor, features: Tensor, seed: int) -> bool:
    """Puts features in the place of entries of a book; the first process's features, in all processes.

    Args:
        books: The book's vectors (entries, C), and copies of it (moving averages) that change alike.
        replaced: (entries,) bool, which of them.
        features: (N,C,h,w), or (0,C,h,w) where this process has none.
        seed: Which features are drawn.

    Returns:
        Whether there was any finite feature; without, nothing changes.
    """
    vectors = drawn(features.permute(0, 2, 3, 1).flatten(0, 2), len(replaced), seed).to(books[0])
    if several():
        dist.broadcast(vectors, 0)
    if bool(vectors.isnan().any()):  # the one wait for the device, at a reset only
        return False
    for book in books:
        book.copy_(torch.where(replaced[:, None], vectors, book))
    return True


def drawn(features: Tensor, count: int, seed: int) -> Tensor:
    """``count`` vectors drawn from features (M,C), each as seldom as possible; all NaN where there are none.

    Those drawn more than once are moved a little, since equal entries would never part.
    """
    features = features[features.isfinite().all(1)].float()
    if not len(features):
        return features.new_full((count, features.shape[1]), torch.nan)
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-count // len(features))
    order = torch.cat([torch.randperm(len(features), generator=generator) for _ in range(rounds)])[:count]
    noise = torch.randn(count, features.shape[1], generator=generator) * JITTER
    noise[: len(features)] = 0
    spread = features.std(0, correction=0).mean().clamp_min(1e-6)
    return features[order.to(features.device)] + noise.to(features) * spread


def several() -> bool:
    """Whether there are several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if several() else 0


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if several():
        dist.all_reduce(values)
    return values


def usage_signals(usage: CodeUsage | None, names: Sequence[str], device: torch.device) -> dict[str, Any]:
    """Used share and perplexity of each book for the log, by its name; NaN, no value, where ``usage`` is None."""
    signals: dict[str, Any] = {}
    for n, name in enumerate(names):
        counts = None if usage is None else usage.total(n)
        nothing = torch.full((), torch.nan, device=device)
        signals[f'usage_{name}'] = nothing if counts is None else used_share(counts)
        signals[f'perplexity_{name}'] = nothing if counts is None else perplexity(counts)
    return signals
