"""A training method with a generator and a discriminator, to test the trainer's second hook."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from basicsr.models.base_model import BaseModel
from basicsr.registry import ARCH_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY, build
from basicsr.schema import Block


@ARCH_REGISTRY.register()
class TinyJudge(nn.Module):
    """One number per image.

    Args:
        width: Channels.
    """

    def __init__(self, width: int = 4):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1)
        )

    def forward(self, x):
        return self.body(x)


@MODEL_REGISTRY.register()
class TinyGANModel(BaseModel):
    """Adversarial training at its smallest.

    Args:
        networks: Generator ``g`` and discriminator ``d``.
        pixel_opt: Pixel loss of the generator.
    """

    network_names = ('g', 'd')

    def __init__(self, networks: dict[str, nn.Module], pixel_opt: Annotated[dict, Block('loss')]):
        super().__init__(networks)
        self.cri_pix = build(LOSS_REGISTRY, pixel_opt)
        self.seen = []

    def losses(self, batch):
        output = self.net_g(batch['lq'])
        self.seen.append(('g', any(p.requires_grad for p in self.net_d.parameters())))
        return {'l_pix': self.cri_pix(output, batch['gt']), 'l_gan': F.softplus(-self.net_d(output)).mean()}

    def losses_d(self, batch):
        with torch.no_grad():
            output = self.net_g(batch['lq'])
        real, fake = self.net_d(batch['gt']), self.net_d(output)
        self.seen.append(('d', any(p.requires_grad for p in self.net_g.parameters())))
        return {'l_d': (F.softplus(-real) + F.softplus(fake)).mean(), 'out_d_real': real.mean()}
