"""The SSIM variants and the options of PSNR and SSIM: against their originals on photographs, and what they refuse."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from basicsr.errors import DataError, OptionError
from basicsr.metrics import calculate_metric, calculate_psnr, calculate_ssim, is_higher_better, needs_of
from basicsr.metrics.ssim import calculate_ssim_3d, calculate_ssim_skimage
from basicsr.options import load
from basicsr.registry import METRIC_REGISTRY
from tests.golden.recipe import DISTORTIONS

HERE = Path(__file__).parent
ROWS = json.loads((HERE / 'golden' / 'metrics_ssim.json').read_text())['rows']
FUNCTIONS = [calculate_psnr, calculate_ssim, calculate_ssim_skimage, calculate_ssim_3d]


def photo(name):
    asset = HERE / 'assets' / f'{name}.png'
    img = cv2.imread(str(asset if asset.is_file() else HERE.parent / 'datasets' / 'sample' / 'val' / f'{name}.jpg'))
    assert img is not None, name
    return np.ascontiguousarray(img[:160, :200])


def to_tensor(*images):
    return torch.stack([torch.from_numpy(i[..., ::-1].copy()).permute(2, 0, 1).float() / 255 for i in images])


@pytest.mark.parametrize(('name', 'distortion', 'rgb', 'luma'), ROWS)
def test_as_scikit_image_and_as_matlab_on_volumes(name, distortion, rgb, luma):
    clean = photo(name)
    img = DISTORTIONS[distortion](clean)
    for pair in ((img, clean), (to_tensor(img), to_tensor(clean))):
        assert float(calculate_ssim_skimage(*pair)) == pytest.approx(rgb['skimage'], abs=1e-9)
        gaussian = float(calculate_ssim_skimage(*pair, gaussian_weights=True))
        assert gaussian == pytest.approx(rgb['skimage_gaussian'], abs=1e-9)
        assert float(calculate_ssim_skimage(*pair, test_y_channel=True)) == pytest.approx(luma['skimage'], abs=1e-6)
        volume = float(calculate_ssim_3d(*pair))
        assert volume == pytest.approx(rgb['3d_restormer'], abs=1e-9)
        assert volume == pytest.approx(rgb['3d_nafnet_float32'], abs=2e-3)  # the original's own rounding
        assert float(calculate_ssim_3d(*pair, crop_border=4)) == pytest.approx(rgb['3d_nafnet_cropped'], abs=1e-9)
        assert float(calculate_ssim_3d(*pair, test_y_channel=True)) == pytest.approx(luma['3d_restormer'], abs=1e-6)


def test_the_variants_are_far_apart():
    clean = photo('coffee')
    img = DISTORTIONS['noise'](clean)
    scores = [f(img, clean) for f in (calculate_ssim, calculate_ssim_skimage, calculate_ssim_3d)]
    assert max(scores) - min(scores) > 0.3


def test_y_rounding_is_matlab():
    img, img2 = DISTORTIONS['noise'](photo('coffee')), photo('coffee')
    y, y2 = (np.floor(16 + x[..., ::-1].astype(float) @ [65.481, 128.553, 24.966] / 255 + 0.5) for x in (img, img2))
    wanted = 20 * np.log10(255 / np.sqrt(np.mean((y - y2) ** 2)))
    assert calculate_psnr(img, img2, test_y_channel=True, y_rounding=True) == pytest.approx(wanted, abs=1e-9)
    assert calculate_psnr(img, img2, test_y_channel=True) != pytest.approx(wanted, abs=1e-4)
    assert calculate_ssim(img, img2, test_y_channel=True, y_rounding=True) == pytest.approx(calculate_ssim(y, y2))
    with pytest.raises(OptionError, match='needs test_y_channel: true'):
        calculate_psnr(img, img2, y_rounding=True)


def test_gt_mean_as_low_light_papers_do():
    img2 = photo('astronaut')
    img = (img2 * 0.4).astype(np.uint8)
    mean, wanted = (cv2.cvtColor(x.astype(np.float32), cv2.COLOR_BGR2GRAY).mean(dtype=np.float64) for x in (img, img2))
    scaled = np.clip(img * (wanted / mean), 0, 255)
    expected = 10 * np.log10(255**2 / np.mean((scaled - img2) ** 2))
    assert calculate_psnr(img, img2, gt_mean=True) == pytest.approx(expected, abs=1e-4)
    assert calculate_psnr(to_tensor(img), to_tensor(img2), gt_mean=True).item() == pytest.approx(expected, abs=1e-4)
    assert calculate_psnr(img, img2) < expected - 10
    assert calculate_ssim(img, img2, gt_mean=True) == pytest.approx(
        calculate_ssim(scaled, img2.astype(float)), abs=1e-6
    )
    assert calculate_ssim_3d(img, img2, gt_mean=True) > calculate_ssim_3d(img, img2)
    black = np.zeros_like(img2)
    assert calculate_psnr(black, img2, gt_mean=True) == calculate_psnr(black, img2)


def test_gt_mean_is_per_image():
    img2 = to_tensor(photo('coffee'), photo('rocket'))
    img = img2 * torch.tensor([0.3, 0.8]).view(2, 1, 1, 1)
    for function in FUNCTIONS:
        single = torch.cat([function(a, b, gt_mean=True) for a, b in zip(img, img2)])
        assert torch.allclose(function(img, img2, gt_mean=True), single, atol=1e-12)


def test_unrounded_tensors():
    img, img2 = torch.full((1, 3, 16, 16), 100.4 / 255), torch.full((1, 3, 16, 16), 100 / 255)
    assert calculate_psnr(img, img2).item() == float('inf')
    assert calculate_psnr(img, img2, quantize=False).item() == pytest.approx(20 * np.log10(255 / 0.4), abs=1e-3)
    white = torch.ones(1, 3, 16, 16)
    assert calculate_psnr(white * 3, white, quantize=False).item() == float('inf')  # clipped as their authors do
    for function in FUNCTIONS[1:]:
        assert function(img, img2, quantize=False).item() < function(img, img2).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize('function', FUNCTIONS)
def test_a_batch_is_its_images(function):
    names = ['astronaut', 'chelsea', 'rocket']
    img2 = to_tensor(*[photo(n)[:90, :100] for n in names])
    img = to_tensor(*[DISTORTIONS['noise'](photo(n)[:90, :100]) for n in names])
    scores = function(img, img2)
    assert (scores.shape, scores.dtype) == ((3,), torch.float64)
    assert torch.allclose(scores, torch.cat([function(a, b) for a, b in zip(img, img2)]), rtol=0, atol=1e-12)
    assert len({round(s, 6) for s in scores.tolist()}) == 3


@pytest.mark.parametrize('function', FUNCTIONS[1:])
def test_identical_images_and_grey(function):
    img = photo('rocket')
    assert function(img, img) == pytest.approx(1, abs=1e-12)
    grey = img[..., 0]
    assert function(grey, grey // 2) < 1
    assert function(grey, grey // 2) == function(grey[..., None], grey[..., None] // 2)


@pytest.mark.parametrize(('function', 'side'), [(calculate_ssim_skimage, 7), (calculate_ssim_3d, 11)])
def test_room_for_the_window(function, side):
    small = torch.rand(1, 3, side - 1, 30)
    with pytest.raises(DataError, match=f'needs {side} x {side} pixels inside the border, got {side - 1} x 30'):
        function(small, small)
    exact = torch.rand(1, 3, side, side)
    assert function(exact, exact).item() == pytest.approx(1)


@pytest.mark.parametrize('name', ['psnr', 'ssim', 'ssim_skimage', 'ssim_3d'])
def test_registered_and_marked(name):
    function = METRIC_REGISTRY.get(f'calculate_{name}')
    assert is_higher_better(function) is True
    assert needs_of(function, {'type': f'calculate_{name}', 'crop_border': 4}) == ('img', 'img2')


@pytest.mark.skipif('QUALIR_DATA' not in os.environ, reason='QUALIR_DATA does not name the folder of test data')
def test_figures_that_matlab_gave():
    """TID2013 pairs with SSIM of the authors' MATLAB code on rgb2gray, and PSNR on RGB, rounded to 4 and 2 digits."""
    folder = Path(os.environ['QUALIR_DATA']) / 'iqa_golden'
    if not folder.is_dir():
        pytest.skip(f'{folder} is not there')
    lines = [line.split(',') for line in (folder / 'results_official.csv').read_text().splitlines()]
    official = {name: dict(zip(lines[0][1:], map(float, row))) for name, *row in lines if name in ('psnr', 'ssim')}
    for file in official['psnr']:
        img, img2 = (cv2.imread(str(folder / side / file)) for side in ('dist_dir', 'ref_dir'))
        assert calculate_psnr(img, img2) == pytest.approx(official['psnr'][file], abs=0.0051)
        grey, grey2 = (np.floor(x[..., ::-1] @ [0.298936, 0.587043, 0.114021] + 0.5) for x in (img, img2))
        assert calculate_ssim(grey, grey2) == pytest.approx(official['ssim'][file], abs=6e-5)


