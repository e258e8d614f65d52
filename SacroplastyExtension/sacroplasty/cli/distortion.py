"""`sacroplasty distortion`: calibrate an image intensifier with a plate of beads."""

from __future__ import annotations

from pathlib import Path

import click

from .common import OUTPUT_FILE, json_option, report


@click.command("distortion")
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--out", type=OUTPUT_FILE, help="Where to keep the calibration (.json).")
@json_option
def command(picture: Path, out: Path | None, as_json: bool) -> None:
    """Find the distortion in PICTURE, of a plate with beads on a square grid that lies on the intensifier.

    PICTURE is DICOM XA or RF, PNG, TIFF, MHA or NRRD; the frames of a run are averaged. How far apart the beads are
    need not be told. The calibration is used by `monitor --distortion` and by the module Sacroplasty Devices.
    """
    import numpy as np

    from ..errors import CalibrationError
    from ..xray.bead_grid import calibrate_distortion
    from ..xray.distortion import write_distortion
    from ..xray.images import read_xray

    frames = read_xray(picture).frames
    try:
        found = calibrate_distortion(frames.mean(axis=0))
    except CalibrationError as error:
        raise CalibrationError(f"{picture}: {error}") from None
    rim = np.array([(np.cos(turn), np.sin(turn)) for turn in np.linspace(0, 2 * np.pi, 64)]) * found.radius
    columns, rows = found.detector_pixels
    ideal = (np.array([columns, rows]) - 1) / 2 + rim * columns / 2
    largest = float(np.linalg.norm(found.seen(ideal) - ideal, axis=1).max())
    if out is not None:
        write_distortion(found, out)
    lines = [
        f"{found.beads} beads; up to {largest:.1f} pixels at {50 * found.radius:.0f} % of the width from the middle; "
        f"they lie {found.rest_pixels:.2f} pixels beside the calibration"
    ]
    if out is not None:
        lines.append(f"Written to {out}")
    summary = {
        "beads": found.beads,
        "largest_pixels": largest,
        "rest_pixels": found.rest_pixels,
        "out": None if out is None else str(out),
    }
    report(as_json, summary, "\n".join(lines))
