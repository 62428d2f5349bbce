//! `formic call`: any method with JSON in and JSON out, streams too, found by registry or reflection.

mod fields;
mod record;

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use formic_client::{Client, Config, Observer, Report, Transport};
use formic_core::{Endpoint, Error, Kind, Method, ServiceName, method};
use formic_registry::DynRegistry;
use formic_rpc::{Body, Call, Channel, Codec};
use formic_settings::nearest;
use futures::StreamExt;
use serde_json::Value;
use tokio::time::Instant;

use crate::cli;
use crate::exit::{Failure, Outcome};
use crate::verbs::services::instances;
use crate::{app, output, reflect, signals};
use record::Record;

/// Standard input is read whole before the call; this is the most that is taken.
const MAX_INPUT: u64 = 64 << 20;

pub(crate) async fn run(args: cli::Call) -> Outcome {
    let (service, name) = method::split(&args.method);
    if service.is_empty() || name.is_empty() {
        return Err(Failure::user(format!("{:?} names no method", args.method))
            .help("a method is package.Service/Method, for example shop.product.v1.ProductService/Search"));
    }
    let requests = requests(&args.data)?;
    // From here on: before, the signal ends the reading of standard input, which nothing else can.
    let mut interrupted = signals::interrupt()?;
    tokio::select! {
        outcome = make(&args, service, name, requests) => outcome,
        // What was under way is dropped, which is what cancels a call.
        _ = interrupted.recv() => Err(Failure::interrupted()),
    }
}

