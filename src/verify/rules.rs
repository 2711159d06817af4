//! Which rule a stored gradient belongs to, by its name in the file.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

use hlo::{Shape, Tensor, array::Array};

use safetensors::SafeTensors;

use super::{Case, VerifyError};
use crate::{
    learn::{
        Attachment, LearnError, Method, Rule, Vjp,
        rule::{
            About, EProp, EsDRtrl, Modulated, Projection, Received, Reception, Recursion, ScalarLeak, Signs, SnAp,
            TracedOp, Uoro, normalised,
        },
        sequence::LearnerConfig,
        trace::TraceKind,
    },
    settings::Listed,
};

/// One way of computing a stored gradient.
pub(super) struct Gradient {
    /// Its name in the file.
    pub stored: String,
    /// Its name in the report.
    pub label: String,
    /// Its rule.
    pub rule: Stored,
    /// How it learns.
    pub config: LearnerConfig,
}

/// Ways of forming the gradient, by their names in the files.
pub(super) const MODES: [(&str, Vjp, bool); 5] = [
    ("exit", Vjp::SingleStep { attachment: Attachment::Exit }, false),
    ("ss", Vjp::SingleStep { attachment: Attachment::InStep }, false),
    ("ms1", Vjp::MultiStep { window: 1 }, false),
    ("win4", Vjp::MultiStep { window: 4 }, false),
    ("ss_oldcorr", Vjp::SingleStep { attachment: Attachment::InStep }, true),
];

/// Rules of reference files that this project does not have, by the start of their names: synthetic gradients.
const ABSENT: [&str; 1] = ["dni"];

/// What a stored method is.
pub(super) enum Stored {
    /// This rule.
    Rule(Box<dyn Deref<Target = dyn Rule>>),
    /// A rule that this project does not have.
    Absent,
}

/// The rule of a stored method; `array` reads an array of the case, and `count` counts those of a name with a number behind it.
fn stored(
    name: &str,
    array: &dyn Fn(&str) -> Result<Array, VerifyError>,
    count: &dyn Fn(&str) -> usize,
) -> Result<Option<Stored>, VerifyError> {
    if ABSENT.iter().any(|start| name.starts_with(start)) {
        return Ok(Some(Stored::Absent));
    }
    let number = |start: &str| name.strip_prefix(start).and_then(|text| text.parse::<f64>().ok());
    let pair = || name.strip_prefix("io_x")?.split_once("_f");
    let rule: Box<dyn Rule> = if name == "three_factor" {
        Box::new(Modulated { modulator: array("extra/three_factor/modulator")?.to_f64_vec() })
    } else if name == "eprop_random" {
        let matrices = "extra/eprop_random/B/libgroup";
        let all = (0..count(matrices).max(1)).map(|k| array(&format!("{matrices}{k}")));
        Box::new(TabledFeedback { matrices: all.collect::<Result<_, _>>()? })
    } else if name == "uoro" {
        let signs = "extra/uoro/nu/libgroup";
        let all = (0..count(signs).max(1)).map(|k| array(&format!("{signs}{k}")));
        Box::new(TabledSigns { signs: all.collect::<Result<_, _>>()? })
    } else if let Some(n) = name.strip_prefix("snap_n").and_then(|n| n.parse().ok()) {
        Box::new(SnAp { n })
    } else if let Some(decay) = number("es_d_rtrl_") {
        Box::new(EsDRtrl { decay, ..EsDRtrl::default() })
    } else if let Some(kappa) = number("eprop_kappa") {
        Box::new(EProp { kappa, ..EProp::default() })
    } else if let Some(leak) = number("per_param_scalar_leak") {
        Box::new(ScalarLeak { leak })
    } else if let Some((Ok(input), Ok(output))) = pair().map(|(x, f)| (x.parse(), f.parse())) {
        Box::new(EsDRtrl { input_decay: Some(input), output_decay: Some(output), ..EsDRtrl::default() })
    } else {
        let method = <Method as Listed>::by_name(name).ok();
        return Ok(method.map(|method| Stored::Rule(Box::new(method))));
    };
    Ok(Some(Stored::Rule(Box::new(rule))))
}

impl Case {
    /// Names of the stored gradients, `METHOD/MODE` or `bptt`, each with the parameters that it has.
    fn stored(&self) -> Result<BTreeMap<String, BTreeSet<String>>, VerifyError> {
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for name in self.names()? {
            if let Some((stored, param)) = name.strip_prefix("grad/").and_then(|name| name.rsplit_once('/')) {
                all.entry(stored.into()).or_default().insert(param.into());
            }
        }
        Ok(all)
    }

