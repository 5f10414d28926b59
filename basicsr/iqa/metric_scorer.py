"""Scorers without a network, on the functions of ``basicsr.metrics``: natural statistics, colour, fog."""

from __future__ import annotations

from torch import Tensor

from basicsr import __version__
from basicsr.iqa.calibrations import calibration_of
from basicsr.iqa.scorer import Scorer
from basicsr.registry import SCORER_REGISTRY


class MetricScorer(Scorer):
    """A metric of this project as a scorer.

    Args:
        name: Column of a table; None takes the type in small letters.
        low: Raw score that counts as 0; None takes the calibration that ships.
        high: Raw score that counts as 1; below ``low`` where a lower raw score is better.
    """

    def __init__(self, name: str | None = None, low: float | None = None, high: float | None = None) -> None:
        kind = type(self).__name__
        super().__init__(name or kind.lower(), calibration_of(kind, low, high), f'qualir {__version__}')
        self.eval()


@SCORER_REGISTRY.register()
class NIQE(MetricScorer):
    """Distance of local statistics from those of pristine photographs (Mittal et al., SPL 2013); lower raw is better.

    Differentiable.

    Args:
        name: Column of a table; None takes ``niqe``.
        low: Raw score that counts as 0; None takes the calibration that ships.
        high: Raw score that counts as 1.
        parameters: File with the statistics of pristine photographs; None takes those that ship.
        table: Whether it is rounded and looked up as published, gradients passing straight through, or smooth.
    """

    differentiable = True
    min_size = 96

    def __init__(
        self,
        name: str | None = None,
        low: float | None = None,
        high: float | None = None,
        parameters: str | None = None,
        table: bool = True,
    ) -> None:
        from basicsr.metrics.niqe import load_pristine

        super().__init__(name, low, high)
        self.parameters_read, self.table = load_pristine(parameters), table
        self.version += _parameters_version(parameters, table)

    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """NIQE, about 2 (pristine) to 20 and more."""
        from basicsr.metrics.niqe import niqe

        return niqe(images, self.parameters_read, table=self.table)


@SCORER_REGISTRY.register()
class BRISQUE(MetricScorer):
    """Local statistics, judged by a regression on human opinions (Mittal et al., TIP 2012); lower raw is better.

    Differentiable. It has no lower bound and is easily gamed by gradients: in an ensemble that is trained on, keep it
    out of the gradient (``grad: false``), as QualiTeacher does.

    Args:
        name: Column of a table; None takes ``brisque``.
        low: Raw score that counts as 0; None takes the calibration that ships.
        high: Raw score that counts as 1.
        parameters: File with the regression; None takes the one that ships, which is not that of the paper.
        ranges: Range file of svm-scale for ``parameters``; None looks for ``allrange`` beside it.
        table: Whether it is rounded and looked up as published, gradients passing straight through, or smooth.
    """

    differentiable = True
    min_size = 16

    def __init__(
        self,
        name: str | None = None,
        low: float | None = None,
        high: float | None = None,
        parameters: str | None = None,
        ranges: str | None = None,
        table: bool = True,
    ) -> None:
        from basicsr.metrics.brisque import load_regression

        super().__init__(name, low, high)
        self.parameters_read, self.table = load_regression(parameters, ranges), table
        self.version += _parameters_version(parameters, table)

    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """BRISQUE, about 0 (best) to 100, beyond either end now and then."""
        from basicsr.metrics.brisque import brisque

        return brisque(images, self.parameters_read, table=self.table)


@SCORER_REGISTRY.register()
class PIQE(MetricScorer):
    """Share of visibly distorted blocks (Venkatanath et al., NCC 2015), 0 to 100; lower raw is better. No gradient."""

    min_size = 32

    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """PIQE in [0, 100]."""
        from basicsr.metrics.piqe import piqe

        return piqe(images)


@SCORER_REGISTRY.register()
class UCIQE(MetricScorer):
    """Chroma, contrast and saturation of under-water images (Yang and Sowmya, TIP 2015). No gradient: it rounds."""

    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """UCIQE in the authors' form, mostly 0.3 to 0.7; higher is better."""
        from basicsr.metrics.colour import uciqe

        return uciqe(images)


@SCORER_REGISTRY.register()
class UIQM(MetricScorer):
    """Colourfulness, sharpness and contrast of under-water images (Panetta et al., JOE 2016).

    Without gradient: that of its logarithms of ratios has no bound.
    """

    min_size = 10

    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """UIQM, mostly 0 to 5; higher is better."""
        from basicsr.metrics.colour import uiqm

        return uiqm(images)


@SCORER_REGISTRY.register()
class Entropy(MetricScorer):
    """Entropy of the grey levels in bits: low in fog and in the dark, but high in noise. No gradient."""

    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """Bits in [0, 8]."""
        from basicsr.metrics.colour import entropy

        return entropy(images)


@SCORER_REGISTRY.register()
class Colourfulness(MetricScorer):
    """Colourfulness (Hasler and Suesstrunk, SPIE 2003): low in fog and in the dark. Differentiable."""

    differentiable = True

    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """Colourfulness, mostly 0 to 110; higher is more colourful."""
        from basicsr.metrics.colour import colourfulness

        return colourfulness(images)


@SCORER_REGISTRY.register()
class FADE(MetricScorer):
    """Density of fog (Choi, You and Bovik, TIP 2015); lower raw is better. No gradient."""

    min_size = 16

    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """FADE, about 0.2 (clear) to 5."""
        from basicsr.metrics.fade import fade

        return fade(images).to(images.dtype)


def _parameters_version(path: str | None, table: bool) -> str:
    """What tells scores by other parameters apart."""
    from basicsr.checkpoint import sha256

    return ('' if path is None else f' {sha256(path)[:12]}') + ('' if table else ' smooth')
