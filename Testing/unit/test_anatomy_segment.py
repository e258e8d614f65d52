"""Anatomy from label maps, against a sacrum of known shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sacroplasty.anatomy.bones import LabelledBones, bones_from_labels
from sacroplasty.anatomy.confirmation import blocking_reasons
from sacroplasty.anatomy.files import read_anatomy, read_segmented_ct, write_anatomy
from sacroplasty.anatomy.foramina import LOW_CONFIDENCE
from sacroplasty.anatomy.labels import LEVELS, SIDES
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.segment import find_structures, segment_from_labels
from sacroplasty.errors import AnatomyError
from sacroplasty.geometry import angle_between_deg, invert_rigid, rotation_about, transform_points
from sacroplasty.image import Volume
from sacroplasty.phantom.make import make_phantom
from simple_sacrum import LEVELS as HOLES
from simple_sacrum import SACRUM_TO_RAS, SimpleSacrum, simple_sacrum


@pytest.fixture(scope="session")
def truth(simple: SimpleSacrum) -> SimpleSacrum:
    return simple


@pytest.fixture(scope="session")
def anatomy(simple_anatomy: Anatomy) -> Anatomy:
    return simple_anatomy


def _errors(anatomy: Anatomy, truth: SimpleSacrum) -> np.ndarray:
    errors = []
    for level in LEVELS:
        for side in SIDES:
            found = anatomy.foramina[f"foramen_{level}_{side}"]
            errors.append(np.linalg.norm(found.anterior.center_ras - truth.opening(level, side, "anterior")))
            errors.append(np.linalg.norm(found.posterior.center_ras - truth.opening(level, side, "posterior")))
    return np.array(errors)


def test_all_sixteen_openings_are_found_near_their_true_centres(anatomy: Anatomy, truth: SimpleSacrum) -> None:
    errors = _errors(anatomy, truth)
    assert len(errors) == 16
    assert errors.mean() < 0.75
    assert errors.max() < 1.5


def test_openings_have_the_size_and_the_direction_of_their_rims(anatomy: Anatomy, truth: SimpleSacrum) -> None:
    left = SACRUM_TO_RAS[:3, 0]
    for level in LEVELS:
        diameter = 2 * HOLES[level][2]
        for side in SIDES:
            foramen = anatomy.foramina[f"foramen_{level}_{side}"]
            for opening, slope, outwards in ((foramen.anterior, -0.30, -1.0), (foramen.posterior, -0.02, 1.0)):
                # The holes run straight back through a front that leans: their rims are longer along the lean.
                normal = SACRUM_TO_RAS[:3, :3] @ np.array([0.0, outwards, -outwards * slope])
                assert angle_between_deg(opening.normal_ras, normal) < 12
                assert opening.normal_ras @ left == pytest.approx(0, abs=0.15)
                assert opening.width_mm == pytest.approx(diameter, abs=1.5)
                assert opening.height_mm == pytest.approx(diameter * np.hypot(1, slope), abs=2.0)
            beside = (foramen.lateral_edge_ras - truth.opening(level, side, "posterior")) @ left
            assert beside * (1 if side == "left" else -1) == pytest.approx(diameter / 2, abs=1.5)


def test_the_sacral_frame_points_left_backwards_and_up_from_the_endplate(anatomy: Anatomy) -> None:
    for axis in range(3):
        assert angle_between_deg(anatomy.SacrumToRAS[:3, axis], SACRUM_TO_RAS[:3, axis]) < 2.0
    assert anatomy.landmarks["promontory"].position_ras[1] > anatomy.SacrumToRAS[1, 3]


def test_hardly_any_of_canal_and_foramina_is_left_unprotected(anatomy: Anatomy, truth: SimpleSacrum) -> None:
    protected = (anatomy.regions.voxels > 0) & (anatomy.regions.voxels < 31)
    for structure in (truth.canal, truth.foramina):
        assert np.count_nonzero(structure & ~protected) < 0.06 * np.count_nonzero(structure)


def test_the_ala_keeps_its_core_of_negative_hounsfield_units(anatomy: Anatomy, truth: SimpleSacrum) -> None:
    for side in SIDES:
        ala = anatomy.region(f"ala_{side}")
        assert np.count_nonzero(truth.ct.voxels[ala] < 0) * truth.ct.voxel_volume_ml > 5
        towards_left = (truth.ct.ras_of(np.argwhere(ala)) - SACRUM_TO_RAS[:3, 3]) @ SACRUM_TO_RAS[:3, 0]
        assert (towards_left > 0).all() if side == "left" else (towards_left < 0).all()


@pytest.mark.parametrize(
    "directions",
    [np.diag([-1.0, 1.0, 1.0]), rotation_about([1.0, 0.4, 0.2], 23.0)[:, [2, 0, 1]] @ np.diag([1.0, 1.0, -1.0])],
    ids=["left-handed", "oblique, sagittal and left-handed"],
)
def test_the_orientation_of_the_grid_does_not_matter(directions: np.ndarray) -> None:
    truth = simple_sacrum(spacing_mm=2.5, directions=directions)
    anatomy = segment_from_labels(truth.ct, truth.bones)
    assert anatomy.regions.same_grid(truth.ct)
    assert _errors(anatomy, truth).max() < 3.0


def test_a_foramen_that_cannot_be_seen_is_still_forbidden_and_says_so() -> None:
    truth = simple_sacrum(spacing_mm=2.5, closed=("s3", "left"))
    anatomy = segment_from_labels(truth.ct, truth.bones)
    assert anatomy.confidence["foramen_s3_left"] <= LOW_CONFIDENCE
    assert anatomy.confidence["foramen_s3_right"] > LOW_CONFIDENCE
    assert anatomy.region("foramen_s3_left").sum() > anatomy.region("foramen_s3_right").sum()
    found = anatomy.foramina["foramen_s3_left"].posterior.center_ras
    assert np.linalg.norm(found - truth.opening("s3", "left", "posterior")) < 5
    assert any("S3" in warning for warning in anatomy.warnings)


def test_a_count_of_levels_that_is_doubtful_blocks_planning_and_says_so() -> None:
    truth = simple_sacrum(spacing_mm=2.5)
    # Without the upper 13 mm of S1, its foramina lie 15 mm below what looks like the endplate.
    kji = np.argwhere(truth.bones.voxels == 1)
    upper = transform_points(invert_rigid(SACRUM_TO_RAS), truth.bones.ras_of(kji))[:, 2] > -13
    labels = truth.bones.voxels.copy()
    labels[tuple(kji[upper].T)] = 0
    anatomy = segment_from_labels(truth.ct, truth.bones.like(labels))
    assert any("miscounted" in warning for warning in anatomy.warnings)
    for side in SIDES:
        blocked = " ".join(blocking_reasons(anatomy, side))
        assert all(f"foramen_{level}_{side}" in blocked for level in LEVELS)


def test_beyond_the_border_of_the_image_there_is_nothing_and_the_other_side_is_as_ever() -> None:
    phantom = make_phantom(5, spacing_mm=(2.5, 2.5, 2.5))
    left, origin = phantom.SacrumToRAS[:3, 0], phantom.SacrumToRAS[:3, 3]
    # The image ends 12 mm to the left of the midline, before the left foramina.
    columns = phantom.ct.kji_of(np.stack([origin, origin + 12 * left]))[:, 2]
    last = int(np.ceil(columns[1]))
    kept = slice(0, last) if columns[1] > columns[0] else slice(last, None)
    moved = phantom.ct.IJKToRAS.copy()
    moved[:3, 3] = phantom.ct.ras_of(np.array([0, 0, kept.start]))
    half = segment_from_labels(*(Volume(volume.voxels[:, :, kept], moved) for volume in (phantom.ct, phantom.bones)))
    assert not [name for name in (*half.foramina, *half.confidence) if name.startswith("foramen") and "left" in name]
    assert any("S1, S2, S3, S4 on the left: no plan is made there" in warning for warning in half.warnings)
    for level in LEVELS:
        found, true = (item.foramina[f"foramen_{level}_right"] for item in (half, phantom))
        assert np.linalg.norm(found.anterior.center_ras - true.anterior.center_ras) < 3.0
        assert np.linalg.norm(found.posterior.center_ras - true.posterior.center_ras) < 3.0


def test_totalsegmentator_numbers_and_a_given_mapping_mean_the_same(truth: SimpleSacrum) -> None:
    lookup = np.array([0, 25, 27, 77, 78])
    numbered = truth.bones.like(lookup[truth.bones.voxels])
    assert np.array_equal(bones_from_labels(truth.ct, numbered).bones.voxels, truth.bones.voxels)
    other = truth.bones.like(np.array([0, 9, 3, 5, 7])[truth.bones.voxels])
    mapping = {9: "sacrum", 3: "l5", 5: "hip_left", 7: "hip_right"}
    assert np.array_equal(bones_from_labels(truth.ct, other, mapping).bones.voxels, truth.bones.voxels)


def test_labels_on_another_grid_are_brought_onto_that_of_the_ct(truth: SimpleSacrum) -> None:
    shifted = truth.bones.IJKToRAS.copy()
    shifted[:3, 3] += truth.bones.IJKToRAS[:3, :3] @ [10, 5, 3]
    cropped = Volume(truth.bones.voxels[3:, 5:, 10:], shifted)
    labelled = bones_from_labels(truth.ct, cropped)
    assert labelled.bones.same_grid(truth.ct)
    assert np.array_equal(labelled.bones.voxels == 1, truth.bones.voxels == 1)
    assert any("another grid" in warning for warning in labelled.warnings)


def _without(truth: SimpleSacrum, label: int) -> Volume:
    return truth.bones.like(np.where(truth.bones.voxels == label, 0, truth.bones.voxels))


def test_what_is_missing_or_wrong_in_the_labels_is_refused_in_one_line(truth: SimpleSacrum) -> None:
    far = replace(truth.bones, IJKToRAS=truth.bones.IJKToRAS + np.array([[0, 0, 0, 900.0]] + [[0] * 4] * 3))
    swapped = truth.bones.like(np.array([0, 1, 2, 4, 3], np.uint8)[truth.bones.voxels])
    cases = [
        (_without(truth, 1), "no sacrum in the label map"),
        (_without(truth, 2), "no l5"),
        (swapped, "left and right are swapped"),
        (far, "does not overlap the CT"),
        (truth.bones.like(truth.bones.voxels * 0.5), "not whole"),
        (truth.bones.like(truth.bones.voxels + np.uint8(50)), "no sacrum in the label map"),
    ]
    for labels, message in cases:
        with pytest.raises(AnatomyError, match=message) as caught:
            segment_from_labels(truth.ct, labels)
        assert "\n" not in str(caught.value)
    with pytest.raises(AnatomyError, match="mapping names coccyx"):
        segment_from_labels(truth.ct, truth.bones, {1: "coccyx"})


def test_a_missing_hip_is_said_and_has_no_confidence(truth: SimpleSacrum) -> None:
    anatomy = segment_from_labels(truth.ct, _without(truth, 4))
    assert "hip_right" not in anatomy.confidence and "si_joint_right" not in anatomy.confidence
    assert any("hip_right" in warning for warning in anatomy.warnings)


def test_what_is_written_is_read_back(anatomy: Anatomy, truth: SimpleSacrum, tmp_path) -> None:
    write_anatomy(anatomy, truth.ct, tmp_path / "out")
    back = read_anatomy(tmp_path / "out")
    assert np.array_equal(back.regions.voxels, anatomy.regions.voxels)
    assert back.regions.same_grid(truth.ct)
    assert back.confidence == pytest.approx(anatomy.confidence)
    assert back.warnings == anatomy.warnings
    assert np.allclose(back.SacrumToRAS, anatomy.SacrumToRAS)
    for name, foramen in anatomy.foramina.items():
        assert np.allclose(back.foramina[name].lateral_edge_ras, foramen.lateral_edge_ras)
    assert read_segmented_ct(tmp_path / "out", back).content_hash() == truth.ct.content_hash()
    other = truth.ct.like(truth.ct.voxels + np.int16(1))
    with pytest.raises(AnatomyError, match="another CT"):
        write_anatomy(anatomy, other, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(AnatomyError, match="sacroplasty segment"):
        read_anatomy(tmp_path)


def test_the_slicer_segmentation_names_every_structure_with_its_label_and_layer(
    anatomy: Anatomy, truth: SimpleSacrum, tmp_path
) -> None:
    import SimpleITK as sitk

    write_anatomy(anatomy, truth.ct, tmp_path)
    image = sitk.ReadImage(str(tmp_path / "segmentation.seg.nrrd"))
    fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    layers = np.moveaxis(sitk.GetArrayFromImage(image), -1, 0)
    names = {}
    number = 0
    while f"Segment{number}_ID" in fields:
        layer, label = int(fields[f"Segment{number}_Layer"]), int(fields[f"Segment{number}_LabelValue"])
        names[fields[f"Segment{number}_ID"]] = layers[layer] == label
        number += 1
    assert set(names) == {name for name in anatomy.confidence if not name.startswith("si_joint")}
    assert np.array_equal(names["ala_left"], anatomy.region("ala_left"))
    assert np.array_equal(names["sacrum"], anatomy.bone("sacrum"))


def test_bones_without_l5_are_refused_by_name(simple: SimpleSacrum) -> None:
    labels = np.where(simple.bones.voxels == 2, 0, simple.bones.voxels)
    bones = LabelledBones(simple.bones.like(labels), np.zeros(labels.shape, bool), "test", {"sacrum": 0.9}, ())
    with pytest.raises(AnatomyError, match="no l5 in the CT or its labels"):
        find_structures(simple.ct, bones)
