"""Renders the tables of fastbp as C++, into src/kernels/rows_generated.hpp; run from the repository's root.

``make rows``, or ``PYTHONPATH=. python tools/rows.py``. It needs no compiled module: what it writes is compiled.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fastbp import activations, losses, optimizers
from fastbp.rows import Activation, Loss, Optimizer, digest

_HEADER = """\
// Rendered by `make rows` from the tables of fastbp/: edit those, not this file.
// Included by isa.hpp inside the ISA's namespace, after simd.hpp and math.hpp; others take FBP_ROWS and lists.
#define FBP_ROWS 0x{digest:08x}u
#ifdef FBP_INLINE
"""


def _cpp_activation(row: Activation) -> str:
    return f"""
struct activation_{row.name} {{
  enum {{ keeps_z = {int(row.keeps_z)} }};
  template <class V> FBP_INLINE V forward(V z) {{
    const Constant<V> R{{}}; (void)R;
    return {row.forward_text};
  }}
  template <class V> FBP_INLINE V backward(V g, V a, V z) {{
    const Constant<V> R{{}}; (void)R, (void)a, (void)z;
    return {row.backward_text};
  }}
}};
"""


def _cpp_loss(row: Loss) -> str:
    numbers = "".join(f"    const V {name} = setting[{k}]; (void){name};\n" for k, name in enumerate(row.numbers_named))
    texts = {"value": row.value_text, "grad": row.grad_text, "grad_s": row.grad_s_text}
    functions = "".join(
        f"""  template <class V> FBP_INLINE V {what}(V z, V t, V {row.third}, const V* setting) {{
    const Constant<V> R{{}}; (void)R, (void)z, (void)t, (void){row.third}, (void)setting;
{numbers}    return {text};
  }}
"""
        for what, text in texts.items()
        if text
    )
    facts = {"uses_lse": row.statistic == "lse", "pairs": row.grad_s is not None, "settings": len(row.numbers_named)}
    return f"""
struct loss_{row.name} {{
  enum {{ {", ".join(f"{name} = {int(fact)}" for name, fact in facts.items())} }};
{functions}}};
"""


def _cpp_optimizer(row: Optimizer) -> str:
    lines = [f"    V {name} = state[{k}];" for k, name in enumerate(row.state)]
    lines += [f"    const V {name} = scalar[{k}];" for k, name in enumerate(row.scalars)]
    lines += [f"    {target} = {text};" for target, text in row.update_text]
    lines += [f"    state[{k}] = {name};" for k, name in enumerate(row.state)]
    body = "\n".join(lines)
    return f"""
struct optimizer_{row.name} {{
  enum {{ states = {len(row.state)}, scalars = {len(row.scalars)} }};
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {{
    const Constant<V> R{{}}; (void)R, (void)state;
{body}
    return p;
  }}
}};
"""


def _cpp_list(macro: str, names: Iterable[str]) -> str:
    return f"\n#define {macro}(ROW) \\\n  " + " ".join(f"ROW({name})" for name in names) + "\n"


def render_cpp(activations: Iterable[Activation], losses: Iterable[Loss], optimizers: Iterable[Optimizer]) -> str:
    """The text of ``src/kernels/rows_generated.hpp``: the digest, a struct per row, a list macro per table."""
    tables = list(activations), list(losses), list(optimizers)
    parts = [_HEADER.format(digest=digest(*tables))]
    macros = ("FBP_ACTIVATIONS", _cpp_activation), ("FBP_LOSSES", _cpp_loss), ("FBP_OPTIMIZERS", _cpp_optimizer)
    for table, (_, one) in zip(tables, macros):
        parts += [one(row) for row in table]
    lists = [_cpp_list(macro, [row.name for row in table]) for table, (macro, _) in zip(tables, macros)]
    keep_z = _cpp_list("FBP_KEEP_Z", [row.name for row in tables[0] if row.keeps_z])
    return "".join([*parts, "#endif\n", *lists, keep_z])


def main() -> None:
    text = render_cpp(activations.TABLE.values(), losses.TABLE.values(), optimizers.TABLE.values())
    Path("src/kernels/rows_generated.hpp").write_text(text)


if __name__ == "__main__":
    main()
