//! ES-D-RTRL: an input and an output trace.

use hlo::{DType, Func, Shape, Tensor, scan};

use super::{
    ChunkResult, ChunkView, Slot, Slots, Traces,
    rows::{Row, Rows, place},
};

impl ChunkView<'_> {
    /// ES-D-RTRL for one group.
    pub(super) fn factorised(
        &self,
        g: usize,
        ops: &[usize],
        traces: Option<&Traces>,
        signals: Option<&Slots>,
        out: &mut ChunkResult,
    ) {
        let mut drives: Vec<usize> = ops.iter().map(|&k| self.structure.ops[k].drive).collect();
        drives.sort_unstable();
        drives.dedup();
        for drive in drives {
            let members: Vec<usize> = ops.iter().copied().filter(|&k| self.structure.ops[k].drive == drive).collect();
            let (ef0, ef) = self.smooth(g, drive, members[0], traces, signals.is_some());
            if let Some(slots) = signals {
                self.learn_factorised(g, &members, traces, slots, &ef0, &ef.1, out);
            }
            if let Some(new) = &mut out.traces {
                for (a, e) in ef.0.into_iter().enumerate() {
                    new.extend(e.map(|e| (Slot::Output { drive, group: g, state: a }, e)));
                }
                for k in members {
                    if let Some(x) = self.inputs.get(&k) {
                        let owner = self.plan.input_owner(self.structure, &self.structure.ops[k]);
                        let old = traces.and_then(|t| t.get(&Slot::Input(owner)));
                        new.entry(Slot::Input(owner)).or_insert_with(|| self.smooth_input(x, old));
                    }
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one call site; the values belong to one group and one drive")]
    fn learn_factorised(
        &self,
        g: usize,
        members: &[usize],
        traces: Option<&Traces>,
        slots: &Slots,
        ef0: &[Option<Tensor>],
        ef: &[Option<Tensor>],
        out: &mut ChunkResult,
    ) {
        let c0 = slots.correction.at(0);
        let c = slots.correction.slice_axis(0, 1, self.length + 1);
        let q0 = Tensor::sum_of(slots.entry[g].iter().zip(ef0).map(|(m, e)| Some(m.as_ref()? * e.as_ref()?)))
            .map(|q| q / c0);
        // A trace that is a number has one for each step, `[K]`.
        let like = |t: &Tensor, m: &Tensor| if t.rank() == 1 { t.broadcast(m.dims(), &[0]) } else { t.clone() };
        let q = Tensor::sum_of(slots.steps[g].iter().zip(ef).map(|(m, e)| {
            let m = m.as_ref()?;
            Some(m * like(e.as_ref()?, m))
        }))
        .map(|q| &q / like(&c, &q));
        let has_input = members.iter().any(|k| self.inputs.contains_key(k));
        let filtered = has_input.then(|| self.filter_back(q0.as_ref(), q.as_ref())).flatten();
        for &k in members {
            let op = &self.structure.ops[k];
            let direct = slots.direct(self.structure, k, g);
            let Some(x) = self.inputs.get(&k) else {
                let terms = [q0.clone(), q.as_ref().map(|q| q.sum(&[0])), direct.map(|d| d.sum(&[0]))];
                if let Some(total) = Tensor::sum_of(terms) {
                    out.add(k, op.gradient(self.phis, None, &total));
                }
                continue;
            };
            let owner = self.plan.input_owner(self.structure, op);
            let old = traces.and_then(|t| t.get(&Slot::Input(owner)));
            // In a chunk of one step the old trace is read through the same derivative: one product for both.
            if let (1, None, None, Some(old), Some((_, r))) = (self.length, &q0, &direct, old, &filtered) {
                let x = x + (old * self.plan.input_decay).reshape(x.dims());
                out.add(k, op.gradient(self.phis, Some(&x), r));
                continue;
            }
            if let Some(w) = Tensor::sum_of([filtered.as_ref().map(|(_, r)| r.clone()), direct]) {
                out.add(k, op.gradient(self.phis, Some(x), &w));
            }
            let Some((r0, _)) = &filtered else { continue };
            if let Some(ex) = old {
                out.add(k, op.kind.operator().gradient_of_step(op, &self.phis[op.phi], ex, r0));
            }
        }
    }

    /// `ef` at slot 0, after the chunk, and at slots 1 .. K, by state; `None` where the drive does not reach.
    #[allow(clippy::type_complexity, reason = "three views of one recursion")]
    fn smooth(
        &self,
        g: usize,
        drive: usize,
        op: usize,
        traces: Option<&Traces>,
        stacks: bool,
    ) -> (Vec<Option<Tensor>>, (Vec<Option<Tensor>>, Vec<Option<Tensor>>)) {
        let group = &self.structure.groups[g];
        let reach = self.structure.ops[op].reach(g);
        let states = &reach.states;
        let alpha = self.plan.decay;
        let zero = |a: usize| self.graph.zeros(&reach.output_trace(group, a));
        let old = |a: usize| traces.and_then(|t| t.get(&Slot::Output { drive, group: g, state: a })).cloned();
        let start: Vec<Option<Tensor>> = (0..group.states.len()).map(old).collect();
        let init: Vec<Tensor> = states.iter().map(|&a| start[a].clone().unwrap_or_else(|| zero(a))).collect();
        let f = &self.drives[&(op, g)];
        let mut rows = Rows::default();
        let d: Vec<Vec<Option<Row>>> = rows.transitions(&self.transitions[g], states);
        let f: Vec<Option<Row>> = states.iter().map(|&a| f[a].as_ref().map(|f| rows.add(f))).collect();
        let body = rows.body(&init, |_, e, row| {
            let new: Vec<Tensor> = (0..e.len())
                .map(|a| {
                    let carried = Tensor::sum_of((0..e.len()).map(|c| Some(row(d[a][c].as_ref()?) * &e[c])));
                    let driven = f[a].as_ref().map(|f| row(f) * (1.0 - alpha));
                    let next = Tensor::sum_of([carried.map(|t| t * alpha), driven]);
                    next.map_or_else(|| e[a].zeros_like(), |next| next.broadcast_to(e[a].dims()))
                })
                .collect();
            let ys = if stacks { new.clone() } else { vec![] };
            (new, ys)
        });
        let (last, all) = scan(self.graph, &body, self.length, false, &init, &rows.stacks, &rows.same);
        let by_state = |values: Vec<Tensor>| place(group.states.len(), states, values);
        (start, (by_state(last), by_state(all)))
    }

    /// `ex` after the chunk.
    fn smooth_input(&self, x: &Tensor, old: Option<&Tensor>) -> Tensor {
        let k = self.length;
        let alpha = self.plan.input_decay;
        // Weights a^(K-s) for s = 1 .. K.
        let shape = Shape::f32([k]);
        let age = (k as f64 - 1.0) - self.graph.iota(shape.with_dtype(DType::S32), 0).convert(DType::F32);
        let weights = if alpha > 0.0 {
            (age * alpha.ln()).exp()
        } else {
            age.le(&age.zeros_like()).select(&age.full_like(1.0), &age.zeros_like())
        };
        // Not a dot: XLA's CPU backend is several times slower at the product of a vector and a matrix.
        let added = (weights.broadcast(x.dims(), &[0]) * x).sum(&[0]);
        match old {
            Some(old) => old * alpha.powi(k as i32) + added,
            None => added,
        }
    }

    /// `r_s = q_s + a r_{s+1}` for slots 0 and 1 .. K.
    fn filter_back(&self, q0: Option<&Tensor>, q: Option<&Tensor>) -> Option<(Tensor, Tensor)> {
        let alpha = self.plan.input_decay;
        let shape = match (q0, q) {
            (Some(q0), _) => q0.shape().clone(),
            (None, Some(q)) => q.shape().with_dims(&q.dims()[1..]),
            (None, None) => return None,
        };
        let zero = self.graph.zeros(&shape);
        let stack = shape.with_dims([&[self.length], &shape.dims[..]].concat());
        let q = q.cloned().unwrap_or_else(|| self.graph.zeros(&stack));
        let body = Func::trace(&[shape.clone(), shape], |_, p| {
            let r = &p[0] * alpha + &p[1];
            vec![r.clone(), r]
        });
        let (first, all) = scan(self.graph, &body, self.length, true, std::slice::from_ref(&zero), &[q], &[]);
        let r0 = &first[0] * alpha + q0.unwrap_or(&zero);
        Some((r0, all[0].clone()))
    }
}
