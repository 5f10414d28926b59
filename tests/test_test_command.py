"""basicsr/test.py: what it writes, and that two unlike results can always be told apart."""

import csv
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock

from basicsr import checkpoint
from basicsr import test as command
from basicsr.archs import build_network
from basicsr.history import History
from basicsr.image_io import read_image, write_image
from basicsr.registry import import_plugins
from basicsr.results import digest_of_keys, git_state

from .runs import ROOT, differences, run, state

PLUGIN = str(ROOT / 'tests/plugins/pooling.py')
SIZES = {'a': (41, 58), 'b': (48, 40), 'c': (44, 44)}


def make_pairs(folder, sizes=SIZES):
    """Smooth photographs and darker, noisy ones of the same names."""
    for number, (name, (height, width)) in enumerate(sizes.items()):
        rng = np.random.default_rng(number)
        y, x = np.mgrid[:height, :width] / 40
        clean = np.stack([np.sin(x * k + number) * np.cos(y + k) for k in (1, 2, 3)], axis=2) * 0.4 + 0.5
        write_image(folder / f'gt/{name}.png', clean)
        write_image(folder / f'lq/{name}.png', 0.7 * clean + 0.05 * rng.standard_normal(clean.shape))
    return {'type': 'PairedImageDataset', 'dataroot_gt': str(folder / 'gt'), 'dataroot_lq': str(folder / 'lq')}


def make_weights(path, seed=0, entries=('params',), block=None, **more):
    """Weights of a small network that changes its input a little."""
    import_plugins([PLUGIN])
    torch.manual_seed(seed)
    net = build_network(block or {'type': 'PoolNet'})
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.05)
    torch.save({**{e: net.state_dict() for e in entries}, **more}, path)
    return path


def write_options(folder, changes=None, **val):
    options = {
        'name': 'pool',
        'num_gpu': 0,
        'imports': [PLUGIN],
        'datasets': {'test': {'name': 'pairs', 'task': 'dark', 'num_worker_per_gpu': 0, **make_pairs(folder)}},
        'network_g': {'type': 'PoolNet'},
        'path': {'pretrain_network_g': str(folder / 'w.pth')},
        'val': {'metrics': {'psnr': {'type': 'calculate_psnr'}, 'ssim': {'type': 'calculate_ssim'}}, **val},
        **(changes or {}),
    }
    file = folder / 'pool.yml'
    file.write_text(yaml.safe_dump(options, sort_keys=False))
    return file


def run_test(folder, changes=None, **val):
    """Runs the command; returns its exit code."""
    if not (folder / 'w.pth').exists():
        make_weights(folder / 'w.pth')
    return command.main(['-opt', str(write_options(folder, changes, **val)), '-o', str(folder / 'results')])


def read(folder, name='pairs', run='pool'):
    """Record and rows of a set."""
    place = folder / 'results' / run
    with (place / f'{name}.csv').open(encoding='utf-8', newline='') as file:
        return json.loads((place / f'{name}.json').read_text(encoding='utf-8')), list(csv.DictReader(file))


def scores(folder, **val):
    assert run_test(folder, **val) == 0
    record, _ = read(folder)
    return record['metrics'], record['protocol']


def test_rows_and_means_agree(tmp_path, capsys):
    assert run_test(tmp_path) == 0
    record, rows = read(tmp_path)
    assert list(rows[0]) == ['key', 'task', 'psnr', 'ssim', 'input_psnr', 'input_ssim', 'height', 'width', 'seconds']
    assert [(r['key'], int(r['height']), int(r['width'])) for r in rows] == [(k, *s) for k, s in SIZES.items()]
    for name in ('psnr', 'ssim'):
        assert sum(float(r[name]) for r in rows) / 3 == record['metrics'][name]
        assert sum(float(r[f'input_{name}']) for r in rows) / 3 == record['input_metrics'][name]
    assert record['per_task']['dark'] == {k: record[k] for k in ('metrics', 'input_metrics')} | {'n': 3}
    assert record['metrics']['psnr'] != record['input_metrics']['psnr']
    assert all(0 < float(r['seconds']) < 10 for r in rows)
    table = capsys.readouterr().out
    for word in ('pairs', 'dark', f'{record["metrics"]["psnr"]:.4f}', 'whole images'):
        assert word in table


