"""TotalSegmentator as a program of its own: found, run, watched, ended; played by a small script."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from nifti_labels import write_with_names
from sacroplasty.anatomy import bone_sources
from sacroplasty.anatomy.bone_sources import BoneSource, find_bones
from sacroplasty.anatomy.totalsegmentator import (
    CLASSES,
    Installation,
    Options,
    ProcessGroup,
    TotalSegmentatorError,
    bones_by_totalsegmentator,
    find_totalsegmentator,
)
from sacroplasty.errors import AnatomyError
from sacroplasty.image import write_volume
from simple_sacrum import SimpleSacrum, simple_sacrum

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the player is a script with a #! line")

#: Numbers and names of task `total` of version 2.18.0 (totalsegmentator/map_to_binary.py), and what is not the S1 body.
TABLE = {25: "sacrum", 26: "vertebrae_S1", 27: "vertebrae_L5", 77: "hip_left", 78: "hip_right", 79: "spinal_cord"}
_START = """#!{python}
import json, os, shutil, subprocess, sys, time
if "--version" in sys.argv:
    print("{version}")
    sys.exit(0)
notes = {notes!r}
result = {result!r}
output = sys.argv[sys.argv.index("-o") + 1]
json.dump({{"argv": sys.argv[1:], "temporary": os.environ["TMPDIR"]}}, open(notes, "w"))
"""


@pytest.fixture(scope="module")
def truth() -> SimpleSacrum:
    return simple_sacrum(spacing_mm=2.5)


@pytest.fixture(scope="module")
def result(truth: SimpleSacrum, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("result") / "bones.nii.gz"
    write_with_names(truth.bones.like(np.array([0, 25, 27, 77, 78], np.uint8)[truth.bones.voxels]), TABLE, path)
    return path


class Player:
    """Writes scripts that behave as TotalSegmentator, and what they were called with."""

    def __init__(self, folder: Path, result: Path) -> None:
        self.folder, self.notes, self.result = folder, folder / "notes.json", result

    def __call__(self, body: str, version: str = "2.18.0") -> Installation:
        script = self.folder / "TotalSegmentator"
        start = _START.format(python=sys.executable, version=version, notes=str(self.notes), result=str(self.result))
        script.write_text(start + body)
        script.chmod(0o755)
        return Installation((str(script),))

    def noted(self) -> dict:
        return json.loads(self.notes.read_text())


@pytest.fixture
def play(tmp_path: Path, result: Path) -> Player:
    return Player(tmp_path, result)


GOOD = """
print("Generating rough segmentation for cropping...", flush=True)
print("Predicting...", flush=True)
print("\\r 50%|#####     | 1/2", end="", file=sys.stderr, flush=True)
time.sleep(0.3)
print("Predicting part 2 of 3 ...", flush=True)
time.sleep(0.3)
print("Saving segmentations...", flush=True)
open(os.path.join(os.environ["TMPDIR"], "left behind"), "w").close()
shutil.copy(result, output)
"""


def test_a_run_gives_the_bones_by_the_names_in_its_result(truth: SimpleSacrum, play: Player) -> None:
    fractions: list[float] = []
    labelled = bones_by_totalsegmentator(truth.ct, play(GOOD), progress=fractions.append)
    assert np.array_equal(labelled.bones.voxels, truth.bones.voxels)
    assert labelled.method == "TotalSegmentator 2.18.0, fast"
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    # Half of the rough pass, then the second of three networks.
    assert any(0.05 < fraction < 0.2 for fraction in fractions)
    assert any(0.4 < fraction < 0.5 for fraction in fractions)
    assert not Path(play.noted()["temporary"]).exists()


def test_the_options_reach_its_command_line(truth: SimpleSacrum, play: Player) -> None:
    bones_by_totalsegmentator(truth.ct, play(GOOD), Options("normal", "cpu"))
    words = play.noted()["argv"]
    assert "--ml" in words and "--fast" not in words
    assert words[words.index("--device") + 1] == "cpu"
    assert tuple(words[words.index("--roi_subset") + 1 :]) == CLASSES
    bones_by_totalsegmentator(truth.ct, play(GOOD), Options("fast"))
    assert "--fast" in play.noted()["argv"]


def test_other_numbers_in_a_later_version_do_not_matter_but_other_names_do(
    truth: SimpleSacrum, play: Player, tmp_path: Path
) -> None:
    table = {5: "sacrum", 9: "vertebrae_L5", 25: "hip_left", 26: "hip_right"}
    play.result = tmp_path / "renumbered.nii.gz"
    write_with_names(truth.bones.like(np.array([0, 5, 9, 25, 26], np.uint8)[truth.bones.voxels]), table, play.result)
    labelled = bones_by_totalsegmentator(truth.ct, play(GOOD, version="3.0.1"))
    assert np.array_equal(labelled.bones.voxels, truth.bones.voxels)

    write_with_names(truth.bones, {1: "sacrum_and_coccyx_v4", 2: "vertebrae_L5"}, play.result)
    with pytest.raises(TotalSegmentatorError, match=r"4\.2\.0 has other classes than version 2\.18\.0.*no sacrum"):
        bones_by_totalsegmentator(truth.ct, play(GOOD, version="4.2.0"))
    write_volume(truth.bones, play.result)
    with pytest.raises(TotalSegmentatorError, match="other classes"):
        bones_by_totalsegmentator(truth.ct, play(GOOD))


def test_the_first_version_is_refused_before_it_runs(truth: SimpleSacrum, play: Player) -> None:
    with pytest.raises(TotalSegmentatorError, match=r"1\.5\.7 is too old"):
        bones_by_totalsegmentator(truth.ct, play(GOOD, version="1.5.7"))
    assert not play.notes.exists()


def test_when_it_is_not_installed_one_line_says_how_to_install_it(
    truth: SimpleSacrum, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_totalsegmentator(str(tmp_path / "python")) is None
    with pytest.raises(
        TotalSegmentatorError, match=r"pip install TotalSegmentator==2\.18\.0 \(Apache-2\.0.*GB"
    ) as said:
        bones_by_totalsegmentator(truth.ct, None)
    assert "\n" not in str(said.value)


def test_it_is_found_on_the_path_and_beside_the_interpreter(
    play: Player, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installation = play(GOOD)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_totalsegmentator() == installation
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_totalsegmentator(str(tmp_path / "python")) == installation


_WORKING = """
beat = sys.argv[0] + ".beat"
subprocess.Popen([sys.executable, "-c",
    "import time\\nwhile True:\\n open(%r, 'a').write('.')\\n time.sleep(0.02)" % beat])
