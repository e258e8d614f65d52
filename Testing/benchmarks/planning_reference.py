"""An exhaustive search on a fine grid, written apart from the planner: what a plan is measured against.

Labels are laid on a grid of 0.5 mm, distances are exact transforms, and every pair of an entry on 1 mm and a target on
1.5 mm is marched from tip to 60 mm behind its entry, by steps as long as the room that is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy import ndimage

from sacroplasty.anatomy.labels import BONE_LABEL, NERVE_BORDER, REGION_LABEL
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.geometry import FloatArray, invert_rigid, rigid, transform_points, unit
from sacroplasty.image import Volume

_GRID_MM = 0.5
_REACH_MM = 20.0
_JOINT_MM = 3.0
_BEHIND_MM = 60.0


@dataclass(frozen=True)
class Reference:
    """Fields of one side on a grid [left, back, up] of 0.5 mm.

    Attributes:
        distance_mm: from each structure by name.
        nearest_mm: from all of them.
        entries, targets: view points that the technique allows, (n, 3) and (m, 3).
        lateral_mm: of each entry from the S2 foramen edge.
    """

    ViewToRAS: FloatArray
    origin_mm: FloatArray
    distance_mm: dict[str, NDArray[np.float32]]
    nearest_mm: NDArray[np.float32]
    entries: FloatArray
    targets: FloatArray
    lateral_mm: FloatArray

    def best_slack_mm(self, needed_mm: float, lateral_mm: tuple[float, float] = (-99.0, 99.0)) -> float:
        """The most that any pair keeps beyond `needed_mm` from the axis; below zero when there is no corridor."""
        kept = (self.lateral_mm >= lateral_mm[0]) & (self.lateral_mm <= lateral_mm[1])
        if not kept.any() or not len(self.targets):
            return -np.inf
        found = _march(self.nearest_mm, self.origin_mm, self.entries[kept], self.targets, needed_mm, _GRID_MM)
        return float(found.max())

    def clearance_mm(self, name: str, skin: FloatArray, target: FloatArray) -> float:
        """Distance of an axis in RAS from one structure, as far as 60 mm and the bone behind the tip."""
        ends = transform_points(invert_rigid(self.ViewToRAS), np.stack([target, skin]))
        length = min(float(np.linalg.norm(ends[1] - ends[0])), 110.0)
        points = ends[0] + np.arange(0, length, 0.25)[:, None] * unit(ends[1] - ends[0])
        index = ((points - self.origin_mm) / _GRID_MM).T
        return float(ndimage.map_coordinates(self.distance_mm[name], index, order=1, mode="nearest").min())


def make_reference(anatomy: Anatomy, side: str) -> Reference:
    """The reference of one side for the short axis."""
    sign = 1.0 if side == "left" else -1.0
    left = anatomy.SacrumToRAS[:3, 0]
    ways = [
        unit(item.posterior.center_ras - item.anterior.center_ras)
        for name, item in anatomy.foramina.items()
        if "s4" not in name
    ]
    back = np.mean(ways, axis=0)
    back = unit(back - (back @ left) * left)
    ViewToRAS = rigid(np.column_stack([left, back, np.cross(left, back)]), anatomy.SacrumToRAS[:3, 3])
    RASToView = invert_rigid(ViewToRAS)
    low, high = np.array([-12.0, -50.0, -115.0]), np.array([80.0, 95.0, 30.0])
    if sign < 0:
        low[0], high[0] = -80.0, 12.0
    axes = [np.arange(a, b, _GRID_MM) for a, b in zip(low, high, strict=True)]
    shape = tuple(len(axis) for axis in axes)

    def laid(mask: NDArray, grid: Volume = anatomy.bones) -> NDArray[np.bool_]:
        """A mask at the grid points: share above one half."""
        RASToKJI = grid.RASToIJK[[2, 1, 0]]
        matrix = RASToKJI[:, :3] @ ViewToRAS[:3, :3] * _GRID_MM
        offset = RASToKJI[:, :3] @ transform_points(ViewToRAS, low) + RASToKJI[:, 3]
        return ndimage.affine_transform(mask.astype(np.float32), matrix, offset, output_shape=shape, order=1) >= 0.5

    regions = _border_to_nearest(anatomy)
    sacrum = laid(anatomy.bones.voxels == BONE_LABEL["sacrum"])
    nerves = {
        name: laid(regions == REGION_LABEL[name])
        for name in ("sacral_canal", *(f"foramen_s{level}_{side}" for level in (1, 2, 3, 4)))
    }
    hollow = np.logical_or.reduce(list(nerves.values()))
    other = "right" if side == "left" else "left"
    for level in (1, 2, 3, 4):
        hollow |= laid(regions == REGION_LABEL[f"foramen_s{level}_{other}"])
    hip = laid(anatomy.bones.voxels == BONE_LABEL[f"hip_{side}"])
    gap = ndimage.distance_transform_edt(~(sacrum | hollow)) * _GRID_MM <= 2.0
    closed = ndimage.distance_transform_edt(np.pad(gap, 8))[8:-8, 8:-8, 8:-8] * _GRID_MM > 2.0
    parts, _ = ndimage.label(~(sacrum | closed | hollow))
    solid = (parts != parts[0, -1, 0]) & ~hollow
    joint = _away(solid) <= _JOINT_MM
    joint &= (_away(hip) <= _JOINT_MM) & ~solid & ~hip
    hit = solid.any(axis=1)
    rear = np.where(hit, axes[1][::-1][np.argmax(solid[:, ::-1], axis=1)], np.nan)
    front = np.where(hit, axes[1][np.argmax(solid, axis=1)], np.nan)
    spread = rear[tuple(ndimage.distance_transform_edt(~hit, return_distances=False, return_indices=True))]
    outside = ~solid & (axes[1][None, :, None] < spread[:, None, :]) & ~hollow & ~hip & ~joint
    masks = nerves | {f"hip_{side}": hip, f"si_joint_{side}": joint, "anterior_cortex": outside}
    distance = {name: _away(mask) for name, mask in masks.items()}
    edges = {
        level: transform_points(RASToView, anatomy.foramina[f"foramen_{level}_{side}"].lateral_edge_ras)
        for level in ("s2", "s3")
    }
    beside = np.arange(6.0, 28.01, 1.0)
    height = np.arange(edges["s3"][2] - 4.0, edges["s2"][2] + 8.0, 1.0)
    lateral, up = (grid.ravel() for grid in np.meshgrid(beside, height, indexing="ij"))
    x = edges["s2"][0] + sign * lateral
    column, row = np.rint((x - low[0]) / _GRID_MM).astype(int), np.rint((up - low[2]) / _GRID_MM).astype(int)
    entries = np.column_stack([x, rear[column, row], up])
    known = np.isfinite(entries[:, 1])
    targets = _targets(anatomy, side, ViewToRAS, low, axes, front, rear)
    return Reference(
        ViewToRAS, low, distance, np.minimum.reduce(list(distance.values())), entries[known], targets, lateral[known]
    )


def _targets(
    anatomy: Anatomy, side: str, ViewToRAS: FloatArray, low: FloatArray, axes: list, front: NDArray, rear: NDArray
) -> FloatArray:
    """Points of the ala on 1.5 mm: its front three fifths, within 24 mm of the middle of S1's height."""
    ala = anatomy.regions.voxels == REGION_LABEL[f"ala_{side}"]
    grid = np.stack(np.meshgrid(*(axis[::3] for axis in axes), indexing="ij"), axis=-1).reshape(-1, 3)
    kji = anatomy.regions.kji_of(transform_points(ViewToRAS, grid))
    inside = ndimage.map_coordinates(ala.astype(np.float32), kji.T, order=1) > 0.5
    grid = grid[inside]
    column = np.rint((grid[:, 0] - low[0]) / _GRID_MM).astype(int)
    row = np.rint((grid[:, 2] - low[2]) / _GRID_MM).astype(int)
    part = (grid[:, 1] - front[column, row]) / (rear[column, row] - front[column, row])
    below = -transform_points(invert_rigid(anatomy.SacrumToRAS) @ ViewToRAS, grid)[:, 2]
    return grid[(part <= 0.6) & (np.abs(below - 12.0) <= 24.0)]