def test_scores_are_those_of_the_saved_images(tmp_path):
    assert run_test(tmp_path, save_img=True) == 0
    _, rows = read(tmp_path)
    for row in rows:
        saved = read_image(tmp_path / f'results/pool/pairs/{row["key"]}.png')
        clean = read_image(tmp_path / f'gt/{row["key"]}.png')
        mse = np.mean((255 * saved.astype(np.float64) - 255 * clean) ** 2)
        assert float(row['psnr']) == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-4)


def test_a_suffix_goes_behind_the_names_of_saved_images(tmp_path):
    assert run_test(tmp_path, save_img=True, suffix='mine') == 0
    saved = {p.relative_to(tmp_path / 'results/pool/pairs').as_posix() for p in tmp_path.glob('results/**/*.png')}
    assert saved == {'a_mine.png', 'b_mine.png', 'c_mine.png'}


def test_the_record_says_what_the_scores_rest_on(tmp_path):
    make_weights(tmp_path / 'w.pth', entries=('params', 'params_ema'), iter=7)
    assert run_test(tmp_path) == 0
    record, _ = read(tmp_path)
    assert record['checkpoint'] == {
        'file': str(tmp_path / 'w.pth'), 'entry': 'params_ema', 'prefixes': [], 'matched': 2, 'tensors': 2, 'fresh': 0,
        'iteration': 7, 'sha256': hashlib.sha256((tmp_path / 'w.pth').read_bytes()).hexdigest(),
    }  # fmt: skip
    assert record['images'] == 3
    assert record['network'] == {'type': 'PoolNet'}
    assert set(record['versions']) == {'qualir', 'torch', 'python', 'cv2', 'numpy'}
    assert record['machine'] == {**record['machine'], 'type': 'cpu', 'processes': 1, 'threads': torch.get_num_threads()}
    assert record['options']['datasets']['test']['dataroot_gt'] == str(tmp_path / 'gt')
    default = {
        'crop_border': 0, 'test_y_channel': False, 'y_rounding': False, 'gt_mean': False, 'quantize': True,
    }  # fmt: skip
    assert record['protocol_parts'] == {
        'name': '',
        'metrics': {k: {'type': f'calculate_{k}', **default} for k in ('psnr', 'ssim')},
        'crop_multiple': 1, 'size': None, 'images': 'whole images', 'self_ensemble': False, 'tlc': None,
        'precision': 'fp32',
    }  # fmt: skip
    words = 'psnr: calculate_psnr, RGB, no crop; ssim: calculate_ssim, RGB, no crop; 8-bit rounding'
    assert record['protocol'] == f'protocol {record["protocol_digest"]} ({words}); whole images'


