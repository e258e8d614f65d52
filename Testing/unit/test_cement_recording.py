"""Recordings on disk, their replay, and the commands on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from cement_scene import (
    CENTER,
    PLACES,
    block_anatomy,
    body_line_integrals,
    cannula_line_integrals,
    expose,
    sphere_line_integrals,
    views,
)
from make_dicom import write_xray
from sacroplasty.anatomy.files import write_anatomy
from sacroplasty.cement.leaks import pixel_size_mm
from sacroplasty.cement.monitor import SpreadMonitor
from sacroplasty.cement.recording import Recording, find_views, read_recording, replay, write_recording
from sacroplasty.cement.unplaced_view import PictureMarks
from sacroplasty.cement.zones import make_zones
from sacroplasty.cli import monitor as monitor_command
from sacroplasty.cli import spread as spread_command
from sacroplasty.documents import read_document
from sacroplasty.errors import DocumentError, ImageError, PlanError, SacroplastyError
from sacroplasty.geometry import unit
from sacroplasty.image import read_volume
from sacroplasty.planning.files import write_plan
from sacroplasty.planning.model import Depot, Plan, Trajectory
from sacroplasty.planning.needles import needle
from sacroplasty.xray.distortion import TERMS, Distortion, write_distortion

VIEWS = views(144)
#: Straight behind the tip.
SKIN = [-35.0, -60.0, 10.0]


def record(view: str, leak: bool = False, cannula: bool = False, seed: int = 3) -> Recording:
    """Six frames before the injection, then 0.25 mL more in each; with a leak in the last four."""
    rng = np.random.default_rng(seed)
    geometry = VIEWS[view]
    body = body_line_integrals(geometry)
    if cannula:
        body = body + cannula_line_integrals(geometry, CENTER, unit(np.subtract(SKIN, CENTER)))
    volumes = np.concatenate([np.zeros(6), 0.25 * np.arange(1, 9)])
    frames = []
    for number, volume in enumerate(volumes):
        total = body + (sphere_line_integrals(geometry, CENTER, volume) if volume else 0)
        if leak and number >= 10:
            total = total + sphere_line_integrals(geometry, PLACES["foramen_s1_left"], 0.15)
        frames.append(expose(total, rng))
    return Recording(
        frames=np.stack(frames),
        time_s=0.2 * np.arange(len(frames)),
        frame_rate_hz=5.0,
        geometries=(geometry,),
        pump_volume_ml=volumes,
        air_level=8000.0 * np.exp(4.5),
    )


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A segmented patient with a plan for the left ala, and a recording of two views with a leak."""
    folder = tmp_path_factory.mktemp("case")
    anatomy = block_anatomy()
    hounsfield = np.array([-1000, -40, 400, 400, 400], np.int16)
    ct = anatomy.bones.like(hounsfield[anatomy.bones.voxels])
    anatomy = replace(anatomy, image_hash=ct.content_hash())
    write_anatomy(anatomy, ct, folder / "patient")
    tip = Trajectory(
        side="left",
        technique="short-axis",
        entry_skin=np.array(SKIN),
        entry_bone=np.array([-35.0, -20.0, 10.0]),
        target=CENTER,
        needle=needle(11),
        length_mm=60.0,
        clearance_mm={"sacral_canal": 20.0},
        accepted=True,
        reasons=(),
        depots=(Depot(CENTER, 3.0),),
    )
    write_plan(Plan((tip,), anatomy.image_hash), folder / "patient" / "plan.json")
    for view in VIEWS:
        write_recording(record(view, leak=True, cannula=True), folder / "run" / view)
    return folder


def test_a_recording_survives_the_disk(tmp_path):
    written = record("ap")
    write_recording(written, tmp_path / "ap")
    read = read_recording(tmp_path / "ap")
    assert np.array_equal(read.frames, written.frames)
    assert read.time_s == pytest.approx(written.time_s)
    assert read.pump_volume_ml == pytest.approx(written.pump_volume_ml)
    assert (read.frame_rate_hz, read.air_level) == (5.0, pytest.approx(written.air_level))
    assert np.allclose(read.geometries[0].RASToDetector, written.geometries[0].RASToDetector)
    assert read.reference_frames == 6


