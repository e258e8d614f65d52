"""Plans on CTs painted from 30 real sacra, judged by their surface meshes.

Run: python Testing/benchmarks/planning_on_real_sacra.py [--bones labels] [numbers ...]
Meshes of S1 to S3 and of both hips (JHU pelvis atlas, Han 2019, doi 10.1088/1361-6560/ab1456) are painted as CTs, the
built-in method finds their bones, and the planner plans. With `--bones labels` the bones are the meshes' own voxels, so
that the planner's part can be told from the built-in method's. True is the distance of the shaft from the mesh: from
all of the sacrum's surface that does not face the back (front, edges, walls of canal and foramina), and from the hips.
Of the atlas the patients 1, 4, 7, ... (counted from 0) had no part in the built-in method. A minute or two for each.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
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
from sacroplasty.anatomy.segment import find_structures
from sacroplasty.anatomy.surroundings import axis_of_foramina
from sacroplasty.errors import SacroplastyError
from sacroplasty.geometry import FloatArray, flip_lps_ras, unit
from sacroplasty.image import Volume
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.model import Trajectory
from sacroplasty.planning.search import plan_trajectories

_FACES_BACK = 0.2
#: Triangles are cut until no edge is longer [mm].
_EDGE_MM = 0.7
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


def read_surface(patient: str, name: str) -> Surface:
    """A mesh of the atlas, densely sampled."""
    corners, triangles = _read_mesh(_mesh_file(patient, name))
    faces = flip_lps_ras(corners)[triangles]
    faces = faces[np.linalg.norm(faces - np.roll(faces, 1, axis=1), axis=2).max(axis=1) <= _LONGEST_EDGE_MM]
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


def true_clearance_mm(
    item: Trajectory, sacrum: Surface, hips: list[cKDTree], back: FloatArray
) -> dict[str, tuple[float, float]]:
    """Distance of the shaft's surface from what it must not touch, and how deep below the entry into bone that is."""
    outwards = unit(item.entry_skin - item.target)
    inside = np.linalg.norm(item.entry_bone - item.target)
    bony = item.target + np.arange(0, inside, 0.25)[:, None] * outwards
    whole = item.target + np.arange(0, min(item.length_mm, inside + 60), 0.25)[:, None] * outwards
    wall = sacrum.points[sacrum.normals @ back < _FACES_BACK]
    near = wall[cKDTree(bony[::8]).query(wall, distance_upper_bound=12.0)[0] < 12.0]
    distances = {
        "sacrum": cKDTree(near).query(bony)[0] if len(near) else np.full(len(bony), 12.0),
        "hips": np.min([tree.query(whole)[0] for tree in hips], axis=0),
    }
    return {
        name: (float(values.min()) - item.needle.radius_mm, float(inside - 0.25 * values.argmin()))
        for name, values in distances.items()
    }


def in_mesh(point: FloatArray, sacrum: Surface) -> bool:
    """Whether the nearest surface point faces away from a point."""
    nearest = int(cKDTree(sacrum.points).query(point)[1])
    return bool((point - sacrum.points[nearest]) @ sacrum.normals[nearest] < 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Plans on CTs painted from real sacra.")
    parser.add_argument(
        "numbers", nargs="*", type=int, help="of the patients in the atlas, counted from 0; default all"
    )
    parser.add_argument("--bones", choices=("atlas", "labels"), default="atlas", help="by the built-in method or exact")
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
    real: list[float] = []
    refused: Counter[str] = Counter()
    sides = planned = 0
    for number in order:
        patient, look = patients[number], draw_look(500 + number)
        pelvis = jhu_pelvis(patient)
        ct = paint(pelvis, look, 500 + number, _SPACINGS_MM[number % 3]).ct
        try:
            exact = asked.bones == "labels"
            bones = bones_of_meshes(ct, patient, pelvis) if exact else find_bones(ct, BoneSource("atlas"))
            anatomy = find_structures(ct, bones)
            anatomy = confirm(anatomy, to_confirm(anatomy, SIDES))
            context = PlanningContext(ct, anatomy)
            plan = plan_trajectories(context)
        except SacroplastyError as error:
            sides += 2
            refused.update({"segmentation": 2})
            print(f"| {patient} | both | refused: {error} | | | | |", flush=True)
            continue
        whole = read_surface(patient, "sacrum")
        sacrum = without_cut(whole)
        hips = [cKDTree(read_surface(patient, f"hip_{side}").points) for side in SIDES]
        back = axis_of_foramina(anatomy)
        for side in SIDES:
            sides += 1
            items = [item for item in plan.trajectories if item.side == side]
            accepted = [item for item in items if item.accepted]
            if not accepted:
                reasons = plan.blocked.get(side) or (items[0].reasons if items else ("nothing found",))
                names = {reason.split(":")[0] for reason in reasons}
                refused.update(names)
                print(f"| {patient} | {side} | refused: {', '.join(sorted(names))} | | | | |", flush=True)
                continue
            planned += 1
            least: list[tuple[float, float, str]] = []
            for item in accepted:
                clearance = true_clearance_mm(item, sacrum, hips, back)
                if not in_mesh(item.target, whole):
                    clearance["target not in the bone"] = (-1.0, 0.0)
                least.append(min((*place, name) for name, place in clearance.items()))
            real += [distance for distance, _, _ in least]
            nearest = min(least)
            print(
                f"| {patient} | {side} | {len(accepted)} | {min(accepted[0].clearance_mm.values()):.2f} | "
                f"{nearest[0]:.2f} {nearest[2]} | "
                f"{nearest[1]:.1f} | {np.count_nonzero([distance >= 3 for distance, _, _ in least])} |",
                flush=True,
            )
    values: NDArray = np.array(real)
    print(f"\n{len(order)} sacra, {sides} sides, {planned} with an accepted trajectory; refused for {dict(refused)}")
    if len(values):
        print(
            f"accepted trajectories: {len(values)}; true clearance >= 3 mm: {np.count_nonzero(values >= 3)}, least "
            f"{values.min():.2f} mm"
        )


if __name__ == "__main__":
    main()
