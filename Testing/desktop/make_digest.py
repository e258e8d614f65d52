"""Cut the record of a real Slicer's Python API down to what the modules use: slicer_api_digest.json.

    python Testing/desktop/make_digest.py slicer-5.13-python-api.json

Run it when a module starts to use a class that is not yet in the digest. Names that the record does not have are
printed and left out: a module must not use them, and the tests fail while one does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from desktop.harness.digest import DIGEST_FILE
from desktop.harness.usage import classes_used, read_form

MODULES = Path(__file__).parents[2] / "Modules"
# What the desk itself and Testing/slicer/run.py build on, and what widgets hand out unnamed (a table's header).
ALWAYS = {
    "ctk.ctkCollapsibleButton",
    "ctk.ctkSliderWidget",
    "ctk.ctkWidgetsUtils",
    "qt.QFormLayout",
    "qt.QHBoxLayout",
    "qt.QHeaderView",
    "qt.QLabel",
    "qt.QProgressDialog",
    "qt.QPushButton",
    "qt.QTimer",
    "qt.QVBoxLayout",
    "qt.QWidget",
    "slicer.app",
    "slicer.qMRMLNodeComboBox",
    "slicer.qMRMLWidget",
    "slicer.qSlicerModuleFactoryManager",
    "slicer.qSlicerModuleManager",
    "slicer.qSlicerScriptedLoadableModuleWidget",
}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    api = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    wanted = set(ALWAYS)
    for module_file in sorted(MODULES.glob("*/*.py")):
        form_file = module_file.parent / "Resources" / "UI" / f"{module_file.stem}.ui"
        wanted |= classes_used(module_file, read_form(form_file) if form_file.exists() else None)
    unknown = sorted(wanted - api["classes"].keys())
    if unknown:
        print(f"not in the record of Slicer {api['slicer_version']}: {', '.join(unknown)}", file=sys.stderr)
        wanted -= set(unknown)
    wanted |= {api["classes"][name]["also_all_of"] for name in wanted if "also_all_of" in api["classes"][name]}
    record = {
        "slicer_version": api["slicer_version"],
        "modules": sorted(api["modules"]),
        "helpers": {name: sorted(names) for name, names in sorted(api["slicer_util"].items())},
        "classes": {name: _shortened(api["classes"][name]) for name in sorted(wanted)},
    }
    DIGEST_FILE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{DIGEST_FILE.name}: {len(wanted)} classes of Slicer {api['slicer_version']}")
    return 1 if unknown else 0


def _shortened(record: dict[str, object]) -> dict[str, object]:
    """Without the base classes and Qt's private slots, which nobody may use."""
    kept = {key: value for key, value in record.items() if key != "inherits"}
    if isinstance(kept.get("slots"), list):
        kept["slots"] = [slot for slot in kept["slots"] if not slot.startswith("_q_")]  # type: ignore[union-attr]
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
