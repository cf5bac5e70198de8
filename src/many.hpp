// Many networks of one kind seen from the training loop: groups of them go into the lanes of vectors, make all steps of
// a call, and go back to their own buffers.
#pragma once
#include <vector>

#include "program.hpp"

namespace fbp {

// A network: what `Many` reads and moves on, as `Program::train` does for one.
struct Member {
  void* params;           // padded, as a program's
  int64_t* count;
  int64_t* place;
  double* partial;
  double* losses;         // of each epoch that ends, one after the other over all calls
  Source x, y;
  bool y_is_label;
  const double* weight;   // (rows of x,), or null
  const int64_t* rows;    // the rows trained on, or null: all
  idx n;                  // how many
  uint64_t seed;
};

struct Outcome {
  int64_t status, epochs;
};

class Many {
 public:
  virtual ~Many() {}
  // steps[k] of member which[k], with updates[k]. One that fails stays at its last finite step; the others do theirs.
  virtual void train(idx n, const int64_t* which, const int64_t* steps, const Update* updates, Outcome* outcomes) = 0;
  // sum(w l) / total of each.
  virtual void evaluate(idx n, const int64_t* which, const Source& x, const Source& y, bool y_is_label,
                        const double* weight, double total, double* losses) = 0;
  virtual void forward(idx n, const int64_t* which, const Source& x, void* out) = 0;   // out (n, rows, out)
};

// Throws std::bad_alloc. Shape: of each; its `batch` and threads are not looked at.
Many* make_many(const Isa& isa, int itemsize, const Shape& shape, const std::vector<Member>& members, idx batch_size,
                bool shuffle, bool stop_on_non_finite);
}  // namespace fbp
