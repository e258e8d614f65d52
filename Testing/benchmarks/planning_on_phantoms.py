"""Plans of synthetic patients against their exact shapes: is the clearance real?

Run: python Testing/benchmarks/planning_on_phantoms.py [seeds ...] [--cache FOLDER] [--breach] [--time] [--fields]
Bones come from the built-in method. --cache keeps phantoms with their anatomy (about 40 MB each). --breach compares
probabilities with 10,000 draws each (--draws for others), --time measures nothing but time, --fields how far distances
are above those of finely sampled labels.
About 20 s for each patient. Whether a path is found where there is one: planning_against_reference.py.
"""

from __future__ import annotations

import argparse
import pickle
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from anatomy_on_phantoms import case_of
from planning_truth import PhantomTruth, points_around

from sacroplasty.anatomy.bone_sources import BoneSource, find_bones
from sacroplasty.anatomy.confirmation import confirm, to_confirm
from sacroplasty.anatomy.frame import sample_mask
from sacroplasty.anatomy.labels import SIDES
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.segment import find_structures
from sacroplasty.errors import SacroplastyError
from sacroplasty.geometry import FloatArray, transform_points, unit
from sacroplasty.image import Volume
from sacroplasty.phantom.make import make_phantom
from sacroplasty.planning.approaches import LEAST_PAIRS
from sacroplasty.planning.close_look import CloseLook, distances_mm
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.model import Accuracy, Side, Trajectory
from sacroplasty.planning.options import PlanOptions
from sacroplasty.planning.search import plan_trajectories
from sacroplasty.planning.structures import GRID_DOUBT_MM, Structures
from sacroplasty.planning.uncertainty import breach_probability, pose_uncertainty

SEEDS = tuple(range(1, 201))
RULE_MM = (15.0, 20.0)
#: Probabilities below this cannot be counted with 10,000 draws: their own scatter is above 7 %.
_COUNTABLE = 0.02
_DRAWS = 10_000
#: Errors several times those of an ordinary system, since at its own nothing breaches often enough to be counted.
_ERRORS = (3.0, 4.5, 6.0)
#: A side lacks little where its best path lacks at most this of the margin [mm].
_LITTLE_MM = 1.0
#: Paths beside each planned one whose distances are compared with the label's, where those by the fields are so [mm].
_PATHS_EACH, _COMPARED_MM = 10, (2.0, 5.5)
#: So far their labels are looked for: what fields are short of is more than 2 mm with no voxel [mm].
_LABEL_REACH_MM = 8.0


@dataclass
class Tally:
    """What is counted over all sides."""

    sides: int = 0
    planned: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    true_mm: list[float] = field(default_factory=list)
    over_mm: list[float] = field(default_factory=list)
    rule_mm: list[float] = field(default_factory=list)
    breach: list[tuple[float, float]] = field(default_factory=list)
    draws: int = _DRAWS


def patient(seed: int, cache: Path | None) -> tuple[Volume, Anatomy]:
    """CT and anatomy of a seed, from the cache where it has them.

    Raises:
        SacroplastyError: when segmentation refuses the CT.
    """
    path = cache / f"{seed:03d}.pickle" if cache else None
    if path is not None and path.exists():
        phantom, anatomy = pickle.loads(path.read_bytes())
    else:
        phantom = make_phantom(seed, **case_of(seed))
        try:
            anatomy = find_structures(phantom.ct, find_bones(phantom.ct, BoneSource("atlas")))
        except SacroplastyError as error:
            anatomy = error
        if path is not None:
            path.write_bytes(pickle.dumps((phantom, anatomy), protocol=4))
    if isinstance(anatomy, Exception):
        raise anatomy
    # Where a person would look at what is uncertain, it counts as looked at.
    return phantom.ct, confirm(anatomy, to_confirm(anatomy, SIDES))


