"""Making LMDBs: what is stored, and what is refused."""

import multiprocessing
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from basicsr.errors import DataError, QualIRError
from basicsr.image_io import decode_image, encode_image, write_image
from basicsr.lmdb_io import LmdbReader
from basicsr.lmdb_make import create, windows
from basicsr.lmdb_pages import Database
from tools import create_lmdb

from .runs import ROOT

FINISHED = ['checksums.txt', 'data.mdb', 'lock.mdb', 'meta_info.txt']
posix = pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(), reason='no fork')


def picture(seed, height=24, width=30, channels=3, dtype=np.uint8):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def folder_of(path, count, height=24, width=30):
    for number in range(count):
        write_image(path / f'{number}.png', picture(number, height, width))
    return path


@pytest.fixture
def images(tmp_path):
    return folder_of(tmp_path / 'images', 12)


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'x.lmdb'


def content(root):
    """All that a reader can see: keys, bytes, and both lists."""
    reader = LmdbReader(root)
    values = {key: bytes(reader.get(key)) for key in reader.keys}
    assert Database(root / 'data.mdb').header.entries == len(values)
    assert sorted(file.name for file in root.iterdir()) == FINISHED
    return values, [(root / name).read_bytes() for name in ('meta_info.txt', 'checksums.txt')]


def command(*arguments):
    return create_lmdb.main([str(argument) for argument in arguments])


def refused(capsys, *arguments):
    """The one sentence with which a command ends, and its exit code."""
    code = command(*arguments)
    text = capsys.readouterr().err
    assert text.startswith('Error')
    assert 'Traceback' not in text
    return text, code


@pytest.mark.parametrize(
    ('length', 'size', 'step', 'thresh'),
    [
        (960, 480, 240, 0),
        (1000, 480, 240, 0),
        (1000, 480, 240, 40),
        (1000, 480, 240, 39),
        (480, 480, 240, 0),
        (481, 480, 7, 0),
    ],
)
def test_windows_are_those_of_basicsr(length, size, step, thresh):
    wanted = np.arange(0, length - size + 1, step)  # extract_subimages.py of BasicSR 1.4.2
    if length - (wanted[-1] + size) > thresh:
        wanted = np.append(wanted, length - size)
    found = windows(length, size, step, thresh)
    assert found == wanted.tolist()
    assert found[-1] + size <= length


def test_windows_of_a_short_side():
    assert windows(100, 480, 240, 0) == [0]


def test_kept_files_keep_their_bytes_and_their_order(tmp_path, out):
    for name in ('10.jpg', '9.png', 'b/1.webp', 'a.b.bmp'):
        write_image(tmp_path / 'images' / name, picture(1))
    made = create(tmp_path / 'images', out)
    reader = LmdbReader(out)
    assert reader.keys == ['9', '10', 'a.b', 'b/1']
    assert all(reader.get(key) == (tmp_path / 'images' / reader.names[key]).read_bytes() for key in reader.keys)
    assert (out / 'meta_info.txt').read_text() == (
        '9.png (24,30,3) 0\n10.jpg (24,30,3) 0\na.b.bmp (24,30,3) 0\nb/1.webp (24,30,3) 0\n'
    )
    assert made[1:5] == (4, 4, sum(len(reader.get(key)) for key in reader.keys), 0)
    assert made.foreign == ['a.b']


@pytest.mark.parametrize('image_format', ['png', 'bmp'])
def test_encoding_anew_loses_nothing(tmp_path, out, image_format):
    kinds = {'grey': (1, np.uint8), 'rgb': (3, np.uint8), 'rgba': (4, np.uint8)}
    kinds |= {'deep': (3, np.uint16), 'deep grey': (1, np.uint16)} if image_format == 'png' else {}
    for name, (channels, dtype) in kinds.items():
        pixels = picture(0, channels=channels, dtype=dtype)
        (tmp_path / 'images').mkdir(exist_ok=True)
        (tmp_path / 'images' / f'{name}.png').write_bytes(encode_image(pixels, '.png'))
    create(tmp_path / 'images', out, image_format, compress_level=3)
    reader = LmdbReader(out)
    for name, (channels, dtype) in kinds.items():
        np.testing.assert_array_equal(
            decode_image(reader.get(name), name, 'unchanged'), picture(0, channels=channels, dtype=dtype)
        )
        assert reader.sizes[name] == (24, 30, channels)
        assert reader.names[name] == f'{name}.{image_format}'
    assert f'rgb.{image_format} (24,30,3) {3 if image_format == "png" else 0}' in (out / 'meta_info.txt').read_text()


