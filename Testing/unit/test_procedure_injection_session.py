"""The session: limits and stops under faults drawn by chance, and a journal from which a killed one is taken up."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from injection_room import FAULTS, LIMITS, Room, judge
from sacroplasty.cement.delivery import DeliveryFacts
from sacroplasty.cement.injection import Prescription
from sacroplasty.cement.interlock import Observed
from sacroplasty.cement.line import cannula_line
from sacroplasty.errors import DocumentError
from sacroplasty.procedure.injection_curves import axes_of, since_first_flow
from sacroplasty.procedure.injection_session import InjectionSession, Sample, Surroundings, Wish
from sacroplasty.procedure.journal import Journal, read_journal
from sacroplasty.procedure.recovery import mark, recover, unclosed

FOREVER = (3.0, 1e9)
LEFT = Prescription("left", 1.2, step_volume_ml=0.5, wait_s=1.0, rate_ml_s=0.25, pressure_limit_kpa=2900.0)
RIGHT = replace(LEFT, side="right", mode="continuous")


def played(
    folder: Path,
    faults: dict[str, tuple[float, float]],
    prescriptions: tuple[Prescription, ...] = (LEFT,),
    patience_s: float = 12.0,
):
    room = Room(2, folder, faults=faults, prescriptions=list(prescriptions), patience_s=patience_s)
    truth = room.play()
    return truth, judge(truth, read_journal(room.path)), room


def test_two_sides_are_given_as_planned_when_nothing_goes_wrong(tmp_path):
    truth, verdict, room = played(tmp_path, {}, tuple(replace(one, rate_ml_s=0.1) for one in (LEFT, RIGHT)), 40.0)
    assert verdict.clean and truth.doubts == []
    assert [one.side for one in truth.prescriptions] == ["left", "right"]
    for one in truth.prescriptions:
        assert truth.given_ml[one.side] == pytest.approx(one.planned_volume_ml, abs=0.16)
    assert room.session.state.phase == "finished"
    # One stop, when the line is moved to the other side.
    assert truth.resets and [order for _, order, _, _ in truth.orders].count("reset") == 1


@pytest.mark.parametrize("name", sorted(set(FAULTS) - {"disk full", "wrong buttons"}))
def test_every_fault_keeps_limits_stops_and_journal(tmp_path, name):
    faults = {name: FOREVER} | ({"stop pressed": (5.0, 1e9)} if name == "run after stop" else {})
    truth, verdict, _ = played(tmp_path, faults, patience_s=25.0)
    assert verdict.clean, verdict
    # These go by unnoticed, or end without a stop: what clogs is relieved here when the trocar is withdrawn by chance.
    quiet = (
        "doubled",
        "syringe empty",
        "late",
        "dropped",
        "counter not a number",
        "pressure not a number",
        "occlusion",
    )
    if name not in quiet:
        assert "stop" in [order for _, order, _, _ in truth.orders], "it was noticed"


def test_the_judge_is_no_yes_man(tmp_path):
    """What it is for is found when it is planted into a clean record."""
    truth, verdict, room = played(tmp_path, {"stop pressed": FOREVER})
    entries = read_journal(room.path)
    assert verdict.clean
    stop_s, _, _, tick = next(one for one in truth.orders if one[1] == "stop")
    run = ("run", {"volume_ml": 0.1})
    truth.orders.insert([one[1] for one in truth.orders].index("stop") + 1, (stop_s, *run, tick))
    assert judge(truth, entries).after_stop and judge(truth, entries).journal
    del truth.orders[[one[1] for one in truth.orders].index("stop") + 1]
    truth.doubts.append((10**6, "leak"))
    assert judge(truth, entries).late_stops
    truth.doubts.clear()
    truth.plunger[-1] = (truth.plunger[-1][0], 99.0, 9.0, "left")
    assert judge(truth, entries).volumes


def test_without_a_journal_nothing_begins_and_nothing_goes_on(tmp_path):
    room = Room(2, tmp_path, faults={}, prescriptions=[LEFT], patience_s=12.0)
    room.session.open_journal = None
    truth = room.play()
    assert truth.orders == [] and "no journal is kept" in room.session.refusal
    truth, verdict, room = played(tmp_path, {"disk full": FOREVER})
    assert verdict.clean
    assert [name for _, name, _, _ in truth.orders][-1] == "stop"
    assert "No space left" in room.session.trouble


class Hand:
    """A delivery that notes what it is told, and whether that was in the journal already."""

    def __init__(self, folder):
        self.folder, self.known = folder, []

    def order(self, command, now_s):
        paths = list(self.folder.glob("*.jsonl"))
        entries = read_journal(paths[0]) if paths else []
        self.known.append((command.name, bool(entries) and entries[-1].get("command") == command.name))

    def facts(self, now_s):
        state = "running" if self.known and self.known[-1][0] == "run" else "idle"
        return DeliveryFacts(
            Observed(True, now_s),
            Observed(False, now_s),
            Observed(100.0, now_s),
            Observed(0.0, now_s),
            Observed(state, now_s),
            Observed(0.0, now_s),
        )


def around(now_s):
    return Surroundings(
        {"ap": Observed(True, now_s)},
        Observed(True, now_s),
        Observed(False, now_s),
        Observed(1.0, now_s),
        Observed(0.9, now_s),
    )


def session_in(folder, **settings):
    path = folder / "injection-a.jsonl"
    made = InjectionSession(LIMITS, lambda: Journal(path), cannula_line(11, 2.388, 150.0), 0.0, 5000.0, **settings)
    made.clock = made.clock.mixed(-300.0).with_reading(0.0, 22.0)
    return made


def test_orders_are_written_before_they_are_given_and_a_stop_after(tmp_path):
    session, hand = session_in(tmp_path), Hand(tmp_path)
    session.choose(Prescription("left", 3.0), hand, 0.0)
    session.tick(around(0.1), hand, Wish("arm", False), 0.1)
    session.tick(around(0.2), hand, Wish(None, True), 0.2)
    session.stop(hand, 0.3)
    assert hand.known == [("arm", True), ("run", True), ("stop", False)]
    assert read_journal(tmp_path / "injection-a.jsonl")[-1]["event"] == "stop"


def test_after_one_side_the_line_is_moved_with_a_stopped_pump_and_a_reset(tmp_path):
    session, hand = session_in(tmp_path), Hand(tmp_path)
    session.choose(Prescription("left", 3.0), hand, 0.0)
    session.tick(around(0.1), hand, Wish("arm", False), 0.1)
    session.choose(Prescription("right", 3.0), hand, 0.2)
    assert session.side == "left" and "stop or finish" in session.refusal
    session.tick(around(0.3), hand, Wish(None, True), 0.3)
    session.tick(around(0.4), hand, Wish("finish", True), 0.4)
    assert session.state.phase == "finished"
    session.choose(Prescription("right", 3.0), hand, 0.5)
    assert hand.known[-1][0] == "stop" and session.state.phase == "stopped"
    assert "line to the right trocar" in session.state.reason
    session.tick(around(0.6), hand, Wish("arm", False), 0.6)
    assert session.state.phase == "stopped"
    session.tick(around(0.7), hand, Wish("reset", False), 0.7)
    session.tick(around(0.8), hand, Wish("arm", False), 0.8)
    assert (session.state.phase, session.side) == ("armed", "right")


def test_a_stopped_injection_is_not_gone_round_by_choosing_again(tmp_path):
    session, hand = session_in(tmp_path), Hand(tmp_path)
    session.choose(Prescription("left", 3.0), hand, 0.0)
    session.tick(around(0.1), hand, Wish("arm", False), 0.1)
    session.stop(hand, 0.2)
    session.choose(Prescription("left", 3.0), hand, 0.3)
    session.tick(around(0.4), hand, Wish("arm", False), 0.4)
    assert session.state.phase == "stopped"


def killed(folder, entries):
    with Journal(folder / "injection-b.jsonl") as journal:
        base = {"side": "left", "cement": "generic-high-viscosity", "mixed_at_unix_s": 4900.0, "counter_ml": 1.5}
        for time_s, event, facts in entries:
            journal.write(time_s, event, **base | {"given_ml": {"left": 1.4, "right": 0.5}} | facts)
    return folder / "injection-b.jsonl"


ENTRIES = [(0.0, "session_started", {"unix_s": 5000.0, "phase": "prepare"}), (60.0, "progress", {"phase": "injecting"})]


def test_a_killed_session_is_taken_up_stopped_with_clock_and_volumes(tmp_path):
    path = killed(tmp_path, ENTRIES)
    with path.open("a") as file:
        file.write('{"time_s": 61.0, "event": "prog')
    earlier = unclosed(tmp_path)
    assert earlier is not None and earlier.phase == "injecting" and earlier.ended_unix_s == 5060.0
    session, hand = session_in(tmp_path), Hand(tmp_path)
    session.take_up(earlier, 10.0, 5110.0)
    assert session.clock.equivalent_age_s(10.0) >= 210.0 and session.stopped
    session.choose(Prescription("left", 3.0, other_volume_ml=0.5), hand, 10.0)
    assert session.state.phase == "stopped" and session.given_ml == {"left": 1.4, "right": 0.5}
    for request in ("arm", "start", "continue", "finish"):
        session.tick(around(10.1), hand, Wish(request, True), 10.1)
        assert session.state.phase == "stopped"
    told = [name for name, _ in hand.known]
    assert set(told) == {"stop"}, "the pump is told so until it says that it stands"
    session.tick(around(10.2), hand, Wish("reset", False), 10.2)
    assert (session.state.phase, session.state.given_ml) == ("prepare", 1.4)


def test_what_flowed_after_the_last_entry_is_counted_when_the_pump_still_knows(tmp_path):
    killed(tmp_path, ENTRIES)
    session, hand = session_in(tmp_path), Hand(tmp_path)
    hand.facts = lambda now_s: DeliveryFacts(volume_ml=Observed(1.57, now_s), state=Observed("stopped", now_s))
    session.take_up(unclosed(tmp_path), 10.0, 5110.0)
    session.choose(Prescription("left", 3.0), hand, 10.0)
    session.tick(around(10.1), hand, Wish(), 10.1)
    assert session.given_ml["left"] == pytest.approx(1.47)


@pytest.mark.parametrize("ending", ["session_closed", "session_taken_over", "session_left"])
def test_a_session_that_was_dealt_with_is_not_offered_again(tmp_path, ending):
    path = killed(tmp_path, ENTRIES)
    if ending == "session_closed":
        killed(tmp_path, [(70.0, "session_closed", {"phase": "finished"})])
    else:
        mark(recover(path), ending)
    assert unclosed(tmp_path) is None and recover(path) is None


def test_closing_what_is_under_way_stops_it(tmp_path):
    session, hand = session_in(tmp_path), Hand(tmp_path)
    session.choose(Prescription("left", 3.0), hand, 0.0)
    session.tick(around(0.1), hand, Wish("arm", False), 0.1)
    session.tick(around(0.2), hand, Wish(None, True), 0.2)
    session.close(hand, 0.3)
    assert hand.known[-1][0] == "stop"
    assert [one["event"] for one in read_journal(tmp_path / "injection-a.jsonl")][-2:] == ["stop", "session_closed"]
    assert unclosed(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"event": "x"}\n',
        '{"time_s": 0, "event": "session_started", "unix_s": 1.0}\n',
        '{"nothing": 1\n{"time_s": 0, "event": "x"}\n',
    ],
)
def test_a_foreign_or_damaged_journal_is_refused_in_words(tmp_path, text):
    (tmp_path / "injection-c.jsonl").write_text(text)
    with pytest.raises(DocumentError, match="injection-c"):
        unclosed(tmp_path)


@pytest.mark.parametrize("volume", [-1.0, None, "much"])
def test_a_volume_that_cannot_be_is_not_recovered(tmp_path, volume):
    killed(tmp_path, [*ENTRIES, (61.0, "progress", {"phase": "injecting", "given_ml": {"left": volume, "right": 0.0}})])
    with pytest.raises(DocumentError, match="no journal of an injection"):
        unclosed(tmp_path)


def test_a_half_line_is_cut_before_a_journal_goes_on(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"time_s": 0, "event": "a"}\n{"time_s": 1, "ev')
    with Journal(path) as journal:
        journal.write(2.0, "b")
    assert [entry["event"] for entry in read_journal(path)] == ["a", "b"]
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_curves_stay_in_their_box_and_leave_gaps_where_nothing_is_known():
    samples = [Sample(float(time_s), 0.01 * time_s, 0.05, 100.0) for time_s in range(1000)]
    axes = axes_of(samples, [9.3, math.nan], 1.0, (10, 20, 210, 120))
    assert axes.highest == 10.0
    lines = axes.lines([one.time_s for one in samples], [one.given_ml for one in samples])
    assert 100 < len(lines) <= 240
    points = [point for line in lines for point in line]
    assert min(points) >= (10, 20) and max(x for x, _ in points) == 210
    assert points[-1][1] == round(120 - 9.99 * 10) and points[0][1] == 120
    assert len(axes.lines([0.0, 1.0, 2.0, 3.0], [1.0, math.nan, 2.0, 3.0])) == 1
    resting = [Sample(float(time_s), 0.0, math.nan, math.nan) for time_s in range(100)]
    assert since_first_flow([*resting, Sample(100.0, 0.1, 0.05, 50.0)])[0].time_s == 95.0
    assert since_first_flow([]) == [] and axes_of([], [], 1.0, (0, 0, 9, 9)).lines([], []) == []
    assert since_first_flow(resting)[-1] == resting[-1]
