"""Model files that are damaged or made to do harm are refused before any of it is loaded."""

import io
import pickle
import random
import resource
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch

from tests.model.model_files import (
    altered,
    assert_every_flip_is_noticed,
    checkpoint,
    network,
    refusal,
    rezipped,
    training_state,
)
from verse3d.core.config import Config
from verse3d.core.errors import CheckpointError
from verse3d.model import plainfile
from verse3d.model.checkpoint import (
    FORMAT,
    load_checkpoint,
    save_checkpoint,
)

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def trace(tmp_path) -> Path:
    return tmp_path / "it-ran"


def refuse(path: Path, trace: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is refused: .* could run code") as caught:
        load_checkpoint(path)
    assert "\n" not in caught.value.message
    assert not trace.exists()


def test_a_bomb_would_go_off_if_it_were_loaded_carelessly(trace):
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()


def test_a_bare_pickle_is_never_run(tmp_path, trace):
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps({"format": FORMAT, "network": Bomb(trace)}))
    refuse(tmp_path / "bomb.pt", trace)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["format", "config", "network", "training"])
def test_a_bomb_inside_a_torch_file_is_never_run(saved, trace, place, zipped):
    content = torch.load(saved, weights_only=True) | {place: Bomb(trace)}
    torch.save(content, saved, _use_new_zipfile_serialization=zipped)
    refuse(saved, trace)


def test_a_whole_network_object_is_refused(tmp_path, trace):
    torch.save(network(), tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", trace)


def test_a_file_truncated_anywhere_is_refused(saved):
    content = saved.read_bytes()
    for part in (0.0, 1e-4, 1e-3, 0.01, 0.3, 0.7, 0.99, 0.9999):
        saved.write_bytes(content[: int(part * len(content))])
        refusal(saved)
    saved.write_bytes(content[:-1])
    assert "truncated or damaged" in refusal(saved).message


def test_an_old_style_file_truncated_anywhere_is_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "w": torch.zeros(5)}, buffer, _use_new_zipfile_serialization=False)
    content, path = buffer.getvalue(), tmp_path / "old.pt"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refusal(path)


def test_random_bytes_are_refused(tmp_path):
    draw, path = random.Random(0), tmp_path / "noise.pt"
    for _ in range(200):
        path.write_bytes(draw.randbytes(draw.randint(0, 300)))
        refusal(path)


