"""Exponential moving average of a network: parameters *and* buffers, so that networks with BatchNorm average right."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """A slowly moving copy of a network, for validation, for saving and as a mean teacher.

    Args:
        net: The network that is trained.
        decay: Weight of the old average; ``average = decay * average + (1 - decay) * net``.
        warmup: Whether the first iterations use less, see :meth:`decay_at`.
    """

    def __init__(self, net: nn.Module, decay: float, warmup: bool = False) -> None:
        self.decay, self.warmup = decay, warmup
        self.net = copy.deepcopy(net).eval().requires_grad_(False)

    def decay_at(self, iteration: int) -> float:
        """Decay of an iteration, counted from 1: ``min(decay, 1 - 1 / (iteration + 1))`` while it warms up.

        The average of a short run then does not hang on the random weights it began with (Semi-UIR, CVPR 2023).
        """
        return min(self.decay, 1.0 - 1.0 / (iteration + 1)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, net: nn.Module, iteration: int) -> None:
        """Moves the average towards ``net`` after an iteration; integer buffers (counters) are copied."""
        ours, theirs = _tensors(self.net), _tensors(net)
        floats = [(a, b) for a, b in zip(ours, theirs) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1.0 - self.decay_at(iteration))
        for average, value in zip(ours, theirs):
            if not average.is_floating_point():
                average.copy_(value)


def _tensors(net: nn.Module) -> list[torch.Tensor]:
    return [t.detach() for t in (*net.parameters(), *net.buffers())]
