"""Fractures that a person marks, what they reach, and their names, in a sacrum of planes and cylinders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sacroplasty.anatomy.files import read_anatomy, write_anatomy
from sacroplasty.anatomy.fracture_classification import (
    TransverseMeasure,
    answer_anterior_ring,
    classify_fractures,
    confirm,
)
from sacroplasty.anatomy.fracture_marking import (
    fracture_from_curve,
    fracture_from_mask,
    fracture_from_plane,
    fracture_from_suggestion,
)
from sacroplasty.anatomy.fracture_model import Evidence, FractureClassification, FractureSuggestion, MarkedFracture
from sacroplasty.anatomy.fracture_reach import denis_zone_of, leak_risk_notes, structures_reached
from sacroplasty.anatomy.fracture_step import cortical_step
from sacroplasty.anatomy.frame import sample_mask
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.errors import AnatomyError, DocumentError
from sacroplasty.geometry import FloatArray, invert_rigid, transform_points
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.search import plan_trajectories
from simple_sacrum import LEVELS, SACRUM_TO_RAS, SimpleSacrum

#: The ala begins at x = 28 and the wing ends near 50 mm at the height of S1.
ALA_X = 40.0
LEFT, DOWN = np.array([1.0, 0, 0]), np.array([0, 0, -1.0])


def ras(point: object) -> FloatArray:
    return transform_points(SACRUM_TO_RAS, np.asarray(point, float))


def turned(vector: FloatArray) -> FloatArray:
    return SACRUM_TO_RAS[:3, :3] @ vector


def vertical(anatomy: Anatomy, x: float) -> MarkedFracture:
    return fracture_from_plane(ras([x, 5, -25]), turned(LEFT), anatomy)


def across(anatomy: Anatomy, z: float = -38.0) -> MarkedFracture:
    return fracture_from_plane(ras([0, 0, z]), turned(DOWN), anatomy)


def in_sacrum(anatomy: Anatomy, fracture: MarkedFracture) -> FloatArray:
    return transform_points(invert_rigid(SACRUM_TO_RAS), anatomy.bones.ras_of(fracture.voxels_kji))


def test_a_plane_marks_the_bone_at_it_and_nothing_else(simple_anatomy: Anatomy) -> None:
    fracture = vertical(simple_anatomy, ALA_X)
    x = in_sacrum(simple_anatomy, fracture)[:, 0]
    assert np.abs(x - ALA_X).max() <= 1.5
    assert simple_anatomy.bone("sacrum")[tuple(fracture.voxels_kji.T)].all()
    # The wing is 40 mm deep and 70 mm high there.
    area = len(fracture.voxels_kji) * 8 / 3
    assert area > 1500


def test_a_frame_bounds_the_plane(simple_anatomy: Anatomy) -> None:
    bounded = fracture_from_plane(
        ras([ALA_X, 5, -25]), turned(LEFT), simple_anatomy, along_ras=turned(DOWN), extent_mm=(20.0, 10.0)
    )
    points = in_sacrum(simple_anatomy, bounded)
    assert np.abs(points[:, 2] + 25).max() <= 10
    assert np.abs(points[:, 1] - 5).max() <= 5


def test_a_curve_seen_from_the_front_goes_through_the_bone_from_front_to_back(simple_anatomy: Anatomy) -> None:
    drawn = np.array([[40.0, 5, -12], [41, 5, -20], [40, 5, -30], [38, 5, -40]])
    points = in_sacrum(simple_anatomy, fracture_from_curve(ras(drawn), simple_anatomy))
    assert np.abs(points[:, 0] - np.interp(-points[:, 2], -drawn[:, 2], drawn[:, 0])).max() <= 2.5
    assert points[:, 2].min() >= -43 and points[:, 2].max() <= -9
    assert np.ptp(points[:, 1]) > 25


def test_a_curve_seen_from_above_goes_up_and_down(simple_anatomy: Anatomy) -> None:
    drawn = np.array([[40.0, -6, -25], [41, 5, -25], [40, 20, -25]])
    points = in_sacrum(simple_anatomy, fracture_from_curve(ras(drawn), simple_anatomy, reach_mm=12.0))
    assert np.abs(points[:, 0] - 40.5).max() <= 2.5
    assert 20 <= np.ptp(points[:, 2]) <= 26


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([[40.0, 5, -12]], "0.0 mm long"),
        ([[40.0, 5, -12], [40, 5, -13]], "1.0 mm long"),
        ([[40.0, 5, -12], [np.nan, 5, -40]], "finite coordinates"),
        ([[240.0, 5, -12], [240, 5, -40]], "does not pass through the sacrum"),
    ],
)
def test_curves_that_mark_nothing_are_refused(simple_anatomy: Anatomy, points: list, said: str) -> None:
    with pytest.raises(AnatomyError, match=said):
        fracture_from_curve(ras(points), simple_anatomy)


def test_planes_and_masks_that_mark_nothing_are_refused(simple_anatomy: Anatomy) -> None:
    with pytest.raises(AnatomyError, match="does not pass through the sacrum"):
        vertical(simple_anatomy, 200.0)
    with pytest.raises(AnatomyError, match="no direction"):
        fracture_from_plane(ras([40, 5, -25]), [0.0, 0, 0], simple_anatomy)
    with pytest.raises(AnatomyError, match="needs points"):
        fracture_from_plane([np.nan, 0, 0], turned(LEFT), simple_anatomy)
    with pytest.raises(AnatomyError, match="has the grid"):
        fracture_from_mask(np.zeros((3, 3, 3), bool), simple_anatomy)
    with pytest.raises(AnatomyError, match="does not pass through"):
        fracture_from_mask(np.zeros(simple_anatomy.bones.voxels.shape, bool), simple_anatomy)


def test_zones_go_from_ala_over_foramina_to_canal(simple_anatomy: Anatomy) -> None:
    assert denis_zone_of(vertical(simple_anatomy, ALA_X), simple_anatomy) == 1
    assert denis_zone_of(vertical(simple_anatomy, LEVELS["s1"][1]), simple_anatomy) == 2
    assert denis_zone_of(across(simple_anatomy), simple_anatomy) == 3


def test_what_a_line_reaches_is_named_and_nothing_else(simple_anatomy: Anatomy) -> None:
    def reached(fracture: MarkedFracture) -> set[str]:
        return set(structures_reached(simple_anatomy.bones.ras_of(fracture.voxels_kji), simple_anatomy))

    assert reached(vertical(simple_anatomy, ALA_X)) == set()
    foraminal = reached(vertical(simple_anatomy, -LEVELS["s1"][1]))
    assert {"foramen_s1_right", "foramen_s2_right"} <= foraminal
    assert not any(name.endswith("left") for name in foraminal)
    assert "sacral_canal" in reached(across(simple_anatomy))


@pytest.mark.parametrize(
    ("lines", "pattern", "zone"),
    [
        (("left",), "unilateral", "I"),
        (("left", "right"), "bilateral", "I"),
        (("across",), "transverse", "III"),
        (("right", "across"), "T or L", "III"),
        (("left", "right", "across"), "H or U", "III"),
    ],
)
def test_patterns_follow_from_the_lines(
    simple_anatomy: Anatomy, lines: tuple[str, ...], pattern: str, zone: str
) -> None:
    marked = {
        "left": vertical(simple_anatomy, ALA_X),
        "right": vertical(simple_anatomy, -ALA_X),
        "across": across(simple_anatomy),
    }
    found = classify_fractures([marked[name] for name in lines], simple_anatomy)
    assert (found.pattern.proposed, found.denis_zone.proposed) == (pattern, zone)
    assert found.displacement_mm.proposed == 0


def test_nothing_counts_before_a_person_has_confirmed_it(simple_anatomy: Anatomy) -> None:
    found = classify_fractures([vertical(simple_anatomy, ALA_X)], simple_anatomy)
    assert found.denis_zone.proposed == "I" and found.denis_zone.value is None
    assert confirm(found, "denis_zone", "II").denis_zone.value == "II"
    assert confirm(confirm(found, "denis_zone", "II"), "denis_zone", None).denis_zone.value is None


def test_a_confirmation_stands_only_while_its_proposal_does(simple_anatomy: Anatomy) -> None:
    left, right = vertical(simple_anatomy, ALA_X), vertical(simple_anatomy, -ALA_X)
    first = classify_fractures([left], simple_anatomy)
    first = confirm(confirm(first, "pattern", "unilateral"), "denis_zone", "I")
    second = classify_fractures([left, right], simple_anatomy, first)
    assert second.pattern.value is None and "confirm again" in second.pattern.reason
    assert second.denis_zone.value == "I"


def test_words_that_are_no_classification_are_refused(simple_anatomy: Anatomy) -> None:
    empty = FractureClassification()
    for field, value in (("denis_zone", "IV"), ("colour", "red"), ("displacement_mm", -1.0), ("displacement_mm", "a")):
        with pytest.raises(AnatomyError):
            confirm(empty, field, value)
    with pytest.raises(AnatomyError, match="yes, no"):
        answer_anterior_ring(empty, "maybe")  # type: ignore[arg-type]
    with pytest.raises(AnatomyError, match="must be numbers"):
        classify_fractures([], simple_anatomy, transverse=TransverseMeasure(np.nan, 0.0))


def test_the_type_of_an_undisplaced_fracture_waits_for_the_anterior_ring(simple_anatomy: Anatomy) -> None:
    found = classify_fractures([vertical(simple_anatomy, ALA_X)], simple_anatomy)
    assert found.ffp.proposed is None and "anterior ring" in found.ffp.reason
    assert answer_anterior_ring(found, "no").ffp.proposed == "IIa"
    assert answer_anterior_ring(found, "yes").ffp.proposed == "II"
    displaced = confirm(found, "displacement_mm", 6.0)
    assert displaced.ffp.proposed == "IIIc"


def test_an_h_is_spinopelvic_whatever_the_anterior_ring(simple_anatomy: Anatomy) -> None:
    lines = [vertical(simple_anatomy, ALA_X), vertical(simple_anatomy, -ALA_X), across(simple_anatomy)]
    assert classify_fractures(lines, simple_anatomy).ffp.proposed == "IVb"


@pytest.mark.parametrize(
    ("kyphosis_deg", "offset_mm", "kind"), [(20.0, 0.0, "1"), (20.0, 8.0, "2"), (-5.0, -8.0, "3"), (-5.0, 0.0, None)]
)
def test_roy_camille_follows_angle_and_offset(
    simple_anatomy: Anatomy, kyphosis_deg: float, offset_mm: float, kind: str | None
) -> None:
    measured = TransverseMeasure(kyphosis_deg, offset_mm)
    found = classify_fractures([across(simple_anatomy)], simple_anatomy, transverse=measured)
    assert found.roy_camille.proposed == kind
    vertical_only = classify_fractures([vertical(simple_anatomy, ALA_X)], simple_anatomy, transverse=measured)
    assert vertical_only.roy_camille.proposed is None


@pytest.mark.parametrize("shift_mm", [0.0, 3.0, -3.0])
def test_a_step_of_the_cortex_is_measured_and_an_even_one_is_none(simple_anatomy: Anatomy, shift_mm: float) -> None:
    bones = simple_anatomy.bones
    points = transform_points(
        invert_rigid(SACRUM_TO_RAS), bones.ras_of(np.moveaxis(np.indices(bones.voxels.shape), 0, -1))
    )
    lateral = points[..., 0] > ALA_X
    source = transform_points(SACRUM_TO_RAS, points[lateral] - [0, shift_mm, 0])
    sacrum = simple_anatomy.bone("sacrum").copy()
    sacrum[lateral] = sample_mask(bones.like(simple_anatomy.bone("sacrum")), source) > 0.5
    moved = replace(simple_anatomy, bones=bones.like(sacrum.astype(np.uint8)))
    fracture = vertical(moved, ALA_X)
    sheet = transform_points(invert_rigid(moved.SacrumToRAS), bones.ras_of(fracture.voxels_kji))
    step = cortical_step(moved, sheet, np.array([1.0, 0, 0]))
    assert step.step_mm == pytest.approx(shift_mm, abs=0.8)
    proposed = classify_fractures([fracture], moved).displacement_mm.proposed
    assert proposed == pytest.approx(abs(shift_mm), abs=0.8)


def suggestion(anatomy: Anatomy, x: float) -> FractureSuggestion:
    return FractureSuggestion(
        center_ras=ras([x, 5, -25]),
        normal_ras=turned(LEFT),
        along_ras=turned(DOWN),
        extent_mm=(30.0, 16.0),
        area_mm2=380.0,
        side="left",
        denis_zone=1,
        direction="vertical",
        score=0.6,
        evidence=(Evidence("cleft", 0.5, 40.0), Evidence("cortical_step", 0.5, -1.7)),
        notes=("a note",),
    )


def test_an_accepted_suggestion_becomes_a_sheet_of_its_size(simple_anatomy: Anatomy) -> None:
    fracture = fracture_from_suggestion(suggestion(simple_anatomy, ALA_X), simple_anatomy)
    points = in_sacrum(simple_anatomy, fracture)
    assert fracture.source == "suggestion"
    assert np.ptp(points[:, 2]) == pytest.approx(30, abs=3) and np.ptp(points[:, 1]) == pytest.approx(16, abs=3)


def test_lines_to_foramina_reach_plan_and_report_as_leak_risks(
    simple: SimpleSacrum, simple_anatomy: Anatomy, tmp_path: Path
) -> None:
    from sacroplasty.planning.files import read_plan, write_plan

    harmless = replace(simple_anatomy, fractures=(vertical(simple_anatomy, ALA_X),))
    assert leak_risk_notes(harmless) == ()
    risky = replace(
        simple_anatomy,
        fractures=(vertical(simple_anatomy, ALA_X), vertical(simple_anatomy, LEVELS["s1"][1])),
        fracture_suggestions=(suggestion(simple_anatomy, LEVELS["s1"][1]),),
    )
    marked, suggested = leak_risk_notes(risky)
    assert "fracture_2 reaches" in marked and "foramen_s1_left" in marked
    assert "not confirmed" in suggested and "suggestion 1" in suggested
    plan = plan_trajectories(PlanningContext(simple.ct, risky), ("left",))
    assert plan.notes == (marked, suggested)
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json").notes == plan.notes


def test_everything_said_of_fractures_survives_its_files(
    simple: SimpleSacrum, simple_anatomy: Anatomy, tmp_path: Path
) -> None:
    lines = (
        vertical(simple_anatomy, ALA_X),
        fracture_from_curve(ras([[-40.0, 5, -12], [-40, 5, -40]]), simple_anatomy),
    )
    named = confirm(classify_fractures(lines, simple_anatomy), "pattern", "bilateral")
    before = replace(
        simple_anatomy,
        fractures=lines,
        fracture_suggestions=(suggestion(simple_anatomy, ALA_X),),
        fracture_classification=named,
    )
    write_anatomy(before, simple.ct, tmp_path / "case")
    after = read_anatomy(tmp_path / "case")
    assert after.fracture_classification == named
    for read, written in zip(after.fractures, lines, strict=True):
        assert np.array_equal(read.mask(simple.ct.voxels.shape), written.mask(simple.ct.voxels.shape))
        assert np.allclose(read.points_ras, written.points_ras) and np.allclose(read.normal_ras, written.normal_ras)
        assert (read.source, read.thickness_mm) == (written.source, written.thickness_mm)
    (one,) = after.fracture_suggestions
    assert np.allclose(one.center_ras, before.fracture_suggestions[0].center_ras)
    assert (one.evidence, one.notes, one.score) == (
        before.fracture_suggestions[0].evidence,
        ("a note",),
        0.6,
    )


def test_an_anatomy_of_an_older_program_is_read_without_fractures(
    simple: SimpleSacrum, simple_anatomy: Anatomy, tmp_path: Path
) -> None:
    import json

    write_anatomy(simple_anatomy, simple.ct, tmp_path)
    document = json.loads((tmp_path / "anatomy.json").read_text())
    for key in ("fractures", "fracture_suggestions", "fracture_classification"):
        del document[key]
    (tmp_path / "anatomy.json").write_text(json.dumps(document))
    read = read_anatomy(tmp_path)
    assert (read.fractures, read.fracture_suggestions) == ((), ())
    assert read.fracture_classification == FractureClassification()


def test_fractures_without_their_voxels_and_made_up_signs_are_refused(
    simple: SimpleSacrum, simple_anatomy: Anatomy, tmp_path: Path
) -> None:
    import json

    from sacroplasty.image import read_volume, write_volume

    write_anatomy(replace(simple_anatomy, fractures=(vertical(simple_anatomy, ALA_X),)), simple.ct, tmp_path)
    labels = read_volume(tmp_path / "fractures.nrrd")
    write_volume(labels.like(np.zeros_like(labels.voxels)), tmp_path / "fractures.nrrd")
    with pytest.raises(AnatomyError, match="lacks fracture_1"):
        read_anatomy(tmp_path)
    document = json.loads((tmp_path / "anatomy.json").read_text())
    document["fracture_classification"]["denis_zone"]["certain"] = True
    (tmp_path / "anatomy.json").write_text(json.dumps(document))
    with pytest.raises(DocumentError, match="certain"):
        read_anatomy(tmp_path)
