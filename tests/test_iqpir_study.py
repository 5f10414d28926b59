"""The study of benchmarks/iqpir.py, in small, and what its tables say."""

import csv
import json

import pytest
import torch

from basicsr import checkpoint
from basicsr.archs import build_network
from basicsr.errors import DataError, OptionError
from basicsr.image_io import list_images, read_image, to_tensor, to_uint8, write_image
from basicsr.metrics import calculate_psnr
from basicsr.options import from_dict
from benchmarks import iqpir, iqpir_data, iqpir_page, iqpir_scores
from benchmarks.iqpir_data import Collection
from benchmarks.iqpir_runs import VARIANTS, Run, options_of, train, variant_options
from benchmarks.iqpir_scores import measure_autoencoder
from benchmarks.qualiteacher_scores import TRAINED

from .runs import ROOT

PHOTOS = sorted((ROOT / 'datasets/sample/val').glob('*.jpg'))


def small_photos(root):
    """Four photographs, a double, a small one and a hazy one, with their list."""
    rows = []
    for number, tag in enumerate(('clean', 'clean', 'clean', 'clean', 'clean', 'clean', 'haze')):
        image = read_image(PHOTOS[number if number != 4 else 0])[:170, :180]
        write_image(root / f'p/{number}.png', to_uint8(image[:100] if number == 5 else image))
        rows.append({'package': 'p', 'file': f'{number}.png', 'tag': tag})
    with open(root / 'manifest.tsv', 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, ['package', 'file', 'tag'], delimiter='\t')
        writer.writeheader()
        writer.writerows(rows)
    return root


def test_photographs_are_split_without_doubles_small_ones_and_those_that_are_not_clean(tmp_path, monkeypatch):
    monkeypatch.setattr(iqpir_data, 'TESTED', 1)
    lists = iqpir_data.split(small_photos(tmp_path))
    assert lists == {'train': ['p/0.png', 'p/1.png', 'p/2.png'], 'test': ['p/3.png']}
    (tmp_path / 'p/1.png').unlink()
    with pytest.raises(DataError, match=r"lists 'p/1\.png', which is not there"):
        iqpir_data.split(tmp_path)
    with pytest.raises(DataError, match='is missing; it must list'):
        iqpir_data.split(tmp_path / 'p')


def test_poorer_versions_are_made_once_and_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(iqpir_data, 'TESTED', 1)
    photos = small_photos(tmp_path / 'photos')
    found = iqpir_data.collection(photos, tmp_path / 'work')
    assert found.count == 3
    assert len(list_images(found.train)) == 3 * (1 + iqpir_data.VERSIONS)
    assert [f.name for f in list_images(found.test)] == ['p_3.png']
    with open(found.scores, encoding='utf-8') as file:
        scores = {row['imagename']: float(row['score']) for row in csv.DictReader(file)}
    assert len(scores) == 12
    assert len(set(scores.values())) > 6
    original = read_image(found.train / 'p_0.png')
    assert all((read_image(found.train / f'p_0__{n}.png') != original).any() for n in range(3))
    assert all((read_image(found.sources / f.name) == read_image(found.train / f'{f.stem[:3]}.png')).all()
               for f in list_images(found.train))  # fmt: skip
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / 'work').rglob('*.png')}
    assert iqpir_data.collection(photos, tmp_path / 'work') == found
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / 'work').rglob('*.png')} == before


@pytest.mark.parametrize('variant', list(VARIANTS))
def test_every_variant_has_valid_options(variant, tmp_path):
    run = Run(variant, 0, tmp_path, 70)
    document = options_of(
        run, Collection(tmp_path / 'train', tmp_path / 'sources', tmp_path / 'test', tmp_path / 'x.csv', 0)
    )
    options = from_dict(document)
    assert options.train.total_iter == 70
    assert (options.networks['g']['type'] == 'IQPIRGAutoEncoder') == run.is_autoencoder
    given = document['path'].get('pretrain_network_g')
    assert (given is not None) == variant.startswith(('reward', 'stage3'))
    first = 'stage1_single' if variant == 'stage2_single' else 'stage1_dual'
    if not run.is_autoencoder:
        assert f'{first}_seed0' in document['train']['autoencoder_path']


