"""The eleven steps of a case, judged from a real scene."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core (the headless extra)")

from sacroplasty.image import Volume
from sacroplasty.scene import anatomy, nodes, planning, workflow
from sacroplasty.scene.nodes import add_text
from sacroplasty.scene.records import write_record
from scene.simple_case import make_ct


@pytest.fixture(scope="module")
def host():
    from sacroplasty.scene.host import HeadlessHost

    return HeadlessHost()


@pytest.fixture
def scene(host):
    host.scene.Clear(0)
    yield host.scene
    host.scene.Clear(0)


def states(scene):
    return {step.key: step.state for step in workflow.workflow_steps(scene)}


def finish(scene, *keys):
    for key in keys:
        workflow.write_step(scene, key, accepted=True, reasons=[])


def finish_imaging_and_plan(scene):
    scene.AddNewNodeByClass("vtkMRMLSegmentationNode", anatomy.SEGMENTATION_NAME)
    write_record(scene, anatomy.RECORD_NAME, {"confidence": {}})
    write_record(scene, planning.RECORD_NAME, {"trajectories": [{"accepted": True}]})


def test_nothing_is_done_in_an_empty_scene(scene):
    assert list(states(scene).values()) == ["ready", "ready", *["to do"] * 9]


def test_a_ct_alone_and_a_label_map_alone_are_no_segmentation(scene):
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    step = workflow.workflow_steps(scene)[1]
    assert (step.state, step.reason) == ("ready", "load a CT of the pelvis")
    picture = nodes.add_volume(scene, Volume(np.zeros((1, 64, 64), np.uint8), np.eye(4)), "X-ray")
    assert workflow.workflow_steps(scene)[1].reason == "load a CT of the pelvis"
    scene.RemoveNode(picture)
    nodes.add_volume(scene, make_ct(), "CT")
    step = workflow.workflow_steps(scene)[1]
    assert (step.state, step.reason) == ("ready", "segment the CT")


def test_a_record_without_its_segmentation_is_not_done(scene):
    write_record(scene, anatomy.RECORD_NAME, {"confidence": {}})
    assert states(scene)["imaging"] == "ready"


def test_each_step_waits_for_those_it_needs(scene):
    finish_imaging_and_plan(scene)
    assert states(scene)["registration"] == "ready"
    assert states(scene)["trocar"] == "to do"
    finish(scene, "registration")
    assert states(scene)["trocar"] == "to do", "the indication is still open"
    finish(scene, "indication")
    assert states(scene)["trocar"] == "ready"
    assert states(scene)["injection"] == "to do"
    finish(scene, "trocar", "cement")
    assert states(scene)["injection"] == "ready"


def test_all_steps_can_be_done(scene):
    finish_imaging_and_plan(scene)
    rest = [step.key for step in workflow.workflow_steps(scene) if step.key not in ("imaging", "plan")]
    finish(scene, *rest)
    assert set(states(scene).values()) == {"done"}


@pytest.mark.parametrize("accepted", [False, None, "true", 1])
def test_only_a_plain_true_counts_as_accepted(scene, accepted):
    write_record(
        scene, workflow.step_record_name("indication"), {"accepted": accepted, "reasons": ["pelvic instability"]}
    )
    step = workflow.workflow_steps(scene)[0]
    assert (step.state, step.reason) == ("blocked", "pelvic instability")


def test_a_damaged_record_blocks_its_step_and_those_after_it(scene):
    finish_imaging_and_plan(scene)
    finish(scene, "indication", "registration")
    add_text(scene, "{not json", workflow.step_record_name("trocar"))
    found = states(scene)
    assert (found["trocar"], found["cement"]) == ("blocked", "to do")


def test_a_step_that_does_not_exist_cannot_be_recorded(scene):
    with pytest.raises(KeyError, match="no step of the procedure is called anaesthesia"):
        workflow.write_step(scene, "anaesthesia", accepted=True, reasons=[])


def test_the_steps_come_back_from_a_saved_scene(host, scene, tmp_path):
    finish_imaging_and_plan(scene)
    finish(scene, "indication")
    before = states(scene)
    host.save(tmp_path / "case.mrb")
    scene.Clear(0)
    host.load(tmp_path / "case.mrb")
    assert states(scene) == before
