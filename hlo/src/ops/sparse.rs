//! Products with sparse matrices whose pattern is known when a program is built.
//!
//! A matrix is a table: `rows` rows of `width` places, each of which hears one row of the operand ([`Heard`]). Sequences (lanes) are
//! innermost, `x: [pre, L]`, so that what a place hears lies together:
//!
//! ```text
//! SparseDot     y[r, l] = sum_d table[r, d] x[heard[r, d], l]
//! SparseOuter   g[r, d] = sum_l x[heard[r, d], l] y[r, l]
//! ```
//!
//! Each is the other's derivative: `SparseDot` with respect to its table is `SparseOuter`, and with respect to `x` a `SparseDot` over the
//! synapses the other way round. Any pattern becomes such a table ([`Synapses`]): the synapses of a row are cut into segments of one width,
//! and the sums of the segments are added up. No scatter is needed anywhere.
//!
//! # Why there are loops
//!
//! XLA's CPU compiler makes one loop of a gather and whatever computes its operand and reads its result: a transposition in front of the
//! gather is then carried out once for each synapse, element by element, across memory; and a sum over lanes is a chain of scalar
//! additions, during which the processor waits for the next row. What comes out of a loop is an array. So `SparseDot` passes its operand
//! and its result through a loop that writes a row of them once more, and `SparseOuter` goes over tiles of rows: a tile gives a few
//! sums for each place, which the next iteration adds and stores. [`Settle`](super::settle) is such a loop
//! for any array.

use std::{cell::OnceCell, fmt, rc::Rc};

use crate::{
    evaluate::HostValue,
    func::Func,
    graph::{Graph, Tensor},
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    ops::{
        index::one_by_one,
        settle::{first_row, settled},
        take::{Places, gather},
    },
    shape::{DType, Shape},
};

/// The widest segment. (XLA stores all terms of a sum of more than 32 before it adds them.)
const WIDEST: usize = 32;

/// Segments whose sums are added at once.
const TOGETHER: usize = 8;

/// Lanes of which `SparseOuter` keeps separate sums within a tile: one vector.
const LANES: usize = 8;

/// Bytes of what a tile gives, which should stay in a processor's cache.
const TILE_BYTES: usize = 1 << 20;

/// Products with fewer multiplications than this are no loop.
const SMALL: usize = 1 << 17;

/// Which row of the operand each place of a table hears.
pub struct Heard {
    pre: usize,
    rows: usize,
    width: usize,
    /// `[rows, width]`; `pre` where nothing is heard.
    heard: Vec<i32>,
    /// The places by the row that they hear.
    reversed: OnceCell<Synapses>,
}

impl Heard {
    /// Places and the rows that they hear, where they hear one.
    fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        let rows = self.heard.iter().map(|&p| p as usize).enumerate();
        rows.filter(|&(_, p)| p < self.pre)
    }

    /// From the rows of the table back to the rows of the operand; weights are numbered as the places are.
    fn reversed(&self) -> &Synapses {
        self.reversed.get_or_init(|| {
            let all: Vec<_> = self.places().map(|(place, p)| (place / self.width, p, place)).collect();
            Synapses::numbered(self.rows, self.pre, self.heard.len(), &all)
        })
    }

    /// The shape rule: rows of `x`, and what the other operand must be.
    fn check(&self, name: &str, args: &[&Shape], other: &[usize]) -> Result<(), ShapeError> {
        let fits = args[0].rank() == 2 && args[0].dims[0] == self.pre && args[0].dtype.is_float();
        if !fits || args[1].dims != other || args[0].dtype != args[1].dtype {
            let (pre, rows, width) = (self.pre, self.rows, self.width);
            return Err(ShapeError(format!(
                "{name}: a table [{rows}, {width}] over {pre} rows takes floats [{pre}, lanes] and {other:?} of one type, got {} and {}; \
                 put the neurons first",
                args[0], args[1]
            )));
        }
        Ok(())
    }

    fn describe(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By address: the places may be many, and two operations that share them are one.
        write!(f, "{name} {{ rows: {}, width: {}, heard: {:p} }}", self.rows, self.width, self.heard.as_ptr())
    }
}

