"""Identities, seeds and fingerprints: the same for ever, and the same in bulk as one by one."""

from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext_pipeline.planning.fingerprints import canonical_images, fingerprints
from kontext_pipeline.planning.hashing import count_different, hex_of, json_strings, sha256_of
from kontext_pipeline.planning.seeds import (
    identities_of_content,
    identity_of_content,
    identity_of_id,
    seed_of_variant,
    seeds_of_variants,
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
    table = pa.Table.from_pylist([rows[0], *rows], schema=SCHEMA).slice(1)
    return table.append_column(
        "canonical_image", canonical_images(table["input_image"], table["input_sha256"])
    )


@given(ROWS)
@settings(max_examples=150, deadline=None)
def test_in_bulk_and_one_by_one_are_the_same(rows: list[dict[str, Any]]) -> None:
    table = table_of(rows)
    images = table["canonical_image"].to_pylist()
    identities = [
        identity_of_content(
            canonical_image=image,
            **{
                name: value
                for name, value in row.items()
                if name not in {"input_image", "input_sha256", "variant"}
            },
        )
        for row, image in zip(rows, images, strict=True)
    ]
    assert hex_of(identities_of_content(table)).to_pylist() == identities

    seeds = seeds_of_variants(
        given=table["seed"],
        project_seed=5,
        identities=pa.chunked_array([identities]),
        variants=table["variant"],
    )
    assert seeds.tolist() == [
        seed_of_variant(given=row["seed"], project_seed=5, identity=identity, variant=row["variant"])
        for row, identity in zip(rows, identities, strict=True)
    ]

    requests = table.drop_columns(["seed"]).append_column("seed", pa.array(seeds))
    assert hex_of(fingerprints(requests, 'a "backend"')).to_pylist() == [
        GenerationRequest(**{**row, "seed": seed}).fingerprint('a "backend"')
        for seed, row in zip(
            seeds.tolist(), [{k: v for k, v in row.items() if k != "variant"} for row in rows], strict=True
        )
    ]


def test_golden_values() -> None:
    # Every picture ever made is named by these: a change here is never right.
    content = identity_of_content(
        prompt="Make her take a selfie in the streets of Freiburg, it's a lovely day out",
        canonical_image="https://example.org/a.webp",
        aspect_ratio="16:9",
        output_format="png",
        safety_tolerance=6,
        seed=None,
    )
    assert content == "cb8a13a57a17f3258b07897009a5e6a8b797e124f2e57fe0e18cfa46b360580d"
    assert identity_of_id("row-1") == "id:row-1"
    derived = [
        seed_of_variant(given=None, project_seed=project, identity=identity, variant=variant)
        for project, identity, variant in [
            (0, content, 1),
            (0, content, 2),
            (1, content, 1),
            (0, "id:row-1", 1),
        ]
    ]
    assert derived == [827707378, 14933975, 2035324854, 1020616817]
    request = GenerationRequest(
        prompt='a "quoted" café\n\u2028🙂',
        seed=derived[0],
        input_image="photos/a.png",
        input_sha256="00" * 32,
    )
    assert (
        request.fingerprint("segmind") == "d14f926cda315e581ea8c1884a21c98760e278f8848005314563360ca7cde7c1"
    )


def test_given_seeds_count_up_and_wrap() -> None:
    seeds = [seed_of_variant(given=2**32 - 2, project_seed=0, identity="id:a", variant=v) for v in (1, 2, 3)]
    assert seeds == [2**32 - 2, 2**32 - 1, 0]


@given(st.integers(), TEXT, st.integers(1, 1000))
def test_derived_seeds_fit_four_signed_bytes(project_seed: int, row_id: str, variant: int) -> None:
    seed = seed_of_variant(
        given=None, project_seed=project_seed, identity=identity_of_id(row_id), variant=variant
    )
    assert 0 <= seed < 2**31


def test_empty_columns_have_no_digests() -> None:
    assert sha256_of(pa.chunked_array([], pa.string())).shape == (0, 32)
    assert json_strings(pa.chunked_array([pa.array([None, ""], pa.string())])).to_pylist() == ["null", '""']


def test_digests_are_counted_by_all_their_bytes() -> None:
    digests = sha256_of(pa.array(["a", "a", "b"])).copy()
    assert count_different(digests) == 2
    digests[2, :8] = digests[0, :8]
    assert count_different(digests) == 2
