//! A server hangs up on a connection without calls, or dies, and is called again: the caller sees nothing of it.

use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use formic_client::{Client, Config, Transport};
use formic_core::Endpoint;
use formic_registry::Memory;
use formic_rpc::Channel;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::server::*;

async fn channel(endpoint: &Endpoint) -> (Client, Channel) {
    let registry = Memory::new();
    register_mux(&registry, "one", endpoint).await;
    // A process that was started this moment may be long over its first greeting.
    let connect_timeout = Duration::from_secs(10);
    let config = Config { transport: Transport::Multiplexed, connect_timeout, ..Config::default() };
    let client = Client::new(std::sync::Arc::new(registry), config);
    let channel = client.of("echo");
    (client, channel)
}

async fn say(channel: &Channel, round: u32) {
    let said = within("a call", channel.call(call_of(SAY, round.to_string()))).await;
    let said = said.unwrap_or_else(|error| panic!("call {round}: {error:?}"));
    assert_eq!(text(said), round.to_string());
}

#[tokio::test]
async fn a_connection_that_was_closed_for_want_of_calls_is_made_anew_for_the_next() {
    let idle = Duration::from_millis(20);
    let folder = Folder::new("idle");
    let (over_tcp, over_unix) = (Echo::new(), Echo::new());
    let socket = folder.0.join("socket");
    let servers =
        [Server::start_mux_idle(&over_tcp, idle).await, Server::start_unix_idle(&over_unix, &socket, idle)];
    for server in servers {
        let (_client, channel) = channel(&server.endpoint).await;
        for round in 1..=5 {
            say(&channel, round).await;
            until("the server to hang up", || server.open() == 0).await;
            assert!(server.accepted.load(Ordering::SeqCst) >= round as usize);
        }
        // Calls that come as it hangs up are in time, or are told that they were not taken.
        for round in 1..=60 {
            tokio::time::sleep(Duration::from_micros(fastrand::u64(15_000..25_000))).await;
            say(&channel, round).await;
        }
        assert!(server.accepted.load(Ordering::SeqCst) > 6, "it hung up now and then");
        assert_eq!(server.echo.calls(), 65, "no handler has seen a call twice");
        assert!(server.echo.attempts().iter().all(Option::is_none));
    }
}

/// Says of this very program that it is to serve, and where.
const SERVE: &str = "FORMIC_TEST_SERVES_AT";

/// A server in a process of its own, which is killed when this is dropped.
struct Apart {
    child: Child,
    endpoint: Endpoint,
}

impl Apart {
    async fn start(at: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "idle::serves_when_it_is_told_to", "--nocapture"]).env(SERVE, at);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut says = BufReader::new(child.stdout.take().unwrap()).lines();
        let at = within("the server to say where it is", async {
            loop {
                let line = says.next_line().await.unwrap().expect("it goes on");
                // The test harness may have begun the line.
                if let Some((_, at)) = line.split_once("serves at ") {
                    return at.to_owned();
                }
            }
        });
        let endpoint = at.await.parse().unwrap();
        Self { child, endpoint }
    }

    /// By the signal that nothing can answer.
    async fn kill(mut self) {
        within("the server to die", self.child.kill()).await.unwrap();
    }
}

/// No test, but the other process of one.
#[tokio::test]
async fn serves_when_it_is_told_to() {
    let Ok(at) = std::env::var(SERVE) else { return };
    let server = Server::start_mux_at(&Echo::new(), at.parse().unwrap()).await;
    let line = format!("serves at {}\n", server.addr());
    tokio::io::stdout().write_all(line.as_bytes()).await.unwrap();
    tokio::io::stdout().flush().await.unwrap();
    // Whoever started it kills it; this is for when that one was killed itself.
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_server_that_was_killed_and_is_back_is_called_as_if_nothing_had_been() {
    let mut server = Apart::start("127.0.0.1:0").await;
    let at = server.endpoint.to_string();
    let (_client, channel) = channel(&server.endpoint).await;
    for round in 1..=5 {
        say(&channel, round).await;
        server.kill().await;
        server = Apart::start(&at).await;
    }
    say(&channel, 6).await;
    server.kill().await;
    let call = async || within("a call", channel.call(call_of(SAY, "nobody"))).await.unwrap_err();
    // The first may have gone out before the end of the connection was seen.
    let errors = [call().await, call().await];
    assert!(errors[1].is_unsent(), "nobody is there, and so it was not sent: {errors:?}");
}
