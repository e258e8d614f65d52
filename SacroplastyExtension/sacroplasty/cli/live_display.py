"""What the terminal shows while a rehearsal runs."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import TaskID

_WIDTH = 96


class LiveDisplay:
    """On a terminal one line per finished step and a live line with a bar for the present one, on stderr.

    In a file or a pipe a plain line as each step begins, so that a log shows how far a rehearsal came.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
        )
        console = Console(stderr=True)
        self._plain = not console.is_terminal
        self._bar = Progress(*columns, console=console, disable=self._plain)
        self._begun_s = time.monotonic()
        self._step = ""
        self._task: TaskID | None = None

    def __enter__(self) -> LiveDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None and kind is None:
            self._bar.update(self._task, completed=1.0, text="")
        self._bar.stop()

    def __call__(self, step: str, text: str, fraction: float) -> None:
        """Show where the rehearsal is.

        Args:
            step: name of the step; a new one begins a new line.
            fraction: how much of it is done, 0 to 1.
        """
        if self._task is None or step != self._step:
            if self._task is None:
                self._bar.start()
            else:
                self._bar.update(self._task, completed=1.0, text="")
                self._bar.stop_task(self._task)
            self._step = step
            self._task = self._bar.add_task(step, total=1.0, text="")
            if self._plain:
                click.echo(f"{time.monotonic() - self._begun_s:6.1f} s  {step}: {text[:_WIDTH]}", err=True)
        self._bar.update(self._task, completed=min(max(fraction, 0.0), 1.0), text=text[:_WIDTH])
