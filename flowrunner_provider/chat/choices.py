"""The choices that parameters and connections offer."""

from __future__ import annotations

from typing import Literal

__all__ = ["CardKind", "Language", "OnUnknown", "Platform"]

Platform = Literal["teams", "google_chat", "discord", "telegram", "mattermost"]
"""Where messages are posted."""

OnUnknown = Literal["stop", "resend", "skip"]
"""What to do with a message of which nobody can tell whether it was posted."""

CardKind = Literal["failure", "success", "sla"]
"""What a notification is about."""

Language = Literal["en", "es"]
"""Of the titles and labels of a notification."""
