//! The ways to ask an instance whether it is ready.

use std::net::SocketAddr;
use std::time::Duration;

use formic_client::{Client, Protocol};
use formic_core::{Endpoint, Error, Kind, Method};
use formic_rpc::{Body, Call, Channel, Codec};
use formic_spec::Probe;
use formic_supervise::{Beside, Process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::log::Line;
use crate::engine::Probing;

/// How an instance is asked, with what is kept between one time and the next.
pub(crate) enum Way {
    /// `grpc.health.v1`. The last address and the way to it are kept, so that a probe does not dial anew.
    Grpc { client: Client, known: Option<(Endpoint, Channel)> },
    /// A page.
    Http,
    /// A connection.
    Tcp,
    /// A command beside it.
    Exec { command: Beside, process: Process, told: bool },
    /// A line that it writes.
    Log(Line),
    /// Not at all.
    None,
    /// It cannot be asked: it is gone, or nothing says what to run.
    Never,
}

impl Way {
    /// For an instance. `client` is for those of Formic; any other program speaks plain gRPC.
    pub(crate) fn of(probing: &Probing, process: Option<Process>, client: &Client) -> Self {
        match probing.health.ready {
            Probe::Grpc => {
                let foreign = || {
                    let config = formic_client::Config {
                        protocol: Protocol::Grpc,
                        ..formic_client::Config::default()
                    };
                    Client::without_registry(config)
                };
                let client = if probing.port.is_some() { foreign() } else { client.clone() };
                Self::Grpc { client, known: None }
            }
            Probe::Http => Self::Http,
            Probe::Tcp => Self::Tcp,
            Probe::Exec => match (probing.command.clone(), process) {
                (Some(command), Some(process)) => Self::Exec { command, process, told: false },
                _ => Self::Never,
            },
            Probe::Log => {
                let files = [probing.output.stdout.clone(), probing.output.stderr.clone()];
                Self::Log(Line::new(files, &probing.health.line))
            }
            Probe::None => Self::None,
        }
    }

    /// Whether there is an answer whose time says something of the instance.
    pub(super) fn is_answered(&self) -> bool {
        !matches!(self, Self::Log(_) | Self::None | Self::Never)
    }

    /// Whether it has to be known where the instance answers.
    pub(super) fn needs_endpoint(&self) -> bool {
        matches!(self, Self::Grpc { .. } | Self::Http | Self::Tcp)
    }

    /// Asks once.
    pub(super) async fn ask(&mut self, endpoint: Option<Endpoint>, path: &str, limit: Duration) -> bool {
        match (self, endpoint) {
            (Self::Grpc { client, known }, Some(endpoint)) => {
                serving(client, known, endpoint, limit).await.unwrap_or(false)
            }
            (Self::Tcp, Some(Endpoint::Tcp(addr))) => TcpStream::connect(addr).await.is_ok(),
            (Self::Http, Some(Endpoint::Tcp(addr))) => http(addr, path).await.unwrap_or(false),
            (Self::Exec { command, process, told }, _) => match command.run(process, limit).await {
                Ok(success) => success,
                Err(error) => {
                    if !*told {
                        *told = true;
                        tracing::warn!(instance = %process.id(), %error, "cannot run the probe's command");
                    }
                    false
                }
            },
            (Self::Log(line), _) => line.was_written().await,
            (Self::None, _) => true,
            _ => false,
        }
    }
}

/// `grpc.health.v1`: an empty request asks for the whole server, and `08 01` is SERVING. Two fixed
/// messages of a few bytes are no reason to generate code for them here.
async fn serving(
    client: &Client,
    known: &mut Option<(Endpoint, Channel)>,
    endpoint: Endpoint,
    limit: Duration,
) -> Result<bool, Error> {
    let method = Method::new("/grpc.health.v1.Health/Check", Kind::Unary);
    let mut call = Call::new(method, Codec::Proto, Body::Message(bytes::Bytes::new()));
    call.deadline = Some(Instant::now() + limit);
    let channel = match known {
        Some((known, channel)) if *known == endpoint => channel.clone(),
        _ => {
            let channel = client.at(endpoint.clone());
            known.insert((endpoint, channel)).1.clone()
        }
    };
    let answer = channel.call(call).await?;
    Ok(answer.body.into_message()?[..] == [0x08, 0x01])
}

/// A GET whose status is 2xx or 3xx.
async fn http(addr: SocketAddr, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(addr).await?;
    let path = if path.is_empty() { "/" } else { path };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: formic-probe\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    // "HTTP/1.1 200" is all that matters.
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(head.starts_with(b"HTTP/1.") && matches!(head[9], b'2' | b'3'))
}
