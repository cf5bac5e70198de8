#include "memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace fbp {
namespace {
constexpr size_t LINE = 64;
constexpr size_t HUGE_PAGE = 1 << 21;
constexpr unsigned char GUARD = 0xA5;
std::atomic<int64_t> live_buffers{0}, live_bytes{0}, allocations{0};
thread_local int64_t here = 0;
std::atomic<bool> guarding{false};

// A guarded buffer: [guard bytes, at least a line][data, to the end of a page][unmapped page]. The first line of the
// mapping holds its length, so that a buffer knows how to be freed whatever `guarding` says by then.
struct Guarded {
  unsigned char* base;
  size_t mapped;
};
constexpr uint64_t MARK = 0x67756172646564ull;   // in the word before the data of every buffer

size_t lines(size_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

unsigned char* allocate_guarded(size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t used = (2 * LINE + lines(bytes) + page - 1) / page * page;
  void* base = mmap(nullptr, used + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) throw std::bad_alloc();
  auto* start = static_cast<unsigned char*>(base);
  mprotect(start + used, page, PROT_NONE);
  unsigned char* data = start + used - lines(bytes);
  std::memset(start, GUARD, static_cast<size_t>(data - start));
  const Guarded head{start, used + page};
  std::memcpy(start, &head, sizeof head);
  return data;
}

void deallocate_guarded(unsigned char* data, size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t used = (2 * LINE + lines(bytes) + page - 1) / page * page;
  unsigned char* start = data + lines(bytes) - used;
  Guarded head;
  std::memcpy(&head, start, sizeof head);
  for (unsigned char* p = start + sizeof head; p < data; p++)
    if (*p != GUARD) {
      std::fprintf(stderr, "fastbp: guard byte %ld before a buffer of %zu bytes was overwritten\n",
                   static_cast<long>(data - p), bytes);
      std::abort();
    }
  munmap(head.base, head.mapped);
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
    void* p = nullptr;
    const bool huge = bytes >= HUGE_PAGE;
    const size_t alignment = huge ? HUGE_PAGE : LINE;
    if (bytes > SIZE_MAX / 2 || posix_memalign(&p, alignment, LINE + lines(bytes))) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (huge) madvise(p, LINE + lines(bytes), MADV_HUGEPAGE);   // a wish: what it answers does not matter
#endif
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
  if (mark == MARK) std::free(data - LINE);
  else deallocate_guarded(data, bytes);
}
}  // namespace fbp
