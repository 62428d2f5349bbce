//! How long a prebuilt service takes from exec until callers can find it, and what it holds while idle.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::discovery::Discovery;
use crate::process::Program;
use crate::programs::Programs;
use crate::report::{Target, median};

/// From just before exec to the registry's knowing the instance.
const READY_LIMIT_MS: f64 = 50.0;
/// Resident, a while after it got ready and before its first call.
const IDLE_LIMIT_MIB: f64 = 12.0;
/// The while.
const IDLE: Duration = Duration::from_secs(2);
/// A start that takes longer has failed.
const GIVE_UP: Duration = Duration::from_secs(10);

pub(crate) struct Started {
    ready_ms: Vec<f64>,
    idle_mib: Option<f64>,
}

pub(crate) async fn measure(
    programs: &Programs,
    discovery: &Discovery,
    scratch: &Path,
    starts: usize,
) -> Result<Started> {
    let mut ready_ms = Vec::new();
    let mut idle_mib = None;
    for index in 0..starts {
        eprintln!("start {} of {starts}", index + 1);
        let instance = format!("echo-start-{index}");
        let program = Program::new(&programs.ours.echo, scratch)?
            .env("FORMIC_DAEMON", discovery.daemon())
            .env("FORMIC_INSTANCE", &instance);
        let began = Instant::now();
        let process = program.start()?;
        let announced = discovery.announced(&instance, GIVE_UP).await;
        ready_ms.push(began.elapsed().as_secs_f64() * 1e3);
        announced.with_context(|| process.last_words())?;
        if index == 0 {
            tokio::time::sleep(IDLE).await;
            idle_mib = process.resident();
        }
        process.end().await?;
        discovery.forget(&instance).await?;
    }
    Ok(Started { ready_ms, idle_mib })
}

impl Started {
    pub(crate) fn targets(&self) -> Vec<Target> {
        let (starts, slowest) = (self.ready_ms.len(), self.ready_ms.iter().copied().fold(0.0, f64::max));
        let mut targets = vec![
            Target::at_most(
                format!("service ready, ms, median of {starts} starts"),
                median(&self.ready_ms),
                READY_LIMIT_MS,
            ),
            Target::at_most(
                format!("service ready, ms, slowest of {starts} starts"),
                slowest,
                READY_LIMIT_MS,
            ),
        ];
        // Where there is no `/proc` it is not known, and so no target is claimed.
        targets.extend(
            self.idle_mib.map(|mib| Target::at_most("idle service, resident MiB", mib, IDLE_LIMIT_MIB)),
        );
        targets
    }
}
