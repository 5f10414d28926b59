"""FADE: against PyFADE with the published parameters, our own fit, and refusals."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from basicsr.errors import DataError, MissingWeightsError, OptionError
from basicsr.image_io import read_image
from basicsr.metrics import calculate_metric, is_higher_better, needs_of
from basicsr.metrics.fade import PUBLISHED, calculate_fade, fade, features, load_parameters
from basicsr.registry import DEGRADATION_REGISTRY, build
from tests.golden.recipe import DISTORTIONS
from tools import fit_fade

HERE = Path(__file__).parent
ROWS = json.loads((HERE / 'golden' / 'metrics_fade.json').read_text())['rows']
CHANGES = {
    'clean': lambda img: img,
    'haze': lambda img: (img.astype(np.int64) * 2 // 5 + 130).astype(np.uint8),
    'clipped': lambda img: np.clip(img.astype(np.int64) * 3, 0, 255).astype(np.uint8),
    **DISTORTIONS,
}


def photo(name, change='clean'):
    return CHANGES[change](cv2.imread(str(HERE / 'assets' / f'{name}.png'))[:203, :243])


def to_tensor(*images):
    return torch.stack([torch.from_numpy(i[..., ::-1].copy()).permute(2, 0, 1).float() / 255 for i in images])


def published():
    """Folder of the published parameters, which are not part of the project: of the package, or with other weights."""
    package = find_spec('pyfade')
    folders = [Path(package.origin).parent / 'models'] if package else []
    folders += [Path(os.environ['QUALIR_WEIGHTS']) / 'fade'] if 'QUALIR_WEIGHTS' in os.environ else []
    for folder in folders:
        if (folder / PUBLISHED['foggy'][0]).is_file():
            return str(folder)
    pytest.skip('neither fade-python is installed nor does $QUALIR_WEIGHTS/fade hold its two files')


@pytest.mark.parametrize(('name', 'change', 'score'), ROWS)
def test_as_pyfade_with_the_published_parameters(name, change, score):
    folder = published()
    img = photo(name, change)
    assert calculate_fade(img, parameters=folder) == pytest.approx(score, abs=5e-6)
    assert calculate_fade(to_tensor(img), parameters=folder).item() == pytest.approx(score, abs=5e-6)
    assert load_parameters(folder).source == 'published'


def test_our_own_fit_orders_haze_on_photographs_it_has_not_seen():
    for path in sorted((HERE.parent / 'datasets' / 'sample' / 'val').glob('*.jpg'))[:4]:
        image = read_image(path)[:240, :320]
        scores = []
        for beta in (0.0, 1.0, 2.5):
            haze = build(DEGRADATION_REGISTRY, {'type': 'Haze', 'beta': [beta, beta], 'near': [0.2, 0.2]})
            hazy = haze(image, np.random.default_rng(0))
            scores.append(fade(torch.from_numpy(hazy.transpose(2, 0, 1).copy())[None]).item())
        assert scores == sorted(scores), path.name
        assert scores[2] > 1.2 * scores[0], path.name
    assert load_parameters(None).source == 'our fit to datasets/sample'


def test_features_by_their_formulas():
    """Those of the features that plain numpy gives in a line, on one patch."""
    img = photo('coffee')
    found = features(to_tensor(img))[0, 0]
    blue, green, red = (img[:8, :8, c].astype(float) for c in range(3))
    grey = np.floor(0.298936021293775 * red + 0.587043074451121 * green + 0.114020904255103 * blue + 0.5)
    share = np.unique(grey, return_counts=True)[1] / 64
    high, low = np.max([red, green, blue], 0), np.min([red, green, blue], 0)
    rg, yb = red - green, 0.5 * (red + green) - blue
    wanted = [
        -(share * np.log2(share)).sum(),
        (low / 255).mean(),
        ((high - low) / high).mean(),
        np.hypot(rg.std(ddof=1), yb.std(ddof=1)) + 0.3 * np.hypot(rg.mean(), yb.mean()),
    ]
    assert found[8:].tolist() == pytest.approx(np.log1p(wanted).tolist(), abs=1e-9)


def test_a_batch_is_its_images_and_odd_edges_do_not_count():
    images = to_tensor(*[photo(n)[:72, :88] for n in ('astronaut', 'chelsea', 'rocket')])
    scores = fade(images)
    assert (scores.shape, scores.dtype) == ((3,), torch.float64)
    assert torch.allclose(scores, torch.cat([fade(i[None]) for i in images]), rtol=1e-12)
    assert len({round(s, 6) for s in scores.tolist()}) == 3
    assert torch.equal(fade(torch.nn.functional.pad(images, (0, 7, 0, 5), value=0.3)), scores)


def test_as_a_metric():
    img = photo('coffee')
    options = {'type': 'calculate_fade', 'crop_border': 4}
    assert calculate_metric({'img': img}, options) == calculate_fade(np.ascontiguousarray(img[4:-4, 4:-4]))
    assert (is_higher_better(calculate_fade), needs_of(calculate_fade)) == (False, ('img',))


def test_flat_images_have_no_score():
    assert fade(torch.full((1, 3, 32, 32), 0.5)).isnan().all()
    half = to_tensor(photo('coffee')[:64, :64])
    half[..., :32, :] = 1  # over-exposed: those patches drop out
    assert fade(half).isfinite().all()


def test_the_fit_is_reproducible(tmp_path):
    source = HERE.parent / 'datasets' / 'sample' / 'train' / 'coffee.jpg'
    (tmp_path / 'photos').mkdir()
    cv2.imwrite(str(tmp_path / 'photos' / 'coffee.png'), cv2.imread(str(source))[:96, :128])
    for name in ('a', 'b'):
        assert fit_fade.main([str(tmp_path / 'photos'), str(tmp_path / f'{name}.npz')]) == 0
    first, second = (np.load(tmp_path / f'{name}.npz') for name in ('a', 'b'))
    assert sorted(first) == ['cov_clear', 'cov_foggy', 'mean_clear', 'mean_foggy']
    for key in first:
        assert np.array_equal(first[key], second[key])
    clear = features(torch.from_numpy(read_image(tmp_path / 'photos' / 'coffee.png').transpose(2, 0, 1).copy())[None])[
        0
    ]
    clear = clear[clear.isfinite().all(1)]
    assert np.allclose(first['mean_clear'], clear.mean(0))
    assert np.allclose(first['cov_clear'], np.cov(clear.numpy().T))
    (tmp_path / 'empty').mkdir()
    assert fit_fade.main([str(tmp_path / 'empty'), str(tmp_path / 'c.npz')]) != 0


def test_refusals(tmp_path):
    with pytest.raises(MissingWeightsError, match=r'natural_fogfree_image_features_ps8.mat is not there.*fade-python'):
        calculate_fade(torch.rand(1, 3, 32, 32), parameters=str(tmp_path))
    (tmp_path / PUBLISHED['fogfree'][0]).write_bytes(b'not a matrix')
    with pytest.raises(OptionError, match='does not hold mu_fogfreeparam'):
        calculate_fade(torch.rand(1, 3, 32, 32), parameters=str(tmp_path))
    with pytest.raises(DataError, match='at least 16 x 16 pixels, got 15 x 40'):
        calculate_fade(torch.rand(1, 3, 15, 40))
    with pytest.raises(DataError, match='needs RGB images'):
        calculate_fade(torch.rand(1, 1, 32, 32))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_on_a_gpu():
    images = to_tensor(photo('coffee'), photo('coffee', 'haze'))
    torch.testing.assert_close(fade(images.cuda()).cpu(), fade(images), rtol=1e-6, atol=1e-8)
