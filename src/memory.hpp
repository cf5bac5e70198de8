// The one allocator of the engine: counted, on cache lines, zeroed. Nothing is allocated while steps run.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace fbp {

struct AllocationCounts {
  int64_t live_buffers, live_bytes, allocations;   // the last one never falls
  int64_t here;                                    // bytes that the calling thread took, less what it gave back
};
AllocationCounts allocation_counts();

// For tests: from here on each buffer ends right before an unmapped page and begins after guard bytes, which are
// checked when it is freed; a broken guard aborts the process.
void set_guard(bool on);
bool guarded();

// As memcpy, past the caches where there is much: for what is hardly ever read again.
void copy_away(void* to, const void* from, size_t bytes);

void* allocate(size_t bytes);             // throws std::bad_alloc
void deallocate(void* p, size_t bytes);

template <class T> class Buffer {
 public:
  explicit Buffer(size_t size = 0) : size_(size), data_(size ? static_cast<T*>(allocate(size * sizeof(T))) : nullptr) {}
  Buffer(Buffer&& other) noexcept : size_(other.size_), data_(other.data_) { other.data_ = nullptr; }
  Buffer& operator=(Buffer&& other) noexcept {
    T* data = data_; size_t size = size_;
    data_ = other.data_; size_ = other.size_;
    other.data_ = data; other.size_ = size;
    return *this;
  }
  ~Buffer() { if (data_) deallocate(data_, size_ * sizeof(T)); }
  T* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  size_t size_;
  T* data_;
};

// A buffer that several owners work in, one at a time; it lives as long as any of them.
template <class T> class Shared {
 public:
  explicit Shared(size_t size = 0) : buffer_(size ? std::make_shared<Buffer<T>>(size) : nullptr) {}
  // The other's where that has the size that is wanted, else one of its own.
  Shared(size_t size, const Shared* other) : Shared(other && other->size() == size ? *other : Shared(size)) {}
  T* data() const { return buffer_ ? buffer_->data() : nullptr; }
  size_t size() const { return buffer_ ? buffer_->size() : 0; }

 private:
  std::shared_ptr<Buffer<T>> buffer_;
};
}  // namespace fbp
