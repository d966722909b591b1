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
    uses = {ref: [s["$ref"] for s in subschemas(target) if isinstance(s.get("$ref"), str)]
            for ref, target in targets.items()}  # fmt: skip
    ending = least(uses, lambda ref, found: ends(targets[ref], found))
    if not ends(root, ending):
        endless = next((ref for ref in refs if ref not in ending), "#")
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


def ends(schema: object, ending: set[str]) -> bool:
    """Whether a finite value can satisfy the schema, as far as references go; `ending` are those that are known to."""
    if not isinstance(schema, Mapping):
        return True
    ref = schema.get("$ref")
    if isinstance(ref, str) and ref not in ending:
        return False
    for name, enough in (("allOf", all), ("anyOf", any), ("oneOf", any)):
        parts = schema.get(name)
        if isinstance(parts, list) and parts and not enough(ends(part, ending) for part in parts):
            return False
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list) or "const" in schema or "enum" in schema:
        return True
    return any(kind not in CONTAINERS or _container_ends(kind, schema, ending) for kind in kinds)


def _container_ends(kind: str, schema: Schema, ending: set[str]) -> bool:
    """Whether an object's required properties, or an array's fewest items, can be finite."""
    if kind == "object":
        required, properties = schema.get("required"), schema.get("properties")
        if not isinstance(required, list) or not isinstance(properties, Mapping):
            return True
        return all(ends(properties.get(name), ending) for name in required if isinstance(name, str))
    fewest, first = schema.get("minItems"), schema.get("prefixItems")
    if not isinstance(fewest, int) or fewest < 1:
        return True
    prefix = first[:fewest] if isinstance(first, list) else []
    rest = [schema.get("items")] if fewest > len(prefix) else []
    return all(ends(item, ending) for item in [*prefix, *rest])
