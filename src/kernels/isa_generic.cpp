// The baseline of a platform without a file of its own: x86-64-v2 (SSE4.2) on x86.
#if !defined(__aarch64__)
#define FBP_ISA generic
#define FBP_VECTOR_BYTES 16
#define FBP_TILE_ROWS 6
#define FBP_TILE_VECTORS 2
#include "isa.hpp"
#endif
