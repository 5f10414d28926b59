"""A network that counts how often it is built, to show that a refused option file builds nothing."""

from torch import nn

from basicsr.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class CountingNet(nn.Module):
    built = 0

    def __init__(self, width: int = 4):
        super().__init__()
        type(self).built += 1
