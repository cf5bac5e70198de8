// AVX2 and FMA. Many networks at once.
#if defined(__x86_64__)
#define FBP_ISA avx2
#define FBP_VECTOR_BYTES 32
#define FBP_TILE_ROWS 6
#define FBP_TILE_VECTORS 2
#define FBP_TARGET "avx2,fma,bmi,bmi2"
#define FBP_MANY
#include "isa.hpp"
#endif
