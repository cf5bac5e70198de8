"""How Numba compiles what fastbp generates: by its own passes, without those that do nothing here.

Numba optimises each function by itself and makes machine code of it, and does so again with the copy in each function
that calls it. Here a function that others call, a `Part`, is linked into them as it was lowered; only what is called
from outside, a `Whole`, goes through LLVM's whole pipeline. Left out are passes for closures, with statements, literal
loops and array expressions, of which there are none. Both together save a third of the time.
"""

from __future__ import annotations

from numba import _dynfunc
from numba.core import compiler, typed_passes, untyped_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_machinery import PassManager, register_pass


class _PartLibrary(JITCodeLibrary):
    """Is linked into others, and that is all."""

    def finalize(self) -> None:
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(typed_passes.NativeLowering):
    _name = "fastbp_part_lowering"

    def run_pass(self, state) -> bool:
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        of, library = state.cr.fndesc, state.library
        # what callers know it by; nobody calls it, as there is no code
        key = _dynfunc.make_function(of.lookup_module(), of.qualname, "", 0, state.cr.env, (library,))
        state.targetctx.insert_user_function(key, of, [library])
        state.cr = state.cr._replace(cfunc=key)
        return True


class Whole(compiler.CompilerBase):
    """What is called from outside."""

    lowering_pass = typed_passes.NativeLowering

    def define_pipelines(self) -> list[PassManager]:
        manager = PassManager("fastbp")
        for one in (
            untyped_passes.TranslateByteCode, untyped_passes.FixupArgs, untyped_passes.IRProcessing,
            untyped_passes.ReconstructSSA, typed_passes.NopythonTypeInference, typed_passes.PreLowerStripPhis,
            typed_passes.IRLegalization, typed_passes.AnnotateTypes, self.lowering_pass, typed_passes.NoPythonBackend,
        ):  # fmt: skip
            manager.add_pass(one, one.__name__)
        manager.finalize()
        return [manager]


class Part(Whole):
    """What such functions call."""

    lowering_pass = _PartLowering
