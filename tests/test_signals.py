"""What a method tells beside its losses, and the hooks by which it knows where it is."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from basicsr.ema import Ema
from basicsr.errors import TrainingError
from basicsr.history import History
from basicsr.image_io import write_image
from basicsr.loss_log import LossLog, scalars_of

from .runs import ROOT, differences, run, spawn, state, write_options

SIGNALLING = {
    'imports': [str(ROOT / 'tests/plugins/tiny.py'), str(ROOT / 'tests/plugins/signalling.py')],
    'model_type': 'SignallingModel',
    'logger.print_freq': 4,
}
LAUNCHER = [
    '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=0', '--rdzv-backend=c10d',
    '--rdzv-endpoint=localhost:0',
]  # fmt: skip


class OneProcess:
    num_processes = 1


def records(folder):
    return [r for r in History.read(folder / 'experiments/tiny/history.jsonl') if r['kind'] == 'train']


def plain(signals):
    """NaN does not equal itself."""
    return json.loads(json.dumps(signals), parse_constant=str)


def test_a_value_that_is_nan_is_left_out_of_the_mean_of_its_window(tmp_path):
    assert run(tmp_path, SIGNALLING) == 0
    found = records(tmp_path)
    assert [r['iter'] for r in found] == [4, 8, 12]
    assert [set(r['losses']) for r in found] == [{'l_pix'}] * 3
    assert plain(found[0]['signals']) == {
        'always': 2.5, 'odd': 2.0, 'levels': [pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, rel=1e-6), 'NaN', 2.0],
    }  # fmt: skip
    assert [r['signals']['always'] for r in found] == [2.5, 6.5, 10.5]
    assert [r['signals']['odd'] for r in found] == [2.0, 6.0, 10.0]
    log = next((tmp_path / 'experiments/tiny').glob('*.log')).read_text()
    assert 'always: 2.5000e+00 odd: 2.0000e+00' in log
    assert 'levels' not in log


def test_a_window_without_a_value_has_no_signal(tmp_path):
    assert run(tmp_path, {**SIGNALLING, 'logger.print_freq': 1}) == 0
    assert [('odd' in r['signals']) for r in records(tmp_path)] == [True, False] * 6
    assert plain(records(tmp_path)[1]['signals']['levels']) == [0.5, 'NaN', 'NaN']


def test_batches_of_one_iteration_count_as_one_value_each(tmp_path):
    """Two batches an iteration: the mean is the same, not twice as much."""
    assert run(tmp_path, {**SIGNALLING, 'train.accum_iter': 2}) == 0
    assert [r['signals']['always'] for r in records(tmp_path)] == [2.5, 6.5, 10.5]
    assert state(tmp_path, 12)['extra']['seen'] == 24


def test_tensorboard_has_a_curve_for_each_signal_and_bin(tmp_path):
    loading = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    assert run(tmp_path, {**SIGNALLING, 'logger.use_tb_logger': True}) == 0
    events = loading.EventAccumulator(str(tmp_path / 'tb_logger/tiny'))
    events.Reload()
    names = {t for t in events.Tags()['scalars'] if t.startswith(('signals/', 'losses/'))}
    assert names == {'losses/l_pix', 'signals/always', 'signals/odd', 'signals/levels/0', 'signals/levels/2'}
    assert [(e.step, e.value) for e in events.Scalars('signals/levels/2')] == [(4, 2.0), (8, 6.0), (12, 10.0)]


def test_names_of_scalars():
    found = scalars_of({'l_pix': 0.5}, {'fill': 0.25, 'levels': [0.75, math.nan]})
    assert found == {'losses/l_pix': 0.5, 'signals/fill': 0.25, 'signals/levels/0': 0.75}


def test_losses_and_signals_of_two_processes_are_averaged_over_both(tmp_path):
    file = write_options(tmp_path, {**SIGNALLING, 'network_g.dropout': 0.0, 'datasets.train.batch_size_per_gpu': 2})
    process = spawn(file, '--launcher', 'pytorch', launcher=LAUNCHER)
    _, log = process.communicate(timeout=180)
    assert process.returncode == 0, log
    found = [r['signals'] for r in records(tmp_path)]
    assert [s['always'] for s in found] == [52.5, 56.5, 60.5]  # t on rank 0, t + 100 on rank 1
    assert [s['rank_1'] for s in found] == [2.5, 6.5, 10.5]
    assert [s['odd'] for s in found] == [2.0, 6.0, 10.0]
    saved = [state(tmp_path, i)['extra']['seen'] for i in (6, 12)]
    assert saved == [6 + 1006, 12 + 1012]  # both processes took part in extra_state()


def test_a_resumed_run_starts_with_the_iteration_after_the_last(tmp_path):
    changes = {**SIGNALLING, 'logger.keep_last': 0}
    assert run(tmp_path, changes) == 0
    straight, signals = state(tmp_path, 12), [plain(r['signals']) for r in records(tmp_path)]
    assert straight['extra'] == {'seen': 12, 'started': list(range(1, 13))}
    (tmp_path / 'experiments/tiny/training_states/12.state').unlink()
    assert run(tmp_path, changes, '--auto_resume') == 0
    resumed = state(tmp_path, 12)
    assert resumed['extra'] == {'seen': 12, 'started': list(range(7, 13))}
    assert differences(straight['model'], resumed['model']) == []
    again = [plain(r['signals']) for r in records(tmp_path)]
    assert [again[0], again[2]] == [signals[0], signals[2]]
    assert again[1]['always'] == 7.5  # the window of iterations 5 to 8 was cut by the stop: 7 and 8


def test_a_signal_of_two_dimensions_is_refused(tmp_path, capsys):
    assert run(tmp_path, {**SIGNALLING, 'train.matrix': True}) == 1
    assert "signal 'matrix' of shape (2, 3)" in capsys.readouterr().err


def test_a_vector_keeps_its_length():
    log = LossLog(OneProcess())
    log.add({'levels': torch.zeros(3)}, 1)
    with pytest.raises(TrainingError, match=r"'levels' of shape \(4,\), but \(3,\) before"):
        log.add({'levels': torch.zeros(4)}, 1)


def test_signals_are_summed_without_waiting_for_the_device(monkeypatch):
    """Whatever asks a tensor for its value goes through one of these."""
    log = LossLog(OneProcess())
    with monkeypatch.context() as patched:
        for name in ('item', 'tolist', '__bool__', '__float__', 'cpu'):
            patched.setattr(torch.Tensor, name, lambda *_: pytest.fail('the device is waited for'))
        for value in (1.0, math.nan, 4.0):
            log.add({'l_pix': torch.tensor(2.0), 'score': torch.tensor(value)}, 1)
            log.step()
    assert log.take() == ({'l_pix': 2.0}, {'score': 2.5})
    assert log.take() == ({}, {})


def test_an_infinite_signal_is_no_missing_one():
    log = LossLog(OneProcess())
    log.add({'score': torch.tensor(math.inf)}, 1)
    assert log.take()[1] == {'score': math.inf}


# --- the moving average -----------------------------------------------------------------------------------------------


def test_the_warm_up_of_the_average_is_that_of_semi_uir():
    """alpha = min(1 - 1 / (t + 1), 0.996): 1/2, 2/3, 3/4, ...; 0.996 from iteration 249 on."""
    average = Ema(nn.Linear(1, 1), 0.996, warmup=True)
    assert [average.decay_at(t) for t in (1, 2, 3)] == pytest.approx([1 / 2, 2 / 3, 3 / 4])
    assert average.decay_at(248) == pytest.approx(248 / 249)
    assert average.decay_at(248) < 0.996
    assert average.decay_at(249) == pytest.approx(0.996)
    assert average.decay_at(10**6) == 0.996
    assert Ema(nn.Linear(1, 1), 0.996).decay_at(1) == 0.996


def test_a_warming_average_is_the_mean_of_what_it_has_seen():
    """With decay 1 - 1/(t+1) the average after t steps is the mean of the start and the t networks."""
    net = nn.BatchNorm1d(1)
    net.weight.data.fill_(10.0)
    average = Ema(net, 0.75, warmup=True)
    for iteration, value in enumerate((4.0, 1.0, 3.0), start=1):
        net.weight.data.fill_(value)
        average.update(net, iteration)
    assert float(average.net.weight) == pytest.approx((10 + 4 + 1 + 3) / 4)
    net.weight.data.fill_(0.0)
    average.update(net, 4)  # 4/5 is above 0.75
    assert float(average.net.weight) == pytest.approx(0.75 * 4.5)


def test_a_resumed_average_goes_on_where_the_warm_up_was(tmp_path):
    changes = {'train.ema_decay': 0.996, 'train.ema_warmup': True, 'logger.keep_last': 0}
    assert run(tmp_path, changes) == 0
    straight = state(tmp_path, 12)
    (tmp_path / 'experiments/tiny/training_states/12.state').unlink()
    assert run(tmp_path, changes, '--auto_resume') == 0
    assert differences(straight, state(tmp_path, 12)) == []
    (tmp_path / 'plain').mkdir()
    assert run(tmp_path / 'plain', {**changes, 'train.ema_warmup': False}) == 0
    assert differences(straight['averages'], state(tmp_path / 'plain', 12)['averages']) != []


# --- metrics of a set -------------------------------------------------------------------------------------------------


def test_sets_of_unlike_metrics_are_validated_side_by_side(tmp_path):
    """The second set has no clean images, so it would be refused if PSNR were asked of it."""
    photographs = tmp_path / 'photographs'
    for number in range(2):
        write_image(photographs / f'{number}.png', np.random.default_rng(number).random((24, 24, 3)))
    metrics = {'psnr': {'type': 'calculate_psnr'}, 'uciqe': {'type': 'calculate_uciqe'}}
    changes = {
        'datasets.val.metrics': ['psnr'], 'val.metrics': metrics, 'val.report': True,
        'datasets.val_real': {
            'type': 'SingleImageDataset', 'dataroot_lq': str(photographs), 'num_worker_per_gpu': 0,
            'metrics': ['uciqe'],
        },
    }  # fmt: skip
    assert run(tmp_path, changes) == 0
    folder = tmp_path / 'experiments/tiny'
    found = [r for r in History.read(folder / 'history.jsonl') if r['kind'] == 'val']
    assert {(r['dataset'], *r['metrics'], *r['higher_better']) for r in found} == {
        ('val', 'psnr', 'psnr'), ('val_real', 'uciqe', 'uciqe'),
    }  # fmt: skip
    assert all('uciqe' not in r['protocol'] for r in found if r['dataset'] == 'val')
    best = {p.name for p in (folder / 'models').glob('*best*')}
    assert best == {'net_g_best_val_psnr.pth', 'net_g_best_val_real_uciqe.pth'}
    page = (folder / 'report.html').read_text(encoding='utf-8')
    assert '<h3>val_real</h3>' in page
    assert 'UCIQE <small>higher is better</small>' in page


def test_a_set_is_asked_for_what_it_lacks_unless_it_chooses(tmp_path, capsys):
    (tmp_path / 'photographs').mkdir()
    write_image(tmp_path / 'photographs/a.png', np.zeros((24, 24, 3)))
    block = {'type': 'SingleImageDataset', 'dataroot_lq': str(tmp_path / 'photographs'), 'num_worker_per_gpu': 0}
    assert run(tmp_path, {'datasets.val_real': block}) == 2
    assert "Data set 'val_real' has no clean images, which metric 'psnr'" in capsys.readouterr().err
