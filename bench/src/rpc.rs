//! Unary echo side by side: every subject in every round, one right after the other.
//!
//! A round goes through the numbers of callers, and for each of them through all subjects, beginning with
//! another one each time. So what is compared was measured within seconds, and a ratio is taken within its
//! round before the median over the rounds: the weather of the machine falls out.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::arguments::Arguments;
use crate::discovery::Discovery;
use crate::process::{Measured, Process, Program};
use crate::programs::Programs;
use crate::report::{Row, Target, median};

const CALLERS: [usize; 3] = [1, 64, 256];
const INSTANCE: &str = "echo-rpc";
/// What a service and its callers speak by themselves.
const MULTIPLEXED: &str = "multiplexed";

const MIN_RPS: f64 = 0.95;
const MAX_P99: f64 = 1.10;

/// Who answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Library {
    Connectrpc,
    Tonic,
    Tarpc,
    Formic,
}

/// What is measured.
struct Subject {
    name: &'static str,
    library: Library,
    protocol: &'static str,
    connections: usize,
    /// A deadline for every call; Formic always has one.
    deadline: bool,
    /// The handler is not ready at once.
    later: bool,
}

/// The first is what all are compared with: what Formic stands on, used the way Formic uses it.
fn subjects() -> [Subject; 10] {
    let many = formic_client::Config::default().connections;
    let subject = |name, library, protocol, connections| Subject {
        name,
        library,
        protocol,
        connections,
        deadline: false,
        later: false,
    };
    [
        subject("connectrpc", Library::Connectrpc, "connect", many),
        subject("formic, HTTP", Library::Formic, "connect", many),
        subject("formic", Library::Formic, MULTIPLEXED, 1),
        Subject { later: true, ..subject("formic, handler waits", Library::Formic, MULTIPLEXED, 1) },
        subject("tarpc, one connection", Library::Tarpc, "tarpc", 1),
        // What of the difference is the deadline's, which needs a timer on both sides.
        Subject { deadline: true, ..subject("connectrpc, deadline", Library::Connectrpc, "connect", many) },
        subject("connectrpc, one connection", Library::Connectrpc, "connect", 1),
        subject("connectrpc, gRPC", Library::Connectrpc, "grpc", many),
        subject("tonic", Library::Tonic, "grpc", many),
        subject("tonic, one connection", Library::Tonic, "grpc", 1),
    ]
}

/// The servers, each for the whole run.
struct Servers {
    connectrpc: (Process, String),
    tonic: (Process, String),
    tarpc: (Process, String),
    formic: Process,
}

impl Servers {
    async fn start(programs: &Programs, discovery: &Discovery, scratch: &Path) -> Result<Self> {
        let serve = |path| Ok::<_, anyhow::Error>(Program::new(path, scratch)?.args(["serve"]));
        let connectrpc = serve(&programs.connectrpc)?.start_announced().await.context("connectrpc")?;
        let tonic = serve(&programs.tonic)?.start_announced().await.context("tonic")?;
        let tarpc = serve(&programs.tarpc)?.start_announced().await.context("tarpc")?;
        let formic = Program::new(&programs.ours.echo, scratch)?
            .env("FORMIC_DAEMON", discovery.daemon())
            .env("FORMIC_INSTANCE", INSTANCE)
            .start()?;
        let found = discovery.announced(INSTANCE, std::time::Duration::from_secs(10)).await;
        found.with_context(|| formic.last_words())?;
        Ok(Self { connectrpc, tonic, tarpc, formic })
    }

    fn of(&self, library: Library) -> (&Process, &str) {
        match library {
            Library::Connectrpc => (&self.connectrpc.0, &self.connectrpc.1),
            Library::Tonic => (&self.tonic.0, &self.tonic.1),
            Library::Tarpc => (&self.tarpc.0, &self.tarpc.1),
            Library::Formic => (&self.formic, ""),
        }
    }

    async fn end(self) -> Result<()> {
        for process in [self.connectrpc.0, self.tonic.0, self.tarpc.0, self.formic] {
            process.end().await?;
        }
        Ok(())
    }
}

/// One measurement: what the caller said, and the processor time of the server for each call.
struct Sample {
    measured: Measured,
    server_cpu_us: Option<f64>,
}

pub(crate) async fn measure(
    programs: &Programs,
    discovery: &Discovery,
    scratch: &Path,
    arguments: &Arguments,
) -> Result<Vec<Row>> {
    measure_some(programs, discovery, scratch, arguments, &subjects().map(|subject| subject.name)).await
}

