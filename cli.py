"""The door: `python cli.py COMMAND`, or `lookahead COMMAND`. Commands live in `commands/` and are loaded when called.

It knows where data lives and how an error is shown; nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from store.records import LookaheadError

# name → module:attribute; a search must not pay for what only an ingest needs
COMMANDS = {
    "ingest": "commands.ingest:ingest",
    "search": "commands.search:search",
    "serve": "commands.serve:serve",
    "predict-next": "commands.predict:predict_next",
    "decode": "commands.decode:decode",
    "info": "commands.keep:info",
    "verify": "commands.keep:verify",
    "compact": "commands.keep:compact",
    "rollback": "commands.keep:rollback",
    "gc": "commands.keep:gc",
    "drop": "commands.keep:drop",
    "encode-shards": "commands.encode:encode_shards",
    "export": "commands.export:export",
    "train": "commands.train:train",
    "distill": "commands.distill:distill",
    "quantize": "commands.quantize:quantize",
    "evaluate": "commands.evaluate:evaluate",
    "leaderboard": "commands.leaderboard:leaderboard",
    "sweep": "commands.sweep:sweep",
    "bench": "commands.bench:bench",
    "demo": "commands.demo:demo",
}


class Commands(click.Group):
    """Loads a command when it is named, and turns errors meant for a person into one line and exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.message} Commands: {', '.join(COMMANDS)}.", ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except LookaheadError as error:
                click.echo(f"error: {error}", err=True)
                ctx.exit(2)
            except BrokenPipeError:  # the reader, `head` for example, has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                ctx.exit(0)
            except OSError as error:  # a full disk, a folder without permission
                where = f" ({error.filename})" if error.filename else ""
                click.echo(f"error: {error.strerror or error}{where}; nothing published was touched", err=True)
                ctx.exit(2)
            except KeyboardInterrupt:
                click.echo("stopped; what was published is as it was, and the same command goes on from here", err=True)
                ctx.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).resolve().parent / "data",
    envvar="LOOKAHEAD_HOME",
    help="Where collections are kept.  [default: data/ beside cli.py; env: LOOKAHEAD_HOME]",
)
@click.version_option(package_name="lookahead", prog_name="lookahead")
@click.pass_context
def main(ctx: click.Context, home: Path) -> None:
    """Search Wikipedia by meaning and by words, offline, and predict what comes next.

    \b
    Examples:
      lookahead ingest ../shared/data/enwiki/AA --collection wiki
      lookahead search "who built the first programmable computer" -k 5
      lookahead search "suspension bridge" --mode lexical --title "Bridge (engineering)" --json
      lookahead COMMAND --help
    """
    ctx.obj = home
    if sys.platform == "darwin":  # torch and faiss each bring an OpenMP there; two abort the process
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    from store.generations import DamageWarning

    if issubclass(category, DamageWarning):
        click.secho(f"WARNING: {message}", err=True, fg="red", bold=True)


if __name__ == "__main__":
    main()
