//! What a loop over the steps of a chunk reads.

use hlo::{DType, Func, Graph, Shape, Tensor, scan_whole};

use crate::learn::chunk::Transition;

/// A value that a loop reads in every step.
#[derive(Clone, Copy)]
pub enum Row {
    /// Row of a stack.
    Stack(usize),
    /// The same in every step.
    Same(usize),
    /// A number.
    Number(f64),
}

/// The values that a loop reads: stacks, and what is the same in every step.
#[derive(Default)]
pub struct Rows {
    /// Read row by row.
    pub stacks: Vec<Tensor>,
    /// Read whole.
    pub same: Vec<Tensor>,
}

/// How a `[K, ..]` value differs from step to step.
pub enum Variation {
    /// It is a number.
    Number(f64),
    /// All its rows are this one.
    Same(Tensor),
    /// Its rows differ.
    Steps,
}

impl Variation {
    /// Finds out.
    pub fn of(t: &Tensor) -> Variation {
        if let Some(number) = t.as_constant() {
            return Variation::Number(number);
        }
        let node = t.node();
        match hlo::func::downcast::<hlo::ops::shaping::Broadcast>(&node) {
            Some(b) if !b.axes.contains(&0) => {
                let axes: Vec<usize> = b.axes.iter().map(|a| a - 1).collect();
                Variation::Same(t.graph().tensor(node.operands[0]).broadcast(&t.dims()[1..], &axes))
            }
            _ => Variation::Steps,
        }
    }
}

impl Rows {
    /// Registers a `[K, ..]` value, finding out whether its rows are all alike.
    pub fn add(&mut self, t: &Tensor) -> Row {
        match Variation::of(t) {
            Variation::Number(number) => Row::Number(number),
            Variation::Same(row) => self.same(row),
            Variation::Steps => self.stack(t.clone()),
        }
    }

    /// Registers a value whose rows differ.
    pub fn stack(&mut self, t: Tensor) -> Row {
        Row::Stack(push_unique(&mut self.stacks, t))
    }

    /// Registers a row that all steps have.
    pub fn same(&mut self, row: Tensor) -> Row {
        Row::Same(push_unique(&mut self.same, row))
    }

    /// Registers the transitions among some states of a group.
    pub fn transitions(&mut self, d: &Transition, states: &[usize]) -> Vec<Vec<Option<Row>>> {
        states.iter().map(|&a| states.iter().map(|&c| d[a][c].as_ref().map(|d| self.add(d))).collect()).collect()
    }

    /// A loop body over carries like `init`, reading these rows.
    pub fn body(
        &self,
        init: &[Tensor],
        step: impl FnOnce(&Graph, &[Tensor], &dyn Fn(&Row) -> Tensor) -> (Vec<Tensor>, Vec<Tensor>),
    ) -> Func {
        let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
        shapes.extend(self.stacks.iter().map(|t| t.shape().with_dims(&t.dims()[1..])));
        shapes.extend(self.same.iter().map(|t| t.shape().clone()));
        let (n, s) = (init.len(), self.stacks.len());
        Func::trace(&shapes, |g, p| {
            let row = |r: &Row| match *r {
                Row::Stack(k) => p[n + k].clone(),
                Row::Same(k) => p[n + s + k].clone(),
                Row::Number(v) => g.scalar(DType::F32, v),
            };
            let (mut new, ys) = step(g, &p[..n], &row);
            new.extend(ys);
            new
        })
    }
}

impl Rows {
    /// A loop over steps `from .. to`, backwards, over carries like `init`. The stacks are read where they are: a loop over a part of
    /// them copies nothing.
    pub fn back(
        &self,
        g: &Graph,
        init: &[Tensor],
        (from, to): (usize, usize),
        step: impl FnOnce(&[Tensor], &dyn Fn(&Row) -> Tensor) -> (Vec<Tensor>, Vec<Tensor>),
    ) -> (Vec<Tensor>, Vec<Tensor>) {
        let consts = [&self.stacks[..], &self.same].concat();
        let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
        shapes.push(Shape::s32([]));
        shapes.extend(consts.iter().map(|t| t.shape().clone()));
        let (n, s) = (init.len() + 1, self.stacks.len());
        let body = Func::trace(&shapes, |g, p| {
            let row = |r: &Row| match *r {
                Row::Stack(k) => p[n + k].dynamic_slice(&p[n - 1], 1).at(0),
                Row::Same(k) => p[n + s + k].clone(),
                Row::Number(v) => g.scalar(DType::F32, v),
            };
            let (mut new, ys) = step(&p[..n - 1], &row);
            new.extend(ys);
            new
        });
        let index = g.iota(Shape::s32([to - from]), 0) + g.scalar(DType::S32, from as f64);
        scan_whole(g, &body, to - from, true, init, &[index], &consts)
    }
}

fn push_unique(list: &mut Vec<Tensor>, t: Tensor) -> usize {
    list.iter().position(|u| u.value() == t.value()).unwrap_or_else(|| {
        list.push(t);
        list.len() - 1
    })
}

/// `count` values, of which those at `at` are given.
pub fn place(count: usize, at: &[usize], values: Vec<Tensor>) -> Vec<Option<Tensor>> {
    let mut all = vec![None; count];
    for (&k, value) in at.iter().zip(values) {
        all[k] = Some(value);
    }
    all
}
