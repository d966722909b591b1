"""The house rules that can be read off the source: who may import whom, how long things get, what is never written.

A rule about layout holds only where a test checks it. The table is architecture as data: to move a wall, move it here
and say why in the commit.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("orca_jax", "pallas_kernels")

KERNELS = "pallas_kernels"
DOORS = {"core", "engine", "observe", "scheduling", "text", "protocol", "batch"}

# A room may import itself and these, of ours. Doors never import each other.
ROOMS: dict[str, set[str]] = {
    KERNELS: set(),
    "core": set(),
    "scheduling": {"core"},
    "text": {"core"},
    "observe": {"core"},
    "models": {"core", KERNELS},  # of core, its errors
    "execution": {"core", "models", KERNELS},
    "distributed": {"core", "models", "execution"},
    "engine": {"core", "scheduling", "text"},
    "protocol": {"core", "engine", "text"},  # of the engine, its door
    "batch": {"core", "engine", "text", "protocol"},
    "simulate": {"core", "scheduling", "engine"},
    "plan": {"core", "models", "execution", KERNELS},  # which attention would run there
    "server": DOORS,
    "offline": DOORS,
    "bench": DOORS | {"models", "execution", KERNELS},  # it times the step and the kernels by themselves, too
    "cli": {"core", "engine", "offline", "server", "bench", "train", "simulate", "plan", "observe"},
    "train": {"models", "core"},
    "testing": {"core", "scheduling", "text", "engine", "observe", "models", "execution", KERNELS},
}

# The one place where config becomes objects, and the package's own front, which loads lazily.
EXCEPTIONS: dict[str, set[str]] = {
    "orca_jax/engine/build.py": ROOMS["engine"] | {"models", "execution", "distributed", KERNELS},
    "orca_jax/__init__.py": {"core", "offline"},
    "orca_jax/__main__.py": {"cli"},
}

HOST_ROOMS = {"core", "scheduling", "text", "engine", "observe", "protocol", "server"}
NOT_HOST = {"orca_jax/engine/build.py"}
DEVICE_LIBRARIES = {"jax", "jaxlib", "flax", "optax", "orbax", "grain"}

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
SPEAKING_ROOMS = {"cli", "train", "bench"}  # may print and read the environment
PROGRAMS = {"benchmark.py", "goldens.py"}  # run by hand, so they may print
STORES_OF_CODE = {"pickle", "dill", "cloudpickle", "shelve", "marshal"}


def product_files() -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def parse(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), filename=name, feature_version=(3, 11))


TREES = {name: parse(name) for name in product_files()}


def room_of(name: str) -> str:
    """`orca_jax/core/plan.py -> core`; the file's own stem for the few that stand at the top of the package."""
    parts = Path(name).with_suffix("").parts
    return KERNELS if parts[0] == KERNELS else parts[1]


def imported_modules(tree: ast.Module) -> set[str]:
    """Absolute names of everything imported anywhere in the file, lazily or for types included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module or '.'}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(tree: ast.Module) -> set[str]:
    rooms: set[str] = set()
    for module in imported_modules(tree):
        top, _, rest = module.partition(".")
        if top == KERNELS:
            rooms.add(KERNELS)
        elif top == "orca_jax":
            rooms.add(rest.split(".")[0] or "__init__")
    return rooms


def libraries_imported(tree: ast.Module) -> set[str]:
    return {module.split(".")[0] for module in imported_modules(tree)}


def offenders(is_bad: Callable[[ast.AST], bool], unless: Callable[[str], bool] = lambda name: False) -> list[str]:
    """`file:line` of every node of the product that breaks a rule."""
    return [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        if not unless(name)
        for node in ast.walk(tree)
        if is_bad(node)
    ]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def may_speak(name: str) -> bool:
    return room_of(name) in SPEAKING_ROOMS or Path(name).name in PROGRAMS


def calls(node: ast.AST, function: str, arguments: int | None = None) -> bool:
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function
    return named and (arguments is None or len(node.args) == arguments)


def test_the_table_names_every_room():
    """A room that nobody has put into the table would escape every rule."""
    assert {room_of(name) for name in TREES} <= set(ROOMS) | {"__init__", "__main__", "version"}
    assert set(EXCEPTIONS) | NOT_HOST <= set(TREES)


def test_every_file_imports_only_what_its_room_may():
    wrong = {}
    for name, tree in TREES.items():
        room = room_of(name)
        allowed = EXCEPTIONS.get(name, ROOMS.get(room, set())) | {room, "version"}
        wrong[name] = sorted(rooms_imported(tree) - allowed)
    assert {name: rooms for name, rooms in wrong.items() if rooms} == {}


def test_imports_are_absolute():
    assert offenders(lambda node: isinstance(node, ast.ImportFrom) and node.level > 0) == []


def test_the_host_tower_never_names_the_device_libraries():
    hosts = [name for name in TREES if room_of(name) in HOST_ROOMS and name not in NOT_HOST]
    assert len(hosts) > 20
    assert [name for name in hosts if libraries_imported(TREES[name]) & DEVICE_LIBRARIES] == []


def test_files_and_functions_fit_on_a_few_screens():
    lines = {name: (ROOT / name).read_text(encoding="utf-8").count("\n") for name in TREES}
    assert {name: count for name, count in lines.items() if count > MAX_FILE_LINES} == {}
    long = {}
    for name, tree in TREES.items():
        for node in functions(tree):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if count > MAX_FUNCTION_LINES:
                long[f"{name}:{node.lineno} {node.name}"] = count
    assert long == {}


def test_a_file_opens_with_why_it_exists():
    assert [name for name, tree in TREES.items() if tree.body and not ast.get_docstring(tree)] == []


def test_input_is_never_checked_with_assert():
    assert offenders(lambda node: isinstance(node, ast.Assert), unless=lambda name: room_of(name) == "testing") == []


def test_no_error_is_swallowed():
    def idle(node: ast.stmt) -> bool:
        nothing = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        return nothing or isinstance(node, ast.Pass | ast.Continue)

    def swallows(node: ast.AST) -> bool:
        return isinstance(node, ast.ExceptHandler) and (node.type is None or all(idle(line) for line in node.body))

    assert offenders(swallows) == []


def test_the_library_neither_probes_nor_pickles():
    assert offenders(lambda node: calls(node, "hasattr") or calls(node, "getattr", arguments=3)) == []
    assert [name for name, tree in TREES.items() if libraries_imported(tree) & STORES_OF_CODE] == []


def test_the_library_neither_prints_nor_reads_the_environment():
    environment = {"environ", "environb", "getenv", "putenv"}

    def reads_environment(node: ast.AST) -> bool:
        if isinstance(node, ast.ImportFrom):
            return node.module == "os" and bool(environment & {alias.name for alias in node.names})
        return isinstance(node, ast.Attribute) and node.attr in environment

    assert offenders(lambda node: calls(node, "print"), unless=may_speak) == []
    assert offenders(reads_environment, unless=lambda name: room_of(name) in SPEAKING_ROOMS) == []
