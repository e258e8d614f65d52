"""Pictures of the scene without a screen, drawn by Slicer's own displayable managers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import vtk
from numpy.typing import ArrayLike, NDArray
from vtk.util.numpy_support import numpy_to_vtk

from slicer import vtkMRMLScalarVolumeNode

from ..errors import SacroplastyError
from ..files import atomic_file
from ..geometry import unit
from .host import HeadlessHost

#: Window and level in which bone and its marrow can be told apart [HU].
BONE_WINDOW_HU = (1200.0, 250.0)


class Photographer:
    """Takes pictures of a headless host's scene. One 3D view and one slice view are made once and used again."""

    def __init__(self, host: HeadlessHost, size: tuple[int, int] = (1200, 900)) -> None:
        from trame_slicer.views import DirectViewFactory, ViewLayoutDefinition, ViewProps, ViewType

        # VTK logs to the terminal what the host collects in its messages already.
        vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
        manager = host.app.view_manager
        manager.register_factory(DirectViewFactory(do_render_offscreen=True))
        light = ViewProps(background_color=("#ffffff", "#dfe5ea"), box_visible=False)
        self._three_d = manager.create_view(ViewLayoutDefinition("Picture3D", ViewType.THREE_D_VIEW, light))
        self._slice = manager.create_view(ViewLayoutDefinition.axial_view("PictureSlice"))
        if self._three_d is None or self._slice is None:
            raise SacroplastyError("no off-screen view could be made; install libegl1 or libosmesa6")
        for view in (self._three_d, self._slice):
            view.render_window().SetSize(*size)
        # Depth peeling, which translucent bone needs, works on windows with an alpha channel and one sample a pixel.
        self._three_d.render_window().SetAlphaBitPlanes(1)
        self._three_d.render_window().SetMultiSamples(0)
        # The slice node of a window that was never on a screen keeps its default size.
        self._slice.get_view_node().SetDimensions(*size, 1)

    def three_d(
        self, path: Path, focus_ras: ArrayLike, from_direction: ArrayLike, up: ArrayLike, height_mm: float
    ) -> None:
        """Save the 3D view as PNG.

        Args:
            focus_ras: the middle of the picture.
            from_direction: where the camera stands, seen from the focus.
            up: what points upwards in the picture.
            height_mm: how much of the scene the picture shows at the focus.
        """
        renderer = self._three_d.first_renderer()
        camera = renderer.GetActiveCamera()
        distance = height_mm / 2 / np.tan(np.radians(camera.GetViewAngle() / 2))
        camera.SetFocalPoint(*np.asarray(focus_ras, float))
        camera.SetPosition(*(np.asarray(focus_ras, float) + unit(from_direction) * distance))
        camera.SetViewUp(*np.asarray(up, float))
        renderer.ResetCameraClippingRange()
        _save(self._three_d.render_window(), path)

    def slice(
        self,
        path: Path,
        volume: vtkMRMLScalarVolumeNode,
        orientation: str | vtk.vtkMatrix4x4,
        through_ras: ArrayLike,
        width_mm: float = 220.0,
    ) -> None:
        """Save one slice of a CT, with everything that shows in slices, as PNG.

        Args:
            orientation: "Axial", "Coronal" or "Sagittal", or the SliceToRAS matrix of a slice node.
            through_ras: the point in the middle of the picture.
        """
        display = volume.GetDisplayNode()
        display.AutoWindowLevelOff()
        display.SetWindowLevel(*BONE_WINDOW_HU)
        self._slice.set_background_volume_id(volume.GetID())
        node = self._slice.get_view_node()
        if isinstance(orientation, str):
            self._slice.set_orientation(orientation)
        else:
            node.GetSliceToRAS().DeepCopy(orientation)
            node.UpdateMatrices()
        columns, rows, _ = node.GetDimensions()
        node.SetFieldOfView(width_mm, width_mm * rows / columns, node.GetFieldOfView()[2])
        node.JumpSliceByCentering(*np.asarray(through_ras, float))
        _save(self._slice.render_window(), path)


def _save(window: vtk.vtkRenderWindow, path: Path) -> None:
    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    _write_png(path, grabber.GetOutputPort())


def save_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a grey image (rows, columns) or a color one (rows, columns, 3), top row first, whole or not at all."""
    rows, columns = pixels.shape[:2]
    image = vtk.vtkImageData()
    image.SetDimensions(columns, rows, 1)
    # VTK's first row is the bottom one.
    values = np.ascontiguousarray(pixels[::-1]).reshape(rows * columns, -1)
    image.GetPointData().SetScalars(numpy_to_vtk(values, deep=True))
    source = vtk.vtkTrivialProducer()
    source.SetOutput(image)
    _write_png(path, source.GetOutputPort())


def _write_png(path: Path, image: vtk.vtkAlgorithmOutput) -> None:
    with atomic_file(path) as draft:
        writer = vtk.vtkPNGWriter()
        writer.SetFileName(str(draft))
        writer.SetInputConnection(image)
        writer.Write()
