"""Fracture suggestions in a plain sacrum into which a fracture is painted, and in the same one without."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from command_line import CommandLine
from sacroplasty.anatomy.files import read_anatomy
from sacroplasty.anatomy.fracture_model import FractureSuggestion
from sacroplasty.anatomy.fracture_sheets import BELL_MM, WINDOW_MM, fit_bell
from sacroplasty.anatomy.fracture_suggestions import suggest_fractures
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.cli.fracture_lines import suggestion_lines
from sacroplasty.errors import AnatomyError
from sacroplasty.geometry import FloatArray, angle_between_deg, invert_rigid, transform_points
from sacroplasty.image import Volume, write_volume
from simple_sacrum import SACRUM_TO_RAS, SimpleSacrum

PLACE, NORMAL = np.array([39.0, 5.0, -30.0]), np.array([0.98, 0.0, -0.2])


def painted(simple: SimpleSacrum, anatomy: Anatomy, band_hu: float, cleft_hu: float) -> tuple[Volume, Anatomy]:
    """A CT with trabecular texture, even bone, and a band and a cleft in the left ala at a plane."""
    rng = np.random.default_rng(5)
    texture = ndimage.gaussian_filter(rng.standard_normal(simple.ct.voxels.shape), 0.6)
    sacrum = anatomy.bone("sacrum")
    inside = ndimage.binary_erosion(sacrum)
    hounsfield = simple.ct.voxels.astype(float)
    hounsfield[sacrum], hounsfield[inside] = 350, -20
    hounsfield += 30 * texture / texture.std()
    indices = np.argwhere(inside)
    points = transform_points(invert_rigid(SACRUM_TO_RAS), simple.ct.ras_of(indices))
    away = np.abs((points - PLACE) @ (NORMAL / np.linalg.norm(NORMAL)))
    ala = points[:, 0] > 26
    for width_mm, added in ((3.5, band_hu), (1.0, cleft_hu)):
        hounsfield[tuple(indices[ala & (away <= width_mm)].T)] += added
    ct = simple.ct.like(np.round(hounsfield).astype(np.int16))
    return ct, replace(anatomy, image_hash=ct.content_hash())


def found(simple: SimpleSacrum, anatomy: Anatomy, band_hu: float, cleft_hu: float) -> tuple[FractureSuggestion, ...]:
    return suggest_fractures(*painted(simple, anatomy, band_hu, cleft_hu))


@pytest.fixture(scope="module")
def fractured(simple: SimpleSacrum, simple_anatomy: Anatomy) -> tuple[FractureSuggestion, ...]:
    return found(simple, simple_anatomy, band_hu=120, cleft_hu=-120)


def test_a_painted_fracture_is_suggested_at_its_place(fractured: tuple[FractureSuggestion, ...]) -> None:
    (one,) = fractured
    place = transform_points(SACRUM_TO_RAS, PLACE)
    normal = SACRUM_TO_RAS[:3, :3] @ NORMAL
    tilt = angle_between_deg(one.normal_ras, normal)
    assert min(tilt, 180 - tilt) < 8
    assert abs((one.center_ras - place) @ normal) < 2
    assert (one.side, one.direction, one.denis_zone) == ("left", "vertical", 1)
    assert one.area_mm2 > 800


def test_its_signs_are_named(fractured: tuple[FractureSuggestion, ...]) -> None:
    kinds = {sign.kind for sign in fractured[0].evidence}
    assert {"sclerosis", "asymmetry"} <= kinds
    assert "cortical_step" not in kinds
    assert all(0 <= sign.strength <= 1 for sign in fractured[0].evidence)


def test_even_bone_gives_no_suggestion(simple: SimpleSacrum, simple_anatomy: Anatomy) -> None:
    assert found(simple, simple_anatomy, 0, 0) == ()


def test_another_ct_is_refused(simple: SimpleSacrum, simple_anatomy: Anatomy) -> None:
    with pytest.raises(AnatomyError, match="another CT"):
        suggest_fractures(simple.ct, replace(simple_anatomy, image_hash="0" * 64))


def test_an_anatomy_without_sacrum_is_refused(simple: SimpleSacrum, simple_anatomy: Anatomy) -> None:
    bones = simple_anatomy.bones
    with pytest.raises(AnatomyError, match="no sacrum"):
        suggest_fractures(simple.ct, replace(simple_anatomy, bones=bones.like(np.zeros_like(bones.voxels))))


def _course(along_mm: FloatArray) -> np.ndarray:
    return (20 + 3 * along_mm + 0.2 * along_mm**2)[:, None, None] * np.ones((1, 3, 3))


def test_the_bell_is_told_from_a_smooth_course_even_where_bone_ends() -> None:
    along = np.arange(-20.0, 20.5, 1.0)
    bell = 50 * np.exp(-0.5 * (along / BELL_MM) ** 2)[:, None, None]
    weight = np.ones((len(along), 3, 3), np.float32)
    # Bone ends 6 mm behind the bell in one of the lines.
    weight[along > 6, 1, 1] = 0
    values = (_course(along) + bell) * weight
    with_bell, without = fit_bell(
        weight, [values.astype(np.float32), (_course(along) * weight).astype(np.float32)], 1.0, WINDOW_MM, BELL_MM
    )
    assert with_bell[20] == pytest.approx(50, abs=0.5)
    assert without[20] == pytest.approx(0, abs=0.5)


def test_without_bone_on_both_sides_there_is_no_bell() -> None:
    weight = np.zeros((41, 3, 3), np.float32)
    weight[18:23] = 1
    (height,) = fit_bell(weight, [weight * 100], 1.0, WINDOW_MM, BELL_MM)
    assert np.isnan(height[20]).all()


def test_segment_lists_suggestions_as_such(
    simple: SimpleSacrum, simple_anatomy: Anatomy, sacroplasty: CommandLine, empty: Path
) -> None:
    ct, _ = painted(simple, simple_anatomy, band_hu=120, cleft_hu=-120)
    write_volume(ct, empty / "ct.nrrd")
    write_volume(simple.bones, empty / "bones.nrrd")
    mapping = "1=sacrum,2=l5,3=hip_left,4=hip_right"
    files = (empty / "ct.nrrd", "--labels", empty / "bones.nrrd", "--out", empty / "case")
    ended = sacroplasty("segment", *files, "--mapping", mapping, "--json")
    (one,) = json.loads(ended.out)["fracture_suggestions"]
    assert one["side"] == "left" and 0 < one["score"] <= 1
    (kept,) = read_anatomy(empty / "case").fracture_suggestions
    assert kept.score == one["score"]
    heading, line = suggestion_lines((kept,))
    assert "not findings" in heading and "left, vertical, Denis zone I" in line
    assert "does not mean" in suggestion_lines(())[0]
