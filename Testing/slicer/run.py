"""The module checks inside a real Slicer: what the desk of Testing/desktop cannot show.

    Slicer --testing --no-splash --python-script Testing/slicer/run.py

Loads every module from this checkout, builds and enters its widget, takes a picture, closes the scene under it, leaves
it, and runs its test; then starts the simulators once. Prints one line for each check and ends Slicer with 0 only when
all of them passed. Pictures go to the folder named by SACROPLASTY_PICTURES, when it is set.
"""

import os
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_UP_LIMIT_S = 0.5


def module_files():
    """The module files of the checkout."""
    return sorted(file for file in (ROOT / "Modules").glob("*/*.py") if file.stem == file.parent.name)


def load_modules(files):
    """Register and load all modules with Slicer's own factory, those that are not installed already."""
    import slicer

    manager = slicer.app.moduleManager().factoryManager()
    missing = [file for file in files if not manager.isLoaded(file.stem)]
    for file in missing:
        manager.registerModule(qt_file_info(file))
    names = [file.stem for file in missing]
    started = time.perf_counter()
    if names and not manager.loadModules(names):
        raise RuntimeError(f"Slicer could not load {', '.join(name for name in names if not manager.isLoaded(name))}")
    return time.perf_counter() - started


def qt_file_info(file):
    import qt

    return qt.QFileInfo(str(file))


def check_widget(name):
    """Open the module, close the scene under it and leave it again."""
    import slicer

    widget = slicer.util.getModuleWidget(name)
    if slicer.util.mainWindow():
        slicer.util.selectModule(name)
    else:
        widget.enter()
    slicer.app.processEvents()
    save_picture(name, widget.parent)
    slicer.mrmlScene.Clear()
    slicer.app.processEvents()
    if slicer.util.mainWindow():
        slicer.util.selectModule("Welcome")
    else:
        widget.exit()


def save_picture(name, panel):
    folder = os.environ.get("SACROPLASTY_PICTURES")
    if folder:
        import ctk

        Path(folder).mkdir(parents=True, exist_ok=True)
        ctk.ctkWidgetsUtils.grabWidget(panel).save(str(Path(folder) / f"{name}.png"))


def check_test(name):
    """Run the module's own test."""
    import slicer

    slicer.mrmlScene.Clear()
    slicer.selfTests[name](msec=0)


def check_simulators(limit_s=60.0):
    """The simulators start with Slicer's own Python, without any package that it lacks, and end again."""
    import slicer

    logic = slicer.util.getModuleLogic("SacroplastyDevices")
    logic.startSimulators()
    try:
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            slicer.app.processEvents()
            ready, problem = logic.pollSimulators()
            if problem:
                raise RuntimeError(problem)
            if ready:
                break
            time.sleep(0.02)
        else:
            raise RuntimeError(f"no simulator was ready within {limit_s:.0f} s")
        check_stop(logic, ready)
    finally:
        logic.close()


def check_stop(logic, addresses, limit_s=10.0):
    """The panel connects, a stop stands in the main window if there is one, and pressing it stops the pump."""
    import slicer

    widget = slicer.util.getModuleWidget("SacroplastyDevices")
    widget.connectTo(*addresses)
    wait_for(lambda: logic.rows()[2].level == "live", limit_s, "the pump is not live")
    logic.desk().pump.arm(time.monotonic())
    wait_for(lambda: "armed" in logic.rows()[2].text, limit_s, "the pump is not armed")
    widget.showDevices()
    window = slicer.util.mainWindow()
    if window and not slicer.util.findChildren(window, name="SacroplastyStopBar"):
        raise RuntimeError("there is no stop in the main window")
    save_picture("SacroplastyDevices-live", widget.parent)
    widget.onStopButton()
    wait_for(lambda: logic.rows()[2].level == "stopped", limit_s, "the pump is not stopped")
    widget.onStopSimulatorsButton()


def wait_for(condition, limit_s, problem):
    """Let Slicer work until something is true."""
    import slicer

    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(problem)
        slicer.app.processEvents()
        time.sleep(0.01)


