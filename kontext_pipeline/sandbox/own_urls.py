"""The URLs of this sandbox itself, by whatever host a client reached it."""

from starlette.requests import Request


def base_url(request: Request) -> str:
    """Return the sandbox's URL as the client knows it, without a slash at its end."""
    return str(request.base_url).rstrip("/")


def own_hosts(request: Request) -> frozenset[str]:
    """Return every `host:port` by which this sandbox can be reached."""
    own = {request.headers.get("host", "").lower()}
    server = request.scope.get("server")
    if server and server[1]:
        own |= {f"{server[0]}:{server[1]}", f"localhost:{server[1]}", f"127.0.0.1:{server[1]}"}
    return frozenset(own - {""})


def own_path(uri: str, hosts: frozenset[str]) -> str:
    """Return the path of a URL on one of `hosts`, without its first slash; empty for every other URL."""
    host, slash, path = uri.removeprefix("http://").partition("/")
    return path if slash and uri.startswith("http://") and host in hosts else ""
