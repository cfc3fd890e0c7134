"""The `glm-serve` command: `up` starts the service here, `ask` puts a question to one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from serve_app import __version__

# Nothing heavy is imported up here: `--help` and `ask` should answer at once.

DESCRIPTION = """\
Questions about pictures, answered by GLM vision models.

  glm-serve up                                   start the service here, with the small demo model
  glm-serve ask label.png "What is the number?"  ask the running service about a picture
"""

UP_DESCRIPTION = """\
Start the service on this machine and keep it in the foreground; Ctrl-C stops it.

Without options it serves the small model that comes with the package, on http://127.0.0.1:8000,
for this machine only. Every setting can also be given in the environment (GLM_ENGINE__MAX_SLOTS=32);
docs/settings.md lists them. Options win over the environment.
"""

ASK_DESCRIPTION = """\
Ask a running service about pictures; the answer appears as it is written.

  glm-serve ask label.png "运单号是多少？"
  glm-serve ask before.jpg after.jpg "What changed?"
  glm-serve ask "Hello"                          a question without a picture
"""

# option, setting, what it says; types and bounds are the setting's own
UP_OPTIONS = (
    ("--model", "model.path", "PATH", "model folder or hub id (default: the demo model)"),
    ("--name", "model.name", "NAME", "the model's name in the API (default: the last part of its path)"),
    ("--quantization", "model.quantization", "HOW", "hold the weights as: none, nf4 or int8 (default: none)"),
    ("--dtype", "model.dtype", "TYPE", "compute in: auto, float32, bfloat16 or float16 (default: auto)"),
    ("--device", "model.device", "WHERE", "run on: auto, cpu or cuda (default: a GPU if there is one)"),
    ("--context", "model.context_tokens", "TOKENS", "longest prompt plus answer (default: 8192)"),
    ("--slots", "engine.max_slots", "N", "answers written at the same time (default: 16)"),
    ("--host", "http.host", "ADDRESS", "address to listen on (default: 127.0.0.1; 0.0.0.0: every network)"),
    ("--port", "http.port", "PORT", "port of the API (default: 8000)"),
    ("--metrics-port", "metrics.port", "PORT", "port of the Prometheus endpoint (default: 8080)"),
    ("--log-level", "log.level", "LEVEL", "DEBUG, INFO, WARNING or ERROR (default: INFO)"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _command(argparse.ArgumentParser, prog="glm-serve", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"glm-serve {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    up = _command(
        commands.add_parser,
        "up",
        help="start the service here and keep it in the foreground",
        description=UP_DESCRIPTION,
    )
    for flag, setting, metavar, what in UP_OPTIONS:
        up.add_argument(flag, dest=setting, metavar=metavar, help=what)
    up.add_argument("--json-logs", action="store_true", help="write log records to the terminal as JSON lines")
    up.set_defaults(run=_up)

    ask = _command(commands.add_parser, "ask", help="ask a running service about pictures", description=ASK_DESCRIPTION)
    ask.add_argument("pictures", nargs="*", metavar="PICTURE", help="image file, or its http(s) address")
    ask.add_argument("question", metavar="QUESTION", help="what to ask about them")
    ask.add_argument(
        "--url", default="http://127.0.0.1:8000", metavar="URL", help="the service (default: http://127.0.0.1:8000)"
    )
    ask.add_argument("--max-tokens", type=int, metavar="N", help="longest answer (default: the service's)")
    ask.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 always gives the likeliest words (default: 0)"
    )
    ask.set_defaults(run=_ask)
    return parser


def _command(create: Any, *names: str, **words: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = create(*names, formatter_class=argparse.RawDescriptionHelpFormatter, **words)
    return parser


def _up(options: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from serve_app.settings import Settings
    from serve_app.standalone import up

    given: dict[str, dict[str, str]] = {}
    for _, setting, _, _ in UP_OPTIONS:
        value = getattr(options, setting)
        if value is not None:
            section, _, field = setting.partition(".")
            given.setdefault(section, {})[field] = value
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        for problem in error.errors():
            setting = ".".join(str(step) for step in problem["loc"])
            print(f"glm-serve: {setting} = {problem['input']!r}: {problem['msg']}", file=sys.stderr)
        return 2
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1) as console:
        return up(settings, lambda line: print(line, file=console), json_logs=options.json_logs)


def _ask(options: argparse.Namespace) -> int:
    from serve_app.ask import AskFailed, ask

    try:
        ask(
            options.url,
            options.pictures,
            options.question,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            progress=sys.stderr if sys.stderr.isatty() else None,
        )
    except AskFailed as error:
        print(f"glm-serve: {error}", file=sys.stderr)
        return 1
    return 0
