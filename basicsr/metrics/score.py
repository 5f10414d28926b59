"""Any scorer or ensemble of ``basicsr/iqa`` as a metric."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Annotated, Any

import torch
from torch import Tensor

from basicsr.annotations import Block
from basicsr.errors import DataError
from basicsr.iqa import Scorer, build_scorer
from basicsr.metrics import metric
from basicsr.metrics.images import Image, Order, answer, levels, pair_of_levels
from basicsr.registry import METRIC_REGISTRY


def _needs_of(scorer: dict[str, Any], **_: Any) -> tuple[str, ...]:
    return ('img', 'lq') if load(scorer).needs_degraded else ('img',)


@METRIC_REGISTRY.register()
@metric(higher_better=True, needs=('img', 'lq'), needs_of=_needs_of)
def calculate_score(
    img: Image,
    lq: Image | None = None,
    *,
    scorer: Annotated[dict, Block('scorer')],
    crop_border: int = 0,
    input_order: Order = 'HWC',
) -> Tensor | float:
    """Score of each image by any scorer or ensemble of ``basicsr/iqa``, in [0,1]; higher is better.

    Args:
        img: Restored images: a tensor (N, 3, H, W) or (3, H, W), RGB in [0, 1], or a numpy array in [0, 255], BGR.
        lq: The degraded images, of the same form and shape, for scorers that compare with them.
        scorer: Block of the scorer, such as {type: NIQE}, or of an ensemble.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        OptionError: The block cannot be used.
        MissingWeightsError: Weights of the scorer are not on this machine; the text says which file goes where.
        DataError: Images that cannot be used, or no degraded image where the scorer needs one.
    """
    name = f'calculate_score {scorer.get("type")}'
    if not load(scorer).needs_degraded:
        found = (levels(name, img, crop_border, input_order),)
    elif lq is None:
        raise DataError(f"{name}: compares with the degraded image 'lq', which is not there.")
    else:
        found = pair_of_levels(name, img, lq, crop_border, input_order)
    model = load(scorer, str(found[0].device))
    with torch.no_grad():
        return answer(model(*((x / 255).float() for x in found)).double(), img)


def load(block: dict[str, Any], device: str = 'cpu') -> Scorer:
    """The scorer of a block, made once for each block and then moved to where it is wanted.

    Raises:
        OptionError: The block cannot be used.
        MissingWeightsError: Its weights are not on this machine.
    """
    return _built(json.dumps(block, sort_keys=True)).to(device)


@lru_cache(maxsize=16)
def _built(block: str) -> Scorer:
    return build_scorer(json.loads(block))
