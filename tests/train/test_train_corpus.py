import ast

from orca_jax.train.corpus import Module, conversations, is_held_out, library_root, read_modules, split
from orca_jax.train.dataset import sample_conversations


def test_only_modules_worth_learning_are_read(tmp_path):
    for name in ("a.py", "pkg/b.py", "test/c.py", "pkg/tests/d.py", "site-packages/e.py", "encodings/cp1252.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "empty.py").write_text("\n")
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\n# \xe9\n")
    assert [module.path for module in read_modules(tmp_path)] == ["a.py", "pkg/b.py"]


def test_a_module_s_side_does_not_depend_on_the_others():
    modules = [Module(f"m{i}.py", "x") for i in range(2000)]
    train, held_out = split(modules, seed=3, fraction=0.1)
    assert 150 < len(held_out) < 250
    assert {m.path for m in train} | {m.path for m in held_out} == {m.path for m in modules}
    assert split(modules[::7], seed=3, fraction=0.1)[1] == [m for m in modules[::7] if m in held_out]
    assert held_out != split(modules, seed=4, fraction=0.1)[1]
    assert not is_held_out("m1.py", 0, 0.0) and is_held_out("m1.py", 0, 1.0)


def test_an_answer_is_a_whole_function_that_stands_alone():
    module = Module("textwrap.py", (library_root() / "textwrap.py").read_text("utf-8"))
    pairs = list(conversations(module))
    assert len(pairs) >= 5
    for question, answer in pairs:
        function = ast.parse(answer).body[0]
        assert question.startswith(f"Write a function {function.name}: ")


def test_private_undocumented_and_long_functions_make_no_conversation():
    text = 'def f():\n    "Doc."\n    return 1\ndef _g():\n    "Doc."\n    return 1\ndef h():\n    return 1\n'
    assert [question for question, _ in conversations(Module("m.py", text))] == ["Write a function f: Doc."]
    assert list(conversations(Module("m.py", text), longest=10)) == []
    assert list(conversations(Module("m.py", "def broken(:\n"))) == []


def test_a_method_loses_its_indentation():
    text = 'class A:\n    def f(self):\n        """Doc.\n\n        More."""\n        if self:\n            return 1\n'
    [(_, answer)] = conversations(Module("m.py", text))
    assert answer == 'def f(self):\n    """Doc.\n\n    More."""\n    if self:\n        return 1'


def test_conversations_are_the_asked_share_of_the_text():
    modules = read_modules(library_root() / "logging")
    chats = sample_conversations(modules, 0.1, seed=0)
    total, size = sum(len(module.text) for module in modules), sum(map(len, chats))
    assert 0.1 <= size / (size + total) < 0.12
    assert chats == sample_conversations(modules, 0.1, seed=0) != sample_conversations(modules, 0.1, seed=1)
