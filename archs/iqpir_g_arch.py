"""IQPIR for images of any size and kind: a fully convolutional autoencoder of codes, and its predictor.

IQPIR (CVPR 2026, arXiv:2603.29773; github.com/fengyang1399-pixel/IQPIR, a4408c7) restores aligned faces of one size.
What it learns, two books of codes, a quality in the prediction of codes, and an optimisation over codes, needs neither.
The layout here follows FeMaSR (Chen et al., ACM MM 2022, arXiv:2202.13142) and RIDCP (Wu et al., CVPR 2023,
arXiv:2304.03994) in the large: short strides, window attention that reads codes off the degraded image, and a second
decoder for fidelity. Design, code and keys are our own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.codebooks import CodePrediction
from basicsr.errors import OptionError
from basicsr.network import Site, Visit, keep, pad_to_multiple
from basicsr.registry import ARCH_REGISTRY
from basicsr.schema import Range

from .arch_util import LayerNorm2d
from .iqpir_g_blocks import (
    Body,
    Encoder,
    FidelityDecoder,
    Generator,
    adain,
    nearness,
    reach_of_encoder,
    reach_of_generator,
)
from .score_condition import Knob, NullScore, ScoreCondition
from .vector_quantizer import CodeBooks, Fusion, HqInput

Condition = Literal['none', 'vector_add', 'fourier_film', 'adaln_zero']  # those that take images of any size

STRIDES = (2, 4, 8, 16)
STRIP = 1 << 23  # logits that exist at once where codes are chosen without keeping them
PREDICTOR = ('body', 'norm', 'logits')


@ARCH_REGISTRY.register()
class IQPIRGAutoEncoder(CodeBooks):
    """An autoencoder of codes for images of any size (stage I of IQPIR-G).

    Everything is local (:attr:`halo`), so a photograph may be coded in tiles. Features are narrowed to ``dim`` channels
    and normalised over them before the books: codes then live on a sphere of known radius, on which books of a few
    hundred entries are used well from the start (as in ViT-VQGAN, Yu et al., ICLR 2022, arXiv:2110.04627). With
    ``hq_input: residual`` the second book says what the first left out, one level of residual quantisation (Lee et
    al., CVPR 2022, arXiv:2203.01941).

    Args:
        width: Channels at full resolution.
        stride: Image pixels that a code spans, in height and width: 2, 4, 8 or 16.
        ch_mult: Channels of every level as multiples of ``width``, from full resolution down; null doubles them.
        blocks: Residual blocks of every level, from full resolution down, in the encoder; null: one at the lowest two.
        decoder_blocks: The same of the generator; null is as in the encoder.
        dim: Channels of the codes.
        entries: Entries of the common book.
        entries_hq: Entries of the high-quality book; null for one book only.
        hq_weight: Weight of the high-quality book, lambda.
        hq_input: What the second book quantises: the features, as published, or what the first left over.
        fusion: How the books are joined: their sum, attention, or a learned map of weights.
        beta: Weight of the second term of the quantisation loss.
        legacy_beta: Whether that term moves the book, as in the released code, or the features, as published.
        scale: Root mean square to which features are normalised over their channels before the books, which sets how
            much quantisation losses weigh beside the others; 0 leaves features as they are.

    Raises:
        OptionError: A stride, or numbers of levels, that do not go together.
    """

    pad_mode = 'reflect'
    half_precision = ()  # a code is chosen or not, and rounding changes the choice

    def __init__(
        self, width: Annotated[int, Range(1)] = 32, stride: Annotated[int, Range(2)] = 4,
        ch_mult: list[int] | None = None, blocks: list[int] | None = None, decoder_blocks: list[int] | None = None,
        dim: Annotated[int, Range(1)] = 8, entries: Annotated[int, Range(1)] = 512, entries_hq: int | None = 512,
        hq_weight: float = 0.8, hq_input: HqInput = 'residual', fusion: Fusion = 'add', beta: float = 0.25,
        legacy_beta: bool = True, scale: Annotated[float, Range(0)] = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(entries, dim, entries_hq, hq_weight, hq_input, fusion, beta, legacy_beta)
        levels = _levels(stride)
        self.stride, self.scale = stride, scale
        self.widths = [width * m for m in _by_level('ch_mult', ch_mult, [1 << n for n in range(levels)])]
        self.blocks = _by_level('blocks', blocks, [0] * (levels - 2) + [1, 1])
        self.decoder_blocks = _by_level('decoder_blocks', decoder_blocks, self.blocks)
        self.encoder = Encoder(self.widths, self.blocks)
        self.before_quant = nn.Conv2d(self.widths[-1], dim, 1)
        self.generator = Generator(dim, self.widths, self.decoder_blocks)
        for book, spread in zip(self.books, (1.0, 1.0 if hq_input == 'shared' else 0.5)):
            nn.init.normal_(book.embedding.weight, 0, spread * (scale or 0.1))

    @property
    def multiple_of(self) -> int:  # type: ignore[override]
        """The stride."""
        return self.stride

    @property
    def halo(self) -> int | None:  # type: ignore[override]
        """How far an output pixel sees; None with ``fusion: attention``, which sees the whole image."""
        if self.fusion == 'attention':
            return None
        return reach_of_encoder(self.blocks) + self._reach_of_generator() + self.stride - 1

    def _reach_of_generator(self) -> int:
        return reach_of_generator(self.decoder_blocks)

    @property
    def sites(self) -> dict[str, Site]:
        """Levels of the encoder, from full resolution down, and of the generator, up again."""
        lowest = len(self.widths) - 1
        taps = {f'encoder.{n}': Site(w, 1 << n, True, -1 if n == lowest else None) for n, w in enumerate(self.widths)}
        return taps | {f'generator.{n}': Site(w, 1 << (lowest - n)) for n, w in enumerate(self.widths[::-1])}

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution of the generator, for the adaptive weight of an adversarial loss."""
        return self.generator.last.weight

    def encode(self, x: Tensor, visit: Visit = keep) -> list[Tensor]:
        """Features of a padded image, one map a level, from full resolution down."""
        return self.encoder(2 * x - 1, visit)

    def decode(self, x: Tensor, features: list[Tensor], visit: Visit = keep) -> Tensor:
        """The image that the codes of the lowest level's features stand for; ``x`` is not looked at."""
        return self._image(self.coded(self._narrowed(features[-1])).z, visit)

    def latent(self, images: Tensor) -> Tensor:
        """Features (N,dim,h,w) of images of any size before the books; padded to a multiple of the stride."""
        return self._narrowed(self.encode(pad_to_multiple(images, self.stride, self.pad_mode))[-1])

    def render(self, z: Tensor) -> Tensor:
        """Features of codes (N,dim,h,w) to images (N,3,h*stride,w*stride) in [0,1], not clipped."""
        return self._image(z)

    def _narrowed(self, feature: Tensor) -> Tensor:
        """The lowest level's features, as wide as the codes and normalised."""
        y = self.before_quant(feature)
        if not self.scale:
            return y
        return self.scale * F.layer_norm(y.permute(0, 2, 3, 1), y.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)

    def _image(self, z: Tensor, visit: Visit = keep) -> Tensor:
        return (self.generator(z / (self.scale or 1.0), visit) + 1) / 2


