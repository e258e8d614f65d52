"""Does the planner find a path where there is one, keep the entry rule where that can be, and name what is in the way?

Run: python Testing/benchmarks/planning_against_reference.py [seeds ...] [--cache FOLDER] [--sacra]
Synthetic patients with bones of the built-in method, or with --sacra CTs painted from real sacra with faultless labels
(seeds are then numbers of the atlas). Short axis, 11G. Judged by the exhaustive search of
planning_reference.py: it gives the widest clearance W that any path of a side has. Each side is planned with the usual
margin of 3 mm, and, since most sides are easy with that, with a margin 0.3 mm below W, where hardly any path is left,
and 0.5 mm above it, where none is. The same for paths that keep the entry rule. About a minute for each side.

The reference sees labels, as the planner does, and may be wrong about a wall. Where the two disagree about a path, its
true clearance on the patient's own shapes decides: a path that does not keep the margin was not missed, and one that
does was not to be refused. These are counted apart, and so are paths that leave the CT before they leave the body:
nobody could mark their skin, and the reference does not look for it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pelvis_labels import jhu_patients
from planning_on_phantoms import RULE_MM, patient
from planning_on_real_sacra import MeshTruth, case_of
from planning_reference import BESIDE_MM, Corridor, Reference, make_reference
from planning_truth import PhantomTruth

from sacroplasty.anatomy.labels import SIDES
from sacroplasty.errors import SacroplastyError
from sacroplasty.geometry import FloatArray, transform_points, unit
from sacroplasty.planning.check import check_trajectory
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.model import Side, Trajectory
from sacroplasty.planning.options import PlanOptions
from sacroplasty.planning.search import plan_trajectories

#: Every other one had a side without a path at an earlier state of the planner.
SEEDS = (
    1, 2, 3, 5, 4, 6, 8, 7, 10, 16, 12, 24, 20, 32, 33, 37, 45, 38, 51, 62,
    60, 66, 68, 72, 77, 79, 90, 80, 99, 83, 111, 87, 125, 95, 140, 102, 150, 107, 165, 145,
)  # fmt: skip
#: Real sacra that had no part in the built-in method.
SACRA = (1, 4, 7, 10, 13, 16, 19, 22, 25, 28)
MARGIN_MM = PlanOptions().margin_mm
#: So much below the widest clearance there is a path, and so much above it there is none.
_BELOW_MM, _ABOVE_MM = 0.3, 0.5
#: The reference looks for paths that keep as much, for ever less [mm].
_LEAST_MM = (6.0, 4.5, 3.0, 2.0, 1.0, 0.2)
#: With a margin below this the error of an ordinary system refuses what distances allow.
_LEAST_MARGIN_MM = 1.5
#: The reference's distances are right to this on its grid of 0.5 mm [mm].
_SAME_MM = 0.2
#: Darker is air [HU].
_AIR_HU = -300


@dataclass
class Tally:
    """What is counted, by margin: `usual`, or `just` possible or impossible.

    Attributes:
        same: paths about which planner and reference differ by no more than the reference's error.
        wrong: where the truth says that the reference's path does not keep the margin (False), or that the planner's,
            which the reference refuses, does (True).
        outside: paths of the reference that leave the CT before the body, and that the planner has nothing instead of.
    """

    found: Counter[tuple[str, bool]] = field(default_factory=Counter)
    ruled: Counter[tuple[str, bool]] = field(default_factory=Counter)
    truly: Counter[tuple[str, bool]] = field(default_factory=Counter)
    refused: Counter[tuple[str, bool]] = field(default_factory=Counter)
    named: Counter[tuple[str, bool]] = field(default_factory=Counter)
    same: int = 0
    wrong: Counter[tuple[str, bool]] = field(default_factory=Counter)
    outside: int = 0


@dataclass
class _Case:
    """A side with its reference, and what the planner says with a margin."""

    context: PlanningContext
    side: Side
    reference: Reference
    truth: PhantomTruth | MeshTruth
    tally: Tally

    @property
    def _radius_mm(self) -> float:
        return PlanOptions().needle.radius_mm

    def widest(self, lateral_mm: tuple[float, float] = BESIDE_MM) -> tuple[float, Corridor | None]:
        """The widest clearance of the shaft's surface, and its path; minus infinity where there is no path at all."""
        # Where much is asked for, few pairs are left to be measured.
        for least in _LEAST_MM:
            corridor = self.reference.widest(self._radius_mm + least, lateral_mm=lateral_mm)
            if corridor is not None:
                return corridor.kept_mm - self._radius_mm, corridor
        return -np.inf, None

    def planned(self, margin_mm: float) -> list[Trajectory]:
        return list(plan_trajectories(self.context, (self.side,), _options(margin_mm)).trajectories)

    def in_the_way(self, margin_mm: float) -> set[str]:
        """Structures without which, each alone, there would be a path."""
        needed = margin_mm + self._radius_mm
        return {name for name in self.reference.distance_mm if self.reference.widest(needed, (name,), enough_mm=needed)}

    def check_found(self, kind: str, margin_mm: float, corridor: Corridor) -> str:
        """Where there is a path: whether the planner has one, and what it says of the reference's where it has none."""
        items = self.planned(margin_mm)
        accepted = bool(items) and items[0].accepted
        if accepted:
            self.tally.found[kind, True] += 1
            return "found"
        if not self.reaches_skin(corridor):
            self.tally.outside += 1
            return "not found; the reference's path leaves the CT before the body"
        entry, target = self._ends(corridor)
        own = check_trajectory(self.context, entry + 5 * unit(entry - target), target, self.side, _options(margin_mm))
        why = "accepts the reference's path" if own.accepted else f"of the reference's path: {own.reasons[0]}"
        why += f"; truly it keeps {(truly := self.truly_mm(own, margin_mm)):.2f} mm"
        if truly < margin_mm:
            self.tally.wrong[kind, False] += 1
            return f"not found; {why}"
        self.tally.found[kind, False] += 1
        return f"MISSED by {margin_mm - min(items[0].clearance_mm.values()):.2f} mm; {why}"

    def _ends(self, corridor: Corridor) -> FloatArray:
        """Entry and target of a path in RAS."""
        return transform_points(self.reference.ViewToRAS, np.stack([corridor.entry, corridor.target]))

    def reaches_skin(self, corridor: Corridor) -> bool:
        """Whether a path comes out of the body before it leaves the CT: two millimetres of air."""
        entry, target = self._ends(corridor)
        ct = self.context.ct
        way = entry + np.arange(0, 400, 1.0)[:, None] * unit(entry - target)
        place = np.rint(ct.kji_of(way)).astype(int)
        place = place[np.logical_and.accumulate(((place >= 0) & (place < ct.voxels.shape)).all(axis=1))]
        air = ct.voxels[tuple(place.T)] < _AIR_HU
        return bool((air[1:] & air[:-1]).any())

    def truly_mm(self, item: Trajectory, margin_mm: float) -> float:
        """What a trajectory truly keeps from everything, at most some more than the margin."""
        reach_mm = margin_mm + 1.0
        if isinstance(self.truth, MeshTruth):
            return min(value for value, _ in self.truth.clearance_mm(item, reach_mm + self._radius_mm).values())
        real = self.truth.clearance_mm(item.entry_skin, item.target, self._radius_mm, reach_mm)
        return min(real.values(), default=reach_mm)

    def check_rule(self, kind: str, margin_mm: float, corridor: Corridor) -> str:
        """Where there is a path that keeps the entry rule: whether the recommended one does."""
        items = self.planned(margin_mm)
        beside = items[0].lateral_to_s2_mm if items[0].accepted else None
        kept = beside is not None and RULE_MM[0] <= beside <= RULE_MM[1]
        if not kept and not self.reaches_skin(corridor):
            self.tally.outside += 1
            return f"not kept: {beside}; the reference's path leaves the CT before the body"
        self.tally.ruled[kind, kept] += 1
        said = f"{'' if kept else 'NOT '}kept: {beside}"
        if isinstance(self.truth, MeshTruth):
            return said
        real = self.truth.foramen_edge_mm(items[0].entry_bone, self.side)
        self.tally.truly[kind, kept and RULE_MM[0] <= real <= RULE_MM[1]] += 1
        return f"{said} (truly {real:.1f})"

    def check_refused(self, kind: str, margin_mm: float, width_mm: float) -> str:
        """Where there is no path: whether the planner refuses and names what alone is in the way, if anything is.

        Right are names that each by itself open a path for the reference; where none is said to, the names at the least
        bad path, if none does and there is a path without all of them.
        """
        items = self.planned(margin_mm)
        refused = bool(items) and not any(item.accepted for item in items)
        kept = self.reference.kept_mm(items[0].entry_skin, items[0].target) - self._radius_mm
        if not refused and kept >= margin_mm - _SAME_MM:
            self.tally.same += 1
            return f"a path that keeps {kept:.2f} mm by the reference"
        if not refused:
            truly = self.truly_mm(items[0], margin_mm)
            counted = self.tally.wrong if truly >= margin_mm else self.tally.refused
            counted[kind, truly >= margin_mm] += 1
            rightly = "not" if truly >= margin_mm else "NOT"
            return f"{rightly} refused, keeps {kept:.2f} mm by the reference, truly {truly:.2f} mm"
        self.tally.refused[kind, True] += 1
        known = self.reference.distance_mm
        # What the planner's grid measures may be a little more, or a little less.
        alone = self.in_the_way(max(margin_mm - _BELOW_MM, width_mm + 0.01))
        said = {name for name in known if name in items[0].reasons[0]} if "no path" in items[0].reasons[0] else set()
        at_path = {name for name in known if any(reason.startswith(f"{name}:") for reason in items[0].reasons)}
        if said:
            right = said <= alone
        else:
            surely = self.in_the_way(margin_mm + _BELOW_MM)
            right = not surely and self.reference.widest(margin_mm + self._radius_mm, without=at_path) is not None
        self.tally.named[kind, right] += 1
        return f"refused, {'right' if right else 'WRONG'}: {sorted(said or at_path)}, of {sorted(alone)}"


