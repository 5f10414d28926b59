"""Metrics of pyiqa by name; most tests need the extra [iqa]."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from basicsr.errors import DataError, MissingWeightsError, OptionError
from basicsr.metrics import calculate_metric, calculate_psnr, is_higher_better, needs_of
from basicsr.metrics.pyiqa_metric import calculate_pyiqa

HERE = Path(__file__).parent
with_pyiqa = pytest.mark.skipif(find_spec('pyiqa') is None, reason='pyiqa is not installed (extra [iqa])')


@pytest.fixture(scope='module', autouse=True)
def _torchvision():
    if find_spec('pyiqa') is not None:
        sys.path.insert(0, str(HERE / 'golden'))
        from peers import import_torchvision

        import_torchvision()
        sys.path.pop(0)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    wanted = torch.nn.functional.avg_pool2d(torch.rand(2, 3, 96, 112, generator=generator), 5, 1, 2)
    wanted = (wanted * 255).round() / 255
    spoilt = (wanted + torch.randn(wanted.shape, generator=generator) * 0.05).clamp(0, 1)
    return (spoilt * 255).round() / 255, wanted


@pytest.mark.skipif(find_spec('pyiqa') is not None, reason='pyiqa is installed')
def test_without_pyiqa_the_message_says_how_to_get_it():
    for use in (lambda: calculate_pyiqa(torch.rand(1, 3, 64, 64), metric='musiq'), lambda: asked({'metric': 'musiq'})):
        with pytest.raises(OptionError, match=r'pip install "qualir\[iqa\]"'):
            use()


def asked(options):
    return needs_of(calculate_pyiqa, {'type': 'calculate_pyiqa', **options})


def test_pyiqa_is_not_imported_before_it_is_asked():
    code = 'import sys, basicsr.metrics.pyiqa_metric; print("pyiqa" in sys.modules)'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=HERE.parent)
    assert run.stdout.strip() == 'False'


@with_pyiqa
def test_full_reference(images):
    img, img2 = images
    found = calculate_metric({'img': img, 'img2': img2}, {'type': 'calculate_pyiqa', 'metric': 'psnr'})
    assert (found.dtype, found.shape) == (torch.float64, (2,))
    assert torch.allclose(found, calculate_psnr(img, img2), atol=1e-3)
    arrays = [(x[0].permute(1, 2, 0).flip(2) * 255).round().byte().numpy() for x in images]
    assert calculate_pyiqa(*arrays, metric='psnr') == pytest.approx(found[0].item(), abs=1e-5)
    with pytest.raises(DataError, match="'img2', which is not there"):
        calculate_pyiqa(img, metric='psnr')


@with_pyiqa
def test_no_reference(images):
    img = images[0]
    found = calculate_metric({'img': img}, {'type': 'calculate_pyiqa', 'metric': 'piqe'})
    assert found.shape == (2,)
    singles = torch.cat([calculate_pyiqa(i, metric='piqe') for i in img])
    assert torch.equal(found, singles)


@with_pyiqa
def test_direction_and_needs_come_from_pyiqa():
    for name, higher, needs in (
        ('psnr', True, ('img', 'img2')),
        ('piqe', False, ('img',)),
        ('entropy', True, ('img',)),
    ):
        options = {'type': 'calculate_pyiqa', 'metric': name}
        assert is_higher_better(calculate_pyiqa, options) is higher
        assert asked(options) == needs


@with_pyiqa
def test_refusals(images):
    img = images[0]
    with pytest.raises(OptionError, match=r"pyiqa has no metric 'musik'. Did you mean musiq"):
        calculate_pyiqa(img, metric='musik')
    with pytest.raises(OptionError, match='sets of images'):
        calculate_pyiqa(img, metric='fid')
    with pytest.raises(MissingWeightsError):
        calculate_pyiqa(img, metric='musiq', weights='nowhere.pth')
    with pytest.raises(DataError, match='needs RGB images, not 1 channels'):
        calculate_pyiqa(img[:, :1], metric='piqe')


@with_pyiqa
def test_missing_weights_are_named(images, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(MissingWeightsError, match='musiq'):
        calculate_pyiqa(images[0], metric='musiq')
