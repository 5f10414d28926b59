"""Bad input ends in one clear sentence and a true exit code, and nothing is lost."""

import os
import pickle
import resource
import signal

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from basicsr import checkpoint
from basicsr.errors import CheckpointError

from .runs import ROOT, run, spawn, state, write_options

EXIT_FAILED, EXIT_REFUSED = 1, 2


@pytest.fixture
def pairs(tmp_path):
    """Three pairs of images that can be read, and changes that train on them."""
    for side in ('gt', 'lq'):
        (tmp_path / side).mkdir()
        for i in range(3):
            image = np.random.default_rng(i).integers(0, 255, (24, 24, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / side / f'{i}.png'), image)
    train = {
        'type': 'PairedImageDataset', 'dataroot_gt': str(tmp_path / 'gt'), 'dataroot_lq': str(tmp_path / 'lq'),
        'gt_size': 16, 'batch_size_per_gpu': 3, 'num_worker_per_gpu': 1,
    }  # fmt: skip
    return tmp_path, {'datasets.train': train, 'train.total_iter': 2}


def fails(folder, changes, capsys, code, *words):
    assert run(folder, changes) == code
    error = capsys.readouterr().err
    assert 'Traceback' not in error
    for word in words:
        assert word in error, error


def test_readable_pairs_train(pairs):
    assert run(*pairs) == 0


@pytest.mark.parametrize('content', [b'', b'not an image', 'truncated'])
def test_an_unreadable_image_is_named(pairs, capsys, content):
    folder, changes = pairs
    path = folder / 'lq/1.png'
    path.write_bytes(path.read_bytes()[:700] if content == 'truncated' else content)
    fails(folder, changes, capsys, EXIT_REFUSED, '1.png', 'train')


def test_an_unreadable_image_is_skipped_and_counted_on_demand(pairs, capsys):
    folder, changes = pairs
    (folder / 'lq/1.png').write_bytes(b'')
    changes['datasets.train']['on_error'] = 'skip'
    assert run(folder, changes) == 0
    assert 'Skipped, 1 so far' in capsys.readouterr().err


def test_a_set_without_any_readable_image_is_not_skipped_for_ever(tmp_path, capsys):
    changes = {'datasets.train.broken': list(range(10)), 'datasets.train.on_error': 'skip'}
    fails(tmp_path, changes, capsys, EXIT_REFUSED, 'tiny_', 'train')


def test_unpaired_images_are_named(pairs, capsys):
    folder, changes = pairs
    (folder / 'lq/2.png').rename(folder / 'lq/other.png')
    fails(folder, changes, capsys, EXIT_REFUSED, '2', 'other')


def test_a_pair_of_two_sizes_is_named(pairs, capsys):
    folder, changes = pairs
    cv2.imwrite(str(folder / 'lq/0.png'), np.zeros((20, 24, 3), np.uint8))
    fails(folder, changes, capsys, EXIT_REFUSED, '0.png', '24', '20')


def test_a_set_smaller_than_a_batch_is_refused(tmp_path, capsys):
    fails(
        tmp_path, {'datasets.train.length': 3}, capsys, EXIT_REFUSED, '3 samples', 'batch of 4', 'dataset_enlarge_ratio'
    )


def test_enlarging_a_small_set_helps(tmp_path):
    assert (
        run(tmp_path, {'datasets.train.length': 3, 'datasets.train.dataset_enlarge_ratio': 2, 'train.total_iter': 2})
        == 0
    )


def test_a_checkpoint_of_another_network_names_keys_of_both_sides(tmp_path, capsys):
    path = tmp_path / 'other.pth'
    torch.save({'params': nn.Linear(3, 3).state_dict()}, path)
    fails(
        tmp_path,
        {'path.pretrain_network_g': str(path)},
        capsys,
        EXIT_FAILED,
        'other.pth',
        'body.0.weight',
        'weight, bias',
    )
    fails(tmp_path, {'path.pretrain_network_g': str(path), 'path.strict_load_g': False}, capsys, EXIT_FAILED, '0 of')


