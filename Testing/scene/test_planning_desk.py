"""A plan under a person's hands: draw, drag, check, snap, mirror, choose, change volumes, undo, save."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sacroplasty.anatomy.labels import REGION_LABEL
from sacroplasty.errors import PlanError
from sacroplasty.planning.model import Accuracy
from sacroplasty.planning.options import PlanOptions
from sacroplasty.scene import anatomy, dicom, nodes, plan_desk, planning, trocar_models
from scene.planned_sacrum import context, desk_in, point, ready_context, searched, segmented

OPTIONS = PlanOptions()
#: Through the middle of the left ala, and through the S1 foramen of that side.
SAFE = point(40, 90, -30), point(40, 5, -25)
THROUGH_FORAMEN = point(21, 90, -28), point(21, 5, -28)


@pytest.fixture
def desk(scene, monkeypatch):
    """A desk on a patient whose distances are computed once for all tests."""
    monkeypatch.setattr(plan_desk, "PlanningContext", ready_context)
    return desk_in(scene)


@pytest.fixture
def planned(scene, desk):
    """A desk with the plan that the search found."""
    planning.show_plan(scene, searched())
    return desk


def rows(scene):
    return planning.trajectory_rows(scene)


def drag(row, shift):
    """Move a line as a person does, without any check."""
    entry, target = nodes.line_points(row.line)
    nodes.move_line(row.line, entry + shift, target + shift)


def test_a_line_drawn_into_the_ala_becomes_part_of_the_plan(scene, desk):
    index = desk.add([SAFE], OPTIONS)
    row = rows(scene)[index]
    assert row.trajectory.accepted and row.trajectory.source == "manual" and row.trajectory.side == "left"
    assert row.is_chosen, "the only accepted one of its side"
    assert planning.chosen(planning.plan_of(scene))["left"].source == "manual"
    assert np.allclose(nodes.line_points(row.line)[1], SAFE[1])


def test_a_line_through_a_foramen_is_refused_and_says_why(scene, desk):
    index = desk.add([THROUGH_FORAMEN], OPTIONS)
    row = rows(scene)[index]
    assert not row.trajectory.accepted and not row.is_chosen
    assert any("foramen_s1_left" in reason for reason in row.trajectory.reasons)
    with pytest.raises(PlanError, match="refused trajectory cannot be used"):
        desk.take(0)


def test_lines_that_cannot_be_measured_change_nothing(scene, planned):
    before = planning.plan_of(scene)
    with pytest.raises(PlanError, match="1 mm apart"):
        planned.add([SAFE, (SAFE[0], SAFE[0])], OPTIONS)
    assert len(planning.plan_of(scene).trajectories) == len(before.trajectories)
    assert not planned.can_undo


def test_live_clearance_is_that_of_a_ruler(scene, desk):
    index = desk.add([SAFE], OPTIONS)
    # The foramen is a hole of 5.5 mm radius, 19 mm beside the line and at most 3 mm above or below it. Planning adds
    # what its labels may be off.
    reading = desk.live(index)
    ruler = 19.0 - 5.5 - 1.524
    assert ruler - 5.0 < reading.clearance_mm["foramen_s1_left"] < ruler + 0.5
    drag(rows(scene)[index], point(-5, 0, 0) - point(0, 0, 0))
    moved = desk.live(index)
    nearer = reading.clearance_mm["foramen_s1_left"] - moved.clearance_mm["foramen_s1_left"]
    assert nearer == pytest.approx(5.0, abs=1.0)
    assert list(moved.clearance_mm.values()) == sorted(moved.clearance_mm.values())


def test_live_clearance_colors_the_shaft(scene, desk):
    index = desk.add([SAFE], OPTIONS)
    desk.select(index, movable=True)
    shaft = trocar_models.shaft_of(rows(scene)[index].line)
    before = array_of(shaft)
    drag(rows(scene)[index], point(-12, 0, 0) - point(0, 0, 0))
    desk.live(index)
    assert trocar_models.shaft_of(rows(scene)[index].line) is shaft
    assert array_of(shaft).min() < trocar_models.NEAR < array_of(shaft).max() + 1 and before.min() >= trocar_models.NEAR


def array_of(shaft):
    from vtk.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(shaft.GetPolyData().GetPointData().GetArray("Verdict")).copy()


def test_nothing_is_said_of_a_patient_whose_segments_were_changed_since(scene):
    desk = desk_in(scene)
    index = desk.add([SAFE], OPTIONS)
    _, segmentation = desk._nodes
    ct, found = segmented()
    nodes.set_segment(segmentation, "foramen_s1_left", found.regions.voxels == REGION_LABEL["ala_left"], ct)
    assert not desk.is_ready and desk.live(index) is None
    desk.check_all(OPTIONS)
    assert not rows(scene)[index].trajectory.accepted, "checked on what the segments are now"


def test_a_dragged_line_counts_as_unknown_until_it_is_checked(scene, planned):
    index = 0
    drag(rows(scene)[index], point(-8, 0, 0) - point(0, 0, 0))
    assert rows(scene)[index].is_moved
    with pytest.raises(PlanError, match="was moved and not checked"):
        planned.take(index)
    planned.context()
    index = planned.move(index, OPTIONS)
    row = rows(scene)[index]
    assert not row.is_moved and row.trajectory.source == "manual"


def test_undo_puts_a_moved_line_back_first_and_then_takes_changes_back_one_by_one(scene, planned):
    before = planning.plan_of(scene)
    planned.context()
    planned.delete(1)
    planned.add([SAFE], OPTIONS)
    drag(rows(scene)[0], np.array([3.0, 0, 0]))
    planned.undo()
    assert not any(row.is_moved for row in rows(scene))
    planned.undo()
    planned.undo()
    after = planning.plan_of(scene)
    assert [one.length_mm for one in after.trajectories] == [one.length_mm for one in before.trajectories]
    assert all(row.line is not None and not row.is_moved for row in rows(scene))
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode") == len(before.trajectories)
    with pytest.raises(PlanError, match="nothing to undo"):
        planned.undo()


def test_lines_keep_their_nodes_and_names_through_changes(scene, planned):
    planned.context()
    line = rows(scene)[2].line
    name = line.GetName()
    assert planned.take(2) == 0
    assert rows(scene)[0].line is line and line.GetName() == name and rows(scene)[0].is_chosen
    planned.undo()
    assert rows(scene)[2].line is line


def test_snap_finds_an_accepted_trajectory_near_a_bad_line(scene, desk):
    index = desk.add([(point(28, 90, -30), point(28, 5, -28))], OPTIONS)
    assert not rows(scene)[index].trajectory.accepted
    index = desk.snap(index, OPTIONS)
    row = rows(scene)[index]
    assert row.trajectory.accepted and not row.is_moved
    assert np.linalg.norm(row.trajectory.target - point(28, 5, -28)) < 17


def test_a_copy_to_the_other_side_is_the_mirror_image(scene, desk):
    index = desk.add([SAFE], OPTIONS)
    copied = desk.mirror(index, OPTIONS)
    copy = rows(scene)[copied]
    assert copy.trajectory.side == "right"
    assert np.allclose(copy.trajectory.target, point(-40, 5, -25), atol=0.5)


def test_other_rules_judge_everything_anew(scene, planned):
    strict = replace(OPTIONS, margin_mm=6.0, preferred_margin_mm=8.0)
    assert planned.differs(strict) and not planned.differs(OPTIONS)
    planned.context()
    planned.add([SAFE], strict)
    plan = planning.plan_of(scene)
    assert (plan.margin_mm, plan.preferred_margin_mm) == (6.0, 8.0) and not planned.differs(strict)
    assert all(min(one.clearance_mm.values()) >= 6.0 for one in plan.trajectories if one.accepted)
    assert not all(one.accepted for one in plan.trajectories)


def test_a_stated_error_of_navigation_is_kept_clear_too(scene, desk):
    desk.add([SAFE], OPTIONS)
    assert rows(scene)[0].trajectory.accepted
    desk.check_all(replace(OPTIONS, accuracy=Accuracy(registration_sd_mm=5.0)))
    assert not rows(scene)[0].trajectory.accepted
    assert planning.plan_of(scene).accuracy.registration_sd_mm == 5.0


def test_searching_again_keeps_what_a_person_drew(scene, desk, monkeypatch):
    monkeypatch.setattr(plan_desk, "plan_trajectories", lambda context, sides, options, progress: searched())
    desk.add([SAFE], OPTIONS)
    desk.search(("left", "right"), OPTIONS)
    sources = [row.trajectory.source for row in rows(scene)]
    assert sources.count("manual") == 1 and sources.count("search") == len(searched().trajectories)
    assert sources[0] == "search", "the search's own best comes first"


def test_a_volume_beyond_the_limit_needs_a_reason_which_is_recorded(scene, desk):
    index = desk.add([SAFE], OPTIONS)
    with pytest.raises(PlanError, match=r"9.0 mL need a reason.*limit is 8.0 mL \(ala\)"):
        desk.set_volume(index, 9.0, "  ", OPTIONS)
    desk.set_volume(index, 9.0, "void of 10 mL", OPTIONS)
    plan = planning.plan_of(scene)
    assert plan.trajectories[index].planned_volume_ml == pytest.approx(9.0, abs=0.05)
    assert [(one.what, one.limit_ml, one.reason) for one in plan.overrides] == [("ala", 9.0, "void of 10 mL")]
    assert desk.limits() == ((9.0, 12.0), "void of 10 mL")


def test_both_sides_together_have_a_limit_of_their_own(scene, desk):
    index = desk.add([SAFE], OPTIONS)
    desk.mirror(index, OPTIONS)
    for number in (0, 1):
        desk.set_volume(number, 6.0, "wide void", OPTIONS)
    assert planning.plan_of(scene).overrides == ()
    with pytest.raises(PlanError, match=r"limit is 12.0 mL \(total\)"):
        desk.set_volume(0, 7.0, "", OPTIONS)


def test_a_volume_that_does_not_fit_needs_a_reason_which_goes_with_the_depot(scene, desk):
    index = desk.add([(point(50, 90, -8), point(50, 20, -10))], OPTIONS)
    with pytest.raises(PlanError, match=r"7.0 mL need a reason.*mL fit"):
        desk.set_volume(index, 7.0, "", OPTIONS)
    desk.set_volume(index, 7.0, "fracture drains it", OPTIONS)
    item = planning.plan_of(scene).trajectories[index]
    assert item.planned_volume_ml == pytest.approx(7.0, abs=0.05)
    assert "fracture drains it" in item.depots[0].note


def test_a_plan_of_another_ct_is_not_worked_on(scene, desk):
    planning.show_plan(scene, replace(searched(), image_hash="0" * 64))
    assert desk.rows() == [] and "another CT" in desk.why_foreign
    with pytest.raises(PlanError, match="another CT"):
        desk.add([SAFE], OPTIONS)
    desk.choose(*anatomy.segmented_ct(scene))
    assert not any(line.GetDisplayVisibility() for line in planning.plan_lines(scene).values())


class Database:
    """Slicer's DICOM database, as far as it is asked."""

    def __init__(self, uid):
        self._uid = uid

    def instanceValue(self, instance, tag):
        if self._uid is None:
            raise RuntimeError("the file is gone")
        return self._uid if (instance, tag) == ("1.2.3.4", "0020,0052") else ""


