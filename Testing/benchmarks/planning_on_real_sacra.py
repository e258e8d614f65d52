"""Plans on CTs painted from 30 real sacra, judged by their surface meshes.

Run: python Testing/benchmarks/planning_on_real_sacra.py [--bones labels] [--cache FOLDER] [numbers ...]
Meshes of S1 to S3 and of both hips (JHU pelvis atlas, Han 2019, doi 10.1088/1361-6560/ab1456) are painted as CTs, the
built-in method finds their bones, and the planner plans. With `--bones labels` the bones are the meshes' own voxels, so
that the planner's part can be told from the built-in method's. --cache keeps CTs with their anatomy (about 80 MB each).

True is the distance of the whole shaft from the hips and from the wall of the sacrum, on the triangles of the meshes.
A trocar may pass the sacrum's surface only where it faces the back: where the triangle's outward normal is within 78
degrees of the direction of the foramina and no triangle lies behind it. All other surface is wall, also beside the
entry: front, edges, joint surfaces, canal, foramina, flanks of crests.

Of the atlas the patients 1, 4, 7, ... (counted from 0) had no part in the built-in method. A minute or two for each.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pelvis_labels import (
    DATA,
    HIP_LEFT,
    HIP_RIGHT,
    L5,
    SACRUM,
    SACRUM_BELOW_S3,
    PelvisLabels,
    _read_mesh,
    jhu_patients,
    jhu_pelvis,
    voxelize,
)
from pseudo_ct import draw_look, paint
from scipy.spatial import cKDTree

from sacroplasty.anatomy.bone_sources import BoneSource, find_bones
from sacroplasty.anatomy.bones import LabelledBones, bones_from_labels
from sacroplasty.anatomy.confirmation import confirm, to_confirm
from sacroplasty.anatomy.labels import SIDES
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.segment import find_structures
from sacroplasty.anatomy.surroundings import axis_of_foramina
from sacroplasty.errors import SacroplastyError
from sacroplasty.geometry import FloatArray, flip_lps_ras, perpendicular, unit
from sacroplasty.image import Volume
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.model import Trajectory
from sacroplasty.planning.search import plan_trajectories

#: True clearance that an accepted trajectory must have [mm].
_NEEDED_MM = 3.0
#: Least part along the foramina of the normal of a surface that may be passed: the cosine of 78 degrees.
_FACES_BACK = 0.2
#: Triangles are cut until no edge is longer [mm].
_EDGE_MM = 0.7
#: Of walls farther from the axis nothing is told [mm].
_REACH_MM = 7.0
#: A triangle so little behind a point is the point's own or its neighbor [mm].
_SKIN_MM = 0.1
#: Hips of the atlas have a few triangles across the pelvis (up to 158 mm long), which are no bone; sacra have none.
_LONGEST_EDGE_MM = 20.0
_SPACINGS_MM = ((0.9, 0.9, 1.5), (1.0, 1.0, 1.0), (0.8, 0.8, 2.0))


@dataclass(frozen=True)
class Surface:
    """Points (n, 3) on a mesh in RAS and the normals of their triangles."""

    points: FloatArray
    normals: FloatArray


def _mesh_file(patient: str, name: str) -> Path:
    return DATA / "surfaces" / "jhu_pelvis_atlas" / f"patient{patient}_{name}.vtp"


def read_faces(patient: str, name: str) -> FloatArray:
    """Triangles (n, 3, 3) of a mesh of the atlas in RAS."""
    corners, triangles = _read_mesh(_mesh_file(patient, name))
    faces = flip_lps_ras(corners)[triangles]
    return faces[np.linalg.norm(faces - np.roll(faces, 1, axis=1), axis=2).max(axis=1) <= _LONGEST_EDGE_MM]


def sampled(faces: FloatArray) -> Surface:
    """A closed mesh of triangles (n, 3, 3), densely sampled."""
    # Turned half around the long axis, so triangles keep their sense; normals point out of the bone.
    normals = np.cross(faces[:, 1] - faces[:, 0], faces[:, 2] - faces[:, 0])
    area = np.linalg.norm(normals, axis=1)
    faces, normals = faces[area > 1e-9], normals[area > 1e-9] / area[area > 1e-9, None]
    volume = np.einsum("ij,ij->i", faces[:, 0], np.cross(faces[:, 1], faces[:, 2])).sum()
    normals *= np.sign(volume)
    points, directions = [], []
    for count in range(1, 14):
        edges = np.linalg.norm(faces - np.roll(faces, 1, axis=1), axis=2).max(axis=1)
        chosen = np.ceil(edges / _EDGE_MM).clip(1, 13) == count
        if not chosen.any():
            continue
        u, v = (grid.ravel() / count for grid in np.meshgrid(*[np.arange(count + 1)] * 2, indexing="ij"))
        kept = u + v <= 1 + 1e-9
        weights = np.column_stack([1 - u - v, u, v])[kept]
        points.append((weights[None, :, :, None] * faces[chosen][:, None]).sum(axis=2).reshape(-1, 3))
        directions.append(np.repeat(normals[chosen], len(weights), axis=0))
    return Surface(np.concatenate(points), np.concatenate(directions))


def bones_of_meshes(ct: Volume, patient: str, pelvis: PelvisLabels) -> LabelledBones:
    """The bones as a faultless label map on a painted CT's grid; what was invented is where it was painted."""
    nearest = [
        np.minimum(np.round(np.arange(count) * step).astype(int), last - 1)
        for count, step, last in zip(ct.voxels.shape, ct.spacing_mm[::-1], pelvis.labels.voxels.shape, strict=True)
    ]
    painted = pelvis.labels.voxels[np.ix_(*nearest)]
    labels = np.select([painted == L5, painted == SACRUM_BELOW_S3], [L5, SACRUM]).astype(np.uint8)
    origin = flip_lps_ras(ct.IJKToRAS[:3, 3])
    # As painted, the sacrum has what two meshes claim.
    for name, label in (("hip_left", HIP_LEFT), ("hip_right", HIP_RIGHT), ("sacrum", SACRUM)):
        corners, triangles = _read_mesh(_mesh_file(patient, name))
        labels[voxelize((corners - origin) / ct.spacing_mm, triangles, np.zeros(3), ct.voxels.shape)] = label
    return bones_from_labels(ct, ct.like(labels))