def test_flipped_bytes_are_refused(tmp_path):
    buffer, draw, path = io.BytesIO(), random.Random(1), tmp_path / "flipped.pt"
    torch.save({"format": "another", "w": torch.zeros(5)}, buffer, _use_new_zipfile_serialization=False)
    for _ in range(300):
        content = bytearray(buffer.getvalue())
        for _ in range(draw.randint(1, 5)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(bytes(content))
        refusal(path)


def test_another_zip_file_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "a zip archive of other files" in refusal(tmp_path / "other.pt").message


def places_of(path: Path, kind: str) -> list[int]:
    """Some bytes of the tensors, of the zip's directory or of the pickle."""
    draw, size = random.Random(3), path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
        entries = archive.infolist()
    if kind == "directory":
        return list(range(directory, size, 3))
    wanted = [one for one in entries if ("/data/" in one.filename) == (kind == "tensors") and one.file_size]
    if kind == "pickle":
        wanted = [one for one in wanted if one.filename.endswith("data.pkl")]
    ends = {one.filename: next((o.header_offset for o in entries if o.header_offset > one.header_offset), directory)
            for one in wanted}  # fmt: skip
    return [draw.randrange(ends[one.filename] - one.file_size, ends[one.filename]) for one in wanted * 40][:120]


@pytest.mark.parametrize("kind", ["tensors", "directory", "pickle"])
def test_no_flipped_byte_loads_as_another_model(tmp_path, kind):
    small = {"a.weight": torch.rand(3, 4), "a.bias": torch.rand(5), "b": torch.tensor(2.0)}
    save_checkpoint(tmp_path / "last.pt", checkpoint(network=small, training={"random": torch.get_rng_state()}))
    assert_every_flip_is_noticed(tmp_path / "last.pt", 0, places_of(tmp_path / "last.pt", kind))


@pytest.mark.parametrize("section", ["network", "training"])
def test_other_tensors_under_a_sound_zip_are_noticed(tmp_path, section):
    save_checkpoint(tmp_path / "last.pt", checkpoint(training=training_state()))
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    state = content["network"] if section == "network" else content["training"]["optimizer"]["state"][0]
    name = next(name for name, value in state.items() if value.numel() > 1)
    state[name].view(-1)[0] += 1e-6
    torch.save(content, tmp_path / "last.pt")
    error = refusal(tmp_path / "last.pt")
    assert "truncated or damaged" in error.message and "copy it again" in error.hint


@pytest.mark.parametrize(
    "change",
    [{"epoch": 8}, {"scores": {"validation_dice": 0.92}}, {"config": Config().to_dict()}, {"training": {"a": 1}}],
    ids=lambda change: next(iter(change)),
)
def test_other_plain_values_under_a_sound_zip_are_noticed(saved, change):
    assert "does not have the SHA-256" in refusal(altered(saved, **change)).message


@pytest.fixture
def few_bytes():
    """Whatever is asked for beyond 3 GB is refused, so that a promise that is believed shows as an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 10**9, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_compressed_entries_are_refused(saved):
    assert "compressed" in refusal(rezipped(saved, method=zipfile.ZIP_DEFLATED)).message


def test_a_directory_that_promises_more_than_the_file_holds_is_refused(saved, few_bytes):
    content = bytearray(rezipped(saved).read_bytes())
    with zipfile.ZipFile(saved) as archive:
        place = archive.start_dir
    struct.pack_into("<II", content, place + 20, 4 * 10**9, 4 * 10**9)  # both sizes of its first entry
    saved.write_bytes(bytes(content))
    assert "promises" in refusal(saved).message


def test_a_storage_that_says_it_is_longer_than_its_bytes_is_refused(saved, few_bytes):
    name = next(iter(torch.load(saved, weights_only=True)["network"]))
    content = torch.load(saved, weights_only=True)
    content["network"] = {name: torch.ones(77)}
    torch.save(content, saved)
    longer = lambda inside, data: data.replace(b"K\x4dt", b"J\x00\x00\x00\x40t") if inside.endswith(".pkl") else data  # noqa: E731
    assert "a storage that is not there as it says" in refusal(rezipped(saved, longer)).message


def test_a_pickle_that_asks_for_a_hundred_gigabytes_is_refused(saved, few_bytes):
    asks = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\xe8\x76\x48\x17\x85R."
    path = rezipped(saved, lambda inside, data: asks if inside.endswith("data.pkl") else data)
    assert "bytearray" in refusal(path).message


def test_nested_lists_without_end_are_refused(saved):
    deep: list = []
    for _ in range(200):
        deep = [deep]
    assert "levels" in refusal(altered(saved, training={"deep": deep})).message


def test_lists_that_multiply_are_refused_quickly(saved):
    wide: list = [0] * 1000
    for _ in range(20):
        wide = [wide] * 1000
    start = time.monotonic()
    assert "values" in refusal(altered(saved, training={"wide": wide})).message
    assert time.monotonic() - start < 10


def test_an_entry_that_says_it_is_a_folder_is_refused(saved):
    content = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        place = archive.start_dir
    content[place + 38] |= 0x10  # PyTorch's reader would leave its bytes as the memory happened to be
    saved.write_bytes(bytes(content))
    assert "folder" in refusal(saved).message


def test_two_entries_of_one_name_are_refused(saved):
    with zipfile.ZipFile(saved, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"again")
    assert "share a name" in refusal(saved).message


def test_a_file_larger_than_the_free_memory_is_not_read(saved, monkeypatch):
    monkeypatch.setattr(plainfile, "free_memory_bytes", lambda: 1000)
    assert "free memory" in refusal(saved).message
