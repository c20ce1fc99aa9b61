"""HDF5 files that anybody may have written: what a data set declares is looked at before its values are read.

HDF5 returns values without a word where none are stored: fill values for rows that were never written and for
sources of a virtual data set that are missing, zeros beyond the end of an external file, and nonsense for number
formats that h5py takes for others. Each of these is an error here.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5t

from bplcz_ref.archives import reading, regular_file
from bplcz_ref.schema import brief

FLOATS = {size: (getattr(h5t, f"IEEE_F{8 * size}LE"), getattr(h5t, f"IEEE_F{8 * size}BE")) for size in (2, 4, 8)}
WHOLES = [
    getattr(h5t, f"STD_{sign}{8 * size}{end}") for sign in "IU" for size in (1, 2, 4, 8) for end in ("LE", "BE")
]
LARGEST_CHUNK = 1 << 30  # bytes that HDF5 has to unpack to give one value; a row of So2Sat has 147,456
CHECKED = ("v108", "v108")  # for h5py.File: HDF5 1.8, of 2008, is the first whose metadata has checksums
CHECKSUM = 4  # bytes that the Fletcher filter adds to a chunk
REWRITE = "copy the values into a plain data set of one file, such as with h5py"


def dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """The data set of a name, or None if the name is missing, or a group, or a link that leads nowhere.

    Errors: ValueError for links in a circle, and for a link to another file that is no regular file.
    """
    link = file.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        other = Path(file.filename).parent / link.filename
        if other.exists():  # a pipe would wait for a writer
            regular_file(other)
    try:
        found = file.get(name)
    except RuntimeError as error:  # HDF5 gives up after 16 soft links
        raise ValueError(f"{file.filename}: {name} is a link that leads nowhere ({error})") from None
    return found if isinstance(found, h5py.Dataset) else None


def attributes(file: h5py.File) -> dict:
    """{name: value} of a file's attributes, text as str."""
    values = {str(name): file.attrs[name] for name in file.attrs}
    return {name: v.decode(errors="replace") if isinstance(v, bytes) else v for name, v in values.items()}


def write_attributes(file: h5py.File, values: dict) -> None:
    """Write attributes, text in a fixed length.

    Text of variable length lies in a heap without checksum, and damage there can keep HDF5 reading for ever.
    """
    file.attrs.update({name: np.bytes_(v.encode()) if isinstance(v, str) else v for name, v in values.items()})


