"""Outlines of structures and trocars over an X-ray of known geometry, fast enough for live images.

The surface of each structure is sampled once. For a picture its points are projected onto a raster, and the rim of the
shadow is traced. Trocars and foramina, which are convex, are the hull of the shadows of their two ends. Each structure
is outlined by itself, so one that lies behind another keeps its whole outline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..anatomy.colors import color_of
from ..anatomy.labels import LEVELS, SIDES
from ..anatomy.model import Anatomy, Foramen, Opening
from ..errors import GeometryError
from ..geometry import FloatArray, perpendicular, unit
from ..image import Volume, box_around
from ..planning.model import Side, Trajectory
from .geometry import XrayGeometry
from .sight_lines import joint_of_sacrum

#: What is drawn of an anatomy, what must be spared first.
OVERLAID = (
    "sacral_canal",
    *(f"foramen_{level}_{side}" for level in LEVELS for side in SIDES),
    *(f"ala_{side}" for side in SIDES),
    *(f"si_joint_{side}" for side in SIDES),
)
#: Longest step between samples on a surface, and cell of the raster on the detector [mm]. Magnified 1.7 times, the
#: samples of the near and the far side of a structure together still lie closer than the cells.
_SAMPLE_MM, _CELL_MM = 0.9, 1.0
#: A cell that a shadow touches counts whole, which widens it by half a cell: after blurring by one cell, a straight rim
#: lies where the value is that of the normal distribution half a standard deviation inside.
_BLUR_CELLS, _RIM_LEVEL = 1.0, 0.6915
#: Loops that enclose less than this are crumbs of a label map, not structures [mm^2 on the detector].
_CRUMB_MM2 = 10.0
#: Points around each end of a shaft or a foramen.
_ROUND = 36

#: Pixel coordinates (n, 2) of a polyline, as column u and row v.
Polyline = FloatArray


@dataclass(frozen=True)
class Surface:
    """What a structure's outline is made of.

    Attributes:
        points_ras: (n, 3), close together on its surface; of a convex structure, on its edges.
        convex: whether the outline is the hull of the points' shadows.
    """

    name: str
    points_ras: FloatArray
    convex: bool = False


@dataclass(frozen=True)
class Outline:
    """The rim of a shadow on the picture, as closed polylines; none where the picture does not show the structure."""

    name: str
    polylines: tuple[Polyline, ...]


def surface_of(name: str, mask: Volume) -> Surface:
    """The surface of a structure; voxels that are not zero belong to it. Without any, it has no points."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    box = box_around(mask.voxels)
    if box is None:
        return Surface(name, np.zeros((0, 3)))
    voxels = np.pad((mask.voxels[box] != 0).astype(np.uint8), 1)
    image = vtk.vtkImageData()
    image.SetDimensions(*voxels.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(voxels.ravel(), deep=True))
    edges = vtk.vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, 0.5)
    edges.ComputeNormalsOff()
    edges.Update()
    mesh = edges.GetOutput()
    first = np.array([part.start for part in box]) - 1
    corners = mask.ras_of(vtk_to_numpy(mesh.GetPoints().GetData())[:, ::-1].astype(float) + first)
    triangles = vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    return Surface(name, _sampled(corners[triangles]))


def _sampled(triangles: FloatArray) -> FloatArray:
    """Points at most `_SAMPLE_MM` apart on triangles (n, 3 corners, 3)."""
    sides = np.linalg.norm(triangles - np.roll(triangles, 1, axis=1), axis=2).max(axis=1)
    parts = np.maximum(np.ceil(sides / _SAMPLE_MM).astype(int), 1)
    found = []
    for count in np.unique(parts):
        i, j = (grid.ravel() for grid in np.meshgrid(np.arange(count), np.arange(count)))
        within = i + j < count
        # Middles of a lattice of small triangles: no point falls on an edge that the next triangle samples as well.
        weights = (np.column_stack([i, j])[within] + 1 / 3) / count
        weights = np.column_stack([weights, 1 - weights.sum(axis=1)])
        found.append(np.einsum("wc,ncx->nwx", weights, triangles[parts == count]).reshape(-1, 3))
    return np.concatenate(found)


