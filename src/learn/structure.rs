//! What the graph of a step says: hidden groups, traced ops, and which op drives which group.
//!
//! See `docs/spec/algorithms.md, "Traced ops and relations"` and `docs/spec/algorithms.md, "Hidden groups"`.
//! All walks follow *derivatives*: not through stop-gradients, comparisons, or the slopes of surrogates; and, unless said otherwise, not through traced ops.

use hlo::{
    Func, Graph, Shape, Tensor, Value,
    func::downcast,
    graph::Node,
    ops::meta::Tag,
    transform::{Dependence, Dual, Rules, jvp_with},
};

use super::{LearnError, Prepared, op::Kind};

/// Hidden states coupled position by position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Positions of the states among the model's states.
    pub states: Vec<usize>,
    /// Shape of each state, `[B, N]`.
    pub dims: Vec<usize>,
}

/// Why an op has no trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Nothing it does is remembered by a state.
    NonTemporal,
    /// It reaches states only through another traced op.
    WeightToWeight,
    /// Its weight is not trained.
    Fixed,
}

/// One use of a weight.
#[derive(Clone, Debug)]
pub struct Op {
    /// What it computes.
    pub kind: Kind,
    /// The layer it belongs to.
    pub site: String,
    /// Its output.
    pub y: Value,
    /// Its input.
    pub x: Option<Value>,
    /// Shape of that input, `[B, ..]`.
    pub input: Vec<usize>,
    /// Output from input and weight, where its kind does not say it.
    pub function: Option<Func>,
    /// Which `phi` is its weight.
    pub phi: usize,
    /// Shape of that weight.
    pub weight: Vec<usize>,
    /// The groups it drives directly, each with a trace.
    pub groups: Vec<usize>,
    /// What its drive reaches in each of these.
    pub reached: Vec<Reach>,
    /// Why it has no trace, if it has none.
    pub exclusion: Option<Exclusion>,
    /// It also reaches a driven group through another traced op; that route is left out.
    pub partial: bool,
    /// Ops with the same drive on the same groups share this number.
    pub drive: usize,
    /// Whether the new states need its output (else it can be computed after the loop).
    pub recurrent: bool,
}

/// The states of a group (positions in the group) that the drive of an op reaches over any number of steps; its trace is zero in
/// the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// All of them.
    pub states: Vec<usize>,
    /// Those reached by numbers only: drive and transitions are the same at every position and step, as in an exponential synapse
    /// with one time constant or a leaky readout. What the drive leaves there is one number.
    pub numbers: Vec<usize>,
    /// Those that the next step reads, so that their trace is kept, one value for each weight and sequence.
    pub wide: Vec<usize>,
    /// Those of a dense op that the next step reads and that are reached by numbers only: the trace of `w[i, j]` is the same for
    /// every j.
    pub uniform: Vec<usize>,
}

impl Reach {
    /// States whose trace passes from step to step.
    pub fn kept(&self) -> impl Iterator<Item = usize> {
        self.wide.iter().chain(&self.uniform).copied()
    }

    /// Shape of a factorised trace's output part in a state of `group`.
    pub fn output_trace(&self, group: &Group, state: usize) -> Shape {
        if self.numbers.contains(&state) { Shape::f32([]) } else { Shape::f32(group.dims.clone()) }
    }
}

impl Op {
    /// What its drive reaches in a group that it drives.
    ///
    /// # Panics
    /// When it does not drive that group.
    pub fn reach(&self, group: usize) -> &Reach {
        &self.reached[self.groups.iter().position(|&g| g == group).expect("a driven group")]
    }
}

/// The structure of a step.
#[derive(Clone, Debug)]
pub struct Structure {
    /// Hidden groups, ordered by their first state.
    pub groups: Vec<Group>,
    /// Traced ops in order of execution.
    pub ops: Vec<Op>,
}

/// The kind of a traced op, if the node is the output of one.
fn kind_of(node: &Node) -> Option<Kind> {
    downcast::<Tag>(node).and_then(|tag| Kind::of_tag(tag.kind))
}

fn is_tag(node: &Node) -> bool {
    kind_of(node).is_some()
}

/// What derivatives reach from `sources`.
pub(super) fn reach(func: &Func, sources: &[Value], through_ops: bool) -> Dependence {
    Dependence::new(func, sources, |node, k| node.op.passes_derivative(k) && (through_ops || !is_tag(node)))
}

