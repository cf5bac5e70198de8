// Which ISAs were built, which this machine has, and the best of them.
#pragma once
#include "kernels.hpp"

namespace fbp {
enum { MAX_ISAS = 4 };
// ISAs from the plainest to the widest; returns how many.
int built_isas(const Isa* isas[MAX_ISAS]);
bool found(const Isa& isa);
}  // namespace fbp
