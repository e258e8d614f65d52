"""Bones by Slicer's TotalSegmentator extension, played by a logic that fills the node as the real one does."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from sacroplasty.anatomy.totalsegmentator import CLASSES, TotalSegmentatorError
from sacroplasty.geometry import rigid
from sacroplasty.scene import nodes
from sacroplasty.scene.anatomy import anatomy_of
from sacroplasty.scene.totalsegmentator import bones_by_extension, extension_logic, segment_by_extension
from simple_sacrum import simple_sacrum

#: Segments as the extension names them: class names, or Slicer's standard names with terminology.
NAMES = {1: "sacrum", 2: "L5 vertebra", 3: "left hip", 4: "hip_right"}


class PlayedLogic:
    def __init__(self, truth, names=NAMES, error=None):
        self.truth, self.names, self.error = truth, names, error
        self.logCallback = None
        self.asked = {}

    def process(self, inputVolume, outputSegmentation, quality, cpu, task, subset, interactive):
        self.asked = {"quality": quality, "cpu": cpu, "task": task, "subset": subset, "interactive": interactive}
        for line in (
            "Generating rough segmentation for cropping...",
            " 50%|#####     | 1/2",
            "Saving segmentations...",
        ):
            self.logCallback(line)
        if self.error:
            raise self.error
        for value, name in self.names.items():
            nodes.set_segment(outputSegmentation, name, self.truth.bones.voxels == value, self.truth.bones)


@pytest.fixture(scope="module")
def truth():
    return simple_sacrum(2.5)


def test_the_extensions_segments_become_the_anatomy(scene, truth):
    ct_node = nodes.add_volume(scene, truth.ct, "CT")
    logic, fractions = PlayedLogic(truth), []
    node = segment_by_extension(scene, ct_node, logic, "normal", cpu=True, progress=fractions.append)
    anatomy = anatomy_of(scene, node, ct_node)
    assert np.array_equal(anatomy.bones.voxels, truth.bones.voxels)
    assert anatomy.method == "TotalSegmentator extension, normal"
    assert logic.asked == {
        "quality": "normal",
        "cpu": True,
        "task": "total",
        "subset": list(CLASSES),
        "interactive": False,
    }
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    assert logic.logCallback is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (subprocess.CalledProcessError(1, "x"), "the TotalSegmentator extension failed"),
        (RuntimeError("Python was\nnot found"), "failed: Python was not found"),
        (ImportError("No module named 'torch'"), "packages are not installed"),
    ],
)
def test_a_failure_is_one_line_and_leaves_no_node(scene, truth, error, message):
    ct_node = nodes.add_volume(scene, truth.ct, "CT")
    with pytest.raises(TotalSegmentatorError, match=message) as said:
        bones_by_extension(scene, ct_node, PlayedLogic(truth, error=error))
    assert "\n" not in str(said.value)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_a_missing_bone_and_a_moved_ct_are_refused(scene, truth):
    ct_node = nodes.add_volume(scene, truth.ct, "CT")
    without = {value: name for value, name in NAMES.items() if value != 2}
    with pytest.raises(TotalSegmentatorError, match="found no l5"):
        bones_by_extension(scene, ct_node, PlayedLogic(truth, without))
    transform = nodes.add_transform(scene, rigid(np.eye(3), [5.0, 0, 0]), "Moved")
    ct_node.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(TotalSegmentatorError, match="harden it"):
        bones_by_extension(scene, ct_node, PlayedLogic(truth))


@pytest.mark.usefixtures("host")
def test_without_the_extension_one_line_says_how_to_get_it():
    with pytest.raises(TotalSegmentatorError, match="install it in the Extensions Manager"):
        extension_logic()
