//! `etrace explain`: what a learner sees in a model, and what learning costs.

mod scaling;

use std::{collections::BTreeMap, fmt::Write};

use hlo::{Shape, Value};

use super::{
    Global, OrUsage,
    common::print,
    flags::{layers, size, span, steps},
    train_any,
};
use crate::{
    cell::{Mode, Model},
    learn::{
        Learner, Method, Objective, Prepared, Structure, Vjp, cost,
        form::TraceSetting,
        sequence::LearnerConfig,
        structure::{Exclusion, Op},
        trace::{Slot, TracePlan},
    },
    net::Sizes,
    report::{Align, Table, bytes, count, flops, sizes},
    settings::{Change, Count},
    train::replicas::Parts,
};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Preset (dms, ei, shd, gesture, memspeed, ...; `etrace train --list`), configuration file, folder of a run; layer NEURON-SYNAPSE
    /// (lif_delta, alif_expcu, lif_expco, ...) or rate cell (rnn, gru, ...)
    #[arg(value_name = "MODEL")]
    model: String,
    /// One setting of the experiment, as in net.tau_syn=20; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Change>,
    /// Sequences in a batch [default: the experiment's]
    #[arg(long, visible_alias = "batch_size", value_name = "B", value_parser = size)]
    batch: Option<usize>,
    /// Steps of a sequence [default: the experiment's]
    #[arg(long, value_name = "T", value_parser = steps)]
    steps: Option<usize>,
    /// Steps at the start of a sequence that carry no loss [default: the experiment's]
    #[arg(long, value_name = "T", value_parser = span)]
    warmup: Option<usize>,
    /// Inputs
    #[arg(long = "n_in", value_name = "N", value_parser = width)]
    n_in: Option<usize>,
    /// Neurons per layer
    #[arg(long = "n_rec", value_name = "N", value_parser = width)]
    n_rec: Option<usize>,
    /// Outputs
    #[arg(long = "n_out", value_name = "N", value_parser = width)]
    n_out: Option<usize>,
    /// Layers
    #[arg(long = "n_layer", value_name = "N", value_parser = layers)]
    n_layer: Option<usize>,
    /// Steps per chunk [default: from a memory budget]
    #[arg(long, value_name = "K", value_parser = steps)]
    chunk: Option<usize>,
    /// Compile for devices that are not here, and predict the time on more of them: tpu:v5e, tpu:v4, cuda:h100, or a topology as
    /// tpu:v5e:2x4, tpu:v4:2x2x1, cuda:h100:8 (the plugin must be installed)
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// With --target: devices that share a batch
    #[arg(long, value_name = "N", requires = "target", default_value = "1", value_parser = replicas)]
    replicas: usize,
}

/// A number of devices.
fn replicas(text: &str) -> Result<usize, String> {
    Ok(Count { low: 1, high: hlo::pjrt::MOST_DEVICES as u64 }.parse(text)? as usize)
}

/// A width whose products with others can be counted.
fn width(text: &str) -> Result<usize, String> {
    Ok(Count { low: 1, high: 1 << 18 }.parse(text)? as usize)
}

/// Runs the command.
///
/// # Errors
/// When there is no such model, or flags contradict it.
pub fn run(args: Args, _: &Global) -> anyhow::Result<()> {
    let mut all = train_any::changed(&args.model, &args.set)?;
    let sizes = Sizes { n_in: args.n_in, n_rec: args.n_rec, n_out: args.n_out, n_layer: args.n_layer };
    all.net.resize(&sizes).map_err(|e| anyhow::anyhow!("--{}", e.to_string().replace('`', ""))).or_usage()?;
    all.check().or_usage()?;
    let (long, _) = all.task.timing().or_usage()?;
    let batch = args.batch.unwrap_or(all.settings.batch);
    let steps = args.steps.unwrap_or(long);
    let warmup = args.warmup.unwrap_or(all.learner.warmup);
    if warmup >= steps {
        let error = anyhow::anyhow!(
            "a sequence needs a step that carries loss, got {steps} steps of which {warmup} are warm-up; raise --steps or lower --warmup"
        );
        return Err(error).or_usage();
    }
    if let Some(target) = &args.target {
        all.settings.batch = batch;
        all.learner.warmup = warmup;
        return print(&scaling::section(&all, steps, target, Parts(args.replicas))?);
    }
    let base = LearnerConfig { warmup, chunk: args.chunk.or(all.learner.chunk), ..all.learner };
    let report = Report { model: all.net.trace(batch, Mode::Online), steps, base };
    print(&report.text(&args.model)?)
}

struct Report {
    model: Model,
    steps: usize,
    /// The settings of the run or preset; every rule is shown with them.
    base: LearnerConfig,
}

