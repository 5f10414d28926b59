"""tools/evaluate.py: numbers, names that match and do not, bad images, and files that are never overwritten."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml

from basicsr.evaluation import Measurement
from basicsr.image_io import read_image, to_tensor, write_image
from basicsr.lmdb_make import create
from basicsr.protocols import named
from basicsr.tools import evaluate

from .runs import ROOT
from .test_protocols import NAMES

SIZES = {'a': (41, 58), 'b': (48, 40), 'c': (44, 44)}


def picture(number, height, width):
    y, x = np.mgrid[:height, :width] / 40
    return np.stack([np.sin(x * k + number) * np.cos(y + k) for k in (1, 2, 3)], axis=2) * 0.4 + 0.5


@pytest.fixture
def folders(tmp_path):
    """Clean, degraded and restored images of the same names."""
    for number, (name, size) in enumerate(SIZES.items()):
        clean, rng = picture(number, *size), np.random.default_rng(number)
        write_image(tmp_path / f'gt/{name}.png', clean)
        write_image(tmp_path / f'lq/{name}.png', 0.6 * clean)
        write_image(tmp_path / f'out/{name}.png', clean + 0.03 * rng.standard_normal(clean.shape))
    return tmp_path


def run(folder, *arguments, inputs=('out',), gt=('gt',), protocol='lol'):
    """Runs the command in ``folder``; returns its exit code."""
    words = ['-i', *(str(folder / i) for i in inputs), '-o', str(folder / 'results/x'), '--num_worker', '0']
    words += ['-gt', *(str(folder / g) for g in gt)] if gt else []
    words += ['--protocol', protocol] if protocol else []
    return evaluate.main([*words, *map(str, arguments)])


def read(folder, name='out'):
    with (folder / f'results/x/{name}.csv').open(encoding='utf-8', newline='') as file:
        return json.loads((folder / f'results/x/{name}.json').read_text(encoding='utf-8')), list(csv.DictReader(file))


def tensor(path):
    return to_tensor(read_image(path)).unsqueeze(0)


def test_scores_are_those_of_the_protocol(folders, capsys):
    assert run(folders, '-lq', folders / 'lq') == 0
    record, rows = read(folders)
    measurement = Measurement(named('lol'))
    for row in rows:
        restored, clean, degraded = (tensor(folders / f'{f}/{row["key"]}.png') for f in ('out', 'gt', 'lq'))
        assert {k: float(row[k]) for k in ('psnr', 'ssim')} == measurement.scores(restored, clean)
        assert {k: float(row[f'input_{k}']) for k in ('psnr', 'ssim')} == measurement.scores(degraded, clean)
    assert list(rows[0]) == ['key', 'task', 'psnr', 'ssim', 'input_psnr', 'input_ssim', 'height', 'width']
    assert [(r['key'], int(r['height']), int(r['width'])) for r in rows] == [(k, *s) for k, s in SIZES.items()]
    assert record['metrics']['psnr'] == pytest.approx(sum(float(r['psnr']) for r in rows) / 3)
    assert record['protocol_digest'] == named('lol').digest
    assert record['folders']['restored'] == str(folders / 'out')
    assert record['not_scored'] == record['unmatched'] == {}
    shown = capsys.readouterr().out
    for word in (
        f'{record["metrics"]["psnr"]:.4f}',
        f'{float(rows[0]["psnr"]):.4f}',
        'protocol lol',
        '3 images: not a',
    ):
        assert word in shown


def test_older_results_are_kept(folders, capsys):
    assert run(folders) == 0
    before = (folders / 'results/x/out.json').read_bytes()
    assert run(folders, protocol='derain-y') == 0
    (kept,) = (folders / 'results').glob('x_archived_*')
    assert (kept / 'out.json').read_bytes() == before
    assert str(kept) in capsys.readouterr().out
    assert set(read(folders)[0]['metrics']) == {'psnr_y', 'ssim_y'}


def test_processes_give_the_rows_of_one(folders):
    (folders / 'out/b.png').write_bytes(b'no image')
    assert run(folders) == 1
    one = (folders / 'results/x/out.csv').read_bytes()
    assert run(folders, '--num_worker', '2') == 1
    assert (folders / 'results/x/out.csv').read_bytes() == one
    assert list(read(folders)[0]['not_scored']) == ['b']


def test_an_lmdb_gives_the_rows_of_its_folder(folders):
    assert run(folders) == 0
    one = read(folders)[1]
    for name in ('out', 'gt'):
        create(folders / name, folders / f'{name}.lmdb', None, workers=1)
    assert run(folders, inputs=['out.lmdb'], gt=['gt.lmdb']) == 0
    assert read(folders)[1] == one


def test_bad_images_are_named_after_the_others_were_scored(folders, capsys):
    (folders / 'out/a.png').write_bytes(b'no image')
    write_image(folders / 'out/c.png', picture(2, 44, 43))
    assert run(folders) == 1
    record, rows = read(folders)
    assert [r['key'] for r in rows] == ['b']
    assert record['images'] == 1
    assert 'a.png' in record['not_scored']['a']
    assert record['not_scored']['c'] == 'the restored image has 44 x 43 pixels, the clean one 44 x 44'
    error = capsys.readouterr().err
    assert '2 images could not be scored:' in error
    assert 'out: c: the restored image has 44 x 43' in error
    page = (folders / 'results/x/report.html').read_text()
    assert 'Not scored: c: the restored image has 44 x 43' in page
    assert '2 could not be scored' in page


def test_nothing_that_can_be_read_still_leaves_a_report(folders):
    for name in SIZES:
        (folders / f'out/{name}.png').write_bytes(b'no image')
    assert run(folders) == 1
    assert read(folders)[0]['metrics'] == {}
    assert len(read(folders)[0]['not_scored']) == 3


def test_names_without_a_partner_are_told_from_both_sides(folders, capsys):
    (folders / 'out/b.png').rename(folders / 'out/d.png')
    assert run(folders) == 1
    assert read(folders)[0]['unmatched'] == {
        'restored images without a clean one': ['d'],
        'clean images without a restored one': ['b'],
    }
    error = capsys.readouterr().err
    assert 'out: 1 restored images without a clean one: d' in error
    assert 'out: 1 clean images without a restored one: b' in error
    assert run(folders, '--partial') == 0
    assert read(folders)[0]['images'] == 2
    assert run(folders, '-lq', folders / 'gt', '--partial') == 0  # b has a degraded image, but no restored one
    assert read(folders)[0]['unmatched']['degraded images without a restored one'] == ['b']


def test_a_suffix_is_taken_off(folders, capsys):
    for name in SIZES:
        (folders / f'out/{name}.png').rename(folders / f'out/{name}_mine.png')
    assert run(folders) == 2
    assert '--suffix' in capsys.readouterr().err
    assert not (folders / 'results').exists()
    assert run(folders, '--suffix', '_mine') == 0
    assert [r['key'] for r in read(folders)[1]] == list(SIZES)
    (folders / 'out/a_mine.png').rename(folders / 'out/a.png')
    assert run(folders, '--suffix', '_mine') == 1
    assert read(folders)[0]['unmatched']["restored images without the suffix '_mine'"] == ['a']


def test_several_restored_images_share_a_clean_one(folders):
    rng = np.random.default_rng(7)
    for name, size in SIZES.items():
        (folders / f'out/{name}.png').unlink()
        for number in (1, 2):
            write_image(folders / f'out/{name}_{number}.png', rng.random((*size, 3)))
    assert run(folders) == 2
    assert run(folders, '--gt_by_prefix') == 0
    record, rows = read(folders)
    assert [r['key'] for r in rows] == ['a_1', 'a_2', 'b_1', 'b_2', 'c_1', 'c_2']
    found = Measurement(named('lol')).scores(tensor(folders / 'out/b_2.png'), tensor(folders / 'gt/b.png'))
    assert float(rows[3]['psnr']) == found['psnr']
    assert record['unmatched'] == {}


def test_no_reference_scores_need_no_clean_images(folders):
    assert run(folders, '--metrics', 'uciqe', gt=(), protocol=None) == 0
    record, rows = read(folders)
    assert record['higher_better'] == {'uciqe': True}
    assert float(rows[0]['uciqe']) == Measurement(named('uieb')).scores(*[tensor(folders / 'out/a.png')] * 2)['uciqe']


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (
            {'gt': ()},
            "This command (-gt, -lq) has no clean images, which metric 'psnr' (calculate_psnr) compares with.",
        ),
        ({'protocol': 'loll'}, "No protocol named 'loll'. Did you mean lol?"),
        ({'protocol': None}, 'Say how to score: --protocol NAME'),
        ({'gt': ('gt', 'gt')}, '-gt names 2 folders for 1 inputs'),
        ({'inputs': ('nowhere',)}, 'nowhere'),
        ({'more': ['--metrics', 'niqq']}, "No metric named 'calculate_niqq'"),
        ({'more': ['--metrics', '{psnr_y: {type: calculate_psnr, test_y_chanel: true}}']}, "Did you mean 'test_y_ch"),
        ({'more': ['--metrics', 'psnr']}, "protocol lol has a metric 'psnr' already"),
        ({'more': ['--num_worker', '-1']}, '--num_worker is -1'),
        ({'more': ['--device', 'cuda:77']}, '--device cuda:77 cannot be used'),
        ({'more': ['-o', '{folder}/out']}, 'holds the input'),
        ({'more': ['-o', '{folder}']}, 'holds the input'),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_written(folders, capsys, words, message):
    before = sorted(folders.rglob('*'))
    more = [w.replace('{folder}', str(folders)) for w in words.get('more', [])]
    assert run(folders, *more, **{k: v for k, v in words.items() if k != 'more'}) == 2
    error = capsys.readouterr().err
    assert message in error
    assert 'Traceback' not in error
    assert sorted(folders.rglob('*')) == before


def test_own_metrics_and_a_protocol_from_a_file(folders, capsys):
    block = {'name': 'mine', 'crop_multiple': 8, 'metrics': {'psnr': {'type': 'calculate_psnr'}}}
    (folders / 'mine.yml').write_text(yaml.safe_dump(block))
    own = '{psnr_y: {type: calculate_psnr, test_y_channel: true}}'
    assert run(folders, '--metrics', own, protocol=str(folders / 'mine.yml')) == 0
    record, rows = read(folders)
    assert record['protocol_parts']['name'] == 'mine + psnr_y'
    assert (rows[0]['height'], rows[0]['width']) == ('40', '56')
    (folders / 'mine.yml').write_text(yaml.safe_dump({**block, 'crop_multiple': 'x'}))
    assert run(folders, protocol=str(folders / 'mine.yml')) == 2
    assert "mine.yml:1: 'crop_multiple' is 'x'" in capsys.readouterr().err


def test_images_may_be_cut_already_but_not_otherwise(folders, capsys):
    """derain-rgb cuts 41 x 58 to 32 x 48, rows 4 to 36 and columns 5 to 53."""
    assert run(folders, protocol='derain-rgb') == 0
    whole = read(folders)[1]
    image = read_image(folders / 'out/a.png')
    write_image(folders / 'out/a.png', image[4:36, 5:53])
    assert run(folders, protocol='derain-rgb') == 0
    assert read(folders)[1] == whole
    write_image(folders / 'out/a.png', image[:40, :50])  # would be cut to 32 x 48 as well, but of other pixels
    assert run(folders, protocol='derain-rgb') == 1
    assert '40 x 50 pixels' in read(folders)[0]['not_scored']['a']


def test_several_inputs_are_rows_of_a_table(folders, capsys):
    assert run(folders, inputs=['out', 'lq'], gt=['gt']) == 0  # two methods on one set
    assert 'average' not in capsys.readouterr().out
    means = [read(folders, name)[0]['metrics']['psnr'] for name in ('out', 'lq')]
    (folders / 'gt').rename(folders / 'one_gt')
    for name in SIZES:
        write_image(folders / f'two_gt/{name}.png', read_image(folders / f'one_gt/{name}.png'))
    assert run(folders, inputs=['out', 'lq'], gt=['one_gt', 'two_gt']) == 0  # two sets
    row = next(line for line in capsys.readouterr().out.splitlines() if 'average' in line)
    assert f'{sum(means) / 2:.4f}' in row


def test_sets_of_the_same_name_are_told_apart(folders):
    (folders / 'm1').mkdir()
    (folders / 'out').rename(folders / 'm1/x')
    (folders / 'm2').mkdir()
    (folders / 'lq').rename(folders / 'm2/x')
    assert run(folders, inputs=['m1/x', 'm2/x']) == 0
    assert {p.name for p in (folders / 'results/x').glob('*.csv')} == {'m1_x.csv', 'm2_x.csv'}


def test_the_page_stands_alone_and_escapes_names(folders):
    evil = 'x"><img src=x onerror=alert(1)>'
    for kind in ('out', 'gt'):
        (folders / f'{kind}/a.png').rename(folders / f'{kind}/{evil}.png')
    assert run(folders, '-lq', folders / 'gt') == 0
    page = (folders / 'results/x/report.html').read_text(encoding='utf-8')
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert '@import' not in page
    assert 'url(' not in page
    assert '<img src=x' not in page
    assert page.count('data:image/webp;base64,') == 9  # three images, each as input, restored and clean
    assert '{{' not in page
    assert page.count('<table class="sortable">') == 1
    assert f'{read(folders)[0]["protocol_digest"]} (psnr' in page
    for note in named('lol').notes:
        assert note.partition(';')[0] in page


def test_the_protocols_are_listed_with_their_sources(capsys):
    assert evaluate.main(['--list']) == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        assert f'protocol {name} {named(name).digest} (' in shown
        assert all(line in shown for line in [*named(name).sources, *named(name).notes])


@pytest.mark.parametrize('start', [['tools/evaluate.py'], ['-m', 'basicsr.tools.evaluate']])
def test_it_starts_as_a_script_and_as_a_module(folders, start):
    words = ['-i', folders / 'out', '-gt', folders / 'gt', '--protocol', 'lol', '-o', folders / 'r', '--num_worker', 2]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, *start, *map(str, words)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folders / 'r/out.csv').is_file()