def foramen_surface(name: str, foramen: Foramen) -> Surface:
    """A foramen as the channel between the rims of its two openings."""
    rims = [_rim(opening) for opening in (foramen.anterior, foramen.posterior)]
    return Surface(name, np.concatenate(rims), convex=True)


def shaft_surface(name: str, start_ras: ArrayLike, end_ras: ArrayLike, diameter_mm: float) -> Surface:
    """A straight trocar.

    Raises:
        GeometryError: for ends that are no numbers or coincide; their pose is not known.
    """
    ends = np.array([start_ras, end_ras], float)
    if not np.isfinite(ends).all():
        raise GeometryError(f"an end of {name} is no number (NaN); is its pose known?")
    direction = unit(ends[1] - ends[0])
    across = perpendicular(direction)
    ring = _ellipse(across, np.cross(direction, across), diameter_mm / 2, diameter_mm / 2)
    return Surface(name, (ends[:, None] + ring).reshape(-1, 3), convex=True)


def _rim(opening: Opening) -> FloatArray:
    """Points around an opening. Its width runs from side to side, its height at a right angle to that."""
    normal = opening.normal_ras
    sideways = unit(np.array([1.0, 0.0, 0.0]) - normal[0] * normal)
    ring = _ellipse(sideways, np.cross(normal, sideways), opening.width_mm / 2, opening.height_mm / 2)
    return opening.center_ras + ring


def _ellipse(first: FloatArray, second: FloatArray, first_mm: float, second_mm: float) -> FloatArray:
    angles = np.linspace(0, 2 * np.pi, _ROUND, endpoint=False)[:, None]
    return first_mm * np.cos(angles) * first + second_mm * np.sin(angles) * second


def anatomy_surfaces(anatomy: Anatomy, names: Iterable[str] = OVERLAID) -> dict[str, Surface]:
    """Surfaces of those of the named structures that the anatomy has, in their order.

    Raises:
        GeometryError: for a name that is no structure.
    """
    surfaces = {}
    for name in names:
        if name not in OVERLAID:
            raise GeometryError(f"there is no structure {name!r} to be drawn over an X-ray")
        if name.startswith("foramen"):
            if name in anatomy.foramina:
                surfaces[name] = foramen_surface(name, anatomy.foramina[name])
            continue
        joint = name.removeprefix("si_joint_")
        mask = joint_of_sacrum(anatomy, joint) if joint in SIDES else anatomy.region(name)
        surface = surface_of(name, anatomy.regions.like(mask))
        if len(surface.points_ras):
            surfaces[name] = surface
    return surfaces


def outline(surface: Surface, geometry: XrayGeometry) -> Outline:
    """The rim of a surface's shadow. Parts at or behind the source plane have none."""
    pixels = geometry.project(surface.points_ras)
    seen = np.isfinite(pixels).all(axis=1)
    if surface.convex:
        return Outline(surface.name, (_hull(pixels),) if len(pixels) and seen.all() else ())
    spacing = np.array(geometry.pixel_spacing_mm)
    cells = pixels * spacing / _CELL_MM
    size = np.array(geometry.detector_pixels) * spacing / _CELL_MM
    # A little more than the picture, so that no line runs along its border.
    margin = 3.0
    cells = cells[seen & (cells > -margin).all(axis=1) & (cells < size + margin).all(axis=1)]
    if not len(cells):
        return Outline(surface.name, ())
    first = np.floor(cells.min(axis=0)).astype(int) - 4
    index = np.round(cells).astype(int) - first
    shadow = np.zeros(index.max(axis=0)[::-1] + 5, np.float32)
    shadow[index[:, 1], index[:, 0]] = 1.0
    loops = [(line + first) * _CELL_MM for line in _trace(shadow)]
    large = [loop for loop in loops if _area(loop) >= _CRUMB_MM2]
    return Outline(surface.name, tuple(loop / spacing for loop in large or loops))


def _hull(pixels: FloatArray) -> Polyline:
    from scipy.spatial import ConvexHull

    corners = pixels[ConvexHull(pixels).vertices]
    return np.vstack([corners, corners[:1]])


