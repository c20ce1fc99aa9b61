// Answers the conformance kit in C++17 with the standard library alone, gradients included, in float64.
//
//     g++ -std=c++17 -O1 -o conform_cpp examples/conform_cpp.cpp && ./conform_cpp VECTORS/ ANSWERS/
//     python -m bplcz_ref conform check ANSWERS/ --dtype float64 --profile ANSWERS/profile.json
//
// Every formula is written once, on numbers that remember how they were made (Var); one sweep backward over that list
// gives all gradients. The text suite is left out: it needs Unicode's tables, which the standard library lacks.
#include <array>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iomanip>
#include <iostream>
#include <map>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

// ---------------------------------------------------------------------------------------------------------- JSON
struct Json {
  std::string text;  // of a string, or a number as written
  std::vector<Json> list;
  std::map<std::string, Json> object;
  const Json& at(const std::string& key) const { return object.at(key); }
};

struct Reader {
  const std::string& s;
  size_t i = 0;
  char next() {
    while (i < s.size() && std::isspace(static_cast<unsigned char>(s[i]))) i++;
    if (i == s.size()) throw std::runtime_error("the JSON is cut");
    return s[i];
  }
  bool take(char c) { return next() == c ? (i++, true) : false; }
  void expect(char c) {
    if (!take(c)) throw std::runtime_error(std::string("expected ") + c + " at " + std::to_string(i));
  }
  std::string string() {  // escapes stay as they are: what is read here has no use for them
    expect('"');
    size_t begin = i;
    while (i < s.size() && s[i] != '"') i += s[i] == '\\' ? 2 : 1;
    return s.substr(begin, i++ - begin);
  }
  Json value() {
    Json found;
    if (next() == '"') {
      found.text = string();
    } else if (take('[')) {
      while (!take(']')) found.list.push_back(value()), take(',');
    } else if (take('{')) {
      while (!take('}')) {
        std::string key = string();
        expect(':');
        found.object[key] = value();
        take(',');
      }
    } else {
      size_t begin = i;
      while (i < s.size() && !std::strchr(",]} \n\r\t", s[i])) i++;
      found.text = s.substr(begin, i - begin);
    }
    return found;
  }
};

std::string file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string sha256(std::string m) {  // FIPS 180-4
  auto fraction = [](double root) { return static_cast<uint32_t>(std::floor((root - std::floor(root)) * 4294967296.0)); };
  std::array<uint32_t, 64> K{};
  std::array<uint32_t, 8> H{};
  for (int n = 0, p = 2; n < 64; p++) {
    bool prime = true;
    for (int d = 2; d * d <= p; d++) prime = prime && p % d;
    if (!prime) continue;
    if (n < 8) H[n] = fraction(std::sqrt(static_cast<double>(p)));
    K[n++] = fraction(std::cbrt(static_cast<double>(p)));
  }
  uint64_t bits = m.size() * 8;
  m += '\x80';
  while (m.size() % 64 != 56) m += '\0';
  for (int k = 7; k >= 0; k--) m += static_cast<char>(bits >> (8 * k));
  auto turn = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  for (size_t block = 0; block < m.size(); block += 64) {
    std::array<uint32_t, 64> w{};
    for (int t = 0; t < 16; t++)
      for (int k = 0; k < 4; k++) w[t] = w[t] << 8 | static_cast<unsigned char>(m[block + 4 * t + k]);
    for (int t = 16; t < 64; t++)
      w[t] = w[t - 16] + (turn(w[t - 15], 7) ^ turn(w[t - 15], 18) ^ w[t - 15] >> 3) + w[t - 7] +
             (turn(w[t - 2], 17) ^ turn(w[t - 2], 19) ^ w[t - 2] >> 10);
    auto [a, b, c, d, e, f, g, h] = H;
    for (int t = 0; t < 64; t++) {
      uint32_t x = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + K[t] + w[t];
      uint32_t y = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + x, d = c, c = b, b = a, a = x + y;
    }
    std::array<uint32_t, 8> add{a, b, c, d, e, f, g, h};
    for (int k = 0; k < 8; k++) H[k] += add[k];
  }
  std::ostringstream hex;
  for (uint32_t h : H) hex << std::hex << std::setw(8) << std::setfill('0') << h;
  return hex.str();
}

