// Answers the conformance kit in C++17 with the standard library alone, gradients included, in float64.
//
//     g++ -std=c++17 -O1 -o conform_cpp examples/conform_cpp.cpp && ./conform_cpp VECTORS/ ANSWERS/
//     python -m bplcz_ref conform check ANSWERS/ --dtype float64 --profile ANSWERS/profile.json
//
// Every formula is written once, on numbers that remember how they were made (Var of conform_cpp.hpp); one sweep backward
// over that list gives all gradients. The tokenizer is left out: the standard library lacks Unicode's tables.
#include "conform_cpp.hpp"

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

// ----------------------------------------------------------------------------------------------------- the networks
Tensors fresh(const Tensors& w) {  // running statistics before the first batch
  Tensors running;
  for (int k = 1; k <= 6; k++) {
    std::string bn = "bn" + std::to_string(k);
    Tensor zeros(w.at(bn + ".bias").shape), ones = zeros;
    for (Var& one : ones.data) one = number(1);
    running[bn + ".running_mean"] = zeros;
    running[bn + ".running_var"] = ones;
  }
  return running;
}
Tensors branch(Tensor x, const Tensors& w, Tensors& running, bool train = true) {  // of EB-CNN: what every layer gives
  Tensors out;
  for (int k = 1; k <= 6; k++) {
    std::string n = std::to_string(k), bn = "bn" + n;
    out["conv" + n] = x = conv2d(x, w.at("conv" + n + ".weight"), 1, 1);
    Tensor &mean = running.at(bn + ".running_mean"), &var = running.at(bn + ".running_var");
    Tensors y = batch_norm(x, w.at(bn + ".weight"), w.at(bn + ".bias"), mean, var, train);
    out[bn] = x = y.at("y");
    mean = y.at("new_running_mean");
    var = y.at("new_running_var");
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
  out["I_i"] = linear(mean, w.at("proj.weight"), w.at("proj.bias"));
  return out;
}
Tensors image_encoder(Tensors& in) {
  Tensors running = fresh(in);
  return branch(in.at("x"), in, running);
}
Tensors inference(Tensors& in) {  // the running statistics after some batches, then classes in evaluation mode
  Tensor batches = in.at("batches"), batch({batches.shape.begin() + 1, batches.shape.end()});
  Tensors running = fresh(in);
  for (auto from = batches.data.begin(); from != batches.data.end(); from += batch.data.size()) {
    std::copy_n(from, batch.data.size(), batch.data.begin());
    branch(batch, in, running);
  }
  Tensors out = running;
  out["I_i"] = branch(in.at("x"), in, running, false).at("I_i");
  out["c_hat"] = linear(out["I_i"], in.at("classifier.weight"), in.at("classifier.bias"));
  out["y_hat"] = largest(out["c_hat"]);
  return out;
}
Tensors text_encoder(Tensor ids, int heads, const Tensors& w) {  // CLIP's text transformer, with what every part gives
  Tensors out;
  Tensor embedding = w.at("token_embedding.weight"), positions = w.at("positional_embedding");
  int N = ids.shape[0], L = ids.shape[1], W = embedding.width();
  Tensor x({N, L, W}), at_eot({N, W}), end = largest(ids), none({0});
  for (int n = 0; n < N; n++)
    for (int l = 0; l < L; l++)
      for (int k = 0; k < W; k++) x({n, l, k}) = embedding({static_cast<int>(ids({n, l}).v), k}) + positions({l, k});
  out["embedding"] = x;
  for (int k = 0; w.count("transformer.resblocks." + std::to_string(k) + ".ln_1.weight"); k++) {
    std::string n = std::to_string(k), tap = "block" + n + ".";
    Tensors own = part(w, "transformer.resblocks." + n + ".");
    Tensor y = out[tap + "ln_1"] = layer_norm(x, own.at("ln_1.weight"), own.at("ln_1.bias"));
    y = out[tap + "attn"] = attention(y, own.at("attn.in_proj_weight"), own.at("attn.in_proj_bias"),
                                      own.at("attn.out_proj.weight"), own.at("attn.out_proj.bias"), heads);
    x = out[tap + "residual_1"] = x + y;
    y = out[tap + "ln_2"] = layer_norm(x, own.at("ln_2.weight"), own.at("ln_2.bias"));
    y = out[tap + "gelu"] = each(linear(y, own.at("mlp.c_fc.weight"), own.at("mlp.c_fc.bias")), quick_gelu);
    y = out[tap + "mlp"] = linear(y, own.at("mlp.c_proj.weight"), own.at("mlp.c_proj.bias"));
    x = out[tap + "residual_2"] = x + y;
  }
  out["ln_final"] = x = layer_norm(x, w.at("ln_final.weight"), w.at("ln_final.bias"));
  for (int n = 0; n < N; n++)
    for (int k = 0; k < W; k++) at_eot({n, k}) = x({n, static_cast<int>(end.data[n].v), k});
  out["at_eot"] = at_eot;
  out["T_i"] = linear(at_eot, transposed(w.at("text_projection")), none);
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
const std::map<int, std::string> DESCRIPTIONS{  // of the three classes that the paper prints
    {0, "dense clusters of vertical edifices with limited spatial gaps, representing urban centers"},
    {8, "areas with minimal building density, characterized by isolated structures and significant open spaces"},
    {16, "bodies of water such as rivers, lakes, or seas, appearing as uniform blue areas on images"}};
Tensors prompt(Tensors& in) {
  Tensor t;
  for (const Group& g : GROUPS)
    if (g.name == in.at("group").text)
      t.text = "a photo of a " + DESCRIPTIONS.at(in.at("class_index").integer()) + " with " + g.words + " bands";
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

// ------------------------------------------------------------------------------------------------------ the training
Tensor stacked(const Tensors& found, const std::string& symbol) {  // of all groups
  std::vector<int> shape = found.at(symbol + "_" + GROUPS[0].name).shape;
  shape.insert(shape.begin(), static_cast<int>(GROUPS.size()));
  Tensor all(shape);
  auto to = all.data.begin();
  for (const Group& g : GROUPS) {
    const Tensor& x = found.at(symbol + "_" + g.name);
    to = std::copy(x.data.begin(), x.data.end(), to);
  }
  return all;
}
Tensors chain(Tensors& in, const Tensors& w) {  // Fig. 1: every symbol
  Tensor y = in.at("y"), ids = in.at("ids");
  Tensors out, X = band_groups(in);
  auto join = [&](const Tensors& more) { out.insert(more.begin(), more.end()); };
  int B = y.shape[0], L = ids.shape[2];
  for (int k = 0; k < static_cast<int>(GROUPS.size()); k++) {
    const std::string& g = GROUPS[k].name;
    Tensor prompts({B, L});
    for (int j = 0; j < B; j++)
      for (int l = 0; l < L; l++) prompts({j, l}) = ids({static_cast<int>(y.data[j].v), k, l});
    Tensors own = part(w, "branches." + g + "."), running = fresh(own);
    Tensors pair{{"I_i", branch(X.at("X_" + g), own, running).at("I_i")},
                 {"T_i", text_encoder(prompts, in.at("heads").integer(), part(w, "text.")).at("T_i")}};
    Tensors S = similarity(pair);
    join({{"I_" + g, pair["I_i"]}, {"T_" + g, pair["T_i"]}, {"S_" + g, S["S_i"]}, {"S_hat_" + g, S["S_hat_i"]}});
  }
  for (const std::string symbol : {"S", "S_hat"}) {
    Tensors groups{{"S_groups", stacked(out, symbol)}, {"alpha", in.at("alpha")}};
    out[symbol] = fuse(groups).at("S");
  }
  Tensors features{{"I_groups", stacked(out, "I")}};
  join(concat(features));
  join(supervised_matrix(in));
  join(contrastive_loss(out));
  out["c_hat"] = linear(out["I"], w.at("classifier.weight"), w.at("classifier.bias"));
  out["L_cls"] = scalar(cross_entropy(out["c_hat"], y));
  out["L"] = scalar(out["L_cls"].data[0] + in.at("beta").data[0] * out["L_con"].data[0]);
  return out;
}
Tensors training(Tensors& in) {  // every symbol and gradient of the first step, then SGD
  Tensors out, w, velocity;
  for (auto& [name, x] : in)
    if (name.find('.') != std::string::npos) w[name] = x;  // the settings have no dot
  for (size_t t = 0; t < in.at("lr").data.size(); t++) {
    tape.clear();
    for (auto& [name, x] : w) remember(x);
    Tensors found = chain(in, w);
    std::vector<double> slope(tape.size());
    slope[found.at("L").data[0].n] = 1;
    backward(slope);
    if (t == 0) out = found;
    else out["L_step" + std::to_string(t + 1)] = found.at("L");
    for (auto& [name, x] : w) {
      Tensor g = gradient(x, slope), &v = velocity.emplace(name, Tensor(x.shape)).first->second;
      if (t == 0) out["grad." + name] = g;
      for (size_t i = 0; i < x.data.size(); i++) {
        v.data[i].v = in.at("momentum").item() * v.data[i].v + g.data[i].v + in.at("weight_decay").item() * x.data[i].v;
        x.data[i].v -= in.at("lr").data[t].v * v.data[i].v;
      }
    }
  }
  for (auto& [name, x] : w) out["after." + name] = x;
  return out;
}

using Operation = std::function<Tensors(Tensors&)>;
Operation activation(Var (*f)(Var)) {
  return [f](Tensors& in) { return Tensors{{"y", each(in.at("x"), f)}}; };
}
const std::map<std::string, Operation> OPERATIONS{
    {"read_array", read_array}, {"band_groups", band_groups}, {"similarity", similarity}, {"fuse", fuse},
    {"supervised_matrix", supervised_matrix}, {"contrastive_loss", contrastive_loss}, {"concat", concat}, {"sgd", sgd},
    {"metrics", metrics}, {"image_encoder", image_encoder}, {"relu", activation(relu)}, {"gelu", activation(gelu)},
    {"quick_gelu", activation(quick_gelu)}, {"statistics", statistics}, {"standardise", standardise}, {"split", split},
    {"inference", inference}, {"training", training}, {"prompt", prompt},
    {"text_encoder", [](Tensors& in) { return text_encoder(in.at("ids"), in.at("heads").integer(), in); }},
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
  std::vector<int> shape;
  for (const Json& n : t.at("shape").list) shape.push_back(std::stoi(n.text));
  Tensor x(shape);
  if (t.at("dtype").text == "string") return x.text = t.at("data").list.at(0).text, x;
  for (size_t i = 0; i < x.data.size(); i++) x.data[i].v = std::stod(t.at("data").list.at(i).text);
  return x;
}
void write(std::ostream& out, const std::string& name, const Tensor& x) {
  out << '"' << name << "\": {\"shape\": [";
  for (size_t i = 0; i < x.shape.size(); i++) out << (i ? ", " : "") << x.shape[i];
  out << "], \"data\": [";
  if (!x.text.empty()) out << '"' << x.text << '"';
  else
    for (size_t i = 0; i < x.data.size(); i++) {
      double v = x.data[i].v;
      out << (i ? ", " : "");
      if (std::isfinite(v)) out << v;
      else out << (std::isnan(v) ? "\"NaN\"" : v > 0 ? "\"Infinity\"" : "\"-Infinity\"");
    }
  out << "]}";
}
Tensors answer(const Json& c) {
  tape.clear();
  Tensors in;
  for (auto& [name, t] : c.at("inputs").object) in[name] = tensor(t);
  if (!c.object.count("cotangents")) return OPERATIONS.at(c.at("op").text)(in);
  std::vector<std::string> asked;  // inputs whose gradients are wanted
  for (auto& [name, expected] : c.at("expect").object)
    if (name.rfind("grad.", 0) == 0) asked.push_back(name.substr(5));
  for (auto& name : asked) remember(in.at(name));
  Tensors out = OPERATIONS.at(c.at("op").text)(in);
  std::vector<double> slope(tape.size());  // of the sum of cotangent times output
  for (auto& [name, t] : c.at("cotangents").object)
    for (size_t i = 0; i < out.at(name).data.size(); i++)
      if (Var y = out.at(name).data[i]; y.n >= 0) slope[y.n] += std::stod(t.at("data").list.at(i).text);
  backward(slope);
  for (auto& name : asked) out["grad." + name] = gradient(in.at(name), slope);
  return out;
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
        out << (first ? "\n\"" : ",\n\"") << c.at("id").text << "\": ";
        first = false;
        char separator = '{';
        for (auto& [name, x] : answer(c)) {
          out << separator;
          write(out, name, x);
          separator = ',';
        }
        out << '}';
      }
    }
    out << "}}\n";
    profile << "{\"without\": [\"pre_tokens\", \"tokenize\"]}\n";
    return out.flush() && profile.flush() ? 0 : 1;
  } catch (const std::exception& error) {
    return std::cerr << "conform_cpp: " << error.what() << '\n', 1;
  }
}