/// Nodes from which a derivative reaches one of `targets` without passing a traced op.
fn leads_to(func: &Func, targets: &[Value]) -> Vec<bool> {
    let mut leads = vec![false; func.graph().len()];
    let mut stack: Vec<usize> = targets.iter().map(|t| t.node).collect();
    while let Some(index) = stack.pop() {
        if leads[index] {
            continue;
        }
        leads[index] = true;
        let node = func.graph().node(index);
        for (k, operand) in node.operands.iter().enumerate() {
            if node.op.passes_derivative(k) && !is_tag(&func.graph().node(operand.node)) {
                stack.push(operand.node);
            }
        }
    }
    leads
}

impl Structure {
    /// Reads the structure of a prepared step.
    ///
    /// # Errors
    /// When a weight moves during a sequence.
    pub fn new(prepared: &Prepared) -> Result<Structure, LearnError> {
        let body = &prepared.body;
        let groups = find_groups(prepared);
        let mut ops = find_ops(prepared)?;
        let new: Vec<Value> = prepared.new_states().iter().map(Tensor::value).collect();
        let with_states = body.with_results(prepared.new_states().to_vec());
        let live: Vec<usize> = with_states.live(true).iter().map(|(i, _)| *i).collect();
        for op in &mut ops {
            // A group behind another group's state is a later layer: the learning signal covers it.
            let direct = Dependence::new(body, &[op.y], |node, k| {
                node.op.passes_derivative(k) && !is_tag(node) && !new.iter().any(|v| v.node == node.operands[k].node)
            });
            let any = reach(body, &[op.y], true);
            let fed = |group: &Group| group.states.iter().any(|&s| direct.has(new[s]));
            let (own, mixed): (Vec<usize>, Vec<usize>) = (0..groups.len())
                .filter(|&g| fed(&groups[g]))
                .partition(|&g| coupling(body, &[op.y], &groups[g], &new).is_none());
            // What an op reaches through a fixed mixture of positions is a later layer, if it has a layer of its own.
            op.groups = if own.is_empty() { mixed } else { own };
            op.partial = op.groups.iter().any(|&g| reaches_through_another(body, op.y, &groups[g], &new));
            op.recurrent = live.contains(&op.y.node);
            op.exclusion = if !prepared.is_trained(op.phi) {
                Some(Exclusion::Fixed)
            } else if !op.groups.is_empty() {
                None
            } else if new.iter().any(|v| any.has(*v)) {
                Some(Exclusion::WeightToWeight)
            } else {
                Some(Exclusion::NonTemporal)
            };
        }
        let structure = Structure { groups, ops };
        Ok(structure.with_drives(prepared))
    }

    /// Checks that transitions and drives act position by position, as the online rules need.
    ///
    /// # Errors
    /// Names the group or op and the operation that couples positions.
    pub fn check_online(&self, prepared: &Prepared, state_names: &[String]) -> Result<(), LearnError> {
        let body = &prepared.body;
        let old: Vec<Value> = prepared.old_states().iter().map(Tensor::value).collect();
        let new: Vec<Value> = prepared.new_states().iter().map(Tensor::value).collect();
        for group in &self.groups {
            let sources: Vec<Value> = group.states.iter().map(|&s| old[s]).collect();
            if let Some(op) = coupling(body, &sources, group, &new) {
                let names: Vec<&str> = group.states.iter().map(|&s| state_names[s].as_str()).collect();
                return Err(LearnError::NotPositionWise { what: format!("the group {{{}}}", names.join(", ")), op });
            }
        }
        for op in &self.ops {
            for &g in &op.groups {
                if let Some(by) = coupling(body, &[op.y], &self.groups[g], &new) {
                    return Err(LearnError::NotPositionWise { what: format!("the traced op `{}`", op.site), op: by });
                }
            }
        }
        Ok(())
    }

    /// Ops with a trace.
    pub fn traced(&self) -> impl Iterator<Item = (usize, &Op)> {
        self.ops.iter().enumerate().filter(|(_, op)| op.exclusion.is_none())
    }

    /// Whether a `phi` learns through a trace.
    pub fn is_traced(&self, phi: usize) -> bool {
        self.traced().any(|(_, op)| op.phi == phi)
    }

