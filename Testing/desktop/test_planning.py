"""The planning page by its buttons: draw, drag, snap, copy, choose, change volumes, turn the views, undo."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import slicer
from desktop.planned_case import planned_case
from sacroplasty.errors import PlanError
from sacroplasty.planning.files import write_plan
from sacroplasty.scene import anatomy, nodes, plan_desk, plan_views, planning, spread
from scene.planned_sacrum import context, point, ready_context, searched

MODULE = "SacroplastyPlanning"
SAFE = point(40, 90, -30), point(40, 5, -25)
THROUGH_FORAMEN = point(21, 90, -28), point(21, 5, -28)


@pytest.fixture
def page(desktop, monkeypatch):
    """The page on a planned patient, whose distances are computed once for all tests."""
    monkeypatch.setattr(plan_desk, "PlanningContext", ready_context)
    planned_case(desktop.scene)
    return desktop.open_module(MODULE)


@pytest.fixture
def empty_page(desktop, monkeypatch):
    """The page on a segmented patient who was not planned yet."""
    monkeypatch.setattr(plan_desk, "PlanningContext", ready_context)
    planned_case(desktop.scene)
    planning.update_plan(desktop.scene, planning.Plan((), context().image_hash), [])
    return desktop.open_module(MODULE)


def rows(page):
    return page.logic.rows()


def selected_row(page):
    return rows(page)[page.ui.trajectoriesTable.currentRow()]


def draw(desktop, page, entry, target):
    """Place two points as clicks into a view do."""
    page.ui.newButton.click()
    for position in (entry, target):
        page._drawn.AddControlPointWorld(*position)
    desktop.wait(20)


def drag(desktop, page, shift):
    """Drag the selected line by its middle and let go of it."""
    line = selected_row(page).line
    entry, target = nodes.line_points(line)
    nodes.move_line(line, entry + shift, target + shift)
    during = page.ui.clearanceLabel.text
    line.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    desktop.wait(20)
    return during


def texts(table):
    """What a table shows, row by row; nothing when it is hidden."""
    columns = range(table.columnCount)
    rows = [] if table.isHidden() else range(table.rowCount)
    return [[table.item(row, column).text() for column in columns] for row in rows]


def shown_surfaces(desktop):
    """Names of the surfaces of predicted cement that are to be seen."""
    nodes_of = desktop.scene.GetNodesByClass("vtkMRMLModelNode")
    nodes_of.UnRegister(None)
    models = [nodes_of.GetItemAsObject(number) for number in range(nodes_of.GetNumberOfItems())]
    return {
        model.GetName() for model in models if model.GetName().startswith("Predicted") and model.GetDisplayVisibility()
    }


def across(left_mm):
    return point(left_mm, 0, 0) - point(0, 0, 0)


def test_nothing_can_be_pressed_without_a_patient(desktop):
    ui = desktop.open_module(MODULE).ui
    for button in (ui.planButton, ui.newButton, ui.moveButton, ui.snapButton, ui.mirrorButton, ui.takeButton):
        assert not button.enabled
    for button in (ui.undoButton, ui.exportButton, ui.importButton, ui.alongButton, ui.volumeButton):
        assert not button.enabled
    assert ui.statusLabel.text == "Nothing was planned yet." and ui.clearanceLabel.text == "–"


def test_the_table_compares_all_trajectories_and_marks_those_that_are_used(page):
    table = page.ui.trajectoriesTable
    assert table.rowCount == len(rows(page))
    marks = [table.item(number, 0).text() for number in range(table.rowCount)]
    assert marks.count("★") == 2 and set(marks) <= {"★", "✔", "✘"}
    assert page.ui.statusLabel.text.startswith("✔ Left: ") and "✔ Right: " in page.ui.statusLabel.text


def test_a_drawn_line_is_checked_and_selected(desktop, empty_page):
    draw(desktop, empty_page, *SAFE)
    row = selected_row(empty_page)
    assert row.trajectory.source == "manual" and row.trajectory.accepted
    assert "✎" in empty_page.ui.trajectoriesTable.item(0, 1).text()
    assert not empty_page.ui.newButton.checked and desktop.scene.GetFirstNodeByName("New trajectory") is None


def test_a_drawn_line_through_a_foramen_says_why_it_is_refused(desktop, empty_page):
    draw(desktop, empty_page, *THROUGH_FORAMEN)
    assert "✘ Foramen S1 left: clearance" in empty_page.ui.detailLabel.text
    assert empty_page.ui.clearanceLabel.text.startswith("✘ ") and not empty_page.ui.takeButton.enabled
    assert empty_page.ui.statusLabel.text == "✘ Left: no accepted trajectory. Select one to see why."


def test_drawing_can_be_given_up_and_leaves_nothing(desktop, page):
    before = desktop.scene.GetNumberOfNodes()
    page.ui.newButton.click()
    page._drawn.AddControlPointWorld(*SAFE[0])
    page.ui.newButton.click()
    assert desktop.scene.GetFirstNodeByName("New trajectory") is None
    page.ui.newButton.click()
    desktop.leave(page)
    assert desktop.scene.GetFirstNodeByName("New trajectory") is None
    assert desktop.scene.GetNumberOfNodes() <= before + 1


def test_the_clearance_follows_a_dragged_line_which_is_checked_when_it_is_let_go(desktop, page):
    page.ui.moveButton.click()
    assert not selected_row(page).line.GetLocked()
    during = drag(desktop, page, across(-14.0))
    row = selected_row(page)
    assert during.startswith("✘ ") and page.ui.clearanceLabel.text.startswith("✘ ")
    assert not row.is_moved and not row.trajectory.accepted and row.trajectory.source == "manual"
    page.ui.undoButton.click()
    assert selected_row(page).trajectory.accepted and selected_row(page).trajectory.source == "search"


def test_a_click_on_a_line_is_no_move(desktop, page):
    page.ui.moveButton.click()
    drag(desktop, page, np.zeros(3))
    assert selected_row(page).trajectory.source == "search" and not page.ui.undoButton.enabled


def test_lines_are_locked_again_when_the_page_is_left(desktop, page):
    page.ui.moveButton.click()
    desktop.leave(page)
    assert all(row.line.GetLocked() for row in rows(page))
    desktop.enter(page)
    assert not page.ui.moveButton.checked


def test_a_line_that_was_moved_elsewhere_is_unknown_until_it_is_checked(desktop, page):
    line = rows(page)[0].line
    entry, target = nodes.line_points(line)
    nodes.move_line(line, entry + 3, target + 3)
    desktop.leave(page)
    desktop.enter(page)
    assert page.ui.trajectoriesTable.item(0, 0).text() == "⚠" and page.ui.clearanceLabel.text == "–"
    assert page.ui.checkButton.enabled and "moved and not checked" in page.ui.detailLabel.text
    page.ui.checkButton.click()
    assert page.ui.trajectoriesTable.item(0, 0).text() in "★✔✘" and page.ui.clearanceLabel.text != "–"


def test_snap_copy_use_and_delete(desktop, empty_page):
    ui = empty_page.ui
    draw(desktop, empty_page, point(28, 90, -30), point(28, 5, -28))
    assert not selected_row(empty_page).trajectory.accepted
    ui.snapButton.click()
    assert selected_row(empty_page).trajectory.accepted
    ui.mirrorButton.click()
    assert selected_row(empty_page).trajectory.side == "right"
    draw(desktop, empty_page, *SAFE)
    assert not selected_row(empty_page).is_chosen
    ui.takeButton.click()
    assert selected_row(empty_page).is_chosen and ui.trajectoriesTable.item(0, 0).text() == "★"
    ui.deleteButton.click()
    assert len(rows(empty_page)) == 2
    for _ in range(2):
        ui.undoButton.click()
    assert [row.is_chosen for row in rows(empty_page)][:2] == [True, False]


def test_where_nothing_safe_is_near_the_page_says_so_without_a_dialog(desktop, empty_page, monkeypatch):
    def none(*arguments):
        raise PlanError("no accepted trajectory lies within 16 mm of this line")

    draw(desktop, empty_page, *SAFE)
    monkeypatch.setattr(plan_desk, "nearest_accepted", none)
    empty_page.ui.snapButton.click()
    assert empty_page.ui.messageLabel.text.startswith("✘ no accepted trajectory lies within")
    assert not any(name == "errorDisplay" for name, _ in desktop.calls)


def test_a_volume_beyond_the_limits_needs_a_reason_and_shows_it_among_the_limits(page):
    ui = page.ui
    ui.volumeSlider.value = 9.0
    ui.volumeButton.click()
    assert "need a reason" in ui.messageLabel.text
    ui.volumeSlider.value = 9.0
    ui.volumeReasonLineEdit.text = "wide void"
    ui.volumeButton.click()
    assert selected_row(page).trajectory.planned_volume_ml == pytest.approx(9.0, abs=0.05)
    assert page._parameterNode.alaLimitMl == 9.0 and page._parameterNode.limitReason == "wide void"
    ui.undoButton.click()
    assert page._parameterNode.alaLimitMl == 8.0 and page._parameterNode.limitReason == ""


def test_other_margins_are_said_and_judged_on_demand(page):
    assert not page.ui.checkButton.enabled
    page._parameterNode.marginMm = 7.0
    assert page.ui.checkButton.enabled and not page.ui.checkLabel.isHidden()
    page.ui.checkButton.click()
    assert not page.ui.checkButton.enabled
    assert all(row.nearest_mm >= 7.0 for row in rows(page) if row.trajectory.accepted)


def test_what_makes_no_sense_is_said_at_once(page):
    page._parameterNode.alaLimitMl = 10.0
    assert "say why the limit of volume" in page.ui.optionsLabel.text and not page.ui.planButton.enabled
    page._parameterNode.limitReason = "wide void"
    assert page.ui.optionsLabel.text == "" and page.ui.planButton.enabled


def test_a_trocar_of_other_numbers_is_used_for_new_lines(desktop, empty_page):
    ui = empty_page.ui
    assert ui.diameterSlider.isHidden()
    ui.needleComboBox.currentIndex = ui.needleComboBox.count - 1
    ui.needleComboBox.activated.emit(ui.needleComboBox.count - 1)
    assert not ui.diameterSlider.isHidden()
    empty_page._parameterNode.diameterMm = 4.0
    draw(desktop, empty_page, *SAFE)
    assert selected_row(empty_page).trajectory.outer_diameter_mm == 4.0


def test_views_follow_the_trocar_only_when_asked_and_as_deep_as_the_slider_says(desktop, page):
    node = slicer.vtkMRMLSliceNode()
    node.SetLayoutName(plan_views.PROBE_EYE)
    node.SetSingletonTag(plan_views.PROBE_EYE)
    green = desktop.scene.AddNode(node)
    before = slicer.util.arrayFromVTKMatrix(green.GetSliceToRAS())
    page.ui.depthSlider.value = 10.0
    assert np.allclose(slicer.util.arrayFromVTKMatrix(green.GetSliceToRAS()), before)
    page.ui.alongButton.click()
    page.ui.depthSlider.value = 30.0
    item = selected_row(page).trajectory
    seen = slicer.util.arrayFromVTKMatrix(green.GetSliceToRAS())
    assert np.linalg.norm(seen[:3, 3] - item.entry_skin) == pytest.approx(30.0, abs=0.01)
    page.ui.nearestButton.click()
    shaft = context().profile(item.entry_skin, item.target, item.needle, item.side)
    nearest = item.length_mm - shaft.along_mm[np.argmin(shaft.clearance_mm)]
    assert page.ui.depthSlider.value == pytest.approx(nearest, abs=0.6)
    desktop.scene.RemoveNode(green)


def test_what_is_drawn_of_the_selected_trajectory_can_be_chosen(page):
    page.ui.moveButton.click()
    line = selected_row(page).line
    margin, cement = (line.GetNodeReference(role) for role in ("sacroplastyMargin", "sacroplastyCement"))
    assert margin.GetDisplayNode().GetVisibility() and cement.GetDisplayNode().GetVisibility()
    page.ui.marginCheckBox.click()
    page.ui.cementCheckBox.click()
    assert not margin.GetDisplayNode().GetVisibility() and not cement.GetDisplayNode().GetVisibility()


def test_a_saved_case_comes_back_with_its_table_colors_locks_and_reasons(desktop, host, page, tmp_path):
    page.ui.moveButton.click()
    page.ui.volumeSlider.value = 9.0
    page.ui.volumeReasonLineEdit.text = "wide void"
    page.ui.volumeButton.click()
    texts = [page.logic.rowTexts(row) for row in rows(page)]
    host.save(tmp_path / "case.mrb")
    desktop.scene.Clear(0)
    host.load(tmp_path / "case.mrb")
    desktop.leave(page)
    desktop.enter(page)
    assert [page.logic.rowTexts(row) for row in rows(page)] == texts
    assert page._parameterNode.limitReason == "wide void" and not page.ui.checkButton.enabled
    assert all(row.line.GetLocked() for row in rows(page))
    assert rows(page)[0].line.GetNodeReference("sacroplastyShaft").GetDisplayNode().GetScalarVisibility()


def test_a_plan_is_exported_and_imported_without_the_packages_that_slicer_lacks(page, tmp_path, monkeypatch):
    for package in ("click", "fastjsonschema", "pyigtl", "rich", "trame_slicer"):
        monkeypatch.setitem(sys.modules, package, None)
    page.ui.exportButton.click()
    assert page.ui.exportLabel.text == "✘ choose a folder for the plan first"
    page.ui.exportPathLineEdit.currentPath = str(tmp_path / "plan")
    page.ui.exportButton.click()
    assert page.ui.exportLabel.text.startswith("✔ Written to ")
    names = {path.name for path in (tmp_path / "plan").iterdir()}
    assert names == {"plan.json", "plan.csv", "plan.png", "lines", "trocars"}
    before = len(rows(page))
    page.ui.importPathLineEdit.currentPath = str(tmp_path / "plan" / "plan.json")
    page.ui.importButton.click()
    assert page.ui.exportLabel.text == "✘ all its trajectories are in the plan already"
    page.ui.deleteButton.click()
    page.ui.importButton.click()
    assert page.ui.exportLabel.text.startswith("✔ Read and checked on this CT, told by its image alone")
    assert len(rows(page)) == before and selected_row(page).trajectory.source == "imported"


def test_the_plan_of_another_patient_is_refused_by_its_frame_of_reference(desktop, page, tmp_path, monkeypatch):
    class Database:
        def instanceValue(self, instance, tag):
            return f"{instance}.{tag}"

    write_plan(replace(searched(), frame_of_reference="1.2.9.0020,0052"), tmp_path / "plan.json")
    monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
    anatomy.segmented_ct(desktop.scene)[0].SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    desktop.leave(page)
    desktop.enter(page)
    page.ui.importPathLineEdit.currentPath = str(tmp_path / "plan.json")
    page.ui.importButton.click()
    assert "another DICOM frame of reference (1.2.9.0020,0052, here 1.2.3.0020,0052)" in page.ui.exportLabel.text
    planning.show_plan(desktop.scene, replace(searched(), frame_of_reference="1.2.9.0020,0052"))
    desktop.leave(page)
    desktop.enter(page)
    assert page.ui.statusLabel.text.startswith("✘ the plan of this scene was planned in another DICOM frame")
    assert page.ui.trajectoriesTable.rowCount == 0 and not page.ui.exportButton.enabled
    assert not any(line.GetDisplayVisibility() for line in planning.plan_lines(desktop.scene).values())


def test_planning_with_a_person_at_cancel_keeps_the_old_plan(desktop, page, monkeypatch):
    from slicer import util

    create = util.createProgressDialog

    def and_cancel(**keywords):
        dialog = create(**keywords)
        dialog.cancel()
        return dialog

    def search(context, sides, options, progress):
        progress(0.5)
        raise AssertionError("the search goes on")

    monkeypatch.setattr(util, "createProgressDialog", and_cancel)
    monkeypatch.setattr(plan_desk, "plan_trajectories", search)
    before = [row.name for row in rows(page)]
    page.ui.planButton.click()
    assert [row.name for row in rows(page)] == before and page.ui.planButton.enabled


SURFACES_LEFT = {"Predicted cement left 50 %", "Predicted cement left 90 %"}


def test_the_spread_is_predicted_beside_other_ways_and_outdated_by_another_volume(
    desktop, host, page, picture_folder, tmp_path, monkeypatch
):
    # Two bones will do, but not for the picture in the documentation.
    members = 2 if picture_folder == tmp_path else 32
    monkeypatch.setattr(spread, "predict", partial(spread.predict, members=members))
    ui = page.ui
    assert ui.spreadLabel.text == "Not predicted yet." and texts(ui.waysTable) == []
    ui.spreadButton.click()
    planned, together, less = texts(ui.waysTable)
    depots = [depot.volume_ml for depot in selected_row(page).trajectory.depots]
    assert planned[0] == f"As planned, withdrawn: {depots[0]:.1f} + {depots[1]:.1f} mL"
    assert together[0] == f"All at the target: {sum(depots):.1f} mL"
    assert less[0] == f"Less, at the target: {depots[0]:.1f} mL"
    assert float(together[1].rstrip(" %")) >= float(less[1].rstrip(" %")), "more cement at one place cannot leak less"
    assert (
        f"{sum(depots):.1f} mL: cement leaves the bone in {planned[1]} of {members} simulated bones"
        in ui.spreadLabel.text
    )
    assert "kPa" in ui.spreadLabel.text and "not compared with patients" in ui.spreadLabel.text
    assert "Presacral" in [row[0] for row in texts(ui.routesTable)]
    assert shown_surfaces(desktop) == SURFACES_LEFT
    for button in (ui.planCollapsibleButton, ui.adjustCollapsibleButton, ui.viewsCollapsibleButton):
        button.collapsed = True
    desktop.picture(page, picture_folder / f"{MODULE}-spread.png")

    # In the scene, so that a saved case has it.
    told = ui.spreadLabel.text
    host.save(tmp_path / "case.mrb")
    desktop.scene.Clear(0)
    host.load(tmp_path / "case.mrb")
    desktop.leave(page)
    desktop.enter(page)
    assert ui.spreadLabel.text == told and shown_surfaces(desktop) == SURFACES_LEFT

    ui.volumeSlider.value = 3.0
    ui.volumeButton.click()
    assert ui.spreadLabel.text.startswith("⚠ Outdated") and texts(ui.waysTable) == texts(ui.routesTable) == []
    assert shown_surfaces(desktop) == set()
    ui.undoButton.click()
    assert ui.spreadLabel.text == told and shown_surfaces(desktop) == SURFACES_LEFT
    ui.spreadCheckBox.click()
    assert shown_surfaces(desktop) == set() and ui.spreadLabel.text == told
    # Of the same side, but another trajectory.
    ui.trajectoriesTable.selectRow(1)
    assert ui.spreadLabel.text.startswith("⚠ Outdated")
    ui.trajectoriesTable.selectRow(len(rows(page)) - 1)
    assert ui.spreadLabel.text == "Not predicted yet."


def test_a_prediction_can_be_canceled_and_is_refused_for_what_cannot_be_predicted(page, monkeypatch):
    from slicer import util

    create = util.createProgressDialog

    def and_cancel(**keywords):
        dialog = create(**keywords)
        dialog.cancel()
        return dialog

    monkeypatch.setattr(util, "createProgressDialog", and_cancel)
    page.ui.spreadButton.click()
    assert page.ui.spreadLabel.text == "Not predicted yet." and page.ui.messageLabel.text == ""
    monkeypatch.setattr(util, "createProgressDialog", create)
    page.ui.volumeSlider.value = 0.0
    page.ui.volumeButton.click()
    page.ui.spreadButton.click()
    assert "set a volume first" in page.ui.messageLabel.text
    line = selected_row(page).line
    nodes.move_line(line, *(end + 3 for end in nodes.line_points(line)))
    page.ui.spreadButton.click()
    assert "moved and not checked" in page.ui.messageLabel.text
