"""Before the needle: where cement would go through a planned tip, at what pressure, and what it would reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..anatomy.model import Anatomy
from ..image import Volume
from ..planning.needles import Needle
from . import hydraulics
from .aging import CementPreset
from .grid import sample
from .spread import Invasion, invade, resistance_from_hu
from .zones import cancellous_bone, make_zones

#: Mean permeability of human vertebral cancellous bone along the body's axis (Baroud 2004) [m2].
PERMEABILITY_M2 = 4.45e-8

#: Cement this near to a structure that it must not enter is at risk: the cortex may be broken there, and neither the
#: segmentation nor the model is better than this.
RISK_DISTANCE_MM = 2.0


@dataclass(frozen=True)
class LeakRisk:
    """How near the predicted cement comes to one route of leakage.

    Attributes:
        distance_mm: smallest distance of the cement from the structure after the asked volume.
        volume_at_risk_ml: volume at which the distance falls to `RISK_DISTANCE_MM`; None when it never does.
    """

    distance_mm: float
    volume_at_risk_ml: float | None


@dataclass(frozen=True)
class SpreadPrediction:
    """The predicted spread of one tip.

    Attributes:
        volume_ml: as asked.
        room_ml: what fits in the bone that hangs together with the tip, within the local grid.
        in_plan_fraction: share of the cement inside the planned ala.
        cannula_pressure_kpa, tip_pressure_kpa: at the given flow, at the beginning of the working time.
        risks: by route, nearest first.
    """

    invasion: Invasion
    volume_ml: float
    room_ml: float
    in_plan_fraction: float
    cannula_pressure_kpa: float
    tip_pressure_kpa: float
    risks: dict[str, LeakRisk]

    @property
    def cement(self) -> Volume:
        """Fraction of cement in each voxel of the local grid."""
        return self.invasion.at(self.volume_ml)


def predict_spread(
    ct: Volume,
    anatomy: Anatomy,
    tip_ras: ArrayLike,
    side: str,
    volume_ml: float,
    needle: Needle,
    preset: CementPreset,
    flow_ml_s: float = 0.05,
) -> SpreadPrediction:
    """Predict the spread of `volume_ml` from a tip in an ala with intact cortex.

    Raises:
        PlanError: when the tip is not in bone.
        AnatomyError: when ala or canal were not segmented.
    """
    from scipy.ndimage import distance_transform_edt

    region = cancellous_bone(anatomy, tip_ras)
    resistance = region.like(resistance_from_hu(sample(ct, region)))
    invasion = invade(tip_ras, region, resistance)
    zones = make_zones(anatomy, tip_ras, (side,), half_size_mm=30.0, spacing_mm=1.0)

    filled = invasion.filled_ml(volume_ml)
    voxels, cumulative = tuple(invasion.kji.T), invasion.cumulative_volume_ml
    risks = {}
    for route in zones.routes:
        structure = zones.mask(route)
        if not structure.any():
            continue
        distance = distance_transform_edt(~structure)[voxels] - 0.5
        at_risk = np.flatnonzero(distance <= RISK_DISTANCE_MM)
        risks[route] = LeakRisk(
            distance_mm=float(distance[filled > 0].min()) if (filled > 0).any() else math.inf,
            volume_at_risk_ml=float(cumulative[at_risk[0]]) if at_risk.size else None,
        )
    in_plan = zones.mask("planned")[voxels]
    shear = hydraulics.wall_shear_rate_per_s(flow_ml_s, preset.flow_index, needle.inner_diameter_mm)
    radius_mm = (3 * volume_ml * 1000 / (4 * math.pi)) ** (1 / 3)
    return SpreadPrediction(
        invasion=invasion,
        volume_ml=volume_ml,
        room_ml=invasion.room_ml,
        in_plan_fraction=min(float(filled[in_plan].sum() / filled.sum()), 1.0) if filled.sum() > 0 else 1.0,
        cannula_pressure_kpa=hydraulics.cannula_pressure_kpa(
            flow_ml_s, preset.consistency_pa_sn, preset.flow_index, needle.inner_diameter_mm, needle.length_mm
        ),
        # The cannula's apparent viscosity; in bone the shear rate is lower and the cement thicker, so this is a start.
        tip_pressure_kpa=hydraulics.tip_pressure_kpa(
            flow_ml_s, preset.consistency_pa_sn * shear ** (preset.flow_index - 1), PERMEABILITY_M2, radius_mm
        ),
        risks=dict(sorted(risks.items(), key=lambda item: item[1].distance_mm)),
    )