def check_stored(data: h5py.Dataset, where: str, whole: bool = False) -> None:
    """ValueError that begins with `where`, unless all values are stored in this file as IEEE floating point.

    whole: whole numbers of 1, 2, 4 or 8 bytes are accepted too. No value is read.

    >>> with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
    ...     check_stored(file.create_dataset("sen1", (2**27, 32, 32, 8), "f4"), "memory.h5: sen1")
    Traceback (most recent call last):
      ...
    ValueError: memory.h5: sen1 declares 4,398,046,511,104 bytes and 0 are stored: its values were never written,
    or not all of them; write the file again
    """
    if data.shape is None:
        raise ValueError(f"{where} is empty (a null dataspace); expected numbers")
    if not any(data.id.get_type().equal(known) for known in _formats(data, whole)):
        raise ValueError(
            f"{where} has dtype {data.dtype} in a number format of {data.id.get_type().get_size()} bytes that is"
            f" not {'a whole number or ' if whole else ''}IEEE floating point of 16, 32 or 64 bits; convert it"
        )
    plist = data.id.get_create_plist()
    layout = plist.get_layout()
    if layout == h5d.VIRTUAL:
        raise ValueError(f"{where} is a virtual data set, whose values are in other files; {REWRITE}")
    if plist.get_external_count():
        name = plist.get_external(0)[0].decode(errors="replace")
        raise ValueError(f"{where} has its values in another file, {name}, which cannot be checked; {REWRITE}")
    size = data.dtype.itemsize
    if layout == h5d.CHUNKED:
        if (chunk := math.prod(data.chunks) * size) > LARGEST_CHUNK:
            raise ValueError(
                f"{where} has chunks of {chunk:,} bytes, more than the {LARGEST_CHUNK:,} that are unpacked for"
                " one value; write it with smaller chunks, such as of 16 rows"
            )
        expected = math.prod(-(-n // m) for n, m in zip(data.shape, data.chunks, strict=True))
        found, unit = _check_chunks(data, where, chunk), "chunks"
    else:
        expected, found, unit = math.prod(data.shape) * size, data.id.get_storage_size(), "bytes"
        if found and (data.id.get_offset() or 0) + found > data.file.id.get_filesize():
            raise ValueError(
                f"{where} declares {expected:,} bytes, which end beyond the file: it is cut or damaged"
            )
    if found < expected:
        raise ValueError(
            f"{where} declares {expected:,} {unit} and {found:,} are stored: its values were never written,"
            " or not all of them; write the file again"
        )


def _formats(data, whole):
    """The HDF5 types that h5py reads as `data.dtype` without loss."""
    if data.dtype.kind == "f":
        return FLOATS.get(data.dtype.itemsize, ())
    return WHOLES if whole and data.dtype.kind in "iu" else ()


def _check_chunks(data, where, unpacked):
    """The number of stored chunks; ValueError for one of a size that cannot be, on which HDF5 may crash."""
    plist, end = data.id.get_create_plist(), data.file.id.get_filesize()
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    checksum = CHECKSUM * (h5py.h5z.FILTER_FLETCHER32 in filters)
    packed = bool(filters - {h5py.h5z.FILTER_FLETCHER32})
    found = 0

    def see(info):
        nonlocal found
        found += 1
        wrong = info.size <= checksum or info.byte_offset is None or info.byte_offset + info.size > end
        if wrong or not (packed or info.filter_mask) and info.size != unpacked + checksum:
            raise ValueError(
                f"{where}: the chunk at {info.chunk_offset} has {info.size:,} bytes: the file is damaged"
            )

    data.id.chunk_iter(see)
    return found


MOST_NAMES, DEEPEST = 100_000, 50  # names of a group, groups of a file; DenseNet-121 has 727 names


def tree(
    path: Path, group: h5py.Group, above: tuple = (), visited: set | None = None
) -> Iterator[tuple[str, h5py.Dataset]]:
    """(dotted name, data set) of all that is in a group; links that can leave the file or lead back are errors."""
    visited = set() if visited is None else visited
    prefix = "".join(f"{name}." for name in above)
    with reading(path, prefix or "the file"):
        names = list(group)
        visited.add(h5py.h5o.get_info(group.id).addr)
    if len(names) > MOST_NAMES or len(visited) > MOST_NAMES or len(above) > DEEPEST:
        raise ValueError(
            f"{path}: {brief(prefix) if above else 'the file'} holds more than {MOST_NAMES:,} names or is"
            f" deeper than {DEEPEST} groups; is it weights?"
        )
    for name in names:
        place = f"{prefix}{name}"
        with reading(path, place):
            link = group.get(name, getlink=True)
            item = group[name] if isinstance(link, h5py.HardLink) else None
            address = None if item is None else h5py.h5o.get_info(item.id).addr
        if item is None:
            raise ValueError(f"{path}: {place} is a link; expected the array itself in its place")
        if isinstance(item, h5py.Group):
            if address in visited:
                raise ValueError(f"{path}: the group {place} is in the file twice, or in itself; expected a tree")
            yield from tree(path, item, (*above, name), visited)
        elif isinstance(item, h5py.Dataset):
            with reading(path, place):
                item.dtype  # noqa: B018 - a type that h5py does not know raises TypeError
            check_stored(item, f"{path}: {place}", whole=True)
            yield place, item
