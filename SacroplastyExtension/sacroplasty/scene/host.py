"""A Slicer without a screen: the real MRML scene with its module logics, for command line, tests and research."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import SacroplastyError


class HeadlessHost:
    """A MRML scene with the logics that 3D Slicer would have registered on it.

    Attributes:
        scene: the vtkMRMLScene.
        app: trame-slicer's application object, for its readers and views.
        messages: the vtkStringOutputWindow that collects what VTK and MRML print.
    """

    def __init__(self) -> None:
        with _quiet_startup():
            try:
                from trame_slicer.core import SlicerApp
            except ImportError as error:
                raise SacroplastyError(
                    f"the headless Slicer is not installed ({error}); run: pip install 'sacroplasty[headless]'"
                ) from error
            import vtk

            import slicer

            self.app = SlicerApp()
            # What the C++ side says goes into a string: reading it is for who looks for the cause of a failure.
            self.messages = vtk.vtkStringOutputWindow()
            vtk.vtkOutputWindow.SetInstance(self.messages)
            self.scene = self.app.scene
            self.app.register_module_logic(slicer.vtkSlicerSequencesLogic())

    def load(self, path: Path) -> None:
        """Load a scene (.mrb, .mrml).

        Raises:
            SacroplastyError: when the file is no scene.
        """
        path = Path(path)
        if path.suffix not in (".mrb", ".mrml") or not path.is_file():
            raise SacroplastyError(f"{path} is no scene file; give a .mrb or .mrml file")
        try:
            loaded = self.app.io_manager.load_scene(str(path))
        except OSError as error:
            raise SacroplastyError(f"{path} cannot be opened as a scene: {error}") from error
        except Exception as error:  # zipfile raises its own family for a truncated archive
            raise SacroplastyError(f"{path} is damaged: {error}") from error
        if not loaded:
            raise SacroplastyError(f"{path} holds no scene")

    def save(self, path: Path) -> None:
        """Save the scene as a .mrb that 3D Slicer opens, whole or not at all."""
        from ..files import atomic_file

        with atomic_file(path) as draft:
            if not self.app.io_manager.save_scene(str(draft)) or not draft.exists():
                raise SacroplastyError(f"{path} could not be written; is there space on the disk?")


@contextmanager
def _quiet_startup() -> Iterator[None]:
    """Hide what the C++ side prints while its classes register, which nobody can act on."""
    null = os.open(os.devnull, os.O_WRONLY)
    kept = os.dup(2), os.dup(1)
    try:
        os.dup2(null, 2)
        os.dup2(null, 1)
        yield
    finally:
        os.dup2(kept[0], 2)
        os.dup2(kept[1], 1)
        for descriptor in (*kept, null):
            os.close(descriptor)
