"""What a person watches during training: speed and waiting time, the log line, and a live bar on a terminal."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

REDRAWS_PER_SECOND = 8.0
_NAME_LENGTH = 8


class Rate(NamedTuple):
    """What :class:`RateMeter` measured over its window; zeros before the first step."""

    images_per_s: float
    data_share: float  # of the time, in [0, 1], spent waiting for the data loader
    seconds_per_iter: float


class RateMeter:
    """Measures speed over the latest steps, leaving out paused time such as validation.

    The very first step also starts the loader's workers and chooses kernels; it is dropped as soon as a second one is
    known.

    Args:
        window: How many of the latest steps count.
        clock: Seconds that never run backwards.
    """

    def __init__(self, window: int = 50, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._steps: deque[tuple[float, float, int]] = deque(maxlen=window)  # seconds, of these waiting, images
        self._count = 0
        self._waited = 0.0
        self._banked = 0.0  # seconds of the current step that lie before the latest pause
        self._since: float | None = clock()  # None while paused

    def data_wait(self, seconds: float) -> None:
        """Adds time that the current step spent waiting for its batch."""
        self._waited += seconds

    def step(self, images: int) -> None:
        """Ends a step that used ``images`` images; the next one begins."""
        self._steps.append((self._elapsed(), self._waited, images))
        self._count += 1
        if self._count == 2 and len(self._steps) == 2:
            self._steps.popleft()
        self._waited = self._banked = 0.0
        self._since = self._clock() if self._since is not None else None

    def pause(self) -> None:
        """Stops the clock, as for a validation; harmless when it is stopped already."""
        self._banked, self._since = self._elapsed(), None

    def resume(self) -> None:
        """Lets the clock run on after :meth:`pause`; harmless when it runs already."""
        if self._since is None:
            self._since = self._clock()

    def snapshot(self) -> Rate:
        """Speed over the window."""
        seconds = sum(s[0] for s in self._steps)
        if not seconds > 0:
            return Rate(0.0, 0.0, 0.0)
        share = min(sum(s[1] for s in self._steps) / seconds, 1.0)
        return Rate(sum(s[2] for s in self._steps) / seconds, share, seconds / len(self._steps))

    def eta(self, remaining: int) -> float | None:
        """Seconds that ``remaining`` iterations will take at the present speed; None before the first step."""
        return remaining * self.snapshot().seconds_per_iter if self._steps else None

    def _elapsed(self) -> float:
        return self._banked + (self._clock() - self._since if self._since is not None else 0.0)


def format_seconds(seconds: float | None) -> str:
    """``0:02:10``, ``1 day, 3:04:05``; ``--:--`` when not known."""
    return '--:--' if seconds is None else str(timedelta(seconds=round(seconds)))


def format_log_line(
    name: str,
    epoch: int,
    iteration: int,
    lrs: Iterable[float],
    rate: Rate,
    eta: float | None,
    losses: Mapping[str, float],
) -> str:
    """One line of a training log in the manner of BasicSR.

    ``[quicks..][epoch:  3, iter:   700, lr:(1.000e-03,)] [eta: 0:02:10, 41.2 img/s, data 3%] l_pix: 1.2345e-02``
    """
    short = name if len(name) <= _NAME_LENGTH else f'{name[: _NAME_LENGTH - 2]}..'
    rates = ''.join(f'{lr:.3e},' for lr in lrs)
    head = f'[{short}][epoch:{epoch:3d}, iter:{iteration:6,d}, lr:({rates})]'
    speed = f'[eta: {format_seconds(eta)}, {rate.images_per_s:.1f} img/s, data {rate.data_share:.0%}]'
    return ' '.join([head, speed, *(f'{k}: {v:.4e}' for k, v in losses.items())])


class TrainingProgress:
    """A live bar on a terminal, as a context manager; elsewhere it draws nothing and the log lines serve.

    Lines logged through ``get_root_logger`` appear above the bar, because both write to one console.

    Args:
        total_iter: Last iteration.
        start_iter: Iteration from which the run starts or resumes.
        enabled: False draws nothing, as on every rank but the first.
        console: Where to draw; by default the logger's console, when the error stream is a terminal.
    """

    def __init__(
        self, total_iter: int, start_iter: int = 0, enabled: bool = True, console: Console | None = None
    ) -> None:
        self.total_iter = total_iter
        self._iteration = start_iter
        self._fields: Mapping[str, str] = {}
        self._phase: str | None = None
        self._bar: Any = None
        self._console = console
        if console is None:
            self.active = enabled and sys.stderr is not None and sys.stderr.isatty()
        else:
            self.active = enabled and console.is_terminal

    def __enter__(self) -> TrainingProgress:
        if self.active:
            self._bar = _make_bar(self, self._console)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, iteration: int, fields: Mapping[str, str] | None = None) -> None:
        """Stores what the next redraw shows; so cheap that it may be called in every iteration.

        Args:
            iteration: The iteration just finished.
            fields: Texts by label, drawn in this order, such as ``{'eta': '0:02:10', 'loss': '0.0123'}``; None
                keeps what is shown.
        """
        self._iteration = iteration
        self._fields = self._fields if fields is None else fields

    def phase(self, text: str | None) -> None:
        """Shows ``text``, such as ``validating``, in place of the fields; None brings the fields back."""
        self._phase = text

    def state(self) -> tuple[int, Mapping[str, str], str | None]:
        """What the bar is to show now: iteration, fields, phase."""
        return self._iteration, self._fields, self._phase


def _make_bar(progress: TrainingProgress, console: Console | None) -> Any:
    """A rich bar that asks ``progress`` for its state whenever it redraws."""
    from rich.console import Group, RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn
    from rich.text import Text

    from basicsr.logger import shared_console

    class Bar(Progress):
        def get_renderable(self) -> RenderableType:
            iteration, fields, phase = progress.state()
            for task in self.tasks:
                task.completed = iteration
            line = Text(phase, style='italic') if phase else _field_text(fields)
            line.no_wrap, line.overflow = True, 'ellipsis'
            return Group(*self.get_renderables(), line)

    columns = (MofNCompleteColumn(), BarColumn(bar_width=None), TaskProgressColumn())
    bar = Bar(
        *columns,
        console=console or shared_console(),
        refresh_per_second=REDRAWS_PER_SECOND,
        expand=True,
        # what is printed goes above the bar, unless it goes elsewhere
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
    )
    bar.add_task('train', total=progress.total_iter, completed=progress.state()[0])
    return bar


def _field_text(fields: Mapping[str, str]) -> Any:
    from rich.text import Text

    text = Text()
    for label, value in fields.items():
        text.append('   ' if text else '').append(f'{label} ', style='dim').append(value)
    return text
