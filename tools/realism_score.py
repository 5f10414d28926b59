"""How well a small classifier tells two sets of photographs apart: a measure of how real made weather looks.

The idea is the classifier two-sample test of D. Lopez-Paz and M. Oquab, "Revisiting classifier two-sample tests", ICLR
2017: if held-out samples of two sets cannot be told apart better than by guessing, the sets are alike as far as this
classifier can see. Folds are made of whole photographs, never of crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from torch import nn

View = Literal['photo', 'texture', 'colour']
VIEWS: tuple[str, ...] = get_args(View)
CROP = {'photo': 64, 'texture': 64, 'colour': 32}  # side of what the classifier sees, in pixels
TEXTURE_SIGMA = 4.0  # of the Gaussian whose blur is taken away, in pixels
COLOUR_GRID = 16  # a colour crop keeps this many means to a side
LIMIT = 448  # longest side at which photographs are compared
QUALITY = 75  # of the JPEG compression that all go through

Photographs = dict[str, list[np.ndarray]]  # images by photograph: several if it was degraded several times


@dataclass(frozen=True)
class Effort:
    """How much is trained.

    Attributes:
        crops: Crops of each of the two sets.
        epochs: How often each crop is trained on.
        folds: Parts into which photographs are divided; each is held out once.
        batch: Crops in a step.
        rate: Highest learning rate.
    """

    crops: int = 576
    epochs: int = 6
    folds: int = 4
    batch: int = 48
    rate: float = 4e-3


def comparable(image: np.ndarray, limit: int = LIMIT, quality: int = QUALITY) -> np.ndarray:
    """Takes away what gives a set away by its files: reduces to a common longest side and compresses as JPEG.

    Args:
        image: (H,W,3) RGB uint8; a side of less than 64 pixels is enlarged to 64.
        limit: Longest side in pixels.
        quality: JPEG quality, 4:2:0.

    Returns:
        (H,W,3) RGB uint8.
    """
    height, width = image.shape[:2]
    scale = min(1.0, limit / max(height, width))
    scale = max(scale, CROP['photo'] / min(height, width))
    if scale != 1:
        size = max(CROP['photo'], round(width * scale)), max(CROP['photo'], round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    _, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def viewed(image: np.ndarray, view: str) -> np.ndarray:
    """What of an (H,W,3) uint8 photograph the classifier may see.

    Returns:
        (H,W,C) float32: ``photo`` and ``colour`` RGB in [-1,1]; ``texture`` the grey image less its blur, times 8.
    """
    if view != 'texture':
        return image.astype(np.float32) / 127.5 - 1
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return (8 * (grey - cv2.GaussianBlur(grey, (0, 0), TEXTURE_SIGMA)))[..., None]


def crop(seen: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
    """A square at a random place; for ``colour`` 1/3 to 2/3 of the short side, as a coarse grid of means."""
    height, width = seen.shape[:2]
    side = CROP[view] if view != 'colour' else int(min(height, width) * rng.uniform(1 / 3, 2 / 3))
    top, left = (int(rng.integers(n - side + 1)) for n in (height, width))
    part = seen[top : top + side, left : left + side]
    if view != 'colour':
        return part
    grid = cv2.resize(part, (COLOUR_GRID, COLOUR_GRID), interpolation=cv2.INTER_AREA)
    return cv2.resize(grid, (CROP[view], CROP[view]), interpolation=cv2.INTER_LINEAR)


def crops_of(photos: Photographs, view: str, count: int, rng: np.random.Generator) -> tuple[torch.Tensor, np.ndarray]:
    """``count`` crops in all, shared equally among the photographs.

    Returns:
        (N,C,S,S) float32, and for each the index of its photograph.
    """
    owner = np.sort(np.arange(count) % len(photos))
    cut = []
    for images, share in zip(photos.values(), np.bincount(owner)):
        seen = [viewed(image, view) for image in images]
        cut += [crop(seen[int(rng.integers(len(seen)))], view, rng) for _ in range(share)]
    return torch.from_numpy(np.stack(cut).transpose(0, 3, 1, 2).astype(np.float32, order='C')), owner


def folds_of(
    first: list[str], second: list[str], count: int, paired: bool, rng: np.random.Generator
) -> list[np.ndarray]:
    """Which fold each photograph is held out in, for both sets; equally many in each, as far as that goes.

    Args:
        first: Names of the photographs of one set.
        second: And of the other.
        count: Folds; fewer if a set has fewer photographs.
        paired: Whether photographs of the same name show the same scene and are held out together.
        rng: Draws the division.
    """
    count = min(count, len(first), len(second))
    if paired:
        scenes = sorted({*first, *second})
        fold = dict(zip(scenes, rng.permutation(np.arange(len(scenes)) % count).tolist()))
        return [np.array([fold[name] for name in names]) for names in (first, second)]
    return [rng.permutation(np.arange(len(names)) % count) for names in (first, second)]


class Judge(nn.Module):
    """A small convolutional classifier, about 50,000 parameters.

    Args:
        channels: Of its input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, 16, 32, 48, 64)
        layers: list[nn.Module] = []
        for wide, out, side in zip(widths, widths[1:], (5, 3, 3, 3)):
            layers += [nn.Conv2d(wide, out, side, 2, side // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * widths[-1], 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N,C,S,S) to (N,): above 0 speaks for the second set."""
        seen = self.body(x)
        return self.head(torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], 1))[:, 0]


