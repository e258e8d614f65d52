"""`sacroplasty spread`: where cement would go through the planned tips, at what pressure, and how likely it leaks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import OUTPUT_FOLDER, FiniteRange, json_option, progress, report

if TYPE_CHECKING:
    from ..cement.prediction import SpreadPrediction
    from ..cement.presets import CementPreset
    from ..planning.model import Depot, Trajectory


class _DepotOption(click.ParamType):
    """Volume through a tip that was drawn back, as `MM:ML`."""

    name = "MM:ML"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[float, float]:
        back, colon, volume = str(value).partition(":")
        number = FiniteRange(min=0)
        if not colon:
            self.fail(
                f"{value} is no depot; give how far the tip is drawn back and its volume, as 10:2", param, context
            )
        return number.convert(back, param, context), number.convert(volume, param, context)


@click.command("spread")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--plan", "plan_path", type=click.Path(path_type=Path), help="Plan document.  [default: DIR/plan.json]")
@click.option("--volume", "volume_ml", type=float, help="Through each tip, mL.  [default: the planned volume]")
@click.option(
    "--depot",
    "depots",
    type=_DepotOption(),
    multiple=True,
    help="In place of --volume: volume through the tip drawn back by so many mm; may be repeated, in order.",
)
@click.option("--balloon", "balloon_ml", type=float, help="Volume of a balloon's cavity at each tip, mL.")
@click.option("--rate", "flow_ml_s", type=float, default=0.05, show_default=True, help="mL/s.")
@click.option("--gauge", type=click.Choice(["11", "13"]), help="Of the trocar.  [default: by the planned diameter]")
@click.option(
    "--cement", default="generic-high-viscosity", show_default=True, help="Name of a preset, or a document of one."
)
@click.option(
    "--pressure-limit", "limit_kpa", type=float, default=4000.0, show_default=True, help="Of pump and line, kPa."
)
@click.option("--members", type=click.IntRange(1, 1000), default=32, show_default=True, help="Of the ensemble.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the ensemble.")
@click.option("--out", type=OUTPUT_FOLDER, help="Folder for the results.  [default: DIR/spread]")
@json_option
def command(
    folder: Path,
    plan_path: Path | None,
    volume_ml: float | None,
    depots: tuple[tuple[float, float], ...],
    balloon_ml: float | None,
    flow_ml_s: float,
    gauge: str | None,
    cement: str,
    limit_kpa: float,
    members: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Predict the cement of the best accepted trajectory of each side in DIR, the folder of `sacroplasty segment`.

    Writes spread.json and, for each side, the cement in intact bone as fractions of voxels (cement_left.nrrd) and the
    probability of cement in an ensemble of bones (probability_left.nrrd).
    """
    from ..anatomy.files import read_anatomy, read_segmented_ct
    from ..cement.line import injection_line
    from ..cement.prediction import predict_spread
    from ..cement.spread import balloon_cavity
    from ..documents import write_document
    from ..errors import PlanError
    from ..files import staged_directory
    from ..image import write_volume
    from ..planning.files import read_plan
    from ..planning.needles import needle

    for name, value, largest in (
        ("--volume", volume_ml, 16.0),
        ("--rate", flow_ml_s, 5.0),
        ("--balloon", balloon_ml, 10.0),
        ("--pressure-limit", limit_kpa, 50_000.0),
    ):
        if value is not None and not 0 < value <= largest:
            raise PlanError(f"{name} is {value}; give a positive number up to {largest:g}")
    preset = _preset(cement)
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

    predictions: dict[str, SpreadPrediction] = {}
    with progress("Predicting the spread") as update:
        for number, (side, item) in enumerate(best.items()):
            trocar = needle(int(gauge)) if gauge else item.needle
            predictions[side] = predict_spread(
                ct,
                anatomy,
                _depots(item, volume_ml, depots),
                side,
                injection_line(trocar),
                preset,
                flow_ml_s,
                members=members,
                seed=seed,
                limit_kpa=limit_kpa,
                cavity=balloon_cavity(item.target, balloon_ml) if balloon_ml else None,
                progress=lambda share, number=number: update((number + share) / len(best)),  # type: ignore[misc]
            )
    tips = [_record(side, one) for side, one in predictions.items()]
    content = {
        "coordinateSystem": "RAS",
        "image_hash": anatomy.image_hash,
        "cement": preset.name,
        "flow_ml_s": flow_ml_s,
        "ensemble": {"members": members, "seed": seed},
        "tips": tips,
    }
    target = out or folder / "spread"
    with staged_directory(target) as stage:
        for side, one in predictions.items():
            write_volume(one.cement, stage / f"cement_{side}.nrrd")
            write_volume(one.probability, stage / f"probability_{side}.nrrd")
        write_document(stage / "spread.json", "spread", content)
    text = "\n".join([line for side, one in predictions.items() for line in _lines(side, one)])
    report(as_json, {"out": str(target), "tips": tips}, f"{text}\nWritten to {target}")


