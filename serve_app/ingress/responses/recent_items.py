"""Output items of recent responses by their ids: AI SDK refers to earlier answers in this way by default.

OpenAI's service stores responses for a month. Here an ingress replica keeps the newest items in memory, within a limit
in bytes, and none of a request with `store: false`. The ids are random, and an item is found by its own tenant only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import orjson
from pydantic import TypeAdapter

from serve_app.ingress.responses.input_items import InputItem, ItemReference
from serve_app.ingress.responses.output_items import OutputItem

_ITEM: TypeAdapter[InputItem] = TypeAdapter(InputItem)
_OVERHEAD_BYTES = 200  # of an entry, besides its JSON


class RecentItems:
    """The newest items, `max_bytes` of JSON at most; the oldest are dropped first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._items: OrderedDict[tuple[str, str], bytes] = OrderedDict()  # by tenant and id

    def add(self, tenant: str, items: Sequence[OutputItem]) -> None:
        for item in items:
            content = orjson.dumps(item)
            self._items[tenant, item["id"]] = content
            self._bytes += len(content) + _OVERHEAD_BYTES
        while self._bytes > self._max_bytes:
            _, dropped = self._items.popitem(last=False)
            self._bytes -= len(dropped) + _OVERHEAD_BYTES

    def resolve(self, tenant: str, input: str | Sequence[InputItem]) -> str | list[InputItem]:
        """The input with the tenant's items in the places of references to them; references to unknown items stay."""
        return input if isinstance(input, str) else [self._resolved(tenant, item) for item in input]

    def _resolved(self, tenant: str, item: InputItem) -> InputItem:
        content = self._items.get((tenant, item.id)) if isinstance(item, ItemReference) else None
        return item if content is None else _ITEM.validate_json(content)
