//! A module as text, in XLA's own HLO syntax.
//!
//! This is for reading, for snapshots in tests, and for feeding to XLA's tools. Every attribute that this
//! crate emits is printed, in the spelling of XLA's printer:
//!
//! ```text
//! HloModule step, input_output_alias={ {0}: (1, {}, may-alias) }, entry_computation_layout={...}
//!
//! ENTRY %main (x: f32[2,3], v: f32[2]) -> (f32[2]) {
//!   %x = f32[2,3]{1,0} parameter(0)
//!   ...
//!   ROOT %tuple.9 = (f32[2]{0}) tuple(%v2)
//! }
//! ```

mod attributes;
mod literal;

use crate::proto::{Computation, Instruction, Module, ShapeProto, TOKEN, TUPLE, dtype_of};
use attributes::Attributes;
use literal::literal;
use std::{
    collections::HashMap,
    fmt::{Display, Write},
};

impl Module {
    /// The module in XLA's HLO text syntax.
    pub fn to_text(&self) -> String {
        let names = Names::of(self);
        let mut out = format!("HloModule {}", self.name);
        if let Some(alias) = &self.input_output_alias {
            let entries = alias.entries.iter().map(|e| {
                let kind = if e.kind == crate::proto::AliasEntry::MUST { "must-alias" } else { "may-alias" };
                let (to, from) = (join(&e.output_shape_index, ","), join(&e.parameter_shape_index, ","));
                format!("{{{to}}}: ({}, {{{from}}}, {kind})", e.parameter_number)
            });
            put(&mut out, format_args!(", input_output_alias={{ {} }}", join(entries, ", ")));
        }
        if let Some(donor) = &self.buffer_donor {
            let entries = donor
                .entries
                .iter()
                .map(|e| format!("({}, {{{}}})", e.parameter_number, join(&e.parameter_shape_index, ",")));
            put(&mut out, format_args!(", buffer_donor={{ {} }}", join(entries, ", ")));
        }
        if let Some(signature) = &self.host_program_shape {
            let result = signature.result.as_ref().map_or_else(|| "?".into(), full_shape);
            let parameters = join(signature.parameters.iter().map(full_shape), ", ");
            put(&mut out, format_args!(", entry_computation_layout={{({parameters})->{result}}}"));
        }
        out.push('\n');
        for computation in &self.computations {
            out.push('\n');
            if computation.id == self.entry_computation_id {
                out.push_str("ENTRY ");
            }
            print_computation(&mut out, computation, &names);
        }
        out
    }
}

/// Names by id: instructions and computations refer to each other by number.
struct Names<'a> {
    instructions: HashMap<i64, &'a str>,
    computations: HashMap<i64, &'a str>,
}

impl<'a> Names<'a> {
    fn of(module: &'a Module) -> Names<'a> {
        let instructions = module.computations.iter().flat_map(|c| &c.instructions);
        Names {
            instructions: instructions.map(|i| (i.id, i.name.as_str())).collect(),
            computations: module.computations.iter().map(|c| (c.id, c.name.as_str())).collect(),
        }
    }

    fn instruction(&self, id: i64) -> String {
        self.instructions.get(&id).map_or_else(|| format!("%?{id}"), |name| format!("%{name}"))
    }

    fn computation(&self, id: i64) -> String {
        self.computations.get(&id).map_or_else(|| format!("%?{id}"), |name| format!("%{name}"))
    }
}

fn print_computation(out: &mut String, computation: &Computation, names: &Names<'_>) {
    put(out, format_args!("%{}", computation.name));
    if let Some(signature) = &computation.program_shape {
        let parameters = signature.parameters.iter().enumerate().map(|(i, shape)| {
            let name = signature.parameter_names.get(i).map_or("?", String::as_str);
            format!("{name}: {}", bare_shape(shape))
        });
        let result = signature.result.as_ref().map_or_else(|| "?".into(), bare_shape);
        put(out, format_args!(" ({}) -> {result}", join(parameters, ", ")));
    }
    out.push_str(" {\n");
    for instruction in &computation.instructions {
        out.push_str(if instruction.id == computation.root_id { "  ROOT " } else { "  " });
        print_instruction(out, instruction, names);
        out.push('\n');
    }
    out.push_str("}\n");
}

fn print_instruction(out: &mut String, i: &Instruction, names: &Names<'_>) {
    let shape = i.shape.as_ref().map_or_else(|| "?".into(), full_shape);
    let operands = match (i.opcode.as_str(), &i.literal) {
        ("parameter", _) => i.parameter_number.to_string(),
        ("constant", Some(value)) => literal(value),
        ("iota", _) => String::new(),
        _ => join(i.operand_ids.iter().map(|&id| names.instruction(id)), ", "),
    };
    put(out, format_args!("%{} = {shape} {}({operands})", i.name, i.opcode));
    Attributes { out, names }.all(i);
}

/// `f32[2,3]`.
fn bare_shape(shape: &ShapeProto) -> String {
    match shape.element_type {
        TUPLE => format!("({})", join(shape.tuple_shapes.iter().map(bare_shape), ", ")),
        TOKEN => "token[]".into(),
        kind => format!("{}[{}]", type_name(kind), join(&shape.dimensions, ",")),
    }
}

/// `f32[2,3]{1,0}`.
fn full_shape(shape: &ShapeProto) -> String {
    match &shape.layout {
        _ if shape.is_tuple() => format!("({})", join(shape.tuple_shapes.iter().map(full_shape), ", ")),
        Some(layout) if !layout.minor_to_major.is_empty() => {
            format!("{}{{{}}}", bare_shape(shape), join(&layout.minor_to_major, ","))
        }
        _ => bare_shape(shape),
    }
}

fn type_name(element_type: i32) -> &'static str {
    match (dtype_of(element_type), element_type) {
        (Some(dtype), _) => dtype.name(),
        (None, 2) => "s8",
        (None, 3) => "s16",
        (None, 5) => "s64",
        (None, 7) => "u16",
        (None, 10) => "f16",
        (None, 15) => "c64",
        _ => "?",
    }
}