@ARCH_REGISTRY.register()
class IQPIRG(IQPIRGAutoEncoder):
    """Restores images of any size by reading codes off them for a wished quality (stages II and III of IQPIR-G).

    The encoder begins as the autoencoder's (:meth:`adopt`, or its checkpoint, which loads here too). A score of the
    quality enters its lowest features, blocks of window attention look around, and a head says which entries of the
    books are meant; the autoencoder's generator, which no longer learns, draws them. A second decoder
    (:class:`~basicsr.archs.iqpir_g_blocks.FidelityDecoder`), off at ``w`` of 0, brings back what codes cannot hold.

    An output pixel sees a bounded part of the image (:attr:`halo`), and windows lie on a grid of :attr:`multiple_of`,
    on which the tiler cuts. So a photograph may be restored in tiles that equal the whole but for rounding. In
    evaluation codes are chosen in strips, and the logits of a whole tile never exist at once.

    Attributes:
        score: The knob: the score where a call gives none; None for no score. Not saved.
        guidance: ``g`` of ``l_none + g (l_score - l_none)`` for the logits in evaluation (classifier-free guidance, Ho
            and Salimans, arXiv:2207.12598). Not saved. Logits are an affine map of what the head is given, or, where
            ``choose`` is ``nearest``, equal up to a constant the distances to it, so that is what is extrapolated.
        w: Weight of the second decoder. Not saved.
        adain: Whether features of codes get the statistics of the encoder's, over the whole image. Not saved.

    Args:
        condition: How a score enters: see :class:`~basicsr.archs.score_condition.ScoreCondition`.
        bins: Bins into which scores are sorted (``vector_add``, ``adaln_zero``).
        edges: Scores at which the next bin begins; null for bins of equal width.
        scores: Scores of each image.
        null: What an image without a score gets: nothing, or what is learned.
        zero_init: Whether the effect of every score begins at zero.
        frequencies: Sines, and cosines, that describe a score (``fourier_film``); with few its effect is smooth.
        body: What looks around: windows of attention, or convolutions, which are faster on a CPU.
        depth: Blocks of the body.
        heads: Heads of the attention.
        window: Side of a window in codes, even.
        choose: Whether a classifier or the distance to the entries chooses codes; then the features that are compared
            come from behind the body, as in FeMaSR, and otherwise from in front of it.
        residual_decoder: Whether there is a second decoder.
        w: Weight of the second decoder.
        adain: Whether statistics are adapted, as with aligned faces; tiles then no longer equal the whole.
        autoencoder: What :class:`IQPIRGAutoEncoder` takes.

    Raises:
        OptionError: A condition for images of one size, or numbers that do not go together.
    """

    def __init__(
        self, condition: Condition = 'fourier_film', bins: Annotated[int, Range(1)] = 10,
        edges: list[float] | None = None, scores: Annotated[int, Range(1)] = 1, null: NullScore = 'zero',
        zero_init: bool = True, frequencies: Annotated[int, Range(1)] = 8, body: Literal['swin', 'conv'] = 'swin',
        depth: Annotated[int, Range(0)] = 4, heads: Annotated[int, Range(1)] = 4, window: Annotated[int, Range(2)] = 8,
        choose: Literal['classifier', 'nearest'] = 'classifier', residual_decoder: bool = True, w: float = 0.0,
        adain: bool = False, **autoencoder: Any,
    ) -> None:  # fmt: skip
        super().__init__(**autoencoder)
        channels = self.widths[-1]
        _check_body(condition, body, channels, heads, window)
        self.choose, self.window = choose, window if body == 'swin' else 1
        self.score: float | None = 1.0
        self.guidance, self.w, self.adain = 1.0, w, adain
        self.takes_scores, self.takes_fidelity = condition != 'none', residual_decoder  # which knobs there are
        self.score_embed = ScoreCondition(
            channels, condition, bins, edges, scores, None, depth, 'zero' if zero_init else 'normal', null, frequencies
        )
        self.body = Body(body, channels, depth, heads, window)
        if choose == 'classifier':
            self.norm = LayerNorm2d(channels)
            self.logits = nn.ModuleList(nn.Conv2d(channels, size, 1) for size in self.book_sizes)
        if residual_decoder:
            self.fidelity = FidelityDecoder(self.widths, self.decoder_blocks)

    @property
    def residual_decoder(self) -> bool:
        """Whether there is a second decoder."""
        return hasattr(self, 'fidelity')

    @property
    def multiple_of(self) -> int:  # type: ignore[override]
        """Stride times window, so that tiles share the grid of windows."""
        return self.stride * self.window

    @property
    def halo(self) -> int | None:  # type: ignore[override]
        """How far an output pixel sees at most; None where statistics of the whole image enter."""
        local = None if self.adain else super().halo
        return None if local is None else local + self.stride * self.body.reach

    def _reach_of_generator(self) -> int:
        return reach_of_generator(self.decoder_blocks, self.decoder_blocks if self.residual_decoder else None)

    # ---- restoring -------------------------------------------------------------------------------------------------

    def forward(self, inp: Tensor, visit: Visit = keep, score: Knob = 'knob') -> Tensor:
        """Restores images.

        Args:
            inp: (N,3,H,W) in [0,1], of any size.
            visit: Reads or changes features at the :attr:`sites`.
            score: The quality wished of each image, (N,) or (N,M) with NaN for none, or of all; None for none; by
                default that of the knob.

        Returns:
            (N,3,H,W) in [0,1], not clipped.

        Raises:
            DataError: There are not as many scores as images.
        """
        height, width = inp.shape[-2:]
        return self._restored(self.encode(self.pad(inp), visit), score, visit)[..., :height, :width]

    def decode(self, x: Tensor, features: list[Tensor], visit: Visit = keep) -> Tensor:
        """The restored image from features at the score of the knob; ``x`` is not looked at."""
        return self._restored(features, 'knob', visit)

    def predict(self, images: Tensor, score: Knob = 'knob') -> CodePrediction:
        """Reads codes off images (N,3,H,W) in [0,1], padded to a multiple of the stride, as the autoencoder's are.

        Raises:
            DataError: There are not as many scores as images.
        """
        features = self.encode(pad_to_multiple(images, self.stride, self.pad_mode))
        head, compared = self._read(features[-1], score)
        return CodePrediction(self._logits(head), compared, self._by_stride(features))

    def render(self, z: Tensor, prediction: CodePrediction | None = None) -> Tensor:
        """Features of codes (N,dim,h,w) to images (N,3,h*stride,w*stride) in [0,1], not clipped.

        Args:
            z: The features.
            prediction: Gives the features that ``adain`` and ``w`` need; without it the generator draws alone.

        Raises:
            OptionError: ``w`` is not 0, and there is no second decoder.
        """
        if prediction is None:
            return self._image(z)
        return self._drawn(z, prediction.features, prediction.skips)

    def _restored(self, features: list[Tensor], score: Knob, visit: Visit) -> Tensor:
        head, compared = self._read(features[-1], score)
        return self._drawn(self.embed(self._codes(head)), compared, self._by_stride(features), visit)

    def _drawn(self, z: Tensor, compared: Tensor, skips: dict[int, Tensor], visit: Visit = keep) -> Tensor:
        """The picture of the generator, and of the second decoder where it is on."""
        if self.adain:
            z = adain(z, compared)
        if self.w == 0:
            return self._image(z, visit)
        if not self.residual_decoder:
            raise OptionError(f'IQPIRG: w is {self.w}, but there is no second decoder; set residual_decoder: true.')
        drawn = self.generator.features(z / (self.scale or 1.0), visit)
        lowest_first = [skips[stride] for stride in sorted(skips, reverse=True)]
        return (self.generator.image(drawn[-1]) + self.w * self.fidelity(drawn, lowest_first) + 1) / 2

    def _by_stride(self, features: list[Tensor]) -> dict[int, Tensor]:
        return {1 << level: feature for level, feature in enumerate(features)}

    # ---- reading codes ---------------------------------------------------------------------------------------------

    def _read(self, latent: Tensor, score: Knob) -> tuple[Tensor, Tensor]:
        """What the head chooses by (N,C,h,w), guidance included, and the features that codes shall match."""
        wished = self.score if isinstance(score, str) else score
        found = self.score_embed.scores_of(wished, latent.shape[0], latent.device)
        head, compared = self._looked(latent, found)
        if self.training or self.guidance == 1 or found is None:
            return head, compared
        without, _ = self._looked(latent, None)
        return without + self.guidance * (head - without), compared

    def _looked(self, latent: Tensor, score: Tensor | None) -> tuple[Tensor, Tensor]:
        y = self.score_embed(latent, score)
        seen = self.body(y, self.score_embed.modulation(score, y.shape[0]))
        if self.choose == 'nearest':
            features = self._narrowed(seen)
            return features, features
        return self.norm(seen), self._narrowed(y)

    def _logits(self, head: Tensor) -> tuple[Tensor, ...]:
        """For each book (N,n,h,w): of the classifier, or distances, squared and negative, in units of the scale."""
        if self.choose == 'classifier':
            return tuple(layer(head) for layer in self.logits)
        found, rest = [], head
        for book in self.books:
            found.append(nearness(rest / (self.scale or 1.0), book.embedding.weight / (self.scale or 1.0)))
            if self.hq_input == 'residual':
                rest = rest - book.lookup(found[-1].argmax(1)).detach()
        return tuple(found)

    def _codes(self, head: Tensor) -> Tensor:
        """The likeliest codes (N,K,h,w), chosen in strips of rows, for logits take much memory."""
        per_row = head.shape[0] * head.shape[3] * sum(self.book_sizes)
        strips = head.split(max(1, STRIP // per_row), dim=2)
        return torch.cat([torch.stack([x.argmax(1) for x in self._logits(strip)], 1) for strip in strips], 2)

    # ---- learning --------------------------------------------------------------------------------------------------

    def adopt(self, autoencoder: nn.Module) -> None:
        """Takes books, generator and, as a start, encoder of an autoencoder of the same layout.

        Raises:
            OptionError: It has another layout.
        """
        given, own = autoencoder.state_dict(), self.state_dict()
        own = {key: value for key, value in own.items() if not _is_own(key)}
        for key in dict.fromkeys((*own, *given)):
            here, there = (tuple(d[key].shape) if key in d else None for d in (own, given))
            if here != there:
                raise OptionError(
                    f"IQPIRG cannot adopt this {type(autoencoder).__name__}: '{key}' is {there or 'missing'} there and "
                    f'{here or "missing"} here.'
                )
        for key in ('stride', 'scale', 'hq_input'):
            here, there = getattr(self, key), getattr(autoencoder, key, None)
            if here != there:
                raise OptionError(
                    f'IQPIRG cannot adopt this {type(autoencoder).__name__}: {key} is {there}, not {here}.'
                )
        self.load_state_dict(given, strict=False)

    def set_stage(self, stage: str) -> None:
        """Says which parameters learn; books and generator never do.

        Args:
            stage: ``codes``: encoder, condition, body and head. ``fidelity``: the second decoder only, so that codes
                and the picture at ``w`` of 0 stay as they are; it learns where ``w`` is above 0.

        Raises:
            OptionError: Another stage, or ``fidelity`` without a second decoder.
        """
        if stage not in ('codes', 'fidelity'):
            raise OptionError(f"IQPIRG has the stages codes and fidelity, not '{stage}'.")
        if stage == 'fidelity' and not self.residual_decoder:
            raise OptionError('IQPIRG: stage fidelity needs a second decoder; set residual_decoder: true.')
        self.requires_grad_(False)
        learning = ('fidelity',) if stage == 'fidelity' else ('encoder', 'before_quant', *PREDICTOR, 'score_embed')
        for name in learning:
            if hasattr(self, name):
                getattr(self, name).requires_grad_(True)

    def convert_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of this network, or of the autoencoder alone; what the file knows nothing of stays as it is here.

        That is the predictor (body and head), the condition, and the second decoder, each as a whole.
        """
        own = self.state_dict()
        for part in (PREDICTOR, ('score_embed',), ('fidelity',)):
            if not any(key.split('.')[0] in part for key in weights):
                weights = weights | {key: value for key, value in own.items() if key.split('.')[0] in part}
        return weights


def _levels(stride: int) -> int:
    """Levels of a network of a stride.

    Raises:
        OptionError: It is no power of two.
    """
    if stride not in STRIDES:
        raise OptionError(f'A network of codes has a stride of {", ".join(map(str, STRIDES))}, not {stride}.')
    return stride.bit_length()


def _by_level(key: str, given: list[int] | None, default: list[int]) -> list[int]:
    """A list with one number a level.

    Raises:
        OptionError: It has more or fewer, or a negative number.
    """
    found = list(default if given is None else given)
    if len(found) != len(default) or min(found) < 0 or (key == 'ch_mult' and 0 in found):
        least = 1 if key == 'ch_mult' else 0
        raise OptionError(f'{key} needs {len(default)} whole numbers of at least {least}, one a level, not {found}.')
    return found


def _check_body(condition: str, body: str, channels: int, heads: int, window: int) -> None:
    if condition == 'adaln_zero' and body != 'swin':
        raise OptionError('IQPIRG: condition adaln_zero moves layers of attention and needs body: swin.')
    if body == 'swin' and (channels % heads or window % 2):
        raise OptionError(
            f'IQPIRG: {heads} heads must divide the {channels} channels of the lowest level, and a window of {window} '
            'must be even.'
        )


def _is_own(key: str) -> bool:
    """Whether a key belongs to what the predictor has beyond the autoencoder."""
    return key.split('.')[0] in (*PREDICTOR, 'score_embed', 'fidelity')
