"""Shards are written so that nothing half-finished counts, and a stop costs one of them at most."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from basicsr.errors import DataError, OptionError
from basicsr.shard_index import index_path, read_index, scan
from basicsr.shard_writer import create, verify
from basicsr.shards import MANIFEST, UNFINISHED, ShardReader
from tools import create_shards

from .runs import ROOT
from .shard_files import all_of, fill, pack_tar, png


def test_the_order_of_creation_can_be_shuffled(tmp_path):
    content = fill(tmp_path / 'in', [str(i) for i in range(30)])
    keys = []
    for seed in (None, 1, 1, 2):
        out = tmp_path / f'out{len(keys)}'
        create({'': [tmp_path / 'in']}, out, shuffle=seed)
        keys.append(list(ShardReader(out).keys))
        assert all_of(ShardReader(out)) == content
    assert keys[0] == [str(i) for i in range(30)]
    assert keys[1] == keys[2] != keys[3]


def test_shards_keep_to_the_size_and_a_large_image_gets_its_own(tmp_path):
    fill(tmp_path / 'in', [str(i) for i in range(10)])
    (tmp_path / 'in/5.png').write_bytes(png(5, 64))
    size = (tmp_path / 'in/0.png').stat().st_size
    create({'': [tmp_path / 'in']}, tmp_path / 'out', max_size=3 * size)
    assert ShardReader(tmp_path / 'out').parts == [3, 2, 1, 3, 1]


def command(*arguments):
    return [sys.executable, str(ROOT / 'tools/create_shards.py'), *map(str, arguments)]


def test_a_killed_creation_counts_as_nothing_and_is_gone_on_with(tmp_path):
    stems = [str(i) for i in range(800)]
    content = fill(tmp_path / 'in', stems)
    out = tmp_path / 'out'
    arguments = ('-o', out, '--max_count', 20, tmp_path / 'in')
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not index_path(out / 'shard-000003.tar').exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / MANIFEST).exists()
    assert (out / UNFINISHED).exists()
    with pytest.raises(DataError, match=r'not finished: run the same tools/create_shards.py command again'):
        ShardReader(out)
    finished = {f: f.stat().st_ino for f in out.glob('*.tar') if index_path(f).exists()}
    assert 3 <= len(finished) < 40
    assert create_shards.main([str(a) for a in arguments]) == 0
    assert {f: f.stat().st_ino for f in finished} == finished
    assert all_of(ShardReader(out)) == content
    assert not list(out.glob('.*.tmp'))
    create({'': [tmp_path / 'in']}, tmp_path / 'straight', max_count=20)
    for file in (tmp_path / 'straight').glob('shard*'):
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name


def test_creation_again_does_nothing_and_of_something_else_is_refused(tmp_path, capsys):
    fill(tmp_path / 'in', ['a', 'b'])
    arguments = [str(tmp_path / 'in'), '-o', str(tmp_path / 'out')]
    assert create_shards.main(arguments) == 0
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / 'out').iterdir() if f.name[0] != '.'}
    assert create_shards.main(arguments) == 0
    assert {f: f.stat().st_mtime_ns for f in before} == before
    capsys.readouterr()
    assert create_shards.main([*arguments, '--max_count', '1']) == 2
    assert 'holds shards of other images or other settings' in capsys.readouterr().err
    fill(tmp_path / 'in', ['c'])
    assert create_shards.main(arguments) == 2
    pack_tar(tmp_path / 'foreign/x.tar', [('a.png', png(1))])
    assert create_shards.main([arguments[0], '-o', str(tmp_path / 'foreign')]) == 2


def test_two_creations_at_once_are_refused(tmp_path):
    fill(tmp_path / 'in', ['a'])
    (tmp_path / 'out').mkdir()
    with (
        FileLock(tmp_path / 'out/.create.lock'),
        pytest.raises(OptionError, match='Another process is writing shards'),
    ):
        create({'': [tmp_path / 'in']}, tmp_path / 'out')


def test_a_damaged_image_stops_or_is_left_out(tmp_path, capsys):
    content = fill(tmp_path / 'gt', ['a', 'b', 'c'])
    fill(tmp_path / 'lq', ['a', 'b', 'c'])
    (tmp_path / 'lq/b.png').write_bytes(content['b'][:60])
    fields = ['--field', f'gt={tmp_path}/gt', '--field', f'lq={tmp_path}/lq']
    assert create_shards.main([*fields, '-o', str(tmp_path / 'stops')]) == 2
    assert 'lq/b.png' in capsys.readouterr().err
    assert not list((tmp_path / 'stops').glob('*.tar'))
    assert create_shards.main([*fields, '-o', str(tmp_path / 'out'), '--skip_damaged']) == 0
    assert 'Left out: ' in capsys.readouterr().out
    assert list(ShardReader(tmp_path / 'out', 'gt').keys) == ['a', 'c']
    manifest = json.loads((tmp_path / 'out' / MANIFEST).read_text())
    assert manifest['samples'] == 2
    assert 'b.png' in manifest['shards'][0]['skipped'][0]


def test_samples_that_lack_a_field_or_share_a_name_are_named(tmp_path):
    fill(tmp_path / 'gt', ['a', 'b'])
    fill(tmp_path / 'lq', ['a', 'z'])
    with pytest.raises(DataError, match=r"alone are: gt 'b' \(1\); lq 'z' \(1\)"):
        create({'gt': [tmp_path / 'gt'], 'lq': [tmp_path / 'lq']}, tmp_path / 'out')
    with pytest.raises(DataError, match="would be one sample, 'a'"):
        create({'': [tmp_path / 'gt', tmp_path / 'lq']}, tmp_path / 'out')


def test_a_full_disk_leaves_no_shard(tmp_path):
    fill(tmp_path / 'in', [str(i) for i in range(200)])
    limited = f'ulimit -f 20; exec {" ".join(command(tmp_path / "in", "-o", tmp_path / "out"))}'
    result = subprocess.run(['bash', '-c', limited], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert re.fullmatch(r"Error: .*out' cannot be written to: File too large\..*goes on.*\n", result.stderr), (
        result.stderr
    )
    assert not list((tmp_path / 'out').glob('*.tar'))


@pytest.mark.parametrize(
    'arguments',
    [
        ['in'], ['-o', 'out'], ['in', '-o', 'out', '--field', 'gt=in'], ['-o', 'out', '--field', 'gt'],
        ['in', '-o', 'out', '--max_size', '1T'], ['in', '-o', 'out', '--max_count', '0'], ['--verify', '-o', 'out'],
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_refused(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / 'in', ['a'])
    assert create_shards.main(arguments) == 2
    assert capsys.readouterr().err.startswith('Error: ')


def test_verify_and_index_from_the_command_line(tmp_path, capsys):
    tar = pack_tar(tmp_path / 'x.tar', [('a.png', png(1)), ('b.png', b'no image')])
    assert create_shards.main(['--index', str(tmp_path)]) == 0
    assert len(read_index(tar)) == 2
    assert create_shards.main(['--verify', str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert 'b.png' in out
    assert '1 problems' in out


def test_real_photographs_survive(tmp_path):
    data = os.environ.get('QUALIR_DATA')
    if not data:
        pytest.skip('QUALIR_DATA is not set: the folder of real photographs')
    roots = {'gt': [Path(data, 'Rain100L/train/small/norain')], 'lq': [Path(data, 'Rain100L/train/small/rain')]}
    create(roots, tmp_path, max_count=9)
    for field, (root,) in roots.items():
        reader = ShardReader(tmp_path, field)
        assert len(reader) == 40
        for key in reader.keys:
            assert reader.get(key) == (root / f'{key}.png').read_bytes()


def test_verify_finds_a_changed_byte(tmp_path):
    fill(tmp_path / 'in')
    create({'': [tmp_path / 'in']}, tmp_path / 'out', max_count=4)
    tar = tmp_path / 'out/shard-000001.tar'
    data = bytearray(tar.read_bytes())
    data[scan(tar)[0].offset + 60] ^= 1
    tar.write_bytes(data)
    found = list(verify(tmp_path / 'out'))
    assert any('SHA-256' in line and 'shard-000001.tar' in line for line in found), found
