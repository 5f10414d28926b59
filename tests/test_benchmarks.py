"""benchmarks/run.py: its statistics and tables, what it refuses, and the whole command on tiny networks."""

import json
import re
import subprocess
import sys

import pytest

from benchmarks import _tables, run
from benchmarks._plan import BASICSR, FULL, OURS, PARTS, PUBLISHED, QUICK, inference_jobs, setting, training_jobs

from .runs import ROOT

SIZE = {'batch': 2, 'crop': 16, 'warm': 1, 'steps': 2, 'image': [20, 50]}
MACHINE = {'processor': 'a processor', 'cores': 2, 'gpu': None, 'system': 'Linux'}


def job(side, precision='fp32', kind='training', **more):
    return {'kind': kind, 'name': 'Net', 'side': side, 'precision': precision, 'channels_last': False,
            'compile': False, **SIZE, **more}  # fmt: skip


def result(rate, losses=(0.5, 0.25), peak=100.0):
    return {'images_per_s': rate, 'first_step_s': 9.0, 'peak_mb': peak, 'losses': list(losses)}


def training_rows():
    rows = [
        _tables.row_of(job(BASICSR), [result(2.0), result(4.0), result(3.0)], None),
        _tables.row_of(job(OURS), [result(9.0), result(4.5), result(4.0)], None),
        _tables.row_of(job(OURS, 'bf16'), [result(6.0, (0.5, 0.26))], None),
        _tables.row_of(job(PUBLISHED), [], 'no --peer was given'),
    ]
    _tables.compare('training', rows)
    return rows


def part(**more):
    return {'date': '2026-01-02', 'quick': False, 'threads': 2, 'rounds': 3, 'machine': MACHINE, 'peer_versions': None,
            'versions': {'torch': '2.9', 'python': '3.12'}, **more}  # fmt: skip


def results():
    limits = {
        'matmul_fp32': 50e9,
        'convolution_fp32': 100e9,
        'matmul_bf16': 80e9,
        'convolution_bf16': 400e9,
        'copy': 2e10,
    }
    networks = {'Net': {'parameters': 1234567, 'training_flop_per_image': 10e9}}
    return {'format': 1, 'parts': {
        'training': part(rows=training_rows(), sizes={'Net': SIZE}, networks=networks),
        'startup': part(rows=[
            {'what': 'start to first step', 'side': OURS, 'values': [1.0], 'median': 1.0, 'of_peer': 0.25},
            {'what': 'start to first step', 'side': BASICSR, 'reason': 'why'},
        ]),
        'loader': part(reason='no --photos was given'),
        'limits': part(median=limits, values={}),
    }}  # fmt: skip


def test_medians_and_ratios_to_basicsr():
    basicsr, ours, half, absent = training_rows()
    assert basicsr['median']['images_per_s'] == 3.0
    assert basicsr['values']['images_per_s'] == [2.0, 4.0, 3.0]
    assert ours['of_baseline'] == 1.5
    assert half['of_baseline'] == 2.0
    assert ours['loss_difference'] == 0
    assert half['loss_difference'] == pytest.approx(0.04)
    assert absent['reason'] == 'no --peer was given'
    assert 'of_baseline' not in absent


def test_only_fp32_losses_of_this_project_are_judged():
    rows = training_rows()
    assert _tables.curve_faults(rows) == []
    rows[1]['loss_difference'] = 2e-4
    assert len(_tables.curve_faults(rows)) == 1


def test_images_are_compared_with_the_published_network():
    found = [{'megapixels_per_s': 1.0, 'peak_mb': 1.0, 'sample': s} for s in ([0.5, 0.5], [0.5, 0.75])]
    rows = [_tables.row_of(job(s, kind='inference', tile=None), [f], None) for s, f in zip((PUBLISHED, OURS), found)]
    _tables.compare('inference', rows)
    assert rows[1]['image_difference'] == 0.25
    assert 'sample' not in rows[1]


def test_share_of_peak_is_of_the_same_machine():
    parts = results()['parts']
    ours = parts['training']['rows'][1]
    # 4.5 images/s x 10 GFLOP of the faster of both, 100 GFLOP/s
    assert _tables.share_of_peak(ours, 'training', parts['training'], parts['limits']) == pytest.approx(0.45)
    half = parts['training']['rows'][2]
    assert _tables.share_of_peak(half, 'training', parts['training'], parts['limits']) == pytest.approx(60 / 400)
    assert _tables.share_of_peak(ours, 'training', parts['training'], {**parts['limits'], 'threads': 1}) is None
    assert _tables.share_of_peak(ours, 'training', parts['training'], None) is None


def test_tables():
    text = _tables.markdown(results())
    assert f'| Net | {OURS} | fp32 | 4.5 (4 to 9) | 1.50 | 100 | 45% |' in text
    assert f'| Net | {PUBLISHED} | fp32 | not measured: no --peer was given |' in text
    assert f'| start to first step | {OURS} | 1.00 | 0.25 |' in text
    assert f'| start to first step | {BASICSR} | not measured: why |' in text
    assert 'Not measured: no --photos was given' in text
    assert '| convolution, bf16 | 400 GFLOP/s |' in text
    assert text.index('**Training step**') < text.index('**Loader**') < text.index('**Limits')
    for block in re.findall(r'(?:^\|.*\n?)+', text, re.M):  # every line of a table has as many cells as its head
        assert len({line.count('|') for line in block.splitlines()}) == 1, block


