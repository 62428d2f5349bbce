//! The load that every caller makes: so many callers, each with one call at a time, for so long.
//!
//! Every latency is kept and sorted at the end, since percentiles read from a histogram's buckets cannot
//! tell a 10 % difference at p99 from its own rounding.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

/// What is sent and must come back.
pub const PAYLOAD: [u8; 64] = *b"sixty-four bytes that go there and come back again, as they are.";

/// Once a caller fails, it waits this long, so that a dead server is not hammered.
const PAUSE: Duration = Duration::from_millis(1);

/// One caller.
pub trait Caller: Send + 'static {
    /// Makes one call and checks the answer.
    fn call(&mut self) -> impl Future<Output = Result<(), String>> + Send;
}

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Callers at a time.
    pub callers: usize,
    /// How long calls are made before the clock starts: connections, caches, allocators.
    pub warm_up: Duration,
    /// How long is measured.
    pub measured: Duration,
}

/// Whether an answer is what was sent.
///
/// # Errors
/// If it is not, in words.
pub fn check(answer: &[u8]) -> Result<(), String> {
    if answer == PAYLOAD {
        Ok(())
    } else {
        Err(format!("{} bytes came back, but not those that were sent", answer.len()))
    }
}

/// What one caller saw.
#[derive(Default)]
struct Seen {
    /// In units of 100 ns, of the calls within the measured time.
    latencies: Vec<u32>,
    /// Calls that were answered, before the clock started too.
    answered: u64,
    errors: u64,
    first_error: Option<String>,
}

/// Runs the load and says how it went, as a line of JSON.
///
/// # Errors
/// If a caller panicked.
pub async fn run<C: Caller>(plan: Plan, caller: impl Fn(usize) -> C) -> Result<String, String> {
    let start = Instant::now() + plan.warm_up;
    let end = start + plan.measured;
    let mut callers = JoinSet::new();
    for index in 0..plan.callers {
        callers.spawn(one(caller(index), start, end));
    }
    tokio::time::sleep_until(start.into()).await;
    let before = crate::cpu::used(std::process::id());
    tokio::time::sleep_until(end.into()).await;
    let used = crate::cpu::used(std::process::id()).zip(before).map(|(after, before)| after - before);

    let mut all = Seen::default();
    while let Some(seen) = callers.join_next().await {
        let seen = seen.map_err(|error| format!("a caller broke: {error}"))?;
        all.latencies.extend(seen.latencies);
        all.answered += seen.answered;
        all.errors += seen.errors;
        all.first_error = all.first_error.or(seen.first_error);
    }
    all.latencies.sort_unstable();
    Ok(line(&all, plan.measured, used))
}

async fn one<C: Caller>(mut caller: C, start: Instant, end: Instant) -> Seen {
    let mut seen = Seen { latencies: Vec::with_capacity(1 << 14), ..Seen::default() };
    let mut began = Instant::now();
    while began < end {
        let outcome = caller.call().await;
        let now = Instant::now();
        match outcome {
            Ok(()) => {
                seen.answered += 1;
                if began >= start && now <= end {
                    let took = (now - began).as_nanos() / 100;
                    seen.latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
                }
            }
            Err(error) => {
                seen.errors += 1;
                seen.first_error.get_or_insert(error);
                tokio::time::sleep(PAUSE).await;
            }
        }
        began = now;
    }
    seen
}

/// By hand, so that the peers need no JSON for it.
fn line(seen: &Seen, measured: Duration, used: Option<Duration>) -> String {
    let calls = seen.latencies.len();
    let rps = calls as f64 / measured.as_secs_f64();
    let percentile = |share: f64| {
        let rank = (calls as f64 * share).ceil() as usize;
        seen.latencies.get(rank.saturating_sub(1)).map_or(0.0, |&tenths| f64::from(tenths) / 10.0)
    };
    let cpu = match used {
        Some(used) if calls > 0 => format!("{:.2}", used.as_secs_f64() * 1e6 / calls as f64),
        _ => "null".into(),
    };
    let error = seen.first_error.as_ref().map_or("null".into(), |error| format!("{:?}", plain(error)));
    format!(
        "{{\"calls\":{calls},\"answered\":{},\"errors\":{},\"first_error\":{error},\"rps\":{rps:.1},\
         \"p50_us\":{:.1},\"p99_us\":{:.1},\"client_cpu_us\":{cpu}}}",
        seen.answered,
        seen.errors,
        percentile(0.50),
        percentile(0.99),
    )
}

/// Text whose Rust form is JSON too.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).collect()
}

/// Resolves once the standard input is at its end: the bench holds the other end of it, and whoever
/// serves it is not to outlive it, however it ends.
pub async fn parent_gone() {
    let (gone, heard) = tokio::sync::oneshot::channel();
    // A thread of its own: a runtime cannot give up a read of its own standard input.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = gone.send(());
    });
    // The thread sends before it ends.
    let _ = heard.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Every(u32, u32);

    impl Caller for Every {
        async fn call(&mut self) -> Result<(), String> {
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.1 += 1;
            if self.1.is_multiple_of(self.0) { Err("a \"bad\" one".into()) } else { check(&PAYLOAD) }
        }
    }

    #[tokio::test]
    async fn calls_errors_and_latencies_are_counted() {
        let (warm_up, measured) = (Duration::from_millis(50), Duration::from_millis(1_500));
        let plan = Plan { callers: 4, warm_up, measured };
        let line = run(plan, |_| Every(10, 0)).await.expect("no caller breaks");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let number = |name: &str| value[name].as_f64().expect("a number");
        assert!(number("calls") > 40.0 && number("answered") > number("calls"), "{line}");
        assert!(number("errors") >= 4.0, "{line}");
        assert_eq!(value["first_error"], "a \"bad\" one");
        assert!(number("p50_us") >= 1000.0 && number("p99_us") >= number("p50_us"), "{line}");
        assert!((number("rps") - number("calls") / 1.5).abs() < 1.0, "{line}");
    }

    #[test]
    fn another_answer_is_an_error() {
        assert!(check(&PAYLOAD).is_ok());
        assert!(check(&PAYLOAD[1..]).is_err());
    }

    #[test]
    fn percentiles_are_ranks() {
        let seen = Seen { latencies: (1..=1000).map(|ms| ms * 10_000).collect(), ..Seen::default() };
        let line = line(&seen, Duration::from_secs(1), None);
        assert!(line.contains("\"p50_us\":500000.0,\"p99_us\":990000.0,\"client_cpu_us\":null"), "{line}");
    }
}
