"""Scorers of the package pyiqa (IQA-PyTorch, C. Chen and J. Mo), which is optional and not for commercial use."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.errors import CheckpointError, DataError, OptionError, QualIRError
from basicsr.iqa.offline import no_downloads
from basicsr.iqa.scorer import Calibration, Scorer
from basicsr.registry import SCORER_REGISTRY, nearest

OLDEST = (0, 1, 13)
# Run on PIL images, in half precision, or too large for a trial: never asked for a gradient.
WITHOUT_GRADIENT = ('qalign', 'qrealign', 'compare2score', 'fgresq')
NOT_OF_ONE_IMAGE = ('fid', 'sfid', 'fid_dinov2', 'inception_score', 'clipscore')  # of sets, or of an image and a text
PROBE = 256  # side of the image on which it is tried whether gradients arrive


@SCORER_REGISTRY.register()
class PyIQA(Scorer):
    """A no-reference metric of pyiqa, by its name there (musiq, clipiqa, topiq_nr, maniqa, liqe, hyperiqa, ...).

    Images are scored one at a time, each from the same random state, so that a score depends on nothing but its image.
    Whether gradients reach the pixels is tried when the scorer is made.

    Args:
        metric: Name in pyiqa.
        weights: File with the weights of the metric; None takes what pyiqa has downloaded before.
        low: Raw score that counts as 0; None takes the range that pyiqa publishes.
        high: Raw score that counts as 1; below ``low`` where a lower raw score is better.
        name: Column of a table; None takes ``metric``.
        download: Whether pyiqa may download weights that are not on this machine.
        align_crop_face: For topiq_nr-face*: whether the face is found and cropped first, which stops gradients.
    """

    min_size = 32

    def __init__(
        self,
        metric: str = 'musiq',
        weights: str | None = None,
        low: float | None = None,
        high: float | None = None,
        name: str | None = None,
        download: bool = False,
        align_crop_face: bool = True,
    ) -> None:
        version = check_package()
        _check_metric(metric)
        options: dict[str, Any] = {} if weights is None else {'pretrained_model_path': weights_path(metric, weights)}
        if '-face' in metric:
            options['align_crop_face'] = align_crop_face
        elif not align_crop_face:
            raise OptionError(f'PyIQA {metric}: align_crop_face belongs to topiq_nr-face and its variants.')
        asks = not metric.startswith(WITHOUT_GRADIENT) and not ('-face' in metric and align_crop_face)
        built = create_metric(metric, asks, options, download)
        super().__init__(name or metric, _calibration(metric, built, version, low, high), f'pyiqa {version} {metric}')
        if weights is not None:
            self.version += f' {_digest(options["pretrained_model_path"])}'
            check_all_taken(metric, built.net, options['pretrained_model_path'])
        self.metric = built.eval().requires_grad_(False)
        for hidden in _hidden_networks(built.net):
            hidden.eval().requires_grad_(False)
        self.eval()
        self.differentiable = asks and self._passes_gradients()

    def train(self, mode: bool = True) -> PyIQA:
        """Stays in evaluation mode, also as part of a model that is trained."""
        return super().train(False)

    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """Scores as pyiqa gives them; images are clamped to [0,1] first, which it would refuse otherwise."""
        return torch.cat([self._one(image) for image in images.clamp(0, 1).split(1)])

    def _one(self, image: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[image.device] if image.is_cuda else []):
            torch.manual_seed(0)
            with quietly():
                answer = self.metric(image)
        value = (answer[0] if isinstance(answer, tuple | list) else answer).reshape(-1)
        if value.numel() != 1:
            raise DataError(f'{self.name}: pyiqa gave {value.numel()} scores for one image.')
        return value.to(image.dtype) if torch.is_grad_enabled() else value.detach().to(image.dtype)

    def _passes_gradients(self) -> bool:
        """Whether the gradient of a trial is finite and not zero."""
        image = torch.rand(1, 3, PROBE, PROBE, generator=torch.Generator().manual_seed(0))
        smooth = nn.functional.avg_pool2d(image, 5, 1, 2).requires_grad_()
        with torch.enable_grad():
            score = self._one(smooth)
            if not score.requires_grad:
                return False
            try:
                (found,) = torch.autograd.grad(score.sum(), smooth, allow_unused=True)
            except RuntimeError:
                return False
        return found is not None and bool(found.isfinite().all() and found.abs().sum() > 0)


def check_package() -> str:
    """The version of pyiqa.

    Raises:
        OptionError: It is not installed, too old, or cannot be imported.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version('pyiqa')
    except PackageNotFoundError:
        raise OptionError(
            'PyIQA: the package pyiqa is not installed: pip install "qualir[iqa]" (its licence forbids commercial use).'
        ) from None
    if tuple(int(part) for part in re.findall(r'\d+', found)[:3]) < OLDEST:
        raise OptionError(f'PyIQA: pyiqa {found} is too old; at least {".".join(map(str, OLDEST))} is needed.')
    try:
        with quietly():
            import pyiqa  # noqa: F401
    except Exception as error:  # its dependencies fail in their own ways, RuntimeError of torchvision among them
        raise OptionError(f'PyIQA: pyiqa {found} cannot be imported: {type(error).__name__}: {error}') from error
    return found


