//! Rows at given places: what a sparse product is made of.
//!
//! The places are known when a program is built, so the derivative needs no scatter: that of a row of the operand is the sum over the
//! rows of the result that read it, which are found beforehand.

use std::{fmt, rc::Rc};

use crate::{
    evaluate::HostValue,
    func::Func,
    graph::Tensor,
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    proto::GatherDimensionNumbers,
    range::Range,
    shape::{DType, Shape},
};

/// For each row of the result, which row of the operand it is; the number of rows stands for none, which reads zeros.
pub struct Places {
    /// Sizes of the axes that take the place of the first one.
    dims: Vec<usize>,
    /// Row-major.
    places: Vec<i32>,
}

impl Places {
    /// Places in row-major order of `dims`.
    ///
    /// # Panics
    /// When there are not as many as `dims` says.
    pub fn new(dims: &[usize], places: Vec<i32>) -> Places {
        assert_eq!(dims.iter().product::<usize>(), places.len(), "a place for each element of {dims:?}");
        Places { dims: dims.to_vec(), places }
    }

    /// Sizes of the axes that take the place of the first one.
    pub(crate) fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// For each of `size` rows the numbers of the results that read it, `[size, most]`; their number stands for none.
    fn inverse(&self, size: usize) -> Places {
        let mut counts = vec![0usize; size];
        let there = || self.places.iter().map(|&p| p as usize).enumerate().filter(|&(_, p)| p < size);
        there().for_each(|(_, p)| counts[p] += 1);
        let most = counts.into_iter().max().unwrap_or(0).max(1);
        let mut places = vec![self.places.len() as i32; size * most];
        let mut filled = vec![0usize; size];
        for (k, p) in there() {
            places[p * most + filled[p]] = k as i32;
            filled[p] += 1;
        }
        Places { dims: vec![size, most], places }
    }
}

/// `y[e.., r..] = x[places[e..], r..]`, zero where a place stands for none.
#[derive(Clone)]
pub struct Take {
    /// The places.
    pub places: Rc<Places>,
}

impl fmt::Debug for Take {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By address: the places may be many, and two operations that share them are one.
        write!(f, "Take {{ dims: {:?}, places: {:p} }}", self.places.dims, self.places)
    }
}

impl Primitive for Take {
    fn name(&self) -> &'static str {
        "gather"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let Some((&rows, rest)) = args[0].dims.split_first() else {
            return Err(ShapeError("gather: the operand needs an axis to take from, got a scalar; reshape it".into()));
        };
        if let Some(bad) = self.places.places.iter().find(|&&p| p < 0 || p as usize > rows) {
            return Err(ShapeError(format!(
                "gather: places must lie on the first axis, got {bad} of {}; count from 0 to {}, and {rows} for zeros",
                args[0],
                rows.saturating_sub(1)
            )));
        }
        Ok(vec![args[0].with_dims([&self.places.dims, rest].concat())])
    }
    fn jvp(&self, _: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![tangents[0].as_ref().map(|d| d.take(&self.places))]
    }
    fn transpose(&self, args: &[Tensor], _: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![cotangents[0].as_ref().map(|ct| {
            let (size, rest) = args[0].dims().split_first().expect("an axis to take from");
            let flat = ct.reshape(&[&[self.places.places.len()], rest].concat());
            flat.take(&Rc::new(self.places.inverse(*size))).sum(&[1])
        })]
    }
    fn batch(&self, args: &[Mapped], _: usize) -> Vec<Mapped> {
        // The mapped axis goes behind the first one, and comes back.
        let (x, axes) = (&args[0].tensor, self.places.dims.len());
        let mut order: Vec<usize> = (0..x.rank()).collect();
        order.swap(0, 1);
        let taken = x.transpose(&order).take(&self.places);
        let mut back: Vec<usize> = (0..taken.rank()).collect();
        back[..=axes].rotate_right(1);
        vec![Mapped { tensor: taken.transpose(&back), mapped: true }]
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let row: usize = args[0].shape.dims[1..].iter().product();
        let mut data = vec![0.0; results[0].elements()];
        for (to, &p) in data.chunks_exact_mut(row.max(1)).zip(&self.places.places) {
            if let Some(from) = args[0].data.get(p as usize * row..(p as usize + 1) * row) {
                to.copy_from_slice(from);
            }
        }
        vec![HostValue::new(results[0].clone(), data)]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        let places = e.places(&Shape::new(DType::S32, self.places.dims.clone()), &self.places.places);
        let whole = e.shape(args[0]).clone();
        if self.places.places.iter().all(|&p| (p as usize) < whole.dims[0]) {
            return vec![gather(e, args[0], places, &results[0])];
        }
        // One more row, of zeros, for the places that read none.
        let padded = Func::trace(&[whole], |_, p| {
            let mut high = vec![0; p[0].rank()];
            high[0] = 1;
            vec![p[0].pad(&vec![0; high.len()], &high)]
        });
        let padded = e.inline(&padded, args)[0];
        vec![gather(e, padded, places, &results[0])]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args[0].union(Range::point(0.0))
    }
}

/// Emits the rows of the first axis of `x` at the places of `index`.
pub(crate) fn gather(e: &mut Emitter<'_>, x: i64, index: i64, result: &Shape) -> i64 {
    let rest: Vec<i64> = e.shape(x).dims[1..].iter().map(|&d| d as i64).collect();
    let axes = e.shape(index).rank() as i64;
    e.push("gather", result, &[x, index], |i| {
        i.gather_dimension_numbers = Some(GatherDimensionNumbers {
            offset_dims: (axes..axes + rest.len() as i64).collect(),
            collapsed_slice_dims: vec![0],
            start_index_map: vec![0],
            index_vector_dim: axes,
        });
        i.gather_slice_sizes = [&[1], &rest[..]].concat();
    })
}

impl Tensor {
    /// The rows of the first axis at given places: `[I, ..]` to `[dims of the places, ..]`.
    ///
    /// ```
    /// use std::rc::Rc;
    ///
    /// use hlo::{Graph, Shape, ops::take::Places};
    ///
    /// let g = Graph::new();
    /// let x = g.parameter(0, Shape::f32([5, 8]));
    /// let places = Rc::new(Places::new(&[2, 3], vec![4, 0, 1, 1, 2, 4]));
    /// assert_eq!(x.take(&places).dims(), [2, 3, 8]);
    /// ```
    #[track_caller]
    pub fn take(&self, places: &Rc<Places>) -> Tensor {
        self.graph().apply(Take { places: places.clone() }, &[self])
    }
}
