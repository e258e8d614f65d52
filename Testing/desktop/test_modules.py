"""What every module of the extension must keep to, found by looking into Modules/."""

from __future__ import annotations

import ast
import gc
import importlib.util
import re
import sys
import weakref
from pathlib import Path

import pytest

from desktop.harness.desktop import form_file, module_file, module_names
from desktop.harness.digest import digest
from desktop.harness.usage import heavy_imports, problems, read_form, untranslated_texts

NAMES = module_names()
pytestmark = pytest.mark.parametrize("name", NAMES)


def form_of(name):
    return read_form(form_file(name)) if form_file(name).exists() else None


def test_file_scope_imports_nothing_heavy(name):
    assert heavy_imports(module_file(name)) == set()


def test_file_holds_the_five_classes_of_a_scripted_module(name):
    tree = ast.parse(module_file(name).read_text(encoding="utf-8"))
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert {name, f"{name}ParameterNode", f"{name}Widget", f"{name}Logic", f"{name}Test"} <= classes


def test_everything_touched_exists_in_a_real_slicer(name):
    siblings = {other.lower() for other in NAMES}
    assert problems(module_file(name), form_of(name), digest(), siblings) == []


def test_every_parameter_tied_in_the_form_exists(desktop, name):
    form = form_of(name)
    module = desktop.load_module(name)
    assert set(form.parameters) <= set(getattr(module, f"{name}ParameterNode").allParameters)


def test_user_texts_can_be_translated(name):
    assert untranslated_texts(module_file(name)) == []


def test_module_describes_itself(desktop, name):
    module = desktop.load_module(name)
    import slicer

    description = getattr(slicer.modules, name.lower())
    assert module.__doc__ is None or name
    assert description.title.startswith("Sacroplasty")
    assert description.categories == ["IGT.Sacroplasty"]
    assert "not a medical device" in description.helpText
    assert description.contributors == ["Sacroplasty contributors"]
    assert not description.icon.isNull()


def test_module_finds_the_engine_in_a_source_checkout(desktop, name, monkeypatch):
    before = list(sys.path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None)
    desktop.load_module(name)
    added = [entry for entry in sys.path if entry not in before]
    sys.path[:] = before
    assert len(added) == 1
    assert (Path(added[0]) / "sacroplasty" / "__init__.py").is_file()


def test_widget_opens_and_closes_without_leaving_anything_behind(desktop, name):
    widget = desktop.open_module(name)
    desktop.wait(20)
    desktop.leave(widget)
    assert desktop.connected_guis() == 0, "the parameter node stays tied to the widgets of a module that was left"
    desktop.enter(widget)
    desktop.close(widget)
    assert widget.Observations == []
    assert desktop.connected_guis() == 0
    trace = weakref.ref(widget)
    del widget
    for _ in range(3):
        gc.collect()
        desktop.wait(1)
    assert trace() is None, "something still holds the widget: an observer, a timer or a connection"


def test_widget_survives_closing_the_scene_while_it_is_shown_and_while_it_is_not(desktop, name):
    widget = desktop.open_module(name)
    desktop.scene.Clear(0)
    desktop.wait(20)
    assert desktop.scene.GetSingletonNode(name, "vtkMRMLScriptedModuleNode") is not None
    desktop.leave(widget)
    desktop.scene.Clear(0)
    desktop.wait(20)
    desktop.enter(widget)
    desktop.wait(20)
    assert desktop.scene.GetSingletonNode(name, "vtkMRMLScriptedModuleNode") is not None
    desktop.close(widget)


def test_parameters_come_back_from_a_saved_scene(desktop, host, tmp_path, name):
    module = desktop.load_module(name)
    logic = getattr(module, f"{name}Logic")()
    node = logic.getParameterNode()
    written = {key: _other_value(parameter, desktop.scene) for key, parameter in node.allParameters.items()}
    for key, value in written.items():
        node.setValue(key, value)
    kept = {key: _plain(value) for key, value in written.items()}
    host.save(tmp_path / "case.mrb")
    desktop.scene.Clear(0)
    host.load(tmp_path / "case.mrb")
    again = getattr(module, f"{name}Logic")().getParameterNode()
    assert {key: _plain(again.getValue(key)) for key in kept} == kept


