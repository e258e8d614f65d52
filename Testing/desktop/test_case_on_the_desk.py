"""One case through the modules, by their buttons: what is done is recorded, and nothing outlives its reason."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.scene import anatomy, cement, navigation, nodes, planning
from sacroplasty.scene.workflow import workflow_steps
from scene.simple_case import make_anatomy, make_ct, make_plan


def states(scene):
    return {step.key: step.state for step in workflow_steps(scene)}


@pytest.fixture
def planned(desktop):
    """CT, anatomy and plan of boxes."""
    ct = make_ct()
    ct_node = nodes.add_volume(desktop.scene, ct, "CT")
    anatomy.show_anatomy(desktop.scene, make_anatomy(ct), ct_node)
    planning.show_plan(desktop.scene, make_plan(ct))
    return desktop.scene


def test_a_long_search_can_be_canceled_and_leaves_the_old_plan(desktop, planned, monkeypatch):
    from slicer import util

    made = []
    create = util.createProgressDialog

    def and_cancel(**keywords):
        dialog = create(**keywords)
        made.append(dialog)
        dialog.cancel()
        return dialog

    monkeypatch.setattr(util, "createProgressDialog", and_cancel)
    widget = desktop.open_module("SacroplastyPlanning")
    before = planning.plan_of(planned)
    widget.logic.plan = lambda *arguments: arguments[-1](0.5)
    widget.ui.planButton.click()
    assert made and not made[0].visible
    assert widget.ui.planButton.enabled
    assert [t.side for t in planning.plan_of(planned).trajectories] == [t.side for t in before.trajectories]


def test_views_are_recorded_only_after_both_were_looked_at(desktop, planned):
    widget = desktop.open_module("SacroplastyFluoroscopy")
    widget.ui.acceptButton.click()
    assert "ap and lateral" in widget.ui.statusLabel.text
    assert states(planned)["position"] == "ready"
    widget.ui.apButton.click()
    widget.ui.lateralButton.click()
    widget.ui.acceptButton.click()
    assert states(planned)["position"] == "done"


def test_cement_on_the_second_ct_is_measured_around_the_recorded_tip(desktop, planned):
    from sacroplasty.procedure.case import PlacedTrocar

    ct = make_ct()
    tip = np.array([-38.0, -14.0, 0.0])
    k, j, i = np.indices(ct.voxels.shape)
    ball = np.linalg.norm(np.stack([80 - 2.0 * i, 60 - 2.0 * j, -50 + 2.0 * k], axis=-1) - tip, axis=-1) <= 7
    after = nodes.add_volume(planned, ct.like(np.where(ball, 2500, ct.voxels).astype(np.int16)), "CT after")
    widget = desktop.open_module("SacroplastyFluoroscopy")
    widget._parameterNode.after = after
    widget.ui.verifyButton.click()
    assert "no trocar was recorded" in widget.ui.verificationLabel.text
    trajectory = planning.plan_of(planned).trajectories[0]
    navigation.show_trocar(planned, "left", PlacedTrocar(tip, tip - np.array([0, 80, 0]), 0.8, 1.0, 1.5), trajectory)
    widget.ui.verifyButton.click()
    assert widget.ui.verificationLabel.text.startswith("Left: Planned")
    total = sum(sum(zones.values()) for zones in widget.logic.measuredCement().values())
    assert total == pytest.approx(ball.sum() * 0.008, rel=1e-5)
    assert states(planned)["verification"] == "done"
    assert planned.GetFirstNodeByName("Cement") is not None


def test_withdrawal_is_recorded_once_cement_was_given(desktop, planned):
    widget = desktop.open_module("SacroplastyCementMonitor")
    widget.ui.withdrawnButton.click()
    assert "no cement was given" in widget.ui.withdrawalLabel.text
    cement.show_injections(planned, {"left": 3.0}, "")
    widget.ui.withdrawnButton.click()
    assert states(planned)["withdrawal"] == "done"
    widget.ui.tailButton.click()
    assert states(planned)["withdrawal"] == "blocked"


def test_a_listener_that_fails_stops_the_pump_and_is_not_asked_again(desktop):
    widget = desktop.open_module("SacroplastyDevices")
    asked, stops = [], []

    def failing(now):
        asked.append(now)
        raise RuntimeError("no decision")

    widget.logic.desk().stop_pump = stops.append
    widget.logic.addListener(failing)
    with pytest.raises(RuntimeError, match="no decision"):
        widget.logic.tick()
    widget.logic.tick()
    assert len(asked) == len(stops) == 1
