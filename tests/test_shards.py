"""Shards: written so that nothing half-finished counts, read at random by any process, and shared with other tools."""

import multiprocessing
import os
import pickle
import subprocess

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from basicsr import shards
from basicsr.data import build_dataset
from basicsr.errors import DataError
from basicsr.image_source import open_source
from basicsr.shard_index import index_path, member_key, scan, split_name
from basicsr.shard_writer import create, verify, write_indexes
from basicsr.shards import ShardReader

from .shard_files import all_of, fill, pack_tar, png

# ---- what is written is what is read ------------------------------------------------------------------------------


def test_written_images_are_read_back_under_their_stems(tmp_path):
    content = fill(tmp_path / 'in')
    manifest = create({'': [tmp_path / 'in']}, tmp_path / 'out', max_count=4)
    reader = ShardReader(tmp_path / 'out')
    assert all_of(reader) == content
    assert reader.parts == [4, 4, 1]
    assert reader.keys[:3] == ['1', '2', '10']  # natural order
    assert manifest['samples'] == len(reader) == 9
    assert reader.names['a/0001_0.8_0.2'] == 'a/0001_0.8_0.2.png'
    assert dict(reader.names) == {stem: f'{stem}.png' for stem in content}
    assert list(verify(tmp_path / 'out')) == []


def test_keys_behave_like_a_list(tmp_path):
    fill(tmp_path / 'in', ['a', 'b', 'c'])
    create({'': [tmp_path / 'in']}, tmp_path / 'out')
    reader = ShardReader(tmp_path / 'out')
    keys = reader.keys
    assert keys == ['a', 'b', 'c']
    assert keys != ['a', 'b', 'd']
    assert (keys[0], keys[-1], keys[1:]) == ('a', 'c', ['b', 'c'])
    assert 'b' in keys
    assert 'd' not in keys
    assert 'd' not in reader
    assert reader.names.get('d', 'none') == 'none'
    with pytest.raises(IndexError):
        keys[3]


def test_pairs_share_a_shard_and_are_read_by_field(tmp_path):
    clean, degraded = fill(tmp_path / 'gt'), fill(tmp_path / 'lq', first=50)
    create({'gt': [tmp_path / 'gt'], 'lq': [tmp_path / 'lq']}, tmp_path / 'out', max_count=2)
    gt, lq = (ShardReader(tmp_path / 'out', field) for field in ('gt', 'lq'))
    assert (all_of(gt), all_of(lq)) == (clean, degraded)
    assert list(gt.keys) == list(lq.keys)
    assert gt.parts == lq.parts == [2, 2, 2, 2, 1]
    assert all_of(ShardReader(tmp_path / 'out', 'lq.png')) == degraded
    for field, words in ((None, 'one must be named: gt, lq'), ('depth', "no field 'depth'; they hold gt, lq")):
        with pytest.raises(DataError, match=words):
            ShardReader(tmp_path / 'out', field)


def test_a_data_set_reads_pairs_from_shards(tmp_path):
    for i, side in enumerate(('gt', 'lq')):
        fill(tmp_path / side, ['1', '2', '3'], first=9 * i)
    create({'gt': [tmp_path / 'gt'], 'lq': [tmp_path / 'lq']}, tmp_path / 'out', max_count=2)
    out = str(tmp_path / 'out')
    sets = [build_dataset({'type': 'PairedImageDataset', 'dataroot_gt': g, 'dataroot_lq': q, 'phase': 'val'})
            for g, q in ((out, out), (str(tmp_path / 'gt'), str(tmp_path / 'lq')))]  # fmt: skip
    assert sets[0].parts == [2, 1]
    for i in range(3):
        a, b = sets[0][i], sets[1][i]
        assert a['key'] == b['key']
        assert np.array_equal(a['gt'], b['gt'])
        assert np.array_equal(a['lq'], b['lq'])


@given(
    st.lists(st.text(st.characters(blacklist_characters='/\0', blacklist_categories=['Cs']), min_size=1), min_size=1)
)
def test_any_stem_survives_as_a_key(parts):
    stem = '/'.join(parts)
    if stem.startswith('.') or stem.startswith('__') or any(p in ('.', '..') for p in parts):
        return
    assert split_name(f'{member_key(stem)}.gt.png') == (stem, 'gt.png')


def test_keys_of_the_same_checksum_are_told_apart(tmp_path):
    content = fill(tmp_path / 'in', ['plumless', 'buckeroo', 'other'])  # CRC-32 of the first two: 4DDB0C25
    create({'': [tmp_path / 'in']}, tmp_path / 'out')
    assert all_of(ShardReader(tmp_path / 'out')) == content


# ---- other tools --------------------------------------------------------------------------------------------------


