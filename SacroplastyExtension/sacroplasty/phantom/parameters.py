"""What differs from one synthetic patient to the next, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..anatomy.labels import LEVELS, SIDES


@dataclass(frozen=True)
class ForamenParameters:
    """One foramen. Sizes are (height, width) of the openings; offsets move the whole channel."""

    anterior_size_mm: tuple[float, float]
    posterior_size_mm: tuple[float, float]
    lateral_offset_mm: float
    caudal_offset_mm: float


@dataclass(frozen=True)
class PatientParameters:
    """Shape and pose of a synthetic pelvis. Scales are 1 for the average pelvis.

    Attributes:
        width_scale: left, right half of the sacrum.
        sacral_slope_deg: angle of the S1 endplate to the horizontal in the scan.
        hip_pitch_deg: forward turn of the hips from their average position in the scan.
        kyphosis_deg: turn of the sacral axis from S1 to the apex.
        ala_slope: height lost from the posterior to the anterior edge of the ala, relative to the average.
        roll_yaw_deg: how crookedly the patient lies in the scanner: turned about the long axis, and about the
            anterior-posterior axis.
        relief_mm: standard deviation of the bumps on the surfaces that the average lacks.
    """

    seed: int
    width_scale: tuple[float, float]
    depth_scale: float
    length_scale: float
    hip_scale: float
    sacral_slope_deg: float
    hip_pitch_deg: float
    inlet_tilt_deg: float
    kyphosis_deg: float
    ala_slope: float
    canal_scale: float
    crest_scale: float
    cortex_mm: float
    relief_mm: float
    si_joint_mm: tuple[float, float]
    disc_mm: float
    disc_wedge_deg: float
    roll_yaw_deg: tuple[float, float]
    origin_ras_mm: tuple[float, float, float]
    fat_mm: float
    body_hu: float
    foramina: dict[str, ForamenParameters]


#: Slope at which the average hips (hip.py) were measured.
MEAN_SACRAL_SLOPE_DEG = 39.75
#: Mean (height, width) of the anterior and posterior openings in mm. S1 and S2: 108 dry sacra (J Clin Diagn Res
#: 2018;12(6):AC01); S3 and S4 go on in the same proportion (an assumption, no figures found).
_OPENINGS_MM = {
    "s1": ((12.97, 12.23), (10.36, 7.66)),
    "s2": ((12.85, 13.13), (7.05, 7.30)),
    "s3": ((10.5, 10.5), (6.0, 6.0)),
    "s4": ((8.5, 8.5), (5.0, 5.0)),
}


def draw_parameters(seed: int, spread: float = 1.0) -> PatientParameters:
    """The patient of a seed; the same seed gives the same patient whatever the voxel size.

    Args:
        spread: how far people differ from the average, 1 as real ones do; 0 gives the average pelvis for every seed.

    Spreads: sacral slope 24-55 deg (mean plus or minus two standard deviations of 709 people, Mac-Thiong 2011);
    joint width 1-3 mm and surface scales so that 30 patients spread like 30 real sacra (see
    Testing/benchmarks/phantom_against_real_sacra.py).
    """
    rng = np.random.default_rng([seed, 1])

    def normal(mean: float, deviation: float, limit: float = 2.0) -> float:
        return float(mean + spread * deviation * np.clip(rng.standard_normal(), -limit, limit))

    def between(low: float, high: float) -> float:
        middle = (low + high) / 2
        return float(middle + spread * (rng.uniform(low, high) - middle))

    size = normal(0.0, 0.05)
    width = 1.02 + size + normal(0.0, 0.045)
    asymmetry = normal(0.0, 0.012)
    foramina = {}
    for level in LEVELS:
        # Near the narrow apex there is less room to vary.
        lateral, caudal = normal(0.0, 1.5 if level in ("s1", "s2") else 0.7), normal(0.0, 1.2)
        for side in SIDES:
            anterior, posterior = _OPENINGS_MM[level]
            growth = (normal(1.0, 0.09), normal(1.0, 0.09))
            foramina[f"foramen_{level}_{side}"] = ForamenParameters(
                anterior_size_mm=(anterior[0] * growth[0], anterior[1] * growth[0] * normal(1.0, 0.05)),
                posterior_size_mm=(posterior[0] * growth[1], posterior[1] * growth[1] * normal(1.0, 0.05)),
                lateral_offset_mm=lateral + normal(0.0, 0.6),
                caudal_offset_mm=caudal + normal(0.0, 0.6),
            )
    incidence = normal(0.0, 3.5)
    slope = float(np.clip(MEAN_SACRAL_SLOPE_DEG + incidence + normal(0.0, 6.5), 24.0, 55.0))
    origin = rng.uniform([-40.0, -150.0, -900.0], [40.0, 150.0, 300.0])
    return PatientParameters(
        seed=seed,
        width_scale=(width * (1 + asymmetry), width * (1 - asymmetry)),
        depth_scale=1.0 + size + normal(0.0, 0.06),
        length_scale=0.98 + size + normal(0.0, 0.04),
        hip_scale=1.0 + 0.8 * size + normal(0.0, 0.015),
        sacral_slope_deg=slope,
        # The pelvis turns as one piece, but for the pelvic incidence by which people differ.
        hip_pitch_deg=slope - MEAN_SACRAL_SLOPE_DEG - incidence,
        inlet_tilt_deg=normal(23.0, 5.0),
        kyphosis_deg=normal(65.0, 9.0),
        ala_slope=normal(1.0, 0.12),
        canal_scale=normal(1.0, 0.09),
        crest_scale=normal(1.0, 0.15),
        cortex_mm=normal(1.15, 0.12),
        relief_mm=1.1 * spread,
        si_joint_mm=(between(1.2, 2.8), between(1.2, 2.8)),
        disc_mm=normal(9.5, 1.5),
        disc_wedge_deg=normal(13.0, 3.0),
        roll_yaw_deg=(normal(0.0, 1.5), normal(0.0, 1.5)),
        origin_ras_mm=tuple(np.round(origin, 2).tolist()),
        fat_mm=normal(28.0, 7.0),
        body_hu=normal(105.0, 22.0),
        foramina=foramina,
    )
