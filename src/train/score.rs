//! How good a network is, in one number: the accuracy where targets are classes, the normalised error where they are numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::history::History;
use crate::learn::objective::{Target, TargetKind};

/// What says how good a network is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// Share of right answers: of sequences, or of steps where each has a class. More is better.
    #[default]
    Accuracy,
    /// Normalised mean squared error: the mean squared error of a sequence over the variance of its targets, a mean over sequences. 0 is
    /// a target met, 1 what its mean gives; less is better.
    Nmse,
}

/// A value of a [`Measure`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score<T = f64> {
    /// Share of right answers.
    Accuracy(T),
    /// Normalised mean squared error.
    Nmse(T),
}

impl Measure {
    /// That of runs with this target.
    pub fn of(target: Target) -> Measure {
        if target.kind == TargetKind::Class { Measure::Accuracy } else { Measure::Nmse }
    }

    /// Its name in texts and on axes.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Accuracy => "accuracy",
            Measure::Nmse => "NMSE",
        }
    }

    /// Its name in the line of a batch.
    pub fn short(self) -> &'static str {
        match self {
            Measure::Accuracy => "acc",
            Measure::Nmse => "nmse",
        }
    }

    /// Those of several runs, each once, and the name of a column that holds their values: `accuracy`, or `accuracy or NMSE`.
    pub fn of_runs<'h>(runs: impl IntoIterator<Item = &'h History>) -> (Vec<Measure>, String) {
        let all: Vec<Measure> = runs.into_iter().map(|run| run.measure).collect();
        let mut each: Vec<Measure> =
            [Measure::Accuracy, Measure::Nmse].into_iter().filter(|m| all.contains(m)).collect();
        if each.is_empty() {
            each.push(Measure::default());
        }
        let name = each.iter().map(|m| m.name()).collect::<Vec<_>>().join(" or ");
        (each, name)
    }

    /// A value of it.
    pub fn score<T>(self, value: T) -> Score<T> {
        match self {
            Measure::Accuracy => Score::Accuracy(value),
            Measure::Nmse => Score::Nmse(value),
        }
    }

    /// Whether `a` is better than `b`.
    pub fn better(self, a: f64, b: f64) -> bool {
        match self {
            Measure::Accuracy => a > b,
            Measure::Nmse => a < b,
        }
    }

    /// The better one of two values.
    pub fn best(self, a: f64, b: f64) -> f64 {
        if self.better(b, a) { b } else { a }
    }

    /// Whether `a` is as good as `wanted`, or better.
    pub fn reaches(self, a: f64, wanted: f64) -> bool {
        a == wanted || self.better(a, wanted)
    }
}

impl<T: Copy + Into<f64>> Score<T> {
    /// What is measured.
    pub fn measure(self) -> Measure {
        match self {
            Score::Accuracy(_) => Measure::Accuracy,
            Score::Nmse(_) => Measure::Nmse,
        }
    }

    /// The number.
    pub fn value(self) -> f64 {
        match self {
            Score::Accuracy(value) | Score::Nmse(value) => value.into(),
        }
    }
}

impl Default for Score {
    fn default() -> Score {
        Score::Accuracy(0.0)
    }
}

/// `accuracy 0.9375`.
impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.4}", self.measure().name(), self.value())
    }
}
