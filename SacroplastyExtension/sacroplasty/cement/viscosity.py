"""How stiff the cement is now, from the pressure and flow that the pump reports.

A multiple-model filter: for every consistency K, with line compliances near the one stated and some air in the cement,
it simulates the pressure that the reported flow would make in the line, and keeps how well each explains what was
measured.
So the seconds in which the line still stretches tell as much as they can, and no more. Cement that stiffens is
followed: all K grow as expected, and older measurements count less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from .hydraulics import wall_shear_rate_per_s
from .line import ATMOSPHERE_KPA, InjectionLine
from .presets import PowerLawFluid

#: Below this flow nothing can be told [mL/s].
SMALLEST_FLOW_ML_S = 0.003

#: Sensor noise that is reckoned with: a share of pressure and flow (standard deviation), and a floor [kPa].
_NOISE_SHARE = 0.06
_NOISE_FLOOR_KPA = 5.0

#: Older measurements count e-fold less after this time of flow [s].
_MEMORY_S = 12.0

#: Measurements closer together than this share their error, so that many do not make it certain [s].
_INDEPENDENT_S = 0.1

#: A wilder measurement counts no more than one this many standard deviations off.
_ROBUST_SIGMAS = 3.0

#: The models: consistency, compliance of the line in shares of the one stated, air beyond that stated [mL].
_CONSISTENCIES_PA_SN = np.geomspace(1.0, 80_000.0, 240)
_COMPLIANCE_SHARES = np.array([0.8, 0.9, 1.0, 1.1, 1.2])
_MORE_AIR_ML = np.array([0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08])

#: Air beyond that stated is e-fold less likely for each of these [mL]: 10 mL of cement with 0.2 % of bubbles.
_USUAL_AIR_ML = 0.02

#: Cement counts as flowing when at least this share of the plunger's rate leaves the tip.
_FLOWING_SHARE = 0.5
#: It is not called known before it has flowed for this long.
_SHORTEST_FLOW_S = 1.0
_LONGEST_GAP_S = 2.0
_LONGEST_STEP_S = 0.02
_SMALLEST_SOFTNESS = 1e-6

#: What the model itself may be off, noise apart: bore, length, wall slip.
_MODEL_SHARE = 0.03


@dataclass(frozen=True)
class ViscosityEstimate:
    """What flow and pressure say of the cement.

    Attributes:
        time_s: of the last measurement.
        consistency_pa_sn, standard_deviation_pa_sn: K and its uncertainty; NaN at standstill and as long as the
            measurements say nothing.
        flow_index: that was assumed.
        apparent_viscosity_pa_s: at the wall of the narrowest segment, at the present flow; NaN at standstill.
        flowing_s: how long at least half of the plunger's rate has left the tip, as far as can be told.
    """

    time_s: float
    consistency_pa_sn: float
    standard_deviation_pa_sn: float
    flow_index: float
    apparent_viscosity_pa_s: float
    flowing_s: float

    @property
    def known(self) -> bool:
        """Whether it may be shown and used: cement flows, and the uncertainty is at most a quarter of the figure."""
        return self.flowing_s >= _SHORTEST_FLOW_S and self.standard_deviation_pa_sn <= 0.25 * self.consistency_pa_sn


class ViscosityEstimator:
    """Fed with measurements in the order of time.

    Args:
        line: with its compliance, which may be off by a fifth, and the air that is known of.
        flow_index: of the cement.
        growth_per_s: rate at which ln K is expected to grow, see `CementClock.growth_per_s`.
    """

    def __init__(self, line: InjectionLine, flow_index: float, growth_per_s: float = 0.0) -> None:
        self._line = line
        self._flow_index = flow_index
        self.growth_per_s = growth_per_s
        self._log_k = np.log(_CONSISTENCIES_PA_SN)
        shape = len(_MORE_AIR_ML), len(_COMPLIANCE_SHARES), len(_CONSISTENCIES_PA_SN)
        self._score = np.broadcast_to(-_MORE_AIR_ML[:, None, None] / _USUAL_AIR_ML, shape).copy()
        self._pressure: FloatArray | None = None
        self._offset_kpa = 0.0
        self._resting, self._judged = 0, False
        self._last = ViscosityEstimate(-math.inf, math.nan, math.nan, flow_index, math.nan, 0.0)

    def update(self, time_s: float, pressure_kpa: float, flow_ml_s: float) -> ViscosityEstimate:
        """Take a measurement: pressure at the pump and flow of the plunger. What is no number is left out."""
        seconds = time_s - self._last.time_s
        if not (math.isfinite(time_s) and math.isfinite(pressure_kpa) and math.isfinite(flow_ml_s) and seconds > 0):
            return replace(self._last, consistency_pa_sn=math.nan, standard_deviation_pa_sn=math.nan)
        if math.isfinite(seconds):
            self._forget(math.exp(-seconds / _MEMORY_S))
            self._log_k = self._log_k + self.growth_per_s * seconds
        if not flow_ml_s > SMALLEST_FLOW_ML_S:
            return self._stand(time_s, pressure_kpa)
        self._resting = 0
        if self._pressure is None or seconds > _LONGEST_GAP_S:
            # What went on before is not known; the pressure is the same for all.
            self._pressure = np.full(self._score.shape, max(0.0, pressure_kpa - self._offset_kpa))
            seconds = 0.0
        else:
            self._pressure = self._advance(self._pressure, flow_ml_s, seconds)
            self._judge(self._pressure, pressure_kpa - self._offset_kpa, min(1.0, seconds / _INDEPENDENT_S))
        self._last = self._estimate(time_s, flow_ml_s, seconds)
        return self._last

    def _forget(self, kept: float) -> None:
        """Let what is known of the cement fade, which changes; what is known of the line stays."""
        of_line = _log_of_sum(self._score)
        of_cement = kept * (self._score - of_line)
        self._score = of_line + of_cement - _log_of_sum(of_cement)
        self._score -= self._score.max()

    def line_now(self) -> tuple[float, float]:
        """Pressure at the pump in kPa, freed from noise, and the line's compliance in shares of the one stated.

        Air beyond that stated counts as compliance. NaN as long as nothing has flowed; then what all models together
        hold most likely.
        """
        if self._pressure is None or not self._judged:
            return math.nan, math.nan
        likelihood = self._likelihood()
        pressure = float((likelihood * self._pressure).sum())
        held_ml = self._line.compliance_ml_per_kpa * _COMPLIANCE_SHARES[:, None] * self._pressure
        held_ml = held_ml + _MORE_AIR_ML[:, None, None] * self._pressure / (ATMOSPHERE_KPA + self._pressure)
        stated_ml = max(self._line.compliance_ml_per_kpa, _SMALLEST_SOFTNESS) * max(pressure, 1e-9)
        return pressure, float((likelihood * held_ml).sum()) / stated_ml

    def _stand(self, time_s: float, pressure_kpa: float) -> ViscosityEstimate:
        """At standstill nothing flows that could be judged. Before the first flow the line is without pressure."""
        if not self._judged:
            self._resting += 1
            self._offset_kpa += (pressure_kpa - self._offset_kpa) / self._resting
        self._pressure = np.full(self._score.shape, max(0.0, pressure_kpa - self._offset_kpa))
        self._last = ViscosityEstimate(time_s, math.nan, math.nan, self._flow_index, math.nan, 0.0)
        return self._last

    def _advance(self, pressure: FloatArray, flow_ml_s: float, seconds: float) -> FloatArray:
        """Pressure of every model after a plunger's flow, by linearly implicit steps."""
        steps = math.ceil(seconds / _LONGEST_STEP_S)
        step_s = seconds / steps
        at_unit_flow = self._at_unit_flow()
        for _ in range(steps):
            air = (self._line.air_ml + _MORE_AIR_ML)[:, None, None] * ATMOSPHERE_KPA / (ATMOSPHERE_KPA + pressure) ** 2
            stretch = self._line.compliance_ml_per_kpa * _COMPLIANCE_SHARES[:, None]
            softness = np.maximum(stretch + air, _SMALLEST_SOFTNESS)
            out_ml_s = (pressure / at_unit_flow) ** (1 / self._flow_index)
            slope = out_ml_s / (self._flow_index * np.maximum(pressure, 1e-6))
            pressure = np.maximum(pressure + step_s * (flow_ml_s - out_ml_s) / (softness + step_s * slope), 0.0)
        return pressure

    def _judge(self, pressure: FloatArray, measured_kpa: float, weight: float) -> None:
        self._judged = True
        sigma = np.hypot(_NOISE_FLOOR_KPA, _NOISE_SHARE * pressure)
        off = np.abs(measured_kpa - pressure) / sigma
        # Huber's loss: quadratic near, linear far off.
        loss = np.where(off < _ROBUST_SIGMAS, off**2 / 2, _ROBUST_SIGMAS * (off - _ROBUST_SIGMAS / 2))
        self._score -= weight * (loss + np.log(sigma))

    def _estimate(self, time_s: float, flow_ml_s: float, seconds: float) -> ViscosityEstimate:
        assert self._pressure is not None
        likelihood = self._likelihood()
        out_ml_s = float((likelihood * (self._pressure / self._at_unit_flow()) ** (1 / self._flow_index)).sum())
        of_k = likelihood.sum(axis=(0, 1))
        mean = float(of_k @ self._log_k)
        spread = math.hypot(float(np.sqrt(of_k @ (self._log_k - mean) ** 2)), _MODEL_SHARE)
        consistency = math.exp(mean)
        narrowest = min(segment.outlet_diameter_mm or segment.inner_diameter_mm for segment in self._line.segments)
        shear = wall_shear_rate_per_s(flow_ml_s, self._flow_index, narrowest)
        return ViscosityEstimate(
            time_s,
            consistency,
            consistency * spread,
            self._flow_index,
            consistency * shear ** (self._flow_index - 1),
            self._last.flowing_s + seconds if out_ml_s >= _FLOWING_SHARE * flow_ml_s else 0.0,
        )

    def _at_unit_flow(self) -> NDArray:
        """Pressure of each model at 1 mL/s, by which all pressures scale."""
        return self._line.pressure_kpa(1.0, PowerLawFluid(1.0, self._flow_index)) * np.exp(self._log_k)

    def _likelihood(self) -> NDArray:
        likelihood = np.exp(self._score - self._score.max())
        return likelihood / likelihood.sum()


def _log_of_sum(logs: NDArray) -> NDArray:
    """Logarithm of the sum over the last axis of what the logs are of; ten times as quick as scipy's on such arrays."""
    highest = logs.max(axis=-1, keepdims=True)
    return highest + np.log(np.exp(logs - highest).sum(axis=-1, keepdims=True))
