"""Pressure and flow of cement in a cannula: a power-law fluid in a long round pipe.

Steady laminar flow of a fluid with shear stress K * rate^n, no slip at the wall (any textbook on non-Newtonian flow,
the Rabinowitsch-Mooney relation). About 95 % of the delivery pressure is lost in the cannula (Baroud 2005), so a
pressure at the pump tells how viscous the cement is, not whether it leaks.
"""

from __future__ import annotations

import math


def wall_shear_rate_per_s(flow_ml_s: float, flow_index: float, inner_diameter_mm: float) -> float:
    """Shear rate at the wall in 1/s: ((3n + 1) / n) * Q / (pi R^3)."""
    _check_positive(flow_index=flow_index, inner_diameter_mm=inner_diameter_mm)
    return (3 * flow_index + 1) / flow_index * flow_ml_s * 1000 / (math.pi * (inner_diameter_mm / 2) ** 3)


def cannula_pressure_kpa(
    flow_ml_s: float, consistency_pa_sn: float, flow_index: float, inner_diameter_mm: float, length_mm: float
) -> float:
    """Pressure lost along the cannula in kPa: 2 K L / R * (wall shear rate)^n."""
    shear = wall_shear_rate_per_s(flow_ml_s, flow_index, inner_diameter_mm)
    return 2 * consistency_pa_sn * length_mm / (inner_diameter_mm / 2) * shear**flow_index / 1000


def plunger_force_n(pressure_kpa: float, syringe_diameter_mm: float) -> float:
    """Force on the plunger of a syringe of this bore that makes this pressure, friction left aside."""
    return pressure_kpa * math.pi * (syringe_diameter_mm / 2) ** 2 / 1000


def tip_pressure_kpa(flow_ml_s: float, viscosity_pa_s: float, permeability_m2: float, radius_mm: float) -> float:
    """Pressure at the tip that drives cement out radially into cancellous bone, in kPa.

    Darcy flow from a point into a sphere of cement of this radius, taken at the tip's own radius of 1.5 mm:
    mu Q / (4 pi k) * (1 / r_tip - 1 / r).
    """
    _check_positive(permeability_m2=permeability_m2)
    tip_radius_m, radius_m = 1.5e-3, max(radius_mm, 1.5) * 1e-3
    return viscosity_pa_s * flow_ml_s * 1e-6 / (4 * math.pi * permeability_m2) * (1 / tip_radius_m - 1 / radius_m) / 1e3


def _check_positive(**quantities: float) -> None:
    for name, value in quantities.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
