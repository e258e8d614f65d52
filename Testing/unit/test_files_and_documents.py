"""Outputs appear whole or not at all, and documents say what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sacroplasty.documents import newest_version, read_document, write_document
from sacroplasty.errors import DocumentError, SacroplastyError
from sacroplasty.files import atomic_file, staged_directory
from sacroplasty.xray.geometry import CArm


@pytest.fixture
def a_geometry() -> dict:
    return CArm().pose([0, 0, 0], [0, -1, 0], [0, 0, 1]).to_dict()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_finished_write_takes_its_place(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "new" / "plan.json") as draft:
        draft.write_text("whole")
    assert (tmp_path / "new" / "plan.json").read_text() == "whole"


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_a_stopped_run_leaves_no_folder(tmp_path: Path, stop: type[BaseException]) -> None:
    with pytest.raises(stop), staged_directory(tmp_path / "out") as stage:
        (stage / "ct.nrrd").write_text("half")
        raise stop
    assert list(tmp_path.iterdir()) == []


def test_results_join_an_existing_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    (out / "plan.json").write_text("old")
    with staged_directory(out) as stage:
        (stage / "plan.json").write_text("new")
    assert {item.name: item.read_text() for item in out.iterdir()} == {"mine.txt": "kept", "plan.json": "new"}


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(SacroplastyError, match="out is a file"), staged_directory(tmp_path / "out"):
        pass
    with pytest.raises(SacroplastyError, match="is a file, not a folder"), atomic_file(tmp_path / "out" / "a.json"):
        pass


def test_a_document_comes_back_as_it_was(tmp_path: Path, a_geometry: dict) -> None:
    write_document(tmp_path / "geometry.json", "geometry", a_geometry)
    document = read_document(tmp_path / "geometry.json", "geometry")
    assert document["schema"] == {"name": "geometry", "version": newest_version("geometry")}
    assert {key: document[key] for key in a_geometry} == a_geometry


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": {"name": "geometry", "version": 999}}, "reads up to.*update"),
        ({"schema": {"name": "geometry", "version": True}}, "whole number"),
        ({"schema": {"name": "plan", "version": 1}}, "no geometry document"),
        ({"schema": None}, "no geometry document"),
        ({"pixel_spacing_mm": "wide"}, "pixel_spacing_mm"),
    ],
)
def test_other_documents_are_refused_in_words(tmp_path: Path, a_geometry: dict, change: dict, reason: str) -> None:
    path = tmp_path / "geometry.json"
    write_document(path, "geometry", a_geometry)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DocumentError, match=reason) as refusal:
        read_document(path, "geometry")
    assert "geometry.json" in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\x00"])
def test_what_is_no_document_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "geometry.json").write_text(text)
    with pytest.raises(DocumentError, match=r"geometry\.json"):
        read_document(tmp_path / "geometry.json", "geometry")


def test_an_invalid_document_is_not_written(tmp_path: Path, a_geometry: dict) -> None:
    a_geometry["source_to_detector_mm"] = float("nan")
    with pytest.raises((DocumentError, ValueError)):
        write_document(tmp_path / "geometry.json", "geometry", a_geometry)
    assert list(tmp_path.iterdir()) == []
