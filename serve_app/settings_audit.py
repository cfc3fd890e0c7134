"""Settings of the audit log."""

from typing import Literal

from pydantic import Field, model_validator

from serve_app.settings_section import Section


class AuditSettings(Section):
    """The audit log (docs/audit.md): one line a request, in a hash chain."""

    mode: Literal["off", "best_effort", "required"] = Field(
        "off", description="Whether requests are written down; required: no answer is given without its line (503)."
    )
    folder: str = Field("", description="Folder of the audit files; it must stay when the service is replaced.")
    texts: Literal["digest", "full"] = Field(
        "digest", description="Questions and answers as SHA-256 or as text. Pictures are never written, only digests."
    )
    fsync: Literal["always", "interval", "never"] = Field(
        "interval", description="When lines are forced to the disk: before an answer ends, each second, or not at all."
    )
    max_file_mib: int = Field(64, ge=1, description="Size at which a new file is begun, in MiB.")
    retention_days: int = Field(90, ge=0, description="Files are deleted so many days after their last line; 0: never.")

    @model_validator(mode="after")
    def _has_a_folder(self) -> "AuditSettings":
        if self.mode != "off" and not self.folder:
            raise ValueError(f"audit.mode is {self.mode}, so audit.folder must name the folder of the audit files.")
        return self
