//! Slices at positions computed by the program, along the first axis.

use crate::{
    evaluate::HostValue,
    func::Func,
    graph::Tensor,
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    shape::{DType, Shape},
    transform::scan_whole,
};

/// The operation once for each index, in a loop.
pub(crate) fn one_by_one(op: impl Primitive + Clone, args: &[Mapped], size: usize) -> Vec<Mapped> {
    let (rows, fixed): (Vec<usize>, Vec<usize>) = (0..args.len()).partition(|&k| args[k].mapped);
    let shape = |k: usize| {
        let shape = args[k].tensor.shape();
        shape.with_dims(&shape.dims[usize::from(args[k].mapped)..])
    };
    let order: Vec<usize> = rows.iter().chain(&fixed).copied().collect();
    let body = Func::trace(&order.iter().map(|&k| shape(k)).collect::<Vec<_>>(), |g, params| {
        let mut operands: Vec<&Tensor> = params.iter().collect();
        for (&k, p) in order.iter().zip(params) {
            operands[k] = p;
        }
        vec![g.apply(op, &operands)]
    });
    let pick = |list: &[usize]| list.iter().map(|&k| args[k].tensor.clone()).collect::<Vec<_>>();
    let (_, mut stack) = scan_whole(args[0].tensor.graph(), &body, size, false, &[], &pick(&rows), &pick(&fixed));
    vec![Mapped { tensor: stack.swap_remove(0), mapped: true }]
}

fn check_index(name: &str, index: &Shape) -> Result<(), ShapeError> {
    if *index != Shape::s32([]) {
        return Err(ShapeError(format!("{name}: the position must be a scalar s32[], got {index}; convert it first")));
    }
    Ok(())
}

/// Position in memory of the row at `index`, moved so that `size` rows lie inside.
fn first_element(whole: &HostValue, index: &HostValue, size: usize) -> usize {
    let rows = whole.shape.dims[0];
    let row = index.scalar().clamp(0.0, (rows - size) as f64) as usize;
    row * whole.shape.dims[1..].iter().product::<usize>()
}

/// `size` rows of the first axis, from a computed position (clamped to stay inside).
#[derive(Clone, Debug)]
pub struct DynamicSlice {
    /// How many rows.
    pub size: usize,
}

impl Primitive for DynamicSlice {
    fn name(&self) -> &'static str {
        "dynamic-slice"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        check_index("dynamic-slice", args[1])?;
        if args[0].rank() == 0 || self.size > args[0].dims[0] {
            return Err(ShapeError(format!(
                "dynamic-slice: at most as many rows as the first axis has, got {} of {}; take fewer",
                self.size, args[0]
            )));
        }
        let mut dims = args[0].dims.clone();
        dims[0] = self.size;
        Ok(vec![args[0].with_dims(dims)])
    }
    fn jvp(&self, args: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![tangents[0].as_ref().map(|d| d.dynamic_slice(&args[1], self.size))]
    }
    fn transpose(&self, args: &[Tensor], _: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![cotangents[0].as_ref().map(|c| args[0].zeros_like().dynamic_update(c, &args[1])), None]
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        if args[1].mapped {
            return one_by_one(self.clone(), args, size);
        }
        let rows = swap_front(&args[0].materialize(size));
        vec![Mapped { tensor: swap_front(&rows.dynamic_slice(&args[1].tensor, self.size)), mapped: true }]
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let start = first_element(args[0], args[1], self.size);
        vec![HostValue::new(results[0].clone(), args[0].data[start..][..results[0].elements()].to_vec())]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        let zero = e.constant(DType::S32, 0.0);
        let mut operands = vec![args[0], args[1]];
        operands.extend(std::iter::repeat_n(zero, results[0].rank() - 1));
        vec![e.push("dynamic-slice", &results[0], &operands, |i| {
            i.dynamic_slice_sizes = results[0].dims.iter().map(|&d| d as i64).collect();
        })]
    }
}

/// The operand with some rows of its first axis replaced, at a computed position.
#[derive(Clone, Debug)]
pub struct DynamicUpdate;

impl Primitive for DynamicUpdate {
    fn name(&self) -> &'static str {
        "dynamic-update-slice"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        check_index("dynamic-update-slice", args[2])?;
        let (whole, part) = (args[0], args[1]);
        if whole.dtype != part.dtype
            || whole.rank() == 0
            || whole.dims.get(1..) != part.dims.get(1..)
            || part.dims[0] > whole.dims[0]
        {
            return Err(ShapeError(format!(
                "dynamic-update-slice: the new rows must match all axes but the first, got {part} into {whole}; reshape them"
            )));
        }
        Ok(vec![whole.clone()])
    }
    fn jvp(&self, args: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        if tangents[0].is_none() && tangents[1].is_none() {
            return vec![None];
        }
        let or_zero = |k: usize| tangents[k].clone().unwrap_or_else(|| args[k].zeros_like());
        vec![Some(or_zero(0).dynamic_update(&or_zero(1), &args[2]))]
    }
    fn transpose(&self, args: &[Tensor], linear: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let Some(ct) = &cotangents[0] else { return vec![None, None, None] };
        vec![
            linear[0].then(|| ct.dynamic_update(&args[1].zeros_like(), &args[2])),
            linear[1].then(|| ct.dynamic_slice(&args[2], args[1].dims()[0])),
            None,
        ]
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        if args[2].mapped {
            return one_by_one(self.clone(), args, size);
        }
        let whole = swap_front(&args[0].materialize(size));
        let part = swap_front(&args[1].materialize(size));
        vec![Mapped { tensor: swap_front(&whole.dynamic_update(&part, &args[2].tensor)), mapped: true }]
    }
    fn evaluate(&self, args: &[&HostValue], _: &[Shape]) -> Vec<HostValue> {
        let start = first_element(args[0], args[2], args[1].shape.dims[0]);
        let mut whole = args[0].clone();
        whole.data[start..][..args[1].data.len()].copy_from_slice(&args[1].data);
        vec![whole]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        let zero = e.constant(DType::S32, 0.0);
        let mut operands = args.to_vec();
        operands.extend(std::iter::repeat_n(zero, results[0].rank() - 1));
        vec![e.push("dynamic-update-slice", &results[0], &operands, |_| {})]
    }
}

/// Exchanges the first two axes.
fn swap_front(t: &Tensor) -> Tensor {
    let order: Vec<usize> = [1, 0].into_iter().chain(2..t.rank()).collect();
    t.transpose(&order)
}

impl Tensor {
    /// `size` rows of the first axis, from the computed position `start: s32[]`.
    #[track_caller]
    pub fn dynamic_slice(&self, start: &Tensor, size: usize) -> Tensor {
        self.graph().apply(DynamicSlice { size }, &[self, start])
    }

    /// This value with the rows of `part` written at the computed position `start: s32[]` of the first axis.
    #[track_caller]
    pub fn dynamic_update(&self, part: &Tensor, start: &Tensor) -> Tensor {
        self.graph().apply(DynamicUpdate, &[self, part, start])
    }
}
