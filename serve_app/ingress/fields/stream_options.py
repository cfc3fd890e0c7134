"""Fields of streaming: `n`, `stream` and `stream_options`."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from serve_app.ingress.fields.strict_model import Integer, StrictModel, Switch

MAX_N: Final = 128  # upper bound of the setting `http.max_choices`, which is the limit in force


class StreamOptions(StrictModel):
    """What a stream contains besides text."""

    include_usage: Switch | None = Field(None, description="A last chunk with the usage and no choices.")
    continuous_usage_stats: Switch | None = Field(
        None, description="With include_usage: the usage so far in every chunk. (vLLM's)"
    )
    include_obfuscation: Literal[False] | None = Field(None, description="Not supported.")


class StreamFields(StrictModel):
    """The number of answers, and whether they are streamed."""

    n: Integer | None = Field(
        None, ge=1, le=MAX_N, description="Number of answers to the one question; `http.max_choices` is the limit."
    )
    stream: Switch | None = Field(None, description="The answer as server-sent events, while it is generated.")
    stream_options: StreamOptions | None = Field(None, description="Without `stream` it has no effect.")

    @property
    def include_usage(self) -> Literal["last", "continuous"] | None:
        """Whether a stream has the usage in its last chunk, in every chunk, or not at all."""
        if self.stream_options is None or not self.stream_options.include_usage:
            return None
        return "continuous" if self.stream_options.continuous_usage_stats else "last"
