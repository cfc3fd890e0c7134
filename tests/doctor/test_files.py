"""Folders that are complete, cut off, mixed, Git-LFS pointers, pickled or missing."""

import json
import shutil
from pathlib import Path

import pytest

from serve_app.doctor.files import (
    check_code,
    check_pointers,
    find_folder,
    natural,
    read_config,
    read_shards,
    to_download,
)
from serve_app.doctor.report import CheckEnded, Finding, Status
from serve_app.errors import InvalidRequest
from serve_app.settings import ModelSettings
from tests.doctor.conftest import change, the_one, write_sparse_shard

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4976715224\n"
SHARD = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


def problem_of(folder: Path) -> Finding:
    finding = the_one(read_shards(folder)[1])
    assert finding.status == Status.PROBLEM
    return finding


def test_a_complete_checkpoint_is_described_by_its_headers(demo: Path):
    tensors, findings = read_shards(demo)
    assert the_one(findings).seen == "3 shards, complete: 136 tensors in 31 MiB, stored as BF16"
    head = tensors["lm_head.weight"]
    assert (head.dtype, head.shape, head.itemsize, head.is_float) == ("BF16", (1856, 384), 2, True)


@pytest.mark.parametrize("kept", [0, 4, 1000, 12_000_000])
def test_a_shard_that_was_cut_off_is_named(demo: Path, kept: int):
    content = (demo / SHARD).read_bytes()
    (demo / SHARD).write_bytes(content[:kept])
    finding = problem_of(demo)
    assert finding.seen.startswith(SHARD)
    assert "bytes instead of" in finding.seen or "only the beginning" in finding.seen


def test_a_shard_with_something_after_its_end_is_not_trusted(demo: Path):
    with (demo / SHARD).open("ab") as stream:
        stream.write(b"more")
    assert "bytes instead of" in problem_of(demo).seen


def test_a_shard_that_is_missing_is_named(demo: Path):
    (demo / SHARD).unlink()
    assert problem_of(demo).seen == f"{SHARD}: The file is missing."


def test_a_file_that_is_no_safetensors_file_is_reported(demo: Path):
    (demo / SHARD).write_bytes(b"<html>404: not found</html>" * 100)
    assert "is not a safetensors file" in problem_of(demo).seen


def test_a_header_that_is_no_json_is_reported(demo: Path):
    (demo / SHARD).write_bytes((5).to_bytes(8, "little") + b"{...}")
    assert "The header can't be read" in problem_of(demo).seen


def test_git_lfs_pointers_are_reported_once_with_the_command_that_fetches_the_files(demo: Path):
    check_pointers(demo)
    (demo / SHARD).write_text(POINTER)
    (demo / "tokenizer.json").write_text(POINTER)
    with pytest.raises(CheckEnded) as ended:
        check_pointers(demo)
    finding = ended.value.finding
    assert finding.seen == f"{SHARD}, tokenizer.json are Git-LFS pointers, not the content."
    assert finding.remedy == f"git lfs install && git -C {demo} lfs pull"


def test_an_index_of_another_revision_is_reported(demo: Path):
    change(demo / INDEX, lambda index: index["weight_map"].update({"model.extra.weight": SHARD}))
    finding = problem_of(demo)
    assert "1 weights are not in the shards that the index names, model.extra.weight first" in finding.seen


def test_an_index_that_can_not_be_read_ends_the_check(demo: Path):
    (demo / INDEX).write_text('{"weight_map": 7}')
    with pytest.raises(CheckEnded, match="can't be read"):
        read_shards(demo)


def test_shards_without_an_index_are_a_problem_for_the_loader_that_needs_one(demo: Path):
    (demo / INDEX).unlink()
    assert "no model.safetensors.index.json" in problem_of(demo).seen
    assert the_one(read_shards(demo, needs_index=False)[1]).status == Status.OK


def test_pickles_alone_are_refused_by_name(tmp_path: Path):
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(b"\x80\x02")
    assert "There are only pickled weights (pytorch_model-00001-of-00002.bin)" in problem_of(tmp_path).seen


