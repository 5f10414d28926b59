"""Making LMDBs: no kill, full disk, bad image or other command spoils the result."""

import contextlib
import io
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from basicsr.cli import run_command
from basicsr.errors import DataError, OptionError
from basicsr.image_io import write_image
from basicsr.lmdb_check import verify
from basicsr.lmdb_io import JOURNAL, META_INFO, LmdbReader
from basicsr.lmdb_make import create

from .runs import ROOT
from .test_create_lmdb import command, content, folder_of, picture, posix, refused


@pytest.fixture
def images(tmp_path):
    return folder_of(tmp_path / 'images', 12)


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'x.lmdb'


def test_the_old_one_stays_until_the_new_one_is_whole(images, out):
    create(images, out)
    before = content(out)
    (images / '5.png').write_bytes(b'no image')
    with pytest.raises(DataError, match=r'5\.png'):
        create(images, out, overwrite=True)
    assert content(out) == before
    (images / '5.png').unlink()
    assert create(images, out, overwrite=True).resumed == 11
    assert len(LmdbReader(out).keys) == 11
    assert sorted(file.name for file in out.parent.iterdir()) == ['images', 'x.lmdb']


@pytest.mark.parametrize('step', ['before', 'between', 'after'])
def test_a_kill_while_the_new_one_takes_its_place(images, out, tmp_path, step):
    """The states that the two renames pass through, from which the same command goes on."""
    create(images, out)
    (images / '5.png').unlink()
    create(images, tmp_path / 'new.lmdb')
    wanted = content(tmp_path / 'new.lmdb')
    aside, old = tmp_path / '.x.lmdb.building', tmp_path / '.x.lmdb.replaced'
    bad = images / '99.png'
    bad.write_bytes(b'')
    with pytest.raises(DataError, match=r'99\.png'):  # leaves the folder aside, with its journal
        create(images, out, overwrite=True)
    bad.unlink()
    if step != 'before':
        out.rename(old)
    if step == 'after':
        aside.rename(out)
    create(images, out, overwrite=True)
    assert content(out) == wanted
    assert not aside.exists()
    assert not old.exists()


def test_bad_images_are_all_named_and_nothing_is_finished(images, out, capsys):
    before = {name: (images / name).read_bytes() for name in ('3.png', '8.png', '9.png')}
    (images / '3.png').write_bytes(before['3.png'][:-40])
    (images / '8.png').write_bytes(b'')
    (images / '9.png').write_bytes(b'<html>')
    text, code = refused(capsys, 'create', images, '-o', out)
    assert code == 2
    assert '3 of 12 images' in text
    assert all(f'\n  {name}: ' in text for name in before)
    with pytest.raises(DataError, match=r'is not finished: .* Run the same command again'):
        LmdbReader(out)
    (images / '3.png').write_bytes(before['3.png'])  # mended
    (images / '8.png').unlink()  # removed
    text, code = refused(capsys, 'create', images, '-o', out)
    assert '1 of 11 images' in text
    assert command('create', images, '-o', out, '--skip_bad') == 0
    text = capsys.readouterr().out
    assert "x.lmdb': 10 images" in text
    assert 'Left out 1:\n' in text
    assert '9.png' in text
    assert LmdbReader(out).keys == [str(n) for n in range(12) if n not in (8, 9)]
    assert verify(out) == []


def in_child(work, *arguments):
    """Starts a function in a forked process, which then has all modules at hand."""
    process = multiprocessing.get_context('fork').Process(target=work, args=arguments)
    process.start()
    return process


def slow_create(images, out, **options):
    create(images, out, 'png', batch=3, **options)


@posix
@pytest.mark.parametrize('overwrite', [False, True])
def test_kills_at_any_moment_do_not_show(tmp_path, out, overwrite):
    images = folder_of(tmp_path / 'images', 60, 64, 64)
    slow_create(images, tmp_path / 'wanted.lmdb')
    if overwrite:
        create(images, out)
    draw, kills = random.Random(int(overwrite)), 0
    while kills < 12 and (overwrite or not complete(out)):  # a kill may come just after the last step
        process = in_child(slow_create, images, out) if not overwrite else in_child(replace, images, out)
        process.join(draw.uniform(0.01, 0.05))
        if not process.is_alive():
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert kills
    assert process.exitcode in (0, -signal.SIGKILL)
    if overwrite or not complete(out):
        slow_create(images, out, overwrite=overwrite)
    assert content(out) == content(tmp_path / 'wanted.lmdb')
    assert verify(out) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ['images', 'wanted.lmdb', 'x.lmdb']


def replace(images, out):
    slow_create(images, out, overwrite=True)


def complete(out):
    return (out / META_INFO).exists() and not (out / JOURNAL).exists()


@pytest.mark.parametrize(('cut', 'resumed'), [(0, 11), (3, 10), (-1, 0)])
def test_a_journal_that_was_cut_is_read_as_far_as_it_goes(tmp_path, images, out, cut, resumed):
    create(images, tmp_path / 'wanted.lmdb')
    mended = (images / '0.png').read_bytes()
    (images / '0.png').write_bytes(b'bad')
    with pytest.raises(DataError):
        create(images, out)
    (images / '0.png').write_bytes(mended)
    journal = (out / 'meta_info.partial').read_bytes()
    place = len(journal) - cut if cut >= 0 else journal.index(b'["done"')
    (out / 'meta_info.partial').write_bytes(journal[:place])
    if cut < 0:  # and with it the line that says that 0.png was bad
        (out / 'meta_info.partial').write_bytes(journal[:place] + b'["bad","0.png","bad"]\n')
    assert create(images, out).resumed == resumed
    assert content(out) == content(tmp_path / 'wanted.lmdb')


