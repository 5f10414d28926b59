"""CKDN: the published preprocessing and network, and checkpoints of every layout."""

import argparse

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from basicsr import checkpoint
from basicsr.archs.ckdn_arch import CKDN
from basicsr.archs.ckdn_preprocess import reference_view, restored_view, sides
from basicsr.errors import CheckpointError, DataError, OptionError

from .golden.peers import import_torchvision

MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
SMALL = {'short_side': 73, 'crop': 64}  # 329 and 288, in small
SIZES = [(288, 288), (329, 329), (384, 512), (511, 333), (33, 47), (300, 329), (613, 32)]
PARTS = ['qse_1', 'qse_2', 'csp', 'dte_1', 'dte_2', 'aux_csp', 'fc_', 'fc1_']


def trained(**options):
    """A network whose statistics and scales are not those that it begins with."""
    torch.manual_seed(0)
    net = CKDN(**options)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return net.eval()


@pytest.fixture(scope='module')
def small():
    return trained(**SMALL)


def levels(*shape, seed=0):
    """Images of 256 levels."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).float() / 255


# ---- preprocessing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', SIZES)
def test_the_view_is_that_of_torchvision_on_pillow_images(size):
    """The released transforms: Resize(329), bicubic or nearest, CenterCrop(288) of 8-bit images, ToTensor."""
    from PIL import Image

    import_torchvision()
    from torchvision.transforms import functional, InterpolationMode  # isort: skip

    for image in (levels(1, 3, *size), (levels(1, 3, *size) > 0.5).float()):  # the second overshoots everywhere
        pillow = Image.fromarray((image[0] * 255).round().byte().permute(1, 2, 0).numpy())
        for mode, view in ((InterpolationMode.BICUBIC, restored_view), (InterpolationMode.NEAREST, reference_view)):
            cut = functional.center_crop(functional.resize(pillow, 329, mode), [288, 288])
            wanted = torch.from_numpy(np.array(cut)).permute(2, 0, 1)[None].float() / 255
            assert (view(image, 329, 288, 'pil') - wanted).abs().max() < 1e-6


@pytest.mark.parametrize('size', SIZES)
def test_the_second_view_is_that_of_torchvision_on_tensors(size):
    """pyiqa's transforms, which are torchvision's on float tensors."""
    import_torchvision()
    from torchvision.transforms import functional, InterpolationMode  # isort: skip

    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    for mode, view in ((InterpolationMode.BICUBIC, restored_view), (InterpolationMode.NEAREST, reference_view)):
        wanted = functional.center_crop(functional.resize(image, 329, mode), [288, 288])
        assert (view(image, 329, 288, 'tensor') - wanted).abs().max() < 1e-6


def test_the_centre_is_seen():
    assert sides(288, 288, 329, 288)[0] == (288, 329, 20, 308)  # 20.5 goes to the even number
    rows, columns = sides(100, 201, 329, 288)
    assert (rows.resized, columns.resized, columns.start) == (329, 661, 186)
    image = torch.zeros(1, 3, 64, 200)
    image[..., :50] = 1
    assert restored_view(image, 73, 64, 'pil').max() == 0


@pytest.mark.parametrize('resize', ['pil', 'tensor'])
def test_gradients_pass_the_view(resize):
    """Through rounding, too: what comes back is what the unrounded resizing would give."""
    image = (0.2 + 0.6 * torch.rand(1, 3, 41, 53, generator=torch.Generator().manual_seed(0))).requires_grad_()
    weight = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for view, mode in ((restored_view, 'bicubic'), (reference_view, 'nearest-exact' if resize == 'pil' else 'nearest')):
        (found,) = torch.autograd.grad((weight * view(image, 73, 64, resize)).sum(), image)
        extra = {'antialias': True} if mode == 'bicubic' else {}
        plain = F.interpolate(image, (73, 94), mode=mode, **extra)[..., 4:68, 15:79]
        (wanted,) = torch.autograd.grad((weight * plain).sum(), image)
        assert torch.allclose(found, wanted, atol=1e-4)


def test_what_was_computed_for_a_metric_serves_a_loss():
    """Weights of the resizing are kept; those first asked for in inference mode must still pass gradients."""
    image = torch.rand(1, 3, 45, 57)
    with torch.inference_mode():
        restored_view(image, 73, 64, 'pil')
    image.requires_grad_()
    assert torch.autograd.grad(restored_view(image, 73, 64, 'pil').sum(), image)[0].abs().sum() > 0


# ---- network ----------------------------------------------------------------------------------------------------


def test_the_network_is_the_published_one(small):
    state = small.state_dict()
    assert sum(p.numel() for p in small.parameters()) == 13_387_650
    assert len(state) == 290
    assert list(dict.fromkeys(key.partition('.')[0] for key in state)) == PARTS
    assert list(state)[:3] == ['qse_1.weight', 'qse_2.0.conv1.weight', 'qse_2.0.bn1.weight']
    assert [key for key in state if key.startswith('fc')] == [
        f'{head}.{layer}.{kind}' for head in ('fc_', 'fc1_') for layer in (0, 3, 6) for kind in ('weight', 'bias')
    ]
    assert state['qse_1.weight'].shape == (64, 3, 7, 7)
    assert state['csp.0.downsample.0.weight'].shape == (512, 256, 1, 1)
    assert state['csp.0.conv2.weight'].shape == (128, 128, 3, 3)
    assert state['fc1_.0.weight'].shape == (2048, 512)
    assert (CKDN().short_side, CKDN().crop, CKDN().resize) == (329, 288, 'pil')


def restated(state, restored, degraded, second, pristine):
    """The network once more, in functions, from its weights alone."""

    def norm(x, key):
        values = [state[f'{key}.{name}'] for name in ('running_mean', 'running_var', 'weight', 'bias')]
        return F.batch_norm(x, *values)

    def block(x, key, stride):
        y = F.relu(norm(F.conv2d(x, state[f'{key}.conv1.weight']), f'{key}.bn1'))
        y = F.relu(norm(F.conv2d(y, state[f'{key}.conv2.weight'], stride=stride, padding=1), f'{key}.bn2'))
        y = norm(F.conv2d(y, state[f'{key}.conv3.weight']), f'{key}.bn3')
        if f'{key}.downsample.0.weight' in state:
            x = norm(F.conv2d(x, state[f'{key}.downsample.0.weight'], stride=stride), f'{key}.downsample.1')
        return F.relu(x + y)

    def path(x, name):
        x = F.conv2d((x - MEAN) / STD, state[f'{name}_1.weight'], stride=2, padding=3)
        x = F.max_pool2d(x, 3, 2, 1)
        for number in range(3):
            x = block(x, f'{name}_2.{number}', 1)
        return x

    def score(x, stage, head):
        for number in range(4):
            x = block(x, f'{stage}.{number}', 1 + (number == 0))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        for layer in (0, 3):
            x = F.relu(F.linear(x, state[f'{head}.{layer}.weight'], state[f'{head}.{layer}.bias']))
        return torch.sigmoid(F.linear(x, state[f'{head}.6.weight'], state[f'{head}.6.bias']))[:, 0]

    q1, q2, d, g = path(restored, 'qse'), path(second, 'qse'), path(degraded, 'dte'), path(pristine, 'dte')
    delta = ((d - g) ** 2).flatten(1).mean(1)
    return score(q1 - d, 'csp', 'fc_'), score(q1 - g, 'csp', 'fc_'), score(q1 - q2, 'aux_csp', 'fc1_'), delta


@torch.no_grad()
def test_it_computes_what_was_published(small):
    """On images that need no resizing, so that the restatement has no part in it."""
    given = [levels(2, 3, 73, 73, seed=seed) for seed in range(4)]
    out = small(*given)
    wanted = restated(small.state_dict(), *(image[..., 4:68, 4:68] for image in given))
    for found, value in zip(out, wanted, strict=True):
        assert found.shape == (2,)
        assert torch.allclose(found, value, atol=1e-5)
    assert torch.allclose(small.score(*given[:2]), out.dr, atol=1e-6)
    assert torch.allclose(small.score(given[0], given[3]), out.fr, atol=1e-6)
    assert not torch.allclose(out.dr, out.fr, atol=1e-4)
    assert small(*given[:2], given[2], given[1]).delta.abs().max() == 0


def test_training_shares_statistics_between_both_references():
    """csp sees both differences in one batch, once; the paths see each image apart."""
    net = CKDN(**SMALL).train()
    given = [levels(2, 3, 64, 64, seed=seed) for seed in range(4)]
    net(*given)
    counted = {part: getattr(net, part)[0].bn1.num_batches_tracked.item() for part in ('qse_2', 'dte_2', 'csp')}
    assert counted == {'qse_2': 2, 'dte_2': 2, 'csp': 1}


def test_delta_may_leave_the_clean_features_alone():
    """With a fixed target, only the degraded side is pulled; as released both are."""
    net = CKDN(**SMALL).double()
    given = [levels(2, 3, 64, 64, seed=seed).double() for seed in range(4)]
    given[1].requires_grad_()
    given[3].requires_grad_()
    moved = [torch.autograd.grad(net(*given).delta.sum(), given[k])[0].abs().sum() for k in (1, 3)]
    fixed = net(*given, stop_grad=True).delta.sum()
    assert min(moved) > 0
    assert torch.autograd.grad(fixed, given[1], retain_graph=True)[0].abs().sum() > 0
    assert torch.autograd.grad(fixed, given[3], allow_unused=True)[0] is None


def test_wrong_options_and_images_are_refused(small):
    with pytest.raises(OptionError, match='crop is 96; it must be at most short_side, 73'):
        CKDN(short_side=73, crop=96)
    with pytest.raises(DataError, match=r'must be RGB'):
        small.score(torch.rand(1, 1, 64, 64), torch.rand(1, 1, 64, 64))


# ---- checkpoints ------------------------------------------------------------------------------------------------


def official(state):
    """What the release saves: the command line and the optimiser are in it, too."""
    return {
        'epoch': 12, 'arch': 'resnet', 'state_dict': {f'module.{k}': v for k, v in state.items()},
        'optimizer': {'state': {}, 'param_groups': [{'lr': 0.16}]}, 'args': argparse.Namespace(lr=0.16, sched='const'),
        'version': 2, 'metric': torch.tensor(170.5),
    }  # fmt: skip


LAYOUTS = {
    'official': official,
    'pyiqa': lambda state: {f'net.{k}': v for k, v in state.items()},
    'pyiqa_params': lambda state: {'params': {f'net.{k}': v for k, v in state.items()}},
    'both': lambda state: {'state_dict': {f'module.net.{k}': v for k, v in state.items()}},
    'own': lambda state: {'params': dict(state), 'iter': 3},
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_checkpoints_of_every_layout_load(layout, small, tmp_path):
    torch.save(LAYOUTS[layout](small.state_dict()), tmp_path / 'w.pth.tar')
    net = CKDN(**SMALL)
    loaded = checkpoint.load_weights(net, tmp_path / 'w.pth.tar')
    assert (loaded.matched, loaded.tensors, loaded.fresh) == (290, 290, 0)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), small.state_dict().values(), strict=True))


def test_a_checkpoint_that_lacks_a_tensor_is_refused(small, tmp_path):
    state = official(small.state_dict())
    del state['state_dict']['module.csp.3.bn3.weight']
    torch.save(state, tmp_path / 'w.pth.tar')
    with pytest.raises(CheckpointError, match=r'289 of 290 tensors match.*csp\.3\.bn3\.weight'):
        checkpoint.load_weights(CKDN(**SMALL), tmp_path / 'w.pth.tar')


@pytest.fixture(scope='module')
def resnet(tmp_path_factory):
    """torchvision's ResNet-50 with random weights, and its file, without the counters that old files lack."""
    import_torchvision()
    from torchvision.models import resnet50

    torch.manual_seed(1)
    net = resnet50(weights=None).eval()
    path = tmp_path_factory.mktemp('resnet') / 'resnet50.pth'
    torch.save({k: v for k, v in net.state_dict().items() if not k.endswith('num_batches_tracked')}, path)
    return net, path


