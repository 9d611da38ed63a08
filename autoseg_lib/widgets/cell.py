"""What the running cell assigns: the Settings cell is plain ``name = value`` lines, also as a form on Colab."""

from __future__ import annotations

import ast
from typing import Any

from IPython.core.getipython import get_ipython


def assigned_values() -> dict[str, Any]:
    """Returns name → value of everything that the running cell has assigned so far, in its order.

    So a misspelt setting (``epoch = 5``) is found and named, instead of being overlooked. Outside a notebook the
    result is empty.
    """
    shell = get_ipython()
    if shell is None or not shell.user_ns.get("In"):
        return {}
    try:
        source = shell.transform_cell(shell.user_ns["In"][-1])
    except SyntaxError:
        return {}
    return {name: shell.user_ns[name] for name in assigned_names(source) if name in shell.user_ns}


def set_variable(name: str, value: Any) -> None:
    """Gives a variable of the notebook a new value, for the cells that are run later; outside a notebook does nothing."""
    shell = get_ipython()
    if shell is not None:
        shell.user_ns[name] = value


def assigned_names(source: str) -> list[str]:
    """Returns the names that the top level of a cell assigns, without those that take a function's result.

    Names that begin with an underscore are the user's own scratch and left out.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    names: list[str] = []
    for statement in tree.body:
        targets: list[ast.expr] = []
        if isinstance(statement, ast.Assign) and not _is_step(statement.value):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        for target in targets:
            if isinstance(target, ast.Name) and not target.id.startswith("_") and target.id not in names:
                names.append(target.id)
    return names


def _is_step(value: ast.expr) -> bool:
    """Whether the value is a call like ``lab.settings()``: the result of a step, no setting."""
    if isinstance(value, ast.Await):
        value = value.value
    return (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and isinstance(value.func.value, ast.Name)
        and value.func.value.id == "lab"
    )