def unfinished(images, out, **options):
    """An LMDB of which all images but one are stored."""
    (images / '99.png').write_bytes(b'bad')
    with pytest.raises(DataError, match=r'99\.png'):
        create(images, out, **options)
    return out


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        ({'image_format': 'bmp'}, 'image_format was png, is bmp, compress_level was 1, is 0'),
        ({'image_format': 'png', 'compress_level': 4}, 'compress_level was 1, is 4'),
        ({'crop_size': 9, 'step': 9}, 'crop_size was None, is 9, step was None, is 9'),
    ],
)
def test_other_options_are_refused(images, out, options, reason):
    unfinished(images, out, image_format='png')
    with pytest.raises(DataError, match=re.escape(f'was begun with other options ({reason})')):
        create(images, out, **options)
    (images / '99.png').unlink()
    assert create(images, out, **options, overwrite=True).resumed == 0
    assert verify(out) == []


def test_other_images_are_refused(images, out, capsys):
    unfinished(images, out)
    (images / '99.png').unlink()
    kept = (images / '4.png').read_bytes()
    (images / '4.png').unlink()
    assert "'4.png' in " in (text := refused(capsys, 'create', images, '-o', out)[0])
    assert 'is gone since' in text
    write_image(images / '4.png', picture(77))
    assert 'has changed since' in refused(capsys, 'create', images, '-o', out)[0]
    write_image(images / '100.png', picture(77))
    assert '(and 1 more)' in refused(capsys, 'create', images, '-o', out)[0]
    (images / '4.png').write_bytes(kept)
    assert command('create', images, '-o', out, '--overwrite') == 0
    assert len(LmdbReader(out).keys) == 13


def test_a_spoilt_journal_or_database_is_refused(images, out):
    unfinished(images, out)
    journal, data = (out / 'meta_info.partial').read_bytes(), (out / 'data.mdb').read_bytes()
    (out / 'meta_info.partial').write_bytes(b'{}\n')
    with pytest.raises(DataError, match='not a journal that can be gone on with'):
        create(images, out)
    (out / 'meta_info.partial').write_bytes(journal)
    (out / 'data.mdb').write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match='cut short'):
        create(images, out)
    (out / 'data.mdb').unlink()  # then everything is done again
    (images / '99.png').unlink()
    assert create(images, out).resumed == 0


@posix
def test_two_commands_do_not_work_on_one_lmdb(tmp_path, out, capsys):
    images = folder_of(tmp_path / 'images', 60, 64, 64)
    process = in_child(slow_create, images, out)
    while not (out / 'meta_info.partial').exists():
        time.sleep(0.001)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(OptionError, match='Another command is making'):
            slow_create(images, out)
    finally:
        os.kill(process.pid, signal.SIGCONT)
        process.join()
    assert process.exitcode == 0
    assert len(LmdbReader(out).keys) == 60


def with_small_disk(limit, report, images, out, options):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with contextlib.redirect_stderr(io.StringIO()) as text:
        code = run_command(lambda: len(create(images, out, **options)))
    report.send((code, text.getvalue()))


@posix
@pytest.mark.parametrize('limit', [0, 3000, 30000, 100000])
def test_a_full_disk_ends_with_a_sentence_and_can_be_gone_on_from(tmp_path, images, out, limit):
    options = {'image_format': 'bmp', 'crop_size': 20, 'step': 4, 'batch': 10}
    wanted = create(images, tmp_path / 'wanted.lmdb', **options)
    assert wanted.size > 100000
    for _ in range(2):
        report, end = multiprocessing.Pipe()
        process = in_child(with_small_disk, limit, end, images, out, options)
        code, text = report.recv()
        process.join()
        assert code == 1
        assert re.fullmatch(r"Error: '.*x.lmdb' could not be written: .*\. What is committed .*\n", text), text
        assert 'File too large' in text or 'perhaps the disk is full' in text
    assert not (out / 'meta_info.txt').exists()
    assert (create(images, out, **options).resumed > 0) == (limit > 30000)
    assert content(out) == content(tmp_path / 'wanted.lmdb')


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='needs /proc')
def test_no_process_outlives_a_killed_command(tmp_path, out):
    images = folder_of(tmp_path / 'images', 4, 256, 256)
    arguments = ['create', images, '-o', out, '--format', 'png', '--crop_size', 64, '--step', 2, '--workers', 2]
    command_line = [sys.executable, ROOT / 'tools/create_lmdb.py', *arguments]
    process = subprocess.Popen([str(part) for part in command_line], start_new_session=True)
    while not (out / 'data.mdb').exists() or len(group := members(process.pid)) < 4:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(process.pid) == []
    assert process.pid in group


def members(session):
    """The processes of a session that have not ended."""
    found = []
    for file in Path('/proc').glob('[0-9]*/stat'):
        try:
            state, _, _, owner = file.read_text().rpartition(')')[2].split()[:4]
        except OSError:
            continue
        if int(owner) == session and state != 'Z':
            found.append(int(file.parent.name))
    return found
