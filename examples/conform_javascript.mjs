// Answers the conformance kit in plain JavaScript, in float64, without packages: the format needs no Python.
// Usage: node examples/conform_javascript.mjs VECTORS/ ANSWERS/, then
// python -m bplcz_ref conform check ANSWERS/ --dtype float64 --profile ANSWERS/profile.json
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
const [vectors, folder] = process.argv.slice(2);
const without = ["prompt", "image_encoder", "text_encoder", "inference", "split"];
const profile = { suites: [0, 1, 2, 3, 4, 5, 6, 8, 9], without, gradients: false };
const range = (n) => [...Array(n).keys()];
const sum = (x) => x.reduce((a, b) => a + b, 0);
const flip = (A) => A[0].map((_, j) => A.map((row) => row[j]));
const add = (A, B) => A.map((row, j) => row.map((x, k) => x + B[j][k]));
const dot = (x, y) => sum(x.map((value, d) => value * y[d]));
const unit = (x) => x.map((value) => value / Math.max(Math.hypot(...x), 1e-12));
const bands = (x, which) => (Array.isArray(x[0]) ? x.map((y) => bands(y, which)) : which.map((b) => x[b - 1]));
const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const bce = (S, W) => sum(S.map((row, j) => sum(row.map((s, k) => softplus(W[j][k] ? -s : s))))) / S.flat().length;
const crossEntropy = (z, c) => Math.max(...z) - z[c] + Math.log(sum(z.map((x) => Math.exp(x - Math.max(...z)))));

// Layers, on arrays of arrays. `rows` applies f to every innermost row.
const rows = (x, f) => (Array.isArray(x[0]) ? x.map((y) => rows(y, f)) : f(x));
const mean = (x) => sum(x) / x.length;
const variance = (x, m = mean(x)) => mean(x.map((value) => (value - m) ** 2));
const linear = (x, weight, bias) => rows(x, (row) => weight.map((w, o) => dot(row, w) + bias[o]));
const softmax = (x) => { const e = x.map((s) => Math.exp(s - Math.max(...x))); return e.map((s) => s / sum(e)); };
function erf(x) { // 2 / sqrt(pi) e^(-x^2) sum of 2^n x^(2n+1) / (1 3 5 ... (2n+1)): no term is negative for x > 0
  if (Math.abs(x) > 6) return Math.sign(x);
  let [total, term] = [x, x];
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(total); n++) total += term *= (2 * x * x) / (2 * n + 1);
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
}
const window = (n, k, stride, padding) => range(Math.floor((n + 2 * padding - k) / stride) + 1).map((i) => i * stride - padding);
const conv2d = (x, weight, stride, padding) => x.map((image) =>
  window(image.length, weight[0][0].length, stride, padding).map((r) =>
    window(image[0].length, weight[0][0][0].length, stride, padding).map((s) => weight.map((w) => // zeros outside
      sum(w.flatMap((kernel, c) => kernel.flatMap((line, u) => line.map((k, v) => k * (image[r + u]?.[s + v]?.[c] ?? 0)))))))));
const maxPool = (x) => x.map((image) => window(image.length, 2, 2, 0).map((r) => window(image[0].length, 2, 2, 0).map((s) =>
  image[r][s].map((_, c) => Math.max(image[r][s][c], image[r][s + 1][c], image[r + 1][s][c], image[r + 1][s + 1][c])))));
function attention(x, heads) { // x holds queries, keys and values side by side; token l sees 0..l
  const width = x[0].length / 3, d = width / heads;
  const part = (row, which, h) => row.slice(which * width + h * d, which * width + (h + 1) * d);
  return x.map((row, l) => range(heads).flatMap((h) => {
    const p = softmax(range(l + 1).map((m) => dot(part(row, 0, h), part(x[m], 1, h)) / Math.sqrt(d)));
    return range(d).map((k) => sum(p.map((weight, m) => weight * part(x[m], 2, h)[k])));
  }));
}
function batchNorm({ x, weight, bias, running_mean, running_var, train }) {
  const channels = range(weight.length).map((c) => [rows(x, (row) => [row[c]])].flat(Infinity));
  const N = channels[0].length, means = channels.map(mean), variances = channels.map((channel) => variance(channel));
  const [m, v] = train ? [means, variances] : [running_mean, running_var];
  const moved = (old, batch) => (train ? old.map((value, c) => 0.9 * value + 0.1 * batch[c]) : old);
  return {
    y: rows(x, (row) => row.map((value, c) => ((value - m[c]) / Math.sqrt(v[c] + 1e-5)) * weight[c] + bias[c])),
    new_running_mean: moved(running_mean, means),
    new_running_var: moved(running_var, variances.map((value) => (value * N) / (N - 1))),
  };
}
function metrics({ y, y_hat, K }) {
  const C = range(K).map((j) => range(K).map((k) => y.filter((label, i) => label === j && y_hat[i] === k).length));
  const total = y.length, row = C.map(sum), column = flip(C).map(sum), right = C.map((line, k) => line[k]);
  const p = sum(right) / total, chance = dot(row, column) / total ** 2;
  const present = range(K).filter((k) => row[k] > 0); // absent classes are left out
  const average = mean(present.map((k) => right[k] / row[k]));
  return { confusion: C, overall_accuracy: p, average_accuracy: average, kappa: (p - chance) / (1 - chance) };
}

