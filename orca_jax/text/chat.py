"""A conversation as the text that the model was trained to see."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orca_jax.core import checks
from orca_jax.core.errors import RequestError
from orca_jax.core.naming import check_names
from orca_jax.text.called_tools import called_tools
from orca_jax.text.template import ChatTemplate
from orca_jax.text.tokenizer import Tokenizer

MAX_MESSAGES = 10_000
ROLES = ("system", "developer", "user", "assistant", "tool")
MESSAGE_KEYS = ("role", "content", "name")
KEYS_OF_ROLE = {"assistant": (*MESSAGE_KEYS, "tool_calls"), "tool": (*MESSAGE_KEYS, "tool_call_id")}
UNSUPPORTED_KEYS = {
    "tool_calls": "only an assistant's message calls tools",
    "tool_call_id": "only a tool's message answers a call",
    "function_call": "see tool_calls",
    "reasoning_content": "reasoning is not kept apart from the answer",
    "reasoning": "reasoning is not kept apart from the answer",
    "refusal": "",
    "audio": "only text models are served",
    "annotations": "",
}
RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "tokenize",
            "chat_template")  # fmt: skip
END_MARK = "\u2063end of what is to be continued\u2063 "  # its last space shows whether the template strips


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    chat_template: str | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    template_kwargs: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The prompt text of a conversation; encode it with `add_special_tokens=False`, the template writes them itself.

    `chat_template` is jinja source, or the name of one of the checkpoint's templates, or None for the checkpoint's
    default. `template_kwargs` are further variables for it (`enable_thinking`, ...), plain JSON values. With
    `continue_final_message` the text ends inside the last message, which the answer then continues. `tools` are shown
    to the model where the template does so. Raises RequestError.
    """
    if continue_final_message and add_generation_prompt:
        raise RequestError(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.", "continue_final_message"
        )
    conversation = check_messages(messages)
    if continue_final_message:
        conversation[-1]["content"] += END_MARK
    variables = {
        **tokenizer.specials,
        **_plain(template_kwargs or {}),
        "messages": conversation,
        "tools": None if tools is None else [dict(tool) for tool in tools],
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    text = _template(tokenizer, chat_template).render(variables)
    return _until_mark(text) if continue_final_message else text


def check_messages(messages: object) -> list[dict[str, Any]]:
    """Plain copies of the messages, their contents joined to one text each; RequestError names the faulty one."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise RequestError(f"messages must be a list of messages, got {checks.shown(messages)}.", "messages")
    if not messages:
        raise RequestError("messages must hold at least one message.", "messages")
    if len(messages) > MAX_MESSAGES:
        raise RequestError(f"messages has {len(messages)} entries; at most {MAX_MESSAGES} are accepted.", "messages")
    return [_message(f"messages[{i}]", message) for i, message in enumerate(messages)]


def _message(where: str, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(f"{where} must be an object with role and content, got {checks.shown(message)}.", "messages")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise RequestError(f"{where}: role must be one of {', '.join(ROLES)}, got {checks.shown(role)}.", "messages")
    known = KEYS_OF_ROLE.get(role, MESSAGE_KEYS)
    given = [str(key) for key, value in message.items() if key in known or value is not None]
    check_names(where, given, known, {key: why for key, why in UNSUPPORTED_KEYS.items() if key not in known})
    calls = message.get("tool_calls")
    content = message.get("content")
    plain: dict[str, Any] = {"role": role, "content": "" if calls and content is None else _content(where, content)}
    for key in ("name", "tool_call_id"):
        if message.get(key) is not None:
            plain[key] = checks.text(f"{where}.{key}", message[key])
    if calls is not None:
        plain["tool_calls"] = called_tools(f"{where}.tool_calls", calls)
    return plain


def _content(where: str, content: object) -> str:
    """Text as it is; a list of text parts as lines."""
    if isinstance(content, list | tuple):
        return "\n".join(_part(f"{where}.content[{i}]", part) for i, part in enumerate(content))
    return checks.text(f"{where}.content", content)


def _part(where: str, part: object) -> str:
    if isinstance(part, str):
        return checks.text(where, part)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        raise RequestError(f"{where} must be a text part, got {checks.shown(part)}.", "messages")
    if kind != "text":
        raise RequestError(f"{where}: parts of type {kind!r:.60} are not supported: only text is.", "messages")
    return checks.text(f"{where}.text", part.get("text"))


def _template(tokenizer: Tokenizer, wanted: str | None) -> ChatTemplate:
    if wanted is not None:
        checks.text("chat_template", wanted)
        return tokenizer.template(tokenizer.chat_templates.get(wanted, wanted))
    if "default" not in tokenizer.chat_templates:
        named = ", ".join(sorted(tokenizer.chat_templates))
        only = f" but those named {named}" if named else ""
        raise RequestError(
            f"this checkpoint has no chat template{only}: pass one as chat_template (jinja source"
            f"{', or a name' if named else ''}), or use generate() with a prompt of your own.",
            "chat_template",
        )
    return tokenizer.template(tokenizer.chat_templates["default"])


def _plain(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables for the template as plain JSON values: no object with methods of its own gets in."""
    for name in variables:
        if name in RESERVED:
            raise RequestError(f"chat_template_kwargs cannot set {name}: it has a parameter of its own", name)
    try:
        plain = json.loads(json.dumps(dict(variables)))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(
            f"chat_template_kwargs must be plain JSON values: {error}", "chat_template_kwargs"
        ) from error
    return dict(plain)


def _until_mark(text: str) -> str:
    mark = END_MARK.rstrip()
    end = text.rfind(mark)
    if end < 0:
        raise RequestError(
            "continue_final_message is set but the chat template does not show the final message.",
            "continue_final_message",
        )
    # A template that strips contents has removed the mark's last space; it would have stripped the message itself.
    text = text[:end] if text[end:].startswith(END_MARK) else text[:end].rstrip()
    return text.replace(END_MARK, "").replace(mark, "")  # some templates show a message more than once
