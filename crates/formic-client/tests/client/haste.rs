//! Whose doing it is that a call runs out of time: its caller's, who was in a hurry or had not said all, or the endpoint's.

use std::time::Duration;

use formic_client::{Config, State};
use formic_core::{Code, Error};
use tokio::time::Instant;

use crate::server::*;
use crate::streams::{How, Pair, pair_with};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

impl Pair {
    /// A call without a word about time, or with so much.
    async fn say(&self, within: Option<Duration>) -> Result<String, Error> {
        let mut call = call_of(SAY, "x");
        call.deadline = within.map(|within| Instant::now() + within);
        self.channel.call(call).await.map(text)
    }

    /// Whether nobody is under suspicion, or worse.
    fn all_well(&self) -> bool {
        let is_well = |which| matches!(self.view_of(which).state, State::Ready | State::Warming);
        is_well(0) && is_well(1)
    }
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
    for _ in 0..30 {
        pair.say(None).await.unwrap();
    }
    for _ in 0..30 {
        pair.say(Some(2 * SECOND)).await.unwrap_err();
    }
    assert!(pair.all_well(), "{:?} and {:?}", pair.view(), pair.view_of(1));
    pair.echoes[0].take(HOUR);
    let before = pair.echoes[0].calls();
    while pair.view().state != State::Ejected {
        let _ = pair.say(None).await;
        assert!(pair.echoes[0].calls() <= before + 6, "{:?}", pair.view());
    }
}
