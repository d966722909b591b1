"""Whose fault it is when there was no token to choose: the model's, or that of a request that contradicts itself."""

from orca_jax.core.plan import NOTHING_ALLOWED
from orca_jax.core.request import Request

NOT_FINITE = "the model's logits are not finite for this request."


def blame(request: Request, token: int) -> tuple[str, str | None]:
    """What to say about a request that got `token` instead of one, and its field to blame, None where it has none."""
    params = request.params
    asked = {
        "structured_outputs": request.grammar is not None,
        "allowed_token_ids": params.allowed_token_ids is not None,
        "bad_words": bool(request.bad_words),
        "min_tokens": bool(params.min_tokens and request.stop_ids),
    }
    constraints = [name for name, given in asked.items() if given]
    if token != NOTHING_ALLOWED or not constraints:
        return NOT_FINITE, None
    return f"{' and '.join(constraints)} have left no token to go on with.", constraints[0]
