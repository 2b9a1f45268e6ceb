"""Migration scripts: their folder, file names and variables.

``V1.2__orders.sql`` runs once, ``R__views.sql`` whenever it has changed, ``U1.2__orders.sql`` undoes V1.2.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from flowrunner_provider.core.errors import ConfigError, NotFound
from flowrunner_provider.database.identifiers import Identifier, Quoting
from flowrunner_provider.files.content import read_whole
from flowrunner_provider.files.store import Store

if TYPE_CHECKING:
    from flowrunner_provider.files.uri import Location

__all__ = ["Kind", "Script", "Version", "parsed", "read_folder", "rendered", "version_of"]

Kind = Literal["versioned", "repeatable", "undo"]
Version = tuple[int, ...]

_NAME = re.compile(r"(?:(?P<kind>[VU])(?P<version>\d+(?:[._]\d+)*)|R)__(?P<name>[^/\\]+)\.sql", re.ASCII)
_VERSION = re.compile(r"\d{1,18}(?:[._]\d{1,18})*", re.ASCII)
_KINDS: Mapping[str | None, Kind] = {"V": "versioned", "U": "undo", None: "repeatable"}
_VARIABLE = re.compile(r"\$\{(?:(?P<name>[A-Za-z_]\w*)(?::(?P<form>identifier|text))?\})?", re.ASCII)
_WORD = re.compile(r"\w+(?:\.\d+)?", re.ASCII)
_HEAD = re.compile(r"(?:[ \t]*(?:--[^\n]*)?\n)*[ \t]*--[^\n]*|", re.ASCII)
_DIRECTIVE = re.compile(r"^[ \t]*--[ \t]*flowrunner:[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_MOST_BYTES = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script, ready to run.

    :param version: the version as numbers, which is how versions compare; None for a repeatable script.
    :param checksum: of the file with normalised line ends; of a repeatable script after its variables are filled in.
    :param alone: the script is one statement that cannot run in a transaction.
    """

    file: str
    kind: Kind
    version: Version | None
    text: str
    checksum: str
    alone: bool

    @property
    def label(self) -> str | None:
        """The version as text."""
        return None if self.version is None else ".".join(map(str, self.version))


def version_of(text: str, field: str) -> Version:
    """Return ``1.2`` as (1, 2); trailing zeros do not count, so that 1.0 equals 1.

    :raises ConfigError: if the text is not a version.
    """
    if not isinstance(text, str) or not _VERSION.fullmatch(text):
        raise ConfigError(f"{text!r} is not a version", field=field, remedy="write numbers and dots, for example '1.2'")
    numbers = [int(part) for part in re.split("[._]", text)]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def parsed(file: str, data: bytes) -> Script:
    """Return the script of a file.

    :raises ConfigError: if its name or content is invalid.
    """
    found = _NAME.fullmatch(file)
    if found is None:
        raise _bad(
            f"{file} is not named like a migration",
            "name it V1__description.sql, R__description.sql or U1__description.sql",
        )
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise _bad(f"{file} is not UTF-8", "save it as UTF-8") from None
    if "\0" in text or not text.strip():
        raise _bad(f"{file} is empty or contains a NUL", "correct or remove it")
    head = _HEAD.match(text)
    directives = set(_DIRECTIVE.findall(head[0] if head else ""))
    if unknown := sorted(directives - {"no-transaction"}):
        raise _bad(
            f"{file} has the unknown directive {unknown[0]!r}", "the only directive is -- flowrunner:no-transaction"
        )
    return Script(
        file=file,
        kind=_KINDS[found["kind"]],
        version=version_of(found["version"], "location") if found["version"] else None,
        text=text,
        checksum=_digest(text),
        alone=bool(directives),
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _bad(message: str, remedy: str) -> ConfigError:
    return ConfigError(message, field="location", remedy=remedy)


async def read_folder(store: Store, location: Location) -> list[Script]:
    """Return the ``.sql`` scripts of a folder, without its subfolders.

    :raises NotFound: if there are none.
    """
    folder = location.path.rstrip("/") or "/"
    found: dict[tuple[Kind, Version | str], Script] = {}
    names = [
        (entry.name, entry.path)
        async for entry in store.list(folder)
        if not entry.is_dir and entry.name.endswith(".sql") and not entry.name.startswith(".")
    ]
    for name, path in sorted(names):
        script = parsed(name, await read_whole(store, path, _MOST_BYTES))
        other = found.setdefault((script.kind, script.version or script.file), script)
        if other is not script:
            raise _bad(f"{other.file} and {name} have the same version", "give each its own version")
    if not found:
        raise NotFound(
            f"{store.where}{folder} has no scripts", remedy="name the folder of the files V1__description.sql"
        )
    return list(found.values())


def rendered(
    scripts: Iterable[Script], values: Mapping[str, str | int] | None, quoting: Quoting, text: Callable[[str], str]
) -> list[Script]:
    """Return the scripts with their variables filled in; unchanged if ``values`` is None.

    ``${name}`` becomes a plain word or number, ``${name:identifier}`` a quoted name, ``${name:text}`` a literal.

    :param text: returns a literal of the database.
    :raises ConfigError: for a variable without a value, a value without a variable, or an invalid value.
    """
    scripts = list(scripts)
    if values is None:
        return scripts
    used: set[str] = set()

    def filled(script: Script, found: re.Match[str]) -> str:
        name, where = found["name"], f"{script.file}, line {found.string.count(chr(10), 0, found.start()) + 1}"
        if name is None or name not in values:
            what = "a malformed variable" if name is None else f"the variable {name!r} without a value"
            raise ConfigError(
                f"{where} has {what}",
                field="vars",
                remedy="write ${name}, ${name:identifier} or ${name:text}, and give vars a value for it",
            )
        used.add(name)
        return _value(name, str(values[name]), found["form"], quoting, text)

    done = []
    for script in scripts:
        body = _VARIABLE.sub(lambda found, script=script: filled(script, found), script.text)  # type: ignore[misc]
        checksum = _digest(body) if script.kind == "repeatable" else script.checksum
        done.append(replace(script, text=body, checksum=checksum))
    if unused := sorted(set(values) - used):
        raise ConfigError(f"no script has the variable {unused[0]!r}", field="vars", remedy="correct or remove it")
    return done


def _value(name: str, value: str, form: str | None, quoting: Quoting, text: Callable[[str], str]) -> str:
    if form == "identifier":
        return Identifier(value).quoted(quoting)
    if form == "text" and "\0" not in value:
        return text(value)
    if form is None and _WORD.fullmatch(value):
        return value
    raise ConfigError(
        f"the value of the variable {name!r} is not a plain word",
        field="vars",
        remedy="write ${" + name + ":identifier} for a name and ${" + name + ":text} for a text",
    )
