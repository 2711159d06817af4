//! Flags of the learning rule.

use std::num::NonZeroUsize;

use anyhow::bail;
use clap::ValueEnum;

use super::super::{OrUsage, flags};
use crate::{
    learn::{Attachment, Method, Vjp, form::TraceSetting, rule::Checkpoint, sequence::LearnerConfig, signal::Ahead},
    settings::{Change, Listed, Row, change},
};

/// Flags of the learning rule, as the published programs name them.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Learning rule")]
pub struct LearnerFlags {
    /// Learning rule, by its name or any published alias: see `etrace train --list`
    #[arg(long, value_name = "NAME", value_parser = method_name)]
    pub method: Option<String>,
    /// A parameter of the learning rule, `seed=3` for random-feedback; may be given several times
    #[arg(long = "rule_set", value_name = "KEY=VALUE")]
    pub rule_set: Vec<Change>,
    /// Smoothing of factorised traces: a decay in [0, 1), or a rank, a whole number r from 1, for the decay (r - 1) / (r + 1)
    #[arg(long = "etrace_decay", value_name = "X", value_parser = decay)]
    pub etrace_decay: Option<f64>,
    /// How gradients are formed from traces: single-step (t) or multi-step (t_minus_1)
    #[arg(long = "vjp_method", visible_alias = "vjp_time", value_name = "MODE", value_enum)]
    pub vjp_method: Option<VjpMode>,
    /// Steps per window of multi-step gradients [default: 1]
    #[arg(long, value_name = "K", value_parser = some_steps)]
    pub window: Option<NonZeroUsize>,
    /// Where the signal of single-step gradients attaches: exit counts each state once, in-step as the published library
    #[arg(long, value_enum)]
    pub attachment: Option<AttachmentName>,
    /// Steps computed together; results do not change [default: from a memory budget]
    #[arg(long, value_name = "K", value_parser = some_steps)]
    pub chunk: Option<NonZeroUsize>,
    /// In which form D-RTRL keeps its traces; results do not change [default: auto]
    #[arg(long, value_name = "FORM", value_enum)]
    pub trace: Option<TraceName>,
    /// Steps of the fixed-lag form [default: as many as the tolerance needs, if the network's graph tells]
    #[arg(long, value_name = "W", value_parser = some_steps)]
    pub lag: Option<NonZeroUsize>,
    /// Bytes that a form may take, where --trace is auto [default: as many as dense traces, 3 GiB at most]
    #[arg(long = "memory_budget", value_name = "BYTES", value_parser = flags::budget)]
    pub memory_budget: Option<u64>,
    /// How far learning signals look ahead [default: step]
    #[arg(long, value_enum)]
    pub signal: Option<SignalName>,
    /// Steps between updates inside a sequence, counted from the first that carries loss; states and traces go on [default: one update a
    /// sequence, after it]
    #[arg(long = "update_every", value_name = "K", value_parser = some_steps)]
    pub update_every: Option<NonZeroUsize>,
    /// What bptt keeps of a sequence [default: none]
    #[arg(long, value_enum)]
    pub checkpoint: Option<CheckpointName>,
    /// The largest share of a learning signal that a lag may cut off [default: 1e-6]
    #[arg(long = "lag_tolerance", value_name = "X", value_parser = flags::below_one)]
    pub lag_tolerance: Option<f64>,
}

/// Values of `--signal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SignalName {
    /// To the loss of the step.
    Step,
    /// Through the memory of the readout, too, to the losses of later steps: needs the whole sequence.
    Readout,
}

/// Values of `--checkpoint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckpointName {
    /// What derivatives need of every step: fastest.
    None,
    /// The states at the boundaries of chunks; the steps between are computed again.
    Auto,
}

/// Values of `--trace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceName {
    /// Whichever is best: `etrace explain` shows the choice.
    Auto,
    /// A value for each weight, state and sequence.
    Dense,
    /// The values of the last steps, where states forget.
    #[value(name = "fixed-lag", alias = "fixed_lag")]
    FixedLag,
    /// The states of all steps, chunks backwards.
    Whole,
    /// Chunks backwards, each computed twice.
    Recompute,
}

impl From<TraceName> for TraceSetting {
    fn from(name: TraceName) -> TraceSetting {
        match name {
            TraceName::Auto => TraceSetting::Auto,
            TraceName::Dense => TraceSetting::Dense,
            TraceName::FixedLag => TraceSetting::FixedLag,
            TraceName::Whole => TraceSetting::Whole,
            TraceName::Recompute => TraceSetting::Recompute,
        }
    }
}

