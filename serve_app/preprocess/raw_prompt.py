"""A prompt without the chat template: a text, or the token ids of one."""

from collections.abc import Mapping, Sequence

from serve_app.errors import InvalidRequest
from serve_app.preprocess.bpe import Bpe, encode_within
from serve_app.preprocess.max_tokens import context_too_long
from serve_app.preprocess.special_token_escape import replace_surrogates


def encode_raw(
    prompt: str | tuple[int, ...], start: Sequence[int], bpe: Bpe, special: Mapping[str, int], limit: int, param: str
) -> list[int]:
    """Ids of a raw prompt; `start` comes before a text, `special` has the ids of special tokens by name.

    Raises ContextTooLong for a text that cannot fit `limit` tokens, and InvalidRequest for an id that is not in the
    vocabulary or is the placeholder of a picture.
    """
    if isinstance(prompt, str):
        return [*start, *encode_within(bpe, [replace_surrogates(prompt)], limit, param)[0]]
    if len(prompt) > limit:
        raise context_too_long(limit, len(prompt), param)
    pictures = {number for token, number in special.items() if "image" in token or "video" in token}
    most = max(bpe.largest_id, *special.values())
    for token_id in prompt:
        if token_id > most or token_id in pictures:
            reason = f"the largest id is {most}" if token_id > most else "it is the placeholder of a picture"
            raise InvalidRequest(f"'{param}' has the token id {token_id}; {reason}.", param)
    return list(prompt)
