"""The snippets of the READMEs run as they stand, against the live server."""

import re

import pytest

from tests.api.openai.conftest import ROOT, Live


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_snippet_prints_what_it_says(
    page: str, live: Live, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    promised = re.findall(r"^print\(.*\)  # (.*)$", snippet, re.MULTILINE)
    assert len(promised) == 2
    monkeypatch.chdir(ROOT)
    exec(compile(snippet.replace("http://localhost:8000", live.url), page, "exec"), {})
    assert capsys.readouterr().out.splitlines() == promised
