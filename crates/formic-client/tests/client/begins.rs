//! What becomes of endpoints that do not begin an answer that streams, while nobody has said until when they should.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use formic_client::{Config, Observer, Report, State};
use formic_core::{Code, Error};
use formic_rpc::{Call, Next};

use crate::server::*;
use crate::streams::{How, Pair, READ, pair_with};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);
const ALL: [How; 3] = [How::Http, How::Multiplexed, How::InMemory];

fn config(timeout: Duration) -> Config {
    Config { timeout, ..Config::default() }
}

/// Asks for streams that nobody says anything of until the first endpoint is out; it was asked so often.
async fn until_out(pair: &Pair) -> usize {
    let before = pair.echoes[0].calls();
    formic_testing::in_time("it to be ejected", Duration::from_secs(30), async {
        while pair.view().state != State::Ejected {
            if let Err(error) = pair.read().await {
                assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
            }
        }
    })
    .await;
    pair.echoes[0].calls() - before
}

#[tokio::test]
async fn who_does_not_begin_a_stream_in_the_time_that_is_given_by_default_does_not_answer() {
    for how in ALL {
        // Where the clock is a real one, an answer that comes as it should must not be late on a busy machine.
        let pair = pair_with(how, config(1_000 * MS)).await;
        pair.echoes[0].take(HOUR);
        let asked = until_out(&pair).await;
        assert!((5..=7).contains(&asked), "{how:?}: {asked}: {:?}", pair.view());
        assert!(pair.view().reason.unwrap().contains("calls failed"));
        assert_eq!(pair.view_of(1).state, State::Ready, "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn interceptors_change_nothing_about_it() {
    let between = |call: Call, next: Next| next.run(call);
    let config = Config { interceptors: vec![Arc::new(between)], ..config(300 * MS) };
    let pair = pair_with(How::InMemory, config).await;
    pair.echoes[0].take(HOUR);
    assert_eq!(until_out(&pair).await, 5, "{:?}", pair.view());
}

/// Its clock began before this one.
#[tokio::test(start_paused = true)]
async fn whoever_is_above_may_be_the_first_to_give_up() {
    // A server above that gives its own calls as much time as this client does, and calls somebody else first.
    for (given, is_out) in [(4_900 * MS, true), (4_400 * MS, true), (4_200 * MS, false)] {
        let pair = pair_with(How::InMemory, config(5_000 * MS)).await;
        pair.echoes[0].take(HOUR);
        for _ in 0..12 {
            let _ = tokio::time::timeout(given, pair.read()).await;
        }
        let view = pair.view();
        assert_eq!(matches!(view.state, State::Ejected | State::Probing), is_out, "{given:?}: {view:?}");
    }
    // Who leaves where calls are known to take longer is in a hurry still.
    let pair = pair_with(How::InMemory, config(5_000 * MS)).await;
    pair.echoes.iter().for_each(|echo| echo.take(4_800 * MS));
    for _ in 0..30 {
        pair.read().await.unwrap();
    }
    for _ in 0..12 {
        assert!(tokio::time::timeout(4_500 * MS, pair.read()).await.is_err());
    }
    let states = [pair.view().state, pair.view_of(1).state];
    assert!(!states.contains(&State::Ejected) && !states.contains(&State::Suspect), "{states:?}");
}

#[tokio::test]
async fn who_goes_before_a_stream_begins_says_nothing() {
    for how in ALL {
        let pair = pair_with(how, config(HOUR)).await;
        pair.echoes.iter().for_each(|echo| echo.take(HOUR));
        for _ in 0..16 {
            let asked = tokio::time::timeout(20 * MS, pair.read()).await;
            assert!(asked.is_err(), "{how:?}: nothing begins");
        }
        let states = [pair.view().state, pair.view_of(1).state];
        assert_eq!(states, [State::Ready; 2], "{how:?}");
    }
}

/// A stream that fails before its first message is begun again elsewhere, with as much time as before.
#[tokio::test(start_paused = true)]
async fn who_does_not_begin_a_stream_again_does_not_answer_either() {
    let pair = pair_with(How::InMemory, config(300 * MS)).await;
    *pair.echoes[0].falls.lock().unwrap() = Some((0, Error::unavailable("broken")));
    pair.echoes[1].take(HOUR);
    let (before, calls) = (pair.view_of(1).calls, pair.echoes[1].calls());
    let mut again = 0;
    for _ in 0..4 {
        let error = pair.read().await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
        again += usize::from(error.message().contains("began again"));
    }
    let view = pair.view_of(1);
    assert_eq!((pair.echoes[1].calls() - calls, again), (4, 4), "each of them came to it in the end");
    let failed = (view.calls as f64 * (1.0 - view.success_rate.unwrap())).round();
    assert_eq!((view.calls - before, failed), (4, 4.0), "{view:?}");
}

#[derive(Default)]
struct Codes(Mutex<Vec<Option<Code>>>);

impl Observer for Codes {
    fn on_call(&self, report: &Report<'_>) {
        self.0.lock().unwrap().push(report.code);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_did_not_begin_in_time_is_told_as_too_late_and_one_that_its_caller_left_as_left() {
    let codes = Arc::new(Codes::default());
    let config = Config { observer: Some(Arc::clone(&codes) as Arc<dyn Observer>), ..config(300 * MS) };
    let pair = pair_with(How::InMemory, config).await;
    codes.0.lock().unwrap().clear();
    // It goes on for longer than it would have had to begin.
    let mut stream = pair.channel.call(call_of(TICK, "")).await.unwrap().body.into_stream();
    for _ in 0..30 {
        next(&mut stream).await.unwrap().unwrap();
    }
    drop(stream);
    pair.echoes.iter().for_each(|echo| echo.take(HOUR));
    pair.channel.call(call_of(READ, "x")).await.unwrap_err();
    let _ = tokio::time::timeout(100 * MS, pair.channel.call(call_of(READ, "x"))).await;
    let told = codes.0.lock().unwrap().clone();
    assert_eq!(told, [Code::Canceled, Code::DeadlineExceeded, Code::Canceled].map(Some));
}