def check_segment_editor():
    """What the segmentation module prepares is what the Segment Editor then shows."""
    import numpy as np

    import slicer
    from sacroplasty.image import Volume
    from sacroplasty.scene import nodes

    slicer.mrmlScene.Clear()
    volume = Volume(np.zeros((20, 20, 20), np.int16), np.diag([2.0, 2.0, 2.0, 1.0]))
    ct = nodes.add_volume(slicer.mrmlScene, volume, "CT")
    segmentation = nodes.add_segmentation(slicer.mrmlScene, {"sacrum": volume.voxels == 0}, volume, "Sacrum")
    slicer.util.getModuleLogic("SacroplastySegmentation").prepareSegmentEditor(segmentation, ct)
    widget = slicer.util.getModuleWidget("SegmentEditor")
    if slicer.util.mainWindow():
        slicer.util.selectModule("SegmentEditor")
    else:
        widget.enter()
    slicer.app.processEvents()
    shown = widget.editor.segmentationNode(), widget.editor.sourceVolumeNode()
    if shown != (segmentation, ct):
        raise RuntimeError(f"the Segment Editor shows {shown}")


def check_placing():
    """A click button of the segmentation module starts placing a point of its name; leaving the module ends it."""
    import slicer

    logic = slicer.util.getModuleLogic("SacroplastySegmentation")
    clicks = logic.placeClick(None, "hip")
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    selection = slicer.mrmlScene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    placing = interaction.GetCurrentInteractionMode() == interaction.Place
    if not placing or selection.GetActivePlaceNodeID() != clicks.GetID():
        raise RuntimeError("no point would be placed")
    clicks.AddControlPointWorld(1.0, 2.0, 3.0)
    if logic.clickTexts(clicks) != ["hip-1"]:
        raise RuntimeError(f"the point is named {logic.clickTexts(clicks)}")
    logic.remove(clicks)
    if interaction.GetCurrentInteractionMode() == interaction.Place:
        raise RuntimeError("points would still be placed")


def check_planning():
    """Two clicks place a new trajectory, which is checked; the views of a layout turn along it and back."""
    import slicer

    slicer.mrmlScene.Clear()
    widget = slicer.util.getModuleWidget("SacroplastyPlanning")
    widget.enter()
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    widget.onNewButton()
    if interaction.GetCurrentInteractionMode() != interaction.Place:
        raise RuntimeError("no point of a new trajectory would be placed")
    widget._drawn.AddControlPointWorld(30.0, -120.0, 0.0)
    widget._drawn.AddControlPointWorld(30.0, -40.0, 0.0)
    # Without a patient it is refused, in the page and not in a dialog.
    wait_for(lambda: widget.ui.messageLabel.text, 5.0, "a new trajectory is not looked at")
    if interaction.GetCurrentInteractionMode() == interaction.Place or widget._drawn is not None:
        raise RuntimeError("points of the new trajectory would still be placed")
    green = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeGreen")
    if green is not None and green.HasSliceOrientationPreset(green.GetDefaultOrientation()):
        from sacroplasty.scene import plan_views

        plan_views.show_standard_planes(slicer.mrmlScene, [0.0, 0.0, 0.0])
        before = slicer.util.arrayFromVTKMatrix(green.GetSliceToRAS())[:3, :3]
        plan_views.show_along_trocar(slicer.mrmlScene, [30.0, -120.0, 20.0], [30.0, -40.0, 0.0], 10.0)
        plan_views.show_standard_planes(slicer.mrmlScene, [30.0, -40.0, 0.0])
        after = slicer.util.arrayFromVTKMatrix(green.GetSliceToRAS())[:3, :3]
        if abs(after - before).max() > 1e-6:
            raise RuntimeError("the green view did not turn back")
    widget.exit()


def main():
    """Run all checks; returns the number of failures."""
    import slicer

    failures = 0

    def report(what, check, *arguments):
        nonlocal failures
        try:
            result = check(*arguments)
        except Exception:
            failures += 1
            print(f"FAILED {what}")
            traceback.print_exc()
            return None
        print(f"passed {what}")
        return result

    files = module_files()
    seconds = report("load", load_modules, files)
    if seconds is not None:
        print(f"loading {len(files)} modules took {seconds:.3f} s (limit {START_UP_LIMIT_S} s)")
        failures += seconds > START_UP_LIMIT_S
    for file in files:
        report(f"{file.stem} widget", check_widget, file.stem)
        report(f"{file.stem} test", check_test, file.stem)
    if hasattr(slicer.modules, "segmenteditor"):
        report("Segment Editor", check_segment_editor)
    else:
        print("skipped Segment Editor: this is no whole Slicer")
    report("placing points", check_placing)
    report("planning by hand", check_planning)
    report("simulators", check_simulators)
    print(f"{failures} failures")
    sys.stdout.flush()
    return failures


if __name__ == "__main__":
    import slicer.util

    slicer.util.exit(slicer.util.EXIT_FAILURE if main() else slicer.util.EXIT_SUCCESS)
