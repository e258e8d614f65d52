"""Journal, indication checklist, report page and clocks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sacroplasty.clock import ManualClock, ScaledClock
from sacroplasty.errors import DocumentError
from sacroplasty.procedure.indication import QUESTIONS, assess_indication
from sacroplasty.procedure.journal import Journal, read_journal
from sacroplasty.procedure.report import Curve, Figure, Marker, Report, Table, plot_svg, render_html, write_report


def test_a_journal_keeps_all_entries_in_order(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.write(0.0, "started", side="left")
        journal.write(1.5, "tip", position_ras=np.array([1.0, 2.0, 3.0]), volume_ml=np.float32(0.5))
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.write(2.0, "stopped")
    assert [entry["event"] for entry in read_journal(tmp_path / "journal.jsonl")] == ["started", "tip", "stopped"]
    assert read_journal(tmp_path / "journal.jsonl")[1]["position_ras"] == [1.0, 2.0, 3.0]


def test_each_entry_is_on_the_disk_before_the_next_step(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write(0.0, "armed")
    assert read_journal(tmp_path / "journal.jsonl")[0]["event"] == "armed"
    journal.close()


def test_a_journal_cut_by_a_crash_is_read_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"time_s": 0, "event": "a"}\n{"time_s": 1, "eve')
    assert [entry["event"] for entry in read_journal(path)] == ["a"]
    path.write_text('{"time_s": 0, "eve\n{"time_s": 1, "event": "b"}\n')
    with pytest.raises(DocumentError, match="line 1"):
        read_journal(path)


def test_only_a_complete_and_clean_checklist_indicates() -> None:
    wanted = {question.key: question.wanted for question in QUESTIONS}
    assert assess_indication(wanted).indicated
    for question in QUESTIONS:
        missing = {key: answer for key, answer in wanted.items() if key != question.key}
        contrary = wanted | {question.key: "no" if question.wanted == "yes" else "yes"}
        for answers in (missing, wanted | {question.key: "unknown"}, contrary):
            verdict = assess_indication(answers)
            assert not verdict.indicated
            assert len(verdict.reasons) == 1
            assert question.text in verdict.reasons[0]
    assert len(assess_indication({}).reasons) == len(QUESTIONS)


def test_the_report_says_outcome_and_holds_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "curve.svg").write_text(plot_svg([Curve("a", "#000", [0, 1], [0, 2])], [], "s", "mL"))
    report = Report(
        title="Case <1>",
        outcome="stopped",
        headline="Leak into foramen S1 left after 2.3 mL",
        facts={"CT": "a & b"},
        warnings=["check < this"],
        tables=[Table("Plan", ["side", "mL"], [["left", "4.0"]], note="note")],
        figures=[Figure(tmp_path / "curve.svg", "Injection")],
    )
    write_report(report, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert "Leak into foramen S1 left after 2.3 mL" in html
    assert "not a medical device" in html
    assert "Case &lt;1&gt;" in html and "check &lt; this" in html and "a &amp; b" in html
    assert "data:image/svg+xml;base64," in html
    assert "<td>left</td><td>4.0</td>" in html
    assert "http" not in render_html(Report("t", "completed", "h")), "the page loads nothing from elsewhere"


@pytest.mark.parametrize("highest", [1e-9, 0.04, 0.9, 3.7, 8.0, 12, 640])
def test_plots_contain_all_their_points(highest: float) -> None:
    import re

    svg = plot_svg(
        [Curve("volume", "#111111", [0, highest], [0, highest], points=True)],
        [Marker(highest, "stop", "#f00")],
        "x",
        "y",
    )
    circles = [(float(x), float(y)) for x, y in re.findall(r"<circle cx='([\d.]+)' cy='([\d.]+)'", svg)]
    assert len(circles) == 2
    assert all(62 <= x <= 882 and 44 <= y <= 368 for x, y in circles)
    assert circles[1][0] > 500, "the plot is filled, not a corner of it"


def test_scaled_time_runs_faster_and_can_be_moved_forward_only() -> None:
    base = ManualClock(100.0)
    clock = ScaledClock(base, speed=6.0)
    base.advance(2.0)
    assert clock.now() == pytest.approx(12.0)
    clock.skip(30.0)
    assert clock.now() == pytest.approx(42.0)
    with pytest.raises(ValueError, match="back"):
        clock.skip(-1.0)
    with pytest.raises(ValueError, match="positive"):
        ScaledClock(base, speed=0.0)


def test_an_entry_is_one_line_of_json(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.write(0.0, "note", text="two\nlines")
    assert len((tmp_path / "j.jsonl").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "j.jsonl").read_text())["text"] == "two\nlines"
