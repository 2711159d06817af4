//! Every node of NIR against a direct computation, on the host; what is refused, by name; and what the rules make of imported graphs.

#[path = "common/host.rs"]
mod host;
mod judge;

use std::{collections::BTreeMap, path::Path};

use etrace::{
    cell::{Init, Mode, Model, Quantity},
    learn::{Learner, LossKind, Method, Objective, sequence::LearnerConfig},
    net::{
        Network, NirNet,
        nir::{
            KINDS, Scheme,
            export::export,
            import::{ImportError, Imported, Steps, import},
        },
    },
    settings::Listed,
};
use judge::case::Case;
use tasks::{
    events::TimeUnit,
    hdf5::{Value, Values},
    nir::{Graph, Node},
};

/// The step of all graphs here, s.
const DT: f64 = 1e-3;

fn single(dims: &[usize], values: &[f32]) -> Value {
    Value { dims: dims.to_vec(), values: Values::Single(values.to_vec()) }
}

/// Numbers that differ from each other, from `from` on.
fn spread(dims: &[usize], from: f32, step: f32) -> Value {
    let n: usize = dims.iter().product();
    single(dims, &(0..n).map(|k| from + step * k as f32).collect::<Vec<_>>())
}

fn whole(values: &[i64]) -> Value {
    Value { dims: vec![values.len()], values: Values::Integers(values.to_vec()) }
}

fn one(value: i64) -> Value {
    Value { dims: vec![], values: Values::Integers(vec![value]) }
}

