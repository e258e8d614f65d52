"""`sacroplasty session`: what is in a recorded device session, and what it can be turned into."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from ..errors import SacroplastyError
from .common import json_option, progress, report


@click.command("session")
@click.argument("recording", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A .igs.mha file (Plus), a .mrb file (sequences of 3D Slicer), or a folder for `monitor`.",
)
@json_option
def command(recording: Path, out: Path | None, as_json: bool) -> None:
    """Say what a recorded session holds, or turn it into something else.

    RECORDING is a file of the device desk (.session) or a sequence metafile of the Plus toolkit (.igs.mha).
    """
    from ..devices.session_file import REMARK, Session, read_session
    from ..navigation.sessions import session_of_plus

    session: Session = session_of_plus(recording) if recording.suffix == ".mha" else read_session(recording)
    received: dict[str, dict[str, int]] = {}
    for link in session.links:
        counts = Counter(f"{message.type_name} {message.name}".strip() for _, message in session.messages(link))
        if counts:
            received[link] = dict(sorted(counts.items()))
    remarks = [entry.record | {"time_s": round(entry.time_s, 3)} for entry in session.entries if entry.kind == REMARK]
    summary: dict[str, Any] = {
        "started_unix_s": session.started_unix_s,
        "duration_s": session.duration_s,
        "received": received,
        "remarks": remarks,
        "damaged_bytes": session.damaged_bytes,
    }
    lines = [f"{session.duration_s:.1f} s, {session.damaged_bytes} damaged bytes"]
    lines += [f"{link}: {count} {name}" for link, counts in received.items() for name, count in counts.items()]
    lines += [f"{remark['time_s']:.1f} s: {remark.get('role', '')} {remark.get('text', '')}" for remark in remarks]
    if out is not None:
        written = _convert(session, out)
        summary["written"] = [str(path) for path in written]
        lines += [f"written: {path}" for path in written]
    report(as_json, summary, "\n".join(lines))


def _convert(session: Any, out: Path) -> list[Path]:
    if out.name.endswith(".igs.mha"):
        from ..navigation.sessions import write_plus

        return [write_plus(session, out)]
    if out.suffix == ".mrb":
        from ..scene.host import HeadlessHost
        from ..scene.sessions import add_session

        host = HeadlessHost()
        with progress("Sequences") as tell:
            add_session(host.scene, session, tell)
        host.save(out)
        return [out]
    if out.suffix:
        raise SacroplastyError(f"a session cannot become {out.name}; give a .igs.mha or .mrb file, or a folder")
    from ..cement.recording import write_recording
    from ..cement.session_views import fluoroscopy_of
    from ..files import staged_directory

    views = fluoroscopy_of(session)
    with staged_directory(out) as stage:
        for view, recorded in views.items():
            write_recording(recorded, stage / view)
    return [out / view for view in views]
