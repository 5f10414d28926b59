"""NIQE: BasicSR's and pyiqa's numbers, gradients, batches, and images without texture."""

import numpy as np
import pytest
import torch
from scipy.io import savemat

from basicsr.errors import CheckpointError, DataError, MissingWeightsError, OptionError
from basicsr.metrics import calculate_metric
from basicsr.metrics.natural_statistics import half_size, pair_sums, shape_of
from basicsr.metrics.niqe import calculate_niqe, load_pristine, niqe

from .natural import PHOTOS, as_tensor, golden_photo, photo, several


@pytest.mark.parametrize('name', PHOTOS)
def test_numbers_of_pyiqa_and_basicsr(name):
    image, golden = golden_photo(name)
    assert calculate_niqe(image) == pytest.approx(golden['niqe'], abs=1e-3)
    assert calculate_niqe(image, convention='basicsr') == pytest.approx(golden['niqe_basicsr'], abs=1e-3)


def test_every_form_of_an_image_gives_the_same_number():
    image = photo(PHOTOS[0])
    expected, tensor = calculate_niqe(image), as_tensor(image)
    assert calculate_niqe(image.transpose(2, 0, 1), input_order='CHW') == expected
    assert calculate_niqe(tensor).tolist() == pytest.approx([expected], abs=1e-9)
    assert niqe(tensor).item() == pytest.approx(expected, abs=1e-4)
    assert niqe(tensor.double()).item() == pytest.approx(expected, abs=1e-9)
    bordered = np.pad(image, ((5, 5), (5, 5), (0, 0)))
    assert calculate_metric({'img': bordered}, {'type': 'calculate_niqe', 'crop_border': 5}) == expected


def test_grey_images_are_their_own_luma():
    grey = photo(PHOTOS[0])[:192, :192, 1]
    colour = np.repeat(grey[..., None], 3, axis=2)
    assert calculate_niqe(grey) == pytest.approx(calculate_niqe(colour), abs=1e-9)
    assert niqe(torch.from_numpy(grey.copy())[None, None].double() / 255).item() == pytest.approx(calculate_niqe(grey))


@pytest.mark.parametrize('table', [True, False])
def test_batch_does_not_matter(table):
    images = several()
    alone = torch.cat([niqe(image[None], table=table) for image in images])
    torch.testing.assert_close(niqe(images, table=table), alone, atol=1e-5, rtol=0)


def test_gradient_is_right():
    images = torch.rand(1, 1, 17, 8, dtype=torch.float64, generator=torch.manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: niqe(x, table=False, block_size=8), images)


def test_table_changes_little_and_lets_the_gradient_pass():
    images = several()[:, 1:2].requires_grad_()  # grey, so that luma is whole already and only the table differs
    published, smooth = niqe(images), niqe(images, table=False)
    assert 0 < (published - smooth).abs().max() < 0.02
    gradients = [torch.autograd.grad(found.sum(), images)[0].flatten() for found in (published, smooth)]
    assert gradients[0].any()
    torch.testing.assert_close(*gradients, atol=0.05 * gradients[1].abs().max().item(), rtol=0)


@pytest.mark.parametrize('level', [0.0, 0.3, 1.0])
def test_an_image_of_one_colour_is_the_worst(level):
    images = several()
    expected = niqe(images)
    images[1] = level
    images.requires_grad_()
    found = niqe(images)
    assert found[1] == 100
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])
    (gradient,) = torch.autograd.grad(found.sum(), images)
    assert gradient.isfinite().all()
    assert not gradient[1].any()
    assert gradient[0].any()
    assert calculate_niqe(np.full((100, 100, 3), round(level * 255), np.uint8), convention='basicsr') == 100


def test_even_areas_and_one_block_give_finite_numbers():
    image = photo(PHOTOS[0])[:192, :192].copy()
    image[:, :120] = 255
    image[:100] = 0
    for part in (image, image[:96, :96], photo(PHOTOS[0])[:100, :191]):
        assert all(np.isfinite(calculate_niqe(part, convention=c)) for c in ('matlab', 'basicsr'))


def test_too_small_images_are_refused():
    with pytest.raises(DataError, match='niqe: needs at least 96 x 96 pixels, got 95 x 200'):
        niqe(torch.rand(1, 3, 95, 200))
    with pytest.raises(DataError, match='calculate_niqe: needs at least 96 x 96 pixels, got 90 x 190'):
        calculate_niqe(torch.rand(1, 3, 100, 200), crop_border=5)
    with pytest.raises(DataError, match='must be floating-point'):
        niqe(torch.zeros(3, 96, 96))