impl Report {
    fn text(&self, name: &str) -> anyhow::Result<String> {
        let exact = self.learner(Method::BPTT)?;
        let (prepared, structure) = (&exact.prepared, &exact.structure);
        let mut out = self.head(name);
        for (title, body) in [
            ("Hidden groups", self.groups(structure)),
            ("Traced ops", self.ops(prepared, structure)),
            ("Without a trace", self.excluded(prepared, structure)),
            ("Paths to the loss", self.paths()),
            ("Traces", self.traces(structure)),
            ("Learners", self.learners(&exact)?),
            ("Forms of d-rtrl", self.forms()),
        ] {
            if !body.is_empty() {
                write!(out, "\n\n{title}\n{body}")?;
            }
        }
        Ok(out)
    }

    fn learner(&self, method: Method) -> Result<Learner, crate::learn::LearnError> {
        // A form or a window may not be for every rule; what is shown is what each would do by itself.
        let trace = if method == self.base.method { self.base.trace } else { TraceSetting::Auto };
        let vjp = if method == self.base.method { self.base.vjp } else { Vjp::default() };
        let update_every = self.base.update_every.filter(|_| method == self.base.method);
        let config = LearnerConfig { method, trace, vjp, update_every, ..self.base.clone() }.within(self.steps);
        Learner::new(&self.model, &Objective::default(), &config)
    }

    fn head(&self, name: &str) -> String {
        let m = &self.model;
        let (trained, fixed): (Vec<_>, Vec<_>) = m.params.iter().partition(|p| p.trainable);
        let values = |list: &[&crate::cell::ParamSpec]| list.iter().map(|p| p.shape.elements()).sum::<usize>() as u64;
        let loss = if self.base.warmup > 0 { format!(", loss after step {}", self.base.warmup) } else { String::new() };
        let mut table = Table::new([("", Align::Left), ("", Align::Left)]).indented(2);
        table.row(["input of a step", &sizes(&m.input.dims)]);
        table.row(["output of a step", &sizes(&m.output.dims)]);
        let n = values(&trained);
        table.row(["trained", &format!("{} values in {} arrays, {}", count(n), trained.len(), bytes(4 * n))]);
        if !fixed.is_empty() {
            let names: Vec<&str> = fixed.iter().map(|p| p.name.as_str()).collect();
            table.row(["fixed", &format!("{} values ({})", count(values(&fixed)), names.join(", "))]);
        }
        let rows = table.to_string();
        let rows = rows.split_once('\n').map_or("", |(_, rows)| rows);
        format!("{name}: batch {}, {} steps{loss}\n{rows}", m.batch(), self.steps)
    }

    fn groups(&self, structure: &Structure) -> String {
        let columns =
            [("group", Align::Left), ("positions B x N", Align::Left), ("k", Align::Right), ("states", Align::Left)];
        let mut table = Table::new(columns).indented(2);
        for (k, group) in structure.groups.iter().enumerate() {
            let names: Vec<&str> = group.states.iter().map(|&s| self.model.states[s].name.as_str()).collect();
            table.row([k.to_string(), sizes(&group.dims), names.len().to_string(), names.join(", ")]);
        }
        table.to_string()
    }

    fn ops(&self, prepared: &Prepared, structure: &Structure) -> String {
        let columns = ["op", "kind", "weight", "shape", "input", "drives", "note"];
        let mut table = Table::new(columns.map(|c| (c, Align::Left))).indented(2);
        for (k, op) in structure.traced() {
            let groups: Vec<String> = op.groups.iter().map(usize::to_string).collect();
            let note = if op.partial { "partial: its route through another traced op is left out" } else { "" };
            table.row([
                k.to_string(),
                op.kind.operator().name().into(),
                self.weight(prepared, op.phi),
                sizes(&op.weight),
                self.input(prepared, op),
                format!("group {}", groups.join(", ")),
                note.into(),
            ]);
        }
        if table.is_empty() { "  none: no weight is remembered by a state".into() } else { table.to_string() }
    }

    /// Ops that have no trace, and trained parameters that no traced op uses.
    fn excluded(&self, prepared: &Prepared, structure: &Structure) -> String {
        let mut table =
            Table::new([("weight", Align::Left), ("shape", Align::Left), ("learns", Align::Left)]).indented(2);
        for op in &structure.ops {
            let why = match op.exclusion {
                None => continue,
                Some(Exclusion::NonTemporal) => "exactly, from the step itself: no state remembers it",
                Some(Exclusion::WeightToWeight) => {
                    "from the step itself only: it reaches states through another traced op"
                }
                Some(Exclusion::Fixed) => "not: it is fixed",
            };
            table.row([self.weight(prepared, op.phi), sizes(&op.weight), why.into()]);
        }
        for phi in (0..prepared.phis).filter(|&k| prepared.is_trained(k)) {
            if !structure.ops.iter().any(|op| op.phi == phi) {
                let dims = &prepared.body.params()[phi].shape().dims;
                let why = "from the step itself only: it is used outside traced ops";
                table.row([self.weight(prepared, phi), sizes(dims), why.into()]);
            }
        }
        if table.is_empty() { String::new() } else { table.to_string() }
    }

