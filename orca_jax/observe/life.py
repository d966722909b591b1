"""One sequence as an observer sees it: when it came, first ran, gave its first and its last token."""


class Life:
    """Times are seconds on the engine's clock, None until they have been.

    `number` counts the sequences of a run; `ended_at` is how many iterations had come back when this one ended.
    """

    __slots__ = ("number", "request_id", "index", "prompt_len", "max_tokens", "arrived", "scheduled", "first_token",
                 "last_token", "num_output", "ended", "ended_at", "reason")  # fmt: skip

    def __init__(self, number: int, request_id: str, index: int, prompt_len: int, max_tokens: int, arrived: float):
        self.number = number
        self.request_id = request_id
        self.index = index
        self.prompt_len = prompt_len
        self.max_tokens = max_tokens
        self.arrived = arrived
        self.scheduled: float | None = None
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.num_output = 0
        self.ended: float | None = None
        self.ended_at = 0
        self.reason: str | None = None

    @property
    def time_to_first_token(self) -> float | None:
        return None if self.first_token is None else self.first_token - self.arrived

    @property
    def time_per_output_token(self) -> float | None:
        """Mean seconds from one token to the next, None before the second."""
        if self.first_token is None or self.last_token is None or self.num_output < 2:
            return None
        return (self.last_token - self.first_token) / (self.num_output - 1)
