"""The segmentation module by its buttons: find, look, confirm, correct, mark, lay an MRI on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from desktop.segmented_case import found, offset, sacrum_point, segmented_case
from sacroplasty.anatomy.labels import BONES
from sacroplasty.anatomy.mri_registration import MRIRegistration
from sacroplasty.anatomy.oedema import Oedema
from sacroplasty.errors import AnatomyError
from sacroplasty.scene import anatomy, fracture, nodes
from sacroplasty.scene import mri as scene_mri
from sacroplasty.scene.records import read_record, write_record
from sacroplasty.scene.workflow import workflow_steps
from simple_sacrum import simple_sacrum
from spoiled_bones import spoil_ilium

MODULE = "SacroplastySegmentation"


def rows(widget):
    """The table as a person reads it: texts by structure."""
    table = widget.ui.structuresTable
    texts = [[table.item(row, column).text() for column in range(4)] for row in range(table.rowCount)]
    return {name: rest for name, *rest in texts}


def suggestion_models(scene):
    number = scene.GetNumberOfNodesByClass("vtkMRMLModelNode")
    names = [scene.GetNthNodeByClass(index, "vtkMRMLModelNode").GetName() for index in range(number)]
    return sum(name.startswith("Suggestion") for name in names)


def select(table, column, text):
    names = [table.item(row, column).text() for row in range(table.rowCount)]
    table.selectRow(names.index(text))


@pytest.fixture
def case(desktop):
    """The module on a segmented CT in which the left S4 foramen has to be confirmed."""
    segmented_case(desktop.scene)
    return desktop.open_module(MODULE)


def test_the_panel_asks_only_for_what_the_method_needs(desktop):
    widget = desktop.open_module(MODULE)
    ui = widget.ui
    assert not ui.applyButton.enabled and not ui.ctHintLabel.isHidden() and "DICOM" in ui.ctHintLabel.text
    widget._parameterNode.ct = nodes.add_volume(desktop.scene, simple_sacrum(6.0).ct, "CT")
    assert ui.applyButton.enabled and ui.ctHintLabel.isHidden() and ui.labelsSelector.isHidden()
    ui.methodComboBox.currentIndex = 3
    assert ui.methodComboBox.currentText == "Label map"
    assert not ui.labelsSelector.isHidden() and not ui.applyButton.enabled
    assert ui.applyButton.toolTip == "Select a CT and its labels."


def test_apply_finds_the_structures_and_says_by_which_method(desktop):
    truth, _ = found()
    nodes.add_label_volume(desktop.scene, truth.bones, "Bones")
    nodes.add_volume(desktop.scene, truth.ct, "CT")
    widget = desktop.open_module(MODULE)
    widget.ui.methodComboBox.currentIndex = 3
    widget.ui.labelsSelector.setCurrentNode(desktop.scene.GetFirstNodeByName("Bones"))
    assert widget._parameterNode.ct.GetName() == "CT", "a label map that came first is no CT"
    widget.ui.applyButton.click()
    assert {"Sacrum", "Sacral canal", "Foramen S4 right", "SI joint left"} <= rows(widget).keys()
    assert rows(widget)["SI joint left"][1] == "–", "a joint is a gap, not a volume"
    assert widget.ui.show3DButton.segmentationNode() is widget._parameterNode.segmentation
    assert widget.ui.methodLabel.text == "Bones by labels (bones)"
    assert {step.key: step.state for step in workflow_steps(desktop.scene)}["imaging"] == "done"
    assert widget.ui.applyButton.enabled


def test_a_canceled_or_failed_search_leaves_the_older_result(desktop, case, monkeypatch):
    from slicer import util

    create, before = util.createProgressDialog, rows(case)

    def and_cancel(**keywords):
        dialog = create(**keywords)
        dialog.cancel()
        return dialog

    monkeypatch.setattr(util, "createProgressDialog", and_cancel)
    case.ui.recomputeButton.click()
    assert case.ui.statusLabel.text == "Canceled. Nothing was changed."
    assert rows(case) == before and not case.ui.restoreButton.enabled
    monkeypatch.setattr(util, "createProgressDialog", create)
    case._parameterNode.segmentation.GetSegmentation().RemoveSegment("l5")
    case.ui.recomputeButton.click()
    assert [type(error) for error in desktop.slot_errors] == [AnatomyError]
    assert "nothing left of l5" in str(desktop.slot_errors[0])
    desktop.slot_errors.clear()
    assert "errorDisplay" in [name for name, _ in desktop.calls]
    assert not case.ui.restoreButton.enabled


def test_next_to_confirm_walks_through_all_that_blocks_planning(desktop, case):
    wanted = case.logic.toConfirm()
    assert wanted and case.ui.statusLabel.text == f"⚠ {len(wanted)} to confirm"
    assert "Foramen S4 left" in case.ui.blockLabel.text
    jumps = []
    case.logic.jumpTo = jumps.append
    for number in range(len(wanted)):
        case.ui.nextButton.click()
        name = case.selectedStructure()
        assert name in wanted and np.isfinite(jumps[number]).all()
        assert rows(case)[anatomy.readable(name)][2] == "⚠ needed"
        case.ui.confirmButton.click()
        assert rows(case)[anatomy.readable(name)][2] == "✔ yes"
        assert not case.ui.confirmButton.enabled and case.ui.withdrawButton.enabled
    assert case.ui.statusLabel.text == "✔ Nothing blocks planning"
    total = len(rows(case))
    assert case.ui.blockLabel.text == f"{len(wanted)} of {total} structures confirmed. Look at all of them."
    assert not case.ui.nextButton.enabled
    case.ui.withdrawButton.click()
    assert case.ui.statusLabel.text == "⚠ 1 to confirm" and case.ui.nextButton.enabled


def test_what_the_ct_does_not_show_cannot_be_confirmed(desktop, case):
    record = read_record(desktop.scene, anatomy.RECORD_NAME)
    del record["confidence"]["foramen_s1_right"]
    write_record(desktop.scene, anatomy.RECORD_NAME, record)
    desktop.leave(case)
    desktop.enter(case)
    assert rows(case)["Foramen S1 right"][::2] == ["? check", "✘ cannot"]
    while case.ui.nextButton.enabled:
        case.ui.nextButton.click()
        case.ui.confirmButton.click()
    assert case.ui.statusLabel.text == "✘ Planning is blocked"
    assert "Right: Foramen S1 right" in case.ui.blockLabel.text and "Left:" not in case.ui.blockLabel.text
    assert "not found in this CT" in case.ui.blockLabel.toolTip


def test_the_segment_editor_opens_where_the_person_wants_to_edit(desktop, case):
    case.ui.editButton.click()
    editor = desktop.scene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert editor.GetSegmentationNode() is case._parameterNode.segmentation
    assert editor.GetSourceVolumeNode() is case._parameterNode.ct
    assert desktop.calls[-1] == ("selectModule", ("SegmentEditor",))


def test_recomputing_asks_before_it_replaces_what_a_person_painted_and_can_be_taken_back(desktop, case):
    truth, result = found()
    painted = offset(result.region("foramen_s2_left"))
    nodes.set_segment(case._parameterNode.segmentation, "foramen_s2_left", painted, truth.ct)
    desktop.leave(case)
    desktop.enter(case)
    assert "Foramen S2 left (edited)" in rows(case)
    assert case.ui.editedLabel.text == "Edited by hand: Foramen S2 left"
    desktop.answer = False
    case.ui.recomputeButton.click()
    asked = [arguments[0] for name, arguments in desktop.calls if name == "confirmOkCancelDisplay"]
    assert len(asked) == 1 and "Foramen S2 left" in asked[0]
    assert "Foramen S2 left (edited)" in rows(case)
    desktop.answer = True
    fracture.show_suggestions(desktop.scene)
    case.ui.recomputeButton.click()
    assert case.ui.suggestionsList.count == suggestion_models(desktop.scene) == 0, "they were of the other result"
    assert "Foramen S2 left" in rows(case)
    assert case.ui.methodLabel.text == "Bones by labels (bones)", "no bone was edited"
    case.ui.restoreButton.click()
    assert case.ui.suggestionsList.count == suggestion_models(desktop.scene) == 2
    assert "Foramen S2 left (edited)" in rows(case)
    mask = nodes.mask_of(case._parameterNode.segmentation, "foramen_s2_left", truth.ct)
    assert np.array_equal(mask, painted)


def test_the_previous_result_comes_back_with_the_ct_that_it_belongs_to(desktop, case):
    truth, result = found()
    other = truth.ct.like(truth.ct.voxels + 1)
    other_node = nodes.add_volume(desktop.scene, other, "Other CT")
    case._parameterNode.ct = other_node
    anatomy.show_anatomy(desktop.scene, replace(result, image_hash=other.content_hash()), other_node)
    desktop.leave(case)
    desktop.enter(case)
    assert case.ui.ctSelector.currentNode() is other_node
    case.ui.restoreButton.click()
    assert case.ui.ctSelector.currentNode().GetName() == "CT"
    assert case.logic.segmentedCT() == (case._parameterNode.ct, case._parameterNode.segmentation)


def test_three_clicks_correct_the_bones(desktop, case):
    truth, _ = found()
    spoiled = spoil_ilium(truth.bones, "left", seed=1)
    for label, name in BONES.items():
        nodes.set_segment(case._parameterNode.segmentation, name, spoiled.bones.voxels == label, truth.ct)
    widget = case
    selection = desktop.scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    for button, name in (
        (widget.ui.hipClickButton, "hip_left"),
        (widget.ui.sacrumClickButton, "sacrum"),
        (widget.ui.backgroundClickButton, "background"),
    ):
        button.click()
        clicks = widget._parameterNode.clicks
        assert selection.GetActivePlaceNodeID() == clicks.GetID()
        clicks.AddControlPointWorld(*spoiled.clicks[name])
    assert widget.ui.clicksLabel.text == "hip-1, sacrum-2, background-3"
    widget.ui.growButton.click()
    hip = nodes.mask_of(widget._parameterNode.segmentation, "hip_left", truth.ct)
    right = truth.bones.voxels == 3
    assert 2 * np.count_nonzero(hip & right) / (np.count_nonzero(hip) + np.count_nonzero(right)) > 0.99
    assert widget._parameterNode.clicks is None and not widget.ui.growButton.enabled
    assert widget.ui.restoreButton.enabled


def test_suggestions_are_judged_by_a_person(desktop, case):
    ui = case.ui
    assert "not findings" in ui.suggestionNoticeLabel.text
    assert ui.suggestionsList.count == 2 and not ui.acceptButton.enabled
    fracture.show_suggestions(desktop.scene)
    assert suggestion_models(desktop.scene) == 2
    assert ui.suggestionsList.item(0).text().startswith("0.62 – Left, zone I, vertical: dark cleft, 62 HU deep")
    jumps = []
    case.logic.jumpTo = jumps.append
    ui.suggestionsList.setCurrentRow(1)
    ui.suggestionJumpButton.click()
    assert np.allclose(jumps, [sacrum_point(40.0, 10.0, -30.0)])
    ui.dismissButton.click()
    assert ui.suggestionsList.count == 1 and ui.fracturesList.count == 0
    ui.suggestionsList.setCurrentRow(0)
    ui.acceptButton.click()
    assert ui.suggestionsList.count == 0
    assert ui.fracturesList.item(0).text() == "Fracture 1" and "Fracture 1" in rows(case)
    ui.fracturesList.setCurrentRow(0)
    ui.removeFractureButton.click()
    assert ui.fracturesList.count == 0 and "Fracture 1" not in rows(case)


def test_a_fracture_is_marked_by_a_curve_or_a_plane(desktop, case):
    ui, parameters = case.ui, case._parameterNode
    interaction = desktop.scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    ui.drawCurveButton.click()
    assert interaction.GetPlaceModePersistence() == 1
    for height in (-15.0, -30.0, -45.0):
        assert ui.markCurveButton.enabled is (parameters.curve.GetNumberOfDefinedControlPoints() >= 2)
        parameters.curve.AddControlPointWorld(*sacrum_point(40.0, 5.0, height))
    ui.markCurveButton.click()
    assert "Fracture 1" in rows(case) and parameters.curve is None and not ui.markCurveButton.enabled
    ui.placePlaneButton.click()
    assert interaction.GetPlaceModePersistence() == 0
    plane = parameters.plane
    plane.AddControlPointWorld(*sacrum_point(-40.0, 5.0, -30.0))
    plane.SetAxesWorld([0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0])
    assert ui.markPlaneButton.enabled
    ui.markPlaneButton.click()
    assert ui.fracturesList.count == 2 and parameters.plane is None
    ui.drawCurveButton.click()
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    desktop.leave(case)
    assert interaction.GetCurrentInteractionMode() == interaction.ViewTransform, "no module leaves a trap of clicks"
    desktop.enter(case)


def test_a_name_of_the_fracture_counts_only_when_a_person_confirmed_it(desktop, case):
    ui = case.ui
    ui.suggestionsList.setCurrentRow(0)
    ui.acceptButton.click()
    select(ui.classificationTable, 0, "Denis zone")
    assert ui.valueComboBox.currentText == "I" and ui.reasonLabel.text
    assert ui.classificationTable.item(0, 2).text() == ""
    ui.valueComboBox.currentIndex = 1
    ui.confirmFieldButton.click()
    assert ui.classificationTable.item(0, 2).text() == "✔ II"
    assert fracture.classification(desktop.scene).denis_zone.value == "II"
    ui.withdrawFieldButton.click()
    assert fracture.classification(desktop.scene).denis_zone.value is None
    select(ui.classificationTable, 0, "Displacement (mm)")
    ui.valueComboBox.setCurrentText("4.5")
    ui.confirmFieldButton.click()
    assert fracture.classification(desktop.scene).displacement_mm.value == 4.5
    ui.valueComboBox.setCurrentText("much")
    ui.confirmFieldButton.click()
    assert [str(error) for error in desktop.slot_errors] == ["'much' is no number; give millimetres"]
    desktop.slot_errors.clear()
    ui.ringComboBox.currentIndex = 1
    ui.ringComboBox.activated.emit(1)
    assert fracture.classification(desktop.scene).anterior_ring == "no"


def test_an_mri_is_laid_on_the_ct_faded_outlined_and_taken_away(desktop, case, monkeypatch):
    truth, result = found()
    patch = result.region("ala_right")
    registration = MRIRegistration(np.eye(4), "header", 0.2, 0.08, 0.5, 0.97, 5.4, 1.2, ("look at it",))
    names = ("oedema_left", "oedema_right")
    oedema = Oedema(
        dict(zip(names, (patch & False, patch), strict=True)), dict.fromkeys(names, 1.0), "l5", 0.5, 0.9, ()
    )
    # Search and outlining are tested elsewhere.
    monkeypatch.setattr(scene_mri, "register_mri", lambda *arguments: registration)
    monkeypatch.setattr(scene_mri, "find_oedema", lambda *arguments: oedema)
    ui, parameters = case.ui, case._parameterNode
    parameters.mri = parameters.ct
    assert not ui.registerButton.enabled, "a CT is not its own MRI"
    parameters.mri = nodes.add_volume(desktop.scene, truth.ct, "MRI")
    composite = desktop.scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    assert not ui.oedemaButton.enabled
    ui.registerButton.click()
    assert "5.4 mm" in ui.mriLabel.text and "⚠ look at it" in ui.mriLabel.text
    assert composite.GetForegroundVolumeID() == parameters.mri.GetID() and composite.GetForegroundOpacity() == 0.5
    ui.opacitySlider.value = 0.2
    assert composite.GetForegroundOpacity() == pytest.approx(0.2)
    ui.oedemaButton.click()
    assert "Oedema right" in rows(case) and "Oedema left" not in rows(case)
    ui.removeMRIButton.click()
    assert "Oedema right" not in rows(case) and not ui.opacitySlider.enabled
    assert composite.GetForegroundVolumeID() is None


def test_quality_and_checks_are_a_plain_list(desktop, case):
    texts = [case.ui.qualityList.item(row).text() for row in range(case.ui.qualityList.count)]
    assert "Voxels: 2.50 x 2.50 x 2.50 mm" in texts
    assert any(text.startswith("⚠ Foramen S4 left must be looked at") for text in texts)
    assert any(text.endswith("mL below 0 HU") for text in texts)


@pytest.mark.parametrize("section", ["correct", "fracture", "mri", "quality"])
def test_picture_of_each_section_on_a_narrow_panel(desktop, case, picture_folder, section):
    if section in ("correct", "fracture"):
        case.ui.suggestionsList.setCurrentRow(0)
        case.ui.acceptButton.click()
        select(case.ui.classificationTable, 0, "Denis zone")
        clicks = desktop.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Corrections")
        clicks.AddControlPointWorld(*sacrum_point(0.0, 0.0, 0.0), "sacrum-1")
        clicks.AddControlPointWorld(*sacrum_point(60.0, 0.0, 0.0), "hip-2")
        case._parameterNode.clicks = clicks
    getattr(case.ui, f"{section}CollapsibleButton").collapsed = False
    for other in ("inputs", "structures"):
        getattr(case.ui, f"{other}CollapsibleButton").collapsed = True
    path = desktop.picture(case, picture_folder / f"{MODULE}-{section}.png", width=400)
    assert path.stat().st_size > 5000
    assert case.parent.minimumSizeHint().width() <= 400, "the panel does not fit"


def test_the_module_knows_its_case_again_in_a_saved_scene(desktop, host, tmp_path, case):
    case.ui.nextButton.click()
    case.ui.confirmButton.click()
    before = rows(case), case.ui.statusLabel.text
    host.save(tmp_path / "case.mrb")
    desktop.scene.Clear(0)
    assert case.ui.statusLabel.text == "Nothing was segmented yet."
    host.load(tmp_path / "case.mrb")
    desktop.leave(case)
    desktop.enter(case)
    assert (rows(case), case.ui.statusLabel.text) == before