def _area(loop: FloatArray) -> float:
    x, y = loop.T
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2


def _trace(shadow: NDArray[np.float32]) -> list[FloatArray]:
    """Closed polylines (n, 2) as column, row around what a raster [row, column] marks with 1."""
    import vtk
    from scipy.ndimage import gaussian_filter
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    smooth = gaussian_filter(shadow, _BLUR_CELLS, mode="constant")
    image = vtk.vtkImageData()
    image.SetDimensions(shadow.shape[1], shadow.shape[0], 1)
    image.GetPointData().SetScalars(numpy_to_vtk(smooth.ravel(), deep=True))
    rim = vtk.vtkFlyingEdges2D()
    rim.SetInputData(image)
    rim.SetValue(0, _RIM_LEVEL)
    joined = vtk.vtkStripper()
    joined.SetInputConnection(rim.GetOutputPort())
    joined.JoinContiguousSegmentsOn()
    joined.SetMaximumLength(100000)
    joined.Update()
    mesh = joined.GetOutput()
    if not mesh.GetNumberOfLines():
        return []
    points = vtk_to_numpy(mesh.GetPoints().GetData())[:, :2].astype(float)
    offsets = vtk_to_numpy(mesh.GetLines().GetOffsetsArray())
    numbers = vtk_to_numpy(mesh.GetLines().GetConnectivityArray())
    return [points[numbers[start:end]] for start, end in pairwise(offsets)]


def trajectory_surfaces(trajectories: Mapping[Side, Trajectory]) -> dict[str, Surface]:
    """Planned trocars by side as `trajectory_left` and `trajectory_right`."""
    shafts = {}
    for side, item in trajectories.items():
        name = f"trajectory_{side}"
        shafts[name] = shaft_surface(name, item.entry_skin, item.target, item.outer_diameter_mm)
    return shafts


def outlines(surfaces: Mapping[str, Surface], geometry: XrayGeometry) -> list[Outline]:
    """The rims of several surfaces, each whole."""
    return [outline(surface, geometry) for surface in surfaces.values()]


def line_pixels(outline: Outline, geometry: XrayGeometry, width_pixels: float = 1.0) -> NDArray[np.bool_]:
    """Which of the picture's pixels (rows, columns) an outline of this width covers."""
    columns, rows = geometry.detector_pixels
    marked = np.zeros((rows, columns), bool)
    radius = max(width_pixels / 2, 0.5)
    reach = np.arange(-int(np.ceil(radius)), int(np.ceil(radius)) + 1)
    around = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
    around = around[np.hypot(*around.T) <= radius]
    for line in outline.polylines:
        steps = np.diff(line, axis=0)
        counts = np.maximum(np.ceil(np.abs(steps).max(axis=1) * 2).astype(int), 1)
        whole = np.repeat(np.arange(len(steps)), counts)
        part = (np.arange(len(whole)) - np.repeat(np.cumsum(counts) - counts, counts)) / np.repeat(counts, counts)
        at = np.round(line[whole] + part[:, None] * steps[whole]).astype(int)
        at = (at[:, None] + around).reshape(-1, 2)
        at = at[((at >= 0) & (at < [columns, rows])).all(axis=1)]
        marked[at[:, 1], at[:, 0]] = True
    return marked


def draw(
    gray: NDArray[np.uint8], outlines: Iterable[Outline], geometry: XrayGeometry, width_pixels: float = 2.0
) -> NDArray[np.uint8]:
    """The picture (rows, columns) with outlines in the structures' colors over it, (rows, columns, 3).

    Each line has a dark rim, so that it is seen on bright and on dark ground.
    """
    picture = np.repeat(np.asarray(gray, np.uint8)[..., None], 3, axis=2)
    items = list(outlines)
    for item in items:
        picture[line_pixels(item, geometry, width_pixels + 2.0)] = 0
    for item in items:
        picture[line_pixels(item, geometry, width_pixels)] = np.round(np.multiply(color_of(item.name), 255))
    return picture
