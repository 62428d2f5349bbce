//! Calls that wait at the door.

use std::sync::Arc;
use std::time::Duration;

use formic_core::Error;
use formic_mux::codec::frame::request::{MESSAGE, MORE};
use formic_mux::codec::write;
use formic_mux::machine::Request;
use formic_mux::server::door::{Door, Entrance, Place};
use formic_mux::{Accept, Limits};
use formic_rpc::{Call, Peer};
use tokio::time::{Instant, sleep};

use crate::raw::{Raw, request};
use crate::rig::*;

/// Has every call wait for a moment.
struct Later;

struct Free;

impl Door for Later {
    fn ask(&self, _: &Request, _: Option<&Peer>) -> Entrance {
        Entrance::Wait(Box::pin(async {
            sleep(Duration::from_millis(50)).await;
            let place: Result<Box<dyn Place>, Error> = Ok(Box::new(Free));
            place
        }))
    }
}

impl Place for Free {
    fn until(&self) -> Instant {
        Instant::now() + Duration::from_secs(1000)
    }

    fn give_up(&self) {}

    fn begin(self: Box<Self>, _: &mut Call) {}
}

fn with_door(door: impl Door + 'static) -> Arc<Accept> {
    let mut accept = Arc::into_inner(accept(&Arc::default(), Limits::default())).unwrap();
    accept.door = Some(Arc::new(door));
    Arc::new(accept)
}

#[tokio::test(start_paused = true)]
async fn the_turn_of_the_first_call_is_heard() {
    let (ours, ..) = served_by(with_door(Later));
    let mut raw = Raw::greet(ours, Limits::default()).await;
    let began = Instant::now();
    // All of it comes at once, and nothing after it.
    let mut bytes = request(1, "/t.Echo/Say", Some(Duration::from_secs(10)), MESSAGE | MORE, &[1; 10]);
    write::data(&mut bytes, 1, 2, &[1; 10]);
    raw.send(&bytes).await;
    assert_eq!(raw.end_of(1).await, None);
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}
