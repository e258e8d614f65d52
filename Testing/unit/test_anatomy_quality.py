"""The quality report: what the image cuts off, noise, metal, contrast, bone density, and hints at an unusual sacrum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from sacroplasty.anatomy.alae import alar_void, anterior_third, smoothing_mm
from sacroplasty.anatomy.bone_quality import measure_bone
from sacroplasty.anatomy.confirmation import to_confirm
from sacroplasty.anatomy.dysmorphism import find_hints
from sacroplasty.anatomy.files import read_anatomy, write_anatomy
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.quality import QualityReport
from sacroplasty.anatomy.quality_report import Findings, assess, estimate_noise, sacral_slope_deg
from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.anatomy.straight_image import StraightImage
from sacroplasty.geometry import invert_rigid, rigid, rotation_about, transform_points
from sacroplasty.image import Volume
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.search import plan_trajectories
from simple_sacrum import SACRUM_TO_RAS, SimpleSacrum, back, front, simple_sacrum


def _assess(ct: Volume, anatomy: Anatomy) -> tuple[QualityReport, dict[str, float]]:
    return assess(Findings(ct, anatomy.bones, anatomy.regions, anatomy.SacrumToRAS, anatomy.confidence, {}, ()))


def _local(volume: Volume) -> np.ndarray:
    """Coordinates [k, j, i, 3] of all voxels in the true sacral frame."""
    return transform_points(
        invert_rigid(SACRUM_TO_RAS), volume.ras_of(np.moveaxis(np.indices(volume.voxels.shape), 0, -1))
    )


def _ball(volume: Volume, center: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    return np.linalg.norm(_local(volume) - center, axis=-1) <= radius_mm


def test_a_whole_sacrum_needs_no_checks(simple_anatomy: Anatomy) -> None:
    quality = simple_anatomy.quality
    assert quality is not None
    assert quality.cut_off == {} and quality.missing == () and quality.must_check == () and quality.hints == ()
    assert quality.dense_ml == quality.bright_fluid_ml == 0
    assert set(simple_anatomy.confidence) <= set(quality.reasons)


def test_an_ala_beyond_the_border_blocks_its_own_side_and_the_other_one_is_planned() -> None:
    whole = simple_sacrum(2.5)
    last = int(whole.ct.kji_of(transform_points(SACRUM_TO_RAS, [-38.0, 0.0, -40.0]))[2])

    def cropped(volume: Volume) -> Volume:
        return Volume(np.ascontiguousarray(volume.voxels[:, :, :last]), volume.IJKToRAS)

    anatomy = segment_from_labels(cropped(whole.ct), cropped(whole.bones))
    assert anatomy.quality is not None
    assert anatomy.quality.cut_off["ala_right"] == ("right",) and anatomy.confidence["ala_right"] == 0
    assert {"hip_right", "si_joint_right"} <= set(anatomy.quality.missing)
    assert {check.structure for check in anatomy.quality.must_check} >= {"sacrum", "ala_right", "hip_right"}
    plan = plan_trajectories(PlanningContext(cropped(whole.ct), anatomy))
    assert list(plan.blocked) == ["right"] and any("ala_right: cut off" in reason for reason in plan.blocked["right"])
    assert {item.side for item in plan.trajectories if item.accepted} == {"left"}


def test_noise_is_read_from_soft_tissue(simple: SimpleSacrum) -> None:
    noise = np.random.default_rng(1).normal(0, 23.0, simple.ct.voxels.shape)
    noisy = simple.ct.like(np.round(simple.ct.voxels + noise).astype(np.int16))
    assert estimate_noise(noisy) == pytest.approx(23.0, rel=0.1)
    assert np.isnan(estimate_noise(simple.ct.like(np.full_like(simple.ct.voxels, -1000))))


def test_a_screw_is_flagged_its_ala_must_be_confirmed_and_densities_say_nothing(simple, simple_anatomy) -> None:
    hounsfield = simple.ct.voxels.copy()
    screw = _ball(simple.ct, (42.0, 10.0, -30.0), 5.0)
    hounsfield[screw] = 3000
    quality, confidence = _assess(simple.ct.like(hounsfield), simple_anatomy)
    true_ml = np.count_nonzero(screw) * simple.ct.voxel_volume_ml
    assert quality.dense_in_sacrum_ml == pytest.approx(true_ml, abs=0.01)
    assert any(check.structure == "sacrum" and "metal or cement" in check.text for check in quality.must_check)
    assert "metal or cement" in quality.bone.refused and quality.bone.osteoporosis is None
    flagged = replace(simple_anatomy, quality=quality, confidence=confidence)
    assert "ala_left" in to_confirm(flagged, ["left"]) and to_confirm(flagged, ["right"]) == ()


def test_metal_far_from_the_sacrum_is_counted_but_changes_nothing(simple, simple_anatomy) -> None:
    hounsfield = simple.ct.voxels.copy()
    hounsfield[_ball(simple.ct, (72.0, 0.0, 10.0), 5.0)] = 3000
    quality, confidence = _assess(simple.ct.like(hounsfield), simple_anatomy)
    assert quality.dense_ml > 0.4 and quality.dense_in_sacrum_ml == 0
    assert confidence == simple_anatomy.confidence and quality.bone.refused == ""


def test_vessels_filled_with_contrast_forbid_the_osteoporosis_hint(simple, simple_anatomy) -> None:
    local = _local(simple.ct)
    hounsfield = simple.ct.voxels.copy()
    for left in (-22.0, 22.0):
        hounsfield[np.hypot(local[..., 0] - left, local[..., 1] + 45.0) <= 5.0] = 260
    quality, _ = _assess(simple.ct.like(hounsfield), simple_anatomy)
    assert quality.bright_fluid_ml > 3 and "contrast" in quality.bone.refused
    assert simple_anatomy.quality is not None and simple_anatomy.quality.bone.refused == ""


@pytest.mark.parametrize(("turn_deg", "slope_deg"), [(0.0, -30.0), (42.0, 12.0)])
def test_the_sacral_slope_is_the_angle_of_the_endplate_to_the_transverse_plane(
    turn_deg: float, slope_deg: float
) -> None:
    turned = rigid(rotation_about(SACRUM_TO_RAS[:3, 0], turn_deg), [0, 0, 0]) @ SACRUM_TO_RAS
    assert sacral_slope_deg(turned) == pytest.approx(slope_deg, abs=0.01)


def test_density_is_read_from_marrow_and_l5_below_100_hu_gives_the_hint(simple, simple_anatomy) -> None:
    rng = np.random.default_rng(2)
    soft = simple.ct.voxels.astype(float)
    local = _local(simple.ct)
    marrow = (simple_anatomy.bones.voxels == 2) & (np.abs(local[..., 0]) < 21) & (np.abs(local[..., 1]) < 13)
    marrow &= (local[..., 2] > 11) & (local[..., 2] < 31)
    soft[marrow] = 62.0
    # An island of sclerosis is no marrow.
    soft[_ball(simple.ct, (4.0, 0.0, 20.0), 2.5)] = 700.0
    ct = simple.ct.like(np.round(soft + rng.normal(0, 15, soft.shape)).astype(np.int16))

    def bone(hu_offset: float = 0.0, refused: str = ""):
        frame = simple_anatomy.SacrumToRAS
        return measure_bone(ct, simple_anatomy.bones, simple_anatomy.regions, frame, 15.0, refused, hu_offset)

    measured = bone()
    assert measured.density["l5"].mean_hu == pytest.approx(62, abs=4)
    assert measured.density["l5"].sd_hu == pytest.approx(15, abs=4)
    for side in ("left", "right"):
        assert measured.density[f"ala_{side}"].mean_hu == pytest.approx(-50, abs=4)
    assert measured.osteoporosis is not None and measured.osteoporosis.threshold == 100
    assert bone(hu_offset=45).density["l5"].mean_hu == pytest.approx(62 + 45, abs=4)
    assert bone(hu_offset=45).osteoporosis is None and bone(refused="contrast").osteoporosis is None


def test_the_void_is_what_lies_below_zero_and_noise_makes_none(simple, simple_anatomy) -> None:
    ala = simple_anatomy.region("ala_left")
    true = ala & (simple.ct.voxels < 0)
    noise = np.random.default_rng(3).normal(0, 25, ala.shape)
    noisy = simple.ct.like(np.round(simple.ct.voxels + noise).astype(np.int16))
    found = alar_void(noisy, ala, 25.0)
    # Smoothing takes it away from its walls, never the other way.
    assert np.count_nonzero(found & ~true) < 0.01 * found.sum()
    assert found[ndimage.binary_erosion(true)].mean() > 0.97
    dense = simple.ct.like(np.round(60 + noise).astype(np.int16))
    assert alar_void(dense, ala, 25.0).sum() < 0.002 * ala.sum() < alar_void(dense, ala, 0.0).sum()
    assert smoothing_mm(1.0, 0.0) == 0 and smoothing_mm(1.0, float("nan")) == 2.0


def test_the_anterior_third_lies_in_front(simple, simple_anatomy) -> None:
    local = _local(simple.ct)
    for side in ("left", "right"):
        third, ala = anterior_third(simple_anatomy, side), simple_anatomy.region(f"ala_{side}")
        depth = (local[..., 1] - front(local[..., 2])) / (back(local[..., 2]) - front(local[..., 2]))
        assert third[ala & (depth < 0.25)].mean() > 0.97
        assert third[ala & (depth > 0.42)].mean() < 0.01 and not third[~ala].any()


def _image(hounsfield: np.ndarray) -> StraightImage:
    left, deep, down = np.arange(-40.0, 41.0), np.arange(-5.0, 40.0), np.arange(0.0, 90.0)
    shape = len(left), len(deep), len(down)
    flat = np.zeros((shape[0], shape[2]))
    bone = np.broadcast_to((deep >= 0)[None, :, None], shape)
    values = np.broadcast_to(hounsfield, shape).astype(np.float32)
    share, none = bone.astype(np.float32), np.zeros(shape, bool)
    surfaces = flat, flat + 30, flat, flat + 30, flat, flat
    return StraightImage(left, deep, down, share, bone, none, ~none, values, ~bone, bone, *surfaces)


def test_a_dark_band_between_bright_endplates_is_a_residual_disc_and_a_dark_body_is_none(simple_anatomy) -> None:
    profile = np.full(90, 130.0)
    profile[29:32], profile[33:36] = 280.0, 280.0
    profile[31:34] = 60.0
    step = np.where(np.arange(90) < 32, 200.0, 60.0)

    def names(values: np.ndarray) -> list[str]:
        found = find_hints(simple_anatomy.bones, SACRUM_TO_RAS, 0.5, _image(values), 33.0)
        return [hint.name for hint in found]

    assert names(profile) == ["residual_s1_s2_disc"]
    assert names(step) == [] and names(np.full(90, 130.0)) == []


def test_a_transverse_process_on_the_ala_and_unequal_halves_are_hinted_at(simple, simple_anatomy) -> None:
    local = _local(simple.ct)
    bones = simple_anatomy.bones.voxels.copy()
    process = (
        (np.abs(local[..., 0] - 40) < 8) & (np.abs(local[..., 1]) < 8) & (local[..., 2] > -6) & (local[..., 2] < 12)
    )
    bones[process & (bones == 0)] = 2
    hints = find_hints(simple_anatomy.bones.like(bones), SACRUM_TO_RAS, 3.1, _image(np.full(90, 130.0)), 33.0)
    assert [(hint.name, hint.side) for hint in hints] == [("l5_joins_ala", "left"), ("asymmetric_sacrum", "")]
    assert all(hint.value > hint.threshold and hint.source for hint in hints)


def test_the_report_is_written_and_read_back(simple, simple_anatomy, tmp_path) -> None:
    hounsfield = simple.ct.voxels.copy()
    hounsfield[_ball(simple.ct, (42.0, 10.0, -30.0), 5.0)] = 3000
    ct = simple.ct.like(hounsfield)
    quality, confidence = _assess(ct, simple_anatomy)
    anatomy = replace(
        simple_anatomy,
        image_hash=ct.content_hash(),
        quality=quality,
        confidence=confidence,
        confirmed=frozenset({"l5"}),
    )
    write_anatomy(anatomy, ct, tmp_path / "out")
    back_again = read_anatomy(tmp_path / "out")
    assert back_again.quality == quality and back_again.confirmed == {"l5"}
