"""Haze and Underwater: the physics by hand-made numbers, the drawn depth, and what files hold of the coefficients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr.data._depth import photo_depth
from basicsr.data._fields import to_linear, to_srgb
from basicsr.data._water import JERLOV, PARTICLES_BACKWARD, UWCNN, WAVELENGTHS, water
from basicsr.errors import DataError, OptionError
from basicsr.image_io import list_images, read_image

from .weather import grey, make, rng

# Haze of one distance and one air; a lens and a camera that change nothing.
EVEN = {'near': (1, 1), 'tint': 0.0, 'dim': (0, 0), 'patchy': (0, 0)}
BARE = {
    'visibility': None, 'near': (1, 1), 'veil': (0, 0), 'forward': (0, 0), 'exposure': (0, 0), 'balance': (0, 0),
    'sunlit': (0, 0),
}  # fmt: skip
RIDCP = {
    'beta': (0.6, 3.0), 'near': (0, 0), 'airlight': (0.25, 1.0), 'tint': 0.0, 'jitter': 0.025, 'dim': (0, 0),
    'patchy': (0, 0), 'linear': False, 'stretch_depth': True,
}  # fmt: skip


def light(value):
    """The display curve of IEC 61966-2-1, written out again."""
    return ((value + 0.055) / 1.055) ** 2.4 if value > 0.04045 else value / 12.92


def display(value):
    return 1.055 * value ** (1 / 2.4) - 0.055 if value > 0.0031308 else 12.92 * value


@pytest.fixture(scope='module')
def photos(request):
    files = list_images(request.config.rootpath / 'datasets' / 'sample' / 'val')
    return [read_image(f)[:320, :480] for f in files]


def test_haze_follows_koschmieders_law_in_linear_light():
    """At one distance: I = J t + A (1 - t) with t = exp(-beta)."""
    result = make('Haze', beta=(0.7, 0.7), airlight=(0.9, 0.9), **EVEN)(grey(0.3), rng())
    t = np.exp(-0.7)
    np.testing.assert_allclose(result, display(light(0.3) * t + light(0.9) * (1 - t)), atol=1e-5)


def test_haze_follows_the_depth_map():
    """Columns of depth 0, 0.5 and 1 at beta 2, blended in display values: t = 1, 1/e and 1/e^2."""
    depth = np.repeat(np.array([[0.0, 0.5, 1.0]], np.float32), 4, axis=0)
    haze = make('Haze', beta=(2, 2), airlight=(0.8, 0.8), **{**EVEN, 'near': (0, 0)}, linear=False)
    result = haze(grey(0.2, 4, 3), rng(), depth)
    expected = 0.2 * np.exp([0, -1, -2]) + 0.8 * (1 - np.exp([0, -1, -2]))
    np.testing.assert_allclose(result, np.broadcast_to(expected[:, None], (4, 3, 3)), atol=1e-6)


def test_ridcps_recipe_gives_ridcps_haze():
    """t = exp(-2 beta (1 - d)), d the min-max normalised inverse depth, beta in [.3,1.5]; display values blend."""
    image, inverse = rng(3).random((20, 30, 3), np.float32), rng(4).uniform(2, 9, (20, 30)).astype(np.float32)
    d = (inverse - inverse.min()) / np.ptp(inverse)
    beta, air = [], []
    for seed in range(200):
        haze = [make('Haze', **RIDCP)(x, rng(seed), 1 - d) for x in (image, np.zeros_like(image), np.ones_like(image))]
        far, near = (np.unravel_index(k, d.shape) for k in (d.argmin(), d.argmax()))
        np.testing.assert_allclose(haze[0][near], image[near], atol=1e-6)
        t = (haze[2] - haze[1])[far].mean()  # a white scene less a black one shows the transmission
        beta.append(-np.log(t) / 2)
        air.append(haze[1][far] / (1 - t))
        if air[-1].max() < 0.999:  # nothing was clipped
            map_t = np.exp(-2 * beta[-1] * (1 - d))[..., None]
            np.testing.assert_allclose(haze[0], image * map_t + air[-1] * (1 - map_t), atol=1e-4)
    assert 0.3 <= min(beta) < 0.35
    assert 1.45 < max(beta) <= 1.5001
    assert 0.22 <= np.min(air) < 0.3
    assert np.ptp(np.array(air), axis=1).max() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize('chance', ['gamma_p', 'noise_p', 'jpeg_p'])
def test_ridcps_wear_comes_with_its_probability(chance, photos):
    photo = photos[0][:64, :64]
    worn = make('Haze', beta=(0, 0), **{chance: 0.5})
    changed = [bool(np.any(worn(photo, rng(s)) != photo)) for s in range(60)]
    assert 15 < sum(changed) < 45
    assert not np.array_equal(make('Haze', beta=(0, 0), **{chance: 1.0})(photo, rng()), photo)


def test_the_gamma_of_the_haze_is_a_power_of_display_values():
    worn = make('Haze', beta=(0, 0), gamma=(2, 2), gamma_p=1.0)
    np.testing.assert_allclose(worn(grey(0.5), rng()), 0.25, atol=1e-6)


def test_dim_air_lights_a_dim_scene():
    """At dim 1 the scene's light is multiplied by that of the air; no haze lies before it here but the thinnest."""
    thin = make('Haze', beta=(1e-6, 1e-6), airlight=(0.6, 0.6), **{**EVEN, 'dim': (1, 1)})
    np.testing.assert_allclose(thin(grey(0.5), rng()), display(light(0.5) * light(0.6)), atol=1e-5)


