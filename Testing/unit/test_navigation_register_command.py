"""`sacroplasty register` on a simple sacrum: touched points in every format, accepted, refused, and bad."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from command_line import CommandLine, is_untouched
from sacroplasty.anatomy.files import write_anatomy
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.documents import write_document
from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import FloatArray, invert_rigid, rigid, rotation_about, transform_points
from sacroplasty.navigation.bone_surface import surface_of_anatomy
from sacroplasty.navigation.registration_files import read_registration
from sacroplasty.navigation.touched_points import read_touched_points
from simple_sacrum import SimpleSacrum

FCSV_COLUMNS = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
MOTION = rigid(rotation_about([1, -2, 0.5], 70), [120, -300, 800])
TOUCHED = (
    "foramen_s1_left_lateral_edge",
    "foramen_s1_right_lateral_edge",
    "foramen_s2_left_lateral_edge",
    "foramen_s3_right_lateral_edge",
    "promontory",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, simple: SimpleSacrum, simple_anatomy: Anatomy) -> Path:
    made = tmp_path_factory.mktemp("registered") / "anatomy"
    write_anatomy(simple_anatomy, simple.ct, made)
    return made


@pytest.fixture(scope="module")
def touched(simple_anatomy: Anatomy) -> dict[str, FloatArray]:
    """In the reference's frame, to 0.3 mm."""
    rng = np.random.default_rng(0)
    points = np.array([simple_anatomy.landmarks[name].position_ras for name in TOUCHED])
    moved = transform_points(invert_rigid(MOTION), points + rng.normal(0, 0.3 / np.sqrt(3), points.shape))
    return dict(zip(TOUCHED, moved, strict=True))


def write_csv(path: Path, points: dict[str, FloatArray]) -> Path:
    rows = [f"{name},{','.join(f'{value:.6f}' for value in point)}" for name, point in points.items()]
    path.write_text("\n".join(["name,x,y,z", *rows]) + "\n", encoding="utf-8")
    return path


def written(tmp_path: Path, kind: str, points: dict[str, FloatArray]) -> Path:
    path = tmp_path / f"touched.{kind}"
    if kind == "csv":
        return write_csv(path, points)
    if kind == "json":
        rows = [{"name": name, "position_mm": point} for name, point in points.items()]
        write_document(path, "touched_points", {"frame": "Reference", "points": rows})
    elif kind == "mrk.json":
        rows = [
            {"label": name, "position": (point * [-1, -1, 1]).tolist(), "positionStatus": "defined"}
            for name, point in points.items()
        ]
        rows.append({"label": "later", "position": [0.0, 0.0, 0.0], "positionStatus": "undefined"})
        markup = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": rows}
        path.write_text(json.dumps({"markups": [markup]}), encoding="utf-8")
    else:
        lines = [
            "# Markups fiducial file version = 4.11",
            "# CoordinateSystem = 0",
            FCSV_COLUMNS,
        ]
        lines += [
            f"{number},{x},{y},{z},0,0,0,1,1,1,0,{name},,"
            for number, (name, (x, y, z)) in enumerate(points.items(), start=1)
        ]
        path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["csv", "json", "mrk.json", "fcsv"])
def test_points_are_read_from_every_format(tmp_path: Path, touched: dict[str, FloatArray], kind: str) -> None:
    found = read_touched_points(written(tmp_path, kind, touched))
    assert found.names == TOUCHED
    np.testing.assert_allclose(found.points_mm, list(touched.values()), atol=1e-5)


def test_landmarks_register_the_patient(
    folder: Path, touched: dict[str, FloatArray], tmp_path: Path, sacroplasty: CommandLine, simple_anatomy: Anatomy
) -> None:
    out = tmp_path / "registration.json"
    command = ["register", folder, "--landmarks", write_csv(tmp_path / "t.csv", touched), "--out", out, "--limit", 3]
    ended = sacroplasty(*command)
    assert ended.code == 0, ended.err
    assert "target: predicted error" in ended.out
    found = read_registration(out, simple_anatomy.image_hash)
    ala = simple_anatomy.regions.ras_of(np.argwhere(simple_anatomy.region("ala_left"))).mean(axis=0)
    off = transform_points(found.MovingToFixed @ invert_rigid(MOTION), ala) - ala
    assert np.linalg.norm(off) < 1.0
    record = json.loads(out.read_text(encoding="utf-8"))
    assert [row["name"] for row in record["landmarks"]] == list(TOUCHED)
    assert record["targets"][0]["predicted_error_mm"] == pytest.approx(
        found.predicted_tre_mm(record["targets"][0]["target_ras"])
    )
    with pytest.raises(CalibrationError, match="another CT"):
        read_registration(out, "0" * 64)
    ended = sacroplasty(*command[:-1], 0.2, "--json")
    assert ended.code == 3
    assert json.loads(ended.out)["accepted"] is False
    assert "predicted error at the" in json.loads(ended.out)["reason"]


