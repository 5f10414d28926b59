"""The helpers that files written for BasicSR import, against BasicSR 1.4.2 (tests/golden) and by themselves."""

import logging
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from basicsr import utils
from basicsr.archs import arch_util
from basicsr.errors import DataError, OptionError
from basicsr.utils import imfrombytes, img2tensor, imwrite, scandir, tensor2img
from tests.golden.recipe import fill, image, uniform

HERE = Path(__file__).parent
ARCHS = np.load(HERE / 'golden' / 'archs.npz')
IMAGES = np.load(HERE / 'golden' / 'utils.npz')


def same(tensor, golden):
    np.testing.assert_allclose(tensor.detach().numpy(), golden, rtol=1e-6, atol=1e-6)


@pytest.fixture
def feature():
    return image((1, 4, 6, 8), 1).float()


# --- arch_util ---


def test_residual_block(feature):
    same(fill(arch_util.ResidualBlockNoBN(4, res_scale=0.5))(feature), ARCHS['residual'])
    assert [*arch_util.ResidualBlockNoBN(4).state_dict()] == [
        'conv1.weight',
        'conv1.bias',
        'conv2.weight',
        'conv2.bias',
    ]


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_upsample(feature, scale):
    same(fill(arch_util.Upsample(scale, 4))(feature), ARCHS[f'upsample{scale}'])


def test_upsample_by_one_is_nothing_and_by_six_is_refused(feature):
    assert torch.equal(arch_util.Upsample(1, 4)(feature), feature)
    for scale in (6, 0):
        with pytest.raises(OptionError, match=f'scale {scale} is not supported'):
            arch_util.Upsample(scale, 4)


@pytest.mark.parametrize(('mode', 'padding'), [('bilinear', 'zeros'), ('nearest', 'zeros'), ('bilinear', 'border')])
def test_flow_warp(feature, mode, padding):
    flow = torch.from_numpy(uniform((1, 6, 8, 2), 2)).float() * 6
    same(arch_util.flow_warp(feature, flow, mode, padding), ARCHS[f'flow_warp_{mode}_{padding}'])


def test_flow_warp_by_whole_pixels_moves_the_image(feature):
    flow = torch.zeros(1, 6, 8, 2)
    flow[..., 0], flow[..., 1] = 2, 1
    torch.testing.assert_close(arch_util.flow_warp(feature, flow)[..., :5, :6], feature[..., 1:, 2:], rtol=0, atol=1e-5)
    with pytest.raises(DataError, match='H and W must be equal'):
        arch_util.flow_warp(feature, flow[:, 1:])


def test_resize_flow(feature):
    flow = feature[:, :2]
    before = flow.clone()
    same(arch_util.resize_flow(flow, 'ratio', [0.5, 2.0]), ARCHS['resize_flow_ratio'])
    same(arch_util.resize_flow(flow, 'shape', [9, 4]), ARCHS['resize_flow_shape'])
    assert torch.equal(flow, before)
    with pytest.raises(OptionError, match="size_type 'scale'"):
        arch_util.resize_flow(flow, 'scale', [1, 1])


def test_pixel_unshuffle(feature):
    same(arch_util.pixel_unshuffle(feature, 2), ARCHS['pixel_unshuffle'])


def test_initial_weights_follow_the_seed_as_in_basicsr():
    torch.manual_seed(0)
    same(arch_util.ResidualBlockNoBN(4).conv1.weight, ARCHS['init_conv'])
    linear = nn.Linear(5, 4)
    arch_util.default_init_weights(linear, 2, 0.5, nonlinearity='relu')
    same(linear.weight, ARCHS['init_linear'])
    same(linear.bias, ARCHS['init_linear_bias'])
    same(arch_util.trunc_normal_(torch.empty(50), 0.1, 0.5, -0.4, 0.6), ARCHS['trunc_normal'])


def test_default_init_of_norms_and_of_layers_without_bias():
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False), nn.ReLU())
    net[1].weight.data.fill_(7)
    arch_util.default_init_weights([net], bias_fill=0.25)
    assert (net[1].weight.tolist(), net[1].bias.tolist()) == ([1, 1], [0.25, 0.25])


def test_make_layer_makes_separate_blocks():
    layers = arch_util.make_layer(arch_util.ResidualBlockNoBN, 3, num_feat=2)
    assert len(layers) == 3
    assert len({p.data_ptr() for p in layers.parameters()}) == 12


def test_tuples():
    assert arch_util.to_2tuple(3) == (3, 3)
    assert arch_util.to_4tuple('abcd') == 'abcd'
    assert arch_util.to_3tuple([1, 2, 3]) == [1, 2, 3]
    assert (arch_util.to_1tuple(1.5), arch_util.to_ntuple(5)(0)) == ((1.5,), (0,) * 5)


def torchvision_ops_work():
    try:
        arch_util._torchvision_ops()
    except OptionError:
        return False
    return True


def test_dcn_without_torchvision_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    monkeypatch.setitem(sys.modules, 'torchvision.ops', None)
    with pytest.raises(OptionError, match='DCNv2Pack needs torchvision with its compiled operators'):
        arch_util.DCNv2Pack(4, 6, 3)


@pytest.mark.skipif(not torchvision_ops_work(), reason="torchvision's compiled operators are not installed")
def test_dcn(feature):
    layer = arch_util.DCNv2Pack(4, 6, 3, padding=1, deformable_groups=2)
    shapes = {f'dcn:{k}': tuple(v.shape) for k, v in layer.state_dict().items()}
    assert shapes == {k: ARCHS[k].shape for k in ARCHS.files if k.startswith('dcn:')}
    plain = nn.functional.conv2d(feature, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(feature, feature), plain / 2)  # fresh: no offsets, and masks of sigmoid(0)


