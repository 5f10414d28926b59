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
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.net = copy.deepcopy(net).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Moves the average towards ``net``; integer buffers (counters) are copied."""
        ours, theirs = _tensors(self.net), _tensors(net)
        floats = [(a, b) for a, b in zip(ours, theirs) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1.0 - self.decay)
        for average, value in zip(ours, theirs):
            if not average.is_floating_point():
                average.copy_(value)


def _tensors(net: nn.Module) -> list[torch.Tensor]:
    return [t.detach() for t in (*net.parameters(), *net.buffers())]
