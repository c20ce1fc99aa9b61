// Answers the conformance kit in plain JavaScript, in float64, without packages: the format needs no Python.
// Usage: node examples/conform_javascript.mjs SET.json ANSWERS.json
//
// Every formula is written once, on numbers that remember how they were made (Num); one sweep backward over them
// gives all gradients.
import { readFileSync, writeFileSync } from "node:fs";
const [set, file] = process.argv.slice(2);
const { kit, seed, descriptions, merges, cases } = JSON.parse(readFileSync(set, "utf8"));

// Numbers that have gradients. Where none is needed, valueOf lets a Num take part in plain arithmetic.
let tape = []; // every Num in the order of computation
class Num {
  constructor(v, from = []) { // from: [what it is made of, its slope with respect to that]
    Object.assign(this, { v, from, gradient: 0 });
    tape.push(this);
  }
  valueOf() { return this.v; }
  plus(b) { return made(this + b, [[this, 1], [b, 1]]); }
  minus(b) { return made(this - b, [[this, 1], [b, -1]]); }
  times(b) { return made(this * b, [[this, +b], [b, this.v]]); }
  over(b) { return made(this / b, [[this, 1 / b], [b, -this / (b * b)]]); }
}
const made = (v, from) => new Num(v, from.filter(([x]) => x instanceof Num));
const exp = (x, y = Math.exp(x)) => made(y, [[x, y]]);
const log = (x) => made(Math.log(x), [[x, 1 / x]]);
const root = (x, y = Math.sqrt(x)) => made(y, [[x, 1 / (2 * y)]]);
const sum = (x) => made(x.reduce((total, value) => total + value, 0), x.map((value) => [value, 1]));
const dot = (x, y) =>
  made(x.reduce((total, value, d) => total + value * y[d], 0), x.flatMap((value, d) => [[value, +y[d]], [y[d], +value]]));
const logistic = (x) => (x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x)));
const sigmoid = (x, y = logistic(x)) => made(y, [[x, y * (1 - y)]]);
const softplus = (x) => made(Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))), [[x, logistic(x)]]);
const relu = (x) => (x > 0 ? x : new Num(0));
const quickGelu = (x) => x.times(sigmoid(x.times(1.702)));
function gelu(x, Phi = (1 + erf(x / Math.SQRT2)) / 2) {
  return made(x * Phi, [[x, Phi + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI)]]);
}
function erf(x) { // 2 / sqrt(pi) e^(-x^2) sum of 2^n x^(2n+1) / (1 3 5 ... (2n+1)): no term is negative for x > 0
  if (Math.abs(x) > 6) return Math.sign(x);
  let [total, term] = [x, x];
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(total); n++) total += term *= (2 * x * x) / (2 * n + 1);
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
}
function backward() { // from the gradients of the outputs to those of everything that they are made of
  for (const x of tape.reverse()) for (const [part, slope] of x.from) part.gradient += x.gradient * slope;
  tape = [];
}

// Arrays of arrays. `deep` applies f to every number, `rows` to every innermost row.
const range = (n) => [...Array(n).keys()];
const deep = (f, x, ...more) => (Array.isArray(x) ? x.map((y, i) => deep(f, y, ...more.map((z) => z[i]))) : f(x, ...more));
const rows = (x, f) => (Array.isArray(x[0]) ? x.map((y) => rows(y, f)) : f(x));
const flip = (A) => A[0].map((_, j) => A.map((row) => row[j]));
const add = (A, B) => deep((a, b) => sum([a, b]), A, B);
const each = (object, f) => Object.fromEntries(Object.entries(object).map(([name, x]) => [name, f(x)]));
const named = (prefix, object) => Object.fromEntries(Object.entries(object).map(([name, x]) => [prefix + name, x]));

