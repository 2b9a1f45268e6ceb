"""Choices offered by parameters. Operators import this module at parse time, so it imports nothing."""

from __future__ import annotations

from typing import Literal

__all__ = ["STRUCTURED", "Format", "IfExists", "Method", "Mode", "OnItemError", "PollMethod", "Strategy"]

Method = Literal["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"]
"""HTTP methods of a request."""

PollMethod = Literal["GET", "HEAD", "POST"]
"""HTTP methods of a read-only poll."""

Format = Literal["auto", "json", "xml", "csv", "ndjson", "text", "bytes"]
"""Formats of a response body."""

STRUCTURED = frozenset({"json", "xml", "csv", "ndjson"})
"""The formats that JMESPath can query."""

IfExists = Literal["overwrite", "skip", "fail"]
"""What a download does if the file exists."""

Mode = Literal["multipart", "raw", "presigned_put"]
"""How a file is uploaded."""

OnItemError = Literal["fail", "continue"]
"""What a batch does after a failed item."""

Strategy = Literal["cursor", "page", "offset", "link_header", "next_url", "odata"]
"""How to find the next page."""
