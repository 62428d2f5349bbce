//! Whose doing it is that a call runs out of time: its caller's, who was in a hurry or had not said all, or the endpoint's.

use std::time::Duration;

use bytes::Bytes;
use formic_client::{Algorithm, Config, State, Traffic};
use formic_core::{Code, Error, Method};
use formic_rpc::Streaming;
use futures::StreamExt;
use tokio::time::Instant;

use crate::server::*;
use crate::streams::{How, Pair, echo, pair_with};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const ALL: [How; 3] = [How::Http, How::Multiplexed, How::InMemory];

impl Pair {
    /// A call without a word about time, or with so much.
    async fn say(&self, within: Option<Duration>) -> Result<String, Error> {
        let mut call = call_of(SAY, "x");
        call.deadline = within.map(|within| Instant::now() + within);
        self.channel.call(call).await.map(text)
    }

    async fn send(&self, method: Method, requests: Streaming<Bytes>) -> Result<(), Error> {
        let streams = method.kind.server_streams();
        let answer = self.channel.call(stream_call(method, requests)).await?;
        if !streams {
            return answer.body.into_message().map(drop);
        }
        let mut answers = answer.body.into_stream();
        while let Some(message) = next(&mut answers).await {
            message?;
        }
        Ok(())
    }

    /// Whether nobody is under suspicion, or worse.
    fn all_well(&self) -> bool {
        let is_well = |which| matches!(self.view_of(which).state, State::Ready | State::Warming);
        is_well(0) && is_well(1)
    }
}

fn of(
    messages: impl IntoIterator<Item = Result<Bytes, Error>, IntoIter: Send + 'static>,
) -> Streaming<Bytes> {
    Streaming::new(futures::stream::iter(messages))
}

fn config(timeout: Duration) -> Config {
    Config { timeout, ..Config::default() }
}

