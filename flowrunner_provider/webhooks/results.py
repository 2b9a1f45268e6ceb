"""What the webhook actions return."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Delivery"]


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A message that the receiver has accepted.

    :param event_id: its id, the same in every try.
    :param status: what the receiver answered; 0 when an unknown outcome was taken for done.
    :param bytes: size of the body.
    :param signed: whether it carried a signature.
    """

    event_id: str
    status: int
    bytes: int
    signed: bool
