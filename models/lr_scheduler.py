"""Learning-rate schedules as functions of the step.

A schedule has no state: ``lr(initial_lr, step)`` is the rate of step ``step``, counted from 0, and a resumed run asks
for the same numbers as an uninterrupted one. Where a schedule exists in BasicSR, NAFNet, Restormer or PyTorch, the
class has its name and option keys, and ``step`` equals the ``last_epoch`` of the published class.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import accumulate
from typing import Literal

from basicsr.errors import OptionError
from basicsr.registry import SCHEDULER_REGISTRY


class _Schedule(ABC):
    """What all schedules share. A subclass gives ``_lr`` and, where the schedule ends, ``span``."""

    span: int | None = None  # last step for which a rate is defined; None: no end

    def lr(self, initial_lr: float, step: int) -> float:
        """Returns the learning rate of a step.

        Args:
            initial_lr: Rate that the optimiser was given.
            step: Steps already taken, from 0.

        Raises:
            OptionError: A rate that is not positive, a negative step, or a step beyond the end of the schedule.
        """
        if not initial_lr > 0:
            self._refuse(f'the initial learning rate must be positive, not {initial_lr}')
        if step < 0 or (self.span is not None and step > self.span):
            self._refuse(f'step {step} is outside of its range, 0 to {self.span}')
        return self._lr(initial_lr, step)

    def check(self, total_iter: int) -> None:
        """Refuses a schedule that does not suit a run of ``total_iter`` steps.

        Raises:
            OptionError: The schedule ends before the run does, or its steps are not in order.
        """
        if self.span is not None and self.span < total_iter:
            self._refuse(f'it covers {self.span} iterations, but train.total_iter is {total_iter}')

    @abstractmethod
    def _lr(self, initial_lr: float, step: int) -> float:
        """The rate of a step within the range."""

    def _refuse(self, reason: str) -> None:
        raise OptionError(f'Scheduler {type(self).__name__}: {reason}.')

    def _require(self, rule: Literal['positive', '0 or more'], **values: float | list[float] | list[int]) -> None:
        for name, value in values.items():
            numbers = value if isinstance(value, list) else [value]
            if any(n < 0 or (n == 0 and rule == 'positive') for n in numbers):
                self._refuse(f'{name} must be {rule}, not {value}')


@SCHEDULER_REGISTRY.register()
class ConstantLR(_Schedule):
    """Keeps the initial learning rate."""

    def _lr(self, initial_lr: float, step: int) -> float:
        return initial_lr


@SCHEDULER_REGISTRY.register()
class MultiStepRestartLR(_Schedule):
    """Lowers the learning rate at given steps, and sets it back at restarts (BasicSR).

    Args:
        milestones: Steps at which the rate is multiplied by ``gamma``, in order; one listed twice counts twice.
        gamma: Factor at each milestone.
        restarts: Steps at which the rate is set back, in order; a milestone on the same step has no effect. None: step
            0.
        restart_weights: For each restart, the part of the initial rate that it is set to. None: all 1.

    Raises:
        OptionError: Unlike numbers of restarts and weights; values that are not positive.
    """

    def __init__(
        self,
        milestones: list[int],
        gamma: float = 0.1,
        restarts: list[int] | None = None,
        restart_weights: list[float] | None = None,
    ) -> None:
        self.milestones = list(milestones)
        self.gamma = gamma
        self.restarts = [0] if restarts is None else list(restarts)
        self.restart_weights = [1.0] * len(self.restarts) if restart_weights is None else list(restart_weights)
        if len(self.restarts) != len(self.restart_weights):
            self._refuse(f'it has {len(self.restarts)} restarts but {len(self.restart_weights)} restart_weights')
        self._require('positive', gamma=gamma, restart_weights=self.restart_weights)
        self._require('0 or more', milestones=self.milestones, restarts=self.restarts)

    def check(self, total_iter: int) -> None:
        """Refuses milestones or restarts that are not in order; the schedule itself has no end.

        Raises:
            OptionError: They are not.
        """
        for name, steps in (('milestones', self.milestones), ('restarts', self.restarts)):
            if steps != sorted(steps):
                self._refuse(f'{name} must be in ascending order, not {steps}')

    def _lr(self, initial_lr: float, step: int) -> float:
        passed = [(start, weight) for start, weight in zip(self.restarts, self.restart_weights) if start <= step]
        start, weight = passed[-1] if passed else (-1, 1.0)
        drops = sum(start < m <= step for m in self.milestones)
        return initial_lr * weight * self.gamma**drops


@SCHEDULER_REGISTRY.register()
class MultiStepLR(MultiStepRestartLR):
    """Lowers the learning rate at given steps: MultiStepRestartLR by its other name in option files.

    Args:
        milestones: Steps at which the rate is multiplied by ``gamma``, in order; one listed twice counts twice.
        gamma: Factor at each milestone.
        restarts: Steps at which the rate is set back, in order; a milestone on the same step has no effect. None: step
            0.
        restart_weights: For each restart, the part of the initial rate that it is set to. None: all 1.
    """


@SCHEDULER_REGISTRY.register()
class CosineAnnealingRestartCyclicLR(_Schedule):
    """Cosine cycles, each with its own length, weight and floor (Restormer, arXiv:2111.09881).

    At the step that ends a cycle the rate is its floor; the next cycle begins one step later.

    Args:
        periods: Length of each cycle in iterations.
        restart_weights: Factor on the height of each cycle above its floor. None: all 1.
        eta_mins: Floor of each cycle. None: all 0.

    Raises:
        OptionError: Empty lists or lists of unlike length; values that are not positive (floors: negative).
    """

    def __init__(
        self,
        periods: list[int],
        restart_weights: list[float] | None = None,
        eta_mins: list[float] | None = None,
    ) -> None:
        self.periods = list(periods)
        self.restart_weights = [1.0] * len(self.periods) if restart_weights is None else list(restart_weights)
        self.eta_mins = [0.0] * len(self.periods) if eta_mins is None else list(eta_mins)
        for name, values in (('restart_weights', self.restart_weights), ('eta_mins', self.eta_mins)):
            if len(values) != len(self.periods):
                self._refuse(f'it has {len(self.periods)} periods but {len(values)} {name}')
        if not self.periods:
            self._refuse('periods is empty')
        self._require('positive', periods=self.periods, restart_weights=self.restart_weights)
        self._require('0 or more', eta_mins=self.eta_mins)
        self.ends = list(accumulate(self.periods))
        self.span = self.ends[-1]

    def _lr(self, initial_lr: float, step: int) -> float:
        cycle = next(i for i, end in enumerate(self.ends) if step <= end)
        period, floor = self.periods[cycle], self.eta_mins[cycle]
        height = self.restart_weights[cycle] * (initial_lr - floor)
        return floor + height * _half_cosine((step - self.ends[cycle] + period) / period)


@SCHEDULER_REGISTRY.register()
class CosineAnnealingRestartLR(CosineAnnealingRestartCyclicLR):
    """Cosine cycles with one floor (BasicSR).

    Args:
        periods: Length of each cycle in iterations.
        restart_weights: Factor on the height of each cycle above the floor. None: all 1.
        eta_min: Floor of all cycles.

    Raises:
        OptionError: Empty lists or lists of unlike length; values that are not positive (floor: negative).
    """

    def __init__(self, periods: list[int], restart_weights: list[float] | None = None, eta_min: float = 0.0) -> None:
        super().__init__(periods, restart_weights, [eta_min] * len(periods))


@SCHEDULER_REGISTRY.register()
class TrueCosineAnnealingLR(_Schedule):
    """One half cosine from the initial learning rate down to a floor (NAFNet; PyTorch's CosineAnnealingLR).

    Args:
        T_max: Iterations until the floor is reached; at least the length of the run.
        eta_min: The floor.

    Raises:
        OptionError: ``T_max`` is not positive or ``eta_min`` is negative.
    """

    def __init__(self, T_max: int, eta_min: float = 0.0) -> None:
        self._require('positive', T_max=T_max)
        self._require('0 or more', eta_min=eta_min)
        self.span = T_max
        self.eta_min = eta_min

    def _lr(self, initial_lr: float, step: int) -> float:
        return self.eta_min + (initial_lr - self.eta_min) * _half_cosine(step / self.span)


@SCHEDULER_REGISTRY.register()
class LinearLR(_Schedule):
    """A straight line from the initial learning rate down to 0 (NAFNet's code).

    Args:
        total_iter: Iterations until 0 is reached; at least the length of the run.

    Raises:
        OptionError: ``total_iter`` is not positive.
    """

    def __init__(self, total_iter: int) -> None:
        self._require('positive', total_iter=total_iter)
        self.span = total_iter

    def _lr(self, initial_lr: float, step: int) -> float:
        return initial_lr * (1 - step / self.span)


@SCHEDULER_REGISTRY.register()
class VibrateLR(_Schedule):
    """Eighty short triangles under an envelope that falls to 0, then stays at 0.2 and at 0.1 (NAFNet's code).

    The envelope is 1 - 8/3 * p up to p = 3/8 of the run, 0.2 up to 5/8 and 0.1 after it. Each triangle begins at 0; in
    the first half of the first one the rate is at least a tenth of the initial one.

    Args:
        total_iter: Length of the whole schedule in iterations; at least the length of the run, and at least 160.

    Raises:
        OptionError: ``total_iter`` is below 160.
    """

    def __init__(self, total_iter: int) -> None:
        if total_iter < 160:
            self._refuse(f'total_iter must be 160 or more, since 80 triangles need 2 iterations each, not {total_iter}')
        self.span = total_iter

    def _lr(self, initial_lr: float, step: int) -> float:
        progress = step / self.span
        envelope = 1 - progress * 8 / 3 if progress < 3 / 8 else 0.2 if progress < 5 / 8 else 0.1
        period = self.span // 80
        rise = period // 2
        phase = step % period / rise
        weight = envelope * (phase if phase < 1 else 2 - phase)
        return initial_lr * (max(0.1, weight) if step < rise else weight)


def _half_cosine(x: float) -> float:
    """Falls from 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * x))
