"""Whole option files: what is accepted, what is refused, and in which words."""

import ast
import random
import re
import string
import subprocess
import sys
import time

import pytest
import yaml

from basicsr import train
from basicsr.errors import OptionError
from basicsr.options import DATASET_KEY, dump, from_dict, load
from basicsr.registry import ARCH_REGISTRY
from basicsr.yaml_io import parse_value

from .runs import ROOT

OPTIONS = ROOT / 'options'
PLUGINS = ROOT / 'tests/assets/plugins'
QUICKSTART = OPTIONS / 'quickstart.yml'
MINIMAL = {
    'name': 'minimal',
    'datasets': {'train': {'type': 'PairedImageDataset', 'dataroot_gt': 'gt', 'dataroot_lq': 'lq'}},
    'network_g': {'type': 'NAFNet'},
    'train': {'total_iter': 10, 'optim_g': {'type': 'Adam'}, 'pixel_opt': {'type': 'L1Loss'}},
}


def with_changes(changes):
    """The smallest option file that trains, with changes such as ``{'train.total_iter': 3}``; DROP takes a key away."""
    values = yaml.safe_load(yaml.safe_dump(MINIMAL))
    for dotted, value in changes.items():
        *path, last = dotted.split('.')
        block = values
        for key in path:
            block = block.setdefault(key, {})
        if value is DROP:
            del block[last]
        else:
            block[last] = value
    return values


DROP = object()


def problems(file, *overrides, **kwargs):
    with pytest.raises(OptionError) as caught:
        load(file, list(overrides), **kwargs)
    return str(caught.value)


# What is accepted


def test_smallest_file_gets_every_default():
    options = from_dict(MINIMAL)
    assert (options.top.num_gpu, options.top.manual_seed, options.top.scale) == ('auto', 0, 1)
    assert options.networks == {'g': {'type': 'NAFNet'}}
    assert options.datasets['train'].loader.batch_size_per_gpu == 1
    assert options.datasets['train'].name == 'train'
    assert options.model == {'pixel_opt': {'type': 'L1Loss'}}
    assert options.val.metrics == {}
    assert options.of_phase('val') == []


def test_values_are_converted_to_what_the_constructors_want():
    optim = {'type': 'AdamW', 'lr': 1, 'betas': [0.9, 0.99], 'weight_decay': 0}
    options = from_dict(with_changes({'train.optim_g': optim, 'train.total_iter': 5e3}))
    assert options.train.optim_g == {'type': 'AdamW', 'lr': 1.0, 'betas': (0.9, 0.99), 'weight_decay': 0.0}
    assert type(options.train.optim_g['lr']) is float
    assert type(options.train.total_iter) is int


def test_a_dict_given_by_a_program_is_left_unchanged():
    given = with_changes({})
    options = from_dict(given)
    options.resolved['name'] = 'other'
    assert given == MINIMAL


def test_a_file_that_only_tests_needs_no_section_train():
    values = with_changes({'train': DROP, 'datasets.train': DROP, 'datasets.test_a.type': 'PairedImageDataset'})
    values['datasets']['test_a'] |= {'dataroot_gt': 'a', 'dataroot_lq': 'b'}
    options = from_dict(values)
    assert options.train is None
    assert [d.name for d in options.of_phase('test')] == ['test_a']


def test_saved_options_load_to_the_same_options(write):
    options = load(QUICKSTART, ['train:optim_g:lr=1e-7', 'name=007', "description='1e-4'"])
    assert load(write('saved.yml', dump(options))) == options


def test_a_project_file_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load('options/quickstart.yml').top.name == 'quickstart'


# Overrides (B1, B2 of BasicSR: numbers stayed text, '=' crashed, a misspelt key was added, the seed came too late)