/// What is emitted for a product.
struct Pass<'a> {
    heard: &'a Heard,
    /// Lanes of the operand, padded.
    lanes: usize,
    /// From what is heard, `[t, width, L]`, and rows of the other operand.
    part: &'a dyn Fn(&Tensor, &Tensor) -> Tensor,
}

impl Pass<'_> {
    fn is_small(&self) -> bool {
        self.heard.heard.len() * self.lanes < SMALL
    }

    fn index(&self, e: &mut Emitter<'_>) -> i64 {
        e.places(&Shape::s32([self.heard.rows, self.heard.width]), &self.heard.heard)
    }

    /// The operand with a row of zeros more where some place hears nothing, and lanes that are zeros.
    fn operand(&self, e: &mut Emitter<'_>, x: i64) -> i64 {
        let silent = self.heard.places().count() < self.heard.heard.len();
        self.pad(e, x, usize::from(silent))
    }

    /// `rows` more rows of zeros, and lanes that are zeros.
    fn pad(&self, e: &mut Emitter<'_>, x: i64, rows: usize) -> i64 {
        let shape = e.shape(x).clone();
        let padded = |_: &Graph, p: &[Tensor]| vec![p[0].pad(&[0, 0], &[rows, self.lanes - shape.dims[1]])];
        let padded = Func::trace(std::slice::from_ref(&shape), padded);
        e.inline(&padded, &[x])[0]
    }

    /// `part` of the first `rows` rows of the table, then `finish`.
    fn direct(&self, e: &mut Emitter<'_>, args: [i64; 3], rows: usize, finish: &dyn Fn(&Tensor) -> Tensor) -> i64 {
        let all = Func::trace(&args.map(|id| e.shape(id).clone()), |g, p| {
            let cut = |t: &Tensor| t.slice_axis(0, 0, rows);
            vec![finish(&(self.part)(&g.apply(Pick, &[&p[0], &cut(&p[2])]), &cut(&p[1])))]
        });
        e.inline(&all, &args)[0]
    }

    /// Goes over the table tile by tile; a row of `part` has `size` values.
    fn tiled(
        &self,
        e: &mut Emitter<'_>,
        args: [i64; 3],
        size: usize,
        result: &Shape,
        finish: &dyn Fn(&Tensor) -> Tensor,
    ) -> i64 {
        let rows = self.heard.rows;
        let tile = (TILE_BYTES / (4 * size)).clamp(1, rows.div_ceil(2));
        let tile = rows.div_ceil(rows.div_ceil(tile));
        let [x, other, index] = args.map(|id| e.shape(id).clone());
        // A position behind the last tile is moved inside; what two tiles share comes out the same.
        let start = |counter: &Tensor, back: f64| (counter - back) * tile as f64;
        let new = Func::trace(&[Shape::s32([]), x.clone(), other, index], |g, p| {
            let cut = |t: &Tensor| t.dynamic_slice(&start(&p[0], 0.0), tile);
            vec![(self.part)(&g.apply(Pick, &[&p[1], &cut(&p[3])]), &cut(&p[2]))]
        });
        let given = new.results()[0].shape().clone();
        let store = Func::trace(&[Shape::s32([]), given.clone(), result.clone()], |_, p| {
            vec![p[2].dynamic_update(&(finish)(&p[1]), &start(&p[0], 1.0))]
        });
        // All of it is overwritten. (Equal zeros of several loops would be one array, and a copy for each.)
        let anything = Func::trace(&[x], |_, p| {
            let one = p[0].slice_axis(0, 0, 1).slice_axis(1, 0, 1).reshape(&[]);
            [&given, result].map(|shape| one.broadcast_to(&shape.dims)).to_vec()
        });
        let anything = e.inline(&anything, &args[..1]);
        let tiles = rows.div_ceil(tile);
        let done = e.counted_loop(tiles, &[&args[..], &anything].concat(), |e, counter, s| {
            let sum = e.inline(&store, &[counter, s[3], s[4]])[0];
            let part = e.inline(&new, &[counter, s[0], s[1], s[2]])[0];
            vec![s[0], s[1], s[2], part, sum]
        });
        let last = e.constant(DType::S32, tiles as f64);
        e.inline(&store, &[last, done[3], done[4]])[0]
    }
}

