"""How far scores agree with opinions: correlations over all images, and within each scene.

A scorer that knows only which scene is hard, and nothing of its restorations, does well over all images; within scenes
it is found out. CKDN's release reports the mean over scenes of SRCC and PLCC, the latter without a fitted curve.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from basicsr.errors import DataError
from basicsr.iqa.scorer import Scorer


@dataclass(frozen=True)
class Agreement:
    """Correlations of scores with opinions, 1 for perfect agreement.

    Attributes:
        srcc: Spearman's, of ranks.
        plcc: Pearson's, of the values as they are.
        krcc: Kendall's tau-b, of pairs.
        images: How many images.
        scenes: Of how many scenes this is the mean; None where all images were taken together.
    """

    srcc: float
    plcc: float
    krcc: float
    images: int
    scenes: int | None = None

    def record(self) -> dict[str, Any]:
        """As plain containers."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        over = f'{self.images} images' if self.scenes is None else f'mean of {self.scenes} scenes'
        return f'SRCC {self.srcc:.4f}, PLCC {self.plcc:.4f}, KRCC {self.krcc:.4f} ({over})'


def pooled(scores: Sequence[float], opinions: Sequence[float]) -> Agreement:
    """Agreement over all images; scores or opinions that are all alike agree with nothing, 0.

    Raises:
        DataError: Unlike numbers of both, fewer than two, or one that is not finite.
    """
    from scipy.stats import kendalltau, pearsonr, spearmanr  # only here: it takes its time to import

    x, y = (np.asarray(values, dtype=np.float64) for values in (scores, opinions))
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError(
            f'Agreement: {x.size} scores and {y.size} opinions; it takes two images or more, each with a finite score '
            'and a finite opinion.'
        )
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Agreement(0.0, 0.0, 0.0, len(x))
    with warnings.catch_warnings():  # of values that hardly differ, which scipy calls nearly constant
        warnings.simplefilter('ignore')
        found = [float(test(x, y).statistic) for test in (spearmanr, pearsonr, kendalltau)]
    return Agreement(*found, len(x))


def per_scene(scores: Sequence[float], opinions: Sequence[float], scenes: Sequence[Hashable]) -> Agreement:
    """Mean of the agreement within each scene.

    Raises:
        DataError: As :func:`pooled`; a scene with a single image.
    """
    if len(scenes) != len(scores):
        raise DataError(f'Agreement: {len(scores)} scores and {len(scenes)} names of scenes.')
    places: dict[Hashable, list[int]] = {}
    for place, scene in enumerate(scenes):
        places.setdefault(scene, []).append(place)
    if alone := [scene for scene, own in places.items() if len(own) < 2]:
        raise DataError(f"Agreement: scene '{alone[0]}' has one image, in which nothing can be ranked.")
    each = [pooled([scores[i] for i in own], [opinions[i] for i in own]) for own in places.values()]
    means = [float(np.mean([getattr(a, key) for a in each])) for key in ('srcc', 'plcc', 'krcc')]
    return Agreement(*means, len(scores), len(each))


def agreement(
    scores: Sequence[float], opinions: Sequence[float], scenes: Sequence[Hashable] | None = None
) -> dict[str, Agreement]:
    """``pooled`` and, where scenes are named, ``per_scene``.

    Raises:
        DataError: As :func:`pooled` and :func:`per_scene`.
    """
    found = {'pooled': pooled(scores, opinions)}
    return found if scenes is None else {**found, 'per_scene': per_scene(scores, opinions, scenes)}


@torch.no_grad()
def agreement_on(scorer: Scorer, dataset: Dataset) -> dict[str, Agreement]:
    """How far a scorer agrees with the opinions of a data set, such as PIPALDataset in phase ``val``.

    Raw scores are compared, turned round where a lower one is better: those in [0,1] may be alike at the ends.

    Args:
        scorer: Any scorer or ensemble, on the device where it is to work.
        dataset: Samples with ``restored`` and, for scorers that need it, ``lq``, (3,H,W) each, with ``score``, the
            opinion, and with ``source``, the scene.

    Raises:
        DataError: As :func:`agreement`; an image that cannot be read or scored.
    """
    device = next((t.device for t in (*scorer.parameters(), *scorer.buffers())), torch.device('cpu'))
    better = 1 if scorer.calibration.high > scorer.calibration.low else -1
    scores, opinions, scenes = [], [], []
    for index in range(len(dataset)):  # type: ignore[arg-type]
        sample = dataset[index]
        restored, degraded = (sample[key][None].to(device) for key in ('restored', 'lq'))
        scores.append(better * scorer.checked_raw(restored, degraded).item())
        opinions.append(float(sample['score']))
        scenes.append(sample['source'])
    return agreement(scores, opinions, scenes)
