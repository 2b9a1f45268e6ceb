"""Results of the webhook actions."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Delivery"]


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A message that the receiver accepted.

    :param event_id: its id, the same in every try.
    :param status: HTTP status of the answer; 0 if an unknown outcome was treated as done.
    :param bytes: size of the body.
    :param signed: whether it carried a signature.
    """

    event_id: str
    status: int
    bytes: int
    signed: bool
