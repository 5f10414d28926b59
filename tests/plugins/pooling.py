"""A network with a statistic of the whole image, which TLC can make local; and a metric that looks at its images."""

import torch
import torch.nn.functional as F
from torch import nn

from basicsr.metrics import metric
from basicsr.network import RestorationNetwork
from basicsr.registry import ARCH_REGISTRY, METRIC_REGISTRY


@ARCH_REGISTRY.register()
class PoolNet(RestorationNetwork):
    """A convolution of what is above the mean colour, which is that of the whole image or of a window.

    Args:
        kernel: Side of the convolution's kernel.
    """

    multiple_of = 4

    def __init__(self, kernel: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, kernel, padding=kernel // 2)
        self.window = None

    def encode(self, x, visit=None):
        if self.window is None:
            return [x.mean(dim=(2, 3), keepdim=True)]
        odd = self.window // 2 * 2 + 1
        return [F.avg_pool2d(x, odd, 1, odd // 2, count_include_pad=False)]

    def decode(self, x, features, visit=None):
        return x + self.conv(x - features[0])

    def localize(self, window):
        self.window = window


@METRIC_REGISTRY.register()
@metric(higher_better=False)
def calculate_off_level(img, img2, gain: float = 1.0):
    """How far pixels are from the 256 levels of an 8-bit image, at most 0.5: of both images, times gain."""
    far = [(x * 255 - (x * 255).round()).abs().max() for x in (img, img2)]
    return gain * torch.stack(far).max()
