"""Two scorers with results that can be worked out by hand."""

import time

from basicsr.iqa.scorer import Calibration, Scorer
from basicsr.registry import SCORER_REGISTRY


@SCORER_REGISTRY.register()
class Level(Scorer):
    """Mean level times 255; higher is better.

    Args:
        name: Column of a table.
        seconds: How long it takes for an image.
    """

    differentiable = True

    def __init__(self, name: str = 'level', seconds: float = 0.0) -> None:
        super().__init__(name, Calibration(0.0, 255.0, 'test'), '1')
        self.seconds = seconds

    def raw(self, images, degraded=None):
        time.sleep(self.seconds * len(images))
        return 255 * images.mean(dim=(1, 2, 3))


@SCORER_REGISTRY.register()
class Spread(Scorer):
    """Standard deviation times 100; lower is better, and no gradient.

    Args:
        name: Column of a table.
        smallest: Least side of an image in pixels.
    """

    def __init__(self, name: str = 'spread', smallest: int = 1) -> None:
        super().__init__(name, Calibration(50.0, 0.0, 'test'), '1')
        self.min_size = smallest

    def raw(self, images, degraded=None):
        return 100 * images.flatten(1).std(dim=1)
