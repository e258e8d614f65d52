"""Outputs appear whole or not at all: write under a temporary name, then rename."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import SacroplastyError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_file_target(path: Path) -> None:
    """Raise SacroplastyError unless a file can be written there, before hours of work for it are spent."""
    if Path(path).is_dir():
        raise SacroplastyError(f"{path} is a folder; give a file for the result")
    _check_reachable(Path(path).parent, path)


def check_folder_target(path: Path) -> None:
    """Raise SacroplastyError unless results can be written into this folder, which need not exist."""
    if Path(path).exists() and not Path(path).is_dir():
        raise SacroplastyError(f"{path} is a file; give a folder for the results")
    _check_reachable(Path(path), path)
    # The draft stands beside the folder.
    _check_reachable(Path(path).absolute().parent, path)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with the same ending, that takes its place when the block succeeds.

    Whatever ends the block early, Ctrl-C and a full disk included, leaves `path` as it was.
    """
    path = Path(path)
    check_file_target(path)
    with _staged(path.parent, path) as stage:
        draft = stage / path.name
        yield draft
        os.replace(draft, path)


@contextmanager
def staged_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` whose content moves into `path` when the block succeeds.

    Files in `path` that have the same names are replaced; others stay. An existing `path` need not be empty.
    """
    path = Path(path)
    check_folder_target(path)
    with _staged(path.absolute().parent, path) as stage:
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


@contextmanager
def _staged(parent: Path, target: Path) -> Iterator[Path]:
    """A temporary folder in `parent`; if the block fails, folders that had to be made for it go again."""
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    stage: Path | None = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".partial-{target.name}-", dir=parent))
        yield stage
    except BaseException as error:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for folder in missing:
            try:
                folder.rmdir()
            except OSError:
                break
        if isinstance(error, OSError) and error.errno in _FULL:
            raise SacroplastyError(f"no space left on the disk for {target}; free some and run again") from error
        raise
    shutil.rmtree(stage, ignore_errors=True)


def _check_reachable(folder: Path, target: Path) -> None:
    nearest = next((one for one in (folder, *folder.absolute().parents) if one.exists()), Path("/"))
    if not nearest.is_dir():
        raise SacroplastyError(f"{target} cannot be written: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise SacroplastyError(f"{target} cannot be written: {nearest} may not be written to")
