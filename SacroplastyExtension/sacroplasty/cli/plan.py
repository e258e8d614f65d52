"""`sacroplasty plan`: from a segmentation to ranked trajectories."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from .common import OUTPUT_FILE, json_option, progress, report

if TYPE_CHECKING:
    from ..planning.model import Side, Technique, Trajectory

#: Exit code when the search ended without an acceptable trajectory on a side that was asked for.
NONE_ACCEPTABLE = 3


@click.command("plan")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--side", type=click.Choice(["left", "right", "both"]), default="both", show_default=True)
@click.option(
    "--technique",
    type=click.Choice(["short-axis", "long-axis", "double-needle", "transiliac", "body-s1", "body-s2", "body-s3"]),
    default="short-axis",
    show_default=True,
)
@click.option("--gauge", type=click.Choice(["11", "13"]), default="11", show_default=True, help="Of the trocar.")
@click.option(
    "--margin", "margin_mm", type=float, default=3.0, show_default=True, help="Least clearance of the shaft, mm."
)
@click.option(
    "--confirm",
    "confirmed",
    metavar="NAME",
    multiple=True,
    help="A structure of low confidence that you have looked at and found right; may be repeated. Goes into the plan.",
)
@click.option("--out", type=OUTPUT_FILE, help="Plan document.  [default: DIR/plan.json]")
@json_option
def command(
    folder: Path,
    side: str,
    technique: str,
    gauge: str,
    margin_mm: float,
    confirmed: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Search trocar trajectories in DIR, the folder that `sacroplasty segment` wrote.

    A structure that was found with a low confidence blocks the sides that it concerns until somebody confirms it.

    Exits with 3 when a side that was asked for has no acceptable trajectory; the plan then says why.
    """
    from ..anatomy.confirmation import confirm
    from ..anatomy.files import read_anatomy, read_segmented_ct
    from ..planning.context import PlanningContext
    from ..planning.files import write_plan
    from ..planning.needles import needle
    from ..planning.options import PlanOptions
    from ..planning.search import plan_trajectories

    anatomy = confirm(read_anatomy(folder), confirmed)
    ct = read_segmented_ct(folder, anatomy)
    sides = cast("tuple[Side, ...]", ("left", "right") if side == "both" or technique == "double-needle" else (side,))
    with progress("Searching trajectories") as update:
        options = PlanOptions(cast("Technique", technique), needle(int(gauge)), margin_mm, max(margin_mm, 5.0))
        plan = plan_trajectories(PlanningContext(ct, anatomy), sides, options, update)
    path = out or folder / "plan.json"
    write_plan(plan, path)
    best = {name: next((item for item in plan.trajectories if item.side == name), None) for name in sides}
    accepted = {name: item is not None and item.accepted for name, item in best.items()}
    report(
        as_json,
        {
            "out": str(path),
            "accepted": accepted,
            "best": {name: _summary(item) for name, item in best.items() if item is not None},
            "blocked": {name: list(reasons) for name, reasons in plan.blocked.items()},
            "confirmed": list(plan.confirmed),
            "notes": list(plan.notes),
            "trajectories": len(plan.trajectories),
        },
        "\n".join(
            [
                *(_line(name, item, plan.blocked.get(name, ())) for name, item in best.items()),
                *plan.notes,
                f"Written to {path}",
            ]
        ),
    )
    if not all(accepted.values()):
        sys.exit(NONE_ACCEPTABLE)


def _summary(item: Trajectory) -> dict[str, object]:
    return {
        "entry_skin": item.entry_skin.tolist(),
        "target": item.target.tolist(),
        "length_mm": item.length_mm,
        "nearest": min(item.clearance_mm, key=item.clearance_mm.__getitem__),
        "nearest_mm": min(item.clearance_mm.values()),
        "planned_volume_ml": item.planned_volume_ml,
        "accepted": item.accepted,
        "reasons": list(item.reasons),
    }


def _line(side: str, item: Trajectory | None, blocked: tuple[str, ...]) -> str:
    from ..planning.options import SMALLEST_USUAL_ML

    if blocked:
        return f"{side}: not planned: {'; '.join(blocked)}"
    if item is None:
        return f"{side}: no trajectory"
    if not item.accepted:
        return f"{side}: none acceptable; the least bad one: {'; '.join(item.reasons)}"
    nearest = min(item.clearance_mm, key=item.clearance_mm.__getitem__)
    text = (
        f"{side}: {item.length_mm:.0f} mm from skin to target, "
        f"nearest {nearest} at {item.clearance_mm[nearest]:.1f} mm, {item.planned_volume_ml:.1f} mL"
    )
    if item.planned_volume_ml < SMALLEST_USUAL_ML:
        text += f" (less than the usual {SMALLEST_USUAL_ML:.0f} mL: no more fits between cortex and foramina here)"
    return text
