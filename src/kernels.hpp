// The C++ contract: what a plan hands to the engine, what the engine asks of an ISA's kernels, and the statuses.
//
// Matrices are row-major; every leading dimension (ld...) counts elements. Each matrix that fastbp owns has rows padded
// to whole cache lines, so that kernels read and write whole vectors: padding may hold anything and reaches nothing.
// Included by the kernels of every ISA: only plain structs here, no function that a linker could merge.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace fbp {

typedef int64_t idx;
enum { MAX_SLOTS = 4, MAX_SCALARS = 10 };
enum { SINGLE_INPUTS = 128 };  // one row goes forward by sums over so many inputs, whoever makes them
enum { NARROW_OUTPUTS = 4 };   // an output layer of at most this many is NARROW; fastbp/spec.py says the same

// ------------------------------------------------------------------ row functions: pointwise, called on a hot tile
// `cols` is a number of real columns; whole vectors are touched.
template <class T> using ForwardRow = void (*)(const T* z, T* a, idx ld, idx rows, idx cols);
// delta holds dL/da on entry and dL/dz on return; z is null where the row does not use it
template <class T> using BackwardRow = void (*)(T* delta, const T* a, const T* z, idx ld, idx rows, idx cols);
// p and its slots share one layout; g is a tile with a leading dimension of its own
template <class T> using UpdateRow = void (*)(T* p, T* const* slots, idx ld, const T* g, idx ldg, idx rows, idx cols,
                                              const T* scalars);

// A user's own loss, pointwise: value and grad of n targets, whole vectors at a time. `third` is lse, or s of a loss with
// two outputs for each target, which also gets a grad_s. See src/own.hpp.
template <class T> using OwnLossRow = void (*)(const T* z, const T* t, const T* third, const T* setting, T* value,
                                               T* grad, T* grad_s, idx n);
template <class T> struct OwnLoss {
  OwnLossRow<T> row;
  bool uses_lse, pairs;
  T* scratch;             // OWN_LOSS_PARTS times the outputs of a batch, each to the end of the widest vector
};

// What may be done around any rule: to the gradient before it, with the parameters after it.
template <class T> struct Around {
  bool on;
  T scale;      // of the gradient
  T clip;       // bound of its elements
  T l1;         // gradient += l1 * sign(parameter)
  T* average;   // average = decay * average + (1 - decay) * parameter; or null
  T decay;
};

// Returns the sum over samples of share * (sum over targets of the weighted loss); grad = share * its derivative.
template <class T> struct Loss {
  idx rows, cols;         // samples, outputs
  bool transposed;        // a, t and grad are (cols, ld), else (rows, ld)
  const T* a; idx ld;
  const T* t; idx ldt;    // null where labels are given
  const int32_t* label;   // (rows,)
  const double* share;    // (rows,) and zeros to the end of the vector
  T* grad;                // null: not wanted
  const T* setting;       // the row's numbers, in the order of `Loss.numbers` of fastbp/rows/kinds.py
  // Of each target, beside its row's share: (targets of a sample,) padded with ldw 0, or laid out as t with ldw; null: 1
  // each, as always for a row with a statistic. A target of weight 0 may be NaN.
  const T* weight; idx ldw;
  const OwnLoss<T>* own;  // of `own_loss_row`
};
template <class T> using LossRow = double (*)(const Loss<T>& loss);

