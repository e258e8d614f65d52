"""What the simulators' processes tell each other: where cannulas and C-arm are, and how much cement has flowed.

Each process writes its own small file, replaced as a whole, and reads the others'. Nothing of it goes over a device
link.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..geometry import FloatArray


@dataclass(frozen=True)
class HandState:
    """What the simulated surgeon holds and has left in the patient.

    Attributes:
        TrocarToRAS: pose of the trocar's tip in the hand, None when there is none.
        cannulas: pose of the tip of each cannula left in place, by side.
        connected: the side to whose cannula the pump line leads.
    """

    TrocarToRAS: FloatArray | None
    cannulas: dict[str, FloatArray]
    connected: str | None


NOTHING_IN_HAND = HandState(None, {}, None)


class LiveFolder:
    """The files that the processes of one world share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write_hand(self, state: HandState) -> None:
        record = {
            "TrocarToRAS": None if state.TrocarToRAS is None else state.TrocarToRAS.tolist(),
            "cannulas": {side: matrix.tolist() for side, matrix in state.cannulas.items()},
            "connected": state.connected,
        }
        self._write("hand.json", record)

    def read_hand(self) -> HandState:
        record = self._read("hand.json")
        if record is None:
            return NOTHING_IN_HAND
        trocar = record["TrocarToRAS"]
        cannulas = {side: np.array(matrix) for side, matrix in record["cannulas"].items()}
        return HandState(None if trocar is None else np.array(trocar), cannulas, record["connected"])

    def write_delivered(self, delivered_ml: dict[str, float]) -> None:
        """Cement that has left the tip of each side's cannula; `floor` is what no cannula took."""
        self._write("pump.json", delivered_ml)

    def read_delivered(self) -> dict[str, float]:
        return self._read("pump.json") or {}

    def write_detector(self, DetectorToRAS: FloatArray) -> None:
        """Where the C-arm's (first) detector truly stands."""
        self._write("carm.json", DetectorToRAS.tolist())

    def read_detector(self) -> FloatArray | None:
        """None as long as the C-arm was never told where to stand."""
        record = self._read("carm.json")
        return None if record is None else np.array(record)

    def _write(self, name: str, record: Any) -> None:
        draft = self._folder / f".{name}.{os.getpid()}"
        draft.write_text(json.dumps(record), encoding="utf-8")
        os.replace(draft, self._folder / name)

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self._folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None


def live_folder_of(world: Path) -> Path:
    """The folder beside a world document in which its simulators meet."""
    return world.with_suffix(".live")
