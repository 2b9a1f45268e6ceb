"""The choices that parameters and connections offer."""

from __future__ import annotations

from typing import Literal

__all__ = ["Channel", "OnUnknown", "Vendor"]

Channel = Literal["sms", "whatsapp"]
"""The way a message takes; not every vendor has all."""

OnUnknown = Literal["stop", "resend", "skip"]
"""What to do with a message of which nobody can tell whether it was sent."""

Vendor = Literal["twilio", "vonage", "sns", "azure_acs"]
"""Whose API sends the messages."""
