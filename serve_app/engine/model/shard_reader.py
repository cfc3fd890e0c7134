"""Reads tensors of safetensors files by several threads, straight to their device, in bounded memory"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

THREADS: Final = 8
BLOCK_BYTES: Final = 16 * 2**20  # that a thread reads at a time; for a GPU also the size of its pinned buffer
AHEAD_BYTES: Final = 2**30

_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: `nbytes` bytes from `offset` on."""

    name: str
    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.itemsize


def stored_tensors(file: Path) -> list[StoredTensor]:
    """The tensors of a file in the order of their bytes.

    Raises ValueError for a dtype that is not known here. The header must have been checked (`safe_open` does it).
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    found = []
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"the dtype {entry['dtype']} of {name} is not supported")
        start = 8 + length + entry["data_offsets"][0]
        found.append(StoredTensor(name, file, start, tuple(entry["shape"]), _DTYPES[entry["dtype"]]))
    return sorted(found, key=lambda tensor: tensor.offset)


def read_tensors(
    wanted: Iterable[tuple[StoredTensor, torch.device]],
    dtype: torch.dtype,
    unconverted: Collection[str] = (),
    ahead_bytes: int = AHEAD_BYTES,
) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors, in the given order, each on its device. Raises OSError if a file can't be read.

    They are in `dtype`, but those named in `unconverted` as stored. `ahead_bytes` of tensors, or one tensor, are read
    before the caller takes the first of them.

    A tensor for a GPU goes through a pinned buffer of each thread and is converted to `dtype` there: host memory is
    bounded by `THREADS * BLOCK_BYTES`. One for the CPU is read into its own memory, in blocks if it is converted.
    """
    waiting: deque[tuple[StoredTensor, Tensor, list[Future[None]], torch.dtype]] = deque()
    pool = ThreadPoolExecutor(THREADS, "weights")
    files: dict[Path, int] = {}
    try:
        for stored, device in wanted:
            while waiting and sum(one.nbytes for one, *_ in waiting) + stored.nbytes > ahead_bytes:
                yield _finished(*waiting.popleft())
            if stored.file not in files:
                files[stored.file] = os.open(stored.file, os.O_RDONLY)
            final = stored.dtype if stored.name in unconverted else dtype
            tensor = torch.empty(stored.shape, dtype=final if device.type == "cpu" else stored.dtype, device=device)
            blocks = tensor.view(-1).split(BLOCK_BYTES // stored.dtype.itemsize)
            offsets = range(stored.offset, stored.offset + stored.nbytes, BLOCK_BYTES)
            futures = [
                pool.submit(_read_block, files[stored.file], offset, block, stored.dtype)
                for offset, block in zip(offsets, blocks, strict=False)  # an empty tensor is one empty block
            ]
            waiting.append((stored, tensor, futures, final))
        while waiting:
            yield _finished(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)
        for descriptor in files.values():
            os.close(descriptor)


def _finished(
    stored: StoredTensor, tensor: Tensor, futures: list[Future[None]], dtype: torch.dtype
) -> tuple[str, Tensor]:
    for future in futures:
        future.result()
    return stored.name, tensor.to(dtype)


def _read_block(descriptor: int, offset: int, block: Tensor, stored_dtype: torch.dtype) -> None:
    """Fill `block`, a piece of a tensor, from the file. On a GPU it has the stored dtype."""
    # A thread has a mode of its own; a tensor that was made in inference mode may be written in that mode only.
    with torch.inference_mode(block.is_inference()):
        _copy_block(descriptor, offset, block, stored_dtype)


def _copy_block(descriptor: int, offset: int, block: Tensor, stored_dtype: torch.dtype) -> None:
    if block.device.type == "cuda":
        # On the stream on which the tensor was allocated: its memory may still be in use by work queued there before.
        buffer = _Buffer.of_thread()
        buffer.copied.synchronize()  # of the block before
        pinned = buffer.pinned[: block.nbytes].view(stored_dtype)
        _read_into(descriptor, offset, pinned)
        block.copy_(pinned, non_blocking=True)
        buffer.copied.record(torch.cuda.current_stream(block.device))
    elif block.dtype == stored_dtype:
        _read_into(descriptor, offset, block)
    else:
        unconverted = torch.empty(block.shape, dtype=stored_dtype)
        _read_into(descriptor, offset, unconverted)
        block.copy_(unconverted)


class _Buffer:
    """A thread's pinned memory, and the event of its last copy to the device."""

    _local: Final = threading.local()

    def __init__(self) -> None:
        self.pinned = torch.empty(BLOCK_BYTES, dtype=torch.uint8, pin_memory=True)
        self.copied = torch.cuda.Event()

    @classmethod
    def of_thread(cls) -> _Buffer:
        if not hasattr(cls._local, "buffer"):
            cls._local.buffer = cls()
        buffer: _Buffer = cls._local.buffer
        return buffer


def _read_into(descriptor: int, offset: int, content: Tensor) -> None:
    """Fill `content`, on the CPU, from the file; other threads run meanwhile."""
    rest: memoryview = content.view(torch.uint8).numpy().data
    while rest:
        count = os.preadv(descriptor, [rest], offset)
        if not count:
            raise OSError("a file of weights became shorter while it was read")
        rest, offset = rest[count:], offset + count