def _border_to_nearest(anatomy: Anatomy) -> NDArray:
    """Regions whose unsure border belongs to the nearest canal or foramen."""
    regions = anatomy.regions.voxels.copy()
    border = regions == REGION_LABEL[NERVE_BORDER]
    if border.any():
        open_space = (regions > 0) & (regions < REGION_LABEL[NERVE_BORDER])
        nearest = ndimage.distance_transform_edt(
            ~open_space, sampling=anatomy.regions.spacing_mm[::-1], return_distances=False, return_indices=True
        )
        regions[border] = regions[tuple(nearest)][border]
    return regions


def _away(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance from a mask's surface, which lies half a step outside of its outermost points."""
    if not mask.any():
        return np.full(mask.shape, _REACH_MM, np.float32)
    return np.minimum(ndimage.distance_transform_edt(~mask) * _GRID_MM - _GRID_MM / 2, _REACH_MM).astype(np.float32)


@njit(parallel=True, cache=True)
def _march(field, origin, entries, targets, needed, grid_mm):
    best = np.full(len(entries), -1000.0)
    n0, n1, n2 = field.shape
    for e in prange(len(entries)):
        for t in range(len(targets)):
            d0, d1, d2 = entries[e, 0] - targets[t, 0], entries[e, 1] - targets[t, 1], entries[e, 2] - targets[t, 2]
            length = np.sqrt(d0 * d0 + d1 * d1 + d2 * d2)
            # 12 mm of bone at least, and no more than 60 degrees off the foramina.
            if length < 12.0 or d1 / length < 0.5:
                continue
            d0, d1, d2 = d0 / length, d1 / length, d2 / length
            least, along = 1000.0, 0.0
            while along < length + 60.0:
                i = min(max(round((targets[t, 0] + along * d0 - origin[0]) / grid_mm), 0), n0 - 1)
                j = min(max(round((targets[t, 1] + along * d1 - origin[1]) / grid_mm), 0), n1 - 1)
                k = min(max(round((targets[t, 2] + along * d2 - origin[2]) / grid_mm), 0), n2 - 1)
                room = field[i, j, k] - needed
                if room < least:
                    least = room
                    if least < best[e]:
                        break
                along += max(0.5, 0.8 * (room - max(best[e], 0.0)))
            if least > best[e]:
                best[e] = least
    return best
