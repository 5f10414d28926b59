"""The one cast that networks need whose steps must not run in half precision."""

from torch import Tensor, float64


def full_precision(x: Tensor) -> Tensor:
    """The tensor in float32, or as it is in float64."""
    return x if x.dtype == float64 else x.float()
