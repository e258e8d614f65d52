"""What is uncertain blocks planning of its sides until a person confirms it; what is unseen always does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sacroplasty.anatomy.confirmation import Reliability, blocking_reasons, confirm, relied_on, to_confirm
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.errors import AnatomyError, PlanError
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.files import read_plan, write_plan
from sacroplasty.planning.search import plan_trajectories
from sacroplasty.procedure.case import Case
from sacroplasty.procedure.prepare import prepare

SURE = Reliability(
    confidence=dict.fromkeys([*relied_on("left"), *relied_on("right")], 0.9), quality=None, confirmed=frozenset()
)


def _with(**confidence: float) -> Reliability:
    return replace(SURE, confidence=SURE.confidence | confidence)


def test_a_sure_anatomy_blocks_nothing() -> None:
    assert blocking_reasons(SURE, "left") == blocking_reasons(SURE, "right") == ()
    assert to_confirm(SURE, ["left", "right"]) == ()


@pytest.mark.parametrize("confidence", [0.49, 0.0, float("nan")])
def test_low_and_impossible_confidence_block_the_side_that_relies_on_it_and_name_it(confidence: float) -> None:
    unsure = _with(foramen_s3_left=confidence)
    reasons = blocking_reasons(unsure, "left")
    assert len(reasons) == 1 and reasons[0].startswith("foramen_s3_left: ") and "confirm" in reasons[0]
    assert blocking_reasons(unsure, "right") == ()


def test_the_canal_concerns_both_sides() -> None:
    assert all(blocking_reasons(_with(sacral_canal=0.4), side) for side in ("left", "right"))


def test_a_confirmed_structure_no_longer_blocks() -> None:
    unsure = _with(foramen_s3_left=0.3, hip_left=0.4)
    assert to_confirm(unsure, ["left"]) == ("foramen_s3_left", "hip_left")
    half = confirm(unsure, ["foramen_s3_left"])
    assert to_confirm(half, ["left"]) == ("hip_left",)
    assert blocking_reasons(confirm(half, ["hip_left"]), "left") == ()


def test_nobody_can_confirm_what_the_ct_does_not_show() -> None:
    confidence = {name: value for name, value in SURE.confidence.items() if name != "hip_right"}
    without = replace(SURE, confidence=confidence)
    assert "hip_right: not found" in blocking_reasons(without, "right")[0]
    assert to_confirm(without, ["right"]) == ()
    with pytest.raises(AnatomyError, match="hip_right cannot be confirmed"):
        confirm(without, ["hip_right"])


@pytest.fixture(scope="module")
def unsure(simple_anatomy: Anatomy) -> Anatomy:
    return replace(simple_anatomy, confidence=simple_anatomy.confidence | {"foramen_s2_left": 0.3})


def test_planning_refuses_the_unsure_side_only_and_goes_on_once_it_is_confirmed(simple, unsure, tmp_path) -> None:
    plan = plan_trajectories(PlanningContext(simple.ct, unsure))
    assert list(plan.blocked) == ["left"] and plan.blocked["left"][0].startswith("foramen_s2_left: ")
    left = [item for item in plan.trajectories if item.side == "left"]
    assert left and all(not item.accepted and item.reasons[0] == plan.blocked["left"][0] for item in left)
    assert any(item.accepted for item in plan.trajectories if item.side == "right")

    again = plan_trajectories(PlanningContext(simple.ct, confirm(unsure, ["foramen_s2_left"])), ("left",))
    assert again.blocked == {} and again.trajectories[0].accepted
    write_plan(again, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json").confirmed == ("foramen_s2_left",)
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json").blocked == plan.blocked


def test_a_procedure_is_not_prepared_on_an_unsure_side(simple, simple_anatomy, unsure) -> None:
    plan = plan_trajectories(PlanningContext(simple.ct, simple_anatomy), ("left",))
    case = Case(simple.ct, unsure, plan, {"left": plan.trajectories[0]})
    with pytest.raises(PlanError, match=r"left must not be treated: foramen_s2_left"):
        prepare(case, lambda fraction: None)