def test_a_folder_without_weights_says_so(tmp_path: Path):
    assert problem_of(tmp_path).seen == "There is neither a model.safetensors nor shards."


def test_one_file_beside_shards_is_the_one_that_counts(demo: Path):
    shutil.copy(demo / SHARD, demo / "model.safetensors")
    tensors, findings = read_shards(demo)
    assert findings[0].status == Status.WARNING
    assert "only model.safetensors is read" in findings[0].seen
    assert {tensor.shard for tensor in tensors.values()} == {"model.safetensors"}


def test_a_shard_larger_than_this_disk_is_read_by_its_header_alone(tmp_path: Path):
    write_sparse_shard(tmp_path / "model.safetensors", {"huge.weight": ("BF16", (151_552, 4096, 16))})
    tensors, findings = read_shards(tmp_path)
    assert tensors["huge.weight"].elements == 151_552 * 4096 * 16
    assert "18.5 GiB" in the_one(findings).seen


def test_code_in_the_folder_is_reported_as_never_run(demo: Path):
    (demo / "modeling_chatglm.py").write_text("raise SystemExit")
    finding = the_one(check_code(demo))
    assert finding.status == Status.OK
    assert finding.seen.startswith("modeling_chatglm.py: never run")


@pytest.mark.parametrize(
    ("content", "seen"),
    [("{", "can't be read"), ("[]", "not a JSON object"), (None, "can't be read")],
)
def test_a_config_that_is_none_ends_the_check(tmp_path: Path, content: str | None, seen: str):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckEnded, match=seen) as ended:
        read_config(tmp_path)
    assert ended.value.finding.status == Status.PROBLEM


def test_a_config_is_read(demo: Path):
    assert read_config(demo) == json.loads((demo / "config.json").read_text())


def test_a_folder_is_found_without_the_network(demo: Path, tmp_path: Path):
    assert find_folder(ModelSettings(path=str(demo))) == demo
    with pytest.raises(InvalidRequest, match="does not exist"):
        find_folder(ModelSettings(path=str(tmp_path / "nowhere")))


def cached(cache: Path, *files: str) -> Path:
    """A snapshot of nobody/model in a hub cache, with some of its files."""
    repository = cache / "models--nobody--model"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    for name in files:
        (snapshot / name).write_text("{}")
    return snapshot


def test_a_model_that_is_still_on_the_hub_is_not_downloaded(tmp_path: Path):
    with pytest.raises(CheckEnded, match="neither a folder nor in the hub cache") as ended:
        find_folder(ModelSettings(path="nobody/model"), cache=tmp_path)
    assert ended.value.finding.status == Status.WARNING


def test_a_model_in_the_hub_cache_is_found(tmp_path: Path):
    snapshot = cached(tmp_path, "config.json", "model.safetensors")
    assert find_folder(ModelSettings(path="nobody/model"), cache=tmp_path) == snapshot


def test_a_download_that_broke_off_is_left_to_up(tmp_path: Path):
    cached(tmp_path, "config.json")
    with pytest.raises(CheckEnded, match=r"lacks model\.safetensors: the download is incomplete") as ended:
        find_folder(ModelSettings(path="nobody/model"), cache=tmp_path)
    assert ended.value.finding.status == Status.WARNING


@pytest.mark.parametrize(
    ("free_gib", "offline", "status", "shown"),
    [
        (100, False, Status.WARNING, "`up` will download it (100.0 GiB are free)"),
        (9, False, Status.WARNING, "the disk has 9.0 GiB free"),
        (100, True, Status.PROBLEM, "HF_HUB_OFFLINE forbids the download"),
    ],
)
def test_a_finding_says_what_a_download_needs(free_gib: int, offline: bool, status: Status, shown: str):
    finding = to_download("it is not here", free_gib * 2**30, offline)
    assert finding.status == status
    assert shown in finding.seen


def test_layers_are_counted_as_people_do():
    assert sorted(["layers.10.x", "layers.9.x", "head"], key=natural) == ["head", "layers.9.x", "layers.10.x"]
