"""Speed measurement, the log line, the live bar, the logger and the scalar writers."""

import importlib.util
import io
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from basicsr.errors import OptionError
from basicsr.logger import NAME, ScalarWriters, get_root_logger
from basicsr.progress import Rate, RateMeter, TrainingProgress, format_log_line, format_seconds

ROOT = Path(__file__).resolve().parents[1]


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def run_steps(meter, clock, count, seconds=0.5, wait=0.1, images=4):
    for _ in range(count):
        clock.pass_(seconds)
        meter.data_wait(wait)
        meter.step(images)


# --- rate meter


def test_rate_of_even_steps(clock):
    meter = RateMeter(clock=clock)
    run_steps(meter, clock, 10)
    assert meter.snapshot() == pytest.approx(Rate(images_per_s=8.0, data_share=0.2, seconds_per_iter=0.5))
    assert meter.eta(20) == pytest.approx(10.0)


def test_nothing_is_known_before_the_first_step():
    assert RateMeter().snapshot() == Rate(0.0, 0.0, 0.0)
    assert RateMeter().eta(5) is None


def test_the_slow_first_step_counts_only_while_it_is_alone(clock):
    meter = RateMeter(clock=clock)
    run_steps(meter, clock, 1, seconds=60)
    assert meter.snapshot().seconds_per_iter == pytest.approx(60)
    run_steps(meter, clock, 2, seconds=0.5)
    assert meter.snapshot().seconds_per_iter == pytest.approx(0.5)


def test_only_the_window_counts(clock):
    meter = RateMeter(window=5, clock=clock)
    run_steps(meter, clock, 20, seconds=3)
    run_steps(meter, clock, 5, seconds=1)
    assert meter.snapshot().seconds_per_iter == pytest.approx(1)


def test_a_window_of_one_shows_the_latest_step(clock):
    meter = RateMeter(window=1, clock=clock)
    run_steps(meter, clock, 1, seconds=9)
    run_steps(meter, clock, 1, seconds=2)
    assert meter.snapshot().seconds_per_iter == pytest.approx(2)


@pytest.mark.parametrize('in_the_step', [0.0, 0.2])
def test_paused_time_is_left_out(clock, in_the_step):
    meter = RateMeter(clock=clock)
    run_steps(meter, clock, 3)
    clock.pass_(in_the_step)
    meter.pause()
    meter.pause()
    clock.pass_(1000)
    meter.resume()
    clock.pass_(7)  # a second resume must not forget this
    meter.resume()
    run_steps(meter, clock, 1, seconds=0.5 - in_the_step)
    assert meter.snapshot().seconds_per_iter == pytest.approx((0.5 + 0.5 + 7.5) / 3)


def test_share_never_exceeds_the_whole(clock):
    meter = RateMeter(clock=clock)
    run_steps(meter, clock, 3, seconds=0.1, wait=5)
    assert meter.snapshot().data_share == 1.0


# --- log line


def test_log_line_as_documented():
    line = format_log_line('quickstart', 3, 700, [1e-3], Rate(41.2, 0.03, 0.2), 130, {'l_pix': 1.2345e-2})
    shown = '[quicks..][epoch:  3, iter:   700, lr:(1.000e-03,)] [eta: 0:02:10, 41.2 img/s, data 3%] l_pix: 1.2345e-02'
    assert line == shown
    assert shown in format_log_line.__doc__


def test_log_line_without_eta_and_with_a_short_name_and_two_rates():
    line = format_log_line('tiny', 0, 1_234_567, [1e-3, 2e-4], Rate(0, 0, 0), None, {})
    assert line == '[tiny][epoch:  0, iter:1,234,567, lr:(1.000e-03,2.000e-04,)] [eta: --:--, 0.0 img/s, data 0%]'


def test_seconds():
    assert [format_seconds(s) for s in (None, 59.6, 3600, 90000)] == ['--:--', '0:01:00', '1:00:00', '1 day, 1:00:00']


