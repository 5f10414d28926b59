"""Option files as text: scalars, places of keys, includes, overrides."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr.errors import OptionError
from basicsr.yaml_io import Mark, dump_yaml, override, parse_value, read_document


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('1e-4', 1e-4), ('2e5', 2e5), ('-1', -1), ('-0.5', -0.5), ('+3', 3), ('.5', 0.5), ('1.', 1.0), ('-2E-3', -2e-3),
        ('1_000', 1000), ('0x10', 16), ('0', 0), ('true', True), ('False', False), ('~', None),
        ('null', None), ('', None),
        ('[1, 2e-1]', [1, 0.2]), ('{lr: 1e-3}', {'lr': 1e-3}), ('.inf', float('inf')),
        ('2026-11-21', '2026-11-21'), ('1:30', '1:30'), ('007', '007'), ('e3', 'e3'), ('a=b', 'a=b'), ('1e', '1e'),
    ],
)  # fmt: skip
def test_scalars_mean_what_an_option_file_means(text, value):
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)


def test_explicit_float_tag_of_basicsr_files(write):
    values = read_document(write('a.yml', 'lr: !!float 1e-4\nval_freq: !!float 5e3\n')).values
    assert values == {'lr': 1e-4, 'val_freq': 5000.0}


def test_every_key_remembers_its_line(write):
    file = write(
        'a.yml', '# comment\nname: a\ntrain:\n  optim_g: {type: Adam,\n    lr: 1}\n  steps:\n  - 1\n  - {k: 2}\n'
    )
    marks = read_document(file).marks
    expected = {
        ('name',): 2, ('train',): 3, ('train', 'optim_g'): 4, ('train', 'optim_g', 'type'): 4,
        ('train', 'optim_g', 'lr'): 5, ('train', 'steps', 0): 7, ('train', 'steps', 1): 8,
        ('train', 'steps', 1, 'k'): 8,
    }  # fmt: skip
    assert {path: marks[path] for path in expected} == {path: Mark(str(file), line) for path, line in expected.items()}
    assert str(marks[('name',)]) == f'{file}:2'


def test_place_of_an_unwritten_key_is_that_of_its_block(write):
    document = read_document(write('a.yml', 'name: a\ntrain:\n  x: 1\n'))
    assert document.mark(('train', 'missing', 'deeper')).line == 2


# Includes


def test_base_is_merged_and_the_including_file_wins(write):
    write('base/low.yml', {'name': 'low', 'train': {'x': 1, 'list': [1, 2]}, 'kept': 1})
    write('base/high.yml', {'_base_': 'low.yml', 'name': 'high', 'train': {'y': 2}})
    document = read_document(write('own.yml', {'_base_': 'base/high.yml', 'train': {'y': 3, 'list': [9]}}))
    assert document.values == {'name': 'high', 'train': {'x': 1, 'list': [9], 'y': 3}, 'kept': 1}
    assert document.mark(('train', 'x')).source.endswith('low.yml')
    assert document.mark(('name',)).source.endswith('high.yml')
    assert document.mark(('train', 'list', 0)).source.endswith('own.yml')


def test_of_several_bases_the_later_wins(write):
    write('a.yml', {'x': 'a', 'only_a': 1})
    write('b.yml', {'x': 'b'})
    assert read_document(write('own.yml', {'_base_': ['a.yml', 'b.yml']})).values == {'x': 'b', 'only_a': 1}


def test_a_block_of_another_type_replaces_that_of_the_base(write):
    write('a.yml', {'net': {'type': 'A', 'only_a': 1}, 'same': {'type': 'A', 'x': 1}})
    document = read_document(write('own.yml', {'_base_': 'a.yml', 'net': {'type': 'B'}, 'same': {'type': 'A', 'y': 2}}))
    assert document.values == {'net': {'type': 'B'}, 'same': {'type': 'A', 'x': 1, 'y': 2}}
    assert ('net', 'only_a') not in document.marks


@pytest.mark.parametrize('base', [5, None, {'a': 1}, [1]])
def test_base_of_a_wrong_type_is_refused(write, base):
    with pytest.raises(OptionError, match=r"own.yml:2: '_base_' takes a path or a list of paths"):
        read_document(write('own.yml', {'name': 'x', '_base_': base}))


def test_missing_base_and_circle_are_refused(write):
    with pytest.raises(OptionError, match=r"own.yml:1: '_base_' names .*none.yml, which does not exist"):
        read_document(write('own.yml', {'_base_': 'none.yml'}))
    write('a.yml', {'_base_': 'b.yml'})
    with pytest.raises(OptionError, match=r'_base_ includes itself: .*a.yml -> .*b.yml -> .*a.yml'):
        read_document(write('b.yml', {'_base_': 'a.yml'}).with_name('a.yml'))


# What YAML offers beyond that


def test_anchors_merge_without_counting_as_repeated(write):
    text = 'a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: *a\n'
    assert read_document(write('a.yml', text)).values == {
        'a': {'x': 1, 'y': 2},
        'b': {'x': 1, 'y': 3},
        'c': {'x': 1, 'y': 2},
    }


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a: 1\nb:\n  c: 1\n  c: 2\n', r"a.yml:[34]: key 'b.c' is given twice"),
        ('a: &x [*x]\n', r"a.yml:1: 'a.0' holds itself"),
        ('? [a, b]\n: 1\n', r'a.yml:1: a key must be a word'),
        ('a: 1\nb: [1, 2\nc: 3\n', r'a.yml:3: not valid YAML'),
        ('a: 1\n\tb: 2\n', r'a.yml:2: not valid YAML'),
        ('a: !!float abc\n', r"a.yml:1: 'abc' is not a value of"),
        ('a: 1\nb: !!timestamp 2026-11-21\n', r'a.yml:2: not valid YAML'),
        ('- a\n- b\n', r'a.yml: an option file holds "key: value" lines'),
        ('', r'a.yml: an option file holds "key: value" lines'),
        ('a: ${QUALIR_NOT_SET}\n', r'a.yml:1: the environment variable QUALIR_NOT_SET is not set'),
    ],
)
def test_broken_files_are_refused_with_their_line(write, text, message):
    with pytest.raises(OptionError, match=message):
        read_document(write('a.yml', text))


def test_unreadable_files_are_refused(write, tmp_path):
    with pytest.raises(OptionError, match=r'none.yml cannot be read: No such file'):
        read_document(tmp_path / 'none.yml')
    (tmp_path / 'image.yml').write_bytes(b'\x89PNG\xff\xfe')
    with pytest.raises(OptionError, match=r'image.yml cannot be read: it is not a text file'):
        read_document(tmp_path / 'image.yml')


def test_a_file_can_run_no_code(write, tmp_path):
    marker = tmp_path / 'touched'
    with pytest.raises(OptionError, match='not valid YAML'):
        read_document(write('a.yml', f'a: !!python/object/apply:os.system ["touch {marker}"]\n'))
    with pytest.raises(OptionError, match='is not a YAML value'):
        parse_value(f'!!python/object/apply:os.system ["touch {marker}"]')
    assert not marker.exists()


def test_environment_variables_are_replaced_and_typed(write, monkeypatch):
    monkeypatch.setenv('QUALIR_TEST', '8')
    text = "plain: ${QUALIR_TEST}\nquoted: '${QUALIR_TEST}'\npart: /data/${QUALIR_TEST}/x\ntemplate: '{}x4'\n"
    values = read_document(write('a.yml', text)).values
    assert values == {'plain': 8, 'quoted': '8', 'part': '/data/8/x', 'template': '{}x4'}


def test_keys_are_names_however_yaml_would_read_them(write):
    assert read_document(write('a.yml', 'on: 1\n001: 2\n~: 3\n')).values == {'on': 1, '001': 2, '~': 3}


# Overrides


@pytest.fixture
def document(write):
    return read_document(write('a.yml', 'a: 1\nb: {c: 2, d: [x, {e: 3}]}\nempty:\n'))


@pytest.mark.parametrize(
    ('text', 'path', 'value'),
    [
        ('a=-1', ('a',), -1),
        ('b:c=1e-4', ('b', 'c'), 1e-4),
        ('b:c=-0.5', ('b', 'c'), -0.5),
        ('b:c=x=y:z', ('b', 'c'), 'x=y:z'),
        ('b:d:0=y', ('b', 'd', 0), 'y'),
        ('b:d:1:e=[1, 2]', ('b', 'd', 1, 'e'), [1, 2]),
        ('b:c={f: 1e-3}', ('b', 'c'), {'f': 1e-3}),
        ('empty:new:deep=true', ('empty', 'new', 'deep'), True),
        ('b:c=null', ('b', 'c'), None),
        ('b:c=', ('b', 'c'), None),
        ('b:c=[unclosed', ('b', 'c'), '[unclosed'),
        (' b : c = 5', ('b', 'c'), 5),
    ],
)
def test_override_sets_a_typed_value(document, text, path, value):
    override(document, text)
    node = document.values
    for key in path:
        node = node[key]
    assert node == value
    assert type(node) is type(value)
    assert str(document.mark(path)) == f'--force_yml {text}'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a', 'write key:subkey=value'),
        ('=1', 'write key:subkey=value'),
        ('b::c=1', 'write key:subkey=value'),
        ('a:b=1', "'a' holds no further keys"),
        ('b:d:2=y', "'b.d' is a list; '2' is no number of it: 0 to 1"),
        ('b:d:x:e=y', "'b.d' is a list; 'x' is no number of it"),
        ('b:d:-1=y', "'-1' is no number of it"),
    ],
)
def test_override_that_cannot_be_applied_is_refused(document, text, message):
    with pytest.raises(OptionError) as caught:
        override(document, text)
    assert str(caught.value).startswith(f'--force_yml {text}: ')
    assert message in str(caught.value)


def test_a_later_override_of_the_whole_block_forgets_the_earlier(document):
    override(document, 'b:c=7')
    override(document, 'b={c: 8}')
    assert document.values['b'] == {'c': 8}
    assert str(document.mark(('b', 'c'))) == '--force_yml b={c: 8}'
    assert ('b', 'c') not in document.texts


# Writing

LETTERS = st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from('\né漢')
KEYS = st.from_regex(r'[a-z_]{1,6}', fullmatch=True)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(LETTERS, max_size=12)
    | st.sampled_from(['1e-4', '007', '1:30', '2026-11-21', 'yes', '~', 'null', '.5', '0x1', '=', '<<', 'a: b', '# c']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.from_regex(r'[a-z]{2,6}', fullmatch=True), PLAIN, max_size=4))
def test_what_is_written_is_read_back_by_us_and_by_others(values):
    text = dump_yaml(values)
    assert parse_value(text) == values
    assert yaml.safe_load(text) == values
