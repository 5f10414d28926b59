"""Every command of the README is executed: the first two blocks by ``.ci/run`` as they stand, the others here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .runs import ROOT

README = (ROOT / 'README.md').read_text()
BLOCKS = [b.strip().splitlines() for b in re.findall(r'^```bash\n(.*?)^```', README, flags=re.M | re.S)]
COMMANDS = [line for block in BLOCKS[2:] for line in block]
# Two iterations on small images, so that a command takes seconds; appended to the commands that train.
SHORT = ['train:total_iter=2', 'datasets:val:val_size=48']
SMALL = {
    'adapt.yml': ['datasets:train:gt_size=96'],
    'quickstart.yml': ['train:scheduler:T_max=2', 'datasets:train:gt_size=48'],
}
FEW = ['datasets:train:batch_size_per_gpu=2', 'num_gpu=0']


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A folder that looks like a checkout in which the quickstart has just run, in short."""
    folder = tmp_path_factory.mktemp('checkout')
    for name in ('basicsr', 'options', 'datasets', 'tools'):
        (folder / name).symlink_to(ROOT / name)
    (folder / 'my_photos').mkdir()
    for photo in sorted((ROOT / 'datasets/sample/val').glob('*.jpg'))[:2]:
        (folder / 'my_photos' / photo.name).symlink_to(photo)
    result = execute('python basicsr/train.py -opt options/quickstart.yml', folder)
    assert result.returncode == 0, result.stderr
    return folder


def execute(command, folder):
    words = shlex.split(command)
    if 'train.py' in command and '--explain' not in command:
        short = [*SHORT, *FEW, *next(changes for file, changes in SMALL.items() if file in command)]
        if '--force_yml' in words:
            at = words.index('--force_yml') + 1
            words[at:at] = short
        else:
            words += ['--force_yml', *short]
    if words[0] == 'torchrun':
        words[:1] = [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--master_port',
            '0',
            '--rdzv-backend=c10d',
            '--rdzv-endpoint=localhost:0',
        ]
    elif words[0] == 'python':
        words[0] = sys.executable
    return subprocess.run(
        words,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )


@pytest.mark.parametrize('command', COMMANDS)
def test_command(command, checkout):
    result = execute(command, checkout)
    assert result.returncode == 0, result.stderr
    if 'inference.py' in command:
        name, count = ('adapted', 2) if 'my_photos' in command else ('restored', 8)
        assert len(list((checkout / 'results' / name).glob('*.png'))) == count
    if 'test.py' in command:
        assert (checkout / 'results/quickstart/test.json').exists()


def test_continuous_integration_runs_the_first_two_blocks_as_printed():
    script = (ROOT / '.ci/run').read_text()
    assert 'source <(block 1)' in script
    assert 'source <(block 2)' in script
    assert BLOCKS[0][-1] == 'python basicsr/train.py -opt options/quickstart.yml'
    assert BLOCKS[1][-1] == 'python -m pytest'


def test_links_lead_somewhere():
    for page in [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]:
        for target in re.findall(r'\]\((?!https?:|#)([^)#]+)', page.read_text()):
            assert (page.parent / target).exists(), f'{page}: {target}'


def test_code_words_in_the_docs_exist():
    """Files that the documentation names in backticks are there."""
    for page in [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]:
        for name in re.findall(
            r'`((?:basicsr|archs|losses|models|data|options|tools|tests|docs)/[\w/.-]+\.\w+)`', page.read_text()
        ):
            assert (ROOT / name).exists() or Path(name).name.startswith('my_'), f'{page}: {name}'