def _check_metric(metric: str) -> None:
    import pyiqa

    known = [name for name in pyiqa.list_models(metric_mode='NR') if name not in NOT_OF_ONE_IMAGE]
    if metric in known:
        return
    if metric in pyiqa.list_models():
        raise OptionError(f"PyIQA: '{metric}' needs more than one image; a scorer has none but that.")
    near = nearest(metric, known, count=3)
    hint = f' Did you mean {" or ".join(near)}?' if near else ''
    raise OptionError(f"PyIQA: pyiqa has no metric '{metric}'.{hint} It has: {', '.join(known)}.")


def weights_path(metric: str, weights: str) -> str:
    from basicsr.weights import find_weights_file

    return str(find_weights_file([Path(weights).name], weights, f'PyIQA {metric}'))


def create_metric(metric: str, with_gradient: bool, options: dict[str, Any], download: bool) -> Any:
    """The metric of pyiqa, on the CPU.

    Raises:
        MissingWeightsError: A file that it would download.
        OptionError: It takes no weights by path.
        CheckpointError: The weights do not fit, or hold something else.
    """
    import pyiqa

    path = options.get('pretrained_model_path')
    _read(metric, path)
    loss = {'loss_reduction': 'none'} if with_gradient else {}
    guard = contextlib.nullcontext() if download else no_downloads(f'PyIQA {metric}')
    try:
        with guard, quietly():
            return pyiqa.create_metric(metric, as_loss=with_gradient, device=torch.device('cpu'), **loss, **options)
    except QualIRError:
        raise
    except TypeError as error:
        if 'pretrained_model_path' in str(error):
            raise OptionError(
                f'PyIQA {metric}: this metric of pyiqa takes no file by path; leave weights out and put its files '
                'where pyiqa looks (without them, the message names each).'
            ) from error
        raise
    except ImportError as error:
        raise OptionError(f'PyIQA {metric}: pyiqa needs another package for it: {error}.') from error
    except (RuntimeError, KeyError, ValueError) as error:
        if path is None:
            raise
        text = ' '.join(str(error).split())[:200]
        raise CheckpointError(
            f"PyIQA {metric}: '{path}' does not hold its weights: {type(error).__name__}: {text}"
        ) from error


def _read(metric: str, path: str | None) -> Any:
    """The content of a weight file, read without running code from it; None for no file or MATLAB's."""
    if path is None or path.endswith('.mat'):
        return None
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        text = str(error).splitlines()[0]
        raise CheckpointError(f"PyIQA {metric}: '{path}' is no file of weights: {text}") from error


def check_all_taken(metric: str, net: nn.Module, path: str) -> None:
    """Makes sure that every trained tensor comes from the file: some metrics load what fits and leave the rest random.

    Raises:
        CheckpointError: One does not.
    """
    content = _read(metric, path)
    if not isinstance(content, dict):
        return
    content = content.get('params', content)
    held = {str(key).removeprefix('module.'): value for key, value in content.items()}
    for name, value in net.named_parameters():
        other = held.get(name)
        if not isinstance(other, Tensor) or other.shape != value.shape or not torch.equal(other.to(value.dtype), value):
            raise CheckpointError(f"PyIQA {metric}: '{path}' holds no '{name}', so that part would be left random.")


def _digest(path: str) -> str:
    from basicsr.checkpoint import sha256

    return sha256(path)[:12]


def _calibration(metric: str, built: Any, version: str, low: float | None, high: float | None) -> Calibration:
    if (low is None) != (high is None):
        raise OptionError(f'PyIQA {metric}: low and high go together; give both, or neither for the published range.')
    if low is not None and high is not None:
        return Calibration(low, high, 'options')
    published = str(getattr(built, 'score_range', None) or '')
    ends = re.findall(r'-?\d+(?:\.\d+)?', published)
    if len(ends) != 2:
        raise OptionError(f"PyIQA {metric}: pyiqa publishes no range for it ('{published}'); give low and high.")
    worst, best = sorted(map(float, ends), reverse=bool(built.lower_better))
    return Calibration(worst, best, f"range published by pyiqa {version}: '{published}'")


def _hidden_networks(net: nn.Module) -> Iterator[nn.Module]:
    """Networks that pyiqa keeps in plain lists, out of reach of ``requires_grad_``."""
    for module in net.modules():
        for value in vars(module).values():
            yield from (v for v in value if isinstance(v, nn.Module)) if isinstance(value, list) else ()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without pyiqa's messages on the output and in the log."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
