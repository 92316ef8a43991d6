"""Which codec a worker uses: the C one of the ``msgpack`` package if it is there, else our own.

Both give the same bytes and the same values. The C one is several times as fast; what it refuses is
encoded again by ours, which knows where the offending value is.

The C one has wider limits than ours and knows no ``bytearray``. What it wrote is therefore looked
at where that can matter: if it is long enough to be nested too deep, or has a byte that may begin
bytes. What it read is looked at only if it is long enough. It makes room for as many items as an
array says that it has before it looks for them: long bytes are surveyed first.

Python 3.12 never lets go of a text that was made unique, and the C unpacker makes every key of a
dict unique. There, once it has brought many new ones, what may hold keys is decoded by ours.

Two differences remain, for bytes that our encoders never write: of a key that a dict has twice the
C one keeps the last, and it makes a timestamp of its own of extension type -1.
"""

from __future__ import annotations

import importlib
import sys

from snakehouse import _extensions, _msgpack
from snakehouse._buffers import LEND_FROM
from snakehouse._errors import MalformedValue
from snakehouse._lender import Lender
from snakehouse._limits import MAX_BYTES, MAX_DEPTH, MAX_ITEMS, is_ours, is_within, survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from snakehouse._buffers import Buffers

# Results of these types are lent if they are long.
_LARGE = frozenset((bytes, bytearray, memoryview))
# What the C packer says of values that are not for it.
_REFUSALS = (
    _extensions.Refused,
    TypeError,
    ValueError,
    OverflowError,
    BufferError,
    RecursionError,
)
# A packer that wrote more bytes is not kept.
_KEPT = 1 << 20
# The C unpacker puts 40 KiB on the stack for each nested call, that is for each tuple in a tuple.
_MAX_NESTED_UNPACK = 16
# And a copy of the tuple's bytes: of so many more, only so often.
_LARGE_TUPLE = 1 << 20
_MAX_NESTED_LARGE = 3
# Fewer bytes cannot lie about so much that it matters.
_SURVEY_FROM = 256 << 10
# So many new keys may stay for ever, where keys do.
_MAX_NEW_KEYS = 100_000
# A dict with one key of this codec's own.
_KEY = b"\x81\xb6snakehouse: is it kept\xc0"
# Every byte that begins a dict which is not empty.
_DICTS = bytes([*range(0x81, 0x90), 0xDE, 0xDF])
# A survey that is not over after so many steps is one for the C unpacker.
_PATIENCE = 256


class Codec:
    """The functions and the name that the hello gives them.

    ``encode_result`` is ``encode`` for what is read as soon as it is sent, the result of a call:
    its large parts may be lent. All keep state while they work: threads need a codec each.

    ``unpack`` is what is below ``decode``, for a loop that counts calls: of at most ``MAX_DEPTH``
    bytes it gives the same, unless it raises. It takes ``revive`` as its ``ext_hook``, and
    ``strict_map_key``, which is false.
    """

    __slots__ = ("decode", "encode", "encode_result", "name", "revive", "unpack")

    def __init__(
        self,
        name: str,
        encode: Callable[[object], bytes],
        decode: Callable[[bytes | bytearray | memoryview], Any],
        encode_result: Callable[[object], bytes] | None = None,
    ) -> None:
        self.name = name
        self.encode = encode
        self.decode = decode
        self.encode_result = encode_result or encode
        self.unpack: Callable[..., Any] = self._unpack
        self.revive: Callable[[int, bytes], object] | None = None

    def _unpack(self, data: memoryview, **_options: object) -> Any:
        return self.decode(data)


