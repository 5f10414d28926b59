"""BRISQUE: pyiqa's numbers, gradients, batches, images of one colour, and regressions read from files."""

import numpy as np
import pytest
import torch

from basicsr.errors import CheckpointError, DataError, MissingWeightsError, OptionError
from basicsr.metrics import calculate_metric
from basicsr.metrics.brisque import Regression, brisque, calculate_brisque, load_regression

from .natural import GOLDEN, PHOTOS, as_tensor, golden_photo, photo, several

HEAD = 'svm_type epsilon_svr\nkernel_type rbf\ngamma 0.25\nnr_class 2\ntotal_sv 2\nrho -3.5\nprobA 6\nSV\n'
ROWS = '-2 1:0.5 3:-0.25 36:1 \n4 2:1e-1 \n'  # what is not listed is zero
RANGES = 'x\n-1 1\n' + ''.join(f'{n} {-n} {2 * n}\n' for n in range(1, 37))


@pytest.mark.parametrize('name', PHOTOS)
def test_numbers_of_pyiqa(name):
    image, golden = golden_photo(name)
    assert calculate_brisque(image) == pytest.approx(golden['brisque'], abs=1e-3)


def test_agreement_with_the_published_regression_was_measured():
    found = {k: v for k, v in GOLDEN['report'].items() if k.startswith('brisque_live: ')}
    assert len(found) == 1
    assert max(found.values()) < 1e-3


def test_every_form_of_an_image_gives_the_same_number():
    image = photo(PHOTOS[0])
    expected, tensor = calculate_brisque(image), as_tensor(image)
    assert calculate_brisque(image.transpose(2, 0, 1), input_order='CHW') == expected
    assert calculate_brisque(tensor).tolist() == pytest.approx([expected], abs=1e-9)
    assert brisque(tensor).item() == pytest.approx(expected, abs=1e-4)
    assert brisque(tensor.double()).item() == pytest.approx(expected, abs=1e-9)
    bordered = np.pad(image, ((5, 5), (5, 5), (0, 0)))
    assert calculate_metric({'img': bordered}, {'type': 'calculate_brisque', 'crop_border': 5}) == expected


def test_grey_images_are_their_own_luma():
    grey = photo(PHOTOS[0])[:101, :99, 1]
    colour = np.repeat(grey[..., None], 3, axis=2)
    assert calculate_brisque(grey) == pytest.approx(calculate_brisque(colour), abs=1e-9)


@pytest.mark.parametrize('table', [True, False])
def test_batch_does_not_matter(table):
    images = several()
    alone = torch.cat([brisque(image[None], table=table) for image in images])
    torch.testing.assert_close(brisque(images, table=table), alone, atol=1e-5, rtol=0)


def test_gradient_is_right():
    images = torch.rand(1, 1, 16, 16, dtype=torch.float64, generator=torch.manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: brisque(x, table=False), images)


def test_table_changes_little_and_lets_the_gradient_pass():
    images = several()[:, 1:2].requires_grad_()  # grey, so that luma is whole already and only the table differs
    published, smooth = brisque(images), brisque(images, table=False)
    assert 0 < (published - smooth).abs().max() < 0.3
    gradients = [torch.autograd.grad(found.sum(), images)[0].flatten() for found in (published, smooth)]
    assert gradients[0].any()
    torch.testing.assert_close(*gradients, atol=0.05 * gradients[1].abs().max().item(), rtol=0)


@pytest.mark.parametrize('level', [0.0, 0.3, 1.0])
def test_an_image_of_one_colour_is_the_worst(level):
    images = several()
    expected = brisque(images)
    images[1] = level
    images.requires_grad_()
    found = brisque(images)
    assert found[1] == 100
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])
    (gradient,) = torch.autograd.grad(found.sum(), images)
    assert gradient.isfinite().all()
    assert not gradient[1].any()
    assert gradient[0].any()


def test_one_pixel_or_a_ramp_gives_a_finite_number():
    dot, ramp = torch.zeros(1, 3, 40, 40), torch.linspace(0, 1, 40).expand(1, 3, 40, 40)
    dot[..., 20, 20] = 1
    images = torch.cat((dot, ramp)).requires_grad_()
    for table in (True, False):
        found = brisque(images, table=table)
        assert found.isfinite().all()
        assert torch.autograd.grad(found.sum(), images)[0].isfinite().all()


