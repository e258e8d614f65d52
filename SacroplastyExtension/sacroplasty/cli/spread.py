"""`sacroplasty spread`: where cement would go through the planned tips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import OUTPUT_FOLDER, json_option, progress, report

if TYPE_CHECKING:
    from ..planning.model import Trajectory


@click.command("spread")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--plan", "plan_path", type=click.Path(path_type=Path), help="Plan document.  [default: DIR/plan.json]")
@click.option("--volume", "volume_ml", type=float, help="Through each tip, mL.  [default: the planned volume]")
@click.option("--rate", "flow_ml_s", type=float, default=0.05, show_default=True, help="mL/s.")
@click.option("--gauge", type=click.Choice(["11", "13"]), help="Of the trocar.  [default: by the planned diameter]")
@click.option("--out", type=OUTPUT_FOLDER, help="Folder for the results.  [default: DIR/spread]")
@json_option
def command(
    folder: Path,
    plan_path: Path | None,
    volume_ml: float | None,
    flow_ml_s: float,
    gauge: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Predict the cement of the best accepted trajectory of each side in DIR, the folder of `sacroplasty segment`.

    Writes spread.json and, for each side, the cement as fractions of voxels (cement_left.nrrd, cement_right.nrrd).
    """
    from ..anatomy.files import read_anatomy, read_segmented_ct
    from ..cement.aging import GENERIC_HIGH_VISCOSITY
    from ..cement.prediction import predict_spread
    from ..documents import write_document
    from ..errors import PlanError
    from ..files import staged_directory
    from ..image import write_volume
    from ..planning.files import read_plan
    from ..planning.needles import needle

    for name, value in (("--volume", volume_ml), ("--rate", flow_ml_s)):
        if value is not None and not 0 < value <= 20:
            raise PlanError(f"{name} is {value}; give a positive number up to 20")
    anatomy = read_anatomy(folder)
    ct = read_segmented_ct(folder, anatomy)
    path = plan_path or folder / "plan.json"
    trajectories = read_plan(path, anatomy.image_hash).trajectories
    best: dict[str, Trajectory] = {}
    for item in trajectories:
        if item.accepted:
            best.setdefault(item.side, item)
    if not best:
        raise PlanError(f"{path} has no accepted trajectory; there is no tip to inject through")

    predictions = {}
    with progress("Predicting the spread") as update:
        for number, (side, item) in enumerate(best.items()):
            trocar = needle(int(gauge)) if gauge else item.needle
            volume = item.planned_volume_ml if volume_ml is None else volume_ml
            predictions[side] = predict_spread(
                ct, anatomy, item.target, side, volume, trocar, GENERIC_HIGH_VISCOSITY, flow_ml_s
            )
            update((number + 1) / len(best))
    tips: list[dict[str, Any]] = [
        {
            "side": side,
            "tip": best[side].target.tolist(),
            "volume_ml": one.volume_ml,
            "room_ml": one.room_ml,
            "in_plan_fraction": one.in_plan_fraction,
            "cannula_pressure_kpa": one.cannula_pressure_kpa,
            "tip_pressure_kpa": one.tip_pressure_kpa,
            "cement_file": f"cement_{side}.nrrd",
            "leak_risk": {route: vars(risk) for route, risk in one.risks.items()},
        }
        for side, one in predictions.items()
    ]
    content = {
        "coordinateSystem": "RAS",
        "image_hash": anatomy.image_hash,
        "cement": GENERIC_HIGH_VISCOSITY.name,
        "tips": tips,
    }
    target = out or folder / "spread"
    with staged_directory(target) as stage:
        for side, one in predictions.items():
            write_volume(one.cement, stage / f"cement_{side}.nrrd")
        write_document(stage / "spread.json", "spread", content)
    lines = []
    for side, one in predictions.items():
        at_risk = [(route, risk.volume_at_risk_ml) for route, risk in one.risks.items() if risk.volume_at_risk_ml]
        first = min(at_risk, key=lambda entry: entry[1] or 0.0, default=None)
        lines.append(
            f"{side}: {one.volume_ml:.1f} mL, {100 * one.in_plan_fraction:.0f} % in the planned ala, "
            f"{one.cannula_pressure_kpa:.0f} kPa in the cannula"
            + (f"; reaches the bone's edge towards {first[0]} after {first[1]:.1f} mL" if first else "")
        )
    report(as_json, {"out": str(target), "tips": tips}, "\n".join([*lines, f"Written to {target}"]))
