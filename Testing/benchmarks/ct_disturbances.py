"""What real scans have and tidy ones lack: contrast, gas, metal, cement, bridged joints, crops, tilts, other slices.

Each disturbance takes a CT, its bone labels (1 sacrum, 2 L5, 3 hip_left, 4 hip_right) and a seed, and gives both back,
changed. Labels follow crops and resampling; metal and cement inside a bone leave its label alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sacroplasty.image import Volume

Pair = tuple[Volume, Volume]
Mask = NDArray[np.bool_]

_SACRUM, _L5, _HIP_LEFT, _HIP_RIGHT = 1, 2, 3, 4
_METAL_HU = 3071


@dataclass(frozen=True)
class Disturbance:
    """A disturbance and what a method must do with it.

    Attributes:
        must: "segment" the sacrum, "say" that part of it is missing or not bone (a warning beside the labels, or a
            refusal), or "refuse".
    """

    apply: Callable[[Volume, Volume, int], Pair]
    must: str


def iodine(ct: Volume, bones: Volume, seed: int) -> Pair:
    """Contrast medium: soft tissue that is vessel or bowel like takes up 150 to 450 HU, next to bone too."""
    rng = np.random.default_rng([seed, 1])
    anterior = _ahead_of_sacrum(ct, bones)
    out = ct.voxels.astype(np.float32)
    free = (bones.voxels == 0) & (out > -60) & (out < 130)
    for _ in range(6):  # rounded pools: bladder, bowel, vessels
        centre = rng.uniform([-60, 12, -70], [60, 70, 40])
        size = rng.uniform(5, 26)
        pool = free & (_distance(anterior, centre) < size)
        out[pool] += rng.uniform(150, 450)
    for side in (-1, 1):  # iliac vessels just before the ala
        for part in np.linspace(0, 1, 25):
            centre = (side * (14 + 34 * part), 9 + 14 * part, 10 - 55 * part)
            out[free & (_distance(anterior, centre) < 5.0)] = 230
    return _like(ct, out), bones


def bowel_gas(ct: Volume, bones: Volume, seed: int) -> Pair:
    """Gas right before the sacrum."""
    rng = np.random.default_rng([seed, 2])
    anterior = _ahead_of_sacrum(ct, bones)
    out = ct.voxels.astype(np.float32)
    gas = np.zeros(out.shape, bool)
    for _ in range(8):
        gas |= _distance(anterior, rng.uniform([-40, 4, -90], [40, 45, 10])) < rng.uniform(6, 18)
    out[gas & (bones.voxels == 0)] = -950
    return _like(ct, out), bones


def screw(ct: Volume, bones: Volume, seed: int) -> Pair:
    """An iliosacral screw from the left hip into S1, 7 mm thick, with streaks."""
    sacrum, hip = _middle(bones, _SACRUM), _middle(bones, _HIP_LEFT)
    top = _ras(bones, _SACRUM)[:, 2].max()
    end = np.array([sacrum[0] + 5, sacrum[1] + 12, top - 25])
    start = np.array([hip[0] - 25, sacrum[1] - 8, top - 30])
    metal = _rod(ct, start, end, 3.5)
    return _with_metal(ct, metal, seed), bones


def hip_prosthesis(ct: Volume, bones: Volume, seed: int) -> Pair:
    """A metal ball of 32 mm and its stem in the right hip joint, with streaks."""
    hip = _ras(bones, _HIP_RIGHT)
    centre = np.array([np.percentile(hip[:, 0], 85) + 5, hip[:, 1].mean(), hip[:, 2].min() + 45])
    centre[2] = max(centre[2], ct.ras_of([[0, 0, 0], np.array(ct.voxels.shape) - 1])[:, 2].min() + 15)
    ball = _distance(_coordinates(ct), centre) < 16
    return _with_metal(ct, ball | _rod(ct, centre, centre + np.array([35.0, 0, -45]), 6.0), seed), bones


def cement(ct: Volume, bones: Volume, seed: int) -> Pair:
    """Two clouds of bone cement of some 4 mL in the alae, 1800 HU and ragged."""
    rng = np.random.default_rng([seed, 3])
    points = _ras(bones, _SACRUM)
    middle, top = points.mean(axis=0), points[:, 2].max()
    out = ct.voxels.astype(np.float32)
    ragged = 3.0 * _grain(ct, 4.0, rng)
    for side in (-1, 1):
        centre = np.array([middle[0] + side * 34, middle[1] + 8, top - 28])
        out[(_distance(_coordinates(ct), centre) + ragged < 10) & (bones.voxels == _SACRUM)] = 1800
    return _like(ct, out), bones


def bridged_joint(ct: Volume, bones: Volume, seed: int) -> Pair:
    """Both sacroiliac joints degenerated: half of each gap filled by bone, dense on either side."""
    rng = np.random.default_rng([seed, 4])
    sampling = ct.spacing_mm[::-1]
    sacrum = ndimage.distance_transform_edt(bones.voxels != _SACRUM, sampling=sampling)
    hip = ndimage.distance_transform_edt(~np.isin(bones.voxels, (_HIP_LEFT, _HIP_RIGHT)), sampling=sampling)
    out = ct.voxels.astype(np.float32)
    joint = (sacrum < 5) & (hip < 5)
    bridge = joint & (_grain(ct, 6.0, rng) > 0) & (sacrum + hip < 7)
    out[joint & (bones.voxels > 0)] += 200
    out[bridge] = np.maximum(out[bridge], 450 + 60 * _grain(ct, 2.0, rng)[bridge])
    return _like(ct, np.minimum(out, 1400)), bones


def without_right_wing(ct: Volume, bones: Volume, seed: int) -> Pair:
    """The field of view ends within the right ala."""
    points = _ras(bones, _SACRUM)
    return _crop(ct, bones, 0, high_mm=float(points[:, 0].max() - 20))


def half_sacrum(ct: Volume, bones: Volume, seed: int) -> Pair:
    """The field of view ends in the midline: only the left half is there."""
    return _crop(ct, bones, 0, high_mm=float(_middle(bones, _SACRUM)[0]))


def cut_below_l5(ct: Volume, bones: Volume, seed: int) -> Pair:
    """The field of view begins at the promontory: no L5."""
    return _crop(ct, bones, 2, high_mm=float(np.percentile(_ras(bones, _L5)[:, 2], 2)))


def cut_at_s3(ct: Volume, bones: Volume, seed: int) -> Pair:
    """The field of view ends 48 mm below the top of the sacrum, among S3 in most patients."""
    return _crop(ct, bones, 2, low_mm=float(_ras(bones, _SACRUM)[:, 2].max() - 48))


def oblique(ct: Volume, bones: Volume, seed: int) -> Pair:
    """Slices tilted by 18 degrees, turned by 10 and rolled by 7, as after a reformat."""
    from scipy.spatial.transform import Rotation

    return _resample(ct, bones, ct.spacing_mm, Rotation.from_euler("xyz", [18, 7, 10], degrees=True).as_matrix())


def thin_slices(ct: Volume, bones: Volume, seed: int) -> Pair:
    """Slices of 0.5 mm about the sacrum (as many as memory allows), with a quarter more noise."""
    points = _ras(bones, _SACRUM)
    ct, bones = _crop(ct, bones, 2, points[:, 2].min() - 15, points[:, 2].max() + 40)
    spacing = ct.spacing_mm.copy()
    spacing[2] = 0.5
    ct, bones = _resample(ct, bones, spacing, np.eye(3))
    return _noisy(ct, 20, seed), bones


def thick_slices(ct: Volume, bones: Volume, seed: int) -> Pair:
    """Slices of 5 mm, averaged."""
    spacing = ct.spacing_mm.copy()
    sigma = np.sqrt(max(25 - spacing[2] ** 2, 0) / 12) / spacing[2]
    blurred = ndimage.gaussian_filter1d(ct.voxels.astype(np.float32), sigma, axis=0)
    spacing[2] = 5.0
    return _resample(_like(ct, blurred), bones, spacing, np.eye(3))


def prone(ct: Volume, bones: Volume, seed: int) -> Pair:
    """The patient lies on the belly: rows and columns run the other way, the patient's frame stays as it is."""
    return tuple(_flip(volume, (1, 2)) for volume in (ct, bones))  # type: ignore[return-value]


