"""Time is an argument. Who needs a source of it is handed a Clock; nothing in the engine sleeps."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of seconds that never runs backwards."""

    def now(self) -> float:
        """Seconds since an arbitrary origin."""
        ...


class WallClock:
    """Real time, for device freshness and dead-man limits."""

    def now(self) -> float:
        return time.monotonic()


class ScaledClock:
    """Time that runs `speed` times as fast as `base` and can be moved forward, for rehearsals and replays.

    Cement ages by this clock; device freshness never does.
    """

    def __init__(self, base: Clock, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError(f"clock speed must be positive, got {speed}")
        self._base = base
        self._speed = speed
        self._origin = base.now()
        self._skipped_s = 0.0

    def now(self) -> float:
        return (self._base.now() - self._origin) * self._speed + self._skipped_s

    def skip(self, seconds: float) -> None:
        """Move forward at once, where a person would only wait."""
        if not seconds >= 0:
            raise ValueError(f"time cannot be moved back ({seconds} s)")
        self._skipped_s += seconds


class ManualClock:
    """A clock that a test turns by hand."""

    def __init__(self, start_s: float = 0.0) -> None:
        self.time_s = start_s

    def now(self) -> float:
        return self.time_s

    def advance(self, seconds: float) -> None:
        self.time_s += seconds
