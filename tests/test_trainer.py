"""What the trainer does for every method."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from basicsr import checkpoint
from basicsr.ema import Ema
from basicsr.history import History
from basicsr.optim import build_optimizer
from basicsr.sections import LoaderOptions

from .runs import ROOT, differences, run, spawn, state, write_options


def history(folder, kind='train', name='tiny'):
    return [r for r in History.read(Path(folder) / 'experiments' / name / 'history.jsonl') if r['kind'] == kind]


def test_two_processes_follow_the_loss_curve_of_one_with_the_doubled_batch(tmp_path):
    """BatchNorm and dropout see other batches on two processes, so the network here has neither: NAFNet."""
    network = {'type': 'NAFNet', 'width': 8, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}
    changes = {'network_g': network, 'datasets.train.length': 13, 'train.total_iter': 10, 'train.scheduler.T_max': 10}
    (tmp_path / 'one').mkdir()
    (tmp_path / 'two').mkdir()
    assert run(tmp_path / 'one', {**changes, 'datasets.train.batch_size_per_gpu': 4}) == 0
    file = write_options(tmp_path / 'two', {**changes, 'datasets.train.batch_size_per_gpu': 2})
    launcher = [
        '-m',
        'torch.distributed.run',
        '--nproc_per_node=2',
        '--master_port=0',
        '--rdzv-backend=c10d',
        '--rdzv-endpoint=localhost:0',
    ]
    process = spawn(file, '--launcher', 'pytorch', launcher=launcher)
    _, log = process.communicate(timeout=180)
    assert process.returncode == 0, log
    one, two = history(tmp_path / 'one'), history(tmp_path / 'two')
    assert [r['iter'] for r in two] == list(range(1, 11))
    for a, b in zip(one, two):
        assert b['losses']['l_pix'] == pytest.approx(a['losses']['l_pix'], rel=1e-4)
    assert two[0]['losses']['l_pix'] != two[-1]['losses']['l_pix']
    val_one, val_two = history(tmp_path / 'one', 'val')[-1], history(tmp_path / 'two', 'val')[-1]
    assert [i['key'] for i in val_two['images']] == [i['key'] for i in val_one['images']]  # order restored
    assert val_two['metrics']['psnr'] == pytest.approx(val_one['metrics']['psnr'], abs=0.02)


def test_accumulated_gradients_equal_one_large_batch(tmp_path):
    network = {'type': 'NAFNet', 'width': 8, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}
    curves = []
    for name, batch, accum in (('large', 4, 1), ('accumulated', 2, 2)):
        (tmp_path / name).mkdir()
        changes = {'network_g': network, 'datasets.train.batch_size_per_gpu': batch, 'train.accum_iter': accum}
        assert run(tmp_path / name, changes) == 0
        curves.append([r['losses']['l_pix'] for r in history(tmp_path / name)])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


def test_validation_is_of_the_final_iteration_and_runs_once(tmp_path):
    assert run(tmp_path) == 0
    assert [r['iter'] for r in history(tmp_path, 'val')] == [4, 8, 12]
    last = history(tmp_path, 'val')[-1]
    assert last['metrics']['psnr'] == pytest.approx(sum(i['metrics']['psnr'] for i in last['images']) / 5)
    assert last['per_task']['even']['n'] == 3
    assert last['per_task']['odd']['n'] == 2


def test_checkpoints_best_last_and_milestones(tmp_path):
    changes = {'logger.save_checkpoint_freq': 2, 'logger.keep_last': 2, 'logger.milestones': [4]}
    assert run(tmp_path, changes) == 0
    models = tmp_path / 'experiments/tiny/models'
    names = {p.name for p in models.iterdir()}
    assert names == {f'net_g_{n}.pth' for n in ('4', '10', '12', 'latest', 'best_val_psnr')}
    best = checkpoint.read(models / 'net_g_best_val_psnr.pth')
    assert best['psnr'] == max(r['metrics']['psnr'] for r in history(tmp_path, 'val'))
    latest = checkpoint.read(models / 'net_g_latest.pth')
    assert {'params', 'params_ema', 'network_g', 'options'} <= set(latest)
    assert latest['options']['train']['total_iter'] == 12


def test_learning_rate_follows_warm_up_and_schedule(tmp_path):
    assert run(tmp_path, {'train.warmup_iter': 4}) == 0
    rates = [r['lr'] for r in history(tmp_path)]
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.zeros(1)], 1e-3), T_max=12)
    expected = []
    for _ in range(12):
        expected.append(cosine.get_last_lr()[0])
        cosine.optimizer.step()
        cosine.step()
    assert rates[:3] == pytest.approx([1e-3 * i / 4 for i in (1, 2, 3)])
    assert rates[3:] == pytest.approx(expected[3:])


def test_the_seed_is_set_after_overrides(tmp_path):
    weights = []
    for name, seed in (('a', 1), ('b', 7), ('c', 7)):
        (tmp_path / name).mkdir()
        assert run(tmp_path / name, {'train.total_iter': 1}, '--force_yml', f'manual_seed={seed}') == 0
        weights.append(state(tmp_path / name, 1)['model'])
    assert differences(weights[0], weights[1]) != []
    assert differences(weights[1], weights[2]) == []


def test_two_players_own_two_optimisers(tmp_path):
    changes = {
        'imports': [str(ROOT / 'tests/plugins/tiny.py'), str(ROOT / 'tests/plugins/two_players.py')],
        'model_type': 'TinyGANModel', 'network_d': {'type': 'TinyJudge'}, 'train.optim_d': {'type': 'Adam', 'lr': 1e-3},
    }  # fmt: skip
    assert run(tmp_path, changes) == 0
    saved = state(tmp_path, 12)
    assert set(saved['optimizers']) == {'g', 'd'}
    assert set(history(tmp_path)[0]['losses']) == {'l_pix', 'l_gan', 'l_d'}
    assert set(history(tmp_path)[0]['signals']) == {'out_d_real'}
    models = tmp_path / 'experiments/tiny/models'
    assert (models / 'net_d_latest.pth').exists()
    six = checkpoint.read(tmp_path / 'experiments/tiny/training_states/6.state')
    moved = differences(six['model'], saved['model'])
    assert any('net_g' in m for m in moved)
    assert any('net_d' in m for m in moved)


def test_players_are_frozen_in_turn_and_the_generator_hears_the_discriminator(tmp_path):
    from basicsr import start
    from basicsr.data import build_dataset
    from basicsr.models import build_model
    from basicsr.options import load
    from basicsr.run_folder import RunFolder
    from basicsr.trainer import Trainer

    changes = {
        'imports': [str(ROOT / 'tests/plugins/tiny.py'), str(ROOT / 'tests/plugins/two_players.py')],
        'model_type': 'TinyGANModel', 'network_d': {'type': 'TinyJudge'}, 'train.optim_d': {'type': 'Adam', 'lr': 1e-3},
        'train.pixel_opt': {'type': 'L1Loss', 'loss_weight': 0.0},
    }  # fmt: skip
    options = load(write_options(tmp_path, changes))
    model = build_model(options)
    folder = RunFolder(tmp_path / 'run')
    folder.prepare(keep=False)
    datasets = {k: build_dataset(o) for k, o in options.datasets.items()}
    trainer = Trainer(options, model, datasets, start.make_accelerator(options), folder)
    before = [p.clone() for p in model.net_g.parameters()]
    assert trainer.run() == 0
    assert dict(model.seen) == {'g': False, 'd': False}  # the other one never trains along
    assert any(not torch.equal(a, b) for a, b in zip(before, model.net_g.parameters()))  # only l_gan can have moved it
    assert all(p.requires_grad for p in model.parameters())


def test_the_average_covers_buffers():
    net = nn.BatchNorm1d(2)
    ema = Ema(net, decay=0.75)
    net.running_mean.fill_(4.0)
    net.weight.data.fill_(3.0)
    net.num_batches_tracked.fill_(5)
    ema.update(net, 1)
    assert ema.net.running_mean.tolist() == [1.0, 1.0]
    assert ema.net.weight.tolist() == [1.5, 1.5]
    assert int(ema.net.num_batches_tracked) == 5


def test_clipping_bounds_the_step(tmp_path):
    moved = []
    for name, clip in (('free', False), ('clipped', True)):
        (tmp_path / name).mkdir()
        changes = {
            'train.optim_g': {'type': 'SGD', 'lr': 1.0}, 'train.total_iter': 1, 'train.use_grad_clip': clip,
            'train.grad_clip_norm': 1e-3, 'train.ema_decay': 0.0, 'train.scheduler': None,
        }  # fmt: skip
        assert run(tmp_path / name, changes) == 0
        assert run(tmp_path / name, {**changes, 'name': 'start', 'train.optim_g': {'type': 'SGD', 'lr': 0.0}}) == 0
        end, begin = state(tmp_path / name, 1)['model'], state(tmp_path / name, 1, 'start')['model']
        step = [end[k] - begin[k] for k in end if 'weight' in k or 'bias' in k]
        moved.append(float(torch.cat([s.flatten() for s in step]).norm()))
    assert moved[1] == pytest.approx(1e-3, rel=1e-3)
    assert moved[0] > 0.01


def test_progressive_training_crops_as_its_stages_say(tmp_path):
    changes = {
        'datasets.train.gt_sizes': [8, 16],
        'datasets.train.mini_batch_sizes': [4, 2],
        'datasets.train.iters': [6, 6],
    }
    assert run(tmp_path, changes) == 0
    records = history(tmp_path)
    assert len(records) == 12
    assert records[-1]['epoch'] == (6 * 4 + 5 * 2) // 10


def test_validation_counts_its_images_unless_told_not_to(tmp_path, monkeypatch):
    from basicsr.progress import TrainingProgress

    shown = []
    monkeypatch.setattr(TrainingProgress, 'phase', lambda self, text: shown.append(text))
    assert run(tmp_path, {'train.total_iter': 1}) == 0
    assert [t for t in shown if t and 'image' in t] == [f'validating, image {i} of 5' for i in range(1, 6)]
    shown.clear()
    assert run(tmp_path, {'train.total_iter': 1, 'val.pbar': False}) == 0
    assert not [t for t in shown if t and 'image' in t]


def test_an_older_run_is_kept(tmp_path):
    assert run(tmp_path, {'train.total_iter': 2}) == 0
    assert run(tmp_path, {'train.total_iter': 3}) == 0
    archived = list((tmp_path / 'experiments').glob('tiny_archived_*'))
    assert len(archived) == 1
    assert (archived[0] / 'models/net_g_2.pth').exists()
    assert (tmp_path / 'experiments/tiny/models/net_g_3.pth').exists()


def test_auto_resume_of_nothing_starts(tmp_path):
    assert run(tmp_path, {'train.total_iter': 2}, '--auto_resume') == 0


def test_history_has_no_double_records_after_a_resume(tmp_path):
    assert run(tmp_path, {'logger.keep_last': 0}) == 0
    (tmp_path / 'experiments/tiny/training_states/12.state').unlink()
    assert run(tmp_path, {}, '--auto_resume') == 0
    lines = (tmp_path / 'experiments/tiny/history.jsonl').read_text().splitlines()
    iterations = [r['iter'] for r in map(json.loads, lines) if r['kind'] == 'train']
    assert iterations == list(range(1, 13))


def test_tensorboard_files_are_written_when_asked(tmp_path):
    assert run(tmp_path, {'logger.use_tb_logger': True, 'train.total_iter': 2}) == 0
    assert list((tmp_path / 'tb_logger/tiny').glob('events*'))


def test_channels_last_and_plain_layout_train_alike(tmp_path):
    losses = []
    for layout in (True, False):
        (tmp_path / str(layout)).mkdir()
        assert run(tmp_path / str(layout), {'train.channels_last': layout, 'network_g.dropout': 0.0}) == 0
        losses.append([r['losses']['l_pix'] for r in history(tmp_path / str(layout))])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('c++') is None, reason='torch.compile needs a C++ compiler')
def test_a_compiled_network_trains_alike_and_keeps_its_keys(tmp_path):
    losses = []
    for compiled in (False, True):
        (tmp_path / str(compiled)).mkdir()
        changes = {'train.compile': compiled, 'network_g.dropout': 0.0}
        assert run(tmp_path / str(compiled), changes) == 0
        losses.append([r['losses']['l_pix'] for r in history(tmp_path / str(compiled))])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert set(state(tmp_path / 'True', 12)['model']) == set(state(tmp_path / 'False', 12)['model'])


def test_a_network_that_cannot_be_compiled_trains_as_it_is(tmp_path):
    """Here for want of a C++ compiler; a fresh cache, lest compiled code be found there."""
    file = write_options(tmp_path, {'train.compile': True, 'train.total_iter': 2, 'network_g.dropout': 0.0})
    environment = {
        **os.environ, 'PYTHONPATH': str(ROOT), 'PATH': str(tmp_path), 'CXX': 'no-such-compiler',
        'TORCHINDUCTOR_CACHE_DIR': str(tmp_path / 'cache'),
    }  # fmt: skip
    code = f'import sys; from basicsr import train; sys.exit(train.main(["-opt", r"{file}"]))'
    result = subprocess.run(
        [sys.executable, '-c', code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count('cannot be compiled here and is run as it is: ') == 1
    assert 'No working C++ compiler' in result.stderr
    assert len(history(tmp_path)) == 2


def test_training_does_not_import_the_compiler(tmp_path):
    """It would take longer than all the rest of the start; optimisers ask for it unless they are told not to."""
    file = write_options(tmp_path, {'train.total_iter': 2, 'val.report': False})
    code = (
        'import sys; from basicsr import train; code = train.main(["-opt", sys.argv[1]])\n'
        'print([m for m in ("torch._dynamo", "torch._inductor", "sympy", "matplotlib") if m in sys.modules], code)'
    )
    result = subprocess.run(
        [sys.executable, '-c', code, str(file)], env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.stdout.splitlines()[-1] == '[] 0', result.stdout + result.stderr


@pytest.mark.parametrize('name', ['Adam', 'AdamW', 'SGD', 'RMSprop'])
def test_optimisers_step_as_those_of_torch(name):
    results, heard = [], []
    for make in (getattr(torch.optim, name), lambda p, lr: build_optimizer({'type': name, 'lr': lr}, p)):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 5))
        optimizer = make([weight], lr=0.1)
        optimizer.register_step_post_hook(lambda *_: heard.append(name))
        for _ in range(3):
            optimizer.zero_grad()
            (weight**3).sum().backward()
            optimizer.step()
        results.append([weight.detach(), optimizer.state_dict()])
    assert torch.equal(results[0][0], results[1][0])
    assert heard == [name] * 6
    assert isinstance(optimizer, getattr(torch.optim, name))
    assert results[0][1]['state'].keys() == results[1][1]['state'].keys()
    assert not results[1][0].requires_grad


@pytest.mark.parametrize('method', ['spawn', 'forkserver'])
def test_loader_processes_may_be_started_in_any_way(tmp_path, method):
    """Python 3.14 starts them by forkserver: data set and plug-ins must travel."""
    file = write_options(tmp_path, {'datasets.train.num_worker_per_gpu': 1, 'train.total_iter': 2})
    code = (
        'import multiprocessing, sys; from basicsr import train\n'
        f'if __name__ == "__main__": multiprocessing.set_start_method("{method}"); '
        f'sys.exit(train.main(["-opt", r"{file}"]))'
    )
    (tmp_path / 'start.py').write_text(code)
    result = subprocess.run(
        [sys.executable, str(tmp_path / 'start.py')], env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(history(tmp_path)) == 2


@pytest.mark.parametrize(('seconds', 'warned'), [(0.02, True), (0.0, False)])
def test_waiting_for_data_is_recorded_and_advised_on_once(tmp_path, seconds, warned):
    changes = {'datasets.train.seconds': seconds, 'train.total_iter': 30, 'train.scheduler.T_max': 30}
    if not warned:  # steps so long that a busy machine does not make the data look slow beside them
        blocks = {'enc_blk_nums': [2], 'middle_blk_num': 2, 'dec_blk_nums': [2]}
        changes |= {'network_g': {'type': 'NAFNet', 'width': 16, **blocks}, 'logger.print_freq': 30}
    assert run(tmp_path, changes) == 0
    logs = ''.join(f.read_text() for f in (tmp_path / 'experiments/tiny').glob('*.log'))
    assert logs.count('of the time is spent waiting for data') == warned
    if warned:
        assert 'cache: ram or memmap' in logs
    shares = [r['data_share'] for r in history(tmp_path)]
    assert all(0 <= s <= 1 for s in shares)
    assert (shares[-1] > 0.5) == warned


def test_fp16_on_a_cpu_is_refused(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    assert run(tmp_path, {'train.mixed_precision': 'fp16'}) == 2
    assert 'fp16' in capsys.readouterr().err


def test_loader_options_have_the_names_of_basicsr():
    assert {'batch_size_per_gpu', 'num_worker_per_gpu', 'dataset_enlarge_ratio'} <= set(
        LoaderOptions.__dataclass_fields__
    )


def test_debug_runs_are_named_so(tmp_path):
    assert run(tmp_path, {'train.total_iter': 8}, '--debug') == 0
    assert (tmp_path / 'experiments/debug_tiny/models/net_g_8.pth').exists()