def without_cut(surface: Surface) -> Surface:
    """The surface without the plane through S3 at which the atlas ends, which is no cortex.

    Of all planes that face down, it is the one on which most of the lowest points lie.
    """
    angles = np.radians(np.arange(0, 81, 1.0))
    planes = [np.array([0.0, -np.sin(angle), -np.cos(angle)]) for angle in angles]
    down = max(
        planes, key=lambda plane: np.count_nonzero(surface.points @ plane > (surface.points @ plane).max() - 0.8)
    )
    below = surface.points @ down - (surface.points @ down).max()
    # It leans a little to the side.
    kept = (below < -1.5) & ~((below < 0) & (below > -8.0) & (surface.normals @ down > 0.9))
    return Surface(surface.points[kept], surface.normals[kept])


def covered(points: FloatArray, faces: FloatArray, back: FloatArray) -> NDArray[np.bool_]:
    """Whether a triangle (m, 3, 3) lies behind each of points (n, 3)."""
    across = perpendicular(back)
    frame = np.stack([across, np.cross(back, across), back])
    seen, corners = points @ frame.T, faces @ frame.T
    found = np.zeros(len(points), bool)
    for start in range(0, len(points), 500):
        part = seen[start : start + 500]
        low, high = part[:, :2].min(axis=0), part[:, :2].max(axis=0)
        flat = corners[..., :2]
        a, b, c = np.moveaxis(corners[((flat.min(axis=1) <= high) & (flat.max(axis=1) >= low)).all(axis=1)], 1, 0)
        double_area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
        usable = np.abs(double_area) > 1e-9
        a, b, c, double_area = a[usable], b[usable], c[usable], double_area[usable]
        x, y = part[:, None, 0] - a[:, 0], part[:, None, 1] - a[:, 1]
        u = (x * (c[:, 1] - a[:, 1]) - y * (c[:, 0] - a[:, 0])) / double_area
        v = (y * (b[:, 0] - a[:, 0]) - x * (b[:, 1] - a[:, 1])) / double_area
        depth = a[:, 2] + u * (b[:, 2] - a[:, 2]) + v * (c[:, 2] - a[:, 2])
        found[start : start + 500] = ((u >= 0) & (v >= 0) & (u + v <= 1) & (depth > part[:, None, 2] + _SKIN_MM)).any(
            axis=1
        )
    return found