def choose(buffers: Buffers | None = None) -> Codec:
    """The fastest codec that this interpreter has, which lends from ``buffers``."""
    compiled = _compiled()
    if compiled is None:
        lending = None if buffers is None else _pure_lending(Lender(buffers))
        return Codec("python", _msgpack.encode, _msgpack.decode, lending)
    package, module = compiled
    ext_type, packer_type = package.ExtType, module.Packer
    lending = None if buffers is None else _c_encode(ext_type, packer_type, Lender(buffers))
    revive, decode = _c_decode(package, module)
    kept = _kept_texts(module)
    if kept is not None:
        decode = sparing(decode, kept)
    codec = Codec("msgpack", _c_encode(ext_type, packer_type), decode, lending)
    if kept is None:
        codec.unpack, codec.revive = module.unpackb, revive
    return codec


def _kept_texts(module: Any) -> Callable[[], int] | None:
    """What counts the texts that are kept, if keys of dicts are among them for ever."""
    (key,) = module.unpackb(_KEY)
    is_immortal = sys.getrefcount(key) > 1 << 28
    return getattr(sys, "getunicodeinternedsize", None) if is_immortal else None


def sparing(decode: Callable[[Any], Any], kept: Callable[[], int]) -> Callable[[Any], Any]:
    """As ``decode``, as long as that has not brought too many texts that are kept for ever."""
    left = _MAX_NEW_KEYS

    def decode_sparingly(data: bytes | bytearray | memoryview) -> Any:
        nonlocal left
        if left <= 0 and len(data) > len(bytes(data).translate(None, _DICTS)):
            return _msgpack.decode(data)
        before = kept()
        try:
            return decode(data)
        finally:
            left -= kept() - before

    return decode_sparingly


def _compiled() -> tuple[Any, Any] | None:
    try:
        package = importlib.import_module("msgpack")
        compiled = importlib.import_module("msgpack._cmsgpack")
    except ImportError:
        return None
    if package.version < (1, 1, 0):
        return None
    return package, compiled


def _pure_lending(lender: Lender) -> Callable[[object], bytes]:
    extend, leases = lender.pack, lender.leases

    def encode(value: object) -> bytes:
        try:
            if type(value) in _LARGE and len(value) >= LEND_FROM:  # pyright: ignore[reportArgumentType]
                body = lender.whole(value)  # pyright: ignore[reportArgumentType]
                if body is not None:
                    return body
            packed = _msgpack.encode(value, extend)
            return lender.finish(packed) if leases else packed
        except BaseException:
            lender.drop()
            raise

    return encode


def _c_encode(
    ext_type: Any, packer_type: Any, lender: Lender | None = None
) -> Callable[[object], bytes]:
    # One packer per level of tuples: a packer that is at work cannot be entered again.
    packs: list[Callable[[object], bytes]] = []
    level = 0
    extend = _extensions.pack if lender is None else lender.pack
    ours = _msgpack.encode if lender is None else _pure_lending(lender)

    def convert(value: object) -> object:
        nonlocal level
        if type(value) is tuple:
            level += 1
            if level == len(packs):
                add_packer(4096)
            packed = packs[level](list(value))  # pyright: ignore[reportUnknownArgumentType]
            level -= 1
            return ext_type(_msgpack.EXT_TUPLE, packed)
        if type(value) is int:
            return ext_type(_msgpack.EXT_BIG_INT, _msgpack.big_int_bytes(value))
        if type(value) is set or type(value) is frozenset:
            items: set[Any] = value  # pyright: ignore[reportAssignmentType, reportUnknownVariableType]
            level += 1
            if level == len(packs):
                add_packer(4096)
            packed = bytes(_msgpack.join_sorted([packs[level](item) for item in items]))
            level -= 1
            kind = _msgpack.EXT_SET if type(value) is set else _msgpack.EXT_FROZENSET  # pyright: ignore[reportUnknownArgumentType]
            return ext_type(kind, packed)
        return ext_type(*extend(value))

    def add_packer(buf_size: int) -> None:
        if len(packs) > MAX_DEPTH:
            raise ValueError("too deep")
        packs.append(packer_type(default=convert, strict_types=True, buf_size=buf_size).pack)

    def renew() -> None:
        """Begin with new packers: one never gives back the room of its longest value."""
        nonlocal pack
        packs.clear()
        add_packer(1 << 18)
        pack = packs[0]

    pack: Callable[[object], bytes]
    renew()

    def again(value: object) -> bytes:
        """Encode with ours what the C packer does not, or otherwise."""
        nonlocal level
        level = 0
        if lender is not None:
            lender.drop()
        return ours(value)

    def encode(value: object) -> bytes:
        nonlocal level
        try:
            packed = pack(value)
        except _REFUSALS:
            renew()
            return again(value)
        except BaseException:
            renew()
            level = 0
            raise
        if len(packed) > MAX_DEPTH or 0xC4 in packed or 0xC5 in packed or 0xC6 in packed:
            if len(packed) > _KEPT:
                renew()
            if not is_ours(value, packed):
                return again(value)
        return packed

    if lender is None:
        return encode
    leases, finish = lender.leases, lender.finish

    def encode_result(value: object) -> bytes:
        nonlocal level
        if type(value) in _LARGE and len(value) >= LEND_FROM:  # pyright: ignore[reportArgumentType]
            return ours(value)
        try:
            packed = pack(value)
        except _REFUSALS:
            renew()
            return again(value)
        except BaseException:
            renew()
            level = 0
            lender.drop()
            raise
        if len(packed) > MAX_DEPTH or 0xC4 in packed or 0xC5 in packed or 0xC6 in packed:
            if len(packed) > _KEPT:
                renew()
            if not is_ours(value, packed):
                return again(value)
        return finish(packed) if leases else packed

    return encode_result


