"""Zips as somebody else made them: names, zips within zips, links, bombs, and damaged bytes."""

import contextlib
import hashlib
import io
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fuzz import mutate
from fuzz.target import Dice, Input, Limits, Room, Target, require
from verse3d.core.errors import DataError
from verse3d.data.index.archives import list_members, unpack
from verse3d.data.index.build import IndexOptions, build_index

GOOD_NAMES = (
    "sub-1_ct.nii.gz",
    "sub-1/sub-1_seg-vert_msk.nii.gz",
    "rawdata/a.nii",
    "notes.txt",
    "derivatives/x/y.json",
)
BAD_NAMES = (
    "../x", "../../x.nii.gz", "/x", "//x", "..", ".", "...", "...zip", "..zip", ".zip", "a/..zip", "a/...zip",
    "....zip", "a/../../x", "./../x", "a\\..\\..\\x", "C:\\x", "C:/x",
    "\\\\host\\x", "a//b", "./a", "a/", "A/", "nul\0name",
    "x" * 256, "x" * 300 + ".nii.gz", "d/" * 400 + "x", "ä.nii.gz", "SUB-1_CT.NII.GZ", " ", "\n", "-rf", "~/x", "$HOME",
    ".verse3d-1-a", "a:b", "con", "inner.zip/x", "\u202egz.iin", "\x1b[31m.nii", "sub-1_ct.nii.gz/x", "...", "a/./b",
)  # fmt: skip
_MODES = (0, 0o100644, 0o100644, 0o100000, 0o120777, 0o010644, 0o020644, 0o060644, 0o040755, 0o140777, 0o104755)


@dataclass
class Built:
    """A zip as it was built.

    Attributes:
        content: the zip.
        digests: of everything in it, at any depth.
        harmless: every name and kind is one that must be unpacked.
    """

    content: bytes = b""
    digests: set[str] = field(default_factory=set)
    harmless: bool = True


def built(dice: Dice, depth: int = 0) -> Built:
    """A zip of a few files, of which some may be zips again."""
    made, buffer = Built(), io.BytesIO()
    plain = dice.random() < 0.3
    names = list(dice.sample(GOOD_NAMES, dice.randrange(1, 4)))
    if not plain:
        names += [dice.choice(BAD_NAMES) for _ in range(dice.randrange(1, 4))]
    dice.shuffle(names)
    with zipfile.ZipFile(buffer, "w", dice.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name in names:
            made.harmless &= name in GOOD_NAMES
            _add(dice, archive, name, made, depth)
    made.content = buffer.getvalue()
    return made


def _add(dice: Dice, archive: zipfile.ZipFile, name: str, made: Built, depth: int) -> None:
    content = dice.randbytes(dice.choice((0, 1, 10, 3000)))
    if depth < 4 and (name.endswith(".zip") or dice.random() < 0.2):
        inner = built(dice, depth + 1)
        content = inner.content
        made.digests |= inner.digests
        made.harmless &= inner.harmless and depth < 2
        name = name if name.endswith(".zip") else f"{name}.zip"
    info = zipfile.ZipInfo(name)
    if not made.harmless:
        info.external_attr = dice.choice(_MODES) << 16
    made.digests.add(_digest(content))
    archive.writestr(info, content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def zip_of(members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def _lie_about_size(dice: Dice, content: bytes) -> tuple[bytes, str]:
    """Another size, checksum or offset in an entry of the directory."""
    places = [place for place in range(len(content) - 4) if content[place : place + 4] == b"PK\x01\x02"]
    if not places:
        return content, "no entry"
    place, offset = dice.choice(places), dice.choice((8, 10, 16, 20, 24, 28, 30, 42))
    value = dice.choice((0, 1, 2**31, 2**32 - 1, 2**16 - 1, dice.randrange(2**32)))
    at = place + offset
    return content[:at] + struct.pack("<I", value) + content[at + 4 :], f"directory field {offset} = {value}"


class Archives(Target):
    """Listing, unpacking, and the index that is made of what was unpacked."""

    name = "archives"
    share = 2000
    limits = Limits(cpu_s=15, memory_mb=250)

    def intact(self, room: Room) -> Input:
        members = {name: name.encode() for name in GOOD_NAMES}
        (room.inputs / "data.zip").write_bytes(zip_of(members))
        return Input("intact", ({_digest(content) for content in members.values()}, True))

    def write(self, dice: Dice, room: Room) -> Input:
        with warnings.catch_warnings(action="ignore"):  # two members of one name
            made = built(dice)
        content, words = made.content, "as built"
        kind = dice.randrange(4)
        if kind == 0:
            content, words = mutate.data(dice, content)
        elif kind == 1:
            content, words = _lie_about_size(dice, content)
        (room.inputs / "data.zip").write_bytes(content)
        intact = content == made.content
        return Input(words, (made.digests if intact else None, intact and made.harmless))

    def read(self, room: Room, made: Input) -> None:
        digests, harmless = made.expected
        archive, folder = room.inputs / "data.zip", room.outputs / "unpacked"
        members = list_members(archive)
        result = unpack(archive, folder)
        written = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        require(not [path for path in folder.rglob("*") if path.is_symlink()], "a link was unpacked")
        require(len(written) == result.written, f"{len(written)} files are there, {result.written} were written")
        if digests is not None:
            foreign = [path for path in written if _digest(path.read_bytes()) not in digests]
            require(not foreign, f"these hold what no member holds: {foreign}")
        if harmless:
            require(len(written) == len(members) and not result.refused, f"not all was unpacked: {result.refused}")
        again = unpack(archive, folder)
        require(again.kept == result.written and not again.written, "the second call wrote something again")
        self._index(room)

    @staticmethod
    def _index(room: Room) -> None:
        with contextlib.suppress(DataError):  # there may be no scan in it, or one subject in two splits
            build_index([room.inputs], IndexOptions(unpack_to=room.outputs / "by-index"))

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        evil = zip_of({"escaped.nii.gz": b"x"})
        nest = zip_of({f"{number}.txt": b"" for number in range(3000)})
        return {
            "...zip in a zip": _past({"...zip": evil, "a/...zip": evil}),
            "..zip in ...zip": _past({"...zip": zip_of({"...zip": evil, "..zip": evil})}),
            "a zip bomb": _past({"zeros.nii": bytes(2 * 10**8)}),
            "zips of many empty files": _past({f"{number}.zip": nest for number in range(100)}, zipfile.ZIP_STORED),
            "zips that compress away": _past(dict.fromkeys((f"{number}.zip" for number in range(200)), _large_inner())),
        }


def _large_inner() -> bytes:
    """A zip whose directory alone is large, and which shrinks a hundredfold in another zip."""
    return zip_of({"n" * 200 + str(number): b"" for number in range(2000)}, zipfile.ZIP_STORED)


def _past(members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Callable[[Room], Input]:
    def write(room: Room) -> Input:
        (room.inputs / "data.zip").write_bytes(zip_of(members, compression))
        return Input(", ".join(list(members)[:3]), (None, False))

    return write
