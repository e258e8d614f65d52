"""Bones by the method chosen, and what depends on them after a person edited them."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.anatomy import bone_sources
from sacroplasty.anatomy.bones import LabelledBones
from sacroplasty.anatomy.totalsegmentator import TotalSegmentatorError
from sacroplasty.errors import AnatomyError
from sacroplasty.scene import anatomy as scene_anatomy
from sacroplasty.scene import bones, nodes
from scene.test_totalsegmentator import PlayedLogic
from simple_sacrum import simple_sacrum


@pytest.fixture(scope="module")
def truth():
    return simple_sacrum(2.5)


@pytest.fixture
def ct_node(scene, truth):
    return nodes.add_volume(scene, truth.ct, "CT")


@pytest.fixture
def built_in(truth, monkeypatch):
    """The built-in method in a word, so that these tests hang on the choice alone."""

    def by_atlas(ct, progress):
        return LabelledBones(truth.bones, np.zeros(truth.canal.shape, bool), "built-in", {"sacrum": 0.9, "l5": 0.9}, ())

    monkeypatch.setattr(bone_sources, "_by_atlas", by_atlas)


def none_installed():
    raise TotalSegmentatorError("the extension is not installed")


def method_after(scene, ct_node, method, find_extension, monkeypatch):
    """What is shown, as bones and without what depends on them: the choice alone is asked here."""
    shown = []
    monkeypatch.setattr(bones, "show_structures", lambda scene, ct_node, labelled, progress: shown.append(labelled))
    bones.segment_by(scene, ct_node, method, find_extension=find_extension)
    return shown[0].method, shown[0].warnings


@pytest.mark.usefixtures("built_in")
def test_automatic_takes_the_best_that_is_there_and_says_why(scene, ct_node, truth, monkeypatch):
    monkeypatch.setattr(bone_sources.find_bones, "__defaults__", (None, lambda: None))
    said, _ = method_after(scene, ct_node, "auto", none_installed, monkeypatch)
    assert said == "built-in; chosen as no label map given, TotalSegmentator not installed"
    said, _ = method_after(scene, ct_node, "auto", lambda: PlayedLogic(truth), monkeypatch)
    assert said == "TotalSegmentator extension, fast; chosen as the TotalSegmentator extension is installed"
    failing = PlayedLogic(truth, error=RuntimeError("no memory"))
    said, warnings = method_after(scene, ct_node, "auto", lambda: failing, monkeypatch)
    assert said == "built-in; chosen as the TotalSegmentator extension failed"
    assert any("no memory" in warning for warning in warnings)


@pytest.mark.usefixtures("built_in")
def test_a_method_that_was_named_is_the_one_that_runs(scene, ct_node, truth, monkeypatch):
    logic = PlayedLogic(truth)
    assert method_after(scene, ct_node, "atlas", lambda: logic, monkeypatch)[0] == "built-in" and not logic.asked
    said, _ = method_after(scene, ct_node, "totalsegmentator", lambda: logic, monkeypatch)
    assert said == "TotalSegmentator extension, fast"
    with pytest.raises(TotalSegmentatorError, match="no memory"):
        failing = PlayedLogic(truth, error=RuntimeError("no memory"))
        bones.segment_by(scene, ct_node, "totalsegmentator", find_extension=lambda: failing)
    with pytest.raises(AnatomyError, match="select a label map"):
        bones.segment_by(scene, ct_node, "labels")


def test_edited_bones_are_kept_and_what_depends_on_them_is_found_anew(scene, ct_node, truth):
    labels = nodes.add_label_volume(scene, truth.bones, "Bones")
    segmentation = bones.segment_by(scene, ct_node, "labels", labels)
    before = scene_anatomy.anatomy_of(scene, segmentation, ct_node)
    scene_anatomy.confirm_structure(scene, "sacrum")
    # A person takes the tip of the left ala off, and paints into a foramen.
    left = truth.bones.ras_of(np.argwhere(truth.bones.voxels == 1))
    tip = np.zeros(truth.bones.voxels.shape, bool)
    cut = before.SacrumToRAS[:3, 0] @ (left - before.SacrumToRAS[:3, 3]).T > 45
    tip[tuple(np.argwhere(truth.bones.voxels == 1)[cut].T)] = True
    shorter = (truth.bones.voxels == 1) & ~tip
    nodes.set_segment(segmentation, "sacrum", shorter, truth.bones)
    painted = before.region("foramen_s2_left") | before.region("foramen_s3_left")
    nodes.set_segment(segmentation, "foramen_s2_left", painted, truth.bones)
    assert scene_anatomy.edited_structures(scene, segmentation) == ("sacrum", "foramen_s2_left")
    again = bones.recompute(scene, segmentation, ct_node)
    after = scene_anatomy.anatomy_of(scene, again, ct_node)
    assert np.array_equal(after.bone("sacrum"), shorter)
    assert (before.region("ala_left") & tip).any() and not (after.region("ala_left") & tip).any()
    assert not np.array_equal(after.region("foramen_s2_left"), painted)
    assert after.method.endswith(", edited by hand") and after.confirmed == frozenset()
    assert "Edited by hand, with the confidence of before: Sacrum." in after.warnings
    assert scene_anatomy.edited_structures(scene, again) == ()
    undone = scene_anatomy.anatomy_of(scene, scene_anatomy.restore_previous(scene), ct_node)
    assert np.array_equal(undone.region("foramen_s2_left"), painted)


def test_vessels_and_warnings_of_the_bones_stay_when_nothing_but_the_rest_is_found_anew(scene, ct_node, truth):
    canal = np.zeros(truth.canal.shape, bool)
    labelled = LabelledBones(truth.bones, canal, "labels", {"sacrum": 0.9, "l5": 0.9}, ("Resampled.",))
    before = scene_anatomy.show_structures(scene, ct_node, labelled)
    vessel = np.zeros(truth.bones.voxels.shape, bool)
    vessel[2:6, 2:6, 2:6] = True
    nodes.set_segment(before, "iliac_vessels", vessel, truth.bones)
    after = scene_anatomy.anatomy_of(scene, bones.recompute(scene, before, ct_node), ct_node)
    assert np.array_equal(after.region("iliac_vessels"), vessel)
    assert after.method == "labels", "no bone was edited"
    assert after.warnings.count("Resampled.") == 1


def test_the_segment_editor_opens_on_the_right_segmentation_and_volume(scene, ct_node, truth):
    segmentation = bones.segment_by(scene, ct_node, "labels", nodes.add_label_volume(scene, truth.bones, "Bones"))
    node = bones.prepare_segment_editor(scene, segmentation, ct_node)
    assert node is scene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert (node.GetSegmentationNode(), node.GetSourceVolumeNode()) == (segmentation, ct_node)
    assert bones.prepare_segment_editor(scene, segmentation, ct_node) is node