time.sleep(60)
"""


def _wait_for(path: Path) -> None:
    until = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_cancelling_ends_its_workers_too_and_leaves_no_file(
    truth: SimpleSacrum, play: Player, error: type[BaseException]
) -> None:
    installation = play(_WORKING)
    beat = play.folder / "TotalSegmentator.beat"

    def cancel(fraction: float) -> None:
        if beat.exists():
            raise error

    with pytest.raises(error):
        bones_by_totalsegmentator(truth.ct, installation, progress=cancel)
    time.sleep(0.1)
    beats = beat.stat().st_size
    time.sleep(0.3)
    assert beat.stat().st_size == beats
    assert not Path(play.noted()["temporary"]).exists()


def test_it_is_ended_when_its_time_is_over(truth: SimpleSacrum, play: Player) -> None:
    class Hurried:
        """Minutes pass at each look, but only once the worker is at work."""

        seconds = 0.0

        def now(self) -> float:
            if (play.folder / "TotalSegmentator.beat").exists():
                self.seconds += 400.0
            return self.seconds

    with pytest.raises(TotalSegmentatorError, match="was ended after 10 minutes"):
        bones_by_totalsegmentator(truth.ct, play(_WORKING), Options(time_limit_s=600.0), run=ProcessGroup(Hurried()))
    time.sleep(0.1)
    beats = (play.folder / "TotalSegmentator.beat").stat().st_size
    time.sleep(0.3)
    assert (play.folder / "TotalSegmentator.beat").stat().st_size == beats


def _ends_with(code: int, text: str) -> Callable[..., tuple[int, str]]:
    def run(
        command: Sequence[str], environment: Mapping[str, str], told: Callable[[str], None], time_limit_s: float
    ) -> tuple[int, str]:
        return (0, "2.18.0\n") if "--version" in command else (code, text)

    return run


_NO_NETWORK = """Downloading model for Task 297 ...
Traceback (most recent call last):
  File "/x/requests/adapters.py", line 1, in send
