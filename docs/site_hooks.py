"""Hooks of the site: links that leave docs/ (model cards, sources) become text; the site has the documents alone."""

import re


def on_page_markdown(markdown, page, config, files):
    """Rewrite `[text](../path)` to `text (path)` where the path is above docs/."""
    depth = page.file.src_uri.count("/") + 1

    def plain(match):
        ups = match.group(2).count("../")
        return f"{match.group(1)} (`{match.group(3)}`)" if ups >= depth else match.group(0)

    return re.sub(r"\[([^\]]+)\]\(((?:\.\./)+)([^)]+)\)", plain, markdown)
