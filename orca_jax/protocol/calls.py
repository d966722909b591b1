"""Which bodies belong to which path."""

from typing import Any

from orca_jax.core.errors import RequestError, nearest
from orca_jax.protocol.body import read_body
from orca_jax.protocol.call import Call
from orca_jax.protocol.chat import CHAT_REFUSED, ChatBody, ChatCall
from orca_jax.protocol.completions import COMPLETIONS_REFUSED, CompletionBody, CompletionCall

URLS = (CompletionCall.url, ChatCall.url)


def parse_call(url: str, body: object) -> Call[Any]:
    """The call that a JSON value makes at `url`. Raises RequestError naming the field at fault."""
    if url == CompletionCall.url:
        return CompletionCall(read_body(CompletionBody, body, COMPLETIONS_REFUSED, url))
    if url == ChatCall.url:
        return ChatCall(read_body(ChatBody, body, CHAT_REFUSED, url))
    raise RequestError(f"url must be one of {', '.join(URLS)}, got {url!r:.80}{nearest(url, URLS)}.", "url")
