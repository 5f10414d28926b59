"""CKDN as a scorer: a restored image is judged by the degraded image that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from torch import Tensor, nn

from basicsr import checkpoint
from basicsr.errors import CheckpointError, OptionError
from basicsr.iqa.scorer import Calibration, Scorer
from basicsr.registry import ARCH_REGISTRY, SCORER_REGISTRY, build
from basicsr.schema import Block
from basicsr.weights import find_weights_file

FILES = ('CKDN_model_best-38b27dc6.pth', 'model_best.pth.tar')  # as pyiqa and as the release call them
SOURCE = 'the release (github.com/researchmm/CKDN) or pyiqa (github.com/chaofengc/IQA-PyTorch), release v0.1-weights'

PUBLISHED = {'type': 'CKDN'}


@SCORER_REGISTRY.register()
class CKDNScorer(Scorer):
    """Judges restored images beside the degraded ones, without a clean reference (Zheng et al., ICCV 2021).

    Differentiable. CKDN sees the centre of an image at a fixed size, so that the borders of a long image do not count.

    Args:
        name: Column of a table; None takes ``ckdn``.
        low: Raw score that counts as 0; raw scores lie within 0 and 1.
        high: Raw score that counts as 1.
        weights: Weight file of the release, of pyiqa or of this project; None looks for the first two in the folder
            that QUALIR_WEIGHTS names, in ~/.cache/qualir/weights and where pyiqa downloads to.
        network: Block of the network, which must have ``score(restored, reference)``; None takes the one that the
            weight file names, as files of this project do, or else ``{type: CKDN}``.

    Raises:
        MissingWeightsError: The weights are not on this machine.
        CheckpointError: The weights are of another network.
        OptionError: The network compares nothing.
    """

    differentiable = True
    needs_degraded = True
    min_size = 32

    def __init__(
        self,
        name: str | None = None,
        low: float = 0.0,
        high: float = 1.0,
        weights: str | None = None,
        network: Annotated[dict, Block('arch')] | None = None,
    ) -> None:
        file = _weights_file(weights)
        calibration = Calibration(low, high, 'a probability' if (low, high) == (0, 1) else 'options')
        net, block = _loaded(file, network)
        told = ', '.join(str(v) for k, v in block.items() if k != 'type')
        version = f'{block["type"]}{f" ({told})" if told else ""} {checkpoint.sha256(file)[:12]}'
        super().__init__(name or 'ckdn', calibration, version)
        self.net = net
        self.eval().requires_grad_(False)

    def raw(self, images: Tensor, degraded: Tensor | None = None) -> Tensor:
        """The score by the degraded reference, within 0 and 1; a pristine reference may stand in its place."""
        dtype = next(self.net.parameters()).dtype
        return self.net.score(images.to(dtype), degraded.to(dtype))


def _weights_file(given: str | None) -> Path:
    from basicsr.options import find_file

    return find_weights_file(FILES, None if given is None else str(find_file(given)), 'CKDNScorer', SOURCE)


def _loaded(file: Path, block: dict[str, Any] | None) -> tuple[nn.Module, dict[str, Any]]:
    """The network with all its weights, and its block.

    Raises:
        CheckpointError: The file is of another network, or only of its backbone.
        OptionError: The network compares nothing.
    """
    ARCH_REGISTRY.get(PUBLISHED['type'])  # imported before the file is read: it says what the release's may hold
    block = block or checkpoint.read(file).get('network_g') or PUBLISHED
    net = build(ARCH_REGISTRY, block)
    if not callable(getattr(net, 'score', None)):
        raise OptionError(f'CKDNScorer: {type(net).__name__} has no score(restored, reference).')
    loaded = checkpoint.load_weights(net, file)
    if loaded.fresh:
        raise CheckpointError(
            f'CKDNScorer: {file} holds a backbone to start training from, not a trained judge: {loaded.fresh} tensors '
            'of the network would be random.'
        )
    return net, block
