//! `kill -9` of either end while calls are made: a server that is killed again and again under callers who check every
//! answer, and beside them callers who are killed themselves. `cargo xtask bench wire` does the same for longer.
//!
//! Both are processes of their own, and die wherever they are: in the middle of a frame, of a write, of an answer.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and says what it saw")]

use std::process::Stdio;
use std::time::Duration;

use formic::tokio;
use formic::tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use formic::tokio::process::{Child, ChildStdout, Command};
use formic::tokio::time::{Instant, sleep, timeout};
use formic_bench::storm::{Begun, Plan};

/// Of a round.
const CALLS: u64 = 30_000;

/// How often each end is killed at least, and how many rounds there are for that. `FORMIC_KILLED_SECONDS` makes it longer.
const KILLS: u32 = 4;
const MOST_ROUNDS: u64 = 40;

/// A process of the storm; killed when it is dropped.
fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-storm"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

/// A server that says where it listens, and in the end how it went.
struct Server {
    child: Child,
    says: Lines<BufReader<ChildStdout>>,
    at: String,
}

/// The port of a server that was killed may take a moment.
async fn serve(at: &str) -> Server {
    for _ in 0..100 {
        let mut child = start(&["serve", at]);
        let mut says = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = timeout(Duration::from_secs(30), says.next_line()).await.expect("it says something");
        if let Some(at) = said.unwrap().filter(|said| said.parse::<std::net::SocketAddr>().is_ok()) {
            return Server { child, says, at };
        }
        child.wait().await.unwrap();
        sleep(Duration::from_millis(50)).await;
    }
    panic!("no server on {at}");
}

async fn kill(mut child: Child) {
    // The signal that nothing can answer.
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_end_is_killed_no_call_hangs_and_no_answer_goes_astray() {
    let seconds = std::env::var("FORMIC_KILLED_SECONDS").map_or(0, |seconds| seconds.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut server = serve("127.0.0.1:0").await;
    let at = server.at.clone();
    let upstream = at.parse().unwrap();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut servers, mut callers, mut rounds) = (0, 0, 0);
    let (mut answered, mut lost, mut requests) = (0, 0, 0);
    // On a fast machine the calls are over before there were enough kills: then there are more calls, but not for ever.
    while rounds < MOST_ROUNDS && (servers < KILLS || callers < KILLS || lost == 0 || answered <= CALLS / 10)
        || Instant::now() < end
    {
        rounds += 1;
        let plan = Plan { calls: CALLS, callers: 128, seed: seed ^ rounds };
        // Cuts are the other test's: here the ends themselves break the connections.
        let counting = tokio::spawn(Begun::begin(upstream, plan, false).await.unwrap().run());
        while !counting.is_finished() {
            let beside = start(&["call", &at, "100000000", "32", &random.u32(..).to_string()]);
            sleep(Duration::from_micros(random.u64(20_000..250_000))).await;
            if random.bool() {
                kill(server.child).await;
                servers += 1;
                server = serve(&at).await;
                sleep(Duration::from_micros(random.u64(0..250_000))).await;
            }
            kill(beside).await;
            callers += 1;
        }
        // An error is a call that hung, an answer that is another's, or a number that was answered twice.
        let said = timeout(Duration::from_secs(120), counting).await.expect("it ends").unwrap().unwrap();
        println!("{said}, {servers} servers and {callers} callers killed");
        let seen: serde_json::Value = serde_json::from_str(&said).unwrap();
        answered += seen["answered"].as_u64().unwrap();
        lost += seen["lost"].as_u64().unwrap();
        requests += seen["requests_seen"].as_u64().unwrap();
    }
    assert!(servers >= KILLS && callers >= KILLS, "{servers} servers and {callers} callers were killed");
    assert!(answered > CALLS / 10 && lost > 0, "{answered} answered, {lost} lost");
    // A server that comes back is not taken for one that speaks HTTP alone.
    assert!(requests >= answered, "{requests} requests were multiplexed, {answered} calls answered");
    // The last server lived through callers that were killed: it ends by itself once all of their handlers have ended.
    drop(server.child.stdin.take());
    let said = timeout(Duration::from_secs(60), server.says.next_line()).await.expect("every handler ends");
    assert_eq!(said.unwrap().as_deref(), Some("every handler ended"));
    assert!(timeout(Duration::from_secs(10), server.child.wait()).await.expect("it ends").unwrap().success());
}
