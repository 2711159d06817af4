//! Which ways from a parameter to the loss a rule follows, and which it leaves out.
//!
//! An online rule is an approximation: it carries a parameter's influence in the states of the groups that the parameter drives,
//! position by position, and looks one step ahead from there. What passes from neuron to neuron, or is remembered by another layer, is
//! left out. Mostly something is left that points the right way. Where *nothing* is left, the gradient would be zero whatever the
//! data, and the learner is refused ([`LearnError::NoGradient`]).

use std::{collections::BTreeSet, fmt};

use hlo::{DType, Graph, Tensor, Value, transform::Dependence};

use super::{
    Attachment, LearnError, Prepared, Rule, Structure, Vjp,
    check::traceless,
    chunk::{Forward, Steps},
    sequence::LearnerConfig,
    signal::{Ahead, Signals},
    structure::reach,
};
use crate::cell::Model;

/// A way from a parameter to the loss that a rule follows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Followed {
    /// Through the trace in a state, whose new value the loss reads (perhaps through other layers in the same step).
    After(String),
    /// Through the trace in a state, whose old value the loss reads.
    Before(String),
    /// From the output of an op in the same step, bypassing the new states that it drives.
    Direct(String),
    /// In the same step, without a trace.
    Instant,
    /// In later steps, through a state of the readout, exactly.
    Readout(String),
    /// Exactly, inside a window of that many steps.
    Window(usize),
}

/// A way that a rule leaves out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// From neuron to neuron, through an op that reads states of the group which it drives.
    Recurrence(String),
    /// Into the memory of a state that the parameter has no trace in.
    Memory(String),
    /// Through another traced op into the same group.
    OtherOp(String),
    /// What the reference library leaves out as well: parameters without a trace, under in-step attachment.
    Untraced,
}

impl fmt::Display for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Followed::After(state) => write!(f, "the trace in {state}"),
            Followed::Before(state) => write!(f, "the trace in {state}, read before the step"),
            Followed::Direct(op) => write!(f, "the output of {op}, bypassing the states"),
            Followed::Readout(state) => write!(f, "later steps, through the memory of {state}"),
            Followed::Instant => write!(f, "the same step, without a trace"),
            Followed::Window(1) => write!(f, "the same step, exactly"),
            Followed::Window(steps) => write!(f, "windows of {steps} steps, exactly"),
        }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dropped::Recurrence(op) => write!(f, "from neuron to neuron through {op}"),
            Dropped::Memory(state) => write!(f, "the memory of {state}"),
            Dropped::OtherOp(op) => write!(f, "the way of {op} through another op"),
            Dropped::Untraced => write!(f, "all, as in the reference library: it has no trace"),
        }
    }
}

/// What becomes of one trained parameter under an online rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Its name.
    pub parameter: String,
    /// What the rule follows; empty if the loss does not depend on the parameter.
    pub follows: BTreeSet<Followed>,
    /// What it leaves out.
    pub drops: BTreeSet<Dropped>,
}

/// The paths of every trained parameter.
///
/// # Errors
/// When the loss depends on a parameter, and none of its ways is followed.
pub fn paths(
    model: &Model,
    prepared: &Prepared,
    structure: &Structure,
    config: &LearnerConfig,
    rule: &dyn Rule,
) -> Result<Vec<Paths>, LearnError> {
    let LearnerConfig { vjp, signal: ahead, .. } = *config;
    let (signals, traces) = (signals(prepared, structure, vjp, rule), !traceless(rule, structure));
    let survey = Survey { model, prepared, structure, vjp, signals, traces, ahead };
    (0..model.params.len()).filter(|&p| model.params[p].trainable).map(|p| survey.of(p)).collect()
}

