"""Where weight files are found, in which order, and what is said when they are not there."""

import pytest
import torch

from basicsr.errors import MissingWeightsError
from basicsr.weights import find_weights_file, weight_folders


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with nothing in it, and a torch hub folder inside."""
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.delenv('QUALIR_WEIGHTS', raising=False)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    return tmp_path


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'weights')
    return path


def test_order_of_the_folders(home, monkeypatch):
    hub = put(home / 'hub/checkpoints/a.pth')
    assert find_weights_file(['a.pth'], None, 'X') == hub
    own = put(home / 'home/.cache/qualir/weights/a.pth')
    assert find_weights_file(['a.pth'], None, 'X') == own
    monkeypatch.setenv('QUALIR_WEIGHTS', str(home / 'mine'))
    assert find_weights_file(['a.pth'], None, 'X') == own
    mine = put(home / 'mine/zoo/a.pth')
    assert find_weights_file(['a.pth'], None, 'X') == mine
    direct = put(home / 'mine/a.pth')
    assert find_weights_file(['a.pth'], None, 'X') == direct
    assert weight_folders()[0] == home / 'mine'


def test_the_first_name_is_preferred(home):
    folder = home / 'hub/pyiqa'
    second = put(folder / 'b.pth')
    assert find_weights_file(['a.pth', 'b.pth'], None, 'X') == second
    first = put(folder / 'a.pth')
    assert find_weights_file(['a.pth', 'b.pth'], None, 'X') == first


def test_a_given_path_is_a_file_or_a_folder(home):
    file = put(home / 'my/other_name.pth')
    assert find_weights_file(['a.pth'], str(file), 'X') == file
    inside = put(home / 'my/a.pth')
    assert find_weights_file(['a.pth'], str(home / 'my'), 'X') == inside


def test_a_missing_file_says_what_goes_where(home, monkeypatch):
    monkeypatch.setenv('QUALIR_WEIGHTS', str(home / 'mine'))
    with pytest.raises(MissingWeightsError) as caught:
        find_weights_file(['a.pth', 'b.pth'], None, 'LPIPS (alex), trunk', 'https://example.org/a.pth')
    text = str(caught.value)
    assert text.startswith('LPIPS (alex), trunk: the weight file a.pth or b.pth is not on this machine; put it into')
    assert f'put it into {home / "mine"} or give its path' in text
    assert 'a.pth comes from https://example.org/a.pth.' in text
    assert all(str(f) in text for f in weight_folders())


@pytest.mark.parametrize(('given', 'state'), [('nowhere.pth', 'no such file'), ('.', 'the folder holds no a.pth')])
def test_a_given_path_is_never_replaced(home, given, state):
    put(home / 'hub/checkpoints/a.pth')
    (home / 'empty').mkdir()
    path = home / 'empty' / given
    with pytest.raises(MissingWeightsError, match=f"X: weights were given as '{path}', but .*{state}"):
        find_weights_file(['a.pth'], str(path), 'X')
