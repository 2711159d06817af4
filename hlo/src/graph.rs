//! Computations under construction.
//!
//! A [`Graph`] is an arena of nodes in dependency order; a [`Tensor`] is a cheap handle on one result of one node, with
//! its shape. Each node holds a [`Primitive`]: the one place where everything about that operation is known.
//! Equal operations on equal operands are made once (common-subexpression reuse), and only what a program's results need
//! is ever lowered, so builders may be careless about both.
//!
//! Shape mistakes are programming errors and panic where the node is made, with the rule, what was got and what to do;
//! [`Graph::try_apply`] is the same check as a `Result`. Where somebody else's formula is traced, which cannot return a `Result` from the
//! middle of `a + b`, a graph that [forgives](Graph::forgiving) goes on and keeps the first [`Fault`], with its line.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt,
    panic::Location,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    array::{bf16_bits, bf16_value},
    op::{Primitive, ShapeError},
    ops::{Constant, Parameter, Placeholder},
    shape::{DType, Shape},
};

/// One result of one node: the name of a value inside a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    /// Position of the node in the arena.
    pub node: usize,
    /// Which result of the node.
    pub result: usize,
}

/// An operation applied to values.
#[derive(Clone)]
pub struct Node {
    /// What is done.
    pub op: Rc<dyn Primitive>,
    /// To which values.
    pub operands: Vec<Value>,
    /// Shape of each result.
    pub shapes: Vec<Shape>,
}

/// The first mistake of a formula, and the line where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error} (at {place})")]
pub struct Fault {
    /// What is wrong.
    pub error: ShapeError,
    /// File, line and column.
    pub place: &'static Location<'static>,
}

struct Arena {
    id: u64,
    /// Whether a mistake is kept rather than a panic.
    forgiving: bool,
    fault: Option<Fault>,
    nodes: Vec<Rc<Node>>,
    known: HashMap<(String, Vec<Value>), usize>,
}

/// A computation under construction; clones are handles on the same arena.
#[derive(Clone)]
pub struct Graph(Rc<RefCell<Arena>>);

/// A value of a graph, with its shape.
#[derive(Clone)]
pub struct Tensor {
    graph: Graph,
    value: Value,
    shape: Shape,
}

