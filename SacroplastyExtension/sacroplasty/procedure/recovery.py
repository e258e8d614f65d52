"""What a journal says of an injection whose program was killed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ..errors import DocumentError
from ..planning.model import Side
from .journal import Journal, read_journal

#: How the journals of the injection page are called.
PATTERN = "injection-*.jsonl"

_ENDINGS = ("session_closed", "session_moved", "session_taken_over", "session_left")


@dataclass(frozen=True)
class RecoveredSession:
    """The last that is known of a session.

    Attributes:
        path: its journal.
        began_unix_s, ended_unix_s: of its first and its last entry.
        cement, mixed_at_unix_s: key of its preset, and when it was mixed; None when none was.
        given_ml: by side, as far as the journal goes.
        side, phase: of the injection at the end.
        counter_ml: of the pump at the end; None when it was not known.
    """

    path: Path
    began_unix_s: float
    ended_unix_s: float
    cement: str
    mixed_at_unix_s: float | None
    given_ml: dict[Side, float]
    side: Side
    phase: str
    counter_ml: float | None


def recover(path: Path) -> RecoveredSession | None:
    """The session of a journal that ended without being closed; None for one that was, or in which nothing was done.

    Raises:
        DocumentError: when the journal is damaged before its end, or is none of an injection.
    """
    entries = read_journal(path)
    if not entries or entries[-1].get("event") in _ENDINGS:
        return None
    try:
        began_unix_s = float(entries[0]["unix_s"])
        last = entries[-1]
        mixed_at_unix_s, counter_ml = last["mixed_at_unix_s"], last["counter_ml"]
        return RecoveredSession(
            path=path,
            began_unix_s=began_unix_s,
            ended_unix_s=began_unix_s + float(last["time_s"]),
            cement=str(last["cement"]),
            mixed_at_unix_s=None if mixed_at_unix_s is None else float(mixed_at_unix_s),
            given_ml={side: _volume(last["given_ml"][side]) for side in get_args(Side)},
            side=last["side"],
            phase=last["phase"],
            counter_ml=None if counter_ml is None else float(counter_ml),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DocumentError(f"{path} is no journal of an injection ({error!r}); move it away") from None


def unclosed(folder: Path) -> RecoveredSession | None:
    """The newest session of a folder that ended without being closed; None when there is none.

    Raises:
        DocumentError: for a journal that cannot be read.
    """
    for path in sorted(folder.glob(PATTERN), reverse=True):
        found = recover(path)
        if found is not None:
            return found
    return None


def mark(session: RecoveredSession, event: str) -> None:
    """Note in a recovered journal what became of it: `session_taken_over` or `session_left`."""
    with Journal(session.path) as journal:
        journal.write(session.ended_unix_s - session.began_unix_s, event)


def _volume(value: object) -> float:
    volume = float(value)  # type: ignore[arg-type]
    if not (math.isfinite(volume) and volume >= 0):
        raise ValueError(f"a volume of {volume} mL")
    return volume
