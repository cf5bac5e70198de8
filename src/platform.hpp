// All that the engine asks of an operating system and of its compilers: Linux and macOS, and Windows with clang-cl.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(__APPLE__)
#include <crt_externs.h>
#elif defined(_WIN32)
#include <stdlib.h>
#else
extern "C" char** environ;
#endif

// Seen from outside of the compiled module, where all else is hidden.
#if defined(_WIN32)
#define FBP_EXPORT __declspec(dllexport)
#else
#define FBP_EXPORT __attribute__((visibility("default")))
#endif

namespace fbp {

// "NAME=value" each, up to a null pointer; may itself be one.
inline char** environment() {
#if defined(__APPLE__)
  return *_NSGetEnviron();
#elif defined(_WIN32)
  return _environ;
#else
  return environ;
#endif
}

// Memory, a null pointer where there is none.
void* aligned_memory(size_t alignment, size_t bytes);
void free_aligned_memory(void* p);
void wish_for_huge_pages(void* p, size_t bytes);   // a wish: nobody says whether it came true

// Whole pages, zeroed, and behind them one that nobody may touch; a null pointer where there are none.
size_t page_size();
void* guarded_pages(size_t bytes);
void free_guarded_pages(void* p, size_t bytes);

// Runs f(argument) on a thread that nobody waits for and that takes no signals; whether it could be started.
bool start_thread(void (*f)(void*), void* argument, size_t stack);

// The number of this process, which differs in the child of a fork; f is called there first of all. Windows has no forks.
int64_t process_number();
void after_fork(void (*f)());
}  // namespace fbp