def test_webdataset_reads_our_shards(tmp_path):
    clean, degraded = fill(tmp_path / 'gt'), fill(tmp_path / 'lq', first=50)
    create({'gt': [tmp_path / 'gt'], 'lq': [tmp_path / 'lq']}, tmp_path / 'out', max_count=4)
    urls = [str(f) for f in sorted((tmp_path / 'out').glob('*.tar'))]
    found = {s['__key__']: s for s in webdataset.WebDataset(urls, shardshuffle=False)}
    assert set(found) == {member_key(stem) for stem in clean}
    assert 'a/0001_0%2E8_0%2E2' in found
    for stem in clean:
        assert (found[member_key(stem)]['gt.png'], found[member_key(stem)]['lq.png']) == (clean[stem], degraded[stem])


def test_we_read_what_webdataset_wrote(tmp_path):
    content = {f'a/{i:03d}': png(i) for i in range(25)}
    with webdataset.ShardWriter(str(tmp_path / 'w-%06d.tar'), maxcount=10, verbose=0) as writer:
        for key, data in content.items():
            writer.write({'__key__': key, 'png': data, 'json': {'n': 1}, 'mask.png': png(99)})
    reader = ShardReader(tmp_path)
    assert all_of(reader) == content
    assert reader.parts == [10, 10, 5]
    assert set(all_of(ShardReader(tmp_path, 'mask')).values()) == {png(99)}
    assert index_path(tmp_path / 'w-000001.tar').exists()


@pytest.mark.parametrize('form', ['gnu', 'posix', 'ustar', 'v7', 'oldgnu'])
def test_we_read_what_gnu_tar_wrote(tmp_path, form):
    stems = ['1', 'a/b', 'a/c'] if form == 'v7' else ['1', 'a/b', 'é/c', 'd' * 90 + '/' + 'e' * 90]
    stems += ['x' * 140, 'deep/' * 60 + 'y'] if form in ('gnu', 'posix', 'oldgnu') else []
    content = fill(tmp_path / 'in', stems)
    (tmp_path / 'in/notes.txt').write_text('not an image')
    subprocess.run(['tar', f'--format={form}', '-C', tmp_path / 'in', '-cf', tmp_path / 't.tar', '.'], check=True)
    assert all_of(ShardReader(tmp_path / 't.tar')) == content


def test_a_hard_link_is_followed_and_a_symbolic_one_refused(tmp_path):
    content = fill(tmp_path / 'in', ['a'])
    os.link(tmp_path / 'in/a.png', tmp_path / 'in/b.png')
    subprocess.run(['tar', '-C', tmp_path / 'in', '-cf', tmp_path / 't.tar', 'a.png', 'b.png'], check=True)
    assert all_of(ShardReader(tmp_path / 't.tar')) == {'a': content['a'], 'b': content['a']}
    (tmp_path / 'in/c.png').symlink_to('a.png')
    subprocess.run(['tar', '-C', tmp_path / 'in', '-cf', tmp_path / 'u.tar', 'a.png', 'c.png'], check=True)
    with pytest.raises(DataError, match=r"'c\.png' as a link"):
        ShardReader(tmp_path / 'u.tar')


def test_an_index_is_kept_beside_a_foreign_shard_or_in_memory(tmp_path):
    for name in ('a', 'b'):
        pack_tar(tmp_path / f'{name}.tar', [(f'{name}{i}.png', png(i)) for i in range(3)])
    index_path(tmp_path / 'b.tar').mkdir()  # where no index can be written
    reader = ShardReader(tmp_path)
    assert index_path(tmp_path / 'a.tar').is_file()
    assert len(all_of(reader)) == 6
    assert pickle.loads(pickle.dumps(reader)).get('b2') == png(2)
    index_path(tmp_path / 'b.tar').rmdir()
    assert write_indexes(tmp_path) == 1
    assert write_indexes(tmp_path) == 0


def test_shards_are_recognised_by_the_image_source(tmp_path):
    content = fill(tmp_path / 'in', ['a', 'b.c'])
    create({'': [tmp_path / 'in']}, tmp_path / 'out')
    source = open_source(tmp_path / 'out', 'gt')
    assert source.kind == 'shards'
    assert list(source.stems) == list(content)
    assert source.pixels('b.c').shape == (12, 12, 3)


# ---- what is wrong is named ---------------------------------------------------------------------------------------


@pytest.fixture
def tar(tmp_path):
    return pack_tar(tmp_path / 's/shard-3.tar', [(f'a/{i}.png', png(i, 40)) for i in range(5)])


@pytest.mark.parametrize('indexed', [False, True])
def test_a_shard_that_is_cut_short_is_named_with_the_member(tar, indexed):
    if indexed:
        ShardReader(tar)
    members, whole = scan(tar), tar.read_bytes()
    last = members[-1]
    cuts = {
        members[3].offset + 100: r"member 'a/3\.png'", members[3].offset - 200: r"after member 'a/2\.png'",
        last.offset + last.length - 1: r"member 'a/4\.png'", -(-(last.offset + last.length) // 512) * 512: 'zeros',
    }  # fmt: skip
    for cut, words in cuts.items():
        tar.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=rf"shard-3\.tar' is .*cut short.*{words}"):
            ShardReader(tar)


