"""Before the needle: where cement would go through a planned tip, at what pressure, and what it would reach.

One spread through the bone as the image shows it, and an ensemble through bones as they may be, for the probability of
cement in each voxel and of a leak by each route. The probabilities rest on the assumptions of `medium.Uncertainty`
and were not compared with patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..anatomy.model import Anatomy
from ..errors import PlanError
from ..geometry import FloatArray
from ..image import Volume
from ..planning.model import Depot
from ..planning.pose_uncertainty import PoseUncertainty
from . import hydraulics
from .line import InjectionLine, PressureOutlook, pressure_outlook
from .medium import PERMEABILITY_MM2, VEIN, Medium, Member, Uncertainty, draw, intact, make_medium
from .presets import CementPreset
from .spread import CANCELLOUS_POROSITY, LARGEST_VOLUME_ML, Invasion, invade_depots, reach_mm

#: Cement this near to a structure that it must not enter is at risk: the cortex may be broken there, and neither the
#: segmentation nor the model is better than this.
RISK_DISTANCE_MM = 2.0

#: Less cement than this on a route is no leak that anybody sees.
LEAK_ML = 0.05

#: Voxels of the ensemble; the spread of the bone as it is shown is worked out at 1 mm.
_ENSEMBLE_SPACING_MM = 1.5

#: Pressure that pump and line bear, unless told otherwise [kPa].
LARGEST_PRESSURE_KPA = 4000.0


@dataclass(frozen=True)
class LeakRisk:
    """How near the predicted cement comes to one route of leakage, and how often it goes there.

    Attributes:
        distance_mm: smallest distance of the cement from the structure after the asked volume, in intact bone;
            infinite for veins, which no image shows, and for what is beyond the grid.
        volume_at_risk_ml: volume at which the distance falls to `RISK_DISTANCE_MM`; None when it never does.
        probability: share of the ensemble in which at least `LEAK_ML` go there.
        interval: 95 % interval of that share for the number of members (Wilson).
        earliest_ml, median_ml: volume at which the leak begins, in the tenth part of the leaking members that leaks
            first and in half of them; None without any.
    """

    distance_mm: float
    volume_at_risk_ml: float | None
    probability: float
    interval: tuple[float, float]
    earliest_ml: float | None
    median_ml: float | None


@dataclass(frozen=True)
class SpreadPrediction:
    """The predicted spread through the depots of one needle.

    Attributes:
        depots: as asked, in the order of injection.
        invasions: of each depot, in intact bone.
        room_ml: what fits in the bone that hangs together with the first tip, within the local grid.
        in_plan_fraction: share of the cement inside the planned ala, in intact bone.
        members: size of the ensemble.
        probability: of each voxel being filled for the most part (float32, 0 to 1).
        any_leak: probability of a leak by any route.
        pressure: in the line over the working time.
        tip_pressure_kpa: in the bone at the tip at the end of the first depot, at the beginning of the working time.
        risks: by route, most probable first.
    """

    depots: tuple[Depot, ...]
    invasions: tuple[Invasion, ...]
    room_ml: float
    in_plan_fraction: float
    members: int
    probability: Volume
    any_leak: float
    pressure: PressureOutlook
    tip_pressure_kpa: float
    risks: dict[str, LeakRisk]

    @property
    def volume_ml(self) -> float:
        return sum(depot.volume_ml for depot in self.depots)

    @property
    def cement(self) -> Volume:
        """Fraction of cement in each voxel of the local grid, in intact bone."""
        return _cement(self.depots, self.invasions)


def predict_spread(
    ct: Volume,
    anatomy: Anatomy,
    depots: Sequence[Depot],
    side: str,
    line: InjectionLine,
    preset: CementPreset,
    flow_ml_s: float = 0.05,
    members: int = 32,
    seed: int = 1,
    uncertainty: Uncertainty | None = None,
    limit_kpa: float = LARGEST_PRESSURE_KPA,
    cavity: Volume | None = None,
    pose: PoseUncertainty | None = None,
    progress: Callable[[float], None] | None = None,
) -> SpreadPrediction:
    """Predict where the depots of one needle in an ala go.

    Args:
        members: of the ensemble; more make the probabilities more certain.
        seed: of the ensemble.
        limit_kpa: pressure that must not be exceeded.
        cavity: of a balloon, mask on any grid.
        pose: how uncertain the place of a navigated trocar is; by `uncertainty.tip_sd_mm` when not given.
        progress: called with the share done; may raise to end it.

    Raises:
        PlanError: when a tip is not in bone, or a volume or flow is impossible.
        AnatomyError: when ala or canal were not segmented.
    """
    _check(depots, flow_ml_s, members)
    assumed = Uncertainty() if uncertainty is None else uncertainty
    tip = np.asarray(depots[0].position_ras, float)
    farthest = max(float(np.linalg.norm(np.asarray(depot.position_ras, float) - tip)) for depot in depots)
    half_mm = reach_mm(sum(depot.volume_ml for depot in depots)) + farthest
    medium = make_medium(ct, anatomy, tip, (side,), half_mm, 1.0)
    nominal = _through(intact(medium, CANCELLOUS_POROSITY), depots, cavity)
    if progress:
        progress(1 / (members + 1))

    coarse = make_medium(ct, anatomy, tip, (side,), half_mm, _ENSEMBLE_SPACING_MM)
    covariance = None if pose is None else pose.covariance_at(tip)
    filled = np.zeros(coarse.cancellous.shape)
    begins: dict[str, list[float]] = {route: [] for route in (*coarse.zones.routes, VEIN)}
    leaking = 0
    for number in range(members):
        # Each member has a generator of its own, so that one that cannot be solved changes no other.
        member = draw(coarse, assumed, np.random.default_rng([seed, number]), covariance)
        shifted = [replace(depot, position_ras=depot.position_ras + member.tip_shift_mm) for depot in depots]
        invasions = _through(member, shifted, cavity)
        filled += _cement(shifted, invasions).voxels >= 0.5 * member.porosity.voxels
        found = _leaks(coarse, member, invasions)
        leaking += bool(found)
        for route, volume_ml in found.items():
            begins[route].append(volume_ml)
        if progress:
            progress((number + 2) / (members + 1))

    fluid = preset.fluid(preset.working_from_s)
    shear = hydraulics.wall_shear_rate_per_s(flow_ml_s, fluid.flow_index, line.segments[-1].inner_diameter_mm)
    radius_mm = (3 * depots[0].volume_ml * 1000 / CANCELLOUS_POROSITY / (4 * math.pi)) ** (1 / 3)
    risks = _risks(medium, nominal, depots, begins, members)
    return SpreadPrediction(
        depots=tuple(depots),
        invasions=nominal,
        room_ml=nominal[0].room_ml,
        in_plan_fraction=_in_plan(medium, _cement(depots, nominal)),
        members=members,
        probability=coarse.grid.like((filled / members).astype(np.float32)),
        any_leak=leaking / members,
        pressure=pressure_outlook(line, preset, flow_ml_s, limit_kpa),
        # The cannula's apparent viscosity; in bone the shear rate is lower and the cement thicker, so this is a start.
        tip_pressure_kpa=hydraulics.tip_pressure_kpa(
            flow_ml_s, fluid.consistency_pa_sn * shear ** (fluid.flow_index - 1), PERMEABILITY_MM2 * 1e-6, radius_mm
        ),
        risks=dict(sorted(risks.items(), key=lambda item: (-item[1].probability, item[1].distance_mm))),
    )


def _check(depots: Sequence[Depot], flow_ml_s: float, members: int) -> None:
    if not depots:
        raise PlanError("there is no depot to fill; give a tip and a volume")
    for depot in depots:
        if not (math.isfinite(depot.volume_ml) and depot.volume_ml > 0):
            raise PlanError(f"a depot of {depot.volume_ml} mL cannot be predicted; give a positive volume")
    total_ml = sum(depot.volume_ml for depot in depots)
    if total_ml > 2 * LARGEST_VOLUME_ML:
        raise PlanError(f"{total_ml:.1f} mL through one needle is absurd; give at most {2 * LARGEST_VOLUME_ML:.0f} mL")
    if not (math.isfinite(flow_ml_s) and 0 < flow_ml_s <= 5):
        raise PlanError(f"a flow of {flow_ml_s} mL/s cannot be; give a positive one up to 5")
    if members < 1:
        raise PlanError(f"an ensemble of {members} cannot tell a probability; give at least 1 member")


def _through(member: Member, depots: Sequence[Depot], cavity: Volume | None) -> tuple[Invasion, ...]:
    return invade_depots(depots, member.region, member.resistance, member.porosity, grid=member.region, cavity=cavity)


def _cement(depots: Sequence[Depot], invasions: Sequence[Invasion]) -> Volume:
    parts = [one.at(min(depot.volume_ml, one.room_ml)) for depot, one in zip(depots, invasions, strict=True)]
    return parts[0].like(sum((part.voxels for part in parts[1:]), start=parts[0].voxels))


def _in_plan(medium: Medium, cement: Volume) -> float:
    total = float(cement.voxels.sum(dtype=float))
    return min(float(cement.voxels[medium.zones.mask("planned")].sum(dtype=float)) / total, 1.0) if total > 0 else 1.0


def _leaks(medium: Medium, member: Member, invasions: Sequence[Invasion]) -> dict[str, float]:
    """The routes that take at least `LEAK_ML`, with the volume at which each does."""
    before_ml = 0.0
    gone: dict[str, float] = {}
    found: dict[str, float] = {}
    for one in invasions:
        voxels = tuple(one.kji.T)
        labels = np.where(member.veins[voxels], len(medium.zones.names), medium.zones.labels.voxels[voxels])
        for index in np.unique(labels):
            route = (*medium.zones.names, VEIN)[index]
            if index < 2 or route in found:
                continue
            here = labels == index
            volumes = np.linspace(0.0, one.solved_ml, 81)
            share = np.clip(
                (volumes[:, None] - one.begins_ml[here]) / (one.full_ml[here] - one.begins_ml[here]), 0.0, 1.0
            )
            there = gone.get(route, 0.0) + share @ one.capacity_ml[here]
            over = np.flatnonzero(there >= LEAK_ML)
            if over.size:
                found[route] = before_ml + float(volumes[over[0]])
            gone[route] = float(there[-1])
        before_ml += one.solved_ml
    return found


def _risks(
    medium: Medium,
    nominal: Sequence[Invasion],
    depots: Sequence[Depot],
    begins: dict[str, list[float]],
    members: int,
) -> dict[str, LeakRisk]:
    from scipy.ndimage import binary_erosion
    from scipy.spatial import cKDTree

    points, reached = _in_order(nominal, depots)
    risks = {}
    for route, volumes in begins.items():
        distance_mm, at_risk_ml = math.inf, None
        # The two grids end a little apart, so that one may have a structure at its border that the other has not.
        if route in medium.zones.names:
            mask = medium.zones.mask(route)
            surface = np.argwhere(mask & ~binary_erosion(mask))
            distance = cKDTree(medium.grid.ras_of(surface)).query(points)[0] - 0.5 * float(medium.grid.spacing_mm[0])
            distance_mm = float(distance.min())
            near = np.flatnonzero(distance <= RISK_DISTANCE_MM)
            at_risk_ml = float(reached[near[0]]) if near.size else None
        risks[route] = LeakRisk(
            distance_mm=distance_mm,
            volume_at_risk_ml=at_risk_ml,
            probability=len(volumes) / members,
            interval=_wilson(len(volumes), members),
            earliest_ml=float(np.quantile(volumes, 0.1)) if volumes else None,
            median_ml=float(np.median(volumes)) if volumes else None,
        )
    return risks


def _in_order(invasions: Sequence[Invasion], depots: Sequence[Depot]) -> tuple[FloatArray, FloatArray]:
    """Centres of all voxels that are at least half full, and the volume at which each is, in the order of that."""
    points, reached, before_ml = [], [], 0.0
    for depot, one in zip(depots, invasions, strict=True):
        half_full_ml = (one.begins_ml + one.full_ml) / 2
        order = np.argsort(half_full_ml)
        order = order[half_full_ml[order] <= min(depot.volume_ml, one.room_ml)]
        points.append(one.voxel_ras[order])
        reached.append(before_ml + half_full_ml[order])
        before_ml += depot.volume_ml
    return np.concatenate(points), np.concatenate(reached)


def _wilson(found: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z = 1.959964
    share = found / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return (max(0.0, middle - half) if found else 0.0), (min(1.0, middle + half) if found < count else 1.0)
