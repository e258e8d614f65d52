"""Runs the command line inside the test process, and says what a refusal must look like."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from sacroplasty.cli import main


@dataclass(frozen=True)
class Ended:
    """What a command left behind in the terminal."""

    code: int
    out: str
    err: str

    def refused(self, *words: str) -> None:
        """Assert that one line says what is wrong, in these words, after no more than the names of steps begun."""
        lines = self.err.splitlines()
        assert self.code == 2, (self.code, self.err)
        assert self.out == ""
        assert lines and lines[-1].startswith("sacroplasty: "), self.err
        assert all(re.match(r" *[0-9.]+ s  \w+: ", line) for line in lines[:-1]), f"more than the one line:\n{self.err}"
        assert "Traceback" not in self.err and ".partial" not in self.err
        for word in words:
            assert word in lines[-1], f"{word!r} is not in: {lines[-1]}"


class CommandLine:
    """`sacroplasty` with its arguments, as the console script calls it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, *arguments: object) -> Ended:
        self._monkeypatch.setattr("sys.argv", ["sacroplasty", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        self._capfd.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, before)
        code = ended.value.code
        return Ended(code if isinstance(code, int) else int(bool(code)), *self._capfd.readouterr())


def is_untouched(folder: Path) -> bool:
    """Whether a folder that was made empty still is."""
    return list(folder.iterdir()) == []
