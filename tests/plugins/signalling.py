"""A training method that tells more than its losses: a signal without a value every other step, and a distribution."""

from typing import Annotated

import torch
from torch import nn

from basicsr.models.base_model import BaseModel
from basicsr.registry import LOSS_REGISTRY, MODEL_REGISTRY, build
from basicsr.schema import Block


@MODEL_REGISTRY.register()
class SignallingModel(BaseModel):
    """Its signals follow from the iteration alone, and on several processes from the rank, so that means are known.

    Args:
        networks: ``{'g': net}``.
        pixel_opt: Pixel loss.
        matrix: Whether to give a signal of two dimensions, which is not allowed.
    """

    def __init__(
        self, networks: dict[str, nn.Module], pixel_opt: Annotated[dict, Block('loss')], matrix: bool = False
    ) -> None:
        super().__init__(networks)
        self.cri_pix = build(LOSS_REGISTRY, pixel_opt)
        self.matrix = matrix
        self.started = []
        self.seen = 0

    def start_iteration(self, iteration):
        super().start_iteration(iteration)
        self.started.append(iteration)

    def losses(self, batch):
        t, nan, rank = self.iteration, float('nan'), self._rank()
        self.seen += 1
        signals = {
            'always': torch.tensor(float(t + 100 * rank)),
            'odd': torch.tensor(float(t) if t % 2 else nan),
            'rank_1': torch.tensor(float(t) if rank == 1 else nan),
            'never': torch.tensor(nan),
            'levels': torch.tensor([1.0 / t, nan, float(t) if t % 2 else nan]),
            'nothing': torch.full((2,), nan),
        }
        if self.matrix:
            signals['matrix'] = torch.zeros(2, 3)
        return {'l_pix': self.cri_pix(self.net_g(batch['lq']), batch['gt']), **signals}

    def extra_state(self):
        """A collective: it would hang if only one process called it."""
        seen = torch.tensor([self.seen + 1000 * self._rank()])
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(seen)
        return {'seen': int(seen), 'started': self.started}

    def load_extra_state(self, state):
        self.seen = state['seen']

    @staticmethod
    def _rank():
        return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