def test_haze_lowers_contrast_and_tends_to_the_air(photos):
    contrast = [make('Haze', beta=(b, b))(photos[0], rng()).std() for b in (0.2, 0.8, 2.0)]
    assert contrast == sorted(contrast, reverse=True)
    thick = make('Haze', beta=(10, 10), airlight=(0.7, 0.7), **EVEN)(photos[0], rng())
    np.testing.assert_allclose(thick, 0.7, atol=2e-3)


def test_haze_is_thicker_above_and_on_the_sky(photos):
    rows = np.mean([make('Haze', tint=0.0)(grey(0.1, 480, 64), rng(s)).mean(axis=(1, 2)) for s in range(20)], axis=0)
    assert rows[:120].mean() > rows[180:300].mean() > rows[-120:].mean()


def test_patchy_haze_varies_from_place_to_place():
    even = make('Haze', beta=(1, 1), **EVEN)(grey(0.1, 480, 480), rng())
    patchy = make('Haze', beta=(1, 1), **{**EVEN, 'patchy': (1, 1)})(grey(0.1, 480, 480), rng())
    assert np.ptp(even) < 1e-5
    assert np.ptp(patchy) > 0.1


@pytest.mark.parametrize('seed', range(3))
def test_without_strength_the_picture_is_the_same_to_the_bit(seed, photos):
    np.testing.assert_array_equal(make('Haze', beta=(0, 0))(photos[0], rng(seed)), photos[0])
    same = make('Underwater', depth=(0, 0), distance=(0, 0))(photos[0], rng(seed))
    np.testing.assert_array_equal(same, photos[0])
    assert same is not photos[0]


@pytest.mark.parametrize('name', ['Haze', 'Underwater'])
def test_a_given_depth_must_fit_the_picture(name):
    with pytest.raises(DataError, match=r'the depth map is of shape \(3, 4\), the image of \(5, 4\)'):
        make(name)(grey(0.5, 5, 4), rng(), np.zeros((3, 4), np.float32))
    assert make(name).uses_depth is True


