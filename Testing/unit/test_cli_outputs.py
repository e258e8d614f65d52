"""Results appear whole where they were asked for, or not at all."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from command_line import CommandLine, is_untouched
from sacroplasty.anatomy.files import read_anatomy
from sacroplasty.errors import SacroplastyError
from sacroplasty.files import atomic_file, staged_directory
from sacroplasty.geometry import rotation_about
from sacroplasty.image import Volume, write_volume
from simple_sacrum import simple_sacrum


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patient")
    simple = simple_sacrum(3.0)
    write_volume(simple.ct, folder / "ct.nrrd")
    write_volume(simple.bones, folder / "bones.nrrd")
    return folder


@pytest.fixture(scope="module")
def segmented(patient: Path) -> Path:
    run = [sys.executable, "-m", "sacroplasty.cli"]
    folder = patient / "segmented"
    subprocess.run(
        [*run, "segment", patient / "ct.nrrd", "--labels", patient / "bones.nrrd", "--out", folder], check=True
    )
    subprocess.run([*run, "plan", folder], check=True)
    return folder


@contextmanager
def no_more_than(file_bytes: int) -> Iterator[None]:
    """A disk on which no file can grow beyond this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS = {
    "segment": "segment ct.nrrd --labels bones.nrrd --out OUT",
    "xray as mha": "xray ct.nrrd --size 128 --out OUT/x.mha",
    "xray as png": "xray ct.nrrd --size 128 --out OUT/x.png",
    "plan": "plan segmented --out OUT/plan.json",
    "spread": "spread segmented --volume 1 --out OUT",
}


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk_is_named_and_nothing_is_left_on_it(
    sacroplasty: CommandLine,
    segmented: Path,
    empty: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.chdir(segmented.parent)
    arguments = WRITERS[command].replace("OUT", str(empty / "new" / "out")).split()
    with no_more_than(700):
        ended = sacroplasty(*arguments)
    assert ended.code == 2
    assert re.search(r"no space left|disk full|too large", ended.err.splitlines()[-1])
    assert "Traceback" not in ended.err and ended.err.count("sacroplasty:") == 1
    assert is_untouched(empty), "folders made for the results are gone too"


@pytest.mark.parametrize("command", WRITERS)
def test_a_file_in_the_way_is_refused_before_the_work(
    sacroplasty: CommandLine, segmented: Path, empty: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(segmented.parent)
    (empty / "file").write_text("mine")
    for out in ("file", "file/below"):
        sacroplasty(*WRITERS[command].replace("OUT", str(empty / out)).split()).refused("file")
    assert [(item.name, item.read_text()) for item in empty.iterdir()] == [("file", "mine")]


@pytest.mark.parametrize("command", ["rehearse", "sample"])
def test_the_long_commands_look_where_they_write_first(sacroplasty: CommandLine, empty: Path, command: str) -> None:
    (empty / "file").write_text("mine")
    sacroplasty(command, "--out", empty / "file").refused("is a file", "folder")


@pytest.mark.parametrize("command", ["plan segmented", "xray ct.nrrd", "monitor anything"])
def test_a_folder_is_no_file(
    sacroplasty: CommandLine, patient: Path, empty: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(patient)
    sacroplasty(*command.split(), "--out", empty).refused("is a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", WRITERS)
def test_a_place_without_permission_is_named(
    sacroplasty: CommandLine, segmented: Path, empty: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(segmented.parent)
    empty.chmod(0o555)
    sacroplasty(*WRITERS[command].replace("OUT", str(empty / "out")).split()).refused("may not be written")


@pytest.mark.parametrize("writer", [atomic_file, staged_directory])
def test_folders_made_for_results_that_failed_go_again(empty: Path, writer: object) -> None:
    with pytest.raises(RuntimeError), writer(empty / "a" / "b" / "out.json"):  # type: ignore[operator]
        raise RuntimeError
    assert is_untouched(empty)


def test_a_full_disk_is_told_by_the_name_of_the_result(empty: Path) -> None:
    with (
        no_more_than(10),
        pytest.raises(SacroplastyError, match=r"no space.*out\.txt;"),
        atomic_file(empty / "out.txt") as draft,
    ):
        draft.write_text("more than ten bytes")
    assert is_untouched(empty)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, signal.SIGTERM])
def test_a_stopped_command_leaves_nothing(
    sacroplasty: CommandLine, patient: Path, empty: Path, monkeypatch: pytest.MonkeyPatch, stop: object
) -> None:
    def stopped(*_: object) -> None:
        if stop is KeyboardInterrupt:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("sacroplasty.anatomy.files.write_document", stopped)
    options = ["--labels", patient / "bones.nrrd", "--out", empty / "new" / "out"]
    ended = sacroplasty("segment", patient / "ct.nrrd", *options)
    assert (ended.code, ended.err.strip()) == (130, "sacroplasty: stopped; nothing was left behind")
    assert is_untouched(empty)


@pytest.mark.parametrize(
    ("name", "directions"),
    [
        ("left-handed", np.diag([-1.0, 1, 1])),
        ("oblique", rotation_about([1, 2, 3], 20.0)),
        ("sagittal", np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]])),
    ],
)
def test_the_orientation_of_the_scan_does_not_move_the_anatomy(
    sacroplasty: CommandLine, segmented: Path, tmp_path: Path, name: str, directions: np.ndarray
) -> None:
    turned = simple_sacrum(3.0, directions)
    write_volume(turned.ct, tmp_path / "ct.nrrd")
    write_volume(turned.bones, tmp_path / "bones.nrrd")
    ended = sacroplasty("segment", tmp_path / "ct.nrrd", "--labels", tmp_path / "bones.nrrd", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    there, here = read_anatomy(segmented).foramina, read_anatomy(tmp_path / "out").foramina
    assert set(there) == set(here)
    for foramen in there:
        shift = here[foramen].anterior.center_ras - there[foramen].anterior.center_ras
        assert np.linalg.norm(shift) < 3.0, f"{foramen} moved by {shift.round(1)} mm, more than a voxel"


def test_a_left_handed_scan_gives_the_same_picture(sacroplasty: CommandLine, patient: Path, tmp_path: Path) -> None:
    ct = simple_sacrum(3.0).ct
    mirror = ct.IJKToRAS @ np.array([[-1, 0, 0, ct.voxels.shape[2] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    write_volume(Volume(ct.voxels[:, :, ::-1], mirror), tmp_path / "mirrored.nrrd")
    pictures = []
    for number, file in enumerate((patient / "ct.nrrd", tmp_path / "mirrored.nrrd")):
        out = tmp_path / f"{number}.mha"
        assert sacroplasty("xray", file, "--view", "outlet", "--size", 96, "--out", out).code == 0
        pictures.append(sitk.GetArrayFromImage(sitk.ReadImage(str(out))))
    np.testing.assert_allclose(pictures[0], pictures[1], atol=1e-3)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for device in ("tracker", "all"):
            ended = subprocess.run(
                [sys.executable, "-m", "sacroplasty.cli", "simulate", device, "--port", str(port)],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert ended.returncode == 2
            assert ended.stdout == ""
            assert len(ended.stderr.splitlines()) == 1
            assert ended.stderr.startswith("sacroplasty: ") and str(port) in ended.stderr


def test_without_a_network_the_sample_is_refused_and_no_half_is_kept(
    sacroplasty: CommandLine, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SACROPLASTY_CACHE", str(empty / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    sacroplasty("sample", "--out", empty / "out").refused("could not be downloaded", "network")
    assert is_untouched(empty)


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "sacroplasty.cli", "--help"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert ended.stderr == ""


def test_results_of_a_command_are_json_on_request_and_its_progress_is_not_among_them(
    sacroplasty: CommandLine, patient: Path, tmp_path: Path
) -> None:
    ended = sacroplasty("xray", patient / "ct.nrrd", "--size", 32, "--out", tmp_path / "x.png", "--json")
    assert json.loads(ended.out)["columns"] == 32
    assert ended.err == ""


def test_start_up_and_help_load_no_heavy_library() -> None:
    heavy = "numpy scipy SimpleITK vtk rich fastjsonschema slicer pyigtl"
    program = (
        "import sys, sacroplasty, sacroplasty.cli as c\n"
        "c.cli.main(['--help'], standalone_mode=False)\n"
        f"print('LOADED', *[name for name in '{heavy}'.split() if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1].split() == ["LOADED"]
