"""tools/score_dataset.py: the same table after any interruption, with any number of processes, from any root."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from basicsr.errors import DataError, OptionError, QualIRError
from basicsr.image_io import write_image
from basicsr.iqa.scores import read_scores, read_stats
from basicsr.iqa.scoring import score_dataset
from basicsr.lmdb_make import create

from .runs import ROOT

PLUGIN = str(ROOT / 'tests/plugins/level_scorer.py')
TOOL = str(ROOT / 'tools/score_dataset.py')
BLOCK = {
    'type': 'Ensemble',
    'members': [{'type': 'Level', 'weight': 0.6}, {'type': 'Spread', 'weight': 0.4}],
    'normalize': 'minmax',
}


@pytest.fixture
def images(tmp_path):
    """22 images of two sizes, in two folders."""
    rng = np.random.default_rng(0)
    for i in range(22):
        size = (40, 56) if i % 3 else (32, 32)
        level = rng.uniform(0.2, 0.8)
        pixels = np.clip(rng.normal(level, rng.uniform(0.02, 0.2), (*size, 3)), 0, 1)
        write_image(tmp_path / 'images' / ('a' if i < 9 else 'b') / f'{i}.png', pixels.astype(np.float32))
    return tmp_path / 'images'


def score(images, out, block=BLOCK, **options):
    return score_dataset(images, block, out, imports=[PLUGIN], **{'device': 'cpu', 'workers': 1, 'batch': 2, **options})


def start(images, out, scorer, *more, launcher=()):
    command = [sys.executable, *launcher, TOOL, '-i', str(images), '--scorer', str(scorer), '-o', str(out)]
    command += ['--import', PLUGIN, '--device', 'cpu', '--batch', '2', *more]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_table_and_statistics_by_hand(images, tmp_path):
    done = score(images, tmp_path / 'x.csv', command='the command')
    assert (done.count, done.bad, done.resumed) == (22, {}, 0)
    lines = (tmp_path / 'x.csv').read_text().splitlines()
    assert lines[0] == 'imagename,level,spread,score'
    assert [line.split(',')[0] for line in lines[1:]] == [f'{"a" if i < 9 else "b"}/{i}' for i in range(22)]
    stats = read_stats(tmp_path / 'x.json')
    raw = np.array([[float(value) for value in line.split(',')[1:]] for line in lines[1:]])
    for column, name in ((0, 'level'), (1, 'spread')):
        assert stats[name]['min'] == pytest.approx(raw[:, column].min(), rel=1e-5)
        assert stats[name]['percentiles']['95'] == pytest.approx(np.percentile(raw[:, column], 95), rel=1e-5)
        assert stats[name]['count'] == 22
    level, spread = raw[:, 0], raw[:, 1]
    wanted = 0.6 * (level - level.min()) / (np.ptp(level) + 1e-6) + 0.4 * (spread.max() - spread) / (
        np.ptp(spread) + 1e-6
    )
    assert np.allclose(raw[:, 2], wanted, atol=1e-4)
    content = json.loads((tmp_path / 'x.json').read_text())
    assert content['command'] == 'the command'
    assert content['plan']['members'] == {'level': '1', 'spread': '1'}
    scores = read_scores(tmp_path / 'x.csv')
    assert next(iter(scores)) == 'a/0'
    assert scores['b/21'] == raw[-1, 2]
    assert read_scores(tmp_path / 'x.csv', 'level')['b/21'] == raw[-1, 0]


def test_a_killed_command_goes_on_and_ends_with_the_same_bytes(images, tmp_path, write):
    block = {**BLOCK, 'members': [{**BLOCK['members'][0], 'seconds': 0.1}, BLOCK['members'][1]]}
    scorer = write('slow.yml', block)
    score(images, tmp_path / 'whole.csv', block)
    process = start(images, tmp_path / 'x.csv', scorer, '--num_worker', '1')
    journal = tmp_path / 'x.csv.partial/rank0.jsonl'
    deadline = time.monotonic() + 100
    while not (journal.exists() and journal.read_bytes().count(b'\n') >= 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / 'x.csv').exists()
    with journal.open('ab') as file:
        file.write(b'[3,[["b/1')  # a line that a kill cut short
    with pytest.raises(DataError, match='batch was 2, is 3'):
        score(images, tmp_path / 'x.csv', str(scorer), batch=3)
    done = score(images, tmp_path / 'x.csv', str(scorer), workers=2)
    assert 16 <= done.resumed < 22
    assert (tmp_path / 'x.csv').read_bytes() == (tmp_path / 'whole.csv').read_bytes()
    assert not (tmp_path / 'x.csv.partial').exists()
    assert score(images, tmp_path / 'x.csv', str(scorer)).finished_before


def test_two_ranks_of_a_launch_give_the_same_table(images, tmp_path, write):
    score(images, tmp_path / 'one.csv')
    launcher = ('-m', 'torch.distributed.run', '--nproc_per_node', '2', '--standalone')
    process = start(images, tmp_path / 'x.csv', write('e.yml', BLOCK), launcher=launcher)
    output, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    assert output.count('22 images scored') == 1
    assert (tmp_path / 'x.csv').read_bytes() == (tmp_path / 'one.csv').read_bytes()


def test_an_lmdb_gives_the_table_of_its_folder(images, tmp_path):
    create(images, tmp_path / 'x.lmdb')
    score(images, tmp_path / 'folder.csv')
    score(tmp_path / 'x.lmdb', tmp_path / 'lmdb.csv')
    assert (tmp_path / 'lmdb.csv').read_bytes() == (tmp_path / 'folder.csv').read_bytes()


def test_decoding_ahead_changes_nothing(images, tmp_path, monkeypatch):
    from basicsr.iqa import scoring

    score(images, tmp_path / 'plain.csv')
    monkeypatch.setattr(scoring._Launch, 'threads', lambda self, workers: 3)
    score(images, tmp_path / 'ahead.csv')
    assert (tmp_path / 'ahead.csv').read_bytes() == (tmp_path / 'plain.csv').read_bytes()


def test_images_that_cannot_be_scored_are_named_and_the_others_scored(images, tmp_path, write, capsys):
    (images / 'a/3.png').write_bytes((images / 'a/3.png').read_bytes()[:-60])
    (images / 'b/12.png').write_bytes(b'')
    write_image(images / 'b/tiny.png', np.zeros((8, 9, 3), np.float32))
    block = {**BLOCK, 'members': [BLOCK['members'][0], {**BLOCK['members'][1], 'smallest': 16}]}
    from tools.score_dataset import main

    arguments = ['-i', str(images), '--scorer', str(write('e.yml', block)), '-o', str(tmp_path / 'x.csv')]
    assert main([*arguments, '--import', PLUGIN, '--device', 'cpu', '--num_worker', '1', '--batch', '3']) == 1
    text = capsys.readouterr().out
    assert '20 images scored' in text
    assert '3 could not be scored' in text
    named = json.loads((tmp_path / 'x.json').read_text())['unreadable']
    assert list(named) == ['a/3', 'b/12', 'b/tiny']
    assert all(reason in text for reason in named.values())
    assert 'at least 16 x 16 pixels, got 8 x 9' in named['b/tiny']
    assert len(read_scores(tmp_path / 'x.csv')) == 20


def test_nothing_is_overwritten_unasked(images, tmp_path):
    out = tmp_path / 'x.csv'
    score(images, out)
    before = out.read_bytes()
    with pytest.raises(OptionError, match='other scorer'):
        score(images, out, {'type': 'Level'})
    (images / 'a/new.png').write_bytes((images / 'a/1.png').read_bytes())
    with pytest.raises(OptionError, match='images was 22, is 23'):
        score(images, out)
    assert out.read_bytes() == before
    assert score(images, out, {'type': 'Level'}, overwrite=True).count == 23
    assert out.read_text().startswith('imagename,level,score\n')
    out.unlink()
    with pytest.raises(OptionError, match=r"x\.json' is there already, without"):
        score(images, out)


def test_wrong_calls_are_refused(images, tmp_path):
    out = tmp_path / 'x.csv'
    with pytest.raises(OptionError, match="'score'"):
        score(images, out, {'type': 'Level', 'name': 'score'})
    with pytest.raises(OptionError, match='write cpu, cuda'):
        score(images, out, device='gpu')
    with pytest.raises(OptionError, match='--batch'):
        score(images, out, batch=0)
    with pytest.raises(OptionError, match='cannot both'):
        score(images, out, stats=out)
    for image in images.rglob('*.png'):
        image.write_bytes(b'')
    with pytest.raises(DataError, match='None of the 22 images'):
        score(images, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('imagename,niqe\na,1\n', "line 1: there is no column 'score'"),
        ('imagename,score\na,1\nb,\n', "line 3, column 'score': '' is not a finite number"),
        ('imagename,score\na,nan\n', "line 2, column 'score': 'nan'"),
        ('imagename,score\na.png,1\na.jpg,2\n', "line 3: the image 'a' is there twice"),
        ('imagename,score\na,1,2\n', 'line 2: 3 columns'),
        ('imagename,score\n', 'holds no score'),
    ],
)
def test_faults_of_a_table_are_named_by_line_and_column(tmp_path, text, message):
    (tmp_path / 'x.csv').write_text(text)
    with pytest.raises(DataError, match=message):
        read_scores(tmp_path / 'x.csv')


def test_published_tables_are_read(tmp_path):
    """IQPIR's table names files with their ending, and has columns of its own."""
    (tmp_path / 'x.csv').write_text('imagename,musiq_gfiqa,score\n00000.png,0.81,0.75\nd/v1.5.jpg,0.5,0.25\nv1.5,1,1\n')
    assert read_scores(tmp_path / 'x.csv') == {'00000': 0.75, 'd/v1.5': 0.25, 'v1.5': 1.0}