impl Default for Graph {
    fn default() -> Self {
        Graph::new()
    }
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::empty(false)
    }

    /// An empty graph in which a shape mistake does not panic: something of the shape of the first operand stands for the result,
    /// and [`Graph::fault`] says what was wrong. Nothing of such a graph may be used if it has a fault.
    pub fn forgiving() -> Graph {
        Graph::empty(true)
    }

    fn empty(forgiving: bool) -> Graph {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Graph(Rc::new(RefCell::new(Arena {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            forgiving,
            fault: None,
            nodes: Vec::new(),
            known: HashMap::new(),
        })))
    }

    /// The first mistake in a graph that forgives.
    pub fn fault(&self) -> Option<Fault> {
        self.0.borrow().fault.clone()
    }

    /// Says that a formula breaks a rule of whoever traces it.
    ///
    /// # Panics
    /// When the graph does not forgive.
    #[track_caller]
    pub fn refuse(&self, error: ShapeError) {
        let mut arena = self.0.borrow_mut();
        assert!(arena.forgiving, "{error}");
        let place = Location::caller();
        arena.fault.get_or_insert(Fault { error, place });
    }

    /// What stands for the result of a refused operation, of the given sizes.
    #[track_caller]
    pub(crate) fn refused(&self, error: String, dims: &[usize]) -> Tensor {
        self.refuse(ShapeError(error));
        self.placeholder(Shape::f32(dims))
    }

    /// Whether two handles name the same arena.
    pub fn same(&self, other: &Graph) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Number of nodes made so far.
    pub fn len(&self) -> usize {
        self.0.borrow().nodes.len()
    }

    /// Whether nothing was made yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A handle on a node.
    pub fn node(&self, index: usize) -> Rc<Node> {
        self.0.borrow().nodes[index].clone()
    }

    /// A handle on an existing value.
    pub fn tensor(&self, value: Value) -> Tensor {
        let shape = self.0.borrow().nodes[value.node].shapes[value.result].clone();
        Tensor { graph: self.clone(), value, shape }
    }

    /// Adds an operation, or finds the equal one already there.
    ///
    /// # Errors
    /// When the operand shapes break the operation's rule.
    pub fn try_apply(&self, op: impl Primitive, args: &[&Tensor]) -> Result<Vec<Tensor>, ShapeError> {
        self.try_apply_rc(Rc::new(op), args)
    }

    pub(crate) fn try_apply_rc(&self, op: Rc<dyn Primitive>, args: &[&Tensor]) -> Result<Vec<Tensor>, ShapeError> {
        if let Some(stray) = args.iter().find(|t| !t.graph.same(self)) {
            return Err(ShapeError(format!(
                "{}: operands must belong to one graph, got {stray:?} of another; pass it in as an argument",
                op.name()
            )));
        }
        let shapes = op.infer(&args.iter().map(|t| &t.shape).collect::<Vec<_>>())?;
        let operands: Vec<Value> = args.iter().map(|t| t.value).collect();
        let mut arena = self.0.borrow_mut();
        let key = op.key().map(|k| (k, operands.clone()));
        if let Some(&known) = key.as_ref().and_then(|k| arena.known.get(k)) {
            drop(arena);
            return Ok(self.results(known));
        }
        let index = arena.nodes.len();
        arena.nodes.push(Rc::new(Node { op, operands, shapes }));
        if let Some(key) = key {
            arena.known.insert(key, index);
        }
        drop(arena);
        Ok(self.results(index))
    }

    /// Every result of a node.
    pub fn results(&self, node: usize) -> Vec<Tensor> {
        let n = self.0.borrow().nodes[node].shapes.len();
        (0..n).map(|result| self.tensor(Value { node, result })).collect()
    }

    /// Adds an operation with one result.
    ///
    /// # Panics
    /// When the operand shapes break the operation's rule, and the graph does not [forgive](Graph::forgiving).
    #[track_caller]
    pub fn apply(&self, op: impl Primitive, args: &[&Tensor]) -> Tensor {
        self.apply_rc(Rc::new(op), args).swap_remove(0)
    }

    /// Adds an operation with any number of results.
    ///
    /// # Panics
    /// When the operand shapes break the operation's rule, and the graph does not [forgive](Graph::forgiving).
    #[track_caller]
    pub fn apply_rc(&self, op: Rc<dyn Primitive>, args: &[&Tensor]) -> Vec<Tensor> {
        match self.try_apply_rc(op, args) {
            Ok(results) => results,
            Err(error) => {
                self.refuse(error);
                let shape = args.first().map_or_else(|| Shape::f32([]), |t| t.shape.clone());
                vec![self.placeholder(shape)]
            }
        }
    }

    /// Argument number `index` of the computation.
    pub fn parameter(&self, index: usize, shape: Shape) -> Tensor {
        self.apply(Parameter { index, shape }, &[])
    }

    /// A fresh value that only stands for something: the seed of a tangent. Never lowered.
    pub fn placeholder(&self, shape: Shape) -> Tensor {
        let serial = self.len();
        self.apply(Placeholder { serial, shape }, &[])
    }

    /// A scalar, rounded to its type.
    ///
    /// # Panics
    /// When the value is not a whole number, or too large, for an integer type.
    #[track_caller]
    pub fn scalar(&self, dtype: DType, value: f64) -> Tensor {
        // Rounded here, so that what is computed from constants agrees with what the device would compute.
        let value = match dtype {
            DType::BF16 => f64::from(bf16_value(bf16_bits(value as f32))),
            DType::F32 => f64::from(value as f32),
            _ => value,
        };
        self.apply(Constant { dtype, bits: value.to_bits() }, &[])
    }

    /// An array with the same value everywhere.
    #[track_caller]
    pub fn full(&self, shape: &Shape, value: f64) -> Tensor {
        self.scalar(shape.dtype, value).broadcast_to(&shape.dims)
    }

    /// An array of zeros.
    pub fn zeros(&self, shape: &Shape) -> Tensor {
        self.full(shape, 0.0)
    }
}

impl Tensor {
    /// The graph this value belongs to.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Its name inside the graph.
    pub fn value(&self) -> Value {
        self.value
    }

    /// Element type and sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.shape.dims
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.shape.dtype
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.rank()
    }

    /// The node that makes this value.
    pub fn node(&self) -> Rc<Node> {
        self.graph.node(self.value.node)
    }

    /// The value of a scalar constant, or of a broadcast one.
    pub fn as_constant(&self) -> Option<f64> {
        let node = self.node();
        if let Some(c) = (node.op.as_ref() as &dyn std::any::Any).downcast_ref::<Constant>() {
            return Some(f64::from_bits(c.bits));
        }
        node.op.spreads().then(|| self.graph.tensor(node.operands[0]).as_constant())?
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}.{}:{}", self.value.node, self.value.result, self.shape)
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arena = self.0.borrow();
        writeln!(f, "graph {} {{", arena.id)?;
        for (i, n) in arena.nodes.iter().enumerate() {
            writeln!(f, "  %{i} = {:?} {:?} <- {:?}", n.shapes, n.op, n.operands)?;
        }
        write!(f, "}}")
    }
}
