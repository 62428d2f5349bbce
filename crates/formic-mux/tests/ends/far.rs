//! Ends that are far from each other: a way that takes its time, and lets through what one can say.

use std::time::Duration;

use bytes::Bytes;
use formic_mux::client::connect;
use formic_mux::{Limits, Sender};
use formic_rpc::ByteStream;
use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::rig::*;

/// One way between towns.
const ONE_WAY: Duration = Duration::from_millis(10);

const SECOND: Duration = Duration::from_secs(1);

/// What is read comes out so much later.
async fn relay(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let (sender, mut on_its_way) = mpsc::unbounded_channel();
    let reading = async {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            sender.send((Instant::now() + ONE_WAY, bytes[..count].to_vec())).unwrap();
        }
        drop(sender);
    };
    let writing = async {
        while let Some((due, bytes)) = on_its_way.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(reading, writing);
}

/// Both ends, and what is between them.
async fn far() -> (Sender, JoinSet<()>) {
    let (far, ..) = served(&Default::default(), Limits::default());
    let (ours, near) = tokio::io::duplex(64 << 10);
    let (mut ways, (from_us, to_us), (from_them, to_them)) =
        (JoinSet::new(), tokio::io::split(near), tokio::io::split(far));
    ways.spawn(relay(from_us, to_them));
    ways.spawn(relay(from_them, to_us));
    (connect(ours, "far".into(), &with()).await.unwrap(), ways)
}

/// How much comes of an answer in a second.
async fn read(answers: &mut ByteStream) -> usize {
    let (end, mut came) = (Instant::now() + SECOND, 0);
    while Instant::now() < end {
        came += within("a message", answers.next()).await.unwrap().unwrap().len();
    }
    came
}

/// What would come in a second with the credit of the beginning, once there and back.
const BEGINNING: usize = (512 << 10) * 50;

#[tokio::test(start_paused = true)]
async fn a_long_way_is_filled() {
    let (sender, _ways) = far().await;
    let mut answers = stream(&sender, "/t.Echo/Endless", Some(Bytes::new()), None).await.unwrap();
    let came = read(&mut answers).await;
    assert!(came > 3 * BEGINNING, "{came} bytes, where {BEGINNING} would come without more credit");
}

/// The other way: the messages come back, as fast as they are sent.
#[tokio::test(start_paused = true)]
async fn a_long_way_is_filled_by_requests_too() {
    let (sender, _ways) = far().await;
    let requests = futures::stream::repeat_with(|| Ok(Bytes::from(vec![1; 10_000])));
    let requests = Some(ByteStream::new(requests));
    let mut answers = stream(&sender, "/t.Echo/Chat", None, requests).await.unwrap();
    let came = read(&mut answers).await;
    assert!(came > 2 * BEGINNING, "{came} bytes, where {BEGINNING} would come without more credit");
}

#[tokio::test(start_paused = true)]
async fn streams_that_were_read_and_are_not_any_more_leave_the_connection_to_others() {
    let (sender, _ways) = far().await;
    let mut unread = Vec::new();
    for _ in 0..20 {
        let mut answers = stream(&sender, "/t.Echo/Endless", Some(Bytes::new()), None).await.unwrap();
        read(&mut answers).await;
        unread.push(answers);
        // As much as it may comes, and stays.
        sleep(SECOND).await;
        let call = say(&sender, "/t.Echo/Big", Bytes::new());
        assert_eq!(within("another's answer", call).await.unwrap().len(), 200_000);
    }
    for mut answers in unread {
        // More than there can be.
        let mut came = 0;
        while came < 5 << 20 {
            came += within("what it has missed", answers.next()).await.unwrap().unwrap().len();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_have_ended_and_are_not_read_leave_the_connection_to_others() {
    let (sender, _ways) = far().await;
    // It learns how far the ends are.
    read(&mut stream(&sender, "/t.Echo/Endless", Some(Bytes::new()), None).await.unwrap()).await;
    let mut unread = Vec::new();
    for _ in 0..20 {
        // More than may be on its way, as long as nothing is read of it, but not by what was read before.
        let requests = futures::stream::iter((0..240).map(|_| Ok(Bytes::from(vec![1; 10_000]))));
        let mut answers =
            stream(&sender, "/t.Echo/Chat", None, Some(ByteStream::new(requests))).await.unwrap();
        let mut came = 0;
        while came < 300_000 {
            came += within("a message", answers.next()).await.unwrap().unwrap().len();
        }
        unread.push((answers, came));
        sleep(SECOND).await;
        let call = say(&sender, "/t.Echo/Big", Bytes::new());
        assert_eq!(within("another's answer", call).await.unwrap().len(), 200_000);
    }
    for (mut answers, mut came) in unread {
        while let Some(message) = within("what is left", answers.next()).await {
            came += message.unwrap().len();
        }
        assert_eq!(came, 2_400_000);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_says_much_beside_many_that_say_little_fills_a_long_way() {
    let (sender, _ways) = far().await;
    let mut talking = JoinSet::new();
    for _ in 0..9 {
        let little = futures::stream::unfold((), async |()| {
            sleep(ONE_WAY).await;
            Some((Ok(Bytes::from(vec![1; 1_000])), ()))
        });
        let requests = Some(ByteStream::new(little));
        let mut answers = stream(&sender, "/t.Echo/Chat", None, requests).await.unwrap();
        talking.spawn(async move { while answers.next().await.is_some() {} });
    }
    let mut answers = stream(&sender, "/t.Echo/Endless", Some(Bytes::new()), None).await.unwrap();
    let came = read(&mut answers).await;
    assert!(came > 3 * BEGINNING, "{came} bytes, where {BEGINNING} would come without more credit");
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_had_more_is_anothers_after_it() {
    let (sender, _ways) = far().await;
    let mut came = 0;
    for _ in 0..10 {
        let mut answers = stream(&sender, "/t.Echo/Endless", Some(Bytes::new()), None).await.unwrap();
        came = read(&mut answers).await;
    }
    assert!(came > 3 * BEGINNING, "{came} bytes, where {BEGINNING} would come without more credit");
}
