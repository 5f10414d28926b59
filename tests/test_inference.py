"""Restoring photographs with a trained network."""

import cv2
import numpy as np
import pytest
import torch

from basicsr import inference
from basicsr.archs import build_network
from basicsr.image_io import read_image

BLOCK = {'type': 'NAFNet', 'width': 4, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}


@pytest.fixture
def weights(tmp_path):
    """A network that returns its input: the last convolution is zero."""
    net = build_network(BLOCK)
    torch.nn.init.zeros_(net.ending.weight)
    torch.nn.init.zeros_(net.ending.bias)
    torch.save({'params': net.state_dict(), 'network_g': BLOCK}, tmp_path / 'w.pth')
    return tmp_path / 'w.pth'


def photo(path, side=(21, 34)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(len(path.name)).integers(0, 256, (*side, 3), dtype=np.uint8))
    return path


def restore(weights, source, target, *more):
    return inference.main(['-m', str(weights), '-i', str(source), '-o', str(target), '--device', 'cpu', *more])


def test_a_folder_is_mirrored_and_an_identity_network_changes_nothing(tmp_path, weights):
    photos = [photo(tmp_path / 'in/a.png'), photo(tmp_path / 'in/sub/b.png', (16, 16))]
    assert restore(weights, tmp_path / 'in', tmp_path / 'out') == 0
    for source, target in zip(photos, (tmp_path / 'out/a.png', tmp_path / 'out/sub/b.png'), strict=True):
        assert np.array_equal(read_image(source), read_image(target))


def test_results_are_not_overwritten_unless_asked(tmp_path, weights, capsys):
    source = photo(tmp_path / 'a.png')
    assert restore(weights, source, tmp_path / 'out') == 0
    before = (tmp_path / 'out/a.png').stat().st_mtime_ns
    assert restore(weights, source, tmp_path / 'out') == 2
    assert '--overwrite' in capsys.readouterr().err
    assert (tmp_path / 'out/a.png').stat().st_mtime_ns == before
    assert restore(weights, source, tmp_path / 'out', '--overwrite') == 0


def test_one_bad_photograph_does_not_stop_the_others_but_the_code_tells(tmp_path, weights, capsys):
    photo(tmp_path / 'in/a.png')
    (tmp_path / 'in/b.png').write_bytes(b'no image')
    assert restore(weights, tmp_path / 'in', tmp_path / 'out') == 1
    assert 'b.png' in capsys.readouterr().err
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['a.png']


def test_two_inputs_never_share_a_result(tmp_path, weights, capsys):
    photo(tmp_path / 'in/a.png')
    photo(tmp_path / 'in/a.jpg')
    assert restore(weights, tmp_path / 'in', tmp_path / 'out') == 2
    assert 'rename' in capsys.readouterr().err


def test_weights_that_do_not_say_their_network_need_an_option_file(tmp_path, weights, capsys):
    torch.save({'params': torch.load(weights, weights_only=True)['params']}, tmp_path / 'bare.pth')
    source = photo(tmp_path / 'a.png')
    assert restore(tmp_path / 'bare.pth', source, tmp_path / 'out') == 2
    assert '-opt' in capsys.readouterr().err