// ------------------------------------------------------------------ kernels: one layer, over a range of its outputs
// Ranges are what threads split, at multiples of a cache line: their outputs are complete, so the bits do not depend on
// the split.
//
// A narrow layer (see Family) is kept transposed: its weight is (out, ldw), its z, a and delta are (out, ld).
template <class T> struct Forward {    // z = x @ weight + bias, a = activation(z)
  idx rows, in, out;
  const T* x; idx ldx;                 // (rows, in); read element by element, never past the last
  const T* weight; idx ldw;            // (in, ldw)
  const T* bias;                       // (out,) padded, or null
  const int32_t* used; idx n_used;     // SINGLE: the inputs that are looked at, the others are 0
  T* partial;                          // SINGLE: scratch, (in / SINGLE_INPUTS rounded up, ld)
  T* z; T* a; idx ld;                  // (rows, ld); z == a where z is not kept
  ForwardRow<T> activation;
};
template <class T> struct GradInput {  // grad_input = delta @ weight.T, then back through the previous activation
  idx rows, in, out;
  const T* delta; idx ldd;             // (rows, ldd)
  const T* weight; idx ldw;
  T* grad_input; idx ldg;              // (rows, ldg)
  const T* a; const T* z;              // of the previous layer, (rows, ldg)
  BackwardRow<T> activation;
  T* panel;                            // scratch, max(out, ldw) * panel_columns elements
};
template <class T> struct GradWeight { // grad = x.T @ delta: stored, added, or turned into the update at once
  idx rows, in, out;
  const T* x; idx ldx;
  const T* delta; idx ldd;
  T* grad;                             // as the weight; used where `update` is null
  bool accumulate;
  UpdateRow<T> update;                 // null: unfused
  T* weight; T* slots[MAX_SLOTS];      // (in, ldw) each, or null
  idx ldw;
  const T* scalars;
  Around<T> around;                    // not looked at by rules that run in a tile's registers
  const int32_t* used; idx n_used;     // SINGLE: as in Forward; a rule with slots or decay gets all inputs
};

// How a layer is computed; `family_of` (layout.hpp) holds the rules.
enum Family {
  DIRECT,   // register tiles over the padded operands where they lie
  NARROW,   // few outputs: weight, z, a and delta are kept transposed; x must be padded too
  FEW,      // a few rows: grad_input by dot products, in one pass over the weight with the update
  SINGLE,   // one row: a pass over the weight forward, a pass for grad_input and update; inputs of 0 may be skipped
  FAMILIES,
  TINY = FAMILIES,  // a whole network narrower than a vector: one kernel, below, and none of a layer's
  ROUNDED           // register tiles over operands in bfloat16: Bfloat16Kernels, below
};
// Outputs; NARROW: rows; SINGLE: inputs, whole blocks of SINGLE_INPUTS, after which `single_finish` is due.
template <class T> using ForwardKernel = void (*)(const Forward<T>&, idx begin, idx end);
template <class T> using GradInputKernel = void (*)(const GradInput<T>&, idx begin, idx end);   // inputs
template <class T> using GradWeightKernel = void (*)(const GradWeight<T>&, idx begin, idx end); // inputs
template <class T> using GradBiasKernel = void (*)(const GradWeight<T>&);   // x = 1, one row

// An activation's row functions, and the kernels that have them in their epilogue.
template <class T> struct ActivationKernels {
  ForwardRow<T> forward;
  BackwardRow<T> backward;
  ForwardKernel<T> layer_forward[FAMILIES];
  GradInputKernel<T> layer_grad_input[FAMILIES];
};
// A whole network of layers narrower than a vector, on dense parameters: a sample per lane.
enum { TINY_WIDTH = 8 };
template <class T> struct TinyLayer {
  idx in, out;
  idx weight, bias;                             // offsets in the dense parameters; bias -1 where there is none
  T* z; T* a; T* delta;                         // (out, lanes); z == a where z is not kept
  ActivationKernels<T> activation;
};
template <class T> struct TinyBatches {           // `steps` batches of `rows` rows, one after the other
  const TinyLayer<T>* layers;
  int n_layers;
  idx n_params, rows, steps;
  T* params; T* const* slots;                   // dense
  const T* scalars; idx scalars_of_a_step;      // the latter 0 where each step has the same
  UpdateRow<T> update;
  const T* x; idx ldx;                          // (in, ldx)
  const T* t; idx ldt;                          // (out, ldt), or null where labels are given
  const int32_t* label;
  const double* share;                          // of a batch's rows, the same for each batch
  LossRow<T> loss;
  const T* setting;                             // of Loss, as the next two, which are those of a batch's rows
  const T* weight; idx ldw;
  bool stop_on_loss;
  T* products;                                  // (n_params to a whole vector, lanes): scratch
  T* gradient;                                  // (n_params to a whole vector): scratch
  const OwnLoss<T>* own_loss;
};
template <class T> using TinyKernel = idx (*)(const TinyBatches<T>& run, double* losses);

