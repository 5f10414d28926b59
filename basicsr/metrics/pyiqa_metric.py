"""Any metric of the package pyiqa (IQA-PyTorch) by its name, full- or no-reference."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from basicsr.errors import DataError, OptionError
from basicsr.metrics import metric as mark
from basicsr.metrics.images import Image, Order, answer, levels, pair_of_levels
from basicsr.registry import METRIC_REGISTRY, nearest

OF_SETS = ('fid', 'sfid', 'fid_dinov2', 'inception_score', 'clipscore')  # of sets, or of an image and a text


def _higher_better(metric: str, weights: str | None = None, download: bool = False, **_: Any) -> bool:
    return not _built(metric, weights, download).lower_better


def _needs_of(metric: str, **_: Any) -> tuple[str, ...]:
    return ('img', 'img2') if _compares(metric) else ('img',)


@METRIC_REGISTRY.register()
@mark(higher_better=_higher_better, needs_of=_needs_of)
def calculate_pyiqa(
    img: Image,
    img2: Image | None = None,
    *,
    metric: str,
    crop_border: int = 0,
    input_order: Order = 'HWC',
    weights: str | None = None,
    download: bool = False,
) -> Tensor | float:
    """A metric of pyiqa by its name, full- or no-reference; pyiqa says which way it points.

    Images are measured as their 8-bit files would hold them, one at a time and each from the same random state, so a
    score depends on nothing but its image. pyiqa is optional (``pip install "qualir[iqa]"``), not for commercial use.

    Args:
        img: Restored images: a tensor (N, 3, H, W) or (3, H, W), RGB in [0, 1], or a numpy array in [0, 255], BGR.
        img2: Wanted images, of the same form and shape, where the metric compares.
        metric: Name in pyiqa: musiq, clipiqa, topiq_nr, niqe, lpips, dists, ...
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.
        weights: File with the weights of the metric; null takes what pyiqa has downloaded before.
        download: Whether pyiqa may download weights that are not on this machine.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        OptionError: pyiqa is not installed, or has no such metric.
        MissingWeightsError: The weights are not on this machine; the text says which file goes where.
        CheckpointError: The weights do not fit.
        DataError: Shapes that differ or cannot be used, not RGB, or no wanted image where the metric needs one.
    """
    name = f'calculate_pyiqa {metric}'
    if not _compares(metric):
        found = (levels(name, img, crop_border, input_order),)
    elif img2 is None:
        raise DataError(f"{name}: compares with the wanted image 'img2', which is not there.")
    else:
        found = pair_of_levels(name, img, img2, crop_border, input_order)
    if found[0].shape[1] != 3:
        raise DataError(f'{name}: needs RGB images, not {found[0].shape[1]} channels.')
    model = _built(metric, weights, download).to(found[0].device)
    images = ((x / 255).float().split(1) for x in found)
    with torch.no_grad():
        return answer(torch.cat([_one(name, model, pair) for pair in zip(*images)]), img)


@lru_cache(maxsize=16)
def _built(metric: str, weights: str | None, download: bool) -> Any:
    """A metric of pyiqa with its weights, made once for each file.

    Raises:
        OptionError: pyiqa is not installed, has no such metric, or the metric takes no file by path.
        MissingWeightsError: The weights are not on this machine.
        CheckpointError: The weights do not fit.
    """
    from basicsr.iqa.pyiqa_scorer import check_all_taken, create_metric, weights_path

    _compares(metric)
    path = {} if weights is None else {'pretrained_model_path': weights_path(metric, weights)}
    built = create_metric(metric, False, path, download)
    for given in path.values():
        check_all_taken(metric, built.net, given)
    return built.eval().requires_grad_(False)


def _compares(metric: str) -> bool:
    """Whether a metric of pyiqa is full-reference.

    Raises:
        OptionError: pyiqa is not installed, or has no such metric.
    """
    from basicsr.iqa.pyiqa_scorer import check_package

    check_package()
    import pyiqa

    one, two = (pyiqa.list_models(metric_mode=mode) for mode in ('NR', 'FR'))
    known = [name for name in [*one, *two] if name not in OF_SETS]
    if metric in known:
        return metric in two
    if metric in OF_SETS:
        raise OptionError(f"calculate_pyiqa: '{metric}' measures sets of images or texts, not an image.")
    near = nearest(metric, known, count=3)
    hint = f' Did you mean {" or ".join(near)}?' if near else ''
    raise OptionError(f"calculate_pyiqa: pyiqa has no metric '{metric}'.{hint} It has: {', '.join(sorted(known))}.")


def _one(name: str, model: Any, images: tuple[Tensor, ...]) -> Tensor:
    """The score of one image (1,3,H,W), alone or with the wanted one: (1,), float64."""
    from basicsr.iqa.pyiqa_scorer import quietly

    with torch.random.fork_rng(devices=[images[0].device] if images[0].is_cuda else []), quietly():
        torch.manual_seed(0)
        found = model(*images)
    value = (found[0] if isinstance(found, tuple | list) else found).reshape(-1)
    if value.numel() != 1:
        raise DataError(f'{name}: pyiqa gave {value.numel()} scores for one image.')
    return value.detach().double()