def test_training_starts_from_resnet50(resnet):
    reference, path = resnet
    net = CKDN(**SMALL)
    head = net.fc_[0].weight.clone()
    loaded = checkpoint.load_weights(net, path)
    assert (loaded.matched, loaded.fresh) == (290 - 12 - 46, 12 + 46)  # fresh: the heads, the counters of 46 norms
    net.eval()
    x = levels(1, 3, 64, 64)
    with torch.no_grad():
        wanted = reference.layer1(reference.maxpool(reference.conv1(x)))
        for stem, stage in ((net.qse_1, net.qse_2), (net.dte_1, net.dte_2)):
            assert torch.allclose(stage(net.maxpool(stem(x))), wanted, atol=1e-6)
        for stage in (net.csp, net.aux_csp):
            assert torch.allclose(stage(wanted), reference.layer2(wanted), atol=1e-6)
    assert torch.equal(net.fc_[0].weight, head)


def test_another_backbone_is_refused(resnet, tmp_path):
    weights = torch.load(resnet[1])
    del weights['layer2.3.conv1.weight']
    torch.save(weights, tmp_path / 'r.pth')
    with pytest.raises(CheckpointError, match=r'csp\.3\.conv1\.weight'):
        checkpoint.load_weights(CKDN(**SMALL), tmp_path / 'r.pth')