def test_faults_of_statistics_are_named(tmp_path):
    path = tmp_path / 'x.json'
    path.write_text(json.dumps({'members': {'niqe': {'min': 1, 'max': None, 'percentiles': {}}}}))
    with pytest.raises(DataError, match="member 'niqe': 'max' is None"):
        read_stats(path)
    path.write_text('{}')
    with pytest.raises(DataError, match='holds no statistics'):
        read_stats(path)
    with pytest.raises(DataError, match='cannot be read'):
        read_stats(tmp_path / 'none.json')


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems refuse such a name themselves')
def test_names_that_a_table_cannot_hold(images, tmp_path):
    os.rename(images / 'a/1.png', os.fsencode(images / 'a') + b'/\xff.png')
    with pytest.raises(DataError, match='is not a name in UTF-8'):
        score(images, tmp_path / 'x.csv')


def test_names_with_commas_and_quotes_come_back(images, tmp_path):
    (images / 'a/1.png').rename(images / 'a/1, "so".png')
    score(images, tmp_path / 'x.csv')
    assert 'a/1, "so"' in read_scores(tmp_path / 'x.csv')


def test_a_disk_that_cannot_be_written_ends_with_a_sentence_and_keeps_the_work(images, tmp_path):
    (tmp_path / 'x.json').mkdir()
    with pytest.raises(QualIRError, match=r"x\.csv' cannot be written: .*The same command goes on"):
        score(images, tmp_path / 'x.csv', overwrite=True)
    (tmp_path / 'x.json').rmdir()
    assert score(images, tmp_path / 'x.csv').resumed == 22


def test_threads_of_torch_are_as_before(images, tmp_path):
    before = torch.get_num_threads()
    score(images, tmp_path / 'x.csv')
    assert torch.get_num_threads() == before
