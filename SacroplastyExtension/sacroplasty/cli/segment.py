"""`sacroplasty segment`: from a CT to named structures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from .common import OUTPUT_FOLDER, json_option, progress, report
from .fracture_lines import suggestion_lines
from .quality_table import quality_table


@click.command("segment")
@click.argument("ct", type=click.Path(path_type=Path))
@click.option("--out", type=OUTPUT_FOLDER, required=True, help="Folder for the results.")
@click.option(
    "--method",
    type=click.Choice(["auto", "atlas", "totalsegmentator", "labels"]),
    default="auto",
    show_default=True,
    help="How the bones are found. auto: labels when --labels is given, else TotalSegmentator when it is installed, "
    "else the built-in atlas.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="Bones: a label map (TotalSegmentator numbering, ours, or see --mapping) or a .seg.nrrd of 3D Slicer.",
)
@click.option(
    "--mapping",
    multiple=True,
    metavar="LABEL=STRUCTURE",
    help="What a label, or a segment by its name, is: 3=sacrum,4=l5 and so on, repeatable. Structures: sacrum, l5, "
    "hip_left, hip_right, sacral_canal, iliac_vessels; hips and spine for one label of several bones.",
)
@click.option(
    "--quality",
    type=click.Choice(["fast", "normal"]),
    default="fast",
    show_default=True,
    help="TotalSegmentator's network: of 3 mm voxels, or of 1.5 mm (slow without a GPU).",
)
@click.option(
    "--device",
    type=click.Choice(["gpu", "cpu"]),
    default="gpu",
    show_default=True,
    help="Where TotalSegmentator runs; without a GPU it takes the CPU.",
)
@click.option(
    "--mri",
    type=click.Path(path_type=Path),
    help="Fat-suppressed MRI (STIR or T2) of the same patient: is laid on the CT, and oedema is outlined.",
)
@click.option("--series", help="DICOM series instance UID, when the folder holds several.")
@click.option(
    "--hu-offset",
    type=float,
    default=0.0,
    show_default=True,
    help="What a calibration adds to the CT numbers when bone density is read.",
)
@json_option
def command(
    ct: Path,
    out: Path,
    method: str,
    labels: Path | None,
    mapping: tuple[str, ...],
    quality: str,
    device: str,
    mri: Path | None,
    series: str | None,
    hu_offset: float,
    as_json: bool,
) -> None:
    """Find sacrum, canal, foramina, alae and landmarks in CT (NIfTI, NRRD, MHA or a DICOM folder).

    Writes ct.nrrd, bones.nrrd, regions.nrrd, segmentation.seg.nrrd (opens in 3D Slicer) and anatomy.json; with --mri
    also mri_to_ct.json and oedema.nrrd (1 left, 2 right).
    """
    from ..anatomy.bone_sources import BoneSource, find_bones
    from ..anatomy.files import write_anatomy
    from ..anatomy.fracture_records import suggestion_records
    from ..anatomy.fracture_suggestions import suggest_fractures
    from ..anatomy.label_files import parse_mapping
    from ..anatomy.mri import read_mri
    from ..anatomy.mri_files import mri_summary, write_mri
    from ..anatomy.mri_registration import register_mri
    from ..anatomy.oedema import find_oedema
    from ..anatomy.quality import quality_as_record
    from ..anatomy.segment import find_structures
    from ..anatomy.totalsegmentator import Options
    from ..files import staged_directory
    from ..image import read_ct

    source = BoneSource(method, labels, parse_mapping(mapping), Options(quality, device))
    image = read_ct(ct, series)
    mri_image = read_mri(mri) if mri is not None else None
    with progress("Finding the bones") as update:
        labelled = find_bones(image, source, update)
    with progress("Finding canal and foramina") as update:
        anatomy = find_structures(image, labelled, update, hu_offset)
    with progress("Looking for fracture lines") as update:
        anatomy = replace(anatomy, fracture_suggestions=suggest_fractures(image, anatomy, update))
    registration = oedema = None
    if mri_image is not None:
        with progress("Laying the MRI on the CT") as update:
            registration = register_mri(image, mri_image, anatomy, progress=update)
        oedema = find_oedema(image, mri_image, anatomy, registration)
    with staged_directory(out) as stage:
        write_anatomy(anatomy, image, stage)
        if mri_image is not None and registration is not None:
            write_mri(stage, image, mri_image, registration, oedema)
    mri_lines, mri_json = mri_summary(registration, oedema)
    report(
        as_json,
        {
            "out": str(out),
            "method": anatomy.method,
            "image_hash": anatomy.image_hash,
            "confidence": anatomy.confidence,
            "quality": None if anatomy.quality is None else quality_as_record(anatomy.quality),
            "landmarks": {name: landmark.position_ras.tolist() for name, landmark in anatomy.landmarks.items()},
            "warnings": list(anatomy.warnings),
            "fracture_suggestions": suggestion_records(anatomy.fracture_suggestions),
            **mri_json,
        },
        "\n".join(
            [
                f"Bones: {anatomy.method}",
                *quality_table(anatomy),
                *suggestion_lines(anatomy.fracture_suggestions),
                *mri_lines,
                f"Written to {out}",
            ]
        ),
    )
