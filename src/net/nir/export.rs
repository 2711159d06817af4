//! From a network and its parameters to a file.

use std::collections::BTreeMap;

use tasks::{
    hdf5::{Value, Values},
    nir,
};

use super::{
    NirNet, Node, Plan,
    import::{ImportError, Params, SCHEME, STEP, UNIT},
    kind::Whole,
};

/// The graph of a network. Arrays are the parameters, bit for bit; of trained time constants those below a step are written as a step,
/// which is what the network computes with.
///
/// # Errors
/// When the network is none, or a parameter is missing or of another size.
pub fn export(net: &NirNet, params: &Params) -> Result<nir::Graph, ImportError> {
    let plan = net.plan()?;
    let mut graph = nir::Graph::default();
    for (name, node) in &net.nodes {
        let mut values = BTreeMap::new();
        for (quantity, extent) in &node.arrays {
            let n: usize = extent.shape.iter().product();
            let key = format!("{name}.{quantity}");
            let found = params.get(&key).filter(|values| values.len() == n);
            let mut found =
                found.ok_or_else(|| ImportError(format!("the parameters have no `{key}` of {n} numbers")))?.clone();
            if quantity.starts_with("tau") && net.trains(quantity) {
                found.iter_mut().for_each(|tau| *tau = tau.max(net.step() as f32));
            }
            values.insert(quantity.clone(), Value { dims: extent.shape.clone(), values: Values::Single(found) });
        }
        for whole in node.row().sizes {
            values.insert(whole.name.into(), whole_numbers(whole, node));
        }
        values.extend(derived(node, &plan, name));
        graph.nodes.insert(name.clone(), nir::Node { kind: node.kind.clone(), values });
    }
    graph.edges = net.edges.iter().map(|[from, to]| (from.clone(), to.clone())).collect();
    let text = |text: &str| Value { dims: vec![], values: Values::Texts(vec![text.into()]) };
    graph.metadata.insert(SCHEME.into(), text(net.scheme.name()));
    graph.metadata.insert(UNIT.into(), text(net.time_unit.name()));
    graph.metadata.insert(STEP.into(), Value { dims: vec![], values: Values::Double(vec![net.dt]) });
    Ok(graph)
}

fn integers(all: Vec<i64>) -> Value {
    Value { dims: vec![all.len()], values: Values::Integers(all) }
}

fn whole_numbers(whole: &Whole, node: &Node) -> Value {
    if node.same && whole.name == "padding" {
        return Value { dims: vec![], values: Values::Texts(vec!["same".into()]) };
    }
    let all = node.sizes[whole.name].clone();
    match whole.count {
        Some(0) => Value { dims: vec![], values: Values::Integers(all) },
        _ => integers(all),
    }
}

/// The shapes that a file repeats.
fn derived(node: &Node, plan: &Plan, name: &str) -> Option<(String, Value)> {
    let sizes = |dims: &[usize]| dims.iter().map(|&n| n as i64).collect::<Vec<_>>();
    let input = &plan.inner[name];
    match node.kind.as_str() {
        "Flatten" => Some(("input_type".into(), integers(sizes(input)))),
        "Conv1d" => Some(("input_shape".into(), Value { dims: vec![], values: Values::Integers(sizes(&input[1..])) })),
        "Conv2d" => Some(("input_shape".into(), integers(sizes(&input[1..])))),
        _ => None,
    }
}
