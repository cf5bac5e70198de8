#include "dispatch.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fbp {
namespace {
bool always() { return true; }
#if defined(__x86_64__)
// The compiler's probes ask CPUID and, for the wide registers, the operating system too (XCR0).
bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
bool has_avx512_bf16() {   // compilers know it by different names
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) &&
         (a & 1u << 5);
}
#endif

struct Row {
  const Isa* isa;
  bool (*found)();
};
const Row TABLE[] = {
#if defined(__aarch64__)
    {&isa_neon, always},
#else
    {&isa_generic, always},
#endif
#if defined(__x86_64__)
    {&isa_avx2, has_avx2},
    {&isa_avx512, has_avx512},
#endif
};
}  // namespace

int built_isas(const Isa* isas[MAX_ISAS]) {
  int n = 0;
  for (const Row& row : TABLE) isas[n++] = row.isa;
  return n;
}

int many_of(const Isa& isa, const ManyTable* many[MAX_ISAS]) {
  int n = 0;
#if defined(__x86_64__)
  static const ManyTable half = [] {   // AVX2's, with AVX-512's registers where one kernel makes the whole step
    ManyTable table = many_avx2;
    table.f32.hidden = hidden_avx512_256.many;
    return table;
  }();
  if (&isa == &isa_avx512) many[n++] = &many_avx512, many[n++] = &half;
  if (&isa == &isa_avx2) many[n++] = &many_avx2;
#else
  (void)isa, (void)many;
#endif
  return n;
}

const Bfloat16Kernels* bfloat16_of(const Isa& isa) {
#if defined(__x86_64__)
  static const bool found = has_avx512_bf16();
  if (&isa == &isa_avx512 && found) return &bfloat16_avx512;
#else
  (void)isa;
#endif
  return nullptr;
}

bool found(const Isa& isa) {
  for (const Row& row : TABLE)
    if (row.isa == &isa) return row.found();
  return false;
}
}  // namespace fbp
