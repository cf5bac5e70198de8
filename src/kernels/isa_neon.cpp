// NEON, which every arm64 has. 32 registers hold a taller tile than 16 do.
#if defined(__aarch64__)
#define FBP_ISA neon
#define FBP_VECTOR_BYTES 16
#define FBP_TILE_ROWS 8
#define FBP_TILE_VECTORS 2
#include "isa.hpp"
#endif
