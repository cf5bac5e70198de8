"""Innermost loops of the kernels that put a vector register on the stack: ``python tools/spills.py build/avx512.o``.

Reads what objdump makes of object files that still have their symbols; OBJDUMP=... chooses another objdump. A loop is
what a jump backwards encloses. Left out is what hardly multiplies, and code that stands aside and jumps back once: none
falls through to that jump. A loop that writes none reads what does not change in it.
"""

import os
import re
import subprocess
import sys

KERNELS = re.compile(
    r"\b((?:pair_)?tile|sum_pair_columns|dot_products|narrow_\w+|single_\w+|sum_columns|grad_bias|tiny_\w+|hidden_\w+"
    r"|many_(?:forward|grad_\w+|hidden))<"
)
JUMP = re.compile(r"(?:j\w+|b(?:\.\w+)?|cbn?z|tbn?z)\s.*?\b([0-9a-f]+) <")
LEAVE = re.compile(r"ret|jmp\s|b\s")
ARITHMETIC = re.compile(r"vdpbf16ps\s|v?(?:fn?m)?(?:add|sub|mul)\w*p[sd]\s|f(?:ml[as]|add|mul)\s+v")
WRITES = re.compile(r"\S+\s+%[xyz]mm\d+,[^,]*\(%rsp|st[rp]\s")
ON_THE_STACK = re.compile(r"[xyz]mm.*\(%rsp|\(%rsp.*[xyz]mm|\s[qdsv]\d+.*\[sp\b")


def loops(text):
    """(kernel, instructions) of each innermost loop."""
    for name, body in re.findall(r"^[0-9a-f]+ <(.*)>:\n((?:.+\n)+)", text, re.M):
        name = name.replace("(anonymous namespace)::", "").replace("fbp::", "")
        if not KERNELS.search(name):
            continue
        lines = [(int(at, 16), what) for at, what in re.findall(r"^ *([0-9a-f]+):\t(.*)", body, re.M)]
        spans = {(int(jump[1], 16), at) for at, what in lines if (jump := JUMP.match(what))}
        spans = {(to, at) for to, at in spans if lines[0][0] <= to < at}
        for to, at in sorted(spans):
            loop = [what for place, what in lines if to <= place <= at]
            inner = any(to <= a and b <= at and (a, b) != (to, at) for a, b in spans)
            arithmetic = sum(map(bool, map(ARITHMETIC.match, loop)))
            if not inner and arithmetic * 4 >= len(loop) and not any(map(LEAVE.match, loop[:-1])):
                yield re.sub(r"(?<=>)\(.*", "", name), loop


for file in sys.argv[1:]:
    command = [os.environ.get("OBJDUMP", "objdump"), "-dC", "--no-show-raw-insn", file]
    found = list(loops(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    spills = [(list(filter(ON_THE_STACK.search, loop)), len(loop), name) for name, loop in found]
    spills = [(len(hits), sum(map(bool, map(WRITES.match, hits))), *rest) for hits, *rest in spills if hits]
    print(f"{file}: {len(found)} loops, {len(spills)} of them with a vector on the stack")
    for hits, writes, length, name in spills:
        print(f"  {hits} of {length} instructions, {writes} of which write: {name}")
