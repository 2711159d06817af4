//! What the graph of a step says of lags: which values a fixed lag keeps, and how much a lag cuts off.

use std::collections::BTreeSet;

use hlo::{DType, Func, Graph, Range, Shape, Tensor};

use super::{
    Learner,
    decay::{Matrix, lag_of, reach},
};
use crate::learn::{
    rings::Rings,
    segment::Looked,
    sequence::Carry,
    trace::{Kept, LagPlan, Ring, TraceKind},
};

/// What the graph says of lags: found once for a learner.
#[derive(Default)]
pub(in crate::learn) struct Lagged {
    /// Ops with wide traces.
    pub wide: LagPlan,
    /// The same in a stream.
    pub stream: LagPlan,
    /// All ops with full traces.
    pub all: LagPlan,
    /// Bounds on the transitions of each group.
    bounds: Vec<Matrix>,
}

impl Learner {
    /// The smallest lag that cuts off no more than the tolerance, if the graph says so.
    pub(super) fn sufficient_lag(&self) -> Option<usize> {
        let tolerance = self.config().lag_tolerance;
        let groups = self.lagged().bounds.iter().filter(|d| !d.is_empty());
        groups.map(|d| lag_of(d, tolerance)).try_fold(1, |most, lag| Some(most.max(lag?)))
    }

    /// The largest factor by which a signal reaches a state `lag` steps earlier, or more; infinite if the graph does not say. It holds
    /// while fixed parameters have values that their initialisation can give ([`Model::range`](crate::cell::Model::range)).
    pub fn cut_after(&self, lag: usize) -> f64 {
        let groups = self.lagged().bounds.iter().filter(|d| !d.is_empty());
        groups.map(|d| reach(d, lag)).fold(0.0, f64::max)
    }

    pub(in crate::learn) fn lagged(&self) -> &Lagged {
        self.lagged.get_or_init(|| self.survey())
    }

    /// Builds two steps in a graph that is thrown away, and looks at what they have.
    fn survey(&self) -> Lagged {
        let full = self.structure.traced().filter(|(k, _)| self.plan.kinds[*k] == Some(TraceKind::Full));
        let all: BTreeSet<usize> = full.map(|(k, _)| k).collect();
        let ops = &self.as_traced().ops;
        let is_wide =
            |k: &usize| ops[*k].kind.operator().is_wide() && ops[*k].reached.iter().any(|r| !r.wide.is_empty());
        let mut wide: BTreeSet<usize> = all.iter().copied().filter(is_wide).collect();
        // A bias beside a wide weight has the same recursion.
        let beside = |k: &usize| wide.iter().any(|w| ops[*w].groups.iter().any(|g| ops[*k].groups.contains(g)));
        let biases = all.iter().copied().filter(|k| !ops[*k].kind.operator().is_wide() && beside(k));
        let biases: Vec<usize> = biases.collect();
        wide.extend(biases);
        if all.is_empty() {
            return Lagged::default();
        }
        let p = &self.prepared;
        let g = Graph::new();
        let args: Vec<Tensor> =
            p.body.params().iter().enumerate().map(|(k, t)| g.parameter(k, t.shape().clone())).collect();
        let inputs = g.parameter(args.len(), Shape::f32([&[2], &p.input.dims[..]].concat()));
        let states = args[p.phis..p.phis + p.states].to_vec();
        let carry = Carry { states, traces: None, time: g.scalar(DType::S32, 0.0), rings: Rings::None };
        let target = g.parameter(args.len() + 1, p.targets(2));
        let (phis, counts) = (&args[..p.phis], None);
        let chunk = Looked {
            phis,
            carry: &carry,
            forward: None,
            inputs: &inputs,
            target: &target,
            counts,
            learn: true,
            arriving: None,
        };
        let seen = self.look(&g, &chunk);
        let Some(slots) = &seen.slots else { return Lagged::default() };
        let outside: BTreeSet<usize> =
            all.iter().copied().filter(|&k| ops[k].x == Some(p.body.params()[p.phis + p.states].value())).collect();
        let view = seen.view(self, &g, &args[..p.phis]);
        let of = |ops: &BTreeSet<usize>, outside| LagPlan::new(&view, slots, ops.clone(), outside);
        let stream = of(&wide, BTreeSet::new()).of_each_step();
        let (wide, all) = (of(&wide, outside.clone()), of(&all, outside.clone()));
        let params = [&args[..], &[inputs.clone(), target.clone()]].concat();
        let mut ranges = self.ranges.clone();
        ranges.resize(params.len(), Range::ANY);
        let bounds = |group: usize| {
            let size = |a: usize, c: usize| match (
                wide.kept.get(&Ring::Transition { group, to: a, from: c }),
                &view.transitions[group][a][c],
            ) {
                (Some(Kept::Number(v)), _) => v.abs(),
                (Some(_), Some(t)) => Func::from_values(params.clone(), vec![t.clone()]).ranges_of(&ranges)[0].size(),
                _ => 0.0,
            };
            let states = wide.states(self.as_traced(), group);
            states.iter().map(|&a| states.iter().map(|&c| size(a, c)).collect()).collect()
        };
        let bounds = (0..self.structure.groups.len()).map(bounds).collect();
        Lagged { wide, stream, all, bounds }
    }
}
