"""Simulated X-rays in the scene, standing where the detector would stand, with plan and structures drawn over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from slicer import (
    vtkMRMLMarkupsLineNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLScene,
    vtkMRMLSegmentationNode,
)

from ..errors import GeometryError
from ..geometry import check_rigid
from ..image import Volume
from ..xray.geometry import CArm, XrayGeometry
from .anatomy import RECORD_NAME as ANATOMY_RECORD
from .devices import detector_volume
from .nodes import (
    add_label_volume,
    add_line,
    add_volume,
    first_node,
    line_points,
    mask_of,
    segment_names,
    set_volume,
    volume_of,
)
from .planning import chosen, plan_of, trajectory_of
from .records import read_record, write_record
from .workflow import write_step

IMAGE_NAME = "X-ray"
STRUCTURES_NAME = "X-ray structures"
RECORD_NAME = "Sacroplasty view"
VIEWS_NAME = "Sacroplasty views"
_PLAN_NAME = "X-ray plan"
#: What a surgeon must see spared, from front to back of the picture's label map.
_SHOWN = ("sacral_canal", "foramen")


@dataclass(frozen=True)
class SimulatedView:
    """A simulated X-ray: the picture's node, its overlay (None without one) and the pose it was taken from."""

    image: vtkMRMLScalarVolumeNode
    structures: vtkMRMLScalarVolumeNode | None
    geometry: XrayGeometry


def view_geometry(
    scene: vtkMRMLScene,
    view: str,
    ct_node: vtkMRMLScalarVolumeNode,
    c_arm: CArm | None = None,
) -> XrayGeometry:
    """The pose of a named view (`ap`, `outlet`, ...): on the sacrum when it was segmented, else on the CT's middle."""
    from ..xray.views import frame_without_anatomy

    record = read_record(scene, ANATOMY_RECORD)
    if record is None:
        frame = frame_without_anatomy(volume_of(ct_node))
    else:
        frame = check_rigid(record["SacrumToRAS"], "SacrumToRAS")
    return (c_arm or CArm()).view(view, frame)


def barrel_geometry(scene: vtkMRMLScene, line: vtkMRMLMarkupsLineNode, c_arm: CArm | None = None) -> XrayGeometry:
    """The pose that looks along a line of the plan, as it stands now, from its entry to its target."""
    from ..xray.views import down_the_barrel

    start, end = line_points(line)
    return down_the_barrel(replace(trajectory_of(scene, line), entry_skin=start, target=end), c_arm)


def simulate(
    scene: vtkMRMLScene,
    ct_node: vtkMRMLScalarVolumeNode,
    geometry: XrayGeometry,
    pixels: int = 384,
    segmentation: vtkMRMLSegmentationNode | None = None,
    with_plan: bool = True,
    progress: Callable[[float], None] | None = None,
    name: str = "",
) -> SimulatedView:
    """Simulate the X-ray of a CT and show it, in place of the one before.

    Args:
        name: of the view, if it is one of the standard ones.
        pixels: columns of the picture.
        segmentation: whose canal and foramina are drawn over it; None for none.
        with_plan: whether the chosen trajectories are drawn.
        progress: called with 0 to 1.
    """
    from ..xray.detector import display_image
    from ..xray.project import attenuation_from_hu, line_integrals

    if pixels < 16:
        raise GeometryError(f"a picture of {pixels} columns shows nothing; give at least 16")
    tell = progress or (lambda fraction: None)
    ct = volume_of(ct_node)
    geometry = geometry.resampled(pixels)
    tell(0.1)
    attenuation = replace(ct, voxels=attenuation_from_hu(ct.voxels))
    tell(0.3)
    picture = display_image(line_integrals(attenuation, geometry))
    tell(0.7)
    image = _upsert_image(scene, detector_volume(picture, geometry))
    structures = _show_structures(scene, ct, geometry, segmentation)
    tell(0.9)
    _show_plan(scene, geometry if with_plan else None)
    write_record(scene, RECORD_NAME, geometry.to_dict())
    if name:
        write_record(scene, VIEWS_NAME, {**(read_record(scene, VIEWS_NAME) or {}), name: angles_text(geometry)})
    tell(1.0)
    return SimulatedView(image, structures, geometry)


def show_in_slice_view(scene: vtkMRMLScene, view: SimulatedView, layout_name: str = "Red") -> bool:
    """Turn one slice view to the picture. False when the scene has no such view (no views in a plain headless host)."""
    slice_node = scene.GetSingletonNode(layout_name, "vtkMRMLSliceNode")
    composite = scene.GetSingletonNode(layout_name, "vtkMRMLSliceCompositeNode")
    if slice_node is None or composite is None:
        return False
    composite.SetBackgroundVolumeID(view.image.GetID())
    composite.SetLabelVolumeID(view.structures.GetID() if view.structures is not None else None)
    composite.SetLabelOpacity(0.5)
    slice_node.RotateToVolumePlane(view.image)
    # The whole detector, in a view of any shape.
    columns, rows = slice_node.GetDimensions()[:2]
    size_mm = np.multiply(view.geometry.detector_pixels, view.geometry.pixel_spacing_mm)
    mm_per_pixel = float((size_mm / [max(columns, 1), max(rows, 1)]).max())
    slice_node.SetFieldOfView(mm_per_pixel * columns, mm_per_pixel * rows, slice_node.GetFieldOfView()[2])
    center = view.geometry.pixel_ras([(count - 1) / 2 for count in view.geometry.detector_pixels])
    slice_node.JumpSliceByCentering(*(float(value) for value in center))
    return True


