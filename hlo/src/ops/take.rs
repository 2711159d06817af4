//! Elements at given places: what a sparse product is made of.
//!
//! The places are known when a program is built, so the derivative needs no scatter: that of an element of the operand is the sum over the
//! places of the result that read it, which are found beforehand.

use std::{fmt, rc::Rc};

use crate::{
    evaluate::HostValue,
    graph::Tensor,
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    proto::GatherDimensionNumbers,
    range::Range,
    shape::{DType, Shape},
};

/// For each element of the result, which element of the operand's last axis it is.
pub struct Places {
    /// Sizes of the axes that take the place of the last one.
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

    /// For each of `size` elements the numbers of the results that read it, `[size, most]`; `len` stands for none.
    fn inverse(&self, size: usize) -> Places {
        let mut counts = vec![0usize; size];
        self.places.iter().for_each(|&p| counts[p as usize] += 1);
        let most = counts.into_iter().max().unwrap_or(0).max(1);
        let mut places = vec![self.places.len() as i32; size * most];
        let mut filled = vec![0usize; size];
        for (k, &p) in self.places.iter().enumerate() {
            let p = p as usize;
            places[p * most + filled[p]] = k as i32;
            filled[p] += 1;
        }
        Places { dims: vec![size, most], places }
    }
}

/// `y[.., e..] = x[.., places[e..]]`.
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
        let Some((&last, lead)) = args[0].dims.split_last() else {
            return Err(ShapeError("gather: the operand needs an axis to take from, got a scalar; reshape it".into()));
        };
        if let Some(bad) = self.places.places.iter().find(|&&p| p < 0 || p as usize >= last) {
            return Err(ShapeError(format!(
                "gather: places must lie on the last axis, got {bad} of {}; count from 0 to {}",
                args[0],
                last.saturating_sub(1)
            )));
        }
        Ok(vec![args[0].with_dims([lead, &self.places.dims].concat())])
    }
    fn jvp(&self, _: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![tangents[0].as_ref().map(|d| d.take(&self.places))]
    }
    fn transpose(&self, args: &[Tensor], _: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![cotangents[0].as_ref().map(|ct| {
            let (size, lead) = args[0].dims().split_last().expect("an axis to take from");
            let flat = ct.reshape(&[lead, &[self.places.places.len()]].concat());
            // One more element, a zero, for the places that nothing reads.
            let mut high = vec![0; lead.len() + 1];
            high[lead.len()] = 1;
            let all = flat.pad(&vec![0; high.len()], &high).take(&Rc::new(self.places.inverse(*size)));
            all.sum(&[lead.len() + 1])
        })]
    }
    fn batch(&self, args: &[Mapped], _: usize) -> Vec<Mapped> {
        vec![Mapped { tensor: args[0].tensor.take(&self.places), mapped: true }]
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let last = args[0].shape.dims[args[0].shape.rank() - 1];
        let rows = args[0].data.chunks(last.max(1));
        let data = rows.flat_map(|row| self.places.places.iter().map(|&p| row[p as usize])).collect();
        vec![HostValue::new(results[0].clone(), data)]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        let operand = e.shape(args[0]).dims.clone();
        let lead = operand.len() - 1;
        let places = e.places(&Shape::new(DType::S32, self.places.dims.clone()), &self.places.places);
        vec![e.push("gather", &results[0], &[args[0], places], |i| {
            i.gather_dimension_numbers = Some(GatherDimensionNumbers {
                offset_dims: (0..lead as i64).collect(),
                collapsed_slice_dims: vec![lead as i64],
                start_index_map: vec![lead as i64],
                index_vector_dim: self.places.dims.len() as i64,
            });
            i.gather_slice_sizes = operand[..lead].iter().map(|&d| d as i64).chain([1]).collect();
        })]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args[0]
    }
}

impl Tensor {
    /// The elements of the last axis at given places: `[.., I]` to `[.., dims of the places]`.
    ///
    /// ```
    /// use std::rc::Rc;
    ///
    /// use hlo::{Graph, Shape, ops::take::Places};
    ///
    /// let g = Graph::new();
    /// let x = g.parameter(0, Shape::f32([8, 5]));
    /// let places = Rc::new(Places::new(&[2, 3], vec![4, 0, 1, 1, 2, 4]));
    /// assert_eq!(x.take(&places).dims(), [8, 2, 3]);
    /// ```
    #[track_caller]
    pub fn take(&self, places: &Rc<Places>) -> Tensor {
        self.graph().apply(Take { places: places.clone() }, &[self])
    }
}
