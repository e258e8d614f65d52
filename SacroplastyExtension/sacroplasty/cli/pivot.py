"""`sacroplasty pivot`: where a tool's tip is, from a recording."""

from __future__ import annotations

from pathlib import Path

import click

from .common import json_option, report


@click.command("pivot")
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("--tool", default="Stylus", show_default=True, help="Frame of the tool that was turned.")
@click.option("--reference", default="Reference", show_default=True, help="Frame in which the tip rested.")
@json_option
def command(recording: Path, tool: str, reference: str, as_json: bool) -> None:
    """Find the tip of a tool that was turned about its resting tip.

    RECORDING is a sequence metafile of the Plus toolkit (.igs.mha). A recording that cannot give the tip is refused
    with the reason.
    """
    from ..errors import CalibrationError
    from ..navigation.pivot import calibrate_pivot
    from ..navigation.plus_sequence import read_sequence

    poses = read_sequence(recording).poses(tool, reference)
    try:
        found = calibrate_pivot(poses)
    except CalibrationError as error:
        raise CalibrationError(f"{recording}: {error}") from None
    x, y, z = found.tip_in_tool_mm
    report(
        as_json,
        {
            "tip_in_tool_mm": found.tip_in_tool_mm.tolist(),
            "holdout_error_mm": found.holdout_error_mm,
            "rms_error_mm": found.rms_error_mm,
            "tip_uncertainty_mm": found.tip_uncertainty_mm,
            "orientation_range_deg": found.orientation_range_deg,
            "used_fraction": found.used_fraction,
            "poses": len(poses),
            "ignored_poses": found.ignored_poses,
        },
        f"tip of {tool}: {x:.2f} {y:.2f} {z:.2f} mm; error {found.holdout_error_mm:.2f} mm on poses held out; "
        f"turned through {found.orientation_range_deg:.0f} deg; {found.used_fraction:.0%} of the poses used, "
        f"{found.ignored_poses} missing",
    )
