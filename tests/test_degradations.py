"""Degradations: repeatable, in range, and each does what its model says."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr.data._fields import clouds, scene_depth, smooth_noise, to_linear, to_srgb
from basicsr.errors import OptionError
from basicsr.image_io import list_images, read_image
from basicsr.registry import DEGRADATION_REGISTRY

from .weather import grey, make, rng

TASKS = {'Haze': 'haze', 'Rain': 'rain', 'Snow': 'snow', 'LowLight': 'low_light', 'Underwater': 'underwater'}

# Arguments at which a model says that nothing changes.
NOTHING = {
    'Haze': {'beta': (0, 0)},
    'Rain': {'amount': (0, 0), 'veil': (0, 0)},
    'Snow': {'opacity': (0, 0), 'veil': (0, 0)},
    'LowLight': {
        'exposure': (1, 1),
        'gamma': (1, 1),
        'uneven': (0, 0),
        'vignette': (0, 0),
        'red': (1, 1),
        'blue': (1, 1),
        'shot': (0, 0),
        'read': (0, 0),
        'black': (0, 0),
        'jpeg': 0.0,
    },
    'Underwater': {'depth': (0, 0), 'distance': (0, 0)},
}


@pytest.fixture(scope='module')
def photos(request):
    files = list_images(request.config.rootpath / 'datasets' / 'sample' / 'val')
    return [read_image(f)[:320, :480] for f in files]


def psnr(a, b):
    return float(-10 * np.log10(np.mean((np.rint(a * 255) / 255 - np.rint(b * 255) / 255) ** 2)))


def test_the_five_are_registered_with_their_tasks():
    assert set(TASKS) <= set(DEGRADATION_REGISTRY.keys())
    assert {name: make(name).task for name in TASKS} == TASKS


@pytest.mark.parametrize('name', TASKS)
def test_the_generator_alone_decides(name, photos):
    degrade = make(name)
    first = degrade(photos[0], rng(1))
    np.random.seed(0)
    np.testing.assert_array_equal(first, degrade(photos[0], rng(1)))
    np.testing.assert_array_equal(first, make(name)(photos[0], rng(1)))
    assert np.abs(first - degrade(photos[0], rng(2))).max() > 0.01


def test_another_process_draws_the_same(tmp_path, request):
    code = (
        'import json, numpy as np; from basicsr.registry import DEGRADATION_REGISTRY as R; '
        'x = np.linspace(0, 1, 40 * 40 * 3, dtype=np.float32).reshape(40, 40, 3); '
        f'print(json.dumps({{n: float(R.get(n)()(x, np.random.default_rng(5)).sum()) for n in {list(TASKS)}}}))'
    )
    run = subprocess.run(
        [sys.executable, '-c', code], cwd=request.config.rootpath, capture_output=True, text=True, check=True
    )
    x = np.linspace(0, 1, 40 * 40 * 3, dtype=np.float32).reshape(40, 40, 3)
    assert json.loads(run.stdout) == {n: float(make(n)(x, rng(5)).sum()) for n in TASKS}


@pytest.mark.parametrize('name', TASKS)
@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    seed=st.integers(0, 2**32 - 1),
    level=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_shape_type_and_range_hold_for_any_size(name, height, width, seed, level):
    image = np.full((height, width, 3), level, np.float32)
    result = make(name)(image, rng(seed))
    assert result.shape == image.shape
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1
    assert (image == level).all()  # the input is not written to


@pytest.mark.parametrize('name', TASKS)
def test_without_strength_nothing_changes(name, photos):
    np.testing.assert_allclose(make(name, **NOTHING[name])(photos[0], rng()), photos[0], atol=2e-6)


@pytest.mark.parametrize(
    ('name', 'parameter', 'values'),
    [
        ('Haze', 'beta', [0, 0.5, 1, 2, 4]),
        ('Rain', 'amount', [0, 0.3, 1, 3]),
        ('Rain', 'opacity', [0, 0.2, 0.5, 1]),
        ('Rain', 'veil', [0, 0.05, 0.2]),
        ('Snow', 'amount', [0, 0.3, 1, 3]),
        ('Snow', 'opacity', [0, 0.3, 0.6, 1]),
        ('Snow', 'veil', [0, 0.05, 0.2]),
        ('LowLight', 'exposure', [1, 0.4, 0.1, 0.02]),
        ('LowLight', 'gamma', [1, 1.5, 2]),
        ('Underwater', 'depth', [0, 2, 5, 10]),
    ],
)
def test_more_of_a_parameter_is_farther_from_the_photo(name, parameter, values, photos):
    photo = photos[1][:240, :320]
    quiet = {
        'LowLight': NOTHING['LowLight'],
        'Underwater': {'water': ('II',), 'exposure': (0, 0), 'balance': (0, 0), 'visibility': None},
    }.get(name, {})
    distances = [
        np.mean([np.abs(make(name, **{**quiet, parameter: (v, v)})(photo, rng(s)) - photo).mean() for s in range(3)])
        for v in values
    ]
    assert distances == sorted(distances)
    assert distances[-1] > distances[0] + 0.01


def test_rain_and_snow_only_add_light_to_a_dark_scene():
    for name in ('Rain', 'Snow'):
        result = make(name, veil=(0, 0))(grey(0.2), rng())
        assert result.min() >= 0.2 - 1e-5
        assert result.max() > 0.3


def test_rain_streaks_run_along_their_angle():
    """Brightness changes less along the streaks than across them."""
    for angle, along in ((0, 0), (90, 1)):
        result = make('Rain', angle=(angle, angle), veil=(0, 0), length=(40, 40))(grey(0.1, 128, 128), rng())[..., 0]
        change = [np.abs(np.diff(result, axis=axis)).mean() for axis in (0, 1)]
        assert change[along] < 0.5 * change[1 - along]


def test_streaks_are_as_dense_on_a_crop_as_on_a_photo():
    """Nothing is thinned out or heaped up at the border."""
    rain = make('Rain', amount=(1, 1), veil=(0, 0), opacity=(0.4, 0.4), length=(30, 30), light=(0.9, 0.9))
    large = np.mean([rain(grey(0.1, 480, 640), rng(s)).mean() for s in range(4)])
    small = np.mean([rain(grey(0.1, 64, 64), rng(s)).mean() for s in range(150)])
    assert small - 0.1 == pytest.approx(large - 0.1, rel=0.1)


@pytest.mark.parametrize(
    ('name', 'low', 'high'),
    [('Haze', 12, 18), ('Rain', 20, 27), ('Snow', 18, 25), ('LowLight', 8, 14), ('Underwater', 13, 20)],
)
def test_defaults_are_hard_but_not_hopeless(name, low, high, photos):
    """Mean PSNR of the degraded sample photographs."""
    degrade = make(name)
    scores = [psnr(degrade(p, rng((i, k))), p) for i, p in enumerate(photos) for k in range(4)]
    assert low < np.mean(scores) < high


@pytest.mark.parametrize(
    ('name', 'arguments', 'words'),
    [
        ('Haze', {'beta': (2, 1)}, r'Haze: beta is \[2, 1\]'),
        ('Haze', {'airlight': (0.5, 1.5)}, 'between 0 and 1'),
        ('Rain', {'opacity': (-0.1, 0.5)}, 'Rain: opacity'),
        ('Snow', {'size': (0.0, 1.0)}, 'Snow: size'),
        ('Snow', {'amount': (0.1,)}, 'Snow: amount'),
        ('LowLight', {'exposure': (0, 1)}, 'LowLight: exposure'),
        ('LowLight', {'gamma': (float('nan'), 1)}, 'LowLight: gamma'),
        ('Underwater', {'water': ('IV',)}, 'must list some of I, IA'),
        ('Underwater', {'water': ()}, 'must list some of I, IA'),
    ],
)
def test_impossible_ranges_are_refused(name, arguments, words):
    with pytest.raises(OptionError, match=words):
        make(name, **arguments)


def test_the_display_curve_and_its_inverse():
    values = np.linspace(0, 1, 256, dtype=np.float32)
    np.testing.assert_allclose(to_srgb(to_linear(values)), values, atol=2e-6)
    assert to_linear(np.float32(0.5)) == pytest.approx(0.21404114, abs=1e-6)  # published value of the sRGB curve
    np.testing.assert_allclose(to_srgb(np.array([-1.0, 2.0], np.float32)), [0, 1], atol=1e-6)


def test_smooth_noise_is_smooth_and_centred():
    surface = smooth_noise(rng(), 400, 300, cell=40)
    assert surface.shape == (400, 300)
    assert surface.dtype == np.float32
    assert np.abs(surface).max() <= 1
    assert abs(surface.mean()) < 0.1
    assert np.abs(np.diff(surface, axis=0)).max() < 0.1
    assert surface.std() > 0.15


def test_a_crop_shows_a_part_of_the_slope_and_no_small_hills():
    """A window of 64 pixels varies far less than a photograph; a field stretched to the crop would vary as much."""
    whole = np.mean([np.ptp(scene_depth(rng(s), 480, 640)) for s in range(20)])
    crop = np.mean([np.ptp(scene_depth(rng(s), 64, 64)) for s in range(20)])
    assert crop < 0.5 * whole
    assert min(scene_depth(rng(s), 64, 64).min() for s in range(50)) >= 0
    assert max(scene_depth(rng(s), 64, 64).max() for s in range(50)) <= 1


def test_clouds_fill_the_range():
    values = np.concatenate([clouds(rng(s), 200, 200, 80).ravel() for s in range(10)])
    assert values.min() >= 0
    assert values.max() <= 1
    assert 0.4 < values.mean() < 0.6
    assert values.std() > 0.1
