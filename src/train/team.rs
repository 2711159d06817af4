//! Processes on several hosts that train one run.
//!
//! Each drives the devices of its host and runs the same loop. XLA adds up what the devices find; what the loops decide, process 0 decides,
//! the *leader*: it evaluates, records the run, and says when to stop. The others ask it through the [`Group`]. All begin with the same
//! settings, which is checked.
//!
//! A process that waits for an exchange with one that is gone waits for ever, so the loss of a process must end the others: see
//! [`Group::on_loss`].

use std::{sync::Arc, time::Duration};

use hlo::hosts::{Group, HostsError};

use super::{
    stop,
    trainer::{Event, TrainError},
};

/// Time for what all do at about the same time, such as compiling.
const TOGETHER: Duration = Duration::from_secs(600);

/// Time for an evaluation, which only the leader does; its loss would be noticed.
const EVALUATION: Duration = Duration::from_secs(24 * 3600);

/// This process among those that train a run.
#[derive(Clone, Debug)]
pub struct Team {
    group: Arc<Group>,
}

impl Team {
    /// Of a group that has met.
    pub fn new(group: Arc<Group>) -> Team {
        Team { group }
    }

    /// Whether this process leads.
    pub fn leads(&self) -> bool {
        self.group.process() == 0
    }

    /// The processes.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Refuses a process whose `what` is another one than the leader's, in the first line that differs; else waits until all have agreed.
    ///
    /// # Errors
    /// When it is, or a process is lost.
    pub fn agree(&self, what: &str, own: &str) -> Result<(), TrainError> {
        let key = format!("agree/{what}");
        if self.leads() {
            self.group.put(&key, own.as_bytes())?;
        }
        let text = self.group.get(&key, TOGETHER)?;
        let leaders = String::from_utf8_lossy(&text);
        if leaders == own {
            // Nobody begins before all have agreed: one that refuses ends, and is lost for the others.
            return self.wait_for_all(&format!("agreed/{what}"));
        }
        let (mut ours, mut theirs) = (own.lines(), leaders.lines());
        let differ = std::iter::from_fn(|| match (ours.next(), theirs.next()) {
            (None, None) => None,
            (a, b) => Some((a.unwrap_or("nothing").trim(), b.unwrap_or("nothing").trim())),
        })
        .find(|(a, b)| a != b);
        let (ours, theirs) = differ.unwrap_or_default();
        Err(TrainError::Setting(format!(
            "all processes train with the same {what}, got `{ours}` in process {} where process 0 has `{theirs}`; start all with the same \
             command, but for --process",
            self.group.process()
        )))
    }

    /// Leaves: for the others this process is done, not lost. The leader waits for those that are not done yet.
    pub fn leave(&self) {
        self.group.leave();
    }

    /// Waits until all processes are here.
    ///
    /// # Errors
    /// When one does not come, or is lost.
    pub fn wait_for_all(&self, place: &str) -> Result<(), TrainError> {
        self.group.put(&format!("{place}/{}", self.group.process()), b"")?;
        for process in 0..self.group.processes() {
            self.group.get(&format!("{place}/{process}"), TOGETHER)?;
        }
        Ok(())
    }

    /// Before an update, which no process can end alone: the leader says whether it is the last one, because a signal asked it or
    /// another process to stop.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn before(&self) -> Result<(), TrainError> {
        let signal = stop::requested();
        if self.leads() {
            let asked = self.group.try_get("please stop")?;
            let signal = signal.map(|s| s.to_string().into_bytes()).or(asked);
            if let Some(signal) = signal {
                self.group.put("stop", &signal)?;
            }
        } else if let Some(signal) = signal {
            self.group.put("please stop", signal.to_string().as_bytes())?;
        }
        Ok(())
    }

    /// After an update: the signal for which it was the last one.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn after(&self) -> Result<Option<i32>, TrainError> {
        let signal = self.group.try_get("stop")?;
        let signal = signal.and_then(|text| String::from_utf8_lossy(&text).parse().ok());
        if let Some(signal) = signal {
            stop::request(signal);
        }
        Ok(signal)
    }

    /// Tells the others what an evaluation said.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn tell(&self, found: &Event, step: u64) -> Result<(), TrainError> {
        let text = serde_json::to_vec(found).map_err(|e| TrainError::Setting(e.to_string()))?;
        Ok(self.group.put(&evaluation(step), &text)?)
    }

    /// Hears what the leader's evaluation said.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn hear(&self, step: u64) -> Result<Event, TrainError> {
        let text = self.group.get(&evaluation(step), EVALUATION)?;
        serde_json::from_slice(&text).map_err(|e| {
            TrainError::Setting(format!(
                "all processes run the same etrace, but the leader's evaluation cannot be read: {e}"
            ))
        })
    }
}

fn evaluation(step: u64) -> String {
    format!("evaluation/{step}")
}

impl From<HostsError> for TrainError {
    fn from(error: HostsError) -> TrainError {
        match error {
            HostsError::Lost(lost) => TrainError::Lost(lost),
            other => TrainError::Hosts(other),
        }
    }
}
