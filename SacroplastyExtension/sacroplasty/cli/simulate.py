"""`sacroplasty simulate`: tracker, C-arm and pump without hardware."""

from __future__ import annotations

from pathlib import Path

import click

_PORTS = {"tracker": 18944, "carm": 18945, "pump": 18946}


@click.command("simulate")
@click.argument("device", type=click.Choice([*_PORTS, "all"]))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port, 0 for any free one; with `all` the first of three. Default: tracker 18944, carm 18945, pump 18946.",
)
@click.option("--world", type=click.Path(path_type=Path), help="World document; a demonstration without one.")
@click.option(
    "--speed", type=float, default=1.0, show_default=True, help="How many times faster the pump's cement flows."
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the noise.")
@click.option("--fault", "faults", multiple=True, metavar="NAME[@SECONDS]", help="A defect, from so many seconds on.")
@click.option("--rate", "rate_hz", type=float, metavar="HZ", help="Poses per second of each tool.")
@click.option("--tools", type=click.IntRange(1, 8), help="How many tools the tracker looks for.")
@click.option("--until-stdin-closes", is_flag=True, help="End when standard input does.")
def command(
    device: str,
    port: int | None,
    world: Path | None,
    speed: float,
    seed: int | None,
    faults: tuple[str, ...],
    rate_hz: float | None,
    tools: int | None,
    until_stdin_closes: bool,
) -> None:
    """Serve simulated devices over OpenIGTLink on 127.0.0.1.

    Prints one JSON line on stdout for each server that is ready, {"role": "tracker", "port": 18944}. Ends on Ctrl-C.

    \b
    Faults: drop, delay, jitter, duplicate, reorder, freeze, stale-clock, clock-jump,
            half-open, slow-reader, bad-crc, truncated-body, absurd-size, garbage,
            reboot, ignore-run, run-after-stop, wrong-units.
    """
    from ..simulation.serve import Service, serve, serve_all

    roles = list(_PORTS) if device == "all" else [device]
    ports = _PORTS if port is None else {role: port + number if port else 0 for number, role in enumerate(roles)}
    services = [
        Service(
            role=role,
            port=ports[role],
            world=str(world) if world else None,
            speed=speed,
            seed=seed,
            faults=faults,
            rate_hz=rate_hz,
            tools=tools,
            until_stdin_closes=until_stdin_closes,
        )
        for role in roles
    ]
    if device == "all":
        serve_all(services)
    else:
        serve(services[0])