def measure_side(seed: int, side: Side, context: PlanningContext, truth: PhantomTruth, tally: Tally) -> str:
    """Plan a side and compare every accepted trajectory with the truth; the row of the table."""
    tally.sides += 1
    found = [item for item in plan_trajectories(context, (side,)).trajectories]
    accepted = [item for item in found if item.accepted]
    row = f"| {seed} {side} | {'x'.join(f'{size:g}' for size in case_of(seed)['spacing_mm'])} | "
    if not accepted:
        blockers = Counter(reason.split(":")[0] for reason in found[0].reasons) if found else Counter({"nothing": 1})
        tally.refused.update(blockers)
        return row + f"refused: {', '.join(blockers)} | | | |"
    tally.planned += 1
    worst = (np.inf, "")
    for item in accepted:
        real = truth.clearance_mm(item.entry_skin, item.target, item.needle.radius_mm, reach_mm=6.0)
        nearest = min(real, key=real.__getitem__, default="")
        distance = real.get(nearest, 6.0)
        worst = min(worst, (distance, nearest))
        tally.true_mm.append(distance)
        tally.over_mm.append(min(item.clearance_mm.values()) - distance)
    tally.rule_mm.append(truth.foramen_edge_mm(accepted[0].entry_bone, side))
    return row + (
        f"{len(accepted)} | {min(accepted[0].clearance_mm.values()):.2f} | {worst[0]:.2f} {worst[1]} | "
        f"{tally.rule_mm[-1]:.1f} |"
    )


