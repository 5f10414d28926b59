"""Modules that a training method needs and that are neither trained nor saved with it: judges, frozen networks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .base_model import BaseModel


class Followers(BaseModel):
    """A method whose :meth:`followers` go with it to its device, stay in evaluation mode, and are not in its state."""

    def followers(self) -> list[nn.Module]:
        """The modules."""
        return []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        for module in self.followers():
            module._apply(fn, recurse)
        return super()._apply(fn, recurse)
