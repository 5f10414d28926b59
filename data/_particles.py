"""Falling particles seen through an exposure: rain streaks, snow flakes, drops on the lens.

All lengths are pixels of a photograph of about ``VIEW`` rows. Particles are spread over more than the image, so that a
crop looks like a crop: none is thinned out, heaped up or cut short at the border.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ._fields import VIEW, Span, clouds, scene_depth, three

_FWHM = 2 * math.sqrt(2 * math.log(2))  # full width at half maximum of a Gaussian, in standard deviations
_LENS = 0.5  # standard deviation in pixels of what a sharp lens and the pixel grid blur
_SPLAT = 1 / 6  # mean variance in square pixels of sharing a point among four pixels
_CHUNK = 500_000  # pixels of flakes that are worked on at a time


def scatter(height: int, width: int, x: np.ndarray, y: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Adds points to an empty image, each shared among its four nearest pixels.

    Args:
        height: Rows.
        width: Columns.
        x: Columns of the points, pixel centres at whole numbers; points outside are left out.
        y: Rows of the points.
        value: What each point adds in all.

    Returns:
        (height,width) float32.
    """
    x, y = x + np.float32(1), y + np.float32(1)  # the canvas has a border of one; compare after this is rounded
    inside = (x > 0) & (x < width + 1) & (y > 0) & (y < height + 1)
    x, y, value = x[inside], y[inside], value[inside]
    column, row = x.astype(np.int32), y.astype(np.int32)
    right, below = x - column, y - row
    stride, size = width + 2, (height + 2) * (width + 2)
    index = row * stride + column
    lower = value * below
    upper = value - lower
    total = np.zeros(size)
    for step, part in ((0, upper - upper * right), (1, upper * right), (stride, lower - lower * right)):
        total += np.bincount(index + step, part, size)
    total += np.bincount(index + (stride + 1), lower * right, size)
    return total.reshape(height + 2, stride)[1:-1, 1:-1].astype(np.float32)


def draw_streaks(
    shape: tuple[int, int],
    x: np.ndarray,
    y: np.ndarray,
    length: np.ndarray,
    angle: np.ndarray,
    value: np.ndarray,
    taper: np.ndarray,
    width: float,
    blur: float = 0.0,
    flicker: float = 0.0,
    phase: np.ndarray | None = None,
) -> np.ndarray:
    """Straight streaks with soft ends and a Gaussian profile across.

    Args:
        shape: Rows and columns.
        x: (n,) columns of the middles.
        y: (n,) rows of the middles.
        length: (n,) lengths in pixels, from end to end.
        angle: (n,) directions in degrees from straight down, positive to the right.
        value: (n,) brightness of each along its middle.
        taper: (n,) part of the half length, in (0,1], over which a streak fades out at either end.
        width: Full width at half maximum in pixels. Below a pixel or so a streak fades rather than narrows.
        blur: Standard deviation in pixels of a lens that is out of focus.
        flicker: How unevenly a streak is lit along its way, 0 evenly, 1 down to nothing: falling drops oscillate
            (K. Garg and S. K. Nayar, "Photorealistic rendering of rain streaks", ACM TOG 25(3), 2006).
        phase: (n,2) start of that oscillation in radians, and its wave length as a part of the length.

    Returns:
        (rows, columns) float32, the sum over the streaks.
    """
    if len(x) == 0:
        return np.zeros(shape, np.float32)
    x, y, length, angle, value, taper = (np.asarray(a, np.float32) for a in (x, y, length, angle, value, taper))
    owner, along = _steps(length)
    direction = np.deg2rad(angle)
    fade = np.minimum((1 - np.abs(along / (length / 2)[owner])) / taper[owner], 1)
    weight = value[owner] * (fade * fade * (3 - 2 * fade))
    if flicker > 0:
        turn, wave = phase[:, 0].astype(np.float32), (2 * math.pi / (phase[:, 1] * length)).astype(np.float32)
        weight *= 1 - np.float32(flicker / 2) * (1 + np.cos(along * wave[owner] + turn[owner]))
    across = scatter(*shape, x[owner] + np.sin(direction)[owner] * along, y[owner] + np.cos(direction)[owner] * along,
                     weight)  # fmt: skip
    drop = width / _FWHM
    sigma = math.sqrt(max(drop * drop + blur * blur + _LENS**2 - _SPLAT, 0.09))
    return cv2.GaussianBlur(across, (0, 0), sigma) * np.float32(drop * math.sqrt(2 * math.pi))


