"""Bones by Slicer's TotalSegmentator extension, for who has it. The extension installs and runs the package itself."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode

from ..anatomy.bones import LabelledBones, bones_from_labels
from ..anatomy.totalsegmentator import CLASSES, NEEDED, RunProgress, TotalSegmentatorError
from ..image import check_ct
from .anatomy import label_map_of, show_structures
from .nodes import volume_of


class ExtensionLogic(Protocol):
    """What is used of the extension's `TotalSegmentatorLogic` (lassoan/SlicerTotalSegmentator, read at 6a82370b)."""

    logCallback: Callable[[str], None] | None

    def process(
        self,
        inputVolume: vtkMRMLScalarVolumeNode,
        outputSegmentation: vtkMRMLSegmentationNode,
        quality: str,
        cpu: bool,
        task: str,
        subset: list[str],
        interactive: bool,
    ) -> None: ...


def extension_logic() -> Any:
    """The extension's logic, imported only now.

    Raises:
        TotalSegmentatorError: when the extension is not installed.
    """
    try:
        from TotalSegmentator import TotalSegmentatorLogic
    except ImportError as error:
        raise TotalSegmentatorError(
            "Slicer's TotalSegmentator extension is not installed; install it in the Extensions Manager, restart, and "
            "run its module once, which fetches its Python packages (several GB)"
        ) from error
    return TotalSegmentatorLogic()


def segment_by_extension(
    scene: vtkMRMLScene,
    ct_node: vtkMRMLScalarVolumeNode,
    logic: ExtensionLogic,
    quality: str = "fast",
    cpu: bool = False,
    progress: Callable[[float], None] | None = None,
) -> vtkMRMLSegmentationNode:
    """Find the bones by the extension and all that depends on them, and show it in place of an older result.

    Args:
        logic: see `extension_logic`.
        quality: `fast` or `normal`.
        progress: called with 0 to 1. An exception from it gives up waiting; the extension has no way to end the program
            that it started, which may go on for a while.
    """
    tell = progress or (lambda fraction: None)
    labelled = bones_by_extension(scene, ct_node, logic, quality, cpu, lambda fraction: tell(0.7 * fraction))
    return show_structures(scene, ct_node, labelled, lambda fraction: tell(0.7 + 0.3 * fraction))


def bones_by_extension(
    scene: vtkMRMLScene,
    ct_node: vtkMRMLScalarVolumeNode,
    logic: ExtensionLogic,
    quality: str = "fast",
    cpu: bool = False,
    progress: Callable[[float], None] | None = None,
) -> LabelledBones:
    """Run the extension on a CT and read its segments, by name or terminology; its own node goes again.

    Raises:
        TotalSegmentatorError: when it failed, or its result lacks a bone.
        AnatomyError: when the bones it found are not those of a sacrum in view.
        ImageError: when the volume is no CT.
    """
    tell = progress or (lambda fraction: None)
    ct = volume_of(ct_node)
    check_ct(ct, ct_node.GetName())
    if ct_node.GetParentTransformNode() is not None:
        raise TotalSegmentatorError(f"{ct_node.GetName()} is under a transform; harden it, as the extension ignores it")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "TotalSegmentator")
    done = RunProgress()
    before = logic.logCallback
    logic.logCallback = lambda text: tell(done.fraction(text))
    try:
        _process(logic, ct_node, node, quality, cpu)
        labels = label_map_of(node, ct)
    finally:
        logic.logCallback = before
        scene.RemoveNode(node)
    missing = [name for name in NEEDED if name not in (labels.names or {}).values()]
    if missing:
        raise TotalSegmentatorError(f"TotalSegmentator found no {', '.join(missing)}; is the whole pelvis in the CT?")
    labelled = bones_from_labels(ct, labels.volume, labels.names, labels.numbering)
    tell(1.0)
    return replace(labelled, method=f"TotalSegmentator extension, {quality}")


def _process(
    logic: ExtensionLogic,
    ct_node: vtkMRMLScalarVolumeNode,
    node: vtkMRMLSegmentationNode,
    quality: str,
    cpu: bool,
) -> None:
    try:
        logic.process(ct_node, node, quality=quality, cpu=cpu, task="total", subset=list(CLASSES), interactive=False)
    except ImportError as error:
        raise TotalSegmentatorError(
            f"TotalSegmentator's Python packages are not installed ({error}); run its module once, which fetches them"
        ) from error
    except (subprocess.SubprocessError, RuntimeError, OSError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TotalSegmentatorError(f"the TotalSegmentator extension failed: {reason[:200]}; see its log") from error
