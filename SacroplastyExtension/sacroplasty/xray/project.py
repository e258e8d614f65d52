"""Digitally reconstructed radiographs: how much each ray of a C-arm is attenuated on its way to its pixel.

Joseph's method (IEEE Trans Med Imaging 1982;1:192): step through the volume slice by slice along the axis nearest to
the rays, interpolate bilinearly in each slice. Outside the volume there is nothing. What lies behind the detector or
the source does not count. With numba installed the loops are compiled (`compiled.py`); without it numpy does the same
(`slicewise.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import GeometryError
from ..geometry import FloatArray, unit
from ..image import Volume
from .geometry import XrayGeometry
from .materials import (
    CEMENT_PER_MM,
    CORTICAL_BONE_PER_MM,
    STEEL_PER_MM,
    WATER_PER_MM,
    attenuation_from_hu,
)
from .projectable import ProjectableVolume, as_projectable, compiled_loops
from .slicewise import integrate, slice_windows
from .threads import share, thread_count

__all__ = [
    "CEMENT_PER_MM",
    "CORTICAL_BONE_PER_MM",
    "STEEL_PER_MM",
    "WATER_PER_MM",
    "ProjectableVolume",
    "attenuation_from_hu",
    "cylinder_line_integrals",
    "line_integrals",
    "line_integrals_of_poses",
    "pixel_line_integrals",
]

_Image = NDArray[np.float32]


def line_integrals(
    attenuation: Volume | ProjectableVolume,
    geometry: XrayGeometry,
    region: tuple[slice, slice] | None = None,
    threads: int | None = None,
) -> _Image:
    """Attenuation summed along the ray to each pixel's centre, float32 of shape (rows, columns), no unit.

    The effort goes with the part that is not empty and with its shadow, so a small object costs little.

    Args:
        attenuation: voxels in 1/mm (see `attenuation_from_hu`); made ready once with `ProjectableVolume.of` when it is
            projected more than once.
        region: rows and columns of the detector to fill, with a start and a stop; by default all.
        threads: how many share the work (see `thread_count`).

    Raises:
        GeometryError: for an impossible geometry, a region off the detector, or a source within the part of the volume
            that attenuates.
        ImageError: for voxels that are no numbers.
    """
    geometry.check()
    columns, rows = geometry.detector_pixels
    down, across = region or (slice(0, rows), slice(0, columns))
    if not (0 <= down.start < down.stop <= rows and 0 <= across.start < across.stop <= columns):
        raise GeometryError(
            f"the region {down}, {across} does not lie on the detector of {rows} rows, {columns} columns"
        )
    image: _Image = np.zeros((down.stop - down.start, across.stop - across.start), np.float32)
    volume = as_projectable(attenuation)
    if volume.filled is None:
        return image
    rays = volume.rays(geometry).from_pixel(across.start, down.start)
    shadow = geometry.window_around(_corners_ras(volume.filled), (down, across))
    if shadow is None:
        return image
    loops = compiled_loops()
    if loops is not None:
        window = tuple(
            slice(span.start - first, span.stop - first)
            for span, first in zip(shadow, (down.start, across.start), strict=True)
        )
        loops.project_window(volume.packed(rays.axis), rays, image, window, thread_count(threads))
        return image
    v, u = np.indices(image.shape)
    ways = rays.ways(u, v)
    windows = slice_windows(volume.filled, rays, geometry, (down, across))
    integrate(volume.rimmed(rays.axis), rays, ways, image, windows)
    image *= rays.lengths_mm(ways) / np.abs(ways[rays.axis])
    return image


def pixel_line_integrals(
    attenuation: Volume | ProjectableVolume,
    geometry: XrayGeometry,
    pixels_uv: ArrayLike,
    threads: int | None = None,
) -> _Image:
    """Line integrals (n,) of some pixels (n, 2) alone, columns u and rows v, whole numbers or not.

    For a registration that compares where there is something to compare; else as `line_integrals`.

    Raises:
        GeometryError: as there, and for pixels that are no numbers.
    """
    geometry.check()
    pixels = np.ascontiguousarray(pixels_uv, float).reshape(-1, 2)
    if not np.isfinite(pixels).all():
        raise GeometryError("pixels to be projected are no numbers (NaN); leave out points behind the source")
    volume = as_projectable(attenuation)
    if volume.filled is None:
        return np.zeros(len(pixels), np.float32)
    rays = volume.rays(geometry)
    loops = compiled_loops()
    if loops is not None:
        return loops.project_pixels(volume.packed(rays.axis), rays, pixels, thread_count(threads))
    values = np.zeros(len(pixels), np.float32)
    ways = rays.ways(pixels[:, 0], pixels[:, 1])
    integrate(volume.rimmed(rays.axis), rays, ways, values, None)
    values *= rays.lengths_mm(ways) / np.abs(ways[rays.axis])
    return values


def line_integrals_of_poses(
    attenuation: Volume | ProjectableVolume, geometries: Sequence[XrayGeometry], threads: int | None = None
) -> _Image:
    """Line integrals of many poses with one detector size, float32 of shape (poses, rows, columns).

    Each thread takes a pose at a time, which for small images is faster than sharing each.

    Raises:
        GeometryError: as `line_integrals`, and for detectors of different sizes.
    """
    sizes = {geometry.detector_pixels for geometry in geometries}
    if len(sizes) != 1:
        raise GeometryError(f"a batch needs one detector size, not {sorted(sizes)}")
    columns, rows = sizes.pop()
    volume = as_projectable(attenuation)
    images: _Image = np.empty((len(geometries), rows, columns), np.float32)

    def part(number: int) -> None:
        images[number] = line_integrals(volume, geometries[number], threads=1)

    share(part, len(geometries), thread_count(threads))
    return images


def cylinder_line_integrals(
    geometry: XrayGeometry,
    start_ras: ArrayLike,
    end_ras: ArrayLike,
    outer_diameter_mm: float,
    inner_diameter_mm: float = 0.0,
    attenuation_per_mm: float = STEEL_PER_MM,
) -> _Image:
    """Line integrals of a straight tube, a trocar or a guide wire, float32 of shape (rows, columns).

    Exact chords through the wall, averaged over 3 x 3 rays per pixel, since a wall is thinner than a pixel.

    Args:
        inner_diameter_mm: of the bore; zero for a solid rod (a trocar with its stylet).

    Raises:
        GeometryError: for an impossible geometry, or a tube that reaches behind the source.
    """
    geometry.check()
    columns, rows = geometry.detector_pixels
    image: _Image = np.zeros((rows, columns), np.float32)
    ends = np.array([start_ras, end_ras], float)
    if not np.isfinite(ends).all():
        raise GeometryError("an end of the tube is no number (NaN); is its pose known?")
    if not 0 <= inner_diameter_mm < outer_diameter_mm:
        raise GeometryError(f"a tube of {outer_diameter_mm} mm cannot have a bore of {inner_diameter_mm} mm")
    direction = unit(ends[1] - ends[0])
    radius = outer_diameter_mm / 2
    corners = np.concatenate([ends + np.multiply(radius, offset) for offset in product((-1, 1), repeat=3)])
    if np.isnan(geometry.project(corners)).any():
        raise GeometryError("the tube reaches behind the X-ray source; correct its pose or the geometry")
    window = geometry.window_around(corners)
    if window is None:
        return image

    sub = (np.arange(3) - 1) / 3
    u = (np.arange(window[1].start, window[1].stop)[:, None] + sub).ravel()
    v = (np.arange(window[0].start, window[0].stop)[:, None] + sub).ravel()
    pixels = np.stack(np.broadcast_arrays(u[None, :], v[:, None]), axis=-1)
    source = geometry.source_ras
    rays = geometry.pixel_ras(pixels) - source
    lengths = np.linalg.norm(rays, axis=-1)
    rays /= lengths[..., None]
    wall = _chord(source, rays, lengths, ends, direction, radius)
    if inner_diameter_mm > 0:
        wall -= _chord(source, rays, lengths, ends, direction, inner_diameter_mm / 2)
    height, width = window[0].stop - window[0].start, window[1].stop - window[1].start
    image[window] = attenuation_per_mm * wall.reshape(height, 3, width, 3).mean(axis=(1, 3))
    return image


def _chord(
    source: FloatArray, rays: FloatArray, lengths: FloatArray, ends: FloatArray, direction: FloatArray, radius: float
) -> FloatArray:
    """Length in mm of unit rays (..., 3) from `source` within a solid cylinder with flat ends."""
    to_source = source - ends[0]
    along_ray = rays @ direction
    along_source = float(to_source @ direction)
    # Quadratic in the distance from the source, for the part at a right angle to the cylinder's axis.
    a = 1 - along_ray**2
    b = rays @ to_source - along_ray * along_source
    c = float(to_source @ to_source) - along_source**2 - radius**2
    root = b**2 - a * c
    height = float(np.linalg.norm(ends[1] - ends[0]))
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.sqrt(np.maximum(root, 0)) / a
        enter, leave = -b / a - half, -b / a + half
        cap_0, cap_1 = -along_source / along_ray, (height - along_source) / along_ray
    parallel = a < 1e-12
    enter = np.where(parallel, -np.inf if c <= 0 else np.inf, np.where(root > 0, enter, np.inf))
    leave = np.where(parallel, np.inf, leave)
    across = np.abs(along_ray) < 1e-12
    between_caps = 0 <= along_source <= height
    cap_enter = np.where(across, -np.inf if between_caps else np.inf, np.minimum(cap_0, cap_1))
    cap_leave = np.where(across, np.inf, np.maximum(cap_0, cap_1))
    near = np.maximum(np.maximum(enter, cap_enter), 0)
    far = np.minimum(np.minimum(leave, cap_leave), lengths)
    return np.maximum(far - near, 0)


def _corners_ras(filled: Volume) -> FloatArray:
    """Corners (8, 3) of all that a volume can darken: interpolation spreads a voxel over one index on either side."""
    last = np.array(filled.voxels.shape)
    return filled.ras_of(np.array([np.where(choice, last, -1) for choice in product((0, 1), repeat=3)]))
