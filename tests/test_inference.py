"""Restoring photographs with a trained network."""

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from basicsr import checkpoint, inference
from basicsr.archs import build_network
from basicsr.image_io import read_image, read_pixels, write_image
from basicsr.registry import import_plugins
from tools import export_weights

from .runs import ROOT

BLOCK = {'type': 'NAFNet', 'width': 4, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}


@pytest.fixture
def weights(tmp_path):
    """A network that returns its input: the last convolution is zero."""
    net = build_network(BLOCK)
    torch.nn.init.zeros_(net.ending.weight)
    torch.nn.init.zeros_(net.ending.bias)
    torch.save({'params': net.state_dict(), 'network_g': BLOCK}, tmp_path / 'w.pth')
    return tmp_path / 'w.pth'


def photo(path, side=(21, 34)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(len(path.name)).integers(0, 256, (*side, 3), dtype=np.uint8))
    return path


def restore(weights, source, target, *more):
    return inference.main(['-m', str(weights), '-i', str(source), '-o', str(target), '--device', 'cpu', *more])


def test_a_folder_is_mirrored_and_an_identity_network_changes_nothing(tmp_path, weights):
    photos = [photo(tmp_path / 'in/a.png'), photo(tmp_path / 'in/sub/b.png', (16, 16))]
    assert restore(weights, tmp_path / 'in', tmp_path / 'out') == 0
    for source, target in zip(photos, (tmp_path / 'out/a.png', tmp_path / 'out/sub/b.png'), strict=True):
        assert np.array_equal(read_image(source), read_image(target))


def test_results_are_not_overwritten_unless_asked(tmp_path, weights, capsys):
    source = photo(tmp_path / 'a.png')
    assert restore(weights, source, tmp_path / 'out') == 0
    before = (tmp_path / 'out/a.png').stat().st_mtime_ns
    assert restore(weights, source, tmp_path / 'out') == 2
    assert '--overwrite' in capsys.readouterr().err
    assert (tmp_path / 'out/a.png').stat().st_mtime_ns == before
    assert restore(weights, source, tmp_path / 'out', '--overwrite') == 0


def test_one_bad_photograph_does_not_stop_the_others_but_the_code_tells(tmp_path, weights, capsys):
    photo(tmp_path / 'in/a.png')
    (tmp_path / 'in/b.png').write_bytes(b'no image')
    assert restore(weights, tmp_path / 'in', tmp_path / 'out') == 1
    assert 'b.png' in capsys.readouterr().err
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['a.png']


def test_two_inputs_never_share_a_result(tmp_path, weights, capsys):
    photo(tmp_path / 'in/a.png')
    photo(tmp_path / 'in/a.jpg')
    assert restore(weights, tmp_path / 'in', tmp_path / 'out') == 2
    assert 'rename' in capsys.readouterr().err


def test_weights_that_do_not_say_their_network_need_an_option_file(tmp_path, weights, capsys):
    torch.save({'params': torch.load(weights, weights_only=True)['params']}, tmp_path / 'bare.pth')
    source = photo(tmp_path / 'a.png')
    assert restore(tmp_path / 'bare.pth', source, tmp_path / 'out') == 2
    assert '-opt' in capsys.readouterr().err


def pooling(tmp_path):
    """Weights of a network with a statistic of the whole image, and an option file that describes it."""
    plugin = ROOT / 'tests/plugins/pooling.py'
    import_plugins([str(plugin)])
    torch.manual_seed(0)
    net = build_network({'type': 'PoolNet'})
    torch.save(net.state_dict(), tmp_path / 'pool.pth')
    file = tmp_path / 'pool.yml'
    file.write_text(f'name: a\nimports: [{plugin}]\ndatasets: {{}}\nnetwork_g: {{type: PoolNet}}\n')
    return tmp_path / 'pool.pth', ['--opt', str(file)]


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--tile', '32', '--tile_overlap', '8'], 'tiles of 32 px, overlap 8 px'),
        (['--tile', '32', '--tile_overlap', '8', '--tile_batch', '3'], 'tiles of 32 px, overlap 8 px'),
        (['--self_ensemble'], 'whole images, self-ensemble x8'),
        (['--tlc', '12'], 'TLC window 12 px'),
        (['--bf16'], 'bf16'),
    ],
)
def test_flags_change_the_result_and_are_told(tmp_path, capsys, flags, words):
    weights, options = pooling(tmp_path)
    source = photo(tmp_path / 'a.png', (48, 60))
    assert restore(weights, source, tmp_path / 'plain', *options) == 0
    assert words not in capsys.readouterr().err
    assert restore(weights, source, tmp_path / 'changed', *options, *flags) == 0
    assert words in capsys.readouterr().err
    plain, changed = (read_pixels(tmp_path / n / 'a.png').astype(int) for n in ('plain', 'changed'))
    assert np.abs(plain - changed).max() > 0
    assert np.abs(plain - changed).mean() < 60


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_depth_grey_and_alpha_are_kept(tmp_path, weights, dtype, channels):
    """The network changes nothing, so the result is the photograph itself; --tile none and tiles agree."""
    shape = (70, 81) if channels == 1 else (70, 81, channels)
    pixels = np.random.default_rng(1).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)
    write_image(tmp_path / 'a.png', pixels)
    for tile in ('none', '32'):
        target = tmp_path / tile
        assert restore(weights, tmp_path / 'a.png', target, '--tile', tile, '--tile_overlap', '8') == 0
        result = read_pixels(target / 'a.png', 'unchanged')
        assert result.dtype == dtype
        assert np.array_equal(result, pixels)


