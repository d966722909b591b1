"""Stop strings found in text as it grows, without ever showing a part of one."""

from collections.abc import Sequence


class StopStrings:
    """The stop strings of a request, prepared once and shared by its sequences.

    `fallback[s][k]` is the length of the longest proper suffix of the first k characters of string s that also begins
    it (Knuth, Morris and Pratt), so that a character is looked at once, whatever came before.
    """

    def __init__(self, strings: Sequence[str], include_in_output: bool = False):
        self.strings = tuple(strings)
        self.include_in_output = include_in_output
        self.fallback = tuple(_fallback(string) for string in self.strings)
        self.first_characters = frozenset(string[0] for string in self.strings)

    def matcher(self) -> "StopMatcher":
        return StopMatcher(self)


class StopMatcher:
    """One answer's progress. The string that is complete first ends it; of several complete at once, the longest.

    That rule depends on the text alone, not on how it was cut into tokens. Text that may yet become a stop string is
    held back until that is decided, unless stop strings are wanted in the output anyway.
    """

    def __init__(self, stops: StopStrings):
        self._stops = stops
        self._matched = [0] * len(stops.strings)  # how much of each string the text ends with
        self._held = ""

    def push(self, text: str, armed: bool = True) -> tuple[str, str | None]:
        """Take new text; return what may be shown and the stop string that is now complete, if any.

        After a match nothing more may be pushed. While not `armed`, complete strings are passed over as ordinary text.
        """
        if not text:
            return "", None
        if not any(self._matched) and self._stops.first_characters.isdisjoint(text):
            return text, None
        for position, character in enumerate(text):
            complete = self._advance(character)
            if complete is not None and armed:
                return self._cut(text[: position + 1], complete), complete
        whole = self._held + text
        keep = 0 if self._stops.include_in_output else max(self._matched)
        split = len(whole) - keep
        self._held = whole[split:]
        return whole[:split], None

    def finish(self) -> str:
        """The text held back, when the answer ends for another reason."""
        held, self._held = self._held, ""
        self._matched = [0] * len(self._matched)
        return held

    def _cut(self, text: str, complete: str) -> str:
        whole, self._held = self._held + text, ""
        return whole if self._stops.include_in_output else whole[: len(whole) - len(complete)]

    def _advance(self, character: str) -> str | None:
        """Move every string's progress on by one character; return the longest that is complete with it."""
        complete = None
        for i, string in enumerate(self._stops.strings):
            fallback, matched = self._stops.fallback[i], self._matched[i]
            while matched and string[matched] != character:
                matched = fallback[matched]
            if string[matched] == character:
                matched += 1
            if matched == len(string):
                if complete is None or len(string) > len(complete):
                    complete = string
                matched = fallback[matched]
            self._matched[i] = matched
        return complete


def _fallback(string: str) -> tuple[int, ...]:
    table, length = [0, 0], 0
    for character in string[1:]:
        while length and string[length] != character:
            length = table[length]
        length += string[length] == character
        table.append(length)
    return tuple(table)
