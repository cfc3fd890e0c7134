"""Tools of a caller: definitions, the calls that fit a picture, their results.

A definition has OpenAI's format; its names are composed from pools, so the model has to copy them. A call has
GLM-4.5V's format: strings without quotes, other values as JSON, in the definition's order.
"""

import json
import re
from dataclasses import dataclass
from random import Random
from typing import Any

from training import vocabulary
from training.scenes import Language, Scene
from training.skills import SKILLS, Argument, Skill

_EXTRAS = (("note", "备注", "note"), ("remark", "说明", "remark"), ("language", "语言", "language"))
_CITIES_EN = ("Paris", "London", "Berlin", "Tokyo", "Rome", "Madrid", "Oslo", "Boston", "Sydney", "Vienna", "Cairo")
_ERRORS = (("没有这项", "not found"), ("服务不可用", "service unavailable"), ("没有连接", "no connection"))


@dataclass(frozen=True)
class Call:
    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        """As GLM-4.5V's chat template writes it."""
        text = f"<tool_call>{self.name}\n"
        for key, value in self.arguments.items():
            bare = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            text += f"<arg_key>{key}</arg_key>\n<arg_value>{bare}</arg_value>\n"
        return text + "</tool_call>"


@dataclass(frozen=True)
class Tool:
    """A skill as defined by one caller."""

    skill: Skill
    name: str
    definition: dict[str, Any]
    parameters: tuple[tuple[str, str, Argument], ...]  # name, type, source of the value

    def call(self, values: dict[str, str]) -> Call:
        return Call(self.name, {name: _typed(values[arg.source], kind) for name, kind, arg in self.parameters})


@dataclass(frozen=True)
class Request:
    """One request to a tool: the wording, the call and its result."""

    tool: Tool
    wording: str
    call: Call | None  # None if there is no reason to call it
    result: str
    report: str  # the sentence that reports the result
    fact: str  # the fact that the sentence must contain


def offer(scene: Scene | None, count: int, language: Language, rng: Random) -> list[Tool]:
    """Tools of one caller with different names; the first fits this scene."""
    others = [skill for skills in SKILLS.values() for skill in skills]
    tools: dict[str, Tool] = {}
    chosen: list[Skill] = []
    while len(tools) < count:
        skill = rng.choice(SKILLS[_group(scene)] if not chosen or rng.random() < 0.4 else others)
        tool = _define(skill, language, rng)
        if skill not in chosen and tool.name not in tools:
            tools[tool.name] = tool
            chosen.append(skill)
    shuffled = list(tools.values())
    rng.shuffle(shuffled)
    return shuffled


def fitting(tools: list[Tool], scene: Scene | None) -> list[Tool]:
    """The tools that can be used on this scene."""
    usable = SKILLS["any"] + (SKILLS[_group(scene)] if scene else ())
    return [tool for tool in tools if tool.skill in usable]


def request(tool: Tool, scene: Scene | None, language: Language, rng: Random) -> Request:
    side = 0 if language == "zh" else 1
    values = _values(scene, tool.skill, language, rng)
    wording = rng.choice(tool.skill.requests[side]).format(**values)
    callable_ = all(argument.source in values for _, _, argument in tool.parameters)
    result, report, fact = _result(tool.skill, values, language, rng)
    return Request(tool, wording, tool.call(values) if callable_ else None, result, report, fact)


def _group(scene: Scene | None) -> str:
    if scene is None:
        return "any"
    kinds = {fact.kind for fact in scene.facts}
    return {"boards": "board", "documents": "document"}.get(scene.job, "label" if "tracking" in kinds else "panel")