def test_a_network_that_colours_leaves_grey_grey_and_alpha_alone(tmp_path, weights):
    content = torch.load(weights, weights_only=True)
    content['params']['ending.bias'] = torch.tensor([0.2, 0.0, -0.1])
    torch.save(content, weights)
    grey = np.full((20, 20), 100, np.uint8)
    write_image(tmp_path / 'in/grey.png', grey)
    alpha = np.dstack([grey, grey, grey, np.arange(400).reshape(20, 20) % 256]).astype(np.uint8)
    write_image(tmp_path / 'in/alpha.png', alpha)
    assert restore(weights, tmp_path / 'in', tmp_path / 'out') == 0
    result = read_pixels(tmp_path / 'out/grey.png', 'unchanged')
    assert result.ndim == 2
    assert (result == round(0.299 * 151 + 0.587 * 100 + 0.114 * 74)).all()  # luma of 100 + (51, 0, -25.5)
    result = read_pixels(tmp_path / 'out/alpha.png', 'unchanged')
    assert np.array_equal(result[..., 3], alpha[..., 3])
    assert result[0, 0, 0] == 151


@pytest.mark.parametrize('flags', [['--tile', '0'], ['--tile', 'some'], ['--tlc', '-3'], ['--bf16', '--fp16']])
def test_flags_that_make_no_sense_are_refused(tmp_path, weights, capsys, flags):
    with pytest.raises(SystemExit) as caught:
        restore(weights, photo(tmp_path / 'a.png'), tmp_path / 'out', *flags)
    assert caught.value.code == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--tile', '32', '--tile_overlap', '32'], 'overlap 32'),
        (['--tile_batch', '0'], 'batch 0'),
        (['--fp16'], 'fp16'),
        (['--score', '0.5'], 'score 0.5 cannot be asked of NAFNet, which has no quality condition'),
        (['--device', 'abacus'], '--device abacus cannot be used'),
        (['-w', '0.5'], 'fidelity 0.5 cannot be asked of NAFNet, which has no way for features of its input'),
        (['--hq_weight', '0.5'], 'hq_weight 0.5 cannot be asked of NAFNet, which has no second book'),
        (['--no_adain'], 'adain off cannot be asked of NAFNet'),
        (['--best_of', '4'], 'NAFNet predicts no codes'),
    ],
)
def test_what_the_network_or_machine_cannot_do_is_refused_in_a_sentence(tmp_path, weights, capsys, flags, words):
    assert restore(weights, photo(tmp_path / 'a.png'), tmp_path / 'out', *flags) == 2
    error = capsys.readouterr().err
    assert words in error
    assert 'Traceback' not in error
    assert not (tmp_path / 'out').exists()


CONDITIONED = {'type': 'QualityConditioned', 'host': BLOCK, 'mode': 'fourier'}


@pytest.fixture
def conditioned(tmp_path):
    """A network with a quality condition that does something."""
    torch.manual_seed(0)
    net = build_network(CONDITIONED)
    for p in net.condition.parameters():
        torch.nn.init.normal_(p, std=0.3)
    torch.save({'params': net.state_dict(), 'network_g': CONDITIONED, 'iter': 7}, tmp_path / 'c.pth')
    return tmp_path / 'c.pth'


