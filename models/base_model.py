"""What every training method is: its networks, and the losses of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn

Batch = dict[str, Any]


class BaseModel(nn.Module, ABC):
    """A training method. A subclass writes :meth:`losses`; the trainer does the rest.

    A method with several players (a generator and a discriminator) lists them in ``network_names`` and writes one
    ``losses_<letter>`` more for each; every player has an optimiser of its own, ``train.optim_<letter>``. Those that it
    can do without it lists in ``optional_networks`` too: the players of a run are the networks that it was given.

    Args:
        networks: The networks by letter, ``{'g': net}``; kept as ``net_g`` and so on.
    """

    network_names: tuple[str, ...] = ('g',)
    optional_networks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, networks: dict[str, nn.Module]) -> None:
        super().__init__()
        if self.optional_networks:
            self.network_names = tuple(k for k in self.network_names if k in networks)
        for letter, net in networks.items():
            setattr(self, f'net_{letter}', net)
        self._averages: dict[str, nn.Module] = {}
        self.iteration = 0

    def start_iteration(self, iteration: int) -> None:
        """Is called before the losses of every iteration, also of the first one after a resume.

        Args:
            iteration: Counted from 1, as schedules need it; kept as ``iteration``.
        """
        self.iteration = iteration

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Losses of a batch for the restoration network.

        Args:
            batch: ``lq`` and ``gt`` (N,3,H,W), RGB in [0,1], and what else the data set gives.

        Returns:
            Tensors by name. Those that begin with ``l_`` are scalars, added up and minimised. The others are signals,
            which are only logged: scalars or vectors (a distribution over bins), whose NaN elements mean "no value"
            and are left out of the mean. All processes must return the same names.
        """

    def forward(self, batch: Batch, player: str = 'g') -> dict[str, torch.Tensor]:
        """Losses of one player; the trainer calls this, so that wrappers for distributed training see every use."""
        return self.losses(batch) if player == 'g' else getattr(self, f'losses_{player}')(batch)

    def network(self, letter: str) -> nn.Module:
        """The network that is trained under this letter."""
        return getattr(self, f'net_{letter}')

    def bind_averages(self, averages: dict[str, nn.Module]) -> None:
        """Is given the moving averages of the networks, which are neither trained nor saved as part of the method."""
        self._averages = averages

    def evaluation_network(self) -> nn.Module:
        """The network that is validated and shipped: the moving average if there is one."""
        return self._averages.get('g', self.network('g'))

    def extra_state(self) -> dict[str, Any]:
        """What the method keeps between steps beside its networks, for the checkpoint: tensors and plain containers.

        Is called on all processes at once, so it may gather from them; what the first one returns is saved.
        """
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`extra_state` gave; is called on every process with all of it."""
