"""`sacroplasty register`: where the patient lies in the CT, from touched points."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import OUTPUT_FILE, FiniteRange, json_option, progress, report

if TYPE_CHECKING:
    from ..anatomy.model import Anatomy
    from ..geometry import FloatArray
    from ..navigation.registration import PatientRegistration, Registration
    from ..navigation.surface_registration import LandmarkPairs
    from ..navigation.touched_points import TouchedPoints

#: Exit code when the points are in order, but the registration is not good enough to guide by.
NOT_GOOD_ENOUGH = 3
#: Largest root mean square residual of landmarks that register the patient, and that only begin the search [mm].
LARGEST_RMS_MM, LARGEST_GUESS_RMS_MM = 3.0, 6.0


@click.command("register")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--landmarks",
    "landmarks_file",
    required=True,
    type=click.Path(path_type=Path),
    help="Touched landmarks, named as in DIR/anatomy.json (.json, .mrk.json, .fcsv, .csv).",
)
@click.option("--swept", "swept_file", type=click.Path(path_type=Path), help="Points swept over bone, likewise.")
@click.option(
    "--any-order", is_flag=True, help="Find out which landmark is which; their names in the file are ignored."
)
@click.option(
    "--touch-error",
    "touch_error_mm",
    type=FiniteRange(min=0.01, max=10),
    default=0.5,
    show_default=True,
    help="Of one touch, root mean square over three axes, mm.",
)
@click.option(
    "--limit",
    "limit_mm",
    type=FiniteRange(min=0.1, max=20),
    default=2.0,
    show_default=True,
    help="Largest predicted error at a target, mm.",
)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    help="Plan whose targets count.  [default: DIR/plan.json, else the middles of the alae]",
)
@click.option("--out", type=OUTPUT_FILE, help="Registration document.  [default: DIR/registration.json]")
@json_option
def command(
    folder: Path,
    landmarks_file: Path,
    swept_file: Path | None,
    any_order: bool,
    touch_error_mm: float,
    limit_mm: float,
    plan_file: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Register the patient to the CT in DIR, the folder that `sacroplasty segment` wrote.

    The points are in the frame of the reference marker, in mm; a .csv has a row for each: name, x, y, z, or x, y, z
    alone. A .json is a document touched_points. Landmarks alone register the patient; with swept points they give the
    first guess and count along with the surface of the bone.

    Exits with 3, and writes nothing, when the registration is not good enough to guide by.
    """
    from ..anatomy.files import read_anatomy, read_segmented_ct
    from ..errors import PoorRegistrationError
    from ..navigation.bone_surface import surface_of_anatomy
    from ..navigation.registration import register_landmarks
    from ..navigation.registration_files import registration_record, write_registration
    from ..navigation.surface_registration import register_surface
    from ..navigation.touched_points import read_touched_points

    anatomy = read_anatomy(folder)
    targets = _targets(folder, anatomy, plan_file)
    swept = None if swept_file is None else read_touched_points(swept_file).points_mm
    names, pairs = _pairs(anatomy, read_touched_points(landmarks_file), any_order, touch_error_mm)
    # A first guess for the surface may be rough.
    largest_rms_mm = LARGEST_RMS_MM if swept is None else LARGEST_GUESS_RMS_MM
    try:
        by_landmarks = register_landmarks(
            pairs.moving, pairs.fixed, names, fle_mm=pairs.fle_mm, largest_rms_mm=largest_rms_mm
        )
        used: PatientRegistration = by_landmarks
        if swept is not None:
            with progress("Fitting the surface of the bone") as update:
                surface = surface_of_anatomy(anatomy, read_segmented_ct(folder, anatomy))
                update(0.6)
                used = register_surface(
                    swept,
                    surface,
                    by_landmarks.MovingToFixed,
                    list(targets.values()),
                    landmarks=pairs,
                    touch_error_mm=touch_error_mm,
                    largest_target_error_mm=limit_mm,
                )
        record = registration_record(used, by_landmarks, targets, anatomy.image_hash)
        _check_targets(record, by_landmarks, limit_mm, swept is None)
    except PoorRegistrationError as refusal:
        report(as_json, {"accepted": False, "reason": str(refusal)}, f"refused: {refusal}")
        sys.exit(NOT_GOOD_ENOUGH)
    path = out or folder / "registration.json"
    write_registration(record, path)
    summary = {
        "out": str(path),
        "accepted": True,
        "landmarks": record["landmarks"],
        "landmark_to_redo": record["landmark_to_redo"],
        "surface": record["surface"],
        "predicted_error_mm": {target["name"]: target["predicted_error_mm"] for target in record["targets"]},
        "warnings": list(record["warnings"]),
    }
    report(as_json, summary, _text(record, path))


