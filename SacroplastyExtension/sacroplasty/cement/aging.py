"""How long cement can still be injected: its age, counted faster when it is warm.

The reaction speeds up with temperature after Arrhenius. Cement kept at a changing temperature T(t) is as old as cement
kept at the preset's temperature T0 for the equivalent time

    tau = integral of exp(-Ea / R * (1 / T(t) - 1 / T0)) dt

with absolute temperatures. The clock only knows the mixing time, where the cement was moved to and the thermometer
readings it is handed; nothing here measures the cement itself, so the person at the table decides whether it is
doughy enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from .presets import CementPreset, PowerLawFluid, default_preset

Phase = Literal["not-mixed", "mixing", "waiting", "working", "too-stiff", "unknown"]
Place = Literal["bench", "cannula", "body"]
Level = Literal["prompt", "warning", "alarm"]

#: Taken where no valid reading tells otherwise, so that time runs short too early rather than too late: the warm end of
#: an operating room, and body temperature wherever the cannula may have taken it on.
ASSUMED_TEMPERATURE_C: Mapping[Place, float] = {"bench": 25.0, "cannula": 37.0, "body": 37.0}

#: A reading speaks for this long; a room does not change faster.
READING_VALID_S = 120.0

#: Readings outside are a broken thermometer, not a place where cement is kept.
_PLAUSIBLE_C = (-2.0, 45.0)

#: A reading or a look at the clock this much later than now means that the clock was set back.
_CLOCK_TOLERANCE_S = 1.0

#: When the clock begins to speak of what comes next.
_SOON_S = 30.0
_ENDING_S = 120.0
_LAST_S = 60.0


@dataclass(frozen=True)
class TemperatureReading:
    """Temperature in degC where cement is kept."""

    time_s: float
    temperature_c: float
    place: Place = "bench"


@dataclass(frozen=True)
class CementClock:
    """The age of one batch. Times are seconds of the caller's clock.

    Attributes:
        mixed_at_s: when mixing began; None before.
        activated_at_s: when a cement that needs it was first activated; what was activated first is the oldest.
        readings: the temperature log, in the order of time. A place without a valid reading counts as
            `ASSUMED_TEMPERATURE_C` warm, or as warm as its last valid reading if that was more.
        moves: when the oldest cement that is still to be injected went where; on the bench before.
        seen_s: latest time at which `seen` was called; an earlier now is a clock that was set back.
    """

    preset: CementPreset = field(default_factory=default_preset)
    mixed_at_s: float | None = None
    readings: tuple[TemperatureReading, ...] = ()
    activated_at_s: float | None = None
    moves: tuple[tuple[float, Place], ...] = ()
    seen_s: float = -math.inf

    def mixed(self, now_s: float) -> CementClock:
        """A new batch whose mixing begins now. The temperature log goes on, but for readings of a later time."""
        readings = tuple(reading for reading in self.readings if reading.time_s <= now_s)
        return CementClock(self.preset, mixed_at_s=now_s, readings=readings)

    def activated(self, now_s: float) -> CementClock:
        """The clock of a cement whose first part is being activated now."""
        return replace(self, activated_at_s=now_s)

    def moved(self, now_s: float, place: Place) -> CementClock:
        """The clock after its oldest cement went to another place."""
        return replace(self, moves=tuple(sorted([*self.moves, (now_s, place)])))

    def seen(self, now_s: float) -> CementClock:
        """The clock as looked at now; with it a clock that is set back later is found out."""
        return replace(self, seen_s=max(self.seen_s, now_s)) if math.isfinite(now_s) else self

    def with_reading(self, time_s: float, temperature_c: float, place: Place = "bench") -> CementClock:
        """The clock with one more reading; one that is no number or not plausible is left out."""
        low, high = _PLAUSIBLE_C
        if not (math.isfinite(time_s) and low <= temperature_c <= high):
            return self
        reading = TemperatureReading(time_s, temperature_c, place)
        return replace(self, readings=tuple(sorted([*self.readings, reading], key=lambda one: one.time_s)))

    def place(self, time_s: float) -> Place:
        """Where the oldest cement is at a time."""
        return next((place for moved_s, place in reversed(self.moves) if moved_s <= time_s), "bench")

    def temperature_c(self, time_s: float) -> tuple[float, bool]:
        """The temperature at a time that counts for aging, and whether a valid reading stands behind it."""
        place = self.place(time_s)
        assumed_c = ASSUMED_TEMPERATURE_C[place]
        earlier = [reading for reading in self.readings if reading.place == place and reading.time_s <= time_s]
        if not earlier:
            return assumed_c, False
        last = earlier[-1]
        if time_s - last.time_s <= READING_VALID_S:
            return last.temperature_c, True
        return max(last.temperature_c, assumed_c), False

    @property
    def started_at_s(self) -> float | None:
        """When the age begins to count: mixing, or the activation of cement that needs one; None before."""
        return self.mixed_at_s if self.preset.activation is None else self.activated_at_s

    def set_back(self, now_s: float) -> bool:
        """Whether this clock has seen a later time than now."""
        latest = max([self.seen_s, *(reading.time_s for reading in self.readings)])
        return now_s < latest - _CLOCK_TOLERANCE_S

    def equivalent_age_s(self, now_s: float) -> float:
        """Age in seconds at the preset's temperature; NaN before it starts and for a time that cannot be."""
        start_s = self.started_at_s
        if start_s is None or not now_s >= start_s or self.set_back(now_s) or not math.isfinite(now_s):
            return math.nan
        # The temperature only changes at these instants, so that the integral is a sum.
        changes = {reading.time_s for reading in self.readings} | {moved_s for moved_s, _ in self.moves}
        changes |= {math.nextafter(reading.time_s + READING_VALID_S, math.inf) for reading in self.readings}
        edges = [start_s, *sorted(t for t in changes if start_s < t < now_s), now_s]
        return sum(
            (end - start) * self.preset.rate_factor(self.temperature_c(start)[0]) for start, end in pairwise(edges)
        )

    def phase(self, now_s: float) -> Phase:
        """What the cement is good for now. Only `working` may be injected."""
        preset = self.preset
        if self.mixed_at_s is None:
            return "not-mixed"
        if not now_s >= self.mixed_at_s or self.set_back(now_s) or not math.isfinite(now_s):
            return "unknown"
        if preset.activation is not None:
            since_mixing_s = now_s - self.mixed_at_s
            if since_mixing_s >= preset.activation.reservoir_until_s:
                return "too-stiff"
            if self.activated_at_s is None:
                return "mixing" if since_mixing_s < preset.mixed_s else "waiting"
        age_s = self.equivalent_age_s(now_s)
        if math.isnan(age_s):
            return "unknown"
        if age_s < preset.mixed_s:
            return "mixing"
        if age_s < preset.working_from_s:
            return "waiting"
        return "working" if age_s < preset.working_until_s else "too-stiff"

    def seconds_until(self, equivalent_age_s: float, now_s: float) -> float:
        """Seconds until that age is reached at the present temperature; 0 when passed, NaN before it counts."""
        age_s = self.equivalent_age_s(now_s)
        if math.isnan(age_s):
            return math.nan
        return max(0.0, (equivalent_age_s - age_s) / self.preset.rate_factor(self.temperature_c(now_s)[0]))

    def seconds_until_working(self, now_s: float) -> float:
        """Seconds to wait before injection."""
        return self.seconds_until(self.preset.working_from_s, now_s)

    def seconds_left(self, now_s: float) -> float:
        """Seconds until the cement is too stiff."""
        left_s = self.seconds_until(self.preset.working_until_s, now_s)
        if self.preset.activation is None or self.mixed_at_s is None:
            return left_s
        return min(left_s, max(0.0, self.mixed_at_s + self.preset.activation.reservoir_until_s - now_s))

    def fluid(self, now_s: float) -> PowerLawFluid:
        """The power law that the cement follows now; NaN before its age counts."""
        return self.preset.fluid(self.equivalent_age_s(now_s))

    def consistency_pa_sn(self, now_s: float) -> float:
        """K of the power law in Pa s^n; NaN before its age counts."""
        return self.fluid(now_s).consistency_pa_sn

    def growth_per_s(self, now_s: float) -> float:
        """How fast ln K grows now, in 1/s of real time; NaN before the age counts."""
        return self.preset.growth_per_s(self.equivalent_age_s(now_s)) * self.preset.rate_factor(
            self.temperature_c(now_s)[0]
        )


