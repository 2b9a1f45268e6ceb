"""The choices that parameters offer."""

from __future__ import annotations

from typing import Literal

__all__ = ["Scheme"]

Scheme = Literal["none", "standard_webhooks", "hmac"]
"""How messages are signed."""
