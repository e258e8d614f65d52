"""`sacroplasty rehearse`: the main job."""

from __future__ import annotations

from pathlib import Path

import click

from .common import OUTPUT_FOLDER, FiniteRange, json_option, report

_PACKAGED = ("normal", "leak")


@click.command("rehearse")
@click.argument("ct", required=False, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=OUTPUT_FOLDER, help="Folder for the results.")
@click.option("--labels", type=click.Path(path_type=Path), help="Label map of the bones of CT.")
@click.option("--series", help="DICOM series instance UID, when the folder holds several.")
@click.option(
    "--scenario", default="normal", show_default=True, metavar="FILE", help=f"A scenario document, or {_PACKAGED}."
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of world, hands and noise.")
@click.option("--speed", type=FiniteRange(0.1, 20), default=5.0, show_default=True, help="How much faster than life.")
@click.option(
    "--port", type=click.IntRange(0, 65533), default=0, help="First of three ports on 127.0.0.1; default: free ones."
)
@json_option
def command(
    ct: Path | None,
    out: Path,
    labels: Path | None,
    series: str | None,
    scenario: str,
    seed: int,
    speed: float,
    port: int,
    as_json: bool,
) -> None:
    """Rehearse the whole procedure on CT (default: the sample patient) with simulated tracker, C-arm and pump.

    Anatomy, plan, calibration, registration, guidance, injection with the spread monitor, verification. Writes
    case.mrb (opens in 3D Slicer), plan.json, journal.jsonl, pictures and report.html into the folder.
    """
    from ..errors import SacroplastyError
    from ..rehearsal.session import rehearse_case
    from .live_display import LiveDisplay

    if ct is None and (labels or series):
        raise SacroplastyError(
            "--labels and --series belong to a CT; give it too, or leave them out for the sample patient"
        )
    with LiveDisplay() as display:
        result = rehearse_case(
            ct=ct,
            labels=labels,
            series=series,
            out=out,
            scenario=scenario,
            seed=seed,
            speed=speed,
            first_port=port,
            display=display,
        )
    summary = {"out": str(out), "outcome": result.outcome, "headline": result.headline, "facts": result.facts}
    report(as_json, summary, f"{result.headline}\n{out / 'report.html'}")