fn braces(values: &[i64]) -> String {
    format!("{{{}}}", join(values, ","))
}

fn join<T: Display>(values: impl IntoIterator<Item = T>, between: &str) -> String {
    values.into_iter().map(|v| v.to_string()).collect::<Vec<_>>().join(between)
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Shape,
        proto::{AliasEntry, DotDimensionNumbers, InputOutputAlias, ProgramShape},
    };

    pub(super) fn instruction(id: i64, opcode: &str, shape: Shape, operands: &[i64]) -> Instruction {
        Instruction {
            name: format!("{opcode}.{id}"),
            opcode: opcode.into(),
            shape: Some((&shape).into()),
            id,
            operand_ids: operands.to_vec(),
            ..Default::default()
        }
    }

    // By hand, after the form of XLA's own dumps.
    #[test]
    fn a_module_reads_like_xlas() {
        let mut state = instruction(1, "parameter", Shape::f32([2, 3]), &[]);
        state.name = "state".into();
        let mut weights = instruction(2, "parameter", Shape::f32([3, 3]), &[]);
        weights.name = "weights".into();
        weights.parameter_number = 1;
        let mut dot = instruction(3, "dot", Shape::f32([2, 3]), &[1, 2]);
        dot.dot_dimension_numbers = Some(DotDimensionNumbers {
            lhs_contracting_dimensions: vec![1],
            rhs_contracting_dimensions: vec![0],
            ..Default::default()
        });
        let mut tuple = instruction(4, "tuple", Shape::f32([]), &[3]);
        tuple.shape = Some(ShapeProto::tuple(vec![(&Shape::f32([2, 3])).into()]));
        let program_shape = Some(ProgramShape {
            parameters: vec![(&Shape::f32([2, 3])).into(), (&Shape::f32([3, 3])).into()],
            result: tuple.shape.clone(),
            parameter_names: vec!["state".into(), "weights".into()],
        });
        let module = Module {
            name: "step".into(),
            computations: vec![Computation {
                name: "main".into(),
                instructions: vec![state, weights, dot, tuple],
                program_shape,
                id: 5,
                root_id: 4,
            }],
            entry_computation_id: 5,
            input_output_alias: Some(InputOutputAlias {
                entries: vec![AliasEntry {
                    output_shape_index: vec![0],
                    parameter_number: 0,
                    parameter_shape_index: vec![],
                    kind: AliasEntry::MAY,
                }],
            }),
            ..Default::default()
        };
        assert_eq!(
            module.to_text(),
            "\
HloModule step, input_output_alias={ {0}: (0, {}, may-alias) }

ENTRY %main (state: f32[2,3], weights: f32[3,3]) -> (f32[2,3]) {
  %state = f32[2,3]{1,0} parameter(0)
  %weights = f32[3,3]{1,0} parameter(1)
  %dot.3 = f32[2,3]{1,0} dot(%state, %weights), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %tuple.4 = (f32[2,3]{1,0}) tuple(%dot.3)
}
"
        );
    }
}