/// `y[r, l] = sum_d table[r, d] x[heard[r, d], l]` of `x: [pre, L]` and a table `[rows, width]`.
#[derive(Clone)]
pub struct SparseDot {
    /// What the places hear.
    pub heard: Rc<Heard>,
}

impl fmt::Debug for SparseDot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.heard.describe("SparseDot", f)
    }
}

impl Primitive for SparseDot {
    fn name(&self) -> &'static str {
        "sparse-dot"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        self.heard.check("sparse-dot", args, &[self.heard.rows, self.heard.width])?;
        Ok(vec![args[0].with_dims([self.heard.rows, args[0].dims[1]])])
    }
    fn jvp(&self, args: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let product = |x: &Tensor, table: &Tensor| x.graph().apply(self.clone(), &[x, table]);
        vec![Tensor::sum_of([
            tangents[0].as_ref().map(|d| product(d, &args[1])),
            tangents[1].as_ref().map(|d| product(&args[0], d)),
        ])]
    }
    fn transpose(&self, args: &[Tensor], linear: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let Some(ct) = &cotangents[0] else { return vec![None, None] };
        let outer = SparseOuter { heard: self.heard.clone() };
        vec![
            linear[0].then(|| ct.sparse_dot(&args[1].reshape(&[self.heard.heard.len()]), self.heard.reversed())),
            linear[1].then(|| ct.graph().apply(outer, &[&args[0], ct])),
        ]
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        if args[1].mapped {
            return one_by_one(self.clone(), args, size);
        }
        // The mapped axis is more lanes.
        let x = &args[0].tensor;
        let lanes = x.dims()[2];
        let x = x.transpose(&[1, 0, 2]).reshape(&[self.heard.pre, size * lanes]);
        let y = x.graph().apply(self.clone(), &[&x, &args[1].tensor]);
        let tensor = y.reshape(&[self.heard.rows, size, lanes]).transpose(&[1, 0, 2]);
        vec![Mapped { tensor, mapped: true }]
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let lanes = results[0].dims[1];
        let mut y = vec![0.0; results[0].elements()];
        for (place, p) in self.heard.places() {
            let (w, x) = (args[1].data[place], &args[0].data[p * lanes..][..lanes]);
            let row = &mut y[place / self.heard.width * lanes..][..lanes];
            row.iter_mut().zip(x).for_each(|(y, x)| *y += w * x);
        }
        vec![HostValue::new(results[0].clone(), y)]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        let lanes = results[0].dims[1];
        let part = |h: &Tensor, table: &Tensor| (h * &table.broadcast(h.dims(), &[0, 1])).sum(&[1]);
        let pass = Pass { heard: &self.heard, lanes, part: &part };
        let (x, index) = (pass.operand(e, args[0]), pass.index(e));
        if lanes == 1 || pass.is_small() {
            return vec![pass.direct(e, [x, args[1], index], self.heard.rows, &Tensor::clone)];
        }
        let first = first_row(e, args[0]);
        let x = settled(e, x, first);
        let operands = [x, args[1], index];
        let [first, all] = [1, self.heard.rows].map(|rows| pass.direct(e, operands, rows, &Tensor::clone));
        vec![settled(e, all, first)]
    }
    fn flops(&self, _: &[&Shape], results: &[&Shape]) -> u64 {
        2 * (self.heard.places().count() * results[0].dims[1]) as u64
    }
}

/// `g[r, d] = sum_l x[heard[r, d], l] y[r, l]` of `x: [pre, L]` and `y: [rows, L]`; 0 where nothing is heard.
#[derive(Clone)]
pub struct SparseOuter {
    /// What the places hear.
    pub heard: Rc<Heard>,
}

impl fmt::Debug for SparseOuter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.heard.describe("SparseOuter", f)
    }
}

