"""X-rays in the scene, simulated and real, where the detector stands, with plan and structures drawn over them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicer import (
    vtkMRMLColorTableNode,
    vtkMRMLMarkupsLineNode,
    vtkMRMLNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLScene,
    vtkMRMLSegmentationNode,
)

from ..anatomy.colors import color_of
from ..errors import GeometryError
from ..geometry import FloatArray, check_rigid, transform_points
from ..image import Volume
from ..xray.geometry import SACRUM_CENTER_MM, VIEW_ANGLES_DEG, CArm, XrayGeometry, read_geometry
from ..xray.images import read_xray
from ..xray.overlay import (
    OVERLAID,
    Outline,
    Surface,
    anatomy_surfaces,
    draw,
    line_pixels,
    outlines,
    surface_of,
    trajectory_surfaces,
)
from ..xray.projectable import ProjectableVolume
from ..xray.reach import (
    ReachableRange,
    angles_of_direction,
    angles_text,
    read_range,
)
from ..xray.views import (
    PoseScore,
    View,
    find_views,
    frame_without_anatomy,
    score_pose,
    table_csv,
    table_rows,
    trocar_views,
)
from .anatomy import RECORD_NAME as ANATOMY_RECORD
from .anatomy import anatomy_of
from .devices import GEOMETRY, detector_volume
from .nodes import (
    add_label_volume,
    add_volume,
    first_node,
    line_points,
    mask_of,
    segment_names,
    set_volume,
    shape_digest,
    volume_of,
)
from .planning import RECORD_NAME as PLAN_RECORD
from .planning import chosen, plan_of, trajectory_of
from .records import read_record, write_record
from .workflow import write_step

IMAGE_NAME = "X-ray"
STRUCTURES_NAME = "X-ray structures"
RECORD_NAME = "Sacroplasty view"
#: Views that were looked at, and those that were found in this patient.
VIEWS_NAME = "Sacroplasty views"
FOUND_VIEWS_NAME = "Sacroplasty views of the patient"
PICTURES_NAME = "Sacroplasty report pictures"
_COLORS_NAME = "X-ray structure colors"
_REAL_STRUCTURES_NAME = "X-ray structures, real image"
#: On the layout node: the layout before the two pictures stood side by side.
_LAYOUT_BEFORE = "Sacroplasty.LayoutBefore"
#: What can be drawn, by the family a person switches on or off.
FAMILIES: dict[str, tuple[str, ...]] = {
    "trajectories": ("trajectory",),
    "foramina": ("foramen",),
    "canal": ("sacral_canal",),
    "alae": ("ala",),
    "joints": ("si_joint",),
    "cement": ("cement",),
}
_TRAJECTORIES = ("trajectory_left", "trajectory_right")
#: Labels of the outlines: the same structure has the same number in every picture.
_LABELS = {name: number for number, name in enumerate((*OVERLAID, *_TRAJECTORIES, "cement"), start=1)}
#: Shifts count to the left and to the back.
_LPS = (-1.0, -1.0, 1.0)
#: Width of an outline as a share of the picture's columns: seen from two metres.
_LINE_SHARE = 1 / 200


@dataclass(frozen=True)
class SimulatedView:
    """A simulated X-ray: the picture's node, its overlay (None without one) and the pose it was taken from."""

    image: vtkMRMLScalarVolumeNode
    structures: vtkMRMLScalarVolumeNode | None
    geometry: XrayGeometry


@dataclass(frozen=True)
class Pose:
    """Where a C-arm stands, as sliders show it: DICOM's positioner angles, and the isocentre off the sacrum's middle.

    Attributes:
        shift_mm: of the picture's middle, to the patient's left, back and head.
    """

    primary_deg: float
    secondary_deg: float
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


