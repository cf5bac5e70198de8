// What the environment says to fastbp.
#pragma once
#include <stdint.h>
#include <string.h>

#include "platform.hpp"

namespace fbp {

// One number for all variables that fastbp reads; one pass, where `getenv` makes one for each of them.
inline uint64_t environment_stamp() {
  uint64_t stamp = 14695981039346656037u;   // FNV-1a
  for (char** entry = environment(); entry && *entry; entry++) {
    const char* text = *entry;
    if ((text[0] != 'F' && text[0] != 'O') || (strncmp(text, "FASTBP_", 7) && strncmp(text, "OMP_NUM_THREADS=", 16)))
      continue;
    do stamp = (stamp ^ static_cast<unsigned char>(*text)) * 1099511628211u; while (*text++);
  }
  return stamp;
}
}  // namespace fbp
