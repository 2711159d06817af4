"""Time the reference library on the memory-and-speed evaluation, laptop preset.

The published evaluation trains three recurrent layers of LIF neurons on one random batch and compares
BPTT, ES-D-RTRL and D-RTRL. This script does that with `braintrace`, at a size that fits a laptop, so
that its numbers can stand next to ours. It times one *training call*: reset the states, run T steps,
form the gradient, clip it, update the weights with Adam. All of that is one compiled program; nothing
of it is a Python loop. Compilation is timed separately and is not part of a repeat.

    python memspeed.py                         # the whole table
    python memspeed.py --methods bptt --steps 50 --repeats 50
    python memspeed.py --json out.json
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import brainpy.state as bs
import brainstate
import braintools
import braintrace
import jax
import jax.numpy as jnp
import numpy as np

N_IN, N_REC, N_LAYER, N_OUT, BATCH = 2048, 256, 3, 11, 16
P_IN = 0.1  # probability of an input spike per step
FF_SCALE, REC_SCALE = 10.0, 2.0  # variance multipliers: W ~ N(0, scale / fan_in)
TAU_MEM, TAU_MEM_SIGMA, TAU_OUT, V_TH = 10.0, 1.0, 10.0, 1.0  # in steps, dt = 1
ETRACE_DECAY, LR, CLIP = 0.9, 1e-3, 1.0

METHODS = ("bptt", "es-d-rtrl", "d-rtrl")
# D-RTRL moves a 52 MiB trace ([B, I, O] per layer) every step: seconds per call, so few repeats and no long run.
REPEATS = {"bptt": 30, "es-d-rtrl": 30, "d-rtrl": 3}
D_RTRL_MAX_STEPS = 50


class LifDelta(brainstate.nn.Module):
    """Recurrent LIF layer, delta synapse, soft reset. One matrix W [n_in + n_rec, n_rec] acts on [x; z]."""

    def __init__(self, n_in, n_rec, tau):
        super().__init__()
        self.neu = bs.LIF(
            n_rec, R=1.0, tau=tau, V_th=V_TH, V_reset=0.0, V_rest=0.0,
            V_initializer=braintools.init.ZeroInit(),
            spk_fun=braintools.surrogate.ReluGrad(alpha=0.3, width=1.0), spk_reset="soft",
        )
        # Fan-in counts each block by itself.
        w = jnp.concatenate([
            braintools.init.KaimingNormal(FF_SCALE)((n_in, n_rec)),
            braintools.init.KaimingNormal(REC_SCALE)((n_rec, n_rec)),
        ])
        self.syn = bs.DeltaProj(comm=braintrace.nn.Linear(n_in + n_rec, n_rec, w_init=w), post=self.neu)

    def update(self, x):  # x [B, n_in] -> spikes [B, n_rec]
        self.syn(jnp.concatenate([x, self.neu.get_spike()], axis=-1))
        return self.neu(0.0)


class Net(brainstate.nn.Module):
    def __init__(self, n_in=N_IN, n_rec=N_REC, n_layer=N_LAYER, n_out=N_OUT, taus=None):
        super().__init__()
        if taus is None:
            normal = braintools.init.Normal(TAU_MEM, TAU_MEM_SIGMA)
            taus = [normal((n_rec,)) for _ in range(n_layer)]
        self.layers = [LifDelta(n_in if k == 0 else n_rec, n_rec, tau) for k, tau in enumerate(taus)]
        self.out = braintrace.nn.LeakyRateReadout(
            n_rec, n_out, tau=TAU_OUT, w_init=braintools.init.KaimingNormal())

    def update(self, x):  # x [B, n_in] -> logits [B, n_out]
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


def step_loss(logits, labels):
    return braintools.metric.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def gradient_fn(net, method, x0, labels):
    """A function xs [T, B, n_in] -> (gradients, mean loss), and the weights it differentiates.

    BPTT differentiates the mean loss over the steps; the online rules sum the per-step gradients, as
    the published scripts do.
    """
    batch = x0.shape[0]
    if method == "bptt":
        brainstate.nn.init_all_states(net, batch_size=batch)
        weights = net.states(brainstate.ParamState)

        def mean_loss(xs):
            return brainstate.transform.for_loop(lambda x: step_loss(net(x), labels), xs).mean()

        grad = brainstate.transform.grad(mean_loss, weights, return_value=True)

        def run(xs):
            brainstate.nn.reset_all_states(net, batch_size=batch)
            return grad(xs)

        return run, weights

    options = {"es-d-rtrl": dict(decay_or_rank=ETRACE_DECAY), "d-rtrl": {}}[method]
    learner = braintrace.compile(
        net, method.replace("-", "_"), x0, batch_size=batch, vjp_method="single-step", **options)

    def run(xs):
        brainstate.nn.reset_all_states(net, batch_size=batch)
        learner.reset_state(batch_size=batch)
        grads, losses = learner.etrace_grad(
            xs, step_fn=lambda x: step_loss(learner(x), labels), reduction="sum", return_value=True)
        return grads, losses.mean()

    return run, learner.param_states


def build(method, n_steps, seed):
    """A compiled training call without arguments; it returns the mean loss and blocks until the update is done."""
    brainstate.random.seed(seed)
    rng = np.random.default_rng(seed)
    xs = jnp.asarray(rng.random((n_steps, BATCH, N_IN)) < P_IN, dtype=jnp.float32)
    labels = jnp.asarray(rng.integers(0, N_OUT, BATCH))

    grad, weights = gradient_fn(Net(), method, xs[0], labels)
    opt = braintools.optim.Adam(lr=LR)
    opt.register_trainable_weights(weights)

    @brainstate.transform.jit
    def train(xs):
        grads, loss = grad(xs)
        opt.update(brainstate.nn.clip_grad_norm(grads, CLIP))
        return loss

    def call():
        loss = train(xs)
        jax.block_until_ready([loss, [w.value for w in weights.values()]])
        return float(loss)

    return call


def measure(method, n_steps, repeats, seed):
    load_before = os.getloadavg()[0]
    call = build(method, n_steps, seed)
    t0 = time.perf_counter()
    # Two calls, because both compile: the first leaves states of another weak type than it found.
    losses = [call(), call()]
    warm_up = time.perf_counter() - t0
    seconds = []
    for _ in range(repeats):
        t0 = time.perf_counter()
        losses.append(call())
        seconds.append(time.perf_counter() - t0)
    return {
        "method": method, "steps": n_steps, "repeats": repeats,
        "median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds),
        "warm_up_s": warm_up, "seconds": seconds,
        "loss_first": losses[0], "loss_last": losses[-1],
        "load_before": load_before, "load_after": os.getloadavg()[0],
    }


def cpu_model():
    try:
        with open("/proc/cpuinfo") as f:
            for line in f:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    p.add_argument("--steps", nargs="+", type=int, default=[50, 400], help="sequence lengths T")
    p.add_argument("--repeats", type=int, help="timed calls per row; default 30, D-RTRL 3")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json", metavar="FILE", help="write the result here as well")
    args = p.parse_args()

    brainstate.environ.set(dt=1.0)
    report = {
        "cpu": cpu_model(), "cores": usable_cores(), "device": jax.devices()[0].platform,
        "versions": {k: version(k) for k in ("braintrace", "brainstate", "braintools", "brainpy.state", "jax")},
        "preset": dict(n_in=N_IN, n_rec=N_REC, n_layer=N_LAYER, n_out=N_OUT, batch=BATCH, p_in=P_IN,
                       etrace_decay=ETRACE_DECAY, lr=LR, clip=CLIP, seed=args.seed),
        "rows": [],
    }
    print(f"cpu: {report['cpu']}, {report['cores']} cores; "
          + ", ".join(f"{k} {v}" for k, v in report["versions"].items()))
    print(f"{'method':<10} {'T':>4} {'n':>3} {'median s':>9} {'min s':>9} {'max s':>9} {'warm-up s':>10} "
          f"{'loss':>17} {'load':>11}")
    for n_steps in args.steps:
        for method in args.methods:
            if method == "d-rtrl" and n_steps > D_RTRL_MAX_STEPS:
                continue
            r = measure(method, n_steps, args.repeats or REPEATS[method], args.seed)
            report["rows"].append(r)
            print(f"{method:<10} {n_steps:>4} {r['repeats']:>3} {r['median_s']:>9.4f} {r['min_s']:>9.4f} "
                  f"{r['max_s']:>9.4f} {r['warm_up_s']:>10.2f} {r['loss_first']:>8.4f}>{r['loss_last']:<8.4f} "
                  f"{r['load_before']:>5.2f}>{r['load_after']:<5.2f}", flush=True)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(report, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    sys.exit(main())
