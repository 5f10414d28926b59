"""Low light: each step against values worked out by hand, and the relations of real pairs."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from basicsr.data._fields import to_linear
from basicsr.data.low_light_degradation import LowLight, _coloured_noise, _fall_off
from basicsr.errors import OptionError
from basicsr.image_io import list_images, read_image

from .weather import grey, rng

# Options at which nothing happens; tests switch on what they look at.
QUIET = {
    'exposure': (1, 1), 'gamma': (1, 1), 'uneven': (0, 0), 'vignette': (0, 0), 'red': (1, 1), 'blue': (1, 1),
    'shot': (0, 0), 'read': (0, 0), 'grain': (0, 0), 'blotch': (0, 0), 'black': (0, 0), 'bits': (16, 16), 'jpeg': 0.0,
}  # fmt: skip


def make(**arguments):
    return LowLight(**{**QUIET, **arguments})


@pytest.fixture(scope='module')
def photos(request):
    files = list_images(request.config.rootpath / 'datasets' / 'sample' / 'val')
    return [read_image(f)[:240, :320] for f in files]


def test_without_any_step_the_photo_is_exactly_itself(photos):
    result = make()(photos[0], rng())
    np.testing.assert_array_equal(result, photos[0])
    assert result is not photos[0]


@pytest.mark.parametrize('step', ['exposure', 'gamma', 'red', 'blue'])
def test_every_factor_alone_changes_the_photo(step, photos):
    assert np.abs(make(**{step: (0.8, 0.8)})(photos[0], rng()) - photos[0]).max() > 0.01


@pytest.mark.parametrize('step', ['uneven', 'vignette', 'shot', 'read', 'black'])
def test_every_addition_alone_changes_the_photo(step, photos):
    assert np.abs(make(**{step: (0.3, 0.3)})(photos[0], rng()) - photos[0]).max() > 0.01
    assert np.abs(make(jpeg=1.0)(photos[0], rng()) - photos[0]).max() > 0.01


@pytest.mark.parametrize('exposure', [0.5, 0.1, 0.02])
def test_exposure_scales_linear_light_exactly(exposure):
    values = np.linspace(0.02, 1, 50, dtype=np.float32)
    image = np.repeat(values[:, None, None], 3, axis=2).repeat(4, axis=1)
    light = to_linear(make(exposure=(exposure, exposure))(image, rng()))
    np.testing.assert_allclose(light, exposure * to_linear(image), rtol=2e-4, atol=1e-7)


def test_colour_cast_and_tone_curve_by_hand():
    """0.5 squared on display values is 0.25, that is 0.0508761 of linear light (IEC 61966-2-1)."""
    light = to_linear(make(gamma=(2, 2), red=(1.5, 1.5), blue=(0.5, 0.5), exposure=(0.4, 0.4))(grey(0.5), rng()))
    np.testing.assert_allclose(light[3, 4], 0.0508761 * 0.4 * np.array([1.5, 1, 0.5]), rtol=1e-3)


def test_black_level_cuts_the_shadows_and_keeps_white():
    cut = make(black=(0.1, 0.1))
    assert cut(grey(0.1), rng()).max() == 0  # 0.1 is 0.01 of linear light, below black
    np.testing.assert_allclose(cut(grey(1.0), rng()), 1, atol=1e-5)
    np.testing.assert_allclose(to_linear(cut(grey(0.6), rng())), (0.3185468 - 0.1) / 0.9, rtol=1e-3)
    assert make(black=(-0.01, -0.01))(grey(0.0), rng()).min() > 0.05


@pytest.mark.parametrize('value', [0.25, 0.5, 0.75])
def test_noise_has_the_variance_of_the_model_at_every_light(value):
    """Foi's variance on the sensor, where red and blue have less light; then their gains multiply it."""
    shot, read = 0.0008, 0.004
    light = to_linear(make(shot=(shot, shot), read=(read, read))(grey(value, 400, 400), rng(3)))
    x = to_linear(np.float32(value))
    variance = light.reshape(-1, 3).var(axis=0)
    assert variance[1] == pytest.approx(shot * x + read**2, rel=0.03)
    assert (
        shot * 1.9 * x + (1.9 * read) ** 2 < variance[0] * 1.03
    )  # gains of red lie in [1.9,2.4], of blue in [1.5,1.9]
    assert variance[0] / 1.03 < shot * 2.4 * x + (2.4 * read) ** 2
    assert shot * 1.5 * x + (1.5 * read) ** 2 < variance[2] * 1.03
    assert variance[2] / 1.03 < shot * 1.9 * x + (1.9 * read) ** 2
    np.testing.assert_allclose(light.mean(axis=(0, 1)), x, rtol=5e-3)


