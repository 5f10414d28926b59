"""The report's curves hold what was recorded."""

import math
from pathlib import Path

import pytest

from basicsr.report import write_report
from basicsr.report_figures import charts, shared_metric
from basicsr.report_images import Example, choose

from .test_report import Page, picture, save, train, val, write_history


def views(train_records, validations=None):
    return {v['label']: v for c in charts(train_records, validations or {}) for v in c['views']}


def test_curves_hold_the_recorded_values_with_gaps_where_they_are_not_finite():
    records = [
        train(i, losses={'l_pix': math.nan if i == 2 else 1.0 + i}, lr=[1e-3], images_per_s=4.0, data_share=0.25)
        for i in (1, 2, 3)
    ]
    found = views(records)
    assert found['l_pix']['lines'] == [
        {'name': 'l_pix', 'x': [1, 2, 3], 'y': [2.0, None, 4.0], 'base': None, 'style': 'main'}
    ]
    assert found['learning rate']['lines'][0]['y'] == [1e-3] * 3
    assert found['speed']['axis'] == 'speed (images/s)'
    assert found['wait for data']['lines'][0]['y'] == [25.0] * 3


def test_metric_curves_have_a_line_a_task_and_the_value_before():
    found = views([], {'val': [val(5, 18.0), val(10)]})
    lines = found['PSNR']['lines']
    assert [(line['name'], line['y'], line['base'], line['style']) for line in lines] == [
        ('all pictures', [18.0, 21.83], 15.27, 'main'),
        ('haze', [18.0, 21.83], 15.27, 'task'),
        ('rain', [18.0, 21.83], 15.27, 'task'),
    ]
    assert found['PSNR']['axis'] == 'PSNR (dB)'
    assert [line['name'] for line in found['SSIM']['lines']] == ['all pictures']  # no task has it


def test_long_curves_are_thinned_by_means_and_say_so():
    records = [train(i, losses={'l_pix': float(i % 4)}) for i in range(1, 3201)]
    (chart,) = charts(records, {})
    logged, smoothed = chart['views'][0]['lines']
    assert chart['note'] == 'One point is the mean of 4 log records.'
    assert logged['x'][:2] == [4, 8]
    assert len(logged['x']) == 800
    assert set(logged['y']) == set(smoothed['y']) == {1.5}


def test_a_signal_has_a_chart_of_its_own_with_the_iterations_that_gave_it():
    records = [train(i, signals={'gate': i / 10, **({'held_out': 0.5} if i % 2 else {})}) for i in (1, 2, 3)]
    assert [c['title'] for c in charts(records, {})] == ['Training', 'What the method did']
    found = views(records)
    assert found['gate']['lines'] == [
        {'name': 'gate', 'x': [1, 2, 3], 'y': [0.1, 0.2, 0.3], 'base': None, 'style': 'main'}
    ]
    assert (found['gate']['axis'], found['gate']['stack'], found['gate']['log']) == ('gate', False, False)
    assert (found['held_out']['lines'][0]['x'], found['held_out']['lines'][0]['y']) == ([1, 3], [0.5, 0.5])


def test_an_older_history_has_no_such_chart():
    assert [c['title'] for c in charts([train(1)], {})] == ['Training']


def test_a_distribution_is_drawn_as_shares_of_its_sum():
    rows = {1: [1.0, 3.0, math.nan], 2: [0.0, 0.0, 0.0], 3: [2.0, 2.0, 4.0], 4: [math.nan] * 3}
    view = views([train(i, signals={'levels': row}) for i, row in rows.items()])['levels']
    assert (view['axis'], view['unit'], view['stack']) == ('levels, share of each bin (%)', '%', True)
    assert [(line['name'], line['x'], line['y'], line['style']) for line in view['lines']] == [
        ('bin 0', [1, 3], [25.0, 25.0], 'bin'),
        ('bin 1', [1, 3], [75.0, 25.0], 'bin'),
        ('bin 2', [1, 3], [0.0, 50.0], 'bin'),
    ]


def test_a_vector_that_is_no_distribution_has_a_line_for_each_element():
    view = views([train(i, signals={'agree': [0.5 * i, -0.25, math.nan]}) for i in (1, 2)])['agree']
    assert not view['stack']
    assert [line['y'] for line in view['lines']] == [[0.5, 1.0], [-0.25, -0.25], [None, None]]


def test_a_signal_without_any_finite_value_is_not_drawn():
    assert set(views([train(1, signals={'a': math.nan, 'b': [math.nan], 'c': 1.0})])) == {'l_pix', 'c'}


def test_signals_are_thinned_element_by_element():
    rows = [train(i, signals={'s': float(i % 2), 'levels': [i % 2 or math.nan, 1.0]}) for i in range(1, 1601)]
    found = views(rows)
    assert set(found['s']['lines'][0]['y']) == {0.5}
    assert found['levels']['lines'][0]['y'] == [50.0] * 800  # the mean of what has a value: 1, beside 1


def test_smoothing_follows_an_exponential_fall_on_a_log_axis():
    records = [train(i, losses={'l_pix': math.exp(-i / 10)}) for i in range(1, 101)]
    view = views(records)['l_pix']
    assert view['log']
    assert view['axis'] == 'loss l_pix, log scale'
    logged, smoothed = (line['y'] for line in view['lines'])
    assert smoothed == pytest.approx(logged)


def test_a_loss_with_negative_values_keeps_a_linear_axis():
    assert not views([train(i, losses={'l_gan': -1.0 if i == 1 else 100.0}) for i in (1, 2)])['l_gan']['log']


def test_the_weakest_picture_is_looked_for_where_one_metric_was_measured(tmp_path):
    """A gain of -0.5 in NIQE is no smaller than one of 0.73 dB."""
    real = [{'key': 'photo', 'task': '', 'metrics': {'niqe': 5.5}, 'input_metrics': {'niqe': 5.0}}]
    records = {'a_real': val(1, images=real, higher_better={'niqe': False}, dataset='a_real'), 'val': val(1)}
    pictures = [(name, entry) for name, record in records.items() for entry in record['images']]
    pictures[3][1]['metrics'] = {'psnr': 16.0}
    examples = [Example(d, e['task'], e['key'], 1, (None, Path(), None), records[d], e) for d, e in pictures]
    assert examples[0].gain < examples[3].gain < examples[1].gain
    assert [e.key for e in choose(examples, 1)] == [examples[3].key]
    write_history(tmp_path, records.values())
    for what in ('lq', '1'):
        save(tmp_path / 'visualization/val', f'haze_bridge_{what}.png', picture(1))
    note = 'The one that gained least, haze_house10 (PSNR +0.73 dB), is not among them: it was not saved.'
    assert note in Page(write_report(tmp_path)).text
    assert shared_metric([{'metrics': {'niqe': 1.0}}, {'metrics': {'psnr': 1.0, 'ssim': 1.0}}]) == 'psnr'
    assert shared_metric([{'metrics': {'uciqe': 1.0}}, {'metrics': {'niqe': 1.0}}]) == 'niqe'
