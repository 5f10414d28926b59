"""The degradation of faces: in range, repeatable, in the published order, and with the ranges that are asked for."""

import cv2
import numpy as np
import pytest

from basicsr.data import build_dataset
from basicsr.data.face_degradation import FaceDegradation, gaussian_kernel
from basicsr.errors import OptionError
from basicsr.explain import explain
from basicsr.image_io import write_image
from basicsr.registry import DEGRADATION_REGISTRY, build

STRONG = {'sigma': [1, 15], 'factor': [4, 30], 'noise': [0, 20], 'quality': [30, 80]}  # stage II
MILD = {'sigma': [0.1, 10], 'factor': [1, 12], 'noise': [0, 15], 'quality': [60, 100]}  # stage III
NOTHING = {'sigma': [0.05, 0.05], 'factor': [1, 1], 'noise': [0, 0], 'quality': None}


def make(**arguments):
    return build(DEGRADATION_REGISTRY, {'type': 'FaceDegradation', **arguments})


def rng(seed=0):
    return np.random.default_rng(seed)


def smooth(side=64):
    image = rng(5).random((side, side, 3), dtype=np.float32)
    return np.clip(0.5 + 4 * (cv2.GaussianBlur(image, (0, 0), 3) - 0.5), 0, 1)


@pytest.mark.parametrize('ranges', [STRONG, MILD])
def test_the_published_ranges_give_images_of_the_same_size_and_the_generator_alone_decides(ranges):
    degrade, image = make(**ranges), smooth()
    before = image.copy()
    results = [degrade(image, rng(seed)) for seed in range(8)]
    assert np.array_equal(image, before)
    for seed, result in enumerate(results):
        assert (result.shape, result.dtype) == (image.shape, np.float32)
        assert 0 <= result.min() <= result.max() <= 1
        assert np.array_equal(result, degrade(image, rng(seed)))
    assert len({result.tobytes() for result in results}) == 8


def test_defaults_are_those_of_stage_two():
    made, asked = make(), make(**STRONG)
    assert vars(made) == vars(asked)
    assert (made.kernel_size, made.isotropic) == (41, 0.5)


def test_strong_does_more_harm_than_mild_and_nothing_does_none():
    image = smooth()

    def harm(degrade):
        return np.mean([np.abs(degrade(image, rng(seed)) - image).mean() for seed in range(30)])

    assert harm(make(**NOTHING)) < 1e-6
    assert harm(make(**STRONG)) > 1.15 * harm(make(**MILD)) > 0.01


def test_noise_and_jpeg_act_on_the_small_image():
    """Noise of 32 x 32 pixels that is enlarged eight times hardly differs between neighbours."""
    grey = np.full((256, 256, 3), 0.5, np.float32)
    large = make(**{**NOTHING, 'noise': [20, 20], 'factor': [8, 8]})(grey, rng())
    full = make(**{**NOTHING, 'noise': [20, 20]})(grey, rng())
    assert full.std() == pytest.approx(20 / 255, rel=0.03)
    assert np.abs(np.diff(full, axis=1)).mean() > 5 * np.abs(np.diff(large, axis=1)).mean() > 0
    blocks = make(**{**NOTHING, 'quality': [5, 5], 'factor': [8, 8]})(smooth(256), rng())
    assert np.abs(np.diff(blocks, axis=1)).max() < 0.2  # steps of JPEG are ramps of 8 pixels by now


def test_parameters_are_drawn_from_their_ranges(monkeypatch):
    seen = {'quality': [], 'sigma': [], 'small': [], 'deviation': []}
    module = __import__('basicsr.data.face_degradation', fromlist=['x'])
    jpeg, noise, kernel = module._camera.jpeg, module._camera.gaussian_noise, module.gaussian_kernel

    def watched_jpeg(image, quality, *more):
        seen['quality'].append(quality)
        seen['small'].append(image.shape[0])
        return jpeg(image, quality, *more)

    def watched_noise(generator, shape, sigma, kind):
        seen['deviation'].append(sigma * 255)
        return noise(generator, shape, sigma, kind)

    def watched_kernel(size, first, second, angle):
        seen['sigma'].append((first, second))
        return kernel(size, first, second, angle)

    monkeypatch.setattr(module._camera, 'jpeg', watched_jpeg)
    monkeypatch.setattr(module._camera, 'gaussian_noise', watched_noise)
    monkeypatch.setattr(module, 'gaussian_kernel', watched_kernel)
    degrade, generator = make(**MILD), rng()
    for _ in range(300):
        degrade(smooth(), generator)
    assert (min(seen['quality']), max(seen['quality'])) == (60, 100)
    assert 0 <= min(seen['deviation']) < 1 < 14 < max(seen['deviation']) <= 15
    assert 5 <= min(seen['small']) < 7 < 40 < max(seen['small']) <= 64  # 64 / 12 to 64
    first, second = np.array(seen['sigma']).T
    assert 0.1 <= min(first.min(), second.min()) < 0.5
    assert 9.5 < max(first.max(), second.max()) <= 10
    assert 0.4 < np.mean(first == second) < 0.6


def test_kernel():
    kernel = gaussian_kernel(41, 2.0, 5.0, 0.0)
    assert kernel.shape == (41, 41)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    y, x = np.mgrid[-20:21, -20:21]
    assert np.sqrt((kernel * x**2).sum()) == pytest.approx(2, rel=1e-3)
    assert np.sqrt((kernel * y**2).sum()) == pytest.approx(5, rel=1e-2)
    assert np.allclose(gaussian_kernel(41, 2.0, 5.0, np.pi / 2), kernel.T, atol=1e-6)
    assert np.unravel_index(kernel.argmax(), kernel.shape) == (20, 20)


def test_small_and_oblong_images_survive():
    for shape in ((3, 50), (50, 3), (1, 1)):
        assert make()(rng().random((*shape, 3), dtype=np.float32), rng()).shape == (*shape, 3)


@pytest.mark.parametrize(
    ('wrong', 'words'),
    [
        ({'sigma': [3, 1]}, 'sigma is'),
        ({'factor': [0.5, 2]}, 'factor is'),
        ({'quality': [0, 80]}, 'quality is'),
        ({'kernel_size': 40}, 'kernel_size is 40'),
        ({'isotropic': 2.0}, 'isotropic is 2'),
    ],
)
def test_wrong_arguments_are_refused(wrong, words):
    with pytest.raises(OptionError, match=words):
        make(**wrong)


def test_it_is_a_degradation_of_the_online_data_set_and_explains_itself(tmp_path):
    write_image(tmp_path / 'a.png', smooth())
    block = {'type': 'OnlineDegradationDataset', 'dataroot_gt': str(tmp_path), 'phase': 'train', 'gt_size': 64}
    data = build_dataset({**block, 'degradations': [{'type': 'FaceDegradation', **MILD}]})
    sample = data[0]
    assert sample['lq'].shape == sample['gt'].shape == (3, 64, 64)
    assert sample['task'] == 'face'
    assert 'kernel_size' in explain('FaceDegradation')
    assert FaceDegradation(task='celeba').task == 'celeba'
