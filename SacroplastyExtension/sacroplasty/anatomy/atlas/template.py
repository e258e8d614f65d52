"""The average pelvis: a surface of every bone, with the frame it stands in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...geometry import FloatArray
from ..labels import BONE_LABEL

#: Label of the surface of the sacrum with canal and foramina filled.
SOLID_SACRUM = 5
#: Vertices of the solid sacrum that lie this near to one of the sacrum are on its surface [mm].
_SAME_SURFACE_MM = 2.0
_FILE = Path(__file__).with_name("average_pelvis.npz")


@dataclass(frozen=True)
class Template:
    """Surfaces of sacrum, L5 and hips of the average synthetic pelvis (Utilities/make_pelvis_atlas.py).

    Attributes:
        points_mm: vertices (n, 3) along the body's right, anterior, superior, from the middle of the S1 endplate, as a
            patient with the average sacral slope lies in a scanner.
        triangles: indices (m, 3), corners in outward order.
        bone: label of `labels.BONES` of each vertex (n,).
        cut: True where the average pelvis ends and bone goes on (n,).
        leader: index (n,) of the vertex whose edge each vertex takes: its own, for the solid sacrum the nearest of the
            sacrum, -1 over the mouths of canal and foramina, where there is no bone.
        channel_wall: True at vertices of the sacrum that line the canal or a foramen (n,).
    """

    points_mm: FloatArray
    triangles: NDArray[np.int64]
    bone: NDArray[np.uint8]
    cut: NDArray[np.bool_]
    leader: NDArray[np.int64]
    channel_wall: NDArray[np.bool_]

    def triangles_of(self, label: int) -> NDArray[np.int64]:
        return self.triangles[self.bone[self.triangles[:, 0]] == label]


@cache
def average_pelvis() -> Template:
    from scipy.spatial import cKDTree

    with np.load(_FILE) as data:
        points, bone = data["points_hundredth_mm"] / 100.0, data["bone"]
        triangles, cut = data["triangles"].astype(np.int64), data["cut"]
    sacrum, solid = (np.nonzero(bone == label)[0] for label in (BONE_LABEL["sacrum"], SOLID_SACRUM))
    leader = np.arange(len(points))
    distance, nearest = cKDTree(points[sacrum]).query(points[solid])
    leader[solid] = np.where(distance <= _SAME_SURFACE_MM, sacrum[nearest], -1)
    wall = np.zeros(len(points), bool)
    wall[sacrum] = cKDTree(points[solid]).query(points[sacrum])[0] > _SAME_SURFACE_MM
    return Template(points, triangles, bone, cut, leader, wall)


def vertex_normals(points: FloatArray, triangles: NDArray[np.int64]) -> FloatArray:
    """Outward unit normals (n, 3) of a surface, triangles weighted by their area."""
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    face = np.cross(b - a, c - a)
    normals = np.stack(
        [
            sum(np.bincount(triangles[:, corner], face[:, axis], len(points)) for corner in range(3))
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.asarray(normals / np.maximum(length, 1e-12))
