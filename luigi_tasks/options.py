"""Luigi parameters made from `trident.settings`: the same options, with dashes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import luigi
from luigi.parameter import ParameterVisibility
from pydantic.fields import FieldInfo

from trident.settings import Settings, is_flag, is_list, option_choices

_NOT_FOR_LUIGI = frozenset({"scheduler_url"})
"""Luigi has these itself."""


class OptionParameter(luigi.Parameter[Any]):
    """One option of the settings. None means: not given, so that environment, file and default decide."""

    def __init__(self, description: str, *, flag: bool = False, several: bool = False, identity: bool = False) -> None:
        """Args:
        description: for the help.
        flag: switched on by its bare name.
        several: takes several values.
        identity: part of the task's identity, shown on the scheduler's page. All others end up in the job file.
        """
        visibility = ParameterVisibility.PUBLIC if identity else ParameterVisibility.HIDDEN
        super().__init__(default=None, significant=identity, visibility=visibility, description=description)
        self._flag = flag
        self._several = several

    def parse(self, x: Any) -> Any:
        """Values stay as they come: the settings check and convert them."""
        return x

    def normalize(self, x: Any) -> Any:
        """Lists become tuples, since a task's parameters are its identity."""
        return tuple(x) if isinstance(x, list) else x

    def serialize(self, x: Any) -> str:
        """Text form, for Luigi's own lists of parameters."""
        return "" if x is None else str(x)

    def _parser_kwargs(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        parser_kwargs: dict[str, Any] = dict(super()._parser_kwargs(*args, **kwargs))  # type: ignore[no-untyped-call]
        if self._flag:
            parser_kwargs.update(nargs="?", const=True)  # `--skip-errors`, but also `--skip-errors false`
        elif self._several:
            parser_kwargs["nargs"] = "+"
        return parser_kwargs


@lru_cache(maxsize=1)
def option_parameters() -> dict[str, OptionParameter]:
    """A parameter for every option."""
    return {
        name: OptionParameter(_help(field), flag=is_flag(field), several=is_list(field))
        for name, field in Settings.model_fields.items()
        if name not in _NOT_FOR_LUIGI
    }


def _help(field: FieldInfo) -> str:
    choices = option_choices(field)
    text = f"{field.description}" + (f" One of: {', '.join(choices)}." if choices else "")
    return text.replace("%", "%%")


TaskClass = TypeVar("TaskClass", bound=type[luigi.Task])


def with_options(task_class: TaskClass) -> TaskClass:
    """Class decorator: the task takes every option on the `luigi` command line."""
    for name, parameter in option_parameters().items():
        setattr(task_class, name, parameter)
    return task_class