def _other_value(parameter, scene):
    """A value that is not the default and that the parameter accepts."""
    from desktop.harness.parameter_node import Choice, Maximum, WithinRange

    if parameter.is_node():
        class_name = parameter.kind.__name__
        concrete = {"vtkMRMLDisplayableNode": "vtkMRMLLabelMapVolumeNode"}.get(class_name, class_name)
        return scene.AddNewNodeByClass(concrete, f"{parameter.name} node")
    if parameter.find(Choice):
        return next(value for value in reversed(parameter.find(Choice).choices))
    if parameter.kind is bool:
        return not parameter.default
    if parameter.kind in (int, float):
        limit = parameter.find(WithinRange) or parameter.find(Maximum)
        return parameter.kind(limit.maximum) if limit else parameter.kind(7)
    if parameter.kind is str:
        return "β text"
    return parameter.kind("folder/file") if parameter.kind is Path else list(parameter.kind)[-1]


def _plain(value):
    return value.GetName() if hasattr(value, "GetName") else value


#: Packages of the command line and of the tests, none of which Slicer's Python has.
ABSENT_IN_SLICER = ("click", "fastjsonschema", "pyigtl", "rich", "trame_slicer")


def test_module_opens_without_the_packages_that_slicer_does_not_bring(desktop, name, monkeypatch):
    for package in ABSENT_IN_SLICER:
        monkeypatch.setitem(sys.modules, package, None)
    engine = {key: value for key, value in sys.modules.items() if key.split(".")[0] == "sacroplasty"}
    for key in engine:
        del sys.modules[key]
    try:
        widget = desktop.open_module(name)
        desktop.wait(20)
        desktop.close(widget)
    finally:
        for key in [key for key in sys.modules if key.split(".")[0] == "sacroplasty"]:
            del sys.modules[key]
        sys.modules.update(engine)


def test_module_test_passes(desktop, name):
    module = desktop.load_module(name)
    getattr(module, f"{name}Test")().runTest()


def test_build_lists_every_script_and_resource(name):
    folder = module_file(name).parent
    text = (folder / "CMakeLists.txt").read_text(encoding="utf-8").replace("${MODULE_NAME}", name)
    listed = set(re.findall(r"^\s+(\S+\.(?:py|png|ui|txt))$", text, re.MULTILINE))
    present = {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and file.name != "CMakeLists.txt" and "__pycache__" not in file.parts
    }
    assert listed == present
    assert f"slicer_add_python_unittest(SCRIPT {name}.py)" in text


def case_under_way(scene):
    """The home module says more when some steps are behind and one was refused."""
    from sacroplasty.scene import anatomy, planning
    from sacroplasty.scene.records import write_record
    from sacroplasty.scene.workflow import write_step

    scene.AddNewNodeByClass("vtkMRMLSegmentationNode", anatomy.SEGMENTATION_NAME)
    write_record(scene, anatomy.RECORD_NAME, {"confidence": {}})
    write_record(scene, planning.RECORD_NAME, {"trajectories": [{"accepted": True}] * 2 + [{"accepted": False}]})
    write_step(scene, "indication", accepted=True, reasons=[])
    write_step(scene, "registration", accepted=False, reasons=["error at the target 3.4 mm, allowed 2.0 mm"])


def sacrum_to_confirm(scene):
    """A structure or two that a person must look at, a marked fracture and a suggestion."""
    from desktop.segmented_case import segmented_case

    segmented_case(scene)


def views_of_a_patient(scene):
    """The angles of a segmented and planned patient, with a picture taken."""
    from desktop.test_fluoroscopy import planned_case
    from sacroplasty.scene import anatomy
    from sacroplasty.scene.fluoroscopy import FluoroscopyDesk

    planned_case(scene)
    FluoroscopyDesk(scene).views(*anatomy.segmented_ct(scene))


def cement_to_inject(scene):
    """A plan, and the devices that the injection page works with."""
    import slicer
    from sacroplasty.scene import planning
    from scene.simple_case import make_ct, make_plan

    planning.show_plan(scene, make_plan(make_ct()))
    slicer.util.getModuleWidget("SacroplastyDevices")


def planned_patient(scene):
    """A plan with a trajectory that a person drew, and was refused."""
    from desktop.planned_case import planned_case

    planned_case(scene)


SCENES = {
    "Sacroplasty": case_under_way,
    "SacroplastySegmentation": sacrum_to_confirm,
    "SacroplastyPlanning": planned_patient,
    "SacroplastyFluoroscopy": views_of_a_patient,
    "SacroplastyCementMonitor": cement_to_inject,
}


def test_picture_of_the_module(desktop, picture_folder, name):
    SCENES.get(name, lambda scene: None)(desktop.scene)
    widget = desktop.open_module(name)
    path = desktop.picture(widget, picture_folder / f"{name}.png")
    desktop.close(widget)
    assert _number_of_colors(path) > 20


def _number_of_colors(path):
    from PySide6.QtGui import QImage

    image = QImage(str(path))
    return len({image.pixel(x, y) for x in range(0, image.width(), 2) for y in range(0, image.height(), 2)})
