"""Anatomy in the scene."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sacroplasty.anatomy.labels import BONES
from sacroplasty.anatomy.structure_names import structure_of
from sacroplasty.errors import AnatomyError, DocumentError
from sacroplasty.geometry import rotation_about
from sacroplasty.scene import anatomy as scene_anatomy
from sacroplasty.scene import nodes, records
from sacroplasty.scene.terminology import terminology_entry
from scene.simple_case import box, make_anatomy, make_ct
from simple_sacrum import simple_sacrum


@pytest.fixture
def case(scene):
    ct = make_ct()
    ct_node = nodes.add_volume(scene, ct, "CT")
    anatomy = make_anatomy(ct)
    return anatomy, ct_node, scene_anatomy.show_anatomy(scene, anatomy, ct_node)


def test_anatomy_comes_back_from_the_scene_as_it_went_in(scene, case):
    anatomy, ct_node, segmentation = case
    back = scene_anatomy.anatomy_of(scene, segmentation, ct_node)
    assert np.array_equal(back.bones.voxels, anatomy.bones.voxels)
    assert np.array_equal(back.regions.voxels, anatomy.regions.voxels)
    assert np.allclose(back.SacrumToRAS, anatomy.SacrumToRAS)
    assert np.allclose(
        back.foramina["foramen_s1_left"].lateral_edge_ras, anatomy.foramina["foramen_s1_left"].lateral_edge_ras
    )
    assert back.landmarks["promontory"].uncertainty_mm == 1.5
    assert (back.warnings, back.method, back.confidence) == (anatomy.warnings, anatomy.method, anatomy.confidence)


def test_a_correction_by_hand_reaches_the_anatomy(scene, case):
    _, ct_node, segmentation = case
    corrected = box((-28, -30, 4), (-14, 0, 16))
    nodes.set_segment(segmentation, "foramen_s1_left", corrected, nodes.volume_of(ct_node))
    back = scene_anatomy.anatomy_of(scene, segmentation, ct_node)
    assert np.array_equal(back.region("foramen_s1_left"), corrected)


def test_segmentation_of_another_ct_is_refused(scene, case):
    _, _, segmentation = case
    other = make_ct()
    other.voxels[10, 10, 10] += 1
    with pytest.raises(AnatomyError, match="another CT than Other"):
        scene_anatomy.anatomy_of(scene, segmentation, nodes.add_volume(scene, other, "Other"))


def test_missing_segmentation_and_missing_sacrum_are_refused(scene, case):
    _, ct_node, segmentation = case
    with pytest.raises(AnatomyError, match="no segmentation"):
        scene_anatomy.anatomy_of(scene, None, ct_node)
    segmentation.GetSegmentation().RemoveSegment("sacrum")
    with pytest.raises(AnatomyError, match="no segment 'sacrum'"):
        scene_anatomy.anatomy_of(scene, segmentation, ct_node)


def test_rows_give_volume_centre_and_confidence(scene, case):
    _, _, segmentation = case
    rows = {row.name: row for row in scene_anatomy.structure_rows(scene, segmentation)}
    foramen = rows["foramen_s1_left"]
    # 5 x 16 x 5 voxel centres of 8 mm³ between the limits of the box.
    assert foramen.volume_ml == pytest.approx(5 * 16 * 5 * 0.008)
    assert np.allclose(foramen.center_ras, [-20, -15, 10])
    assert foramen.confidence == 0.4
    assert rows["ala_left"].confidence is None


def shown_segmentations(scene):
    found = [scene.GetNthNodeByClass(n, "vtkMRMLSegmentationNode") for n in range(scene.GetNumberOfNodes())]
    return [node for node in found if node is not None and not node.GetHideFromEditors()]


def test_segmenting_again_replaces_the_result_and_keeps_one_older_one_out_of_sight(scene, case):
    anatomy, ct_node, _ = case
    for _ in range(3):
        scene_anatomy.show_anatomy(scene, dataclasses.replace(anatomy, warnings=()), ct_node)
    assert len(shown_segmentations(scene)) == 1
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 2
    assert scene.GetNumberOfNodesByClass("vtkMRMLTextNode") == 2
    assert scene_anatomy.warnings_of(scene) == ()


def test_the_previous_result_comes_back_with_its_edits_even_from_a_saved_scene(host, case, tmp_path):
    anatomy, ct_node, segmentation = case
    painted = box((-28, -30, 4), (-14, 0, 16))
    nodes.set_segment(segmentation, "foramen_s1_left", painted, nodes.volume_of(ct_node))
    assert not scene_anatomy.has_previous(host.scene)
    with pytest.raises(AnatomyError, match="no previous result"):
        scene_anatomy.restore_previous(host.scene)
    scene_anatomy.show_anatomy(host.scene, dataclasses.replace(anatomy, method="second"), ct_node)
    host.save(tmp_path / "case.mrb")
    host.scene.Clear(False)
    host.load(tmp_path / "case.mrb")
    ct_node = nodes.first_node(host.scene, "vtkMRMLScalarVolumeNode", "CT")
    assert len(shown_segmentations(host.scene)) == 1
    for method, mask in (("test", painted), ("second", anatomy.region("foramen_s1_left")), ("test", painted)):
        restored = scene_anatomy.restore_previous(host.scene)
        back = scene_anatomy.anatomy_of(host.scene, restored, ct_node)
        assert back.method == method
        assert np.array_equal(back.region("foramen_s1_left"), mask)
        assert scene_anatomy.segmented_ct(host.scene) == (ct_node, restored)
        assert restored.GetDisplayNode().GetVisibility() and not restored.GetDisplayNode().GetVisibility2DFill()
        assert shown_segmentations(host.scene) == [restored]


def test_what_a_person_painted_is_told_apart_from_what_was_found(host, tmp_path):
    case = simple_sacrum(3.0, directions=rotation_about([1, 2, 3], 20.0))
    bones = {name: case.bones.voxels == label for label, name in BONES.items()}
    anatomy = dataclasses.replace(make_anatomy(make_ct()), bones=case.bones, image_hash=case.ct.content_hash())
    anatomy = dataclasses.replace(anatomy, regions=case.bones.like(np.where(case.canal, 1, 0).astype(np.uint8)))
    scene_anatomy.show_anatomy(host.scene, anatomy, nodes.add_volume(host.scene, case.ct, "CT"))
    host.save(tmp_path / "case.mrb")
    host.scene.Clear(False)
    host.load(tmp_path / "case.mrb")
    segmentation = nodes.first_node(host.scene, "vtkMRMLSegmentationNode", scene_anatomy.SEGMENTATION_NAME)
    assert scene_anatomy.edited_structures(host.scene, segmentation) == ()
    larger = bones["l5"].copy()
    larger[tuple(np.argwhere(larger)[0] - 1)] = True
    nodes.set_segment(segmentation, "l5", larger, case.bones)
    segmentation.GetSegmentation().RemoveSegment("sacral_canal")
    assert scene_anatomy.edited_structures(host.scene, segmentation) == ("l5", "sacral_canal")


def test_a_confirmation_lapses_when_the_structure_is_painted_on(scene, case):
    _, ct_node, segmentation = case
    scene_anatomy.confirm_structure(scene, "foramen_s1_left")
    assert scene_anatomy.confirmed_structures(scene) == {"foramen_s1_left"}
    nodes.set_segment(segmentation, "foramen_s1_left", box((-28, -30, 4), (-14, 0, 16)), nodes.volume_of(ct_node))
    assert scene_anatomy.confirmed_structures(scene) == frozenset()
    assert scene_anatomy.anatomy_of(scene, segmentation, ct_node).confirmed == frozenset()
    assert any("foramen_s1_left: found" in reason for reason in scene_anatomy.blocking_reasons_of(scene, "left"))
    scene_anatomy.confirm_structure(scene, "foramen_s1_left")
    assert scene_anatomy.confirmed_structures(scene) == {"foramen_s1_left"}


def test_bones_carry_the_codes_of_slicers_terminologies_and_nerve_rooms_none(scene, case):
    _, _, segmentation = case
    entry = nodes.terminology_of(segmentation, "sacrum")
    assert entry.split("~")[:3] == [
        "Segmentation category and type - DICOM master list",
        "SCT^123037004^Anatomical Structure",
        "SCT^54735007^Sacrum",
    ]
    for name in ("sacrum", "l5", "hip_left", "hip_right"):
        assert structure_of("Segment_1", terminology_entry(name)) == name
    assert terminology_entry("sacral_canal") is None and terminology_entry("foramen_s1_left") is None
    # What Slicer gives to every segment without a code.
    assert "^Tissue~" in nodes.terminology_of(segmentation, "foramen_s1_left")


def test_case_survives_a_saved_scene(host, case, tmp_path):
    anatomy, _, _ = case
    host.save(tmp_path / "case.mrb")
    host.scene.Clear(False)
    host.load(tmp_path / "case.mrb")
    ct_node = nodes.first_node(host.scene, "vtkMRMLScalarVolumeNode", "CT")
    segmentation = nodes.first_node(host.scene, "vtkMRMLSegmentationNode", scene_anatomy.SEGMENTATION_NAME)
    back = scene_anatomy.anatomy_of(host.scene, segmentation, ct_node)
    assert np.array_equal(back.regions.voxels, anatomy.regions.voxels)
    assert back.warnings == anatomy.warnings


def test_labelled_segments_of_any_letter_case_become_bone_labels(scene):
    ct = make_ct()
    bone = box((-50, -30, -40), (50, 0, 40))
    node = nodes.add_segmentation(scene, {"Sacrum": bone}, ct, "Bones")
    labels = scene_anatomy.label_map_of(node, ct)
    assert np.array_equal(labels.volume.voxels == 1, bone) and labels.names == {1: "sacrum"}
    stranger = nodes.add_segmentation(scene, {"liver": bone}, ct, "Organs")
    with pytest.raises(AnatomyError, match="no segment named sacrum"):
        scene_anatomy.label_map_of(stranger, ct)


def test_segments_are_known_by_their_terminology(scene):
    ct = make_ct()
    bone, other = box((-50, -30, -40), (0, 0, 40)), box((2, -30, -40), (50, 0, 40))
    node = nodes.add_segmentation(scene, {"Segment_1": bone, "Segment_2": other}, ct, "Bones")
    for name, kind in (("Segment_1", "SCT^54735007^Sacrum~^^"), ("Segment_2", "SCT^29836001^Hip~SCT^7771000^Left")):
        segment = node.GetSegmentation().GetSegment(name)
        segment.SetTag(segment.GetTerminologyEntryTagName(), f"Segmentation~SCT^123037004^Structure~{kind}~~^^~^^")
    labels = scene_anatomy.label_map_of(node, ct)
    values = {name: value for value, name in labels.names.items()}
    assert np.array_equal(labels.volume.voxels == values["sacrum"], bone)
    assert np.array_equal(labels.volume.voxels == values["hip_left"], other)


def test_slice_views_jump_to_a_structure(scene):
    slice_node = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    slice_node.SetLayoutName("Red")
    scene_anatomy.jump_to(scene, np.array([12.0, -3.0, 45.0]))
    matrix = slice_node.GetSliceToRAS()
    assert [matrix.GetElement(row, 3) for row in range(3)] == pytest.approx([12.0, -3.0, 45.0])


def test_damaged_record_is_refused_in_one_line(scene):
    nodes.add_text(scene, "{broken", scene_anatomy.RECORD_NAME)
    with pytest.raises(DocumentError, match="damaged"):
        records.read_record(scene, scene_anatomy.RECORD_NAME)


@pytest.mark.parametrize(
    ("name", "text"),
    [("foramen_s1_left", "Foramen S1 left"), ("l5", "L5"), ("si_joint_left", "SI joint left"), ("sacrum", "Sacrum")],
)
def test_names_read_as_a_person_writes_them(name, text):
    assert scene_anatomy.readable(name) == text


def test_a_confirmation_is_kept_and_can_be_taken_back(scene, case):
    _, ct_node, segmentation = case
    assert any(reason.startswith("foramen_s1_left: ") for reason in scene_anatomy.blocking_reasons_of(scene, "left"))
    assert scene_anatomy.structures_to_confirm(scene, ["left"]) == ("foramen_s1_left",)
    scene_anatomy.confirm_structure(scene, "foramen_s1_left")
    assert scene_anatomy.structures_to_confirm(scene, ["left"]) == ()
    assert scene_anatomy.anatomy_of(scene, segmentation, ct_node).confirmed == {"foramen_s1_left"}
    scene_anatomy.withdraw_confirmation(scene, "foramen_s1_left")
    assert scene_anatomy.confirmed_structures(scene) == frozenset()


def test_nobody_confirms_what_was_not_found(scene, case):
    with pytest.raises(AnatomyError, match="hip_left cannot be confirmed"):
        scene_anatomy.confirm_structure(scene, "hip_left")
    assert scene_anatomy.confirmed_structures(scene) == frozenset()


def test_segmenting_again_forgets_the_confirmations(scene, case):
    anatomy, ct_node, _ = case
    scene_anatomy.confirm_structure(scene, "foramen_s1_left")
    scene_anatomy.show_anatomy(scene, anatomy, ct_node)
    assert scene_anatomy.confirmed_structures(scene) == frozenset()
