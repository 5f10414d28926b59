"""Under water: colours are absorbed at different rates, and scattered light is added.

D. Akkaynak and T. Treibitz, "A revised underwater image formation model", CVPR 2018: ``I = J exp(-beta_D z) + B (1
- exp(-beta_B z))`` with ``B = b E / beta_B``, in linear light, for each of red, green and blue. Simplified: a
channel is one wavelength, so that both terms share ``beta = K + b``, the loss by Jerlov's attenuation K and by
scattering b. The daylight E has lost ``exp(-K depth)`` on its way down. K by water type: N. G. Jerlov, "Marine
Optics", 1976, table XXVII.
"""

from __future__ import annotations

import numpy as np

from basicsr.errors import OptionError
from basicsr.registry import DEGRADATION_REGISTRY

from ._fields import Span, check_span, draw, scene_depth, to_linear, to_srgb

# Diffuse attenuation per metre at 600, 525 and 475 nm (red, green, blue); I to III are oceans, 1C to 9C coasts.
JERLOV = {
    'I': (0.235, 0.043, 0.018),
    'IA': (0.240, 0.048, 0.025),
    'IB': (0.245, 0.054, 0.033),
    'II': (0.260, 0.076, 0.062),
    'III': (0.295, 0.116, 0.116),
    '1C': (0.300, 0.130, 0.170),
    '3C': (0.330, 0.200, 0.290),
    '5C': (0.400, 0.310, 0.430),
    '7C': (0.480, 0.490, 0.710),
    '9C': (0.600, 0.780, 1.230),
}


@DEGRADATION_REGISTRY.register()
class Underwater:
    """Under water: red is absorbed first, and blue or green light is scattered into the view.

    Args:
        water: Jerlov water types to draw from: I, IA, IB, II, III (ocean), 1C, 3C, 5C, 7C, 9C (coast).
        depth: Range of the depth below the surface in metres, through which daylight comes.
        distance: Range of the distance to the farthest part of the scene in metres; 0, at depth 0, changes nothing.
        near: Range of the nearest distance, as a part of the farthest.
        scatter: Range of the scattering per metre, the same for all colours; it veils the scene like haze.
        exposure: Range of how much of the brightest colour's loss the camera makes up for, 0 nothing, 1 all.

    Raises:
        OptionError: A range is not (smallest, largest) within its limits, or a water type is not known.
    """

    task = 'underwater'

    def __init__(
        self,
        water: tuple[str, ...] = ('I', 'IB', 'II', 'III', '1C', '3C', '5C'),
        depth: Span = (1.0, 8.0),
        distance: Span = (1.0, 6.0),
        near: Span = (0.1, 0.4),
        scatter: Span = (0.02, 0.15),
        exposure: Span = (0.6, 0.95),
    ) -> None:
        unknown = [w for w in water if w not in JERLOV]
        if unknown or not water:
            raise OptionError(f'Underwater: water is {list(water)}; it must list some of {", ".join(JERLOV)}.')
        self.water = tuple(water)
        self.depth = check_span(self, 'depth', depth, 0, 100)
        self.distance = check_span(self, 'distance', distance, 0, 100)
        self.near = check_span(self, 'near', near, 0, 1)
        self.scatter = check_span(self, 'scatter', scatter, 0, 10)
        self.exposure = check_span(self, 'exposure', exposure, 0, 1)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Puts an image under water.

        Args:
            image: (H,W,3) float32 RGB in [0,1].
            rng: Draws every parameter.

        Returns:
            The same shape and range.
        """
        loss = np.array(JERLOV[self.water[int(rng.integers(len(self.water)))]], np.float32)
        spans = (self.depth, self.distance, self.near, self.scatter, self.exposure)
        depth, distance, near, scatter, exposure = (draw(rng, s) for s in spans)
        path = distance * (near + (1 - near) * scene_depth(rng, *image.shape[:2]))[..., None]
        daylight = np.exp(exposure * loss.min() * (depth + path.mean()) - loss * depth)
        seen = np.exp(-(loss + scatter) * path)
        veil = scatter / np.maximum(loss + scatter, 1e-6)
        return to_srgb(daylight * (to_linear(image) * seen + veil * (1 - seen)))