def test_a_plan_of_another_frame_of_reference_is_not_worked_on_although_the_voxels_are_the_same(
    scene, desk, tmp_path, host
):
    ct, _ = anatomy.segmented_ct(scene)
    ct.SetAttribute("DICOM.instanceUIDs", "1.2.3.4 1.2.3.5")
    for database in (None, Database(None), Database("")):
        dicom.note_frame_of_reference(ct, database)
        assert desk.frame_of_reference is None
    dicom.note_frame_of_reference(ct, Database("1.2.840.1"))
    assert desk.frame_of_reference == "1.2.840.1"
    planning.show_plan(scene, replace(searched(), frame_of_reference="1.2.840.1"))
    assert desk.rows() and desk.context().frame_of_reference == "1.2.840.1"
    planning.show_plan(scene, replace(searched(), frame_of_reference="1.2.840.2"))
    assert desk.rows() == [] and "frame of reference (1.2.840.2, here 1.2.840.1)" in desk.why_foreign
    with pytest.raises(PlanError, match="another patient or another scan"):
        desk.add([SAFE], OPTIONS)
    # Where Slicer's database knows nothing of this patient, the saved scene still does.
    host.save(tmp_path / "case.mrb")
    scene.Clear(False)
    host.load(tmp_path / "case.mrb")
    desk.choose(*anatomy.segmented_ct(scene))
    assert "frame of reference" in desk.why_foreign