def _preset(name: str) -> CementPreset:
    from ..cement.presets import load_presets, read_preset
    from ..errors import PlanError

    built_in = load_presets()
    if name in built_in:
        return built_in[name]
    if not Path(name).is_file():
        raise PlanError(f"--cement {name} is neither a file nor one of {', '.join(built_in)}")
    return read_preset(Path(name))


def _depots(item: Trajectory, volume_ml: float | None, asked: tuple[tuple[float, float], ...]) -> tuple[Depot, ...]:
    from ..cement.spread import withdrawn_depots
    from ..errors import PlanError
    from ..planning.model import Depot

    if not asked and volume_ml is None and item.depots:
        return item.depots
    if not asked:
        return (Depot(item.target, item.planned_volume_ml if volume_ml is None else volume_ml),)
    if volume_ml is not None:
        raise PlanError("give either --volume or --depot")
    return withdrawn_depots(item.target, item.entry_skin, asked)


def _record(side: str, one: SpreadPrediction) -> dict[str, Any]:
    return {
        "side": side,
        "depots": [{"tip": depot.position_ras.tolist(), "volume_ml": depot.volume_ml} for depot in one.depots],
        "volume_ml": one.volume_ml,
        "room_ml": one.room_ml,
        "in_plan_fraction": one.in_plan_fraction,
        "line_pressure_kpa": {"begin": one.pressure.begin_kpa, "end": one.pressure.end_kpa},
        "plunger_force_n": {"begin": one.pressure.begin_force_n, "end": one.pressure.end_force_n},
        "pressure_exceeded_at_s": one.pressure.exceeds_at_s,
        "pressure_warning": one.pressure.text,
        "tip_pressure_kpa": one.tip_pressure_kpa,
        "cement_file": f"cement_{side}.nrrd",
        "probability_file": f"probability_{side}.nrrd",
        "any_leak_probability": one.any_leak,
        "leak_risk": {
            route: {**vars(risk), "distance_mm": risk.distance_mm if risk.distance_mm < 1e3 else None}
            for route, risk in one.risks.items()
        },
    }


def _lines(side: str, one: SpreadPrediction) -> list[str]:
    lines = [
        f"{side}: {one.volume_ml:.1f} mL, {100 * one.in_plan_fraction:.0f} % in the planned ala; "
        f"{one.pressure.begin_kpa:.0f} to {one.pressure.end_kpa:.0f} kPa over the working time; "
        f"leaks in {100 * one.any_leak:.0f} % of {one.members} simulated bones"
    ]
    lines += [
        f"  {route}: {100 * risk.probability:.0f} %, from {risk.earliest_ml:.1f} mL on"
        for route, risk in one.risks.items()
        if risk.earliest_ml is not None
    ]
    near = [(risk.volume_at_risk_ml, route) for route, risk in one.risks.items() if risk.volume_at_risk_ml is not None]
    if near:
        lines.append(f"  reaches the bone's edge towards {min(near)[1]} after {min(near)[0]:.1f} mL")
    if one.volume_ml > one.room_ml:
        lines.append(f"  only {one.room_ml:.1f} mL find room in the bone around the tip")
    if one.pressure.text:
        lines.append(f"  {one.pressure.text}")
    return lines