// ------------------------------------------------------------------------------------- numbers that have gradients
struct Step {  // one number: what it is made of, and its slope with respect to each
  int a, b;
  double slope_a, slope_b;
};
std::vector<Step> tape;

struct Var {
  double v = 0;
  int n = -1;  // its place on the tape; -1: a constant
};

Var made(double v, Var a, double slope_a, Var b = {}, double slope_b = 0) {
  if (a.n < 0 && b.n < 0) return {v, -1};
  tape.push_back({a.n, b.n, slope_a, slope_b});
  return {v, static_cast<int>(tape.size()) - 1};
}
Var operator+(Var a, Var b) { return made(a.v + b.v, a, 1, b, 1); }
Var operator-(Var a, Var b) { return made(a.v - b.v, a, 1, b, -1); }
Var operator*(Var a, Var b) { return made(a.v * b.v, a, b.v, b, a.v); }
Var operator/(Var a, Var b) { return made(a.v / b.v, a, 1 / b.v, b, -a.v / (b.v * b.v)); }
Var number(double x) { return {x, -1}; }
Var exp(Var a) { return made(std::exp(a.v), a, std::exp(a.v)); }
Var log(Var a) { return made(std::log(a.v), a, 1 / a.v); }
Var sqrt(Var a) { return made(std::sqrt(a.v), a, 0.5 / std::sqrt(a.v)); }
Var sigmoid(Var a) {
  double s = a.v < 0 ? std::exp(a.v) / (1 + std::exp(a.v)) : 1 / (1 + std::exp(-a.v));
  return made(s, a, s * (1 - s));
}
Var softplus(Var a) { return made(std::max(a.v, 0.0) + std::log1p(std::exp(-std::abs(a.v))), a, sigmoid(number(a.v)).v); }
Var relu(Var a) { return a.v > 0 ? a : made(0, a, 0); }
Var gelu(Var a) {
  double Phi = 0.5 * std::erfc(-a.v / std::sqrt(2.0)), phi = std::exp(-a.v * a.v / 2) / std::sqrt(2 * std::acos(-1.0));
  return made(a.v * Phi, a, Phi + a.v * phi);
}
Var quick_gelu(Var a) { return a * sigmoid(number(1.702) * a); }

struct Tensor {
  std::vector<int> shape;
  std::vector<Var> data;
  explicit Tensor(std::vector<int> shape_ = {}) : shape(std::move(shape_)) {
    data.resize(std::accumulate(shape.begin(), shape.end(), 1, std::multiplies<>()));
  }
  Var& operator()(std::initializer_list<int> index) {
    int at = 0, axis = 0;
    for (int i : index) at = at * shape[axis++] + i;
    return data[at];
  }
  double item() const { return data[0].v; }
  int width() const { return shape.back(); }
  int rows() const { return static_cast<int>(data.size()) / shape.back(); }
};
using Tensors = std::map<std::string, Tensor>;

Tensor each(const Tensor& x, Var (*f)(Var)) {
  Tensor y = x;
  for (Var& a : y.data) a = f(a);
  return y;
}
Tensor scalar(Var x) {
  Tensor y;
  y.data[0] = x;
  return y;
}
Tensor transposed(Tensor x) {
  Tensor y({x.shape[1], x.shape[0]});
  for (int i = 0; i < x.shape[0]; i++)
    for (int j = 0; j < x.shape[1]; j++) y({j, i}) = x({i, j});
  return y;
}

