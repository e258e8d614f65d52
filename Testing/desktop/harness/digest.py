"""The record of what a real 3D Slicer offers to Python, cut down to what the modules use."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

DIGEST_FILE = Path(__file__).parents[1] / "slicer_api_digest.json"


@dataclass(frozen=True)
class Digest:
    """Classes, helper functions and modules of one Slicer version.

    `classes` maps a Python name (`qt.QLabel`) to its members, properties {name: C++ type}, signals and slots; a class
    may name another one that it shares the rest with (`also_all_of`).
    """

    slicer_version: str
    classes: dict[str, dict[str, Any]]
    helpers: dict[str, frozenset[str]]
    module_names: frozenset[str]
    _members: dict[str, frozenset[str]] = field(default_factory=dict, compare=False)

    @classmethod
    def read(cls, path: Path = DIGEST_FILE) -> Digest:
        """Read a digest written by make_digest.py."""
        record = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            slicer_version=record["slicer_version"],
            classes=record["classes"],
            helpers={name: frozenset(names) for name, names in record["helpers"].items()},
            module_names=frozenset(record["modules"]),
        )

    def has_class(self, name: str) -> bool:
        return name in self.classes

    def python_names(self, module: str) -> frozenset[str]:
        """Names that a Python module of Slicer offers, such as `slicer.util`."""
        return self.helpers[module]

    def members(self, class_name: str) -> frozenset[str]:
        """Every attribute that the class offers in Python."""
        if class_name not in self._members:
            signatures = self.signals(class_name) | self.slots(class_name)
            self._members[class_name] = (
                self._all_of(class_name, "members")
                | self._all_of(class_name, "properties")
                | {signature.partition("(")[0] for signature in signatures}
            )
        return self._members[class_name]

    def properties(self, class_name: str) -> dict[str, str]:
        """Properties and their C++ types, those shared with a base class first."""
        found: dict[str, str] = {}
        for record in reversed(self._lineage(class_name)):
            found.update(record.get("properties", {}))
        return found

    def signals(self, class_name: str) -> frozenset[str]:
        """Signal signatures, such as `clicked(bool)`."""
        return self._all_of(class_name, "signals")

    def slots(self, class_name: str) -> frozenset[str]:
        """Slot signatures, such as `setText(QString)`."""
        return self._all_of(class_name, "slots")

    def _lineage(self, class_name: str) -> list[dict[str, Any]]:
        records = []
        name: str | None = class_name
        while name:
            records.append(self.classes[name])
            name = self.classes[name].get("also_all_of")
        return records

    def _all_of(self, class_name: str, kind: str) -> frozenset[str]:
        return frozenset().union(*(record.get(kind, ()) for record in self._lineage(class_name)))


@cache
def digest() -> Digest:
    """The digest kept in the repository."""
    return Digest.read()
