"""How networks of the study of QualiTeacher are judged: by what they train on, held-out scores, PSNR on pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from basicsr import checkpoint
from basicsr.archs import build_network
from basicsr.errors import CheckpointError, OptionError
from basicsr.evaluation import open_restorer
from basicsr.image_io import read_image, to_tensor
from basicsr.iqa import Scorer
from basicsr.iqa.ensemble_scorer import raw_scores
from basicsr.iqa.loading import load_scorer
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.sections import ValOptions
from benchmarks.qualiteacher_data import Photos
from benchmarks.quality_parts import better, rounded
from benchmarks.quality_scores import scorers

ROOT = Path(__file__).resolve().parents[1]
TRAINED_ON = ROOT / 'options/iqa/adapt.yml'
TRAINED = 'trained_on'  # column of the ensemble itself
HELD_OUT = {  # task: scorers beside CNNIQA that no run is trained on
    'haze': ('NIQE', 'PIQE', 'FADE', 'UCIQE'),
    'low_light': ('NIQE', 'PIQE', 'Entropy', 'UCIQE'),
    'underwater': ('NIQE', 'PIQE', 'UIQM', 'UCIQE'),
    'rain': ('NIQE', 'PIQE'),
}
LEVELS = tuple(i / 10 for i in range(11))  # of the knob
GUIDANCE = (1.0,)  # the networks are not trained for guidance (drop_score)
Scores = dict[str, list[float]]


class Judges:
    """What is trained on, and scorers that are held out.

    Args:
        held_out: Types of the scorers that are held out, such as those of a task in :data:`HELD_OUT`.
        weights: Folder of published weights, for CNNIQA; None leaves it out.
    """

    def __init__(self, held_out: Sequence[str], weights: Path | None) -> None:
        self.trained = load_scorer(str(TRAINED_ON))
        self.held_out, _ = scorers([{'type': t} for t in held_out], weights)

    @property
    def single(self) -> list[Scorer]:
        """The members of what is trained on, then the held-out scorers."""
        return [*self.trained.members().values(), *self.held_out]

    @property
    def facts(self) -> dict[str, Any]:
        """What a result says of the scorers: versions, direction, and which were held out."""
        return {
            'versions': {s.name: s.version for s in self.single},
            'better': {TRAINED: 1, **{s.name: better(s) for s in self.single}, 'psnr': 1, 'ssim': 1},
            'held_out': [s.name for s in self.held_out],
        }

    @torch.no_grad()
    def scores(self, image: Tensor) -> dict[str, float]:
        """Scores of an image (1,3,H,W): raw ones, and in [0,1] what is trained on."""
        raw = raw_scores(self.trained, image)
        found = {TRAINED: self.trained.combine(raw), **raw, **{s.name: s.checked_raw(image) for s in self.held_out}}
        return {name: rounded(float(value)) for name, value in found.items()}


class Network:
    """A network with its weights, which restores whole photographs on one thread.

    Args:
        file: Its weight file; the moving average is taken.

    Raises:
        CheckpointError: It does not exist, is damaged or does not say which network it is.
    """

    def __init__(self, file: Path) -> None:
        block = checkpoint.read(file).get('network_g')
        if not isinstance(block, dict):
            raise CheckpointError(f"'{file}' does not say which network it is.")
        self.net: nn.Module = build_network(block)
        checkpoint.load_network(self.net, file)
        self.net.eval()

    @property
    def conditioned(self) -> bool:
        """Whether it takes a quality."""
        return hasattr(self.net, 'guidance')

    def set(self, score: float, guidance: float = 1.0) -> None:
        """Turns the knob.

        Raises:
            OptionError: The network has none.
        """
        if not self.conditioned:
            raise OptionError(f'{type(self.net).__name__} takes no quality score.')
        self.net.score, self.net.guidance = score, guidance

    def levels(self) -> list[float]:
        """What each of :data:`LEVELS` amounts to; equal values have an equal effect."""
        return [rounded(v) for v in self.net.condition.levels(torch.tensor(LEVELS)).tolist()]

    @torch.inference_mode()
    def restore(self, images: Iterable[Tensor]) -> list[Tensor]:
        """Restored images (1,3,H,W), rounded to 8 bits as a file would hold them."""
        with open_restorer(self.net, 'cpu', ValOptions()) as restorer:
            return [as_stored(restorer(image)) for image in images]


def as_stored(image: Tensor) -> Tensor:
    """An image with the 256 levels of a file."""
    return image.float().clamp(0, 1).mul(255).round().div(255)


def read(file: Path) -> Tensor:
    """An image file as (1,3,H,W)."""
    return to_tensor(read_image(file)).unsqueeze(0)


def measure(network: Network | None, photos: Photos, judges: Judges) -> dict[str, Scores]:
    """Scores of all test photographs, in the order of ``photos``.

    Args:
        network: The network, at the top of its knob; None scores the degraded photographs.
        photos: The photographs.
        judges: The scorers.

    Returns:
        For ``real`` and ``pairs`` a list for each score; pairs have ``psnr`` (dB, RGB) and ``ssim`` too.
    """
    if network is not None and network.conditioned:
        network.set(1.0)
    real = [judges.scores(_seen(network, file)) for file in photos.real.values()]
    pairs = []
    for degraded, clean in photos.pairs.values():
        image, wanted = _seen(network, degraded), read(clean)
        distance = {'psnr': float(calculate_psnr(image, wanted)), 'ssim': float(calculate_ssim(image, wanted))}
        pairs.append({**judges.scores(image), **{k: rounded(v) for k, v in distance.items()}})
    return {'real': columns(real), 'pairs': columns(pairs)}


def measure_clean(photos: Photos, judges: Judges) -> Scores:
    """Scores of the clean sides of the pairs."""
    return columns([judges.scores(read(clean)) for _, clean in photos.pairs.values()])


def sweep(network: Network, photos: Photos, judges: Judges) -> dict[str, Any]:
    """Scores of the real test photographs at every level of the knob.

    Returns:
        ``levels``: what the requested levels amount to, each once. ``scores``: by guidance, one entry a level, a list
        for each score. ``moved``: by guidance, how far the outputs at both ends of the knob lie apart, in levels of 8
        bits, for each photograph. ``psnr``: of the test pairs without guidance, at either end.
    """
    wanted = {effect: level for level, effect in zip(LEVELS, network.levels())}  # the last that has this effect
    found: dict[str, Any] = {'levels': list(wanted), 'scores': {}, 'moved': {}}
    files = list(photos.real.values())
    for guidance in GUIDANCE:
        rows: list[list[dict[str, float]]] = [[] for _ in wanted]
        moved = []
        for file in files:
            outputs = []
            for row, level in zip(rows, wanted.values()):
                network.set(level, guidance)
                outputs.append(_seen(network, file))
                row.append(judges.scores(outputs[-1]))
            moved.append(rounded(float((outputs[-1] - outputs[0]).abs().mean()) * 255))
        found['scores'][f'{guidance:g}'] = [columns(row) for row in rows]
        found['moved'][f'{guidance:g}'] = moved
    ends = list(wanted.values())
    found['psnr'] = [_distances(network, photos, level) for level in (ends[0], ends[-1])]
    network.set(1.0)
    return found


def _distances(network: Network, photos: Photos, level: float) -> list[float]:
    """PSNR of the test pairs at a level of the knob."""
    network.set(level)
    return [rounded(float(calculate_psnr(_seen(network, lq), read(gt)))) for lq, gt in photos.pairs.values()]


def columns(rows: Sequence[dict[str, float]]) -> Scores:
    """A list for each score from the scores of each image."""
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _seen(network: Network | None, file: Path) -> Tensor:
    image = read(file)
    return image if network is None else network.restore([image])[0]
