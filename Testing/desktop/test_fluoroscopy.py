"""The fluoroscopy module by its buttons: find views, turn the C-arm, compare with a real image, keep a picture."""

from __future__ import annotations

import json
import sys
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.geometry import angle_between_deg, transform_points
from sacroplasty.planning.model import Plan, Trajectory
from sacroplasty.planning.needles import needle
from sacroplasty.scene import anatomy, devices, fluoroscopy, nodes, planning
from simple_sacrum import USUAL_SACRUM_TO_RAS, simple_sacrum

MODULE = "SacroplastyFluoroscopy"


def sacrum_point(left, posterior, superior):
    return transform_points(USUAL_SACRUM_TO_RAS, [left, posterior, superior])


@cache
def found():
    """CT and anatomy of the simple sacrum in the usual position; computed once."""
    sacrum = simple_sacrum(2.5, SacrumToRAS=USUAL_SACRUM_TO_RAS)
    return sacrum.ct, segment_from_labels(sacrum.ct, sacrum.bones)


def planned_case(scene):
    """A segmented sacrum with a trocar on its left side."""
    ct, result = found()
    ct_node = nodes.add_volume(scene, ct, "CT")
    anatomy.show_anatomy(scene, result, ct_node)
    skin, bone, target = (sacrum_point(*place) for place in ((42, 75, -38), (42, 31, -35), (38, 0, -32)))
    trocar = Trajectory(
        side="left", technique="short-axis", entry_skin=skin, entry_bone=bone, target=target, needle=needle(11),
        length_mm=76.0, clearance_mm={"foramen_s2_left": 9.0}, accepted=True,
    )  # fmt: skip
    planning.show_plan(scene, Plan((trocar,), nodes.volume_of(ct_node).content_hash()))


@pytest.fixture
def case(desktop):
    planned_case(desktop.scene)
    widget = desktop.open_module(MODULE)
    widget._parameterNode.pixels = 128
    return widget


def picture(widget):
    return nodes.volume_of(widget.logic.simulated()).voxels[0]


def outlined(scene, name=fluoroscopy.STRUCTURES_NAME):
    node = scene.GetFirstNodeByName(name)
    return set() if node is None else set(np.unique(nodes.volume_of(node).voxels)) - {0}


def overlay_of_real(scene):
    return nodes.volume_of(scene.GetFirstNodeByName("X-ray structures, real image")).voxels.copy()


def test_nothing_can_be_pressed_without_a_ct(desktop):
    ui = desktop.open_module(MODULE).ui
    for button in (ui.outletButton, ui.findViewsButton, ui.barrelButton, ui.reportButton, ui.exportButton):
        assert not button.enabled
    assert ui.statusLabel.text == "Choose a CT and a view."


def test_numba_is_offered_where_it_is_missing_and_asked_for_by_slicer(desktop, monkeypatch):
    widget = desktop.open_module(MODULE)
    assert widget.ui.fasterButton.isHidden()
    asked = []
    packaging = SimpleNamespace(pip_ensure=lambda requirement, requester: asked.append((requirement, requester)))
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    monkeypatch.setattr(widget.logic, "hasCompiler", lambda: False)
    widget.onFasterButton()
    assert asked == [("numba>=0.68,<1", "Sacroplasty Fluoroscopy")]
    assert not widget.ui.fasterButton.isHidden()


def test_one_click_moves_the_sliders_to_the_view_of_this_patient(desktop, case):
    ui = case.ui
    ui.outletButton.click()
    view = fluoroscopy.found_views(desktop.scene)["outlet"]
    primary, secondary = view.geometry.positioner_angles_deg
    assert view.measured and ui.primarySlider.value == pytest.approx(primary, abs=0.06)
    assert ui.secondarySlider.value == pytest.approx(secondary, abs=0.06)
    assert ui.statusLabel.text == f"✔ Outlet: good, {view.off_deg:.1f}° off"
    assert ui.adviceLabel.text.endswith(f"CAU {round(-secondary)}°")
    shown = fluoroscopy.geometry_of(case.logic.simulated())
    assert np.allclose(shown.source_ras, view.geometry.source_ras)
    rows = [ui.viewsTable.item(row, 0).text() for row in range(ui.viewsTable.rowCount)]
    assert rows[:4] == ["AP", "Outlet", "Inlet", "Lateral"] and "Barrel left" in rows and "Biplane 2" in rows
    ui.viewsTable.cellDoubleClicked.emit(3, 0)
    assert ui.statusLabel.text.startswith("✔ Lateral: good")


