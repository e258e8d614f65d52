"""Exhaustive search of straight trocar paths from the skin into the sacrum.

Every pair of an entry point on the cortex and a target is tried. Those whose whole shaft keeps its distance from every
forbidden structure are ranked; when there is none, the least bad ones come back with the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..anatomy.confirmation import blocking_reasons
from ..anatomy.fracture_reach import leak_risk_notes
from ..errors import PlanError
from ..geometry import FloatArray, segment_to_segment_distance, transform_points, unit
from .approaches import Candidates, Rules
from .check import LOW_DENSITY_HU, SKIN_OUTSIDE, check_trajectory, fractures_on, keeps_rule, refused
from .context import PlanningContext
from .depots import room_mm, second_trocar_ml, sphere_ml
from .model import Merit, Plan, Side, Trajectory
from .narrow_paths import NarrowPaths
from .obstacles import alone_in_the_way
from .options import SMALLEST_USUAL_ML, PlanOptions
from .sacrum_view import STEP_MM
from .structures import GRID_DOUBT_MM, Structures
from .uncertainty import pose_uncertainty

#: Trajectories returned for each side, and how far apart their ends are at least [mm].
_BEST, _DISTINCT_MM = 5, 4.0
#: Of each ranking so many different ones are measured in full until one is accepted.
_TRIED = 24
#: A second trocar in an ala is worth its hole from so much cement on [mL]; chosen, not measured.
_WORTH_A_TROCAR_ML = 0.5
#: A structure alone is in the way if without it a path keeps so much more than with all of them [mm].
_OPENED_MM = 0.2
#: One with so much to spare surely opens a path: measures of labels differ by as much [mm].
_SURELY_OPENED_MM = 0.3
#: So many paths are measured at a time until one opens; where none does, of so many nearest ones the neighbours of so
#: many are tried.
_OPENED_AT_A_TIME, _OPENED_LOOKED_AT, _OPENED_FROM = 2000, 500, 4
#: Pairs are compared with those chosen so many at a time.
_COMPARED = 5000
#: Of a side without an accepted trajectory, so many refused ones are shown, the least bad of so many.
_REFUSED, _LOOKED_AT = 3, 4000
#: The best pairs of the coarse search whose neighbours are tried, and how far those lie off [mm].
_REFINED, _NEIGHBOR_MM = 16, 1.25
#: So many steps to both sides of both ends of a pair.
_NEIGHBORS = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 5, indexing="ij"), axis=-1).reshape(-1, 5)
#: What it is worth that the entry keeps the rule: more than room (up to 1) and volume (up to 1.5) together.
_RULED_SCORE = 3.0
#: Where no path is accepted, others are looked for beside so many that the fields refuse by this at most, so far apart
#: [mm].
_NARROW, _FIELDS_SHORT_MM, _NARROW_APART_MM = 12, 1.0, 2.0
#: Where along its way from target (0) to entry (1) a shaft is looked at first.
_QUICK_LOOK = (0.0, 0.5, 1.0, 0.25, 0.75, 1.3, 1.7)
#: So many paths are measured at a time.
_MEASURED_AT_A_TIME = 1000
#: Behind its entry the shaft is looked at for so far [mm]: further out nothing that counts is near.
_BEHIND_MM = 60.0
#: Cement is placed while the trocar is withdrawn this far [mm].
_WITHDRAWAL_MM = 10.0
#: The last part of the shaft, around which cement comes out [mm].
_REACHED_MM = 16.0
#: Two trocars at a time: shafts and hubs (handles) of this size must not touch [mm]; dimensions chosen, not measured.
_SHAFT_GAP_MM, _HUB_GAP_MM = 10.0, 40.0
#: One-sided 95 % of a normal distribution.
_SD_95 = 1.645


def plan_trajectories(
    context: PlanningContext,
    sides: Sequence[Side] = ("left", "right"),
    options: PlanOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> Plan:
    """Rank trocar trajectories on each side.

    Args:
        progress: called with the fraction done.

    Returns:
        Up to five accepted trajectories for each side, the recommended one first, with the safest, the best filling
        and the shortest among them; for a side without any, the three that come nearest with the reasons for refusal.
        A side that relies on a structure that is missing, cut off, or found with a low confidence and not confirmed is
        refused as a whole; the other side is not.

    Raises:
        PlanError: for an anatomy without sacrum, ala or foramina.
    """
    options = options or PlanOptions()
    if options.technique == "double-needle":
        sides = ("left", "right")
    if not sides or set(sides) - {"left", "right"}:
        raise PlanError(f"sides must be left, right or both, not {', '.join(sides) or 'none'}")
    sides = tuple(dict.fromkeys(sides))
    told = progress or (lambda fraction: None)
    found: dict[Side, list[Trajectory]] = {}
    blocked: dict[Side, tuple[str, ...]] = {}
    for number, side in enumerate(sides):
        reasons = blocking_reasons(context.anatomy, side)
        try:
            found[side] = _plan_side(context, side, options, len(sides))
        except PlanError as error:
            # Half a sacrum is planned on the half that is there.
            if not reasons:
                raise
            found[side] = []
            reasons = (*reasons, str(error))
        if reasons:
            blocked[side] = reasons
            found[side] = [refused(item, reasons) for item in found[side][:_REFUSED]]
        told((number + 1) / len(sides))
    if options.technique == "double-needle":
        found = _pair(found)
    return replace(plan_of(context, [item for side in found for item in found[side]], options), blocked=blocked)


def plan_of(context: PlanningContext, trajectories: Sequence[Trajectory], options: PlanOptions) -> Plan:
    """The plan that holds these trajectories, with all that they were judged by."""
    return Plan(
        trajectories=tuple(trajectories),
        image_hash=context.anatomy.image_hash,
        confirmed=tuple(sorted(context.anatomy.confirmed)),
        notes=leak_risk_notes(context.anatomy),
        technique=options.technique,
        needle=options.needle,
        margin_mm=options.margin_mm,
        preferred_margin_mm=options.preferred_margin_mm,
        accuracy=options.accuracy,
        overrides=options.overrides,
        frame_of_reference=context.frame_of_reference,
    )


def nearest_accepted(
    context: PlanningContext,
    entry_skin: ArrayLike,
    target: ArrayLike,
    side: Side,
    options: PlanOptions | None = None,
    sides: int = 1,
) -> Trajectory:
    """The accepted trajectory whose ends lie nearest to those of a line.

    Raises:
        PlanError: when there is none within some 20 mm.
    """
    options = options or PlanOptions()
    drawn = check_trajectory(context, entry_skin, target, side, options, sides)
    if drawn.accepted:
        return drawn
    search = _Search(context, side, options, sides)
    RASToView = search.structures.view.RASToView
    entry, tip = transform_points(RASToView, np.stack([drawn.entry_bone, drawn.target]))
    for reach in (2.0, 4.0, 8.0, 16.0):
        offsets = _spread_evenly(12_000) * reach
        around = search.rules.neighbors(entry[None], tip[None], offsets)
        slack = search.slack_mm(around)
        kept = np.flatnonzero(slack >= 0)
        moved = np.maximum(
            np.linalg.norm(around.entry[kept] - entry, axis=1), np.linalg.norm(around.target[kept] - tip, axis=1)
        )
        for index in kept[np.argsort(moved, kind="stable")][:10]:
            found = search.measured(around.entry[index], around.target[index])
            if found.accepted:
                return replace(found, source="manual")
    why = "; ".join(drawn.reasons)
    raise PlanError(f"no accepted trajectory lies within 16 mm of this line ({why}); draw another one, or search")


class _Search:
    """The search on one side."""

    def __init__(self, context: PlanningContext, side: Side, options: PlanOptions, sides: int) -> None:
        self.context, self.side, self.options, self.sides = context, side, options, sides
        self.rules = Rules(context, options.technique, side)
        self.structures: Structures = context.structures(options.technique, side)
        fractures = fractures_on(context, side)
        self._fracture_ras = np.concatenate(fractures) if fractures else None

    @property
    def needed_mm(self) -> float:
        """Least distance of the axis from every structure, without what a system error adds."""
        return self.options.margin_mm + self.options.needle.radius_mm

    def needed_along_mm(self, along_mm: FloatArray) -> FloatArray:
        """Least distance of the axis from every structure at distances (n,) from the tip."""
        return np.full(len(along_mm), self.needed_mm) + self._extra_mm(along_mm)

    def slack_mm(self, candidates: Candidates, without: str | None = None) -> FloatArray:
        """What each shaft keeps from all structures together beyond what it must; one may be named not to count.

        Exact where it is not negative. A quick look at few points of a shaft rejects most: the distance at the grid
        point nearest to a place is wrong by at most the way between them.
        """
        direction = candidates.entry - candidates.target
        length = np.linalg.norm(direction, axis=1)
        values = self.structures.everything(self.side, without).values
        origin, last = self.structures.view.origin_mm, np.array(values.shape) - 1
        slack = np.full(len(length), np.inf)
        alive = np.arange(len(length))
        for share in _QUICK_LOOK:
            place = candidates.target[alive] + share * direction[alive]
            index = np.clip(np.rint((place - origin) / STEP_MM).astype(np.int32), 0, last)
            at = values[index[:, 0], index[:, 1], index[:, 2]] + STEP_MM * np.sqrt(3) / 2
            at = at - self.needed_mm - self._extra_mm(share * length[alive])
            slack[alive] = np.minimum(slack[alive], at)
            alive = alive[at >= 0]
        slack[alive] = self.exact_slack_mm(candidates.part(alive), without)
        return slack

    def exact_slack_mm(self, candidates: Candidates, without: str | None = None) -> FloatArray:
        """The same for all of them, from points 1 mm apart."""
        field = self.structures.everything(self.side, without)

        def of_part(start: int) -> FloatArray:
            part = slice(start, start + _MEASURED_AT_A_TIME)
            target = candidates.target[part]
            direction = candidates.entry[part] - target
            length = np.linalg.norm(direction, axis=1)
            steps = np.arange(0, float(length.max()) + _BEHIND_MM, 1.0)
            along = np.minimum(steps, length[:, None] + _BEHIND_MM)
            points = target[:, None] + (along / length[:, None])[..., None] * direction[:, None]
            return (field.at_view(points) - self.needed_mm - self._extra_mm(along)).min(axis=1)

        with ThreadPoolExecutor() as pool:
            parts = pool.map(of_part, range(0, len(candidates.entry), _MEASURED_AT_A_TIME))
            return np.concatenate([np.zeros(0), *parts])

    def _extra_mm(self, along_mm: FloatArray) -> FloatArray | float:
        """What a stated system error adds to the margin at a distance from the tip."""
        if self.options.accuracy is None:
            return 0.0
        covariance = pose_uncertainty(self.options.accuracy, np.zeros(3)).covariance
        return _SD_95 * np.sqrt(covariance[0, 0] + covariance[3, 3] * np.square(along_mm) * 2 / 3)

    def score(self, candidates: Candidates, slack: FloatArray, volume_ml: FloatArray) -> FloatArray:
        """A score (n,) that is below -50 for every candidate that does not keep the margin."""
        # Up to the preferred margin more room is worth having.
        span = max(self.options.preferred_margin_mm - self.options.margin_mm, 0.5)
        score = np.minimum(slack, span) / span + 1.5 * np.minimum(volume_ml, 4.0) / 4.0 - candidates.penalty
        fits = np.flatnonzero(slack >= 0)
        score[fits] += self._reached(candidates.part(fits)) + _RULED_SCORE * candidates.ruled[fits]
        return np.where(slack >= 0, score, -100 + slack)

    def _reached(self, candidates: Candidates) -> FloatArray:
        """What the last part of each shaft reaches: bone that holds fat in place of trabeculae, a marked fracture."""
        from scipy.ndimage import map_coordinates
        from scipy.spatial import cKDTree

        if not len(candidates.entry):
            return np.zeros(0)
        outwards = candidates.entry - candidates.target
        outwards = outwards / np.linalg.norm(outwards, axis=1)[:, None]
        along = np.arange(0, _REACHED_MM, 2.0)
        points = candidates.target[:, None] + along[:, None] * outwards[:, None]
        ras = transform_points(self.structures.view.ViewToRAS, points)
        ct = self.context.ct
        hu = map_coordinates(ct.voxels, ct.kji_of(ras).reshape(-1, 3).T, order=1, output=np.float32, mode="nearest")
        worth = 0.3 * (hu.reshape(points.shape[:2]) < LOW_DENSITY_HU).mean(axis=1)
        if self._fracture_ras is not None:
            away = cKDTree(self._fracture_ras).query(ras[:, ::2].reshape(-1, 3), distance_upper_bound=_REACHED_MM)[0]
            nearest = np.minimum(away.reshape(len(ras), -1).min(axis=1), _REACHED_MM)
            worth += 0.5 * (1 - nearest / _REACHED_MM)
        return worth

    def volume_ml(self, candidates: Candidates) -> FloatArray:
        """Cement that fits around the last part of each path, at most the limit of one trocar."""
        outwards = candidates.entry - candidates.target
        outwards = outwards / np.linalg.norm(outwards, axis=1)[:, None]
        steps = np.arange(0, _WITHDRAWAL_MM + 0.1, 2.5)
        points = candidates.target[:, None, :] + steps[:, None] * outwards[:, None, :]
        room = room_mm(self.structures, points).max(axis=1)
        return np.minimum(sphere_ml(room), self.options.limit_ml(self.sides))

    def measured(self, entry: FloatArray, target: FloatArray) -> Trajectory:
        """The full measurement of a pair in view coordinates."""
        ends = transform_points(self.structures.view.ViewToRAS, np.stack([entry, target]))
        start = ends[0] + 5.0 * unit(ends[0] - ends[1])
        return check_trajectory(self.context, start, ends[1], self.side, self.options, self.sides, source="search")


@dataclass(frozen=True)
class _Ranked:
    """Candidates with what they are ranked by, arrays of length n."""

    candidates: Candidates
    slack: FloatArray
    volume_ml: FloatArray
    score: FloatArray


def _plan_side(context: PlanningContext, side: Side, options: PlanOptions, sides: int) -> list[Trajectory]:
    search = _Search(context, side, options, sides)
    coarse = _ranked(search, search.rules.all_pairs())
    ruled = coarse.candidates.ruled
    parts = [_keep_best(coarse), _finer(search, coarse)]
    # Where others keep their distances, but none that keeps the entry rule does, the rule is worth another look.
    if ruled.any() and not ruled.all() and (coarse.slack >= 0).any() and not (coarse.slack[ruled] >= 0).any():
        parts.append(_finer(search, _subset(coarse, np.flatnonzero(ruled))))
    ranked = _joined(parts)
    if found := _chosen(search, ranked):
        return _with_rule_kept(search, ranked, found)
    # What was rejected at a first look may be worse than that look said.
    near = ranked.candidates.part(np.argsort(-ranked.slack, kind="stable")[:_LOOKED_AT])
    slack = search.exact_slack_mm(near)
    if found := _narrow(search, near, slack):
        return with_merits(found)
    alone = _alone_in_the_way(search, coarse.candidates, float(slack.max()))
    reasons = [f"no path on this side; there would be one without {', or without '.join(alone)}"] if alone else []
    return [refused(item, reasons) for item in _least_bad(search, near, slack)]


def _alone_in_the_way(search: _Search, candidates: Candidates, best_mm: float) -> tuple[str, ...]:
    """Structures without which, alone, there would be a path: one that keeps more than the best does with all of them.

    By the labels, those without which there would be a little more than enough room; where there are none, those
    without which there would be enough; where there are none either, those that the fields name.

    Args:
        best_mm: what the best keeps by the fields beyond what it must.
    """
    if best_mm >= _FIELDS_SHORT_MM:
        # Structures leave a path, and something else refuses it.
        return ()
    likely: dict[str, Candidates] = {}

    def opened(paths: Candidates, name: str) -> bool:
        # What the fields are short of need not be kept: a name permits nothing.
        likely[name] = _opened_by_fields(search, max(-GRID_DOUBT_MM, best_mm + _OPENED_MM), paths, name)
        return bool(len(likely[name].entry))

    names = alone_in_the_way(search.structures, search.side, candidates, search.needed_mm, opened)
    for spare_mm in (_SURELY_OPENED_MM, 0.0):
        surely = [name for name in names if _opened_by_labels(search, spare_mm, likely[name], name)]
        if surely:
            return tuple(surely)
    return names


def _opened_by_fields(search: _Search, least_mm: float, paths: Candidates, name: str) -> Candidates:
    """Of some paths, or of those beside them, the best that without a structure keep so much beyond what they must."""
    if not len(paths.entry):
        return paths
    slack = np.full(len(paths.entry), -np.inf)
    for start in range(0, len(slack), _OPENED_AT_A_TIME):
        part = slice(start, start + _OPENED_AT_A_TIME)
        slack[part] = search.slack_mm(paths.part(np.arange(len(slack))[part]), name)
        if (slack[part] >= least_mm).any():
            break
    near = paths.part(np.argsort(-slack, kind="stable")[:_OPENED_LOOKED_AT])
    slack = search.exact_slack_mm(near, name)
    if not (slack > search.exact_slack_mm(near)).any():
        return near.part(np.zeros(0, int))  # something else holds all of them back
    if slack.max() < least_mm:
        near, slack = _ever_closer(search, near, _OPENED_FROM, name, least_mm)
    likely = np.flatnonzero(slack >= least_mm)
    best = _distinct(near, likely[np.argsort(-slack[likely], kind="stable")], _OPENED_FROM, _NARROW_APART_MM)
    return near.part(np.array(best, int))


def _opened_by_labels(search: _Search, spare_mm: float, paths: Candidates, name: str) -> bool:
    """Whether without a structure one beside some paths keeps its distances by the labels, with so much to spare."""
    narrow = _narrow_paths(search, spare_mm, name)
    ends = zip(paths.entry, paths.target, strict=True)
    return any(True for entry, target in ends for _ in narrow.beside(entry, target, ruled=False))


def _finer(search: _Search, ranked: _Ranked) -> _Ranked:
    """The neighbours of the best pairs; where none keeps its distances, of those that come nearest, ever closer."""
    if (ranked.slack >= 0).any():
        best = _distinct(ranked.candidates, np.argsort(-ranked.score, kind="stable"), _REFINED)
        entry, target = ranked.candidates.entry[best], ranked.candidates.target[best]
        return _ranked(search, search.rules.neighbors(entry, target, _NEIGHBOR_MM * _NEIGHBORS))
    # What was rejected at a first look may be worse than that look said.
    near = ranked.candidates.part(np.argsort(-ranked.slack, kind="stable")[:_LOOKED_AT])
    return _ranked(search, _ever_closer(search, near, _REFINED)[0])


def _ever_closer(
    search: _Search, tried: Candidates, most: int, without: str | None = None, enough_mm: float = np.inf
) -> tuple[Candidates, FloatArray]:
    """The neighbours of so many pairs that come nearest to keeping their distances, and theirs, and what they keep.

    Args:
        without: a structure that does not count.
        enough_mm: a pair that keeps as much beyond what it must ends the search.
    """
    slack = search.exact_slack_mm(tried, without)
    for reach in (_NEIGHBOR_MM, _NEIGHBOR_MM / 2, _NEIGHBOR_MM / 4):
        if (slack >= enough_mm).any():
            break
        # One that misses by more than its ends are moved has no neighbour that fits.
        likely = slack >= -2 * reach
        near = tried.part(np.flatnonzero(likely))
        best = _distinct(near, np.argsort(-slack[likely], kind="stable"), most)
        tried = search.rules.neighbors(near.entry[best], near.target[best], reach * _NEIGHBORS)
        slack = search.exact_slack_mm(tried, without)
    return tried, slack


def _narrow_paths(search: _Search, spare_mm: float = 0.0, without: str | None = None) -> NarrowPaths:
    """Of a side, by the labels.

    Args:
        spare_mm: what they must keep more than they must.
        without: a structure that does not count.
    """
    return NarrowPaths(
        search.structures,
        search.rules,
        search.side,
        lambda along_mm: search.needed_along_mm(along_mm) + spare_mm,
        _BEHIND_MM,
        without,
    )


def _with_rule_kept(search: _Search, ranked: _Ranked, found: list[Trajectory]) -> list[Trajectory]:
    """The trajectories; where by the fields none keeps the entry rule and one does by the labels, that one first."""
    ruled = ranked.candidates.ruled
    if (ranked.slack[ruled] >= 0).any():
        return found
    near = ranked.candidates.part(np.flatnonzero(ruled))
    kept = _narrow(search, near, search.exact_slack_mm(near), ruled=True)
    return with_merits([*kept, *found])[: max(len(found), _BEST)]


def _narrow(search: _Search, candidates: Candidates, slack: FloatArray, ruled: bool = False) -> list[Trajectory]:
    """A path that the labels allow beside those that the fields allow by little or nearly.

    Args:
        slack: what the candidates keep by the fields.
        ruled: whether its entry must keep the rule of the technique.
    """
    paths = _narrow_paths(search)
    likely = np.flatnonzero(slack >= -_FIELDS_SHORT_MM)
    order = likely[np.argsort(-slack[likely], kind="stable")]
    for index in _distinct(candidates, order, _NARROW, _NARROW_APART_MM):
        for entry, target in paths.beside(candidates.entry[index], candidates.target[index], ruled):
            found = search.measured(entry, target)
            if found.accepted and (not ruled or keeps_rule(found.lateral_to_s2_mm)):
                return [found]
    return []


def _ranked(search: _Search, candidates: Candidates) -> _Ranked:
    slack = search.slack_mm(candidates)
    volume = np.zeros(len(slack))
    fits = np.flatnonzero(slack >= 0)
    volume[fits] = search.volume_ml(candidates.part(fits))
    return _Ranked(candidates, slack, volume, search.score(candidates, slack, volume))


def _keep_best(ranked: _Ranked, most: int = 3000) -> _Ranked:
    """The best of all by score, and by each of the merits among those that keep the margin."""
    orders = [ranked.score]
    if (ranked.slack >= 0).any():
        orders += [np.where(ranked.slack >= 0, ranked.slack, -np.inf), ranked.volume_ml]
    chosen = np.unique(np.concatenate([np.argsort(-order, kind="stable")[:most] for order in orders]))
    return _subset(ranked, chosen)


def _subset(ranked: _Ranked, index: NDArray[np.int_]) -> _Ranked:
    return _Ranked(ranked.candidates.part(index), ranked.slack[index], ranked.volume_ml[index], ranked.score[index])


def _joined(parts: Sequence[_Ranked]) -> _Ranked:
    candidates = Candidates(
        *(np.concatenate([getattr(part.candidates, item.name) for part in parts]) for item in fields(Candidates))
    )
    slack, volume, score = (
        np.concatenate(arrays)
        for arrays in zip(*((part.slack, part.volume_ml, part.score) for part in parts), strict=True)
    )
    return _Ranked(candidates, slack, volume, score)


def _chosen(search: _Search, ranked: _Ranked) -> list[Trajectory]:
    """The recommended trajectory, the best in each merit, and others that differ from them."""
    fits = np.flatnonzero(ranked.slack >= 0)
    if not len(fits):
        return []
    length = np.linalg.norm(ranked.candidates.entry - ranked.candidates.target, axis=1)
    enough = fits[ranked.volume_ml[fits] >= min(SMALLEST_USUAL_ML, 0.8 * ranked.volume_ml[fits].max())]
    orders: dict[Merit | None, NDArray[np.int_]] = {
        None: fits[np.argsort(-ranked.score[fits], kind="stable")],
        "safest": fits[np.argsort(-ranked.slack[fits] + 0.01 * length[fits], kind="stable")],
        "best-filling": fits[np.argsort(-ranked.volume_ml[fits] - 0.01 * ranked.slack[fits], kind="stable")],
        # A short way to where nothing fits is none.
        "shortest": enough[np.argsort(length[enough], kind="stable")],
    }
    found: list[Trajectory] = []
    for order in orders.values():
        # The first that is accepted; rather one whose axis a C-arm can look along.
        hidden: list[Trajectory] = []
        for index in _distinct(ranked.candidates, order, most=_TRIED):
            item = search.measured(ranked.candidates.entry[index], ranked.candidates.target[index])
            if item.accepted and item.view_feasible is not False:
                found.append(item)
                break
            hidden += [item] if item.accepted else []
        else:
            found += hidden[:1]
    for index in _distinct(ranked.candidates, orders[None], most=4 * _BEST):
        if len(found) >= _BEST + 3:
            break
        item = search.measured(ranked.candidates.entry[index], ranked.candidates.target[index])
        if item.accepted and all(_apart(item, other) for other in found):
            found.append(item)
    found = _with_second_trocar(_without_copies(found))
    return with_merits(found)[: 2 * _BEST if search.options.technique == "double-needle" else _BEST]


def _with_second_trocar(items: list[Trajectory]) -> list[Trajectory]:
    """The trajectories, those with less cement than is usual with what a second trocar of the side would add."""
    proposed = []
    for item in items:
        added = [second_trocar_ml(item.depots, other.depots) for other in items if item.depots and other.depots]
        if item.planned_volume_ml < SMALLEST_USUAL_ML - 0.05 and max(added, default=0.0) >= _WORTH_A_TROCAR_ML:
            text = f"a second trocar along another path of this side adds up to {max(added):.1f} mL"
            item = replace(item, cautions=(*item.cautions, text))
        proposed.append(item)
    return proposed


def with_merits(items: Sequence[Trajectory]) -> list[Trajectory]:
    """The trajectories of one side with what each is the best in: clearance, volume, length."""
    if not items:
        return []
    safest = max(range(len(items)), key=lambda n: min(items[n].clearance_mm.values()))
    filling = max(range(len(items)), key=lambda n: items[n].planned_volume_ml)
    shortest = min(range(len(items)), key=lambda n: items[n].length_mm)
    merits: list[tuple[Merit, int]] = [("safest", safest), ("best-filling", filling), ("shortest", shortest)]
    return [
        replace(item, merits=tuple(name for name, index in merits if index == number))
        for number, item in enumerate(items)
    ]


def _without_copies(items: list[Trajectory]) -> list[Trajectory]:
    kept: list[Trajectory] = []
    for item in items:
        if all(_apart(item, other, 0.5) for other in kept):
            kept.append(item)
    return kept


def _apart(a: Trajectory, b: Trajectory, least_mm: float = _DISTINCT_MM) -> bool:
    entries, targets = np.linalg.norm(a.entry_bone - b.entry_bone), np.linalg.norm(a.target - b.target)
    return bool(max(entries, targets) >= least_mm)


def _least_bad(search: _Search, near: Candidates, slack: FloatArray) -> list[Trajectory]:
    order = np.argsort(-slack, kind="stable")
    measured: list[Trajectory] = []
    # Those that the structures refuse say more than those that leave the image.
    for index in _distinct(near, order, most=4 * _REFUSED):
        if sum(SKIN_OUTSIDE not in item.reasons for item in measured) == _REFUSED:
            break
        measured.append(search.measured(near.entry[index], near.target[index]))
    return sorted(measured, key=lambda item: SKIN_OUTSIDE in item.reasons)[:_REFUSED]


def _distinct(candidates: Candidates, order: NDArray[np.int_], most: int, apart_mm: float = _DISTINCT_MM) -> list[int]:
    """The first of the ranking that differ from each other at the entry or at the target."""
    chosen: list[int] = []
    # Most often all are found among the first: the others need not be compared.
    for start in range(0, len(order), _COMPARED):
        remaining = order[start : start + _COMPARED]
        for best in chosen:
            remaining = remaining[_ends_apart_mm(candidates, remaining, best) >= apart_mm]
        while len(remaining) and len(chosen) < most:
            chosen.append(int(remaining[0]))
            remaining = remaining[_ends_apart_mm(candidates, remaining, chosen[-1]) >= apart_mm]
        if len(chosen) == most:
            break
    return chosen


def _ends_apart_mm(candidates: Candidates, others: NDArray[np.int_], one: int) -> FloatArray:
    entries = np.linalg.norm(candidates.entry[others] - candidates.entry[one], axis=1)
    return np.maximum(entries, np.linalg.norm(candidates.target[others] - candidates.target[one], axis=1))


def _spread_evenly(count: int) -> FloatArray:
    """Points (count, 5) of the cube from -1 to 1, always the same."""
    from scipy.stats import qmc

    return 2 * qmc.Sobol(5, scramble=False).random(2 ** int(np.ceil(np.log2(count)))) - 1


def _pair(found: dict[Side, list[Trajectory]]) -> dict[Side, list[Trajectory]]:
    """Put the best pair of trocars that leave each other room first; refuse all when no pair does."""
    left, right = found["left"], found["right"]
    pairs = [
        (row + column, row, column)
        for row, a in enumerate(left)
        for column, b in enumerate(right)
        if a.accepted and b.accepted and leave_room(a, b)
    ]
    if pairs:
        _, row, column = min(pairs)
        return {
            "left": [left[row], *left[:row], *left[row + 1 :]][:_BEST],
            "right": [right[column], *right[:column], *right[column + 1 :]][:_BEST],
        }
    reason = "double-needle: no pair of paths keeps shafts and hubs of both trocars apart"
    return {side: [refused(item, (*item.reasons, reason)) for item in items] for side, items in found.items()}


def leave_room(a: Trajectory, b: Trajectory) -> bool:
    """Whether two trocars can be in place at a time: shafts 10 mm apart, hubs 40 mm, for two hands."""
    shafts_mm, hubs_mm = gaps_mm(a, b)
    return shafts_mm >= _SHAFT_GAP_MM and hubs_mm >= _HUB_GAP_MM


def gaps_mm(a: Trajectory, b: Trajectory) -> tuple[float, float]:
    """Distance between the axes of two trocars, and between their hubs."""
    hubs = [item.target + item.needle.length_mm * unit(item.entry_skin - item.target) for item in (a, b)]
    shafts = segment_to_segment_distance(a.target, hubs[0], b.target, hubs[1])
    return shafts, float(np.linalg.norm(hubs[0] - hubs[1]))
