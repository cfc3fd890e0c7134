"""Arguments of the `glm-serve` command: options, help texts and hints for options that do not exist."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serve_app import __version__, keys
from serve_app.audit_arguments import AUDIT_DESCRIPTION, add_audit_arguments
from serve_app.wecom_arguments import WECOM_DESCRIPTION, add_wecom_arguments

DESCRIPTION = """\
Serve GLM vision models, which answer questions about pictures.

Start with:
  glm-serve up                                       start the service on this machine with a small demo model
  glm-serve ask label.png "What is the number?"      ask it about a picture, from another terminal

With a model of your own:
  glm-serve doctor --model DIR                       check whether this machine can serve the model
  glm-serve up --model DIR                           serve it
"""

UP_DESCRIPTION = """\
Start the service on this machine and keep it in the foreground. Ctrl-C stops it.

Without options it serves the small demo model of this package on http://127.0.0.1:8000, for this machine only.
Every setting can also be given in the environment (GLM_ENGINE__MAX_SLOTS=32); docs/settings.md lists all of them.
Options override the environment.
"""

DOCTOR_DESCRIPTION = """\
Check everything that `glm-serve up` needs: software, GPU, memory, ports, model files. For each problem it says what
to do.

  glm-serve doctor                                       check this machine, with the demo model
  glm-serve doctor --model DIR --quantization nf4        check also whether the model is complete and fits

It takes the options and the environment of `up`. It changes nothing and downloads nothing. The exit status is 0 if
the service can start, with or without warnings, and 1 if it can't.
"""

ASK_DESCRIPTION = """\
Ask a running service about pictures. The answer is printed as it is generated; remarks go to standard error.

  glm-serve ask label.png "运单号是多少？"
  glm-serve ask before.jpg after.jpg "What changed?"     several pictures, the question last
  glm-serve ask invoice.pdf "What is the total?"         each page is a picture
  glm-serve ask "Hello"                                  a question without a picture
  glm-serve ask label.png - < question.txt               the question from standard input
"""

PLAN_DESCRIPTION = """\
Write a values file for the Helm chart: how many GPUs a load needs, and with which settings.

  glm-serve plan --model zai-org/GLM-4.6V-Flash --gpu L4 --requests-per-second 1 -o values.yaml

Comments in the file give the reason for each figure. GPU times are calculated from measurements on an H200, and are
estimates for every other card. Name the card with --gpu (L4, A10, RTX 4090, A100 80GB, H100 SXM, H200, ...; an
unknown name lists all of them) or describe it with the other --gpu options.
"""

DRAIN_DESCRIPTION = """\
Move the work of this pod to other nodes before the pod stops. The Helm chart runs it as the workers' preStop hook.

The pod's Ray node is marked as draining. Serve then starts replacements on other nodes, routes traffic to them, and
fails the health check here, so that no new connection arrives. The command returns when no part of Serve is left on
the node, or when the time is over. It finds the Ray cluster by the environment variables that KubeRay sets. The exit
status is always 0, because Kubernetes stops the pod in any case.
"""

# (option, setting, metavar, help); the setting has the type and the bounds
UP_OPTIONS = (
    ("--model", "model.path", "PATH", "model folder or hub id (default: the demo model)"),
    ("--name", "model.name", "NAME", "the model's name in the API (default: the last part of its path)"),
    ("--quantization", "model.quantization", "FORMAT", "weight format: none, fp8, nf4 or int8 (default: none)"),
    ("--dtype", "model.dtype", "TYPE", "compute type: auto, float32, bfloat16 or float16 (default: auto)"),
    ("--device", "model.device", "DEVICE", "auto, cpu or cuda (default: a GPU if there is one)"),
    ("--context", "model.context_tokens", "TOKENS", "longest prompt plus answer (default: 8192)"),
    ("--slots", "engine.max_slots", "N", "requests that are decoded at the same time (default: 16)"),
    ("--engines", "replicas.engine", "N", "engine replicas, each on a GPU of its own if there are GPUs (default: 1)"),
    ("--host", "http.host", "ADDRESS", "address to listen on (default: 127.0.0.1; 0.0.0.0 listens on all networks)"),
    ("--keys", "access.keys_file", "FILE", "file of API keys, made by `glm-serve keys` (default: no authentication)"),
    (
        "--anonymous",
        "access.anonymous",
        "RULE",
        "allow: requests need no key, also from other machines (default: loopback)",
    ),
    ("--port", "http.port", "PORT", "port of the API (default: 8000)"),
    ("--metrics-port", "metrics.port", "PORT", "port of the Prometheus endpoint (default: 8080)"),
    ("--log-level", "log.level", "LEVEL", "lowest level to log: DEBUG, INFO, WARNING or ERROR (default: INFO)"),
)


class Parser(argparse.ArgumentParser):
    """Suggests an option where one is misspelt, as `--prot`."""

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        parsed, unknown = super().parse_known_args(*arguments, **options)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown)}")
        return parsed, unknown

    def _hint(self, unknown: Sequence[str]) -> str:
        for word in unknown:
            flag = word.partition("=")[0]
            if flag.startswith("-") and (similar := difflib.get_close_matches(flag, self._option_string_actions, 1)):
                return f". Did you mean {similar[0]}?"
        return ""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with the name of the command in `command`; ends the process with status 2 if they are wrong."""
    return _parser().parse_args(arguments, argparse.Namespace(arguments=arguments))


