"""Scorers and ensembles: gradients where they are promised, one image at a time or many, and clear refusals."""

import json
import math
import shutil
from importlib.util import find_spec

import pytest
import torch
import yaml

from basicsr.errors import CheckpointError, DataError, MissingWeightsError, OptionError
from basicsr.image_io import read_image, to_tensor
from basicsr.iqa import build_scorer, load_scorer
from basicsr.iqa.calibrations import FOLDER, calibration_of, read_calibration
from basicsr.iqa.ensemble_scorer import Ensemble, raw_scores
from basicsr.iqa.offline import no_downloads
from basicsr.iqa.scorer import Calibration, Scorer
from basicsr.metrics import calculate_metric
from basicsr.registry import SCORER_REGISTRY, import_plugins

from .golden.peers import import_torchvision
from .runs import ROOT

OWN = ('NIQE', 'BRISQUE', 'PIQE', 'UCIQE', 'UIQM', 'Entropy', 'Colourfulness', 'FADE')
SMOOTH = ('NIQE', 'BRISQUE', 'Colourfulness')
PHOTOS = sorted((ROOT / 'datasets/sample/val').glob('*.jpg'))


def raw_scorer(kind, **options):
    return build_scorer({'type': kind, 'low': 0.0, 'high': 1.0, **options})


@pytest.fixture(scope='module')
def photos():
    """Three crops of photographs, 160 x 208."""
    return torch.stack([to_tensor(read_image(file)[100:260, 60:268]) for file in PHOTOS[:3]])


@pytest.fixture(scope='module', autouse=True)
def _plain_scorers():
    import_plugins([str(ROOT / 'tests/plugins/level_scorer.py')])


@pytest.mark.parametrize('kind', OWN)
def test_a_score_depends_on_nothing_but_its_image(kind, photos):
    scorer = raw_scorer(kind)
    together = scorer.raw(photos)
    assert together.shape == (3,)
    alone = torch.cat([scorer.raw(image[None]) for image in photos])
    assert torch.allclose(together, alone, rtol=1e-5, atol=1e-5)
    assert torch.equal(scorer.raw(photos), together)
    assert torch.allclose(scorer.raw(photos.flip(0)).flip(0), together, rtol=1e-5, atol=1e-5)
    assert len({round(value, 4) for value in together.tolist()}) == 3


@pytest.mark.parametrize('kind', OWN)
def test_gradients_reach_the_pixels_exactly_where_it_is_said(kind, photos):
    scorer = build_scorer({'type': kind, 'low': -1000.0, 'high': 1000.0})
    assert scorer.differentiable == (kind in SMOOTH)
    assert not scorer.training
    images = photos[:2].clone().requires_grad_()
    scores = scorer(images)
    assert scores.requires_grad == scorer.differentiable
    if scorer.differentiable:
        (gradient,) = torch.autograd.grad(scores[1], images)
        assert gradient.isfinite().all()
        assert gradient[1].abs().sum() > 0
        assert gradient[0].abs().sum() == 0
    with torch.no_grad():
        assert not scorer(images).requires_grad


