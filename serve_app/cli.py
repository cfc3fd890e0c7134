"""The `glm-serve` command: `up` starts the service here, `doctor` looks ahead, `ask` puts a question."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from serve_app import __version__

if TYPE_CHECKING:
    from serve_app.settings import Settings

# Nothing heavy is imported up here: `--help` and `ask` should answer at once.

DESCRIPTION = """\
Questions about pictures, answered by GLM vision models.

  glm-serve up                                   start the service here, with the small demo model
  glm-serve doctor                               look at machine and model, and say what keeps it from starting
  glm-serve ask label.png "What is the number?"  ask the running service about a picture
"""

UP_DESCRIPTION = """\
Start the service on this machine and keep it in the foreground; Ctrl-C stops it.

Without options it serves the small model that comes with the package, on http://127.0.0.1:8000,
for this machine only. Every setting can also be given in the environment (GLM_ENGINE__MAX_SLOTS=32);
docs/settings.md lists them. Options win over the environment.
"""

DOCTOR_DESCRIPTION = """\
Look at everything that `glm-serve up` needs, say what is fine, what is wrong and what to do about it.

  glm-serve doctor                                       this machine, with the demo model
  glm-serve doctor --model DIR --quantization nf4        and whether a model is whole and fits

It takes the options and the environment of `up`, changes nothing and downloads nothing. The exit status
is 0 if the service can start, warnings or not, and 1 if it can't.
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
    _add_settings(up)
    up.add_argument("--json-logs", action="store_true", help="write log records to the terminal as JSON lines")
    up.set_defaults(run=_up)

    doctor = _command(
        commands.add_parser,
        "doctor",
        help="look at machine and model, say what to do",
        description=DOCTOR_DESCRIPTION,
    )
    _add_settings(doctor)
    doctor.add_argument("--json", action="store_true", help="write one JSON object instead of lines")
    doctor.set_defaults(run=_doctor)

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


def _add_settings(command: argparse.ArgumentParser) -> None:
    for flag, setting, metavar, what in UP_OPTIONS:
        command.add_argument(flag, dest=setting, metavar=metavar, help=what)
    command.add_argument(
        "--quantize-vision",
        dest="model.quantize_vision",
        action="store_const",
        const="true",
        help="quantize the vision tower too (default: it stays whole)",
    )


def _command(create: Any, *names: str, **words: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = create(*names, formatter_class=argparse.RawDescriptionHelpFormatter, **words)
    return parser


def _up(options: argparse.Namespace) -> int:
    from serve_app.standalone import up

    settings = _settings(options)
    if settings is None:
        return 2
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1) as console:
        return up(settings, lambda line: print(line, file=console), json_logs=options.json_logs)


def _doctor(options: argparse.Namespace) -> int:
    from serve_app.doctor.examination import examine
    from serve_app.doctor.report import show

    settings = _settings(options)
    if settings is None:
        return 2
    report = examine(settings)
    if options.json:
        print(json.dumps(report.as_object(), indent=2))
    else:
        show(report, sys.stdout)
    return 0 if report.can_serve else 1


def _settings(options: argparse.Namespace) -> Settings | None:
    """The options that name a setting, over the environment; None if one is wrong, which is then told."""
    from pydantic import ValidationError

    from serve_app.settings import Settings

    given: dict[str, dict[str, str]] = {}
    for setting, value in vars(options).items():
        section, dot, field = setting.partition(".")
        if dot and value is not None:
            given.setdefault(section, {})[field] = value
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        for problem in error.errors():
            setting = ".".join(str(step) for step in problem["loc"])
            print(f"glm-serve: {setting} = {problem['input']!r}: {problem['msg']}", file=sys.stderr)
        return None


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
