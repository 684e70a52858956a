"""The base of all settings: frozen pydantic models that reject unknown keys, and fields that do not change a result."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]


def resource(default: Any = ..., **constraints: Any) -> Any:
    """Declare a field that does not change the result and is excluded from every fingerprint."""
    return Field(default, json_schema_extra={"resource": True}, **constraints)


class Settings(BaseModel):
    """Base class of every section: immutable, rejects unknown keys. Errors do not quote the input, which may be a password."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    def identity(self) -> dict[str, Any]:
        """Return the values that change the result as plain JSON data, without `resource()` fields at any depth."""
        return {
            name: plain(getattr(self, name))
            for name, info in type(self).model_fields.items()
            if not _is_resource(info)
        }


def _is_resource(info: Any) -> bool:
    return isinstance(info.json_schema_extra, dict) and bool(info.json_schema_extra.get("resource"))


def plain(value: Any) -> Any:
    """Return a settings value as plain JSON data."""
    if isinstance(value, Settings):
        return value.identity()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    return value


class Sampling(Settings):
    """Sampling parameters of a model."""

    temperature: float = Field(default=0.7, ge=0.0)
    top_p: Probability = 1.0
    max_tokens: PositiveInt = 4096
