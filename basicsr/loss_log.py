"""What a method's losses and signals were since the last log line, summed up where they are computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from basicsr.errors import TrainingError

LOSS = 'l_'  # begins the names of what is minimised; whatever else a method returns is a signal
Signals = dict[str, float | list[float]]


class LossLog:
    """Sums the losses and signals of a log window on the device, and waits for it only when they are taken.

    A loss is averaged over the iterations of the window; an iteration that does not give it counts as 0. A signal is
    averaged, element by element, over the values that are not NaN. Both go over the batches of all processes.

    Args:
        accelerator: The processes. All of them must give the same names, with the same shapes.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self._clear()

    def _clear(self) -> None:
        self._losses: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._iterations = 0

    def add(self, values: Mapping[str, Tensor], parts: int) -> None:
        """Adds what one batch gave.

        Args:
            values: What ``losses()`` returned.
            parts: Number of batches of the iteration.

        Raises:
            TrainingError: A signal is neither a scalar nor a vector of the length that it had before.
        """
        for name, value in values.items():
            value = value.detach().float()
            if name.startswith(LOSS):
                self._losses[name] = self._losses.get(name, 0.0) + value / parts
            else:
                self._add_signal(name, value)

    def _add_signal(self, name: str, value: Tensor) -> None:
        before = self._sums.get(name)
        if value.dim() > 1 or (before is not None and before.shape != value.shape):
            known = '' if before is None else f', but {tuple(before.shape)} before'
            raise TrainingError(
                f"losses() returned signal '{name}' of shape {tuple(value.shape)}{known}; a signal is a scalar or a "
                'vector, of the same shape in every iteration.'
            )
        given = ~torch.isnan(value)
        self._sums[name] = torch.where(given, value, 0.0) + (0.0 if before is None else before)
        self._counts[name] = given.float() + self._counts.get(name, 0.0)

    def step(self) -> None:
        """Ends an iteration."""
        self._iterations += 1

    def take(self) -> tuple[dict[str, float], Signals]:
        """The means since the last call, by name, of losses and of signals; the next window begins.

        A signal without any value in the window is left out; an element of a vector without one is NaN.
        """
        losses, names = sorted(self._losses), sorted(self._sums)
        shapes = [self._sums[n].shape for n in names]
        parts = [self._losses[n] for n in losses] + [d[n] for d in (self._sums, self._counts) for n in names]
        values = iter(self._read(parts))
        every = max(self._iterations, 1) * self.accelerator.num_processes
        means = {n: next(values) / every for n in losses}
        sums, counts = ([list(islice(values, s.numel())) for s in shapes] for _ in range(2))
        signals = {n: _mean(*found) for n, *found in zip(names, sums, counts, shapes) if any(found[1])}
        self._clear()
        return means, signals

    def _read(self, parts: list[Tensor]) -> list[float]:
        """All numbers in one list, added up over the processes; the one moment at which the device is waited for."""
        if not parts:
            return []
        flat = torch.cat([p.reshape(-1) for p in parts])
        return (self.accelerator.reduce(flat, 'sum') if self.accelerator.num_processes > 1 else flat).tolist()


def _mean(sums: list[float], counts: list[float], shape: torch.Size) -> float | list[float]:
    means = [s / c if c else math.nan for s, c in zip(sums, counts)]
    return means if shape else means[0]


def scalars_of(losses: Mapping[str, float], signals: Signals) -> dict[str, float]:
    """Losses and signals as TensorBoard names them: ``losses/l_pix``, ``signals/fill``, ``signals/levels/0``."""
    flat = {f'losses/{k}': v for k, v in losses.items()}
    for name, value in signals.items():
        bins = {f'signals/{name}/{i}': v for i, v in enumerate(value)} if isinstance(value, list) else {}
        flat.update({k: v for k, v in bins.items() if not math.isnan(v)} if bins else {f'signals/{name}': value})
    return flat
