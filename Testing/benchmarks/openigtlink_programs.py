"""C++ programs on Debian's OpenIGTLink library: its own examples, and the peer of the benchmarks."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

EXAMPLES = Path("/usr/share/doc/openigtlink-examples/examples")
_HEADERS = Path("/usr/include/openigtlink")


def missing_packages() -> list[str]:
    """Debian packages that are needed and not there."""
    there = {
        "g++": shutil.which("g++") is not None,
        "libopenigtlink-dev": _HEADERS.is_dir(),
        "openigtlink-examples": EXAMPLES.is_dir(),
    }
    return [name for name, is_there in there.items() if not is_there]


def program(source: Path) -> Path:
    """The program made of one source file. It is made once and kept in the temporary folder of this user."""
    folder = Path(tempfile.gettempdir()) / f"sacroplasty-openigtlink-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    made = folder / f"{source.stem}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if not made.exists():
        partial = made.with_suffix(f".{os.getpid()}")
        libraries = ["-lOpenIGTLink", "-lpthread"]
        command = ["g++", "-O2", "-w", f"-I{_HEADERS}", "-o", str(partial), str(source), *libraries]
        subprocess.run(command, check=True)
        partial.replace(made)
    return made


def example(name: str) -> Path:
    """A program of the package's examples by the path of its source, such as `Tracker/TrackerServer`."""
    return program(EXAMPLES / f"{name}.cxx")
