"""The study of benchmarks/sipl.py, in small, and what its tables say."""

import csv
import json

import pytest
import torch

from basicsr import checkpoint
from basicsr.archs import build_network
from basicsr.errors import DataError, OptionError
from basicsr.image_io import list_images, read_image, to_uint8, write_image
from basicsr.options import from_dict
from benchmarks import iqpir_data, sipl, sipl_cost, sipl_page, sipl_pictures, sipl_scores
from benchmarks.sipl_data import Clean, clean_photos
from benchmarks.sipl_runs import BACKBONES, LONGER, VARIANTS, WAYS, Run, new_model, options_of, train, variant_options

from .runs import ROOT

PHOTOS = sorted((ROOT / 'datasets/sample/val').glob('*.jpg'))
HOST = {'type': 'NAFNet', 'width': 4, 'enc_blk_nums': [1, 1, 1], 'middle_blk_num': 1, 'dec_blk_nums': [1, 1, 1]}
FUSED = {'type': 'ProxyFusion', 'host': HOST, 'size': 32}


def small_photos(root):
    """Four photographs, the last of them hazy, with their list."""
    rows = []
    for number, tag in enumerate(('clean', 'clean', 'clean', 'haze')):
        write_image(root / f'p/{number}.png', to_uint8(read_image(PHOTOS[number])[:170, :180]))
        rows.append({'package': 'p', 'file': f'{number}.png', 'tag': tag})
    with open(root / 'manifest.tsv', 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, ['package', 'file', 'tag'], delimiter='\t')
        writer.writeheader()
        writer.writerows(rows)
    return root


def saved(block, file, seed=0):
    """A network of small random weights, also where they begin at zero, in a weight file."""
    torch.manual_seed(seed)
    net = build_network(block)
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    file.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save({'params': net.state_dict(), 'network_g': block, 'iter': 5}, file)
    return net


# ---- photographs and runs ------------------------------------------------------------------------------------------


def test_photographs_are_reduced_once_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(iqpir_data, 'TESTED', 1)
    photos = small_photos(tmp_path / 'photos')
    found = clean_photos(photos, tmp_path / 'work')
    assert [f.name for f in list_images(found.train)] == ['p_0.png', 'p_1.png']
    assert [f.name for f in list_images(found.test)] == ['p_2.png']
    assert (read_image(found.train / 'p_1.png') == read_image(photos / 'p/1.png')).all()
    (photos / 'manifest.tsv').unlink()  # what was done is not done again
    assert clean_photos(photos, tmp_path / 'work') == found


@pytest.mark.parametrize('variant', list(VARIANTS))
def test_every_variant_has_valid_options(variant, tmp_path):
    document = options_of(Run(variant, 3, tmp_path, 70), Clean(tmp_path / 'train', tmp_path / 'test'))
    options = from_dict(document)
    backbone, way = VARIANTS[variant]
    assert options.train.total_iter == (round(70 * LONGER[backbone]) if way.longer else 70)
    assert options.train.scheduler['T_max'] == options.train.total_iter
    assert options.top.manual_seed == 3
    network = document['network_g']
    assert network.get('host', network) == BACKBONES[backbone]
    assert (document['model_type'] == 'SIPLModel') == ('host' in network) == Run(variant, 3, tmp_path).refines
    assert document['datasets']['train']['dataroot_gt'] == str(tmp_path / 'train')


