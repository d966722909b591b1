"""What must be true of every answer of a soak: its own secret at the most, and to the token what it is alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SHOWN = 20


@dataclass(slots=True)
class Choice:
    """One answer of a call, as far as it has come."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    def grow(self, choice: Mapping[str, Any]) -> None:
        """Take in a choice of a whole answer, or of a chunk."""
        self.text += choice["text"]
        self.token_ids += choice["token_ids"]
        self.finish_reason = choice["finish_reason"]

    def begins(self, whole: "Choice") -> bool:
        """Whether this is what a stream of `whole` may have shown when it was left."""
        return whole.text.startswith(self.text) and whole.token_ids[: len(self.token_ids)] == self.token_ids


Answer = dict[int, Choice]
"""The choices of a call by their index."""


def collect(answer: Answer, choices: Sequence[Mapping[str, Any]]) -> Answer:
    """`answer`, grown by the choices of a JSON body or chunk."""
    for choice in choices:
        answer.setdefault(choice["index"], Choice()).grow(choice)
    return answer


@dataclass
class Checker:
    """Judges answers. `secrets[i]` is client i's; `alone` holds, by any key, what is answered to the same body alone."""

    secrets: Sequence[str]
    alone: dict[Any, Answer] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def finished(self, client: int, key: Any, answer: Answer) -> None:
        """An answer that came to its end."""
        self.counts["finished"] += 1
        self.counts["answers"] += len(answer)
        self.counts["tokens"] += sum(len(choice.token_ids) for choice in answer.values())
        self._look_for_secrets(client, key, answer)
        if answer != self.alone[key]:
            self.violation("differs", f"{key}: {answer} is not {self.alone[key]}")

    def left(self, client: int, key: Any, answer: Answer) -> None:
        """What had been shown when the client left."""
        self.counts["left"] += 1
        self._look_for_secrets(client, key, answer)
        whole = self.alone[key]
        if any(index not in whole or not choice.begins(whole[index]) for index, choice in answer.items()):
            self.violation("differs", f"{key}: {answer} does not begin {whole}")

    def violation(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        if len(self.examples) < SHOWN:
            self.examples.append(f"{kind}: {what:.300}")

    def _look_for_secrets(self, client: int, key: Any, answer: Answer) -> None:
        texts = [choice.text for choice in answer.values()]
        if any(self.secrets[client] in text for text in texts):
            self.counts["own secret seen"] += 1  # else no leak could show either
        for other, secret in enumerate(self.secrets):
            if other != client and any(secret in text for text in texts):
                self.violation("leaks", f"{key} holds client {other}'s secret {secret}: {texts}")