def _steps(length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points one pixel apart along each streak: the streak they belong to, and their distance from its middle."""
    number = np.maximum(np.ceil(length), 1).astype(np.int64)
    owner = np.repeat(np.arange(len(length)), number)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
    along = place.astype(np.float32) - ((number - 1) / 2).astype(np.float32)[owner]
    return owner, along


def streaks(
    rng: np.random.Generator,
    height: int,
    width: int,
    count: float,
    length: float,
    thickness: float,
    angles: np.ndarray,
    spread: float,
    flicker: float = 0.0,
    blur: float = 0.0,
) -> np.ndarray:
    """One layer of rain at about one distance: streaks of uneven length and brightness, most of them faint.

    Args:
        rng: Draws the streaks.
        height: Rows.
        width: Columns.
        count: Streaks per million pixels.
        length: Mean length in pixels.
        thickness: Full width at half maximum in pixels.
        angles: Directions in degrees from straight down, the first one twice as frequent as any other.
        spread: Standard deviation of the direction from streak to streak, in degrees.
        flicker: How unevenly a streak is lit from place to place, 0 evenly, 1 down to nothing.
        blur: Standard deviation in pixels of a lens that is out of focus.

    Returns:
        (height,width) float32, 1 where a streak of full brightness covers a pixel.
    """
    margin = int(length + 3 * blur + 2 * thickness) + 2
    number = int(rng.poisson(count * (height + 2 * margin) * (width + 2 * margin) / 1e6))
    x = rng.uniform(-margin, width + margin, number)
    y = rng.uniform(-margin, height + margin, number)
    share = np.ones(len(angles))
    share[0] = 2
    angle = rng.choice(angles, number, p=share / share.sum()) + rng.normal(0, spread, number)
    reach = length * rng.uniform(0.4, 1.6, number)
    value = 0.1 + 0.9 * rng.random(number) ** 2.5
    taper = rng.uniform(0.3, 1.0, number)
    phase = rng.uniform((0, 0.3), (2 * math.pi, 1.2), (number, 2))
    return draw_streaks((height, width), x, y, reach, angle, value, taper, thickness, blur, flicker, phase)


def draw_flakes(
    shape: tuple[int, int],
    x: np.ndarray,
    y: np.ndarray,
    diameter: np.ndarray,
    moved: np.ndarray,
    angle: np.ndarray,
    value: np.ndarray,
    softness: np.ndarray,
    lobes: np.ndarray,
) -> np.ndarray:
    """Flakes of three merging lobes each, drawn out by their movement.

    Args:
        shape: Rows and columns.
        x: (n,) columns of the middles.
        y: (n,) rows of the middles.
        diameter: (n,) in pixels.
        moved: (n,) path during the exposure in pixels.
        angle: (n,) direction of the path in degrees from straight down, positive to the right.
        value: (n,) part of the scene that a flake at rest hides.
        softness: (n,) in (0,1]: 0 a sharp edge, 1 fades from the middle to the rim.
        lobes: (n,3,3) column, row and size of the lobes, as parts of the radius; all (0,0,1) make a disc.

    Returns:
        (rows, columns) float32 in [0,1], the part of the scene that is hidden.
    """
    hidden = np.zeros((shape[0] + 2) * (shape[1] + 2))
    arrays = [np.asarray(a, np.float32) for a in (x, y, diameter, moved, angle, value, softness, lobes)]
    reach = np.ceil((arrays[2] * (1 + arrays[6]) + arrays[3]) / 2 + 1).astype(int)
    for size in np.unique(reach):
        chosen = np.flatnonzero(reach == size)
        step = max(1, _CHUNK // (2 * size + 1) ** 2)
        for start in range(0, len(chosen), step):
            _stamp(hidden, shape, int(size), *(a[chosen[start : start + step]] for a in arrays))
    seen = np.exp(-hidden).reshape(shape[0] + 2, shape[1] + 2)[1:-1, 1:-1]
    return (1 - seen).astype(np.float32)


def _stamp(
    hidden: np.ndarray,
    shape: tuple[int, int],
    reach: int,
    x: np.ndarray,
    y: np.ndarray,
    diameter: np.ndarray,
    moved: np.ndarray,
    angle: np.ndarray,
    value: np.ndarray,
    softness: np.ndarray,
    lobes: np.ndarray,
) -> None:
    """Adds the optical depth of flakes, each on (2 reach + 1)^2 pixels, to ``hidden``, which has a border of one."""
    grid = np.arange(-reach, reach + 1, dtype=np.int32)
    column, row = np.rint(x).astype(np.int32)[:, None] + grid, np.rint(y).astype(np.int32)[:, None] + grid
    dx, dy = (column - x[:, None])[:, None, :], (row - y[:, None])[:, :, None]
    sine, cosine = (f(np.deg2rad(angle))[:, None, None] for f in (np.sin, np.cos))
    half = (moved / 2)[:, None, None]
    path = np.clip(dx * sine + dy * cosine, -half, half)  # the nearest place that the flake has been
    dx, dy = dx - path * sine, dy - path * cosine
    radius = (diameter / 2)[:, None, None]
    field = np.zeros_like(dx)
    for k in range(3):
        left, down, part = (lobes[:, k, j][:, None, None] * radius for j in range(3))
        field += np.exp(((dx - left) ** 2 + (dy - down) ** 2) * (-math.log(2) * 2 / np.square(part)))
    edge = softness[:, None, None]
    cover = np.clip((field - 0.25 * (1 - edge)) / (0.15 + 1.2 * edge), 0, 1)
    cover *= (value * diameter / (diameter + moved))[:, None, None]
    np.clip(column, -1, shape[1], out=column)
    np.clip(row, -1, shape[0], out=row)
    index = ((row + 1) * (shape[1] + 2))[:, :, None] + (column + 1)[:, None, :]
    depth = -np.log1p(-np.minimum(cover, 0.999))
    hidden += np.bincount(index.ravel(), depth.ravel(), len(hidden))


def flakes(
    rng: np.random.Generator,
    height: int,
    width: int,
    count: float,
    diameter: Span,
    speed: float,
    angle: float,
    spread: float,
    softness: Span,
) -> np.ndarray:
    """One layer of snow at about one distance: irregular flakes, the small ones more frequent.

    Args:
        rng: Draws the flakes.
        height: Rows.
        width: Columns.
        count: Flakes per million pixels.
        diameter: Range in pixels; the number falls with the cube of it.
        speed: Mean path during the exposure, in diameters.
        angle: Direction of the fall in degrees from straight down, positive to the right.
        spread: Standard deviation of the direction from flake to flake, in degrees.
        softness: Range of the softness of the rim, 0 sharp, 1 out of focus.

    Returns:
        (height,width) float32 in [0,1], the part of the scene that is hidden.
    """
    margin = int(diameter[1] * (1 + speed)) + 2
    number = int(rng.poisson(count * (height + 2 * margin) * (width + 2 * margin) / 1e6))
    x = rng.uniform(-margin, width + margin, number)
    y = rng.uniform(-margin, height + margin, number)
    low, high = diameter[0] ** -2.0, diameter[1] ** -2.0
    size = (low + (high - low) * rng.random(number)) ** -0.5
    moved = size * speed * rng.uniform(0.5, 1.5, number)
    direction = angle + rng.normal(0, spread, number)
    value = rng.uniform(0.4, 1.0, number)
    rim = np.clip(rng.uniform(*softness, number), 1.2 / size, 1)  # an edge is about a pixel wide at least
    lobes = np.concatenate([rng.uniform(-0.45, 0.45, (number, 3, 2)), rng.uniform(0.45, 0.8, (number, 3, 1))], axis=2)
    return draw_flakes((height, width), x, y, size, moved, direction, value, rim, lobes)


def specks(
    rng: np.random.Generator,
    height: int,
    width: int,
    count: float,
    diameter: float,
    speed: float,
    angle: float,
    spread: float,
) -> np.ndarray:
    """One layer of snow so far off that a flake is a soft spot of a few pixels, drawn out by its movement.

    Args:
        rng: Draws the specks.
        height: Rows.
        width: Columns.
        count: Specks per million pixels.
        diameter: Full width at half maximum in pixels.
        speed: Mean path during the exposure, in diameters.
        angle: Direction of the fall in degrees from straight down, positive to the right.
        spread: Standard deviation of the direction from speck to speck, in degrees.

    Returns:
        (height,width) float32 in [0,1], the part of the scene that is hidden.
    """
    margin = int(diameter * (2 + 2 * speed)) + 2
    number = int(rng.poisson(count * (height + 2 * margin) * (width + 2 * margin) / 1e6))
    x = rng.uniform(-margin, width + margin, number)
    y = rng.uniform(-margin, height + margin, number)
    moved = speed * rng.uniform(0.5, 1.5, number)  # in diameters
    direction = angle + rng.normal(0, spread, number)
    value = (0.25 + 0.75 * rng.random(number) ** 1.5) * 1.5 / (1 + 0.5 * moved)
    length = diameter * (1.2 + moved)
    return np.minimum(draw_streaks((height, width), x, y, length, direction, value, np.ones(number), diameter), 1)


def mist(rng: np.random.Generator, height: int, width: int, depth: np.ndarray | None) -> np.ndarray:
    """How thick the particles too far off to be told apart lie in front of each pixel: thicker far off, and drifting.

    Args:
        rng: Draws the drifts, and the depth if none is given.
        height: Rows.
        width: Columns.
        depth: (height,width) float32 in [0,1], 1 farthest; None draws one.

    Returns:
        (height,width) float32 from 0 to about 1.4.
    """
    drift = clouds(rng, height, width, VIEW / 3, octaves=2)
    if depth is None:
        depth = scene_depth(rng, height, width)
    return (0.25 + 0.75 * depth) * (0.6 + 0.8 * drift)


def blend(scene: np.ndarray, seen: np.ndarray, colour: float, tint: float) -> np.ndarray:
    """Particles over a scene, in linear light: ``seen * scene + (1 - seen) * light of the particles``.

    Args:
        scene: (H,W,3) float32 linear light.
        seen: (H,W) float32 in [0,1], the part of the exposure for which the scene is seen.
        colour: Brightness of the particles in linear light.
        tint: Part of their colour taken from what surrounds them, 0 none (they are white), 1 all.

    Returns:
        (H,W,3) float32 linear light.
    """
    seen = three(seen.astype(np.float32, copy=False))
    if tint == 0:
        return seen * (scene - np.float32(colour)) + np.float32(colour)
    light = _surroundings(scene)
    light = np.float32(colour) * (np.float32(1 - tint) + np.float32(tint) * light)
    return seen * (scene - light) + light


def _surroundings(scene: np.ndarray) -> np.ndarray:
    """(H,W,3) float32: the colour that prevails around each pixel, its strongest channel 1."""
    height, width = scene.shape[:2]
    cell = VIEW // 12
    small = cv2.resize(scene, (math.ceil(width / cell), math.ceil(height / cell)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 2.0, borderType=cv2.BORDER_REPLICATE) + np.float32(1e-3)
    small /= small.max(axis=2, keepdims=True)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def lens_drops(rng: np.random.Generator, image: np.ndarray, count: float, radius: Span) -> np.ndarray:
    """Drops on the lens: out of focus, each shows a wide part of the scene upside down.

    R. Qian et al., "Attentive generative adversarial network for raindrop removal from a single image", CVPR 2018,
    equation 1: the image is ``(1 - M) B + R`` with ``M`` the drops and ``R`` what they show.

    Args:
        rng: Draws the drops.
        image: (H,W,3) float32 display values.
        count: Drops per million pixels.
        radius: Range of the radius in pixels.

    Returns:
        The image with drops, (H,W,3) float32.
    """
    height, width = image.shape[:2]
    result, soft = image.copy(), cv2.GaussianBlur(image, (0, 0), 3.0)
    margin = int(2 * radius[1])
    for _ in range(rng.poisson(count * (height + 2 * margin) * (width + 2 * margin) / 1e6)):
        x, y = rng.uniform(-margin, width + margin), rng.uniform(-margin, height + margin)
        size = math.exp(rng.uniform(*np.log(radius)))
        _refract(result, soft, x, y, size, size * rng.uniform(1.0, 1.5), rng.uniform(2.0, 5.0))
    return result


def _refract(result: np.ndarray, soft: np.ndarray, x: float, y: float, wide: float, high: float, zoom: float) -> None:
    """Draws one drop of half axes ``wide`` and ``high`` into ``result``, showing ``soft`` turned round and reduced."""
    height, width = result.shape[:2]
    left, right = max(int(x - wide), 0), min(int(x + wide) + 2, width)
    top, bottom = max(int(y - high), 0), min(int(y + high) + 2, height)
    if left >= right or top >= bottom:
        return
    dx = np.arange(left, right, dtype=np.float32)[None] - np.float32(x)
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
    rim = np.sqrt((dx / wide) ** 2 + (dy / high) ** 2)
    cover = np.clip((1 - rim) * 4, 0, 1)[..., None]
    source_x, source_y = np.broadcast_arrays(np.float32(x) - zoom * dx, np.float32(y) - zoom * dy)
    shown = cv2.remap(soft, source_x.astype(np.float32), source_y.astype(np.float32), cv2.INTER_LINEAR,
                      borderMode=cv2.BORDER_REFLECT_101)  # fmt: skip
    shown *= (1 - 0.35 * np.clip(rim, 0, 1) ** 4)[..., None]  # total reflection darkens the rim
    window = result[top:bottom, left:right]
    window += cover * (shown - window)
