"""Bones by TotalSegmentator, run as a program of its own when it is installed. Never imported, never installed here.

The command line, the table of names in the result and the output that is read for progress and errors are those of
version 2.18.0 (bin/TotalSegmentator.py, nnunet.py, nifti_ext_header.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..clock import Clock, WallClock
from ..errors import AnatomyError
from ..image import Volume, check_ct, read_volume, write_volume
from .bones import LabelledBones, bones_from_labels
from .label_files import names_in_nifti
from .structure_names import structure_of

#: The version whose command line, classes and output were read.
CHECKED_VERSION = "2.18.0"
#: Classes of its task `total` that are asked for. The network's parts that hold none of them are not run.
CLASSES = (
    *("sacrum", "vertebrae_S1", "vertebrae_L5", "hip_left", "hip_right", "spinal_cord"),
    *("iliac_artery_left", "iliac_artery_right", "iliac_vena_left", "iliac_vena_right"),
)
NEEDED = ("sacrum", "l5", "hip_left", "hip_right")
QUALITIES, DEVICES = ("fast", "normal"), ("gpu", "cpu")
_HOW_TO_INSTALL = (
    f"pip install TotalSegmentator=={CHECKED_VERSION} (Apache-2.0; with PyTorch several GB, and weights of the task "
    "total on first use, open for any use), better in a virtual environment of its own whose bin folder is on PATH"
)
_HOW_TO_GET_WEIGHTS = (
    "connect once and run totalseg_download_weights -t total_fast (normal quality: total), or copy the folder "
    "~/.totalsegmentator from a computer that has them"
)
_POLL_S = 0.2
_START_LIMIT_S = 300.0
#: What a program gets to clean up after itself before it is killed.
_GRACE_S = 3.0

_NETWORK = re.compile(
    r"Max retries exceeded|Name(?:Resolution)?Error.*resolve|Failed to establish a new connection|ConnectionError|"
    r"Network is unreachable|ConnectTimeout|getaddrinfo failed|Temporary failure in name resolution|ProxyError"
)
_MEMORY = re.compile(r"out of memory|MemoryError|can't allocate memory|Unable to allocate|bad_alloc|background worker")
_BROKEN_WEIGHTS = re.compile(
    r"No such file or directory: .*(?:checkpoint_final\.pth|plans\.json|dataset\.json)|BadZipFile"
)
#: Exit codes of a program that the system killed, as it does when memory runs out.
_KILLED = (-9, 137)
_ERROR_LINE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Exit|Warning)\b.*|^ERROR\b.*")
_NOISE = re.compile(r"^\s*$|\d+%\||resource_tracker|warnings?\.warn|^\s+|FutureWarning|UserWarning|DeprecationWarning")


class TotalSegmentatorError(AnatomyError):
    """TotalSegmentator is not there, did not run to its end, or left something else than was asked for."""


@dataclass(frozen=True)
class Installation:
    """How to start TotalSegmentator: the words of a command line before its options."""

    command: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """How it shall run.

    Attributes:
        quality: `fast` (network of 3 mm voxels) or `normal` (1.5 mm; on a CPU tens of minutes).
        device: `gpu` falls back to the CPU by itself where there is none; `cpu` leaves a GPU alone.
        time_limit_s: after which it is ended.
    """

    quality: str = "fast"
    device: str = "gpu"
    time_limit_s: float = 7200.0


class Runner(Protocol):
    """Runs a program to its end. Whatever ends it early, an exception out of `told` included, must leave no process."""

    def __call__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        told: Callable[[str], None],
        time_limit_s: float,
    ) -> tuple[int, str]:
        """Run and wait.

        Args:
            told: called several times a second with what the program printed since the last call, often nothing.

        Returns:
            The exit code (negative: the signal that ended it) and all that it printed.

        Raises:
            TimeoutError: when the time is over.
            OSError: when it cannot be started.
        """
        ...


class ProcessGroup:
    """The Runner of a real machine: a process group that is ended as a whole, workers included."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or WallClock()

    def __call__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        told: Callable[[str], None],
        time_limit_s: float,
    ) -> tuple[int, str]:
        with tempfile.TemporaryDirectory(prefix="sacroplasty-output-", ignore_cleanup_errors=True) as place:
            # A file and no pipe: nothing blocks when it is full, on any system.
            path = Path(place) / "output.txt"
            with open(path, "wb") as written, open(path, encoding="utf-8", errors="replace", newline="") as printed:
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=written,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                    start_new_session=True,
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )
                began, text = self._clock.now(), ""
                try:
                    while True:
                        ended = _wait(process, _POLL_S)
                        new = printed.read()
                        text += new
                        told(new)
                        if ended:
                            return process.returncode, text
                        if self._clock.now() - began > time_limit_s:
                            raise TimeoutError
                finally:
                    _end_group(process)


