"""Blur, Noise, JPEG, Resize and Compose; the eleven tasks of CDD-11."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr.data._camera import gaussian_noise
from basicsr.data.blur_noise_jpeg_degradation import anisotropic_kernel, disc_kernel, motion_kernel
from basicsr.errors import OptionError
from basicsr.image_io import list_images, read_image
from basicsr.options import load
from basicsr.registry import DEGRADATION_REGISTRY, build

from .weather import make, rng

TASKS = {'Blur': 'blur', 'Noise': 'noise', 'JPEG': 'jpeg', 'Resize': 'resize'}
CDD11 = [
    'low', 'haze', 'rain', 'snow', 'low_haze', 'low_rain', 'low_snow', 'haze_rain', 'haze_snow', 'low_haze_rain',
    'low_haze_snow',
]  # fmt: skip


def grey(value=0.5, height=96, width=128):
    return np.full((height, width, 3), value, np.float32)


@pytest.fixture(scope='module')
def photo(request):
    return read_image(list_images(request.config.rootpath / 'datasets' / 'sample' / 'val')[0])[:192, :256]


@pytest.mark.parametrize('name', TASKS)
@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_shape_type_range_and_repetition(name, height, width, seed):
    image = rng(seed).random((height, width, 3), np.float32)
    kept = image.copy()
    result = make(name)(image, rng(seed))
    assert result.shape == image.shape
    assert result.dtype == np.float32
    assert result.min() >= 0
    assert result.max() <= 1
    np.testing.assert_array_equal(result, make(name)(image, rng(seed)))
    np.testing.assert_array_equal(image, kept)  # the input is not written to
    assert make(name).task == TASKS[name]


@pytest.mark.parametrize(
    ('name', 'arguments'),
    [
        ('Blur', {'sigma': (0, 0), 'length': (0, 0), 'radius': (0, 0)}),
        ('Noise', {'sigma': (0, 0)}),
        ('Noise', {'sigma': (0, 0), 'kinds': ('grey',)}),
        ('Noise', {'sigma': (0, 0), 'shot': (0, 0), 'kinds': ('poisson',)}),
        ('Resize', {'factor': (1, 1)}),
        ('Compose', {'steps': [{'type': 'Noise'}, {'type': 'Haze'}], 'probs': [0.0, 0.0]}),
    ],
)
def test_without_strength_the_picture_is_the_same_to_the_bit(name, arguments, photo):
    for seed in range(4):
        result = make(name, **arguments)(photo, rng(seed))
        np.testing.assert_array_equal(result, photo)
        assert result is not photo


@pytest.mark.parametrize('sigma', [15, 25, 50])
@pytest.mark.parametrize('kind', ['colour', 'grey'])
def test_noise_has_exactly_the_deviation_that_is_asked_for(sigma, kind):
    """On mid-grey, uncut: the standard deviation in 255ths and a mean of nothing."""
    noise = 255 * (make('Noise', sigma=(sigma, sigma), kinds=(kind,), clip=False)(grey(0.5, 300, 400), rng()) - 0.5)
    assert noise.std() == pytest.approx(sigma, rel=0.01)
    assert abs(noise.mean()) < 0.02 * sigma
    assert np.ptp(noise, axis=2).max() == pytest.approx(0, abs=1e-4) if kind == 'grey' else np.ptp(noise) > 4 * sigma


def test_colour_noise_is_the_generators_normal_noise():
    """Sigma 25 adds 25/255 times the generator's standard normal numbers: what a denoising paper adds."""
    generator = rng(7)
    for low, high in ((0, 1), (25, 25), (50, 1500)):  # kind, sigma and shot are drawn first
        generator.integers(1) if high == 1 else generator.uniform(low, high)
    expected = 0.5 + np.float32(25 / 255) * generator.standard_normal((8, 9, 3), np.float32)
    np.testing.assert_array_equal(make('Noise', sigma=(25, 25), clip=False)(grey(0.5, 8, 9), rng(7)), expected)


