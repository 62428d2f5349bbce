//! What goes together, what of it holds memory, and what comes after it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::future::poll_fn;

use buffa_types::google::protobuf::StringValue;
use futures::StreamExt;

use super::*;
use crate::ByteStream;

fn text(length: usize) -> StringValue {
    StringValue { value: "x".repeat(length), ..Default::default() }
}

fn encoded(length: usize) -> Bytes {
    rt::encode(&text(length), Codec::Proto).unwrap()
}

async fn run<R: Runs + Unpin>(runs: &mut R, most: usize) -> Option<Result<Run, Error>> {
    poll_fn(|cx| Pin::new(&mut *runs).poll_run(cx, most)).await
}

#[tokio::test(start_paused = true)]
async fn every_message_is_what_it_is_alone() {
    let lengths = || (0..3_000).map(|n| if n % 50 == 7 { n * 3 } else { n % 200 });
    for (codec, most) in [(Codec::Proto, 1), (Codec::Proto, 2), (Codec::Proto, 32), (Codec::Json, 32)] {
        // Every seventh has to be waited for.
        let messages = futures::stream::iter(lengths()).then(|length| async move {
            if length % 7 == 0 {
                tokio::task::yield_now().await;
            }
            Ok(text(length))
        });
        let mut encoding = Encoding::new(messages, codec);
        let (mut encoded, mut together) = (Vec::new(), 0);
        while let Some(run) = run(&mut encoding, most).await {
            let run = run.unwrap();
            assert!((1..=most).contains(&run.len()));
            together = together.max(run.len());
            encoded.extend(run);
        }
        assert_eq!(together > 1, codec == Codec::Proto && most > 1);
        assert_eq!(encoded.len(), 3_000);
        for (length, encoded) in lengths().zip(encoded) {
            assert_eq!(encoded, rt::encode(&text(length), codec).unwrap());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn memory_is_held_only_while_messages_come() {
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let mut encoding = Encoding::new(receiver, Codec::Proto);
    for most in [1, 32] {
        for _ in 0..3 {
            sender.unbounded_send(Ok(text(5))).unwrap();
        }
        let mut first = run(&mut encoding, most).await.unwrap().unwrap();
        assert_eq!(first.len(), most.min(3));
        if most == 1 {
            let second = run(&mut encoding, most).await.unwrap().unwrap();
            assert!(encoding.room.capacity() > 0, "the second and the third are in one buffer");
            assert_eq!(second.chain(run(&mut encoding, most).await.unwrap().unwrap()).count(), 2);
        }
        assert!(futures::poll!(poll_fn(|cx| Pin::new(&mut encoding).poll_run(cx, most))).is_pending());
        assert_eq!(encoding.room.capacity(), 0);
        assert!(first.all(|message| message == encoded(5)), "what was given out stays");
    }
    sender.unbounded_send(Err(Error::aborted("by the handler"))).unwrap();
    let error = run(&mut encoding, 32).await.unwrap().unwrap_err();
    assert_eq!(error.code(), formic_core::Code::Aborted);
}

/// One that has nothing beside it asks for no room, and a few hold no more than they take.
#[tokio::test(start_paused = true)]
async fn a_few_messages_hold_no_memory_for_many() {
    for count in 1..20 {
        let (sender, receiver) = futures::channel::mpsc::unbounded();
        (0..count).for_each(|_| sender.unbounded_send(Ok(text(50))).unwrap());
        let mut encoding = Encoding::new(receiver, Codec::Proto);
        let run = run(&mut encoding, 32).await.unwrap().unwrap();
        assert_eq!((run.len(), encoding.room.capacity()), (count, 0));
        // Whoever has the last share in memory can have all of it.
        let held = Vec::from(run.last().unwrap()).capacity();
        assert!(held <= count * (HEAD + encoded(50).len()), "{count} messages hold {held} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn the_room_is_filled_before_there_is_another() {
    let messages = futures::stream::repeat_with(|| Ok(text(100)));
    let mut encoding = Encoding::new(messages, Codec::Proto);
    let mut runs = Vec::new();
    for _ in 0..20 {
        runs.push(run(&mut encoding, 32).await.unwrap().unwrap());
    }
    let (bytes, count) =
        (runs.iter().map(Run::size).sum::<usize>(), runs.iter().map(Run::len).sum::<usize>());
    assert!(count >= 20 * 20, "{count} messages in 20 runs");
    // A new one is where the last does not reach, or may not reach, for another message.
    let mut rooms = 1;
    for pair in runs.windows(2) {
        let (end, start) = (pair[0].frames().unwrap().as_ptr_range().end, pair[1].frames().unwrap().as_ptr());
        rooms += usize::from(end != start);
    }
    assert!(rooms <= bytes.div_ceil(ROOM - SHORT - HEAD), "{rooms} rooms for {bytes} bytes");
}

/// What breaks off in a run does so after what came before, for whoever reads it in whatever way.
#[tokio::test(start_paused = true)]
async fn an_end_of_any_kind_comes_after_the_messages_before_it() {
    for before in 0..40 {
        for how in ["end", "error", "panic"] {
            for most in [1, 32] {
                let messages = futures::stream::iter(0..=before).map(move |n| match how {
                    _ if n < before => Some(Ok(text(n))),
                    "error" => Some(Err(Error::aborted("so"))),
                    "panic" => panic!("so"),
                    _ => None,
                });
                let messages = messages.take_while(|item| std::future::ready(item.is_some()));
                let encoding = Encoding::new(messages.map(Option::unwrap), Codec::Proto);
                let mut stream = ByteStream::of_runs(encoding);
                let mut got = Vec::new();
                let last = loop {
                    let next = AssertUnwindSafe(poll_fn(|cx| stream.poll_run(cx, most)));
                    match futures::FutureExt::catch_unwind(next).await {
                        Ok(Some(Ok(run))) => got.extend(run),
                        Ok(Some(Err(error))) => break error.message().to_owned(),
                        Ok(None) => break "end".to_owned(),
                        Err(_) => break "panic".to_owned(),
                    }
                };
                assert_eq!(last, if how == "error" { "so" } else { how });
                assert_eq!(got, (0..before).map(encoded).collect::<Vec<_>>(), "{how} after {before}");
            }
        }
    }
}

/// What is made slowly is not held back until there is much of it.
#[tokio::test]
async fn a_run_takes_no_more_after_a_millisecond() {
    for (takes, most) in [(LONG / 4, LOOK), (LONG, 2)] {
        let messages = futures::stream::repeat_with(|| {
            let began = Instant::now();
            while began.elapsed() < takes {
                std::hint::spin_loop();
            }
            Ok(text(3))
        });
        let mut encoding = Encoding::new(messages, Codec::Proto);
        for _ in 0..3 {
            let run = run(&mut encoding, 32).await.unwrap().unwrap();
            assert!(run.len() <= most, "{} messages waited for each other", run.len());
        }
    }
}