@pytest.mark.parametrize('name', ['Haze', 'Underwater'])
@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 2**32 - 1))
def test_everything_at_once_stays_in_range_and_repeats(name, height, width, seed):
    worn = {'Haze': {'gamma_p': 1.0}, 'Underwater': {'specks_p': 1.0}}[name]
    degrade = make(name, noise_p=1.0, jpeg_p=1.0, **worn)
    image = rng(seed).random((height, width, 3), np.float32)
    depth = rng(seed + 1).random((height, width), np.float32)
    first = degrade(image, rng(seed), depth)
    assert first.shape == image.shape
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert first.min() >= 0
    assert first.max() <= 1
    np.testing.assert_array_equal(first, degrade(image, rng(seed), depth))


def test_jerlovs_table_is_jerlovs_table():
    """Marine Optics (1976), table XXVII, in per cent per metre: 475, 525 and 600 nm, as another project typed it."""
    table = {
        'I': (1.8, 4.3, 23.5), 'IA': (2.5, 4.8, 24), 'IB': (3.3, 5.4, 24.5), 'II': (6.2, 7.6, 26),
        'III': (11.6, 11.6, 29.5), '1C': (17, 13, 30), '3C': (29, 20, 33), '5C': (43, 31, 40), '7C': (71, 49, 48),
        '9C': (123, 78, 60),
    }  # fmt: skip
    assert list(table) == list(JERLOV)
    for kind, (daylight, _, _) in JERLOV.items():
        np.testing.assert_allclose(daylight[::-1], np.array(table[kind]) / 100, rtol=1e-9)


def test_measured_properties_agree_with_a_second_copy_of_them():
    """Williamson and Hollins (2022) as M. Monzon et al. (CGF 2024) print them at 20 wavelengths: b and c = a + b."""
    wavelengths = np.linspace(400, 700, 20)[[4, 5, 7, 8, 12, 13]]
    copies = {
        'IB': ([0.133, 0.130, 0.127, 0.124, 0.119, 0.117], [0.171, 0.167, 0.173, 0.176, 0.257, 0.369]),
        'II': ([0.192, 0.189, 0.183, 0.180, 0.171, 0.169], [0.250, 0.243, 0.240, 0.241, 0.314, 0.424]),
        'III': ([0.306, 0.302, 0.295, 0.292, 0.280, 0.277], [0.408, 0.394, 0.378, 0.374, 0.434, 0.543]),
        '1C': ([0.451, 0.446, 0.437, 0.433, 0.418, 0.414], [0.585, 0.563, 0.538, 0.530, 0.579, 0.687]),
        '3C': ([0.680, 0.673, 0.660, 0.653, 0.631, 0.625], [0.862, 0.834, 0.799, 0.784, 0.814, 0.918]),
        '5C': ([1.257, 1.241, 1.219, 1.210, 1.170, 1.160], [1.532, 1.474, 1.407, 1.383, 1.371, 1.470]),
    }
    for kind, (b, c) in copies.items():
        _, absorption, scattering = (np.array(v) for v in JERLOV[kind])
        np.testing.assert_allclose(scattering, np.interp(WAVELENGTHS, wavelengths, b), rtol=0.02)
        np.testing.assert_allclose(absorption + scattering, np.interp(WAVELENGTHS, wavelengths, c), rtol=0.05)


def test_modelled_properties_obey_the_equations_of_their_paper():
    """Solonenko and Mobley (2015): b by equation 8 with table 3, and K_d by equation 3, within the paper's rounding."""
    table_3 = {'7C': (0.067, 2.64, 0.0005), '9C': (0.016, 3.54, 0.0005)}  # large, small particles, eta
    modelled = {'7C': (0.527, 0.470, 0.710), '9C': (0.720, 0.826, 1.24)}  # their K_d at 600, 525, 475 nm
    ratio = 400 / np.array(WAVELENGTHS)
    for kind, (large, small, eta) in table_3.items():
        _, a, b = (np.array(v) for v in JERLOV[kind])
        predicted = 5.83e-3 * ratio**4.322 + small * 1.513 * ratio**1.7 + large * 0.3411 * ratio**0.3
        np.testing.assert_allclose(b, predicted, rtol=0.03)
        slope = (0.451 + 2.584 * eta) * 0.85 - (0.205 + 0.521 * eta)
        np.testing.assert_allclose(a / 0.85 * np.sqrt(1 + b / a * slope), modelled[kind], rtol=0.08)
    for kind, eta in (('I', 0.93), ('IA', 0.44)):
        _, a, b = (np.array(v) for v in JERLOV[kind])
        slope = (0.451 + 2.584 * eta) * 0.98 - (0.205 + 0.521 * eta)
        expected = {'I': (0.233, 0.049, 0.021), 'IA': (0.234, 0.0503, 0.0253)}[kind]
        np.testing.assert_allclose(a / 0.98 * np.sqrt(1 + b / a * slope), expected, rtol=0.08)