class FluoroscopyDesk:
    """X-rays of one scene. Keeps what takes seconds to work out for as long as the nodes it came from stay the same."""

    def __init__(self, scene: vtkMRMLScene) -> None:
        self._scene = scene
        self._attenuation: tuple[tuple[object, ...], ProjectableVolume] | None = None
        self._surfaces: tuple[str, dict[str, Surface]] | None = None

    # Views

    def views(
        self,
        ct_node: vtkMRMLScalarVolumeNode,
        segmentation: vtkMRMLSegmentationNode | None,
        c_arm: CArm | None = None,
        reach: ReachableRange | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> dict[str, View]:
        """All views of this patient; those of the record when nothing they depend on has changed.

        Without a segmentation: those of the mean angles, centred on the CT.
        """
        if segmentation is None:
            return mean_views(self._scene, ct_node, c_arm)
        reach = reach or read_range()
        key = _digest(self._scene, segmentation, asdict(c_arm or CArm()), asdict(reach))
        record = read_record(self._scene, FOUND_VIEWS_NAME)
        if record is not None and record["key"] == key:
            return found_views(self._scene)
        plan = plan_of(self._scene)
        anatomy = anatomy_of(self._scene, segmentation, ct_node)
        found = find_views(anatomy, chosen(plan) if plan else {}, c_arm, reach, progress)
        write_record(self._scene, FOUND_VIEWS_NAME, {"key": key, "views": [view.to_dict() for view in found.values()]})
        return found

    def trocar_views(
        self,
        line: vtkMRMLMarkupsLineNode,
        ct_node: vtkMRMLScalarVolumeNode,
        segmentation: vtkMRMLSegmentationNode | None,
        c_arm: CArm | None = None,
        reach: ReachableRange | None = None,
    ) -> dict[str, View]:
        """The views `barrel` and `perpendicular` of a line of the plan as it stands now.

        Raises:
            PlanError: for a line that is none of the plan's.
            AnatomyError: without a segmentation.
        """
        start, end = line_points(line)
        planned = trajectory_of(self._scene, line)
        moved = replace(planned, entry_skin=start, target=end, entry_bone=_nearest_on(start, end, planned.entry_bone))
        lateral = self.views(ct_node, segmentation, c_arm, reach)["lateral"]
        anatomy = anatomy_of(self._scene, segmentation, ct_node)
        found = trocar_views(anatomy, planned.side, moved, lateral, c_arm, reach)
        return {name.partition("-")[0]: view for name, view in found.items()}

    # Pictures

    def simulate(
        self,
        ct_node: vtkMRMLScalarVolumeNode,
        geometry: XrayGeometry,
        pixels: int = 384,
        segmentation: vtkMRMLSegmentationNode | None = None,
        families: Sequence[str] = tuple(FAMILIES),
        progress: Callable[[float], None] | None = None,
        name: str = "",
        field_diameter_mm: float | None = None,
    ) -> SimulatedView:
        """Simulate the X-ray of a CT and show it, in place of the one before.

        Args:
            pixels: columns of the picture.
            segmentation: whose structures are drawn over it; None for none.
            families: which of `FAMILIES` are drawn.
            progress: called with 0 to 1.
            name: of the view, if it is one that has to be looked at.
            field_diameter_mm: of the circle that an image intensifier shows; None for the whole detector.

        Raises:
            GeometryError: for fewer than 16 columns, or a pose that no C-arm can have.
        """
        from ..xray.detector import display_image
        from ..xray.imaging_chain import field_mask
        from ..xray.project import line_integrals

        if pixels < 16:
            raise GeometryError(f"a picture of {pixels} columns shows nothing; give at least 16")
        tell = progress or (lambda fraction: None)
        geometry = geometry.resampled(pixels)
        attenuation = self._attenuation_of(ct_node)
        tell(0.3)
        field = None if field_diameter_mm is None else field_mask(geometry, field_diameter_mm)
        picture = display_image(line_integrals(attenuation, geometry), field=field)
        tell(0.7)
        image = _upsert_image(self._scene, picture, geometry)
        write_record(self._scene, RECORD_NAME, geometry.to_dict())
        structures = self.draw_over(image, ct_node, segmentation, families)
        if name:
            looked_at = {**(read_record(self._scene, VIEWS_NAME) or {}), name: angles_text(geometry)}
            write_record(self._scene, VIEWS_NAME, looked_at)
        tell(1.0)
        return SimulatedView(image, structures, geometry)

    def draw_over(
        self,
        image: vtkMRMLScalarVolumeNode,
        ct_node: vtkMRMLScalarVolumeNode | None,
        segmentation: vtkMRMLSegmentationNode | None,
        families: Sequence[str] = tuple(FAMILIES),
    ) -> vtkMRMLScalarVolumeNode | None:
        """Draw the outlines over an X-ray of known geometry, in place of older ones. None when there are none.

        Raises:
            GeometryError: when the geometry of the image is not known.
        """
        name = STRUCTURES_NAME if image.GetName() == IMAGE_NAME else _REAL_STRUCTURES_NAME
        geometry = geometry_of(image)
        drawn = self.outlines(geometry, ct_node, segmentation, families)
        node = first_node(self._scene, "vtkMRMLLabelMapVolumeNode", name)
        if not drawn:
            if node is not None:
                self._scene.RemoveNode(node)
            return None
        columns, rows = geometry.detector_pixels
        labels = np.zeros((rows, columns), np.uint8)
        for item in drawn:
            labels[line_pixels(item, geometry, max(2.0, columns * _LINE_SHARE))] = _LABELS[item.name]
        volume = detector_volume(labels, geometry)
        if node is None:
            node = add_label_volume(self._scene, volume, name)
            node.GetDisplayNode().SetAndObserveColorNodeID(_colors(self._scene).GetID())
        else:
            set_volume(node, volume)
        return node

    def picture(
        self,
        image: vtkMRMLScalarVolumeNode,
        ct_node: vtkMRMLScalarVolumeNode | None,
        segmentation: vtkMRMLSegmentationNode | None,
        families: Sequence[str] = tuple(FAMILIES),
    ) -> NDArray[np.uint8]:
        """An X-ray with its outlines as colors (rows, columns, 3)."""
        geometry = geometry_of(image)
        pixels = volume_of(image).voxels[0].astype(float)
        low, high = np.percentile(pixels, [0.5, 99.5])
        gray = np.clip((pixels - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
        width = max(2.0, geometry.detector_pixels[0] * _LINE_SHARE)
        return draw(gray, self.outlines(geometry, ct_node, segmentation, families), geometry, width)

    def backdrop(
        self,
        ct_node: vtkMRMLScalarVolumeNode,
        geometry: XrayGeometry,
        segmentation: vtkMRMLSegmentationNode | None,
        families: Sequence[str] = ("foramina", "canal"),
    ) -> NDArray[np.uint8]:
        """A simulated X-ray with outlines as colors (rows, columns, 3), of which nothing is put into the scene."""
        from ..xray.detector import display_image
        from ..xray.project import line_integrals

        picture = display_image(line_integrals(self._attenuation_of(ct_node), geometry))
        width = max(1.0, geometry.detector_pixels[0] * _LINE_SHARE)
        return draw(picture, self.outlines(geometry, ct_node, segmentation, families), geometry, width)

    def send_to_report(
        self,
        image: vtkMRMLScalarVolumeNode,
        title: str,
        ct_node: vtkMRMLScalarVolumeNode | None,
        segmentation: vtkMRMLSegmentationNode | None,
        families: Sequence[str] = tuple(FAMILIES),
    ) -> str:
        """Keep an X-ray with its outlines for the report, in place of an older one so titled; returns its caption."""
        geometry = geometry_of(image)
        origin = "simulated from the CT" if image.GetName() == IMAGE_NAME else image.GetName()
        caption = f"{title}: {angles_text(geometry)} ({origin})"
        keep_for_report(self._scene, title, caption, self.picture(image, ct_node, segmentation, families), geometry)
        return caption

    # What is kept

    def _attenuation_of(self, ct_node: vtkMRMLScalarVolumeNode) -> ProjectableVolume:
        from ..xray.project import attenuation_from_hu

        transform = ct_node.GetParentTransformNode()
        moved = None if transform is None else transform.GetMTime()
        key = (ct_node.GetID(), ct_node.GetMTime(), ct_node.GetImageData().GetMTime(), moved)
        if self._attenuation is None or self._attenuation[0] != key:
            ct = volume_of(ct_node)
            self._attenuation = key, ProjectableVolume.of(ct.like(attenuation_from_hu(ct.voxels)))
        return self._attenuation[1]

    def outlines(
        self,
        geometry: XrayGeometry,
        ct_node: vtkMRMLScalarVolumeNode | None,
        segmentation: vtkMRMLSegmentationNode | None,
        families: Sequence[str],
    ) -> list[Outline]:
        """Outlines of structures and planned trocars that a picture of this geometry shows.

        Raises:
            GeometryError: for a family that cannot be drawn.
        """
        unknown = set(families) - set(FAMILIES)
        if unknown:
            raise GeometryError(f"nothing called {', '.join(sorted(unknown))} can be drawn over an X-ray")
        surfaces: dict[str, Surface] = {}
        if ct_node is not None and segmentation is not None and set(families) - {"trajectories"}:
            surfaces |= self._structures(ct_node, segmentation)
        plan = plan_of(self._scene)
        if plan is not None:
            surfaces |= trajectory_surfaces(chosen(plan))
        wanted = tuple(prefix for family in families for prefix in FAMILIES[family])
        shown = {name: surface for name, surface in surfaces.items() if name.startswith(wanted)}
        return [item for item in outlines(shown, geometry) if item.polylines]

    def _structures(
        self, ct_node: vtkMRMLScalarVolumeNode, segmentation: vtkMRMLSegmentationNode
    ) -> dict[str, Surface]:
        cement = first_node(self._scene, "vtkMRMLSegmentationNode", "Cement")
        key = _digest(self._scene, segmentation, cement.GetMTime() if cement is not None else 0, ct_node.GetID())
        if self._surfaces is None or self._surfaces[0] != key:
            grid = volume_of(ct_node)
            if read_record(self._scene, ANATOMY_RECORD) is None:
                surfaces = _segment_surfaces(segmentation, grid)
            else:
                surfaces = anatomy_surfaces(anatomy_of(self._scene, segmentation, ct_node))
            if cement is not None:
                masks = [mask_of(cement, name, grid) for name in segment_names(cement)]
                if masks and np.logical_or.reduce(masks).any():
                    surfaces["cement"] = surface_of("cement", grid.like(np.logical_or.reduce(masks)))
            self._surfaces = key, surfaces
        return self._surfaces[1]


def mean_views(scene: vtkMRMLScene, ct_node: vtkMRMLScalarVolumeNode, c_arm: CArm | None = None) -> dict[str, View]:
    """The standard views at the mean angles of the literature, for want of an anatomy to find them in."""
    frame = sacral_frame(scene, ct_node)
    note = "mean angles of the literature, since no segmentation is selected"
    views = {}
    for name in VIEW_ANGLES_DEG:
        geometry = (c_arm or CArm()).view(name, frame)
        center = transform_points(frame, SACRUM_CENTER_MM)
        views[name] = View(name, center, geometry.view_direction_ras, geometry, 0.0, note=note, measured=False)
    return views


def found_views(scene: vtkMRMLScene) -> dict[str, View]:
    """The views that were found in this patient; empty before."""
    record = read_record(scene, FOUND_VIEWS_NAME) or {}
    views = [View.from_dict(item) for item in record.get("views", ())]
    return {view.name: view for view in views}


def views_table(scene: vtkMRMLScene) -> list[dict[str, str]]:
    """One row of angles for each view that was found, by column."""
    return table_rows(found_views(scene))


def export_views(scene: vtkMRMLScene, path: Path) -> None:
    """Write the table of angles as comma-separated values.

    Raises:
        GeometryError: when no views were found yet, or no file is given.
    """
    from ..files import atomic_file

    views = found_views(scene)
    if not views:
        raise GeometryError("no views were found yet; press Find views first")
    if Path(path).suffix != ".csv":
        raise GeometryError("choose a file that ends in .csv for the table")
    with atomic_file(Path(path)) as draft:
        draft.write_text(table_csv(views), encoding="utf-8")


def keep_for_report(
    scene: vtkMRMLScene, title: str, caption: str, picture: NDArray[np.uint8], geometry: XrayGeometry | None = None
) -> None:
    """Keep a picture (rows, columns, 3) for the report, in place of an older one so titled."""
    record = read_record(scene, PICTURES_NAME) or {}
    entry = {
        "caption": caption,
        "png_base64": base64.b64encode(png_of(picture)).decode(),
        "geometry": None if geometry is None else geometry.to_dict(),
    }
    write_record(scene, PICTURES_NAME, {**record, title: entry})


def report_pictures(scene: vtkMRMLScene) -> list[tuple[str, bytes]]:
    """Captions and PNG files of the X-rays that were sent to the report."""
    record: Mapping[str, Any] = read_record(scene, PICTURES_NAME) or {}
    return [(entry["caption"], base64.b64decode(entry["png_base64"])) for entry in record.values()]


# Poses


def sacral_frame(scene: vtkMRMLScene, ct_node: vtkMRMLScalarVolumeNode) -> FloatArray:
    """SacrumToRAS of the segmented sacrum, or a stand-in that puts the CT's middle into every picture."""
    record = read_record(scene, ANATOMY_RECORD)
    if record is None:
        return frame_without_anatomy(volume_of(ct_node))
    return check_rigid(record["SacrumToRAS"], "SacrumToRAS")


def geometry_of_pose(
    scene: vtkMRMLScene, ct_node: vtkMRMLScalarVolumeNode, pose: Pose, c_arm: CArm | None = None
) -> XrayGeometry:
    """The record of a pose set by sliders."""
    center = transform_points(sacral_frame(scene, ct_node), SACRUM_CENTER_MM) + np.multiply(pose.shift_mm, _LPS)
    return (c_arm or CArm()).at_positioner_angles(center, pose.primary_deg, pose.secondary_deg)


def pose_of_view(scene: vtkMRMLScene, ct_node: vtkMRMLScalarVolumeNode, view: View) -> Pose:
    """Where the sliders stand for a view."""
    center = transform_points(sacral_frame(scene, ct_node), SACRUM_CENTER_MM)
    left, back, head = (view.aim_ras - center) * _LPS
    primary, secondary = angles_of_direction(view.beam_ras)
    return Pose(primary, secondary, (float(left), float(back), float(head)))


def score(view: View, geometry: XrayGeometry) -> PoseScore:
    """How well a pose meets a view."""
    return score_pose(view, geometry)


# Real images


def geometry_of(image: vtkMRMLScalarVolumeNode) -> XrayGeometry:
    """The geometry that an X-ray's node carries.

    Raises:
        GeometryError: when it carries none, so that nothing can be drawn over it.
    """
    text = image.GetAttribute(GEOMETRY)
    if not text:
        raise GeometryError(f"the geometry of {image.GetName()} is not known; load it with its geometry.json")
    return XrayGeometry.from_dict(json.loads(text))


def load_real(scene: vtkMRMLScene, image: Path, geometry: Path, name: str = "") -> vtkMRMLScalarVolumeNode:
    """Load an X-ray, of a sequence the last frame, and the geometry document that says where its C-arm stood.

    Raises:
        ImageError, DocumentError, GeometryError: saying what is wrong with either.
    """
    if not str(geometry).strip() or Path(geometry) == Path():
        raise GeometryError("choose the geometry.json of the image as well; without it nothing can be drawn over it")
    found = read_xray(Path(image), read_geometry(Path(geometry)))
    assert found.geometry is not None
    return show_real(scene, found.frames[-1], found.geometry, name or Path(image).stem)


def show_real(scene: vtkMRMLScene, pixels: NDArray, geometry: XrayGeometry, name: str) -> vtkMRMLScalarVolumeNode:
    """Show a real X-ray where its detector stood."""
    node = add_volume(scene, detector_volume(pixels, geometry), name)
    node.SetAttribute(GEOMETRY, json.dumps(geometry.to_dict()))
    return node


# Slice views


def show_in_slice_view(scene: vtkMRMLScene, view: SimulatedView, layout_name: str = "Red") -> bool:
    """Turn one slice view to the picture. False when the scene has no such view (no views in a plain headless host)."""
    slice_node = scene.GetSingletonNode(layout_name, "vtkMRMLSliceNode")
    composite = scene.GetSingletonNode(layout_name, "vtkMRMLSliceCompositeNode")
    if slice_node is None or composite is None:
        return False
    composite.SetBackgroundVolumeID(view.image.GetID())
    composite.SetLabelVolumeID(view.structures.GetID() if view.structures is not None else None)
    composite.SetLabelOpacity(1.0)
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
    _restore_layout(scene)
    composite.SetBackgroundVolumeID(ct_node.GetID())
    composite.SetLabelVolumeID(None)
    slice_node.SetOrientation(orientation)
    bounds = [0.0] * 6
    ct_node.GetRASBounds(bounds)
    slice_node.JumpSliceByCentering(*((bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)))
    return True


def show_side_by_side(
    scene: vtkMRMLScene, simulated: vtkMRMLScalarVolumeNode | None, real: vtkMRMLScalarVolumeNode | None
) -> bool:
    """The simulated picture in the red slice view, the real one in the yellow. False when there are no such views."""
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if layout is not None and layout.GetViewArrangement() != layout.SlicerLayoutSideBySideView:
        layout.SetAttribute(_LAYOUT_BEFORE, str(layout.GetViewArrangement()))
        layout.SetViewArrangement(layout.SlicerLayoutSideBySideView)
    shown = []
    for name, image, overlay in (
        ("Red", simulated, STRUCTURES_NAME),
        ("Yellow", real, _REAL_STRUCTURES_NAME),
    ):
        if image is not None:
            structures = first_node(scene, "vtkMRMLLabelMapVolumeNode", overlay)
            shown.append(show_in_slice_view(scene, SimulatedView(image, structures, geometry_of(image)), name))
    return bool(shown) and all(shown)


def _restore_layout(scene: vtkMRMLScene) -> None:
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    before = layout.GetAttribute(_LAYOUT_BEFORE) if layout is not None else None
    if before:
        layout.SetViewArrangement(int(before))
        layout.RemoveAttribute(_LAYOUT_BEFORE)


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


def _nearest_on(start: FloatArray, end: FloatArray, point: FloatArray) -> FloatArray:
    along = end - start
    share = np.clip((point - start) @ along / max(float(along @ along), 1e-9), 0, 1)
    return start + share * along


def _digest(scene: vtkMRMLScene, segmentation: vtkMRMLSegmentationNode, *others: object) -> str:
    """Changes when views or outlines found from these may no longer hold; stays when a scene is loaded again."""
    digest = hashlib.sha256()
    for name in segment_names(segmentation):
        digest.update(f"{name} {shape_digest(segmentation, name)}\n".encode())
    for record in (ANATOMY_RECORD, PLAN_RECORD):
        digest.update(json.dumps(read_record(scene, record), sort_keys=True).encode())
    digest.update(repr(others).encode())
    return digest.hexdigest()


def _segment_surfaces(segmentation: vtkMRMLSegmentationNode, grid: Volume) -> dict[str, Surface]:
    """Outlines of a segmentation that did not come from here: its segments of our names."""
    names = [name for name in segment_names(segmentation) if name in OVERLAID]
    return {name: surface_of(name, grid.like(mask_of(segmentation, name, grid))) for name in names}


def _upsert_image(scene: vtkMRMLScene, picture: NDArray, geometry: XrayGeometry) -> vtkMRMLScalarVolumeNode:
    volume = detector_volume(picture, geometry)
    node = first_node(scene, "vtkMRMLScalarVolumeNode", IMAGE_NAME)
    if node is None:
        node = add_volume(scene, volume, IMAGE_NAME)
        display = node.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(0, 255)
    else:
        set_volume(node, volume)
    node.SetAttribute(GEOMETRY, json.dumps(geometry.to_dict()))
    return node


def _colors(scene: vtkMRMLScene) -> vtkMRMLNode:
    """The color table of the outlines, one for the scene."""
    node = first_node(scene, "vtkMRMLColorTableNode", _COLORS_NAME)
    if node is None:
        node = scene.AddNewNodeByClass("vtkMRMLColorTableNode", _COLORS_NAME)
        assert isinstance(node, vtkMRMLColorTableNode)
        node.SetTypeToUser()
        node.SetNumberOfColors(len(_LABELS) + 1)
        node.SetColor(0, "background", 0.0, 0.0, 0.0, 0.0)
        for name, number in _LABELS.items():
            node.SetColor(number, name, *color_of(name), 1.0)
    return node


def png_of(picture: NDArray[np.uint8]) -> bytes:
    """A picture (rows, columns, 3) as a PNG file."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    rows, columns = picture.shape[:2]
    image = vtk.vtkImageData()
    image.SetDimensions(columns, rows, 1)
    # A PNG file begins with the top row, VTK with the bottom one.
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(picture[::-1]).reshape(-1, 3), deep=True))
    writer = vtk.vtkPNGWriter()
    writer.WriteToMemoryOn()
    writer.SetInputData(image)
    writer.Write()
    return bytes(vtk_to_numpy(writer.GetResult()))
