"""Phone numbers and senders: ITU-T E.164, and what carriers allow beside it.

Only the syntax is checked, not the national numbering plan: whether a number is in use, only the carrier knows.
"""

from __future__ import annotations

import re

from flowrunner_provider.core.errors import ConfigError

__all__ = ["check_sender", "is_e164", "masked", "phone_number"]

_E164 = re.compile(r"\+[1-9]\d{6,14}", re.ASCII)
_ALPHANUMERIC = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 _&+.-]{1,11}", re.ASCII)
_SHORT_CODE = re.compile(r"\d{3,8}", re.ASCII)


def is_e164(text: str) -> bool:
    """A plus sign, a country code and a number: 7 to 15 digits in all, and nothing else."""
    return _E164.fullmatch(text) is not None


def phone_number(value: object, field: str) -> str:
    """``value`` as a number in E.164.

    :raises ConfigError: naming ``field``; the number itself is not shown.
    """
    if isinstance(value, str) and is_e164(value):
        return value
    kind = "" if isinstance(value, str) else f" ({type(value).__name__})"
    raise ConfigError(
        f"{field} holds what is no phone number in E.164{kind}",
        field=field,
        remedy="write a plus sign, the country code and the number, without blanks: +14155550123",
    )


def check_sender(sender: str, field: str) -> str:
    """The sender as it is: a number in E.164, a short code, or an alphanumeric name of 11 characters.

    :raises ConfigError: naming ``field``.
    """
    if is_e164(sender) or _SHORT_CODE.fullmatch(sender) or _ALPHANUMERIC.fullmatch(sender):
        return sender
    raise ConfigError(
        f"{field} is no sender",
        field=field,
        remedy="give a number (+14155550123), a short code, or a name of 11 letters",
    )


def masked(number: str) -> str:
    """The number as messages may show it: its last two digits."""
    return f"…{number[-2:]}"