@pytest.mark.parametrize(
    ('val', 'words'),
    [
        ({'metrics': {'psnr': {'type': 'calculate_psnr', 'quantize': False}}}, 'no rounding'),
        ({'protocol': 'derain-rgb', 'metrics': {}}, 'cut to a multiple of 16 px'),
        ({'tile': 32, 'tile_overlap': 8}, 'tiles of 32 px, overlap 8 px'),
        ({'self_ensemble': True}, 'self-ensemble x8'),
        ({'tlc': 12}, 'TLC window 12 px'),
        ({'precision': 'bf16'}, 'bf16'),
        ({'metrics': {'psnr': {'type': 'calculate_psnr', 'test_y_channel': True}}}, 'Y channel'),
        ({'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}}, '4 px cropped'),
    ],
)
def test_what_changes_the_scores_is_in_the_protocol(tmp_path, val, words):
    plain, protocol = scores(tmp_path)
    changed, told = scores(tmp_path, **val)
    assert words in told
    assert words not in protocol
    assert changed['psnr'] != plain['psnr']
    assert changed['psnr'] == pytest.approx(plain['psnr'], abs=6)
    assert scores(tmp_path) == (plain, protocol)


def test_options_of_a_metric_are_told_and_it_sees_8_bit_images(tmp_path):
    level = {'type': 'calculate_off_level', 'gain': 2.0}
    found, told = scores(tmp_path, metrics={'off_level': level})
    assert 'off_level: calculate_off_level, gain 2.0;' in told
    assert found['off_level'] < 1e-3  # float32's own rounding; without levels it would be near 1


def test_the_digest_is_of_the_images_not_of_their_order(tmp_path):
    assert run_test(tmp_path) == 0
    first = read(tmp_path)[0]['keys_sha256']
    assert first == digest_of_keys(['c', 'b', 'a'])
    make_pairs(tmp_path, {'d': (40, 40)})
    assert run_test(tmp_path) == 0
    record, rows = read(tmp_path)
    assert record['images'] == len(rows) == 4
    assert record['keys_sha256'] != first


def test_older_results_are_kept(tmp_path, capsys):
    assert run_test(tmp_path, save_img=True) == 0
    before, image = read(tmp_path)[0], (tmp_path / 'results/pool/pairs/a.png').read_bytes()
    make_weights(tmp_path / 'w.pth', seed=1)
    assert run_test(tmp_path, save_img=True) == 0
    (archived,) = (tmp_path / 'results').glob('pool_archived_*')
    assert archived.name in capsys.readouterr().err
    assert json.loads((archived / 'pairs.json').read_text()) == before
    assert (archived / 'pairs/a.png').read_bytes() == image
    after = read(tmp_path)[0]
    assert after['checkpoint']['sha256'] != before['checkpoint']['sha256']
    assert after['metrics'] != before['metrics']


@pytest.mark.parametrize(
    ('changes', 'code', 'words'),
    [
        ({'network_g': {'type': 'PoolNet', 'kernel': 5}}, 1, "'conv.weight' is [3, 3, 3, 3] in the file"),
        ({'path': {}}, 2, 'path.pretrain_network_g'),
        ({'path': {'pretrain_network_g': 'nowhere.pth'}}, 1, 'nowhere.pth does not exist'),
        ({'val': {'tlc': 16, 'tilee': 32}}, 2, "Did you mean 'tile'?"),
        ({'val': {'tile': 0}}, 2, 'val.tile'),
        ({'val': {'precision': 'fp8'}}, 2, 'val.precision'),
        ({'datasets': {}}, 2, 'datasets.test'),
        ({'val': {'tile': 16, 'tile_overlap': 16}}, 2, 'overlap'),
    ],
)
def test_bad_input_is_refused_before_older_results_are_touched(tmp_path, capsys, changes, code, words):
    assert run_test(tmp_path) == 0
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / 'results').rglob('*'))
    capsys.readouterr()
    assert run_test(tmp_path, changes) == code
    error = capsys.readouterr().err
    assert words in error
    assert 'Traceback' not in error
    assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / 'results').rglob('*')) == before


def test_a_network_without_statistics_has_no_tlc(tmp_path, capsys):
    block = {'type': 'TinyNet'}
    import_plugins([str(ROOT / 'tests/plugins/tiny.py')])
    make_weights(tmp_path / 'w.pth', block=block)
    changes = {'network_g': block, 'imports': [str(ROOT / 'tests/plugins/tiny.py')], 'val': {'tlc': 16}}
    assert run_test(tmp_path, changes) == 2
    assert 'tlc: 16 cannot be used with TinyNet' in capsys.readouterr().err
    assert not (tmp_path / 'results').exists()


def test_two_sets_do_not_share_their_files(tmp_path, capsys):
    block = {'name': 'pairs', **make_pairs(tmp_path)}
    assert run_test(tmp_path, {'datasets': {'test_1': block, 'test_2': block}}) == 2
    assert 'both called pairs' in capsys.readouterr().err
    assert run_test(tmp_path, {'datasets': {'test_1': block, 'test_2': {**block, 'name': 'more'}}}) == 0
    assert read(tmp_path, 'pairs')[0]['metrics'] == read(tmp_path, 'more')[0]['metrics']


