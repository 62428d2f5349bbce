//! Plain HTTP to a program that is found by name. What it costs to have no contract: a status and JSON are
//! all there is to go by.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use formic::registry::Instances;
use formic::tokio::io::{AsyncReadExt, AsyncWriteExt};
use formic::tokio::net::TcpStream;
use formic::tokio::time::timeout;
use formic::{Client, Code, Endpoint, Error, Failure, ServiceName};
use serde::de::DeserializeOwned;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The largest answer that is taken.
const MOST: u64 = 64 * 1024;

/// A service that speaks plain HTTP.
pub(crate) struct Plain {
    name: ServiceName,
    /// Its ready instances, followed in the registry.
    instances: Instances,
    next: AtomicUsize,
}

impl Plain {
    pub(crate) fn new(client: &Client, name: &str) -> Result<Self, Failure> {
        let name = ServiceName::new(name)?;
        Ok(Self { instances: client.cache().instances(&name), name, next: AtomicUsize::new(0) })
    }

    /// Gets JSON from one instance after the other in turn; the next one is asked if one cannot be reached.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let instances = self.instances.current();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let mut failed = Error::new(Code::Unavailable, format!("no instance of {} is ready", self.name));
        for at in 0..instances.len() {
            let instance = instances.iter().nth((turn + at) % instances.len());
            let Some(Endpoint::Tcp(address)) = instance.map(|instance| &instance.endpoint) else { continue };
            let host = address.to_string();
            match timeout(PATIENCE, ask(&host, path)).await {
                Ok(Ok(answer)) => return self.read(&answer),
                Ok(Err(error)) => {
                    failed =
                        Error::new(Code::Unavailable, format!("{} at {host} failed: {error}", self.name));
                }
                Err(_) => {
                    failed = Error::new(Code::Unavailable, format!("{} at {host} is too slow", self.name));
                }
            }
        }
        Err(failed)
    }

    fn read<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, Error> {
        let text = String::from_utf8_lossy(answer);
        let broken = |what: &str| Error::internal(format!("the answer of {} {what}", self.name));
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| broken("has no end of its head"))?;
        match head.split(' ').nth(1) {
            Some("200") => serde_json::from_str(body)
                .map_err(|error| broken("is not what was expected").with_source(error)),
            Some("404") => Err(Error::not_found(format!("{} does not know it", self.name))),
            _ => Err(broken("is no success")),
        }
    }
}

/// One request on one connection; the instance ends it when the answer is whole.
async fn ask(host: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(host).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await?;
    Ok(answer)
}
