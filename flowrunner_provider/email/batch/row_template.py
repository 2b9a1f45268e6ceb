"""Templates that are compiled once and rendered for each row, in Jinja's sandbox.

Only the DAG author's text is a template: ``{{ }}`` in a row's values stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.extras import load
from flowrunner_provider.email.batch.rows import Row
from flowrunner_provider.email.template import is_html

__all__ = ["RowTemplate", "Templates"]


def _or_empty(value: Any) -> Any:
    """Return empty text for None, which Jinja would render as ``None``."""
    return "" if value is None else value


class Templates:
    """Creates templates that share files and context.

    :param folder: the folder of template files and their layouts.
    :param context: names available to the templates of all rows.
    """

    def __init__(self, folder: str | Path, context: Mapping[str, Any]) -> None:
        self._jinja = load("jinja2", extra="email", needed_for="an email template")
        self._meta = load("jinja2.meta", extra="email", needed_for="an email template")
        sandbox = load("jinja2.sandbox", extra="email", needed_for="an email template")
        self.context = dict(context)
        self._sources: list[str] = []
        self._row: Row | None = None
        self._names: dict[str, Any] = {}
        self._environments = {
            html: sandbox.ImmutableSandboxedEnvironment(
                loader=self._jinja.FileSystemLoader(str(folder)),
                undefined=self._jinja.StrictUndefined,
                autoescape=html,
                finalize=_or_empty,
                keep_trailing_newline=True,
            )
            for html in (True, False)
        }
        self._globals = dict(self._environments[True].globals)

    @property
    def sources(self) -> list[str]:
        """The source of every template so far, and of the templates that these extend and include."""
        return self._sources

    def text(self, source: str, field: str, *, html: bool = False) -> RowTemplate:
        """Return a template that was passed as an argument."""
        if not isinstance(source, str):
            raise ConfigError(f"{field} must be text, not {type(source).__name__}", field=field)
        self._note(source, html, field, set())
        if "{" not in source:
            return RowTemplate(self, None, field, source)
        return RowTemplate(self, self._environments[html].from_string(source), field)

    def file(self, name: str) -> RowTemplate:
        """Return a template of a file below the folder; HTML templates escape values."""
        html = is_html(name)
        environment = self._environments[html]
        self._note(self._source(environment, name), html, "template", set())
        return RowTemplate(self, environment.get_template(name), "template")

    def _source(self, environment: Any, name: str) -> str:
        try:
            return str(environment.loader.get_source(environment, str(PurePath(name)))[0])
        except self._jinja.TemplateNotFound as error:
            raise _wrong(f"there is no template {str(error)!r}", "template") from error
        except (UnicodeDecodeError, OSError) as error:
            raise _wrong(f"template {name!r} cannot be read as UTF-8 text", "template") from error

    def _note(self, source: str, html: bool, field: str, seen: set[str]) -> None:
        """Remember ``source`` and every template that it refers to by name: a retry must find the same ones."""
        environment = self._environments[html]
        self._sources.append(source)
        try:
            tree = environment.parse(source)
        except self._jinja.TemplateSyntaxError as error:
            raise _wrong(f"{field}, line {error.lineno}: {error.message}", field) from error
        names: Iterator[str | None] = self._meta.find_referenced_templates(tree)
        for name in sorted({name for name in names if name} - seen):
            seen.add(name)
            self._note(self._source(environment, name), html, f"template {name}", seen)

    def render(self, template: Any, field: str, row: Row) -> str:
        if row is not self._row:  # the templates of one row see the same names
            self._row, self._names = row, {**self._globals, **self.context, **row, "row": row}
        try:
            return "".join(template.root_render_func(template.new_context(self._names, shared=True)))
        except self._jinja.UndefinedError as error:
            raise _wrong(f"{field}: {error.message}", field) from error
        except (
            self._jinja.TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            raise _wrong(f"{field}: {type(error).__name__}: {error}"[:500], field) from error


class RowTemplate:
    """One template; call it with a row."""

    __slots__ = ("_compiled", "_field", "_plain", "_templates")

    def __init__(self, templates: Templates, compiled: Any, field: str, plain: str = "") -> None:
        self._templates, self._compiled, self._field, self._plain = templates, compiled, field, plain

    def __call__(self, row: Row) -> str:
        """Return the text for ``row``.

        :raises ConfigError: naming the parameter, for an undefined name or an invalid expression.
        """
        if self._compiled is None:
            return self._plain
        return self._templates.render(self._compiled, self._field, row)


def _wrong(message: str, field: str) -> ConfigError:
    return ConfigError(message, field=field, remedy="correct the template, its context, or the row")
