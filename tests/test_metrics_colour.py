"""UCIQE, UIQM, entropy, colourfulness: against the programs that circulate and slow loops after MATLAB code."""

import json
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from basicsr.errors import DataError, OptionError
from basicsr.metrics import calculate_metric, needs_of
from basicsr.metrics.colour import (
    calculate_colourfulness,
    calculate_entropy,
    calculate_uciqe,
    calculate_uiqm,
    colourfulness,
    entropy,
    uciqe,
    uiqm,
)
from tests.golden.recipe import DISTORTIONS

HERE = Path(__file__).parent
ROWS = json.loads((HERE / 'golden' / 'metrics_colour.json').read_text())['rows']
FUNCTIONS = [calculate_uciqe, calculate_uiqm, calculate_entropy, calculate_colourfulness]


def photo(name, distortion='clean'):
    img = cv2.imread(str(HERE / 'assets' / f'{name}.png'))
    return img if distortion == 'clean' else DISTORTIONS[distortion](img)


def to_tensor(*images):
    return torch.stack([torch.from_numpy(i[..., ::-1].copy()).permute(2, 0, 1).float() / 255 for i in images])


@pytest.mark.parametrize(('name', 'distortion', 'scores'), ROWS)
def test_as_the_programs_that_circulate(name, distortion, scores):
    img = photo(name, distortion)
    found = {
        'uciqe_opencv': calculate_uciqe(img, variant='opencv'),
        'uciqe_nmetrics': calculate_uciqe(img, variant='nmetrics'),
        'uiqm_python': calculate_uiqm(img),
        'entropy': calculate_entropy(img),
    }
    # the opencv program counts 65,536 bins between the darkest and the lightest level; pyiqa's grey is not MATLAB's
    tolerance = {'uciqe_opencv': 2e-5, 'uciqe_nmetrics': 1e-9, 'uiqm_python': 1e-7, 'entropy': 1e-3}
    for key, value in found.items():
        assert value == pytest.approx(scores[key], abs=tolerance[key]), key
    tensor = to_tensor(img)
    assert calculate_uiqm(tensor).item() == pytest.approx(found['uiqm_python'], abs=1e-9)
    assert calculate_uciqe(tensor, variant='opencv').item() == pytest.approx(found['uciqe_opencv'], abs=1e-9)


def matlab_uciqe(img):
    """After the MATLAB code, term by term, with OpenCV's 8-bit Lab."""
    lab = cv2.cvtColor(img, cv2.COLOR_BGR2LAB).reshape(-1, 3) / 255
    light, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    spread = math.sqrt(np.mean(np.abs(1 - (chroma.mean() / chroma) ** 2)))
    share = np.cumsum(np.bincount(np.rint(light * 255).astype(int), minlength=256)) / len(light)
    contrast = (np.argmax(share >= 0.99) - np.argmax(share > 0.01)) / 255
    return 0.4680 * spread + 0.2745 * contrast + 0.2576 * np.mean(chroma / np.hypot(chroma, light))


def cubic(x):
    x = abs(x)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def matlab_imresize(plane, height, width):
    """Bicubic imresize, enlarging: one new line at a time; columns by way of the transpose."""
    for wanted in (height, width):
        size, lines = len(plane), []
        for i in range(1, wanted + 1):
            u = i * size / wanted + 0.5 * (1 - size / wanted)
            taps = [math.floor(u - 2) + k for k in range(6)]
            weights = np.array([cubic(u - t) for t in taps])
            inside = [t - 1 if 1 <= t <= size else -t if t < 1 else 2 * size - t for t in taps]
            lines.append((plane[inside] * (weights / weights.sum())[:, None]).sum(0))
        plane = np.array(lines).T
    return plane


