"""What all commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..files import check_file_target, check_folder_target

json_option = click.option("--json", "as_json", is_flag=True, help="Print a machine-readable summary on stdout.")


class _Output(click.Path):
    """A path to write to, refused before the work when nothing can be written there."""

    def __init__(self, check: Callable[[Path], None]) -> None:
        super().__init__(path_type=Path)
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        path = Path(str(super().convert(value, param, context)))
        self._check(path)
        return path


#: Types of `--out` options.
OUTPUT_FILE, OUTPUT_FOLDER = _Output(check_file_target), _Output(check_folder_target)


class FiniteRange(click.FloatRange):
    """A number between limits; NaN is none."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        number = super().convert(value, param, context)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, context)
        return number


def report(as_json: bool, summary: dict[str, Any], text: str) -> None:
    """Print the result: JSON for programs or plain text for people."""
    click.echo(json.dumps(summary, indent=2) if as_json else text)


@contextmanager
def progress(description: str) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr; yields a function that takes the fraction done, 0 to 1.

    Nothing is shown where nobody watches: in a file or a pipe only what went wrong is of use.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<34}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=1.0)
        yield lambda fraction: bar.update(task, completed=min(max(fraction, 0.0), 1.0))
        bar.update(task, completed=1.0)