def wall_near(
    shaft: FloatArray, sacrum: Surface, faces: FloatArray, back: FloatArray, reach_mm: float = _REACH_MM
) -> FloatArray:
    """Points (n, 3) near a shaft of the sacrum's surface that a trocar must not pass."""
    near = cKDTree(shaft).query(sacrum.points, distance_upper_bound=reach_mm)[0] < reach_mm
    points, normals = sacrum.points[near], sacrum.normals[near]
    wall = normals @ back < _FACES_BACK
    rest = np.flatnonzero(~wall)
    wall[rest] = covered(points[rest] + 0.02 * normals[rest], faces, back)
    return points[wall]


class MeshTruth:
    """The meshes of a patient, which planning never sees."""

    def __init__(self, patient: str, anatomy: Anatomy) -> None:
        self._faces = read_faces(patient, "sacrum")
        self._whole = sampled(self._faces)
        self._sacrum = without_cut(self._whole)
        self._hips = [cKDTree(sampled(read_faces(patient, f"hip_{side}")).points) for side in SIDES]
        back = axis_of_foramina(anatomy)
        assert back is not None
        self._back = back

    def clearance_mm(self, item: Trajectory, reach_mm: float = _REACH_MM) -> dict[str, tuple[float, float]]:
        """Distance of the shaft's surface from what it must not touch, and how deep below the entry into bone that is.

        Args:
            reach_mm: of walls farther from the axis nothing is told.
        """
        outwards = unit(item.entry_skin - item.target)
        inside = float(np.linalg.norm(item.entry_bone - item.target))
        shaft = item.target + np.arange(0, min(item.length_mm, inside + 60), 0.25)[:, None] * outwards
        wall = wall_near(shaft, self._sacrum, self._faces, self._back, reach_mm)
        distances = {
            "sacrum": cKDTree(wall).query(shaft)[0] if len(wall) else np.full(len(shaft), reach_mm),
            "hips": np.min([tree.query(shaft)[0] for tree in self._hips], axis=0),
        }
        return {
            name: (float(values.min()) - item.needle.radius_mm, float(inside - 0.25 * values.argmin()))
            for name, values in distances.items()
        }

    def contains(self, point: FloatArray) -> bool:
        """Whether the nearest point of the sacrum's surface faces away from a point."""
        nearest = int(cKDTree(self._whole.points).query(point)[1])
        return bool((point - self._whole.points[nearest]) @ self._whole.normals[nearest] < 0)


def case_of(number: int, patient: str, exact: bool, cache: Path | None) -> PlanningContext:
    """CT and anatomy of a patient, from the cache where it has them; what a person would confirm is confirmed.

    Raises:
        SacroplastyError: when segmentation refuses the CT.
    """
    path = cache / f"{patient}_{'labels' if exact else 'atlas'}.pickle" if cache else None
    if path is not None and path.exists():
        ct, anatomy = pickle.loads(path.read_bytes())
    else:
        pelvis = jhu_pelvis(patient)
        ct = paint(pelvis, draw_look(500 + number), 500 + number, _SPACINGS_MM[number % 3]).ct
        try:
            bones = bones_of_meshes(ct, patient, pelvis) if exact else find_bones(ct, BoneSource("atlas"))
            anatomy = find_structures(ct, bones)
        except SacroplastyError as error:
            anatomy = error
        if path is not None:
            path.write_bytes(pickle.dumps((ct, anatomy), protocol=4))
    if isinstance(anatomy, SacroplastyError):
        raise anatomy
    return PlanningContext(ct, confirm(anatomy, to_confirm(anatomy, SIDES)))