def test_correlated_noise_has_at_most_sigma_and_mixes_the_channels():
    deviations, correlations = [], []
    for seed in range(20):
        noise = gaussian_noise(rng(seed), (100, 100, 3), 0.1, 'correlated').reshape(-1, 3)
        deviations.append(noise.std(axis=0).max())
        correlations.append(np.abs(np.corrcoef(noise.T)[np.triu_indices(3, 1)]).max())
    assert max(deviations) < 0.104
    assert np.median(correlations) > 0.1


def test_truncated_noise_is_what_a_cast_to_uint8_leaves():
    """PromptIR: np.clip(clean + noise, 0, 255).astype(np.uint8)."""
    levels = np.repeat(np.arange(256, dtype=np.float32)[:, None, None] / 255, 64, 1).repeat(3, 2)
    rounded = make('Noise', sigma=(25, 25), clip=False)(levels, rng(3))
    cast = np.clip(rounded.astype(np.float64) * 255 + 1e-3, 0, 255).astype(np.uint8)
    found = make('Noise', sigma=(25, 25), truncate=True)(levels, rng(3)) * 255
    np.testing.assert_allclose(found, cast, atol=1e-3)
    assert 0.4 < (np.clip(rounded, 0, 1) * 255 - found)[64:192].mean() < 0.6  # half a level darker
    np.testing.assert_allclose(make('Noise', sigma=(0, 0), truncate=True)(levels, rng()), levels, atol=1e-7)
    with pytest.raises(OptionError, match='truncate needs clip'):
        make('Noise', truncate=True, clip=False)


@pytest.mark.parametrize('value', [0.1, 0.5, 0.9])
def test_poisson_noise_has_the_variance_of_the_model(value):
    """Var = (sigma^2 + shot x) / 255^2, with sigma 5 and shot 400."""
    noisy = make('Noise', sigma=(5, 5), shot=(400, 400), kinds=('poisson',), clip=False)(grey(value, 300, 400), rng())
    assert noisy.var() == pytest.approx((25 + 400 * value) / 255**2, rel=0.02)


