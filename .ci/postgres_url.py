"""Print the URL of a local PostgreSQL server where databases may be created; print nothing where there is none."""

import getpass

import psycopg2


def answers(url: str) -> bool:
    """Tell whether a server answers at a libpq URL and lets its user create databases."""
    try:
        connection = psycopg2.connect(url, connect_timeout=3)
    except psycopg2.OperationalError:
        return False
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
        allowed = bool(cursor.fetchone()[0])
    connection.close()
    return allowed


def main() -> None:
    user = getpass.getuser()
    for host in ("", "127.0.0.1:5432"):
        for role in dict.fromkeys([user, "postgres"]):
            for database in ("postgres", "test"):
                # Without a host, libpq uses the Unix socket.
                url = f"postgresql://{role}@{host}/{database}"
                if answers(url):
                    print(url)
                    return


if __name__ == "__main__":
    main()
