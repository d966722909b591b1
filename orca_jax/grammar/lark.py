"""What is refused of a Lark grammar before it is compiled: left recursion, rules that never end, counts beyond bounds.

llguidance's own parser would not mind left recursion; it is refused because grammars that have it by accident are
ambiguous without bound, and because every one of them can be written as a repetition. JSON within a grammar is compact, as
everywhere.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from orca_jax.core.errors import RequestError
from orca_jax.core.structured_outputs import NAME, schema_text
from orca_jax.grammar.fixpoint import least
from orca_jax.grammar.json_schema import check_schema
from orca_jax.grammar.regex import MAX_REPEAT, check_regex

MAX_RULES = 1024
MAX_NESTING = 64
COMPACT = {"x-guidance": {"whitespace_flexible": False}}

DEFINITION = re.compile(
    r"^[ \t]*[?!]?(?P<name>[A-Za-z_]\w*)(?:\[[^\]\n]*\])?(?:\{[^}\n]*\})?(?:\.-?\d+)?[ \t]*:(?!:)", re.MULTILINE
)
TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|\#[^\n]*|->\s*\w+)
      | (?P<text>"(?:\\.|[^"\\\n])*"i?)
      | (?P<regex>/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n])+/[a-z]*)
      | (?P<json>%json\s*(?=\{))
      | (?P<directive>%\w+[^\n{]*)
      | (?P<count>\{\s*\d*\s*,?\s*\d*\s*\}|~\s*\d+(?:\s*\.\.\s*\d+)?)
      | (?P<special><[^<>\n]*>)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(slots=True)
class Node:
    """A part of a rule: "any" of its parts, "all" of them in order, a "name", or "text" that is empty or not.

    `optional` says that a quantifier allows none of it.
    """

    kind: str
    parts: list["Node"] = field(default_factory=list)
    name: str = ""
    empty: bool = False
    optional: bool = False


def prepared_lark(source: str) -> str:
    """The grammar as llguidance gets it. Raises RequestError for `structured_outputs`."""
    reader = _Reader(source)
    reader.read()
    check_rules(reader.rules)
    return "".join(reader.output)


def check_rules(rules: dict[str, Node]) -> None:
    """Refuse rules that begin with themselves, and those of which no text ever ends."""
    uses = {name: sorted(names_in(node) & set(rules)) for name, node in rules.items()}
    nullable = least(uses, lambda name, found: holds(rules[name], found, rules, of_text=False))
    begins = {name: first_names(node, nullable) & set(rules) for name, node in rules.items()}
    looping = left_recursive(begins)
    if looping is not None:
        raise RequestError(
            f"{NAME}.grammar is left-recursive: rule {looping!r} begins with itself; write it as a repetition, like "
            "'sum: term (\"+\" term)*'.",
            NAME,
        )
    ending = least(uses, lambda name, found: holds(rules[name], found, rules, of_text=True))
    endless = next((name for name in rules if name not in ending), None)
    if endless is not None:
        raise RequestError(f"{NAME}.grammar has a rule that never ends: {endless!r} always requires itself.", NAME)


def names_in(node: Node) -> set[str]:
    return {node.name} if node.kind == "name" else set().union(*map(names_in, node.parts))


def holds(node: Node, found: set[str], rules: dict[str, Node], of_text: bool) -> bool:
    """With `of_text` whether some finite text is the node's, without whether the empty text is."""
    if node.optional:
        return True
    if node.kind == "text":
        return of_text or node.empty
    if node.kind == "name":
        return node.name in found or (of_text and node.name not in rules)
    enough = any if node.kind == "any" else all
    return enough(holds(part, found, rules, of_text) for part in node.parts)


def first_names(node: Node, nullable: set[str]) -> set[str]:
    """The names that the node's text may begin with."""
    if node.kind == "name":
        return {node.name}
    names: set[str] = set()
    for part in node.parts:
        names |= first_names(part, nullable)
        if node.kind == "all" and not holds(part, nullable, {}, of_text=False):
            break
    return names