# --- live bar


def make_console(terminal):
    from rich.console import Console

    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def plain(text):
    return re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', text)


def test_bar_shows_iteration_percent_fields_and_phase():
    console = make_console(terminal=True)
    with TrainingProgress(1000, 300, console=console) as bar:
        bar.update(699, {'eta': '0:02:10', 'loss': '0.0123'})
        bar.update(700)
        bar.phase('validating')
        bar._bar.refresh()
        during = plain(console.file.getvalue())
        bar.phase(None)
    after = plain(console.file.getvalue())
    assert '300/1000' in during
    assert 'validating' in during
    last = after.rstrip().splitlines()[-2:]
    assert last[0].startswith(' 700/1000')
    assert last[0].rstrip().endswith('70%')
    assert last[1].strip() == 'eta 0:02:10   loss 0.0123'


@pytest.mark.parametrize(('terminal', 'enabled'), [(False, True), (True, False)])
def test_bar_is_silent_where_it_should_be(terminal, enabled):
    console = make_console(terminal)
    with TrainingProgress(10, enabled=enabled, console=console) as bar:
        bar.update(5, {'loss': '1'})
    assert console.file.getvalue() == ''


def test_bar_ends_with_the_block_even_after_an_error():
    console = make_console(terminal=True)
    bar = TrainingProgress(10, console=console)
    with pytest.raises(ValueError, match='stop'), bar:
        raise ValueError('stop')
    assert bar._bar is None
    assert console._live_stack == [] if hasattr(console, '_live_stack') else True


def test_update_draws_nothing_itself():
    console = make_console(terminal=True)
    with TrainingProgress(100_000, console=console) as bar:
        for i in range(20_000):
            bar.update(i, {'loss': '1'})
    assert plain(console.file.getvalue()).count('100000') < 200


LIVE = """
import time
from basicsr.logger import get_root_logger
from basicsr.progress import TrainingProgress
log = get_root_logger()
with TrainingProgress(9) as bar:
    for i in range(1, 10):
        time.sleep(0.03)
        bar.update(i, {'loss': 'x'})
        if i == 5:
            log.info('line above')
"""


@pytest.mark.skipif(sys.platform == 'win32', reason='needs a pseudo-terminal')
def test_log_lines_stand_above_the_bar_on_a_real_terminal():
    import pty

    leader, follower = pty.openpty()
    environment = {**os.environ, 'TERM': 'xterm', 'COLUMNS': '90', 'PYTHONPATH': str(ROOT)}
    process = subprocess.Popen([sys.executable, '-c', LIVE], stderr=follower, env=environment)
    os.close(follower)
    chunks = []
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(leader)
    assert process.wait() == 0
    rows = [row.strip() for row in plain(b''.join(chunks).decode()).replace('\r', '\n').split('\n')]
    # nothing of the bar is left in its row
    assert any(re.fullmatch(r'\d\d:\d\d:\d\d INFO +line above', row) for row in rows)
    assert any(row.startswith('9/9') and row.endswith('100%') for row in rows)