@pytest.mark.parametrize(
    ('sampling', 'factor'),
    [
        ('444', cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
        ('422', cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
        ('420', cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
    ],
)
def test_jpeg_is_opencvs(sampling, factor, photo, tmp_path):
    """Pixel for pixel what cv2.imwrite and cv2.imread leave of it."""
    file = str(tmp_path / 'a.jpg')
    pixels = np.rint(photo[..., ::-1] * 255).astype(np.uint8)
    cv2.imwrite(file, pixels, [cv2.IMWRITE_JPEG_QUALITY, 37, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])
    expected = cv2.imread(file)[..., ::-1].astype(np.float32) / 255
    np.testing.assert_allclose(make('JPEG', quality=(37, 37), sampling=(sampling,))(photo, rng()), expected, atol=1e-7)


def test_jpeg_of_lower_quality_is_farther_from_the_photo(photo):
    errors = [np.abs(make('JPEG', quality=(q, q))(photo, rng()) - photo).mean() for q in (95, 60, 30, 10)]
    assert errors == sorted(errors)


def test_gaussian_blur_has_its_standard_deviation():
    """The second moment of a blurred point is sigma squared, within the pixel grid."""
    point = np.zeros((81, 81, 3), np.float32)
    point[40, 40] = 1
    spread = make('Blur', kinds=('gaussian',), sigma=(3, 3))(point, rng())[..., 0]
    offset = np.arange(81) - 40
    assert spread.sum() == pytest.approx(1, abs=1e-4)
    assert (spread.sum(axis=0) * offset**2).sum() == pytest.approx(9, rel=0.01)


def test_anisotropic_kernel_has_its_axes():
    """Turned by 30 degrees: the covariance is R diag(16, 1) R'."""
    kernel = anisotropic_kernel(4, 1, 30).astype(float)
    y, x = np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2
    turn = np.array([[np.cos(np.pi / 6), -np.sin(np.pi / 6)], [np.sin(np.pi / 6), np.cos(np.pi / 6)]])
    found = [[(kernel * a * b).sum() for a in (x, y)] for b in (x, y)]
    np.testing.assert_allclose(found, turn @ np.diag([16, 1]) @ turn.T, rtol=0.02)


def test_motion_kernel_is_a_line_of_its_length():
    """A path of 20 pixels along the row: variance 20^2/12 that way, next to nothing across, sum 1."""
    kernel = motion_kernel(20, 0).astype(float)
    y, x = np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1)
    assert (kernel * x**2).sum() == pytest.approx(400 / 12, rel=0.03)
    assert (kernel * y**2).sum() < 0.01
    np.testing.assert_allclose(motion_kernel(20, 90), kernel.T, atol=1e-6)


def test_defocus_kernel_is_an_even_disc():
    """Radius 5: the middle is 1/(pi r^2) within 5 per cent, the variance a way r^2/4, the corners are empty."""
    kernel = disc_kernel(5).astype(float)
    _, x = np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2
    assert kernel[5, 5] == pytest.approx(1 / (np.pi * 25), rel=0.05)
    assert (kernel * x**2).sum() == pytest.approx(25 / 4, rel=0.06)
    assert kernel[0, 0] == 0


def test_each_kind_of_blur_keeps_light_and_takes_detail(photo):
    for kind in ('gaussian', 'anisotropic', 'motion', 'defocus'):
        blurred = make('Blur', kinds=(kind,), sigma=(3, 3), length=(15, 15), radius=(4, 4))(photo, rng())
        assert blurred.mean() == pytest.approx(photo.mean(), abs=0.01)
        assert np.abs(np.diff(blurred, axis=1)).mean() < 0.8 * np.abs(np.diff(photo, axis=1)).mean()


def test_blur_in_linear_light_keeps_lights_bright():
    """The mean of black and white is 0.5 as a display value, and 0.735 as light."""
    edge = np.zeros((64, 64, 3), np.float32)
    edge[:, 32:] = 1
    middle = {linear: make('Blur', kinds=('gaussian',), sigma=(8, 8), linear=linear)(edge, rng())[32, 31:33].mean()
              for linear in (False, True)}  # fmt: skip
    assert middle[False] == pytest.approx(0.5, abs=0.01)
    assert middle[True] == pytest.approx(0.7354, abs=0.01)


def test_resize_is_down_and_up(photo):
    result = make('Resize', factor=(0.5, 0.5), down=('area',), up=('cubic',))(photo, rng())
    small = cv2.resize(photo, (128, 96), interpolation=cv2.INTER_AREA)
    expected = np.clip(cv2.resize(small, (256, 192), interpolation=cv2.INTER_CUBIC), 0, 1)
    np.testing.assert_array_equal(result, expected)


def test_compose_equals_its_steps_by_hand(photo):
    blocks = [{'type': 'LowLight'}, {'type': 'Haze'}, {'type': 'Noise', 'sigma': [5, 20]}, {'type': 'JPEG'}]
    composed, generator, expected = make('Compose', steps=blocks), rng(3), photo
    for block in blocks:
        expected = build(DEGRADATION_REGISTRY, block)(expected, generator)
    np.testing.assert_array_equal(composed(photo, rng(3)), expected)
    assert composed.task == 'low_light_haze_noise_jpeg'
    assert make('Compose', steps=blocks, task='bad').task == 'bad'


def test_compose_passes_the_depth_on_to_those_that_use_it(photo):
    depth = np.linspace(0, 1, photo.shape[0], dtype=np.float32)[:, None].repeat(photo.shape[1], 1)
    haze, nested = {'type': 'Haze'}, {'type': 'Compose', 'steps': [{'type': 'Noise'}, {'type': 'Haze'}]}
    composed, generator = make('Compose', steps=[nested, haze]), rng(1)
    noisy = make('Noise')(photo, generator)
    expected = make('Haze')(make('Haze')(noisy, generator, depth), generator, depth)
    np.testing.assert_array_equal(composed(photo, rng(1), depth), expected)
    assert composed.uses_depth
    assert composed.task == 'noise_haze_haze'
    assert not make('Compose', steps=[{'type': 'Noise'}]).uses_depth


def test_compose_applies_steps_with_their_probability_and_in_any_order():
    dark, noisy = {'type': 'Haze', 'beta': [9, 9], 'near': [1, 1]}, {'type': 'Noise', 'sigma': [20, 20]}
    sometimes = make('Compose', steps=[noisy], probs=[0.3])
    share = np.mean([np.any(sometimes(grey(0.5, 8, 8), rng(s)) != 0.5) for s in range(300)])
    assert share == pytest.approx(0.3, abs=0.08)
    mixed = make('Compose', steps=[dark, noisy], shuffle=True)  # noise before the thick haze is not seen
    seen = np.mean([mixed(grey(0.5, 16, 16), rng(s)).std(axis=(0, 1)).max() > 0.02 for s in range(100)])
    assert 0.3 < seen < 0.7


def test_cdd11s_tasks_are_there_in_onerestores_order(request, tmp_path, photo):
    """Names and order of steps: light first, then rain or snow, then haze."""
    file = tmp_path / 'cdd11.yml'
    root = request.config.rootpath
    file.write_text(
        f'_base_: {root}/options/_base/cdd11_degradations.yml\nname: cdd11\nmodel_type: RestorationModel\n'
        f'datasets: {{train: {{dataroot_gt: {root}/datasets/sample/train, gt_size: 64, batch_size_per_gpu: 1}}}}\n'
        'network_g: {type: NAFNet, width: 16}\n'
        'train: {total_iter: 2, optim_g: {type: AdamW, lr: 1e-3}, pixel_opt: {type: L1Loss}}\n'
    )
    blocks = load(file).datasets['train'].block['degradations']
    degradations = [build(DEGRADATION_REGISTRY, b) for b in blocks]
    assert [d.task for d in degradations] == CDD11
    rank = {'low': 0, 'rain': 1, 'snow': 1, 'haze': 2}
    for degradation in degradations:
        steps = [rank[s.task] for s in getattr(degradation, 'steps', []) if s.task in rank]
        assert all(a < b for a, b in pairwise(steps))
        assert np.abs(degradation(photo, rng()) - photo).mean() > 0.01


def test_cdd11s_haze_is_onerestores():
    """t = exp(-beta d), beta in [1,2], A in [.6,.9], one grey air, display values blended."""
    haze = make(
        'Haze', beta=(1, 2), near=(0, 0), airlight=(0.6, 0.9), tint=0.0, dim=(0, 0), patchy=(0, 0), linear=False
    )
    far, black = np.ones((4, 4), np.float32), np.zeros((4, 4, 3), np.float32)
    for seed in range(20):
        dark, bright = haze(black, rng(seed), far), haze(black + 1, rng(seed), far)
        t = (bright - dark)[0, 0, 0]
        assert np.exp(-2) <= t <= np.exp(-1)
        assert 0.6 <= dark[0, 0, 0] / (1 - t) <= 0.9001
        assert np.ptp(dark) < 1e-6


@pytest.mark.parametrize(
    ('name', 'arguments', 'words'),
    [
        ('Blur', {'kinds': ()}, 'Blur: kinds'),
        ('Blur', {'kinds': ('box',)}, r"Blur: kinds is \['box'\]; it must list some of gaussian"),
        ('Blur', {'sigma': (3, 1)}, 'Blur: sigma'),
        ('Noise', {'sigma': (-1, 5)}, 'Noise: sigma'),
        ('Noise', {'kinds': ('salt',)}, 'Noise: kinds'),
        ('JPEG', {'quality': (0, 50)}, 'JPEG: quality'),
        ('JPEG', {'sampling': ('411',)}, 'JPEG: sampling'),
        ('Resize', {'factor': (0, 1)}, 'Resize: factor'),
        ('Resize', {'up': ('box',)}, 'Resize: up'),
        ('Compose', {'steps': []}, 'Compose: steps is empty'),
        ('Compose', {'steps': [{'type': 'Noise'}], 'probs': [0.5, 0.5]}, 'Compose: probs has 2 numbers'),
        ('Compose', {'steps': [{'type': 'Noise'}], 'probs': [2.0]}, 'Compose: probs is 2'),
        ('Compose', {'steps': [{'type': 'Noise'}], 'task': ''}, 'Compose: task'),
        ('Compose', {'steps': [{'type': 'Noize'}]}, "'Noize'"),
        ('Compose', {'steps': [{'type': 'Noise', 'sigmas': [1, 2]}]}, "'sigmas' is not known"),
    ],
)
def test_impossible_options_are_refused(name, arguments, words):
    with pytest.raises(OptionError, match=words):
        make(name, **arguments)
