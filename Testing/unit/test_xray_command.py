"""`sacroplasty xray` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result

from sacroplasty.anatomy.files import write_anatomy
from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.cli import xray
from sacroplasty.errors import SacroplastyError
from sacroplasty.geometry import rigid, transform_points
from sacroplasty.image import Volume, write_volume
from sacroplasty.planning.files import write_plan
from sacroplasty.planning.model import Plan, Trajectory
from sacroplasty.planning.needles import needle
from sacroplasty.xray.geometry import VIEW_ANGLES_DEG, CArm, read_geometry, write_geometry
from sacroplasty.xray.views import frame_without_anatomy
from simple_sacrum import USUAL_SACRUM_TO_RAS, simple_sacrum


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block of soft tissue with a bone on the patient's right."""
    voxels = np.full((40, 40, 40), -1000, np.int16)
    voxels[5:35, 5:35, 5:35] = 30
    voxels[10:30, 15:25, 26:34] = 900
    path = tmp_path_factory.mktemp("ct") / "ct.nrrd"
    write_volume(Volume(voxels, rigid(4 * np.eye(3), [-80, -100, 300])), path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(xray.command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_command_offers_every_view_of_the_engine() -> None:
    assert tuple(VIEW_ANGLES_DEG) == xray.VIEWS


def test_every_view_of_a_planned_patient_is_offered(patient: Path, tmp_path: Path) -> None:
    summary = json.loads(run(patient, "--table", tmp_path / "views.csv", "--json").stdout)
    assert set(summary["views"]) <= {*xray.VIEWS, *xray.PATIENT_VIEWS}


def test_an_ap_image_has_the_bone_of_the_right_side_dark_on_its_left(ct: Path, tmp_path: Path) -> None:
    result = run(ct, "--out", tmp_path / "ap.png", "--size", 128)
    assert result.exit_code == 0
    shown = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "ap.png")))
    assert shown.shape == (128, 128)
    bone, tissue = shown[54:74, 33:40].mean(), shown[54:74, 88:95].mean()
    assert bone < tissue - 100
    assert "not for diagnosis" in result.output


