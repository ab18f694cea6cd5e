"""Where requests go, and which key goes with them.

Two rules decide where a key may go. A vendor's own variable (``NVIDIA_API_KEY``) is used only for that vendor's hosts,
or for the host that the vendor's own address variable names in the same process environment. And what came from a
``.env`` file never decides where a key of the process environment goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from slmclient.drivers.base import DriverInfo
from slmclient.drivers.secret import Secret
from slmclient.drivers.wire.faults import NO_KEY
from slmclient.environment import DEFAULT, DOTENV, KEYWORD, PROCESS, Environment, Found
from slmclient.errors import ConfigurationError, MissingApiKeyError
from slmclient.given import Given
from slmclient.hosts import is_loopback, matches


def not_ours(name: str) -> Found | None:
    """Return nothing: what our own variables say to a fallback, for they are the first provider's."""
    return None


def base_url(
    given: Given,
    info: DriverInfo,
    address: Callable[[str], str],
    ours: Callable[[str], Found | None],
    environment: Environment,
) -> Found:
    """Return the address: keyword, SLM_BASE_URL, the vendor's variables, the default.

    ``address`` makes a URL of what is written, where the vendor's variable may hold less than one. It is the URL that
    every rule on keys looks at.
    """
    if not info.hosted:
        if given.base_url:
            raise ConfigurationError(
                f"{info.name} runs in this process and takes no base_url. Without a provider, base_url means any "
                "OpenAI-compatible server.",
                provider=info.name,
            )
        return Found(None, DEFAULT)
    found = (
        (Found(given.base_url, KEYWORD, "base_url=") if given.base_url else None)
        or ours("SLM_BASE_URL")
        or environment.find(*info.url_variables)
        or Found(info.default_base_url, DEFAULT)
    )
    if found.value is not None:
        found = replace(found, value=address(str(found.value)))
        _check_url(found)
    return found


def _check_url(found: Found) -> None:
    try:
        parts = urlsplit(str(found.value))
        scheme, host, _ = parts.scheme, parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"base_url ({found}) is no URL.") from None
    if any(sign.isspace() or not sign.isprintable() for sign in str(found.value)):
        raise ConfigurationError(f"base_url ({found}) holds white space or control characters.")
    if "@" in parts.netloc or "@" in parts.path.partition("/")[0]:
        raise ConfigurationError(f"base_url ({found}) holds a user name or password: use api_key= or headers=.")
    if scheme not in ("http", "https") or not host:
        raise ConfigurationError(
            f"base_url {found.value!r} ({found}) needs a scheme and a host, such as https://HOST/v1 or "
            "http://localhost:8080/v1."
        )


def api_key(
    given: Given,
    provider: Found,
    info: DriverInfo,
    base_url: Found,
    ours: Callable[[str], Found | None],
    environment: Environment,
) -> tuple[Found | None, str]:
    """Return the key, and a sentence for the error when a server asks for one all the same."""
    if not info.hosted:
        return None, ""
    if given.api_key is not None:
        return Found(given.api_key, KEYWORD, "api_key="), "It was given as api_key=."
    own = ours("SLM_API_KEY")
    if own is not None:
        decider = next((found for found in (base_url, provider) if found.origin == DOTENV), None)
        if own.origin == PROCESS and decider is not None and base_url.origin not in (PROCESS, KEYWORD):
            raise ConfigurationError(
                f"SLM_API_KEY is in the environment, but {decider.name} comes from a .env file, which must not decide "
                "where that key goes. Put both into the same place, or pass base_url= in the code.",
                provider=info.name,
            )
        return Found(Secret(own.value, own.name), own.origin, own.name), f"It came from {own}."
    vendor, refused = _vendor_key(info, base_url, environment)
    if vendor is not None:
        return Found(Secret(vendor.value, vendor.name), vendor.origin, vendor.name), f"It came from {vendor}."
    looked = ", ".join(("api_key=", *(() if ours is not_ours else ("SLM_API_KEY",)), *info.key_variables))
    host = urlsplit(base_url.value or "").hostname or ""
    if matches(host, info.vendor_hosts):
        raise MissingApiKeyError(
            " ".join(
                filter(
                    None,
                    (f"{info.name} needs a key and none was found. Looked for: {looked}.", refused, info.key_advice),
                )
            ),
            provider=info.name,
        )
    return None, f"{NO_KEY} {refused or f'Looked for: {looked}.'}"


def _in_order(info: DriverInfo, base_url: Found) -> tuple[str, ...]:
    """Return the vendor's variables for the key: first the one that goes with the address's own, then the others."""
    pairs = dict(zip(info.url_variables, info.key_variables, strict=False))
    partner = pairs.get(base_url.name)
    return (partner, *info.key_variables) if partner else info.key_variables


def _vendor_key(info: DriverInfo, base_url: Found, environment: Environment) -> tuple[Found | None, str]:
    host = urlsplit(base_url.value or "").hostname or ""
    at_vendor = matches(host, info.vendor_hosts)
    named_by_vendor = base_url.name in info.url_variables
    refused = ""
    for origin, values in ((PROCESS, environment.process), (DOTENV, environment.dotenv)):
        name = next((name for name in _in_order(info, base_url) if values.get(name)), None)
        if name is None:
            continue
        if origin == PROCESS and base_url.origin == DOTENV:
            refused = (
                f"{name} is in the environment, but {base_url.name} comes from a .env file, which must not decide "
                "where that key goes: put both into the same place."
            )
        elif not (at_vendor or named_by_vendor):
            hosts = ", ".join(info.vendor_hosts)
            refused = (
                f"{name} goes only to its vendor's hosts ({hosts}): for this base_url use api_key= or SLM_API_KEY."
            )
        else:
            return Found(values[name], origin, name), ""
    return None, refused


def check_destination(info: DriverInfo, base_url: Found, key: Found | None, given: Given) -> None:
    """Raise a ConfigurationError if a key would go over plain http to another machine."""
    parts = urlsplit(base_url.value or "")
    if parts.scheme != "http" or is_loopback(parts.hostname or "") or given.insecure_http:
        return
    if key is not None or given.headers:
        raise ConfigurationError(
            f"A key must not go over plain http to {parts.hostname}. Use https, or insecure_http=True if that network "
            "is yours alone.",
            provider=info.name,
        )


def proxy(given: Given, environment: Environment, base_url: str | None) -> Secret | None:
    """Return the proxy: keyword, then the process environment; none for loopback."""
    if given.proxy is not None or not base_url:
        return given.proxy
    if is_loopback(urlsplit(base_url).hostname or ""):
        return None
    found = environment.proxy_for(base_url)
    return Secret(found, "the proxy's URL") if found else None


def verify(given: Given, environment: Environment) -> Found:
    """Return how the server's certificate is checked: keyword, or a bundle that SSL_CERT_FILE names."""
    if given.verify is not None:
        return Found(given.verify, KEYWORD, "verify=")
    bundle = environment.process.get("SSL_CERT_FILE")  # never from a .env file: it decides whom we trust with the key
    return Found(bundle, PROCESS, "SSL_CERT_FILE") if bundle else Found(True, DEFAULT)
