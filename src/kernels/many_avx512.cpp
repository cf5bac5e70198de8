// AVX-512: F, VL, BW, DQ. Many networks at once.
#if defined(__x86_64__)
#define FBP_ISA avx512
#define FBP_VECTOR_BYTES 64
#define FBP_TILE_ROWS 8
#define FBP_TILE_VECTORS 2
#define FBP_TARGET "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,bmi,bmi2"
#define FBP_MANY
#include "isa.hpp"
#endif
