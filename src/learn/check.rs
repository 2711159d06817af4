//! What settings, rules and models that do not go together are told.

use hlo::Graph;

use super::{
    LearnError, Prepared, Rule, Structure, Vjp,
    op::Kind,
    rule::{Passage, TracedOp},
    sequence::LearnerConfig,
    structure::Op,
    trace::{TraceKind, TracePlan},
};

/// Settings that make no sense by themselves.
pub(super) fn config(config: &LearnerConfig) -> Result<(), LearnError> {
    let wrong = |text: String| Err(LearnError::Setting(text));
    if config.chunk == Some(0) {
        return wrong("a chunk needs at least one step, got --chunk 0; leave the flag out for the default".into());
    }
    if config.vjp == (Vjp::MultiStep { window: 0 }) {
        return wrong("a window needs at least one step, got 0; 1 is the usual choice".into());
    }
    Ok(())
}

/// Whether an online rule gives no op a trace.
pub(super) fn traceless(rule: &dyn Rule, structure: &Structure) -> bool {
    rule.is_online() && (0..structure.ops.len()).all(|op| rule.trace(TracedOp { structure, op }).is_none())
}

/// Projected traces need random signs.
pub(super) fn projection(rule: &dyn Rule, structure: &Structure) -> Result<(), LearnError> {
    let projected = |op: usize| rule.trace(TracedOp { structure, op }) == Some(TraceKind::Projected);
    if rule.projection().is_some() || !(0..structure.ops.len()).any(projected) {
        return Ok(());
    }
    Err(LearnError::Setting(
        "a rule with projected traces says where its random signs come from, got none; implement Rule::projection"
            .into(),
    ))
}

/// Bytes of traces by each weight and neuron that are not refused.
const COMPLETE_BYTES: usize = 1 << 30;

/// Traces by each weight and neuron are for small layers.
pub(super) fn complete(plan: &TracePlan, structure: &Structure, batch: usize) -> Result<(), LearnError> {
    let bytes = plan.bytes(structure, batch);
    if bytes <= COMPLETE_BYTES || !plan.kinds.contains(&Some(TraceKind::Complete)) {
        return Ok(());
    }
    Err(LearnError::Setting(format!(
        "traces of every weight on every neuron of its layer may take 1 GiB, got {}; use n = 1, ostl-recurrent or uoro, or a smaller layer or \
         batch",
        crate::report::bytes(bytes as u64)
    )))
}

/// A filter stands behind full traces.
pub(super) fn filter(plan: &TracePlan) -> Result<(), LearnError> {
    if plan.filter == 0.0 || plan.kinds.iter().flatten().all(|kind| *kind == TraceKind::Full) {
        return Ok(());
    }
    Err(LearnError::Setting(format!(
        "a filter stands behind traces of the size of a weight, got a factor of {} for others; set it to 0",
        plan.filter
    )))
}

/// Multi-step gradients meet the exact derivative at the entry of a window: there a rule cannot have signals of its own.
pub(super) fn signals(vjp: Vjp, rule: &dyn Rule) -> Result<(), LearnError> {
    let Vjp::MultiStep { window } = vjp else { return Ok(()) };
    let own = [
        (rule.filter() > 0.0, "filters its traces"),
        (rule.reception().is_some(), "replaces learning signals"),
        (rule.one_hop(), "passes signals on by itself"),
        (rule.non_causal().is_some(), "pairs inputs with slopes before them"),
    ];
    if let Some((_, what)) = own.into_iter().find(|(has, _)| *has) {
        return Err(LearnError::Setting(format!(
            "multi-step gradients hand the exact derivative to the traces, which makes no sense where a rule {what}, got --vjp_method \
             multi-step with windows of {window}; use --vjp_method single-step"
        )));
    }
    Ok(())
}

/// A rule with signals of its own ([`Rule::feedback`]) has them everywhere, or not at all.
pub(super) fn feedback(
    vjp: Vjp,
    rule: &dyn Rule,
    prepared: &Prepared,
    structure: &Structure,
) -> Result<(), LearnError> {
    let g = Graph::new();
    let own = |op: &Op| {
        let weight = g.parameter(op.phi, prepared.body.params()[op.phi].shape().clone());
        rule.feedback(&Passage { name: op.site.clone(), weight: &weight }).is_some()
    };
    if !rule.is_online() || !structure.ops.iter().any(|op| op.kind == Kind::Dense && own(op)) {
        return Ok(());
    }
    if let Some(op) = structure.ops.iter().find(|op| op.kind == Kind::Map) {
        return Err(LearnError::Setting(format!(
            "a rule with its own feedback replaces the matrices that signals pass back through, but the traced op `{}` is not a matrix; \
             use another --method",
            op.site
        )));
    }
    match vjp {
        Vjp::MultiStep { window } if window > 1 => Err(LearnError::Setting(format!(
            "windows have exact gradients inside, which a rule with its own feedback has not, got --window {window}; use \
             --vjp_method single-step or --window 1"
        ))),
        _ => Ok(()),
    }
}

/// What a rule needs of ops that are any function: a factorised trace smooths the inputs, so the gradient must be linear in them; other
/// traces but full ones know matrices only.
pub(super) fn maps(rule: &dyn Rule, plan: &TracePlan, structure: &Structure) -> Result<(), LearnError> {
    let other = |k: usize| {
        rule.non_causal().is_some() || matches!(plan.kinds[k], Some(TraceKind::Complete | TraceKind::Projected))
    };
    if let Some((_, op)) = structure.traced().find(|(k, op)| op.kind == Kind::Map && other(*k)) {
        return Err(LearnError::Setting(format!(
            "this rule has traces of matrices and of parameters of each neuron, but the traced op `{}` is another function; use --method \
             d-rtrl or es-d-rtrl",
            op.site
        )));
    }
    let factorised = structure.traced().filter(|(k, _)| plan.kinds[*k] == Some(TraceKind::Factorised));
    let bent = factorised.map(|(_, op)| op).find(|op| op.x.is_some() && !op.kind.operator().is_linear(op));
    bent.map_or(Ok(()), |op| {
        Err(LearnError::Setting(format!(
            "a factorised trace smooths the inputs of an op, so what an op makes of its weight must be linear in its input, but that of \
             `{}` is not; take what is not linear out of the function, or use --method d-rtrl or bptt",
            op.site
        )))
    })
}
