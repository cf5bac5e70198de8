#include "platform.hpp"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <malloc.h>
#include <process.h>
#include <windows.h>
#else
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <new>

namespace fbp {
namespace {
struct Start {   // what a new thread is handed, and frees
  void (*f)(void*);
  void* argument;
};

void run(void* given) {
  const Start start = *static_cast<Start*>(given);
  delete static_cast<Start*>(given);
  start.f(start.argument);
}
}  // namespace

#if defined(_WIN32)

void* aligned_memory(size_t alignment, size_t bytes) { return _aligned_malloc(bytes, alignment); }
void free_aligned_memory(void* p) { _aligned_free(p); }
void wish_for_huge_pages(void*, size_t) {}   // they take a privilege that programs do not have

size_t page_size() {
  SYSTEM_INFO info;
  GetSystemInfo(&info);
  return info.dwPageSize;
}

void* guarded_pages(size_t bytes) {   // the last page is reserved alone
  void* p = VirtualAlloc(nullptr, bytes + page_size(), MEM_RESERVE, PAGE_NOACCESS);
  if (!p || VirtualAlloc(p, bytes, MEM_COMMIT, PAGE_READWRITE)) return p;
  VirtualFree(p, 0, MEM_RELEASE);
  return nullptr;
}
void free_guarded_pages(void* p, size_t) { VirtualFree(p, 0, MEM_RELEASE); }

bool start_thread(void (*f)(void*), void* argument, size_t stack) {
  auto* start = new (std::nothrow) Start{f, argument};
  if (!start) return false;
  const auto call = [](void* given) -> unsigned { return run(given), 0; };
  const uintptr_t thread = _beginthreadex(nullptr, static_cast<unsigned>(stack), call, start,
                                          STACK_SIZE_PARAM_IS_A_RESERVATION, nullptr);
  if (thread) CloseHandle(reinterpret_cast<HANDLE>(thread));
  else delete start;
  return thread;
}

int64_t process_number() { return static_cast<int64_t>(GetCurrentProcessId()); }
void after_fork(void (*)()) {}

#else

void* aligned_memory(size_t alignment, size_t bytes) {
  void* p = nullptr;
  return posix_memalign(&p, alignment, bytes) ? nullptr : p;
}
void free_aligned_memory(void* p) { free(p); }

void wish_for_huge_pages(void* p, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  madvise(p, bytes, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

size_t page_size() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

void* guarded_pages(size_t bytes) {
  void* p = mmap(nullptr, bytes + page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  mprotect(static_cast<char*>(p) + bytes, page_size(), PROT_NONE);
  return p;
}
void free_guarded_pages(void* p, size_t bytes) { munmap(p, bytes + page_size()); }

bool start_thread(void (*f)(void*), void* argument, size_t stack) {
  auto* start = new (std::nothrow) Start{f, argument};
  if (!start) return false;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, stack);
  sigset_t all, before;   // signals are for the threads of Python
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const auto call = [](void* given) -> void* { return run(given), nullptr; };
  const bool started = !pthread_create(&thread, &attributes, call, start);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (!started) delete start;
  return started;
}

int64_t process_number() { return getpid(); }
void after_fork(void (*f)()) { pthread_atfork(nullptr, nullptr, f); }

#endif
}  // namespace fbp
