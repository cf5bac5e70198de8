// Which ISAs were built, which this machine has, and the best of them.
#pragma once
#include "kernels.hpp"

namespace fbp {
enum { MAX_ISAS = 4 };
// ISAs from the plainest to the widest; returns how many.
int built_isas(const Isa* isas[MAX_ISAS]);
bool found(const Isa& isa);
// Kernels of many networks, from the widest vectors that an ISA has to narrower ones; returns how many.
int many_of(const Isa& isa, const ManyTable* many[MAX_ISAS]);
// Products in bfloat16 for those who have the ISA's kernels; null where this machine has none.
const Bfloat16Kernels* bfloat16_of(const Isa& isa);
}  // namespace fbp