def test_wrong_options_are_refused():
    with pytest.raises(OptionError, match="convention 'live' is not known"):
        calculate_niqe(photo(PHOTOS[0]), convention='live')
    with pytest.raises(OptionError, match="no option 'convert_to'"):
        calculate_metric({'img': photo(PHOTOS[0])}, {'type': 'calculate_niqe', 'convert_to': 'gray'})


def test_parameters_by_path(tmp_path):
    shipped = load_pristine()
    mean, covariance = shipped.mean.numpy(), shipped.covariance.numpy()
    savemat(tmp_path / 'model.mat', {'mu_prisparam': mean[None] + 1, 'cov_prisparam': covariance})
    np.savez(tmp_path / 'model.npz', mu_pris_param=mean[None] + 1, cov_pris_param=covariance)
    image = photo(PHOTOS[0])
    found = [calculate_niqe(image, parameters=str(tmp_path / name)) for name in ('model.mat', 'model.npz')]
    assert found[0] == found[1] > calculate_niqe(image) + 1
    assert niqe(as_tensor(image), tmp_path / 'model.npz').item() == pytest.approx(found[0], abs=1e-4)


def test_unusable_parameters_are_named(tmp_path):
    with pytest.raises(MissingWeightsError, match=r'nowhere\.npz'):
        load_pristine(tmp_path / 'nowhere.npz')
    (tmp_path / 'text.npz').write_text('not an archive')
    with pytest.raises(CheckpointError, match=r'text\.npz'):
        load_pristine(tmp_path / 'text.npz')
    np.savez(tmp_path / 'small.npz', mu_pris_param=np.zeros(36), cov_pris_param=np.eye(35))
    with pytest.raises(CheckpointError, match='36 x 36'):
        load_pristine(tmp_path / 'small.npz')


@pytest.mark.parametrize('by_inverse', [True, False])
def test_look_up_is_the_nearest_of_the_published_table(by_inverse):
    shapes = torch.arange(200, 10001, dtype=torch.float64) / 1000
    table = torch.exp(2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes))
    ratios = 0.8 * torch.rand(300, dtype=torch.float64, generator=torch.manual_seed(0))
    compared = (1 / ratios, 1 / table) if by_inverse else (ratios, table)
    nearest = shapes[(compared[0][:, None] - compared[1]).abs().argmin(dim=1)]
    torch.testing.assert_close(shape_of(ratios, True, by_inverse), nearest)
    exact = shape_of(ratios, False)
    inside = (exact > 0.2) & (exact < 10)
    back = torch.exp(2 * torch.lgamma(2 / exact) - torch.lgamma(1 / exact) - torch.lgamma(3 / exact))
    torch.testing.assert_close(back[inside], ratios[inside], atol=1e-12, rtol=0)
    assert inside.sum() > 200


def test_half_size_keeps_ramps_and_rounds_up():
    ramp = torch.arange(41, dtype=torch.float64).expand(1, 30, 41)
    found = half_size(ramp)
    assert found.shape == (1, 15, 21)
    torch.testing.assert_close(found[0, 3, 2:-3], torch.arange(4.5, 36, 2, dtype=torch.float64))


def test_pair_sums_are_those_of_rolled_products():
    blocks = torch.randn(3, 7, 9, dtype=torch.float64, generator=torch.manual_seed(0))
    blocks[blocks.abs() < 0.2] = 0
    found = pair_sums(blocks)
    for i, roll in enumerate(((0, 1), (1, 0), (1, 1), (1, -1)), start=1):
        products = blocks * blocks.roll(roll, dims=(1, 2))
        signed = (products * products.abs()).sum(dim=(1, 2))
        torch.testing.assert_close(found.size[:, i], products.abs().sum(dim=(1, 2)))
        torch.testing.assert_close(found.square[:, i], products.square().sum(dim=(1, 2)))
        torch.testing.assert_close(found.signed_square[:, i], signed)
        assert found.balance[:, i].equal(products.sign().sum(dim=(1, 2)))
        assert found.nonzero[:, i].equal((products != 0).sum(dim=(1, 2)).double())
