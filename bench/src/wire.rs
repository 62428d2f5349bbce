//! What the multiplexed wire is for beside unary echo: answers that stream, small calls beside large messages, ten thousand
//! idle connections, and the storm (`formic_bench::storm`). Side by side and interleaved as in [`crate::rpc`].

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::arguments::Arguments;
use crate::discovery::Discovery;
use crate::process::{Measured, Process, Program};
use crate::programs::Programs;
use crate::report::{Target, median};

mod storm;

const INSTANCE: &str = "echo-wire";

/// Idle connections, and what each may cost the server.
const IDLE: usize = 10_000;
const MAX_IDLE_KIB: f64 = 8.0;

const MIN_SMALL: f64 = 5.0;
const MIN_LARGE: f64 = 1.0;
const MAX_BESIDE: f64 = 3.0;

/// Of so many messages one may be lost where a peer gives up connections whose frames are many and short: it makes another.
const FEW: u64 = 1_000;

const SMALL: u32 = 100;
const LARGE: u32 = 1 << 20;

/// Who streams.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    Formic,
    FormicHttp,
    Tonic,
    /// Nobody makes messages of the bytes.
    Socket,
}

const SUBJECTS: [Subject; 3] = [Subject::Tonic, Subject::FormicHttp, Subject::Formic];

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Formic => "formic",
            Self::FormicHttp => "formic, HTTP",
            Self::Tonic => "tonic, one connection",
            Self::Socket => "the socket alone",
        }
    }
}

/// What is streamed on one connection.
#[derive(Clone, Copy)]
struct Flow {
    /// Of each message, in bytes.
    size: u32,
    streams: usize,
    /// Each message is handed over by somebody else, and waited for; else all are ready at once.
    one_by_one: bool,
}

const FLOWS: [Flow; 6] = [
    Flow { size: SMALL, streams: 1, one_by_one: false },
    Flow { size: SMALL, streams: 16, one_by_one: false },
    Flow { size: SMALL, streams: 16, one_by_one: true },
    Flow { size: SMALL, streams: 256, one_by_one: true },
    Flow { size: LARGE, streams: 1, one_by_one: false },
    Flow { size: LARGE, streams: 4, one_by_one: false },
];

impl Flow {
    fn words(self) -> String {
        let way = if self.one_by_one { " one by one" } else { "" };
        let streams = plural(self.streams, "stream");
        format!("messages of {}{way}, {} {streams}", words(self.size), self.streams)
    }
}

/// A line of the page.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) subject: &'static str,
    /// Messages, or calls, a second.
    pub(crate) rate: f64,
    pub(crate) p99_us: f64,
    /// To the first of the group, in messages a second and in p99.
    pub(crate) rate_ratio: f64,
    pub(crate) p99_ratio: f64,
    pub(crate) client_cpu_us: Option<f64>,
    /// What failed, in all rounds. Where it may not, nothing is measured.
    pub(crate) errors: u64,
}

/// All that was found.
pub(crate) struct Found {
    pub(crate) rows: Vec<Row>,
    pub(crate) targets: Vec<Target>,
    /// What an idle connection costs, in words.
    pub(crate) idle: String,
    /// What the storm's caller said.
    pub(crate) storm: Value,
}

