"""What does not change while an engine runs, for whoever shows what does."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Facts:
    """`max_num_seqs` rows are the most of an iteration; `num_pages` pages hold `page_size` tokens each."""

    model: str
    max_num_seqs: int
    num_pages: int
    page_size: int
    max_model_len: int
    engine: str = "0"