def breach(context: PlanningContext, item: Trajectory, seed: int, tally: Tally) -> None:
    """Predicted against counted probabilities of a breach of one trajectory."""
    shaft = _points(item)
    for number, times in enumerate(_ERRORS):
        ordinary = Accuracy()
        error = Accuracy(
            times * ordinary.registration_sd_mm,
            times * ordinary.registration_sd_deg,
            times * ordinary.tool_sd_mm,
            times * ordinary.tool_sd_deg,
        )
        uncertainty = pose_uncertainty(error, item.target)
        for name, clearance in item.clearance_mm.items():
            if clearance > 10:
                continue
            distance_of = context.distance_of(name, item.technique, item.side)
            predicted = breach_probability(distance_of, shaft, item.needle.radius_mm, uncertainty)
            rng = np.random.default_rng([seed, number])
            sd = np.sqrt(np.diag(uncertainty.covariance))
            counted = 0
            for _ in range(tally.draws // 500):
                errors = rng.standard_normal((500, 6)) * sd
                arm = shaft - uncertainty.center_ras
                moved = shaft + errors[:, None, :3] + np.cross(errors[:, None, 3:], arm[None])
                away = distance_of(moved.reshape(-1, 3)).reshape(500, -1).min(axis=1)
                counted += int((away < item.needle.radius_mm).sum())
            tally.breach.append((predicted, counted / tally.draws))


def _points(item: Trajectory) -> np.ndarray:
    length = min(item.length_mm, 110.0)
    return item.target + np.arange(0, length, 1.5)[:, None] * unit(item.entry_skin - item.target)


def measure_time(seeds: list[int], cache: Path | None) -> None:
    """Seconds for each side, fields included, beside the same number of pairs measured one by one.

    On a busy machine the processor's own seconds say more: of all threads together. Sides that are refused by little
    take the longest, since ends of paths are moved there and what is in the way is looked for: they are summed up.
    """
    # The first search of a session loads what others find loaded.
    plan_trajectories(PlanningContext(*patient(seeds[0], cache)))
    by_little: dict[str, list[float]] = {"alone": [], "of two": []}
    print(
        "| patient | CT | sides | refused by mm | s for each side | processor's s for each side |\n" + "|---" * 6 + "|"
    )
    for seed in seeds:
        ct, anatomy = patient(seed, cache)
        for sides in (("left",), ("right",), ("left", "right")):
            began, worked = time.perf_counter(), time.process_time()
            context = PlanningContext(ct, anatomy)
            plan = plan_trajectories(context, sides)
            spent = [
                (now - then) / len(sides) for now, then in ((time.perf_counter(), began), (time.process_time(), worked))
            ]
            lacks = [_lacks_mm([item for item in plan.trajectories if item.side == side]) for side in sides]
            if all(0 < value <= _LITTLE_MM for value in lacks):
                by_little["alone" if len(sides) == 1 else "of two"].append(spent[1])
            size, told = "x".join(map(str, ct.voxels.shape)), ", ".join(f"{value:.1f}" for value in lacks)
            print(f"| {seed} | {size} | {'+'.join(sides)} | {told} | {spent[0]:.2f} | {spent[1]:.2f} |", flush=True)
    pairs, rng = 200, np.random.default_rng(seeds[-1])
    began = time.perf_counter()
    for _ in range(pairs):
        _naive(context, plan.trajectories[0], rng)
    each = (time.perf_counter() - began) / pairs
    print(f"one pair at a time in a loop: {each * LEAST_PAIRS:.0f} s for {LEAST_PAIRS} pairs of a side")
    for kind, values in by_little.items():
        if values:
            print(
                f"sides refused by at most {_LITTLE_MM:g} mm, {kind}: {len(values)} searches, processor's s for each "
                f"side: mean {np.mean(values):.2f}, most {max(values):.2f}"
            )


def _lacks_mm(items: list[Trajectory]) -> float:
    """What the best path of a side lacks of the margin; nothing where one is accepted."""
    if any(item.accepted for item in items):
        return 0.0
    return min((PlanOptions().margin_mm - min(item.clearance_mm.values()) for item in items), default=np.inf)


def measure_fields(seeds: list[int], cache: Path | None) -> None:
    """How far distances by the fields and by rays are above those of labels interpolated every 0.25 mm.

    Paths near to S1 to S3 foramina, without what is taken off for the doubt about labels.
    """
    print("| patient | paths | fields, mean (most) mm | rays, mean (most) mm |\n" + "|---" * 4 + "|")
    for seed in seeds:
        context, rng = PlanningContext(*patient(seed, cache)), np.random.default_rng(seed)
        structures = context.structures()
        over = []
        for item in plan_trajectories(context).trajectories:
            ends = transform_points(structures.view.RASToView, np.stack([item.entry_bone, item.target]))
            for _ in range(_PATHS_EACH):
                back, tip = ends + rng.normal(0, 2, (2, 3))
                shaft = tip + np.arange(0, np.linalg.norm(back - tip) + 20)[:, None] * unit(back - tip)
                for name in (f"foramen_{level}_{item.side}" for level in ("s1", "s2", "s3")):
                    by_field = structures.distance_mm(name, shaft)
                    if not _COMPARED_MM[0] < by_field.min() < _COMPARED_MM[1]:
                        continue
                    by_rays = distances_mm({name: by_field}, CloseLook(structures).surfaces(shaft, {name: by_field}))
                    place, true = _nearest_on_labels(structures, name, shaft)
                    way = [np.float32([part]) for part in place]
                    doubt = float(structures.doubt.along_mm(way, np.ones(1, np.float32))[0])
                    over.append([by_field.min() + doubt + GRID_DOUBT_MM - true, by_rays[name].min() + doubt - true])
        text = [f"{values.mean():+.2f} ({values.max():+.2f})" for values in np.array(over).T]
        print(f"| {seed} | {len(over)} | {' | '.join(text)} |", flush=True)


def _nearest_on_labels(structures: Structures, name: str, shaft: FloatArray) -> tuple[FloatArray, float]:
    """Direction from a shaft (n, 3) in view coordinates to the nearest point of a structure's label, and distance."""
    points = points_around(shaft[0], shaft[-1], _LABEL_REACH_MM, step_mm=0.25)
    inside = points[sample_mask(structures.masks[name], transform_points(structures.view.ViewToRAS, points)) >= 0.5]
    axis = unit(shaft[-1] - shaft[0])
    along = np.clip((inside - shaft[0]) @ axis, 0, None)
    way = inside - shaft[0] - along[:, None] * axis
    away = np.linalg.norm(way, axis=1)
    nearest = int(np.argmin(away))
    return way[nearest] / max(away[nearest], 1e-6), float(away[nearest])


def _naive(context: PlanningContext, like: Trajectory, rng: np.random.Generator) -> float:
    """Clearance of one pair as a loop over pairs measures it."""
    ends = [point + rng.normal(0, 3, 3) for point in (like.entry_bone, like.target)]
    return min(context.clearance_mm(*ends, like.needle, like.side).values())


def report(tally: Tally) -> None:
    """The totals."""
    real = np.array(tally.true_mm)
    print(f"\n{tally.sides} sides, {tally.planned} with an accepted trajectory")
    if len(real):
        over = np.array(tally.over_mm)
        print(
            f"accepted trajectories: {len(real)}; true clearance >= 3 mm: {np.count_nonzero(real >= 3.0)}, least "
            f"{real.min():.2f} mm; reported minus true: mean {over.mean():+.2f}, most {over.max():+.2f} mm"
        )
        inside = [RULE_MM[0] <= value <= RULE_MM[1] for value in tally.rule_mm]
        print(f"chosen entry truly 15 to 20 mm lateral to the S2 foramen: {sum(inside)} of {len(inside)}")
    print(f"refused for: {', '.join(f'{name} {count}' for name, count in tally.refused.most_common())}")
    countable = np.array([pair for pair in tally.breach if pair[1] >= _COUNTABLE])
    if len(countable):
        ratio = countable[:, 0] / countable[:, 1]
        scatter = 2 * np.sqrt((1 - countable[:, 1]) / (countable[:, 1] * tally.draws))
        print(
            f"breach, predicted / counted, {len(ratio)} with at least {_COUNTABLE:.0%}: mean {ratio.mean():.3f}, "
            f"within 10 %: {np.mean(np.abs(ratio - 1) <= 0.1):.1%}, within 10 % and the scatter of the count: "
            f"{np.mean(np.abs(ratio - 1) <= 0.1 + scatter):.1%}, range {ratio.min():.2f} to {ratio.max():.2f}"
        )
        rest = np.array([pair for pair in tally.breach if pair[1] < _COUNTABLE])
        if len(rest):
            print(f"below that, {len(rest)}: largest difference {np.abs(rest[:, 0] - rest[:, 1]).max():.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Plans against synthetic patients.")
    parser.add_argument("seeds", nargs="*", type=int, help=f"default {SEEDS[0]} to {SEEDS[-1]}")
    parser.add_argument("--cache", type=Path, help="folder of phantoms with their anatomy")
    parser.add_argument("--breach", action="store_true", help="compare probabilities with draws")
    parser.add_argument("--draws", type=int, default=_DRAWS, help=f"of each probability, default {_DRAWS}")
    parser.add_argument("--time", action="store_true", help="measure time only")
    parser.add_argument("--fields", action="store_true", help="compare distances with those of finely sampled labels")
    asked = parser.parse_args()
    seeds = asked.seeds or list(SEEDS)
    if asked.time:
        measure_time(seeds, asked.cache)
        return
    if asked.fields:
        measure_fields(seeds, asked.cache)
        return
    tally, no_anatomy = Tally(draws=asked.draws), 0
    print(
        "| patient | voxels | accepted | reported mm | true mm, least of all | entry lateral to S2 mm |\n"
        + "|---" * 6
        + "|"
    )
    for seed in seeds:
        try:
            context = PlanningContext(*patient(seed, asked.cache))
        except SacroplastyError as error:
            no_anatomy += 1
            print(f"| {seed} | segmentation refused: {error} | | | | |", flush=True)
            continue
        truth = PhantomTruth(seed)
        for side in SIDES:
            try:
                if asked.breach:
                    items = [item for item in plan_trajectories(context, (side,)).trajectories if item.accepted]
                    for item in items[:2]:
                        breach(context, item, seed, tally)
                else:
                    print(measure_side(seed, side, context, truth, tally), flush=True)
            except SacroplastyError as error:
                tally.sides += 1
                tally.refused["anatomy"] += 1
                print(f"| {seed} {side} | {error} | | | | |", flush=True)
    report(tally)
    print(f"{no_anatomy} patients refused by segmentation")


if __name__ == "__main__":
    main()