def test_ablations_differ_from_sipl_in_what_they_say():
    def told(way):
        document = variant_options(f'nafnet_{way}')
        return {**document['network_g'], **document['train']}

    base = told('sipl')
    changed = {way: {k: v for k, v in told(way).items() if base.get(k) != v} for way in sipl_page.ABLATIONS}
    assert changed == {
        'quarter': {'size': base['size'] // 2}, 'zeros': {'dict_init': 'zeros'},
        'as_published': {'dict_init': 'zeros', 'as_published': True}, 'privilege_gt': {'privilege': 'gt'},
        'random_proxy': {'random_proxy': True}, 'released': {'raw_weight': 0.0}, 'steps1': {'steps': 1},
        'graft': {'graft': True},
    }  # fmt: skip


def test_an_unknown_variant_is_named(tmp_path):
    with pytest.raises(OptionError, match="no variant 'x'"):
        variant_options('x')


def test_a_finished_run_is_not_trained_again_but_with_other_options(tmp_path, monkeypatch):
    run, photos, calls = Run('nafnet_alone', 0, tmp_path, 5), Clean(tmp_path, tmp_path), []

    def finish(command, cwd):
        calls.append(command)
        run.weights.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save({'params': {'x': torch.zeros(1)}, 'iter': 5}, run.weights)
        return type('Done', (), {'returncode': 0})

    monkeypatch.setattr('subprocess.run', finish)
    train(run, photos)
    train(run, photos)
    assert len(calls) == 1
    assert calls[0][-1] == '--auto_resume'
    train(run, Clean(tmp_path / 'others', tmp_path))
    assert len(calls) == 2


# ---- what is measured ----------------------------------------------------------------------------------------------


@pytest.fixture
def one_set(tmp_path, monkeypatch):
    """One test set of one pair of 96 pixels."""
    clean = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(sipl_scores, 'test_sets', lambda *_: [('a', [(0.5 * clean, clean)])])
    return tmp_path / 'net.pth'


def test_a_network_is_measured_plain_and_refined(one_set):
    net = saved(FUSED, one_set).eval()
    found = sipl_scores.measure(one_set, None, None, None)
    (pair,) = sipl_scores.test_sets()[0][1]
    with torch.inference_mode():
        images = net.steps(pair[0], 1)
    for which, image in zip(('plain', 'refined'), images):
        expected = sipl_scores.calculate_psnr(sipl_scores.as_stored(image), pair[1])
        assert found[which]['a']['psnr'] == [pytest.approx(float(expected), rel=1e-4)]
        assert set(found[which]['a']) == {'psnr', 'ssim', 'niqe', 'piqe'}
    assert found['plain']['a']['psnr'] != found['refined']['a']['psnr']
    saved(HOST, one_set)
    assert list(sipl_scores.measure(one_set, None, None, None)) == ['plain']
    assert sipl_scores.measure(None, None, None, None)['degraded']['a']['psnr'][0] < 12


def test_iterations_are_measured_with_and_without_feeding_the_output_in(one_set):
    saved(FUSED, one_set)
    found = sipl_scores.measure_steps(one_set, None, None, None)
    psnr = {fed: [step['psnr'][0] for step in found[fed]['a']] for fed in ('fixed', 'refed')}
    assert len(psnr['fixed']) == len(psnr['refed']) == 5
    assert psnr['fixed'][:2] == psnr['refed'][:2]
    assert psnr['fixed'][2] != psnr['refed'][2]


def test_moves_are_counted_from_the_weights_that_the_seed_gives(tmp_path):
    run = Run('nafnet_sipl', 4, tmp_path)
    net, block = new_model(run.variant, 4).net_g, variant_options(run.variant)['network_g']
    with torch.no_grad():
        net.dictionaries[1] += 0.5
    run.weights.parent.mkdir(parents=True)
    checkpoint.save({'params': net.state_dict(), 'network_g': block}, run.weights)
    assert sipl_scores.moves(run) == {'dictionaries': [0, pytest.approx(0.5, abs=1e-3), 0], 'others': 0}


# ---- cost ----------------------------------------------------------------------------------------------------------


def test_macs_are_those_of_the_published_network():
    with torch.device('meta'):  # nothing is computed
        net = build_network(sipl_cost.NETWORKS['Restormer'])
    attend = sipl_cost.HeadedAttention._attend
    macs = {'alone': sipl_cost.macs_of(lambda: net(torch.empty(1, 3, 256, 256, device='meta'))) / 1e9}
    assert macs['alone'] == pytest.approx(154.9, rel=0.001)
    sipl_cost.check('Restormer', macs)
    assert sipl_cost.HeadedAttention._attend is attend
    with pytest.raises(DataError, match=r'Restormer, alone: 160\.0 billion MACs'):
        sipl_cost.check('Restormer', {'alone': 160.0})


def test_published_expressions_give_the_numbers_of_ours():
    torch.manual_seed(0)
    net, image = build_network(BACKBONES['restormer']).eval(), torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        ours = net(image)
        with sipl_cost.published_expressions():
            theirs = net(image)
    assert not torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_an_iteration_shares_the_encoder(monkeypatch):
    monkeypatch.setitem(sipl_cost.NETWORKS, 'tiny', HOST)
    found = sipl_cost.measure('tiny', 32, 2, torch.device('cpu'))
    macs = found['macs']
    assert macs['alone'] < macs['plain'] < macs['refined'] < macs['released']
    assert found['parameters']['alone'] < found['parameters']['plain']
    assert all(len(s) == 2 for s in found['seconds'].values())
    assert found['peak_mb']['plain'] > 0
    net = build_network({'type': 'ProxyFusion', 'host': HOST}).eval()
    encoder = sipl_cost.macs_of(lambda: net.encode(torch.rand(1, 3, 32, 32))) / 1e9
    assert macs['released'] - macs['refined'] == pytest.approx(encoder, rel=1e-3)


def test_forms_restore_alike():
    net = build_network(FUSED).eval()
    forms = sipl_cost.forms_of(net)
    with torch.inference_mode():
        refined, released = (forms[f](torch.full((1, 3, 32, 32), 0.5)) for f in ('refined', 'released'))
    torch.testing.assert_close(refined, released)


@pytest.mark.parametrize('backbone', list(BACKBONES))
def test_equal_compute_is_what_a_step_costs(backbone):
    macs = {way: sipl_cost.training_macs(f'{backbone}_{way}') for way in ('alone', 'skips', 'sipl')}
    assert macs['alone'] < macs['skips'] < macs['sipl']
    assert LONGER[backbone] == pytest.approx(macs['sipl'] / macs['alone'], rel=0.02)


# ---- tables --------------------------------------------------------------------------------------------------------

SETS = [s for group in sipl_page.GROUPS.values() for s in group]


def scores(psnr, **changes):
    return {s: {'psnr': [psnr - 1, psnr + 1], 'ssim': [0.5], 'niqe': [5.0], 'piqe': [30.0], **changes} for s in SETS}


def result(variant, *psnr, seed=0, **changes):
    passes = dict(zip(('plain', 'refined'), map(scores, psnr)))
    told = {'kind': 'run', 'variant': variant, 'seed': seed, 'iterations': 9}
    moved = {'dictionaries': [0.02, 0.01, 0.004], 'others': 0.0123}
    return {**told, 'moved': moved, 'measured': passes, **changes}


def write(folder, results):
    folder.mkdir()
    for number, content in enumerate(results):
        (folder / f'{number}.json').write_text(json.dumps(content))
    return sipl_page.read_study(folder)


def test_gains_are_told_against_both_lengths_and_by_seed(tmp_path):
    study = write(tmp_path / 'r', [
        result('nafnet_alone', 20.0), result('nafnet_alone', 21.0, seed=1), result('nafnet_alone_long', 22.0),
        result('nafnet_sipl', 20.5, 21.0), result('nafnet_sipl', 21.5, 24.0, seed=1),
        result('nafnet_sipl', 90.0, 90.0, seed=2),
    ])  # fmt: skip
    lines = sipl_page.gain_table(study).splitlines()[2:]
    assert lines == [
        '| NAFNet | alone, equal compute | alone | +2.00 | +2.00 | 9 of 9 | 1 |',
        '| NAFNet | SIPL, plain pass | alone | +0.50 ± 0.00 | +0.50 ± 0.00 | 9 of 9 | 2 |',
        '| NAFNet | SIPL, plain pass | alone, equal compute | -1.50 | -1.50 | 0 of 9 | 1 |',
        '| NAFNet | SIPL, refined once | alone | +2.00 ± 1.41 | +2.00 ± 1.41 | 9 of 9 | 2 |',
        '| NAFNet | SIPL, refined once | alone, equal compute | -1.00 | -1.00 | 0 of 9 | 1 |',
    ]


def test_scores_stand_beside_the_degraded_ones(tmp_path):
    reference = {'kind': 'reference', 'measured': {'degraded': {**scores(10.0), **{'haze': {'psnr': [30.0]}}}}}
    study = write(tmp_path / 'r', [result('promptir_skips', 20.0, 21.0), reference])
    head, _, degraded, plain, refined = sipl_page.score_table(study, 'psnr').splitlines()
    assert head.count('|') == degraded.count('|') == plain.count('|')
    cells = [cell.strip() for cell in degraded.split('|')[1:-1]]
    assert cells == ['degraded', '', *['10.00'] * 6, '30.00', *['10.00'] * 3, '15.00', '']
    assert plain.startswith('| PromptIR | privileged skips, plain pass | 20.00 |')
    assert refined.startswith('| PromptIR | privileged skips, refined once | 21.00 |')


def steps_of(variant, fixed, refed):
    def group(values):
        return {s: [{'psnr': [v], 'ssim': [0.5], 'niqe': [5.0]} for v in values] for s in SETS}

    measured = {'fixed': group(fixed), 'refed': group(refed)}
    return {'kind': 'steps', 'variant': variant, 'seed': 0, 'measured': measured}


def test_iterations_stand_in_their_order(tmp_path):
    study = write(tmp_path / 'r', [steps_of('nafnet_sipl', range(5), (0, 1, 12, 13, 14))])
    lines = sipl_page.steps_table(study).splitlines()[2:]
    start = '| NAFNet, SIPL | synthetic | PSNR, dB ↑ |'
    assert lines[0] == f'{start} input stays | 0.00 | 1.00 | 2.00 | 3.00 | 4.00 | 1 |'
    assert lines[1] == f'{start} output fed in | 0.00 | 1.00 | 12.00 | 13.00 | 14.00 | 1 |'
    head, _, first, *rest = sipl_page.sets_table(study).splitlines()
    assert first == '| NAFNet, SIPL | haze | 0.00 | 1.00 | 2.00 | 3.00 | 4.00 | 1.00 | 12.00 | 13.00 | 14.00 |'
    assert head.count('|') == first.count('|')
    assert len(rest) == 8


def test_ablations_tell_both_passes_and_what_moved(tmp_path):
    study = write(tmp_path / 'r', [result('nafnet_zeros', 19.0, 19.5), result('nafnet_sipl', 20.0, 20.5)])
    lines = sipl_page.ablation_table(study).splitlines()
    assert lines[0].count('|') == lines[2].count('|')
    assert lines[2].startswith('| SIPL | 20.00 | 20.50 | 0.500 |')
    assert lines[3].startswith('| zeros, with the guard | 19.00 | 19.50 |')
    assert sipl_page.moves_table(study).splitlines()[2] == '| SIPL | 20.00 | 10.00 | 4.00 | 12.30 | 1 |'


def test_costs_are_told_in_plain_passes(tmp_path):
    forms = ('alone', 'plain', 'refined', 'released')
    macs = dict(zip(forms, (80.0, 100.0, 210.0, 240.0)))
    seconds = {f: [m / 10, m / 5] for f, m in macs.items()}
    cost = {
        'kind': 'cost', 'network': 'AdaIR', 'device': 'cpu', 'rounds': 2, 'macs': macs, 'seconds': seconds,
        'peak_mb': macs, 'parameters': {'alone': 1000, 'plain': 2000},
    }  # fmt: skip
    step = {'kind': 'training', 'backbone': 'nafnet', 'macs': {'alone': 1.0, 'sipl': 6.7},
            'seconds': {'alone': [1.0], 'sipl': [4.0]}}  # fmt: skip
    study = write(tmp_path / 'r', [cost, step])
    expected = '| AdaIR | 1,000 | 2,000 | 80.0 | 100.0 | 110.0 | 210.0 | 240.0 | 2.10 | 2.40 |'
    assert sipl_page.cost_table(study).splitlines()[2] == expected
    expected = '| AdaIR | cpu | 12 | 15 | 31.5 | 36 | 2.10 | 2.40 | 80 | 100 | 210 | 240 | 2 |'
    assert sipl_page.time_table(study).splitlines()[2] == expected
    assert sipl_page.training_table(study).splitlines()[3] == '| NAFNet | SIPL | 6.70 | 6.70 | 4.000 | 4.00 |'


def test_the_page_has_all_marks_and_leads_to_pictures_that_are_there(tmp_path):
    write(tmp_path / 'r', [result('nafnet_alone', 20.0)])
    page = tmp_path / 'docs/page.md'
    page.parent.mkdir()
    page.write_text(sipl.PAGE.read_text())
    (tmp_path / 'sipl_dictionary.jpg').touch()
    sipl_page.write_page(page, tmp_path / 'r', tmp_path)
    text = page.read_text()
    assert '| `nafnet_alone` | 0 | 9 |' in text
    assert '](../sipl_dictionary.jpg)' in text
    assert 'sipl_restoration.jpg' not in text
    page.write_text('nothing')
    with pytest.raises(DataError, match='has no marks'):
        sipl_page.write_page(page, tmp_path / 'r', tmp_path)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='There is no result'):
        sipl_page.read_study(tmp_path / 'empty')


