"""Optimisers by the name of their ``torch.optim`` class, and the learning rate of an iteration."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any, Protocol

import torch

from basicsr.registry import Registry, build


class Schedule(Protocol):
    """A learning-rate schedule: a plain function of the step, so that resuming needs no state."""

    def lr(self, initial_lr: float, step: int) -> float:
        """Rate at ``step``, counted from 0."""
        ...


class _OptimizerRegistry(Registry):
    """Plug-ins (``models/*_optimizer.py``) first, then every optimiser of ``torch.optim``."""

    def get(self, name: str) -> Any:
        return _light(_torch_optimizers()[name]) if name in _torch_optimizers() else super().get(name)

    def keys(self) -> list[str]:
        return sorted({*super().keys(), *_torch_optimizers()})

    def summary(self, name: str) -> str:
        return 'torch.optim' if name in _torch_optimizers() else super().summary(name)

    def __contains__(self, name: object) -> bool:
        return name in _torch_optimizers() or super().__contains__(name)


def _torch_optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    known = inspect.getmembers(torch.optim, inspect.isclass)
    other = (torch.optim.Optimizer, torch.optim.LBFGS)  # LBFGS evaluates the loss many times a step
    return {n: c for n, c in known if issubclass(c, torch.optim.Optimizer) and c not in other}


@functools.cache
def _light(optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The same optimiser without a word to torch's compiler.

    PyTorch's own imports the compiler, for a second and more, when it is made and again at its first step, only to say
    that the compiler shall not look into it; nothing here compiles an optimiser. Hooks and numbers are the same.
    """

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults.get('differentiable', False)):
            return plain_step(self, *args, **kwargs)

    plain_step = inspect.unwrap(optimizer.step)
    told = ('add_param_group', 'zero_grad', 'state_dict', 'load_state_dict')
    content = {name: inspect.unwrap(getattr(optimizer, name)) for name in told}
    module = {'__module__': optimizer.__module__, '__doc__': optimizer.__doc__, '__init__': optimizer.__init__}
    return type(optimizer.__name__, (optimizer,), {**module, **content, 'step': functools.wraps(plain_step)(step)})


OPTIMIZER_REGISTRY = _OptimizerRegistry('optimizer', 'basicsr.models', '*_optimizer.py')


def build_optimizer(block: dict[str, Any], parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Builds the optimiser that a block describes; each group remembers its starting rate as ``initial_lr``."""
    optimizer = build(OPTIMIZER_REGISTRY, block, params=[p for p in parameters if p.requires_grad])
    for group in optimizer.param_groups:
        group['initial_lr'] = float(group['lr'])
    return optimizer


def set_learning_rate(
    optimizers: Iterable[torch.optim.Optimizer], schedule: Schedule | None, iteration: int, warmup_iter: int
) -> float:
    """Sets the rate of iteration ``iteration`` (counted from 1) and returns that of the first group.

    As BasicSR has it: the schedule is read at ``iteration - 1``, and during warm-up the rate is
    ``initial_lr * iteration / warmup_iter`` instead.
    """
    first = 0.0
    for n, group in enumerate(g for o in optimizers for g in o.param_groups):
        rate = group['initial_lr']
        if iteration < warmup_iter:
            rate = rate * iteration / warmup_iter
        elif schedule is not None:
            rate = schedule.lr(rate, iteration - 1)
        _assign_rate(group, rate)
        first = rate if n == 0 else first
    return first


def _assign_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group['lr'], torch.Tensor):  # a capturable optimiser keeps its rate on the device
        group['lr'].fill_(rate)
    else:
        group['lr'] = rate
