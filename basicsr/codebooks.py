"""What networks of discrete codes and the methods that train them tell each other.

Such a network comes in two kinds. An *autoencoder* turns an image into a map of codes and back; its books are learned.
A *predictor* holds the books and the generator of an autoencoder and reads the codes off a degraded image. Both render
codes into images in the same way, so a method never asks which architecture it trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True)
class Quantized:
    """Features that went through the books.

    Attributes:
        z: (N,C,h,w), what the generator sees; its gradient reaches the features unchanged (straight through).
        codes: (N,K,h,w) int64, an entry of each of the K books at every place; the common book comes first.
        loss: (N,K), quantisation loss of each image and book, before any mask.
    """

    z: Tensor
    codes: Tensor
    loss: Tensor


@dataclass(frozen=True)
class CodePrediction:
    """What a predictor reads off degraded images.

    Attributes:
        logits: For each of the K books (N,n,h,w) over its n entries; the common book comes first.
        features: (N,C,h,w), the encoder's features with the score in them, which the codes shall match.
        skips: Features of the encoder by their stride, for networks whose generator may take them.
        images: The degraded images (N,3,H,W), where the generator is to see them.
    """

    logits: tuple[Tensor, ...]
    features: Tensor
    skips: dict[int, Tensor] = field(default_factory=dict)
    images: Tensor | None = None

    @property
    def codes(self) -> Tensor:
        """The likeliest codes, (N,K,h,w) int64."""
        import torch

        return torch.stack([each.argmax(1) for each in self.logits], dim=1)


@runtime_checkable
class Renders(Protocol):
    """What both kinds can do."""

    book_sizes: tuple[int, ...]

    def embed(self, codes: Tensor, hq_mask: Tensor | None = None) -> Tensor:
        """Codes (N,K,h,w) to the features (N,C,h,w) they stand for, books fused; ``hq_mask`` (N,) as in ``coded``."""
        ...

    def embed_weights(self, weights: Sequence[Tensor], hq_mask: Tensor | None = None) -> Tensor:
        """As ``embed`` for weights (N,n,h,w) over the entries of each book: one-hot weights give the same features."""
        ...


class CodeAutoEncoder(Renders, Protocol):
    """Images in [0,1] to codes and back (stage I). ``forward`` reconstructs: (N,3,H,W) to the same."""

    last_layer: nn.Parameter

    def latent(self, images: Tensor) -> Tensor:
        """Features (N,C,h,w) before the books."""
        ...

    def coded(self, latent: Tensor, hq_mask: Tensor | None = None) -> Quantized:
        """Quantises; ``hq_mask`` (N,), 1 where the image is good enough for the second book; None: all are."""
        ...

    def render(self, z: Tensor) -> Tensor:
        """Features to images, in [0,1] but not clipped."""
        ...


class CodePredictor(Renders, Protocol):
    """Degraded images and a wished quality to codes (stages II and III). ``forward`` restores: (N,3,H,W) to the same.

    ``score`` and ``guidance`` are the knobs of :class:`~basicsr.archs.quality_conditioned_arch.QualityConditioned`.
    """

    score: float | None
    guidance: float

    def predict(self, images: Tensor, score: Tensor | float | None) -> CodePrediction:
        """Reads codes off images (N,3,H,W) in [0,1]; ``score`` (N,), (N,M), one number, or None for no wish."""
        ...

    def render(self, z: Tensor, prediction: CodePrediction) -> Tensor:
        """Features to images, in [0,1] but not clipped; ``prediction`` gives the skips where they are on."""
        ...

    def adopt(self, autoencoder: nn.Module) -> None:
        """Takes books, generator and, as a start, encoder of an autoencoder of the same layout."""
        ...

    def set_stage(self, stage: str) -> None:
        """Which parameters learn: ``codes`` (encoder, predictor, condition; stage II) or ``fidelity`` (stage III)."""
        ...