def noisy(ct: Volume, bones: Volume, seed: int) -> Pair:
    """60 HU of noise more."""
    return _noisy(ct, 60, seed), bones


def only_femurs(ct: Volume, bones: Volume, seed: int) -> Pair:
    """Everything above the lowest part of the sacrum is cut away and legs take its place: no sacrum in view."""
    return _block_of_body(ct, legs=True, seed=seed)


def thorax(ct: Volume, bones: Volume, seed: int) -> Pair:
    """A chest: lungs, ribs and a spine, but no pelvis."""
    return _block_of_body(ct, legs=False, seed=seed)


def axes_swapped(ct: Volume, bones: Volume, seed: int) -> Pair:
    """Stored as sagittal slices, from right to left and bottom up: the same patient, other axes."""
    return tuple(_transpose(_flip(volume, (0,)), (2, 0, 1)) for volume in (ct, bones))  # type: ignore[return-value]


DISTURBANCES = {
    "iodine": Disturbance(iodine, "segment"),
    "bowel gas": Disturbance(bowel_gas, "segment"),
    "screw through the joint": Disturbance(screw, "say"),
    "hip prosthesis": Disturbance(hip_prosthesis, "segment"),
    "cement in both alae": Disturbance(cement, "say"),
    "bridged joints": Disturbance(bridged_joint, "segment"),
    "crop: right ala": Disturbance(without_right_wing, "say"),
    "crop: half a sacrum": Disturbance(half_sacrum, "say"),
    "crop: no L5": Disturbance(cut_below_l5, "say"),
    "crop: at S3": Disturbance(cut_at_s3, "say"),
    "oblique": Disturbance(oblique, "segment"),
    "slices of 0.5 mm": Disturbance(thin_slices, "segment"),
    "slices of 5 mm": Disturbance(thick_slices, "segment"),
    "prone": Disturbance(prone, "segment"),
    "60 HU of noise": Disturbance(noisy, "segment"),
    "axes swapped": Disturbance(axes_swapped, "segment"),
    "only femurs": Disturbance(only_femurs, "refuse"),
    "thorax": Disturbance(thorax, "refuse"),
}


