"""Resamples in the ledger and in the data directory: requests of the dataset that are sent again, to compare pictures.

A request of a resample has a fingerprint of its own, so claims, caps, recovery and lost answers are those of every
request, and the request that it repeats stays as it is. The key of its batch says where its picture and table are kept.
"""

import hashlib
from typing import Final

PREFIX: Final = "resample."
"""Begins the keys of the batches of resamples. No name of a manifest, and so no other key, has a dot."""
FOLDER: Final = "resamples"
"""Folder of the data directory that has a folder for each resample."""


def resample_fingerprint(resample: str, fingerprint: str) -> str:
    """Return the fingerprint of a request that is sent again in a resample, 64 hex digits."""
    return hashlib.sha256(f"resample\n{resample}\n{fingerprint}".encode()).hexdigest()


def is_resample(batch: str) -> bool:
    """Return whether a batch is one of a resample."""
    return batch.startswith(PREFIX)


def folder_of(batch: str) -> str:
    """Return the folder that has pictures and table of a batch, relative to the data directory; empty: that itself."""
    if not is_resample(batch):
        return ""
    return f"{FOLDER}/{batch.removeprefix(PREFIX).rpartition('-')[0]}"
