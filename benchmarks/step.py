"""One training step of EB-CNN (BP-LCZ), ours beside the same model in PyTorch on the CPU, in one process.

    python benchmarks/step.py [--width 32 --features 512] [--dtype float64] [--samples 15]

A step is forward, backward and SGD update on a batch of 32 simulated patches: batch norm in training, the seven
branches, a text tower of width 128 (2 layers, 2 heads) over the prompts of the classes in the batch, each
distinct prompt encoded once and its context cut, both losses. Before anything is timed, both sides must agree in
the loss and in the whole gradient. The peer has what PyTorch does best here: channels_last, fused SGD, fused
attention, each distinct prompt encoded once, as many threads as we have; it has not the tree of common
beginnings that encoders/text.py walks, which is part of what is measured.

The two are timed in turns, and a sample counts only if other processes hardly ran meanwhile (/proc/stat; elsewhere
than on Linux every sample counts). (That threads waited for a core would not tell: idle BLAS and OpenMP threads
spin, and our own then wait for them, or they for ours; that belongs to the time of a step.) What is printed
is medians and their ratio, and the CPU time of all threads in every sample, which a busy machine disturbs less
(with one thread; two of PyTorch's burn CPU time in waiting for each other). Times of another day or machine
compare with nothing here. BPLCZ_THREADS in the environment sets the threads of both sides.
"""

import argparse
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

from bplcz_ref import bands, model, nn, optim, prompts, weights
from bplcz_ref.encoders import ebcnn, text
from bplcz_ref.kernels.cores import thread_count

BATCH, CLASSES, ALPHA, BETA = 32, 17, 0.25, 2.0
TEXT = {"width": 128, "layers": 2, "heads": 2}
RULE = {"learning_rate": 1e-4, "momentum": 0.9, "weight_decay": 0.002}


def word_tokens():  # -> (17, 7, L), size of the vocabulary
    """The 119 prompts, one id a word: what a step costs does not depend on how words are split into tokens."""
    words = {}
    rows = [[words.setdefault(w, len(words) + 1) for w in p.split()] for p in prompts.prompts()]
    start, end = len(words) + 1, len(words) + 2
    longest = max(map(len, rows)) + 2
    ids = [[start, *row, end] + [0] * (longest - 2 - len(row)) for row in rows]
    return np.array(ids).reshape(CLASSES, 7, longest), end + 1


class Ours:
    def __init__(self, width, features, dtype, x, y):
        tokens, vocabulary = word_tokens()
        self.network = model.bplcz(
            {group: ebcnn.encoder(len(i), width, features) for group, i in bands.INDEX.items()},
            nn.dense(7 * features, CLASSES),
            text=text.encoder(vocabulary, **TEXT, features=features),
            tokens=tokens,
            alpha=ALPHA,
            beta=BETA,
        )
        self.params, self.state = self.network.init(np.random.default_rng(47), dtype)
        self.velocity, self.batch = None, (x, y)

    def gradients(self):
        return model.loss_and_gradients(self.network.loss, self.params, self.state, self.batch)

    def step(self):
        _, gradients, trace = self.gradients()
        self.state = trace["state"]
        self.params, self.velocity = optim.sgd(self.params, self.velocity, gradients, **RULE)


