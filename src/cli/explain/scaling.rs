//! What training needs on devices that are not here, and how it would scale: compiled ahead of time, timed by a stated model.

use std::fmt::Write;

use anyhow::Result;
use hlo::pjrt::aot;

use super::super::{OrUsage, train};
use crate::{
    experiment::Experiment,
    learn::{Method, cost},
    report::{Align, Table, bytes, flops},
    train::{
        program::{ProgramError, TrainProgram},
        replicas::Parts,
    },
};

/// What is assumed of a kind of device; rates from its data sheet.
struct Machine {
    /// How targets of this kind begin.
    target: &'static str,
    /// Matrix products, operations per second, in the precision that the compiler chooses for `f32` by itself.
    products: f64,
    /// Bytes per second that a device sends to others while it receives as many.
    link: f64,
    /// Seconds until the first byte of an exchange has passed one of its rounds.
    latency: f64,
    /// Seconds that a step of a recurrence takes however small it is.
    step: f64,
}

/// TPU v5e: 197 TFLOP/s bf16, 1,600 Gbit/s between chips. TPU v4: 275 TFLOP/s bf16, 2,400 Gbit/s. H100 SXM: 495 TFLOP/s TF32 without sparsity,
/// NVLink 900 GB/s both ways together.
const MACHINES: [Machine; 3] = [
    Machine { target: "tpu:v5e", products: 197e12, link: 100e9, latency: 5e-6, step: 5e-6 },
    Machine { target: "tpu:v4", products: 275e12, link: 150e9, latency: 5e-6, step: 5e-6 },
    Machine { target: "cuda:h100", products: 495e12, link: 450e9, latency: 10e-6, step: 20e-6 },
];

/// The share of its rate that a device reaches in the products of a step.
const REACHED: f64 = 0.4;

/// The rules that are compared.
const RULES: [&str; 3] = ["bptt", "d-rtrl", "es-d-rtrl"];