def _like(ct: Volume, hu: NDArray[np.float32]) -> Volume:
    return ct.like(np.clip(np.round(hu), -1024, 3071).astype(np.int16))


def _ras(bones: Volume, label: int) -> NDArray[np.float64]:
    return bones.ras_of(np.argwhere(bones.voxels == label))


def _middle(bones: Volume, label: int) -> NDArray[np.float64]:
    return _ras(bones, label).mean(axis=0)


def _coordinates(volume: Volume) -> tuple[NDArray[np.float32], ...]:
    """RAS coordinates of all voxels, as three arrays that broadcast where the axes allow."""
    k, j, i = (n.astype(np.float32) for n in np.ogrid[tuple(slice(0, n) for n in volume.voxels.shape)])
    m = volume.IJKToRAS.astype(np.float32)
    return tuple(m[n, 0] * i + m[n, 1] * j + m[n, 2] * k + m[n, 3] for n in range(3))


def _distance(coordinates: tuple[NDArray[np.float32], ...], point: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.sqrt(sum((c - p) ** 2 for c, p in zip(coordinates, point, strict=True)))


def _ahead_of_sacrum(ct: Volume, bones: Volume) -> tuple[NDArray[np.float32], ...]:
    """Coordinates right of the middle, in front of the sacrum at that height, and above its top, in mm."""
    points = _ras(bones, _SACRUM)
    x, y, z = _coordinates(ct)
    levels = np.arange(points[:, 2].min(), points[:, 2].max() + 1, 2.0)
    fronts = [points[np.abs(points[:, 2] - level) <= 2.5, 1] for level in levels]
    known = [n for n, front in enumerate(fronts) if len(front)]
    front = np.interp(z, levels[known], [fronts[n].max() for n in known])
    return x - points[:, 0].mean(), (y - front).astype(np.float32), z - points[:, 2].max()


def _rod(ct: Volume, start: NDArray[np.float64], end: NDArray[np.float64], radius_mm: float) -> Mask:
    coordinates = _coordinates(ct)
    step = end - start
    along = sum((c - p) * s for c, p, s in zip(coordinates, start, step, strict=True)) / (step @ step)
    along = np.clip(along, 0, 1)
    gap = sum((c - p - along * s) ** 2 for c, p, s in zip(coordinates, start, step, strict=True))
    return gap < radius_mm**2


def _with_metal(ct: Volume, metal: Mask, seed: int) -> Volume:
    """Metal, and bright and dark streaks from it in its slices, falling off with the distance."""
    rng = np.random.default_rng([seed, 5])
    out = ct.voxels.astype(np.float32)
    spacing = ct.spacing_mm
    for k in np.flatnonzero(metal.any(axis=(1, 2))):
        rows, columns = np.nonzero(metal[k])
        y, x = np.ogrid[: metal.shape[1], : metal.shape[2]]
        dy, dx = (y - rows.mean()) * spacing[1], (x - columns.mean()) * spacing[0]
        angle, distance = np.arctan2(dy, dx), np.hypot(dx, dy)
        phases, turns = rng.uniform(0, 2 * np.pi, 5), rng.integers(4, 30, 5)
        streak = sum(np.cos(2 * turn * angle + phase) for turn, phase in zip(turns, phases, strict=True))
        long_axis = 0.5 * np.arctan2(
            2 * np.cov(columns, rows)[0, 1] if len(rows) > 2 else 0.0, np.ptp(columns) ** 2 - np.ptp(rows) ** 2 + 1e-6
        )
        dark = 2.5 * np.exp(-((np.sin(angle - long_axis) * 4) ** 2))
        inside = out[k] > -500
        out[k] += inside * (110 * streak - 160 * dark) * np.exp(-distance / 45)
    out[metal] = _METAL_HU
    return _like(ct, out)


def _grain(ct: Volume, length_mm: float, rng: np.random.Generator) -> NDArray[np.float32]:
    noise = ndimage.gaussian_filter(
        rng.standard_normal(ct.voxels.shape, dtype=np.float32), length_mm / 2 / ct.spacing_mm[::-1]
    )
    return noise / noise.std()


def _noisy(ct: Volume, deviation_hu: float, seed: int) -> Volume:
    noise = np.random.default_rng([seed, 6]).standard_normal(ct.voxels.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, 0.6 / ct.spacing_mm[::-1] * (0, 1, 1))
    return _like(ct, ct.voxels + deviation_hu * noise / noise.std())


def _crop(ct: Volume, bones: Volume, axis: int, low_mm: float = -np.inf, high_mm: float = np.inf) -> Pair:
    """Keep what lies between two places along a RAS axis (0 right, 2 superior) of an axis-aligned image."""
    along = int(np.argmax(np.abs(ct.IJKToRAS[axis, :3])))
    length = ct.voxels.shape[2 - along]
    places = ct.IJKToRAS[axis, 3] + ct.IJKToRAS[axis, along] * np.arange(length)
    kept = np.flatnonzero((places >= low_mm) & (places <= high_mm))
    box = [slice(None)] * 3
    box[2 - along] = slice(kept[0], kept[-1] + 1)
    first = np.zeros(3)
    first[2 - along] = kept[0]
    IJKToRAS = ct.IJKToRAS.copy()
    IJKToRAS[:3, 3] = ct.ras_of([first])[0]
    return tuple(Volume(np.ascontiguousarray(volume.voxels[tuple(box)]), IJKToRAS) for volume in (ct, bones))  # type: ignore[return-value]


def _flip(volume: Volume, axes: tuple[int, ...]) -> Volume:
    """The same image stored the other way round along array axes."""
    first, IJKToRAS = np.zeros(3), volume.IJKToRAS.copy()
    for axis in axes:
        first[axis] = volume.voxels.shape[axis] - 1
        IJKToRAS[:3, 2 - axis] *= -1
    IJKToRAS[:3, 3] = volume.ras_of([first])[0]
    return Volume(np.ascontiguousarray(np.flip(volume.voxels, axes)), IJKToRAS)


def _transpose(volume: Volume, order: tuple[int, int, int]) -> Volume:
    """The same image with its array axes in another order."""
    IJKToRAS = volume.IJKToRAS.copy()
    for new, old in enumerate(order):
        IJKToRAS[:3, 2 - new] = volume.IJKToRAS[:3, 2 - old]
    return Volume(np.ascontiguousarray(volume.voxels.transpose(order)), IJKToRAS)


def _resample(ct: Volume, bones: Volume, spacing_mm: NDArray[np.float64], rotation: NDArray[np.float64]) -> Pair:
    """Another grid about the same middle: axes turned by `rotation`, large enough for the old one, air around."""
    middle = ct.ras_of([(np.array(ct.voxels.shape) - 1) / 2])[0]
    axes = rotation @ (ct.IJKToRAS[:3, :3] / ct.spacing_mm)
    turned = not np.allclose(rotation, np.eye(3))
    extent = ct.spacing_mm * (np.array(ct.voxels.shape[::-1]) - 1)
    size = np.floor(extent / spacing_mm + 1e-6).astype(int) + 1
    IJKToRAS = np.eye(4)
    IJKToRAS[:3, :3] = axes * spacing_mm
    IJKToRAS[:3, 3] = middle - IJKToRAS[:3, :3] @ ((size - 1) / 2)
    NewToOld = ct.RASToIJK @ IJKToRAS
    matrix, offset = NewToOld[:3, :3][::-1, ::-1], NewToOld[:3, 3][::-1]
    shape = tuple(int(n) for n in size[::-1])
    mode = "constant" if turned else "nearest"
    hu = ndimage.affine_transform(
        ct.voxels.astype(np.float32), matrix, offset, output_shape=shape, order=1, mode=mode, cval=-1000
    )
    labels = ndimage.affine_transform(bones.voxels, matrix, offset, output_shape=shape, order=0, mode=mode, cval=0)
    return Volume(np.round(hu).astype(np.int16), IJKToRAS), Volume(labels, IJKToRAS)


def _block_of_body(ct: Volume, legs: bool, seed: int) -> Pair:
    """Two legs with femurs, or a chest with lungs, ribs and a spine; 360 x 240 x 210 mm at 1.5 mm, without labels."""
    rng = np.random.default_rng([seed, 7])
    z, y, x = np.meshgrid(np.arange(140) * 1.5, np.arange(160) * 1.5 - 120, np.arange(240) * 1.5 - 180, indexing="ij")
    hu = np.full(z.shape, -1000, np.float32)

    def bone(field: NDArray[np.float64], shell_mm: float = 2.0) -> None:
        hu[field < 0] = 800
        hu[field < -shell_mm] = 120

    if legs:
        for side in (-1, 1):
            u = x - side * 85
            hu[np.hypot(u, y) < 78] = -100
            hu[np.hypot(u, y) < 62] = 50
            bone(np.hypot(u, y + 10) - 15, 5.0)
    else:
        hu[np.hypot(x / 1.35, y) < 118] = -100
        hu[np.hypot(x / 1.35, y) < 105] = 50
        for side in (-1, 1):
            hu[np.sqrt(((x - side * 62) / 52) ** 2 + (y / 78) ** 2 + ((z - 90) / 150) ** 2) < 1] = -850
        shell = np.hypot(x / 1.35, y)
        rib = np.abs((z + 0.35 * y + 0.1 * np.abs(x)) % 26 - 13) - 5
        bone(np.maximum(np.abs(shell - 92) - 4, rib), 1.5)
        spine = np.hypot(x, (y - 72) / 0.85) - 18
        bone(np.maximum(spine, np.abs(z % 30 - 15) - 12))
        bone(np.maximum(np.abs(x) - 4, np.maximum(np.abs(y - 102) - 14, np.abs(z % 30 - 12) - 8)))
    hu = ndimage.gaussian_filter(hu, 0.5) + 20 * rng.standard_normal(hu.shape)
    IJKToRAS = np.diag([-1.5, -1.5, 1.5, 1.0])
    IJKToRAS[:3, 3] = ct.IJKToRAS[:3, 3]
    volume = Volume(np.clip(np.round(hu), -1024, 3071).astype(np.int16), IJKToRAS)
    return volume, volume.like(np.zeros(hu.shape, np.uint8))
