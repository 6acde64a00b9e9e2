"""What the keys and fingerprints of resamples say."""

import pytest

from kontext_pipeline.generation.resamples import folder_of, is_resample, resample_fingerprint
from kontext_pipeline.planning.batches import batch_key


@pytest.mark.parametrize("manifest", ["rows", "resample", "resamples", "resample-20260101t000000"])
def test_no_batch_of_a_manifest_is_taken_for_one_of_a_resample(manifest: str) -> None:
    key = batch_key(manifest, 0)
    assert not is_resample(key)
    assert folder_of(key) == ""


def test_a_batch_names_the_folder_of_its_resample() -> None:
    key = batch_key("resample.20260101T000000.000001Z", 0)
    assert is_resample(key)
    assert folder_of(key) == "resamples/20260101T000000.000001Z"


def test_each_resample_of_a_request_has_a_fingerprint_of_its_own() -> None:
    made = {resample_fingerprint(name, one) for name in ("a", "b") for one in ("1" * 64, "2" * 64)}
    assert len(made) == 4
    assert all(len(one) == 64 for one in made)
