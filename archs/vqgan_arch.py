"""The autoencoder of discrete codes for faces: VQGAN with a second book for images of high quality (IQPIR, stage I)."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor, nn

from basicsr.errors import OptionError
from basicsr.network import Site, Visit, keep
from basicsr.registry import ARCH_REGISTRY
from basicsr.schema import Range

from .vector_quantizer import CodeBooks, Fusion, HqInput
from .vqgan_blocks import Encoder, Generator

BOOK, HQ_BOOK = 'quantize.embedding.weight', 'quantize_aesthetic.embedding.weight'


@ARCH_REGISTRY.register()
class VQAutoEncoder(CodeBooks):
    """Images to codes and back: VQGAN with one book (CodeFormer) or with a second for images of high quality (IQPIR).

    IQPIR, CVPR 2026, arXiv:2603.29773, github.com/fengyang1399-pixel/IQPIR (a4408c7); CodeFormer, NeurIPS 2022,
    arXiv:2206.11253; VQGAN, CVPR 2021, arXiv:2012.09841. The layout and the keys are the released ones: 63.74 M
    parameters with one book, 64.00 M with two. A checkpoint with one book loads strictly into a network with two: the
    second then begins as a copy of the first.

    Images of any size are taken; they are padded to a multiple of the stride. A network that passes features on
    unquantised (``quantizer: none``) is for comparison.

    Args:
        img_size: Height and width of the training images, which says where attention stands.
        nf: Channels at full resolution.
        emb_dim: Channels of the features.
        ch_mult: Multiple of ``nf`` at each resolution; each is half of the one before.
        quantizer: One book, two books, or none.
        res_blocks: Residual blocks a resolution.
        attn_resolutions: Heights of features at which residual blocks are followed by attention.
        codebook_size: Entries of the common book.
        entries_hq: Entries of the high-quality book; null for as many as the common book has.
        hq_weight: Weight ``lambda`` of the high-quality book.
        hq_input: What the second book quantises: the features, as released, or what the first left over.
        fusion: How the two are joined: added, by cross attention, or by weights in space.
        beta: Weight of the second term of the quantisation loss.
        legacy_beta: Whether that term is the book's, as in the released code, or the commitment's, as published.

    Raises:
        OptionError: A fusion without two books.
    """

    pad_mode = 'reflect'
    half_precision = ()  # rounding changes the codes

    def __init__(
        self,
        img_size: Annotated[int, Range(1)] = 512,
        nf: Annotated[int, Range(1)] = 64,
        emb_dim: Annotated[int, Range(1)] = 256,
        ch_mult: list[int] = [1, 2, 2, 4, 4, 8],  # noqa: B006  (only read)
        quantizer: Literal['nearest', 'dual_codebook', 'none'] = 'dual_codebook',
        res_blocks: Annotated[int, Range(1)] = 2,
        attn_resolutions: list[int] = [16],  # noqa: B006  (only read)
        codebook_size: Annotated[int, Range(1)] = 1024,
        entries_hq: int | None = None,
        hq_weight: float = 0.8,
        hq_input: HqInput = 'shared',
        fusion: Fusion = 'add',
        beta: Annotated[float, Range(0)] = 0.25,
        legacy_beta: bool = True,
    ) -> None:
        dual = quantizer == 'dual_codebook'
        super().__init__(
            0 if quantizer == 'none' else codebook_size, emb_dim, (entries_hq or codebook_size) if dual else None,
            hq_weight, hq_input, fusion, beta, legacy_beta,
        )  # fmt: skip
        if not ch_mult:
            raise OptionError('VQAutoEncoder: ch_mult is empty; it needs a multiple for each resolution.')
        layout = (nf, emb_dim, ch_mult, res_blocks, img_size, attn_resolutions)
        self.encoder, self.generator = Encoder(*layout), Generator(*layout)
        self.multiple_of = self.min_size = 1 << (len(ch_mult) - 1)
        self._sites = {'latent': Site(emb_dim, self.multiple_of, tap=True, feature=0)}

    @property
    def sites(self) -> dict[str, Site]:
        """The features before the books."""
        return self._sites

    @property
    def last_layer(self) -> nn.Parameter:
        """Weights of the last convolution of the generator, by which the adversarial loss is balanced."""
        return self.generator.blocks[-1].weight

    def latent(self, images: Tensor) -> Tensor:
        """Features (N,emb_dim,h,w), before the books, of images (N,3,H,W) in [0,1] whose sides the stride divides."""
        return self.encoder(2 * images - 1)[0]

    def render(self, z: Tensor) -> Tensor:
        """Features (N,emb_dim,h,w) to images (N,3,H,W) in [0,1], not clipped."""
        return (self.generator(z) + 1) / 2

    def encode(self, x: Tensor, visit: Visit = keep) -> list[Tensor]:
        """The features before the books."""
        return [visit('latent', self.latent(x))]

    def decode(self, x: Tensor, features: list[Tensor], visit: Visit = keep) -> Tensor:
        """The image from its features, which go through all books."""
        return self.render(self.coded(features[0]).z)

    def convert_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a network with one book, completed where this one has two; others stay as they are."""
        return weights | with_second_book(self, weights)


def with_second_book(net: CodeBooks, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What weights with one book lack for a network with two: a copy of that book, and the fusion as it stands."""
    if len(net.book_sizes) < 2 or BOOK not in weights or HQ_BOOK in weights:
        return {}
    fusion = {key: value for key, value in net.state_dict().items() if key.startswith(('attention.', 'weightmap.'))}
    return {HQ_BOOK: weights[BOOK].clone()} | fusion