def _options(margin_mm: float) -> PlanOptions:
    return PlanOptions(margin_mm=margin_mm, preferred_margin_mm=max(PlanOptions().preferred_margin_mm, margin_mm))


def measure_side(case: _Case) -> list[str]:
    """All cases of one side; the cells of its row."""
    width, corridor = case.widest()
    ruled, corridor_of_rule = case.widest(RULE_MM)
    cells = [f"{width:.2f}", "", "", "", f"{ruled:.2f}", "", ""]
    if corridor is not None and width >= MARGIN_MM:
        cells[1] = case.check_found("usual", MARGIN_MM, corridor)
        cells[3] = case.check_refused("just", width + _ABOVE_MM, width)
    else:
        cells[1] = case.check_refused("usual", MARGIN_MM, width)
    if corridor is not None and width - _BELOW_MM >= _LEAST_MARGIN_MM:
        cells[2] = case.check_found("just", width - _BELOW_MM, corridor)
    if corridor_of_rule is not None and ruled >= MARGIN_MM:
        cells[5] = case.check_rule("usual", MARGIN_MM, corridor_of_rule)
    if corridor_of_rule is not None and ruled - _BELOW_MM >= _LEAST_MARGIN_MM:
        cells[6] = case.check_rule("just", ruled - _BELOW_MM, corridor_of_rule)
    return cells


