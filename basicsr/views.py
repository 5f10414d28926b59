"""The eight ways to turn and mirror an image, with their exact inverses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """A mirror image or not, then quarter turns.

    Attributes:
        turns: Quarter turns counter-clockwise.
        mirror: Whether left and right are swapped first.
    """

    turns: int = 0
    mirror: bool = False

    @property
    def swaps(self) -> bool:
        """Whether height and width change places."""
        return self.turns % 2 == 1

    def apply(self, images: Tensor) -> Tensor:
        """Turns (..., H, W)."""
        return torch.rot90(images.flip(-1) if self.mirror else images, self.turns, (-2, -1))

    def invert(self, images: Tensor) -> Tensor:
        """Turns back what :meth:`apply` gave, pixel for pixel."""
        back = torch.rot90(images, -self.turns, (-2, -1))
        return back.flip(-1) if self.mirror else back


VIEWS = {
    'identity': View(),
    'hflip': View(mirror=True),
    'rot90': View(1),
    'hflip_rot90': View(1, mirror=True),
    'rot180': View(2),
    'vflip': View(2, mirror=True),
    'rot270': View(3),
    'hflip_rot270': View(3, mirror=True),
}
