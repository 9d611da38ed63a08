"""Nothing in the library runs code that comes with data: no pickle, no eval, no shell; shown on the source itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.helpers.real_data import REPOSITORY

LIBRARY = REPOSITORY / "autoseg_lib"
FILES = sorted(LIBRARY.rglob("*.py"))
# Modules that turn bytes into objects, and so into code.
UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "xmlrpc",
}
UNSAFE_CALLS = {
    "eval", "exec", "compile", "__import__", "execfile", "os.system", "os.popen", "os.startfile", "pandas.read_pickle",
    "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "np.fromregex", "torch.hub.load",
    "torch.jit.load", "tempfile.mktemp",
}  # fmt: skip
# os.startfile opens the results' folder on Windows, which is a folder this software made.
ALLOWED = {("widgets/files_button.py", "os.startfile")}


def problems_of(source: str, name: str = "made.py") -> list[str]:
    """Returns what is unsafe in a module's source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [item.name for item in node.names]
            )
            found += [f"imports {module}" for module in modules if module.split(".")[0] in UNSAFE_MODULES]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {item.arg: ast.unparse(item.value) for item in node.keywords}
            if called in UNSAFE_CALLS and (name, called) not in ALLOWED:
                found.append(f"calls {called}")
            if called == "torch.load" and given.get("weights_only") != "True":
                found.append("calls torch.load without weights_only=True")
            if (
                called in ("np.load", "np.save", "numpy.load", "numpy.save")
                and given.get("allow_pickle") != "False"
            ):
                found.append(f"calls {called} without allow_pickle=False")
            if called.startswith("subprocess.") and given.get("shell", "False") != "False":
                found.append("calls a shell")
            if called.endswith("Environment") and "jinja" in source and given.get("autoescape") != "True":
                found.append("makes pages without escaping")
            if called.endswith("getattr") and "__reduce__" in ast.unparse(node):
                found.append("touches __reduce__")
    return found


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 80


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(LIBRARY)) for path in FILES])
def test_no_code_from_data(path: Path) -> None:
    name = path.relative_to(LIBRARY).as_posix()
    assert problems_of(path.read_text(encoding="utf-8"), name) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "import os\nos.system('ls')",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p)",
        "np.save(p, a)",
        "yaml.load(t, Loader=yaml.Loader)",
        "subprocess.run('x', shell=True)",
        "jinja2.Environment()",
    ],
)
def test_each_would_be_noticed(source: str) -> None:
    assert problems_of(source)


def test_templates_never_switch_escaping_off() -> None:
    templates = sorted(LIBRARY.rglob("*.j2"))
    assert templates
    for path in templates:
        text = path.read_text(encoding="utf-8").replace(" ", "")
        assert "|safe" not in text, path.name
        assert "autoescapefalse" not in text, path.name


def test_yaml_text_is_read_in_one_place() -> None:
    """Everything else would have to refuse aliases and code again."""
    users = [
        path.relative_to(LIBRARY).as_posix()
        for path in FILES
        if any(word in path.read_text(encoding="utf-8") for word in ("safe_load", "SafeLoader"))
    ]
    assert users == ["settings.py"]
