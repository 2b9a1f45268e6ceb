"""The choices that parameters offer. Operators import them at parse time, so nothing is imported here."""

from __future__ import annotations

from typing import Literal

__all__ = ["STRUCTURED", "Format", "IfExists", "Look", "Method", "Mode", "OnItemError", "Strategy"]

Method = Literal["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"]
"""Of a request."""

Look = Literal["GET", "HEAD", "POST"]
"""Of a request that only looks."""

Format = Literal["auto", "json", "xml", "csv", "ndjson", "text", "bytes"]
"""Of an answer's body."""

STRUCTURED = frozenset({"json", "xml", "csv", "ndjson"})
"""The formats that JMESPath can look into."""

IfExists = Literal["overwrite", "skip", "fail"]
"""What a download does with a file that is there."""

Mode = Literal["multipart", "raw", "presigned_put"]
"""How a file is sent."""

OnItemError = Literal["fail", "continue"]
"""What a batch does after an item that failed."""

Strategy = Literal["cursor", "page", "offset", "link_header", "next_url", "odata"]
"""How the next page is found."""