@dataclass(frozen=True)
class Notice:
    """What the clock has to say: a prompt to do something, a warning, or an alarm.

    Attributes:
        code: of the kind of notice, for the sound, the journal and tests.
    """

    level: Level
    code: str
    text: str


def clock_notices(clock: CementClock, now_s: float) -> tuple[Notice, ...]:
    """Everything to be said of a batch now, gravest first. Pure: what was said before is the caller's to remember."""
    phase = clock.phase(now_s)
    notices = []
    if phase == "not-mixed":
        return (Notice("prompt", "mix", "mix the cement when the trocar stands"),)
    if phase == "unknown":
        return (Notice("alarm", "clock", "the cement's age is not known (was the clock set back?): take a new batch"),)
    if phase == "too-stiff":
        return (Notice("alarm", "too-stiff", "the cement's time is over: stop, take the trocar out or a new batch"),)
    if phase == "mixing":
        notices.append(Notice("prompt", "mixing", "mix the cement"))
    elif phase == "waiting" and clock.started_at_s is None:
        notices.append(Notice("prompt", "activate", "activate the cement"))
    elif phase == "waiting":
        wait_s = clock.seconds_until_working(now_s)
        code = "soon" if wait_s <= _SOON_S else "wait"
        notices.append(Notice("prompt", code, f"wait {_duration(wait_s)}, until the cement is like toothpaste"))
    else:
        left_s = clock.seconds_left(now_s)
        if left_s <= _LAST_S:
            notices.append(Notice("warning", "last", f"finish now: {_duration(left_s)} left"))
        elif left_s <= _ENDING_S:
            notices.append(Notice("warning", "ending", f"{_duration(left_s)} left"))
        else:
            notices.append(Notice("prompt", "inject", f"inject while it lasts: {_duration(left_s)} left"))
    temperature_c, measured = clock.temperature_c(now_s)
    if not measured:
        place = clock.place(now_s)
        text = f"no temperature of the {place} for {READING_VALID_S / 60:.0f} min; {temperature_c:.0f} °C is assumed"
        notices.append(Notice("warning", "temperature", text))
    rank = {"alarm": 0, "warning": 1, "prompt": 2}
    return tuple(sorted(notices, key=lambda notice: rank[notice.level]))