// ---------------------------------------------------------------------------------------------------- the equations
Tensor unit(Tensor x) {  // x / max(||x||, 1e-12), row by row
  for (int j = 0; j < x.rows(); j++) {
    Var square;
    for (int k = 0; k < x.width(); k++) square = square + x({j, k}) * x({j, k});
    Var norm = square.v > 1e-24 ? sqrt(square) : number(1e-12);
    for (int k = 0; k < x.width(); k++) x({j, k}) = x({j, k}) / norm;
  }
  return x;
}
Tensor linear(Tensor x, Tensor w, Tensor b) {  // (..., C), (O, C), (O)
  std::vector<int> shape = x.shape;
  shape.back() = w.shape[0];
  Tensor y(shape);
  for (int r = 0; r < x.rows(); r++)
    for (int o = 0; o < w.shape[0]; o++) {
      Var s = b.data.empty() ? Var{} : b.data[o];
      for (int c = 0; c < x.width(); c++) s = s + x.data[r * x.width() + c] * w({o, c});
      y.data[r * w.shape[0] + o] = s;
    }
  return y;
}
Var bce(Tensor S, Tensor W) {
  Var sum;
  for (size_t i = 0; i < S.data.size(); i++) sum = sum + softplus(number(1 - 2 * W.data[i].v) * S.data[i]);
  return sum / number(static_cast<double>(S.data.size()));
}
Tensor softmax(Tensor x) {  // over the last axis; the shift by the largest cancels
  for (int r = 0; r < x.rows(); r++) {
    Var* row = &x.data[r * x.width()];
    double top = row[0].v;
    for (int k = 0; k < x.width(); k++) top = std::max(top, row[k].v);
    Var sum;
    for (int k = 0; k < x.width(); k++) sum = sum + (row[k] = exp(row[k] - number(top)));
    for (int k = 0; k < x.width(); k++) row[k] = row[k] / sum;
  }
  return x;
}
Var cross_entropy(Tensor z, Tensor c) {
  Var total;
  for (int j = 0; j < z.rows(); j++) {
    double top = z({j, 0}).v;
    for (int k = 0; k < z.width(); k++) top = std::max(top, z({j, k}).v);
    Var sum;
    for (int k = 0; k < z.width(); k++) sum = sum + exp(z({j, k}) - number(top));
    total = total + (log(sum) - (z({j, static_cast<int>(c.data[j].v)}) - number(top)));
  }
  return total / number(z.rows());
}

