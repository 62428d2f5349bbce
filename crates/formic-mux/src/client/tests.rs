//! What a connection comes to only after so many calls that no test makes them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::codec::frame::response::{END, MESSAGE};
use crate::codec::{Type, write};
use crate::machine::Head;

async fn say(sender: &Sender) -> Result<Bytes, Failure> {
    let none = Metadata::new();
    let head = Head {
        path: "/t/Say",
        json: false,
        timeout: None,
        trace: None,
        attempt: None,
        metadata: none.as_headers(),
        skip: |_| false,
    };
    let answer = sender.call(|| head, Some(&Bytes::new()), || None, false).await?;
    Ok(answer.body.into_message().unwrap())
}

#[tokio::test]
async fn a_connection_whose_numbers_are_used_up_takes_no_more_calls_and_ends_the_last() {
    let (ours, mut theirs) = tokio::io::duplex(4096);
    let mut greeting = Vec::new();
    Limits::default().write(&mut greeting);
    theirs.write_all(&greeting).await.unwrap();
    let with = Connect {
        limits: Limits::default(),
        ping: Duration::from_secs(60),
        ping_timeout: Duration::from_secs(60),
        capture: None,
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    };
    let sender = connect(ours, "old".into(), &with).await.unwrap();
    theirs.read_exact(&mut greeting).await.unwrap();
    sender.0.link.lock().machine.skip_to((1 << 31) - 2);
    let others = async {
        let mut head = [0; 8];
        theirs.read_exact(&mut head).await.unwrap();
        assert_eq!(head[4..], ((1u32 << 31) - 1).to_be_bytes(), "the last number there is");
        // Another connection is what the next call needs, and the one before goes on.
        assert!(!sender.is_closed());
        assert!(matches!(say(&sender).await, Err(Failure::Closed)));
        assert!(sender.is_closed());
        let mut answer = Vec::new();
        write::frame(&mut answer, Type::Response, (1 << 31) - 1, |out| {
            out.push(MESSAGE | END);
            write::varint(out, 0);
            out.extend_from_slice(b"hi");
        });
        theirs.write_all(&answer).await.unwrap();
    };
    let both = futures::future::join(say(&sender), others);
    let (answer, ()) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    assert_eq!(answer.unwrap(), "hi");
}
