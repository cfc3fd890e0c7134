"""Settings of the scan of uploads for malware."""

from typing import Literal

from pydantic import Field

from serve_app.settings_section import Section


class ScanSettings(Section):
    """Scan of pictures and files by ClamAV's clamd before they are decoded (docs/scan.md)."""

    address: str = Field(
        "",
        pattern=r"^(|tcp://[^\s/]+:\d+|unix:///\S+)$",
        description="clamd's address, `tcp://clamav:3310` or `unix:///run/clamav/clamd.ctl`; empty: no scan.",
    )
    timeout_s: float = Field(10.0, gt=0, le=300, description="Longest time to scan one file, in seconds.")
    on_failure: Literal["refuse", "accept"] = Field(
        "refuse",
        description="What happens to files that clamd does not scan: the request is refused (503), or accepted.",
    )
