"""Make a synthetic patient: a CT whose every structure is known exactly.

Bones, canal and foramina are implicit surfaces sampled at the voxel centres for the truth. The CT is made of finer
samples with partial volume at each surface, blurred by the scanner's point spread, averaged over the voxel, with
noise that is correlated in the slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..anatomy.labels import BONE_LABEL, REGION_LABEL
from ..anatomy.model import Foramen, Opening
from ..errors import ImageError
from ..geometry import FloatArray, invert_rigid, transform_points, transform_vectors
from ..image import Volume
from .grid import Block, Grid, make_grid
from .hip import Plate
from .implicit import Field, coverage, ellipsoid, smooth_max, tube
from .parameters import PatientParameters, draw_parameters
from .patient import Fracture, Patient
from .sacrum import FAR_MM, Rim
from .soft_tissue import Body, blend

#: Standard deviation of the scanner's point spread.
_POINT_SPREAD_MM = 0.6
#: Correlation length of the noise in the slice.
_NOISE_GRAIN_MM = 0.6
_NERVE_RADIUS_MM = {"s1": 3.0, "s2": 2.6, "s3": 2.1, "s4": 1.7}
_EPIDURAL_FAT_HU, _THECAL_SAC_HU, _NERVE_HU, _DISC_HU = -75.0, 18.0, 42.0, 78.0


@dataclass(frozen=True)
class Phantom:
    """A synthetic patient.

    Attributes:
        ct: Hounsfield units, int16.
        bones: labels of `anatomy.labels.BONES` (uint8) at the voxel centres, on the CT's grid.
        regions: labels of `anatomy.labels.REGIONS` (uint8), likewise. The canal counts from the S1 endplate down to
            the hiatus, a foramen from the anterior to the posterior surface of the bone and up to the canal, the
            alae lateral to the foramina from the top of the wing down to S3.
        foramina: centres of both openings on the surface of the bone, their rims there, and the most lateral point of
            the posterior rim.
        landmarks: points in RAS by name.
        SacrumToRAS: axes left, posterior, superior (normal of the S1 endplate), origin at the endplate's centre.
        si_joint_mm: width of the joint gap, left and right.
    """

    ct: Volume
    bones: Volume
    regions: Volume
    foramina: dict[str, Foramen]
    landmarks: dict[str, FloatArray]
    SacrumToRAS: FloatArray
    fractures: tuple[Fracture, ...]
    si_joint_mm: tuple[float, float]
    ala_hu: float
    noise_hu: float
    fracture: str
    parameters: PatientParameters


def make_phantom(
    seed: int,
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ala_hu: float = -50.0,
    noise_hu: float = 20.0,
    fracture: str | None = None,
    spread: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> Phantom:
    """The synthetic patient of a seed.

    Args:
        spacing_mm: voxel size along i, j, k (0.3 to 6 mm). It does not change the patient.
        ala_hu: mean Hounsfield units in the core of the alae; osteoporotic ones hold negative values (Wagner 2016,
            J Bone Joint Surg).
        noise_hu: standard deviation of the noise.
        fracture: "none" (also None), "left", "right", "bilateral" or "h".
        spread: 1 for a patient as people differ, 0 for the average pelvis.
        progress: called with the fraction done, 0 to 1.

    Raises:
        ImageError: for an impossible voxel size, density or noise.
        AnatomyError: for an unknown fracture pattern.
    """
    if not -200 <= ala_hu <= 400:
        raise ImageError(f"{ala_hu} HU cannot be cancellous bone of an ala; give a value from -200 to 400")
    if not 0 <= noise_hu <= 200:
        raise ImageError(f"noise of {noise_hu} HU is impossible; give a value from 0 to 200")
    if isinstance(seed, bool) or seed < 0:
        raise ImageError(f"the seed must be a whole number from 0, not {seed}")
    report = progress or (lambda fraction: None)
    pattern = fracture or "none"
    parameters = draw_parameters(seed, spread)
    patient = Patient(parameters, pattern)
    body = Body(patient)
    grid = make_grid(*_field_of_view(patient, body), spacing_mm, patient.PatientToRAS)
    report(0.1)

    bones, regions = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    hu = np.empty(tuple(n * f for n, f in zip(grid.shape, grid.factors[::-1], strict=True)), np.float32)
    texture = _Texture(seed)
    for block in grid.blocks():
        samples, bone_labels, region_labels = _paint_block(block, patient, body, grid, ala_hu, texture)
        fk = grid.factors[2]
        hu[block.first * fk : block.last * fk] = samples
        bones[block.first : block.last] = grid.centers(bone_labels)
        regions[block.first : block.last] = grid.centers(region_labels)
        report(0.1 + 0.7 * block.last / grid.shape[0])
    ct = _scan(hu, grid, noise_hu, seed)
    report(0.95)

    SacrumToRAS = patient.SacrumToRAS
    foramina = {
        name: Foramen(
            _opening(SacrumToRAS, channel.anterior, channel.anterior_rim),
            _opening(SacrumToRAS, channel.posterior, channel.posterior_rim),
            transform_points(SacrumToRAS, channel.lateral_edge),
        )
        for name, channel in patient.sacrum.channels.items()
    }
    volume = Volume(ct, grid.IJKToRAS)
    phantom = Phantom(
        ct=volume,
        bones=volume.like(bones),
        regions=volume.like(regions),
        foramina=foramina,
        landmarks=patient.landmarks(),
        SacrumToRAS=SacrumToRAS,
        fractures=tuple(patient.fractures),
        si_joint_mm=parameters.si_joint_mm,
        ala_hu=float(ala_hu),
        noise_hu=float(noise_hu),
        fracture=pattern,
        parameters=parameters,
    )
    report(1.0)
    return phantom


def _opening(SacrumToRAS: FloatArray, center: FloatArray, rim: Rim) -> Opening:
    return Opening(
        transform_points(SacrumToRAS, center), transform_vectors(SacrumToRAS, rim.normal), rim.width_mm, rim.height_mm
    )


def _field_of_view(patient: Patient, body: Body) -> tuple[FloatArray, FloatArray]:
    """From below the sacral apex (acetabula in view) to the top of L5 and of the iliac crests; skin all around."""
    apex = transform_points(patient.SacrumToPatient, patient.sacrum.straight(0, patient.sacrum.end_mm, 0))
    top = transform_points(patient.L5ToPatient, patient.l5.highest_points())[:, 2] + 3
    crests = [hip.from_plate(70, 53, 10)[2] for hip in patient.hips.values()]
    roofs = [hip.from_plate(95, -70, 4)[2] for hip in patient.hips.values()]
    return body.extent(float(min(apex[2] - 24, *roofs)), float(max(*top, *crests)))


class _Texture:
    """Trabecular pattern of zero mean and unit deviation, fixed in the patient, whatever the voxel size."""

    _SIZE, _STEP_MM = 112, 0.6

    def __init__(self, seed: int) -> None:
        from scipy.ndimage import gaussian_filter

        noise = np.random.default_rng([seed, 7]).standard_normal([self._SIZE] * 3, dtype=np.float32)
        fine, coarse = (gaussian_filter(noise, sigma, mode="wrap") for sigma in (0.9, 3.0))
        self._tile = (0.85 * fine / fine.std() + 0.5 * coarse / coarse.std()).astype(np.float32)

    def __call__(self, x: Field, y: Field, z: Field) -> Field:
        i, j, k = ((c / self._STEP_MM).astype(np.int32) % self._SIZE for c in (x, y, z))
        return self._tile[k, j, i]


def _paint_block(
    block: Block, patient: Patient, body: Body, grid: Grid, ala_hu: float, texture: _Texture
) -> tuple[Field, NDArray, NDArray]:
    """HU of a block's samples, and the labels there."""
    width = float(np.mean(grid.sample_mm))
    hu = np.full(block.x.shape, -1000.0, np.float32)
    bones, regions = np.zeros(hu.shape, np.uint8), np.zeros(hu.shape, np.uint8)
    hips = {}
    for side, hip in patient.hips.items():
        window = block.window(*hip.box())
        if window is not None:
            plate_points = hip.to_plate(*block.points(window))
            hips[side] = window, plate_points, hip.plate(*plate_points)
    body.paint(hu, block, hips, width)
    envelope = np.full(hu.shape, FAR_MM, np.float32)
    sacral = _to_window(block, patient.SacrumToPatient, (-78, -48, -128), (78, 78, 22))
    if sacral is not None:
        window, points = sacral
        curved = patient.sacrum.curved(*points[1:])
        envelope[window] = patient.sacrum.envelope(*points, curved)
    _paint_l5(block, patient, hu, bones, envelope, width, texture)
    if sacral is not None:
        _paint_sacrum(
            points, curved, patient, [a[window] for a in (hu, bones, regions, envelope)], ala_hu, width, texture
        )
    for side, (window, plate_points, sides) in hips.items():
        arrays = [a[window] for a in (hu, bones, envelope)]
        _paint_hip(side, patient, plate_points, sides, arrays, width, texture(*block.points(window)))
    _paint_coccyx(block, patient, hu, width)
    return hu, bones, regions


