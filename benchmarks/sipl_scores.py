"""How the networks of the study of SIPL are measured: restoration on every test set, and iteration by iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from basicsr.iqa import Scorer
from basicsr.metrics import calculate_psnr, calculate_ssim
from benchmarks.iqpir_scores import REAL, SYNTHETIC, fewer, synthetic
from benchmarks.qualiteacher_data import photos_of
from benchmarks.qualiteacher_scores import Network, Scores, as_stored, columns, read
from benchmarks.quality_parts import rounded
from benchmarks.quality_scores import scorers
from benchmarks.sipl_data import Clean
from benchmarks.sipl_runs import Run, new_model

HELD_OUT = ('NIQE', 'PIQE')  # scores without a reference that no run is trained on
HELD_OUT_STEPS = ('NIQE',)
STEPS = 4  # iterations of self-refinement that are followed
FED = {'fixed': False, 'refed': True}  # whether an iteration takes the output before for the degraded image
Pairs = list[tuple[Tensor, Tensor]]


def test_sets(photos: Clean, data: Path, work: Path) -> Iterator[tuple[str, Pairs]]:
    """By name, pairs of degraded and clean images (1,3,H,W): unseen photographs under each degradation, real pairs.

    Args:
        photos: The clean photographs.
        data: Folder of real photographs.
        work: Folder of the study.
    """
    for kind in SYNTHETIC:
        yield f'synthetic_{kind}', synthetic(photos, kind)  # type: ignore[arg-type]  (asks for the folder 'test' alone)
    for task in REAL:
        files = fewer(photos_of(task, data, work), task).pairs.values()
        yield task, [(read(degraded), read(clean)) for degraded, clean in files]


def measure(file: Path | None, photos: Clean, data: Path, work: Path) -> dict[str, dict[str, Scores]]:
    """Scores of restored images, by pass and test set a list for each score.

    Args:
        file: Weights of the network; None scores the degraded images.
        photos: The clean photographs.
        data: Folder of real photographs.
        work: Folder of the study.

    Returns:
        ``degraded``; or ``plain``, and ``refined`` (one iteration) of a network that improves on its own output.
    """
    passes, judges, found = _passes(file), _judges(HELD_OUT), {}
    for name, pairs in test_sets(photos, data, work):
        for which, restore in passes.items():
            rows = [_scores(restore(degraded), clean, judges) for degraded, clean in pairs]
            found.setdefault(which, {})[name] = columns(rows)
    return found


def measure_steps(file: Path, photos: Clean, data: Path, work: Path) -> dict[str, dict[str, list[Scores]]]:
    """Scores of the plain pass and after each of :data:`STEPS` iterations, whether the output is fed in again or not.

    Returns:
        By :data:`FED` and test set one entry a step, a list for each score.
    """
    net, judges, found = Network(file).net, _judges(HELD_OUT_STEPS), {}
    for name, pairs in test_sets(photos, data, work):
        for which, refeed in FED.items():
            net.refeed = refeed
            rows = [[_scores(as_stored(i), clean, judges) for i in _steps(net, degraded)] for degraded, clean in pairs]
            found.setdefault(which, {})[name] = [columns(step) for step in zip(*rows)]
    return found


def moves(run: Run) -> dict[str, Any]:
    """How far training has moved each dictionary, and all other weights, in root mean squares.

    Returns:
        ``dictionaries``, one a level, empty without them, and ``others``.
    """
    before, after = new_model(run.variant, run.seed).net_g, Network(run.weights).net
    own = {id(d) for d in getattr(before, 'dictionaries', [])}
    change = [(id(a) in own, (b - a).detach().square()) for a, b in zip(before.parameters(), after.parameters())]
    others = torch.cat([c.flatten() for is_own, c in change if not is_own])
    dictionaries = [rounded(float(c.mean().sqrt())) for is_own, c in change if is_own]
    return {'dictionaries': dictionaries, 'others': rounded(float(others.mean().sqrt()))}


def _passes(file: Path | None) -> dict[str, Callable[[Tensor], Tensor]]:
    """By name, what makes a restored image of a degraded one."""
    if file is None:
        return {'degraded': lambda image: image}
    network = Network(file)

    def refined(iterations: int) -> Callable[[Tensor], Tensor]:
        def restore(image: Tensor) -> Tensor:
            network.net.refine = iterations
            return network.restore([image])[0]

        return restore

    if hasattr(network.net, 'privilege'):
        return {'plain': refined(0), 'refined': refined(1)}
    return {'plain': lambda image: network.restore([image])[0]}


@torch.inference_mode()
def _steps(net: Any, image: Tensor) -> list[Tensor]:
    return net.steps(image, STEPS)


def _judges(types: tuple[str, ...]) -> list[Scorer]:
    return scorers([{'type': t} for t in types], None)[0]


@torch.no_grad()
def _scores(image: Tensor, clean: Tensor, judges: list[Scorer]) -> dict[str, float]:
    found = {
        'psnr': calculate_psnr(image, clean), 'ssim': calculate_ssim(image, clean),
        **{s.name: s.checked_raw(image) for s in judges},
    }  # fmt: skip
    return {name: rounded(float(value)) for name, value in found.items()}
