"""An append-only record of every decision, from which a killed session can be read back."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import DocumentError


class Journal:
    """Appends one JSON object a line and syncs it to the disk before going on.

    Args:
        path: the file; an existing one is continued. A last line that a crash cut short is no entry and goes.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        _cut_unfinished_line(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        _sync_folder(self.path.parent)

    def write(self, time_s: float, event: str, **facts: Any) -> None:
        """Record what happened.

        Args:
            time_s: seconds since the procedure began.
            event: what happened, as a short lower-case name such as `injection_stopped`.
            facts: values that JSON can hold, and numpy numbers and arrays; a number that is not finite becomes null.
        """
        line = json.dumps(_plain({"time_s": round(time_s, 3), "event": event, **facts}), allow_nan=False)
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All whole entries of a journal. A last line that a crash cut short is left out.

    Raises:
        DocumentError: when a line before the last is damaged.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise DocumentError(
                f"{path}, line {number} is damaged ({error}); the journal was changed by hand?"
            ) from None
    return entries


def _cut_unfinished_line(path: Path) -> None:
    """End the file after its last whole line, so that the next entry does not become part of half a line."""
    if not path.exists():
        return
    text = path.read_bytes()
    if text and not text.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(text.rfind(b"\n") + 1)


def _sync_folder(folder: Path) -> None:
    """Have the folder's list of files on the disk too, so that a power cut leaves no journal without its name."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