/// Numbers of devices of the prediction.
const COUNTS: [usize; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/// More devices pay while twice as many save this share of the time.
const PAYS: f64 = 0.25;

/// What decides the time of an update.
struct Update {
    method: Method,
    /// Operations for the whole batch.
    flops: f64,
    /// Bytes that each device brings into the exchange.
    exchanged: f64,
    /// Steps of recurrences, one after the other.
    steps: f64,
}

impl Update {
    /// Seconds on `n` devices: products at the rate reached, the steps that cannot be shared, and a ring exchange of the gradients.
    fn seconds(&self, machine: &Machine, n: usize) -> f64 {
        let n = n as f64;
        let computing = self.flops / n / (REACHED * machine.products) + self.steps * machine.step;
        let exchange = 2.0 * (n - 1.0) / n * self.exchanged / machine.link + n.log2() * machine.latency;
        computing + exchange
    }
}

/// The section of `explain` for a target: what was compiled, and what is predicted.
///
/// # Errors
/// When there is no such target, its plugin is not installed, or the batch does not divide.
pub fn section(experiment: &Experiment, steps: usize, target: &str, parts: Parts) -> Result<String> {
    aot::plugin_kind(target).or_usage()?;
    let Some(machine) = MACHINES.iter().find(|m| target.starts_with(m.target)) else {
        unreachable!("every target has a row: {target}")
    };
    let columns = ["", "memory", "arguments", "temporary", "FLOPs", "exchanges", "brings into them", "compiled in"];
    let align = |k: usize| if k == 0 { Align::Left } else { Align::Right };
    let mut table = Table::new(columns.iter().enumerate().map(|(k, c)| (*c, align(k)))).indented(2);
    let (mut updates, mut refused) = (Vec::new(), String::new());
    for method in Method::all().filter(|m| RULES.contains(&m.name())) {
        let mut experiment = experiment.clone();
        experiment.learner.method = method;
        let spec = experiment.spec_of(steps, parts).or_usage()?;
        let (program, learner) = match TrainProgram::lower(&spec) {
            Ok(both) => both,
            Err(ProgramError::Learn(why)) => {
                let _ = write!(refused, "\n  {} cannot train this model: {why}", method.name());
                continue;
            }
            Err(other) => return Err(other.into()),
        };
        let report = train::compile_for(target, &program, parts)?;
        let own = cost::gradient(&learner, &spec.model, steps).flops;
        let exchange = report.exchanges.filter(|_| parts.0 > 1);
        let of = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        table.row([
            method.name().to_string(),
            bytes(report.memory.total()),
            bytes(report.memory.argument),
            bytes(report.memory.temp),
            flops(own),
            of(exchange.map(|e| format!("{} ({} in loops)", e.count, e.in_loops))),
            of(exchange.map(|e| bytes(e.bytes))),
            format!("{:.0} s", report.seconds),
        ]);
        updates.push(Update {
            method,
            flops: own as f64 * parts.0 as f64,
            exchanged: 4.0 * spec.model.trainable_elements() as f64,
            // Forwards and backwards, or forwards with the traces behind.
            steps: 2.0 * steps as f64,
        });
    }
    let batch = experiment.settings.batch;
    let head = format!("For each of {} replica(s) on {target}, {} of {batch} sequences", parts.0, batch / parts.0);
    Ok(format!("{head}\n{table}{refused}\n\n{}", prediction(machine, &updates, batch)))
}

/// Time by number of devices for one batch, and where another device no longer pays.
fn prediction(machine: &Machine, updates: &[Update], batch: usize) -> String {
    let columns = updates.iter().map(|u| (u.method.name(), Align::Right));
    let mut table =
        Table::new([("devices", Align::Right), ("sequences each", Align::Right)].into_iter().chain(columns))
            .indented(2);
    for n in COUNTS.into_iter().filter(|n| batch.is_multiple_of(*n)) {
        let times = updates.iter().map(|u| format!("{:.2} ms", 1e3 * u.seconds(machine, n)));
        table.row([n.to_string(), (batch / n).to_string()].into_iter().chain(times));
    }
    let pays = |u: &Update| {
        let last = |n: &&usize| u.seconds(machine, **n * 2) > (1.0 - PAYS) * u.seconds(machine, **n);
        let n = COUNTS.iter().find(last).copied().unwrap_or(*COUNTS.last().unwrap_or(&1));
        format!("{} {n}, that is {} sequences each", u.method.name(), batch as f64 / n as f64)
    };
    let limits: Vec<String> = updates.iter().map(pays).collect();
    format!(
        "Predicted time of an update of {batch} sequences\n{table}\n  By a model, not measured: products at {:.0} % of {:.0} TFLOP/s, {:.0} us \
         for each of 2 T steps one after the other,\n  a ring exchange of the gradients at {:.0} GB/s, {:.0} us for each doubling of the \
         devices.\n  Twice as many devices save less than {:.0} % of the time from: {}",
        100.0 * REACHED,
        machine.products / 1e12,
        1e6 * machine.step,
        machine.link / 1e9,
        1e6 * machine.latency,
        100.0 * PAYS,
        limits.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_rates() {
        for target in aot::TARGETS {
            assert!(MACHINES.iter().any(|m| target.starts_with(m.target)), "{target}");
        }
    }

    #[test]
    fn an_exchange_costs_more_with_more_devices_and_computing_less() {
        let update = Update { method: Method::BPTT, flops: 1e15, exchanged: 1e8, steps: 100.0 };
        let [one, eight, many] = [1, 8, 4096].map(|n| update.seconds(&MACHINES[0], n));
        // Alone: 1e15 / (0.4 * 197e12) + 100 * 5 us, and no exchange.
        assert!((one - (1e15 / (0.4 * 197e12) + 5e-4)).abs() < 1e-9 * one);
        assert!(eight < one / 7.0 && many < eight);
        // What cannot be shared is left: two gradients over the link.
        assert!(many > 2.0 * 4095.0 / 4096.0 * 1e8 / 100e9);
    }
}
