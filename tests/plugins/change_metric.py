"""A metric that compares with the degraded input."""

from basicsr.metrics import metric
from basicsr.registry import METRIC_REGISTRY


@METRIC_REGISTRY.register()
@metric(higher_better=False, needs=('img', 'lq'))
def calculate_change(img, lq, gain: float = 1.0):
    """Mean absolute change of the input, times gain."""
    return gain * (img - lq).abs().mean(dim=(1, 2, 3))