def test_png_of_a_higher_level_is_smaller(tmp_path, out):
    write_image(tmp_path / 'images' / 'a.png', np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 64, 3)))
    sizes = [create(tmp_path / 'images', out, 'png', compress_level=n, overwrite=True).size for n in (0, 1, 9)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_an_image_that_the_format_cannot_hold_is_named(tmp_path, out):
    write_image(tmp_path / 'images' / 'deep.png', picture(0, dtype=np.uint16))
    write_image(tmp_path / 'images' / 'plain.png', picture(0))
    with pytest.raises(DataError, match=r'1 of 2 images .*\n  deep.png: .*deep.png'):
        create(tmp_path / 'images', out, 'bmp')


def test_sub_images(tmp_path, out):
    wide, small, grey = picture(0, 50, 70), picture(1, 10, 20), picture(2, 45, 40, 1)
    for name, pixels in (('wide', wide), ('small', small), ('deep/grey', grey)):
        (tmp_path / 'images/deep').mkdir(parents=True, exist_ok=True)
        (tmp_path / f'images/{name}.png').write_bytes(encode_image(pixels, '.png'))
    made = create(tmp_path / 'images', out, crop_size=40, step=20, thresh_size=5)
    reader = LmdbReader(out)
    wanted = {'small_s001': small, 'deep/grey_s001': grey[:40, :40]}
    corners = [(top, left) for top in (0, 10) for left in (0, 20, 30)]
    wanted |= {
        f'wide_s{n:03d}': wide[top : top + 40, left : left + 40] for n, (top, left) in enumerate(corners, start=1)
    }
    assert set(reader.keys) == set(wanted)
    assert (made.sources, made.records) == (3, 8)
    for key, pixels in wanted.items():
        np.testing.assert_array_equal(decode_image(reader.get(key), key, 'unchanged'), pixels)
        assert reader.sizes[key] == (*pixels.shape[:2], 1 if pixels.ndim == 2 else 3)


def test_a_list_chooses_and_orders(images, out, tmp_path):
    (tmp_path / 'list.txt').write_text('# a comment\n7.png\n\n2.png (24,30,3)\n 3.png (24,30,3) 1\n')
    assert command('create', images, '-o', out, '--list', tmp_path / 'list.txt') == 0
    assert LmdbReader(out).keys == ['7', '2', '3']


@pytest.mark.parametrize(
    ('line', 'reason'),
    [
        ('gone.png', "gone.png' cannot be read: No such file"),
        ('../1.png', "'../1.png' does not name an image below the folder"),
        ('notes.txt', "'notes.txt' does not name an image"),
        ('1.png\n1.png', "'1.png' is named twice"),
        ('# nothing', "list.txt' names no image"),
    ],
)
def test_a_list_with_a_mistake_is_refused(images, out, tmp_path, capsys, line, reason):
    (tmp_path / 'list.txt').write_text(line)
    text, code = refused(capsys, 'create', images, '-o', out, '--list', tmp_path / 'list.txt')
    assert reason in text
    assert code == 2
    assert not out.exists()


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        (['--crop_size', 5], 'crop_size and step go together'),
        (['--step', 5], 'crop_size and step go together'),
        (['--thresh_size', 5], 'thresh_size goes with them'),
        (['--crop_size', 5, '--step', 0], 'step must be at least 1'),
        (['--crop_size', 5, '--step', 5, '--format', 'keep'], 'cannot keep the bytes'),
        (['--format', 'png', '--compress_level', 10], 'compress_level is 10'),
        (['--compress_level', 2], '--compress_level goes with --format png'),
    ],
)
def test_options_that_do_not_go_together_are_refused(images, out, capsys, options, reason):
    text, code = refused(capsys, 'create', images, '-o', out, *options)
    assert reason in text
    assert code == 2
    assert not out.exists()


def test_sources_that_cannot_be_are_refused(tmp_path, images, out, capsys):
    assert 'There is no folder' in refused(capsys, 'create', tmp_path / 'none', '-o', out)[0]
    write_image(images / '1.bmp', picture(0))
    assert 'differ only in their ending' in refused(capsys, 'create', images, '-o', out)[0]
    (images / '1.bmp').rename(images / 'a\nb.bmp')
    assert 'a line break' in refused(capsys, 'create', images, '-o', out)[0]
    assert 'must end in .lmdb' in refused(capsys, 'create', images, '-o', tmp_path / 'x')[0]
    assert not out.exists()


@posix
def test_names_that_cannot_be_keys_are_refused(images, out, capsys):
    os.rename(bytes(images / '1.png'), bytes(images) + b'/\xff.png')
    assert 'is not a name in UTF-8' in refused(capsys, 'create', images, '-o', out)[0]
    os.rename(bytes(images) + b'/\xff.png', bytes(images) + b'/' + b'y' * 240 + b'.png')
    assert command('create', images, '-o', out) == 0
    assert 'y' * 240 in LmdbReader(out).keys
    deep = images / ('d' * 250) / ('e' * 20)
    deep.mkdir(parents=True)
    (images / '2.png').rename(deep / f'{"f" * 240}.png')
    text, _ = refused(capsys, 'create', images, '-o', out, '--overwrite')
    assert '512 bytes without its ending, at most 504 fit' in text