pub(crate) async fn measure(
    programs: &Programs,
    discovery: &Discovery,
    scratch: &Path,
    arguments: &Arguments,
) -> Result<Found> {
    let tonic = Program::new(&programs.tonic, scratch)?.args(["serve"]).start_announced().await?;
    let (formic, _) = echo(programs, discovery, scratch).await?;
    let mut targets = Vec::new();
    let mut rows = Vec::new();
    let socket = Program::new(&programs.ours.socket, scratch)?.args(["serve", &SMALL.to_string()]);
    let socket = socket.start_announced().await?;
    let bench = Bench { programs, discovery, scratch, arguments, tonic: &tonic.1, socket: &socket.1 };

    for flow in FLOWS {
        let what = flow.words();
        let mut subjects = SUBJECTS.to_vec();
        if flow.streams == 1 && flow.size == SMALL {
            subjects.push(Subject::Socket);
        }
        let mut samples: Vec<Vec<Measured>> = subjects.iter().map(|_| Vec::new()).collect();
        for round in 0..arguments.rounds {
            for turn in 0..subjects.len() {
                let index = (turn + round) % subjects.len();
                let measured = bench.stream(subjects[index], flow).await?;
                eprintln!("{what}, {:22} {:9.0} a second", subjects[index].name(), measured.rps);
                samples[index].push(measured);
            }
        }
        let ratio = |own: usize, base: usize| of_pairs(&samples[own], &samples[base], |sample| sample.rps);
        if flow.size == SMALL {
            let name = format!("{what}: messages/s, formic ÷ tonic");
            targets.push(Target::at_least(name, ratio(2, 0), MIN_SMALL));
        } else {
            for (base, peer) in [(0, "tonic"), (1, "formic, HTTP")] {
                let name = format!("{what}: bytes/s, formic ÷ {peer}");
                targets.push(Target::at_least(name, ratio(2, base), MIN_LARGE));
            }
        }
        rows.extend(group(&what, subjects.into_iter().map(Subject::name).collect(), &samples));
    }

    let names = vec!["alone", "beside messages of 1 MiB"];
    let mut samples = vec![Vec::new(), Vec::new()];
    for _ in 0..arguments.rounds {
        for (index, beside) in [None, Some(LARGE)].into_iter().enumerate() {
            let measured = bench.small(beside).await?;
            eprintln!("64 callers {:26} p99 {:.0} µs", names[index], measured.p99_us);
            samples[index].push(measured);
        }
    }
    let beside = of_pairs(&samples[1], &samples[0], |sample| sample.p99_us);
    targets.push(Target::at_most("p99 of small calls, beside 1 MiB messages ÷ alone", beside, MAX_BESIDE));
    rows.extend(group("calls of 64 bytes, 64 callers, formic", names, &samples));
    formic.end().await?;
    tonic.0.end().await?;
    socket.0.end().await?;
    discovery.forget(INSTANCE).await?;

    let (kib, idle) = idle(&bench).await?;
    targets.push(Target::at_most("KiB of the server for an idle connection", kib, MAX_IDLE_KIB));
    let (storm, broken) = storm::measure(programs, scratch, arguments.calls).await?;
    targets.push(storm::target(arguments.calls, broken));
    Ok(Found { rows, targets, idle, storm })
}

struct Bench<'a> {
    programs: &'a Programs,
    discovery: &'a Discovery,
    scratch: &'a Path,
    arguments: &'a Arguments,
    /// Where they listen.
    tonic: &'a str,
    socket: &'a str,
}

impl Bench<'_> {
    async fn stream(&self, subject: Subject, flow: Flow) -> Result<Measured> {
        let Flow { size, streams, one_by_one } = flow;
        let warm_up = self.arguments.warm_up.as_millis().to_string();
        let measured = self.arguments.measured.as_millis().to_string();
        let program = match subject {
            Subject::Socket => Program::new(&self.programs.ours.socket, self.scratch)?.args([
                "call",
                self.socket,
                &warm_up,
                &measured,
            ]),
            Subject::Tonic => {
                let program = Program::new(&self.programs.tonic, self.scratch)?;
                let program = program.args(["call", "--server", self.tonic, "--connections", "1"]);
                let program = program.args(["--warm-up-ms", &warm_up, "--measured-ms", &measured]);
                let program =
                    program.args(["--callers", &streams.to_string(), "--stream", &size.to_string()]);
                if one_by_one { program.args(["--one-by-one", "yes"]) } else { program }
            }
            Subject::Formic | Subject::FormicHttp => {
                let transport = if subject == Subject::Formic { "auto" } else { "http" };
                self.caller(streams, &format!("\"stream\":{size},\"one_by_one\":{one_by_one}"), transport)?
            }
        };
        let measured = program.measure(self.load()).await?;
        if subject == Subject::Tonic && one_by_one && measured.errors * FEW < measured.answered {
            return Ok(measured);
        }
        good(measured)
    }

    async fn small(&self, beside: Option<u32>) -> Result<Measured> {
        let more = beside.map_or("\"later\":false".into(), |size| format!("\"beside\":{size}"));
        good(self.caller(64, &more, "auto")?.measure(self.load()).await?)
    }

    fn load(&self) -> Duration {
        self.arguments.warm_up + self.arguments.measured
    }

    fn caller(&self, callers: usize, more: &str, transport: &str) -> Result<Program> {
        let (warm_up, measured) = (self.arguments.warm_up.as_millis(), self.arguments.measured.as_millis());
        let config =
            format!("{{\"callers\":{callers},\"warm_up_ms\":{warm_up},\"measured_ms\":{measured},{more}}}");
        Ok(Program::new(&self.programs.ours.caller, self.scratch)?
            .env("FORMIC_DAEMON", self.discovery.daemon())
            .env("FORMIC_CLIENT_TRANSPORT", transport)
            .env("FORMIC_CONFIG", &config))
    }
}

