// The baseline of the platform: x86-64-v2 (SSE4.2), or 128-bit NEON on arm64.
#define FBP_ISA generic
#define FBP_VECTOR_BYTES 16
#define FBP_TILE_ROWS 6
#define FBP_TILE_VECTORS 2
#include "isa.hpp"
