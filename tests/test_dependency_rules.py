"""Who may import what, checked on the source and in fresh interpreters."""

from __future__ import annotations

import ast
import fnmatch
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "bitsandbytes",
    "datasets",
    "faiss",
    "gradio",
    "open_clip",
    "peft",
    "rapidocr",
    "pymilvus",
    "ray",
    "sentence_transformers",
    "timm",
    "torch",
    "torchvision",
    "transformers",
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def _tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in _imports(path)}


def _strings(path: Path) -> set[str]:
    """Return all strings of a file: a process is started by the name of its module."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def test_pytest_looks_into_every_folder_that_has_tests(pytestconfig):
    """By its own list it leaves out folders named build or dist, and says nothing."""
    files = (ROOT / "tests").rglob("test_*.py")
    folders = {name for path in files for name in path.relative_to(ROOT).parts[:-1]}
    for pattern in pytestconfig.getini("norecursedirs"):
        assert not fnmatch.filter(folders, pattern)


def test_what_a_file_imports_of_ours_is_there():
    """An import inside a function fails only when it runs, and mypy passes over missing modules."""
    missing = [
        (path.relative_to(ROOT).as_posix(), name)
        for path in [ROOT / "app.py", *_files("core", "precompute", "tests")]
        for name in _imports(path)
        if name.startswith(("core.", "precompute.", "tests."))
        and not (at := ROOT.joinpath(*name.split("."))).is_dir()
        and not at.with_suffix(".py").is_file()
    ]
    assert missing == []


def test_core_never_imports_or_starts_precompute():
    offenders = [
        str(path) for path in _files("core") if "precompute" in _tops(path) | _strings(path)
    ]
    assert offenders == []


def test_the_app_asks_one_job_alone_for_the_gallery_of_a_first_start():
    asked = {name for name in _imports(ROOT / "app.py") if name.startswith("precompute")}
    assert asked == {"precompute.build.sample_gallery"}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in [ROOT / "app.py", *_files("core", "precompute")]}
ROOMS = {name for name, path in MODULES.items() if path.name == "__init__.py" and "." in name}


def _uses(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each module of ours that a file names, and what it takes from it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, "") if inner in MODULES else (node.module, alias.name)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.Constant) and "." in str(node.value) and node.value in MODULES:
            yield str(node.value), ""  # imported when it is asked for


def _door(room: str) -> list[str]:
    for node in ast.parse(MODULES[room].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{room} has no __all__")


def test_a_room_is_entered_by_its_door():
    """Doors name submodules and import nothing; they open as far as somebody needs, no further."""
    used: dict[str, set[str]] = {room: set() for room in ROOMS}
    for me, path in MODULES.items():
        for name, _ in _uses(path):
            steps = name.split(".")
            for depth in range(1, len(steps)):
                room = ".".join(steps[:depth])
                if room in ROOMS and name in MODULES and not f"{me}.".startswith(f"{room}."):
                    used[room].add(steps[depth])
    assert {room: sorted(names) for room, names in used.items()} == {
        room: sorted(_door(room)) for room in ROOMS
    }, "list in a room's __all__ the files that other rooms use, or move what they use"


def test_a_door_imports_nothing():
    assert [room for room in sorted(ROOMS) if list(_imports(MODULES[room]))] == []


def test_no_file_takes_a_private_name_of_another():
    taken = [(me, *use) for me, path in MODULES.items() for use in _uses(path)]
    assert [use for use in taken if use[1] in MODULES and use[2].startswith("_")] == []


def test_precompute_never_imports_the_app_or_the_ui():
    offenders = [
        str(p)
        for p in _files("precompute")
        if any(name == "app" or name.startswith("core.ui") for name in _imports(p))
    ]
    assert offenders == []


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("gradio", ("core/ui/", "app.py")),
        ("peft", ("core/models/captioner/lora.py", "precompute/finetune/")),
        ("pymilvus", ("core/search/engines/milvus.py",)),
        ("ray", ("precompute/build/executors/ray_cluster.py",)),
        ("rapidocr", ("core/models/text_reader.py",)),
        ("accelerate", ("precompute/build/executors/ranks.py", "precompute/finetune/")),
    ],
)
def test_a_package_is_imported_only_where_it_may_be(package, allowed):
    assert [path for path in allowed if not (ROOT / path).exists()] == []
    offenders = [
        path.relative_to(ROOT).as_posix()
        for path in [*_files("core", "precompute"), ROOT / "app.py"]
        if package in _tops(path)
    ]
    assert [path for path in offenders if not path.startswith(allowed)] == []


def test_nothing_is_pickled():
    offenders = [
        path.relative_to(ROOT).as_posix()
        for path in [*_files("core", "precompute"), ROOT / "app.py"]
        if _tops(path) & {"pickle", "joblib", "dill", "cloudpickle", "shelve"}
    ]
    assert offenders == []


def _fresh(code: str) -> dict[str, object]:
    """Run code in a new interpreter and return the JSON on its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


IMPORT_ALL_OF_CORE = """
import json, pkgutil, importlib, sys, resource
import core
for module in pkgutil.walk_packages(core.__path__, "core."):
    if not module.name.startswith("core.ui"):
        importlib.import_module(module.name)
cpu = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    "cpu_s": cpu.ru_utime + cpu.ru_stime,
}))
"""


def test_importing_all_of_core_loads_nothing_heavy():
    loaded = _fresh(IMPORT_ALL_OF_CORE)
    assert HEAVY & set(loaded["modules"]) == set()


HELP = """
import contextlib, io, json, resource, sys, runpy
sys.argv = ["precompute", *ARGUMENTS]
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    runpy.run_module("precompute", run_name="__main__")
cpu = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    "cpu_s": cpu.ru_utime + cpu.ru_stime,
    "help": out.getvalue(),
}))
"""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--help"], "build"), (["finetune", "captions", "--help"], "--lora-rank")],
)
def test_help_is_quick_and_loads_nothing_heavy(arguments, named):
    loaded = _fresh(HELP.replace("ARGUMENTS", repr(arguments)))
    assert named in loaded["help"]
    assert {*HEAVY, "numpy", "pydantic_settings"} & set(loaded["modules"]) == set()
    assert loaded["cpu_s"] < 1.0  # the bench holds it to 0.5 s on a quiet machine