    /// Numbers the distinct drives (bias and weights of one layer have the same), and finds the states each of them reaches.
    fn with_drives(mut self, prepared: &Prepared) -> Structure {
        let graph = Graph::new();
        let args: Vec<Dual> = prepared
            .body
            .params()
            .iter()
            .enumerate()
            .map(|(i, p)| Dual { primal: graph.parameter(i, p.shape().clone()), tangent: None })
            .collect();
        let states = prepared.body.with_results(prepared.new_states().to_vec());
        let live = prepared.body.live(false);
        let reads = |state: &Tensor| live.iter().any(|(_, node)| node.operands.contains(&state.value()));
        let read: Vec<bool> = prepared.old_states().iter().map(reads).collect();
        let links: Vec<Vec<Vec<Link>>> =
            self.groups.iter().map(|group| links(&graph, &states, &args, prepared.phis, &self.ops, group)).collect();
        let mut known: Vec<Vec<Option<Value>>> = Vec::new();
        for k in 0..self.ops.len() {
            if self.ops[k].groups.is_empty() {
                continue;
            }
            let all = drive(&graph, &states, &args, &self, k, |v| v, Default::default());
            let drive: Vec<Option<Value>> = all.iter().map(|t| t.as_ref().map(Tensor::value)).collect();
            let op = &self.ops[k];
            let reached = op.groups.iter().map(|&g| {
                let strength: Vec<Link> = self.groups[g].states.iter().map(|&s| Link::of(all[s].as_ref())).collect();
                self::reached(op, spread(&links[g], strength), |a| read[self.groups[g].states[a]])
            });
            self.ops[k].reached = reached.collect();
            let number = known.iter().position(|d| *d == drive).unwrap_or_else(|| {
                known.push(drive);
                known.len() - 1
            });
            self.ops[k].drive = number;
        }
        self
    }
}

/// `dh'/dy` of op `k` for every state, with all op outputs held fixed. `place` finds a value of the body in `func`.
pub(crate) fn drive(
    graph: &Graph,
    func: &Func,
    args: &[Dual],
    structure: &Structure,
    k: usize,
    place: impl Fn(Value) -> Value,
    known: std::collections::HashMap<Value, Tensor>,
) -> Vec<Option<Tensor>> {
    let y = place(structure.ops[k].y);
    let ones = graph.full(func.graph().tensor(y).shape(), 1.0);
    let rules = Rules {
        known,
        cut: structure.ops.iter().map(|op| place(op.y)).collect(),
        perturb: [(y, ones)].into(),
        ..Rules::default()
    };
    let env = jvp_with(graph, func, args, &rules);
    func.results().iter().map(|r| env.get(r.value()).tangent.clone()).collect()
}

/// How the states of a group depend on each other from one step to the next, `[a][c]`, with all op outputs held fixed.
fn links(graph: &Graph, func: &Func, args: &[Dual], phis: usize, ops: &[Op], group: &Group) -> Vec<Vec<Link>> {
    let rules = Rules { cut: ops.iter().map(|op| op.y).collect(), ..Rules::default() };
    let mut links = vec![vec![Link::None; group.states.len()]; group.states.len()];
    for (c, &from) in group.states.iter().enumerate() {
        let mut args = args.to_vec();
        let arg = &mut args[phis + from];
        arg.tangent = Some(arg.primal.full_like(1.0));
        let env = jvp_with(graph, func, &args, &rules);
        for (a, &to) in group.states.iter().enumerate() {
            links[a][c] = Link::of(env.get(func.results()[to].value()).tangent.as_ref());
        }
    }
    links
}

/// How a derivative depends on step and position: how a state depends on another, or on the output of an op.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    None,
    /// It is the same number at every position and step.
    Number,
    Varies,
}

impl Link {
    pub(super) fn of(derivative: Option<&Tensor>) -> Link {
        match derivative {
            None => Link::None,
            Some(t) if t.as_constant().is_some() => Link::Number,
            Some(_) => Link::Varies,
        }
    }
}

/// The states that an op reaches, from how it reaches each; `kept` says whether the trace in a state passes to the next step.
pub(super) fn reached(op: &Op, links: Vec<Link>, kept: impl Fn(usize) -> bool) -> Reach {
    let states: Vec<usize> = (0..links.len()).filter(|&a| links[a] != Link::None).collect();
    let numbers: Vec<usize> = states.iter().copied().filter(|&a| links[a] == Link::Number).collect();
    let kept = states.iter().copied().filter(|&a| kept(a));
    let (uniform, wide) = kept.partition(|a| op.kind.operator().may_be_uniform() && numbers.contains(a));
    Reach { states, numbers, wide, uniform }
}

/// What a drive leaves in every state over any number of steps.
pub(super) fn spread(links: &[Vec<Link>], mut driven: Vec<Link>) -> Vec<Link> {
    let n = driven.len();
    for _ in 0..n {
        for a in 0..n {
            for c in 0..n {
                if links[a][c] == Link::None || driven[c] == Link::None {
                    continue;
                }
                let number = links[a][c] == Link::Number && driven[c] == Link::Number && driven[a] != Link::Varies;
                driven[a] = if number { Link::Number } else { Link::Varies };
            }
        }
    }
    driven
}