def test_weights_of_any_layout_load(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2))
    weights = net.state_dict()
    layouts = [
        weights, {'params': weights}, {'params_ema': weights, 'params': {}}, {'model': weights},
        {'state_dict': {f'net.{k}': v for k, v in weights.items()}},
        {'params': {f'module.{k}': v for k, v in weights.items()}},
    ]  # fmt: skip
    for layout in layouts:
        torch.save(layout, tmp_path / 'w.pth')
        other = nn.Sequential(nn.Linear(2, 2))
        assert '2 of 2' in checkpoint.load_network(other, tmp_path / 'w.pth')
        assert torch.equal(other[0].weight, net[0].weight)


def test_params_ema_is_preferred_and_params_can_be_asked_for(tmp_path):
    average, plain = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save({'params': plain.state_dict(), 'params_ema': average.state_dict()}, tmp_path / 'w.pth')
    net = nn.Linear(2, 2)
    assert "'params_ema'" in checkpoint.load_network(net, tmp_path / 'w.pth')
    assert torch.equal(net.weight, average.weight)
    checkpoint.load_network(net, tmp_path / 'w.pth', key='params')
    assert torch.equal(net.weight, plain.weight)
    with pytest.raises(CheckpointError, match='params_x'):
        checkpoint.load_network(net, tmp_path / 'w.pth', key='params_x')


class Evil:
    def __reduce__(self):
        return os.system, ('touch /tmp/qualir_evil_was_here',)


def test_pickled_code_is_refused_and_not_run(tmp_path, capsys):
    path = tmp_path / 'evil.pth'
    torch.save({'params': Evil()}, path)
    marker = '/tmp/qualir_evil_was_here'
    fails(tmp_path, {'path.pretrain_network_g': str(path)}, capsys, EXIT_FAILED, 'evil.pth', 'pickled')
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    fails(tmp_path, {'path.pretrain_network_g': str(path)}, capsys, EXIT_FAILED, 'evil.pth')
    assert not os.path.exists(marker)


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04 half a file'])
def test_a_damaged_checkpoint_is_named(tmp_path, capsys, content):
    (tmp_path / 'w.pth').write_bytes(content)
    fails(tmp_path, {'path.pretrain_network_g': str(tmp_path / 'w.pth')}, capsys, EXIT_FAILED, 'w.pth')


def test_a_missing_checkpoint_is_named(tmp_path, capsys):
    fails(tmp_path, {'path.pretrain_network_g': 'nowhere.pth'}, capsys, EXIT_FAILED, 'nowhere.pth', 'does not exist')


def test_weights_are_no_state(tmp_path, capsys):
    assert run(tmp_path, {'train.total_iter': 1}) == 0
    weights = tmp_path / 'experiments/tiny/models/net_g_1.pth'
    fails(tmp_path, {'path.resume_state': str(weights)}, capsys, EXIT_REFUSED, 'no state file', 'pretrain_network_g')


def test_a_state_of_other_options_is_refused_in_one_sentence(tmp_path, capsys):
    assert run(tmp_path, {'train.total_iter': 2}) == 0
    assert run(tmp_path, {'network_g.width': 4}, '--auto_resume') == EXIT_FAILED
    error = capsys.readouterr().err
    assert 'does not fit these options' in error
    assert 'Traceback' not in error


def test_bad_input_leaves_an_older_run_where_it_is(tmp_path, capsys):
    assert run(tmp_path, {'train.total_iter': 2}) == 0
    fails(tmp_path, {'datasets.train.length': 3}, capsys, EXIT_REFUSED, '3 samples')
    fails(tmp_path, {'path.pretrain_network_g': 'nowhere.pth'}, capsys, EXIT_FAILED, 'nowhere.pth')
    assert [p.name for p in (tmp_path / 'experiments').iterdir() if p.is_dir()] == ['tiny']
    assert state(tmp_path, 2)['iter'] == 2