def _targets(folder: Path, anatomy: Anatomy, plan_file: Path | None) -> dict[str, FloatArray]:
    """Where the error matters, by side: targets of the plan, or the middles of the alae."""
    import numpy as np

    from ..anatomy.labels import SIDES
    from ..errors import AnatomyError
    from ..planning.files import read_plan

    if plan_file is None and (folder / "plan.json").is_file():
        plan_file = folder / "plan.json"
    if plan_file is not None:
        accepted = [item for item in read_plan(plan_file, anatomy.image_hash).trajectories if item.accepted]
        best = {item.side: item.target for item in reversed(accepted)}
        if best:
            return {side: best[side] for side in SIDES if side in best}
    masks = {side: anatomy.region(f"ala_{side}") for side in SIDES}
    alae = {side: anatomy.regions.ras_of(np.argwhere(mask)).mean(axis=0) for side, mask in masks.items() if mask.any()}
    if not alae:
        raise AnatomyError(f"{folder} has neither a plan with an accepted trajectory nor alae; segment the CT again")
    return alae


def _pairs(
    anatomy: Anatomy, touched: TouchedPoints, any_order: bool, touch_error_mm: float
) -> tuple[list[str], LandmarkPairs]:
    """Touched landmarks beside those of the CT; the error of each is that of touching and that of the landmark."""
    import numpy as np

    from ..errors import CalibrationError
    from ..navigation.landmark_matching import match_landmarks
    from ..navigation.surface_registration import LandmarkPairs

    names = list(touched.names)
    if any_order:
        known = list(anatomy.landmarks)
        order = match_landmarks(touched.points_mm, [anatomy.landmarks[name].position_ras for name in known], known)
        names = [known[number] for number in order]
    unknown = [name for name in names if name not in anatomy.landmarks]
    if unknown:
        raise CalibrationError(
            f"there is no landmark {unknown[0]!r} in the anatomy; it has {', '.join(sorted(anatomy.landmarks))} "
            "(or use --any-order)"
        )
    found = [anatomy.landmarks[name] for name in names]
    fixed = np.array([landmark.position_ras for landmark in found])
    return names, LandmarkPairs(
        touched.points_mm, fixed, np.hypot(touch_error_mm, [landmark.uncertainty_mm for landmark in found])
    )


def _check_targets(record: dict[str, Any], landmarks: Registration, limit_mm: float, landmarks_alone: bool) -> None:
    from ..errors import PoorRegistrationError

    worst = max(record["targets"], key=lambda target: target["predicted_error_mm"])
    if not worst["predicted_error_mm"] <= limit_mm:
        again = f"touch {landmarks.redo!r} again, " if landmarks.redo else ""
        more = "sweep the surface of the bone as well (--swept)" if landmarks_alone else "sweep more of the bone"
        raise PoorRegistrationError(
            f"the predicted error at the {worst['name']} target is {worst['predicted_error_mm']:.1f} mm "
            f"(limit {limit_mm:.1f}); {again}{more}"
        )


def _text(record: dict[str, Any], path: Path) -> str:
    lines = []
    for row in record["landmarks"]:
        left_out = "" if row["left_out_mm"] is None else f", {row['left_out_mm']:.1f} mm when left out"
        again = "  <- touch again" if row["name"] == record["landmark_to_redo"] else ""
        lines.append(f"{row['name']}: {row['residual_mm']:.1f} mm off{left_out}{again}")
    surface = record["surface"]
    if surface:
        lines.append(f"surface: {surface['used']} of {surface['points']} points used, {surface['rms_mm']:.2f} mm RMS")
    for target in record["targets"]:
        lines.append(
            f"{target['name']} target: predicted error {target['predicted_error_mm']:.1f} mm "
            f"(95 % within {max(target['radii_95_mm']):.1f} mm)"
        )
    return "\n".join([*lines, *record["warnings"], f"Written to {path}"])
