"""PSNR and SSIM against BasicSR 1.4.2 on photographs (tests/golden), in both forms of input, and their refusals."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from basicsr.errors import DataError, OptionError
from basicsr.metrics import calculate_metric, calculate_psnr, calculate_ssim, is_higher_better, metric, needs_of
from basicsr.registry import METRIC_REGISTRY
from tests.golden.recipe import DISTORTIONS

HERE = Path(__file__).parent
ROWS = json.loads((HERE / 'golden' / 'metrics.json').read_text())['rows']
METRICS = [calculate_psnr, calculate_ssim]


def photo(name):
    img = cv2.imread(str(HERE / 'assets' / f'{name}.png'))
    assert img is not None, name
    return img


def spoilt(name, distortion):
    return photo(f'{name}_jpeg') if distortion == 'jpeg' else DISTORTIONS[distortion](photo(name))


def to_tensor(*images):
    return torch.stack([torch.from_numpy(i[..., ::-1].copy()).permute(2, 0, 1).float() / 255 for i in images])


@pytest.mark.parametrize(('name', 'distortion', 'options', 'psnr', 'ssim'), ROWS)
def test_as_basicsr_on_photographs(name, distortion, options, psnr, ssim):
    img, img2 = spoilt(name, distortion), photo(name)
    assert calculate_psnr(img, img2, **options) == pytest.approx(psnr, abs=1e-6)
    assert calculate_ssim(img, img2, **options) == pytest.approx(ssim, abs=1e-6)
    tensors = to_tensor(img), to_tensor(img2)
    assert calculate_psnr(*tensors, **options).item() == pytest.approx(psnr, abs=1e-6)
    assert calculate_ssim(*tensors, **options).item() == pytest.approx(ssim, abs=1e-6)


@pytest.mark.parametrize('function', METRICS)
@pytest.mark.parametrize('y', [False, True])
def test_a_batch_is_its_images(function, y):
    names = ['astronaut', 'chelsea', 'coffee']
    img = to_tensor(*[spoilt(n, 'noise') for n in names])
    img2 = to_tensor(*[photo(n) for n in names])
    scores = function(img, img2, test_y_channel=y)
    assert (scores.shape, scores.dtype) == ((3,), torch.float64)
    singles = torch.cat([function(a, b, test_y_channel=y) for a, b in zip(img, img2)])  # (C, H, W)
    assert torch.equal(scores, singles)
    assert len(set(scores.tolist())) == 3


@pytest.mark.parametrize('function', METRICS)
def test_orders_and_grey_arrays(function):
    img, img2 = spoilt('coffee', 'jpeg'), photo('coffee')
    wanted = function(img, img2, test_y_channel=True)
    chw = (np.ascontiguousarray(x.transpose(2, 0, 1)) for x in (img, img2))
    assert function(*chw, input_order='CHW', test_y_channel=True) == wanted
    plane, plane2 = img[..., 0], img2[..., 0]
    grey = function(plane, plane2)
    assert function(plane[..., None], plane2[..., None]) == grey
    assert function(plane, plane2, input_order='CHW', test_y_channel=True) == grey
    assert function(*(torch.from_numpy(x / 255)[None] for x in (plane, plane2))).item() == pytest.approx(grey, abs=1e-9)


@pytest.mark.parametrize('y', [False, True])
def test_identical_images(y):
    img = photo('rocket')
    assert calculate_psnr(img, img, test_y_channel=y) == float('inf')
    assert calculate_psnr(to_tensor(img), to_tensor(img), test_y_channel=y).tolist() == [float('inf')]
    assert calculate_ssim(img, img, test_y_channel=y) == 1
    assert calculate_ssim(to_tensor(img), to_tensor(img), test_y_channel=y).tolist() == [1]


def test_tensors_are_measured_as_saved_images():
    img2 = to_tensor(photo('coffee'))
    unsaved = img2 + 0.4 / 255  # rounds back to the same levels
    assert calculate_psnr(unsaved, img2).item() == float('inf')
    white = torch.ones(1, 3, 16, 16)
    assert calculate_psnr(white * 7, white).item() == float('inf')  # clamped
    one_level = calculate_psnr(torch.full((1, 3, 16, 16), 100 / 255), torch.full((1, 3, 16, 16), 101 / 255))
    assert one_level.item() == pytest.approx(20 * np.log10(255))


def test_arrays_of_floats_are_not_rounded():
    a, b = np.full((16, 16, 3), 100.0), np.full((16, 16, 3), 100.5)
    assert calculate_psnr(a, b) == pytest.approx(20 * np.log10(510))


def test_crop_border_leaves_out_the_edge():
    img2 = photo('chelsea')
    img = img2.copy()
    img[:4], img[-4:], img[:, :4], img[:, -4:] = 0, 0, 0, 0
    assert calculate_psnr(img, img2, crop_border=4) == float('inf')
    assert calculate_psnr(img, img2, crop_border=3) < 40


@settings(deadline=None, max_examples=30)
@given(arrays(np.uint8, (2, 12, 13, 3)))
def test_properties(pair):
    img, img2 = pair
    psnr, ssim = calculate_psnr(img, img2), calculate_ssim(img, img2)
    assert psnr >= 0
    assert -1 <= ssim <= 1 + 1e-12
    assert psnr == calculate_psnr(img2, img)
    assert ssim == pytest.approx(calculate_ssim(img2, img), abs=1e-12)
    assert ssim == pytest.approx(calculate_ssim(img[:, ::-1], img2[:, ::-1]), abs=1e-12)  # a mirror does not matter


def test_no_gradient_graph_and_input_unchanged():
    img, img2 = to_tensor(photo('coffee')).requires_grad_(), to_tensor(photo('rocket'))
    before = img.detach().clone()
    for function in METRICS:
        assert not function(img, img2, crop_border=2, test_y_channel=True).requires_grad
    assert torch.equal(img, before)


@pytest.mark.parametrize('function', METRICS)
@pytest.mark.parametrize(
    ('img', 'img2', 'options', 'error', 'text'),
    [
        (torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 17), {}, DataError, r'16, 16\) but img2 is \(1, 3, 16, 17\)'),
        (np.zeros((16, 16, 3)), np.zeros((16, 16)), {}, DataError, r'\(16, 16, 3\) but img2 is \(16, 16\)'),
        (np.zeros((16, 16, 3)), torch.rand(16, 16, 3), {}, DataError, 'not ndarray and Tensor'),
        ([1], [1], {}, DataError, 'not list and list'),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), torch.zeros(3, 16, 16, dtype=torch.uint8), {}, DataError, 'uint8'),
        (torch.rand(16, 16), torch.rand(16, 16), {}, DataError, r'not torch.float32 of shape \(16, 16\)'),
        (np.zeros((16, 16, 3), np.uint16), np.zeros((16, 16, 3), np.uint16), {}, DataError, '8-bit or floating-point'),
        (torch.rand(1, 2, 16, 16), torch.rand(1, 2, 16, 16), {'test_y_channel': True}, DataError, '1 or 3 channels'),
        (torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), {'crop_border': 8}, DataError, 'leaves nothing'),
        (torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), {'crop_border': -1}, OptionError, 'not -1'),
        (np.zeros((16, 16, 3)), np.zeros((16, 16, 3)), {'input_order': 'WHC'}, OptionError, 'HWC and CHW'),
    ],
)  # fmt: skip
def test_bad_input_is_refused(function, img, img2, options, error, text):
    with pytest.raises(error, match=text):
        function(img, img2, **options)


def test_ssim_needs_room_for_its_window():
    with pytest.raises(DataError, match='11 x 11 pixels inside the border, got 10 x 20'):
        calculate_ssim(torch.rand(1, 3, 14, 24), torch.rand(1, 3, 14, 24), crop_border=2)
    assert calculate_ssim(torch.rand(1, 3, 11, 11), torch.rand(1, 3, 11, 11)).shape == (1,)


def test_calculate_metric_by_options():
    img, img2 = to_tensor(spoilt('coffee', 'blur')), to_tensor(photo('coffee'))
    opt = {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True}
    before = dict(opt)
    score = calculate_metric({'img': img, 'img2': img2}, opt)
    assert opt == before
    assert torch.equal(score, calculate_psnr(img, img2, crop_border=4, test_y_channel=True))


@pytest.mark.parametrize(
    ('opt', 'text'),
    [
        (
            {'type': 'calculate_psnr', 'test_y_chanel': True},
            "no option 'test_y_chanel'. Did you mean 'test_y_channel'?",
        ),
        ({'type': 'calculate_ssim', 'img2': 3}, "no option 'img2'"),
        ({'type': 'calculate_psnrs'}, 'calculate_psnr'),
        ({}, "No metric named 'None'"),
    ],
)
def test_a_misspelt_option_is_an_error(opt, text):
    with pytest.raises(OptionError, match=text.replace('?', r'\?')):
        calculate_metric({'img': torch.rand(1, 3, 16, 16), 'img2': torch.rand(1, 3, 16, 16)}, opt)


def test_missing_data_is_named():
    with pytest.raises(DataError, match="needs 'img2', but the data has only: img"):
        calculate_metric({'img': torch.rand(1, 3, 16, 16)}, {'type': 'calculate_psnr'})


def test_metrics_of_plug_ins():
    @METRIC_REGISTRY.register()
    @metric(higher_better=False, needs=('img',))
    def mean_level_for_test(img, scale: float = 1.0):
        return scale * img.mean()

    def swallowing_for_test(img, **kwargs):  # as BasicSR's own metrics do
        return sorted(kwargs)

    METRIC_REGISTRY.register(swallowing_for_test)
    data = {'img': torch.ones(1, 3, 2, 2), 'img2': torch.zeros(1, 3, 2, 2)}
    assert calculate_metric(data, {'type': 'mean_level_for_test', 'scale': 2.0}) == 2
    assert calculate_metric(data, {'type': 'swallowing_for_test', 'crop_border': 1}) == ['crop_border', 'img2']
    assert (mean_level_for_test.higher_better, mean_level_for_test.needs) == (False, ('img',))


def test_what_a_metric_needs_and_which_way_it_points_may_depend_on_its_options():
    @METRIC_REGISTRY.register()
    @metric(
        higher_better=lambda kind: kind == 'gain',
        needs=('img', 'lq'),
        needs_of=lambda kind: ('img', 'lq') if kind == 'gain' else ('img',),
    )
    def either_for_test(img, lq=None, *, kind: str):
        return img.mean() - (0 if lq is None else lq.mean())

    data = {'img': torch.ones(1, 3, 2, 2)}
    gain, plain = ({'type': 'either_for_test', 'kind': kind} for kind in ('gain', 'plain'))
    assert (is_higher_better(either_for_test, gain), is_higher_better(either_for_test, plain)) == (True, False)
    assert needs_of(either_for_test, gain) == ('img', 'lq')
    assert calculate_metric(data, plain) == 1
    assert calculate_metric({**data, 'lq': data['img']}, gain) == 0
    with pytest.raises(DataError, match="needs 'lq', but the data has only: img"):
        calculate_metric(data, gain)
    with pytest.raises(OptionError, match="no option 'lq'"):
        calculate_metric(data, {**plain, 'lq': 1})


@pytest.mark.parametrize('name', ['calculate_psnr', 'calculate_ssim'])
def test_registered_and_marked(name):
    assert METRIC_REGISTRY.get(name).higher_better is True
    assert METRIC_REGISTRY.get(name).needs == ('img', 'img2')
    assert METRIC_REGISTRY.index()[name]


def test_import_is_light():
    code = 'import sys, basicsr.metrics; print({"torch", "torchvision", "pyiqa", "cv2", "numpy"} & set(sys.modules))'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=HERE.parent)
    assert run.stdout.strip() == 'set()'


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('function', METRICS)
def test_on_a_gpu_without_waiting_for_it(function):
    img, img2 = to_tensor(spoilt('coffee', 'blur')), to_tensor(photo('coffee'))
    on_gpu = img.cuda(), img2.cuda()
    torch.cuda.set_sync_debug_mode('error')
    try:
        scores = function(*on_gpu, crop_border=4, test_y_channel=True)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    torch.testing.assert_close(scores.cpu(), function(img, img2, crop_border=4, test_y_channel=True), rtol=0, atol=1e-9)
