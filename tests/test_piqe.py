"""PIQE: pypiqe's numbers, batches, and what cannot be judged."""

import cv2
import numpy as np
import pytest
import torch

from basicsr.errors import DataError
from basicsr.metrics import calculate_metric
from basicsr.metrics.piqe import calculate_piqe, piqe

from .natural import PHOTOS, as_tensor, golden_photo, photo, several


@pytest.mark.parametrize('name', PHOTOS)
def test_numbers_of_pypiqe(name):
    image, golden = golden_photo(name)
    assert calculate_piqe(image) == pytest.approx(golden['piqe'], abs=1e-3)


def test_grey_is_that_of_opencv():
    image = photo(PHOTOS[0])[:100, :110]
    assert calculate_piqe(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)) == calculate_piqe(image)


def test_every_form_of_an_image_gives_the_same_number():
    image = photo(PHOTOS[0])
    expected, tensor = calculate_piqe(image), as_tensor(image)
    assert calculate_piqe(tensor).tolist() == [expected]
    assert piqe(tensor).item() == pytest.approx(expected, abs=1e-4)
    bordered = np.pad(image, ((5, 5), (5, 5), (0, 0)))
    assert calculate_metric({'img': bordered}, {'type': 'calculate_piqe', 'crop_border': 5}) == expected


def test_batch_does_not_matter_and_there_is_no_gradient():
    images = several().requires_grad_()
    found = piqe(images)
    assert not found.requires_grad
    torch.testing.assert_close(found, torch.cat([piqe(image[None]) for image in images]), atol=1e-5, rtol=0)


def test_noise_and_blocking_are_seen():
    image = photo(PHOTOS[0])
    noise = np.random.default_rng(0).normal(0, 25, image.shape)
    noisy = np.clip(image + noise, 0, 255).round().astype(np.uint8)
    blocky = cv2.imdecode(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 10])[1], cv2.IMREAD_COLOR)
    clean = calculate_piqe(image)
    assert calculate_piqe(noisy) > clean + 20
    assert calculate_piqe(blocky) > clean + 20


@pytest.mark.parametrize('level', [0.0, 0.3, 1.0])
def test_an_image_of_one_colour_is_the_worst(level):
    assert piqe(torch.full((2, 3, 20, 33), level)).tolist() == [100, 100]


def test_too_small_images_are_refused():
    with pytest.raises(DataError, match='piqe: needs at least 16 x 16 pixels, got 15 x 200'):
        piqe(torch.rand(1, 3, 15, 200))
    with pytest.raises(DataError, match='must be floating-point'):
        piqe(torch.zeros(1, 3, 20, 20, dtype=torch.uint8))
