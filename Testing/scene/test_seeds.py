"""Three clicks that correct bones which went wrong."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.anatomy.bones import bones_from_labels
from sacroplasty.errors import AnatomyError
from sacroplasty.scene import nodes, seeds
from sacroplasty.scene.anatomy import anatomy_of, show_structures
from simple_sacrum import simple_sacrum
from spoiled_bones import spoil_ilium


@pytest.fixture(scope="module")
def truth():
    return simple_sacrum(2.5)


@pytest.fixture(scope="module")
def spoiled(truth):
    return spoil_ilium(truth.bones, "left", seed=1)


def dice(found, true):
    return 2 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true))


@pytest.mark.usefixtures("host")
def test_an_ilium_that_was_taken_for_sacrum_is_given_back(truth, spoiled):
    clicks = {name: [point] for name, point in spoiled.clicks.items()}
    grown = seeds.grow_from_seeds(truth.ct, clicks, spoiled.bones)
    for label in (1, 3):
        before = dice(spoiled.bones.voxels == label, truth.bones.voxels == label)
        after = dice(grown.voxels == label, truth.bones.voxels == label)
        assert after > 0.99 > before
    far = ~spoiled.near
    assert np.array_equal(grown.voxels[far], truth.bones.voxels[far])


@pytest.mark.usefixtures("host")
def test_soft_tissue_that_was_taken_for_sacrum_is_given_back_by_a_click_on_it(truth):
    inside = np.argwhere(truth.bones.voxels == 1).mean(axis=0)
    front = truth.bones.ras_of(inside[None])[0] + [0.0, 45.0, -25.0]
    every = np.indices(truth.bones.voxels.shape).reshape(3, -1).T
    away = np.linalg.norm(truth.bones.ras_of(every) - front, axis=1).reshape(truth.bones.voxels.shape)
    leaked = np.where((away < 9) & (truth.bones.voxels == 0), 1, truth.bones.voxels).astype(np.uint8)
    wrong = np.count_nonzero(leaked != truth.bones.voxels)
    assert wrong > 100
    clicks = {"background": [front], "sacrum": [truth.bones.ras_of(inside[None])[0] + [30.0, 0, 10.0]]}
    grown = seeds.grow_from_seeds(truth.ct, clicks, truth.bones.like(leaked))
    assert np.count_nonzero(grown.voxels != truth.bones.voxels) < 0.5 * wrong


def test_clicks_that_cannot_be_meant_are_refused(truth, spoiled):
    sacrum = spoiled.clicks["sacrum"]
    for clicks, message in (
        ({"sacrum": [sacrum]}, "at least two kinds"),
        ({"sacrum": [sacrum], "tail": [sacrum]}, "named tail; known are sacrum"),
        ({"sacrum": [sacrum], "background": [[9000.0, 0, 0]]}, "background lies outside the CT"),
        ({"sacrum": [sacrum], "hip_left": [[np.nan, 0, 0]]}, "hip_left lies outside"),
        ({"sacrum": [sacrum], "background": [spoiled.clicks["background"] * np.nan]}, "outside"),
    ):
        with pytest.raises(AnatomyError, match=message):
            seeds.grow_from_seeds(truth.ct, clicks, spoiled.bones)
    right = {name: [point] for name, point in spoiled.clicks.items() if name != "background"}
    with pytest.raises(AnatomyError, match="already say so"):
        seeds.grow_from_seeds(truth.ct, right, truth.bones)


def test_points_in_the_scene_correct_the_segmentation_and_all_that_hangs_on_it(scene, truth, spoiled):
    ct_node = nodes.add_volume(scene, truth.ct, "CT")
    before = show_structures(scene, ct_node, bones_from_labels(truth.ct, spoiled.bones))
    old = anatomy_of(scene, before, ct_node)
    named = {"hip-1": spoiled.clicks["hip_left"], "sacrum-2": spoiled.clicks["sacrum"]}
    clicks = nodes.add_points(scene, named | {"background": spoiled.clicks["background"]}, "Seeds")
    after = seeds.correct_bones(scene, ct_node, before, clicks)
    new = anatomy_of(scene, after, ct_node)
    assert dice(new.bone("hip_left"), truth.bones.voxels == 3) > 0.99
    assert new.method == "labels (bones), corrected by clicks"
    assert any("corrected by clicks" in warning for warning in new.warnings)
    assert not np.array_equal(new.regions.voxels, old.regions.voxels)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 2, "the result and the one before"

    stranger = nodes.add_points(scene, {"tumor": spoiled.clicks["sacrum"]}, "Odd")
    with pytest.raises(AnatomyError, match="the point 'tumor' is none of sacrum"):
        seeds.correct_bones(scene, ct_node, after, stranger)
