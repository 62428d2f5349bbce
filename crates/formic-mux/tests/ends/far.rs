//! Ends that are far from each other: a way that takes its time, and lets through what one can say.

use std::time::Duration;

use bytes::Bytes;
use formic_mux::Limits;
use formic_mux::client::connect;
use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::rig::*;

/// One way between towns.
const ONE_WAY: Duration = Duration::from_millis(10);

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

#[tokio::test(start_paused = true)]
async fn a_long_way_is_filled() {
    let (far, server, _) = served(&Default::default(), Limits::default());
    let (ours, near) = tokio::io::duplex(64 << 10);
    let (mut ways, (from_us, to_us), (from_them, to_them)) =
        (JoinSet::new(), tokio::io::split(near), tokio::io::split(far));
    ways.spawn(relay(from_us, to_them));
    ways.spawn(relay(from_them, to_us));
    let sender = connect(ours, "far".into(), &with()).await.unwrap();
    let mut answers = stream(&sender, "/t.Echo/Endless", Some(Bytes::new()), None).await.unwrap();
    let (end, mut came) = (Instant::now() + 100 * ONE_WAY, 0);
    while Instant::now() < end {
        came += within("a message", answers.next()).await.unwrap().unwrap().len();
    }
    // With the credit of the beginning it would be that, once there and back.
    let beginning = Limits::default().stream_credit as usize * 50;
    assert!(came > 3 * beginning, "{came} bytes, where {beginning} would come without more credit");
    drop((answers, sender));
    ways.shutdown().await;
    server.await.unwrap();
}
