"""`sacroplasty plan`: from a segmentation to ranked trajectories."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from .common import OUTPUT_FILE, OUTPUT_FOLDER, json_option, progress, report

if TYPE_CHECKING:
    from ..planning.context import PlanningContext
    from ..planning.model import Plan, Side, Technique, Trajectory
    from ..planning.needles import Needle
    from ..planning.options import PlanOptions

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
@click.option("--diameter", "diameter_mm", type=float, help="Outer diameter of another trocar, mm, instead of a gauge.")
@click.option("--length", "length_mm", type=float, help="Of the trocar from hub to tip, mm.  [default: 150]")
@click.option(
    "--margin", "margin_mm", type=float, default=3.0, show_default=True, help="Least clearance of the shaft, mm."
)
@click.option(
    "--preferred-margin", type=float, help="From where more clearance is worth no more, mm.  [default: margin + 2]"
)
@click.option(
    "--system-error",
    metavar="MM DEG",
    type=(float, float),
    help="Standard deviations of registration and tool together, of a coordinate and about an axis. 95 % of it is kept "
    "clear on top of the margin.",
)
@click.option("--biopsy", "biopsy_mm", type=float, help="Length of a sample to be taken at the tip before cement, mm.")
@click.option("--balloon", metavar="LENGTH DIAMETER", type=(float, float), help="A balloon before cement, mm.")
@click.option(
    "--limit",
    "limits",
    metavar="WHAT ML REASON",
    type=(click.Choice(["ala", "total"]), float, str),
    multiple=True,
    help="Another limit of volume for each ala or in total, and why; goes into the plan.",
)
@click.option(
    "--confirm",
    "confirmed",
    metavar="NAME",
    multiple=True,
    help="A structure of low confidence that you have looked at and found right; may be repeated. Goes into the plan.",
)
@click.option(
    "--line",
    "line_path",
    type=click.Path(path_type=Path),
    help="Check lines that were drawn elsewhere (.mrk.json, .fcsv, .csv) instead of searching.",
)
@click.option("--out", type=OUTPUT_FILE, help="Plan document.  [default: DIR/plan.json]")
@click.option("--export", type=OUTPUT_FOLDER, help="Folder for a table, markups lines and STL meshes.")
@json_option
def command(
    folder: Path,
    side: str,
    technique: str,
    gauge: str,
    diameter_mm: float | None,
    length_mm: float | None,
    margin_mm: float,
    preferred_margin: float | None,
    system_error: tuple[float, float] | None,
    biopsy_mm: float | None,
    balloon: tuple[float, float] | None,
    limits: tuple[tuple[str, float, str], ...],
    confirmed: tuple[str, ...],
    line_path: Path | None,
    out: Path | None,
    export: Path | None,
    as_json: bool,
) -> None:
    """Search trocar trajectories in DIR, the folder that `sacroplasty segment` wrote.

    Each side shows the recommended trajectory, the safest, the best filling and the shortest.
    A structure that was found with a low confidence blocks the sides that it concerns until somebody confirms it.

    Exits with 3 when a side that was asked for has no acceptable trajectory; the plan then says why.
    """
    from ..anatomy.confirmation import confirm
    from ..anatomy.files import read_anatomy, read_segmented_ct
    from ..planning.context import PlanningContext
    from ..planning.export import export_plan, read_lines
    from ..planning.files import write_plan
    from ..planning.model import Accuracy, VolumeOverride
    from ..planning.options import BalloonSize, PlanOptions
    from ..planning.search import plan_trajectories
    from ..xray.reach import read_range

    options = PlanOptions(
        technique=cast("Technique", technique),
        needle=_needle(gauge, diameter_mm, length_mm),
        margin_mm=margin_mm,
        preferred_margin_mm=margin_mm + 2.0 if preferred_margin is None else preferred_margin,
        accuracy=None if system_error is None else Accuracy(*system_error, 0.0, 0.0),
        overrides=tuple(VolumeOverride(what, limit, why) for what, limit, why in limits),  # type: ignore[arg-type]
        balloon=None if balloon is None else BalloonSize(*balloon),
        biopsy_throw_mm=biopsy_mm,
        view_is_feasible=read_range().contains,
    )
    anatomy = confirm(read_anatomy(folder), confirmed)
    context = PlanningContext(read_segmented_ct(folder, anatomy), anatomy)
    sides = cast("tuple[Side, ...]", ("left", "right") if side == "both" or technique == "double-needle" else (side,))
    with progress("Searching trajectories") as update:
        if line_path is None:
            plan = plan_trajectories(context, sides, options, update)
        else:
            plan = _plan_of_lines(context, read_lines(line_path), options)
            sides = tuple(dict.fromkeys(item.side for item in plan.trajectories))
    path = out or folder / "plan.json"
    write_plan(plan, path)
    if export is not None:
        export_plan(plan, export)
    of_side = {name: [item for item in plan.trajectories if item.side == name] for name in sides}
    accepted = {name: any(item.accepted for item in items) for name, items in of_side.items()}
    report(
        as_json,
        {
            "out": str(path),
            "accepted": accepted,
            "best": {name: _summary(items[0]) for name, items in of_side.items() if items},
            "choices": {name: [_summary(item) for item in items] for name, items in of_side.items()},
            "blocked": {name: list(reasons) for name, reasons in plan.blocked.items()},
            "confirmed": list(plan.confirmed),
            "notes": list(plan.notes),
            "trajectories": len(plan.trajectories),
        },
        "\n".join(
            [
                *(line for name, items in of_side.items() for line in _lines(name, items, plan.blocked.get(name, ()))),
                *([] if all(accepted.values()) else [_what_may_help(context)]),
                *plan.notes,
                f"Written to {path}",
            ]
        ),
    )
    if not all(accepted.values()):
        sys.exit(NONE_ACCEPTABLE)


def _needle(gauge: str, diameter_mm: float | None, length_mm: float | None) -> Needle:
    from ..planning.needles import custom_needle, needle

    if diameter_mm is None:
        return needle(int(gauge), length_mm)
    return custom_needle(diameter_mm, needle(int(gauge)).length_mm if length_mm is None else length_mm)


def _plan_of_lines(context: PlanningContext, lines: list, options: PlanOptions) -> Plan:
    """The lines checked, each on the side of the sacrum where its target lies."""
    from ..geometry import invert_rigid, transform_points
    from ..planning.check import check_trajectory
    from ..planning.search import plan_of

    RASToSacrum = invert_rigid(context.anatomy.SacrumToRAS)
    side_of = [cast("Side", "left" if transform_points(RASToSacrum, target)[0] > 0 else "right") for _, target in lines]
    items = [
        check_trajectory(context, entry, target, side, options, len(set(side_of)), "imported")
        for (entry, target), side in zip(lines, side_of, strict=True)
    ]
    return plan_of(context, items, options)


def _summary(item: Trajectory) -> dict[str, object]:
    return {
        "entry_skin": item.entry_skin.tolist(),
        "target": item.target.tolist(),
        "length_mm": item.length_mm,
        "nearest": min(item.clearance_mm, key=item.clearance_mm.__getitem__),
        "nearest_mm": min(item.clearance_mm.values()),
        "breach_probability": max(item.breach_probability.values(), default=0.0),
        "planned_volume_ml": item.planned_volume_ml,
        "depots_ml": [depot.volume_ml for depot in item.depots],
        "incidence_deg": item.incidence_deg,
        "lateral_to_s2_mm": item.lateral_to_s2_mm,
        "merits": list(item.merits),
        "accepted": item.accepted,
        "reasons": list(item.reasons),
        "cautions": list(item.cautions),
    }


def _lines(side: str, items: list[Trajectory], blocked: tuple[str, ...]) -> list[str]:
    if blocked:
        return [f"{side}: not planned: {'; '.join(blocked)}"]
    if not items:
        return [f"{side}: no trajectory"]
    if not items[0].accepted:
        return [f"{side}: none acceptable; the least bad one: {'; '.join(items[0].reasons)}"]
    return [
        f"{side} {'recommended' if number == 0 else number + 1}: {_one(item)}"
        for number, item in enumerate(items)
        if number == 0 or item.merits
    ]


def _what_may_help(context: PlanningContext) -> str:
    voxel_mm = float(context.ct.spacing_mm.max())
    return (
        f"What may help: a CT with thinner slices (voxels here: {voxel_mm:.1f} mm), a thinner trocar, another "
        "technique or side, or a smaller --margin if a person can answer for it"
    )


def _one(item: Trajectory) -> str:
    nearest = min(item.clearance_mm, key=item.clearance_mm.__getitem__)
    depots = " + ".join(f"{depot.volume_ml:.1f}" for depot in item.depots)
    text = (
        f"{item.length_mm:.0f} mm from skin to target, nearest {nearest} at {item.clearance_mm[nearest]:.1f} mm, "
        f"{depots} mL"
    )
    if item.merits:
        text += f" ({', '.join(item.merits)})"
    return "; ".join([text, *item.cautions])