@dataclass
class Tally:
    """What is counted over all sides."""

    sides: int = 0
    planned: int = 0
    near: int = 0
    true_mm: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


def measure(patient: str, context: PlanningContext, tally: Tally) -> None:
    """Plan both sides of a patient and print a row for each."""
    plan = plan_trajectories(context)
    truth = MeshTruth(patient, context.anatomy)
    for side in SIDES:
        tally.sides += 1
        items = [item for item in plan.trajectories if item.side == side]
        accepted = [item for item in items if item.accepted]
        if not accepted:
            reasons = plan.blocked.get(side) or (items[0].reasons if items else ("nothing found",))
            names = {reason.split(":")[0] for reason in reasons}
            tally.refused.update(names)
            print(f"| {patient} | {side} | refused: {', '.join(sorted(names))} | | | | |", flush=True)
            continue
        tally.planned += 1
        least: list[tuple[float, float, str]] = []
        for item in accepted:
            clearance = truth.clearance_mm(item)
            if not truth.contains(item.target):
                clearance["target not in the bone"] = (-1.0, 0.0)
            least.append(min((*place, name) for name, place in clearance.items()))
        tally.true_mm += [distance for distance, _, _ in least]
        nearest = min(least)
        tally.near += nearest[0] < _NEEDED_MM
        print(
            f"| {patient} | {side} | {len(accepted)} | {min(accepted[0].clearance_mm.values()):.2f} | "
            f"{nearest[0]:.2f} {nearest[2]} | {nearest[1]:.1f} | "
            f"{np.count_nonzero([distance >= _NEEDED_MM for distance, _, _ in least])} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Plans on CTs painted from real sacra.")
    parser.add_argument(
        "numbers", nargs="*", type=int, help="of the patients in the atlas, counted from 0; default all"
    )
    parser.add_argument("--bones", choices=("atlas", "labels"), default="atlas", help="by the built-in method or exact")
    parser.add_argument("--cache", type=Path, help="folder of CTs with their anatomy")
    asked = parser.parse_args()
    patients = jhu_patients()
    if not patients:
        sys.exit(f"the real sacra are not at {DATA}; see the data folder's description")
    # First those that had no part in the built-in method.
    order = asked.numbers or sorted(range(len(patients)), key=lambda number: (number % 3 != 1, number))
    print(
        "| patient | side | accepted | reported mm | true mm, least of all | there mm below entry | truly 3 mm |\n"
        + 7 * "|---"
        + "|"
    )
    tally = Tally()
    for number in order:
        try:
            measure(patients[number], case_of(number, patients[number], asked.bones == "labels", asked.cache), tally)
        except SacroplastyError as error:
            tally.sides += 2
            tally.refused.update({"segmentation": 2})
            print(f"| {patients[number]} | both | refused: {error} | | | | |", flush=True)
    values: NDArray = np.array(tally.true_mm)
    print(
        f"\n{len(order)} sacra, {tally.sides} sides, {tally.planned} with an accepted trajectory, {tally.near} with "
        f"one that is too near; refused for {dict(tally.refused)}"
    )
    if len(values):
        print(
            f"accepted trajectories: {len(values)}; true clearance >= {_NEEDED_MM:g} mm: "
            f"{np.count_nonzero(values >= _NEEDED_MM)}, least {values.min():.2f} mm"
        )


if __name__ == "__main__":
    main()
