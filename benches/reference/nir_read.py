"""Reads a network that `etrace export RUN --nir FILE` wrote with the Python package `nir`, and simulates it by forward Euler or by exponential
steps, whichever the file names. Needs `pip install nir`.

    nir_read.py FILE.nir                      lists nodes and edges
    nir_read.py FILE.nir --npz OUT.npz        simulates 60 steps of random spikes and writes the values of every node, which
                                              `etrace import FILE.nir --check OUT.npz` compares with its own
    nir_read.py A.nir B.nir                   says whether both have the same nodes, edges and bits
"""
import argparse

import h5py
import nir
import numpy as np


def steps(path):
    """Scheme and step (in the unit of the file's times) that an export names."""
    with h5py.File(path) as f:
        meta = f.get("node/metadata", {})
        text = lambda name, usual: meta[name][()].decode() if name in meta else usual
        dt = float(meta["etrace_dt_ms"][()]) if "etrace_dt_ms" in meta else 1.0
        return text("etrace_scheme", "euler"), dt * {"s": 1e-3, "ms": 1.0}[text("etrace_time_unit", "s")]


class Node:
    """One node in steps; values are flat."""

    def __init__(self, node, scheme, dt):
        self.p, self.dt, self.v, self.i = node, dt, 0.0, 0.0
        self.share = (lambda tau: dt / tau) if scheme == "euler" else (lambda tau: -np.expm1(-dt / tau))

    def __call__(self, x):
        p, kind = self.p, type(self.p).__name__
        flat = lambda name: np.asarray(getattr(p, name), np.float64).reshape(-1)
        if kind in ("Affine", "Linear"):
            return p.weight @ x + (p.bias if kind == "Affine" else 0.0)
        if kind == "Scale":
            return flat("scale") * x
        if kind == "Threshold":
            return (x > flat("threshold")).astype(np.float64)
        if kind in ("Flatten", "Input", "Output"):
            return x
        if kind not in ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF"):
            raise SystemExit(f"{kind} is not simulated here")
        if kind.startswith("Cuba"):
            self.i = self.i + self.share(flat("tau_syn")) * (flat("w_in") * x - self.i)
            x = self.i
        if kind in ("I", "IF"):
            self.v = self.v + self.dt * flat("r") * x
        else:
            tau = flat("tau_mem" if kind.startswith("Cuba") else "tau")
            self.v = self.v + self.share(tau) * (flat("v_leak") + flat("r") * x - self.v)
        if not kind.endswith("F"):
            return self.v
        z = (self.v > flat("v_threshold")).astype(np.float64)
        self.v = np.where(z > 0, flat("v_reset"), self.v)
        return z


def simulate(graph, x, scheme, dt):
    """Every value of every node. Where a way leads round, the edge out of a spiking node is that of the step before: right for layers
    that are recurrent each by itself."""
    before = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}

    def reaches(start, goal, seen):
        return any(b == goal or (b not in seen and reaches(b, goal, seen | {b})) for a, b in graph.edges if a == start)

    spiking = {k for k, n in graph.nodes.items() if type(n).__name__ in ("IF", "LIF", "CubaLIF")}
    # From a spiking node into a way that leads back to it.
    late = {(a, b) for a, b in graph.edges if a in spiking and (b == a or reaches(b, a, {b}))}
    order, left = [], set(graph.nodes)
    while left:
        ready = sorted(k for k in left if all(a not in left or (a, k) in late for a in before[k]))
        if not ready:
            raise SystemExit("a way round without a spiking node is not simulated here")
        order += ready
        left -= set(ready)
    nodes = {k: Node(graph.nodes[k], scheme, dt) for k in order}
    size = {k: int(np.prod(graph.nodes[k].output_type["output"])) for k in order}
    last, all_values = {k: np.zeros(size[k]) for k in order}, {k: [] for k in order}
    for row in x:
        now = {}
        for k in order:
            is_input = isinstance(graph.nodes[k], nir.Input)
            now[k] = nodes[k](row if is_input else sum(last[a] if (a, k) in late else now[a] for a in before[k]))
            all_values[k].append(now[k])
        last = now
    return {k: np.stack(v).astype(np.float32) for k, v in all_values.items()}


def same(a, b):
    a, b = nir.read(a), nir.read(b)
    if a.edges != b.edges or a.nodes.keys() != b.nodes.keys():
        return "nodes or edges differ"
    for name in a.nodes:
        x, y = a.nodes[name].to_dict(), b.nodes[name].to_dict()
        for key in x.keys() - {"metadata"}:
            p, q = np.asarray(x[key]), np.asarray(y[key])
            if p.shape != q.shape or p.dtype != q.dtype or p.tobytes() != q.tobytes():
                return f"{name}.{key} differs"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="+")
    parser.add_argument("--npz")
    parser.add_argument("--rate", type=float, default=0.3)
    args = parser.parse_args()
    if len(args.file) == 2:
        why = same(*args.file)
        print(why or "the same nodes, edges and bits")
        raise SystemExit(1 if why else 0)
    graph, (scheme, dt) = nir.read(args.file[0]), steps(args.file[0])
    for name, node in graph.nodes.items():
        print(f"{name:12} {type(node).__name__:10} {[int(n) for n in np.atleast_1d(node.output_type['output'])]}")
    print(" ".join(f"{a}->{b}" for a, b in graph.edges), f"({scheme}, dt {dt:g})")
    if args.npz:
        n = int(np.prod(next(v.output_type["output"] for v in graph.nodes.values() if isinstance(v, nir.Input))))
        x = (np.random.default_rng(1).random((60, n)) < args.rate).astype(np.float32)
        values = simulate(graph, x, scheme, dt)
        inputs = {k for k, v in graph.nodes.items() if isinstance(v, nir.Input)}
        np.savez(args.npz, input=x, **{k: v for k, v in values.items() if k not in inputs})
        print("written", args.npz, {k: round(float(v.mean()), 4) for k, v in values.items()})


if __name__ == "__main__":
    main()
