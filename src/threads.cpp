#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <climits>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <new>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "platform.hpp"

namespace fbp {
namespace {
constexpr int LOOKS_BEFORE_SLEEP = 4000;   // for something to do: 50 to 200 microseconds
constexpr int LOOKS_BEFORE_YIELD = 2000;   // for others to be done, before they get the core
constexpr size_t STACK = 1 << 20;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

enum State { IDLE, OFFERED, TAKEN };

// Where a worker finds its part of a phase. All of it on one line, that travels from the caller to the worker and back.
struct alignas(64) Desk {
  typedef void (*Part)(const void* f, int part);
  std::atomic<State> state{IDLE};
  Part part = nullptr;                 // both are read by who has taken the part
  const void* f = nullptr;

  bool take() {
    State offered = OFFERED;
    return state.load(std::memory_order_relaxed) == OFFERED &&
           state.compare_exchange_strong(offered, TAKEN, std::memory_order_acquire);
  }
};

struct Pool {
  Desk desks[MAX_THREADS];             // of workers 1, 2, ...; the caller, who does part 0, has none
  alignas(64) std::atomic<uint64_t> asleep{0};   // a bit for each worker
  std::atomic<bool> taken{false};      // by a Team, which alone changes the next two
  int workers = 0, refused_at = MAX_THREADS;
  int64_t process = 0;
  std::mutex mutex;
  std::condition_variable wake[MAX_THREADS];

  void run(int threads, int parts, Desk::Part part, const void* f) {
    const int offered = std::min({threads, workers + 1, parts});
    for (int k = 1; k < offered; k++) {
      desks[k].part = part;
      desks[k].f = f;
      desks[k].state.store(OFFERED, std::memory_order_release);
    }
    // Who goes to sleep at this very moment may be overlooked: then its part is done below, and it is woken next time.
    const uint64_t sleepers = asleep.load(std::memory_order_relaxed);
    for (int k = 1; sleepers && k < offered; k++)
      if (sleepers >> k & 1) {
        std::lock_guard<std::mutex> lock(mutex);
        wake[k].notify_one();
      }
    part(f, 0);
    for (int k = 1; k < parts; k++)
      if (k >= offered || desks[k].take()) {
        part(f, k);
        if (k < offered) desks[k].state.store(IDLE, std::memory_order_relaxed);
      }
    for (int k = 1, looks = 0; k < offered; k++)
      while (desks[k].state.load(std::memory_order_acquire) != IDLE)
        looks++ < LOOKS_BEFORE_YIELD ? pause() : std::this_thread::yield();
  }

  void work(int me) {
    Desk& desk = desks[me];
    for (;;) {
      for (int looks = 0; looks < LOOKS_BEFORE_SLEEP; looks++) {
        if (desk.take()) {
          desk.part(desk.f, me);
          desk.state.store(IDLE, std::memory_order_release);
          looks = 0;
        }
        pause();
      }
      std::unique_lock<std::mutex> lock(mutex);
      asleep.fetch_or(uint64_t{1} << me);
      wake[me].wait(lock, [&] { return desk.state.load() == OFFERED; });
      asleep.fetch_and(~(uint64_t{1} << me));
    }
  }

  void start(int threads) {
    while (workers + 1 < threads && workers + 1 < refused_at) {
      if (start_one(workers + 1)) workers++;
      else refused_at = workers + 1;
    }
  }
  bool start_one(int me);
};

// Never destroyed: threads may be at work when the process ends.
alignas(Pool) unsigned char storage[sizeof(Pool)];
Pool& pool = *reinterpret_cast<Pool*>(storage);
std::atomic<int> limit{INT_MAX};
std::atomic<bool> refused{false};

void renew() {   // the child of a fork has none of the threads, and whatever state they left
  new (storage) Pool;
  pool.process = process_number();
}
const bool made = (renew(), after_fork(renew), true);

void worker(void* me) { pool.work(static_cast<int>(reinterpret_cast<intptr_t>(me))); }
}  // namespace

bool Pool::start_one(int me) {
  const bool started = start_thread(worker, reinterpret_cast<void*>(static_cast<intptr_t>(me)), STACK);
  if (!started) refused = true;
  return started;
}

// By this name threadpoolctl's controller knows the library from others that are called so (fastbp/threads.py).
extern "C" FBP_EXPORT int fastbp_thread_limit() { return thread_limit(); }

void limit_threads(int most) { limit = most; }
int thread_limit() { return limit.load(std::memory_order_relaxed); }
bool threads_were_refused() { return refused.exchange(false); }

void Team::run(int parts, Part part, const void* f) {
  const int threads = std::min(parts, thread_limit());
  if (state_ == UNDECIDED && threads > 1) {
    if (pool.process != process_number()) renew();   // a fork that ran no handlers
    state_ = pool.taken.exchange(true, std::memory_order_acquire) ? ALONE : HAS_THE_POOL;
  }
  if (state_ == HAS_THE_POOL && threads > 1) {
    pool.start(threads);
    pool.run(threads, parts, part, f);
  } else {
    for (int k = 0; k < parts; k++) part(f, k);
  }
}

Team::~Team() {
  if (state_ == HAS_THE_POOL) pool.taken.store(false, std::memory_order_release);
}
}  // namespace fbp
