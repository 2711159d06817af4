"""Writes nested.nir and conv.nir (package nir 1.0.8)."""
import nir, numpy as np
rng = np.random.default_rng(1)
f = lambda *s: rng.normal(0, 1, s).astype(np.float32)
full = lambda s, v: np.full(s, v, np.float32)

# A recurrent layer as a graph of its own, in double precision, with metadata.
cuba = nir.CubaLIF(tau_syn=np.full(5, .01), tau_mem=np.full(5, .02), r=np.full(5, 1.), v_leak=np.full(5, 0.), v_threshold=np.full(5, 1.))
rnn = nir.NIRGraph({'input': nir.Input(np.array([5])), 'lif': cuba, 'w_rec': nir.Linear(rng.normal(0, 1, (5, 5))), 'output': nir.Output(np.array([5]))},
                   [('input', 'lif'), ('lif', 'w_rec'), ('w_rec', 'lif'), ('lif', 'output')])
nir.write('nested.nir', nir.NIRGraph({'input': nir.Input(np.array([3])), 'a': nir.Affine(f(5, 3), f(5)), 'rnn': rnn, 'b': nir.Linear(f(2, 5)), 'output': nir.Output(np.array([2]))},
                                     [('input', 'a'), ('a', 'rnn'), ('rnn', 'b'), ('b', 'output')], metadata={'author': 'forms.py', 'n': 3}))

# Images; the last weight is stored in several chunks.
pool = lambda kind, stride: kind(kernel_size=np.array([2, 2]), stride=np.array(stride), padding=np.array([0, 0]))
neuron = lambda kind, s, names: kind(**{n: full(s, v) for n, v in names.items()})
graph = nir.NIRGraph.from_list(
    nir.Input(np.array([2, 12, 10])), nir.Conv2d(None, f(4, 2, 3, 3), 1, 'same', 1, 1, f(4)), neuron(nir.IF, (4, 12, 10), dict(r=50, v_threshold=1)),
    pool(nir.SumPool2d, [2, 2]), nir.Conv2d((6, 5), f(6, 4, 3, 3), (2, 1), (1, 1), (1, 1), 1, f(6)),
    neuron(nir.LIF, (6, 3, 5), dict(tau=.02, r=1, v_leak=0, v_threshold=1)), pool(nir.AvgPool2d, [1, 1]), nir.Flatten({'input': np.array([6, 2, 4])}, 0, -1),
    nir.Linear(f(300, 48)), nir.Scale(full(300, .5)), nir.Threshold(full(300, .1)), nir.Linear(f(3, 300)), neuron(nir.LI, 3, dict(tau=.02, r=1, v_leak=0)))
nir.write('conv.nir', graph)
