"""Files that nobody saved: mutated ones, and such as carry the right digest all the same. For tests and the fuzzer."""

import hashlib
import json
import random

START = b'{"__metadata__":{"sha256":"'
DIGITS = slice(len(START), len(START) + 64)


def split(content):
    """Header and data of a file's bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


def signed(header, data=b""):
    """A file's bytes: the header with the digest that it should have, wherever that is in a real one."""
    length = len(header).to_bytes(8, "little")
    zeroed = header[: DIGITS.start] + b"0" * 64 + header[DIGITS.stop :]
    digits = hashlib.sha256(length + zeroed + data).hexdigest().encode()
    return length + header[: DIGITS.start] + digits + header[DIGITS.stop :] + data


def text(value):
    return json.dumps(value, separators=(",", ":"))


def padded(header):
    return header + b" " * (-len(header) % 8)


def described(content, what="network"):
    """The entries of a file's header, and what it says about the network, or the networks."""
    entries = json.loads(split(content)[0])
    return entries, json.loads(entries.pop("__metadata__")[what])


def forged(content, change=lambda network, entries: None, data=None, what="network"):
    """The file after `change` of its header's contents, in the form in which `save` would write it, and signed.

    `change` may return the text of the network itself.
    """
    entries, network = described(content, what)
    own = change(network, entries)
    metadata = {"sha256": "0" * 64, what: text(network) if own is None else own}
    header = padded(text({"__metadata__": metadata, **entries}).encode())
    return signed(header, split(content)[1] if data is None else data)


WORDS = [b"0", b"1", b"-1", b"1e400", b"NaN", b"null", b"true", b"[]", b"{}", b'""', b"9" * 19, b"9" * 25, b'"F64"',
         b",", b'\\"\\":\\"inf\\"', b'\\"tensor\\"', b"\\ud800", b'"a":0,', b"4611686018427387904",
         b"18446744073709551616"]  # fmt: skip


def mutated(rng: random.Random, content):
    """`content` with one to four small changes, never the same."""
    while True:
        new = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at, n = rng.randrange(len(new) + 1), rng.choice((1, 1, 2, 4, 8, 64))
            change = rng.randrange(6)
            if change == 0:
                new[at : at + n] = rng.randbytes(n)
            elif change == 1:
                del new[at : at + n]
            elif change == 2:
                new[at:at] = new[at : at + n]
            elif change == 3:
                other = rng.randrange(len(new) + 1)
                new[at : at + n] = new[other : other + n]
            elif change == 4:
                new[at : at + rng.choice((0, 1, n))] = rng.choice(WORDS)
            elif new:
                new[at % len(new)] ^= 1 << rng.randrange(8)
        if new != content:
            return bytes(new)