def test_properties_grow_from_type_to_type():
    """Green light: every type absorbs and scatters more than the one before, and K_d lies between a and a + b."""
    green = np.array([[v[1] for v in JERLOV[kind]] for kind in JERLOV])
    assert (np.diff(green, axis=0) >= -1e-9).all()
    assert (green[4:, 0] > green[4:, 1]).all()
    assert (green[1:, 0] < green[1:, 1] + green[1:, 2]).all()


def test_uwcnns_table_agrees_with_a_second_copy_of_it():
    """Blue, green, red as a program of others has them; green is also Jerlov's exp(-K_d)."""
    copy = [
        (0.982, 0.961, 0.805), (0.975, 0.955, 0.804), (0.968, 0.950, 0.830), (0.940, 0.925, 0.800),
        (0.890, 0.885, 0.750), (0.875, 0.885, 0.750), (0.800, 0.820, 0.710), (0.670, 0.730, 0.670),
        (0.500, 0.610, 0.620), (0.290, 0.460, 0.550),
    ]  # fmt: skip
    assert [left[::-1] for left in UWCNN.values()] == copy
    for kind, left in UWCNN.items():
        assert left[1] == pytest.approx(np.exp(-JERLOV[kind][0][1]), abs=0.01)


def test_uwcnns_recipe_gives_uwcnns_water():
    """Type 3, 4 m deep, depth map 0.5 of 10 m: A = 1.5 N^4, t = N^5, I = A J t + (1 - t) A, by hand."""
    recipe = make('UnderwaterUWCNN', water=('3C',), depth=(4, 4), distance=(10, 10))
    result = recipe(grey(0.6, 8, 8), rng(), np.full((8, 8), 0.5, np.float32))
    n = np.array([0.71, 0.82, 0.8])
    np.testing.assert_allclose(result[0, 0], 1.5 * n**4 * (0.6 * n**5 + 1 - n**5), rtol=1e-5)
    assert recipe.task == 'underwater'


