//! The load of a scene: callers who come at random moments, whether or not the earlier ones were answered, as
//! callers from outside do. Every call goes by the client as it is by default, and is written down.
#![expect(clippy::print_stdout, reason = "it says when each part of the load begins")]

use std::sync::mpsc;
use std::time::Duration;

use bench::v1::{TrafficServiceClient, WatchRequest, WorkRequest};
use formic::prelude::*;
use formic::tokio::time::{Instant, MissedTickBehavior};
use formic::{ServiceName, tokio};
use formic_bench::record::{self, Call, Kind, Line, Seen};
use serde::Deserialize;

formic::include_protos!();

/// The load, as the bench configures it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Who is called.
    service: String,
    /// Calls a second and for how many seconds, one part after the other.
    phases: Vec<(f64, f64)>,
    /// The shares of writes and of streams; the rest are reads.
    #[serde(default)]
    writes: f64,
    #[serde(default)]
    watches: f64,
    /// The share of calls marked as important.
    #[serde(default)]
    important: f64,
    /// Where the record goes.
    record: std::path::PathBuf,
}

/// How often the view is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// More than any scene needs; what is beyond it is counted as failed without being made.
const MOST: usize = 20_000;

#[formic::main]
async fn main() -> formic::Result {
    let service = Service::new("bench-driver");
    let config: Config = service.config()?;
    let (lines, written) = mpsc::channel();
    let path = config.record.clone();
    let writer = std::thread::spawn(move || write(&path, &written));
    let outcome = drive(&service, &config, &lines).await;
    drop(lines);
    let written = writer.join().map_err(|_| formic::Failure::new("the writer of the record broke"))?;
    written.map_err(|error| formic::Failure::new("the record cannot be written").because(error))?;
    outcome
}

fn write(path: &std::path::Path, lines: &mpsc::Receiver<Line>) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut text = String::new();
    for line in lines {
        text.clear();
        line.write(&mut text);
        file.write_all(text.as_bytes())?;
    }
    file.flush()
}

async fn drive(service: &Service, config: &Config, lines: &mpsc::Sender<Line>) -> formic::Result {
    let client = TrafficServiceClient::new(service.client(&config.service));
    let name = ServiceName::new(&config.service)
        .map_err(|error| formic::Failure::config("there is no such service").because(error))?;
    let (clients, looks) = (service.clients().clone(), lines.clone());
    let mut looking = tokio::task::JoinSet::new();
    looking.spawn(async move {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            look(&clients, &name, &looks);
        }
    });
    let mut calls = tokio::task::JoinSet::new();
    tokio::select! {
        () = load(config, &client, &mut calls, lines) => {}
        // Whoever wanted the load has heard enough, or is gone; calls on their way end well all the same.
        () = formic_bench::load::parent_gone() => {}
    }
    println!("{}", record::now());
    // Each has a deadline.
    while calls.join_next().await.is_some() {}
    Ok(())
}

/// Makes all calls at their time.
async fn load(
    config: &Config,
    client: &TrafficServiceClient,
    calls: &mut tokio::task::JoinSet<()>,
    lines: &mpsc::Sender<Line>,
) {
    for (phase, &(rate, seconds)) in config.phases.iter().enumerate() {
        println!("{}", record::now());
        let (mut due, end) = (Instant::now(), Instant::now() + Duration::from_secs_f64(seconds));
        loop {
            // Between callers who know nothing of each other the times are exponential.
            due += Duration::from_secs_f64(-(1.0 - fastrand::f64()).ln() / rate);
            if due >= end {
                break;
            }
            tokio::time::sleep_until(due).await;
            while calls.try_join_next().is_some() {}
            if calls.len() < MOST {
                calls.spawn(call(client.clone(), draw(config), phase, lines.clone()));
            } else {
                let (kind, important) = draw(config);
                let failed = Some("undriven".into());
                let (began, took, instance) = (record::now(), 0, None);
                let _ =
                    lines.send(Line::Call(Call { began, took, phase, kind, important, failed, instance }));
            }
        }
        tokio::time::sleep_until(end).await;
    }
}

/// What the next call is.
fn draw(config: &Config) -> (Kind, bool) {
    let at = fastrand::f64();
    let kind = match at {
        at if at < config.writes => Kind::Write,
        at if at < config.writes + config.watches => Kind::Watch,
        _ => Kind::Read,
    };
    (kind, fastrand::f64() < config.important)
}

async fn call(
    client: TrafficServiceClient,
    (kind, important): (Kind, bool),
    phase: usize,
    lines: mpsc::Sender<Line>,
) {
    let (began, clock) = (record::now(), Instant::now());
    let outcome = make(&client, kind, important).await;
    let took = u64::try_from(clock.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (failed, instance) = match outcome {
        Ok(instance) => (None, Some(instance)),
        Err(error) => {
            let shed = if error.shed_reason().is_some() { "shed:" } else { "" };
            (Some(format!("{shed}{}", error.code().as_str())), None)
        }
    };
    // The writer lives for as long as there is a sender.
    let _ = lines.send(Line::Call(Call { began, took, phase, kind, important, failed, instance }));
}

async fn make(client: &TrafficServiceClient, kind: Kind, important: bool) -> Result<String, Error> {
    let priority = if important { "high" } else { "normal" };
    // What `hash` goes by: a few hundred users.
    let user = format!("user-{}", fastrand::u32(..400));
    match kind {
        Kind::Read | Kind::Write => {
            let request = WorkRequest::default();
            let call = if kind == Kind::Read { client.read(request) } else { client.write(request) };
            let call = call.metadata("formic-priority", priority).metadata("x-user", &user);
            Ok(call.await?.into_message().instance)
        }
        Kind::Watch => {
            const MESSAGES: u32 = 5;
            let call = client.watch(WatchRequest { messages: MESSAGES, ..Default::default() });
            let call = call.metadata("formic-priority", priority).metadata("x-user", &user);
            let mut stream = call.await?.into_message();
            let (mut count, mut instance) = (0, String::new());
            while let Some(message) = stream.message().await? {
                count += 1;
                instance = message.instance;
            }
            // A good end after half of the messages would be the worst failure of all.
            if count == MESSAGES { Ok(instance) } else { Err(short(count)) }
        }
    }
}

fn short(count: u32) -> Error {
    Error::new(Code::DataLoss, format!("{count} messages and a good end"))
}

/// Writes down what the view says now.
fn look(clients: &Client, name: &ServiceName, lines: &mpsc::Sender<Line>) {
    let at = record::now();
    for endpoint in clients.traffic(name).endpoints {
        let state = format!("{:?}", endpoint.state).to_lowercase();
        let (instance, in_flight) = (endpoint.instance, endpoint.in_flight);
        let _ = lines.send(Line::Seen(Seen { at, instance, state, in_flight }));
    }
}