def test_a_damaged_header_does_not_end_a_shard_silently(tar):
    data = bytearray(tar.read_bytes())
    data[scan(tar)[2].offset - 512 + 3] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DataError, match=r"shard-3\.tar' is damaged after member 'a/1\.png'"):
        ShardReader(tar)


def test_a_shard_that_shrinks_while_it_is_read_is_named(tar):
    reader = ShardReader(tar)
    reader.get('a/0')
    os.truncate(tar, scan(tar)[4].offset + 10)
    with pytest.raises(DataError, match=r"shard-3\.tar' is cut short: member 'a/4\.png'"):
        reader.get('a/4')


def test_another_tar_file_of_the_same_size_is_not_read_by_the_old_index(tar):
    ShardReader(tar)
    data = tar.read_bytes()
    pack_tar(tar, [(f'a/{i}.png', png(i, 40)) for i in (0, 1, 4, 3)] + [('a/9.png', png(2, 40))])
    assert tar.stat().st_size == len(data)
    with pytest.raises(DataError, match=r"shard-3\.tar' is not the file that 'shard-3\.tar\.index' was made from"):
        ShardReader(tar).get('a/2')


def test_a_shard_that_has_grown_is_indexed_anew(tar):
    assert len(ShardReader(tar)) == 5
    pack_tar(tar, [(f'a/{i}.png', png(i, 40)) for i in range(30)])
    assert len(ShardReader(tar)) == 30


@pytest.mark.parametrize('content', [b'', b'not a tar file' * 100, b'\x1f\x8b' + b'x' * 1000, bytes(1024)])
def test_what_is_no_shard_is_refused(tmp_path, content):
    (tmp_path / 'x.tar').write_bytes(content)
    with pytest.raises(DataError, match=r'x\.tar|hold no image'):
        ShardReader(tmp_path if any(content) or not content else tmp_path / 'x.tar')


def test_packed_shards_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r'holds no shard \(\*\.tar\)\.'):
        ShardReader(tmp_path)
    (tmp_path / 'x.tar.gz').write_bytes(b'')
    with pytest.raises(DataError, match=r'x\.tar\.gz and its like must be unpacked'):
        ShardReader(tmp_path)
    with pytest.raises(DataError, match='neither a folder nor a tar file'):
        ShardReader(tmp_path / 'nowhere')


@pytest.mark.parametrize('second', ['y/a.png', 'x/a.jpg'])
def test_a_key_that_is_there_twice_is_named(tmp_path, second):
    pack_tar(tmp_path / '1.tar', [('x/a.png', png(1)), ('y/b.png', png(1))])
    other = 'x/a.png' if second.startswith('y') else second
    pack_tar(tmp_path / '2.tar', [('x/c.png', png(1)), (other, png(2))])
    with pytest.raises(DataError, match=r"Image 'x/a' is twice in the shards, in .*1\.tar/x/a\.png' and in .*2\.tar"):
        ShardReader(tmp_path)


def test_an_unknown_key_is_named(tar):
    with pytest.raises(DataError, match="hold no image 'a/7'"):
        ShardReader(tar).get('a/7')


def test_a_missing_shard_is_named(tmp_path):
    fill(tmp_path / 'in')
    create({'': [tmp_path / 'in']}, tmp_path / 'out', max_count=4)
    (tmp_path / 'out/shard-000001.tar').unlink()
    with pytest.raises(DataError, match=r"lacks 1 of the shards .* such as 'shard-000001\.tar'"):
        ShardReader(tmp_path / 'out')


# ---- any process --------------------------------------------------------------------------------------------------


def child(reader, keys, out):
    out.put([reader.get(key) for key in keys])


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_a_reader_works_in_other_processes(tmp_path, method):
    content = fill(tmp_path / 'in')
    create({'': [tmp_path / 'in']}, tmp_path / 'out', max_count=2)
    reader = ShardReader(tmp_path / 'out')
    assert all_of(reader) == content  # its files are open when the others begin
    context = multiprocessing.get_context(method)
    out = context.SimpleQueue()
    process = context.Process(target=child, args=(reader, list(content), out))
    process.start()
    assert out.get() == list(content.values())
    process.join()
    assert all_of(reader) == content


def test_a_reader_holds_a_limited_number_of_files_open(tmp_path):
    for i in range(shards.MOST_OPEN + 30):
        pack_tar(tmp_path / f'{i}.tar', [(f'{i}.png', b'x' * i)])
    reader = ShardReader(tmp_path)
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(2):
        assert [len(reader.get(key)) for key in reader.keys] == list(range(shards.MOST_OPEN + 30))
    assert len(os.listdir('/proc/self/fd')) - before <= shards.MOST_OPEN
    del reader
    assert len(os.listdir('/proc/self/fd')) <= before


def test_a_pickled_reader_is_small(tmp_path):
    pack_tar(tmp_path / 'x.tar', [(f'folder/of/some/length/{i:08d}.png', b'x') for i in range(2000)])
    assert len(pickle.dumps(ShardReader(tmp_path))) < 12 * 2000
