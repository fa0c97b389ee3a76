"""A running server as the command line sees it: JSON in, JSON out, refusals as domain errors."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from app.cli.output import Refused
from app.errors import BadRequest, NotReady

TIMEOUT_S = 600.0


class Client:
    """Calls to one server; use as a context manager. Raises BadRequest where ``url`` is no server's address."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = server_address(url)
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def call(self, method: str, path: str, **content: Any) -> Any:
        """The JSON body of an answer (None when it has none). Raises Refused, or NotReady without an answer of ours."""
        try:
            response = self._http.request(method, path, **content)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise NotReady(
                f"{self.url} does not answer ({error or type(error).__name__}); start a server with `overtone serve`."
            ) from None
        if response.is_error:
            raise _refusal(response)
        try:
            return response.json() if response.content else None
        except ValueError:
            raise NotReady(
                f"{self.url} answers {method} {path} with status {response.status_code} and no JSON: no Overtone "
                "server. Check the address: the server prints it when it starts."
            ) from None

    def save(self, path: str, target: Path, **content: Any) -> None:
        """Write the body of an answer to a new file, piece by piece. Raises as `call` does."""
        try:
            with self._http.stream("GET", path, **content) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                with target.open("xb") as stream:
                    for piece in response.iter_bytes(1 << 20):
                        stream.write(piece)
        except httpx.TransportError as error:
            target.unlink(missing_ok=True)
            raise NotReady(f"{self.url} does not answer ({error or type(error).__name__}).") from None


def server_address(text: str) -> str:
    """`127.0.0.1:8000` -> `http://127.0.0.1:8000`; a whole URL as it is, without a slash at the end.

    Raises BadRequest, which says what is missing.
    """
    example = "write it as http://127.0.0.1:8000"
    address = text.strip()
    if not address:
        raise BadRequest(f"The address of the server is empty; {example}.")
    if address.startswith(("http:", "https:")) and "://" not in address:
        raise BadRequest(f"{text!r} lacks the slashes after http:; {example}.")
    url = address if "://" in address else f"http://{address}"
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadRequest(f"{text!r} is no address of a server ({error}); {example}.") from None
    if parts.scheme not in ("http", "https"):
        raise BadRequest(f"{text!r}: a server is reached by http or https; {example}.")
    if not parts.host or (parts.host.isdigit() and "://" not in address):
        raise BadRequest(f"{text!r} lacks the host's name; {example}.")
    return url.rstrip("/")


def _refusal(response: httpx.Response) -> Refused:
    """The error in a problem+json body."""
    try:
        problem = response.json()
        code, message = str(problem["code"]), str(problem["detail"])
        problems = [str(reason) for reason in problem.get("problems") or ()]
    except (ValueError, KeyError, TypeError):
        words = " ".join(response.text.split())[:200]
        return Refused(response.status_code, "error", words or response.reason_phrase)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        message += " On the command line: --api-key KEY."
    return Refused(response.status_code, code, message, problems)
