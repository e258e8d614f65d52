"""`sacroplasty sample`: the sample patient."""

from __future__ import annotations

from pathlib import Path

import click

from .common import OUTPUT_FOLDER, json_option, report


@click.command("sample")
@click.option("--out", type=OUTPUT_FOLDER, help="Copy CT and labels into this folder.")
@json_option
def command(out: Path | None, as_json: bool) -> None:
    """Fetch the sample patient: a real CT of the pelvis with labels.

    It comes from the source distribution of the Python package totalsegmentator 2.18.0 (Apache-2.0), is checked
    against its SHA-256 and kept in the user's cache folder.
    """
    import shutil

    from ..files import atomic_file
    from ..sample import fetch_sample

    sample = fetch_sample()
    if out is not None:
        for file in (sample.ct, sample.labels):
            with atomic_file(out / file.name) as draft:
                shutil.copyfile(file, draft)
    folder = out or sample.ct.parent
    report(
        as_json,
        {"ct": str(folder / sample.ct.name), "labels": str(folder / sample.labels.name)},
        f"CT      {folder / sample.ct.name}\nlabels  {folder / sample.labels.name}",
    )
