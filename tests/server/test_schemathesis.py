"""The OpenAPI document, held against the server by schemathesis: no failure of ours, nothing but what it describes."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

EXAMPLES = 25
OPERATIONS = [
    "POST /v1/completions", "POST /v1/chat/completions", "GET /v1/models", "GET /v1/models/{name}", "POST /tokenize",
    "POST /detokenize", "GET /version", "GET /health", "GET /health_generate",
]  # fmt: skip

MODEL = {"model": "fake"}
USUAL = {
    "POST /v1/completions": {**MODEL, "prompt": ["hello", [4, 5]], "max_tokens": 3, "min_tokens": 0, "request_id": "r"},
    "POST /v1/chat/completions": {
        **MODEL, "messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 3, "min_tokens": 0,
        "request_id": "r", "chat_template": None, "continue_final_message": False,
    },
    "POST /tokenize": {**MODEL, "messages": None, "prompt": "hello"},
    "POST /detokenize": {**MODEL, "tokens": [5, 6]},
}  # fmt: skip


@pytest.fixture(scope="module")
def operations(running):
    schema = schemathesis.openapi.from_url(f"{running.address}/openapi.json")
    return {result.ok().label: result.ok() for result in schema.get_all_operations()}


def test_every_operation_is_among_those_tried(operations):
    assert sorted(operations) == sorted(OPERATIONS)


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        (label, mode)
        for label in OPERATIONS
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        if mode is GenerationMode.POSITIVE or label.startswith("POST")  # the others take nothing that could be invalid
    ],
)
def test_no_failure_and_nothing_undocumented(running, operations, label, mode):
    operation, answers = operations[label], []

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        if mode is GenerationMode.POSITIVE and label in USUAL:
            case.body |= USUAL[label]  # what no schema can know, such as the model's name: or all would be refused
        # A body may fit its schema and ask for the impossible, such as more tokens than the context holds.
        answer = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        answers.append(answer.status_code)

    check()
    if mode is GenerationMode.POSITIVE and label != "GET /v1/models/{name}":
        assert 200 in answers, "all were refused, so no answer has been held against the document"
    running.wait_until_idle()
