"""Writes the generated pages: settings, errors, fields, metrics, two of them in Chinese, trees in architecture.md.

python docs/generate.py           write them
python docs/generate.py --check   exit 1 if one is out of date
"""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from serve_app import errors, metrics
from serve_app.chinese.codes import CODES
from serve_app.errors import ServiceError
from serve_app.ingress.accepted_fields import BODIES, accepted_fields, nested_objects
from serve_app.ingress.fields.strict_model import StrictModel
from serve_app.settings import Settings

ROOT = Path(__file__).parent.parent
WRITTEN = "<!-- written by `make docs` from serve_app/{source}; change it there -->\n"


def table(*rows: tuple[str, ...]) -> str:
    head, *rest = rows
    lines = [head, tuple("---" for _ in head), *rest]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


# -- settings ------------------------------------------------------------------------------------


def settings_page() -> str:
    sections = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        rows = [("Setting", "Environment", "Type", "Default", "What it does"), *_knobs(name, section)]
        sections.append(f"## {name}\n\n{section.__doc__}\n\n{table(*rows)}\n")
    return (
        "# Settings\n\n" + WRITTEN.format(source="settings.py") + "\n[中文](zh/settings.md)\n"
        "\nOne tree, the same names everywhere: `engine.max_slots` in code is `settings.engine.max_slots` in Helm\n"
        "values and `GLM_ENGINE__MAX_SLOTS` in the environment. Options of `glm-serve up` override the environment,\n"
        "which overrides defaults. Unknown names are refused. Secrets are given as paths of files, never as\n"
        "values.\n\n" + "\n".join(sections)
    )


# Type and default of a setting, in this order.
CHINESE_WORDS = {
    "true or false": "true 或 false",
    " or ": " 或 ",
    "list of ": "列表：",
    "integer": "整数",
    "number": "数值",
    "text": "文本",
    "none": "无",
    "empty": "空",
}


def chinese_settings_page() -> str:
    """docs/zh/settings.json has the Chinese of each English description; one that is new or changed stays English."""
    chinese = json.loads((ROOT / "docs/zh/settings.json").read_text(encoding="utf-8"))
    sections = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        rows = [("设置", "环境变量", "类型", "默认值", "作用")]
        for setting, variable, kind, default, description in _knobs(name, section):
            rows.append(
                (setting, variable, _in_chinese(kind), _in_chinese(default), chinese.get(description, description))
            )
        about = " ".join((section.__doc__ or "").split())
        sections.append(f"## {name}\n\n{chinese.get(about, about)}\n\n{table(*rows)}\n")
    return (
        "# 设置\n\n" + WRITTEN.format(source="settings.py") + "\n[English](../settings.md)\n\n"
        "设置的名字处处相同：代码里的 `engine.max_slots`，在 Helm values 里是\n`settings.engine.max_slots`，"
        "在环境变量里是 `GLM_ENGINE__MAX_SLOTS`。`glm-serve up` 的选项优先于环境变量，\n环境变量优先于默认值。"
        "不认识的名字会被拒绝。密钥、密码只写文件路径，从不写值。新加的设置暂时是英文。\n\n" + "\n".join(sections)
    )


def _in_chinese(cell: str) -> str:
    """A type or a default; what is in backticks stays."""
    parts = re.split(r"(`[^`]*`)", cell)
    for english, word in CHINESE_WORDS.items():
        parts = [part if part.startswith("`") else part.replace(english, word) for part in parts]
    return "".join(parts)


def _knobs(section: str, model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        default = "" if field.default is PydanticUndefined else _value(field.default)
        yield (
            f"`{section}.{name}`",
            f"`GLM_{section}__{name}`".upper(),
            _kind(properties[name]),
            default,
            field.description or "",
        )


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return "empty" if value == "" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    names = {
        "integer": "integer",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "none",
    }
    return ", ".join([names[schema["type"]], *limits])


# -- errors --------------------------------------------------------------------------------------


def error_classes() -> list[type[ServiceError]]:
    return [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, ServiceError)]


