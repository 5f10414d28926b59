"""A small network in the manner of BasicSR's architecture files, that says when training first calls it.

benchmarks/run.py drops this one file into both projects to time their start.
"""

import torch

from basicsr.utils.registry import ARCH_REGISTRY

MARK = 'first training step begins'


@ARCH_REGISTRY.register()
class FirstStepNet(torch.nn.Module):
    """One convolution; prints a line at its first call in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.called = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N,3,H,W) to the same shape."""
        if self.training and not self.called:
            self.called = True
            print(MARK, flush=True)
        return self.conv(x)
