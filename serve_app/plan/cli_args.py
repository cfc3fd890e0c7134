"""Checks the arguments of `glm-serve plan` and makes the plan."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence

from serve_app.errors import InvalidRequest
from serve_app.plan.capacity_plan import Load, plan_capacity
from serve_app.plan.cards import Card, card_named
from serve_app.plan.checkpoints import read_checkpoint
from serve_app.plan.values import summary, values_file

_LARGEST = 1_000_000  # of a rate, a time or a property of a card
_CLOCK_GHZ = 1.5  # assumed for a card without a name
_CAPABILITY = "8.0"  # and without --gpu-capability
_DESCRIPTION = ("gpu_memory_gib", "gpu_bandwidth_gb_s", "gpu_tflops", "gpu_sms")
_PICTURE = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")


def write_plan(options: Namespace, command: str) -> tuple[str, str]:
    """Return the values file and its summary. Raises InvalidRequest, whose `param` is the option at fault."""
    card = _card(options)
    if (options.requests_per_second is None) == (options.gpus is None):
        raise InvalidRequest(
            "Give either the load, to learn how many GPUs it needs, or --gpus, to learn what they carry.",
            param="--requests-per-second",
        )
    gpus = 0 if options.gpus is None else _at_least_one(options.gpus, "--gpus")
    first_token_s = options.first_token_seconds
    load = Load(
        requests_per_s=0 if gpus else _above_zero(options.requests_per_second, "--requests-per-second"),
        pictures=_pictures(options.picture or ["1920x1080"]),
        text_tokens=_at_least_one(options.prompt_tokens, "--prompt-tokens"),
        answer_tokens=_at_least_one(options.answer_tokens, "--answer-tokens"),
    )
    if options.context < 0:
        raise InvalidRequest(f"{options.context} is below zero.", param="--context")
    plan = plan_capacity(
        read_checkpoint(options.model),
        card,
        load,
        options.quantization,
        options.context,
        gpus,
        0 if first_token_s is None else _above_zero(first_token_s, "--first-token-seconds"),
    )
    return values_file(plan, options.model, command), summary(plan, options.model)


def _card(options: Namespace) -> Card:
    given = {name: getattr(options, name) for name in _DESCRIPTION}
    flags = {name: f"--{name.replace('_', '-')}" for name in _DESCRIPTION}
    described = [name for name in (*_DESCRIPTION, "gpu_capability") if getattr(options, name) is not None]
    if options.gpu is not None and described:
        raise InvalidRequest(
            f"Name a card or describe one, not both: --{described[0].replace('_', '-')} is given too.", param="--gpu"
        )
    if options.gpu is not None:
        return card_named(options.gpu)
    if len(described) < len(_DESCRIPTION):
        missing = ", ".join(flags[name] for name in _DESCRIPTION if given[name] is None)
        raise InvalidRequest(f"No card is given. Give its name, or describe it ({missing} missing).", param="--gpu")
    for name in _DESCRIPTION:
        _above_zero(given[name], flags[name])
    capability = re.fullmatch(r"([1-9][0-9]?)\.([0-9])", options.gpu_capability or _CAPABILITY)
    if capability is None:
        raise InvalidRequest(
            f"{options.gpu_capability!r} is no compute capability, such as 8.9.", param="--gpu-capability"
        )
    return Card(
        name="the card described",
        memory_bytes=int(options.gpu_memory_gib * 2**30),
        bandwidth_gb_s=options.gpu_bandwidth_gb_s,
        tensor_tflops=options.gpu_tflops,
        sms=options.gpu_sms,
        clock_ghz=_CLOCK_GHZ,
        capability=(int(capability[1]), int(capability[2])),
        source="as given",
    )


def _pictures(sizes: Sequence[str]) -> tuple[tuple[int, int], ...]:
    if list(sizes) == ["none"]:
        return ()
    found = [_PICTURE.fullmatch(size) for size in sizes]
    for size, match in zip(sizes, found, strict=True):
        if match is None:
            raise InvalidRequest(
                f"{size!r} is neither a size in pixels, such as 1920x1080, nor `none`.", param="--picture"
            )
    return tuple((int(match[1]), int(match[2])) for match in found if match is not None)


def _above_zero(number: float, param: str) -> float:
    if not 0 < number <= _LARGEST:
        raise InvalidRequest(f"{number:g} is not a number above zero and at most {_LARGEST:,}.", param=param)
    return number


def _at_least_one(number: int, param: str) -> int:
    if number < 1:
        raise InvalidRequest(f"{number} is less than 1.", param=param)
    return number
