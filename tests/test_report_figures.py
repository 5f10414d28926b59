"""The report's curves hold what was recorded."""

import math

import pytest

from basicsr.report_figures import charts

from .test_report import train, val


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


def test_smoothing_follows_an_exponential_fall_on_a_log_axis():
    records = [train(i, losses={'l_pix': math.exp(-i / 10)}) for i in range(1, 101)]
    view = views(records)['l_pix']
    assert view['log']
    assert view['axis'] == 'loss l_pix, log scale'
    logged, smoothed = (line['y'] for line in view['lines'])
    assert smoothed == pytest.approx(logged)


def test_a_loss_with_negative_values_keeps_a_linear_axis():
    assert not views([train(i, losses={'l_gan': -1.0 if i == 1 else 100.0}) for i in (1, 2)])['l_gan']['log']
