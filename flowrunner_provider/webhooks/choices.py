"""Choices offered by parameters."""

from __future__ import annotations

from typing import Literal

__all__ = ["Scheme"]

Scheme = Literal["none", "standard_webhooks", "hmac"]
"""Signature schemes."""
