"""The knobs of networks that refine their own output: in section val, as flags, in tiles, and with a judge."""

import numpy as np
import pytest
import torch
from torch import nn

from basicsr.archs import build_network
from basicsr.errors import DataError, OptionError
from basicsr.evaluation import asked_for, knob_text, knobs_of, open_restorer
from basicsr.image_io import read_image, read_pixels
from basicsr.iqa import Calibration, Scorer
from basicsr.options import load
from basicsr.registry import SCORER_REGISTRY, import_plugins
from basicsr.sections import ValOptions
from basicsr.views import VIEWS

from .runs import ROOT
from .test_inference import BLOCK, photo, restore, weights  # noqa: F401  (a fixture)
from .test_test_command import read, run_test, write_options

import_plugins([str(ROOT / 'tests/plugins/level_scorer.py')])
HOST = {'type': 'NAFNet', 'width': 4, 'enc_blk_nums': [1, 1, 1], 'middle_blk_num': 1, 'dec_blk_nums': [1, 1, 1]}
FUSED = {'type': 'ProxyFusion', 'host': HOST, 'size': 16}
SMALL = {'type': 'Spread', 'name': 'judge', 'smallest': 40}


@SCORER_REGISTRY.register()
class Nearness(Scorer):
    """Nearness to the degraded image; keeps what it was given."""

    needs_degraded = True

    def __init__(self) -> None:
        super().__init__('nearness', Calibration(-1.0, 0.0, 'test'), '1')
        self.seen = []

    def raw(self, images, degraded=None):
        self.seen.append((images.clone(), degraded.clone()))
        return -(images - degraded).abs().mean((1, 2, 3))


def fused(**more):
    """A network that its own features change a lot, and whose judges are not always pleased."""
    torch.manual_seed(0)
    net = build_network({**FUSED, **more}).eval().requires_grad_(False)
    for p in net.parameters():
        p.normal_(std=0.3)
    return net


def saved(folder, **more):
    """Weights of such a network."""
    net = fused(**more)
    torch.save({'params': net.state_dict(), 'network_g': {**FUSED, **more}}, folder / 'f.pth')
    return folder / 'f.pth', net


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3))


def bytes_of(net, image):
    with torch.inference_mode():
        return net(image)[0].clamp(0, 1).mul(255).round().permute(1, 2, 0).numpy()


# ---- what is turned, and back ---------------------------------------------------------------------------------------


def test_only_what_is_turned_is_asked_for():
    assert knobs_of(ValOptions()) == {}
    assert knobs_of(ValOptions(guidance=1.0, score=0.5, refine=0)) == {'score': 0.5, 'refine': 0}
    asked = knobs_of(ValOptions(refine=2, refeed=False, refine_tol=0.001, refine_by='Level'))
    assert knob_text(asked) == 'refine 2, refeed off, refine_tol 0.001, refine_by level'
    assert type(asked['refine_by']).__name__ == 'Level'


class PlainNet(nn.Module):
    """Has the attributes, and nothing that knows of the engine."""

    def __init__(self):
        super().__init__()
        self.refine, self.refeed, self.refine_tol, self.judge = 1, False, 0.0, None
        self.conv = nn.Conv2d(3, 3, 1)

    def privilege(self, images):
        return [images]

    def forward(self, x):
        return self.conv(x)


@pytest.mark.parametrize('make', [PlainNet, fused])
def test_knobs_are_turned_and_put_back_and_a_judge_is_no_part_of_the_network(make):
    net = make()
    before, keys = dict(vars(net)), list(net.state_dict())
    val = ValOptions(refine=3, refeed=True, refine_tol=0.25, refine_by={'type': 'Spread', 'name': 'wide'})
    with open_restorer(net, 'cpu', val) as restorer:
        assert (restorer.net.refine, restorer.net.refeed, restorer.net.refine_tol) == (3, True, 0.25)
        assert restorer.net.judge.name == 'wide'
        assert 'judge' not in dict(net.named_children())
        assert list(net.state_dict()) == keys
    assert (net.refine, net.refeed, net.refine_tol, net.judge) == (1, False, 0.0, None)
    assert {k: v for k, v in vars(net).items() if k != 'judge'} == {k: v for k, v in before.items() if k != 'judge'}