@pytest.mark.parametrize(('kind', 'size'), [('NIQE', 96), ('BRISQUE', 20), ('Colourfulness', 8)])
def test_gradcheck_of_a_small_crop(kind, size, photos):
    """Against finite differences in random directions, in double precision, where nothing is rounded on the way."""
    scorer = raw_scorer(kind, **({'table': False} if kind in ('NIQE', 'BRISQUE') else {}))
    image = (photos[:1, :, :size, :size].double() * 0.8 + 0.1).requires_grad_()
    assert scorer.raw(image).dtype == torch.float64
    (gradient,) = torch.autograd.grad(scorer.raw(image).sum(), image)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        step = 1e-6 * torch.randn(image.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            change = (scorer.raw(image + step) - scorer.raw(image - step)).item() / 2
        assert change == pytest.approx((gradient * step).sum().item(), rel=2e-3)


@pytest.mark.parametrize('kind', OWN)
def test_raw_scores_are_those_of_the_metric(kind, photos):
    levels = (photos * 255).round() / 255
    metric = calculate_metric({'img': levels}, {'type': f'calculate_{kind.lower()}'})
    assert torch.allclose(raw_scorer(kind).raw(levels).double(), metric.double(), atol=1e-4)


@pytest.mark.parametrize('kind', OWN)
def test_shipped_calibration_has_its_data_and_ranks_photographs_above_noise_or_fog(kind):
    found = read_calibration(FOLDER / f'{kind.lower()}.json')
    assert found['images'] == 36
    assert (found['low'] > found['high']) == found['lower_is_better']
    clean = found['raw']['clean']
    assert clean['count'] == 36
    edge = clean['percentiles']['5' if found['lower_is_better'] else '95']
    assert found['high'] == pytest.approx(edge, rel=5e-3)
    calibration = calibration_of(kind)
    worst = {'FADE': 'Haze', 'PIQE': 'Blur', 'NIQE': 'Noise', 'BRISQUE': 'Noise'}.get(kind, 'LowLight')
    means = torch.tensor([clean['mean'], found['raw'][worst]['mean']])
    assert calibration.apply(means)[0] > calibration.apply(means)[1] + 0.1


def test_calibrations_that_cannot_be_used(tmp_path):
    with pytest.raises(OptionError, match='low and high go together'):
        calibration_of('NIQE', low=3.0)
    with pytest.raises(OptionError, match='must differ'):
        calibration_of('NIQE', 3.0, 3.0)
    with pytest.raises(DataError, match='cannot be read'):
        read_calibration(tmp_path / 'none.json')
    (tmp_path / 'x.json').write_text('{"low": 1}')
    with pytest.raises(DataError, match='damaged'):
        read_calibration(tmp_path / 'x.json')


@pytest.mark.parametrize('kind', ['NIQE', 'BRISQUE'])
def test_parameters_that_are_not_there(kind, tmp_path):
    with pytest.raises(MissingWeightsError, match=r'none\.npz'):
        raw_scorer(kind, parameters=str(tmp_path / 'none.npz'))
    (tmp_path / 'bad.npz').write_bytes(b'bad')
    with pytest.raises(CheckpointError, match=r'bad\.npz'):
        raw_scorer(kind, parameters=str(tmp_path / 'bad.npz'))


def test_other_parameters_make_another_version(tmp_path):
    folder = ROOT / 'basicsr/metrics/parameters'
    shutil.copy(folder / 'niqe_pris_params.npz', tmp_path / 'own.npz')
    assert raw_scorer('NIQE', parameters=str(tmp_path / 'own.npz')).version != raw_scorer('NIQE').version


@pytest.mark.parametrize('kind', OWN)
def test_images_that_cannot_be_scored(kind):
    scorer = raw_scorer(kind)
    with pytest.raises(DataError, match=r'must be floating-point \(N,3,H,W\)'):
        scorer(torch.zeros(1, 1, 128, 128))
    if scorer.min_size > 1:
        with pytest.raises(DataError, match=f'at least {scorer.min_size} x {scorer.min_size}'):
            scorer(torch.rand(1, 3, 128, scorer.min_size - 1))
        assert scorer.raw(torch.rand(1, 3, scorer.min_size, scorer.min_size)).shape == (1,)


def test_cells_of_a_grid(photos):
    """The score of each cell is that of the cell alone, in rows and columns, also where sizes differ."""
    for images in (photos, photos[..., :159, :207]):
        scores = build_scorer({'type': 'Level'}).tiles(images, 2)
        assert scores.shape == (3, 2, 2)
        half, middle = images.shape[-2] // 2, images.shape[-1] // 2
        assert scores[1, 0, 1] == pytest.approx(images[1, :, :half, middle:].mean().item(), rel=1e-5)
        assert scores[2, 1, 0] == pytest.approx(images[2, :, half:, :middle].mean().item(), rel=1e-5)


def ensemble(*members, **options):
    return build_scorer({'type': 'Ensemble', 'members': list(members), **options})


def test_fixed_ensemble_by_hand(photos):
    """QualiTeacher's form: each member by its own range, weights divided by their sum."""
    both = ensemble({'type': 'Level', 'weight': 3}, {'type': 'Spread', 'weight': 1})
    spread = photos.flatten(1).std(dim=1)
    wanted = (3 * photos.mean(dim=(1, 2, 3)) + (1 - spread / 0.5)) / 4
    assert torch.allclose(both(photos), wanted, atol=1e-6)
    assert list(both.members()) == ['level', 'spread']
    raw = raw_scores(both, photos)
    assert torch.allclose(raw['spread'], 100 * spread)
    grid = {name: value.view(3, 1).expand(3, 2) for name, value in raw.items()}
    assert both.combine(grid).shape == (3, 2)


def stats_of(path, **members):
    content = {}
    for name, (low, high) in members.items():
        percentiles = {'0.1': low + 1, '99.9': high - 1, '5': low + 2, '95': high - 2}
        content[name] = {'min': low, 'max': high, 'percentiles': percentiles}
    path.write_text(json.dumps({'members': content}))
    return str(path)


def test_minmax_and_percentiles_by_hand(tmp_path):
    stats = stats_of(tmp_path / 's.json', level=(100, 200), spread=(10, 30))
    members = ({'type': 'Level'}, {'type': 'Spread', 'weight': 3})
    raw = {'level': torch.tensor([125.0, 50.0, 300.0]), 'spread': torch.tensor([15.0, 30.0, 5.0])}
    minmax = ensemble(*members, normalize='minmax', stats=stats)
    first = (25 / (100 + 1e-6) + 3 * 15 / (20 + 1e-6)) / 4
    assert minmax.combine(raw).tolist() == pytest.approx([first, 0, 1], abs=1e-6)
    robust = ensemble(*members, normalize='percentile', stats=stats)
    assert robust.combine(raw)[0].item() == pytest.approx((24 / 98 + 3 * 14 / 18) / 4, abs=1e-6)
    narrow = ensemble(*members, normalize='percentile', stats=stats, clip=[5, 95])
    assert narrow.combine(raw)[0].item() == pytest.approx((23 / 96 + 3 * 13 / 16) / 4, abs=1e-6)


def test_gradients_of_members_can_be_switched_off(photos):
    images = photos.clone().requires_grad_()
    both = ensemble({'type': 'Level', 'weight': 1}, {'type': 'Level', 'name': 'other', 'weight': 3, 'grad': False})
    assert both.differentiable
    (gradient,) = torch.autograd.grad(both(images).sum(), images)
    pixels = photos[0].numel()
    assert torch.allclose(gradient, torch.full_like(gradient, 0.25 / pixels))
    none = ensemble({'type': 'Level', 'grad': False}, {'type': 'Spread'})
    assert not none.differentiable
    assert not none(images).requires_grad


@pytest.mark.parametrize(
    ('members', 'message'),
    [
        ([], 'list of members is empty'),
        ([{'type': 'Level'}, {'type': 'Level'}], "the name 'level' is taken"),
        ([{'type': 'Level', 'name': 'score'}], "the name 'score' is taken"),
        ([{'type': 'Level', 'weight': 0}], r'members\[0\] \(Level\): weight is 0; it must be a number above 0'),
        ([{'type': 'Level', 'weight': math.nan}], 'weight is nan'),
        ([{'type': 'Level', 'weight': True}], 'weight is True'),
        ([{'type': 'Level', 'grad': 'no'}], "grad is 'no'"),
        ([{'type': 'Level'}, {'type': 'Levle'}], r'members\[1\] \(Levle\).*Did you mean Level'),
        ([{'type': 'Level', 'wieght': 1}], "'wieght' is not known"),
        ([{'type': 'Ensemble', 'members': []}], 'cannot be a member of another'),
        (['NIQE'], "'members.0' is 'NIQE'"),
    ],
)
def test_members_that_are_refused(members, message):
    with pytest.raises(OptionError, match=message):
        ensemble(*members)


def test_statistics_that_are_refused(tmp_path):
    stats = stats_of(tmp_path / 's.json', level=(100, 200), flat=(3, 3))
    with pytest.raises(OptionError, match='normalize minmax needs stats, the JSON file'):
        ensemble({'type': 'Level'}, normalize='minmax')
    with pytest.raises(OptionError, match="has no member 'spread', only: level, flat"):
        ensemble({'type': 'Spread'}, normalize='minmax', stats=stats)
    with pytest.raises(OptionError, match='all raw scores are 3'):
        ensemble({'type': 'Level', 'name': 'flat'}, normalize='minmax', stats=stats)
    with pytest.raises(OptionError, match=r'clip is \[2.0, 98.0\]; allowed are two of 0.1, 1, 5'):
        ensemble({'type': 'Level'}, normalize='percentile', stats=stats, clip=[2, 98])
    with pytest.raises(OptionError, match="'fixed' does not read them"):
        ensemble({'type': 'Level'}, stats=stats)
    with pytest.raises(DataError, match='cannot be read'):
        ensemble({'type': 'Level'}, normalize='minmax', stats=str(tmp_path / 'none.json'))


def test_scorers_by_name_file_and_block(write, photos):
    assert load_scorer('NIQE').name == 'niqe'
    assert load_scorer({'type': 'Level', 'name': 'x'}).name == 'x'
    path = write('e.yml', {'type': 'Ensemble', 'members': [{'type': 'Level'}, {'type': 'Spread'}]})
    loaded = load_scorer(str(path))
    assert isinstance(loaded, Ensemble)
    assert 0 < loaded(photos)[0] < 1
    with pytest.raises(OptionError, match=r"bad\.yml:2: key 'nome' is not known"):
        load_scorer(write('bad.yml', 'type: Level\nnome: x\n'))
    with pytest.raises(OptionError, match='There is no scorer file'):
        load_scorer('options/iqa/none.yml')
    with pytest.raises(OptionError, match='Did you mean'):
        load_scorer('BRISK')


@pytest.mark.parametrize('file', sorted((ROOT / 'options/iqa').glob('*.yml')), ids=lambda file: file.stem)
def test_option_files_load_or_say_what_is_missing(file):
    """Those that ship weights load; the others name the package or the file, or ask for statistics."""
    kinds = {member['type'] for member in yaml.safe_load(file.read_text())['members']}
    absent = kinds - set(SCORER_REGISTRY.keys())
    if absent:
        pytest.skip(f'{absent} is not in this checkout.')
    if 'PyIQA' not in kinds:
        assert load_scorer(str(file))(torch.rand(1, 3, 128, 128)).shape == (1,)
        return
    with pytest.raises((OptionError, MissingWeightsError), match=r'pyiqa is not installed|PyIQA|needs stats'):
        load_scorer(str(file))


@pytest.mark.skipif(find_spec('pyiqa') is not None, reason='pyiqa is installed')
def test_without_pyiqa_the_error_says_how_to_get_it():
    with pytest.raises(OptionError, match=r'pip install "qualir\[iqa\]"'):
        build_scorer({'type': 'PyIQA', 'metric': 'musiq'})


@pytest.fixture
def pyiqa(monkeypatch, tmp_path):
    """The package, with empty caches."""
    if find_spec('pyiqa') is None:
        pytest.skip('pyiqa is not installed (pip install "qualir[iqa]")')
    import_torchvision()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    monkeypatch.setenv('QUALIR_WEIGHTS', str(tmp_path / 'weights'))
    import pyiqa as package

    return package


@pytest.mark.parametrize('metric', ['musiq', 'dbcnn', 'niqe'])
def test_pyiqa_without_weights_names_the_file_and_the_place(pyiqa, metric, tmp_path):
    with pytest.raises(MissingWeightsError, match=rf'\.(pth|mat) is not on this machine; put it into {tmp_path}'):
        build_scorer({'type': 'PyIQA', 'metric': metric})


def test_pyiqa_by_path(pyiqa, photos, tmp_path):
    """With random weights in a file: the shape, the gradient, and one image at a time or many."""
    torch.manual_seed(1)
    net = pyiqa.create_metric('cnniqa', pretrained=None, device=torch.device('cpu')).net
    torch.save({'params': net.state_dict()}, tmp_path / 'own.pth')
    scorer = build_scorer(
        {'type': 'PyIQA', 'metric': 'cnniqa', 'weights': str(tmp_path / 'own.pth'), 'low': -1, 'high': 1}
    )
    assert scorer.differentiable
    assert not any(module.training for module in scorer.train().modules())
    images = photos.clone().requires_grad_()
    scores = scorer(images)
    assert scores.shape == (3,)
    assert torch.equal(scores, torch.cat([scorer(image[None]) for image in images]))
    assert torch.autograd.grad(scores.sum(), images)[0].abs().sum() > 0
    with torch.no_grad():
        assert not scorer(images).requires_grad
    part = dict(list(net.state_dict().items())[1:])
    torch.save({'params': part}, tmp_path / 'part.pth')
    with pytest.raises(CheckpointError, match=r'part\.pth'):
        build_scorer({'type': 'PyIQA', 'metric': 'cnniqa', 'weights': str(tmp_path / 'part.pth')})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'metric': 'musik'}, 'Did you mean musiq'),
        ({'metric': 'psnr'}, 'more than one image'),
        ({'metric': 'piqe', 'low': 1.0}, 'low and high go together'),
        ({'metric': 'piqe', 'align_crop_face': False}, 'belongs to topiq_nr-face'),
    ],
)
def test_pyiqa_options_that_are_refused(pyiqa, options, message):
    with pytest.raises(OptionError, match=message):
        build_scorer({'type': 'PyIQA', **options})


