"""A finished procedure in a scene says truthfully how far it came."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from sacroplasty.navigation.pivot import PivotCalibration
from sacroplasty.navigation.registration import register_landmarks
from sacroplasty.navigation.tool_calibration import tool_calibration
from sacroplasty.procedure.case import Case, InjectionRecord, PlacedTrocar
from sacroplasty.scene import navigation, nodes, report
from sacroplasty.scene.case import show_case
from sacroplasty.scene.workflow import workflow_steps
from scene.simple_case import make_anatomy, make_ct, make_plan


def states(scene):
    return {step.key: step.state for step in workflow_steps(scene)}


@pytest.fixture
def case():
    """Calibrated, with a registration; nothing was done yet beyond it."""
    ct = make_ct()
    plan = make_plan(ct)
    made = Case(ct, make_anatomy(ct), plan, {"left": plan.trajectories[0]})
    tip = np.array([0, 0, 150.0])
    for tool in ("Stylus", "Trocar"):
        pivot = PivotCalibration(tip, tip, 0.1, 0.12, np.eye(3) * 0.05**2 / 3, 60.0, 1.0, 0)
        made.calibrations[tool] = tool_calibration(tool, datetime(2026, 3, 1, 9, 0, tzinfo=UTC), pivot)
    points = np.array([[-45.0, -35, -5], [45, -35, -5], [0, -45, -10], [3, -30, -70]])
    shift = np.array([[0.3, 2, 3], [0, 2, 3], [0, 2, 3.2], [0, 2, 3]])
    made.registration = register_landmarks(points, points + shift, "abcd")
    return made


def place(case):
    tip = case.targets["left"].target + np.array([0.7, 0, 0])
    case.trocars["left"] = PlacedTrocar(tip, tip - np.array([0, 40.0, 0]), 0.7, 0.5, 1.1)


def test_a_completed_case_has_every_step_that_was_done_and_no_other(scene, case):
    place(case)
    case.injections["left"] = InjectionRecord("left", 4.0, given_ml=3.9)
    show_case(scene, case)
    assert states(scene) == {
        "indication": "ready",
        "imaging": "done",
        "plan": "done",
        "position": "done",
        "registration": "done",
        "trocar": "done",
        "cement": "done",
        "injection": "done",
        "withdrawal": "ready",
        "verification": "to do",
        "follow_up": "to do",
    }
    summary = report.summary(scene)
    assert summary["Trocars"] == "left 0.7 mm off the target"
    assert summary["Cement"] == "3.9 mL left"
    assert summary["Cement on CT"] == "not verified"
    assert np.allclose(nodes.matrix_of(scene.GetFirstNodeByName("ReferenceToRAS")), case.registration.MovingToFixed)
    assert scene.GetFirstNodeByName("Trocar left").IsA("vtkMRMLModelNode")


def test_a_stopped_injection_is_blocked_with_its_reason(scene, case):
    place(case)
    case.injections["left"] = InjectionRecord("left", 4.0, given_ml=1.4, stopped="leak into foramen_s1_left")
    show_case(scene, case)
    step = {step.key: step for step in workflow_steps(scene)}["injection"]
    assert (step.state, step.reason) == ("blocked", "leak into foramen_s1_left; 1.4 mL left")
    assert states(scene)["withdrawal"] == "ready", "the trocar comes out all the same"


def test_a_refused_registration_is_no_registration(scene, case):
    case.registration, case.refused = None, "the stylus was not seen"
    show_case(scene, case)
    assert (states(scene)["registration"], states(scene)["trocar"]) == ("blocked", "to do")
    assert navigation.registration_error_mm(scene) is None


def test_a_case_that_ends_before_the_trocar_says_so_there(scene, case):
    case.refused = "the left target was not reached"
    show_case(scene, case)
    assert (states(scene)["registration"], states(scene)["trocar"]) == ("done", "blocked")


def test_a_saved_case_tells_the_same_after_it_is_opened(scene, host, case, tmp_path):
    place(case)
    case.injections["left"] = InjectionRecord("left", 4.0, given_ml=3.9)
    show_case(scene, case)
    before = [(step.key, step.state, step.reason) for step in workflow_steps(scene)]
    host.save(tmp_path / "case.mrb")
    scene.Clear(0)
    assert states(scene)["plan"] == "to do"
    host.load(tmp_path / "case.mrb")
    assert [(step.key, step.state, step.reason) for step in workflow_steps(scene)] == before
    assert np.allclose(navigation.trocars(scene)["left"].tip_ras, case.trocars["left"].tip_ras)
