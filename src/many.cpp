#include "many.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "dispatch.hpp"
#include "layout.hpp"
#include "memory.hpp"
#include "own.hpp"

namespace fbp {
namespace {

constexpr idx MAX_LANES = 16;
constexpr idx MAX_STRETCH = 256;         // steps of a call of a kernel
constexpr idx BLOCK = 32;                // samples that go through a network at once; its bits depend on it
constexpr idx ROWS_BYTES = 32 << 10;     // of the rows gathered for a stretch, unless a step has more
constexpr idx RECORDS_BYTES = 32 << 20;  // of copies of members' rows, which are kept from call to call
constexpr idx PREFETCH_ROWS = 16;        // so long before they are copied,
constexpr idx NEAR_BYTES = 128 << 10;    // unless all of them are no more than this
constexpr idx COMPANY_BYTES = 512 << 10; // of parameters and slots of the groups that share them
constexpr idx COMPANY_GROUPS = 64;
constexpr idx MOST_ORDERS = 16, ORDER_ROWS = 1 << 15;   // epochs whose orders are made at once, unless they are long

template <class T> const ManyKernels<T>& many_kernels_of(const ManyTable& table);
template <> const ManyKernels<float>& many_kernels_of(const ManyTable& table) { return table.f32; }
template <> const ManyKernels<double>& many_kernels_of(const ManyTable& table) { return table.f64; }

bool same_source(const Source& a, const Source& b) {
  return a.data == b.data && a.rows == b.rows && a.cols == b.cols && a.row_stride == b.row_stride &&
         a.col_stride == b.col_stride && a.kind == b.kind && a.itemsize == b.itemsize && a.swapped == b.swapped;
}

// Whether the source holds rows of T as they are.
template <class T> bool is_plain(const Source& s) {
  const idx size = sizeof(T);
  return s.kind == 'f' && s.itemsize == size && !s.swapped && (s.cols == 1 || s.col_stride == size) &&
         s.row_stride % size == 0 && reinterpret_cast<uintptr_t>(s.data) % static_cast<uintptr_t>(size) == 0;
}

idx most_rows(const std::vector<Member>& members) {
  idx most = 1;
  for (const Member& member : members) most = std::max(most, member.n);
  return most;
}

bool same_rows(const Member& a, const Member& b) {
  return a.x.data == b.x.data && same_source(a.x, b.x) && same_source(a.y, b.y) && a.y_is_label == b.y_is_label &&
         a.rows == b.rows && a.n == b.n;
}

// Of rows that lie as T, and are far away where the caches may not hold them: `in` columns, or `width` and one target.
template <class T, idx width>
void copy_plain(const Member& m, const uint32_t* index, idx count, T* to_x, idx ldx, T* to_t, idx ldt) {
  const Source &x = m.x, &y = m.y;
  const idx in = width ? width : x.cols, out = width ? 1 : y.cols, x_bytes = in * static_cast<idx>(sizeof(T));
  const bool is_far = index && x.rows * std::abs(x.row_stride) > NEAR_BYTES;
  for (idx i = 0; i < count; i++, to_x += ldx, to_t += ldt) {
    if (is_far && i + PREFETCH_ROWS < count) {
      const idx row = index[i + PREFETCH_ROWS];
      const char* const next = x.data + row * x.row_stride;
      for (idx at = 0; at < x_bytes; at += 64) __builtin_prefetch(next + at);
      __builtin_prefetch(next + x_bytes - 1);
      __builtin_prefetch(y.data + row * y.row_stride);
    }
    const idx row = index ? index[i] : i;
    const T* const of_x = reinterpret_cast<const T*>(x.data + row * x.row_stride);
    const T* const of_y = reinterpret_cast<const T*>(y.data + row * y.row_stride);
    if constexpr (width > 0) std::memcpy(to_x, of_x, width * sizeof(T));   // in a register
    else std::copy_n(of_x, in, to_x);
    for (idx n = 0; n < out; n++) to_t[n] = of_y[n];
  }
}

// Rows `index` of a member's x and y, or the first ones: x[row * ldx + column], t[row * ldt + column].
template <class T> void copy_rows(const Member& m, const uint32_t* index, idx count, T* to_x, idx ldx, T* to_t, idx ldt) {
  const Source &x = m.x, &y = m.y;
  if (!is_plain<T>(x) || !is_plain<T>(y)) {
    gather_rows(x, to_x, ldx, 0, index, count);
    return gather_rows(y, to_t, ldt, 0, index, count);
  }
  typedef void (*Copy)(const Member&, const uint32_t*, idx, T*, idx, T*, idx);
  constexpr Copy narrow[] = {copy_plain<T, 1>, copy_plain<T, 2>, copy_plain<T, 3>, copy_plain<T, 4>};
  (y.cols == 1 && x.cols <= 4 ? narrow[x.cols - 1] : copy_plain<T, 0>)(m, index, count, to_x, ldx, to_t, ldt);
}

template <class E> void at_least(Buffer<E>* buffer, idx size) {
  if (static_cast<idx>(buffer->size()) < size) *buffer = Buffer<E>(size);
}

idx odd(idx n) { return n % 8 ? n : n + 1; }   // rows 4096 bytes apart would share their lines' sets of the L1 cache

// Orders of the epochs that a lane comes to, some at a time.
class Orders {
 public:
  const uint32_t* of(EpochOrders make, uint64_t seed, int64_t epoch, idx n, idx epochs_left) {
    if (seed != seed_ || n != n_ || epoch < first_ || epoch >= first_ + count_) {
      seed_ = seed, n_ = n, first_ = epoch;
      count_ = std::max<idx>(1, std::min({MOST_ORDERS, ORDER_ROWS / n, epochs_left}));
      at_least(&rows_, count_ * n);
      uint64_t seeds[MOST_ORDERS], epochs[MOST_ORDERS];
      for (idx k = 0; k < count_; k++) seeds[k] = seed, epochs[k] = static_cast<uint64_t>(epoch + k);
      make(seeds, epochs, count_, static_cast<uint32_t>(n), rows_.data(), n);
    }
    return rows_.data() + (epoch - first_) * n;
  }

