"""Identities, seeds and fingerprints: the same for ever, and the same in bulk as one by one."""

import hashlib
import json
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext_pipeline.planning.seeds import (
    count_different,
    fingerprints,
    hex_of,
    identities_of_content,
    identities_of_ids,
    json_values,
    seeds_of_variants,
    sha256_of,
    with_json_texts,
)
from kontext_pipeline.segmind.request import GenerationRequest

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": TEXT,
            "input_image": st.none() | TEXT,
            "input_sha256": st.none() | st.just("ab" * 32),
            "aspect_ratio": st.sampled_from(["16:9", "match_input_image"]),
            "output_format": st.sampled_from(["png", "jpg"]),
            "safety_tolerance": st.integers(1, 6),
            "seed": st.none() | st.integers(0, 2**32 - 1),
            "variant": st.integers(1, 1000),
        }
    ),
    min_size=1,
    max_size=8,
)
SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("input_image", pa.string()),
        ("input_sha256", pa.string()),
        ("aspect_ratio", pa.string()),
        ("output_format", pa.string()),
        ("safety_tolerance", pa.int32()),
        ("seed", pa.int64()),
        ("variant", pa.int32()),
    ]
)


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    """Return the rows as a table that begins in the middle of its buffers, as slices do."""
    return with_json_texts(pa.Table.from_pylist([rows[0], *rows], schema=SCHEMA).slice(1))


def identity_of_content(row: dict[str, Any], canonical_image: str | None) -> str:
    """Return the identity of a row without an id, by its definition."""
    names = ("prompt", "aspect_ratio", "output_format", "safety_tolerance", "seed")
    content = {"input_image": canonical_image, **{name: row[name] for name in names}}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seed_of_variant(*, given: int | None, project_seed: int, identity: str, variant: int) -> int:
    """Return the seed of a picture, by its definition."""
    if given is not None:
        return (given + variant - 1) % 2**32
    digest = hashlib.sha256(f"{project_seed}\n{identity}\n{variant}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 2**31


def seeds_of(given: list[int | None], project_seed: int, identities: list[str], variants: list[int]) -> Any:
    seeds = seeds_of_variants(
        given=pa.chunked_array([given], pa.int64()),
        project_seed=project_seed,
        identities=pa.chunked_array([identities], pa.string()),
        variants=pa.chunked_array([variants], pa.int32()),
    )
    return seeds.tolist()


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_columns_give_what_the_definitions_say(rows: list[dict[str, Any]]) -> None:
    table = table_of(rows)
    images = [f"sha256:{row['input_sha256']}" if row["input_sha256"] else row["input_image"] for row in rows]
    identities = [identity_of_content(row, image) for row, image in zip(rows, images, strict=True)]
    assert hex_of(identities_of_content(table)).to_pylist() == identities

    given = [row["seed"] for row in rows]
    variants = [row["variant"] for row in rows]
    seeds = seeds_of(given, 5, identities, variants)
    assert seeds == [
        seed_of_variant(given=row["seed"], project_seed=5, identity=identity, variant=row["variant"])
        for row, identity in zip(rows, identities, strict=True)
    ]

    requests = table.drop_columns(["seed"]).append_column("seed", pa.array(seeds, pa.int64()))
    sent = [{name: value for name, value in row.items() if name != "variant"} for row in rows]
    assert hex_of(fingerprints(requests, 'a "backend"')).to_pylist() == [
        GenerationRequest(**{**row, "seed": seed}).fingerprint('a "backend"')
        for seed, row in zip(seeds, sent, strict=True)
    ]


def test_golden_values() -> None:
    # They name every picture that was ever made: a change here is never right.
    row = {
        "prompt": "Make her take a selfie in the streets of Freiburg, it's a lovely day out",
        "input_image": "https://example.org/a.webp",
        "input_sha256": None,
        "aspect_ratio": "16:9",
        "output_format": "png",
        "safety_tolerance": 6,
        "seed": None,
        "variant": 1,
    }
    (content,) = hex_of(identities_of_content(table_of([row]))).to_pylist()
    assert content == "cb8a13a57a17f3258b07897009a5e6a8b797e124f2e57fe0e18cfa46b360580d"
    assert identities_of_ids(pa.array(["row-1", None])).to_pylist() == ["id:row-1", None]
    derived = [
        *seeds_of([None, None], 0, [content, content], [1, 2]),
        *seeds_of([None], 1, [content], [1]),
        *seeds_of([None], 0, ["id:row-1"], [1]),
    ]
    assert derived == [827707378, 14933975, 2035324854, 1020616817]
    request = {
        **row,
        "prompt": 'a "quoted" café\n\u2028🙂',
        "input_sha256": "00" * 32,
        "safety_tolerance": 2,
        "seed": derived[0],
    }
    assert hex_of(fingerprints(table_of([request]), "segmind")).to_pylist() == [
        "d14f926cda315e581ea8c1884a21c98760e278f8848005314563360ca7cde7c1"
    ]


def test_given_seeds_count_up_and_wrap() -> None:
    assert seeds_of([2**32 - 2] * 3, 0, ["id:a"] * 3, [1, 2, 3]) == [2**32 - 2, 2**32 - 1, 0]


@given(st.integers(), TEXT, st.integers(1, 1000))
def test_derived_seeds_fit_four_signed_bytes(project_seed: int, row_id: str, variant: int) -> None:
    (seed,) = seeds_of([None], project_seed, [f"id:{row_id}"], [variant])
    assert 0 <= seed < 2**31


def test_empty_columns_have_no_digests() -> None:
    assert sha256_of(pa.chunked_array([], pa.string())).shape == (0, 32)
    assert json_values(pa.chunked_array([pa.array([None, ""], pa.string())])).to_pylist() == ["null", '""']


def test_digests_are_counted_by_all_their_bytes() -> None:
    digests = sha256_of(pa.array(["a", "a", "b"])).copy()
    assert count_different(digests) == 2
    digests[2, :8] = digests[0, :8]
    assert count_different(digests) == 2