/// Values of `--vjp_method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VjpMode {
    /// Trace after the step with the signal at its end.
    #[value(name = "single-step", aliases = ["single_step", "t"])]
    SingleStep,
    /// Trace before a window of steps with the exact derivative inside.
    #[value(name = "multi-step", aliases = ["multi_step", "t_minus_1"])]
    MultiStep,
}

/// Values of `--attachment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AttachmentName {
    /// Each state of a group counted once.
    Exit,
    /// As the published library: routes through other states of the group counted twice.
    #[value(name = "in-step", alias = "in_step")]
    InStep,
}

impl LearnerFlags {
    /// The settings of the learner. What no flag says is as in `published`, and `decay` serves the factorised rules where
    /// neither says one. Flags that a method does not use are accepted, as the published command lines need.
    ///
    /// # Errors
    /// When flags contradict each other: the user's mistake.
    pub fn config(&self, published: &LearnerConfig, decay: f64) -> anyhow::Result<LearnerConfig> {
        self.resolve(published, decay).or_usage()
    }

    /// The rule with its parameters: those of the flags, else those of the published rule if it is the same, else the standard ones.
    fn rule(&self, published: Method, decay: f64) -> anyhow::Result<Method> {
        let named = self
            .method
            .as_deref()
            .map(<Method as Listed>::by_name)
            .transpose()
            .map_err(|e| anyhow::anyhow!("--method {e}"))?;
        let mut method = match named {
            Some(named) if named.name() != published.name() => {
                named.with_decay(if published.decay() > 0.0 { published.decay() } else { decay })
            }
            _ => published,
        };
        if let Some(decay) = self.etrace_decay {
            method.set_decay(decay);
        }
        if let Some(checkpoint) = self.checkpoint {
            let Method::Bptt(bptt) = &mut method else {
                bail!(
                    "--checkpoint says what bptt keeps, got --method {}; for an online rule see --trace",
                    method.name()
                );
            };
            bptt.checkpoint = if checkpoint == CheckpointName::Auto { Checkpoint::Auto } else { Checkpoint::None };
        }
        let own = toml::Table::try_from(method).map_or(0, |table| table.len());
        if let (Some(first), 1) = (self.rule_set.first(), own) {
            bail!("--rule_set sets a parameter of the rule, got {first}, but {} has none; leave it out", method.name());
        }
        for parameter in &self.rule_set {
            method = change(&method, parameter).map_err(|e| anyhow::anyhow!("--rule_set {e}"))?;
        }
        method.check()?;
        Ok(method)
    }

    fn resolve(&self, published: &LearnerConfig, decay: f64) -> anyhow::Result<LearnerConfig> {
        let method = self.rule(published.method, decay)?;
        let (window, attachment) = match published.vjp {
            Vjp::MultiStep { window } => (window, Attachment::default()),
            Vjp::SingleStep { attachment } => (1, attachment),
        };
        let attachment = match self.attachment {
            Some(AttachmentName::Exit) => Attachment::Exit,
            Some(AttachmentName::InStep) => Attachment::InStep,
            None => attachment,
        };
        let single = match self.vjp_method {
            Some(mode) => mode == VjpMode::SingleStep,
            None => matches!(published.vjp, Vjp::SingleStep { .. }),
        };
        if single && let Some(window) = self.window {
            bail!(
                "--window belongs to multi-step gradients, got --window {window} with single-step ones; add --vjp_method multi-step"
            );
        }
        if !single && let Some(name) = self.attachment {
            let name = name.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default();
            bail!(
                "--attachment belongs to single-step gradients, got --attachment {name} with multi-step ones; add --vjp_method single-step"
            );
        }
        let window = self.window.map_or(window, usize::from);
        if !single
            && window > 1
            && let Some(chunk) = self.chunk
        {
            bail!(
                "a window of {window} steps is a chunk of its own, got --chunk {chunk} as well; leave out --chunk or --window"
            );
        }
        let vjp = if single { Vjp::SingleStep { attachment } } else { Vjp::MultiStep { window } };
        let chunk = self.chunk.map(usize::from).or(published.chunk);
        let trace = self.trace.map_or(published.trace, TraceSetting::from);
        let lag = self.lag.map(usize::from).or(published.lag);
        let lag_tolerance = self.lag_tolerance.unwrap_or(published.lag_tolerance);
        let signal = match self.signal {
            Some(SignalName::Step) => Ahead::Step,
            Some(SignalName::Readout) => Ahead::Readout,
            None => published.signal,
        };
        let memory_budget = self.memory_budget.or(published.memory_budget);
        let update_every = self.update_every.map(usize::from).or(published.update_every);
        let standard = published.clone();
        Ok(LearnerConfig {
            method,
            vjp,
            chunk,
            trace,
            lag,
            memory_budget,
            lag_tolerance,
            signal,
            update_every,
            ..standard
        })
    }
}