def test_a_slider_takes_a_new_picture_and_says_how_far_off_it_is(desktop, case):
    ui = case.ui
    ui.primarySlider.value = 12.0
    assert case.logic.simulated() is None, "no picture was asked for yet"
    ui.lateralButton.click()
    before = picture(case)
    ui.secondarySlider.value = ui.secondarySlider.value + 8.0
    assert not np.array_equal(picture(case), before)
    assert ui.statusLabel.text.startswith("✘ Lateral: not met, ")
    assert "8° to the feet" in ui.adviceLabel.text
    geometry = fluoroscopy.geometry_of(case.logic.simulated())
    assert geometry.positioner_angles_deg[1] == pytest.approx(ui.secondarySlider.value, abs=0.06)
    before = picture(case)
    ui.sourceToDetectorSliderWidget.value = 1300.0
    assert fluoroscopy.geometry_of(case.logic.simulated()).source_to_detector_mm == 1300.0
    assert not np.array_equal(picture(case), before)


def test_what_is_drawn_is_switched_at_once(desktop, case):
    ui = case.ui
    ui.apButton.click()
    everything = outlined(desktop.scene)
    ui.alaeCheckBox.click()
    assert outlined(desktop.scene) < everything
    ui.alaeCheckBox.click()
    assert outlined(desktop.scene) == everything
    ui.jointsCheckBox.click()
    assert outlined(desktop.scene) > everything


def test_views_along_and_across_a_trocar_that_was_moved(desktop, case):
    ui = case.ui
    assert not ui.barrelButton.enabled
    line = planning.trajectory_rows(desktop.scene)[0].line
    case._parameterNode.trajectory = line
    line.SetNthControlPointPosition(0, *sacrum_point(50, 75, -30))
    start, end = nodes.line_points(line)
    ui.barrelButton.click()
    beam = fluoroscopy.geometry_of(case.logic.simulated()).view_direction_ras
    assert angle_between_deg(beam, end - start) < 0.1
    assert ui.statusLabel.text.startswith("✔ Barrel left: good")
    ui.perpendicularButton.click()
    beam = fluoroscopy.geometry_of(case.logic.simulated()).view_direction_ras
    assert angle_between_deg(beam, end - start) == pytest.approx(90, abs=0.1)


def test_limits_of_the_c_arm_are_kept_and_impossible_ones_refused(desktop, case):
    ui = case.ui
    ui.secondaryLowSlider.value = -20.0
    ui.outletButton.click()
    assert ui.secondarySlider.value == pytest.approx(-20.0, abs=0.06)
    assert "not met" in ui.statusLabel.text and "out of reach" in ui.adviceLabel.text
    ui.secondaryHighSlider.value = -50.0
    ui.outletButton.click()
    assert ui.statusLabel.text.startswith("✘ secondary_deg is -20 to -50")


def test_a_c_arm_is_chosen_by_name(desktop, case):
    ui = case.ui
    ui.apButton.click()
    ui.cArmComboBox.setCurrentText("mobile-intensifier-9-inch")
    ui.cArmComboBox.activated.emit(ui.cArmComboBox.currentIndex)
    geometry = fluoroscopy.geometry_of(case.logic.simulated())
    assert geometry.source_to_detector_mm == ui.sourceToDetectorSliderWidget.value == 1000.0
    assert np.prod([geometry.detector_pixels[0], geometry.pixel_spacing_mm[0]]) == pytest.approx(245.45, rel=0.01)
    shown = picture(case)
    assert not shown[:8, :8].any() and shown[60:68, 60:68].any(), "an intensifier shows a circle"


