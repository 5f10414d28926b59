"""``--explain`` says what an option file may hold, and says the truth."""

import re

import pytest

from basicsr.errors import OptionError
from basicsr.explain import SECTIONS, explain
from basicsr.registry import REGISTRIES
from basicsr.schema import fields_of_type, registry_of, section_fields

LINE = re.compile(r'^  (\w+)  +(\S.*?)  +(required|default \S.*?)(?:  +(\S.*))?$')


def keys_of(text):
    return [match[1] for line in text.splitlines() if (match := LINE.match(line))]


@pytest.mark.parametrize('section', [s for s in SECTIONS if s])
def test_a_section_is_explained_key_by_key(section):
    text = explain(section)
    assert keys_of(text)[: len(section_fields(SECTIONS[section]))] == list(section_fields(SECTIONS[section]))


def test_nothing_asked_shows_the_top_of_an_option_file_and_how_to_go_on():
    text = explain('')
    assert keys_of(text) == list(section_fields(SECTIONS['']))
    for word in ('network_g', 'optim_g', 'degradations', 'pixel_opt', 'metrics', 'dist_params'):
        assert word in text


@pytest.mark.parametrize(
    ('topic', 'kind'),
    [
        ('network_g', 'arch'), ('model_type', 'model'), ('optim_g', 'optimizer'), ('train.scheduler', 'scheduler'),
        ('train:pixel_opt', 'loss'), ('losses', 'loss'), ('metrics', 'metric'), ('degradations', 'degradation'),
        ('datasets.train.degradations', 'degradation'), ('datasets', 'dataset'),
    ],
)  # fmt: skip
def test_a_block_is_explained_type_by_type_and_key_by_key(topic, kind):
    text = explain(topic)
    names = registry_of(kind).keys()
    for name in names:
        part = re.search(rf'^{name} \({kind}\): .*\n((?:  .*\n?)*)', text, re.MULTILINE)
        assert part, f'{name} is missing'
        assert keys_of(part[1]) == list(fields_of_type(kind, registry_of(kind).get(name)))


def test_blocks_inside_a_type_are_explained_too():
    for text in (explain('OnlineDegradationDataset'), explain('datasets')):
        assert 'degradations holds blocks with a type (degradation)' in text
        assert 'Haze (degradation): ' in text
    assert 'L1Loss (loss): ' in explain('RestorationModel')


def test_lines_hold_name_type_default_and_meaning():
    assert re.search(r'^  width +int +default 16 +Channels at full resolution', explain('NAFNet'), re.MULTILINE)
    online = explain('OnlineDegradationDataset')
    assert re.search(r'^  dataroot_gt +str or list of str +required +Where the clean', online, re.MULTILINE)
    assert re.search(r'^  beta +\[float, float\] +default \[0\.\d+, \d\.\d+\] ', explain('Haze'), re.MULTILINE)
    assert re.search(r"^  filename_tmpl +str +default '\{\}' ", explain('PairedImageDataset'), re.MULTILINE)
    assert re.search(r'^  ema_decay +float from 0 to 1 +default 0\.0 ', explain('train'), re.MULTILINE)
    assert re.search(r'^  mixed_precision +fp32 \| bf16 \| fp16 +default fp32 ', explain('train'), re.MULTILINE)


def test_a_key_is_explained_wherever_it_is():
    assert explain('train.ema_decay').startswith('train.ema_decay  float from 0 to 1')
    assert explain('NAFNet.width').startswith('NAFNet.width  int')
    assert re.search(r'^NAFNet\.width +int', explain('network_g.width'), re.MULTILINE)
    assert {line.split('.')[0] for line in explain('train.optim_g.lr').splitlines()} >= {'Adam', 'SGD'}
    line = 'PairedImageDataset.dataroot_lq  str or list of str  required'
    assert explain('PairedImageDataset.dataroot_lq').startswith(line)
    assert {'Adam.lr', 'SGD.lr'} <= {line.split()[0] for line in explain('lr').splitlines()}


def test_an_unknown_topic_is_refused_with_what_is_near():
    with pytest.raises(OptionError, match=r"nothing is called 'netwrok_g'. Did you mean network_g"):
        explain('netwrok_g')
    with pytest.raises(OptionError, match=r"nothing is called 'nafnet'. Did you mean NAFNet"):
        explain('nafnet')


@pytest.mark.parametrize('kind', REGISTRIES)
def test_every_key_of_every_type_has_a_type_that_is_checked_and_a_line_that_explains_it(kind):
    registry = REGISTRIES[kind]
    for name in [n for n, e in registry.index().items() if e]:
        assert registry.summary(name), f'{name} has no docstring'
        text = explain(name)
        assert 'any value' not in text, f'{name} has a key without a type'
        assert 'a Python object' not in text, f'{name} has a key that no option file can give'
        for key, f in fields_of_type(kind, registry.get(name)).items():
            assert f.doc, f'{name}.{key} is not explained in Args:'