/// Which signals there are at all: those of a single step, in a graph that is thrown away.
fn signals(prepared: &Prepared, structure: &Structure, vjp: Vjp, rule: &dyn Rule) -> Signals {
    let g = Graph::new();
    let mut args = prepared.body.params().iter().enumerate().map(|(k, p)| g.parameter(k, p.shape().clone()));
    let phis: Vec<Tensor> = args.by_ref().take(prepared.phis).collect();
    let states: Vec<Tensor> = args.by_ref().take(prepared.states).collect();
    let input = g.parameter(prepared.phis + prepared.states, prepared.input.clone());
    let input = input.convert(DType::F32).reshape(&[&[1], &prepared.input.dims[..]].concat());
    // Not zeros: nothing may follow from the values.
    let target = g.parameter(prepared.phis + prepared.states + 1, prepared.targets(1));
    let forward = Forward::run(&g, prepared, structure, &phis, &states, &input);
    let steps = Steps::new(&g, prepared, structure, &phis, &forward, &input, &target).with_feedback(rule);
    match vjp {
        Vjp::SingleStep { .. } if traceless(rule, structure) => {
            Signals { instant: steps.entry_signals(&[]).instant, ..steps.no_signals() }
        }
        Vjp::SingleStep { attachment } => {
            let signals = steps.received(steps.signals(attachment), rule, &g.scalar(DType::S32, 0.0), 1);
            steps.hopped(signals, rule)
        }
        Vjp::MultiStep { .. } => Signals { before: steps.entry_signals(&[]).before, ..steps.no_signals() },
    }
}

struct Survey<'a> {
    model: &'a Model,
    prepared: &'a Prepared,
    structure: &'a Structure,
    vjp: Vjp,
    signals: Signals,
    /// Whether the rule has traces.
    traces: bool,
    ahead: Ahead,
}

