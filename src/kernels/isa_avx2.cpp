// AVX2 and FMA.
#if defined(__x86_64__)
#define FBP_ISA avx2
#define FBP_VECTOR_BYTES 32
#define FBP_TILE_ROWS 6
#define FBP_TILE_VECTORS 2
#define FBP_TARGET "avx2,fma,bmi,bmi2"
#include "isa.hpp"
#endif
