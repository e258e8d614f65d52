"""Which surface of the sacrum a trocar may pass: the planner's rule on a grid and the benchmark's on triangles."""

from __future__ import annotations

import numpy as np
import pytest
from planning_on_real_sacra import covered, sampled, wall_near

from sacroplasty.planning.sacrum_view import hanging_mm, missed_behind, smoothed
from sacroplasty.planning.structures import Doubt, beside_wall

_BACK = np.array([0.0, 1.0, 0.0])
_EXACT = Doubt(np.zeros((3, 3), np.float32))
#: Of a label with voxels of 1 mm.
_USUAL = Doubt((np.hypot(0.5, 0.6) * np.eye(3)).astype(np.float32))


def _half_space(degrees: float) -> np.ndarray:
    """Level of bone whose surface is tilted so far from the back to the side."""
    left, back, _ = np.indices((40, 40, 40)) - 19.3
    normal = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return np.clip(0.5 - left * normal[0] - back * normal[1], 0, 1).astype(np.float32)


def _share_of_wall(level: np.ndarray, doubt: Doubt) -> float:
    """How much of what lies next to bone in the middle of the grid counts as wall."""
    middle = (slice(8, -8),) * 3
    solid = level >= 0.5
    beside = np.zeros_like(solid)
    for axis in range(3):
        beside |= np.roll(solid, 1, axis) | np.roll(solid, -1, axis)
    beside &= ~solid
    return float(beside_wall(level, smoothed(level), doubt)[middle][beside[middle]].mean())


@pytest.mark.parametrize(("degrees", "share"), [(0, 0), (45, 0), (72, 0), (84, 1), (90, 1), (135, 1), (180, 1)])
def test_a_surface_is_wall_from_78_degrees_on(degrees: float, share: float) -> None:
    assert _share_of_wall(_half_space(degrees), _EXACT) == share


@pytest.mark.parametrize(("degrees", "share"), [(0, 0), (45, 0), (57, 0), (70, 1), (84, 1)])
def test_what_the_label_leaves_open_counts_against_the_surface(degrees: float, share: float) -> None:
    assert _share_of_wall(_half_space(degrees), _USUAL) == share


def test_a_flank_is_wall_although_the_bone_around_it_faces_the_back() -> None:
    """A step of 5 mm in a flat back: over 5 mm the mean normal still faces the back."""
    left, back, _ = np.indices((40, 40, 40))
    bone = (back < np.where(left < 20, 22, 17)).astype(np.float32)
    wall = beside_wall(bone, smoothed(bone), _USUAL)
    assert wall[20, 18:21, 10:30].all()
    assert not wall[8:18, 22, 10:30].any() and not wall[24:32, 17, 10:30].any()


def _block(low, high) -> np.ndarray:
    """Triangles (12, 3, 3) of a block, turned outwards."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    faces = []
    for axis in range(3):
        for end, sign in ((low, -1), (high, 1)):
            u, v = ((axis + 1) % 3, (axis + 2) % 3)
            corners = np.tile(end, (4, 1))
            corners[:, u] = np.array([low, high, high, low])[:, u]
            corners[:, v] = np.array([low, low, high, high])[:, v]
            corners = corners[::sign]
            faces += [corners[[0, 1, 2]], corners[[0, 2, 3]]]
    return np.array(faces)


def test_on_triangles_only_what_faces_the_back_and_is_seen_from_there_may_be_passed() -> None:
    """A block with a roof behind its left half, as the laminae cover the canal's front wall."""
    block, roof = _block([-8, -6, -8], [8, 0, 8]), _block([1, 4, -8], [8, 6, 8])
    faces = np.concatenate([block, roof])
    surface = sampled(block)
    shaft = np.column_stack([np.zeros(60), np.linspace(-3, 12, 60), np.zeros(60)])
    wall = wall_near(shaft, surface, faces, _BACK)
    back_side = wall[wall[:, 1] > -0.01]
    # Of the back, what lies under the roof; all of the front; nothing of the back that is open.
    inner = back_side[np.abs(back_side[:, 0]) < 6]
    assert len(inner) and (inner[:, 0] > 0.8).all()
    assert (wall[:, 1] < -5.9).any()
    assert covered(np.array([[4.0, 0.1, 0], [-4.0, 0.1, 0], [4.0, 6.1, 0]]), faces, _BACK).tolist() == [
        True,
        False,
        False,
    ]


def test_a_flank_beside_the_entry_is_wall_on_triangles_too() -> None:
    faces = _block([-8, -30, -8], [3, 0, 8])
    shaft = np.column_stack([np.zeros(60), np.linspace(-20, 12, 60), np.zeros(60)])
    wall = wall_near(shaft, sampled(faces), faces, _BACK)
    near = np.linalg.norm(wall[:, None, [0, 2]] - shaft[None, :, [0, 2]], axis=2).min()
    assert near == pytest.approx(3.0, abs=0.1)
    # Up to the very rim, beside the hole.
    assert wall[np.abs(wall[:, 0] - 3) < 0.01, 1].max() == pytest.approx(0.0, abs=0.01)


def test_a_plate_that_hangs_behind_the_bone_is_where_the_back_ends() -> None:
    back_mm = np.arange(0.0, 20.0)
    bone, cut_off = np.zeros((2, 4, 20, 1), np.float32)
    bone[:, 2:8] = 1
    # Cut off right on the bone, hanging 4 mm behind it, and beside the bone where there is none.
    cut_off[0, 8:10] = 1
    cut_off[1, 12:14] = 1
    bone[2] = 0
    cut_off[2, 12:14] = 1
    # Right on the bone too: between the two, each is at some part of a grid point.
    bone[3, 8], cut_off[3, 8], cut_off[3, 9] = 0.45, 0.45, 1
    found = hanging_mm(bone, cut_off, back_mm)[:, 0]
    assert np.isnan(found[0]) and found[1] == 13.0 and np.isnan(found[2]) and np.isnan(found[3])


def test_a_crest_that_the_label_cuts_off_is_bone_up_to_where_the_ct_shows_its_edge() -> None:
    """A block up to 10 mm with a crest of 5 mm behind half of it, in muscle; another bone behind the other half."""
    density = np.full((40, 40, 30), 50, np.float32)
    density[5:35, 5:10, 5:25] = 150  # marrow in front
    density[5:35, 10:12, 5:25] = 350  # cortex
    density[8:16, 12:17, 8:22] = 300
    density[24:32, 15:20, 8:22] = 300
    bone, others = np.zeros_like(density), np.zeros_like(density)
    bone[5:35, 5:12, 5:25] = 1
    others[24:32, 15:20, 8:22] = 1
    found = missed_behind(bone, others, density)
    assert (found[9:15, 12:16, 9:21] > 0.8).all()
    # Half way down the CT's edge, and nothing beyond it.
    assert (found[9:15, 16, 9:21] >= 0.5).all() and (found[9:15, 17, 9:21] < 0.5).all()
    # Nothing in front of the back, none of the other bone, none where the label ends with the bone.
    assert not found[:, :12].any() and not found[22:].any() and not found[17:22, 12:].any()


@pytest.mark.parametrize("darkest", [0, 120])
def test_soft_tissue_behind_the_sacrum_is_no_bone(darkest: float) -> None:
    density = np.full((30, 30, 30), darkest, np.float32)
    density[5:25, 5:12, 5:25] = 350
    bone = (density > 200).astype(np.float32)
    assert not (missed_behind(bone, np.zeros_like(bone), density) >= 0.5).any()