// The same for a network of one hidden layer, a hidden unit per lane. Parameters, slots and gradient lie as weight
// (in, width) with `width` lanes of whole vectors, output weight (out, width), bias (width) and output bias (one vector).
// Either of the last may be missing.
enum { HIDDEN_WIDTH = 16 };                       // inputs at most
enum { HIDDEN_SAMPLES = 8 };                      // at most, that go through it together
enum { WIDEST = 16 };                             // lanes of the widest vector
enum { HIDDEN_GROUP = 32 };                       // samples that a row is called for at once
enum HiddenActivation { HIDDEN_IDENTITY, HIDDEN_RELU, HIDDEN_TANH, HIDDEN_CALLED };
template <class T> struct HiddenRows {            // row k: data + order[k] * ld, or data + k * ld
  const T* data; idx ld;
  const uint32_t* order;
};
template <class T> struct HiddenRun {             // `steps` batches of `rows` rows, one after the other
  idx in, hidden, rows, steps;
  HiddenRows<T> x, t;                             // t.data null where labels are given
  idx targets;                                    // columns of t: fewer than outputs where a loss has several for one
  const int32_t* label;
  // Of a batch's rows, then zeros: (blocks of samples, WIDEST) of the squared error, with the loss's factor, and (rows,).
  const double *share, *row_share;
  const T* twice_share;                           // twice the former: of d*d it makes the gradient
  LossRow<T> loss;
  const T* setting;                               // of Loss, as the next two, which are those of a batch's rows
  const T* weight; idx ldw;
  const OwnLoss<T>* own_loss;
  HiddenActivation activation;
  ForwardRow<T> forward, output_forward;          // null: there is nothing to do
  BackwardRow<T> backward, output_backward;
  bool keeps_z, output_keeps_z;
  const T* kept;                                  // dropout of the hidden units, (whole blocks, WIDEST): a factor or 0; or null
  T* params; T* const* slots; T* gradient;
  idx n_params;
  idx bias, output_bias;                          // offsets, or -1
  bool sgd;                                       // the rule, which is inline then; else
  UpdateRow<T> update;                            // this
  const T* scalars; idx scalars_of_a_step;        // the latter 0 where each step has the same
  bool stop_on_loss;
};
template <class T> using HiddenKernel = idx (*)(const HiddenRun<T>& run, double* losses);
template <class T> struct HiddenKernels {
  idx lanes;                                      // of a vector
  // By outputs, from 1 on, and whether any row is called, for units in one vector and in two; or null.
  const HiddenKernel<T> (*train[2])[2];
  // Rows of the table for the same vectors, as a load of two that were just stored waits for the cache; null: the ISA's.
  const UpdateRow<T>* update;
};

// Both ways back in one: grad_input where it is wanted (null where not), then the update of the weights it has read.
template <class T> using BackwardKernel = void (*)(const GradInput<T>&, const GradWeight<T>&, idx begin, idx end);
template <class T> struct OptimizerKernels {
  UpdateRow<T> update;
  GradWeightKernel<T> layer_update[FAMILIES];
  BackwardKernel<T> layer_backward[FAMILIES];   // null: grad_input and layer_update one after the other
  TinyKernel<T> tiny_train;
};

// Dropout's words of 16 bits in a step for the inputs of a layer in a row of the batch, DROP_BLOCK at a time.
enum { DROP_BLOCK = 64 };
using DropWords = void (*)(uint64_t seed, uint64_t step, uint64_t layer, uint64_t row, idx blocks, uint16_t* words);

// Orders of the n rows of epochs, permutations of 0..n-1: the k-th, a function of seeds[k], epochs[k] and n alone, at
// orders + k * ld. See fastbp/order.py.
using EpochOrders = void (*)(const uint64_t* seeds, const uint64_t* epochs, idx count, uint32_t n, uint32_t* orders, idx ld);

