"""The command line: `sacroplasty COMMAND`."""

from __future__ import annotations

import importlib
import os
import signal
import sys

import click

from .. import RESEARCH_NOTICE, __version__
from ..errors import SacroplastyError

#: Commands in the order of the procedure: name, module of this package.
_COMMANDS = {
    "rehearse": "rehearse",
    "sample": "sample",
    "phantom": "phantom",
    "segment": "segment",
    "plan": "plan",
    "xray": "xray",
    "distortion": "distortion",
    "pivot": "pivot",
    "register": "register",
    "simulate": "simulate",
    "session": "session",
    "spread": "spread",
    "monitor": "monitor",
}


class _Commands(click.Group):
    """Imports a command's module when it is called or listed, so that start-up stays quick."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{_COMMANDS[name]}").command
        return command


@click.command(cls=_Commands, epilog=RESEARCH_NOTICE, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sacroplasty")
def cli() -> None:
    """Image-guided percutaneous sacroplasty, from the planning CT to the report."""


def main() -> None:
    """Run a command. Bad input ends in one line and exit code 2, Ctrl-C or a polite kill in 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Without click's own mode a command's exit code comes back as the result.
        sys.exit(cli(standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.UsageError as error:
        _fail(f"{error.format_message()} (see {error.ctx.command_path if error.ctx else 'sacroplasty'} --help)", 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped; nothing was left behind", 130)
    except (SacroplastyError, click.ClickException) as error:
        _fail(str(error), 2)
    except BrokenPipeError:
        # Who read the output has seen enough; the rest must not fail once more at the end of the program.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 2)


def _fail(message: str, code: int) -> None:
    click.echo(f"sacroplasty: {' '.join(message.split())}", err=True)
    sys.exit(code)
