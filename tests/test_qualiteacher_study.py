"""The study of benchmarks/qualiteacher.py, in small, and what its figures count."""

import json

import numpy as np
import pytest
import torch

from basicsr import checkpoint
from basicsr.archs import build_network
from basicsr.errors import CheckpointError, DataError, OptionError
from basicsr.image_io import read_image, to_uint8, write_image
from basicsr.options import from_dict
from basicsr.yaml_io import read_document
from benchmarks import (
    qualiteacher,
    qualiteacher_data,
    qualiteacher_page,
    qualiteacher_pictures,
    qualiteacher_runs,
)
from benchmarks.qualiteacher_data import Task
from benchmarks.qualiteacher_page import Study
from benchmarks.qualiteacher_runs import PLAIN, VARIANTS, Run, variant_options
from benchmarks.qualiteacher_scores import HELD_OUT, TRAINED, Network, columns

from .runs import ROOT

SMALL = Task('Haze', 'real', 1, 'hazy', 'clean', 1)
PHOTOS = sorted((ROOT / 'datasets/sample/val').glob('*.jpg'))


def small_data(root):
    """Three photographs and a double of the first, and two pairs whose hazy side is paler."""
    for number, name in enumerate(('a', 'b', 'c', 'd')):
        image = read_image(PHOTOS[number % 3])[:150, :140]
        write_image(root / f'real/{name}.png', to_uint8(image))
    for number in (4, 5):
        image = read_image(PHOTOS[number])[:150, :140]
        write_image(root / f'clean/{number}.png', to_uint8(image))
        write_image(root / f'hazy/{number}_1.png', to_uint8(0.4 * image + 0.5))
    return root


def write_host(work, seed=0):
    """Untrained weights in the place of a pretrained network."""
    torch.manual_seed(seed)
    block = variant_options('haze', 'mean_teacher')['network_g']
    state = {'params_ema': build_network(block).state_dict(), 'network_g': block}
    file = qualiteacher_runs.host_folder(work, seed) / 'models/net_g_latest.pth'
    file.parent.mkdir(parents=True)
    checkpoint.save({**state, 'iter': qualiteacher_runs.HOST_ITERATIONS}, file)


# ---- photographs ---------------------------------------------------------------------------------------------------


def test_doubles_are_left_out_and_nothing_is_on_two_sides(tmp_path):
    lists, files = qualiteacher_data.split(SMALL, small_data(tmp_path))
    assert lists['left_out'] == ['real/d.png']
    assert lists['real'] == ['real/c.png']
    assert lists['adapt'] == ['real/a.png', 'real/b.png', 'hazy/4_1.png']
    assert lists['pairs'] == ['hazy/5_1.png']
    assert all(f.is_file() for f in files.values())


def test_all_pairs_are_tested_on_where_none_are_shared(tmp_path):
    task = Task('Haze', 'real', 2, 'hazy', 'clean')
    lists, _ = qualiteacher_data.split(task, small_data(tmp_path))
    assert lists['pairs'] == ['hazy/4_1.png', 'hazy/5_1.png']
    assert lists['adapt'] == ['real/a.png']


def test_a_pair_without_a_clean_side_is_named(tmp_path):
    small_data(tmp_path)
    (tmp_path / 'clean/5.png').unlink()
    with pytest.raises(DataError, match=r"hazy/5_1\.png' has no clean image"):
        qualiteacher_data.partners_of(SMALL, tmp_path)


def test_places_are_spread_out():
    assert sorted(qualiteacher_data.spread_out(9, 3)) == [2, 5, 8]
    assert len(qualiteacher_data.spread_out(26, 10)) == 10
    with pytest.raises(DataError, match='only 2'):
        qualiteacher_data.spread_out(2, 3)


