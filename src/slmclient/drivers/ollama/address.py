"""What OLLAMA_HOST means: an address may be a whole URL, a host, a port, or what a server binds to. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

DEFAULT_PORT = 11434
VENDOR = "ollama.com"

_PORTS = {"http": 80, "https": 443}
_HERE = "127.0.0.1"


def address(written: str) -> str:
    """Return the URL that an address means.

    The rules are those of `envconfig/config.go` in ollama/ollama and of the official client for Python, where the two
    agree; where not, of the first: quotes around it are taken off, a port that is none becomes the default, the bare
    name of the vendor's own host means https, and what a server binds to when it listens everywhere (0.0.0.0, ::)
    becomes this machine. What is no address at all comes back in a form that the check of URLs refuses.
    """
    text = written.strip().strip("\"'").strip()
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "http", text
    rest, question, query = rest.partition("?")
    host_port, _, path = rest.partition("/")
    if "@" in host_port:
        return f"{scheme}://{rest}"
    host, port = _split(host_port)
    if not found and host.lower() == VENDOR and port is None:
        scheme, found = "https", "://"
    default = _PORTS.get(scheme, DEFAULT_PORT) if found else DEFAULT_PORT
    path = path.strip("/\"' ")
    return f"{scheme}://{_reachable(host)}:{port or default}{f'/{path}' if path else ''}{question}{query}"


def _split(host_port: str) -> tuple[str, int | None]:
    """Return host and port; None for no port, or for one that is none."""
    bare = host_port.strip("[]")
    if _ip(bare) is not None:  # an IPv6 address is full of colons, with brackets or without
        return bare, None
    host, colon, port = host_port.rpartition(":")
    if not colon:
        return host_port, None
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else 0
    return host.strip("[]"), number if 0 < number < 65536 else None


def _reachable(host: str) -> str:
    """Return the host as it stands in a URL, where a client can reach it."""
    ip = _ip(host)
    if ip is None:
        return host or _HERE
    if ip.is_unspecified:
        return "[::1]" if isinstance(ip, IPv6Address) else _HERE
    return f"[{host}]" if isinstance(ip, IPv6Address) else host


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