fn find_groups(prepared: &Prepared) -> Vec<Group> {
    let old = prepared.old_states();
    let new: Vec<Value> = prepared.new_states().iter().map(Tensor::value).collect();
    let mut leader: Vec<usize> = (0..old.len()).collect();
    fn find(leader: &[usize], mut k: usize) -> usize {
        while leader[k] != k {
            k = leader[k];
        }
        k
    }
    for (k, state) in old.iter().enumerate() {
        // Also through the new value: a state that forgets its own past may be remembered by another.
        let reached = reach(&prepared.body, &[state.value(), new[k]], false);
        for (j, other) in new.iter().enumerate() {
            if reached.has(*other) && old[j].shape() == state.shape() {
                let (a, b) = (find(&leader, k), find(&leader, j));
                leader[a.max(b)] = a.min(b);
            }
        }
    }
    // A state that is written but never read belongs to the states that write it.
    let mut groups: Vec<Group> = Vec::new();
    for first in 0..old.len() {
        let states: Vec<usize> = (0..old.len()).filter(|&s| find(&leader, s) == first).collect();
        if !states.is_empty() {
            groups.push(Group { states, dims: old[first].dims().to_vec() });
        }
    }
    groups
}

fn find_ops(prepared: &Prepared) -> Result<Vec<Op>, LearnError> {
    let body = &prepared.body;
    let phis: Vec<Value> = body.params()[..prepared.phis].iter().map(Tensor::value).collect();
    let mut ops = Vec::new();
    for (index, node) in body.live(false) {
        let (Some(kind), Some(tag)) = (kind_of(&node), downcast::<Tag>(&node)) else { continue };
        let (y, about) = node.operands.split_first().expect("a tag has a value");
        let (weight, x) = about.split_last().expect("the tag of an op refers to its weight");
        let phi = phis.iter().position(|p| p == weight);
        let phi = phi.ok_or_else(|| LearnError::MovingWeight { site: tag.label.clone() })?;
        let tensor = |v: &Value| body.graph().tensor(*v);
        let sources: Vec<Tensor> = about.iter().map(tensor).collect();
        let function = (kind == Kind::Map).then(|| {
            let shapes: Vec<Shape> = sources.iter().map(|t| t.shape().clone()).collect();
            Func::trace(&shapes, |g, p| body.with_results(vec![tensor(y)]).rebuild(g, &sources, p))
        });
        ops.push(Op {
            kind,
            site: tag.label.clone(),
            y: Value { node: index, result: 0 },
            x: x.first().copied(),
            input: x.first().map_or_else(Vec::new, |x| tensor(x).dims().to_vec()),
            function,
            phi,
            weight: tensor(weight).dims().to_vec(),
            groups: vec![],
            reached: vec![],
            exclusion: None,
            partial: false,
            drive: usize::MAX,
            recurrent: true,
        });
    }
    Ok(ops)
}

/// The first operation that moves values between positions on the way from `sources` to the new states of `group`, with all traced
/// ops held fixed.
fn coupling(body: &Func, sources: &[Value], group: &Group, new: &[Value]) -> Option<&'static str> {
    let reached = reach(body, sources, false);
    let leads = leads_to(body, &group.states.iter().map(|&s| new[s]).collect::<Vec<_>>());
    body.live(false).into_iter().find_map(|(index, node)| {
        let on_path = reached.has_node(index)
            && leads[index]
            && !node.operands.is_empty()
            && !sources.iter().any(|s| s.node == index);
        (on_path && !node.op.elementwise()).then(|| node.op.name())
    })
}

/// Whether `y` also reaches the group by a route that passes another traced op and no hidden state.
fn reaches_through_another(body: &Func, y: Value, group: &Group, new: &[Value]) -> bool {
    let is_state = |index: usize| new.iter().any(|v| v.node == index);
    // Stop at states: a route through a state is a matter of the next layer.
    let before_states =
        Dependence::new(body, &[y], |node, k| node.op.passes_derivative(k) && !is_state(node.operands[k].node));
    let others: Vec<Value> = body
        .live(false)
        .into_iter()
        .filter(|(index, node)| is_tag(node) && *index != y.node && before_states.has_node(*index))
        .map(|(node, _)| Value { node, result: 0 })
        .collect();
    !others.is_empty() && {
        let beyond = reach(body, &others, false);
        group.states.iter().any(|&s| beyond.has(new[s]))
    }
}