# --- images ---


def test_img2tensor():
    photo = cv2.imread(str(HERE / 'assets' / 'coffee.png'))[:8, :9]
    same(img2tensor(photo), IMAGES['img2tensor'])
    kept = img2tensor(photo, bgr2rgb=False, float32=False)
    assert kept.dtype == torch.uint8
    same(kept, IMAGES['img2tensor_bgr'])
    assert [t.shape for t in img2tensor([photo, photo[..., 0]])] == [(3, 8, 9), (1, 8, 9)]


def test_tensor2img():
    batch = image((5, 3, 4, 6), 4).float() * 3 - 1
    for name, got in {
        'colour': tensor2img(batch[0], min_max=(-1, 1)),
        'colour_rgb_float': tensor2img(batch[:1], rgb2bgr=False, out_type=np.float32),
        'grey': tensor2img(batch[0, :1]),
        'plane': tensor2img(batch[0, 0]),
        'grid': tensor2img(batch),
        'grid_grey': tensor2img(batch[:, :1]),
    }.items():
        assert got.dtype == IMAGES[name].dtype, name
        np.testing.assert_array_equal(got, IMAGES[name], err_msg=name)


def test_tensor2img_round_trip_and_lists():
    photo = cv2.imread(str(HERE / 'assets' / 'rocket.png'))
    tensor = img2tensor(photo).div(255).requires_grad_()
    images = tensor2img([tensor, tensor[None]])
    assert len(images) == 2
    assert all(np.array_equal(i, photo) for i in images)
    assert isinstance(tensor2img([tensor]), np.ndarray)


@pytest.mark.parametrize('bad', [np.zeros((4, 4)), [1], torch.zeros(2, 4, 4), torch.zeros(1, 1, 3, 4, 4)])
def test_tensor2img_refuses(bad):
    with pytest.raises(DataError, match='tensor2img: needs'):
        tensor2img(bad)


def test_write_and_read_back(tmp_path):
    photo = cv2.imread(str(HERE / 'assets' / 'chelsea.png'))
    path = tmp_path / 'nouveau dossier é' / 'chat.png'
    imwrite(photo, path)
    content = path.read_bytes()
    assert np.array_equal(imfrombytes(content), photo)
    assert imfrombytes(content, 'grayscale').shape == photo.shape[:2]
    np.testing.assert_allclose(imfrombytes(content, float32=True), photo / 255, rtol=1e-6)
    deep = photo[..., 0].astype(np.uint16) * 257
    imwrite(deep, str(tmp_path / 'deep.png'))
    np.testing.assert_allclose(
        imfrombytes((tmp_path / 'deep.png').read_bytes(), 'unchanged', True), deep / 65535, rtol=1e-6
    )


def test_bad_images_are_refused(tmp_path):
    for content in (b'', b'not an image'):
        with pytest.raises(DataError, match=f'{len(content)} bytes that are not an image'):
            imfrombytes(content)
    with pytest.raises(DataError, match="flag 'colour' is not known"):
        imfrombytes(b'', 'colour')
    for name in ('a.nonsense', 'no_ending'):
        with pytest.raises(DataError, match=f'{name} cannot be written'):
            imwrite(np.zeros((4, 4, 3), np.uint8), tmp_path / name)
    with pytest.raises(FileNotFoundError):
        imwrite(np.zeros((4, 4, 3), np.uint8), tmp_path / 'missing' / 'a.png', auto_mkdir=False)
    assert [*tmp_path.iterdir()] == []


def test_crop_border():
    img = np.arange(48).reshape(6, 8)
    assert np.array_equal(utils.crop_border(img, 2), img[2:-2, 2:-2])
    assert utils.crop_border(img, 0) is img
    assert [i.shape for i in utils.crop_border([img, img], 1)] == [(4, 6)] * 2


# --- misc ---


def test_scandir(tmp_path):
    for name in ('b.png', 'a.jpg', '.hidden.png', 'deep/c.png', '.git/d.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [*scandir(tmp_path)] == ['a.jpg', 'b.png']
    assert [*scandir(tmp_path, suffix='.png', recursive=True)] == ['b.png', str(Path('deep') / 'c.png')]
    assert [*scandir(str(tmp_path), ('.jpg', '.tif'), full_path=True)] == [str(tmp_path / 'a.jpg')]
    with pytest.raises(FileNotFoundError):
        next(scandir(tmp_path / 'none'))


def test_mkdir_and_rename_loses_nothing(tmp_path):
    folder = tmp_path / 'run'
    for n in range(3):  # within one second: the time alone does not tell the archives apart
        utils.mkdir_and_rename(folder)
        (folder / str(n)).touch()
    kept = sorted(f.name for archive in tmp_path.glob('run_archived_*') for f in archive.iterdir())
    assert kept == ['0', '1']
    assert [f.name for f in folder.iterdir()] == ['2']


def test_set_random_seed():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    utils.set_random_seed(3)
    first = draw()
    assert draw() != first
    utils.set_random_seed(3)
    assert draw() == first


def test_names():
    assert utils.get_root_logger() is logging.getLogger('basicsr')
    assert len(utils.get_time_str()) == 15
    assert [utils.sizeof_fmt(n) for n in (0, 1536, 5 * 2**30)] == ['0.0 B', '1.5 KB', '5.0 GB']
    with pytest.raises(ImportError):
        from basicsr.utils import no_such_helper  # noqa: F401
    for name in utils.__all__:
        assert callable(getattr(utils, name))


def test_import_is_light():
    code = 'import sys, basicsr.utils, basicsr.utils.registry; print({"torch", "cv2", "numpy"} & set(sys.modules))'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=HERE.parent)
    assert run.stdout.strip() == 'set()'