def matlab_uiqm(img):
    """After UICM.m, UISM.m and UIConM.m of Semi-UIR, in loops."""
    rgb = [img[..., c].astype(float) for c in (2, 1, 0)]
    height, width = img.shape[:2]
    uneven = height % 5 or width % 5
    enlarged = (height - height % 5 + 5, width - width % 5 + 5)
    count, means, variances = height * width, [], []
    for values in (rgb[0] - rgb[1], (rgb[0] + rgb[1]) / 2 - rgb[2]):
        kept = np.sort(values.ravel())[int(0.1 * count + 1 + 0.5) - 1 : int(0.9 * count + 0.5)]
        means.append(kept.sum() / (0.8 * count))
        variances.append(((kept - means[-1]) ** 2).sum() / (0.8 * count))
    colour = -0.0268 * math.hypot(*means) + 0.1586 * math.sqrt(sum(variances))
    sharpness = contrast = 0.0
    for plane, weight in zip(rgb, (0.299, 0.587, 0.114)):
        kernel = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]]) + np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        edges = np.abs(cv2.filter2D(plane, -1, kernel[::-1, ::-1].astype(float), borderType=cv2.BORDER_REPLICATE))
        edges, resized = (matlab_imresize(p, *enlarged) if uneven else p for p in (edges, plane))
        ratios, entropies = [], []
        for i in range(0, height, 5):
            for j in range(0, width, 5):
                high, low = edges[i : i + 5, j : j + 5].max(), edges[i : i + 5, j : j + 5].min()
                ratios.append(math.log(abs(high / low)) if high != 0 and low != 0 else 0)
        for i in range(0, len(resized), 5):
            for j in range(0, resized.shape[1], 5):
                high, low = resized[i : i + 5, j : j + 5].max(), resized[i : i + 5, j : j + 5].min()
                part = (high - low) / (high + low) if high != low else 1
                entropies.append(part * math.log(abs(part)))
        sharpness += weight * 2 * abs(sum(ratios)) / (height * width / 25)
        contrast += abs(np.mean(entropies))
    return 0.0282 * colour + 0.2953 * sharpness + 3.5753 * contrast


@pytest.mark.parametrize('name', ['astronaut', 'coffee'])
@pytest.mark.parametrize('size', [(120, 150), (121, 148), (125, 91)])
def test_as_the_matlab_code(name, size):
    img = np.ascontiguousarray(photo(name)[: size[0], : size[1]])
    assert calculate_uciqe(img) == pytest.approx(matlab_uciqe(img), abs=3e-3)
    assert calculate_uiqm(img, variant='matlab') == pytest.approx(matlab_uiqm(img), abs=1e-6)


def test_variants_do_not_compare():
    img = photo('coffee')
    assert len({round(calculate_uciqe(img, variant=v), 2) for v in ('matlab', 'nmetrics')}) == 2
    assert abs(calculate_uiqm(img) - calculate_uiqm(img, variant='matlab')) > 0.5


def test_colourfulness_by_its_formula():
    img = photo('astronaut')
    blue, green, red = (img[..., c].astype(float) for c in range(3))
    rg, yb = red - green, 0.5 * (red + green) - blue
    wanted = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    assert calculate_colourfulness(img) == pytest.approx(wanted, abs=1e-9)
    grey = np.repeat(img[..., :1], 3, axis=2)
    assert calculate_colourfulness(grey) == 0