def _parser() -> argparse.ArgumentParser:
    parser = _command(Parser, prog="glm-serve", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"glm-serve {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    up = _command(
        commands.add_parser,
        "up",
        help="start the service on this machine, in the foreground",
        description=UP_DESCRIPTION,
    )
    _add_settings(up)
    up.add_argument("--json-logs", action="store_true", help="log to the terminal as JSON lines")

    ask = _command(commands.add_parser, "ask", help="ask a running service about pictures", description=ASK_DESCRIPTION)
    _add_ask(ask)

    doctor = _command(
        commands.add_parser,
        "doctor",
        help="check whether machine and model are ready, and say what to do",
        description=DOCTOR_DESCRIPTION,
    )
    _add_settings(doctor)
    doctor.add_argument("--json", action="store_true", help="print the report as one JSON object")
    doctor.add_argument("--files", action="store_true", help="check only the settings and the model's files")

    keys.add_arguments(
        _command(commands.add_parser, "keys", help="make, list and revoke API keys", description=keys.DESCRIPTION)
    )

    plan = _command(
        commands.add_parser,
        "plan",
        help="write Helm values for a graphics card and a load",
        description=PLAN_DESCRIPTION,
    )
    _add_plan(plan)

    audit = _command(
        commands.add_parser,
        "audit",
        help="verify and export the audit log, delete a person's data from it",
        description=AUDIT_DESCRIPTION,
    )
    add_audit_arguments(audit)

    wecom = _command(
        commands.add_parser,
        "wecom",
        help="check the WeCom bots, or try them without a tenant",
        description=WECOM_DESCRIPTION,
    )
    add_wecom_arguments(wecom)

    drain = _command(
        commands.add_parser,
        "drain",
        help="in a pod: move its work to other nodes before the pod stops",
        description=DRAIN_DESCRIPTION,
    )
    drain.add_argument(
        "--within", type=_seconds, required=True, metavar="S", help="seconds until Kubernetes stops the pod"
    )
    return parser


def _add_ask(ask: argparse.ArgumentParser) -> None:
    ask.add_argument("pictures", nargs="*", metavar="PICTURE", help="image or PDF file, or http(s) URL")
    ask.add_argument("question", metavar="QUESTION", help="the question; - reads it from standard input")
    ask.add_argument(
        "--url",
        metavar="URL",
        help="the service, with or without /v1 (default: GLM_HTTP__HOST and GLM_HTTP__PORT, or http://127.0.0.1:8000)",
    )
    ask.add_argument("--key-file", type=Path, metavar="FILE", help="file with the API key, if the service needs one")
    ask.add_argument(
        "--max-tokens", type=int, metavar="N", help="most tokens of the answer (default: set by the service)"
    )
    ask.add_argument(
        "--temperature",
        type=_finite,
        default=0.0,
        metavar="T",
        help="sampling temperature (default: 0, always the most likely token)",
    )
    ask.add_argument("--json", action="store_true", help="print one JSON object: answer, finish_reason, usage, times")


def _add_settings(command: argparse.ArgumentParser) -> None:
    for flag, setting, metavar, text in UP_OPTIONS:
        command.add_argument(flag, dest=setting, metavar=metavar, help=text)
    command.add_argument(
        "--quantize-vision",
        dest="model.quantize_vision",
        action="store_const",
        const="true",
        help="quantize the vision tower too",
    )


def _add_plan(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("--model", required=True, metavar="MODEL", help="model folder or hub id")
    plan.add_argument("--gpu", metavar="NAME", help="name of the graphics card")
    plan.add_argument("--gpu-memory-gib", type=float, metavar="GIB", help="memory of a card that has no known name")
    plan.add_argument("--gpu-bandwidth-gb-s", type=float, metavar="GB/S", help="its memory bandwidth")
    plan.add_argument("--gpu-tflops", type=float, metavar="TFLOPS", help="its dense bfloat16 rate with tensor cores")
    plan.add_argument("--gpu-sms", type=int, metavar="N", help="number of its streaming multiprocessors")
    plan.add_argument(
        "--gpu-capability", metavar="X.Y", help="its compute capability: from 8.9 on it has FP8 (default: 8.0)"
    )
    plan.add_argument("--requests-per-second", type=float, metavar="N", help="the load")
    plan.add_argument("--gpus", type=int, metavar="N", help="instead of a load: what do so many GPUs carry?")
    plan.add_argument(
        "--first-token-seconds",
        type=float,
        metavar="S",
        help="limit of the alert on the time to the first token (default: 5, or 4 times that of an idle GPU)",
    )
    plan.add_argument(
        "--picture",
        action="append",
        metavar="WxH",
        help="size of a request's picture in pixels; repeat for several; `none` for text only (default: 1920x1080)",
    )
    plan.add_argument(
        "--prompt-tokens", type=int, default=200, metavar="N", help="text of a request, in tokens (default: 200)"
    )
    plan.add_argument(
        "--answer-tokens", type=int, default=150, metavar="N", help="answer of a request, in tokens (default: 150)"
    )
    plan.add_argument(
        "--quantization", choices=["auto", "none", "fp8", "nf4"], default="auto", help="weight format (default: auto)"
    )
    plan.add_argument(
        "--context",
        type=int,
        default=0,
        metavar="TOKENS",
        help="longest prompt plus answer (default: what the request needs)",
    )
    plan.add_argument("-o", "--output", metavar="FILE", help="write to this file instead of standard output")


def _command(create: Any, *names: str, **options: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = create(*names, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
    return parser


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # JSON has no such number
        raise argparse.ArgumentTypeError(f"{text} is not a finite number.")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds.")
    return seconds
