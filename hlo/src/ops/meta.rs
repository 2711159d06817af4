//! Operations that change the derivative and leave the value alone.
//!
//! * [`StopGradient`]: the value passes, the tangent does not.
//! * [`CustomDerivative`]: the value of one node, the derivative of another. A surrogate spike is
//!   `x.heaviside().with_derivative(&[(x, slope)])`: the step function forward, the surrogate backward.
//! * [`Tag`]: a label on a value, with references to the values it is about. Transforms and analyses find labelled values
//!   after a computation was traced; the emitted program never sees the label.

use crate::{
    evaluate::HostValue,
    graph::Tensor,
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    range::Range,
    shape::Shape,
};

/// The value passes, the tangent does not.
#[derive(Clone, Debug)]
pub struct StopGradient;

impl Primitive for StopGradient {
    fn name(&self) -> &'static str {
        "stop-gradient"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![args[0].clone()])
    }
    fn jvp(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![None]
    }
    fn batch(&self, args: &[Mapped], _: usize) -> Vec<Mapped> {
        vec![Mapped { tensor: args[0].tensor.stop_gradient(), mapped: args[0].mapped }]
    }
    fn evaluate(&self, args: &[&HostValue], _: &[Shape]) -> Vec<HostValue> {
        vec![args[0].clone()]
    }
    fn emit(&self, _: &mut Emitter<'_>, args: &[i64], _: &[Shape]) -> Vec<i64> {
        vec![args[0]]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args[0]
    }
    fn elementwise(&self) -> bool {
        true
    }
    fn passes_derivative(&self, _: usize) -> bool {
        false
    }
    fn flops(&self, _: &[&Shape], _: &[&Shape]) -> u64 {
        0
    }
}

/// Operands: the value, then pairs (input, slope). The tangent is the sum of slope x tangent of input; slopes are
/// constants of the differentiation (no second-order term).
#[derive(Clone, Debug)]
pub struct CustomDerivative;

impl Primitive for CustomDerivative {
    fn name(&self) -> &'static str {
        "custom-derivative"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        if args.len().is_multiple_of(2) {
            return Err(ShapeError(format!(
                "custom-derivative: a value and pairs (input, slope), got {} operands; give each input a slope",
                args.len()
            )));
        }
        if let Some(bad) = args.iter().find(|s| **s != args[0]) {
            return Err(ShapeError(format!(
                "custom-derivative: value, inputs and slopes must have one shape, got {} and {bad}; broadcast first",
                args[0]
            )));
        }
        Ok(vec![args[0].clone()])
    }
    fn jvp(&self, args: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![Tensor::sum_of(
            (1..args.len()).step_by(2).map(|i| tangents[i].as_ref().map(|d| d * args[i + 1].stop_gradient())),
        )]
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        let args: Vec<Tensor> = args.iter().map(|a| a.materialize(size)).collect();
        let tensor = args[0].graph().apply(CustomDerivative, &args.iter().collect::<Vec<_>>());
        vec![Mapped { tensor, mapped: true }]
    }
    fn evaluate(&self, args: &[&HostValue], _: &[Shape]) -> Vec<HostValue> {
        vec![args[0].clone()]
    }
    fn emit(&self, _: &mut Emitter<'_>, args: &[i64], _: &[Shape]) -> Vec<i64> {
        vec![args[0]]
    }
    fn live_operands(&self, _: usize) -> usize {
        1
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args[0]
    }
    fn elementwise(&self) -> bool {
        true
    }
    fn passes_derivative(&self, operand: usize) -> bool {
        operand % 2 == 1
    }
    fn flops(&self, _: &[&Shape], _: &[&Shape]) -> u64 {
        0
    }
}

/// Operand 0 is the labelled value; the others are what the label is about.
#[derive(Clone, Debug)]
pub struct Tag {
    /// What kind of thing is labelled (for an analysis to match on).
    pub kind: &'static str,
    /// Which one: free for the analysis.
    pub label: String,
}

impl Primitive for Tag {
    fn name(&self) -> &'static str {
        "tag"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![args[0].clone()])
    }
    fn jvp(&self, _: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![tangents[0].clone()]
    }
    fn batch(&self, args: &[Mapped], _: usize) -> Vec<Mapped> {
        let operands: Vec<&Tensor> = args.iter().map(|a| &a.tensor).collect();
        vec![Mapped { tensor: operands[0].graph().apply(self.clone(), &operands), mapped: args[0].mapped }]
    }
    fn evaluate(&self, args: &[&HostValue], _: &[Shape]) -> Vec<HostValue> {
        vec![args[0].clone()]
    }
    fn emit(&self, _: &mut Emitter<'_>, args: &[i64], _: &[Shape]) -> Vec<i64> {
        vec![args[0]]
    }
    fn live_operands(&self, _: usize) -> usize {
        1
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args[0]
    }
    fn elementwise(&self) -> bool {
        true
    }
    fn passes_derivative(&self, operand: usize) -> bool {
        operand == 0
    }
    fn cheap(&self) -> bool {
        true
    }
    fn flops(&self, _: &[&Shape], _: &[&Shape]) -> u64 {
        0
    }
}

impl Tensor {
    /// The value passes, the tangent does not.
    pub fn stop_gradient(&self) -> Tensor {
        if self.as_constant().is_some() {
            return self.clone();
        }
        self.graph().apply(StopGradient, &[self])
    }

    /// This value, with the derivative `slope` with respect to each `input` in place of its own.
    #[track_caller]
    pub fn with_derivative(&self, slopes: &[(&Tensor, &Tensor)]) -> Tensor {
        let mut operands = vec![self];
        operands.extend(slopes.iter().flat_map(|(input, slope)| [*input, *slope]));
        self.graph().apply(CustomDerivative, &operands)
    }

    /// This value with a label, and references to the values the label is about.
    pub fn tag(&self, kind: &'static str, label: impl Into<String>, about: &[&Tensor]) -> Tensor {
        let mut operands = vec![self];
        operands.extend(about);
        self.graph().apply(Tag { kind, label: label.into() }, &operands)
    }
}
