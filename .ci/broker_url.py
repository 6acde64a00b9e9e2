"""Print the URL of a local Celery broker that answers; print nothing where there is none."""

from kombu import Connection

URLS = ("pyamqp://guest:guest@127.0.0.1:5672//",)


def answers(url: str) -> bool:
    """Tell whether a broker answers at a URL."""
    try:
        with Connection(url, connect_timeout=3) as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
    except OSError:
        return False
    return True


def main() -> None:
    print(next(filter(answers, URLS), ""))


if __name__ == "__main__":
    main()