def find_totalsegmentator(python: str = sys.executable) -> Installation | None:
    """TotalSegmentator where it is installed: on PATH, beside an interpreter, or as its module; None if nowhere.

    Args:
        python: the interpreter whose folder of scripts, and whose modules if it is the running one, are looked at.
    """
    for folders in (None, str(Path(python).parent)):
        script = shutil.which("TotalSegmentator", path=folders)
        if script is not None:
            return Installation((script,))
    if python == sys.executable and importlib.util.find_spec("totalsegmentator") is not None:
        return Installation((python, "-m", "totalsegmentator.bin.TotalSegmentator"))
    return None


def bones_by_totalsegmentator(
    ct: Volume,
    installation: Installation | None,
    options: Options | None = None,
    progress: Callable[[float], None] | None = None,
    run: Runner | None = None,
) -> LabelledBones:
    """Run TotalSegmentator on a CT and read its bones.

    Args:
        ct: in Hounsfield units.
        installation: see `find_totalsegmentator`.
        progress: called several times a second with the fraction done; an exception from it cancels: the program with
            all its workers is ended and its files are removed.
        run: starts the program; a ProcessGroup by default.

    Raises:
        TotalSegmentatorError: when it is not installed, too old, failed, took too long, or has other classes.
        AnatomyError: when the bones it found are not those of a sacrum in view.
        ImageError: when `ct` is no CT.
    """
    if installation is None:
        raise TotalSegmentatorError(f"TotalSegmentator is not installed; {_HOW_TO_INSTALL}")
    chosen, told, runner = options or Options(), progress or (lambda fraction: None), run or ProcessGroup()
    check_ct(ct, "the CT")
    with tempfile.TemporaryDirectory(prefix="sacroplasty-totalsegmentator-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        # Its own temporary files go with ours, however it ends.
        environment = {**os.environ, "TMPDIR": place, "TEMP": place, "TMP": place, "PYTHONUNBUFFERED": "1"}
        told(0.0)
        version = _version(installation, environment, runner, lambda text: told(0.0))
        write_volume(ct, folder / "ct.nii")
        result = folder / "bones.nii.gz"
        words = ["-i", str(folder / "ct.nii"), "-o", str(result), "--ml", "--device", chosen.device]
        words += ["--fast"] if chosen.quality == "fast" else []
        output = RunProgress()
        code, text = _run(
            [*installation.command, *words, "--roi_subset", *CLASSES],
            environment,
            runner,
            lambda new: told(output.fraction(new)),
            chosen.time_limit_s,
        )
        if code != 0 or not result.is_file():
            raise TotalSegmentatorError(_reason(code, text))
        # The table in the file counts, not this program's list: numbers have changed between versions.
        table = names_in_nifti(result)
        names = {value: name for value, text in table.items() if (name := structure_of(text)) is not None}
        missing = [name for name in NEEDED if name not in names.values()]
        if missing:
            raise TotalSegmentatorError(
                f"TotalSegmentator {version} has other classes than version {CHECKED_VERSION}, which is known here: no "
                f"{', '.join(missing)} in the table of its result; install that version, or give its label map with "
                "--labels and --mapping"
            )
        labelled = bones_from_labels(ct, read_volume(result), names, f"TotalSegmentator {version}")
    told(1.0)
    return replace(labelled, method=f"TotalSegmentator {version}, {chosen.quality}")


class RunProgress:
    """How far TotalSegmentator is, by what it prints: a rough pass that crops, then one pass for each network."""

    def __init__(self) -> None:
        self._first, self._last, self._fraction, self._passes = 0.0, 0.02, 0.0, 0

    def fraction(self, text: str) -> float:
        """Fraction done after these further words; it never falls."""
        for line in re.split(r"[\r\n]+", text):
            part = re.match(r"Predicting part (\d+) of (\d+)", line)
            if "Generating rough segmentation" in line:
                self._first, self._last = 0.02, 0.2
            elif part:
                number, count = int(part[1]), max(int(part[2]), 1)
                self._first, self._last = 0.2 + 0.7 * (number - 1) / count, 0.2 + 0.7 * number / count
            elif line.startswith("Predicting..."):
                self._passes += 1
                if self._passes > 1:
                    self._first, self._last = 0.2, 0.9
            elif line.startswith("Saving"):
                self._first = self._last = 0.95
            bar = re.search(r"(\d+)%\|", line)
            inside = int(bar[1]) / 100 if bar and "Downloading" not in line else 0.0
            self._fraction = max(self._fraction, self._first + (self._last - self._first) * min(inside, 1.0))
        return min(self._fraction, 0.95)


def _version(
    installation: Installation, environment: Mapping[str, str], run: Runner, told: Callable[[str], None]
) -> str:
    code, text = _run([*installation.command, "--version"], environment, run, told, _START_LIMIT_S)
    found = re.findall(r"^v?(\d+\.\d+(?:\.\d+)*)\s*$", text, re.MULTILINE)
    if code != 0 or not found:
        raise TotalSegmentatorError(f"{_reason(code, text)} (asked for its version)")
    if int(found[-1].split(".")[0]) < int(CHECKED_VERSION.split(".")[0]):
        raise TotalSegmentatorError(
            f"TotalSegmentator {found[-1]} is too old: its classes have other numbers and no S1; {_HOW_TO_INSTALL}"
        )
    return str(found[-1])


def _run(
    command: Sequence[str],
    environment: Mapping[str, str],
    run: Runner,
    told: Callable[[str], None],
    time_limit_s: float,
) -> tuple[int, str]:
    try:
        return run(command, environment, told, time_limit_s)
    except TimeoutError:
        raise TotalSegmentatorError(
            f"TotalSegmentator was ended after {time_limit_s / 60:.0f} minutes; take the fast quality, a GPU, or "
            "another method"
        ) from None
    except OSError as error:
        raise TotalSegmentatorError(f"{command[0]} cannot be started: {error.strerror or error}") from None


def _reason(code: int, text: str) -> str:
    """One line that says why it failed."""
    if _NETWORK.search(text):
        return f"TotalSegmentator's weights are not on this computer and cannot be fetched; {_HOW_TO_GET_WEIGHTS}"
    if _BROKEN_WEIGHTS.search(text):
        return (
            "TotalSegmentator's weights are damaged or incomplete; remove ~/.totalsegmentator/nnunet/results, then "
            f"{_HOW_TO_GET_WEIGHTS}"
        )
    if _MEMORY.search(text) or code in _KILLED:
        return "TotalSegmentator ran out of memory; take the fast quality, crop the CT to the pelvis, or close programs"
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if not _NOISE.search(line)]
    said = next(
        (line for line in reversed(lines) if _ERROR_LINE.match(line)), lines[-1] if lines else "it said nothing"
    )
    ended = "ended without a result" if code == 0 else f"failed (exit code {code})"
    return f"TotalSegmentator {ended}: {said[:200]}"


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started, also workers that outlived it."""
    if sys.platform == "win32":
        if process.poll() is None:
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
            process.wait()
        return
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            _wait(process, _GRACE_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