    /// What the online rules follow from each trained parameter to the loss, and what they leave out.
    fn paths(&self) -> String {
        let Ok(learner) = self.learner(Method::D_RTRL) else { return String::new() };
        let columns = ["parameter", "online rules follow", "and leave out"];
        let mut table = Table::new(columns.map(|c| (c, Align::Left))).indented(2);
        for paths in &learner.paths {
            let follows: Vec<String> = paths.follows.iter().map(ToString::to_string).collect();
            let drops: Vec<String> = paths.drops.iter().map(ToString::to_string).collect();
            let or = |list: Vec<String>, none: &str| if list.is_empty() { none.to_string() } else { list.join("; ") };
            let (follows, drops) = (or(follows, "nothing: the loss does not depend on it"), or(drops, "nothing"));
            table.row([paths.parameter.clone(), follows, drops]);
        }
        if table.is_empty() { String::new() } else { table.to_string() }
    }

    /// Names of the parameters a `phi` is made from.
    fn weight(&self, prepared: &Prepared, phi: usize) -> String {
        let names: Vec<&str> = prepared.sources[phi].iter().map(|&p| self.model.params[p].name.as_str()).collect();
        names.join(" * ")
    }

    /// Where the input of an op comes from: the nearest inputs and states behind it.
    fn input(&self, prepared: &Prepared, op: &Op) -> String {
        let Some(x) = op.x else { return "-".into() };
        let body = &prepared.body;
        let mut names: BTreeMap<Value, String> = BTreeMap::new();
        for (k, state) in self.model.states.iter().enumerate() {
            names.insert(prepared.new_states()[k].value(), format!("{}[t]", state.name));
        }
        for (k, state) in self.model.states.iter().enumerate() {
            names.insert(prepared.old_states()[k].value(), format!("{}[t-1]", state.name));
        }
        names.insert(body.params()[prepared.phis + prepared.states].value(), "input[t]".into());
        let mut found: Vec<&str> = Vec::new();
        let mut seen = vec![false; body.graph().len()];
        let mut stack = vec![x];
        while let Some(v) = stack.pop() {
            if let Some(name) = names.get(&v) {
                if !found.contains(&name.as_str()) {
                    found.push(name);
                }
            } else if !std::mem::replace(&mut seen[v.node], true) {
                let node = body.graph().node(v.node);
                let read = node.op.live_operands(node.operands.len());
                stack.extend(&node.operands[..read]);
            }
        }
        found.sort_unstable();
        found.join(", ")
    }

    /// Trace of every op under each online rule.
    fn traces(&self, structure: &Structure) -> String {
        // Rules that differ in their signals alone have the same traces.
        let mut plans: Vec<(Method, Learner)> = Vec::new();
        for method in Method::all().filter(|m| m.is_online()) {
            let Ok(learner) = self.learner(method) else { continue };
            let same = |old: &TracePlan| old.kinds == learner.plan.kinds && old.filter == learner.plan.filter;
            if !learner.plan.is_empty() && !plans.iter().any(|(_, old)| same(&old.plan)) {
                plans.push((method, learner));
            }
        }
        if plans.is_empty() || structure.traced().next().is_none() {
            return String::new();
        }
        let columns = ["op", "weight shape"].map(|c| (c, Align::Left)).into_iter();
        let columns = columns.chain(plans.iter().flat_map(|(m, _)| [(m.name(), Align::Left), ("", Align::Right)]));
        let mut table = Table::new(columns.collect::<Vec<_>>()).indented(2);
        let batch = self.model.batch();
        let mut taken: Vec<Vec<Slot>> = vec![vec![]; plans.len()];
        for (k, op) in structure.traced() {
            let mut row = vec![k.to_string(), sizes(&op.weight)];
            for ((_, learner), taken) in plans.iter().zip(&mut taken) {
                let mine = slots_of(&learner.plan, learner.as_traced(), batch, k, taken);
                let total: u64 = mine.iter().map(|s| s.bytes() as u64).sum();
                let shapes = if mine.is_empty() { "shared".into() } else { describe(&mine) };
                row.extend([shapes, bytes(total)]);
            }
            table.row(row);
        }
        let mut total = vec![String::new(), "all".into()];
        for (_, learner) in &plans {
            let all = learner.plan.bytes(learner.as_traced(), batch);
            total.extend([String::new(), bytes(all as u64)]);
        }
        table.row(total);
        table.to_string()
    }

