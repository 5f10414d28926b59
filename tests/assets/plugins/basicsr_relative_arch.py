"""An architecture file that imports its helpers relatively, as BasicSR's own do, one of them from a neighbour."""

from torch import nn as nn

from basicsr.utils.registry import ARCH_REGISTRY

from .arch_util import make_layer
from .relative_util import ScaledConv


@ARCH_REGISTRY.register(suffix='basicsr')
class RelativeNet(nn.Module):
    def __init__(self, num_feat=4, num_block=1):
        super().__init__()
        self.head = nn.Conv2d(3, num_feat, 3, 1, 1)
        self.body = make_layer(ScaledConv, num_block, num_feat=num_feat)
        self.tail = nn.Conv2d(num_feat, 3, 3, 1, 1)

    def forward(self, x):
        return self.tail(self.body(self.head(x)))