def test_overrides_are_typed_by_the_schema():
    options = load(
        QUICKSTART,
        [
            'train:optim_g:lr=1e-4', 'train:warmup_iter=-1', 'val:val_freq=2e2', 'name=007', 'description=a=b: c',
            'datasets:train:degradations:0={type: Haze, beta: [0.5, 1]}', 'datasets:train:degradations:0:tint=0',
            'path:pretrain_network_g=123', 'path:param_key_g=null', 'num_gpu=0', 'datasets:train:use_rot=false',
        ],
    )  # fmt: skip
    assert options.train.optim_g['lr'] == 1e-4
    assert (options.train.warmup_iter, options.val.val_freq, options.top.num_gpu) == (-1, 200, 0)
    assert (options.top.name, options.top.description) == ('007', 'a=b: c')
    assert options.datasets['train'].block['degradations'][0] == {'type': 'Haze', 'beta': (0.5, 1.0), 'tint': 0.0}
    assert options.datasets['train'].block['use_rot'] is False
    assert (options.path.pretrain_network_g, options.path.param_key_g) == ('123', None)
    assert options.resolved['name'] == '007'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            'train:optim_g:lrr=1',
            "key 'train.optim_g.lrr' is not known. Did you mean 'lr'? Allowed here: amsgrad, betas,",
        ),
        ('train:total_itr=5', "key 'train.total_itr' is not known. Did you mean 'total_iter'?"),
        (
            'datasets:train:degradations:0:betta=1',
            "key 'datasets.train.degradations.0.betta' is not known. Did you mean 'beta'?",
        ),
        ('train:total_iter=long', "'train.total_iter' is 'long' (str); allowed: int at least 1."),
        ('train:total_iter=-5', "'train.total_iter' is -5 (int); allowed: int at least 1."),
        ('name=null', "'name' is null (null); allowed: str."),
        ('train:optim_g:lr=', "'train.optim_g.lr' is null (null); allowed: float."),
        ('network_g:type=NAFNett', "No arch named 'NAFNett'. Did you mean NAFNet"),
        ('new_section:x=1', "key 'new_section' is not known."),
        ('__import__("os")=1', 'is not known.'),
    ],
)
def test_a_wrong_override_is_refused_and_named(text, message):
    found = problems(QUICKSTART, text)
    assert message in found
    assert f'--force_yml {text}: ' in found


def test_the_seed_that_is_used_is_the_overridden_one(tmp_path):
    """The line that a run logs and the weights that it starts from both come from ``--force_yml manual_seed``."""
    import torch

    from basicsr.archs import build_network

    from .runs import run

    still = {
        'train.total_iter': 1,
        'train.optim_g': {'type': 'SGD', 'lr': 0.0},
        'train.scheduler': None,
        'train.ema_decay': 0,
    }
    assert run(tmp_path, still | {'network_g': {'type': 'NAFNet', 'width': 4}}, '--force_yml', 'manual_seed=7') == 0
    saved = torch.load(tmp_path / 'experiments/tiny/models/net_g_latest.pth', weights_only=True)['params']
    torch.manual_seed(7)
    expected = build_network({'type': 'NAFNet', 'width': 4}).state_dict()
    assert all(torch.equal(saved[k], v) for k, v in expected.items())
    torch.manual_seed(0)
    assert not torch.equal(build_network({'type': 'NAFNet', 'width': 4}).intro.weight, saved['intro.weight'])