def test_what_exists_is_not_overwritten(images, out, capsys):
    create(images, out)
    before = content(out)
    (images / '3.png').unlink()
    text, code = refused(capsys, 'create', images, '-o', out)
    assert "x.lmdb' exists; choose another name, or add --overwrite" in text
    assert code == 2
    assert content(out) == before
    assert command('create', images, '-o', out, '--overwrite') == 0
    assert len(LmdbReader(out).keys) == 11
    assert sorted(file.name for file in out.parent.iterdir()) == ['images', 'x.lmdb']


def test_folders_of_others_are_left_alone(images, out, capsys):
    out.mkdir()
    (out / 'thesis.tex').write_text('years of work')
    for option in ((), ('--overwrite',)):
        assert "holds 'thesis.tex'" in refused(capsys, 'create', images, '-o', out, *option)[0]
    assert [file.name for file in out.iterdir()] == ['thesis.tex']
    (out / 'thesis.tex').rename(out.parent / 'file.lmdb')
    assert 'is a file' in refused(capsys, 'create', images, '-o', out.parent / 'file.lmdb')[0]
    assert command('create', images, '-o', out) == 0  # an empty folder is as good as none


def test_only_bad_images_make_no_lmdb(images, out, capsys):
    for file in images.iterdir():
        file.write_bytes(b'no')
    text, code = refused(capsys, 'create', images, '-o', out, '--skip_bad')
    assert 'None of the images' in text
    assert code == 2


def test_names_that_basicsr_would_not_find_are_named(images, out, capsys):
    (images / '1.png').rename(images / 'v1.2.png')
    (images / '2.png').rename(images / 'schön.png')
    assert command('create', images, '-o', out) == 0
    assert "Warning: 2 names hold a dot or a letter beyond ASCII ('schön', 'v1.2')" in capsys.readouterr().out


@pytest.mark.parametrize('size', [8192, 40000])
def test_the_map_grows(images, out, tmp_path, size):
    create(images, tmp_path / 'wanted.lmdb')
    create(images, out, map_size=size, batch=5)
    assert Database(out / 'data.mdb').header.map_size > size
    assert content(out) == content(tmp_path / 'wanted.lmdb')


def test_processes_make_the_same(images, out, tmp_path):
    options = {'crop_size': 20, 'step': 10}
    create(images, tmp_path / 'wanted.lmdb', **options)
    create(images, out, workers=2, batch=5, **options)
    assert content(out) == content(tmp_path / 'wanted.lmdb')


@posix
@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='needs root, to become someone else')
def test_a_folder_that_may_not_be_written_to_is_named(images, out):
    out.parent.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises((QualIRError, DataError), match='Permission denied'):
            create(images, out)
    finally:
        os.seteuid(0)


def test_verify_and_info_as_commands(images, out, capsys):
    assert command('create', images, '-o', out, '--format', 'bmp', '--crop_size', 20, '--step', 10) == 0
    assert "x.lmdb': 48 images cut from 12" in capsys.readouterr().out
    assert command('verify', out, '--workers', 0) == 0
    assert 'all whole (checksums)' in capsys.readouterr().out
    assert command('info', out) == 0
    text = capsys.readouterr().out
    for part in (
        'images: +48',
        r'20, 20, 3\).* 1 different',
        'bmp: 48',
        'yes, of 12 images',
        'checksums: +yes',
        'pages',
    ):
        assert re.search(part, text), part
    offset, size = next((r.offset, r.size) for r in Database(out / 'data.mdb').records() if r.key == b'7_s002')
    with open(out / 'data.mdb', 'r+b') as file:
        file.seek(offset + size - 1)
        file.write(b'~')
    (out / 'checksums.txt').write_text((out / 'checksums.txt').read_text().replace('9_s001\t', '9_s999\t'))
    assert command('verify', out) == 1
    text = capsys.readouterr().out
    assert '7_s002: its checksum is ' in text
    assert text.endswith('3 problems: 2 list, 1 checksum.\n')
    text, code = refused(capsys, 'verify', images)
    assert 'holds no meta_info.txt' in text
    assert code == 2


def test_the_command_can_be_run_from_anywhere(images, tmp_path):
    line = [sys.executable, str(ROOT / 'tools/create_lmdb.py'), 'create', 'images', '-o', 'x.lmdb']
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith("'x.lmdb': 12 images, ")
