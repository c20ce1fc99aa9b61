// What conform_cpp.cpp stands on: reading JSON, SHA-256, numbers that have gradients, and tensors of them.
#pragma once
#include <algorithm>
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
#include <random>
#include <set>
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
Tensors part(const Tensors& w, const std::string& prefix) {  // those below a name, with the rest of their names
  Tensors own;
  for (auto& [name, x] : w)
    if (name.rfind(prefix, 0) == 0) own[name.substr(prefix.size())] = x;
  return own;
}
Tensor each(const Tensor& x, Var (*f)(Var)) {
  Tensor y = x;
  for (Var& a : y.data) a = f(a);
  return y;
}
Tensor operator+(Tensor a, const Tensor& b) {
  for (size_t i = 0; i < a.data.size(); i++) a.data[i] = a.data[i] + b.data[i];
  return a;
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
