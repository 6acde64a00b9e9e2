"""A tar file of samples, as `webdataset` reads them: `KEY.input_image.png`, `KEY.edit_prompt.txt`, `KEY.json` and so on."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from kontext_pipeline.dataset.exports.sample_rows import json_value
from kontext_pipeline.dataset.exports.shards import Chunks, ShardFacts


def write_tar(path: Path, columns: pa.Schema, chunks: Chunks, pictures: tuple[str, ...]) -> dict[str, Any]:
    """Write a file of samples and return its facts. `columns` are those of the rows, the prompt first."""
    facts = ShardFacts()
    prompt = columns.names[0]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for loaded, rows in chunks:
            for row, (sample, its) in zip(rows.to_pylist(), loaded, strict=True):
                if isinstance(its, str):
                    facts.leave_out(sample, its)
                    continue
                facts.add(its)
                for name, one in zip(pictures, its, strict=True):
                    _add(archive, f"{sample.key}.{name}.{one.extension}", one.data)
                _add(archive, f"{sample.key}.{prompt}.txt", str(row.pop(prompt) or "").encode())
                others = {name: json_value(value) for name, value in row.items()}
                _add(archive, f"{sample.key}.json", json.dumps(others, ensure_ascii=False).encode())
            # The list of members would grow with the file; only readers need it.
            archive.members.clear()  # type: ignore[attr-defined]
    return facts.as_dict()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    # Nothing but name, size and mode, so that equal samples give equal bytes.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
