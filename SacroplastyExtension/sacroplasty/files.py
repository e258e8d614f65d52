"""Outputs appear whole or not at all: write under a temporary name, then rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import SacroplastyError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with the same ending, that takes its place when the block succeeds.

    Whatever ends the block early, Ctrl-C and a full disk included, leaves `path` as it was.
    """
    path = Path(path)
    _make_parents(path.parent)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as stage:
        draft = Path(stage) / path.name
        yield draft
        os.replace(draft, path)


@contextmanager
def staged_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` whose content moves into `path` when the block succeeds.

    Files in `path` that have the same names are replaced; others stay. An existing `path` need not be empty.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise SacroplastyError(f"{path} is a file; give a folder for the results")
    _make_parents(path.parent)
    stage = Path(tempfile.mkdtemp(prefix=f".partial-{path.name}-", dir=path.parent))
    try:
        yield stage
        if path.exists():
            for item in stage.iterdir():
                target = path / item.name
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(item, target)
        else:
            stage.chmod(0o755)
            os.replace(stage, path)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _make_parents(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise SacroplastyError(f"{folder} cannot hold results because a part of it is a file") from error
