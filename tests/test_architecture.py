"""The layers point one way, and a plain import stays quick."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parents[1]


def test_import_rules_hold():
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["autoseg_lib", "autoseg_lib.cli"])
def test_import_is_light(module):
    heavy = "{'torch', 'monai', 'matplotlib', 'pandas', 'SimpleITK', 'cv2', 'scipy', 'pydicom', 'ipywidgets'}"
    script = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_reading_and_measuring_load_no_torch():
    modules = [
        "autoseg_lib.io.dicom_series",
        "autoseg_lib.io.raster",
        "autoseg_lib.io.volume_files",
        "autoseg_lib.measure.areas",
        "autoseg_lib.measure.volumes",
        "autoseg_lib.metrics.surface",
        "autoseg_lib.evaluate.compare",
        "autoseg_lib.export.tables",
    ]
    script = f"import sys, {', '.join(modules)}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


# conda-forge's names for what PyPI calls otherwise.
CONDA_NAMES = {"torch": "pytorch", "opencv-python-headless": "opencv"}


def _floor(requirement: str) -> tuple[str, str]:
    name = re.match(r"[A-Za-z0-9_.-]+", requirement).group()
    version = re.search(r">=([0-9.]+)", requirement)
    return name.lower(), version.group(1) if version else ""


def test_conda_environment_agrees_with_pyproject():
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    floors = {CONDA_NAMES.get(name, name): floor for name, floor in map(_floor, project["dependencies"])}
    environment = yaml.safe_load((REPO / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"][0] == "conda-forge"
    plain = [item for item in environment["dependencies"] if isinstance(item, str)]
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert pip == ["-e ."]
    assert "python=3.12" in plain
    assert "pip" in plain
    for item in plain:
        name, floor = _floor(item)
        if name in ("python", "pip"):
            continue
        assert name in floors, f"{name} is in environment.yml but not in pyproject.toml"
        given = tuple(int(part) for part in floor.split("."))
        needed = tuple(int(part) for part in floors[name].split("."))
        assert given >= needed, f"{name}: environment.yml allows {floor}, pyproject needs {floors[name]}"


def test_no_path_of_a_machine_and_no_package_host_is_written_down():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    texts = [
        REPO / name
        for name in listed
        if name.endswith((".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", "run"))
    ]
    assert len(texts) > 50
    forbidden = re.compile("/" + r"(work|root)/|/home/[a-z]|py" + r"pi\.org|pythonhost" + "ed")
    found = [
        path.name for path in texts if path.is_file() and forbidden.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