def test_the_knob_changes_the_picture_and_is_told(tmp_path, conditioned, capsys):
    source, pictures = photo(tmp_path / 'a.png'), {}
    ways = {'own': [], 'top': ['--score', '1'], 'low': ['--score', '0.1'], 'none': ['--guidance', '0']}
    ways['far'] = ['--score', '0.1', '--guidance', '2']
    for name, flags in ways.items():
        assert restore(conditioned, source, tmp_path / name, *flags) == 0
        told = capsys.readouterr().err
        assert ('score 0.1' in told) == ('0.1' in flags)
        assert ('guidance 2' in told) == ('2' in flags)
        pictures[name] = read_pixels(tmp_path / name / 'a.png').astype(int)
    assert np.array_equal(pictures['own'], pictures['top'])
    for name in ('low', 'none', 'far'):
        assert np.abs(pictures[name] - pictures['top']).max() > 0, name
    inside = np.all([(pictures[name] > 0) & (pictures[name] < 255) for name in ('far', 'low', 'none')], axis=0)
    wanted = (2 * pictures['low'] - pictures['none'])[inside]
    assert inside.any()
    assert np.abs(pictures['far'][inside] - wanted).max() <= 2


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--score', 'inf'], 'score inf cannot be asked for: a score lies within 0 and 1'),
        (['--guidance', '-1'], 'guidance -1 cannot be asked for'),
        (['--score', 'nan'], 'score nan cannot be asked for'),
    ],
)
def test_a_knob_out_of_range_is_refused(tmp_path, conditioned, capsys, flags, words):
    assert restore(conditioned, photo(tmp_path / 'a.png'), tmp_path / 'out', *flags) == 2
    error = capsys.readouterr().err
    assert words in error
    assert 'Traceback' not in error
    assert not (tmp_path / 'out').exists()


def test_a_score_beyond_the_scale_is_taken_as_its_nearest_end(tmp_path, conditioned, capsys):
    source = photo(tmp_path / 'a.png')
    for name, score in (('top', '1'), ('beyond', '1.5'), ('bottom', '0'), ('below', '-0.2')):
        assert restore(conditioned, source, tmp_path / name, '--score', score) == 0
        told = capsys.readouterr().err
        assert ('is taken as' in told) == (name in ('beyond', 'below'))
    for near, far in (('top', 'beyond'), ('bottom', 'below')):
        assert np.array_equal(read_pixels(tmp_path / near / 'a.png'), read_pixels(tmp_path / far / 'a.png'))
    assert 'score 0)' in told


FACES = {
    'type': 'IQPIRFormer', 'img_size': 32, 'nf': 16, 'ch_mult': [1, 2], 'emb_dim': 32, 'res_blocks': 1,
    'attn_resolutions': [], 'codebook_size': 12, 'dim_embd': 16, 'n_head': 2, 'n_layers': 1, 'connect_list': [16],
    'quantizer': 'dual_codebook',
}  # fmt: skip


def faces(folder, **more):
    """Weights of a network of codes of which every knob does something."""
    torch.manual_seed(0)
    block = {**FACES, **more}
    net = build_network(block)
    for book in net.books:
        torch.nn.init.normal_(book.embedding.weight, std=0.5)
    torch.nn.init.normal_(net.idx_pred_layer[1].weight, std=0.3)
    for p in net.fuse_convs_dict.parameters():
        torch.nn.init.normal_(p, std=0.1)
    torch.save({'params': net.state_dict(), 'network_g': block}, folder / 'f.pth')
    return folder / 'f.pth', net.eval()


def test_knobs_of_networks_of_codes(tmp_path, capsys):
    """Every flag gives what the network gives with the attribute set, to the level, and is told."""
    model, net = faces(tmp_path)
    source = photo(tmp_path / 'a.png', (32, 32))
    image = torch.from_numpy(read_image(source)).permute(2, 0, 1)[None]
    own = {'w': net.w, 'hq_weight': net.hq_weight, 'adain': net.adain, 'score': net.score}
    ways = {
        'own': ([], {}, ''),
        'fidelity': (['-w', '0.7'], {'w': 0.7}, 'fidelity 0.7'),
        'weight': (['-aw', '0.2'], {'hq_weight': 0.2}, 'hq_weight 0.2'),
        'free': (['--no_adain'], {'adain': False}, 'adain off'),
        'bound': (['--adain'], {'adain': True}, 'adain on'),
        'low': (['--score', '0.1'], {'score': 0.1}, 'score 0.1'),
    }
    pictures = {}
    for name, (flags, attributes, words) in ways.items():
        assert restore(model, source, tmp_path / name, *flags) == 0
        assert words in capsys.readouterr().err
        pictures[name] = read_pixels(tmp_path / name / 'a.png').astype(int)
        vars(net).update({**own, **attributes})
        with torch.inference_mode():
            wanted = net(image)[0].clamp(0, 1).mul(255).round().permute(1, 2, 0).numpy()
        assert np.abs(pictures[name] - wanted).max() <= 1, name
    for name in ('fidelity', 'weight', 'free', 'low'):
        assert np.abs(pictures[name] - pictures['own']).max() > 1, name
    assert np.array_equal(pictures['bound'], pictures['own'])


