"""Fractures in the scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import slicer
from sacroplasty.anatomy.fracture_model import Evidence, FractureSuggestion
from sacroplasty.errors import AnatomyError
from sacroplasty.geometry import transform_points
from sacroplasty.scene import anatomy as scene_anatomy
from sacroplasty.scene import fracture, nodes
from scene.simple_case import box, make_anatomy, make_ct
from simple_sacrum import SACRUM_TO_RAS, simple_sacrum

ALA_X = -40.0


def suggestion() -> FractureSuggestion:
    return FractureSuggestion(
        center_ras=np.array([ALA_X, -15.0, 10.0]),
        normal_ras=np.array([1.0, 0, 0]),
        along_ras=np.array([0.0, 0, 1]),
        extent_mm=(40.0, 20.0),
        area_mm2=600.0,
        side="left",
        denis_zone=1,
        direction="vertical",
        score=0.5,
        evidence=(Evidence("cleft", 0.5, 30.0),),
    )


@pytest.fixture
def case(scene):
    ct = make_ct()
    ct_node = nodes.add_volume(scene, ct, "CT")
    anatomy = replace(make_anatomy(ct), fracture_suggestions=(suggestion(), replace(suggestion(), score=0.4)))
    return scene_anatomy.show_anatomy(scene, anatomy, ct_node), ct_node


def curve(scene, points):
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsCurveNode", "Line")
    for point in points:
        node.AddControlPointWorld(*point)
    return node


def plane(scene, x, size=(40.0, 20.0)):
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsPlaneNode", "Plane")
    node.SetPlaneType(slicer.vtkMRMLMarkupsPlaneNode.PlaneTypePointNormal)
    node.SetAxesWorld([0.0, 0, 1], [0.0, -1, 0], [1.0, 0, 0])
    node.SetCenterWorld([x, -15.0, 10.0])
    node.SetSizeMode(slicer.vtkMRMLMarkupsPlaneNode.SizeModeAbsolute)
    node.SetSizeWorld(*size)
    return node


def test_a_drawn_curve_becomes_a_segment_that_the_anatomy_knows(scene, case):
    segmentation, ct_node = case
    drawn = curve(scene, [(ALA_X, -15, 30), (ALA_X, -15, 10), (ALA_X, -15, -10)])
    assert fracture.mark_curve(scene, segmentation, ct_node, drawn) == "fracture_1"
    ct = nodes.volume_of(ct_node)
    mask = nodes.mask_of(segmentation, "fracture_1", ct)
    points = ct.ras_of(np.argwhere(mask))
    assert np.abs(points[:, 0] - ALA_X).max() <= 2
    assert points[:, 2].min() >= -12 and points[:, 2].max() <= 32
    (marked,) = scene_anatomy.anatomy_of(scene, segmentation, ct_node).fractures
    assert marked.source == "curve" and np.array_equal(marked.mask(mask.shape), mask)


def test_a_placed_plane_marks_no_more_than_its_frame(scene, case):
    segmentation, ct_node = case
    fracture.mark_plane(scene, segmentation, ct_node, plane(scene, ALA_X))
    ct = nodes.volume_of(ct_node)
    points = ct.ras_of(np.argwhere(nodes.mask_of(segmentation, "fracture_1", ct)))
    assert np.ptp(points[:, 2]) == pytest.approx(40, abs=2)
    assert np.ptp(points[:, 1]) == pytest.approx(20, abs=2)


def test_a_marked_fracture_comes_back_as_a_plane_that_marks_the_same(scene, case):
    segmentation, ct_node = case
    fracture.mark_plane(scene, segmentation, ct_node, plane(scene, ALA_X))
    anatomy = scene_anatomy.anatomy_of(scene, segmentation, ct_node)
    again = fracture.plane_of(scene, anatomy.fractures[0], anatomy.bones, "Again")
    fracture.mark_plane(scene, segmentation, ct_node, again)
    masks = [nodes.mask_of(segmentation, f"fracture_{number}", anatomy.bones) for number in (1, 2)]
    assert np.array_equal(*masks)


def test_what_was_not_placed_is_refused(scene, case):
    segmentation, ct_node = case
    with pytest.raises(AnatomyError, match="fewer than two points"):
        fracture.mark_curve(scene, segmentation, ct_node, curve(scene, [(ALA_X, -15, 30)]))
    with pytest.raises(AnatomyError, match="not placed yet"):
        fracture.mark_plane(scene, segmentation, ct_node, scene.AddNewNodeByClass("vtkMRMLMarkupsPlaneNode", "Empty"))
    with pytest.raises(AnatomyError, match="no fracture_7"):
        fracture.remove_fracture(scene, segmentation, ct_node, "fracture_7")


def test_suggestions_are_models_until_a_person_accepts_or_dismisses_them(scene, case):
    segmentation, ct_node = case
    models = fracture.show_suggestions(scene)
    assert [model.GetName() for model in models] == ["Suggestion 1 (0.50)", "Suggestion 2 (0.40)"]
    assert scene_anatomy.anatomy_of(scene, segmentation, ct_node).fractures == ()
    assert fracture.accept_suggestion(scene, segmentation, ct_node, 0) == "fracture_1"
    assert [one.score for one in fracture.suggestions(scene)] == [0.4]
    fracture.dismiss_suggestion(scene, 0)
    assert fracture.suggestions(scene) == ()
    assert nodes.first_node(scene, "vtkMRMLModelNode", "Suggestion 1 (0.50)") is None
    with pytest.raises(AnatomyError, match="no suggestion 1"):
        fracture.accept_suggestion(scene, segmentation, ct_node, 0)


def test_removing_a_fracture_numbers_the_others_anew_and_classifies_again(scene, case):
    segmentation, ct_node = case
    fracture.mark_plane(scene, segmentation, ct_node, plane(scene, ALA_X))
    fracture.mark_plane(scene, segmentation, ct_node, plane(scene, -ALA_X))
    assert fracture.classification(scene).pattern.proposed == "bilateral"
    fracture.remove_fracture(scene, segmentation, ct_node, "fracture_1")
    anatomy = scene_anatomy.anatomy_of(scene, segmentation, ct_node)
    assert len(anatomy.fractures) == 1
    assert anatomy.bones.ras_of(anatomy.fractures[0].voxels_kji)[:, 0].min() > 30
    assert fracture.classification(scene).pattern.proposed == "unilateral"


def test_a_persons_word_is_kept_and_can_be_taken_back(scene, case):
    segmentation, ct_node = case
    fracture.mark_plane(scene, segmentation, ct_node, plane(scene, ALA_X))
    assert fracture.classification(scene).denis_zone.value is None
    fracture.confirm_field(scene, "denis_zone", "I")
    fracture.set_anterior_ring(scene, "no")
    assert fracture.classification(scene).denis_zone.value == "I"
    assert fracture.reclassify(scene, segmentation, ct_node).ffp.proposed == "IIa"
    fracture.confirm_field(scene, "denis_zone", None)
    assert fracture.classification(scene).denis_zone.value is None


def test_a_segment_painted_by_hand_is_a_fracture_and_an_empty_one_is_refused(scene, case):
    segmentation, ct_node = case
    ct = nodes.volume_of(ct_node)
    painted = box((-26, -30, 0), (-20, 0, 20))
    nodes.set_segment(segmentation, "fracture_1", painted, ct)
    assert "foramen_s1_left" in fracture.leak_notes(scene, segmentation, ct_node)[0]
    nodes.set_segment(segmentation, "fracture_1", box((60, -30, 0), (70, 0, 20)), ct)
    with pytest.raises(AnatomyError, match="fracture_1 has no voxel in the sacrum"):
        scene_anatomy.anatomy_of(scene, segmentation, ct_node)


def test_marked_fractures_stay_when_the_bones_are_found_anew(scene):
    simple = simple_sacrum()
    ct_node = nodes.add_volume(scene, simple.ct, "CT")
    labels_node = nodes.add_label_volume(scene, simple.bones, "Bones")
    segmentation = scene_anatomy.segment(scene, ct_node, labels_node)
    drawn = curve(scene, transform_points(SACRUM_TO_RAS, [[40.0, 5, -12], [40, 5, -40]]))
    fracture.mark_curve(scene, segmentation, ct_node, drawn)
    fracture.confirm_field(scene, "pattern", "unilateral")
    (before,) = scene_anatomy.anatomy_of(scene, segmentation, ct_node).fractures
    segmentation = scene_anatomy.segment(scene, ct_node, labels_node)
    after = scene_anatomy.anatomy_of(scene, segmentation, ct_node)
    assert np.array_equal(after.fractures[0].voxels_kji, before.voxels_kji)
    assert after.fractures[0].source == "curve"
    assert after.fracture_classification.pattern.value == "unilateral"


def test_fractures_survive_a_saved_scene(host, case, tmp_path):
    segmentation, ct_node = case
    scene = host.scene
    fracture.accept_suggestion(scene, segmentation, ct_node, 0)
    fracture.confirm_field(scene, "pattern", "unilateral")
    before = scene_anatomy.anatomy_of(scene, segmentation, ct_node)
    host.save(tmp_path / "case.mrb")
    scene.Clear(False)
    host.load(tmp_path / "case.mrb")
    ct_node, segmentation = scene_anatomy.segmented_ct(scene)
    after = scene_anatomy.anatomy_of(scene, segmentation, ct_node)
    assert after.fracture_classification == before.fracture_classification
    assert np.array_equal(after.fractures[0].voxels_kji, before.fractures[0].voxels_kji)
    assert after.fractures[0].source == "suggestion"
    assert [one.score for one in after.fracture_suggestions] == [0.4]
    assert nodes.first_node(scene, "vtkMRMLModelNode", "Suggestion 1 (0.40)") is not None
