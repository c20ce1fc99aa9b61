// Answers the conformance kit in plain JavaScript, in float64, without packages: the format needs no Python.
// Usage: node examples/conform_javascript.mjs VECTORS/ ANSWERS/, then
// python -m bplcz_ref conform check ANSWERS/ --dtype float64
//
// Every formula is written once, on numbers that remember how they were made (Num); one sweep backward over them
// gives all gradients.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
const [vectors, folder] = process.argv.slice(2);

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
const part = (w, prefix) => Object.fromEntries(
  Object.entries(w).filter(([name]) => name.startsWith(prefix)).map(([name, x]) => [name.slice(prefix.length), x]));

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

// The networks.
const fresh = (w) => Object.fromEntries(range(6).flatMap((k) => [["mean", 0], ["var", 1]].map(([name, start]) =>
  [`bn${k + 1}.running_${name}`, w[`bn${k + 1}.bias`].map(() => new Num(start))])));
function imageEncoder(x, w, running = fresh(w), train = 1) { // EB-CNN's branch, with what every layer gives
  const out = {};
  for (const k of [1, 2, 3, 4, 5, 6]) {
    out[`conv${k}`] = x = conv2d({ x, weight: w[`conv${k}.weight`], stride: 1, padding: 1 });
    const { y, ...moved } = batchNorm({ x, ...part(w, `bn${k}.`), ...part(running, `bn${k}.`), train });
    for (const name in moved) running[`bn${k}.${name.replace("new_", "")}`] = moved[name];
    out[`bn${k}`] = x = y;
    out[`relu${k}`] = x = deep(relu, x);
    if (k === 2 || k === 4) out[`pool${k}`] = x = maxPool(x);
  }
  out.mean = x.map((image) => flip(image.flat()).map(mean));
  return { ...out, I_i: linear({ x: out.mean, ...part(w, "proj.") }) };
}
function textEncoder({ ids, heads, ...w }) { // CLIP's text transformer, with what every part gives
  let x = ids.map((row) => row.map((id, l) => add(w["token_embedding.weight"][id], w.positional_embedding[l])));
  const out = { embedding: x };
  for (let k = 0; `transformer.resblocks.${k}.ln_1.weight` in w; k++) {
    const own = part(w, `transformer.resblocks.${k}.`), tap = (name, y) => (out[`block${k}.${name}`] = y);
    const { "out_proj.weight": out_weight, "out_proj.bias": out_bias, ...in_proj } = part(own, "attn.");
    let y = tap("ln_1", layerNorm({ x, ...part(own, "ln_1.") }));
    y = tap("attn", attention({ x: y, ...in_proj, out_weight, out_bias, heads }));
    x = tap("residual_1", add(x, y));
    y = tap("ln_2", layerNorm({ x, ...part(own, "ln_2.") }));
    y = tap("gelu", deep(quickGelu, linear({ x: y, ...part(own, "mlp.c_fc.") })));
    y = tap("mlp", linear({ x: y, ...part(own, "mlp.c_proj.") }));
    x = tap("residual_2", add(x, y));
  }
  out.ln_final = layerNorm({ x, ...part(w, "ln_final.") });
  out.at_eot = out.ln_final.map((row, n) => row[argmax(ids[n])]);
  const T_i = out.at_eot.map((row) => flip(w.text_projection).map((column) => dot(row, column)));
  return { ...out, T_i };
}
function chain(w, { sen1, sen2, y, ids, alpha, beta, heads }) { // Fig. 1: every symbol
  const out = {}, X = bandGroups(sen1, sen2), all = (symbol) => Object.keys(X).map((g) => out[`${symbol}_${g}`]);
  Object.entries(X).forEach(([g, X_i], k) => {
    const I_i = imageEncoder(X_i, part(w, `branches.${g}.`)).I_i;
    const T_i = textEncoder({ ids: y.map((c) => ids[c][k]), heads, ...part(w, "text.") }).T_i;
    const { S_i, S_hat_i } = operations.similarity({ I_i, T_i });
    Object.assign(out, { [`I_${g}`]: I_i, [`T_${g}`]: T_i, [`S_${g}`]: S_i, [`S_hat_${g}`]: S_hat_i });
  });
  const [S, S_hat] = ["S", "S_hat"].map((symbol) => operations.fuse({ S_groups: all(symbol), alpha }).S);
  const { W } = operations.supervised_matrix({ y }), losses = operations.contrastive_loss({ S, W });
  const { I } = operations.concat({ I_groups: all("I") }), c_hat = linear({ x: I, ...part(w, "classifier.") });
  const { L_cls } = operations.cross_entropy({ c_hat, c: y });
  const { L } = operations.total_loss({ L_cls, L_con: losses.L_con, beta });
  return { ...out, S, S_hat, W, ...losses, I, c_hat, L_cls, L };
}
function training({ lr, momentum, weight_decay, sen1, sen2, y, ids, alpha, beta, heads, ...w }) {
  const out = {};
  lr.forEach((rate, step) => {
    const found = chain(w, { sen1, sen2, y, ids, alpha, beta, heads });
    found.L.gradient = 1;
    backward();
    if (step > 0) out[`L_step${step + 1}`] = found.L;
    else Object.assign(out, found, named("grad.", each(w, (x) => deep((p) => p.gradient, x))));
    for (const p of Object.values(w).flat(Infinity)) {
      p.velocity = momentum * (p.velocity ?? 0) + p.gradient + weight_decay * p;
      p.v -= rate * p.velocity;
      p.gradient = 0;
    }
  });
  return { ...out, ...named("after.", w) };
}
function inference({ batches, x, ...w }) { // the running statistics after some batches, then classes in evaluation mode
  const running = fresh(w);
  for (const batch of batches) imageEncoder(batch, w, running);
  const { I_i } = imageEncoder(x, w, running, 0), c_hat = linear({ x: I_i, ...part(w, "classifier.") });
  return { ...running, I_i, c_hat, y_hat: c_hat.map(argmax) };
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
const DESCRIPTIONS = { // of the classes 0, 8 and 16, the three that the paper prints
  0: "dense clusters of vertical edifices with limited spatial gaps, representing urban centers",
  8: "areas with minimal building density, characterized by isolated structures and significant open spaces",
  16: "bodies of water such as rivers, lakes, or seas, appearing as uniform blue areas on images",
};
const WORDS = {
  RGB: "red green blue", VRE: "vegetation red edge", NIR: "near infrared", SWIR: "short wave infrared",
  VH: "vh", VV: "vv", PolSAR: "pol",
};

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
  image_encoder: ({ x, ...w }) => imageEncoder(x, w),
  text_encoder: textEncoder,
  training,
  metrics,
  statistics: ({ x, channels = flip(x.flat(2)) }) => ({ mean: channels.map(mean), std: channels.map((c) => root(variance(c))) }),
  standardise: ({ x, mean, std }) => ({ y: rows(x, (row) => row.map((v, c) => v.minus(mean[c]).over(+std[c] || 1))) }),
  split,
  predict: ({ c_hat }) => ({ y_hat: c_hat.map(argmax) }),
  inference,
  prompt: ({ class_index, group }) => ({ text: `a photo of a ${DESCRIPTIONS[class_index]} with ${WORDS[group]} bands` }),
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
const head = readFileSync(`${vectors}/manifest.json`);
const answers = { kit: JSON.parse(head).kit, manifest: createHash("sha256").update(head).digest("hex"), answers: {} };
for (const file of readdirSync(vectors).filter((name) => /^\d-.*\.json$/.test(name)))
  for (const item of JSON.parse(readFileSync(`${vectors}/${file}`)).cases)
    if (item.op in operations) answers.answers[item.id] = each(answer(item), tensor);
mkdirSync(folder, { recursive: true });
writeFileSync(`${folder}/answers.json`, JSON.stringify(answers));
