// The pool: threads of our own that share the work of one call. Not OpenMP: a second OpenMP runtime slows or stops
// others, and GNU's hangs after a fork.
//
// A phase is cut into parts, and each thread is offered one, the same each time: so it meets what it left in its cache.
// The caller does its own and then takes back whatever has not been begun: nobody waits for a thread that is asleep, or
// whose core works for another process. Which thread computes a part changes no bit of it.
#pragma once

namespace fbp {

enum { MAX_THREADS = 64 };

// No call uses more threads from here on; what threadpoolctl sets.
void limit_threads(int most);
int thread_limit();

// Whether a thread could not be started since this was asked last.
bool threads_were_refused();

// The threads of one call: the pool's, from the first phase of several parts on, unless another call has them; then the
// calling thread does every part by itself.
class Team {
 public:
  Team() = default;
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  // f(part) for each part of 0..parts, and back when all are done. No two calls at once, none from inside.
  template <class F> void run(int parts, const F& f) {
    run(parts, [](const void* f, int part) { (*static_cast<const F*>(f))(part); }, &f);
  }

 private:
  typedef void (*Part)(const void* f, int part);
  void run(int parts, Part part, const void* f);
  enum { UNDECIDED, HAS_THE_POOL, ALONE } state_ = UNDECIDED;
};
}  // namespace fbp