def test_an_unknown_variant_is_named(tmp_path):
    with pytest.raises(OptionError, match="no variant 'x'"):
        variant_options(Run('x', 0, tmp_path))


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    run = Run('stage1_dual', 0, tmp_path, 5)
    run.weights.parent.mkdir(parents=True)
    checkpoint.save({'params': {'x': torch.zeros(1)}, 'iter': 5}, run.weights)
    monkeypatch.setattr('subprocess.run', lambda *_, **__: pytest.fail('it was trained'))
    train(run, Collection(tmp_path, tmp_path, tmp_path, tmp_path, 0))


def test_an_autoencoder_is_measured(tmp_path):
    torch.manual_seed(0)
    block = {'type': 'IQPIRGAutoEncoder', 'width': 4, 'dim': 4, 'entries': 8, 'entries_hq': 6}
    net = build_network(block)
    file = tmp_path / 'net.pth'
    checkpoint.save({'params': net.state_dict(), 'network_g': block}, file)
    image = read_image(PHOTOS[0])[:61, :70]
    write_image(tmp_path / 'test/a.png', to_uint8(image))
    found = measure_autoencoder(file, Collection(tmp_path, tmp_path, tmp_path / 'test', tmp_path, 0))
    assert len(found['psnr']) == len(found['ssim']) == 1
    assert [round(u * n, 3) % 1 for u, n in zip(found['usage'], (8, 6))] == [0, 0]
    assert all(0 < u <= 1 for u in found['usage'])


TITLES = ['continuous, drawn without codes', 'feat_ste']

# ---- tables --------------------------------------------------------------------------------------------------------


def scores(**changes):
    return {TRAINED: [0.5, 0.7], 'niqe': [5.0, 4.0], 'psnr': [20.0, 22.0], **changes}


def result(variant, **changes):
    measured = {t: {'real': scores(**changes), 'pairs': scores(**changes)} for t in iqpir_scores.REAL}
    measured |= {f'synthetic_{k}': scores(**changes) for k in iqpir_scores.SYNTHETIC}
    curve = [[3, 20.0], [9, 21.0]]
    told = {'kind': 'run', 'variant': variant, 'seed': 0, 'iterations': 9, 'from': None, 'curve': curve}
    return {**told, 'measured': measured}


def write(folder, results):
    folder.mkdir()
    for number, content in enumerate(results):
        (folder / f'{number}.json').write_text(json.dumps(content))
    return iqpir_page.read_study(folder)


def test_the_reward_table_tells_changes_in_both_kinds_of_scores(tmp_path):
    reference = {**result('x'), 'kind': 'reference', 'better': {TRAINED: 1, 'niqe': -1, 'piqe': -1, 'cnniqa': -1}}
    plain = {'piqe': [20.0, 20.0], 'cnniqa': [9.0, 9.0]}
    gamed = {**plain, TRAINED: [0.9, 0.9], 'niqe': [7.0, 7.0], 'piqe': [20.0, 22.0]}
    uncoded = [{**result(f'reward_{m}', **v), 'kind': 'uncoded'} for m, v in (('off', plain), ('continuous', gamed))]
    runs = [result('reward_off', **plain), result('reward_feat_ste', **gamed), result('reward_continuous', **plain)]
    lines = iqpir_page.reward_table(write(tmp_path / 'r', [reference, *runs, *uncoded])).splitlines()[2:]
    assert [line.split('|')[1].strip() for line in lines[::2]] == ['continuous', *TITLES]
    assert lines[0] == '| continuous | real | +0.000 | +0.00 | +0.0 | +0.0 | +0.00 |  |'
    assert lines[2] == '| continuous, drawn without codes | real | +0.300 | +2.50 | +1.0 | +0.0 | +0.00 | +0.83 |'