template <class T> struct Kernels {
  idx tile_rows;
  idx panel_columns;                            // of a tile, and of GradInput::panel
  idx lanes;
  bool (*finite)(const T* p, idx n);
  GradWeightKernel<T> grad_weight[FAMILIES];    // stored or added
  GradBiasKernel<T> grad_bias[FAMILIES];        // updates where `update` is set
  void (*single_finish)(const Forward<T>&);
  void (*update)(const GradWeight<T>&, idx rows, idx cols);   // from a gradient in memory, which stays as it is
  OptimizerKernels<T> by_call;                  // for any rule, by its row function: with what is around it, or a user's
  double (*squares)(const T* p, idx ld, idx rows, idx cols);   // their sum
  void (*average)(const Around<T>& around, T* average, const T* p, idx ld, idx rows, idx cols);
  void (*limit_norms)(T* weight, idx ldw, idx in, idx out, bool transposed, T most);   // of each output's weights
  DropWords drop_words;
  void (*drop)(const T* x, T* out, idx n, const uint16_t* words, int threshold, T scale);
  EpochOrders epoch_orders;
  ActivationKernels<T> identity;                // its row functions are null: there is nothing to do
  const ActivationKernels<T>* activation;       // these three are indexed as the tables of fastbp/
  const LossRow<T>* loss;
  const OptimizerKernels<T>* optimizer;
  ActivationKernels<T> called_activation;       // for a user's own activation, whose row functions are put in
  HiddenKernels<T> hidden;
  const HiddenKernels<T>* narrower_hidden;      // on vectors of half the width, for as few units; or null
};

