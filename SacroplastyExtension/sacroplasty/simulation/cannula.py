"""The flow through the simulated cannula, worked out from the momentum balance and not by the predictor's formula."""

from __future__ import annotations

import math

import numpy as np

#: Nodes and weights of the quadrature over the radius, from 0 to 1.
_NODES, _WEIGHTS = (part / 2 for part in np.polynomial.legendre.leggauss(24))
_RADII = _NODES + 0.5


def flow_ml_s(
    pressure_kpa: float, consistency_pa_sn: float, flow_index: float, inner_diameter_mm: float, length_mm: float
) -> float:
    """Flow of a power-law fluid that a pressure drives through a round pipe.

    The shear stress grows evenly to the wall, pressure / length * r / 2. The rate that belongs to it, integrated twice
    over the bore, is the flow: pi * integral of r^2 * rate dr.
    """
    if not pressure_kpa > 0:
        return 0.0
    wall_m = inner_diameter_mm / 2000
    stress_pa = pressure_kpa * 1000 / (length_mm / 1000) * wall_m * _RADII / 2
    rate_per_s = (stress_pa / consistency_pa_sn) ** (1 / flow_index)
    return float(math.pi * wall_m**3 * (_WEIGHTS * _RADII**2 * rate_per_s).sum() * 1e6)
