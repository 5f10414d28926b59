"""Codes of a face, read off a degraded image by a transformer that knows the wished quality (IQPIR, stages II, III)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.codebooks import CodePrediction
from basicsr.errors import CheckpointError, DataError, OptionError
from basicsr.network import Site, Visit, keep
from basicsr.registry import ARCH_REGISTRY
from basicsr.schema import Range

from .score_condition import Knob, NullScore, ScoreCondition, ScoreInit, ScoreMode, guided
from .vector_quantizer import CodeBooks, Fusion, HqInput
from .vqgan_arch import with_second_book
from .vqgan_blocks import Encoder, FuseSft, Generator, adain

BOOKS = ('quantize', 'quantize_aesthetic', 'attention', 'weightmap')
HEAD = 'idx_pred_layer.1.weight'
OF_STAGE_ONE = (*BOOKS, 'encoder', 'generator')


class TransformerLayer(nn.Module):
    """Self-attention and two linear layers, each behind a normalisation and added to the tokens.

    Positions are added to what asks and is asked, not to what is answered.

    Args:
        dim: Width of the tokens.
        heads: Heads of the attention.
        hidden: Width between the linear layers.
    """

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, position: Tensor, hidden: Tensor | None = None, change: Tensor | None = None
    ) -> Tensor:
        """Maps tokens to tokens.

        Args:
            x: (N,L,dim).
            position: (L,dim).
            hidden: (N,L) bool, the tokens that none may look at.
            change: (N,6,1,dim), :meth:`~basicsr.archs.score_condition.ScoreCondition.modulation`.
        """
        first, second = (None, None) if change is None else (change[:, :3], change[:, 3:])
        y = _shifted(self.norm1(x), first)
        asked = y + position
        x = x + _gated(self.self_attn(asked, asked, y, key_padding_mask=hidden, need_weights=False)[0], first)
        y = _shifted(self.norm2(x), second)
        return x + _gated(self.linear2(F.gelu(self.linear1(y))), second)


def _shifted(x: Tensor, change: Tensor | None) -> Tensor:
    return x if change is None else x * (1 + change[:, 1]) + change[:, 0]


def _gated(x: Tensor, change: Tensor | None) -> Tensor:
    return x if change is None else x * (1 + change[:, 2])


@ARCH_REGISTRY.register()
class IQPIRFormer(CodeBooks):
    """IQPIR's network for aligned faces: a transformer predicts the codes of a clean image of the wished quality.

    CVPR 2026, arXiv:2603.29773, github.com/fengyang1399-pixel/IQPIR (a4408c7), on top of CodeFormer (NeurIPS 2022,
    arXiv:2206.11253). The layout and the keys are the released ones, 95.55 M parameters by default; with ``quantizer:
    nearest``, ``score_mode: none`` it is CodeFormer, 94.11 M.

    Strictly loaded are its own checkpoints; those of IQPIR; those of CodeFormer, whose books and predictions serve both
    books while the score has no effect, so that with ``hq_weight`` 0 it is CodeFormer (``token`` is near to it only);
    and those of a :class:`~basicsr.archs.vqgan_arch.VQAutoEncoder`, where all else stays as it began.

    Images have one size, ``img_size``.

    Attributes:
        score: The knob: the quality of every image where a call gives none, 0 to 1; None for no wish. Not saved.
        guidance: ``g`` of ``l + g (l_score - l)`` for the logits in evaluation mode, ``l`` being those without a score;
            1 is plain. Not saved.
        hq_weight: As the argument; may be set at any time. Not saved.
        w: As the argument; may be set at any time. Not saved.
        adain: As the argument; may be set at any time. Not saved.

    Args:
        img_size: Height and width of the images.
        nf: Channels at full resolution.
        emb_dim: Channels of the features.
        ch_mult: Multiple of ``nf`` at each resolution; each is half of the one before.
        res_blocks: Residual blocks a resolution.
        attn_resolutions: Heights of features at which residual blocks are followed by attention.
        codebook_size: Entries of each book.
        quantizer: One book, or two.
        hq_weight: Weight ``lambda`` of the high-quality book.
        hq_input: What the second book quantises, as in the autoencoder: the features, or what the first left over.
        fusion: How the two are joined, as in the autoencoder: added, by cross attention, or by weights in space.
        dim_embd: Width of the transformer; its linear layers are twice as wide.
        n_head: Heads of its attention.
        n_layers: Its layers.
        connect_list: Heights of features at which those of the encoder may enter the generator.
        w: How much of them enters, from 0, the most quality, to 1, the most fidelity.
        adain: Whether, in evaluation mode, the features get mean and deviation of those of the degraded image.
        score_mode: How the wished quality enters; see :class:`~basicsr.archs.score_condition.ScoreCondition`.
        bins: Rows of the table of scores.
        edges: Scores at which the next bin begins, increasing, one less than bins; null for bins of equal width.
        scores: Scores of each image.
        score_init: Whether the effect of scores begins at random or at zero; null takes what is usual for the mode.
        null_score: What an image without a score gets: nothing, or a vector that is learned.

    Raises:
        OptionError: A height in ``connect_list`` that the network has not, or arguments that do not go together.
    """

    half_precision = ()  # rounding changes the codes

    def __init__(
        self,
        img_size: Annotated[int, Range(1)] = 512,
        nf: Annotated[int, Range(1)] = 64,
        emb_dim: Annotated[int, Range(1)] = 256,
        ch_mult: list[int] = [1, 2, 2, 4, 4, 8],  # noqa: B006  (only read)
        res_blocks: Annotated[int, Range(1)] = 2,
        attn_resolutions: list[int] = [16],  # noqa: B006  (only read)
        codebook_size: Annotated[int, Range(1)] = 1024,
        quantizer: Literal['nearest', 'dual_codebook'] = 'dual_codebook',
        hq_weight: float = 0.8,
        hq_input: HqInput = 'shared',
        fusion: Fusion = 'add',
        dim_embd: Annotated[int, Range(1)] = 512,
        n_head: Annotated[int, Range(1)] = 8,
        n_layers: Annotated[int, Range(1)] = 9,
        connect_list: list[int | str] = [32, 64, 128, 256],  # noqa: B006  (only read)
        w: float = 0.0,
        adain: bool = True,
        score_mode: ScoreMode = 'spatial_add',
        bins: Annotated[int, Range(1)] = 10,
        edges: list[float] | None = None,
        scores: Annotated[int, Range(1)] = 1,
        score_init: ScoreInit | None = None,
        null_score: NullScore = 'zero',
    ) -> None:
        books = 2 if quantizer == 'dual_codebook' else 1
        entries_hq = codebook_size if books == 2 else None
        super().__init__(codebook_size, emb_dim, entries_hq, hq_weight, hq_input, fusion)
        self._side = _latent_side(img_size, len(ch_mult))
        layout = (nf, emb_dim, ch_mult, res_blocks, img_size, attn_resolutions)
        self.encoder, self.generator = Encoder(*layout), Generator(*layout)
        self.img_size, self.multiple_of = img_size, img_size // self._side  # another size is refused, not padded
        self._add_transformer(emb_dim, dim_embd, n_head, n_layers, codebook_size * books)
        width = dim_embd if score_mode in ('adaln_zero', 'token') else emb_dim
        size = (self._side, self._side)
        self.score_embed = ScoreCondition(
            width, score_mode, bins, edges, scores, size, n_layers, score_init, null_score
        )  # fmt: skip
        self._strides = _strides(connect_list, img_size, self.encoder.taps)
        self.fuse_convs_dict = nn.ModuleDict(
            {str(img_size // stride): FuseSft(self.encoder.widths[stride]) for stride in self._strides}
        )
        self.w, self.adain = w, adain
        self.score: float | None = 1.0
        self.guidance = 1.0
        self.takes_scores, self.takes_fidelity = score_mode != 'none', bool(self._strides)  # which knobs there are

    def _add_transformer(self, emb_dim: int, dim: int, heads: int, layers: int, rows: int) -> None:
        self.position_emb = nn.Parameter(torch.zeros(self._side**2, dim))
        self.feat_emb = nn.Linear(emb_dim, dim)
        self.ft_layers = nn.ModuleList(TransformerLayer(dim, heads, 2 * dim) for _ in range(layers))
        self.idx_pred_layer = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, rows, bias=False))

    # ---- restoring -------------------------------------------------------------------------------------------------

    @property
    def sites(self) -> dict[str, Site]:
        """Features of the encoder at the heights of ``connect_list``, then those before the score, ``latent``."""
        widths, last = self.encoder.widths, len(self._strides)
        found = {f'encoder.{s}': Site(widths[s], s, tap=True, feature=n) for n, s in enumerate(self._strides)}
        stride = self.img_size // self._side
        return found | {'latent': Site(self.feat_emb.in_features, stride, tap=True, feature=last)}

    def encode(self, x: Tensor, visit: Visit = keep) -> list[Tensor]:
        """Features of images (N,3,H,W) in [0,1]: those of ``connect_list``, from the finest, and last the latent ones.

        Raises:
            DataError: The images are not of the network's size.
        """
        if x.shape[-2:] != (self.img_size, self.img_size):
            raise DataError(
                f'IQPIRFormer takes images of {self.img_size} x {self.img_size} only, not {x.shape[-2]} x '
                f'{x.shape[-1]}.'
            )
        latent, skips = self.encoder(2 * x - 1, self._strides)
        found = [visit(f'encoder.{stride}', skips[stride].detach()) for stride in self._strides]
        return [*found, visit('latent', latent)]

    def decode(self, x: Tensor, features: list[Tensor], visit: Visit = keep, score: Knob = 'knob') -> Tensor:
        """The restored image from the features of :meth:`encode`."""
        prediction = self._read(features, score)
        return self.render(self.embed(prediction.codes), prediction)

    def forward(self, inp: Tensor, visit: Visit = keep, score: Knob = 'knob') -> Tensor:
        """Restores images.

        Args:
            inp: (N,3,H,W) in [0,1].
            visit: Reads or changes features at the :attr:`sites`.
            score: The quality wished of each image, (N,) or (N,M) with NaN for none, or of all; None for none; by
                default that of the knob.

        Returns:
            (N,3,H,W) in [0,1], not clipped.

        Raises:
            DataError: The images are not of the network's size, or there are not as many scores as it takes.
        """
        return self.decode(inp, self.encode(inp, visit), visit, score)

    def predict(self, images: Tensor, score: Knob = 'knob') -> CodePrediction:
        """Reads codes off images (N,3,H,W) in [0,1]; ``score`` and errors as in :meth:`forward`."""
        return self._read(self.encode(images), score)

    def render(self, z: Tensor, prediction: CodePrediction) -> Tensor:
        """Features (N,emb_dim,h,w) to images (N,3,H,W) in [0,1], not clipped; ``w`` and ``adain`` say how."""
        if self.adain and not self.training:
            z = adain(z, prediction.features)
        fuse = {stride: self.fuse_convs_dict[str(self.img_size // stride)] for stride in self._strides if self.w > 0}
        return (self.generator(z, fuse, prediction.skips, self.w) + 1) / 2

    def _read(self, features: list[Tensor], score: Knob) -> CodePrediction:
        """Codes from the features of :meth:`encode`."""
        *skips, latent = features
        wished = self.score if isinstance(score, str) else score
        given = self.score_embed.scores_of(wished, latent.shape[0], latent.device)
        seen = self.score_embed(latent, given)
        logits = self._logits(seen, given)
        if given is not None and self.guidance != 1 and not self.training:
            logits = guided(logits, self._logits(self.score_embed(latent, None), None), self.guidance)
        return CodePrediction(logits, seen, dict(zip(self._strides, skips)))

    def _logits(self, features: Tensor, score: Tensor | None) -> tuple[Tensor, ...]:
        """Logits (N,n,h,w) of each book from features with the score in them, and the scores (N,M) once more."""
        count, places = features.shape[0], self._side**2
        tokens, position, hidden = self.feat_emb(features.flatten(2).transpose(1, 2)), self.position_emb, None
        if told := self.score_embed.token(score, count):
            row, there = told
            tokens, position = torch.cat((row.to(tokens.dtype), tokens), 1), F.pad(position, (0, 0, 1, 0))
            hidden = F.pad(~there[:, None], (0, places))
        changes = self.score_embed.modulation(score, count) or [None] * len(self.ft_layers)
        for layer, change in zip(self.ft_layers, changes):
            tokens = layer(tokens, position, hidden, change)
        logits = self.idx_pred_layer(tokens[:, -places:]).transpose(1, 2)
        if len(self.book_sizes) == 2:  # released order of the rows: 2n is entry n of the high-quality book
            return tuple(logits[:, row::2].reshape(count, -1, self._side, self._side) for row in (1, 0))
        return (logits.reshape(count, -1, self._side, self._side),)

    # ---- training and checkpoints ----------------------------------------------------------------------------------

    def set_stage(self, stage: str) -> None:
        """Which parameters learn: all but books, generator and, in stage ``codes``, what joins skips to it.

        Raises:
            OptionError: The stage is neither ``codes`` nor ``fidelity``.
        """
        if stage not in ('codes', 'fidelity'):
            raise OptionError(f"IQPIRFormer has the stages codes and fidelity, not '{stage}'.")
        still = {*BOOKS, 'generator'} | ({'fuse_convs_dict'} if stage == 'codes' else set())
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.partition('.')[0] not in still)

    def adopt(self, autoencoder: nn.Module) -> None:
        """Takes books, generator and encoder of an autoencoder of the same layout.

        Raises:
            CheckpointError: The layouts differ.
        """
        taken = dict(autoencoder.state_dict())
        weights, own = self.convert_weights(taken), self.state_dict()
        if wrong := sorted(k for k in own.keys() | weights.keys() if _shape(own, k) != _shape(weights, k)):
            raise CheckpointError(
                f'IQPIRFormer cannot take over {type(autoencoder).__name__}: {wrong[0]} is '
                f'{_shape(weights, wrong[0])} there and {_shape(own, wrong[0])} here.'
            )
        self.load_state_dict(weights)

    def convert_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of CodeFormer, IQPIR or an autoencoder as this network has them; see the class.

        What may be missing is missing as a whole; a file that lacks single tensors stays incomplete.
        """
        own = self.state_dict()
        parts = {key.partition('.')[0] for key in weights}
        added = with_second_book(self, weights)
        if 'idx_pred_layer' in parts:
            fresh = {'fuse_convs_dict'} - parts
            added |= {} if 'score_embed' in parts else self.score_embed.neutral_state('score_embed.')
            head = weights.get(HEAD)
            if head is not None and 2 * head.shape[0] == own[HEAD].shape[0]:
                added[HEAD] = head.repeat_interleave(2, 0)
        else:
            fresh = {key.partition('.')[0] for key in own} - set(OF_STAGE_ONE)
        return weights | added | {key: value for key, value in own.items() if key.partition('.')[0] in fresh}


def _latent_side(img_size: int, levels: int) -> int:
    """Height of the features.

    Raises:
        OptionError: There are no levels, or the stride does not divide the images.
    """
    stride = 1 << (levels - 1) if levels else 0
    if not stride or img_size % stride:
        raise OptionError(f'IQPIRFormer: {levels} resolutions in ch_mult need an img_size that {stride} divides.')
    return img_size // stride


def _strides(heights: list[int | str], img_size: int, taps: dict[int, int]) -> tuple[int, ...]:
    """Strides of the features of some heights, from the finest.

    Raises:
        OptionError: There are no features of a height.
    """
    known = {str(img_size // stride): stride for stride in taps}
    for height in heights:
        if str(height) not in known:
            raise OptionError(f'IQPIRFormer: connect_list has {height}; there are features of {", ".join(known)}.')
    return tuple(sorted({known[str(height)] for height in heights}))


def _shape(weights: dict[str, Tensor], key: str) -> str:
    return str(list(weights[key].shape)) if key in weights else 'missing'
