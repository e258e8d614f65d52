"""An MRI in the scene: the transform above it, the overlay, oedema segments, and one call that takes them away."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.anatomy.mri_registration import MRIRegistration
from sacroplasty.anatomy.oedema import Oedema
from sacroplasty.errors import AnatomyError, CalibrationError
from sacroplasty.geometry import rigid
from sacroplasty.scene import anatomy as scene_anatomy
from sacroplasty.scene import mri as scene_mri
from sacroplasty.scene import nodes
from scene.simple_case import box, make_anatomy, make_ct

MOVED = rigid(np.eye(3), [4.0, -3.0, 2.0])
PATCH = box((30, -20, -10), (44, -6, 10))


@pytest.fixture
def case(scene, monkeypatch):
    """CT, MRI and segmentation in a scene; search and outlining, tested elsewhere, give fixed results."""
    ct = make_ct()
    ct_node = nodes.add_volume(scene, ct, "CT")
    mri_node = nodes.add_volume(scene, ct.like(ct.voxels + 1024), "MRI")
    found = MRIRegistration(MOVED, "header", 0.2, 0.08, 0.5, 0.97, 5.4, 0.0, ("look at it",))
    oedema = Oedema(
        {"oedema_left": np.zeros_like(PATCH), "oedema_right": PATCH},
        {"oedema_left": 0.0, "oedema_right": 2.0},
        "body_s1",
        0.5,
        0.9,
        (),
    )
    monkeypatch.setattr(scene_mri, "register_mri", lambda *args: found)
    monkeypatch.setattr(scene_mri, "find_oedema", lambda *args: oedema)
    return ct_node, mri_node, scene_anatomy.show_anatomy(scene, make_anatomy(ct), ct_node)


def test_the_mri_gets_a_transform_above_it_and_keeps_its_own_geometry(scene, case):
    ct_node, mri_node, segmentation = case
    before = scene_mri._mri_of(mri_node).content_hash()
    scene_mri.register(scene, ct_node, mri_node, segmentation)
    assert mri_node.GetParentTransformNode().GetName() == "MRIToCT"
    np.testing.assert_allclose(nodes.matrix_of(mri_node.GetParentTransformNode()), MOVED)
    assert scene_mri._mri_of(mri_node).content_hash() == before


def test_oedema_joins_the_segments_and_one_call_takes_all_away(scene, case):
    ct_node, mri_node, segmentation = case
    scene_mri.register(scene, ct_node, mri_node, segmentation)
    scene_mri.show_oedema(scene, ct_node, mri_node, segmentation)
    assert "oedema_left" not in nodes.segment_names(segmentation)
    assert np.array_equal(nodes.mask_of(segmentation, "oedema_right", nodes.volume_of(ct_node)), PATCH)
    scene_mri.remove(scene)
    assert not [name for name in nodes.segment_names(segmentation) if name.startswith("oedema")]
    assert mri_node.GetParentTransformNode() is None
    assert scene_mri.registration_of(scene) is None


def test_oedema_needs_the_registration_that_the_scene_shows(scene, case):
    ct_node, mri_node, segmentation = case
    with pytest.raises(AnatomyError, match="register it first"):
        scene_mri.show_oedema(scene, ct_node, mri_node, segmentation)
    scene_mri.register(scene, ct_node, mri_node, segmentation)
    nodes.set_transform(mri_node.GetParentTransformNode(), np.eye(4))
    with pytest.raises(AnatomyError, match="moved since"):
        scene_mri.show_oedema(scene, ct_node, mri_node, segmentation)


def test_a_refused_registration_leaves_the_scene_as_it_was(scene, case, monkeypatch):
    ct_node, mri_node, segmentation = case
    scene_mri.register(scene, ct_node, mri_node, segmentation)

    def refuse(*args):
        raise CalibrationError("no")

    monkeypatch.setattr(scene_mri, "register_mri", refuse)
    with pytest.raises(CalibrationError):
        scene_mri.register(scene, ct_node, mri_node, segmentation)
    np.testing.assert_allclose(nodes.matrix_of(mri_node.GetParentTransformNode()), MOVED)


def test_the_overlay_lies_over_the_ct_in_every_slice_view(scene, case):
    _, mri_node, _ = case
    composite = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    assert scene_mri.show_overlay(scene, mri_node, 0.4) >= 1
    assert (composite.GetForegroundVolumeID(), composite.GetForegroundOpacity()) == (mri_node.GetID(), 0.4)
    scene_mri.show_overlay(scene, None)
    assert composite.GetForegroundVolumeID() is None


def test_registration_and_oedema_survive_a_saved_scene(host, case, tmp_path):
    ct_node, mri_node, segmentation = case
    scene_mri.register(host.scene, ct_node, mri_node, segmentation)
    scene_mri.show_oedema(host.scene, ct_node, mri_node, segmentation)
    host.save(tmp_path / "case.mrb")
    host.scene.Clear(False)
    host.load(tmp_path / "case.mrb")
    mri_node = nodes.first_node(host.scene, "vtkMRMLScalarVolumeNode", "MRI")
    np.testing.assert_allclose(nodes.matrix_of(mri_node.GetParentTransformNode()), MOVED)
    segmentation = nodes.first_node(host.scene, "vtkMRMLSegmentationNode", scene_anatomy.SEGMENTATION_NAME)
    assert "oedema_right" in nodes.segment_names(segmentation)
    assert scene_mri.registration_of(host.scene).disagreement_mm == 0.5