def test_the_knob_table_counts_better_as_higher(tmp_path):
    reference = {**result('x'), 'kind': 'reference', 'better': {TRAINED: 1, 'niqe': -1}}
    levels = [{TRAINED: [t], 'niqe': [n]} for t, n in ((0.1, 5.0), (0.2, 4.0), (0.4, 4.5), (0.5, 3.0))]
    found = {
        'kind': 'sweep',
        'variant': 'stage2_film',
        'seed': 0,
        'levels': [0.1, 0.3, 0.5, 0.9],
        'scores': {'haze': levels},
    }
    study = write(tmp_path / 'r', [reference, result('stage2_film'), found])
    lines = iqpir_page.knob_table(study).splitlines()[2:]
    assert lines[0].endswith('| haze | trained on ↑ | 1.00 | 0.100 to 0.500 |')
    assert lines[1].endswith('| haze | NIQE ↓ | 0.80 | 5.00 to 3.00 |')


def test_a_page_without_marks_is_refused_and_no_results_too(tmp_path):
    write(tmp_path / 'r', [result('stage2_none')])
    page = tmp_path / 'page.md'
    page.write_text('nothing')
    with pytest.raises(DataError, match='has no marks'):
        iqpir_page.write_page(page, tmp_path / 'r')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='There is no result'):
        iqpir_page.read_study(tmp_path / 'empty')


def test_the_command_names_what_is_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv('QUALIR_PHOTOS', raising=False)
    assert iqpir.main(['run', 'stage1_dual', '--work', str(tmp_path)]) == 2
    assert 'QUALIR_PHOTOS' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        iqpir.main(['run', 'stage9'])
    assert 'there is no variant stage9' in capsys.readouterr().err


# ---- what ships ----------------------------------------------------------------------------------------------------


def test_the_autoencoder_that_ships_brings_unseen_photographs_back():
    file = ROOT / 'model_zoo/iqpir_g_stage1.safetensors'
    net = build_network(checkpoint.read(file)['network_g']).eval()
    checkpoint.load_weights(net, file)
    found, used = [], [torch.zeros(n, dtype=torch.bool) for n in net.book_sizes]
    for photo in PHOTOS[:4]:
        image = to_tensor(read_image(photo))[None, :, 40:232, 40:232]
        with torch.no_grad():
            quantized = net.coded(net.latent(image))
            found.append(float(calculate_psnr(net.render(quantized.z).clamp(0, 1), image)))
        for book, code in zip(used, quantized.codes.unbind(1)):
            book[code.flatten()] = True
    assert sum(found) / 4 > 26
    assert min(float(book.float().mean()) for book in used) > 0.5


def test_the_restorer_that_ships_follows_its_knobs():
    file = ROOT / 'model_zoo/iqpir_g.safetensors'
    net = build_network(checkpoint.read(file)['network_g']).eval()
    checkpoint.load_weights(net, file)
    assert sum(p.numel() for p in net.parameters()) == 2_164_350
    images = torch.stack([to_tensor(read_image(photo))[:, 40:168, 40:168] for photo in PHOTOS[:4]])
    hazy = 0.4 * images + 0.6 * torch.tensor([0.8, 0.82, 0.85]).view(3, 1, 1)

    def restored(score, w):
        net.score, net.w = score, w
        with torch.no_grad():
            return net(hazy).clamp(0, 1)

    spread = [restored(score, 1.0).std((2, 3)).mean() for score in (0.05, 0.5, 0.95)]
    assert hazy.std((2, 3)).mean() < spread[0] < spread[1] < spread[2]
    assert (restored(0.95, 0.0) - restored(0.95, 1.0)).abs().mean() > 1e-3