// The equations.
const GROUPS = { // bands counted from 1: the 8 of sen1, then the 10 of sen2; in the order of Eq. (9)
  RGB: [9, 10, 11], VRE: [12, 13, 14, 16], NIR: [15], SWIR: [17, 18], VH: [1, 2, 5], VV: [3, 4, 6], PolSAR: [7, 8],
};
function bandGroups(sen1, sen2) {
  const joined = sen1.map((image, b) => image.map((line, i) => line.map((pixel, j) => [...pixel, ...sen2[b][i][j]])));
  return each(GROUPS, (bands) => rows(joined, (pixel) => bands.map((n) => pixel[n - 1])));
}
function unit(x) {
  const square = dot(x, x), norm = square > 1e-24 ? root(square) : 1e-12;
  return x.map((value) => value.over(norm));
}
const bce = (S, W) => sum(S.flat().map((s, i) => softplus(W.flat()[i] ? s.times(-1) : s))).over(S.flat().length);
function crossEntropy(z, c, top = Math.max(...z)) {
  return log(sum(z.map((x) => exp(x.minus(top))))).minus(z[c].minus(top));
}
const argmax = (x) => x.map(Number).indexOf(Math.max(...x)); // of equals the first

// The layers.
const mean = (x) => sum(x).over(x.length);
const variance = (x, m = mean(x)) => mean(x.map((value) => value.minus(m)).map((d) => d.times(d)));
const linear = ({ x, weight, bias }) => rows(x, (row) => weight.map((w, o) => dot(row, w).plus(bias[o])));
function softmax(x, top = Math.max(...x)) {
  const e = x.map((s) => exp(s.minus(top))), total = sum(e);
  return e.map((s) => s.over(total));
}
const window = (n, k, stride, padding) => // where the windows begin
  range(Math.floor((n + 2 * padding - k) / stride) + 1).map((i) => i * stride - padding);
function conv2d({ x, weight, stride, padding }) {
  const [kh, kw] = shape(weight).slice(2), outside = weight[0].map(() => 0);
  const kernels = weight.map((w) => range(kh).flatMap((u) => range(kw).flatMap((v) => w.map((channel) => channel[u][v]))));
  return x.map((image) => window(image.length, kh, stride, padding).map((r) =>
    window(image[0].length, kw, stride, padding).map((s) => {
      const pixels = range(kh).flatMap((u) => range(kw).flatMap((v) => image[r + u]?.[s + v] ?? outside));
      return kernels.map((kernel) => dot(kernel, pixels));
    })));
}
const larger = (a, b) => (b > a ? b : a); // of equals the first
const maxPool = (x) => x.map((image) => window(image.length, 2, 2, 0).map((r) => window(image[0].length, 2, 2, 0).map((s) =>
  image[r][s].map((_, c) => [image[r][s][c], image[r][s + 1][c], image[r + 1][s][c], image[r + 1][s + 1][c]].reduce(larger)))));
function layerNorm({ x, weight, bias }) {
  return rows(x, (row) => {
    const m = mean(row), deviation = root(variance(row, m).plus(1e-5));
    return row.map((value, k) => value.minus(m).over(deviation).times(weight[k]).plus(bias[k]));
  });
}
function batchNorm({ x, weight, bias, running_mean, running_var, train }) {
  const channels = flip(x.flat(2)), N = channels[0].length;
  const m = train ? channels.map(mean) : running_mean;
  const v = train ? channels.map((channel, c) => variance(channel, m[c])) : running_var;
  const deviation = v.map((value) => root(value.plus(1e-5)));
  const moved = (old, batch) => (train ? old.map((value, c) => new Num(0.9 * value + 0.1 * batch[c])) : old);
  return {
    y: rows(x, (row) => row.map((value, c) => value.minus(m[c]).over(deviation[c]).times(weight[c]).plus(bias[c]))),
    new_running_mean: moved(running_mean, m),
    new_running_var: moved(running_var, v.map((value) => (value * N) / (N - 1))),
  };
}
function attention({ x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads }) { // token l sees 0..l
  const width = out_bias.length, d = width / heads;
  const taken = (row, which, h) => row.slice(which * width + h * d, which * width + (h + 1) * d); // of query, key, value
  const joined = linear({ x, weight: in_proj_weight, bias: in_proj_bias }).map((tokens) =>
    tokens.map((row, l) => range(heads).flatMap((h) => {
      const p = softmax(range(l + 1).map((m) => dot(taken(row, 0, h), taken(tokens[m], 1, h)).over(Math.sqrt(d))));
      return flip(range(l + 1).map((m) => taken(tokens[m], 2, h))).map((values) => dot(p, values));
    })));
  return linear({ x: joined, weight: out_weight, bias: out_bias });
}