class Torch:
    def __init__(self, params, x, y):
        self.p = {}
        for name, value in weights.named(params).items():
            tensor = torch.tensor(np.array(value))
            if tensor.ndim == 4:
                tensor = tensor.to(memory_format=torch.channels_last)
            self.p[name] = tensor.requires_grad_(True)
        self.running = {
            name: (torch.zeros_like(v).detach(), torch.ones_like(v).detach())
            for name, v in self.p.items()
            if ".bn" in name and name.endswith("weight")
        }
        self.x, self.y = torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(y)  # channels_last as it is
        self.tokens = torch.from_numpy(word_tokens()[0])
        self.optimiser = torch.optim.SGD(
            list(self.p.values()), lr=RULE["learning_rate"], momentum=0.9, weight_decay=0.002, fused=True
        )

    def branch(self, group, x):
        p, name = self.p, f"branches.{group}."
        x = x.contiguous(memory_format=torch.channels_last)
        for k in range(1, 7):
            bn = f"{name}bn{k}.weight"
            x = F.conv2d(x, p[f"{name}conv{k}.weight"], padding=1)
            x = F.batch_norm(x, *self.running[bn], p[bn], p[f"{name}bn{k}.bias"], training=True)
            x = F.relu(x, inplace=True)
            if k in (2, 4):
                x = F.max_pool2d(x, 2)
        return F.linear(x.mean((2, 3)), p[name + "proj.weight"], p[name + "proj.bias"])

    def text(self, ids):
        p, name = {k[5:]: v for k, v in self.p.items() if k.startswith("text.")}, "transformer.resblocks.{}.{}"
        N, L = ids.shape
        width, heads = TEXT["width"], TEXT["heads"]
        x = F.embedding(ids, p["token_embedding.weight"]) + p["positional_embedding"][:L]
        for k in range(TEXT["layers"]):
            q = {part: p[name.format(k, part)] for part in (
                "ln_1.weight", "ln_1.bias", "attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight",
                "attn.out_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias",
                "mlp.c_proj.weight", "mlp.c_proj.bias",
            )}  # fmt: skip
            h = F.layer_norm(x, (width,), q["ln_1.weight"], q["ln_1.bias"])
            qkv = F.linear(h, q["attn.in_proj_weight"], q["attn.in_proj_bias"])
            qkv = qkv.view(N, L, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            h = F.scaled_dot_product_attention(*qkv, is_causal=True).transpose(1, 2).reshape(N, L, width)
            x = x + F.linear(h, q["attn.out_proj.weight"], q["attn.out_proj.bias"])
            h = F.layer_norm(x, (width,), q["ln_2.weight"], q["ln_2.bias"])
            h = F.linear(h, q["mlp.c_fc.weight"], q["mlp.c_fc.bias"])
            h = h * torch.sigmoid(1.702 * h)
            x = x + F.linear(h, q["mlp.c_proj.weight"], q["mlp.c_proj.bias"])
        x = F.layer_norm(x[torch.arange(N), ids.argmax(1)], (width,), p["ln_final.weight"], p["ln_final.bias"])
        return x @ p["text_projection"]

    def loss(self):
        images = {}
        sensors = {"sen1": self.x[:, :8], "sen2": self.x[:, 8:]}
        for group, index in bands.INDEX.items():
            images[group] = self.branch(group, sensors[bands.GROUPS[group]["sensor"]][:, index])
        I = torch.stack(list(images.values()), 1)
        L_cls = F.cross_entropy(
            F.linear(I.flatten(1), self.p["classifier.weight"], self.p["classifier.bias"]), self.y
        )
        classes, place = torch.unique(self.y, return_inverse=True)
        T = self.text(self.tokens[classes].flatten(0, 1)).view(len(classes), 7, -1)
        S = ALPHA * F.normalize(I, dim=2).flatten(1) @ F.normalize(T, dim=2).flatten(1).T
        W = (self.y[:, None] == self.y).to(S.dtype)
        return L_cls + BETA * F.binary_cross_entropy_with_logits(S[:, place], W)

    def step(self):
        self.optimiser.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimiser.step()


def agree(ours, peer):
    """Loss and whole gradient of both sides: relative differences, checked before anything is timed."""
    L, gradients, _ = ours.gradients()
    peer.optimiser.zero_grad()
    loss = peer.loss()
    loss.backward()
    flat = weights.named(gradients)
    apart = sum(float(np.sum((flat[k] - v.grad.numpy()) ** 2.0)) for k, v in peer.p.items()) ** 0.5
    whole = sum(float((v.grad.double() ** 2).sum()) for v in peer.p.values()) ** 0.5
    in_loss, in_gradient = abs(float(L) - loss.item()) / loss.item(), apart / whole
    # In float32 a few ReLU and max-pool choices fall the other way, so the gradient is judged as a whole.
    bounds = (1e-5, 5e-3) if np.asarray(L).dtype == np.float32 else (1e-12, 1e-10)
    print(f"relative difference: loss {in_loss:.1e}, gradient {in_gradient:.1e}")
    if not (in_loss < bounds[0] and in_gradient < bounds[1]):
        raise SystemExit(f"the two sides compute different things: expected below {bounds}")


def others():
    """CPU seconds that the machine has spent on anything but this process; 0 where /proc/stat is missing."""
    try:
        with open("/proc/stat") as f:
            user, nice, system, _, _, *rest = map(int, f.readline().split()[1:9])
    except OSError:
        return 0.0
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK") - time.process_time()


def in_turns(steps, samples, budget, tolerance=0.05):
    """{name: (kept times, CPU times of all)} of the steps, one after the other."""
    kept, cpu = {name: [] for name in steps}, {name: [] for name in steps}
    for step in list(steps.values()) * 2:
        step()
    end = time.perf_counter() + budget
    while min(map(len, kept.values())) < samples and time.perf_counter() < end:
        for name, step in steps.items():
            time.sleep(0.02)  # the other side's threads stop spinning
            before, start, used = others(), time.perf_counter(), time.process_time()
            step()
            took = time.perf_counter() - start
            cpu[name].append(time.process_time() - used)
            if others() - before <= tolerance * took + 0.02:  # /proc/stat counts in hundredths of a second
                kept[name].append(took)
    return {name: (kept[name], cpu[name]) for name in steps}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog="example: python benchmarks/step.py --width 16 --features 64"
    )
    parser.add_argument("--width", type=int, default=32, help="EB-CNN's base width w (paper preset 32, small 16)")
    parser.add_argument("--features", type=int, default=512, help="feature size d (paper preset 512, small 64)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--samples", type=int, default=15, help="undisturbed samples wanted of each side")
    parser.add_argument("--seconds", type=float, default=60, help="stop after this long with what there is")
    options = parser.parse_args()
    torch.set_num_threads(thread_count())

    rng = np.random.default_rng(47)
    x = rng.standard_normal((BATCH, 32, 32, 18)).astype(options.dtype)  # simulated: noise costs what images cost
    y = rng.integers(0, CLASSES, BATCH)
    ours = Ours(options.width, options.features, options.dtype, x, y)
    peer = Torch(ours.params, x, y)
    agree(ours, peer)
    result = in_turns({"bplcz_ref": ours.step, "torch": peer.step}, options.samples, options.seconds)
    for name, (times, cpu) in result.items():
        low, mid, high = np.percentile(times, [10, 50, 90]) * 1e3 if times else (np.nan,) * 3
        print(
            f"{name:10} {mid:7.1f} ms  [{low:.1f}-{high:.1f}]  {len(times)} of {len(cpu)} samples kept, "
            f"CPU {np.median(cpu) * 1e3:.1f} ms"
        )
    wall, cpu = ([np.median(side[k]) if side[k] else np.nan for side in result.values()] for k in (0, 1))
    print(
        f"ratio bplcz_ref / torch {wall[0] / wall[1]:.2f}, of CPU times {cpu[0] / cpu[1]:.2f}  "
        f"(w = {options.width}, d = {options.features}, {options.dtype}, {thread_count()} threads, "
        f"torch {torch.__version__})"
    )


if __name__ == "__main__":
    main()
