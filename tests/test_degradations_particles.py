"""Rain and snow: single particles against values worked out by hand, then whole photographs."""

import cv2
import numpy as np
import pytest

from basicsr.data._fields import to_linear, to_srgb
from basicsr.data._particles import (
    blend,
    draw_flakes,
    draw_streaks,
    flakes,
    lens_drops,
    mist,
    scatter,
    specks,
    streaks,
)
from basicsr.errors import OptionError
from basicsr.image_io import list_images, read_image

from .weather import grey, make, rng

RAIN_STYLES = {
    'Rain100L': {
        'amount': (0.1, 0.8), 'length': (40, 100), 'width': (1.2, 2), 'spread': (2, 6), 'directions': (1, 1),
        'opacity': (0.5, 1), 'blend': 'display',
    },
    'Rain100H': {
        'amount': (2, 4), 'length': (40, 120), 'directions': (5, 5), 'gust': 30.0, 'opacity': (0.5, 1),
        'blend': 'display',
    },
    'Rain1400': {
        'amount': (1, 5), 'length': (15, 60), 'width': (1, 2), 'angle': (-45, 45), 'directions': (1, 1),
        'opacity': (0.3, 0.8), 'blend': 'display',
    },
}  # fmt: skip


@pytest.fixture(scope='module')
def photo(request):
    return read_image(list_images(request.config.rootpath / 'datasets' / 'sample' / 'val')[0])[:240, :320]


def one_streak(**changes):
    values = {'x': 50, 'y': 50, 'length': 60, 'angle': 0, 'value': 1, 'taper': 0.2, **changes}
    width = values.pop('width', 4.0)
    blur = values.pop('blur', 0.0)
    return draw_streaks((101, 101), *(np.array([v], float) for v in values.values()), width, blur)


def half_width(profile):
    """Full width at half maximum of a profile with one peak, between pixels."""
    above = np.flatnonzero(profile >= profile.max() / 2)
    half, first, last = profile.max() / 2, above[0], above[-1]
    left = first - (profile[first] - half) / (profile[first] - profile[first - 1])
    right = last + (profile[last] - half) / (profile[last] - profile[last + 1])
    return right - left


def direction(layer):
    """Main direction of a layer by the structure tensor: degrees from straight down, positive to the right."""
    smooth = cv2.GaussianBlur(layer, (0, 0), 1.0)
    gx, gy = cv2.Sobel(smooth, cv2.CV_64F, 1, 0), cv2.Sobel(smooth, cv2.CV_64F, 0, 1)
    across = 0.5 * np.arctan2(2 * (gx * gy).mean(), (gx * gx - gy * gy).mean())
    return -np.rad2deg(across)


def test_a_point_is_shared_among_four_pixels():
    values = scatter(4, 5, np.array([1.25, 40.0], np.float32), np.array([2.5, 1.0], np.float32), np.array([8.0, 1.0]))
    expected = np.zeros((4, 5))
    expected[2:4, 1], expected[2:4, 2] = 8 * 0.75 * 0.5, 8 * 0.25 * 0.5
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_a_point_beyond_the_border_adds_its_part_of_the_border():
    np.testing.assert_allclose(scatter(2, 2, np.array([-0.25]), np.array([0.0]), np.array([1.0])), [[0.75, 0], [0, 0]])


def test_points_a_rounding_away_from_the_border_stay_on_the_canvas():
    """256 - 1e-5 is 255.99998 in float32, and one more is 257: the first pixel beyond the canvas and its border."""
    edge = np.nextafter(np.float32(256), np.float32(0))
    values = scatter(256, 256, np.array([edge, 0, edge]), np.array([edge, edge, 0], np.float32), np.ones(3, np.float32))
    assert values.shape == (256, 256)
    assert values.sum() < 0.01


def test_a_streak_has_its_width_length_and_brightness():
    streak = one_streak()
    assert streak.max() == pytest.approx(1, abs=0.03)
    assert half_width(streak[50]) == pytest.approx(4, abs=0.15)
    assert half_width(streak[:, 50]) == pytest.approx(60 - 0.2 * 30, abs=1.5)  # the ends fade over a fifth of 30 pixels
    assert streak.sum() == pytest.approx(54 * 4 * np.sqrt(np.pi / np.log(2)) / 2, rel=0.02)  # area under a Gaussian


