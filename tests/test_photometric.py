"""Strong augmentations against Pillow and torchvision (tests/golden/make_photometric.py), and what they must not do."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr.data import photometric_degradation as photometric
from basicsr.errors import OptionError

from .weather import make, rng

GOLDEN = np.load(Path(__file__).parent / 'golden/photometric.npz')
AUGMENTS = ('ColabatorAugment', 'SemiUIRAugment')
# Differences from Pillow in levels of 255. A blend is cut, not rounded, to 8 bits (up to 1 below), from a grey that was
# rounded (half a level either way). GaussianBlur rounds after each of its six passes. Posterise has no freedom.
BLEND, SIX_ROUNDINGS, EXACT = (-0.51, 1.51), (-2.5, 2.5), (-0.01, 0.01)
CASES = {
    'contrast': (photometric.adjust_contrast, BLEND),
    'brightness': (photometric.adjust_brightness, BLEND),
    'saturation': (photometric.adjust_saturation, BLEND),
    'sharpness': (photometric.adjust_sharpness, BLEND),
    'posterise': (photometric.posterise, EXACT),
    'box_blur': (photometric.box_blur, SIX_ROUNDINGS),
    'hue': (photometric.shift_hue, EXACT),
    'gaussian': (lambda image, size: photometric.gaussian_blur(image, int(size), 1.3), EXACT),
}


@pytest.fixture
def image():
    return GOLDEN['image'].astype(np.float32) / 255


@pytest.mark.parametrize('case', [name for name in GOLDEN.files if name != 'image'])
def test_operations_give_the_values_of_pillow_and_torchvision(case, image):
    name, _, strength = case.partition(' ')
    operation, (low, high) = CASES[name]
    before = image.copy()
    result = operation(image, float(strength))
    expected = GOLDEN[case].astype(np.float64) / (257 if GOLDEN[case].dtype == np.uint16 else 1)
    difference = result * 255 - expected
    assert low <= difference.min()
    assert difference.max() <= high
    assert result.dtype == np.float32
    np.testing.assert_array_equal(image, before)


def test_the_golden_file_covers_every_operation():
    assert {name.partition(' ')[0] for name in GOLDEN.files} == {'image', *CASES}


@pytest.mark.parametrize('variance', [0.2, 1 / 3, 1.0, 3.0, 25 / 3, 20.0])
def test_a_box_has_the_variance_asked_for(variance):
    kernel = photometric.extended_box(variance)
    offsets = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1)
    assert (kernel * offsets**2).sum() == pytest.approx(variance)
    assert kernel[0] == kernel[-1] <= kernel[len(kernel) // 2] + 1e-12


@pytest.mark.parametrize('operation', ['contrast', 'brightness', 'saturation', 'sharpness'])
def test_a_factor_of_one_leaves_the_image(operation, image):
    np.testing.assert_allclose(CASES[operation][0](image, 1.0), image, rtol=0, atol=1e-6)


def test_a_whole_turn_of_the_hue_leaves_the_image(image):
    np.testing.assert_allclose(photometric.shift_hue(image, 1.0), image, rtol=0, atol=1e-5)
    np.testing.assert_allclose(photometric.shift_hue(image, 0.0), image, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(AUGMENTS), height=st.integers(3, 20), width=st.integers(3, 20))
def test_shape_and_range_are_kept_and_the_generator_alone_decides(seed, name, height, width):
    image = rng(seed).random((height, width, 3), dtype=np.float32)
    before = image.copy()
    result = make(name)(image, rng(seed))
    assert result.shape == image.shape
    assert result.dtype == np.float32
    assert result.min() >= 0
    assert result.max() <= 1
    np.random.seed(1)
    np.testing.assert_array_equal(make(name)(image, rng(seed)), result)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize('name', AUGMENTS)
def test_nothing_is_moved(name, image):
    """What is done to the image turned upside down, mirrored or laid on its side is the same, turned."""
    for seed in range(30):
        result = make(name)(image, rng(seed))
        for turn in (np.flipud, np.fliplr, lambda i: i.transpose(1, 0, 2)):
            turned = make(name)(np.ascontiguousarray(turn(image)), rng(seed))
            assert np.abs(turned - turn(result)).mean() < 1e-4  # posterise may take a value at its edge either way


def test_colabator_draws_its_operations_alike_and_the_radius_as_released(image):
    augment = make('ColabatorAugment')
    assert len(augment.operations) == 6
    seen, radii = Counter(), Counter()

    def note(number):
        def operation(image, strength):
            seen[number] += 1
            if number == 5:
                radii[strength] += 1
            return image

        return operation

    spans = [span for _, span in augment.operations]
    augment.operations = [(note(i), span) for i, span in enumerate(spans)]
    generator = rng(3)
    for _ in range(6000):
        augment(image, generator)
    assert sum(seen.values()) == 12000
    assert all(abs(seen[i] - 2000) < 5 * np.sqrt(12000 * 5 / 36) for i in range(6))
    shares = {r: n / sum(radii.values()) for r, n in radii.items()}
    assert shares == pytest.approx({1: 2 / 4.95, 3: 2 / 4.95, 5: 0.95 / 4.95}, abs=0.05)
    assert spans[:5] == [(0.05, 0.95), (0.05, 0.95), (0.25, 0.95), (4, 8), (0.05, 0.95)]


def test_colabator_applies_the_number_of_operations_asked_for():
    image = np.full((8, 8, 3), 0.8, np.float32)
    darken = {'contrast': (1, 1), 'contrast_2': (1, 1), 'sharpness': (1, 1), 'bits': (8, 8), 'brightness': (0.5, 0.5)}
    levels = {round(float(np.log2(0.8 / make('ColabatorAugment', number=4, **darken)(image, rng(s)).mean())))
              for s in range(60)}  # fmt: skip
    assert levels >= {0, 1, 2}
    assert max(levels) <= 4


def test_semi_uir_does_each_part_with_its_probability(image):
    never = {'p_jitter': 0.0, 'p_grey': 0.0, 'p_blur': 0.0}
    for seed in range(5):
        np.testing.assert_array_equal(make('SemiUIRAugment', **never)(image, rng(seed)), image)
    grey = make('SemiUIRAugment', **{**never, 'p_grey': 1.0})(image, rng())
    np.testing.assert_allclose(grey, np.repeat(image @ [[0.299], [0.587], [0.114]], 3, axis=2), atol=1e-6)
    generator, augment = rng(7), make('SemiUIRAugment', p_jitter=0.0, p_blur=0.0)
    share = np.mean([np.ptp(augment(image, generator), axis=2).max() == 0 for _ in range(1000)])
    assert share == pytest.approx(0.2, abs=0.05)
    generator, augment = rng(8), make('SemiUIRAugment', p_grey=0.0, p_blur=0.0)
    share = np.mean([not np.array_equal(augment(image, generator), image) for _ in range(1000)])
    assert share == pytest.approx(0.8, abs=0.05)


def test_semi_uir_draws_a_factor_around_one(image):
    jitter = {'p_jitter': 1.0, 'p_grey': 0.0, 'p_blur': 0.0, 'brightness': 0.0, 'hue': 0.0, 'saturation': 0.0}
    mean = photometric.luma(image).mean()
    factors = []
    for seed in range(40):
        result = make('SemiUIRAugment', **jitter, contrast=0.5)(image, rng(seed))
        inside = (result > 0.001) & (result < 0.999) & (np.abs(image - mean) > 0.05)
        factor = ((result - mean) / (image - mean))[inside]
        assert np.ptp(factor) < 0.02
        factors.append(factor.mean())
    assert 0.5 <= min(factors) < 0.7
    assert 1.3 < max(factors) <= 1.5


def test_semi_uir_jitters_in_any_order(image):
    augment = make('SemiUIRAugment', p_jitter=1.0, p_grey=0.0, p_blur=0.0)
    orders, order = set(), []
    augment.jitter = [
        (lambda image, _, i=i: order.append(i) or image, span) for i, (_, span) in enumerate(augment.jitter)
    ]
    for seed in range(300):
        order.clear()
        augment(image, rng(seed))
        orders.add(tuple(order))
    assert len(orders) == 24


@pytest.mark.parametrize(
    ('name', 'arguments', 'words'),
    [
        ('ColabatorAugment', {'contrast': (0.9, 0.1)}, 'contrast is'),
        ('ColabatorAugment', {'bits': (0, 8)}, 'bits is'),
        ('SemiUIRAugment', {'sigma': (0.0, 2.0)}, 'sigma is'),
    ],
)
def test_ranges_that_cannot_be_are_refused(name, arguments, words):
    with pytest.raises(OptionError, match=words):
        make(name, **arguments)
