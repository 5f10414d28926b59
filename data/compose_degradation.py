"""Several degradations one after the other."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from basicsr.errors import OptionError
from basicsr.registry import DEGRADATION_REGISTRY, build
from basicsr.schema import Block

from ._fields import check_chance


@DEGRADATION_REGISTRY.register()
class Compose:
    """Applies degradations in the order of the list; the steps may be Compose blocks themselves.

    Args:
        steps: Blocks of degradations, such as ``[{type: LowLight}, {type: Haze}]``.
        task: What the samples are called; null joins the tasks of the steps by ``_``.
        probs: Probability of each step to be applied, one number a step; null applies all.
        shuffle: Whether the order is drawn anew for every image.

    Raises:
        OptionError: There is no step, a step cannot be built, or probs does not fit.
    """

    def __init__(
        self,
        steps: Annotated[list[dict], Block('degradation')],
        task: str | None = None,
        probs: list[float] | None = None,
        shuffle: bool = False,
    ) -> None:
        if not steps:
            raise OptionError('Compose: steps is empty; it must list at least one block with a type.')
        if probs is not None and len(probs) != len(steps):
            raise OptionError(
                f'Compose: probs has {len(probs)} numbers; it must have one for each of {len(steps)} steps.'
            )
        if task == '':
            raise OptionError('Compose: task is empty; it must be a name, or null.')
        self.steps = [build(DEGRADATION_REGISTRY, block) for block in steps]
        self.probs = None if probs is None else [check_chance(self, 'probs', p) for p in probs]
        self.task = '_'.join(step.task for step in self.steps) if task is None else task
        self.shuffle = shuffle
        self.uses_depth = any(getattr(step, 'uses_depth', False) for step in self.steps)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, depth: np.ndarray | None = None) -> np.ndarray:
        """Degrades an image.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Passed from step to step, which draw from it.
            depth: (H,W) float32 in [0,1], 1 is farthest, for the steps that use it; None lets each draw its own.

        Returns:
            The same shape and range.
        """
        result = image
        for k in rng.permutation(len(self.steps)).tolist() if self.shuffle else range(len(self.steps)):
            if self.probs is not None and rng.random() >= self.probs[k]:
                continue
            step = self.steps[k]
            result = step(result, rng, depth) if getattr(step, 'uses_depth', False) else step(result, rng)
        return image.copy() if result is image else result
