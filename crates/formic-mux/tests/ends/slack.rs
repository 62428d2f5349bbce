//! Memory that was needed once, or may be needed: it is counted, or given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use formic_core::{Error, Kind, Method};
use formic_mux::codec::frame::data;
use formic_mux::codec::{Type, write};
use formic_mux::{Budget, Limits};
use formic_rpc::{Answer, BoxFuture, Call, Handle};
use futures::StreamExt;
use tokio::time::sleep;

use crate::crowd::accept_little;
use crate::memory::Before;
use crate::raw::Raw;
use crate::rig::*;

/// Takes the first message of a call and no other.
#[derive(Default)]
struct First(Arc<AtomicUsize>);

const FIRST: Method = Method::new("/t.First/Keep", Kind::ClientStream);

impl Handle for First {
    fn method(&self, path: &str) -> Option<Method> {
        (path == FIRST.path()).then_some(FIRST)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let taken = Arc::clone(&self.0);
        Box::pin(async move {
            let mut requests = call.body.into_stream();
            requests.next().await;
            taken.fetch_add(1, Ordering::SeqCst);
            let _kept = requests;
            std::future::pending().await
        })
    }
}

/// What may be held for the pipes, the tasks and what is beside the messages that are counted.
const BESIDE: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn room_for_a_message_that_is_as_long_as_usual_is_counted_and_given_back() {
    const CALLS: u32 = 48;
    for little in [true, false] {
        let (accept, refused) = accept_little(&Arc::default());
        let (mut accept, first) = (Arc::into_inner(accept).unwrap(), First::default());
        let taken = Arc::clone(&first.0);
        accept.handle = Arc::new(first);
        if !little {
            accept.budget = Arc::new(Budget::new(512 << 20));
        }
        let accept = Arc::new(accept);
        let (ours, ..) = served_by(Arc::clone(&accept));
        let mut raw = Raw::greet(ours, Limits::default()).await;
        for id in 1..=CALLS {
            let mut call = Vec::new();
            write::frame(&mut call, Type::Request, id, |out| {
                out.push(0);
                write::varint(out, 1);
                write::bytes(out, FIRST.path().as_bytes());
                write::varint(out, 0);
            });
            for _ in 0..20 {
                write::data(&mut call, id, data::MORE, &[7; 60_000]);
            }
            write::data(&mut call, id, 0, &[7; 10]);
            raw.send(&call).await;
            until("the message to be taken", || taken.load(Ordering::SeqCst) == id as usize).await;
        }
        // It has shown how long its messages are. Now there is little of each, and no more comes.
        let before = Before::now();
        for (flags, length) in [(data::MORE, 40_000), (0, 10)] {
            for id in 1..=CALLS {
                let mut piece = Vec::new();
                write::data(&mut piece, id, flags, &vec![7; length]);
                raw.send(&piece).await;
            }
            sleep(Duration::from_secs(1)).await;
            let held = accept.budget.held();
            assert!(held >= CALLS as usize * 40_000, "{held} are held");
            before.check_now(held + BESIDE);
            // Of whole messages nothing is to be expected any more.
            assert!(flags == data::MORE || held < CALLS as usize * 90_000, "{held} are held");
        }
        assert_eq!(refused.load(Ordering::SeqCst), 0, "what came was refused for what did not");
    }
}