requests.exceptions.ConnectionError: HTTPSConnectionPool(host='github.com', port=443): Max retries exceeded with url: /x
"""
_CRASH = """/x/torch/cuda.py:1: UserWarning: old driver
  warnings.warn("old")
 10%|#         | 1/10
Traceback (most recent call last):
  File "/x/nnunet.py", line 5, in predict
    raise ValueError
ValueError: could not broadcast input array
/x/multiprocessing/resource_tracker.py:224: UserWarning: resource_tracker: leaked semaphore objects
"""


@pytest.mark.parametrize(
    ("code", "text", "message"),
    [
        (
            1,
            _NO_NETWORK,
            "weights are not on this computer and cannot be fetched.*totalseg_download_weights -t total_fast",
        ),
        (1, "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "ran out of memory"),
        (-9, "Predicting...\n", "ran out of memory"),
        (
            1,
            "FileNotFoundError: [Errno 2] No such file or directory: '/x/checkpoint_final.pth'",
            "damaged or incomplete",
        ),
        (1, _CRASH, r"failed \(exit code 1\): ValueError: could not broadcast input array$"),
        (1, "ERROR: Invalid license number\n", "ERROR: Invalid license number$"),
        (3, "", r"failed \(exit code 3\): it said nothing"),
        (0, "Saving segmentations...\n", "ended without a result: Saving segmentations...$"),
    ],
)
def test_each_way_to_fail_is_said_in_one_line(truth: SimpleSacrum, code: int, text: str, message: str) -> None:
    with pytest.raises(TotalSegmentatorError, match=message) as said:
        bones_by_totalsegmentator(truth.ct, Installation(("x",)), run=_ends_with(code, text))
    assert "\n" not in str(said.value)


def test_a_program_that_cannot_be_started_is_named(truth: SimpleSacrum) -> None:
    with pytest.raises(TotalSegmentatorError, match="/nowhere/TotalSegmentator cannot be started: No such file"):
        bones_by_totalsegmentator(truth.ct, Installation(("/nowhere/TotalSegmentator",)))


def test_auto_takes_the_label_map_before_totalsegmentator_and_says_why(
    truth: SimpleSacrum, play: Player, tmp_path: Path
) -> None:
    installation = play(GOOD)
    write_volume(truth.bones, tmp_path / "labels.nrrd")
    given = find_bones(truth.ct, BoneSource(labels=tmp_path / "labels.nrrd"), find=lambda: installation)
    assert given.method == "labels (bones); chosen as a label map was given"
    found = find_bones(truth.ct, BoneSource(), find=lambda: installation)
    assert found.method == ("TotalSegmentator 2.18.0, fast; chosen as no label map given, TotalSegmentator installed")
    asked = find_bones(truth.ct, BoneSource("totalsegmentator"), find=lambda: installation)
    assert asked.method == "TotalSegmentator 2.18.0, fast"


def test_auto_turns_to_the_atlas_when_totalsegmentator_is_missing_or_fails(
    truth: SimpleSacrum, play: Player, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_volume(truth.bones, tmp_path / "labels.nrrd")
    stand_in = find_bones(truth.ct, BoneSource("labels", tmp_path / "labels.nrrd"))
    monkeypatch.setattr(bone_sources, "_by_atlas", lambda ct, progress: stand_in)
    missing = find_bones(truth.ct, BoneSource(), find=lambda: None)
    assert missing.method.endswith("chosen as no label map given, TotalSegmentator not installed")
    failed = find_bones(truth.ct, BoneSource(), find=lambda: play("sys.exit('ValueError: no luck')"))
    assert failed.method.endswith("chosen as TotalSegmentator failed")
    assert "ValueError: no luck" in failed.warnings[-1]
    with pytest.raises(TotalSegmentatorError, match="no luck"):
        find_bones(truth.ct, BoneSource("totalsegmentator"), find=lambda: play("sys.exit('ValueError: no luck')"))


def test_a_choice_that_contradicts_itself_is_refused(truth: SimpleSacrum) -> None:
    for source, message in (
        (BoneSource("labels"), "give --labels FILE"),
        (BoneSource("atlas", Path("labels.nrrd")), "leave out --labels"),
        (BoneSource(mapping={"1": "sacrum"}), "give it with --labels"),
        (BoneSource("guess"), "guess is no method"),
    ):
        with pytest.raises(AnatomyError, match=message):
            find_bones(truth.ct, source, find=lambda: None)
