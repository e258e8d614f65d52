"""Digitally reconstructed radiographs: how much each ray of a C-arm is attenuated on its way to its pixel."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import GeometryError, ImageError
from ..geometry import FloatArray, transform_points, unit
from ..image import Volume, box_around
from .geometry import XrayGeometry

#: Linear attenuation at 60 keV, about the mean energy of a 75 to 100 kV beam behind a pelvis [1/mm].
#: Water, cortical bone (ICRU-44, 1.92 g/cm3) and steel 304 (8.0 g/cm3): Hubbell and Seltzer, NIST SRD 126, checked with
#: XrayDB 4.5.8. Cement: PMMA with 30 % barium sulphate in the powder, powder to liquid 2:1, without pores (XrayDB).
WATER_PER_MM = 0.0206
CORTICAL_BONE_PER_MM = 0.0604
STEEL_PER_MM = 0.947
CEMENT_PER_MM = 0.163

#: Hounsfield units of that cortical bone in a CT of 70 keV effective energy (0.4935 against 0.1929 /cm for water).
_CORTICAL_BONE_HU = 1559.0

#: Below this a voxel is air: scanner noise in air must not add up along half a metre.
_AIR_HU = -950.0

_Image = NDArray[np.float32]


def attenuation_from_hu(voxels: NDArray) -> _Image:
    """Linear attenuation in 1/mm at 60 keV of CT values.

    Two straight lines through air (0), water and cortical bone; bone gains on water as the energy falls from the CT's
    to the C-arm's, so the second line is steeper (as in Carney et al. 2006, doi 10.1118/1.2174132, the other way
    round). Values below -950 HU, padding outside the scanned circle among them, count as air.
    """
    hu = np.asarray(voxels, np.float32)
    slope_bone = (CORTICAL_BONE_PER_MM - WATER_PER_MM) / _CORTICAL_BONE_HU
    slopes = np.where(hu > 0, np.float32(slope_bone), np.float32(WATER_PER_MM / 1000))
    attenuation = np.float32(WATER_PER_MM) + hu * slopes
    attenuation[hu < _AIR_HU] = 0
    return attenuation


def line_integrals(attenuation: Volume, geometry: XrayGeometry) -> _Image:
    """Attenuation summed along the ray to each pixel's centre, float32 of shape (rows, columns), no unit.

    Joseph's method (IEEE Trans Med Imaging 1982;1:192): step through the volume slice by slice along the axis nearest
    to the rays, interpolate bilinearly in each slice. Outside the volume there is nothing. What lies behind the
    detector or the source does not count. The effort goes with the part that is not empty and with its shadow, so a
    small region costs little.

    Args:
        attenuation: voxels in 1/mm (see `attenuation_from_hu`).

    Raises:
        GeometryError: for an impossible geometry, or a source within the part of the volume that attenuates.
        ImageError: for voxels that are no numbers.
    """
    geometry.check()
    columns, rows = geometry.detector_pixels
    image: _Image = np.zeros((rows, columns), np.float32)
    voxels = np.asarray(attenuation.voxels)
    if not np.isfinite(voxels.sum(dtype=float)):
        raise ImageError("the volume to be projected holds values that are no numbers (NaN)")
    box = box_around(voxels)
    if box is None:
        return image
    first = np.array([span.start for span in box], float)
    # A rim of nothing, so that interpolation fades out at the border; the second layer at the far end makes clipped
    # coordinates read zero on both sides.
    crop = np.pad(voxels[box].astype(np.float32, copy=False), (1, 2))
    source = attenuation.kji_of(geometry.source_ras) - first + 1
    if ((source > 0) & (source < np.array(crop.shape) - 2)).all():
        raise GeometryError("the source lies inside the patient; move it away or correct the geometry")

    corner, along_u, along_v = attenuation.kji_of(geometry.pixel_ras([[0, 0], [1, 0], [0, 1]])) - first + 1
    along_u, along_v = along_u - corner, along_v - corner
    axis = int(np.argmax(np.abs((np.array(crop.shape) - 2) / 2 - source)))
    other_y, other_x = (number for number in range(3) if number != axis)
    slices = np.ascontiguousarray(np.moveaxis(crop, axis, 0))

    u, v = np.arange(columns), np.arange(rows)[:, None]
    ray = [(corner[number] - source[number]) + u * along_u[number] + v * along_v[number] for number in range(3)]
    advance = np.where(np.abs(ray[axis]) < 1e-6, 1e-6, ray[axis])
    slope_y = (ray[other_y] / advance).astype(np.float32)
    slope_x = (ray[other_x] / advance).astype(np.float32)

    windows, partly_hidden = _shadows(slices, axis, (other_y, other_x), attenuation, first, geometry)
    count_y, count_x = slices.shape[1:]
    for number, window in windows.items():
        depth = number - source[axis]
        x = np.clip(slope_x[window] * np.float32(depth) + np.float32(source[other_x]), 0, count_x - 2)
        y = np.clip(slope_y[window] * np.float32(depth) + np.float32(source[other_y]), 0, count_y - 2)
        column, row = x.astype(np.intp), y.astype(np.intp)
        x -= column
        y -= row
        row *= count_x
        row += column
        values = slices[number].ravel()
        upper = values.take(row, mode="clip")
        upper += x * (values[1:].take(row, mode="clip") - upper)
        row += count_x
        lower = values.take(row, mode="clip")
        lower += x * (values[1:].take(row, mode="clip") - lower)
        lower -= upper
        lower *= y
        upper += lower
        if number in partly_hidden:
            fraction = depth / advance[window]
            upper[(fraction <= 0) | (fraction > 1)] = 0
        image[window] += upper
    image *= _ray_lengths_mm(geometry) / np.abs(advance)
    return image


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
    shadow = geometry.project(corners)
    if np.isnan(shadow).any():
        raise GeometryError("the tube reaches behind the X-ray source; correct its pose or the geometry")
    window = _window(shadow, rows, columns)
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


def _shadows(
    slices: _Image, axis: int, others: tuple[int, int], volume: Volume, first: FloatArray, geometry: XrayGeometry
) -> tuple[dict[int, tuple[slice, slice]], set[int]]:
    """For each slice that is not empty the window (rows, columns) of the detector that it can darken.

    Also the numbers of slices that lie partly behind the detector or the source.
    """
    filled = slices != 0
    rows_used, columns_used = filled.any(axis=2), filled.any(axis=1)
    numbers = np.flatnonzero(rows_used.any(axis=1))
    corners = np.empty((len(numbers), 4, 3))
    corners[:, :, axis] = numbers[:, None]
    for other, used in zip(others, (rows_used[numbers], columns_used[numbers]), strict=True):
        # Interpolation spreads a voxel over one index on either side.
        low = used.argmax(axis=1) - 1
        high = used.shape[1] - used[:, ::-1].argmax(axis=1)
        corners[:, :, other] = np.stack(
            [low, high, low, high] if other == others[0] else [low, low, high, high], axis=1
        )
    ras = volume.ras_of(corners - 1 + first)
    pixels = geometry.project(ras)
    heights = transform_points(geometry.RASToDetector, ras)[..., 2]
    hidden = ((heights < 0) | (heights >= geometry.source_in_detector_mm[2])).any(axis=1)
    columns, rows = geometry.detector_pixels
    windows = {}
    for number, corner_pixels in zip(numbers, pixels, strict=True):
        if np.isnan(corner_pixels).any():
            windows[int(number)] = (slice(0, rows), slice(0, columns))
            continue
        window = _window(corner_pixels, rows, columns)
        if window is not None:
            windows[int(number)] = window
    return windows, {int(number) for number in numbers[hidden]}


def _window(pixels_uv: FloatArray, rows: int, columns: int) -> tuple[slice, slice] | None:
    """Rows and columns of the detector around pixel coordinates (n, 2); None when they miss it."""
    u0, v0 = np.maximum(np.floor(pixels_uv.min(axis=0)).astype(int), 0)
    u1, v1 = np.minimum(np.ceil(pixels_uv.max(axis=0)).astype(int) + 1, [columns, rows])
    return (slice(v0, v1), slice(u0, u1)) if u0 < u1 and v0 < v1 else None


def _ray_lengths_mm(geometry: XrayGeometry) -> FloatArray:
    """Distance in mm of each pixel's centre from the source, shape (rows, columns)."""
    columns, rows = geometry.detector_pixels
    x, y, z = geometry.source_in_detector_mm
    across = np.arange(columns) * geometry.pixel_spacing_mm[0] - x
    down = np.arange(rows)[:, None] * geometry.pixel_spacing_mm[1] - y
    return np.sqrt(across**2 + down**2 + z**2)
