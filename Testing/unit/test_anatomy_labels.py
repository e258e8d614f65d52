"""Label maps of other people: their numbers, names, files, and bones that share a label."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from command_line import CommandLine
from nifti_labels import write_with_names
from sacroplasty.anatomy.bones import bones_from_labels
from sacroplasty.anatomy.files import read_anatomy, write_anatomy
from sacroplasty.anatomy.frame import find_frame
from sacroplasty.anatomy.label_files import parse_mapping, read_label_map
from sacroplasty.anatomy.labels import BONE_LABEL
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.structure_names import structure_of
from sacroplasty.errors import AnatomyError
from sacroplasty.geometry import transform_points
from sacroplasty.image import Volume, itk_from_volume, write_itk, write_volume
from simple_sacrum import SACRUM_TO_RAS, SimpleSacrum, simple_sacrum


@pytest.fixture(scope="module")
def truth() -> SimpleSacrum:
    return simple_sacrum(spacing_mm=2.5)


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("vertebrae_S1", "sacrum"),
        ("Os sacrum", "sacrum"),
        ("vertebrae_L5", "l5"),
        ("L5 vertebra", "l5"),
        ("5th lumbar vertebra", "l5"),
        ("hip_left", "hip_left"),
        ("Right hip bone", "hip_right"),
        ("Hips", "hips"),
        ("Lumbar spine", "spine"),
        ("spinal_cord", "sacral_canal"),
        ("iliac_vena_left", "iliac_vessels"),
        ("Right common iliac artery", "iliac_vessels"),
        ("vertebrae_L4", None),
        ("body_s1", None),
        ("S1", None),
        ("hip implant left", None),
        ("left sacrum", None),
        ("gluteus_maximus_left", None),
        ("", None),
    ],
)
def test_names_are_understood_or_left_alone(name: str, structure: str | None) -> None:
    assert structure_of(name) == structure


def test_a_segment_without_a_telling_name_is_known_by_its_terminology() -> None:
    start = "Segmentation category and type~SCT^123037004^Anatomical Structure"
    assert structure_of("Segment_1", f"{start}~SCT^54735007^Sacrum~^^~Anatomic codes~^^~^^") == "sacrum"
    assert structure_of("Segment_2", f"{start}~SCT^29836001^Hip~SCT^24028007^Right~Anatomic codes~^^~^^") == "hip_right"
    assert structure_of("Segment_3", f"{start}~99XY^1^Left hip bone~^^~Anatomic codes~^^~^^") == "hip_left"
    assert structure_of("Segment_4", f"{start}~SCT^10200004^Liver~^^~Anatomic codes~^^~^^") is None


def test_a_mapping_is_read_from_the_words_of_the_command_line() -> None:
    assert parse_mapping(()) is None
    assert parse_mapping(("3=sacrum,4=l5", "Left one = hip_left")) == {
        "3": "sacrum",
        "4": "l5",
        "Left one": "hip_left",
    }
    for entry, message in (("3", "no LABEL=STRUCTURE"), ("3=liver", "liver is not known"), ("3=l5,3=sacrum", "twice")):
        with pytest.raises(AnatomyError, match=f"--mapping .*{message}"):
            parse_mapping((entry,))


def _renumbered(truth: SimpleSacrum, sacrum: int, l5: int, left: int, right: int) -> Volume:
    return truth.bones.like(np.array([0, sacrum, l5, left, right], np.uint8)[truth.bones.voxels])


def test_a_given_mapping_finds_the_bones_and_must_fit_the_file(truth: SimpleSacrum, tmp_path: Path) -> None:
    write_volume(_renumbered(truth, 7, 8, 20, 21), tmp_path / "labels.nrrd")
    labels = read_label_map(tmp_path / "labels.nrrd", parse_mapping(("7=sacrum,8=l5,20=hip_left,21=hip_right",)))
    labelled = bones_from_labels(truth.ct, labels.volume, labels.names, labels.numbering)
    assert np.array_equal(labelled.bones.voxels, truth.bones.voxels)
    assert "mapping" in labelled.method
    with pytest.raises(AnatomyError, match=r"--mapping names the labels 9, but .*labels.nrrd holds 7, 8, 20, 21"):
        read_label_map(tmp_path / "labels.nrrd", {"7": "sacrum", "9": "l5"})
    plain = read_label_map(tmp_path / "labels.nrrd")
    with pytest.raises(AnatomyError, match="--mapping 3=sacrum"):
        bones_from_labels(truth.ct, plain.volume, plain.names)


def test_the_numbering_of_totalsegmentators_first_version_is_known(truth: SimpleSacrum) -> None:
    labelled = bones_from_labels(truth.ct, _renumbered(truth, 92, 18, 90, 91))
    assert np.array_equal(labelled.bones.voxels, truth.bones.voxels)
    assert labelled.method == "labels (TotalSegmentator version 1)"


def test_names_in_the_header_of_a_nifti_win_over_numbers(truth: SimpleSacrum, tmp_path: Path) -> None:
    # 25 is the sacrum to one version of TotalSegmentator and a vertebra of the chest to the other.
    numbered = _renumbered(truth, 92, 25, 90, 91)
    names = {92: "sacrum", 25: "vertebrae_L5", 90: "hip_left", 91: "hip_right", 8: "liver"}
    for file in ("labels.nii", "labels.nii.gz"):
        write_with_names(numbered, names, tmp_path / file)
        labels = read_label_map(tmp_path / file)
        labelled = bones_from_labels(truth.ct, labels.volume, labels.names, labels.numbering)
        assert np.array_equal(labelled.bones.voxels, truth.bones.voxels)


def _segments(layers: list[np.ndarray], grid: Volume, segments: list[dict[str, str]], path: Path) -> Path:
    """A .seg.nrrd as Slicer writes it: layers as the components of each voxel."""
    image = sitk.GetImageFromArray(np.stack(layers, axis=-1), isVector=True)
    image.CopyInformation(itk_from_volume(grid))
    for number, fields in enumerate(segments):
        for field, value in fields.items():
            image.SetMetaData(f"Segment{number}_{field}", value)
    write_itk(image, path)
    return path


def test_segments_of_slicer_in_overlapping_layers_are_found_by_name_or_terminology(
    truth: SimpleSacrum, tmp_path: Path
) -> None:
    bones = truth.bones.voxels
    first = np.where(bones == 1, 3, np.where(bones == 2, 1, 0)).astype(np.uint8)
    second = np.where(bones >= 3, bones, 0).astype(np.uint8)
    second[truth.canal] = 9
    sacrum = "TerminologyEntry:Segmentation~SCT^123037004^Anatomical Structure~SCT^54735007^Sacrum~^^~~^^~^^|"
    segments = [
        {"ID": "Segment_1", "Name": "Segment_1", "LabelValue": "3", "Layer": "0", "Tags": sacrum},
        {"ID": "Segment_2", "Name": "L5", "LabelValue": "1", "Layer": "0"},
        {"ID": "a", "Name": "Left hip", "LabelValue": "3", "Layer": "1"},
        {"ID": "b", "Name": "hip_right", "LabelValue": "4", "Layer": "1"},
        {"ID": "c", "Name": "Spinal canal", "LabelValue": "9", "Layer": "1"},
        {"ID": "d", "Name": "Skin", "LabelValue": "77", "Layer": "1"},
    ]
    path = _segments([first, second], truth.ct, segments, tmp_path / "bones.seg.nrrd")
    labels = read_label_map(path)
    labelled = bones_from_labels(truth.ct, labels.volume, labels.names, labels.numbering)
    assert np.array_equal(labelled.bones.voxels, bones)
    assert np.array_equal(labelled.canal, truth.canal & (bones == 0))

    for segment, name in zip(segments, ("A", "B", "C", "D", "E", "F"), strict=True):
        segment.update({"Name": name, "Tags": "|"})
    path = _segments([first, second], truth.ct, segments, tmp_path / "unnamed.seg.nrrd")
    with pytest.raises(AnatomyError, match=r"no segment of .* is a sacrum; it holds A, B, .*--mapping"):
        read_label_map(path)
    labels = read_label_map(path, {"A": "sacrum", "B": "l5", "C": "hip_left", "D": "hip_right"})
    labelled = bones_from_labels(truth.ct, labels.volume, labels.names, labels.numbering)
    assert np.array_equal(labelled.bones.voxels, bones)
    with pytest.raises(AnatomyError, match="--mapping names the segments Z"):
        read_label_map(path, {"Z": "sacrum"})


def test_a_segmentation_that_was_written_here_is_read_back(truth: SimpleSacrum, tmp_path: Path) -> None:
    empty = truth.bones.like(np.zeros_like(truth.bones.voxels))
    anatomy = Anatomy(truth.bones, empty, {}, {}, SACRUM_TO_RAS, {}, (), "test", truth.ct.content_hash())
    write_anatomy(anatomy, truth.ct, tmp_path)
    labels = read_label_map(tmp_path / "segmentation.seg.nrrd")
    labelled = bones_from_labels(truth.ct, labels.volume, labels.names, labels.numbering)
    assert np.array_equal(labelled.bones.voxels, truth.bones.voxels)


def test_the_command_takes_a_mapping(sacroplasty: CommandLine, tmp_path: Path) -> None:
    simple = simple_sacrum(spacing_mm=3.0)
    write_volume(simple.ct, tmp_path / "ct.nrrd")
    write_volume(_renumbered(simple, 3, 4, 1, 1), tmp_path / "labels.nrrd")
    mapping = ["--mapping", "3=sacrum,4=l5", "--mapping", "1=hips"]
    ended = sacroplasty(
        *("segment", tmp_path / "ct.nrrd", "--labels", tmp_path / "labels.nrrd", *mapping, "--json"),
        *("--out", tmp_path / "out"),
    )
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["method"] == "labels (mapping given); chosen as a label map was given"
    assert np.array_equal(read_anatomy(tmp_path / "out").bones.voxels, simple.bones.voxels)


def test_iliac_vessels_come_with_the_bones_when_they_are_labelled(truth: SimpleSacrum) -> None:
    numbered = _renumbered(truth, 25, 27, 77, 78)
    assert bones_from_labels(truth.ct, numbered).vessels is None
    numbered.voxels[2:6, 3:5, 4] = 67
    vessels = bones_from_labels(truth.ct, numbered).vessels
    assert vessels is not None and np.count_nonzero(vessels) == 8 and vessels[2, 3, 4]


def test_both_hips_in_one_label_are_parted_by_the_sacrum(truth: SimpleSacrum) -> None:
    one_label = _renumbered(truth, 3, 4, 1, 1)
    labelled = bones_from_labels(truth.ct, one_label, {1: "hips", 3: "sacrum", 4: "l5"})
    assert np.array_equal(labelled.bones.voxels, truth.bones.voxels)


def _with_l4(truth: SimpleSacrum, gap_mm: float) -> Volume:
    """Another vertebra above L5, whose body ends 34 mm above the sacrum of `simple_sacrum`."""
    k, j, i = np.indices(truth.ct.voxels.shape)
    ras = transform_points(truth.ct.IJKToRAS, np.stack([i, j, k], axis=-1))
    x, y, z = np.moveaxis(transform_points(np.linalg.inv(SACRUM_TO_RAS), ras), -1, 0)
    above = (z > 34 + gap_mm) & (z <= 70) & (y >= -17) & (y <= 16) & (np.abs(x) <= 24)
    return truth.bones.like(np.where(above, 2, truth.bones.voxels).astype(np.uint8))


def test_the_vertebra_on_the_sacrum_is_taken_from_a_label_of_the_spine(truth: SimpleSacrum) -> None:
    mapping = {1: "sacrum", 2: "spine", 3: "hip_left", 4: "hip_right"}
    apart = bones_from_labels(truth.ct, _with_l4(truth, gap_mm=8), mapping)
    assert np.array_equal(apart.bones.voxels, truth.bones.voxels)
    assert apart.confidence["l5"] == apart.confidence["sacrum"]

    column = _with_l4(truth, gap_mm=0)
    fused = bones_from_labels(truth.ct, column, mapping)
    found, true = fused.bones.voxels == BONE_LABEL["l5"], truth.bones.voxels == BONE_LABEL["l5"]
    assert (found & true).sum() == true.sum()
    assert found.sum() < 1.4 * true.sum()
    assert fused.confidence["l5"] < fused.confidence["sacrum"]
    assert any("no gaps at the discs" in warning for warning in fused.warnings)

    bridged = column.voxels.copy()
    gap = (_with_l4(truth, gap_mm=8).voxels == 0) & (bridged == 2)
    beside_the_canal = np.abs(_left_mm(truth)) > 16
    bridged[gap & ~beside_the_canal] = 0
    parted = bones_from_labels(truth.ct, column.like(bridged), mapping)
    found = parted.bones.voxels == BONE_LABEL["l5"]
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.9
    assert parted.confidence["l5"] == parted.confidence["sacrum"]


def _left_mm(truth: SimpleSacrum) -> np.ndarray:
    k, j, i = np.indices(truth.ct.voxels.shape)
    ras = transform_points(truth.ct.IJKToRAS, np.stack([i, j, k], axis=-1))
    return (ras - SACRUM_TO_RAS[:3, 3]) @ SACRUM_TO_RAS[:3, 0]


def test_a_spine_that_does_not_reach_the_sacrum_is_refused(truth: SimpleSacrum) -> None:
    far = _with_l4(truth, gap_mm=8)
    far = far.like(np.where(truth.bones.voxels == 2, 0, far.voxels).astype(np.uint8))
    with pytest.raises(AnatomyError, match="no vertebra of the spine label stands on the sacrum"):
        bones_from_labels(truth.ct, far, {1: "sacrum", 2: "spine"})


def test_a_manual_label_map_of_hips_and_spine_can_be_used(shared_data: Path) -> None:
    path = shared_data / "labels" / "pelvic_annotation" / "patient_001.nrrd"
    labels = read_label_map(path, parse_mapping(("3=sacrum,1=hips,4=spine",)))
    # The pelvis and what stands on it; the rest only takes time.
    corner = labels.volume.IJKToRAS @ np.array([100, 240, 30, 1.0])
    IJKToRAS = np.column_stack([labels.volume.IJKToRAS[:, :3], corner])
    pelvis = Volume(labels.volume.voxels[30:125, 240:430, 100:420], IJKToRAS)
    labelled = bones_from_labels(pelvis, pelvis, labels.names, labels.numbering)
    volume_ml = {
        name: np.count_nonzero(labelled.bones.voxels == label) * pelvis.voxel_volume_ml
        for name, label in BONE_LABEL.items()
    }
    assert volume_ml["sacrum"] == pytest.approx(np.count_nonzero(pelvis.voxels == 3) * pelvis.voxel_volume_ml)
    assert volume_ml["hip_left"] / volume_ml["hip_right"] == pytest.approx(1.0, abs=0.1)
    assert 50 < volume_ml["l5"] < 150
    assert labelled.confidence["l5"] < 0.8
    find_frame(labelled.bones)
