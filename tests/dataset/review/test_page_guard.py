"""Who may use the page: nobody without the token, and no other site."""

import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from upath import UPath

from kontext_pipeline.dataset.review.decisions import read_decisions
from kontext_pipeline.dataset.review.page_server import serve_in_thread
from tests.dataset.exports.made_datasets import MadeDataset, picture


class Client:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.base = f"http://{parts.netloc}"
        self.token = parse_qs(parts.query)["token"][0]
        self.session = requests.Session()
        answer = self.session.get(url)
        assert answer.status_code == 200
        # `requests` keeps cookies back from other host names, which a program need not do.
        (cookie,) = answer.cookies.items()
        self.session.cookies.clear()
        self.session.headers["Cookie"] = "=".join(cookie)

    def get(self, path: str, **headers: str) -> requests.Response:
        return self.session.get(self.base + path, headers=headers)

    def post(self, body: object, **headers: str) -> requests.Response:
        given = {"Origin": self.base} | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.session.post(self.base + "/api/decisions", json=body, headers=given)


@pytest.fixture
def client(url: str) -> Client:
    return Client(url)


@pytest.fixture
def keep(dataset: MadeDataset) -> dict[str, object]:
    return {"decisions": [{"fingerprint": dataset.rows[0]["fingerprint"], "decision": "keep", "reason": ""}]}


@pytest.mark.parametrize(
    "path", ["/", "/?token=wrong", "/page/main.js", "/api/summary", "/api/view", "/picture/output/x"]
)
def test_without_the_token_nothing_is_shown(client: Client, path: str) -> None:
    assert requests.get(client.base + path).status_code == 403
    assert requests.get(client.base + path, cookies={"kontext_review_1": client.token}).status_code == 403, (
        "another port's"
    )
    # The token in an address counts for the page alone, not for what scripts of other sites could include.
    assert (
        path == "/?token=wrong"
        or path == "/"
        or requests.get(f"{client.base}{path}?token={client.token}").status_code == 403
    )


def test_the_token_becomes_a_cookie_for_this_site_alone(url: str) -> None:
    cookie = requests.get(url).headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


def test_decisions_come_from_the_page_alone(client: Client, keep: dict[str, object], dataset: MadeDataset) -> None:
    assert client.post(keep, Origin="https://evil.example").status_code == 403
    assert client.post(keep, Origin="null").status_code == 403
    assert client.post(keep, Origin="http://127.0.0.1:1").status_code == 403
    assert client.post(keep, Sec_Fetch_Site="same-site").status_code == 403
    assert client.session.post(f"{client.base}/api/decisions", json=keep).status_code == 403, "no origin"
    assert requests.post(f"{client.base}/api/decisions", json=keep, headers={"Origin": client.base}).status_code == 403
    form = client.session.post(f"{client.base}/api/decisions", data={"a": "b"}, headers={"Origin": client.base})
    assert form.status_code == 415
    assert read_decisions(dataset.data_dir) == {}
    assert client.post(keep).status_code == 200
    assert len(read_decisions(dataset.data_dir)) == 1


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "localhost@evil.example:1"]
)
def test_another_host_name_is_refused(client: Client, host: str) -> None:
    assert client.get("/api/summary", Host=host).status_code in (400, 403)


def test_a_forwarded_port_is_this_machine(client: Client, keep: dict[str, object]) -> None:
    assert client.get("/api/summary", Host="localhost:9000").status_code == 200
    assert client.post(keep, Host="localhost:9000", Origin="http://localhost:9000").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"decisions": 1},
        {"decisions": [{"fingerprint": "unknown", "decision": "keep"}]},
        {"decisions": [{"fingerprint": 1, "decision": "keep"}]},
        {"decisions": [1]},
    ],
)
def test_what_is_no_decision_is_refused(client: Client, body: object, dataset: MadeDataset) -> None:
    assert client.post(body).status_code == 400
    assert read_decisions(dataset.data_dir) == {}


