"""One way to speak to a REST service: timeouts, retries, readable errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx
import tenacity

from airflow_provider_rtlake import __version__
from airflow_provider_rtlake.exceptions import Conflict, NotFound, RequestRefused, ServiceError, ServiceUnavailable

# Statuses that the server itself calls temporary. 500 is not among them: many of these services answer it to a bad
# request.
RETRYABLE_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
_BODY_LIMIT = 4000  # characters of an answer kept in an error
_SECRET = re.compile(
    r"""(?ix) ( ["']? [\w.-]* (?:password|passwd|secret|token|access[.-]?key) [\w.-]* ["']? \s* [:=] \s* )
        ("[^"]*"|'[^']*'|[^\s,;}&]+)"""
)


def mask_secrets(text: str) -> str:
    """Replace the values of keys that name a secret by ``***``.

    :param text: any text: JSON, properties, a URL's query.
    """
    return _SECRET.sub(r"\1***", text)


class RestClient:
    """A JSON REST client for one service.

    :param service: name used in messages, such as ``Kafka Connect``.
    :param base_url: scheme, host, port and path prefix.
    :param auth: user and password, or None.
    :param timeout: seconds for one request.
    :param attempts: how often a request is tried when no answer comes or the server says to come back later.
    :param max_wait: longest pause between attempts, in seconds; grows exponentially with jitter up to it.
    :param verify: False, True or a CA bundle's path.
    :param headers: sent with each request.
    """

    def __init__(
        self,
        service: str,
        base_url: str,
        *,
        auth: tuple[str, str] | None = None,
        timeout: float = 30.0,
        attempts: int = 5,
        max_wait: float = 5.0,
        verify: bool | str = True,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.service = service
        self.base_url = base_url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.base_url,
            auth=auth,
            timeout=timeout,
            verify=verify,
            headers={"User-Agent": f"airflow-provider-rtlake/{__version__}", **(headers or {})},
        )
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(attempts),
            wait=tenacity.wait_random_exponential(multiplier=0.3, max=max_wait),
            retry=tenacity.retry_if_exception_type(ServiceUnavailable),
            reraise=True,
        )

    def __enter__(self) -> RestClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(self, method: str, path: str, *, retry: bool = True, **kwargs: Any) -> Any:
        """Send a request and return the decoded JSON answer (text where it is not JSON, None where it is empty).

        :param method: HTTP verb.
        :param path: path below the base URL; quote its parts with :func:`urllib.parse.quote`.
        :param retry: False for a request that must not be sent twice.
        :param kwargs: as for :meth:`httpx.Client.request`: ``json``, ``params``, ``content``, ``files``, ``timeout``.
        :raises ServiceUnavailable: no answer, or a temporary refusal, after every attempt.
        :raises NotFound: status 404.
        :raises Conflict: status 409.
        :raises RequestRefused: any other status of 400 and above.
        """
        if not retry:
            return self._once(method, path, **kwargs)
        return self._retrying(self._once, method, path, **kwargs)

    def _once(self, method: str, path: str, **kwargs: Any) -> Any:
        try:
            response = self._http.request(method, path, **kwargs)
        except httpx.TransportError as error:
            detail = str(error) or type(error).__name__
            raise ServiceUnavailable(
                self.service, f"no answer from {self.base_url} ({method} {path}): {detail}"
            ) from error
        if response.status_code >= 400:
            raise self._error(method, path, response)
        if not response.content:
            return None
        if "json" in response.headers.get("content-type", ""):
            return response.json()
        try:
            return response.json()
        except ValueError:
            return response.text

    def _error(self, method: str, path: str, response: httpx.Response) -> ServiceError:
        body = mask_secrets(response.text)[:_BODY_LIMIT]
        message = f"{method} {path} answered {response.status_code}: {body.strip() or response.reason_phrase}"
        kind: type[ServiceError] = RequestRefused
        if response.status_code in RETRYABLE_STATUSES:
            kind = ServiceUnavailable
        elif response.status_code == 404:
            kind = NotFound
        elif response.status_code == 409:
            kind = Conflict
        return kind(self.service, message, status=response.status_code, body=body)

    def get(self, path: str, **kwargs: Any) -> Any:
        """GET; see :meth:`request`."""
        return self.request("GET", path, **kwargs)

    def post(self, path: str, **kwargs: Any) -> Any:
        """POST, sent once: a lost answer may have been an accepted request; see :meth:`request`."""
        kwargs.setdefault("retry", False)
        return self.request("POST", path, **kwargs)

    def put(self, path: str, **kwargs: Any) -> Any:
        """PUT; see :meth:`request`."""
        return self.request("PUT", path, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> Any:
        """DELETE; see :meth:`request`."""
        return self.request("DELETE", path, **kwargs)
