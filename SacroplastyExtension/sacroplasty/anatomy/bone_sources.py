"""Where the bones come from: a label map, TotalSegmentator, or the built-in method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import AnatomyError
from ..image import Volume
from .bones import LabelledBones, bones_from_labels
from .label_files import read_label_map
from .totalsegmentator import (
    Installation,
    Options,
    TotalSegmentatorError,
    bones_by_totalsegmentator,
    find_totalsegmentator,
)

METHODS = ("auto", "atlas", "totalsegmentator", "labels")


@dataclass(frozen=True)
class BoneSource:
    """What a person chose.

    Attributes:
        method: one of `METHODS`; `auto` takes the label map if there is one, else TotalSegmentator if it is
            installed, else the atlas, and says so.
        labels: file of the label map.
        mapping: its labels or segments by structure, see `label_files.parse_mapping`.
        options: how TotalSegmentator runs.
    """

    method: str = "auto"
    labels: Path | None = None
    mapping: Mapping[str, str] | None = None
    options: Options = field(default_factory=Options)


def find_bones(
    ct: Volume,
    source: BoneSource,
    progress: Callable[[float], None] | None = None,
    find: Callable[[], Installation | None] = find_totalsegmentator,
) -> LabelledBones:
    """Find the bones of a CT by the method chosen; `LabelledBones.method` says which and, for `auto`, why.

    Args:
        progress: called with the fraction done; an exception from it cancels.
        find: looks for TotalSegmentator.

    Raises:
        AnatomyError: when the choice contradicts itself, or no bones were found.
        ImageError: for files that cannot be read.
    """
    _check(source)
    if source.method == "atlas":
        return _by_atlas(ct, progress)
    if source.method == "totalsegmentator":
        return bones_by_totalsegmentator(ct, find(), source.options, progress)
    if source.labels is not None:
        labelled = _by_labels(ct, source.labels, source.mapping)
        return labelled if source.method == "labels" else chosen_as(labelled, "a label map was given")
    installation = find()
    if installation is None:
        return chosen_as(_by_atlas(ct, progress), "no label map given, TotalSegmentator not installed")
    try:
        labelled = bones_by_totalsegmentator(ct, installation, source.options, progress)
    except TotalSegmentatorError as error:
        return built_in_instead(ct, "TotalSegmentator", error, progress)
    return chosen_as(labelled, "no label map given, TotalSegmentator installed")


def chosen_as(labelled: LabelledBones, reason: str) -> LabelledBones:
    """The bones, with why `auto` took this method added to its name."""
    return replace(labelled, method=f"{labelled.method}; chosen as {reason}")


def built_in_instead(
    ct: Volume, failed: str, error: TotalSegmentatorError, progress: Callable[[float], None] | None
) -> LabelledBones:
    """Bones by the built-in method because another one failed, which a warning says."""
    labelled = chosen_as(_by_atlas(ct, progress), f"{failed} failed")
    return replace(labelled, warnings=(*labelled.warnings, f"The bones are the built-in method's: {error}."))


def _check(source: BoneSource) -> None:
    if source.method not in METHODS:
        raise AnatomyError(f"{source.method} is no method; choose one of {', '.join(METHODS)}")
    if source.method == "labels" and source.labels is None:
        raise AnatomyError("--method labels needs the label map: give --labels FILE with sacrum, l5 and hips")
    if source.method in ("atlas", "totalsegmentator") and source.labels is not None:
        raise AnatomyError(f"--method {source.method} uses no label map; leave out --labels, or say --method labels")
    if source.mapping is not None and source.labels is None:
        raise AnatomyError("--mapping says what the labels of a label map are; give it with --labels FILE")


def _by_labels(ct: Volume, path: Path, mapping: Mapping[str, str] | None) -> LabelledBones:
    labels = read_label_map(path, mapping)
    return bones_from_labels(ct, labels.volume, labels.names, labels.numbering)


def _by_atlas(ct: Volume, progress: Callable[[float], None] | None) -> LabelledBones:
    from .atlas import segment_bones

    return segment_bones(ct, progress)
