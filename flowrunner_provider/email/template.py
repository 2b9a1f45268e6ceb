"""Renders Jinja template files with layouts. Only the files are templates: ``{{ }}`` in context values stays as it
is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.extras import load

__all__ = ["is_html", "render"]

_HTML = frozenset({".htm", ".html", ".xhtml", ".xml"})
_JINJA = frozenset({".j2", ".jinja", ".jinja2"})


def is_html(name: str | None) -> bool:
    """Return whether the file name means HTML, e.g. ``report.html`` or ``report.html.j2``."""
    suffixes = [suffix.lower() for suffix in PurePath(name or "").suffixes]
    return next((suffix in _HTML for suffix in reversed(suffixes) if suffix not in _JINJA), False)


def render(template: str, context: Mapping[str, Any], folder: str | Path) -> str:
    """Render a template file; white space is kept, and HTML templates escape values.

    :param template: a path below ``folder``, or an absolute path.
    :param context: the names available to the template.
    :param folder: the folder of ``template`` and of the templates that it extends or includes.
    :raises ConfigError: naming file and line, for an undefined name, an invalid expression or a missing file.
    """
    jinja2 = load("jinja2", extra="email", needed_for="an email template")
    path = PurePath(template)
    root, name = (path.parent, path.name) if path.is_absolute() else (PurePath(folder), str(path))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(root)),
        undefined=jinja2.StrictUndefined,
        autoescape=is_html,
        keep_trailing_newline=True,
    )
    try:
        return str(environment.get_template(name).render(dict(context)))
    except jinja2.TemplateNotFound as error:
        raise _wrong(f"there is no template {str(error)!r} below {str(root)!r}") from error
    except jinja2.TemplateSyntaxError as error:
        raise _wrong(f"template {error.filename or error.name}, line {error.lineno}: {error.message}") from error
    except UnicodeDecodeError as error:
        raise _wrong(f"template {name!r}, or one that it uses, is not UTF-8") from error
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _wrong(f"template {_place(error, str(root))}: {error}") from error
    except OSError as error:
        raise _wrong(f"template {name!r} cannot be read: {error.strerror}") from error


def _wrong(message: str) -> ConfigError:
    return ConfigError(message, field="template", remedy="correct the template, or its template_context")


def _place(error: BaseException, root: str) -> str:
    """Return file and line of the innermost template, which Jinja puts into the traceback."""
    place, step = root, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename.startswith(root):
            place = f"{step.tb_frame.f_code.co_filename}, line {step.tb_lineno}"
        step = step.tb_next
    return place