def _context(number: int, real: bool, cache: Path | None) -> PlanningContext:
    if real:
        return case_of(number, jhu_patients()[number], exact=True, cache=cache)
    return PlanningContext(*patient(number, cache))


def report(tally: Tally) -> None:
    """The totals."""
    for text, counts in (
        ("path found where the reference has one", tally.found),
        ("entry 15 to 20 mm lateral where the reference has such a path", tally.ruled),
        ("the same, truly", tally.truly),
        ("refused where the reference has none", tally.refused),
        ("of those, the right structure named", tally.named),
    ):
        for kind in ("usual", "just"):
            total = counts[kind, True] + counts[kind, False]
            print(f"{text} ({kind} margin): {counts[kind, True]} of {total}")
    for kind in ("usual", "just"):
        print(
            f"the reference is wrong by the truth ({kind} margin): {tally.wrong[kind, False]} of its paths do not keep "
            f"the margin, {tally.wrong[kind, True]} of the planner's that it refuses do"
        )
    print(f"paths of the reference that leave the CT before the body, with nothing instead: {tally.outside}")
    print(f"neither: {tally.same} paths of the planner that lack less than {_SAME_MM:g} mm by the reference")


def main() -> None:
    parser = argparse.ArgumentParser(description="Plans against an exhaustive search.")
    parser.add_argument("seeds", nargs="*", type=int, help=f"default {len(SEEDS)}, half of them with refused sides")
    parser.add_argument("--cache", type=Path, help="folder of phantoms with their anatomy")
    parser.add_argument("--sacra", action="store_true", help=f"real sacra; default {len(SACRA)} of them")
    asked = parser.parse_args()
    tally = Tally()
    print(
        "| side | W mm | margin 3 mm | 0.3 mm below W | 0.5 mm above W | W of the rule | rule, 3 mm | rule, just |\n"
        + "|---" * 8
        + "|"
    )
    for number in asked.seeds or (SACRA if asked.sacra else SEEDS):
        try:
            context = _context(number, asked.sacra, asked.cache)
        except SacroplastyError as error:
            print(f"| {number} | segmentation refused: {error} |" + " |" * 6, flush=True)
            continue
        truth = MeshTruth(jhu_patients()[number], context.anatomy) if asked.sacra else PhantomTruth(number)
        for side in SIDES:
            case = _Case(context, side, make_reference(context.anatomy, context.ct, side), truth, tally)
            print(f"| {number} {side} | {' | '.join(measure_side(case))} |", flush=True)
    report(tally)


if __name__ == "__main__":
    main()
