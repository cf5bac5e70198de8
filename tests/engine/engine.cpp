// The engine without Python: each ISA that was built and found trains networks of every kernel family, and what comes
// out is compared with plain loops in double; so are its orders of rows. Exit status 1 where anything differs.
//
// tests/test_arm64.py builds this for arm64 and runs it under an emulator; `make tsan` builds it with ThreadSanitizer and
// asks for threads: `engine 3` trains every network on three of them, twice at once, so that two ask for the pool.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "dispatch.hpp"
#include "program.hpp"

namespace {
using namespace fbp;

// Rows of the tables of fastbp/, by their places.
enum { RELU = 1, TANH = 2 };
enum { HALF_SQUARED_ERROR = 1 };
enum { SGD = 0, SGD_MOMENTUM = 3 };
constexpr double LR = 0.02, MOMENTUM = 0.9, FACTOR = 0.5, L2 = 0.1;
constexpr idx STEPS = 4;
int n_threads = 1;

struct Case {
  const char* family;
  std::vector<idx> sizes;
  idx batch;
};
const Case CASES[] = {
    {"TINY", {3, 5, 7, 2}, 21}, {"TINY", {5, 7, 2}, 21}, {"SINGLE", {70, 67, 9}, 1}, {"FEW", {33, 70, 67}, 7},
    {"NARROW", {37, 21, 3}, 27}, {"DIRECT", {17, 35, 19, 41}, 43}, {"DIRECT", {9, 90, 33}, 300},
};

double uniform() {   // in -1..1, exact in float
  thread_local uint64_t state = 1;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(static_cast<int64_t>(state >> 40) - (1 << 23)) / (1 << 23);
}
std::vector<double> uniforms(idx n, double scale = 1) {
  std::vector<double> values(static_cast<size_t>(n));
  for (double& value : values) value = static_cast<float>(uniform() * scale);
  return values;
}

// ------------------------------------------------------------------ plain loops, weights (in, out)

struct Layer {
  idx in, out;
  int activation;   // -1: identity
  std::vector<double> weight, bias, weight_velocity, bias_velocity, a, delta;
};

void forward(std::vector<Layer>& layers, const double* x, idx rows) {
  for (Layer& l : layers) {
    l.a.assign(static_cast<size_t>(rows * l.out), 0);
    for (idx m = 0; m < rows; m++)
      for (idx j = 0; j < l.out; j++) {
        double z = l.bias[j];
        for (idx i = 0; i < l.in; i++) z += x[m * l.in + i] * l.weight[i * l.out + j];
        l.a[m * l.out + j] = l.activation == RELU ? std::fmax(z, 0) : l.activation == TANH ? std::tanh(z) : z;
      }
    x = l.a.data();
  }
}

// One step of gradient descent on the mean over rows of half the squared error; returns that.
double train_step(std::vector<Layer>& layers, const double* x, const double* t, idx rows, double momentum) {
  forward(layers, x, rows);
  Layer& last = layers.back();
  double loss = 0;
  last.delta = last.a;
  for (idx k = 0; k < rows * last.out; k++) {
    last.delta[k] = (last.a[k] - t[k]) / static_cast<double>(rows);
    loss += (last.a[k] - t[k]) * (last.a[k] - t[k]) / 2 / static_cast<double>(rows);
  }
  for (size_t k = layers.size(); k-- > 0;) {
    Layer& l = layers[k];
    const double* input = k ? layers[k - 1].a.data() : x;
    std::vector<double> below(static_cast<size_t>(rows * l.in));
    for (idx m = 0; m < rows; m++)
      for (idx i = 0; i < l.in; i++) {
        for (idx j = 0; j < l.out; j++) below[m * l.in + i] += l.delta[m * l.out + j] * l.weight[i * l.out + j];
        const double a = input[m * l.in + i];
        if (k) below[m * l.in + i] *= layers[k - 1].activation == RELU ? a > 0 : 1 - a * a;
      }
    for (idx j = 0; j < l.out; j++)
      for (idx i = 0; i <= l.in; i++) {   // the bias is the weight of a 1
        double gradient = 0;
        for (idx m = 0; m < rows; m++) gradient += l.delta[m * l.out + j] * (i < l.in ? input[m * l.in + i] : 1);
        double& velocity = i < l.in ? l.weight_velocity[i * l.out + j] : l.bias_velocity[j];
        velocity = momentum * velocity + gradient;
        (i < l.in ? l.weight[i * l.out + j] : l.bias[j]) -= LR * velocity;
      }
    if (k) layers[k - 1].delta = below;
  }
  return loss;
}

// ------------------------------------------------------------------ the engine against them

template <class T> double difference(const std::vector<T>& got, const std::vector<double>& wanted, idx k) {
  double error = 0, scale = 0;   // in units of what tests/tolerance.py allows
  for (size_t i = 0; i < wanted.size(); i++) {
    error = std::fabs(got[i] - wanted[i]) <= error ? error : std::fabs(got[i] - wanted[i]);   // a NaN stays
    scale = std::fmax(scale, std::fabs(wanted[i]));
  }
  return error / (16 * std::numeric_limits<T>::epsilon() * std::sqrt(static_cast<double>(k)) * scale);
}

// `course`: rows in an order given, the loss reported times FACTOR and with L2 of the weights' squares.
template <class T>
double worst_of(const Isa& isa, const Case& c, int activation, int optimizer, bool fused, bool course) {
  const auto whole_lines = [](idx n) { return (n + 15) / 16 * 16; };
  const idx n_in = c.sizes.front(), n_out = c.sizes.back(), n = c.batch + (c.batch + 1) / 2;   // the last batch: half
  const std::vector<double> x = uniforms(n * n_in), t = uniforms(n * n_out);

  std::vector<Layer> book;
  std::vector<LayerShape> shapes;
  idx size = 0, k = STEPS * c.batch;
  for (size_t l = 0; l + 1 < c.sizes.size(); l++) {
    const idx in = c.sizes[l], out = c.sizes[l + 1];
    const bool last = l + 2 == c.sizes.size(), transposed = last && out <= NARROW_OUTPUTS;
    const int act = last ? -1 : activation;
    const double spread = 1 / std::sqrt(static_cast<double>(in));
    const std::vector<double> zeros(static_cast<size_t>(in * out));
    book.push_back({in, out, act, uniforms(in * out, spread), uniforms(out), zeros, zeros, {}, {}});
    const idx ldw = whole_lines(transposed ? in : out), bias = size + (transposed ? out : in) * ldw;
    LayerShape layer{};
    layer.in = in, layer.out = out, layer.ldw = ldw, layer.transposed = transposed;
    layer.weight = size, layer.bias = bias, layer.activation = act;
    layer.skips_zeros = l == 0 || activation == RELU;
    layer.trains_weight = layer.trains_bias = true;
    shapes.push_back(layer);
    size = bias + whole_lines(out);
    k += STEPS * (in + out);
  }
  std::vector<T> params(static_cast<size_t>(size), std::numeric_limits<T>::quiet_NaN()), velocity = params;
  const auto each_parameter = [&](auto visit) {   // visit(element of the padded buffer, element of the book)
    for (size_t l = 0; l < shapes.size(); l++) {
      const LayerShape& s = shapes[l];
      for (idx i = 0; i < s.in; i++)
        for (idx j = 0; j < s.out; j++)
          visit(s.weight + (s.transposed ? j * s.ldw + i : i * s.ldw + j), book[l].weight[i * s.out + j]);
      for (idx j = 0; j < s.out; j++) visit(s.bias + j, book[l].bias[j]);
    }
  };
  each_parameter([&](idx at, double p) {
    params[at] = static_cast<T>(p);
    velocity[at] = 0;
  });

  const std::vector<T> X(x.begin(), x.end()), Y(t.begin(), t.end());
  const auto source = [](const std::vector<T>& v, idx rows, idx cols) {
    constexpr int item = sizeof(T);
    return Source{reinterpret_cast<const char*>(v.data()), rows, cols, cols * item, item, 'f', item, false};
  };
  int64_t count = 0, place[2] = {0, 0};
  double partial[2] = {0, 0}, losses[STEPS];
  const double scalars[] = {LR, 0, MOMENTUM};   // the decay is 0
  Run run{c.batch, STEPS, 0, false, true, true, &count, place, partial, losses};
  std::vector<int64_t> orders;
  for (idx k = 0; k < STEPS * n; k++) orders.push_back(course ? (k % n * 2 + k / n) % (n / 2 * 2) : k % n);
  const std::vector<double> l2(STEPS, L2);
  if (course) run.orders = orders.data(), run.factor = FACTOR, run.l2 = l2.data();
  Update update{};
  update.row = optimizer, update.skip_zeros = optimizer == SGD, update.l1 = {0};
  update.slots[0] = optimizer == SGD ? nullptr : velocity.data();
  update.n_scalars = optimizer == SGD ? 1 : 3;
  for (int s = 0; s < update.n_scalars; s++) update.scalars.push_back({reinterpret_cast<const char*>(&scalars[s]), 0});
  Shape shape{};
  shape.layers = shapes.data(), shape.n_layers = static_cast<int>(shapes.size()), shape.batch = c.batch;
  shape.loss = HALF_SQUARED_ERROR, shape.loss_scale = 1, shape.optimizer = optimizer;
  shape.fused = fused, shape.plain = true, shape.n_threads = n_threads;
  const std::unique_ptr<Program> program(make_program(isa, sizeof(T), shape, params.data()));
  const Trained trained = program->train({source(X, n, n_in), source(Y, n, n_out), false, nullptr}, run, update);

  double loss = 0;
  for (idx step = 0, start = 0, epoch = 0; step < STEPS; step++) {
    const idx rows = n - start < c.batch ? n - start : c.batch;
    std::vector<double> inputs, targets;
    double squares = 0;
    for (idx m = 0; m < rows; m++) {
      const idx row = orders[epoch * n + start + m];
      inputs.insert(inputs.end(), &x[row * n_in], &x[row * n_in] + n_in);
      targets.insert(targets.end(), &t[row * n_out], &t[row * n_out] + n_out);
    }
    for (const Layer& l : book) for (double w : l.weight) squares += w * w;
    loss = train_step(book, inputs.data(), targets.data(), rows, optimizer == SGD ? 0 : MOMENTUM);
    if (course) loss = loss * FACTOR + L2 * squares;
    start = start + rows < n ? start + rows : 0;
    epoch += !start;
  }
  std::vector<T> got;
  std::vector<double> wanted;
  each_parameter([&](idx at, double p) {
    got.push_back(params[at]);
    wanted.push_back(p);
  });
  std::vector<T> out(static_cast<size_t>(c.batch * n_out));
  program->forward(source(X, c.batch, n_in), out.data(), false);
  forward(book, x.data(), c.batch);
  const double all[] = {difference(got, wanted, k), difference(out, book.back().a, k),
                        difference(std::vector<T>{static_cast<T>(trained.loss)}, {loss}, k)};
  double worst = trained.status == DONE && trained.steps == STEPS ? 0 : HUGE_VAL;
  for (double one : all) worst = one <= worst ? worst : one;
  return worst;
}

template <class T> bool passes(const Isa& isa, const char* dtype) {
  bool all = true;
  for (const Case& c : CASES)
    for (int activation : {RELU, TANH})
      for (int optimizer : {SGD, SGD_MOMENTUM})
        for (bool fused : {true, false})
          for (bool course : {false, true}) {
            const double worst = worst_of<T>(isa, c, activation, optimizer, fused, course);
            const bool right = worst <= 1;
            all = all && right;
            std::printf("%-8s %-7s %-7s %-5s %-9s %-8s %-7s %.3f %s\n", isa.name, dtype, c.family,
                        activation == RELU ? "relu" : "tanh", optimizer == SGD ? "sgd" : "momentum",
                        fused ? "fused" : "unfused", course ? "course" : "plain", worst, right ? "PASS" : "FAIL");
          }
  return all;
}

// One order, in plain loops over the definition in fastbp/order.py.
std::vector<uint32_t> plain_order(uint64_t seed, uint64_t epoch, uint32_t n) {
  std::vector<uint32_t> order, words;
  for (uint32_t i = 0; i < n; i++) order.push_back(i);
  const uint32_t of_a_draw = n <= 65536 ? 1 : 2;
  for (uint32_t block = 0; words.size() < uint64_t{n} * of_a_draw; block++) {
    uint32_t c[] = {block, static_cast<uint32_t>(epoch), static_cast<uint32_t>(epoch >> 32), 0xFFFFFFFFu};
    uint32_t k[] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
    for (int round = 0; round < 10; round++, k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u) {
      const uint64_t first = uint64_t{0xD2511F53u} * c[0], second = uint64_t{0xCD9E8D57u} * c[2];
      c[0] = static_cast<uint32_t>(second >> 32) ^ c[1] ^ k[0], c[1] = static_cast<uint32_t>(second);
      c[2] = static_cast<uint32_t>(first >> 32) ^ c[3] ^ k[1], c[3] = static_cast<uint32_t>(first);
    }
    words.insert(words.end(), c, c + 4);
  }
  const uint32_t* word = words.data();
  for (uint32_t i = n; i-- > 1; word += of_a_draw) {
    uint64_t j = 0;
    for (uint32_t w = 0; w < of_a_draw; w++) j = (word[w] * (uint64_t{i} + 1) + j) >> 32;
    std::swap(order[i], order[j]);
  }
  return order;
}

bool orders_pass(const Isa& isa) {
  const uint64_t seeds[] = {1, uint64_t{5} << 33, ~uint64_t{0}}, epochs[] = {0, 7, (uint64_t{1} << 40) + 3};
  std::vector<uint32_t> sizes{127, 128, 129, 1000, 65536, 65537};
  for (uint32_t n = 0; n < 80; n++) sizes.push_back(n);
  for (uint32_t n : sizes) {
    std::vector<uint32_t> got(3 * size_t{n}), wanted;
    isa.f64.epoch_orders(seeds, epochs, 3, n, got.data(), n);
    for (int k = 0; k < 3; k++)
      for (uint32_t row : plain_order(seeds[k], epochs[k], n)) wanted.push_back(row);
    if (got != wanted) {
      std::printf("%s orders of %u rows FAIL\n", isa.name, n);
      return false;
    }
  }
  return true;
}

bool all_pass() {
  const Isa* isas[MAX_ISAS];
  bool all = true;
  const int n = built_isas(isas);
  for (int i = 0; i < n; i++)
    if (found(*isas[i])) {
      const bool right[] = {orders_pass(*isas[i]), passes<float>(*isas[i], "float"), passes<double>(*isas[i], "double")};
      all = all && right[0] && right[1] && right[2];
    }
  return all;
}
}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) n_threads = std::atoi(argv[1]);
  bool here = true, there = true;
  std::thread other;
  if (n_threads > 1) other = std::thread([&] { there = all_pass(); });
  here = all_pass();
  if (other.joinable()) other.join();
  return !(here && there);
}
