"""A tool that circles about its resting tip, and recordings of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sacroplasty.geometry import rigid, rotation_about

TIP = np.array([3.0, -1.5, 180.0])
PIVOT = np.array([40.0, 25.0, -60.0])


def pivoting(
    rng: np.random.Generator,
    count: int = 300,
    tilt_deg: float = 35.0,
    roll_deg: float = 20.0,
    noise_mm: float = 0.1,
    noise_deg: float = 0.02,
) -> np.ndarray:
    """StylusToReference of a tool that circles about its resting tip."""
    poses = []
    for number in range(count):
        turn = 2 * np.pi * number / 100
        tilt = tilt_deg * (0.6 + 0.4 * np.sin(number / 37))
        rotation = rotation_about([np.cos(turn), np.sin(turn), 0], tilt) @ rotation_about(
            [0, 0, 1], roll_deg * np.sin(turn)
        )
        rotation = rotation_about(rng.normal(size=3), rng.normal() * noise_deg) @ rotation
        poses.append(rigid(rotation, PIVOT - rotation @ TIP + rng.normal(size=3) * noise_mm))
    return np.array(poses)


def write_recording(path: Path, frames: list[dict[str, object]]) -> None:
    lines = ["ObjectType = Image", "NDims = 3", f"DimSize = 0 0 {len(frames)}"]
    for number, frame in enumerate(frames):
        for key, value in frame.items():
            text = " ".join(f"{item:.6g}" for item in np.ravel(value)) if isinstance(value, np.ndarray) else value
            lines.append(f"Seq_Frame{number:04d}_{key} = {text}")
    path.write_bytes(("\n".join([*lines, "ElementDataFile = LOCAL"]) + "\n").encode() + b"\x00\xff\n\x80")
