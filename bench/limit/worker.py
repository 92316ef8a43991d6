"""The limit: the least a Python worker can do per call and still be one.

A blocking `recv_into` loop; MessagePack decoded and encoded in C (package `msgpack`); every complete
frame of one read is answered with one write. No tools, no deadlines, no errors, no cancel. The
socket is standard input, the size of the buffer the only argument. Frames: u32 payload length, u8
kind, u32 stream id, little-endian; a call's payload is `[args, kwargs]`, its answer is the first
argument.

The same program in every measurement: change it, and numbers from before mean nothing.
"""

import gc
import socket
import struct
import sys

import msgpack

HEAD = struct.Struct("<IBI")
ANSWER = 2


def serve(sock: socket.socket, room: int) -> None:
    unpack, pack = msgpack.unpackb, msgpack.Packer(autoreset=True).pack
    head_size, read_head, write_head = HEAD.size, HEAD.unpack_from, HEAD.pack
    buffer = bytearray(room)
    view = memoryview(buffer)
    start = end = 0
    while count := sock.recv_into(view[end:]):
        end += count
        out = []
        while end - start >= head_size:
            length, _kind, stream = read_head(buffer, start)
            stop = start + head_size + length
            if stop > end:
                break
            args, _kwargs = unpack(view[start + head_size : stop])
            body = pack(args[0])
            out.append(write_head(len(body), ANSWER, stream))
            out.append(body)
            start = stop
        if out:
            sock.sendall(b"".join(out))
        # What is left is the beginning of a frame: it moves to the front when space runs short.
        if start == end:
            start = end = 0
        elif len(buffer) - end < len(buffer) // 2:
            rest = end - start
            view[:rest] = view[start:end]
            start, end = 0, rest
        if end == len(buffer):
            raise ValueError("a frame is larger than the buffer")


if __name__ == "__main__":
    gc.freeze()
    serve(socket.socket(fileno=0), int(sys.argv[1]))