/// The same for some of the subjects, of which the first is always one.
pub(crate) async fn measure_some(
    programs: &Programs,
    discovery: &Discovery,
    scratch: &Path,
    arguments: &Arguments,
    names: &[&str],
) -> Result<Vec<Row>> {
    let servers = Servers::start(programs, discovery, scratch).await?;
    let wanted = subjects().into_iter().filter(|subject| names.contains(&subject.name));
    let subjects: Vec<Subject> = wanted.collect();
    // By callers, by subject, by round.
    let mut samples: Vec<Vec<Vec<Sample>>> =
        CALLERS.iter().map(|_| subjects.iter().map(|_| Vec::new()).collect()).collect();
    for round in 0..arguments.rounds {
        for (level, &callers) in CALLERS.iter().enumerate() {
            for turn in 0..subjects.len() {
                let index = (turn + round) % subjects.len();
                let subject = &subjects[index];
                let (process, address) = servers.of(subject.library);
                let program = caller(subject, programs, discovery, scratch, address, callers, arguments)?;
                let before = process.cpu();
                let measured = program.measure(arguments.warm_up + arguments.measured).await;
                let measured =
                    measured.with_context(|| format!("{} with {callers} callers", subject.name))?;
                let used = process.cpu().zip(before).map(|(after, before)| after - before);
                let server_cpu_us =
                    used.map(|used| used.as_secs_f64() * 1e6 / measured.answered.max(1) as f64);
                eprintln!(
                    "round {} of {}: {callers:3} callers, {:26} {:8.0} calls/s{}",
                    round + 1,
                    arguments.rounds,
                    subject.name,
                    measured.rps,
                    measured.first_error.as_ref().map_or(String::new(), |error| format!(", errors: {error}")),
                );
                samples[level][index].push(Sample { measured, server_cpu_us });
            }
        }
    }
    let resident = |library| servers.of(library).0.resident();
    let resident = [Library::Connectrpc, Library::Tonic, Library::Tarpc, Library::Formic]
        .map(|library| (library, resident(library)));
    servers.end().await?;
    discovery.forget(INSTANCE).await?;

    let mut rows = Vec::new();
    for (level, &callers) in CALLERS.iter().enumerate() {
        for (index, subject) in subjects.iter().enumerate() {
            let mut row = row(subject, callers, &samples[level][index], &samples[level][0]);
            row.server_rss_mib =
                resident.iter().find(|(library, _)| *library == subject.library).and_then(|found| found.1);
            rows.push(row);
        }
    }
    Ok(rows)
}

fn caller(
    subject: &Subject,
    programs: &Programs,
    discovery: &Discovery,
    scratch: &Path,
    address: &str,
    callers: usize,
    arguments: &Arguments,
) -> Result<Program> {
    let (warm_up, measured) = (arguments.warm_up.as_millis(), arguments.measured.as_millis());
    let path = match subject.library {
        Library::Connectrpc => &programs.connectrpc,
        Library::Tonic => &programs.tonic,
        Library::Tarpc => &programs.tarpc,
        Library::Formic => {
            let config = format!(
                "{{\"callers\":{callers},\"warm_up_ms\":{warm_up},\"measured_ms\":{measured},\"later\":{}}}",
                subject.later
            );
            let transport = if subject.protocol == MULTIPLEXED { "auto" } else { "http" };
            return Ok(Program::new(&programs.ours.caller, scratch)?
                .env("FORMIC_DAEMON", discovery.daemon())
                .env("FORMIC_CLIENT_TRANSPORT", transport)
                .env("FORMIC_CONFIG", &config));
        }
    };
    let program = Program::new(path, scratch)?.args(["call", "--server", address]);
    let program =
        program.args(["--protocol", subject.protocol, "--connections", &subject.connections.to_string()]);
    let program =
        program.args(["--warm-up-ms", &warm_up.to_string(), "--measured-ms", &measured.to_string()]);
    let program = program.args(["--callers", &callers.to_string()]);
    Ok(if subject.deadline { program.args(["--deadline-ms", "5000"]) } else { program })
}

fn row(subject: &Subject, callers: usize, samples: &[Sample], base: &[Sample]) -> Row {
    let of = |value: fn(&Sample) -> f64| median(&samples.iter().map(value).collect::<Vec<_>>());
    let ratio = |value: fn(&Sample) -> f64| {
        let pairs = samples.iter().zip(base).filter(|(_, base)| value(base) > 0.0);
        median(&pairs.map(|(own, base)| value(own) / value(base)).collect::<Vec<_>>())
    };
    let known = |value: fn(&Sample) -> Option<f64>| {
        let values: Vec<f64> = samples.iter().filter_map(value).collect();
        (!values.is_empty()).then(|| median(&values))
    };
    Row {
        subject: subject.name.into(),
        protocol: subject.protocol.into(),
        connections: subject.connections,
        callers,
        rps: of(|sample| sample.measured.rps),
        p50_us: of(|sample| sample.measured.p50_us),
        p99_us: of(|sample| sample.measured.p99_us),
        errors: samples.iter().map(|sample| sample.measured.errors).sum(),
        rps_ratio: ratio(|sample| sample.measured.rps),
        p99_ratio: ratio(|sample| sample.measured.p99_us),
        client_cpu_us: known(|sample| sample.measured.client_cpu_us),
        server_cpu_us: known(|sample| sample.server_cpu_us),
        server_rss_mib: None,
        rounds: samples.len(),
    }
}