def _define(skill: Skill, language: Language, rng: Random) -> Tool:
    side = 0 if (language == "zh") == (rng.random() < 0.9) else 1
    name = f"{rng.choice(skill.verbs)}_{rng.choice(skill.nouns)}"
    if rng.random() < 0.2:
        first, *rest = name.split("_")
        name = first + "".join(word.capitalize() for word in rest)
    parameters: list[tuple[str, str, Argument]] = []
    for argument in skill.arguments:
        free = [key for key in argument.names if key not in [taken for taken, _, _ in parameters]]
        if not argument.optional or rng.random() < 0.6:
            parameters.append((rng.choice(free), rng.choice(argument.types), argument))
    if rng.random() < 0.3:
        rng.shuffle(parameters)
    properties: dict[str, dict[str, str]] = {}
    for key, kind, argument in parameters:
        properties[key] = {"type": kind}
        if rng.random() < 0.7:
            properties[key]["description"] = (argument.zh, argument.en)[side]
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.85:
        schema["required"] = list(properties)
    if rng.random() < 0.15:  # a value that is not in the picture and is omitted
        key, *described = rng.choice(_EXTRAS)
        properties[key] = {"type": "string", "description": described[side]}
    if rng.random() < 0.25:
        schema["additionalProperties"] = False
    function: dict[str, Any] = {"name": name}
    if rng.random() < 0.9:
        function["description"] = rng.choice(skill.descriptions[side])
    function["parameters"] = schema
    if rng.random() < 0.15:
        function["strict"] = True
    return Tool(skill, name, {"type": "function", "function": function}, tuple(parameters))


def _values(scene: Scene | None, skill: Skill, language: Language, rng: Random) -> dict[str, str]:
    """All values for arguments and wordings, as text."""
    if skill.needs == "city":
        return {"city": rng.choice(vocabulary.CITIES)[1][:-1] if language == "zh" else rng.choice(_CITIES_EN)}
    if skill.needs == "a":
        return {"a": str(rng.randrange(1, 100)), "b": str(rng.randrange(1, 100))}
    if scene is None:
        return {}
    values = {fact.kind: fact.zh if language == "zh" else fact.en for fact in scene.facts}
    if skill.needs:
        fact = rng.choice([fact for fact in scene.facts if fact.kind == skill.needs])
        values |= {fact.kind: fact.zh} | (fact.slots_zh if language == "zh" else fact.slots_en)
    if scene.job == "boards":  # row and column of a bad joint, a bridge by its first column
        place = next((fact.en for fact in scene.facts if fact.kind == "defect_place"), "")
        values |= zip(("row", "column"), re.findall(r"\d", place), strict=False)
        values["passed"] = "false" if place else "true"
    return values


def _typed(text: str, kind: str) -> str | int | float | bool:
    if kind == "string":
        return text
    if kind == "boolean":
        return text == "true"
    return float(text) if "." in text else int(text)


def _result(skill: Skill, values: dict[str, str], language: Language, rng: Random) -> tuple[str, str, str]:
    """The tool's result, the sentence that reports it, and the fact in it."""
    side = 0 if language == "zh" else 1
    if rng.random() < 0.08:
        error = rng.choice(_ERRORS)[side]
        sentence = (f"没有完成: {error}。", f"It failed: {error}.")[side]
        return json.dumps({"error": error}, ensure_ascii=False), sentence, error
    found = _found(skill.result, values, language, rng)
    sentence = skill.report[side].format(**(values | {skill.result: str(found)}))
    shapes = [
        {skill.result: found},
        {"ok": True, skill.result: found},
        {"status": "done", "data": {skill.result: found}},
    ]
    if rng.random() < 0.7:
        return json.dumps(rng.choice(shapes), ensure_ascii=False), sentence, str(found)
    return rng.choice((f"{skill.result}: {found}", f"{found}")), sentence, str(found)


def _found(what: str, values: dict[str, str], language: Language, rng: Random) -> str | int:
    if what == "sum":
        return int(values["a"]) + int(values["b"])
    if what == "place" and language == "zh":
        return rng.choice(vocabulary.CITIES)[1][:-1] + rng.choice(("转运中心", "分部", "中心仓库"))
    made: dict[str, str | int] = {
        "place": rng.choice(vocabulary.CITIES_EN) + rng.choice((" HUB", " CENTRE", " DEPOT")),
        "time": f"{rng.randrange(24):02d}:{rng.randrange(60):02d}",
        "date": vocabulary.date(rng),
        "ticket": vocabulary.letters(rng, rng.choice((1, 2))) + vocabulary.digits(rng, rng.choice((3, 4, 5))),
        "pages": rng.randrange(8, 200),
        "degrees": rng.randrange(-9, 40),
    }
    return made[what]
