"""Alarms as people meet them: priority, color, flashing, sound, and a pause of the sound that hides nothing.

The behaviour takes IEC 60601-1-8 as its model: high priority flashes red at 1.4 to 2.8 Hz and sounds in two groups of
five pulses, medium flashes yellow at 0.4 to 0.8 Hz and sounds three pulses, low does not flash. It was not tested
against the standard and is not certified.

Pure: time comes in, and nothing here makes a sound or draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..navigation.alarms import PULSES_S, Priority

_RANK: dict[Priority, int] = {"high": 0, "medium": 1, "low": 2}

#: How often an alarm flashes; 0 for a steady light [Hz].
FLASH_HZ: dict[Priority, float] = {"high": 2.0, "medium": 0.6, "low": 0.0}

#: After how long the pattern of sound begins anew [s].
REPEAT_S: dict[Priority, float] = {"high": 8.0, "medium": 15.0, "low": math.inf}

#: So long at most the sound is paused; a new alarm of at least the same priority ends the pause.
PAUSE_S = 60.0


@dataclass(frozen=True)
class Alarm:
    """Something that a person has to act upon. `key` says what kind it is, whatever figures the text holds."""

    key: str
    priority: Priority
    text: str


@dataclass(frozen=True)
class AlarmBoard:
    """The alarms that stand now, and whether their sound is paused.

    Attributes:
        active: gravest first; among equals the newest first.
        since_s: by key, since when it stands.
        paused_until_s: end of the pause of the sound.
    """

    active: tuple[Alarm, ...] = ()
    since_s: tuple[tuple[str, float], ...] = ()
    paused_until_s: float = -math.inf

    def with_alarms(self, alarms: Iterable[Alarm], now_s: float) -> AlarmBoard:
        """The board when these and no others stand."""
        known = dict(self.since_s)
        since = {alarm.key: known.get(alarm.key, now_s) for alarm in alarms}
        ordered = sorted(alarms, key=lambda alarm: (_RANK[alarm.priority], -since[alarm.key]))
        grave = min((_RANK[alarm.priority] for alarm in self.active), default=len(_RANK))
        breaks = any(alarm.key not in known and _RANK[alarm.priority] <= grave for alarm in ordered)
        until_s = -math.inf if breaks or not ordered else self.paused_until_s
        return AlarmBoard(tuple(ordered), tuple(since.items()), until_s)

    def with_sound_paused(self, now_s: float) -> AlarmBoard:
        """The board with its sound paused from now on; what is seen stays."""
        return replace(self, paused_until_s=now_s + PAUSE_S)

    @property
    def gravest(self) -> Alarm | None:
        return self.active[0] if self.active else None

    def paused_s(self, now_s: float) -> float:
        """For how long the sound is still paused; 0 when it is not."""
        return max(0.0, min(self.paused_until_s - now_s, PAUSE_S))

    def lit(self, now_s: float) -> bool:
        """Whether the gravest alarm's light is at its bright half now. A steady one always is."""
        if not self.active:
            return False
        flash_hz = FLASH_HZ[self.active[0].priority]
        return flash_hz == 0 or (now_s * flash_hz) % 1.0 < 0.5

    def sounds(self, before_s: float, now_s: float) -> bool:
        """Whether a pulse of the gravest alarm begins after `before_s` and not after `now_s`."""
        if not self.active or self.paused_s(now_s) > 0 or not now_s > before_s:
            return False
        alarm = self.active[0]
        since_s = dict(self.since_s)[alarm.key]
        repeat_s = REPEAT_S[alarm.priority]
        rounds = 0 if math.isinf(repeat_s) else int((now_s - since_s) // repeat_s)
        first_s = since_s + (rounds * repeat_s if rounds else 0.0)
        return any(before_s < first_s + pulse_s <= now_s for pulse_s in PULSES_S[alarm.priority])