def _c_decode(
    package: Any, module: Any
) -> tuple[Callable[[int, bytes], object], Callable[[bytes | bytearray | memoryview], Any]]:
    unpackb = module.unpackb
    nested = 0

    def revive(kind: int, content: bytes) -> object:
        nonlocal nested
        if _msgpack.EXT_TUPLE <= kind <= _msgpack.EXT_FROZENSET:
            length = len(content)
            if nested == _MAX_NESTED_UNPACK or (
                nested == _MAX_NESTED_LARGE and length > _LARGE_TUPLE
            ):
                value = _msgpack.decode(content)
            else:
                if length > _SURVEY_FROM:
                    look_through(content, length)
                nested += 1
                try:
                    value = unpackb(content, ext_hook=revive, strict_map_key=False)
                finally:
                    nested -= 1
            if type(value) is list:
                return _msgpack.container(kind, value)  # pyright: ignore[reportUnknownArgumentType]
            raise MalformedValue(f"extension type {kind} has malformed content")
        if kind == _msgpack.EXT_BIG_INT and content:
            return int.from_bytes(content, "big", signed=True)
        return _extensions.unpack(kind, content)

    def look_through(data: bytes | bytearray | memoryview, length: int) -> None:
        """Raises ``MalformedValue`` for long bytes that would have too much built."""
        if length > MAX_ITEMS:
            survey(data)
        elif not survey(data, _PATIENCE):
            walker = module.Unpacker(max_buffer_size=length, strict_map_key=False)
            walker.feed(data)
            try:
                walker.skip()
            except ValueError as error:
                raise MalformedValue(f"bytes are not a value: {error}") from None
            except package.OutOfData:
                raise MalformedValue("bytes end within a value") from None

    def decode(data: bytes | bytearray | memoryview) -> Any:
        length = len(data)
        if length > MAX_BYTES:
            raise MalformedValue(f"more than {MAX_BYTES} bytes")
        try:
            if length > _SURVEY_FROM:
                look_through(data, length)
            value = unpackb(data, ext_hook=revive, strict_map_key=False)
        except MalformedValue:
            raise
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise MalformedValue(f"bytes are not a value: {error}") from None
        if length > MAX_DEPTH and not is_within(value, data):
            # Ours says what is wrong.
            return _msgpack.decode(data)
        return value

    return revive, decode
