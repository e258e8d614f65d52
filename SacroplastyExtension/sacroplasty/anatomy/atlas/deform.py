"""From a rough place to the patient's shape: affine first, then a lattice that bends as finely as the image supports."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...geometry import FloatArray
from ...image import Volume
from ..labels import BONE_LABEL
from .localize import Place
from .profiles import Edges, cortex_brightness, find_edges, line_offsets, sample_lines
from .template import Template, vertex_normals

#: (reach of the search [mm], rounds) of the affine stage.
_AFFINE = ((18.0, 4), (12.0, 4), (9.0, 3))
#: (spacing of the lattice [mm], reach of the search [mm], rounds, stiffness).
_LATTICES = ((45.0, 14.0, 6, 0.5), (24.0, 12.0, 8, 0.3), (14.0, 8.0, 8, 0.2), (9.0, 5.0, 8, 0.1))

#: (reach of the search [mm], stiffness) of the last rounds, in which every vertex moves along its normal.
_SURFACE = ((4.0, 2.0), (3.0, 1.0), (3.0, 0.5), (2.0, 0.5))

#: Surfaces that look at each other closer than this are a joint [mm]; the sacroiliac joint is 1 to 3 mm wide.
_JOINT_MM = 7.0
#: Cosine between the normals of two surfaces that look at each other, and by how much they may overlap [mm].
_OPPOSITE, _OVERLAP_MM = -0.5, 4.0


def fit(ct: Volume, template: Template, place: Place, tell: Callable[[float], None]) -> FloatArray:
    """Vertices (n, 3) of the template on the patient's bones, RAS mm."""
    points = place.apply(template.points_mm)
    search = _Search(ct, template)
    for reach, rounds in _AFFINE:
        for _ in range(rounds):
            edges, normals = search(points, reach)
            points = points + _affine_step(points, normals, edges)
    for number, (spacing, reach, rounds, stiffness) in enumerate(_LATTICES):
        lattice = Lattice(points, spacing)
        start = points
        nodes = np.zeros((lattice.size, 3))
        for _ in range(rounds):
            edges, normals = search(points, reach)
            nodes = lattice.solve(nodes, normals, edges, stiffness)
            points = start + lattice.weights @ nodes
        tell((number + 1) / (len(_LATTICES) + 1))
    for reach, stiffness in _SURFACE:
        edges, normals = search(points, reach)
        points = points + _surface_step(template, edges, stiffness)[:, None] * normals
    return points


class _Search:
    """Edges of bone near the vertices; remembers how bright thick cortex is."""

    def __init__(self, ct: Volume, template: Template) -> None:
        self._ct, self._template = ct, template

    def __call__(self, points: FloatArray, reach_mm: float) -> tuple[Edges, FloatArray]:
        """Edges within reach along the outward normals, and these normals."""
        normals = vertex_normals(points, self._template.triangles)
        offsets = line_offsets(reach_mm)
        lines = sample_lines(self._ct, points, normals, offsets)
        edges = find_edges(lines, offsets, reach_mm, cortex_brightness(lines), self._facing(points, normals))
        return Edges(edges.offset_mm, np.where(self._template.cut, 0.0, edges.weight)), normals

    def _facing(self, points: FloatArray, normals: FloatArray) -> NDArray[np.bool_]:
        """True at the vertices that look at another bone across a joint."""
        from scipy.spatial import cKDTree

        result = np.zeros(len(points), bool)
        sacrum = self._template.bone == BONE_LABEL["sacrum"]
        for one, other in ((sacrum, ~sacrum), (~sacrum, sacrum)):
            distance, nearest = cKDTree(points[other]).query(points[one], distance_upper_bound=_JOINT_MM)
            near = np.nonzero(np.isfinite(distance))[0]
            opposite = np.einsum("ij,ij->i", normals[one][near], normals[other][nearest[near]]) < _OPPOSITE
            towards = points[other][nearest[near]] - points[one][near]
            ahead = np.einsum("ij,ij->i", towards, normals[one][near]) > -_OVERLAP_MM
            result[np.nonzero(one)[0][near[opposite & ahead]]] = True
        return result


def _affine_step(points: FloatArray, normals: FloatArray, edges: Edges) -> FloatArray:
    """The affine displacement that brings the surface onto its edges, along the normals, in least squares."""
    center = points.mean(axis=0)
    local = np.column_stack([(points - center) / 50.0, np.ones(len(points))])
    design = (normals[:, :, None] * local[:, None, :]).reshape(len(points), 12)
    weighted = design * edges.weight[:, None]
    # A little resistance keeps directions that no edge tells of where they are.
    matrix = weighted.T @ design + 0.01 * edges.weight.sum() * np.eye(12)
    solution = np.linalg.solve(matrix, weighted.T @ edges.offset_mm)
    return np.asarray(local @ solution.reshape(3, 4).T)


def _surface_step(template: Template, edges: Edges, stiffness: float) -> FloatArray:
    """Distance each vertex goes along its normal [mm]: to its edge, as far as its neighbors go along."""
    from scipy import sparse
    from scipy.sparse.linalg import cg

    laplacian = surface_laplacian(template)
    system = sparse.diags(edges.weight + 1e-3) + stiffness * laplacian
    return np.asarray(cg(system, edges.weight * edges.offset_mm, rtol=1e-3, maxiter=200)[0])


def surface_laplacian(template: Template) -> NDArray:
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
        self._count = len(points) / self.size

    def solve(self, nodes: FloatArray, normals: FloatArray, edges: Edges, stiffness: float) -> FloatArray:
        """Nodes that move the surface by `offset_mm` along its normals from where `nodes` had it, weakly bent."""
        from scipy.sparse.linalg import LinearOperator, cg

        weights, bending = self.weights, self._bending
        strength = stiffness * self._count
        w = edges.weight

        def residual_of(flat: NDArray) -> FloatArray:
            return np.einsum("ij,ij->i", normals, weights @ flat.reshape(-1, 3))

        def apply(flat: NDArray) -> FloatArray:
            pushed = weights.T @ ((w * residual_of(flat))[:, None] * normals)
            return np.asarray((pushed + strength * (bending @ flat.reshape(-1, 3))).ravel())

        target = edges.offset_mm + residual_of(nodes.ravel())
        right = (weights.T @ ((w * target)[:, None] * normals)).ravel()
        size = nodes.size
        solution, _ = cg(LinearOperator((size, size), apply), right, x0=nodes.ravel(), rtol=1e-2, maxiter=80)
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
