// Answers the conformance kit in C++17, gradients included, in float64. JSON is read with nlohmann-json3-dev.
//
//     g++ -std=c++17 -O1 -o conform_cpp examples/conform_cpp.cpp && ./conform_cpp SET.json ANSWERS.json
//
// Every formula is written once, on numbers that remember how they were made (Var); one sweep backward over that list
// gives all gradients. The tokenizer is left out: the standard library lacks Unicode's tables.
#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>
using Json = nlohmann::json;

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
  std::string text;  // in place of numbers
  explicit Tensor(std::vector<int> shape_ = {}) : shape(std::move(shape_)) {
    data.resize(std::accumulate(shape.begin(), shape.end(), 1, std::multiplies<>()));
  }
  Var& operator()(std::initializer_list<int> index) {
    int at = 0, axis = 0;
    for (int i : index) at = at * shape[axis++] + i;
    return data[at];
  }
  double item() const { return data[0].v; }
  int integer() const { return static_cast<int>(data[0].v); }
  int width() const { return shape.back(); }
  int rows() const { return static_cast<int>(data.size()) / shape.back(); }
};
using Tensors = std::map<std::string, Tensor>;

void remember(Tensor& x) {  // its numbers will have gradients
  for (Var& a : x.data) {
    a.n = static_cast<int>(tape.size());
    tape.push_back({-1, -1, 0, 0});
  }
}
void backward(std::vector<double>& slope) {  // from the slopes of outputs to those of all that they are made of
  for (size_t n = slope.size(); n-- > 0;) {
    if (tape[n].a >= 0) slope[tape[n].a] += slope[n] * tape[n].slope_a;
    if (tape[n].b >= 0) slope[tape[n].b] += slope[n] * tape[n].slope_b;
  }
}
Tensor gradient(Tensor x, const std::vector<double>& slope) {
  for (Var& a : x.data) a = number(slope[a.n]);
  return x;
}
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
Tensor largest(Tensor x) {  // the place of each row's largest; of equals the first
  Tensor places({x.shape[0]});
  for (int r = 0; r < x.rows(); r++) {
    int best = 0;
    for (int k = 1; k < x.width(); k++)
      if (x({r, k}).v > x({r, best}).v) best = k;
    places.data[r] = number(best);
  }
  return places;
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
struct Group {
  std::string name, sensor;
  std::vector<int> bands;  // counted from 1, as printed
  std::string words;       // of its prompts
};
const std::vector<Group> GROUPS{  // in the order of Eq. (9)
    {"RGB", "sen2", {1, 2, 3}, "red green blue"}, {"VRE", "sen2", {4, 5, 6, 8}, "vegetation red edge"},
    {"NIR", "sen2", {7}, "near infrared"},        {"SWIR", "sen2", {9, 10}, "short wave infrared"},
    {"VH", "sen1", {1, 2, 5}, "vh"},              {"VV", "sen1", {3, 4, 6}, "vv"},
    {"PolSAR", "sen1", {7, 8}, "pol"}};
Tensors band_groups(Tensors& in) {
  Tensors out;
  for (const Group& g : GROUPS) {
    Tensor x = in.at(g.sensor);
    std::vector<int> shape = x.shape;
    shape.back() = static_cast<int>(g.bands.size());
    Tensor y(shape);
    for (int r = 0; r < y.rows(); r++)
      for (int k = 0; k < y.width(); k++) y.data[r * y.width() + k] = x.data[r * x.width() + g.bands[k] - 1];
    out["X_" + g.name] = y;
  }
  return out;
}
std::vector<std::string> descriptions;  // of the classes, from the set
Tensors prompt(Tensors& in) {
  Tensor t;
  for (const Group& g : GROUPS)
    if (g.name == in.at("group").text)
      t.text = "a photo of a " + descriptions.at(in.at("class_index").integer()) + " with " + g.words + " bands";
  return {{"text", t}};
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
  int K = in.at("K").integer();
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

Tensors statistics(Tensors& in) {  // of each channel
  Tensor x = in.at("x"), mean({x.width()}), deviation({x.width()});
  double N = x.rows();
  for (int c = 0; c < x.width(); c++) {
    Var var;
    for (int r = 0; r < x.rows(); r++) mean.data[c] = mean.data[c] + x.data[r * x.width() + c] / number(N);
    for (int r = 0; r < x.rows(); r++) {
      Var d = x.data[r * x.width() + c] - mean.data[c];
      var = var + d * d / number(N);
    }
    deviation.data[c] = sqrt(var);
  }
  return {{"mean", mean}, {"std", deviation}};
}
Tensors standardise(Tensors& in) {
  Tensor x = in.at("x"), mean = in.at("mean"), deviation = in.at("std");
  for (size_t i = 0; i < x.data.size(); i++) {
    Var std = deviation.data[i % x.width()];
    x.data[i] = (x.data[i] - mean.data[i % x.width()]) / (std.v == 0 ? number(1) : std);
  }
  return {{"y", x}};
}
Tensors split(Tensors& in) {  // our own draw; the answer counts its rows
  Tensor y = in.at("y");
  size_t per_class = in.at("per_class").integer(), test = in.at("test").integer();
  std::vector<int> order(y.data.size()), train, rest;
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(in.at("seed").integer()));
  std::array<size_t, 17> drawn{};
  for (int row : order) {
    size_t& own = drawn[static_cast<int>(y.data[row].v)];
    if (own < per_class) own++, train.push_back(row);
    else rest.push_back(row);
  }
  if (train.size() < 17 * per_class || rest.size() < test) return {{"refused", scalar(number(1))}};
  rest.resize(test);
  auto count = [&](const std::vector<int>& rows) {
    Tensor classes({17});
    for (int row : rows) classes.data[static_cast<int>(y.data[row].v)].v += 1;
    return classes;
  };
  std::set<int> in_train(train.begin(), train.end()), in_test(rest.begin(), rest.end());
  double repeated = static_cast<double>(train.size() - in_train.size() + rest.size() - in_test.size()), common = 0;
  for (int row : in_test) common += in_train.count(row);
  return {{"train", count(train)},
          {"test", count(rest)},
          {"repeated", scalar(number(repeated))},
          {"common", scalar(number(common))}};
}

using Operation = std::function<Tensors(Tensors&)>;
Operation activation(Var (*f)(Var)) {
  return [f](Tensors& in) { return Tensors{{"y", each(in.at("x"), f)}}; };
}
const std::map<std::string, Operation> OPERATIONS{
    {"read_array", read_array}, {"band_groups", band_groups}, {"similarity", similarity}, {"fuse", fuse},
    {"supervised_matrix", supervised_matrix}, {"contrastive_loss", contrastive_loss}, {"concat", concat}, {"sgd", sgd},
    {"metrics", metrics}, {"relu", activation(relu)}, {"gelu", activation(gelu)}, {"quick_gelu", activation(quick_gelu)},
    {"statistics", statistics}, {"standardise", standardise}, {"split", split}, {"prompt", prompt},
    {"predict", [](Tensors& in) { return Tensors{{"y_hat", largest(in.at("c_hat"))}}; }},
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
       return Tensors{{"y", conv2d(in.at("x"), in.at("weight"), in.at("stride").integer(), in.at("padding").integer())}};
     }},
    {"batch_norm",
     [](Tensors& in) {
       return batch_norm(in.at("x"), in.at("weight"), in.at("bias"), in.at("running_mean"), in.at("running_var"),
                         in.at("train").item() != 0);
     }},
    {"attention", [](Tensors& in) {
       return Tensors{{"y", attention(in.at("x"), in.at("in_proj_weight"), in.at("in_proj_bias"), in.at("out_weight"),
                                      in.at("out_bias"), in.at("heads").integer())}};
     }}};

