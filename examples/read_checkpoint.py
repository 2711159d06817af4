"""Reads a checkpoint with Python's standard library alone: python3 examples/read_checkpoint.py RUN/last.safetensors

A safetensors file is a length (8 bytes, little endian), a JSON header of that length, and the arrays one after another, row-major
and little endian. With the package `safetensors` it is shorter: see docs/python.md, which also says what the arrays are.
"""

import json
import struct
import sys

CODES = {"F32": "f", "I32": "i"}


def read(path):
    """The arrays by name, as (shape, flat list of values), and the position of the training."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    # One entry: the checksum of everything else, a space, the position as JSON.
    _, position = header.pop("__metadata__")["checkpoint"].split(" ", 1)
    arrays = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        code = CODES[entry["dtype"]]
        arrays[name] = entry["shape"], list(struct.unpack(f"<{(end - start) // 4}{code}", data[start:end]))
    return arrays, json.loads(position)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 read_checkpoint.py RUN/last.safetensors")
    arrays, position = read(sys.argv[1])
    for name, (shape, values) in sorted(arrays.items()):
        print(f"{name:16} {shape} sum {sum(values):.6f}")
    print("after", position["step"], "updates")
