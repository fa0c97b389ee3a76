"""Texts of a trainer without the server's folders, which clients need not know."""

import re
from typing import Any

# folders of an absolute path; a URL's follow its host, so they are none
_FOLDERS = re.compile(r"(?<![\w/:.])/(?:[^\s/'\"<>|:,;()\[\]{}]+/)+")


def without_folders(value: Any) -> Any:
    """Text, or JSON with text in it, in which `/srv/jobs/1/data.csv` reads `…/data.csv`."""
    if isinstance(value, str):
        return _FOLDERS.sub("…/", value)
    if isinstance(value, dict):
        return {key: without_folders(inner) for key, inner in value.items()}
    return [without_folders(inner) for inner in value] if isinstance(value, list) else value