 private:
  uint64_t seed_ = 0;
  idx n_ = -1, count_ = 0;
  int64_t first_ = 0;
  Buffer<uint32_t> rows_;
};

// A network in its lane, during a call.
struct Lane {
  const Member* member;
  const Update* update;
  idx* finished;              // epochs of the member over all calls
  Outcome* outcome;
  idx steps, done;            // wanted, done
  int64_t epoch, start;       // of the next batch
  double rows_seen;           // of the epoch begun
  idx epochs;                 // that ended
  bool active, finite;

  idx left() const { return steps - done; }
  idx rows(idx batch_size) const { return std::min(batch_size, member->n - start); }
  idx steps_to_end(idx batch_size) const { return (member->n - start + batch_size - 1) / batch_size; }
};

// Whether two lanes are at one place of the same rows in the same order.
bool in_step(const Lane& one, const Lane& other, bool shuffle) {
  const Member &a = *one.member, &b = *other.member;
  return same_rows(a, b) && a.weight == b.weight && one.start == other.start &&
         (!shuffle || (a.seed == b.seed && one.epoch == other.epoch));
}

template <class T> struct Group {
  const ManyTable* table;
  std::vector<Lane> lanes;
  T *params, *slots[MAX_SLOTS];
  double partial[MAX_LANES];   // sums of loss * rows of the epoch begun
  idx active;
};

template <class T> class Networks final : public Many {
 public:
  Networks(const Isa& isa, const Shape& shape, const std::vector<Member>& members, idx batch_size, bool shuffle,
           bool stop_on_non_finite);
  void train(idx n, const int64_t* which, const int64_t* steps, const Update* updates, Outcome* outcomes) override;
  void evaluate(idx n, const int64_t* which, const Source& x, const Source& y, bool y_is_label, const double* weight,
                double total, double* losses) override;
  void forward(idx n, const int64_t* which, const Source& x, void* out) override;

 private:
  typedef std::vector<Group<T>> Groups;
  template <class Copy> void each_parameter(Copy copy) const;
  template <class F> void each_group(idx n, F f) const;
  const ManyKernels<T>& bind(const ManyTable& table);
  void enter(T* to, int lane, const void* params) const;
  void leave(const T* from, int lane, void* params) const;
  bool finite(const T* params, int lane) const;
  void enter_all(idx first, idx end, const int64_t* which);

  void train_company(Group<T>* groups, idx n_groups, bool own, bool careful);
  void plan_rows(const Group<T>* groups, idx n_groups, idx steps, bool uniform);
  void gather(const Group<T>& group, idx steps, bool own, bool own_share);
  void fill_index(const Lane& lane, Orders* orders, idx steps, uint32_t* to) const;
  void fill_share(const Lane& lane, idx steps, const uint32_t* index, T* to, idx width) const;
  void make_records(const Group<T>& group);
  void set_scalars(const Group<T>& group, idx steps, ManyRun<T>* run);
  void account(Group<T>* group, const ManyKernels<T>& kernels, idx steps, bool uniform);

  std::vector<const ManyTable*> tables_;      // the widest vectors first
  const EpochOrders epoch_orders_;
  const std::vector<LayerShape> shapes_;
  const std::vector<Member> members_;
  std::vector<idx> finished_;
  const idx batch_size_;
  const bool shuffle_, stop_;
  const double loss_scale_;
  const int loss_row_;
  Buffer<T> setting_, output_weight_;
  std::vector<ManyLayer<T>> layers_;
  const ManyTable* bound_ = nullptr;          // what layers_ and lanes_ are bound for
  idx n_params_ = 0, lanes_ = 0;
  Buffer<T> units_, gradient_;
  Buffer<T> params_, slots_[MAX_SLOTS], scalars_;   // of all groups of a company
  // of a stretch
  Buffer<T> x_, t_, share_;
  Buffer<uint32_t> index_;                    // of each lane
  // of lanes with rows of their own: x and y of a row side by side, a record of whole 16 bytes
  idx record_ = 0;                            // elements of one
  const T* records_of_[MAX_LANES];            // of a lane: of all its rows, or of a stretch's
  bool all_records_ = false;                  // which of the two
  Buffer<T> of_stretch_, kept_;
  idx kept_size_ = 0, kept_rows_ = 0;         // room in kept_, taken from its start on
  std::vector<idx> owner_, kept_at_;          // of a member: the first one with the same rows; where its rows are, or -1
  Buffer<uint32_t> sequence_;                 // 0, 1, 2, ...
  std::vector<idx> rows_;
  idx step_rows_ = 0;
  Buffer<double> losses_, weights_;           // weights of the losses in an epoch's mean
  Orders orders_[MAX_LANES];
};

template <class T>
Networks<T>::Networks(const Isa& isa, const Shape& shape, const std::vector<Member>& members, idx batch_size,
                      bool shuffle, bool stop_on_non_finite)
    : epoch_orders_(kernels_of<T>(isa).epoch_orders), shapes_(shape.layers, shape.layers + shape.n_layers),
      members_(members), finished_(members.size()), batch_size_(std::min(batch_size, most_rows(members))), shuffle_(shuffle),
      stop_(stop_on_non_finite), loss_scale_(shape.loss_scale), loss_row_(shape.loss),
      setting_(shape.n_settings + 1), output_weight_(shape.n_output_weights), rows_(MAX_STRETCH) {
  const ManyTable* tables[MAX_ISAS];
  const int n = many_of(isa, tables);
  tables_.assign(tables, tables + n);
  for (idx i = 0; i < shape.n_settings; i++) setting_.data()[i] = static_cast<T>(shape.settings[i]);
  for (idx i = 0; i < shape.n_output_weights; i++) output_weight_.data()[i] = static_cast<T>(shape.output_weights[i]);
  idx units = 0;
  for (const LayerShape& s : shapes_) {
    ManyLayer<T> layer{s.in, s.out, odd(s.out), n_params_, -1, nullptr, nullptr, nullptr, s.activation, nullptr,
                       nullptr};
    n_params_ += s.in * layer.ld;
    if (s.bias >= 0) {
      layer.bias = n_params_;
      n_params_ += layer.ld;
    }
    units += (s.keeps_z ? 3 : 2) * layer.ld;
    layers_.push_back(layer);
  }
  units_ = Buffer<T>(BLOCK * units * MAX_LANES);
  gradient_ = Buffer<T>(n_params_ * MAX_LANES);
  scalars_ = Buffer<T>(MAX_STRETCH * MAX_SCALARS * MAX_LANES);
  losses_ = Buffer<double>(MAX_STRETCH * MAX_LANES);
  weights_ = Buffer<double>(MAX_STRETCH * MAX_LANES);
}

// ------------------------------------------------------------------ members and lanes

// copy(place of the vector, padded offset) for every parameter
template <class T> template <class Copy> void Networks<T>::each_parameter(Copy copy) const {
  for (size_t l = 0; l < layers_.size(); l++) {
    const LayerShape& s = shapes_[l];
    const ManyLayer<T>& layer = layers_[l];
    for (idx i = 0; i < s.in; i++)
      for (idx j = 0; j < s.out; j++)
        copy((layer.weight + i * layer.ld + j) * lanes_, s.weight + (s.transposed ? j * s.ldw + i : i * s.ldw + j));
    if (s.bias >= 0)
      for (idx j = 0; j < s.out; j++) copy((layer.bias + j) * lanes_, s.bias + j);
  }
}
template <class T> void Networks<T>::enter(T* to, int lane, const void* params) const {
  const T* const from = static_cast<const T*>(params);
  to += lane;
  each_parameter([=](idx at, idx padded) { to[at] = from[padded]; });
}
template <class T> void Networks<T>::leave(const T* from, int lane, void* params) const {
  T* const to = static_cast<T*>(params);
  from += lane;
  each_parameter([=](idx at, idx padded) { to[padded] = from[at]; });
}
template <class T> bool Networks<T>::finite(const T* params, int lane) const {
  T nothing = 0;
  params += lane;
  each_parameter([&](idx at, idx) { nothing += params[at] - params[at]; });
  return nothing == 0;
}

template <class T> const ManyKernels<T>& Networks<T>::bind(const ManyTable& table) {
  const ManyKernels<T>& kernels = many_kernels_of<T>(table);
  if (bound_ == &table) return kernels;
  bound_ = &table;
  lanes_ = kernels.lanes;
  T* unit = units_.data();
  const auto take = [&](idx n) { return (unit += n * BLOCK * lanes_) - n * BLOCK * lanes_; };
  for (size_t l = 0; l < layers_.size(); l++) {
    ManyLayer<T>& layer = layers_[l];
    layer.a = take(layer.ld);
    layer.delta = take(layer.ld);
    layer.z = shapes_[l].keeps_z ? take(layer.ld) : layer.a;
    const ActivationKernels<T>& activation = activation_of(kernels_of<T>(*table.isa), shapes_[l]);
    layer.forward = activation.forward;
    layer.backward = activation.backward;
  }
  return kernels;
}

// f(table, first, end) for groups of n networks: whole vectors, and for at most half of one those of half the width.
template <class T> template <class F> void Networks<T>::each_group(idx n, F f) const {
  for (idx first = 0, end; first < n; first = end) {
    size_t t = 0;
    while (t + 1 < tables_.size() && n - first <= many_kernels_of<T>(*tables_[t + 1]).lanes) t++;
    end = std::min(n, first + many_kernels_of<T>(*tables_[t]).lanes);
    f(*tables_[t], first, end);
  }
}

// ------------------------------------------------------------------ training

template <class T>
void Networks<T>::train(idx n, const int64_t* which, const int64_t* steps, const Update* updates, Outcome* outcomes) {
  const auto lane_of = [&](idx k) {
    const Member& m = members_[which[k]];
    return Lane{&m, &updates[k], &finished_[which[k]], &outcomes[k], steps[k], 0, m.place[0], m.place[1], m.partial[1],
                0, false, true};
  };
  // rows without weights have a short way through the loss, so those with weights keep apart from them
  std::vector<idx> order(n);
  std::iota(order.begin(), order.end(), 0);
  const idx plain = std::stable_partition(order.begin(), order.end(), [&](idx k) { return !members_[which[k]].weight; }) -
                    order.begin();
  Groups groups;
  const auto add = [&](idx begin, idx count) {
    each_group(count, [&](const ManyTable& table, idx first, idx end) {
      groups.push_back({&table, {}, nullptr, {}, {}, 0});
      for (idx k = first; k < end; k++) groups.back().lanes.push_back(lane_of(order[begin + k]));
    });
  };
  add(0, plain);
  add(plain, n - plain);
  const auto in_step_with = [&](const Lane& one, const Group<T>& group) {
    return std::all_of(group.lanes.begin(), group.lanes.end(),
                       [&](const Lane& lane) { return in_step(one, lane, shuffle_); });
  };
  idx buffers = 1, k = 0;
  for (void* slot : updates[0].slots) buffers += slot != nullptr;
  const idx bytes = buffers * n_params_ * MAX_LANES * static_cast<idx>(sizeof(float));
  const idx most = std::max<idx>(1, std::min(COMPANY_GROUPS, COMPANY_BYTES / bytes));
  for (size_t first = 0, end; first < groups.size(); first = end) {
    const Lane one = groups[first].lanes[0];
    const bool shared = in_step_with(one, groups[first]);
    end = first + 1;
    if (shared)
      while (end < groups.size() && static_cast<idx>(end - first) < most && in_step_with(one, groups[end])) end++;
    train_company(&groups[first], static_cast<idx>(end - first), !shared, false);
    for (size_t g = first; g < end; g++)
      for (const Lane& lane : groups[g].lanes) {
        if (!lane.finite) {   // nothing of it was left: once more by itself
          Group<T> alone{tables_.back(), {lane_of(order[k])}, nullptr, {}, {}, 0};
          train_company(&alone, 1, false, true);
        }
        k++;
      }
  }
}

// All steps of groups that read the same rows, or of one group whose lanes have their own. `careful`: a single lane, which
// is known to fail, up to its last finite step.
template <class T> void Networks<T>::train_company(Group<T>* groups, idx n_groups, bool own, bool careful) {
  const Update& any = *groups[0].lanes[0].update;
  const Member& data = *groups[0].lanes[0].member;
  const idx size = n_params_ * MAX_LANES, in = shapes_.front().in, ldt = data.y.cols;
  const bool one_step = careful && stop_;
  at_least(&params_, n_groups * size);
  for (int s = 0; s < MAX_SLOTS; s++)
    if (any.slots[s]) at_least(&slots_[s], n_groups * size);
  bool uniform = true, masked = false;   // lanes are at one place of as many rows; rows have weights
  idx most_rows = 0, left = 0;
  const Lane* first_lane = nullptr;
  for (idx g = 0; g < n_groups; g++) {
    Group<T>& group = groups[g];
    bind(*group.table);
    group.params = params_.data() + g * size;
    std::fill_n(group.params, size, T{});
    for (int s = 0; s < MAX_SLOTS; s++) {
      group.slots[s] = any.slots[s] ? slots_[s].data() + g * size : nullptr;
      if (group.slots[s]) std::fill_n(group.slots[s], size, T{});
    }
    std::fill_n(group.partial, MAX_LANES, 0.0);
    for (size_t l = 0; l < group.lanes.size(); l++) {
      Lane& lane = group.lanes[l];
      *lane.outcome = {DONE, 0};
      if (!lane.steps) continue;
      if (!first_lane) first_lane = &lane;
      uniform = uniform && lane.member->n == first_lane->member->n && lane.start == first_lane->start;
      masked = masked || lane.member->weight;
      most_rows = std::max(most_rows, lane.member->n);
      left = std::max(left, lane.steps);
      enter(group.params, static_cast<int>(l), lane.member->params);
      for (int s = 0; s < MAX_SLOTS; s++)
        if (group.slots[s]) enter(group.slots[s], static_cast<int>(l), lane.update->slots[s]);
      group.partial[l] = lane.member->partial[0];
      lane.active = true;
      group.active++;
    }
  }
  if (!left) return;
  if (own) make_records(groups[0]);
  step_rows_ = (std::min(batch_size_, most_rows) + MANY_BLOCK - 1) / MANY_BLOCK * MANY_BLOCK;
  const bool own_share = own && (masked || !uniform);
  const idx bytes = step_rows_ * (in + ldt) * (own ? MAX_LANES : 1) * static_cast<idx>(sizeof(T));
  const idx most = one_step ? 1 : std::max<idx>(1, std::min(MAX_STRETCH, ROWS_BYTES / bytes));
  int64_t gathered_start = -1;   // of rows in no order of their own that lie ready
  idx gathered_steps = 0;
  std::vector<T> before_params, before_slots[MAX_SLOTS];

  while (true) {
    idx steps = most;
    const Group<T>* first = nullptr;   // that goes on
    for (idx g = 0; g < n_groups; g++) {
      for (const Lane& lane : groups[g].lanes)
        if (lane.active) steps = std::min(steps, lane.left());
      if (groups[g].active && !first) first = &groups[g];
    }
    if (!first) return;
    const Lane& lane = *std::find_if(first->lanes.begin(), first->lanes.end(), [](const Lane& l) { return l.active; });
    const int64_t start = lane.start;
    const idx epoch_steps = (lane.member->n + batch_size_ - 1) / batch_size_;
    if (!own && !shuffle_ && steps > epoch_steps) steps -= steps % epoch_steps;   // the same rows again next time
    plan_rows(first, 1, steps, uniform);
    if (own || shuffle_ || start != gathered_start || steps > gathered_steps) {
      bind(*first->table);
      gather(*first, steps, own, own_share);
      gathered_start = start, gathered_steps = steps;
    }

    for (idx g = 0; g < n_groups; g++) {
      Group<T>& group = groups[g];
      if (!group.active) continue;
      const ManyKernels<T>& kernels = bind(*group.table);
      if (one_step) {
        before_params.assign(group.params, group.params + size);
        for (int s = 0; s < MAX_SLOTS; s++)
          if (group.slots[s]) before_slots[s].assign(group.slots[s], group.slots[s] + size);
      }
      ManyRun<T> run{};
      run.layers = layers_.data(), run.n_layers = static_cast<int>(layers_.size());
      run.n_params = n_params_, run.block = BLOCK;
      run.params = group.params, run.slots = group.slots, run.gradient = gradient_.data();
      run.rule = any.row, run.update = kernels.update[any.row];
      set_scalars(group, steps, &run);
      run.steps = steps, run.step_rows = step_rows_, run.rows = rows_.data();
      run.own = own, run.own_share = own_share, run.masked = masked;
      run.x = x_.data(), run.t = t_.data(), run.ldt = ldt, run.y_is_label = data.y_is_label, run.share = share_.data();
      run.loss_row = loss_row_, run.loss = kernels.loss[loss_row_];
      run.setting = setting_.data(), run.weight = output_weight_.data();
      const ManyKernel<T> hidden = kernels.hidden(run);
      (hidden ? hidden : kernels.layers)(run, losses_.data());

      if (one_step) {
        const bool loss = std::isfinite(losses_.data()[0]);
        if (!loss || !finite(group.params, 0)) {
          std::copy(before_params.begin(), before_params.end(), group.params);
          for (int s = 0; s < MAX_SLOTS; s++)
            if (group.slots[s]) std::copy(before_slots[s].begin(), before_slots[s].end(), group.slots[s]);
          group.lanes[0].outcome->status = loss ? PARAMS_NOT_FINITE : LOSS_NOT_FINITE;
          group.lanes[0].steps = group.lanes[0].done;   // here it ends
        }
      }
      if (group.lanes[0].left() || !one_step) account(&group, kernels, steps, uniform);
      for (size_t l = 0; l < group.lanes.size(); l++) {
        Lane& lane = group.lanes[l];
        if (!lane.active || lane.left()) continue;
        lane.active = false;
        group.active--;
        const int at = static_cast<int>(l);
        lane.finite = careful || (lane.finite && std::isfinite(group.partial[l]) && finite(group.params, at));
        if (!lane.finite) continue;
        const Member& m = *lane.member;
        leave(group.params, at, m.params);
        for (int s = 0; s < MAX_SLOTS; s++)
          if (group.slots[s]) leave(group.slots[s], at, lane.update->slots[s]);
        *m.count += lane.done;
        m.place[0] = lane.epoch, m.place[1] = lane.start;
        m.partial[0] = group.partial[l], m.partial[1] = lane.rows_seen;
        *lane.finished += lane.epochs;
        lane.outcome->epochs = lane.epochs;
      }
    }
  }
}

// Of each step to come: its rows, the most of any lane, and what they weigh in an epoch's mean.
template <class T> void Networks<T>::plan_rows(const Group<T>* groups, idx n_groups, idx steps, bool uniform) {
  double* const weights = weights_.data();
  std::fill_n(rows_.begin(), steps, idx{0});
  for (idx g = 0; g < n_groups; g++)
    for (size_t l = 0; l < groups[g].lanes.size(); l++) {
      const Lane& lane = groups[g].lanes[l];
      if (!lane.active) continue;
      idx start = lane.start;
      for (idx step = 0; step < steps; step++) {
        const idx rows = std::min(batch_size_, lane.member->n - start);
        rows_[step] = std::max(rows_[step], rows);
        weights[uniform ? step : step * many_kernels_of<T>(*groups[g].table).lanes + static_cast<idx>(l)] =
            static_cast<double>(rows);
        start = start + rows == lane.member->n ? 0 : start + rows;
      }
      if (uniform) return;
    }
}

// A step's losses join the sums of the epochs begun, and the means of those that end are told.
template <class T>
void Networks<T>::account(Group<T>* group, const ManyKernels<T>& kernels, idx steps, bool uniform) {
  const idx width = uniform ? 1 : lanes_;
  for (idx at = 0, some; at < steps; at += some) {
    some = steps - at;
    for (const Lane& lane : group->lanes)
      if (lane.active) {
        some = std::min(some, lane.steps_to_end(batch_size_));
        if (uniform) break;
      }
    kernels.sum(losses_.data() + at * lanes_, weights_.data() + at * width, !uniform, some, group->partial);
    for (size_t l = 0; l < group->lanes.size(); l++) {
      Lane& lane = group->lanes[l];
      if (!lane.active) continue;
      const idx rows = std::min(some * batch_size_, lane.member->n - lane.start);
      lane.done += some;
      lane.start += rows;
      lane.rows_seen += static_cast<double>(rows);
      if (lane.start < lane.member->n) continue;
      const double mean = group->partial[l] / lane.rows_seen;
      lane.member->losses[*lane.finished + lane.epochs++] = mean;
      lane.finite = lane.finite && std::isfinite(mean);
      group->partial[l] = lane.rows_seen = 0;
      lane.epoch++;
      lane.start = 0;
    }
  }
}

// Each scalar of the row, lane by lane: one vector, or one for each step.
template <class T> void Networks<T>::set_scalars(const Group<T>& group, idx steps, ManyRun<T>* run) {
  for (int s = 0; s < group.lanes[0].update->n_scalars; s++) {
    T* const to = scalars_.data() + s * MAX_STRETCH * MAX_LANES;
    bool constant = true, same = true;
    const auto at = [&](const Lane& lane) {
      const Scalar& scalar = lane.update->scalars[s];
      return scalar.data + lane.done * scalar.stride;
    };
    const Lane* first = nullptr;
    for (const Lane& lane : group.lanes) {
      if (!lane.active) continue;
      if (!first) first = &lane;
      constant = constant && lane.update->scalars[s].stride == 0;
      same = same && at(lane) == at(*first) && lane.update->scalars[s].stride == first->update->scalars[s].stride;
    }
    const idx count = constant ? 1 : steps;
    run->scalars[s] = to;
    run->scalar_stride[s] = constant ? 0 : lanes_;
    for (size_t l = 0; l < (same ? 1 : group.lanes.size()); l++) {
      const Lane& lane = same ? *first : group.lanes[l];
      if (!lane.active) continue;
      const char* from = at(lane);
      const idx stride = lane.update->scalars[s].stride;
      for (idx step = 0; step < count; step++, from += stride) {
        const T value = static_cast<T>(*reinterpret_cast<const double*>(from));
        if (same) std::fill_n(to + step * lanes_, lanes_, value);
        else to[step * lanes_ + static_cast<idx>(l)] = value;
      }
    }
  }
  for (int s = group.lanes[0].update->n_scalars; s < MAX_SCALARS; s++) run->scalars[s] = scalars_.data();
}

// ------------------------------------------------------------------ rows

// What a stretch of steps is made with. A step has step_rows_ rows, of which those past its batch have a share of 0.
template <class T> void Networks<T>::gather(const Group<T>& group, idx steps, bool own, bool own_share) {
  const idx count = steps * step_rows_, in = group.lanes[0].member->x.cols, out = group.lanes[0].member->y.cols;
  at_least(&x_, count * in * (own ? lanes_ : 1));
  at_least(&t_, count * out * (own ? lanes_ : 1));
  at_least(&index_, count * (own ? lanes_ : 1));
  at_least(&share_, count * (own_share ? lanes_ : 1));
  const bool stretch = own && !all_records_;
  if (stretch) at_least(&of_stretch_, count * record_ * lanes_);
  bool first = true;
  for (size_t l = 0; l < static_cast<size_t>(lanes_); l++) {
    const idx at = static_cast<idx>(l);
    uint32_t* const index = index_.data() + (own ? at * count : 0);
    if (stretch) records_of_[l] = of_stretch_.data() + at * count * record_;
    if (l >= group.lanes.size() || !group.lanes[l].active) {   // idle
      if (own) std::fill_n(index, count, 0);
      if (stretch) std::fill_n(of_stretch_.data() + at * count * record_, record_, T{});
      continue;
    }
    const Member& m = *group.lanes[l].member;
    if (first || own) fill_index(group.lanes[l], &orders_[l], steps, index);
    if (first || own_share) fill_share(group.lanes[l], steps, index, share_.data() + (own_share ? at : 0), own_share ? lanes_ : 1);
    if ((first && !own) || stretch) {
      if (m.rows)
        for (idx i = 0; i < count; i++) index[i] = static_cast<uint32_t>(m.rows[index[i]]);
      T* const record = of_stretch_.data() + at * count * record_;
      if (own) copy_rows(m, index, count, record, record_, record + in, record_);
      else copy_rows(m, index, count, x_.data(), in, t_.data(), out);
      if (own) std::iota(index, index + count, 0);
    }
    first = false;
  }
  const auto gather = many_kernels_of<T>(*group.table).gather;
  if (own) gather(records_of_, record_, in, in + out, index_.data(), count, x_.data(), t_.data());
}

// All rows of a group's lanes as records, if a good part of them is read: they are kept for the calls to come, while there
// is room. Members of the same rows share theirs. Else `gather` makes those of each stretch.
template <class T> void Networks<T>::make_records(const Group<T>& group) {
  const idx whole = 16 / static_cast<idx>(sizeof(T)), n_members = static_cast<idx>(members_.size());
  record_ = (members_[0].x.cols + members_[0].y.cols + whole - 1) / whole * whole;
  const idx record_bytes = record_ * static_cast<idx>(sizeof(T)), room = RECORDS_BYTES / record_bytes;
  const auto taken = [&](idx k) { return members_[k].n + 64 / record_bytes + 1; };   // not all at the same sets of L1
  if (owner_.empty()) {
    owner_.resize(n_members), kept_at_.assign(n_members, -1);
    for (idx k = 0; k < n_members; k++) {
      while (!same_rows(members_[owner_[k]], members_[k])) owner_[k]++;
      if (owner_[k] == k) kept_size_ = std::min(kept_size_ + taken(k), room);
    }
  }
  bool needed[MAX_LANES];   // rows that no lane before has
  idx owners[MAX_LANES], reads = 0, rows = 0, missing = 0, most = 0;
  for (size_t l = 0; l < group.lanes.size(); l++) {
    const Lane& lane = group.lanes[l];
    needed[l] = lane.active;
    if (!lane.active) continue;
    owners[l] = owner_[lane.member - members_.data()];
    reads += std::min(lane.steps, lane.member->n) * batch_size_;
    most = std::max(most, lane.member->n);
    for (size_t k = 0; k < l; k++) needed[l] = needed[l] && !(needed[k] && owners[k] == owners[l]);
    if (!needed[l]) continue;
    rows += taken(owners[l]);
    if (kept_at_[owners[l]] < 0) missing += taken(owners[l]);
  }
  all_records_ = rows <= kept_size_ && 2 * reads >= missing;
  if (!all_records_) return;
  at_least(&kept_, kept_size_ * record_);
  if (!shuffle_ && static_cast<idx>(sequence_.size()) < most) {
    at_least(&sequence_, most);
    std::iota(sequence_.data(), sequence_.data() + most, 0);
  }
  if (kept_rows_ + missing > kept_size_) {   // all anew
    std::fill(kept_at_.begin(), kept_at_.end(), -1);
    kept_rows_ = 0;
  }
  std::fill_n(records_of_, MAX_LANES, kept_.data());
  for (size_t l = 0; l < group.lanes.size(); l++) {
    if (!group.lanes[l].active) continue;
    idx& at = kept_at_[owners[l]];
    if (at < 0) {
      at = kept_rows_;
      kept_rows_ += taken(owners[l]);
      const Member& m = members_[owners[l]];
      if (m.rows) {
        at_least(&index_, m.n);
        for (idx i = 0; i < m.n; i++) index_.data()[i] = static_cast<uint32_t>(m.rows[i]);
      }
      T* const record = kept_.data() + at * record_;
      copy_rows(m, m.rows ? index_.data() : nullptr, m.n, record, record_, record + m.x.cols, record_);
    }
    records_of_[l] = kept_.data() + at * record_;
  }
}

// Which of the member's rows, step after step; those past a batch are its first.
template <class T>
void Networks<T>::fill_index(const Lane& lane, Orders* orders, idx steps, uint32_t* to) const {
  const Member& m = *lane.member;
  idx start = lane.start, epoch = lane.epoch, left = lane.left();
  const uint32_t* order = static_cast<idx>(sequence_.size()) >= m.n ? sequence_.data() : nullptr;
  for (idx step = 0, some; step < steps; step += some, left -= some) {
    some = 1;
    if (shuffle_ && (start == 0 || step == 0))
      order = orders->of(epoch_orders_, m.seed, epoch, m.n, (start + left * batch_size_ + m.n - 1) / m.n);
    idx rows = std::min(batch_size_, m.n - start);
    if (batch_size_ == step_rows_) {   // whole batches follow one another
      some = std::max<idx>(1, std::min(steps - step, (m.n - start) / batch_size_));
      rows *= some;
    }
    if (order) std::copy_n(order + start, rows, to);
    else std::iota(to, to + rows, static_cast<uint32_t>(start));
    for (idx i = rows; i < some * step_rows_; i++) to[i] = to[0];
    to += some * step_rows_;
    start += rows;
    if (start == m.n) start = 0, epoch++;
  }
}

template <class T>
void Networks<T>::fill_share(const Lane& lane, idx steps, const uint32_t* index, T* to, idx width) const {
  const Member& m = *lane.member;
  idx start = lane.start, rows_of_scale = -1;
  double scale = 0;
  for (idx step = 0; step < steps; step++, index += step_rows_) {
    const idx rows = std::min(batch_size_, m.n - start);
    const auto weight = [&](idx i) { return m.weight[m.rows ? m.rows[index[i]] : index[i]]; };
    if (m.weight || rows != rows_of_scale) {   // a division takes as long as all else
      double total = static_cast<double>(rows);
      if (m.weight) {
        total = 0;
        for (idx i = 0; i < rows; i++) total += weight(i);
      }
      scale = total > 0 ? loss_scale_ / total : 0;
      rows_of_scale = rows;
    }
    const T same = static_cast<T>(scale);
    if (m.weight)
      for (idx i = 0; i < rows; i++) to[i * width] = static_cast<T>(weight(i) * scale);
    else if (width == 1)
      for (idx i = 0; i < step_rows_; i += MANY_BLOCK)   // by vectors, as their number is known
        for (idx k = 0; k < MANY_BLOCK; k++) to[i + k] = same;
    else
      for (idx i = 0; i < rows; i++) to[i * width] = same;
    for (idx i = rows; i < step_rows_; i++) to[i * width] = 0;
    to += step_rows_ * width;
    start = start + rows == m.n ? 0 : start + rows;
  }
}

// ------------------------------------------------------------------ looking

template <class T> void Networks<T>::enter_all(idx first, idx end, const int64_t* which) {
  at_least(&params_, n_params_ * MAX_LANES);
  for (idx k = first; k < end; k++) enter(params_.data(), static_cast<int>(k - first), members_[which[k]].params);
}

template <class T>
void Networks<T>::evaluate(idx n, const int64_t* which, const Source& x, const Source& y, bool y_is_label,
                           const double* weight, double total, double* losses) {
  const idx rows = x.rows, ldt = y.cols;
  const ManyLayer<T>& last = layers_.back();
  at_least(&x_, BLOCK * x.cols);
  at_least(&t_, BLOCK * ldt);
  at_least(&share_, BLOCK);
  each_group(n, [&](const ManyTable& table, idx first, idx end) {
    const ManyKernels<T>& kernels = bind(table);
    enter_all(first, end, which);
    ManyRun<T> run{};
    run.layers = layers_.data(), run.n_layers = static_cast<int>(layers_.size()), run.params = params_.data();
    std::fill_n(losses_.data(), lanes_, 0.0);
    for (idx at = 0; at < rows; at += BLOCK) {
      const idx some = std::min(BLOCK, rows - at);
      gather_rows(x, x_.data(), x.cols, at, nullptr, some);
      gather_rows(y, t_.data(), ldt, at, nullptr, some);
      for (idx m = 0; m < some; m++)
        share_.data()[m] = total > 0 ? static_cast<T>((weight ? weight[at + m] : 1) * loss_scale_ / total) : T{};
      kernels.forward(run, x_.data(), some);
      kernels.loss[loss_row_]({some, last.out, last.ld, false, false, last.a, t_.data(), ldt, y_is_label, share_.data(),
                               setting_.data(), output_weight_.data(), last.delta}, losses_.data());
    }
    std::copy_n(losses_.data(), end - first, losses + first);
  });
}

template <class T> void Networks<T>::forward(idx n, const int64_t* which, const Source& x, void* out) {
  const idx rows = x.rows;
  const ManyLayer<T>& last = layers_.back();
  at_least(&x_, BLOCK * x.cols);
  each_group(n, [&](const ManyTable& table, idx first, idx end) {
    const ManyKernels<T>& kernels = bind(table);
    enter_all(first, end, which);
    ManyRun<T> run{};
    run.layers = layers_.data(), run.n_layers = static_cast<int>(layers_.size()), run.params = params_.data();
    for (idx at = 0; at < rows; at += BLOCK) {
      const idx some = std::min(BLOCK, rows - at);
      gather_rows(x, x_.data(), x.cols, at, nullptr, some);
      kernels.forward(run, x_.data(), some);
      for (idx k = first; k < end; k++) {
        T* to = static_cast<T*>(out) + (k * rows + at) * last.out;
        for (idx m = 0; m < some; m++)
          for (idx j = 0; j < last.out; j++) *to++ = last.a[(m * last.ld + j) * lanes_ + (k - first)];
      }
    }
  });
}
}  // namespace

Many* make_many(const Isa& isa, int itemsize, const Shape& shape, const std::vector<Member>& members, idx batch_size,
                bool shuffle, bool stop_on_non_finite) {
  if (itemsize == 4) return new Networks<float>(isa, shape, members, batch_size, shuffle, stop_on_non_finite);
  return new Networks<double>(isa, shape, members, batch_size, shuffle, stop_on_non_finite);
}
}  // namespace fbp
