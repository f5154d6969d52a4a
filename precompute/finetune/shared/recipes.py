"""Reading a recipe: a named one, or a JSON file that changes one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from core.errors import SourceError

Recipe = TypeVar("Recipe")


def read_recipe(
    given: str | None, named: Mapping[str, Recipe], default: str, options: Mapping[str, Any]
) -> Recipe:
    """Return the recipe that was asked for.

    Args:
        given: A name, or a JSON file with an object of the recipe's fields; None is ``default``.
            The file may say with ``"recipe": NAME`` which recipe it changes.
        named: The known recipes.
        default: Which of them it is otherwise.
        options: Fields that options of a command change; those that are None do not.

    Raises:
        SourceError: There is no such recipe or file, or a field is unknown or has a wrong value.
    """
    content: dict[str, Any] = {}
    name = given or default
    if given is not None and given not in named:
        content = _read(Path(given), named)
        name = content.pop("recipe", default)
        if name not in named:
            raise SourceError(f"{given} changes the recipe {name}; known are {', '.join(named)}.")
    recipe = _changed(named[name], content, given or name)
    return _changed(recipe, {n: v for n, v in options.items() if v is not None}, "The command")


def _read(path: Path, named: Mapping[str, Any]) -> dict[str, Any]:
    if not path.is_file():
        raise SourceError(
            f"--recipe {path} is neither a file nor one of the recipes {', '.join(named)}."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} is not a file of JSON: {error}.") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path} holds no JSON object of a recipe's fields.")
    return content


def _changed(recipe: Any, content: Mapping[str, Any], where: str) -> Any:  # noqa: ANN401
    """Return a recipe with other values, each checked against the field's type."""
    import pydantic

    known = [field.name for field in fields(recipe)]
    unknown = [name for name in content if name not in known]
    if unknown:
        raise SourceError(
            f"{where} has {', '.join(unknown)}, which no recipe knows; known are "
            f"{', '.join(known)}."
        )
    if not content:
        return recipe

    try:
        values = {name: getattr(recipe, name) for name in known} | dict(content)
        parsed = pydantic.TypeAdapter(type(recipe)).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SourceError(f"{where}: {place} is wrong: {first['msg']}.") from error
    return replace(recipe, **{name: getattr(parsed, name) for name in content})
