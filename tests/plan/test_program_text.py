"""The reader of programs, on a text small enough to be checked by eye."""

from orca_jax.plan.program_text import Collective, ProgramText

TEXT = """\
HloModule jit_step, input_output_alias={ {0}: (1, {}, may-alias), {1}: (2, {}, must-alias) }, entry_computation_layout={()}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: bf16[8,4], x: bf16[2,4]) -> f32[2,8] {
  ROOT %dot.1 = f32[2,8]{1,0:T(8,128)S(1)} dot(%x, %p), metadata={op_name="jit(step)/mlp/dot_general" id=1}
}

%body (s: (s32[], f32[2,8])) -> (s32[], f32[2,8]) {
  %fusion.3 = f32[2,8]{1,0} fusion(%p, %x), kind=kOutput, calls=%fused
  %all-reduce.1 = f32[2,8]{1,0} all-reduce(%fusion.3), to_apply=%add, metadata={op_name="jit(step)/mlp/dot_general"}
  ROOT %t = (s32[], /*index=1*/f32[2,8]{1,0}) tuple(%i, %all-reduce.1)
}

%cond (s: (s32[], f32[2,8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%yes (s: f32[2,8]) -> f32[2,8] {
  %gather-start = (f32[2,8]{1,0}, f32[2,64]{1,0}) all-gather-start(%s), dimensions={1}
  ROOT %gather-done = f32[2,64]{1,0} all-gather-done(%gather-start)
}

%no (s: f32[2,8]) -> f32[2,8] {
  ROOT %call.1 = f32[2,8]{1,0} call(%s), to_apply=%fused
}

ENTRY %main (p: bf16[8,4], x: bf16[2,4]) -> f32[2,8] {
  %fusion.1 = f32[2,8]{1,0} fusion(%p, %x), kind=kOutput, calls=%fused
  %loop = (s32[], /*index=1*/f32[2,8]{1,0}) while(%t), condition=%cond, body=%body
  %gemm = (f32[2,8]{1,0}, s8[64]{0}) custom-call(%x, %p), custom_call_target="__cublas$gemm", metadata={op_name="head"}
  %other = f32[2,8]{1,0} custom-call(%x), custom_call_target="TopK"
  ROOT %choice = f32[2,8]{1,0} conditional(%pred, %a, %b), branch_computations={%yes, %no}
}
"""


def test_products_count_once_for_each_call_wherever_it_stands():
    products = ProgramText(TEXT).products()
    assert [(p.opcode, p.loops, p.branches) for p in products] == [
        ("dot", 0, 0), ("dot", 1, 0), ("custom-call", 0, 0), ("dot", 0, 1),
    ]  # fmt: skip
    assert products[0].bytes == 2 * 8 * 4


def test_collectives_are_told_by_where_they_run():
    assert ProgramText(TEXT).collectives() == (
        Collective("all-reduce", "jit(step)/mlp/dot_general", 64, 1, 0),
        Collective("all-gather", "", 2 * 64 * 4, 0, 1),
    )


def test_aliases_are_counted():
    assert ProgramText(TEXT).aliased() == 2
    assert ProgramText("HloModule nothing\n").aliased() == 0