def test_any_order_will_do(
    folder: Path, touched: dict[str, FloatArray], tmp_path: Path, sacroplasty: CommandLine
) -> None:
    points = list(touched.values())
    path = write_csv(tmp_path / "t.csv", {f"p{number}": points[number] for number in (3, 0, 4, 2, 1)})
    ended = sacroplasty(
        "register", folder, "--landmarks", path, "--any-order", "--limit", 3, "--out", tmp_path / "r.json", "--json"
    )
    assert ended.code == 0, ended.err + ended.out
    assert [row["name"] for row in json.loads(ended.out)["landmarks"]] == [
        TOUCHED[number] for number in (3, 0, 4, 2, 1)
    ]


def test_swept_points_count_along(
    folder: Path,
    touched: dict[str, FloatArray],
    tmp_path: Path,
    sacroplasty: CommandLine,
    simple: SimpleSacrum,
    simple_anatomy: Anatomy,
) -> None:
    rng = np.random.default_rng(2)
    points = surface_of_anatomy(simple_anatomy, simple.ct).points_ras
    # All around: the plain back of this sacrum alone leaves motions open.
    swept = rng.choice(points, 200) + rng.normal(0, 0.3, (200, 3))
    path = tmp_path / "swept.csv"
    np.savetxt(path, transform_points(invert_rigid(MOTION), swept), delimiter=",")
    out = tmp_path / "r.json"
    ended = sacroplasty(
        "register", folder, "--landmarks", write_csv(tmp_path / "t.csv", touched), "--swept", path, "--out", out
    )
    assert ended.code == 0, ended.err + ended.out
    assert "of 200 points used" in ended.out
    found = read_registration(out)
    ala = simple_anatomy.regions.ras_of(np.argwhere(simple_anatomy.region("ala_right"))).mean(axis=0)
    off = transform_points(found.MovingToFixed @ invert_rigid(MOTION), ala) - ala
    assert np.linalg.norm(off) < 0.5


def test_bad_points_are_named_in_one_line(
    folder: Path, touched: dict[str, FloatArray], tmp_path: Path, empty: Path, sacroplasty: CommandLine
) -> None:
    def refused(points: dict[str, FloatArray], *words: str) -> None:
        path = write_csv(tmp_path / "bad.csv", points)
        sacroplasty("register", folder, "--landmarks", path, "--out", empty / "r.json").refused(*words)
        assert is_untouched(empty)

    names, points = list(touched), np.array(list(touched.values()))
    refused(dict(zip(names, points / 1000, strict=True)), "metres")
    refused(dict(zip(names, points * [1, np.nan, 1], strict=True)), "bad.csv", names[0], "three numbers")
    refused({"somewhere": points[0]} | touched, "no landmark 'somewhere'")
    refused(dict(zip(names, points[[1, 0, 2, 3, 4]], strict=True)), "look exchanged")
    refused(dict(zip(names[:2], points[:2], strict=True)), "at least three")
    sacroplasty("register", folder, "--landmarks", tmp_path / "none.csv").refused("none.csv", "cannot be read")
    (tmp_path / "list.txt").write_text("1,2,3", encoding="utf-8")
    sacroplasty("register", folder, "--landmarks", tmp_path / "list.txt").refused("list.txt", "no list of points")
    (tmp_path / "bad.mrk.json").write_text("{}", encoding="utf-8")
    sacroplasty("register", folder, "--landmarks", tmp_path / "bad.mrk.json").refused("bad.mrk.json", "markups")
    sacroplasty("register", tmp_path, "--landmarks", tmp_path / "bad.csv").refused("anatomy.json")