def test_a_search_takes_no_lines_over_from_a_plan_of_another_ct(scene, desk, monkeypatch):
    monkeypatch.setattr(plan_desk, "plan_trajectories", lambda context, sides, options, progress: searched())
    foreign = replace(searched().trajectories[0], source="manual")
    planning.show_plan(scene, replace(searched(), trajectories=(foreign,), image_hash="0" * 64))
    desk.search(("left", "right"), OPTIONS)
    assert {row.trajectory.source for row in rows(scene)} == {"search"}
    assert planning.plan_of(scene).image_hash == context().image_hash


def test_without_a_patient_nothing_is_checked(scene):
    desk = plan_desk.PlanDesk(scene)
    desk.choose(None, None)
    with pytest.raises(PlanError, match="select a CT and its segmentation"):
        desk.add([SAFE], OPTIONS)
    with pytest.raises(PlanError, match="at least one side"):
        desk.search((), OPTIONS)


def test_only_the_selected_line_can_be_dragged_and_only_it_is_shown_on_its_side(scene, planned):
    planned.select(1, movable=True)
    shown = [bool(row.line.GetDisplayVisibility()) for row in rows(scene)]
    locked = [bool(row.line.GetLocked()) for row in rows(scene)]
    assert locked == [number != 1 for number in range(len(shown))]
    left = [seen for seen, row in zip(shown, rows(scene), strict=True) if row.trajectory.side == "left"]
    right = [seen for seen, row in zip(shown, rows(scene), strict=True) if row.trajectory.side == "right"]
    assert left == [number == 1 for number in range(len(left))] and sum(right) == 1
    planned.lock_all()
    assert all(row.line.GetLocked() for row in rows(scene))


