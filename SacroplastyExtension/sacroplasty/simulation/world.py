"""The simulated world: what is true, and what devices and hands are like. A `world` document holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.labels import REGION_LABEL, SIDES
from ..documents import read_document, write_document
from ..errors import DeviceError, ImageError
from ..geometry import FloatArray, check_rigid, rigid, rotation_about
from ..image import Volume, read_volume

#: What can carry a marker: the tools in the hand, the patient's reference, the C-arm, the table, the cannulas that were
#: left in place, and an ultrasound probe that is not in the room.
TOOLS = ("Stylus", "Trocar", "Reference", "CArm", "Table", "CannulaL", "CannulaR", "Probe")


@dataclass(frozen=True)
class TrackerModel:
    """Optical tracker.

    Attributes:
        rate_hz: poses per second of each tool.
        noise_mm: jitter, standard deviation per axis; in-use quality control of infrared trackers finds about 0.1 mm.
        localization_mm: how well a hand puts a tip on a landmark, root mean square over three axes.
        tools: what it looks for, of `TOOLS`.
        interruptions_per_min: how often something comes between a tool and the camera, for each tool.
    """

    rate_hz: float = 60.0
    noise_mm: float = 0.1
    localization_mm: float = 0.5
    tools: tuple[str, ...] = ("Stylus", "Trocar", "Reference")
    interruptions_per_min: float = 0.0


@dataclass(frozen=True)
class CArmModel:
    """C-arm.

    Attributes:
        geometry_error: rigid 4x4 by which the patient seems moved (RAS, about the CT's centre).
        sends_geometry: whether frames come with their pose; a frame grabber's do not.
        DetectorToMarker: where the marker that the tracker sees as `CArm` sits on the detector's housing.
    """

    geometry_error: FloatArray = field(default_factory=lambda: np.eye(4))
    sends_geometry: bool = True
    DetectorToMarker: FloatArray = field(default_factory=lambda: rigid(np.eye(3), [-150.0, -150.0, 120.0]))
    photons_per_pixel: float = 2000.0
    blur_pixels: float = 0.0


@dataclass(frozen=True)
class PumpModel:
    """Screw pump, line and cement.

    Consistency and flow index are a middle value of the range used for high-viscosity cement in models; they belong to
    no product.
    """

    syringe_ml: float = 20.0
    compliance_ml_kpa: float = 0.0004
    largest_pressure_kpa: float = 3000.0
    largest_rate_ml_s: float = 0.5
    consistency_pa_sn: float = 200.0
    flow_index: float = 0.6


@dataclass(frozen=True)
class Trocar:
    """The cannula; 11 gauge unless the world says otherwise. Frame of the tip: origin at the tip, z from hub to tip."""

    TipToTool: FloatArray
    outer_diameter_mm: float = 3.048
    inner_diameter_mm: float = 2.388
    length_mm: float = 150.0


@dataclass(frozen=True)
class Leak:
    """From `after_ml` on, `fraction` of the further flow on `side` goes into the leak's space."""

    side: str
    into: str
    after_ml: float
    fraction: float


@dataclass(frozen=True)
class World:
    """The truth. Volumes are read when first asked for.

    Attributes:
        folder: what file names are relative to.
        demonstration: a made-up world whose tools move by themselves.
    """

    folder: Path
    ct_file: str
    permeable_files: dict[str, str]
    regions_file: str | None
    TrackerToRAS: FloatArray
    ReferenceToTracker: FloatArray
    StylusTipToStylus: FloatArray
    trocar: Trocar
    landmarks: dict[str, FloatArray]
    tracker: TrackerModel
    carm: CArmModel
    pump: PumpModel
    leak: Leak | None
    seed: int
    demonstration: bool = False

    def ct(self) -> Volume:
        return _demonstration_ct() if self.demonstration else read_volume(self.folder / self.ct_file)

    def permeable(self, side: str) -> Volume | None:
        """Mask of where cement may flow on a side; None when the world does not say."""
        if self.demonstration:
            ct = _demonstration_ct()
            return ct.like((ct.voxels > 0) & (ct.voxels < 150))
        file = self.permeable_files.get(side)
        if file is None:
            return None
        volume = read_volume(self.folder / file)
        return volume.like(volume.voxels > 0)

    def leak_space(self) -> Volume | None:
        """Mask of the space that the leak fills."""
        if self.leak is None:
            return None
        if self.leak.into in REGION_LABEL:
            if self.regions_file is None:
                raise ImageError(f"the leak goes into {self.leak.into}, but the world names no file of regions")
            regions = read_volume(self.folder / self.regions_file)
            mask = regions.like(regions.voxels == REGION_LABEL[self.leak.into])
        else:
            volume = read_volume(self.folder / self.leak.into)
            mask = volume.like(volume.voxels > 0)
        if not mask.voxels.any():
            raise ImageError(f"the leak's space {self.leak.into} is empty")
        return mask


def write_world(path: Path, content: dict[str, Any]) -> None:
    """Write a world document (see schemas/world.schema.json; `coordinateSystem` is added)."""
    write_document(path, "world", {"coordinateSystem": "RAS", **content})


def read_world(path: Path) -> World:
    """The world of a document.

    Raises:
        DocumentError, GeometryError: when it is not what the schema asks for, or a transform is not rigid.
    """
    record = read_document(path, "world")
    trocar = record["tools"]["Trocar"]
    carm: dict[str, Any] = {
        key: check_rigid(value, f"carm.{key}") if key in ("geometry_error", "DetectorToMarker") else value
        for key, value in record.get("carm", {}).items()
    }
    tracker = dict(record.get("tracker", {}))
    if "tools" in tracker:
        tracker["tools"] = tuple(tracker["tools"])
    permeable = record.get("permeable", {})
    if set(permeable) - set(SIDES):
        raise DeviceError(f"{path}: permeable is given by side, {' and '.join(SIDES)}")
    return World(
        folder=Path(path).parent,
        ct_file=record["ct"],
        permeable_files=permeable,
        regions_file=record.get("regions"),
        TrackerToRAS=check_rigid(record["TrackerToRAS"], "TrackerToRAS"),
        ReferenceToTracker=check_rigid(record["ReferenceToTracker"], "ReferenceToTracker"),
        StylusTipToStylus=check_rigid(record["tools"]["Stylus"]["TipToTool"], "tools.Stylus.TipToTool"),
        trocar=Trocar(**trocar | {"TipToTool": check_rigid(trocar["TipToTool"], "tools.Trocar.TipToTool")}),
        landmarks={name: np.array(point, float) for name, point in record["landmarks"].items()},
        tracker=TrackerModel(**tracker),
        carm=CArmModel(**carm),
        pump=PumpModel(**record.get("pump", {})),
        leak=Leak(**record["leak"]) if "leak" in record else None,
        seed=record["seed"],
    )


def demonstration_world(seed: int) -> World:
    """A made-up world for trying a connection: tools that move, a block of bone, a pump."""
    return World(
        folder=Path(),
        ct_file="",
        permeable_files={},
        regions_file=None,
        TrackerToRAS=rigid(rotation_about([1, 0, 0], 180), [0, 0, 1200]),
        ReferenceToTracker=rigid(np.eye(3), [100, 0, 1200]),
        StylusTipToStylus=rigid(np.eye(3), [0, 0, 180]),
        trocar=Trocar(TipToTool=rigid(np.eye(3), [0, 0, 150])),
        landmarks={
            "left": np.array([-30.0, -40, 0]),
            "right": np.array([30.0, -40, 0]),
            "top": np.array([0.0, -40, 35]),
        },
        tracker=TrackerModel(),
        carm=CArmModel(),
        pump=PumpModel(),
        leak=None,
        seed=seed,
        demonstration=True,
    )


def _demonstration_ct() -> Volume:
    """A body of water with a block of bone in it, 3 mm voxels, centred on the origin."""
    k, j, i = np.ogrid[:80, :80, :100]
    x, y, z = (i - 49.5) * 3, (j - 39.5) * 3, (k - 39.5) * 3
    voxels = np.full((80, 80, 100), -1000, np.int16)
    voxels[(x / 140) ** 2 + (y / 100) ** 2 + 0 * z <= 1] = -20
    block = (np.abs(x) < 50) & (np.abs(y) < 25) & (np.abs(z) < 40)
    voxels[block] = 700
    voxels[(np.abs(x) < 46) & (np.abs(y) < 21) & (np.abs(z) < 36)] = 100
    IJKToRAS = np.diag([3.0, 3.0, 3.0, 1.0])
    IJKToRAS[:3, 3] = -148.5, -118.5, -118.5
    return Volume(voxels, IJKToRAS)
