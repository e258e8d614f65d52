"""Warnings of guidance as events: for each structure its own, by priority, without chattering, ready for sound.

In behaviour they take IEC 60601-1-8 as their model (three priorities, bursts of pulses, a pause that silences and never
hides); they were not tested against it and are not certified.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .clearance import ShaftAssessment
from .guidance import GuidanceReading

Priority = Literal["high", "medium", "low"]
RANK: Mapping[Priority, int] = {"high": 3, "medium": 2, "low": 1}

#: Alarms that are about no structure.
NO_GUIDANCE, PAST_TARGET = "guidance", "target"
#: With the error counted in, the shaft may be touching a structure below 0, and comes near it below this [mm].
NEAR_MM = 1.0
#: A structure that is this near ahead is worth knowing, unless the target comes first [mm].
AHEAD_WARNING_MM = 5.0
#: What was warned of is over only when it is this much better [mm].
_HYSTERESIS_MM = 0.5
#: A warning that comes back within this has not gone [s].
_REST_S = 1.0
#: A burst begins anew after this while its cause stands; a low one sounds once [s].
_AGAIN_S: Mapping[Priority, float] = {"high": 5.0, "medium": 10.0, "low": float("inf")}
#: When pulses of a burst begin [s]: high is two times three and two, medium three, low one.
_HIGH_HALF = (0.0, 0.2, 0.4, 0.8, 1.0)
PULSES_S: Mapping[Priority, tuple[float, ...]] = {
    "high": (*_HIGH_HALF, *(1.6 + start for start in _HIGH_HALF)),
    "medium": (0.0, 0.3, 0.6),
    "low": (0.0,),
}


@dataclass(frozen=True)
class GuidanceWarning:
    """Something that the surgeon must know.

    Attributes:
        about: the structure, or `NO_GUIDANCE` or `PAST_TARGET`.
        begun_s: when it began.
        distance_mm: of the shaft from the structure with the error counted in; None where there is none.
        breach_probability: of the structure; None where there is none.
    """

    about: str
    priority: Priority
    begun_s: float
    distance_mm: float | None = None
    breach_probability: float | None = None


@dataclass(frozen=True)
class WarningEvent:
    """A warning that began, rose, fell or ended (`priority` None then)."""

    time_s: float
    about: str
    priority: Priority | None


class GuidanceAlarms:
    """The warnings that stand, from one reading to the next."""

    def __init__(self) -> None:
        self._standing: dict[str, GuidanceWarning] = {}
        self._cleared_s: dict[str, float] = {}
        self._sounded: dict[str, tuple[float, Priority]] = {}
        self._paused_until_s = float("-inf")
        self._guided = False

    @property
    def standing(self) -> tuple[GuidanceWarning, ...]:
        """All that stand, the worst first."""
        return tuple(sorted(self._standing.values(), key=lambda one: (-RANK[one.priority], one.distance_mm or 0.0)))

    def update(self, reading: GuidanceReading, now_s: float) -> list[WarningEvent]:
        """Judge a reading; returns what changed.

        A warning rises at once. It falls or ends only when it has been better by a margin for a while, so that noise
        around a limit makes one event and no chatter. Without guidance nothing is known of structures: their warnings
        give way to that of the lost guidance and stand again at once when it is back.
        """
        events = []
        wanted = self._judge(reading)
        if not reading.valid:
            for about in set(self._standing) - {NO_GUIDANCE}:
                events.append(self._end(about, now_s))
        for about, (priority, distance_mm, probability) in wanted.items():
            known = self._standing.get(about)
            if known is None or known.priority != priority:
                events.append(WarningEvent(now_s, about, priority))
            begun_s = now_s if known is None or RANK[priority] > RANK[known.priority] else known.begun_s
            self._standing[about] = GuidanceWarning(about, priority, begun_s, distance_mm, probability)
            self._cleared_s.pop(about, None)
        for about in set(self._standing) - set(wanted):
            cleared_s = self._cleared_s.setdefault(about, now_s)
            if about == NO_GUIDANCE or now_s - cleared_s >= _REST_S:
                events.append(self._end(about, now_s))
        self._guided = self._guided or reading.valid
        return events

    def pause_sound(self, now_s: float, seconds: float) -> None:
        """Be silent for a while. What stands stays on the screen, and what is new and high is heard all the same."""
        self._paused_until_s = now_s + seconds

    def sound(self, now_s: float) -> Priority | None:
        """The burst that has to begin now; None for silence. Each warning sounds when it begins and while it stands."""
        due = [
            warning
            for warning in self.standing
            if self._is_due(warning, now_s) and (now_s >= self._paused_until_s or self._is_new_and_high(warning))
        ]
        if not due:
            return None
        # One burst speaks for all that stand.
        for warning in self._standing.values():
            self._sounded[warning.about] = now_s, warning.priority
        return due[0].priority

    def paused_s(self, now_s: float) -> float:
        """How long the pause of the sound still lasts."""
        return max(0.0, self._paused_until_s - now_s)

    def _is_due(self, warning: GuidanceWarning, now_s: float) -> bool:
        sounded_s, priority = self._sounded.get(warning.about, (float("-inf"), warning.priority))
        return RANK[warning.priority] > RANK[priority] or now_s - sounded_s >= _AGAIN_S[warning.priority]

    def _is_new_and_high(self, warning: GuidanceWarning) -> bool:
        sounded = self._sounded.get(warning.about)
        return warning.priority == "high" and (sounded is None or RANK[sounded[1]] < RANK["high"])

    def _judge(self, reading: GuidanceReading) -> dict[str, tuple[Priority, float | None, float | None]]:
        if not reading.valid:
            # Before the first pose nobody relies on guidance.
            return {NO_GUIDANCE: ("medium", None, None)} if self._guided else {}
        wanted: dict[str, tuple[Priority, float | None, float | None]] = {}
        # Where no distances are known, everything counts as touched.
        for one in reading.structures or (ShaftAssessment((), None).nearest,):
            priority = self._priority(one.structure, one.assured_mm)
            if priority is not None:
                wanted[one.structure] = priority, one.assured_mm, one.breach_probability
        if reading.phase == "past-target":
            wanted[PAST_TARGET] = "medium", None, None
        ahead = reading.ahead
        to_target = reading.depth_to_target_mm if reading.depth_to_target_mm is not None else float("inf")
        limit = AHEAD_WARNING_MM + self._margin(ahead.structure if ahead else "")
        if ahead is not None and ahead.structure not in wanted and ahead.distance_mm < min(limit, to_target):
            wanted[ahead.structure] = "low", ahead.distance_mm, None
        return wanted

    def _priority(self, about: str, assured_mm: float) -> Priority | None:
        """Of a structure at this distance; what stands keeps its priority until it is better by a margin."""
        standing = self._standing.get(about)
        high_until = _HYSTERESIS_MM if standing is not None and standing.priority == "high" else 0.0
        if not assured_mm >= high_until:
            return "high"
        return "medium" if assured_mm < NEAR_MM + self._margin(about) else None

    def _margin(self, about: str) -> float:
        return _HYSTERESIS_MM if about in self._standing else 0.0

    def _end(self, about: str, now_s: float) -> WarningEvent:
        del self._standing[about]
        self._cleared_s.pop(about, None)
        return WarningEvent(now_s, about, None)
