"""What a rehearsal leaves behind: scene, pictures, plan and report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slicer import vtkMRMLSegmentationNode

from ..cement.monitor import SpreadEvent
from ..cement.zones import make_zones
from ..errors import ImageError
from ..files import atomic_file
from ..image import Volume
from ..planning.files import write_plan
from ..planning.model import Side
from ..procedure.case import Case
from ..procedure.report import Curve, Figure, Marker, Outcome, Report, Table, plot_svg, write_report
from ..procedure.verify import VerifiedCement, find_cement
from ..scene import nodes
from ..scene.anatomy import LANDMARKS_NAME, readable
from ..scene.case import show_case
from ..scene.files import add_image_sequence
from ..scene.host import HeadlessHost
from ..scene.pictures import Photographer, save_png
from ..scene.records import write_record
from ..scene.verification import show_cement
from ..simulation.cement import CementTruth, paint_cement, post_operative_ct
from ..xray.detector import display_image, log_image
from ..xray.reach import angles_text
from .run import Rehearsal
from .scenario import Scenario
from .truth import Truth

_CT_NOISE_HU = 15.0
_KEPT_FRAMES = 40
_EVERY_SEEN = 5
_VIEW_NAMES = {"ap": "AP"}
_SIDE_COLORS = {"left": "#1f7a4d", "right": "#1f5fa8"}
_SEEN_COLOR, _ALARM_COLOR = "#d07a00", "#a3261f"


@dataclass(frozen=True)
class Verification:
    """The post-operative CT and what the procedure finds on it, by side."""

    after: Volume
    cement: dict[Side, VerifiedCement]


def verify(case: Case, truth: tuple[CementTruth, ...], rng: np.random.Generator) -> Verification:
    """Take the simulated post-operative CT and measure the cement on it."""
    after = post_operative_ct(case.ct, paint_cement(truth, case.ct))
    noisy = after.like((after.voxels + rng.normal(0, _CT_NOISE_HU, after.voxels.shape)).astype(np.int16))
    found: dict[Side, VerifiedCement] = {}
    for side in case.injections:
        tip = case.trocars[side].tip_ras
        try:
            found[side] = find_cement(case.ct, noisy, make_zones(case.anatomy, tip, (side,)), tip, _reach_mm(case))
        except ImageError:
            continue
    return Verification(noisy, found)


def write_results(
    folder: Path,
    rehearsal: Rehearsal,
    verification: Verification,
    truth: dict[Side, Truth],
    scenario: Scenario,
    facts: dict[str, str],
) -> Report:
    """Write case.mrb, plan.json, pictures and report.html into an existing folder."""
    case = rehearsal.case
    write_plan(case.plan, folder / "plan.json")
    figures = _pictures(folder, rehearsal, verification)
    outcome, headline = judge(case)
    report = Report(
        title=f"Sacroplasty rehearsal: {scenario.name}",
        outcome=outcome,
        headline=headline,
        facts=facts | {"Duration": f"{rehearsal.duration_s / 60:.1f} min of procedure time"},
        warnings=(*case.anatomy.warnings, *case.plan.notes),
        tables=_tables(case, verification, truth),
        figures=figures,
    )
    write_report(report, folder / "report.html")
    return report


def judge(case: Case) -> tuple[Outcome, str]:
    """Outcome and one sentence that says it all."""
    if case.refused:
        return "refused", case.refused
    record = case.stopped
    if record is None:
        given = ", ".join(f"{side} {one.given_ml:.1f} mL" for side, one in case.injections.items())
        return "completed", f"The planned cement was given ({given}); no leak was seen."
    leak = next((event for event in record.events if event.level == "leak"), None)
    if leak is None:
        return "stopped", f"Stopped on the {record.side} after {record.given_ml:.2f} mL: {record.stopped}."
    return (
        "stopped",
        f"Leak into {readable(leak.route)} on the {record.side}: the pump was stopped after {record.given_ml:.2f} mL.",
    )


def _pictures(folder: Path, rehearsal: Rehearsal, verification: Verification) -> list[Figure]:
    case = rehearsal.case
    host = HeadlessHost()
    scene = host.scene
    bones = show_case(scene, case)
    bones.CreateClosedSurfaceRepresentation()
    _show_for_3d(bones)
    after = nodes.add_volume(scene, verification.after, "Post-operative CT")
    if verification.cement:
        show_cement(scene, case.ct, verification.cement)
    for view, frames in rehearsal.live.kept.items():
        some = frames[:: max(1, len(frames) // _KEPT_FRAMES)]
        times = [frame.received_s - frames[0].received_s for frame in some]
        volumes = [Volume(frame.pixels[None].astype(np.uint16), np.diag([-1.0, -1.0, 1.0, 1.0])) for frame in some]
        add_image_sequence(scene, volumes, times, f"Fluoroscopy {view}")
    write_record(scene, "Sacroplasty rehearsal", {"outcome": judge(case)[0], "headline": judge(case)[1]})
    host.save(folder / "case.mrb")

    figures = []
    camera = Photographer(host)
    landmarks = nodes.first_node(scene, "vtkMRMLMarkupsFiducialNode", LANDMARKS_NAME)
    if landmarks is not None:
        landmarks.SetDisplayVisibility(False)
    frame = case.anatomy.SacrumToRAS
    middle = frame[:3, 3] - 30 * frame[:3, 2] + 25 * frame[:3, 1]
    posterior, superior = frame[:3, 1], frame[:3, 2]
    path = folder / "three_d.png"
    camera.three_d(path, middle, posterior + 0.35 * superior, superior, height_mm=160)
    figures.append(Figure(path, "Sacrum from behind with foramina, trocars as placed, and cement on the CT after it"))
    for side, placed in case.trocars.items():
        path = folder / f"axial_{side}.png"
        camera.slice(path, after, "Axial", placed.tip_ras, width_mm=170)
        figures.append(Figure(path, f"Post-operative CT through the {side} tip"))
    for fluoroscopy, what in ((rehearsal.live, "Last live picture"), (rehearsal.final, "Verification")):
        for view, frames in fluoroscopy.kept.items():
            last = frames[-1]
            path = folder / f"xray_{'live' if fluoroscopy is rehearsal.live else 'final'}_{view}.png"
            save_png(path, display_image(log_image(last.pixels, last.air_level or float(last.pixels.max()))))
            angles = angles_text(fluoroscopy.geometries[view])
            figures.append(Figure(path, f"{what}, {_VIEW_NAMES.get(view, view)} ({angles})"))
    path = folder / "injection.svg"
    with atomic_file(path) as draft:
        draft.write_text(_injection_svg(case), encoding="utf-8")
    figures.append(Figure(path, "Cement by the pump's counter, and as the monitor sees it"))
    return figures


def _show_for_3d(bones: vtkMRMLSegmentationNode) -> None:
    """Translucent sacrum with the protected structures in it."""
    display = bones.GetDisplayNode()
    for name in nodes.segment_names(bones):
        visible = name == "sacrum" or name.startswith(("foramen_", "sacral_canal"))
        display.SetSegmentVisibility3D(name, visible)
    display.SetSegmentOpacity3D("sacrum", 0.4)


def _injection_svg(case: Case) -> str:
    started = min((record.samples[0].time_s for record in case.injections.values() if record.samples), default=0.0)
    curves, markers = [], []
    for side, record in case.injections.items():
        times = [sample.time_s - started for sample in record.samples]
        seen = [(t, s.seen_ml) for t, s in zip(times, record.samples, strict=True) if np.isfinite(s.seen_ml)]
        if seen:
            x, y = zip(*seen[::_EVERY_SEEN], strict=True)
            curves.append(Curve(f"seen, {side}", _SEEN_COLOR, x, y, points=True))
        curves.append(Curve(f"pump, {side}", _SIDE_COLORS[side], times, [max(s.pump_ml, 0) for s in record.samples]))
        if record.stopped and times:
            markers.append(Marker(record.ended_s - started, "stop", _ALARM_COLOR))
    return plot_svg(curves, markers, "time since the first injection began [s]", "cement [mL]")


def _tables(case: Case, verification: Verification, truth: dict[Side, Truth]) -> list[Table]:
    tables = [
        Table(
            "Plan",
            ["side", "technique", "length", "cement", "nearest structures"],
            [
                [
                    side,
                    trajectory.technique,
                    f"{trajectory.length_mm:.0f} mm",
                    f"{trajectory.planned_volume_ml:.1f} mL",
                    ", ".join(
                        f"{readable(name)} {distance:.1f} mm"
                        for name, distance in sorted(trajectory.clearance_mm.items(), key=lambda item: item[1])[:3]
                    ),
                ]
                for side, trajectory in case.targets.items()
            ],
            "Clearance is that of the whole shaft's surface.",
        )
    ]
    if case.calibrations:
        rows = [
            [
                tool,
                f"{one.holdout_error_mm:.2f} mm",
                f"{one.tip_uncertainty_mm:.2f} mm",
                f"{one.axis_sd_deg:.1f}°",
            ]
            for tool, one in case.calibrations.items()
        ]
        columns = ["tool", "hold-out error", "uncertainty of the tip", "uncertainty of the shaft's direction"]
        tables.append(Table("Tool calibration", columns, rows))
    if case.registration is not None:
        rows = [
            [readable(name), f"{residual:.2f} mm", "–" if np.isnan(left_out) else f"{left_out:.2f} mm"]
            for name, residual, left_out in zip(
                case.registration.names, case.registration.residuals_mm, case.registration.leave_one_out_mm, strict=True
            )
        ]
        note = "Residuals do not tell the error at the target; that is predicted below."
        tables.append(Table("Patient registration", ["landmark", "residual", "left out of the fit"], rows, note))
    if case.trocars:
        rows = [
            [
                side,
                f"{placed.target_error_mm:.1f} mm",
                f"{placed.angle_deg:.1f}°",
                f"{placed.predicted_error_mm:.1f} mm",
                f"{truth[side].tip_error_mm:.1f} mm",
            ]
            for side, placed in case.trocars.items()
        ]
        columns = ["side", "off target", "angle", "expected error of the tip", "true error of the tip"]
        note = "Off target and angle as navigation saw them. The true error is known because the world was simulated."
        tables.append(Table("Trocars as placed", columns, rows, note))
    if case.injections:
        rows = []
        for side, record in case.injections.items():
            found = verification.cement.get(side)
            rows.append(
                [
                    side,
                    f"{record.planned_ml:.2f}",
                    f"{record.given_ml:.2f}",
                    f"{record.seen_ml:.2f} ± {record.seen_sd_ml:.2f}" if np.isfinite(record.seen_ml) else "not seen",
                    f"{found.volume_ml:.2f}" if found else "–",
                    f"{truth[side].delivered_ml:.2f}",
                    f"{truth[side].leaked_ml:.2f}",
                    record.stopped or f"finished in {record.steps} steps",
                ]
            )
        columns = ["side", "planned", "pump", "monitor", "CT after*", "true", "truly leaked", "end"]
        note = (
            "True figures are the simulators' own. *The CT shows cement together with the bone that it fills, "
            "so it reads more than was given."
        )
        tables.append(Table("Cement in mL", columns, rows, note))
        tables.append(_where_table(verification))
    events = [event for record in case.injections.values() for event in record.events]
    if events:
        tables.append(
            Table("What the monitor said", ["level", "route", "position R, A, S", "stop"], [_event(e) for e in events])
        )
    return tables


def _where_table(verification: Verification) -> Table:
    rows = [
        [side, readable(zone), f"{volume:.2f} mL"]
        for side, found in verification.cement.items()
        for zone, volume in sorted(found.by_zone_ml.items(), key=lambda item: -item[1])
    ]
    note = "Planned is the ala with its margin, bone the rest of the sacrum. Voxels count by their centre."
    return Table("Cement on the post-operative CT", ["side", "where", "volume"], rows, note)


def _event(event: SpreadEvent) -> list[str]:
    where = "–" if event.position_ras is None else ", ".join(f"{value:.0f}" for value in event.position_ras)
    return [event.level, readable(event.route), where, "yes" if event.stop else "no"]


def _reach_mm(case: Case) -> float:
    """Half the way between two tips, so that each cement is counted on its own side."""
    tips = [placed.tip_ras for placed in case.trocars.values()]
    return float(np.linalg.norm(tips[0] - tips[1])) / 2 if len(tips) == 2 else 45.0