def trained(x: torch.Tensor, y: torch.Tensor, effort: Effort, seed: int) -> Judge:
    """A classifier trained on crops and their labels, mirrored at random; the same seed gives the same one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(x.shape[1]).to(memory_format=torch.channels_last)  # twice as fast on a CPU
        optimizer = torch.optim.AdamW(judge.parameters(), lr=effort.rate, weight_decay=0.02)
        steps = effort.epochs * -(-len(x) // effort.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, effort.rate, total_steps=steps)
        for _ in range(effort.epochs):
            for chosen in torch.randperm(len(x)).split(effort.batch):
                mirrored = torch.where(torch.rand(len(chosen), 1, 1, 1) < 0.5, x[chosen].flip(-1), x[chosen])
                mirrored = mirrored.contiguous(memory_format=torch.channels_last)
                loss = nn.functional.binary_cross_entropy_with_logits(judge(mirrored), y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return judge.eval()


def tell_apart(
    first: Photographs, second: Photographs, view: str, seed: int, effort: Effort, paired: bool = False
) -> tuple[float, float]:
    """Trains on some photographs of two sets and judges the others, until each has been judged.

    Args:
        first: Images by photograph.
        second: The other set.
        view: What the classifier sees.
        seed: Of folds, crops and training.
        effort: How much is trained.
        paired: Whether equal names are the same scene.

    Returns:
        Balanced accuracy and area under the ROC curve over held-out crops, each the mean over folds; 0.5 is guessing.
    """
    rng = np.random.default_rng(seed)
    sets = [crops_of(photos, view, effort.crops, rng) for photos in (first, second)]
    held = folds_of(list(first), list(second), effort.folds, paired, rng)
    folds = [torch.from_numpy(h[owner]) for h, (_, owner) in zip(held, sets)]
    scores = []
    for number in range(int(folds[0].max()) + 1):
        x, y = labelled(*(crops[fold != number] for fold, (crops, _) in zip(folds, sets)))
        judge = trained(x, y, effort, seed)
        one, other = (answers(judge, crops[fold == number]) for fold, (crops, _) in zip(folds, sets))
        scores.append((((one <= 0).mean() + (other > 0).mean()) / 2, area(one, other)))
    accuracy, under = np.mean(scores, axis=0)
    return float(accuracy), float(under)


def recognise(
    clean: Photographs, synthetic: Photographs, real: Photographs, view: str, seed: int, effort: Effort
) -> tuple[float, float]:
    """Learns the weather from clean photographs and degraded copies of the same, and looks for it in real ones.

    Content decides nothing in training, since each scene is there with and without the weather.

    Args:
        clean: Images by photograph.
        synthetic: Degraded copies, under the same names.
        real: Real photographs of the weather; none is trained on.
        view: What the classifier sees.
        seed: Of folds, crops and training.
        effort: How much is trained.

    Returns:
        Area under the ROC curve of real against held-out clean crops, and of held-out degraded against held-out clean
        crops, each the mean over folds; 0.5 is guessing, 1 is all of them recognised.
    """
    rng = np.random.default_rng(seed)
    sets = [crops_of(photos, view, effort.crops, rng) for photos in (clean, synthetic)]
    unseen, _ = crops_of(real, view, effort.crops, rng)
    held = folds_of(list(clean), list(synthetic), effort.folds, True, rng)
    folds = [torch.from_numpy(h[owner]) for h, (_, owner) in zip(held, sets)]
    scores = []
    for number in range(int(folds[0].max()) + 1):
        x, y = labelled(*(crops[fold != number] for fold, (crops, _) in zip(folds, sets)))
        judge = trained(x, y, effort, seed)
        without, made = (answers(judge, crops[fold == number]) for fold, (crops, _) in zip(folds, sets))
        scores.append([area(without, found) for found in (answers(judge, unseen), made)])
    on_real, on_made = np.mean(scores, axis=0)
    return float(on_real), float(on_made)


def labelled(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops of two sets together, and their labels 0 and 1."""
    return torch.cat([first, second]), torch.cat([torch.zeros(len(first)), torch.ones(len(second))])


@torch.no_grad()
def answers(judge: Judge, crops: torch.Tensor) -> np.ndarray:
    """(N,) what a classifier says of crops."""
    return judge(crops.contiguous(memory_format=torch.channels_last)).numpy()


def area(low: np.ndarray, high: np.ndarray) -> float:
    """Area under the ROC curve: how often one of ``high`` is above one of ``low``; ties count half."""
    return float((high[:, None] > low).mean() + (high[:, None] == low).mean() / 2)


def halves(photos: Photographs, seed: int) -> tuple[Photographs, Photographs]:
    """Two random halves of a set of photographs, for the control that must come out as guessing."""
    names = list(photos)
    order = np.random.default_rng([seed, 1]).permutation(len(names))
    middle = len(names) // 2
    first, second = ([names[i] for i in sorted(part)] for part in (order[:middle], order[middle:]))
    return {n: photos[n] for n in first}, {n: photos[n] for n in second}