OPTION_FILE = """\
name: misspelt
datasets:
  test:
    type: PairedImageDataset
    dataroot_gt: a
    dataroot_lq: b
network_g:
  type: NAFNet
val:
  metrics:
    {label}:
      type: calculate_{label}
      {key}: true
"""
WITH_OWN_OPTIONS = [
    ('psnr', 'test_y_chanel', 'test_y_channel'),
    ('ssim', 'y_roundin', 'y_rounding'),
    ('ssim_skimage', 'gaussian_weight', 'gaussian_weights'),
    ('ssim_3d', 'gtmean', 'gt_mean'),
    ('uciqe', 'crop_boarder', 'crop_border'),
    ('uiqm', 'varient', 'variant'),
    ('entropy', 'input_oder', 'input_order'),
    ('colourfulness', 'crop_borde', 'crop_border'),
    ('fade', 'parameter', 'parameters'),
    ('niqe', 'convension', 'convention'),
    ('brisque', 'range', 'ranges'),
    ('piqe', 'crop_boder', 'crop_border'),
    ('lpips', 'nett', 'net'),
    ('pyiqa', 'metrics', 'metric'),
    ('score', 'scorers', 'scorer'),
]


@pytest.mark.parametrize(('label', 'key', 'meant'), WITH_OWN_OPTIONS)
def test_a_misspelt_option_is_refused_with_its_place(label, key, meant, tmp_path):
    data = {'img': torch.rand(1, 3, 32, 32), 'img2': torch.rand(1, 3, 32, 32), 'lq': torch.rand(1, 3, 32, 32)}
    with pytest.raises(OptionError, match=f"Metric calculate_{label} has no option '{key}'. Did you mean '{meant}'"):
        calculate_metric(data, {'type': f'calculate_{label}', key: True})
    file = tmp_path / 'misspelt.yml'
    file.write_text(OPTION_FILE.format(label=label, key=key))
    with pytest.raises(OptionError) as caught:
        load(file)
    line = next(line for line in str(caught.value).splitlines() if f'metrics.{label}.{key}' in line)
    assert f'{file}:13: ' in line
    assert f"Did you mean '{meant}'?" in line


def test_every_metric_of_this_project_is_in_the_list_above():
    ours = {name.removeprefix('calculate_') for name in METRIC_REGISTRY.index()}
    assert {label for label, _, _ in WITH_OWN_OPTIONS} == ours


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('function', FUNCTIONS)
def test_on_a_gpu_without_waiting_for_it(function):
    img, img2 = to_tensor(DISTORTIONS['blur'](photo('coffee'))), to_tensor(photo('coffee'))
    options = {'crop_border': 4, 'test_y_channel': True, 'y_rounding': True, 'gt_mean': True}
    on_gpu = img.cuda(), img2.cuda()
    function(*on_gpu, **options)
    torch.cuda.set_sync_debug_mode('error')
    try:
        scores = function(*on_gpu, **options)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    torch.testing.assert_close(scores.cpu(), function(img, img2, **options), rtol=0, atol=1e-9)
