"""The injection at its devices: every fact that goes missing reaches the pump as a stop, with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cement_scene import PLACES
from sacroplasty.cement.after_flow import AfterFlowWatch
from sacroplasty.cement.aging import CementClock
from sacroplasty.cement.injection import Prescription
from sacroplasty.cement.interlock import Limits, Observed
from sacroplasty.devices.fluoroscope import CArmAnswer
from sacroplasty.errors import DeviceError
from sacroplasty.procedure import inject as inject_module
from sacroplasty.procedure.case import InjectionRecord
from sacroplasty.procedure.inject import inject, mix_cement, set_views, take_pictures
from sacroplasty.procedure.journal import read_journal
from sacroplasty.procedure.prepare import Preparation
from sacroplasty.procedure.prompts import ConnectLine, Press
from theatre import FRAME_PERIOD_S, Theatre, preparation_of

#: One step of one millilitre in four seconds.
PRESCRIPTION = Prescription("left", 1.0, rate_ml_s=0.25, wait_s=1.0)
LIMITS = Limits(frame_period_s=FRAME_PERIOD_S)


@pytest.fixture(scope="module")
def preparation(tmp_path_factory: pytest.TempPathFactory) -> Preparation:
    return preparation_of(Theatre(tmp_path_factory.mktemp("preparation")).case)


@pytest.fixture
def theatre(tmp_path: Path) -> Theatre:
    return Theatre(tmp_path)


def workable(theatre: Theatre) -> CementClock:
    """Cement that has just become workable."""
    cement = CementClock()
    return cement.mixed(theatre.clocks.procedure.now() - cement.preset.working_from_s - 1.0)


def treat(
    theatre: Theatre, preparation: Preparation, spoil: Callable[[Theatre], object] | None = None, stop: bool = False
) -> InjectionRecord:
    """Inject; once a third of a millilitre has flown, `spoil` what the test is about."""
    begun = {"spoilt": False}

    def act(prompt, passed_s):
        flowing = theatre.pump.delivered_ml > 0.3
        if flowing and not begun["spoilt"]:
            begun["spoilt"] = True
            if spoil is not None:
                spoil(theatre)
            if stop:
                return "stop"
        if isinstance(prompt.task, ConnectLine):
            return "continue"
        return prompt.task.request if isinstance(prompt.task, Press) else None

    cement = workable(theatre)
    run = inject(
        PRESCRIPTION,
        theatre.case,
        preparation,
        cement,
        theatre.live,
        theatre.equipment,
        theatre.clocks,
        theatre.journal,
        LIMITS,
    )
    return theatre.play(run, 60.0, act)


def test_an_undisturbed_injection_gives_what_was_planned(theatre: Theatre, preparation: Preparation) -> None:
    record = treat(theatre, preparation)
    assert record.stopped == ""
    assert record.given_ml == pytest.approx(1.0, abs=0.02) == theatre.pump.delivered_ml
    assert record.seen_ml == pytest.approx(1.0, rel=0.1)
    assert [event.level for event in record.events if event.level == "leak"] == []


def _old_state(theatre: Theatre) -> None:
    theatre.pump.age_s = 0.5


def _cement_in(place: str) -> Callable[[Theatre], None]:
    return lambda theatre: theatre.fluoroscope.leaks.append((PLACES[place], 0.3))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(lambda t: setattr(t.pump, "connected", False), "not connected", id="pump gone"),
        pytest.param(_old_state, "0.5", id="pump silent"),
        pytest.param(lambda t: setattr(t.pump, "fault", "stall"), "fault", id="pump fault"),
        pytest.param(lambda t: setattr(t.pump, "pressure_kpa", 4500.0), "pressure", id="pressure"),
        pytest.param(lambda t: setattr(t.pump, "pressure_kpa", float("nan")), "pressure", id="pressure unknown"),
        pytest.param(lambda t: setattr(t.pump, "delivered_ml", float("nan")), "volume", id="volume unknown"),
        pytest.param(lambda t: t.fluoroscope.sends.update(ap=False), "ap", id="one view dark"),
        pytest.param(lambda t: t.fluoroscope.frozen.add("lateral"), "lateral", id="one view frozen"),
        pytest.param(lambda t: setattr(t.fluoroscope, "posed", False), "monitor", id="pose unknown"),
        pytest.param(_cement_in("foramen_s1_left"), "leak", id="cement in a foramen"),
        pytest.param(_cement_in("presacral"), "leak", id="cement before the sacrum"),
        pytest.param(lambda t: t.procedure_time.skip(3600.0), "cement", id="cement too old"),
    ],
)
def test_what_goes_wrong_while_cement_flows_stops_the_pump(
    theatre: Theatre, preparation: Preparation, spoil: Callable[[Theatre], object], reason: str
) -> None:
    record = treat(theatre, preparation, spoil)
    assert record.stopped and reason in record.stopped.lower(), record.stopped
    assert theatre.pump.state == "stopped"
    assert theatre.pump.orders.index("stop") > theatre.pump.orders.index("run")
    assert "run" not in theatre.pump.orders[theatre.pump.orders.index("stop") :]
    assert not record.given_ml > 0.7, "long before the millilitre was given"
    journal = read_journal(theatre.folder / "journal.jsonl")
    assert next(entry["reason"] for entry in journal if entry["event"] == "injection_stopped")


def test_the_operator_stops_at_once(theatre: Theatre, preparation: Preparation) -> None:
    record = treat(theatre, preparation, stop=True)
    assert "stop was pressed" in record.stopped
    assert theatre.pump.delivered_ml < 0.35


def test_a_pump_that_does_not_move_is_no_success(theatre: Theatre, preparation: Preparation) -> None:
    theatre.pump.moves = False
    record = treat(theatre, preparation)
    assert record.stopped and theatre.pump.orders[-1] == "stop"
    assert record.given_ml == 0


def test_an_alarm_of_the_pump_stops_and_stands_in_journal_and_record(
    theatre: Theatre, preparation: Preparation
) -> None:
    record = treat(
        theatre, preparation, lambda t: setattr(t.pump, "alarm", "the pump goes on: switch it off at the pump")
    )
    assert theatre.pump.state == "stopped"
    assert "ALARM: the pump goes on: switch it off at the pump" in record.stopped
    (entry,) = [one for one in read_journal(theatre.folder / "journal.jsonl") if one["event"] == "pump_alarm"]
    assert entry["side"] == "left" and entry["text"] == theatre.pump.alarm


def test_the_answer_of_a_pump_that_refuses_is_told(theatre: Theatre, preparation: Preparation) -> None:
    theatre.pump.refuses = "run"
    record = treat(theatre, preparation)
    assert "refuses to run: the syringe is empty" in record.stopped
    refusals = [one for one in read_journal(theatre.folder / "journal.jsonl") if one["event"] == "pump_refused"]
    assert [one["order"] for one in refusals] == ["run"]


@pytest.mark.parametrize("dark", ["ap", "lateral"])
def test_without_pictures_of_both_views_no_injection_begins(
    theatre: Theatre, preparation: Preparation, dark: str
) -> None:
    theatre.fluoroscope.sends[dark] = False
    with pytest.raises(DeviceError, match="not send enough pictures"):
        treat(theatre, preparation)
    assert "run" not in theatre.pump.orders and "arm" not in theatre.pump.orders


def test_a_c_arm_that_refuses_or_stays_dark_ends_the_step_in_words(theatre: Theatre) -> None:
    run = set_views(theatre.live, theatre.equipment, theatre.clocks, theatre.journal)
    theatre.fluoroscope.sends = dict.fromkeys(theatre.fluoroscope.sends, False)
    with pytest.raises(DeviceError, match="no frame"):
        theatre.play(run, 60.0)
    theatre.fluoroscope.accepts = CArmAnswer(False, "it would hit the table")
    with pytest.raises(DeviceError, match="refuses: it would hit the table"):
        theatre.play(set_views(theatre.live, theatre.equipment, theatre.clocks, theatre.journal), 60.0)


def test_after_the_last_pictures_the_beam_is_off(theatre: Theatre) -> None:
    theatre.play(take_pictures(theatre.live, theatre.equipment, theatre.clocks, theatre.journal), 10.0)
    assert {view: len(frames) >= 1 for view, frames in theatre.live.kept.items()} == {"ap": True, "lateral": True}
    assert not theatre.fluoroscope.exposing


def test_cement_is_mixed_anew_when_it_would_not_last(theatre: Theatre) -> None:
    def mix(clock: CementClock, duration_s: float) -> CementClock:
        return theatre.play(mix_cement(clock, duration_s, theatre.clocks, theatre.journal), 3600.0)

    cement = mix(CementClock(), 60.0)
    now_s = theatre.clocks.procedure.now()
    assert cement.phase(now_s) == "working"
    assert mix(cement, 60.0) is cement
    assert mix(cement, 3600.0) is not cement


def test_what_is_on_its_way_counts_so_that_the_pump_gives_less(
    theatre: Theatre, preparation: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AfterFlowWatch, "observed", lambda self, now_s: Observed(0.2, now_s))
    treat(theatre, preparation)
    assert theatre.pump.delivered_ml == pytest.approx(0.8, abs=0.03), "the rest comes by itself"


def test_a_person_decides_about_the_next_step_when_the_monitor_warns(
    theatre: Theatre, preparation: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inject_module, "monitor_warning", lambda routes: "cement where it should not be")
    asked: list[str] = []

    def act(prompt, passed_s):
        if isinstance(prompt.task, ConnectLine):
            return "continue"
        if isinstance(prompt.task, Press) and prompt.task.request == "continue":
            asked.append(prompt.text)
            return "stop"
        return prompt.task.request if isinstance(prompt.task, Press) else None

    two_steps = replace(PRESCRIPTION, planned_volume_ml=2.0)
    room = (theatre.live, theatre.equipment, theatre.clocks, theatre.journal, LIMITS)
    theatre.play(inject(two_steps, theatre.case, preparation, workable(theatre), *room), 60.0, act)
    assert "cement where it should not be; look at both views and decide" in asked[0]
    assert theatre.pump.delivered_ml == pytest.approx(1.0, abs=0.02), "no step began by itself"
