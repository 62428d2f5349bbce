//! The measured caller: it finds the service by its name in the registry, and balancing, deadline,
//! metrics and trace context are on, as they are by default.
#![expect(clippy::print_stdout, reason = "its one line of output is what it is for")]

use std::time::Duration;

use bench::v1::{
    EchoRequest, EchoResponse, EchoServiceClient, LaterServiceClient, SendRequest, StreamServiceClient,
};
use formic::Endpoint;
use formic::prelude::*;
use formic_bench::load::{self, Caller, PAYLOAD, Plan};
use serde::Deserialize;

formic::include_protos!();

/// How much load, as the bench configures it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    callers: usize,
    warm_up_ms: u64,
    measured_ms: u64,
    /// The handler is not ready at once.
    #[serde(default)]
    later: bool,
    /// Callers read streams of messages of this size, and each message counts as a call.
    #[serde(default)]
    stream: Option<u32>,
    /// Each of these is waited for on the other side.
    #[serde(default)]
    one_by_one: bool,
    /// Beside the callers one more reads such a stream, which is not counted.
    #[serde(default)]
    beside: Option<u32>,
    /// No load: so many connections, with one call made on each.
    #[serde(default)]
    idle: Option<usize>,
}

struct Echo(EchoServiceClient);

impl Caller for Echo {
    async fn call(&mut self) -> Result<(), String> {
        let request = EchoRequest { payload: PAYLOAD.to_vec(), ..Default::default() };
        let response = self.0.echo(request).await.map_err(|error| error.to_string())?;
        load::check(&response.payload)
    }
}

struct Later(LaterServiceClient);

impl Caller for Later {
    async fn call(&mut self) -> Result<(), String> {
        let request = EchoRequest { payload: PAYLOAD.to_vec(), ..Default::default() };
        let response = self.0.echo(request).await.map_err(|error| error.to_string())?;
        load::check(&response.payload)
    }
}

/// Reads a stream.
struct Reading {
    client: StreamServiceClient,
    size: u32,
    one_by_one: bool,
    stream: Option<Streaming<EchoResponse>>,
}

impl Reading {
    fn new(client: &StreamServiceClient, size: u32, one_by_one: bool) -> Self {
        Self { client: client.clone(), size, one_by_one, stream: None }
    }
}

impl Caller for Reading {
    async fn call(&mut self) -> Result<(), String> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let Self { size, one_by_one, .. } = *self;
                let request = SendRequest { size, one_by_one, ..Default::default() };
                let answer = self.client.send(request).timeout(Duration::from_secs(600)).await;
                none.insert(answer.map_err(|error| error.to_string())?.into_message())
            }
        };
        match stream.message().await {
            Ok(Some(item)) if item.payload.len() == self.size as usize => Ok(()),
            Ok(Some(item)) => Err(format!("{} bytes came", item.payload.len())),
            Ok(None) => Err("the stream ended".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Opens so many connections, makes a call on each, and keeps them.
async fn idle(config: &Config, connections: usize) -> Result<Vec<Channel>, String> {
    let address = std::env::var("BENCH_ADDRESS").map_err(|error| error.to_string())?;
    let endpoint: Endpoint = address.parse().map_err(|error| format!("{address}: {error}"))?;
    let transport = formic_client::Transport::Multiplexed;
    // So many at a time are more than a busy machine greets at once.
    let (connect_timeout, timeout) = (Duration::from_secs(20), Duration::from_secs(30));
    let settings =
        formic_client::Config { transport, connect_timeout, timeout, ..formic_client::Config::default() };
    let client = Client::without_registry(settings);
    let mut open = Vec::new();
    while open.len() < connections {
        let batch = (connections - open.len()).min(config.callers);
        let batch: Vec<Channel> = (0..batch).map(|_| client.at(endpoint.clone())).collect();
        let calls = batch.iter().map(|channel| {
            let mut caller = Echo(EchoServiceClient::new(channel.clone()));
            async move { caller.call().await }
        });
        formic::futures::future::try_join_all(calls).await?;
        open.extend(batch);
    }
    Ok(open)
}

#[formic::main]
async fn main() -> formic::Result {
    let service = Service::new("bench-caller");
    let config: Config = service.config()?;
    let channel = service.client("echo");
    let plan = Plan {
        callers: config.callers,
        warm_up: Duration::from_millis(config.warm_up_ms),
        measured: Duration::from_millis(config.measured_ms),
    };
    if let Some(connections) = config.idle {
        let open = idle(&config, connections).await.map_err(formic::Failure::new)?;
        println!("{} connections", open.len());
        load::parent_gone().await;
        return Ok(());
    }
    let mut beside = formic::tokio::task::JoinSet::new();
    let streams = StreamServiceClient::new(channel.clone());
    if let Some(size) = config.beside {
        let mut reading = Reading::new(&streams, size, false);
        beside.spawn(async move { while reading.call().await.is_ok() {} });
    }
    let line = if let Some(size) = config.stream {
        load::run(plan, |_| Reading::new(&streams, size, config.one_by_one)).await
    } else if config.later {
        let client = LaterServiceClient::new(channel);
        load::run(plan, |_| Later(client.clone())).await
    } else {
        let client = EchoServiceClient::new(channel);
        load::run(plan, |_| Echo(client.clone())).await
    };
    let line = line.map_err(formic::Failure::new)?;
    if config.beside.is_some() && beside.try_join_next().is_some() {
        return Err(formic::Failure::new("the stream beside the calls ended"));
    }
    println!("{line}");
    Ok(())
}
