"""Under water: colours are absorbed at different rates, and scattered light is added.

The picture is the sum of B. L. McGlamery's three parts ("A computer model for underwater camera systems", Proc. SPIE
208, 1979): light straight from the scene, ``J exp(-c z)``; light from it that is scattered by small angles, which is
``J`` blurred times ``exp(-(c - f b) z) - exp(-c z)``; and light of the water itself, ``B (1 - exp(-(c - f b) z))``. The
beam attenuation ``c = a + b`` is absorption and scattering, ``f`` is the part of the scattering that still reaches the
camera. All is lit by daylight that has lost ``exp(-K_d depth)`` on its way down: as in D. Akkaynak and T. Treibitz, "A
revised underwater image formation model", CVPR 2018, depth and distance have coefficients of their own. ``B`` is
proportional to ``b_b / (a + b_b)``, the law of the colour of water (A. Morel and L. Prieur, 1977). In linear light, for
each of red, green and blue; a channel is one wavelength. The numbers are in ``_water.py``.
"""

from __future__ import annotations

import cv2
import numpy as np

from basicsr.errors import OptionError
from basicsr.registry import DEGRADATION_REGISTRY

from ._camera import gaussian_noise, jpeg
from ._depth import distance_map
from ._fields import VIEW, Span, check_chance, check_span, draw, to_linear, to_srgb
from ._water import JERLOV, UWCNN, Water, water

GREY = 0.2  # linear light of the scene that the camera's exposure and white balance expect
GAIN = 8.0  # largest amplification of one colour against the others