def show_ct_in_slice_view(
    scene: vtkMRMLScene, ct_node: vtkMRMLScalarVolumeNode, layout_name: str = "Red", orientation: str = "Axial"
) -> bool:
    """Turn a slice view back to the CT. False when the scene has no such view."""
    slice_node = scene.GetSingletonNode(layout_name, "vtkMRMLSliceNode")
    composite = scene.GetSingletonNode(layout_name, "vtkMRMLSliceCompositeNode")
    if slice_node is None or composite is None:
        return False
    composite.SetBackgroundVolumeID(ct_node.GetID())
    composite.SetLabelVolumeID(None)
    slice_node.SetOrientation(orientation)
    bounds = [0.0] * 6
    ct_node.GetRASBounds(bounds)
    slice_node.JumpSliceByCentering(*((bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)))
    return True


def accept_position(scene: vtkMRMLScene) -> str:
    """Record that a person finds the C-arm views right; returns them in a line.

    Raises:
        GeometryError: as long as AP and lateral, without which no depth is known, were not both looked at.
    """
    taken = read_record(scene, VIEWS_NAME) or {}
    missing = [name for name in ("ap", "lateral") if name not in taken]
    if missing:
        raise GeometryError(f"look at the view{'s' * (len(missing) > 1)} {' and '.join(missing)} first")
    text = ", ".join(f"{name} {angles}" for name, angles in taken.items())
    write_step(scene, "position", True, [text])
    return text


def angles_deg(geometry: XrayGeometry) -> tuple[float, float]:
    """How the C-arm is turned from a straight AP view, as its operator reads it.

    Returns:
        (primary, secondary), DICOM's positioner angles: where the detector stands from straight in front of the
        patient, towards the patient's left and towards the head.
    """
    right, anterior, superior = geometry.view_direction_ras
    return float(np.degrees(np.arctan2(-right, anterior))), float(np.degrees(np.arcsin(np.clip(superior, -1, 1))))


def angles_text(geometry: XrayGeometry) -> str:
    """The angles as the operator of a C-arm calls them: LAO or RAO, CRA or CAU."""
    primary, secondary = angles_deg(geometry)
    around, along = "LAO" if primary >= 0 else "RAO", "CRA" if secondary >= 0 else "CAU"
    return f"{around} {abs(primary):.0f}°, {along} {abs(secondary):.0f}°"


def _upsert_image(scene: vtkMRMLScene, volume: Volume) -> vtkMRMLScalarVolumeNode:
    node = first_node(scene, "vtkMRMLScalarVolumeNode", IMAGE_NAME)
    if node is None:
        node = add_volume(scene, volume, IMAGE_NAME)
        display = node.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(0, 255)
    else:
        set_volume(node, volume)
    return node


def _show_structures(
    scene: vtkMRMLScene, ct: Volume, geometry: XrayGeometry, segmentation: vtkMRMLSegmentationNode | None
) -> vtkMRMLScalarVolumeNode | None:
    from ..xray.views import outline_pixels

    node = first_node(scene, "vtkMRMLLabelMapVolumeNode", STRUCTURES_NAME)
    if segmentation is None:
        if node is not None:
            scene.RemoveNode(node)
        return None
    columns, rows = geometry.detector_pixels
    labels = np.zeros((rows, columns), np.uint8)
    names = [name for name in segment_names(segmentation) if name.startswith(_SHOWN)]
    for number, name in enumerate(names, start=1):
        labels[outline_pixels(ct.like(mask_of(segmentation, name, ct)), geometry)] = number
    volume = detector_volume(labels, geometry)
    if node is None:
        return add_label_volume(scene, volume, STRUCTURES_NAME)
    set_volume(node, volume)
    return node


def _show_plan(scene: vtkMRMLScene, geometry: XrayGeometry | None) -> None:
    """Each chosen trajectory as its shadow on the detector."""
    for side in ("left", "right"):
        old = first_node(scene, "vtkMRMLMarkupsLineNode", f"{_PLAN_NAME} {side}")
        if old is not None:
            scene.RemoveNode(old)
    plan = plan_of(scene)
    if geometry is None or plan is None:
        return
    for side, trajectory in chosen(plan).items():
        entry, target = geometry.pixel_ras(geometry.project([trajectory.entry_skin, trajectory.target]))
        if np.isfinite([entry, target]).all():
            line = add_line(scene, entry, target, f"{_PLAN_NAME} {side}", (1.0, 0.6, 0.0))
            # A shadow belongs onto the picture; in 3D it would look like a second trajectory.
            line.GetDisplayNode().SetVisibility3D(False)