def _to_window(
    block: Block, LocalToPatient: FloatArray, low: tuple[float, ...], high: tuple[float, ...]
) -> tuple[tuple[slice, ...], tuple[Field, Field, Field]] | None:
    """The window of a block that holds a box of a local frame, and the local coordinates of its points."""
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1).T
    placed = transform_points(LocalToPatient, corners)
    window = block.window(placed.min(axis=0), placed.max(axis=0))
    if window is None:
        return None
    m = invert_rigid(LocalToPatient).astype(np.float32)
    x, y, z = block.points(window)
    local = tuple(m[n, 0] * x + m[n, 1] * y + m[n, 2] * z + m[n, 3] for n in range(3))
    return window, local


def _paint_bone(
    hu: Field, field: Field, cortex_mm: float | Field, cortex_hu: float, marrow: Field, width: float
) -> None:
    """A shell of cortex around marrow; `hu` changes in place."""
    outer, inner = coverage(field, width), coverage(field + cortex_mm, width)
    hu += outer * (cortex_hu - hu) + inner * (marrow - cortex_hu)


def _paint_sacrum(
    points: tuple[Field, Field, Field],
    curved: tuple[Field, Field],
    patient: Patient,
    arrays: list[NDArray],
    ala_hu: float,
    width: float,
    texture: _Texture,
) -> None:
    hu, bones, regions, envelope = arrays
    sacrum, parameters = patient.sacrum, patient.parameters
    (x, y, z), (s, d) = points, curved
    canal = sacrum.canal(x, y, z, curved)
    channels = {name: sacrum.channel_field(name, x, y, z) for name in sacrum.channels}
    bone = sacrum.bone(x, y, z, envelope, canal, channels)

    # Soft content of canal and channels first, for the bone to close around.
    blend(hu, np.maximum(canal, z - 6), _EPIDURAL_FAT_HU, width)
    center, half_width, half_height = (sacrum.canal_profile(s, n) for n in range(3))
    sac_size = np.clip(1.15 - s / (75 * sacrum.length_scale), 0.05, 0.85)
    sac = ellipsoid(x / half_width, (d - center) / half_height, 0 * x, (0, 0, 0), (1, 1, 1)) + (1 - sac_size)
    blend(hu, np.maximum(np.maximum(sac * half_height, canal), z - 6), _THECAL_SAC_HU, width)
    for name, channel in channels.items():
        near = channel < FAR_MM
        part = hu[near]
        blend(part, np.maximum(channel, envelope)[near], _EPIDURAL_FAT_HU, width)
        nerve = tube(x[near], y[near], z[near], sacrum.nerve(name), [_NERVE_RADIUS_MM[name[8:10]]] * 4)
        blend(part, nerve, _NERVE_HU, width)
        hu[near] = part

    ala = sacrum.ala_depth(x, s)
    in_ala = np.clip(ala / 8 + 0.6, 0, 1) * np.clip((95 * sacrum.length_scale - s) / 20, 0, 1)
    level = np.interp(s / sacrum.length_scale, [0, 30, 45, 60, 110], [1.0, 0.85, 0.6, 0.5, 0.45]).astype(np.float32)
    marrow = level * parameters.body_hu * (1 - in_ala) + ala_hu * in_ala
    marrow += 55 * np.exp(np.minimum(bone + parameters.cortex_mm, 0) / 1.6) + 36 * texture(x, y, z)
    # Thicker under the S1 endplate and behind the canal than on the front of the alae.
    thicker = 0.5 * ((np.abs(x) < 25) & (z > -3)) + 0.5 * np.clip((d - center) / 4, 0, 1) * (1 - in_ala)
    _paint_bone(hu, bone, np.maximum(parameters.cortex_mm + thicker.astype(np.float32), 1.0), 600.0, marrow, width)
    for fracture in patient.fracture_fields(x, y, z, s):
        near_line = np.exp(-((np.maximum(fracture, 0) / 2.2) ** 2)) * coverage(bone + 1, width)
        hu += 140 * near_line
        blend(hu, np.maximum(fracture, bone), -20.0, width)

    solid = bone < 0
    bones[solid] = BONE_LABEL["sacrum"]
    for side, sign in (("left", 1), ("right", -1)):
        wing = solid & (ala > 0) & (x * sign > 0) & (s < sacrum.ala_end_mm)
        regions[wing] = REGION_LABEL[f"ala_{side}"]
    bodies = sacrum.body_numbers(x, s, d)
    column = solid & (bodies > 0)
    regions[column] = REGION_LABEL["body_s1"] - 1 + bodies[column]
    for name, channel in channels.items():
        regions[(channel < 0) & (envelope < 0)] = REGION_LABEL[name]
    regions[(canal < 0) & (z < 0) & (s < sacrum.hiatus_mm)] = REGION_LABEL["sacral_canal"]


