"""Indication, follow-up and the exported page."""

from __future__ import annotations

import json

import pytest

from sacroplasty.errors import DocumentError
from sacroplasty.procedure.indication import QUESTIONS
from sacroplasty.scene import anatomy, nodes, planning, report
from sacroplasty.scene.workflow import workflow_steps
from scene.simple_case import make_anatomy, make_ct, make_plan


def answer_all(scene):
    for question in QUESTIONS:
        report.set_answer(scene, question.key, question.wanted)


def test_the_checklist_never_passes_silently(scene):
    assert not report.indication(scene).indicated
    answer_all(scene)
    assert report.indication(scene).indicated
    report.set_answer(scene, "infection", "unknown")
    verdict = report.indication(scene)
    assert not verdict.indicated and "infection" in verdict.reasons[0]
    state = {step.key: step.state for step in workflow_steps(scene)}["indication"]
    assert state == "blocked"


def test_strange_answers_and_scores_are_refused(scene):
    for action in (
        lambda: report.set_answer(scene, "weather", "yes"),
        lambda: report.set_answer(scene, "infection", "maybe"),
        lambda: report.set_pain(scene, "before", 11),
        lambda: report.set_pain(scene, "tomorrow", 3),
    ):
        with pytest.raises(DocumentError):
            action()


def test_a_recorded_visit_can_be_corrected(scene):
    report.set_pain(scene, "before", 8)
    report.set_pain(scene, "before", 9)
    report.set_pain(scene, "hours", 3)
    assert report.pain(scene) == {"before": 9, "hours": 3}
    follow_up = {step.key: step for step in workflow_steps(scene)}["follow_up"]
    assert (follow_up.state, follow_up.reason) == ("done", "visits: 24-48 h")


def test_an_empty_case_says_what_was_not_done(scene):
    lines = report.summary(scene)
    assert lines["Indication"].startswith("NOT indicated")
    assert (lines["Anatomy"], lines["Plan left"], lines["Registration"]) == (
        "not segmented",
        "not planned",
        "not registered",
    )


def test_page_and_record_of_a_case_are_written_together(scene, tmp_path):
    ct = make_ct()
    anatomy.show_anatomy(scene, make_anatomy(ct), nodes.add_volume(scene, ct, "CT"))
    planning.show_plan(scene, make_plan(ct))
    answer_all(scene)
    report.set_pain(scene, "before", 8)
    page = report.export(scene, tmp_path / "out", "Case <1>")
    text = page.read_text(encoding="utf-8")
    assert "Case &lt;1&gt;" in text and "not a medical device" in text
    assert "11.0 mm to Foramen S1 left" in text and "none accepted" in text
    case = json.loads((tmp_path / "out" / "case.json").read_text(encoding="utf-8"))
    assert case["follow_up"] == {"before": 8} and len(case["plan"]["trajectories"]) == 3
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["case.json", "report.html"]


def test_no_folder_is_refused(scene):
    with pytest.raises(DocumentError, match="choose a folder"):
        report.export(scene, "")
