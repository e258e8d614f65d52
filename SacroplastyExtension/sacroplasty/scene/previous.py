"""The result before the last one, kept in the scene, so that a saved scene can go back to it too.

Slicer's own undo is off by default, knows no segment of a segmentation, and ends with the session; this does not.
"""

from __future__ import annotations

from collections.abc import Mapping

from slicer import vtkMRMLNode, vtkMRMLScene

from .nodes import first_node

_SUFFIX = " (previous)"


def set_aside(scene: vtkMRMLScene, names: Mapping[str, str]) -> None:
    """Make what is shown the previous result, in place of an older one; nothing when nothing is shown.

    Args:
        names: name of the node by its class.
    """
    if _first(scene, names, "") is None:
        return
    for class_name, name in names.items():
        _remove(scene, class_name, name + _SUFFIX)
        _move(scene, class_name, name, name + _SUFFIX)


def has_previous(scene: vtkMRMLScene, names: Mapping[str, str]) -> bool:
    """Whether there is a result to go back to."""
    return all(first_node(scene, class_name, name + _SUFFIX) is not None for class_name, name in names.items())


def exchange(scene: vtkMRMLScene, names: Mapping[str, str]) -> None:
    """Show the previous result; what was shown becomes the previous one, so that a second time goes forth again."""
    for class_name, name in names.items():
        _move(scene, class_name, name, name + _SUFFIX + _SUFFIX)
        _move(scene, class_name, name + _SUFFIX, name)
        _move(scene, class_name, name + _SUFFIX + _SUFFIX, name + _SUFFIX)


def _first(scene: vtkMRMLScene, names: Mapping[str, str], suffix: str) -> vtkMRMLNode | None:
    class_name, name = next(iter(names.items()))
    return first_node(scene, class_name, name + suffix)


def _remove(scene: vtkMRMLScene, class_name: str, name: str) -> None:
    node = first_node(scene, class_name, name)
    if node is not None:
        scene.RemoveNode(node)


def _move(scene: vtkMRMLScene, class_name: str, name: str, new_name: str) -> None:
    """A new node with the contents of the old one: whoever holds the old one must not go on with it unknowingly."""
    old = first_node(scene, class_name, name)
    if old is None:
        return
    hidden = new_name.endswith(_SUFFIX)
    new = scene.AddNewNodeByClass(class_name, new_name)
    new.CopyContent(old, True)
    new.SetHideFromEditors(hidden)
    if old.IsA("vtkMRMLDisplayableNode"):
        new.CreateDefaultDisplayNodes()
        display = new.GetDisplayNode()
        if old.GetDisplayNode() is not None:
            display.CopyContent(old.GetDisplayNode(), True)
        display.SetVisibility(not hidden)
    roles: list[str] = []
    old.GetNodeReferenceRoles(roles)
    for role in roles:
        if role not in ("display", "storage"):
            new.SetNodeReferenceID(role, old.GetNodeReferenceID(role))
    scene.RemoveNode(old)
