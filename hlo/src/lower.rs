//! From a traced function to the module that XLA compiles.
//!
//! Each live node emits its instructions through an [`Emitter`]; loops open further computations in the same module.
//! The output is a pure function of the traced computation: the same program gives the same bytes.

use std::collections::{BTreeMap, HashMap};

use crate::{
    array::bf16_bits,
    func::{Func, is_parameter},
    graph::Value,
    program::{Argument, Program, ResultSpec},
    proto,
    shape::{DType, Shape},
};

/// A program could not be described.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// A name is missing or too many.
    #[error("lower: {what} need one name each, got {names} names for {count}; name them all")]
    Names {
        /// Arguments or results.
        what: &'static str,
        /// How many names were given.
        names: usize,
        /// How many are needed.
        count: usize,
    },
    /// A donation that cannot be carried out.
    #[error(
        "lower: argument `{argument}` {got} cannot be donated to result `{result}` {expected}; shapes must be equal"
    )]
    Donation {
        /// Name of the argument.
        argument: String,
        /// Its shape.
        got: Shape,
        /// Name of the result.
        result: String,
        /// Its shape.
        expected: Shape,
    },
}

/// Turns a function into a program.
///
/// `donations` are pairs (argument, result): the argument's buffer becomes the result's.
///
/// # Errors
/// When names are missing or a donation does not fit.
pub fn lower(
    name: &str,
    func: &Func,
    arguments: &[String],
    results: &[String],
    donations: &[(usize, usize)],
) -> Result<Program, LowerError> {
    let counted =
        [("arguments", arguments.len(), func.params().len()), ("results", results.len(), func.results().len())];
    for (what, names, count) in counted {
        if names != count {
            return Err(LowerError::Names { what, names, count });
        }
    }
    let mut state = ModuleState::default();
    let mut e = Emitter::new(&mut state);
    let ids: Vec<i64> = func.params().iter().enumerate().map(|(k, p)| e.parameter(k, p.shape())).collect();
    let outs = e.inline(func, &ids);
    let root = e.tuple(&outs);
    let entry = e.finish("main", root, arguments);
    let program_shape = entry.program_shape.clone();
    let (entry_id, entry_name) = (entry.id, entry.name.clone());
    state.computations.push(entry);

    let mut alias = proto::InputOutputAlias::default();
    let mut specs: Vec<Argument> = arguments
        .iter()
        .zip(func.params())
        .map(|(name, p)| Argument { name: name.clone(), shape: p.shape().clone(), donated_to: None })
        .collect();
    for &(argument, result) in donations {
        let (got, expected) = (func.params()[argument].shape(), func.results()[result].shape());
        if got != expected {
            return Err(LowerError::Donation {
                argument: arguments[argument].clone(),
                got: got.clone(),
                result: results[result].clone(),
                expected: expected.clone(),
            });
        }
        specs[argument].donated_to = Some(result);
        alias.entries.push(proto::AliasEntry {
            output_shape_index: vec![result as i64],
            parameter_number: argument as i64,
            parameter_shape_index: vec![],
            kind: proto::AliasEntry::MAY,
        });
    }
    let module = proto::Module {
        name: name.to_string(),
        entry_computation_name: entry_name,
        entry_computation_id: entry_id,
        computations: state.computations,
        host_program_shape: program_shape,
        input_output_alias: (!donations.is_empty()).then_some(alias),
        ..proto::Module::default()
    };
    let results = results
        .iter()
        .zip(func.results())
        .map(|(name, r)| ResultSpec { name: name.clone(), shape: r.shape().clone() })
        .collect();
    Ok(Program { module, arguments: specs, results })
}

/// What the computations of a module share.
#[derive(Default)]
struct ModuleState {
    next_id: i64,
    computations: Vec<proto::Computation>,
    combiners: BTreeMap<(&'static str, DType), i64>,
}

/// One computation under emission.
pub struct Emitter<'m> {
    module: &'m mut ModuleState,
    instructions: Vec<proto::Instruction>,
    shapes: HashMap<i64, Shape>,
    constants: HashMap<(DType, u64), i64>,
    arguments: Vec<i64>,
}

