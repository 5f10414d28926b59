"""BRISQUE: how far an image's local contrast is from that of photographs people rated, by support vector regression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basicsr.errors import CheckpointError, MissingWeightsError
from basicsr.metrics import metric
from basicsr.metrics.images import Image, Order, answer, levels
from basicsr.metrics.natural_statistics import (
    WORST,
    fit,
    grey,
    half_size,
    local_contrast,
    luma_of_images,
    pair_sums,
    portions,
    require_size,
    symmetric_shape,
)
from basicsr.registry import METRIC_REGISTRY

LEAST_SIZE = 16  # pixels: at half size a window of 7 still fits
FEATURES = 36
LIVE_OFFSET, LIVE_GAMMA = -153.591, 0.05  # of the regression published with the paper, which a .pth file leaves out


@dataclass(frozen=True)
class Regression:
    """A support vector regression with a radial basis, double precision.

    Attributes:
        vectors: Support vectors (V, 36), of features scaled to [-1, 1].
        coefficients: Their weights (V,).
        low: Feature values (36,) that are scaled to -1.
        high: To 1.
        offset: Subtracted from the sum (rho).
        gamma: Of the kernel exp(-gamma d^2).
    """

    vectors: Tensor
    coefficients: Tensor
    low: Tensor
    high: Tensor
    offset: float
    gamma: float

    def predict(self, features: Tensor) -> Tensor:
        """The score of features (N, 36): (N,)."""
        vectors, weights, low, high = (
            t.to(features.device) for t in (self.vectors, self.coefficients, self.low, self.high)
        )
        scaled = 2 * (features - low) / (high - low) - 1
        squares = scaled.square().sum(dim=1, keepdim=True) + vectors.square().sum(dim=1)
        distance = squares - 2 * scaled @ vectors.T
        return torch.exp(-self.gamma * distance) @ weights - self.offset


@METRIC_REGISTRY.register()
@metric(higher_better=False, needs=('img',))
def calculate_brisque(
    img: Image,
    crop_border: int = 0,
    input_order: Order = 'HWC',
    parameters: str | None = None,
    ranges: str | None = None,
) -> Tensor | float:
    """BRISQUE (Mittal, Moorthy, Bovik: No-reference image quality assessment in the spatial domain, IEEE TIP 2012).

    About 0 for a good photograph to 100 for a bad one, beyond either end now and then; lower is better. An image of one
    colour gets 100.

    The regression that ships is that of the Python package ``brisque``, whose licence allows it. The one published with
    the paper gives other numbers, by 4 in the median of 36 photographs and by 26 at most: to compare with published
    figures, load it by its path.

    Args:
        img: A tensor (N, C, H, W) or (C, H, W), RGB or grey in [0, 1], or a numpy array in [0, 255], BGR or grey.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.
        parameters: Path of another regression, see :func:`load_regression`; by default the one that ships.
        ranges: Path of its range file; by default ``allrange`` in the same folder.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: An image that cannot be used, or smaller than 16 x 16 pixels inside the border.
        CheckpointError: ``parameters`` or ``ranges`` cannot be read; MissingWeightsError where it does not exist.
    """
    x = levels('calculate_brisque', img, crop_border, input_order)
    require_size('calculate_brisque', x, LEAST_SIZE)
    return answer(_scores(grey(x).round(), load_regression(parameters, ranges), table=True), img)


def brisque(images: Tensor, parameters: Regression | str | Path | None = None, table: bool = True) -> Tensor:
    """BRISQUE of a batch, differentiable; see :func:`calculate_brisque`.

    Args:
        images: (N,3,H,W) RGB or (N,1,H,W) grey, in [0,1].
        parameters: The regression or its path, see :func:`load_regression`; by default the one that ships.
        table: True gives the published value: luma is rounded to whole levels, and shapes are the nearest of a table.
            The gradient passes through both as if they were exact. False leaves luma as it is and inverts exactly, so
            that the value is smooth; in 36 photographs it was off by 0.8 in the median, by 8.6 at most, nearly all
            because luma is not rounded: by the table alone it is 0.03 and 0.11.

    Returns:
        (N,), of the images' number format. An image of one colour has 100, without gradient.

    Raises:
        DataError: Images of a shape that cannot be used.
    """
    x = luma_of_images('brisque', images, LEAST_SIZE, rounded=table)
    regression = parameters if isinstance(parameters, Regression) else load_regression(parameters)
    return _scores(x, regression, table).to(images.dtype)


def load_regression(path: str | Path | None = None, ranges: str | Path | None = None) -> Regression:
    """Reads a regression for BRISQUE.

    Args:
        path: An ``.npz`` of the fields of :class:`Regression`; or a model of libsvm as text (the LIVE release's
            ``allmodel``); or a ``.pth`` with the tuple (coefficients, vectors), whose offset and gamma are taken to be
            those of the LIVE release. None is the one that ships.
        ranges: For the latter two, the range file that libsvm's svm-scale wrote; by default ``allrange`` beside it.

    Raises:
        CheckpointError: The file is not one of these.
        MissingWeightsError: A file that is not there.
    """
    if path is None:
        return _shipped()
    path = Path(path)
    ranges = path.with_name('allrange') if ranges is None else Path(ranges)
    if path.suffix == '.npz':
        return _read(path, _from_npz)
    low, high = _read(ranges, _ranges_of)
    if path.suffix in ('.pth', '.pt'):
        coefficients, vectors = _read(path, _from_pth)
        return _checked(path, Regression(vectors, coefficients, low, high, LIVE_OFFSET, LIVE_GAMMA))
    return _checked(path, Regression(**_read(path, _from_libsvm), low=low, high=high))


def _scores(luma: Tensor, regression: Regression, table: bool) -> Tensor:
    """BRISQUE of luma (N,H,W) in levels."""
    features = torch.cat([_features(part, table) for part in portions(luma)])
    even = luma.amax(dim=(1, 2)) == luma.amin(dim=(1, 2))
    return torch.where(even, WORST, regression.predict(features))


def _features(luma: Tensor, table: bool) -> Tensor:
    return torch.cat((_features_of_scale(luma, table), _features_of_scale(half_size(luma), table)), dim=1)


def _features_of_scale(luma: Tensor, table: bool) -> Tensor:
    """18 features (N, 18): shape and variance of local contrast; of its pairs shape, mean, variance to each side."""
    sums = pair_sums(local_contrast(luma, 'zero'))
    of_pairs = fit(sums, table)
    four = (of_pairs.shape, of_pairs.mean, of_pairs.left.square(), of_pairs.right.square())
    pairs = torch.stack([f[:, 1:] for f in four], dim=2).flatten(1)
    single = torch.stack((symmetric_shape(sums, table), sums.square[:, 0] / sums.count), dim=1)
    return torch.cat((single, pairs), dim=1)


@lru_cache(maxsize=1)
def _shipped() -> Regression:
    return _read(Path(__file__).parent / 'parameters' / 'brisque_svr.npz', _from_npz)


def _read(path: Path, reader: Any) -> Any:
    if not path.is_file():
        raise MissingWeightsError(f'BRISQUE: there is no file {path}; it must hold the parameters to be used.')
    try:
        return reader(path)
    except Exception as error:  # whatever a damaged file makes of its reader
        reason = f'{type(error).__name__}: {error}'
        raise CheckpointError(f'BRISQUE: {path} does not hold the expected parameters ({reason}).') from error


def _from_npz(path: Path) -> Regression:
    with np.load(path, allow_pickle=False) as file:
        arrays = {k: torch.from_numpy(file[k].astype(np.float64)) for k in ('vectors', 'coefficients', 'low', 'high')}
        regression = Regression(**arrays, offset=float(file['offset']), gamma=float(file['gamma']))
    return _checked(path, regression)


def _from_pth(path: Path) -> tuple[Tensor, Tensor]:
    coefficients, vectors = torch.load(path, map_location='cpu', weights_only=True)
    return coefficients.double().flatten(), vectors.double()


def _from_libsvm(path: Path) -> dict[str, Any]:
    head, _, body = path.read_text(encoding='ascii').partition('SV\n')
    header = dict(line.split(maxsplit=1) for line in head.splitlines() if line.strip())
    if header['svm_type'] != 'epsilon_svr' or header['kernel_type'] != 'rbf':
        raise ValueError(f'{header["svm_type"]} with kernel {header["kernel_type"]}, not epsilon_svr with rbf')
    rows = [line.split() for line in body.splitlines() if line.strip()]
    vectors = torch.zeros(len(rows), FEATURES, dtype=torch.float64)
    for vector, row in zip(vectors, rows):
        for entry in row[1:]:
            number, value = entry.split(':')
            vector[int(number) - 1] = float(value)
    if len(rows) != int(header['total_sv']):
        raise ValueError(f'{len(rows)} support vectors instead of {header["total_sv"]}')
    coefficients = torch.tensor([float(row[0]) for row in rows], dtype=torch.float64)
    offset, gamma = float(header['rho']), float(header['gamma'])
    return {'vectors': vectors, 'coefficients': coefficients, 'offset': offset, 'gamma': gamma}


def _ranges_of(path: Path) -> tuple[Tensor, Tensor]:
    """Least and greatest value of each feature, from a range file: ``x``, ``-1 1``, then ``number least greatest``."""
    first, second, *rows = [line.split() for line in path.read_text(encoding='ascii').splitlines() if line.strip()]
    if first != ['x'] or [float(v) for v in second] != [-1, 1]:
        raise ValueError('it must begin with the lines "x" and "-1 1"')
    found = {int(number): (float(least), float(greatest)) for number, least, greatest in rows}
    low, high = torch.tensor([found[n] for n in range(1, FEATURES + 1)], dtype=torch.float64).unbind(1)
    return low, high


def _checked(path: Path, regression: Regression) -> Regression:
    count = len(regression.coefficients)
    shapes = {'vectors': (count, FEATURES), 'coefficients': (count,), 'low': (FEATURES,), 'high': (FEATURES,)}
    for name, shape in shapes.items():
        found = getattr(regression, name)
        if found.shape != shape or not found.isfinite().all():
            raise CheckpointError(
                f'BRISQUE: in {path}, {name} must be {shape} finite numbers, not {tuple(found.shape)}.'
            )
    if not (math.isfinite(regression.offset) and regression.gamma > 0 and (regression.high > regression.low).all()):
        raise CheckpointError(f'BRISQUE: in {path}, offset, gamma or ranges cannot be used.')
    return regression