/// A rate of what failed says nothing.
fn good(measured: Measured) -> Result<Measured> {
    if let Some(error) = &measured.first_error {
        bail!("{} errors, the first: {error}", measured.errors);
    }
    Ok(measured)
}

async fn echo(programs: &Programs, discovery: &Discovery, scratch: &Path) -> Result<(Process, String)> {
    let formic = Program::new(&programs.ours.echo, scratch)?
        .env("FORMIC_DAEMON", discovery.daemon())
        .env("FORMIC_INSTANCE", INSTANCE)
        .start()?;
    let found = discovery.announced(INSTANCE, Duration::from_secs(10)).await;
    let found = found.with_context(|| formic.last_words())?;
    Ok((formic, found.endpoint.to_string()))
}

/// A fresh server, its memory before and after so many connections, each of which has made a call.
async fn idle(bench: &Bench<'_>) -> Result<(f64, String)> {
    crate::process::raise_open_files()?;
    let (server, address) = echo(bench.programs, bench.discovery, bench.scratch).await?;
    let open = |connections: usize| {
        let config = format!("{{\"callers\":200,\"warm_up_ms\":0,\"measured_ms\":0,\"idle\":{connections}}}");
        let program = Program::new(&bench.programs.ours.caller, bench.scratch)?;
        Ok::<_, anyhow::Error>(program.env("BENCH_ADDRESS", &address).env("FORMIC_CONFIG", &config))
    };
    // What only the first connections cost is not theirs.
    let (first, _) = open(50)?.start_announced().await?;
    first.end().await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = server.resident().context("the server's memory cannot be read")?;
    let (caller, said) = open(IDLE)?.start_announced().await?;
    ensure!(said == format!("{IDLE} connections"), "the caller said {said:?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = server.resident().context("the server's memory cannot be read")?;
    caller.end().await?;
    server.end().await?;
    bench.discovery.forget(INSTANCE).await?;
    let kib = (after - before) * 1024.0 / IDLE as f64;
    let text = format!(
        "{IDLE} idle connections: {before:.1} MiB before, {after:.1} MiB with them, {kib:.2} KiB each"
    );
    eprintln!("{text}");
    Ok((kib, text))
}

/// The median of ratios within rounds.
fn of_pairs(own: &[Measured], base: &[Measured], value: fn(&Measured) -> f64) -> f64 {
    let pairs = own.iter().zip(base).filter(|(_, base)| value(base) > 0.0);
    median(&pairs.map(|(own, base)| value(own) / value(base)).collect::<Vec<_>>())
}

fn group(what: &str, names: Vec<&'static str>, samples: &[Vec<Measured>]) -> Vec<Row> {
    let of = |samples: &[Measured], value: fn(&Measured) -> f64| {
        median(&samples.iter().map(value).collect::<Vec<_>>())
    };
    names
        .into_iter()
        .zip(samples)
        .map(|(subject, own)| Row {
            what: what.into(),
            subject,
            rate: of(own, |sample| sample.rps),
            p99_us: of(own, |sample| sample.p99_us),
            rate_ratio: of_pairs(own, &samples[0], |sample| sample.rps),
            p99_ratio: of_pairs(own, &samples[0], |sample| sample.p99_us),
            client_cpu_us: own
                .iter()
                .all(|sample| sample.client_cpu_us.is_some())
                .then(|| of(own, |sample| sample.client_cpu_us.unwrap_or_default())),
            errors: own.iter().map(|sample| sample.errors).sum(),
        })
        .collect()
}

fn words(size: u32) -> String {
    if size == LARGE { "1 MiB".into() } else { format!("{size} B") }
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.into() } else { format!("{word}s") }
}