def test_a_set_is_measured_by_the_metrics_it_chooses(tmp_path, capsys):
    """Pairs by PSNR, photographs without clean images by a metric that needs none."""
    blocks = make_pairs(tmp_path)
    photographs = {'type': 'SingleImageDataset', 'dataroot_lq': blocks['dataroot_lq']}
    sets = {
        'test_pairs': {'name': 'pairs', 'metrics': ['psnr'], **blocks},
        'test_real': {'name': 'real', 'metrics': ['uciqe'], **photographs},
        'test_all': {'name': 'all', **blocks},
    }
    own = {'metrics': {'uciqe': {'type': 'calculate_uciqe'}}}
    assert run_test(tmp_path, {'datasets': sets}, protocol='lol', **own) == 0
    found = {name: read(tmp_path, name)[0] for name in ('pairs', 'real', 'all')}
    assert {k: list(r['metrics']) for k, r in found.items()} == {
        'pairs': ['psnr'], 'real': ['uciqe'], 'all': ['psnr', 'ssim', 'uciqe'],
    }  # fmt: skip
    assert found['pairs']['higher_better'] == {'psnr': True}
    assert found['real']['metrics']['uciqe'] == found['all']['metrics']['uciqe']
    assert 'protocol lol + uciqe, only psnr ' in found['pairs']['protocol']
    assert 'uciqe:' not in found['pairs']['protocol']
    assert 'protocol lol + uciqe ' in found['all']['protocol']
    assert len({r['protocol_digest'] for r in found.values()}) == 3
    table = capsys.readouterr().out
    assert 'No average: pairs and real were scored in unlike ways, by their metrics (psnr and uciqe)' in table
    assert 'average of the sets' not in table


def test_two_tests_do_not_write_into_one_folder(tmp_path, capsys):
    (tmp_path / 'results').mkdir()
    with FileLock(tmp_path / 'results/.pool.lock'):
        assert run_test(tmp_path) == 2
    assert 'Another test is writing' in capsys.readouterr().err
    assert run_test(tmp_path) == 0


def test_an_unreadable_image_ends_the_test_without_a_result(tmp_path, capsys):
    file = write_options(tmp_path)
    make_weights(tmp_path / 'w.pth')
    (tmp_path / 'lq/b.png').write_bytes(b'no image')
    assert command.main(['-opt', str(file), '-o', str(tmp_path / 'results')]) == 2
    assert 'b.png' in capsys.readouterr().err
    assert not list((tmp_path / 'results').rglob('*.json'))


def test_a_perfect_score_is_written_as_valid_json(tmp_path):
    options = yaml.safe_load(write_options(tmp_path).read_text())
    block = {**options['datasets']['test'], 'dataroot_lq': str(tmp_path / 'gt')}
    net = build_network({'type': 'PoolNet'})
    torch.save({k: torch.zeros_like(v) for k, v in net.state_dict().items()}, tmp_path / 'w.pth')
    assert run_test(tmp_path, {'datasets': {'test': block}}) == 0
    record = json.loads((tmp_path / 'results/pool/pairs.json').read_text(), parse_constant=pytest.fail)
    assert record['metrics']['psnr'] == 'Infinity'
    assert record['checkpoint']['entry'] is None
    assert float(read(tmp_path)[1][0]['psnr']) == float('inf')


def test_two_processes_give_the_rows_of_one(tmp_path):
    assert run_test(tmp_path) == 0
    one = read(tmp_path)
    words = [
        sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=0',
        '--rdzv-backend=c10d', '--rdzv-endpoint=localhost:0', str(ROOT / 'basicsr/test.py'),
        '-opt', str(tmp_path / 'pool.yml'), '-o', str(tmp_path / 'results'), '--launcher', 'pytorch',
    ]  # fmt: skip
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=180, check=False, env={**os.environ, 'OMP_NUM_THREADS': '1'}
    )
    assert done.returncode == 0, done.stderr
    two = read(tmp_path)
    assert [{**r, 'seconds': ''} for r in two[1]] == [{**r, 'seconds': ''} for r in one[1]]
    assert two[0]['metrics'] == one[0]['metrics']
    assert two[0]['machine']['processes'] == 2
    assert len(list((tmp_path / 'results').glob('pool_archived_*'))) == 1