@pytest.mark.parametrize(
    ('block', 'flags', 'words'),
    [
        ({'quantizer': 'nearest'}, ['-aw', '0.5'], 'hq_weight 0.5 cannot be asked of IQPIRFormer'),
        ({}, ['-w', '-1'], 'fidelity -1 cannot be asked for'),
        ({}, ['-w', 'nan'], 'fidelity nan cannot be asked for'),
        ({}, ['--best_of', '1'], 'at least 2 candidates'),
        ({}, ['--best_of', '4', '--best_by', 'NIQE'], 'must be an ensemble of two scorers'),
        ({'connect_list': []}, ['-w', '0.5'], 'fidelity 0.5 cannot be asked of IQPIRFormer'),
        ({'score_mode': 'none'}, ['--score', '0.5'], 'score 0.5 cannot be asked of IQPIRFormer'),
    ],
)
def test_knobs_that_a_network_of_codes_has_not_are_refused(tmp_path, capsys, block, flags, words):
    model, _ = faces(tmp_path, **block)
    assert restore(model, photo(tmp_path / 'a.png', (32, 32)), tmp_path / 'out', *flags) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_the_best_of_several_draws_of_codes(tmp_path, capsys):
    import_plugins([str(ROOT / 'tests/plugins/level_scorer.py')])
    judges = tmp_path / 'judges.yml'
    judges.write_text('type: Ensemble\nmembers:\n  - {type: Level}\n  - {type: Level, name: again}\n')
    model, _ = faces(tmp_path)
    source, level = photo(tmp_path / 'a.png', (32, 32)), {}
    ways = {'plain': [], 'best': ['--best_of', '8'], 'again': ['--best_of', '8'], 'other': ['--best_of', '8']}
    ways['rounds'] = ['--best_of', '8', '--search_rounds', '3']
    ways['other'] += ['--seed', '1']
    for name, flags in ways.items():
        more = [*flags, '--best_by', str(judges)] if flags else []
        assert restore(model, source, tmp_path / name, *more) == 0
        told = capsys.readouterr().err
        assert ('best of 8' in told) == bool(flags)
        assert ('in 3 rounds by level + again' in told) == (name == 'rounds')
        level[name] = read_pixels(tmp_path / name / 'a.png').mean()
    assert level['plain'] < level['best'] < level['rounds']
    assert level['plain'] < level['other'] != level['best']
    assert level['again'] == level['best']


def test_exported_weights_say_their_network(tmp_path, conditioned, capsys):
    source = photo(tmp_path / 'a.png')
    assert export_weights.main([str(conditioned), str(tmp_path / 'c.safetensors')]) == 0
    assert restore(conditioned, source, tmp_path / 'pth') == 0
    assert restore(tmp_path / 'c.safetensors', source, tmp_path / 'safe') == 0
    assert np.array_equal(read_pixels(tmp_path / 'pth/a.png'), read_pixels(tmp_path / 'safe/a.png'))
    content = checkpoint.read(tmp_path / 'c.safetensors')
    assert (content['network_g'], content['iter']) == (CONDITIONED, 7)
    found = checkpoint.find_weights(content, 'c.safetensors')
    assert found.tensors.keys() == build_network(CONDITIONED).state_dict().keys()
    assert found.prefixes == ()
    loaded = checkpoint.load_weights(build_network(CONDITIONED), tmp_path / 'c.safetensors')
    assert (loaded.iteration, loaded.fresh) == (7, 0)


def test_a_header_that_is_no_description_is_refused(tmp_path, capsys):
    save_file({'a': torch.zeros(2)}, tmp_path / 'w.safetensors', metadata={'network_g': '{'})
    assert restore(tmp_path / 'w.safetensors', photo(tmp_path / 'a.png'), tmp_path / 'out') == 1
    assert 'w.safetensors cannot be read; it is damaged' in capsys.readouterr().err


def test_a_result_that_cannot_be_written_is_named_and_the_code_tells(tmp_path, weights, capsys):
    photo(tmp_path / 'in/a.png')
    photo(tmp_path / 'in/sub/b.png')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/sub').write_text('a file where a folder must be')
    assert restore(weights, tmp_path / 'in', tmp_path / 'out') == 1
    assert "b.png' cannot be written" in capsys.readouterr().err
    assert (tmp_path / 'out/a.png').exists()