    /// The form that the planner chooses for a sequence, and those that it turns down.
    fn forms(&self) -> String {
        let Ok(learner) = self.learner(Method::D_RTRL) else { return String::new() };
        let choice = learner.choice(self.steps);
        let columns =
            [("", Align::Left), ("takes", Align::Right), ("each step", Align::Right), ("cuts off", Align::Right)];
        let mut table = Table::new(columns.into_iter().chain([("", Align::Left)]).collect::<Vec<_>>()).indented(2);
        let used = [(&choice.used, "used")].into_iter();
        for (form, why) in used.chain(choice.turned_down.iter().map(|(form, why)| (form, why.as_str()))) {
            let cut = match form.cut {
                None => "nothing".into(),
                Some(cut) if cut.is_finite() => format!("{cut:.1e}"),
                Some(_) => "not known".into(),
            };
            table.row([
                form.form.to_string(),
                bytes(form.bytes as u64),
                format!("{:.3} ms", 1e3 * form.seconds),
                cut,
                why.into(),
            ]);
        }
        table.to_string()
    }

    fn learners(&self, exact: &Learner) -> anyhow::Result<String> {
        let mut table = Table::new([
            ("", Align::Left),
            ("form", Align::Left),
            ("traces", Align::Right),
            ("kept by loops", Align::Right),
            ("a step of it", Align::Right),
            ("per step", Align::Right),
            ("x forward", Align::Right),
        ])
        .indented(2);
        let forward = cost::forward(exact, &self.model, self.steps);
        let per_step = |c: cost::Cost| flops(c.flops / self.steps as u64);
        table.row(["forward", "-", "-", "-", "-", &per_step(forward), "1.0"]);
        let mut refused: Vec<(String, Vec<&str>)> = Vec::new();
        for method in Method::all() {
            let learner = match self.learner(method) {
                Ok(learner) => learner,
                Err(error) => {
                    let text = error.to_string();
                    match refused.iter_mut().find(|(known, _)| *known == text) {
                        Some((_, names)) => names.push(method.name()),
                        None => refused.push((text, vec![method.name()])),
                    }
                    continue;
                }
            };
            let cost = cost::gradient(&learner, &self.model, self.steps);
            let chunk = if method.is_online() { learner.chunk_length(self.steps) } else { self.steps };
            let (form, traces) = match method.is_online() {
                true if learner.plan.is_empty() => ("no traces".into(), 0),
                true => (learner.form(self.steps).to_string(), learner.trace_bytes(self.steps)),
                false => ("-".into(), 0),
            };
            table.row([
                method.name().to_string(),
                form,
                bytes(traces as u64),
                bytes(cost.stacked),
                bytes(cost.stacked / chunk as u64),
                per_step(cost),
                format!("{:.1}", cost.flops as f64 / forward.flops.max(1) as f64),
            ]);
        }
        let refused =
            refused.iter().map(|(why, names)| format!("\n  {} cannot train this model: {why}", names.join(", ")));
        let refused: String = refused.collect();
        Ok(format!(
            "{table}{refused}\n  Counted on the graph of a whole sequence. Loops keep values of all {} steps under bptt and in the whole form, of one chunk else; traces pass from chunk to chunk.",
            self.steps
        ))
    }
}

/// Arrays of an op that no op before it has: ops with one input, or one drive, share the trace of it.
fn slots_of(plan: &TracePlan, structure: &Structure, batch: usize, k: usize, taken: &mut Vec<Slot>) -> Vec<Shape> {
    let mut alone = plan.clone();
    alone.kinds.iter_mut().enumerate().filter(|(j, _)| *j != k).for_each(|(_, kind)| *kind = None);
    debug_assert!(plan.kinds[k].is_some());
    let slots = alone.slots(structure, batch).into_iter().filter(|(slot, _)| !taken.contains(slot));
    let slots: Vec<(Slot, Shape)> = slots.collect();
    taken.extend(slots.iter().map(|(slot, _)| slot.clone()));
    slots.into_iter().map(|(_, shape)| shape).collect()
}

/// Shapes joined by `+`, equal neighbours counted.
fn describe(shapes: &[Shape]) -> String {
    let mut parts: Vec<(usize, &Shape)> = Vec::new();
    for shape in shapes {
        match parts.last_mut() {
            Some((n, last)) if *last == shape => *n += 1,
            _ => parts.push((1, shape)),
        }
    }
    let part = |(n, shape): (usize, &Shape)| {
        let dims: Vec<String> = shape.dims.iter().map(usize::to_string).collect();
        format!("{}[{}]", if n > 1 { format!("{n} ") } else { String::new() }, dims.join(","))
    };
    parts.into_iter().map(part).collect::<Vec<_>>().join(" + ")
}