def test_a_judge_goes_where_the_network_is():
    judge = knobs_of(ValOptions(refine_by={'type': 'QualityNet'}))['refine_by']
    assert {p.device.type for p in judge.parameters()} == {'cpu'}
    net = PlainNet().to('meta')
    with asked_for(net, {'refine_by': judge}):
        assert {p.device.type for p in net.judge.parameters()} == {'meta'}


# ---- flags ----------------------------------------------------------------------------------------------------------


def test_every_flag_gives_what_the_attribute_gives_and_is_told(tmp_path, capsys):
    model, net = saved(tmp_path)
    source = photo(tmp_path / 'a.png', (32, 40))
    image = torch.from_numpy(read_image(source)).permute(2, 0, 1)[None]
    level, own = knobs_of(ValOptions(refine_by='Level'))['refine_by'], dict(vars(net))
    ways = {
        'own': ([], {}, ''),
        'plain': (['--refine', '0'], {'refine': 0}, 'refine 0'),
        'once': (['--refine', '1'], {'refine': 1}, 'refine 1'),
        'twice': (['--refine', '2'], {'refine': 2}, 'refine 2'),
        'fed': (['--refine', '2', '--refeed'], {'refine': 2, 'refeed': True}, 'refine 2, refeed on'),
        'kept': (['--refine', '2', '--no_refeed'], {'refine': 2}, 'refine 2, refeed off'),
        'still': (['--refine', '3', '--refine_tol', '9'], {'refine': 3, 'refine_tol': 9.0}, 'refine 3, refine_tol 9'),
        'judged': (['--refine_by', 'Level'], {'judge': level}, 'refine_by level'),
    }
    pictures = {}
    for name, (flags, attributes, words) in ways.items():
        assert restore(model, source, tmp_path / name, *flags) == 0
        assert f'whole images{words and f", {words}"})' in capsys.readouterr().err
        pictures[name] = read_pixels(tmp_path / name / 'a.png').astype(int)
        for attribute in ('refine', 'refeed', 'refine_tol', 'judge'):
            setattr(net, attribute, attributes.get(attribute, own.get(attribute)))
        assert np.abs(pictures[name] - bytes_of(net, image)).max() <= 1, name
    same = {('own', 'once'), ('twice', 'kept'), ('once', 'still')}
    for one, other in (*same, ('plain', 'once'), ('once', 'twice'), ('twice', 'fed')):
        assert np.array_equal(pictures[one], pictures[other]) == ((one, other) in same), (one, other)
    brightest = max(('plain', 'once'), key=lambda name: pictures[name].mean())
    assert np.array_equal(pictures['judged'], pictures[brightest])


def test_what_a_network_is_built_with_can_be_turned_off(tmp_path):
    model, _ = saved(tmp_path, refine=2, refeed=True)
    source = photo(tmp_path / 'a.png', (32, 40))
    for name, flags in (('own', []), ('kept', ['--no_refeed']), ('plain', ['--refine', '0'])):
        assert restore(model, source, tmp_path / name, *flags) == 0
    own, kept, plain = (read_pixels(tmp_path / n / 'a.png') for n in ('own', 'kept', 'plain'))
    assert not np.array_equal(own, kept)
    assert not np.array_equal(kept, plain)


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--refine', '2'], 'refine 2 cannot be asked of NAFNet, which has no self-refinement.'),
        (['--refine', '0'], 'refine 0 cannot be asked of NAFNet'),
        (['--refeed'], 'refeed on cannot be asked of NAFNet'),
        (['--refine_tol', '0.1'], 'refine_tol 0.1 cannot be asked of NAFNet'),
        (['--refine_by', 'Level'], 'refine_by level cannot be asked of NAFNet'),
    ],
)
def test_networks_without_the_knobs_are_named(tmp_path, weights, capsys, flags, words):  # noqa: F811
    assert restore(weights, photo(tmp_path / 'a.png'), tmp_path / 'out', *flags) == 2
    refused(tmp_path, capsys, words)


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--refine', '-1'], 'refine -1 cannot be asked for: refine is a whole number of at least 0.'),
        (['--refine_tol', '-0.5'], 'refine_tol -0.5 cannot be asked for: refine_tol is finite and at least 0.'),
        (['--refine_tol', 'nan'], 'refine_tol nan cannot be asked for'),
        (['--refine_by', 'Nique'], "refine_by: No scorer named 'Nique'. Did you mean"),
        (['--refine_by', 'nowhere.yml'], "refine_by: There is no scorer file 'nowhere.yml'"),
        (['--refine_by', 'NIQE', '--tile', '64'], 'refine_by niqe cannot judge tiles of 64 px: it needs at least 96'),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path, capsys, flags, words):
    model, _ = saved(tmp_path)
    assert restore(model, photo(tmp_path / 'a.png', (128, 128)), tmp_path / 'out', *flags) == 2
    refused(tmp_path, capsys, words)