def test_elsewhere_lines_are_plain():
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    result = subprocess.run([sys.executable, '-c', LIVE], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout == ''
    assert re.fullmatch(r'\d{4}-\d\d-\d\d [\d:,]+ INFO: line above\n', result.stderr)


def test_importing_costs_no_heavy_package():
    code = (
        'import sys, basicsr.history, basicsr.logger, basicsr.progress, basicsr.report\n'
        'heavy = {"torch", "rich", "cv2", "numpy", "wandb"} & set(sys.modules)\n'
        'assert not heavy, heavy'
    )
    subprocess.run([sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': str(ROOT)}, check=True)


# --- logger


@pytest.fixture
def clean_logger(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    logger = logging.getLogger(NAME)
    before, level, propagate = list(logger.handlers), logger.level, logger.propagate
    logger.handlers.clear()
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:] = before
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.mark.usefixtures('clean_logger')
class TestLogger:
    def test_a_line_is_written_once_however_often_the_logger_is_asked_for(self, tmp_path, capsys):
        file = tmp_path / 'run' / 'train.log'
        for _ in range(3):
            logger = get_root_logger(file)
            get_root_logger()
        logger.info('hello')
        assert logger.name == 'basicsr'
        assert re.fullmatch(r'\d{4}-\d\d-\d\d [\d:,]+ INFO: hello\n', file.read_text())
        assert capsys.readouterr().err.count('hello') == 1

    def test_a_new_log_file_takes_the_place_of_the_old(self, tmp_path):
        get_root_logger(tmp_path / 'a.log').info('one')
        get_root_logger(tmp_path / 'b.log').info('two')
        assert 'two' not in (tmp_path / 'a.log').read_text()
        assert 'one' not in (tmp_path / 'b.log').read_text()

    def test_another_rank_is_silent_and_stays_so(self, tmp_path, capsys):
        get_root_logger(tmp_path / 'a.log', rank=1)
        get_root_logger(tmp_path / 'a.log').error('from rank 1')
        assert capsys.readouterr().err == ''
        assert not (tmp_path / 'a.log').exists()
        get_root_logger(rank=0).error('from rank 0')
        assert 'from rank 0' in capsys.readouterr().err

    def test_rank_comes_from_the_environment_at_first(self, monkeypatch, capsys):
        monkeypatch.setenv('RANK', '3')
        get_root_logger().error('quiet')
        assert capsys.readouterr().err == ''

    def test_level(self, capsys):
        get_root_logger(level=logging.WARNING).info('unheard')
        assert capsys.readouterr().err == ''

    def test_unwritable_file_is_named(self, tmp_path):
        (tmp_path / 'file').write_text('')
        with pytest.raises(OptionError, match=r'train\.log cannot be written'):
            get_root_logger(tmp_path / 'file' / 'train.log')


# --- writers


def test_resumed_tensorboard_curve_has_each_point_once(tmp_path):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    with ScalarWriters(tmp_path) as writers:
        for i in range(1, 8):
            writers.add(i, {'losses/l_pix': float(i)})
    time.sleep(1.1)  # files are read in the order of their names, which hold whole seconds
    with ScalarWriters(tmp_path, start_iter=5) as writers:  # iterations 6 and 7 were after the checkpoint
        for i in range(6, 10):
            writers.add(i, {'losses/l_pix': i + 100.0})
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    points = [(e.step, e.value) for e in events.Scalars('losses/l_pix')]
    assert points == [(i, float(i)) for i in range(1, 6)] + [(i, i + 100.0) for i in range(6, 10)]


def test_writers_that_nobody_asked_for_do_nothing():
    for block in (None, {}, {'project': None, 'resume_id': None}):
        writers = ScalarWriters(wandb=block)
        writers.add(1, {'a': 1.0})
        writers.close()
        writers.close()


def test_unknown_wandb_key_is_named():
    with pytest.raises(OptionError, match="unknown key 'projekt'; known are project"):
        ScalarWriters(wandb={'projekt': 'x'})


@pytest.mark.skipif(importlib.util.find_spec('wandb') is not None, reason='wandb is installed')
def test_missing_wandb_is_one_sentence():
    with pytest.raises(OptionError, match=r'^logger\.wandb needs the package wandb: pip install wandb\.$'):
        ScalarWriters(wandb={'project': 'x'})


@pytest.mark.skipif(importlib.util.find_spec('wandb') is None, reason='wandb is not installed')
def test_resumed_wandb_run_keeps_its_id(tmp_path):
    ids = []
    for start in (0, 2):
        with ScalarWriters(wandb={'project': 'x', 'mode': 'offline'}, run_dir=tmp_path, start_iter=start) as writers:
            writers.add(start + 1, {'a': 1.0})
        ids.append((tmp_path / 'wandb_id.txt').read_text())
    assert ids[0] == ids[1] != ''