/// What the last call travelled over.
#[derive(Default)]
struct Travelled(Mutex<Option<&'static str>>);

impl Observer for Travelled {
    fn on_call(&self, report: &Report<'_>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.transport);
    }
}

async fn make(args: &cli::Call, service: &str, name: &str, requests: Vec<Bytes>) -> Outcome {
    let travelled = Arc::new(Travelled::default());
    let record = args.capture.as_deref().map(Record::begin).transpose()?;
    let mut config = Config { observer: Some(Arc::clone(&travelled) as Arc<dyn Observer>), ..app::calls() };
    if record.is_some() && args.address.is_some() && config.transport == Transport::Auto {
        // Nobody has announced what is spoken there.
        config.transport = Transport::Multiplexed;
    }
    // To find an application has limits of its own; whatever a service is asked has the time that the caller gives.
    let (place, method, deadline) = match &args.address {
        Some(address) => {
            let deadline = Instant::now() + args.timeout;
            let asked = tokio::time::timeout_at(deadline, at_address(config.clone(), address, service, name));
            let (place, method) = asked.await.unwrap_or_else(|_| Err(says_nothing(address).into()))?;
            (place, method, deadline)
        }
        None => {
            let (place, method) = in_app(&args.target, service, name).await?;
            (place, method, Instant::now() + args.timeout)
        }
    };
    let channel = place.channel(config.clone());
    fields::check(&channel, &method, &requests, deadline).await?;
    let mut call = Call::new(method.clone(), Codec::Json, body(&method, requests)?);
    call.deadline = Some(deadline);
    for header in &args.headers {
        let (name, value) = header.split_once(':').ok_or_else(|| {
            Failure::user(format!("the header {header:?} has no colon")).help("-H 'name: value'")
        })?;
        call.metadata
            .append(&name.trim().to_ascii_lowercase(), value.trim())
            .map_err(|error| Failure::user(error.to_string()))?;
    }
    // What was asked on the way here is not of the call.
    let channel = match &record {
        Some(record) => place.channel(Config { capture: Some(record.recording()), ..config }),
        None => channel,
    };
    travelled.forget();
    let outcome = print(&channel, call, args).await;
    let transport = travelled.over();
    if args.verbose
        && let Some(transport) = transport
    {
        output::talk(&format!("transport: {transport}"));
    }
    if let Some(record) = &record {
        record.tell(transport);
    }
    outcome.map_err(|error| {
        show(&error);
        Failure::answered(&error)
    })
}

impl Travelled {
    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn over(&self) -> Option<&'static str> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a method is called.
enum Place {
    At(Endpoint),
    Of(DynRegistry, ServiceName),
}

impl Place {
    fn channel(&self, config: Config) -> Channel {
        match self {
            Self::At(endpoint) => {
                Client::new(Arc::new(formic_registry::Memory::new()), config).at(endpoint.clone())
            }
            Self::Of(registry, service) => Client::new(Arc::clone(registry), config).of(service),
        }
    }
}

async fn print(channel: &Channel, call: Call, args: &cli::Call) -> Result<(), Error> {
    let answer = channel.call(call).await?;
    if args.verbose {
        for (name, value) in answer.metadata.iter() {
            output::talk(&format!("{name}: {value}"));
        }
    }
    let mut messages = answer.body.into_stream();
    while let Some(message) = messages.next().await {
        let message = message?;
        let value: Value = serde_json::from_slice(&message)
            .map_err(|error| Error::internal(format!("the answer is not JSON: {error}")))?;
        if args.json {
            output::line(&value.to_string());
        } else {
            output::line(&format!("{value:#}"));
        }
    }
    Ok(())
}

/// Shows an error that a service answered, in words.
fn show(error: &Error) {
    output::talk(&format!("error: {error}"));
    for field in error.fields() {
        output::talk(&format!("  field {}: {}", field.field, field.description));
    }
    if let Some(info) = error.info() {
        output::talk(&format!("  reason {} ({})", info.reason, info.domain));
        for (key, value) in info.metadata {
            output::talk(&format!("    {key}: {value}"));
        }
    }
    if let Some(resource) = error.resource() {
        output::talk(&format!("  about {} {}", resource.resource_type, resource.resource_name));
    }
    if let Some(after) = error.retry_after() {
        output::talk(&format!("  may succeed in {after:?}"));
    }
}

fn says_nothing(address: &str) -> Error {
    Error::deadline_exceeded(format!("the deadline passed before {address} said what it serves"))
}

async fn at_address(config: Config, address: &str, service: &str, name: &str) -> Outcome<(Place, Method)> {
    let endpoint: Endpoint =
        address.parse().map_err(|error| Failure::user("--address is no address").because(error))?;
    let place = Place::At(endpoint);
    let channel = place.channel(config);
    match reflect::method(&channel, service, name).await {
        Ok(Some(method)) => Ok((place, method)),
        Ok(None) => Err(Failure::user(format!("{service} has no method {name:?}"))),
        Err(error) if error.code() == formic_core::Code::NotFound => {
            let there = reflect::services(&channel).await.unwrap_or_default().join(", ");
            Err(Failure::user(format!("{address} does not serve {service}"))
                .help(format!("it serves {there}")))
        }
        Err(error) => Err(error.into()),
    }
}

async fn in_app(target: &cli::Target, service: &str, name: &str) -> Outcome<(Place, Method)> {
    let app = app::find_here(target, "`formic call` to an instance").await?;
    let all = instances(&app).await?;
    let known = || all.iter().flat_map(|i| i.rpc.iter().map(move |rpc| (i, rpc)));
    let Some((instance, rpc)) = known().find(|(_, rpc)| rpc.name == service) else {
        let failure = Failure::user(format!("no running service serves {service:?}"));
        return Err(match nearest(service, known().map(|(_, rpc)| rpc.name.as_str())) {
            Some(near) => failure.help(format!("did you mean {near}/{name}?")),
            None => failure.help("`formic services` lists what there is"),
        });
    };
    let Some(method) = rpc.methods.iter().find(|method| method.name == name) else {
        let names: Vec<_> = rpc.methods.iter().map(|method| method.name.as_str()).collect();
        let failure = Failure::user(format!("{service} has no method {name:?}"));
        return Err(match nearest(name, names.iter().copied()) {
            Some(near) => failure.help(format!("did you mean {service}/{near}?")),
            None => failure.help(format!("it has {}", names.join(", "))),
        });
    };
    let found = Method::dynamic(format!("/{service}/{name}"), method.kind).idempotent(method.idempotent);
    Ok((Place::Of(app.registry(), instance.service.clone()), found))
}

/// The JSON values of the command line, or of standard input for `-`.
fn requests(data: &[String]) -> Outcome<Vec<Bytes>> {
    let mut values = Vec::new();
    for text in data {
        let text = if text == "-" {
            let mut input = String::new();
            std::io::stdin()
                .lock()
                .take(MAX_INPUT)
                .read_to_string(&mut input)
                .map_err(|error| Failure::user("cannot read standard input").because(error))?;
            input
        } else {
            text.clone()
        };
        for value in serde_json::Deserializer::from_str(&text).into_iter::<&serde_json::value::RawValue>() {
            let value = value.map_err(|error| {
                Failure::user(format!("the request is not JSON: {error}"))
                    .help("quote it for the shell: '{\"text\":\"lamp\"}'")
            })?;
            values.push(Bytes::from(value.get().to_owned()));
        }
    }
    Ok(values)
}

fn body(method: &Method, mut requests: Vec<Bytes>) -> Outcome<Body> {
    if method.kind.client_streams() {
        return Ok(Body::stream(futures::stream::iter(requests.into_iter().map(Ok))));
    }
    if requests.len() > 1 {
        let streams = matches!(method.kind, Kind::ServerStream);
        return Err(Failure::user(format!(
            "{} takes one request{}, but {} were given",
            method.name(),
            if streams { " (it is its answers that stream)" } else { "" },
            requests.len()
        )));
    }
    // A request without fields may be left out.
    Ok(Body::Message(requests.pop().unwrap_or_else(|| Bytes::from_static(b"{}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_values_are_several_requests() {
        let found = requests(&["{\"a\":1} {\"a\":2}".into(), "[]".into()]).expect("valid");
        assert_eq!(found, ["{\"a\":1}", "{\"a\":2}", "[]"]);
        assert!(requests(&["{a:1}".into()]).is_err());
    }
}