// ------------------------------------------------------------------------------------------------------- the layers
Tensor conv2d(Tensor x, Tensor w, int stride, int padding) {  // (B, H, W, C), (O, C, kh, kw)
  int H = x.shape[1], W = x.shape[2], kh = w.shape[2], kw = w.shape[3];
  Tensor y({x.shape[0], (H + 2 * padding - kh) / stride + 1, (W + 2 * padding - kw) / stride + 1, w.shape[0]});
  for (int b = 0; b < y.shape[0]; b++)
    for (int i = 0; i < y.shape[1]; i++)
      for (int j = 0; j < y.shape[2]; j++)
        for (int o = 0; o < y.shape[3]; o++)
          for (int u = 0; u < kh; u++)
            for (int v = 0; v < kw; v++) {
              int row = i * stride + u - padding, column = j * stride + v - padding;
              if (row < 0 || row >= H || column < 0 || column >= W) continue;
              for (int c = 0; c < x.shape[3]; c++) y({b, i, j, o}) = y({b, i, j, o}) + x({b, row, column, c}) * w({o, c, u, v});
            }
  return y;
}
Tensor max_pool2d(Tensor x) {
  Tensor y({x.shape[0], x.shape[1] / 2, x.shape[2] / 2, x.shape[3]});
  for (int b = 0; b < y.shape[0]; b++)
    for (int i = 0; i < y.shape[1]; i++)
      for (int j = 0; j < y.shape[2]; j++)
        for (int c = 0; c < y.shape[3]; c++) {
          Var best = x({b, 2 * i, 2 * j, c});
          for (int k = 1; k < 4; k++) {
            Var other = x({b, 2 * i + k / 2, 2 * j + k % 2, c});
            if (other.v > best.v) best = other;  // of equal ones the first
          }
          y({b, i, j, c}) = best;
        }
  return y;
}
// (x - mean) / sqrt(var + 1e-5) w + b over the numbers begin, begin + step, ...; returns mean and var
std::pair<Var, Var> normalise(std::vector<Var>& x, size_t begin, size_t step, size_t count, Tensor& w, Tensor& b, bool last) {
  Var N = number(static_cast<double>(count)), mean, var;
  for (size_t k = 0; k < count; k++) mean = mean + x[begin + k * step] / N;
  for (size_t k = 0; k < count; k++) var = var + (x[begin + k * step] - mean) * (x[begin + k * step] - mean) / N;
  Var root = sqrt(var + number(1e-5));
  for (size_t k = 0; k < count; k++) {
    size_t at = last ? k : begin;
    x[begin + k * step] = (x[begin + k * step] - mean) / root * w.data[at] + b.data[at];
  }
  return {mean, var};
}
Tensor layer_norm(Tensor x, Tensor w, Tensor b) {
  for (int r = 0; r < x.rows(); r++) normalise(x.data, r * x.width(), 1, x.width(), w, b, true);
  return x;
}
Tensors batch_norm(Tensor x, Tensor w, Tensor b, Tensor mean, Tensor var, bool train) {
  double N = x.rows();
  for (int c = 0; c < x.width(); c++) {
    if (train) {
      auto [m, v] = normalise(x.data, c, x.width(), x.rows(), w, b, false);
      mean.data[c] = number(0.9 * mean.data[c].v + 0.1 * m.v);
      var.data[c] = number(0.9 * var.data[c].v + 0.1 * v.v * N / (N - 1));
    } else {
      for (int r = 0; r < x.rows(); r++) {
        Var& a = x.data[r * x.width() + c];
        a = (a - mean.data[c]) / sqrt(var.data[c] + number(1e-5)) * w.data[c] + b.data[c];
      }
    }
  }
  return {{"y", x}, {"new_running_mean", mean}, {"new_running_var", var}};
}
Tensor attention(Tensor x, Tensor w, Tensor b, Tensor w_out, Tensor b_out, int heads) {
  int N = x.shape[0], L = x.shape[1], W = x.shape[2], d = W / heads;
  Tensor qkv = linear(x, w, b), y({N, L, W});
  for (int n = 0; n < N; n++)
    for (int h = 0; h < heads; h++)
      for (int l = 0; l < L; l++) {
        Tensor scores({1, l + 1});  // token l sees 0..l
        for (int m = 0; m <= l; m++) {
          Var s;
          for (int k = 0; k < d; k++) s = s + qkv({n, l, h * d + k}) * qkv({n, m, W + h * d + k});
          scores.data[m] = s / number(std::sqrt(static_cast<double>(d)));
        }
        Tensor P = softmax(scores);
        for (int m = 0; m <= l; m++)
          for (int k = 0; k < d; k++) y({n, l, h * d + k}) = y({n, l, h * d + k}) + P.data[m] * qkv({n, m, 2 * W + h * d + k});
      }
  return linear(y, w_out, b_out);
}
Tensors image_encoder(Tensors& in) {  // EB-CNN's branch in training mode, with what every layer gives
  Tensors out;
  Tensor x = in.at("x");
  for (int k = 1; k <= 6; k++) {
    std::string n = std::to_string(k);
    out["conv" + n] = x = conv2d(x, in.at("conv" + n + ".weight"), 1, 1);
    Tensor none({x.width()});
    out["bn" + n] = x = batch_norm(x, in.at("bn" + n + ".weight"), in.at("bn" + n + ".bias"), none, none, true).at("y");
    out["relu" + n] = x = each(x, relu);
    if (k == 2 || k == 4) out["pool" + n] = x = max_pool2d(x);
  }
  Tensor mean({x.shape[0], x.width()});
  int pixels = x.shape[1] * x.shape[2];
  for (int b = 0; b < x.shape[0]; b++)
    for (int p = 0; p < pixels; p++)
      for (int c = 0; c < x.width(); c++)
        mean({b, c}) = mean({b, c}) + x.data[(b * pixels + p) * x.width() + c] / number(pixels);
  out["mean"] = mean;
  out["I_i"] = linear(mean, in.at("proj.weight"), in.at("proj.bias"));
  return out;
}