def test_a_verdict_that_does_not_exist_is_refused(client: Client, dataset: MadeDataset) -> None:
    wrong = {"decisions": [{"fingerprint": dataset.rows[0]["fingerprint"], "decision": "burn"}]}
    assert client.post(wrong).status_code == 400
    assert client.post({"decisions": [], "x": "y" * 1_100_000}).status_code == 413


def test_every_answer_has_the_security_headers(client: Client) -> None:
    for path in ("/", "/page/main.js", "/api/summary", "/nowhere"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_pictures_are_those_of_the_table_alone(client: Client, dataset: MadeDataset) -> None:
    row = dataset.rows[0]
    answer = client.get(f"/picture/output/{row['fingerprint']}")
    assert answer.content == (dataset.data_dir / row["image_path"]).read_bytes()
    assert answer.headers["Content-Type"] == "image/png"
    assert client.get(f"/thumbnail/input/{row['input_kept_sha256']}").headers["Content-Type"] == "image/jpeg"
    for path in ("output/..%2f..%2fledger.db", "output/nothing", "input/" + row["fingerprint"], "x/y"):
        assert client.get(f"/picture/{path}").status_code == 404
    assert client.get("/page/..%2fdecisions.py").status_code == 404


def test_a_table_that_somebody_else_made_leads_to_no_other_file(tmp_path: Path) -> None:
    made = MadeDataset(UPath(tmp_path / "data"))
    outside = tmp_path / "outside.png"
    outside.write_bytes(picture("outside"))
    rows = made.add(
        [
            {"image_path": "../outside.png"},
            {"image_path": str(outside)},
            {"image_path": "images/../../outside.png"},
            {"image_path": "ledger.db"},
            {"image_sha256": "../../../escaped"},
        ]
    )
    with serve_in_thread(made.data_dir) as url:
        client = Client(url)
        for row in rows[:-1]:
            assert client.get(f"/picture/output/{row['fingerprint']}").status_code == 404
            assert client.get(f"/thumbnail/output/{row['fingerprint']}").status_code == 404
        assert client.get(f"/thumbnail/output/{rows[-1]['fingerprint']}").status_code == 200
    assert not list(Path(os.environ["XDG_CACHE_HOME"]).parent.rglob("escaped*"))


def test_a_data_directory_in_an_object_store(tmp_path: Path) -> None:
    made = MadeDataset(UPath(f"memory://{tmp_path.name}"))
    rows = made.add([{}, {}])
    with serve_in_thread(made.data_dir, reviewer="ann") as url:
        client = Client(url)
        for decision in ("keep", "reject"):
            body = {"decisions": [{"fingerprint": rows[1]["fingerprint"], "decision": decision, "reason": "dark"}]}
            assert client.post(body).status_code == 200
        assert client.get("/api/view?decision=reject").json()["total"] == 1
        assert client.get(f"/thumbnail/input/{rows[0]['input_kept_sha256']}").status_code == 200
        assert client.get("/api/summary").json()["coverage"]["rejected_by_reason"] == {"dark": 1}
    assert read_decisions(made.data_dir)[rows[1]["fingerprint"]].decision == "reject"


def test_a_thumbnail_is_made_once(client: Client, dataset: MadeDataset) -> None:
    row = dataset.rows[0]
    first = client.get(f"/thumbnail/output/{row['fingerprint']}").content
    Path(str(dataset.data_dir / row["image_path"])).unlink()
    assert client.get(f"/thumbnail/output/{row['fingerprint']}").content == first
    assert client.get(f"/picture/output/{row['fingerprint']}").status_code == 404


def test_rows_come_by_pages_and_a_new_batch_is_shown(client: Client, dataset: MadeDataset) -> None:
    view = client.get("/api/view").json()
    assert view["total"] == 9
    page = client.get(f"/api/rows?view={view['view']}&offset=2&limit=3").json()["rows"]
    assert [row["n"] for row in page] == [2, 3, 4]
    assert client.get(f"/api/rows?view={view['view']}&offset=-1").status_code == 400
    assert client.get("/api/rows?n=99").status_code == 400
    dataset.add([{}])
    assert client.get("/api/summary").json()["figures"]["rows"] == 10
    assert client.get(f"/api/rows?view={view['view']}&offset=0").status_code == 410