/// What Formic must hold: as it is and over HTTP, beside what it stands on; as it is, beside the peers.
pub(crate) fn targets(rows: &[Row]) -> Vec<Target> {
    let mut targets = Vec::new();
    for subject in ["formic", "formic, HTTP"] {
        for row in rows.iter().filter(|row| row.subject == subject) {
            let who = who(row.callers);
            let name = format!("calls/s, {subject} ÷ connectrpc, {who}");
            targets.push(Target::at_least(name, row.rps_ratio, MIN_RPS));
            let name = format!("p99, {subject} ÷ connectrpc, {who}");
            targets.push(Target::at_most(name, row.p99_ratio, MAX_P99));
        }
    }
    let find =
        |subject: &str, callers| rows.iter().find(|row| row.subject == subject && row.callers == callers);
    for callers in CALLERS.into_iter().filter(|&callers| callers > 1) {
        let who = who(callers);
        for (subject, peer, least) in BESIDE {
            if let (Some(ours), Some(theirs)) = (find(subject, callers), find(peer, callers)) {
                // Both are ratios to the same third, taken within the rounds.
                let ratio = ours.rps_ratio / theirs.rps_ratio;
                targets.push(Target::at_least(format!("calls/s, {subject} ÷ {peer}, {who}"), ratio, least));
            }
        }
        if let (Some(ours), Some(theirs)) = (find("formic", callers), find("tarpc, one connection", callers))
        {
            let name = format!("p99, formic ÷ tarpc, {who}");
            targets.push(Target::at_most(name, ours.p99_ratio / theirs.p99_ratio, 1.0));
        }
        if let Some(cpu) = find("formic", callers).and_then(|row| row.server_cpu_us) {
            targets.push(Target::at_most(format!("server µs a call, formic, {who}"), cpu, MAX_SERVER_US));
        }
    }
    let ours = rows.iter().filter(|row| row.subject.starts_with("formic"));
    let errors: u64 = ours.map(|row| row.errors).sum();
    targets.push(Target::at_most("failed calls, formic", errors as f64, 0.0));
    targets
}

/// What is how many times as fast as what, at least.
const BESIDE: [(&str, &str, f64); 3] = [
    ("formic", "tonic, one connection", 5.0),
    ("formic", "tarpc, one connection", 1.5),
    ("formic, handler waits", "tonic, one connection", 2.5),
];

const MAX_SERVER_US: f64 = 2.0;

pub(crate) fn who(callers: usize) -> String {
    if callers == 1 { "1 caller".into() } else { format!("{callers} callers") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rps: f64, p99_us: f64) -> Sample {
        let (answered, errors, first_error, client_cpu_us) = (1, 0, None, Some(1.0));
        let measured = Measured { answered, errors, first_error, rps, p50_us: 1.0, p99_us, client_cpu_us };
        Sample { measured, server_cpu_us: None }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The second round ran on a machine half as fast; between the medians there would be no difference.
        let base = [sample(100.0, 10.0), sample(50.0, 20.0), sample(100.0, 10.0)];
        let own = [sample(90.0, 11.0), sample(45.0, 22.0), sample(110.0, 9.0)];
        let row = row(&subjects()[1], 64, &own, &base);
        assert!((row.rps_ratio - 0.9).abs() < 1e-9 && (row.p99_ratio - 1.1).abs() < 1e-9);
        assert_eq!((row.rps, row.client_cpu_us, row.server_cpu_us), (90.0, Some(1.0), None));
        let targets = targets(&[row]);
        assert_eq!(targets.iter().map(|target| target.met).collect::<Vec<_>>(), [false, true, true]);
    }

    #[test]
    fn the_first_subject_is_formics_own_ground() {
        let subjects = subjects();
        let (base, formic) = (&subjects[0], &subjects[1]);
        assert!(base.library == Library::Connectrpc && formic.library == Library::Formic);
        assert_eq!((base.protocol, base.connections), (formic.protocol, formic.connections));
    }
}
