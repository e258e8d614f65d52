"""From a rough place to the patient's shape: affine first, then a lattice that bends ever more finely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...geometry import FloatArray
from ...image import Volume
from ..labels import BONE_LABEL
from .localize import Place
from .profiles import Edges, cortex_brightness, find_edges, line_offsets, sample_lines
from .template import SOLID_SACRUM, Template, vertex_normals

#: (reach of the search [mm], rounds) of the affine stage.
_AFFINE = ((18.0, 4), (12.0, 4), (9.0, 3))
#: (spacing of the lattice [mm], reach of the search [mm], rounds, stiffness, every how manieth vertex is looked at).
_LATTICES = ((45.0, 14.0, 5, 0.5, 4), (24.0, 12.0, 6, 0.3, 4), (14.0, 8.0, 6, 0.2, 3), (9.0, 5.0, 6, 0.1, 2))
#: (reach of the search [mm], stiffness) of the last rounds, in which every vertex moves along its normal.
_SURFACE = ((4.0, 2.0), (3.0, 1.0), (3.0, 0.5), (2.0, 0.5))

#: Surfaces that look at each other closer than this are a joint [mm]; the sacroiliac joint is 1 to 3 mm wide.
_JOINT_MM = 7.0
#: The disc between L5 and S1 is up to this high, with what it may be off at first [mm].
_DISC_MM = 16.0
#: Cosine between the normals of two surfaces that look at each other, and by how much they may overlap [mm].
_OPPOSITE, _OVERLAP_MM = -0.5, 4.0


@dataclass(frozen=True)
class Fit:
    """The template on the patient's bones.

    Attributes:
        points_ras: vertices (n, 3).
        evidence: how clearly the image shows the surface at each vertex (n,), 0 to 1.
        in_view: True at the vertices that lie within the image (n,).
    """

    points_ras: FloatArray
    evidence: FloatArray
    in_view: NDArray[np.bool_]


def fit(ct: Volume, template: Template, place: Place, tell: Callable[[float], None]) -> Fit:
    """Bend the template onto the bones of a CT, starting from a rough place."""
    points = place.apply(template.points_mm)
    search = _Search(ct, template)
    for reach, rounds in _AFFINE:
        for _ in range(rounds):
            chosen, normals, edges = search(points, reach, 4)
            points = points + _affine_step(points, chosen, normals, edges)
    for number, (spacing, reach, rounds, stiffness, stride) in enumerate(_LATTICES):
        lattice = Lattice(points, spacing)
        start = points
        nodes = np.zeros((lattice.size, 3))
        for _ in range(rounds):
            chosen, normals, edges = search(points, reach, stride)
            nodes = lattice.solve(nodes, chosen, normals, edges, stiffness)
            points = start + lattice.weights @ nodes
        tell((number + 1) / (len(_LATTICES) + 1))
    laplacian = _surface_laplacian(template)
    follower = template.leader >= 0
    for reach, stiffness in _SURFACE:
        chosen, normals, edges = search(points, reach, 1)
        offset, weight = np.zeros(len(points)), np.zeros(len(points))
        offset[chosen], weight[chosen] = edges.offset_mm, edges.weight
        offset, weight = offset[template.leader], np.where(follower, weight[template.leader], 0.0)
        normals = vertex_normals(points, template.triangles)
        points = points + _surface_step(laplacian, offset, weight, stiffness)[:, None] * normals
    kji = ct.kji_of(points)
    in_view = np.all((kji >= 0) & (kji <= np.array(ct.voxels.shape) - 1), axis=1)
    return Fit(points, weight, np.asarray(in_view))


class _Search:
    """Edges of bone near the vertices."""

    def __init__(self, ct: Volume, template: Template) -> None:
        self._ct, self._template = ct, template
        self._active = np.nonzero((template.bone != SOLID_SACRUM) & ~template.cut)[0]

    def __call__(self, points: FloatArray, reach_mm: float, stride: int) -> tuple[NDArray[np.intp], FloatArray, Edges]:
        """Vertices looked at (every `stride`-th), their outward normals, and the edges within reach along these."""
        chosen = self._active[::stride]
        normals = vertex_normals(points, self._template.triangles)[chosen]
        offsets = line_offsets(reach_mm)
        lines = sample_lines(self._ct, points[chosen], normals, offsets)
        bone = self._template.bone[chosen]
        sacrum, l5 = bone == BONE_LABEL["sacrum"], bone == BONE_LABEL["l5"]
        ahead = _facing(points[chosen], normals, sacrum, ~sacrum & ~l5, _JOINT_MM)
        joint = np.isfinite(ahead)
        disc = np.isfinite(_facing(points[chosen], normals, sacrum, l5, _DISC_MM))
        # Of two gaps, the joint is the one at the hip, whose thick cortex is seldom mistaken; a fracture of the ala is
        # the other.
        expected = np.where(joint & sacrum, np.clip(ahead, 0, _JOINT_MM), 0.0)
        edges = find_edges(lines, offsets, reach_mm, cortex_brightness(lines), joint, disc, expected)
        return chosen, normals, edges


def _facing(
    points: FloatArray, normals: FloatArray, one: NDArray[np.bool_], other: NDArray[np.bool_], within_mm: float
) -> FloatArray:
    """How far ahead of each point of either group the other group's surface lies across a joint; NaN elsewhere."""
    from scipy.spatial import cKDTree

    result = np.full(len(points), np.nan)
    for here, there in ((one, other), (other, one)):
        distance, nearest = cKDTree(points[there]).query(points[here], distance_upper_bound=within_mm)
        near = np.nonzero(np.isfinite(distance))[0]
        opposite = np.einsum("ij,ij->i", normals[here][near], normals[there][nearest[near]]) < _OPPOSITE
        towards = points[there][nearest[near]] - points[here][near]
        ahead = np.einsum("ij,ij->i", towards, normals[here][near])
        looks = opposite & (ahead > -_OVERLAP_MM)
        result[np.nonzero(here)[0][near[looks]]] = ahead[looks]
    return result


