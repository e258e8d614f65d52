"""The line from the pump to the tip: what pressure a flow takes, what it holds back, and what still flows after a stop.

Laminar flow of a power-law fluid in round pipes one behind the other (see `hydraulics`). A line under pressure holds
more cement than one at rest: tubes and syringe stretch, and air in the cement is compressed. After a stop the line
goes on to give it out through the cannula until it is relaxed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from ..errors import PlanError
from ..geometry import FloatArray
from ..planning.needles import Needle
from . import hydraulics
from .presets import CementPreset, PowerLawFluid

#: Pressure of the room, from which air in the cement is compressed [kPa].
ATMOSPHERE_KPA = 101.325

#: How much more syringe and tube hold for each kPa: an assumption of the size of the simulated pump's; see the
#: documentation on how to measure it. The live viscosity estimate corrects it by up to a fifth.
ASSUMED_COMPLIANCE_ML_KPA = 0.0004


@dataclass(frozen=True)
class Segment:
    """A piece of pipe, wide at its start and at its end as given [mm]; a cone when they differ."""

    name: str
    inner_diameter_mm: float
    length_mm: float
    outlet_diameter_mm: float | None = None

    @property
    def volume_ml(self) -> float:
        first, last = self._radii_mm
        return math.pi * self.length_mm * (first**2 + first * last + last**2) / 3 / 1000

    def pressure_kpa(self, flow_ml_s: float, fluid: PowerLawFluid) -> float:
        """Pressure lost along it. In a cone each slice loses what a pipe of its width would (lubrication)."""
        first, last = self._radii_mm
        if math.isclose(first, last):
            return hydraulics.cannula_pressure_kpa(
                flow_ml_s, fluid.consistency_pa_sn, fluid.flow_index, 2 * first, self.length_mm
            )
        # Integral of R^-(3n+1) along the cone, over that of a pipe of the first radius.
        n = fluid.flow_index
        ratio = first / (3 * n * (first - last)) * ((first / last) ** (3 * n) - 1)
        pipe = hydraulics.cannula_pressure_kpa(flow_ml_s, fluid.consistency_pa_sn, n, 2 * first, self.length_mm)
        return pipe * ratio

    @property
    def _radii_mm(self) -> tuple[float, float]:
        last = self.inner_diameter_mm if self.outlet_diameter_mm is None else self.outlet_diameter_mm
        return self.inner_diameter_mm / 2, last / 2


@dataclass(frozen=True)
class AfterFlow:
    """What still flows out of the tip after the plunger has halted.

    Attributes:
        times_s, volumes_ml: cement out since the stop, rising; the first is 0.
        total_ml: when the line is relaxed, however long that takes.
    """

    times_s: FloatArray
    volumes_ml: FloatArray
    total_ml: float

    def volume_ml(self, seconds: float) -> float:
        """Out this long after the stop."""
        return float(np.interp(seconds, self.times_s, self.volumes_ml))

    def settled_s(self, rest_ml: float = 0.01) -> float:
        """When no more than this is still to come."""
        return float(np.interp(self.total_ml - rest_ml, self.volumes_ml, self.times_s))


@dataclass(frozen=True)
class InjectionLine:
    """Syringe, tube and cannula.

    Attributes:
        syringe_diameter_mm: bore of the syringe.
        segments: from the syringe to the tip.
        compliance_ml_per_kpa: how much more the line holds for each kPa.
        air_ml: air in the cement of syringe and line, at the pressure of the room.
        friction_n: force that moves the plunger of the empty syringe.
    """

    syringe_diameter_mm: float
    segments: tuple[Segment, ...]
    compliance_ml_per_kpa: float = 0.0
    air_ml: float = 0.0
    friction_n: float = 0.0

    def __post_init__(self) -> None:
        sizes = {"the syringe's bore": self.syringe_diameter_mm}
        for segment in self.segments:
            sizes[f"the bore of {segment.name}"] = segment.inner_diameter_mm
            sizes[f"the length of {segment.name}"] = segment.length_mm
            if segment.outlet_diameter_mm is not None:
                sizes[f"the outlet of {segment.name}"] = segment.outlet_diameter_mm
        for what, size in sizes.items():
            if not (math.isfinite(size) and size > 0):
                raise PlanError(f"{what} is {size} mm; it must be a positive number")
        for name in ("compliance_ml_per_kpa", "air_ml", "friction_n"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise PlanError(f"{name} of the line is {getattr(self, name)}; it must be 0 or more")
        if not self.segments:
            raise PlanError("a line needs at least the cannula")

    @property
    def dead_volume_ml(self) -> float:
        """Cement that fills the line before the first drop, and stays in it."""
        return sum(segment.volume_ml for segment in self.segments)

    def pressures_kpa(self, flow_ml_s: float, fluid: PowerLawFluid) -> Mapping[str, float]:
        """Pressure lost in each segment; NaN for a flow or cement that is not known.

        Raises:
            ValueError: for a flow below 0.
        """
        if flow_ml_s < 0:
            raise ValueError(f"flow_ml_s must be 0 or more, got {flow_ml_s}")
        return {segment.name: segment.pressure_kpa(flow_ml_s, fluid) for segment in self.segments}

    def pressure_kpa(self, flow_ml_s: float, fluid: PowerLawFluid) -> float:
        """Pressure at the plunger that drives a flow through the whole line into a place without pressure."""
        return sum(self.pressures_kpa(flow_ml_s, fluid).values())

    def flow_ml_s(self, pressure_kpa: ArrayLike, fluid: PowerLawFluid) -> FloatArray:
        """Flow that a pressure above that at the tip drives; 0 for none. The inverse of `pressure_kpa`."""
        at_unit_flow = self.pressure_kpa(1.0, fluid)
        return (np.maximum(np.asarray(pressure_kpa, float), 0.0) / at_unit_flow) ** (1 / fluid.flow_index)

    def plunger_force_n(self, flow_ml_s: float, fluid: PowerLawFluid) -> float:
        """Force on the plunger that drives a flow."""
        return self.friction_n + hydraulics.plunger_force_n(
            self.pressure_kpa(flow_ml_s, fluid), self.syringe_diameter_mm
        )

    def stored_ml(self, pressure_kpa: ArrayLike) -> FloatArray:
        """How much more cement the line holds under a pressure than at rest."""
        pressure = np.asarray(pressure_kpa, float)
        return self.compliance_ml_per_kpa * pressure + self.air_ml * pressure / (ATMOSPHERE_KPA + pressure)

    def softness_ml_per_kpa(self, pressure_kpa: ArrayLike) -> FloatArray:
        """How much more it holds for one kPa more: the derivative of `stored_ml`."""
        pressure = np.asarray(pressure_kpa, float)
        return self.compliance_ml_per_kpa + self.air_ml * ATMOSPHERE_KPA / (ATMOSPHERE_KPA + pressure) ** 2

    def after_flow(
        self,
        pressure_kpa: float,
        fluid: PowerLawFluid,
        back_pressure_kpa: float = 0.0,
        relief_ml_s: float = 0.0,
        relieved_kpa: float = 0.0,
    ) -> AfterFlow:
        """What flows out after the plunger has halted at a pressure.

        Args:
            back_pressure_kpa: at the tip, where it ends.
            relief_ml_s: rate at which the pump takes the plunger back, until `relieved_kpa` is left; 0 when it only
                halts.

        Raises:
            ValueError: for a pressure or cement that is not known.
        """
        if not (math.isfinite(pressure_kpa) and math.isfinite(fluid.consistency_pa_sn)):
            raise ValueError("the after-flow needs the pressure and the cement at the stop")
        if not pressure_kpa > back_pressure_kpa:
            return AfterFlow(np.zeros(1), np.zeros(1), 0.0)
        # Over falling pressure: the line gives out stored_ml, part of it back to the plunger while that is withdrawn.
        excess = np.concatenate([np.geomspace(pressure_kpa - back_pressure_kpa, 1e-3, 400), [0.0]])
        pressure = back_pressure_kpa + excess
        middle = (pressure[1:] + pressure[:-1]) / 2
        flow = self.flow_ml_s(middle - back_pressure_kpa, fluid)
        relief = np.where(middle > relieved_kpa, relief_ml_s, 0.0)
        given = -np.diff(self.stored_ml(pressure))
        seconds, out = given / (flow + relief), given * flow / (flow + relief)
        volumes = np.concatenate([[0.0], np.cumsum(out)])
        return AfterFlow(np.concatenate([[0.0], np.cumsum(seconds)]), volumes, float(volumes[-1]))


@dataclass(frozen=True)
class PressureOutlook:
    """Pressure over the working time for one line and flow.

    Attributes:
        begin_kpa, end_kpa: at its beginning and end.
        begin_force_n, end_force_n: at the plunger.
        exceeds_at_s: equivalent age at which the limit is reached; None when it never is within the working time.
        text: the warning in a line; empty without one.
    """

    begin_kpa: float
    end_kpa: float
    begin_force_n: float
    end_force_n: float
    exceeds_at_s: float | None
    text: str


def pressure_outlook(
    line: InjectionLine, preset: CementPreset, flow_ml_s: float, limit_kpa: float, age_s: float | None = None
) -> PressureOutlook:
    """Whether a line can still give this flow at the end of the working time.

    Args:
        limit_kpa: what pump and line bear.
        age_s: equivalent age now; the beginning of the working time when not given.
    """
    start_s = preset.working_from_s if age_s is None else max(age_s, preset.working_from_s)
    ages = np.linspace(start_s, max(preset.working_until_s, start_s), 200)
    pressures = np.array([line.pressure_kpa(flow_ml_s, preset.fluid(age)) for age in ages])
    over = np.flatnonzero(~(pressures < limit_kpa))
    exceeds_at_s = float(ages[over[0]]) if over.size else None
    begin, end = float(pressures[0]), float(pressures[-1])
    cannula = line.segments[-1].name
    text = ""
    if exceeds_at_s is not None and over[0] == 0:
        text = f"{cannula} needs {begin:.0f} kPa for {flow_ml_s:g} mL/s from now on (limit {limit_kpa:.0f}): go slower"
    elif exceeds_at_s is not None:
        text = (
            f"{cannula} needs more than {limit_kpa:.0f} kPa for {flow_ml_s:g} mL/s when the cement is "
            f"{exceeds_at_s / 60:.1f} min old ({end:.0f} kPa at the end): finish before, or take a wider cannula"
        )
    return PressureOutlook(
        begin_kpa=begin,
        end_kpa=end,
        begin_force_n=line.friction_n + hydraulics.plunger_force_n(begin, line.syringe_diameter_mm),
        end_force_n=line.friction_n + hydraulics.plunger_force_n(end, line.syringe_diameter_mm),
        exceeds_at_s=exceeds_at_s,
        text=text,
    )


def injection_line(trocar: Needle) -> InjectionLine:
    """A syringe on a trocar, stretched as `ASSUMED_COMPLIANCE_ML_KPA` says."""
    line = cannula_line(trocar.gauge, trocar.inner_diameter_mm, trocar.length_mm)
    return replace(line, compliance_ml_per_kpa=ASSUMED_COMPLIANCE_ML_KPA)


def cannula_line(
    gauge: int | None, inner_diameter_mm: float, length_mm: float, syringe_diameter_mm: float = 14.5
) -> InjectionLine:
    """A syringe on a trocar, with its hub as a cone of the usual Luer size and no tube.

    The hub (4 mm narrowing to the bore over 15 mm) and the bore of a 10 mL syringe (14.5 mm) are usual sizes, not
    those of a product.
    """
    hub = Segment("the hub", max(4.0, inner_diameter_mm), 15.0, inner_diameter_mm)
    name = "the cannula" if gauge is None else f"the {gauge}G cannula"
    return InjectionLine(syringe_diameter_mm, (hub, Segment(name, inner_diameter_mm, length_mm)))
