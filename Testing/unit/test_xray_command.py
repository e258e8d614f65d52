"""`sacroplasty xray` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result

from sacroplasty.cli import xray
from sacroplasty.errors import SacroplastyError
from sacroplasty.geometry import rigid
from sacroplasty.image import Volume, write_volume
from sacroplasty.xray.geometry import VIEW_ANGLES_DEG, CArm, read_geometry, write_geometry
from sacroplasty.xray.views import frame_without_anatomy


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x.jpg"], "must end in"),
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
