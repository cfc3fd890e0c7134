"""docs/notebook.ipynb, cell by cell against the real service, as Jupyter runs it."""

from __future__ import annotations

import os
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.cluster.conftest import ROOT, Service

pytestmark = pytest.mark.cluster

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
WAYBILL = "ZX587254423214"


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def cells(service: Service, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The cells with their outputs; a cell that fails fails here."""
    folder = tmp_path_factory.mktemp("jupyter")
    own = {name: str(folder / name) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}
    notebook = read()
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute(env={**os.environ, **own, "GLM_URL": service.base_url})
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: Any) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def shown(cell: Any) -> list[dict[str, Any]]:
    return [output["data"] for output in cell.outputs if "data" in output]


def test_every_cell_shows_what_its_text_promises(cells: list[Any]) -> None:
    first, question, wordings, form, boxes, share, errors = cells
    assert printed(first).startswith("glm-vision-demo · ")
    assert WAYBILL in printed(question)
    assert "image/png" in shown(question)[0]
    assert shown(wordings)[0]["text/markdown"].count(WAYBILL) == 3
    assert WAYBILL in shown(form)[0]["text/plain"]
    assert "image/png" in shown(boxes)[0]
    assert "[[" in printed(boxes)
    assert float(printed(share).partition("%")[0]) >= 90
    english, chinese = printed(errors).splitlines()
    assert "is not a field of this request" in english
    assert "不是此请求的字段" in chinese


def test_the_file_has_no_outputs_and_is_written_as_jupyter_writes_it() -> None:
    notebook = read()
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    assert NOTEBOOK.read_text(encoding="utf-8") == nbformat.writes(notebook) + "\n"
