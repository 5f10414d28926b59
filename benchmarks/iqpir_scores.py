"""How the networks of the study of IQPIR are measured: reconstruction, restoration, the knob."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.codebooks import CodeAutoEncoder
from basicsr.data import build_block
from basicsr.image_io import list_images
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.network import pad_to_multiple
from benchmarks.iqpir_data import TEST_SIDE, Collection
from benchmarks.qualiteacher_data import Photos, photos_of, spread_out
from benchmarks.qualiteacher_scores import HELD_OUT, Judges, Network, as_stored, columns, measure, read
from benchmarks.quality_parts import rounded

REAL = {'haze': 6, 'low_light': 6, 'underwater': 6, 'rain': 6}  # real photographs of each task that are judged
PAIRS = 8  # real pairs of each task
SYNTHETIC = ('Haze', 'Rain', 'Snow', 'LowLight', 'Underwater')
SHOWN = 10  # unseen photographs under each synthetic degradation
KNOB = tuple(round(0.05 + 0.1 * n, 2) for n in range(10))
EVERYWHERE = ('NIQE', 'PIQE')  # held out where no task is known


class Uncoded(nn.Module):
    """A predictor of codes whose generator sees the features themselves, as the judge's mode ``continuous`` trains it.

    Args:
        net: The predictor, whose knobs are those of this network.
    """

    score: float | None = 1.0
    guidance = 1.0

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Maps (N,3,H,W) to the same shape, at the score of the knob."""
        found = self.net.predict(images, self.score)
        return self.net.render(found.features, found)[..., : images.shape[-2], : images.shape[-1]]


def measure_autoencoder(file: Path, photos: Collection) -> dict[str, Any]:
    """Reconstruction of unseen photographs, and which share of each book they use.

    Returns:
        ``psnr`` and ``ssim`` by photograph (RGB, 8 bits), and ``usage``: by book, the share of its entries that occur
        in the codes of all of them.
    """
    net: CodeAutoEncoder = Network(file).net  # type: ignore[assignment]
    rows, used = [], [torch.zeros(n, dtype=torch.bool) for n in net.book_sizes]
    with torch.inference_mode():
        for name in list_images(photos.test):
            image = read(name)
            seen = as_stored(net(image))
            rows.append(_distances(seen, image))
            codes = net.coded(net.latent(pad_to_multiple(image, net.multiple_of, 'reflect'))).codes
            for book, code in zip(used, codes.unbind(1)):
                book[code.flatten()] = True
    return {**columns(rows), 'usage': [rounded(float(u.float().mean())) for u in used]}


def measure_restoration(
    file: Path | None, photos: Collection, data: Path, work: Path, weights: Path | None, uncoded: bool = False
) -> Any:  # fmt: skip
    """Scores of restored real photographs, real pairs and unseen photographs under synthetic degradations, by task.

    Args:
        file: Weights of the network, at the top of its knob; None scores the degraded photographs.
        photos: The unseen photographs.
        data: Folder of real photographs.
        work: Folder of the study.
        weights: Folder of published weights, for CNNIQA.
        uncoded: Whether the generator sees features instead of codes.
    """
    network = None if file is None else Network(file)
    if network is not None and uncoded:
        network.net = Uncoded(network.net).eval()
    found = {}
    for task in REAL:
        found[task] = measure(network, fewer(photos_of(task, data, work), task), Judges(HELD_OUT[task], weights))
    judges = Judges(EVERYWHERE, weights)
    for kind in SYNTHETIC:
        found[f'synthetic_{kind}'] = _on_pairs(network, synthetic(photos, kind), judges)
    return found


def directions(weights: Path | None) -> dict[str, int]:
    """By score, 1 if higher is better and -1 if lower is."""
    found: dict[str, int] = {}
    for names in (*HELD_OUT.values(), EVERYWHERE):
        found |= Judges(names, weights).facts['better']
    return found


def fewer(photos: Photos, task: str) -> Photos:
    """Some of a task's photographs, evenly spread."""
    parts = {'real': REAL[task], 'pairs': PAIRS}
    kept = {}
    for part, count in parts.items():
        items = list(getattr(photos, part).items())
        kept[part] = dict(items[i] for i in sorted(spread_out(len(items), count)))
    return replace(photos, **kept)


def synthetic(photos: Collection, kind: str) -> list[tuple[Tensor, Tensor]]:
    """Unseen photographs under a degradation, and clean, (1,3,H,W) each; always the same."""
    block = {
        'type': 'OnlineDegradationDataset', 'dataroot_gt': str(photos.test), 'degradations': [{'type': kind}],
        'val_size': TEST_SIDE,
    }  # fmt: skip
    dataset = build_block(block, 'val')
    samples = [dataset[i] for i in sorted(spread_out(len(dataset), SHOWN))]
    return [(s['lq'].unsqueeze(0), s['gt'].unsqueeze(0)) for s in samples]


def sweep(file: Path, data: Path, work: Path, weights: Path | None) -> dict[str, Any]:
    """Scores of the real photographs at every level of the knob: by task, one entry a level, a list for each score."""
    network, found = Network(file), {}
    for task in REAL:
        judges, files = Judges(HELD_OUT[task], weights), fewer(photos_of(task, data, work), task).real.values()
        levels = []
        for level in KNOB:
            network.set(level)
            levels.append(columns([judges.scores(network.restore([read(f)])[0]) for f in files]))
        found[task] = levels
    return {'levels': list(KNOB), 'scores': found}


def _on_pairs(network: Network | None, pairs: list[tuple[Tensor, Tensor]], judges: Judges) -> dict[str, Any]:
    rows = []
    if network is not None and network.conditioned:
        network.set(1.0)
    for degraded, clean in pairs:
        image = degraded if network is None else network.restore([degraded])[0]
        rows.append({**judges.scores(image), **_distances(image, clean)})
    return columns(rows)


def _distances(image: Tensor, wanted: Tensor) -> dict[str, float]:
    return {
        'psnr': rounded(float(calculate_psnr(image, wanted))),
        'ssim': rounded(float(calculate_ssim(image, wanted))),
    }