# ---- pictures and commands -----------------------------------------------------------------------------------------


def test_components_show_what_tokens_have_in_common():
    columns = torch.linspace(-1, 1, 8).expand(6, 8)
    tokens = torch.stack([3 * columns, columns, 0.01 * torch.randn(6, 8, generator=torch.Generator().manual_seed(0))])
    colours, share = sipl_pictures.components(tokens)
    assert colours.shape == (3, 6, 8)
    assert share == pytest.approx(1)
    spread = colours[0].std(0).max(), colours[0].mean(0).std()
    assert spread[0] < 0.01 < spread[1]  # the same in every row, from left to right
    colours, share = sipl_pictures.components(torch.zeros(4, 2, 2))
    assert share == 0
    assert (colours == 0.5).all()


def test_sheets_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(sipl_pictures, 'SYNTHETIC', ('Haze',))
    alone, fused = Run('nafnet_alone', 0, tmp_path), Run('nafnet_sipl', 0, tmp_path)
    saved(HOST, alone.weights)
    saved({**variant_options('nafnet_sipl')['network_g']}, fused.weights)
    sipl_pictures.draw(tmp_path / 'docs', fused)
    shapes = {f.name: read_image(f).shape for f in list_images(tmp_path / 'docs')}
    wide, high = sipl_pictures.TILE, sipl_pictures.EDGE
    assert shapes['sipl_restoration.jpg'] == (wide * 3 // 4 + high, 5 * wide, 3)
    assert shapes['sipl_dictionary.jpg'] == (3 * (wide + high), 3 * wide, 3)
    skips = Run('nafnet_skips', 0, tmp_path)
    saved({'type': 'PrivilegedSkips', 'host': HOST}, skips.weights)
    with pytest.raises(OptionError, match='has no dictionary'):
        sipl_pictures.draw(tmp_path / 'docs', skips)


def test_the_command_names_what_is_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv('QUALIR_PHOTOS', raising=False)
    assert sipl.main(['run', 'nafnet_sipl', '--work', str(tmp_path)]) == 2
    assert 'QUALIR_PHOTOS' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sipl.main(['run', 'nafnet_other'])
    assert 'there is no variant nafnet_other' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sipl.main(['cost', '--rounds', '0'])
    assert '--rounds: at least 1' in capsys.readouterr().err


def test_only_what_refines_itself_is_followed(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sipl, '_photos', lambda args: None)
    assert sipl.main(['steps', 'nafnet_alone', '--work', str(tmp_path), '--data', str(tmp_path)]) == 2
    assert 'nafnet_alone does not improve on its own output' in capsys.readouterr().err


def test_ways_are_told_apart():
    titles = [way.title for _, way in VARIANTS.values()]
    assert len(set(titles)) == len(WAYS) + len(sipl_page.ABLATIONS)
