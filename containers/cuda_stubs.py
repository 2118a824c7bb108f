"""Small stand-ins for CUDA's large libraries, for an image without a GPU.

torch's CUDA build is linked with these libraries, so the dynamic linker wants each of them and every function that is
called from it, although nothing calls one where no GPU is found. NVIDIA's toolkit has such stand-ins in its folders
`stubs`, to link with on machines without a driver; its Python packages have none. So they are made here: an ELF shared
object for Linux on x86-64 with the name, the symbols and the versions of the original, whose tables are copied as they
are, and with one function in the place of all. Whichever is called, it says so and ends the process. A function that is
asked for a number although there is no GPU, such as a version, can be given one that does answer.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

CALLED = "{name}: CUDA was called, but this image is for computing on the CPU; take the image for GPUs"

_PAGE_BYTES = 0x1000
_X86_64 = 62
_FILE_HEADER_BYTES = 64
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_UNDEFINED, _ABSOLUTE = 0, 0xFFF1  # symbols of other libraries, and those that are no address
_VARIABLE, _FUNCTION = 1, 2

# Types of sections.
_DYNAMIC, _SYMBOLS = 6, 11
# A table that is copied: the type of its section, and the tag under which the dynamic section tells where it is.
_COPIED = ((5, 4), (0x6FFFFFF6, 0x6FFFFEF5), (0x6FFFFFFF, 0x6FFFFFF0), (0x6FFFFFFD, 0x6FFFFFFC))  # hashes, versions
_NAME, _STRINGS_AT, _SYMBOLS_AT, _STRINGS_BYTES, _SYMBOL_BYTES, _VERSION_COUNT = 14, 5, 6, 10, 11, 0x6FFFFFFD


@dataclass(frozen=True)
class _Tables:
    """What the dynamic linker reads of a library."""

    symbols: bytes
    strings: bytes
    copied: dict[int, bytes]
    """Tag of the dynamic section: table."""
    numbers: dict[int, int]
    """Tag of the dynamic section: number that holds for the copy too."""


def stub(library: bytes, answers: Mapping[str, int | tuple[int, ...]] | None = None) -> bytes | None:
    """The stand-in of a library; None for what is not an x86-64 library with a name.

    Args:
        library: its bytes.
        answers: names of functions that do answer. With a number (32 bits) they return it; with several they take an
            index and an address, to which they write the number of that index, and return 0.
    """
    tables = _read(library)
    if tables is None:
        return None
    name_at = tables.numbers[_NAME]
    name = tables.strings[name_at : tables.strings.index(b"\0", name_at)].decode()
    symbols_at = _FILE_HEADER_BYTES + 4 * _SEGMENT.size
    content = bytearray(len(tables.symbols))
    places = {_SYMBOLS_AT: symbols_at}
    for tag, table in [(_STRINGS_AT, tables.strings), *tables.copied.items()]:
        content += bytes(-len(content) % 8)
        places[tag] = symbols_at + len(content)
        content += table
    content += bytes(-len(content) % 16)
    function_at = symbols_at + len(content)
    content += _say_and_exit(CALLED.format(name=name).encode() + b"\n")
    answering: dict[bytes, int] = {}
    for function, answer in (answers or {}).items():
        answering[function.encode()] = symbols_at + len(content)
        content += _return(answer) if isinstance(answer, int) else _write_one_of(answer)
    # The linker notes addresses in the dynamic section, so this is in a segment that can be written, on its own page.
    read_only_bytes = symbols_at + len(content)
    dynamic_at = -(-read_only_bytes // _PAGE_BYTES) * _PAGE_BYTES
    sizes = {_STRINGS_BYTES: len(tables.strings), _SYMBOL_BYTES: _SYMBOL.size}
    tags = [*tables.numbers.items(), *places.items(), *sizes.items(), (0, 0)]
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    symbols, end = _moved(tables, function_at, answering, dynamic_at + len(dynamic))
    content[: len(symbols)] = symbols
    headers = _headers(read_only_bytes, dynamic_at, len(dynamic), end - dynamic_at)
    return (headers + bytes(content)).ljust(dynamic_at, b"\0") + dynamic


def _read(library: bytes) -> _Tables | None:
    if library[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", library, 18)[0] != _X86_64:
        return None
    (sections_at,) = struct.unpack_from("<Q", library, 40)
    (n_sections,) = struct.unpack_from("<H", library, 60)
    sections = [_SECTION.unpack_from(library, sections_at + i * _SECTION.size) for i in range(n_sections)]

    def content(section: tuple[int, ...]) -> bytes:
        return library[section[4] : section[4] + section[5]]

    found = {section[1]: section for section in sections}
    if not {_DYNAMIC, _SYMBOLS} <= set(found):
        return None
    told = dict(struct.iter_unpack("<QQ", content(found[_DYNAMIC])))
    if _NAME not in told:
        return None
    return _Tables(
        symbols=content(found[_SYMBOLS]),
        strings=content(sections[found[_SYMBOLS][6]]),
        copied={tag: content(found[kind]) for kind, tag in _COPIED if kind in found},
        numbers={tag: told[tag] for tag in (_NAME, _VERSION_COUNT) if tag in told},
    )


def _moved(tables: _Tables, function_at: int, answering: Mapping[bytes, int], free: int) -> tuple[bytes, int]:
    """The symbols with every function at one address, but for some, and variables behind `free`; where these end."""
    moved = bytearray()
    for name, info, other, section, value, size in _SYMBOL.iter_unpack(tables.symbols):
        if section in (_UNDEFINED, _ABSOLUTE):
            place, kind = value, info & 15
        elif info & 15 == _VARIABLE:
            place, kind = -(-free // 64) * 64, _VARIABLE
            free = place + size
        else:  # also of the kind that is called to be looked up
            text = tables.strings[name : tables.strings.index(b"\0", name)]
            place, kind = answering.get(text, function_at), _FUNCTION
        moved += _SYMBOL.pack(name, info & 0xF0 | kind, other, section, place, size)
    return bytes(moved), free


def _headers(read_only_bytes: int, dynamic_at: int, dynamic_bytes: int, writable_bytes: int) -> bytes:
    """Of the file and its segments: code and tables, what is written, the dynamic section, a stack without code."""
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    shared_object, version, n_segments = 3, 1, 4
    head = struct.pack(
        "<HHIQQQIHHHHHH",
        *(shared_object, _X86_64, version, 0, _FILE_HEADER_BYTES, 0, 0, _FILE_HEADER_BYTES),
        *(_SEGMENT.size, n_segments, _SECTION.size, 0, 0),
    )
    load, dynamic, stack = 1, 2, 0x6474E551
    execute, write, read = 1, 2, 4
    segments = (
        (load, read | execute, 0, 0, 0, read_only_bytes, read_only_bytes, _PAGE_BYTES),
        (load, read | write, dynamic_at, dynamic_at, dynamic_at, dynamic_bytes, writable_bytes, _PAGE_BYTES),
        (dynamic, read | write, dynamic_at, dynamic_at, dynamic_at, dynamic_bytes, dynamic_bytes, 8),
        (stack, read | write, 0, 0, 0, 0, 0, 16),
    )
    return ident + head + b"".join(_SEGMENT.pack(*segment) for segment in segments)


def _return(number: int) -> bytes:
    """Machine code: eax = number, and return."""
    return b"\xb8" + struct.pack("<I", number) + b"\xc3"


def _write_one_of(numbers: tuple[int, ...]) -> bytes:
    """Machine code: edi is an index of `numbers` and rsi an address; *rsi = numbers[edi], return 0."""
    rest = b"\x89\xff" + b"\x8b\x04\xb8" + b"\x89\x06" + b"\x31\xc0" + b"\xc3"
    here_on = b"\x48\x8d\x05" + struct.pack("<i", len(rest))  # rax: the numbers, which follow
    return here_on + rest + struct.pack(f"<{len(numbers)}I", *numbers)


def _say_and_exit(message: bytes) -> bytes:
    """Machine code: write(2, message, its length), exit_group(1)."""
    syscall = b"\x0f\x05"
    leave = b"\xb8\xe7\0\0\0" + b"\xbf\x01\0\0\0" + syscall  # eax: exit_group, edi: 1
    load = b"\xb8\x01\0\0\0" + b"\xbf\x02\0\0\0" + b"\xba" + struct.pack("<I", len(message))  # eax: write, edi: 2, edx
    here_on = b"\x48\x8d\x35" + struct.pack("<i", len(syscall) + len(leave))  # rsi: the message, which follows
    return load + here_on + syscall + leave + message