def test_a_disk_that_fills_while_saving_loses_nothing(tmp_path):
    changes = {'network_g.width': 64, 'train.total_iter': 6}
    assert run(tmp_path, changes) == 0
    longer = write_options(tmp_path, {**changes, 'train.total_iter': 12, 'train.scheduler.T_max': 12})

    def full_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = spawn(longer, '--auto_resume', preexec_fn=full_disk)
    _, error = process.communicate(timeout=120)
    assert process.returncode == EXIT_FAILED, error
    assert 'could not be written: File too large' in error
    assert 'Traceback' not in error
    folder = tmp_path / 'experiments/tiny'
    assert state(tmp_path, 6)['iter'] == 6
    assert not list(folder.rglob('*.tmp'))
    assert spawn(longer, '--auto_resume').wait(timeout=120) == 0
    assert state(tmp_path, 12)['iter'] == 12


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_goes_on(tmp_path):
    file = write_options(tmp_path, {'train.total_iter': 100000, 'train.scheduler.T_max': 100000})
    first = spawn(file)
    while 'iter:     1' not in first.stderr.readline():
        assert first.poll() is None
    second = spawn(file)
    _, error = second.communicate(timeout=60)
    assert second.returncode == EXIT_REFUSED
    assert 'Another run is training in' in error
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 143


def test_a_loss_that_stays_non_finite_ends_the_run(tmp_path, capsys):
    fails(
        tmp_path,
        {'datasets.train.explode_from': 0, 'train.max_nonfinite': 3},
        capsys,
        EXIT_FAILED,
        'not finite 4 times',
    )


def test_a_single_non_finite_batch_changes_nothing_for_the_worse(tmp_path):
    changes = {'datasets.train.explode_from': 9, 'datasets.train.batch_size_per_gpu': 2, 'network_g.dropout': 0.0}
    assert run(tmp_path, changes) == 0
    assert all(torch.isfinite(v).all() for v in state(tmp_path, 12)['model'].values() if v.is_floating_point())


def test_a_fused_optimiser_skips_a_non_finite_batch_on_the_device(tmp_path):
    optimiser = {'type': 'AdamW', 'lr': 1e-3, 'fused': True}
    changes = {'datasets.train.explode_from': 9, 'datasets.train.batch_size_per_gpu': 2, 'train.optim_g': optimiser}
    assert run(tmp_path, changes) == 0
    saved = state(tmp_path, 12)
    assert all(torch.isfinite(v).all() for v in saved['model'].values() if v.is_floating_point())
    steps = {int(s['step']) for s in saved['optimizers']['g']['state'].values()}
    assert len(steps) == 1
    assert 0 < steps.pop() < 12  # the skipped iterations were not counted


def test_a_crash_is_no_success(tmp_path):
    """An error that is nobody's input still ends with a code other than 0, and with its traceback."""
    process = spawn(write_options(tmp_path, {'train.optim_g': {'type': 'SparseAdam', 'lr': 1e-3}}))
    _, error = process.communicate(timeout=60)
    assert process.returncode == EXIT_FAILED
    assert 'Traceback' in error or 'Error:' in error


def test_gpus_that_are_not_there(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    fails(tmp_path, {'num_gpu': 2}, capsys, EXIT_REFUSED, 'num_gpu: 2', 'auto')


def test_validation_without_clean_images_says_so(pairs, capsys):
    folder, changes = pairs
    changes['datasets.val'] = {
        'type': 'PairedImageDataset',
        'dataroot_gt': str(folder / 'nowhere'),
        'dataroot_lq': str(folder / 'lq'),
    }
    fails(folder, changes, capsys, EXIT_REFUSED, 'nowhere')


def test_a_crash_with_loader_processes_ends_the_process(tmp_path):
    """They ignore SIGTERM, since a signal to the whole group is the trainer's business; Python would wait for them."""
    plugin = tmp_path / 'crashing_arch.py'
    plugin.write_text(
        'from torch import nn\n'
        'from basicsr.registry import ARCH_REGISTRY\n'
        '@ARCH_REGISTRY.register()\n'
        'class CrashingNet(nn.Module):\n'
        '    def __init__(self):\n'
        '        super().__init__()\n'
        '        self.conv = nn.Conv2d(3, 3, 1)\n'
        '    def forward(self, x):\n'
        '        raise TypeError("a mistake in a plug-in")\n'
    )
    changes = {
        'network_g': {'type': 'CrashingNet'}, 'imports': [str(ROOT / 'tests/plugins/tiny.py'), str(plugin)],
        'datasets.train.num_worker_per_gpu': 2,
    }  # fmt: skip
    process = spawn(write_options(tmp_path, changes))
    _, log = process.communicate(timeout=120)
    assert process.returncode == 1
    assert 'TypeError: a mistake in a plug-in' in log
