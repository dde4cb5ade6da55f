"""The changelog says everything once; merges have brought moved entries back."""

from __future__ import annotations

import re
from collections import Counter

from helpers.site import ROOT


def test_no_entry_is_there_twice() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    begins = Counter(entry[:60] for entry in re.findall(r"^\* (.*)", text, flags=re.M))
    assert len(begins) > 100
    assert [entry for entry, count in begins.items() if count > 1] == []
