"""Figures of the segmentation benchmark against shapes whose distances can be worked out by hand."""

import math

import numpy as np
import pytest
from segmentation_metrics import dice, pieces, score_bones, surface_distance, surface_faces

from sacroplasty.image import Volume


def _block(shape: tuple[int, int, int], low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def _ball(radius_mm: float, spacing_kji_mm: tuple[float, float, float], shift_mm: float = 0.0) -> np.ndarray:
    axes = [np.arange(-24, 24.01, step) for step in spacing_kji_mm]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return (x - shift_mm) ** 2 + y**2 + z**2 < radius_mm**2


def test_dice_of_two_blocks_that_share_half() -> None:
    first, second = _block((4, 4, 8), (0, 0, 0), (4, 4, 4)), _block((4, 4, 8), (0, 0, 2), (4, 4, 6))
    assert dice(first, second) == pytest.approx(0.5)


def test_dice_of_nothing_is_no_number() -> None:
    assert math.isnan(dice(np.zeros((2, 2, 2), bool), np.zeros((2, 2, 2), bool)))


def test_the_area_of_a_block_with_long_voxels_is_that_of_its_sides() -> None:
    mask = _block((6, 7, 8), (1, 1, 1), (4, 5, 6))  # 3 x 4 x 5 voxels of 3 x 1 x 0.5 mm: 9 x 4 x 2.5 mm
    _, areas = surface_faces(mask, np.array([3.0, 1.0, 0.5]))
    assert areas.sum() == pytest.approx(2 * (9 * 4 + 9 * 2.5 + 4 * 2.5))


def test_the_edge_of_the_image_is_no_surface() -> None:
    _, areas = surface_faces(_block((4, 4, 4), (0, 0, 0), (4, 4, 2)), np.ones(3))
    assert areas.sum() == 16


@pytest.mark.parametrize(("axis", "expected_mm"), [(0, 3.0), (1, 1.0), (2, 0.5)])
def test_a_plane_moved_by_one_voxel_is_one_voxel_size_away(axis: int, expected_mm: float) -> None:
    first, second = np.zeros((8, 8, 8), bool), np.zeros((8, 8, 8), bool)
    np.moveaxis(first, axis, 0)[:4] = True
    np.moveaxis(second, axis, 0)[:5] = True
    distance = surface_distance(first, second, np.array([3.0, 1.0, 0.5]))
    assert (distance.mean_mm, distance.hd95_mm, distance.max_mm) == pytest.approx([expected_mm] * 3)


def test_a_slab_moved_by_three_quarters_of_its_thickness() -> None:
    first, second = np.zeros((4, 4, 14), bool), np.zeros((4, 4, 14), bool)
    first[:, :, 3:7], second[:, :, 6:10] = True, True  # sides at 3 and 7, and at 6 and 10
    distance = surface_distance(first, second, np.ones(3))
    assert (distance.mean_mm, distance.hd95_mm, distance.max_mm) == pytest.approx((2.0, 3.0, 3.0))


def test_concentric_balls_are_apart_by_the_difference_of_their_radii() -> None:
    # The steps of the voxels bring nearest faces together a little, the more the longer the voxels are.
    for spacing, steps_mm in (((1.0, 1.0, 1.0), 0.2), ((2.0, 0.8, 0.8), 0.3)):
        distance = surface_distance(_ball(20, spacing), _ball(17, spacing), np.array(spacing))
        assert distance.mean_mm == pytest.approx(3.0, abs=steps_mm)
        assert distance.max_mm < 3.0 + np.linalg.norm(spacing)


def test_one_far_speck_shows_in_the_maximum_but_not_in_the_95th_percentile() -> None:
    ball = _ball(15, (1.0, 1.0, 1.0))
    speck = ball.copy()
    speck[24, 24, 46] = True  # 22 mm from the center; its far face 22.5 mm
    distance = surface_distance(speck, ball, np.ones(3))
    assert distance.hd95_mm == 0
    assert distance.max_mm == pytest.approx(22.5 - 14.5, abs=0.6)


def test_what_is_not_scored_counts_nowhere() -> None:
    true = _block((10, 10, 10), (2, 2, 2), (8, 8, 8))
    found = true.copy()
    found[:2] = True  # wrong, but where nothing is known
    scored = np.ones(true.shape, bool)
    scored[:2] = False
    volumes = [Volume(mask.astype(np.uint8), np.eye(4)) for mask in (found, true)]
    score = score_bones(*volumes, {1: "sacrum"}, scored)["sacrum"]
    assert score.dice == 1
    assert score.surface.max_mm == 0


def test_a_leak_is_measured_in_the_bone_it_went_into() -> None:
    true, found = np.zeros((10, 10, 10), np.uint8), np.zeros((10, 10, 10), np.uint8)
    true[:, :, :5], true[:, :, 5:] = 1, 3
    found[:, :, :6], found[:, :, 6:] = 1, 3
    scores = score_bones(
        Volume(found, np.diag([2.0, 1, 1, 1])), Volume(true, np.diag([2.0, 1, 1, 1])), {1: "s", 3: "h"}
    )
    assert scores["s"].leaked_ml == {"h": pytest.approx(0.2)}  # a layer of 100 voxels of 2 mm³
    assert scores["h"].leaked_ml == {"s": 0}
    assert scores["s"].volume_ml == pytest.approx(1.2)


def test_a_missing_bone_has_no_distance_and_no_overlap() -> None:
    true = np.zeros((6, 6, 6), np.uint8)
    true[2:4, 2:4, 2:4] = 1
    score = score_bones(Volume(np.zeros_like(true), np.eye(4)), Volume(true, np.eye(4)), {1: "sacrum"})["sacrum"]
    assert score.dice == 0
    assert math.isnan(score.surface.mean_mm)
    assert score.pieces == 0


def test_pieces_are_counted_over_corners_and_from_a_volume_on() -> None:
    mask = np.zeros((12, 12, 12), bool)
    mask[:4, :4, :4] = True
    mask[4:6, 4:6, 4:6] = True  # touches at a corner
    mask[9, 9, 9] = True
    assert pieces(mask, voxel_volume_ml=0.01) == (1, pytest.approx(72 / 73))
    assert pieces(mask, voxel_volume_ml=0.1)[0] == 2