impl Primitive for SparseOuter {
    fn name(&self) -> &'static str {
        "sparse-outer"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let lanes = args[0].dims.get(1).copied().unwrap_or_default();
        self.heard.check("sparse-outer", args, &[self.heard.rows, lanes])?;
        Ok(vec![args[0].with_dims([self.heard.rows, self.heard.width])])
    }
    fn jvp(&self, args: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let product = |x: &Tensor, y: &Tensor| x.graph().apply(self.clone(), &[x, y]);
        vec![Tensor::sum_of([
            tangents[0].as_ref().map(|d| product(d, &args[1])),
            tangents[1].as_ref().map(|d| product(&args[0], d)),
        ])]
    }
    fn transpose(&self, args: &[Tensor], linear: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let Some(ct) = &cotangents[0] else { return vec![None, None] };
        let dot = SparseDot { heard: self.heard.clone() };
        vec![
            linear[0].then(|| args[1].sparse_dot(&ct.reshape(&[self.heard.heard.len()]), self.heard.reversed())),
            linear[1].then(|| ct.graph().apply(dot, &[&args[0], ct])),
        ]
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        one_by_one(self.clone(), args, size)
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let lanes = args[0].shape.dims[1];
        let mut g = vec![0.0; results[0].elements()];
        for (place, p) in self.heard.places() {
            let (x, y) = (&args[0].data[p * lanes..][..lanes], &args[1].data[place / self.heard.width * lanes..]);
            g[place] = x.iter().zip(y).map(|(x, y)| x * y).sum();
        }
        vec![HostValue::new(results[0].clone(), g)]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        let lanes = e.shape(args[0]).dims[1];
        let kept = lanes.clamp(1, LANES);
        let part = |h: &Tensor, y: &Tensor| {
            let groups = h.dims()[2] / kept;
            let all = (h * &y.broadcast(h.dims(), &[0, 2])).reshape(&[h.dims()[0], h.dims()[1], groups, kept]);
            let few = |from: usize| Some(all.slice_axis(2, from, groups.min(from + WIDEST)).sum(&[2]));
            Tensor::sum_of((0..groups).step_by(WIDEST).map(few)).unwrap_or_else(|| all.sum(&[2]))
        };
        let pass = Pass { heard: &self.heard, lanes: lanes.next_multiple_of(kept), part: &part };
        let finish = |t: &Tensor| t.sum(&[2]);
        let operands = [pass.operand(e, args[0]), pass.pad(e, args[1], 0), pass.index(e)];
        if lanes == 1 || pass.is_small() {
            return vec![pass.direct(e, operands, self.heard.rows, &finish)];
        }
        vec![pass.tiled(e, operands, self.heard.width * kept, &results[0], &finish)]
    }
    fn flops(&self, args: &[&Shape], _: &[&Shape]) -> u64 {
        2 * (self.heard.places().count() * args[0].dims[1]) as u64
    }
}

/// Rows at computed places, inside what the products emit.
#[derive(Clone, Debug)]
struct Pick;

impl Primitive for Pick {
    fn name(&self) -> &'static str {
        "gather"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![args[0].with_dims([&args[1].dims[..], &args[0].dims[1..]].concat())])
    }
    fn jvp(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        unreachable!("made after all derivatives are taken")
    }
    fn batch(&self, _: &[Mapped], _: usize) -> Vec<Mapped> {
        unreachable!("made after everything is mapped")
    }
    fn evaluate(&self, _: &[&HostValue], _: &[Shape]) -> Vec<HostValue> {
        unreachable!("the products are evaluated as a whole")
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        vec![gather(e, args[0], args[1], &results[0])]
    }
}

/// A pattern of synapses: which neuron hears which, with one weight for each synapse.
pub struct Synapses {
    weights: usize,
    heard: Rc<Heard>,
    /// The weight of each place; nothing where they are in order.
    table: Option<Rc<Places>>,
    /// Which sums of segments are added up, until there is one for each neuron.
    sums: Vec<Rc<Places>>,
}

impl Synapses {
    /// The synapses `(pre, post)` between `pre` and `post` neurons, whose weights are in this order.
    ///
    /// # Panics
    /// When a neuron does not exist, or there are 2^31 places or more: at most one for each synapse and 32 for each neuron.
    pub fn new(pre: usize, post: usize, synapses: &[(usize, usize)]) -> Synapses {
        let all: Vec<_> = synapses.iter().enumerate().map(|(k, &(i, j))| (i, j, k)).collect();
        Synapses::numbered(pre, post, synapses.len(), &all)
    }

    /// Places that a program stores for the synapses, those that hear nothing included.
    pub fn places(&self) -> usize {
        self.heard.heard.len()
    }

