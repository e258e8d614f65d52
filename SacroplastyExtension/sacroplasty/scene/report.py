"""The case as a document: indication, what was done, follow-up, and the page that shows all of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from slicer import vtkMRMLScene

from ..errors import DocumentError
from ..files import staged_directory
from ..procedure.indication import QUESTIONS, Answer, Verdict, assess_indication
from ..procedure.report import Curve, Figure, Outcome, Report, Table, plot_svg, write_report
from . import anatomy, cement, fluoroscopy, navigation, planning, verification
from .records import read_record, write_record
from .workflow import write_step

INDICATION_NAME = "Sacroplasty indication"
FOLLOW_UP_NAME = "Sacroplasty follow-up"


@dataclass(frozen=True)
class Visit:
    """A point in time at which pain is asked.

    Attributes:
        days: after the procedure; 0 is before it.
        published_vas: mean VAS of a meta-analysis (Chandra 2019); None where it gives none.
    """

    key: str
    text: str
    days: float
    published_vas: float | None


VISITS: tuple[Visit, ...] = (
    Visit("before", "before", 0.0, 8.32),
    Visit("hours", "24-48 h", 1.5, 3.55),
    Visit("2_weeks", "2 weeks", 14.0, None),
    Visit("1_month", "1 month", 30.0, None),
    Visit("3_months", "3 months", 91.0, None),
    Visit("6_months", "6 months", 182.0, 1.48),
    Visit("12_months", "12 months", 365.0, 0.92),
)


def set_answer(scene: vtkMRMLScene, key: str, answer: Answer) -> None:
    """Record the answer to one question of the indication checklist, and what follows from all of them."""
    if key not in {question.key for question in QUESTIONS}:
        raise DocumentError(f"the checklist has no question {key!r}")
    if answer not in get_args(Answer):
        raise DocumentError(f"an answer is {' or '.join(get_args(Answer))}, not {answer!r}")
    write_record(scene, INDICATION_NAME, {**answers(scene), key: answer})
    verdict = indication(scene)
    write_step(scene, "indication", verdict.indicated, list(verdict.reasons))


def answers(scene: vtkMRMLScene) -> dict[str, Answer]:
    """Answers given so far by question key."""
    record: dict[str, Any] = read_record(scene, INDICATION_NAME) or {}
    return {key: value for key, value in record.items() if value in get_args(Answer)}


def indication(scene: vtkMRMLScene) -> Verdict:
    """The verdict on the answers in the scene; one that is missing forbids."""
    return assess_indication(answers(scene))


def set_pain(scene: vtkMRMLScene, visit: str, vas: int) -> None:
    """Record the pain (VAS, 0 to 10) told at a visit."""
    if visit not in {known.key for known in VISITS}:
        raise DocumentError(f"there is no visit {visit!r}; the visits are {', '.join(known.key for known in VISITS)}")
    if not 0 <= vas <= 10:
        raise DocumentError(f"the VAS goes from 0 to 10; {vas} is none")
    write_record(scene, FOLLOW_UP_NAME, {**pain(scene), visit: vas})
    told = [known.text for known in VISITS if known.days > 0 and known.key in pain(scene)]
    if told:
        write_step(scene, "follow_up", True, [f"visits: {', '.join(told)}"])


def pain(scene: vtkMRMLScene) -> dict[str, int]:
    """VAS by visit, as far as told."""
    record: dict[str, Any] = read_record(scene, FOLLOW_UP_NAME) or {}
    return {visit.key: int(record[visit.key]) for visit in VISITS if visit.key in record}


def summary(scene: vtkMRMLScene) -> dict[str, str]:
    """The case in short lines, in the order of the procedure; what was not done says so."""
    verdict = indication(scene)
    lines = {"Indication": "indicated" if verdict.indicated else f"NOT indicated ({len(verdict.reasons)} open points)"}
    record = read_record(scene, anatomy.RECORD_NAME)
    lines["Anatomy"] = (
        "not segmented"
        if record is None
        else f"{record['method']}, {len(record['foramina'])} of 8 foramina, {len(record['warnings'])} warnings"
    )
    plan = planning.plan_of(scene)
    best = planning.chosen(plan) if plan else {}
    for side in ("left", "right"):
        trajectory = best.get(side)
        if trajectory is None:
            lines[f"Plan {side}"] = "none accepted" if plan else "not planned"
        else:
            nearest = min(trajectory.clearance_mm, key=trajectory.clearance_mm.__getitem__)
            lines[f"Plan {side}"] = (
                f"{trajectory.length_mm:.0f} mm, {trajectory.planned_volume_ml:.1f} mL, "
                f"{trajectory.clearance_mm[nearest]:.1f} mm to {anatomy.readable(nearest)}"
            )
    lines["Registration"] = navigation.registration_text(scene)
    placed = navigation.trocars(scene)
    lines["Trocars"] = (
        ", ".join(f"{side} {trocar.target_error_mm:.1f} mm off the target" for side, trocar in placed.items())
        or "none recorded"
    )
    lines["Cement"] = cement.given_text(scene)
    found = verification.measured(scene)
    lines["Cement on CT"] = (
        ", ".join(f"{sum(zones.values()):.1f} mL {side}" for side, zones in found.items()) or "not verified"
    )
    return lines


def export(scene: vtkMRMLScene, folder: Path, title: str = "Sacroplasty") -> Path:
    """Write `report.html` and `case.json` into a folder, whole or not at all. Returns the page's path.

    Raises:
        DocumentError: when no folder is given.
    """
    if not str(folder).strip() or Path(folder) == Path():
        raise DocumentError("choose a folder for the report")
    with staged_directory(Path(folder)) as stage:
        figure = stage / "pain.svg"
        figure.write_text(_pain_svg(scene), encoding="utf-8")
        figures = [Figure(figure, "Pain (VAS) over time against the published means")]
        for number, (caption, png) in enumerate(fluoroscopy.report_pictures(scene)):
            figures.append(Figure(stage / f"xray-{number}.png", caption))
            figures[-1].path.write_bytes(png)
        write_report(_report(scene, title, figures), stage / "report.html")
        for shown in figures:
            shown.path.unlink()
        text = json.dumps(_case(scene), indent=2, ensure_ascii=False, allow_nan=False)
        (stage / "case.json").write_text(text + "\n", encoding="utf-8")
    return Path(folder) / "report.html"


def _report(scene: vtkMRMLScene, title: str, figures: list[Figure]) -> Report:
    verdict, plan = indication(scene), planning.plan_of(scene)
    given = cement.given_ml(scene)
    outcome: Outcome = "refused"
    headline = "No cement was given."
    if given:
        outcome = "stopped" if cement.was_stopped(scene) else "completed"
        headline = ", ".join(f"{volume:.1f} mL {side}" for side, volume in given.items())
    told = pain(scene)
    known = answers(scene)
    return Report(
        title=title,
        outcome=outcome,
        headline=headline,
        facts=summary(scene),
        warnings=(*verdict.reasons, *anatomy.warnings_of(scene), *(plan.notes if plan else ())),
        tables=(
            Table(
                "Indication",
                ("Question", "Answer", "Wanted"),
                [(question.text, known.get(question.key, "unknown"), question.wanted) for question in QUESTIONS],
            ),
            *_views_tables(scene),
            *_trocar_tables(scene),
            Table(
                "Follow-up",
                ("Visit", "VAS", "Published mean"),
                [
                    (
                        visit.text,
                        str(told.get(visit.key, "–")),
                        "–" if visit.published_vas is None else f"{visit.published_vas:.2f}",
                    )
                    for visit in VISITS
                ],
                "Published means: meta-analysis of Chandra 2019.",
            ),
        ),
        figures=tuple(figures),
    )


def _views_tables(scene: vtkMRMLScene) -> list[Table]:
    """The angles of the C-arm, once views were found."""
    rows = [
        (row["view"], row["detector"], row["upper_end_above_prone_patient"], row["note"])
        for row in fluoroscopy.views_table(scene)
    ]
    columns = ("View", "Detector", "Upper end, patient prone", "Note")
    return [Table("C-arm views", columns, rows, "Angles for a patient who lies as in the CT.")] if rows else []


def _trocar_tables(scene: vtkMRMLScene) -> list[Table]:
    """How the trocars lie, once one was placed."""
    placed = navigation.trocars(scene)
    rows = [
        (
            side,
            f"{off.entry_mm:.1f} mm",
            f"{off.target_mm:.1f} mm",
            f"{off.depth_mm:+.1f} mm",
            f"{off.angle_deg:.1f}°",
            f"{placed[side].predicted_error_mm:.1f} mm",
        )
        for side, off in navigation.deviations(scene).items()
    ]
    columns = ("Side", "Entry", "Target", "Too deep", "Angle", "Expected error of the tip")
    note = "Deviation from the plan as navigation saw it; the true place differs from it by the expected error."
    return [Table("Trocars as placed", columns, rows, note)] if rows else []


def _pain_svg(scene: vtkMRMLScene) -> str:
    told = pain(scene)
    published = [(visit.days, visit.published_vas) for visit in VISITS if visit.published_vas is not None]
    own = [(visit.days, float(told[visit.key])) for visit in VISITS if visit.key in told]
    curves = [
        Curve(name, color, [days for days, _ in course], [vas for _, vas in course])
        for name, color, course in (("published mean", "#7a8b99", published), ("this patient", "#b00020", own))
        if course
    ]
    return plot_svg(curves, (), "days after the procedure", "VAS")


def _case(scene: vtkMRMLScene) -> dict[str, Any]:
    """Everything the scene knows of the case, by record."""
    names = {
        "indication": INDICATION_NAME,
        "anatomy": anatomy.RECORD_NAME,
        "plan": planning.RECORD_NAME,
        "views": fluoroscopy.FOUND_VIEWS_NAME,
        "registration": navigation.REGISTRATION_NAME,
        "trocars": navigation.TROCARS_NAME,
        "cement": cement.RECORD_NAME,
        "verification": verification.RECORD_NAME,
        "follow_up": FOLLOW_UP_NAME,
    }
    return {"coordinateSystem": "RAS", **{key: read_record(scene, name) for key, name in names.items()}}