def test_a_streak_lies_along_its_angle():
    for angle in (-60, -20, 0, 35, 90):
        difference = (direction(one_streak(angle=angle)) - angle + 90) % 180 - 90
        assert abs(difference) < 1


def test_a_streak_far_narrower_than_a_pixel_fades():
    assert one_streak(width=0.5).max() == pytest.approx(one_streak(width=0.25).max() * 2, rel=0.05)


def test_defocus_widens_a_streak_and_keeps_its_light():
    sharp, soft = one_streak(), one_streak(blur=3.0)
    assert half_width(soft[50]) > 1.5 * half_width(sharp[50])
    assert soft.sum() == pytest.approx(sharp.sum(), rel=0.01)


def test_nothing_is_drawn_from_no_streaks():
    empty = np.zeros(0)
    assert not draw_streaks((8, 9), empty, empty, empty, empty, empty, empty, 1.0).any()
    assert not draw_flakes((8, 9), *[empty] * 7, np.zeros((0, 3, 3))).any()


def one_flake(diameter=20.0, moved=0.0, angle=0.0, value=0.6, softness=0.1, size=61):
    middle, lobes = np.array([size // 2.0]), np.array([[[0, 0, 1.0]] * 3])
    values = (np.array([float(v)]) for v in (diameter, moved, angle, value, softness))
    return draw_flakes((size, size), middle, middle, *values, lobes)


def test_a_flake_at_rest_hides_its_share_of_a_disc():
    flake = one_flake()
    assert flake[30, 30] == pytest.approx(0.6, abs=1e-5)
    assert flake[30, 0] == 0
    np.testing.assert_allclose(flake, flake.T, atol=1e-6)  # a disc
    np.testing.assert_allclose(flake, flake[::-1, ::-1], atol=1e-6)
    # three lobes 3 * 2^(-2 r^2 / R^2) reach 0.36, the middle of the rim, at r = R sqrt(log2(3 / 0.36) / 2)
    assert half_width(flake[30]) == pytest.approx(20 * np.sqrt(np.log2(3 / 0.36) / 2), abs=0.7)


def test_a_moving_flake_is_longer_and_fainter():
    still, moving = one_flake(), one_flake(moved=20.0)
    assert moving[30, 30] == pytest.approx(0.3, abs=1e-5)  # half of the exposure
    assert half_width(moving[:, 30]) == pytest.approx(half_width(still[:, 30]) + 20, abs=1.5)
    assert half_width(moving[30]) == pytest.approx(half_width(still[30]), abs=1)
    np.testing.assert_allclose(one_flake(moved=20.0, angle=90.0), moving.T, atol=1e-5)


def test_two_flakes_hide_what_either_lets_through():
    middle, lobes = np.array([10.0, 10.0]), np.array([[[0, 0, 1.0]] * 3] * 2)
    values = [np.full(2, v) for v in (8.0, 0.0, 0.0, 0.6, 0.1)]
    assert draw_flakes((21, 21), middle, middle, *values, lobes)[10, 10] == pytest.approx(1 - 0.4**2, abs=1e-5)


def test_flakes_are_irregular_and_small_ones_more_frequent():
    layer = flakes(rng(), 400, 400, 700, (4, 12), 0.0, 0.0, 0.0, (0.1, 0.3))
    number, _, boxes, _ = cv2.connectedComponentsWithStats((layer > 0.15).astype(np.uint8))
    area = boxes[1:, cv2.CC_STAT_AREA]
    assert number > 60
    assert np.median(area) < 0.8 * area.mean()
    fill = area / (boxes[1:, cv2.CC_STAT_WIDTH] * boxes[1:, cv2.CC_STAT_HEIGHT])
    assert np.std(fill[area > 25]) > 0.05  # discs would all fill pi / 4


def test_layers_hide_more_with_count_and_size():
    def rain(count=2000, length=20, thickness=1.5):
        return streaks(rng(1), 200, 200, count, length, thickness, np.zeros(1), 2.0).mean()

    def snow(count=2000, diameter=1.5):
        return specks(rng(1), 200, 200, count, diameter, 1.0, 0.0, 10.0).mean()

    assert rain() < rain(count=4000)
    assert rain() < rain(length=40)
    assert rain() < rain(thickness=3.0)
    assert snow() < snow(count=4000)
    assert snow() < snow(diameter=3.0)


@pytest.mark.parametrize('angle', [-30, 0, 20, 75])
def test_rain_falls_along_its_angle(angle):
    rain = make('Rain', amount=(1, 1), angle=(angle, angle), spread=(0, 0), directions=(1, 1), veil=(0, 0))
    found = [direction(rain(grey(0.1, 256, 256), rng(s))[..., 0]) for s in range(3)]
    assert max(abs((f - angle + 90) % 180 - 90) for f in found) < 2


def unity(layer):
    """1 if brightness changes across one direction only, 0 if across all alike."""
    gx, gy = cv2.Sobel(layer, cv2.CV_64F, 1, 0), cv2.Sobel(layer, cv2.CV_64F, 0, 1)
    return np.hypot(2 * (gx * gy).mean(), (gx**2 - gy**2).mean()) / (gx**2 + gy**2).mean()


def test_a_second_direction_makes_the_rain_less_uniform():
    def coherence(**arguments):
        options = {'amount': (1, 1), 'spread': (0, 0), 'veil': (0, 0), 'length': (40, 40), **arguments}
        layers = [make('Rain', **options)(grey(0.1, 256, 256), rng(s))[..., 0] for s in range(3)]
        return np.mean([unity(layer) for layer in layers])

    assert coherence(directions=(5, 5), gust=30.0) < coherence(directions=(1, 1)) - 0.1


def test_a_covered_pixel_shows_the_light_of_the_drops():
    """Where a streak covers a pixel for the whole exposure the scene is hidden; where none falls, nothing changes."""
    dense = {'amount': (10, 10), 'length': (20, 20), 'width': (3, 3), 'opacity': (1, 1), 'flicker': (0, 0)}
    result = make('Rain', **dense, light=(0.8, 0.8), tint=(0, 0), veil=(0, 0), blend='light')(grey(0.1), rng())
    assert result.max() == pytest.approx(0.8, abs=1e-5)
    assert (result > 0.8 - 1e-4).mean() > 0.01
    nothing = make(
        'Rain', **{**dense, 'amount': (0.02, 0.02)}, light=(0.8, 0.8), tint=(0, 0), veil=(0, 0), blend='light'
    )
    assert np.median(nothing(grey(0.1), rng())) == pytest.approx(0.1, abs=1e-6)


def test_long_streaks_are_fainter_because_their_drops_pass_faster():
    """Four times the length (and so the exposure) halves the opacity, by the square root of SHORT / length."""
    rain = [make('Rain', length=(n, n), width=(3, 3), flicker=(0, 0)) for n in (20, 80)]
    for added, expected in ((False, (0.5, 0.25)), (True, (0.5, 0.5))):
        middle = [r._layers(rng(), 200, 200, 8.0, 0.5, added)[1].max() for r in rain]  # dense: some pixel is covered
        np.testing.assert_allclose(middle, expected, rtol=1e-5)


def test_particles_are_blended_in_linear_light():
    """Half covered: (J + L) / 2, with 0.5 -> 0.214041 and 0.9 -> 0.787412 by the curve of IEC 61966-2-1."""
    scene = to_linear(grey(0.5, 4, 5))
    mixed = blend(scene, np.full((4, 5), 0.5, np.float32), 0.787412, 0.0)
    np.testing.assert_allclose(mixed, (0.214041 + 0.787412) / 2, atol=1e-5)


def test_tinted_particles_take_the_colour_around_them():
    scene = np.zeros((40, 40, 3), np.float32) + np.array([0.4, 0.2, 0.1], np.float32)
    covered = np.zeros((40, 40), np.float32)
    np.testing.assert_allclose(blend(scene, covered, 0.8, 1.0)[0, 0], [0.8, 0.4, 0.2], atol=5e-3)
    np.testing.assert_allclose(blend(scene, covered, 0.8, 0.5)[0, 0], [0.8, 0.6, 0.5], atol=5e-3)


def test_added_streaks_are_grey_and_only_brighten(photo):
    """As in Rain100L: the difference of display values is the same in all channels, but where it is clipped."""
    rain = make('Rain', **RAIN_STYLES['Rain100L'])
    result = rain(photo, rng(3))
    difference = (result - photo)[result.max(axis=2) < 1]
    assert difference.min() > -1e-6
    assert difference.max() > 0.1
    np.testing.assert_allclose(np.ptp(difference, axis=1), 0, atol=1e-6)


@pytest.mark.parametrize('name', ['Rain', 'Snow'])
def test_the_veil_on_a_constant_image(name):
    """Nothing but veil, 0.3 at amount 2, seen at depth 1: (1 - 0.3)^(2 m) of the scene's light is left."""
    only = {'amount': (2, 2), 'opacity': (0, 0), 'veil': (0.3, 0.3), 'light': (0.9, 0.9), 'tint': (0, 0)}
    extra = {'blend': 'light'} if name == 'Rain' else {}
    far, near = np.ones((96, 128), np.float32), np.zeros((96, 128), np.float32)
    result = [to_linear(make(name, **only, **extra)(grey(0.2), rng(1), depth))[..., 0] for depth in (far, near)]
    scene, drops = to_linear(np.float32(0.2)), to_linear(np.float32(0.9))
    left = [(r - drops) / (scene - drops) for r in result]
    np.testing.assert_allclose(np.log(left[0]) / np.log(left[1]), 4, rtol=2e-3)  # 1 far off, a quarter near by
    assert 0.7 ** (2 * 1.4) - 1e-3 < left[0].min() < left[0].max() < 0.7 ** (2 * 0.6) + 1e-3


def test_mist_follows_a_given_depth_and_varies():
    depth = np.tile(np.linspace(0, 1, 200, dtype=np.float32), (100, 1))
    thickness = mist(rng(), 100, 200, depth)
    assert np.corrcoef(thickness.ravel(), depth.ravel())[0, 1] > 0.8
    assert np.abs(np.diff(thickness, axis=0)).max() > 1e-4


@pytest.mark.parametrize('name', ['Rain', 'Snow'])
def test_none_leaves_the_photo_exactly_as_it_is(name, photo):
    for nothing in ({'amount': (0, 0)}, {'opacity': (0, 0), 'veil': (0, 0)}):
        result = make(name, **nothing)(photo, rng(4))
        np.testing.assert_array_equal(result, photo)
        assert result is not photo


@pytest.mark.parametrize('name', ['Rain', 'Snow'])
def test_a_given_depth_draws_the_same_particles(name, photo):
    depth = np.zeros(photo.shape[:2], np.float32)
    degrade = make(
        name, veil=(0.2, 0.2), light=(0.9, 0.9), tint=(0, 0), **({'blend': 'light'} if name == 'Rain' else {})
    )
    near, again, far = (degrade(photo, rng(5), d) for d in (depth, depth, depth + 1))
    np.testing.assert_array_equal(near, again)
    assert far[photo.max(axis=2) < 0.8].mean() > near[photo.max(axis=2) < 0.8].mean() + 0.01
    sharp = [cv2.Laplacian(i.mean(axis=2), cv2.CV_32F) for i in (near, far, degrade(photo, rng(6), depth))]
    assert np.corrcoef(sharp[0].ravel(), sharp[1].ravel())[0, 1] > 0.9  # the same particles under another veil
    assert np.corrcoef(sharp[0].ravel(), sharp[2].ravel())[0, 1] < 0.9


@pytest.mark.parametrize('name', ['Rain', 'Snow'])
def test_particles_are_as_dense_on_a_crop(name):
    fixed = {'amount': (1, 1), 'opacity': (0.6, 0.6), 'veil': (0, 0), 'light': (0.9, 0.9), 'tint': (0, 0)}
    fixed |= (
        {'length': (30, 30), 'width': (2, 2), 'blend': 'light'} if name == 'Rain' else {'size': (1, 1), 'near': (1, 1)}
    )
    degrade = make(name, **fixed)
    large = np.mean([degrade(grey(0.1, 480, 640), rng(s)).mean() for s in range(3)])
    small = np.mean([degrade(grey(0.1, 64, 64), rng(s)).mean() for s in range(120)])
    border = np.mean([degrade(grey(0.1, 64, 64), rng(s))[[0, -1]].mean() for s in range(120)])
    assert small - 0.1 == pytest.approx(large - 0.1, rel=0.12)
    assert border - 0.1 == pytest.approx(large - 0.1, rel=0.2)


def test_drops_on_the_lens_are_off_by_default_and_show_the_scene_upside_down(photo):
    plain = {'amount': (0, 0)}
    np.testing.assert_array_equal(make('Rain', **plain)(photo, rng(6)), photo)
    assert (make('Rain', **plain, lens_drops=(200, 200))(photo, rng(6)) != photo).any()
    slope = np.repeat(np.linspace(0, 1, 200, dtype=np.float32)[:, None, None], 200, axis=1) * np.ones(3, np.float32)
    dropped = lens_drops(rng(1), slope, 250, (12, 20))
    inside = np.abs(dropped - slope).max(axis=2) > 0
    falls = np.diff(dropped[..., 0], axis=0) < -1e-3  # within a drop the light falls downwards
    assert 0.02 < inside.mean() < 0.9
    assert falls.sum() > 200
    assert not falls[~(inside[1:] | inside[:-1])].any()


@pytest.mark.parametrize('style', RAIN_STYLES)
def test_published_styles_are_in_range(style, photo):
    result = make('Rain', **RAIN_STYLES[style])(photo, rng(7))
    assert 5e-4 < np.mean((result - photo) ** 2) < 0.3


def test_more_and_larger_snow_by_the_sorts_of_snow100k(photo):
    """Small, medium and large flakes hide more and more (option values of docs/degradations_particles.md)."""
    sorts = [
        {'size': (0.6, 0.9), 'near': (0, 0)},
        {'size': (1.0, 1.5), 'near': (0, 1)},
        {'size': (1.5, 2.5), 'near': (1, 3)},
    ]
    errors = [
        np.mean([np.abs(make('Snow', **s, veil=(0, 0))(photo, rng(k)) - photo).mean() for k in range(6)]) for s in sorts
    ]
    assert errors == sorted(errors)
    assert errors[2] > 2 * errors[0]


@pytest.mark.parametrize(
    ('name', 'arguments', 'words'),
    [
        ('Rain', {'length': (0, 5)}, r'Rain: length is \[0, 5\].*between 1 and 500'),
        ('Rain', {'width': (3, 1)}, 'Rain: width'),
        ('Rain', {'angle': (-100, 0)}, 'Rain: angle'),
        ('Rain', {'spread': (-1, 0)}, 'Rain: spread'),
        ('Rain', {'directions': (0, 1)}, 'Rain: directions'),
        ('Rain', {'gust': -1.0}, 'Rain: gust'),
        ('Rain', {'tint': (0, 2)}, 'Rain: tint'),
        ('Rain', {'flicker': (0, 1.5)}, 'Rain: flicker'),
        ('Rain', {'veil': (0, 1)}, 'Rain: veil'),
        ('Rain', {'blend': 'add'}, "Rain: blend is 'add'; it must be 'light', 'display' or 'both'"),
        ('Rain', {'lens_drops': (-1, 0)}, 'Rain: lens_drops'),
        ('Snow', {'near': (-1, 0)}, 'Snow: near'),
        ('Snow', {'speed': (0, 100)}, 'Snow: speed'),
        ('Snow', {'spread': (0, float('nan'))}, 'Snow: spread'),
        ('Snow', {'light': (0.5, 1.5)}, 'Snow: light'),
    ],
)
def test_impossible_options_name_the_parameter(name, arguments, words):
    with pytest.raises(OptionError, match=words):
        make(name, **arguments)


def test_brighter_than_the_scene_is_lighter_darker_is_darker():
    """Backlit flakes are dark: the model covers, it does not add."""
    snow = make('Snow', light=(0.7, 0.7), tint=(0, 0), veil=(0, 0))
    assert snow(grey(0.95), rng()).max() <= 0.95 + 1e-5
    assert snow(grey(0.95), rng()).min() < 0.9
    assert to_srgb(to_linear(grey(0.2))).mean() < snow(grey(0.2), rng()).mean()
