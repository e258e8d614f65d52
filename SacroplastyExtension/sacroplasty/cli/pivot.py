"""`sacroplasty pivot`: where a tool's tip is, from a recording."""

from __future__ import annotations

from pathlib import Path

import click

from .common import OUTPUT_FILE, json_option, report


@click.command("pivot")
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("--tool", default="Stylus", show_default=True, help="Frame of the tool that was turned.")
@click.option("--reference", default="Reference", show_default=True, help="Frame in which the tip rested.")
@click.option(
    "--spin",
    "spin_recording",
    type=click.Path(path_type=Path),
    help="Recording of the same tool turned about its shaft, for the direction of the shaft.",
)
@click.option("--out", type=OUTPUT_FILE, help="Where to keep the calibration (.json).")
@json_option
def command(
    recording: Path, tool: str, reference: str, spin_recording: Path | None, out: Path | None, as_json: bool
) -> None:
    """Find the tip of a tool that was turned about its resting tip.

    RECORDING is a sequence metafile of the Plus toolkit (.igs.mha). A recording that cannot give the tip is refused
    with the reason.
    """
    from datetime import UTC, datetime

    import numpy as np

    from ..errors import CalibrationError
    from ..navigation.pivot import calibrate_pivot
    from ..navigation.plus_sequence import read_sequence
    from ..navigation.pose_checks import check_times
    from ..navigation.tool_axis import calibrate_spin
    from ..navigation.tool_calibration import tool_calibration, write_tool_calibration

    def poses_of(path: Path) -> tuple[np.ndarray, bool]:
        sequence = read_sequence(path)
        check_times(sequence.time_s)
        return sequence.poses(tool, reference), bool(sequence.without_status)

    where = recording
    try:
        poses, unsure = poses_of(recording)
        found = calibrate_pivot(poses)
        spin = None
        if spin_recording is not None:
            where = spin_recording
            spin = calibrate_spin(poses_of(spin_recording)[0])
        calibration = tool_calibration(tool, datetime.now(UTC), found, spin)
    except CalibrationError as error:
        text = str(error)
        raise CalibrationError(text if text.startswith(str(where)) else f"{where}: {text}") from None
    if out is not None:
        write_tool_calibration(calibration, out)
    x, y, z = found.tip_in_tool_mm
    lines = [
        f"tip of {tool}: {x:.2f} {y:.2f} {z:.2f} mm; error {found.holdout_error_mm:.2f} mm on poses held out; "
        f"turned through {found.orientation_range_deg:.0f} deg; {found.used_fraction:.0%} of the poses used, "
        f"{found.ignored_poses} missing"
    ]
    if spin is not None:
        direction = " ".join(f"{value:.4f}" for value in calibration.axis_in_tool)
        lines.append(f"shaft along {direction}, to {calibration.axis_sd_deg:.2f} deg")
    if unsure:
        lines.append("The recording does not say which poses were valid; all were taken but the identity.")
    if out is not None:
        lines.append(f"Written to {out}")
    report(
        as_json,
        {
            "tip_in_tool_mm": found.tip_in_tool_mm.tolist(),
            "axis_in_tool": None if spin is None else calibration.axis_in_tool.tolist(),
            "holdout_error_mm": found.holdout_error_mm,
            "rms_error_mm": found.rms_error_mm,
            "tip_uncertainty_mm": found.tip_uncertainty_mm,
            "orientation_range_deg": found.orientation_range_deg,
            "used_fraction": found.used_fraction,
            "poses": len(poses),
            "ignored_poses": found.ignored_poses,
            "without_status": unsure,
            "out": None if out is None else str(out),
        },
        "\n".join(lines),
    )
