"""Arguments of `glm-serve wecom`; the commands are in bots/wecom/, which take longer to import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

WECOM_DESCRIPTION: Final = """\
Try and check the WeCom bots (docs/wecom.md).

  glm-serve wecom check                                      check settings and secrets before WeCom calls the service
  glm-serve wecom simulate --token-file T --aes-key-file K   simulate WeCom for a running service, without a tenant

`check` reads the settings of `up` from the environment. `simulate` sends signed callbacks to the service and hosts
encrypted pictures; the service must be started with

  GLM_WECOM__PICTURE_HOSTS='["http://127.0.0.1:9100"]' GLM_WECOM__API_URL=http://127.0.0.1:9100

The simulator follows WeCom's documents and was not compared to a live tenant. The exit status is 1 if something is
wrong.
"""


def add_wecom_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="wecom_command", required=True)
    checking = commands.add_parser("check", help="check settings, secrets and connections")
    checking.add_argument("--offline", action="store_true", help="check files and settings only, connect to nothing")
    checking.add_argument(
        "--subscribe", action="store_true", help="also try the long connection; a running service loses its own by it"
    )
    playing = commands.add_parser("simulate", help="simulate WeCom for a running service")
    playing.add_argument("--url", default="http://127.0.0.1:8000", metavar="URL", help="the service")
    playing.add_argument("--token-file", type=Path, required=True, metavar="FILE", help="as wecom.token_file")
    playing.add_argument("--aes-key-file", type=Path, required=True, metavar="FILE", help="as wecom.aes_key_file")
    playing.add_argument("--picture", type=Path, metavar="FILE", help="a picture to ask about (default: a small one)")
    playing.add_argument("--question", default="Which number?", metavar="TEXT", help="the question about it")
    playing.add_argument("--expect", default="", metavar="TEXT", help="what the answer must contain")
    playing.add_argument("--port", type=int, default=9100, metavar="PORT", help="of the simulator (default: 9100)")
    playing.add_argument("--chats", type=int, default=10, metavar="N", help="users who ask at once (default: 10)")
