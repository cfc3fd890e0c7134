"""Checks tokenizer, chat template and picture settings: present, and of one revision."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serve_app.doctor.report import CheckEnded, Finding, ok, problem, warning
from serve_app.errors import ServiceError
from serve_app.preprocess.family_processor import load_processor
from serve_app.preprocess.picture_limits import ImageLabel
from serve_app.settings import Settings

# field of config.json -> the special token with this id; the last two are GLM-4V-9B's
_NUMBERED = {
    "image_token_id": "<|image|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "boi_token_id": "<|begin_of_image|>",
    "eoi_token_id": "<|end_of_image|>",
}
# Values that belong together: image_token_id -> (release, rope theta, positions)
_RELEASES = {
    151343: ("GLM-4.1V-9B-Thinking", 10_000, 65_536),
    151363: ("GLM-4.6V-Flash", 500_000, 131_072),
}
_PHOTO = (4000, 3000)  # pixels of a phone's photo
_ONE_REVISION = "Download all files again from one revision of the model."


def check_ids(folder: Path, config: dict[str, Any], vocab_size: int, stop_ids: frozenset[int]) -> Iterator[Finding]:
    """Compare token ids of config and tokenizer, which differ if files of two revisions are mixed.

    Raises CheckEnded if they are of different models.
    """
    ids = _added_tokens(folder)
    if not ids:  # the next check reports a missing tokenizer
        return
    wrong = [
        f"{field} is {config[field]}, the tokenizer's {marker} is {ids.get(marker, 'missing')}"
        for field, marker in _NUMBERED.items()
        if field in config and ids.get(marker) != config[field]
    ]
    wrong += [
        f"the tokenizer's {marker} is {number}, the model has {vocab_size:,} ids"
        for marker, number in ids.items()
        if number >= vocab_size
    ]
    if wrong:
        others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        seen = f"{wrong[0]}{others}: config.json and tokenizer are of different models."
        raise CheckEnded(problem("ids", seen, _ONE_REVISION))
    if mixture := _mixture(config):
        yield warning("ids", mixture, f"Answers may be wrong. {_ONE_REVISION}")
    else:
        yield ok("ids", "config and tokenizer have the same ids for picture tokens")
    yield _ends(ids, stop_ids)


def _mixture(config: dict[str, Any]) -> str:
    """A sentence on fields of two releases in one config; empty if there are none."""
    release, theta, positions = _RELEASES.get(config.get("image_token_id", -1), ("", 0, 0))
    text = config.get("text_config", {})
    found_theta = (text.get("rope_parameters") or text).get("rope_theta", theta)
    found_positions = text.get("max_position_embeddings", positions)
    if (found_theta, found_positions) == (theta, positions):
        return ""
    for other, other_theta, other_positions in _RELEASES.values():
        if found_theta == other_theta != theta or found_positions == other_positions != positions:
            return (
                f"image_token_id is {release}'s, but rope_theta {found_theta:g} and max_position_embeddings"
                f" {found_positions} belong to {other}."
            )
    return ""


def _ends(ids: dict[str, int], stop_ids: frozenset[int]) -> Finding:
    if not stop_ids:
        return warning(
            "end of answers",
            "There is no eos_token_id in generation_config.json or config.json: answers end only at max_tokens.",
            "Download generation_config.json from the model's page.",
        )
    names = {number: marker for marker, number in ids.items()}
    ordinary = [number for number in sorted(stop_ids) if number not in names]
    if ordinary:
        return warning(
            "end of answers",
            f"eos_token_id {ordinary[0]} is an ordinary token of the tokenizer; answers may end too early.",
            _ONE_REVISION,
        )
    return ok("end of answers", ", ".join(names[number] for number in sorted(stop_ids)))


def check_conversation(folder: Path, settings: Settings) -> Iterator[Finding]:
    """Build the family's preprocessing, which reads all these files and refuses what does not fit together."""
    try:
        family = load_processor(folder, settings.model, settings.preprocess)
    except ServiceError as error:
        yield problem("chat", str(error), f"Tokenizer, template and processor must be of one revision. {_ONE_REVISION}")
        return
    yield ok("chat", "the template keeps special tokens in user text as text, and places every picture")
    yield ok("abilities", ", ".join(ability.replace("_", " ") for ability in family.abilities))
    if _picture_limit_is_missing(folder):
        yield warning(
            "pictures",
            "preprocessor_config.json has no size.longest_edge; the library's default exceeds the model's.",
            _ONE_REVISION,
        )
    size = family.target_size(*_PHOTO, "auto", ImageLabel(1, ""))
    tokens = family.picture_tokens(*size)
    most = "" if family.max_pictures is None else f"; at most {family.max_pictures} in a conversation"
    yield ok("pictures", f"a photo of {_sides(_PHOTO)} is resized to {_sides(size)} and has {tokens:,} tokens{most}")


def _picture_limit_is_missing(folder: Path) -> bool:
    """Whether the file that limits the size of pictures has no limit; GLM-4V-9B has no such file."""
    found = _json(folder / "preprocessor_config.json") or _json(folder / "processor_config.json")
    return bool(found) and "longest_edge" not in found.get("image_processor", found).get("size", {})


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _added_tokens(folder: Path) -> dict[str, int]:
    """Special token -> id from tokenizer.json, else from tokenizer_config.json; empty if both lack them."""
    added = _json(folder / "tokenizer.json").get("added_tokens")
    if added is not None:
        return {token["content"]: int(token["id"]) for token in added}
    decoder = _json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
    return {token["content"]: int(number) for number, token in decoder.items()}


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckEnded(problem("ids", f"{file.name} can't be read: {error}", _ONE_REVISION)) from error
    return found
