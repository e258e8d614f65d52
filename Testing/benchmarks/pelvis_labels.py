"""Real pelves as label maps on a 1 mm grid, to paint pseudo-CTs from: manual label maps, and atlas surfaces.

Axes of the grid: columns to the patient's left, rows to posterior, slices to superior.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sacroplasty.image import Volume, read_volume

Mask = NDArray[np.bool_]
Field = NDArray[np.float32]

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

SACRUM, L5, HIP_LEFT, HIP_RIGHT, SPINE, FEMUR, SACRUM_BELOW_S3, DISC, MUSCLE = range(1, 10)
BONES = {SACRUM: "sacrum", L5: "l5", HIP_LEFT: "hip_left", HIP_RIGHT: "hip_right"}

#: Height of L5 with its disc, from the S1 endplate on, to part it from the rest of the spine in the manual labels.
_L5_HEIGHT_MM = 36.0


@dataclass(frozen=True)
class PelvisLabels:
    """A labelled pelvis.

    Attributes:
        name: which patient.
        labels: uint8 codes of this module on a 1 mm grid.
        scored_bones: labels whose truth is good enough for a figure.
        scored: where the truth is known; False below S3 when the source ends there.
        midline_mm: where the middle of the sacrum is along the columns' axis.
    """

    name: str
    labels: Volume
    scored_bones: tuple[int, ...]
    scored: Mask

    def mask(self, *codes: int) -> Mask:
        return np.isin(self.labels.voxels, codes)

    @cached_property
    def sacrum_kji(self) -> NDArray[np.int64]:
        """Voxels of the sacrum, also of its unscored part."""
        return np.argwhere(self.mask(SACRUM, SACRUM_BELOW_S3))


def signed_distance(mask: Mask) -> Field:
    """Distance in voxels to the surface halfway between voxels, negative inside; 1000 without any voxel inside."""
    import SimpleITK as sitk

    if not mask.any():
        return np.full(mask.shape, 1000, np.float32)
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    field = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    # The map is zero on the outermost voxels inside.
    return sitk.GetArrayFromImage(field) - np.float32(0.5)


def manual_pelvis(number: int) -> PelvisLabels:
    """One of the two manually labelled patients (1 or 2): S1 to the coccyx, both hips, lumbar spine, muscles.

    The 3 mm slices are kept as they are, with two interpolated by shape between each two of them. The manual spine is
    one label, so L5 is only what lies within 36 mm of the sacrum, and is not scored.
    """
    volume = read_volume(DATA / "labels" / "pelvic_annotation" / f"patient_{number:03}.nrrd")
    codes = volume.voxels
    sacrum = np.argwhere(codes == 3)
    low, high = sacrum.min(axis=0), sacrum.max(axis=0)
    body = np.argwhere((codes > 0).any(axis=0))
    k = slice(max(low[0] - 8, 0), min(high[0] + 22, len(codes)))
    j = slice(max(body[:, 0].min() - 40, 0), min(body[:, 0].max() + 50, codes.shape[1]))
    i = slice(max(body[:, 1].min() - 40, 0), min(body[:, 1].max() + 40, codes.shape[2]))
    codes = codes[k, j, i]
    middle = float(sacrum[:, 2].mean()) - i.start
    left = np.arange(codes.shape[2]) > middle
    masks = {
        SACRUM: codes == 3,
        HIP_LEFT: (codes == 1) & left,
        HIP_RIGHT: (codes == 1) & ~left,
        SPINE: codes == 4,
        FEMUR: codes == 2,
        MUSCLE: codes >= 5,
    }
    labels = _between_slices(masks, 3)
    near = signed_distance(labels == SACRUM)
    labels[(labels == SPINE) & (near < _L5_HEIGHT_MM)] = L5
    IJKToRAS = volume.IJKToRAS.copy()
    IJKToRAS[:3, 3] = volume.ras_of([[k.start, j.start, i.start]])[0]
    IJKToRAS[:3, 2] /= 3
    return PelvisLabels(
        f"manual labels {number}",
        Volume(labels, IJKToRAS),
        (SACRUM, HIP_LEFT, HIP_RIGHT),
        np.ones(labels.shape, bool),
    )


def _between_slices(masks: dict[int, Mask], factor: int) -> NDArray[np.uint8]:
    """Labels with `factor` - 1 slices between each two, from distances; where several claim a voxel, the deepest."""
    shape = next(iter(masks.values())).shape
    count = (shape[0] - 1) * factor + 1
    labels = np.zeros((count, *shape[1:]), np.uint8)
    deepest = np.zeros(labels.shape, np.float32)
    for code, mask in masks.items():
        flat = np.stack([signed_distance_2d(section) for section in mask])
        for n in range(count):
            low, part = divmod(n, factor)
            field = flat[low] if not part else flat[low] + (flat[low + 1] - flat[low]) * (part / factor)
            take = field < deepest[n]
            labels[n][take], deepest[n][take] = code, field[take]
    return labels


def signed_distance_2d(section: Mask) -> Field:
    """In-plane distance in voxels, negative inside, at most 20 from the outline."""
    from scipy.ndimage import distance_transform_edt

    if not section.any():
        return np.full(section.shape, 20, np.float32)
    out, into = distance_transform_edt(~section), distance_transform_edt(section)
    return np.clip(np.where(section, 0.5 - into, out - 0.5), -20, 20).astype(np.float32)


def jhu_patients() -> list[str]:
    """Numbers of the patients of the surface atlas."""
    folder = DATA / "surfaces" / "jhu_pelvis_atlas"
    return [
        path.name.removesuffix("_sacrum.vtp").removeprefix("patient") for path in sorted(folder.glob("*_sacrum.vtp"))
    ]


def jhu_pelvis(patient: str) -> PelvisLabels:
    """A pelvis from surfaces of S1 to S3 and both hips, with an invented L5, disc and rest of the sacrum.

    What is invented is not scored: the truth is known for S1 to S3 and the hips.
    """
    folder = DATA / "surfaces" / "jhu_pelvis_atlas"
    meshes = {name: _read_mesh(folder / f"patient{patient}_{name}.vtp") for name in ("sacrum", "hip_left", "hip_right")}
    points = np.concatenate([mesh[0] for mesh in meshes.values()])
    sacrum = meshes["sacrum"][0]
    # LPS: x to the left, y posterior, z superior, as the grid's axes.
    low = np.floor([points[:, 0].min() - 45, points[:, 1].min() - 95, sacrum[:, 2].min() - 75])
    high = np.ceil([points[:, 0].max() + 45, max(points[:, 1].max(), sacrum[:, 1].max()) + 60, sacrum[:, 2].max() + 55])
    shape = tuple(int(n) for n in (high - low)[::-1] + 1)
    IJKToRAS = np.diag([-1.0, -1.0, 1.0, 1.0])
    IJKToRAS[:3, 3] = low * (-1, -1, 1)
    masks = {name: voxelize(*mesh, low, shape) for name, mesh in meshes.items()}
    origin, left, posterior, superior = _endplate(masks["sacrum"], low, meshes["hip_left"][0], meshes["hip_right"][0])
    z, y, x = np.meshgrid(
        *(np.arange(n, dtype=np.float32) + o for n, o in zip(shape, low[::-1], strict=True)), indexing="ij"
    )
    offset = [x - origin[0], y - origin[1], z - origin[2]]
    u, v, w = (sum(o * a for o, a in zip(offset, axis, strict=True)) for axis in (left, posterior, superior))
    rest, cut = _rest_of_sacrum(sacrum, masks["sacrum"], low, x, y, z)
    l5, disc = _l5(u, v, w, width_mm=_endplate_width(sacrum, origin, left, superior))
    labels = np.zeros(shape, np.uint8)
    away = signed_distance(masks["sacrum"])
    labels[disc & (away > 0)] = DISC
    labels[l5 & (away > 1.5)] = L5
    labels[rest] = SACRUM_BELOW_S3
    for name, code in (("hip_left", HIP_LEFT), ("hip_right", HIP_RIGHT), ("sacrum", SACRUM)):
        labels[masks[name]] = code
    return PelvisLabels(f"atlas patient {patient}", Volume(labels, IJKToRAS), (SACRUM, HIP_LEFT, HIP_RIGHT), ~cut)


def _read_mesh(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices (LPS mm) and triangles."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    reader = vtk.vtkXMLPolyDataReader()
    reader.SetFileName(str(path))
    triangles = vtk.vtkTriangleFilter()
    triangles.SetInputConnection(reader.GetOutputPort())
    triangles.Update()
    data = triangles.GetOutput()
    return (
        vtk_to_numpy(data.GetPoints().GetData()).astype(float),
        vtk_to_numpy(data.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64),
    )


def voxelize(
    points: NDArray[np.float64], triangles: NDArray[np.int64], origin: NDArray[np.float64], shape: tuple[int, ...]
) -> Mask:
    """Voxels of a 1 mm grid inside a surface with a few small holes.

    Rays along each of the three axes count crossings; two of three decide, so that a ray through a hole is outvoted.
    """
    votes = np.zeros(shape, np.uint8)
    local = points - origin
    for axis in range(3):
        others = [n for n in range(3) if n != axis]
        size = [shape[2 - n] for n in others]
        toggles = np.zeros((size[1], size[0], shape[2 - axis] + 1), np.int32)
        _count_crossings(local[triangles], axis, others, size, toggles)
        inside = np.cumsum(toggles[..., :-1], axis=2) % 2
        # toggles: [second other, first other, axis] -> k, j, i
        place = [None, None, None]
        place[2 - others[1]], place[2 - others[0]], place[2 - axis] = 0, 1, 2
        votes += np.transpose(inside, place).astype(np.uint8)
    from scipy.ndimage import label

    mask = votes >= 2
    parts, count = label(mask)
    if count > 1:
        mask = parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1
    return mask


def _count_crossings(
    corners: NDArray[np.float64], axis: int, others: list[int], size: list[int], toggles: NDArray[np.int32]
) -> None:
    """Mark where the ray of each grid column, just beside the voxel centers, crosses a triangle."""
    aside = np.array([1.7e-4, 2.3e-4])  # so that no ray meets an edge or a vertex
    plane = corners[:, :, others] - aside
    low = np.maximum(np.ceil(plane.min(axis=1)), 0).astype(int)
    count = np.maximum(np.minimum(np.floor(plane.max(axis=1)), np.array(size) - 1).astype(int) - low + 1, 0)
    each = count.prod(axis=1)
    triangle = np.repeat(np.arange(len(corners)), each)
    number = np.arange(len(triangle)) - np.repeat(np.cumsum(each) - each, each)
    a = low[triangle, 0] + number // count[triangle, 1]
    b = low[triangle, 1] + number % count[triangle, 1]
    (x0, y0), (x1, y1), (x2, y2) = plane[triangle].transpose(1, 2, 0)
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    area = np.where(np.abs(area) < 1e-12, np.inf, area)
    s = ((a - x0) * (y2 - y0) - (x2 - x0) * (b - y0)) / area
    t = ((x1 - x0) * (b - y0) - (a - x0) * (y1 - y0)) / area
    hit = (s >= 0) & (t >= 0) & (s + t <= 1) & np.isfinite(area)
    heights = corners[triangle[hit], :, axis]
    height = heights[:, 0] + s[hit] * (heights[:, 1] - heights[:, 0]) + t[hit] * (heights[:, 2] - heights[:, 0])
    first = np.clip(np.ceil(height), 0, toggles.shape[2] - 1).astype(int)
    np.add.at(toggles, (b[hit], a[hit], first), 1)


def _endplate(
    mask: Mask, low: NDArray[np.float64], hip_left: NDArray[np.float64], hip_right: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """Centre of the S1 endplate and axes left, posterior, superior (its normal), in LPS mm.

    The endplate is the top of the first 25 mm behind the front of the sacrum's middle, as a line in the sagittal plane.
    """
    across = hip_left.mean(axis=0) - hip_right.mean(axis=0)
    across /= np.linalg.norm(across)
    center = np.argwhere(mask).mean(axis=0)[::-1] + low
    middle, origin_x = center @ across, center[0] - low[0]
    band = mask[:, :, round(origin_x) - 7 : round(origin_x) + 8]
    rows = np.flatnonzero(band.any(axis=(0, 2)))
    top = []
    for row in range(rows[0] + 4, rows[0] + 26):
        for column in band[:, row].T:
            if column.any():
                top.append((row + low[1], np.flatnonzero(column)[-1] + 0.5 + low[2]))
    y_of, z_of = np.array(top).T
    apart = np.abs(y_of[:, None] - y_of[None, :]) > 6
    slope = float(
        np.median(((z_of[:, None] - z_of[None, :]) / np.where(apart, y_of[:, None] - y_of[None, :], 1))[apart])
    )
    height = float(np.median(z_of - slope * y_of))
    y = float(rows[0] + low[1] + 16)
    posterior = np.array([0.0, 1.0, slope])
    posterior -= (posterior @ across) * across
    posterior /= np.linalg.norm(posterior)
    superior = np.cross(across, posterior)
    origin = np.array([center[0], y, slope * y + height])
    origin = origin + (middle - origin @ across) * across
    return origin, across, posterior, superior


def _endplate_width(
    sacrum: NDArray[np.float64], origin: NDArray[np.float64], left: NDArray[np.float64], superior: NDArray[np.float64]
) -> float:
    """Width of the endplate: that of the points near its plane, within what is usual [mm]."""
    near = np.abs((sacrum - origin) @ superior) < 2
    sides = ((sacrum - origin) @ left)[near & (np.abs((sacrum - origin) @ left) < 30)]
    return float(np.clip(np.ptp(sides) if len(sides) > 10 else 48, 44, 54))


def _l5(u: Field, v: Field, w: Field, width_mm: float) -> tuple[Mask, Mask]:
    """An invented L5 and the disc below it; u left, v posterior, w along the normal of the S1 endplate, in mm.

    Sizes are those of any lumbar spine: body 48 x 34 x 27 mm, disc 8 to 12 mm, wedge-shaped.
    """
    a, b = width_mm / 2, width_mm / 2 * 0.70
    gap = 9.0 - 0.12 * v  # the disc is higher in front
    outline = (np.abs(u) / a) ** 2.4 + (np.abs(v) / b) ** 2.4
    waist = 1 - 0.10 * np.clip(1 - ((w - 23) / 13) ** 2, 0, 1)
    body = (outline < waist**2.4) & (w > gap) & (w < 37 + 0.05 * v)
    disc = (outline < 0.98) & (w > -3) & (w <= gap)
    side = np.abs(u)
    back = v - b
    pedicle = ((side - 0.62 * a) / 6) ** 2 + ((w - 29) / 8) ** 2 < 1
    pedicle &= (back > -6) & (back < 16)
    canal = (u / 13) ** 2 + ((back - 8) / 9) ** 2 < 1
    lamina = (np.abs(back - 18 + 0.35 * (16 - side)) < 3.5) & (side < 20) & (w > 9) & (w < 33)
    spinous = (side < 3.5) & (back > 14) & (back < 42) & (w > 10) & (w < 28)
    facet = ((side - 21) / 7) ** 2 + ((back - 15) / 6) ** 2 + ((w - 14) / 13) ** 2 < 1
    transverse = ((w - 29) / 6) ** 2 + ((back - 3 - 0.15 * side) / 6) ** 2 < 1
    transverse &= (side > 0.7 * a) & (side < a + 22)
    return (body | pedicle | lamina | spinous | facet | transverse) & ~canal, disc


def _rest_of_sacrum(
    sacrum: NDArray[np.float64], mask: Mask, low: NDArray[np.float64], x: Field, y: Field, z: Field
) -> tuple[Mask, Mask]:
    """An invented S4, S5 and coccyx below the cut through S3, and the half space below the cut."""
    # The cut is the flat lower end: the plane whose vertices lie furthest along its own normal.
    down_guess = np.array([0.0, 0.55, -0.83])
    best = max(
        (np.array([0.0, np.sin(t), -np.cos(t)]) for t in np.radians(np.arange(0, 81, 1.0))),
        key=lambda n: np.count_nonzero((sacrum @ n) > (sacrum @ n).max() - 0.8) + 0.1 * (n @ down_guess),
    )
    end = (sacrum @ best).max() - 0.5
    depth = x * best[0] + y * best[1] + z * best[2] - end
    section = mask & (depth > -9) & (depth <= -4)
    kji = np.argwhere(section)
    middle = kji.mean(axis=0)[::-1] + low + 6.5 * best
    half_width = max(np.ptp(kji[:, 2]) / 2, 12.0)
    across = np.abs(x - middle[0])
    forward = np.cross([1.0, 0, 0], best)
    forward *= -np.sign(forward[1]) or 1.0  # anterior
    thick = (x - middle[0]) * forward[0] + (y - middle[1]) * forward[1] + (z - middle[2]) * forward[2]
    bend = thick - depth**2 / 90  # the lower sacrum turns forward
    width = half_width * np.clip(1 - depth / 62, 0.05, 1)
    thickness = np.clip(8 - depth / 12, 2.5, 8)
    rest = (depth > -0.5) & (depth < 55) & ((across / width) ** 2.5 + (np.abs(bend) / thickness) ** 2.5 < 1)
    canal = (depth < 20) & (across < 5) & (np.abs(bend + 4) < 2)
    return rest & ~canal & ~mask, (depth > -1.0) & (across < half_width + 10)
