"""The base class of the sections of the settings tree: frozen, unknown names refused, old names accepted."""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, model_validator

_log: Final = logging.getLogger("glm.settings")


class Section(BaseModel):
    """One section of the tree: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
    renamed: ClassVar[Mapping[str, str]] = {}  # old name -> name; old names are accepted until 0.2

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not (old_names := cls.renamed.keys() & values.keys()):
            return values
        values = dict(values)
        for old in old_names:
            value, name = values.pop(old), cls.renamed[old]
            values.setdefault(name, value)
            _log.warning("The setting %s is now called %s. Version 0.2 will refuse the old name.", old, name)
        return values
