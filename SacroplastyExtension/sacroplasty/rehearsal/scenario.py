"""What happens in a rehearsal: whether cement leaks, and what else goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..anatomy.labels import REGION_LABEL
from ..documents import read_document
from ..errors import DeviceError, DocumentError
from ..planning.model import Side
from ..simulation.faults import parse_faults


@dataclass(frozen=True)
class PlantedLeak:
    """From `after_ml` on, `fraction` of what flows on `side` goes into a region such as `foramen_s1_left`."""

    side: Side
    into: str
    after_ml: float
    fraction: float


@dataclass(frozen=True)
class Scenario:
    """One rehearsal.

    Attributes:
        sides: in the order of treatment.
        volume_ml: cement per side in place of the planned one; None keeps the plan's.
        leak: None for an intact bone.
        faults: for each simulator, named defects as `sacroplasty simulate --fault` takes them.
    """

    name: str = "normal"
    sides: tuple[Side, ...] = ("left", "right")
    volume_ml: float | None = None
    leak: PlantedLeak | None = None
    faults: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_scenario(path: Path) -> Scenario:
    """The scenario of a document.

    Raises:
        DocumentError: when it is none, or asks for what does not exist.
    """
    record = read_document(path, "scenario")
    leak = PlantedLeak(**record["leak"]) if "leak" in record else None
    if leak is not None and leak.into not in REGION_LABEL:
        raise DocumentError(f"{path}: there is no region {leak.into!r} to leak into; {', '.join(REGION_LABEL)}")
    faults = {device: tuple(names) for device, names in record.get("faults", {}).items()}
    for names in faults.values():
        try:
            parse_faults(names)
        except DeviceError as error:
            raise DocumentError(f"{path}: {error}") from None
    return Scenario(
        name=record.get("name", Path(path).stem),
        sides=tuple(record.get("sides", ("left", "right"))),
        volume_ml=record.get("volume_ml"),
        leak=leak,
        faults=faults,
    )
