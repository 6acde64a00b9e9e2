"""What was paid for is not dropped because a disk is full."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.outcomes import Charge, Outcome
from kontext_pipeline.segmind.spool import HELD_BYTES, HeldFile, Spool, is_abandoned
from tests.descriptors import no_descriptors
from tests.segmind.conftest import BODY, KEY, picture
from tests.segmind.gateway import Gateway, Reply

V1 = "/v1/flux-kontext-max"
CONTENT = picture(size=(800, 600))

BUYER = """
import json, resource, sys
from pathlib import Path
from kontext_pipeline.segmind.client import SegmindClient

key, url, spool, rescue, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
with SegmindClient(api_key=key, base_url=url, spill=Path(rescue)) as client:
    answer = client.generate({"prompt": "x"}, Path(spool))
picture = answer.picture
print(json.dumps({
    "outcome": answer.outcome,
    "spilled": answer.spilled,
    "path": str(picture.path),
    "sha256": picture.sha256,
    "held": len(picture.data or b""),
    "left": [str(path) for path in Path(spool).iterdir()],
}))
"""


def buy(gateway: Gateway, spool: Path, rescue: Path, *, limit: int = 0, prefix: list[str]) -> dict[str, Any]:
    command = [*prefix, sys.executable, "-c", BUYER, KEY, gateway.url, str(spool), str(rescue), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_disk_that_fills_up_midway_spills_to_the_rescue_folder(gateway: Gateway, tmp_path: Path) -> None:
    spool, rescue = tmp_path / "spool", tmp_path / "rescue"
    spool.mkdir()
    unshare = shutil.which("unshare")
    mount = f'mount -t tmpfs -o size=400k tmpfs "{spool}" && exec "$@"'
    prefix = [unshare or "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if unshare is None or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no private mounts on this machine")
    gateway.routes[V1] = Reply(body=CONTENT)
    bought = buy(gateway, spool, rescue, prefix=prefix)
    assert (bought["outcome"], bought["spilled"], bought["left"]) == ("succeeded", True, [])
    assert Path(bought["path"]).parent == rescue
    assert Path(bought["path"]).read_bytes() == CONTENT
    assert bought["sha256"] == hashlib.sha256(CONTENT).hexdigest()


def test_where_no_disk_takes_it_the_picture_stays_in_memory(gateway: Gateway, tmp_path: Path) -> None:
    gateway.routes[V1] = Reply(body=CONTENT)
    spool, rescue = tmp_path / "spool", tmp_path / "rescue"
    bought = buy(gateway, spool, rescue, limit=300_000, prefix=[])
    assert (bought["outcome"], bought["spilled"], bought["left"]) == ("succeeded", True, [])
    assert (bought["path"], bought["held"]) == ("None", len(CONTENT))
    assert bought["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert list(rescue.iterdir()) == []


def test_a_spool_that_cannot_be_opened_spills(gateway: Gateway, client: SegmindClient, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_text("a file, not a folder")
    gateway.routes[V1] = Reply(body=CONTENT)
    answer = client.generate(BODY, spool)
    assert (answer.outcome, answer.charge, answer.spilled) == (Outcome.SUCCEEDED, Charge.YES, True)
    assert answer.picture is not None
    assert answer.picture.path is not None
    assert answer.picture.path.parent == tmp_path / "rescue"
    assert answer.picture.path.read_bytes() == CONTENT


def test_neither_folder_can_be_opened(gateway: Gateway, connect: Callable[..., SegmindClient], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    client = connect(spill=blocked / "rescue")
    gateway.routes[V1] = [
        Reply(body=CONTENT),
        Reply(body=json.dumps({"image": base64.b64encode(CONTENT).decode()}).encode()),
        Reply(body=CONTENT[:5000]),
    ]
    for _ in range(2):
        answer = client.generate(BODY, blocked)
        assert (answer.outcome, answer.spilled) == (Outcome.SUCCEEDED, True)
        assert answer.picture is not None
        assert answer.picture.data == CONTENT
        assert answer.picture.path is None
    answer = client.generate(BODY, blocked)
    assert (answer.outcome, answer.spilled, answer.remains) == (Outcome.UNUSABLE, True, None)


def test_the_spool_is_made_and_holds_nothing_but_pictures(
    gateway: Gateway, client: SegmindClient, tmp_path: Path
) -> None:
    spool = tmp_path / "a" / "b"
    gateway.routes[V1] = [Reply(500), Reply(429), Reply(reset=True), Reply(body=CONTENT)]
    answers = [client.generate(BODY, spool) for _ in range(4)]
    assert answers[3].picture is not None
    assert list(spool.iterdir()) == [answers[3].picture.path]


def test_a_held_file_has_room_and_is_the_answers_file(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    spool.mkdir()
    gateway.routes[V1] = [Reply(500), Reply(body=CONTENT)]
    with HeldFile(spool, "name") as held:
        (empty,) = spool.iterdir()
        assert empty.stat().st_size == 0
        if sys.platform == "linux":
            assert empty.stat().st_blocks * 512 >= HELD_BYTES
        assert not is_abandoned(empty)
        assert client.generate(BODY, spool, "name", held).picture is None
        assert list(spool.iterdir()) == [empty]
        picture = client.generate(BODY, spool, "name", held).picture
    assert picture is not None
    assert list(spool.iterdir()) == [empty] == [picture.path]
    assert empty.read_bytes() == CONTENT
    # The room that was not needed is given back.
    assert empty.stat().st_blocks * 512 < len(CONTENT) + 2**17
    with HeldFile(spool, "other"):
        assert len(list(spool.iterdir())) == 2
    assert list(spool.iterdir()) == [empty]


def test_a_picture_inside_json_uses_the_held_file(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    spool.mkdir()
    gateway.routes[V1] = Reply(body=json.dumps({"image": base64.b64encode(CONTENT).decode()}).encode())
    with HeldFile(spool, "name") as held:
        (empty,) = spool.iterdir()
        picture = client.generate(BODY, spool, "name", held).picture
    assert picture is not None
    assert picture.path == empty


def test_an_answer_waits_in_memory_while_too_many_files_are_open(tmp_path: Path) -> None:
    with no_descriptors():
        body = Spool(tmp_path / "spool", tmp_path / "rescue", prefix="name")
        body.write(CONTENT[:1000])
        body.write(CONTENT[1000:])
        received = body.finish()
    assert (received.path, received.data, received.spilled) == (None, CONTENT, False)