// CLIP's tokenizer. Its ids: a character for each byte, the same with </w>, the merges in order, SOT, EOT.
const own = range(256).filter((b) => (b > 32 && b < 127) || (b > 160 && b !== 173));
const bytes = [...own, ...range(256).filter((b) => !own.includes(b))];
const letters = bytes.map((b, i) => String.fromCodePoint(i < own.length ? b : 256 + i - own.length));
const merges = readFileSync(`${vectors}/merges.txt`, "utf8").trimEnd().split("\n").slice(1);
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
const operations = {
  read_array: ({ a }) => ({ sum_0: a.reduce(add), sum_1: a.map((A) => flip(A).map(sum)), sum_2: a.map((A) => A.map(sum)) }),
  band_groups: ({ sen1: s, sen2: m }) => ({
    X_RGB: bands(m, [1, 2, 3]), X_VRE: bands(m, [4, 5, 6, 8]), X_NIR: bands(m, [7]), X_SWIR: bands(m, [9, 10]),
    X_VH: bands(s, [1, 2, 5]), X_VV: bands(s, [3, 4, 6]), X_PolSAR: bands(s, [7, 8]),
  }),
  similarity: ({ I_i, T_i, S = I_i.map((x) => T_i.map((y) => dot(unit(x), unit(y)))) }) => ({ S_i: S, S_hat_i: flip(S) }),
  fuse: ({ S_groups, alpha }) => ({ S: S_groups.reduce(add).map((row) => row.map((s) => alpha * s)) }),
  supervised_matrix: ({ y }) => ({ W: y.map((j) => y.map((k) => Number(j === k))) }),
  bce: ({ S, W }) => ({ L: bce(S, W) }),
  contrastive_loss: ({ S, W, a = bce(S, W), b = bce(flip(S), W) }) => ({ L_i2t: a, L_t2i: b, L_con: (a + b) / 2 }),
  concat: ({ I_groups }) => ({ I: flip(I_groups).map((features) => features.flat()) }),
  cross_entropy: ({ c_hat, c }) => ({ L_cls: sum(c_hat.map((z, j) => crossEntropy(z, c[j]))) / c.length }),
  total_loss: ({ L_cls, L_con, beta }) => ({ L: L_cls + beta * L_con }),
  sgd: ({ w, gradients, lr, momentum, weight_decay, v = w.map(() => 0) }) => {
    const steps = gradients.map((g, t) => {
      v = v.map((x, i) => momentum * x + g[i] + weight_decay * w[i]);
      return [(w = w.map((x, i) => x - lr[t] * v[i])), v];
    });
    return { w: flip(steps)[0], v: flip(steps)[1] };
  },
  conv2d: ({ x, weight, stride, padding }) => ({ y: conv2d(x, weight, stride, padding) }),
  max_pool2d: ({ x }) => ({ y: maxPool(x) }),
  linear: ({ x, weight, bias }) => ({ y: linear(x, weight, bias) }),
  layer_norm: ({ x, weight, bias }) => ({
    y: rows(x, (r) => r.map((v, k) => ((v - mean(r)) / Math.sqrt(variance(r) + 1e-5)) * weight[k] + bias[k])),
  }),
  batch_norm: batchNorm,
  relu: ({ x }) => ({ y: rows(x, (row) => row.map((v) => Math.max(v, 0))) }),
  gelu: ({ x }) => ({ y: rows(x, (row) => row.map((v) => (v * (1 + erf(v / Math.SQRT2))) / 2)) }),
  quick_gelu: ({ x }) => ({ y: rows(x, (row) => row.map((v) => v / (1 + Math.exp(-1.702 * v)))) }),
  attention: ({ x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads }) => ({
    y: linear(linear(x, in_proj_weight, in_proj_bias).map((one) => attention(one, heads)), out_weight, out_bias),
  }),
  metrics,
  statistics: ({ x, channels = flip(rows(x, (row) => [row]).flat(3)) }) => ({
    mean: channels.map((c) => mean(c)), std: channels.map((c) => Math.sqrt(variance(c))),
  }),
  standardise: ({ x, mean, std }) => ({ y: rows(x, (row) => row.map((v, c) => (v - mean[c]) / (std[c] || 1))) }),
  predict: ({ c_hat }) => ({ y_hat: c_hat.map((row) => row.indexOf(Math.max(...row))) }),
  pre_tokens: ({ text }) => ({ pieces: preTokens(text) }),
  tokenize: ({ text, context, truncate }) => {
    if (/<\|(startoftext|endoftext)\|>/.test(cleaned(text))) return { refused: 1 };
    const row = [symbols.length, ...preTokens(text).flatMap(merged), symbols.length + 1];
    if (row.length > context && !truncate) return { refused: 1 };
    if (row.length > context) row.splice(context - 1, Infinity, symbols.length + 1);
    return { ids: range(context).map((i) => row[i] ?? 0), end: row.length - 1 };
  },
};
const nested = ({ shape: [n, ...rest], data }) => n === undefined ? data[0] // from flat, row-major
  : range(n).map((i) => nested({ shape: rest, data: data.slice(i * data.length / n, (i + 1) * data.length / n) }));
const shape = (x) => (Array.isArray(x) ? [x.length, ...(x.length ? shape(x[0]) : [])] : []);
const tensor = (x) => ({ shape: shape(x), data: [x].flat(Infinity) });
const each = (object, f) => Object.fromEntries(Object.entries(object).map(([name, x]) => [name, f(x)]));
const head = readFileSync(`${vectors}/manifest.json`);
const answers = { kit: JSON.parse(head).kit, manifest: createHash("sha256").update(head).digest("hex"), answers: {} };
for (const file of readdirSync(vectors).filter((name) => /^\d-.*\.json$/.test(name)))
  for (const { id, op, inputs } of JSON.parse(readFileSync(`${vectors}/${file}`)).cases)
    if (op in operations) answers.answers[id] = each(operations[op](each(inputs, nested)), tensor);
mkdirSync(folder, { recursive: true });
writeFileSync(`${folder}/answers.json`, JSON.stringify(answers));
writeFileSync(`${folder}/profile.json`, JSON.stringify(profile));
