"""How easily a score is gamed: gradient ascent on the pixels of a noisy crop, watched by every other score and PSNR."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basicsr.image_io import to_tensor, write_image
from basicsr.iqa import Scorer
from benchmarks.quality_parts import better, compact, psnr_to, rounded, save, shared

STEPS, RATE = 40, 0.004  # of Adam, on pixels in [0,1]: about one level a step
CROP, SIGMA = 256, 25  # side in pixels; standard deviation of the noise in 255ths
MODES = ('raw', 'clamped')


def noisy_crop(photos: dict[str, np.ndarray], seed: int) -> tuple[Tensor, Tensor]:
    """A clean crop and the same with noise, (1,3,H,W), rounded as files are."""
    rng = np.random.default_rng((seed, 7))
    photo = photos[sorted(photos)[int(rng.integers(len(photos)))]]
    height, width = (min(CROP, n) for n in photo.shape[:2])
    top, left = (int(rng.integers(n - m + 1)) for n, m in zip(photo.shape[:2], (height, width)))
    clean = photo[top : top + height, left : left + width]
    noisy = clean + rng.standard_normal(clean.shape, np.float32) * np.float32(SIGMA / 255)
    return to_tensor(clean)[None], to_tensor(np.round(np.clip(noisy, 0, 1) * 255).astype(np.float32) / 255)[None]


def ascend(scorer: Scorer, image: Tensor, mode: str, steps: int = STEPS) -> Tensor:
    """The image after some steps of Adam that raise its score; PSNR has no say.

    Args:
        scorer: A differentiable scorer.
        image: (1,3,H,W) in [0,1].
        mode: ``raw`` follows the published score, ``clamped`` the calibrated one in [0,1], which has no gradient
            beyond its two ends.
        steps: Steps.

    Returns:
        The image, clipped to [0,1].
    """
    pixels = image.clone().requires_grad_(True)
    adam = torch.optim.Adam([pixels], RATE)
    for _ in range(steps):
        seen = pixels.clamp(0, 1)
        score = better(scorer) * scorer.raw(seen) if mode == 'raw' else scorer(seen)
        adam.zero_grad()
        (-score.sum()).backward()
        adam.step()
    return pixels.detach().clamp(0, 1)


def play(
    scorers: Sequence[Scorer], photos: dict[str, np.ndarray], seeds: int, folder: Path, pictures: Path, processes: int
) -> None:
    """Games each differentiable scorer that was not yet, and writes one JSON a scorer.

    Args:
        scorers: All scorers; every one watches.
        photos: Where crops come from.
        seeds: Crops.
        folder: Where the JSON goes.
        pictures: Where the gamed images go.
        processes: How many share the work.
    """
    watching = {s.name: s.version for s in scorers}
    settings = {'steps': STEPS, 'rate': RATE, 'sigma': SIGMA, 'crop': CROP, 'seeds': seeds, 'photos': sorted(photos)}
    for scorer in (s for s in scorers if s.differentiable):
        file = folder / f'gaming_{scorer.name}.json'
        stored = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else {}
        if stored.get('settings') == settings and stored.get('versions') == watching:
            continue
        jobs = [(mode, seed) for mode in MODES for seed in range(seeds)]

        def one(number: int, scorer: Scorer = scorer, jobs: list = jobs) -> dict[str, Any]:
            return _game(scorer, scorers, photos, *jobs[number], pictures)

        runs = shared(one, len(jobs), processes)
        directions = {s.name: better(s) for s in scorers}
        record = {'settings': settings, 'versions': watching, 'better': directions, 'scores': {}}
        record['scores'] = {f'{mode}_{seed}': run for (mode, seed), run in zip(jobs, runs)}
        save(file, compact(record))


def _game(
    scorer: Scorer, scorers: Sequence[Scorer], photos: dict[str, np.ndarray], mode: str, seed: int, pictures: Path
) -> dict[str, Any]:
    clean, noisy = noisy_crop(photos, seed)
    gamed = ascend(scorer, noisy, mode)
    gamed = (gamed * 255).round() / 255
    pictures.mkdir(parents=True, exist_ok=True)
    for title, image in (('clean', clean), ('noisy', noisy), (f'{scorer.name}_{mode}', gamed)):
        write_image(pictures / f'{seed}_{title}.png', image[0])
    states = torch.cat((clean, noisy, gamed))
    with torch.no_grad():
        found = {s.name: [rounded(v) for v in s.raw(states).tolist()] for s in scorers}
    return {'psnr': psnr_to(states, clean[0]), **found}