def refused(folder, capsys, words):
    error = capsys.readouterr().err
    assert words in error
    assert error.count('\n') == 1
    assert not (folder / 'out').exists()


def test_values_of_programs_are_checked_too():
    for asked, words in (
        ({'refine': 1.5}, 'refine 1.5 cannot be asked for'),
        ({'refine': True}, 'refine on cannot be asked for'),
        ({'refeed': 2}, 'refeed 2 cannot be asked for: refeed is on or off'),
        ({'refine_by': 'NIQE'}, 'refine_by NIQE cannot be asked for: refine_by is a scorer, once built'),
    ):
        caught = pytest.raises(OptionError, match=words)
        with caught, asked_for(fused(), asked):
            raise AssertionError('not reached')


@pytest.mark.parametrize(
    ('val', 'words'),
    [
        ({'refine': -1}, "'val.refine' is -1"),
        ({'refine': 1.5}, "'val.refine' is 1.5"),
        ({'refine_tol': -0.1}, "'val.refine_tol' is -0.1"),
        ({'refeed': 2}, "'val.refeed' is 2"),
        ({'refine_by': {'type': 'Level', 'secs': 1.0}}, "'val.refine_by.secs' is not known"),
    ],
)
def test_an_option_file_is_refused_with_the_key(tmp_path, val, words):
    with pytest.raises(OptionError, match=r'pool\.yml:\d+: ') as caught:
        load(write_options(tmp_path, **val))
    assert words in str(caught.value)


def test_a_photograph_that_is_too_small_for_the_judge_is_named_and_the_others_go_on(tmp_path, capsys):
    model, _ = saved(tmp_path)
    photo(tmp_path / 'in/large.png', (96, 100))
    photo(tmp_path / 'in/small.png', (40, 96))
    assert restore(model, tmp_path / 'in', tmp_path / 'out', '--refine_by', 'NIQE') == 1
    assert "small.png': niqe: needs at least 96 x 96 pixels, got 40 x 96." in capsys.readouterr().err
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['large.png']


# ---- what a test writes ---------------------------------------------------------------------------------------------


def test_the_protocol_tells_what_was_asked(tmp_path):
    saved(tmp_path)
    (tmp_path / 'f.pth').rename(tmp_path / 'w.pth')
    changes, found = {'network_g': FUSED}, {}
    ensemble = tmp_path / 'judges.yml'
    ensemble.write_text('type: Ensemble\nname: judges\nmembers:\n  - {type: Level}\n  - {type: Spread}\n')
    by = {'refine_by': {'type': 'Level', 'name': 'bright'}}
    ways = {'own': {}, 'asked': {'refine': 2, 'refeed': True, 'refine_tol': 0.001, **by}, 'plain': {'refine': 0}}
    ways['file'] = {'refine_by': str(ensemble)}
    for name, val in ways.items():
        assert run_test(tmp_path, changes, **val) == 0
        found[name] = read(tmp_path)[0]
    parts = {name: record['protocol_parts'] for name, record in found.items()}
    assert set(parts['asked']) - set(parts['own']) == {'refine', 'refeed', 'refine_tol', 'refine_by'}
    assert parts['asked'] == parts['own'] | ways['asked'] | {'refine_by': {'bright': '1'}}
    told = '; whole images, refine 2, refeed on, refine_tol 0.001, refine_by bright'
    assert found['asked']['protocol'] == found['own']['protocol'].replace('; whole images', told)
    assert found['file']['protocol'].endswith('whole images, refine_by judges')
    assert parts['file']['refine_by'] == {'judges': 'level 1, spread 1'}
    assert found['plain']['protocol'].endswith('whole images, refine 0')
    assert found['plain']['metrics']['psnr'] != found['own']['metrics']['psnr']
    assert len({record['protocol_digest'] for record in found.values()}) == 1  # of the metrics alone


