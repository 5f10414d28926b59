"""LMDBs of images: BasicSR's can be read here, ours there; every damage is found; any process and thread may read."""

import hashlib
import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import lmdb
import numpy as np
import pytest
from torch.utils.data import DataLoader

from basicsr.errors import DataError
from basicsr.image_io import decode_image, encode_image, write_image
from basicsr.lmdb_check import info, verify
from basicsr.lmdb_io import LmdbReader, key_of
from basicsr.lmdb_make import create
from basicsr.lmdb_pages import Database

from .golden.lmdb_children import Checksums, checksums
from .golden.recipe import uniform

GOLDEN = Path(__file__).parent / 'golden'
PEER = os.environ.get('QUALIR_PEER')  # the Python of an environment that holds basicsr==1.4.2
METHODS = [m for m in ('fork', 'spawn', 'forkserver') if m in multiprocessing.get_all_start_methods()]
NAMES = ('a.png', 'b.v1.png', 'deep/er/c d.png', 'z.jpg', 'ä.png')
PAGE = 4096


def picture(seed, height=40, width=50, channels=3):
    """Noise, so that the file of one image needs pages of its own."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


@pytest.fixture
def images(tmp_path):
    for number, name in enumerate(NAMES):
        write_image(tmp_path / 'images' / name, picture(number))
    return tmp_path / 'images'


@pytest.fixture
def made(images, tmp_path):
    create(images, tmp_path / 'x.lmdb')
    return tmp_path / 'x.lmdb'


def without_checksums(root):
    (root / 'checksums.txt').unlink()
    return root


def records(root):
    """Offset and size of every value, by key."""
    return {record.key.decode(): record[1:] for record in Database(root / 'data.mdb').records()}


def flip(root, offset):
    with open(root / 'data.mdb', 'r+b') as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def rewrite(file, change):
    file.write_text(change(file.read_text(encoding='utf-8')), encoding='utf-8')


def edit(root, change):
    with lmdb.open(str(root)) as env, env.begin(write=True) as transaction:
        change(transaction)


def kinds(problems):
    return {problem.key: problem.kind for problem in problems}


def test_an_lmdb_that_basicsr_made_is_read():
    reader = LmdbReader(GOLDEN / 'lmdb_basicsr.lmdb')
    assert reader.keys == ['first', 'sub/second image', 'third']
    assert reader.names['sub/second image'] == 'sub/second image.png'
    assert list(reader.sizes.values()) == [(40, 50, 3), (30, 9, 3), (11, 8, 1)]
    for number, (key, (height, width, channels)) in enumerate(reader.sizes.items()):
        shape = (height, width, 3) if channels == 3 else (height, width)
        wanted = np.floor((uniform(shape, number) + 0.5) * 256).astype(np.uint8)
        np.testing.assert_array_equal(decode_image(reader.get(key), key, 'unchanged'), wanted)
    assert verify(GOLDEN / 'lmdb_basicsr.lmdb') == []
    assert not info(GOLDEN / 'lmdb_basicsr.lmdb').checksums


def test_ours_has_the_format_that_basicsr_reads(made, images):
    lines = (made / 'meta_info.txt').read_text(encoding='utf-8').splitlines()
    assert lines[0] == 'a.png (40,50,3) 0'
    with lmdb.open(str(made), readonly=True, lock=False) as env, env.begin() as transaction:
        assert transaction.stat()['entries'] == len(NAMES) == len(lines)
        for line, name in zip(lines, NAMES):
            assert re.fullmatch(r'(.+) \(\d+,\d+,\d+\) \d', line)[1] == name
            value = transaction.get(name.rpartition('.')[0].encode())
            assert value == (images / name).read_bytes()


@pytest.mark.skipif(not PEER, reason='set QUALIR_PEER to the Python of an environment with basicsr==1.4.2')
def test_basicsr_reads_ours(tmp_path):
    for side, seed in (('lq', 0), ('gt', 10)):
        for number, name in enumerate(('a.png', 'deep/c d.png', 'grey.png')):
            write_image(tmp_path / side / name, picture(seed + number)[..., : 1 if name == 'grey.png' else 3])
    create(tmp_path / 'lq', tmp_path / 'lq.lmdb', 'bmp', crop_size=30, step=20)
    create(tmp_path / 'gt', tmp_path / 'gt.lmdb', 'png', crop_size=30, step=20)
    command = [PEER, str(GOLDEN / 'lmdb_read_by_basicsr.py'), str(tmp_path / 'lq.lmdb'), str(tmp_path / 'gt.lmdb')]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    readers = [LmdbReader(tmp_path / f'{side}.lmdb') for side in ('lq', 'gt')]
    assert [row[0] for row in rows] == sorted(readers[0].keys)
    assert len(rows) == 12
    for key, *hashes in rows:
        assert hashes == [hashlib.sha256(decode_image(r.get(key), key).tobytes()).hexdigest() for r in readers]


def test_keys_names_and_sizes(made):
    reader = LmdbReader(made)
    assert reader.keys == ['a', 'b.v1', 'deep/er/c d', 'z', 'ä']
    assert list(reader.names.values()) == list(NAMES)
    assert set(reader.sizes.values()) == {(40, 50, 3)}
    assert [key_of(name) for name in ('a/b.c', 'a.b/c', 'a')] == ['a/b', 'a.b/c', 'a']


def test_values_are_views_that_outlive_their_reader(made, images):
    reader = LmdbReader(str(made))
    value = reader.get('a')
    assert isinstance(value, memoryview)
    assert value.readonly
    assert reader.get('a').obj is value.obj  # of the same mapping
    del reader
    shutil.rmtree(made)
    assert value == (images / 'a.png').read_bytes()


def test_what_is_not_there_is_named(made):
    with pytest.raises(DataError, match=r"x.lmdb' holds no image 'nothing'"):
        LmdbReader(made).get('nothing')


def test_several_readers_and_the_library_share_a_process(made, images):
    with lmdb.open(str(made), readonly=True, lock=False) as env, env.begin() as transaction:
        readers = [LmdbReader(made) for _ in range(3)]
        assert {bytes(r.get('z')) for r in readers} == {transaction.get(b'z')} == {(images / 'z.jpg').read_bytes()}


def expected(images, reader):
    return [zlib.crc32((images / reader.names[key]).read_bytes()) for key in reader.keys]


@pytest.mark.parametrize('method', METHODS)
def test_other_processes_read_after_the_parent_has_read(made, images, method):
    reader = LmdbReader(made)
    view = reader.get('a')
    wanted = expected(images, reader)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(checksums, (reader,)) == wanted
    workers = 2 if method == 'fork' else 1  # the others take seconds to start
    loader = DataLoader(Checksums(reader), batch_size=None, num_workers=workers, multiprocessing_context=method)
    assert list(loader) == wanted
    assert zlib.crc32(view) == wanted[0]
    assert checksums(reader) == wanted


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_a_forked_child_may_read_and_end_as_it_likes(made, images):
    reader = LmdbReader(made)
    view = reader.get('a')
    code = (
        f'import os, sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); '
        'from basicsr.lmdb_io import LmdbReader; '
        f'r = LmdbReader({str(made)!r}); v = r.get("a"); pid = os.fork(); '
        f'n = sum(len(r.get(k)) for k in r.keys) + len(LmdbReader({str(made)!r}).get("z")); '
        'code = os.waitpid(pid, 0)[1] if pid else 0; print(n, len(bytes(v)), code); sys.exit(code)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    total = sum((images / name).stat().st_size for name in NAMES) + (images / 'z.jpg').stat().st_size
    assert done.stdout.splitlines() == [f'{total} {len(view)} 0'] * 2, done.stderr
    assert done.returncode == 0


def test_threads_read_at_once(made, images):
    reader = pickle.loads(pickle.dumps(LmdbReader(made)))  # which opens the file when it is first needed
    wanted, found, start = expected(images, reader), [], threading.Barrier(8)

    def read():
        start.wait()
        found.extend(checksums(reader) for _ in range(20))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 160


def test_a_pickle_holds_no_handle(made, images):
    reader = LmdbReader(made)
    reader.get('a')
    again = pickle.loads(pickle.dumps(reader))
    assert again._database is None
    assert again.get('a') == (images / 'a.png').read_bytes()


@pytest.mark.parametrize('seed', range(6))
def test_pages_are_read_as_the_library_reads_them(tmp_path, seed):
    draw, stored = random.Random(seed), {}
    with lmdb.open(str(tmp_path), map_size=1 << 26, sync=False) as env:
        for _ in range(8):
            with env.begin(write=True) as transaction:
                for _ in range(150):
                    long = 'x' * draw.randrange(400)
                    key = f'{long}{draw.randrange(900)}'.encode() if draw.random() < 0.5 else draw.randbytes(2)
                    if draw.random() < 0.7:
                        stored[key] = draw.randbytes(draw.choice((0, 10, 1900, 2040, 2100, 5000, 20000)))
                        transaction.put(key, stored[key])
                    elif stored:
                        key = draw.choice(sorted(stored))
                        transaction.delete(key)
                        del stored[key]
        depth, entries = env.stat()['depth'], env.stat()['entries']
    database, problems = Database(tmp_path / 'data.mdb'), []
    assert (database.header.depth, database.header.entries) == (depth, entries) == (depth, len(stored))
    assert depth > 1
    assert [record.key for record in database.records(problems)] == sorted(stored)
    assert problems == []
    assert all(database.find(key) == value for key, value in stored.items())
    absent = [key for key in (draw.randbytes(2) for _ in range(200)) if key not in stored]
    assert absent
    assert all(database.find(key) is None for key in absent)


def test_a_healthy_file_may_be_shorter_than_its_header_says(made, images):
    """Pages that a transaction takes and gives back are counted, never written."""

    draw = random.Random(0)

    def take_and_give_back(transaction):
        extra = [b'extra%d' % draw.randrange(9) for _ in range(draw.randrange(2, 20))]
        for key in extra:
            transaction.put(key, bytes(draw.randrange(20 * PAGE)))
        for key in extra[draw.randrange(2) :]:
            transaction.delete(key)

    for attempt in range(50):  # when that happens depends on the library
        root = made.with_name(f'{attempt}.lmdb')
        shutil.copytree(made, root)
        for _ in range(4):
            edit(root, take_and_give_back)
        edit(root, lambda transaction: [transaction.delete(b'extra%d' % number) for number in range(9)])
        database = Database(root / 'data.mdb')
        if database.size < (database.header.last_page + 1) * PAGE:
            break
    assert database.size < (database.header.last_page + 1) * PAGE
    reader = LmdbReader(root)
    assert checksums(reader) == expected(images, reader)
    assert verify(root) == []


def test_a_file_cut_short_is_refused_and_what_is_lost_is_named(made, images):
    size = (made / 'data.mdb').stat().st_size
    last, wanted = max(sum(place) for place in records(made).values()), expected(images, LmdbReader(made))
    for kept in (size - 1, size - PAGE, size // 2, 3 * PAGE, 2 * PAGE, PAGE + 10, 100):
        copy = made.with_name(f'{kept}.lmdb')
        shutil.copytree(made, copy)
        os.truncate(copy / 'data.mdb', kept)
        if kept > last:  # what is missing belongs to no record
            assert checksums(LmdbReader(copy)) == wanted
            continue
        with pytest.raises(DataError, match=r'cut short|is not an LMDB'):
            LmdbReader(copy)
    half = made.with_name(f'{size // 2}.lmdb')
    lost = {key for key, (offset, count) in records(made).items() if offset + count > size // 2}
    found = kinds(verify(half))
    assert 0 < len(lost) < len(NAMES)
    assert {key for key, kind in found.items() if kind == 'missing'} == lost
    assert found['data.mdb'] == 'database'


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'empty'),
        (bytes(9000), 'not an LMDB'),
        (random.Random(0).randbytes(9000), 'not an LMDB'),
        (b'x', 'ends after'),
    ],
)
def test_a_data_file_that_is_none_is_refused(made, content, reason):
    (made / 'data.mdb').write_bytes(content)
    for use in (LmdbReader, verify, info):
        with pytest.raises(DataError, match=f'data.mdb.*{reason}'):
            use(made)


def test_the_format_of_lmdb_1_0_is_refused_by_name(made):
    shutil.move(made / 'data.mdb', made / 'old.mdb')
    (made / 'lock.mdb').unlink()
    try:
        lmdb.open(str(made), lib_version=1).close()
    except (TypeError, lmdb.Error):
        pytest.skip('this lmdb package writes format 1 only')
    with pytest.raises(DataError, match=r'has the format of LMDB 1.0; only that of LMDB 0.9 can be read'):
        LmdbReader(made)


def test_folders_that_are_no_lmdb_are_refused(made, images, tmp_path):
    for path, reason in (
        (tmp_path / 'no.lmdb', 'There is no LMDB'),
        (images / 'a.png', 'is a file'),
        (images, 'holds no meta'),
    ):
        for use in (LmdbReader, verify, info):
            with pytest.raises(DataError, match=reason):
                use(path)
    (made / 'data.mdb').unlink()
    with pytest.raises(DataError, match=r"There is no file '.*data.mdb'"):
        LmdbReader(made)


@pytest.mark.skipif(not hasattr(os, 'seteuid') or os.name == 'nt', reason='no POSIX rights')
@pytest.mark.parametrize('name', ['data.mdb', 'meta_info.txt', 'checksums.txt'])
def test_a_file_without_leave_to_read_is_named(name, made):
    for folder in [made, *made.parents][:-1]:
        if folder.stat().st_uid == os.geteuid() and folder != Path('/tmp'):
            folder.chmod(0o755)
    (made / name).chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(DataError, match=rf"{name}' cannot be read: Permission denied"):
            (verify if name == 'checksums.txt' else LmdbReader)(made)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize('line', ['b.png', 'b.png (1,2) 1', 'b.png (1,2,3)', 'b.png (1,2,x) 1', '(1,2,3) 1'])
def test_a_malformed_line_is_named_by_its_number(made, line):
    rewrite(made / 'meta_info.txt', lambda text: text.replace('z.jpg (40,50,3) 0', line))
    with pytest.raises(DataError, match=rf"meta_info.txt:4: '{re.escape(line)}' is not of the form"):
        LmdbReader(made)
    problems = verify(made)
    assert kinds(problems)['meta_info.txt'] == 'list'
    assert kinds(problems)['z'] == 'extra'
    assert kinds(problems)['checksums.txt'] == 'list'


def test_a_key_listed_twice_is_refused(made):
    rewrite(made / 'meta_info.txt', lambda text: f'{text}a.jpg (40,50,3) 0\n')
    with pytest.raises(DataError, match=r"meta_info.txt:6: image 'a' is listed already in line 1"):
        LmdbReader(made)
    assert kinds(verify(made)) == {'meta_info.txt': 'list'}


def test_line_ends_of_windows_and_blank_lines_are_accepted(made):
    rewrite(made / 'meta_info.txt', lambda text: text + '\n')
    (made / 'meta_info.txt').write_bytes((made / 'meta_info.txt').read_bytes().replace(b'\n', b'\r\n'))
    assert len(LmdbReader(made).keys) == len(NAMES)


def test_lists_that_are_empty_or_no_text_are_refused(made):
    (made / 'meta_info.txt').write_bytes(b'\n')
    with pytest.raises(DataError, match='lists no image'):
        LmdbReader(made)
    (made / 'meta_info.txt').write_bytes(b'a\xff.png (1,2,3) 1\n')
    with pytest.raises(DataError, match=r'not a text in UTF-8: .* at byte 1'):
        LmdbReader(made)


def test_a_listed_image_that_is_not_stored_is_refused(made):
    edit(made, lambda transaction: transaction.delete(b'z'))
    with pytest.raises(DataError, match=r"lacks 1 of the 5 images .* the first is 'z'"):
        LmdbReader(made)
    assert kinds(verify(made)) == {'z': 'missing'}
    edit(made, lambda transaction: transaction.put(b'other', b'content'))
    with pytest.raises(DataError, match=r"lacks the image 'z' that its meta_info.txt lists"):
        LmdbReader(made).get('z')
    assert kinds(verify(made)) == {'z': 'missing', 'other': 'extra'}


def test_an_empty_database_is_refused(made):
    edit(made, lambda transaction: [transaction.delete(key.encode()) for key in records(made)])
    with pytest.raises(DataError, match='lacks 5 of the 5'):
        LmdbReader(made)
    assert set(kinds(verify(made)).values()) == {'missing'}


def test_a_changed_byte_is_found_by_its_checksum_alone(made):
    offset, size = records(made)['z']
    before = decode_image(LmdbReader(made).get('z'), 'z')
    flip(made, offset + size - 20)
    after = decode_image(LmdbReader(made).get('z'), 'z')  # JPEG: no complaint
    assert (before != after).any()
    (problem,) = verify(made)
    assert (problem.key, problem.kind) == ('z', 'checksum')
    assert verify(without_checksums(made)) == []


def test_an_undecodable_image_is_found_without_checksums(made):
    offset, size = records(made)['a']
    flip(made, offset + size // 2)
    flip(made, records(made)['b.v1'][0])
    problems = kinds(verify(without_checksums(made)))
    assert problems == {'a': 'undecodable', 'b.v1': 'undecodable'}
    assert kinds(verify(made, decode=False)) == {'b.v1': 'undecodable'}


def test_other_sizes_and_counts_of_bytes_are_found(made):
    rewrite(made / 'meta_info.txt', lambda text: text.replace('a.png (40,50,3)', 'a.png (50,40,3)'))
    rewrite(made / 'checksums.txt', lambda text: re.sub(r'z\t(\w+)\t\d+', r'z\t\1\t7', text))
    problems = verify(made)
    assert kinds(problems) == {'a': 'size', 'z': 'checksum'}
    assert '(40,50,3), meta_info.txt says (50,40,3)' in str(problems[0])
    rewrite(made / 'checksums.txt', lambda text: text.replace('a\t', 'a '))
    assert next(p.reason.partition(': ')[2] for p in verify(made) if p.key == 'checksums.txt').startswith("'a ")


def test_processes_find_the_same_problems(made):
    for key in ('a', 'z'):
        flip(made, records(made)[key][0] + 500)
    assert verify(made, workers=2) == verify(made)
    assert len(verify(made)) == 2


@pytest.mark.parametrize('seed', range(3))
def test_damage_anywhere_is_found_and_never_ends_the_process(tmp_path, seed):
    """A changed byte is reported, or does not matter: then everything is read as before."""
    for number in range(60):
        write_image(tmp_path / 'images' / f'{"long name " * 8}{number:03d}.png', picture(number, 2 + number % 40, 20))
    create(tmp_path / 'images', tmp_path / 'x.lmdb', batch=20)
    root, draw = tmp_path / 'x.lmdb', random.Random(seed)
    whole = (root / 'data.mdb').read_bytes()
    wanted = checksums(LmdbReader(root))
    inner = [page for page in range(len(whole) // PAGE) if whole[page * PAGE + 10] in (1, 2, 8)]  # all but values
    found = 0
    for _ in range(100):
        start = draw.choice(inner) * PAGE
        flip(root, start + draw.choice((draw.randrange(16), draw.randrange(300), draw.randrange(PAGE))))
        try:
            problems = verify(root)
        except DataError:
            problems = ['not even a header']
        found += bool(problems)
        try:
            assert checksums(LmdbReader(root)) == wanted or problems
        except DataError:
            assert problems
        (root / 'data.mdb').write_bytes(whole)
    assert 20 < found < 100


def test_info(made, tmp_path):
    found = info(made)
    assert (found.images, found.photographs, found.checksums) == (5, None, True)
    assert found.size == sum(size for _, size in records(made).values())
    assert found.formats == {'png': 4, 'jpg': 1}
    assert found.levels == {0: 5}
    assert found.file_size == (made / 'data.mdb').stat().st_size
    with lmdb.open(str(made), readonly=True, lock=False) as env:
        assert found.header.page_size == env.stat()['psize']
        assert found.header.last_page == env.info()['last_pgno']
    for number, side in enumerate((30, 9, 20)):
        write_image(tmp_path / 'more' / f'{number}.png', picture(number, side, 50))
    create(tmp_path / 'more', tmp_path / 'cut.lmdb', crop_size=20, step=15)
    cut = info(tmp_path / 'cut.lmdb')
    assert (cut.images, cut.photographs, cut.levels) == (12, 3, {1: 12})
    assert (cut.dimensions[0], cut.dimensions[-1]) == ((9, 20, 3), (20, 20, 3))


def test_values_need_not_be_images_to_be_read(tmp_path):
    """The reader hands out bytes; what they are is the decoder's business."""
    root = tmp_path / 'raw.lmdb'
    root.mkdir()
    edit(root, lambda transaction: transaction.put(b'raw', b'no image'))
    (root / 'meta_info.txt').write_text('raw.png (1,1,3) 1\n')
    assert LmdbReader(root).get('raw') == b'no image'
    assert kinds(verify(root)) == {'raw': 'undecodable'}
    with lmdb.open(str(root)) as env, env.begin(write=True) as transaction:
        transaction.put(b'raw', encode_image(picture(0, 1, 1), '.png'))
    assert verify(root) == []
