"""Commands in a chat: /clear and /help, in both languages."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Command: TypeAlias = Literal["clear", "help"]
COMMANDS: Final[dict[str, Command]] = {
    "/clear": "clear",
    "/reset": "clear",
    "/清除": "clear",
    "/清空": "clear",
    "/help": "help",
    "/帮助": "help",
}


def command_of(text: str) -> Command | None:
    """The command of a text that is nothing else."""
    return COMMANDS.get(text.strip().lower())