// ------------------------------------------------------------------ many networks of one kind, a network per lane
// Each parameter, unit and gradient is a vector, [element][lane]; leading dimensions and offsets count such elements.
enum { MANY_BLOCK = 8 };   // samples whose losses are summed in T, then in double
template <class T> struct ManyLayer {
  idx in, out, ld;                              // weight (in, ld); z, a and delta (samples of a block, ld)
  idx weight, bias;                             // offsets in the parameters; bias -1 where there is none
  T* z; T* a; T* delta;                         // z == a where z is not kept
  int row;                                      // of the table of activations; -1: the identity
  ForwardRow<T> forward; BackwardRow<T> backward;   // null: there is nothing to do
};
template <class T> struct ManyLoss {
  idx rows, cols, ld;                           // a, grad (rows, ld) vectors
  bool own, own_share;                          // t is a vector too, share is; else all lanes have the same numbers
  const T* a;
  const T* t; idx ldt;                          // (rows, ldt); a label where y_is_label
  bool y_is_label;
  const T* share;                               // (rows,)
  const T* setting;
  const T* weight;                              // of each target of a sample, or null
  T* grad;
};
// Adds each lane's sum of share * loss to `totals`, (lanes,).
template <class T> using ManyLossRow = void (*)(const ManyLoss<T>& loss, double* totals);
template <class T> using ManyUpdateRow = void (*)(T* p, T* const* slots, const T* g, idx n, const T* scalars);
template <class T> struct ManyRun {             // `steps` batches, one after the other
  const ManyLayer<T>* layers;
  int n_layers;
  idx n_params, block;                          // block: samples that go through the network at once
  T* params; T* const* slots; T* gradient;
  int rule;                                     // row of the table of optimizers
  ManyUpdateRow<T> update;
  const T* scalars[MAX_SCALARS];                // vectors, of the first step ...
  idx scalar_stride[MAX_SCALARS];               // ... and elements to the next one's: 0 where each step has the same
  idx steps, step_rows;                         // step_rows: from one step's rows to the next's
  const idx* rows;                              // of each step; those after them have a share of 0
  bool own, own_share;                          // as in ManyLoss, for x too
  const T* x;                                   // (step_rows, in) for each step
  const T* t; idx ldt;
  bool y_is_label;
  const T* share;                               // (step_rows,) for each step
  bool masked;                                  // there may be a NaN among the numbers of a row of share 0
  int loss_row;
  ManyLossRow<T> loss;
  const T* setting;
  const T* weight;
};
template <class T> using ManyKernel = void (*)(const ManyRun<T>& run, double* losses);   // losses (steps, lanes)
template <class T> struct ManyKernels {
  idx lanes;
  ManyKernel<T> layers;
  ManyKernel<T> (*hidden)(const ManyRun<T>& run);   // one hidden layer and one output, all in one; or null
  void (*forward)(const ManyRun<T>& run, const T* x, idx rows);   // of one block
  // Rows of each lane side by side: x[row][column][lane] = from[lane][index[lane * rows + row] * ld + column], and what
  // stands after the `in` columns of x, to `cols`, to t. `rows` is a multiple of MANY_BLOCK; ld is in whole 16 bytes.
  void (*gather)(const T* const* from, idx ld, idx in, idx cols, const uint32_t* index, idx rows, T* x, T* t);
  // totals += weights * losses: a weight for each step, or for each step and lane
  void (*sum)(const double* losses, const double* weights, bool own, idx steps, double* totals);
  const ManyLossRow<T>* loss;                   // as the tables
  const ManyUpdateRow<T>* update;
};
// ------------------------------------------------------------------ products of numbers rounded to bfloat16
// Sums are float32. Two neighbours along what is summed over lie in 32 bits, as a pair; beyond the last row or column
// there are zeros, so that a sum may end within a pair. Ranges begin at multiples of ROUNDED_COLUMNS.
enum { ROUNDED_COLUMNS = 32 };
struct Rounded {                                // a matrix in two forms
  uint16_t* row; idx ldr;                       // (rows made even, ldr): pairs along a row; null: nothing reads it
  uint32_t* pair; idx ldp;                      // (half as many, ldp): pairs of rows
};
struct Dropped {                                // dropout: as `Kernels::drop` takes it
  const uint16_t* words; idx ld;                // (rows, ld), or null: nothing is dropped
  int threshold;
  float scale;
  void (*drop)(const float* x, float* out, idx n, const uint16_t* words, int threshold, float scale);
};
struct RoundedForward {
  idx rows, in, out;
  const uint16_t* x; idx ldx;                   // Rounded::row
  const uint32_t* weight; idx ldw;              // Rounded::pair
  const float* bias;
  Rounded to;                                   // of a hidden layer: the next one's inputs
  uint16_t* kept;                               // as to.row, before dropout
  float* z; float* a; idx ld;                   // z, where it is kept, and a of the output layer
  ForwardRow<float> activation;                 // null: the identity
  Dropped dropped;
};
struct RoundedGradInput {
  idx rows, in, out;
  const uint16_t* delta; idx ldd;               // Rounded::row
  const uint32_t* weight; idx ldw;              // Rounded::pair
  uint32_t* panel;                              // scratch, out x ROUNDED_COLUMNS / 2, out to a multiple of 16
  Rounded to;                                   // the previous layer's delta
  const uint16_t* a; idx lda;                   // of the previous layer, before dropout
  const float* z; idx ldz;
  BackwardRow<float> activation;
  Dropped dropped;
};
struct RoundedGradWeight {                      // beside a GradWeight, whose x and delta these stand for
  const uint32_t* x; idx ldx;                   // Rounded::pair
  const uint32_t* delta; idx ldd;
  uint32_t* weight;                             // its pairs, which follow an update
};
using RoundedForwardKernel = void (*)(const RoundedForward&, idx begin, idx end);                // outputs
using RoundedGradInputKernel = void (*)(const RoundedGradInput&, idx begin, idx end);            // inputs
using RoundedUpdateKernel = void (*)(const RoundedGradWeight&, const GradWeight<float>&, idx begin, idx end);
struct RoundedActivation {
  RoundedForwardKernel forward;
  RoundedGradInputKernel grad_input;
};
struct Bfloat16Kernels {
  // Rows m0..m1 of x, (rows, cols), or those at the places of an order; m0 is even. `pair` is always written.
  void (*round)(const float* x, idx ldx, const uint32_t* order, idx rows, idx cols, idx m0, idx m1, const Rounded& to);
  RoundedForwardKernel output;
  RoundedActivation identity, called;           // called: by row functions, with dropout
  const RoundedActivation* activation;          // these two are indexed as the tables of fastbp/
  const RoundedUpdateKernel* optimizer;
  RoundedUpdateKernel by_call, grad_weight;     // the latter stores, or adds
  void (*grad_bias)(const RoundedGradWeight&, const GradWeight<float>&);
};

struct Isa {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
};

struct HiddenTable {
  HiddenKernels<float> f32;
  HiddenKernels<double> f64;
  ManyKernel<float> (*many)(const ManyRun<float>& run);   // ManyKernels<float>::hidden
};

struct ManyTable {
  const Isa* isa;                               // with vectors as wide
  ManyKernels<float> f32;
  ManyKernels<double> f64;
};

#if defined(__aarch64__)
extern const Isa isa_neon;
#else
extern const Isa isa_generic;
#endif
#if defined(__x86_64__)
extern const Isa isa_avx2, isa_avx512;
extern const ManyTable many_avx2, many_avx512;
extern const Bfloat16Kernels bfloat16_avx512;
extern const HiddenTable hidden_avx512_256;
#endif
}  // namespace fbp
