"""What a constructor says about the block that feeds it."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
import torch

from basicsr.annotations import NotYaml, convert, describe, infer
from basicsr.errors import OptionError
from basicsr.registry import Registry
from basicsr.schema import (
    Block,
    Field,
    Keys,
    Problems,
    Range,
    check_block,
    check_value,
    checked_arguments,
    fields_of,
    section_fields,
    show_value,
)
from basicsr.sections import TrainOptions
from basicsr.yaml_io import Document, Mark

FITS = [
    (int, 3, 3), (int, 5e3, 5000), (float, 1, 1.0), (bool, True, True), (str, 'x', 'x'),
    (int | None, None, None), (float | None, 2, 2.0), (float | int, 2, 2), (int | str, '2', '2'),
    (list[int], [1, 2], [1, 2]), (list[float], [1, 2], [1.0, 2.0]), (list[int], [], []),
    (tuple[float, float], [1, 2], (1.0, 2.0)), (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
    (Literal['a', 'b'], 'a', 'a'), (Literal['auto'] | int, 4, 4), (dict, {'a': 1}, {'a': 1}),
    (dict[str, float], {'a': 1}, {'a': 1.0}), (Any, {'a': [1]}, {'a': [1]}),
    (Annotated[int, Range(1)], 1, 1), (Annotated[float, Range(0, 1)], 1, 1.0),
    (Annotated[int, Range(1)] | None, None, None),
    (float | torch.Tensor, 1, 1.0),
]  # fmt: skip
MISFITS = [
    (int, 1.5), (int, '3'), (int, True), (int, None), (float, '1'), (float, False), (float, None), (bool, 1),
    (float, float('nan')),
    (bool, 'yes'),
    (str, 1), (str, None), (list[int], 3), (list[int], ['a']), (list[int], '12'), (tuple[float, float], [1]),
    (tuple[float, float], [1, 2, 3]), (Literal['a'], 'c'), (Literal[1], True), (dict, [1]),
    (dict[str, float], {'a': 'b'}),
    (Annotated[int, Range(1)], 0), (Annotated[float, Range(0, 1)], 1.5), (Annotated[float, Range(0, 1)], float('nan')),
    (list[Annotated[int, Range(1)]], [1, 0]), (int | None, 'x'), (torch.nn.Module, 'x'), (Callable, 'x'), (NotYaml, 3),
]  # fmt: skip


@pytest.mark.parametrize(('annotation', 'value', 'expected'), FITS, ids=str)
def test_fitting_values_are_converted(annotation, value, expected):
    ok, converted = convert(value, annotation)
    assert ok
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(('annotation', 'value'), MISFITS, ids=str)
def test_other_values_do_not_fit(annotation, value):
    assert not convert(value, annotation)[0]


@pytest.mark.parametrize(
    ('annotation', 'words'),
    [
        (int, 'int'), (float | torch.Tensor, 'float'), (list[int] | None, 'list of int or null'),
        (tuple[float, float], '[float, float]'), (Annotated[int, Range(1)], 'int at least 1'),
        (Annotated[float, Range(0, 1)] | None, 'float from 0 to 1 or null'), (Literal['auto'] | int, 'auto or int'),
        (Annotated[dict, Block('loss')] | None, 'block with a type (loss) or null'),
        (Annotated[list[dict], Block('degradation')], 'list of blocks with a type (degradation)'),
        (dict[str, Annotated[dict, Block('metric')]], 'mapping of blocks with a type (metric)'),
        (torch.nn.Module, 'a Python object, which an option file cannot give'),
    ],
)  # fmt: skip
def test_annotations_in_words(annotation, words):
    assert describe(annotation) == words


def test_unannotated_parameters_take_the_type_of_their_default():
    assert [infer(d) for d in (True, 'x', (1, 2), [1], {})] == [bool, str, list, list, dict]
    assert convert(0.2, infer(1)) == (True, 0.2)  # `res_scale=1` is given 0.2 in published files
    assert not convert('x', infer(1.0))[0]
    assert not convert('LayerNorm', infer(torch.nn.LayerNorm))[0]
    assert convert('anything', infer(None))[0]


# Constructors


class Base:
    """A base.

    Args:
        width: Number of channels,
            in two lines.
        depth (int): Number of blocks.
    """

    def __init__(self, width: int = 8, depth: int = 2) -> None:
        self.width, self.depth = width, depth


class Child(Base):
    """A child that passes what it does not know on to its base.

    Args:
        gain: Factor.
        depth: The child's own words about ``depth``.
    """

    def __init__(self, gain: Annotated[float, Range(0)], act=torch.nn.ReLU, **kwargs) -> None:
        super().__init__(**kwargs)
        self.gain, self.act = gain, act


class Silent(Child):
    pass


def test_fields_are_those_of_the_constructor_and_of_the_bases_it_passes_on_to():
    fields = fields_of(Child)
    assert list(fields) == ['gain', 'act', 'width', 'depth']
    assert fields['gain'].required
    assert not fields['width'].required
    assert fields['width'].doc == 'Number of channels, in two lines.'
    assert fields['depth'].doc == "The child's own words about depth."
    assert list(fields_of(Silent)) == list(fields)
    assert list(fields_of(Child, frozenset({'gain'}))) == ['act', 'width', 'depth']


def test_every_field_of_a_fixed_section_is_described():
    fields = section_fields(TrainOptions)
    assert fields['total_iter'].required
    assert all(f.doc for f in fields.values())


def check(block, fields):
    problems = Problems(
        Document(block, {(): Mark('f.yml', 1), **{(k,): Mark('f.yml', i) for i, k in enumerate(block, 2)}})
    )
    checked = check_block(problems, (), block, fields)
    return checked, [f'{mark}: {text}' for mark, text in problems.found]


def test_a_block_is_checked_whole_and_every_problem_is_told():
    checked, problems = check({'gian': 1.0, 'width': 'wide', 'depth': 3.0}, fields_of(Child))
    assert checked['depth'] == 3
    assert problems == [
        "f.yml:2: key 'gian' is not known. Did you mean 'gain'? Allowed here: act, depth, gain, width.",
        "f.yml:3: 'width' is 'wide' (str); allowed: int.",
        "f.yml:1: key 'gain' is missing: float at least 0. Factor.",
    ]


def test_a_key_like_no_other_is_told_to_go():
    _, problems = check({'gain': 1.0, 'zzz': 1}, fields_of(Child))
    assert problems == ["f.yml:3: key 'zzz' is not known. Remove it. Allowed here: act, depth, gain, width."]


def test_values_inside_lists_and_mappings_are_told_by_their_place():
    fields = {
        'sizes': Field('sizes', list[Annotated[int, Range(1)]], None, ''),
        'cloud': Field('cloud', dict[Literal['project', 'mode'], str | None], None, ''),
    }
    _, problems = check({'sizes': [1, 0, 'x'], 'cloud': {'project': None, 'mod': 'a', 'mode': 3}}, fields)
    assert problems == [
        "f.yml:2: 'sizes.1' is 0 (int); allowed: int at least 1.",
        "f.yml:2: 'sizes.2' is 'x' (str); allowed: int at least 1.",
        "f.yml:3: key 'cloud.mod' is not known. Did you mean 'mode'? Allowed here: mode, project.",
        "f.yml:3: 'cloud.mode' is 3 (int); allowed: str or null.",
    ]


@pytest.mark.parametrize('annotation', [Annotated[dict, Block('loss')], Annotated[list[dict], Block('loss')],
                                        dict[str, Annotated[dict, Block('loss')]]], ids=describe)  # fmt: skip
def test_nested_blocks_are_followed(annotation):
    inner = {'type': 'L1Loss', 'los_weight': 1}
    value = {'block': inner, 'list': [inner], 'mapping': {'a': inner}}[describe(annotation).split(' ')[0]]
    problems = Problems(Document({}, {(): Mark('f.yml', 1)}))
    check_value(problems, ('key',), value, annotation)
    (_, text), = problems.found  # fmt: skip
    assert "los_weight' is not known. Did you mean 'loss_weight'?" in text


def test_a_block_without_a_type_has_the_keys_of_a_class():
    fields = {'inner': Field('inner', Annotated[dict, Keys(Base)] | None, None, '')}
    checked, problems = check({'inner': {'width': 4.0}}, fields)
    assert (checked, problems) == ({'inner': {'width': 4}}, [])
    assert check({'inner': None}, fields) == ({'inner': None}, [])
    _, problems = check({'inner': {'widht': 4, 'depth': [1]}}, fields)
    assert problems == [
        "f.yml:2: key 'inner.widht' is not known. Did you mean 'width'? Allowed here: depth, width.",
        "f.yml:2: 'inner.depth' is [1] (list); allowed: int.",
    ]
    _, problems = check({'inner': 'abc'}, fields)
    assert problems == ["f.yml:2: 'inner' is 'abc' (str); allowed: a block with the keys width, depth."]
    assert describe(fields['inner'].annotation) == 'mapping with the keys of Base or null'


def test_a_scorer_is_a_file_or_a_block():
    fields = {'scorer': Field('scorer', str | Annotated[dict, Block('scorer')], None, '')}
    assert check({'scorer': 'options/iqa/offline.yml'}, fields)[1] == []
    assert check({'scorer': {'type': 'NIQE'}}, fields)[1] == []
    (problem,) = check({'scorer': {'typ': 'NIQE'}}, fields)[1]
    assert "key 'scorer.typ' is not known. Did you mean 'type'?" in problem
    (problem,) = check({'scorer': ['NIQE']}, fields)[1]
    assert "'scorer' is [NIQE] (list); allowed: " in problem or "'scorer' is ['NIQE'] (list); allowed: " in problem


def test_values_are_shown_as_yaml_writes_them():
    assert show_value({'a': [None, True, 1.5, 'x']}) == "{a: [null, true, 1.5, 'x']}"
    assert len(show_value('x' * 500)) == 80


# Building from a dict

ZOO = Registry('animal', 'no_such_package', '*.py')
ZOO.register(Child)


def test_arguments_of_a_dict_are_checked_and_the_dict_is_left_alone():
    block = {'type': 'Child', 'gain': 1, 'width': 4.0}
    target, arguments = checked_arguments(ZOO, block)
    assert (target, arguments) == (Child, {'gain': 1.0, 'width': 4})
    assert block == {'type': 'Child', 'gain': 1, 'width': 4.0}


def test_a_program_may_pass_objects_that_yaml_cannot_hold():
    _, arguments = checked_arguments(ZOO, {'type': 'Child', 'gain': 1.0, 'act': torch.nn.GELU})
    assert arguments['act'] is torch.nn.GELU


@pytest.mark.parametrize(
    ('block', 'message'),
    [
        (
            {'type': 'Child', 'gain': 1.0, 'widht': 4},
            r"animal Child: key 'widht' is not known. Did you mean 'width'\? Allowed",
        ),
        ({'type': 'Child'}, r"animal Child: key 'gain' is missing: float at least 0"),
        ({'type': 'Child', 'gain': -1}, r"animal Child: 'gain' is -1 \(int\); allowed: float at least 0"),
        ({'type': 'Child', 'gain': 1, 'act': 'ReLU'}, r"'act' is 'ReLU' \(str\); allowed: a Python object"),
        ({'gain': 1}, r"animal options: a dict with the key 'type' is needed, not \{gain: 1\}"),
        ('Child', r"a dict with the key 'type' is needed, not 'Child'"),
        ({'type': 'Chld'}, r"No animal named 'Chld'. Did you mean Child\?"),
    ],
)
def test_a_wrong_dict_is_refused(block, message):
    with pytest.raises(OptionError, match=message):
        checked_arguments(ZOO, block)