def _paint_l5(
    block: Block, patient: Patient, hu: Field, bones: NDArray, envelope: Field, width: float, texture: _Texture
) -> None:
    found = _to_window(block, patient.L5ToPatient, (-52, -26, -18), (52, 74, 46))
    if found is None:
        return
    window, (x, y, z) = found
    l5, part = patient.l5, hu[window]
    blend(part, l5.disc(x, y, z), _DISC_HU, width)
    canal = l5.canal(x, y, z)
    blend(part, canal, _EPIDURAL_FAT_HU, width)
    blend(part, canal + 2.0, _THECAL_SAC_HU, width)
    # The facets keep a gap to those of S1.
    bone = smooth_max(l5.bone(x, y, z), 1.8 - envelope[window], 1.0)
    marrow = patient.parameters.body_hu + 50 * np.exp(np.minimum(bone + 1, 0) / 2) + 36 * texture(x, y, z)
    _paint_bone(part, bone, 1.0, 650.0, marrow, width)
    bones[window][bone < 0] = BONE_LABEL["l5"]


def _paint_hip(
    side: str, patient: Patient, plate_points: Plate, sides: Plate, arrays: list[NDArray], width: float, grain: Field
) -> None:
    hu, bones, envelope = arrays
    hip = patient.hips[side]
    bone = hip.bone(plate_points, sides, envelope, patient.parameters.si_joint_mm[0 if side == "left" else 1])
    _paint_bone(hu, hip.femur(plate_points), 1.3, 850.0, 150 + 60 * grain, width)
    marrow = 55 + 75 * np.exp(np.minimum(bone + 1.3, 0) / 3) + 50 * grain
    _paint_bone(hu, bone, 1.4, 800.0, marrow, width)
    bones[bone < 0] = BONE_LABEL[f"hip_{side}"]


