"""Whether cement may flow now: a pure function of the facts at hand.

Everything that is not known, too old or not a number forbids the flow. Nothing here remembers or guesses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")

#: A reading this far in the future comes from a clock that cannot be trusted.
_CLOCK_TOLERANCE_S = 0.05


@dataclass(frozen=True)
class Observed(Generic[T]):
    """A value and when it was true, in seconds of the clock of the one who asks."""

    value: T
    time_s: float


@dataclass(frozen=True)
class Facts:
    """What is known now; None is not known.

    Attributes:
        operator_stop: whether a person has asked to stop.
        pump_connected: whether the pump's link stands and its heart beats, at the time of its last sign of life.
        pump_fault: whether the pump reports a fault of its own.
        frames_changing: per live view, at the time of its last frame, whether the image still changes (noise does).
            All views that the monitor was started with must be here.
        monitor_healthy: whether the spread monitor can see.
        leak: whether it has seen a leak.
        cement_phase: of `aging.CementClock.phase`.
        step_volume_ml, ala_volume_ml, total_volume_ml: cement given.
        pressure_kpa: at the pump.
        registration_error_mm: expected error at the target.
    """

    operator_stop: Observed[bool] | None = None
    pump_connected: Observed[bool] | None = None
    pump_fault: Observed[bool] | None = None
    frames_changing: dict[str, Observed[bool]] | None = None
    monitor_healthy: Observed[bool] | None = None
    leak: Observed[bool] | None = None
    cement_phase: Observed[str] | None = None
    step_volume_ml: Observed[float] | None = None
    ala_volume_ml: Observed[float] | None = None
    total_volume_ml: Observed[float] | None = None
    pressure_kpa: Observed[float] | None = None
    registration_error_mm: Observed[float] | None = None


@dataclass(frozen=True)
class Limits:
    """What the facts must keep to.

    Volumes in mL: 8 per ala, 12 in all, steps of 1 (Tabilo, Norambuena and Joaquim, technical description).

    Attributes:
        step_volume_ml: with the share that still flows after the pump has stopped.
        rate_ml_s: no prescription is faster; five to ten times a slow injection.
        frame_period_s: of the fluoroscope; a frame is too old after two.
        pump_age_s: the pump sends its state ten times a second and must have been heard within this time.
        slow_age_s: for what a person or a slow sensor states.
    """

    step_volume_ml: float = 1.1
    ala_volume_ml: float = 8.0
    total_volume_ml: float = 12.0
    pressure_kpa: float = 4000.0
    rate_ml_s: float = 0.5
    registration_error_mm: float = 2.0
    frame_period_s: float = 0.2
    pump_age_s: float = 0.3
    slow_age_s: float = 1.0

    @property
    def frame_age_s(self) -> float:
        return 2 * self.frame_period_s


@dataclass(frozen=True)
class Reason:
    """Why the flow is forbidden: the fact's name, and a sentence for the screen and the journal."""

    fact: str
    text: str


@dataclass(frozen=True)
class Decision:
    allowed: bool
    reasons: tuple[Reason, ...]

    def without(self, *facts: str) -> Decision:
        """The decision had these facts been in order."""
        reasons = tuple(reason for reason in self.reasons if reason.fact not in facts)
        return Decision(not reasons, reasons)

    @property
    def text(self) -> str:
        return "; ".join(reason.text for reason in self.reasons)


_NAMES = {
    "operator_stop": "the stop button",
    "pump_connected": "the pump's heartbeat",
    "pump_fault": "the pump's fault state",
    "frames_changing": "fluoroscopy",
    "monitor_healthy": "the spread monitor's health",
    "leak": "the leak state",
    "cement_phase": "the cement's phase",
    "step_volume_ml": "the volume of this step",
    "ala_volume_ml": "the volume in this ala",
    "total_volume_ml": "the total volume",
    "pressure_kpa": "the pressure",
    "registration_error_mm": "the registration error",
}

_UNITS = {
    "step_volume_ml": "mL",
    "ala_volume_ml": "mL",
    "total_volume_ml": "mL",
    "pressure_kpa": "kPa",
    "registration_error_mm": "mm",
}

_MUST_BE_FALSE = {
    "operator_stop": "stop was pressed",
    "pump_fault": "the pump has a fault",
    "leak": "cement leaks",
}

_MUST_BE_TRUE = {
    "pump_connected": "the pump is not connected",
    "monitor_healthy": "the spread monitor is blind",
}


def interlock(facts: Facts, limits: Limits, now_s: float) -> Decision:
    """Decide whether the pump may run now.

    Args:
        now_s: on the clock of the facts' times.
    """
    reasons: list[Reason] = []
    for field in fields(Facts):
        name, observed = field.name, getattr(facts, field.name)
        if name == "frames_changing":
            reasons += _frame_reasons(observed, limits, now_s)
            continue
        text = _missing(name, observed, _age_limit(name, limits), now_s) or _wrong(name, observed.value, limits)
        if text:
            reasons.append(Reason(name, text))
    return Decision(not reasons, tuple(reasons))


def _age_limit(name: str, limits: Limits) -> float:
    if name.startswith("pump") or name in ("step_volume_ml", "ala_volume_ml", "total_volume_ml", "pressure_kpa"):
        return limits.pump_age_s
    return limits.frame_age_s if name in ("monitor_healthy", "leak") else limits.slow_age_s


def _missing(name: str, observed: Observed[Any] | None, age_limit_s: float, now_s: float) -> str | None:
    """A sentence when the fact is absent, stale or not a number."""
    label = _NAMES[name]
    if observed is None or observed.value is None:
        return f"{label} is not known"
    age_s = now_s - observed.time_s
    if not -_CLOCK_TOLERANCE_S <= age_s <= age_limit_s:
        return f"{label} is not current ({age_s:.2f} s old, limit {age_limit_s:.2f} s)"
    if name in _UNITS and not (isinstance(observed.value, Real) and math.isfinite(observed.value)):
        return f"{label} is not a number"
    return None


def _frame_reasons(views: dict[str, Observed[bool]] | None, limits: Limits, now_s: float) -> list[Reason]:
    if not views:
        return [Reason("frames_changing", "there is no fluoroscopy")]
    reasons = []
    for view, observed in views.items():
        text = _missing("frames_changing", observed, limits.frame_age_s, now_s)
        if text is None and not _is(observed.value, True):
            text = "fluoroscopy is frozen"
        if text:
            reasons.append(Reason("frames_changing", f"{text} ({view})"))
    return reasons


def _wrong(name: str, value: Any, limits: Limits) -> str | None:
    """A sentence when a present fact forbids the flow. What is not of the expected kind forbids it too."""
    if name in _MUST_BE_FALSE:
        return None if _is(value, False) else _MUST_BE_FALSE[name]
    if name in _MUST_BE_TRUE:
        return None if _is(value, True) else _MUST_BE_TRUE[name]
    if name == "cement_phase":
        return None if value == "working" else f"the cement is not in its working time ({value})"
    limit, unit = getattr(limits, name), _UNITS[name]
    # A negative volume or error is impossible; a slightly negative pressure is a sensor's zero offset.
    lowest = -50.0 if name == "pressure_kpa" else -1e-6
    if lowest <= value < limit:
        return None
    return f"{_NAMES[name]} is {value:.2f} {unit}; the limit is {limit:.2f} {unit}"


def _is(value: Any, expected: bool) -> bool:
    return isinstance(value, bool | np.bool_) and bool(value) is expected
