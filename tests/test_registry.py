"""Types are found by reading files, imported one at a time, and built from dicts that are checked."""

import copy
import subprocess
import sys
import textwrap

import pytest
import torch

from basicsr.archs import build_network
from basicsr.data import build_dataloader, build_dataset
from basicsr.errors import OptionError
from basicsr.losses import build_loss
from basicsr.metrics import calculate_metric
from basicsr.models import build_model
from basicsr.registry import ARCH_REGISTRY, REGISTRIES, Registry, import_plugins, nearest

from .runs import ROOT, TINY, spawn, write_options

PLUGINS = ROOT / 'tests/assets/plugins'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package of plug-ins with a registry of its own; returns a function that adds a file."""
    package = f'plugins_{abs(hash(tmp_path))}'
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / package).mkdir()
    (tmp_path / package / '__init__.py').write_text('')
    registry = Registry('arch', package, '*_arch.py')
    (tmp_path / package / 'registry.py').write_text('ARCH_REGISTRY = None\n')
    module = __import__(f'{package}.registry', fromlist=['registry'])
    module.ARCH_REGISTRY = registry

    def add(name, text):
        header = f'from {package}.registry import ARCH_REGISTRY\n'
        (tmp_path / package / name).write_text(header + textwrap.dedent(text))
        registry.refresh()
        return registry

    return add


NET = '''
    @ARCH_REGISTRY.register()
    class {name}:
        """{name} restores.

        At length.
        """
'''


def test_names_are_known_before_anything_is_imported(folder):
    folder('one_arch.py', NET.format(name='One'))
    folder('forms_arch.py', """
        import does_not_exist

        @ARCH_REGISTRY.register
        class Bare: pass

        @ARCH_REGISTRY.register(suffix='mine')
        class Suffixed: pass

        class Called: pass
        ARCH_REGISTRY.register(Called)

        @OTHER_REGISTRY.register()
        class Other: pass

        class Helper: pass
    """)  # fmt: skip
    registry = folder('not_indexed.py', NET.format(name='Elsewhere'))
    assert registry.keys() == ['Bare', 'Called', 'One', 'Suffixed_mine']
    assert registry.summary('One') == 'One restores.'
    assert 'One' in registry
    assert 'Other' not in registry
    assert registry.index()['One'][0].line == 4
    assert not [m for m in sys.modules if m.endswith('one_arch')]


def test_only_the_module_of_the_type_is_imported(folder):
    folder('one_arch.py', NET.format(name='One'))
    folder('broken_arch.py', 'import a_package_that_is_not_installed\n' + textwrap.dedent(NET.format(name='Broken')))
    registry = folder('syntax_arch.py', 'class (:\n')
    assert registry.get('One').__name__ == 'One'
    assert not [m for m in sys.modules if m.endswith('broken_arch')]
    with pytest.raises(
        OptionError, match=r"arch 'Broken' is in .*broken_arch.py, which cannot be imported: ModuleNotFound"
    ):
        registry.get('Broken')
    with pytest.raises(OptionError, match=r"No arch named 'Onne'. Did you mean One\?.*Not readable: .*syntax_arch.py"):
        registry.get('Onne')


def test_importing_one_network_imports_no_other(tmp_path):
    code = """
        import sys
        from basicsr.registry import ARCH_REGISTRY, LOSS_REGISTRY
        ARCH_REGISTRY.keys(); LOSS_REGISTRY.keys()
        assert 'torch' not in sys.modules, 'the index imports torch'
        ARCH_REGISTRY.get('NAFNet')
        print(sorted(m for m in sys.modules if m.startswith('basicsr.') and m.rpartition('.')[2].endswith(
            ('_arch', '_loss', '_model', '_dataset', '_degradation'))))
    """
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['basicsr.archs.nafnet_arch']"


def test_an_error_inside_a_plug_in_is_told_with_its_place(folder):
    registry = folder('bad_arch.py', 'x = 1 / 0\n' + textwrap.dedent(NET.format(name='Bad')))
    with pytest.raises(
        OptionError, match=r'cannot be imported: ZeroDivisionError: division by zero \(.*bad_arch.py:2\)'
    ):
        registry.get('Bad')


def test_unknown_names_are_refused_with_what_is_near_and_where_was_looked(folder, tmp_path):
    registry = folder('one_arch.py', NET.format(name='TwoStageNet'))
    with pytest.raises(OptionError) as caught:
        registry.get('two_stage_net')
    text = str(caught.value)
    assert "No arch named 'two_stage_net'. Did you mean TwoStageNet? Write one of: TwoStageNet." in text
    assert f'Searched: {tmp_path}' in text
    assert '_arch.py' in text


def test_two_files_with_one_name_are_refused(folder):
    folder('one_arch.py', NET.format(name='One'))
    registry = folder('two_arch.py', NET.format(name='One'))
    with pytest.raises(OptionError, match=r"Two archs are named 'One': .*one_arch.py and .*two_arch.py. Rename one"):
        registry.get('One')


def test_a_name_registered_twice_is_refused():
    registry = Registry('arch', 'no_such_package', '*.py')
    registry.register(type('Net', (), {'__module__': 'first'}))
    with pytest.raises(OptionError, match=r"Two archs are named 'Net': first .* and second"):
        registry.register(type('Net', (), {'__module__': 'second'}))


def test_a_reloaded_module_replaces_its_objects():
    registry = Registry('arch', 'no_such_package', '*.py')
    old, new = (type('Net', (), {'__module__': 'first'}) for _ in range(2))
    assert registry.register(registry.register(old)) is old
    registry.register(new)
    assert registry.get('Net') is new


def test_names_registered_with_basicsr_as_suffix_are_found_without_it():
    registry = Registry('arch', 'no_such_package', '*.py')
    net = registry.register(type('Net', (), {}), suffix='basicsr')
    assert registry.get('Net') is registry.get('Net_basicsr') is net
    assert list(registry) == [('Net_basicsr', net)]


def test_nearest_ignores_case_and_underscores():
    assert nearest('nafnet', ['Restormer', 'NAFNet']) == ['NAFNet']
    assert nearest('TotalIter', ['total_iter', 'train']) == ['total_iter']
    assert nearest('xyz', ['total_iter']) == []


def test_every_registry_of_the_project_can_import_all_its_types():
    for registry in REGISTRIES.values():
        assert [name for name, target in registry if target is None] == []
        assert registry.keys(), f'no {registry.name} at all'


# imports: and --import


def explain(cwd, *arguments):
    command = [sys.executable, str(ROOT / 'basicsr/train.py'), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


def test_a_module_of_the_current_folder_can_be_imported(write, tmp_path):
    """Although the command replaces the first entry of the search path; and a file of that folder shadows nothing."""
    net = 'from basicsr.registry import ARCH_REGISTRY\nfrom {0} import WIDTH\n\n\n@ARCH_REGISTRY.register()\n' \
          'class MyNet:\n    def __init__(self, width: int = WIDTH):\n        pass\n'  # fmt: skip
    write('my_pkg/__init__.py', '')
    write('my_pkg/sizes.py', 'WIDTH = 77\n')
    write('my_pkg/my_arch.py', net.format('my_pkg.sizes'))
    write('sizes.py', 'WIDTH = 78\n')
    write('my_own_arch.py', net.format('sizes'))
    write('yaml.py', 'raise SystemExit("the wrong yaml")\n')
    for name, width in (('my_pkg.my_arch', 77), ('my_own_arch.py', 78)):
        done = explain(tmp_path, '--import', name, '--explain', 'MyNet')
        assert (done.returncode, done.stderr) == (0, '')
        assert f'width  int  default {width}' in done.stdout


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('none_arch.py', "'none_arch.py' cannot be imported: there is no file "),
        (
            'no_such_module',
            "'no_such_module' cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ('folder/net', 'write a module (my_pkg.my_arch) or a file that ends in .py'),
        ('my-net.py', 'the name of the file is no Python name'),
        ('random.py', "'random' is also the name of "),
        ('broken.py', "'broken.py' cannot be imported: NameError: name 'undefined' is not defined ("),
    ],
)
def test_what_cannot_be_imported_is_refused(name, message, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    for file in ('my-net.py', 'random.py'):
        write(file, 'x = 1\n')
    write('broken.py', 'y = undefined\n')
    with pytest.raises(OptionError) as caught:
        import_plugins([name])
    assert message in str(caught.value)


def test_importing_a_plug_in_folders_own_file_keeps_its_module():
    import_plugins([str(ROOT / 'archs/nafnet_arch.py')])
    assert ARCH_REGISTRY.get('NAFNet').__module__ == 'basicsr.archs.nafnet_arch'
    assert 'nafnet_arch' not in sys.modules


def test_files_with_relative_imports_find_basicsrs_helpers_and_their_neighbours():
    import_plugins([str(PLUGINS / 'basicsr_relative_arch.py')] * 2)
    net = build_network({'type': 'RelativeNet', 'num_feat': 6, 'num_block': 2})
    assert net(torch.rand(1, 3, 8, 9)).shape == (1, 3, 8, 9)


def test_an_architecture_file_written_for_basicsr_builds_unchanged():
    import_plugins([str(PLUGINS / 'basicsr_style_arch.py')])
    net = build_network(
        {'type': 'PlainResNet', 'num_in_ch': 3, 'upscale': 2, 'res_scale': 0.1, 'rgb_mean': [0.5, 0.4, 0.3]}
    )
    assert net(torch.rand(1, 3, 8, 9)).shape == (1, 3, 16, 18)
    for wrong, message in (
        ({}, "key 'num_in_ch' is missing"),
        ({'num_in_ch': 3, 'num_fea': 4}, "Did you mean 'num_feat'"),
        ({'num_in_ch': 3, 'num_feat': 'x'}, "'num_feat' is 'x' (str); allowed: int or float"),
        ({'num_in_ch': 3, 'rgb_mean': 0.5}, "'rgb_mean' is 0.5 (float); allowed: list"),
    ):
        with pytest.raises(OptionError) as caught:
            build_network({'type': 'PlainResNet', **wrong})
        assert message in str(caught.value)


def test_an_architecture_file_written_for_basicsr_trains_by_its_type(tmp_path):
    changes = {'network_g': {'type': 'PlainResNet', 'num_in_ch': 3}, 'train.total_iter': 2, 'train.scheduler': None}
    process = spawn(write_options(tmp_path, changes), '--import', str(PLUGINS / 'basicsr_style_arch.py'), cwd=tmp_path)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, output + errors
    weights = torch.load(tmp_path / 'experiments/tiny/models/net_g_latest.pth', weights_only=True)
    assert weights['iter'] == 2
    assert {'conv_first.weight', 'body.0.conv1.weight', 'mean'} <= set(weights['params'])


# BasicSR's builders

SAMPLES = {
    'type': 'OnlineDegradationDataset', 'phase': 'train', 'scale': 1, 'name': 'sample', 'gt_size': 16,
    'dataroot_gt': str(ROOT / 'datasets/sample/val'), 'degradations': [{'type': 'Haze'}],
    'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0,
}  # fmt: skip


def test_builders_leave_their_dicts_unchanged():
    import_plugins(TINY['imports'])
    model = {k: v for k, v in TINY.items() if k != 'imports'}
    given = copy.deepcopy((SAMPLES, model))
    dataset = build_dataset(SAMPLES)
    batch = next(iter(build_dataloader(dataset, SAMPLES)))
    assert batch['lq'].shape == batch['gt'].shape == (2, 3, 16, 16)
    losses = build_model(model).losses(batch)
    assert losses['l_pix'] > 0
    net = {'type': 'NAFNet', 'width': 4}
    assert build_network(net).intro.out_channels == 4
    loss = {'type': 'L1Loss', 'loss_weight': 2}
    assert build_loss(loss)(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)) == 2
    metric = {'type': 'calculate_psnr', 'crop_border': 1}
    assert calculate_metric({'img': torch.zeros(1, 3, 8, 8), 'img2': torch.ones(1, 3, 8, 8)}, metric) == 0
    assert (SAMPLES, model) == given
    assert (net, loss) == ({'type': 'NAFNet', 'width': 4}, {'type': 'L1Loss', 'loss_weight': 2})
    assert metric == {'type': 'calculate_psnr', 'crop_border': 1}


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (
            lambda: build_network({'type': 'NAFNet', 'widht': 4}),
            "arch NAFNet: key 'widht' is not known. Did you mean 'width'? Allowed",
        ),
        (
            lambda: build_loss({'type': 'L1Loss', 'weight': 4}),
            "loss L1Loss: key 'weight' is not known. Did you mean 'loss_weight'?",
        ),
        (
            lambda: build_dataset({**SAMPLES, 'gtsize': 4}),
            "key 'gtsize' is not known. Did you mean 'gt_size'? Allowed here: ",
        ),
        (
            lambda: build_dataset({**SAMPLES, 'io_backend': {'type': 'memcached'}}),
            "'io_backend.type' is 'memcached' (str); allowed: disk | lmdb | shards",
        ),
        (lambda: build_dataset({**SAMPLES, 'phase': 'training'}), "one of train, val, test, not 'training'"),
        (
            lambda: build_dataset({**SAMPLES, 'degradations': [{'type': 'Fog'}]}),
            "'degradations.0.type': No degradation named 'Fog'",
        ),
        (
            lambda: build_dataloader([1], {**SAMPLES, 'batch_size': 4}),
            "key 'batch_size' is not known. Write batch_size_per_gpu.",
        ),
        (
            lambda: build_model({**TINY, 'train': {**TINY['train'], 'pixel_op': 1}}),
            "key 'train.pixel_op' is not known. Did you mean 'pixel_opt'?",
        ),
        (lambda: calculate_metric({'img': 1, 'img2': 1}, {'type': 'calculate_psnr', 'crop': 4}), "no option 'crop'"),
    ],
    ids=['network', 'loss', 'dataset', 'foreign key', 'phase', 'degradation', 'loader', 'model', 'metric'],
)
def test_builders_refuse_unknown_keys_as_option_files_do(call, message):
    with pytest.raises(OptionError) as caught:
        call()
    assert message in str(caught.value)