def test_entropy_of_known_histograms():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert calculate_entropy(ramp) == pytest.approx(8)
    assert calculate_entropy(np.repeat(ramp[..., None], 3, axis=2)) == pytest.approx(8)
    assert calculate_entropy(ramp // 128) == pytest.approx(1)
    assert calculate_entropy(np.full((16, 16), 7, np.uint8)) == 0


@pytest.mark.skipif('QUALIR_DATA' not in os.environ, reason='QUALIR_DATA does not name the folder of test data')
def test_entropy_that_matlab_gave():
    folder = Path(os.environ['QUALIR_DATA']) / 'iqa_golden'
    if not folder.is_dir():
        pytest.skip(f'{folder} is not there')
    lines = [line.split(',') for line in (folder / 'results_official.csv').read_text().splitlines()]
    official = next(dict(zip(lines[0][1:], map(float, row))) for name, *row in lines if name == 'entropy')
    for file, value in official.items():
        assert calculate_entropy(cv2.imread(str(folder / 'dist_dir' / file))) == pytest.approx(value, abs=6e-5)


@pytest.mark.parametrize('function', FUNCTIONS)
def test_a_batch_is_its_images(function):
    images = to_tensor(*[photo(n)[:101, :123] for n in ('astronaut', 'chelsea', 'coffee')])
    for options in [{}, *({'variant': v} for v in ('matlab', 'nmetrics', 'python') if accepts(function, v))]:
        scores = function(images, **options)
        assert (scores.shape, scores.dtype) == ((3,), torch.float64)
        assert torch.allclose(scores, torch.cat([function(i, **options) for i in images]), rtol=1e-12, atol=0)
        assert len({round(s, 6) for s in scores.tolist()}) == 3


def accepts(function, variant):
    return {calculate_uciqe: ('matlab', 'nmetrics'), calculate_uiqm: ('matlab', 'python')}.get(function, ()).count(
        variant
    )


@pytest.mark.parametrize('function', FUNCTIONS)
def test_metrics_of_one_image(function):
    img = photo('coffee')
    assert needs_of(function) == ('img',)
    score = calculate_metric({'img': img}, {'type': function.__name__, 'crop_border': 8})
    assert score == function(np.ascontiguousarray(img[8:-8, 8:-8]))
    chw = np.ascontiguousarray(img.transpose(2, 0, 1))
    assert function(chw, input_order='CHW') == function(img)


@pytest.mark.parametrize('size', [(17, 23), (15, 20)])
@pytest.mark.parametrize('level', [0.0, 0.5, 1.0])
def test_flat_images_give_a_finite_score(size, level):
    flat = torch.full((1, 3, *size), level)
    for function in FUNCTIONS:
        assert torch.isfinite(function(flat)).all()
    for variant in ('matlab', 'opencv', 'nmetrics'):
        assert torch.isfinite(calculate_uciqe(flat, variant=variant)).all()
    assert torch.isfinite(calculate_uiqm(flat, variant='matlab')).all()


def test_gradients_of_the_smooth_ones():
    x = (torch.rand(1, 3, 16, 20, dtype=torch.float64, generator=torch.manual_seed(0)) * 0.8 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(colourfulness, x)
    for function in (uciqe, uiqm):
        gradient = torch.autograd.grad(function(x, 'nmetrics' if function is uciqe else 'python').sum(), x)[0]
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0
    grey = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    colourfulness(grey).sum().backward()
    assert torch.isfinite(grey.grad).all()
    assert not entropy(x).requires_grad


@pytest.mark.parametrize('function', FUNCTIONS[:2] + FUNCTIONS[3:])
def test_colour_is_needed(function):
    with pytest.raises(DataError, match='needs an RGB image, not one of 1 channels'):
        function(torch.rand(1, 1, 32, 32))


def test_refusals():
    with pytest.raises(DataError, match='needs 1 or 3 channels, not 2'):
        calculate_entropy(torch.rand(1, 2, 8, 8))
    with pytest.raises(DataError, match='needs 10 x 10 pixels, got 9 x 30'):
        calculate_uiqm(torch.rand(1, 3, 9, 30))
    with pytest.raises(OptionError, match="variant 'octave' is not known; allowed are matlab, opencv, nmetrics"):
        calculate_uciqe(torch.rand(1, 3, 16, 16), variant='octave')
    with pytest.raises(OptionError, match="variant 'opencv' is not known; allowed are python, matlab"):
        calculate_uiqm(torch.rand(1, 3, 16, 16), variant='opencv')


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('function', FUNCTIONS)
def test_on_a_gpu(function):
    images = to_tensor(photo('coffee'), photo('coffee', 'blur'))
    torch.testing.assert_close(function(images.cuda()).cpu(), function(images), rtol=0, atol=1e-6)