def test_a_real_image_is_outlined_scored_and_followed(desktop, case):
    ui = case.ui
    ui.lateralButton.click()
    geometry = fluoroscopy.geometry_of(case.logic.simulated())
    real = fluoroscopy.show_real(desktop.scene, np.full((128, 128), 7, np.uint8), geometry, "Image_Detector")
    case._parameterNode.real = real
    assert ui.realLabel.text.startswith("✔ Lateral: good")
    overlay = overlay_of_real(desktop.scene)
    assert overlay.any()
    turned = case.logic.poseGeometry(case._parameterNode.ct, 80.0, 0.0).resampled(128)
    real.SetAttribute(devices.GEOMETRY, json.dumps(turned.to_dict()))
    moved = overlay_of_real(desktop.scene)
    assert not np.array_equal(moved, overlay)
    assert "not met" in ui.realLabel.text and "turn the detector" in ui.realAdviceLabel.text
    ui.sideBySideButton.click()
    desktop.leave(case)
    real.SetAttribute(devices.GEOMETRY, json.dumps(geometry.to_dict()))
    assert np.array_equal(overlay_of_real(desktop.scene), moved)


def test_an_image_without_geometry_is_no_ground_for_outlines(desktop, case):
    case.ui.apButton.click()
    case._parameterNode.real = nodes.add_volume(desktop.scene, nodes.volume_of(case.logic.simulated()), "Unknown")
    assert "not known" in case.ui.realLabel.text and "Unknown" in case.ui.realAdviceLabel.text
    assert not case.ui.sideBySideButton.enabled
    case.ui.alaeCheckBox.click()
    assert desktop.scene.GetFirstNodeByName("X-ray structures, real image") is None


def test_pictures_and_angles_leave_the_module(desktop, case, tmp_path):
    ui = case.ui
    ui.outletButton.click()
    ui.reportButton.click()
    assert "✔ In the report: Outlet: " in ui.adviceLabel.text
    assert len(fluoroscopy.report_pictures(desktop.scene)) == 1
    ui.exportPathLineEdit.currentPath = str(tmp_path / "views.csv")
    ui.exportButton.click()
    assert (tmp_path / "views.csv").read_text().count("\n") == ui.viewsTable.rowCount + 1


def test_the_module_knows_its_case_again_in_a_saved_scene(desktop, host, tmp_path, case, monkeypatch):
    ui = case.ui
    ui.outletButton.click()
    ui.headSlider.value = 20.0
    ui.canalCheckBox.click()
    sliders = [slider.value for slider in case.poseSliders()]
    status, shown, drawn = ui.statusLabel.text, picture(case), outlined(desktop.scene)
    host.save(tmp_path / "case.mrb")
    desktop.scene.Clear(0)
    host.load(tmp_path / "case.mrb")
    monkeypatch.setattr(fluoroscopy, "find_views", lambda *arguments: pytest.fail("found again"))
    desktop.leave(case)
    desktop.enter(case)
    assert [slider.value for slider in case.poseSliders()] == pytest.approx(sliders)
    assert ui.statusLabel.text == status and not ui.canalCheckBox.checked
    assert np.array_equal(picture(case), shown) and outlined(desktop.scene) == drawn
    assert ui.viewsTable.rowCount > 6
    ui.outletButton.click()
    assert ui.statusLabel.text.startswith("✔ Outlet: good")


@pytest.mark.parametrize("section", ["angles", "real", "carm"])
def test_picture_of_each_section_on_a_narrow_panel(desktop, case, picture_folder, section):
    ui = case.ui
    ui.outletButton.click()
    if section == "real":
        geometry = case.logic.poseGeometry(case._parameterNode.ct, 5.0, -38.0).resampled(128)
        case._parameterNode.real = fluoroscopy.show_real(
            desktop.scene, np.zeros((128, 128), np.uint8), geometry, "Image_Detector"
        )
    getattr(ui, f"{section}CollapsibleButton").collapsed = False
    for other in ("inputs", "pose", "overlay"):
        getattr(ui, f"{other}CollapsibleButton").collapsed = True
    path = desktop.picture(case, picture_folder / f"{MODULE}-{section}.png", width=420)
    assert path.stat().st_size > 5000
    assert case.parent.minimumSizeHint().width() <= 420, "the panel does not fit"
