"""Every file format has one home: what one module writes is what the same module reads back."""

import ast
import gzip
import json
import zlib
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest

import verse3d
from verse3d.core.errors import DataError
from verse3d.core.labels import label_scheme, level_called
from verse3d.core.nifti_bytes import copy_with_head, read_stored, unpacked_size
from verse3d.data.converted import StoredFile, origin_of, read_conversion, write_conversion
from verse3d.data.nnunet_labels import dataset_labels, label_corrections
from verse3d.data.prediction_format import StoredRecord
from verse3d.data.predictions import Predictions, predictions_file, read_predictions, write_prediction_list
from verse3d.evaluation.foreign import read_label_map
from verse3d.inference.records import PredictionRecord

PACKAGE = Path(verse3d.__file__).parent
HOMES = {
    '"predictions.json"': {"data/predictions.py"},
    '"dataset.json"': {"data/nnunet_labels.py"},
    "igzip": {"core/nifti_bytes.py"},
}


@pytest.mark.parametrize("word", HOMES)
def test_a_format_is_spelled_out_in_one_module_only(word):
    spelled = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if word.strip('"') in (text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if (isinstance(node, ast.Constant) and f'"{node.value}"' == word)
        or (isinstance(node, ast.ImportFrom) and word in [alias.name for alias in node.names])
    }
    assert spelled == HOMES[word]


def test_a_list_of_predictions_comes_back_as_it_was_written(tmp_path):
    record = asdict(PredictionRecord("a", "a.nii", "a_seg.nii.gz", "written", seconds=1.5, models=("m.pt",)))
    about = {"scheme": "binary", "device": "cpu"}
    write_prediction_list(tmp_path / predictions_file(1, 3), Predictions(about, {"a": record}))
    back = read_predictions(tmp_path)
    assert back.about == about and back.records == {"a": json.loads(json.dumps(record))}


def test_all_that_is_read_of_a_prediction_is_written():
    assert set(StoredRecord.model_fields) <= {field.name for field in fields(PredictionRecord)}


def test_a_conversion_is_read_as_files_by_the_next_one_and_as_cases_by_an_index(tmp_path):
    case = {"case": "a", "subject": "s", "split": "train", "fold": 2, "files": [{"path": "imagesTr/a.nii.gz"}]}
    files = [{"path": "imagesTr/a.nii.gz", "bytes": 7, "modified": 99}, {"path": "README.md"}]
    write_conversion(tmp_path, files, finished=True, content={"to": "nnunet", "cases": [case]})
    stored = read_conversion(tmp_path)
    assert stored.finished
    assert stored.files == (
        StoredFile(path="imagesTr/a.nii.gz", bytes=7, modified=99),
        StoredFile(path="README.md"),
    )
    origin = origin_of(tmp_path / "imagesTr/a.nii.gz")
    assert (origin.subject, origin.split, origin.fold) == ("s", "train", 2)


@pytest.mark.parametrize("scheme", ["vertebrae", "binary"])
def test_the_labels_that_are_written_for_nnunet_are_understood_when_they_are_read(tmp_path, scheme):
    labels = dataset_labels(label_scheme(scheme))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    expected = ((26, 28),) if scheme == "vertebrae" else ()  # T13 is the 26th of 26
    assert label_corrections(tmp_path / "labelsTr/a.nii.gz") == expected
    if scheme == "vertebrae":
        read = read_label_map(str(tmp_path / "dataset.json"))
        assert read == {number: number if number < 26 else 28 for number in range(1, 27)}
    else:
        with pytest.raises(DataError, match="names no vertebra"):
            read_label_map(str(tmp_path / "dataset.json"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("L1", "L1"),
        ("vertebrae_t13", "T13"),
        ("Vertebra C7", "C7"),
        ("sacrum", None),
        ("L1_left", None),
        ("", None),
    ],
)
def test_a_level_is_known_by_the_names_that_programs_give_it(text, name):
    level = level_called(text)
    assert (level.name if level else None) == name


def test_a_level_that_nobody_has_is_refused():
    with pytest.raises(DataError, match="no vertebra is called 'L9'"):
        level_called("vertebrae_L9")


# --- the bytes of a NIfTI file


@pytest.fixture
def content():
    return np.random.default_rng(3).integers(0, 255, 3_000_001, dtype=np.uint8).tobytes()  # no multiple of a piece


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize("target", ["b.nii", "b.nii.gz"])
def test_a_file_under_another_head_keeps_all_that_follows(tmp_path, content, name, target):
    packed = gzip.compress(content, 1) if name.lower().endswith(".gz") else content
    (tmp_path / name).write_bytes(packed)
    copy_with_head(tmp_path / name, tmp_path / target, b"HEAD" * 87)
    written = (tmp_path / target).read_bytes()
    unpacked = gzip.decompress(written) if target.endswith(".gz") else written
    assert unpacked == b"HEAD" * 87 + content[348:]


def test_a_file_of_two_streams_or_with_a_torn_end_is_counted_and_one_that_tells_its_size_is_not(tmp_path, content):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    assert unpacked_size(path, len(content)) == len(content)
    path.write_bytes(gzip.compress(content)[:-100_000])
    assert 2_000_000 < unpacked_size(path, len(content)) < len(content)
    broken = bytearray(gzip.compress(content))
    broken[2000] ^= 255
    path.write_bytes(broken)  # the damage is not looked for where the size is right
    assert unpacked_size(path, len(content)) == len(content)


def test_a_checksum_is_compared_only_where_the_whole_file_is_read(tmp_path, content):
    path, shape = tmp_path / "a.nii.gz", (10, 11, 12)
    packed = bytearray(gzip.compress(content, 1))
    packed[-8] ^= 1
    path.write_bytes(packed)
    stored = read_stored(path, shape, np.dtype(">u2"), 352, whole=False)
    expected = np.frombuffer(content, ">u2", count=10 * 11 * 12, offset=352).reshape(shape, order="F")
    np.testing.assert_array_equal(stored, expected)
    with pytest.raises((OSError, zlib.error)):
        read_stored(path, shape, np.dtype(">u2"), 352)