def test_geometries_may_differ_from_frame_to_frame(tmp_path):
    written = record("ap")
    moved = replace(written, geometries=(*written.geometries * 13, VIEWS["lateral"]))
    write_recording(moved, tmp_path / "ap")
    read = read_recording(tmp_path / "ap")
    assert np.allclose(read.frame(13).geometry.RASToDetector, VIEWS["lateral"].RASToDetector)
    readings = replay(SpreadMonitor(tip_ras=CENTER), {"ap": read})
    assert [reading.health for reading in readings[-2:]] == ["ok", "C-arm moved (ap)"]


def test_replay_gives_the_pumps_volume():
    readings = replay(SpreadMonitor(tip_ras=CENTER), {view: record(view) for view in VIEWS})
    assert len(readings) == 8
    assert [reading.volume_ml for reading in readings] == pytest.approx(0.25 * np.arange(1, 9), rel=0.03)


def test_replay_finds_the_leak_at_its_second_frame():
    zones = make_zones(block_anatomy(), CENTER, ("left",))
    readings = replay(SpreadMonitor(zones, CENTER), {view: record(view, leak=True) for view in VIEWS})
    # Before a breath was seen it is not known that there is none.
    assert [reading.leak for reading in readings] == [None] * 5 + [True] * 3


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda one: replace(one, time_s=one.time_s[::-1]), "frame 2, at 2.4 s, follows 2.6 s"),
        (lambda one: replace(one, time_s=np.minimum(one.time_s, 1.0)), "frame 7, at 1 s, follows 1 s"),
        (lambda one: replace(one, geometries=(), marks=PictureMarks((500, 3))), "outside the picture"),
        (lambda one: replace(one, time_s=one.time_s[:-1]), "rising times"),
        (lambda one: replace(one, geometries=one.geometries * 2), "one geometry"),
        (lambda one: replace(one, pump_volume_ml=one.pump_volume_ml[:-1]), "pump_volume_ml"),
        (lambda one: replace(one, frames=one.frames[:, :-1]), "do not fit the geometry"),
    ],
)
def test_recordings_that_contradict_themselves_are_refused(tmp_path, spoil, word):
    with pytest.raises(SacroplastyError, match=word):
        write_recording(spoil(record("ap")), tmp_path / "ap")
    assert not (tmp_path / "ap").exists()


def test_a_recording_without_times_goes_by_its_frame_rate(tmp_path):
    write_recording(record("ap"), tmp_path / "ap")
    document = json.loads((tmp_path / "ap" / "recording.json").read_text())
    del document["time_s"]
    (tmp_path / "ap" / "recording.json").write_text(json.dumps(document))
    read = read_recording(tmp_path / "ap")
    assert read.time_s == pytest.approx(record("ap").time_s)
    assert read.notes == ("no times are recorded: 5 frames a second are taken",)


