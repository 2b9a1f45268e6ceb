"""Moves CSS into ``style`` attributes, because many mail clients ignore ``<style>``."""

from __future__ import annotations

import re

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.extras import load

__all__ = ["inline_styles"]

_STYLE = re.compile(r"<style[\s>]", re.IGNORECASE)


def inline_styles(html: str) -> str:
    """Return ``html`` with the rules of its ``<style>`` elements moved into ``style`` attributes.

    Rules that need a style sheet, such as ``@media``, stay in one. Linked style sheets are not downloaded.

    :raises ConfigError: naming ``html``, when the style sheet is invalid.
    """
    if "<style" not in html.lower() or not _STYLE.search(html):  # the first look is much the quicker
        return html
    css = load("css_inline", extra="email", needed_for="moving CSS into the elements of a mail")
    inliner = css.CSSInliner(load_remote_stylesheets=False, keep_link_tags=True, keep_at_rules=True)
    try:
        return str(inliner.inline(html))
    except css.InlineError as error:
        raise ConfigError(
            f"the styles of the mail cannot be moved into its elements: {error}",
            field="html",
            remedy="correct the <style> element, or set inline_css=False",
        ) from error
