"""The one rule of the house, and what else holds for every Python file.

A plug-in file (archs/ losses/ models/ data/) imports the engine and its own folder, nothing else of the project. The
engine (basicsr/) finds plug-ins by the ``type:`` of an option file and never imports one by name.
"""

import ast
import os

import pytest

from .runs import ROOT

PLUGIN_FOLDERS = ('archs', 'losses', 'models', 'data')
OUTSIDE = (*PLUGIN_FOLDERS, 'tests', 'tools', 'benchmarks')
COMMANDS = ('train.py', 'test.py', 'inference.py')  # what may use the builders, build_network and so on
LEFT_OUT = {'.git', '.venv', 'build', 'dist', 'datasets', 'experiments', 'results', 'site-packages', 'node_modules'}
MOST_LINES = 500
LONGEST_FUNCTION = 60
LONG_FUNCTIONS: set[str] = set()  # 'folder/file.py:name' of each exception, with the reason


def python_files(*folders):
    for folder in folders or ('.',):
        for place, inner, names in os.walk(ROOT / folder):
            inner[:] = [name for name in inner if name not in LEFT_OUT and not name.startswith(('.', '__py'))]
            yield from (
                ROOT / os.path.relpath(os.path.join(place, name), ROOT) for name in names if name.endswith('.py')
            )


ALL = sorted(python_files())
PLUGINS = sorted(python_files(*PLUGIN_FOLDERS))
ENGINE = sorted(python_files('basicsr'))


def parse(file):
    return ast.parse(file.read_text(encoding='utf-8'), filename=str(file), feature_version=(3, 10))


def imports(tree):
    """Every imported module with its relative level; ``from basicsr import archs`` counts as ``basicsr.archs``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module in (None, 'basicsr'):
            yield from ((f'{node.module or ""}.{alias.name}'.lstrip('.'), node.level) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module, node.level


def faults_of_a_plugin(tree):
    for module, level in imports(tree):
        first, _, rest = module.partition('.')
        second = rest.partition('.')[0]
        wrong = first in OUTSIDE or (first == 'basicsr' and second in OUTSIDE)
        if level > 1 or (level == 0 and wrong):
            yield module


def faults_of_the_engine(tree, is_command):
    for module, level in imports(tree):
        parts = module.split('.')
        if level == 0 and parts[0] in OUTSIDE:
            yield module
        inside = parts if level else parts[1:] if parts[0] == 'basicsr' else []
        builder = is_command and len(inside) == 1 and inside[0] in PLUGIN_FOLDERS
        if inside and inside[0] in OUTSIDE and not builder:
            yield module


def name_of(file):
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize('file', PLUGINS, ids=name_of)
def test_a_plugin_imports_the_engine_and_its_own_folder_only(file):
    assert list(faults_of_a_plugin(parse(file))) == []


@pytest.mark.parametrize('file', ENGINE, ids=name_of)
def test_the_engine_imports_no_plugin_by_name(file):
    assert list(faults_of_the_engine(parse(file), file.parent.name == 'basicsr' and file.name in COMMANDS)) == []


def test_the_two_checks_can_fail():
    bad = [
        'from basicsr.archs.nafnet_arch import NAFNet',
        'from basicsr import losses',
        'import basicsr.data',
        'from archs import x',
    ]
    for line in [*bad, 'from ..losses import x', 'from tests.runs import x']:
        assert list(faults_of_a_plugin(ast.parse(line))), line
    for line in [*bad, 'from .archs import x', 'def f():\n    from basicsr.models import build_model']:
        assert list(faults_of_the_engine(ast.parse(line), is_command=False)), line
    assert list(faults_of_the_engine(ast.parse(bad[0]), is_command=True))
    for line in (
        'from basicsr.registry import build',
        'from basicsr.utils import x',
        'from .blocks import y',
        'import torch.utils.data',
    ):
        assert not list(faults_of_a_plugin(ast.parse(line))), line
    assert not list(faults_of_the_engine(ast.parse('from basicsr.models import build_model'), is_command=True))


@pytest.mark.parametrize('file', ALL, ids=name_of)
def test_file_is_tidy(file):
    """Grammar of Python 3.10, at most 500 lines, no star import, no long function."""
    tree = parse(file)
    assert len(file.read_text(encoding='utf-8').splitlines()) <= MOST_LINES
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ImportFrom) and any(a.name == '*' for a in node.names)), 'star import'
        if isinstance(node, ast.FunctionDef) and f'{name_of(file)}:{node.name}' not in LONG_FUNCTIONS:
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f'{node.name} has {length} lines'


@pytest.mark.parametrize('file', [*PLUGINS, *ENGINE], ids=name_of)
def test_only_the_command_line_prints(file):
    calls = [n.func for n in ast.walk(parse(file)) if isinstance(n, ast.Call)]
    assert name_of(file) == 'basicsr/cli.py' or not [c for c in calls if getattr(c, 'id', '') == 'print']


def test_exceptions_are_still_needed():
    for entry in LONG_FUNCTIONS:
        file, _, name = entry.partition(':')
        lengths = [n.end_lineno - n.lineno + 1 for n in ast.walk(parse(ROOT / file)) if getattr(n, 'name', '') == name]
        assert max(lengths, default=0) > LONGEST_FUNCTION, entry