fn some_steps(text: &str) -> Result<NonZeroUsize, String> {
    NonZeroUsize::new(flags::steps(text)?).ok_or_else(|| "must be at least 1, got 0".into())
}

fn method_name(text: &str) -> Result<String, String> {
    match Method::find(text) {
        Some(_) => Ok(text.to_string()),
        None => Err(format!("no learning rule has this name; use one of {}", method_names())),
    }
}

/// Every name of every rule.
fn method_names() -> String {
    let row = |row: &Row<Method>| [&[row.name], row.aliases].concat().join(", ");
    Method::ROWS.iter().map(row).collect::<Vec<_>>().join("; ")
}

/// The largest rank of a factorised trace: its decay is 0.999998.
const RANKS: f64 = 1e6;

/// A decay, or a rank r that stands for the decay (r - 1) / (r + 1).
fn decay(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.0..1.0).contains(&x) => Ok(x),
        // As published: a whole number is a rank, a number with a point a decay.
        Ok(r) if (1.0..=RANKS).contains(&r) && text.bytes().all(|b| b.is_ascii_digit()) => Ok((r - 1.0) / (r + 1.0)),
        _ => Err(format!(
            "must be a decay, a number in [0, 1), or a rank, a whole number from 1 to {RANKS}, got `{text}`; 0.9 to 0.99 is usual"
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: LearnerFlags,
    }

    fn config(line: &str) -> Result<LearnerConfig, String> {
        let words = std::iter::once("x").chain(line.split_whitespace()).map(std::ffi::OsString::from);
        let words = flags::words::canonical(&Line::command(), words);
        let line = Line::try_parse_from(words).map_err(|e| e.to_string())?;
        let published =
            LearnerConfig { vjp: Vjp::MultiStep { window: 1 }, method: Method::BPTT, ..LearnerConfig::default() };
        line.flags.config(&published, 0.99).map_err(|e| e.to_string())
    }

    #[test]
    fn published_spellings_mean_the_same() {
        for line in [
            "--method expsm_diag --etrace_decay 0.8 --vjp_time t",
            "--method=esd-rtrl --etrace-decay 9 --vjp_method single-step",
            "--meth es-d-rtrl --etrace 9 --vjp-method single-step",
            "--method ES_D_RTRL --etrace_d 0.8 --vjp-time t",
        ] {
            let got = config(line).unwrap();
            assert_eq!(got.method, Method::es_d_rtrl(0.8), "{line}");
            assert_eq!(got.vjp, Vjp::SingleStep { attachment: Attachment::Exit }, "{line}");
        }
    }

    #[test]
    fn defaults_are_the_published_ones() {
        let got = config("").unwrap();
        assert_eq!((got.method, got.vjp), (Method::BPTT, Vjp::MultiStep { window: 1 }));
        assert_eq!(config("--method esd-rtrl").unwrap().method, Method::es_d_rtrl(0.99));
        assert_eq!(config("--method bptt --etrace_decay 0.5 --chunk 8").unwrap().chunk, Some(8));
        assert_eq!(config("--window 4").unwrap().vjp, Vjp::MultiStep { window: 4 });
        let in_step = config("--vjp_time t --attachment in-step").unwrap().vjp;
        assert_eq!(in_step, Vjp::SingleStep { attachment: Attachment::InStep });
    }

    #[test]
    fn contradictions_and_bad_values_are_errors() {
        for (line, part) in [
            ("--method diagonal", "expsm_diag"),
            ("--etrace_decay -0.5", "[0, 1)"),
            ("--etrace_decay 1.0", "got `1.0`"),
            ("--etrace_decay 9.7", "a rank, a whole number"),
            ("--etrace_decay 18446744073709551615", "to 1000000"),
            ("--window 18446744073709551615", "at most 16777216"),
            ("--etrace_decay nan", "[0, 1)"),
            ("--etrace_decay inf", "[0, 1)"),
            ("--vjp_time t --window 4", "--vjp_method multi-step"),
            ("--attachment exit", "--vjp_method single-step"),
            ("--window 4 --chunk 2", "leave out --chunk"),
            ("--chunk 0", "--chunk"),
            ("--vjp_time later", "single-step, multi-step"),
        ] {
            let error = config(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