    /// The ways of computing the stored gradients, and those whose rule does not exist: single-step ones with chunks of 1 and 4, others with
    /// the default chunk and (`thorough`) with chunks of 1.
    pub(super) fn gradients(&self, thorough: bool) -> Result<(Vec<Gradient>, Vec<String>), VerifyError> {
        let (mut all, mut without_rule) = (Vec::new(), Vec::new());
        let trained: BTreeSet<String> =
            self.model.params.iter().filter(|p| p.trainable).map(|p| p.name.clone()).collect();
        for (stored, params) in self.stored()? {
            if let Some(other) = params.difference(&trained).next() {
                let why = format!("`grad/{stored}/{other}` belongs to no parameter of this model");
                return Err(VerifyError::Format { path: self.path.clone(), why });
            }
            let (method, mode) = stored.split_once('/').unwrap_or((&stored, ""));
            let modes = if method == "bptt" { &[("", Vjp::default(), false)][..] } else { &MODES };
            let found = modes.iter().find(|(name, ..)| *name == mode);
            let (Some(&(mode, vjp, old_correction)), Some(rule)) = (found, self.rule(method)?) else {
                return Err(VerifyError::Unknown { path: self.path.clone(), stored });
            };
            if matches!(rule, Stored::Absent) {
                without_rule.push(stored);
                continue;
            }
            // Single-step gradients with short chunks always; the textbook form, and one that leaves a tail.
            let chunks: &[Option<usize>] = match (vjp, mode) {
                (Vjp::SingleStep { .. }, "exit" | "ss") if mode == "exit" || thorough => &[Some(1), Some(4), None],
                (Vjp::SingleStep { .. }, "ss") => &[Some(1), Some(4)],
                (Vjp::MultiStep { window: 1 }, _) if thorough => &[Some(1), None],
                _ => &[None],
            };
            for &chunk in chunks {
                let label = chunk.map_or_else(|| stored.clone(), |k| format!("{stored} K={k}"));
                let config = LearnerConfig { vjp, chunk, old_correction, ..LearnerConfig::default() };
                let Some(rule) = self.rule(method)? else { continue };
                all.push(Gradient { stored: stored.clone(), label, rule, config });
            }
        }
        Ok((all, without_rule))
    }

    fn rule(&self, method: &str) -> Result<Option<Stored>, VerifyError> {
        let names = self.names()?;
        let count = |start: &str| names.iter().filter(|name| name.starts_with(start)).count();
        stored(method, &|name| self.array(name), &count)
    }

    fn names(&self) -> Result<Vec<String>, VerifyError> {
        let wrong = |why: String| VerifyError::Format { path: self.path.clone(), why };
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(|e| wrong(e.to_string()))?;
        Ok(tensors.names().into_iter().map(str::to_string).collect())
    }
}

/// The table of a group. A panic while a case is replayed is an error of the case.
fn table(tables: &[Array], group: usize) -> &Array {
    tables.get(group).unwrap_or_else(|| panic!("there are {} random tables, and none for group {group}", tables.len()))
}

/// [`EProp`] with the random matrices of a case, one for each group.
struct TabledFeedback {
    matrices: Vec<Array>,
}

impl Rule for TabledFeedback {
    fn about(&self) -> About {
        EProp { kappa: 0.0, random_feedback: true, ..EProp::default() }.about()
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Full)
    }

    fn reception(&self) -> Option<&dyn Reception> {
        Some(self)
    }

    fn check(&self) -> Result<(), LearnError> {
        let square = |m: &&Array| m.shape().dims.len() != 2 || m.shape().dims[0] != m.shape().dims[1];
        match self.matrices.iter().find(square) {
            Some(wrong) => Err(LearnError::Shape(format!("a feedback matrix must be square, got {}", wrong.shape()))),
            None => Ok(()),
        }
    }
}

impl Reception for TabledFeedback {
    fn receive(&self, received: &Received<'_>) -> Option<Tensor> {
        let matrix = table(&self.matrices, received.group);
        let shape = Shape::f32(matrix.shape().dims.clone());
        let matrix = received.time.graph().literal(&shape, matrix.to_f64_vec());
        received.signal.map(|signal| normalised(signal, &matrix))
    }
}

/// [`Uoro`] with the signs of a case, `[T, B, N, S]` for each group.
struct TabledSigns {
    signs: Vec<Array>,
}

impl Rule for TabledSigns {
    fn about(&self) -> About {
        Uoro::default().about()
    }

    fn trace(&self, op: TracedOp<'_>) -> Option<TraceKind> {
        Uoro::default().trace(op)
    }

    fn recursion(&self) -> Recursion {
        Uoro::default().recursion()
    }

    fn projection(&self) -> Option<&dyn Projection> {
        Some(self)
    }

    fn check(&self) -> Result<(), LearnError> {
        match self.signs.iter().find(|signs| signs.shape().dims.len() != 4) {
            Some(wrong) => Err(LearnError::Shape(format!("random signs must be [T, B, N, S], got {}", wrong.shape()))),
            None => Ok(()),
        }
    }
}

impl Projection for TabledSigns {
    fn signs(&self, signs: &Signs<'_>) -> Tensor {
        let table = table(&self.signs, signs.group);
        let all = signs.time.graph().literal(&Shape::f32(table.shape().dims.clone()), table.to_f64_vec());
        let now = all.dynamic_slice(signs.time, 1).at(0);
        now.slice_axis(2, signs.state, signs.state + 1).reshape(&signs.dims)
    }
}
