"""The house rules that can be read off the source: who may import whom, how long things get, what is never written.

A rule about layout holds only where a test checks it. The table is architecture as data: to move a wall, move it here
and say why in the commit.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("orca_jax", "pallas_kernels")

KERNELS = "pallas_kernels"
DOORS = {"core", "engine", "observe", "scheduling", "text", "batch"}

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
    "batch": {"core", "engine", "text"},
    "simulate": {"core", "scheduling", "engine"},
    "plan": {"core", "models", "execution"},
    "server": DOORS,
    "offline": DOORS,
    "bench": DOORS,
    "cli": {"core", "offline", "server", "bench", "train", "simulate", "plan", "observe"},
    "train": {"models", "core"},
    "testing": {"core", "scheduling", "text", "observe", "models", "execution", KERNELS},
}

# The one place where config becomes objects, and the package's own front, which loads lazily.
EXCEPTIONS: dict[str, set[str]] = {
    "orca_jax/engine/build.py": ROOMS["engine"] | {"models", "execution", "distributed", KERNELS},
    "orca_jax/__init__.py": {"core", "offline", "version"},
}

HOST_ROOMS = {"core", "scheduling", "text", "engine", "observe"}
NOT_HOST = {"orca_jax/engine/build.py"}
DEVICE_LIBRARIES = {"jax", "jaxlib", "flax", "optax", "orbax", "grain"}

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
SPEAKING_ROOMS = {"cli", "train", "bench"}  # may print, and may ask the shell's environment


def product_files() -> list[str]:
    return sorted(
        path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    )


FILES = product_files()
every_file = pytest.mark.parametrize("name", FILES)


def parse(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), filename=name, feature_version=(3, 11))


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
            assert node.level == 0 and node.module, f"line {node.lineno}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
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


def where(tree: ast.Module, is_bad) -> list[int]:
    """Lines of the nodes that break a rule."""
    return [node.lineno for node in ast.walk(tree) if is_bad(node)]


def calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def test_the_table_names_every_room():
    """A room that nobody has put into the table would escape every rule."""
    assert {room_of(name) for name in FILES} <= set(ROOMS) | {"__init__", "__main__", "version"}
    assert set(EXCEPTIONS) | NOT_HOST <= set(FILES) | {"orca_jax/engine/build.py"}


@every_file
def test_imports_only_what_its_room_may(name: str):
    room = room_of(name)
    allowed = EXCEPTIONS.get(name, ROOMS.get(room, set())) | {room, "version"}
    assert rooms_imported(parse(name)) <= allowed


@pytest.mark.parametrize("name", [name for name in FILES if room_of(name) in HOST_ROOMS and name not in NOT_HOST])
def test_the_host_tower_never_names_the_device_libraries(name: str):
    assert not {module.split(".")[0] for module in imported_modules(parse(name))} & DEVICE_LIBRARIES


@every_file
def test_files_and_functions_fit_on_a_few_screens(name: str):
    lines = (ROOT / name).read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_FILE_LINES, f"{lines} lines"
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


@every_file
def test_a_file_opens_with_why_it_exists(name: str):
    tree = parse(name)
    assert not tree.body or ast.get_docstring(tree)


@every_file
def test_input_is_checked_with_errors_and_errors_are_not_swallowed(name: str):
    tree = parse(name)
    if room_of(name) != "testing":
        assert where(tree, lambda node: isinstance(node, ast.Assert)) == []

    def swallows(node: ast.AST) -> bool:
        if not isinstance(node, ast.ExceptHandler):
            return False
        idle = all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)
        ellipsis = all(isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) for line in node.body)
        return node.type is None or idle or ellipsis

    assert where(tree, swallows) == []


@every_file
def test_the_library_neither_probes_nor_pickles(name: str):
    tree = parse(name)
    assert where(tree, lambda node: calls(node, "hasattr")) == []
    assert where(tree, lambda node: calls(node, "getattr") and len(node.args) == 3) == []
    assert not {module.split(".")[0] for module in imported_modules(tree)} & {"pickle", "dill", "cloudpickle", "shelve"}


@pytest.mark.parametrize("name", [name for name in FILES if room_of(name) not in SPEAKING_ROOMS])
def test_the_library_neither_prints_nor_reads_the_environment(name: str):
    tree = parse(name)
    assert where(tree, lambda node: calls(node, "print")) == []
    environment = {"environ", "environb", "getenv", "putenv"}
    assert where(tree, lambda node: isinstance(node, ast.Attribute) and node.attr in environment) == []
    assert not {f"os.{what}" for what in environment} & imported_modules(tree)
