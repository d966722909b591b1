"""What the compiler made of the step, read from its text: products, copies, aliases. The same on every machine."""

import re
from collections import Counter

import jax
import pytest

from orca_jax.execution.buckets import Bucket
from orca_jax.execution.forward import AttentionOptions
from orca_jax.execution.local import LocalExecutor
from orca_jax.execution.options import ExecutorOptions
from orca_jax.models.config import DecoderConfig
from orca_jax.models.dummy import fill_randomly
from orca_jax.models.load import abstract_model

# Widths that occur nowhere else, so that a shape in the text says which weight it is.
CONFIG = DecoderConfig(
    family="llama", vocab_size=331, hidden_size=56, num_layers=2, num_heads=6, num_kv_heads=2, head_dim=20,
    intermediate_size=88, max_position_embeddings=128,
)  # fmt: skip
PAGES, PAGE = 37, 8
BUCKETS = (Bucket(4, 4), Bucket(24, 4))
HALF = "the half that grammars split off"


@pytest.fixture(scope="module", params=["unrolled", "scan"])
def compiled(request):
    model = abstract_model(CONFIG, "float32", request.param)
    model = fill_randomly(model, "float32", 0, lambda *_: None)
    attention = AttentionOptions("xla", PAGE, layers=request.param)
    executor = LocalExecutor(model, ExecutorOptions(BUCKETS, 8, PAGES, 128, attention, "float32"))
    programs = {bucket: executor.outline.step(bucket) for bucket in BUCKETS}
    programs[HALF] = executor.outline.model_half(BUCKETS[-1])
    return executor, {name: program.lower().compile() for name, program in programs.items()}


def products(text: str, tokens: int) -> Counter:
    """How often each weight's product occurs: `f32[tokens, out] dot(f32[tokens, in], f32[out, in])`, keyed by out and in."""
    found = Counter()
    shapes = dict(re.findall(r"%?([\w.\-]+) = f32\[([\d,]*)\]", text))
    for out, left, right in re.findall(r"= f32\[([\d,]+)\]\S* dot\(([^,]+), ([^)]+)\)", text):
        names = [re.sub(r"^.*[% ]", "", name) for name in (left, right)]
        weight = shapes.get(names[1], "")
        if out.split(",")[0] == str(tokens) and out.count(",") == 1 and weight.count(",") == 1:
            found[weight] += 1
    return found


@pytest.mark.parametrize("bucket", BUCKETS)
def test_one_product_for_each_weight_whatever_the_phases(compiled, bucket):
    executor, programs = compiled
    layers = 1 if executor.options.attention.layers == "scan" else CONFIG.num_layers
    rows_of_qkv = 2 * (3 + 2) * 20
    found = products(programs[bucket].as_text(), bucket.tokens)
    expected = {f"{rows_of_qkv},56": layers, "56,120": layers, "176,56": layers, "56,88": layers}
    assert {shape: count for shape, count in found.items() if shape in expected} == expected
    assert products(programs[bucket].as_text(), bucket.rows)["331,56"] == 1


@pytest.mark.parametrize("name", [*BUCKETS, HALF])
def test_the_cache_is_updated_in_place(compiled, name):
    executor, programs = compiled
    program = programs[name]
    text = program.as_text()
    donated = jax.tree.leaves((executor.cache, executor.history))
    aliases = re.search(r"input_output_alias=\{(.*?)\}, entry", text).group(1)
    assert aliases.count("may-alias") + aliases.count("must-alias") == len(donated)
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= sum(x.nbytes for x in donated)
    whole = "x".join(map(str, executor.cache[0].shape)).replace("x", ",")
    copies = [line.strip() for line in text.splitlines() if re.search(rf"= f32\[{whole}\]\S* copy\(", line)]
    assert copies == []


def test_temporaries_do_not_grow_with_the_cache(compiled):
    executor, programs = compiled
    o = executor.options
    larger = ExecutorOptions(o.buckets, o.num_slots, 8 * o.num_pages, o.max_model_len, o.attention, o.kv_dtype)
    model = abstract_model(CONFIG, "float32", o.attention.layers)
    other = LocalExecutor(fill_randomly(model, "float32", 0, lambda *_: None), larger)
    bucket = BUCKETS[-1]
    before = programs[bucket].memory_analysis().temp_size_in_bytes
    after = other.outline.step(bucket).lower().compile().memory_analysis().temp_size_in_bytes
    assert after <= before * 1.05


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="XLA of JAX 0.10 repeats the cosines in every layer")
@pytest.mark.parametrize("bucket", BUCKETS)
def test_the_rotation_is_worked_out_once_for_all_layers(compiled, bucket):
    _, programs = compiled
    assert len(re.findall(r" cosine\(", programs[bucket].as_text())) == 1
