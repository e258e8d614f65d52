"""What all commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print a machine-readable summary on stdout.")


def report(as_json: bool, summary: dict[str, Any], text: str) -> None:
    """Print the result: JSON for programs or plain text for people."""
    click.echo(json.dumps(summary, indent=2) if as_json else text)


@contextmanager
def progress(description: str) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr; yields a function that takes the fraction done, 0 to 1."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<34}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=1.0)
        yield lambda fraction: bar.update(task, completed=min(max(fraction, 0.0), 1.0))
        bar.update(task, completed=1.0)