// The data.
function metrics({ y, y_hat, K }) {
  const C = range(K).map((j) => range(K).map((k) => y.filter((label, i) => label === j && y_hat[i] === k).length));
  const total = y.length, row = C.map(sum), column = flip(C).map(sum), right = C.map((line, k) => line[k]);
  const p = sum(right) / total, chance = dot(row, column) / total ** 2;
  const present = range(K).filter((k) => row[k] > 0); // absent classes are left out
  const average = mean(present.map((k) => right[k] / row[k]));
  return { confusion: C, overall_accuracy: p, average_accuracy: average, kappa: (p - chance) / (1 - chance) };
}
function shuffled(n, seed) { // Fisher and Yates, with Lehmer's generator
  const order = range(n);
  for (let i = n - 1, state = seed + 1; i > 0; i--) {
    state = (state * 48271) % 2147483647;
    [order[i], order[state % (i + 1)]] = [order[state % (i + 1)], order[i]];
  }
  return order;
}
function split({ y, per_class, test, seed }) { // our own draw; the answer counts its rows
  const order = shuffled(y.length, seed);
  const train = range(17).flatMap((k) => order.filter((row) => y[row] === k).slice(0, per_class));
  const others = order.filter((row) => !train.includes(row)), tested = others.slice(0, test);
  if (train.length < 17 * per_class || others.length < test) return { refused: 1 };
  const count = (drawn) => range(17).map((k) => drawn.filter((row) => y[row] === k).length);
  const repeated = train.length - new Set(train).size + tested.length - new Set(tested).size;
  return { train: count(train), test: count(tested), repeated, common: tested.filter((row) => train.includes(row)).length };
}

// The text.
const WORDS = {
  RGB: "red green blue", VRE: "vegetation red edge", NIR: "near infrared", SWIR: "short wave infrared",
  VH: "vh", VV: "vv", PolSAR: "pol",
};