// --------------------------------------------------------------------------------------------------- the operations
Tensors read_array(Tensors& in) {
  Tensor a = in.at("a");
  Tensors out;
  for (int axis = 0; axis < 3; axis++) {
    std::vector<int> shape = a.shape;
    shape.erase(shape.begin() + axis);
    Tensor s(shape);
    for (int i = 0; i < a.shape[0]; i++)
      for (int j = 0; j < a.shape[1]; j++)
        for (int k = 0; k < a.shape[2]; k++) {
          Var& to = axis == 0 ? s({j, k}) : axis == 1 ? s({i, k}) : s({i, j});
          to = to + a({i, j, k});
        }
    out["sum_" + std::to_string(axis)] = s;
  }
  return out;
}
Tensors band_groups(Tensors& in) {  // bands are counted from 1, as printed
  std::map<std::string, std::pair<std::string, std::vector<int>>> groups{
      {"RGB", {"sen2", {1, 2, 3}}}, {"VRE", {"sen2", {4, 5, 6, 8}}}, {"NIR", {"sen2", {7}}}, {"SWIR", {"sen2", {9, 10}}},
      {"VH", {"sen1", {1, 2, 5}}},  {"VV", {"sen1", {3, 4, 6}}},     {"PolSAR", {"sen1", {7, 8}}}};
  Tensors out;
  for (auto& [name, group] : groups) {
    Tensor x = in.at(group.first);
    std::vector<int> shape = x.shape;
    shape.back() = static_cast<int>(group.second.size());
    Tensor y(shape);
    for (int r = 0; r < y.rows(); r++)
      for (int k = 0; k < y.width(); k++) y.data[r * y.width() + k] = x.data[r * x.width() + group.second[k] - 1];
    out["X_" + name] = y;
  }
  return out;
}
Tensors similarity(Tensors& in) {
  Tensor none({0}), S = linear(unit(in.at("I_i")), unit(in.at("T_i")), none);
  return {{"S_i", S}, {"S_hat_i", transposed(S)}};
}
Tensors fuse(Tensors& in) {
  Tensor x = in.at("S_groups"), S({x.shape[1], x.shape[2]});
  for (size_t i = 0; i < x.data.size(); i++) S.data[i % S.data.size()] = S.data[i % S.data.size()] + x.data[i];
  for (Var& s : S.data) s = in.at("alpha").data[0] * s;
  return {{"S", S}};
}
Tensors supervised_matrix(Tensors& in) {
  Tensor y = in.at("y");
  int B = y.shape[0];
  Tensor W({B, B});
  for (int j = 0; j < B; j++)
    for (int k = 0; k < B; k++) W({j, k}) = number(y.data[j].v == y.data[k].v);
  return {{"W", W}};
}
Tensors contrastive_loss(Tensors& in) {
  Var a = bce(in.at("S"), in.at("W")), b = bce(transposed(in.at("S")), in.at("W"));
  return {{"L_i2t", scalar(a)}, {"L_t2i", scalar(b)}, {"L_con", scalar((a + b) / number(2))}};
}
Tensors concat(Tensors& in) {
  Tensor x = in.at("I_groups"), I({x.shape[1], x.shape[0] * x.shape[2]});
  for (int i = 0; i < x.shape[0]; i++)
    for (int j = 0; j < x.shape[1]; j++)
      for (int k = 0; k < x.shape[2]; k++) I({j, i * x.shape[2] + k}) = x({i, j, k});
  return {{"I", I}};
}
Tensors sgd(Tensors& in) {
  Tensor w = in.at("w"), g = in.at("gradients"), v({w.shape[0]});
  Tensor ws(g.shape), vs(g.shape);
  for (int t = 0; t < g.shape[0]; t++)
    for (int i = 0; i < w.shape[0]; i++) {
      v.data[i] = in.at("momentum").data[0] * v.data[i] + g({t, i}) + in.at("weight_decay").data[0] * w.data[i];
      vs({t, i}) = v.data[i];
      ws({t, i}) = w.data[i] = w.data[i] - in.at("lr").data[t] * v.data[i];
    }
  return {{"w", ws}, {"v", vs}};
}
Tensors metrics(Tensors& in) {
  int K = static_cast<int>(in.at("K").item());
  Tensor C({K, K}), y = in.at("y"), y_hat = in.at("y_hat");
  double N = static_cast<double>(y.data.size()), trace = 0, mean = 0, chance = 0, present = 0;
  for (size_t j = 0; j < y.data.size(); j++) C({static_cast<int>(y.data[j].v), static_cast<int>(y_hat.data[j].v)}).v += 1;
  for (int k = 0; k < K; k++) {
    double row = 0, column = 0;
    for (int m = 0; m < K; m++) row += C({k, m}).v, column += C({m, k}).v;
    trace += C({k, k}).v;
    chance += row * column / (N * N);
    if (row > 0) mean += C({k, k}).v / row, present += 1;  // absent classes are left out
  }
  return {{"confusion", C},
          {"overall_accuracy", scalar(number(trace / N))},
          {"average_accuracy", scalar(number(mean / present))},
          {"kappa", scalar(number((trace / N - chance) / (1 - chance)))}};
}