// -------------------------------------------------------------------------------------------- cases in, answers out
Tensor tensor(const Json& t) {
  Tensor x(t.at("shape").get<std::vector<int>>());
  if (t.at("dtype") == "string") return x.text = t.at("data").at(0), x;
  for (size_t i = 0; i < x.data.size(); i++) x.data[i].v = t.at("data").at(i);
  return x;
}
Json written(const Tensor& x) {
  Json data = Json::array();
  if (!x.text.empty()) data.push_back(x.text);
  else
    for (Var a : x.data) {
      if (std::isfinite(a.v)) data.push_back(a.v);
      else data.push_back(std::isnan(a.v) ? "NaN" : a.v > 0 ? "Infinity" : "-Infinity");
    }
  return {{"shape", x.shape}, {"data", data}};
}
Tensors answer(const Json& c) {
  tape.clear();
  Tensors in;
  for (auto& [name, t] : c.at("inputs").items()) in[name] = tensor(t);
  const Operation& operation = OPERATIONS.at(c.at("op"));
  if (!c.contains("cotangents")) return operation(in);
  std::vector<std::string> asked;  // inputs whose gradients are wanted
  for (auto& [name, expected] : c.at("expect").items())
    if (name.rfind("grad.", 0) == 0) asked.push_back(name.substr(5));
  for (auto& name : asked) remember(in.at(name));
  Tensors out = operation(in);
  std::vector<double> slope(tape.size());  // of the sum of cotangent times output
  for (auto& [name, t] : c.at("cotangents").items())
    for (size_t i = 0; i < out.at(name).data.size(); i++)
      if (Var y = out.at(name).data[i]; y.n >= 0) slope[y.n] += t.at("data").at(i).get<double>();
  backward(slope);
  for (auto& name : asked) out["grad." + name] = gradient(in.at(name), slope);
  return out;
}
int main(int count, char** arguments) {
  if (count != 3) return std::cerr << "usage: conform_cpp SET.json ANSWERS.json\n", 2;
  try {
    std::ifstream file(arguments[1]);
    Json set = Json::parse(file), answers = Json::object();
    descriptions = set.at("descriptions").get<std::vector<std::string>>();
    for (const Json& c : set.at("cases")) {
      if (!OPERATIONS.count(c.at("op"))) continue;
      Json outputs = Json::object();
      for (auto& [name, x] : answer(c)) outputs[name] = written(x);
      answers[c.at("id").get<std::string>()] = outputs;
    }
    Json all{{"kit", set.at("kit")}, {"seed", set.at("seed")}, {"dtype", "float64"}, {"answers", answers}};
    all["without"] = {"pre_tokens", "tokenize"};
    std::ofstream out(arguments[2]);
    return (out << all << std::endl) ? 0 : 1;
  } catch (const std::exception& error) {
    return std::cerr << "conform_cpp: " << error.what() << '\n', 1;
  }
}