def errors_page() -> str:
    rows = [("Status", "`code`", "Error", "When", "`Retry-After`")]
    for error in error_classes():
        retry = f"{error.retry_after_s:g} s" if error.retry_after_s else ""
        rows.append((str(error.status), f"`{error.code}`", f"`{error.__name__}`", (error.__doc__ or "").strip(), retry))
    return (
        "# Errors\n\n"
        + WRITTEN.format(source="errors.py")
        + "\n[中文](zh/errors.md)\n\nEvery route responds to an error with OpenAI's body,\n"
        '`{"error": {"message", "type", "param", "code"}}`; `param` names the request field, if there is one. An\n'
        "error before the first text has its own HTTP status; a later one is sent in the stream. All errors of\n"
        "`/v1/messages` have Anthropic's `type`s, and its `type: error` and `request_id` beside `error`.\n"
        "`Accept-Language: zh` makes `message` Chinese; all else stays.\n\n" + table(*rows) + "\n"
    )


def chinese_errors_page() -> str:
    rows = [("状态码", "`code`", "错误", "什么情况", "`Retry-After`")]
    for error in error_classes():
        retry = f"{error.retry_after_s:g} s" if error.retry_after_s else ""
        rows.append((str(error.status), f"`{error.code}`", f"`{error.__name__}`", CODES[error.code], retry))
    return (
        "# 错误\n\n"
        + WRITTEN.format(source="chinese/codes.py")
        + "\n[English](../errors.md)\n\n每个接口出错时都返回 OpenAI 的格式："
        '`{"error": {"message", "type", "param", "code"}}`；`param` 是请求中相应的字段（如果有）。\n'
        "第一个字之前的错误有自己的 HTTP 状态码，之后的错误在流里发送。\n"
        "`/v1/messages` 的错误用 Anthropic 的 `type`，`error` 之外另有 `type: error` 和 `request_id`。"
        "请求头 `Accept-Language: zh` 使 `message` 变成中文，其余不变；程序请判断 `code`。\n\n" + table(*rows) + "\n"
    )


# -- fields --------------------------------------------------------------------------------------


def fields_page() -> str:
    sections = [_section("##", route, body) for route, body in BODIES.items()]
    objects = [_section("###", model.__name__, model) for model in nested_objects()]
    return (
        "# Accepted fields\n\n"
        + WRITTEN.format(source="ingress")
        + "\nThe rules are in [decision 0018](decisions/0018-accepted-fields.md): a field that asks for\n"
        "something that this service does not do is refused by name; a field that asks for nothing is accepted, and\n"
        "so is null. "
        "Unknown fields are refused unless `http.unknown_fields` is `ignore`; the header `X-Ignored-Fields` then\n"
        "names them.\n\n" + "\n".join([*sections, "## Objects in these bodies\n", *objects])
    )


def _section(level: str, title: str, model: type[StrictModel]) -> str:
    rows = [("Field", "Effect", "Accepted, no effect")]
    for field in accepted_fields(model):
        without_effect = "" if field.effect else f"yes. {field.note}".removesuffix(" ").removesuffix(".")
        rows.append((f"`{field.name}`", field.effect, without_effect))
    return f"{level} {title}\n\n{model.__doc__}\n\n{table(*rows)}\n"


# -- metrics -------------------------------------------------------------------------------------


def metrics_page() -> str:
    rows = [("Metric", "Kind", "Tags", "What it measures")]
    for metric in metrics.DECLARED:
        tags = ", ".join(f"`{tag}`" for tag in metric.tags)
        rows.append((f"`ray_{metric.name}`", metric.kind, tags, metric.description))
    return (
        "# Metrics\n\n"
        + WRITTEN.format(source="metrics.py")
        + "\nEach node exports them at `:8080/metrics` (`metrics.port` on one machine), together with Ray's own.\n"
        "Ray adds the prefix `ray_` and the tags `deployment`, `replica`, `application` and its own.\n"
        "Use quantiles of `_bucket` for histograms; Ray's `_sum` is approximate. A new value appears after\n"
        "10 to 20 s.\n\n" + table(*rows) + "\n"
    )


