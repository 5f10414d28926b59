"""Optical properties of Jerlov's ten water types at 600, 525 and 475 nm, for red, green and blue; all per metre.

The three wavelengths are where cameras are about most sensitive (D. Berman et al., BMVC 2017). Sources:

- Diffuse attenuation of daylight ``K_d``: N. G. Jerlov, "Marine Optics", 2nd ed., 1976, table XXVII.
- Absorption ``a`` and scattering ``b`` of IB, II, III, 1C, 3C and 5C, which were measured: C. A. Williamson and R. C.
  Hollins, "Measured IOPs of Jerlov water types", Applied Optics 61(33), 2022, and its data set
  (doi:10.6084/m9.figshare.20290782).
- ``a`` and ``b`` of I, IA, 7C and 9C, which those measurements do not cover: M. G. Solonenko and C. D. Mobley,
  "Inherent optical properties of Jerlov water types", Applied Optics 54(17), 2015, tables 4 to 8; a model's.
- Scattering of pure sea water ``5.83e-3 (400 nm / wavelength)^4.322``: V. I. Haltrin, Applied Optics 38(33), 1999.
- The part of the particles' scattering that goes backward, 0.0183: T. J. Petzold, 1972, averaged in C. D. Mobley,
  "Light and Water", 1994, table 3.10. Pure water scatters half of it backward.
- Transmission per metre of UWCNN: C. Li, S. Anwar and F. Porikli, "Underwater scene prior inspired deep underwater
  image and video enhancement", Pattern Recognition 98, 2020, table 1. For red of I and IA the authors' program has 0.85
  and 0.84.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WAVELENGTHS = (600.0, 525.0, 475.0)
PARTICLES_BACKWARD = 0.0183

# water type: (K_d), (a), (b)
JERLOV = {
    'I': ((0.235, 0.043, 0.018), (0.228, 0.046, 0.019), (0.00122, 0.00205, 0.00306)),
    'IA': ((0.240, 0.048, 0.025), (0.228, 0.0468, 0.0216), (0.00283, 0.00402, 0.00536)),
    'IB': ((0.245, 0.054, 0.033), (0.227, 0.0516, 0.0372), (0.118, 0.125, 0.131)),
    'II': ((0.260, 0.076, 0.062), (0.231, 0.0609, 0.0544), (0.170, 0.181, 0.190)),
    'III': ((0.295, 0.116, 0.116), (0.241, 0.0821, 0.0941), (0.278, 0.292, 0.303)),
    '1C': ((0.300, 0.130, 0.170), (0.248, 0.0972, 0.121), (0.416, 0.433, 0.447)),
    '3C': ((0.330, 0.200, 0.290), (0.268, 0.132, 0.166), (0.627, 0.654, 0.675)),
    '5C': ((0.400, 0.310, 0.430), (0.285, 0.174, 0.243), (1.16, 1.21, 1.25)),
    '7C': ((0.480, 0.490, 0.710), (0.301, 0.233, 0.388), (2.03, 2.54, 3.01)),
    '9C': ((0.600, 0.780, 1.230), (0.390, 0.430, 0.709), (2.69, 3.38, 4.01)),
}

# Part of red, green and blue light left after a metre in UWCNN's ten types.
UWCNN = {
    'I': (0.805, 0.961, 0.982),
    'IA': (0.804, 0.955, 0.975),
    'IB': (0.830, 0.950, 0.968),
    'II': (0.800, 0.925, 0.940),
    'III': (0.750, 0.885, 0.890),
    '1C': (0.750, 0.885, 0.875),
    '3C': (0.710, 0.820, 0.800),
    '5C': (0.670, 0.730, 0.670),
    '7C': (0.620, 0.610, 0.500),
    '9C': (0.550, 0.460, 0.290),
}


class Water(NamedTuple):
    """One water, three numbers each, per metre.

    Attributes:
        daylight: Diffuse attenuation of the light on its way down.
        absorption: Light that is absorbed.
        scattering: Light that is scattered in any direction.
        backward: Light that is scattered backward, a part of ``scattering``.
    """

    daylight: np.ndarray
    absorption: np.ndarray
    scattering: np.ndarray
    backward: np.ndarray


def water(kind: str) -> Water:
    """The properties of a Jerlov type, as float32."""
    daylight, absorption, scattering = (np.array(v, np.float32) for v in JERLOV[kind])
    pure = (5.83e-3 * (400 / np.array(WAVELENGTHS)) ** 4.322).astype(np.float32)
    backward = 0.5 * pure + np.float32(PARTICLES_BACKWARD) * np.maximum(scattering - pure, 0)
    return Water(daylight, absorption, scattering, backward.astype(np.float32))
