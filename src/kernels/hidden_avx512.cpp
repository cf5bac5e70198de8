// AVX-512's registers and masks on 256-bit vectors: tiny networks with a hidden unit per lane that fit into these.
#if defined(__x86_64__)
#define FBP_ISA avx512_256
#define FBP_VECTOR_BYTES 32
#define FBP_TILE_ROWS 6
#define FBP_TILE_VECTORS 2
#define FBP_TARGET "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,bmi,bmi2"
#define FBP_HIDDEN
#include "isa.hpp"
#endif
