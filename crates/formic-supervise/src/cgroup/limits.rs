//! What an instance may use, and how the kernel is told.

use serde::{Deserialize, Serialize};

use super::detect::Controller;

/// The period of `cpu.max`, in microseconds: the kernel's own default.
const PERIOD: u64 = 100_000;

/// The least share of a period that the kernel takes.
const LEAST_QUOTA: u64 = 1_000;

/// Reclaim and throttling begin at this many percent of the memory limit, before anything is killed.
const HIGH_PERCENT: u64 = 90;

/// What an instance, all its processes together, may use. What is not given is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes. Past it all of the instance is killed; see [`crate::Process::oom_killed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processor time in cores, whatever is idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Its share where others want the processor too: 100 is everyone's, from 1 to 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// Processes and threads. Past it a fork fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

impl Limits {
    /// The controllers that are asked for.
    #[must_use]
    pub fn controllers(&self) -> Vec<Controller> {
        let asked = [
            (Controller::Memory, self.memory.is_some()),
            (Controller::Cpu, self.cpu.is_some() || self.cpu_weight.is_some()),
            (Controller::Pids, self.pids.is_some()),
        ];
        asked.into_iter().filter(|(_, asked)| *asked).map(|(controller, _)| controller).collect()
    }

    /// The files of a controller and what is written to each.
    pub(super) fn files(&self, controller: Controller) -> Vec<(&'static str, String)> {
        let mut files = Vec::new();
        match controller {
            Controller::Memory => {
                if let Some(bytes) = self.memory {
                    files.push(("memory.max", bytes.to_string()));
                    files.push(("memory.high", (bytes / 100 * HIGH_PERCENT).to_string()));
                    // Half an instance is worse than none: the supervisor starts a whole one.
                    files.push(("memory.oom.group", "1".to_owned()));
                }
            }
            Controller::Cpu => {
                if let Some(cores) = self.cpu {
                    files.push(("cpu.max", format!("{} {PERIOD}", quota(cores))));
                }
                if let Some(weight) = self.cpu_weight {
                    files.push(("cpu.weight", weight.clamp(1, 10_000).to_string()));
                }
            }
            Controller::Pids => {
                if let Some(pids) = self.pids {
                    files.push(("pids.max", pids.to_string()));
                }
            }
        }
        files
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to what fits; a fraction of a microsecond is nothing"
)]
fn quota(cores: f64) -> u64 {
    // What is no number, or negative, becomes the least.
    let micros = (cores.max(0.0) * PERIOD as f64).min(1e15) as u64;
    micros.max(LEAST_QUOTA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_the_words_of_the_kernel() {
        let limits = Limits { memory: Some(1000), cpu: Some(0.5), cpu_weight: Some(20_000), pids: Some(7) };
        let text = |controller| {
            let files = limits.files(controller).into_iter().map(|(file, value)| format!("{file}={value}"));
            files.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(Controller::Memory), "memory.max=1000 memory.high=900 memory.oom.group=1");
        assert_eq!(text(Controller::Cpu), "cpu.max=50000 100000 cpu.weight=10000");
        assert_eq!(text(Controller::Pids), "pids.max=7");
        assert_eq!(limits.controllers(), Controller::ALL);
        assert!(Limits::default().controllers().is_empty());
        assert_eq!((quota(f64::NAN), quota(-1.0), quota(2.0)), (LEAST_QUOTA, LEAST_QUOTA, 200_000));
    }
}