def test_a_line_that_was_deleted_elsewhere_comes_back(scene, planned):
    scene.RemoveNode(rows(scene)[0].line)
    planned.select(0)
    assert rows(scene)[0].line is not None and not rows(scene)[0].is_moved


def test_everything_comes_back_with_a_saved_scene(host, desk, tmp_path):
    scene = host.scene
    index = desk.add([SAFE], OPTIONS)
    desk.mirror(index, OPTIONS)
    desk.set_volume(index, 9.0, "void of 10 mL", OPTIONS)
    desk.select(index, movable=False)
    before = planning.plan_of(scene)
    host.save(tmp_path / "case.mrb")
    scene.Clear(False)
    host.load(tmp_path / "case.mrb")
    again = plan_desk.PlanDesk(scene)
    after = planning.plan_of(scene)
    assert [one.reasons for one in after.trajectories] == [one.reasons for one in before.trajectories]
    assert after.overrides == before.overrides and after.margin_mm == before.margin_mm
    assert not any(row.is_moved for row in rows(scene)) and all(row.line.GetLocked() for row in rows(scene))
    shaft = trocar_models.shaft_of(rows(scene)[index].line)
    assert shaft.GetDisplayNode().GetVisibility() and array_of(shaft).min() >= trocar_models.NEAR
    models = scene.GetNumberOfNodesByClass("vtkMRMLModelNode")
    again.choose(nodes.first_node(scene, "vtkMRMLScalarVolumeNode", "CT"), desk_segmentation(scene))
    again.context()
    again.select(index, movable=True)
    assert scene.GetNumberOfNodesByClass("vtkMRMLModelNode") == models, "drawn again, not a second time"


def desk_segmentation(scene):
    from sacroplasty.scene.anatomy import SEGMENTATION_NAME

    return nodes.first_node(scene, "vtkMRMLSegmentationNode", SEGMENTATION_NAME)


def test_what_a_line_is_best_in_follows_every_change(scene, planned):
    planned.context()
    drawn = planned.add([(point(40, 60, -30), point(40, 15, -25))], OPTIONS)
    for side in ("left", "right"):
        accepted = [row.trajectory for row in rows(scene) if row.trajectory.side == side and row.trajectory.accepted]
        shortest = [one for one in accepted if "shortest" in one.merits]
        assert [one.length_mm for one in shortest] == [min(one.length_mm for one in accepted)]
    assert rows(scene)[drawn].trajectory.source == "manual"


def test_two_trocars_whose_hands_would_meet_are_told_of(scene, planned):
    assert planned.gaps_of_both_mm() is None
    left, right = planning.chosen(planning.plan_of(scene)).values()
    beside = replace(right, entry_skin=left.entry_skin + np.array([5.0, 0, 0]))
    planning.show_plan(scene, replace(searched(), trajectories=(left, beside)))
    _, hubs_mm = planned.gaps_of_both_mm()
    assert hubs_mm < 40.0