def left_recursive(begins: dict[str, set[str]]) -> str | None:
    """A name from which a chain of beginnings leads back to it. What is peeled off, leaves first, is on no circle."""
    peeled = least(begins, lambda name, found: begins[name] <= found)
    name = next((name for name in begins if name not in peeled), None)
    seen: set[str] = set()
    while name is not None and name not in seen:  # every name that is left leads to another one
        seen.add(name)
        name = min(begins[name] - peeled)
    return name


class _Reader:
    """Reads definitions to `rules`; whatever it does not understand counts as some text, and is for llguidance to judge."""

    def __init__(self, source: str):
        self.source = source
        self.rules: dict[str, Node] = {}
        self.output: list[str] = []
        self._stack: list[Node] = [Node("any", [Node("all")])]  # what is open: a rule's alternatives, then groups'

    def read(self) -> None:
        position = 0
        while position < len(self.source):
            definition = DEFINITION.match(self.source, position) if self._at_line_start(position) else None
            if definition is not None:
                self._define(definition["name"])
                self.output.append(definition[0])
                position = definition.end()
                continue
            token = TOKEN.match(self.source, position)
            position = position + 1 if token is None else self._take(token)

    def _at_line_start(self, position: int) -> bool:
        return position == 0 or self.source[position - 1] == "\n"

    def _define(self, name: str) -> None:
        if len(self.rules) == MAX_RULES:
            raise RequestError(f"{NAME}.grammar has more than {MAX_RULES} rules.", NAME)
        node = Node("any", [Node("all")])
        self._stack = [node]
        self.rules[name] = node

    def _take(self, token: re.Match[str]) -> int:
        """Take one token in. Returns where the next begins."""
        kind, text = str(token.lastgroup), token[0]
        self.output.append(text)
        if kind == "json":
            return self._json(token.end())
        if kind == "regex":
            check_regex(text[1 : text.rindex("/")], f"{NAME}.grammar")
            self._add(Node("text"))
        elif kind == "text":
            self._add(Node("text", empty=text.startswith('""')))
        elif kind == "special":
            self._add(Node("text"))
        elif kind == "name":
            self._add(Node("name", name=text))
        elif kind == "count":
            self._count(text)
        elif kind == "directive" and text.startswith("%lark"):
            raise RequestError(
                f"{NAME}.grammar may not hold another grammar (%lark): write its rules into this one.", NAME
            )
        elif kind == "mark":
            self._mark(text)
        return token.end()

    def _mark(self, text: str) -> None:
        if text in "([":
            if len(self._stack) > MAX_NESTING:
                raise RequestError(f"{NAME}.grammar has groups nested more than {MAX_NESTING} deep.", NAME)
            self._stack.append(Node("any", [Node("all")], optional=text == "["))
        elif text in ")]" and len(self._stack) > 1:
            group = self._stack.pop()
            self._add(group)
        elif text == "|":
            self._stack[-1].parts.append(Node("all"))
        elif text in "*?":
            self._make_optional()

    def _count(self, text: str) -> None:
        numbers = [int(number[:12]) for number in re.findall(r"\d+", text)]
        if max(numbers, default=0) > MAX_REPEAT:
            raise RequestError(f"{NAME}.grammar counts up to {max(numbers)}; at most {MAX_REPEAT} are allowed.", NAME)
        if not numbers or numbers[0] == 0 or text.replace(" ", "").startswith("{,"):
            self._make_optional()

    def _make_optional(self) -> None:
        current = self._stack[-1].parts[-1]
        if current.parts:
            current.parts[-1].optional = True

    def _add(self, node: Node) -> None:
        self._stack[-1].parts[-1].parts.append(node)

    def _json(self, position: int) -> int:
        """A schema within the grammar: checked like one by itself, and made compact unless it says how it wants to be."""
        try:
            schema, end = json.JSONDecoder().raw_decode(self.source, position)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{NAME}.grammar holds a %json that is not valid JSON.", NAME) from error
        checked: dict[str, Any] = json.loads(schema_text(schema))
        check_schema(checked)
        self.output.append(json.dumps({**COMPACT, **checked}))
        self._add(Node("text"))
        return end
