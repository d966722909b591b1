"""Bodies as strict pydantic models, whose errors become the one line that names the field and what is wrong with it."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from orca_jax.core.checks import shown
from orca_jax.core.errors import RequestError
from orca_jax.core.naming import check_names
from orca_jax.core.unsupported import Neutral, reasons, without_neutral

B = TypeVar("B", bound="Body")
MOST_ENTRIES = 2048  # of a list or object, unless all are numbers: pydantic lets no other thread run over them
MOST_NUMBERS = 2**16  # in an object


class Body(BaseModel):
    """JSON types are taken as they are: no text for a number, no 1 for true; an unknown name is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


def read_body(kind: type[B], value: object, refused: Neutral, where: str) -> B:
    """`value` as a `kind`. Raises RequestError naming the first field at fault.

    `refused` maps the names that clients of other servers send to the values that ask for nothing.
    """
    if not isinstance(value, Mapping):
        raise RequestError(f"{where} needs a JSON object, got {shown(value)}.")
    known = tuple(kind.model_fields)
    fields = without_neutral({str(name): item for name, item in value.items()}, refused)
    check_names(where, fields, known, reasons(fields, refused))
    for name, item in fields.items():
        _check_entries(name, item)
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_context=False), fields, where) from error


def _check_entries(name: str, value: object) -> None:
    """Refuse what would take long to refuse entry by entry."""
    if isinstance(value, dict):
        plain = len(value) <= MOST_NUMBERS and all(type(entry) in (int, float) for entry in value.values())
    elif isinstance(value, list):
        for entry in value:
            if isinstance(entry, list):
                _check_entries(name, entry)
        plain = all(type(entry) is int for entry in value)
    else:
        return
    if len(value) > MOST_ENTRIES and not plain:
        raise RequestError(f"{name} has {len(value)} entries, and at most {MOST_ENTRIES} unless all are numbers.", name)


def _refusal(found: Sequence[ErrorDetails], value: Mapping[str, object], where: str) -> RequestError:
    first = found[0]
    path = [part for part in first["loc"] if not _is_branch(part)]
    name = _spelled(path)
    if first["type"] == "missing":
        return RequestError(f"{where} needs the field {name}.", name)
    if first["type"] == "extra_forbidden":
        return RequestError(f"{name} is not a field of {where}.", name)
    # A union reports each of its branches; what they would have taken is said together, about the whole value.
    branches = [error for error in found if error["loc"][:1] == first["loc"][:1]]
    if len(branches) > 1 and len(first["loc"]) > 1:
        name, wants = str(first["loc"][0]), dict.fromkeys(_lower(error["msg"]) for error in branches)
        return RequestError(f"{name}: {' or '.join(list(wants)[:3])}, got {shown(value.get(name))}.", name)
    return RequestError(f"{name}: {_lower(first['msg'])}, got {shown(first['input'])}.", name)


def _is_branch(part: Any) -> bool:
    """Whether a part of a location is pydantic's name for one branch of a union, which means nothing to a client."""
    return isinstance(part, str) and (("[" in part and part.endswith("]")) or part in ("str", "int", "float", "bool"))


def _spelled(path: list[Any]) -> str:
    """`["messages", 0, "role"]` as `messages[0].role`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
