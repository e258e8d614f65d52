"""What is said of a CT and of what was found in it: the records that the quality report is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hint:
    """Something that a person may want to know; never a finding.

    Attributes:
        name: what it hints at, such as `residual_s1_s2_disc`.
        side: `left`, `right` or empty.
        value, threshold: what was measured and from where on it is said, in the unit that `text` names.
        text: one sentence for a person.
        source: where the criterion comes from; "own criterion" when nobody published it.
    """

    name: str
    side: str
    value: float
    threshold: float
    text: str
    source: str


@dataclass(frozen=True)
class Density:
    """CT numbers of one piece of cancellous bone [HU] and the voxels that they were read from."""

    mean_hu: float
    sd_hu: float
    voxels: int


@dataclass(frozen=True)
class BoneQuality:
    """Density of cancellous bone, away from cortex and sclerosis.

    Attributes:
        density: by name, `ala_left`, `ala_right`, `body_s1`, `l5`; only what is large enough to be measured.
        void_ml: by name of the ala, its volume below 0 HU after smoothing.
        hu_offset: calibration that was added to the CT's numbers [HU].
        osteoporosis: the hint of L5's density; None where there is none.
        refused: why the densities say nothing about bone; empty when they do.
    """

    density: dict[str, Density]
    void_ml: dict[str, float]
    hu_offset: float
    osteoporosis: Hint | None
    refused: str


@dataclass(frozen=True)
class Check:
    """A plain sentence of what a person must look at, and the structure to look at."""

    structure: str
    text: str


@dataclass(frozen=True)
class QualityReport:
    """How far the CT, and what was found in it, can be relied on.

    Attributes:
        voxel_mm: voxel size along i, j, k.
        noise_hu: standard deviation of the noise in soft tissue; NaN when there is too little of it.
        cut_off: structures that the border of the image cuts, with the borders (head, feet, left, right, front, back).
        missing: structures that were looked for and not found.
        dense_ml, dense_in_sacrum_ml: volume of metal or cement, and that within or on the sacrum.
        bright_fluid_ml: volume of contrast medium in front of the sacrum, in vessels, ureters or bowel.
        sacral_slope_deg: angle of the S1 endplate to the scanner's transverse plane, in a lying patient.
        bone: density of cancellous bone.
        hints: signs of an unusual sacrum.
        reasons: by structure, why its confidence is what it is.
        must_check: what a person must look at before planning.
    """

    voxel_mm: tuple[float, float, float]
    noise_hu: float
    cut_off: dict[str, tuple[str, ...]]
    missing: tuple[str, ...]
    dense_ml: float
    dense_in_sacrum_ml: float
    bright_fluid_ml: float
    sacral_slope_deg: float
    bone: BoneQuality
    hints: tuple[Hint, ...]
    reasons: dict[str, str]
    must_check: tuple[Check, ...]


def quality_as_record(quality: QualityReport) -> dict[str, object]:
    """The report in values that JSON can hold; noise that is not known becomes None."""
    from dataclasses import asdict

    record = asdict(quality)
    record["noise_hu"] = quality.noise_hu if quality.noise_hu == quality.noise_hu else None
    return record


def quality_of_record(record: dict) -> QualityReport:
    """The report that `quality_as_record` wrote."""
    bone = record["bone"]
    hint = bone["osteoporosis"]
    return QualityReport(
        **record
        | {
            "voxel_mm": tuple(record["voxel_mm"]),
            "noise_hu": float("nan") if record["noise_hu"] is None else record["noise_hu"],
            "cut_off": {name: tuple(borders) for name, borders in record["cut_off"].items()},
            "missing": tuple(record["missing"]),
            "bone": BoneQuality(
                **bone
                | {
                    "density": {name: Density(**entry) for name, entry in bone["density"].items()},
                    "osteoporosis": None if hint is None else Hint(**hint),
                }
            ),
            "hints": tuple(Hint(**entry) for entry in record["hints"]),
            "must_check": tuple(Check(**entry) for entry in record["must_check"]),
        }
    )