def test_windows_do_not_overlap_and_stay_the_same():
    rows, columns_ = np.indices((300, 420))
    image = np.stack((rows % 256, columns_ % 256, (rows // 256) * 2 + columns_ // 256), axis=2).astype(np.uint8)
    windows = qualiteacher_data.windows_of(image, 'key')
    assert [w.shape for w in windows] == [(112, 112, 3)] * 3
    pixels = [{tuple(p) for p in w.reshape(-1, 3)} for w in windows]
    assert sum(map(len, pixels)) == len(set.union(*pixels)) == 3 * 112 * 112
    again = qualiteacher_data.windows_of(image, 'key')
    assert all((a == b).all() for a, b in zip(windows, again))
    with pytest.raises(DataError, match='does not fit'):
        qualiteacher_data.windows_of(image[:100], 'key')


def test_photographs_are_reduced_by_the_area_filter(tmp_path):
    write_image(tmp_path / 'x.png', np.tile(np.uint8([[[0] * 3, [200] * 3]]), (20, 384, 1)))
    small = qualiteacher_data.reduced(tmp_path / 'x.png')
    assert small.shape == (10, 384, 3)
    assert (small == 100).all()
    assert qualiteacher_data.reduced(tmp_path / 'x.png', 2000).shape == (20, 768, 3)


# ---- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('variant', [v for v in VARIANTS if v != 'pretrained'])
def test_every_variant_has_valid_options(variant):
    options = from_dict({'name': 'x', **variant_options('low_light', variant, 250)})
    assert options.train.total_iter == 250
    degradations = options.datasets['train'].block['paired']['degradations']
    assert [d['type'] for d in degradations] == ['LowLight']
    assert (options.networks['g']['type'] == 'NAFNet') == (variant in PLAIN)


def test_an_ablation_changes_one_thing():
    def flat(value, path=()):
        if isinstance(value, dict):
            return {k: v for key, inner in value.items() for k, v in flat(inner, (*path, key)).items()}
        return {path: value}

    whole = flat(variant_options('haze', 'qualiteacher'))
    for variant, key in {'qt_one_view': 'views', 'qt_no_crop': 'crop_weight', 'qt_topk': 'bank_policy'}.items():
        other = flat(variant_options('haze', variant))
        changed = {p for p in whole | other if whole.get(p) != other.get(p)}
        assert changed == {('train', key)}
    without = variant_options('haze', 'qt_no_preference')
    assert without['train'].pop('preference_opt') is None
    rest = variant_options('haze', 'qualiteacher')
    del rest['train']['preference_opt']
    assert without == rest


def test_runs_begin_with_the_network_of_the_quickstart():
    quickstart = read_document(ROOT / qualiteacher_runs.HOST_OPTIONS).values['network_g']
    assert variant_options('haze', 'colabator')['network_g'] == quickstart
    assert variant_options('haze', 'qualiteacher')['network_g']['host'] == quickstart


def test_what_is_trained_on_is_not_held_out():
    trained = {m['type'] for m in read_document(qualiteacher_runs.TRAINED_ON).values['members']}
    assert set(HELD_OUT) == set(qualiteacher_data.TASKS)
    assert not trained & {n for names in HELD_OUT.values() for n in names}


# ---- the whole, in small -------------------------------------------------------------------------------------------


def test_a_small_study(tmp_path, monkeypatch):
    monkeypatch.setitem(qualiteacher_data.TASKS, 'haze', SMALL)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.delenv('QUALIR_WEIGHTS', raising=False)
    data, work, results = small_data(tmp_path / 'data'), tmp_path / 'work', tmp_path / 'results'
    write_host(work)
    common = ['--data', str(data), '--work', str(work), '--results', str(results)]
    chosen = ['--tasks', 'haze', '--seeds', '0']
    variants = ['--variants', 'pretrained', 'qualiteacher']
    assert qualiteacher.main(['run', '--all', *chosen, *variants, '--iterations', '2', *common]) == 0
    found = json.loads((results / 'haze_qualiteacher_seed0.json').read_text())
    assert found['iterations'] == 2
    assert len(found['real']['niqe']) == len(found['pairs']['psnr']) == 1
    assert found['signals'][-1]['iter'] == 2
    before = (results / 'haze_qualiteacher_seed0.json').stat().st_mtime_ns
    assert qualiteacher.main(['run', '--all', *chosen, *variants, '--iterations', '2', *common]) == 0
    assert (results / 'haze_qualiteacher_seed0.json').stat().st_mtime_ns == before
    assert qualiteacher.main(['sweep', *chosen, *common]) == 0
    swept = json.loads((results / 'sweep_haze_qualiteacher_seed0.json').read_text())
    assert len(swept['levels']) == len(set(swept['levels'])) == len(swept['scores']['1'])
    page = tmp_path / 'page.md'
    page.write_text(qualiteacher.PAGE.read_text())
    assert qualiteacher.main(['table', '--page', str(page), '--results', str(results)]) == 0
    text = page.read_text()
    assert '| **QualiTeacher** | ' in text
    assert '| haze | real, hazy | 3 | 1 | 1 | 1 |' in text
    longer = Run('haze', 'qualiteacher', 0, work, 3)
    qualiteacher_runs.train(longer, qualiteacher_data.photos_of('haze', data, work))
    assert checkpoint.read(longer.weights)['iter'] == 3
    assert len(list(work.glob('haze_qualiteacher_seed0_archived*'))) == 1  # other options: begun anew


def test_a_run_without_a_pretrained_network_says_how_to_get_one(tmp_path):
    with pytest.raises(CheckpointError, match=r'qualiteacher\.py pretrain --seeds 3'):
        qualiteacher_runs.host_weights(tmp_path, 3)


def test_a_run_that_another_process_works_on_is_left_to_it(tmp_path, capsys):
    one = Run('haze', 'mean_teacher', 0, tmp_path)
    lock = one.claimed()
    assert one.claimed() is None
    assert qualiteacher._each([one], lambda run: tmp_path / 'x.json', lambda run, file: pytest.fail('was done')) == 0
    assert 'haze_mean_teacher_seed0' in capsys.readouterr().out
    lock.release()


def test_a_failed_run_does_not_stop_the_others(tmp_path, capsys):
    runs = [Run('haze', v, 0, tmp_path) for v in ('mean_teacher', 'colabator')]
    done = []

    def work(run, file):
        if run.variant == 'mean_teacher':
            raise DataError('It broke.')
        done.append(run.variant)

    assert qualiteacher._each(runs, lambda run: tmp_path / f'{run.name}.json', work) == 1
    assert done == ['colabator']
    assert 'It broke.' in capsys.readouterr().err


def test_a_plain_network_has_no_knob(tmp_path):
    write_host(tmp_path)
    with pytest.raises(OptionError, match='NAFNet takes no quality score'):
        Network(qualiteacher_runs.host_weights(tmp_path, 0)).set(0.5)


# ---- figures -------------------------------------------------------------------------------------------------------

BETTER = {TRAINED: 1, 'niqe': -1, 'piqe': -1, 'psnr': 1, 'ssim': 1}


def reference():
    """Four pairs: NIQE prefers the clean side of all, PIQE of one."""
    return {
        'kind': 'reference', 'task': 'haze', 'photos': 'p', 'versions': {}, 'better': BETTER,
        'held_out': ['niqe', 'piqe'], 'names': {'real': ['a', 'b'], 'pairs': list('abcd')},
        'clean': {'niqe': [1, 1, 1, 1], 'piqe': [1, 9, 9, 9], TRAINED: [1, 1, 1, 1]},
        'pairs': {'niqe': [2, 2, 2, 2], 'piqe': [5] * 4, TRAINED: [0] * 4, 'psnr': [10] * 4, 'ssim': [0.5] * 4},
        'real': {'niqe': [4, 6], 'piqe': [1, 2], TRAINED: [0.2, 0.4]},
    }  # fmt: skip


def result(variant, seed, niqe, psnr=20.0):
    return {
        'kind': 'run', 'task': 'haze', 'variant': variant, 'seed': seed, 'photos': 'p', 'versions': {},
        'options': variant, 'iterations': 5, 'minutes': 1.0, 'code': 'abcdefgh', 'signals': [],
        'real': {'niqe': niqe, 'piqe': [1, 1], TRAINED: [0.5, 0.7]}, 'pairs': {'psnr': [psnr] * 4, 'ssim': [0.5] * 4},
    }  # fmt: skip


def study():
    """QualiTeacher is better than the mean teacher by NIQE in the first of two seeds, by 0.5 on the mean of both."""
    runs = {
        ('haze', 'mean_teacher'): [result('mean_teacher', 0, [4, 4]), result('mean_teacher', 1, [4, 4])],
        ('haze', 'qualiteacher'): [result('qualiteacher', 0, [2, 3], 21), result('qualiteacher', 1, [3, 6], 20)],
    }
    return Study(runs, {'haze': reference()})


def test_judges_count_where_they_tell_clean_from_degraded():
    assert qualiteacher_page.clean_first(reference(), 'niqe') == 1
    assert qualiteacher_page.clean_first(reference(), 'piqe') == 0.25
    assert qualiteacher_page.telling(reference()) == ['niqe']
    assert '| haze (4) | 100 | 100 | 25 |' in qualiteacher_page.judges_table(study())


def test_tables_of_scores_and_differences():
    text = qualiteacher_page.scores_tables(study())
    assert '|  | PSNR ↑ | SSIM ↑ | trained on ↑ | NIQE ↓ | (PIQE ↓) | seeds |' in text
    assert '| degraded | 10.00 | 0.500 | 0.300 | 5.00 | 1.5 |  |' in text
    assert '| **QualiTeacher** | 20.50 ± 0.71 | 0.500 ± 0.000 | 0.600 ± 0.000 | 3.50 ± 1.41 | 1.0 ± 0.0 | 2 |' in text
    text = qualiteacher_page.differences_tables(study())
    assert '| **QualiTeacher** | +0.50 (1/2) | +0.000 (0/2) | +0.000 (0/2) | -0.50 (1/2) | +0.0 (0/2) |' in text
    assert 'mean teacher' not in text


def test_the_verdict_counts_telling_judges_only():
    text = qualiteacher_page.verdict_table(study())
    assert 'better on 1 of 1 held-out scores; trained on +0.000; PSNR +0.50 dB' in text


def test_shares_of_photographs_count_ties_half():
    first, other = result('qualiteacher', 0, [2, 4]), result('mean_teacher', 0, [4, 4])
    assert qualiteacher_page.share_above(first, other, 'niqe', -1) == 0.75
    assert qualiteacher_page.share_above(first, other, 'niqe', 1) == 0.25


def test_signals_are_averaged_over_the_last_lines():
    lines = [{'iter': i, 'student_wins': i / 10} for i in range(6)] + [{'iter': 7}]
    assert qualiteacher_page.last_signal({'signals': lines}, 'student_wins', 2) == pytest.approx(0.45)
    assert qualiteacher_page.last_signal({'signals': lines}, 'other') is None


def test_the_knob_is_judged_by_rank_and_direction():
    rows = [[{'niqe': 9 - i, TRAINED: i}, {'niqe': 5 + i, TRAINED: i}] for i in range(3)]
    scores = {'1': [columns(row) for row in rows]}
    sweep = {'better': BETTER, 'levels': [0.0, 0.5, 1.0], 'scores': scores, 'moved': {'1': [2.0, 4.0]}, 'seed': 0}
    sweep['psnr'] = [[20.0, 21.0], [0.0, 0.0], [19.0, 21.0]]
    assert qualiteacher_page.knob_correlation(sweep, '1', TRAINED) == (1, 1)
    assert qualiteacher_page.knob_correlation(sweep, '1', 'niqe') == (0, 0)  # one photograph rises, the other falls
    whole = study()
    whole.sweeps['haze', 'qualiteacher'] = [sweep]
    line = '| haze | **QualiTeacher** | 1 | 1.00 (1.00) | 0.00 (0.00) |  | 3.00 | 20.50 → 20.00 | 1 |'
    assert line in qualiteacher_page.knob_table(whole)
    assert 'below 0.8 by all 1' in qualiteacher_page.verdict_table(whole)


def test_results_of_unlike_runs_are_not_averaged(tmp_path):
    for name, value in {'r': reference(), 'a': result('mean_teacher', 0, [1, 1])}.items():
        (tmp_path / f'{name}.json').write_text(json.dumps(value))
    assert qualiteacher_page.read_study(tmp_path).variants('haze') == ['mean_teacher']
    longer = {**result('mean_teacher', 1, [1, 1]), 'iterations': 6}
    (tmp_path / 'b.json').write_text(json.dumps(longer))
    with pytest.raises(DataError, match="seeds differ in 'iterations'"):
        qualiteacher_page.read_study(tmp_path)
    (tmp_path / 'b.json').write_text(json.dumps({**result('mean_teacher', 1, [1, 1]), 'photos': 'q'}))
    with pytest.raises(DataError, match="results differ in 'photos'"):
        qualiteacher_page.read_study(tmp_path)


def test_without_results_the_table_says_how_to_make_some(tmp_path):
    with pytest.raises(DataError, match=r'qualiteacher\.py run --all'):
        qualiteacher_page.read_study(tmp_path)


# ---- pictures ------------------------------------------------------------------------------------------------------


def test_sheets_show_every_network(tmp_path, monkeypatch):
    for name in ('lemurs', 'sheep', 'aqueduct'):
        write_image(tmp_path / f'photos/{name}.png', to_uint8(read_image(ROOT / f'datasets/sample/val/{name}.jpg')))
    monkeypatch.setattr(qualiteacher_pictures, 'SAMPLE', tmp_path / 'photos')
    monkeypatch.setattr(qualiteacher_pictures, 'SIDE', 96)
    work = tmp_path / 'work'
    write_host(work)
    for variant in ('mean_teacher', 'colabator', 'qualiteacher', 'qt_bold'):
        block = variant_options('haze', variant)['network_g']
        file = Run('haze', variant, 0, work).weights
        file.parent.mkdir(parents=True)
        checkpoint.save({'params_ema': build_network(block).state_dict(), 'network_g': block, 'iter': 2}, file)
    qualiteacher_pictures.sample_sheet(tmp_path / 'sheet.jpg', 'haze', 0, work)
    tile = (qualiteacher_pictures.TILE * 3 // 4 + qualiteacher_pictures.EDGE, qualiteacher_pictures.TILE)
    assert read_image(tmp_path / 'sheet.jpg').shape == (2 * tile[0], 7 * tile[1], 3)
    qualiteacher_pictures.knob_strip(tmp_path / 'strip.jpg', ['haze'], 0, work)
    assert read_image(tmp_path / 'strip.jpg').shape == (tile[0], 6 * tile[1], 3)


def test_a_large_sheet_is_compressed_until_it_is_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    qualiteacher_pictures.write_sheet(tmp_path / 'x.jpg', [noise] * 4, 2)
    assert (tmp_path / 'x.jpg').stat().st_size < qualiteacher_pictures.LARGEST
    with pytest.raises(DataError, match='do not fill'):
        qualiteacher_pictures.write_sheet(tmp_path / 'y.jpg', [noise] * 3, 2)
