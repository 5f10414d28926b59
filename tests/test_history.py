"""The history file survives kills, resumes and numbers that JSON does not have."""

import json
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr.errors import DataError
from basicsr.history import History


def train(iteration, **more):
    return {'kind': 'train', 'iter': iteration, 'losses': {'l_pix': 0.5}, 'time': 1.0, **more}


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / 'run' / 'history.jsonl')


def test_a_record_is_on_disk_as_one_line_when_append_returns(history):
    history.append(train(100, lr=1e-3))
    history.append(train(200))
    lines = history.path.read_text(encoding='utf-8').splitlines()
    assert [json.loads(line)['iter'] for line in lines] == [100, 200]
    assert json.loads(lines[0]) == train(100, lr=1e-3)


def test_time_is_added_once(history):
    history.append({'kind': 'train', 'iter': 1})
    history.append({'kind': 'train', 'iter': 2, 'time': 5.0})
    first, second = History.read(history.path)
    assert first['time'] > 1.7e9
    assert second['time'] == 5.0


def test_numpy_scalars_become_plain_numbers(history):
    history.append(train(np.int64(3), lr=np.float32(0.25), n=np.float64('nan')))
    (record,) = History.read(history.path)
    assert record['iter'] == 3
    assert record['lr'] == 0.25
    assert math.isnan(record['n'])


def test_non_finite_numbers_survive_but_texts_of_that_name_stay_texts(history):
    images = [{'key': 'NaN', 'task': 'Infinity', 'metrics': {'psnr': math.inf}}]
    history.append({'kind': 'val', 'iter': 1, 'dataset': '-Infinity', 'metrics': {'psnr': -math.inf}, 'images': images})
    (record,) = History.read(history.path)
    assert record['metrics']['psnr'] == -math.inf
    assert record['images'] == images
    assert record['dataset'] == '-Infinity'
    strict = json.loads(history.path.read_text(encoding='utf-8'), parse_constant=pytest.fail)
    assert strict['metrics']['psnr'] == '-Infinity'


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.floats(), max_size=4))
def test_any_losses_come_back_bit_for_bit(losses):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'history.jsonl'
        History(path).append(train(1, losses=losses))
        (record,) = History.read(path)
    assert {k: repr(v) for k, v in record['losses'].items()} == {k: repr(v) for k, v in losses.items()}


def test_later_record_of_the_same_kind_iteration_and_dataset_wins(history):
    for dataset, value in (('a', 1.0), ('b', 2.0), ('a', 3.0)):
        history.append({'kind': 'val', 'iter': 5, 'dataset': dataset, 'metrics': {'psnr': value}})
    history.append(train(5))
    found = [(r['kind'], r.get('dataset'), r.get('metrics', {}).get('psnr')) for r in History.read(history.path)]
    assert found == [('val', 'b', 2.0), ('val', 'a', 3.0), ('train', None, None)]


@pytest.mark.parametrize('cut', [1, 5, 20])
def test_torn_last_line_is_passed_over_and_does_not_spoil_the_next(history, cut):
    history.append(train(1))
    history.append(train(2))
    whole = history.path.read_bytes()
    history.path.write_bytes(whole[:-cut])
    kept = [1] if cut > 1 else [1, 2]  # a cut of one byte takes the line's end only
    assert [r['iter'] for r in History.read(history.path)] == kept
    History(history.path).append(train(3))
    assert [r['iter'] for r in History.read(history.path)] == [*kept, 3]


def test_zeros_that_a_power_cut_leaves_at_the_end_are_passed_over(history):
    history.append(train(1))
    with history.path.open('ab') as file:
        file.write(b'\0' * 40)
    assert [r['iter'] for r in History.read(history.path)] == [1]


@pytest.mark.parametrize('line', ['{"kind": "train"', '[1, 2]', '{"iter": 3}', '{"kind": "val", "iter": "x"}'])
def test_a_damaged_line_in_the_middle_is_named(history, line):
    history.append(train(1))
    with history.path.open('a') as file:
        file.write(f'{line}\n{json.dumps(train(2))}\n')
    with pytest.raises(DataError, match=r'history\.jsonl, line 2'):
        History.read(history.path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match='nowhere'):
        History.read(tmp_path / 'nowhere.jsonl')


def test_rewind_drops_what_came_after_and_leaves_nothing_else(history):
    for iteration in (100, 200, 300):
        history.append(train(iteration, losses={'l_pix': math.nan}))
    assert history.rewind(200) == 1
    assert [r['iter'] for r in History.read(history.path)] == [100, 200]
    assert math.isnan(History.read(history.path)[0]['losses']['l_pix'])
    assert os.listdir(history.path.parent) == ['history.jsonl']
    history.append(train(250))
    assert [r['iter'] for r in History.read(history.path)] == [100, 200, 250]


def test_rewind_without_a_file_does_nothing(history):
    assert history.rewind(10) == 0
    assert not history.path.exists()
