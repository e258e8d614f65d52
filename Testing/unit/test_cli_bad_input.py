"""Whatever is wrong with the input: one clear line, exit code 2, nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from command_line import CommandLine, is_untouched
from make_dicom import write_ct_series
from sacroplasty.anatomy.files import write_anatomy
from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.cement.recording import Recording, write_recording
from sacroplasty.documents import write_document
from sacroplasty.image import Volume, itk_from_volume, write_volume
from sacroplasty.planning.files import write_plan
from sacroplasty.planning.model import Depot, Plan, Trajectory
from sacroplasty.planning.needles import needle
from sacroplasty.xray.geometry import CArm
from simple_sacrum import simple_sacrum

SACRUM = 1


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good CT with labels, and everything that can be wrong with one."""
    folder = tmp_path_factory.mktemp("place")
    simple = simple_sacrum(3.0)
    ct, bones = simple.ct, simple.bones
    write_volume(ct, folder / "ct.nrrd")
    write_volume(bones, folder / "bones.nrrd")
    picture = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(folder / "picture.png"))
    write_volume(ct.like((ct.voxels - ct.voxels.min()).astype(np.uint16)), folder / "mr.nrrd")
    write_volume(Volume(ct.voxels[:2], ct.IJKToRAS), folder / "two_slices.nrrd")
    holed = ct.voxels.astype(np.float32)
    holed[5, 6, 7] = np.nan
    write_volume(ct.like(holed), folder / "nan.nrrd")
    write_volume(Volume(ct.voxels, np.diag([0.001, 0.001, 0.001, 1]) @ ct.IJKToRAS), folder / "metres.nrrd")
    write_volume(ct.like(ct.voxels + 1024), folder / "raw.nrrd")
    (folder / "notes.txt").write_text("hello")
    (folder / "folder").mkdir()
    dicom = folder / "dicom"
    dicom.mkdir()
    for series in ("1.2.3.1", "1.2.3.2"):
        write_ct_series(ct, dicom, series)
    write_volume(bones.like(np.where(bones.voxels == SACRUM, 0, bones.voxels)), folder / "no_sacrum.nrrd")
    write_volume(bones.like(bones.voxels * 0), folder / "no_label.nrrd")
    halves = bones.like(bones.voxels * np.float32(0.5))
    write_volume(halves, folder / "probabilities.nrrd")
    far = bones.IJKToRAS.copy()
    far[:3, 3] += 1000
    write_volume(Volume(bones.voxels, far), folder / "elsewhere.nrrd")
    mirror = np.diag([-1.0, 1, 1, 1])
    write_volume(Volume(bones.voxels, mirror @ bones.IJKToRAS), folder / "mirrored.nrrd")
    for ending in ("nrrd", "nii.gz", "nii", "mha"):
        whole = folder / f"whole.{ending}"
        sitk.WriteImage(itk_from_volume(ct), str(whole), useCompression=ending != "nii")
        content = whole.read_bytes()
        (folder / f"cut.{ending}").write_bytes(content[: len(content) // 2])
        (folder / f"empty.{ending}").write_bytes(b"")
    (folder / "broken.json").write_text('{"schema": {"name": "scenario"')
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00\x01")
    leak = {"side": "left", "into": "heart", "after_ml": 1.0, "fraction": 0.5}
    for name, content in (
        ("odd_leak", {"leak": leak}),
        ("odd_fault", {"faults": {"carm": ["hiccup"]}}),
        ("odd_side", {"sides": ["middle"]}),
    ):
        scenario = {"schema": {"name": "scenario", "version": 1}, **content}
        (folder / f"{name}.json").write_text(json.dumps(scenario))
    geometry = CArm().pose([0, 0, 0], [0, -1, 0], [0, 0, 1]).to_dict()
    write_document(folder / "geometry.json", "geometry", geometry)
    newer = json.loads((folder / "geometry.json").read_text())
    newer["schema"]["version"] = 99
    (folder / "newer.json").write_text(json.dumps(newer))
    return folder


@pytest.fixture(scope="session")
def segmented(place: Path) -> Path:
    """What `segment` writes, with a plan for each side."""
    simple = simple_sacrum(3.0)
    folder = place / "segmented"
    anatomy = segment_from_labels(simple.ct, simple.bones)
    write_anatomy(anatomy, simple.ct, folder)
    trajectories = tuple(
        Trajectory(
            side=side,
            technique="short-axis",
            entry_skin=target + np.array([0, -90.0, -40.0]),
            entry_bone=target + np.array([0, -20.0, -9.0]),
            target=target,
            needle=needle(11),
            length_mm=98.5,
            clearance_mm={"sacral_canal": 20.0},
            accepted=True,
            reasons=(),
            depots=(Depot(target, 2.0),),
        )
        for side in ("left", "right")
        for target in [anatomy.foramina[f"foramen_s1_{side}"].anterior.center_ras]
    )
    write_plan(Plan(trajectories, anatomy.image_hash), folder / "plan.json")
    write_plan(Plan(trajectories, "0" * 64), folder / "other_plan.json")
    return folder


#: What is wrong with a CT, and words that the line must have.
NO_CT = {
    "picture.png": ["no image of a known kind", "DICOM"],
    "mr.nrrd": ["Hounsfield"],
    "bones.nrrd": ["not a CT"],
    "two_slices.nrrd": ["only 2 slices"],
    "nan.nrrd": ["NaN", "[5, 6, 7]"],
    "metres.nrrd": ["another unit than mm"],
    "raw.nrrd": ["rescale offset"],
    "cut.nrrd": ["cut off"],
    "cut.nii.gz": ["cut off"],
    "cut.nii": ["cut off"],
    "cut.mha": ["cut off"],
    "empty.nrrd": ["empty"],
    "notes.txt": ["no image of a known kind"],
    "missing.nrrd": ["does not exist"],
    "folder": ["no DICOM"],
    "dicom": ["2 series", "--series", "1.2.3.1"],
}


@pytest.mark.parametrize("command", ["segment", "xray", "rehearse"])
@pytest.mark.parametrize("name", NO_CT)
def test_what_is_no_ct_is_refused(sacroplasty: CommandLine, place: Path, empty: Path, command: str, name: str) -> None:
    options = (
        ["--out", empty / "x.png"] if command == "xray" else ["--labels", place / "bones.nrrd", "--out", empty / "out"]
    )
    sacroplasty(command, place / name, *options).refused(name, *NO_CT[name])
    assert is_untouched(empty)


NO_LABELS = {
    "ct.nrrd": ["no sacrum", "-1000"],
    "no_sacrum.nrrd": ["no sacrum", "2, 3, 4"],
    "no_label.nrrd": ["no sacrum", "none"],
    "probabilities.nrrd": ["not whole"],
    "elsewhere.nrrd": ["does not overlap"],
    "mirrored.nrrd": ["left and right are swapped"],
    "picture.png": ["no image of a known kind"],
    "cut.nii.gz": ["cut off"],
    "missing.nrrd": ["does not exist"],
}


@pytest.mark.parametrize("command", ["segment", "rehearse"])
@pytest.mark.parametrize("name", NO_LABELS)
def test_labels_of_no_pelvis_are_refused(
    sacroplasty: CommandLine, place: Path, empty: Path, command: str, name: str
) -> None:
    ended = sacroplasty(command, place / "ct.nrrd", "--labels", place / name, "--out", empty / "out")
    ended.refused(*NO_LABELS[name])
    assert is_untouched(empty)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("segment ct.nrrd --method labels --out OUT", ["--labels FILE"]),
        ("segment ct.nrrd --mapping 1=sacrum --out OUT", ["--mapping", "--labels FILE"]),
        ("segment ct.nrrd --labels bones.nrrd --mapping 1=liver --out OUT", ["liver is not known", "hip_left"]),
        ("segment ct.nrrd --labels bones.nrrd --mapping 9=sacrum --out OUT", ["--mapping", "9", "holds 1, 2, 3, 4"]),
        ("segment ct.nrrd --labels bones.nrrd --series 1.2.3.1 --out OUT", ["is a file", "1.2.3.1"]),
        ("segment dicom --labels bones.nrrd --series 9 --out OUT", ["no series 9"]),
        ("rehearse ct.nrrd --labels missing.nrrd --out OUT", ["missing.nrrd"]),
        ("rehearse --labels bones.nrrd --out OUT", ["--labels", "belong to a CT"]),
        ("rehearse --series 1.2 --out OUT", ["belong to a CT"]),
        ("rehearse ct.nrrd --labels bones.nrrd --scenario missing.json --out OUT", ["no scenario", "normal, leak"]),
        ("rehearse ct.nrrd --labels bones.nrrd --scenario broken.json --out OUT", ["broken.json", "is it whole?"]),
        ("rehearse ct.nrrd --labels bones.nrrd --scenario binary.json --out OUT", ["binary.json", "no UTF-8"]),
        (
            "rehearse ct.nrrd --labels bones.nrrd --scenario geometry.json --out OUT",
            ["no scenario document", "geometry"],
        ),
        ("rehearse ct.nrrd --labels bones.nrrd --scenario odd_leak.json --out OUT", ["'heart'", "foramen_s1_left"]),
        ("rehearse ct.nrrd --labels bones.nrrd --scenario odd_fault.json --out OUT", ["'hiccup'", "freeze"]),
        ("rehearse ct.nrrd --labels bones.nrrd --scenario odd_side.json --out OUT", ["odd_side.json", "sides"]),
        ("rehearse ct.nrrd --labels bones.nrrd --scenario folder --out OUT", ["folder", "Is a directory"]),
        ("rehearse --speed 0 --out OUT", ["--speed"]),
        ("rehearse --speed nan --out OUT", ["--speed", "nan"]),
        ("rehearse --seed -1 --out OUT", ["--seed", "-1"]),
        ("rehearse --port 70000 --out OUT", ["--port"]),
        ("rehearse", ["--out"]),
        ("xray ct.nrrd --geometry broken.json --out OUT.png", ["broken.json"]),
        ("xray ct.nrrd --geometry newer.json --out OUT.png", ["version 99", "update"]),
        ("xray ct.nrrd --geometry missing.json --out OUT.png", ["missing.json", "No such file"]),
        ("xray ct.nrrd --anatomy folder --out OUT.png", ["anatomy.json"]),
        ("xray ct.nrrd --size 2 --out OUT.png", ["--size"]),
        ("xray ct.nrrd --view front --out OUT.png", ["--view", "'ap'"]),
        ("xray ct.nrrd --out OUT.jpg", [".mha or .png"]),
        ("plan folder --out OUT", ["anatomy.json", "sacroplasty segment"]),
        ("plan missing --out OUT", ["anatomy.json"]),
        ("spread folder --out OUT", ["anatomy.json"]),
        ("monitor missing --out OUT", ["missing", "recording"]),
        ("monitor folder --out OUT", ["0 recorded views"]),
        ("monitor notes.txt --out OUT", ["neither DICOM nor"]),
        ("pivot missing.mha", ["missing.mha", "No such file"]),
        ("pivot notes.txt", ["notes.txt", "Plus"]),
        ("pivot ct.nrrd", ["ct.nrrd", "Plus"]),
        ("pivot folder", ["Is a directory"]),
        ("phantom --seed -1 --out OUT", ["--seed"]),
        ("phantom --spacing 0 1 1 --out OUT", ["voxel size"]),
        ("phantom --spacing nan 1 1 --out OUT", ["voxel size"]),
        ("phantom --noise -3 --out OUT", ["noise"]),
        ("phantom --ala-hu nan --out OUT", ["HU"]),
        ("phantom --fracture odd --out OUT", ["--fracture"]),
        ("simulate heart", ["heart", "tracker"]),
        ("simulate tracker --speed 0", ["speed"]),
        ("simulate pump --speed nan", ["speed"]),
        ("simulate tracker --world missing.json", ["missing.json", "No such file"]),
        ("simulate tracker --world broken.json", ["broken.json"]),
        ("simulate tracker --world geometry.json", ["no world document"]),
        ("simulate tracker --fault odd", ["'odd'", "freeze"]),
        ("simulate tracker --fault freeze@soon", ["freeze@soon", "seconds"]),
        ("simulate tracker --port 70000", ["--port"]),
        ("operate", ["operate"]),
    ],
)
def test_a_wrong_option_is_refused(
    sacroplasty: CommandLine,
    place: Path,
    empty: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    words: list[str],
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    sacroplasty(*arguments.replace("OUT", str(empty / "out")).split()).refused(*words)
    assert is_untouched(empty)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("plan segmented --margin -1", ["margin"]),
        ("plan segmented --margin nan", ["margin"]),
        ("plan segmented --gauge 12", ["--gauge"]),
        ("spread segmented --plan missing.json", ["missing.json"]),
        ("spread segmented --plan broken.json", ["broken.json"]),
        ("spread segmented --plan geometry.json", ["no plan document"]),
        ("spread segmented --plan segmented/other_plan.json", ["another CT"]),
        ("spread segmented --volume -1", ["--volume"]),
        ("spread segmented --volume nan", ["--volume"]),
        ("spread segmented --rate 0", ["--rate"]),
    ],
)
def test_a_wrong_option_for_a_segmented_patient_is_refused(
    sacroplasty: CommandLine,
    place: Path,
    segmented: Path,
    empty: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    words: list[str],
) -> None:
    monkeypatch.chdir(place)
    sacroplasty(*arguments.split(), "--out", empty / "out").refused(*words)
    assert is_untouched(empty)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """One view of two seconds in which nothing happens."""
    geometry = CArm().pose([0, 0, 0], [0, -1, 0], [0, 0, 1]).resampled(32)
    frames = np.full((10, 32, 32), 8000, np.uint16)
    write_recording(Recording(frames, np.arange(10) / 5, 5.0, (geometry,)), tmp_path / "ap")
    return tmp_path / "ap"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "frames.mha").unlink(), ["frames.mha", "does not exist"]),
        (lambda folder: (folder / "frames.mha").write_bytes((folder / "frames.mha").read_bytes()[:-20]), ["cut off"]),
        (lambda folder: (folder / "recording.json").write_text("{}"), ["no recording document"]),
        (lambda folder: (folder / "recording.json").write_text("{"), ["is it whole?"]),
    ],
)
def test_a_damaged_recording_is_refused(
    sacroplasty: CommandLine, recording: Path, empty: Path, spoil: object, words: list[str]
) -> None:
    spoil(recording)  # type: ignore[operator]
    sacroplasty("monitor", recording, "--out", empty / "events.json").refused(*words)
    assert is_untouched(empty)


@pytest.mark.parametrize("frames", [-1, 0, 2, 10, 99])
def test_an_impossible_number_of_reference_frames_is_refused(
    sacroplasty: CommandLine, recording: Path, empty: Path, frames: int
) -> None:
    ended = sacroplasty("monitor", recording, "--reference-frames", frames, "--out", empty / "events.json")
    ended.refused("--reference-frames")
    assert is_untouched(empty)