def test_a_set_too_small_for_the_judge_ends_the_test_in_a_sentence(tmp_path, capsys):
    saved(tmp_path)
    (tmp_path / 'f.pth').rename(tmp_path / 'w.pth')
    assert run_test(tmp_path, {'network_g': FUSED}, refine_by='NIQE') == 2
    assert "Data set 'pairs', 'a': niqe: needs at least 96 x 96 pixels, got" in capsys.readouterr().err
    assert run_test(tmp_path, {'network_g': FUSED}, refine_by='NIQE', tile=32) == 2
    assert 'refine_by niqe cannot judge tiles of 32 px' in capsys.readouterr().err


# ---- tiles, self-ensemble, number formats ---------------------------------------------------------------------------


@pytest.mark.parametrize('asked', [{'refine': 2}, {'refine': 2, 'refine_by': 'Level'}, {'refine': 1, 'refeed': True}])
def test_each_tile_is_refined_by_itself(asked):
    net, image = fused(), images(1, 3, 64, 96)
    val = ValOptions(tile=32, tile_overlap=0, **asked)
    with open_restorer(net, 'cpu', val) as restorer, torch.inference_mode():
        found = restorer(image)
        rows = [torch.cat([net(tile) for tile in row.split(32, 3)], 3) for row in image.split(32, 2)]
        torch.testing.assert_close(found, torch.cat(rows, 2), rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        net.refine = 0
        assert (found - torch.cat([net(row) for row in image.split(32, 2)], 2)).abs().max() > 1e-2


def test_each_view_of_a_self_ensemble_is_refined():
    net, image = fused(), images(1, 3, 32, 40)
    with open_restorer(net, 'cpu', ValOptions(self_ensemble=True, refine=2, refine_by='Level')) as restorer:
        found = restorer(image)
        assert restorer.describe() == 'whole images, self-ensemble x8'
        with torch.inference_mode():
            views = [view.invert(net(view.apply(image))) for view in VIEWS.values()]
    torch.testing.assert_close(found, torch.stack(views).mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_a_judge_that_compares_gets_what_the_network_was_given(precision):
    net, image = fused(), images(1, 3, 32, 64)
    val = ValOptions(tile=32, tile_overlap=0, precision=precision, refine=2, refine_by={'type': 'Nearness'})
    asked = knobs_of(val)
    with open_restorer(net, 'cpu', val, asked) as restorer:
        restorer(image)
    seen = asked['refine_by'].seen
    firsts = [n for n, (_, degraded) in enumerate(seen) if n == 0 or not torch.equal(degraded, seen[n - 1][1])]
    assert [torch.equal(seen[n][1], tile) for n, tile in zip(firsts, image.split(32, 3), strict=True)] == [True, True]
    assert len(seen) >= 4  # the plain image of each tile, and at least one more
    for restored, degraded in seen:
        assert restored.shape == degraded.shape == (1, 3, 32, 32)
        assert restored.dtype == torch.float32
        assert 0 <= restored.min() <= restored.max() <= 1


def test_tiles_too_small_for_the_judge_are_refused_and_so_are_smaller_images():
    net = fused()
    allowed = pytest.raises(OptionError, match='refine_by judge cannot judge tiles of 32 px: it needs at least 40 px')
    with allowed, open_restorer(net, 'cpu', ValOptions(tile=32, refine_by=SMALL)):
        raise AssertionError('not reached')
    assert net.judge is None
    with open_restorer(net, 'cpu', ValOptions(tile=48, refine_by=SMALL)) as restorer:
        assert restorer(images(1, 3, 64, 64)).shape == (1, 3, 64, 64)
        with pytest.raises(DataError, match='judge: needs at least 40 x 40 pixels, got 32 x 48'):
            restorer(images(1, 3, 32, 48))


def test_images_of_which_the_judge_thinks_less_are_not_taken():
    net, x = fused(refeed=True), images(6, 3, 32, 32) * torch.linspace(0.1, 1, 6).view(-1, 1, 1, 1)
    with torch.inference_mode():
        steps = torch.stack(net.steps(x, 4))
    scores = steps.clamp(0, 1).mean((2, 3, 4))
    rises = (scores[1:] >= scores[:-1]).int().cumprod(0).sum(0)  # iterations before the first fall
    assert len(rises.unique()) > 1
    with open_restorer(net, 'cpu', ValOptions(refine=4, refine_by='Level')) as restorer:
        found = restorer(x)
    torch.testing.assert_close(found, steps[rises, torch.arange(6)], rtol=1e-4, atol=1e-4)
