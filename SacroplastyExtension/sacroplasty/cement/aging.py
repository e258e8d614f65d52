"""How long cement can still be injected: its age, counted faster when it is warm.

The reaction speeds up with temperature after Arrhenius. Cement kept at a changing temperature T(t) is as old as cement
kept at the preset's temperature T0 for the equivalent time

    tau = integral of exp(-Ea / R * (1 / T(t) - 1 / T0)) dt

with absolute temperatures. The clock only knows the mixing time and the thermometer readings it is handed; nothing
here measures the cement itself, so the person at the table decides whether it is doughy enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

Phase = Literal["not-mixed", "mixing", "waiting", "working", "too-stiff", "unknown"]

GAS_CONSTANT_J_MOL_K = 8.314462618
_ZERO_CELSIUS_K = 273.15

#: Arthroplasty cements set twice as fast at 37 as at 25 degC (doi 10.1007/s10856-007-0125-2): 44.4 kJ/mol.
ACTIVATION_ENERGY_J_MOL = GAS_CONSTANT_J_MOL_K * math.log(2) / (1 / (_ZERO_CELSIUS_K + 25) - 1 / (_ZERO_CELSIUS_K + 37))

#: Taken where no valid reading tells otherwise: the warm end of an operating room, so that time runs short too early
#: rather than too late.
ASSUMED_TEMPERATURE_C = 25.0

#: A reading speaks for this long; a room does not change faster.
READING_VALID_S = 120.0

#: Readings outside are a broken thermometer, not a place where cement is kept.
_PLAUSIBLE_C = (0.0, 45.0)


@dataclass(frozen=True)
class CementPreset:
    """The times and flow of one cement at `reference_c`, counted from the start of mixing.

    Attributes:
        verified: whether the figures were measured on the named product.
        mixed_s, working_from_s, working_until_s: ends of mixing and waiting, and of the working time.
        consistency_pa_sn: K of the power law (Pa s^n) at `working_from_s`.
        consistency_growth_s: time in which K grows e-fold.
        flow_index: n of the power law; below 1 is shear thinning.
    """

    name: str
    verified: bool
    reference_c: float
    mixed_s: float
    working_from_s: float
    working_until_s: float
    consistency_pa_sn: float
    consistency_growth_s: float
    flow_index: float


#: No product. Times: injected 3 to 6 min after mixing when like toothpaste, and finished within 10 min (Tabilo,
#: Norambuena and Joaquim, technical description of percutaneous sacroplasty).
#: Flow: orders of magnitude of doughy PMMA, chosen so that K grows fivefold over the working time.
GENERIC_HIGH_VISCOSITY = CementPreset(
    name="generic high-viscosity cement (not a verified product)",
    verified=False,
    reference_c=22.0,
    mixed_s=45.0,
    working_from_s=240.0,
    working_until_s=600.0,
    consistency_pa_sn=200.0,
    consistency_growth_s=360.0 / math.log(5),
    flow_index=0.6,
)


def rate_factor(temperature_c: float, reference_c: float) -> float:
    """How many times as fast cement ages at `temperature_c` as at `reference_c` (Arrhenius)."""
    inverse = 1 / (temperature_c + _ZERO_CELSIUS_K) - 1 / (reference_c + _ZERO_CELSIUS_K)
    return math.exp(-ACTIVATION_ENERGY_J_MOL / GAS_CONSTANT_J_MOL_K * inverse)


@dataclass(frozen=True)
class TemperatureReading:
    """Temperature in degC where the cement is kept."""

    time_s: float
    temperature_c: float


@dataclass(frozen=True)
class CementClock:
    """The age of one batch. Times are seconds of the caller's clock.

    Attributes:
        mixed_at_s: when mixing began; None before.
        readings: in the order of time. Without a valid one the cement counts as `ASSUMED_TEMPERATURE_C` warm, or as
            warm as the last valid reading if that was more.
    """

    preset: CementPreset = GENERIC_HIGH_VISCOSITY
    mixed_at_s: float | None = None
    readings: tuple[TemperatureReading, ...] = ()

    def mixed(self, now_s: float) -> CementClock:
        """A new batch whose mixing begins now."""
        return replace(self, mixed_at_s=now_s)

    def with_reading(self, time_s: float, temperature_c: float) -> CementClock:
        """The clock with one more reading; one that is no number or not plausible is left out."""
        low, high = _PLAUSIBLE_C
        if not (math.isfinite(time_s) and low <= temperature_c <= high):
            return self
        readings = sorted([*self.readings, TemperatureReading(time_s, temperature_c)], key=lambda one: one.time_s)
        return replace(self, readings=tuple(readings))

    def temperature_c(self, time_s: float) -> tuple[float, bool]:
        """The temperature at a time that counts for aging, and whether a valid reading stands behind it."""
        earlier = [reading for reading in self.readings if reading.time_s <= time_s]
        if not earlier:
            return ASSUMED_TEMPERATURE_C, False
        last = earlier[-1]
        if time_s - last.time_s <= READING_VALID_S:
            return last.temperature_c, True
        return max(last.temperature_c, ASSUMED_TEMPERATURE_C), False

    def equivalent_age_s(self, now_s: float) -> float:
        """Age in seconds at the preset's temperature; NaN before mixing and for a time that is no number."""
        if self.mixed_at_s is None or not now_s >= self.mixed_at_s:
            return math.nan
        # The temperature only changes at these instants, so that the integral is a sum.
        changes = {reading.time_s for reading in self.readings}
        changes |= {math.nextafter(reading.time_s + READING_VALID_S, math.inf) for reading in self.readings}
        edges = [self.mixed_at_s, *sorted(t for t in changes if self.mixed_at_s < t < now_s), now_s]
        return sum(
            (end - start) * rate_factor(self.temperature_c(start)[0], self.preset.reference_c)
            for start, end in pairwise(edges)
        )

    def phase(self, now_s: float) -> Phase:
        """What the cement is good for now. Only `working` may be injected."""
        if self.mixed_at_s is None:
            return "not-mixed"
        age = self.equivalent_age_s(now_s)
        if math.isnan(age):
            return "unknown"
        if age < self.preset.mixed_s:
            return "mixing"
        if age < self.preset.working_from_s:
            return "waiting"
        return "working" if age < self.preset.working_until_s else "too-stiff"

    def seconds_until(self, equivalent_age_s: float, now_s: float) -> float:
        """Seconds until that age is reached at the present temperature; 0 when passed, NaN before mixing."""
        age = self.equivalent_age_s(now_s)
        if math.isnan(age):
            return math.nan
        rate = rate_factor(self.temperature_c(now_s)[0], self.preset.reference_c)
        return max(0.0, (equivalent_age_s - age) / rate)

    def seconds_until_working(self, now_s: float) -> float:
        """Seconds to wait before injection."""
        return self.seconds_until(self.preset.working_from_s, now_s)

    def seconds_left(self, now_s: float) -> float:
        """Seconds until the cement is too stiff."""
        return self.seconds_until(self.preset.working_until_s, now_s)

    def consistency_pa_sn(self, now_s: float) -> float:
        """K of the power law in Pa s^n, growing exponentially with equivalent age; NaN before mixing."""
        growth = (self.equivalent_age_s(now_s) - self.preset.working_from_s) / self.preset.consistency_growth_s
        return self.preset.consistency_pa_sn * math.exp(growth)