def test_the_engine_evaluates_no_text_as_code():
    for file in (ROOT / 'basicsr').rglob('*.py'):
        calls = [n.func for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
        assert not [f.id for f in calls if isinstance(f, ast.Name) and f.id in ('eval', 'exec')], file


# What is refused

REFUSED = {
    # keys
    'top': ({'nmae': 'x'}, "key 'nmae' is not known. Did you mean 'name'?"),
    'section': ({'train.total_itr': 3}, "key 'train.total_itr' is not known. Did you mean 'total_iter'?"),
    'loss': ({'train.pixel_opt.weight': 1}, "key 'train.pixel_opt.weight' is not known. Did you mean 'loss_weight'?"),
    'optimizer': ({'train.optim_g.beta': [0, 1]}, "key 'train.optim_g.beta' is not known. Did you mean 'betas'?"),
    'data set': (
        {'datasets.trian': {'type': 'PairedImageDataset'}},
        "key 'datasets.trian' is not known. Did you mean 'train'?",
    ),
    'loader': (
        {'datasets.train.batch_size': 4},
        "key 'datasets.train.batch_size' is not known. Write batch_size_per_gpu.",
    ),
    'metric (B13)': (
        {'val.metrics.psnr': {'type': 'calculate_psnr', 'test_y_chanel': True}},
        "key 'val.metrics.psnr.test_y_chanel' is not known. Did you mean 'test_y_channel'?",
    ),
    'wandb': ({'logger.wandb': {'projct': 'x'}}, "key 'logger.wandb.projct' is not known. Did you mean 'project'?"),
    'no second network': ({'train.optim_d': {'type': 'Adam'}}, "key 'train.optim_d' is not known."),
    'its weights': ({'path.pretrain_network_d': 'x.pth'}, "key 'path.pretrain_network_d' is not known."),
    'type': ({'network_g': {'tpye': 'NAFNet'}}, "key 'network_g.tpye' is not known. Did you mean 'type'?"),
    # required
    'no name': ({'name': DROP}, "key 'name' is missing: str."),
    'no iterations': ({'train.total_iter': DROP}, "key 'train.total_iter' is missing: int at least 1."),
    'no optimiser': ({'train.optim_g': DROP}, "key 'train.optim_g' is missing: block with a type (optimizer)."),
    'null optimiser': (
        {'train.optim_g': None},
        "'train.optim_g' is null (null); allowed: block with a type (optimizer).",
    ),
    'null argument': (
        {'datasets.train.dataroot_lq': None},
        "'datasets.train.dataroot_lq' is null (null); allowed: str or list of str.",
    ),
    'no loss': ({'train.pixel_opt': DROP}, "key 'train.pixel_opt' is missing: block with a type (loss)."),
    'no network': ({'network_g': DROP}, "block 'network_g' is missing"),
    'no data': ({'datasets': DROP}, "section 'datasets' is missing"),
    'no training data': ({'datasets.train': DROP}, "block 'datasets.train' is missing"),
    'no training': ({'train': DROP}, "section 'train' is missing"),
    'no type': (
        {'network_g': {'width': 8}},
        "key 'network_g.type' is missing: one of AIMnet, AdaIR, CKDN, CORUN, ",
    ),
    # values
    'no block': ({'network_g': 'NAFNet'}, "'network_g' is 'NAFNet' (str); allowed: a block with a type (arch): one of"),
    'no section': ({'train': 3}, "'train' is 3 (int); allowed: a block with the keys total_iter,"),
    'null metric': (
        {'val.metrics.psnr': None},
        "'val.metrics.psnr' is null (null); allowed: block with a type (metric).",
    ),
    'whole section list': ({'logger': [1]}, "'logger' is [1] (list); allowed: a block with the keys"),
    'unknown type': (
        {'train.pixel_opt.type': 'L2Loss'},
        "'train.pixel_opt.type': No loss named 'L2Loss'. Did you mean L1Loss",
    ),
    'number as type': ({'network_g.type': 5}, "'network_g.type' is 5 (int); allowed: the name of one of"),
    'choice': (
        {'train.mixed_precision': 'fp8'},
        "'train.mixed_precision' is 'fp8' (str); allowed: fp32 | bf16 | fp16.",
    ),
    'range': ({'train.ema_decay': 1.5}, "'train.ema_decay' is 1.5 (float); allowed: float from 0 to 1."),
    'list element': ({'logger.milestones': [1, 'x']}, "'logger.milestones.1' is 'x' (str); allowed: int."),
    'imports': ({'imports': 'tiny.py'}, "'imports' is 'tiny.py' (str); allowed: list of str."),
    # agreement
    'label': (
        {'val.metrics.psnr': {'type': 'calculate_ssim'}},
        "metric 'val.metrics.psnr' computes ssim: call it 'ssim' or",
    ),
    'schedule': (
        {'train.scheduler': {'type': 'TrueCosineAnnealingLR', 'T_max': 5}},
        "'train.scheduler': Scheduler TrueCosineAnnealingLR: it covers 5 iterations, but train.total_iter is 10.",
    ),
    'stages': ({'datasets.train.iters': [5, 5]}, 'gt_sizes, mini_batch_sizes and iters belong together'),
    'short stages': (
        {'datasets.train.iters': [5], 'datasets.train.gt_sizes': [8], 'datasets.train.mini_batch_sizes': [1]},
        'the stages cover 5 iterations, but train.total_iter is 10',
    ),
    'no chosen metric': (
        {'datasets.val': {**MINIMAL['datasets']['train'], 'metrics': []}},
        "'datasets.val.metrics': no metric is named; leave the key out to measure all of them.",
    ),
    'metrics of a training set': (
        {'datasets.train.metrics': ['psnr']},
        "'datasets.train.metrics': a training set is not measured; write it in a val or test block.",
    ),
    'warm-up of no average': (
        {'train.ema_warmup': True},
        "'train.ema_warmup' is true, but 'train.ema_decay' is 0: nothing warms up.",
    ),
    'validation without data': ({'val.val_freq': 5}, "'val.val_freq' is given, but there is no block 'datasets.val'."),
    'two training sets': (
        {'datasets.train_b': {'type': 'PairedImageDataset', 'dataroot_gt': 'a', 'dataroot_lq': 'b'}},
        'there is more than one training set (train, train_b)',
    ),
    'unknown method': (
        {'model_type': 'RestoratoinModel'},
        "'model_type': No model named 'RestoratoinModel'. Did you mean RestorationModel",
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_wrong_files_are_refused(write, case):
    changes, message = REFUSED[case]
    file = write('own.yml', with_changes(changes))
    found = problems(file)
    assert message in found
    assert all(line.startswith(str(file)) for line in found.splitlines())


def test_all_problems_are_told_in_the_order_of_their_lines(write):
    changes = {
        'nmae': 'x',
        'train.total_iter': 'x',
        'network_g.widht': 3,
        'datasets.train.gt_size': 'x',
        'path.rot': 'x',
    }
    lines = problems(write('own.yml', with_changes(changes))).splitlines()
    numbers = [int(re.match(r'.*own\.yml:(\d+): ', line)[1]) for line in lines]
    assert len(lines) == 5
    assert numbers == sorted(numbers)


def test_a_data_set_chooses_among_the_metrics_there_are(write):
    """Those of the protocol and the section's own; a wrong label is told on its own line."""
    block = {**MINIMAL['datasets']['train'], 'metrics': ['psnr', 'niqee', 'psnr_y']}
    val = {'protocol': 'lol', 'metrics': {'niqe': {'type': 'calculate_niqe'}}}
    file = write('own.yml', with_changes({'datasets.val_real': block, 'val': val}))
    lines = file.read_text().splitlines()
    numbers = [1 + next(n for n, line in enumerate(lines) if f'- {label}' in line) for label in ('niqee', 'psnr_y')]
    assert problems(file).splitlines() == [
        f"{file}:{numbers[0]}: 'datasets.val_real.metrics': no metric is called 'niqee'. Did you mean 'niqe'? "
        'There are: psnr, ssim, niqe.',
        f"{file}:{numbers[1]}: 'datasets.val_real.metrics': no metric is called 'psnr_y'. Did you mean 'psnr'? "
        'There are: psnr, ssim, niqe.',
    ]
    block['metrics'] = ['niqe', 'psnr']
    assert from_dict(with_changes({'datasets.val_real': block, 'val': val})).datasets['val_real'].loader.metrics == [
        'niqe', 'psnr',
    ]  # fmt: skip


def test_an_unknown_method_raises_no_second_complaint_about_its_losses(write):
    found = problems(write('own.yml', with_changes({'model_type': 'MyMethod'})))
    assert len(found.splitlines()) == 1


def test_a_problem_in_an_included_file_names_that_file(write):
    base = write('base.yml', with_changes({'train.total_itr': 3}))
    own = write('own.yml', {'_base_': 'base.yml', 'train': {'totl_iter': 3}})
    found = problems(own)
    assert f"{base}:15: key 'train.total_itr' is not known." in found
    assert f"{own}:3: key 'train.totl_iter' is not known." in found


def test_a_file_that_cannot_be_imported_is_named(write):
    found = problems(write('own.yml', with_changes({'imports': ['none_arch.py']})))
    assert re.search(r"own.yml:\d+: 'imports': 'none_arch.py' cannot be imported: there is no file ", found)
    assert '--import: ' in problems(write('own.yml', with_changes({})), imports=['no_such_module_here'])


# Mutations: a misspelt key or a value of a wrong type, anywhere in any option file of the project, is refused and named

# A fragment that holds data sets alone lacks so much by itself that the reader stops before it looks inside.
FILES = sorted(
    f
    for f in OPTIONS.rglob('*.yml')
    if f.parent != OPTIONS / 'iqa' and ('_base' not in f.parts or 'train:\n  total_iter' in f.read_text())
)
WRONG = {
    bool: ['maybe', 3, 0.5, [True], {'a': 1}],
    int: ['abc', True, [1], {'a': 1}],
    float: ['abc', False, [0.5], {'a': 1}],
    str: [True, 2.5, ['abc'], {'a': 1}],
    list: ['abc', 5, True, {'a': 1}],
    dict: ['abc', 5, False, ['abc']],
    type(None): [],  # what may be null is not told by the value
}


def places(node, path=()):
    """Paths of all keys and list elements of a tree."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def misspell(word, rng):
    """One letter dropped, doubled up with another, swapped with its neighbour, or replaced."""
    i = rng.randrange(len(word))
    letter = rng.choice(string.ascii_letters + '_')
    return rng.choice(
        [
            word[:i] + word[i + 1 :],
            word[:i] + letter + word[i:],
            word[:i] + letter + word[i + 1 :],
            word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :],
        ]
    )


def is_free(path, word):
    """What may be called as one likes: data sets after ``val_`` or ``test_``, metrics after their name and ``_``."""
    if path[:-1] == ('datasets',):
        return DATASET_KEY.fullmatch(word) is not None
    return path[:-1] == ('val', 'metrics') and re.match(r'(psnr|ssim)_', word) is not None


def mutate(tree, rng):
    """Changes a tree in one place; returns the name that a complaint must hold, or None where nothing was spoilt."""
    path = rng.choice(list(places(tree)))
    *above, last = path
    node = tree
    for key in above:
        node = node[key]
    if isinstance(last, str) and rng.random() < 0.5:
        word = misspell(last, rng)
        if not word or word in node or is_free(path, word):
            return None
        items = [(word if key == last else key, value) for key, value in node.items()]
        node.clear()
        node.update(items)
        return word
    wrong = WRONG[type(node[last])]
    if not wrong:
        return None
    node[last] = rng.choice(wrong)
    if str(last).startswith(('dataroot', 'scores')) and node[last] == ['abc']:
        return None  # several roots, or tables of scores, may be given
    return next(key for key in reversed(path) if isinstance(key, str))


def absolute_base(tree, folder):
    """The tree with its includes found from anywhere."""
    bases = tree.get('_base_')
    if bases is not None:
        names = [bases] if isinstance(bases, str) else bases
        tree['_base_'] = [str(folder / name) for name in names]
    return tree


@pytest.mark.parametrize('seed', range(200))
def test_a_mutant_of_an_option_file_is_refused_and_named(seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(seed)
    name = None
    while name is None:
        source = rng.choice(FILES)
        tree = absolute_base(parse_value(source.read_text()), source.parent)
        name = mutate(tree, rng)
    mutant = tmp_path / 'mutant.yml'
    mutant.write_text(yaml.safe_dump(tree, sort_keys=False))
    found = problems(mutant)
    assert str(mutant) in found
    assert re.search(rf"['.]{re.escape(name)}[.']", found), f'{name} is not named:\n{found}'
    assert [p.name for p in tmp_path.iterdir()] == ['mutant.yml']


# The command line


def test_a_refused_file_ends_with_code_2_before_any_work(write, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plugins = [str(PLUGINS / 'counting_arch.py')]
    file = write(
        'own.yml',
        with_changes({'imports': plugins, 'network_g': {'type': 'CountingNet'}, 'train.totl': 1}),
    )
    assert train.main(['-opt', str(file)]) == 2
    output = capsys.readouterr()
    assert output.out == ''
    assert f'{file}:' in output.err
    assert "key 'train.totl' is not known" in output.err
    assert 'Traceback' not in output.err
    assert [p.name for p in tmp_path.iterdir()] == ['own.yml']
    assert ARCH_REGISTRY.get('CountingNet').built == 0


def run_train(*arguments, **kwargs):
    command = [sys.executable, str(ROOT / 'basicsr/train.py'), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['-opt', 'none.yml'], 'Error: Option file none.yml cannot be read: No such file or directory.'),
        ([], 'Error: Give an option file: -opt options/quickstart.yml'),
        (['-opt', str(QUICKSTART), '--force_yml', 'name'], 'Error: --force_yml name: write key:subkey=value'),
        (['--explain', 'no_such_thing'], "Error: --explain: nothing is called 'no_such_thing'"),
    ],
)
def test_a_wrong_command_ends_with_code_2_and_one_sentence(arguments, message, tmp_path):
    done = run_train(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_help_is_quick_and_loads_no_torch():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = run_train('--help')
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0
        assert '--force_yml' in done.stdout
    assert min(seconds) < 1.0
    code = 'import sys\ntry: import basicsr.train as t; t.main(["--help"])\nfinally: print("torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == 'False'
