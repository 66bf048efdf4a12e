"""Runs clients/python/countersign_evidence.py on a file of a real server, and on copies with one byte changed at every position."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients/python"))
from countersign_evidence import Refused, main, read_trust, verify  # noqa: E402

path, keys = sys.argv[1:3]
assert main(path, keys) == 0
data = pathlib.Path(path).read_bytes()
trust = read_trust(pathlib.Path(keys).read_text())
changed = bytearray(data)
for position in range(len(data)):
    changed[position] ^= 1
    try:
        verify(bytes(changed), trust)
    except Refused:
        pass
    else:
        sys.exit(f"a changed byte at {position} went unnoticed")
    changed[position] ^= 1
print(f"every one of {len(data)} bytes counts")