fn node(kind: &str, values: impl IntoIterator<Item = (&'static str, Value)>) -> Node {
    Node { kind: kind.into(), values: values.into_iter().map(|(name, value)| (name.to_string(), value)).collect() }
}

/// A graph of nodes and of edges "from to".
fn graph(nodes: impl IntoIterator<Item = (&'static str, Node)>, edges: &[&str]) -> Graph {
    let edge = |e: &&str| e.split_once(' ').map(|(a, b)| (a.to_string(), b.to_string())).expect("from to");
    let nodes = nodes.into_iter().map(|(name, node)| (name.to_string(), node)).collect();
    Graph { nodes, edges: edges.iter().map(edge).collect(), ..Graph::default() }
}

/// One node between an input and an output of these shapes.
fn around(input: &[i64], middle: Node, output: &[i64]) -> Graph {
    let ends =
        [("input", node("Input", [("shape", whole(input))])), ("output", node("Output", [("shape", whole(output))]))];
    graph(ends.into_iter().chain([("node", middle)]), &["input node", "node output"])
}

fn steps(scheme: Scheme) -> Steps {
    Steps { scheme: Some(scheme), dt: Some(1000.0 * DT), time_unit: Some(TimeUnit::S) }
}

#[track_caller]
fn imported(graph: &Graph, scheme: Scheme) -> Imported {
    import(graph, steps(scheme)).expect("a sound graph")
}

/// The model for one sequence with the values of the file.
fn model(found: &Imported) -> Model {
    let mut model = found.net.trace(1, Mode::Online);
    for param in &mut model.params {
        param.init = Init::Values(found.params[&param.name].clone());
    }
    model
}

/// The output of every step for inputs of every step.
fn run(found: &Imported, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    host::outputs(&model(found), |name| found.params[name].clone(), inputs)
}

/// Inputs that differ from step to step.
fn inputs(steps: usize, n: usize) -> Vec<Vec<f64>> {
    let value = |t: usize, i: usize| ((t * 7 + i * 3) % 5) as f64 * 0.5 - 0.5 + 0.1 * i as f64;
    (0..steps).map(|t| (0..n).map(|i| value(t, i)).collect()).collect()
}

#[track_caller]
fn same(got: &[Vec<f64>], want: &[Vec<f64>]) {
    assert_eq!(got.len(), want.len());
    for (t, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.len(), want.len());
        for (i, (a, b)) in got.iter().zip(want).enumerate() {
            assert!((a - b).abs() < 1e-6 * b.abs().max(1.0), "step {t}, value {i}: {a} and {b}\n{got:?}\n{want:?}");
        }
    }
}

/// The numbers of an array in double precision.
fn of(node: &Node, name: &str) -> Vec<f64> {
    match &node.values[name].values {
        Values::Single(all) => all.iter().map(|&v| v.into()).collect(),
        other => panic!("{}", other.kind()),
    }
}

/// A neuron of `n` by its equations.
fn neuron(node: &Node, n: usize, scheme: Scheme, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let get = |name: &str| node.values.contains_key(name).then(|| of(node, name));
    let share = |tau: f64| match scheme {
        Scheme::Euler => DT / tau,
        Scheme::Exponential => 1.0 - (-DT / tau).exp(),
    };
    let (tau, syn) = (get("tau").or(get("tau_mem")), get("tau_syn"));
    let r = of(node, "r");
    let (mut v, mut current, mut all) = (vec![0.0; n], vec![0.0; n], Vec::new());
    for x in inputs {
        let mut out = vec![0.0; n];
        for k in 0..n {
            let mut drive = x[k];
            if let Some(syn) = &syn {
                current[k] += share(syn[k]) * (of(node, "w_in")[k] * drive - current[k]);
                drive = current[k];
            }
            match &tau {
                Some(tau) => v[k] += share(tau[k]) * (of(node, "v_leak")[k] + r[k] * drive - v[k]),
                None => v[k] += DT * r[k] * drive,
            }
            out[k] = v[k];
            if let Some(threshold) = get("v_threshold") {
                out[k] = f64::from(u8::from(v[k] > threshold[k]));
                if out[k] > 0.0 {
                    v[k] = of(node, "v_reset")[k];
                }
            }
        }
        all.push(out);
    }
    all
}

/// Neurons of three with constants that differ.
fn neurons() -> Vec<Node> {
    let n = 3;
    let tau = || spread(&[n], 0.004, 0.003);
    let leaky = || [("r", spread(&[n], 2.0, 0.5)), ("v_leak", spread(&[n], -0.1, 0.2))];
    let spiking = || [("v_threshold", spread(&[n], 0.3137, 0.1)), ("v_reset", spread(&[n], -0.2, 0.1))];
    let synapse = || [("tau_syn", spread(&[n], 0.002, 0.002)), ("w_in", spread(&[n], 1.0, 0.4))];
    vec![
        node("I", [("r", spread(&[n], 100.0, 30.0))]),
        node("IF", [("r", spread(&[n], 200.0, 60.0))].into_iter().chain(spiking())),
        node("LI", [("tau", tau())].into_iter().chain(leaky())),
        node("LIF", [("tau", tau())].into_iter().chain(leaky()).chain(spiking())),
        node("CubaLI", [("tau_mem", tau())].into_iter().chain(leaky()).chain(synapse())),
        node("CubaLIF", [("tau_mem", tau())].into_iter().chain(leaky()).chain(synapse()).chain(spiking())),
    ]
}

#[test]
fn neurons_follow_their_equations_in_both_schemes() {
    for middle in neurons() {
        for scheme in Scheme::ALL {
            let x = inputs(40, 3);
            let got = run(&imported(&around(&[3], middle.clone(), &[3]), scheme), &x);
            let want = neuron(&middle, 3, scheme, &x);
            same(&got, &want);
            let total: f64 = want.iter().flatten().map(|v| v.abs()).sum();
            let most = want.len() as f64 * 3.0;
            assert!(total > 2.0 && (!middle.kind.ends_with('F') || total < most), "{} is alive: {total}", middle.kind);
        }
    }
}

#[test]
fn the_two_schemes_differ() {
    let lif = &neurons()[3];
    let of = |scheme| run(&imported(&around(&[3], lif.clone(), &[3]), scheme), &inputs(40, 3));
    assert_ne!(of(Scheme::Euler), of(Scheme::Exponential));
}

#[test]
fn what_a_file_may_leave_out_has_its_usual_value() {
    for (kind, left_out) in [(3, "v_reset"), (5, "w_in"), (1, "v_reset")] {
        let mut short = neurons()[kind].clone();
        short.values.remove(left_out);
        let mut full = short.clone();
        let usual = if left_out == "w_in" { 1.0 } else { 0.0 };
        full.values.insert(left_out.into(), single(&[3], &[usual; 3]));
        let of = |node: &Node| run(&imported(&around(&[3], node.clone(), &[3]), Scheme::Euler), &inputs(40, 3));
        same(&of(&short), &of(&full));
    }
}

#[test]
fn one_number_is_that_of_all_neurons_and_shapes_broadcast() {
    let lif = |tau: Value| {
        let rest =
            ["r", "v_leak", "v_threshold", "v_reset"].map(|q| (q, single(&[], &[if q == "r" { 3.0 } else { 0.2 }])));
        node("LIF", [("tau", tau)].into_iter().chain(rest))
    };
    let x = inputs(30, 6);
    let row = spread(&[3], 0.003, 0.002);
    let whole = single(&[2, 3], &[0.003, 0.005, 0.007, 0.003, 0.005, 0.007]);
    let got = run(&imported(&around(&[2, 3], lif(row), &[6]), Scheme::Euler), &x);
    same(&got, &run(&imported(&around(&[2, 3], lif(whole), &[6]), Scheme::Euler), &x));
    assert!(got.iter().flatten().any(|z| *z > 0.0));
}

#[test]
fn maps_without_memory() {
    let x = inputs(3, 4);
    let weight = spread(&[2, 4], -0.5, 0.2);
    let dense = |t: usize, j: usize| (0..4).map(|i| f64::from(-0.5 + 0.2 * (4 * j + i) as f32) * x[t][i]).sum::<f64>();
    let want =
        |bias: [f64; 2]| (0..3).map(|t| (0..2).map(|j| dense(t, j) + bias[j]).collect()).collect::<Vec<Vec<f64>>>();
    let linear = around(&[4], node("Linear", [("weight", weight.clone())]), &[2]);
    same(&run(&imported(&linear, Scheme::Euler), &x), &want([0.0; 2]));
    let affine = node("Affine", [("weight", weight), ("bias", single(&[2], &[0.5, -1.0]))]);
    same(&run(&imported(&around(&[4], affine, &[2]), Scheme::Euler), &x), &want([0.5, -1.0]));
    let scale = around(&[4], node("Scale", [("scale", single(&[4], &[1.0, -2.0, 0.5, 0.0]))]), &[4]);
    let scaled = |x: &Vec<f64>| x.iter().zip([1.0, -2.0, 0.5, 0.0]).map(|(x, s)| x * s).collect();
    same(&run(&imported(&scale, Scheme::Euler), &x), &x.iter().map(scaled).collect::<Vec<_>>());
    // Above, not at it.
    let threshold = around(&[4], node("Threshold", [("threshold", single(&[4], &[0.5, 0.0, -1.0, 0.5]))]), &[4]);
    let x = vec![vec![0.5, 0.1, -1.0, 0.6]];
    same(&run(&imported(&threshold, Scheme::Euler), &x), &[vec![0.0, 1.0, 0.0, 1.0]]);
}

/// A convolution by its definition: input `[C, H, W]`, weight `[O, C / groups, Y, X]`.
struct Plain {
    image: [usize; 3],
    weight: [usize; 4],
    stride: [usize; 2],
    low: [i64; 2],
    high: [i64; 2],
    dilation: [usize; 2],
    groups: usize,
}

impl Plain {
    fn apply(&self, x: &[f64], w: &[f64], bias: &[f64]) -> Vec<f64> {
        let [c, h, width] = self.image;
        let [o, of_group, ky, kx] = self.weight;
        let positions = |size: usize, k: usize, a: usize| {
            let reach = (k - 1) * self.dilation[a] + 1;
            (size as i64 + self.low[a] + self.high[a] - reach as i64) as usize / self.stride[a] + 1
        };
        let (oh, ow) = (positions(h, ky, 0), positions(width, kx, 1));
        let mut out = Vec::new();
        for j in 0..o {
            for y in 0..oh {
                for z in 0..ow {
                    let mut sum = bias[j];
                    for i in 0..of_group {
                        let channel = j / (o / self.groups) * (c / self.groups) + i;
                        for (a, b) in (0..ky).flat_map(|a| (0..kx).map(move |b| (a, b))) {
                            let row = (y * self.stride[0] + a * self.dilation[0]) as i64 - self.low[0];
                            let column = (z * self.stride[1] + b * self.dilation[1]) as i64 - self.low[1];
                            if (0..h as i64).contains(&row) && (0..width as i64).contains(&column) {
                                let at = (channel * h + row as usize) * width + column as usize;
                                sum += x[at] * w[((j * of_group + i) * ky + a) * kx + b];
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
        out
    }
}

#[test]
fn convolutions_over_images_and_lines() {
    let pair = |a: [usize; 2]| whole(&a.map(|n| n as i64));
    for (stride, padding, dilation, groups, same_size) in [
        ([1, 1], [0, 0], [1, 1], 1, false),
        ([2, 1], [1, 2], [1, 1], 1, false),
        ([1, 2], [2, 0], [2, 1], 2, false),
        ([1, 1], [0, 0], [1, 2], 1, true),
    ] {
        let (image, weight) = ([2, 5, 6], [4, 2 / groups, 2, 3]);
        let reach = |a: usize| ((weight[2 + a] - 1) * dilation[a]) as i64;
        let low = [0, 1].map(|a| if same_size { reach(a) / 2 } else { padding[a] as i64 });
        let high = [0, 1].map(|a| if same_size { reach(a) - reach(a) / 2 } else { padding[a] as i64 });
        let plain = Plain { image, weight, stride, low, high, dilation, groups };
        let (w, b) = (spread(&weight, -0.4, 0.03), spread(&[4], 0.1, 0.2));
        let text = Value { dims: vec![], values: Values::Texts(vec!["same".into()]) };
        let padding = if same_size { text } else { pair(padding) };
        let middle = node(
            "Conv2d",
            [
                ("weight", w.clone()),
                ("bias", b.clone()),
                ("stride", pair(stride)),
                ("padding", padding),
                ("dilation", pair(dilation)),
                ("groups", one(groups as i64)),
            ],
        );
        let x = inputs(2, 60);
        let (w, b) = (of(&middle, "weight"), of(&middle, "bias"));
        let want: Vec<Vec<f64>> = x.iter().map(|x| plain.apply(x, &w, &b)).collect();
        same(&run(&imported(&around(&[2, 5, 6], middle, &[want[0].len() as i64]), Scheme::Euler), &x), &want);
    }
    let plain = Plain {
        image: [2, 1, 7],
        weight: [3, 2, 1, 3],
        stride: [1, 2],
        low: [0, 1],
        high: [0, 1],
        dilation: [1, 2],
        groups: 1,
    };
    let middle = node(
        "Conv1d",
        [
            ("weight", spread(&[3, 2, 3], -0.4, 0.05)),
            ("bias", spread(&[3], 0.1, 0.2)),
            ("stride", one(2)),
            ("padding", one(1)),
            ("dilation", one(2)),
            ("groups", one(1)),
            ("input_shape", one(7)),
        ],
    );
    let x = inputs(2, 14);
    let (w, b) = (of(&middle, "weight"), of(&middle, "bias"));
    let want: Vec<Vec<f64>> = x.iter().map(|x| plain.apply(x, &w, &b)).collect();
    same(&run(&imported(&around(&[2, 7], middle, &[want[0].len() as i64]), Scheme::Euler), &x), &want);
}

#[test]
fn pools_and_flatten() {
    // Each channel by itself: a grouped convolution with ones.
    let plain = Plain {
        image: [2, 4, 5],
        weight: [2, 1, 2, 3],
        stride: [2, 1],
        low: [1, 0],
        high: [1, 0],
        dilation: [1, 1],
        groups: 2,
    };
    let x = inputs(2, 40);
    for (kind, factor) in [("SumPool2d", 1.0), ("AvgPool2d", 1.0 / 6.0)] {
        let sizes = [("kernel_size", whole(&[2, 3])), ("stride", whole(&[2, 1])), ("padding", whole(&[1, 0]))];
        let sums = x.iter().map(|x| plain.apply(x, &[1.0; 12], &[0.0; 2]));
        let want: Vec<Vec<f64>> = sums.map(|sums| sums.iter().map(|v| v * factor).collect()).collect();
        let graph = around(&[2, 4, 5], node(kind, sizes), &[want[0].len() as i64]);
        same(&run(&imported(&graph, Scheme::Euler), &x), &want);
    }
    for (start, end, shape) in [(0, -1, vec![40]), (1, -1, vec![2, 20]), (0, 1, vec![8, 5]), (-2, -1, vec![2, 20])] {
        let middle =
            node("Flatten", [("start_dim", one(start)), ("end_dim", one(end)), ("input_type", whole(&[2, 4, 5]))]);
        let found = imported(&around(&[2, 4, 5], middle, &shape), Scheme::Euler);
        same(&run(&found, &x), &x);
        let shape: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
        assert_eq!(found.net.plan().expect("a plan").shapes["node"], shape);
    }
}

#[test]
fn a_delay_is_that_of_each_neuron() {
    let x = inputs(9, 3);
    let delay = node("Delay", [("delay", single(&[3], &[0.0, 0.002, 0.005]))]);
    let want: Vec<Vec<f64>> = (0..9usize)
        .map(|t| [0, 2, 5].iter().enumerate().map(|(i, d)| t.checked_sub(*d).map_or(0.0, |t| x[t][i])).collect())
        .collect();
    same(&run(&imported(&around(&[3], delay, &[3]), Scheme::Exponential), &x), &want);
}

/// A recurrent layer in all the ways in which it can be written gives the same.
#[test]
fn a_recurrent_edge_carries_the_value_of_the_step_before() {
    let ends =
        || [("input", node("Input", [("shape", whole(&[3]))])), ("output", node("Output", [("shape", whole(&[3]))]))];
    let lif = neurons().swap_remove(3);
    let back = || node("Linear", [("weight", spread(&[3, 3], -0.9, 0.3))]);
    let nodes = || ends().into_iter().chain([("lif", lif.clone()), ("rec", back())]);
    let found = imported(&graph(nodes(), &["input lif", "lif rec", "rec lif", "lif output"]), Scheme::Euler);
    let plan = found.net.plan().expect("a plan");
    assert_eq!(plan.recurrent().collect::<Vec<_>>(), [("lif", "rec")]);
    let x = inputs(40, 3);
    let got = run(&found, &x);
    let other = graph(nodes(), &["lif output", "rec lif", "lif rec", "input lif"]);
    same(&run(&imported(&other, Scheme::Euler), &x), &got);
    // By hand.
    let (mut v, mut last, mut want) = ([0.0; 3], [0.0; 3], Vec::new());
    let (w, get) = (of(&back(), "weight"), |q: &str| of(&lif, q));
    for x in &x {
        let drive: Vec<f64> = (0..3).map(|k| x[k] + (0..3).map(|i| w[3 * k + i] * last[i]).sum::<f64>()).collect();
        for k in 0..3 {
            v[k] += DT / get("tau")[k] * (get("v_leak")[k] + get("r")[k] * drive[k] - v[k]);
            last[k] = f64::from(u8::from(v[k] > get("v_threshold")[k]));
            v[k] = if last[k] > 0.0 { get("v_reset")[k] } else { v[k] };
        }
        want.push(last.to_vec());
    }
    same(&got, &want);
    assert_ne!(got, neuron(&lif, 3, Scheme::Euler, &x), "the recurrence matters");
    // A potential that goes back to itself: its own state is its memory.
    let li = neurons().swap_remove(2);
    let nodes = ends().into_iter().chain([("li", li)]);
    let found = imported(&graph(nodes, &["input li", "li li", "li output"]), Scheme::Euler);
    assert_eq!(found.net.trace(1, Mode::Online).states.len(), 1);
}

/// What is wrong with a graph.
#[track_caller]
fn refused(graph: &Graph) -> String {
    let ImportError(text) = import(graph, steps(Scheme::Euler)).expect_err("it is refused");
    text
}

#[test]
fn what_has_no_counterpart_is_refused_by_name() {
    let with = |change: &dyn Fn(&mut Node)| {
        let mut lif = neurons().swap_remove(3);
        change(&mut lif);
        refused(&around(&[3], lif, &[3]))
    };
    type Change = Box<dyn Fn(&mut Node)>;
    let put = |name: &'static str, value: Value| -> Change {
        Box::new(move |n| drop(n.values.insert(name.into(), value.clone())))
    };
    let cases: Vec<(Change, &str)> = vec![
        (
            Box::new(|n| n.kind = "AdLIF".into()),
            "node `node` is of type `AdLIF`, which has no counterpart here; known are Input, Output",
        ),
        (put("tau_ahp", single(&[3], &[1.0; 3])), "node `node` holds `tau_ahp`, which has no counterpart in LIF"),
        (Box::new(|n| drop(n.values.remove("tau"))), "node `node` lacks `tau`, which every LIF has"),
        (put("tau", single(&[4], &[1.0; 4])), "`nodes.node` has a `tau` of shape [4], and its input has the shape [3]"),
        (put("tau", single(&[3], &[0.0; 3])), "`nodes.node` needs a `tau` above 0, got 0"),
        (put("tau", single(&[3], &[0.0004; 3])), "forward Euler with a step of 0.001 s is not stable"),
        (put("r", single(&[3], &[f32::NAN; 3])), "has a number in `r` that must be finite"),
        (put("r", Value { dims: vec![], values: Values::Texts(vec!["x".into()]) }), "has a text as its `r`"),
        (put("r", single(&[0], &[])), "has an empty `r`"),
    ];
    for (change, want) in cases {
        let text = with(&change);
        assert!(text.contains(want), "{text}");
    }
    let delay = refused(&around(&[1], node("Delay", [("delay", single(&[1], &[0.0015]))]), &[1]));
    assert!(delay.contains("`node.delay` must be whole numbers of steps of 0.001 s, got 0.0015"), "{delay}");
    let long = refused(&around(&[1], node("Delay", [("delay", single(&[1], &[1.0]))]), &[1]));
    assert!(long.contains("needs a `delay` from 0 to 256 steps"), "{long}");
    let wide = refused(&around(&[4], node("Linear", [("weight", spread(&[2, 3], 0.0, 1.0))]), &[2]));
    assert!(wide.contains("has a weight for 3 inputs, and its input has the shape [4]"), "{wide}");
    let deep = refused(&around(&[4], node("Linear", [("weight", spread(&[2, 3, 4], 0.0, 1.0))]), &[2]));
    assert!(deep.contains("has a weight of shape [out, in], got [2, 3, 4]"), "{deep}");
}

#[test]
fn graphs_that_are_no_network_are_refused() {
    let scale = || node("Scale", [("scale", single(&[], &[2.0]))]);
    let ends =
        || [("input", node("Input", [("shape", whole(&[3]))])), ("output", node("Output", [("shape", whole(&[3]))]))];
    let all = |edges: &[&str]| refused(&graph(ends().into_iter().chain([("a", scale()), ("b", scale())]), edges));
    for (edges, want) in [
        (&["input a", "a output"][..], "`nodes.b` lies on a way from Input to Output, and nothing leads to it"),
        (
            &["input a", "a output", "a b"],
            "`nodes.b` lies on a way from Input to Output, and it does not lead to the Output",
        ),
        (&["input a", "a b", "b output", "a b"], "`a` to `b` is there twice"),
        (&["input a", "a b", "b c", "b output"], "there is no `c`"),
        (&["input a", "a b", "b output", "b input"], "must not lead to the Input"),
    ] {
        let text = all(edges);
        assert!(text.contains(want), "{text}");
    }
    let two = [("also", node("Output", [("shape", whole(&[3]))])), ("a", scale())];
    let text = refused(&graph(ends().into_iter().chain(two), &["input a", "a output", "a also"]));
    assert!(text.contains("must have one node of type Output, got 2"), "{text}");
}

fn fixture(name: &str) -> Graph {
    Graph::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/data/nir").join(name)).expect("a fixture")
}

#[test]
fn an_export_is_what_was_imported() {
    for name in ["feedforward_lif.nir", "recurrent_cubalif.nir", "conv.nir", "nested.nir"] {
        let first = fixture(name);
        let found = imported(&first, Scheme::Euler);
        let written = export(&found.net, &found.params).expect("an export");
        let read = Graph::from_bytes(written.to_bytes(), Path::new("written.nir")).expect("a sound file");
        // Without flags it says itself in which steps it was.
        let again = import(&read, Steps::default()).expect("a sound graph");
        assert_eq!(again.net, found.net, "{name}");
        let bits = |params: &BTreeMap<String, Vec<f32>>| {
            params
                .iter()
                .map(|(n, v)| (n.clone(), v.iter().map(|x| x.to_bits()).collect::<Vec<_>>()))
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(&again.params), bits(&found.params), "{name}");
        assert_eq!(read.edges, first.edges, "{name}");
        if name.starts_with("conv") {
            let padding = |graph: &Graph| graph.nodes["conv2d"].values["padding"].clone();
            assert_eq!(padding(&read), padding(&first));
            assert_eq!(read.nodes["conv2d"].values["input_shape"], whole(&[12, 10]));
        }
    }
}

#[test]
fn a_graph_inside_a_graph_becomes_its_nodes() {
    let nested = fixture("nested.nir");
    let names: Vec<&str> = nested.nodes.keys().map(String::as_str).collect();
    assert_eq!(names, ["a", "b", "input", "output", "rnn.lif", "rnn.w_rec"]);
    let found = imported(&nested, Scheme::Euler);
    assert_eq!(found.net.plan().expect("a plan").recurrent().collect::<Vec<_>>(), [("rnn.lif", "rnn.w_rec")]);
    assert!(
        found.remarks.iter().any(|r| r.contains("`rnn.w_rec.weight`: 25 of 25 numbers are rounded")),
        "{:?}",
        found.remarks
    );
    assert!(!run(&found, &inputs(5, 3)).is_empty());
}

/// Every type of node is in a graph that is imported, traced and exported above, and in the table of the documentation.
#[test]
fn every_type_has_a_row_in_the_documentation() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/nir.md")).expect("the page");
    for row in KINDS {
        let arrays: Vec<String> = row.arrays.iter().map(|(name, _)| format!("`{name}`")).collect();
        let line = format!("| `{}` | {} | {} |", row.name, row.doc, arrays.join(", "));
        assert!(text.contains(&line), "docs/nir.md needs the row\n{line}");
    }
    let rows = text.lines().filter(|line| line.starts_with("| `") && line.contains("` | ")).count();
    assert!(rows >= KINDS.len());
}

fn objective() -> Objective {
    Objective { loss: LossKind::Mse, ..Objective::default() }
}

/// How far the gradients of D-RTRL are from those of BPTT.
fn from_bptt(found: &Imported) -> f64 {
    let case = Case::of(model_of_two(found), objective(), 5, 20);
    let gradients = |method| {
        let config = LearnerConfig { method, ..LearnerConfig::default() };
        case.gradients(&Learner::new(&case.model, &case.objective, &config).expect("a learner"), false)
    };
    let want = gradients(Method::BPTT);
    let size = want.iter().flatten().fold(0.0f64, |m, v| m.max(v.abs()));
    assert!(size > 1e-6, "a gradient that is alive, got {size:e}");
    case.worst(&gradients(Method::D_RTRL), &want)
}

/// The model of two sequences, constants as in the file.
fn model_of_two(found: &Imported) -> Model {
    let mut model = found.net.trace(2, Mode::Online);
    for param in model.params.iter_mut().filter(|p| !p.trainable) {
        param.init = Init::Values(found.params[&param.name].clone());
    }
    model
}

#[test]
fn d_rtrl_is_exact_where_no_weight_leads_back() {
    let ends =
        || [("input", node("Input", [("shape", whole(&[4]))])), ("output", node("Output", [("shape", whole(&[2]))]))];
    let weights = || {
        [
            ("in", node("Affine", [("weight", spread(&[3, 4], -1.0, 0.2)), ("bias", spread(&[3], 0.0, 0.1))])),
            ("out", node("Linear", [("weight", spread(&[2, 3], -1.0, 0.4))])),
        ]
    };
    let chain = ["input in", "in cell", "cell out", "out output"];
    for cell in neurons().into_iter().chain([node("Delay", [("delay", single(&[3], &[0.001, 0.0, 0.002]))])]) {
        let kind = cell.kind.clone();
        let nodes = ends().into_iter().chain(weights()).chain([("cell", cell)]);
        for diff_spike in [false, true] {
            let mut found = imported(&graph(nodes.clone(), &chain), Scheme::Euler);
            found.net.diff_spike = diff_spike;
            let apart = from_bptt(&found);
            assert!(apart < 1e-5, "{kind}: {apart:e}");
        }
        // Trained constants too.
        let mut found = imported(&graph(nodes, &chain), Scheme::Exponential);
        let all = KINDS.iter().flat_map(|row| row.arrays).map(|(name, _)| name.to_string());
        found.net.trained = all.filter(|name| name != "delay").collect();
        found.net.check().expect("times above the step");
        let apart = from_bptt(&found);
        assert!(apart < 1e-5, "{kind}, all trained: {apart:e}");
    }
    // The value of the step before, without a weight on the way, is a way from position to position.
    let li = neurons().swap_remove(4);
    let nodes = || ends().into_iter().chain(weights()).chain([("cell", li.clone())]);
    let same_place = [&chain[..], &["cell cell"]].concat();
    assert!(from_bptt(&imported(&graph(nodes(), &same_place), Scheme::Euler)) < 1e-5);
    // With a weight it is what D-RTRL leaves out.
    let rec = node("Linear", [("weight", spread(&[3, 3], -0.9, 0.3))]);
    let back = [&chain[..], &["cell rec", "rec cell"]].concat();
    let apart = from_bptt(&imported(&graph(nodes().chain([("rec", rec)]), &back), Scheme::Euler));
    assert!(apart > 1e-3, "{apart:e}");
}

/// Every rule takes an imported network, and gives a gradient of its weights.
#[test]
fn every_rule_trains_an_imported_graph() {
    let found = imported(&fixture("recurrent_cubalif.nir"), Scheme::Euler);
    for name in Method::names() {
        let config =
            LearnerConfig { method: <Method as Listed>::by_name(name).expect("a rule"), ..LearnerConfig::default() };
        let case = Case::of(model_of_two(&found), objective(), 5, 8);
        let learner = Learner::new(&case.model, &case.objective, &config).unwrap_or_else(|e| panic!("{name}: {e}"));
        let gradients = case.gradients(&learner, false);
        let all = gradients.iter().flatten();
        assert!(all.clone().all(|g| g.is_finite()) && all.clone().any(|g| g.abs() > 1e-9), "{name}");
    }
}

#[test]
fn a_convolution_before_neurons_learns_exactly() {
    let ends = [
        ("input", node("Input", [("shape", whole(&[1, 4, 4]))])),
        ("output", node("Output", [("shape", whole(&[2]))])),
    ];
    let conv = node("Conv2d", [("weight", spread(&[2, 1, 2, 2], -0.8, 0.25)), ("bias", spread(&[2], 0.1, 0.2))]);
    let lif = ["tau", "r", "v_leak", "v_threshold", "v_reset"].into_iter().zip([0.006, 4.0, 0.0, 0.4, 0.0]);
    let lif = node("LIF", lif.map(|(q, v)| (q, single(&[2, 3, 3], &[v; 18]))));
    let pool = node("SumPool2d", [("kernel_size", whole(&[2, 2])), ("stride", whole(&[1, 1]))]);
    let out = node("Linear", [("weight", spread(&[2, 8], -1.0, 0.15))]);
    let nodes = ends.into_iter().chain([("conv", conv), ("lif", lif), ("pool", pool), ("out", out)]);
    let found =
        imported(&graph(nodes, &["input conv", "conv lif", "lif pool", "pool out", "out output"]), Scheme::Euler);
    let apart = from_bptt(&found);
    assert!(apart < 1e-5, "{apart:e}");
    // A pool between the convolution and its neurons is a part of its op, and computes what it does anywhere.
    let conv = node("Conv2d", [("weight", spread(&[2, 1, 2, 2], -0.8, 0.25)), ("bias", spread(&[2], 0.1, 0.2))]);
    let sizes = || [("kernel_size", whole(&[2, 2])), ("stride", whole(&[1, 1]))];
    let lif = ["tau", "r", "v_leak", "v_threshold", "v_reset"].into_iter().zip([0.006, 4.0, 0.0, 0.4, 0.0]);
    let lif = node("LIF", lif.map(|(q, v)| (q, single(&[8], &[v; 8]))));
    let out = node("Linear", [("weight", spread(&[2, 8], -1.0, 0.15))]);
    let ends = [
        ("input", node("Input", [("shape", whole(&[1, 4, 4]))])),
        ("output", node("Output", [("shape", whole(&[2]))])),
    ];
    let flat = node("Flatten", [("start_dim", one(0))]);
    let nodes = || {
        let all = [
            ("conv", conv.clone()),
            ("pool", node("AvgPool2d", sizes())),
            ("flat", flat.clone()),
            ("lif", lif.clone()),
            ("out", out.clone()),
        ];
        ends.clone().into_iter().chain(all)
    };
    let chain = ["input conv", "conv pool", "pool flat", "flat lif", "lif out", "out output"];
    let found = imported(&graph(nodes(), &chain), Scheme::Euler);
    assert_eq!(found.net.plan().expect("a plan").folded["conv"], ["pool", "flat"]);
    let apart = from_bptt(&found);
    assert!(apart < 1e-5, "{apart:e}");
    // With one more reader of the convolution it is not, and gives the same values.
    let zero = ("none", node("Scale", [("scale", single(&[], &[0.0]))]));
    let other = ("flat2", flat.clone());
    let nothing = ("nothing", node("Linear", [("weight", single(&[2, 18], &[0.0; 36]))]));
    let more = [&chain[..], &["conv none", "none flat2", "flat2 nothing", "nothing output"]].concat();
    let unfolded = imported(&graph(nodes().chain([zero, other, nothing]), &more), Scheme::Euler);
    assert!(unfolded.net.plan().expect("a plan").folded["conv"].is_empty());
    same(&run(&found, &inputs(20, 16)), &run(&unfolded, &inputs(20, 16)));
    assert!(run(&found, &inputs(20, 16)).iter().flatten().any(|v| v.abs() > 0.1));
}

#[test]
fn nodes_show_their_values() {
    let found = imported(&fixture("recurrent_cubalif.nir"), Scheme::Euler);
    let model = found.net.trace(1, Mode::Evaluation);
    let shown: Vec<String> = model.observed.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["rec.value", "fc1.value", "lif1.V", "lif1.spike", "fc2.value", "out.V"]);
    assert!(model.observed.iter().any(|o| o.quantity == Quantity::Spike));
    let readout: Vec<&str> = model.states.iter().filter(|s| s.readout).map(|s| s.name.as_str()).collect();
    assert_eq!(readout, ["out.v"]);
}

#[test]
fn a_fresh_network_has_the_sizes_it_is_given() {
    use etrace::net::Sizes;
    let mut net = NirNet::default();
    net.resize(&Sizes { n_in: Some(7), n_rec: Some(5), n_out: Some(3), n_layer: None }).expect("dense layers");
    let shape = |name: &str, q: &str| net.nodes[name].arrays[q].shape.clone();
    assert_eq!(
        (shape("fc1", "weight"), shape("rec1", "weight"), shape("fc2", "weight")),
        (vec![5, 7], vec![5, 5], vec![3, 5])
    );
    assert_eq!((shape("lif1", "tau"), shape("out", "r"), net.n_in(), net.n_out()), (vec![5], vec![3], 7, 3));
    let mut conv = imported(&fixture("conv.nir"), Scheme::Euler).net;
    let error = conv.resize(&Sizes { n_rec: Some(5), ..Sizes::default() }).expect_err("an image").to_string();
    assert!(error.contains("only networks of dense layers"), "{error}");
}