@dataclass(frozen=True)
class CementTable:
    """Several batches at once, by their names; one of them is in the pump.

    Attributes:
        in_use: name of the batch that is injected; empty for none.
    """

    batches: Mapping[str, CementClock] = field(default_factory=dict)
    in_use: str = ""

    def with_batch(self, name: str, clock: CementClock) -> CementTable:
        """The table with a batch added or replaced."""
        return replace(self, batches={**self.batches, name: clock})

    def use(self, name: str) -> CementTable:
        """The table with another batch in the pump.

        Raises:
            KeyError: for a batch that is not on the table.
        """
        return replace(self, in_use=name if self.batches[name] else "")

    @property
    def clock(self) -> CementClock:
        """The clock of the batch in use; one that was never mixed without any."""
        return self.batches.get(self.in_use, CementClock())

    def with_reading(self, time_s: float, temperature_c: float, place: Place = "bench") -> CementTable:
        """The table after a reading, which counts for all batches."""
        return replace(
            self,
            batches={name: clock.with_reading(time_s, temperature_c, place) for name, clock in self.batches.items()},
        )

    def notices(self, now_s: float) -> tuple[tuple[str, Notice], ...]:
        """Notices of every batch with its name, those of the batch in use first."""
        order = sorted(self.batches, key=lambda name: name != self.in_use)
        return tuple((name, notice) for name in order for notice in clock_notices(self.batches[name], now_s))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"