# -- the trees in docs/architecture.md ------------------------------------------------------------

TREE_BEGINS, TREE_ENDS = "<!-- tree of {name}: written by `make docs` from the docstrings -->", "<!-- end of tree -->"
READING_ORDER = ("app", "pipeline", "contracts", "errors", "settings", "metrics", "logs", "checkpoint")
STAGES = ("ingress", "preprocess", "engine", "demo")


def tree() -> str:
    """serve_app/, one line for each module and package: the first line of its docstring."""
    package = ROOT / "serve_app"
    modules = {file.stem: file for file in package.glob("*.py") if not file.stem.startswith("_")}
    folders = {file.parent.name: file for file in package.glob("*/__init__.py")}
    order = [*READING_ORDER, *sorted(set(modules) - set(READING_ORDER))]
    stages = [*(name for name in STAGES if name in folders), *sorted(set(folders) - set(STAGES))]
    entries = [(f"  {name}.py", modules[name]) for name in order]
    entries += [(f"  {name}/", folders[name]) for name in stages]
    return "\n".join(["```", "serve_app/", *_aligned(entries), "```"])


def stage_trees() -> str:
    """The files of the three stages and of their subfolders, one line each."""
    package = ROOT / "serve_app"
    entries = [entry for name in STAGES[:3] for entry in _folder(package / name, "")]
    return "\n".join(["```", *_aligned(entries), "```"])


def _folder(folder: Path, indent: str) -> Iterator[tuple[str, Path]]:
    """A folder, its modules and its subfolders: their indented names, and the files that describe them."""
    yield f"{indent}{folder.name}/", folder / "__init__.py"
    for file in sorted(folder.glob("*.py")):
        if file.name != "__init__.py":
            yield f"{indent}  {file.name}", file
    for subfolder in sorted(file.parent for file in folder.glob("*/__init__.py")):
        yield from _folder(subfolder, f"{indent}  ")


def _aligned(entries: list[tuple[str, Path]]) -> list[str]:
    width = max(len(name) for name, _ in entries) + 1
    return [f"{name:<{width}}{first_line(file)}" for name, file in entries]


def first_line(file: Path) -> str:
    docstring = ast.get_docstring(ast.parse(file.read_text()))
    return (docstring or "").partition("\n")[0].rstrip(".")


def architecture_page() -> str:
    page = (ROOT / "docs/architecture.md").read_text()
    return _with_tree(_with_tree(page, "serve_app", tree()), "the stages", stage_trees())


def _with_tree(page: str, name: str, tree: str) -> str:
    """The page with the current tree between its two comments."""
    before, begins, rest = page.partition(TREE_BEGINS.format(name=name))
    _, ends, after = rest.partition(TREE_ENDS)
    if not begins or not ends:
        raise SystemExit(f"docs/architecture.md has no place for the tree of {name}.")
    return f"{before}{begins}\n{tree}\n{ends}{after}"


# -- writing and checking ------------------------------------------------------------------------


def values_page() -> str:
    """The values of the chart, by docs/values_page.py."""
    page: str = runpy.run_path(str(ROOT / "docs" / "values_page.py"))["values_page"]()
    return page


PAGES = {
    "docs/settings.md": settings_page,
    "docs/zh/settings.md": chinese_settings_page,
    "docs/errors.md": errors_page,
    "docs/zh/errors.md": chinese_errors_page,
    "docs/fields.md": fields_page,
    "docs/metrics.md": metrics_page,
    "docs/architecture.md": architecture_page,
    "docs/values.md": values_page,
}


def stale() -> list[str]:
    """Names of pages that are out of date."""
    return [name for name, page in PAGES.items() if not (file := ROOT / name).is_file() or file.read_text() != page()]


def main() -> int:
    if "--check" in sys.argv:
        for name in (old := stale()):
            print(f"{name} is out of date. Run `make docs`.", file=sys.stderr)
        return 1 if old else 0
    for name, page in PAGES.items():
        (ROOT / name).write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
