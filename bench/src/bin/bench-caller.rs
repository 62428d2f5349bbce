//! The measured caller: it finds the service by its name in the registry, and balancing, deadline,
//! metrics and trace context are on, as they are by default.
#![expect(clippy::print_stdout, reason = "its one line of output is what it is for")]

use std::time::Duration;

use bench::v1::{EchoRequest, EchoServiceClient, LaterServiceClient};
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
    let line = if config.later {
        let client = LaterServiceClient::new(channel);
        load::run(plan, |_| Later(client.clone())).await
    } else {
        let client = EchoServiceClient::new(channel);
        load::run(plan, |_| Echo(client.clone())).await
    };
    let line = line.map_err(formic::Failure::new)?;
    println!("{line}");
    Ok(())
}
