"""However a procedure ends, the pump has been told to stop before it is over."""

from __future__ import annotations

from pathlib import Path

import pytest

from sacroplasty.cement.injection import Prescription
from sacroplasty.procedure.conduct import conduct, expected_duration_s
from sacroplasty.procedure.inject import Fluoroscopy
from sacroplasty.procedure.journal import read_journal
from sacroplasty.procedure.prompts import Pivot
from theatre import VIEWS, Theatre, preparation_of


def conducted(theatre: Theatre):
    return conduct(
        theatre.case,
        ["psis_left"],
        preparation_of(theatre.case),
        theatre.live,
        Fluoroscopy(dict(VIEWS)),
        theatre.equipment,
        theatre.clocks,
        theatre.journal,
    )


def ended(theatre: Theatre) -> list[str]:
    return [entry["event"] for entry in read_journal(theatre.folder / "journal.jsonl")]


def test_a_refusal_ends_the_procedure_with_its_reason(tmp_path: Path) -> None:
    theatre = Theatre(tmp_path)
    theatre.play(conducted(theatre), 200.0)
    assert "Stylus could not be calibrated" in theatre.case.refused
    assert theatre.pump.orders == ["stop"]
    assert ended(theatre) == ["procedure_started", "procedure_refused", "procedure_ended"]


@pytest.mark.parametrize("thrown", [KeyboardInterrupt, RuntimeError, GeneratorExit])
def test_whatever_breaks_in_stops_the_pump(tmp_path: Path, thrown: type[BaseException]) -> None:
    theatre = Theatre(tmp_path)
    run = conducted(theatre)
    assert isinstance(next(run).task, Pivot)
    theatre.pump.state = "running"
    with pytest.raises(thrown):
        run.throw(thrown)
    assert theatre.pump.orders == ["stop"] and theatre.pump.state == "stopped"
    assert ended(theatre)[-1] == "procedure_ended"


def test_a_closed_window_stops_the_pump(tmp_path: Path) -> None:
    theatre = Theatre(tmp_path)
    run = conducted(theatre)
    next(run)
    run.close()
    assert theatre.pump.orders == ["stop"]


@pytest.mark.parametrize(("volume_ml", "seconds"), [(1.0, 20.0), (3.0, 60 + 2 * 20.0), (2.5, 50 + 2 * 20.0)])
def test_the_expected_time_counts_the_pauses_between_steps(volume_ml: float, seconds: float) -> None:
    assert expected_duration_s(Prescription("left", volume_ml, rate_ml_s=0.05)) == pytest.approx(seconds)