    /// The same with the number of each weight, of `weights`.
    fn numbered(pre: usize, post: usize, weights: usize, synapses: &[(usize, usize, usize)]) -> Synapses {
        let mut counts = vec![0usize; post];
        synapses.iter().for_each(|&(_, j, _)| counts[j] += 1);
        let most = counts.iter().copied().max().unwrap_or(0).clamp(1, WIDEST);
        // A segment costs its places, and about two more for its sum.
        let cost = |width: usize| counts.iter().map(|c| c.div_ceil(width) * (width + 2)).sum::<usize>();
        let width = (1..=most).rev().min_by_key(|&width| cost(width)).unwrap_or(1);
        let segments: Vec<usize> = counts.iter().map(|c| c.div_ceil(width)).collect();
        let rows: usize = segments.iter().sum::<usize>().max(1);
        assert!(rows.max(weights) * width < i32::MAX as usize && pre < i32::MAX as usize, "fewer than 2^31 places");
        let mut next: Vec<usize> = (segments.iter())
            .scan(0, |row, n| {
                *row += n;
                Some((*row - n) * width)
            })
            .collect();
        let (mut heard, mut table) = (vec![pre as i32; rows * width], vec![weights as i32; rows * width]);
        for &(i, j, k) in synapses {
            (heard[next[j]], table[next[j]]) = (i as i32, k as i32);
            next[j] += 1;
        }
        let plain = table.len() == weights && table.iter().enumerate().all(|(place, &k)| place == k as usize);
        let table = (!plain).then(|| Rc::new(Places::new(&[rows, width], table)));
        let heard = Rc::new(Heard { pre, rows, width, heard, reversed: OnceCell::new() });
        Synapses { weights, heard, table, sums: sums(segments, rows) }
    }
}

/// For each level which of its rows are added, a few at a time, given how many belong to each neuron.
fn sums(mut of: Vec<usize>, mut rows: usize) -> Vec<Rc<Places>> {
    let mut levels = Vec::new();
    while of.iter().any(|&n| n != 1) {
        let most = of.iter().copied().max().unwrap_or(0).max(1);
        let (width, last) = (most.min(TOGETHER), most <= TOGETHER);
        let groups = |n: usize| if last { 1 } else { n.div_ceil(width) };
        let (mut places, mut first) = (Vec::new(), 0);
        for n in &mut of {
            let from = places.len();
            places.extend((first..first + *n).map(|row| row as i32));
            first += *n;
            *n = groups(*n);
            places.resize(from + *n * width, rows as i32);
        }
        let dims = [places.len() / width, width];
        rows = dims[0];
        levels.push(Rc::new(Places::new(&dims, places)));
    }
    levels
}

impl Tensor {
    /// The product with a sparse matrix: `x: [pre, L]` and the weights of its synapses to `[post, L]`,
    /// `y[j] = sum over the synapses k of j of w[k] x[pre of k]`.
    ///
    /// ```
    /// use hlo::{Graph, Shape, ops::sparse::Synapses};
    ///
    /// let g = Graph::new();
    /// let x = g.parameter(0, Shape::f32([5, 8]));
    /// let weights = g.parameter(1, Shape::f32([3]));
    /// let synapses = Synapses::new(5, 2, &[(4, 0), (0, 1), (2, 1)]);
    /// assert_eq!(x.sparse_dot(&weights, &synapses).dims(), [2, 8]);
    /// ```
    #[track_caller]
    pub fn sparse_dot(&self, weights: &Tensor, synapses: &Synapses) -> Tensor {
        let graph: &Graph = self.graph();
        if weights.dims() != [synapses.weights] {
            return graph.refused(
                format!(
                    "sparse-dot: one weight for each of {} synapses, got {}; make the weights [{0}]",
                    synapses.weights,
                    weights.shape()
                ),
                &[synapses.sums.last().map_or(synapses.heard.rows, |s| s.dims()[0]), 1],
            );
        }
        let table = match &synapses.table {
            None => weights.reshape(&[synapses.heard.rows, synapses.heard.width]),
            Some(places) => weights.take(places),
        };
        let segments = graph.apply(SparseDot { heard: synapses.heard.clone() }, &[self, &table]);
        synapses.sums.iter().fold(segments, |rows, places| rows.take(places).sum(&[1]))
    }
}