// CLIP's tokenizer. Its ids: a character for each byte, the same with </w>, the merges in order, SOT, EOT.
const own = range(256).filter((b) => (b > 32 && b < 127) || (b > 160 && b !== 173));
const bytes = [...own, ...range(256).filter((b) => !own.includes(b))];
const letters = bytes.map((b, i) => String.fromCodePoint(i < own.length ? b : 256 + i - own.length));
const symbols = [...letters, ...letters.map((c) => c + "</w>"), ...merges.map((pair) => pair.replace(" ", ""))];
const [rank, id] = [merges, symbols].map((names) => new Map(names.map((name, i) => [name, i])));
const names = { amp: "&", lt: "<", gt: ">", nbsp: "\xa0", copy: "©", Eacute: "É", eacute: "é", Dagger: "‡" }; // no others
const reference = /&(?:#(\d+);|#[xX]([\da-fA-F]+);|(Dagger);|(amp|lt|gt|nbsp|copy|[Ee]acute);?)/g; // Dagger needs its ;
const resolved = (_, ten, hex, name, open) => names[name ?? open] ?? String.fromCodePoint(ten ?? parseInt(hex, 16));
const cleaned = (text) => text.replace(reference, resolved).replace(reference, resolved).toLowerCase();
const pattern = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;
const preTokens = (text) => cleaned(text).match(pattern) ?? [];
function merged(piece) {
  const word = [...Buffer.from(piece)].map((b) => letters[bytes.indexOf(b)]);
  word.push(word.pop() + "</w>");
  for (;;) {
    const ranks = range(word.length - 1).map((i) => rank.get(`${word[i]} ${word[i + 1]}`) ?? Infinity);
    const at = ranks.indexOf(Math.min(...ranks)); // the lowest rank; of equals, the first from the left
    if (at < 0 || ranks[at] === Infinity) return word.map((symbol) => id.get(symbol));
    word.splice(at, 2, word[at] + word[at + 1]);
  }
}

// The operations.
const operations = {
  read_array: ({ a }) => ({ sum_0: a.reduce(add), sum_1: a.map((A) => flip(A).map(sum)), sum_2: a.map((A) => A.map(sum)) }),
  band_groups: ({ sen1, sen2 }) => named("X_", bandGroups(sen1, sen2)),
  similarity: ({ I_i, T_i, S = I_i.map((x) => T_i.map((y) => dot(unit(x), unit(y)))) }) => ({ S_i: S, S_hat_i: flip(S) }),
  fuse: ({ S_groups, alpha }) => ({ S: deep((s) => s.times(alpha), S_groups.reduce(add)) }),
  supervised_matrix: ({ y }) => ({ W: y.map((j) => y.map((k) => Number(j === k))) }),
  bce: ({ S, W }) => ({ L: bce(S, W) }),
  contrastive_loss: ({ S, W, a = bce(S, W), b = bce(flip(S), W) }) => ({ L_i2t: a, L_t2i: b, L_con: a.plus(b).over(2) }),
  concat: ({ I_groups }) => ({ I: flip(I_groups).map((features) => features.flat()) }),
  cross_entropy: ({ c_hat, c }) => ({ L_cls: mean(c_hat.map((z, j) => crossEntropy(z, c[j]))) }),
  total_loss: ({ L_cls, L_con, beta }) => ({ L: L_cls.plus(L_con.times(beta)) }),
  sgd: ({ w, gradients, lr, momentum, weight_decay, v = w.map(() => 0) }) => {
    const steps = gradients.map((g, t) => {
      v = v.map((x, i) => momentum * x + g[i] + weight_decay * w[i]);
      return [(w = w.map((x, i) => x - lr[t] * v[i])), v];
    });
    return { w: flip(steps)[0], v: flip(steps)[1] };
  },
  conv2d: (inputs) => ({ y: conv2d(inputs) }),
  max_pool2d: ({ x }) => ({ y: maxPool(x) }),
  linear: (inputs) => ({ y: linear(inputs) }),
  layer_norm: (inputs) => ({ y: layerNorm(inputs) }),
  batch_norm: batchNorm,
  relu: ({ x }) => ({ y: deep(relu, x) }),
  gelu: ({ x }) => ({ y: deep(gelu, x) }),
  quick_gelu: ({ x }) => ({ y: deep(quickGelu, x) }),
  attention: (inputs) => ({ y: attention(inputs) }),
  metrics,
  statistics: ({ x, channels = flip(x.flat(2)) }) => ({ mean: channels.map(mean), std: channels.map((c) => root(variance(c))) }),
  standardise: ({ x, mean, std }) => ({ y: rows(x, (row) => row.map((v, c) => v.minus(mean[c]).over(+std[c] || 1))) }),
  split,
  predict: ({ c_hat }) => ({ y_hat: c_hat.map(argmax) }),
  prompt: ({ class_index, group }) => ({ text: `a photo of a ${descriptions[class_index]} with ${WORDS[group]} bands` }),
  pre_tokens: ({ text }) => ({ pieces: preTokens(text) }),
  tokenize: ({ text, context, truncate }) => {
    if (/<\|(startoftext|endoftext)\|>/.test(cleaned(text))) return { refused: 1 };
    const row = [symbols.length, ...preTokens(text).flatMap(merged), symbols.length + 1];
    if (row.length > context && !truncate) return { refused: 1 };
    if (row.length > context) row.splice(context - 1, Infinity, symbols.length + 1);
    return { ids: range(context).map((i) => row[i] ?? 0), end: row.length - 1 };
  },
};

// Cases in, answers out.
const nested = ({ shape: [n, ...rest], data }, make) => n === undefined ? make(data[0]) // from flat, row-major
  : range(n).map((i) => nested({ shape: rest, data: data.slice(i * data.length / n, (i + 1) * data.length / n) }, make));
const read = (t) => nested(t, (value) => (t.dtype === "float64" ? new Num(value) : value));
const shape = (x) => (Array.isArray(x) ? [x.length, ...(x.length ? shape(x[0]) : [])] : []);
const tensor = (x) => ({ shape: shape(x), data: [x].flat(Infinity).map((value) => (value instanceof Num ? value.v : value)) });
function answer({ op, inputs, cotangents, expect }) {
  tape = [];
  const given = each(inputs, read), outputs = operations[op](given);
  if (!cotangents) return outputs;
  for (const [name, { data }] of Object.entries(cotangents)) // the gradients of the sum of cotangent times output
    [outputs[name]].flat(Infinity).forEach((y, i) => { y.gradient += data[i]; });
  backward();
  const asked = Object.keys(expect).filter((name) => name.startsWith("grad."));
  const gradients = asked.map((name) => [name, deep((x) => x.gradient, given[name.slice(5)])]);
  return { ...outputs, ...Object.fromEntries(gradients) };
}
const answers = Object.fromEntries(cases.map((item) => [item.id, each(answer(item), tensor)]));
writeFileSync(file, JSON.stringify({ kit, seed, dtype: "float64", answers }));
