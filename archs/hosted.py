"""Networks that wrap another one, the host, and add something at its named sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from basicsr.network import RestorationNetwork, Site


class HostedNetwork(RestorationNetwork):
    """A network that declares what its host declares.

    Attributes:
        host: The network inside.
    """

    host: RestorationNetwork

    @property
    def multiple_of(self) -> int:  # type: ignore[override]
        """As the host."""
        return self.host.multiple_of

    @property
    def min_size(self) -> int:  # type: ignore[override]
        """As the host."""
        return self.host.min_size

    @property
    def pad_mode(self) -> Literal['constant', 'reflect']:  # type: ignore[override]
        """As the host."""
        return self.host.pad_mode

    @property
    def half_precision(self) -> tuple[str, ...]:  # type: ignore[override]
        """As the host."""
        return self.host.half_precision

    @property
    def prepare(self) -> Callable[..., Tensor] | None:  # type: ignore[override]
        """As the host."""
        return self.host.prepare

    @property
    def sites(self) -> dict[str, Site]:
        """As the host; a visitor sees the features with what this network adds in them."""
        return self.host.sites

    def pad(self, x: Tensor) -> Tensor:
        """As the host."""
        return self.host.pad(x)

    def localize(self, window: int | None) -> None:
        """As the host; what this network adds stays as it is."""
        self.host.localize(window)
