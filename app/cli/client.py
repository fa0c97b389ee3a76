"""A running server as the command line sees it: JSON in, JSON out, refusals as domain errors."""

from types import TracebackType
from typing import Any, Self

import httpx

from app.cli.output import Refused
from app.errors import NotReady

TIMEOUT_S = 600.0


class Client:
    """Calls to one server; use as a context manager."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def call(self, method: str, path: str, **content: Any) -> Any:
        """The JSON body of an answer (None when it has none). Raises Refused, or NotReady when nobody answers."""
        try:
            response = self._http.request(method, path, **content)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise NotReady(
                f"{self.url} does not answer ({error or type(error).__name__}); start a server with `overtone serve`."
            ) from None
        if response.is_error:
            raise _refusal(response)
        return response.json() if response.content else None


def _refusal(response: httpx.Response) -> Refused:
    """The error that a problem+json body tells of."""
    try:
        problem = response.json()
        code, message = str(problem["code"]), str(problem["detail"])
        problems = [str(reason) for reason in problem.get("problems") or ()]
    except (ValueError, KeyError, TypeError):
        words = " ".join(response.text.split())[:200]
        return Refused(response.status_code, "error", words or response.reason_phrase)
    return Refused(response.status_code, code, message, problems)
