//! Who is called in the storm: every answer is made of its whole request, and every call says in it what is to become of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use formic::bytes::{BufMut, Bytes, BytesMut};
use formic::core::{Kind, Method};
use formic::server::{Bound, Config, Running, Server, Serving};
use formic::telemetry::Metrics;
use formic::{Endpoint, Error};
use formic_rpc::{Answer, Body, BoxFuture, Call, Handle};

/// What is called.
pub const PATH: &str = "/storm.v1.Storm/Echo";

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
        (path == PATH).then(|| Method::new(PATH, Kind::Unary))
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.0));
        Box::pin(async move {
            let _open = open;
            let Body::Message(request) = call.body else {
                return Err(Error::invalid_argument("a stream"));
            };
            let head: &[u8; HEAD] =
                request.first_chunk().ok_or_else(|| Error::invalid_argument("a short request"))?;
            let wait = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
            if head[12] != 0 {
                std::future::pending::<()>().await;
            }
            if wait > 0 {
                formic::tokio::time::sleep(Duration::from_micros(wait.into())).await;
            }
            Ok(Answer::new(Body::Message(answer(&request))))
        })
    }
}