impl Survey<'_> {
    fn of(&self, p: usize) -> Result<Paths, LearnError> {
        let phis: Vec<usize> = (0..self.prepared.phis).filter(|&k| self.prepared.sources[k].contains(&p)).collect();
        let paths = Paths {
            parameter: self.model.params[p].name.clone(),
            follows: phis.iter().flat_map(|&phi| self.followed(phi)).collect(),
            drops: phis.iter().flat_map(|&phi| self.dropped(phi)).collect(),
        };
        let lost = paths.follows.is_empty() && !paths.drops.contains(&Dropped::Untraced);
        match self.steps_to_loss(&phis).filter(|_| lost) {
            Some(_) => Err(self.no_gradient(paths, &phis)),
            None => Ok(paths),
        }
    }

    fn state(&self, s: usize) -> String {
        self.model.states[s].name.clone()
    }

    fn followed(&self, phi: usize) -> Vec<Followed> {
        let mut all = Vec::new();
        for (k, op) in self.structure.traced().filter(|(_, op)| op.phi == phi) {
            for &g in &op.groups {
                let states = &self.structure.groups[g].states;
                let met = |signal: &super::signal::Signal| -> Vec<usize> {
                    let reached = op.reach(g).states.iter();
                    reached.filter(|&&a| signal[g][a].is_some()).map(|&a| states[a]).collect()
                };
                all.extend(met(&self.signals.after).into_iter().map(|s| Followed::After(self.state(s))));
                all.extend(met(&self.signals.before).into_iter().map(|s| Followed::Before(self.state(s))));
            }
            all.extend(self.signals.direct[k].is_some().then(|| Followed::Direct(op.site.clone())));
        }
        all.extend(self.signals.instant[phi].is_some().then_some(Followed::Instant));
        let own: Vec<usize> =
            self.structure.traced().filter(|(_, op)| op.phi == phi).flat_map(|(_, op)| op.groups.clone()).collect();
        let others = self.structure.groups.iter().enumerate().filter(|(g, _)| !own.contains(g));
        let states = others.flat_map(|(_, group)| group.states.iter().copied());
        let reached = self.reached(&[phi]);
        let ahead = states.filter(|&s| self.is_ahead(s) && reached.contains(&s) && self.is_read(s));
        all.extend(ahead.map(|s| Followed::Readout(self.state(s))));
        if let Vjp::MultiStep { window } = self.vjp {
            let near = self.steps_to_loss(&[phi]).is_some_and(|steps| steps < window);
            all.extend(near.then_some(Followed::Window(window)));
        }
        all
    }

    fn dropped(&self, phi: usize) -> Vec<Dropped> {
        let mut all = Vec::new();
        let traced = self.structure.traced().filter(|(_, op)| self.traces && op.phi == phi);
        let traced: Vec<_> = traced.map(|(_, op)| op).collect();
        if traced.is_empty() && self.traces && self.vjp == (Vjp::SingleStep { attachment: Attachment::InStep }) {
            return vec![Dropped::Untraced];
        }
        for op in &traced {
            all.extend(op.partial.then(|| Dropped::OtherOp(op.site.clone())));
            for &g in &op.groups {
                let recurrent = self.structure.ops.iter().filter(|o| o.groups.contains(&g) && self.reads(o.x, g));
                all.extend(recurrent.map(|o| Dropped::Recurrence(o.site.clone())));
            }
        }
        let own: Vec<usize> = traced.iter().flat_map(|op| op.groups.iter().copied()).collect();
        let reached = self.reached(&[phi]);
        for group in self.structure.groups.iter().enumerate().filter(|(g, _)| !own.contains(g)).map(|(_, g)| g) {
            let remembers = |s: &&usize| reached.contains(s) && self.is_read(**s);
            let forgotten = group.states.iter().filter(remembers).filter(|s| !self.is_ahead(**s));
            all.extend(forgotten.map(|&s| Dropped::Memory(self.state(s))));
        }
        all
    }

    /// Whether signals come back through the memory of a state.
    fn is_ahead(&self, s: usize) -> bool {
        self.ahead == Ahead::Readout && self.model.states[s].readout
    }

    /// Whether an op's input depends on the states of a group before the step.
    fn reads(&self, x: Option<Value>, g: usize) -> bool {
        let old: Vec<Value> =
            self.structure.groups[g].states.iter().map(|&s| self.prepared.old_states()[s].value()).collect();
        x.is_some_and(|x| reach(&self.prepared.body, &old, true).has(x))
    }

    /// Whether anything depends on a state before the step.
    fn is_read(&self, s: usize) -> bool {
        let from = reach(&self.prepared.body, &[self.prepared.old_states()[s].value()], true);
        from.has(self.prepared.loss().value()) || self.prepared.new_states().iter().any(|t| from.has(t.value()))
    }

    /// States that some parameters reach over any number of steps.
    fn reached(&self, phis: &[usize]) -> BTreeSet<usize> {
        let mut states = BTreeSet::new();
        while let Some(more) = Some(self.advance(phis, &states).0).filter(|more| *more != states) {
            states = more;
        }
        states
    }

    /// Steps from the one in which parameters act to the first loss that depends on them; 0 is the same step.
    fn steps_to_loss(&self, phis: &[usize]) -> Option<usize> {
        let mut states = BTreeSet::new();
        for steps in 0..=self.prepared.states {
            let (more, loss) = self.advance(phis, &states);
            if loss {
                return Some(steps);
            }
            states = more;
        }
        None
    }

    /// States after a step that depend on parameters or on the given states before it, and whether its loss does.
    fn advance(&self, phis: &[usize], states: &BTreeSet<usize>) -> (BTreeSet<usize>, bool) {
        let body = &self.prepared.body;
        let mut sources: Vec<Value> = phis.iter().map(|&k| body.params()[k].value()).collect();
        sources.extend(states.iter().map(|&s| self.prepared.old_states()[s].value()));
        let from: Dependence = reach(body, &sources, true);
        let new = self.prepared.new_states().iter().enumerate();
        let after = new.filter(|(_, t)| from.has(t.value())).map(|(s, _)| s).chain(states.iter().copied());
        (after.collect(), from.has(self.prepared.loss().value()))
    }

    fn no_gradient(&self, paths: Paths, phis: &[usize]) -> LearnError {
        let ways: Vec<String> = paths.drops.iter().map(ToString::to_string).collect();
        let states: Vec<String> = self.reached(phis).into_iter().map(|s| self.state(s)).collect();
        let traced = phis.iter().any(|&phi| self.structure.is_traced(phi));
        LearnError::NoGradient {
            parameter: paths.parameter,
            path: match &ways[..] {
                [] => format!("in later steps, through {}", states.join(", ")),
                some => format!("through {}", some.join(", and ")),
            },
            remedy: if traced {
                "let the loss, or the next layer, read the layer's new states in the same step"
            } else {
                "use it through a traced op (`matmul`, `elementwise`) that drives a state"
            },
        }
    }
}
