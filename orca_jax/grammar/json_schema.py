"""What is refused of a JSON schema before it is compiled: counts beyond bounds, references that never come to an end."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from orca_jax.core.checks import shown
from orca_jax.core.errors import RequestError
from orca_jax.core.structured_outputs import NAME
from orca_jax.grammar.fixpoint import least
from orca_jax.grammar.regex import MAX_REPEAT, check_regex

MAX_REFS = 256
COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LISTED = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
SINGLE = ("items", "additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties", "contains",
          "propertyNames", "not", "if", "then", "else")  # fmt: skip
CONTAINERS = ("object", "array")

Schema = Mapping[str, Any]
Key = int | str | tuple[int, int | str]
"""A schema by its identity, or a part of what it requires."""
Need = tuple[int, list[object]]
"""How many of some schemas must end."""
ANYTHING: Key = "anything"


def check_schema(root: Schema) -> None:
    """Raise RequestError for `structured_outputs`. What llguidance refuses by itself is left to it."""
    refs: dict[str, None] = {}
    for schema in subschemas(root):
        _check_counts(schema)
        _check_patterns(schema)
        if isinstance(schema.get("$ref"), str):
            refs[schema["$ref"]] = None
    if len(refs) > MAX_REFS:
        raise RequestError(f"the JSON schema has {len(refs)} different $ref; at most {MAX_REFS} are allowed.", NAME)
    _check_ends(root, list(refs))


def subschemas(root: object) -> Iterator[Schema]:
    """The schema and all within it, references not followed."""
    waiting = [root]
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, Mapping):
            continue  # true and false are schemas, too
        yield schema
        for name in NAMED:
            if isinstance(schema.get(name), Mapping):
                waiting += schema[name].values()
        for name in LISTED:
            if isinstance(schema.get(name), list):
                waiting += schema[name]
        waiting += (schema[name] for name in SINGLE if name in schema)


def _check_counts(schema: Schema) -> None:
    for name in COUNTS:
        value = schema.get(name)
        if isinstance(value, int | float) and value > MAX_REPEAT:
            raise RequestError(
                f"{name} of the JSON schema is {shown(value)}; at most {MAX_REPEAT} is allowed.", NAME
            )  # fmt: skip


def _check_patterns(schema: Schema) -> None:
    patterns = [schema.get("pattern")]
    if isinstance(schema.get("patternProperties"), Mapping):
        patterns += schema["patternProperties"]
    for pattern in patterns:
        if isinstance(pattern, str):
            check_regex(pattern, "a pattern of the JSON schema")


def _check_ends(root: Schema, refs: list[str]) -> None:
    """Refuse a schema whose references lead in a circle from which no finite JSON ever gets out."""
    targets = {ref: resolve(root, ref) for ref in refs}
    ending = least(conditions(root, targets))
    if key_of(root) not in ending:
        endless = next((ref for ref in refs if key_of(targets[ref]) not in ending), "#")
        raise RequestError(f"the JSON schema never ends: its $ref {endless[:60]!r} requires itself.", NAME)


def resolve(root: Schema, ref: str) -> object:
    """What a local reference points at; True, which anything satisfies, for those that llguidance has to judge."""
    if not ref.startswith("#"):
        return True
    place: Any = root
    for part in unquote(ref[1:]).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(place, Mapping) and key in place:
            place = place[key]
        elif isinstance(place, list) and key.isdecimal() and len(key) < 6 and int(key) < len(place):
            place = place[int(key)]
        else:
            return True
    return place


def conditions(root: Schema, targets: Mapping[str, object]) -> dict[Key, tuple[int, list[Key]]]:
    """When a finite value can satisfy a schema, as far as references go; for `least`. Each schema is looked at once."""
    found: dict[Key, tuple[int, list[Key]]] = {ANYTHING: (0, [])}
    waiting: list[object] = [root, *targets.values()]
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, Mapping) or id(schema) in found:
            continue
        needs = [*_referred(schema, targets), *_combined(schema)]
        kinds = _containers(schema)
        named: list[Key] = [(id(schema), i) for i in range(len(needs))]
        for key, (enough, parts) in zip(named, needs, strict=True):
            found[key] = (enough, [key_of(part) for part in parts])
            waiting += parts
        if kinds is not None:
            of_kind: list[Key] = [(id(schema), kind) for kind in kinds]
            for key, kind in zip(of_kind, kinds, strict=True):
                inner = _contents(kind, schema)
                found[key] = (len(inner), [key_of(part) for part in inner])
                waiting += inner
            found[id(schema), "type"] = (1, of_kind)
            named.append((id(schema), "type"))
        found[id(schema)] = (len(named), named)
    return found


def key_of(schema: object) -> Key:
    return id(schema) if isinstance(schema, Mapping) else ANYTHING


def _referred(schema: Schema, targets: Mapping[str, object]) -> list[Need]:
    ref = schema.get("$ref")
    if not isinstance(ref, str):
        return []
    return [(1, [targets[ref]] if ref in targets else [])]  # the others stand outside of all schemas


def _combined(schema: Schema) -> list[Need]:
    lists = [(name, schema.get(name)) for name in ("allOf", "anyOf", "oneOf")]
    return [(len(parts) if name == "allOf" else 1, parts) for name, parts in lists if isinstance(parts, list) and parts]


def _containers(schema: Schema) -> list[str] | None:
    """Of which containers one must end; None where the value may also be something else."""
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list) or "const" in schema or "enum" in schema:
        return None
    return [kind for kind in CONTAINERS if kind in kinds] if all(kind in CONTAINERS for kind in kinds) else None


def _contents(kind: str, schema: Schema) -> list[object]:
    """What must end for the container to end: an object's required properties, an array's fewest items."""
    if kind == "object":
        required, properties = schema.get("required"), schema.get("properties")
        if not isinstance(required, list) or not isinstance(properties, Mapping):
            return []
        return [properties.get(name) for name in required if isinstance(name, str)]
    fewest, first = schema.get("minItems"), schema.get("prefixItems")
    if not isinstance(fewest, int) or fewest < 1:
        return []
    prefix = first[:fewest] if isinstance(first, list) else []
    return [*prefix, schema.get("items")] if fewest > len(prefix) else prefix
