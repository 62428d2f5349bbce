//! Who is called in the storm: every answer is made of its whole request, and every call says in it what is to become of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use formic::bytes::{BufMut, Bytes, BytesMut};
use formic::core::{Kind, Method};
use formic::server::{Bound, Config, Running, Server, Serving};
use formic::telemetry::Metrics;
use formic::{Endpoint, Error, futures};
use formic_rpc::{Answer, Body, BoxFuture, Call, Handle};
use futures::StreamExt as _;

/// What is called: one message each way, and the three that stream.
pub const ECHO: Method = Method::new("/storm.v1.Storm/Echo", Kind::Unary);
/// Answers all messages together.
pub const COLLECT: Method = Method::new("/storm.v1.Storm/Collect", Kind::ClientStream);
/// Answers one message with many.
pub const SPREAD: Method = Method::new("/storm.v1.Storm/Spread", Kind::ServerStream);
/// Answers each message with one.
pub const CHAT: Method = Method::new("/storm.v1.Storm/Chat", Kind::BidiStream);

/// A request of one message is spread over less than so many answers.
const MOST_ANSWERS: u64 = 17;

/// The number of the call, how long its handler waits, whether it never answers.
const HEAD: usize = 8 + 4 + 1;

/// A request of so many random bytes beside what it says.
#[must_use]
pub fn request(number: u64, wait_us: u32, hangs: bool, chance: &mut fastrand::Rng, length: usize) -> Bytes {
    let mut request = BytesMut::with_capacity(HEAD + length);
    request.put_u64(number);
    request.put_u32(wait_us);
    request.put_u8(hangs.into());
    request.put_bytes(0, length);
    chance.fill(&mut request[HEAD..]);
    request.freeze()
}

/// What belongs to a request.
#[must_use]
pub fn answer(request: &[u8]) -> Bytes {
    request.iter().rev().map(|byte| byte ^ 0x5a).collect()
}

/// What belongs to a request of several messages.
#[must_use]
pub fn answer_to_all(requests: &[Bytes]) -> Bytes {
    answer(&requests.concat())
}

/// What belongs to a request that is spread, one by one.
pub fn answers(request: &Bytes) -> impl Iterator<Item = Bytes> + Send + use<> {
    let number = request.first_chunk().map_or(0, |number| u64::from_be_bytes(*number));
    let whole = answer(request);
    (0..number % MOST_ANSWERS).map(move |n| [&whole[..], &n.to_be_bytes()].concat().into())
}

/// The handler, and how many calls are in it.
#[derive(Clone, Debug, Default)]
pub struct Storm(Arc<AtomicI64>);

impl Storm {
    /// Calls that are being answered now.
    #[must_use]
    pub fn open(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Serves it.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn serve(&self, at: &Endpoint) -> Result<(Running, Endpoint), String> {
        let bound = Bound::bind(at).await.map_err(|error| error.to_string())?;
        // No schema comes with it, so it is served as a proxy is, by paths.
        let server = Server::new(Config::default(), Metrics::new()).proxy(Arc::new(self.clone()));
        let mut running = server.build().map_err(|error| error.to_string())?;
        let endpoint = running.listen(bound);
        running.health().set(Serving::Ready);
        Ok((running, endpoint))
    }
}

struct Open(Arc<AtomicI64>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handle for Storm {
    fn method(&self, path: &str) -> Option<Method> {
        [ECHO, COLLECT, SPREAD, CHAT].into_iter().find(|method| method.path() == path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.0));
        Box::pin(async move {
            let mut requests = call.body.into_stream();
            let Some(first) = requests.next().await.transpose()? else {
                return Err(Error::invalid_argument("nothing came"));
            };
            let head: &[u8; HEAD] =
                first.first_chunk().ok_or_else(|| Error::invalid_argument("a short request"))?;
            let wait = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
            if head[12] != 0 {
                std::future::pending::<()>().await;
            }
            if wait > 0 {
                formic::tokio::time::sleep(Duration::from_micros(wait.into())).await;
            }
            Ok(Answer::new(match call.method.kind {
                Kind::Unary => Body::Message(answer(&first)),
                Kind::ClientStream => {
                    let mut all = vec![first];
                    while let Some(request) = requests.next().await {
                        all.push(request?);
                    }
                    Body::Message(answer_to_all(&all))
                }
                // It is open until its stream is dropped.
                Kind::ServerStream => {
                    let answers = answers(&first).inspect(move |_| {
                        let _until_the_end = &open;
                    });
                    Body::stream(futures::stream::iter(answers.map(Ok)))
                }
                Kind::BidiStream => {
                    let requests = futures::stream::once(std::future::ready(Ok(first))).chain(requests);
                    Body::stream(requests.map(move |request| {
                        let _until_the_end = &open;
                        request.map(|request| answer(&request))
                    }))
                }
            }))
        })
    }
}