impl<'m> Emitter<'m> {
    fn new(module: &'m mut ModuleState) -> Emitter<'m> {
        Emitter { module, instructions: vec![], shapes: HashMap::new(), constants: HashMap::new(), arguments: vec![] }
    }

    fn next_id(&mut self) -> i64 {
        self.module.next_id += 1;
        self.module.next_id
    }

    /// Shape of an array instruction of this computation.
    pub fn shape(&self, id: i64) -> &Shape {
        &self.shapes[&id]
    }

    /// Adds an instruction whose result is an array.
    pub fn push(
        &mut self,
        opcode: &str,
        shape: &Shape,
        operands: &[i64],
        with: impl FnOnce(&mut proto::Instruction),
    ) -> i64 {
        let id = self.push_proto(opcode, shape.into(), operands, with);
        self.shapes.insert(id, shape.clone());
        id
    }

    /// Adds an instruction of any result shape (tuples).
    fn push_proto(
        &mut self,
        opcode: &str,
        shape: proto::ShapeProto,
        operands: &[i64],
        with: impl FnOnce(&mut proto::Instruction),
    ) -> i64 {
        let id = self.next_id();
        let mut instruction = proto::Instruction {
            name: format!("{opcode}.{id}"),
            opcode: opcode.to_string(),
            shape: Some(shape),
            id,
            operand_ids: operands.to_vec(),
            ..proto::Instruction::default()
        };
        with(&mut instruction);
        self.instructions.push(instruction);
        id
    }

    /// Parameter number `index` of this computation.
    pub fn parameter(&mut self, index: usize, shape: &Shape) -> i64 {
        let id = self.push("parameter", shape, &[], |i| i.parameter_number = index as i64);
        self.arguments.push(id);
        id
    }

    /// A scalar constant; equal ones are one instruction.
    pub fn constant(&mut self, dtype: DType, value: f64) -> i64 {
        if let Some(&id) = self.constants.get(&(dtype, value.to_bits())) {
            return id;
        }
        let shape = Shape::new(dtype, []);
        let id = self.push("constant", &shape, &[], |i| i.literal = Some(literal(&shape, value)));
        self.constants.insert((dtype, value.to_bits()), id);
        id
    }

    /// Some number; of type `f32` one that no other instruction of the module has.
    pub fn distinct(&mut self, dtype: DType) -> i64 {
        let value = if dtype == DType::F32 { self.module.next_id as f64 } else { 0.0 };
        self.constant(dtype, value)
    }

    /// An array of `f32` values.
    pub fn literal(&mut self, shape: &Shape, values: &[f32]) -> i64 {
        let literal =
            proto::LiteralProto { shape: Some(shape.into()), f32s: values.to_vec(), ..proto::LiteralProto::default() };
        self.push("constant", shape, &[], |i| i.literal = Some(literal))
    }

    /// An array of `s32` values.
    pub fn places(&mut self, shape: &Shape, values: &[i32]) -> i64 {
        let literal =
            proto::LiteralProto { shape: Some(shape.into()), s32s: values.to_vec(), ..proto::LiteralProto::default() };
        self.push("constant", shape, &[], |i| i.literal = Some(literal))
    }

    /// A comparison with the type that the operands call for.
    pub fn compare(&mut self, direction: &str, result: &Shape, operands: &[i64]) -> i64 {
        let kind = match self.shape(operands[0]).dtype {
            DType::S32 => "SIGNED",
            DType::Pred | DType::U8 | DType::U32 | DType::U64 => "UNSIGNED",
            DType::BF16 | DType::F32 | DType::F64 => "FLOAT",
        };
        self.push("compare", result, operands, |i| {
            i.comparison_direction = direction.to_string();
            i.comparison_type = kind.to_string();
        })
    }

    /// The computation `(a, b) -> opcode(a, b)` on scalars.
    pub fn combiner(&mut self, opcode: &'static str, dtype: DType) -> i64 {
        if let Some(&id) = self.module.combiners.get(&(opcode, dtype)) {
            return id;
        }
        let mut e = Emitter::new(self.module);
        let scalar = Shape::new(dtype, []);
        let (a, b) = (e.parameter(0, &scalar), e.parameter(1, &scalar));
        let root = e.push(opcode, &scalar, &[a, b], |_| {});
        let done = e.finish(&format!("{opcode}_{}", dtype.name()), root, &[]);
        let id = done.id;
        self.module.computations.push(done);
        self.module.combiners.insert((opcode, dtype), id);
        id
    }

    /// Sums of arrays of one type over all replicas, in one exchange.
    pub fn all_reduce(&mut self, arrays: &[i64], shapes: &[Shape]) -> Vec<i64> {
        let add = self.combiner("add", shapes[0].dtype);
        let with = |i: &mut proto::Instruction| {
            i.called_computation_ids = vec![add];
            // A group without members stands for all replicas.
            i.replica_groups = Vec::new();
        };
        if let [one] = shapes {
            return vec![self.push("all-reduce", one, arrays, with)];
        }
        let tuple = proto::ShapeProto::tuple(shapes.iter().map(Into::into).collect());
        let sums = self.push_proto("all-reduce", tuple, arrays, with);
        self.unpack(sums, shapes, 0)
    }

    /// A tuple of arrays.
    pub fn tuple(&mut self, elements: &[i64]) -> i64 {
        let shape = proto::ShapeProto::tuple(elements.iter().map(|id| (&self.shapes[id]).into()).collect());
        self.push_proto("tuple", shape, elements, |_| {})
    }

    /// Emits every live node of a function applied to the given instructions; returns its results.
    pub fn inline(&mut self, func: &Func, args: &[i64]) -> Vec<i64> {
        let mut ids: HashMap<Value, i64> = func.params().iter().zip(args).map(|(p, &id)| (p.value(), id)).collect();
        let mut used: HashMap<usize, Vec<bool>> = HashMap::new();
        let live = func.live(true);
        for value in func.results().iter().map(|r| r.value()).chain(live.iter().flat_map(|(_, n)| n.operands.clone())) {
            let slots = used.entry(value.node).or_default();
            slots.resize(slots.len().max(value.result + 1), false);
            slots[value.result] = true;
        }
        for (index, node) in live {
            if is_parameter(&node) {
                continue;
            }
            let count = node.op.live_operands(node.operands.len());
            let operands: Vec<i64> = node.operands[..count].iter().map(|o| ids[o]).collect();
            let mut slots = used.remove(&index).unwrap_or_default();
            slots.resize(node.shapes.len(), false);
            let emitted = node.op.emit_used(self, &operands, &node.shapes, &slots);
            for (result, id) in emitted.into_iter().enumerate() {
                ids.insert(Value { node: index, result }, id);
            }
        }
        func.results().iter().map(|r| ids[&r.value()]).collect()
    }

    /// A counted loop over a tuple state. `body` receives the counter and the state and returns the new state; elements
    /// it returns unchanged cost nothing.
    pub fn counted_loop(
        &mut self,
        length: usize,
        state: &[i64],
        body: impl FnOnce(&mut Emitter<'_>, i64, &[i64]) -> Vec<i64>,
    ) -> Vec<i64> {
        let counter = Shape::s32([]);
        let shapes: Vec<Shape> =
            std::iter::once(counter.clone()).chain(state.iter().map(|id| self.shapes[id].clone())).collect();
        let tuple = proto::ShapeProto::tuple(shapes.iter().map(Into::into).collect());

        let mut e = Emitter::new(self.module);
        let elements = e.unpack_parameter(&tuple, &shapes);
        let one = e.constant(DType::S32, 1.0);
        let next = e.push("add", &counter, &[elements[0], one], |_| {});
        let mut new = vec![next];
        new.extend(body(&mut e, elements[0], &elements[1..]));
        let root = e.tuple(&new);
        let body = e.finish("body", root, &[]);
        let body_id = body.id;
        self.module.computations.push(body);

        let mut e = Emitter::new(self.module);
        let elements = e.unpack_parameter(&tuple, &shapes[..1]);
        let limit = e.constant(DType::S32, length as f64);
        let root = e.compare("LT", &Shape::new(DType::Pred, []), &[elements[0], limit]);
        let condition = e.finish("condition", root, &[]);
        let condition_id = condition.id;
        self.module.computations.push(condition);

        let zero = self.constant(DType::S32, 0.0);
        let mut init = vec![zero];
        init.extend(state);
        let init = self.tuple(&init);
        let done = self.push_proto("while", tuple, &[init], |i| i.called_computation_ids = vec![body_id, condition_id]);
        self.unpack(done, &shapes, 1)
    }

    fn unpack_parameter(&mut self, tuple: &proto::ShapeProto, shapes: &[Shape]) -> Vec<i64> {
        let state = self.push_proto("parameter", tuple.clone(), &[], |i| i.parameter_number = 0);
        self.arguments.push(state);
        self.unpack(state, shapes, 0)
    }

    fn unpack(&mut self, tuple: i64, shapes: &[Shape], first: usize) -> Vec<i64> {
        (first..shapes.len())
            .map(|k| self.push("get-tuple-element", &shapes[k], &[tuple], |i| i.tuple_index = k as i64))
            .collect()
    }

    fn finish(mut self, name: &str, root: i64, parameter_names: &[String]) -> proto::Computation {
        let id = self.next_id();
        let shape_of =
            |id: i64| self.instructions.iter().find(|i| i.id == id).and_then(|i| i.shape.clone()).unwrap_or_default();
        let program_shape = proto::ProgramShape {
            parameters: self.arguments.iter().map(|&a| shape_of(a)).collect(),
            result: Some(shape_of(root)),
            parameter_names: (0..self.arguments.len())
                .map(|k| parameter_names.get(k).cloned().unwrap_or_else(|| format!("p{k}")))
                .collect(),
        };
        proto::Computation {
            name: if name == "main" { name.to_string() } else { format!("{name}.{id}") },
            instructions: self.instructions,
            program_shape: Some(program_shape),
            id,
            root_id: root,
        }
    }
}

fn literal(shape: &Shape, value: f64) -> proto::LiteralProto {
    let mut l = proto::LiteralProto { shape: Some(shape.into()), ..proto::LiteralProto::default() };
    match shape.dtype {
        DType::Pred => l.preds = vec![value != 0.0],
        DType::U8 => l.u8s = vec![value as u8],
        DType::S32 => l.s32s = vec![value as i32],
        DType::U32 => l.u32s = vec![value as u32],
        DType::U64 => l.u64s = vec![value as u64],
        DType::BF16 => l.bf16s = bf16_bits(value as f32).to_le_bytes().to_vec(),
        DType::F32 => l.f32s = vec![value as f32],
        DType::F64 => l.f64s = vec![value],
    }
    l
}
