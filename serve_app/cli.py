"""The `glm-serve` command: runs up, ask, keys, doctor, plan, audit, wecom and drain."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serve_app import keys
from serve_app.arguments import parse
from serve_app.chinese.translate import in_terminal_language

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from serve_app.settings import Settings

# Slow imports are inside the functions, so that `--help` and `ask` start at once.

READER_LEFT: Final = 141  # 128 + SIGPIPE, as a shell reports it
_KEY: Final = re.compile("[!-~]*")  # what an Authorization header can have


class InvalidSettings(Exception):
    """The options or the environment have an invalid setting; the reasons are on standard error."""


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        try:
            options = parse(sys.argv[1:] if arguments is None else arguments)
            return COMMANDS[options.command](options)
        finally:
            sys.stdout.flush()
    except InvalidSettings:
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `glm-serve ask … | head -c 10`; Python would write to the closed pipe again at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_LEFT


def _up(options: argparse.Namespace) -> int:
    from serve_app.standalone.up import up

    settings = _settings(options)
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1) as console:
        return up(settings, lambda line: print(in_terminal_language(line), file=console), json_logs=options.json_logs)


def _ask(options: argparse.Namespace) -> int:
    from serve_app.ask import AskFailed, Question, ask

    url = options.url
    if url is None:
        url = _settings(options).http.local_url
    try:
        key = options.key_file.read_text(encoding="utf-8").strip() if options.key_file else ""
    except (OSError, UnicodeError) as error:
        _complain(f"The file of --key-file can't be read: {error}.")
        return 1
    if not _KEY.fullmatch(key):
        _complain(
            "The file of --key-file has characters that no API key has. It must have one key: ASCII letters, digits and"
            " punctuation in one line."
        )
        return 1
    try:
        question = Question.of(options.pictures, options.question, sys.stdin)
        ask(
            url,
            question,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            key=key,
            as_json=options.json,
            progress=sys.stderr if sys.stderr.isatty() else None,
        )
    except AskFailed as error:
        _complain(str(error))
        return 1
    return 0


def _keys(options: argparse.Namespace) -> int:
    file = _settings(options).access.keys_file if options.file is None else options.file
    return keys.run(options, file)


def _doctor(options: argparse.Namespace) -> int:
    from serve_app.doctor.report import show
    from serve_app.doctor.run_checks import run_checks

    settings = _settings(options)
    report = run_checks(settings, files_only=options.files)
    if options.json:
        print(json.dumps(report.as_object(), indent=2))
    else:
        show(report, sys.stdout)
    return 0 if report.can_serve else 1


def _plan(options: argparse.Namespace) -> int:
    from serve_app.errors import InvalidRequest
    from serve_app.plan.cli_args import write_plan

    try:
        values, summary = write_plan(options, shlex.join(options.arguments))
    except InvalidRequest as error:
        _complain(f"{f'{error.param}: ' if error.param else ''}{error.message}")
        return 1
    if options.output is None:
        print(values, end="", flush=True)
    else:
        try:
            Path(options.output).write_text(values, encoding="utf-8")
        except OSError as error:
            _complain(f"The plan can't be written to {options.output}: {error.strerror}.")
            return 1
    print(summary, file=sys.stderr)
    return 0


def _audit(options: argparse.Namespace) -> int:
    from serve_app.audit.commands import run

    return run(options, sys.stdout)


def _drain(options: argparse.Namespace) -> int:
    from serve_app.drain import drain_this_pod

    drain_this_pod(options.within, lambda line: print(f"glm-serve drain: {line}", flush=True))
    return 0


def _wecom(options: argparse.Namespace) -> int:
    if options.wecom_command == "simulate":
        from serve_app.bots.wecom.simulate import run as simulate

        return simulate(options, sys.stdout)
    from serve_app.bots.wecom.check import run as check

    return check(options, _settings(options), sys.stdout)


COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "up": _up,
    "ask": _ask,
    "keys": _keys,
    "doctor": _doctor,
    "plan": _plan,
    "audit": _audit,
    "wecom": _wecom,
    "drain": _drain,
}


def _complain(sentence: str) -> None:
    print(in_terminal_language(f"glm-serve: {sentence}"), file=sys.stderr)


def _settings(options: argparse.Namespace) -> Settings:
    """Settings from the options and the environment; prints what is invalid and raises InvalidSettings."""
    from pydantic import ValidationError

    from serve_app.settings import Settings, unknown_variables

    given: dict[str, dict[str, str]] = {}
    for setting, value in vars(options).items():
        section, dot, field = setting.partition(".")
        if dot and value is not None:
            given.setdefault(section, {})[field] = value
    for name, similar in (unknown := unknown_variables()).items():
        hint = f" Did you mean {similar}?" if similar else " docs/settings.md lists all settings."
        _complain(f"The environment variable {name} is not a setting.{hint}")
    if unknown:
        raise InvalidSettings
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        for problem in error.errors():
            _complain(_setting_error(problem))
        raise InvalidSettings from error


def _setting_error(problem: ErrorDetails) -> str:
    """The sentences for one of pydantic's errors."""
    from pydantic_settings import SettingsError

    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, SettingsError):
        return (
            f"A list or an object in the environment is not JSON ({cause}). Write it as in"
            """ GLM_MODEL__ALIASES='["first", "second"]'."""
        )
    if isinstance(cause, ValueError):  # a rule for a whole section; its text names the settings
        return str(cause)
    setting = ".".join(str(step) for step in problem["loc"])
    return f"The setting {setting} is {problem['input']!r}. {problem['msg'].rstrip('.')}."