def test_training_goes_on_as_if_a_local_validation_had_not_been(tmp_path):
    """TLC, tiles and the rest change the validation's scores and nothing else of a run."""
    plain = {
        'imports': [PLUGIN, str(ROOT / 'tests/plugins/tiny.py')],
        'network_g': {'type': 'PoolNet'},
        'train.ema_decay': 0.0,  # so that the network which is validated is the one that trains
    }
    local = {'val.tlc': 8, 'val.tile': 12, 'val.tile_overlap': 4, 'val.self_ensemble': True, 'val.precision': 'bf16'}
    records = []
    for name, changes in (('plain', {}), ('local', local)):
        (tmp_path / name).mkdir()
        assert run(tmp_path / name, {**plain, **changes}) == 0
        history = History.read(tmp_path / name / 'experiments/tiny/history.jsonl')
        records.append([r for r in history if r['kind'] == 'val'])
    assert differences(state(tmp_path / 'plain', 12), state(tmp_path / 'local', 12)) == ['.best.val.psnr']
    assert all(a['metrics']['psnr'] != b['metrics']['psnr'] for a, b in zip(*records, strict=True))
    told = 'tiles of 12 px, overlap 4 px, self-ensemble x8, bf16, TLC window 8 px'
    assert all(told in r['protocol'] for r in records[1])


def test_training_refuses_what_its_validation_could_not_do(tmp_path, capsys):
    assert run(tmp_path, {'val.tlc': 16}) == 2
    assert 'TinyNet' in capsys.readouterr().err
    assert not (tmp_path / 'experiments').exists()


def test_the_commit_of_a_checkout_is_found_and_of_nothing_else(tmp_path):
    def git(*words):
        name = ['-c', 'user.name=a', '-c', 'user.email=a@b']
        subprocess.run(['git', '-C', str(tmp_path), *name, *words], check=True, capture_output=True)

    assert git_state(tmp_path) is None
    git('init')
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / 'inner').mkdir()
    (tmp_path / 'inner/file').write_text('1')
    git('add', '.')
    git('commit', '-m', 'first')
    clean = git_state(tmp_path)
    assert len(clean['commit']) == 40
    assert clean['changed'] is False
    (tmp_path / 'inner/file').write_text('2')
    assert git_state(tmp_path) == {**clean, 'changed': True}
    assert git_state(tmp_path / 'inner') is None


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert git_state(ROOT) is None


DISJOINT = ['0 of 2', 'Missing in the file: weight, bias.', 'Unknown to the network: x.weight, x.bias.']


@pytest.mark.parametrize(
    ('file', 'strict', 'words'),
    [
        ({'x.weight': (2, 2), 'x.bias': (2,)}, True, DISJOINT),
        ({'x.weight': (2, 2), 'x.bias': (2,)}, False, DISJOINT),
        ({'weight': (3, 3), 'bias': (3,)}, True, ['0 of 2', "'weight' is [3, 3] in the file and [2, 2] in the net"]),
        ({'weight': (3, 3), 'bias': (3,)}, False, ['0 of 2', "'weight' is [3, 3] in the file and [2, 2] in the net"]),
        ({'weight': (2, 2)}, True, ['1 of 2', 'Missing in the file: bias.']),
        (
            {'weight': (2, 2), 'bias': (2,), 'a': (1,), 'b': (1,), 'c': (1,), 'd': (1,)},
            True,
            ['2 of 2', 'Unknown to the network: a, b, c ...'],
        ),
    ],
)
def test_a_wrong_checkpoint_is_refused_with_the_keys_of_both_sides(tmp_path, file, strict, words):
    net = torch.nn.Linear(2, 2)
    before = net.weight.clone()
    torch.save({'params': {k: torch.ones(s) for k, s in file.items()}}, tmp_path / 'w.pth')
    with pytest.raises(checkpoint.CheckpointError) as caught:
        checkpoint.load_weights(net, tmp_path / 'w.pth', strict)
    for word in ["entry 'params'", *words]:
        assert word in str(caught.value)
    assert torch.equal(net.weight, before)


def test_what_was_loaded_is_told_as_data_and_in_words(tmp_path):
    net = torch.nn.Linear(2, 2)
    weights = {f'module.net.{k}': v for k, v in net.state_dict().items()}
    torch.save({'state_dict': weights, 'iter': 40}, tmp_path / 'w.pth')
    loaded = checkpoint.load_weights(net, tmp_path / 'w.pth')
    assert (loaded.entry, loaded.prefixes, loaded.iteration) == ('state_dict', ('module.', 'net.'), 40)
    words = f"{tmp_path / 'w.pth'}: entry 'state_dict', prefix 'module.' removed, prefix 'net.' removed"
    assert str(loaded) == checkpoint.load_network(net, tmp_path / 'w.pth') == f'{words}; 2 of 2 tensors loaded'