def test_line_integrals_and_geometry_fit_each_other(ct: Path, tmp_path: Path) -> None:
    result = run(ct, "--view", "lateral", "--out", tmp_path / "out" / "lateral.mha", "--size", 96, "--json")
    summary = json.loads(result.stdout)
    image = sitk.ReadImage(summary["image"])
    geometry = read_geometry(Path(summary["geometry"]))
    assert image.GetSize() == geometry.detector_pixels == (96, 96)
    assert image.GetPixelID() == sitk.sitkFloat32
    # 14 voxels of 4 mm of tissue and 16 of bone never meet on one ray; 22 of tissue and 8 of bone do.
    expected = 4 * (22 * 0.0206 * 1.03 + 8 * 0.0436)
    assert sitk.GetArrayFromImage(image).max() == pytest.approx(expected, rel=0.03)
    again = run(ct, "--geometry", summary["geometry"], "--out", tmp_path / "again.mha")
    assert again.exit_code == 0
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "again.mha"))), sitk.GetArrayFromImage(image), rtol=1e-5
    )


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `segment` and `plan` leave."""
    case = simple_sacrum(2.5, SacrumToRAS=USUAL_SACRUM_TO_RAS)
    anatomy = segment_from_labels(case.ct, case.bones)
    folder = tmp_path_factory.mktemp("patient") / "case"
    write_anatomy(anatomy, case.ct, folder)
    skin, bone, target = (
        transform_points(USUAL_SACRUM_TO_RAS, place) for place in ((48, 75, -40), (43, 31, -36), (38, 0, -32))
    )
    trocar = Trajectory("left", "short-axis", skin, bone, target, needle(11), 76.0, {}, True)
    write_plan(Plan((trocar,), anatomy.image_hash), folder / "plan.json")
    return folder


def test_the_table_has_the_views_of_this_patient(patient: Path, tmp_path: Path) -> None:
    result = run(patient, "--table", tmp_path / "views.csv", "--json")
    views = json.loads(result.stdout)["views"]
    assert {"outlet", "lateral", "barrel-left", "perpendicular-left", "biplane-2"} <= set(views)
    assert views["outlet"]["measured"] and views["outlet"]["secondary_deg"] == pytest.approx(-40, abs=2)
    assert (tmp_path / "views.csv").read_text().startswith("view,detector,primary_deg")
    text = run(patient, "--table", tmp_path / "views.txt").output
    assert "CAU" in text and (tmp_path / "views.txt").read_text().strip() in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["views.csv", "views.txt"]


def test_a_view_of_this_patient_with_its_outlines(patient: Path, tmp_path: Path) -> None:
    result = run(patient, "--view", "outlet", "--overlay", "--size", 192, "--out", tmp_path / "outlet.png")
    assert "outlet: LAO 0°, CAU" in result.output
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "outlet.png"))).astype(int)
    assert picture.shape == (192, 192, 3)
    assert np.count_nonzero(np.ptp(picture, axis=-1) > 60) > 500, "colored lines"
    geometry = read_geometry(tmp_path / "geometry.json")
    assert geometry.positioner_angles_deg[1] == pytest.approx(-40, abs=2)


def test_a_picture_and_a_geometry_of_every_view(patient: Path, tmp_path: Path) -> None:
    result = run(patient, "--pictures", tmp_path / "views", "--overlay", "--size", 64, "--table", tmp_path / "v.csv")
    names = [line.split(",")[0] for line in (tmp_path / "v.csv").read_text().splitlines()[1:]]
    assert sorted(path.name for path in (tmp_path / "views").iterdir()) == sorted(
        f"{name}.{ending}" for name in names for ending in ("png", "json")
    )
    assert f"each of {len(names)} views" in result.output
    barrel = read_geometry(tmp_path / "views" / "barrel-left.json")
    shown = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "views" / "barrel-left.png")))
    start, end = (transform_points(USUAL_SACRUM_TO_RAS, place) for place in ((48, 75, -40), (38, 0, -32)))
    assert np.linalg.norm(barrel.project(start) - barrel.project(end)) < 0.01 and shown.shape == (64, 64, 3)


def test_a_given_pose_is_scored_against_the_views(patient: Path, tmp_path: Path) -> None:
    run(patient, "--view", "lateral", "--size", 64, "--out", tmp_path / "lateral.png")
    again = [patient, "--geometry", tmp_path / "geometry.json", "--out", tmp_path / "again" / "x.png", "--json"]
    assert json.loads(run(*again).stdout)["score"]["view"] in ("lateral", "biplane-2")
    against = json.loads(run(*again, "--view", "outlet").stdout)["score"]
    assert (against["view"], against["score"]) == ("outlet", 0.0) and against["off_deg"] > 80


def test_limits_and_missing_views_are_said(patient: Path, tmp_path: Path) -> None:
    record = {"schema": {"name": "reachable_range", "version": 1}, "primary_deg": [-45, 95], "secondary_deg": [-20, 20]}
    (tmp_path / "limits.json").write_text(json.dumps(record))
    arguments = [patient, "--size", 64, "--out", tmp_path / "x.png"]
    output = run(*arguments, "--view", "outlet", "--limits", tmp_path / "limits.json").output
    assert "out of reach" in output and "CAU 20° is the nearest" in output
    with pytest.raises(SacroplastyError, match="no view 'barrel-right'"):
        run(*arguments, "--view", "barrel-right")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x.jpg"], "must end in"),
        ([], "say what to write"),
        (["--table", "x.pdf"], "must end in"),
        (["--table", "x.csv"], "needs --anatomy"),
        (["--out", "x.png", "--overlay"], "needs --anatomy"),
        (["--out", "x.png", "--view", "biplane-1"], "needs --anatomy"),
        (["--out", "x.png", "--view", "ap", "--geometry", "g.json"], "leave out --view"),
        (["--out", "x.png", "--geometry", "missing.json"], "cannot be read"),
    ],
)
def test_contradictions_are_refused(
    ct: Path, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ct.parent)
    with pytest.raises(SacroplastyError, match=words):
        run(ct, *arguments)
    assert not (ct.parent / "x.png").exists()


def test_a_geometry_that_misses_the_patient_is_refused_and_leaves_nothing(ct: Path, tmp_path: Path) -> None:
    elsewhere = frame_without_anatomy(Volume(np.zeros((3, 3, 3)), rigid(np.eye(3), [2000, 0, 0])))
    write_geometry(tmp_path / "far.json", CArm().view("ap", elsewhere).resampled(64))
    with pytest.raises(SacroplastyError, match="no ray"):
        run(ct, "--geometry", tmp_path / "far.json", "--out", tmp_path / "x.mha")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far.json"]