def test_page_keeps_its_words(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(f'before\n{_tables.BEGIN}\nold\n{_tables.END}\nafter\n')
    _tables.write_tables(results(), page)
    text = page.read_text()
    assert text.startswith('before\n')
    assert text.endswith('after\n')
    assert 'old' not in text
    page.write_text('no marks')
    with pytest.raises(SystemExit, match='has no lines'):
        _tables.write_tables(results(), page)


def test_page_of_the_documentation_has_the_marks():
    text = (ROOT / 'docs/benchmarks.md').read_text()
    assert text.index(_tables.BEGIN) < text.index(_tables.END)


@pytest.mark.parametrize('sizes', [FULL, QUICK])
def test_every_setting_is_measured_once_and_has_a_baseline(sizes):
    for jobs, part_name in ((training_jobs(sizes, gpu=True), 'training'), (inference_jobs(sizes), 'inference')):
        names = [(j['name'], j['side'], setting(j)) for j in jobs]
        assert len(set(names)) == len(names)
        for name in sizes:
            assert (name, *_tables.BASELINES[part_name]) in names


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--only', 'training,speed'], "no part 'speed'"),
        (['--rounds', '0'], '--rounds'),
        (['--quick'], '--out'),
        (['--photos', 'nowhere'], "'nowhere' is not there"),
        (['--peer', '/nowhere/python'], "--peer '/nowhere/python' cannot be started"),
    ],
)
def test_refuses_in_one_sentence(arguments, words, capsys):
    assert run.main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert words in said
    assert len(said.splitlines()) == 1


def test_an_environment_without_basicsr_is_refused(tmp_path, capsys):
    """This project's own environment has no BasicSR 1.4.2: its basicsr is this project."""
    assert run.main(['--peer', sys.executable, '--quick', '--out', str(tmp_path)]) == 2
    assert f"--peer '{sys.executable}'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_seconds_until_a_line():
    code = 'import time, sys; print("other"); time.sleep(0.3); print("now", flush=True); time.sleep(60)'
    assert 0.3 < run.seconds_until([sys.executable, '-c', code], 'now', {}) < 20
    assert run.seconds_until([sys.executable, '-c', ''], None, {}) < 20
    with pytest.raises(run.MeasurementError, match='never printed'):
        run.seconds_until([sys.executable, '-c', 'print("other")'], 'now', {})
    with pytest.raises(run.MeasurementError, match='broken'):
        run.seconds_until([sys.executable, '-c', 'raise SystemExit("broken")'], None, {})


def test_whole_command_without_a_peer(tmp_path, monkeypatch):
    """Tiny NAFNet alone; a part measured before stays, and what is missing has its reason."""
    (tmp_path / 'results').mkdir()
    file = tmp_path / 'results/benchmarks.json'
    file.write_text(json.dumps({'format': 1, 'parts': {'loader': part(reason='kept')}}))
    monkeypatch.setattr(run, 'QUICK', {'NAFNet': QUICK['NAFNet']})
    arguments = [
        '--quick',
        '--rounds',
        '1',
        '--threads',
        '1',
        '--out',
        str(tmp_path),
        '--only',
        'training,inference,limits',
    ]
    assert run.main(arguments) == 0
    parts = json.loads(file.read_text())['parts']
    assert list(parts) == ['loader', 'training', 'inference', 'limits']
    assert parts['loader']['reason'] == 'kept'
    for name in ('training', 'inference'):
        for row in parts[name]['rows']:
            if row['side'] == OURS:
                assert row['median']['peak_mb'] > 50
                assert row['median'][_tables.RATES[name]] > 0
            else:
                assert row['reason'] == 'no --peer was given'
    losses = next(r['losses'] for r in parts['training']['rows'] if r['side'] == OURS)
    assert len(losses) == 3
    assert len(set(losses)) == 3
    assert parts['limits']['median']['copy'] > 0
    assert '| NAFNet | this project | fp32 |' in (tmp_path / 'benchmarks.md').read_text()


def test_start_of_training_is_timed(tmp_path):
    command = [sys.executable, str(ROOT / 'benchmarks/run.py'), '--quick', '--rounds', '1', '--threads', '1',
               '--out', str(tmp_path), '--only', 'startup']  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / 'results/benchmarks.json').read_text())['parts']['startup']['rows']
    median = {row['what']: row['median'] for row in rows if row['side'] == OURS}
    assert min(median['import torch'], median['start to first step']) > 0.2  # one round: too few to compare them
    assert all(row['reason'] == 'no --peer was given' for row in rows if row['side'] == BASICSR)
    assert done.stdout.startswith('**Start**')


def test_every_part_can_be_measured_and_shown():
    assert set(run.MEASURES) == set(PARTS)