@pytest.mark.parametrize(('grain', 'blotch'), [(0.0, 0.0), (0.7, 0.0), (0.0, 1.5), (1.0, 2.0)])
def test_correlated_noise_keeps_its_variance(grain, blotch):
    noise = _coloured_noise(rng(1), (500, 500, 3), grain, blotch)
    np.testing.assert_allclose(noise.std(axis=(0, 1)), 1, rtol=0.03)


def test_grain_correlates_neighbours_and_blotches_only_colours():
    def neighbours(noise):
        return [np.corrcoef(n[:, :-1].ravel(), n[:, 1:].ravel())[0, 1] for n in np.moveaxis(noise, 2, 0)]

    white, grained = (_coloured_noise(rng(2), (300, 300, 3), g, 0.0) for g in (0.0, 0.8))
    assert np.abs(neighbours(white)).max() < 0.02
    expected = np.exp(-1 / (4 * 0.8**2))  # a Gaussian with itself, one pixel apart
    np.testing.assert_allclose(neighbours(grained), expected, atol=0.03)
    blotched = _coloured_noise(rng(2), (300, 300, 3), 0.0, 1.5)
    bright = blotched.mean(axis=2)
    colour = blotched[..., 0] - blotched[..., 2]
    assert abs(np.corrcoef(bright[:, :-1].ravel(), bright[:, 1:].ravel())[0, 1]) < 0.03
    assert np.corrcoef(colour[:, :-1].ravel(), colour[:, 1:].ravel())[0, 1] > 0.8


def test_the_sensor_rounds_to_its_bits():
    ramp = np.linspace(0, 1, 600, dtype=np.float32)[None, :, None].repeat(3, axis=2).repeat(2, axis=0)
    green = to_linear(make(bits=(3, 3), read=(1e-7, 1e-7))(ramp, rng()))[..., 1]
    np.testing.assert_allclose(np.unique(np.round(green * 7, 3)), np.arange(8), atol=2e-3)


def test_vignetting_leaves_the_middle_and_takes_its_part_of_the_corners():
    field = _fall_off(rng(), 480, 640, 0.3)
    assert field[240, 320] == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose([field[0, 0], field[0, -1], field[-1, 0], field[-1, -1]], 0.7, atol=1e-3)
    assert np.ptp(_fall_off(rng(5), 64, 64, 0.3)) < 0.15  # a crop is a window of the photograph


def test_uneven_light_spans_about_its_stops_and_a_crop_less():
    stops = [
        np.log2(to_linear(make(uneven=(2, 2), exposure=(0.5, 0.5))(grey(0.5, 480, 640), rng(s)))) for s in range(8)
    ]
    span = np.mean([np.ptp(s) for s in stops])
    assert 0.8 < span <= 2.01
    crops = [np.log2(to_linear(make(uneven=(2, 2), exposure=(0.5, 0.5))(grey(0.5, 48, 48), rng(s)))) for s in range(8)]
    assert np.mean([np.ptp(c) for c in crops]) < 0.5 * span


def test_jpeg_is_the_file_of_that_quality(photos):
    """The same as writing and reading the file with OpenCV."""
    result = make(jpeg=1.0, quality=(70, 70))(photos[0], rng())
    pixels = np.rint(photos[0][..., ::-1] * 255).astype(np.uint8)
    data = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
    np.testing.assert_array_equal(np.rint(result[..., ::-1] * 255), cv2.imdecode(data, cv2.IMREAD_COLOR))


