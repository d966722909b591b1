"""What is refused of a Lark grammar before it is compiled: left recursion, rules that never end, counts beyond bounds.

llguidance's own parser would not mind left recursion; it is refused because grammars that have it by accident are
ambiguous without bound, and because every one of them can be written as a repetition. JSON within a grammar is compact, as
everywhere.
"""

import json
import re
from collections.abc import Sequence, Set
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
    r"""(?P<skip>\n|[^\S\n]+|//[^\n]*|\#[^\n]*|->\s*\w+)
      | (?P<text>"(?:\\.|[^"\\\n])*"i?)
      | (?P<regex>/(?:\\.|[^/\\])+/[a-z]*)
      | (?P<json>%json\s*(?=\{))
      | (?P<directive>%\w+)
      | (?P<count>\{\s*(?:\d+\s*)?(?:,\s*(?:\d+\s*)?)?\}|~\s*\d+(?:\s*\.\.\s*\d+)?)
      | (?P<special><[^<>\n]*>)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(slots=True, eq=False)
class Node:
    """A part of a rule: "any" of its parts, "all" of them in order, a "name", or "text" that is empty or not.

    `optional` says that a quantifier allows none of it. Nodes are told apart by identity.
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
    """Refuse rules that begin with themselves, and those of which no text ever ends. Linear in their size."""
    nullable = least(conditions(rules, of_text=False))
    begins = {name: sorted(first_names(node, nullable) & set(rules)) for name, node in rules.items()}
    looping = left_recursive(begins)
    if looping is not None:
        raise RequestError(
            f"{NAME}.grammar is left-recursive: rule {looping!r} begins with itself; write it as a repetition, like "
            "'sum: term (\"+\" term)*'.",
            NAME,
        )
    ending = least(conditions(rules, of_text=True))
    endless = next((name for name in rules if name not in ending), None)
    if endless is not None:
        raise RequestError(f"{NAME}.grammar has a rule that never ends: {endless!r} always requires itself.", NAME)


def conditions(rules: dict[str, Node], of_text: bool) -> dict[str | Node, tuple[int, Sequence[str | Node]]]:
    """When a rule or a part of one has, with `of_text`, some finite text, without, the empty one; for `least`."""
    found: dict[str | Node, tuple[int, Sequence[str | Node]]] = {name: (1, [node]) for name, node in rules.items()}
    waiting = list(rules.values())
    while waiting:
        node = waiting.pop()
        waiting += node.parts
        if node.optional:
            found[node] = (0, ())
        elif node.kind == "text":
            found[node] = (0 if of_text or node.empty else 1, ())
        elif node.kind == "name":
            found[node] = (0 if of_text and node.name not in rules else 1, [node.name])
        else:
            found[node] = (1 if node.kind == "any" else len(node.parts), node.parts)
    return found


def first_names(node: Node, nullable: Set[str | Node]) -> set[str]:
    """The names that the node's text may begin with. `nullable` are the rules and parts that may be empty."""
    names: set[str] = set()
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if part.kind == "name":
            names.add(part.name)
        elif part.kind == "any":
            waiting += part.parts
        else:
            for inner in part.parts:
                waiting.append(inner)
                if inner not in nullable:
                    break
    return names


def left_recursive(begins: dict[str, list[str]]) -> str | None:
    """A name from which a chain of beginnings leads back to it. What is peeled off, leaves first, is on no circle."""
    peeled = least({name: (len(others), others) for name, others in begins.items()})
    name = next((name for name in begins if name not in peeled), None)
    seen: set[str] = set()
    while name is not None and name not in seen:  # every name that is left leads to another one
        seen.add(name)
        name = next(other for other in begins[name] if other not in peeled)
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
        elif kind == "directive":
            self._directive(text)
        elif kind == "mark":
            self._mark(text)
        return token.end()

    def _directive(self, text: str) -> None:
        if text == "%lark":
            raise RequestError(
                f"{NAME}.grammar may not hold another grammar (%lark): write its rules into this one.", NAME
            )
        if text == "%regex":
            self._add(Node("text"))
        else:  # a line by itself: what follows is checked, but belongs to no rule
            self._stack = [Node("any", [Node("all")])]

    def _mark(self, text: str) -> None:
        if text in '/"':
            what = "text" if text == '"' else "regular expression"
            raise RequestError(f"{NAME}.grammar has a {what} without its end: a {text} that no other one closes.", NAME)
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
