//! `formic metrics`: what the engine answers to Prometheus, from its socket.

use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::app::{self, SOCKET, STATE};
use crate::cli::Metrics;
use crate::exit::{Failure, Outcome};
use crate::output;

/// A scrape reads a few files for each instance.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: Metrics) -> Outcome {
    let app = app::find(&args.target).await?;
    if let Some(remote) = &app.remote {
        output::data(&remote.get("/metrics", PATIENCE).await?);
        return Ok(());
    }
    let failed = |error: std::io::Error| Failure::unreachable("the engine does not answer").because(error);
    let answer = tokio::time::timeout(PATIENCE, scrape(app.folder.join(STATE))).await;
    let answer = answer.map_err(|_| Failure::unreachable("the engine does not answer in time"))?;
    let answer = answer.map_err(failed)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => output::data(body),
        _ => return Err(Failure::bug("the engine answered something else than metrics")),
    }
    Ok(())
}

/// The whole answer.
async fn scrape(state: PathBuf) -> std::io::Result<String> {
    // A socket's path has room for some hundred bytes: long ones are reached through their folder.
    let folder = std::fs::File::open(state)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(SOCKET);
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: formic\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
