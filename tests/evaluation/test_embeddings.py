"""Tables of embeddings: kept as they are in both formats, searched by cosine; what is none is one line."""

import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from avcl.errors import UserError
from avcl.evaluation.embeddings import Embeddings

NONE = [math.nan, math.nan]


def table():
    """A clip, a sound, a video, and a file that is none."""
    return Embeddings(
        ["a.mp4", "b.wav", "c.mp4", "d.txt"],
        audio=torch.tensor([[1.0, 0.0], [3.0, 3.0], NONE, NONE]),
        video=torch.tensor([[0.0, 2.0], NONE, [-1.0, 1.0], NONE]),
        seconds=torch.tensor([2.0, 1.5, 2.0, 0.0], dtype=torch.float64),
        errors=["", "", "silent", "not a media file"],
        about={"fingerprint": "f" * 64, "weights": "runs/é"},
    )


def same(one, other):
    return (
        (one.paths, one.errors, one.about) == (other.paths, other.errors, other.about)
        and all(torch.equal(getattr(one, key).nan_to_num(9), getattr(other, key).nan_to_num(9)) for key in NUMBERS)
        and all(getattr(one, key).dtype == getattr(other, key).dtype for key in NUMBERS)
    )


NUMBERS = ("audio", "video", "seconds")


@pytest.mark.parametrize("name", ["x.parquet", "new folder/x.npz"])
def test_what_is_written_comes_back(tmp_path, name):
    table().write(tmp_path / name)
    assert same(Embeddings.read(tmp_path / name), table())
    table().write(tmp_path / name)  # anew
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [(tmp_path / name).name]


def test_parquet_is_as_others_read_it(tmp_path):
    table().write(tmp_path / "x.parquet")
    found = pq.read_table(tmp_path / "x.parquet").to_pydict()
    assert found == {
        "path": ["a.mp4", "b.wav", "c.mp4", "d.txt"],
        "kind": ["audio+video", "audio", "video", ""],
        "audio": [[1.0, 0.0], [3.0, 3.0], None, None],
        "video": [[0.0, 2.0], None, [-1.0, 1.0], None],
        "seconds": [2.0, 1.5, 2.0, 0.0],
        "error": [None, None, "silent", "not a media file"],
    }


def test_npz_is_as_others_read_it(tmp_path):
    table().write(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as found:
        assert found["path"].tolist() == table().paths
        assert found["kind"].tolist() == ["audio+video", "audio", "video", ""]
        np.testing.assert_array_equal(found["video"], table().video.numpy())


def test_search_ranks_by_cosine_what_has_the_modality():
    found = table().search(torch.tensor([0.0, 5.0]), "video")
    assert [path for path, _ in found] == ["a.mp4", "c.mp4"]
    assert [cosine for _, cosine in found] == pytest.approx([1.0, math.sqrt(0.5)])
    assert table().search(torch.tensor([2.0, 2.0]), "audio", top=1) == [("b.wav", pytest.approx(1.0))]
    alike = Embeddings.blank(["x", "y", "z"], 2, {})
    assert alike.search(torch.ones(2), "audio") == []
    alike.audio[:] = 1.0
    assert [path for path, _ in alike.search(torch.ones(2), "audio")] == ["x", "y", "z"]


def test_what_holds_no_embeddings_is_one_line(tmp_path):
    def told(path, text):
        with pytest.raises(UserError, match=f"^{re.escape(f'{text}')}$"):
            Embeddings.read(path)

    none = "holds no embeddings; `avcl embed` writes such files"
    for name in ("x.parquet", "x.npz"):
        path = tmp_path / name
        told(path, f"{path}: no such file")
        path.write_bytes(b"")
        told(path, f"{path}: {none}")
        path.write_text("hello" * 100)
        told(path, f"{path}: {none}")
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "x.parquet")
    np.savez(tmp_path / "x.npz", path=np.array(["a"]))
    told(tmp_path / "x.parquet", f"{tmp_path / 'x.parquet'}: {none}")
    told(tmp_path / "x.npz", f"{tmp_path / 'x.npz'}: {none}")
    told(tmp_path / "x.csv", f"invalid value '{tmp_path / 'x.csv'}': must end in .parquet or .npz")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        table().write(tmp_path / "file" / "x.npz")