/// A client that has just begun to call takes nobody for faster than he is.
#[tokio::test(start_paused = true)]
async fn a_stranger_in_a_hurry_ejects_nobody_while_a_service_is_new_to_its_caller() {
    let pair = pair_with(How::InMemory, Config::default()).await;
    pair.echoes.iter().for_each(|echo| echo.take(200 * MS));
    for turn in 0..12 {
        // Each kind of call comes to each of the two.
        for _ in 0..2 {
            pair.say(None).await.unwrap();
        }
        for _ in 0..2 {
            assert_eq!(pair.say(Some(100 * MS)).await.unwrap_err().code(), Code::DeadlineExceeded);
        }
        assert!(pair.all_well(), "{turn}: {:?} and {:?}", pair.view(), pair.view_of(1));
        // What is usual is looked at now and then.
        tokio::time::sleep(100 * MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_hangs_from_the_start_is_ejected_by_callers_that_say_nothing_of_time() {
    // The second is what a client may be set up with whose calls take milliseconds.
    for timeout in [5 * SECOND, 200 * MS] {
        let pair = pair_with(How::InMemory, config(timeout)).await;
        pair.echoes[0].take(HOUR);
        let before = pair.echoes[0].calls();
        while pair.view().state != State::Ejected {
            let _ = pair.say(None).await;
            assert!(pair.echoes[0].calls() <= before + 5, "{timeout:?}: {:?}", pair.view());
        }
    }
}

/// Where calls take three of the five seconds that they get, twice what is usual would be more than anybody waits.
#[tokio::test(start_paused = true)]
async fn who_hangs_among_slow_ones_is_ejected_by_callers_that_say_nothing_of_time_and_by_no_hurry() {
    let pair = pair_with(How::InMemory, Config::default()).await;
    pair.echoes.iter().for_each(|echo| echo.take(3 * SECOND));
    // The second is more than half of what calls get by themselves, and less than they take.
    for hurry in [2_000 * MS, 2_600 * MS] {
        for _ in 0..30 {
            pair.say(None).await.unwrap();
        }
        for _ in 0..15 {
            pair.say(Some(hurry)).await.unwrap_err();
        }
        assert!(pair.all_well(), "{hurry:?}: {:?} and {:?}", pair.view(), pair.view_of(1));
    }
    pair.echoes[0].take(HOUR);
    let before = pair.echoes[0].calls();
    while pair.view().state != State::Ejected {
        let _ = pair.say(None).await;
        assert!(pair.echoes[0].calls() <= before + 6, "{:?}", pair.view());
    }
}

#[tokio::test]
async fn who_has_a_whole_request_that_streamed_and_does_not_answer_is_ejected() {
    for how in ALL {
        // Healthy calls must not be late on a busy machine.
        let pair = pair_with(how, config(SECOND)).await;
        pair.echoes[0].take(HOUR);
        let before = pair.echoes[0].calls();
        while pair.view().state != State::Ejected {
            // Each to each.
            for method in [COLLECT, COLLECT, CHAT, CHAT] {
                let _ = pair.send(method, of(["a", "b"].map(|text| Ok(text.into())))).await;
            }
            assert!(pair.echoes[0].calls() < before + 8, "{how:?}: {:?}", pair.view());
        }
    }
}

/// Whoever sends something could have healthy endpoints ejected otherwise.
#[tokio::test]
async fn who_breaks_off_his_own_request_says_nothing_of_the_endpoint() {
    for how in ALL {
        let pair = pair_with(how, Config::default()).await;
        for code in [Code::Internal, Code::Unavailable, Code::DeadlineExceeded] {
            for method in [COLLECT, CHAT].into_iter().cycle().take(15) {
                let broken = of([Ok("a".into()), Err(Error::new(code, "the sender's own"))]);
                let error = pair.send(method, broken).await.unwrap_err();
                assert_eq!(error.code(), code, "{how:?}: {error:?}");
            }
        }
        assert!(pair.all_well(), "{how:?}: {:?} and {:?}", pair.view(), pair.view_of(1));
    }
}

/// A handler that needs a moment for all that was sent has hardly begun then.
#[tokio::test(start_paused = true)]
async fn who_ends_his_request_a_moment_before_its_deadline_is_in_a_hurry() {
    let pair = pair_with(How::InMemory, Config::default()).await;
    pair.echoes.iter().for_each(|echo| echo.take(10 * MS));
    for _ in 0..30 {
        pair.say(None).await.unwrap();
    }
    pair.echoes.iter().for_each(|echo| echo.take(2_000 * MS));
    for _ in 0..12 {
        let slow = futures::stream::once(async {
            tokio::time::sleep(1_000 * MS).await;
            Ok(Bytes::from_static(b"a"))
        });
        let mut call = stream_call(COLLECT, Streaming::new(slow));
        call.deadline = Some(Instant::now() + 1_500 * MS);
        let error = pair.channel.call(call).await.and_then(|answer| answer.body.into_message()).unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
    }
    assert!(pair.all_well(), "{:?} and {:?}", pair.view(), pair.view_of(1));
}

#[tokio::test(start_paused = true)]
async fn who_leaves_most_of_a_short_time_to_the_endpoint_is_in_no_hurry() {
    let pair = pair_with(How::InMemory, Config::default()).await;
    pair.echoes.iter().for_each(|echo| echo.take(10 * MS));
    for _ in 0..30 {
        pair.say(None).await.unwrap();
    }
    pair.echoes[0].take(HOUR);
    let before = pair.echoes[0].calls();
    while pair.view().state != State::Ejected {
        let mut call = stream_call(COLLECT, of([Ok("a".into())]));
        call.deadline = Some(Instant::now() + 200 * MS);
        let _ = pair.channel.call(call).await;
        assert!(pair.echoes[0].calls() <= before + 6, "{:?}", pair.view());
    }
}

/// Servers give calls that say nothing of time less of it than some callers take.
#[tokio::test]
async fn who_has_not_said_all_when_the_time_of_the_server_is_over_says_nothing_of_it() {
    for how in ALL {
        let pair = pair_with(how, config(HOUR)).await;
        let over = || Error::deadline_exceeded("the time that the server gives is over");
        pair.echoes.iter().for_each(|echo| echo.fail_next((0..100).map(|_| over())));
        for method in [COLLECT, COLLECT, CHAT, CHAT].into_iter().cycle().take(28) {
            let open = futures::stream::iter([Ok("a".into())]).chain(futures::stream::pending());
            let error = pair.send(method, Streaming::new(open)).await.unwrap_err();
            assert_eq!(error.code(), Code::DeadlineExceeded, "{how:?}: {error:?}");
        }
        assert!(pair.all_well(), "{how:?}: {:?} and {:?}", pair.view(), pair.view_of(1));
        // Where all was said it is the endpoint's.
        within("one to be ejected", async {
            while [0, 1].iter().all(|&which| pair.view_of(which).state != State::Ejected) {
                pair.echoes[1].script.lock().unwrap().clear();
                let _ = pair.send(COLLECT, of([Ok("a".into())])).await;
            }
        })
        .await;
    }
}

/// It is not ejected, for it may be waiting for more; but who begins answers gets the calls.
#[tokio::test(start_paused = true)]
async fn who_hangs_is_not_preferred_for_that_its_callers_keep_their_requests_open() {
    let traffic = Traffic { policy: Algorithm::P2c, ..Traffic::default() };
    let services = [(echo(), traffic)].into_iter().collect();
    let pair = pair_with(How::InMemory, Config { services, ..Config::default() }).await;
    pair.echoes[0].take(HOUR);
    let before = pair.echoes[0].calls();
    for _ in 0..40 {
        let open = futures::stream::iter([Ok(Bytes::from_static(b"a"))]).chain(futures::stream::pending());
        match pair.channel.call(stream_call(CHAT, Streaming::new(open))).await {
            Ok(answer) => _ = next(&mut answer.body.into_stream()).await.unwrap().unwrap(),
            Err(error) => assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}"),
        }
    }
    let asked = pair.echoes[0].calls() - before;
    assert!((1..=8).contains(&asked), "{asked}: {:?} and {:?}", pair.view(), pair.view_of(1));
}

/// Which of two is faster would be told by who happened to send to them otherwise.
#[tokio::test(start_paused = true)]
async fn what_a_sender_takes_is_not_what_the_endpoint_takes() {
    let pair = pair_with(How::InMemory, config(HOUR)).await;
    pair.echoes.iter().for_each(|echo| echo.take(10 * MS));
    for _ in 0..6 {
        let slow = futures::stream::iter(0..3).then(|_| async {
            tokio::time::sleep(2 * SECOND).await;
            Ok(Bytes::from_static(b"a"))
        });
        pair.send(COLLECT, Streaming::new(slow)).await.unwrap();
    }
    // Nor what one takes who goes away before he has said anything.
    for _ in 0..6 {
        let silent = pair.send(COLLECT, Streaming::new(futures::stream::pending()));
        assert!(tokio::time::timeout(5 * SECOND, silent).await.is_err());
    }
    for which in [0, 1] {
        let view = pair.view_of(which);
        assert!(view.latency_ms < 100.0, "{view:?}");
    }
}