using Operation = std::function<Tensors(Tensors&)>;
Operation activation(Var (*f)(Var)) {
  return [f](Tensors& in) { return Tensors{{"y", each(in.at("x"), f)}}; };
}
const std::map<std::string, Operation> OPERATIONS{
    {"read_array", read_array}, {"band_groups", band_groups}, {"similarity", similarity}, {"fuse", fuse},
    {"supervised_matrix", supervised_matrix}, {"contrastive_loss", contrastive_loss}, {"concat", concat}, {"sgd", sgd},
    {"metrics", metrics}, {"image_encoder", image_encoder}, {"relu", activation(relu)}, {"gelu", activation(gelu)},
    {"quick_gelu", activation(quick_gelu)},
    {"bce", [](Tensors& in) { return Tensors{{"L", scalar(bce(in.at("S"), in.at("W")))}}; }},
    {"cross_entropy", [](Tensors& in) { return Tensors{{"L_cls", scalar(cross_entropy(in.at("c_hat"), in.at("c")))}}; }},
    {"total_loss",
     [](Tensors& in) {
       return Tensors{{"L", scalar(in.at("L_cls").data[0] + in.at("beta").data[0] * in.at("L_con").data[0])}};
     }},
    {"linear", [](Tensors& in) { return Tensors{{"y", linear(in.at("x"), in.at("weight"), in.at("bias"))}}; }},
    {"layer_norm", [](Tensors& in) { return Tensors{{"y", layer_norm(in.at("x"), in.at("weight"), in.at("bias"))}}; }},
    {"max_pool2d", [](Tensors& in) { return Tensors{{"y", max_pool2d(in.at("x"))}}; }},
    {"conv2d",
     [](Tensors& in) {
       int stride = static_cast<int>(in.at("stride").item()), padding = static_cast<int>(in.at("padding").item());
       return Tensors{{"y", conv2d(in.at("x"), in.at("weight"), stride, padding)}};
     }},
    {"batch_norm",
     [](Tensors& in) {
       return batch_norm(in.at("x"), in.at("weight"), in.at("bias"), in.at("running_mean"), in.at("running_var"),
                         in.at("train").item() != 0);
     }},
    {"attention", [](Tensors& in) {
       return Tensors{{"y", attention(in.at("x"), in.at("in_proj_weight"), in.at("in_proj_bias"), in.at("out_weight"),
                                      in.at("out_bias"), static_cast<int>(in.at("heads").item()))}};
     }}};

