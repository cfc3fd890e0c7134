"""Writes the table of docs/licences.md: the licence of each locked package, from its installed metadata.

python docs/licences.py           write it
python docs/licences.py --check   exit 1 if a package of the lock files is missing or has another version or licence

CUDA libraries are not installed everywhere, so theirs is written here. The row of a package that this platform does not
need is kept.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = Path(__file__).with_name("licences.md")
START, END = "<!-- table: written by docs/licences.py -->\n", "<!-- end of table -->\n"
NVIDIA = "NVIDIA proprietary (CUDA Toolkit EULA and those of its libraries)"
# Read in the packages of torch 2.13.0, which are not installed where torch has no CUDA. nccl's licence file is BSD and
# nvtx's Apache; the metadata of both says proprietary.
KNOWN = {
    "cuda-bindings": "Apache-2.0",
    "cuda-pathfinder": "Apache-2.0",
    "nvidia-nccl-cu13": "BSD-3-Clause (its licence file), proprietary (its metadata)",
    "nvidia-nvtx": "Apache-2.0 WITH LLVM-exception (its licence file), proprietary (its metadata)",
}
# A company's rules often exclude these (copyleft beyond the file, or not an open-source licence).
RESTRICTED = re.compile(r"(?<![L])\b(A?GPL|SSPL|BUSL)|General Public|Affero|proprietary|LicenseRef", re.IGNORECASE)


def locked() -> list[tuple[str, str]]:
    """(name, version) of what the service installs."""
    text = "".join((ROOT / f"requirements{name}.lock").read_text() for name in ("", "-torch"))
    return sorted(re.findall(r"^([a-z0-9-]+)==(\S+)", text, flags=re.MULTILINE))


def license_of(name: str) -> str:
    """The SPDX expression of the metadata, or else its classifiers, or else its free text."""
    if name in KNOWN:
        return KNOWN[name]
    if name.startswith(("nvidia-", "cuda-")):
        return NVIDIA
    found = metadata(name)
    if "License-Expression" in found:
        return str(found["License-Expression"])
    classifiers = [
        each.rpartition(":: ")[2] for each in found.get_all("Classifier", ()) if each.startswith("License ::")
    ]
    if classifiers and classifiers != ["OSI Approved"]:
        return ", ".join(classifiers)
    return next(iter(str(found["License"]).splitlines()), "").strip() if "License" in found else ""


def table() -> str:
    rows = ["| package | version | licence |\n| --- | --- | --- |\n"]
    for name, version in locked():
        try:
            terms = license_of(name)
        except PackageNotFoundError:
            kept = re.search(rf"^\| {name} \| {re.escape(version)} \| \**(.*?)\** \|$", PAGE.read_text(), re.MULTILINE)
            if not kept:
                sys.exit(f"{name} {version} is not installed here; run `make install` first.")
            terms = kept[1]
        if not terms:
            sys.exit(f"The metadata of {name} names no licence. Read it in the package and add it to KNOWN.")
        mark = "**" if RESTRICTED.search(terms) else ""
        rows.append(f"| {name} | {version} | {mark}{terms}{mark} |\n")
    return "".join(rows)


def main() -> None:
    page = PAGE.read_text()
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    written = before + START + table() + END + after
    if "--check" in sys.argv:
        if written != page:
            sys.exit("docs/licences.md is out of date. Run `python docs/licences.py`.")
    else:
        PAGE.write_text(written)


if __name__ == "__main__":
    main()