def _affine_step(points: FloatArray, chosen: NDArray[np.intp], normals: FloatArray, edges: Edges) -> FloatArray:
    """The affine displacement that brings the surface onto its edges, along the normals, in least squares."""
    center = points.mean(axis=0)
    local = np.column_stack([(points - center) / 50.0, np.ones(len(points))])
    design = (normals[:, :, None] * local[chosen, None, :]).reshape(len(chosen), 12)
    weighted = design * edges.weight[:, None]
    # A little resistance keeps directions that no edge tells of where they are.
    matrix = weighted.T @ design + (0.01 * edges.weight.sum() + 1e-6) * np.eye(12)
    solution = np.linalg.solve(matrix, weighted.T @ edges.offset_mm)
    return np.asarray(local @ solution.reshape(3, 4).T)


def _surface_step(laplacian: NDArray, offset: FloatArray, weight: FloatArray, stiffness: float) -> FloatArray:
    """Distance each vertex goes along its normal [mm]: to its edge, as far as its neighbors go along."""
    from scipy import sparse
    from scipy.sparse.linalg import cg

    system = sparse.diags(weight + 1e-3) + stiffness * laplacian
    return np.asarray(cg(system, weight * offset, rtol=1e-2, maxiter=100)[0])


def _surface_laplacian(template: Template) -> NDArray:
    """Graph Laplacian of the triangles' sides, each vertex weighing 1."""
    from scipy import sparse

    size = len(template.points_mm)
    sides = np.concatenate([template.triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    links = sparse.csr_matrix((np.ones(len(sides)), (sides[:, 0], sides[:, 1])), (size, size))
    links = ((links + links.T) > 0).astype(float)
    degree = np.asarray(links.sum(axis=1)).ravel()
    scale = sparse.diags(1 / np.sqrt(np.maximum(degree, 1)))
    return sparse.diags((degree > 0).astype(float)) - scale @ links @ scale


class Lattice:
    """Displacements at the nodes of a cubic lattice around points, interpolated linearly between them."""

    def __init__(self, points: FloatArray, spacing_mm: float) -> None:
        from scipy import sparse

        low = points.min(axis=0) - spacing_mm
        scaled = (points - low) / spacing_mm
        base = np.floor(scaled).astype(int)
        part = scaled - base
        shape = base.max(axis=0) + 2
        rows, nodes, values = [], [], []
        for corner in np.ndindex(2, 2, 2):
            nodes.append(np.ravel_multi_index(tuple((base + corner).T), tuple(shape)))
            values.append(np.prod(np.where(corner, part, 1 - part), axis=1))
            rows.append(np.arange(len(points)))
        used, index = np.unique(np.concatenate(nodes), return_inverse=True)
        self.size = len(used)
        self.weights = sparse.csr_matrix(
            (np.concatenate(values), (np.concatenate(rows), index)), (len(points), self.size)
        )
        self._bending = _bending(used, tuple(shape))

    def solve(
        self, nodes: FloatArray, chosen: NDArray[np.intp], normals: FloatArray, edges: Edges, stiffness: float
    ) -> FloatArray:
        """Nodes that move the chosen points by `offset_mm` along their normals from where `nodes` had them."""
        from scipy.sparse.linalg import LinearOperator, cg

        weights, bending = self.weights[chosen], self._bending
        transposed = weights.T.tocsr()
        strength = stiffness * len(chosen) / self.size
        w = edges.weight

        def along(flat: NDArray) -> FloatArray:
            return np.einsum("ij,ij->i", normals, weights @ flat.reshape(-1, 3))

        def apply(flat: NDArray) -> FloatArray:
            pushed = transposed @ ((w * along(flat))[:, None] * normals)
            return np.asarray((pushed + strength * (bending @ flat.reshape(-1, 3))).ravel())

        target = edges.offset_mm + along(nodes.ravel())
        right = (transposed @ ((w * target)[:, None] * normals)).ravel()
        size = nodes.size
        solution, _ = cg(LinearOperator((size, size), apply), right, x0=nodes.ravel(), rtol=2e-2, maxiter=40)
        return np.asarray(solution.reshape(-1, 3))


def _bending(nodes: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray:
    """Squared graph Laplacian of the nodes in use: zero for a common shift, small for a smooth bend."""
    from scipy import sparse

    position = np.stack(np.unravel_index(nodes, shape), axis=1)
    place = {tuple(p): n for n, p in enumerate(position.tolist())}
    first, second = [], []
    for n, p in enumerate(position.tolist()):
        for axis in range(3):
            neighbor = place.get((p[0] + (axis == 0), p[1] + (axis == 1), p[2] + (axis == 2)))
            if neighbor is not None:
                first.append(n)
                second.append(neighbor)
    size = len(nodes)
    links = sparse.csr_matrix((np.ones(len(first)), (first, second)), (size, size))
    links = links + links.T
    laplacian = sparse.diags(np.asarray(links.sum(axis=1)).ravel()) - links
    return (laplacian.T @ laplacian + 0.02 * laplacian).tocsr()