// -------------------------------------------------------------------------------------------- cases in, answers out
Tensor tensor(const Json& t) {
  std::vector<int> shape;
  for (const Json& n : t.at("shape").list) shape.push_back(std::stoi(n.text));
  Tensor x(shape);
  for (size_t i = 0; i < x.data.size(); i++) x.data[i].v = std::stod(t.at("data").list.at(i).text);
  return x;
}
void write(std::ostream& out, const std::string& name, const std::vector<int>& shape, const std::vector<double>& data) {
  out << '"' << name << "\": {\"shape\": [";
  for (size_t i = 0; i < shape.size(); i++) out << (i ? ", " : "") << shape[i];
  out << "], \"data\": [";
  for (size_t i = 0; i < data.size(); i++) {
    out << (i ? ", " : "");
    if (std::isfinite(data[i])) out << data[i];
    else out << (std::isnan(data[i]) ? "\"NaN\"" : data[i] > 0 ? "\"Infinity\"" : "\"-Infinity\"");
  }
  out << "]}";
}
void answer(std::ostream& out, const Json& c) {
  tape.clear();
  Tensors in, outputs;
  for (auto& [name, t] : c.at("inputs").object) in[name] = tensor(t);
  for (auto& [name, expected] : c.at("expect").object)
    if (name.rfind("grad.", 0) == 0)
      for (Var& a : in.at(name.substr(5)).data) a = made(a.v, {0, 0}, 0), tape.back() = {-1, -1, 0, 0};
  outputs = OPERATIONS.at(c.at("op").text)(in);
  std::vector<double> slope(tape.size());  // of the sum of cotangent times output
  if (c.object.count("cotangents"))
    for (auto& [name, t] : c.at("cotangents").object)
      for (size_t i = 0; i < outputs.at(name).data.size(); i++)
        if (outputs.at(name).data[i].n >= 0) slope[outputs.at(name).data[i].n] += std::stod(t.at("data").list.at(i).text);
  for (size_t n = tape.size(); n-- > 0;) {
    if (tape[n].a >= 0) slope[tape[n].a] += slope[n] * tape[n].slope_a;
    if (tape[n].b >= 0) slope[tape[n].b] += slope[n] * tape[n].slope_b;
  }
  bool first = true;
  for (auto& [name, expected] : c.at("expect").object) {
    bool gradient = name.rfind("grad.", 0) == 0;
    const Tensor& x = gradient ? in.at(name.substr(5)) : outputs.at(name);
    std::vector<double> data;
    for (Var a : x.data) data.push_back(gradient ? slope[a.n] : a.v);
    out << (first ? "" : ", ");
    first = false;
    write(out, name, x.shape, data);
  }
}
int main(int count, char** arguments) {
  if (count != 3) return std::cerr << "usage: conform_cpp VECTORS/ ANSWERS/\n", 2;
  try {
    std::filesystem::path vectors = arguments[1], folder = arguments[2];
    std::string head = file(vectors / "manifest.json");
    Json manifest = Reader{head}.value();
    std::filesystem::create_directories(folder);
    std::ofstream out(folder / "answers.json"), profile(folder / "profile.json");
    out << std::setprecision(17) << "{\"kit\": \"" << manifest.at("kit").text << "\", \"manifest\": \"" << sha256(head)
        << "\", \"answers\": {";
    bool first = true;
    for (auto& entry : std::filesystem::directory_iterator(vectors)) {  // the suites: 0-canaries.json and so on
      std::string name = entry.path().filename().string();
      if (!std::isdigit(static_cast<unsigned char>(name[0])) || entry.path().extension() != ".json") continue;
      std::string text = file(entry.path());
      Json suite = Reader{text}.value();
      for (const Json& c : suite.at("cases").list) {
        if (!OPERATIONS.count(c.at("op").text)) continue;
        out << (first ? "\n\"" : ",\n\"") << c.at("id").text << "\": {";
        first = false;
        answer(out, c);
        out << '}';
      }
    }
    out << "}}\n";
    profile << "{\"suites\": [0, 1, 2, 3, 4, 6, 8], \"without\": [\"text_encoder\"]}\n";
    return out.flush() && profile.flush() ? 0 : 1;
  } catch (const std::exception& error) {
    return std::cerr << "conform_cpp: " << error.what() << '\n', 1;
  }
}