def _paint_coccyx(block: Block, patient: Patient, hu: Field, width: float) -> None:
    """Two small bones below the apex; they are in the picture but belong to no structure of the truth."""
    sacrum = patient.sacrum
    for number, (gap, size) in enumerate(((8.5, (9, 4.5, 6)), (21.0, (6, 4, 5)))):
        center = transform_points(patient.SacrumToPatient, sacrum.straight(0, sacrum.end_mm + gap, -number * 1.0))
        window = block.window(center - 12, center + 12)
        if window is not None:
            field = ellipsoid(*block.points(window), center, size)
            _paint_bone(hu[window], field, 1.0, 600.0, np.full(field.shape, 80, np.float32), width)


def _scan(hu: Field, grid: Grid, noise_hu: float, seed: int) -> NDArray[np.int16]:
    """Blur, average and add noise."""
    from scipy.ndimage import gaussian_filter

    gaussian_filter(hu, _POINT_SPREAD_MM / grid.sample_mm[::-1], output=hu, truncate=3.0)
    image = grid.averages(hu)
    if noise_hu > 0:
        noise = np.random.default_rng([seed, 8]).standard_normal(image.shape, dtype=np.float32)
        grain = _NOISE_GRAIN_MM / grid.spacing_mm[::-1] * (0, 1, 1)
        noise = gaussian_filter(noise, grain, truncate=3.0)
        image += noise * (noise_hu / float(noise.std()))
    return np.clip(np.round(image), -1024, 3071).astype(np.int16)