def test_about_the_given_part_of_the_photos_is_jpeg():
    changed = [(make(jpeg=0.3, quality=(30, 30), exposure=(0.999, 0.999))(image, rng(s)) * 255) % 1 for s, image in
               enumerate([np.random.default_rng(9).random((16, 16, 3), np.float32)] * 200)]  # fmt: skip
    stored = np.mean([np.abs(c - np.rint(c)).max() < 1e-3 for c in changed])  # whole 8-bit values
    assert 0.2 < stored < 0.4


def test_exposures_are_equally_likely_per_halving():
    left = [to_linear(make(exposure=(0.01, 1))(grey(1.0, 2, 2), rng(s))).mean() for s in range(400)]
    assert np.median(left) == pytest.approx(0.1, rel=0.3)


def test_same_generator_same_photo_other_generator_another(photos):
    low = LowLight()
    np.testing.assert_array_equal(low(photos[0], rng(1)), low(photos[0], rng(1)))
    assert (low(photos[0], rng(1)) != low(photos[0], rng(2))).mean() > 0.5


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'exposure': (0, 1)}, r'LowLight: exposure is \[0, 1\]'),
        ({'gamma': (1, 9)}, 'LowLight: gamma'),
        ({'uneven': (-1, 1)}, 'LowLight: uneven'),
        ({'vignette': (0, 2)}, 'LowLight: vignette'),
        ({'red': (0, 1)}, 'LowLight: red'),
        ({'blue': (2, 1)}, 'LowLight: blue'),
        ({'shot': (-1, 0)}, 'LowLight: shot'),
        ({'read': (0, float('nan'))}, 'LowLight: read'),
        ({'grain': (0, 99)}, 'LowLight: grain'),
        ({'blotch': (1,)}, 'LowLight: blotch'),
        ({'black': (-1, 0)}, 'LowLight: black'),
        ({'bits': (1, 8)}, 'LowLight: bits'),
        ({'jpeg': 1.5}, 'LowLight: jpeg'),
        ({'quality': (0, 50)}, 'LowLight: quality'),
    ],
)
def test_impossible_options_name_the_parameter(arguments, words):
    with pytest.raises(OptionError, match=words):
        LowLight(**arguments)


def _lol_pairs():
    root = os.environ.get('QUALIR_DATA')
    folder = Path(root or '', 'LOLv1', 'our485')
    if not root or not (folder / 'low').is_dir():
        pytest.skip('QUALIR_DATA is not set, or holds no LOLv1/our485/{low,high}')
    names = sorted(p.name for p in (folder / 'low').iterdir())
    return [(read_image(folder / 'low' / n), read_image(folder / 'high' / n)) for n in names]


def test_defaults_cover_the_exposures_and_the_noise_of_lol():
    """Four of five real pairs lie within the default ranges of exposure, colour cast and green noise."""
    low = LowLight()
    inside = []
    for dark, bright in _lol_pairs():
        small = [cv2.resize(to_linear(i), (60, 40), interpolation=cv2.INTER_AREA) for i in (dark, bright)]
        seen = (small[1].min(axis=2) > 0.02) & (small[1].max(axis=2) < 0.8)
        ratio = np.median(small[0][seen] / small[1][seen], axis=0)
        second = cv2.filter2D(to_linear(dark)[..., 1], -1, np.outer([1, -2, 1], [1, -2, 1]) / 6)
        noise = 1.4826 * np.median(np.abs(second))
        mean = np.median(small[0][..., 1])
        weakest, strongest = (np.sqrt(low.shot[k] * mean + low.read[k] ** 2) for k in (0, 1))
        inside.append([
            low.exposure[0] * 0.5 <= ratio[1] <= low.exposure[1],  # the tone curve takes up to half of it
            low.red[0] / 1.1 <= ratio[0] / ratio[1] <= low.red[1] * 1.1,
            low.blue[0] / 1.1 <= ratio[2] / ratio[1] <= low.blue[1] * 1.1,
            weakest <= noise <= strongest,
        ])  # fmt: skip
    assert (np.mean(inside, axis=0) >= 0.8).all(), np.mean(inside, axis=0)