def test_too_small_images_are_refused():
    with pytest.raises(DataError, match='brisque: needs at least 16 x 16 pixels, got 15 x 200'):
        brisque(torch.rand(1, 3, 15, 200))
    with pytest.raises(OptionError, match="no option 'test_y_channel'"):
        calculate_metric({'img': photo(PHOTOS[0])}, {'type': 'calculate_brisque', 'test_y_channel': True})


def test_model_of_libsvm(tmp_path):
    (tmp_path / 'model').write_text(HEAD + ROWS)
    (tmp_path / 'allrange').write_text(RANGES)
    found = load_regression(tmp_path / 'model')
    first, second = torch.zeros(2, 36, dtype=torch.float64).unbind()
    first[[0, 2, 35]] = torch.tensor([0.5, -0.25, 1], dtype=torch.float64)
    second[1] = 0.1
    features = torch.rand(5, 36, dtype=torch.float64, generator=torch.manual_seed(0))
    n = torch.arange(1, 37, dtype=torch.float64)
    scaled = -1 + 2 * (features + n) / (3 * n)
    kernels = [torch.exp(-0.25 * (scaled - v).square().sum(dim=1)) for v in (first, second)]
    torch.testing.assert_close(found.predict(features), -2 * kernels[0] + 4 * kernels[1] + 3.5)
    image = photo(PHOTOS[0])
    by_path = calculate_brisque(image, parameters=str(tmp_path / 'model'))
    assert by_path == pytest.approx(brisque(as_tensor(image), found).item(), abs=1e-4)
    (tmp_path / 'elsewhere').write_text(RANGES.replace('1 -1 2', '1 -9 2'))
    other = calculate_brisque(image, parameters=str(tmp_path / 'model'), ranges=str(tmp_path / 'elsewhere'))
    assert other != by_path


def test_weights_in_the_form_of_pyiqa(tmp_path):
    shipped = load_regression()
    torch.save((shipped.coefficients, shipped.vectors), tmp_path / 'weights.pth')
    (tmp_path / 'allrange').write_text(RANGES)
    found = load_regression(tmp_path / 'weights.pth')
    assert found.vectors.equal(shipped.vectors)
    assert found.coefficients.equal(shipped.coefficients)
    assert (found.offset, found.gamma) == (-153.591, 0.05)
    assert found.high[4] == 10


def test_own_format(tmp_path):
    shipped = load_regression()
    fields = {k: np.asarray(getattr(shipped, k)) for k in Regression.__dataclass_fields__}
    np.savez(tmp_path / 'same.npz', **fields)
    image = photo(PHOTOS[0])
    assert calculate_brisque(image, parameters=str(tmp_path / 'same.npz')) == calculate_brisque(image)


@pytest.mark.parametrize(
    ('model', 'ranges', 'words'),
    [
        (HEAD.replace('rbf', 'linear') + ROWS, RANGES, 'not epsilon_svr with rbf'),
        (HEAD + '-2 1:0.5\n', RANGES, '1 support vectors instead of 2'),
        (HEAD + ROWS.replace('36:1', '36:nan'), RANGES, 'finite numbers'),
        (HEAD + ROWS, RANGES.replace('-1 1', '0 1', 1), 'must begin with'),
        (HEAD + ROWS, RANGES[: RANGES.index('36 ')], 'allrange'),
        (HEAD + ROWS, RANGES.replace('3 -3 6', '3 6 6'), 'ranges cannot be used'),
    ],
)
def test_damaged_files_are_named(tmp_path, model, ranges, words):
    (tmp_path / 'model').write_text(model)
    (tmp_path / 'allrange').write_text(ranges)
    with pytest.raises(CheckpointError, match=words):
        load_regression(tmp_path / 'model')


def test_missing_files_are_named(tmp_path):
    with pytest.raises(MissingWeightsError, match='allrange'):
        load_regression(tmp_path / 'model')
    (tmp_path / 'allrange').write_text(RANGES)
    with pytest.raises(MissingWeightsError, match='model'):
        calculate_brisque(photo(PHOTOS[0]), parameters=str(tmp_path / 'model'))


def test_a_pickle_is_not_executed(tmp_path):
    torch.save({'dangerous': pytest.approx}, tmp_path / 'weights.pth')
    (tmp_path / 'allrange').write_text(RANGES)
    with pytest.raises(CheckpointError, match=r'weights\.pth'):
        load_regression(tmp_path / 'weights.pth')