def test_the_backscattering_is_half_of_waters_and_a_fiftieth_of_particles():
    """Type 5C at 525 nm by hand: pure water 5.83e-3 (400/525)^4.322 = 0.0018 per metre, particles the rest of 1.21."""
    pure = 5.83e-3 * (400 / 525) ** 4.322
    assert pure == pytest.approx(0.0018, abs=2e-5)
    expected = 0.5 * pure + PARTICLES_BACKWARD * (1.21 - pure)
    assert water('5C').backward[1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('kind', JERLOV)
def test_daylight_decays_by_jerlovs_coefficients(kind):
    """1 m down, nothing between camera and scene: exp(-K_d)."""
    result = make('Underwater', water=(kind,), depth=(1, 1), distance=(0, 0), **BARE)(grey(0.8), rng())
    np.testing.assert_allclose(to_linear(result)[0, 0] / light(0.8), np.exp(-np.array(JERLOV[kind][0])), rtol=1e-4)


@pytest.mark.parametrize('kind', JERLOV)
def test_the_line_of_sight_decays_by_absorption_and_scattering(kind):
    """1 m between camera and scene, at the surface: exp(-(a + b))."""
    result = make('Underwater', water=(kind,), depth=(0, 0), distance=(1, 1), **BARE)(grey(0.9), rng())
    _, a, b = (np.array(v) for v in JERLOV[kind])
    np.testing.assert_allclose(to_linear(result)[0, 0] / light(0.9), np.exp(-(a + b)), rtol=2e-3)


def test_water_alone_has_the_colour_of_its_backscattering():
    """Endless 3C water at the surface: veil b_b / (a + b_b), whatever the scene."""
    endless = {**BARE, 'veil': (2, 2), 'water': ('3C',), 'depth': (0, 0), 'distance': (100, 100)}
    dark, bright = (make('Underwater', **endless)(grey(v), rng()) for v in (0.1, 0.9))
    np.testing.assert_allclose(dark, bright, atol=1e-5)
    kind = water('3C')
    np.testing.assert_allclose(to_linear(dark)[0, 0], 2 * kind.backward / (kind.absorption + kind.backward), rtol=1e-4)


def test_light_scattered_forward_is_not_lost_but_blurred():
    """A grey scene looks brighter by exp(f b z); an edge looks softer."""
    seen = {f: make('Underwater', water=('1C',), depth=(0, 0), distance=(2, 2), **{**BARE, 'forward': (f, f)})
            for f in (0, 0.7)}  # fmt: skip
    ratio = to_linear(seen[0.7](grey(0.8), rng())) / to_linear(seen[0](grey(0.8), rng()))
    np.testing.assert_allclose(ratio[0, 0], np.exp(0.7 * 2 * np.array(JERLOV['1C'][2])), rtol=2e-3)
    edge = np.repeat(np.where(np.arange(128) < 64, 0.2, 0.8), 3).reshape(1, 128, 3).repeat(96, 0).astype(np.float32)
    steep = [np.abs(np.diff(seen[f](edge, rng())[48, :, 1])).max() / np.ptp(seen[f](edge, rng())[48, :, 1])
             for f in (0, 0.7)]  # fmt: skip
    assert steep[1] < 0.9 * steep[0]


def test_the_camera_makes_up_for_what_it_is_asked_to():
    """Full exposure and balance show a grey wall at its brightness and without a cast."""
    kept = {**BARE, 'exposure': (1, 1), 'balance': (1, 1), 'water': ('II',), 'depth': (3, 3), 'distance': (0, 0)}
    wall = grey(float(to_srgb(np.float32(0.2))))
    np.testing.assert_allclose(make('Underwater', **kept)(wall, rng()), wall, atol=1e-3)
    cast = make('Underwater', **{**kept, 'balance': (0, 0)})(wall, rng())[0, 0]
    assert cast[0] < cast[1] < cast[2]
    assert light(cast[0]) * 0.2126 + light(cast[1]) * 0.7152 + light(cast[2]) * 0.0722 == pytest.approx(0.2, abs=1e-3)


def test_divers_come_near_in_murky_water():
    """At visibility 1 the clearest colour of the farthest point is left to 1/e, however far that should have been."""
    near = {**BARE, 'visibility': 1.0, 'water': ('9C',), 'depth': (0, 0), 'distance': (50, 50)}
    left = to_linear(make('Underwater', **near)(grey(0.9), rng()))[0, 0] / light(0.9)
    assert left.max() == pytest.approx(np.exp(-1), rel=1e-3)


def test_water_takes_red_first_in_the_ocean_and_blue_first_at_the_coast():
    clear = {**BARE, 'depth': (6, 6), 'distance': (1, 1)}
    ocean = make('Underwater', water=('I',), **clear)(grey(0.9), rng()).mean(axis=(0, 1))
    coast = make('Underwater', water=('9C',), **{**clear, 'depth': (1, 1)})(grey(0.9), rng()).mean(axis=(0, 1))
    assert ocean[0] < ocean[1] < ocean[2]
    assert coast[0] > coast[1] > coast[2]


def test_specks_are_sparse_and_bright():
    specks = make('Underwater', depth=(0, 0), distance=(0, 0), specks=(1000, 1000), specks_p=1.0)
    scene = grey(0.2, 480, 640)
    scene[:48] = 0.9
    changed = np.abs(specks(scene, rng()) - scene)[48:].max(axis=2) > 0.02
    assert 0.0005 < changed.mean() < 0.05


def test_the_drawn_depth_has_the_photos_edges(photos):
    """A bright square on a dark ground: the depth steps at its border, and nowhere so much inside."""
    scene = grey(0.15, 240, 320)
    scene[80:160, 120:200] = 0.75
    steps = []
    for seed in range(12):
        depth = photo_depth(rng(seed), scene)
        across = np.abs(np.diff(depth[120, 60:260]))
        steps.append(across[[58, 59, 60, 138, 139, 140]].max() / max(across[80:120].max(), 1e-6))
    assert np.median(steps) > 5


def test_a_bright_smooth_top_is_sky_and_farthest():
    scene = np.full((240, 320, 3), (0.55, 0.7, 0.95), np.float32)
    scene[120:] = rng(1).uniform(0.05, 0.4, (120, 320, 3))
    for seed in range(5):
        depth = photo_depth(rng(seed), scene)
        assert depth[:100].min() > 0.9
        assert depth[-40:].max() < 0.9


def test_the_drawn_depth_of_a_crop_varies_less_than_a_photos(photos):
    """A window of 64 pixels shows a part of the slope, not the whole of it."""
    plain = [np.ptp(photo_depth(rng(s), grey(0.3, h, w))) for s in range(25) for h, w in ((480, 640), (64, 64))]
    assert np.mean(plain[1::2]) < 0.6 * np.mean(plain[::2])
    for photo in photos[:4]:
        depth = photo_depth(rng(), photo)
        assert depth.shape == photo.shape[:2]
        assert depth.dtype == np.float32
        assert depth.min() >= 0
        assert depth.max() <= 1


def test_a_crop_is_drawn_like_a_crop_of_a_drawn_photo(photos):
    """Mean distance and its range within crops of 96 pixels, cut before or after the scene was drawn."""
    found = {'before': [], 'after': []}
    for seed, photo in enumerate(photos * 3):
        y, x = (int(rng(seed).integers(0, n - 95)) for n in photo.shape[:2])
        crop = np.s_[y : y + 96, x : x + 96]
        found['after'].append(photo_depth(rng(seed), photo)[crop])
        found['before'].append(photo_depth(rng(seed + 500), np.ascontiguousarray(photo[crop])))
    mean = {k: np.mean([d.mean() for d in v]) for k, v in found.items()}
    extent = {k: np.mean([np.ptp(d) for d in v]) for k, v in found.items()}
    assert mean['before'] == pytest.approx(mean['after'], abs=0.12)
    assert 0.6 < extent['before'] / extent['after'] < 1.7


@pytest.mark.parametrize(
    ('name', 'arguments', 'words'),
    [
        ('Haze', {'beta': (2, 1)}, r'Haze: beta is \[2, 1\]'),
        ('Haze', {'dim': (0, 2)}, 'Haze: dim'),
        ('Haze', {'patchy': (0, 1.1)}, 'Haze: patchy'),
        ('Haze', {'tint': -0.1}, 'Haze: tint'),
        ('Haze', {'jpeg': (0, 90)}, 'Haze: jpeg'),
        ('Haze', {'noise_p': 1.5}, 'Haze: noise_p is 1.5; it must be a probability'),
        ('Underwater', {'water': ('2C',)}, 'must list some of I, IA'),
        ('Underwater', {'visibility': 0.0}, 'Underwater: visibility'),
        ('Underwater', {'forward': (0, 1.2)}, 'Underwater: forward'),
        ('Underwater', {'jpeg_p': float('nan')}, 'Underwater: jpeg_p'),
    ],
)
def test_impossible_options_are_refused(name, arguments, words):
    with pytest.raises(OptionError, match=words):
        make(name, **arguments)
