// Answers the conformance kit in plain JavaScript, in float64, without packages: the format needs no Python.
// Usage: node examples/conform_javascript.mjs VECTORS/ ANSWERS/, then
// python -m bplcz_ref conform check ANSWERS/ --dtype float64 --profile ANSWERS/profile.json
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
const [vectors, folder] = process.argv.slice(2);
const profile = { suites: [0, 1, 2, 3, 4, 5], without: ["conv2d", "prompt"], gradients: false };
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

// CLIP's tokenizer. Its ids: a character for each byte, the same with </w>, the merges in order, SOT, EOT.
const own = range(256).filter((b) => (b > 32 && b < 127) || (b > 160 && b !== 173));
const bytes = [...own, ...range(256).filter((b) => !own.includes(b))];
const letters = bytes.map((b, i) => String.fromCodePoint(i < own.length ? b : 256 + i - own.length));
const merges = readFileSync(`${vectors}/merges.txt`, "utf8").trimEnd().split("\n").slice(1);
const symbols = [...letters, ...letters.map((c) => c + "</w>"), ...merges.map((pair) => pair.replace(" ", ""))];
const [rank, id] = [merges, symbols].map((names) => new Map(names.map((name, i) => [name, i])));
const unescape = (text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&"); // no others
const pattern = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/gu;
const preTokens = (text) => unescape(unescape(text)).toLowerCase().match(pattern) ?? [];
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
  pre_tokens: ({ text }) => ({ pieces: preTokens(text) }),
  tokenize: ({ text, context, truncate }) => {
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
