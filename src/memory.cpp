#include "memory.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "platform.hpp"

namespace fbp {
namespace {
constexpr size_t LINE = 64;
constexpr size_t HUGE_PAGE = 1 << 21;
constexpr unsigned char GUARD = 0xA5;
std::atomic<int64_t> live_buffers{0}, live_bytes{0}, allocations{0};
thread_local int64_t here = 0;
std::atomic<bool> guarding{false};

// A guarded buffer: [guard bytes, at least a line][data, to the end of a page][a page that nobody may touch].
constexpr uint64_t MARK = 0x67756172646564ull;   // in the word before the data of every buffer

size_t lines(size_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

size_t pages(size_t bytes) {   // of the guard bytes and the data together
  const size_t page = page_size();
  return (LINE + lines(bytes) + page - 1) / page * page;
}

unsigned char* allocate_guarded(size_t bytes) {
  auto* start = static_cast<unsigned char*>(guarded_pages(pages(bytes)));
  if (!start) throw std::bad_alloc();
  unsigned char* data = start + pages(bytes) - lines(bytes);
  std::memset(start, GUARD, static_cast<size_t>(data - start));
  return data;
}

void deallocate_guarded(unsigned char* data, size_t bytes) {
  unsigned char* start = data + lines(bytes) - pages(bytes);
  for (unsigned char* p = start; p < data; p++)
    if (*p != GUARD) {
      std::fprintf(stderr, "fastbp: guard byte %ld before a buffer of %zu bytes was overwritten\n",
                   static_cast<long>(data - p), bytes);
      std::abort();
    }
  free_guarded_pages(start, pages(bytes));
}
}  // namespace

AllocationCounts allocation_counts() { return {live_buffers.load(), live_bytes.load(), allocations.load(), here}; }

void set_guard(bool on) { guarding = on; }
bool guarded() { return guarding; }

// A store into a line that no cache holds fetches it first, and throws out what the next step wants.
void copy_away(void* to, const void* from, size_t bytes) {
#if defined(__SSE2__)
  constexpr size_t MUCH = 1 << 17, VECTOR = sizeof(__m128i);
  if (bytes >= MUCH) {
    char* t = static_cast<char*>(to);
    const char* f = static_cast<const char*>(from);
    const size_t head = -reinterpret_cast<uintptr_t>(t) % LINE;
    std::memcpy(t, f, head);
    t += head, f += head, bytes -= head;
    for (; bytes >= LINE; t += LINE, f += LINE, bytes -= LINE)
      for (size_t k = 0; k < LINE; k += VECTOR)
        _mm_stream_si128(reinterpret_cast<__m128i*>(t + k), _mm_loadu_si128(reinterpret_cast<const __m128i*>(f + k)));
    _mm_sfence();
    to = t, from = f;
  }
#endif
  std::memcpy(to, from, bytes);
}

// Plain buffers carry a line in front, whose last word tells the two kinds apart. Large ones ask for huge pages: the
// kernels stride over more rows at once than a TLB of small pages holds.
void* allocate(size_t bytes) {
  unsigned char* data;
  if (guarding) {
    data = allocate_guarded(bytes);
  } else {
    const bool huge = bytes >= HUGE_PAGE;
    void* p = bytes > SIZE_MAX / 2 ? nullptr : aligned_memory(huge ? HUGE_PAGE : LINE, LINE + lines(bytes));
    if (!p) throw std::bad_alloc();
    if (huge) wish_for_huge_pages(p, LINE + lines(bytes));
    data = static_cast<unsigned char*>(p) + LINE;
    std::memcpy(data - sizeof MARK, &MARK, sizeof MARK);
    std::memset(data, 0, bytes);
  }
  live_buffers++, live_bytes += static_cast<int64_t>(bytes), allocations++, here += static_cast<int64_t>(bytes);
  return data;
}

void deallocate(void* p, size_t bytes) {
  auto* data = static_cast<unsigned char*>(p);
  uint64_t mark;
  std::memcpy(&mark, data - sizeof mark, sizeof mark);
  live_buffers--, live_bytes -= static_cast<int64_t>(bytes), here -= static_cast<int64_t>(bytes);
  if (mark == MARK) free_aligned_memory(data - LINE);
  else deallocate_guarded(data, bytes);
}
}  // namespace fbp
