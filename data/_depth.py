"""A believable depth for a photograph that comes without one: ground, sky, and things that stand, cut at their edges.

A crude form of the "photo pop-up" of D. Hoiem, A. A. Efros and M. Hebert, "Automatic photo pop-up", SIGGRAPH 2005: the
picture is cut into regions; a region stands upright at the distance of the ground under its foot, or lies on the
ground. The result is only plausible, not true; a measured or predicted depth map is better where there is one.
"""

from __future__ import annotations

import cv2
import numpy as np

from basicsr.errors import DataError

from ._fields import VIEW, smooth_noise

SMALL = 96  # longest side in pixels at which the scene is put together
REGIONS = 7  # colours that the photo is divided into
ROUNDS = 5  # iterations of k-means
STANDING = 0.8  # chance of a region to stand rather than lie
SKY_LIGHT = 0.45  # a sky is at least as bright as this, a display value, or blue and half as bright,
SKY_STEP = 0.06  # is no rougher than this from a pixel of a whole small picture to the next, a crop's less,
SKY_SHARE = 0.03  # and covers this part of the picture
EDGE = 1e-3  # variance of the brightness above which the guided filter keeps an edge


def distance_map(
    owner: object, image: np.ndarray, rng: np.random.Generator, depth: np.ndarray | None, stretch: bool = False
) -> np.ndarray:
    """The depth map that a degradation was given, or a drawn one.

    Args:
        owner: The degradation, for messages.
        image: (H,W,3) float32 RGB in [0,1].
        rng: Draws a scene if there is no map.
        depth: (H,W) float32 in [0,1], 1 is farthest; or None.
        stretch: Whether a given map is stretched so that it spans 0 to 1.

    Returns:
        (H,W) float32 in [0,1].

    Raises:
        DataError: The map is not of the image's size.
    """
    if depth is None:
        return photo_depth(rng, image)
    if depth.shape != image.shape[:2]:
        name = type(owner).__name__
        raise DataError(f'{name}: the depth map is of shape {depth.shape}, the image of {image.shape[:2]}.')
    if not stretch:
        return depth
    low, high = float(depth.min()), float(depth.max())
    return (depth - low) / max(high - low, 1e-6)


def photo_depth(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Draws the distances of a scene that suits a photograph.

    An image smaller than a photograph is taken for a window of one, as in :func:`._fields.scene_depth`.

    Args:
        rng: Draws horizon, camera, window and which regions stand.
        image: (H,W,3) float32 RGB in [0,1].

    Returns:
        (H,W) float32 in [0,1], 1 is farthest; the sky is at 1, the farthest land nearer.
    """
    height, width = image.shape[:2]
    scale = max(1.0, max(height, width) / SMALL)
    size = max(1, round(width / scale)), max(1, round(height / scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale > 1 else image
    view = max(height, width, VIEW) / scale
    sky = _sky(small, SKY_STEP * (SMALL / view) ** 0.5)
    depth = _stage(rng, small, sky, view)
    return _refine(depth, small, image)


def _stage(rng: np.random.Generator, small: np.ndarray, sky: np.ndarray, view: float) -> np.ndarray:
    """The depth of the small picture, its regions cut out with hard edges; rows are counted from its upper edge."""
    height, width = small.shape[:2]
    top, horizon = rng.uniform(0, max(view - height, 0)), rng.uniform(0.05, 0.45) * view
    horizon -= top
    if sky.any():  # the land begins where the sky ends
        horizon = float(np.median(height - np.argmax(sky[::-1], axis=0)[sky.any(axis=0)]))
    camera, land = rng.uniform(0.1, 0.6), rng.uniform(0.4, 0.9)
    rows = np.arange(height + int(view) + 1, dtype=np.float32)  # on below the picture, where regions may stand
    ground = camera / (camera + np.maximum((rows - horizon) / max(view - top - horizon, 1.0), 0))
    depth = np.repeat(ground[:height, None], width, axis=1)
    for mask, foot in _pieces(_regions(rng, small)):
        stands, below_edge, below_horizon = rng.random() < STANDING, *rng.exponential(0.3 * view, 2)
        if stands:  # its foot may lie below the picture, or be hidden if it seems to be above the horizon
            row = max(foot + below_edge * (foot >= height), horizon + below_horizon if foot < horizon else 0)
            depth[mask] = ground[min(int(row), len(ground) - 1)]
    depth *= land * np.exp(0.5 * smooth_noise(rng, height, width, max(view / 3, 2.0)))
    return np.where(sky, np.float32(1), np.clip(depth, 0, 1)).astype(np.float32, copy=False)


def _sky(small: np.ndarray, roughness: float) -> np.ndarray:
    """(h,w) bool: bright, no rougher than a limit, not reddish, and reaching the upper edge."""
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    step = cv2.blur(cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)), (3, 3))
    blue = small[..., 2] - small[..., 0]
    bright = (grey > SKY_LIGHT) & (blue > -0.04) | (grey > SKY_LIGHT / 2) & (blue > 0.15)
    likely = bright & (step < roughness)
    _, parts = cv2.connectedComponents(likely.astype(np.uint8), connectivity=4)
    reaching = np.unique(parts[0])
    sky = np.isin(parts, reaching[reaching > 0])
    if sky.mean() < SKY_SHARE:
        return np.zeros_like(sky)
    return cv2.dilate(sky.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def _regions(rng: np.random.Generator, small: np.ndarray) -> np.ndarray:
    """(h,w) uint8 labels of regions of about one colour and place, by k-means."""
    height, width = small.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32) / max(height, width)
    points = np.concatenate([small, 0.5 * x[..., None], 0.7 * y[..., None]], axis=2).reshape(-1, 5)
    centres = points[rng.integers(len(points), size=REGIONS)]
    for _ in range(ROUNDS):
        labels = np.argmin((centres**2).sum(axis=1) - 2 * points @ centres.T, axis=1)
        count = np.bincount(labels, minlength=REGIONS)
        sums = np.stack([np.bincount(labels, c, REGIONS) for c in points.T], axis=1)
        centres = np.where(count[:, None] > 0, sums / np.maximum(count, 1)[:, None], centres).astype(np.float32)
    return cv2.medianBlur(labels.reshape(height, width).astype(np.uint8), 5)


def _pieces(labels: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """The connected pieces of the regions, each as a mask with the row below its lowest pixel."""
    pieces = []
    for region in range(REGIONS):
        number, parts, stats, _ = cv2.connectedComponentsWithStats((labels == region).astype(np.uint8), connectivity=4)
        for k in range(1, number):
            if stats[k, cv2.CC_STAT_AREA] > 0.004 * labels.size:
                pieces.append((parts == k, int(stats[k, cv2.CC_STAT_TOP] + stats[k, cv2.CC_STAT_HEIGHT])))
    return pieces


def _refine(depth: np.ndarray, small: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Lays the depth on the photo's edges: the fast guided filter (K. He and J. Sun, arXiv:1505.00996, 2015)."""
    guide, window = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), (5, 5)
    mean_g, mean_d = cv2.blur(guide, window), cv2.blur(depth, window)
    slope = (cv2.blur(guide * depth, window) - mean_g * mean_d) / (cv2.blur(guide * guide, window) - mean_g**2 + EDGE)
    offset = mean_d - slope * mean_g
    size = image.shape[1], image.shape[0]
    slope, offset = (cv2.resize(cv2.blur(c, window), size, interpolation=cv2.INTER_LINEAR) for c in (slope, offset))
    return np.clip(slope * cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) + offset, 0, 1)
