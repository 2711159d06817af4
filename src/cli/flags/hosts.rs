//! Flags of commands whose devices may be on several hosts.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, bail};
use hlo::hosts::{Group, HostsError, MOST_PROCESSES, Place};

use super::super::{Usage, usage};
use crate::{settings::range::Count, train::record};

/// How long processes wait for each other at the start.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where the processes of several hosts meet.
#[derive(Clone, Debug, clap::Args)]
pub struct HostFlags {
    /// With several hosts: an address of the host of process 0, where all processes meet; each is started with the same command
    #[arg(long, value_name = "HOST:PORT", requires_all = ["process", "processes"], conflicts_with = "dry_run")]
    pub coordinator: Option<String>,
    /// Number of this process, from 0
    #[arg(long, value_name = "I", requires = "coordinator", value_parser = process)]
    pub process: Option<usize>,
    /// Number of processes, one on each host
    #[arg(long, value_name = "N", requires = "coordinator", value_parser = processes)]
    pub processes: Option<usize>,
}

fn process(text: &str) -> Result<usize, String> {
    usize::try_from(Count { low: 0, high: MOST_PROCESSES as u64 - 1 }.parse(text)?).map_err(|e| e.to_string())
}

fn processes(text: &str) -> Result<usize, String> {
    usize::try_from(Count { low: 1, high: MOST_PROCESSES as u64 }.parse(text)?).map_err(|e| e.to_string())
}

impl HostFlags {
    /// Whether there is more than this process.
    pub fn given(&self) -> bool {
        self.coordinator.is_some()
    }

    /// Meets the other processes, if there are some; `remark` is told that they are waited for.
    ///
    /// # Errors
    /// When the flags make no sense, or not all processes come.
    pub fn meet(&self, remark: impl Fn(&str)) -> Result<Option<Arc<Group>>> {
        let (Some(coordinator), Some(process), Some(processes)) = (&self.coordinator, self.process, self.processes)
        else {
            return Ok(None);
        };
        if !coordinator.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
            bail!(usage(format!("--coordinator is HOST:PORT, as in 10.0.0.1:8476, got `{coordinator}`")));
        }
        let place = Place { coordinator: coordinator.clone(), process, processes };
        remark(&format!("process {process} of {processes} waits for the others at {coordinator}"));
        match Group::join(&place, &record::host(), PATIENCE) {
            Ok(group) => Ok(Some(Arc::new(group))),
            Err(error @ HostsError::Number { .. }) => Err(Usage(error.into()).into()),
            Err(error) => Err(error.into()),
        }
    }
}
