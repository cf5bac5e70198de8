// AVX-512 with BF16: F, VL, BW, DQ, BF16. Products in bfloat16.
#if defined(__x86_64__)
#define FBP_ISA avx512
#define FBP_VECTOR_BYTES 64
#define FBP_TILE_ROWS 8
#define FBP_TILE_VECTORS 2
#define FBP_TARGET "avx512bf16,avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,bmi,bmi2"
#define FBP_BFLOAT16 bfloat16_avx512
#include "isa.hpp"
#endif