def test_a_recording_of_colors_is_refused_and_one_of_equal_colors_read(tmp_path):
    written = record("ap")
    write_recording(written, tmp_path / "ap")
    for shade, of in ((1, "grey"), (2, "color")):
        colors = np.stack([written.frames, written.frames // shade, written.frames], axis=-1)
        sitk.WriteImage(sitk.GetImageFromArray(colors, isVector=True), str(tmp_path / "ap" / "frames.mha"))
        if of == "grey":
            assert np.array_equal(read_recording(tmp_path / "ap").frames, written.frames)
    with pytest.raises(ImageError, match=r"frames.mha.*in color"):
        read_recording(tmp_path / "ap")


def dicom_run(folder, count=14, **tags):
    """The recording as a C-arm stores it: frames in one file, nothing said of the pump."""
    write_xray(folder / "run.dcm", record("ap").frames[:count], **tags)
    return folder / "run.dcm"


def test_a_dicom_run_is_watched_in_the_picture_alone(tmp_path):
    run = dicom_run(tmp_path, FrameTime=200.0)
    tip, pixel_mm = VIEWS["ap"].project(CENTER), pixel_size_mm(VIEWS["ap"], CENTER)
    marks = ["--tip-pixel", *map(str, tip), "--pixel-mm", str(pixel_mm), "--reference-frames", "6"]
    result = CliRunner().invoke(monitor_command.command, [str(run), *marks, "--json"], catch_exceptions=False)
    summary = json.loads(result.stdout)
    assert summary["frames"] == 8 and summary["blind_frames"] == 0
    assert summary["volume_ml"] == pytest.approx(2.0, rel=0.04)
    assert summary["leaks_judged"] is False
    document = read_document(tmp_path / "events.json", "events")
    assert document["frames"][-1]["concentricity"] == pytest.approx(1.0, abs=0.06)
    assert any("whether and where cement leaks" in what for what in document["cannot_tell"])


def test_distortion_is_taken_out_of_a_recording(tmp_path):
    write_recording(record("ap"), tmp_path / "ap")
    # Everything is seen 3 columns too far right.
    shift = np.zeros((2, TERMS))
    shift[0, 0] = 3 / 72
    write_distortion(Distortion((144, 144), shift, 1.0, 0.1, 100), tmp_path / "distortion.json")
    arguments = [str(tmp_path / "ap"), "--distortion", str(tmp_path / "distortion.json"), "--json"]
    result = CliRunner().invoke(monitor_command.command, arguments, catch_exceptions=False)
    assert any("distortion is taken out" in note for note in json.loads(result.stdout)["notes"])
    corrected = monitor_command._undistorted(record("ap"), tmp_path / "distortion.json").frames
    assert np.array_equal(corrected[..., :-3], record("ap").frames[..., 3:]) and not corrected[..., -2:].any()
    write_distortion(Distortion((144, 100), shift, 1.0, 0.1, 100), tmp_path / "distortion.json")
    with pytest.raises(ImageError, match="proportions"):
        CliRunner().invoke(monitor_command.command, arguments, catch_exceptions=False)


def test_dicom_frames_in_single_files_without_times(tmp_path):
    for number, frame in enumerate(record("ap").frames[:5]):
        write_xray(tmp_path / f"{number:03d}.dcm", frame)
    assert find_views(tmp_path) == {tmp_path.name: tmp_path}
    read = read_recording(tmp_path)
    assert read.frames.shape == (5, 144, 144) and read.geometries == ()
    assert any("no times are recorded" in note for note in read.notes)
    write_xray(tmp_path / "005.dcm", record("ap").frames[5][:100])
    with pytest.raises(ImageError, match="144 x 100 and 144 x 144"):
        read_recording(tmp_path)


def test_one_frame_is_no_run(tmp_path):
    run = dicom_run(tmp_path, count=1)
    result = CliRunner().invoke(monitor_command.command, [str(run)])
    assert isinstance(result.exception, ImageError) and "1 of 1 frames" in str(result.exception)
    assert not (tmp_path / "events.json").exists()


def test_marks_are_for_one_view_without_geometry(case):
    result = CliRunner().invoke(monitor_command.command, [str(case / "run"), "--pixel-mm", "0.5"])
    assert isinstance(result.exception, ImageError) and "one view without geometry" in str(result.exception)


def test_damaged_recordings_are_refused(tmp_path):
    write_recording(record("ap"), tmp_path / "ap")
    (tmp_path / "ap" / "frames.mha").write_bytes(b"not an image")
    with pytest.raises(ImageError, match="no image of a known kind"):
        read_recording(tmp_path / "ap")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DocumentError, match="0 recorded views"):
        find_views(tmp_path / "empty")
    with pytest.raises(ImageError, match="before the injection"):
        replay(SpreadMonitor(), {"ap": record("ap")}, reference_frames=2)


def test_monitor_command_writes_the_leak(case):
    arguments = [str(case / "run"), "--anatomy", str(case / "patient"), "--plan", str(case / "patient" / "plan.json")]
    result = CliRunner().invoke(monitor_command.command, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary["volume_ml"] == pytest.approx(2.15, rel=0.04)
    assert summary["first_stop"]["level"] == "leak"
    assert summary["first_stop"]["route"] == "foramen_s1_left"
    document = read_document(case / "run" / "events.json", "events")
    assert len(document["frames"]) == 8
    leak = next(event for event in document["events"] if event["level"] == "leak")
    assert np.linalg.norm(np.array(leak["position_ras"]) - PLACES["foramen_s1_left"]) < 6.0
    # One picture of each view, as the leak was told.
    pictures = [Path(picture) for picture in summary["pictures"]]
    assert {picture.name for picture in pictures} == {f"events-leak-{view}.png" for view in VIEWS}
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_monitor_command_without_anatomy_says_that_leaks_were_not_judged(case, tmp_path):
    arguments = [str(case / "run" / "ap"), "--out", str(tmp_path / "events.json")]
    result = CliRunner().invoke(monitor_command.command, arguments, catch_exceptions=False)
    assert "leaks were not judged" in result.stdout
    assert (tmp_path / "events.json").exists()


def test_spread_command_predicts_the_planned_volume(case, tmp_path):
    arguments = [str(case / "patient"), "--out", str(tmp_path / "spread"), "--json"]
    result = CliRunner().invoke(spread_command.command, arguments, catch_exceptions=False)
    (tip,) = json.loads(result.stdout)["tips"]
    assert tip["volume_ml"] == 3.0
    # The ala ends 8 mm medial of the tip, where 1 mm more still counts to it; a ball of 3 mL has a radius of 9.4 mm.
    assert 0.9 < tip["in_plan_fraction"] <= 1.0
    # The foramen begins 9.5 mm from the tip; a ball that leaves 2 mm to it holds 1.5 mL in bone.
    assert tip["leak_risk"]["foramen_s1_left"]["volume_at_risk_ml"] == pytest.approx(1.5, abs=0.3)
    cement = read_volume(tmp_path / "spread" / tip["cement_file"])
    assert cement.voxels.sum(dtype=float) * cement.voxel_volume_ml == pytest.approx(3.0, abs=0.01)
    read_document(tmp_path / "spread" / "spread.json", "spread")


@pytest.mark.parametrize("volume", ["0", "-1", "nan", "99"])
def test_spread_command_refuses_impossible_volumes(case, tmp_path, volume):
    arguments = [str(case / "patient"), "--volume", volume, "--out", str(tmp_path / "spread")]
    result = CliRunner().invoke(spread_command.command, arguments)
    assert isinstance(result.exception, PlanError) and "--volume" in str(result.exception)
    assert not (tmp_path / "spread").exists()


def test_spread_command_writes_probabilities_depots_and_pressures(case, tmp_path):
    arguments = [str(case / "patient"), "--depot", "0:1.5", "--depot", "12:1", "--gauge", "13", "--members", "3"]
    result = CliRunner().invoke(
        spread_command.command, [*arguments, "--out", str(tmp_path / "spread")], catch_exceptions=False
    )
    assert "13G cannula needs more than 4000 kPa" in result.stdout
    document = read_document(tmp_path / "spread" / "spread.json", "spread")
    (tip,) = document["tips"]
    assert document["ensemble"] == {"members": 3, "seed": 1}
    first, second = (np.array(depot["tip"]) for depot in tip["depots"])
    # Drawn back towards the skin, which is straight behind this tip.
    assert second - first == pytest.approx([0, -12.0, 0], abs=0.5)
    assert tip["line_pressure_kpa"]["begin"] < 4000.0 < tip["line_pressure_kpa"]["end"]
    assert tip["plunger_force_n"]["end"] > tip["plunger_force_n"]["begin"]
    probability = read_volume(tmp_path / "spread" / tip["probability_file"])
    assert probability.voxels.max() == 1.0 and probability.voxels.min() == 0.0
    assert tip["leak_risk"]["vein"]["distance_mm"] is None


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--depot", "5"], "is no depot"),
        (["--depot", "-5:1"], "-5"),
        (["--depot", "0:1", "--volume", "2"], "either --volume or --depot"),
        (["--depot", "0:0"], "positive volume"),
        (["--cement", "gypsum"], "neither a file nor one of generic-high-viscosity"),
        (["--rate", "-1"], "--rate"),
        (["--balloon", "nan"], "--balloon"),
        (["--pressure-limit", "0"], "--pressure-limit"),
        (["--members", "0"], "members"),
    ],
)
def test_spread_command_refuses_what_cannot_be(case, tmp_path, options, word):
    arguments = [str(case / "patient"), *options, "--out", str(tmp_path / "spread")]
    result = CliRunner().invoke(spread_command.command, arguments)
    assert result.exit_code != 0
    assert word in result.output + str(result.exception)
    assert not (tmp_path / "spread").exists()


def test_commands_refuse_what_is_not_there(tmp_path):
    for command in (monitor_command.command, spread_command.command):
        result = CliRunner().invoke(command, [str(tmp_path / "nowhere")])
        assert isinstance(result.exception, SacroplastyError)