def test_pyiqa_metric_without_gradient(pyiqa, photos):
    scorer = build_scorer({'type': 'PyIQA', 'metric': 'piqe'})
    assert not scorer.differentiable
    assert not scorer(photos.clone().requires_grad_()).requires_grad
    assert scorer.calibration == Calibration(100.0, 0.0, scorer.calibration.source)


def test_downloads_are_refused_and_allowed_again_afterwards(tmp_path, monkeypatch):
    import socket
    import urllib.request

    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    monkeypatch.setenv('QUALIR_WEIGHTS', str(tmp_path / 'weights'))
    before = (torch.hub.download_url_to_file, urllib.request.urlopen, socket.getaddrinfo)
    url = 'https://example.org/some/net-1234.pth'
    with pytest.raises(MissingWeightsError, match=r'net-1234\.pth is not on this machine'), no_downloads('Net'):
        torch.hub.load_state_dict_from_url(url)
    with pytest.raises(MissingWeightsError, match=f'Fetch it from {url}'), no_downloads('Net'):
        urllib.request.urlopen(url)
    with pytest.raises(MissingWeightsError, match=r'example\.org'), no_downloads('Net'):
        socket.create_connection(('example.org', 443))
    assert (torch.hub.download_url_to_file, urllib.request.urlopen, socket.getaddrinfo) == before
    (tmp_path / 'weights').mkdir()
    torch.save({'w': torch.ones(2)}, tmp_path / 'weights/net-1234.pth')
    with no_downloads('Net'):  # a file in a folder of ours is used
        assert torch.hub.load_state_dict_from_url(url)['w'].tolist() == [1, 1]


def test_every_scorer_says_what_it_is():
    """The names of the registry are classes of scorers with a docstring, found without importing what they need."""
    for name in (*OWN, 'Ensemble', 'PyIQA'):
        assert issubclass(SCORER_REGISTRY.get(name), Scorer)
        assert SCORER_REGISTRY.summary(name)
