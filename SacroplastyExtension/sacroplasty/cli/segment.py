"""`sacroplasty segment`: from a CT to named structures."""

from __future__ import annotations

from pathlib import Path

import click

from .common import OUTPUT_FOLDER, json_option, progress, report


@click.command("segment")
@click.argument("ct", type=click.Path(path_type=Path))
@click.option("--out", type=OUTPUT_FOLDER, required=True, help="Folder for the results.")
@click.option(
    "--method",
    type=click.Choice(["auto", "labels"]),
    default="auto",
    show_default=True,
    help="How the bones are found: from a label map (also what auto does when --labels is given).",
)
@click.option(
    "--labels", type=click.Path(path_type=Path), help="Label map of the bones (TotalSegmentator numbering or ours)."
)
@click.option("--series", help="DICOM series instance UID, when the folder holds several.")
@json_option
def command(ct: Path, out: Path, method: str, labels: Path | None, series: str | None, as_json: bool) -> None:
    """Find sacrum, canal, foramina, alae and landmarks in CT (NIfTI, NRRD, MHA or a DICOM folder).

    Writes ct.nrrd, bones.nrrd, regions.nrrd, segmentation.seg.nrrd (opens in 3D Slicer) and anatomy.json.
    """
    from ..anatomy.files import write_anatomy
    from ..anatomy.segment import segment_from_labels
    from ..errors import AnatomyError
    from ..image import read_ct, read_volume

    if labels is None:
        raise AnatomyError(
            f"--method {method} needs a label map of the bones: give --labels FILE with sacrum, l5 and hips, for "
            "example TotalSegmentator's (task total)"
        )
    image = read_ct(ct, series)
    label_map = read_volume(labels)
    with progress("Finding canal and foramina") as update:
        anatomy = segment_from_labels(image, label_map, progress=update)
    write_anatomy(anatomy, image, out)
    lines = [f"{name:<20} {value:4.0%}" for name, value in sorted(anatomy.confidence.items())]
    notes = [f"Check: {warning}" for warning in anatomy.warnings]
    report(
        as_json,
        {
            "out": str(out),
            "method": anatomy.method,
            "image_hash": anatomy.image_hash,
            "confidence": anatomy.confidence,
            "landmarks": {name: landmark.position_ras.tolist() for name, landmark in anatomy.landmarks.items()},
            "warnings": list(anatomy.warnings),
        },
        "\n".join(["structure            confidence", *lines, *notes, f"Written to {out}"]),
    )