@DEGRADATION_REGISTRY.register()
class Underwater:
    """Under water: red is absorbed first, and blue or green light is scattered into the view.

    Args:
        water: Jerlov water types to draw from: I, IA, IB, II, III (ocean), 1C, 3C, 5C, 7C, 9C (coast); one that is
            listed twice is drawn twice as often.
        depth: Range of the depth below the surface in metres, through which daylight comes.
        distance: Range of the distance to the farthest part of the scene in metres; 0, at depth 0, changes nothing.
        visibility: Optical depth of the clearest colour at which a scene ends, as divers come nearer in murky water;
            distances and depths are cut to it; null cuts nothing.
        near: Range of the nearest distance, as a part of the farthest.
        veil: Range of the brightness of the water, as a multiple of backscattering over absorption and backscattering.
        sunlit: Range of how much brighter the water is at the top of a photograph than at its bottom, a natural log.
        forward: Range of the part of the scattered light that reaches the camera as blur; 0 loses all of it.
        blur: Range of the standard deviation of that blur, in pixels of a photograph of 480 rows.
        exposure: Range of how much of the loss of light the camera makes up for, 0 nothing, 1 all, up to 2.
        balance: Range of how much of the colour cast the camera's white balance takes away, 0 nothing, 1 all.
        specks: Range of the number of drifting particles (marine snow) per million pixels.
        specks_p: Probability of them.
        noise: Range of the standard deviation of Gaussian noise, in 255ths.
        noise_p: Probability of that.
        jpeg: Range of the JPEG quality that the image is saved with.
        jpeg_p: Probability of that.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits, or a water type is not known.
    """

    task = 'underwater'
    uses_depth = True

    def __init__(
        self,
        water: tuple[str, ...] = ('I', 'IB', 'II', 'III', 'III', '1C', '1C', '3C', '5C'),
        depth: Span = (2.0, 15.0),
        distance: Span = (1.0, 12.0),
        visibility: float | None = 1.5,
        near: Span = (0.1, 0.6),
        veil: Span = (0.8, 2.5),
        sunlit: Span = (0.0, 1.2),
        forward: Span = (0.4, 0.8),
        blur: Span = (0.5, 3.0),
        exposure: Span = (0.9, 1.2),
        balance: Span = (0.0, 0.4),
        specks: Span = (50, 1500),
        specks_p: float = 0.0,
        noise: Span = (1, 6),
        noise_p: float = 0.0,
        jpeg: Span = (40, 95),
        jpeg_p: float = 0.0,
    ) -> None:
        if visibility is not None and not visibility > 0:
            raise OptionError(f'Underwater: visibility is {visibility:g}; it must be more than 0, or null.')
        self.water, self.visibility = _check_water(self, water), visibility
        self.depth = check_span(self, 'depth', depth, 0, 100)
        self.distance = check_span(self, 'distance', distance, 0, 100)
        self.near = check_span(self, 'near', near, 0, 1)
        self.veil = check_span(self, 'veil', veil, 0, 20)
        self.sunlit = check_span(self, 'sunlit', sunlit, 0, 5)
        self.forward = check_span(self, 'forward', forward, 0, 1)
        self.blur = check_span(self, 'blur', blur, 0, 50)
        self.exposure = check_span(self, 'exposure', exposure, 0, 2)
        self.balance = check_span(self, 'balance', balance, 0, 1)
        self.specks, self.specks_p = (
            check_span(self, 'specks', specks, 0, 1e5),
            check_chance(self, 'specks_p', specks_p),
        )
        self.noise, self.noise_p = check_span(self, 'noise', noise, 0, 255), check_chance(self, 'noise_p', noise_p)
        self.jpeg, self.jpeg_p = check_span(self, 'jpeg', jpeg, 1, 100), check_chance(self, 'jpeg_p', jpeg_p)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, depth: np.ndarray | None = None) -> np.ndarray:
        """Puts an image under water.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws every parameter.
            depth: (H,W) float32 in [0,1], 1 is farthest; None draws a scene that suits the image.

        Returns:
            The same shape and range.

        Raises:
            DataError: The depth map is not of the image's size.
        """
        kind = water(self.water[int(rng.integers(len(self.water)))])
        down, far, near, forward = (draw(rng, s) for s in (self.depth, self.distance, self.near, self.forward))
        if self.visibility is not None:
            down = min(down, self.visibility / float(kind.daylight.min()))
            far = min(far, self.visibility / float((kind.absorption + (1 - forward) * kind.scattering).min()))
        scene = image.copy()
        if down > 0 or far > 0:
            path = far * (near + (1 - near) * distance_map(self, image, rng, depth))
            scene = self._submerge(scene, rng, kind, down, path, forward)
        return self._worn(scene, rng)

    def _submerge(
        self, image: np.ndarray, rng: np.random.Generator, kind: Water, down: float, path: np.ndarray, forward: float
    ) -> np.ndarray:
        """McGlamery's three parts, exposed and balanced by the camera."""
        beam = kind.absorption + kind.scattering
        reaching = beam - np.float32(forward) * kind.scattering
        daylight = np.exp(-kind.daylight * down)
        glow = draw(rng, self.veil) * kind.backward / (kind.absorption + kind.backward)
        above = self._from_above(rng, *image.shape[:2])
        light = to_linear(image)
        soft = self._softened(light, rng) if forward > 0 else light
        middle = np.exp(-reaching * float(path.mean()))
        gain = self._gain(rng, daylight * (GREY * middle + glow * (1 - middle)))
        channels = []
        for c in range(3):
            kept, sharp = (cv2.exp(np.ascontiguousarray(-k[c] * path, np.float32)) for k in (reaching, beam))
            seen = sharp * (light[..., c] - soft[..., c]) + kept * soft[..., c]
            channels.append((gain[c] * daylight[c]) * (seen + glow[c] * above * (1 - kept)))
        return to_srgb(cv2.merge(channels).reshape(image.shape))

    def _from_above(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """(H,1) brightness of the water: more light comes from above; a small image is a window of a photograph."""
        view = max(height, width, VIEW)
        rows = rng.uniform(0, view - height) + np.arange(height, dtype=np.float32)
        return np.exp(draw(rng, self.sunlit) * (0.5 - rows / view)).astype(np.float32)[:, None]

    def _softened(self, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The light blurred; a wide blur is done on a smaller image, where it costs less and looks the same."""
        height, width = light.shape[:2]
        sigma = draw(rng, self.blur) * max(height, width, VIEW) / VIEW
        if sigma < 0.2:
            return light
        factor = max(1, int(sigma / 1.2))
        size = max(1, round(width / factor)), max(1, round(height / factor))
        small = cv2.resize(light, size, interpolation=cv2.INTER_AREA) if factor > 1 else light
        small = cv2.GaussianBlur(small, (0, 0), sigma / factor)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR) if factor > 1 else small

    def _gain(self, rng: np.random.Generator, seen: np.ndarray) -> np.ndarray:
        """What the camera multiplies each colour by, after it has seen a grey scene as ``seen``."""
        exposure, balance = draw(rng, self.exposure), draw(rng, self.balance)
        weight = np.array((0.2126, 0.7152, 0.0722))  # of the brightness, ITU-R BT.709
        cast = seen / max(float(weight @ seen), 1e-9)
        colour = np.clip(1 / np.maximum(cast, 1e-9) ** balance, 1 / GAIN, GAIN)
        return (colour * (GREY / max(float(weight @ (seen * colour)), 1e-9)) ** exposure).astype(np.float32)

    def _worn(self, scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.specks_p > 0 and rng.random() < self.specks_p:
            scene = _with_specks(scene, rng, draw(rng, self.specks))
        if self.noise_p > 0 and rng.random() < self.noise_p:
            scene = np.clip(scene + gaussian_noise(rng, scene.shape, draw(rng, self.noise) / 255, 'colour'), 0, 1)
        saved = self.jpeg_p > 0 and rng.random() < self.jpeg_p
        return jpeg(scene, rng.integers(round(self.jpeg[0]), round(self.jpeg[1]) + 1)) if saved else scene


@DEGRADATION_REGISTRY.register()
class UnderwaterUWCNN:
    """Under water as in UWCNN's training pairs: display values, one coefficient a colour, water as bright as daylight.

    ``I = A N^depth (J t + 1 - t)`` with ``t = N^(distance z)``, N the transmission per metre of table 1, z the depth
    map (C. Li, S. Anwar and F. Porikli, Pattern Recognition 98, 2020; ranges of the authors' program).

    Args:
        water: Jerlov water types to draw from: I, IA, IB, II, III (ocean), 1C, 3C, 5C, 7C, 9C (coast).
        depth: Range of the depth below the surface in metres.
        distance: Range of the distance to the farthest part of the scene in metres; 0, at depth 0, leaves ``A J``.
        light: The brightness A at the surface, which stands for the camera's exposure too.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits, or a water type is not known.
    """

    task = 'underwater'
    uses_depth = True

    def __init__(
        self,
        water: tuple[str, ...] = tuple(UWCNN),
        depth: Span = (3.0, 5.0),
        distance: Span = (0.5, 15.0),
        light: float = 1.5,
    ) -> None:
        self.water = _check_water(self, water)
        self.depth = check_span(self, 'depth', depth, 0, 100)
        self.distance = check_span(self, 'distance', distance, 0, 100)
        self.light = check_span(self, 'light', (light, light), 0, 10)[0]

    def __call__(self, image: np.ndarray, rng: np.random.Generator, depth: np.ndarray | None = None) -> np.ndarray:
        """Puts an image under water; arguments, result and errors as for :class:`Underwater`."""
        left = np.array(UWCNN[self.water[int(rng.integers(len(self.water)))]], np.float32)
        down, far = draw(rng, self.depth), draw(rng, self.distance)
        path = far * distance_map(self, image, rng, depth)
        seen = cv2.merge([cv2.exp(np.ascontiguousarray(np.log(n) * path, np.float32)) for n in left])
        seen = seen.reshape(image.shape)
        return np.clip(np.float32(self.light) * left ** np.float32(down) * (image * seen + 1 - seen), 0, 1)


def _check_water(owner: object, given: tuple[str, ...]) -> tuple[str, ...]:
    """Refuses a list that is empty or names an unknown water.

    Raises:
        OptionError: It is.
    """
    if not given or not set(given) <= set(JERLOV):
        kinds = ', '.join(JERLOV)
        raise OptionError(f'{type(owner).__name__}: water is {list(given)}; it must list some of {kinds}.')
    return tuple(given)


def _with_specks(scene: np.ndarray, rng: np.random.Generator, density: float) -> np.ndarray:
    """Particles near the camera: soft discs of the picture's brightest colour."""
    height, width = scene.shape[:2]
    scale = max(height, width, VIEW) / VIEW
    number = int(rng.poisson(density * height * width / 1e6))
    cover = np.zeros((height, width), np.uint8)
    places = np.rint(rng.uniform((0, 0), (width, height), (number, 2)) * 16).astype(int).tolist()
    radii = np.rint(16 * scale * (0.4 + 1.2 * rng.random(number) ** 3)).astype(int).tolist()
    for place, radius, value in zip(places, radii, rng.integers(40, 200, number).tolist()):
        cv2.circle(cover, place, radius, value, -1, cv2.LINE_AA, 4)
    opacity = cv2.GaussianBlur(cover.astype(np.float32) / np.float32(255), (0, 0), 0.7 * scale)[..., None]
    colour = to_linear(np.quantile(scene[::4, ::4].reshape(-1, 3), 0.95, axis=0).astype(np.float32))
    return to_srgb(to_linear(scene) * (1 - opacity) + colour * opacity)
